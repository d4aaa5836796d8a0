from __future__ import annotations

import io
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import textwrap
from importlib import metadata

import pytest

from aiobs_core import cli, semconv
from aiobs_core._health import Health
from aiobs_core.store.otlp_json import decode_line
from aiobs_core.store.spool import Spool
from aiobs_core.store.writer import StoreExporter, StoreWriter

CALL = {
    semconv.SPAN_KIND: "model",
    semconv.MODEL_NAME: "gpt-4.1",
    semconv.USAGE_INPUT_TOKENS: 1_234,
    semconv.USAGE_OUTPUT_TOKENS: 10,
}
HOSTILE = "evil\x1b]8;;http://x\x07\x1b[2J\r\nname\x9b31m\u202e"


HOW_TO_BEGIN = """\
To record one, add these lines to your program and run it:

    from aiobs_langchain import AiObsCallbackHandler
    handler = AiObsCallbackHandler()
    agent.invoke(question, config={"callbacks": [handler]})  # any model, chain or graph
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOBS_STORE", "auto")
    monkeypatch.delenv("AIOBS_CONFIG_FILE", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
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
    assert head.split() == ["TRACE", "START", "TIME", "SPANS", "ERRORS", "TOKENS", "STATUS", "NAME"]
    assert first.split()[0] == "0abc00000000"
    assert "1.2k in / 10 out" in first
    assert first.endswith("  ✓       support agent")
    assert second.endswith("other")
    assert run(capsys, "runs", "--limit", "1")[1].splitlines() == [head, first]


def test_columns_are_as_wide_as_their_widest_cell(fill, make_span, monkeypatch, capsys):
    big = {**CALL, semconv.USAGE_INPUT_TOKENS: 99_900, semconv.USAGE_OUTPUT_TOKENS: 99_900}
    agent = {semconv.SPAN_KIND: "agent", semconv.GEN_AI_OPERATION_NAME: "invoke_agent"}
    root = make_span("invoke_agent 재고_확인", agent, trace_id=1)
    fill(root, make_span("chat", big, parent=root), make_span("chat", CALL, parent=make_span(trace_id=2)))
    fill(make_span(HOSTILE, trace_id=3, duration_ns=23_000), make_span("x" * 500, trace_id=4))
    table = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "2027-01-15 08:00:00", run(capsys, "runs")[1])
    assert table == textwrap.dedent("""\
    TRACE         START                   TIME  SPANS  ERRORS                TOKENS  STATUS  NAME
    000000000000  2027-01-15 08:00:00    5.0ms      2       -  99.9k in / 99.9k out  ✓       재고_확인
    000000000000  2027-01-15 08:00:00  pending      1       -      1.2k in / 10 out  -       -
    000000000000  2027-01-15 08:00:00   <0.1ms      1       -                     -  ✓       evil�]8;;http://x��[2J��name�31m�
    """) + (
        f"000000000000  2027-01-15 08:00:00    5.0ms      1       -                     -  ✓       {'x' * 77}...\n"
    )
    monkeypatch.setenv("COLUMNS", "112")
    rows = run(capsys, "runs")[1].splitlines()
    assert [row.rpartition("  ")[2] for row in rows[3:]] == [
        "evil�]8;;http://x��[...",
        "xxxxxxxxxxxxxxxxxxxx...",
    ]


def test_runs_and_tree_agree_on_name_and_errors(fill, make_span, capsys):
    agent = {semconv.SPAN_KIND: "agent", semconv.GEN_AI_OPERATION_NAME: "invoke_agent"}
    failed = {semconv.ERROR_TYPE: "openai.RateLimitError"}
    root = make_span("invoke_agent shop_assistant", agent | failed, trace_id=1, error="")
    step = make_span("model", {semconv.SPAN_KIND: "chain"} | failed, parent=root, error="")
    fill(root, step, make_span("chat gpt-4.1", CALL | failed, parent=step, error=""))
    fill(make_span("invoke_agent by another name", trace_id=2))
    chat = {**CALL, semconv.GEN_AI_OPERATION_NAME: "chat"}
    fill(make_span("chat gpt-4.1", chat, trace_id=3))
    heading, *rows = run(capsys, "runs")[1].splitlines()
    at = heading.index("STATUS")
    assert [(row[heading.index("ERRORS") :].split()[0], row[at:].split(maxsplit=1)) for row in rows] == [
        ("1", ["✕", "error  shop_assistant"]),
        ("-", ["✓", "invoke_agent by another name"]),
        ("-", ["✓", "chat gpt-4.1"]),
    ]
    assert run(capsys, "show", "00000000000000000000000000000001")[1].startswith("◆ shop_assistant ✕")


@pytest.mark.parametrize(
    ("outcome", "encoding", "status"),
    [
        ("success", "utf-8", "✓"),
        ("interrupted", "utf-8", "‖ interrupted"),
        ("cancelled", "utf-8", "⊘ cancelled"),
        ("abandoned", "utf-8", "⊘ abandoned"),
        ("timed_out", "utf-8", "⊘ timed out"),
        ("interrupted", "ascii", "WAIT interrupted"),
        ("error", "ascii", "FAIL error"),
    ],
)
def test_runs_says_how_a_run_ended(fill, make_span, monkeypatch, outcome, encoding, status):
    fill(make_span("agent", {semconv.SPAN_KIND: "agent", semconv.OUTCOME: outcome}))
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)
    assert cli.main(["runs"]) == 0
    heading, row = out.buffer.getvalue().decode(encoding).splitlines()
    assert row[heading.index("STATUS") :].split("  ")[0] == status


def test_cost_is_a_column_once_a_run_has_one(two_runs, folder, capsys):
    with sqlite3.connect(folder / "aiobs.db") as connection:
        connection.execute("UPDATE runs SET cost = 1500000 WHERE name = 'other'")
    connection.close()
    heading, first, second = run(capsys, "runs")[1].splitlines()
    at = heading.index("   COST")
    assert [row[at : at + 7] for row in (heading, first, second)] == ["   COST", "      -", "$0.0015"]


def test_a_damaged_run_does_not_hide_the_others(two_runs, folder, capsys):
    with sqlite3.connect(folder / "aiobs.db") as connection:
        connection.execute("UPDATE body SET z = x'00'")
    connection.close()
    code, out, err = run(capsys, "runs")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].endswith("support agent")


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


@pytest.mark.parametrize(
    ("encoding", "row"),
    [
        ("utf-8", "◆ 재고_확인  "),
        ("cp949", "agent 재고_확인  "),
        ("latin-1", "agent ??_??  "),
        ("ascii", "agent ??_??  "),
        ("utf-16", "◆ 재고_확인  "),
    ],
)
def test_show_draws_what_the_stream_can_write(fill, make_span, monkeypatch, encoding, row):
    fill(make_span("재고_확인", {semconv.SPAN_KIND: "agent"}))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert cli.main(["show", "last"]) == 0
    assert written.getvalue().decode(encoding).startswith(row)


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
    assert err.removesuffix(HOW_TO_BEGIN).count("\n") <= 1


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
def test_a_missing_store_is_said_on_stderr(folder, monkeypatch, capsys, argv, setting, message):
    monkeypatch.setenv("AIOBS_STORE", setting)
    code, out, err = run(capsys, *argv)
    assert (code, out) == (1, "")
    assert message in err
    assert not folder.exists()


@pytest.mark.parametrize(
    "argv", [("runs",), ("show", "last"), ("show", "abc"), ("export", "--format", "jsonl")]
)
def test_without_a_store_it_says_where_it_looked_and_how_to_begin(folder, capsys, argv):
    sentence = f"aiobs: There is no aiobs store in {folder}; --store DIR or AIOBS_STORE looks elsewhere.\n"
    assert run(capsys, *argv) == (1, "", sentence + HOW_TO_BEGIN)


def test_an_empty_store_says_the_same(folder, fill, capsys):
    fill()
    StoreWriter(folder, health=Health()).close()
    sentence = f"aiobs: {folder / 'aiobs.db'} holds no run yet; --store DIR or AIOBS_STORE looks elsewhere.\n"
    assert run(capsys, "runs") == (0, "", sentence + HOW_TO_BEGIN)
    assert run(capsys, "show", "last") == (1, "", sentence + HOW_TO_BEGIN)
    assert run(capsys, "runs", "--json") == (0, "[]\n", "")


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


@pytest.mark.parametrize("command", [("collector", "sampling"), ("verify", "http://localhost")])
def test_a_command_of_a_package_that_is_not_installed_says_which(command, monkeypatch, capsys):
    monkeypatch.setattr(metadata, "entry_points", lambda group: [])
    code, out, err = run(capsys, *command)
    assert (code, out) == (2, "")
    assert "pip install aiobs-ops" in err


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
