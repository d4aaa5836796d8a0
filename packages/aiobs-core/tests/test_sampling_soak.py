"""The buffer of undecided traces over a long run at 1,000 runs a second: within its bounds, and every span accounted for."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core import Kind, Operation, Outcome, Settings, Usage
from aiobs_core._recorder import Recorder
from aiobs_core.semconv import metrics as names

RUNS_PER_S = 1_000
RUNS_PER_TRACE = 5
SOAK_S = float(os.environ.get("SOAK_S", "3600"))
MAX_SPANS, MAX_BYTES = 20_000, 60_000_000
ROOT = Operation(kind=Kind.WORKFLOW, name="answer")


class Counting(SpanExporter):
    def __init__(self) -> None:
        self.count = 0

    def export(self, spans: Any) -> SpanExportResult:
        self.count += len(spans)
        return SpanExportResult.SUCCESS


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def call(recorder: Recorder, root: object, prompt: str, *, fails: bool) -> None:
    key = object()
    asked = Operation(
        kind=Kind.MODEL,
        name="ChatOpenAI",
        model="gpt-4o",
        content=lambda: [{"role": "user", "parts": [{"type": "text", "content": prompt}]}],
    )
    recorder.start(key, asked, parent=root, make_current=False)
    if fails:
        recorder.fail(key, ValueError("no"))
    else:
        recorder.end(key, Outcome(usage=Usage(input_tokens=len(prompt) // 4, output_tokens=40)))


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="needs /proc to read the memory of the process"
)
@pytest.mark.parametrize("duration_s", [4.0, pytest.param(SOAK_S, marks=pytest.mark.soak)])
def test_memory_of_undecided_traces_stays_within_its_bound(duration_s: float) -> None:
    exporter = Counting()
    settings = Settings.load(
        {},
        {
            "console": "off",
            "store": "off",
            "sampling": "production",
            "sampling_max_spans": MAX_SPANS,
            "sampling_max_bytes": MAX_BYTES,
            "sampling_max_traces": 5_000,
            "max_open_runs": 6_000,
        },
        strict=True,
    )
    recorder = Recorder(settings, exporters=[exporter])
    fate = random.Random(3)
    started_s, made, failed, warm_bytes, most_bytes, next_look_s = time.monotonic(), 0, 0, 0, 0, 1.0
    open_roots: list[object] = []

    def value(metric: names.Metric) -> float:
        return sum(
            point.value  # type: ignore[union-attr]
            for family in recorder.metrics.snapshot()
            if family.metric is metric
            for point in family.points
        )

    while (elapsed_s := time.monotonic() - started_s) < duration_s:
        while made < elapsed_s * RUNS_PER_S:
            root, fails = object(), fate.random() < 0.02
            recorder.start(root, ROOT, make_current=False)
            for at in range(RUNS_PER_TRACE - 1):
                call(
                    recorder,
                    root,
                    fate.choice("abcdef") * fate.choice((200, 2_000, 20_000)),
                    fails=fails and at == 2,
                )
            made += RUNS_PER_TRACE
            failed += fails
            if fate.random() < 0.3:  # goes on for a while; at this rate they exceed the bounds
                open_roots.append(root)
            else:
                recorder.end(root)
            if len(open_roots) > 4_000:
                recorder.end(open_roots.pop(0))
        if elapsed_s > next_look_s:
            next_look_s = elapsed_s + 1
            assert (
                value(names.SAMPLING_BUFFERED_SPANS) <= MAX_SPANS + 1
            )  # read between a span's arrival and the making of room
            assert value(names.SAMPLING_BUFFERED_BYTES) <= MAX_BYTES + 100_000
            assert value(names.SAMPLING_BUFFERED_TRACES) <= 5_001
            most_bytes = max(most_bytes, resident_bytes())
            if elapsed_s < max(30.0, duration_s / 20):
                warm_bytes = most_bytes
        time.sleep(0.005)
    for root in open_roots:
        recorder.end(root)
    assert recorder.shutdown(60)
    assert recorder.health.counts() == {}
    assert exporter.count >= failed
    assert value(names.SAMPLING_SPANS_DROPPED) + exporter.count == made
    assert most_bytes - warm_bytes < MAX_BYTES // 2
    print(
        f"{made} runs in {duration_s:.0f} s, {exporter.count} spans kept; RSS {warm_bytes >> 20} MiB, at most {most_bytes >> 20}"
    )
