"""Log lines through the application's own logging, whose handlers, levels and formats are its affair."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from aiobs_core.semconv import logs as names

if TYPE_CHECKING:
    from aiobs_core.logs.sinks import Sink

LOGGER_NAME: Final = "aiobs.requests"
_STDLIB_LEVELS: Final = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
}
_LOGURU_LEVELS: Final = {"DEBUG": "DEBUG", "INFO": "INFO", "WARN": "WARNING", "ERROR": "ERROR"}
_STRUCTLOG_METHODS: Final = {"DEBUG": "debug", "INFO": "info", "WARN": "warning", "ERROR": "error"}


def application_sink(name: str) -> Sink:
    """The sink of that name.

    Raises:
        ImportError: If its package is not installed.
    """
    if name == "logging":
        return _LoggingSink()
    return _AppLoguruSink() if name == "loguru" else _StructlogSink()


class _LoggingSink:
    """The standard library's `logging`: the event is the message, the fields are `record.aiobs`."""

    def __init__(self) -> None:
        self._logger = logging.getLogger(LOGGER_NAME)
        if self._logger.level == logging.NOTSET:
            # Who asks for these lines wants them, though the root logger is at WARNING as it comes; `log_level` decides.
            self._logger.setLevel(logging.DEBUG)

    def write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        number = _STDLIB_LEVELS[level]
        if not self._logger.isEnabledFor(number):
            return
        extra = {
            "aiobs": dict(fields),
            "trace_id": fields[names.TRACE_ID],
            "span_id": fields[names.SPAN_ID],
        }
        made = self._logger.makeRecord(LOGGER_NAME, number, "", 0, event, (), None, extra=extra)
        self._hand_out(made)

    def _hand_out(self, record: logging.LogRecord) -> None:
        """To every handler but OpenTelemetry's: an application that has one gets the log record itself, with its trace.

        So this goes the way of `Logger.handle`, whose next step asks all handlers.
        """
        if not self._logger.filter(record):
            return
        logger: logging.Logger | None = self._logger
        while logger is not None:
            for handler in logger.handlers:
                if record.levelno >= handler.level and not type(handler).__module__.startswith(
                    "opentelemetry."
                ):
                    handler.handle(record)
            logger = logger.parent if logger.propagate else None

    def close(self) -> None:
        """Nothing is open."""


class _AppLoguruSink:
    """The application's loguru: the event is the message, the fields are `record["extra"]`."""

    def __init__(self) -> None:
        from loguru import logger

        self._logger = logger

    def write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        self._logger.bind(**fields).log(_LOGURU_LEVELS[level], event)

    def close(self) -> None:
        """Nothing is open."""


class _StructlogSink:
    """The application's structlog: the event is the event, the fields are its key-value pairs."""

    def __init__(self) -> None:
        import structlog

        self._get_logger = structlog.get_logger

    def write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        pairs = {name: value for name, value in fields.items() if name not in {names.EVENT, names.LEVEL}}
        # Asked for each time: what is bound before `structlog.configure` keeps the configuration of before.
        getattr(self._get_logger("aiobs"), _STRUCTLOG_METHODS[level])(event, **pairs)

    def close(self) -> None:
        """Nothing is open."""
