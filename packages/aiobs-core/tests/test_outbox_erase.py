"""Erasure in the outbox: spans of a person that wait for a receiver never arrive, and no byte of them is left."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial

import pytest
from opentelemetry.sdk.trace import Event

from aiobs_core import cli, semconv
from aiobs_core._health import Health
from aiobs_core.erasure.everywhere import erase_everywhere, places_in
from aiobs_core.export import doctor, outbox_erase
from aiobs_core.export.outbox import Outbox
from aiobs_core.export.outbox_erase import erase_waiting, waiting_traces
from aiobs_core.export.outbox_file import OutboxError
from aiobs_core.export.outbox_rescue import rescue
from aiobs_core.export.parcels import Bounds, Tally
from aiobs_core.export.wire import Encoder
from aiobs_core.store import compaction
from aiobs_core.store.reader import NoStoreError, Store, UnknownTraceError
from aiobs_core.store.schema import StoreError
from aiobs_core.store.writer import StoreExporter
from aiobs_testing.receiver import OtlpReceiver

ADA, BOB = "5f2c1e:0123456789abcdef0123456789abcdef", "5f2c1e:fedcba9876543210fedcba9876543210"
CANARY = "canary-of-ada"
PATIENCE_S = 30.0


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "outbox"


@pytest.fixture
def open_box(folder):
    """Opens an outbox of this process, with the balance that a worker would write down."""
    opened = []

    def make(**options):
        box = Outbox(
            folder, destination=b"d" * 16, place="there:4318", service="shop",
            bounds=Bounds(max_bytes=64 << 20), **options,
        )  # fmt: skip
        opened.append(box)
        return box

    yield make
    for box in opened:
        box.close()


@pytest.fixture
def box(open_box):
    return open_box()


def put(box, *spans):
    """Put spans, and count them as received, as the worker does."""
    encode = Encoder()
    received = getattr(put, "received", {}).get(box.process, 0) + len(spans)
    put.received = {**getattr(put, "received", {}), box.process: received}
    box.put([encode(span) for span in spans], Tally(received=received))


@pytest.fixture
def of_user(make_span):
    def make(user, name="chat", **options):
        return make_span(name, {semconv.SPAN_KIND: "model", semconv.USER_ID: user}, **options)

    return make


def trace_of(span):
    return span.context.trace_id.to_bytes(16, "big")


def waiting(folder):
    """Keys of the spans that wait."""
    with closing(sqlite3.connect(folder / "outbox.db")) as db:
        return sorted(key for (key,) in db.execute("SELECT key FROM spans"))


def keys(*spans):
    return sorted(trace_of(span) + span.context.span_id.to_bytes(8, "big") for span in spans)


def files_with(folder, *needles):
    return [
        path.name
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]


def accounts(folder):
    found = doctor.examine(folder / "outbox.db", now_s=time.time())
    assert all(account.unexplained == 0 for account in found.accounts), found
    return found.total


# --- which go -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("events", [(), (Event("event", {}, 1),)])  # with one, the official encoder does it
def test_whole_traces_of_a_user_go_and_their_bytes(folder, box, of_user, make_span, events):
    root = make_span(CANARY)
    ada = [root, of_user(ADA, CANARY, parent=root, events=events), make_span(CANARY, parent=root)]
    bob = [of_user(BOB, "of bob", events=events) for _ in range(3)]
    put(box, *ada[:2], *bob)
    put(box, ada[2])
    needles = [CANARY.encode(), ADA.encode(), trace_of(root)]
    assert all(files_with(folder, needle) for needle in needles)
    done = erase_waiting(folder, users=[ADA])
    assert (done.span_count, done.traces, done.is_compacted, done.remarks) == (3, {trace_of(root)}, True, ())
    assert files_with(folder, *needles) == []
    assert waiting(folder) == keys(*bob)
    assert (accounts(folder).waiting, accounts(folder).dropped) == (3, {"erased": 3})


def test_the_foreign_name_of_the_user_counts_as_in_the_store(folder, box, make_span):
    foreign = make_span(attributes={"user.id": ADA})
    put(box, foreign, make_span(attributes={"user.id": ADA, semconv.USER_ID: BOB}))
    assert erase_waiting(folder, users=[ADA]).traces == {trace_of(foreign)}


def test_an_id_that_stands_elsewhere_in_a_span_is_no_user(folder, box, make_span, of_user):
    spans = [
        make_span(ADA),
        make_span(attributes={"other": ADA}),
        make_span(attributes={"list": (ADA,), semconv.USER_ID: f"x{ADA}"}),
        make_span(attributes={semconv.USER_ID: ADA + "0"}),
        make_span(events=[Event("e", {semconv.USER_ID: ADA}, 1)]),
        make_span(attributes={"other": f"\n\x10{semconv.USER_ID}\x12'\n%{ADA}"}),
        make_span(attributes={semconv.USER_ID: 7}),
    ]
    put(box, *spans)
    assert erase_waiting(folder, users=[ADA, "7"]).span_count == 0
    assert waiting(folder) == keys(*spans)


@pytest.mark.parametrize("user", ["u", "사용자-17", "u" * 600, "a'b\\%_"])
def test_any_id_is_found_whole(folder, box, of_user, user):
    put(box, of_user(user), of_user("?" + user[1:]), of_user("uu"))
    assert erase_waiting(folder, users=[user, "nobody"]).span_count == 1
    assert len(waiting(folder)) == 2


def test_a_span_that_cannot_be_read_goes_if_the_id_stands_in_it(folder, box, of_user):
    put(box, of_user(ADA), of_user(BOB))
    with closing(sqlite3.connect(folder / "outbox.db", isolation_level=None)) as db:
        db.execute("UPDATE spans SET body = CAST(body || x'ff' AS BLOB)")
    assert erase_waiting(folder, users=[ADA]).span_count == 1


def test_one_trace_goes_and_its_neighbours_stay(folder, box, make_span):
    number = 0xAB << 120
    spans = [make_span(trace_id=number + more) for more in (-1, 0, 0, 1)]
    put(box, *spans)
    assert erase_waiting(folder, traces=[trace_of(spans[1])]).span_count == 2
    assert waiting(folder) == keys(spans[0], spans[3])


def test_old_traces_go_by_the_end_of_their_last_span(folder, box, make_span):
    old = make_span("old", start_ns=1_000, duration_ns=500)
    long = make_span("long", start_ns=1_000, duration_ns=500)
    put(box, old, long, make_span(parent=long, start_ns=1_600, duration_ns=1))
    assert erase_waiting(folder, before_ns=1_500).span_count == 0
    assert erase_waiting(folder, before_ns=1_501).traces == {trace_of(old)}
    assert erase_waiting(folder, before_ns=2**80).span_count == 2
    assert erase_waiting(folder, before_ns=-(2**80)).span_count == 0


def test_a_span_without_an_end_ended_when_it_was_put(folder, open_box, make_span):
    box = open_box(wall_s=lambda: 1_000.0)
    put(box, make_span(start_ns=0, duration_ns=0))
    assert erase_waiting(folder, before_ns=1_000 * 10**9).span_count == 0
    assert erase_waiting(folder, before_ns=1_000 * 10**9 + 1).span_count == 1


def test_an_old_trace_that_goes_on_is_spared(folder, box, make_span, monkeypatch):
    old = make_span(start_ns=1_000, duration_ns=500)
    put(box, old)
    later = [make_span(parent=old, start_ns=5_000)]
    slice_of = outbox_erase._Erasure._delete_slice

    def go_on(self, found):
        if later:
            put(box, later.pop())
        return slice_of(self, found)

    monkeypatch.setattr(outbox_erase._Erasure, "_delete_slice", go_on)
    assert erase_waiting(folder, before_ns=2_000).span_count == 0
    assert len(waiting(folder)) == 2


def test_many_traces_go_in_slices(folder, box, of_user, monkeypatch):
    monkeypatch.setattr(outbox_erase, "_SLICE_SPANS", 3)
    monkeypatch.setattr(outbox_erase, "_PAGE_ROWS", 7)
    put(box, *[of_user(ADA if number % 2 else BOB) for number in range(40)])
    assert erase_waiting(folder, users=[ADA]).span_count == 20
    assert accounts(folder).dropped == {"erased": 20}


def test_what_is_put_meanwhile_goes_too(folder, box, of_user, make_span, monkeypatch):
    ada = of_user(ADA, CANARY)
    put(box, ada)
    late = [make_span(CANARY, parent=ada), of_user(ADA, CANARY)]

    def put_late(db):
        if late:
            put(box, *late)
            late.clear()
        return compaction.compact(db)

    monkeypatch.setattr(outbox_erase, "compact", put_late)
    assert erase_waiting(folder, users=[ADA]).span_count == 3
    assert files_with(folder, CANARY.encode(), ADA.encode()) == []


# --- the balance --------------------------------------------------------------------------------------------
def test_spans_count_for_the_process_that_put_them(folder, open_box, of_user):
    first, second = open_box(), open_box()
    put(first, of_user(ADA), of_user(BOB))
    put(second, of_user(ADA), of_user(ADA))
    with second.transaction() as db:  # as after a death
        db.execute("UPDATE spans SET sender = ?", (second.process,))
    assert erase_waiting(folder, users=[ADA]).span_count == 3
    assert (first.state().dropped, second.state().dropped) == ({"erased": 1}, {"erased": 2})
    assert accounts(folder).waiting == 1


@pytest.mark.parametrize("tried", [False, True])
@pytest.mark.parametrize(
    ("lost", "exported", "dropped"),
    [
        ({}, 3, {"erased": 7}),
        ({"refused": 10}, 0, {"erased": 7, "refused": 3}),
        ({"rejected": 2}, 1, {"erased": 7, "rejected": 2}),
    ],
)
def test_spans_on_their_way_are_counted_once(folder, box, of_user, lost, exported, dropped, tried):
    put(box, *[of_user(ADA if number < 7 else BOB) for number in range(10)])
    take = partial(box.take, max_spans=10, max_bytes=1 << 20, own=True)
    if tried:
        box.put_back(take(), error="cut", may_have_arrived=True)
    batch = take()
    done = erase_waiting(folder, users=[ADA])
    assert done.span_count == 7
    assert done.remarks[0].startswith("7 spans of those that waited may have reached the receiver")
    box.settle(batch, lost=lost)
    found = accounts(folder)
    assert (found.exported, found.dropped, found.waiting) == (exported, dropped, 0)
    assert found.repeated == (exported if tried else 0)
    assert take() is None


def test_a_try_that_fails_brings_nothing_back(folder, box, of_user):
    put(box, of_user(ADA), of_user(BOB))
    batch = box.take(max_spans=10, max_bytes=1 << 20, own=True)
    erase_waiting(folder, users=[ADA])
    box.put_back(batch, error="cut", may_have_arrived=True)
    assert box.take(max_spans=10, max_bytes=1 << 20, own=True).count == 1
    assert accounts(folder).waiting == 1


def test_what_was_tried_without_an_answer_may_have_arrived(folder, box, of_user):
    put(box, of_user(ADA))
    batch = box.take(max_spans=10, max_bytes=1 << 20, own=True)
    box.put_back(batch, error="cut", may_have_arrived=True)
    (remark,) = erase_waiting(folder, users=[ADA]).remarks
    assert remark.startswith("1 span of those that waited may have reached the receiver")


def test_what_is_erased_between_reading_and_sending_is_not_sent(folder, box, of_user, monkeypatch):
    ada, bob = of_user(ADA), of_user(BOB)
    put(box, ada, bob)
    oldest, reads = box._oldest, []

    def read_then_erase(**options):
        reads.append(oldest(**options))
        if len(reads) == 1:
            erase_waiting(folder, users=[ADA])
        return reads[-1]

    monkeypatch.setattr(box, "_oldest", read_then_erase)
    batch = box.take(max_spans=10, max_bytes=1 << 20, own=True)
    assert ([each.count for each in reads], batch.count) == ([2, 1], 1)
    box.settle(batch, lost={})
    assert (accounts(folder).exported, accounts(folder).dropped) == (1, {"erased": 1})


def test_a_file_that_is_damaged_later_counts_them_no_second_time(folder, box, of_user):
    put(box, of_user(ADA), of_user(BOB))
    erase_waiting(folder, users=[ADA])
    assert rescue(folder, box.identity) == (1, 0, True)
    box.leave()
    assert accounts(folder).dropped == {"erased": 1}


# --- bytes --------------------------------------------------------------------------------------------------
def test_bytes_of_spans_that_were_sent_go_too(folder, box, of_user):
    put(box, of_user(ADA, CANARY), of_user(BOB))
    box.settle(box.take(max_spans=1, max_bytes=1 << 20, own=True), lost={})
    assert files_with(folder, CANARY.encode())
    done = erase_waiting(folder, users=[ADA])
    assert (done.span_count, done.is_compacted) == (0, True)
    assert files_with(folder, CANARY.encode(), ADA.encode()) == []


def test_a_reader_holds_the_bytes_until_it_is_done(folder, box, of_user, monkeypatch):
    monkeypatch.setattr(compaction, "PATIENCE_S", 0.2)
    monkeypatch.setattr(compaction, "BUSY_TIMEOUT_MS", 50)
    ada = of_user(ADA, CANARY)
    put(box, ada)
    with closing(sqlite3.connect(folder / "outbox.db", isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM spans").fetchone()
        done = erase_waiting(folder, users=[ADA])
        assert (done.span_count, done.is_compacted) == (1, False)
        assert "run the same again" in done.remarks[-1]
        reader.execute("COMMIT")
    places = places_in(None, folder)
    again = erase_everywhere(places, health=Health(), trace_id=trace_of(ada).hex())
    assert (again.is_compacted, again.waiting_span_count) == (True, 0)
    assert "What an earlier erasure had left behind" in again.remark
    assert files_with(folder, CANARY.encode()) == []
    with pytest.raises(UnknownTraceError):
        erase_everywhere(places, health=Health(), trace_id=trace_of(ada).hex())


def test_a_file_that_was_moved_aside_is_named(folder, box, of_user):
    put(box, of_user(ADA, CANARY))
    rescue(folder, box.identity)
    box.leave()
    (aside,) = folder.glob("outbox.db.damaged-????????")
    done = erase_waiting(folder, users=[ADA])
    assert (done.span_count, done.is_compacted) == (1, False)
    assert done.remarks[0] == f"{aside} is damaged and may hold spans of anybody; delete it."
    assert {name.rpartition("-")[0] for name in files_with(folder, CANARY.encode())} <= {
        "outbox.db.damaged", aside.name,
    }  # fmt: skip


def test_an_erasure_that_is_killed_half_way_can_be_run_again(folder, box, of_user, monkeypatch):
    monkeypatch.setattr(outbox_erase, "_SLICE_SPANS", 1)
    put(box, *[of_user(ADA, CANARY) for _ in range(3)], of_user(BOB))
    pauses = []

    def killed(_):
        pauses.append(1)
        if len(pauses) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(outbox_erase.time, "sleep", killed)
    with pytest.raises(KeyboardInterrupt):
        erase_waiting(folder, users=[ADA])
    assert (accounts(folder).waiting, accounts(folder).dropped) == (2, {"erased": 2})
    assert (folder / "outbox.erase.pending").exists()
    assert erase_waiting(folder, users=[ADA]).span_count == 1
    assert files_with(folder, CANARY.encode()) == []
    assert not (folder / "outbox.erase.pending").exists()


def test_a_file_that_is_replaced_meanwhile_has_to_be_searched_again(folder, box, of_user, monkeypatch):
    put(box, of_user(ADA), of_user(BOB))
    slice_of = outbox_erase._Erasure._delete_slice

    def replace(self, found):
        rescue(folder, box.identity)
        return slice_of(self, found)

    with monkeypatch.context() as patch:
        patch.setattr(outbox_erase._Erasure, "_delete_slice", replace)
        with pytest.raises(OutboxError, match="replaced"):
            erase_waiting(folder, users=[ADA])
    box.leave()
    assert len(waiting(folder)) == 2
    assert erase_waiting(folder, users=[ADA]).span_count == 1


def test_an_outbox_that_is_being_made_is_left_alone(folder):
    folder.mkdir()
    (folder / "outbox.db").touch()
    assert erase_waiting(folder, users=[ADA]).span_count == 0
    assert waiting_traces(folder, bytes(16), b"\xff" * 16) == frozenset()


# --- store and outboxes together ------------------------------------------------------------------------------
@pytest.fixture
def store(tmp_path):
    return tmp_path / ".aiobs"


def stored(store, *spans):
    exporter = StoreExporter(store, health=Health())
    exporter.export(spans)
    exporter.shutdown()


def test_a_trace_of_the_store_goes_from_the_outbox_though_its_user_was_sent(
    folder, store, box, of_user, make_span
):
    ada = of_user(ADA)
    child = make_span(parent=ada)
    stored(store, ada, child)
    put(box, child, of_user(BOB))
    done = erase_everywhere(places_in(store, folder), health=Health(), users=[ADA])
    assert (done.trace_count, done.span_count, done.waiting_span_count) == (1, 2, 1)
    assert len(waiting(folder)) == 1


def test_digits_are_those_of_one_trace_in_all_places(folder, store, box, make_span):
    stored(store, make_span(trace_id=0xAB1 << 116))
    put(
        box,
        make_span(trace_id=0xAB2 << 116),
        make_span(trace_id=0xCD << 120),
        make_span(trace_id=0xAB1 << 116),
    )
    erase = partial(erase_everywhere, places_in(store, folder), health=Health())
    for given, message in (
        ("ab", "More than one"),
        ("f", "No trace"),
        ("last", "may be another"),
        ("x", "no trace id"),
    ):
        with pytest.raises(UnknownTraceError, match=message):
            erase(trace_id=given)
    assert len(waiting(folder)) == 3
    done = erase(trace_id="cd")
    assert (done.trace_count, done.span_count, done.waiting_span_count) == (1, 0, 1)
    done = erase(trace_id="AB1")
    assert (done.trace_count, done.span_count, done.waiting_span_count) == (1, 1, 1)
    assert len(waiting(folder)) == 1


def test_an_outbox_that_is_locked_or_newer_is_a_store_error(folder, box, of_user, monkeypatch):
    monkeypatch.setattr(compaction, "PATIENCE_S", 0.1)
    monkeypatch.setattr(compaction, "BUSY_TIMEOUT_MS", 50)
    put(box, of_user(ADA))
    erase = partial(erase_everywhere, places_in(None, folder), health=Health())
    with closing(sqlite3.connect(folder / "outbox.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"locked.*Run the same again"):
            erase(users=[ADA])
        other.execute("PRAGMA user_version=99")
        other.execute("COMMIT")
        with pytest.raises(StoreError, match="newer aiobs"):
            erase(users=[ADA])
    assert len(waiting(folder)) == 1


def test_a_damaged_outbox_is_a_store_error(folder):
    folder.mkdir()
    (folder / "outbox.db").write_bytes(b"\xa5" * 16_384)
    with pytest.raises(StoreError, match=r"cannot be searched now .* delete it"):
        erase_everywhere(places_in(None, folder), health=Health(), users=[ADA])


def test_where_there_is_nothing_the_store_says_so(folder, store):
    with pytest.raises(NoStoreError):
        erase_everywhere(places_in(store, folder), health=Health(), users=[ADA])
    assert not folder.exists()
    assert not store.exists()


# --- the command, and processes that go on ------------------------------------------------------------------------
@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("AIOBS_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("AIOBS_HASH_KEY", "the key of these tests")
    monkeypatch.setenv("AIOBS_SPOOL", str(tmp_path / "outbox"))
    return tmp_path


def run(capsys, *argv):
    code = cli.main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_works_where_there_is_an_outbox_only(project, folder, box, of_user, capsys):
    put(box, of_user(ADA), of_user(ADA, trace_id=0xAB << 120), of_user(BOB))
    code, out, err = run(capsys, "erase", "--trace", "ab", "--yes")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"Erased 1 trace (1 span that waited to be sent) from {folder / 'outbox.db'}.",
        "What was sent stays with the receiver: erase it there, too.",
    ]
    code, out, _ = run(capsys, "erase", "--user", ADA, "--yes", "--json")
    assert (code, json.loads(out)) == (
        0,
        {
            "store": None, "outboxes": [str(folder)], "trace_count": 1, "span_count": 0, "spooled_span_count": 0,
            "waiting_span_count": 1, "is_compacted": True, "remark": None,
        },
    )  # fmt: skip
    assert len(waiting(folder)) == 1
    assert not (project / ".aiobs").exists()


def test_the_spool_can_be_named_as_for_doctor(project, folder, box, of_user, capsys, monkeypatch):
    put(box, of_user(ADA))
    monkeypatch.setenv("AIOBS_SPOOL", "off")
    code, _, err = run(capsys, "erase", "--user", ADA, "--spool", str(project / "none"), "--yes")
    assert (code, "There is no spool in" in err) == (1, True)
    code, out, _ = run(capsys, "erase", "--user", ADA, "--spool", str(folder), "--yes")
    assert (code, out.startswith("Erased 1 trace (1 span that waited to be sent)")) == (0, True)


def test_users_that_wait_under_another_key_are_no_success(project, box, of_user, monkeypatch, capsys):
    put(box, of_user(ADA), of_user("in the clear"))
    monkeypatch.setenv("AIOBS_HASH_KEY", "some key, but not the application's")
    code, out, _ = run(capsys, "erase", "--user-id", "u-ada", "--yes")
    assert code == 1
    assert f"users that are hashed under {ADA[:6]}: if that is the application's key" in out


def test_where_nothing_waits_of_any_user_that_is_said(project, box, of_user, make_span, capsys):
    put(box, make_span())
    code, out, _ = run(capsys, "erase", "--user-id", "u-ada", "--yes")
    assert (code, "carries a user" in out) == (0, True)
    put(box, of_user("in the clear"))
    code, out, _ = run(capsys, "erase", "--user-id", "u-ada", "--yes")
    assert (code, "none of them is this one" in out) == (0, True)


def test_the_command_looks_into_store_and_spool_and_says_so(
    project, folder, store, box, of_user, capsys, monkeypatch
):
    ada = of_user(ADA)
    stored(store, ada, of_user(BOB))
    put(box, ada, of_user(ADA))
    audit = project / "audit.jsonl"
    monkeypatch.setenv("AIOBS_AUDIT", str(audit))
    terminal = type("Terminal", (), {"isatty": lambda _: True, "readline": lambda _: "y\n"})()
    monkeypatch.setattr(sys, "stdin", terminal)
    code, out, err = run(capsys, "erase", "--user", ADA)
    places = f"{store} and {folder / 'outbox.db'}"
    assert code == 0
    assert f"Erase all traces of the user {ADA} from {places}?" in err
    assert out.startswith(f"Erased 2 traces (1 span; 2 spans that waited to be sent) from {places}.\n")
    facts = json.loads(audit.read_text().splitlines()[-1])["facts"]
    assert (facts["trace_count"], facts["span_count"], facts["waiting_span_count"]) == (2, 1, 2)


def test_the_folder_that_is_named_is_the_only_one(project, folder, store, box, of_user, capsys):
    stored(store, of_user(ADA))
    stored(project / "other", of_user(ADA))
    put(box, of_user(ADA))
    assert run(capsys, "erase", "--user", ADA, "--store", str(project / "other"), "--yes")[0] == 0
    assert len(waiting(folder)) == 1
    with closing(Store(store)) as untouched:
        assert len(list(untouched.runs())) == 1
    code, out, _ = run(capsys, "erase", "--user", ADA, "--store", str(folder), "--yes", "--json")
    assert (code, json.loads(out)["waiting_span_count"], waiting(folder)) == (0, 1, [])


def test_one_folder_for_both_is_looked_into_once(project, folder, box, of_user, capsys, monkeypatch):
    monkeypatch.setenv("AIOBS_STORE", "outbox")
    ada = of_user(ADA)
    stored(folder, ada)
    put(box, ada)
    code, out, _ = run(capsys, "erase", "--user", ADA, "--yes", "--json")
    found = json.loads(out)
    assert (code, found["store"], found["outboxes"]) == (0, str(folder), [str(folder)])
    assert (found["trace_count"], found["span_count"], found["waiting_span_count"]) == (1, 1, 1)


def test_a_store_that_is_off_does_not_hide_the_outbox(project, folder, box, of_user, capsys, monkeypatch):
    monkeypatch.setenv("AIOBS_STORE", "off")
    put(box, of_user(ADA))
    assert run(capsys, "erase", "--user", ADA, "--yes")[0] == 0
    assert waiting(folder) == []


def test_what_cannot_be_erased_is_noted_and_said(project, folder, capsys, monkeypatch):
    folder.mkdir()
    (folder / "outbox.db").write_bytes(b"\xa5" * 16_384)
    audit = project / "audit.jsonl"
    monkeypatch.setenv("AIOBS_AUDIT", str(audit))
    code, _, err = run(capsys, "erase", "--user", ADA, "--yes")
    assert (code, "cannot be searched now" in err) == (1, True)
    assert json.loads(audit.read_text().splitlines()[-1])["facts"]["is_complete"] is False


BUSY = """
import os, sys, threading, time
from aiobs_core import flush, get_recorder, span, using_attributes
import logging

logging.disable(50)

def run(user, name):
    with using_attributes(user_id=user):
        with span(name):
            with span(name):
                pass

def wait_until_put(count):
    recorder = get_recorder()
    while recorder._pipeline._accounts.balance().received < count or not recorder._pipeline._queue.empty():
        time.sleep(0.005)

for number in range(50):
    run("ada", "canary-of-ada")
    run("bob", "of bob")
wait_until_put(200)
print("ready", flush=True)
stop, count = threading.Event(), 50
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
while not stop.is_set():
    run("bob", "of bob")
    count += 1
    time.sleep(0.001)
wait_until_put(100 + 2 * count)
deadline = time.monotonic() + 25
while not flush(5) and time.monotonic() < deadline:
    pass
print(count, get_recorder()._pipeline._accounts.balance().unexplained, flush=True)
"""


@pytest.mark.parametrize("trouble", ["refuses", "hangs"])
def test_erased_spans_of_a_living_process_never_arrive_and_all_others_do(project, folder, capsys, trouble):
    with OtlpReceiver(fail_with=503, delay_s=0.3 if trouble == "hangs" else 0.0) as receiver:
        environ = {
            **os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, "AIOBS_CONSOLE": "off",
            "AIOBS_METRICS": "off", "AIOBS_FLUSH_INTERVAL_S": "0.01", "AIOBS_EXPORT_TIMEOUT_S": "20",
        }  # fmt: skip
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore::DeprecationWarning", "-c", BUSY],
            env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout.readline() == "ready\n"
            assert files_with(project, CANARY.encode())
            code, out, err = run(capsys, "erase", "--user-id", "ada", "--yes", "--json")
            assert (code, err) == (0, ""), out
            found = json.loads(out)
            assert (found["trace_count"], found["waiting_span_count"], found["is_compacted"]) == (
                50,
                100,
                True,
            )
            assert files_with(project, CANARY.encode()) == []
            time.sleep(0.2)  # it goes on
            receiver.fail_with = None
            out, err = process.communicate("stop\n", timeout=PATIENCE_S)
        finally:
            process.kill()
            process.wait()
        names = [span["name"] for span in receiver.spans]
    count, unexplained = map(int, out.split())
    assert (err, unexplained) == ("", 0)
    assert len([name for name in names if name.endswith("of bob")]) == 2 * count
    if trouble == "refuses" or not found["remark"]:  # else one request was on its way, and may have arrived
        assert [name for name in names if name.endswith(CANARY)] == []
    code, out, _ = run(capsys, "doctor", "--json")
    doctored = json.loads(out)
    assert (code, doctored["unexplained"], doctored["total"]["waiting"]) == (0, 0, 0)
    assert (doctored["total"]["exported"], doctored["total"]["dropped"]) == (2 * count, {"erased": 100})
    assert files_with(project, CANARY.encode()) == []
