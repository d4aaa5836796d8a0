"""Each signal is switched for itself, at run time: what is off costs nothing and leaves nothing; a trace has one fate."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, SettingsError
from aiobs_core.metrics.series import Point
from aiobs_core.semconv import metrics as names
from aiobs_testing.rotel import free_ports

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01, "grace_s": 0.05}
AGENT = Operation(kind=Kind.AGENT, name="planner")
SIGNALS = ("traces", "metrics", "logs")


class Recording:
    """A recorder with everything that left it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file = folder / "requests.jsonl"
        self.memory = InMemorySpanExporter()
        loaded = Settings.load({}, {**QUICK, "log": str(self.file), **settings}, strict=True)
        self.recorder = Recorder(loaded, exporters=[self.memory])

    def run(self, name: str, content: Callable[[], Any] | None = None, inside: tuple[str, ...] = ()) -> None:
        key = object()
        self.recorder.start(key, Operation(kind=Kind.WORKFLOW, name=name), make_current=False)
        for each in inside:
            below = object()
            operation = Operation(kind=Kind.MODEL, name=each, model="gpt-4o", content=content)
            self.recorder.start(below, operation, parent=key, make_current=False)
            self.recorder.end(below, Outcome(content=content))
        self.recorder.end(key)

    def spans(self) -> list[str]:
        assert self.recorder.flush(10)
        return [span.name.split()[-1] for span in self.memory.get_finished_spans()]

    def lines(self) -> list[str]:
        assert self.recorder.flush(10)
        return (
            [json.loads(line)["name"] for line in self.file.read_text().splitlines()]
            if self.file.exists()
            else []
        )

    def counted(self, **attributes: str) -> float:
        assert self.recorder.flush(10)
        return total(self.recorder, names.REQUESTS, **attributes)


def total(recorder: Recorder, metric: names.Metric, **attributes: str) -> float:
    return sum(
        point.value
        for family in recorder.metrics.snapshot()
        if family.metric is metric
        for point in family.points
        if isinstance(point, Point) and attributes.items() <= dict(point.attributes).items()
    )


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Callable[..., Recording]]:
    made: list[Recording] = []

    def make(**settings: Any) -> Recording:
        made.append(Recording(tmp_path, **settings))
        return made[-1]

    yield make
    for each in made:
        each.recorder.shutdown(5)


# --- what each switch does --------------------------------------------------------------------------------------------


def test_the_switches_have_variables_and_are_on() -> None:
    assert Settings.load({}).is_on
    for name in SIGNALS:
        found = Settings.load({f"AIOBS_{name.upper()}": "off"}, strict=True)
        assert [getattr(found, each) for each in SIGNALS] == [each != name for each in SIGNALS]
        assert found.is_on
    assert not Settings.load({"AIOBS_TRACES": "0", "AIOBS_METRICS": "0", "AIOBS_LOGS": "0"}).is_on
    assert not Settings.load({"OBSERVABILITY_ENABLED": "false"}).is_on


def test_without_traces_everything_is_counted_and_nothing_read_or_rendered(recording: Any) -> None:
    one, asked = recording(traces=False, log="off", content="masked"), []
    for _ in range(10):
        one.run("quiet", lambda: asked.append(1), inside=("call", "call"))
    assert one.spans() == []
    assert (one.counted(stage="total"), one.counted(stage="model_inference")) == (10, 20)
    assert asked == []
    (rendered,) = (
        point.value
        for family in one.recorder.metrics.snapshot()
        if family.metric is names.TELEMETRY_OVERHEAD
        for point in family.points
        if dict(point.attributes) == {names.WORK: "render"}
    )
    assert rendered == 0
    one.recorder.apply({"traces": True})
    one.run("loud", lambda: asked.append(1), inside=("call",))
    assert (one.spans(), len(asked) > 0) == (["gpt-4o", "loud"], True)


def test_exemplars_lead_to_traces_that_are_there(recording: Any) -> None:
    one = recording(traces=False)
    one.run("quiet")
    assert one.counted() == 1
    assert [
        exemplar
        for family in one.recorder.metrics.snapshot()
        if family.metric is names.LATENCY
        for point in family.points
        for exemplar in point.exemplars
        if exemplar is not None
    ] == []


def test_without_metrics_spans_and_lines_go_on(recording: Any) -> None:
    one = recording(metrics=False)
    one.run("first")
    one.recorder.apply({"metrics": True})
    one.run("second")
    one.recorder.apply({"metrics": False})
    one.run("third")
    assert one.spans() == one.lines() == ["first", "second", "third"]
    assert one.counted() == 1


def test_without_logs_spans_and_metrics_go_on(recording: Any) -> None:
    one = recording()
    one.run("first")
    one.recorder.apply({"logs": False})
    one.run("second")
    one.recorder.apply({"logs": True})
    one.run("third")
    assert (one.spans(), one.lines()) == (["first", "second", "third"], ["first", "third"])
    assert one.counted() == 3


def test_lines_need_neither_traces_nor_metrics(recording: Any) -> None:
    one = recording(traces=False, metrics=False)
    one.run("alone", inside=("call",))
    assert (one.spans(), one.lines(), one.counted()) == ([], ["alone"], 0)


def test_without_any_signal_no_run_begins(recording: Any) -> None:
    one = recording()
    one.recorder.apply(dict.fromkeys(SIGNALS, False))
    assert one.recorder.start("a", AGENT) is None
    assert one.recorder.open_runs == 0
    one.recorder.apply({"logs": True})
    assert one.recorder.start("a", AGENT, make_current=False) is not None
    one.recorder.end("a")


def test_the_page_opens_when_metrics_are_switched_on_and_stays(recording: Any) -> None:
    (port,) = free_ports(1)
    one = recording(metrics=False, prometheus_port=port, prometheus_host="127.0.0.1")

    def page() -> str:
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return str(answer.read(), "utf-8")

    one.run("before")
    assert one.recorder.flush(10)
    with pytest.raises(OSError, match="refused"):
        page()
    one.recorder.apply({"metrics": True})
    one.run("counted")
    assert one.counted() == 1
    for is_on in (False, True):
        one.recorder.apply({"metrics": is_on})
        lines = [line for line in page().splitlines() if line.startswith(names.REQUESTS.sample_name + "{")]
        assert [line.split()[-1] for line in lines] == ["1"] * len(lines) != []


# --- a trace has one fate ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begins", [True, False])
def test_an_open_trace_keeps_the_signals_it_began_with(recording: Any, begins: bool) -> None:
    one = recording(**dict.fromkeys(SIGNALS, True))
    one.recorder.apply(dict.fromkeys(("traces", "metrics"), begins))
    one.recorder.start("root", AGENT, make_current=False)
    one.recorder.apply(dict.fromkeys(("traces", "metrics"), not begins))
    one.recorder.start("late", Operation(kind=Kind.TOOL, name="late"), parent="root", make_current=False)
    one.recorder.end("late")
    one.recorder.end("root")
    assert (one.spans(), one.counted()) == ((["late", "planner"], 2) if begins else ([], 0))


def test_runs_that_began_while_on_end_while_off(recording: Any) -> None:
    one = recording()
    one.recorder.start("root", AGENT, make_current=False)
    one.recorder.apply({"enabled": False})
    assert one.recorder.start("during", AGENT, parent="root") is None
    one.recorder.end("during")
    one.recorder.end("root")
    assert (one.spans(), one.counted(), one.recorder.open_runs) == (["planner"], 1, 0)


def test_a_run_that_was_let_in_at_the_last_moment_leaves(recording: Any) -> None:
    """Switched off between the question whether anything is wanted and the beginning of the trace."""
    one = recording()

    class Key:
        is_armed = True

        def __hash__(self) -> int:
            if self.is_armed:
                self.is_armed = False
                one.recorder.apply(dict.fromkeys(SIGNALS, False))
            return 7

    key = Key()
    assert one.recorder.start(key, AGENT, make_current=False) is not None
    one.recorder.end(key)
    assert (one.spans(), one.counted(), one.lines()) == (["planner"], 1, ["planner"])


# --- other people's spans ---------------------------------------------------------------------------------------------


@pytest.fixture
def application() -> Iterator[tuple[TracerProvider, InMemorySpanExporter]]:
    provider, memory = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    yield provider, memory
    provider.shutdown()


def test_spans_of_the_application_do_not_hang_under_runs_that_are_not_exported(application: Any) -> None:
    provider, memory = application
    loaded = Settings.load({}, {**QUICK, "traces": False}, strict=True)
    recorder = Recorder(loaded, tracer_provider=provider)
    tracer = provider.get_tracer("app")
    with tracer.start_as_current_span("request") as request, recorder.span(AGENT):
        assert trace.get_current_span().get_span_context() == request.get_span_context()
        with tracer.start_as_current_span("http"), recorder.span(Operation(kind=Kind.TOOL, name="inner")):
            pass
    with recorder.span(AGENT), tracer.start_as_current_span("alone"):
        assert not recorder.find("none")
        with recorder.span(Operation(kind=Kind.TOOL, name="below")):
            pass
    assert recorder.flush(10)
    found: dict[str, ReadableSpan] = {span.name: span for span in memory.get_finished_spans()}
    assert found.keys() == {"request", "http", "alone"}
    assert found["http"].parent == request.get_span_context()
    assert found["alone"].parent is None
    assert total(recorder, names.REQUESTS, stage="total") == 2, "the tools are parts of the two requests"
    recorder.shutdown(5)


# --- apply ------------------------------------------------------------------------------------------------------------


def test_named_settings_change_alone(recording: Any) -> None:
    one = recording(metadata_keys=("tenant",))
    one.run("first")
    one.recorder.apply({"chain_spans": False})  # a heavy one: everything is opened anew
    one.run("second")
    assert one.spans() == ["first", "second"]
    assert one.recorder.settings.metadata_keys == ("tenant",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "blue"}, "colour: no such setting"),
        ({"enabled": False, "traces": "perhaps"}, "traces: expected true or false, got 'perhaps'"),
    ],
)
def test_what_is_no_setting_is_refused_as_a_whole(recording: Any, changes: Any, message: str) -> None:
    one = recording()
    with pytest.raises(SettingsError, match=message):
        one.recorder.apply(changes)
    assert one.recorder.settings.enabled
    one.run("goes on")
    assert one.spans() == ["on"]


def test_words_are_taken_as_the_environment_takes_them(recording: Any) -> None:
    one = recording()
    one.recorder.apply({"enabled": "no", "metadata_keys": ["tenant"]})
    assert (one.recorder.settings.enabled, one.recorder.settings.metadata_keys) == (False, ("tenant",))


def test_switches_leave_everything_open(recording: Any) -> None:
    one, flushed = recording(), []
    one.memory.force_flush = lambda *_: flushed.append(1) or True
    one.run("first")
    assert one.recorder.flush(10)
    flushed.clear()
    for name in ("enabled", *SIGNALS):
        one.recorder.apply({name: False})
        one.recorder.apply({name: True})
    one.recorder.apply({"log_level": "DEBUG"})
    assert flushed == []
    one.run("second")
    assert one.spans() == ["first", "second"]
