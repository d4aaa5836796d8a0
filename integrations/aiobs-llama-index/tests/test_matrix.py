"""Everything LlamaIndex does gives one trace, whichever way and whenever aiobs was switched on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot
from llama_index.core import Document, Settings
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.postprocessor import LLMRerank, SimilarityPostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.schema import NodeWithScore, TextNode
from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parent))

from llama_fakes import FakeLLM, Nap, TextLLM, ask, index_of, look_tool
from workflows.errors import WorkflowCancelledByUser, WorkflowTimeoutError

from aiobs_core import suppressed
from aiobs_llama_index import AiObsCallbackHandler, LlamaIndexInstrumentor


class Answer(BaseModel):
    number: int


class Parts:
    """What the scenarios use; made before or after aiobs is switched on."""

    def __init__(self) -> None:
        with suppressed():
            self.llm = FakeLLM()
            self.text_llm = TextLLM()
            self.embedding = MockEmbedding(embed_dim=8)
            self.index = index_of()
            self.nodes = [NodeWithScore(node=TextNode(text="The house is red."), score=0.5)]
            self.caller = FakeLLM(responses=[("look", {"what": "x"}), "done"])
            self.streamer = FakeLLM(responses=["done with that"])


def run(workflow: Any, **inputs: Any) -> Any:
    async def main() -> Any:
        return await workflow.run(**inputs)

    return asyncio.run(main())


def consumed(stream: Any) -> list[Any]:
    return list(stream)


async def aconsumed(stream: Any) -> list[Any]:
    return [chunk async for chunk in stream]


def astream(parts: Parts) -> Any:
    async def main() -> Any:
        return await aconsumed(await parts.llm.astream_chat(ask()))

    return asyncio.run(main())


def streaming_query(parts: Parts) -> Any:
    return consumed(parts.index.as_query_engine(llm=parts.llm, streaming=True).query("hello").response_gen)


def astreaming_query(parts: Parts) -> Any:
    async def main() -> Any:
        engine = parts.index.as_query_engine(llm=parts.llm, streaming=True)
        return await aconsumed((await engine.aquery("hello")).async_response_gen())

    return asyncio.run(main())


def chat_engine(parts: Parts) -> Any:
    return parts.index.as_chat_engine(chat_mode="context", llm=parts.llm)


def astreaming_chat_engine(parts: Parts) -> Any:
    async def main() -> Any:
        answer = await chat_engine(parts).astream_chat("hello")
        return await aconsumed(answer.async_response_gen())

    return asyncio.run(main())


def function_agent(llm: Any, **more: Any) -> Any:
    return FunctionAgent(name="helper", description="helps", tools=[look_tool()], llm=llm, **more)


def react_agent(parts: Parts) -> Any:
    said = [
        'Thought: I need to look.\nAction: look\nAction Input: {"what": "x"}',
        "Thought: I can answer without using any more tools. I'll use the user's language to answer\nAnswer: done",
    ]
    with suppressed():
        llm = TextLLM(responses=said)
    return run(ReActAgent(name="helper", tools=[look_tool()], llm=llm, streaming=False), user_msg="hello")


def two_agents(_: Parts) -> Any:
    with suppressed():
        first = FakeLLM(responses=[("handoff", {"to_agent": "second", "reason": "it knows"})])
        second = FakeLLM(responses=[("look", {"what": "x"}), "done"])
    agents = [
        FunctionAgent(
            name="first", description="asks", tools=[], llm=first, can_handoff_to=["second"], streaming=False
        ),
        FunctionAgent(name="second", description="knows", tools=[look_tool()], llm=second, streaming=False),
    ]
    return run(AgentWorkflow(agents=agents, root_agent="first"), user_msg="hello")


def cancelled_workflow(_: Parts) -> Any:
    async def main() -> Any:
        handler = Nap(timeout=None).run(rest_s=5)
        await asyncio.sleep(0.05)
        await handler.cancel_run()
        with pytest.raises(WorkflowCancelledByUser):
            await handler

    asyncio.run(main())


def workflow_timeout(_: Parts) -> Any:
    with pytest.raises(WorkflowTimeoutError):
        run(Nap(timeout=0.05), rest_s=5)


def ingestion(parts: Parts) -> Any:
    return IngestionPipeline(transformations=[SentenceSplitter(), parts.embedding]).run(
        documents=[Document(text="a b")]
    )


SCENARIOS: dict[str, tuple[Callable[[Parts], Any], str]] = {
    "complete": (lambda parts: parts.llm.complete("hello"), snapshot("text_completion fake-1")),
    "acomplete": (
        lambda parts: asyncio.run(parts.llm.acomplete("hello")),
        snapshot("text_completion fake-1"),
    ),
    "chat": (lambda parts: parts.llm.chat(ask()), snapshot("chat fake-1")),
    "achat": (lambda parts: asyncio.run(parts.llm.achat(ask())), snapshot("chat fake-1")),
    "achat made of chat made of complete": (
        lambda parts: asyncio.run(parts.text_llm.achat(ask())),
        snapshot("chat fake-1"),
    ),
    "stream": (lambda parts: consumed(parts.llm.stream_chat(ask())), snapshot("chat fake-1")),
    "stream made of stream": (
        lambda parts: consumed(parts.text_llm.stream_chat(ask())),
        snapshot("chat fake-1"),
    ),
    "astream": (astream, snapshot("chat fake-1")),
    "predict": (lambda parts: parts.llm.predict(PromptTemplate("{a}"), a="hello"), snapshot("chat fake-1")),
    "structured": (
        lambda _: FakeLLM(responses=[("Answer", {"number": 1})]).structured_predict(
            Answer, PromptTemplate("{a}"), a=""
        ),
        snapshot("""\
invoke_workflow FakeLLM
  chat fake-1
  execute_tool Answer\
"""),
    ),
    "structured llm": (
        lambda _: FakeLLM(responses=[("Answer", {"number": 1})]).as_structured_llm(Answer).chat(ask()),
        snapshot("""\
invoke_workflow StructuredLLM
  FakeLLM
    chat fake-1
    execute_tool Answer\
"""),
    ),
    "embed": (
        lambda parts: parts.embedding.get_text_embedding_batch(["a", "b", "c"]),
        snapshot("embeddings MockEmbedding"),
    ),
    "aembed": (
        lambda parts: asyncio.run(parts.embedding.aget_query_embedding("a")),
        snapshot("embeddings MockEmbedding"),
    ),
    "retrieve": (
        lambda parts: parts.index.as_retriever().retrieve("hello"),
        snapshot("""\
retrieval SimpleVectorStore
  embeddings MockEmbedding\
"""),
    ),
    "rerank": (
        lambda parts: LLMRerank(llm=FakeLLM(responses=["Doc: 1, Relevance: 5"])).postprocess_nodes(
            parts.nodes, query_str="hello"
        ),
        snapshot("""\
LLMRerank
  chat fake-1\
"""),
    ),
    "query": (
        lambda parts: parts.index.as_query_engine(llm=parts.llm).query("hello"),
        snapshot("""\
invoke_workflow RetrieverQueryEngine
  retrieval SimpleVectorStore
    embeddings MockEmbedding
  CompactAndRefine
    chat fake-1\
"""),
    ),
    "query with postprocessor": (
        lambda parts: parts.index.as_query_engine(
            llm=parts.llm, node_postprocessors=[SimilarityPostprocessor(similarity_cutoff=0.0)]
        ).query("hello"),
        snapshot("""\
invoke_workflow RetrieverQueryEngine
  retrieval SimpleVectorStore
    embeddings MockEmbedding
  SimilarityPostprocessor
  CompactAndRefine
    chat fake-1\
"""),
    ),
    "aquery": (
        lambda parts: asyncio.run(parts.index.as_query_engine(llm=parts.llm).aquery("hello")),
        snapshot("""\
invoke_workflow RetrieverQueryEngine
  retrieval SimpleVectorStore
    embeddings MockEmbedding
  CompactAndRefine
    chat fake-1\
"""),
    ),
    "streaming query": (
        streaming_query,
        snapshot("""\
invoke_workflow RetrieverQueryEngine
  retrieval SimpleVectorStore
    embeddings MockEmbedding
  CompactAndRefine
    chat fake-1\
"""),
    ),
    "async streaming query": (
        astreaming_query,
        snapshot("""\
invoke_workflow RetrieverQueryEngine
  retrieval SimpleVectorStore
    embeddings MockEmbedding
  CompactAndRefine
    chat fake-1\
"""),
    ),
    "chat engine": (
        lambda parts: chat_engine(parts).chat("hello"),
        snapshot("""\
invoke_workflow ContextChatEngine
  retrieval SimpleVectorStore
    embeddings MockEmbedding
  CompactAndRefine
    chat fake-1\
"""),
    ),
    "achat engine": (
        lambda parts: asyncio.run(chat_engine(parts).achat("hello")),
        snapshot("""\
invoke_workflow ContextChatEngine
  retrieval SimpleVectorStore
    embeddings MockEmbedding
  CompactAndRefine
    chat fake-1\
"""),
    ),
    "streaming chat engine": (
        lambda parts: consumed(chat_engine(parts).stream_chat("hello").response_gen),
        snapshot("""\
invoke_workflow ContextChatEngine
  retrieval SimpleVectorStore
    embeddings MockEmbedding
  CompactAndRefine
    chat fake-1
  response_send\
"""),
    ),
    "async streaming chat engine": (
        astreaming_chat_engine,
        snapshot("""\
invoke_workflow ContextChatEngine
  retrieval SimpleVectorStore
    embeddings MockEmbedding
  CompactAndRefine
    chat fake-1
  response_send\
"""),
    ),
    "FunctionAgent": (
        lambda parts: run(function_agent(parts.caller, streaming=False), user_msg="hello"),
        snapshot("""\
invoke_agent helper
  BaseWorkflowAgent.init_run
  BaseWorkflowAgent.setup_agent
  BaseWorkflowAgent.run_agent_step
    chat fake-1
  BaseWorkflowAgent.parse_agent_output
  BaseWorkflowAgent.call_tool
    execute_tool look
  BaseWorkflowAgent.aggregate_tool_results
  BaseWorkflowAgent.setup_agent
  BaseWorkflowAgent.run_agent_step
    chat fake-1
  BaseWorkflowAgent.parse_agent_output\
"""),
    ),
    "FunctionAgent, streaming": (
        lambda parts: run(function_agent(parts.streamer), user_msg="hello"),
        snapshot("""\
invoke_agent helper
  BaseWorkflowAgent.init_run
  BaseWorkflowAgent.setup_agent
  BaseWorkflowAgent.run_agent_step
    chat fake-1
  BaseWorkflowAgent.parse_agent_output\
"""),
    ),
    "ReActAgent": (
        react_agent,
        snapshot("""\
invoke_agent helper
  BaseWorkflowAgent.init_run
  BaseWorkflowAgent.setup_agent
  BaseWorkflowAgent.run_agent_step
    chat fake-1
    ReActOutputParser
  BaseWorkflowAgent.parse_agent_output
  BaseWorkflowAgent.call_tool
    execute_tool look
  BaseWorkflowAgent.aggregate_tool_results
  BaseWorkflowAgent.setup_agent
  BaseWorkflowAgent.run_agent_step
    chat fake-1
    ReActOutputParser
  BaseWorkflowAgent.parse_agent_output\
"""),
    ),
    "AgentWorkflow": (
        two_agents,
        snapshot("""\
invoke_workflow AgentWorkflow
  AgentWorkflow.init_run
  AgentWorkflow.setup_agent
  AgentWorkflow.run_agent_step
    chat fake-1
  AgentWorkflow.parse_agent_output
  AgentWorkflow.call_tool
    execute_tool handoff
  AgentWorkflow.aggregate_tool_results
  AgentWorkflow.setup_agent
  AgentWorkflow.run_agent_step
    chat fake-1
  AgentWorkflow.parse_agent_output
  AgentWorkflow.call_tool
    execute_tool look
  AgentWorkflow.aggregate_tool_results
  AgentWorkflow.setup_agent
  AgentWorkflow.run_agent_step
    chat fake-1
  AgentWorkflow.parse_agent_output\
"""),
    ),
    "workflow": (
        lambda _: run(Nap()),
        snapshot("""\
invoke_workflow Nap
  Nap.rest\
"""),
    ),
    "workflow cancel": (
        cancelled_workflow,
        snapshot("""\
invoke_workflow Nap [cancelled]
  Nap.rest [cancelled]\
"""),
    ),
    "workflow timeout": (
        workflow_timeout,
        snapshot("""\
invoke_workflow Nap [error]
  Nap.rest [cancelled]\
"""),
    ),
    "tool": (lambda _: look_tool()(what="x"), snapshot("execute_tool look")),
    "ingestion": (
        ingestion,
        snapshot("""\
invoke_workflow IngestionPipeline
  SentenceSplitter
  embeddings MockEmbedding\
"""),
    ),
}


@pytest.fixture(params=["before", "after", "on another callback manager", "instrumentor"])
def parts(request: pytest.FixtureRequest, telemetry: Any) -> Iterator[Parts]:
    """The parts, with aiobs switched on in one of four ways."""
    way = request.param
    made = Parts() if way == "after" else None
    if way == "instrumentor":
        LlamaIndexInstrumentor().instrument()
        yield Parts()
        LlamaIndexInstrumentor().uninstrument()
        return
    handler = AiObsCallbackHandler()
    manager = CallbackManager([handler])
    if way == "on another callback manager":
        made = Parts()
        made.elsewhere = MockEmbedding(embed_dim=2, callback_manager=manager)
    else:
        Settings.callback_manager = manager
    yield made or Parts()
    handler.close()


@pytest.mark.parametrize("name", SCENARIOS)
def test_one_trace_with_the_expected_tree(name: str, parts: Parts, telemetry: Any) -> None:
    do, tree = SCENARIOS[name]
    do(parts)
    telemetry.wait_until_closed()
    assert telemetry.tree() == tree
    assert {span["trace"] for span in telemetry.spans()} == {1}
