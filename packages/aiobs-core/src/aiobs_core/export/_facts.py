"""What the console says about a span, read from its attributes in any dialect, its text made safe to print."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import StatusCode

from aiobs_core import semconv
from aiobs_core._operation import Kind, RunStatus
from aiobs_core.export._text import neutralise

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_KIND_OF_OPERATION: Final = {
    **{operation: Kind(kind) for kind, operation in semconv.GEN_AI_OPERATIONS.items()},
    "text_completion": Kind.MODEL,
    "generate_content": Kind.MODEL,
    "create_agent": Kind.AGENT,
}
_KIND_OF_NAME: Final = {**{kind.value: kind for kind in Kind}, "llm": Kind.MODEL}  # OpenInference says LLM


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One span as it is shown; text is neutralised, None is unknown."""

    span: ReadableSpan
    kind: Kind | None
    name: str
    model: str
    start_ns: int
    end_ns: int
    first_chunk_ns: int | None
    input_tokens: int | None
    output_tokens: int | None
    cached_tokens: int | None
    estimated: bool
    failed: bool
    note: str  # error type, or how it ended, or "": all went well

    @property
    def span_id(self) -> int:
        """The span's id."""
        return self.span.context.span_id if self.span.context else 0

    @property
    def parent_id(self) -> int | None:
        """The id of its parent, known here or not."""
        return self.span.parent.span_id if self.span.parent else None

    @property
    def order(self) -> tuple[int, int, int]:
        """Sorts by start, of those that start together the longest first."""
        return self.start_ns, -self.end_ns, self.span_id

    @property
    def identity(self) -> tuple[object, ...]:
        """What makes siblings equal."""
        return self.kind, self.name, self.model, self.note


def is_local_root(span: ReadableSpan) -> bool:
    """Whether the span is the first of its trace in this process (as far as it was recorded)."""
    return span.parent is None or span.parent.is_remote or bool(getattr(span, "is_local_root", False))


def unique_facts(spans: Iterable[ReadableSpan], encoding: str) -> list[Facts]:
    """Facts in order of start; a span that was handed over twice counts once."""
    by_id: dict[int, ReadableSpan] = {}
    for span in spans:
        if span.context is not None:
            by_id.setdefault(span.context.span_id, span)
    return sorted((_facts(span, encoding) for span in by_id.values()), key=lambda facts: facts.order)


def _facts(span: ReadableSpan, encoding: str) -> Facts:
    kind = kind_of(span)
    start_ns = span.start_time or 0
    first_chunk_s = _number(span, semconv.TIME_TO_FIRST_CHUNK_S, semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK)
    outcome = _text(span, semconv.OUTCOME)
    failed = is_failed(span)
    model = _text(span, semconv.MODEL_NAME, semconv.GEN_AI_REQUEST_MODEL, semconv.GEN_AI_RESPONSE_MODEL)
    source = _text(span, semconv.USAGE_SOURCE)
    note = "" if outcome == RunStatus.SUCCESS.value else outcome.replace("_", " ")
    if failed:
        note = _text(span, semconv.ERROR_TYPE) or "error"
    elif not note and source == "cache_hit":
        note = "cache hit"
    return Facts(
        span=span,
        kind=kind,
        name=neutralise(_own_name(span, model) or (kind.value if kind else "(no name)"), encoding=encoding),
        model=neutralise(model, encoding=encoding),
        start_ns=start_ns,
        end_ns=max(span.end_time or start_ns, start_ns),
        first_chunk_ns=None if first_chunk_s is None else int(first_chunk_s * 1e9),
        input_tokens=_count(span, semconv.USAGE_INPUT_TOKENS, semconv.GEN_AI_USAGE_INPUT_TOKENS),
        output_tokens=_count(span, semconv.USAGE_OUTPUT_TOKENS, semconv.GEN_AI_USAGE_OUTPUT_TOKENS),
        cached_tokens=_count(span, semconv.USAGE_CACHE_READ_TOKENS, semconv.GEN_AI_USAGE_CACHE_READ),
        estimated=source == "estimated",
        failed=failed,
        note=neutralise(note, encoding=encoding),
    )


def is_failed(span: ReadableSpan) -> bool:
    """Whether the span ended with an error."""
    return (
        span.status.status_code is StatusCode.ERROR or _text(span, semconv.OUTCOME) == RunStatus.ERROR.value
    )


def kind_of(span: ReadableSpan) -> Kind | None:
    """What ran, in whichever dialect the span says it; None for other spans (HTTP, databases)."""
    named = _text(span, semconv.SPAN_KIND) or _text(span, semconv.OI_SPAN_KIND).lower()
    return _KIND_OF_NAME.get(named) or _KIND_OF_OPERATION.get(_text(span, semconv.GEN_AI_OPERATION_NAME))


def _own_name(span: ReadableSpan, model: str) -> str:
    """The span's name without what the row says anyway: `execute_tool search` is `search`, `chat gpt-4o` is `chat`."""
    operation, _, target = span.name.partition(" ")
    if operation != _text(span, semconv.GEN_AI_OPERATION_NAME) or not target.strip():
        return span.name
    return operation if target == model else target


def _text(span: ReadableSpan, *names: str) -> str:
    attributes = span.attributes or {}
    return next((str(attributes[name]) for name in names if attributes.get(name) is not None), "")


def _number(span: ReadableSpan, *names: str) -> float | None:
    attributes = span.attributes or {}
    values = (attributes.get(name) for name in names)
    # Also refuses NaN and infinity, which no bar can show.
    return next((value for value in values if isinstance(value, (int, float)) and 0 <= value < 1e12), None)


def _count(span: ReadableSpan, *names: str) -> int | None:
    number = _number(span, *names)
    return None if number is None else int(number)
