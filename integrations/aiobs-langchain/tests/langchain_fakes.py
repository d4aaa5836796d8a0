"""Models, a retriever and tools that run offline, for tests and examples; LangChain 1.0 and up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.llms import BaseLLM
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import (
    ChatGeneration,
    ChatGenerationChunk,
    ChatResult,
    Generation,
    GenerationChunk,
    LLMResult,
)
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool

USAGE: dict[str, Any] = {
    "input_tokens": 11,
    "output_tokens": 7,
    "total_tokens": 18,
    "input_token_details": {"cache_read": 4, "cache_creation": 2},
    "output_token_details": {"reasoning": 3},
}
IDENTITY: Any = RunnableLambda(lambda x: x, name="identity")


class FakeChat(BaseChatModel):
    """A chat model: answers `responses` in turn, else "hello world foo".

    Attributes:
        fail: Raised instead of an answer; while streaming, after `fail_after_chunks` chunks.
        usage: Reported with each answer, and with the last chunk of a stream; None: no usage anywhere.
        delay_s: Waited before each answer and before each chunk.
        choices: Number of answers per call; as with real providers each repeats the whole usage.
        base_url: Where it pretends to send requests to.
    """

    model: str = "fake-1"
    temperature: float | None = 0.3
    max_tokens: int | None = 64
    fail: Any = None
    fail_after_chunks: int = 0
    responses: list[Any] = []
    usage: dict[str, Any] | None = USAGE
    delay_s: float = 0.0
    choices: int = 1
    base_url: str | None = None
    calls: int = 0

    @property
    def _llm_type(self) -> str:
        return "fake-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model, "temperature": self.temperature}

    @classmethod
    def is_lc_serializable(cls) -> bool:
        return True

    def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
        return self.bind(tools=[convert_to_openai_tool(each) for each in tools], **kwargs)

    def _answer(self) -> AIMessage:
        answer = self.responses[self.calls % len(self.responses)] if self.responses else "hello world foo"
        self.calls += 1
        return AIMessage(answer) if isinstance(answer, str) else answer

    def _result(self) -> ChatResult:
        if self.fail is not None:
            raise self.fail
        message = self._answer().model_copy(
            update={
                "usage_metadata": self.usage,
                "response_metadata": {
                    "model_name": f"{self.model}-0613",
                    "finish_reason": "stop",
                    "id": "resp-1",
                },
            }
        )
        coarse = {"prompt_tokens": 11, "completion_tokens": 7} if self.usage is not None else {}
        generations = [ChatGeneration(message=message) for _ in range(self.choices)]
        return ChatResult(generations=generations, llm_output={"token_usage": coarse})

    def _chunks(self) -> Iterator[ChatGenerationChunk]:
        message = self._answer()
        for index, call in enumerate(message.tool_calls):
            part = {
                "name": call["name"],
                "args": str(call["args"]).replace("'", '"'),
                "id": call["id"],
                "index": index,
            }
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))
        for word in str(message.content).split():
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
        metadata = {"model_name": f"{self.model}-0613", "finish_reason": "stop"}
        last = AIMessageChunk(content="", response_metadata=metadata, usage_metadata=self.usage)
        yield ChatGenerationChunk(message=last)

    def _generate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        if self.delay_s:
            time.sleep(self.delay_s)
        return self._result()

    async def _agenerate(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        await asyncio.sleep(self.delay_s)
        return self._result()

    def _stream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        for index, chunk in enumerate(self._chunks()):
            if self.delay_s:
                time.sleep(self.delay_s)
            if self.fail is not None and index >= self.fail_after_chunks:
                raise self.fail
            yield chunk

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        for index, chunk in enumerate(self._chunks()):
            await asyncio.sleep(self.delay_s)
            if self.fail is not None and index >= self.fail_after_chunks:
                raise self.fail
            yield chunk


class SlowChat(FakeChat):
    """Takes longer than any test waits: for cancellation. `ainvoke` only."""

    delay_s: float = 30.0


class FakeLLM(BaseLLM):
    """A text completion model of the old kind."""

    model: str = "fake-text-1"
    fail: Any = None

    @property
    def _llm_type(self) -> str:
        return "fake-llm"

    def _generate(self, prompts: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> LLMResult:
        if self.fail is not None:
            raise self.fail
        usage = {"prompt_tokens": 5, "completion_tokens": 2}
        return LLMResult(
            generations=[
                [Generation(text="completed", generation_info={"finish_reason": "stop"})] for _ in prompts
            ],
            llm_output={"token_usage": usage, "model_name": f"{self.model}-0613"},
        )

    def _stream(
        self, prompt: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[GenerationChunk]:
        for word in ("one", "two"):
            yield GenerationChunk(text=word)


class FakeRetriever(BaseRetriever):
    """Returns `documents`, or raises `fail`; `delay_s` holds for the async API."""

    documents: list[Document] = [Document("first document"), Document("second document")]
    fail: Any = None
    delay_s: float = 0.0

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        if self.fail is not None:
            raise self.fail
        return self.documents

    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        await asyncio.sleep(self.delay_s)
        return self._get_relevant_documents(query, run_manager=run_manager)


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
async def aadd(a: int, b: int) -> int:
    """Add two numbers, asynchronously."""
    await asyncio.sleep(0)
    return a + b


@tool
def broken(a: int) -> int:
    """Fail with ValueError."""
    raise ValueError(f"broken tool: {a}")


def tool_calls(*calls: tuple[str, dict[str, Any]]) -> AIMessage:
    """An answer that asks for tools: `tool_calls(("add", {"a": 1, "b": 2}))`."""
    return AIMessage(
        content="",
        tool_calls=[
            {"name": name, "args": args, "id": f"call-{index}"} for index, (name, args) in enumerate(calls, 1)
        ],
    )
