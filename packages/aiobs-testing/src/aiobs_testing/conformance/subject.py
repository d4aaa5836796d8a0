"""What a conformance test looks at: a driver with its handler, and the spans of its scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core import Kind, Operation, semconv
from aiobs_testing.capture import Telemetry
from aiobs_testing.driver import Driver

CANARY: Final = "canary-7f3a9c-secret"
OTHER_SCOPE: Final = "aiobs.other"


class FailingExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002 (the interface's name)
        raise OSError

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 (as above)
        raise OSError

    def shutdown(self) -> None:
        raise OSError


class Subject:
    """The driver with a handler, and the spans of its scope."""

    def __init__(self, driver: Driver, telemetry: Telemetry) -> None:
        self.driver = driver
        self.telemetry = telemetry
        self._handlers: list[Any] = []

    # --- the driver -------------------------------------------------------------------------------------------------

    def has(self, method: str) -> bool:
        return getattr(self.driver, method, None) is not None

    def method(self, name: str) -> Callable[..., Any]:
        """The driver's method with nothing observed; skips the test if the framework has none."""
        found = getattr(self.driver, name, None)
        if found is None:
            pytest.skip(f"{type(self.driver).__name__} has no {name}()")
        self.driver.handlers = []
        return found  # type: ignore[no-any-return]

    def observed(self, name: str) -> Callable[..., Any]:
        """The driver's method with a handler; skips the test if the framework has none."""
        found = self.method(name)
        self.driver.handlers = [self.make_handler()]
        return found

    def make_handler(self) -> Any:
        return self.keep(self.driver.make_handler())

    def keep(self, handler: Any) -> Any:
        """Let the driver let go of it at the end of the test."""
        self._handlers.append(handler)
        return handler

    def let_go(self) -> None:
        while self._handlers:
            self.driver.let_go(self._handlers.pop())

    def run_if_there(self, name: str, *arguments: Any) -> None:
        """Call the driver's method with a handler, and read what it streams."""
        if self.has(name):
            result = self.observed(name)(*arguments)
            if name in {"stream", "failing_stream", "stream_query"}:
                list(result)

    def other_framework(self, name: str = "other") -> AbstractContextManager[trace.Span]:
        """A run of another framework around the block: one that this one knows nothing of."""
        return self.telemetry.recorder.span(Operation(kind=Kind.TOOL, name=name), scope=OTHER_SCOPE)

    def comparable(self, result: Any) -> Any:
        return result if isinstance(result, (str, int, float, list, dict, type(None))) else str(type(result))

    # --- its spans --------------------------------------------------------------------------------------------------

    def closed(self) -> None:
        """Wait until no run is open; for tests in which an open run is the thing to look for."""
        self.telemetry.wait_until_closed()

    def spans(self) -> list[ReadableSpan]:
        return self.telemetry.raw_of(self.driver.scope)

    def of_kind(self, kind: str) -> list[ReadableSpan]:
        return [span for span in self.spans() if self.get(span, semconv.SPAN_KIND) == kind]

    def the(self, kind: str) -> ReadableSpan:
        """The one span of this kind."""
        found = self.of_kind(kind)
        assert len(found) == 1, (
            f"one {kind} was expected, there are {names(found)} among {names(self.spans())}"
        )
        return found[0]

    def named(self, name: str) -> ReadableSpan:
        """The one span of this name, whoever made it."""
        found = [span for span in self.telemetry.raw() if span.name == name]
        assert len(found) == 1, f"one {name!r} was expected among {names(self.telemetry.raw())}"
        return found[0]

    def traces(self) -> list[list[ReadableSpan]]:
        """The spans by trace."""
        found: dict[int, list[ReadableSpan]] = {}
        for span in self.spans():
            found.setdefault(self.trace(span), []).append(span)
        return list(found.values())

    def get(self, span: ReadableSpan, attribute: str) -> Any:
        return (span.attributes or {}).get(attribute)

    def id(self, span: ReadableSpan) -> int:
        assert span.context is not None
        return int(span.context.span_id)

    def trace(self, span: ReadableSpan) -> int:
        assert span.context is not None
        return int(span.context.trace_id)

    def above(self, span: ReadableSpan) -> Iterator[ReadableSpan]:
        """The runs that a span is inside of, the nearest first, whoever recorded them."""
        by_id = {self.id(each): each for each in self.telemetry.raw()}
        found: ReadableSpan | None = span
        while found is not None and found.parent is not None:
            found = by_id.get(found.parent.span_id)
            if found is not None:
                yield found

    # --- what is wrong with them ------------------------------------------------------------------------------------

    def tree_problems(self) -> list[str]:
        """Spans that are no trees: without their parent, in another trace, before it, or of a negative duration."""
        spans = self.telemetry.raw()
        by_id = {self.id(span): span for span in spans}
        found = [f"{span.name} ends before it starts" for span in spans if _end(span) < _start(span)]
        for span in spans:
            if span.parent is None or span.parent.is_remote:
                continue
            parent = by_id.get(span.parent.span_id)
            if parent is None:
                found.append(f"the parent of {span.name} was not exported")
            elif self.trace(parent) != self.trace(span):
                found.append(f"{span.name} is in another trace than its parent {parent.name}")
            elif _start(span) < _start(parent):
                found.append(f"{span.name} starts before its parent {parent.name}")
        return found

    def end_problems(self) -> list[str]:
        """Spans that do not say what ran and how it ended, or say it twice and differently."""
        found = []
        for span in self.spans():
            found += [
                f"{span.name} has no {name}"
                for name in (semconv.SPAN_KIND, semconv.OUTCOME)
                if self.get(span, name) is None
            ]
            is_error = self.get(span, semconv.OUTCOME) == "error"
            if (span.status.status_code is trace.StatusCode.ERROR) != is_error:
                found.append(f"{span.name} has another status than its outcome says")
            if (self.get(span, semconv.ERROR_TYPE) is not None) != is_error:
                found.append(f"{span.name} has an error without its type, or a type without an error")
        return found

    def check_model(self, span: ReadableSpan) -> None:
        model = self.driver.model
        assert span.name in {f"chat {model}", f"text_completion {model}"}
        assert self.get(span, semconv.GEN_AI_REQUEST_MODEL) == model
        assert self.get(span, semconv.USAGE_INPUT_TOKENS) == 11
        assert self.get(span, semconv.GEN_AI_USAGE_OUTPUT_TOKENS) == 7
        assert self.get(span, semconv.USAGE_SOURCE) == "reported"
        assert self.get(span, semconv.STAGE) == "model_inference"
        assert self.get(span, semconv.OUTCOME) == "success"

    def check_first_chunk(self, span: ReadableSpan) -> None:
        assert 0 < self.get(span, semconv.TIME_TO_FIRST_CHUNK_S) <= (_end(span) - _start(span)) / 1e9
        assert self.get(span, semconv.CHUNK_COUNT) >= 3

    def check_error(self, span: ReadableSpan, error_type: str) -> None:
        assert span.status.status_code is trace.StatusCode.ERROR
        assert self.get(span, semconv.ERROR_TYPE) == error_type
        assert self.get(span, semconv.OUTCOME) == "error"
        assert CANARY not in span.to_json()

    def check_not_an_error(self, span: ReadableSpan, *outcomes: str) -> None:
        assert self.get(span, semconv.OUTCOME) in outcomes
        assert span.status.status_code is not trace.StatusCode.ERROR
        assert self.get(span, semconv.ERROR_TYPE) is None

    def check_agent(self, spans: Sequence[ReadableSpan]) -> None:
        """Fail unless these are one agent with two model calls and a tool below it, and nothing else of these kinds."""
        by_kind: dict[str, list[ReadableSpan]] = {}
        for span in spans:
            by_kind.setdefault(self.get(span, semconv.SPAN_KIND), []).append(span)
        (agent,), (tool,), models = by_kind["agent"], by_kind["tool"], by_kind["model"]
        assert agent.name == "invoke_agent helper"
        assert {self.trace(span) for span in spans} == {self.trace(agent)}
        assert len(models) == 2
        for span in (*models, tool):
            assert self.id(agent) in map(self.id, self.above(span)), f"{span.name} is not under the agent"
            assert self.get(span, semconv.AGENT_NAME) == "helper"
        assert not set(map(self.id, self.above(tool))) & set(map(self.id, models)), (
            "the tool is under a model"
        )

    def check_pipeline(self) -> None:
        """Fail unless there is one root with one retriever and one model call below it."""
        (root,) = [span for span in self.spans() if span.parent is None]
        for span in (self.the("retriever"), self.the("model")):
            assert self.id(root) in map(self.id, self.above(span)), f"{span.name} is not under {root.name}"
        assert self.get(root, semconv.OUTCOME) == "success"
        assert all(_end(span) <= _end(root) for span in self.spans()), "the pipeline ended before its parts"


def names(spans: Sequence[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


def _start(span: ReadableSpan) -> int:
    return span.start_time or 0


def _end(span: ReadableSpan) -> int:
    return span.end_time or 0


def raising(error: BaseException) -> Callable[[], Any]:
    def body() -> Any:
        raise error

    return body


def noting(ids: list[int]) -> Callable[[], str]:
    def body() -> str:
        ids.append(current_id())
        return ""

    return body


def current_id() -> int:
    return int(trace.get_current_span().get_span_context().span_id)
