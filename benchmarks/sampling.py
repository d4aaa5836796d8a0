"""What a run costs that sampling drops, beside what people do by hand: an SDK span, and three records of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import thread_time_ns
from typing import Any, Final

from benchmarks import timing
from benchmarks.scenarios import CountingExporter
from benchmarks.tables import Gate, table
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import INVALID_SPAN

import aiobs_core
from aiobs_core import Kind, Operation, Outcome
from aiobs_core._health import Health
from aiobs_core._run import Run
from aiobs_core._span import AgentSpan, LocalTrace
from aiobs_core.metrics.meters import Meters
from aiobs_core.sampling.policy import PRESETS
from aiobs_core.sampling.tail import TailSampler
from aiobs_core.sampling.trace import Limits

_RUNS: Final = 500
_SPANS: Final = 10_000
_LABELS: Final = {"model": "gpt-4o", "provider": "openai", "operation": "chat", "status": "success"}
DROPPED_LIMIT: Final = 0.35
KEPT_LIMIT: Final = 1.5
DECISION_LIMIT_MS: Final = 5.0


def _by_hand(provider: TracerProvider, meters: MeterProvider) -> Any:
    tracer, meter = provider.get_tracer("bench"), meters.get_meter("bench")
    latency = meter.create_histogram("latency", unit="s")
    tokens = meter.create_histogram("tokens")
    cost = meter.create_counter("cost_usd")

    def do() -> None:
        for _ in range(_RUNS):
            timing.sdk_spans(tracer, 1)
            latency.record(0.8, _LABELS)
            tokens.record(876, _LABELS)
            cost.add(0.004, _LABELS)

    return do


def measure(rounds: int) -> Mapping[str, float]:
    """Microseconds of CPU time of a run by hand, kept, and at 1 %; milliseconds of a decision on 10,000 spans."""
    provider, meters = TracerProvider(), MeterProvider([InMemoryMetricReader()])
    provider.add_span_processor(BatchSpanProcessor(CountingExporter(), schedule_delay_millis=60_000))
    by_hand = timing.Lane(
        name="by hand", do=_by_hand(provider, meters), per_round=_RUNS, flush=provider.force_flush
    )
    found: dict[str, float] = {}
    for name in ("all", "production"):  # a change of the policy opens everything anew, so one after the other
        recorder = aiobs_core.configure(
            exporters=[CountingExporter()], console="off", store="off", traces_exporter="none", sampling=name
        )
        run = partial(timing.model_runs, recorder, _RUNS)
        lanes = [
            by_hand,
            timing.Lane(name="process", do=run, per_round=_RUNS, flush=timing.flush),
            timing.Lane(name="caller", do=run, per_round=_RUNS, flush=timing.flush, thread=True),
        ]
        taken = timing.run_lanes(lanes, rounds)
        found |= {f"{name}, {lane}": value for lane, value in taken.items()}
    provider.shutdown()
    meters.shutdown()
    aiobs_core.configure(exporters=[], console="off", store="off", sampling="all")
    return {**found, "decision, ms": min(_decision_ms() for _ in range(5))}


def _decision_ms() -> float:
    """A trace of 10,000 spans: how long its last span takes, with which it is decided and dropped."""
    limits = Limits(traces=10, spans=10**6, size_bytes=10**12, wait_ns=10**15, grace_ns=0)
    meters = Meters(Health(), max_values=100)
    tail = TailSampler(PRESETS["production"], limits, sees_foreign=True, is_second=False, meters=meters)
    trace = LocalTrace(1)
    root = AgentSpan("root", None, trace, None, None, INVALID_SPAN, "aiobs.bench", 1)
    asked = Operation(kind=Kind.MODEL, name="ChatOpenAI", model="gpt-4o")
    for number in range(2, _SPANS + 1):
        span = AgentSpan(number, None, trace, root, None, INVALID_SPAN, "aiobs.bench", number)
        span.finish()
        tail.sample([Run(span, asked, Outcome())], number)
    root.finish()
    last = [Run(root, asked, Outcome())]
    start_ns = thread_time_ns()
    tail.sample(last, _SPANS)
    return (thread_time_ns() - start_ns) / 1e6


def _ratios(found: Mapping[str, float]) -> tuple[float, float]:
    return (
        found["production, process"] / found["production, by hand"],
        found["all, process"] / found["all, by hand"],
    )


def gates(found: Mapping[str, float]) -> list[Gate]:
    dropped, kept = _ratios(found)
    unit = "of an SDK span and three metric records"
    return [
        Gate(
            name="model run at 1 %, worker included", value=dropped, limit=0.4, goal=DROPPED_LIMIT, unit=unit
        ),
        Gate(name="model run at 100 %, worker included", value=kept, limit=KEPT_LIMIT, unit=unit),
        Gate(
            name="decision", value=found["decision, ms"], limit=DECISION_LIMIT_MS, unit="ms for 10,000 spans"
        ),
    ]


def report(found: Mapping[str, float]) -> str:
    rows = [
        ("SDK span with 15 attributes and three metric records", "", f"{found['production, by hand']:.1f}"),
        *(
            (label, f"{found[f'{name}, caller']:.1f}", f"{found[f'{name}, process']:.1f}")
            for label, name in (("aiobs, all kept", "all"), ("aiobs, production (1 %)", "production"))
        ),
    ]
    return table("Sampling: one model run, µs of CPU time", ("", "caller", "with worker"), rows)
