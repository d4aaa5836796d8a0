"""A chat model that plays a script, with the timing and the token counts of a real one: examples need no key."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain_core.language_models.chat_models import (
    BaseChatModel,
    agenerate_from_stream,
    generate_from_stream,
)
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolCall
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import SkipValidation

Reply = AIMessage | Callable[[Sequence[BaseMessage]], AIMessage]


class ChatScripted(BaseChatModel):
    """Answers a question with the first reply of its script, what its tools then say with the second, and so on.

    It keeps no state, so one instance serves any number of conversations at once. Tokens are counted at four
    characters each; those that the previous call of the same turn had sent are reported as read from a cache.
    """

    script: SkipValidation[Sequence[Reply]]
    model_name: str = "scripted-1"
    streaming: bool = False
    first_chunk_s: float = 0.18
    chunk_s: float = 0.012

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)

    def _generate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        return generate_from_stream(self._stream(messages, **kwargs))

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, **kwargs))

    def _stream(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        for delay_s, chunk in self._play(messages, kwargs.get("tools", ())):
            time.sleep(delay_s)
            yield chunk

    async def _astream(
        self, messages: list[BaseMessage], *_: Any, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for delay_s, chunk in self._play(messages, kwargs.get("tools", ())):
            await asyncio.sleep(delay_s)
            yield chunk

    def _play(
        self, messages: Sequence[BaseMessage], tools: Sequence[object]
    ) -> Iterator[tuple[float, ChatGenerationChunk]]:
        question = max(at for at, message in enumerate(messages) if isinstance(message, HumanMessage))
        said = [at for at, message in enumerate(messages) if at > question and isinstance(message, AIMessage)]
        reply = self.script[len(said)]
        if callable(reply):
            reply = reply(messages)
        prompt = [_tokens(tools), *(_tokens(message.content, _calls(message)) for message in messages)]
        cached = sum(prompt[: said[-1] + 1]) if said else 0
        given, got = sum(prompt), _tokens(reply.content, reply.tool_calls)
        parts = [
            *(AIMessageChunk(content=word) for word in str(reply.content).split(" ") if word),
            *(part for number, call in enumerate(reply.tool_calls) for part in _parts(number, call)),
        ]
        for number, part in enumerate(parts):
            if number and part.content:
                part.content = f" {part.content}"
            yield self.chunk_s if number else self.first_chunk_s, ChatGenerationChunk(message=part)
        last = AIMessageChunk(
            content="",
            chunk_position="last",
            response_metadata={
                "model_name": self.model_name,
                "finish_reason": "tool_calls" if reply.tool_calls else "stop",
            },
            usage_metadata={
                "input_tokens": given,
                "output_tokens": got,
                "total_tokens": given + got,
                "input_token_details": {"cache_read": cached},
            },
        )
        yield 0.0, ChatGenerationChunk(message=last)


def call(tool: str, /, **arguments: object) -> ToolCall:
    """A tool call for a scripted reply."""
    return ToolCall(name=tool, args=arguments, id=f"call_{tool}", type="tool_call")


def _parts(number: int, tool_call: ToolCall) -> Iterator[AIMessageChunk]:
    """A tool call as models stream it: its name, then its arguments in pieces."""
    yield AIMessageChunk(
        content="",
        tool_call_chunks=[tool_call_chunk(name=tool_call["name"], args="", id=tool_call["id"], index=number)],
    )
    for piece in re.findall(r".{1,12}", json.dumps(tool_call["args"])):
        yield AIMessageChunk(
            content="", tool_call_chunks=[tool_call_chunk(name=None, args=piece, id=None, index=number)]
        )


def _calls(message: BaseMessage) -> Sequence[ToolCall]:
    return message.tool_calls if isinstance(message, AIMessage) else ()


def _tokens(*parts: object) -> int:
    return sum(len(part if isinstance(part, str) else json.dumps(part)) // 4 for part in parts if part)
