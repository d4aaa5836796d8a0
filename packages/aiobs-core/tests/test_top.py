"""`aiobs top`: a table by model, from the store or a metrics page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, Usage, cli
from aiobs_core.metrics.series import Distribution
from aiobs_core.semconv.metrics import LATENCY_BOUNDS_S
from aiobs_core.top.quantiles import quantile
from aiobs_core.top.sources import FromPage, SourceError
from aiobs_testing.rotel import free_ports

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01}
AGENT = Operation(kind=Kind.AGENT, name="planner")
USED = Outcome(usage=Usage(input_tokens=1_000_000, output_tokens=100_000))  # $2.5 and $1 with gpt-4o


def play(recorder: Recorder, *, calls: int = 4) -> None:
    for at in range(calls):
        recorder.start("root", AGENT)
        for model in ("gpt-4o", "nobody's"):
            recorder.start(
                model, Operation(kind=Kind.MODEL, name="m", provider="openai", model=model), parent="root"
            )
            recorder.end(model, USED)
        if at:
            recorder.end("root")
        else:
            recorder.fail("root", ValueError())
    assert recorder.flush(10)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    recorder = Recorder(Settings.load({}, {**QUICK, "store": str(tmp_path / "store")}, strict=True))
    play(recorder)
    yield tmp_path / "store"
    recorder.shutdown(5)


def table(capsys: Any, *arguments: str) -> dict[str, list[str]]:
    assert cli.main(["top", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "MODEL",
        "CALLS",
        "/S",
        "ERRORS",
        "P50",
        "P95",
        "IN",
        "TOK/S",
        "OUT",
        "TOK/S",
        "$/H",
    ]
    return {line.split()[0]: line.split()[1:] for line in lines[1:]}


def test_the_store_tells_of_requests_and_models(folder: Path, capsys: Any) -> None:
    rows = table(capsys, "--store", str(folder), "--once")
    assert next(iter(rows)) == "(requests)"
    assert (rows["(requests)"][0], rows["(requests)"][2]) == ("4", "25.0%")
    assert rows["gpt-4o"][0] == "4"
    assert rows["gpt-4o"][-1].startswith("$")
    assert rows["nobody's"][-1] == "-"  # unknown is not 0


def test_json_has_the_numbers(folder: Path, capsys: Any) -> None:
    assert cli.main(["top", "--store", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in told["rows"]}
    assert rows["gpt-4o"]["cost_usd"] == pytest.approx(4 * 3.5)
    assert rows["gpt-4o"]["input_tokens"] == 4_000_000
    assert rows["nobody's"]["cost_usd"] is None
    assert rows["(requests)"]["cost_usd"] == pytest.approx(4 * 3.5)
    assert 0 < told["window_s"] <= 300


def test_a_page_tells_what_happened_between_two_looks() -> None:
    (port,) = free_ports(1)
    settings = Settings.load({}, {**QUICK, "prometheus_port": port}, strict=True)
    recorder = Recorder(settings, exporters=[InMemorySpanExporter()])
    play(recorder, calls=3)
    source = FromPage(f"http://localhost:{port}/metrics", window_s=60)
    assert source.read().rows == []
    play(recorder)
    rows = {row.name: row for row in source.read().rows}
    assert (rows["(requests)"].calls, rows["(requests)"].errors) == (4, 1)
    assert rows["gpt-4o"].calls == 4
    assert rows["gpt-4o"].input_tokens == 4_000_000
    assert rows["gpt-4o"].cost_usd == pytest.approx(4 * 3.5)
    assert rows["(requests)"].cost_usd == pytest.approx(4 * 3.5)
    assert rows["nobody's"].cost_usd is None
    assert rows["gpt-4o"].p95_s is not None
    recorder.shutdown(5)


def test_a_restarted_process_counts_from_zero() -> None:
    from aiobs_core.top.sources import _increase

    series = ("x_total", frozenset())
    assert _increase([{series: 5.0}, {series: 7.0}, {series: 3.0}, {series: 4.0}])[series] == 2 + 3 + 1


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: Any) -> None:
    (port,) = free_ports(1)
    with pytest.raises(SourceError, match="AIOBS_PROMETHEUS_PORT"):
        FromPage(f"http://localhost:{port}/metrics", window_s=60).read()
    assert cli.main(["top", "--store", str(tmp_path / "none"), "--once"]) == 1
    assert "no aiobs store" in capsys.readouterr().err
    for wrong in (["--window", "soon"], ["--url", "localhost:9464"], ["--interval", "0"]):
        assert cli.main(["top", *wrong]) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("rich", ["rich", ""])
def test_the_live_table_is_drawn_again_and_left_with_ctrl_c(folder: Path, rich: str) -> None:
    import pty

    main, other = pty.openpty()
    hide = "" if rich else "import sys; sys.modules['rich.console'] = None; "
    # Who was started in the background ignores the signal, and so do its children.
    hide += "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program = f"{hide}from aiobs_core.cli import main; raise SystemExit(main(['top', '--interval', '0.2s', '--store', {str(folder)!r}]))"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=other,
        stdout=other,
        stderr=other,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(other)
    seen = b""
    deadline = time.monotonic() + 20
    while seen.count(b"gpt-4o") < 3 and time.monotonic() < deadline:
        seen += os.read(main, 65_536)
    process.send_signal(signal.SIGINT)
    try:
        assert process.wait(10) == 130
    finally:
        process.kill()
        process.wait()
        os.close(main)
    assert seen.count(b"gpt-4o") >= 3
    assert b"Ctrl-C leaves" in seen


# --- quantiles ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.001, 299), min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_a_quantile_is_in_the_bucket_of_the_value(values: list[float], q: float) -> None:
    distribution = Distribution((), LATENCY_BOUNDS_S)
    for value in values:
        distribution.record(value)
    found = quantile(q, LATENCY_BOUNDS_S, distribution.counts)
    assert found is not None
    # With values spread evenly in each bucket, no more than a part q lies below it, bucket by bucket.
    below = sum(
        count for bound, count in zip(LATENCY_BOUNDS_S, distribution.counts, strict=False) if bound < found
    )
    up_to = sum(
        count
        for lower, count in zip((0.0, *LATENCY_BOUNDS_S), distribution.counts, strict=True)
        if lower < found or lower == 0
    )
    assert below <= q * len(values) + 1e-9
    assert up_to >= q * len(values) - 1e-9


def test_quantiles_of_nothing_and_beyond_all_bounds() -> None:
    assert quantile(0.5, (1.0, 2.0), (0, 0, 0)) is None
    assert quantile(0.5, (1.0, 2.0), (0, 0, 3)) == 2.0
    assert quantile(0.5, (1.0, 2.0), (0, 4, 0)) == 1.5
