"""Kafka's protocol, with a real broker (Tansu), by confluent-kafka and aiokafka."""

from __future__ import annotations

import threading
import time
from itertools import count

import pytest

import aiobs_core
from aiobs_core import semconv
from aiobs_messaging import consuming, producing

NUMBERS = count(1)
confluent = pytest.mark.needs("confluent-kafka")
aiokafka = pytest.mark.needs("aiokafka")


@pytest.fixture
def topic(kafka_broker):
    name = f"orders-{next(NUMBERS)}"
    kafka_broker.create_topic(name)
    return name


@pytest.fixture
def servers(kafka_broker):
    return f"127.0.0.1:{kafka_broker.port}"


def send(producer, topic, *, headers=None, **options):
    headers = [] if headers is None else headers
    with producing(topic, headers, system="kafka", **options):
        producer.produce(topic, b"17", headers=headers)
        assert producer.flush(10) == 0
    return headers


def received(consumer, how_many):
    messages = []
    deadline_s = time.monotonic() + 20
    while len(messages) < how_many:
        assert time.monotonic() < deadline_s, f"{len(messages)} of {how_many} messages came"
        message = consumer.poll(1.0)
        if message is not None:
            assert message.error() is None
            messages.append(message)
    return messages


@pytest.fixture
def producer(servers):
    import confluent_kafka

    return confluent_kafka.Producer({"bootstrap.servers": servers})


@pytest.fixture
def consumer(servers, topic):
    import confluent_kafka

    made = confluent_kafka.Consumer(
        {"bootstrap.servers": servers, "group.id": "g", "enable.auto.commit": False}
    )
    made.assign([confluent_kafka.TopicPartition(topic, 0, 0)])  # joining a group takes librdkafka 23 s here
    yield made
    made.close()


@confluent
def test_one_tree_from_thread_to_thread(telemetry, producer, consumer, topic):
    def work():
        (message,) = received(consumer, 1)
        with (
            consuming(topic, message, system="kafka", consumer_group="g"),
            aiobs_core.span("pack", kind="tool"),
        ):
            pass

    with aiobs_core.using_attributes(request_id="r-17"), aiobs_core.span("answer"):
        send(producer, topic)
    worker = threading.Thread(target=work)
    worker.start()
    worker.join(30)
    assert telemetry.tree() == (
        f"invoke_workflow answer\n  send {topic}\n    process {topic}\n      execute_tool pack"
    )
    assert telemetry.by_name("execute_tool pack")["attributes"][semconv.REQUEST_ID] == "r-17"


@confluent
def test_a_batch_links_to_its_producers(telemetry, producer, consumer, topic):
    for _ in range(2):
        send(producer, topic)
    producer.produce(topic, b"without headers")
    producer.produce(topic, b"poison", headers=[("traceparent", b"\xff\xfe"), ("baggage", None)])
    producer.flush(10)
    batch = received(consumer, 4)
    with consuming(topic, batch=batch, system="kafka"):
        pass
    first, second, process = telemetry.spans()
    assert [link["id"] for link in process["links"]] == [first["id"], second["id"]]


@confluent
def test_a_message_that_is_sent_again_later_links_to_the_first_attempt(telemetry, producer, consumer, topic):
    """As applications do it: the headers that came go along, and those of the first sending with them."""
    send(producer, topic)
    (message,) = received(consumer, 1)
    with pytest.raises(TimeoutError), consuming(topic, message, system="kafka"):
        send(producer, topic, headers=message.headers(), retry=True)
        raise TimeoutError
    (again,) = received(consumer, 1)
    with consuming(topic, again, system="kafka"):
        pass
    _, first, resent, second = telemetry.spans()
    assert [name for name, _ in again.headers()].count("traceparent") == 1
    assert (resent["parent"], second["parent"]) == (first["id"], resent["id"])
    assert second["links"] == [{"id": first["id"], "attributes": {semconv.LINK_REASON: "retry"}}]
    assert second["attributes"][semconv.RETRY_ATTEMPT] == 2


@aiokafka
async def test_one_tree_by_aiokafka(telemetry, servers, topic):
    import aiokafka

    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=servers)
    await producer.start()
    headers = [("id", b"17")]
    with aiobs_core.span("answer"), producing(topic, headers, system="kafka"):
        await producer.send_and_wait(topic, b"17", headers=headers)
    await producer.send_and_wait(topic, b"18")
    await producer.stop()
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
    consumer.assign([aiokafka.TopicPartition(topic, 0)])
    await consumer.start()
    for _ in range(2):
        message = await consumer.getone()
        with consuming(topic, message, system="kafka"), aiobs_core.span("pack", kind="tool"):
            pass
    await consumer.stop()
    assert telemetry.tree() == (
        f"invoke_workflow answer\n  send {topic}\n    process {topic}\n      execute_tool pack\n"
        f"process {topic}\n  execute_tool pack"
    )


@confluent
@pytest.mark.needs("opentelemetry-instrumentation-confluent-kafka")
def test_beside_the_instrumentation_of_confluent_kafka_there_is_no_second_span(telemetry, servers, topic):
    import confluent_kafka
    from opentelemetry.instrumentation.confluent_kafka import ConfluentKafkaInstrumentor

    instrumentor = ConfluentKafkaInstrumentor()
    producer = instrumentor.instrument_producer(confluent_kafka.Producer({"bootstrap.servers": servers}))
    plain = confluent_kafka.Consumer({"bootstrap.servers": servers, "group.id": "g"})
    plain.assign([confluent_kafka.TopicPartition(topic, 0, 0)])
    consumer = instrumentor.instrument_consumer(plain)
    instrumentor.instrument()
    try:
        with aiobs_core.using_attributes(request_id="r-17"), aiobs_core.span("answer"):
            headers = [("traceparent", b"00-11111111111111111111111111111111-2222222222222222-01")]
            with producing(topic, headers, system="kafka"):
                producer.produce(topic, b"17", headers=headers)
            producer.flush(10)
        (message,) = received(consumer, 1)
        with consuming(topic, message, system="kafka"), aiobs_core.span("pack", kind="tool"):
            pass
        consumer.close()
    finally:
        instrumentor.uninstrument()
    names = telemetry.tree().splitlines()
    assert names == [
        "invoke_workflow answer",
        f"  {topic} send",
        "recv",
        f"  {topic} process",
        "    execute_tool pack",
    ]
    sent, process = telemetry.by_name(f"{topic} send"), telemetry.by_name(f"{topic} process")
    assert [link["id"] for link in process["links"]] == [sent["id"]]
    assert telemetry.by_name("execute_tool pack")["attributes"][semconv.REQUEST_ID] == "r-17"


@pytest.mark.needs("aiokafka", "opentelemetry-instrumentation-aiokafka")
async def test_beside_the_instrumentation_of_aiokafka_their_span_sends_and_ours_works(
    telemetry, servers, topic
):
    """Their span of the consumer is over before the application has the message."""
    import aiokafka
    from opentelemetry.instrumentation.aiokafka import AIOKafkaInstrumentor

    AIOKafkaInstrumentor().instrument()
    try:
        producer = aiokafka.AIOKafkaProducer(bootstrap_servers=servers)
        await producer.start()
        headers = []
        with (
            aiobs_core.using_attributes(request_id="r-17"),
            aiobs_core.span("answer"),
            producing(topic, headers, system="kafka"),
        ):
            await producer.send_and_wait(topic, b"17", headers=headers)
        await producer.stop()
        consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=servers, auto_offset_reset="earliest")
        consumer.assign([aiokafka.TopicPartition(topic, 0)])
        await consumer.start()
        message = await consumer.getone()
        with consuming(topic, message, system="kafka"), aiobs_core.span("pack", kind="tool"):
            pass
        await consumer.stop()
    finally:
        AIOKafkaInstrumentor().uninstrument()
    assert telemetry.tree() == (
        f"invoke_workflow answer\n  {topic} send\n    {topic} receive\n    process {topic}\n      execute_tool pack"
    )
    assert telemetry.by_name("execute_tool pack")["attributes"][semconv.REQUEST_ID] == "r-17"
