"""The registry of emitted names: what is known of each, and how one gets in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

ValueType = Literal["string", "int", "double", "boolean", "string[]"]
Generation = Literal["1.41", "latest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One emitted attribute: its name, value type, unit (None where it has none), meaning and origin."""

    name: str
    type: ValueType
    brief: str
    unit: str | None = None
    dialect: Literal["ai_agent", "gen_ai", "openinference", "otel"]
    generation: Generation | None = None  # None: the same name in every generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One emitted span event."""

    name: str
    brief: str


ATTRIBUTES: Final[dict[str, Attribute]] = {}
EVENTS: Final[dict[str, Event]] = {}


def own(name: str, type_: ValueType, brief: str, unit: str | None = None) -> str:
    """One of aiobs' own names."""
    ATTRIBUTES[name] = Attribute(name=name, type=type_, brief=brief, unit=unit, dialect="ai_agent")
    return name


def gen_ai(
    name: str, type_: ValueType, brief: str, unit: str | None = None, generation: Generation | None = None
) -> str:
    """A name of the GenAI conventions."""
    ATTRIBUTES[name] = Attribute(
        name=name, type=type_, brief=brief, unit=unit, dialect="gen_ai", generation=generation
    )
    return name


def otel(name: str, type_: ValueType, brief: str) -> str:
    """A name of OpenTelemetry's general conventions."""
    ATTRIBUTES[name] = Attribute(name=name, type=type_, brief=brief, dialect="otel")
    return name


def openinference(name: str, type_: ValueType, brief: str) -> str:
    """A name of OpenInference."""
    ATTRIBUTES[name] = Attribute(name=name, type=type_, brief=brief, dialect="openinference")
    return name


def event(name: str, brief: str) -> str:
    """The name of a span event."""
    EVENTS[name] = Event(name=name, brief=brief)
    return name
