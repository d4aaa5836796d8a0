"""Which methods of which of LlamaIndex's classes are runs, and of which kind."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import NoneType
from typing import Any, Final

from aiobs_core import Kind, Operation, Stage, semconv
from aiobs_core.adapter import found_documents, found_vectors
from aiobs_core.providers import provider_name
from aiobs_llama_index import _operation as operation
from aiobs_llama_index import _outcome as outcome
from aiobs_llama_index._operation import Rule

_FRAMEWORK: Final = ("llama_index.", "workflows.")
_STEP_STAGES: Final = {
    "init_run": Stage.PRE_PROCESS,
    "setup_agent": Stage.PRE_PROCESS,
    "parse_agent_output": Stage.POST_PROCESS,
    "aggregate_tool_results": Stage.POST_PROCESS,
}


def _rule(
    kind: Kind, *, name: str = "", action: str | None = None, stage: Stage | None = None, **more: Any
) -> Rule:
    attributes = {semconv.GEN_AI_TOOL_TYPE: "function"} if kind is Kind.TOOL else {}
    return Rule(Operation(kind=kind, name=name, action=action, stage=stage, attributes=attributes), **more)


_MODEL: Final[dict[str, Any]] = {
    "read": operation.model,
    "outcome": outcome.of_model,
    "goes_on": outcome.model_stream,
    "is_atomic": True,
}
_ANSWER: Final[dict[str, Any]] = {"goes_on": outcome.answer_stream}
_PRE: Final[dict[str, Any]] = {"stage": Stage.PRE_PROCESS, "is_plumbing": True}
_POST: Final[dict[str, Any]] = {"stage": Stage.POST_PROCESS, "is_plumbing": True}
_CHAT: Final = _rule(Kind.MODEL, action="chat", **_MODEL)
_COMPLETION: Final = _rule(Kind.MODEL, action="text_completion", **_MODEL)
_EMBEDDING: Final = _rule(Kind.EMBEDDING, read=operation.embedding, outcome=found_vectors, is_atomic=True)
_RERANKER: Final = _rule(Kind.RERANKER, read=operation.reranker, outcome=found_documents, is_atomic=True)
_POSTPROCESSOR: Final = _rule(Kind.CHAIN, outcome=found_documents, **_PRE)
_WORKFLOW: Final = _rule(Kind.WORKFLOW, **_ANSWER)
_MODEL_METHODS: Final = {
    "chat stream_chat": _CHAT,
    "complete stream_complete": _COMPLETION,
    "structured_predict stream_structured_predict": _rule(Kind.CHAIN, **_POST),
}
_EMBEDDING_METHODS: Final = {
    "get_text_embedding get_query_embedding get_text_embeddings get_text_embedding_batch": _EMBEDDING
}
# Base class → methods, and their async twins with an "a" before the name, → rule; the first base class counts.
_RULES: Final[Mapping[str, Mapping[str, Rule]]] = {
    "StructuredLLM": {
        "chat stream_chat complete stream_complete": _rule(Kind.CHAIN, **_POST)
    },  # asks another model
    "BaseLLM": _MODEL_METHODS,
    "MultiModalLLM": _MODEL_METHODS,
    "BaseEmbedding": _EMBEDDING_METHODS,
    "BaseSparseEmbedding": _EMBEDDING_METHODS,
    "BaseRetriever": {"retrieve": _rule(Kind.RETRIEVER, read=operation.retriever, outcome=found_documents)},
    "BaseQueryEngine": {"query": _WORKFLOW},
    "BaseChatEngine": {"chat stream_chat": _WORKFLOW},
    "StreamingAgentChatResponse": {
        "write_response_to_history": _rule(
            Kind.CHAIN, name="response_send", stage=Stage.RESPONSE_SEND, ends_parent=True
        )
    },
    "BaseSynthesizer": {"synthesize": _rule(Kind.CHAIN, **_POST, **_ANSWER)},
    "BaseNodePostprocessor": {"_postprocess_nodes _apostprocess_nodes": _POSTPROCESSOR},
    "BaseTool": {
        "call __call__": _rule(Kind.TOOL, read=operation.tool, outcome=outcome.of_tool, is_atomic=True)
    },
    "BaseWorkflowAgent": {"run": _rule(Kind.AGENT, read=operation.agent)},
    "Workflow": {"run": _WORKFLOW},
    "IngestionPipeline": {"run": _WORKFLOW},
    "TransformComponent": {"__call__": _rule(Kind.CHAIN, **_PRE)},
    "BaseOutputParser": {"parse": _rule(Kind.PARSER, is_plumbing=True)},
}


@lru_cache(maxsize=1_024)  # which bounds how many classes it keeps alive
def rule_of(cls: type, name: str) -> Rule | None:
    """How calls of a method are recorded; None: not at all, what is inside hangs under the nearest recorded run.

    Args:
        cls: Class of the instance; `NoneType` for functions and for steps of workflows.
        name: `Class.method`, or the qualified name of the function.
    """
    method = name.rpartition(".")[2]
    if cls is NoneType:
        return _function(name, method)
    bases = {base.__name__ for base in cls.__mro__ if base.__module__.startswith(_FRAMEWORK)}
    if not bases:  # a method that the application decorated itself
        return _named(_rule(Kind.CHAIN, is_plumbing=True), name)
    for names, rule in next((found for base, found in _RULES.items() if base in bases), {}).items():
        if not {method, method.removeprefix("a")}.isdisjoint(names.split()):
            is_reranker = rule is _POSTPROCESSOR and "rerank" in cls.__name__.lower()
            return _named(_RERANKER if is_reranker else rule, cls.__name__, _provider(cls))
    return None


def _named(rule: Rule, name: str, provider: str | None = None) -> Rule:
    asked = rule.operation._replace(name=rule.operation.name or name, provider=provider)
    return rule._replace(operation=asked)


def _function(name: str, method: str) -> Rule | None:
    if name.startswith("run_jobs"):  # LlamaIndex's own, around whatever runs concurrently
        return None
    if name.startswith(
        ("BaseWorkflowAgent.", "AgentWorkflow.")
    ):  # LlamaIndex's own steps of every agent: no nodes of the application's
        asked = Operation(kind=Kind.CHAIN, name=name, stage=_STEP_STAGES.get(method))
        return Rule(asked, read=operation.agent_step, is_plumbing=True)
    asked = Operation(kind=Kind.CHAIN, name=name, attributes={semconv.GRAPH_NODE: method})
    return Rule(asked, is_plumbing=True)


def _provider(cls: type) -> str | None:
    """`llama_index.llms.openai.base` → `openai`: integrations are packages named after the provider."""
    for base in cls.__mro__:
        parts = base.__module__.split(".")
        if parts[0] == "llama_index" and parts[1] in {"llms", "embeddings", "multi_modal_llms"}:
            return None if parts[2] in {"openai_like", "litellm", "langchain"} else provider_name(parts[2])
    return None
