"""The conformance suite, driven through LangChain and LangGraph."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import StructuredTool
from langchain_fakes import FakeChat, FakeRetriever, SlowChat, tool_calls

from aiobs_langchain import AiObsCallbackHandler, LangChainInstrumentor, observed
from aiobs_testing import ConformanceSuite, Driver


class LangChainDriver(Driver):
    """Without `rerank`: LangChain's document compressors report no run, and have no method that all of them share.

    Embeddings report none either, but can be observed one by one, which needs no handler.
    """

    scope = "aiobs.langchain"

    def make_handler(self) -> AiObsCallbackHandler:
        return AiObsCallbackHandler()

    def install(self) -> None:
        LangChainInstrumentor().instrument()

    def uninstall(self) -> None:
        LangChainInstrumentor().uninstrument()

    def make_broken_handler(self) -> Any:
        return BrokenHandler()

    def traces_left(self) -> list[str]:
        # LangChain's hooks cannot be taken back; ours must give no handler any more.
        given = RunnableLambda(lambda _, config: config["callbacks"].handlers).invoke(None)
        return [type(handler).__name__ for handler in given if isinstance(handler, AiObsCallbackHandler)]

    @property
    def config(self) -> Any:
        return {"callbacks": self.handlers}

    def chat(self, prompt: str) -> Any:
        return FakeChat(responses=[prompt]).invoke(prompt, self.config)

    async def achat(self, prompt: str) -> Any:
        return await FakeChat().ainvoke(prompt, self.config)

    def system_chat(self, system: str, prompt: str) -> Any:
        return FakeChat().invoke([("system", system), ("user", prompt)], self.config)

    def failing_chat(self, error: BaseException) -> Any:
        return FakeChat(fail=error).invoke("hello", self.config)

    def failing_stream(self, error: BaseException) -> Iterator[Any]:
        return FakeChat(fail=error, fail_after_chunks=1).stream("hello", self.config)

    def stream(self, prompt: str) -> Iterator[Any]:
        return FakeChat(responses=[f"{prompt} to you"]).stream(prompt, self.config)

    def astream(self, prompt: str) -> AsyncIterator[Any]:
        return FakeChat().astream(prompt, self.config)

    async def slow_achat(self, prompt: str) -> Any:
        return await SlowChat().ainvoke(prompt, self.config)

    def tool(self, argument: str, body: Callable[[], Any]) -> Any:
        return look(body).invoke({"what": argument}, self.config)

    async def atool(self, argument: str, body: Callable[[], Any]) -> Any:
        return await look(body).ainvoke({"what": argument}, self.config)

    def embed(self, texts: Sequence[str]) -> Any:
        model = DeterministicFakeEmbedding(size=self.dimensions)
        return (observed(model) if self.handlers else model).embed_documents(list(texts))

    def retrieve(self, query: str, documents: Sequence[str]) -> Any:
        return FakeRetriever(documents=[Document(text) for text in documents]).invoke(query, self.config)

    def agent(self, prompt: str, body: Callable[[], Any]) -> Any:
        return helper(body).invoke({"messages": [("user", prompt)]}, self.config)

    async def aagent(self, prompt: str, body: Callable[[], Any]) -> Any:
        return await helper(body).ainvoke({"messages": [("user", prompt)]}, self.config)

    def query(self, question: str) -> Any:
        return pipeline().invoke(question, self.config)

    def stream_query(self, question: str) -> Iterator[Any]:
        return pipeline(f"{question} to you").stream(question, self.config)

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


def pipeline(*responses: str) -> Any:
    documents = [Document("The house is red."), Document("The car is blue.")]
    found = FakeRetriever(documents=documents) | RunnableLambda(lambda found: str(len(found)), name="count")
    return found | FakeChat(responses=list(responses))


class BrokenHandler(BaseCallbackHandler):
    """LangChain logs what it raises, and goes on."""

    def on_llm_start(self, *_: Any, **__: Any) -> None:
        raise RuntimeError

    on_chat_model_start = on_chain_start = on_tool_start = on_llm_end = on_chain_end = on_tool_end = (
        on_llm_start
    )


def helper(body: Callable[[], Any]) -> Any:
    model = FakeChat(responses=[tool_calls(("look", {"what": "x"})), "done"])
    return create_agent(model, [look(body)], name="helper")


class TestLangChain(ConformanceSuite):
    driver = LangChainDriver
    gaps = {
        "test_between_chunks_the_application_is_not_inside_the_stream": "LangChain's streams are generators, which run in "
        "the context of whoever reads them, and its callbacks do not see the generator",
        **(
            dict.fromkeys(
                ("test_aagent", "test_parallel_async_agents"),
                "before Python 3.11, LangChain cannot pass callbacks into async nodes; the instrumentor can",
            )
            if sys.version_info < (3, 11)
            else {}
        ),
    }
