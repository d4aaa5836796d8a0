"""Pure functions: the arguments of LangChain's end events → `Outcome`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from aiobs_core import Outcome, RunStatus, Usage, semconv
from aiobs_langchain._operation import first_text, text_size

_FINISH_KEYS: Final = ("finish_reason", "stop_reason", "done_reason", "stopReason")
_MODEL_KEYS: Final = ("model_name", "model", "model_id")
_INPUT_DETAILS: Final = {
    "cache_read_tokens": "cache_read",
    "cache_write_tokens": "cache_creation",
    "audio_input_tokens": "audio",
}
_OUTPUT_DETAILS: Final = {"reasoning_tokens": "reasoning", "audio_output_tokens": "audio"}
_MAPPINGS: Final = (dict, Mapping)  # the abstract class alone takes ten times as long to ask
_HANDED_OFF: Final = Outcome(status=RunStatus.SUCCESS, events=(semconv.EVENT_HANDOFF,))
_CONTROL_FLOW: Final = Outcome(status=RunStatus.SUCCESS)


# --- called in the worker -------------------------------------------------------------------------------------------


def model(response: Any, messages: Sequence[Any]) -> Outcome | None:
    """`on_llm_end`, and `on_llm_error` with what had arrived before the error; `messages` as they were then."""
    generations = [choice for prompt in getattr(response, "generations", None) or () for choice in prompt]
    if not generations:
        return None
    llm_output = response.llm_output or {}
    message = messages[0]
    metadata = getattr(message, "response_metadata", None) or {}
    size = tool_calls = 0
    finish_reasons: list[str] = []
    for choice, said in zip(generations, messages, strict=False):
        size += text_size(choice.text if said is None else said.content)
        tool_calls += len(getattr(said, "tool_calls", None) or ())
        reason = _finish_reason(choice, said)
        if reason is not None:
            finish_reasons.append(reason)
    attributes = {semconv.OUTPUT_SIZE_CHARS: size}
    if tool_calls:
        attributes[semconv.OUTPUT_TOOL_CALL_COUNT] = tool_calls
    return Outcome(
        usage=_usage(message, llm_output),
        model=first_text(metadata, _MODEL_KEYS) or first_text(llm_output, _MODEL_KEYS),
        response_id=first_text(metadata, ("id",)) or first_text(llm_output, ("id",)),
        finish_reasons=tuple(finish_reasons),
        attributes=attributes,
    )


def _usage(message: Any, llm_output: Mapping[str, Any]) -> Usage | None:
    # With n > 1 every message repeats the total: one message is taken, never the sum.
    reported = getattr(message, "usage_metadata", None)
    if reported is not None and isinstance(reported, _MAPPINGS):
        if (
            reported.get("total_cost") == 0
        ):  # LangChain's mark of its LLM cache: these tokens were not used again
            return Usage(source="cache_hit")
        return Usage(
            input_tokens=_count(reported.get("input_tokens")),
            output_tokens=_count(reported.get("output_tokens")),
            **_details(reported.get("input_token_details"), _INPUT_DETAILS),
            **_details(reported.get("output_token_details"), _OUTPUT_DETAILS),
        )
    coarse = llm_output.get("token_usage") or llm_output.get("usage")
    if not isinstance(coarse, Mapping) or not coarse:
        return None
    usage = Usage(
        input_tokens=_count(coarse.get("prompt_tokens", coarse.get("input_tokens"))),
        output_tokens=_count(coarse.get("completion_tokens", coarse.get("output_tokens"))),
        cache_read_tokens=_count(_nested(coarse, "prompt_tokens_details", "cached_tokens")),
        reasoning_tokens=_count(_nested(coarse, "completion_tokens_details", "reasoning_tokens")),
    )
    return usage if usage.input_tokens is not None or usage.output_tokens is not None else None


def _details(given: Any, fields: Mapping[str, str]) -> dict[str, Any]:
    if not given:
        return {}
    return {field: _count(given.get(key)) for field, key in fields.items()}


def _nested(source: Mapping[str, Any], key: str, name: str) -> object:
    inner = source.get(key)
    return inner.get(name) if isinstance(inner, Mapping) else None


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _finish_reason(choice: Any, message: Any) -> str | None:
    for source in (choice.generation_info, getattr(message, "response_metadata", None)):
        if (
            source is not None
            and isinstance(source, _MAPPINGS)
            and (reason := first_text(source, _FINISH_KEYS))
        ):
            return reason
    return None


def _interrupted(interrupts: tuple[Any, ...]) -> Outcome:
    first = interrupts[0] if interrupts else None
    if isinstance(first, (list, tuple)) and first:
        first = first[0]
    interrupt_id = getattr(first, "id", None)
    attributes = {semconv.INTERRUPT_ID: interrupt_id} if isinstance(interrupt_id, str) else {}
    return Outcome(status=RunStatus.INTERRUPTED, events=(semconv.EVENT_INTERRUPT,), attributes=attributes)


# --- called in the application's thread: types only, no attribute of a foreign object --------------------------------


def resumes(inputs: Any) -> bool:
    """Whether a graph is called with `Command(resume=…)`; LangGraph's class is known by name, never imported."""
    return type(inputs).__name__ == "Command" and getattr(inputs, "resume", None) is not None


def is_paused(outputs: Any) -> bool:
    """Whether a graph returned because it waits for a person."""
    return type(outputs) is dict and "__interrupt__" in outputs


def messages(response: Any) -> list[Any]:
    """The messages of a response as they are now: LangChain's cache replaces them when it answers the next call."""
    prompts = getattr(response, "generations", None) or ()
    return [getattr(choice, "message", None) for prompt in prompts for choice in prompt]


def calls_a_tool(chunk: Any) -> bool:
    """Whether a streamed chunk without text carries part of a tool call."""
    return bool(getattr(getattr(chunk, "message", None), "tool_call_chunks", None))


def documents(found: Any) -> Outcome | None:
    """`on_retriever_end`: how many documents came back."""
    return (
        Outcome(attributes={semconv.DOCUMENT_COUNT: len(found)}) if isinstance(found, (list, tuple)) else None
    )


def of_control_flow(error: BaseException) -> Any:
    """The outcome of LangGraph's control-flow exceptions, known by name so that langgraph is never imported."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if "GraphInterrupt" in names:
        return partial(_interrupted, error.args)
    if "ParentCommand" in names:
        return _HANDED_OFF
    return _CONTROL_FLOW if "GraphBubbleUp" in names else None
