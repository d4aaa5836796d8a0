"""What a policy would have kept of the traces that are stored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from aiobs_core import semconv
from aiobs_core.sampling.conditions import checks_in
from aiobs_core.sampling.facts import facts_of_span
from aiobs_core.sampling.matcher import Known, Matcher
from aiobs_core.sampling.threshold import probability_of

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from aiobs_core.sampling.policy import SamplingPolicy

_UNTOLD: Final = {
    "user": "users are stored as keyed hashes, so a rule that names them finds none in the history",
    "tenant": "tenants are stored as keyed hashes, so a rule that names them finds none in the history",
}


@dataclass(slots=True, kw_only=True)
class Volume:
    """Traces and their spans; estimates where the history was sampled itself."""

    traces: float = 0.0
    spans: float = 0.0

    def add(self, weight: float, span_count: int) -> None:
        """Count traces of so many spans."""
        self.traces += weight
        self.spans += weight * span_count


@dataclass(slots=True, kw_only=True)
class Expected:
    """What a policy does to a history.

    Attributes:
        stored: Traces that it holds.
        seen: All that it stands for, since it may have been sampled itself.
        kept: What the policy keeps of them, on average.
        holding: By rule, the traces that its condition holds for.
        because: By rule, what is kept because of it.
        untold: Why some rules cannot be judged by a history.
        start_ns: Start of the oldest trace; 0 without any.
        end_ns: Start of the newest one.
    """

    stored: int = 0
    seen: Volume = field(default_factory=Volume)
    kept: Volume = field(default_factory=Volume)
    holding: dict[str, Volume] = field(default_factory=dict)
    because: dict[str, Volume] = field(default_factory=dict)
    untold: tuple[str, ...] = ()
    start_ns: int = 0
    end_ns: int = 0


def expected(policy: SamplingPolicy, traces: Iterable[Sequence[ReadableSpan]]) -> Expected:
    """What the policy would keep.

    Args:
        policy: The rules.
        traces: Spans by trace, the oldest trace first.
    """
    matcher = Matcher(policy)
    asked = {check.name for rule in policy.rules for check in checks_in(rule.when)}
    found = Expected(untold=tuple(why for name, why in _UNTOLD.items() if name in asked))
    for rule in policy.rules:
        found.holding[rule.name], found.because[rule.name] = Volume(), Volume()
    for spans in traces:
        known, weight = _known(matcher, spans)
        # On average, not by the luck of the trace's id: its randomness is not asked.
        decision = matcher.decide(known, 0, known.end_ns)
        found.stored += 1
        found.seen.add(weight, len(spans))
        for rule in matcher.holding(known):
            found.holding.setdefault(rule.name, Volume()).add(weight, len(spans))
        kept = weight * probability_of(decision.threshold)
        if kept:
            found.kept.add(kept, len(spans))
            found.because.setdefault(decision.reason, Volume()).add(kept, len(spans))
        found.start_ns = min(found.start_ns or known.start_ns, known.start_ns)
        found.end_ns = max(found.end_ns, known.start_ns)
    return found


def _known(matcher: Matcher, spans: Sequence[ReadableSpan]) -> tuple[Known, float]:
    known, weight = Known(), 1.0
    for span in spans:
        matcher.note(known, facts_of_span(span))
        if span.parent is None or span.parent.is_remote:
            known.operation = facts_of_span(span).name
        given = (span.attributes or {}).get(semconv.SAMPLING_ADJUSTED_COUNT)
        if isinstance(given, (int, float)) and given >= 1:
            weight = float(given)
    return known, weight
