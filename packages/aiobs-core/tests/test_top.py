"""`aiobs top`: a table by model, from the store or a metrics page."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, Usage, cli
from aiobs_core.export._text import display_width
from aiobs_core.store import schema
from aiobs_core.top.sources import FromStore, Reading, Row
from aiobs_core.top.table import coloured, lines_of, ordered, plain

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01}
AGENT = Operation(kind=Kind.AGENT, name="planner")
USED = Outcome(usage=Usage(input_tokens=1_000_000, output_tokens=100_000))  # $2.5 and $1 with gpt-4o


@contextmanager
def recorded(folder: Path) -> Iterator[Recorder]:
    recorder = Recorder(Settings.load({}, {**QUICK, "store": str(folder)}, strict=True))
    yield recorder
    recorder.shutdown(5)


def call(recorder: Recorder, model: str) -> None:
    recorder.start(model, Operation(kind=Kind.MODEL, name="m", provider="openai", model=model), parent="root")
    recorder.end(model, USED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four requests of two calls each, of which the first fails."""
    with recorded(tmp_path / "store") as recorder:
        for at in range(4):
            recorder.start("root", AGENT)
            for model in ("gpt-4o", "nobody's"):
                call(recorder, model)
            if at:
                recorder.end("root")
            else:
                recorder.fail("root", ValueError())
    return tmp_path / "store"


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
    return {line.split()[0]: line.split()[1:] for line in lines[1 : lines.index("")]}


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
    assert 300 <= told["window_s"] < 360


def test_the_window_begins_with_a_minute_and_is_not_shorter_than_asked_for(folder: Path) -> None:
    now_s = time.time()
    reading = FromStore(folder, window_s=60, clock=lambda: now_s).read()
    assert 60 <= reading.window_s < 120
    later = FromStore(folder, window_s=60, clock=lambda: now_s + 200).read()
    assert [row.calls for row in later.rows] == [0]


def test_a_request_whose_tool_failed_and_was_called_again_has_not_failed(tmp_path: Path) -> None:
    with recorded(tmp_path) as recorder:
        recorder.start("root", AGENT)
        recorder.start("tool", Operation(kind=Kind.TOOL, name="search"), parent="root")
        recorder.fail("tool", ValueError())
        recorder.end("root")
    (total,) = FromStore(tmp_path, window_s=60).read().rows
    assert (total.calls, total.errors) == (1, 0)
    assert total.p50_s is not None


def test_requests_that_still_run_have_tokens_and_are_not_counted_yet(tmp_path: Path) -> None:
    with recorded(tmp_path) as recorder:
        recorder.start("root", AGENT)
        call(recorder, "gpt-4o")
        assert recorder.flush(10)
        total, model = FromStore(tmp_path, window_s=60).read().rows
        recorder.end("root")
    assert (total.calls, total.input_tokens, model.calls) == (0, 1_000_000, 1)


def test_what_tools_cost_is_in_the_cost_of_the_requests_only(tmp_path: Path) -> None:
    with recorded(tmp_path) as recorder:
        recorder.start("root", AGENT)
        call(recorder, "gpt-4o")
        recorder.start("tool", Operation(kind=Kind.TOOL, name="search"), parent="root")
        recorder.end("tool", Outcome(cost_usd=0.25))
        recorder.end("root")
    total, model = FromStore(tmp_path, window_s=60).read().rows
    assert (total.cost_usd, model.cost_usd) == (pytest.approx(3.75), pytest.approx(3.5))


def test_a_sum_from_which_calls_without_a_price_are_missing_is_marked(folder: Path, capsys: Any) -> None:
    rows = table(capsys, "--store", str(folder), "--once")
    assert rows["(requests)"][-1].endswith("+")
    assert not rows["gpt-4o"][-1].endswith("+")
    assert cli.main(["top", "--store", str(folder), "--once"]) == 0
    assert "+: calls without a known price are not in it." in capsys.readouterr().out


def test_a_store_in_which_nothing_ran_lately_says_where_to_look(tmp_path: Path, capsys: Any) -> None:
    schema.open_for_writing(tmp_path).close()
    assert cli.main(["top", "--store", str(tmp_path)]) == 0
    assert "nothing ran in this time, a longer --window looks further back." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("calls", ["b", "a", "c"]),
        ("errors", ["c", "b", "a"]),
        ("p50", ["b", "a", "c"]),
        ("p95", ["a", "b", "c"]),
        ("tokens", ["a", "c", "b"]),
        ("cost", ["c", "a", "b"]),
        ("name", ["a", "b", "c"]),
    ],
)
def test_models_are_sorted_and_the_requests_stay_first(sort: str, names: list[str]) -> None:
    rows = [
        Row("(requests)", 1, 0, None, None, None, None, None),
        Row("b", 9, 1, 0.9, 1.0, None, None, None),
        Row("a", 5, 0, 0.5, 2.0, 7, 7, 1.0),
        Row("c", 2, 2, None, None, 9, None, 2.0),
    ]
    assert [row.name for row in ordered(rows, sort)] == ["(requests)", *names]


def test_names_have_what_is_left_of_the_terminal_and_cannot_steer_it() -> None:
    rows = [
        Row("(requests)", 1, 0, None, None, None, None, None),
        Row("evil\x1b[2J\nname" + "x" * 80, 1_234_567, 1, 0.01, 2.5, 10, 10, 1e-9, 1),
        Row("재고", 1, 0, None, None, None, None, None),
    ]
    for width in (200, 90, 40):
        lines = plain(
            lines_of(Reading(rows, 60), sort="calls", encoding="utf-8", width=width), "below", width=width
        ).split("\n")
        assert len({display_width(line) for line in lines[:4]}) == 1
        assert all(display_width(line) <= width for line in lines)
        assert "\x1b" not in "".join(lines)
    assert len(lines_of(Reading(rows, 60), sort="calls", encoding="utf-8", height=3)) == 3


def test_colours_change_no_letter_of_the_table() -> None:
    reading = Reading(
        [Row("(requests)", 4, 1, 0.1, None, None, 5, 0.1), Row(":smile: [red]", 1, 0, *[None] * 5)], 9
    )
    lines = lines_of(reading, sort="calls", encoding="utf-8")
    text = re.sub(r"\x1b\[[0-9;]*m", "", coloured(lines, "below", width=120))
    assert [line.rstrip() for line in text.split("\n")] == [
        line.rstrip() for line in plain(lines, "below").split("\n")
    ]


def test_what_cannot_be_read_is_said(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["top", "--store", str(tmp_path / "none"), "--once"]) == 1
    assert "no aiobs store" in capsys.readouterr().err
    assert cli.main(["top", "--store", "off", "--once"]) == 1
    assert "--url" in capsys.readouterr().err
    for wrong in (["--window", "soon"], ["--url", "localhost:9464"], ["--interval", "0"]):
        assert cli.main(["top", *wrong]) == 2
