"""The corridor: ended spans go from a bounded queue through an ordered list of stages to the destinations.

One daemon thread per process does all the work. Ended runs and spans of other instrumentations arrive in the same
queue, so they share every stage from `decide` on.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from opentelemetry.context import attach, set_value
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import TraceFlags

from aiobs_core._context import SUPPRESS_KEY, request_attributes
from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core._health import Health
from aiobs_core._run import Reader, Run
from aiobs_core._span import NEW_TRACE_SAMPLED, AgentSpan, LocalTrace, new_span_id, new_trace_id
from aiobs_core.export.destinations import Destinations
from aiobs_core.privacy.foreign import ForeignSpan
from aiobs_core.privacy.stage import Privacy
from aiobs_core.signals.spans import Renderer

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import SpanContext, TracerProvider

    from aiobs_core._settings import Settings

Arrived = AgentSpan | ReadableSpan | ForeignSpan
InCorridor = AgentSpan | Run | ReadableSpan | ForeignSpan
Stage = Callable[[Sequence[InCorridor]], Sequence[InCorridor]]
"""Takes a batch, returns what goes on. Called by the worker only; what it raises is counted and skips the stage."""

_MAX_BATCH: Final = 256  # more would live long enough to cost a pass of the garbage collector each
_IDLE_S: Final = 30.0
_SURVIVED: Final = BaseException  # foreign code on the worker may raise anything without ending it


class _Marker:
    """Queued by `flush`: everything before it has to be delivered; `close` also shuts the destinations."""

    __slots__ = ("close", "deadline", "delivered", "done")

    def __init__(self, *, timeout_s: float, close: bool) -> None:
        self.deadline = time.monotonic() + timeout_s
        self.close = close
        self.delivered = False
        self.done = threading.Event()


class Pipeline:
    """Queue, worker and stages; `put` is the only part that runs on the application's threads."""

    def __init__(
        self,
        settings: Settings,
        health: Health,
        *,
        housekeeping: Callable[[Sequence[AgentSpan], int], int],
        exporters: Sequence[SpanExporter] | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self._settings = settings
        self._health = health
        self._housekeeping = housekeeping
        self._exporters = exporters
        self._tracer_provider = tracer_provider
        self.is_open = False
        self.takes_foreign_spans = settings.enabled
        self.new_span_id = new_span_id
        self._new_trace_id = new_trace_id
        self._destinations: Destinations | None = None
        self._stages: tuple[Stage, ...] = ()
        self._privacy: Privacy | None = None
        self._reader = Reader(health)
        self._renew_threading()

    def _renew_threading(self) -> None:
        self._queue: queue.SimpleQueue[Arrived | _Marker] = queue.SimpleQueue()  # put() is safe in finalizers
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
        return threading.current_thread() is self._worker or self.flush(timeout_s)

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
        return LocalTrace(trace_id, flags, state)

    def open(self) -> None:
        """Find or make the TracerProvider and assemble the stages; once per process and configuration."""
        with self._lock, uninterrupted_by_fork():
            if self.is_open:
                return
            destinations = Destinations(
                self._settings,
                self._health,
                foreign_spans=self._put_foreign,
                drain=self._drain,
                exporters=self._exporters,
                tracer_provider=self._tracer_provider,
            )
            if destinations.id_generator is not None:  # the application's own, such as the one for X-Ray
                self.new_span_id = destinations.id_generator.generate_span_id
                self._new_trace_id = destinations.id_generator.generate_trace_id
            self._destinations = destinations
            self._stages = self._assemble(destinations)
            self.is_open = True
            self._start_worker()  # not with the first end only: runs that never end have to be closed, too

    def _assemble(self, destinations: Destinations) -> tuple[Stage, ...]:
        self._reader.apply(self._settings)
        privacy = Privacy(self._settings, self._health, store_folder=destinations.store_folder)
        self._privacy = privacy
        render = Renderer(self._settings, destinations.resource, self._health, privacy)
        return (
            self._read,
            _decide,
            privacy.mask,
            render,
            destinations.deliver,
        )

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
    ) -> None:
        """Deliver what is queued, then use the new settings and destinations."""
        with (
            self._lock
        ):  # first of all: a run that starts while the old destinations close opens the new ones
            timeout_s, was_open = self._settings.export_timeout_s, self.is_open
            self._settings = settings
            self._queue_size = settings.queue_size
            self._exporters = exporters
            self._tracer_provider = tracer_provider
        if was_open:
            self.shutdown(timeout_s)

    def after_fork_in_child(self) -> Health:
        """Start afresh in a forked child: the parent's threads, locks and connections are not ours."""
        self._health = Health()
        self._reader = Reader(self._health)
        if self._destinations is not None:
            self._destinations.forget_after_fork(self._health)
        self.is_open = False
        self._renew_threading()
        return self._health

    def _pass_marker(self, timeout_s: float, *, close: bool) -> bool:
        if threading.current_thread() is self._worker:
            return False  # an exporter that flushes would wait for itself
        marker = _Marker(timeout_s=timeout_s, close=close)
        with self._lock:
            if self._worker is None and self._queue.empty() and not self.is_open:
                return True
            self._asked += 1
            self._queue.put(marker)
            if self._worker is None and not self._start_worker():
                self._work_off(marker)
        self._doorbell.put(None)
        return marker.done.wait(timeout_s) and marker.delivered

    def _work_off(self, marker: _Marker) -> None:
        """Do the worker's work up to the marker on this thread: at interpreter shutdown no other can be started."""
        while not marker.done.is_set():
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
                first: Arrived | _Marker | None = arrivals.get(timeout=min(wait_s, _IDLE_S))
            except queue.Empty:
                first = None
            else:
                if not isinstance(first, _Marker) and arrivals.qsize() < _MAX_BATCH:
                    self._wait_for_more()
            batch, marker = self._gather(first)
            self._pass_through(batch)
            ended = [span for span in batch if type(span) is AgentSpan]
            next_call_ns = self._keep_house(ended)
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

    def _gather(self, first: Arrived | _Marker | None) -> tuple[list[Arrived], _Marker | None]:
        batch: list[Arrived] = []
        item = first
        while not isinstance(item, _Marker):
            if item is not None:
                batch.append(item)
            if len(batch) >= _MAX_BATCH:
                return batch, None
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, None
        return batch, item

    def _pass_through(self, batch: Sequence[InCorridor]) -> None:
        if batch and not self.is_open:
            try:
                self.open()
            except _SURVIVED as error:
                self._health.problem(
                    "pipeline.open",
                    f"aiobs: no destination could be opened ({type(error).__name__}); ended runs are lost.",
                    lost=len(batch),
                )
                return
        for stage in self._stages:
            if not batch:
                return
            try:
                batch = stage(batch)
            except _SURVIVED as error:
                name = getattr(stage, "__name__", type(stage).__name__)
                self._health.problem(
                    f"stage.{name}",
                    f"aiobs: the stage {name} failed on a batch ({type(error).__name__}); its spans are lost.",
                    lost=len(batch),
                )
                return

    def _read(self, batch: Sequence[InCorridor]) -> Sequence[InCorridor]:
        read = self._reader.read
        out: list[InCorridor] = []
        for item in batch:
            if isinstance(item, AgentSpan):
                try:
                    run = read(item)
                except _SURVIVED as error:
                    self._health.problem(
                        "read", f"aiobs: a run could not be read ({type(error).__name__}).", lost=1
                    )
                    continue
                if run is not None:
                    out.append(run)
            else:
                out.append(item)
        return out

    def _answer(self, marker: _Marker) -> bool:
        destinations = self._destinations
        left_s = max(0.0, marker.deadline - time.monotonic())
        if self._privacy is not None:
            self._privacy.trail.note()
        if marker.close:
            marker.delivered = self._close(left_s)
        else:
            marker.delivered = destinations is None or destinations.force_flush(left_s)
        self._answered += 1
        marker.done.set()
        return marker.close

    def _close(self, timeout_s: float) -> bool:
        with self._lock:
            destinations, self._destinations = self._destinations, None
            self.is_open = False
        # Not under the lock: an exporter may take its time, and a run that starts meanwhile opens new destinations.
        delivered = destinations is None or destinations.shutdown(timeout_s)
        with self._lock:
            self._worker = None
            if not self._queue.empty():  # put while we closed
                self._start_worker()
        return delivered

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the exporters are made; once the interpreter shuts down, some can no longer be."""
        destinations = self._destinations
        if destinations is not None:
            destinations.wait_until_ready(timeout_s)


def _decide(batch: Sequence[InCorridor]) -> Sequence[InCorridor]:
    """Keep what the head sampler, or the caller upstream, has kept."""
    return [item for item in batch if not isinstance(item, Run) or item.span.trace.sampled]
