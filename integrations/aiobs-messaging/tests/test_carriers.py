"""Headers in every shape: context goes in and comes out, and nothing that a message says can hurt."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.baggage import set_baggage
from opentelemetry.context import attach
from opentelemetry.trace import get_current_span

import aiobs_core
from aiobs_messaging import consuming, inject_headers, producing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OTHER = "00-11111111111111111111111111111111-2222222222222222-01"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C


def trace_of(headers, system="redis"):
    with consuming("orders", headers, system=system):
        return get_current_span().get_span_context().trace_id


def sent(headers, system="redis", **options):
    with producing("orders", headers, system=system, **options):
        return get_current_span().get_span_context().trace_id


CARRIERS = {
    "a dict": (dict, "redis"),
    "a dict with entries": (lambda: {"id": "17"}, "redis"),
    "fields of bytes": (lambda: {b"id": b"17"}, "redis"),
    "a dict of bytes": (lambda: {"id": b"17"}, "kafka"),
    "a list of pairs": (list, "kafka"),
    "pairs that are there": (lambda: [("id", b"17")], "kafka"),
    "SQS attributes": (dict, "aws_sqs"),
    "properties without headers": (lambda: SimpleNamespace(headers=None), "rabbitmq"),
    "a message with headers": (lambda: SimpleNamespace(headers={"id": "17"}), "nats"),
    "headers of an earlier message": (lambda: {"Traceparent": OTHER, b"tracestate": b"a=b"}, "nats"),
    "pairs of an earlier message": (lambda: [("traceparent", OTHER.encode()), ("id", b"1")], "kafka"),
}


@pytest.mark.parametrize("name", CARRIERS)
def test_context_goes_through_each_carrier(telemetry, name):
    make, system = CARRIERS[name]
    headers = make()
    assert sent(headers, system) == trace_of(headers, system)
    send, process = telemetry.spans()
    assert (send["name"], send["kind"], process["name"], process["kind"]) == (
        "send orders",
        "PRODUCER",
        "process orders",
        "CONSUMER",
    )
    assert process["parent"] == send["id"]


def test_forms_on_the_wire(telemetry):
    sqs, pairs, fields = {"id": {"DataType": "String", "StringValue": "17"}}, [("id", b"17")], {b"id": b"17"}
    sent(sqs, "aws_sqs")
    sent(pairs, "kafka")
    sent(fields)
    assert sqs["traceparent"]["DataType"] == "String"
    assert sqs["traceparent"]["StringValue"].startswith("00-")
    assert [name for name, _ in pairs] == ["id", "traceparent", "baggage"]
    assert {type(value) for _, value in pairs} == {bytes}
    assert {type(each) for pair in fields.items() for each in pair} == {bytes}


@pytest.mark.parametrize(
    "message",
    [
        {"Body": "x", "MessageAttributes": {"traceparent": {"StringValue": PARENT, "DataType": "String"}}},
        {"body": "x", "messageAttributes": {"traceparent": {"stringValue": PARENT, "dataType": "String"}}},
        {"MessageAttributes": {"traceparent": {"Type": "String", "Value": PARENT}}},
        {"traceparent": {"DataType": "Binary", "BinaryValue": PARENT.encode()}},
        {"traceparent": memoryview(PARENT.encode())},
        {"TRACEPARENT": [PARENT]},
        {b"traceparent": PARENT},
        (("traceparent", bytearray(PARENT.encode())),),
        [("traceparent", OTHER), ("x", None), ("traceparent", PARENT.encode())],
        SimpleNamespace(headers=lambda: [("traceparent", PARENT.encode())]),
    ],
    ids=["SQS", "Lambda", "SNS", "binary", "view", "list", "bytes", "pairs", "the last counts", "method"],
)
def test_received_shapes_are_read(telemetry, message):
    assert trace_of(message) == TRACE_ID


class _Poison:
    @property
    def headers(self):
        raise RuntimeError("no such luck")

    def __str__(self):
        raise RuntimeError("nor here")


@pytest.mark.parametrize(
    "message",
    [
        None,
        5,
        "traceparent",
        b"\xff\x00",
        object(),
        _Poison(),
        [_Poison()],
        [1, ("a",), ("a", "b", "c"), None],
        {_Poison(): "x", 5: PARENT},
        {"traceparent": _Poison()},
        {"traceparent": 17},
        {"traceparent": b"\xff\xfe"},
        {"traceparent": "0" * 1_000_000},
        {"traceparent": PARENT + "\r\nx: y"},
        {"baggage": "x" * 1_000_000, "tracestate": b"\x00" * 10_000},
        {"aiobs-retry": b"\xff" * 100_000},
        {"aiobs-retry": f"00-{'0' * 32}-{'0' * 16}-00;99999999999999999999"},
        {"MessageAttributes": {"traceparent": "text"}},
        {"MessageAttributes": 5},
    ],
    ids=range(19),
)
def test_poison_messages_are_worked_on_in_a_trace_of_their_own(telemetry, message):
    with consuming("orders", message, system="kafka", attempt=2):
        pass
    (process,) = telemetry.spans()
    assert (process["parent"], process["status"], process["links"]) == (None, "UNSET", [])


@given(
    message=st.recursive(
        st.none() | st.integers() | st.text() | st.binary(),
        lambda inner: (
            st.lists(
                st.tuples(
                    st.sampled_from(["traceparent", "baggage", b"tracestate", "aiobs-retry"]) | inner, inner
                )
            )
            | st.dictionaries(st.text() | st.sampled_from(["traceparent", "aiobs-retry"]), inner)
        ),
        max_leaves=10,
    )
)
def test_no_message_raises(message):
    with aiobs_core.suppressed(), consuming("orders", message, system="kafka"):
        pass


@pytest.mark.parametrize(
    "headers",
    [(("id", b"17"),), 5, "text", SimpleNamespace(), SimpleNamespace(headers=()), _Poison()],
    ids=["tuple", "int", "text", "no headers", "a tuple inside", "poison"],
)
def test_headers_that_cannot_be_written_are_said_once_and_the_block_runs(telemetry, headers):
    sent(headers, "kafka")
    sent(headers, "kafka")
    (warning,) = telemetry.warnings
    assert "headers" in warning
    telemetry.forgive_warnings()
    assert len(telemetry.spans()) == 2


def test_a_full_sqs_message_goes_without_what_has_no_room(telemetry):
    value = {"DataType": "String", "StringValue": "x"}
    headers = {f"a{number}": value for number in range(9)}
    with aiobs_core.using_attributes(request_id="r-1"):
        trace = sent(headers, "aws_sqs")
    assert len(headers) == 10
    assert trace_of(headers, "aws_sqs") == trace
    assert any("SQS" in warning for warning in telemetry.warnings)
    telemetry.forgive_warnings()


def test_headers_are_injected_without_a_run(telemetry):
    assert inject_headers({}) == {}
    with aiobs_core.span("answer"):
        trace_id = get_current_span().get_span_context().trace_id
        pairs = inject_headers([("id", b"1")])
        attributes = inject_headers({}, system="aws_sqs")
    assert trace_of(pairs) == trace_of(attributes, "aws_sqs") == trace_id


def test_outside_of_any_trace_headers_keep_what_they_say(telemetry):
    assert inject_headers({"traceparent": PARENT}) == {"traceparent": PARENT}


def test_baggage_of_another_request_is_not_handed_to_a_message_without_any(telemetry):
    attach(set_baggage(aiobs_core.semconv.REQUEST_ID, "r-other"))
    with consuming("orders", {"traceparent": PARENT}, system="nats"):
        pass
    assert aiobs_core.semconv.REQUEST_ID not in telemetry.spans()[0]["attributes"] or (
        telemetry.spans()[0]["attributes"][aiobs_core.semconv.REQUEST_ID] != "r-other"
    )
