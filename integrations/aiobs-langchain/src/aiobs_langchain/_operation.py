"""Pure functions: the arguments of LangChain's start events → `Operation`. They run in the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiobs_core import Kind, Operation, Stage, semconv

Serialized = Mapping[str, Any] | None
Tags = Sequence[str] | None
Metadata = Mapping[str, Any] | None

# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_AGENT: Final = Kind.AGENT
_CHAIN: Final = Kind.CHAIN
_MODEL: Final = Kind.MODEL
_PARSER: Final = Kind.PARSER
_PROMPT: Final = Kind.PROMPT
_RETRIEVER: Final = Kind.RETRIEVER
_TOOL: Final = Kind.TOOL
_WORKFLOW: Final = Kind.WORKFLOW
_NODE_TAG: Final = "graph:step:"
_STAGE_TAG: Final = "aiobs:stage:"
_RETRY_TAG: Final = "retry:attempt:"  # of with_retry(); the first attempt has none
_STAGE_KEY: Final = "aiobs_stage"
_STAGES: Final = {stage.value: stage for stage in Stage}
_NODE_STAGES: Final = {
    "before_agent": Stage.PRE_PROCESS,
    "before_model": Stage.PRE_PROCESS,
    "after_model": Stage.POST_PROCESS,
    "after_agent": Stage.POST_PROCESS,
}
_CONVERSATION_KEYS: Final = ("thread_id", "session_id", "conversation_id")
_AGENT_INTEGRATION: Final = "langchain_create_agent"
_PROVIDERS: Final = {  # LangChain's names → OpenTelemetry's; any other is taken as it is
    "amazon_bedrock": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "google_genai": "gcp.gen_ai",
    "google_vertexai": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "mistralai": "mistral_ai",
    "mistral": "mistral_ai",
    "ibm": "ibm.watsonx.ai",
    "xai": "x_ai",
}
_BASE_URL_KEYS: Final = (
    "openai_api_base",
    "base_url",
    "azure_endpoint",
    "endpoint_url",
    "anthropic_api_url",
    "api_base",
)
_PARAMS: Final = {  # LangChain's and the providers' names → GenAI's
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_tokens_to_sample": "max_tokens",
    "top_p": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "n": "n",
    "reasoning_effort": "reasoning_effort",
}


def chat_model(  # noqa: PLR0917 (the event's own arguments)
    serialized: Serialized,
    messages: Sequence[Sequence[Any]],
    tags: Tags,
    metadata: Metadata,
    invocation: Mapping[str, Any] | None,
    name: str | None,
) -> Operation:
    """`on_chat_model_start`."""
    count = size = 0
    for prompt in messages or ():
        count += len(prompt)
        for message in prompt:
            size += text_size(getattr(message, "content", None))
    counts = {semconv.INPUT_MESSAGE_COUNT: count, semconv.INPUT_SIZE_CHARS: size}
    return _model("chat", serialized, tags, metadata, invocation or {}, name, counts)


def text_model(  # noqa: PLR0917 (the event's own arguments)
    serialized: Serialized,
    prompts: Sequence[str],
    tags: Tags,
    metadata: Metadata,
    invocation: Mapping[str, Any] | None,
    name: str | None,
) -> Operation:
    """`on_llm_start`."""
    counts = {
        semconv.INPUT_MESSAGE_COUNT: len(prompts or ()),
        semconv.INPUT_SIZE_CHARS: sum(text_size(prompt) for prompt in prompts or ()),
    }
    return _model("text_completion", serialized, tags, metadata, invocation or {}, name, counts)


def _model(  # noqa: PLR0917 (the event's own arguments)
    action: str,
    serialized: Serialized,
    tags: Tags,
    metadata: Metadata,
    invocation: Mapping[str, Any],
    run_name: str | None,
    counts: Mapping[str, int],
) -> Operation:
    metadata = metadata or {}
    agent, conversation_id, request_id = _identity(metadata)
    _, stage, attributes = _tagged(tags, metadata)
    attributes.update(counts)
    params: dict[str, object] = {}
    if "ls_temperature" in metadata:
        params["temperature"] = metadata["ls_temperature"]
    if "ls_max_tokens" in metadata:
        params["max_tokens"] = metadata["ls_max_tokens"]
    for name, value in invocation.items():
        known = _PARAMS.get(name)
        if known is not None and value is not None:
            params[known] = value
    model = first_text(metadata, ("ls_model_name",)) or first_text(
        invocation, ("model", "model_name", "model_id")
    )
    provider = first_text(metadata, ("ls_provider",))
    return Operation(
        kind=_MODEL,
        name=model or first_text(invocation, ("_type",)) or _name(serialized, run_name, "model"),
        action=action,
        stage=stage,
        provider=_PROVIDERS.get(provider, provider) if provider is not None else None,
        model=model,
        endpoint=_endpoint(serialized),
        params=params,
        agent=agent,
        conversation_id=conversation_id,
        request_id=request_id,
        metadata=metadata,
        attributes=attributes,
    )


def chain(  # noqa: PLR0917 (bound with `partial` on the hot path)
    serialized: Serialized,
    name: str | None,
    run_type: str | None,
    tags: Tags,
    metadata: Metadata,
    resumes: bool,
) -> Operation:
    """`on_chain_start`: chains, prompts, parsers, graphs, their nodes, and agents."""
    metadata = metadata or {}
    agent, conversation_id, request_id = _identity(metadata)
    name = name or _name(serialized, None, "chain")
    integration = metadata.get("ls_integration")
    is_node, stage, attributes = _tagged(tags, metadata)
    parent_kind: Kind | None = None
    attempt_of: str | None = None
    kind = _CHAIN
    if run_type == "prompt":
        kind = _PROMPT
    elif run_type == "parser":
        kind = _PARSER
    elif is_node:
        node, step = metadata.get("langgraph_node"), metadata.get("langgraph_step")
        attributes[semconv.GRAPH_NODE] = node if isinstance(node, str) else name
        if isinstance(step, int):
            attributes[semconv.GRAPH_STEP] = step
        # LangChain before 1.1 does not say what built the graph; only create_agent and look-alikes have a node "model".
        is_agent = integration == _AGENT_INTEGRATION or (integration is None and name == "model")
        parent_kind = _AGENT if is_agent else _WORKFLOW
        attempt_of = first_text(metadata, ("langgraph_checkpoint_ns",))
        stage = stage or _NODE_STAGES.get(name.rpartition(".")[2])
    elif name == agent or (integration == _AGENT_INTEGRATION and "langgraph_node" not in metadata):
        kind = _AGENT
    elif integration == "langgraph" and "langgraph_node" not in metadata:
        kind = _WORKFLOW
    return Operation(
        kind=kind,
        name=name,
        stage=stage,
        agent=agent,
        conversation_id=conversation_id,
        request_id=request_id,
        metadata=metadata,
        attributes=attributes,
        parent_kind=parent_kind,
        resumes=resumes,
        attempt_of=attempt_of,
    )


def tool(
    serialized: Serialized, tags: Tags, metadata: Metadata, name: str | None, tool_call_id: str | None
) -> Operation:
    """`on_tool_start`."""
    metadata = metadata or {}
    agent, conversation_id, request_id = _identity(metadata)
    _, stage, attributes = _tagged(tags, metadata)
    attributes[semconv.GEN_AI_TOOL_TYPE] = "function"
    if isinstance(tool_call_id, str):
        attributes[semconv.GEN_AI_TOOL_CALL_ID] = tool_call_id
    return Operation(
        kind=_TOOL,
        name=_name(serialized, name, "tool"),
        stage=stage,
        agent=agent,
        conversation_id=conversation_id,
        request_id=request_id,
        metadata=metadata,
        attributes=attributes,
    )


def retriever(serialized: Serialized, tags: Tags, metadata: Metadata, name: str | None) -> Operation:
    """`on_retriever_start`."""
    metadata = metadata or {}
    agent, conversation_id, request_id = _identity(metadata)
    _, stage, attributes = _tagged(tags, metadata)
    source = first_text(metadata, ("ls_vector_store_provider", "ls_retriever_name"))
    return Operation(
        kind=_RETRIEVER,
        name=source or _name(serialized, name, "retriever"),
        stage=stage,
        agent=agent,
        conversation_id=conversation_id,
        request_id=request_id,
        metadata=metadata,
        attributes=attributes,
    )


def text_size(content: object) -> int:
    """Characters of text in a message's content: a string, or a list of strings and text blocks."""
    if isinstance(content, str):
        return len(content)
    if not isinstance(content, list):
        return 0
    size = 0
    for block in content:
        text = block.get("text") if isinstance(block, dict) else block
        if isinstance(text, str):
            size += len(text)
    return size


def _name(serialized: Serialized, name: str | None, fallback: str) -> str:
    if isinstance(name, str) and name:
        return name
    if isinstance(serialized, dict):
        given = serialized.get("name")
        if isinstance(given, str) and given:
            return given
        path = serialized.get("id")
        if isinstance(path, list) and path and isinstance(path[-1], str):
            return path[-1]
    return fallback


def _endpoint(serialized: Serialized) -> str | None:
    kwargs = serialized.get("kwargs") if isinstance(serialized, dict) else None
    return first_text(kwargs, _BASE_URL_KEYS) if kwargs and isinstance(kwargs, dict) else None


def first_text(source: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The first non-empty text under one of the keys."""
    for key in keys:
        value = source.get(key)
        # In this order: metadata may hold objects whose truth value raises.
        if value is not None and isinstance(value, str) and value:
            return value
    return None


def _identity(metadata: Mapping[str, Any]) -> tuple[str | None, str | None, str | None]:
    """Agent, conversation and request that a run belongs to."""
    if not metadata:
        return None, None, None
    agent, request_id = metadata.get("lc_agent_name"), metadata.get("request_id")
    return (
        agent if isinstance(agent, str) and agent else None,
        first_text(metadata, _CONVERSATION_KEYS),
        request_id if isinstance(request_id, str) and request_id else None,
    )


def _tagged(tags: Tags, metadata: Mapping[str, Any]) -> tuple[bool, Stage | None, dict[str, str | int]]:
    """What the tags say: whether the run is a graph's node, its stage if the user set one, its attempt number."""
    is_node, stage = False, _STAGES.get(str(metadata[_STAGE_KEY])) if _STAGE_KEY in metadata else None
    attributes: dict[str, str | int] = {}
    for tag in tags or ():
        if type(tag) is not str:
            continue
        if tag.startswith(_NODE_TAG):
            is_node = True
        elif tag.startswith(_RETRY_TAG):
            if tag[len(_RETRY_TAG) :].isdigit():
                attributes[semconv.RETRY_ATTEMPT] = int(tag[len(_RETRY_TAG) :])
        elif tag.startswith(_STAGE_TAG) and stage is None:
            stage = _STAGES.get(tag[len(_STAGE_TAG) :])
    return is_node, stage, attributes
