"""Blocks: the spans of one trace and one batch, whole, as one compressed value.

An agent sends its system prompt, tool schemas and history again with every model call. Inside a block a long text
is therefore kept once, and a text that begins like the one before it under the same key keeps only its new end.
Sharing never crosses a block: a trace can then be erased without counting references.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags

from aiobs_core.store.otlp_json import (
    bounded_attributes,
    bounded_list,
    plain,
    status_of,
    trace_state_of,
    without_surrogates,
)

FORMAT: Final = 1
LONG_TEXT_CHARS: Final = 256  # from here on a reference into the string table is smaller than the text
LARGE_BLOCK_CHARS: Final = (
    4_000_000  # begin a new block beyond this, so that no block needs much memory at once
)

_PLAIN: Final = frozenset({int, float, bool, type(None)})
_encode_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":")).encode


class _Texts:
    """The string table of one block: a text, or the number of an earlier text, the length shared with it, the rest."""

    def __init__(self) -> None:
        self.entries: list[str | list[object]] = []
        self.size_chars = 0
        self._texts: list[str] = []
        self._index: dict[str, int] = {}
        self._last: dict[str, int] = {}

    def reference(self, key: str, text: str) -> dict[str, int]:
        index = self._index.get(text)
        if index is None:
            index = self._index[text] = len(self._texts)
            self._texts.append(text)
            self.entries.append(self._entry(key, text))
        self._last[key] = index
        return {"s": index}

    def _entry(self, key: str, text: str) -> str | list[object]:
        base = self._last.get(key)
        shared = 0 if base is None else _shared_prefix(self._texts[base], text)
        if shared < LONG_TEXT_CHARS:
            self.size_chars += len(text)
            return text
        self.size_chars += len(text) - shared
        return [base, shared, text[shared:]]


def _shared_prefix(one: str, other: str) -> int:
    """Length of the common beginning, by bisection: comparing slices runs in C, comparing characters does not."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class BlockBuilder:
    """Gathers spans of one trace. Not for use by several threads."""

    def __init__(self, trace_id: int) -> None:
        self._trace_id = trace_id
        self._texts = _Texts()
        self._keys: dict[tuple[str, ...], int] = {}
        self._resources: dict[int, int] = {}
        self._scopes: dict[int, int] = {}
        self._shared: list[list[object]] = [[], []]  # resources, scopes
        self._spans: list[list[object]] = []

    @property
    def is_large(self) -> bool:
        """Whether the next span should begin a new block."""
        return self._texts.size_chars > LARGE_BLOCK_CHARS

    def add(self, span: ReadableSpan, context: SpanContext, attributes: Mapping[str, Any]) -> int:
        """Add one span of this trace; returns its position in the block."""
        parent, status, events, links = span.parent, span.status, span.events, span.links
        dropped = (span.dropped_attributes, span.dropped_events, span.dropped_links)
        record: list[object] = [
            format(context.span_id, "016x"),
            format(parent.span_id, "016x") if parent else None,
            bool(parent and parent.is_remote),
            span.name,
            span.kind.value,
            span.start_time,
            span.end_time,
            status.status_code.value,
            status.description,
            int(context.trace_flags),
            context.trace_state.to_header() if context.trace_state else "",
            self._resource(span.resource),
            self._scope(span.instrumentation_scope),
            *self._attributes(attributes),
            [self._event(event) for event in events] if events else 0,
            [self._link(link) for link in links] if links else 0,
            dropped if any(dropped) else 0,
        ]
        self._spans.append(record)
        return len(self._spans) - 1

    def finish(self) -> bytes:
        """The block, ready to be stored."""
        block = {
            "format": FORMAT,
            "trace": format(self._trace_id, "032x"),
            "texts": self._texts.entries,
            "keys": [list(keys) for keys in self._keys],
            "resources": self._shared[0],
            "scopes": self._shared[1],
            "spans": self._spans,
        }
        text = _encode_json(block)
        try:
            data = text.encode()
        except UnicodeEncodeError:
            data = without_surrogates(text).encode()
        return zlib.compress(data, 1)

    def _resource(self, resource: Resource) -> int:
        index = self._resources.get(id(resource))  # the spans keep it alive while the block is built
        if index is None:
            index = self._resources[id(resource)] = len(self._shared[0])
            self._shared[0].append([*self._attributes(plain(resource.attributes)), resource.schema_url])
        return index

    def _scope(self, scope: InstrumentationScope | None) -> int | None:
        if scope is None:
            return None
        index = self._scopes.get(id(scope))
        if index is None:
            index = self._scopes[id(scope)] = len(self._shared[1])
            described = [scope.name, scope.version, scope.schema_url]
            self._shared[1].append([*self._attributes(plain(scope.attributes)), *described])
        return index

    def _attributes(self, attributes: Mapping[str, Any]) -> tuple[int, list[object]]:
        """Number of the key list, and the values: spans of one kind share their keys."""
        shape = self._keys.setdefault(tuple(attributes), len(self._keys))
        other = self._value
        return shape, [
            value
            if (kind := type(value)) in _PLAIN or (kind is str and len(value) < LONG_TEXT_CHARS)
            else other(key, value)
            for key, value in attributes.items()
        ]

    def _value(self, key: str, value: object) -> object:
        if isinstance(value, str):
            text = str(value) if type(value) is str else str.__str__(value)
            return text if len(text) < LONG_TEXT_CHARS else self._texts.reference(key, text)
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, (bytes, bytearray)):
            return {"b": base64.b64encode(value).decode()}
        if isinstance(value, Mapping):
            return {"m": {str(name): self._value(key, item) for name, item in value.items()}}
        if isinstance(value, Sequence):
            return [self._value(key, item) for item in value]
        return self._value(key, str(value))

    def _event(self, event: Event) -> list[object]:
        attributes = self._attributes(plain(event.attributes))
        return [event.name, event.timestamp, *attributes, event.dropped_attributes]

    def _link(self, link: Link) -> list[object]:
        context = link.context
        return [
            format(context.trace_id, "032x"),
            format(context.span_id, "016x"),
            context.is_remote,
            int(context.trace_flags),
            context.trace_state.to_header() if context.trace_state else "",
            *self._attributes(plain(link.attributes)),
            link.dropped_attributes,
        ]


def read_block(data: bytes) -> list[ReadableSpan]:
    """The spans of a block, in the order in which they were added.

    Raises:
        ValueError: If the bytes are damaged, or of a newer format.
    """
    try:
        block = json.loads(zlib.decompress(data))
        if block["format"] != FORMAT:
            raise ValueError(f"expected a block of format {FORMAT}, got {block['format']!r}")
        reader = _BlockReader(block)
        return [reader.span(record) for record in block["spans"]]
    except (zlib.error, KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(f"damaged block ({type(error).__name__})") from error


class _BlockReader:
    def __init__(self, block: dict[str, Any]) -> None:
        self._trace_id = int(block["trace"], 16)
        self._texts: list[str] = []
        for entry in block["texts"]:
            self._texts.append(
                entry if isinstance(entry, str) else self._texts[entry[0]][: entry[1]] + entry[2]
            )
        self._keys: list[list[str]] = block["keys"]
        self._resources = [
            Resource(self._attributes(shape, values), schema_url)
            for shape, values, schema_url in block["resources"]
        ]
        self._scopes = [
            InstrumentationScope(name, version, schema_url, self._attributes(shape, values))
            for shape, values, name, version, schema_url in block["scopes"]
        ]

    def span(self, record: list[Any]) -> ReadableSpan:
        (span_id, parent_id, remote, name, kind, start, end, code, description, flags, state) = record[:11]
        (resource, scope, shape, values, events, links, dropped) = record[11:]
        trace_flags, trace_state = TraceFlags(flags), trace_state_of(state)
        lost_attributes, lost_events, lost_links = dropped or (0, 0, 0)
        parent = None
        if parent_id is not None:
            parent = SpanContext(self._trace_id, int(parent_id, 16), remote, trace_flags, trace_state)
        return ReadableSpan(
            name=name,
            context=SpanContext(self._trace_id, int(span_id, 16), False, trace_flags, trace_state),
            parent=parent,
            resource=self._resources[resource],
            attributes=bounded_attributes(self._attributes(shape, values), lost_attributes),
            events=bounded_list([self._event(*event) for event in events or ()], lost_events),
            links=bounded_list([self._link(link) for link in links or ()], lost_links),
            kind=SpanKind(kind),
            status=status_of(code, description),
            start_time=start,
            end_time=end,
            instrumentation_scope=None if scope is None else self._scopes[scope],
        )

    def _attributes(self, shape: int, values: list[Any]) -> dict[str, Any]:
        keys = self._keys[shape]
        if len(keys) != len(values):
            raise ValueError("damaged block: keys and values differ in number")
        return {key: self._value(value) for key, value in zip(keys, values, strict=True)}

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(self._value(item) for item in value)
        if not isinstance(value, dict):
            return value
        ((tag, held),) = value.items()
        if tag == "s":
            return self._texts[held]
        if tag == "b":
            return base64.b64decode(held)
        return {name: self._value(item) for name, item in held.items()}

    def _event(self, name: str, timestamp: int, shape: int, values: list[Any], dropped: int) -> Event:
        return Event(name, bounded_attributes(self._attributes(shape, values), dropped), timestamp)

    def _link(self, record: list[Any]) -> Link:
        trace_id, span_id, remote, flags, state, shape, values, lost = record
        context = SpanContext(
            int(trace_id, 16), int(span_id, 16), remote, TraceFlags(flags), trace_state_of(state)
        )
        return Link(context, bounded_attributes(self._attributes(shape, values), lost))
