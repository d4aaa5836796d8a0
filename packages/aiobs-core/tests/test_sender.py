"""The thread in front of an exporter: what its caller waits for (nothing) and what is counted."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from opentelemetry import context
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core._errors import AiobsError
from aiobs_core._health import Health
from aiobs_core.export.sender import Sender

SPANS = [ReadableSpan(name=str(number), resource=Resource({})) for number in range(10_000)]


class Recorded(SpanExporter):
    """Keeps what it gets; blocks while `gate` is closed."""

    def __init__(self, result=SpanExportResult.SUCCESS, error=None):
        self.result, self.error = result, error
        self.batches, self.closed, self.suppressed = [], 0, []
        self.thread_names = set()
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def export(self, spans):
        self.entered.set()
        self.gate.wait(10)
        self.thread_names.add(threading.current_thread().name)
        self.suppressed.append(context.get_value(_SUPPRESS_INSTRUMENTATION_KEY))
        if self.error is not None:
            raise self.error
        self.batches.append(list(spans))
        return self.result

    def shutdown(self):
        self.closed += 1
        self.gate.set()

    @property
    def names(self):
        return [span.name for batch in self.batches for span in batch]


def sender(exporter, *, queue_size=20_000, health=None, timeout_s=2.0):
    factory = exporter if callable(exporter) else lambda: exporter
    return Sender(factory, queue_size=queue_size, health=health or Health(), name="otlp", timeout_s=timeout_s)


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_span_is_sent_once_in_order_in_batches_of_at_most_512():
    exporter, health = Recorded(), Health()
    sending = sender(exporter, health=health)
    for start in range(0, 10_000, 1_000):
        sending.export(SPANS[start : start + 1_000])
    assert sending.force_flush(5_000)
    assert exporter.names == [span.name for span in SPANS]
    assert max(map(len, exporter.batches)) <= 512
    assert exporter.thread_names == {"aiobs-otlp"}
    sending.shutdown()
    assert (exporter.closed, health.counts()) == (1, {})


def test_the_exporters_own_calls_are_not_traced():
    exporter = Recorded()
    sending = sender(exporter)
    sending.export(SPANS[:1])
    assert sending.force_flush(5_000)
    sending.shutdown()
    assert exporter.suppressed == [True]
    assert context.get_value(_SUPPRESS_INSTRUMENTATION_KEY) is None


def test_the_caller_never_waits_for_a_stuck_exporter_and_the_newest_spans_are_dropped(caplog):
    exporter, health = Recorded(), Health()
    exporter.gate.clear()
    sending = sender(exporter, queue_size=4_000, health=health)
    sending.export(SPANS[:1])
    assert exporter.entered.wait(5)
    slowest_s = 0.0
    for start in range(0, 10_000, 1_000):
        began = time.perf_counter()
        assert sending.export(SPANS[start : start + 1_000]) is SpanExportResult.SUCCESS
        slowest_s = max(slowest_s, time.perf_counter() - began)
    assert slowest_s < 0.05
    assert health.counts() == {"otlp.queue_full": 6, "spans.dropped": 6_000}
    assert warnings_of(caplog) == [
        "aiobs: 1000 spans were not sent to otlp: 4000 spans are waiting already (AIOBS_QUEUE_SIZE). "
        "They are lost; further losses of this kind are only counted."
    ]
    exporter.gate.set()
    assert sending.force_flush(5_000)
    assert exporter.names == ["0", *(span.name for span in SPANS[:4_000])]
    sending.shutdown()


@pytest.mark.parametrize(
    ("exporter", "reason"),
    [
        (Recorded(result=SpanExportResult.FAILURE), "the exporter gave up; its own log says why"),
        (Recorded(error=SystemExit()), "the exporter raised SystemExit"),
        (Recorded(error=OSError("https://user:secret@host refused")), "the exporter raised OSError"),
    ],
)
def test_failed_batches_are_counted_with_one_warning_that_names_no_endpoint(caplog, exporter, reason):
    health = Health()
    sending = sender(exporter, health=health)
    for _ in range(5):
        sending.export(SPANS[:10])
        assert not sending.force_flush(5_000)
    sending.shutdown()
    assert health.counts() == {"otlp.export_failed": 5, "spans.dropped": 50}
    assert warnings_of(caplog) == [
        f"aiobs: 10 spans were not sent to otlp: {reason}. "
        "They are lost; further losses of this kind are only counted."
    ]


def test_an_exporter_that_cannot_be_made_is_tried_again_with_the_next_batch(caplog):
    exporter, health = Recorded(), Health()
    outcomes = [ValueError("endpoint http://secret"), AiobsError("pip install x"), exporter]

    def make():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    sending = sender(make, health=health)
    for _ in range(3):
        sending.export(SPANS[:2])
        sending.force_flush(5_000)
    sending.shutdown()
    assert len(exporter.names) == 2
    assert health.counts() == {"otlp.unavailable": 2, "spans.dropped": 4}
    assert warnings_of(caplog) == [
        "aiobs: 2 spans were not sent to otlp: no exporter could be made (ValueError). "
        "They are lost; further losses of this kind are only counted."
    ]


def test_flush_waits_for_what_was_queued_before_and_no_longer_than_asked():
    exporter = Recorded()
    exporter.gate.clear()
    sending = sender(exporter)
    assert sending.force_flush(5_000)  # nothing queued: nothing to wait for
    sending.export(SPANS[:1])
    began = time.perf_counter()
    assert not sending.force_flush(100)
    assert 0.09 < time.perf_counter() - began < 1.0
    exporter.gate.set()
    assert sending.force_flush(5_000)
    assert exporter.names == ["0"]
    sending.shutdown()


def test_shutdown_sends_what_is_queued_and_refuses_what_comes_later(caplog):
    exporter, health = Recorded(), Health()
    sending = sender(exporter, health=health)
    sending.export(SPANS[:700])
    sending.shutdown()
    sending.shutdown()
    assert (len(exporter.names), exporter.closed) == (700, 1)
    sending.export(SPANS[:3])
    assert health.counts() == {"otlp.shutdown": 1, "spans.dropped": 3}
    assert "they came after shutdown" in warnings_of(caplog)[0]


def test_shutdown_is_bounded_and_counts_the_rest(caplog):
    class Deaf(Recorded):
        def shutdown(self):
            self.closed += 1
            self.gate.wait(10)

    exporter, health = Deaf(), Health()
    exporter.gate.clear()
    sending = sender(exporter, health=health, timeout_s=0.3)
    sending.export(SPANS[:1])
    assert exporter.entered.wait(5)
    sending.export(SPANS[:1_000])
    began = time.perf_counter()
    sending.shutdown()
    assert time.perf_counter() - began < 1.0
    assert health.counts() == {"otlp.shutdown": 1, "spans.dropped": 1_001}
    assert len(warnings_of(caplog)) == 1
    exporter.gate.set()


def test_shutdown_breaks_off_an_export_that_heeds_it():
    exporter, health = Recorded(result=SpanExportResult.FAILURE), Health()
    exporter.gate.clear()
    sending = sender(exporter, health=health, timeout_s=1.0)
    sending.export(SPANS[:5])
    sending.shutdown()
    assert exporter.closed == 1
    assert health.counts() == {"otlp.export_failed": 1, "spans.dropped": 5}


SCRIPT = """
    import atexit, os, sys, threading
    from aiobs_core._health import Health
    from aiobs_core.export.sender import Sender
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    class Printing(SpanExporter):
        def export(self, spans):
            os.write(1, f"{os.getpid() == parent} {[span.name for span in spans]}\\n".encode())
            return SpanExportResult.SUCCESS

    parent = os.getpid()
    health = Health()
    sender = Sender(Printing, queue_size=100, health=health, name="otlp", timeout_s=2)
"""


def run(script):
    code = textwrap.dedent(SCRIPT) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_the_first_spans_may_come_in_an_exit_handler():
    assert run("""
        late = ReadableSpan(name="late")

        def at_exit():
            sender.export([late])
            print(sender.force_flush(2_000), flush=True)
            sender.shutdown()
            assert health.counts() == {}
        atexit.register(at_exit)
    """) == ["True ['late']", "True"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_sender_used_after_fork_does_not_hang_and_sends_no_span_twice():
    assert run("""
        import warnings
        warnings.simplefilter("ignore")  # Python warns of forks beside threads: that is the point here
        sender.export([ReadableSpan(name="a")])
        sender.force_flush(2_000)
        with sender._changed:  # as if another thread were just queueing
            pid = os.fork()
            if pid == 0:
                sender.export([ReadableSpan(name="b")])
                flushed = sender.force_flush(2_000)
                sender.shutdown()
                os._exit(0 if flushed else 1)
        assert os.waitpid(pid, 0)[1] == 0
        sender.export([ReadableSpan(name="c")])
        sender.shutdown()
    """) == ["True ['a']", "False ['b']", "True ['c']"]
