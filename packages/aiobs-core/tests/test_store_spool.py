from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from aiobs_core import semconv
from aiobs_core._health import Health
from aiobs_core.store import spool, writer
from aiobs_core.store.otlp_json import decode_line
from aiobs_core.store.reader import Store, open_store
from aiobs_core.store.spool import Spool, spool_files
from aiobs_core.store.writer import StoreExporter

CALL = {semconv.SPAN_KIND: "model", semconv.USAGE_INPUT_TOKENS: 5}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / ".aiobs"


@pytest.fixture
def health():
    return Health()


@pytest.fixture
def make_exporter(folder, health):
    made = []

    def make():
        made.append(StoreExporter(folder, health=health))
        return made[-1]

    yield make
    for exporter in made:
        exporter.shutdown()


@pytest.fixture
def retry_at_once(monkeypatch):
    monkeypatch.setattr(writer, "_RETRY_S", 0.0)


def spooled(folder):
    return [
        span
        for path in spool_files(folder)
        for line in path.read_bytes().splitlines()
        for span in decode_line(line)
    ]


def stored_names(folder):
    with closing(Store(folder)) as store:
        return sorted(span.name for spans in store.iter_traces() for span in spans)


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def make_folder_in_the_way(folder):
    (folder / "aiobs.db").mkdir(parents=True)


def make_damaged_file(folder):
    folder.mkdir()
    (folder / "aiobs.db").write_bytes(b"this is no database" * 1000)


def make_newer_store(folder):
    folder.mkdir()
    with closing(sqlite3.connect(folder / "aiobs.db")) as connection:
        connection.execute("PRAGMA user_version=99")


@pytest.mark.parametrize(
    ("break_it", "kind"),
    [
        (make_folder_in_the_way, "store.unusable"),
        (make_damaged_file, "store.unusable"),
        (make_newer_store, "store.newer_version"),
    ],
)
def test_spans_go_to_the_spool_where_sqlite_cannot_be_used(
    folder, health, make_exporter, make_span, caplog, break_it, kind
):
    break_it(folder)
    exporter = make_exporter()
    for name in ("one", "two"):
        assert exporter.export([make_span(name, CALL)]) is SpanExportResult.SUCCESS
    assert [span.name for span in spooled(folder)] == ["one", "two"]
    assert health.counts() == {kind: 1}
    (record,) = caplog.records
    assert str(folder / "aiobs.db") in record.getMessage()
    assert str(folder / "spool") in record.getMessage()


def test_a_newer_store_stays_as_it_is(folder, make_exporter, make_span):
    make_newer_store(folder)
    before = (folder / "aiobs.db").read_bytes()
    make_exporter().export([make_span()])
    assert (folder / "aiobs.db").read_bytes() == before


def test_the_spool_moves_into_the_store_once_it_can_be_written(
    folder, health, make_exporter, make_span, retry_at_once
):
    make_folder_in_the_way(folder)
    exporter = make_exporter()
    exporter.export([make_span("early", CALL)])
    (folder / "aiobs.db").rmdir()
    exporter.export([make_span("late", CALL)])
    assert spool_files(folder) == []
    assert stored_names(folder) == ["early", "late"]
    assert "spans.dropped" not in health.counts()


def test_a_store_that_cannot_be_written_is_not_tried_with_each_batch(
    folder, health, make_exporter, make_span
):
    make_folder_in_the_way(folder)
    exporter = make_exporter()
    exporter.export([make_span()])
    (folder / "aiobs.db").rmdir()
    exporter.export([make_span()])
    assert not (folder / "aiobs.db").exists()
    assert health.counts() == {"store.unusable": 1}


def test_a_locked_store_is_left_for_the_spool_after_the_timeout(
    folder, health, make_exporter, make_span, monkeypatch, retry_at_once
):
    monkeypatch.setattr(writer.schema, "BUSY_TIMEOUT_S", 0.1)
    exporter = make_exporter()
    exporter.export([make_span("before")])
    with closing(sqlite3.connect(folder / "aiobs.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        exporter.export([make_span("meanwhile")])
        assert [span.name for span in spooled(folder)] == ["meanwhile"]
        assert stored_names(folder) == ["before"]
        other.execute("COMMIT")
    exporter.export([make_span("after")])
    assert stored_names(folder) == ["after", "before", "meanwhile"]
    assert spool_files(folder) == []
    assert health.counts() == {"store.unusable": 1}


def test_a_full_disk_sends_the_rest_of_a_batch_to_the_spool(
    folder, health, make_exporter, make_span, caplog, monkeypatch
):
    opened = writer.schema.open_for_writing

    def open_on_a_small_disk(folder):
        connection = opened(folder)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages + 40}")  # the way SQLite offers to get SQLITE_FULL
        return connection

    monkeypatch.setattr(writer.schema, "open_for_writing", open_on_a_small_disk)
    exporter = make_exporter()
    spans = [make_span(f"{n:04}", {"text": os.urandom(3000).hex()}, trace_id=n + 1) for n in range(512)]
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    in_store, in_spool = stored_names(folder), sorted(span.name for span in spooled(folder))
    assert in_store
    assert in_spool
    assert sorted(in_store + in_spool) == [span.name for span in spans]
    assert "full" in caplog.text
    with closing(sqlite3.connect(folder / "aiobs.db")) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]


def test_where_nothing_can_be_written_the_loss_is_counted_and_said_once(tmp_path, health, make_span, caplog):
    (tmp_path / "file").write_text("a file, not a folder")
    exporter = StoreExporter(tmp_path / "file" / ".aiobs", health=health)
    for _ in range(3):
        assert exporter.export([make_span(), make_span()]) is SpanExportResult.FAILURE
    exporter.shutdown()
    assert health.counts() == {"store.unusable": 1, "store.spool_unwritable": 3, "spans.dropped": 6}
    assert len([record for record in caplog.records if "lost" in record.getMessage()]) == 1


def test_the_spool_of_a_process_cannot_fill_the_disk(folder, health, make_exporter, make_span, monkeypatch):
    monkeypatch.setattr(spool, "MAX_FILE_BYTES", 2_000)
    make_folder_in_the_way(folder)
    exporter = make_exporter()
    results = [exporter.export([make_span(f"s{n}")]) for n in range(10)]
    kept = results.count(SpanExportResult.SUCCESS)
    assert 0 < kept < 10
    assert len(spooled(folder)) == kept
    assert health.counts()["spans.dropped"] == 10 - kept


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_only_the_owner_can_read_the_spool(folder, make_span):
    waiting = Spool(folder)
    waiting.append([make_span()])
    assert stat.S_IMODE(waiting.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(waiting.path.parent.stat().st_mode) == 0o700
    assert (folder / ".gitignore").exists()


def test_the_spool_is_what_a_collector_can_replay(folder, make_span):
    waiting = Spool(folder)
    waiting.append([make_span("one"), make_span("two")])
    waiting.append([make_span("three")])
    lines = waiting.path.read_text().splitlines()
    assert [list(json.loads(line)) for line in lines] == [["resourceSpans"]] * 2
    assert waiting.path.name.startswith(f"{os.getpid()}-")
    assert waiting.path.name.endswith(".otlp.jsonl")


def test_files_of_dead_processes_are_taken_in_by_the_next_one(folder, make_exporter, make_span):
    left = Spool(folder)
    left.append([make_span("left", CALL)])
    left.path.rename(left.path.with_name(left.path.name.replace(str(os.getpid()), str(dead_pid()), 1)))
    make_exporter().export([make_span("new")])
    assert stored_names(folder) == ["left", "new"]
    assert spool_files(folder) == []


def test_a_file_of_an_earlier_process_with_our_number_is_taken_in(folder, make_exporter, make_span):
    Spool(folder).append([make_span("left")])
    make_exporter().export([make_span("new")])
    assert stored_names(folder) == ["left", "new"]
    assert spool_files(folder) == []


@pytest.mark.skipif(sys.platform == "win32", reason="asks whether a process lives")
def test_the_file_of_a_living_process_is_read_but_stays_its_own(folder, make_exporter, make_span):
    left = Spool(folder)
    left.append([make_span("left", CALL)])
    theirs = left.path.with_name(left.path.name.replace(str(os.getpid()), str(os.getppid()), 1))
    left.path.rename(theirs)
    for _ in range(2):
        exporter = make_exporter()
        exporter.export([make_span("new")])
        exporter.shutdown()
    assert stored_names(folder) == ["left", "new", "new"]
    assert spool_files(folder) == [theirs]
    with closing(Store(folder)) as store:
        assert sorted(run.input_tokens or 0 for run in store.runs()) == [0, 0, 5]


def test_the_file_of_another_host_stays_until_it_is_old(folder, make_exporter, make_span):
    left = Spool(folder)
    left.append([make_span("left")])
    theirs = left.path.with_name("17-00000000ffffffff.otlp.jsonl")
    left.path.rename(theirs)
    exporter = make_exporter()
    exporter.export([make_span("one")])
    exporter.shutdown()
    assert spool_files(folder) == [theirs]
    os.utime(theirs, (1, 1))
    make_exporter().export([make_span("two")])
    assert spool_files(folder) == []
    assert stored_names(folder) == ["left", "one", "two"]


def test_a_torn_last_line_is_skipped_and_counted(folder, health, make_exporter, make_span):
    left = Spool(folder)
    left.append([make_span("whole")])
    left.append([make_span("torn"), make_span("torn")])
    data = left.path.read_bytes()
    left.path.write_bytes(data[: len(data) - 20])
    make_exporter().export([make_span("new")])
    assert stored_names(folder) == ["new", "whole"]
    assert spool_files(folder) == []
    assert health.counts() == {"store.spool_torn": 1, "spans.dropped": 2}


def test_an_ingest_that_is_cut_short_is_repeated_without_counting_twice(folder, make_exporter, make_span):
    left = Spool(folder)
    for n in range(5):
        left.append([make_span("s", CALL, trace_id=1) for _ in range(n + 1)])
    content = left.path.read_bytes()
    exporter = make_exporter()
    exporter.export([make_span("x")])
    exporter.shutdown()
    left.path.write_bytes(content)
    open_store(folder, health=Health()).close()
    with closing(Store(folder)) as store:
        (run,) = [run for run in store.runs() if run.trace_id.endswith("1") and run.span_count > 1]
    assert (run.span_count, run.input_tokens) == (15, 75)


def test_the_reader_takes_in_the_spool(folder, make_span):
    Spool(folder).append([make_span("spooled")])
    with closing(open_store(folder, health=Health())) as store:
        assert [run.name for run in store.runs()] == ["spooled"]
    assert spool_files(folder) == []


def test_the_reader_shows_the_spool_where_no_store_can_be_made(folder, make_span, monkeypatch):
    monkeypatch.setattr(writer, "network_file_system", lambda path: "nfs" if path == folder else None)
    waiting = Spool(folder)
    waiting.append([make_span("spooled")])
    with closing(open_store(folder, health=Health())) as store:
        assert [run.name for run in store.runs()] == ["spooled"]
        temporary = store.path.parent
        assert temporary != folder
    assert not temporary.exists()
    assert spool_files(folder) == [waiting.path]
    assert not (folder / "aiobs.db").exists()


def test_no_store_is_made_on_a_network_file_system(folder, make_exporter, make_span, monkeypatch, caplog):
    monkeypatch.setattr(writer, "network_file_system", lambda _: "lustre")
    assert make_exporter().export([make_span("s")]) is SpanExportResult.SUCCESS
    assert not (folder / "aiobs.db").exists()
    assert [span.name for span in spooled(folder)] == ["s"]
    assert "lustre" in caplog.text


def test_a_deleted_folder_is_made_anew_for_the_spool(folder, make_exporter, make_span):
    make_folder_in_the_way(folder)
    exporter = make_exporter()
    exporter.export([make_span("one")])
    shutil.rmtree(folder)
    exporter.export([make_span("two")])
    assert [span.name for span in spooled(folder)] == ["two"]
