"""The conformance suite, driven through LlamaIndex."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from llama_fakes import FakeLLM, ask, index_of
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import FunctionTool

from aiobs_llama_index import AiObsCallbackHandler, LlamaIndexInstrumentor
from aiobs_testing import ConformanceSuite, Driver


class LlamaIndexDriver(Driver):
    """Without `batch`, which LlamaIndex does not have."""

    scope = "aiobs.llama_index"

    def __init__(self) -> None:
        super().__init__()
        self.index = index_of()  # before any handler is there

    def make_handler(self) -> AiObsCallbackHandler:
        return AiObsCallbackHandler()

    def make_broken_handler(self) -> Any:
        return BrokenHandler()

    def let_go(self, handler: Any) -> None:
        handler.close()

    def install(self) -> None:
        LlamaIndexInstrumentor().instrument()

    def uninstall(self) -> None:
        LlamaIndexInstrumentor().uninstrument()

    def traces_left(self) -> list[str]:
        root = get_dispatcher()
        handlers = [type(each) for each in (*root.span_handlers, *root.event_handlers)]
        return [each.__name__ for each in handlers if each.__module__.startswith("aiobs")]

    def llm(self, **given: Any) -> FakeLLM:
        return FakeLLM(callback_manager=CallbackManager(self.handlers), **given)

    def chat(self, prompt: str) -> Any:
        return self.llm(responses=[prompt]).chat(ask(prompt))

    async def achat(self, prompt: str) -> Any:
        return await self.llm(responses=[prompt]).achat(ask(prompt))

    def system_chat(self, system: str, prompt: str) -> Any:
        return self.llm().chat([ChatMessage(role="system", content=system), *ask(prompt)])

    def failing_chat(self, error: BaseException) -> Any:
        return self.llm(fail=error).chat(ask())

    def stream(self, prompt: str) -> Iterator[Any]:
        return self.llm(responses=[f"{prompt} to you"]).stream_chat(ask(prompt))

    def failing_stream(self, error: BaseException) -> Iterator[Any]:
        return self.llm(fail=error, fail_after_chunks=1).stream_chat(ask())

    async def astream(self, prompt: str) -> AsyncIterator[Any]:
        async for chunk in await self.llm().astream_chat(ask(prompt)):
            yield chunk

    async def slow_achat(self, prompt: str) -> Any:
        return await self.llm(wait_s=30).achat(ask(prompt))

    def tool(self, argument: str, body: Callable[[], Any]) -> Any:
        return look(body).call(what=argument)

    async def atool(self, argument: str, body: Callable[[], Any]) -> Any:
        return await look(body).acall(what=argument)

    def agent(self, prompt: str, body: Callable[[], Any]) -> Any:
        return asyncio.run(self.aagent(prompt, body))

    async def aagent(self, prompt: str, body: Callable[[], Any]) -> Any:
        return await self.helper([("look", {"what": "x"})], lambda _: body()).run(user_msg=prompt)

    def parallel_tools(self, body: Callable[[str], Any]) -> Any:
        calls = [("look", {"what": "a"}), ("look", {"what": "b"})]

        async def run() -> Any:
            return await self.helper(calls, body).run(user_msg="both")

        return asyncio.run(run())

    def helper(self, calls: list[Any], body: Callable[[str], Any]) -> FunctionAgent:
        return FunctionAgent(
            name="helper", tools=[look(body)], llm=self.llm(responses=[calls, "done"]), streaming=False
        )

    def embed(self, texts: Sequence[str]) -> Any:
        return MockEmbedding(embed_dim=8).get_text_embedding_batch(list(texts))

    def retrieve(self, query: str, documents: Sequence[str]) -> Any:
        return index_of(*documents).as_retriever().retrieve(query)

    def rerank(self, query: str, documents: Sequence[str]) -> Any:
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in documents]
        return KeepTwoRerank().postprocess_nodes(nodes, query_str=query)

    def query(self, question: str) -> Any:
        return self.index.as_query_engine(llm=self.llm()).query(question)

    def stream_query(self, question: str) -> Iterator[Any]:
        llm = self.llm(responses=[f"{question} to you"])
        return self.index.as_query_engine(llm=llm, streaming=True).query(question).response_gen  # type: ignore[union-attr]


class KeepTwoRerank(BaseNodePostprocessor):
    def _postprocess_nodes(self, nodes: list[Any], query_bundle: Any = None) -> list[Any]:
        return nodes[:2]


class BrokenHandler(AiObsCallbackHandler):
    """Stands for whatever else listens to the dispatcher: it raises whatever it is told, and LlamaIndex swallows that.

    A legacy handler that raises breaks the application's call, whoever else is there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.root, self.spans, self.events = get_dispatcher(), BrokenSpans(), BrokenEvents()
        self.root.add_span_handler(self.spans)
        self.root.add_event_handler(self.events)

    def close(self) -> None:
        super().close()
        self.root.span_handlers = [each for each in self.root.span_handlers if each is not self.spans]
        self.root.event_handlers = [each for each in self.root.event_handlers if each is not self.events]


class BrokenSpans(BaseSpanHandler[Any]):
    def new_span(self, *_: Any, **__: Any) -> None:
        raise RuntimeError

    span_enter = span_exit = span_drop = prepare_to_exit_span = prepare_to_drop_span = new_span


class BrokenEvents(BaseEventHandler):
    def handle(self, event: Any, **_: Any) -> None:
        raise RuntimeError


def look(body: Callable[..., Any]) -> FunctionTool:
    given = inspect.signature(body).parameters

    def run(what: str) -> Any:
        return body(what) if given else body()

    async def arun(what: str) -> Any:
        return await asyncio.sleep(0, run(what))

    return FunctionTool.from_defaults(run, name="look", description="Look something up.", async_fn=arun)


class TestLlamaIndex(ConformanceSuite):
    driver = LlamaIndexDriver
