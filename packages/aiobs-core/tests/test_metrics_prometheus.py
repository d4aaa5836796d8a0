"""What the Prometheus page says: text that every parser reads, names that the linter takes, exemplars, and its bound."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from prometheus_client.utils import floatToGoString

from aiobs_core._health import Health
from aiobs_core._settings import Settings
from aiobs_core.metrics.page import answer, bound_text, render, wants_openmetrics
from aiobs_core.metrics.prometheus import AiobsCollector
from aiobs_core.metrics.series import Attributes, Exemplar, FamilySnapshot, HistogramPoint, Point
from aiobs_core.metrics.server import PrometheusServer
from aiobs_core.semconv import metrics as names
from aiobs_core.semconv.metrics import METRICS, Metric
from aiobs_testing.prometheus import Prometheus, PrometheusNotInstalled, lint_page
from aiobs_testing.rotel import free_ports

TRACE_ID, SPAN_ID = 0xAB, 0xCD
HOSTILE = [
    "two\nlines",
    "return\rtab\tbell\x07",
    'quo"tes',
    "back\\slash\\n",
    'end\\"} 1\n# EOF\n',
    "nul\x00",
    "lone \ud800 surrogate \udfff",
    "a line separator \u2028, a next line \x85",
    "\x1b[31mred",
    "x" * 10_000,
    "검색 🦜",
    "{a=\"b\"} # {trace_id='1'} 2",
    " ",
]


def histogram(metric: Metric, attributes: Attributes, *, exemplars: bool = True) -> HistogramPoint:
    counts = tuple(range(1, len(metric.bounds) + 2))
    kept = {
        bucket: Exemplar(bound, time.time_ns(), TRACE_ID, SPAN_ID)
        for bucket, bound in enumerate(metric.bounds)
    }
    return HistogramPoint(attributes, counts, 1.5, kept if exemplars else {})


def point_of(metric: Metric, attributes: Attributes) -> Point | HistogramPoint:
    return histogram(metric, attributes) if metric.instrument == "histogram" else Point(attributes, 2.0)


def everything() -> list[FamilySnapshot]:
    """A point of each metric that there is, with all of its attributes."""
    return [
        FamilySnapshot(metric, [point_of(metric, tuple((name, "x") for name in metric.attributes))])
        for metric in METRICS.values()
        if metric.generation != "1.41"
    ]


def hostile() -> list[FamilySnapshot]:
    points = [point_of(names.LATENCY, ((names.MODEL, value), (names.TOOL, "t"))) for value in HOSTILE]
    return [
        FamilySnapshot(names.LATENCY, points),
        FamilySnapshot(names.REQUESTS, [Point(((names.MODEL, value),), 1) for value in HOSTILE]),
    ]


# --- both formats -------------------------------------------------------------------------------------------------------


def test_a_page_says_what_prometheus_clients_own_renderers_say_of_the_same_metrics() -> None:
    families = everything()
    registry = CollectorRegistry()
    registry.register(AiobsCollector(lambda: families))

    theirs, _ = choose_encoder("application/openmetrics-text;version=1.0.0")
    ours = render(families, openmetrics=True).decode()
    assert list(parse_openmetrics(ours)) == list(parse_openmetrics(theirs(registry).decode()))
    ours = render(families, openmetrics=False).decode()
    assert list(parse(ours)) == list(parse(generate_latest(registry).decode()))


def test_the_names_are_the_documented_ones() -> None:
    page = render(everything(), openmetrics=False).decode()
    found = {family.name + ("_total" if family.type == "counter" else "") for family in parse(page)}
    assert found >= {
        "ai_agent_latency_seconds",
        "ai_agent_token_usage",
        "ai_agent_errors_total",
        "ai_agent_requests_total",
        "ai_agent_cost_usd_total",
        "ai_agent_active_instances",
    }
    units = {
        family.name: family.unit
        for family in parse_openmetrics(render(everything(), openmetrics=True).decode())
    }
    assert units["ai_agent_latency_seconds"] == "seconds"
    assert units["ai_agent_cost_usd"] == "usd"


def test_promtool_has_nothing_to_say_of_any_metric() -> None:
    try:
        for families in (everything(), hostile()):
            assert lint_page(render(families, openmetrics=False)) == []
    except PrometheusNotInstalled as missing:
        pytest.skip(str(missing))


def test_no_two_metrics_have_a_sample_of_the_same_name() -> None:
    samples = [
        f"{metric.prometheus_name}{suffix}"
        for metric in METRICS.values()
        for suffix in {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}[
            metric.instrument
        ]
    ]
    assert len(samples) == len(set(samples))


@given(st.text(st.characters(codec=None), max_size=30), st.text(max_size=30))
def test_any_value_leaves_a_page_that_parses(one: str, other: str) -> None:
    family = FamilySnapshot(
        names.REQUESTS,
        [Point(((names.MODEL, one), (names.TOOL, other)), 1), Point(((names.MODEL, other),), 1)],
    )
    for openmetrics, parser in ((True, parse_openmetrics), (False, parse)):
        (found,) = parser(render([family], openmetrics=openmetrics).decode("utf-8"))
        assert sum(sample.value for sample in found.samples) == 2


def test_a_hostile_value_stays_readable_and_short() -> None:
    (found,) = parse(render(hostile()[1:], openmetrics=False).decode())
    said = [sample.labels["model"] for sample in found.samples]
    assert said[0] == "two\nlines"
    assert said[5] == "nul\ufffd"
    assert max(map(len, said)) == 1024
    assert len(said) == len(set(said)) == len(HOSTILE)


def test_attributes_that_make_the_same_labels_are_one_series() -> None:
    twins: list[Attributes] = [
        (("model", "\ud800"),),
        (("model", "\ufffd"),),
        (("model", "\udfff"), ("tool", "")),
    ]
    numbers = FamilySnapshot(names.REQUESTS, [Point(attributes, 1) for attributes in twins])
    buckets = FamilySnapshot(names.LATENCY, [histogram(names.LATENCY, attributes) for attributes in twins])
    (requests, latency) = parse(render([numbers, buckets], openmetrics=False).decode())
    assert [sample.value for sample in requests.samples] == [3]
    assert [sample.value for sample in latency.samples if sample.name.endswith("_sum")] == [4.5]


@pytest.mark.parametrize(
    ("value", "text"), [(inf, "+Inf"), (-inf, "-Inf"), (nan, "NaN"), (3, "3"), (0.1, "0.1"), (1e-7, "1e-07")]
)
def test_odd_numbers_are_written_as_prometheus_reads_them(value: float, text: str) -> None:
    page = render([FamilySnapshot(names.BUDGET_SPENT, [Point((), value)])], openmetrics=True).decode()
    assert f"ai_agent_budget_spent_usd {text}\n" in page


def test_bounds_are_written_as_other_clients_write_them() -> None:
    bounds = {bound for metric in METRICS.values() for bound in metric.bounds} | {
        1e6,
        1.5e7,
        1e-5,
        0.1 + 0.2,
    }
    assert {bound: bound_text(bound) for bound in bounds} == {
        bound: floatToGoString(bound) for bound in bounds
    }
    assert bound_text(1e15) == "1e+15"  # as Go does; prometheus_client 0.20 has a nought too many


def test_exemplars_are_in_openmetrics_only() -> None:
    families = everything()
    buckets = [
        sample
        for family in parse_openmetrics(render(families, openmetrics=True).decode())
        for sample in family.samples
        if sample.exemplar
    ]
    assert buckets[0].exemplar.labels == {"trace_id": f"{TRACE_ID:032x}", "span_id": f"{SPAN_ID:016x}"}
    assert b"trace_id" not in render(families, openmetrics=False)


# --- who gets which -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
         "text/plain;version=0.0.4;q=0.5,*/*;q=0.1", True),  # Prometheus 2
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;"
         "escaping=allow-utf-8;q=0.4,*/*;q=0.3", True),  # Prometheus 3
        ("text/plain;version=0.0.4;q=0.6,*/*;q=0.5", False),  # scrape_protocols: [PrometheusText0.0.4]
        ("text/plain;q=0.9,application/openmetrics-text;q=0.1", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=lots", False),
    ],
)  # fmt: skip
def test_the_format_is_the_one_that_the_scraper_prefers(accept: str, openmetrics: bool) -> None:
    assert wants_openmetrics(accept) == openmetrics


def test_head_and_other_methods() -> None:
    assert answer("HEAD", "", "", everything).status == 200
    refused = answer("DELETE", "", "", everything)
    assert (refused.status, dict(refused.headers)["Allow"]) == (405, "GET, HEAD")


# --- the bound ----------------------------------------------------------------------------------------------------------


def test_a_page_of_50_models_and_6_stages_takes_a_tenth_of_a_second() -> None:
    stages = (
        "prompt_receive",
        "pre_process",
        "model_inference",
        "external_api",
        "post_process",
        "response_send",
    )
    runs: list[Attributes] = [
        tuple({
            "stage": stage, "operation": "chat", "provider": "openai", "model": f"gpt-{model}",
            "model_version": f"gpt-{model}-2026-01-01", "framework": "langchain", "agent": "support", "status": status,
        }.items())
        for model in range(50) for stage in stages for status in ("success", "error")
    ]  # fmt: skip
    families = [
        FamilySnapshot(names.LATENCY, [histogram(names.LATENCY, attributes) for attributes in runs]),
        FamilySnapshot(
            names.TOKEN_USAGE, [histogram(names.TOKEN_USAGE, attributes) for attributes in runs[:200]]
        ),
        FamilySnapshot(names.REQUESTS, [Point(attributes, 1) for attributes in runs]),
    ]
    accept = "application/openmetrics-text;version=1.0.0"

    taken_s, page = min(
        _timed(lambda: answer("GET", accept, "gzip", lambda: families).body) for _ in range(5)
    )

    assert render(families, openmetrics=True).count(b"\n") > 19_000
    assert page
    assert taken_s < 0.1


def _timed(work: Callable[[], bytes]) -> tuple[float, bytes]:
    start_s = time.process_time()  # others on this machine do not count
    result = work()
    return time.process_time() - start_s, result


# --- a real Prometheus --------------------------------------------------------------------------------------------------


def test_a_real_prometheus_stores_every_hostile_value_and_the_exemplars() -> None:
    (port,) = free_ports(1)
    families: Sequence[FamilySnapshot] = hostile()
    settings = Settings.load({}, {"prometheus_port": port}, strict=True)
    server = PrometheusServer(settings, lambda: families, Health(), port=port)
    targets = [f"localhost:{port}"]
    try:
        with Prometheus(targets) as prometheus, Prometheus(targets, accept_exemplars=False) as older:
            for each in (prometheus, older):
                each.wait_until_up()
                assert each.value("count(ai_agent_requests_total)") == len(HOSTILE)
                assert each.value("count(ai_agent_latency_seconds_count)") == len(HOSTILE)
            kept = prometheus.exemplars("ai_agent_latency_seconds_bucket")
            assert len(kept) == len(HOSTILE) * len(names.LATENCY.bounds)
            assert {exemplar.labels["trace_id"] for exemplar in kept} == {f"{TRACE_ID:032x}"}
    except PrometheusNotInstalled as missing:
        pytest.skip(str(missing))
    finally:
        server.close()
