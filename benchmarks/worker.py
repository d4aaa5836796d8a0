"""What the worker does for a run, by stage; whether it keeps up; and how long the Prometheus page takes.

The time by stage is the one that aiobs counts itself, in `ai.agent.telemetry.overhead`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.scenarios import CountingExporter
from benchmarks.tables import Gate, table

import aiobs_core
from aiobs_core import Kind, Operation, Outcome, Recorder, Usage
from aiobs_core.metrics.page import render
from aiobs_core.metrics.series import Family, FamilySnapshot
from aiobs_core.semconv import metrics as names

_BATCH: Final = 1_000
_FLUSH_S: Final = 30.0
_COUNTED: Final = ("price", "measure", "mark", "log")
LIMIT_US: Final = 60.0
PAGE_LIMIT_MS: Final = 100.0
RUNS_PER_S: Final = 1_000


def measure(rounds: int) -> Mapping[str, float]:
    """Microseconds of the worker per model run by stage, the part of runs dropped at 1,000 runs/s, ms of a page."""
    with tempfile.TemporaryDirectory(prefix="aiobs-bench-") as folder:
        exporter = CountingExporter()
        recorder = aiobs_core.configure(
            exporters=[exporter],
            console="off",
            store="off",
            traces_exporter="none",
            log=str(Path(folder) / "requests.jsonl"),
        )
        _model_runs(recorder, _BATCH)
        assert recorder.flush(_FLUSH_S)
        before = _spent_s(recorder)
        for _ in range(rounds):
            _model_runs(recorder, _BATCH)
            assert recorder.flush(_FLUSH_S)
        after = _spent_s(recorder)
        found = {
            f"worker, {stage}": (after[stage] - before[stage]) * 1e6 / (rounds * _BATCH) for stage in after
        }
        found |= _sustained(recorder, duration_s=max(2.0, rounds / 6))
        aiobs_core.configure(exporters=[], console="off", store="off")
    return {**found, **_pages()}


def _model_runs(recorder: Recorder, count: int, *, pause_s: float = 0.0) -> None:
    for key in range(count):
        recorder.start(key, _asked, scope="aiobs.bench")
        recorder.end(key, partial(_answered, 812 + key % 50))
        if pause_s:
            time.sleep(pause_s)


def _asked() -> Operation:
    return Operation(
        kind=Kind.MODEL,
        name="ChatOpenAI",
        provider="openai",
        model="gpt-4o",
        params={"temperature": 0.2, "max_tokens": 256},
        agent="planner",
    )


def _answered(input_tokens: int) -> Outcome:
    usage = Usage(input_tokens=input_tokens, output_tokens=64, cache_read_tokens=128, reasoning_tokens=16)
    return Outcome(usage=usage, model="gpt-4o-2024-08-06", finish_reasons=("stop",))


def _spent_s(recorder: Recorder) -> dict[str, float]:
    return {
        str(dict(point.attributes)[names.WORK]): point.value  # type: ignore[union-attr]
        for family in recorder.metrics.snapshot()
        if family.metric is names.TELEMETRY_OVERHEAD
        for point in family.points
    }


def _sustained(recorder: Recorder, *, duration_s: float) -> Mapping[str, float]:
    """A thousand runs a second, in bursts of ten milliseconds."""
    dropped = recorder.health.counts().get("spans.dropped", 0)
    started_s = time.perf_counter()
    made, cpu_s = 0, time.process_time()
    while (elapsed_s := time.perf_counter() - started_s) < duration_s:
        due = int(elapsed_s * RUNS_PER_S) - made
        if due > 0:
            _model_runs(recorder, due)
            made += due
        time.sleep(0.01)
    assert recorder.flush(_FLUSH_S)
    cpu_s = time.process_time() - cpu_s
    dropped = recorder.health.counts().get("spans.dropped", 0) - dropped
    return {
        "sustained, runs/s": made / (time.perf_counter() - started_s),
        "sustained, dropped": dropped,
        "sustained, cores": cpu_s / duration_s,
    }


def _pages() -> Mapping[str, float]:
    """The page of 50 models in 6 stages: latency, requests and tokens of each."""
    families = [
        Family(metric, max_series=10_000, overflowed=lambda: None)
        for metric in (names.LATENCY, names.REQUESTS, names.TOKEN_USAGE, names.TOKENS)
    ]
    for model in range(50):
        for stage in range(6):
            at = (
                ("stage", f"stage {stage}"),
                ("provider", "openai"),
                ("model", f"model-{model}"),
                ("status", "success"),
            )
            families[0].distribution(at).record(0.2 * stage)
            families[1].number(at).add(1)
            families[2].distribution(at).record(100)
            families[3].number(at).add(100)
    snapshot: list[FamilySnapshot] = [family.snapshot() for family in families]
    return {
        f"page, {form}, ms": min(_timed_ms(partial(render, snapshot, openmetrics=is_new)) for _ in range(5))
        for form, is_new in (("text", False), ("OpenMetrics", True))
    }


def _timed_ms(do: Any) -> float:
    started_ns = time.perf_counter_ns()
    do()
    return (time.perf_counter_ns() - started_ns) / 1e6


def counted_us(found: Mapping[str, float]) -> float:
    """Price, measure and log together."""
    return sum(found.get(f"worker, {stage}", 0.0) for stage in _COUNTED)


def gates(found: Mapping[str, float]) -> list[Gate]:
    return [
        Gate(
            name="price, measure and log a model run",
            value=counted_us(found),
            limit=LIMIT_US,
            unit="µs on the worker",
        ),
        Gate(name="dropped at 1,000 runs/s", value=found["sustained, dropped"], limit=0.0, unit="runs"),
        *(
            Gate(
                name=name.removesuffix(", ms"),
                value=value,
                limit=PAGE_LIMIT_MS,
                unit="ms for 50 models in 6 stages",
            )
            for name, value in found.items()
            if name.startswith("page, ")
        ),
    ]


def report(found: Mapping[str, float]) -> str:
    rows = [
        (name.removeprefix("worker, "), f"{value:.1f}")
        for name, value in found.items()
        if name.startswith("worker, ")
    ]
    rows.append(("price, measure and log together", f"{counted_us(found):.1f}"))
    kept = f"{found['sustained, runs/s']:.0f} runs/s on {found['sustained, cores']:.2f} cores"
    return table(f"The worker, µs of processor time per model run ({kept})", ("", "µs"), rows)
