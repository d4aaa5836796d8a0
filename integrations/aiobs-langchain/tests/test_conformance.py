"""The conformance suite, driven through LangChain and LangGraph."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import StructuredTool
from langchain_fakes import FakeChat, FakeRetriever, SlowChat, tool_calls

from aiobs_langchain import AiObsCallbackHandler, LangChainInstrumentor
from aiobs_testing import ConformanceSuite, Driver


class LangChainDriver(Driver):
    scope = "aiobs.langchain"

    def make_handler(self) -> AiObsCallbackHandler:
        return AiObsCallbackHandler()

    def install(self) -> None:
        LangChainInstrumentor().instrument()

    def uninstall(self) -> None:
        LangChainInstrumentor().uninstrument()

    @property
    def config(self) -> Any:
        return {"callbacks": self.handlers}

    def chat(self, prompt: str) -> Any:
        return FakeChat().invoke(prompt, self.config)

    async def achat(self, prompt: str) -> Any:
        return await FakeChat().ainvoke(prompt, self.config)

    def failing_chat(self, error: BaseException) -> Any:
        return FakeChat(fail=error).invoke("hello", self.config)

    def stream(self, prompt: str) -> Iterator[Any]:
        return FakeChat().stream(prompt, self.config)

    def astream(self, prompt: str) -> AsyncIterator[Any]:
        return FakeChat().astream(prompt, self.config)

    async def slow_achat(self, prompt: str) -> Any:
        return await SlowChat().ainvoke(prompt, self.config)

    def tool(self, argument: str, body: Callable[[], Any]) -> Any:
        return look(body).invoke({"what": argument}, self.config)

    async def atool(self, argument: str, body: Callable[[], Any]) -> Any:
        return await look(body).ainvoke({"what": argument}, self.config)

    def retrieve(self, query: str, documents: Sequence[str]) -> Any:
        return FakeRetriever(documents=[Document(text) for text in documents]).invoke(query, self.config)

    def agent(self, prompt: str, body: Callable[[], Any]) -> Any:
        return helper(body).invoke({"messages": [("user", prompt)]}, self.config)

    async def aagent(self, prompt: str, body: Callable[[], Any]) -> Any:
        return await helper(body).ainvoke({"messages": [("user", prompt)]}, self.config)

    def parallel_tools(self, body: Callable[[str], Any]) -> Any:
        both = RunnableParallel(
            {name: RunnableLambda(lambda _, name=name: {"what": name}) | look(body, name) for name in "ab"}
        )
        return both.invoke({}, self.config)

    def batch(self, prompts: Sequence[str]) -> Any:
        return FakeChat().batch(list(prompts), self.config)


def look(body: Callable[..., Any], *arguments: str) -> StructuredTool:
    def run(what: str) -> str:
        return str(body(*arguments))

    async def arun(what: str) -> str:
        return str(body(*arguments))

    return StructuredTool.from_function(run, name="look", description="Look something up.", coroutine=arun)


def helper(body: Callable[[], Any]) -> Any:
    model = FakeChat(responses=[tool_calls(("look", {"what": "x"})), "done"])
    return create_agent(model, [look(body)], name="helper")


class TestLangChain(ConformanceSuite):
    driver = LangChainDriver
    gaps = (
        {
            "test_aagent": "before Python 3.11, LangChain cannot pass callbacks into async nodes; the instrumentor can"
        }
        if sys.version_info < (3, 11)
        else {}
    )
