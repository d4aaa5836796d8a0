"""What is measured: the calls of a framework's application, and who listens to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

import aiobs_core

FRAMEWORKS: Final = ("langchain", "llama_index")
CHUNKS: Final = 200
TOOL_CALLS: Final = 5
LARGE_PROMPT_CHARS: Final = 200_000
OURS: Final = ("aiobs", "unsampled")

Call = Callable[[int, Mapping[str, Any]], None]
"""Makes so many calls with the given config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One kind of call.

    Attributes:
        says: What it is, for people.
        make: Makes the application.
        spans: How many aiobs has to export for each call.
        few: How often it is repeated, and `many`: what is done once cancels out in the difference.
    """

    says: str
    make: Callable[[], Call]
    spans: int
    few: int
    many: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """The scenarios of one framework.

    Attributes:
        name: As people write it.
        scenarios: By a name that no other framework uses.
        variants: Who listens, and the head of its column. The first is nobody; `unsampled` has its goals in a few
            scenarios only, all others are counted in each.
        listen: Makes a variant listen to all calls from now on that are made with the config it returns.
    """

    name: str
    scenarios: Mapping[str, Scenario]
    variants: Mapping[str, str]
    listen: Callable[[str], Mapping[str, Any]]


def load(framework: str) -> Framework:
    """One of `FRAMEWORKS`; here only, since importing them takes a minute under callgrind."""
    found = import_module(f"benchmarks.{framework}").FRAMEWORK
    assert isinstance(found, Framework)
    return found


class CountingExporter(SpanExporter):
    """Keeps nothing but the number of spans, which proves that what was measured did its work."""

    def __init__(self) -> None:
        self.count = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.count += len(spans)
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


def configure(variant: str, exporter: SpanExporter, **settings: object) -> None:
    """Set aiobs up for one of `OURS`; what it records goes to `exporter`."""
    provider = TracerProvider(sampler=sampling.ALWAYS_OFF) if variant == "unsampled" else None
    aiobs_core.configure(
        exporters=[exporter], tracer_provider=provider, console="off", store="off", **settings
    )
