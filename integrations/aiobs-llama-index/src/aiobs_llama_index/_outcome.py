"""What came back: results of LlamaIndex's methods → `Outcome`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from aiobs_core import Outcome, semconv
from aiobs_core.adapter import HANDED_OFF, INTERRUPTED, TOOL_RETURNED_ERROR, message_of, text_size
from aiobs_core.providers import finish_reason, response_id, response_model, usage_in, usage_of

_RESPONSES: Final = ("ChatResponse", "CompletionResponse")


# --- in the application's thread: what the worker will need -------------------------------------------------------------


def of_model(response: Any) -> Any:
    """A model's response, read later; None for anything else, such as a stream."""
    return partial(_model, response) if type(response).__name__ in _RESPONSES else None


def vectors(result: Any) -> Outcome | None:
    """Dimensions of one vector or of a list of them."""
    first = result[0] if isinstance(result, list) and result else None
    vector = first if isinstance(first, list) else result
    return (
        Outcome(attributes={semconv.EMBEDDING_DIMENSION_COUNT: len(vector)})
        if isinstance(vector, list)
        else None
    )


def documents(result: Any) -> Outcome | None:
    """How many nodes came back."""
    return Outcome(attributes={semconv.DOCUMENT_COUNT: len(result)}) if isinstance(result, list) else None


def tool(result: Any) -> Outcome | None:
    """A tool's error that it returned, and the tool with which agents hand over to each other."""
    if getattr(result, "is_error", False) is True:
        return TOOL_RETURNED_ERROR
    given = getattr(result, "raw_input", None)
    if (
        getattr(result, "tool_name", None) == "handoff"
        and isinstance(given, dict)
        and "to_agent" in given.get("kwargs", ())
    ):
        return HANDED_OFF
    return None


def of_error(error: BaseException) -> Outcome | None:
    """A step that waits for a person, which older versions of the workflows package report as an error."""
    return INTERRUPTED if type(error).__name__ == "WaitingForEvent" else None


def calls_a_tool(response: Any) -> bool:
    """Whether a streamed response without new text carries part of a tool call."""
    said = getattr(response, "message", None)
    return said is not None and bool(_tool_calls(said))


# --- in the worker ------------------------------------------------------------------------------------------------------


def _model(response: Any) -> Outcome:
    said = getattr(response, "message", None)
    raw = response.raw
    calls = _tool_calls(said) if said is not None else ()
    size = text_size(said.blocks if said is not None else response.text)
    attributes = {semconv.OUTPUT_SIZE_CHARS: size}
    if calls:
        attributes[semconv.OUTPUT_TOOL_CALL_COUNT] = len(calls)
    fields = raw if isinstance(raw, Mapping) else getattr(raw, "__dict__", {})
    return Outcome(
        usage=usage_in(raw) or usage_of(response.additional_kwargs),
        model=response_model(fields),
        response_id=response_id(fields),
        finish_reasons=_finish_reasons(fields, response),
        attributes=attributes,
        content=partial(messages, (said if said is not None else response.text,)),
    )


def _finish_reasons(fields: Mapping[str, Any], response: Any) -> tuple[str, ...]:
    choices = fields.get("choices")
    sources = [
        choice if isinstance(choice, Mapping) else getattr(choice, "__dict__", {})
        for choice in (choices if isinstance(choices, (list, tuple)) else ())
    ] or [fields, response.additional_kwargs]
    return tuple(reason for source in sources if (reason := finish_reason(source)))


def _tool_calls(said: Any) -> Sequence[Any]:
    calls = [block for block in said.blocks if type(block).__name__ == "ToolCallBlock"]
    return calls or said.additional_kwargs.get("tool_calls") or ()


def messages(given: Sequence[Any]) -> list[Mapping[str, object]]:
    """Messages, or the prompt of a completion, in the JSON shape of the GenAI conventions."""
    return [
        message_of("user", each)
        if isinstance(each, str)
        else message_of(each.role.value, each.blocks, _calls(each))
        for each in given
    ]


def _calls(said: Any) -> list[tuple[object, object, object]]:
    return [
        (
            getattr(call, "tool_call_id", None),
            getattr(call, "tool_name", None),
            getattr(call, "tool_kwargs", None),
        )
        for call in _tool_calls(said)
    ]
