"""`TailSampler`: holds finished spans back until their trace is decided, within bounds."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from aiobs_core import semconv
from aiobs_core._run import Run
from aiobs_core.privacy.foreign import ForeignSpan
from aiobs_core.sampling.facts import bytes_of_run, facts_of_run, facts_of_span
from aiobs_core.sampling.matcher import Decision, Known, Matcher
from aiobs_core.sampling.threshold import adjusted_count_of, mixed, randomness_of, upstream_threshold
from aiobs_core.sampling.trace import Limits, Recent, Trace
from aiobs_core.semconv import metrics as names

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import TraceState

    from aiobs_core._span import AgentSpan, LocalTrace
    from aiobs_core.metrics.meters import Meters
    from aiobs_core.metrics.series import Number
    from aiobs_core.sampling.policy import SamplingPolicy

    Ended = Run | ReadableSpan | ForeignSpan

_FAR: Final = 1 << 62
_MAX_DECIDED: Final = 16_384
_FREED_SHARE: Final = 0.1  # of the buffer at a time: the search for traces to give up has to be rare
_VALUE_BYTES: Final = 120


class TailSampler:
    """The stage `decide`, where a policy may drop traces. Used by the worker only.

    Every span is given to it once and comes out at most once, at once or from `due` or `release`; what does not come out was
    dropped, and is counted. A trace is decided when its outermost span in this process has ended: of a run inside a span of
    another instrumentation that passes here, too, that is the outermost of those. All its spans share the decision, those that
    come later, too.

    Args:
        policy: The rules.
        limits: Bounds of what is held back.
        sees_foreign: Whether spans of other instrumentations pass here, so that they can be waited for.
        is_second: Whether a head sampler has decided by the trace id before.
        meters: Where decisions and dropped spans are counted.
    """

    def __init__(
        self,
        policy: SamplingPolicy,
        limits: Limits,
        *,
        sees_foreign: bool,
        is_second: bool,
        meters: Meters,
    ) -> None:
        self._matcher = Matcher(policy)
        self._limits = limits
        self._sees_foreign = sees_foreign
        self._is_second = is_second
        self._meters = meters
        self._spans_dropped = meters.number(names.SAMPLING_SPANS_DROPPED)
        self._decisions: dict[tuple[bool, str], Number] = {}
        self._open: OrderedDict[int, Trace] = OrderedDict()  # undecided, the oldest first
        self._ending: dict[int, Trace] = {}  # of these, those that wait for stragglers only
        self._decided: OrderedDict[int, Trace] = OrderedDict()
        self._dropped_alone = Recent(_MAX_DECIDED)
        self.span_count = 0
        self.size_bytes = 0

    @property
    def trace_count(self) -> int:
        """Undecided traces."""
        return len(self._open)

    def sample(self, batch: Sequence[Any], now_ns: int) -> list[Ended]:
        """Take finished spans; returns those of decided and kept traces, in the order in which they ended.

        Args:
            batch: Runs that were read and priced, and spans of other instrumentations.
            now_ns: A monotonic clock.
        """
        out: list[Ended] = []
        limits = self._limits
        for item in batch:
            if type(item) is Run:
                self._take_run(item, now_ns, out)
            else:
                self._take_foreign(item, now_ns, out)
            if self._open and (
                self.span_count > limits.spans
                or self.size_bytes > limits.size_bytes
                or len(self._open) > limits.traces
            ):
                self._make_room(now_ns, out)
        return out

    def due(self, now_ns: int) -> list[Ended]:
        """What has waited long enough."""
        out: list[Ended] = []
        for trace in [each for each in self._ending.values() if each.deadline_ns <= now_ns]:
            self._decide(trace, now_ns, out)
        while (first := next(iter(self._open.values()), None)) is not None and first.limit_ns <= now_ns:
            self._decide(first, now_ns, out)
        return out

    def next_ns(self) -> int:
        """When `due` has something to do at the earliest."""
        first = next(iter(self._open.values()), None)
        ending_ns = min((trace.deadline_ns for trace in self._ending.values()), default=_FAR)
        return ending_ns if first is None else min(ending_ns, first.limit_ns)

    def release(self, now_ns: int, *, everything: bool) -> list[Ended]:
        """Decide the traces that have ended, or all, without waiting any longer."""
        out: list[Ended] = []
        for trace in list(self._open.values()):
            if everything or trace.has_ended:
                self._decide(trace, now_ns, out)
        return out

    # --- spans come -------------------------------------------------------------------------------------------------

    def _take_run(self, run: Run, now_ns: int, out: list[Ended]) -> None:
        span = run.span
        local = span.trace
        if not local.sampled:  # by the head sampler, or by whoever called us
            self._spans_dropped.value += 1
            return
        trace = None if local.tail is None else self._followed(local, local.tail)
        if trace is None:
            is_alone = span.parent is None and not span.open_children and local.tail is None
            if is_alone and self._takes_alone(run, now_ns, out):
                return
            trace = self._trace_of(local.trace_id, now_ns, local.state, is_run=True)
            trace.is_incomplete = trace.is_incomplete or local.tail is not None
            local.tail = trace
        known, is_news = trace.known, False
        if known is not None:
            is_news = self._matcher.note(known, facts_of_run(run))
            if run.above is None:
                known.operation = run.span.name_override or run.operation.name
        self._place(trace, run, bytes_of_run(run), is_news, out, has_ended=span.is_local_root)
        if trace.decision is None and run.above is None:  # a root that is no run does not pass
            root = span.local_root
            trace.has_ended = root.end_ns != 0 and self._is_outermost(root)
            if not trace.has_ended:
                self._wait(trace, now_ns + self._limits.idle_ns)
            elif root is not span or span.open_children:
                self._wait(trace, now_ns + self._limits.grace_ns)
            else:
                self._decide(trace, now_ns, out)

    def _followed(self, local: LocalTrace, trace: Trace) -> Trace | None:
        """The trace that a run goes on with; None if it is not this sampler's to decide."""
        if trace.decision is not None and trace.decision.is_kept:
            return trace
        if trace.matcher is not self._matcher:  # of another policy, or of the process that forked this one
            return None
        decided = self._decided.get(local.trace_id) if trace.decision is not None else None
        if decided is not None and decided.decision.is_kept:  # type: ignore[union-attr]  # because of another part of it
            local.tail = decided
            return decided
        return trace

    def _takes_alone(self, run: Run, now_ns: int, out: list[Ended]) -> bool:
        """Decide a run that is a whole trace by itself, without the bookkeeping of others; False if it is none."""
        local = run.span.trace
        trace_id = local.trace_id
        if (
            trace_id in self._open
            or trace_id in self._decided
            or trace_id in self._dropped_alone
            or local.state
            or not self._is_outermost(run.span)
        ):
            return False
        known = Known()
        self._matcher.note(known, facts_of_run(run))
        known.operation = run.span.name_override or run.operation.name
        randomness = mixed(trace_id) if self._is_second else randomness_of(trace_id)
        decision = self._matcher.decide(known, randomness, now_ns)
        if decision.is_kept:
            trace = local.tail = Trace(trace_id, now_ns, self._matcher)
            trace.has_ended = True
            self._settle(trace, decision, out)
            out.append(self._marked(trace, run))
        else:
            self._dropped_alone.add(trace_id)
            self._count(decision)
            self._spans_dropped.value += 1
        return True

    def _take_foreign(self, item: ReadableSpan | ForeignSpan, now_ns: int, out: list[Ended]) -> None:
        span = item.span if isinstance(item, ForeignSpan) else item
        context = span.context
        if context is None:
            out.append(item)
            return
        trace = self._trace_of(context.trace_id, now_ns, context.trace_state, is_run=False)
        is_outermost = span.parent is None or span.parent.is_remote
        known, is_news = trace.known, False
        if known is not None:
            is_news = self._matcher.note(known, facts_of_span(span))
            if is_outermost:
                known.operation = span.name
        size_bytes = _VALUE_BYTES * (8 + len(span.attributes or ()))
        self._place(trace, item, size_bytes, is_news, out, has_ended=is_outermost)
        if is_outermost and trace.decision is None:
            trace.has_ended = True
            self._decide(trace, now_ns, out)
        elif trace.trace_id in self._ending and not trace.has_ended:
            self._wait(trace, now_ns + self._limits.idle_ns)

    def _trace_of(self, trace_id: int, now_ns: int, state: TraceState | None, *, is_run: bool) -> Trace:
        trace = self._open.get(trace_id)
        if trace is None:
            decided = self._decided.get(trace_id) or self._alone(trace_id)
            if decided is not None and (decided.decision.is_kept or not is_run):  # type: ignore[union-attr]
                self._decided.move_to_end(trace_id)
                return decided
            # New, or another part of a trace of which the parts before were dropped: it may have failed since.
            limit_ns = now_ns + self._limits.wait_ns
            trace = self._open[trace_id] = Trace(trace_id, limit_ns, self._matcher)
            trace.is_incomplete = decided is not None
            trace.randomness = mixed(trace_id) if self._is_second else randomness_of(trace_id, state)
        if trace.upstream is None and state:
            trace.upstream = upstream_threshold(trace_id, state)
        return trace

    def _alone(self, trace_id: int) -> Trace | None:
        """A trace of one run that was dropped: nothing was kept of it but its id."""
        if trace_id not in self._dropped_alone:
            return None
        trace = Trace(trace_id, 0, self._matcher)
        trace.has_ended = True
        trace.decision = Decision(False, "", 0)
        self._remember(trace)
        return trace

    def _is_outermost(self, span: AgentSpan) -> bool:
        above = span.parent_context
        return above is None or above.is_remote or not self._sees_foreign

    def _place(
        self, trace: Trace, item: Ended, size_bytes: int, is_news: bool, out: list[Ended], *, has_ended: bool
    ) -> None:
        """Hold a span back, or do with it what was decided."""
        if trace.decision is None:
            trace.spans.append(item)
            trace.size_bytes += size_bytes
            self.span_count += 1
            self.size_bytes += size_bytes
            if trace.upstream is not None:
                self._settle(trace, Decision(True, names.UPSTREAM_RULE, trace.upstream), out)
            elif is_news and (certain := self._matcher.certain(trace.known)) is not None:  # type: ignore[arg-type]
                self._settle(trace, certain, out)
            return
        if (is_news or has_ended) and trace.known is not None:
            certain = self._matcher.certain(trace.known, has_ended=has_ended)
            if certain is not None:  # it was dropped before its end; it goes on, and from here on it is kept
                trace.is_incomplete = True
                self._settle(trace, certain, out)
        if trace.decision.is_kept:
            out.append(self._marked(trace, item))
        else:
            self._spans_dropped.value += 1

    def _wait(self, trace: Trace, until_ns: int) -> None:
        trace.deadline_ns = min(until_ns, trace.limit_ns)
        self._ending[trace.trace_id] = trace

    # --- decisions --------------------------------------------------------------------------------------------------

    def _decide(self, trace: Trace, now_ns: int, out: list[Ended]) -> None:
        if trace.decision is None and trace.known is not None:
            self._settle(trace, self._matcher.decide(trace.known, trace.randomness, now_ns), out)

    def _settle(self, trace: Trace, decision: Decision, out: list[Ended]) -> None:
        trace.decision = decision
        other = self._open.pop(trace.trace_id, None)
        self._ending.pop(trace.trace_id, None)
        if other is not None and other is not trace:  # a later part, begun when this one had been dropped
            self._settle(other, decision, out)
        self._remember(trace)
        self._count(decision)
        spans, trace.spans = trace.spans, []
        self.span_count -= len(spans)
        self.size_bytes -= trace.size_bytes
        trace.size_bytes = 0
        if decision.is_kept:
            trace.threshold = decision.threshold
            trace.told = {
                semconv.SAMPLING_REASON: decision.reason,
                semconv.SAMPLING_ADJUSTED_COUNT: adjusted_count_of(decision.threshold),
            }
            if trace.is_incomplete:
                trace.told[semconv.SAMPLING_INCOMPLETE] = True
            out.extend(self._marked(trace, item) for item in spans)
        else:
            self._spans_dropped.value += len(spans)
        if decision.is_kept:
            trace.known = None
        elif trace.known is not None:
            trace.known.groups = None  # who it was is not kept longer than the spans

    def _remember(self, trace: Trace) -> None:
        self._decided[trace.trace_id] = trace
        self._decided.move_to_end(trace.trace_id)
        if len(self._decided) > _MAX_DECIDED:
            self._decided.popitem(last=False)

    def _count(self, decision: Decision) -> None:
        key = (decision.is_kept, decision.reason)
        number = self._decisions.get(key)
        if number is None:
            kept = names.KEPT if decision.is_kept else names.DROPPED
            attributes = ((names.DECISION, kept), (names.RULE, decision.reason))
            with self._meters.lock:
                number = self._decisions[key] = self._meters.number(names.SAMPLING_DECISIONS, attributes)
        number.value += 1

    def _marked(self, trace: Trace, item: Ended) -> Ended:
        """The span with why it is kept, and how many it stands for."""
        if isinstance(item, Run):
            item.extra.update(trace.told)
            item.span.trace.settle(trace.threshold)
            item.span.forget_context()
            return item
        if isinstance(item, ForeignSpan):
            return item._replace(told={**(item.told or {}), **trace.told}, threshold=trace.threshold)
        return ForeignSpan(item, None, trace.told, trace.threshold)

    # --- bounds -----------------------------------------------------------------------------------------------------

    def _make_room(self, now_ns: int, out: list[Ended]) -> None:
        limits = self._limits
        share = max(2, 4 * limits.spans // max(1, len(self._open)))
        share_bytes = max(2, 4 * limits.size_bytes // max(1, len(self._open)))
        # A trace that takes four times its share goes before the others, which go by age.
        greedy = [
            each for each in self._open.values() if len(each.spans) > share or each.size_bytes > share_bytes
        ]
        greedy.sort(key=lambda each: each.size_bytes, reverse=True)
        room = 1 - _FREED_SHARE
        for trace in [*greedy, *self._open.values()]:
            if (
                self.span_count <= limits.spans * room
                and self.size_bytes <= limits.size_bytes * room
                and len(self._open) <= limits.traces * room
            ):
                return
            self._decide(trace, now_ns, out)
