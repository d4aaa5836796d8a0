"""A provider on this machine that speaks OpenAI's protocol, and remembers which tokens it told its customers of."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request is answered with.

    Attributes:
        input: Tokens, cached ones included.
        output: Tokens, reasoning included.
        tier: That served the request.
        model: That answered, if other than the one that was asked for.
        calls_tool: Whether the model calls the tool `look_up` instead of saying hello.
        cost_usd: What a gateway says that the request cost.
        status: Of HTTP; other than 200, nothing is billed.
        breaks_off: Of a stream: `before the usage` or `after the usage`.
    """

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0
    tier: str = "default"
    model: str | None = None
    calls_tool: bool = False
    cost_usd: float | None = None
    status: int = 200
    breaks_off: str = ""

    @property
    def tokens(self) -> Counter[str]:
        return Counter(input=self.input, output=self.output, cached=self.cached, reasoning=self.reasoning)

    def usage(self, asked: str, made: str) -> dict[str, Any]:
        counts = {
            f"{asked}_tokens": self.input,
            f"{asked}_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0},
            f"{made}_tokens": self.output,
            f"{made}_tokens_details": {
                "reasoning_tokens": self.reasoning,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
            "total_tokens": self.input + self.output,
        }
        return counts if self.cost_usd is None else {**counts, "cost": self.cost_usd}


_TOOL_CALL: Final = {
    "id": "c-1",
    "type": "function",
    "function": {"name": "look_up", "arguments": '{"order": "A-1"}'},
}


class Provider(ThreadingHTTPServer):
    """Gives `answers` one after the other, and adds up what it billed."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.address = f"http://127.0.0.1:{self.server_port}/v1"
        self.answers: list[Answer] = []
        self.billed: Counter[str] = Counter()


@contextmanager
def provider() -> Iterator[Provider]:
    with Provider() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


class _Request(BaseHTTPRequestHandler):
    server: Provider

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = self.server.answers.pop(0)
        if answer.status != 200:
            self._send(json.dumps({"error": {"message": "overloaded"}}), status=answer.status)
            return
        answer = replace(answer, model=answer.model or asked["model"])
        speak = {"completions": self._chat, "responses": self._respond, "embeddings": self._embed}
        speak[self.path.rpartition("/")[2]](asked, answer)

    def _chat(self, asked: Mapping[str, Any], answer: Answer) -> None:
        head = {"id": "chatcmpl-1", "created": 1, "model": answer.model, "service_tier": answer.tier}
        said: dict[str, Any] = {"role": "assistant", "content": None if answer.calls_tool else "hello"}
        finish = "tool_calls" if answer.calls_tool else "stop"
        usage = answer.usage("prompt", "completion")
        if asked.get("stream"):
            self._stream_chat(asked, answer, head, said, finish, usage)
            return
        if answer.calls_tool:
            said["tool_calls"] = [_TOOL_CALL]
        choices = [
            {"index": index, "finish_reason": finish, "message": said} for index in range(asked.get("n") or 1)
        ]
        self.server.billed.update(answer.tokens)
        self._send(json.dumps({**head, "object": "chat.completion", "choices": choices, "usage": usage}))

    def _stream_chat(
        self, asked: Any, answer: Answer, head: Any, said: dict[str, Any], finish: str, usage: Any
    ) -> None:
        if answer.calls_tool:
            said["tool_calls"] = [{"index": 0, **_TOOL_CALL}]
        told: list[dict[str, Any]] = [{"choices": [{"index": 0, "delta": said}]}]
        if answer.breaks_off != "before the usage":
            told.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
            if (asked.get("stream_options") or {}).get("include_usage"):
                told.append({"choices": [], "usage": usage})
                self.server.billed.update(answer.tokens)
        events = [{**head, "object": "chat.completion.chunk", **each} for each in told]
        if answer.breaks_off:
            events.append({"error": {"message": "the model went away"}})
        self._send(*(f"data: {json.dumps(each)}\n\n" for each in events), kind="text/event-stream")

    def _respond(self, asked: Mapping[str, Any], answer: Answer) -> None:
        content = [{"type": "output_text", "text": "hello", "annotations": []}]
        said = {
            "type": "message",
            "id": "m-1",
            "role": "assistant",
            "status": "completed",
            "content": content,
        }
        begun = {"id": "r-1", "object": "response", "created_at": 1, "model": answer.model, "output": []}
        begun |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "service_tier": "auto"}
        done = {**begun, "status": "completed", "output": [said], "service_tier": answer.tier}
        done["usage"] = answer.usage("input", "output")
        self.server.billed.update(answer.tokens)
        if not asked.get("stream"):
            self._send(json.dumps(done))
            return
        events = (
            {"type": "response.created", "sequence_number": 0, "response": {**begun, "status": "queued"}},
            {"type": "response.completed", "sequence_number": 1, "response": done},
        )
        lines = (f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events)
        self._send(*lines, kind="text/event-stream")

    def _embed(self, _: Mapping[str, Any], answer: Answer) -> None:
        vectors = [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}]
        usage = {"prompt_tokens": answer.input, "total_tokens": answer.input}
        self.server.billed.update(answer.tokens)
        self._send(json.dumps({"object": "list", "model": answer.model, "data": vectors, "usage": usage}))

    def _send(self, *parts: str, status: int = 200, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header(
            "retry-after-ms", "1"
        )  # else OpenAI's client waits for half a second before it tries again
        self.end_headers()
        self.wfile.write("".join(parts).encode())

    def log_message(self, *_: Any) -> None:
        pass
