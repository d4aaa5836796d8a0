"""The table of open runs, and what the recorder keeps of one beside its span."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from aiobs_core._health import Health
from aiobs_core._operation import RunStatus
from aiobs_core._span import AgentSpan

if TYPE_CHECKING:
    from aiobs_core._span import OutcomeSource


class TransparentRun:
    """Table entry of a run that gets no span: its children hang under `parent`."""

    __slots__ = ("lifetime", "parent", "started_ns")

    def __init__(self, parent: AgentSpan | None) -> None:
        self.parent = parent
        self.lifetime: weakref.ref[object] | None = None
        self.started_ns = perf_counter_ns()


class Lifetime(weakref.ref[object]):
    """Fires when the framework lets go of a run without having ended it."""

    __slots__ = ("key", "status")
    key: Hashable
    status: RunStatus | None


class OpenRuns:
    """The open runs by key, and the ways in which they are closed when no verb does it.

    Attributes:
        by_key: Every operation on it is a single `setdefault`, `get` or `pop`, which are atomic.
        ended: Where closed spans go; set before the first run.
    """

    ended: Callable[[AgentSpan], None]

    def __init__(self, health: Health) -> None:
        self.by_key: dict[Hashable, AgentSpan | TransparentRun] = {}
        self.health = health

    def close(self, key: Hashable, status: RunStatus, end_ns: int = 0) -> None:
        """End a run with this status, if it is open; at `end_ns` on the clock of its trace, or now."""
        span = self.by_key.pop(key, None)
        if type(span) is AgentSpan:
            span.forced_status = status
            span.finish(end_ns)
            self.ended(span)

    def has(self, scope: str) -> bool:
        """Whether a run of this instrumentation scope is open."""
        return any(getattr(run, "scope", None) == scope for run in list(self.by_key.values()))

    def rename(self, key: Hashable, new: Hashable) -> bool:
        """Give a run another key; False if it is not open, or another run has that key."""
        run = self.by_key.get(key)
        if type(run) is not AgentSpan or self.by_key.setdefault(new, run) is not run:
            return False
        run.key = new
        if key != new:
            self.by_key.pop(key, None)
        return True

    def evict(self, max_open_runs: int) -> None:
        """Close the oldest run."""
        try:
            oldest = next(iter(self.by_key), None)
        except RuntimeError:  # the table changed in between: the next start tries again
            return
        if oldest is not None:
            self.close(oldest, RunStatus.ABANDONED)
            self.health.problem(
                "runs.evicted",
                f"aiobs: more than {max_open_runs} runs are open (AIOBS_MAX_OPEN_RUNS); the oldest are closed as "
                "abandoned. Runs that never end are the usual cause.",
            )

    def watch(self, lifetime: object, key: Hashable, status: RunStatus | None = None) -> Lifetime | None:
        """A reference that closes the run once the object is collected; `cancelled` or `abandoned` if None."""
        try:
            reference = Lifetime(lifetime, self._lifetime_over)
        except TypeError:  # not every type allows weak references; the TTL remains
            return None
        reference.key = key
        reference.status = status
        return reference

    def _lifetime_over(self, reference: weakref.ref[object]) -> None:
        assert isinstance(reference, Lifetime)
        run = self.by_key.get(reference.key)
        if run is not None and run.lifetime is reference:
            in_loop = type(run) is AgentSpan and run.in_event_loop
            self.close(
                reference.key, reference.status or (RunStatus.CANCELLED if in_loop else RunStatus.ABANDONED)
            )


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an exception of a client library carries, if any."""
    code = getattr(error, "status_code", None)
    if code is None:
        code = getattr(getattr(error, "response", None), "status_code", None)
    return code if type(code) is int else None


def pauses(outcome: OutcomeSource | None) -> bool:
    """Whether an outcome says that the run waits for a person; asks a deferred one, and takes what raises for a no."""
    try:
        said = outcome() if callable(outcome) else outcome
    except Exception:  # noqa: BLE001 (a deferred mapping of foreign objects, of a run that has no span to mark)
        return False
    return said is not None and said.status is RunStatus.INTERRUPTED
