"""What the tables hold of a span: its columns, and the sums over several of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from opentelemetry.sdk.resources import SERVICE_NAME
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext
from opentelemetry.trace.status import StatusCode

from aiobs_core import semconv
from aiobs_core._operation import FORWARDED
from aiobs_core.store.otlp_json import without_surrogates

_MAX_NAME_CHARS: Final = 512  # the block keeps the whole name
_MAX_COUNT: Final = 2**53  # sums of sane counts stay far below SQLite's 2**63
_ERROR: Final = StatusCode.ERROR.value
_FOREIGN_USER_ID: Final = "user.id"  # of OpenTelemetry and OpenInference: read here, never emitted by aiobs

HISTOGRAM_BUCKETS: Final = 64
HISTOGRAM_RATIO: Final = 1.25
_NS_PER_MS: Final = 1_000_000
_LOG_RATIO: Final = math.log(HISTOGRAM_RATIO)


class SpanRow(NamedTuple):
    """What the table `spans` holds of one span, but for its place in a block; in the order of the columns."""

    trace_id: bytes
    span_id: bytes
    parent_id: bytes | None
    kind: str | None
    name: str
    op: str | None
    model: str | None
    start: int
    dur: int | None
    status: int
    in_tok: int | None
    out_tok: int | None
    cache_tok: int | None
    cost: int | None
    ttft: int | None
    user: str | None
    hidden: bool
    masked: int | None

    @property
    def calls_a_model(self) -> bool:
        """Whether its tokens count: those of agents and workflows are sums of the model calls below them."""
        return self.kind in _MODEL_KINDS


_COLUMNS: Final = (*SpanRow._fields, "blk", "pos")
INSERT_SPAN: Final = (
    f"INSERT OR IGNORE INTO spans({', '.join(_COLUMNS)}) VALUES({', '.join('?' * len(_COLUMNS))})"
)

_MODEL_KINDS: Final = frozenset({"model", "embedding"})
_PLUMBING_KINDS: Final = frozenset({"chain", "prompt", "parser"})
_KIND_OF_OPERATION: Final = {
    **{operation: kind for kind, operation in semconv.GEN_AI_OPERATIONS.items()},
    "text_completion": "model",
    "generate_content": "model",
}


def row_of(span: ReadableSpan, context: SpanContext, attributes: Mapping[str, Any]) -> SpanRow:
    """The columns of a span, read from `ai.agent.*` and, where a name is missing there, from `gen_ai.*`."""
    get = attributes.get
    op = _text(get(semconv.GEN_AI_OPERATION_NAME))
    kind = _text(get(semconv.SPAN_KIND)) or (_KIND_OF_OPERATION.get(op) if op else None)
    start, end = span.start_time or 0, span.end_time
    parent = span.parent
    # Else its tokens are those of a call inside, which has a row of its own.
    spends = get(semconv.USAGE_SOURCE) != FORWARDED
    return SpanRow(
        context.trace_id.to_bytes(16, "big"),
        context.span_id.to_bytes(8, "big"),
        parent.span_id.to_bytes(8, "big") if parent else None,
        kind,
        _text(span.name) or "",
        op,
        _text(get(semconv.MODEL_NAME) or get(semconv.GEN_AI_REQUEST_MODEL))
        or _text(get(semconv.MODEL_VERSION) or get(semconv.GEN_AI_RESPONSE_MODEL)),
        start,
        None if end is None else max(0, end - start),
        span.status.status_code.value,
        _count(get(semconv.USAGE_INPUT_TOKENS), get(semconv.GEN_AI_USAGE_INPUT_TOKENS)) if spends else None,
        _count(get(semconv.USAGE_OUTPUT_TOKENS), get(semconv.GEN_AI_USAGE_OUTPUT_TOKENS)) if spends else None,
        _count(get(semconv.USAGE_CACHE_READ_TOKENS), get(semconv.GEN_AI_USAGE_CACHE_READ))
        if spends
        else None,
        _nano(get(semconv.COST_USD)),
        _nano(get(semconv.TIME_TO_FIRST_CHUNK_S), get(semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK)),
        user_of(attributes),
        parent is not None and kind in _PLUMBING_KINDS and semconv.GRAPH_NODE not in attributes,
        _count(get(semconv.MASKED_COUNT)),
    )


def user_of(attributes: Mapping[str, Any]) -> str | None:
    """The person whom a span is about: an id that is hashed unless the application's policy says otherwise."""
    return _text(attributes.get(semconv.USER_ID)) or _text(attributes.get(_FOREIGN_USER_ID))


def session_of(attributes: Mapping[str, Any]) -> str | None:
    """The conversation or session that a span belongs to."""
    return _text(attributes.get(semconv.SESSION_ID)) or _text(attributes.get(semconv.GEN_AI_CONVERSATION_ID))


def service_of(attributes: Mapping[str, Any]) -> str | None:
    """The service that a resource describes."""
    return _text(attributes.get(SERVICE_NAME))


def bucket_of(duration_ns: int) -> int:
    """Bucket of the latency histogram: number i holds 1.25**i to 1.25**(i+1) ms, the outer ones all beyond."""
    if duration_ns <= _NS_PER_MS:
        return 0
    return min(HISTOGRAM_BUCKETS - 1, int(math.log(duration_ns / _NS_PER_MS) / _LOG_RATIO))


def sums_of(rows: Sequence[SpanRow]) -> tuple[int | None, ...]:
    """Errors, input tokens, output tokens, cost; tokens of model calls only, and what each span cost by itself."""
    calls = [row for row in rows if row.calls_a_model]
    return (
        sum(row.status == _ERROR for row in rows),
        _sum([row.in_tok for row in calls]),
        _sum([row.out_tok for row in calls]),
        _sum([row.cost for row in rows]),
    )


def first_user_of(rows: Sequence[SpanRow]) -> str | None:
    """The first user that one of the spans names."""
    return next((row.user for row in rows if row.user is not None), None)


def masked_in(rows: Sequence[SpanRow]) -> int | None:
    """Values that were masked in the spans; None where no span says."""
    return _sum([row.masked for row in rows])


def _sum(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _text(value: object) -> str | None:
    if not isinstance(value, str) or not value:
        return None
    return without_surrogates(value[:_MAX_NAME_CHARS])


def _count(*candidates: object) -> int | None:
    for value in candidates:
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_COUNT:
            return int(value)
    return None


def _nano(*candidates: object) -> int | None:
    for value in candidates:
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e9:
            return round(value * 1e9)
    return None
