"""Agents of LangGraph below a request: the generated configuration keeps the traces that aiobs' own rules keep."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.tools import tool
from opentelemetry.sdk.trace import ReadableSpan

from aiobs_core import using_attributes
from aiobs_core.sampling.facts import facts_of_span
from aiobs_core.sampling.matcher import Known, Matcher
from aiobs_core.sampling.policy import PRESETS, SamplingPolicy, policy_of
from aiobs_core.sampling.threshold import randomness_of
from aiobs_langchain import AiObsCallbackHandler
from aiobs_ops.collector import CollectorOptions, collector_yaml
from aiobs_testing import Telemetry

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "packages/aiobs-ops/tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integrations/aiobs-langchain/tests"))

from collector_by_hand import Processor, received
from langchain_fakes import FakeChat, tool_calls

OTHERS = policy_of(
    {
        "name": "others",
        "rules": [
            {"when": {"tool_failed": "look_*"}},
            {"when": {"tag": "gold", "not": {"call": {"model": "gpt-3.5*"}}}},
            {"when": {"call": {"model": "gpt-3.5*"}, "operation": "support"}, "keep": 0.5},
        ],
    }
)


@tool
def look_up(number: int) -> str:
    """Look an order up."""
    if number > 10:
        raise LookupError(number)
    return "on its way"


def ask(number: int, usage: dict[str, Any] | None = None, fail: Exception | None = None) -> None:
    answers = [tool_calls(("look_up", {"number": number})), "It is on its way."]
    model = FakeChat(model="gpt-3.5-turbo", responses=answers, fail=fail, usage=usage)
    agent = create_agent(model, [look_up], name="support")
    with suppress(LookupError, TimeoutError):
        agent.invoke({"messages": [("user", "Where is it?")]}, config={"callbacks": [AiObsCallbackHandler()]})


def played(telemetry: Telemetry) -> dict[int, list[ReadableSpan]]:
    large = {"input_tokens": 480, "output_tokens": 40, "total_tokens": 520}
    for number in (1, 2, 3, 11):
        for usage in (None, large):
            ask(number, usage)
    ask(1, fail=TimeoutError("late"))
    with using_attributes(tags=["gold"]):
        ask(1)
        FakeChat(model="gpt-4o").invoke("Hello", config={"callbacks": [AiObsCallbackHandler()]})
    found: dict[int, list[ReadableSpan]] = {}
    for span in telemetry.raw():
        assert span.context is not None
        found.setdefault(span.context.trace_id, []).append(span)
    return found


def kept_by_aiobs(policy: SamplingPolicy, trace_id: int, spans: list[ReadableSpan]) -> bool:
    matcher, known = Matcher(policy), Known()
    for span in spans:
        matcher.note(known, facts_of_span(span))
    known.operation = "support" if len(spans) > 1 else "FakeChat"
    return matcher.decide(known, randomness_of(trace_id), 0).is_kept


def test_agents_of_langgraph_are_decided_alike(telemetry: Telemetry) -> None:
    traces = played(telemetry)
    assert len(traces) == 11
    kept: dict[str, int] = {}
    for policy in (*PRESETS.values(), OTHERS):
        processor = Processor(collector_yaml(policy, CollectorOptions(endpoint="tempo:4317")))
        for trace_id, spans in traces.items():
            is_kept = processor.keeps(received(spans))
            kept[policy.name] = kept.get(policy.name, 0) + is_kept
            assert is_kept is kept_by_aiobs(policy, trace_id, spans)
    assert kept["all"] == 11
    assert kept["production"] >= 6, "three failed, four were large, one of them both"
    assert kept["others"] >= 3, "two tools failed, and one is gold; of the others half, by chance"
