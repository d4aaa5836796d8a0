"""What a sampling rule asks of a trace, as the Collector can ask it: of each span, of each event, or of the whole trace's length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final, NamedTuple

from aiobs_core import Kind, RunStatus, semconv
from aiobs_core._operation import UNSPENT
from aiobs_core.sampling.conditions import Check, Patterns
from aiobs_ops.collector import ottl
from aiobs_ops.collector.globs import is_glob
from aiobs_ops.collector.ottl import all_of, any_of, attribute, fits, number, text

IdForm = Callable[[str], "str | None"]
"""What a user's or tenant's id looks like when it leaves the process; None: it does not leave."""


class Spans(NamedTuple):
    """Holds where some span, or some event of a span, fulfils one of these conditions."""

    span: tuple[str, ...] = ()
    event: tuple[str, ...] = ()


class Lasts(NamedTuple):
    """Holds where the trace took at least so long, from the start of its first span to the end of its last one."""

    at_least_ms: int


Atom = Spans | Lasts


def atom_of(check: Check, user_id_form: IdForm | None, notes: list[str]) -> Atom:
    """The check in the Collector's terms.

    Args:
        check: One question of a rule.
        user_id_form: How ids of users and tenants leave; None: not known.
        notes: Where it is told how the Collector's answer can differ.

    Raises:
        ValueError: If the Collector cannot ask it; says why, and what to use instead.
    """
    if (reason := _REFUSED.get(check.name)) is not None:
        raise ValueError(f"{check.name}: {reason}")
    if (note := _NOTES.get(check.name)) is not None and (line := f"{check.name}: {note}") not in notes:
        notes.append(line)
    try:
        if check.name in _IDS:
            return Spans((_id(_IDS[check.name], check.value, user_id_form),))
        return _TRANSLATED[check.name](check.value)
    except ValueError as error:
        raise ValueError(f"{check.name}: {error}") from None


def _failed() -> str:
    return any_of(ottl.HAS_FAILED, f"{attribute(semconv.OUTCOME)} == {text(RunStatus.TIMED_OUT.value)}")


def _kind_is(*kinds: Kind) -> str:
    return any_of(*(f"{attribute(semconv.SPAN_KIND)} == {text(kind.value)}" for kind in kinds))


def _error(wanted: bool | Patterns) -> Spans:
    if not isinstance(wanted, tuple):
        return Spans((_failed(),))
    return Spans((all_of(_failed(), fits(attribute(semconv.ERROR_TYPE), wanted)),))


def _tool_failed(wanted: bool | Patterns) -> Spans:
    parts = [_kind_is(Kind.TOOL), _failed()]
    if isinstance(wanted, tuple):
        names = (attribute(semconv.GEN_AI_TOOL_NAME), attribute(semconv.AGENT_NAME), ottl.NAME)
        parts.append(ottl.first_fits(names, wanted))
    return Spans((all_of(*parts),))


def _model(wanted: Patterns) -> str:
    return ottl.first_fits((attribute(semconv.MODEL_NAME), attribute(semconv.MODEL_VERSION)), wanted)


def _tokens_over(most: float) -> str:
    """Arithmetic with nil is an error, which would make the whole condition false: each case by itself."""
    used, made = attribute(semconv.USAGE_INPUT_TOKENS), attribute(semconv.USAGE_OUTPUT_TOKENS)
    has_used, has_made, bound = f"IsInt({used})", f"IsInt({made})", number(most)
    spent = [f"{attribute(semconv.USAGE_SOURCE)} != {text(source)}" for source in sorted(UNSPENT)]
    return all_of(
        *spent,
        any_of(
            all_of(has_used, has_made, f"{used} + {made} > {bound}"),
            all_of(has_used, ottl.none_of(has_made), f"{used} > {bound}"),
            all_of(has_made, ottl.none_of(has_used), f"{made} > {bound}"),
        ),
    )


def _call_latency_over(most_s: float) -> str:
    # The greatest whole number of nanoseconds that is not over it, by the same division as in the process.
    most_ns = int(Decimal(repr(most_s)) * 10**9) + 2
    while most_ns / 1e9 > most_s:
        most_ns -= 1
    return f"{ottl.DURATION_NS} > {most_ns}"


_OF_A_CALL: Final[Mapping[str, Callable[[Any], str]]] = {
    "model": _model,
    "tokens_over": _tokens_over,
    "cost_over_usd": lambda most: f"{attribute(semconv.COST_USD)} > {number(most)}",
    "latency_over_s": _call_latency_over,
}


def _call(wanted: tuple[tuple[str, Any], ...]) -> Spans:
    parts = [_OF_A_CALL[name](value) for name, value in wanted]
    return Spans((all_of(_kind_is(Kind.MODEL, Kind.EMBEDDING), *parts),))


def _cost_over(most: float) -> Spans:
    bound = number(most)
    return Spans(
        (f"{attribute(semconv.COST_TOTAL_USD)} > {bound}", f"{attribute(semconv.COST_USD)} > {bound}")
    )


def _lasts(most_s: float) -> Lasts:
    exact_ms = Decimal(repr(most_s)) * 1000
    if exact_ms < 1 or exact_ms != int(exact_ms):
        raise ValueError(f"the Collector counts whole milliseconds, from 0.001 s; got {most_s} s")
    return Lasts(int(exact_ms))


def _operation(wanted: Patterns) -> Spans:
    named = {
        Kind.WORKFLOW: semconv.GEN_AI_WORKFLOW_NAME,
        Kind.AGENT: semconv.AGENT_NAME,
        Kind.TOOL: semconv.GEN_AI_TOOL_NAME,
    }
    ways = [all_of(_kind_is(kind), fits(attribute(name), wanted)) for kind, name in named.items()]
    others = [f"{attribute(semconv.SPAN_KIND)} != {text(kind.value)}" for kind in named]
    return Spans((all_of(ottl.IS_ROOT, any_of(*ways, all_of(*others, fits(ottl.NAME, wanted)))),))


def _id(name: str, wanted: Patterns, form: IdForm | None) -> str:
    if form is None:
        raise ValueError(
            "ids leave the process as keyed hashes, if at all; say in which form (--user-ids hash or clear, "
            "`user_id_form`), or use tag or attribute instead"
        )
    forms = []
    for pattern in wanted:
        shown = form(pattern)
        if shown is None:
            raise ValueError(
                "ids do not leave the process, or there is no key for their hashes; use tag instead"
            )
        if shown != pattern and is_glob(pattern):
            raise ValueError(
                f"the hash of an id fits no pattern, got {pattern!r}; name ids in full, or use tag instead"
            )
        forms.append(shown)
    return fits(attribute(name), forms)


def _tag(wanted: Patterns) -> Spans:
    if globs := [pattern for pattern in wanted if is_glob(pattern)]:
        raise ValueError(
            f"the Collector compares a tag as a whole, got {globs[0]!r}; name tags in full, or use attribute instead"
        )
    tags = attribute(semconv.TAGS)
    return Spans(
        (all_of(f"IsList({tags})", any_of(*(f"ContainsValue({tags}, {text(tag)})" for tag in wanted))),)
    )


def _attribute(wanted: tuple[tuple[str, Any, bool], ...]) -> Spans:
    return Spans((all_of(*(_attribute_is(attribute(name), value) for name, value, _ in wanted)),))


def _attribute_is(path: str, value: bool | float | Patterns) -> str:
    if isinstance(value, tuple):
        return fits(path, value)
    if isinstance(value, bool):
        return f"{path} == {'true' if value else 'false'}"
    return _number_is(path, value)


def _number_is(path: str, value: float) -> str:
    """By value, as in the process: 2 is 2.0, and neither is `true` or "2".

    OTTL compares two whole numbers exactly, but a whole number with a double as doubles, which have 53 bits: what only is equal
    when it has been rounded must not be.
    """
    literal, whole = number(value), int(value)
    if whole != value:
        return f"{path} == {literal}"
    if not -ottl.MAX_INT <= whole < ottl.MAX_INT:
        return all_of(f"IsDouble({path})", f"{path} == {literal}")
    is_it = f"{path} == {number(whole)}"
    return is_it if float(whole) == whole else all_of(f"IsInt({path})", is_it)


def _score(sign: str) -> Callable[[tuple[tuple[str, float], ...]], Spans]:
    def translated(wanted: tuple[tuple[str, float], ...]) -> Spans:
        score = ottl.event_attribute(semconv.GEN_AI_EVALUATION_SCORE)
        name = ottl.event_attribute(semconv.GEN_AI_EVALUATION_NAME)
        conditions = []
        for pattern, bound in wanted:
            named = [] if pattern == "*" else [fits(name, (pattern,))]
            is_score = f"{ottl.EVENT_NAME} == {text(semconv.EVENT_EVALUATION)}"
            conditions.append(all_of(is_score, *named, f"{score} {sign} {number(bound)}"))
        return Spans(event=tuple(conditions))

    return translated


_IDS: Final = {"user": semconv.USER_ID, "tenant": semconv.TENANT_ID}
_TRANSLATED: Final[Mapping[str, Callable[[Any], Atom]]] = {
    "error": _error,
    "tool_failed": _tool_failed,
    "call": _call,
    "cost_over_usd": _cost_over,
    "latency_over_s": _lasts,
    "model": lambda wanted: Spans((_model(wanted),)),
    "agent": lambda wanted: Spans((fits(attribute(semconv.AGENT_NAME), wanted),)),
    "operation": _operation,
    "session": lambda wanted: Spans((fits(attribute(semconv.SESSION_ID), wanted),)),
    "tag": _tag,
    "attribute": _attribute,
    "score_below": _score("<"),
    "score_over": _score(">"),
    "forced": lambda _: Spans((f"{attribute(semconv.SAMPLING_KEEP)} == true",)),
}
_REFUSED: Final[Mapping[str, str]] = {
    "tokens_over": "the Collector cannot add over spans; use call with tokens_over, which asks each call by itself, "
    "or cost_over_usd",
    "latency_over_quantile": "the Collector keeps no history of an operation; use latency_over_s",
}
_NOTES: Final[Mapping[str, str]] = {
    "cost_over_usd": f"the Collector cannot add over spans; it asks {semconv.COST_TOTAL_USD}, which each outermost run, and "
    "the request's span around it, has for itself and all inside it in its process. What several processes cost together it does "
    "not see.",
    "latency_over_s": "the Collector counts whole milliseconds, over all processes, and keeps what took longer than threshold_ms.",
    "forced": "keep() is seen; the baggage that asks for it only where a process has put it on a span, as an attribute of the same "
    "name.",
    "operation": "the name of the outermost run or request of the whole trace; in a process it is that of the process's part. "
    "Outermost model calls and retrievals have the name of their span, such as `chat gpt-4o`.",
}
RATE_REFUSED: Final = (
    "per_second: the Collector's rate_limiting counts spans, not traces, and has no rate for each group; "
    "use keep with a share"
)
