"""What is current when, and whose provider gets the spans. Providers are per process, so most run in their own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(script: str, tmp_path: Path, **environ: str) -> str:
    """Run a script in a process of its own and return what it printed."""
    prelude = """
        from opentelemetry import trace, context, propagate
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        import aiobs_core
        from aiobs_core import Kind, Operation, configure, flush, get_recorder, span, using_attributes
        memory = InMemorySpanExporter()
        def finished():
            assert flush(5)
            return {s.name: s for s in memory.get_finished_spans()}
        def start(key, name="run", **more):
            return get_recorder().start(key, Operation(kind=Kind.TOOL, name=name), **more)
        """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(prelude) + textwrap.dedent(script)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
        env={"PYTHONPATH": ":".join(sys.path), "AIOBS_STORE": "off", "PATH": "", **environ},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_spans_of_other_instrumentations_join_the_trace_through_our_provider(tmp_path: Path) -> None:
    run(
        """
        configure(exporters=[memory])
        tracer = trace.get_tracer("http-client")          # before any provider exists
        start("tool")
        with tracer.start_as_current_span("GET"):
            headers = {}
            propagate.inject(headers)
        get_recorder().end("tool")
        with tracer.start_as_current_span("after"):
            pass
        spans = finished()
        tool, get, after = spans["execute_tool run"], spans["GET"], spans["after"]
        assert get.parent.span_id == tool.context.span_id
        assert headers["traceparent"].split("-")[2] == format(get.context.span_id, "016x")
        assert after.parent is None and after.context.trace_id != tool.context.trace_id
        """,
        tmp_path,
    )


def test_exception_texts_of_other_spans_do_not_leave(tmp_path: Path) -> None:
    run(
        """
        configure(exporters=[memory])
        tracer = trace.get_tracer("app")
        start("tool")
        try:
            with tracer.start_as_current_span("query"):
                raise ValueError("SECRET")
        except ValueError:
            pass
        get_recorder().end("tool")
        query = finished()["query"]
        assert "SECRET" not in query.to_json()
        assert query.events[0].attributes["exception.type"] == "ValueError"
        assert query.status.status_code is trace.StatusCode.ERROR
        """,
        tmp_path,
    )


def test_an_application_owned_provider_is_used_and_kept(tmp_path: Path) -> None:
    run(
        """
        from opentelemetry.sdk.resources import Resource
        provider = TracerProvider(resource=Resource.create({"service.name": "shop"}))
        provider.add_span_processor(SimpleSpanProcessor(memory))
        trace.set_tracer_provider(provider)
        with trace.get_tracer("app").start_as_current_span("request"):
            start("tool")
            get_recorder().end("tool")
        spans = finished()
        assert trace.get_tracer_provider() is provider
        tool = spans["execute_tool run"]
        assert tool.parent.span_id == spans["request"].context.span_id
        assert tool.resource.attributes["service.name"] == "shop"
        """,
        tmp_path,
    )


@pytest.mark.parametrize("owner", ["app", "aiobs"])
def test_the_head_sampler_and_an_unsampled_parent_are_respected(tmp_path: Path, owner: str) -> None:
    run(
        f"""
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
        if {owner!r} == "app":
            provider = TracerProvider(sampler=ALWAYS_OFF)
            provider.add_span_processor(SimpleSpanProcessor(memory))
            trace.set_tracer_provider(provider)
        else:
            configure(exporters=[memory])
        recorded = start("tool")
        assert not recorded.is_recording()
        assert not recorded.get_span_context().trace_flags.sampled
        start("child", parent="tool")
        get_recorder().end("child")
        get_recorder().end("tool")
        assert finished() == {{}}
        assert get_recorder().open_runs == 0
        """,
        tmp_path,
        OTEL_TRACES_SAMPLER="always_off",
    )


def test_an_incoming_traceparent_is_the_parent_of_the_root(tmp_path: Path) -> None:
    run(
        """
        configure(exporters=[memory])
        header = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01", "tracestate": "x=1"}
        context.attach(propagate.extract(header))
        start("tool")
        get_recorder().end("tool")
        tool = finished()["execute_tool run"]
        assert tool.context.trace_id == int("a" * 32, 16)
        assert tool.parent.span_id == int("b" * 16, 16) and tool.parent.is_remote
        assert tool.context.trace_state.get("x") == "1"
        """,
        tmp_path,
    )


def test_a_span_heals_itself_in_every_context_that_still_holds_it(tmp_path: Path) -> None:
    run(
        """
        import contextvars
        configure(exporters=[memory])
        start("first"); get_recorder().end("first")       # from here on there is a provider
        tracer = trace.get_tracer("app")
        with tracer.start_as_current_span("request") as request:
            for n in range(1_000):                        # attached a thousand times, never detached
                start(n)
                get_recorder().end(n)
            held = trace.get_current_span()
            assert held.get_span_context() == request.get_span_context()
            assert held.outer is request                  # the chain does not grow
            held.set_attribute("k", "v")                  # goes to the request's span
            held.set_status(trace.StatusCode.ERROR, "x")
            held.add_event("e")
            held.update_name("renamed")
            held.record_exception(ValueError("x"))
            assert held.is_recording()
            held.end()                                    # no effect on anything
            start("outer"); start("inner", parent="outer")
            copied = contextvars.copy_context()
            get_recorder().end("inner")
            assert copied.run(trace.get_current_span).get_span_context().span_id == get_recorder().find("outer").span_id
            get_recorder().end("outer")
            assert copied.run(trace.get_current_span).get_span_context() == request.get_span_context()
        assert request.attributes["k"] == "v" and request.name == "renamed" and len(request.events) == 2
        """,
        tmp_path,
    )


def test_a_foreign_span_inside_a_run_is_the_parent_of_the_runs_below(tmp_path: Path) -> None:
    run(
        """
        configure(exporters=[memory])
        tracer = trace.get_tracer("app")
        start("tool", "tool")
        with tracer.start_as_current_span("step"):
            start("known", "by key", parent="tool")
            get_recorder().end("known")
            start("unknown", "by context")
            get_recorder().end("unknown")
        get_recorder().end("tool")
        spans = finished()
        step = spans["step"]
        assert step.parent.span_id == spans["execute_tool tool"].context.span_id
        for name in ("execute_tool by key", "execute_tool by context"):
            assert spans[name].parent.span_id == step.context.span_id, name
            assert not spans[name].is_local_root
        """,
        tmp_path,
    )


def test_request_attributes_reach_every_run_and_nest(tmp_path: Path) -> None:
    run(
        """
        import threading
        from aiobs_core import semconv
        configure(exporters=[memory])
        with using_attributes(request_id="r", user_id="USER", session_id="s", tags=["a"], prompt_name="p", prompt_version="2"):
            with using_attributes(tags=["b"]):
                start("outer", "outer")
                thread = threading.Thread(target=lambda: (start("inner", "inner", parent="outer"), get_recorder().end("inner")))
                thread.start(); thread.join()
                get_recorder().end("outer")
        start("later", "later"); get_recorder().end("later")
        spans = finished()
        for name in ("execute_tool outer", "execute_tool inner"):
            a = spans[name].attributes
            assert a[semconv.REQUEST_ID] == "r" and a[semconv.SESSION_ID] == "s" and a[semconv.TAGS] == ("a", "b")
            assert a[semconv.PROMPT_NAME] == "p" and a[semconv.PROMPT_VERSION] == "2"
            assert a[semconv.GEN_AI_PROMPT_NAME] == "p"
            assert "USER" not in spans[name].to_json()
        later = spans["execute_tool later"]
        assert semconv.SESSION_ID not in later.attributes
        assert later.attributes[semconv.REQUEST_ID] == format(later.context.trace_id, "032x")
        """,
        tmp_path,
    )


def test_our_own_io_is_not_traced(tmp_path: Path) -> None:
    run(
        """
        from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
        from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
        seen = []
        class Looking(SpanExporter):
            def export(self, spans):
                seen.append(context.get_value(_SUPPRESS_INSTRUMENTATION_KEY))
                return SpanExportResult.SUCCESS
        configure(exporters=[Looking()])
        start("tool"); get_recorder().end("tool"); flush(5)
        assert seen == [True]
        """,
        tmp_path,
    )


def test_a_failing_exporter_is_counted_and_the_others_still_get_the_spans(tmp_path: Path) -> None:
    run(
        """
        import logging
        from opentelemetry.sdk.trace.export import SpanExporter
        class Failing(SpanExporter):
            def export(self, spans): raise OSError("disk")
            def force_flush(self, timeout_millis=0): raise OSError("disk")
            def shutdown(self): raise OSError("disk")
        warnings = []
        logging.getLogger("aiobs").addFilter(lambda r: warnings.append(r.getMessage()))
        configure(exporters=[Failing(), memory])
        for n in range(3):
            start(n); get_recorder().end(n); flush(5)
        assert len(memory.get_finished_spans()) == 3
        assert get_recorder().health.counts()["spans.dropped"] == 3
        assert [w for w in warnings if "batch" in w] == ["aiobs: Failing failed (OSError); the spans of that batch did not reach it."]
        """,
        tmp_path,
    )


def test_settings_can_be_changed_while_the_process_runs(tmp_path: Path) -> None:
    run(
        """
        second = InMemorySpanExporter()
        recorder = configure(exporters=[memory])
        start(1); recorder.end(1)
        assert configure(exporters=[second], dialects="openinference") is recorder
        start(2, "two"); recorder.end(2); flush(5)
        assert [s.name for s in memory.get_finished_spans()] == ["execute_tool run"]
        (two,) = second.get_finished_spans()
        assert two.attributes["openinference.span.kind"] == "TOOL"
        assert not any(key.startswith("gen_ai.operation") for key in two.attributes)
        """,
        tmp_path,
    )


@pytest.mark.parametrize("provider", ["trace.NoOpTracerProvider()", "Foreign()"])
def test_a_provider_that_takes_no_finished_spans_is_named_and_the_spans_go_elsewhere(
    tmp_path: Path, provider: str
) -> None:
    run(
        f"""
        class Foreign(trace.TracerProvider):
            def get_tracer(self, *args, **kwargs):
                return trace.NoOpTracer()
        import logging
        told = []
        logging.getLogger("aiobs").addFilter(lambda record: told.append(record.getMessage()))
        trace.set_tracer_provider({provider})
        configure(exporters=[memory])
        start("tool"); get_recorder().end("tool")
        assert "execute_tool run" in finished()
        assert sum("TracerProvider in use" in line for line in told) == 1, told
        """,
        tmp_path,
    )


def test_a_working_directory_that_is_gone_costs_the_store_only(tmp_path: Path) -> None:
    run(
        """
        import os, pathlib
        gone = pathlib.Path("gone"); gone.mkdir(); os.chdir(gone); os.rmdir(os.getcwd())
        recorder = configure(store="auto", console="off")
        for n in range(2):
            start(n); recorder.end(n); assert flush(5)
        assert recorder.health.counts()["store.no_folder"] == 1, recorder.health.counts()
        """,
        tmp_path,
    )


def test_switched_off_spans_of_other_instrumentations_stay_too(tmp_path: Path) -> None:
    run(
        """
        configure(exporters=[memory])
        start("first"); get_recorder().end("first")
        tracer = trace.get_tracer("app")
        recorder = configure(exporters=[memory], enabled=False)
        with tracer.start_as_current_span("hidden"):
            pass
        configure(exporters=[memory])
        start("last"); get_recorder().end("last")
        assert "hidden" not in finished()
        """,
        tmp_path,
    )


def test_attributes_of_a_generator_closed_elsewhere_do_not_touch_that_context(tmp_path: Path) -> None:
    run(
        """
        import contextvars
        from aiobs_core._context import request_attributes
        def inside():
            with using_attributes(request_id="theirs"):
                yield
        generator = inside()
        contextvars.copy_context().run(next, generator)
        with using_attributes(request_id="mine"):
            generator.close()
            assert request_attributes.get().request_id == "mine"
        """,
        tmp_path,
    )


@pytest.mark.parametrize("last", ["provider.shutdown()", "provider.force_flush(); os._exit(0)"])
def test_flushing_the_applications_provider_flushes_what_aiobs_still_holds(tmp_path: Path, last: str) -> None:
    out = run(
        f"""
        import os, sys
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(formatter=lambda s: s.name + "\\n", out=sys.stdout)))
        trace.set_tracer_provider(provider)
        for n in range(5):
            start(n, f"run {{n}}"); get_recorder().end(n)
        {last}
        """,
        tmp_path,
    )
    assert sorted(out.split("\n"))[1:] == [f"execute_tool run {n}" for n in range(5)]


def test_a_signal_handler_may_flush_at_any_moment(tmp_path: Path) -> None:
    run(
        """
        import signal, time
        configure(exporters=[memory], flush_interval_s=0.01)
        inside = []
        def on_alarm(*_):
            if not inside:                                   # not nested in itself: that would only be a deep stack
                inside.append(1)
                get_recorder().flush(0.05)
                inside.clear()
        signal.signal(signal.SIGALRM, on_alarm)
        signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
        until = time.monotonic() + 2
        n = 0
        while time.monotonic() < until:
            start(n); get_recorder().end(n); n += 1
            if n % 50 == 0:
                get_recorder().flush(0.05)
        signal.setitimer(signal.ITIMER_REAL, 0)
        flush(10)
        assert len(memory.get_finished_spans()) + get_recorder().health.counts().get("spans.dropped", 0) == n
        """,
        tmp_path,
    )


def test_exception_texts_leave_in_no_attribute_event_or_link(tmp_path: Path) -> None:
    run(
        """
        configure(exporters=[memory])
        texts = {"exception.message": "SECRET", "exception.stacktrace": "SECRET", "error.message": "SECRET", "kept": 1}
        span_ = start("tool")
        span_.set_attributes(texts); span_.add_event("other", texts, timestamp=1.5)
        span_.add_link(span_.get_span_context(), texts)
        with trace.get_tracer("app").start_as_current_span("foreign", attributes=texts) as other:
            other.add_event("other", texts)
        get_recorder().fail("tool", type("Odd SECRET name", (Exception,), {})())
        for span_ in finished().values():
            assert "SECRET" not in span_.to_json(), span_.to_json()
            assert span_.attributes["kept"] == 1
        """,
        tmp_path,
    )


def test_flush_says_that_something_was_lost(tmp_path: Path) -> None:
    run(
        """
        from opentelemetry.sdk.trace.export import SpanExportResult
        class Refusing(InMemorySpanExporter):
            def export(self, spans): return SpanExportResult.FAILURE
        configure(exporters=[Refusing()])
        start("tool"); get_recorder().end("tool")
        assert not flush(5)
        assert flush(5)
        """,
        tmp_path,
    )


def test_a_run_started_elsewhere_is_no_child_of_a_stream_that_nobody_is_inside_of(tmp_path: Path) -> None:
    run(
        """
        import asyncio
        configure(exporters=[memory])
        async def stream():
            import sys
            start("stream", "stream", frame_id=id(sys._getframe()))
            yield 1
            get_recorder().end("stream")
        async def other(name):
            start(name, name); get_recorder().end(name)
        async def inside():
            import sys
            start("outer", "outer", frame_id=id(sys._getframe()))
            await asyncio.gather(other("child"))
            get_recorder().end("outer")
        async def main():
            items = stream()
            async for _ in items:
                break
            await asyncio.create_task(other("task"))
            await asyncio.to_thread(lambda: asyncio.run(other("thread")))
            await items.aclose()
            get_recorder().end("stream")
            await inside()
        asyncio.run(main())
        spans = finished()
        assert spans["execute_tool task"].parent is None
        assert spans["execute_tool thread"].parent is None
        assert spans["execute_tool child"].parent.span_id == spans["execute_tool outer"].context.span_id
        """,
        tmp_path,
    )
