"""The corridor: the stages in their order, from one opening of the destinations to their closing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk.trace import ReadableSpan

from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core._run import Reader, Run
from aiobs_core._span import AgentSpan
from aiobs_core._switches import LOGS, TRACES
from aiobs_core.logs.stage import Logs
from aiobs_core.privacy.foreign import ForeignSpan
from aiobs_core.privacy.stage import Privacy
from aiobs_core.semconv import metrics as names
from aiobs_core.signals.spans import Renderer

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core._settings import Settings
    from aiobs_core.export.destinations import Destinations
    from aiobs_core.metrics.meters import Meters
    from aiobs_core.metrics.outlets import Outlets
    from aiobs_core.metrics.series import Number
    from aiobs_core.sampling.stage import Decide

Arrived = AgentSpan | ReadableSpan | ForeignSpan
InCorridor = AgentSpan | Run | ReadableSpan | ForeignSpan
Stage = Callable[[Sequence[InCorridor]], Sequence[InCorridor]]
"""Takes a batch, returns what goes on. What it raises is counted and skips the rest of the corridor."""
Stages = tuple[tuple[str, Stage, "Number"], ...]

FAR: Final = 1 << 62
_PAUSE_NS: Final = 10_000_000  # whatever may be due again at once, the worker does not spin
_SURVIVED: Final = BaseException  # foreign code on the worker may raise anything without ending it


class Corridor:
    """Takes ended spans through all stages, and owns the ways out behind them. Used by the worker only."""

    def __init__(
        self,
        settings: Settings,
        health: Health,
        *,
        reader: Reader,
        meters: Meters,
        destinations: Destinations,
    ) -> None:
        self._health = health
        self._meters = meters
        self._reader = reader
        self._destinations = destinations
        self._has_counted = True
        reader.apply(settings)
        meters.apply(max_values=settings.metric_max_values)
        self._privacy = Privacy(settings, health, store_folder=destinations.store_folder)
        self.logs = Logs(settings, health, self._privacy, destinations.resource)
        self._settings = settings
        self._ways_out: Outlets | None = None
        self._stages: Stages = ()
        self._of_kept: Stages = ()  # those behind `decide`
        self._decide: Decide | None = None

    def _assemble(self) -> Stages:
        """The one list, with where the time of each stage is counted.

        By the worker, with its first batch: prices and what else it takes have to be imported.
        """
        from aiobs_core.metrics.measure import Measure
        from aiobs_core.pricing.stage import Pricer
        from aiobs_core.sampling.stage import Decide

        settings, health, meters, privacy = self._settings, self._health, self._meters, self._privacy
        measure = Measure(settings, meters, privacy)
        self._decide = decide = Decide(settings, meters, health, self._destinations)
        stages: tuple[tuple[str, Stage], ...] = (
            ("read", self._read),
            ("price", Pricer(settings, health, meters, privacy).price),
            ("measure", measure.measure),
            ("switch", self._wanted),
            ("decide", decide.decide),
            ("mark", measure.mark),
            ("mask", privacy.mask),
            ("log", self.logs.note),
            ("switch", self._traced),
            ("render", Renderer(settings, self._destinations.resource, health, privacy)),
            ("deliver", self._destinations.deliver),
        )
        with meters.lock:
            return tuple(
                (name, stage, meters.number(names.TELEMETRY_OVERHEAD, ((names.WORK, name),)))
                for name, stage in stages
            )

    def __call__(self, batch: Sequence[InCorridor]) -> None:
        """Take a batch to its end."""
        if self._stages:
            self._pass(batch, self._stages)
            return
        with uninterrupted_by_fork():  # the first one makes detectors and tables import what they need
            self._destinations.begin()
            self._stages = self._assemble()
            self._of_kept = self._stages[1 + [name for name, _, _ in self._stages].index("decide") :]
            self._pass(batch, self._stages)

    def _pass(self, batch: Sequence[InCorridor], stages: Stages) -> None:
        clock = time.thread_time_ns
        before_ns = clock()
        for name, stage, spent_s in stages:
            if not batch:
                break
            try:
                batch = stage(batch)
            except _SURVIVED as error:
                self._health.problem(
                    f"stage.{name}",
                    f"aiobs: the stage {name} failed on a batch ({type(error).__name__}); its spans are lost.",
                    lost=len(batch),
                )
                break
            now_ns = clock()
            spent_s.value += (now_ns - before_ns) / 1e9  # only the worker writes it
            before_ns = now_ns
        self._has_counted = True

    @property
    def _outlets(self) -> Outlets:
        """Opened by the worker, since detectors, exporters and a server have to be imported."""
        if self._ways_out is None:
            with uninterrupted_by_fork():
                from aiobs_core.metrics.outlets import Outlets

                resource = self._privacy.masked_resource(self._destinations.resource)
                self._ways_out = Outlets(self._settings, self._health, self._meters, resource)
        return self._ways_out

    def apply(self, settings: Settings) -> None:
        """Use other settings, of which only light ones differ, from now on. From any thread."""
        has_new_level = settings.log_level != self._settings.log_level
        self._settings = settings
        if has_new_level:
            self.logs.apply(settings)

    def keep(self) -> int:
        """Do what is due beside batches; returns when to be called again (`perf_counter_ns`)."""
        self._destinations.begin()
        waiting = self._decide
        next_ns = FAR if waiting is None else waiting.next_ns()
        if waiting is not None and next_ns <= (now_ns := time.perf_counter_ns()):
            self._pass_waiting(waiting.due)
            next_ns = max(waiting.next_ns(), now_ns + _PAUSE_NS)
        has_counted, self._has_counted = self._has_counted, False
        outlets = self._outlets
        if not outlets.is_open and self._settings.metrics:
            with uninterrupted_by_fork():
                outlets.open(self._settings)
        return min(next_ns, outlets.keep(has_changed=has_counted))

    def _release(self, *, everything: bool) -> None:
        if self._decide is not None:
            self._pass_waiting(partial(self._decide.release, everything=everything))

    def _pass_waiting(self, take: Callable[[], Sequence[InCorridor]]) -> None:
        try:
            batch = take()
        except _SURVIVED as error:
            self._health.problem(
                "stage.decide", f"aiobs: traces that wait cannot be decided ({type(error).__name__}).", lost=1
            )
            return
        self._pass(batch, self._of_kept)

    def begin_flush(self, timeout_s: float) -> Callable[[float], bool]:
        """Write what has passed, and begin to send it.

        Returns:
            Waits for the receivers, for so many seconds; False if they did not take everything in time. For the thread
            that asked: the worker has to go on, since nobody else empties the queue.
        """
        self._release(everything=False)
        self._privacy.trail.note()
        self._outlets.begin_flush()
        return partial(self._await_receivers, self._destinations.flush_written(timeout_s))

    def _await_receivers(self, is_written: bool, timeout_s: float) -> bool:
        started_s = time.monotonic()
        delivered = self._destinations.flush_sent(timeout_s) and is_written
        delivered = self.logs.flush(_left_s(timeout_s, started_s)) and delivered
        return self._outlets.flush(_left_s(timeout_s, started_s)) and delivered

    def close(self, timeout_s: float) -> bool:
        """Flush, and close the ways out."""
        started_s = time.monotonic()
        self._release(everything=True)
        self._privacy.trail.note()
        self._outlets.begin_flush()
        delivered = self._destinations.shutdown(timeout_s)
        delivered = self.logs.close(_left_s(timeout_s, started_s)) and delivered
        left_s = _left_s(timeout_s, started_s)
        return self._outlets.close(left_s) and delivered

    def forget_after_fork(self, health: Health) -> None:
        """Drop what belongs to the parent process, without closing it there."""
        self._destinations.forget_after_fork(health)
        if self._ways_out is not None:
            self._ways_out.forget_after_fork()

    def _read(self, batch: Sequence[InCorridor]) -> Sequence[InCorridor]:
        read = self._reader.read
        out: list[InCorridor] = []
        unread = 0
        for item in batch:
            if isinstance(item, AgentSpan):
                try:
                    run = read(item)
                except _SURVIVED as error:
                    self._health.problem(
                        "read", f"aiobs: a run could not be read ({type(error).__name__}).", lost=1
                    )
                    unread += 1
                    continue
                if run is not None:
                    out.append(run)
            else:
                out.append(item)
        self._health.balance.received += len(out) + unread
        return out

    def _wanted(self, batch: Sequence[InCorridor]) -> Sequence[InCorridor]:
        """Leave out the runs that had to be measured only: nobody has to decide about them."""
        return self._without_those_off(batch, TRACES | LOGS)

    def _traced(self, batch: Sequence[InCorridor]) -> Sequence[InCorridor]:
        """Leave out the runs whose spans are switched off: nothing is rendered of them."""
        return self._without_those_off(batch, TRACES)

    def _without_those_off(self, batch: Sequence[InCorridor], signals: int) -> Sequence[InCorridor]:
        left = [item for item in batch if type(item) is not Run or item.span.trace.signals & signals]
        self._health.balance.received -= len(batch) - len(left)  # there was to be no span
        return left


def _left_s(timeout_s: float, started_s: float) -> float:
    return max(0.1, timeout_s - (time.monotonic() - started_s))
