"""What a rule may ask of a trace: the vocabulary, how it is read from data, and how each question is answered.

A condition is data: checks, joined by all, any and not. A check is answered either by a single span (`error`), by a sum over
the spans (`cost_over_usd`), or when the trace has ended (`latency_over_s`).
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiobs_core._errors import all_made, did_you_mean

if TYPE_CHECKING:
    from aiobs_core.sampling.facts import SpanFacts

_MAX_DEPTH: Final = 16
_SPECIAL: Final = re.compile(r"[*?[]")
Patterns = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """One question, by its name in `CHECKS`, and what is asked for."""

    name: str
    value: Any


@dataclass(frozen=True, slots=True)
class All:
    """Holds where each part does; without parts always."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Holds where one part does."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Holds where its part does not, once the trace has ended."""

    part: Condition


Condition = Check | All | AnyOf | Not
Test = Callable[["SpanFacts"], bool]


class Question(NamedTuple):
    """How a check is read and answered.

    Attributes:
        parse: Makes the value; raises ValueError that says what is accepted.
        test: Makes the answer from a value, where a single span gives it; None where it takes the whole trace.
        brief: What it asks, for documentation.
        may_change: Whether a yes can become a no; never before the trace has ended for the others.
    """

    parse: Callable[[object], Any]
    test: Callable[[Any], Test] | None
    brief: str
    may_change: bool = False


# --- values -----------------------------------------------------------------------------------------------------


def _yes(value: object) -> bool:
    if value is not True:
        raise ValueError("true")
    return True


def _patterns(value: object) -> Patterns:
    given = (value,) if isinstance(value, str) else value
    if not isinstance(given, (list, tuple)) or not given or not all(isinstance(each, str) for each in given):
        raise ValueError('a pattern such as "gpt-4*", or a list of them')
    return tuple(given)


def _yes_or_patterns(value: object) -> bool | Patterns:
    return True if value is True else _patterns(value)


def _number(low: float, high: float, unit: str) -> Callable[[object], float]:
    def parse(value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"a number of {unit} from {low:g} to {high:g}")
        return value

    return parse


def _quantile(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.5 <= value <= 0.9999:
        raise ValueError("a quantile from 0.5 to 0.9999")
    return float(value)


def _table(value: object, accepted: Mapping[str, Callable[[object], Any]]) -> tuple[tuple[str, Any], ...]:
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"a table of {', '.join(accepted)}")

    def entry(name: str, given: object) -> tuple[str, Any]:
        if name not in accepted:
            near = did_you_mean(name, accepted)
            raise ValueError(f"a table of {', '.join(accepted)}, without {name!r}{near}")
        try:
            return name, accepted[name](given)
        except ValueError as error:
            raise ValueError(f"for {name} {error}") from None

    return tuple(all_made(partial(entry, str(name), given) for name, given in value.items()))


def _call(value: object) -> tuple[tuple[str, Any], ...]:
    return _table(value, _OF_A_CALL)


def _attributes(value: object) -> tuple[tuple[str, Any, bool], ...]:
    if not isinstance(value, Mapping) or not value:
        raise ValueError('a table such as { "shop.tier" = "gold*" }')
    # With whether it is a truth value: to Python 1 and true are equal, and two checks that are equal share an answer.
    return tuple((str(name), _plain(given), isinstance(given, bool)) for name, given in value.items())


def _plain(value: object) -> bool | int | float | Patterns:
    return value if isinstance(value, (bool, int, float)) else _patterns(value)


def _scores(value: object) -> tuple[tuple[str, float], ...]:
    number = _number(-1e9, 1e9, "points")
    if isinstance(value, Mapping) and value:
        return tuple((str(name), number(given)) for name, given in value.items())
    return (("*", number(value)),)


# --- answers ----------------------------------------------------------------------------------------------------


def matches(patterns: Patterns) -> Callable[[str | None], bool]:
    """Whether a text fits one of the patterns (`*`, `?`, `[…]`; upper and lower case are told apart); None never does."""
    if all(pattern.endswith("*") and not _SPECIAL.search(pattern[:-1]) for pattern in patterns):
        starts = tuple(pattern[:-1] for pattern in patterns)  # the usual ones, in a third of the time
        return lambda text: isinstance(text, str) and str.startswith(text, starts)
    fits = re.compile("|".join(f"(?:{fnmatch.translate(pattern)})" for pattern in patterns)).match
    return lambda text: isinstance(text, str) and fits(text) is not None


def _failed(wanted: bool | Patterns) -> Test:
    if wanted is True:
        return lambda span: span.failed
    fits = matches(wanted)  # type: ignore[arg-type]
    return lambda span: span.failed and fits(span.error_type)


def _tool_failed(wanted: bool | Patterns) -> Test:
    if wanted is True:
        return lambda span: span.failed and span.kind == "tool"
    fits = matches(wanted)  # type: ignore[arg-type]
    return lambda span: span.failed and span.kind == "tool" and fits(span.name)


def _call_is(wanted: tuple[tuple[str, Any], ...]) -> Test:
    tests = [_CALL_TESTS[name](value) for name, value in wanted]

    def test(span: SpanFacts) -> bool:
        if not span.calls_a_model:
            return False
        for each in tests:  # noqa: SIM110 (a generator takes as long as the tests)
            if not each(span):
                return False
        return True

    return test


def _has(field: str) -> Callable[[Patterns], Test]:
    def test(wanted: Patterns) -> Test:
        fits = matches(wanted)
        return lambda span: fits(getattr(span, field))

    return test


def _tagged(wanted: Patterns) -> Test:
    fits = matches(wanted)
    return lambda span: any(map(fits, span.tags))


def _has_attributes(wanted: tuple[tuple[str, Any, bool], ...]) -> Test:
    tests = [
        (name, matches(value) if isinstance(value, tuple) else _equals(value, is_truth))
        for name, value, is_truth in wanted
    ]

    def test(span: SpanFacts) -> bool:
        get = span.attributes.get
        return all(fits(get(name)) for name, fits in tests)

    return test


def _equals(value: bool | float, is_truth: bool) -> Callable[[Any], bool]:
    types = (bool,) if is_truth else (int, float)
    return lambda given: type(given) in types and given == value


def _scored(is_over: bool) -> Callable[[tuple[tuple[str, float], ...]], Test]:
    def test(wanted: tuple[tuple[str, float], ...]) -> Test:
        bounds = [(matches((name,)), bound) for name, bound in wanted]
        return lambda span: any(
            fits(name) and (score > bound if is_over else score < bound)
            for name, score in span.scores
            for fits, bound in bounds
        )

    return test


_OF_A_CALL: Final[dict[str, Callable[[object], Any]]] = {
    "model": _patterns,
    "tokens_over": _number(0, 1e12, "tokens"),
    "cost_over_usd": _number(0, 1e9, "USD"),
    "latency_over_s": _number(0, 1e9, "seconds"),
}
_CALL_TESTS: Final[dict[str, Callable[[Any], Test]]] = {
    "model": _has("model"),
    "tokens_over": lambda most: lambda span: span.tokens is not None and span.tokens > most,
    "cost_over_usd": lambda most: lambda span: span.cost_usd is not None and span.cost_usd > most,
    "latency_over_s": lambda most: lambda span: (span.end_ns - span.start_ns) / 1e9 > most,
}

CHECKS: Final[dict[str, Question]] = {
    "error": Question(
        _yes_or_patterns, _failed, "A run failed or timed out; with patterns: with such a class of error"
    ),
    "tool_failed": Question(_yes_or_patterns, _tool_failed, "A tool failed; with patterns: one of such a name"),
    "call": Question(
        _call, _call_is, "One model call has all of: `model`, `tokens_over`, `cost_over_usd`, `latency_over_s`"
    ),
    "tokens_over": Question(
        _number(0, 1e12, "tokens"), None, "All model calls together took more tokens, input and output"
    ),
    "cost_over_usd": Question(_number(0, 1e9, "USD"), None, "The trace cost more dollars"),
    "latency_over_s": Question(_number(0, 1e9, "seconds"), None, "The trace took longer, in seconds"),
    "latency_over_quantile": Question(
        _quantile, None, "The trace took longer than this share of earlier traces of the same operation", may_change=True
    ),
    "model": Question(_patterns, _has("model"), "A model of such a name was called"),
    "agent": Question(_patterns, _has("agent"), "An agent of such a name ran"),
    "operation": Question(
        _patterns, None, "The outermost run or request has such a name", may_change=True
    ),
    "user": Question(_patterns, _has("user"), "Such a user, as the application names it"),
    "session": Question(_patterns, _has("session"), "Such a session or conversation"),
    "tenant": Question(_patterns, _has("tenant"), "Such a tenant"),
    "tag": Question(_patterns, _tagged, "Such a tag of `using_attributes`"),
    "attribute": Question(
        _attributes, _has_attributes, "A span with all these attributes; of aiobs' own runs those the application set"
    ),
    "score_below": Question(_scores, _scored(is_over=False), "A score below it, of `feedback` or an evaluator"),
    "score_over": Question(_scores, _scored(is_over=True), "A score above it"),
    "forced": Question(_yes, lambda _: lambda span: span.is_forced, "`keep()` was called, or baggage asks for it"),
}  # fmt: skip
"""All checks by name."""

_JOINTS: Final = ("all", "any", "not")


def condition_of(table: object, *, depth: int = 0) -> Condition:
    """The condition that a table says; several entries of one table all have to hold.

    Raises:
        ValueError: If there is anything in it that is not understood; says what is accepted.
    """
    if not isinstance(table, Mapping):
        raise ValueError(f"expected a table of conditions such as {{ error = true }}, got {table!r}")
    if depth > _MAX_DEPTH:
        raise ValueError(f"expected conditions nested at most {_MAX_DEPTH} deep")
    parts = tuple(all_made(partial(_part_of, str(name), value, depth) for name, value in table.items()))
    if not parts:
        raise ValueError("expected a condition, got an empty table; leave `when` out to mean every trace")
    return parts[0] if len(parts) == 1 else All(parts)


def _part_of(name: str, value: object, depth: int) -> Condition:
    if name == "not":
        return Not(condition_of(value, depth=depth + 1))
    if name in _JOINTS:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ValueError(f"{name}: expected a list of conditions, got {value!r}")
        parts = tuple(all_made(partial(condition_of, each, depth=depth + 1) for each in value))
        return All(parts) if name == "all" else AnyOf(parts)
    question = CHECKS.get(name)
    if question is None:
        known = [*CHECKS, *_JOINTS]
        raise ValueError(
            f"{name}: no such condition, expected one of {', '.join(known)}{did_you_mean(name, known)}"
        )
    if value is False and question.parse in (_yes, _yes_or_patterns):
        return Not(Check(name, True))
    try:
        return Check(name, question.parse(value))
    except ValueError as error:
        raise ValueError(f"{name}: expected {error}, got {value!r}") from None


def checks_in(condition: Condition) -> Iterator[Check]:
    """The checks that a condition is made of."""
    if isinstance(condition, Check):
        yield condition
    elif isinstance(condition, Not):
        yield from checks_in(condition.part)
    else:
        for part in condition.parts:
            yield from checks_in(part)


def is_settled_by_a_yes(condition: Condition) -> bool:
    """Whether the condition, once it holds, goes on to hold whatever still comes."""
    if isinstance(condition, Check):
        return not CHECKS[condition.name].may_change
    if isinstance(condition, Not):
        return False
    return all(map(is_settled_by_a_yes, condition.parts))


def text_of(condition: Condition) -> str:
    """The condition in words, such as `error and not (tag = "test")`."""
    if isinstance(condition, Check):
        return _check_text(condition)
    if isinstance(condition, Not):
        return f"not ({text_of(condition.part)})"
    joint = " and " if isinstance(condition, All) else " or "
    return joint.join(
        f"({text_of(part)})" if isinstance(part, (All, AnyOf)) else text_of(part) for part in condition.parts
    )


def _check_text(check: Check) -> str:
    name, value = check.name, check.value
    if value is True:
        return name
    if name in ("call", "attribute"):
        return f"{name} (" + ", ".join(f"{key} {_value_text(each)}" for key, each, *_ in value) + ")"
    if name in ("score_below", "score_over"):
        return f"{name} " + ", ".join(
            f"{bound:g}" if key == "*" else f"{bound:g} of {key}" for key, bound in value
        )
    return f"{name} {_value_text(value)}"


def _value_text(value: Any) -> str:
    if isinstance(value, tuple):
        return " or ".join(value)
    return f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
