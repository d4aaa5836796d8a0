"""A batch of spans, cut into slices and encoded, before any of it meets the database."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan

from aiobs_core.store.blocks import BlockBuilder
from aiobs_core.store.otlp_json import plain
from aiobs_core.store.rows import SpanRow, first_user_of, masked_in, row_of, service_of, session_of, sums_of

SLICE_SPANS: Final = 64  # a transaction of this size keeps the lock, and the GIL, for a few milliseconds


@dataclass(slots=True)
class Block:
    """Spans of one trace, encoded and ready to be inserted."""

    data: bytes
    rows: list[SpanRow]
    root: int = 0
    name: str | None = None
    service: str | None = None
    session: str | None = None


def slices(spans: Sequence[ReadableSpan]) -> Iterator[Sequence[ReadableSpan]]:
    """The spans in parts of `SLICE_SPANS`, those of one trace next to one another."""
    ordered = sorted(spans, key=_trace_id)
    for first in range(0, len(ordered), SLICE_SPANS):
        yield ordered[first : first + SLICE_SPANS]


def _trace_id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return 0 if context is None else context.trace_id


def blocks_of(spans: Sequence[ReadableSpan]) -> list[Block]:
    """The spans, in which those of one trace stand together, as one block per trace; more where it grows large."""
    blocks: list[Block] = []
    for trace_id, group in itertools.groupby(spans, _trace_id):
        builder, block = BlockBuilder(trace_id), Block(b"", [])
        for span in group:
            if builder.is_large:
                block.data = builder.finish()
                blocks.append(block)
                builder, block = BlockBuilder(trace_id), Block(b"", [])
            _add(span, builder, block)
        block.data = builder.finish()
        blocks.append(block)
    return blocks


def _add(span: ReadableSpan, builder: BlockBuilder, block: Block) -> None:
    context = span.get_span_context()
    if context is None:
        raise ValueError("a span without a context cannot be stored")
    attributes: Mapping[str, Any] = plain(span.attributes)
    builder.add(span, context, attributes)
    row = row_of(span, context, attributes)
    block.rows.append(row)
    parent = span.parent
    root = 2 if parent is None else 1 if parent.is_remote else 0
    if root > block.root:
        block.root, block.name, block.service = root, row.name, service_of(span.resource.attributes)
    elif block.service is None:
        block.service = service_of(span.resource.attributes)
    if block.session is None:
        block.session = session_of(attributes)


def run_of(block: Block) -> tuple[object, ...]:
    """What a block adds to its run, in the order of the writer's statement."""
    rows = block.rows
    return (
        rows[0].trace_id,
        min(row.start for row in rows),
        max(row.start + (row.dur or 0) for row in rows),
        block.name,
        block.root,
        block.service,
        first_user_of(rows),
        block.session,
        len(rows),
        *sums_of(rows),
        masked_in(rows),
    )
