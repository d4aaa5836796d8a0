"""Spans written as bytes are what OpenTelemetry's own encoder makes of them."""

from __future__ import annotations

import string

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceState

from aiobs_core.export.wire import Encoder, request_of

TEXTS = st.text(st.characters(codec="utf-8"), max_size=80)
INTS = st.integers(-(2**63), 2**63 - 1)
SINGLE = TEXTS | INTS | st.booleans() | st.floats(allow_nan=False)
VALUES = SINGLE | st.one_of(st.lists(each).map(tuple) for each in (TEXTS, INTS, st.booleans()))
ATTRIBUTES = st.dictionaries(st.text(string.ascii_letters, min_size=1), VALUES, max_size=40)
TIMES = st.integers(0, 2**63 - 1)
IDS = st.integers(1, 2**64 - 1)
RESOURCES = [Resource({"service.name": "a"}, "https://example.org/1"), Resource({"service.name": "b"})]
SCOPES = [InstrumentationScope("x", "1", "https://example.org/2", {"k": 1}), InstrumentationScope("y"), None]
STATUSES = st.builds(Status, st.just(StatusCode.ERROR), TEXTS | st.none()) | st.sampled_from(
    [Status(), Status(StatusCode.OK)]
)


@st.composite
def spans(draw):
    trace_id = draw(st.integers(1, 2**128 - 1))
    state = draw(st.sampled_from([None, TraceState(), TraceState([("ot", "th:8"), ("x", "y")])]))
    parent = draw(st.none() | st.builds(SpanContext, st.just(trace_id), IDS, st.booleans()))
    return ReadableSpan(
        name=draw(TEXTS),
        context=SpanContext(trace_id, draw(IDS), is_remote=False, trace_state=state),
        parent=parent,
        resource=draw(st.sampled_from(RESOURCES)),
        attributes=draw(ATTRIBUTES),
        events=draw(st.lists(st.builds(Event, TEXTS, ATTRIBUTES, TIMES), max_size=1)),
        links=draw(
            st.lists(st.builds(Link, st.builds(SpanContext, IDS, IDS, st.booleans()), ATTRIBUTES), max_size=1)
        ),
        kind=draw(st.sampled_from(list(SpanKind))),
        status=draw(STATUSES),
        start_time=draw(TIMES),
        end_time=draw(TIMES),
        instrumentation_scope=draw(st.sampled_from(SCOPES)),
    )


def by_group(request):
    """The spans of each resource and scope, in order."""
    found = {}
    for group in request.resource_spans:
        for scope in group.scope_spans:
            key = (
                group.resource.SerializeToString(),
                group.schema_url,
                scope.scope.SerializeToString(),
                scope.schema_url,
            )
            found.setdefault(key, []).extend(scope.spans)
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(spans(), min_size=1, max_size=6))
def test_a_request_says_what_the_official_encoder_would_say(given_spans):
    encode = Encoder()
    encoded = [encode(span) for span in given_spans]
    heads = {each.group: each.head for each in encoded}
    request = ExportTraceServiceRequest.FromString(
        request_of([(each.group, each.body) for each in encoded], heads)
    )
    assert by_group(request) == by_group(encode_spans(given_spans))
    assert [each.key for each in encoded] == [
        span.context.trace_id.to_bytes(16, "big") + span.context.span_id.to_bytes(8, "big")
        for span in given_spans
    ]


def test_numbers_that_are_no_float_survive(make_span):
    encode = Encoder()
    (span,) = [
        make_span(attributes={"nan": float("nan"), "inf": float("inf"), "true": True, "one": 1, "1": 1.0})
    ]
    body = encode(span).body
    assert body == encode_spans([span]).resource_spans[0].scope_spans[0].spans[0].SerializeToString()


def test_half_a_surrogate_pair_costs_no_span(make_span, caplog):
    body = Encoder()(make_span(attributes={"broken": "\ud800", "whole": 1})).body
    assert b"whole" in body


def test_spans_whose_resource_is_lost_still_make_a_request(make_span):
    encoded = Encoder()(make_span())
    request = ExportTraceServiceRequest.FromString(request_of([(encoded.group, encoded.body)], {}))
    assert len(request.resource_spans[0].scope_spans[0].spans) == 1
