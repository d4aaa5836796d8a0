"""The ids of the current span on the application's own log lines, for the three ways to log."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, Final

from opentelemetry.trace import INVALID_SPAN, get_current_span

_NO_IDS: Final = ("", "")


def current_ids() -> tuple[str, str]:
    """Trace id and span id of the current span in hexadecimal digits; both empty where there is none."""
    span = get_current_span()
    if span is INVALID_SPAN:
        return _NO_IDS
    context = span.get_span_context()
    if not context.is_valid:
        return _NO_IDS
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def add_trace_ids() -> None:
    """Give every record of `logging` a `trace_id` and a `span_id`, empty outside of a run, whoever makes it.

    To be called once, at any time; calling it again changes nothing. What the application has set as record factory before
    goes on to be asked.

    Example:
        >>> add_trace_ids()
        >>> logging.basicConfig(format="%(levelname)s %(message)s trace=%(trace_id)s")
    """
    inner = logging.getLogRecordFactory()
    if getattr(inner, "adds_trace_ids", False):
        return

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = inner(*args, **kwargs)
        record.trace_id, record.span_id = current_ids()
        return record

    make.adds_trace_ids = True  # type: ignore[attr-defined]  # known again by it
    logging.setLogRecordFactory(make)


def trace_ids(record: Any) -> None:
    """A patcher of loguru's: `logger.configure(patcher=trace_ids)` puts the ids among `extra`, inside of a run."""
    trace_id, span_id = current_ids()
    if trace_id:
        extra = record["extra"]
        extra.setdefault("trace_id", trace_id)  # lines of aiobs have their own
        extra.setdefault("span_id", span_id)


def trace_ids_processor(
    logger: object,  # noqa: ARG001 (structlog's signature)
    method: str,  # noqa: ARG001
    event: MutableMapping[str, Any],
) -> MutableMapping[str, Any]:
    """A processor of structlog's, for anywhere before the renderer."""
    trace_id, span_id = current_ids()
    if trace_id:
        event.setdefault("trace_id", trace_id)
        event.setdefault("span_id", span_id)
    return event
