"""Every span that ended is somewhere, whatever the destination: as metrics of the process."""

from __future__ import annotations

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
