"""What was asked: a call of one of LlamaIndex's methods → `Operation`; the reading happens in the worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, NamedTuple

from aiobs_core import Operation, Recorder, semconv
from aiobs_core.adapter import as_it_is, from_metadata, text_size
from aiobs_core.providers import base_url, request_model, request_params
from aiobs_llama_index import _outcome as outcome

Arguments = Mapping[str, Any]
Fields = Mapping[str, Any]
Tags = Mapping[str, Any] | None
Said = dict[str, Any]
"""What one call says: fields of `Operation`."""


_CHANGEABLE: Final = ("messages", "texts")
_TEXTS: Final = ("texts", "text", "query")
_NO_FIELDS: Final[Mapping[str, Any]] = {}


class Rule(NamedTuple):
    """How calls of one method of one class are recorded.

    Attributes:
        operation: What all its calls have in common.
        read: Reads one call in the worker: (operation, instance, what an atomic one held, arguments) → what else the
            operation says.
        outcome: Takes from a result what the worker needs.
        goes_on: Whether a result is a stream in which the run goes on; lets it go on there.
        is_plumbing: The call only moves data.
        is_atomic: Other methods of the same object, called inside, are part of it.
        ends_parent: The run around it ends with it.
    """

    operation: Operation
    read: Callable[[Operation, Any, Fields, Arguments], Said] | None = None
    outcome: Callable[[Any], Any] | None = None
    goes_on: Callable[[Recorder, str, Any], bool] | None = None
    is_plumbing: bool = False
    is_atomic: bool = False
    ends_parent: bool = False

    def asked(self, instance: Any, arguments: Arguments, tags: Tags) -> Any:
        """The operation of one call, or what makes it; takes at once what the application could change meanwhile."""
        if self.read is None and not tags:
            return self.operation
        for name in _CHANGEABLE:
            if type(given := arguments.get(name)) is list:
                arguments = {name: given.copy(), "kwargs": arguments.get("kwargs")}
        fields = vars(instance).copy() if self.is_atomic else _NO_FIELDS
        return partial(_read, self, instance, fields, arguments, dict(tags) if tags else None)


def _read(rule: Rule, instance: Any, fields: Fields, arguments: Arguments, tags: Tags) -> Operation:
    said = {} if rule.read is None else rule.read(rule.operation, instance, fields, arguments)
    if tags:
        said.update(from_metadata(tags))
        if (
            "service_tier" in tags and "params" in said
        ):  # only the application knows that a call is part of a batch
            said["params"] = {**request_params({"service_tier": tags["service_tier"]}), **said["params"]}
    return rule.operation._replace(**said)


def model(operation: Operation, instance: Any, fields: Fields, arguments: Arguments) -> Said:
    """A chat or a completion."""
    options = arguments.get("kwargs") or {}
    asked = arguments.get("messages")
    if asked is None:  # a completion, whose arguments LlamaIndex's decorator passes on without names
        prompt = arguments.get("prompt") or options.get("prompt") or arguments.get("args") or ""
        asked = prompt[:1] if isinstance(prompt, tuple) else (prompt,)
    name = _model_name(instance, fields)
    return {
        "name": name or operation.name,
        "model": name,
        "endpoint": base_url(fields),
        "params": request_params(fields, fields.get("additional_kwargs"), options),
        "attributes": {
            semconv.INPUT_MESSAGE_COUNT: len(asked),
            semconv.INPUT_SIZE_CHARS: sum([text_size(getattr(each, "blocks", each)) for each in asked]),
        },
        "content": partial(outcome.messages, asked),
    }


def embedding(operation: Operation, instance: Any, fields: Fields, arguments: Arguments) -> Said:
    """One text, a query, or a batch."""
    name = _model_name(instance, fields)
    texts = next((arguments[key] for key in _TEXTS if key in arguments), ("",))
    texts = (texts,) if isinstance(texts, str) else texts
    attributes = {semconv.EMBEDDING_TEXT_COUNT: len(texts)} if hasattr(texts, "__len__") else {}
    return {
        "name": name or operation.name,
        "model": name,
        "endpoint": base_url(fields),
        "attributes": attributes,
        "content": partial(as_it_is, texts),
    }


def _model_name(instance: Any, fields: Fields) -> str | None:
    # `metadata` last: some classes ask their server for it.
    model = request_model(fields) or getattr(getattr(instance, "metadata", None), "model_name", None)
    return model if model != "unknown" else None  # LlamaIndex's default


def retriever(operation: Operation, instance: Any, _: Fields, arguments: Arguments) -> Said:
    """Named after the vector store, where there is one."""
    store = getattr(instance, "_vector_store", None)
    query = partial(_query, arguments.get("str_or_query_bundle"))
    return {"name": operation.name if store is None else type(store).__name__, "content": query}


def reranker(_: Operation, __: Any, fields: Fields, arguments: Arguments) -> Said:
    """With the model that it asks, if any."""
    return {"model": request_model(fields), "content": partial(_query, arguments.get("query_bundle"))}


def _query(given: Any) -> Any:
    return given if isinstance(given, str) else getattr(given, "query_str", None)


def tool(operation: Operation, instance: Any, _: Fields, arguments: Arguments) -> Said:
    """Under the name that models call it by."""
    given = {name: value for name, value in arguments.items() if name not in {"args", "kwargs"}}
    given.update(arguments.get("kwargs") or {})
    if args := arguments.get("args"):
        given["args"] = args
    return {"name": instance.metadata.name or operation.name, "content": partial(as_it_is, given)}


def agent(operation: Operation, instance: Any, *_: Any) -> Said:
    """Under its own name."""
    return {"name": instance.name or operation.name}


def agent_step(_: Operation, __: Any, ___: Fields, arguments: Arguments) -> Said:
    """Of the agent that its event names; the tool inside does not know the id of its call."""
    # Not by attribute: one that an event does not have is slow to ask for.
    event = getattr(arguments.get("ev"), "__dict__", {})
    said, call_id = {"agent": event.get("current_agent_name")}, event.get("tool_id")
    if isinstance(call_id, str):
        said["inside"] = {semconv.GEN_AI_TOOL_CALL_ID: call_id}
    return said
