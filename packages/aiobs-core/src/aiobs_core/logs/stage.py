"""The stage `log`: a line for each request that is kept, and at lower levels for what happened inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from aiobs_core import semconv
from aiobs_core._operation import Kind, RunStatus
from aiobs_core._run import Run
from aiobs_core._switches import LOGS
from aiobs_core.logs.level import NUMBERS, LiveLevel
from aiobs_core.logs.lines import Lines
from aiobs_core.logs.records import LogRecords
from aiobs_core.logs.request import WRITTEN, RequestSummary
from aiobs_core.logs.sinks import open_sink
from aiobs_core.semconv import logs as names

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from aiobs_core._health import Health
    from aiobs_core._settings import Settings
    from aiobs_core.logs.sinks import Sink
    from aiobs_core.privacy.stage import Privacy

_DROPPED: Final = "logs.dropped"
_DEBUG: Final = NUMBERS["DEBUG"]
_INFO: Final = NUMBERS["INFO"]
_WARN: Final = NUMBERS["WARN"]
# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_MODEL: Final = Kind.MODEL
_FAILED: Final = (RunStatus.ERROR, RunStatus.TIMED_OUT)


class Logs:
    """Writes lines to the sink of the settings and emits the same as log records of OpenTelemetry.

    Used by the worker only, but for `apply`. It sees kept runs alone, so every line has a trace to go to. Nothing raised by
    a sink or an application's processor goes further than here: it is counted, and warned of once.
    """

    def __init__(self, settings: Settings, health: Health, privacy: Privacy, resource: Resource) -> None:
        self._settings = settings
        self._health = health
        self._level = LiveLevel(settings)  # here and now: only the main thread can listen to a signal
        self._lines = Lines(settings, health, privacy)
        self._sink: Sink | None = None
        self._wants_sink = settings.log != "off"
        self._records = LogRecords(settings, health, lambda: privacy.masked_resource(resource))
        self._emits = False
        self._known_losses = health.counts().get(_DROPPED, 0)

    def note(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Write the lines of a batch, and pass it on as it is."""
        runs = [item for item in batch if type(item) is Run and item.span.trace.signals & LOGS]
        if not runs:
            return batch
        try:
            self._emits = self._records.are_wanted()
        except Exception as error:  # noqa: BLE001 (a provider of the application's that has no logger for us)
            self._emits = False
            self._failed("records", error)
        if self._wants_sink:  # opened by the worker, since a package has to be imported
            self._wants_sink = False
            self._sink = open_sink(self._settings, self._health)
        if self._sink is None and not self._emits:
            return batch
        level = self._level.now()
        for run in runs:
            try:
                self._note(run, level)
            except Exception as error:  # noqa: BLE001 (one odd run must not cost the others their lines)
                self._failed("line", error)
        return batch

    def apply(self, settings: Settings) -> None:
        """Use the level of other settings from now on; everything else of them needs another stage. From any thread."""
        self._level.apply(settings)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the exporter of log records is made. From any thread."""
        self._records.wait_until_ready(timeout_s)

    def flush(self, timeout_s: float) -> bool:
        """Deliver the log records so far; False if that took longer, or lines were lost since the last flush."""
        try:
            return self._records.flush(timeout_s) and self._lost_nothing()
        except Exception as error:  # noqa: BLE001 (an application's provider)
            self._failed("records", error)
            return False

    def close(self, timeout_s: float) -> bool:
        """Flush, and close what is ours."""
        sink, self._sink = self._sink, None
        try:
            if sink is not None:
                sink.close()
        except Exception as error:  # noqa: BLE001 (a full disk says so when its file is closed, too)
            self._failed("sink", error)
        try:
            return self._records.close(timeout_s)
        except Exception as error:  # noqa: BLE001 (an application's provider)
            self._failed("records", error)
            return False

    def _lost_nothing(self) -> bool:
        known, self._known_losses = self._known_losses, self._health.counts().get(_DROPPED, 0)
        return known == self._known_losses

    # --- one run ----------------------------------------------------------------------------------------------------

    def _note(self, run: Run, level: int) -> None:
        span = run.span
        trace = span.trace
        summary = trace.log
        if summary is None:
            summary = trace.log = RequestSummary()
        if level <= _DEBUG:
            self._write(run, span.start_ns, self._lines.start(run))
        retries = self._retries(run)
        summary.retries += len(retries)
        if level <= _WARN:
            for at_ns, attempt in retries:
                self._write(run, at_ns, self._lines.retry(run, at_ns, attempt))
        if run.kind is _MODEL and not summary.is_written:
            summary.add(self._lines.call(run))
        failed = run.status in _FAILED
        if span.is_local_root:
            trace.log = WRITTEN  # whatever still comes of this trace, nothing is gathered for it any more
            if failed or level <= _INFO:
                fields = self._lines.request(run, summary, "ERROR" if failed else "INFO")
                self._write(run, span.end_ns, fields)
        elif failed and span.error_below != run.error_type:  # where it arose, not where it passed through
            self._write(run, span.end_ns, self._lines.end(run, "ERROR", names.ERROR))
        elif level <= _DEBUG:
            self._write(run, span.end_ns, self._lines.end(run, "DEBUG", names.RUN_END))

    def _retries(self, run: Run) -> list[tuple[int, object]]:
        """When something was tried again, and which attempt that was."""
        found: list[tuple[int, object]] = [
            (at_ns, given.get(semconv.RETRY_ATTEMPT))
            for name, at_ns, given in run.span.events or ()
            if name == semconv.EVENT_RETRY
        ]
        if (attempt := run.extra.get(semconv.RETRY_ATTEMPT)) is not None:
            found.append((run.span.start_ns, attempt))
        return found

    def _write(self, run: Run, at_ns: int, fields: Mapping[str, Any]) -> None:
        level, event = fields[names.LEVEL], fields[names.EVENT]
        if self._sink is not None:
            try:
                self._sink.write(level, event, fields)
            except Exception as error:  # noqa: BLE001 (a full disk, a closed stream, a handler of the application's)
                self._failed("sink", error)
        if self._emits:
            try:
                self._records.emit(level, event, fields, at_ns, run.span.own_context())
            except Exception as error:  # noqa: BLE001 (a processor of the application's)
                self._failed("records", error)

    def _failed(self, what: str, error: Exception) -> None:
        self._health.problem(
            f"logs.{what}",
            f"aiobs: a log line could not be written ({what}: {type(error).__name__}); it is lost, the application is not "
            "affected. Further ones are counted only.",
            lost=1,
            signal="logs",
        )
