"""The conformance suite, driven through LlamaIndex."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from llama_fakes import FakeLLM, ask, index_of
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.tools import FunctionTool

from aiobs_llama_index import AiObsCallbackHandler, LlamaIndexInstrumentor
from aiobs_testing import ConformanceSuite, Driver


class LlamaIndexDriver(Driver):
    scope = "aiobs.llama_index"

    made: ClassVar[list[AiObsCallbackHandler]] = []

    def make_handler(self) -> AiObsCallbackHandler:
        self.made.append(AiObsCallbackHandler())
        return self.made[-1]

    def install(self) -> None:
        LlamaIndexInstrumentor().instrument()

    def uninstall(self) -> None:
        LlamaIndexInstrumentor().uninstrument()

    def llm(self, **given: Any) -> FakeLLM:
        return FakeLLM(callback_manager=CallbackManager(self.handlers), **given)

    def chat(self, prompt: str) -> Any:
        return self.llm().chat(ask(prompt))

    async def achat(self, prompt: str) -> Any:
        return await self.llm().achat(ask(prompt))

    def failing_chat(self, error: BaseException) -> Any:
        return self.llm(fail=error).chat(ask())

    def stream(self, prompt: str) -> Iterator[Any]:
        return self.llm().stream_chat(ask(prompt))

    async def astream(self, prompt: str) -> AsyncIterator[Any]:
        async for chunk in await self.llm().astream_chat(ask(prompt)):
            yield chunk

    async def slow_achat(self, prompt: str) -> Any:
        return await self.llm(wait_s=30).achat(ask(prompt))

    def tool(self, argument: str, body: Callable[[], Any]) -> Any:
        return look(body).call(what=argument)

    async def atool(self, argument: str, body: Callable[[], Any]) -> Any:
        return await look(body).acall(what=argument)

    def retrieve(self, query: str, documents: Sequence[str]) -> Any:
        return index_of(*documents).as_retriever().retrieve(query)

    def agent(self, prompt: str, body: Callable[[], Any]) -> Any:
        return asyncio.run(self.aagent(prompt, body))

    async def aagent(self, prompt: str, body: Callable[[], Any]) -> Any:
        llm = self.llm(responses=[("look", {"what": "x"}), "done"])
        agent = FunctionAgent(name="helper", tools=[look(body)], llm=llm, streaming=False)
        return await agent.run(user_msg=prompt)

    def embed(self, texts: Sequence[str]) -> Any:
        return MockEmbedding(embed_dim=8).get_text_embedding_batch(list(texts))

    def query(self, question: str) -> Any:
        return index_of().as_query_engine(llm=self.llm()).query(question)


def look(body: Callable[[], Any]) -> FunctionTool:
    def run(what: str) -> Any:
        return body()

    async def arun(what: str) -> Any:
        return body()

    return FunctionTool.from_defaults(run, name="look", description="Look something up.", async_fn=arun)


@pytest.fixture(autouse=True)
def _close_handlers() -> Iterator[None]:
    """A handler observes until it is collected; whether one is in a cycle of references must not matter here."""
    yield
    while LlamaIndexDriver.made:
        LlamaIndexDriver.made.pop().close()


class TestLlamaIndex(ConformanceSuite):
    driver = LlamaIndexDriver
