"""The queue in front of the corridor, and the worker that takes what is in it through all stages.

One daemon thread per process does all the work. Ended runs and spans of other instrumentations arrive in the same
queue, so they share every stage from `decide` on.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from opentelemetry.context import attach, set_value
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import TraceFlags

from aiobs_core._accounts import Accounts
from aiobs_core._context import SUPPRESS_KEY, request_attributes
from aiobs_core._corridor import Arrived, Corridor
from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core._health import Health
from aiobs_core._keep import is_forced
from aiobs_core._marker import Marker, is_asking
from aiobs_core._run import Reader
from aiobs_core._span import NEW_TRACE_SAMPLED, AgentSpan, LocalTrace, new_span_id, new_trace_id
from aiobs_core._switches import ALL, signals_of
from aiobs_core.export.destinations import Destinations
from aiobs_core.metrics.active import ActiveRuns
from aiobs_core.metrics.balance import balance_metrics
from aiobs_core.metrics.meters import Meters
from aiobs_core.metrics.series import FamilySnapshot, Point
from aiobs_core.privacy.foreign import ForeignSpan
from aiobs_core.semconv import metrics as names

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext, TracerProvider

    from aiobs_core._settings import Settings

_MAX_BATCH: Final = 256  # more would live long enough to cost a pass of the garbage collector each
_IDLE_S: Final = 30.0
_SURVIVED: Final = BaseException  # foreign code on the worker may raise anything without ending it


class Pipeline:
    """Queue, worker and stages; `put` is the only part that runs on the application's threads."""

    def __init__(
        self,
        settings: Settings,
        health: Health,
        *,
        open_runs: Mapping[Hashable, object],
        housekeeping: Callable[[Sequence[AgentSpan], int], int],
        exporters: Sequence[SpanExporter] | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._settings = settings
        self._health = health
        self._open_runs = open_runs
        self._housekeeping = housekeeping
        self._exporters = exporters
        self._tracer_provider = tracer_provider
        self.is_open = False
        self._samples = not settings.sampling.keeps_all
        self._signals = ALL
        self.switch(settings)
        self.new_span_id = new_span_id
        self._new_trace_id = new_trace_id
        self._destinations: Destinations | None = None
        self._corridor: Corridor | None = None
        self._start_counting()
        self._renew_threading()

    def _start_counting(self) -> None:
        """What a process counts from its start on, whatever is opened and closed meanwhile."""
        self._accounts = Accounts(self._health)
        self._reader = Reader(self._health)
        self.meters = Meters(self._health, max_values=self._settings.metric_max_values)
        self.meters.observe("queue", self._observed)
        active = ActiveRuns(
            self._open_runs,
            lambda: self._settings,
            self._health,
            known=self.meters.sorts,
            taken=self.meters.label_values,
            overflowed=self.meters.note_overflow,
        )
        self.meters.observe("active", active)

    def _observed(self) -> Sequence[FamilySnapshot]:
        queued = FamilySnapshot(names.TELEMETRY_QUEUED, [Point((), self._queue.qsize())])
        return [queued, *balance_metrics(self._accounts.balance())]

    def _renew_threading(self) -> None:
        self._queue: queue.SimpleQueue[Arrived | Marker] = queue.SimpleQueue()  # put() is safe in finalizers
        self._queue_size = self._settings.queue_size
        self._worker: threading.Thread | None = None
        # Rung to end the worker's wait. A queue, since an Event deadlocks if a signal handler or a finalizer sets it
        # while its thread is in the middle of setting it.
        self._doorbell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._asked = self._answered = (
            0  # markers: while one is on its way through the queue, nothing is waited for
        )
        self._lock = threading.RLock()

    # --- on the application's threads ---------------------------------------------------------------------------

    def put(self, span: Arrived) -> None:
        """Hand over an ended span; drops and counts it if the queue is full."""
        waiting = self._queue.qsize()
        if waiting >= self._queue_size:
            self._health.problem(
                "queue.full",
                f"aiobs: {self._queue_size} ended spans wait for the worker (AIOBS_QUEUE_SIZE); new ones are dropped "
                "until it catches up.",
                lost=1,
            )
            return
        self._queue.put(span)
        if waiting == self._queue_size // 2:
            self._doorbell.put(None)
        if self._worker is None:
            self._start_worker()

    def _drain(self, timeout_s: float) -> bool:
        return threading.current_thread() is self._worker or is_asking() or self.flush(timeout_s)

    def _put_foreign(self, span: ReadableSpan) -> None:
        if self.takes_foreign_spans:
            request = request_attributes.get()
            policy = None if request is None else request.privacy_policy
            self.put(span if policy is None else ForeignSpan(span, policy))

    def new_trace(self, context: Context, parent: SpanContext | None) -> LocalTrace:
        """The trace of a local root: the parent's, or a new one on which the head sampler has decided."""
        if parent is not None and parent.is_valid:
            trace_id, flags, state = parent.trace_id, parent.trace_flags, parent.trace_state
        else:
            trace_id, flags, state = self._new_trace_id(), NEW_TRACE_SAMPLED, None
        destinations = self._destinations
        sampler = destinations.head_sampler if destinations is not None else None
        if sampler is not None:
            # The name is only known once the mapping was asked, in the worker; samplers that look at it see this one.
            result = sampler.should_sample(context, trace_id, "invoke")
            kept = result.decision is Decision.RECORD_AND_SAMPLE
            sampled = flags | TraceFlags.SAMPLED if kept else flags & ~TraceFlags.SAMPLED
            flags, state = TraceFlags(sampled), result.trace_state or state
        trace = LocalTrace(trace_id, flags, state, self._signals)
        if self._samples:  # who drops nothing need not ask what has to be kept
            trace.is_forced = is_forced(context, trusts_baggage=self._settings.trust_baggage)
        return trace

    def switch(self, settings: Settings) -> None:
        """Use these switches for the traces that begin from now on."""
        self.takes_foreign_spans = settings.enabled and settings.traces
        # With none there are no runs, but for those that asked a moment ago whether they are wanted, and were told so.
        self._signals = signals_of(settings) or self._signals

    def open(self) -> None:
        """Find or make the TracerProvider and assemble the stages; once per process and configuration."""
        with self._lock, uninterrupted_by_fork():
            if self.is_open:
                return
            destinations = Destinations(
                self._settings,
                self._health,
                accounts=self._accounts,
                foreign_spans=self._put_foreign,
                drain=self._drain,
                exporters=self._exporters,
                tracer_provider=self._tracer_provider,
            )
            if destinations.id_generator is not None:  # the application's own, such as the one for X-Ray
                self.new_span_id = destinations.id_generator.generate_span_id
                self._new_trace_id = destinations.id_generator.generate_trace_id
            self._destinations = destinations
            self._corridor = Corridor(
                self._settings,
                self._health,
                reader=self._reader,
                meters=self.meters,
                destinations=destinations,
            )
            self.is_open = True
            self._start_worker()  # not with the first end only: runs that never end have to be closed, too

    def flush(self, timeout_s: float) -> bool:
        """Deliver what was put before; False if that took longer than `timeout_s`."""
        return self._pass_marker(timeout_s, close=False)

    def shutdown(self, timeout_s: float) -> bool:
        """Flush, close the destinations and end the worker; the next run opens everything again."""
        return self._pass_marker(timeout_s, close=True)

    def reconfigure(
        self,
        settings: Settings,
        *,
        exporters: Sequence[SpanExporter] | None,
        tracer_provider: TracerProvider | None,
        stays: bool = False,
    ) -> None:
        """Deliver what is queued, then use the new settings and destinations; what is light changes at once."""
        with self._lock:  # a run that starts while the old destinations close opens the new ones
            gives_none = exporters is None and tracer_provider is None
            if gives_none and settings.differs_lightly(self._settings):
                self._settings = settings
                if self._corridor is not None:
                    self._corridor.apply(settings)
                return
            timeout_s, was_open = self._settings.export_timeout_s, self.is_open
            self._settings = settings
            self._queue_size = settings.queue_size
            self._samples = not settings.sampling.keeps_all
            if not (stays and gives_none):
                self._exporters, self._tracer_provider = exporters, tracer_provider
        if was_open:
            self.shutdown(timeout_s)

    def after_fork_in_child(self) -> Health:
        """Start afresh in a forked child: the parent's threads, locks and connections are not ours."""
        self._health = Health()
        if self._corridor is not None:
            self._corridor.forget_after_fork(self._health)
        self._start_counting()
        self.is_open = False
        self._renew_threading()
        return self._health

    def _pass_marker(self, timeout_s: float, *, close: bool) -> bool:
        if threading.current_thread() is self._worker:
            return False  # an exporter that flushes would wait for itself
        marker = Marker(timeout_s=timeout_s, close=close)
        with self._lock:
            if self._worker is None and self._queue.empty() and not self.is_open:
                return True
            self._asked += 1
            self._queue.put(marker)
            if self._worker is None and not self._start_worker():
                self._work_off(marker)
        self._doorbell.put(None)
        return marker.wait()

    def _work_off(self, marker: Marker) -> None:
        """Do the worker's work up to the marker on this thread: at interpreter shutdown no other can be started."""
        while not marker.is_answered:
            batch, found = self._gather(None)
            self._pass_through(batch)
            if found is not None:
                self._answer(found)

    def _start_worker(self) -> bool:
        with self._lock:
            if self._worker is not None:
                return True
            worker = threading.Thread(target=self._work, name="aiobs-worker", daemon=True)
            try:
                worker.start()
            except (
                RuntimeError
            ) as error:  # at interpreter shutdown, or out of threads: the next span tries again
                self._health.problem(
                    "worker.not_started",
                    f"aiobs: no thread could be started ({error}); ended runs wait in the queue.",
                )
                return False
            self._worker = worker
            return True

    # --- on the worker --------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._work_until_closed()
        finally:  # whatever happened: the next span starts another worker
            if self._worker is threading.current_thread():
                self._worker = None

    def _work_until_closed(self) -> None:
        attach(set_value(SUPPRESS_KEY, True))
        process, arrivals = os.getpid(), self._queue
        next_call_ns = 0
        while os.getpid() == process and arrivals is self._queue:
            wait_s = max(0.0, (next_call_ns - time.perf_counter_ns()) / 1e9)
            try:
                first: Arrived | Marker | None = arrivals.get(timeout=min(wait_s, _IDLE_S))
            except queue.Empty:
                first = None
            else:
                if not isinstance(first, Marker) and arrivals.qsize() < _MAX_BATCH:
                    self._wait_for_more()
            batch, marker = self._gather(first)
            self._pass_through(batch)
            ended = [span for span in batch if type(span) is AgentSpan]
            next_call_ns = self._keep_house(ended)
            if (corridor := self._corridor) is not None:
                next_call_ns = min(next_call_ns, corridor.keep())
            if marker is not None and self._answer(marker):
                return
            first, batch, ended = None, [], []  # nothing of a run lives on while the worker waits

    def _wait_for_more(self) -> None:
        if self._asked != self._answered:
            return
        try:
            self._doorbell.get(timeout=self._settings.flush_interval_s)
            while True:
                self._doorbell.get_nowait()
        except queue.Empty:
            return

    def _keep_house(self, ended: Sequence[AgentSpan]) -> int:
        now_ns = time.perf_counter_ns()
        try:
            return self._housekeeping(ended, now_ns)
        except _SURVIVED as error:
            self._health.problem(
                "housekeeping", f"aiobs: closing stale runs failed ({type(error).__name__})."
            )
            return now_ns + int(_IDLE_S * 1e9)

    def _gather(self, first: Arrived | Marker | None) -> tuple[list[Arrived], Marker | None]:
        batch: list[Arrived] = []
        take = self._queue.get_nowait
        try:
            item = take() if first is None else first
            while type(item) is not Marker:
                batch.append(item)  # type: ignore[arg-type]  # mypy does not narrow by `is not`
                if len(batch) >= _MAX_BATCH:
                    return batch, None
                item = take()
        except queue.Empty:
            return batch, None
        return batch, item

    def _pass_through(self, batch: Sequence[Arrived]) -> None:
        if not batch:
            return
        try:
            if not self.is_open:
                self.open()
            if (corridor := self._corridor) is not None:
                corridor(batch)
        except _SURVIVED as error:
            self._health.problem(
                "pipeline.open",
                f"aiobs: no destination could be opened ({type(error).__name__}); ended runs are lost.",
                lost=len(batch),
            )

    def _answer(self, marker: Marker) -> bool:
        corridor = self._corridor
        rest: Callable[[float], bool] | bool = True
        if marker.close:
            rest = self._close(marker.left_s)
        elif corridor is not None:
            rest = corridor.begin_flush(marker.left_s)
        self._answered += 1
        marker.answer(rest)
        return marker.close

    def _close(self, timeout_s: float) -> bool:
        with self._lock:
            corridor, self._corridor, self._destinations = self._corridor, None, None
            self.is_open = False
        # Not under the lock: an exporter may take its time, and a run that starts meanwhile opens new destinations.
        delivered = corridor is None or corridor.close(timeout_s)
        with self._lock:
            self._worker = None
            if self.is_open or not self._queue.empty():  # by a run that began while we closed
                self._start_worker()
        return delivered

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the exporters are made; once the interpreter shuts down, some can no longer be."""
        destinations = self._destinations
        if destinations is not None:
            destinations.wait_until_ready(timeout_s)
        corridor = self._corridor
        if corridor is not None:
            corridor.logs.wait_until_ready(timeout_s)
