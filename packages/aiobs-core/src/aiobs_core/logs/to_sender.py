"""The processor of aiobs' own LoggerProvider; a module of its own, since it needs the SDK of logs when it is imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk import _logs as sdk
from opentelemetry.sdk._logs import LogRecordProcessor

if TYPE_CHECKING:
    from aiobs_core.export.sender import Sender

_READABLE: Final[Any] = getattr(sdk, "ReadableLogRecord", None)


class ToSender(LogRecordProcessor):
    """Queues records for the sender."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def on_emit(self, log_record: Any) -> None:
        # SDKs before 1.39 hand over what exporters take; later ones something that can still be written to.
        if _READABLE is not None:
            log_record = _READABLE(
                log_record=log_record.log_record,
                resource=log_record.resource,
                instrumentation_scope=log_record.instrumentation_scope,
                limits=log_record.limits,
            )
        self._sender.export([log_record])

    def shutdown(self) -> None:
        """The stage closes the sender."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._sender.force_flush(timeout_millis)
