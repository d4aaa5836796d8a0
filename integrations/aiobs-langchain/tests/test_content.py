"""Messages of model calls are rendered on demand, in the JSON shape of the GenAI conventions; nothing exports them."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

CALL = {"id": "call-1", "name": "search", "args": {"q": "rain"}}
TOOL_CALL = {"type": "tool_call", "id": "call-1", "name": "search", "arguments": {"q": "rain"}}


def text(content: str) -> dict[str, str]:
    return {"type": "text", "content": content}


@pytest.fixture
def contents(subject):
    """What a model call's operation and outcome render, as long as the worker has not read them."""
    subject.reconfigure(flush_interval_s=60)
    subject.counts_runs = False

    def of(event: str, prompts: Any, response: LLMResult) -> tuple[Any, Any]:
        run_id = uuid4()
        getattr(subject.handler, event)(None, prompts, run_id=run_id)
        span = subject.recorder.find(run_id.int)
        asked = span.operation().content()
        subject.handler.on_llm_end(response, run_id=run_id)
        return asked, span.outcome().content()

    return of


def test_a_chat_model_is_sent_messages_and_answers_one(contents):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    asked, said = contents(
        "on_chat_model_start",
        [
            [
                SystemMessage("Be brief."),
                HumanMessage([{"type": "text", "text": "What is this?"}, image]),
                AIMessage("", tool_calls=[CALL]),
                ToolMessage("wet", tool_call_id="call-1"),
                AIMessageChunk("It is"),
            ]
        ],
        LLMResult(generations=[[ChatGeneration(message=AIMessage("Rain.", tool_calls=[CALL]))]]),
    )
    assert asked == [
        {"role": "system", "parts": [text("Be brief.")]},
        {"role": "user", "parts": [text("What is this?")]},
        {"role": "assistant", "parts": [TOOL_CALL]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "id": "call-1", "response": "wet"}]},
        {"role": "assistant", "parts": [text("It is")]},
    ]
    assert said == [{"role": "assistant", "parts": [text("Rain."), TOOL_CALL]}]


def test_a_completion_model_is_sent_texts_and_answers_one(contents):
    asked, said = contents(
        "on_llm_start", ["Once upon"], LLMResult(generations=[[Generation(text=" a time")]])
    )
    assert asked == [{"role": "user", "parts": [text("Once upon")]}]
    assert said == [{"role": "assistant", "parts": [text(" a time")]}]
