from __future__ import annotations

import shutil
import sqlite3
import stat
import struct
import sys
from contextlib import closing

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from aiobs_core import semconv
from aiobs_core._health import Health
from aiobs_core.store import writer
from aiobs_core.store.reader import Store
from aiobs_core.store.rows import bucket_of
from aiobs_core.store.writer import StoreExporter

CALL = {
    semconv.SPAN_KIND: "model",
    semconv.MODEL_NAME: "gpt-4.1",
    semconv.USAGE_INPUT_TOKENS: 100,
    semconv.USAGE_OUTPUT_TOKENS: 10,
}
AGENT = {semconv.SPAN_KIND: "agent", semconv.USAGE_INPUT_TOKENS: 200, semconv.USAGE_OUTPUT_TOKENS: 20}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "project" / ".aiobs"


@pytest.fixture
def health():
    return Health()


@pytest.fixture
def exporter(folder, health):
    exporter = StoreExporter(folder, health=health)
    yield exporter
    exporter.shutdown()


def query(folder, sql, *values):
    with closing(sqlite3.connect(folder / "aiobs.db")) as connection:
        return connection.execute(sql, values).fetchall()


def a_run(make_span):
    root = make_span("agent run", AGENT)
    calls = [make_span("chat", CALL, parent=root), make_span("chat", CALL, parent=root, error="429")]
    return [*calls, make_span("parse", {semconv.SPAN_KIND: "parser"}, parent=root), root]


def sums(folder):
    return (
        query(folder, "SELECT name, n, errs, in_tok, out_tok, cost FROM runs"),
        query(folder, "SELECT model, sum(n), sum(errs), sum(in_tok), sum(out_tok) FROM roll GROUP BY model"),
        query(folder, "SELECT count(*) FROM spans"),
        query(folder, "SELECT count(DISTINCT blk) FROM spans"),
    )


def test_a_run_is_stored_with_its_sums(folder, exporter, make_span):
    spans = a_run(make_span)
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    (run,) = query(folder, "SELECT trace_id, name, service, root, n, errs, in_tok, out_tok, cost FROM runs")
    assert run[0] == spans[0].context.trace_id.to_bytes(16, "big")
    assert run[1:] == ("agent run", "shop", 2, 4, 1, 200, 20, None)


def test_tokens_of_agents_are_not_counted_twice(folder, exporter, make_span):
    exporter.export(a_run(make_span))
    assert query(folder, "SELECT in_tok, out_tok FROM runs") == [(200, 20)]
    assert query(folder, "SELECT model, n, errs, in_tok, out_tok, cost FROM roll") == [
        ("gpt-4.1", 2, 1, 200, 20, None)
    ]


def test_the_same_spans_twice_change_nothing(folder, exporter, make_span):
    spans = a_run(make_span)
    exporter.export(spans)
    before = sums(folder)
    for again in (spans, spans[:2], [spans[-1]], spans + spans):
        assert exporter.export(again) is SpanExportResult.SUCCESS
    assert sums(folder) == before
    assert query(folder, "SELECT count(*) FROM body") == [(1,)]


def test_only_new_spans_of_a_batch_count(folder, exporter, make_span):
    spans = a_run(make_span)
    exporter.export(spans[:2])
    exporter.export(spans + spans[1:])
    assert query(folder, "SELECT name, n, errs, in_tok, out_tok FROM runs") == [("agent run", 4, 1, 200, 20)]
    with closing(Store(folder)) as store:
        assert {span.span_id for span in store.trace("last")} == {
            format(s.context.span_id, "016x") for s in spans
        }


def test_what_is_unknown_is_null_and_zero_is_a_count(folder, exporter, make_span):
    exporter.export([make_span("a", {semconv.SPAN_KIND: "model", semconv.USAGE_INPUT_TOKENS: 0})])
    columns = "in_tok, out_tok, cache_tok, cost, ttft, model, user, masked"
    assert query(folder, f"SELECT {columns} FROM spans") == [(0, None, None, None, None, None, None, None)]
    assert query(folder, "SELECT in_tok, out_tok, cost FROM runs") == [(0, None, None)]
    assert query(folder, "SELECT model, in_tok, out_tok, cost FROM roll") == [("", 0, None, None)]


def test_own_names_come_before_gen_ai_names(folder, exporter, make_span):
    both = {
        semconv.SPAN_KIND: "model",
        semconv.GEN_AI_OPERATION_NAME: "chat",
        semconv.MODEL_NAME: "own",
        semconv.GEN_AI_REQUEST_MODEL: "theirs",
        semconv.USAGE_INPUT_TOKENS: 1,
        semconv.GEN_AI_USAGE_INPUT_TOKENS: 2,
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS: 3,
        semconv.GEN_AI_USAGE_CACHE_READ: 4,
        semconv.TIME_TO_FIRST_CHUNK_S: 0.25,
        semconv.GEN_AI_CONVERSATION_ID: "c1",
    }
    exporter.export([make_span("s", both)])
    assert query(folder, "SELECT kind, op, model, in_tok, out_tok, cache_tok, ttft FROM spans") == [
        ("model", "chat", "own", 1, 3, 4, 250_000_000)
    ]
    assert query(folder, "SELECT session FROM runs") == [("c1",)]


@pytest.mark.parametrize("operation", ["chat", "text_completion", "generate_content", "embeddings"])
def test_model_calls_of_other_instrumentations_count(folder, exporter, make_span, operation):
    foreign = {
        semconv.GEN_AI_OPERATION_NAME: operation,
        semconv.GEN_AI_RESPONSE_MODEL: "m",
        semconv.GEN_AI_USAGE_INPUT_TOKENS: 7,
    }
    exporter.export(
        [make_span("s", foreign), make_span("s", {**foreign, semconv.GEN_AI_OPERATION_NAME: "other"})]
    )
    assert query(folder, "SELECT sum(in_tok) FROM runs") == [(7,)]
    assert query(folder, "SELECT model, in_tok FROM roll") == [("m", 7)]


@pytest.mark.parametrize("tokens", [True, "12", 1.5, -1, 2**70])
def test_a_count_that_is_none_is_unknown(folder, exporter, make_span, tokens):
    exporter.export([make_span("s", {**CALL, semconv.USAGE_INPUT_TOKENS: tokens})])
    assert query(folder, "SELECT in_tok, out_tok FROM spans") == [(None, 10)]


def test_a_run_is_pending_until_its_root_arrives(folder, exporter, make_span):
    root = make_span("root")
    exporter.export([make_span("child", parent=root, start_ns=5, duration_ns=10)])
    assert query(folder, 'SELECT root, name, start, "end" FROM runs') == [(0, None, 5, 15)]
    exporter.export([root])
    assert query(folder, 'SELECT root, name, start, "end" FROM runs') == [(2, "root", 5, root.end_time)]


def test_a_span_with_a_remote_parent_names_the_run_until_the_real_root_arrives(folder, exporter, make_span):
    root = make_span("client")
    exporter.export([make_span("server", parent=root, remote=True)])
    assert query(folder, "SELECT root, name FROM runs") == [(1, "server")]
    exporter.export([root])
    exporter.export([make_span("server 2", parent=root, remote=True)])
    assert query(folder, "SELECT root, name FROM runs") == [(2, "client")]


def test_the_histogram_counts_each_model_call_in_its_bucket(folder, exporter, make_span):
    durations_ns = [0, 1_000_000, 2_000_000, 2_000_001, 10**9, 10**15]
    exporter.export([make_span("s", CALL, duration_ns=duration, trace_id=3) for duration in durations_ns])
    exporter.export([make_span("s", CALL, duration_ns=duration, trace_id=4) for duration in durations_ns])
    ((packed,),) = query(folder, "SELECT hist FROM roll")
    histogram = struct.unpack("<64I", packed)
    assert {bucket: count for bucket, count in enumerate(histogram) if count} == {0: 4, 3: 4, 30: 2, 63: 2}
    assert [bucket_of(duration) for duration in durations_ns] == [0, 0, 3, 3, 30, 63]


def test_pages_are_of_16_kb_and_the_file_can_shrink(folder, exporter, make_span):
    exporter.export([make_span()])
    assert query(folder, "PRAGMA page_size") == [(16_384,)]
    assert query(folder, "PRAGMA auto_vacuum") == [(2,)]
    assert query(folder, "PRAGMA journal_mode") == [("wal",)]
    assert query(folder, "PRAGMA user_version") == [(1,)]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_only_the_owner_can_read_the_store_and_git_does_not_see_it(folder, exporter, make_span):
    exporter.export([make_span()])
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert (folder / ".gitignore").read_text() == "*\n"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir() if path.suffix != ""}
    assert modes == {"aiobs.db": 0o600, "aiobs.db-wal": 0o600, "aiobs.db-shm": 0o600}


def test_no_gitignore_is_put_into_a_folder_that_was_there(tmp_path, health, make_span):
    exporter = StoreExporter(tmp_path, health=health)
    exporter.export([make_span()])
    exporter.shutdown()
    assert not (tmp_path / ".gitignore").exists()


def test_nothing_is_written_before_the_first_span(folder, exporter):
    assert exporter.export([]) is SpanExportResult.SUCCESS
    assert exporter.force_flush()
    assert not folder.exists()


def test_a_shut_down_exporter_refuses_spans(exporter, make_span):
    exporter.export([make_span()])
    exporter.shutdown()
    exporter.shutdown()
    assert exporter.export([make_span()]) is SpanExportResult.FAILURE


def test_a_closed_store_leaves_one_file(folder, exporter, make_span):
    exporter.export([make_span()])
    exporter.shutdown()
    assert sorted(path.name for path in folder.iterdir()) == [".gitignore", "aiobs.db"]


def test_it_says_where_the_spans_went_last(folder, exporter, make_span, monkeypatch):
    assert exporter.stored_in is None
    exporter.export([make_span()])
    assert exporter.stored_in == str(folder)
    exporter.export([])
    assert exporter.stored_in == str(folder)

    def refuse(*_):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(writer.StoreWriter, "write_slice", refuse)
    exporter.export([make_span()])
    assert exporter.stored_in == str(folder / "spool")


def test_where_nothing_can_be_written_it_says_that_the_spans_are_nowhere(tmp_path, health, make_span):
    (tmp_path / "file").write_text("a file, not a folder")
    exporter = StoreExporter(tmp_path / "file" / ".aiobs", health=health)
    exporter.export([make_span()])
    assert exporter.stored_in is None


def test_a_span_that_no_store_can_hold_costs_only_itself(folder, exporter, health, make_span):
    good = [make_span("good", trace_id=n) for n in (1, 2, 3)]
    odd = make_span("odd", trace_id=2, start_ns=2**63)
    assert exporter.export([*good, odd]) is SpanExportResult.SUCCESS
    assert query(folder, "SELECT name, count(*) FROM spans GROUP BY name") == [("good", 3)]
    assert health.counts() == {"store.span_unstorable": 1, "spans.dropped": 1}


def test_a_batch_larger_than_a_slice_is_stored_whole(folder, exporter, make_span):
    spans = [make_span(f"s{n}", trace_id=1 + n % 3) for n in range(300)]
    exporter.export(spans)
    assert query(folder, "SELECT count(*) FROM spans") == [(300,)]
    assert query(folder, "SELECT n FROM runs") == [(100,)] * 3
    assert query(folder, "SELECT count(*) FROM body")[0][0] <= 7


def test_large_texts_are_spread_over_several_blocks(folder, exporter, make_span):
    texts = [chr(65 + n) * 1_500_000 for n in range(6)]
    exporter.export([make_span("s", {"text": text}, trace_id=9, start_ns=n) for n, text in enumerate(texts)])
    assert query(folder, "SELECT count(*) FROM body") == [(2,)]
    with closing(Store(folder)) as store:
        assert [span.attributes["text"] for span in store.trace("last")] == texts


def test_names_that_sqlite_cannot_hold_are_replaced(folder, exporter, make_span):
    exporter.export([make_span("bad \ud800", {**CALL, semconv.MODEL_NAME: "m\udfff"})])
    assert query(folder, "SELECT name, model FROM spans") == [("bad \ufffd", "m\ufffd")]


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be deleted there")
def test_a_store_that_is_deleted_while_the_application_runs_is_made_anew(folder, exporter, make_span):
    exporter.export([make_span("before")])
    shutil.rmtree(folder)
    assert exporter.export([make_span("after")]) is SpanExportResult.SUCCESS
    assert query(folder, "SELECT name FROM spans") == [("after",)]


def test_plumbing_is_marked_for_the_page_to_hide(folder, exporter, make_span):
    root = make_span("root", {semconv.SPAN_KIND: "chain"})
    plain = make_span("chain", {semconv.SPAN_KIND: "chain"}, parent=root)
    node = make_span("node", {semconv.SPAN_KIND: "chain", semconv.GRAPH_NODE: "plan"}, parent=root)
    exporter.export([root, plain, node])
    assert dict(query(folder, "SELECT name, hidden FROM spans")) == {"root": 0, "chain": 1, "node": 0}


def test_an_older_store_is_migrated_and_keeps_its_runs(folder, exporter, health, make_span, monkeypatch):
    exporter.export([make_span("old")])
    exporter.shutdown()
    migrations = (*writer.schema.MIGRATIONS, ("ALTER TABLE runs ADD COLUMN note TEXT",))
    monkeypatch.setattr(writer.schema, "MIGRATIONS", migrations)
    monkeypatch.setattr(writer.schema, "VERSION", 2)
    newer = StoreExporter(folder, health=health)
    newer.export([make_span("new")])
    newer.shutdown()
    assert query(folder, "PRAGMA user_version") == [(2,)]
    assert query(folder, "SELECT name, note FROM runs ORDER BY name") == [("new", None), ("old", None)]


def test_a_migration_that_fails_changes_nothing(folder, exporter, health, make_span, monkeypatch):
    exporter.export([make_span("old")])
    exporter.shutdown()
    broken = (*writer.schema.MIGRATIONS, ("ALTER TABLE runs ADD COLUMN note TEXT", "nonsense"))
    monkeypatch.setattr(writer.schema, "MIGRATIONS", broken)
    monkeypatch.setattr(writer.schema, "VERSION", 2)
    newer = StoreExporter(folder, health=health)
    newer.export([make_span("new")])
    newer.shutdown()
    assert query(folder, "PRAGMA user_version") == [(1,)]
    assert "note" not in [row[1] for row in query(folder, "PRAGMA table_info(runs)")]
    assert health.counts() == {"store.unusable": 1}
