from __future__ import annotations

import base64
import json
import math

import pytest
from google.protobuf import json_format
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans as encode_officially
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, TraceFlags, TraceState

from aiobs_core.store.otlp_json import OtlpJsonError, decode_line, encode_line, encode_spans

VALUES = {
    "text": "grüezi 🐘\x1b\n",
    "empty": "",
    "yes": True,
    "no": False,
    "zero": 0,
    "int": -(2**63),
    "float": 1.5,
    "whole": 2.0,
    "nan": math.nan,
    "plus": math.inf,
    "minus": -math.inf,
    "texts": ("a", "b"),
    "bools": (True, False),
    "ints": (1, 2),
    "floats": (1.0, math.nan),
    "none": (),
}


def with_hexadecimal_ids(value):
    if isinstance(value, list):
        return [with_hexadecimal_ids(item) for item in value]
    if isinstance(value, dict):
        return {
            key: base64.b64decode(item).hex()
            if key in ("traceId", "spanId", "parentSpanId")
            else with_hexadecimal_ids(item)
            for key, item in value.items()
        }
    return value


def officially(spans):
    message = json_format.MessageToDict(encode_officially(spans), use_integers_for_enums=True)
    return with_hexadecimal_ids(message)


def comparable(value):
    """NaN by name: proto JSON writes the name, a dict comparison needs something equal to itself."""
    return json.loads(json.dumps(value))


@pytest.fixture
def spans(make_span):
    state = TraceState([("vendor", "x"), ("other", "y")])
    root = make_span("root", VALUES, state=state)
    return [
        root,
        make_span(
            "child", parent=root, error="it broke", events=[Event("e", VALUES, 17), Event("", None, 18)]
        ),
        make_span(
            "served", parent=root, remote=True, links=[Link(SpanContext(1, 2, True), {"why": "resume"})]
        ),
        ReadableSpan(
            "elsewhere",
            context=SpanContext(3, 4, False, TraceFlags(1)),
            resource=Resource({}),
            instrumentation_scope=InstrumentationScope("other", None, "https://example.org/scope"),
            start_time=1,
            end_time=2,
        ),
        ReadableSpan(
            "bare", context=SpanContext(3, 5, False), resource=Resource({}), start_time=1, end_time=2
        ),
    ]


def test_agrees_with_the_official_protobuf_encoder(spans):
    assert comparable(encode_spans(spans)) == comparable(officially(spans))


def test_a_line_comes_back_as_the_same_spans(spans):
    again = decode_line(encode_line(spans))
    by_id = {span.context.span_id: span for span in again}
    assert len(again) == len(spans)
    for span in spans:
        other = by_id[span.context.span_id]
        assert repr(dict(other.attributes)) == repr(dict(span.attributes))  # repr: NaN differs from itself
        assert (other.name, other.kind, other.start_time, other.end_time) == (
            span.name,
            span.kind,
            span.start_time,
            span.end_time,
        )
        assert other.context[:3] == span.context[:3]
        assert other.context.trace_state == span.context.trace_state
        assert (other.parent and other.parent[:3]) == (span.parent and span.parent[:3])
        assert (other.status.status_code, other.status.description) == (
            span.status.status_code,
            span.status.description,
        )
        assert [(e.name, e.timestamp, repr(dict(e.attributes or {}))) for e in other.events] == [
            (e.name, e.timestamp, repr(dict(e.attributes or {}))) for e in span.events
        ]
        assert [(link.context[:3], dict(link.attributes)) for link in other.links] == [
            (link.context[:3], dict(link.attributes)) for link in span.links
        ]
        assert other.resource == span.resource
        assert other.instrumentation_scope == span.instrumentation_scope


def test_values_beyond_the_four_types_come_back(make_span):
    values = {"bytes": b"\x00\xff", "map": {"a": (1, {"b": None})}, "nothing": None}
    assert dict(decode_line(encode_line([make_span("s", values)]))[0].attributes) == values


def test_an_integer_beyond_64_bits_is_kept_as_text(make_span):
    assert decode_line(encode_line([make_span("s", {"n": 2**70})]))[0].attributes["n"] == str(2**70)


def test_a_line_is_one_line_of_strict_json(spans):
    line = encode_line(spans)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")

    def refuse(name):
        raise AssertionError(name)

    json.loads(line, parse_constant=refuse)


def test_lone_surrogates_are_replaced(make_span):
    (span,) = decode_line(encode_line([make_span("bad \ud800", {"a": "\udfff"})]))
    assert (span.name, span.attributes["a"]) == ("bad \ufffd", "\ufffd")


def test_reads_what_other_writers_may_write():
    (span,) = decode_line(
        json.dumps(
            {
                "resourceSpans": [
                    {
                        "scopeSpans": [
                            {
                                "spans": [
                                    {
                                        "traceId": "5B8EFFF798038103D269B633813FC60C",
                                        "spanId": "EEE19B7EC3C1B174",
                                        "parentSpanId": "",
                                        "kind": "SPAN_KIND_SERVER",
                                        "startTimeUnixNano": 1,
                                        "endTimeUnixNano": "2",
                                        "attributes": [{"key": "n", "value": {"intValue": 7}}, {"key": "v"}],
                                        "status": {"code": "STATUS_CODE_ERROR", "message": "m"},
                                        "somethingNew": [],
                                    }
                                ]
                            }
                        ]
                    }
                ]
            }
        )
    )
    assert span.context.trace_id == 0x5B8EFFF798038103D269B633813FC60C
    assert (span.kind.name, span.parent, dict(span.attributes)) == ("SERVER", None, {"n": 7, "v": None})
    assert (span.start_time, span.end_time, span.status.description) == (1, 2, "m")


SPANS = '{"resourceSpans": [{"scopeSpans": [{"spans": [SPAN]}]}]}'


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "3", '{"resourceSpans": 3}', '{"resourceSpans": [3]}']
    + [SPANS.replace("SPAN", span) for span in ("{}", '{"traceId": "zz"}', "3")],
)
def test_what_is_not_otlp_json_is_refused_with_one_kind_of_error(line):
    with pytest.raises(OtlpJsonError):
        decode_line(line)
