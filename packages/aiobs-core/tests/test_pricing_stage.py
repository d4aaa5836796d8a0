"""What calls cost on their spans, added up to the root, and budgets."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, SettingsError, Usage, semconv
from aiobs_core._health import Health
from aiobs_core.semconv import metrics as names
from aiobs_core.store.reader import open_store

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01, "grace_s": 0.05}
GPT = Operation(
    kind=Kind.MODEL, name="ChatOpenAI", provider="openai", model="gpt-4o"
)  # $2.5, $1.25 cached, $10
USED = Outcome(usage=Usage(input_tokens=1_000_000, output_tokens=100_000, cache_read_tokens=400_000))
PRICE_USD = 1.5 + 0.5 + 1.0
AGENT = Operation(kind=Kind.AGENT, name="planner")
TOOL = Operation(kind=Kind.TOOL, name="search")


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        loaded = Settings.load({}, {**QUICK, **settings}, strict=True)
        self.recorder = Recorder(loaded, exporters=[self.exporter])

    def run(self, operation: Operation, outcome: Outcome | None = None, *, parent: object = None) -> None:
        key = object()
        self.recorder.start(key, operation, parent=parent)
        self.recorder.end(key, outcome)

    def spans(self) -> dict[str, ReadableSpan]:
        assert self.recorder.flush(10)
        return {span.name: span for span in self.exporter.get_finished_spans()}

    def attributes(self, name: str) -> dict[str, Any]:
        return dict(self.spans()[name].attributes or {})

    def total(self, metric: names.Metric) -> float:
        self.recorder.flush(10)
        return sum(
            point.value
            for each in self.recorder.metrics.snapshot()
            if each.metric is metric
            for point in each.points
        )


@pytest.fixture
def bench() -> Any:
    made = Bench()
    yield made
    made.recorder.shutdown(5)


def test_a_call_tells_its_cost_its_parts_and_where_the_price_is_from(bench: Bench) -> None:
    bench.run(GPT, USED)
    attributes = bench.attributes("chat gpt-4o")
    told = {name: value for name, value in attributes.items() if "cost" in name}
    assert told == {
        semconv.COST_USD: PRICE_USD,
        semconv.COST_TOTAL_USD: PRICE_USD,
        semconv.COST_INPUT_USD: 1.5,
        semconv.COST_CACHED_USD: 0.5,
        semconv.COST_OUTPUT_USD: 1.0,
        semconv.COST_SOURCE: "table",
    }


def test_costs_add_up_to_the_root_and_nothing_counts_twice(bench: Bench) -> None:
    recorder = bench.recorder
    recorder.start("root", AGENT)
    recorder.start("inner", Operation(kind=Kind.AGENT, name="writer"), parent="root")
    bench.run(GPT, USED, parent="inner")
    bench.run(GPT, USED, parent="inner")
    recorder.end("inner")
    bench.run(GPT, USED, parent="root")
    bench.run(TOOL, Outcome(cost_usd=0.25), parent="root")
    recorder.end("root")
    inner, root = bench.attributes("invoke_agent writer"), bench.attributes("invoke_agent planner")
    assert inner[semconv.COST_TOTAL_USD] == 2 * PRICE_USD
    assert root[semconv.COST_TOTAL_USD] == 3 * PRICE_USD + 0.25
    assert semconv.COST_USD not in root
    spans = bench.exporter.get_finished_spans()
    assert sum((span.attributes or {}).get(semconv.COST_USD, 0) for span in spans) == 3 * PRICE_USD + 0.25
    assert bench.total(names.COST) == 3 * PRICE_USD + 0.25


def test_a_run_without_a_span_hands_costs_on(bench: Bench) -> None:
    bench.recorder.start("root", AGENT)
    bench.recorder.start("no run", lambda: None, parent="root")
    bench.run(GPT, USED, parent="no run")
    bench.recorder.end("no run")
    bench.recorder.end("root")
    assert bench.attributes("invoke_agent planner")[semconv.COST_TOTAL_USD] == PRICE_USD


def test_what_ends_after_its_parent_counts_for_the_next_above(bench: Bench) -> None:
    bench.recorder.start("root", AGENT)
    bench.recorder.start("tool", TOOL, parent="root")
    bench.recorder.start("late", GPT, parent="tool")
    bench.recorder.end("tool")
    bench.recorder.end("late", USED)
    bench.recorder.end("root")
    assert semconv.COST_TOTAL_USD not in bench.attributes("execute_tool search")
    assert bench.attributes("invoke_agent planner")[semconv.COST_TOTAL_USD] == PRICE_USD


def test_an_unknown_model_has_no_cost_one_warning_and_a_count(bench: Bench, caplog: Any) -> None:
    bench.recorder.start("root", AGENT)
    for _ in range(3):
        bench.run(GPT._replace(model="gpt-99-mega"), USED, parent="root")
    bench.run(GPT, USED, parent="root")
    bench.recorder.end("root")
    assert semconv.COST_USD not in bench.attributes("chat gpt-99-mega")
    root = bench.attributes("invoke_agent planner")
    assert root[semconv.COST_UNPRICED_CALLS] == 3
    assert root[semconv.COST_TOTAL_USD] == PRICE_USD
    assert bench.total(names.UNPRICED) == 3
    (record,) = [each for each in caplog.records if each.name == "aiobs.pricing"]
    assert record.levelno == logging.WARNING
    assert "gpt-99-mega" in record.getMessage()
    assert "aiobs prices explain" in record.getMessage()


def test_a_model_that_nobody_sells_is_no_surprise(bench: Bench, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    bench.run(
        Operation(
            kind=Kind.MODEL, name="m", provider="openai", model="qwen", endpoint="http://localhost:8080"
        ),
        USED,
    )
    assert bench.total(names.UNPRICED) == 1
    assert [each.levelno for each in caplog.records if each.name == "aiobs.pricing"] == [logging.INFO]


def test_a_price_file_gives_a_price_and_a_bad_one_is_refused_as_a_whole(tmp_path: Any) -> None:
    file = tmp_path / "prices.toml"
    row = '[[price]]\nmodel = "our-model"\nunit = "usd_per_million_tokens"\ninput = 1.0\noutput = 2.0\n'
    file.write_text(row)
    bench = Bench(price_file=str(file))
    bench.run(GPT._replace(model="our-model"), USED)
    attributes = bench.attributes("chat our-model")
    assert (attributes[semconv.COST_USD], attributes[semconv.COST_SOURCE]) == (1.2, "file")
    bench.recorder.shutdown(5)
    file.write_text(row + row.replace("1.0", "-1.0"))
    with pytest.raises(SettingsError, match="input"):
        Settings.load({"AIOBS_PRICE_FILE": str(file)}, strict=True)


def test_half_a_bill_is_no_bill(bench: Bench) -> None:
    bench.run(GPT, Outcome(usage=Usage(output_tokens=10)))
    assert semconv.COST_USD not in bench.attributes("chat gpt-4o")
    assert bench.total(names.UNPRICED) == 1


def test_embeddings_have_no_output_to_pay_for(bench: Bench) -> None:
    operation = Operation(kind=Kind.EMBEDDING, name="e", provider="openai", model="text-embedding-3-small")
    bench.run(operation, Outcome(usage=Usage(input_tokens=1_000_000)))
    (span,) = bench.spans().values()
    assert span.attributes is not None
    assert span.attributes[semconv.COST_USD] == 0.02


def test_a_call_without_usage_is_no_question_of_price(bench: Bench) -> None:
    bench.run(GPT)
    assert semconv.COST_USD not in bench.attributes("chat gpt-4o")
    assert bench.total(names.UNPRICED) == 0


def test_the_answer_of_a_cache_costs_nothing_and_says_so(bench: Bench) -> None:
    bench.run(GPT, Outcome(usage=Usage(source="cache_hit")))
    attributes = bench.attributes("chat gpt-4o")
    assert attributes[semconv.COST_USD] == 0
    assert attributes[semconv.COST_SOURCE] == "cache_hit"


@pytest.mark.parametrize("tell", ["attribute", "outcome"])
def test_who_knows_its_own_cost_is_believed(bench: Bench, tell: str) -> None:
    span = bench.recorder.start(1, GPT)
    assert span is not None
    if tell == "attribute":
        span.set_attribute(semconv.COST_USD, 0.5)
    bench.recorder.end(1, USED._replace(cost_usd=0.5 if tell == "outcome" else None))
    attributes = bench.attributes("chat gpt-4o")
    assert attributes[semconv.COST_USD] == 0.5
    assert attributes[semconv.COST_SOURCE] == "reported"
    assert bench.total(names.COST) == 0.5


@pytest.mark.parametrize("reported", [1e308, -1.0, float("nan"), float("inf"), "a lot", True])
def test_a_reported_cost_that_is_none_is_ignored(bench: Bench, reported: Any) -> None:
    span = bench.recorder.start(1, TOOL)
    assert span is not None
    span.set_attribute(semconv.COST_USD, reported)
    bench.recorder.end(1)
    assert bench.total(names.COST) == 0
    assert semconv.COST_SOURCE not in bench.attributes("execute_tool search")


@pytest.mark.parametrize(
    ("asked", "answered", "default", "factor"),
    [
        (None, None, "", 1.0),
        ("batch", None, "", 0.5),
        ("batch", "default", "", 0.5),  # an answer never says that it was part of a batch
        (None, "batch", "", 0.5),
        ("auto", "default", "", 1.0),
        (None, None, "batch", 0.5),
        ("nonsense", None, "", 1.0),
    ],
)
def test_the_tier_decides_on_the_price(asked: Any, answered: Any, default: str, factor: float) -> None:
    bench = Bench(service_tier=default)
    params = {} if asked is None else {"service_tier": asked}
    bench.run(
        GPT._replace(params=params),
        USED._replace(service_tier=answered, usage=Usage(input_tokens=10**6, output_tokens=0)),
    )
    assert bench.attributes("chat gpt-4o")[semconv.COST_USD] == 2.5 * factor
    bench.recorder.shutdown(5)


# --- a model that lets another one answer -----------------------------------------------------------------------------


def relay(bench: Bench, *, inner: Outcome, outer: Outcome) -> list[dict[str, Any]]:
    bench.recorder.start("outer", GPT._replace(name="router"))
    bench.run(GPT, inner, parent="outer")
    bench.recorder.end("outer", outer)
    assert bench.recorder.flush(10)
    return [dict(span.attributes or {}) for span in bench.exporter.get_finished_spans()]


def test_an_answer_that_is_handed_on_is_billed_and_counted_once(bench: Bench) -> None:
    answered, handed_on = relay(bench, inner=USED, outer=USED)
    assert answered[semconv.COST_USD] == handed_on[semconv.COST_TOTAL_USD] == PRICE_USD
    assert semconv.COST_USD not in handed_on
    assert handed_on[semconv.USAGE_SOURCE] == "forwarded"
    assert handed_on[semconv.USAGE_INPUT_TOKENS] == 1_000_000
    assert bench.total(names.COST) == PRICE_USD
    assert bench.total(names.UNPRICED) == 0
    assert bench.total(names.TOKENS) == 1_000_000 + 100_000 + 400_000


def test_a_model_that_asks_another_one_and_spends_tokens_itself_is_billed_for_them(bench: Bench) -> None:
    other = Outcome(usage=Usage(input_tokens=1_000_000, output_tokens=0))
    _, own = relay(bench, inner=USED, outer=other)
    assert own[semconv.COST_USD] == 2.5
    assert own[semconv.COST_TOTAL_USD] == 2.5 + PRICE_USD
    assert own[semconv.USAGE_SOURCE] == "reported"


@pytest.mark.parametrize("odd", [["many"], {}, "many", None, True])
def test_counts_that_are_none_forward_nothing_and_lose_nothing(bench: Bench, odd: Any) -> None:
    usage = Outcome(usage=Usage(input_tokens=odd, output_tokens=odd))
    bench.recorder.start("outer", GPT)
    bench.run(GPT, usage, parent="outer")
    bench.recorder.end("outer", usage)
    bench.recorder.flush(10)
    assert bench.recorder.health.counts().get("read", 0) == 0


# --- budgets ----------------------------------------------------------------------------------------------------------


def test_a_budget_of_a_request_is_told_once_and_blocks_nothing(caplog: Any) -> None:
    bench = Bench(budget_usd_per_request=4.0)
    for _ in range(2):
        bench.recorder.start("root", AGENT)
        for _ in range(3):
            bench.run(GPT, USED, parent="root")
        bench.recorder.end("root")
    assert bench.recorder.flush(10)
    spans = bench.exporter.get_finished_spans()
    events = [event for span in spans for event in span.events if event.name == semconv.EVENT_BUDGET_EXCEEDED]
    assert [dict(event.attributes or {}) for event in events] == 2 * [
        {
            semconv.BUDGET_NAME: "request",
            semconv.BUDGET_LIMIT_USD: 4.0,
            semconv.BUDGET_SPENT_USD: 2 * PRICE_USD,
        }
    ]
    assert bench.total(names.BUDGET_EXCEEDED) == 2
    assert sum("budget of $4.0 per request" in record.getMessage() for record in caplog.records) == 2
    assert len(spans) == 8
    bench.recorder.shutdown(5)


def test_a_budget_of_an_hour_begins_anew_with_the_hour() -> None:
    bench = Bench(budget_usd_per_hour=4.0)
    hour_ns = 3_600 * 10**9
    for at, count in ((0, 3), (1, 1), (1, 2)):
        for _ in range(count):
            span = bench.recorder.start(1, GPT)
            assert span is not None
            span.trace.clock_offset_ns += at * hour_ns
            bench.recorder.end(1, USED)
        bench.recorder.flush(10)
    assert bench.total(names.BUDGET_EXCEEDED) == 2
    bench.recorder.shutdown(5)


def test_a_change_of_settings_forgets_nothing_that_was_spent() -> None:
    bench = Bench(budget_usd_per_day=4.0)
    for grace_s in (1.0, 2.0, 3.0):
        bench.recorder.apply(
            Settings.load({}, {**QUICK, "budget_usd_per_day": 4.0, "grace_s": grace_s}, strict=True),
            exporters=[bench.exporter],
        )
        bench.run(GPT, USED)
        bench.recorder.flush(10)
    assert bench.total(names.BUDGET_SPENT) == 3 * PRICE_USD
    assert bench.total(names.BUDGET_EXCEEDED) == 1
    bench.recorder.shutdown(5)


def test_what_was_spent_of_a_budget_is_a_metric() -> None:
    bench = Bench(budget_usd_per_day=100.0)
    bench.run(GPT, USED)
    assert bench.total(names.BUDGET_SPENT) == PRICE_USD
    assert bench.total(names.BUDGET_EXCEEDED) == 0
    bench.recorder.shutdown(5)


# --- the local store --------------------------------------------------------------------------------------------------


def test_the_store_keeps_what_runs_cost(tmp_path: Any) -> None:
    recorder = Recorder(Settings.load({}, {**QUICK, "store": str(tmp_path / "store")}, strict=True))
    recorder.start("root", AGENT)
    recorder.start("router", GPT, parent="root")
    recorder.start("call", GPT, parent="router")
    recorder.end("call", USED)
    recorder.end("router", USED)
    recorder.start("tool", TOOL, parent="root")
    recorder.end("tool", Outcome(cost_usd=0.25))
    recorder.end("root")
    assert recorder.flush(10)
    with closing(open_store(tmp_path / "store", health=Health())) as store:
        (run,) = store.runs(10)
        assert run.cost_nano_usd == round((PRICE_USD + 0.25) * 1e9)
        assert run.input_tokens == 1_000_000  # what is handed on counts once
    recorder.shutdown(5)
