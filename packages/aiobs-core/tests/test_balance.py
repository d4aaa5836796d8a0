"""Every span that ended is somewhere, whatever the destination: as metrics of the process."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core import Kind, Operation
from aiobs_core._recorder import Recorder
from aiobs_core._run import Reader
from aiobs_core._settings import Settings
from aiobs_core.export.wire import Encoder
from aiobs_core.semconv import metrics as names
from aiobs_testing.receiver import OtlpReceiver


class Failing(SpanExporter):
    def export(self, spans):
        return SpanExportResult.FAILURE


class Taking(SpanExporter):
    def export(self, spans):
        return SpanExportResult.SUCCESS


@pytest.fixture
def record():
    """Records runs with some settings; returns the balance as the metrics tell it."""
    made = []

    def do(runs=5, *, exporters=None, flush_s=10, **settings):
        recorder = Recorder(Settings(console="off", **settings), exporters=exporters)
        made.append(recorder)
        for key in range(runs):
            recorder.start(key, Operation(kind=Kind.TOOL, name="tool"))
            recorder.end(key)
        recorder.start("transparent", None)  # no span at all
        recorder.end("transparent")
        recorder.flush(flush_s)
        recorder.shutdown(10)
        return told_by(recorder)

    yield do
    for recorder in made:
        recorder.shutdown(1)


def over_otlp(receiver, folder, spool):
    return {
        "otlp_endpoint": receiver.http_endpoint,
        "store": "off",
        "spool": str(folder) if spool else "off",
        "metrics": False,
    }


def told_by(recorder):
    found = {}
    for family in recorder.metrics.snapshot():
        if family.metric is names.TELEMETRY_SPANS:
            for point in family.points:
                if point.value:
                    found["/".join(str(value) for _, value in point.attributes)] = point.value
        elif family.metric is names.TELEMETRY_WAITING:
            found["waiting"] = family.points[0].value
    assert found["received"] == sum(count for state, count in found.items() if state != "received")
    return found


@pytest.mark.parametrize("spool", [True, False])
def test_sent_over_otlp(record, tmp_path, spool):
    with OtlpReceiver() as receiver:
        told = record(**over_otlp(receiver, tmp_path, spool))
        assert len(receiver.spans) == 5
    assert told == {"received": 5, "exported": 5, "waiting": 0}


@pytest.mark.parametrize("spool", [True, False])
def test_lost_before_it_could_be_put(record, monkeypatch, tmp_path, spool):
    read, seen = Reader.read, []

    def fails_twice(self, span):
        seen.append(span)
        if len(seen) in {2, 4}:
            raise RuntimeError
        return read(self, span)

    monkeypatch.setattr(Reader, "read", fails_twice)
    with OtlpReceiver() as receiver:
        told = record(**over_otlp(receiver, tmp_path, spool))
    assert told == {"received": 5, "exported": 3, "dropped/read": 2, "waiting": 0}


@pytest.mark.parametrize("spool", [True, False])
def test_what_cannot_be_encoded(record, monkeypatch, tmp_path, spool):
    encode, seen = Encoder.__call__, []

    def fails_once(self, span):
        seen.append(span)
        if len(seen) == 2:
            raise ValueError
        return encode(self, span)

    monkeypatch.setattr(Encoder, "__call__", fails_once)
    with OtlpReceiver() as receiver:
        told = record(**over_otlp(receiver, tmp_path, spool))
    assert told == {"received": 5, "exported": 4, "dropped/otlp.unencodable": 1, "waiting": 0}


@pytest.mark.parametrize("spool", [True, False])
def test_not_taken_by_the_receiver(record, tmp_path, spool):
    with OtlpReceiver(fail_with=503) as receiver:
        told = record(
            **over_otlp(receiver, tmp_path, spool), logs_exporter=("none",), export_timeout_s=0.5, flush_s=0.3
        )
    if spool:
        assert told == {"received": 5, "waiting": 5}
    else:
        assert told == {"received": 5, "dropped/shutdown": 5, "waiting": 0}


def test_stored(record, tmp_path):
    assert record(store=str(tmp_path)) == {"received": 5, "stored": 5, "waiting": 0}


def test_handed_to_an_exporter(record):
    assert record(exporters=[Taking()]) == {"received": 5, "exported": 5, "waiting": 0}


def test_refused_by_an_exporter(record):
    assert record(exporters=[Failing()]) == {"received": 5, "dropped/export.Failing": 5, "waiting": 0}


def test_with_nowhere_to_go(record):
    assert record(exporters=[]) == {"received": 5, "dropped/no_destination": 5, "waiting": 0}


# --- settings that open everything anew ----------------------------------------------------------------------------------
class Reloading:
    """A recorder that records, and changes its settings so that destinations are opened anew."""

    def __init__(self, **settings):
        settings = {"console": "off", "export_timeout_s": 0.5, "logs_exporter": ("none",), **settings}
        self.recorder = Recorder(Settings(**settings))
        self.key = 0

    def run(self, count):
        for _ in range(count):
            self.key += 1
            self.recorder.start(self.key, Operation(kind=Kind.TOOL, name="tool"))
            self.recorder.end(self.key)

    def apply(self, **settings):
        self.recorder.apply(settings)

    def told(self, *, shuts_down=True):
        self.recorder.flush(2)
        if shuts_down:
            self.recorder.shutdown(2)
        return told_by(self.recorder)


@pytest.fixture
def reloading():
    made = []

    def make(**settings):
        made.append(Reloading(**settings))
        return made[-1]

    yield make
    for each in made:
        each.recorder.shutdown(1)


def processes_in(folder):
    """What `aiobs doctor` reads of each process: what was received, and what that does not add up to."""
    with closing(sqlite3.connect(folder / "outbox.db")) as db:
        return db.execute(
            "SELECT received, received - sampled_out - held - exported - direct "
            "- (SELECT count(*) FROM spans WHERE process = processes.id) "
            "- (SELECT coalesce(sum(spans), 0) FROM losses WHERE process = processes.id) FROM processes ORDER BY id"
        ).fetchall()


@pytest.mark.parametrize("spool", [True, False])
def test_a_reload_begins_no_new_balance(reloading, tmp_path, spool):
    with OtlpReceiver() as receiver:
        one = reloading(**over_otlp(receiver, tmp_path, spool))
        for is_on in (False, True, False):
            one.run(5)
            one.apply(chain_spans=is_on)
        one.run(5)
        assert one.told() == {"received": 20, "exported": 20, "waiting": 0}
    if spool:
        assert processes_in(tmp_path) == [(20, 0)]


def test_what_waited_at_a_reload_is_counted_when_it_arrives(reloading, tmp_path):
    with OtlpReceiver(fail_with=503) as receiver:
        one = reloading(**over_otlp(receiver, tmp_path, spool=True))
        one.run(5)
        one.apply(chain_spans=False)
        one.run(5)
        assert one.told(shuts_down=False) == {"received": 10, "waiting": 10}
        receiver.fail_with = None
        one.apply(chain_spans=True)
        one.run(5)
        assert one.told() == {"received": 15, "exported": 15, "waiting": 0}
        assert len(receiver.spans) == 15
    assert processes_in(tmp_path) == [(15, 0)]


def test_what_was_lost_in_memory_stays_lost(reloading, tmp_path):
    with OtlpReceiver(fail_with=503) as receiver:
        one = reloading(**over_otlp(receiver, tmp_path, spool=False))
        one.run(5)
        one.apply(chain_spans=False)
        receiver.fail_with = None
        one.run(5)
        one.apply(spool=str(tmp_path))
        one.run(5)
        assert one.told() == {"received": 15, "exported": 10, "dropped/shutdown": 5, "waiting": 0}
    assert processes_in(tmp_path) == [(5, 0)]


def test_what_waits_for_a_receiver_that_is_none_any_more_is_stored(reloading, tmp_path):
    with OtlpReceiver(fail_with=503) as old, OtlpReceiver() as new:
        one = reloading(**over_otlp(old, tmp_path, spool=True))
        one.run(5)
        one.apply(otlp_endpoint=new.http_endpoint)
        one.run(5)
        assert one.told() == {"received": 10, "exported": 5, "stored": 5, "waiting": 0}
        assert len(new.spans) == 5
    assert sorted(processes_in(tmp_path)) == [(5, 0), (5, 0)]


def test_from_the_store_to_a_receiver(reloading, tmp_path):
    with OtlpReceiver() as receiver:
        one = reloading(store=str(tmp_path / "store"), metrics=False)
        one.run(5)
        one.apply(**over_otlp(receiver, tmp_path, spool=True))
        one.run(5)
        assert one.told() == {"received": 10, "exported": 5, "stored": 5, "waiting": 0}
    assert processes_in(tmp_path) == [(5, 0)]


@pytest.mark.parametrize("sampling", ["all", "production"])
def test_runs_that_begin_while_the_old_destinations_close(reloading, tmp_path, sampling):
    with OtlpReceiver() as receiver:
        one = reloading(**over_otlp(receiver, tmp_path, spool=True))
        one.apply(sampling=sampling)
        is_over = threading.Event()

        def keep_running():
            while not is_over.is_set():
                one.run(3)
                time.sleep(0.001)

        running = threading.Thread(target=keep_running)
        running.start()
        for is_on in (False, True) * 5:
            time.sleep(0.05)
            one.apply(chain_spans=is_on)
        is_over.set()
        running.join()
        told = one.told()
        assert told["received"] == one.key
        assert len({(span["trace_id"], span["span_id"]) for span in receiver.spans}) == told.get(
            "exported", 0
        )
    assert processes_in(tmp_path) == [(one.key, 0)]
