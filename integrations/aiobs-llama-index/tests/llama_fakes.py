"""LlamaIndex parts that answer from memory, with usage as OpenAI reports it: 11 input and 7 output tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.base.llms import types
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CustomLLM,
    LLMMetadata,
    MockLLM,
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import LLM, ToolSelection
from llama_index.core.tools import FunctionTool
from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step
from pydantic import Field, PrivateAttr

MODEL = "fake-1"


class Usage:
    def __init__(self) -> None:
        self.prompt_tokens = 11
        self.completion_tokens = 7
        self.total_tokens = 18


class Raw:
    """What the provider's SDK returned."""

    def __init__(self) -> None:
        self.id = "response-1"
        self.model = "fake-1-0613"
        self.usage = Usage()
        self.choices = [{"finish_reason": "stop"}]


class FakeLLM(FunctionCallingLLM):
    """Says `responses` in turn: a text, the name and arguments of a tool to call, or a list of such.

    Raises `fail` instead, if that is given; while it streams, after `fail_after_chunks` chunks.
    """

    model: str = MODEL
    temperature: float = 0.3
    max_tokens: int = 64
    api_base: str = "https://user:password@llm.example:8443/v1?key=1"
    responses: list[Any] = Field(default_factory=lambda: ["hello big world"])
    fail: Any = None
    fail_after_chunks: int = 0
    wait_s: float = 0.0
    _said: int = PrivateAttr(default=0)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model, is_chat_model=True, is_function_calling_model=True)

    def _next(self) -> Any:
        if self.fail is not None and not self.fail_after_chunks:
            raise self.fail
        self._said += 1
        return self.responses[(self._said - 1) % len(self.responses)]

    def _answer(self) -> ChatResponse:
        said = self._next()
        if isinstance(said, str):
            return ChatResponse(message=ChatMessage(role="assistant", content=said), raw=Raw())
        return ChatResponse(message=_calling(said if isinstance(said, list) else [said]), raw=Raw())

    def _chunks(self) -> Any:
        whole = self._answer()
        text = ""
        for number, word in enumerate((whole.message.content or "").split()):
            if self.fail is not None and number == self.fail_after_chunks:
                raise self.fail
            text += word
            yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta=word)
        yield ChatResponse(message=whole.message, delta="", raw=whole.raw)

    def _text_chunks(self) -> Any:
        text = ""
        for word in self._next().split():
            text += word
            yield CompletionResponse(text=text, delta=word)
        yield CompletionResponse(text=text, delta="", raw=Raw())

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        return self._answer()

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        await asyncio.sleep(self.wait_s)
        return self._answer()

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        return self._chunks()

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        async def chunks() -> Any:
            for chunk in self._chunks():
                await asyncio.sleep(self.wait_s)
                yield chunk

        return chunks()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return CompletionResponse(text=self._next(), raw=Raw())

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        await asyncio.sleep(self.wait_s)
        return CompletionResponse(text=self._next(), raw=Raw())

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return self._text_chunks()

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        async def chunks() -> Any:
            for chunk in self._text_chunks():
                yield chunk

        return chunks()

    def _prepare_chat_with_tools(
        self,
        tools: Any,
        user_msg: Any = None,
        chat_history: Any = None,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> Any:
        messages = [*(chat_history or []), *([user_msg] if isinstance(user_msg, ChatMessage) else [])]
        if isinstance(user_msg, str):
            messages.append(ChatMessage(role="user", content=user_msg))
        return {"messages": messages}

    def get_tool_calls_from_response(
        self, response: Any, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> Any:
        said = response.message
        blocks = [block for block in said.blocks if type(block).__name__ == "ToolCallBlock"]
        calls = blocks or said.additional_kwargs.get("tool_calls", [])
        return [
            ToolSelection(
                tool_id=getattr(call, "tool_call_id", None) or call.tool_id,
                tool_name=call.tool_name,
                tool_kwargs=call.tool_kwargs,
            )
            for call in calls
        ]


def _calling(calls: list[tuple[str, Any]]) -> ChatMessage:
    if hasattr(types, "ToolCallBlock"):
        blocks = [
            types.ToolCallBlock(tool_call_id=f"call-{number}", tool_name=name, tool_kwargs=arguments)
            for number, (name, arguments) in enumerate(calls, 1)
        ]
        return ChatMessage(role="assistant", blocks=blocks)
    selections = [  # as llama-index-core had them
        ToolSelection(tool_id=f"call-{number}", tool_name=name, tool_kwargs=arguments)
        for number, (name, arguments) in enumerate(calls, 1)
    ]
    return ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": selections})


class TextLLM(CustomLLM):
    """Only completes; LlamaIndex makes `achat` of `chat`, and `chat` of `complete`."""

    model: str = MODEL
    responses: list[str] = Field(default_factory=lambda: ["hello big world"])
    _said: int = PrivateAttr(default=0)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model)

    def _next(self) -> str:
        self._said += 1
        return self.responses[(self._said - 1) % len(self.responses)]

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return CompletionResponse(text=self._next(), raw=Raw())

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        def chunks() -> Any:
            text = ""
            for word in self._next().split():
                text += word
                yield CompletionResponse(text=text, delta=word)
            yield CompletionResponse(text=text, delta="", raw=Raw())

        return chunks()


class PlainLLM(LLM):
    """Without LlamaIndex's decorators, as some integrations are: spans are reported, events are not."""

    model: str = MODEL

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model)

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        return ChatResponse(
            message=ChatMessage(role="assistant", content="hello"), raw={"usage": vars(Usage())}
        )

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return CompletionResponse(
            text="hello", additional_kwargs={"prompt_tokens": 11, "completion_tokens": 7}
        )

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        for word in ("hello", "big", "world"):
            yield ChatResponse(message=ChatMessage(role="assistant", content=word), delta=word)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        for word in ("hello", "big", "world"):
            yield CompletionResponse(text=word, delta=word)

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        return self.chat(messages)

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return self.complete(prompt)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        async def chunks() -> Any:
            for chunk in self.stream_chat(messages):
                yield chunk

        return chunks()

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        async def chunks() -> Any:
            for chunk in self.stream_complete(prompt):
                yield chunk

        return chunks()


class Nap(Workflow):
    """Sleeps for as long as it is told."""

    @step
    async def rest(self, ev: StartEvent) -> StopEvent:
        await asyncio.sleep(ev.get("rest_s", 0))
        if (error := ev.get("fail", None)) is not None:
            raise error
        return StopEvent(result="rested")


def look(what: str) -> str:
    """Look something up."""
    return "found " + what


def look_tool(body: Any = look) -> FunctionTool:
    return FunctionTool.from_defaults(body, name="look", description="Look something up.")


def ask(text: str = "hello") -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


def index_of(*texts: str, **parts: Any) -> VectorStoreIndex:
    documents = [Document(text=text) for text in texts or ("The house is red.", "The car is blue.")]
    return VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=8), **parts)


__all__ = [
    "MODEL",
    "FakeLLM",
    "MockLLM",
    "Nap",
    "PlainLLM",
    "TextLLM",
    "ask",
    "index_of",
    "look",
    "look_tool",
]
