"""One trace across frameworks: LangChain, LlamaIndex and the application's own spans in between, in any order."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot
from langchain.agents import create_agent
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool as langchain_tool
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.tools import FunctionTool
from opentelemetry import trace

from aiobs_core import semconv
from aiobs_langchain import AiObsCallbackHandler as LangChainHandler
from aiobs_llama_index import AiObsCallbackHandler as LlamaIndexHandler
from aiobs_testing import Telemetry

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integrations/aiobs-langchain/tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integrations/aiobs-llama-index/tests"))

from langchain_fakes import FakeChat, tool_calls
from llama_fakes import FakeLLM

QUESTION = "Which house is red?"


@pytest.fixture(scope="module")
def index() -> VectorStoreIndex:
    """Made before anything observes."""
    documents = [Document(text="The house is red.")]
    return VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=8))


@pytest.fixture
def llama_index(index: VectorStoreIndex, telemetry: Telemetry) -> Iterator[LlamaIndexHandler]:
    handler = LlamaIndexHandler()
    yield handler
    handler.close()


class AskLangChain(CustomLLM):
    """A LlamaIndex model that is made of a LangChain chain; the callbacks are not passed on from outside."""

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="chain")

    def _chain(self) -> Any:
        return ChatPromptTemplate.from_messages([("user", "{question}")]) | FakeChat()

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        said = self._chain().invoke({"question": prompt}, {"callbacks": [LangChainHandler()]})
        return CompletionResponse(text=said.content)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **_: Any) -> CompletionResponse:
        said = await self._chain().ainvoke({"question": prompt}, {"callbacks": [LangChainHandler()]})
        return CompletionResponse(text=said.content)

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **_: Any) -> Iterator[CompletionResponse]:
        def chunks() -> Iterator[CompletionResponse]:
            text = ""
            for chunk in self._chain().stream({"question": prompt}, {"callbacks": [LangChainHandler()]}):
                text += chunk.content
                yield CompletionResponse(text=text, delta=chunk.content)

        return chunks()


def _langchain_agent(index: VectorStoreIndex, *, streaming: bool = False) -> Any:
    engine = index.as_query_engine(llm=AskLangChain(), streaming=streaming)

    @langchain_tool
    def look_up(question: str) -> str:
        """Look something up."""
        with trace.get_tracer("application").start_as_current_span("application"):
            answer = engine.query(question)
            return "".join(answer.response_gen) if streaming else str(answer)

    @langchain_tool
    async def alook_up(question: str) -> str:
        """Look something up."""
        return str(await engine.aquery(question))

    tools: Sequence[Any] = [look_up, alook_up]
    name = "alook_up" if asyncio._get_running_loop() is not None else "look_up"
    model = FakeChat(responses=[tool_calls((name, {"question": QUESTION})), "the house"])
    return create_agent(model, tools, name="shop")


_ASKED = {"messages": [("user", QUESTION)]}


def test_langchain_to_llama_index_to_langchain(
    telemetry: Telemetry, llama_index: LlamaIndexHandler, index: VectorStoreIndex
) -> None:
    agent = _langchain_agent(index)

    agent.invoke(_ASKED, {"callbacks": [LangChainHandler()]})

    assert telemetry.tree() == snapshot("""\
invoke_agent shop
  model
    chat fake-1
  tools
    execute_tool look_up
      application
        invoke_workflow RetrieverQueryEngine
          retrieval SimpleVectorStore
            embeddings MockEmbedding
          CompactAndRefine
            text_completion chain
              RunnableSequence
                ChatPromptTemplate
                chat fake-1
  model
    chat fake-1\
""")
    _check_one_trace(telemetry)


async def test_the_same_in_an_event_loop(
    telemetry: Telemetry, llama_index: LlamaIndexHandler, index: VectorStoreIndex
) -> None:
    agent = _langchain_agent(index)

    await agent.ainvoke(_ASKED, {"callbacks": [LangChainHandler()]})

    assert telemetry.tree() == snapshot("""\
invoke_agent shop
  model
    chat fake-1
  tools
    execute_tool alook_up
      invoke_workflow RetrieverQueryEngine
        retrieval SimpleVectorStore
          embeddings MockEmbedding
        CompactAndRefine
          text_completion chain
            RunnableSequence
              ChatPromptTemplate
              chat fake-1
  model
    chat fake-1\
""")
    _check_one_trace(telemetry)


def test_a_lazy_stream_on_the_way_stays_in_its_place(
    telemetry: Telemetry, llama_index: LlamaIndexHandler, index: VectorStoreIndex
) -> None:
    """The query's span has exited when its answer is read, and only then the model is asked."""
    agent = _langchain_agent(index, streaming=True)

    agent.invoke(_ASKED, {"callbacks": [LangChainHandler()]})

    assert telemetry.tree() == snapshot("""\
invoke_agent shop
  model
    chat fake-1
  tools
    execute_tool look_up
      application
        invoke_workflow RetrieverQueryEngine
          retrieval SimpleVectorStore
            embeddings MockEmbedding
          CompactAndRefine
            text_completion chain
            RunnableSequence
              ChatPromptTemplate
              chat fake-1
  model
    chat fake-1\
""")
    _check_one_trace(telemetry)


async def test_llama_index_to_langchain_to_llama_index(
    telemetry: Telemetry, llama_index: LlamaIndexHandler, index: VectorStoreIndex
) -> None:
    async def ask(question: str) -> str:
        """Ask the other agent."""
        said = await _langchain_agent(index).ainvoke(_ASKED, {"callbacks": [LangChainHandler()]})
        return str(said["messages"][-1].content)

    agent = FunctionAgent(
        name="front",
        tools=[FunctionTool.from_defaults(async_fn=ask)],
        llm=FakeLLM(responses=[("ask", {"question": QUESTION}), "done"]),
        streaming=False,
    )
    await agent.run(user_msg=QUESTION)

    assert telemetry.tree() == snapshot("""\
invoke_agent front
  BaseWorkflowAgent.init_run
  BaseWorkflowAgent.setup_agent
  BaseWorkflowAgent.run_agent_step
    chat fake-1
  BaseWorkflowAgent.parse_agent_output
  BaseWorkflowAgent.call_tool
    execute_tool ask
      invoke_agent shop
        model
          chat fake-1
        tools
          execute_tool alook_up
            invoke_workflow RetrieverQueryEngine
              retrieval SimpleVectorStore
                embeddings MockEmbedding
              CompactAndRefine
                text_completion chain
                  RunnableSequence
                    ChatPromptTemplate
                    chat fake-1
        model
          chat fake-1
  BaseWorkflowAgent.aggregate_tool_results
  BaseWorkflowAgent.setup_agent
  BaseWorkflowAgent.run_agent_step
    chat fake-1
  BaseWorkflowAgent.parse_agent_output\
""")
    _check_one_trace(telemetry)


async def test_requests_at_the_same_time_stay_apart(
    telemetry: Telemetry, llama_index: LlamaIndexHandler, index: VectorStoreIndex
) -> None:
    agents = [_langchain_agent(index) for _ in range(4)]

    await asyncio.gather(*(agent.ainvoke(_ASKED, {"callbacks": [LangChainHandler()]}) for agent in agents))

    names: dict[int, list[str]] = {}
    for span in telemetry.spans():
        names.setdefault(span["trace"], []).append(span["name"])
    assert len(names) == len(agents)
    assert len({tuple(sorted(each)) for each in names.values()}) == 1


def _check_one_trace(telemetry: Telemetry) -> None:
    spans = telemetry.spans()
    assert len({span["trace"] for span in spans}) == 1
    assert sum(span["parent"] is None for span in spans) == 1
    frameworks = {span["attributes"].get(semconv.FRAMEWORK) for span in spans}
    assert {"langchain", "llama_index"} <= frameworks
