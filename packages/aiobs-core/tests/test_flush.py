"""Whoever flushes waits for the receiver; nobody else does."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from aiobs_core import Kind, Operation
from aiobs_core._recorder import Recorder
from aiobs_core._settings import Settings
from aiobs_core.semconv import metrics as names

QUEUE_SIZE = 40
PATIENCE_S = 20.0


@pytest.fixture
def silent():
    """The address of a receiver that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def recorder_with():
    made = []

    def make(*, tracer_provider=None, **settings):
        given = {
            "console": "off",
            "store": "off",
            "queue_size": QUEUE_SIZE,
            "export_timeout_s": 1.0,
            **settings,
        }
        made.append(Recorder(Settings(**given), tracer_provider=tracer_provider))
        return made[-1]

    yield make
    for recorder in made:
        recorder.shutdown(1)


def run(recorder, count, since=0):
    for key in range(since, since + count):
        recorder.start(key, Operation(kind=Kind.TOOL, name="tool"))
        recorder.end(key)


def queued(recorder):
    return next(
        family.points[0].value
        for family in recorder.metrics.snapshot()
        if family.metric is names.TELEMETRY_QUEUED
    )


def runs_pass_while_somebody_flushes(recorder):
    """Runs several times as many as the queue takes, a half at a time, while another thread waits for its flush."""
    run(recorder, 1)
    answers = []
    asking = threading.Thread(target=lambda: answers.append(recorder.flush(PATIENCE_S)))
    asking.start()
    deadline = time.monotonic() + PATIENCE_S / 2
    for part in range(1, 8):
        run(recorder, QUEUE_SIZE // 2, since=part * QUEUE_SIZE)
        while queued(recorder) and time.monotonic() < deadline:
            time.sleep(0.01)
    return asking, answers


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
@pytest.mark.parametrize("spool", [True, False])
def test_runs_pass_while_a_flush_waits_for_a_receiver(recorder_with, silent, tmp_path, spool, protocol):
    recorder = recorder_with(
        otlp_endpoint=silent,
        otlp_protocol=protocol,
        spool=str(tmp_path) if spool else "off",
        metrics_exporter=("none",),
    )
    asking, answers = runs_pass_while_somebody_flushes(recorder)
    assert asking.is_alive(), answers
    assert "queue.full" not in recorder.health.counts()
    recorder.shutdown(1)
    asking.join(PATIENCE_S)
    assert answers == [False]
    kinds = set(recorder.health.counts())
    assert not kinds & {"logs.records", "otlp.export_failed", "otlp.spool_unavailable"}, kinds


def test_runs_pass_while_a_flush_waits_for_the_applications_processors(recorder_with):
    let_go = threading.Event()

    class Slow(SpanProcessor):
        def force_flush(self, timeout_millis=30_000):
            return let_go.wait(timeout_millis / 1_000)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Slow())
    recorder = recorder_with(tracer_provider=provider)
    asking, answers = runs_pass_while_somebody_flushes(recorder)
    assert asking.is_alive()
    assert "queue.full" not in recorder.health.counts()
    let_go.set()
    asking.join(PATIENCE_S)
    assert answers == [True]
    assert provider.force_flush(1_000)
