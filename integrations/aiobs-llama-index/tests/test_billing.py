"""What a bill depends on: the tokens of each call once, the tier that served it, and what a gateway says that it cost."""

from __future__ import annotations

import enum
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from llama_fakes import FakeLLM, TextLLM, ask
from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.llms import LLMMetadata
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.core.llms.custom import CustomLLM

from aiobs_core import Kind, Operation, Outcome, Recorder, Usage
from aiobs_llama_index import AiObsCallbackHandler

USED = Usage(input_tokens=11, output_tokens=7)  # what FakeLLM reports


class Calls:
    """What the adapter tells the recorder of model calls, in the order of their start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: dict[Any, Any] = {}
        self.told: dict[Any, Any] = {}
        self._spy(monkeypatch, "start", self.asked)
        self._spy(monkeypatch, "end", self.told)
        self._spy(monkeypatch, "fail", self.told)

    def _spy(self, monkeypatch: pytest.MonkeyPatch, verb: str, seen: dict[Any, Any]) -> None:
        original = getattr(Recorder, verb)

        def spy(recorder: Recorder, key: Any, *told: Any, **more: Any) -> Any:
            if verb == "start" or recorder.find(key) is not None:  # the first end counts
                seen[key] = told[-1] if told and not isinstance(told[-1], BaseException) else None
            return original(recorder, key, *told, **more)

        monkeypatch.setattr(Recorder, verb, spy)

    def operations(self) -> dict[Any, Operation]:
        made = {key: asked() if callable(asked) else asked for key, asked in self.asked.items()}
        known = {
            key for key in made if key in self.told
        }  # what is part of another call has no end of its own
        return {key: made[key] for key in made if key in known and made[key].kind is Kind.MODEL}

    def outcomes(self) -> list[Outcome]:
        told = [self.told[key] for key in self.operations()]
        return [(each() if callable(each) else each) or Outcome() for each in told]

    def usages(self) -> list[Usage | None]:
        return [outcome.usage for outcome in self.outcomes()]

    def params(self) -> list[dict[str, Any]]:
        return [dict(operation.params) for operation in self.operations().values()]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, handler: AiObsCallbackHandler) -> Calls:
    return Calls(monkeypatch)


class Answers(CustomLLM):
    """Answers with responses whose `raw` the test gives; streams them one by one."""

    raws: list[Any] = []
    additional_kwargs: dict[str, Any] = {}

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="answers-1", is_chat_model=True)

    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        raise NotImplementedError

    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        raise NotImplementedError

    def _responses(self) -> Iterator[ChatResponse]:
        for raw in self.raws:
            message = ChatMessage(role="assistant", content="hello")
            yield ChatResponse(
                message=message, delta="", raw=raw, additional_kwargs=dict(self.additional_kwargs)
            )

    @llm_chat_callback()
    def chat(self, messages: Any, **_: Any) -> Any:
        return next(self._responses())

    @llm_chat_callback()
    def stream_chat(self, messages: Any, **_: Any) -> Any:
        return self._responses()


# --- each token once ------------------------------------------------------------------------------------------------


def test_a_call_reports_its_tokens_once(calls: Calls) -> None:
    FakeLLM().chat(ask())
    TextLLM().chat(ask())  # made of a completion
    assert calls.usages() == [USED, USED]


def test_a_stream_reports_the_tokens_of_its_last_chunk(calls: Calls) -> None:
    list(FakeLLM().stream_chat(ask()))
    list(TextLLM().stream_complete("hello"))
    assert calls.usages() == [USED, USED]


async def test_an_async_stream_reports_the_tokens_of_its_last_chunk(calls: Calls) -> None:
    [chunk async for chunk in await FakeLLM().astream_chat(ask())]
    assert calls.usages() == [USED]


def test_a_failed_call_leaves_its_tokens_unknown(calls: Calls) -> None:
    with pytest.raises(ConnectionError):
        FakeLLM(fail=ConnectionError("down")).chat(ask())
    with pytest.raises(ConnectionError):
        list(FakeLLM(fail=ConnectionError("reset"), fail_after_chunks=2).stream_chat(ask()))
    FakeLLM().chat(ask())
    assert calls.usages() == [None, None, USED]


# --- what integrations of providers keep of their answers -----------------------------------------------------------


class Word(str, enum.Enum):
    """As in Google's SDK, whose objects LlamaIndex dumps with their enumerations."""

    AUDIO = "AUDIO"
    IMAGE = "IMAGE"
    ON_DEMAND_PRIORITY = "ON_DEMAND_PRIORITY"


RAWS = {
    "Anthropic": (
        {
            "id": "msg-1",
            "usage": {
                "input_tokens": 20,
                "output_tokens": 9,
                "cache_read_input_tokens": 800,
                "cache_creation_input_tokens": 100,
                "cache_creation": {"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 30},
                "service_tier": "batch",
            },
        },
        Usage(
            input_tokens=920,
            output_tokens=9,
            cache_read_tokens=800,
            cache_write_tokens=100,
            cache_write_1h_tokens=30,
        ),
        "batch",
        None,
    ),
    "Gemini on Vertex": (
        {
            "finish_reason": "STOP",
            "usage_metadata": {
                "prompt_token_count": 500,
                "candidates_token_count": 1300,
                "cached_content_token_count": 200,
                "prompt_tokens_details": [{"modality": Word.AUDIO, "token_count": 300}],
                "cache_tokens_details": [{"modality": Word.AUDIO, "token_count": 150}],
                "candidates_tokens_details": [{"modality": Word.IMAGE, "token_count": 1290}],
                "traffic_type": Word.ON_DEMAND_PRIORITY,
            },
        },
        Usage(
            input_tokens=500,
            output_tokens=1300,
            cache_read_tokens=200,
            cache_read_audio_tokens=150,
            audio_input_tokens=300,
            image_output_tokens=1290,
        ),
        "priority",
        None,
    ),
    "Bedrock": (
        {
            "usage": {
                "inputTokens": 20,
                "outputTokens": 9,
                "cacheWriteInputTokens": 100,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 30}, {"ttl": "5m", "inputTokens": 70}],
            },
            "serviceTier": {"type": "flex"},
        },
        Usage(input_tokens=120, output_tokens=9, cache_write_tokens=100, cache_write_1h_tokens=30),
        "flex",
        None,
    ),
    "OpenRouter": (
        {"usage": {"prompt_tokens": 20, "completion_tokens": 9, "cost": 0.25}, "service_tier": None},
        Usage(input_tokens=20, output_tokens=9),
        None,
        0.25,
    ),
}


@pytest.mark.parametrize("provider", RAWS)
@pytest.mark.parametrize("streamed", [True, False])
def test_tokens_tier_and_cost_are_read_from_the_raw_response(
    calls: Calls, provider: str, streamed: bool
) -> None:
    raw, usage, tier, cost = RAWS[provider]
    if streamed:
        list(Answers(raws=[{}, None, raw]).stream_chat(ask()))
    else:
        Answers(raws=[raw]).chat(ask())
    assert [(each.usage, each.service_tier, each.cost_usd) for each in calls.outcomes()] == [
        (usage, tier, cost)
    ]


def test_bedrocks_last_event_excludes_the_cache_as_its_answers_do(calls: Calls) -> None:
    """LlamaIndex makes OpenAI's names of its counts, with an input that excludes the cache."""
    usage = {"inputTokens": 20, "outputTokens": 9, "cacheReadInputTokens": 800}
    event = {"metadata": {"usage": usage, "serviceTier": {"type": "flex"}}}
    coarse = {"prompt_tokens": 20, "completion_tokens": 9, "cache_read_input_tokens": 800}
    list(Answers(raws=[{}, event], additional_kwargs=coarse).stream_chat(ask()))
    (outcome,) = calls.outcomes()
    assert outcome.usage == Usage(input_tokens=820, output_tokens=9, cache_read_tokens=800)
    assert outcome.service_tier == "flex"


def test_the_application_says_that_a_call_is_part_of_a_batch(calls: Calls) -> None:
    with instrument_tags({"service_tier": "batch"}):
        FakeLLM().chat(ask())
        FakeLLM().chat(ask(), service_tier="flex")
    FakeLLM().chat(ask())
    assert [params.get("service_tier") for params in calls.params()] == ["batch", "flex", None]


# --- LlamaIndex's own OpenAI classes, against a server on this machine ----------------------------------------------

CHAT_USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
RESPONSES_USAGE = {
    "input_tokens": 11,
    "output_tokens": 7,
    "total_tokens": 18,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
    "output_tokens_details": {"reasoning_tokens": 3},
}
CHAT_USED = Usage(input_tokens=11, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3)


class Server(BaseHTTPRequestHandler):
    """Chat completions and responses as OpenAI answers them, in the flex tier."""

    usage: dict[str, Any] = CHAT_USAGE

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        head = {"id": "chatcmpl-1", "created": 1, "model": "gpt-4o-mini-2024-07-18", "service_tier": "flex"}
        if self.path.endswith("/responses"):
            self._respond(asked)
        elif asked.get("stream"):
            chunk = {**head, "object": "chat.completion.chunk"}
            delta = {"role": "assistant", "content": "hello"}
            events = (
                {"choices": [{"index": 0, "delta": delta}]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
                {"choices": [], "usage": self.usage},
            )
            self._send(
                "text/event-stream", *(f"data: {json.dumps({**chunk, **each})}\n\n" for each in events)
            )
        else:
            message = {"role": "assistant", "content": "hello"}
            choices = [
                {"index": index, "finish_reason": "stop", "message": message}
                for index in range(asked.get("n") or 1)
            ]
            body = {**head, "object": "chat.completion", "choices": choices, "usage": self.usage}
            self._send("application/json", json.dumps(body))

    def _respond(self, asked: dict[str, Any]) -> None:
        content = [{"type": "output_text", "text": "hello", "annotations": []}]
        said = {
            "type": "message",
            "id": "m-1",
            "role": "assistant",
            "status": "completed",
            "content": content,
        }
        response = {
            "id": "resp-1",
            "object": "response",
            "created_at": 1,
            "model": "gpt-4o-mini-2024-07-18",
            "status": "completed",
            "output": [said],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "service_tier": "flex",
            "usage": RESPONSES_USAGE,
        }
        if not asked.get("stream"):
            self._send("application/json", json.dumps(response))
            return
        begun = {**response, "status": "in_progress", "output": [], "usage": None, "service_tier": "auto"}
        events = (
            {"type": "response.created", "sequence_number": 0, "response": begun},
            {"type": "response.completed", "sequence_number": 1, "response": response},
        )
        self._send(
            "text/event-stream", *(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events)
        )

    def _send(self, kind: str, *parts: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write("".join(parts).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def openai() -> Iterator[Any]:
    classes = pytest.importorskip("llama_index.llms.openai", reason="pip install llama-index-llms-openai")
    scripted = type("ScriptedServer", (Server,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), scripted) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def model(name: str = "OpenAI", *, usage: dict[str, Any] = CHAT_USAGE, **fields: Any) -> Any:
            scripted.usage = usage
            address = f"http://127.0.0.1:{server.server_port}/v1"
            return getattr(classes, name)(
                model="gpt-4o-mini", api_key="k", api_base=address, max_retries=0, **fields
            )

        yield model
        server.shutdown()


@pytest.mark.parametrize("streamed", [True, False])
def test_openais_tier_and_tokens(calls: Calls, openai: Any, streamed: bool) -> None:
    llm = openai()
    if streamed:
        list(llm.stream_chat(ask(), stream_options={"include_usage": True}))
    else:
        llm.chat(ask())
    assert [(each.usage, each.service_tier) for each in calls.outcomes()] == [(CHAT_USED, "flex")]


@pytest.mark.parametrize("streamed", [True, False])
def test_tier_and_tokens_of_openais_responses(calls: Calls, openai: Any, streamed: bool) -> None:
    """The last event of a stream is no response: it has one inside."""
    llm = openai("OpenAIResponses")
    if streamed:
        list(llm.stream_chat(ask()))
    else:
        llm.chat(ask())
    (outcome,) = calls.outcomes()
    assert outcome.usage == CHAT_USED._replace(cache_write_tokens=2)
    assert (outcome.service_tier, outcome.response_id) == ("flex", "resp-1")
    assert outcome.model == "gpt-4o-mini-2024-07-18"


def test_several_of_openais_choices_are_billed_once(calls: Calls, openai: Any) -> None:
    openai(additional_kwargs={"n": 3, "service_tier": "auto"}).chat(ask())
    assert calls.usages() == [CHAT_USED]
    assert calls.params()[0]["service_tier"] == "auto"


def test_openrouter_behind_openais_class_says_what_a_call_cost(calls: Calls, openai: Any) -> None:
    details = {"upstream_inference_cost": 0.125}
    usage = {**CHAT_USAGE, "cost": 0.25, "is_byok": True, "cost_details": details}
    llm = openai(usage=usage)
    llm.chat(ask())
    list(llm.stream_chat(ask(), stream_options={"include_usage": True}))
    assert [outcome.cost_usd for outcome in calls.outcomes()] == [0.375, 0.375]
