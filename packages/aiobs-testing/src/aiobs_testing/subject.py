"""What a conformance test looks at: a driver with its handler, and the spans of its scope."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core import semconv
from aiobs_testing.capture import Telemetry
from aiobs_testing.driver import Driver

CANARY: Final = "canary-7f3a9c-secret"


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
        self.driver.handlers = [self.driver.make_handler()]
        return found

    def run_if_there(self, name: str, *arguments: Any) -> None:
        if self.has(name):
            self.observed(name)(*arguments)

    def spans(self) -> list[ReadableSpan]:
        return self.telemetry.raw_of(self.driver.scope)

    def of_kind(self, kind: str) -> list[ReadableSpan]:
        return [span for span in self.spans() if self.get(span, semconv.SPAN_KIND) == kind]

    def named(self, name: str) -> ReadableSpan:
        (span,) = [span for span in self.telemetry.raw() if span.name == name]
        return span

    def get(self, span: ReadableSpan, attribute: str) -> Any:
        return (span.attributes or {}).get(attribute)

    def id(self, span: ReadableSpan) -> int:
        assert span.context is not None
        return int(span.context.span_id)

    def trace(self, span: ReadableSpan) -> int:
        assert span.context is not None
        return int(span.context.trace_id)

    def comparable(self, result: Any) -> Any:
        return result if isinstance(result, (str, int, float, list, dict, type(None))) else str(type(result))

    def check_model(self, *spans: ReadableSpan) -> None:
        (span,) = spans
        model = self.driver.model
        assert span.name in {f"chat {model}", f"text_completion {model}"}
        assert self.get(span, semconv.GEN_AI_REQUEST_MODEL) == model
        assert self.get(span, semconv.USAGE_INPUT_TOKENS) == 11
        assert self.get(span, semconv.GEN_AI_USAGE_OUTPUT_TOKENS) == 7
        assert self.get(span, semconv.USAGE_SOURCE) == "reported"
        assert self.get(span, semconv.STAGE) == "model_inference"
        assert self.get(span, semconv.OUTCOME) == "success"

    def check_first_chunk(self, span: ReadableSpan) -> None:
        duration_s = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
        assert 0 < self.get(span, semconv.TIME_TO_FIRST_CHUNK_S) <= duration_s
        assert self.get(span, semconv.CHUNK_COUNT) >= 3

    def check_error(self, span: ReadableSpan, error_type: str) -> None:
        assert span.status.status_code is trace.StatusCode.ERROR
        assert self.get(span, semconv.ERROR_TYPE) == error_type
        assert self.get(span, semconv.OUTCOME) == "error"
        assert CANARY not in span.to_json()

    def check_agent(self) -> None:
        spans = self.spans()
        (agent,) = self.of_kind("agent")
        assert agent.name == "invoke_agent helper"
        assert agent.parent is None
        assert {self.trace(span) for span in spans} == {self.trace(agent)}
        assert len(self.of_kind("model")) == 2
        (tool,) = self.of_kind("tool")
        parents = {self.id(span): span.parent.span_id if span.parent is not None else None for span in spans}
        for span in (*self.of_kind("model"), tool):
            above = parents[self.id(span)]
            while above != self.id(agent):
                assert above is not None, f"{span.name} is not under the agent"
                above = parents[above]


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
