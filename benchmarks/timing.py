"""Time mode: CPU time, lanes side by side.

All lanes run once in each round, so what else the machine does hits all alike; the 10th percentile of the rounds is
reported. Ratios between lanes hold on any machine, microseconds on this one only.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from benchmarks import langchain, llama_index
from benchmarks.langchain import answer
from benchmarks.scenarios import CountingExporter
from benchmarks.tables import Gate, table
from langchain_core.messages import HumanMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Tracer

import aiobs_core
from aiobs_core import Kind, Operation, Outcome, Usage
from aiobs_core._health import Health
from aiobs_core.store.writer import StoreWriter
from aiobs_langchain import AiObsCallbackHandler

_FLUSH_S: Final = 30.0
_SCOPE: Final = "aiobs.bench"
_RUNS: Final = 500  # fewer than the batch processor's queue holds: nothing is dropped
_CALLS: Final = 24  # of a LangChain chain; a multiple of how many the async one makes at once
_CHATS: Final = 100
_STORED: Final = 512

# --- one model run worth 15 attributes ----------------------------------------------------------------------------

_ASKED: Final = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.request.temperature": 0.2,
    "gen_ai.request.max_tokens": 256,
    "gen_ai.request.top_p": 0.9,
    "gen_ai.conversation.id": "c-17",
    "gen_ai.agent.name": "planner",
    "ai.agent.request.id": "r-17",
    "ai.agent.input.message_count": 4,
}
_ANSWERED: Final = {
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "gen_ai.response.id": "chatcmpl-1",
    "gen_ai.response.finish_reasons": ("stop",),
    "gen_ai.usage.input_tokens": 812,
    "gen_ai.usage.output_tokens": 64,
}


def _asked(model: str, temperature: float) -> Operation:
    return Operation(
        kind=Kind.MODEL,
        name=model,
        action="chat",
        provider="openai",
        model=model,
        params={"temperature": temperature, "max_tokens": 256, "top_p": 0.9},
        agent="planner",
        conversation_id="c-17",
        request_id="r-17",
        attributes={"ai.agent.input.message_count": 4},
    )


def _answered(input_tokens: int, output_tokens: int) -> Outcome:
    return Outcome(
        usage=Usage(input_tokens=input_tokens, output_tokens=output_tokens),
        model="gpt-4o-2024-08-06",
        response_id="chatcmpl-1",
        finish_reasons=("stop",),
    )


def sdk_spans(tracer: Tracer, runs: int) -> None:
    for _ in range(runs):
        with tracer.start_as_current_span("chat gpt-4o", attributes=_ASKED) as span:
            span.set_attributes(_ANSWERED)


def _cheapest_sdk_spans(tracer: Tracer, runs: int) -> None:
    """All attributes at once and no current span: what nobody can write for a call with an answer."""
    everything = {**_ASKED, **_ANSWERED}
    for _ in range(runs):
        tracer.start_span("chat gpt-4o", attributes=everything).end()


def model_runs(recorder: aiobs_core.Recorder, runs: int) -> None:
    for key in range(runs):
        recorder.start(key, partial(_asked, "gpt-4o", 0.2), scope=_SCOPE)
        recorder.end(key, partial(_answered, 812, 64))


def _callbacks(handler: AiObsCallbackHandler, runs: int) -> None:
    """The two events of a chat model below another run, as LangChain calls them."""
    above, messages = UUID(int=1 << 100), [[HumanMessage("What is the capital of Korea?")]]
    response = LLMResult(generations=[[ChatGeneration(message=answer("Seoul"))]])
    for number in range(1, runs + 1):
        run_id = UUID(int=number)
        handler.on_chat_model_start({}, messages, run_id=run_id, parent_run_id=above, tags=[], metadata={})
        handler.on_llm_end(response, run_id=run_id, parent_run_id=above, tags=[])


def _ids(runs: int) -> None:
    """What `_callbacks` does besides calling the handler."""
    for number in range(1, runs + 1):
        UUID(int=number)


# --- lanes ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """Something to do `per_round` times; `thread` counts the caller's thread only, without `flush`."""

    name: str
    do: Callable[[], None]
    per_round: int
    flush: Callable[[], object] = bool
    before: Callable[[], object] = bool
    thread: bool = False


def _once_ns(lane: Lane) -> float:
    lane.before()
    gc.collect()
    if lane.thread:
        start_ns = time.thread_time_ns()
        lane.do()
        spent_ns = time.thread_time_ns() - start_ns
        lane.flush()
    else:
        start_ns = time.process_time_ns()
        lane.do()
        lane.flush()
        spent_ns = time.process_time_ns() - start_ns
    return spent_ns / lane.per_round


def run_lanes(lanes: Sequence[Lane], rounds: int) -> Mapping[str, float]:
    """Microseconds of CPU time for each lane: the 10th percentile of the rounds."""
    for lane in lanes:  # warm up
        _once_ns(lane)
    taken: dict[str, list[float]] = {lane.name: [] for lane in lanes}
    for number in range(rounds):
        for lane in lanes if number % 2 else reversed(lanes):
            taken[lane.name].append(_once_ns(lane))
    return {name: sorted(times)[len(times) // 10] / 1e3 for name, times in taken.items()}


def _recorder(exporter: SpanExporter) -> aiobs_core.Recorder:
    return aiobs_core.configure(exporters=[exporter], console="off", store="off", traces_exporter="none")


def flush() -> None:
    if not aiobs_core.flush(_FLUSH_S):
        raise AssertionError("aiobs could not deliver in time: what was measured is not all of its work")


def time_runs(rounds: int) -> Mapping[str, float]:
    """One model run, through aiobs and by hand; on the caller's thread, in the process, and switched off."""
    exporter = CountingExporter()
    recorder = _recorder(exporter)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(CountingExporter(), schedule_delay_millis=60_000))
    tracer = provider.get_tracer("bench")
    on = recorder.settings
    off = replace(on, enabled=False)
    handler = AiObsCallbackHandler()
    ours: dict[str, Any] = {"per_round": _RUNS, "flush": flush, "before": lambda: recorder.apply(on)}
    theirs: dict[str, Any] = {"per_round": _RUNS, "flush": provider.force_flush}
    events: dict[str, Any] = {"per_round": 2 * _RUNS, "thread": True, "before": lambda: recorder.apply(off)}
    run, span = partial(model_runs, recorder, _RUNS), partial(sdk_spans, tracer, _RUNS)
    cheapest, callbacks = partial(_cheapest_sdk_spans, tracer, _RUNS), partial(_callbacks, handler, _RUNS)
    lanes = [
        Lane(name="run, caller", do=run, thread=True, **ours),
        Lane(name="span, caller", do=span, thread=True, **theirs),
        Lane(name="cheapest span, caller", do=cheapest, thread=True, **theirs),
        Lane(name="run, process", do=run, **ours),
        Lane(name="span, process", do=span, **theirs),
        Lane(name="cheapest span, process", do=cheapest, **theirs),
        Lane(name="verb, off", do=run, **events),
        Lane(name="callback, off", do=callbacks, **events),
        Lane(name="ids", do=partial(_ids, _RUNS), thread=True, per_round=2 * _RUNS),
    ]
    found = run_lanes(lanes, rounds)
    recorder.apply(on)
    provider.shutdown()
    measured = sum(lane.do is run and lane.before is ours["before"] for lane in lanes) * (rounds + 1) * _RUNS
    if exporter.count != measured:
        raise AssertionError(f"{exporter.count} runs were exported, expected {measured}")
    return found


def time_langchain(rounds: int) -> Mapping[str, float]:
    """CPU time per LangChain run of a chain with four, by handler, sync and async; flush included."""
    exporter = CountingExporter()
    _recorder(exporter)
    configs = {variant: langchain.listen(variant) for variant in ("none", "empty", "inline", "aiobs")}
    lanes = []
    for name in ("chain", "async"):
        scenario = langchain.FRAMEWORK.scenarios[name]
        run = scenario.make()
        for variant, config in configs.items():
            lanes.append(
                Lane(
                    name=f"{name}, {variant}",
                    do=partial(run, _CALLS, config),
                    per_round=_CALLS * scenario.spans,
                    flush=flush if variant == "aiobs" else bool,
                )
            )
    return run_lanes(lanes, rounds)


def time_llama_index(rounds: int) -> Mapping[str, float]:
    """The caller's thread in a LlamaIndex model call, by who listens, and in one SDK span made by hand beside it."""
    exporter = CountingExporter()
    _recorder(exporter)
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(CountingExporter(), schedule_delay_millis=60_000))
    chat = llama_index.FRAMEWORK.scenarios["llama chat"].make()
    lanes = [
        Lane(
            name=f"llama chat, {variant}",
            before=partial(llama_index.listen, variant),
            do=partial(chat, _CHATS, {}),
            per_round=_CHATS,
            flush=flush,
            thread=True,
        )
        for variant in llama_index.FRAMEWORK.variants
    ]
    spans = partial(sdk_spans, provider.get_tracer("bench"), _CHATS)
    lanes.append(Lane(name="llama span", do=spans, per_round=_CHATS, flush=provider.force_flush, thread=True))
    found = run_lanes(lanes, rounds)
    llama_index.listen("none")
    provider.shutdown()
    if exporter.count != _CHATS * (rounds + 1):
        raise AssertionError(f"{exporter.count} calls were exported, expected {_CHATS * (rounds + 1)}")
    return found


class _Keeping(CountingExporter):
    """Keeps the spans, to write them into a store."""

    def __init__(self) -> None:
        super().__init__()
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> Any:
        self.spans.extend(spans)
        return super().export(spans)


def time_store(rounds: int) -> float:
    """Microseconds of the worker's CPU time to store one span, in transactions of 512 spans."""
    keeping = _Keeping()
    recorder = _recorder(keeping)
    best_us = []
    with tempfile.TemporaryDirectory(prefix="aiobs-bench-") as folder:
        writer = StoreWriter(Path(folder) / "store", health=Health())
        for _ in range(max(rounds // 4, 5)):
            model_runs(recorder, _STORED)
            flush()
            start_ns = time.thread_time_ns()
            writer.write_slice(keeping.spans)
            best_us.append((time.thread_time_ns() - start_ns) / len(keeping.spans) / 1e3)
            keeping.spans.clear()
        writer.close()
    return sorted(best_us)[len(best_us) // 10]


# --- results --------------------------------------------------------------------------------------------------------


def gates(found: Mapping[str, float]) -> list[Gate]:
    caller = found["run, caller"] / found["span, caller"]
    process = found["run, process"] / found["span, process"]
    off = max(found["verb, off"], found["callback, off"] - found["ids"])
    chat = (found["llama chat, aiobs"] - found["llama chat, empty"]) / found["llama span"]
    return [
        Gate(name="model run, caller's thread", value=caller, limit=0.35, unit="of one SDK span"),
        Gate(name="model run, worker included", value=process, limit=1.3, unit="of one SDK span"),
        Gate(name="switched off", value=off, limit=1.0, unit="µs per event"),
        Gate(
            name="LlamaIndex model call, caller's thread, on top of empty handlers",
            value=chat,
            limit=0.75,
            goal=0.5,
            unit="of one SDK span",
        ),
    ]


def report(found: Mapping[str, float]) -> str:
    """All tables of time mode."""
    rows = [
        (label, f"{found[f'{lane}, caller']:.1f}", f"{found[f'{lane}, process']:.1f}")
        for label, lane in (
            ("aiobs: a model run, current while it runs", "run"),
            ("SDK span, current, 10 attributes at its start and 5 at its end", "span"),
            ("SDK span, never current, 15 attributes at its start", "cheapest span"),
        )
    ]
    runs = table("One model run with 15 attributes, µs of CPU time", ("", "caller", "with worker"), rows)
    off = found["callback, off"] - found["ids"]
    rows = [("verb of the recorder", f"{found['verb, off']:.2f}"), ("callback of the handler", f"{off:.2f}")]
    switched_off = table("Switched off, µs of CPU time", ("", "per event"), rows)
    labels = {
        "none": "no handler",
        "empty": "empty handler",
        "inline": "empty handler, run_inline",
        "aiobs": "aiobs",
    }
    rows = [
        (label, f"{found[f'chain, {variant}']:.1f}", f"{found[f'async, {variant}']:.1f}")
        for variant, label in labels.items()
    ]
    langchain_runs = table("LangChain, µs of CPU time per run, all threads", ("", "sync", "async"), rows)
    rows = [
        (head, f"{found[f'llama chat, {variant}']:.1f}")
        for variant, head in llama_index.FRAMEWORK.variants.items()
    ]
    rows.append(("SDK span, current, 15 attributes, beside it", f"{found['llama span']:.1f}"))
    chats = table("LlamaIndex, µs of CPU time per model call", ("", "caller"), rows)
    store = table("Local store, µs of CPU time", ("", "per span"), [("writer", f"{found['store']:.1f}")])
    return f"{runs}\n{switched_off}\n{langchain_runs}\n{chats}\n{store}"
