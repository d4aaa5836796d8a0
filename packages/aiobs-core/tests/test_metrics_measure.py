"""What is counted of runs, and that it is counted whether or not their traces are kept."""

from __future__ import annotations

import gc
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from aiobs_core import Kind, Operation, Outcome, RunStatus, Settings, Usage, semconv
from aiobs_core._recorder import Recorder
from aiobs_core.metrics.series import Distribution, Exemplar, HistogramPoint, Point, merged
from aiobs_core.semconv import metrics as names

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01}
GPT = Operation(kind=Kind.MODEL, name="ChatOpenAI", provider="openai", model="gpt-4o")
SPENT = Usage(input_tokens=1_000, output_tokens=100, cache_read_tokens=200, reasoning_tokens=40)


def recorder_of(**settings: Any) -> Recorder:
    return Recorder(Settings.load({}, {**QUICK, **settings}, strict=True), exporters=[InMemorySpanExporter()])


@pytest.fixture
def recorder() -> Any:
    made = recorder_of()
    yield made
    made.shutdown(5)


def run(
    recorder: Recorder, operation: Operation, outcome: Outcome | None = None, *, parent: object = None
) -> Any:
    key = object()
    recorder.start(key, operation, parent=parent, scope="aiobs.test")
    recorder.end(key, outcome)
    return key


def points(recorder: Recorder, metric: names.Metric, **attributes: str) -> list[Point | HistogramPoint]:
    recorder.flush(10)  # false where a span was lost, which some tests are about
    return [
        point
        for family in recorder.metrics.snapshot()
        if family.metric is metric
        for point in family.points
        if attributes.items() <= dict(point.attributes).items()
    ]


def value(recorder: Recorder, metric: names.Metric, **attributes: str) -> float:
    """Sum over the series; of a histogram the number of its values."""
    return sum(
        point.value if isinstance(point, Point) else sum(point.counts)
        for point in points(recorder, metric, **attributes)
    )


# --- what is counted ------------------------------------------------------------------------------------------------


def test_a_request_and_its_parts_are_counted_by_stage(recorder: Recorder) -> None:
    root = object()
    recorder.start(root, Operation(kind=Kind.AGENT, name="planner"), scope="aiobs.test")
    run(recorder, GPT, Outcome(usage=SPENT, model="gpt-4o-2024-08-06"), parent=root)
    run(recorder, Operation(kind=Kind.TOOL, name="search"), parent=root)
    run(recorder, Operation(kind=Kind.PROMPT, name="template"), parent=root)
    run(recorder, Operation(kind=Kind.CHAIN, name="RunnableSequence"), parent=root)
    recorder.end(root)
    stages = {dict(point.attributes)["stage"]: point.value for point in points(recorder, names.REQUESTS)}
    assert stages == {"total": 1, "model_inference": 1, "external_api": 1, "pre_process": 1}
    assert value(recorder, names.LATENCY, stage="total", operation="invoke_agent", agent="planner") == 1
    (model,) = points(recorder, names.LATENCY, stage="model_inference")
    assert dict(model.attributes) == {
        "stage": "model_inference",
        "operation": "chat",
        "provider": "openai",
        "model": "gpt-4o",
        "model_version": "gpt-4o-2024-08-06",
        "framework": "test",
        "agent": "planner",
        "status": "success",
    }
    assert value(recorder, names.TOOL_CALLS, tool="search", status="success") == 1


def test_a_model_call_without_anything_around_it_is_request_and_part(recorder: Recorder) -> None:
    run(recorder, GPT)
    assert value(recorder, names.REQUESTS, stage="total", operation="chat") == 1
    assert value(recorder, names.REQUESTS, stage="model_inference", operation="chat") == 1


def test_tokens_are_counted_by_direction(recorder: Recorder) -> None:
    for _ in range(3):
        run(recorder, GPT, Outcome(usage=SPENT))
    expected = {"input": 3_000, "output": 300, "cached": 600, "reasoning": 120}
    assert {each: value(recorder, names.TOKENS, direction=each) for each in expected} == expected
    assert value(recorder, names.TOKEN_USAGE, direction="input") == 3
    assert value(recorder, names.GEN_AI_TOKEN_USAGE) == 6


@pytest.mark.parametrize("count", [-1, 10**30, True, "many", 1.5])
def test_what_cannot_be_a_count_is_none(recorder: Recorder, count: Any) -> None:
    run(recorder, GPT, Outcome(usage=Usage(input_tokens=count, output_tokens=5)))
    assert points(recorder, names.TOKENS, direction="input") == []
    assert value(recorder, names.TOKENS, direction="output") == 5
    assert value(recorder, names.REQUESTS, stage="total") == 1


def test_unknown_is_absent(recorder: Recorder) -> None:
    run(recorder, GPT, Outcome(usage=Usage(output_tokens=7)))
    run(recorder, GPT, Outcome())
    assert value(recorder, names.TOKENS, direction="output") == 7
    assert points(recorder, names.TOKENS, direction="input") == []
    assert points(recorder, names.TIME_TO_FIRST_CHUNK) == []
    assert points(recorder, names.COST) == []


def test_what_a_cache_of_the_framework_answers_is_no_call_to_the_provider(recorder: Recorder) -> None:
    run(recorder, GPT, Outcome(usage=Usage(source="cache_hit")))
    assert points(recorder, names.GEN_AI_OPERATION_DURATION) == []
    assert (
        points(recorder, names.TOKENS)
        == points(recorder, names.COST)
        == points(recorder, names.UNPRICED)
        == []
    )
    assert value(recorder, names.REQUESTS, stage="total") == 1


def test_errors_are_counted_by_type_and_other_ends_are_none(recorder: Recorder) -> None:
    for error in (TimeoutError(), ValueError(), ValueError(), GeneratorExit()):
        key = object()
        recorder.start(key, GPT)
        recorder.fail(key, error)
    run(recorder, GPT, Outcome(status=RunStatus.INTERRUPTED))
    assert value(recorder, names.ERRORS, stage="total", error_type="ValueError") == 2
    assert value(recorder, names.ERRORS, stage="total") == 3
    assert value(recorder, names.REQUESTS, stage="total", status="error") == 3
    assert value(recorder, names.REQUESTS, stage="total", status="abandoned") == 1
    assert value(recorder, names.REQUESTS, stage="total", status="interrupted") == 1
    assert value(recorder, names.GEN_AI_OPERATION_DURATION, **{"error.type": "ValueError"}) == 2


def test_streams_have_a_first_chunk(recorder: Recorder) -> None:
    recorder.start(1, GPT)
    recorder.chunk(1)
    recorder.end(1)
    assert value(recorder, names.TIME_TO_FIRST_CHUNK, model="gpt-4o") == 1
    assert value(recorder, names.GEN_AI_TIME_TO_FIRST_CHUNK) == 1


def test_retrievals_count_their_documents(recorder: Recorder) -> None:
    for count in (0, 4):
        found = Outcome(attributes={semconv.DOCUMENT_COUNT: count})
        run(recorder, Operation(kind=Kind.RETRIEVER, name="handbook"), found)
    (point,) = points(recorder, names.RETRIEVAL_DOCUMENTS)
    assert isinstance(point, HistogramPoint)
    assert (sum(point.counts), point.sum, point.counts[0]) == (2, 4, 1)


def test_a_value_on_a_bound_is_in_the_bucket_below() -> None:
    distribution = Distribution((), (1.0, 2.0))
    assert [distribution.record(value) for value in (0.5, 1.0, 1.5, 2.0, 2.5)] == [0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ("1.41", {"gen_ai.client.token.usage"}),
        (
            "latest",
            {"gen_ai.client.inference.usage.input_tokens", "gen_ai.client.inference.operation.input_tokens"},
        ),
    ],
)
def test_the_generation_decides_on_the_names(generation: str, expected: set[str]) -> None:
    recorder = recorder_of(semconv=generation)
    run(recorder, GPT, Outcome(usage=SPENT))
    recorder.flush(5)
    emitted = {family.metric for family in recorder.metrics.snapshot() if family.metric.dialect == "gen_ai"}
    assert all(metric.generation in {None, generation} for metric in emitted)
    assert expected <= {metric.name for metric in emitted}
    recorder.shutdown(5)


def test_another_dialect_has_no_gen_ai_metrics() -> None:
    recorder = recorder_of(dialects=("openinference",))
    run(recorder, GPT, Outcome(usage=SPENT))
    recorder.flush(5)
    assert {family.metric.dialect for family in recorder.metrics.snapshot()} == {"ai_agent"}
    recorder.shutdown(5)


def test_metrics_can_be_off() -> None:
    recorder = recorder_of(metrics=False)
    run(recorder, GPT, Outcome(usage=SPENT))
    assert points(recorder, names.REQUESTS) == []
    recorder.shutdown(5)


# --- sampling -------------------------------------------------------------------------------------------------------


def test_metrics_count_everything_when_all_traces_are_sampled_out() -> None:
    exporter = InMemorySpanExporter()
    settings = Settings.load({}, QUICK, strict=True)
    recorder = Recorder(settings, exporters=[exporter], tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    for _ in range(100):
        run(recorder, GPT, Outcome(usage=SPENT))
    assert value(recorder, names.REQUESTS, stage="total") == 100
    assert value(recorder, names.TOKENS, direction="input") == 100_000
    assert value(recorder, names.COST) == pytest.approx(100 * (0.002 + 0.00025 + 0.001))
    assert exporter.get_finished_spans() == ()
    (point,) = points(recorder, names.LATENCY, stage="total")
    assert isinstance(point, HistogramPoint)
    assert point.exemplars == {}
    recorder.shutdown(5)


def test_exemplars_lead_to_traces_that_are_kept(recorder: Recorder) -> None:
    run(recorder, GPT)
    (point,) = points(recorder, names.LATENCY, stage="total")
    assert isinstance(point, HistogramPoint)
    ((bucket, exemplar),) = point.exemplars.items()
    (span,) = recorder._pipeline._exporters[0].get_finished_spans()
    assert (exemplar.trace_id, exemplar.span_id) == (span.context.trace_id, span.context.span_id)
    assert point.counts[bucket] == 1
    assert exemplar.value <= point.sum * 1.000001


def test_many_kept_runs_leave_one_exemplar_for_each_bucket(recorder: Recorder) -> None:
    for _ in range(500):
        run(recorder, GPT, Outcome(usage=SPENT))
    assert recorder.flush(10)
    traces = {span.context.trace_id for span in recorder._pipeline._exporters[0].get_finished_spans()}
    assert len(traces) == 500
    alive = sum(type(found) is Exemplar and found.trace_id in traces for found in gc.get_objects())
    filled = sum(
        sum(count > 0 for count in point.counts)
        for family in recorder.metrics.snapshot()
        for point in family.points
        if isinstance(point, HistogramPoint)
    )
    assert 0 < alive <= filled


# --- bounds and privacy ---------------------------------------------------------------------------------------------


def test_an_attribute_has_a_bounded_number_of_values() -> None:
    recorder = recorder_of(metric_max_values=5)
    for at in range(50):
        run(recorder, Operation(kind=Kind.TOOL, name=f"tool {at}"))
    tools = {dict(point.attributes)["tool"] for point in points(recorder, names.TOOL_CALLS)}
    assert tools == {*(f"tool {at}" for at in range(5)), "other"}
    assert value(recorder, names.TOOL_CALLS) == 50
    assert value(recorder, names.TELEMETRY_OVERFLOW, attribute="tool") == 45
    recorder.shutdown(5)


def test_a_metric_has_a_bounded_number_of_series() -> None:
    recorder = recorder_of(metric_max_values=2)  # times 20
    for agent in range(2):
        for tool in range(2):
            for error in range(2):
                for model in range(2):
                    for version in range(2):
                        key = object()
                        recorder.start(
                            key,
                            Operation(
                                kind=Kind.TOOL,
                                name=f"t{tool}",
                                agent=f"a{agent}",
                                model=f"m{model}",
                                provider=f"p{version}",
                            ),
                        )
                        recorder.fail(key, (ValueError if error else KeyError)())
    assert len(points(recorder, names.ERRORS)) <= 41
    assert value(recorder, names.ERRORS) == 64
    assert value(recorder, names.TELEMETRY_OVERFLOW, attribute="ai.agent.errors") > 0
    recorder.shutdown(5)


def test_what_the_policy_masks_is_no_label(recorder: Recorder) -> None:
    run(recorder, Operation(kind=Kind.TOOL, name="mail to anna.smith@example.com"))
    (point,) = points(recorder, names.TOOL_CALLS)
    assert dict(point.attributes)["tool"] == "mail to <EMAIL>"


def test_the_servers_of_models_are_bounded_like_any_label() -> None:
    recorder = recorder_of(metric_max_values=5)
    for at in range(20):
        run(recorder, GPT._replace(endpoint=f"https://tenant-{at}.example.com"))
    hosts = {
        dict(point.attributes)["server.address"]
        for point in points(recorder, names.GEN_AI_OPERATION_DURATION)
    }
    assert len(hosts) == 6
    assert "other" in hosts
    recorder.shutdown(5)


def test_a_change_of_settings_does_not_lift_the_bound() -> None:
    recorder = recorder_of(metric_max_values=5)
    for again in range(4):
        settings = Settings.load({}, {**QUICK, "metric_max_values": 5, "grace_s": 1.0 + again}, strict=True)
        recorder.apply(settings, exporters=[InMemorySpanExporter()])
        for at in range(4):
            run(recorder, Operation(kind=Kind.TOOL, name=f"tool {again} {at}"))
        recorder.flush(5)
    assert len(points(recorder, names.TOOL_CALLS)) == 6
    assert value(recorder, names.TOOL_CALLS) == 16
    recorder.shutdown(5)


@pytest.mark.parametrize("odd", [5, b"x", ["a"], {"a": 1}])
def test_a_name_that_is_no_text_does_not_lose_the_run(recorder: Recorder, odd: Any) -> None:
    run(recorder, GPT._replace(model=odd, provider=odd, endpoint=odd, agent=odd), Outcome(model=odd))
    run(recorder, Operation(kind=Kind.TOOL, name=odd))
    assert value(recorder, names.REQUESTS, stage="total") == 2
    assert value(recorder, names.TOOL_CALLS, tool="other") == 1


@pytest.mark.parametrize("name", ["line\nbreak", 'quo"te', "x" * 10_000, "\ud800", "\x00\x1b[31m", "  "])
def test_hostile_names_become_harmless_values(recorder: Recorder, name: str) -> None:
    run(recorder, Operation(kind=Kind.TOOL, name=name))
    (point,) = points(recorder, names.TOOL_CALLS)
    tool = dict(point.attributes)["tool"]
    assert isinstance(tool, str)
    assert 0 < len(tool) <= 128
    assert tool.isprintable()
    tool.encode()


# --- now -------------------------------------------------------------------------------------------------------------


def test_open_runs_are_counted_from_the_table(recorder: Recorder) -> None:
    recorder.start(1, lambda: GPT, scope="aiobs.test")
    recorder.start(2, GPT, scope="aiobs.test")
    recorder.start(3, Operation(kind=Kind.CHAIN, name="inner"), parent=1)
    assert value(recorder, names.ACTIVE_INSTANCES, operation="chat", model="gpt-4o", framework="test") == 2
    assert value(recorder, names.ACTIVE_INSTANCES) == 2
    recorder.end(1)
    recorder.end(2)
    recorder.end(3)
    (point,) = points(recorder, names.ACTIVE_INSTANCES)
    assert isinstance(point, Point)
    assert point.value == 0


def test_aiobs_tells_how_it_is_itself(recorder: Recorder) -> None:
    recorder.start(1, lambda: 1 / 0)  # type: ignore[arg-type]
    recorder.end(1)
    assert value(recorder, names.TELEMETRY_ERRORS, kind="mapping.operation") == 1
    assert value(recorder, names.TELEMETRY_DROPPED, signal="spans") == 0
    assert value(recorder, names.TELEMETRY_QUEUED) == 0
    spent = {dict(point.attributes)["work"] for point in points(recorder, names.TELEMETRY_OVERHEAD)}
    assert {"read", "price", "measure", "decide", "mask", "render", "deliver"} <= spent


def test_counts_outlive_a_change_of_settings(recorder: Recorder) -> None:
    run(recorder, GPT)
    recorder.flush(5)
    recorder.apply(Settings.load({}, {**QUICK, "semconv": "latest"}), exporters=[InMemorySpanExporter()])
    run(recorder, GPT)
    assert value(recorder, names.REQUESTS, stage="total") == 2


@pytest.mark.skipif(sys.platform == "win32", reason="fork is a thing of POSIX")
def test_a_forked_child_counts_from_zero() -> None:
    program = textwrap.dedent("""
        import os
        from aiobs_core import Kind, Operation, configure
        from aiobs_core.semconv.metrics import REQUESTS
        recorder = configure(console="off", store="off", exporters=[])
        def count():
            with recorder.span(Operation(kind=Kind.TOOL, name="t")):
                pass
            assert recorder.flush(10)
            return sum(p.value for f in recorder.metrics.snapshot() if f.metric is REQUESTS for p in f.points
                       if dict(p.attributes)["stage"] == "total")
        assert (count(), count()) == (1, 2)
        child = os.fork()
        assert count() == (3 if child else 1)
        if child:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    """)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- several processes -------------------------------------------------------------------------------------------------


@given(st.lists(st.lists(st.floats(0, 400), max_size=20), max_size=4))
def test_the_sum_of_processes_is_the_process_of_the_sum(processes: Sequence[Sequence[float]]) -> None:
    from aiobs_core.metrics.series import Family

    def snapshot(values: Sequence[float]) -> Any:
        family = Family(names.LATENCY, max_series=10, overflowed=lambda: None)
        for each in values:
            family.distribution((("stage", "total"),)).record(each)
        return [family.snapshot()]

    together = merged([snapshot(values) for values in processes])
    alone = snapshot([value for values in processes for value in values])
    got, expected = _only(together), _only(alone)
    assert (got is None) == (expected is None)
    if got is not None and expected is not None:
        assert got.counts == expected.counts
        assert got.sum == pytest.approx(expected.sum)


def _only(snapshot: Any) -> HistogramPoint | None:
    return next((point for family in snapshot for point in family.points), None)


def test_every_metric_says_what_it_is() -> None:
    for name, metric in names.METRICS.items():
        assert name == metric.name
        assert bool(metric.bounds) == (metric.instrument == "histogram")
        assert list(metric.bounds) == sorted(set(metric.bounds))
        known: Mapping[str, object] = {**names.LABELS, **semconv.ATTRIBUTES}
        assert all(
            each in known or each in {names.GEN_AI_TOKEN_TYPE, names.GEN_AI_TOKEN_MODALITY}
            for each in metric.attributes
        )
    assert names.LATENCY.sample_name == "ai_agent_latency_seconds"
    assert names.TOKEN_USAGE.sample_name == "ai_agent_token_usage"
    assert names.ERRORS.sample_name == "ai_agent_errors_total"
    assert names.REQUESTS.sample_name == "ai_agent_requests_total"
    assert names.COST.sample_name == "ai_agent_cost_usd_total"
    assert names.ACTIVE_INSTANCES.sample_name == "ai_agent_active_instances"
