"""Who is inside of whom: tools and their bodies, the application around, other frameworks in between."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from aiobs_testing.conformance.subject import Subject, current_id, noting


class Context:
    """A run is current while its body runs, and not any more afterwards."""

    def test_the_tool_is_current_in_its_body(self, subject: Subject) -> None:
        inside: list[int] = []
        subject.observed("tool")("x", noting(inside))
        assert inside == [subject.id(span) for span in subject.of_kind("tool")]

    @pytest.mark.asyncio
    async def test_the_tool_is_current_in_its_async_body(self, subject: Subject) -> None:
        inside: list[int] = []
        await subject.observed("atool")("x", noting(inside))
        assert inside == [subject.id(span) for span in subject.of_kind("tool")]

    @pytest.mark.asyncio
    async def test_what_was_current_before_is_current_after(self, subject: Subject) -> None:
        subject.observed("chat")("opens the provider")
        tracer = trace.get_tracer("application")
        with tracer.start_as_current_span("request") as request:
            call = subject.observed("achat")
            await call("hello")
            assert current_id() == request.get_span_context().span_id
            with tracer.start_as_current_span("after"):
                pass
        after = subject.named("after")
        assert after.parent is not None
        assert after.parent.span_id == request.get_span_context().span_id
        observed = [
            span for span in subject.spans() if subject.trace(span) == request.get_span_context().trace_id
        ]
        assert any(
            span.parent is not None and span.parent.span_id == after.parent.span_id for span in observed
        )

    # --- nested frameworks ------------------------------------------------------------------------------------------

    def test_a_call_inside_another_framework(self, subject: Subject) -> None:
        call = subject.observed("chat")
        with subject.other_framework("outer"):
            call("hello")
        subject.check_model(subject.the("model"))
        assert [span.name for span in subject.above(subject.the("model"))][-1:] == ["execute_tool outer"]
        assert len({subject.trace(span) for span in subject.telemetry.raw()}) == 1

    def test_a_tool_that_uses_another_framework(self, subject: Subject) -> None:
        subject.method("chat")
        call = subject.observed("tool")
        call("x", lambda: _chat_through_another_framework(subject))
        _check_that_the_other_is_between(subject)

    @pytest.mark.asyncio
    async def test_an_async_tool_that_uses_another_framework(self, subject: Subject) -> None:
        subject.method("chat")
        call = subject.observed("atool")
        await call("x", lambda: _chat_through_another_framework(subject))
        _check_that_the_other_is_between(subject)


def _chat_through_another_framework(subject: Subject) -> str:
    with subject.other_framework():
        subject.driver.chat("hello")  # type: ignore[misc]  # the test has asked for it
    return ""


def _check_that_the_other_is_between(subject: Subject) -> None:
    model, tool, other = subject.the("model"), subject.the("tool"), subject.named("execute_tool other")
    assert subject.id(other) in map(subject.id, subject.above(model)), (
        "the model is not under the other framework"
    )
    assert next(subject.above(other)).name == tool.name
    assert len({subject.trace(span) for span in subject.telemetry.raw()}) == 1
