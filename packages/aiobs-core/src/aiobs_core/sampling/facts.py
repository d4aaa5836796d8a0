"""What rules ask of a span, read from a finished run, from another instrumentation's span, or from what was stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard

from opentelemetry.trace import StatusCode

from aiobs_core import semconv
from aiobs_core._operation import UNSPENT, Kind, RunStatus

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from aiobs_core._run import Run

# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_AGENT: Final = Kind.AGENT
_FAILED: Final = (RunStatus.ERROR, RunStatus.TIMED_OUT)
_CALLS_A_MODEL: Final = (Kind.MODEL, Kind.EMBEDDING)
_ERROR: Final = StatusCode.ERROR
_TIMED_OUT: Final = RunStatus.TIMED_OUT.value
_NOTHING: Final[Mapping[str, Any]] = {}
_MAX_NUMBER: Final = 10**15  # what foreign code counts may be anything; more is no count
_RUN_BYTES: Final = 2_500  # of a run without its content, measured
_TOKEN_BYTES: Final = 4
_VALUE_BYTES: Final = 120


class SpanFacts(NamedTuple):
    """One span, as rules see it. None is unknown.

    Attributes:
        kind: As `ai.agent.span.kind`; None of a span that aiobs did not make.
        name: Of a run the tool, agent, chain or model; else the span's name.
        failed: Whether it ended as an error, or timed out.
        tokens: Input and output of a model call, if it spent them itself.
        cost_usd: What this span cost by itself.
        start_ns: Since the epoch.
        end_ns: Since the epoch.
        attributes: What the application has put on the span.
        scores: What was said of it, from `feedback` and evaluators.
    """

    kind: str | None
    name: str
    failed: bool
    error_type: str | None
    model: str | None
    tokens: int | None
    cost_usd: float | None
    start_ns: int
    end_ns: int
    agent: str | None
    user: str | None
    session: str | None
    tenant: str | None
    tags: tuple[str, ...]
    attributes: Mapping[str, Any]
    scores: tuple[tuple[str, float], ...]
    is_forced: bool

    @property
    def calls_a_model(self) -> bool:
        """Whether it is a call whose tokens and cost are its own."""
        return self.kind in _CALLS_A_MODEL


def facts_of_run(run: Run) -> SpanFacts:
    """What rules ask of a finished run; it must have been priced."""
    span, operation, outcome, request = run.span, run.operation, run.outcome, run.span.request
    usage, tokens = outcome.usage, None
    if usage is not None and usage.source not in UNSPENT:
        tokens = _sum(usage.input_tokens, usage.output_tokens)
    return SpanFacts(
        run.kind,
        operation.name,
        run.status in _FAILED,
        run.error_type,
        operation.model or outcome.model,
        tokens,
        run.cost_usd,
        span.start_ns,
        span.end_ns,
        operation.name if run.kind is _AGENT else run.agent,
        (request.user_id if request is not None else None) or operation.user_id,
        (request.session_id if request is not None else None) or operation.conversation_id,
        request.tenant_id if request is not None else None,
        request.tags if request is not None else (),
        span.attributes or _NOTHING,
        _scores((name, given) for name, _, given in span.events) if span.events else (),
        span.trace.is_forced,
    )


def facts_of_span(span: ReadableSpan) -> SpanFacts:
    """What rules ask of a span by its attributes: another instrumentation's, or one that aiobs has exported.

    Users and tenants may have left as hashes, and are then unknown to rules that name them.
    """
    attributes: Mapping[str, Any] = span.attributes or _NOTHING
    get = attributes.get
    kind = get(semconv.SPAN_KIND)
    spent = kind in _CALLS_A_MODEL and get(semconv.USAGE_SOURCE) not in UNSPENT
    tokens = _sum(get(semconv.USAGE_INPUT_TOKENS), get(semconv.USAGE_OUTPUT_TOKENS)) if spent else None
    tags = get(semconv.TAGS)
    return SpanFacts(
        kind,
        get(semconv.GEN_AI_TOOL_NAME) or get(semconv.AGENT_NAME) or span.name,
        span.status.status_code is _ERROR or get(semconv.OUTCOME) == _TIMED_OUT,
        get(semconv.ERROR_TYPE),
        get(semconv.MODEL_NAME) or get(semconv.MODEL_VERSION),
        tokens,
        _number(get(semconv.COST_USD)),
        span.start_time or 0,
        span.end_time or span.start_time or 0,
        get(semconv.AGENT_NAME),
        get(semconv.USER_ID),
        get(semconv.SESSION_ID),
        get(semconv.TENANT_ID),
        tuple(tags) if isinstance(tags, (list, tuple)) else (),
        attributes,
        _scores((event.name, event.attributes or _NOTHING) for event in span.events),
        get(semconv.SAMPLING_KEEP) is True,
    )


def _scores(events: Iterable[tuple[str, Mapping[str, Any]]]) -> tuple[tuple[str, float], ...]:
    found = []
    for name, given in events:
        score = given.get(semconv.GEN_AI_EVALUATION_SCORE) if name == semconv.EVENT_EVALUATION else None
        if _is_number(score) and -_MAX_NUMBER <= score <= _MAX_NUMBER:
            found.append((str(given.get(semconv.GEN_AI_EVALUATION_NAME, "")), float(score)))
    return tuple(found)


def bytes_of_run(run: Run) -> int:
    """What a finished run takes in memory, about: what was said is held by reference until its trace is decided."""
    size_bytes, usage = _RUN_BYTES, run.outcome.usage
    if usage is not None:
        size_bytes += _TOKEN_BYTES * (_sum(usage.input_tokens, usage.output_tokens) or 0)
    if run.span.attributes:
        size_bytes += _VALUE_BYTES * len(run.span.attributes)
    return size_bytes


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _number(value: object) -> float | None:
    return value if _is_number(value) and 0 <= value <= _MAX_NUMBER else None


def _sum(given: object, out: object) -> int | None:
    """Of what is a count; None if neither is."""
    if type(given) is not int or not 0 <= given <= _MAX_NUMBER:
        given = None
    if type(out) is not int or not 0 <= out <= _MAX_NUMBER:
        return given
    return out if given is None else given + out
