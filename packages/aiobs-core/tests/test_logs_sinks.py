"""Where log lines go: files, streams, the application's own logging; and what happens when that fails."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import loguru
import pytest
import structlog

from aiobs_core import Kind, Operation, Recorder, Settings, SettingsError
from aiobs_core.logs import JsonFormatter
from aiobs_core.logs.json_line import as_ascii, json_line

needs_full_disk = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")


@pytest.fixture
def recorders():
    made: list[Recorder] = []

    def make(**given: object) -> Recorder:
        loaded = Settings.load({}, {"flush_interval_s": 0.01, **given}, strict=True)
        made.append(Recorder(loaded, exporters=[]))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()


def request(recorder: Recorder, name: str = "answer") -> None:
    with recorder.span(Operation(kind=Kind.WORKFLOW, name=name)):
        pass


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


# --- files --------------------------------------------------------------------------------------------------------
def test_a_file_has_a_line_per_request_as_soon_as_they_are_flushed(recorders, tmp_path):
    path = tmp_path / "made" / "on the way" / "requests.jsonl"
    one = recorders(log=str(path))
    request(one, "first 검색")
    assert one.flush(5)
    request(one, "second")
    assert one.flush(5)
    assert [line["name"] for line in lines_of(path.read_text(encoding="utf-8"))] == ["first 검색", "second"]
    assert "검색" in path.read_text(encoding="utf-8")


def test_a_file_goes_on_where_it_ended(recorders, tmp_path):
    for _ in range(2):
        one = recorders(log=str(tmp_path / "x.log"))
        request(one)
        one.shutdown()
    assert len(lines_of((tmp_path / "x.log").read_text())) == 2


def test_the_process_may_be_in_the_name(recorders, tmp_path):
    one = recorders(log=str(tmp_path / "{pid}-{x}.log"))
    request(one)
    one.flush(5)
    assert [path.name for path in tmp_path.iterdir()] == [f"{os.getpid()}-{{x}}.log"]


def test_files_are_put_aside_compressed_and_only_as_many_kept_as_asked_for(recorders, tmp_path):
    (tmp_path / "x.mine.log").write_text("of somebody else")
    one = recorders(
        log=str(tmp_path / "x.log"), log_file_max_bytes=1_000, log_file_count=2, log_file_compression="gz"
    )
    for number in range(40):
        request(one, f"request {number}")
        one.flush(5)
    aside = sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".gz")
    assert len(aside) == 2
    assert (tmp_path / "x.mine.log").read_text() == "of somebody else"
    assert (tmp_path / "x.log").stat().st_size <= 1_000
    assert not one.health.counts()


def test_a_file_that_something_else_has_moved_is_made_anew(recorders, tmp_path):
    """As `logrotate` does it."""
    path = tmp_path / "x.log"
    one = recorders(log=str(path))
    request(one, "before")
    one.flush(5)
    path.rename(tmp_path / "x.log.1")
    request(one, "after")
    one.flush(5)
    assert [line["name"] for line in lines_of(path.read_text())] == ["after"]


@needs_full_disk
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # loguru flushes before it closes
def test_a_full_disk_is_told_once_and_counted_and_the_application_goes_on(recorders, caplog):
    one = recorders(log="/dev/full", log_file_max_bytes=0)
    for _ in range(5):
        request(one)
    assert not one.flush(5)  # the lines are lost
    assert one.health.counts()["logs.sink"] >= 5
    assert one.health.counts()["logs.dropped"] >= 5
    assert len([record for record in caplog.records if "log line" in record.getMessage()]) == 1


def test_a_file_that_cannot_be_made_is_told_once(recorders, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    one = recorders(log=str(tmp_path / "file" / "x.log"))
    request(one)
    request(one)
    one.flush(5)
    assert one.health.counts() == {"logs.sink": 2, "logs.dropped": 2}
    assert len(caplog.records) == 1


# --- streams ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_lines_go_to_the_stream_that_is_there_now(recorders, monkeypatch, stream):
    one = recorders(log=stream)
    for _ in range(2):
        written = io.StringIO()
        monkeypatch.setattr(sys, stream, written)
        request(one)
        one.flush(5)
        assert len(lines_of(written.getvalue())) == 1


def test_a_stream_that_cannot_carry_korean_gets_escapes(recorders, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    one = recorders(log="stdout")
    request(one, "검색 🦉")
    one.flush(5)
    (line,) = lines_of(raw.getvalue().decode("ascii"))
    assert line["name"] == "검색 🦉"


@pytest.mark.parametrize("broken", [None, "closed"])
def test_a_stream_that_is_gone_costs_lines_and_nothing_else(recorders, monkeypatch, broken):
    stream = None if broken is None else io.StringIO()
    if stream is not None:
        stream.close()
    monkeypatch.setattr(sys, "stdout", stream)
    one = recorders(log="stdout")
    request(one)
    one.flush(5)
    assert one.health.counts() == {"logs.sink": 1, "logs.dropped": 1}


# --- the application's own logging --------------------------------------------------------------------------------
def test_the_applications_loguru_is_left_alone_by_our_own_sinks(recorders, tmp_path):
    theirs: list[str] = []
    number = loguru.logger.add(theirs.append, format="{message}")
    loguru.logger.configure(patcher=lambda record: record["extra"].update(patched=True))
    try:
        one = recorders(log=str(tmp_path / "x.log"))
        request(one)
        one.flush(5)
        assert theirs == []
        loguru.logger.remove(number)  # as applications do first of all
        request(one)
        one.flush(5)
        assert len(lines_of((tmp_path / "x.log").read_text())) == 2
        number = loguru.logger.add(theirs.append, format="{message}")
        one.shutdown()
        loguru.logger.info("still there")
        assert theirs == ["still there\n"]
    finally:
        loguru.logger.remove(number)
        loguru.logger.configure(patcher=None)


def test_loguru_gets_the_event_and_the_fields(recorders):
    records: list[dict] = []
    number = loguru.logger.add(lambda message: records.append(message.record), level="DEBUG")
    try:
        one = recorders(log="loguru", log_level="DEBUG")
        with pytest.raises(ValueError), one.span(Operation(kind=Kind.WORKFLOW, name="{braces}")):
            raise ValueError
        one.flush(5)
    finally:
        loguru.logger.remove(number)
    start, end = records
    assert (start["message"], start["level"].name) == ("ai.agent.run.start", "DEBUG")
    assert (end["message"], end["level"].name) == ("ai.agent.request", "ERROR")
    assert end["extra"]["name"] == "{braces}"
    assert end["extra"]["error_code"] == "ValueError"


def test_logging_gets_the_event_the_fields_and_the_ids(recorders, caplog):
    one = recorders(log="logging")
    request(one)
    one.flush(5)
    (record,) = [record for record in caplog.records if record.name == "aiobs.requests"]
    assert (record.getMessage(), record.levelname) == ("ai.agent.request", "INFO")
    assert record.aiobs["name"] == "answer"
    assert record.trace_id == record.aiobs["trace_id"]
    assert json.loads(JsonFormatter().format(record)) == record.aiobs


def test_the_applications_levels_and_filters_hold_for_logging(recorders, caplog):
    logger = logging.getLogger("aiobs.requests")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        one = recorders(log="logging")
        request(one)
        one.flush(5)
        logger.setLevel(logging.DEBUG)
        logger.addFilter(lambda record: record.aiobs["name"] != "unwanted")
        request(one, "unwanted")
        request(one, "wanted")
        one.flush(5)
    finally:
        logger.setLevel(before)
        logger.filters.clear()
    assert [r.aiobs["name"] for r in caplog.records if r.name == "aiobs.requests"] == ["wanted"]


def test_structlog_gets_the_event_and_the_fields(recorders):
    with structlog.testing.capture_logs() as captured:
        one = recorders(log="structlog")
        request(one)
        one.flush(5)
    (line,) = captured
    assert (line["event"], line["log_level"], line["name"]) == ("ai.agent.request", "info", "answer")


def test_a_handler_of_the_applications_that_raises_is_counted(recorders):
    def broken(_: object) -> None:
        raise OSError("full")

    number = loguru.logger.add(broken, catch=False)
    try:
        one = recorders(log="loguru")
        request(one)
        assert not one.flush(5)
    finally:
        loguru.logger.remove(number)
    assert one.health.counts() == {"logs.sink": 1, "logs.dropped": 1}


@pytest.mark.parametrize(
    ("log", "package"), [("stdout", "loguru"), ("loguru", "loguru"), ("structlog", "structlog")]
)
def test_a_missing_package_is_named_and_logs_are_off(recorders, monkeypatch, caplog, log, package):
    monkeypatch.setitem(sys.modules, package, None)
    one = recorders(log=log)
    request(one)
    request(one)
    assert one.flush(5)
    (record,) = caplog.records
    assert f"pip install {package}" in record.getMessage()
    assert one.health.counts() == {"logs.sink": 1}


# --- settings, forks, formats -------------------------------------------------------------------------------------
@pytest.mark.parametrize("given", ["sdtout", "", "json"])
def test_a_slip_of_the_pen_is_no_file(given):
    with pytest.raises(SettingsError, match=r"off, stdout, stderr, loguru, logging, structlog, or a file"):
        Settings.load({}, {"log": given}, strict=True)


@needs_fork
def test_a_forked_worker_writes_its_own_lines_whole(tmp_path):
    path = tmp_path / "x.log"
    script = """
import os, sys, warnings
warnings.simplefilter("ignore")
from aiobs_core import configure, flush, shutdown, span
configure(log=sys.argv[1], console="off", store="off", exporters=[], log_file_max_bytes=0)
with span("before"): pass
flush()
children = []
for _ in range(4):
    child = os.fork()
    if not child:
        for _ in range(200):
            with span(f"child {os.getpid()}"): pass
        flush(); os._exit(0)
    children.append(child)
for _ in range(200):
    with span("parent"): pass
for child in children:
    assert os.waitpid(child, 0)[1] == 0
shutdown()
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
    found = [line["name"] for line in lines_of(path.read_text())]
    assert len(found) == 1 + 200 + 4 * 200
    assert len(set(found)) == 6


def test_a_script_that_just_ends_has_its_lines(tmp_path):
    script = """
import aiobs_core, sys
aiobs_core.configure(log=sys.argv[1], store="off", console="off")
with aiobs_core.span("answer"): pass
"""
    path = tmp_path / "x.log"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)
    assert [line["name"] for line in lines_of(path.read_text())] == ["answer"]


def test_the_formatter_makes_one_line_of_any_record():
    formatter = JsonFormatter()
    try:
        raise ValueError("line\nbreak")
    except ValueError:
        record = logging.getLogger("shop").makeRecord(
            "shop", logging.WARNING, "f.py", 1, "sold %s\n\u2028\ud800", ("tea",), sys.exc_info()
        )
    record.trace_id, record.span_id = "ab" * 16, ""
    (line,) = formatter.format(record).splitlines()
    found = json.loads(line)
    assert found["message"] == "sold tea\n\u2028\ud800"
    assert (found["level"], found["logger"], found["trace_id"]) == ("WARN", "shop", "ab" * 16)
    assert "span_id" not in found
    assert found["exception"].endswith("ValueError: line\nbreak")


def test_ascii_lines_say_the_same():
    fields = {"name": "검색 🦉 \x7f\x85"}
    assert json.loads(as_ascii(json_line(fields))) == json.loads(json_line(fields)) == fields
    assert as_ascii(json_line(fields)).isascii()


def test_a_file_named_with_a_tilde_is_in_the_home_folder(recorders, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    one = recorders(log="~/x.log")
    request(one)
    one.flush(5)
    assert Path(tmp_path / "x.log").exists()
