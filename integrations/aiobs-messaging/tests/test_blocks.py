"""Runs of producers and consumers: their tree, their request, their errors, their links."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, get_current_span

import aiobs_core
from aiobs_core import semconv
from aiobs_messaging import consuming, producing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def sent(system="redis", **options):
    headers = {}
    with producing("orders", headers, system=system, **options):
        pass
    return headers


def linked(span):
    return [(link["id"], link["attributes"]) for link in span["links"]]


def test_one_tree_from_the_answer_to_what_the_consumer_does(telemetry):
    headers = {}
    with (
        aiobs_core.span("answer"),
        producing("orders", headers, system="redis", message_id=17, attributes={"shop.size": 3}),
    ):
        pass
    with (
        consuming("orders", headers, system="redis", consumer_group="g"),
        aiobs_core.span("pack", kind="tool"),
    ):
        pass
    assert (
        telemetry.tree()
        == "invoke_workflow answer\n  send orders\n    process orders\n      execute_tool pack"
    )
    send, process = telemetry.by_name("send orders"), telemetry.by_name("process orders")
    expected = {
        semconv.MESSAGING_SYSTEM: "redis",
        semconv.MESSAGING_DESTINATION_NAME: "orders",
        semconv.MESSAGING_OPERATION_NAME: "send",
        semconv.MESSAGING_OPERATION_TYPE: "send",
        semconv.MESSAGING_MESSAGE_ID: "17",
        "shop.size": 3,
    }
    assert expected.items() <= send["attributes"].items()
    assert process["attributes"][semconv.MESSAGING_OPERATION_TYPE] == "process"
    assert process["attributes"][semconv.MESSAGING_CONSUMER_GROUP_NAME] == "g"


def test_what_the_consumer_runs_belongs_to_the_request_of_the_producer(telemetry):
    with aiobs_core.using_attributes(request_id="r-17", session_id="s-4"):
        headers = sent()
    with (
        aiobs_core.using_attributes(tags=["worker"]),
        consuming("orders", headers, system="redis"),
        aiobs_core.span("pack", kind="tool"),
    ):
        pass
    process, tool = telemetry.by_name("process orders"), telemetry.by_name("execute_tool pack")
    assert tool["attributes"][semconv.REQUEST_ID] == "r-17"
    assert tool["attributes"][semconv.SESSION_ID] == process["attributes"][semconv.SESSION_ID]
    assert "s-4" not in str(headers)  # it leaves as a hash
    assert tool["attributes"][semconv.TAGS] == ("worker",)


def test_who_asks_the_consumer_is_not_who_asked_the_producer(telemetry):
    with aiobs_core.using_attributes(request_id="r-17"):
        headers = sent()
    with (
        aiobs_core.using_attributes(request_id="ours", user_id="admin", session_id="s-9"),
        consuming("orders", headers, system="redis"),
        aiobs_core.span("pack", kind="tool"),
    ):
        pass
    tool = telemetry.by_name("execute_tool pack")
    assert tool["attributes"][semconv.REQUEST_ID] == "r-17"
    assert not {semconv.USER_ID, semconv.SESSION_ID} & tool["attributes"].keys()


def test_the_context_outside_is_as_it_was_before(telemetry):
    headers = sent()
    for _ in range(2):
        with consuming("orders", headers, system="redis"):
            pass
        assert not get_current_span().get_span_context().is_valid
    with aiobs_core.span("between") as between:
        assert between.parent is None


def test_a_message_without_headers_belongs_to_what_is_current(telemetry):
    with aiobs_core.span("poll"), consuming("orders", None, system="redis"):
        pass
    assert telemetry.tree() == "invoke_workflow poll\n  process orders"


@pytest.mark.parametrize("block", [producing, consuming])
def test_the_applications_error_passes_as_the_same_object(telemetry, block):
    error = KeyError("private")
    with pytest.raises(KeyError) as raised, block("orders", {}, system="redis"):
        raise error
    assert raised.value is error
    (span,) = telemetry.spans()
    assert (span["status"], span["attributes"][semconv.ERROR_TYPE]) == ("ERROR", "KeyError")
    assert "private" not in str(span)


async def test_tasks_that_consume_side_by_side_do_not_mix(telemetry):
    headers = [sent() for _ in range(3)]

    async def work(each):
        with consuming("orders", each, system="redis"):
            await asyncio.sleep(0)
            with aiobs_core.span("pack", kind="tool"):
                await asyncio.sleep(0)

    await asyncio.gather(*map(work, headers))
    spans = telemetry.spans()
    assert telemetry.tree() == "\n".join(["send orders\n  process orders\n    execute_tool pack"] * 3)
    assert len({span["trace"] for span in spans}) == 3


def test_suppressed_and_off_record_nothing_and_pass_the_trace_on(telemetry):
    with aiobs_core.suppressed(), consuming("orders", {"traceparent": PARENT}, system="redis"):
        onward = {}
        with producing("parcels", onward, system="redis"):
            pass
    assert onward["traceparent"][:35] == PARENT[:35]
    assert telemetry.spans() == []


@pytest.mark.parametrize("name", ["amq.gen-JzTY20BRgKO-HjmUJj0wLg", "_INBOX.a1b2c3"])
def test_a_name_that_the_broker_made_up_is_in_no_span_name(telemetry, name):
    with producing(name, system="rabbitmq"):
        pass
    (span,) = telemetry.spans()
    assert span["name"] == "send (anonymous)"
    assert span["attributes"][semconv.MESSAGING_DESTINATION_ANONYMOUS] is True


# --- batches --------------------------------------------------------------------------------------------------------


def test_a_batch_links_to_each_run_that_sent_a_message_of_it(telemetry):
    headers = [sent(), sent(), {}, {"traceparent": 5}]
    with consuming("orders", batch=[*headers, headers[0]], system="redis"):
        pass
    first, second, process = telemetry.spans()
    assert process["parent"] is None
    assert process["attributes"][semconv.MESSAGING_BATCH_MESSAGE_COUNT] == 5
    reason = {semconv.LINK_REASON: "batch"}
    assert linked(process) == [(first["id"], reason), (second["id"], reason)]


def test_a_huge_batch_has_128_links_and_says_so_once(telemetry):
    batch = [{"traceparent": f"00-{number + 1:032x}-{number + 1:016x}-01"} for number in range(500)]
    with consuming("orders", batch=batch, system="redis"):
        pass
    (process,) = telemetry.spans()
    assert len(process["links"]) == 128
    assert process["attributes"][semconv.MESSAGING_BATCH_MESSAGE_COUNT] == 500
    assert "128" in telemetry.warnings[0]
    telemetry.forgive_warnings()


def test_each_message_of_a_batch_can_be_worked_on_in_its_own_trace(telemetry):
    headers = [sent(), sent()]
    with consuming("orders", batch=headers, system="redis"):
        for each in headers:
            with consuming("orders", each, system="redis"):
                pass
    assert telemetry.tree() == "send orders\n  process orders\nsend orders\n  process orders\nprocess orders"


def test_headers_and_a_batch_together_are_refused():
    with pytest.raises(ValueError, match="got both"):
        consuming("orders", {}, batch=[{}], system="redis")


# --- attempts -------------------------------------------------------------------------------------------------------


def test_a_delayed_retry_links_to_the_first_attempt(telemetry):
    """Whichever process makes it: the message says it."""
    headers = sent()
    for attempt in range(3):
        with pytest.raises(TimeoutError), consuming("orders", headers, system="kafka"):
            headers = dict(headers)
            with producing("orders.later", headers, system="kafka", retry=True):
                pass
            raise TimeoutError(attempt)
    first, second, third = (span for span in telemetry.spans() if span["name"] == "process orders")
    assert (first["links"], first["attributes"].get(semconv.RETRY_ATTEMPT)) == ([], None)
    for number, span in ((2, second), (3, third)):
        assert span["attributes"][semconv.RETRY_ATTEMPT] == number
        assert linked(span) == [(first["id"], {semconv.LINK_REASON: "retry"})]
    assert {span["trace"] for span in telemetry.spans()} == {1}


def test_what_a_retry_sends_elsewhere_is_no_retry(telemetry):
    with consuming("orders", sent(), system="nats"):
        again = {}
        with producing("orders", again, system="nats", retry=True):
            pass
    with consuming("orders", again, system="nats"):
        onward = dict(again)  # an application that hands all headers on
        with producing("parcels", onward, system="nats"):
            pass
    assert semconv.RETRY_HEADER in again
    assert semconv.RETRY_HEADER not in onward


@pytest.mark.parametrize("message_id", [None, "m-1"])
def test_a_redelivery_links_to_the_first_attempt_that_this_process_has_seen(telemetry, message_id):
    headers = sent(system="rabbitmq")
    for attempt in (1, 2):
        with consuming("orders", headers, system="rabbitmq", attempt=attempt, message_id=message_id):
            pass
    _, first, second = telemetry.spans()
    assert linked(second) == [(first["id"], {semconv.LINK_REASON: "retry"})]
    assert second["attributes"][semconv.RETRY_ATTEMPT] == 2


def test_a_redelivery_of_a_message_that_another_process_had_has_a_number_and_no_link(telemetry):
    with consuming("orders", {"traceparent": PARENT}, system="aws_sqs", attempt=4, message_id="unseen"):
        pass
    (process,) = telemetry.spans()
    assert (process["attributes"][semconv.RETRY_ATTEMPT], process["links"]) == (4, [])


def test_of_the_first_attempts_the_latest_are_remembered(telemetry):
    headers = sent()
    for number in range(5_000):
        with consuming("orders", headers, system="redis", message_id=f"bounded-{number}"):
            pass
    for number in (0, 4_999):
        with consuming("orders", headers, system="redis", message_id=f"bounded-{number}", attempt=2):
            pass
    old, new = (span for span in telemetry.spans() if semconv.RETRY_ATTEMPT in span["attributes"])
    assert (len(old["links"]), len(new["links"])) == (0, 1)


# --- beside other instrumentations ------------------------------------------------------------------------------------


def test_their_span_of_the_message_stays_the_only_one_and_gets_the_request(telemetry):
    with aiobs_core.using_attributes(request_id="r-17"):
        headers = sent()
    tracer = trace.get_tracer("contrib")
    came = propagate.extract(headers)
    with (
        tracer.start_as_current_span(
            "orders process", context=came, kind=SpanKind.CONSUMER, attributes={"messaging.system": "redis"}
        ),
        consuming("orders", headers, system="redis"),
        aiobs_core.span("pack", kind="tool"),
    ):
        pass
    assert telemetry.tree() == "send orders\n  orders process\n    execute_tool pack"
    assert telemetry.by_name("execute_tool pack")["attributes"][semconv.REQUEST_ID] == "r-17"


def test_their_span_of_a_later_attempt_links_to_the_first(telemetry):
    tracer = trace.get_tracer("contrib")
    headers = sent()
    for _ in range(2):
        with (
            tracer.start_as_current_span(
                "orders process", context=propagate.extract(headers), kind=SpanKind.CONSUMER
            ),
            consuming("orders", headers, system="redis"),
            producing("orders.later", headers, system="redis", retry=True),
        ):
            pass
    first, second = (span for span in telemetry.spans() if span["name"] == "orders process")
    assert second["links"] == [{"id": first["id"], "attributes": {semconv.LINK_REASON: "retry"}}]
    assert second["attributes"][semconv.RETRY_ATTEMPT] == 2


def test_their_span_of_a_message_of_another_broker_is_none_of_ours(telemetry):
    tracer = trace.get_tracer("contrib")
    with (
        tracer.start_as_current_span(
            "jobs process", kind=SpanKind.CONSUMER, attributes={"messaging.system": "kafka"}
        ),
        consuming("orders", {}, system="redis"),
    ):
        pass
    assert telemetry.tree() == "jobs process\n  process orders"
