from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing

import pytest

from aiobs_core import semconv
from aiobs_core._errors import AiobsError
from aiobs_core._health import Health
from aiobs_core.store.reader import (
    CorruptStoreError,
    NoStoreError,
    Store,
    UnknownTraceError,
    open_store,
)
from aiobs_core.store.schema import NewerStoreError
from aiobs_core.store.writer import StoreExporter

CALL = {
    semconv.SPAN_KIND: "model",
    semconv.MODEL_NAME: "gpt-4.1",
    semconv.USAGE_INPUT_TOKENS: 100,
    semconv.USAGE_OUTPUT_TOKENS: 10,
    semconv.SESSION_ID: "conversation",
}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / ".aiobs"


@pytest.fixture
def fill(folder):
    def fill(*spans):
        health = Health()
        exporter = StoreExporter(folder, health=health)
        exporter.export(spans)
        exporter.shutdown()
        assert health.counts() == {}

    return fill


@pytest.fixture
def store(folder, fill, make_span):
    root = make_span("agent run", trace_id=0xABC << 112, start_ns=100)
    fill(
        root,
        make_span("chat", CALL, parent=root, start_ns=300, error="429"),
        make_span("earlier", parent=root, start_ns=200),
        make_span("other run", trace_id=0xABD << 112, start_ns=1_000),
        make_span("newest", trace_id=0x123, start_ns=2_000),
    )
    with closing(Store(folder)) as store:
        yield store


def test_runs_come_newest_first(store):
    assert [run.name for run in store.runs()] == ["newest", "other run", "agent run"]
    assert [run.name for run in store.runs(1)] == ["newest"]
    assert [run.name for run in store.runs(1, 1)] == ["other run"]


def test_a_run_is_summed_up(store):
    run = store.runs()[2]
    assert (run.trace_id, run.is_pending, run.service, run.session) == (
        "0abc" + "0" * 28,
        False,
        "shop",
        "conversation",
    )
    assert (run.start_ns, run.end_ns, run.span_count, run.error_count) == (100, 5_000_300, 3, 1)
    assert (run.input_tokens, run.output_tokens, run.cost_nano_usd, run.user) == (100, 10, None, None)


def test_spans_of_a_trace_come_by_start_and_whole(store):
    spans = store.trace("0abc")
    assert [span.name for span in spans] == ["agent run", "earlier", "chat"]
    chat = spans[2]
    assert (chat.kind, chat.model, chat.status, chat.duration_ns) == ("model", "gpt-4.1", "error", 5_000_000)
    assert chat.parent_id == spans[0].span_id
    assert dict(chat.attributes) == CALL
    readable = chat.to_readable()
    assert (readable.name, readable.status.description) == ("chat", "429")
    assert format(readable.context.trace_id, "032x") == chat.trace_id


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("0abc", "agent run"),
        ("0ABD", "other run"),
        ("0x0abd", "other run"),
        ("last", "newest"),
        ("0" * 16, "newest"),
    ],
)
def test_the_first_digits_of_an_id_are_enough(store, given, name):
    assert store.trace(given)[0].name == name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("0ab", "More than one trace"),
        ("f", "No trace"),
        ("", "no trace id"),
        ("newest", "no trace id"),
        ("0" * 33, "no trace id"),
        ("0abc' --", "no trace id"),
        ("0a\x1b", "no trace id"),
    ],
)
def test_an_id_that_does_not_name_one_trace_is_explained(store, given, message):
    with pytest.raises(UnknownTraceError, match=message):
        store.trace(given)


def test_all_traces_come_oldest_first_one_by_one(store, monkeypatch):
    monkeypatch.setattr("aiobs_core.store.reader._PAGE_RUNS", 1)
    traces = store.iter_traces()
    assert [span.name for span in next(traces)] == ["agent run", "earlier", "chat"]
    assert [spans[0].name for spans in traces] == ["other run", "newest"]


def test_traces_that_start_together_all_come(folder, fill, make_span, monkeypatch):
    monkeypatch.setattr("aiobs_core.store.reader._PAGE_RUNS", 3)
    fill(*[make_span(str(n), trace_id=n, start_ns=5) for n in range(1, 11)])
    with closing(Store(folder)) as store:
        assert [spans[0].name for spans in store.iter_traces()] == [str(n) for n in range(1, 11)]


def test_a_reader_sees_what_was_written_after_it_opened(folder, fill, make_span):
    fill(make_span("one", start_ns=1))
    with closing(Store(folder)) as store:
        fill(make_span("two", start_ns=2))
        assert [run.name for run in store.runs()] == ["two", "one"]


def test_a_missing_store_is_an_error_and_no_file_is_made(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        for open_it in (Store, lambda folder: open_store(folder, health=Health())):
            with pytest.raises(NoStoreError, match="no aiobs store"):
                open_it(folder)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file_is_a_missing_store(folder):
    folder.mkdir()
    (folder / "aiobs.db").touch()
    with pytest.raises(NoStoreError):
        Store(folder)


@pytest.mark.parametrize("content", [b"no database" * 500, b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_named(folder, content):
    folder.mkdir()
    (folder / "aiobs.db").write_bytes(content)
    with pytest.raises(CorruptStoreError, match=r"aiobs\.db is damaged"):
        Store(folder)


def test_a_store_that_is_made_while_it_is_opened_is_no_other_applications(
    folder, fill, make_span, monkeypatch
):
    folder.mkdir()
    (folder / "aiobs.db").touch()
    rows = Store._rows

    def rows_and_then_a_writer(store, *query):
        found = rows(store, *query)
        fill(make_span())
        return found

    monkeypatch.setattr(Store, "_rows", rows_and_then_a_writer)
    with closing(Store(folder)) as store:
        assert store.runs()


def test_another_applications_database_is_refused(folder):
    folder.mkdir()
    with closing(sqlite3.connect(folder / "aiobs.db")) as connection:
        connection.execute("CREATE TABLE theirs(x)")
    with pytest.raises(CorruptStoreError, match="something else"):
        Store(folder)


def test_a_newer_store_is_refused(folder, fill, make_span):
    fill(make_span())
    with closing(sqlite3.connect(folder / "aiobs.db")) as connection:
        connection.execute("PRAGMA user_version=99")
    with pytest.raises(NewerStoreError, match="version 99"):
        Store(folder)


def test_a_damaged_block_is_an_error_for_its_trace_only(folder, fill, make_span):
    fill(make_span("bad", trace_id=1))
    fill(make_span("good", trace_id=2))
    with closing(sqlite3.connect(folder / "aiobs.db")) as connection:
        connection.execute("UPDATE body SET z = x'00' WHERE id = 1")
        connection.commit()
    with closing(Store(folder)) as store:
        assert store.trace("0" * 31 + "2")[0].name == "good"
        with pytest.raises(CorruptStoreError, match="0001 cannot be decoded"):
            store.trace("0" * 31 + "1")


def test_all_errors_are_aiobs_errors():
    assert all(
        issubclass(error, AiobsError) for error in (NoStoreError, UnknownTraceError, CorruptStoreError)
    )
    assert issubclass(NewerStoreError, AiobsError)


@pytest.mark.skipif(
    sys.platform == "win32" or os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_store_in_a_folder_that_cannot_be_written_can_be_read(folder, fill, make_span):
    fill(make_span("s"))
    folder.chmod(0o500)
    try:
        with closing(Store(folder)) as store:
            assert [run.name for run in store.runs()] == ["s"]
    finally:
        folder.chmod(0o700)


def test_a_folder_with_odd_characters_can_be_read(tmp_path, make_span):
    folder = tmp_path / "a b?c#d%20é"
    exporter = StoreExporter(folder, health=Health())
    exporter.export([make_span("s")])
    with closing(Store(folder)) as store:
        assert [run.name for run in store.runs()] == ["s"]
    exporter.shutdown()
