"""LangChain: six calls of an application, its handlers, and a model that answers from memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from benchmarks.scenarios import CHUNKS, LARGE_PROMPT_CHARS, TOOL_CALLS, Call, Framework, Scenario
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnableParallel, RunnablePassthrough
from langchain_core.tools import tool

from aiobs_langchain import AiObsCallbackHandler

CONCURRENT: Final = 8
_MODEL: Final = "scripted-1"
_USAGE: Final = {"input_tokens": 812, "output_tokens": 64, "total_tokens": 876}

# --- the application ------------------------------------------------------------------------------------------


class ScriptedModel(BaseChatModel):
    """Answers at once, with the usage and metadata that a provider's client sets."""

    answers: Any
    temperature: float = 0.2

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> Mapping[str, Any]:
        return {"model": _MODEL, "temperature": self.temperature}

    def _get_ls_params(self, stop: list[str] | None = None, **_: Any) -> Any:
        return {
            "ls_provider": "openai",
            "ls_model_name": _MODEL,
            "ls_model_type": "chat",
            "ls_temperature": 0.2,
        }

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=next(self.answers))])

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> Iterator[ChatGenerationChunk]:
        for _chunk in range(CHUNKS - 1):
            yield ChatGenerationChunk(message=AIMessageChunk(content="word "))
        last = AIMessageChunk(content="end.", usage_metadata=_USAGE, response_metadata={"model_name": _MODEL})
        yield ChatGenerationChunk(message=last)

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> Runnable[Any, Any]:
        return self


def answer(text: str, **more: Any) -> AIMessage:
    metadata = {"model_name": f"{_MODEL}-2026-01-01", "finish_reason": "stop", "id": "chatcmpl-1"}
    return AIMessage(content=text, usage_metadata=_USAGE, response_metadata=metadata, **more)


def _model(said: AIMessage) -> ScriptedModel:
    return ScriptedModel(answers=itertools.repeat(said))


class _TenDocuments(BaseRetriever):
    def _get_relevant_documents(self, query: str, **_: Any) -> list[Document]:
        return [
            Document(page_content="text " * 400, metadata={"source": str(number)}) for number in range(10)
        ]


@tool
def look_up(order: str) -> str:
    """Look up an order."""
    return f"{order}: shipped"


def _chain() -> Runnable[Any, Any]:
    prompt = ChatPromptTemplate.from_messages([("system", "Answer briefly."), ("human", "{question}")])
    return prompt | _model(answer("Seoul")) | StrOutputParser()


def _rag() -> Runnable[Any, Any]:
    def joined(documents: Sequence[Document]) -> str:
        return "\n".join(document.page_content for document in documents)

    prompt = ChatPromptTemplate.from_template("Context: {context}\nQuestion: {question}")
    found = _TenDocuments() | RunnableLambda(joined)
    sides = RunnableParallel(context=found, question=RunnablePassthrough())
    return sides | prompt | _model(answer("Shipped.")) | StrOutputParser()


def _agent() -> Runnable[Any, Any]:
    def script() -> Iterator[AIMessage]:
        while True:
            for number in range(TOOL_CALLS):
                call = {"name": "look_up", "args": {"order": f"A-{number}"}, "id": f"call-{number}"}
                yield answer("", tool_calls=[call])
            yield answer("All shipped.")

    return create_agent(ScriptedModel(answers=script()), [look_up], name="shop")


def _invoke(application: Runnable[Any, Any], given: object) -> Call:
    def run(calls: int, config: Any) -> None:
        for _ in range(calls):
            application.invoke(given, config)

    return run


def _stream(application: Runnable[Any, Any], given: object) -> Call:
    def run(calls: int, config: Any) -> None:
        for _ in range(calls):
            for _chunk in application.stream(given, config):
                pass

    return run


def _concurrently(application: Runnable[Any, Any], given: object) -> Call:
    async def rounds(calls: int, config: Any) -> None:
        for _ in range(calls // CONCURRENT):
            await asyncio.gather(*(application.ainvoke(given, config) for _ in range(CONCURRENT)))

    def run(calls: int, config: Any) -> None:
        asyncio.run(rounds(calls, config))

    return run


_QUESTION: Final = {"question": "What is the capital of Korea?"}
_ORDERS: Final = {"messages": [("human", "Where are my orders?")]}

_SCENARIOS: Final[Mapping[str, Scenario]] = {
    "chain": Scenario(
        says="prompt, chat model, parser", make=lambda: _invoke(_chain(), _QUESTION), spans=4, few=16, many=80
    ),
    "stream": Scenario(
        says=f"a chat model, {CHUNKS} chunks",
        make=lambda: _stream(_model(answer("")), _QUESTION["question"]),
        spans=1,
        few=4,
        many=24,
    ),
    "agent": Scenario(
        says=f"create_agent, {TOOL_CALLS} tool calls",
        make=lambda: _invoke(_agent(), _ORDERS),
        spans=23,
        few=3,
        many=15,
    ),
    "rag": Scenario(
        says="10 documents of 2 kB", make=lambda: _invoke(_rag(), "Where is it?"), spans=9, few=8, many=48
    ),
    "large": Scenario(
        says="the chain, 200 kB prompt",
        make=lambda: _invoke(_chain(), {"question": "x" * LARGE_PROMPT_CHARS}),
        spans=4,
        few=16,
        many=80,
    ),
    "async": Scenario(
        says=f"the chain, {CONCURRENT} ainvoke at once",
        make=lambda: _concurrently(_chain(), _QUESTION),
        spans=4,
        few=16,
        many=80,
    ),
}


# --- who listens ------------------------------------------------------------------------------------------------


class EmptyHandler(BaseCallbackHandler):
    """Overrides what ours overrides and does nothing: what LangChain asks of any handler."""

    def _nothing(self, *_: Any, **__: Any) -> None:
        pass

    on_chat_model_start = on_llm_start = on_llm_new_token = on_llm_end = on_llm_error = _nothing
    on_chain_start = on_chain_end = on_chain_error = _nothing
    on_tool_start = on_tool_end = on_tool_error = _nothing
    on_retriever_start = on_retriever_end = on_retriever_error = _nothing
    on_custom_event = on_retry = _nothing


class EmptyInlineHandler(EmptyHandler):
    """The same, called in the task itself instead of an executor."""

    run_inline = True


_HANDLERS: Final = {
    "empty": EmptyHandler,
    "inline": EmptyInlineHandler,
    "aiobs": AiObsCallbackHandler,
    "unsampled": AiObsCallbackHandler,
}


def listen(variant: str) -> Mapping[str, Any]:
    """The config that a call is made with."""
    return {} if variant == "none" else {"callbacks": [_HANDLERS[variant]()]}


FRAMEWORK: Final = Framework(
    name="LangChain",
    scenarios=_SCENARIOS,
    variants={
        "none": "no handler",
        "inline": "empty handler, inline",
        "aiobs": "aiobs",
        "unsampled": "aiobs, not sampled",
    },
    listen=listen,
)
