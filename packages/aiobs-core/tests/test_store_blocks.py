from __future__ import annotations

import json
import math
import zlib

import pytest
from opentelemetry.sdk.trace import Event, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, TraceFlags, TraceState

from aiobs_core.store.blocks import BlockBuilder, read_block

VALUES = {
    "text": "grüezi 🐘",
    "empty": "",
    "yes": True,
    "no": False,
    "zero": 0,
    "int": -42,
    "int64": 2**63 - 1,
    "float": 1.0,
    "tiny": 5e-324,
    "infinite": -math.inf,
    "texts": ("a", "b"),
    "ints": (1, 2),
    "mixed": (1, "two", 3.0, None, True),
    "nothing": None,
    "bytes": b"\x00\xff",
    "nested": {"a": {"b": (1, {"c": "d"})}, "s": "looks like a tag"},
    "control": "\x1b[31mred\x00",
    "": "empty key",
}


def round_trip(*spans):
    builder = BlockBuilder(spans[0].context.trace_id)
    for span in spans:
        builder.add(span, span.context, dict(span.attributes))
    return read_block(builder.finish())


def raw_block(*spans):
    builder = BlockBuilder(spans[0].context.trace_id)
    for span in spans:
        builder.add(span, span.context, dict(span.attributes))
    return builder.finish()


def test_a_span_comes_back_as_it_was(make_span):
    state = TraceState([("vendor", "x"), ("other", "y")])
    root = make_span("root", state=state)
    span = make_span(
        "child",
        VALUES,
        parent=root,
        remote=True,
        error="it broke",
        state=state,
        events=[Event("exception", {"exception.type": "ValueError", "n": 1}, 17), Event("bare", None, 18)],
        links=[Link(SpanContext(1, 2, True, TraceFlags(1), state), {"why": "resume"}), Link(root.context)],
    )
    again = round_trip(span)[0]
    assert dict(again.attributes) == VALUES
    assert {key: type(value) for key, value in again.attributes.items()} == {
        key: type(value) for key, value in VALUES.items()
    }
    assert (again.name, again.kind, again.start_time, again.end_time) == (
        span.name,
        span.kind,
        span.start_time,
        span.end_time,
    )
    assert again.context == span.context
    assert again.parent == span.parent
    assert (again.status.status_code, again.status.description) == (span.status.status_code, "it broke")
    assert [(e.name, e.timestamp, dict(e.attributes)) for e in again.events] == [
        ("exception", 17, {"exception.type": "ValueError", "n": 1}),
        ("bare", 18, {}),
    ]
    assert [(link.context, dict(link.attributes)) for link in again.links] == [
        (span.links[0].context, {"why": "resume"}),
        (root.context, {}),
    ]
    assert again.resource == span.resource
    assert again.instrumentation_scope == span.instrumentation_scope


def test_nan_comes_back_as_nan(make_span):
    assert math.isnan(round_trip(make_span("s", {"nan": math.nan}))[0].attributes["nan"])


def test_lone_surrogates_are_replaced_wherever_they_stand(make_span):
    span = make_span("bad \ud800 name", {"key \udfff": "short \udc00", "long": "\ud83d" + "x" * 500})
    again = round_trip(span)[0]
    assert again.name == "bad \ufffd name"
    assert dict(again.attributes) == {"key \ufffd": "short \ufffd", "long": "\ufffd" + "x" * 500}


def test_a_text_of_five_megabytes_comes_back_whole(make_span):
    text = "".join(chr(65 + i % 57) for i in range(5_000_000))
    assert round_trip(make_span("s", {"prompt": text}))[0].attributes["prompt"] == text


def test_a_long_text_is_kept_once_in_a_block(make_span):
    prompt = "You are helpful. " * 100
    spans = [make_span("s", {"a": prompt, "b": prompt}, trace_id=5) for _ in range(20)]
    block = json.loads(zlib.decompress(raw_block(*spans)))
    assert block["texts"] == [prompt]
    assert [span.attributes["b"] for span in read_block(raw_block(*spans))] == [prompt] * 20


def test_a_growing_history_keeps_only_what_was_added(make_span):
    texts = [
        "[" + ",".join(f'"message {n} ' + "x" * 300 + '"' for n in range(turns)) + "]"
        for turns in range(1, 40)
    ]
    spans = [make_span("s", {"messages": text}, trace_id=5) for text in texts]
    block = raw_block(*spans)
    assert len(zlib.decompress(block)) < 2 * len(texts[-1]) + 1_000 * len(texts)
    assert [span.attributes["messages"] for span in read_block(block)] == texts


def test_resource_and_scope_are_kept_once_in_a_block(make_span):
    block = json.loads(zlib.decompress(raw_block(*[make_span(trace_id=5) for _ in range(10)])))
    assert (len(block["resources"]), len(block["scopes"]), len(block["keys"])) == (1, 1, 3)


def test_spans_of_the_sdk_keep_the_counts_of_what_its_limits_dropped():
    memory = InMemorySpanExporter()
    provider = TracerProvider(span_limits=SpanLimits(max_span_attributes=2, max_events=1, max_links=1))
    provider.add_span_processor(SimpleSpanProcessor(memory))
    link = Link(SpanContext(1, 2, True))
    with provider.get_tracer("t").start_as_current_span("s", links=[link, link]) as span:
        span.set_attributes({"b": 2, "c": (1, 2)})
        span.add_event("one")
        span.add_event("two")
    (span,) = memory.get_finished_spans()
    again = round_trip(span)[0]
    assert (again.dropped_attributes, again.dropped_events, again.dropped_links) == (
        span.dropped_attributes,
        span.dropped_events,
        span.dropped_links,
    )
    assert (again.dropped_events, again.dropped_links) == (1, 1)
    assert dict(again.attributes) == dict(span.attributes)


def test_values_of_subclasses_and_foreign_types_become_plain_ones(make_span):
    class Colour(str):
        __slots__ = ()

        def __str__(self):
            return "not this"

    again = round_trip(make_span("s", {"str": Colour("red"), "set": {1}, "long": Colour("x" * 300)}))[0]
    assert dict(again.attributes) == {"str": "red", "set": "{1}", "long": "x" * 300}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"garbage",
        lambda data: zlib.compress(b"{}"),
        lambda data: zlib.compress(b"[]"),
        lambda data: zlib.compress(zlib.decompress(data).replace(b'"format":1', b'"format":2')),
        lambda data: zlib.compress(zlib.decompress(data).replace(b'"keys":[[', b'"keys":[["more",')),
    ],
)
def test_a_damaged_or_newer_block_is_a_value_error(make_span, damage):
    with pytest.raises(ValueError, match=r"block|Expecting|incomplete|JSON"):
        read_block(damage(raw_block(make_span("s", {"a": 1}))))
