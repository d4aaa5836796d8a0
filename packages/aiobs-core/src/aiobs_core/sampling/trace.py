"""What `TailSampler` holds: one trace, the bounds of all, and the ids of the traces that are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from aiobs_core.sampling.matcher import Decision, Known, Matcher

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from aiobs_core._operation import AttributeValue
    from aiobs_core._run import Run
    from aiobs_core.privacy.foreign import ForeignSpan


class Limits(NamedTuple):
    """Bounds of what is held back. Beyond them traces are decided on what is known: those with the most, then the oldest.

    Attributes:
        traces: Undecided traces.
        spans: Their spans.
        size_bytes: Their size, estimated.
        wait_ns: Age at which a trace is decided although it goes on.
        grace_ns: How long the end of a trace with open runs is waited for.
        idle_ns: How long another instrumentation's span around the runs is waited for, without any sign of life.
    """

    traces: int
    spans: int
    size_bytes: int
    wait_ns: int
    grace_ns: int
    idle_ns: int = 30_000_000_000


class Trace:
    """One trace in this process, from its first finished span on."""

    __slots__ = (
        "deadline_ns",
        "decision",
        "has_ended",
        "is_incomplete",
        "known",
        "limit_ns",
        "matcher",
        "randomness",
        "size_bytes",
        "spans",
        "threshold",
        "told",
        "trace_id",
        "upstream",
    )

    def __init__(self, trace_id: int, limit_ns: int, matcher: Matcher) -> None:
        self.trace_id = trace_id
        self.matcher = matcher  # whose bits `known` has
        self.known: Known | None = Known()  # None: nothing can change the decision any more
        self.spans: list[Run | ReadableSpan | ForeignSpan] = []
        self.size_bytes = 0
        self.limit_ns = limit_ns
        self.deadline_ns = limit_ns  # earlier, once there is reason to think that nothing more comes
        self.has_ended = False
        self.is_incomplete = False  # decided, and changed to kept when some of it was gone
        self.decision: Decision | None = None
        self.randomness = 0  # 56 bits, see `aiobs_core.sampling.threshold`
        self.upstream: int | None = None  # threshold by which somebody before us has kept it
        self.threshold = 0
        self.told: dict[str, AttributeValue] = {}  # on each of its spans, once it is kept


class Recent:
    """The latest ids: at least `size` of them, and no more than twice as many."""

    __slots__ = ("_before", "_ids", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._ids: set[int] = set()
        self._before: set[int] = set()

    def add(self, number: int) -> None:
        ids = self._ids
        ids.add(number)
        if len(ids) > self._size:  # two sets take turns: no order has to be kept for each id
            self._before, self._ids = ids, set()

    def __contains__(self, number: int) -> bool:
        return number in self._ids or number in self._before
