"""`Recorder`: the four verbs an adapter speaks, and the table of open runs behind them.

Rules of the hot path (`start`, `chunk`, `end`, `fail`), which runs on the application's threads:

* no lock, no I/O, no formatting, no logging; dictionary and queue operations that are atomic under the GIL; nothing raised;
* every operation of the table is a single `setdefault`, `get` or `pop`, so each run starts and ends exactly once
  whatever threads, handlers or garbage collections interleave.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import INVALID_SPAN, Span

from aiobs_core._context import RUN_KEY, SPAN_KEY, SUPPRESS_KEY, context_with, request_for
from aiobs_core._health import Health
from aiobs_core._inside import foreign_parent, innermost, is_inside, leave, note_place, running_loop
from aiobs_core._open_run import OpenRuns, TransparentRun, http_status, pauses
from aiobs_core._operation import Operation, RunStatus
from aiobs_core._pipeline import Pipeline
from aiobs_core._settings import Settings
from aiobs_core._span import AgentSpan
from aiobs_core._streams import following, is_iterator
from aiobs_core._sweeper import Sweeper
from aiobs_core.privacy.modes import keeps_errors

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import TracerProvider

    from aiobs_core._span import OperationSource, OutcomeSource
    from aiobs_core.metrics.meters import Meters

_MANUAL_SCOPE: Final = "aiobs.manual"


class Recorder:
    """Turns the callbacks of any framework into spans.

    One recorder serves the whole process: runs are found by key whatever handler instance, thread or task reports
    them. All methods are safe to call from any thread; the four verbs never raise and never block.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        exporters: Sequence[SpanExporter] | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        self.health = Health()
        self._take(settings)
        self._open_runs = OpenRuns(self.health)
        self._runs = self._open_runs.by_key
        self._sweeper = Sweeper(settings, self._runs, self._open_runs.close)
        self._pipeline = Pipeline(
            settings,
            self.health,
            open_runs=self._runs,
            housekeeping=self._sweeper,
            exporters=exporters,
            tracer_provider=tracer_provider,
        )
        self._ended = self._open_runs.ended = self._pipeline.put
        self._apply_lock = threading.Lock()

    def _take(self, settings: Settings) -> None:
        self._settings = settings
        self._max_open_runs = settings.max_open_runs
        self._chain_spans = settings.chain_spans
        self._keeps_errors = keeps_errors(settings)
        self._off = not settings.is_on

    # --- the four verbs ---------------------------------------------------------------------------------------

    def start(
        self,
        key: Hashable,
        operation: OperationSource | None,
        *,
        parent: Hashable | None = None,
        scope: str = _MANUAL_SCOPE,
        plumbing: bool = False,
        lifetime: object = None,
        make_current: bool = True,
        adopts: bool = False,
        frame_id: int = 0,
        subject: object = None,
    ) -> AgentSpan | None:
        """Begin a run.

        Args:
            key: The framework's id of the run, unique among open runs. Starting an open key again is the same run.
            operation: What is asked, or a function that says so later in the worker. None: the run gets no span of
                its own and its children hang under the nearest recorded ancestor.
            parent: Key of the parent run. Unknown or None: the current OpenTelemetry span is the parent, if any.
            scope: Instrumentation scope of the span, such as `aiobs.langchain`.
            plumbing: The run only moves data (an inner chain, a prompt, a parser) and may be left out by settings.
            lifetime: An object that the framework keeps exactly as long as the run. If it is collected before the
                run ended, the run is closed as `cancelled` (in an event loop) or `abandoned`.
            make_current: Make the span the current one of this context until the run ends.
            adopts: The framework reports what runs inside as its siblings: make it children while it is current.
            frame_id: `id()` of the frame that calls the run's body, for a run without `parent`. While another frame
                of the same task or thread runs, the run is not the parent of what starts there.
            subject: The model, tool, … that is at work. A run of the same subject directly inside is a part of this
                one, such as `chat` that is made of `complete`, and is not recorded.

        Returns:
            The span, or None where nothing is recorded.
        """
        if self._off:
            return None
        try:
            return self._start(
                key, operation, parent, scope, plumbing, lifetime, make_current, adopts, frame_id, subject
            )
        except Exception as error:  # noqa: BLE001 (the application must not notice; counted and warned once)
            self._verb_failed("start", error)
            return None

    def chunk(self, key: Hashable, item: object = None) -> None:
        """Note a streamed chunk of an open run.

        Args:
            key: Key of the run; unknown ones are ignored.
            item: The chunk, if several handlers may report the same one; compared by identity only.
        """
        run = self._runs.get(key)
        if type(run) is not AgentSpan or (item is not None and item is run.last_item):
            return
        run.last_item = item
        run.chunk_count += 1
        if not run.first_chunk_ns:
            run.first_chunk_ns = perf_counter_ns() + run.trace.clock_offset_ns

    def end(self, key: Hashable, outcome: OutcomeSource | None = None, *, end_ns: int = 0) -> None:
        """End a run normally; a key that is not open is ignored.

        Args:
            key: Key of the run.
            outcome: What came back, or a function that says so later in the worker.
            end_ns: When, on the clock of its trace; 0: now.
        """
        span = self._runs.pop(key, None)
        if type(span) is AgentSpan:
            span.outcome = outcome
            span.finish(end_ns)
            self._ended(span)

    def fail(self, key: Hashable, error: BaseException, outcome: OutcomeSource | None = None) -> None:
        """End a run that raised; cancellation and closed generators are not errors.

        Its class and HTTP status are kept, and the error itself where a policy may let its text out.

        Args:
            key: Key of the run; one that is not open is ignored.
            error: What was raised.
            outcome: What came back before; its `status` wins over the one that the error implies.
        """
        span = self._runs.pop(key, None)
        if type(span) is not AgentSpan:
            if span is not None and span.parent is not None and pauses(outcome):
                span.parent.interrupted_below = True  # a run without a span hands its pause to the one above
            return
        span.outcome = outcome
        span.error_class = type(error)
        if self._keeps_errors or span.has_own_policy:
            span.error = error
        span.finish()
        try:
            span.status_code = http_status(error)
        except BaseException as problem:  # noqa: BLE001 (a property of a foreign class may raise anything)
            self._verb_failed("fail", problem)
        self._ended(span)

    def hand_over(
        self,
        key: Hashable,
        stream: object,
        *,
        collected: RunStatus = RunStatus.ABANDONED,
        told_as: Hashable | None = None,
    ) -> None:
        """Let an open run go on in a stream that has been returned to the caller: what was current before is so again.

        The run is closed with the stream's collection, if it is open then.

        Args:
            key: Key of the run; one that is not open is ignored.
            stream: The generator or other object that the run lives in.
            collected: How the run ended if the stream's collection is the end of it.
            told_as: The key under which the framework tells of the stream, if it is another: the run's from now on.
        """
        if told_as is not None and self._open_runs.rename(key, told_as):
            key = told_as
        span = self.find(key)
        if span is not None:
            leave(span)
            span.lifetime = self._open_runs.watch(stream, key, collected)

    def follow(self, key: Hashable, items: object) -> Any:
        """Hand an open run over to a generator or iterator, and return one to be used in its place.

        What makes the items runs inside the run, which ends with them: normally, with their error, or as `abandoned`.

        Args:
            key: Key of the run; where it is not open, `items` is returned as it is.
            items: A generator, an async generator, or another iterator of either sort. Anything else is returned as it is.
        """
        span = self.find(key)
        if span is None or not is_iterator(items):
            return items
        stream = following(self, key, span, items)
        self.hand_over(key, stream)
        return stream

    @contextmanager
    def span(self, operation: Operation, *, scope: str = _MANUAL_SCOPE) -> Iterator[Span]:
        """Record the block as one run, current inside; yields a non-recording span where aiobs is off or suppressed."""
        key = object()
        span = self.start(key, operation, scope=scope)
        try:
            yield span if span is not None else INVALID_SPAN
        except BaseException as error:
            self.fail(key, error)
            raise
        self.end(key)

    def find(self, key: Hashable) -> AgentSpan | None:
        """The open span of a run, to add events or attributes to; None if there is none."""
        run = self._runs.get(key)
        return run if type(run) is AgentSpan else None

    @property
    def open_runs(self) -> int:
        return len(self._runs)

    def is_busy(self, scope: str) -> bool:
        """Whether a run of this instrumentation scope is open."""
        return self._open_runs.has(scope)

    @property
    def metrics(self) -> Meters:
        """The metrics of this process."""
        return self._pipeline.meters

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._settings

    def apply(
        self,
        settings: Settings | Mapping[str, object],
        *,
        exporters: Sequence[SpanExporter] | None = None,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        """Switch settings at run time: all, or those named in a mapping, with which the others and the destinations stay.

        Open runs end under the new ones; which signals leave was settled when their trace began. The switches (`enabled`,
        `traces`, `metrics`, `logs`) and `log_level` alone keep everything in place; any other change delivers what is
        queued and opens the destinations anew with the next run. Blocks for at most `export_timeout_s`.

        Raises:
            SettingsError: If the mapping has a name or a value that is none; nothing is changed then.
        """
        with self._apply_lock:
            stays = not isinstance(settings, Settings)
            new = settings if isinstance(settings, Settings) else self._settings.with_changes(settings)
            self._pipeline.switch(new)  # before a run is let in
            self._take(new)
            self._sweeper.apply(new)
            self._pipeline.reconfigure(new, exporters=exporters, tracer_provider=tracer_provider, stays=stays)

    def flush(self, timeout_s: float | None = None) -> bool:
        """Deliver every run that has ended so far, in `timeout_s` or the settings' `export_timeout_s`.

        Returns: False if something could not be delivered in time, or was lost since the last flush.
        """
        return self._pipeline.flush(self._settings.export_timeout_s if timeout_s is None else timeout_s)

    def shutdown(self, timeout_s: float | None = None) -> bool:
        """Close the open runs as `abandoned`, deliver everything, close the destinations; False if that was not in time."""
        atexit.unregister(self.shutdown)
        for key in list(self._runs):
            self._open_runs.close(key, RunStatus.ABANDONED)
        return self._pipeline.shutdown(self._settings.export_timeout_s if timeout_s is None else timeout_s)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the exporters are made; that happens in the background."""
        self._pipeline.wait_until_ready(timeout_s)

    def after_fork_in_child(self) -> None:
        """Forget what belongs to the parent process: it reports its open and queued runs itself."""
        self._runs.clear()
        self._sweeper.forget()
        self._apply_lock = threading.Lock()
        self.health = self._open_runs.health = self._pipeline.after_fork_in_child()

    def open(self) -> None:
        """Have a TracerProvider now, not with the first run: for instrumentations of others that begin before it."""
        self._pipeline.open()
        atexit.unregister(self.shutdown)  # exits run last in, first out: theirs has to come after ours
        atexit.register(self.shutdown)

    # --- inside -----------------------------------------------------------------------------------------------

    def _start(  # noqa: PLR0917 (the one caller spreads the public arguments)
        self,
        key: Hashable,
        operation: OperationSource | None,
        parent: Hashable | None,
        scope: str,
        plumbing: bool,
        lifetime: object,
        make_current: bool,
        adopts: bool,
        frame_id: int,
        subject: object,
    ) -> AgentSpan | None:
        runs = self._runs
        if (known := runs.get(key)) is not None:
            return known if type(known) is AgentSpan else None
        context = get_current()
        if context.get(SUPPRESS_KEY):
            return None
        if not self._pipeline.is_open:
            self.open()
        current = context.get(SPAN_KEY, INVALID_SPAN)
        outer: Span = current.current() if type(current) is AgentSpan else current  # type: ignore[assignment]
        above = runs.get(parent) if parent is not None else None
        if type(above) is TransparentRun:
            above = above.parent
        if type(outer) is AgentSpan:
            if above is None:
                around = innermost(outer, frame_id)
                if around is not outer:
                    context, outer = Context({**context, SPAN_KEY: around, RUN_KEY: None}), around
                above = outer if type(outer) is AgentSpan else None
            elif (outer.adopts and outer.parent is above) or (
                outer.scope != scope and is_inside(outer, above)  # type: ignore[arg-type]
            ):
                above = outer  # the latter: another framework's run, which this framework does not know of
        if subject is not None and above is not None and above.subject is subject:  # type: ignore[union-attr]
            return None
        if operation is None or (plumbing and not self._chain_spans):
            entry = TransparentRun(above)  # type: ignore[arg-type]
            if lifetime is not None:
                entry.lifetime = self._open_runs.watch(lifetime, key)
            runs.setdefault(key, entry)
            if len(runs) > self._max_open_runs:
                self._open_runs.evict(self._max_open_runs)
            return None
        span = self._new_span(key, operation, above, outer, context, scope)  # type: ignore[arg-type]
        if runs.setdefault(key, span) is not span:  # another thread was first
            return self.find(key)
        if span.parent is not None:
            span.parent.open_children[span.span_id] = span
        if frame_id and (span.parent is None or not span.parent.frame_id):  # the outermost of its framework
            note_place(span, frame_id)
        span.adopts = adopts
        span.subject = subject
        if lifetime is not None:
            span.lifetime = self._open_runs.watch(lifetime, key)
        if make_current:
            attach(context_with(context, span))
        if len(runs) > self._max_open_runs:
            self._open_runs.evict(self._max_open_runs)
        return span

    def _new_span(  # noqa: PLR0917 (keyword arguments would cost on the hot path)
        self,
        key: Hashable,
        operation: OperationSource,
        parent: AgentSpan | None,
        outer: Span,
        context: Context,
        scope: str,
    ) -> AgentSpan:
        parent_context = None
        if type(outer) is not AgentSpan and outer is not INVALID_SPAN:
            parent, parent_context = foreign_parent(outer, parent, context.get(RUN_KEY))  # type: ignore[arg-type]
        trace = parent.trace if parent is not None else self._pipeline.new_trace(context, parent_context)
        span_id = self._pipeline.new_span_id()
        span = AgentSpan(key, operation, trace, parent, parent_context, outer, scope, span_id)
        span.request = request_for(context, parent)
        span.in_event_loop = running_loop() is not None
        return span

    def _verb_failed(self, verb: str, error: BaseException) -> None:
        what = f"aiobs: recording a run failed in {verb} ({type(error).__name__}); it may be missing."
        self.health.problem(f"recorder.{verb}", what)
