"""The traps of LlamaIndex's instrumentation, by name; each test also runs against a naive handler, and must fail there."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from llama_fakes import FakeLLM, MockLLM, PlainLLM, TextLLM, ask, index_of, look_tool
from llama_index.core.agent.workflow import FunctionAgent, ReActAgent
from llama_index.core.llms import ChatMessage, LLMMetadata
from llama_naive import Subject, fails_with_naive
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

from aiobs_core import semconv

CANARY = "canary-51c9e2-secret"


def get(span: ReadableSpan, name: str) -> Any:
    return (span.attributes or {}).get(name)


def traces(spans: list[ReadableSpan]) -> set[int]:
    return {span.context.trace_id for span in spans if span.context is not None}


@fails_with_naive
def test_trap_25_objects_made_before_the_callback_manager_are_observed(subject: Subject) -> None:
    llm = MockLLM()
    subject.switch_on_legacy()
    llm.complete("hello")
    assert len(subject.of_kind("model")) == 1


class Moody(FakeLLM):
    """Says nothing that a handler could read."""

    model: str = ""

    @property
    def metadata(self) -> LLMMetadata:
        raise RuntimeError

    def to_payload(self) -> dict[str, Any]:
        return {}


@fails_with_naive
def test_trap_26_a_handler_that_fails_does_not_break_the_call(subject: Subject, telemetry: Any) -> None:
    subject.switch_on_legacy()
    try:
        said = Moody().chat(ask()).message.content
    except KeyError:
        said = None
    assert said == "hello big world"
    assert len(subject.spans()) == 1
    if not subject.is_naive:
        (span,) = subject.spans()
        assert get(span, semconv.TELEMETRY_ERROR) == "RuntimeError"
        telemetry.forgive_warnings()


@fails_with_naive
def test_trap_27_a_streamed_call_lasts_to_its_last_chunk(subject: Subject) -> None:
    subject.switch_on()
    stream = FakeLLM().stream_complete("hello")
    next(stream)
    assert subject.spans_now() == []
    list(stream)
    (span,) = subject.of_kind("model")
    assert get(span, semconv.USAGE_INPUT_TOKENS) == 11
    assert get(span, semconv.CHUNK_COUNT) == 3
    assert 0 < get(span, semconv.TIME_TO_FIRST_CHUNK_S) < (span.end_time - span.start_time) / 1e9


@fails_with_naive
def test_trap_28_a_lazy_streaming_query_is_one_trace(subject: Subject) -> None:
    index = index_of()
    subject.switch_on()
    list(index.as_query_engine(llm=FakeLLM(), streaming=True).query("hello").response_gen)
    spans = subject.spans()
    assert len(traces(spans)) == 1
    assert len([span for span in spans if span.parent is None]) == 1


@fails_with_naive
def test_trap_29_a_model_call_made_of_others_is_one_call(subject: Subject) -> None:
    subject.switch_on()
    asyncio.run(MockLLM().acomplete("hello"))
    assert len(subject.of_kind("model")) == 1


@fails_with_naive
def test_trap_29_each_turn_of_a_react_agent_is_one_call(subject: Subject) -> None:
    llm = TextLLM(responses=["Thought: I can answer without using any more tools.\nAnswer: done"])
    subject.switch_on()

    async def main() -> None:
        await ReActAgent(name="helper", tools=[look_tool()], llm=llm, streaming=False).run(user_msg="hello")

    asyncio.run(main())
    assert len(subject.of_kind("model")) == 1


class Frank(FakeLLM):
    def to_payload(self) -> dict[str, Any]:
        return {"temperature": self.temperature}


@fails_with_naive
def test_trap_30_a_failed_call_leaves_nothing_open(subject: Subject) -> None:
    subject.switch_on_legacy()
    with pytest.raises(ConnectionError):
        Frank(fail=ConnectionError("down")).chat(ask())
    assert subject.started() == len(subject.spans()) > 0


@fails_with_naive
def test_trap_31_a_swallowed_model_error_shows_on_the_model_and_marks_the_query(
    subject: Subject, telemetry: Any
) -> None:
    index = index_of()
    subject.switch_on()
    answer = index.as_query_engine(llm=FakeLLM(fail=ValueError(CANARY))).query("hello")
    assert str(answer) == "Empty Response"
    telemetry.forgive_warnings()  # LlamaIndex's own
    spans = {span.name: span for span in subject.spans()}
    failed = [span for span in spans.values() if span.status.status_code is StatusCode.ERROR]
    assert [get(span, semconv.ERROR_TYPE) for span in failed] == ["ValueError"]
    (root,) = [span for span in spans.values() if span.parent is None]
    assert get(root, semconv.SUPPRESSED_ERROR) == "ValueError"
    assert get(root, semconv.OUTCOME) == "success"
    assert root.status.status_code is StatusCode.UNSET


@fails_with_naive
def test_trap_32_tags_of_workflow_steps_do_not_leave_the_process(subject: Subject) -> None:
    subject.switch_on()

    async def main() -> None:
        agent = FunctionAgent(
            name="helper", tools=[look_tool()], llm=FakeLLM(responses=[("look", {"what": CANARY}), CANARY])
        )
        await agent.run(user_msg=CANARY, chat_history=[ChatMessage(role="user", content=CANARY)])

    asyncio.run(main())
    spans = subject.spans()
    assert spans
    assert not any(CANARY in span.to_json() for span in spans)


@fails_with_naive
def test_trap_33_a_model_without_decorators_is_recorded(subject: Subject) -> None:
    subject.switch_on()
    PlainLLM().chat(ask())
    assert len(subject.of_kind("model")) == 1
    (span,) = subject.of_kind("model")
    assert get(span, semconv.USAGE_INPUT_TOKENS) == 11


@fails_with_naive
def test_trap_34_ended_runs_are_not_kept(subject: Subject) -> None:
    llm = FakeLLM()
    subject.switch_on()
    for _ in range(20):
        llm.complete("hello")
    assert len(subject.of_kind("model")) == 20
    assert subject.kept() == 0


@fails_with_naive
def test_trap_35_handlers_made_three_times_give_one_span(subject: Subject) -> None:
    llm = FakeLLM()
    for _ in range(3):
        subject.switch_on()
    llm.complete("hello")
    assert subject.started() == 1
    assert len(subject.of_kind("model")) == 1
