"""Closes runs that will not end by themselves: below ended runs, of cancelled tasks, and older than the TTL."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final, Protocol

from aiobs_core._inside import was_cancelled
from aiobs_core._operation import RunStatus
from aiobs_core._run import status_of
from aiobs_core._settings import Settings
from aiobs_core._span import AgentSpan

_CHECK_NS: Final = 1_000_000_000
_IDLE_CHECK_NS: Final = 30_000_000_000


class OpenRun(Protocol):
    """What the table of open runs holds."""

    @property
    def started_ns(self) -> int:
        """`perf_counter_ns()` when the run started."""


class Sweeper:
    """Called by the worker after each batch, and when it asked to be.

    Args:
        runs: The table of open runs by key; only read here.
        close: Ends one of them: key, status, end time on the clock of its trace (0: now). Does nothing if the run
            has ended meanwhile.
    """

    def __init__(
        self,
        settings: Settings,
        runs: Mapping[Hashable, OpenRun],
        close: Callable[[Hashable, RunStatus, int], None],
    ) -> None:
        self._runs = runs
        self._close = close
        self._waiting: list[
            tuple[int, AgentSpan]
        ] = []  # ended runs with open descendants, by end of their grace
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Use other limits from the next call on."""
        self._grace_ns = int(settings.grace_s * 1e9)
        self._ttl_ns = int(settings.run_ttl_s * 1e9)
        self._next_ttl_check_ns = 0

    def forget(self) -> None:
        """Drop what waits; in a forked child it belongs to the parent process."""
        self._waiting.clear()

    def __call__(self, ended: Sequence[AgentSpan], now_ns: int) -> int:
        """Close what is due at `now_ns` (`perf_counter_ns()`); returns when to be called again."""
        for span in ended:
            if span.open_children:
                self._waiting.append((now_ns + self._grace_ns, span))
        if self._waiting and self._waiting[0][0] <= now_ns:
            due = [span for deadline, span in self._waiting if deadline <= now_ns]
            self._waiting = [entry for entry in self._waiting if entry[0] > now_ns]
            for span in due:
                self._close_below(span)
        if now_ns >= self._next_ttl_check_ns:
            pause_ns = _CHECK_NS if self._runs else _IDLE_CHECK_NS
            self._next_ttl_check_ns = now_ns + min(self._ttl_ns // 4, pause_ns)
            # Keys first: a list of items makes tuples, which can start a collection, whose finalizers end runs.
            for key in list(self._runs):
                run = self._runs.get(key)
                if run is None:
                    continue
                if now_ns - run.started_ns > self._ttl_ns:
                    self._close(key, RunStatus.TIMED_OUT, 0)
                elif type(run) is AgentSpan and was_cancelled(run):
                    self._close(key, RunStatus.CANCELLED, 0)
        return min(self._waiting[0][0], self._next_ttl_check_ns) if self._waiting else self._next_ttl_check_ns

    def _close_below(self, ended: AgentSpan) -> None:
        gave_up = ended.forced_status is RunStatus.CANCELLED or (
            ended.error_class is not None and status_of(ended.error_class) is RunStatus.CANCELLED
        )
        status = RunStatus.CANCELLED if gave_up else RunStatus.ABANDONED
        below = list(ended.open_children.values())
        for span in below:  # grows while it is walked: parents before children, however deep
            below.extend(list(span.open_children.values()))
        for span in reversed(below):
            self._close(span.key, status, max(ended.end_ns, span.start_ns, span.first_chunk_ns))
