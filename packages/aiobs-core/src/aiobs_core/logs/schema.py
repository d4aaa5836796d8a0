"""The JSON schema of log lines, made from `aiobs_core.semconv.logs`; `schema.json` beside this file is what it makes."""

from __future__ import annotations

import json
from typing import Any, Final

from aiobs_core.semconv.logs import FIELDS, LOG_EVENTS, ON_EVERY_LINE, Field

_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_ID: Final = "urn:aiobs:schema:log-line"


def log_line_schema() -> dict[str, Any]:
    """The schema, in draft 2020-12: every field, and what a line of each event has in any case."""
    return {
        "$schema": _DRAFT,
        "$id": _ID,
        "title": "A log line of aiobs",
        "type": "object",
        "properties": {name: _property(field) for name, field in FIELDS.items()},
        "required": list(ON_EVERY_LINE),
        "additionalProperties": False,
        "allOf": [
            {
                "if": {"properties": {"event": {"const": event.name}}},
                "then": {
                    "properties": {"level": {"enum": list(event.levels)}},
                    "required": list(event.required),
                },
            }
            for event in LOG_EVENTS.values()
        ],
    }


def _property(field: Field) -> dict[str, Any]:
    found: dict[str, Any] = {"description": field.brief, "type": field.type}
    if field.accepted:
        found["enum"] = list(field.accepted)
    elif field.type == "string":
        found.update(minLength=1, maxLength=field.max_chars)
    elif field.type == "object":
        found.update(minProperties=1, additionalProperties={"type": ["number", "string", "boolean"]})
    else:
        found["minimum"] = 0
    if field.pattern is not None:
        found["pattern"] = field.pattern
    return found


def schema_text() -> str:
    """The schema as `schema.json` holds it."""
    return json.dumps(log_line_schema(), indent=2, ensure_ascii=False) + "\n"
