"""What came back: results of LlamaIndex's methods → `Outcome`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final

from llama_index.core.base.llms.types import ChatResponse, CompletionResponse
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.chat_engine.types import StreamingAgentChatResponse

from aiobs_core import Outcome, Recorder, RunStatus, semconv
from aiobs_core.adapter import HANDED_OFF, INTERRUPTED, TOOL_RETURNED_ERROR, as_it_is, message_of, text_size
from aiobs_core.providers import (
    cost_usd,
    fields_of,
    finish_reason,
    response_fields,
    response_id,
    response_model,
    service_tier,
    usage_in,
)

_STREAMS: Final = (StreamingResponse, AsyncStreamingResponse)  # the model is asked when they are read


# --- in the application's thread: what the worker will need -------------------------------------------------------------


def of_model(response: Any) -> Any:
    """A model's response, read later; None for anything else, such as a stream."""
    return partial(_model, response) if isinstance(response, (ChatResponse, CompletionResponse)) else None


def of_tool(result: Any) -> partial[Outcome]:
    """A tool's result, read later."""
    return partial(_tool, result)


def of_error(error: BaseException) -> Outcome | None:
    """A step that waits for a person, which older versions of the workflows package report as an error."""
    return INTERRUPTED if type(error).__name__ == "WaitingForEvent" else None


def calls_a_tool(response: Any) -> bool:
    """Whether a streamed response without new text carries part of a tool call."""
    said = getattr(response, "message", None)
    return said is not None and bool(_tool_calls(said))


def finish_of_stream(response: Any) -> tuple[str, ...]:
    """Why the model stopped, of a chunk that says nothing else: OpenAI's last one carries the usage and no choices."""
    return _finish_reasons(fields_of(response.raw))


# --- runs that go on in what they return: True if this one does ---------------------------------------------------------


def model_stream(recorder: Recorder, key: str, result: Any) -> bool:
    """A model's chunks, of whose end LlamaIndex's decorators tell; of a class without them, only their collection does."""
    if type(result) is not GeneratorType and type(result) is not AsyncGeneratorType:
        return False
    if result.__name__ != "wrapped_gen":
        recorder.hand_over(key, result, collected=RunStatus.SUCCESS)
        return True
    # The events of a stream that was handed on, as by a subclass that calls `super()`, have the id of the call inside.
    frame = result.gi_frame if type(result) is GeneratorType else result.ag_frame
    told_as = frame.f_locals.get("span_id") if frame is not None else None
    recorder.hand_over(key, result, told_as=told_as if isinstance(told_as, str) else None)
    return True


def answer_stream(recorder: Recorder, key: str, result: Any) -> bool:
    """The answer of a query or chat engine; the latter's is filled by a writer, a run of its own that ends it."""
    if isinstance(result, _STREAMS):
        followed = recorder.follow(key, result.response_gen)
        if followed is result.response_gen:  # texts, and no stream of them
            return False
        result.response_gen = followed
    elif isinstance(result, StreamingAgentChatResponse):
        recorder.hand_over(key, result)
    else:
        return False
    return True


# --- in the worker ------------------------------------------------------------------------------------------------------


def _model(response: Any) -> Outcome:
    said, raw, more = getattr(response, "message", None), response.raw, response.additional_kwargs
    calls = _tool_calls(said) if said is not None else ()
    attributes = {semconv.OUTPUT_SIZE_CHARS: text_size(response.text if said is None else said.blocks)}
    if calls:
        attributes[semconv.OUTPUT_TOOL_CALL_COUNT] = len(calls)
    fields = response_fields(raw)
    return Outcome(
        usage=usage_in(fields) or usage_in(more),
        model=response_model(fields),
        response_id=response_id(fields),
        finish_reasons=_finish_reasons(fields, more),
        attributes=attributes,
        content=partial(messages, (response.text if said is None else said,), "assistant"),
        service_tier=service_tier(fields),
        cost_usd=cost_usd(fields),
    )


def _tool(result: Any) -> Outcome:
    """A tool's result, perhaps an error that it returned, and the tool with which agents hand over to each other."""
    given = getattr(result, "raw_input", None)
    outcome = Outcome()
    if getattr(result, "is_error", False) is True:
        outcome = TOOL_RETURNED_ERROR
    elif getattr(result, "tool_name", None) == "handoff" and isinstance(given, dict):
        outcome = HANDED_OFF if "to_agent" in (given.get("kwargs") or ()) else outcome
    blocks = getattr(result, "blocks", None)
    said = (
        result
        if blocks is None
        else "".join(text for each in blocks if isinstance(text := getattr(each, "text", None), str))
    )
    return outcome._replace(content=partial(as_it_is, said))


def _finish_reasons(*sources: Mapping[str, Any]) -> tuple[str, ...]:
    choices = sources[0].get("choices")
    if isinstance(choices, (list, tuple)) and choices:
        sources = tuple(map(fields_of, choices))
    return tuple(reason for source in sources if (reason := finish_reason(source)))


def _tool_calls(said: Any) -> Sequence[Any]:
    calls = [block for block in said.blocks if type(block).__name__ == "ToolCallBlock"]
    return calls or said.additional_kwargs.get("tool_calls") or ()


def messages(given: Sequence[Any], role: str = "user") -> list[Mapping[str, object]]:
    """Messages, or the text of a completion, which `role` said, in the JSON shape of the GenAI conventions."""
    return [
        message_of(role, each)
        if isinstance(each, str)
        else message_of(
            each.role.value,
            each.blocks,
            map(_call, _tool_calls(each)),
            answers=each.additional_kwargs.get("tool_call_id"),
        )
        for each in given
    ]


def _call(call: Any) -> tuple[object, object, object]:
    return tuple(getattr(call, name, None) for name in ("tool_call_id", "tool_name", "tool_kwargs"))  # type: ignore[return-value]  # three
