"""One stored span as an object that any JSON reader takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiobs_core.store.reader import StoredSpan


def flat(span: StoredSpan) -> dict[str, object]:
    """One span as an object that any JSON reader takes."""
    readable = span.to_readable()
    scope = readable.instrumentation_scope
    return {
        "trace_id": span.trace_id,
        "span_id": span.span_id,
        "parent_id": span.parent_id,
        "kind": span.kind,
        "name": readable.name,
        "model": span.model,
        "start_ns": span.start_ns,
        "duration_ns": span.duration_ns,
        "status": span.status,
        "status_message": readable.status.description,
        "input_tokens": span.input_tokens,
        "output_tokens": span.output_tokens,
        "cache_read_tokens": span.cache_read_tokens,
        "cost_nano_usd": span.cost_nano_usd,
        "first_chunk_ns": span.first_chunk_ns,
        "attributes": _jsonable(span.attributes),
        "events": [
            {"name": event.name, "time_ns": event.timestamp, "attributes": _jsonable(event.attributes)}
            for event in readable.events
        ],
        "links": [
            {
                "trace_id": format(link.context.trace_id, "032x"),
                "span_id": format(link.context.span_id, "016x"),
                "attributes": _jsonable(link.attributes),
            }
            for link in readable.links
        ],
        "resource": _jsonable(readable.resource.attributes),
        "scope": None if scope is None else scope.name,
    }


def _jsonable(value: Any) -> object:
    """A value that strict JSON can hold: NaN by its name, bytes as hexadecimal digits."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value
