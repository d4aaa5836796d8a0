"""LlamaIndex: five calls of an application, handlers of its dispatcher, and a model that answers from memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.scenarios import CHUNKS, LARGE_PROMPT_CHARS, OURS, TOOL_CALLS, Call, Framework, Scenario
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LLMMetadata,
    ToolCallBlock,
)
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, ConfigDict

from aiobs_llama_index import AiObsCallbackHandler

_MODEL: Final = "scripted-1"


# --- the application ------------------------------------------------------------------------------------------------


class _Part(BaseModel):
    """Part of a response, as OpenAI's client makes it: what a subclass does not declare, it looks for in many places."""

    model_config = ConfigDict(extra="allow")


class _TokenDetails(_Part):
    audio_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class _Usage(_Part):
    prompt_tokens: int = 812
    completion_tokens: int = 64
    total_tokens: int = 876
    prompt_tokens_details: _TokenDetails = _TokenDetails()
    completion_tokens_details: _TokenDetails = _TokenDetails()


class _Choice(_Part):
    finish_reason: str
    index: int = 0


class _Completion(_Part):
    choices: list[_Choice]
    id: str = "chatcmpl-1"
    model: str = f"{_MODEL}-2026-01-01"
    usage: _Usage = _Usage()


def _completion(finish_reason: str = "stop") -> _Completion:
    return _Completion(choices=[_Choice(finish_reason=finish_reason)])


class ScriptedModel(FunctionCallingLLM):
    """Answers at once, with the usage and metadata that a provider's client sets."""

    answers: Any
    model: str = _MODEL
    temperature: float = 0.2

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=self.model, is_chat_model=True, is_function_calling_model=True)

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        return next(self.answers)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **_: Any) -> ChatResponse:
        return next(self.answers)

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **_: Any) -> Iterator[ChatResponse]:
        def chunks() -> Iterator[ChatResponse]:
            said = ""
            for _chunk in range(CHUNKS - 1):
                said += "word "
                yield ChatResponse(message=ChatMessage(role="assistant", content=said), delta="word ")
            last = ChatMessage(role="assistant", content=f"{said}end.")
            yield ChatResponse(message=last, delta="end.", raw=_completion())

        return chunks()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        raise NotImplementedError

    acomplete = stream_complete = astream_complete = astream_chat = complete

    def _prepare_chat_with_tools(
        self, tools: Any, user_msg: Any = None, chat_history: Any = None, **_: Any
    ) -> dict[str, Any]:
        return {
            "messages": list(chat_history or []),
            "tools": [each.metadata.to_openai_tool() for each in tools],
        }

    def get_tool_calls_from_response(self, response: ChatResponse, **_: Any) -> list[ToolSelection]:
        return [
            ToolSelection(
                tool_id=block.tool_call_id, tool_name=block.tool_name, tool_kwargs=block.tool_kwargs
            )
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock)
        ]


def _answer(text: str) -> ChatResponse:
    return ChatResponse(message=ChatMessage(role="assistant", content=text), raw=_completion())


def _tool_call(number: int) -> ChatResponse:
    call = ToolCallBlock(
        tool_call_id=f"call-{number}", tool_name="look_up", tool_kwargs={"order": f"A-{number}"}
    )
    return ChatResponse(message=ChatMessage(role="assistant", blocks=[call]), raw=_completion("tool_calls"))


def _model() -> ScriptedModel:
    return ScriptedModel(answers=itertools.repeat(_answer("Seoul")))


def look_up(order: str) -> str:
    """Look up an order."""
    return f"{order}: shipped"


def _each_time(do: Callable[[], object]) -> Call:
    def run(calls: int, _: Mapping[str, Any]) -> None:
        for _call in range(calls):
            do()

    return run


def _chat(prompt: str) -> Call:
    model, messages = _model(), [ChatMessage(role="user", content=prompt)]
    return _each_time(lambda: model.chat(messages))


def _stream() -> Call:
    model, messages = _model(), [ChatMessage(role="user", content=_QUESTION)]

    def read() -> None:
        for _chunk in model.stream_chat(messages):
            pass

    return _each_time(read)


def _query() -> Call:
    embedding = MockEmbedding(embed_dim=64)
    documents = [Document(text=f"{number}: " + "text " * 400) for number in range(2)]
    engine = VectorStoreIndex.from_documents(documents, embed_model=embedding).as_query_engine(llm=_model())
    return _each_time(lambda: engine.query("Where is it?"))


def _agent() -> Call:
    def script() -> Iterator[ChatResponse]:
        while True:
            yield from map(_tool_call, range(TOOL_CALLS))
            yield _answer("All shipped.")

    agent = FunctionAgent(
        name="shop",
        tools=[FunctionTool.from_defaults(look_up)],
        llm=ScriptedModel(answers=script()),
        streaming=False,
    )

    async def one_after_another(calls: int) -> None:
        for _ in range(calls):
            await agent.run(user_msg="Where are my orders?")

    def run(calls: int, _: Mapping[str, Any]) -> None:
        asyncio.run(one_after_another(calls))

    return run


_QUESTION: Final = "What is the capital of Korea?"

_SCENARIOS: Final[Mapping[str, Scenario]] = {
    "llama chat": Scenario(says="a chat model", make=lambda: _chat(_QUESTION), spans=1, few=32, many=160),
    "llama stream": Scenario(says=f"a chat model, {CHUNKS} chunks", make=_stream, spans=1, few=4, many=24),
    "llama query": Scenario(says="a query engine, 2 documents of 2 kB", make=_query, spans=5, few=4, many=24),
    "llama agent": Scenario(
        says=f"FunctionAgent, {TOOL_CALLS} tool calls", make=_agent, spans=41, few=2, many=8
    ),
    "llama large": Scenario(
        says="a chat model, 200 kB prompt",
        make=lambda: _chat("x" * LARGE_PROMPT_CHARS),
        spans=1,
        few=32,
        many=160,
    ),
}


# --- who listens ------------------------------------------------------------------------------------------------------


class _EmptySpanHandler(BaseSpanHandler[Any]):
    """Overrides what ours overrides and does nothing: what LlamaIndex's dispatcher costs whoever listens."""

    @classmethod
    def class_name(cls) -> str:
        return "EmptySpanHandler"

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    span_enter = span_exit = span_drop = _nothing
    new_span = prepare_to_exit_span = prepare_to_drop_span = _nothing


class _EmptyEventHandler(BaseEventHandler):
    @classmethod
    def class_name(cls) -> str:
        return "EmptyEventHandler"

    def handle(self, event: Any, **_: Any) -> None:
        pass


_root: Final = get_dispatcher()
_SHIPPED: Final = (tuple(_root.span_handlers), tuple(_root.event_handlers))
_listening: list[AiObsCallbackHandler] = []


def listen(variant: str) -> Mapping[str, Any]:
    """Put a variant's handlers, and no others, on the dispatcher; it is the whole process's, so no config is needed."""
    while _listening:
        _listening.pop().close()
    _root.span_handlers, _root.event_handlers = map(list, _SHIPPED)
    if variant == "empty":
        _root.add_span_handler(_EmptySpanHandler())
        _root.add_event_handler(_EmptyEventHandler())
    elif variant in OURS:
        _listening.append(AiObsCallbackHandler())
    return {}


FRAMEWORK: Final = Framework(
    name="LlamaIndex",
    scenarios=_SCENARIOS,
    variants={"none": "no handlers", "empty": "empty handlers", "aiobs": "aiobs"},
    listen=listen,
)
