"""A LangGraph application under the policy `production`: what matters is kept, the rest is 1 %, metrics count all of it."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypedDict

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.graph import END, START, StateGraph
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import aiobs_core
from aiobs_core import semconv
from aiobs_core.semconv import metrics as names
from aiobs_langchain import AiObsCallbackHandler

ERRORS, COSTLY = 0.02, 0.03


class State(TypedDict, total=False):
    number: int
    costly: bool
    fails: bool
    answer: str


class Priced(GenericFakeChatModel):
    """Answers as gpt-3.5-turbo, with the tokens it is told."""

    model_name: str = "gpt-3.5-turbo"
    tokens: int = 100

    def _get_ls_params(self, stop: Any = None, **_: Any) -> Any:
        return {"ls_provider": "openai", "ls_model_name": self.model_name, "ls_model_type": "chat"}


def answering(tokens: int) -> Priced:
    usage = {"input_tokens": tokens, "output_tokens": 10, "total_tokens": tokens + 10}

    def answers() -> Iterator[AIMessage]:
        while True:
            yield AIMessage(
                "Seoul", usage_metadata=usage, response_metadata={"model_name": "gpt-3.5-turbo-0125"}
            )

    return Priced(messages=answers())


def graph() -> Any:
    cheap, dear = answering(100), answering(5_000)

    def plan(state: State) -> State:
        return {"number": state["number"]}

    def answer(state: State) -> State:
        if state["fails"]:
            raise ConnectionError("no")
        model = dear if state["costly"] else cheap
        return {"answer": str(model.invoke("What is the capital of Korea?").content)}

    built = StateGraph(State)
    built.add_node("plan", plan)
    built.add_node("answer", answer)
    built.add_edge(START, "plan")
    built.add_edge("plan", "answer")
    built.add_edge("answer", END)
    return built.compile()


def counted(metric: names.Metric, **attributes: str) -> float:
    return sum(
        point.value  # type: ignore[union-attr]
        for family in aiobs_core.get_recorder().metrics.snapshot()
        if family.metric is metric
        for point in family.points
        if attributes.items() <= dict(point.attributes).items()
    )


@pytest.mark.parametrize("runs", [600, pytest.param(10_000, marks=pytest.mark.soak)])
def test_production_keeps_what_matters_and_counts_everything(runs: int) -> None:
    exporter = InMemorySpanExporter()
    aiobs_core.configure(exporters=[exporter], console="off", store="off", sampling="production")
    before = {
        metric.name: counted(metric) for metric in (names.SAMPLING_DECISIONS, names.SAMPLING_SPANS_DROPPED)
    }
    requests = counted(names.REQUESTS, stage="total")
    failed = counted(names.ERRORS)
    tokens = counted(names.TOKENS, direction="input")
    app, config = graph(), {"callbacks": [AiObsCallbackHandler()]}
    fate = random.Random(6)
    made: Counter[str] = Counter()
    cpu_s = time.process_time()
    for number in range(runs):
        kind = fate.choices(["plain", "error", "costly"], [1 - ERRORS - COSTLY, ERRORS, COSTLY])[0]
        made[kind] += 1
        try:
            app.invoke({"number": number, "fails": kind == "error", "costly": kind == "costly"}, config)
        except ConnectionError:
            assert kind == "error"
    assert aiobs_core.flush(60)
    cpu_s = time.process_time() - cpu_s

    spans = exporter.get_finished_spans()
    roots = [span for span in spans if span.parent is None]
    reasons = Counter(span.attributes[semconv.SAMPLING_REASON] for span in roots)
    assert reasons["error"] == made["error"]
    assert reasons["costly"] == made["costly"]
    spread = math.sqrt(made["plain"] * 0.01 * 0.99)
    assert abs(reasons["ratio"] - 0.01 * made["plain"]) <= 4 * spread
    of_trace = Counter(span.context.trace_id for span in spans)
    reason_of = {span.context.trace_id: span.attributes[semconv.SAMPLING_REASON] for span in roots}
    assert of_trace.keys() == reason_of.keys()
    assert {of_trace[trace] for trace, reason in reason_of.items() if reason != "error"} == {4}

    # Metrics count what was dropped, too.
    assert counted(names.REQUESTS, stage="total") - requests == runs
    assert counted(names.TOKENS, direction="input") - tokens == made["plain"] * 100 + made["costly"] * 5_000
    assert counted(names.ERRORS) > failed
    assert counted(names.SAMPLING_DECISIONS) - before[names.SAMPLING_DECISIONS.name] == runs
    dropped = counted(names.SAMPLING_SPANS_DROPPED) - before[names.SAMPLING_SPANS_DROPPED.name]
    assert dropped == 4 * (made["plain"] - reasons["ratio"])
    weights = sum(span.attributes[semconv.SAMPLING_ADJUSTED_COUNT] for span in roots)
    assert abs(weights - runs) <= 4 * spread / 0.01
    print(
        f"{runs} runs, {dict(reasons)}, {len(spans)} spans kept, {dropped:.0f} dropped, {cpu_s:.1f} s of CPU"
    )
