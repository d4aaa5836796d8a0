"""Pure functions: the arguments of LangChain's start events → `Operation`. They run in the worker.

All take the same arguments, the last of which is the event's own: `run_type`, `invocation_params` or `tool_call_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from aiobs_core import Kind, Operation, Stage, semconv
from aiobs_core.adapter import as_it_is, first_text, from_metadata, message_of, stage_of, text_size
from aiobs_core.providers import base_url, provider_name, request_model, request_params

Serialized = Mapping[str, Any] | None
Tags = Sequence[str] | None
Metadata = Mapping[str, Any] | None

# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_AGENT: Final = Kind.AGENT
_CHAIN: Final = Kind.CHAIN
_MODEL: Final = Kind.MODEL
_RETRIEVER: Final = Kind.RETRIEVER
_TOOL: Final = Kind.TOOL
_WORKFLOW: Final = Kind.WORKFLOW
_RUN_TYPES: Final = {"prompt": Kind.PROMPT, "parser": Kind.PARSER}
_NODE_STAGES: Final = {
    "before_agent": Stage.PRE_PROCESS,
    "before_model": Stage.PRE_PROCESS,
    "after_model": Stage.POST_PROCESS,
    "after_agent": Stage.POST_PROCESS,
}
_AGENT_INTEGRATION: Final = "langchain_create_agent"
_ROLES: Final = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant"}


def model(  # noqa: PLR0917 (bound with `partial` on the hot path, like the next)
    serialized: Serialized, prompts: Any, tags: Tags, metadata: Metadata, name: str | None, invocation: Any
) -> Operation:
    """`on_chat_model_start`, whose prompts are lists of messages, and `on_llm_start`, whose prompts are texts."""
    prompts, metadata, invocation = prompts or (), metadata or {}, invocation or {}
    is_chat = not prompts or not isinstance(prompts[0], str)
    messages = [each for prompt in prompts for each in prompt] if is_chat else prompts
    attributes = {
        semconv.INPUT_MESSAGE_COUNT: len(messages),
        semconv.INPUT_SIZE_CHARS: sum(text_size(getattr(each, "content", each)) for each in messages),
    }
    known = {
        "temperature": metadata.get("ls_temperature"),
        "max_tokens": metadata.get("ls_max_tokens"),
        # Only the application knows that a call is part of a batch.
        "service_tier": metadata.get("service_tier"),
    }
    asked = first_text(metadata, ("ls_model_name",)) or request_model(invocation)
    client = serialized.get("kwargs") if isinstance(serialized, dict) else None
    return Operation(
        kind=_MODEL,
        name=asked or first_text(invocation, ("_type",)) or _name(serialized, name, "model"),
        action="chat" if is_chat else "text_completion",
        provider=provider_name(first_text(metadata, ("ls_provider",))),
        model=asked,
        endpoint=base_url(client) if isinstance(client, dict) else None,
        params=request_params(known, invocation),
        content=partial(rendered, messages, "user"),
        **_common(_tagged(tags), metadata, attributes),
    )


def chain(  # noqa: PLR0917
    serialized: Serialized, resumes: bool, tags: Tags, metadata: Metadata, name: str | None, run_type: Any
) -> Operation:
    """`on_chain_start`: chains, prompts, parsers, graphs, their nodes, and agents."""
    metadata = metadata or {}
    name = _name(serialized, name, "chain")
    tagged = _tagged(tags)
    common = _common(tagged, metadata, {})
    integration, is_inside = metadata.get("ls_integration"), "langgraph_node" in metadata
    kind = _CHAIN
    parent_kind: Kind | None = None
    attempt_of: str | None = None
    if run_type in _RUN_TYPES:
        kind = _RUN_TYPES[run_type]
    elif "graph:step" in tagged:
        # LangChain before 1.1 does not say what built the graph; only create_agent and look-alikes have a node "model".
        is_agent = integration == _AGENT_INTEGRATION or (integration is None and name == "model")
        parent_kind = _AGENT if is_agent else _WORKFLOW
        attempt_of = first_text(metadata, ("langgraph_checkpoint_ns",))
        common.setdefault("stage", _NODE_STAGES.get(name.rpartition(".")[2]))
        common["attributes"][semconv.GRAPH_NODE] = first_text(metadata, ("langgraph_node",)) or name
        if isinstance(step := metadata.get("langgraph_step"), int):
            common["attributes"][semconv.GRAPH_STEP] = step
    elif name == common.get("agent") or (integration == _AGENT_INTEGRATION and not is_inside):
        kind = _AGENT
    elif integration == "langgraph" and not is_inside:
        kind = _WORKFLOW
    return Operation(
        kind=kind, name=name, parent_kind=parent_kind, resumes=resumes, attempt_of=attempt_of, **common
    )


def tool(  # noqa: PLR0917
    serialized: Serialized, given: Any, tags: Tags, metadata: Metadata, name: str | None, tool_call_id: Any
) -> Operation:
    """`on_tool_start`."""
    attributes = {semconv.GEN_AI_TOOL_TYPE: "function"}
    if isinstance(tool_call_id, str):
        attributes[semconv.GEN_AI_TOOL_CALL_ID] = tool_call_id
    return Operation(
        kind=_TOOL,
        name=_name(serialized, name, "tool"),
        content=partial(as_it_is, given),
        **_common(_tagged(tags), metadata or {}, attributes),
    )


def retriever(
    serialized: Serialized, query: Any, tags: Tags, metadata: Metadata, name: str | None, __: Any
) -> Operation:
    """`on_retriever_start`."""
    store = first_text(metadata or {}, ("ls_vector_store_provider", "ls_retriever_name"))
    name = store or _name(serialized, name, "retriever")
    common = _common(_tagged(tags), metadata or {}, {})
    return Operation(kind=_RETRIEVER, name=name, content=partial(as_it_is, query), **common)


def rendered(messages: Sequence[Any], role: str) -> list[Mapping[str, object]]:
    """Messages in the JSON shape of the GenAI conventions; plain texts are said by `role`."""
    content = []
    for message in messages:
        # Its fields, not its attributes: pydantic takes ten times as long to say that there is no such attribute.
        fields = getattr(message, "__dict__", None) or {"content": message}
        kind = fields.get("type", role)
        calls = [(call["id"], call["name"], call["args"]) for call in fields.get("tool_calls") or ()]
        said, answers = fields.get("content"), fields.get("tool_call_id")
        content.append(message_of(_ROLES.get(kind, kind), said, calls, answers=answers))
    return content


def _name(serialized: Serialized, name: str | None, fallback: str) -> str:
    if isinstance(name, str) and name:
        return name
    if not isinstance(serialized, dict):
        return fallback
    path = serialized.get("id")
    cls = path[-1] if isinstance(path, list) and path else None
    return first_text({"name": serialized.get("name"), "class": cls}, ("name", "class")) or fallback


def _common(
    tags: Mapping[str, str], metadata: Mapping[str, Any], attributes: dict[str, Any]
) -> dict[str, Any]:
    """What tags and metadata say of every run: its stage, if the user set one, and what it belongs to."""
    common = from_metadata(metadata)
    common["attributes"] = attributes
    if metadata:
        common["agent"] = first_text(metadata, ("lc_agent_name",))
    if tags:
        if "aiobs:stage" in tags:
            common.setdefault("stage", stage_of(tags["aiobs:stage"]))
        if (
            attempt := tags.get("retry:attempt", "")
        ).isdigit():  # of with_retry(); the first attempt has none
            attributes[semconv.RETRY_ATTEMPT] = int(attempt)
    return common


def _tagged(tags: Tags) -> dict[str, str]:
    """Tags like `graph:step:3`, by what stands before the last colon."""
    found = {}
    for tag in tags or ():
        if type(tag) is str:
            prefix, _, said = tag.rpartition(":")
            found[prefix] = said
    return found
