"""Which traces are kept, through the whole corridor: real runs, and spans of OpenTelemetry's own SDK around them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import baggage, context, propagate, trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased
from opentelemetry.trace import StatusCode

from aiobs_core import (
    Kind,
    Operation,
    Outcome,
    RunStatus,
    Settings,
    Usage,
    feedback,
    keep,
    semconv,
    using_attributes,
)
from aiobs_core._recorder import Recorder
from aiobs_core.export.destinations import _OwnProvider
from aiobs_core.sampling.threshold import threshold_in
from aiobs_core.semconv import metrics as names

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01, "grace_s": 0.1}
NEVER = {"keep": 0.0}
CHAIN = Operation(kind=Kind.WORKFLOW, name="answer")
TOOL = Operation(kind=Kind.TOOL, name="search")
GPT = Operation(kind=Kind.MODEL, name="ChatOpenAI", provider="openai", model="gpt-4o")


class Traced:
    """A recorder with the policy under test, whose provider takes the spans of other instrumentations, too."""

    def __init__(
        self, *rules: dict[str, Any], provider: TracerProvider | None = None, **settings: Any
    ) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = provider or _OwnProvider()
        loaded = Settings.load({}, {**QUICK, "sampling": {"rules": list(rules)}, **settings}, strict=True)
        self.recorder = Recorder(loaded, exporters=[self.exporter], tracer_provider=self.provider)

    def start(self, operation: Operation = CHAIN, parent: object = None, *, current: bool = True) -> Any:
        key = object()
        self.recorder.start(key, operation, parent=parent, scope="aiobs.test", make_current=current)
        return key

    def end(self, key: Any, outcome: Outcome | None = None) -> None:
        self.recorder.end(key, outcome)

    def fail(self, key: Any, error: Exception | None = None) -> None:
        self.recorder.fail(key, error or ValueError("no"))

    def child(self, root: Any, operation: Operation = TOOL, outcome: Outcome | None = None) -> None:
        self.end(self.start(operation, root), outcome)

    @property
    def kept(self) -> list[Any]:
        assert self.recorder.flush(10)
        return list(self.exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.kept]

    @property
    def reasons(self) -> set[Any]:
        return {(span.attributes or {}).get(semconv.SAMPLING_REASON) for span in self.kept}

    def counted(self, metric: names.Metric, **attributes: str) -> float:
        self.recorder.flush(10)
        return sum(
            point.value
            for family in self.recorder.metrics.snapshot()
            if family.metric is metric
            for point in family.points
            if attributes.items() <= dict(point.attributes).items()
        )


@contextmanager
def traced(*rules: dict[str, Any], **settings: Any) -> Iterator[Traced]:
    made = Traced(*rules, **settings)
    token = context.attach(context.Context())
    try:
        yield made
    finally:
        made.recorder.shutdown(5)
        context.detach(token)


# --- one fate -------------------------------------------------------------------------------------------------------


def test_nothing_is_marked_or_held_back_where_all_is_kept() -> None:
    with traced({"name": "all"}) as run:
        root = run.start()
        run.child(root)
        assert run.names == ["execute_tool search"]
        run.end(root)
        assert run.reasons == {None}
        assert all(not span.context.trace_state for span in run.kept)


def test_a_trace_is_kept_whole_because_of_its_last_span() -> None:
    with traced({"when": {"error": True}}, NEVER) as run:
        root = run.start()
        for _ in range(5):
            run.child(root)
        assert run.kept == []
        run.fail(root)
        assert len(run.kept) == 6
        assert {
            (span.attributes[semconv.SAMPLING_REASON], span.attributes[semconv.SAMPLING_ADJUSTED_COUNT])
            for span in run.kept
        } == {("error", 1.0)}
        assert {threshold_in(span.context.trace_state) for span in run.kept} == {0}


def test_a_trace_that_no_rule_keeps_is_dropped_whole_and_counted() -> None:
    with traced({"when": {"error": True}}, NEVER) as run:
        for _ in range(20):
            root = run.start()
            run.child(root)
            run.child(root, GPT, Outcome(usage=Usage(input_tokens=1_000, output_tokens=100)))
            run.end(root)
        assert run.kept == []
        assert run.counted(names.SAMPLING_SPANS_DROPPED) == 60
        assert run.counted(names.SAMPLING_DECISIONS, decision="dropped") == 20
        assert run.counted(names.REQUESTS, stage="total") == 20
        assert run.counted(names.TOKENS, direction="input") == 20_000
        assert run.counted(names.SAMPLING_BUFFERED_SPANS) == 0
        assert run.recorder.health.counts() == {}


def test_a_kept_trace_goes_out_at_once_as_soon_as_that_is_certain() -> None:
    with traced({"when": {"tool_failed": True}}, NEVER) as run:
        root = run.start()
        run.child(root)
        assert run.kept == []
        run.fail(run.start(TOOL, root))
        assert len(run.kept) == 2
        run.child(root)
        assert len(run.kept) == 3
        run.end(root)
        assert len(run.kept) == 4
        assert run.reasons == {"tool_failed"}


def test_what_could_still_change_waits_for_the_end() -> None:
    with traced({"when": {"error": True, "not": {"tag": "test"}}}, NEVER) as run:
        root = run.start()
        run.fail(run.start(TOOL, root))
        assert run.kept == []
        with using_attributes(tags=["test"]):
            run.child(root)
        run.end(root)
        assert run.kept == []


def test_the_end_of_open_runs_below_an_ended_root_is_waited_for() -> None:
    with traced({"when": {"error": True}}, NEVER, grace_s=5.0) as run:
        root = run.start()
        late = run.start(TOOL, root)
        run.end(root)
        time.sleep(0.1)
        run.fail(late)
        assert sorted(run.names) == ["execute_tool search", "invoke_workflow answer"]


def test_late_spans_follow_the_decision() -> None:
    with traced({"when": {"tag": "gold"}}, NEVER) as run:
        for tags, expected in ((["gold"], 3), ([], 3)):
            with using_attributes(tags=tags):
                root = run.start()
            stray = [run.start(TOOL, root), run.start(TOOL, root)]
            run.end(root)
            run.recorder.flush(10)  # decides what has ended
            for each in stray:
                run.end(each)
            assert len(run.kept) == expected


# --- other instrumentations -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_alone", [True, False])
def test_late_spans_of_other_instrumentations_follow_the_decision(is_alone: bool) -> None:
    with traced({"when": {"error": True}}, NEVER) as run:
        tracer = run.provider.get_tracer("http")
        root = run.start()
        if not is_alone:
            run.child(root)
        late = [tracer.start_span(f"late {number}") for number in range(3)]
        run.end(root)
        assert run.names == []
        late[0].end()
        assert run.names == []
        late[1].set_status(StatusCode.ERROR)
        late[1].end()
        late[2].end()
        assert run.names == ["late 1", "late 2"]
        assert all((span.attributes or {})[semconv.SAMPLING_INCOMPLETE] for span in run.kept)
        assert run.counted(names.SAMPLING_DECISIONS, **{names.DECISION: "dropped"}) == 1
        assert run.counted(names.SAMPLING_DECISIONS, **{names.DECISION: "kept"}) == 1
        assert run.counted(names.SAMPLING_SPANS_DROPPED) == (2 if is_alone else 3)


def test_spans_of_the_sdk_around_and_inside_share_the_fate() -> None:
    with traced({"when": {"error": True}}, NEVER) as run:
        tracer = run.provider.get_tracer("http")
        for fails in (False, True):
            with tracer.start_as_current_span("POST /chat"):
                root = run.start()
                tool = run.start(TOOL, root)
                with tracer.start_as_current_span("GET /search"):
                    pass
                run.end(tool)
                run.end(root)
                assert run.kept == []  # the request is not over
                second = run.start()
                (run.fail if fails else run.end)(second)
        kept = run.kept
        assert sorted(span.name for span in kept) == [
            "GET /search",
            "POST /chat",
            "execute_tool search",
            "invoke_workflow answer",
            "invoke_workflow answer",
        ]
        assert {span.attributes[semconv.SAMPLING_REASON] for span in kept} == {"error"}
        assert len({span.context.trace_id for span in kept}) == 1
        assert {threshold_in(span.context.trace_state) for span in kept} == {0}


def test_an_error_of_the_request_itself_keeps_the_runs() -> None:
    with traced({"when": {"error": True}}, NEVER) as run:
        with run.provider.get_tracer("http").start_as_current_span("POST /chat") as request:
            run.end(run.start())
            request.set_status(StatusCode.ERROR)
        assert len(run.kept) == 2


def test_a_request_that_never_ends_is_not_waited_for_for_ever() -> None:
    rule = {"when": {"operation": "answer"}}
    with (
        traced(rule, NEVER, sampling_max_wait_s=0.3) as run,
        run.provider.get_tracer("http").start_as_current_span("worker loop"),
    ):
        run.end(run.start())
        deadline = time.monotonic() + 10
        while not run.exporter.get_finished_spans() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert run.names == ["invoke_workflow answer"]


def test_an_application_that_has_its_own_provider_gets_the_kept_ones() -> None:
    theirs = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(theirs))
    with traced({"when": {"error": True}}, NEVER, provider=provider) as run:
        with provider.get_tracer("http").start_as_current_span("POST /chat"):
            run.end(run.start())
            run.fail(run.start())
        assert run.names == ["invoke_workflow answer"]
        assert [span.name for span in theirs.get_finished_spans()].count("invoke_workflow answer") == 1


# --- other services -------------------------------------------------------------------------------------------------


def test_a_trace_that_was_kept_upstream_is_kept_and_weighs_the_same() -> None:
    with traced(NEVER) as run:
        carrier = {"traceparent": f"00-{(1 << 56) - 7:032x}-{9:016x}-01", "tracestate": "ot=th:fd70a4"}
        token = context.attach(propagate.extract(carrier))
        run.end(run.start())
        context.detach(token)
        (span,) = run.kept
        assert span.attributes[semconv.SAMPLING_REASON] == "parent"
        assert span.attributes[semconv.SAMPLING_ADJUSTED_COUNT] == pytest.approx(100, rel=1e-4)
        assert span.context.trace_state["ot"] == "th:fd70a4"


def test_a_trace_that_was_dropped_upstream_is_dropped() -> None:
    with traced({"when": {"error": True}}) as run:
        token = context.attach(propagate.extract({"traceparent": f"00-{7:032x}-{9:016x}-00"}))
        run.fail(run.start())
        context.detach(token)
        assert run.kept == []
        assert run.counted(names.SAMPLING_SPANS_DROPPED) == 1


def test_two_services_keep_the_same_traces_by_ratio() -> None:
    kept = []
    for ratio in (0.2, 0.5):
        with traced({"keep": ratio}) as run:
            for number in range(300):
                parent = trace.SpanContext(
                    (number * 0x9E3779B97F4A7C15_9E3779B97F4A7C15) % (1 << 128) or 1,
                    9,
                    True,
                    trace.TraceFlags(1),
                )
                token = context.attach(trace.set_span_in_context(trace.NonRecordingSpan(parent)))
                run.end(run.start())
                context.detach(token)
            kept.append({span.context.trace_id for span in run.kept})
    assert 0 < len(kept[0]) < len(kept[1]) < 300
    assert kept[0] < kept[1]


def test_once_it_is_certain_downstream_is_told() -> None:
    with traced({"when": {"error": True}}, NEVER) as run:
        root = run.start()
        before: dict[str, str] = {}
        propagate.inject(before)
        run.fail(run.start(TOOL, root))
        assert run.kept
        run.start(TOOL, root)
        after: dict[str, str] = {}
        propagate.inject(after)
        assert "tracestate" not in before
        assert after["tracestate"] == "ot=th:0"


def test_a_head_sampler_and_a_ratio_do_not_look_at_the_same_bits() -> None:
    provider = TracerProvider(sampler=TraceIdRatioBased(0.5))  # keeps the traces whose last digits are low
    with traced({"keep": 0.5}, provider=provider) as run:
        for _ in range(800):
            run.end(run.start())
        assert 120 < len(run.kept) < 280  # a quarter; by the same bits it were none


def test_nothing_is_kept_where_the_head_sampler_is_off() -> None:
    with traced({"keep": 1.0}, provider=TracerProvider(sampler=ALWAYS_OFF)) as run:
        run.fail(run.start())
        assert run.kept == []


# --- the rules, each through real runs ------------------------------------------------------------------------------


def model(run: Traced, root: Any, name: str, tokens: int, cost_usd: float | None = None) -> None:
    asked = Operation(kind=Kind.MODEL, name="Chat", provider="acme", model=name)
    run.child(root, asked, Outcome(usage=Usage(input_tokens=tokens, output_tokens=0), cost_usd=cost_usd))


def test_calls_and_sums() -> None:
    with traced(
        {"name": "large call", "when": {"call": {"model": "gpt-3.5*", "tokens_over": 500}}},
        {"name": "many tokens", "when": {"tokens_over": 2_000}},
        {"name": "dear", "when": {"cost_over_usd": 0.1}},
        NEVER,
    ) as run:
        for name, calls in {
            "none": [("gpt-4o", 900, 0.04), ("gpt-4o", 900, 0.05)],
            "large call": [("gpt-3.5-turbo", 501, None)],
            "many tokens": [("gpt-4o", 1_000, None), ("gpt-4o", 1_001, None)],
            "dear": [("gpt-4o", 1, 0.06), ("gpt-4o", 1, 0.06)],
        }.items():
            root = run.start()
            for call in calls:
                model(run, root, *call)
            before = len(run.kept)
            run.end(root)
            assert {span.attributes[semconv.SAMPLING_REASON] for span in run.kept[before:]} == {name} - {
                "none"
            }


def test_identity_tags_attributes_and_scores() -> None:
    with traced(
        *({"when": {name: value}} for name, value in {
            "user": "u-1", "session": "s-*", "tenant": "acme", "tag": "gold", "attribute": {"shop.tier": "a*"},
            "score_below": {"helpfulness": 0.5}, "agent": "planner", "model": "gpt-4*",
        }.items()),
        NEVER,
    ) as run:  # fmt: skip
        for given in ({"user_id": "u-1"}, {"session_id": "s-9"}, {"tenant_id": "acme"}, {"tags": ["gold"]}):
            with using_attributes(**given):
                run.end(run.start())
        for given in ({"user_id": "u-2"}, {"session_id": "t-9"}, {"tenant_id": "Acme"}, {"tags": ["golden"]}):
            with using_attributes(**given):
                run.end(run.start())
        for tier in ("gold", "argent"):
            root = run.start()
            trace.get_current_span().set_attribute("shop.tier", tier)
            run.end(root)
        for name, score in (("helpfulness", 0.4), ("helpfulness", 0.5), ("speed", 0.1)):
            root = run.start()
            assert feedback(name, score)
            run.end(root)
        run.end(run.start(Operation(kind=Kind.AGENT, name="planner")))
        run.end(run.start(GPT))
        assert [span.attributes[semconv.SAMPLING_REASON] for span in run.kept] == [
            "user", "session", "tenant", "tag", "attribute", "score_below", "agent", "model",
        ]  # fmt: skip
        tenant = run.kept[2].attributes[semconv.TENANT_ID]
        assert tenant
        assert "acme" not in tenant


def test_a_feedback_is_an_event_of_the_conventions() -> None:
    with traced({"name": "all"}) as run:
        root = run.start()
        assert feedback("helpfulness", 1, label="good")
        assert not feedback("helpfulness", float("nan"))
        assert not feedback("helpfulness", "high")  # type: ignore[arg-type]
        run.end(root)
        assert not feedback("helpfulness", 1)
        (event,) = run.kept[0].events
        assert (event.name, dict(event.attributes)) == (
            "gen_ai.evaluation.result",
            {
                "gen_ai.evaluation.name": "helpfulness",
                "gen_ai.evaluation.score.value": 1.0,
                "gen_ai.evaluation.score.label": "good",
            },
        )


def test_latency_absolute_and_above_the_quantile_of_its_operation() -> None:
    rules = (
        {"name": "slow", "when": {"latency_over_s": 0.05}},
        {"name": "p99", "when": {"latency_over_quantile": 0.99}},
    )
    with traced(*rules, NEVER) as run:
        run.end(run.start())
        slow = run.start()
        time.sleep(0.06)
        run.end(slow)
        assert run.reasons == {"slow"}
    with traced(rules[1], NEVER) as run:
        for _ in range(300):
            run.end(run.start(Operation(kind=Kind.WORKFLOW, name="quick")))
        run.recorder.flush(10)
        before = len(run.kept)
        slow = run.start(Operation(kind=Kind.WORKFLOW, name="quick"))
        time.sleep(0.3)  # far above what the others took
        run.end(slow)
        other = run.start(Operation(kind=Kind.WORKFLOW, name="rare"))
        time.sleep(0.05)
        run.end(other)
        assert run.names[before:] == ["invoke_workflow quick"]
        assert before <= 30


def test_what_timed_out_counts_as_an_error() -> None:
    with traced({"when": {"error": True}}, NEVER) as run:
        run.end(run.start(), Outcome(status=RunStatus.TIMED_OUT))
        run.end(run.start(), Outcome(status=RunStatus.CANCELLED))
        assert len(run.kept) == 1


def test_keep_forces_a_trace_from_a_run_a_request_and_baggage() -> None:
    with traced(NEVER, trust_baggage=True) as run:
        assert not keep()
        root = run.start()
        tool = run.start(TOOL, root)
        assert keep()
        run.end(tool)
        run.end(root)
        assert len(run.kept) == 2
        with run.provider.get_tracer("http").start_as_current_span("POST /chat"):
            assert keep()
            run.end(run.start())
        assert len(run.kept) == 4
        token = context.attach(baggage.set_baggage(semconv.SAMPLING_KEEP, "true"))
        run.end(run.start())
        context.detach(token)
        run.end(run.start())
        assert len(run.kept) == 5
        assert run.reasons == {"forced"}


def test_what_is_rare_stays_visible_under_a_rate() -> None:
    with traced({"name": "rate", "per_second": 1, "per": "model"}, NEVER) as run:
        for number in range(2_000):
            root = run.start()
            model(run, root, "busy", 1)
            run.end(root)
            if number in (1_000, 1_500):
                root = run.start()
                model(run, root, "rare", 1)
                run.end(root)
        kept = [span.attributes.get(semconv.MODEL_NAME) for span in run.kept]
        assert kept.count("rare") == 2
        assert 5 <= kept.count("busy") <= 150
        weights = {
            span.context.trace_id: span.attributes[semconv.SAMPLING_ADJUSTED_COUNT] for span in run.kept
        }
        assert 800 < sum(weights.values()) < 4_500  # 2,002 are expected


# --- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bound",
    [{"sampling_max_traces": 20}, {"sampling_max_spans": 100}, {"sampling_max_bytes": 250_000}],
    ids=["traces", "spans", "bytes"],
)
def test_what_is_held_back_is_bounded(bound: dict[str, int]) -> None:
    with traced({"when": {"error": True}}, NEVER, **bound) as run:
        roots = []
        for _ in range(200):
            roots.append(run.start(current=False))
            for _ in range(4):
                run.child(roots[-1])
        assert run.counted(names.SAMPLING_BUFFERED_TRACES) <= 100
        assert run.counted(names.SAMPLING_BUFFERED_SPANS) <= 400
        assert run.counted(names.SAMPLING_DECISIONS, decision="dropped") >= 100
        for root in roots:
            run.fail(root)
        kept = run.kept
        failed = [span for span in kept if span.parent is None]
        assert len(failed) == 200  # errors are never lost, though the first spans of their traces may be
        partial = {span.context.trace_id for span in kept if span.attributes.get(semconv.SAMPLING_INCOMPLETE)}
        whole = {span.context.trace_id for span in kept} - partial
        assert partial
        for trace_id in whole:
            assert sum(span.context.trace_id == trace_id for span in kept) == 5


def test_a_giant_goes_before_those_that_came_first() -> None:
    with traced({"when": {"error": True}}, NEVER, sampling_max_spans=200) as run:
        small = [run.start(current=False) for _ in range(20)]
        for root in small:
            run.child(root)
        giant = run.start(current=False)
        for _ in range(300):
            run.child(giant)
        for root in small:
            run.fail(root)
        assert len(run.kept) == 40
        assert not any(semconv.SAMPLING_INCOMPLETE in span.attributes for span in run.kept)


def test_a_long_trace_is_decided_and_goes_on() -> None:
    with traced({"when": {"error": True}}, {"keep": 0.0}, sampling_max_wait_s=0.2) as run:
        dropped, failing = run.start(current=False), run.start(current=False)
        run.child(dropped)
        run.child(failing)
        deadline = time.monotonic() + 10
        while run.counted(names.SAMPLING_DECISIONS, decision="dropped") < 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        run.child(dropped)
        assert run.kept == []
        run.fail(run.start(TOOL, failing))
        run.end(dropped)
        run.end(failing)
        assert run.names == ["execute_tool search", "invoke_workflow answer"]
        assert all(span.attributes[semconv.SAMPLING_INCOMPLETE] for span in run.kept)


def test_a_trace_of_ten_thousand_spans_costs_no_more_to_decide() -> None:
    with traced({"when": {"error": True}}, {"when": {"cost_over_usd": 1, "not": {"tag": "x"}}}, NEVER) as run:
        root = run.start()
        for _ in range(10_000):
            run.child(root)
        run.fail(root)
        assert run.recorder.flush(60)
        assert len(run.kept) == 10_001


def test_threads_that_end_runs_of_many_traces_lose_nothing() -> None:
    with traced({"when": {"error": True}}, NEVER) as run:

        def work(number: int) -> None:
            for at in range(100):
                root = run.start()
                run.child(root)
                (run.fail if (at + number) % 10 == 0 else run.end)(root)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(run.kept) == 80
        assert run.counted(names.SAMPLING_SPANS_DROPPED) == 720


def test_shutdown_decides_what_is_open() -> None:
    with traced(
        {"when": {"error": True}}, {"keep": 1.0, "name": "rest", "when": {"not": {"error": True}}}
    ) as run:
        root = run.start()
        run.child(root)
        assert run.kept == []
        run.recorder.shutdown(5)
        assert len(run.exporter.get_finished_spans()) == 2
