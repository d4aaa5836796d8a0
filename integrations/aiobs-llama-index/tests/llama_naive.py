"""LlamaIndex handlers as they are usually written, with every trap that the tests name.

Never use them: they exist so that each test can be shown to fail. `fails_with_naive` runs a test twice, against aiobs and
against these, and expects an AssertionError from the second.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Status, StatusCode, set_span_in_context

from aiobs_llama_index import AiObsCallbackHandler
from aiobs_testing.capture import Telemetry

# Some traps have come with later versions: there a naive handler does not fail.
_IS_TRAPPED = tuple(map(int, version("llama-index-core").split(".")[:3])) >= (0, 14, 24)


class Subject:
    """One side of a comparison."""

    is_naive = False

    def switch_on(self) -> None:
        """Begin to observe, as a user does it."""
        raise NotImplementedError

    def switch_on_legacy(self) -> None:
        """The same through a callback manager."""
        raise NotImplementedError

    def spans(self) -> list[ReadableSpan]:
        raise NotImplementedError

    def spans_now(self) -> list[ReadableSpan]:
        """Those that have ended already."""
        return self.spans()

    def started(self) -> int:
        """Spans that were begun."""
        raise NotImplementedError

    def kept(self) -> int:
        """Records of ended runs that the handler itself still holds."""
        raise NotImplementedError

    def of_kind(self, kind: str) -> list[ReadableSpan]:
        return [span for span in self.spans() if (span.attributes or {}).get("ai.agent.span.kind") == kind]

    def close(self) -> None:
        """Let go of what the test has set up."""


class AiobsSubject(Subject):
    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self.handlers: list[AiObsCallbackHandler] = []

    def switch_on(self) -> None:
        self.handlers.append(AiObsCallbackHandler())

    def switch_on_legacy(self) -> None:
        self.switch_on()
        Settings.callback_manager = CallbackManager([*self.handlers])

    def spans(self) -> list[ReadableSpan]:
        self.telemetry.wait_until_closed()
        return self.telemetry.raw()

    def spans_now(self) -> list[ReadableSpan]:
        return self.telemetry.raw()

    def started(self) -> int:
        return len(self.spans()) + self.telemetry.open_runs

    def kept(self) -> int:
        lists = ("open_spans", "completed_spans", "dropped_spans")
        ours = [each for each in get_dispatcher().span_handlers if type(each).__name__ == "_Spans"]
        return sum(len(getattr(each, name)) for each in ours for name in lists)

    def close(self) -> None:
        for handler in self.handlers:
            handler.close()


class _Everything(SimpleSpanProcessor):
    started = 0

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started += 1


class NaiveLegacy(BaseCallbackHandler):
    """One span per legacy event; reads what it expects in the payload."""

    def __init__(self, tracer: Any) -> None:
        super().__init__([], [])
        self.tracer = tracer
        self.open: dict[str, Any] = {}

    def on_event_start(
        self, event_type: Any, payload: Any = None, event_id: str = "", parent_id: str = "", **kwargs: Any
    ) -> str:
        above = self.open.get(parent_id)
        span = self.tracer.start_span(event_type.value, context=set_span_in_context(above) if above else None)
        if event_type.value == "llm":
            span.set_attribute("ai.agent.span.kind", "model")
            span.set_attribute("temperature", payload["serialized"]["temperature"])
        self.open[event_id] = span
        return event_id

    def on_event_end(self, event_type: Any, payload: Any = None, event_id: str = "", **kwargs: Any) -> None:
        self.open.pop(event_id).end()

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None: ...


class NaiveSpans(SimpleSpanHandler):
    """One span per dispatcher span, from enter to exit, with tags as attributes."""

    def span_enter(
        self,
        id_: str,
        bound_args: Any,
        instance: Any = None,
        parent_id: Any = None,
        tags: Any = None,
        **_: Any,
    ) -> None:
        super().span_enter(id_, bound_args, instance, parent_id, tags)
        above = _open.get(parent_id)
        span = _tracer[0].start_span(
            id_.partition("-")[0], context=set_span_in_context(above) if above else None
        )
        for name, value in (tags or {}).items():
            span.set_attribute(name, str(value))
        _open[id_] = span

    def span_exit(
        self, id_: str, bound_args: Any, instance: Any = None, result: Any = None, **_: Any
    ) -> None:
        super().span_exit(id_, bound_args, instance, result)
        _open.pop(id_).end()

    def span_drop(self, id_: str, bound_args: Any, instance: Any = None, err: Any = None, **_: Any) -> None:
        super().span_drop(id_, bound_args, instance, err)
        span = _open.pop(id_)
        span.set_status(Status(StatusCode.ERROR, str(err)))
        span.end()


class NaiveEvents(BaseEventHandler):
    """A model call is what an LLM event tells of."""

    def handle(self, event: Any, **_: Any) -> None:
        span = _open.get(event.span_id)
        if span is None:
            return
        if type(event).__name__ in {"LLMChatStartEvent", "LLMCompletionStartEvent"}:
            span.set_attribute("ai.agent.span.kind", "model")
        if type(event).__name__ in {"LLMChatEndEvent", "LLMCompletionEndEvent"}:
            usage = getattr(event.response.raw, "usage", None)
            if usage is not None:
                span.set_attribute("ai.agent.usage.input_tokens", usage.prompt_tokens)


_open: dict[Any, Any] = {}
_tracer: list[Any] = []


class NaiveSubject(Subject):
    is_naive = True

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.processor = _Everything(self.exporter)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(self.processor)
        _tracer[:] = [provider.get_tracer("naive")]
        _open.clear()
        self.handlers: list[NaiveSpans] = []
        root = get_dispatcher()
        self.before = (root.span_handlers, root.event_handlers)
        root.span_handlers, root.event_handlers = list(root.span_handlers), list(root.event_handlers)

    def switch_on(self) -> None:
        self.handlers.append(NaiveSpans(open_spans={}, completed_spans=[], dropped_spans=[]))
        get_dispatcher().add_span_handler(self.handlers[-1])
        get_dispatcher().add_event_handler(NaiveEvents())

    def switch_on_legacy(self) -> None:
        Settings.callback_manager = CallbackManager([NaiveLegacy(_tracer[0])])

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def started(self) -> int:
        return self.processor.started

    def kept(self) -> int:
        return sum(len(handler.completed_spans) + len(handler.dropped_spans) for handler in self.handlers)

    def close(self) -> None:
        root = get_dispatcher()
        root.span_handlers, root.event_handlers = self.before


def fails_with_naive(check: Callable[..., Any]) -> Callable[..., Any]:
    """Make two tests of one: it holds with aiobs, and an assertion in it fails with the naive handlers."""

    @functools.wraps(check)
    def test(*args: Any, subject: Subject, **kwargs: Any) -> None:
        if not subject.is_naive:
            check(*args, subject=subject, **kwargs)
            return
        with pytest.raises(AssertionError):
            check(*args, subject=subject, **kwargs)

    subjects = ["aiobs", "naive"] if _IS_TRAPPED else ["aiobs"]
    return pytest.mark.parametrize("subject", subjects, indirect=True)(test)
