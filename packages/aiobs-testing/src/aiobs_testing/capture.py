"""`Telemetry`: what aiobs exported, as plain data with small stable ids."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import Recorder, Settings, get_recorder, semconv

QUICK: Final[Mapping[str, object]] = {
    "console": "off",
    "store": "off",
    "flush_interval_s": 0.01,
    "grace_s": 0.2,
}
_LOGGERS_THAT_HURT: Final = ("opentelemetry.context", "langchain_core.callbacks", "llama_index", "aiobs")

_OF_PRICES: Final = "aiobs.pricing"  # fake models have none


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith(_LOGGERS_THAT_HURT) and record.name != _OF_PRICES:
            self.records.append(record)


class Telemetry:
    """The spans of one test: of aiobs, and of other instrumentations that go through aiobs' provider."""

    closes_within_s: ClassVar[float] = 5.0
    """How long to wait for runs that nobody ends."""

    def __init__(self, recorder: Recorder, exporter: InMemorySpanExporter, warnings: _Warnings) -> None:
        self.recorder = recorder
        self._exporter = exporter
        self._warnings = warnings
        self._waited_in_vain = False  # a test that failed for it does not wait again at its end

    def raw(self) -> list[ReadableSpan]:
        """The exported spans in the order in which they started."""
        assert self.recorder.flush(10), "aiobs could not deliver within 10 s"
        return sorted(
            self._exporter.get_finished_spans(),
            key=lambda span: (span.start_time or 0, -(span.end_time or 0)),
        )

    def raw_of(self, scope: str) -> list[ReadableSpan]:
        """The exported spans of one instrumentation scope."""
        return [
            span
            for span in self.raw()
            if span.instrumentation_scope and span.instrumentation_scope.name == scope
        ]

    def spans(self) -> list[dict[str, Any]]:
        """The exported spans as plain data: traces and spans are numbered from 1 in the order of their start."""
        raw = self.raw()
        traces = _numbered(_ids(span)[0] for span in raw)
        numbers = _numbered(_ids(span)[1] for span in raw)
        return [_plain(span, traces, numbers) for span in raw]

    def by_name(self, name: str) -> dict[str, Any]:
        """The one span of this name.

        Raises:
            AssertionError: If there is none, or more than one.
        """
        found = [span for span in self.spans() if span["name"] == name]
        assert len(found) == 1, (
            f"{len(found)} spans are named {name!r}; there are {[s['name'] for s in self.spans()]}"
        )
        return found[0]

    def tree(self) -> str:
        """Names by depth, one span a line, with the outcome where it is not success; for inline snapshots."""
        spans = self.spans()
        known = {span["id"] for span in spans}
        lines: list[str] = []

        def add(parent: int | None, depth: int) -> None:
            for span in spans:
                above = span["parent"] if span["parent"] in known else None
                if above == parent:
                    outcome = span["attributes"].get(semconv.OUTCOME, "success")
                    lines.append(
                        "  " * depth + span["name"] + ("" if outcome == "success" else f" [{outcome}]")
                    )
                    add(span["id"], depth + 1)

        add(None, 0)
        return "\n".join(lines)

    @property
    def open_runs(self) -> int:
        """Runs that have started and not ended."""
        return self.recorder.open_runs

    @property
    def warnings(self) -> list[str]:
        """What aiobs, OpenTelemetry's context and the frameworks' callback managers logged at WARNING or above."""
        return [f"{record.name}: {record.getMessage()}" for record in self._warnings.records]

    def forgive_warnings(self, containing: str = "") -> None:
        """Forget the warnings so far, or those that contain this text; for tests that provoke them."""
        self._warnings.records[:] = [
            record for record in self._warnings.records if containing not in record.getMessage()
        ]
        self.recorder.health.warn_again()

    def check_logs(self) -> None:
        """Fail if anything hurt."""
        assert not self.warnings

    def wait_until_closed(self, timeout_s: float | None = None) -> None:
        """Wait until no run is open; runs that nobody ends need the grace period or a garbage collection."""
        patience_s = self.closes_within_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + (0 if self._waited_in_vain else patience_s)
        while self.open_runs:
            self._waited_in_vain = time.monotonic() > deadline
            assert not self._waited_in_vain, f"{self.open_runs} runs are still open"
            gc.collect()
            time.sleep(0.02)
        self.recorder.flush(10)


@contextmanager
def capture(**settings: object) -> Iterator[Telemetry]:
    """Send to memory what aiobs records inside the block; afterwards nothing is recorded anywhere.

    Args:
        settings: Fields of `aiobs_core.Settings`; console and store are off, intervals short, unless given.
    """
    exporter = InMemorySpanExporter()
    loaded = Settings.load({}, {**QUICK, **settings}, strict=True)
    recorder = get_recorder()
    recorder.apply(loaded, exporters=[exporter])
    warnings = _Warnings()
    logging.getLogger().addHandler(warnings)
    try:
        yield Telemetry(recorder, exporter, warnings)
    finally:
        logging.getLogger().removeHandler(warnings)
        recorder.shutdown(10)
        recorder.apply(recorder.settings, exporters=[])


def _ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def _numbered(ids: Iterator[int]) -> dict[int, int]:
    numbers: dict[int, int] = {}
    for each in ids:
        numbers.setdefault(each, len(numbers) + 1)
    return numbers


def _plain(span: ReadableSpan, traces: Mapping[int, int], numbers: Mapping[int, int]) -> dict[str, Any]:
    trace_id, span_id = _ids(span)
    scope = span.instrumentation_scope
    return {
        "trace": traces[trace_id],
        "id": numbers[span_id],
        "parent": None if span.parent is None else numbers.get(span.parent.span_id, "outside"),
        "name": span.name,
        "kind": span.kind.name,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
        "events": [{"name": event.name, "attributes": dict(event.attributes or {})} for event in span.events],
        "links": [
            {"id": numbers.get(link.context.span_id, "outside"), "attributes": dict(link.attributes or {})}
            for link in span.links
        ],
        "scope": scope.name if scope is not None else None,
        "duration_s": ((span.end_time or 0) - (span.start_time or 0)) / 1e9,
    }
