"""A policy made ready for decisions: every check is a bit, which spans set as they come.

What is known of a trace is one whole number and a few sums, so a decision costs the same for ten spans and for ten thousand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Final, NamedTuple

from aiobs_core.sampling.conditions import (
    CHECKS,
    All,
    Check,
    Condition,
    Not,
    checks_in,
    is_settled_by_a_yes,
    matches,
)
from aiobs_core.sampling.policy import FORCED, Rule, SamplingPolicy
from aiobs_core.sampling.rates import Latencies, Rates
from aiobs_core.sampling.threshold import RANDOM_VALUES, threshold_of
from aiobs_core.semconv.metrics import NO_RULE

if TYPE_CHECKING:
    from aiobs_core.sampling.conditions import Test
    from aiobs_core.sampling.facts import SpanFacts

_SUMS: Final = {  # what a check by a sum asks of `Known`
    "tokens_over": attrgetter("tokens"),
    "cost_over_usd": attrgetter("cost_usd"),
    "latency_over_s": attrgetter("latency_s"),
}
_MAX_GROUP_CHARS: Final = 256
_MAX_DRAWS: Final = 1_024


class Decision(NamedTuple):
    """What becomes of a trace.

    Attributes:
        is_kept: Whether it is exported.
        reason: Name of the rule that gave it the highest probability.
        threshold: Of that probability, see `aiobs_core.sampling.threshold`.
    """

    is_kept: bool
    reason: str
    threshold: int


class Known:
    """What is known of a trace so far; changed by `Matcher.note` only."""

    __slots__ = ("bits", "cost_usd", "end_ns", "groups", "operation", "start_ns", "tokens")

    def __init__(self) -> None:
        self.bits = 0
        self.tokens = 0
        self.cost_usd = 0.0
        self.start_ns = 0
        self.end_ns = 0
        self.operation: str | None = None
        self.groups: dict[str, str] | None = None

    @property
    def latency_s(self) -> float:
        """From the start of the first span to the end of the last one."""
        return (self.end_ns - self.start_ns) / 1e9


class _Draw(NamedTuple):
    """The two ends of traces of which the same is known: by their random bits they are below a threshold, or not."""

    threshold: int
    dropped: Decision
    kept: Decision


class _ReadyRule(NamedTuple):
    rule: Rule
    holds: Callable[[int], bool]
    threshold: int
    is_certain: bool  # once it holds, the trace is kept whatever still comes


class Matcher:
    """Answers the checks of a policy for the traces of one process. Used by one thread."""

    def __init__(self, policy: SamplingPolicy) -> None:
        rules = policy.rules
        if not any(check.name == FORCED for rule in rules for check in checks_in(rule.when)):
            rules = (Rule(name=FORCED, when=Check(FORCED, True)), *rules)
        bits: dict[Check, int] = {}
        for rule in rules:
            for check in checks_in(rule.when):
                bits.setdefault(check, 1 << len(bits))
        self._of_spans: tuple[tuple[int, Test], ...] = tuple(
            (bit, make(check.value))
            for check, bit in bits.items()
            if (make := CHECKS[check.name].test) is not None
        )
        self._sums = tuple(
            (bit, _SUMS[check.name], check.value) for check, bit in bits.items() if check.name in _SUMS
        )
        self._operations = tuple(
            (bit, matches(check.value)) for check, bit in bits.items() if check.name == "operation"
        )
        self._quantiles = tuple(
            (bit, check.value) for check, bit in bits.items() if check.name == "latency_over_quantile"
        )
        self._rules = tuple(
            _ReadyRule(
                rule,
                _holds(rule.when, bits),
                threshold_of(rule.keep),
                rule.per_second is None and rule.keep >= 1 and is_settled_by_a_yes(rule.when),
            )
            for rule in rules
        )
        self._certain = tuple(ready for ready in self._rules if ready.is_certain)
        self._groups = tuple({rule.per for rule in rules if rule.per is not None})
        self._draws: dict[int, _Draw] = {}  # by bits
        self._rates = Rates()
        self._latencies = Latencies()

    def note(self, known: Known, span: SpanFacts) -> bool:
        """Add a span to what is known of its trace; whether that answered a check with yes."""
        before = bits = known.bits
        for bit, test in self._of_spans:
            if not bits & bit and test(span):
                bits |= bit
        start_ns, end_ns = span.start_ns, span.end_ns
        if end_ns > known.end_ns:  # noqa: PLR1730 (max() takes five times as long)
            known.end_ns = end_ns
        if start_ns < known.start_ns or not known.start_ns:
            known.start_ns = start_ns
        if span.tokens is not None and span.calls_a_model:
            known.tokens += span.tokens
        if span.cost_usd is not None:
            known.cost_usd += span.cost_usd
        for bit, sum_of, most in self._sums:
            if not bits & bit and sum_of(known) > most:
                bits |= bit
        if self._groups:
            self._note_groups(known, span)
        known.bits = bits
        return bits != before

    def certain(self, known: Known, *, has_ended: bool = False) -> Decision | None:
        """The decision, if a rule holds already that keeps the trace whatever still comes.

        Args:
            known: What there is of the trace.
            has_ended: Whether nothing more comes, so that any rule that keeps all of its traces will do.
        """
        bits = self._with_operation(known) if has_ended else known.bits
        for ready in self._rules if has_ended else self._certain:
            if ready.rule.per_second is None and not ready.threshold and ready.holds(bits):
                return Decision(True, ready.rule.name, 0)
        return None

    def decide(self, known: Known, randomness: int, now_ns: int) -> Decision:
        """The decision on what is known.

        Args:
            known: All of the trace, or what there is of it.
            randomness: 56 bits of the trace, see `aiobs_core.sampling.threshold`.
            now_ns: A monotonic clock, for the rules that limit rates.
        """
        bits = known.bits = self._at_end(known)
        draw = self._draws.get(bits) or self._draw(bits, known, now_ns)
        return draw.kept if randomness >= draw.threshold else draw.dropped

    def _draw(self, bits: int, known: Known, now_ns: int) -> _Draw:
        """What the rules give a trace; remembered, unless it depends on how many there were of late."""
        is_steady = True
        best, threshold = None, RANDOM_VALUES
        for ready in self._rules:
            if not ready.holds(bits):
                continue
            given = ready.threshold
            if (per_second := ready.rule.per_second) is not None:
                is_steady = False
                group = (ready.rule.name, self._group_of(known, ready.rule.per))
                given = threshold_of(self._rates.probability(group, per_second, now_ns))
            if best is None or given < threshold:
                best, threshold = ready.rule.name, given
            if not threshold:
                break
        reason = best or NO_RULE
        draw = _Draw(threshold, Decision(False, reason, threshold), Decision(True, reason, threshold))
        if is_steady:
            if len(self._draws) >= _MAX_DRAWS:
                self._draws.clear()
            self._draws[bits] = draw
        return draw

    def holding(self, known: Known) -> Iterable[Rule]:
        """The rules whose condition holds for a trace that was decided, in their order; for explanations."""
        return [ready.rule for ready in self._rules if ready.holds(known.bits)]

    def _at_end(self, known: Known) -> int:
        if not isinstance(known.operation, str):  # an adapter may have passed on anything
            known.operation = None
        bits = self._with_operation(known) if self._operations else known.bits
        if self._quantiles:
            operation, latency_s = known.operation or "", known.latency_s
            for bit, quantile in self._quantiles:
                if self._latencies.is_over(operation, latency_s, quantile):
                    bits |= bit
            self._latencies.record(operation, latency_s)
        return bits

    def _with_operation(self, known: Known) -> int:
        bits = known.bits
        for bit, fits in self._operations:
            if fits(known.operation):
                bits |= bit
        return bits

    def _note_groups(self, known: Known, span: SpanFacts) -> None:
        groups = known.groups
        if groups is None:
            groups = known.groups = {}
        for name in self._groups:
            if name in groups or name == "operation":
                continue
            value = (span.tags[0] if span.tags else None) if name == "tag" else getattr(span, name)
            if value and isinstance(value, (str, int)):  # what cannot be hashed is no group
                groups[name] = str(value)[:_MAX_GROUP_CHARS]

    def _group_of(self, known: Known, per: str | None) -> str | None:
        if per is None:
            return None
        return known.operation if per == "operation" else (known.groups or {}).get(per)


def _holds(condition: Condition, bits: dict[Check, int]) -> Callable[[int], bool]:
    """The condition as a function of the bits."""
    if isinstance(condition, Check):
        bit = bits[condition]
        return lambda known: known & bit != 0
    if isinstance(condition, Not):
        part = _holds(condition.part, bits)
        return lambda known: not part(known)
    if all(isinstance(each, Check) for each in condition.parts):
        mask = sum({bits[each] for each in checks_in(condition)})
        if isinstance(condition, All):
            return lambda known: known & mask == mask
        return lambda known: known & mask != 0
    parts = [_holds(each, bits) for each in condition.parts]
    if isinstance(condition, All):
        return lambda known: all(part(known) for part in parts)
    return lambda known: any(part(known) for part in parts)
