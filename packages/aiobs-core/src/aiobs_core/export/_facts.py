"""What the console says about a span, read from its attributes in any dialect, its text made safe to print."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import StatusCode

from aiobs_core import semconv
from aiobs_core._operation import Kind, RunStatus
from aiobs_core.export._text import count_text, money_text, neutralise

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_KIND_OF_OPERATION: Final = {
    **{operation: Kind(kind) for kind, operation in semconv.GEN_AI_OPERATIONS.items()},
    "text_completion": Kind.MODEL,
    "generate_content": Kind.MODEL,
    "create_agent": Kind.AGENT,
}
_KIND_OF_NAME: Final = {**{kind.value: kind for kind in Kind}, "llm": Kind.MODEL}  # OpenInference says LLM
_PLUMBING: Final = {Kind.CHAIN, Kind.PROMPT, Kind.PARSER}
_CALLS_A_MODEL: Final = {Kind.MODEL, Kind.EMBEDDING}
_MANUAL_SCOPE: Final = semconv.SCOPE_PREFIX + "manual"
_UNKNOWN_ERROR: Final = "error"
_CACHE_HIT: Final = "cache hit"


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
    cost_usd: float | None  # by itself, without what runs inside
    estimated: bool
    failed: bool
    note: str  # class of the error, or how it ended, or "": all went well
    attempt: int | None  # from 2 on
    resume_wait_ns: int | None
    request: str  # the application's name of it, or ""

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
        return self.kind, self.name, self.model, self.note, self.attempt, self.resume_wait_ns

    @property
    def ended_well(self) -> bool:
        """Whether there is nothing to say about its end."""
        return not self.failed and self.note in ("", _CACHE_HIT)

    @property
    def calls_a_model(self) -> bool:
        """Whether its tokens are paid for."""
        return self.kind in _CALLS_A_MODEL

    @property
    def is_plumbing(self) -> bool:
        """Whether a framework made it of its own; what the application wrote down by hand never is."""
        scope = self.span.instrumentation_scope
        return self.kind in _PLUMBING and (scope is None or scope.name != _MANUAL_SCOPE)

    @property
    def is_graph_node(self) -> bool:
        """Whether it is a step of a graph, which the application named."""
        return bool(_text(self.span, semconv.GRAPH_NODE))


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
        # The class alone: the module's name would push it out of the row.
        error_type = _text(span, semconv.ERROR_TYPE)
        note = error_type.rpartition(".")[2] or error_type or _UNKNOWN_ERROR
    elif not note and source == "cache_hit":
        note = _CACHE_HIT
    attempt = _count(span, semconv.RETRY_ATTEMPT)
    resume_wait_s = _number(span, semconv.RESUME_WAIT_S)
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
        cost_usd=_number(span, semconv.COST_USD),
        estimated=source == "estimated",
        failed=failed,
        note=neutralise(note, encoding=encoding),
        attempt=attempt if attempt is not None and attempt > 1 else None,
        resume_wait_ns=None if resume_wait_s is None else int(resume_wait_s * 1e9),
        request=neutralise(_given_request_id(span), encoding=encoding),
    )


def tokens_text(spans: Sequence[Facts], arrow: str) -> str:
    """What went in and came out, such as `1.2k→49`."""
    given = known_sum(item.input_tokens for item in spans)
    got = known_sum(item.output_tokens for item in spans)
    about = "~" if any(item.estimated for item in spans) else ""
    if given is None or got is None:
        known = [
            f"{about}{count_text(n)} {word}" for n, word in ((given, "in"), (got, "out")) if n is not None
        ]
        return "".join(known)
    return f"{about}{count_text(given)}{arrow}{count_text(got)}"


def costs_text(spans: Iterable[Facts]) -> str:
    """What the spans cost; empty where no price is known."""
    known = [item.cost_usd for item in spans if item.cost_usd is not None]
    return money_text(math.fsum(known)) if known else ""


def walk(facts: Sequence[Facts]) -> Iterator[tuple[Facts, int | None]]:
    """Each span once, parents first, with the id of the span above it; iterative, since traces may be deep."""
    children: dict[int | None, list[Facts]] = {}
    known = {item.span_id for item in facts}
    for item in facts:
        parent_id = item.parent_id if item.parent_id in known else None
        children.setdefault(parent_id, []).append(item)
    visited: set[int] = set()
    # Real roots first, then spans whose parent is missing, then whatever is left: loops of parents.
    tops = sorted(children.get(None, []), key=lambda item: not is_local_root(item.span))
    for top in [*tops, *facts]:
        stack: list[tuple[Facts, int | None]] = [(top, None)]
        while stack:
            item, above = stack.pop()
            if item.span_id in visited:
                continue
            visited.add(item.span_id)
            yield item, above
            stack.extend((child, item.span_id) for child in reversed(children.get(item.span_id, [])))


def passing_on(facts: Iterable[Facts]) -> set[int]:
    """Ids of the spans that failed only because the error of a child went through them."""
    failed = {item.span_id: item for item in facts if item.failed}
    passing: set[int] = set()
    seen: set[tuple[int, str]] = set()
    for item in failed.values():
        child, error = item, item.note
        while child.parent_id is not None and child.parent_id in failed:
            parent = failed[child.parent_id]
            # An unknown error is taken for the child's: spans of other instrumentations seldom name the class.
            if parent.note not in (error, _UNKNOWN_ERROR) or (parent.span_id, error) in seen:
                break
            seen.add((parent.span_id, error))
            passing.add(parent.span_id)
            child = parent
    return passing


def failure_count(facts: Sequence[Facts]) -> int:
    """How many things went wrong: an error counts where it arose, not again in the spans that it went through."""
    failed = sum(item.failed for item in facts)
    # In a loop of parents each passes the error on.
    return max(failed - len(passing_on(facts)), min(failed, 1))


def outermost_calls(facts: Sequence[Facts]) -> list[Facts]:
    """Model and embedding calls, without those inside another one: a client's span repeats its framework's tokens."""
    calls = {item.span_id for item in facts if item.calls_a_model}
    parents = {item.span_id: item.parent_id for item in facts}
    outermost = []
    inside: dict[int, bool] = {}
    for item in facts:
        path: dict[int, bool] = {}
        span_id = parents.get(item.span_id)
        while span_id is not None and span_id not in inside and span_id not in calls and span_id not in path:
            path[span_id] = True
            span_id = parents.get(span_id)
        found = span_id is not None and (span_id in calls or inside.get(span_id, False))
        inside.update(dict.fromkeys(path, found))
        if item.span_id in calls and not found:
            outermost.append(item)
    return outermost


def known_sum(counts: Iterable[int | None]) -> int | None:
    """The sum of what is known; None where nothing is."""
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def busy_ns(spans: Iterable[Facts]) -> int:
    """Nanoseconds in which at least one of the spans ran."""
    total_ns = until_ns = 0
    for start_ns, end_ns in sorted((item.start_ns, item.end_ns) for item in spans):
        total_ns += max(end_ns - max(start_ns, until_ns), 0)
        until_ns = max(until_ns, end_ns)
    return total_ns


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


def _given_request_id(span: ReadableSpan) -> str:
    """The request's id if it tells more than the trace id, which stands in for one that nobody gave."""
    request_id = _text(span, semconv.REQUEST_ID)
    is_made_up = span.context is not None and request_id == format(span.context.trace_id, "032x")
    return "" if is_made_up else request_id


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
