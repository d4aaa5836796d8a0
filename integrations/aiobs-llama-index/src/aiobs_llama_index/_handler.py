"""The callback handler, and what its existence turns on: a span handler and an event handler on LlamaIndex's root dispatcher.

The legacy callbacks stay silent for agents, workflows, tools and chat engines, and for objects made before the callback
manager; an exception in them breaks the application's call. The dispatcher tells of everything, wherever an object
comes from, and swallows what its handlers raise.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Mapping
from typing import Any, Final
from weakref import finalize

from llama_index.core.callbacks import CBEventType
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]  # re-exported
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index_instrumentation.dispatcher import active_instrument_tags

from aiobs_core import AgentSpan, Recorder, get_recorder
from aiobs_core.adapter import SharedHandler, outcome_of, report_overlap
from aiobs_llama_index import _outcome as outcome
from aiobs_llama_index._rules import rule_of

_SCOPE: Final = "aiobs.llama_index"
_UUID: Final = 37  # ids are "Class.method-" and a UUID
_INSTRUMENTORS: Final = {
    "openinference.instrumentation.llama_index": "OpenInference's LlamaIndexInstrumentor",
    "opentelemetry.instrumentation.llamaindex": "OpenLLMetry's LlamaIndexInstrumentor",
    "opentelemetry.instrumentation.genai.llama_index": "OpenTelemetry's LlamaIndexInstrumentor",
}
_ALL_EVENTS: Final = list(CBEventType)


class AiObsCallbackHandler(SharedHandler, BaseCallbackHandler):
    """Records everything LlamaIndex does as OpenTelemetry spans, as long as one such handler exists.

    It observes the whole process, whichever callback manager it stands in and whenever other objects were made; every
    run gives one span, however many handlers there are. Settings come from `aiobs_core.configure()`, the environment or
    a file.

    Example:
        >>> from llama_index.core import Settings
        >>> from llama_index.core.callbacks import CallbackManager
        >>> Settings.callback_manager = CallbackManager([AiObsCallbackHandler()])
    """

    def __init__(self) -> None:
        super().__init__(event_starts_to_ignore=_ALL_EVENTS, event_ends_to_ignore=_ALL_EVENTS)
        self._finalizer = finalize(self, _stop_observing, id(self))
        self._finalizer.atexit = False
        _observers.add(id(self))
        _register()
        report_overlap("LlamaIndex", _INSTRUMENTORS)

    def close(self) -> None:
        """Stop observing, unless another handler or the instrumentor still does; what runs now is recorded to its end."""
        self._finalizer()

    def _legacy(self, *_: Any, event_id: str = "", **__: Any) -> Any:
        return event_id  # the dispatcher tells more

    on_event_start = on_event_end = start_trace = end_trace = _legacy


class _Spans(BaseSpanHandler[Any]):
    """Told by the dispatcher of each call of an instrumented method, in the caller's thread and context."""

    # Names every argument that LlamaIndex passes: Python compares one that falls into `**_` with each of the others.
    # The parent's id is not used: LlamaIndex knows nothing of other frameworks' runs in between, and its own parent is
    # the run that is current in this context.
    def span_enter(
        self,
        id_: str,
        bound_args: Any,
        instance: Any = None,
        parent_id: Any = None,
        tags: Any = None,
        **_: Any,
    ) -> None:
        rule = rule_of(type(instance), id_[:-_UUID])  # type: ignore[arg-type]  # classes are hashable
        if tags is None:  # a workflow's run is told of without the tags that its steps come with
            tags = active_instrument_tags.get()
        if rule is not None and _observers:
            get_recorder().start(
                id_,
                rule.asked(instance, bound_args.arguments, tags),
                scope=_SCOPE,
                plumbing=rule.is_plumbing,
                subject=instance if rule.is_atomic else None,
            )

    def span_exit(
        self, id_: str, bound_args: Any, instance: Any = None, result: Any = None, **_: Any
    ) -> None:
        recorder = get_recorder()
        span = recorder.find(id_)
        rule = None if span is None else rule_of(type(instance), id_[:-_UUID])  # type: ignore[arg-type]  # as above
        if span is None or rule is None:  # its event has told of the end, or it has no span
            recorder.end(id_)
        elif rule.goes_on is None or not rule.goes_on(recorder, id_, result):
            recorder.end(id_, None if rule.outcome is None else outcome_of(rule.outcome, result))
            if rule.ends_parent and (engine := _engine_of(span)) is not None:
                recorder.end(engine.key)
        if not _observers:
            _unregister()

    def span_drop(self, id_: str, bound_args: Any, instance: Any = None, err: Any = None, **_: Any) -> None:
        get_recorder().fail(id_, err, outcome.of_error(err))
        if not _observers:
            _unregister()

    def new_span(self, *_: Any, **__: Any) -> None:
        """Nothing: the base class would keep the spans for ever."""

    prepare_to_exit_span = prepare_to_drop_span = new_span


class _Events(BaseEventHandler):
    """Told by the dispatcher of events; those of streams come after their span's exit and carry its id."""

    def handle(self, event: Any, **_: Any) -> None:
        act = _ACTIONS.get(type(event).__name__)
        if act is not None:
            act(get_recorder(), event)


def _on_chunk(recorder: Recorder, event: Any) -> None:
    response = event.response
    if response.delta or outcome.calls_a_tool(response):
        recorder.chunk(event.span_id)
        return
    span = recorder.find(event.span_id)
    if span is not None:
        span.outcome = outcome.of_model(
            response
        )  # what is known if the stream breaks off: it may tell the usage
        if reasons := outcome.finish_of_stream(response):
            span.finish_reasons = reasons


def _on_chat_error(recorder: Recorder, event: Any) -> None:
    """The writer of a streaming chat engine swallows the error; who reads the stream gets it."""
    writer = recorder.find(event.span_id)
    if writer is not None and (engine := _engine_of(writer)) is not None:
        recorder.fail(event.span_id, event.exception)
        recorder.fail(engine.key, event.exception)


def _engine_of(writer: AgentSpan) -> AgentSpan | None:
    """The run of the chat engine whose answer is written; an application may write one of its own, inside any run."""
    around = writer.parent
    is_engine = (
        around is not None and around.scope == _SCOPE and str(around.key)[:-_UUID].endswith("stream_chat")
    )
    return around if is_engine else None


def _on_exception(recorder: Recorder, event: Any) -> None:
    span = recorder.find(event.span_id)
    recorder.fail(event.span_id, event.exception, None if span is None else span.outcome)


def _on_end(recorder: Recorder, event: Any) -> None:
    recorder.end(event.span_id, outcome.of_model(event.response))


_ACTIONS: Final[Mapping[str, Callable[[Recorder, Any], None]]] = {
    "LLMChatInProgressEvent": _on_chunk,
    "LLMCompletionInProgressEvent": _on_chunk,
    "LLMChatEndEvent": _on_end,
    "LLMCompletionEndEvent": _on_end,
    "ExceptionEvent": _on_exception,
    "SpanCancelledEvent": lambda recorder, event: recorder.fail(event.span_id, CancelledError()),
    "StreamChatErrorEvent": _on_chat_error,
}
_SPANS: Final = _Spans()
_EVENTS: Final = _Events()
_observers: Final[set[int]] = set()


def _register() -> None:
    root = get_dispatcher()
    if not any(handler is _SPANS for handler in root.span_handlers):
        # New lists: another thread may be walking the old ones.
        root.span_handlers = [*root.span_handlers, _SPANS]
        root.event_handlers = [*root.event_handlers, _EVENTS]


def _stop_observing(observer: int) -> None:
    _observers.discard(observer)
    _unregister()


def _unregister() -> None:
    """Leave the dispatcher once nobody observes and nothing of what was observed is open."""
    if not _observers and not get_recorder().is_busy(_SCOPE):
        root = get_dispatcher()
        root.span_handlers = [handler for handler in root.span_handlers if handler is not _SPANS]
        root.event_handlers = [handler for handler in root.event_handlers if handler is not _EVENTS]
        if _observers:  # another thread made a handler in the meantime
            _register()
