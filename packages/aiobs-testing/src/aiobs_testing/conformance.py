"""`ConformanceSuite`: what every integration must do, as tests that it inherits and cannot override."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import pytest
from opentelemetry import trace

from aiobs_core import semconv, suppressed
from aiobs_testing.capture import Telemetry
from aiobs_testing.driver import Driver
from aiobs_testing.semconv_check import problems
from aiobs_testing.subject import CANARY, FailingExporter, Subject, current_id, noting, raising


class _Missing(Exception):
    """Raised by nothing but a test of this suite."""


class ConformanceSuite:
    """Subclass it, set `driver`, and declare in `gaps` what the framework cannot do.

    A test whose name is in `gaps` must fail: once it passes, the gap has to be deleted. Overriding a test is an
    error. Driver methods that are missing are skipped by name. Needs the fixture `telemetry` of this package.

    Example:
        class TestLangChain(ConformanceSuite):
            driver = LangChainDriver
            gaps = {"test_batch": "the framework has no batch API that …"}
    """

    driver: ClassVar[type[Driver]]
    gaps: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tests = {name for name in vars(ConformanceSuite) if name.startswith("test_")}
        overridden = sorted(tests & vars(cls).keys())
        if overridden:
            raise TypeError(f"{cls.__name__} overrides {', '.join(overridden)}; declare a gap instead")
        unknown = sorted(cls.gaps.keys() - tests)
        if unknown:
            raise TypeError(f"{cls.__name__} declares gaps in tests that do not exist: {', '.join(unknown)}")

    @pytest.fixture(autouse=True)
    def _declared_gap(self, request: pytest.FixtureRequest) -> None:
        reason = self.gaps.get(request.node.originalname)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture
    def subject(self, telemetry: Telemetry) -> Iterator[Subject]:
        subject = Subject(self.driver(), telemetry)
        yield subject
        telemetry.wait_until_closed()
        assert problems(telemetry.raw_of(subject.driver.scope)) == []

    # --- what is recorded -----------------------------------------------------------------------------------------

    def test_chat(self, subject: Subject) -> None:
        subject.observed("chat")("hello")
        (span,) = subject.of_kind("model")
        subject.check_model(span)
        assert span.kind is trace.SpanKind.CLIENT
        assert semconv.TIME_TO_FIRST_CHUNK_S not in (span.attributes or {})

    @pytest.mark.asyncio
    async def test_achat(self, subject: Subject) -> None:
        await subject.observed("achat")("hello")
        subject.check_model(*subject.of_kind("model"))

    def test_stream(self, subject: Subject) -> None:
        assert len(list(subject.observed("stream")("hello"))) >= 3
        (span,) = subject.of_kind("model")
        subject.check_model(span)
        subject.check_first_chunk(span)

    @pytest.mark.asyncio
    async def test_astream(self, subject: Subject) -> None:
        assert len([chunk async for chunk in subject.observed("astream")("hello")]) >= 3
        (span,) = subject.of_kind("model")
        subject.check_model(span)
        subject.check_first_chunk(span)

    def test_tool(self, subject: Subject) -> None:
        result = object()
        subject.observed("tool")("x", lambda: str(id(result)))
        (span,) = subject.of_kind("tool")
        assert span.name == "execute_tool look"
        assert subject.get(span, semconv.GEN_AI_TOOL_NAME) == "look"

    def test_tool_error(self, subject: Subject) -> None:
        error = ValueError(CANARY)
        with pytest.raises(ValueError, match=CANARY) as caught:
            subject.observed("tool")("x", raising(error))
        assert caught.value is error
        (span,) = subject.of_kind("tool")
        subject.check_error(span, "ValueError")

    def test_model_error(self, subject: Subject) -> None:
        error = ConnectionError(CANARY)
        with pytest.raises(ConnectionError, match=CANARY) as caught:
            subject.observed("failing_chat")(error)
        assert caught.value is error
        (span,) = subject.of_kind("model")
        subject.check_error(span, "ConnectionError")

    def test_retrieve(self, subject: Subject) -> None:
        subject.observed("retrieve")("query", ["one", "two"])
        (span,) = subject.of_kind("retriever")
        assert subject.get(span, semconv.DOCUMENT_COUNT) == 2

    def test_agent(self, subject: Subject) -> None:
        subject.observed("agent")("hello", lambda: "found")
        subject.check_agent()

    @pytest.mark.asyncio
    async def test_aagent(self, subject: Subject) -> None:
        await subject.observed("aagent")("hello", lambda: "found")
        subject.check_agent()

    def test_parallel_tools(self, subject: Subject) -> None:
        inside: dict[str, int] = {}
        subject.observed("parallel_tools")(lambda name: inside.setdefault(name, current_id()))
        tools = subject.of_kind("tool")
        assert {subject.id(span) for span in tools} == set(inside.values())
        assert len({subject.trace(span) for span in tools}) == 1
        assert len(inside) == 2

    def test_batch(self, subject: Subject) -> None:
        subject.observed("batch")(["a", "b", "c"])
        models = subject.of_kind("model")
        assert len(models) == 3
        assert len({subject.trace(span) for span in models}) == 3

    def test_every_span_names_its_scope_and_framework(self, subject: Subject) -> None:
        subject.observed("chat")("hello")
        for span in subject.spans():
            assert span.instrumentation_scope is not None
            assert span.instrumentation_scope.version
            assert subject.get(span, semconv.FRAMEWORK) == subject.driver.scope.removeprefix(
                semconv.SCOPE_PREFIX
            )

    # --- ends that do not come by themselves ----------------------------------------------------------------------

    def test_stream_closed_early(self, subject: Subject) -> None:
        chunks = subject.observed("stream")("hello")
        next(iter(chunks))
        chunks.close()
        del chunks
        subject.telemetry.wait_until_closed()
        (span,) = subject.of_kind("model")
        assert subject.get(span, semconv.OUTCOME) == "abandoned"
        assert span.status.status_code is not trace.StatusCode.ERROR

    @pytest.mark.parametrize("how", ["cancel", "wait_for"])
    @pytest.mark.asyncio
    async def test_cancelled(self, subject: Subject, how: str) -> None:
        call = subject.observed("slow_achat")
        if how == "cancel":
            task = asyncio.ensure_future(call("hello"))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
        else:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call("hello"), 0.05)
        await asyncio.sleep(0)
        subject.telemetry.wait_until_closed()
        (span,) = subject.of_kind("model")
        assert subject.get(span, semconv.OUTCOME) == "cancelled"
        assert span.status.status_code is not trace.StatusCode.ERROR

    # --- context --------------------------------------------------------------------------------------------------

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

    def test_threads_are_kept_apart(self, subject: Subject) -> None:
        call = subject.observed("tool")
        threads = [threading.Thread(target=call, args=(str(n), lambda: "")) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tools = subject.of_kind("tool")
        assert len(tools) == 8
        assert len({subject.trace(span) for span in tools}) == 8

    # --- once, or not at all --------------------------------------------------------------------------------------

    @pytest.mark.parametrize("handlers", ["the same twice", "two instances"])
    def test_a_run_is_one_span_however_often_it_is_reported(self, subject: Subject, handlers: str) -> None:
        call = subject.observed("chat")
        again = subject.driver.handlers[0] if handlers == "the same twice" else subject.driver.make_handler()
        subject.driver.handlers.append(again)
        call("hello")
        assert len(subject.of_kind("model")) == 1

    def test_installed_twice_and_uninstalled(self, subject: Subject) -> None:
        call = subject.method("chat")
        install, uninstall = subject.method("install"), subject.method("uninstall")
        install()
        install()
        try:
            call("hello")
        finally:
            uninstall()
        assert len(subject.of_kind("model")) == 1
        call("hello")
        assert len(subject.of_kind("model")) == 1

    def test_suppressed(self, subject: Subject) -> None:
        call = subject.observed("chat")
        with suppressed():
            call("hello")
        assert subject.spans() == []

    def test_switched_off_while_running(self, subject: Subject) -> None:
        call = subject.observed("tool")
        recorder = subject.telemetry.recorder
        on = recorder.settings
        off = replace(on, enabled=False)
        call("x", lambda: recorder.apply(off))
        call("x", lambda: "")
        recorder.apply(on)
        call("x", lambda: "")
        assert len(subject.of_kind("tool")) == 2

    # --- never harm -----------------------------------------------------------------------------------------------

    def test_results_are_those_of_an_unobserved_call(self, subject: Subject) -> None:
        call = subject.method("tool")
        bare = call("x", lambda: "found")
        assert subject.comparable(subject.observed("tool")("x", lambda: "found")) == subject.comparable(bare)

    def test_no_content_leaves(self, subject: Subject) -> None:
        subject.run_if_there("chat", CANARY)
        subject.run_if_there("retrieve", CANARY, [CANARY, CANARY])
        subject.run_if_there("tool", CANARY, lambda: CANARY)
        subject.run_if_there("agent", CANARY, lambda: CANARY)
        for method, arguments in (
            ("tool", ("x", raising(_Missing(CANARY)))),
            ("failing_chat", (_Missing(CANARY),)),
        ):
            if subject.has(method):
                with pytest.raises(_Missing):
                    subject.observed(method)(*arguments)
        assert subject.spans()
        for span in subject.telemetry.raw():
            assert CANARY not in span.to_json()

    def test_a_failing_exporter_does_not_reach_the_application(self, subject: Subject) -> None:
        recorder = subject.telemetry.recorder
        recorder.apply(recorder.settings, exporters=[FailingExporter()])
        subject.observed("chat")("hello")
        assert not recorder.flush(5)
        assert recorder.health.counts()["spans.dropped"] >= 1
        recorder.apply(recorder.settings, exporters=[])
        subject.telemetry.forgive_warnings()
