"""Whether exported spans keep to `aiobs_core.semconv`: only registered names, each with its registered type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from aiobs_core import semconv

_TYPES: Final = {"string": str, "int": int, "double": float, "boolean": bool}
_EVENT_PREFIXES: Final = (semconv.EVENT_CUSTOM_PREFIX,)


def problems(spans: Iterable[ReadableSpan]) -> list[str]:
    """What is wrong with the spans' attributes and events; empty if nothing is."""
    found: list[str] = []
    for span in spans:
        for name, value in (span.attributes or {}).items():
            problem = _attribute(name, value)
            if problem:
                found.append(f"{span.name}: {problem}")
        found.extend(
            f"{span.name}: event {event.name!r} is not registered"
            for event in span.events
            if event.name not in semconv.EVENTS and not event.name.startswith(_EVENT_PREFIXES)
        )
        if span.status.description:
            found.append(f"{span.name}: the status carries text")
    return found


def _attribute(name: str, value: object) -> str | None:
    if name.startswith(semconv.METADATA_PREFIX + "."):
        return None
    known = semconv.ATTRIBUTES.get(name)
    if known is None:
        return f"attribute {name!r} is not registered"
    if known.type == "string[]":
        if isinstance(value, (tuple, list)) and all(type(item) is str for item in value):
            return None
    elif type(value) is _TYPES[known.type]:
        return None
    return f"{name} is registered as {known.type}, got {type(value).__name__}"
