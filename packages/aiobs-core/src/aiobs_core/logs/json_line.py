"""One JSON object on one line, whatever is in it."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

_encode: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
# JSON lets them stand, but some readers end a line at them, terminals obey them, or they turn the direction of writing.
_UNPRINTABLE: Final = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_NON_ASCII: Final = re.compile(r"[^\x00-\x7f]")
_LEVELS: Final = {"WARNING": "WARN", "CRITICAL": "ERROR"}


def json_line(fields: Mapping[str, Any]) -> str:
    """The object in UTF-8, without a line end; no character in it ends a line for anybody."""
    line = _encode(fields)
    return line if line.isascii() and "\x7f" not in line else _UNPRINTABLE.sub(_escaped, line)


def as_ascii(line: str) -> str:
    """The same line for a stream that cannot carry it."""
    return _NON_ASCII.sub(_escaped, line)


def _escaped(match: re.Match[str]) -> str:
    units = match.group().encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


class JsonFormatter(logging.Formatter):
    """Formats records of `logging` as JSON lines: those of aiobs with their fields, the application's own with their text.

    Example:
        >>> handler = logging.StreamHandler()
        >>> handler.setFormatter(JsonFormatter())
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; never raises because of what is in it."""
        fields = record.__dict__.get("aiobs")
        if isinstance(fields, dict):
            return json_line(fields)
        at = datetime.fromtimestamp(record.created, timezone.utc)
        found: dict[str, Any] = {
            "timestamp": at.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            "level": _LEVELS.get(record.levelname, record.levelname),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name in ("trace_id", "span_id"):
            if value := record.__dict__.get(name):
                found[name] = str(value)
        if record.exc_info:
            found["exception"] = self.formatException(record.exc_info)
        return json_line(found)
