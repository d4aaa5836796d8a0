"""Log records of OpenTelemetry with the fields of a line as their body: through the application's provider, or over OTLP."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, set_span_in_context

from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core._version import __version__
from aiobs_core.export.sender import Sender
from aiobs_core.semconv.logs import LOG_SCOPE

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from aiobs_core._health import Health
    from aiobs_core._settings import Settings

_API: Final = "opentelemetry._logs"


class LogRecords:
    """Emits log records. Used by the worker only.

    A provider that the application makes after its first run is found, too: it is asked for with each batch.
    """

    def __init__(self, settings: Settings, health: Health, resource: Callable[[], Resource]) -> None:
        self._resource = resource
        self._provider: Any = None  # the one that `_logger` is of
        self._logger: Any = None
        self._own_provider: Any = None
        self._sender: Sender | None = None
        sends = settings.logs_endpoint or "otlp" in settings.logs_exporter
        if sends and "none" not in settings.logs_exporter and _applications_provider() is None:
            self._sender = _make_sender(settings, health)

    def are_wanted(self) -> bool:
        """Whether there is anybody to take them; also finds out who."""
        provider = _applications_provider()
        if provider is None:
            if self._sender is None:
                return False
            provider = self._own_provider = self._own_provider or self._make_provider(self._sender)
        if provider is not self._provider:
            self._provider, self._logger = provider, provider.get_logger(LOG_SCOPE, __version__)
        return True

    def emit(
        self, level: str, event: str, fields: Mapping[str, Any], at_ns: int, context: SpanContext
    ) -> None:
        """Emit one record; what an application's processor raises is raised."""
        from opentelemetry import _logs as api
        from opentelemetry.sdk import _logs as sdk

        # SDKs before 1.39 want a record of their own, with the resource in it; later ones take that of the API.
        own_class: Any = getattr(sdk, "LogRecord", None)
        more = {} if own_class is None else {"resource": self._logger.resource}
        record = (own_class or api.LogRecord)(
            timestamp=at_ns,
            observed_timestamp=time.time_ns(),
            context=set_span_in_context(NonRecordingSpan(context), Context()),
            severity_text=level,
            severity_number=getattr(api.SeverityNumber, level),
            body=dict(fields),
            event_name=event,
            **more,
        )
        self._logger.emit(record)

    def flush(self, timeout_s: float) -> bool:
        """Deliver what was emitted; False if that took longer. From any thread."""
        timeout_ms = max(1, int(timeout_s * 1_000))
        sender, provider, own = self._sender, self._provider, self._own_provider  # another thread may close
        delivered = sender is None or sender.force_flush(timeout_ms)
        if provider is None or provider is own:
            return delivered
        return provider.force_flush(timeout_ms) is not False and delivered

    def close(self, timeout_s: float) -> bool:
        """Flush, and close what is ours; a provider of the application's stays open."""
        delivered = self.flush(timeout_s)
        sender, self._sender = self._sender, None
        self._provider = self._logger = self._own_provider = None
        if sender is not None:
            sender.shutdown()
        return delivered

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the exporter is made, or could not be; that happens in the background."""
        if self._sender is not None:
            self._sender.wait_until_ready(timeout_s)

    def _make_provider(self, sender: Sender) -> Any:
        with uninterrupted_by_fork():
            from opentelemetry.sdk._logs import LoggerProvider

            from aiobs_core.logs.to_sender import ToSender

        provider = LoggerProvider(self._resource(), shutdown_on_exit=False)
        provider.add_log_record_processor(ToSender(sender))
        return provider


class LogSender(Sender):
    """A `Sender` of log records: the same queue, thread, bounds and care about forks, and other words for losses."""

    def _lose(self, problem: str, reason: str, lost: int) -> None:
        self._health.problem(
            f"{self._name}.{problem}",
            f"aiobs: {lost} log record{'' if lost == 1 else 's'} could not be sent: {reason}. Further losses of this kind "
            "are only counted. OTEL_LOGS_EXPORTER=none sends none, for a receiver that takes traces only.",
            lost=lost,
            signal="logs",
        )


class _LogExporter(SpanExporter):
    """An exporter of log records that answers as one of spans does: both have an enumeration of their own for it."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        result = self._exporter.export(spans)
        return SpanExportResult.SUCCESS if result.name == "SUCCESS" else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _make_sender(settings: Settings, health: Health) -> Sender:
    def make() -> SpanExporter:
        from aiobs_core.export.otlp import open_exporter

        endpoint, protocol = settings.logs_endpoint, settings.logs_protocol
        return _LogExporter(open_exporter("logs", endpoint, protocol, settings=settings, health=health))

    timeout_s = settings.export_timeout_s * 0.8  # so that losses are told before everybody stops waiting
    sender = LogSender(
        make, queue_size=settings.queue_size, health=health, name="otlp_logs", timeout_s=timeout_s
    )
    # Now: the SDK of logs starts threads when it is imported, which an interpreter that shuts down does not allow.
    sender.make_ready()
    return sender


def _applications_provider() -> Any:
    """The application's LoggerProvider, if it has one of the SDK's; where nobody has imported its API, nobody has set one."""
    api = sys.modules.get(_API)
    if api is None:
        return None
    provider = api.get_logger_provider()
    return provider if hasattr(provider, "add_log_record_processor") else None
