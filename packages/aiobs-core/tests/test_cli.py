from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from importlib import metadata

import pytest

from aiobs_core import cli, semconv
from aiobs_core._health import Health
from aiobs_core.export.otlp_json import decode_line
from aiobs_core.store.spool import Spool
from aiobs_core.store.writer import StoreExporter

CALL = {
    semconv.SPAN_KIND: "model",
    semconv.MODEL_NAME: "gpt-4.1",
    semconv.USAGE_INPUT_TOKENS: 1_234,
    semconv.USAGE_OUTPUT_TOKENS: 10,
}
HOSTILE = "evil\x1b]8;;http://x\x07\x1b[2J\r\nname\x9b31m\u202e"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOBS_STORE", "auto")
    monkeypatch.delenv("AIOBS_CONFIG_FILE", raising=False)
    return tmp_path / ".aiobs"


@pytest.fixture
def fill(folder):
    def fill(*spans):
        exporter = StoreExporter(folder, health=Health())
        exporter.export(spans)
        exporter.shutdown()

    return fill


@pytest.fixture
def two_runs(fill, make_span):
    root = make_span("support agent", trace_id=0xABC << 112)
    fill(root, make_span("chat", CALL, parent=root, error="429"), make_span("other", start_ns=1, trace_id=7))


def run(capsys, *argv):
    code = cli.main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_runs_lists_the_newest_first(two_runs, capsys):
    code, out, err = run(capsys, "runs")
    head, first, second = out.splitlines()
    assert (code, err) == (0, "")
    assert head.split() == ["TRACE", "START", "TIME", "SPANS", "ERRORS", "TOKENS", "COST", "NAME"]
    assert first.split()[0] == "0abc00000000"
    assert "1.2k in / 10 out" in first
    assert first.endswith("-  support agent")
    assert second.endswith("other")
    assert run(capsys, "runs", "--limit", "1")[1].splitlines() == [head, first]


def test_runs_as_json_leaves_the_unknown_null(two_runs, capsys):
    code, out, _ = run(capsys, "runs", "--json")
    first, second = json.loads(out)
    assert code == 0
    assert (first["name"], first["span_count"], first["error_count"], first["is_pending"]) == (
        "support agent",
        2,
        1,
        False,
    )
    assert (first["input_tokens"], first["cost_nano_usd"], second["input_tokens"]) == (1_234, None, None)


def test_a_run_without_its_root_is_pending(fill, make_span, capsys):
    fill(make_span("child", parent=make_span("root")))
    assert "pending" in run(capsys, "runs")[1]


def test_show_prints_the_tree(two_runs, capsys):
    code, out, err = run(capsys, "show", "0abc")
    assert (code, err) == (0, "")
    assert "support agent" in out
    assert "chat" in out
    assert run(capsys, "show", "last") == (code, out, err)


def test_show_as_json_holds_whole_spans(fill, make_span, capsys):
    fill(make_span("s", {**CALL, "nan": float("nan"), "bytes": b"\xff", "texts": ("a",)}))
    (span,) = json.loads(run(capsys, "show", "last", "--json")[1])
    assert span["attributes"] == {**CALL, "nan": "NaN", "bytes": "ff", "texts": ["a"]}
    assert (span["kind"], span["resource"], span["scope"]) == (
        "model",
        {"service.name": "shop"},
        "aiobs.test",
    )


@pytest.mark.parametrize(
    "argv",
    [
        ("runs",),
        ("runs", "--json"),
        ("show", "last"),
        ("show", "last", "--json"),
        ("export", "--format", "jsonl"),
        ("show", HOSTILE),
        ("runs", "--store", HOSTILE),
    ],
)
def test_hostile_text_cannot_steer_the_terminal(fill, make_span, capsys, argv):
    fill(
        make_span(HOSTILE, {**CALL, semconv.MODEL_NAME: HOSTILE, semconv.ERROR_TYPE: HOSTILE}, error=HOSTILE)
    )
    _, out, err = run(capsys, *argv)
    for text in (out, err):
        assert not [c for c in text if c in "\x1b\x07\x9b\r\u202e"]
    assert err.count("\n") <= 1


def test_export_writes_what_a_collector_can_replay(two_runs, capfdbinary):
    assert cli.main(["export", "--format", "otlp-json"]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert [[span.name for span in decode_line(line)] for line in lines] == [
        ["other"],
        ["support agent", "chat"],
    ]


def test_export_of_one_run_as_lines(two_runs, capfdbinary):
    assert cli.main(["export", "--format", "jsonl", "--trace", "0abc"]) == 0
    spans = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [span["name"] for span in spans] == ["support agent", "chat"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_an_exported_file_is_for_its_owner_only(two_runs, tmp_path, capsys):
    target = tmp_path / "out.jsonl"
    assert run(capsys, "export", "--format", "otlp-json", "-o", str(target)) == (0, "", "")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert len(target.read_bytes().splitlines()) == 2


def test_the_spool_is_part_of_the_store(folder, make_span, capsys):
    Spool(folder).append([make_span("spooled")])
    assert "spooled" in run(capsys, "runs")[1]


def test_a_store_is_named_with_an_option_or_a_variable(two_runs, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir("/")
    assert run(capsys, "runs", "--store", str(folder))[0] == 0
    monkeypatch.setenv("AIOBS_STORE", str(folder))
    assert run(capsys, "runs")[0] == 0


@pytest.mark.parametrize(
    ("argv", "setting", "message"),
    [
        (("runs",), "auto", "There is no aiobs store in"),
        (("show", "last"), "auto", "There is no aiobs store in"),
        (("runs",), "off", "name the folder of a store with --store"),
    ],
)
def test_a_missing_store_is_one_sentence_on_stderr(folder, monkeypatch, capsys, argv, setting, message):
    monkeypatch.setenv("AIOBS_STORE", setting)
    code, out, err = run(capsys, *argv)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1
    assert not folder.exists()


def test_an_unknown_trace_is_one_sentence_on_stderr(two_runs, capsys):
    code, out, err = run(capsys, "show", "fff")
    assert (code, out) == (1, "")
    assert err.startswith("aiobs: No trace in ")
    assert err.endswith("`aiobs runs` lists them.\n")


def test_an_output_that_cannot_be_written_is_one_sentence_on_stderr(two_runs, tmp_path, capsys):
    code, out, err = run(capsys, "export", "--format", "jsonl", "-o", str(tmp_path / "no" / "such" / "file"))
    assert (code, out) == (1, "")
    assert err.startswith(f"aiobs: {tmp_path}")


@pytest.mark.parametrize("argv", [(), ("nonsense",), ("runs", "--limit", "0"), ("export",), ("show",)])
def test_a_wrong_call_is_exit_code_2(folder, capsys, argv):
    code, out, err = run(capsys, *argv)
    assert (code, out) == (2, "")
    assert "usage: aiobs" in err


def test_help_and_version_are_exit_code_0(capsys):
    assert run(capsys, "--help")[0] == 0
    code, out, _ = run(capsys, "--version")
    assert (code, out.split()[0]) == (0, "aiobs-core")


class EntryPoint:
    def __init__(self, name, load):
        self.name, self.load, self.value, self.dist = name, load, "package.module:add", None


def test_other_packages_add_commands_and_a_broken_one_breaks_nothing(two_runs, monkeypatch, capsys):
    def add(commands):
        commands.add_parser("doctor").set_defaults(run=lambda arguments: 1)

    def broken():
        raise ImportError("no module named \x1b[2J")

    points = [EntryPoint("broken", broken), EntryPoint("doctor", lambda: add)]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "aiobs.commands" else [])
    code, _, err = run(capsys, "doctor")
    assert code == 1
    assert "'broken' of package.module:add is not available" in err
    assert "\x1b" not in err
    assert run(capsys, "runs")[0] == 0


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes")
def test_a_broken_pipe_ends_quietly(fill, make_span, folder):
    fill(*[make_span("s", {"text": os.urandom(5_000).hex()}) for _ in range(60)])
    command = [
        sys.executable,
        "-m",
        "aiobs_core.cli",
        "export",
        "--format",
        "otlp-json",
        "--store",
        str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(10)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=30), err) == (0, b"")
