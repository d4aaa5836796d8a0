"""Sampling where somebody or something means it harm: odd values, forks, policies that change, parts of one trace."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import baggage, context, propagate
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode, set_span_in_context

from aiobs_core import Kind, Operation, Outcome, Settings, SettingsError, Usage, feedback, keep, semconv
from aiobs_core._context import context_with
from aiobs_core._recorder import Recorder
from aiobs_core.export.destinations import _OwnProvider
from aiobs_core.pricing import cost
from aiobs_core.sampling.threshold import threshold_in
from aiobs_core.semconv import metrics as names

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01, "grace_s": 0.1}
ERROR = {"when": {"error": True}}
NEVER = {"keep": 0.0}
CHAIN = Operation(kind=Kind.WORKFLOW, name="answer")
TOOL = Operation(kind=Kind.TOOL, name="search")
MODEL = Operation(kind=Kind.MODEL, name="ChatOpenAI", provider="openai", model="gpt-4o")


def loaded(*rules: dict[str, Any], **given: Any) -> Settings:
    return Settings.load({}, {**QUICK, "sampling": {"rules": list(rules)}, **given}, strict=True)


class Sampled:
    """A recorder with the rules under test."""

    def __init__(self, *rules: dict[str, Any], provider: TracerProvider | None = None, **given: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = provider or _OwnProvider()
        self.recorder = Recorder(
            loaded(*rules, **given), exporters=[self.exporter], tracer_provider=self.provider
        )

    def start(self, operation: Any = CHAIN, parent: object = None) -> object:
        key = object()
        self.recorder.start(key, operation, parent=parent, scope="aiobs.test", make_current=False)
        return key

    def run(self, operation: Any = TOOL, parent: object = None, *, fails: bool = False) -> None:
        key = self.start(operation, parent)
        if fails:
            self.recorder.fail(key, ValueError("no"))
        else:
            self.recorder.end(key, None)

    @property
    def kept(self) -> list[Any]:
        assert self.recorder.flush(10)
        return list(self.exporter.get_finished_spans())

    def counted(self, metric: names.Metric, **attributes: str) -> float:
        assert self.recorder.flush(10)
        return sum(
            point.value
            for family in self.recorder.metrics.snapshot()
            if family.metric is metric
            for point in family.points
            if attributes.items() <= dict(point.attributes).items()
        )

    def wait_until_dropped(self, traces: int) -> None:
        deadline = time.monotonic() + 20
        while self.counted(names.SAMPLING_DECISIONS, decision="dropped") < traces:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@contextmanager
def sampled(*rules: dict[str, Any], **given: Any) -> Iterator[Sampled]:
    made = Sampled(*rules, **given)
    token = context.attach(context.Context())
    try:
        yield made
    finally:
        made.recorder.shutdown(5)
        context.detach(token)


@contextmanager
def called_by(trace_state: str = "", flags: str = "01", trace_id: int = 7) -> Iterator[None]:
    carrier = {"traceparent": f"00-{trace_id:032x}-{9:016x}-{flags}", "tracestate": trace_state}
    token = context.attach(propagate.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


# --- one odd run must not cost the others ---------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["user", "model", "operation"])
@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "after the grace"])
def test_what_cannot_be_hashed_is_no_group_and_stops_nothing(per: str, is_late: bool) -> None:
    odd = MODEL._replace(name=["n"], user_id=["u"], model=["m"])  # type: ignore[arg-type]
    with sampled(ERROR, {"name": "rate", "per_second": 1, "per": per}, NEVER) as run:
        root = run.start(odd)
        if is_late:
            run.start(TOOL, root)  # never ends by itself
        run.recorder.end(root, None)
        run.run(CHAIN, fails=True)
        assert [span.name for span in run.kept].count("invoke_workflow answer") == 1
        assert run.recorder.flush(10)


@pytest.mark.parametrize(
    "usage",
    [
        Usage(input_tokens="12"),  # type: ignore[arg-type]
        Usage(input_tokens=-(10**9), output_tokens=1),
        Usage(input_tokens=float("nan")),  # type: ignore[arg-type]
        Usage(input_tokens=10**400),
    ],
)
def test_counts_that_are_none_neither_lose_spans_nor_lower_the_bound(usage: Usage) -> None:
    with sampled(ERROR, NEVER) as run:
        root = run.start()
        asked = run.start(MODEL, root)
        run.recorder.end(asked, Outcome(usage=usage))
        assert run.counted(names.SAMPLING_BUFFERED_SPANS) == 1
        assert 0 < run.counted(names.SAMPLING_BUFFERED_BYTES) < 10_000
        run.recorder.fail(root, ValueError("no"))
        assert len(run.kept) == 2


def test_attributes_of_other_instrumentations_may_be_anything() -> None:
    with sampled(ERROR, {"when": {"cost_over_usd": 1}}, {"when": {"score_below": 1}}, NEVER) as run:
        run.run(CHAIN)  # the first one opens the way for the others
        tracer = run.provider.get_tracer("http")
        with tracer.start_as_current_span("POST /chat"):
            with tracer.start_as_current_span("SELECT") as query:
                query.set_attribute(semconv.COST_USD, "dear")
                query.add_event(semconv.EVENT_EVALUATION, {semconv.GEN_AI_EVALUATION_SCORE: 10**400})
            run.run(CHAIN, fails=True)
        assert len(run.kept) == 3


def test_truth_values_are_neither_costs_nor_scores() -> None:
    asked = {"any": [{"cost_over_usd": 0.5}, {"score_over": 0.5}, {"score_below": 0.5}]}
    with sampled({"when": asked}, NEVER) as run:
        run.run(CHAIN)  # the first one opens the way for the others
        tracer = run.provider.get_tracer("http")
        for score, kept in ((True, 0), (False, 0), (1.0, 2)):
            with tracer.start_as_current_span("POST /chat") as request:
                request.set_attribute(semconv.COST_USD, True)
                request.add_event(semconv.EVENT_EVALUATION, {semconv.GEN_AI_EVALUATION_SCORE: score})
                run.run(CHAIN)
            assert len(run.kept) == kept, score


def test_truth_values_and_numbers_are_told_apart() -> None:
    with sampled(
        {"name": "true", "when": {"attribute": {"x": True}}, "keep": 0.0},
        {"name": "one", "when": {"attribute": {"x": 1}}},
        NEVER,
    ) as run:
        for value in (True, 1, 1.0):
            root = run.start()
            span = run.recorder.find(root)
            assert span is not None
            span.set_attribute("x", value)
            run.recorder.end(root, None)
        assert [span.attributes[semconv.SAMPLING_REASON] for span in run.kept] == ["one", "one"]


# --- what strangers send ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "state",
    [
        ",".join(f"k{number}=v" for number in range(32)),
        "ot=k:vvvvvvvvvvvv;" + ";".join(f"k{number:03d}:{'v' * 14}" for number in range(12)),
    ],
    ids=["32 entries", "a full entry"],
)
def test_a_full_trace_state_still_gets_the_threshold(state: str, caplog: pytest.LogCaptureFixture) -> None:
    with sampled(ERROR) as run, caplog.at_level(logging.WARNING):
        with called_by(state):
            run.run(CHAIN, fails=True)
        (span,) = run.kept
        assert threshold_in(span.context.trace_state) == 0
        assert len(span.context.trace_state) <= 32
    assert caplog.records == []


@pytest.mark.parametrize(
    ("said", "count"), [("True", 1), (True, 1), (1, 1), ("0", 0), (["true"], 0), (object(), 0)]
)
def test_baggage_may_hold_anything(said: object, count: int) -> None:
    with sampled(NEVER, trust_baggage=True) as run:
        token = context.attach(baggage.set_baggage(semconv.SAMPLING_KEEP, said))
        run.run(CHAIN)
        context.detach(token)
        assert len(run.kept) == count
        assert run.counted(names.SAMPLING_SPANS_DROPPED) == 1 - count


def test_a_threshold_that_the_trace_contradicts_is_not_believed() -> None:
    with sampled(NEVER) as run:
        with called_by(
            "ot=th:ffffffffffffff"
        ):  # would weigh 2**56 traces; the random bits of the trace are low
            run.run(CHAIN)
        assert run.kept == []
    with sampled(ERROR) as run:
        with called_by("ot=th:ffffffffffffff"):
            run.run(CHAIN, fails=True)
        (span,) = run.kept
        assert span.attributes[semconv.SAMPLING_REASON] == "error"
        assert threshold_in(span.context.trace_state) == 0


def test_random_bits_of_the_caller_decide_whoever_ends_first() -> None:
    for bits, count in (("0" * 14, 0), ("f" * 14, 3)):
        with sampled({"keep": 0.5}) as run:
            run.run(CHAIN)
            before = len(run.kept)
            tracer = run.provider.get_tracer("http")
            with called_by(f"ot=rv:{bits}"), tracer.start_as_current_span("POST /chat"):
                with tracer.start_as_current_span("SELECT"):
                    pass
                run.run(CHAIN)
            assert len(run.kept) - before == count


class Mute:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_feedback_and_keep_never_raise_and_do_not_claim_what_is_not_so() -> None:
    with sampled(ERROR, NEVER) as run:
        with run.recorder.span(CHAIN, scope="aiobs.test"):
            assert not feedback("helpfulness", 10**400)
            assert not feedback("helpfulness", 1, label=Mute())  # type: ignore[arg-type]
            assert not feedback(Mute(), 1)  # type: ignore[arg-type]
        with called_by(flags="00"), run.recorder.span(CHAIN, scope="aiobs.test"):
            assert not keep()
        assert run.kept == []


def test_keep_in_a_request_of_the_applications_own_provider_keeps_the_runs_below() -> None:
    with sampled(NEVER, provider=TracerProvider()) as run:
        with run.provider.get_tracer("http").start_as_current_span("POST /chat"):
            assert keep()
            run.run(CHAIN)
        assert len(run.kept) == 1


# --- processes and policies that change while traces are open --------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks, such as Linux")
def test_a_forked_child_exports_nothing_that_its_parent_holds_back() -> None:
    with sampled(ERROR, NEVER) as run:
        root = run.start()
        for _ in range(3):
            run.run(TOOL, root)
        assert run.counted(names.SAMPLING_BUFFERED_SPANS) == 3
        around = run.recorder.find(root)
        assert around is not None
        token = context.attach(context_with(context.get_current(), around))
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                run.recorder.after_fork_in_child()
                run.run(TOOL, fails=True)
                run.recorder.flush(10)
                os.write(writer, str(len(run.exporter.get_finished_spans())).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as told:
            assert told.read() == "1"
        os.waitpid(child, 0)
        context.detach(token)
        run.recorder.fail(root, ValueError("no"))
        assert len(run.kept) == 4


def test_another_policy_judges_an_open_trace_by_its_own_rules() -> None:
    first = ({"name": "tagged", "when": {"attribute": {"x": 1}}, "keep": 0.0}, NEVER)
    with sampled(*first, sampling_max_wait_s=0.1) as run:
        fails, ends = run.start(), run.start()
        for root in (fails, ends):
            span = run.recorder.find(run_below := run.start(TOOL, root))
            assert span is not None
            span.set_attribute("x", 1)
            run.recorder.end(run_below, None)
        run.wait_until_dropped(2)
        run.recorder.apply(loaded(ERROR, NEVER), exporters=[run.exporter], tracer_provider=run.provider)
        run.recorder.end(ends, None)
        assert run.kept == []
        run.recorder.fail(fails, ValueError("no"))
        (span,) = run.kept
        assert span.attributes[semconv.SAMPLING_REASON] == "error"
        assert span.attributes[semconv.SAMPLING_INCOMPLETE]


def test_policies_that_change_under_load_lose_no_error() -> None:
    with sampled(ERROR, NEVER) as run:
        failed = 0

        def work() -> None:
            nonlocal failed
            while not done.is_set():
                root = run.start()
                run.run(TOOL, root)
                run.run(TOOL, root, fails=True)
                run.recorder.end(root, None)
                failed += 1
                time.sleep(0.001)

        done = threading.Event()
        worker = threading.Thread(target=work)
        worker.start()
        for number in range(10):
            other = {"name": f"r{number}", "when": {"tokens_over": number}}
            run.recorder.apply(
                loaded(other, ERROR, NEVER), exporters=[run.exporter], tracer_provider=run.provider
            )
            time.sleep(0.02)
        done.set()
        worker.join()
        errors = [span for span in run.kept if semconv.ERROR_TYPE in span.attributes]
        assert len(errors) == failed


# --- parts of one trace ----------------------------------------------------------------------------------------------


def test_an_error_in_one_part_of_a_trace_keeps_the_other_that_is_open() -> None:
    with sampled(ERROR, NEVER, sampling_max_wait_s=0.3) as run:
        with called_by():
            first = run.start()
        run.run(TOOL, first)
        run.wait_until_dropped(1)
        with called_by():
            second = run.start()
        run.run(TOOL, second)
        run.run(TOOL, first, fails=True)
        assert run.counted(names.SAMPLING_BUFFERED_SPANS) == 0
        run.recorder.end(second, None)
        run.recorder.end(first, None)
        kept = run.kept
        assert len(kept) == 4  # all but the first one, which was gone
        assert all(span.attributes[semconv.SAMPLING_INCOMPLETE] for span in kept)


@pytest.mark.parametrize(
    "more", [{"not": {"tag": "test"}}, {"operation": "answer"}], ids=["not", "operation"]
)
def test_an_error_at_the_end_of_a_long_trace_counts_under_a_composite_rule(more: dict[str, Any]) -> None:
    with sampled({"when": {"error": True, **more}}, NEVER, sampling_max_wait_s=0.1) as run:
        root = run.start()
        run.run(TOOL, root)
        run.wait_until_dropped(1)
        run.recorder.fail(root, ValueError("no"))
        (span,) = run.kept
        assert span.attributes[semconv.SAMPLING_INCOMPLETE]


def test_an_error_of_a_later_request_of_the_same_trace_is_kept() -> None:
    with sampled(ERROR, NEVER) as run:
        run.run(CHAIN)
        tracer = run.provider.get_tracer("http")
        for fails in (False, True):
            with called_by(), tracer.start_as_current_span("POST /chat") as request:
                run.run(CHAIN)
                if fails:
                    request.set_status(StatusCode.ERROR)
            assert run.recorder.flush(10)
        assert "POST /chat" in [span.name for span in run.kept]


def test_a_trace_whose_root_is_no_run_of_its_own_is_decided_soon() -> None:
    rule = {"name": "quiet", "when": {"operation": "search", "not": {"tag": "test"}}}
    with sampled(rule, NEVER, flush_interval_s=30) as run:
        root = run.start(lambda: None)  # as a mapping says of what its framework only uses inside
        for _ in range(2):
            run.run(TOOL, root)
        run.recorder.end(root, None)
        assert len(run.kept) == 2


def step(run: Sampled, chance: random.Random, open_: list[Any]) -> tuple[int, int]:
    """Start or end something, anywhere; how many spans were started and how many have failed by it."""
    if not open_ or chance.random() < 0.5:
        above = chance.choice(open_) if open_ and chance.random() < 0.5 else None
        if above is None and chance.random() < 0.4:
            open_.append(run.provider.get_tracer("http").start_span("POST /chat"))
        elif isinstance(above, Span):
            token = context.attach(set_span_in_context(above))
            open_.append(run.start())
            context.detach(token)
        else:
            open_.append(run.start(TOOL, above))
        return 1, 0
    ended, fails = open_.pop(chance.randrange(len(open_))), chance.random() < 0.2
    if isinstance(ended, Span):
        if fails:
            ended.set_status(StatusCode.ERROR)
        ended.end()
    elif fails:
        run.recorder.fail(ended, ValueError("no"))
    else:
        run.recorder.end(ended, None)
    return 0, int(fails)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_order_each_span_is_counted_once_and_no_error_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    bounds = {"sampling_max_traces": 10, "sampling_max_spans": 100, "sampling_max_wait_s": 0.1, "grace_s": 60}
    with sampled(ERROR, {"keep": 0.3}, **bounds) as run:
        run.run(CHAIN)
        open_: list[Any] = []
        started, failed = 1, 0
        for at in range(300):
            with called_by(trace_id=chance.randrange(1, 5)) if chance.random() < 0.5 else nullcontext():
                begun, gone_wrong = step(run, chance, open_)
            started, failed = started + begun, failed + gone_wrong
            if at % 40 == 0:
                assert run.recorder.flush(10)
            if at % 100 == 0:
                time.sleep(0.12)  # traces become too old
        for each in open_:
            each.end() if isinstance(each, Span) else run.recorder.end(each, None)
        assert run.recorder.flush(10)
        run.recorder.shutdown(5)
        kept = run.exporter.get_finished_spans()
        assert len({span.context.span_id for span in kept}) == len(kept)
        assert len(kept) + run.counted(names.SAMPLING_SPANS_DROPPED) == started
        assert sum(span.status.status_code is StatusCode.ERROR for span in kept) == failed


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("a = " + "[" * 5_000, "nested too deep"),
        ("~no-such-user/rules.toml", "a readable file"),
        ("\0.toml", "a readable file"),
        ("rules = [{ keep = nan }]", "a share from 0 to 1"),
        ("rules = [{ keep = 1" + "0" * 5_000 + " }]", "cannot be parsed"),
    ],
    ids=["deep", "user", "zero", "nan", "huge"],
)
def test_hostile_rules_are_refused_in_words(said: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        Settings.load({"AIOBS_SAMPLING": said}, {}, strict=True)


def test_a_number_that_cannot_be_printed_is_refused_without_raising() -> None:
    huge = {"rules": [{"when": {"tokens_over": 10**5_000}}]}
    assert str(Settings.load({}, {"sampling": huge}).sampling) == "all"
    with pytest.raises(SettingsError, match="cannot be shown"):
        Settings.load({}, {"sampling": huge}, strict=True)


def test_too_many_rules_are_refused_before_they_are_read() -> None:
    with pytest.raises(SettingsError, match="from 1 to 100 rules") as raised:
        loaded(*[{"bad": number} for number in range(20_000)])
    assert len(str(raised.value)) < 500


# --- prices ----------------------------------------------------------------------------------------------------------

COUNTS = st.one_of(st.none(), st.integers(-5, 300_000), st.sampled_from([True, 1.5, "3", 10**15, 10**15 + 1]))
AMOUNTS = st.decimals("0", "100", places=4)
PRICES = st.dictionaries(
    st.sampled_from([*cost.TOKEN_PRICES, cost.REQUESTS]),
    st.tuples(AMOUNTS, st.one_of(st.just(()), st.tuples(st.tuples(st.integers(0, 9), AMOUNTS)))),
)


@settings(max_examples=500, deadline=None)
@given(prices=PRICES, counts=st.lists(COUNTS, min_size=4, max_size=4))
def test_a_plain_call_costs_what_the_general_rules_say(prices: Any, counts: list[Any]) -> None:
    given_, out, cached, reasoning = counts
    plain = Usage(
        input_tokens=given_, output_tokens=out, cache_read_tokens=cached, reasoning_tokens=reasoning
    )
    # A part of no tokens that is no number either takes the general way, and is nothing billed.
    general = plain._replace(image_output_tokens="none")  # type: ignore[arg-type]
    rates = cost.Rates(prices)
    assert rates.bill(plain) == rates.bill(general)
    assert rates.total(plain) == rates.bill(plain).total_usd
