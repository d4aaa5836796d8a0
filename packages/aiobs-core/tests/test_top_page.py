"""`aiobs top --url`: what was counted between two looks at a metrics page."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, Counter, generate_latest

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, Usage, cli
from aiobs_core.metrics.prometheus import AiobsCollector
from aiobs_core.top.page import FromPage
from aiobs_core.top.sources import Row, SourceError
from aiobs_testing.rotel import free_ports

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01}
USED = Outcome(usage=Usage(input_tokens=1_000_000, output_tokens=100_000))  # $2.5 and $1 with gpt-4o
CALL = 'stage="model_inference",operation="chat",model="m"'


class Pages:
    """Looks at texts instead of a page, one second after another."""

    def __init__(self, *, window_s: float = 60) -> None:
        self.text, self.now_s = "", 0.0
        self._source = FromPage("u", window_s=window_s, fetch=lambda _: self.text, clock=lambda: self.now_s)

    def look(self, *lines: str) -> dict[str, Row]:
        self.text, self.now_s = "".join(f"{line}\n" for line in lines), self.now_s + 1
        reading = self._source.read()
        self.window_s = reading.window_s
        return {row.name: row for row in reading.rows}


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    made = Recorder(Settings.load({}, QUICK, strict=True), exporters=[InMemorySpanExporter()])
    yield made
    made.shutdown(5)


def play(recorder: Recorder, *, fails: bool = False) -> None:
    recorder.start("root", Operation(kind=Kind.AGENT, name="planner", provider="openai", model="gpt-4o"))
    recorder.start("sub", Operation(kind=Kind.AGENT, name="helper", model="gpt-4o"), parent="root")
    for model in ("gpt-4o", "nobody's"):
        recorder.start(
            model, Operation(kind=Kind.MODEL, name="m", provider="openai", model=model), parent="sub"
        )
        recorder.end(model, USED)
    words = Operation(kind=Kind.EMBEDDING, name="e", provider="openai", model="text-embedding-3-small")
    recorder.start("words", words, parent="sub")
    recorder.end("words", Outcome(usage=Usage(input_tokens=1_000_000)))
    recorder.start("tool", Operation(kind=Kind.TOOL, name="search"), parent="sub")
    recorder.end("tool", Outcome(cost_usd=0.25))
    recorder.end("sub")
    if fails:
        recorder.fail("root", ValueError())
    else:
        recorder.end("root")
    assert recorder.flush(10)


@contextmanager
def served(answer: bytes, status: int = 200) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *given: Any) -> None: ...

    server = HTTPServer(("localhost", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://localhost:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# --- real pages -----------------------------------------------------------------------------------------------------------


def check_three_requests(rows: Sequence[Row]) -> None:
    total, *others = rows
    models = {row.name: row for row in others}
    assert models.keys() == {"gpt-4o", "nobody's", "text-embedding-3-small"}
    assert (total.name, total.calls, total.errors) == ("(requests)", 3, 1)
    assert [row.calls for row in others] == [3, 3, 3]  # the agents that name a model are no calls of it
    assert (total.input_tokens, total.output_tokens) == (9_000_000, 600_000)
    assert models["gpt-4o"].cost_usd == pytest.approx(3 * 3.5)
    assert (models["nobody's"].cost_usd, models["nobody's"].unpriced_calls) == (None, 3)
    assert total.cost_usd == pytest.approx(3 * (3.5 + 0.02 + 0.25))
    assert total.unpriced_calls == 3
    assert models["text-embedding-3-small"].output_tokens is None
    assert all(row.p50_s and row.p95_s for row in rows)


def test_the_page_of_aiobs_tells_what_happened_between_two_looks() -> None:
    (port,) = free_ports(1)
    recorder = Recorder(
        Settings.load({}, {**QUICK, "prometheus_port": port}, strict=True), exporters=[InMemorySpanExporter()]
    )
    play(recorder, fails=True)
    source = FromPage(f"http://localhost:{port}/metrics", window_s=60)
    assert source.read().rows == []
    for fails in (True, False, False):
        play(recorder, fails=fails)
    check_three_requests(source.read().rows)
    recorder.shutdown(5)


def test_so_does_the_page_of_an_application_that_registered_aiobs(recorder: Recorder) -> None:
    registry = CollectorRegistry()
    registry.register(AiobsCollector(recorder.metrics.snapshot))
    Counter("shop_orders", "Of the shop", ["model"], registry=registry).labels("gpt-4o").inc()
    source = FromPage("u", window_s=60, fetch=lambda _: generate_latest(registry).decode())
    play(recorder)
    source.read()
    for fails in (True, False, False):
        play(recorder, fails=fails)
    check_three_requests(source.read().rows)


def test_one_look_without_a_terminal_is_two_and_shows_what_came_between(capsys: Any) -> None:
    with served(f"ai_agent_requests_total{{{CALL}}} 5\n".encode()) as url:
        assert cli.main(["top", "--url", url, "--interval", "0.1s"]) == 0
    head, total, _, remark = capsys.readouterr().out.splitlines()
    assert (head.split()[0], total.split()[1:]) == ("MODEL", ["0", "0.00", *"------"])
    assert "nothing ran in this time, a longer --interval waits for more." in remark


def test_a_proxy_is_not_asked_for_the_page_next_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://localhost:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with served(b"ai_agent_x 1\n") as url:
        FromPage(url, window_s=60).read()


# --- counters -------------------------------------------------------------------------------------------------------------


def test_a_restarted_program_counts_from_zero() -> None:
    pages = Pages()
    for value in (5, 7, 3, 4):
        rows = pages.look(f"ai_agent_requests_total{{{CALL}}} {value}")
    assert rows["m"].calls == 2 + 3 + 1


def test_a_histogram_of_a_restarted_program_counts_from_zero_as_a_whole() -> None:
    def buckets(*counts: int) -> list[str]:
        name = f"ai_agent_latency_seconds_bucket{{{CALL}"
        requests = f"ai_agent_requests_total{{{CALL}}} {counts[-1]}"
        return [
            requests,
            *(f'{name},le="{le}"}} {n}' for le, n in zip(("1.0", "2.0", "+Inf"), counts, strict=True)),
        ]

    pages = Pages()
    pages.look(*buckets(9, 9, 10))
    rows = pages.look(*buckets(0, 10, 12))  # by themselves, two of three would seem to have gone on
    assert (rows["m"].p50_s, rows["m"].p95_s) == (pytest.approx(1.6), 2.0)


def test_a_series_that_was_not_read_once_is_not_counted_again() -> None:
    pages, line = Pages(), f"ai_agent_requests_total{{{CALL}}} "
    pages.look(f"{line}100")
    pages.look("ai_agent_x 1")
    assert pages.look(f"{line}103")["m"].calls == 3


def test_a_series_is_made_at_its_first_count() -> None:
    pages = Pages()
    pages.look("ai_agent_x 1")
    assert pages.look(f"ai_agent_requests_total{{{CALL}}} 2")["m"].calls == 2


def test_the_window_slides() -> None:
    pages = Pages(window_s=3)
    rows = [pages.look(f"ai_agent_requests_total{{{CALL}}} {value}") for value in (0, 1, 3, 7, 15, 31)]
    assert [row["m"].calls for row in rows[1:]] == [1, 3, 7, 14, 28]
    assert pages.window_s == 3


@given(st.lists(st.integers(0, 20), min_size=2, max_size=12))
def test_a_counter_has_grown_by_what_promql_says(values: list[int]) -> None:
    pages = Pages(window_s=1_000)
    for value in values:
        rows = pages.look(f"ai_agent_requests_total{{{CALL}}} {value}")
    drops = sum(before for before, after in pairwise(values) if after < before)
    grown = values[-1] - values[0] + drops  # Prometheus' `increase`, before it extrapolates
    assert (rows["m"].calls if "m" in rows else 0) == grown


# --- odd pages --------------------------------------------------------------------------------------------------------------


def test_labels_may_hold_anything() -> None:
    pages, name = Pages(), 'a\\n\\"b}\\\\ \u2028 \x85 é'
    series = f'ai_agent_requests_total{{operation="chat",model="{name}"}} '
    pages.look("# ai_agent_requests_total no sample", f"{series}1")
    assert pages.look(f"{series}2", "other_total 1").keys() == {"(requests)", 'a\n"b}\\ \u2028 \x85 é'}


def test_a_call_without_a_model_has_a_row_and_what_is_no_number_counts_nothing() -> None:
    pages = Pages()
    pages.look("ai_agent_x 1")
    rows = pages.look(
        'ai_agent_requests_total{stage="model_inference",operation="chat"} 1',
        'ai_agent_requests_total{operation="chat",model="n"} NaN',
        'ai_agent_requests_total{stage="pre_process",operation="reranker",model="r"} 1',
    )
    assert rows.keys() == {"(requests)", "(unnamed)"}


def test_a_page_that_is_not_there_is_said() -> None:
    (port,) = free_ports(1)
    for url, reason in ((f"http://localhost:{port}/", "refused"), ("http://localhost:no/", "port")):
        with pytest.raises(SourceError, match=rf"{reason}.*AIOBS_PROMETHEUS_PORT"):
            FromPage(url, window_s=60).read()


@pytest.mark.parametrize(
    ("answer", "status", "message"),
    [
        (b"gone", 404, "the answer is 404"),
        (b"<html>", 200, "no metrics of aiobs"),
        (b"\xff\xfe", 200, "utf-8"),
        (b"ai_agent_requests_total{", 200, "cannot be understood"),
        (b'ai_agent_latency_seconds_bucket{operation="chat"} 1\n', 200, "cannot be understood"),
    ],
)
def test_what_is_no_page_of_aiobs_is_said(answer: bytes, status: int, message: str) -> None:
    with served(answer, status) as url, pytest.raises(SourceError, match=message):
        FromPage(url, window_s=60).read()
