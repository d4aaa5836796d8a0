"""A real Prometheus scrapes a LangGraph agent and a LlamaIndex engine: what PromQL says is what the spans of the run say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, Request, build_opener

import pytest

from aiobs_core import semconv
from aiobs_core.semconv import metrics as names
from aiobs_testing.prometheus import Prometheus, PrometheusNotInstalled, lint_page, prometheus_program
from aiobs_testing.rotel import free_ports

_PRICES = """
[[price]]
model = "scripted-lc"
unit = "usd_per_million_tokens"
input = 3.0
output = 15.0
cache_read = 0.3

[[price]]
model = "scripted-li"
unit = "usd_per_million_tokens"
input = 0.5
output = 1.5
"""
_http = build_opener(ProxyHandler({}))


@pytest.fixture(scope="module", autouse=True)
def _installed() -> None:
    try:
        prometheus_program()
    except PrometheusNotInstalled as missing:
        pytest.skip(str(missing))


class Served:
    """The program under scrape."""

    def __init__(self, process: Any, port: int) -> None:
        self._process = process
        self.target = f"localhost:{port}"
        self.url = f"http://{self.target}/metrics"
        assert process.stdout.readline() == "ready\n", process.stderr.read()

    def work(self, count: int, failures: int = 0) -> list[dict[str, Any]]:
        self._process.stdin.write(f"work {count} {failures}\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def page(self, accept: str = "text/plain") -> bytes:
        with _http.open(Request(self.url, headers={"Accept": accept}), timeout=10) as answer:
            return answer.read()


@contextmanager
def served(tmp_path: Path, **variables: str) -> Iterator[Served]:
    (tmp_path / "prices.toml").write_text(_PRICES)
    (port,) = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("prometheus_scenes.py"))],
        env={
            **os.environ,
            "AIOBS_PROMETHEUS_PORT": str(port),
            "AIOBS_PRICE_FILE": str(tmp_path / "prices.toml"),
            **variables,
        },
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        yield Served(process, port)
    finally:
        process.communicate("quit\n", timeout=30)


def tokens_of(spans: Sequence[dict[str, Any]], attribute: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for span in spans:
        if attribute in span["attributes"]:
            found[span["attributes"][semconv.MODEL_NAME]] += span["attributes"][attribute]
    return dict(found)


def p95_of(durations_s: Sequence[float]) -> float:
    """What `histogram_quantile` has to make of these durations, worked out from the definition."""
    bounds = [0.0, *names.LATENCY_BOUNDS_S]
    buckets = Counter(bisect_left(names.LATENCY_BOUNDS_S, duration_s) for duration_s in durations_s)
    rank, seen = 0.95 * len(durations_s), 0
    for at in range(len(names.LATENCY_BOUNDS_S)):
        if seen + buckets[at] >= rank and buckets[at]:
            return bounds[at] + (bounds[at + 1] - bounds[at]) * (rank - seen) / buckets[at]
        seen += buckets[at]
    return bounds[-1]


def by(prometheus: Prometheus, label: str, promql: str) -> dict[str, float]:
    return {series.get(label, ""): value for series, value in prometheus.query(promql)}


LATENCY, REQUESTS, ERRORS = names.LATENCY.sample_name, names.REQUESTS.sample_name, names.ERRORS.sample_name
TOKENS, COST = names.TOKENS.sample_name, names.COST.sample_name


def test_promql_says_what_the_spans_say(tmp_path: Path) -> None:
    with served(tmp_path) as program, Prometheus([program.target]) as prometheus:
        spans = program.work(1, 1)  # the series are there before their rates are asked for
        prometheus.wait_until_up()
        for _ in range(8):
            spans += program.work(10, 2)
        roots = [span for span in spans if span["is_root"]]
        prometheus.wait_for(f'sum({REQUESTS}{{stage="total"}}) == {len(roots)}')

        # requests and errors, in all and as rates
        assert prometheus.value(f'sum({REQUESTS}{{stage="total"}})') == len(roots) == 162
        failed = [span for span in roots if span["attributes"][semconv.OUTCOME] == "error"]
        assert len(failed) == 17
        assert by(prometheus, "error_type", f'sum by (error_type) ({ERRORS}{{stage="total"}})') == {
            "LookupError": 17.0
        }
        window = "[1m]"
        ratio = f'sum(increase({ERRORS}{{stage="total"}}{window})) / sum(increase({REQUESTS}{{stage="total"}}{window}))'
        assert prometheus.value(ratio) == pytest.approx(16 / 160, rel=0.2)
        rates = by(prometheus, "framework", f'sum by (framework) (rate({REQUESTS}{{stage="total"}}{window}))')
        assert rates["langchain"] == pytest.approx(rates["llama_index"], rel=0.2)

        # latency: quantiles from the same buckets, by stage
        for stage, attribute in (("model_inference", "model_inference"), ("external_api", "external_api")):
            durations_s = [
                span["duration_s"] for span in spans if span["attributes"].get(semconv.STAGE) == attribute
            ]
            query = f'histogram_quantile(0.95, sum by (le) ({LATENCY}_bucket{{stage="{stage}"}}))'
            assert prometheus.value(query) == pytest.approx(p95_of(durations_s))
        query = f'histogram_quantile(0.95, sum by (le) ({LATENCY}_bucket{{stage="total"}}))'
        assert prometheus.value(query) == pytest.approx(p95_of([span["duration_s"] for span in roots]))
        total_s = prometheus.value(f'sum({LATENCY}_sum{{stage="total"}})')
        assert total_s == pytest.approx(sum(span["duration_s"] for span in roots))

        # tokens and money, by model
        for direction, attribute in (
            ("input", semconv.USAGE_INPUT_TOKENS),
            ("output", semconv.USAGE_OUTPUT_TOKENS),
            ("cached", semconv.USAGE_CACHE_READ_TOKENS),
        ):
            query = f'sum by (model) ({TOKENS}{{direction="{direction}"}})'
            counted = {model: count for model, count in by(prometheus, "model", query).items() if count}
            assert counted == {model: count for model, count in tokens_of(spans, attribute).items() if count}
        costs: Counter[str] = Counter()
        for span in spans:
            if semconv.COST_USD in span["attributes"]:
                costs[span["attributes"][semconv.MODEL_NAME]] += span["attributes"][semconv.COST_USD]
        assert by(prometheus, "model", f"sum by (model) ({COST})") == pytest.approx(dict(costs))
        assert set(costs) == {"scripted-lc", "scripted-li"}
        rolled_up = sum(span["attributes"].get(semconv.COST_TOTAL_USD, 0) for span in roots)
        assert prometheus.value(f"sum({COST})") == pytest.approx(rolled_up)
        assert prometheus.value(f"sum({names.TOOL_CALLS.sample_name})") == 81
        assert prometheus.value(f"sum({names.ACTIVE_INSTANCES.sample_name})") == 0
        assert prometheus.value(f"sum({names.TELEMETRY_DROPPED.sample_name})") == 0

        # exemplars lead to traces of the run
        kept = prometheus.exemplars(f"{LATENCY}_bucket")
        assert kept
        assert {exemplar.labels["trace_id"] for exemplar in kept} <= {span["trace_id"] for span in spans}
        assert lint_page(program.page()) == []


def test_metrics_are_unbiased_when_one_trace_in_a_hundred_is_kept(tmp_path: Path) -> None:
    with served(tmp_path) as whole:
        truth = whole.work(1)
    sampling = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
    with served(tmp_path, **sampling) as program, Prometheus([program.target]) as prometheus:
        kept = program.work(150)
        prometheus.wait_for(f'sum({REQUESTS}{{stage="total"}}) == 300')
        assert len([span for span in kept if span["is_root"]]) < 30
        tokens = tokens_of(truth, semconv.USAGE_INPUT_TOKENS)
        query = f'sum by (model) ({TOKENS}{{direction="input"}})'
        counted = {model: count for model, count in by(prometheus, "model", query).items() if count}
        assert counted == {model: 150 * count for model, count in tokens.items() if count}
        cost_usd = sum(span["attributes"].get(semconv.COST_USD, 0) for span in truth)
        assert prometheus.value(f"sum({COST})") == pytest.approx(150 * cost_usd)
        assert prometheus.value(f'sum({LATENCY}_count{{stage="total"}})') == 300
        traces = {exemplar.labels["trace_id"] for exemplar in prometheus.exemplars(f"{LATENCY}_bucket")}
        assert traces <= {span["trace_id"] for span in kept}
