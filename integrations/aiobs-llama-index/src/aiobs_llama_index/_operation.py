"""Which methods of LlamaIndex's classes are runs, and how a call of one is read; the reading happens in the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import NoneType
from typing import Any, Final, NamedTuple

from aiobs_core import Kind, Operation, Stage, semconv
from aiobs_core.adapter import first_text, text_size
from aiobs_core.providers import base_url, provider_name, request_model, request_params
from aiobs_llama_index import _outcome as outcome

Arguments = Mapping[str, Any]
Tags = Mapping[str, Any] | None

_FRAMEWORK: Final = ("llama_index.", "workflows.")
_STEP_STAGES: Final = {
    "init_run": Stage.PRE_PROCESS,
    "setup_agent": Stage.PRE_PROCESS,
    "parse_agent_output": Stage.POST_PROCESS,
    "aggregate_tool_results": Stage.POST_PROCESS,
}


class Rule(NamedTuple):
    """How calls of one method of one class are recorded.

    Attributes:
        operation: What all its calls have in common.
        read: Reads one call in the worker: (operation, instance, arguments) → operation.
        outcome: Takes from a result what the worker needs.
        is_plumbing: The call only moves data.
        is_atomic: Other methods of the same object, called inside, are part of it.
        ends_parent: The run around it ends with it.
    """

    operation: Operation
    read: Callable[[Operation, Any, Arguments], Operation] | None = None
    outcome: Callable[[Any], Any] | None = None
    is_plumbing: bool = False
    is_atomic: bool = False
    ends_parent: bool = False

    def asked(self, instance: Any, arguments: Arguments, tags: Tags) -> Any:
        """The operation of one call, or what makes it; takes at once what the application could change meanwhile."""
        if self.read is None and not tags:
            return self.operation
        given = arguments.get("messages")
        if type(given) is list:
            arguments = {**arguments, "messages": tuple(given)}
        return partial(_read, self, instance, arguments, dict(tags) if tags else None)


# --- in the worker ----------------------------------------------------------------------------------------------------


def _read(rule: Rule, instance: Any, arguments: Arguments, tags: Tags) -> Operation:
    operation = rule.operation
    if rule.read is not None:
        operation = rule.read(operation, instance, arguments)
    if tags:
        operation = operation._replace(
            conversation_id=first_text(tags, ("thread_id", "session_id", "conversation_id")),
            request_id=first_text(tags, ("request_id",)),
            metadata=tags,
        )
    return operation


def _model(operation: Operation, instance: Any, arguments: Arguments) -> Operation:
    fields, options = vars(instance), arguments.get("kwargs") or {}
    asked = arguments.get("messages")
    if asked is None:  # a completion, whose arguments LlamaIndex's decorator passes on without names
        prompt = arguments.get("prompt") or options.get("prompt") or arguments.get("args") or ""
        asked = prompt[:1] if isinstance(prompt, tuple) else (prompt,)
    model = _model_name(instance)
    return operation._replace(
        name=model or operation.name,
        model=model,
        endpoint=base_url(fields),
        params=request_params(fields, fields.get("additional_kwargs"), options),
        attributes={
            semconv.INPUT_MESSAGE_COUNT: len(asked),
            semconv.INPUT_SIZE_CHARS: sum(text_size(getattr(each, "blocks", each)) for each in asked),
        },
        content=partial(outcome.messages, asked),
    )


def _embedding(operation: Operation, instance: Any, arguments: Arguments) -> Operation:
    model, texts = _model_name(instance), arguments.get("texts")
    return operation._replace(
        name=model or operation.name,
        model=model,
        endpoint=base_url(vars(instance)),
        attributes={semconv.EMBEDDING_TEXT_COUNT: len(texts) if isinstance(texts, list) else 1},
    )


def _model_name(instance: Any) -> str | None:
    # `metadata` last: some classes ask their server for it.
    model = request_model(vars(instance)) or getattr(getattr(instance, "metadata", None), "model_name", None)
    return model if model != "unknown" else None  # LlamaIndex's default


def _retriever(operation: Operation, instance: Any, _: Arguments) -> Operation:
    store = getattr(instance, "_vector_store", None)
    return operation if store is None else operation._replace(name=type(store).__name__)


def _reranker(operation: Operation, instance: Any, _: Arguments) -> Operation:
    return operation._replace(model=request_model(vars(instance)))


def _tool(operation: Operation, instance: Any, _: Arguments) -> Operation:
    return operation._replace(name=instance.metadata.name or operation.name)


def _agent(operation: Operation, instance: Any, _: Arguments) -> Operation:
    return operation._replace(name=instance.name or operation.name)


def _agent_step(operation: Operation, _: Any, arguments: Arguments) -> Operation:
    event, attributes = arguments.get("ev"), operation.attributes
    call_id = getattr(event, "tool_id", None)
    if isinstance(call_id, str):
        attributes = {**attributes, semconv.GEN_AI_TOOL_CALL_ID: call_id}
    return operation._replace(agent=getattr(event, "current_agent_name", None), attributes=attributes)


# --- rules ------------------------------------------------------------------------------------------------------------


def _rule(
    kind: Kind, *, name: str = "", action: str | None = None, stage: Stage | None = None, **more: Any
) -> Rule:
    attributes = {semconv.GEN_AI_TOOL_TYPE: "function"} if kind is Kind.TOOL else {}
    return Rule(Operation(kind=kind, name=name, action=action, stage=stage, attributes=attributes), **more)


_PRE: Final[dict[str, Any]] = {"stage": Stage.PRE_PROCESS, "is_plumbing": True}
_POST: Final[dict[str, Any]] = {"stage": Stage.POST_PROCESS, "is_plumbing": True}
_MODEL: Final[dict[str, Any]] = {"read": _model, "outcome": outcome.of_model, "is_atomic": True}
_CHAT: Final = _rule(Kind.MODEL, action="chat", **_MODEL)
_COMPLETION: Final = _rule(Kind.MODEL, action="text_completion", **_MODEL)
_EMBEDDING: Final = _rule(Kind.EMBEDDING, read=_embedding, outcome=outcome.vectors, is_atomic=True)
_RETRIEVER: Final = _rule(Kind.RETRIEVER, read=_retriever, outcome=outcome.documents)
_RERANKER: Final = _rule(Kind.RERANKER, read=_reranker, outcome=outcome.documents, is_atomic=True)
_POSTPROCESSOR: Final = _rule(Kind.CHAIN, outcome=outcome.documents, **_PRE)
_TOOL: Final = _rule(Kind.TOOL, read=_tool, outcome=outcome.tool, is_atomic=True)
_WRITER: Final = _rule(Kind.CHAIN, name="response_send", stage=Stage.RESPONSE_SEND, ends_parent=True)
_WORKFLOW: Final = _rule(Kind.WORKFLOW)

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
    "BaseRetriever": {"retrieve": _RETRIEVER},
    "BaseQueryEngine": {"query": _WORKFLOW},
    "BaseChatEngine": {"chat stream_chat": _WORKFLOW},
    "StreamingAgentChatResponse": {"write_response_to_history": _WRITER},
    "BaseSynthesizer": {"synthesize": _rule(Kind.CHAIN, **_POST)},
    "BaseNodePostprocessor": {"_postprocess_nodes _apostprocess_nodes": _POSTPROCESSOR},
    "BaseTool": {"call __call__": _TOOL},
    "BaseWorkflowAgent": {"run": _rule(Kind.AGENT, read=_agent)},
    "Workflow": {"run": _WORKFLOW},
    "IngestionPipeline": {"run": _WORKFLOW},
    "TransformComponent": {"__call__": _rule(Kind.CHAIN, **_PRE)},
    "BaseOutputParser": {"parse": _rule(Kind.PARSER, is_plumbing=True)},
}


@lru_cache(maxsize=4_096)
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
        return _named(_rule(Kind.CHAIN, is_plumbing=True), name, None)
    methods = next((found for base, found in _RULES.items() if base in bases), {})
    for names, rule in methods.items():
        if method in names.split() or method.removeprefix("a") in names.split():
            is_reranker = rule is _POSTPROCESSOR and "rerank" in cls.__name__.lower()
            return _named(_RERANKER if is_reranker else rule, cls.__name__, _provider(cls))
    return None


def _named(rule: Rule, name: str, provider: str | None) -> Rule:
    return rule._replace(
        operation=rule.operation._replace(name=rule.operation.name or name, provider=provider)
    )


def _function(name: str, method: str) -> Rule | None:
    if name.startswith("run_jobs"):  # LlamaIndex's own, around whatever runs concurrently
        return None
    is_agents = name.startswith(("BaseWorkflowAgent.", "AgentWorkflow."))
    operation = Operation(
        kind=Kind.CHAIN,
        name=name,
        stage=_STEP_STAGES.get(method) if is_agents else None,
        attributes={semconv.GRAPH_NODE: method},
    )
    return Rule(operation, read=_agent_step if is_agents else None, is_plumbing=True)


def _provider(cls: type) -> str | None:
    """`llama_index.llms.openai.base` → `openai`: integrations are packages named after the provider."""
    for base in cls.__mro__:
        parts = base.__module__.split(".")
        if parts[0] == "llama_index" and parts[1] in {"llms", "embeddings", "multi_modal_llms"}:
            return None if parts[2] in {"openai_like", "litellm", "langchain"} else provider_name(parts[2])
    return None
