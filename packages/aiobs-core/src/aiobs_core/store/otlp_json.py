"""Spans to OTLP-JSON and back: one `{"resourceSpans": […]}` a line, as OpenTelemetry's file exporter writes it.

Ids are hexadecimal, enums numbers and 64-bit integers strings, as the OTLP specification asks for beyond proto JSON:
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from aiobs_core._errors import AiobsError

_HAS_IS_REMOTE: Final = 0x100
_IS_REMOTE: Final = 0x200
_TRACE_FLAGS: Final = 0xFF
_INT64: Final = 2**63
_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_NO_STATE: Final = TraceState()
_encode_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


class OtlpJsonError(AiobsError, ValueError):
    """A text is not OTLP-JSON of spans."""


def encode_line(spans: Iterable[ReadableSpan]) -> bytes:
    """The spans as one line of UTF-8, with its line feed."""
    text = _encode_json(encode_spans(spans))
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return without_surrogates(text).encode() + b"\n"


def encode_spans(spans: Iterable[ReadableSpan]) -> dict[str, object]:
    """The spans as a TracesData object, grouped by resource and scope."""
    by_resource: dict[Resource, dict[InstrumentationScope | None, list[dict[str, object]]]] = {}
    # Groups once found are found again by identity: hashing a resource renders it to JSON.
    seen: dict[tuple[int, int], list[dict[str, object]]] = {}
    for span in spans:
        resource, scope = span.resource, span.instrumentation_scope
        identity = (id(resource), id(scope))
        group = seen.get(identity)
        if group is None:
            group = seen[identity] = by_resource.setdefault(resource, {}).setdefault(scope, [])
        group.append(_encode_span(span))
    return {"resourceSpans": [_encode_resource(resource, scopes) for resource, scopes in by_resource.items()]}


def _encode_resource(
    resource: Resource, scopes: Mapping[InstrumentationScope | None, list[dict[str, object]]]
) -> dict[str, object]:
    encoded: dict[str, object] = {
        "resource": _with_attributes({}, resource.attributes, 0),
        "scopeSpans": [_encode_scope(scope, spans) for scope, spans in scopes.items()],
    }
    if resource.schema_url:
        encoded["schemaUrl"] = resource.schema_url
    return encoded


def _encode_scope(scope: InstrumentationScope | None, spans: list[dict[str, object]]) -> dict[str, object]:
    described: dict[str, object] = {}
    encoded: dict[str, object] = {"scope": described, "spans": spans}
    if scope is None:
        return encoded
    if scope.name:
        described["name"] = scope.name
    if scope.version:
        described["version"] = scope.version
    _with_attributes(described, scope.attributes, 0)
    if scope.schema_url:
        encoded["schemaUrl"] = scope.schema_url
    return encoded


def _encode_span(span: ReadableSpan) -> dict[str, object]:
    context, parent, status = span.get_span_context(), span.parent, span.status
    if context is None:
        raise OtlpJsonError("a span without a context cannot be encoded")
    encoded: dict[str, object] = {
        "traceId": format(context.trace_id, "032x"),
        "spanId": format(context.span_id, "016x"),
    }
    if context.trace_state:
        encoded["traceState"] = context.trace_state.to_header()
    if parent is not None:
        encoded["parentSpanId"] = format(parent.span_id, "016x")
    encoded["flags"] = _flags(parent)
    if span.name:
        encoded["name"] = span.name
    encoded["kind"] = span.kind.value + 1  # OTLP's 0 is "unspecified"
    if span.start_time:
        encoded["startTimeUnixNano"] = str(span.start_time)
    if span.end_time:
        encoded["endTimeUnixNano"] = str(span.end_time)
    _with_attributes(encoded, span.attributes, span.dropped_attributes)
    if span.events:
        encoded["events"] = [_encode_event(event) for event in span.events]
    if span.dropped_events:
        encoded["droppedEventsCount"] = span.dropped_events
    if span.links:
        encoded["links"] = [_encode_link(link) for link in span.links]
    if span.dropped_links:
        encoded["droppedLinksCount"] = span.dropped_links
    described: dict[str, object] = {}
    if status.description:
        described["message"] = status.description
    if status.status_code.value:
        described["code"] = status.status_code.value
    encoded["status"] = described
    return encoded


def _encode_event(event: Event) -> dict[str, object]:
    encoded: dict[str, object] = {}
    if event.timestamp:
        encoded["timeUnixNano"] = str(event.timestamp)
    if event.name:
        encoded["name"] = event.name
    return _with_attributes(encoded, event.attributes, event.dropped_attributes)


def _encode_link(link: Link) -> dict[str, object]:
    context = link.context
    encoded: dict[str, object] = {
        "traceId": format(context.trace_id, "032x"),
        "spanId": format(context.span_id, "016x"),
        "flags": _flags(context),
    }
    if context.trace_state:
        encoded["traceState"] = context.trace_state.to_header()
    return _with_attributes(encoded, link.attributes, link.dropped_attributes)


def _flags(context: SpanContext | None) -> int:
    # Without the trace flags in the low byte, like the official encoder; what is exported was sampled.
    return _HAS_IS_REMOTE | (_IS_REMOTE if context is not None and context.is_remote else 0)


def _with_attributes(
    encoded: dict[str, object], attributes: Mapping[str, Any] | None, dropped: int
) -> dict[str, object]:
    if attributes:
        encoded["attributes"] = _encode_attributes(plain(attributes))
    if dropped:
        encoded["droppedAttributesCount"] = dropped
    return encoded


def _encode_attributes(attributes: Mapping[str, Any]) -> list[dict[str, object]]:
    return [{"key": str(key), "value": _encode_value(value)} for key, value in attributes.items()]


def _encode_value(value: object) -> dict[str, object]:
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue" if -_INT64 <= value < _INT64 else "stringValue": str(int(value))}
    if isinstance(value, float):
        return {"doubleValue": float(value) if math.isfinite(value) else _name_of(value)}
    if value is None:
        return {}
    if isinstance(value, (bytes, bytearray)):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, Mapping):
        return {"kvlistValue": {"values": _encode_attributes(value)} if value else {}}
    if isinstance(value, Sequence):
        return {"arrayValue": {"values": [_encode_value(item) for item in value]} if value else {}}
    return {"stringValue": str(value)}


def _name_of(value: float) -> str:
    """How proto JSON writes a number that JSON does not have."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decode_line(line: str | bytes) -> list[ReadableSpan]:
    """The spans of one line, in its order.

    Raises:
        OtlpJsonError: If the line is not OTLP-JSON of spans.
    """
    try:
        data = json.loads(line)
        if not isinstance(data, dict):
            raise OtlpJsonError(f"expected an object, got {type(data).__name__}")
        return list(_decode_spans(data))
    except OtlpJsonError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise OtlpJsonError(f"not OTLP-JSON of spans ({type(error).__name__})") from error


def _decode_spans(data: Mapping[str, Any]) -> Iterator[ReadableSpan]:
    for resource_spans in data.get("resourceSpans") or ():
        described = resource_spans.get("resource") or {}
        resource = Resource(_decode_attributes(described), resource_spans.get("schemaUrl") or "")
        for scope_spans in resource_spans.get("scopeSpans") or ():
            scope = _decode_scope(scope_spans)
            for span in scope_spans.get("spans") or ():
                yield _decode_span(span, resource, scope)


def _decode_scope(scope_spans: Mapping[str, Any]) -> InstrumentationScope | None:
    scope = scope_spans.get("scope")
    schema_url = scope_spans.get("schemaUrl") or ""
    if not scope and not schema_url:
        return None
    scope = scope or {}
    return InstrumentationScope(
        scope.get("name") or "", scope.get("version") or None, schema_url, _decode_attributes(scope)
    )


def _decode_span(
    span: Mapping[str, Any], resource: Resource, scope: InstrumentationScope | None
) -> ReadableSpan:
    flags = int(span.get("flags") or 0)
    trace_flags = TraceFlags(flags & _TRACE_FLAGS or TraceFlags.SAMPLED)
    trace_state = trace_state_of(span.get("traceState") or "")
    trace_id = int(span["traceId"], 16)
    parent = None
    if span.get("parentSpanId"):
        remote = bool(flags & _IS_REMOTE)
        parent = SpanContext(trace_id, int(span["parentSpanId"], 16), remote, trace_flags, trace_state)
    status = span.get("status") or {}
    kind = _number_of(
        span.get("kind"), ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
    )
    end = int(span.get("endTimeUnixNano") or 0)
    return ReadableSpan(
        name=span.get("name") or "",
        context=SpanContext(trace_id, int(span["spanId"], 16), False, trace_flags, trace_state),
        parent=parent,
        resource=resource,
        attributes=_decode_attributes(span),
        events=bounded_list(
            [_decode_event(event) for event in span.get("events") or ()],
            int(span.get("droppedEventsCount") or 0),
        ),
        links=bounded_list(
            [_decode_link(link) for link in span.get("links") or ()], int(span.get("droppedLinksCount") or 0)
        ),
        kind=SpanKind(max(kind - 1, 0)),
        status=status_of(_number_of(status.get("code"), ("UNSET", "OK", "ERROR")), status.get("message")),
        start_time=int(span.get("startTimeUnixNano") or 0),
        end_time=end or None,
        instrumentation_scope=scope,
    )


def _number_of(value: object, names: tuple[str, ...]) -> int:
    """An enum's number; proto JSON allows its name, with a prefix (`SPAN_KIND_CLIENT`)."""
    if isinstance(value, str) and not value.isdigit():
        return names.index(value.rpartition("_")[2])
    return int(str(value)) if value is not None else 0


def _decode_event(event: Mapping[str, Any]) -> Event:
    return Event(event.get("name") or "", _decode_attributes(event), int(event.get("timeUnixNano") or 0))


def _decode_link(link: Mapping[str, Any]) -> Link:
    flags = int(link.get("flags") or 0)
    context = SpanContext(
        int(link["traceId"], 16),
        int(link["spanId"], 16),
        bool(flags & _IS_REMOTE),
        TraceFlags(flags & _TRACE_FLAGS or TraceFlags.SAMPLED),
        trace_state_of(link.get("traceState") or ""),
    )
    return Link(context, _decode_attributes(link))


def _decode_attributes(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    attributes = {
        item["key"]: _decode_value(item.get("value") or {}) for item in holder.get("attributes") or ()
    }
    return bounded_attributes(attributes, int(holder.get("droppedAttributesCount") or 0))


def _decode_value(value: Mapping[str, Any]) -> Any:
    for tag, held in value.items():
        if tag in ("stringValue", "boolValue"):
            return held
        if tag == "intValue":
            return int(held)
        if tag == "doubleValue":
            return float(held)
        if tag == "bytesValue":
            return base64.b64decode(held)
        if tag == "arrayValue":
            return tuple(_decode_value(item) for item in held.get("values") or ())
        if tag == "kvlistValue":
            return {item["key"]: _decode_value(item.get("value") or {}) for item in held.get("values") or ()}
    return None


def without_surrogates(text: str) -> str:
    """`text` with each lone surrogate replaced by U+FFFD: neither UTF-8 nor SQLite can hold one."""
    return text if text.isascii() else _SURROGATES.sub("\ufffd", text)


def plain(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """A dict of `attributes`, made by their own `copy()` where they have one (the SDK's iterate in Python)."""
    if not attributes:
        return {}
    copy = getattr(attributes, "copy", None)
    return copy() if copy is not None else dict(attributes)


def trace_state_of(header: str) -> TraceState:
    """The trace state that a `tracestate` header describes."""
    return TraceState.from_header([header]) if header else _NO_STATE


def status_of(code: int, description: str | None) -> Status:
    """A span status; only ERROR may have a description, for any other the SDK logs a warning and drops it."""
    status_code = StatusCode(code)
    return Status(status_code, description if status_code is StatusCode.ERROR else None)


def bounded_attributes(attributes: dict[str, Any], dropped: int) -> Mapping[str, Any]:
    """Attributes that remember how many the SDK's limits dropped, as the SDK itself notes it."""
    if not dropped:
        return attributes
    bounded = BoundedAttributes(attributes=attributes, immutable=True)
    bounded.dropped = dropped
    return bounded


def bounded_list(items: list[Any], dropped: int) -> Sequence[Any]:
    """Events or links that remember how many the SDK's limits dropped."""
    if not dropped:
        return items
    bounded: BoundedList[Any] = BoundedList(None)
    bounded.extend(items)
    bounded.dropped = dropped
    return bounded
