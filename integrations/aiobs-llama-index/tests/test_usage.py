"""Tokens, parameters, endpoint and model: as the provider and the instance say, and absent where they say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llama_index.core
import pytest
from llama_fakes import FakeLLM, PlainLLM, ask, look_tool
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import TextBlock
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.llms import (
    ChatMessage,
    CompletionResponse,
    CustomLLM,
    LLMMetadata,
    MockLLM,
)
from llama_index.core.llms.callbacks import llm_completion_callback
from pydantic import BaseModel, ConfigDict

from aiobs_core import semconv
from aiobs_llama_index import AiObsCallbackHandler
from aiobs_testing import Telemetry

IN, OUT = semconv.USAGE_INPUT_TOKENS, semconv.USAGE_OUTPUT_TOKENS


class Replies(CustomLLM):
    """Completes with a response that the test gives."""

    response: Any = None

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="replies-1")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        return self.response

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        yield self.response


class Fields:
    """What an SDK returns: an object of these fields."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)


class Declared(BaseModel):
    """As OpenAI's client makes them: fields that the class does not declare are kept beside those that it does."""

    model_config = ConfigDict(extra="allow")
    prompt_tokens: int = 11


class Slots:
    """As protocol buffers: attributes, and no dictionary of them."""

    __slots__ = ("candidates_token_count", "prompt_token_count")

    def __init__(self) -> None:
        self.prompt_token_count, self.candidates_token_count = 11, 7


def attributes(telemetry: Telemetry) -> dict[str, Any]:
    (span,) = telemetry.spans()
    return dict(span["attributes"])


@pytest.mark.parametrize(
    "raw",
    [
        Fields(usage=Fields(prompt_tokens=11, completion_tokens=7)),
        Fields(usage={"prompt_tokens": 11, "completion_tokens": 7}),
        {"usage": Fields(input_tokens=11, output_tokens=7)},
        {"usage": {"input_tokens": 11, "output_tokens": 7}},
        {"usage": Declared(completion_tokens=7)},
        {"usage_metadata": Slots()},
        {"usage_metadata": {"prompt_token_count": 11, "candidates_token_count": 7}},
        {"prompt_eval_count": 11, "eval_count": 7},
        {"usage": {"inputTokens": 11, "outputTokens": 7}},
        {"meta": {"billed_units": {"input_tokens": 11.0, "output_tokens": 7.0}}},
    ],
    ids=[
        "object",
        "object-of-dict",
        "dict-of-object",
        "anthropic",
        "pydantic",
        "protobuf",
        "gemini",
        "ollama",
        "bedrock",
        "cohere",
    ],
)
def test_usage_is_read_from_the_raw_response(
    telemetry: Telemetry, handler: AiObsCallbackHandler, raw: Any
) -> None:
    Replies(response=CompletionResponse(text="hello", raw=raw)).complete("hello")
    found = attributes(telemetry)
    assert (found[IN], found[OUT], found[semconv.USAGE_SOURCE]) == (11, 7, "reported")
    assert (found[semconv.GEN_AI_USAGE_INPUT_TOKENS], found[semconv.GEN_AI_USAGE_OUTPUT_TOKENS]) == (11, 7)


def test_usage_is_read_from_additional_kwargs(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    PlainLLM().complete("hello")
    assert (attributes(telemetry)[IN], attributes(telemetry)[OUT]) == (11, 7)


def test_details_that_cost_depends_on(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    Replies(response=CompletionResponse(text="hello", raw={"usage": usage})).complete("hello")
    found = attributes(telemetry)
    assert (found[semconv.USAGE_CACHE_READ_TOKENS], found[semconv.USAGE_REASONING_TOKENS]) == (5, 3)


@pytest.mark.parametrize("raw", [None, {}, {"usage": None}, {"usage": {}}, Fields(), "text", 7])
def test_missing_usage_is_missing(telemetry: Telemetry, handler: AiObsCallbackHandler, raw: Any) -> None:
    Replies(response=CompletionResponse(text="hello", raw=raw)).complete("hello")
    found = attributes(telemetry)
    assert found[semconv.USAGE_SOURCE] == "missing"
    assert not {IN, OUT, semconv.GEN_AI_USAGE_INPUT_TOKENS, semconv.GEN_AI_USAGE_OUTPUT_TOKENS} & set(found)


def test_what_the_instance_says_of_the_request(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    FakeLLM().chat(ask())
    found = attributes(telemetry)
    assert found[semconv.GEN_AI_REQUEST_MODEL] == "fake-1"
    assert found[semconv.GEN_AI_REQUEST_TEMPERATURE] == 0.3
    assert found[semconv.GEN_AI_REQUEST_MAX_TOKENS] == 64
    assert (found[semconv.SERVER_ADDRESS], found[semconv.SERVER_PORT]) == ("llm.example", 8443)
    for span in telemetry.raw():
        assert "password" not in span.to_json()


def test_what_the_call_says_wins(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    FakeLLM().chat(ask(), temperature=0.9, top_p=0.5)
    found = attributes(telemetry)
    assert found[semconv.GEN_AI_REQUEST_TEMPERATURE] == 0.9
    assert found[semconv.GEN_AI_REQUEST_TOP_P] == 0.5
    assert found[semconv.GEN_AI_REQUEST_MAX_TOKENS] == 64


def test_what_the_response_says_of_itself(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    FakeLLM().chat(ask())
    found = attributes(telemetry)
    assert found[semconv.GEN_AI_RESPONSE_MODEL] == "fake-1-0613"
    assert found[semconv.GEN_AI_RESPONSE_ID] == "response-1"
    assert found[semconv.GEN_AI_RESPONSE_FINISH_REASONS] == ("stop",)


def test_a_model_without_a_name_has_none(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    MockLLM().complete("hello")
    found = attributes(telemetry)
    assert semconv.GEN_AI_REQUEST_MODEL not in found
    assert telemetry.spans()[0]["name"].startswith("text_completion")


def test_sizes_are_of_the_text_alone(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    blocks = [TextBlock(text="hello"), TextBlock(text="world")]
    FakeLLM(responses=["four"]).chat(
        [ChatMessage(role="system", content="be"), ChatMessage(role="user", blocks=blocks)]
    )
    found = attributes(telemetry)
    assert found[semconv.INPUT_MESSAGE_COUNT] == 2
    assert found[semconv.INPUT_SIZE_CHARS] == len("behelloworld")
    assert found[semconv.OUTPUT_SIZE_CHARS] == len("four")


def test_messages_that_are_changed_later_were_as_they_were(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    messages = ask("hello")
    FakeLLM().chat(messages)
    messages.extend(ask("x" * 1_000))
    assert attributes(telemetry)[semconv.INPUT_MESSAGE_COUNT] == 1


def test_tags_name_conversation_and_request(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    with instrument_tags({"session_id": "s-4", "request_id": "r-17", "tenant": "canary-51c0"}):
        FakeLLM().chat(ask())
    found = attributes(telemetry)
    assert (found[semconv.SESSION_ID], found[semconv.REQUEST_ID]) == ("s-4", "r-17")
    assert "canary-51c0" not in telemetry.raw()[0].to_json()


async def test_an_agents_tool_has_the_id_of_its_call(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    llm = FakeLLM(responses=[[("look", {"what": "a"}), ("look", {"what": "b"})], "done"])
    await FunctionAgent(name="helper", tools=[look_tool()], llm=llm, streaming=False).run(user_msg="hello")
    tools = [span["attributes"] for span in telemetry.spans() if span["name"] == "execute_tool look"]
    assert sorted(found[semconv.GEN_AI_TOOL_CALL_ID] for found in tools) == ["call-1", "call-2"]
    assert {found[semconv.AGENT_NAME] for found in tools} == {"helper"}
    with_id = [span for span in telemetry.spans() if semconv.GEN_AI_TOOL_CALL_ID in span["attributes"]]
    assert len(with_id) == 2


# --- the estimator ------------------------------------------------------------------------------------------------------


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> None:
    """LlamaIndex's package carries copies of tiktoken's encodings."""
    cache = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(cache))


@pytest.mark.telemetry(estimate_usage=True)
def test_an_estimate_says_that_it_is_one(
    telemetry: Telemetry, handler: AiObsCallbackHandler, encodings: None
) -> None:
    response = CompletionResponse(text="The capital of Korea is Seoul.")
    Replies(response=response).complete("What is the capital of Korea?")
    found = attributes(telemetry)
    assert found[semconv.USAGE_SOURCE] == "estimated"
    assert 5 <= found[IN] <= 20
    assert 5 <= found[OUT] <= 10


@pytest.mark.telemetry(estimate_usage=True)
def test_what_is_reported_is_not_estimated(
    telemetry: Telemetry, handler: AiObsCallbackHandler, encodings: None
) -> None:
    FakeLLM().chat(ask())
    found = attributes(telemetry)
    assert (found[IN], found[OUT], found[semconv.USAGE_SOURCE]) == (11, 7, "reported")
