"""A LlamaIndex model that plays a script, with the timing and the token counts of a real one: examples need no key."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from llama_index.core.base.llms import generic_utils as made_of
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    LLMMetadata,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from pydantic import SkipValidation

Said = str | ToolCallBlock
Reply = Said | Callable[[Sequence[ChatMessage]], Said]


class ScriptedLLM(FunctionCallingLLM):
    """Answers a question with the first reply of its script, what its tools then say with the second, and so on.

    It keeps no state, so one instance serves any number of agents and conversations. Tokens are counted at four
    characters each.
    """

    script: SkipValidation[Sequence[Reply]]
    model: str = "scripted-1"
    first_chunk_s: float = 0.18
    chunk_s: float = 0.012

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model, is_chat_model=True, is_function_calling_model=True)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        delays_s, responses = zip(*self._play(messages), strict=True)
        time.sleep(sum(delays_s))
        return responses[-1]

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        delays_s, responses = zip(*self._play(messages), strict=True)
        await asyncio.sleep(sum(delays_s))
        return responses[-1]

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **_: Any) -> Iterator[ChatResponse]:
        def chunks() -> Iterator[ChatResponse]:
            for delay_s, response in self._play(messages):
                time.sleep(delay_s)
                yield response

        return chunks()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **_: Any) -> AsyncIterator[ChatResponse]:
        async def chunks() -> AsyncIterator[ChatResponse]:
            for delay_s, response in self._play(messages):
                await asyncio.sleep(delay_s)
                yield response

        return chunks()

    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        return made_of.chat_to_completion_decorator(self.chat)(prompt)

    async def acomplete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        return await made_of.achat_to_completion_decorator(self.achat)(prompt)

    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        return made_of.stream_chat_to_completion_decorator(self.stream_chat)(prompt)

    async def astream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Any:
        return await made_of.astream_chat_to_completion_decorator(self.astream_chat)(prompt)

    def _prepare_chat_with_tools(
        self, tools: Any, user_msg: Any = None, chat_history: Any = None, **_: Any
    ) -> dict[str, Any]:
        asked = [ChatMessage(user_msg)] if isinstance(user_msg, str) else [user_msg] if user_msg else []
        return {"messages": [*(chat_history or []), *asked]}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **_: Any
    ) -> list[ToolSelection]:
        return [
            ToolSelection(tool_id=call.tool_call_id, tool_name=call.tool_name, tool_kwargs=call.tool_kwargs)
            for call in response.message.blocks
            if isinstance(call, ToolCallBlock)
        ]

    def _play(self, messages: Sequence[ChatMessage]) -> Iterator[tuple[float, ChatResponse]]:
        """The reply so far, chunk by chunk, and how long each takes; the last one has the counts."""
        question = max(at for at, message in enumerate(messages) if message.role == MessageRole.USER)
        reply = self.script[sum(message.role == MessageRole.ASSISTANT for message in messages[question:])]
        said = reply if isinstance(reply, (str, ToolCallBlock)) else reply(messages)
        text, delay_s = "", self.first_chunk_s
        for word in said.split(" ") if isinstance(said, str) else ():
            delta = f" {word}" if text else word
            text += delta
            yield delay_s, ChatResponse(message=_message(TextBlock(text=text)), delta=delta)
            delay_s = self.chunk_s
        block = TextBlock(text=said) if isinstance(said, str) else said
        yield delay_s, ChatResponse(message=_message(block), delta="", raw=self._raw(messages, block))

    def _raw(self, messages: Sequence[ChatMessage], said: TextBlock | ToolCallBlock) -> dict[str, object]:
        """What a provider's server would have answered."""
        given = sum(_tokens(block) for message in messages for block in message.blocks)
        return {
            "model": self.model,
            "choices": [{"finish_reason": "tool_calls" if isinstance(said, ToolCallBlock) else "stop"}],
            "usage": {"prompt_tokens": given, "completion_tokens": _tokens(said)},
        }


def call(tool: str, /, **arguments: object) -> ToolCallBlock:
    """A tool call for a scripted reply."""
    return ToolCallBlock(tool_call_id=f"call_{tool}", tool_name=tool, tool_kwargs=arguments)


def _message(block: TextBlock | ToolCallBlock) -> ChatMessage:
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=[block])


def _tokens(block: object) -> int:
    text = json.dumps(block.tool_kwargs) if isinstance(block, ToolCallBlock) else getattr(block, "text", "")
    return len(text) // 4
