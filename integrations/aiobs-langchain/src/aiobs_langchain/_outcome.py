"""Pure functions: the arguments of LangChain's end events → `Outcome`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from aiobs_core import Outcome, RunStatus, Usage, semconv
from aiobs_core.adapter import HANDED_OFF, INTERRUPTED, TOOL_RETURNED_ERROR, as_it_is, kept, text_size
from aiobs_core.providers import (
    cost_usd,
    finish_reason,
    response_id,
    response_model,
    service_tier,
    usage_in,
    usage_of,
)
from aiobs_langchain._operation import rendered

_CACHE_HIT: Final = {"usage": Usage(source="cache_hit"), "cost_usd": 0.0}
_CONTROL_FLOW: Final = Outcome(status=RunStatus.SUCCESS)


# --- called in the application's thread: types only, no attribute of a foreign object --------------------------------


def of_model(response: Any) -> partial[Outcome | None]:
    """`on_llm_end`, and `on_llm_error` with what had arrived before the error.

    The messages are taken as they are now: LangChain's cache replaces them when it answers the next call.
    """
    choices = [choice for prompt in getattr(response, "generations", None) or () for choice in prompt]
    return partial(_model, response, choices, [getattr(choice, "message", None) for choice in choices])


def of_chain(outputs: Any) -> Outcome | None:
    """`on_chain_end`: a graph that waits for a person returns so."""
    return INTERRUPTED if type(outputs) is dict and "__interrupt__" in outputs else None


def of_tool(output: Any) -> partial[Outcome]:
    """`on_tool_end`."""
    return partial(_tool, kept(output))


def of_control_flow(error: BaseException) -> Any:
    """The outcome of LangGraph's control-flow exceptions, known by name so that langgraph is never imported."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if "GraphInterrupt" in names:
        return partial(_interrupted, error.args)
    if "ParentCommand" in names:
        return HANDED_OFF
    return _CONTROL_FLOW if "GraphBubbleUp" in names else None


def resumes(inputs: Any) -> bool:
    """Whether a graph is called with `Command(resume=…)`; LangGraph's class is known by name, never imported."""
    return type(inputs).__name__ == "Command" and getattr(inputs, "resume", None) is not None


def calls_a_tool(chunk: Any) -> bool:
    """Whether a streamed chunk without text carries part of a tool call."""
    return bool(getattr(getattr(chunk, "message", None), "tool_call_chunks", None))


# --- called in the worker -------------------------------------------------------------------------------------------


def _model(response: Any, choices: Sequence[Any], messages: Sequence[Any]) -> Outcome | None:
    if not choices:
        return None
    llm_output = response.llm_output or {}
    said: list[Any] = []
    reasons: list[str | None] = []
    tool_calls = 0
    for choice, message in zip(choices, messages, strict=True):
        said.append(choice.text if message is None else message)
        tool_calls += len(getattr(message, "tool_calls", None) or ())
        reasons.append(finish_reason(choice.generation_info, getattr(message, "response_metadata", None)))
    attributes = {semconv.OUTPUT_SIZE_CHARS: sum(text_size(getattr(each, "content", each)) for each in said)}
    if tool_calls:
        attributes[semconv.OUTPUT_TOOL_CALL_COUNT] = tool_calls
    metadata = getattr(messages[0], "response_metadata", None)
    return Outcome(
        model=response_model(metadata, llm_output),
        response_id=response_id(metadata, llm_output),
        finish_reasons=tuple(reason for reason in reasons if reason is not None),
        attributes=attributes,
        content=partial(rendered, said, "assistant"),
        **_billed(messages, metadata, llm_output),
    )


def _billed(messages: Sequence[Any], metadata: Any, llm_output: Mapping[str, Any]) -> dict[str, Any]:
    """What the bill depends on. With n > 1 every message repeats the total: one message is read, never the sum."""
    reported = getattr(messages[0], "usage_metadata", None)
    if isinstance(reported, dict) and reported.get("total_cost") == 0:
        # LangChain's mark of its cache. The message still says what the call cost when it was made: that is paid.
        return _CACHE_HIT
    usage = usage_of(reported) or usage_in(llm_output)
    # LangChain has put all of `llm_output` into the metadata of a message that is the only one.
    said = (metadata, reported) if metadata and len(messages) == 1 else (metadata, llm_output, reported)
    return {"usage": usage, "service_tier": service_tier(*said), "cost_usd": cost_usd(*said)}


def _tool(output: Any) -> Outcome:
    """A tool's result; it may have handled its error."""
    is_message = type(output).__name__ == "ToolMessage"
    failed = is_message and getattr(output, "status", None) == "error"
    said = getattr(output, "content", output) if is_message else output
    return (TOOL_RETURNED_ERROR if failed else Outcome())._replace(content=partial(as_it_is, said))


def _interrupted(interrupts: tuple[Any, ...]) -> Outcome:
    first = interrupts[0] if interrupts else None
    if isinstance(first, (list, tuple)) and first:
        first = first[0]
    interrupt_id = getattr(first, "id", None)
    attributes = {semconv.INTERRUPT_ID: interrupt_id} if isinstance(interrupt_id, str) else {}
    return INTERRUPTED._replace(attributes=attributes)
