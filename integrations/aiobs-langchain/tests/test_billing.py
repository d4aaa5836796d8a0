"""What a bill depends on: the tokens of each call once, the tier that served it, and what a gateway says that it cost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_fakes import FakeChat, FakeLLM, tool_calls

from aiobs_core import Kind, Operation, Outcome, Recorder, Usage

USED = Usage(
    input_tokens=11, output_tokens=7, cache_read_tokens=4, cache_write_tokens=2, reasoning_tokens=3
)  # what FakeChat reports


class Calls:
    """What the adapter tells the recorder of model calls, in the order of their start."""

    def __init__(self, subject: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: dict[Any, Any] = {}
        self.told: dict[Any, Any] = {}
        self._spy(monkeypatch, "start", self.asked)
        self._spy(monkeypatch, "end", self.told)
        self._spy(monkeypatch, "fail", self.told)
        self.handler = subject.make_handler()  # after the spies: it holds the recorder's methods
        self.witness = subject.witness

    def _spy(self, monkeypatch: pytest.MonkeyPatch, verb: str, seen: dict[Any, Any]) -> None:
        original = getattr(Recorder, verb)

        def spy(recorder: Recorder, key: Any, *told: Any, **more: Any) -> Any:
            seen[key] = told[-1] if told else None
            return original(recorder, key, *told, **more)

        monkeypatch.setattr(Recorder, verb, spy)

    def config(self, **more: Any) -> Any:
        return {"callbacks": [self.handler, self.witness], **more}

    def operations(self) -> dict[Any, Operation]:
        made = {key: asked() for key, asked in self.asked.items() if callable(asked)}
        return {key: operation for key, operation in made.items() if operation.kind is Kind.MODEL}

    def outcomes(self) -> list[Outcome]:
        return [self.told[key]() or Outcome() for key in self.operations()]

    def usages(self) -> list[Usage | None]:
        return [outcome.usage for outcome in self.outcomes()]

    def params(self) -> list[dict[str, Any]]:
        return [dict(operation.params) for operation in self.operations().values()]


@pytest.fixture
def calls(subject: Any, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(subject, monkeypatch)


class Answers(BaseChatModel):
    """Answers with `message`, or streams `chunks` and then fails, as the test says."""

    message: AIMessage | None = None
    chunks: list[AIMessageChunk] = []
    llm_output: dict[str, Any] | None = None
    fail: Any = None

    @property
    def _llm_type(self) -> str:
        return "answers"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        return ChatResult(
            generations=[ChatGeneration(message=self.message.model_copy())], llm_output=self.llm_output
        )

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> Iterator[Any]:
        yield from (ChatGenerationChunk(message=each) for each in self.chunks)
        if self.fail is not None:
            raise self.fail


PAID = {"model_name": "gpt-5", "service_tier": "priority", "token_usage": {"prompt_tokens": 11, "cost": 0.25}}


# --- each token once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_reports_all_its_tokens_once(calls, streamed):
    model = FakeChat()
    list(model.stream("q", calls.config())) if streamed else model.invoke("q", calls.config())
    assert calls.usages() == [USED]


def test_several_choices_are_billed_once(calls):
    FakeChat(choices=3).invoke("q", calls.config())
    assert calls.usages() == [USED]


def test_each_element_of_a_batch_is_billed_for_itself(calls):
    FakeChat().batch(["a", "b", "c"], calls.config(max_concurrency=1))
    assert calls.usages() == [USED] * 3


def test_prompts_that_a_completion_model_sends_together_are_billed_once(calls):
    """It reports one usage for all of them: LangChain gives that to the first run, and an empty one to the others."""
    FakeLLM().batch(["a", "b", "c"], calls.config())
    assert calls.usages() == [Usage(input_tokens=5, output_tokens=2), None, None]


def test_only_attempts_that_report_usage_are_billed(calls):
    class Flaky(FakeChat):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            if len(calls.asked) < 4:
                raise ConnectionError("try again")
            return super()._generate(*args, **kwargs)

    model = Flaky().with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    model.invoke("q", calls.config())
    assert calls.usages() == [None, None, USED]


def test_of_a_fallback_only_what_answered_is_billed(calls):
    failing = FakeChat(model="first", fail=ConnectionError("down"))
    failing.with_fallbacks([FakeChat(model="second")]).invoke("q", calls.config())
    assert calls.usages() == [None, USED]


def test_a_tool_call_without_text_is_billed(calls):
    FakeChat(responses=[tool_calls(("add", {"a": 1, "b": 2}))]).invoke("q", calls.config())
    assert calls.usages() == [USED]


# --- errors after part of the output --------------------------------------------------------------------------------


def test_what_arrived_before_an_error_is_billed(calls):
    """Anthropic's streams say the input with their first event; a provider bills a stream that broke off."""
    first = AIMessageChunk("hel", usage_metadata={"input_tokens": 11, "output_tokens": 1, "total_tokens": 12})
    model = Answers(chunks=[first, AIMessageChunk("lo")], fail=ConnectionError("reset"))
    with pytest.raises(ConnectionError):
        list(model.stream("q", calls.config()))
    assert calls.usages() == [Usage(input_tokens=11, output_tokens=1)]


def test_an_error_before_the_usage_leaves_it_unknown(calls):
    model = FakeChat(fail=ConnectionError("reset"), fail_after_chunks=2)
    with pytest.raises(ConnectionError):
        list(model.stream("q", calls.config()))
    (outcome,) = calls.outcomes()
    assert (outcome.usage, outcome.cost_usd) == (None, None)


# --- LangChain's cache ----------------------------------------------------------------------------------------------


def test_a_cache_hit_costs_nothing_though_its_message_says_what_it_once_cost(calls):
    usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    model = Answers(message=AIMessage("hello", usage_metadata=usage), llm_output=PAID, cache=InMemoryCache())
    model.invoke("q", calls.config())
    model.invoke("q", calls.config())
    paid, cached = calls.outcomes()
    assert (paid.usage.source, paid.service_tier, paid.cost_usd) == ("reported", "priority", 0.25)
    assert (cached.usage, cached.service_tier, cached.cost_usd) == (Usage(source="cache_hit"), None, 0.0)


def test_a_cache_hit_without_usage_costs_nothing(calls):
    model = FakeChat(usage=None, cache=InMemoryCache())
    model.invoke("q", calls.config())
    model.invoke("q", calls.config())
    assert calls.usages() == [None, Usage(source="cache_hit")]


# --- what integrations of providers make of their answers -----------------------------------------------------------


def test_anthropics_writes_for_an_hour(calls):
    details = {
        "cache_read": 800,
        "cache_creation": 0,
        "ephemeral_5m_input_tokens": 70,
        "ephemeral_1h_input_tokens": 30,
    }
    message = AIMessage(
        "hello",
        usage_metadata={
            "input_tokens": 920,
            "output_tokens": 9,
            "total_tokens": 929,
            "input_token_details": details,
        },
        response_metadata={"model_provider": "anthropic"},
    )
    reported = {"input_tokens": 20, "service_tier": "batch", "inference_geo": "not_available"}
    Answers(message=message, llm_output={"usage": reported}).invoke("q", calls.config())
    (outcome,) = calls.outcomes()
    assert outcome.usage == Usage(
        input_tokens=920,
        output_tokens=9,
        cache_read_tokens=800,
        cache_write_tokens=100,
        cache_write_1h_tokens=30,
    )
    assert outcome.service_tier == "batch"


def test_bedrocks_tier_and_openrouters_cost_stand_in_the_message(calls):
    usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    metadata = {
        "serviceTier": {"type": "flex"},
        "cost": 0.5,
        "cost_details": {"upstream_inference_cost": 0.5},
    }
    message = AIMessage("hello", usage_metadata=usage, response_metadata=metadata)
    Answers(message=message).invoke("q", calls.config())
    (outcome,) = calls.outcomes()
    assert (outcome.service_tier, outcome.cost_usd) == ("flex", 0.5)


def test_the_application_says_that_a_call_is_part_of_a_batch(calls):
    FakeChat().invoke("q", calls.config(metadata={"service_tier": "batch"}))
    FakeChat().invoke("q", calls.config(metadata={"service_tier": "batch"}), service_tier="flex")
    assert [params["service_tier"] for params in calls.params()] == ["batch", "flex"]


# --- LangChain's own OpenAI class, against a server on this machine -------------------------------------------------

CHAT_USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3, "audio_tokens": 0},
}
RESPONSES_USAGE = {
    "input_tokens": 11,
    "output_tokens": 7,
    "total_tokens": 18,
    "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
    "output_tokens_details": {"reasoning_tokens": 3},
}


class Server(BaseHTTPRequestHandler):
    """Chat completions and responses as OpenAI answers them, in the tier `tier` and with `usage`."""

    tier: str | None = "flex"
    usage: dict[str, Any] = CHAT_USAGE

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        head = {"id": "chatcmpl-1", "created": 1, "model": "gpt-5-2025-08-07", "service_tier": self.tier}
        if self.path.endswith("/responses"):
            self._respond(asked)
        elif asked.get("stream"):
            chunk = {**head, "object": "chat.completion.chunk"}
            delta = {"role": "assistant", "content": "hello"}
            events = [{"choices": [{"index": 0, "delta": delta}]}]
            events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            if (asked.get("stream_options") or {}).get("include_usage"):
                events.append({"choices": [], "usage": self.usage})
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
            "model": "gpt-5-2025-08-07",
            "status": "completed",
            "output": [said],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "service_tier": self.tier,
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
def openai(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    langchain_openai = pytest.importorskip("langchain_openai", reason="pip install langchain-openai")
    server_class = type("ScriptedServer", (Server,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), server_class) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

        def model(*, tier: str | None = "flex", usage: dict[str, Any] = CHAT_USAGE, **fields: Any) -> Any:
            server_class.tier, server_class.usage = tier, usage
            address = f"http://127.0.0.1:{server.server_port}/v1"
            return langchain_openai.ChatOpenAI(
                model="gpt-5", api_key="k", base_url=address, max_retries=0, **fields
            )

        yield model
        server.shutdown()


OPENAI_USED = Usage(input_tokens=11, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3)


def tokens(usage: Usage | None) -> Usage | None:
    """Without what some versions of langchain-openai leave out, and others report as 0."""
    return (
        None
        if usage is None
        else usage._replace(cache_write_tokens=None, audio_input_tokens=None, audio_output_tokens=None)
    )


@pytest.mark.parametrize("tier", ["default", "flex", "priority"])
@pytest.mark.parametrize("how", ["chat", "stream", "responses", "streamed responses"])
def test_openais_tier_and_tokens(calls, openai, how, tier):
    model = openai(tier=tier, use_responses_api="responses" in how, stream_usage=True)
    if "stream" in how:
        list(model.stream("q", calls.config()))
    else:
        model.invoke("q", calls.config())
    (outcome,) = calls.outcomes()
    assert tokens(outcome.usage) == OPENAI_USED
    assert outcome.service_tier == tier
    assert outcome.model == "gpt-5-2025-08-07"


def test_several_of_openais_choices_are_billed_once(calls, openai):
    openai(n=2).invoke("q", calls.config())
    (outcome,) = calls.outcomes()
    assert (tokens(outcome.usage), outcome.service_tier) == (OPENAI_USED, "flex")


def test_a_stream_of_openai_without_usage_has_a_tier_and_no_tokens(calls, openai):
    list(openai(stream_usage=False).stream("q", calls.config()))
    (outcome,) = calls.outcomes()
    assert (outcome.usage, outcome.service_tier) == (None, "flex")


@pytest.mark.parametrize("fields", [{"service_tier": "flex"}, {"extra_body": {"service_tier": "flex"}}])
def test_the_tier_that_openai_is_asked_for_is_told_as_well(calls, openai, fields):
    openai(tier="default", **fields).invoke("q", calls.config())
    assert calls.params()[0]["service_tier"] == "flex"
    assert calls.outcomes()[0].service_tier == "default"


def test_openrouter_behind_openais_class_says_what_a_call_cost(calls, openai):
    usage = {
        **CHAT_USAGE,
        "cost": 0.25,
        "is_byok": True,
        "cost_details": {"upstream_inference_cost": 0.125},
    }
    openai(tier=None, usage=usage, n=2).invoke("q", calls.config())
    openai(tier=None, usage=usage).invoke("q", calls.config())
    assert [outcome.cost_usd for outcome in calls.outcomes()] == [0.375, 0.375]


def test_xais_output_includes_its_reasoning(calls, openai):
    usage = {
        "prompt_tokens": 32,
        "completion_tokens": 9,
        "total_tokens": 135,
        "completion_tokens_details": {"reasoning_tokens": 94},
        "cost_in_usd_ticks": 37_756_000,
    }
    openai(tier=None, usage=usage).invoke("q", calls.config())
    (outcome,) = calls.outcomes()
    assert tokens(outcome.usage) == Usage(input_tokens=32, output_tokens=103, reasoning_tokens=94)
    assert outcome.cost_usd == pytest.approx(0.0037756)
