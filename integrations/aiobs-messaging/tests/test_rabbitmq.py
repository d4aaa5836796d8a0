"""RabbitMQ, the real one, by pika and aio-pika: `pytest -m rabbitmq`."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

import aiobs_core
from aiobs_core import semconv
from aiobs_messaging import consuming, producing

NUMBERS = count(1)
pytestmark = [pytest.mark.rabbitmq, pytest.mark.needs("pika")]


@pytest.fixture
def channel(rabbitmq_server):
    import pika

    connection = pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", rabbitmq_server.port))
    yield connection.channel()
    connection.close()


@pytest.fixture
def queue(channel):
    name = f"orders-{next(NUMBERS)}"
    channel.queue_declare(name)
    return name


def send(channel, queue, *, properties=None, **options):
    import pika

    properties = properties or pika.BasicProperties()
    with producing(queue, properties, system="rabbitmq", **options):
        channel.basic_publish("", queue, b"17", properties)


def test_one_tree_and_one_request(telemetry, channel, queue):
    with aiobs_core.using_attributes(request_id="r-17"), aiobs_core.span("answer"):
        send(channel, queue)

    def work(channel, method, properties, body):
        with consuming(queue, properties, system="rabbitmq"), aiobs_core.span("pack", kind="tool"):
            channel.basic_ack(method.delivery_tag)
        channel.stop_consuming()

    channel.basic_consume(queue, work)
    channel.start_consuming()
    assert telemetry.tree() == (
        f"invoke_workflow answer\n  send {queue}\n    process {queue}\n      execute_tool pack"
    )
    assert telemetry.by_name("execute_tool pack")["attributes"][semconv.REQUEST_ID] == "r-17"


def test_a_message_that_is_put_back_links_to_the_first_attempt(telemetry, channel, queue):
    send(channel, queue)
    for _ in range(2):
        method, properties, _ = channel.basic_get(queue)
        with consuming(queue, properties, system="rabbitmq", attempt=1 + method.redelivered):
            if method.redelivered:
                channel.basic_ack(method.delivery_tag)
            else:
                channel.basic_nack(method.delivery_tag)
    _, first, second = telemetry.spans()
    assert second["links"] == [{"id": first["id"], "attributes": {semconv.LINK_REASON: "retry"}}]
    assert second["attributes"][semconv.RETRY_ATTEMPT] == 2


def test_a_message_that_waits_in_a_queue_of_retries_links_to_the_first_attempt(telemetry, channel, queue):
    """The queue has no consumer: after its time to live the broker puts the message back to where it came from."""
    later = f"{queue}.later"
    arguments = {"x-message-ttl": 20, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
    channel.queue_declare(later, arguments=arguments)
    send(channel, queue)
    _, properties, _ = channel.basic_get(queue, auto_ack=True)
    with pytest.raises(TimeoutError), consuming(queue, properties, system="rabbitmq"):
        send(channel, later, properties=properties, retry=True)
        raise TimeoutError
    method = None
    while method is None:
        method, properties, _ = channel.basic_get(queue, auto_ack=True)
    assert properties.headers["x-death"]
    with consuming(queue, properties, system="rabbitmq"):
        pass
    _, first, resent, second = telemetry.spans()
    assert (first["status"], second["parent"]) == ("ERROR", resent["id"])
    assert second["links"] == [{"id": first["id"], "attributes": {semconv.LINK_REASON: "retry"}}]


def test_poison_headers_are_worked_on_in_a_trace_of_their_own(telemetry, channel, queue):
    import pika

    table = {"traceparent": b"\xff\xfe", "baggage": {"a": [1, None]}, "tracestate": 17, "aiobs-retry": True}
    channel.basic_publish("", queue, b"17", pika.BasicProperties(headers=table))
    channel.basic_publish("", queue, b"17")
    for _ in range(2):
        _, properties, _ = channel.basic_get(queue, auto_ack=True)
        with consuming(queue, properties, system="rabbitmq"):
            pass
    assert [(span["parent"], span["status"]) for span in telemetry.spans()] == [(None, "UNSET")] * 2


@pytest.mark.needs("aio-pika")
async def test_one_tree_by_aio_pika(telemetry, rabbitmq_server, queue):
    import aio_pika

    connection = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{rabbitmq_server.port}/")
    async with connection:
        channel = await connection.channel()
        message = aio_pika.Message(b"17")
        with aiobs_core.span("answer"), producing(queue, message, system="rabbitmq"):
            await channel.default_exchange.publish(message, queue)
        declared = await channel.get_queue(queue)
        got = await declared.get(timeout=10)
        async with got.process():
            with consuming(queue, got, system="rabbitmq"), aiobs_core.span("pack", kind="tool"):
                pass
    assert telemetry.tree() == (
        f"invoke_workflow answer\n  send {queue}\n    process {queue}\n      execute_tool pack"
    )


@pytest.mark.needs("opentelemetry-instrumentation-pika")
def test_beside_the_instrumentation_of_pika_there_is_no_second_span(telemetry, channel, queue):
    from opentelemetry.instrumentation.pika import PikaInstrumentor

    instrumentor = PikaInstrumentor()
    instrumentor.instrument()
    instrumentor.instrument_channel(channel)
    try:
        with aiobs_core.using_attributes(request_id="r-17"), aiobs_core.span("answer"):
            send(channel, queue)

        def work(channel, method, properties, body):
            with consuming(queue, properties, system="rabbitmq"), aiobs_core.span("pack", kind="tool"):
                channel.basic_ack(method.delivery_tag)
            channel.stop_consuming()

        channel.basic_consume(queue, work)
        channel.start_consuming()
    finally:
        instrumentor.uninstrument_channel(channel)
        instrumentor.uninstrument()
    assert telemetry.tree() == (
        f"invoke_workflow answer\n  {queue} send\n    {queue} receive\n      execute_tool pack"
    )
    assert telemetry.by_name("execute_tool pack")["attributes"][semconv.REQUEST_ID] == "r-17"


@pytest.mark.needs("aio-pika", "opentelemetry-instrumentation-aio-pika")
async def test_beside_the_instrumentation_of_aio_pika_there_is_no_second_span(
    telemetry, rabbitmq_server, queue
):
    import aio_pika
    from opentelemetry.instrumentation.aio_pika import AioPikaInstrumentor

    done = asyncio.Event()

    async def work(message):
        async with message.process():
            with consuming(queue, message, system="rabbitmq"), aiobs_core.span("pack", kind="tool"):
                done.set()

    AioPikaInstrumentor().instrument()
    try:
        connection = await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{rabbitmq_server.port}/")
        async with connection:
            channel = await connection.channel()
            await (await channel.get_queue(queue)).consume(work)
            message = aio_pika.Message(b"17")
            with (
                aiobs_core.using_attributes(request_id="r-17"),
                aiobs_core.span("answer"),
                producing(queue, message, system="rabbitmq"),
            ):
                await channel.default_exchange.publish(message, queue)
            await asyncio.wait_for(done.wait(), 10)
    finally:
        AioPikaInstrumentor().uninstrument()
    assert telemetry.tree().replace(",", "") == (
        f"invoke_workflow answer\n  {queue} send\n    {queue} receive\n      execute_tool pack"
    )
    assert telemetry.by_name("execute_tool pack")["attributes"][semconv.REQUEST_ID] == "r-17"
