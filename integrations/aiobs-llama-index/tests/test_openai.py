"""The real OpenAI classes of LlamaIndex against a server on this machine: what the provider sends is what is recorded."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import pytest
from llama_index.core.llms import ChatMessage

from aiobs_core import semconv
from aiobs_llama_index import AiObsCallbackHandler
from aiobs_testing import Telemetry

openai = pytest.importorskip("openai", reason="pip install llama-index-llms-openai")
OpenAI = pytest.importorskip("llama_index.llms.openai", reason="pip install llama-index-llms-openai").OpenAI

USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
ASKED = [ChatMessage(role="user", content="canary-51c0")]


class Server(BaseHTTPRequestHandler):
    """Chat completions as OpenAI answers them; `mode` says what goes wrong."""

    mode: ClassVar[str] = ""
    requests: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(asked)
        if self.mode == "rate limit":
            self._send(429, {"error": {"message": "canary-51c0", "type": "rate_limit"}})
        elif asked.get("stream"):
            self._stream(with_usage=bool((asked.get("stream_options") or {}).get("include_usage")))
        else:
            message = {"role": "assistant", "content": "hello big world"}
            choices = [{"index": 0, "finish_reason": "stop", "message": message}]
            self._send(200, {**_head("chat.completion"), "choices": choices, "usage": USAGE})

    def _stream(self, *, with_usage: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for word in ("hello ", "big ", "world"):
            self._event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": word}}]})
            if self.mode == "breaks off" and word == "big ":
                return
        self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if with_usage:
            self._event({"choices": [], "usage": USAGE})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, body: dict[str, Any]) -> None:
        data = json.dumps({**_head("chat.completion.chunk"), **body})
        self.wfile.write(f"data: {data}\n\n".encode())
        self.wfile.flush()

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _head(kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "gpt-4o-mini-2024-07-18"}


@pytest.fixture
def llm() -> Iterator[Any]:
    Server.mode = ""
    Server.requests.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://user:password@127.0.0.1:{server.server_port}/v1?key=1"
        yield OpenAI(
            model="gpt-4o-mini",
            api_key="canary-51c0",
            api_base=address,
            max_retries=0,
            temperature=0.2,
            max_tokens=64,
        )
        server.shutdown()


def the_span(telemetry: Telemetry) -> Any:
    (span,) = telemetry.spans()
    for each in telemetry.raw():
        assert "canary-51c0" not in each.to_json()
        assert "password" not in each.to_json()
    return span


def test_chat(telemetry: Telemetry, handler: AiObsCallbackHandler, llm: Any) -> None:
    assert llm.chat(ASKED).message.content == "hello big world"
    span = the_span(telemetry)
    found = span["attributes"]
    assert (span["name"], span["kind"]) == ("chat gpt-4o-mini", "CLIENT")
    assert found[semconv.GEN_AI_PROVIDER_NAME] == "openai"
    assert found[semconv.GEN_AI_RESPONSE_MODEL] == "gpt-4o-mini-2024-07-18"
    assert found[semconv.GEN_AI_RESPONSE_ID] == "chatcmpl-1"
    assert found[semconv.GEN_AI_RESPONSE_FINISH_REASONS] == ("stop",)
    assert (found[semconv.GEN_AI_REQUEST_TEMPERATURE], found[semconv.GEN_AI_REQUEST_MAX_TOKENS]) == (0.2, 64)
    assert (found[semconv.USAGE_INPUT_TOKENS], found[semconv.USAGE_OUTPUT_TOKENS]) == (11, 7)
    assert (found[semconv.USAGE_CACHE_READ_TOKENS], found[semconv.USAGE_REASONING_TOKENS]) == (4, 3)
    assert found[semconv.SERVER_ADDRESS] == "127.0.0.1"


def test_a_completion_that_is_a_chat_is_one_call(
    telemetry: Telemetry, handler: AiObsCallbackHandler, llm: Any
) -> None:
    assert llm.complete("canary-51c0").text == "hello big world"
    assert the_span(telemetry)["attributes"][semconv.USAGE_INPUT_TOKENS] == 11


async def test_achat(telemetry: Telemetry, handler: AiObsCallbackHandler, llm: Any) -> None:
    await llm.achat(ASKED)
    assert the_span(telemetry)["attributes"][semconv.USAGE_OUTPUT_TOKENS] == 7


def test_a_stream_without_usage_has_none(
    telemetry: Telemetry, handler: AiObsCallbackHandler, llm: Any
) -> None:
    assert "".join(chunk.delta or "" for chunk in llm.stream_chat(ASKED)) == "hello big world"
    found = the_span(telemetry)["attributes"]
    assert found[semconv.USAGE_SOURCE] == "missing"
    assert semconv.USAGE_INPUT_TOKENS not in found
    assert found[semconv.CHUNK_COUNT] == 3
    assert found[semconv.GEN_AI_RESPONSE_FINISH_REASONS] == ("stop",)


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_stream_with_usage(
    telemetry: Telemetry, handler: AiObsCallbackHandler, llm: Any, how: str
) -> None:
    options = {"stream_options": {"include_usage": True}}
    if how == "sync":
        list(llm.stream_chat(ASKED, **options))
    else:
        [_ async for _ in await llm.astream_chat(ASKED, **options)]
    found = the_span(telemetry)["attributes"]
    assert (found[semconv.USAGE_INPUT_TOKENS], found[semconv.USAGE_OUTPUT_TOKENS]) == (11, 7)
    assert found[semconv.USAGE_SOURCE] == "reported"
    assert found[semconv.GEN_AI_RESPONSE_FINISH_REASONS] == ("stop",)


def test_a_refused_request(telemetry: Telemetry, handler: AiObsCallbackHandler, llm: Any) -> None:
    Server.mode = "rate limit"
    with pytest.raises(openai.RateLimitError):
        llm.chat(ASKED)
    span = the_span(telemetry)
    assert span["status"] == "ERROR"
    assert span["attributes"]["error.type"] == "openai.RateLimitError"
    assert span["attributes"][semconv.STATUS_CODE] == 429


def test_a_connection_that_breaks_off_in_a_stream(
    telemetry: Telemetry, handler: AiObsCallbackHandler, llm: Any
) -> None:
    """HTTP/1.0 without a length: a broken connection and the end of a stream look the same to OpenAI's client."""
    Server.mode = "breaks off"
    said = [chunk.delta for chunk in llm.stream_chat(ASKED)]
    span = the_span(telemetry)
    assert span["attributes"][semconv.CHUNK_COUNT] == len([word for word in said if word]) == 2
    assert semconv.GEN_AI_RESPONSE_FINISH_REASONS not in span["attributes"]


def test_what_is_sent_is_what_is_sent_unobserved(llm: Any, telemetry: Telemetry) -> None:
    bare = llm.chat(ASKED)
    observing = AiObsCallbackHandler()
    observed = llm.chat(ASKED)
    observing.close()
    assert Server.requests[0] == Server.requests[1]
    assert observed == bare
