"""Erasure and retention: what is deleted is gone from every file, and nothing else is."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from aiobs_core import semconv
from aiobs_core._health import Health
from aiobs_core.store import compaction, deletion, erase, spool, writer
from aiobs_core.store.reader import NoStoreError, Store, UnknownTraceError
from aiobs_core.store.schema import StoreError
from aiobs_core.store.spool import Spool, spool_files
from aiobs_core.store.writer import StoreExporter

DAY_NS = 86_400 * 10**9
ADA = "ada-7f3a"
BOB = "bob-91cc"
# In the blocks a text is compressed, in the columns it stands as it is: the name and the model are the canaries.
CANARY = "canary-of-ada"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / ".aiobs"


@pytest.fixture
def health():
    return Health()


@pytest.fixture
def exporter(folder, health):
    exporter = StoreExporter(folder, health=health)
    yield exporter
    exporter.shutdown()


def call(user, **attributes):
    return {
        semconv.SPAN_KIND: "model",
        semconv.MODEL_NAME: "gpt-4.1",
        semconv.USAGE_INPUT_TOKENS: 5,
        semconv.USER_ID: user,
        **attributes,
    }


@pytest.fixture
def a_trace(make_span):
    """A run of one user: a root that names nobody, and calls that do."""

    def make(user, name, *, calls=3, **options):
        root = make_span(name, **options)
        texts = [os.urandom(400).hex() for _ in range(calls)]
        children = [
            make_span(name, call(user, text=text), parent=root, start_ns=root.start_time) for text in texts
        ]
        return [root, *children]

    return make


def query(folder, sql, *values):
    with closing(sqlite3.connect(folder / "aiobs.db")) as connection:
        return connection.execute(sql, values).fetchall()


def blocks_of(folder, trace):
    rows = query(folder, "SELECT z FROM body WHERE id IN (SELECT blk FROM spans WHERE trace_id = ?)", trace)
    return [z for (z,) in rows]


def identity(spans):
    return spans[0].context.trace_id.to_bytes(16, "big")


def files_with(folder, *needles):
    """Files of the folder in which one of the byte sequences stands."""
    return [
        path.name
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


def traces_of(folder):
    with closing(Store(folder)) as store:
        return sorted(run.name for run in store.runs()), sum(len(spans) for spans in store.iter_traces())


def rolls(folder):
    return query(folder, "SELECT minute, model, n, errs, in_tok, out_tok, cost, hist FROM roll")


def traces_of_two(exporter, a_trace):
    """Ada's trace between two of Bob's, and the byte sequences that only hers has."""
    ada = a_trace(ADA, CANARY)
    for spans in (a_trace(BOB, "run of bob"), ada, a_trace(BOB, "run of bob")):
        exporter.export(spans)
    return ada


def needles_of(folder, spans):
    """Byte sequences that stand only in these spans: columns, ids, and pieces of the compressed blocks."""
    blocks = blocks_of(folder, identity(spans))
    pieces = [z[at : at + 24] for z in blocks for at in range(16, len(z) - 48, 199)]
    assert pieces
    needles = [CANARY.encode(), ADA.encode(), identity(spans), *pieces]
    assert all(files_with(folder, needle) for needle in needles)
    return needles


@pytest.mark.parametrize("how", ["user", "trace", "digits", "before"])
def test_no_byte_of_an_erased_trace_is_left_in_any_file(folder, health, exporter, a_trace, how):
    ada = a_trace(ADA, CANARY, start_ns=1_000_000 * DAY_NS // 100)
    exporter.export(a_trace(BOB, "run of bob"))
    exporter.export(ada)
    exporter.export(a_trace(BOB, "run of bob"))
    needles, before = needles_of(folder, ada), rolls(folder)
    digits = identity(ada).hex()
    arguments = {
        "user": {"users": [ADA]},
        "trace": {"trace_id": digits},
        "digits": {"trace_id": digits[:12]},
        "before": {"before_ns": ada[0].end_time + 1},
    }
    done = erase.erase(folder, health=health, **arguments[how])
    assert done == erase.Erased(
        trace_count=1, span_count=4, spooled_span_count=0, is_compacted=True, remark=None
    )
    assert files_with(folder, *needles) == []
    assert traces_of(folder) == (["run of bob", "run of bob"], 8)
    assert rolls(folder) == before
    assert query(folder, "SELECT count(*) FROM body") == [(2,)]
    assert query(folder, "PRAGMA integrity_check") == [("ok",)]
    assert health.counts() == {}


def test_the_search_for_bytes_finds_what_a_plain_delete_leaves(folder, exporter, a_trace):
    ada = traces_of_two(exporter, a_trace)
    needles = needles_of(folder, ada)
    exporter.shutdown()
    with closing(sqlite3.connect(folder / "aiobs.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        for sql in ("DELETE FROM body WHERE id = 2", "DELETE FROM spans WHERE blk = 2"):
            connection.execute(sql)
        connection.execute("DELETE FROM runs WHERE name = ?", (CANARY,))
    assert files_with(folder, *needles) == ["aiobs.db"]


def test_bytes_that_an_earlier_plain_deletion_left_go_too(folder, health, exporter, a_trace):
    ada, more = traces_of_two(exporter, a_trace), a_trace(ADA, "more of ada")
    needles = needles_of(folder, ada)
    exporter.export(more)
    with closing(sqlite3.connect(folder / "aiobs.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA secure_delete=OFF")
        for sql in ("DELETE FROM body WHERE id = 2", "DELETE FROM spans WHERE blk = 2"):
            connection.execute(sql)
        connection.execute("DELETE FROM runs WHERE name = ?", (CANARY,))
    assert erase.erase(folder, health=health, users=[ADA]).trace_count == 1
    assert files_with(folder, *needles) == []


def test_a_trace_that_another_process_stores_meanwhile_is_erased_too(
    folder, health, exporter, make_span, monkeypatch
):
    exporter.export([make_span("run", call(ADA)), make_span("run of bob", call(BOB))])
    compact, late = erase.compact, [make_span(CANARY, call(ADA))]

    def store_late(connection):
        if late:
            exporter.export([late.pop()])
        return compact(connection)

    monkeypatch.setattr(erase, "compact", store_late)
    assert erase.erase(folder, health=health, users=[ADA]).trace_count == 2
    assert files_with(folder, CANARY.encode(), ADA.encode()) == []
    assert traces_of(folder) == (["run of bob"], 1)


def test_a_run_that_went_on_since_it_was_found_is_spared(folder, health, exporter, make_span):
    run = make_span("run", start_ns=1_000, duration_ns=500)
    exporter.export([run])
    with closing(sqlite3.connect(folder / "aiobs.db", isolation_level=None)) as connection:
        found = deletion.expired(connection, 2_000)
        exporter.export([make_span("child", parent=run, start_ns=2_000)])
        delete = deletion.Deletion(connection, folder, health=health).delete
        assert delete(found, before_ns=2_000) == deletion.Deleted(traces=(), span_count=0)
        assert delete(found).span_count == 2


def test_the_instant_itself_is_not_before_it(folder, health, exporter, make_span):
    exporter.export([make_span("run", start_ns=1_000, duration_ns=500)])
    assert erase.erase(folder, health=health, before_ns=1_500).trace_count == 0
    assert erase.erase(folder, health=health, before_ns=1_501).trace_count == 1


def test_all_blocks_of_a_trace_go(folder, health, exporter, a_trace):
    first = a_trace(ADA, CANARY)
    exporter.export(a_trace(BOB, "run of bob"))
    for span in first:
        exporter.export([span])
    assert len(blocks_of(folder, identity(first))) == 4
    needles = needles_of(folder, first)
    assert erase.erase(folder, health=health, users=[ADA]).span_count == 4
    assert files_with(folder, *needles) == []
    assert query(folder, "SELECT count(*) FROM body") == [(1,)]


def test_a_trace_goes_whole_if_one_of_its_spans_has_the_user(folder, health, exporter, make_span):
    root = make_span("mixed")
    exporter.export([root, make_span("of bob", call(BOB), parent=root)])
    exporter.export([make_span("of ada", call(ADA), parent=root), make_span("other", call("ada"))])
    assert erase.erase(folder, health=health, users=[ADA, "nobody"]).span_count == 3
    assert traces_of(folder) == (["other"], 1)


def test_a_user_is_matched_whole_even_if_longer_than_the_column(folder, health, exporter, make_span):
    exporter.export([make_span("long", call("u" * 600)), make_span("short", call("u"))])
    assert erase.erase(folder, health=health, users=["u" * 600]).trace_count == 1
    assert traces_of(folder) == (["short"], 1)


def test_many_traces_go_in_slices(folder, health, exporter, make_span, monkeypatch):
    monkeypatch.setattr(deletion, "SLICE_TRACES", 3)
    exporter.export([make_span(f"run {n}", call(ADA if n % 2 else BOB), trace_id=n + 1) for n in range(40)])
    slices = []
    delete = deletion.Deletion.delete
    monkeypatch.setattr(
        deletion.Deletion,
        "delete",
        lambda self, traces, **o: slices.append(len(traces)) or delete(self, traces, **o),
    )
    done = erase.erase(folder, health=health, users=[ADA])
    assert (done.trace_count, done.is_compacted) == (20, True)
    assert (sum(slices), max(slices)) == (20, 3)
    assert traces_of(folder)[1] == 20


IDLE_WRITER = """
import sys
from pathlib import Path
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext
from aiobs_core._health import Health
from aiobs_core.store.writer import StoreExporter

def span(name, number, user):
    return ReadableSpan(name, context=SpanContext(number, number, False), start_time=1, end_time=2,
                        attributes={"ai.agent.user.id": user})

health = Health()
exporter = StoreExporter(Path(sys.argv[1]), health=health)
exporter.export([span(sys.argv[2], 1, sys.argv[3]), span("other", 2, "bob")])
print("written", flush=True)
sys.stdin.readline()
exporter.export([span("later", 3, "bob")])
exporter.shutdown()
assert health.counts() == {}, health.counts()
"""


def start(script, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_the_open_connection_of_an_idle_application_is_no_obstacle(folder, health):
    with start(IDLE_WRITER, folder, CANARY, ADA) as process:
        assert process.stdout.readline() == "written\n"
        assert "aiobs.db-wal" in files_with(folder, CANARY.encode())
        done = erase.erase(folder, health=health, users=[ADA])
        assert (done.trace_count, done.is_compacted, done.remark) == (1, True, None)
        assert files_with(folder, CANARY.encode(), ADA.encode()) == []
        process.communicate("\n", timeout=30)
    assert process.returncode == 0
    assert traces_of(folder) == (["later", "other"], 2)
    assert files_with(folder, CANARY.encode(), ADA.encode()) == []


@pytest.mark.parametrize("how", ["user", "trace", "before"])
def test_a_reader_holds_the_bytes_until_it_is_done(folder, health, exporter, a_trace, monkeypatch, how):
    monkeypatch.setattr(compaction, "PATIENCE_S", 0.2)
    monkeypatch.setattr(compaction, "BUSY_TIMEOUT_MS", 50)
    ada = traces_of_two(exporter, a_trace)
    needles = needles_of(folder, ada)
    which = {
        "user": {"users": [ADA]},
        "trace": {"trace_id": identity(ada).hex()},
        "before": {"before_ns": 2**62},
    }[how]
    with closing(sqlite3.connect(folder / "aiobs.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM spans").fetchone()
        done = erase.erase(folder, health=health, **which)
        assert (done.is_compacted, done.trace_count) == (False, 3 if how == "before" else 1)
        assert "run the same again" in done.remark
        assert reader.execute("SELECT count(*) FROM spans").fetchone() == (12,)
        assert files_with(folder, *needles)
        reader.execute("COMMIT")
        again = erase.erase(folder, health=health, **which)
    assert (again.is_compacted, again.trace_count) == (True, 0)
    assert files_with(folder, *needles) == []
    assert not (folder / "erase.pending").exists()


def test_a_trace_that_was_never_there_is_unknown_once_nothing_is_pending(folder, health, exporter, make_span):
    exporter.export([make_span("run", trace_id=0xAB << 120), make_span("run", trace_id=0xAC << 120)])
    for given, message in (
        ("f0", "No trace"),
        ("a", "More than one"),
        ("run", "no trace id"),
        ("last", "digits"),
    ):
        with pytest.raises(UnknownTraceError, match=message):
            erase.erase(folder, health=health, trace_id=given)
    assert traces_of(folder) == (["run", "run"], 2)


def test_a_locked_store_is_waited_for(folder, health, exporter, make_span):
    exporter.export([make_span("run", call(ADA))])
    with closing(
        sqlite3.connect(folder / "aiobs.db", isolation_level=None, check_same_thread=False)
    ) as other:
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(2.5, other.execute, ["COMMIT"])
        timer.start()
        assert erase.erase(folder, health=health, users=[ADA]).is_compacted
        timer.join()


def test_a_store_that_stays_locked_is_a_store_error(folder, health, exporter, make_span, monkeypatch):
    monkeypatch.setattr(compaction, "PATIENCE_S", 0.1)
    monkeypatch.setattr(compaction, "BUSY_TIMEOUT_MS", 50)
    monkeypatch.setattr(writer.schema, "BUSY_TIMEOUT_S", 0.05)
    exporter.export([make_span("run", call(ADA))])
    with closing(sqlite3.connect(folder / "aiobs.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"cannot be written now .*locked.*Run the same again"):
            erase.erase(folder, health=health, users=[ADA])
        other.execute("COMMIT")
    assert traces_of(folder) == (["run"], 1)


# --- the spool ----------------------------------------------------------------------------------------------


def test_spooled_spans_are_erased_too(folder, health, exporter, a_trace, make_span):
    ada = a_trace(ADA, CANARY)
    exporter.export(ada[:2])
    waiting = Spool(folder)
    waiting.append(ada[2:])
    waiting.append([make_span("run of bob", call(BOB))])
    done = erase.erase(folder, health=health, users=[ADA])
    assert (done.span_count, done.spooled_span_count, done.is_compacted) == (4, 2, True)
    assert files_with(folder, CANARY.encode(), ADA.encode(), identity(ada).hex().encode()) == []
    assert spool_files(folder) == []
    assert traces_of(folder) == (["run of bob"], 1)


@pytest.mark.skipif(sys.platform == "win32", reason="asks whether a process lives")
@pytest.mark.parametrize("name", ["{ppid}-", "17-00000000ffffffff"])
def test_the_spool_of_a_living_process_or_another_host_is_emptied_too(folder, health, make_span, name):
    waiting = Spool(folder)
    waiting.append([make_span(CANARY, call(ADA))])
    waiting.append([make_span("run of bob", call(BOB))])
    own = waiting.path.name.partition("-")[2]
    theirs = waiting.path.with_name(f"{os.getppid()}-{own}" if name.startswith("{") else f"{name}.otlp.jsonl")
    waiting.path.rename(theirs)
    done = erase.erase(folder, health=health, users=[ADA])
    assert (done.span_count, done.spooled_span_count, done.is_compacted) == (1, 1, True)
    assert spool_files(folder) == []
    assert files_with(folder, CANARY.encode(), ADA.encode()) == []
    assert traces_of(folder) == (["run of bob"], 1)


def test_a_line_that_is_torn_goes_with_its_file(folder, health, make_span):
    waiting = Spool(folder)
    waiting.append([make_span("run of bob", call(BOB))])
    waiting.append([make_span(CANARY, call(ADA))])
    waiting.path.write_bytes(waiting.path.read_bytes()[:-20])
    assert erase.erase(folder, health=health, users=[ADA]).is_compacted
    assert files_with(folder, CANARY.encode(), ADA.encode()) == []
    assert health.counts() == {"store.spool_torn": 1, "spans.dropped": 1}


SPOOLING_WRITER = """
import sys
from pathlib import Path
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext
from aiobs_core.store.spool import Spool

spool, number = Spool(Path(sys.argv[1])), 0
print("begun", flush=True)
for number in range(1, 2001):
    spool.append([ReadableSpan("s", context=SpanContext(7, number, False), start_time=1, end_time=2,
                               attributes={"user.id": "bob"})])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be renamed there")
def test_no_line_is_lost_while_the_spool_of_a_writing_process_is_taken(folder, health, make_span):
    with start(SPOOLING_WRITER, folder) as process:
        process.stdout.readline()
        while process.poll() is None:
            if spool_files(folder):
                assert erase.erase(folder, health=health, users=[ADA]).remark is None
    assert process.returncode == 0
    if spool_files(folder):
        erase.erase(folder, health=health, users=[ADA])
    assert query(folder, "SELECT count(*) FROM spans") == [(2000,)]
    assert spool_files(folder) == []


@pytest.mark.skipif(sys.platform == "win32", reason="asks whether a process lives")
def test_a_line_written_just_before_the_file_is_deleted_stays(folder, health, make_span, monkeypatch):
    waiting = Spool(folder)
    waiting.append([make_span(CANARY, call(ADA))])
    waiting.path = waiting.path.rename(waiting.path.with_name(f"{os.getppid()}-{waiting.path.name}"))
    unlink, late = Path.unlink, [make_span("late", call(BOB))]

    def write_then_unlink(path, **options):
        if late:
            waiting.append([late.pop()])
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", write_then_unlink)
    assert erase.erase(folder, health=health, users=[ADA]).trace_count == 1
    assert spool_files(folder) == [waiting.path]
    assert files_with(folder, CANARY.encode()) == []


def test_a_line_written_to_a_file_that_was_taken_is_written_again(folder, make_span, monkeypatch):
    waiting, taken = Spool(folder), []
    write_all = spool._write_all

    def write_late(descriptor, data):
        if not taken:  # between the opening and the writing
            taken.append(spool.take(waiting.path, folder))
            taken[0].unlink()
        write_all(descriptor, data)

    monkeypatch.setattr(spool, "_write_all", write_late)
    waiting.append([make_span("late")])
    assert spool_files(folder) == [waiting.path]
    assert len(waiting.path.read_bytes().splitlines()) == 1


def test_a_process_that_is_reading_a_file_stops_when_another_takes_it(folder, health, make_span):
    waiting = Spool(folder)
    for name in ("one", CANARY, CANARY):
        waiting.append([make_span(name, call(ADA))])
    stored = []
    reading = spool.ingest(folder, stored.extend, own=waiting.path, health=health)
    next(reading)
    assert erase.erase(folder, health=health, users=[ADA]).span_count == 3
    assert list(reading) == []
    assert [span.name for span in stored] == ["one"]


def test_a_folder_with_nothing_but_a_spool_can_be_erased(folder, health, make_span):
    Spool(folder).append([make_span(CANARY, call(ADA))])
    done = erase.erase(folder, health=health, before_ns=2**62)
    assert (done.trace_count, done.spooled_span_count, done.is_compacted) == (1, 1, True)
    assert files_with(folder, CANARY.encode()) == []


# --- side files ---------------------------------------------------------------------------------------------


def with_content(make_span, reference, *, user=ADA, attribute="ai.agent.content.ref"):
    return make_span("with content", call(user, **{attribute: reference}))


def test_side_files_of_erased_traces_go_and_others_stay(folder, health, exporter, make_span):
    (folder / "content" / "2026").mkdir(parents=True)
    for name in ("2026/ada.json", "ada.bin", "bob.bin"):
        (folder / "content" / name).write_text(CANARY if "ada" in name else "bob's")
    exporter.export(
        [
            with_content(make_span, "content/2026/ada.json"),
            with_content(make_span, "content/ada.bin"),
            with_content(make_span, "content/not there"),
            with_content(make_span, "content/bob.bin", user=BOB),
        ]
    )
    done = erase.erase(folder, health=health, users=[ADA])
    assert (done.trace_count, done.is_compacted, done.remark) == (3, True, None)
    assert files_with(folder, CANARY.encode()) == []
    assert (folder / "content" / "bob.bin").exists()
    assert health.counts() == {}


def test_the_attribute_that_names_a_side_file_can_be_another(folder, health, exporter, make_span):
    (folder / "content").mkdir(parents=True)
    (folder / "content" / 'a"b').write_text(CANARY)
    exporter.export([with_content(make_span, 'content/a"b', attribute='my "ref')])
    erase.erase(folder, health=health, users=[ADA], content_ref_attribute='my "ref')
    assert files_with(folder, CANARY.encode()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
@pytest.mark.parametrize(
    "reference",
    [
        "content/../precious",
        "precious",
        "../precious",
        "{absolute}",
        "content/link/precious",
        "content/..",
        "content",
        "",
        "contents/precious",
    ],
)
def test_no_path_is_followed_out_of_the_content_folder(folder, health, exporter, make_span, reference):
    outside = folder.parent / "elsewhere"
    outside.mkdir()
    (folder / "content").mkdir(parents=True)
    (folder / "contents").mkdir()
    (folder / "content" / "link").symlink_to(outside)
    precious = [
        folder / "precious",
        folder.parent / "precious",
        outside / "precious",
        folder / "contents" / "precious",
    ]
    for path in precious:
        path.write_text("keep me")
    exporter.export([with_content(make_span, reference.replace("{absolute}", str(precious[1])))])
    assert erase.erase(folder, health=health, users=[ADA]).trace_count == 1
    assert all(path.exists() for path in precious)
    assert health.counts() == {"store.content_outside": 1}


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_of_a_link_in_the_content_folder_the_link_goes(folder, health, exporter, make_span):
    (folder / "content").mkdir(parents=True)
    precious = folder.parent / "precious"
    precious.write_text("keep me")
    (folder / "content" / "link").symlink_to(precious)
    exporter.export([with_content(make_span, "content/link")])
    erase.erase(folder, health=health, users=[ADA])
    assert not (folder / "content" / "link").is_symlink()
    assert precious.exists()


@pytest.mark.parametrize("reference", ["content/folder", "content/null\0byte"])
def test_a_side_file_that_cannot_be_deleted_is_named(folder, health, exporter, make_span, reference):
    (folder / "content" / "folder").mkdir(parents=True)
    exporter.export([with_content(make_span, reference)])
    done = erase.erase(folder, health=health, users=[ADA])
    assert (done.trace_count, done.is_compacted) == (1, False)
    assert "delete it by hand" in done.remark
    assert health.counts() == {"store.content_left": 1}


def test_a_damaged_block_is_deleted_and_counted(folder, health, exporter, make_span):
    exporter.export([make_span("run", call(ADA))])
    with closing(sqlite3.connect(folder / "aiobs.db", isolation_level=None)) as connection:
        connection.execute("UPDATE body SET z = ?", (zlib.compress(b'"ai.agent.content.ref" garbage'),))
    assert erase.erase(folder, health=health, users=[ADA]).trace_count == 1
    assert health.counts() == {"store.block_damaged": 1}


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"users": []},
        {"users": [ADA], "trace_id": "ab"},
        {"trace_id": "ab", "before_ns": 0},
        {"users": [ADA], "before_ns": 1},
        {"users": "ada"},
        {"users": [""]},
    ],
)
def test_exactly_one_of_the_three_says_what_to_erase(folder, health, exporter, make_span, arguments):
    exporter.export([make_span("run", call(ADA))])
    with pytest.raises(ValueError, match="expected"):
        erase.erase(folder, health=health, **arguments)
    assert traces_of(folder) == (["run"], 1)


@pytest.mark.parametrize("before_ns", [-(2**80), 0, 2**80])
def test_any_instant_is_accepted(folder, health, exporter, make_span, before_ns):
    exporter.export([make_span("run")])
    assert erase.erase(folder, health=health, before_ns=before_ns).trace_count == int(before_ns > 0)


def test_without_a_store_nothing_is_made(folder, health):
    with pytest.raises(NoStoreError):
        erase.erase(folder, health=health, users=[ADA])
    assert not folder.exists()


# --- users and masked values --------------------------------------------------------------------------------


def test_the_first_user_of_a_run_is_its_user_and_masked_values_are_added_up(folder, exporter, make_span):
    root = make_span("run", {semconv.MASKED_COUNT: 2})
    exporter.export([root])
    exporter.export(
        [
            make_span("a", call(ADA, **{semconv.MASKED_COUNT: 3, "user.id": "ignored"}), parent=root),
            make_span("b", {"user.id": BOB, semconv.MASKED_COUNT: -1}, parent=root),
        ]
    )
    exporter.export([make_span("plain")])
    assert dict(query(folder, "SELECT name, user FROM spans")) == {
        "run": None,
        "a": ADA,
        "b": BOB,
        "plain": None,
    }
    assert dict(query(folder, "SELECT name, masked FROM spans")) == {
        "run": 2,
        "a": 3,
        "b": None,
        "plain": None,
    }
    assert query(folder, "SELECT user, masked FROM runs ORDER BY name") == [(None, None), (ADA, 5)]


# --- retention ----------------------------------------------------------------------------------------------


@pytest.fixture
def keep_a_day(folder, health):
    exporter = StoreExporter(folder, health=health, retention_s=86_400.0)
    yield exporter
    exporter.shutdown()


def aged(make_span, count, *, days, name="old", **attributes):
    start_ns = time.time_ns() - days * DAY_NS
    return [make_span(name, call(ADA, **attributes), start_ns=start_ns) for _ in range(count)]


def test_retention_deletes_old_runs_in_slices_while_new_ones_stay(
    folder, health, exporter, keep_a_day, make_span, monkeypatch
):
    monkeypatch.setattr(deletion, "_STEP_S", 0.0)
    exporter.export(aged(make_span, 50, days=2, name=CANARY))
    new, before = aged(make_span, 3, days=0, name="new"), rolls(folder)
    counts = []
    for n in range(3):
        keep_a_day.export([new[n]])
        counts.append(query(folder, "SELECT count(*) FROM runs WHERE name = ?", CANARY)[0][0])
    assert counts == [30, 10, 0]
    assert traces_of(folder) == (["new"] * 3, 3)
    assert query(folder, "SELECT count(*) FROM body") == [(3,)]
    assert len(rolls(folder)) >= len(before)
    assert health.counts() == {}


def test_retention_gives_the_pages_back_and_leaves_no_bytes(folder, health, exporter, keep_a_day, make_span):
    for _ in range(3):
        exporter.export(aged(make_span, 40, days=2, name=CANARY, text=os.urandom(20_000).hex()))
    pages = query(folder, "PRAGMA page_count")[0][0]
    for _ in range(40):
        keep_a_day.export(aged(make_span, 1, days=0, name="new"))
    assert query(folder, "PRAGMA freelist_count") == [(0,)]
    assert query(folder, "PRAGMA page_count")[0][0] < pages / 4
    exporter.shutdown()
    keep_a_day.shutdown()  # the last connection: the log is written back
    assert files_with(folder, CANARY.encode()) == []
    assert health.counts() == {}


def test_retention_looks_again_only_after_a_while(folder, exporter, keep_a_day, make_span, monkeypatch):
    keep_a_day.export([make_span("new")])
    exporter.export(aged(make_span, 1, days=2))
    keep_a_day.export([make_span("new")])
    assert traces_of(folder)[0].count("old") == 1
    later_s = time.monotonic() + 601
    monkeypatch.setattr(deletion.time, "monotonic", lambda: later_s)
    keep_a_day.export([make_span("new")])
    assert traces_of(folder)[0].count("old") == 0


def test_retention_deletes_side_files_too(folder, exporter, keep_a_day, make_span):
    (folder / "content").mkdir(parents=True)
    (folder / "content" / "old").write_text(CANARY)
    exporter.export(aged(make_span, 1, days=2, **{"ai.agent.content.ref": "content/old"}))
    keep_a_day.export([make_span("new")])
    assert list((folder / "content").iterdir()) == []


def test_a_run_that_goes_on_is_spared(folder, exporter, keep_a_day, make_span):
    (old,) = aged(make_span, 1, days=2)
    exporter.export([old, make_span("now", parent=old, start_ns=time.time_ns())])
    keep_a_day.export([make_span("new")])
    assert traces_of(folder) == (["new", "old"], 3)


def test_without_a_retention_all_is_kept(folder, exporter, make_span):
    exporter.export(aged(make_span, 1, days=10_000))
    exporter.export([make_span("new")])
    assert traces_of(folder) == (["new", "old"], 2)


@pytest.mark.parametrize(
    "error", [sqlite3.OperationalError("disk I/O error"), ValueError("odd"), OSError("odd")]
)
def test_retention_that_fails_costs_no_span(folder, health, keep_a_day, make_span, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(deletion, "expired", fail)
    for _ in range(2):
        keep_a_day.export([make_span("new")])
    assert traces_of(folder) == (["new", "new"], 2)
    assert health.counts() == {"store.retention_failed": 1}


def test_retention_waits_for_a_locked_store_without_holding_the_export_up(
    folder, health, exporter, keep_a_day, make_span, monkeypatch
):
    exporter.export(aged(make_span, 1, days=2))
    with closing(sqlite3.connect(folder / "aiobs.db", isolation_level=None)) as other:
        write, begun_s = writer.StoreWriter.write_slice, []

        def write_and_lock(self, spans):
            write(self, spans)
            other.execute("BEGIN IMMEDIATE")
            begun_s.append(time.monotonic())

        monkeypatch.setattr(writer.StoreWriter, "write_slice", write_and_lock)
        keep_a_day.export([make_span("new")])
        assert time.monotonic() - begun_s[0] < 1.0
        other.execute("COMMIT")
    assert traces_of(folder)[0] == ["new", "old"]
    monkeypatch.undo()
    keep_a_day.export([make_span("new")])
    assert traces_of(folder)[0] == ["new", "new"]
    assert health.counts() == {}


@pytest.mark.parametrize("retention_s", [0, -1.0, float("nan"), float("inf")])
def test_a_retention_is_a_positive_number(folder, health, retention_s):
    with pytest.raises(ValueError, match="retention_s: expected a positive"):
        StoreExporter(folder, health=health, retention_s=retention_s)
