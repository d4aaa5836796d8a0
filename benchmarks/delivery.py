"""What a run costs when everything is kept and sent: caller, worker and sender together, beside a span made by hand.

The receiver is another process, so its time is not in it. By hand: one SDK span of 15 attributes and three metric records,
once as they are, and once with the span exported in batches by the official OTLP exporter, as aiobs' is.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from benchmarks.tables import Gate, table
from benchmarks.timing import _ANSWERED, _ASKED, model_runs
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import aiobs_core

_RUNS: Final = 1_000
_FLUSH_S: Final = 30.0
LIMIT_RATIO: Final = 1.5
_SINK: Final = """
import http.server, sys
class Sink(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@contextmanager
def _sink() -> Iterator[str]:
    with subprocess.Popen([sys.executable, "-c", _SINK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.kill()


def measure(rounds: int) -> Mapping[str, float]:
    """Microseconds of processor time per run, by lane; the 10th percentile of the rounds."""
    with _sink() as endpoint, tempfile.TemporaryDirectory(prefix="aiobs-bench-") as folder:
        bare = TracerProvider(shutdown_on_exit=False)
        exporting = TracerProvider(shutdown_on_exit=False)
        processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces"))
        exporting.add_span_processor(processor)
        recorder = aiobs_core.get_recorder()
        times: dict[str, list[float]] = {}
        by_hand = partial(_by_hand, MeterProvider(shutdown_on_exit=False).get_meter("bench"))
        lanes: dict[str, Callable[[], Any]] = {
            "by hand, not exported": partial(by_hand, bare, lambda: True),
            "by hand, exported": partial(by_hand, exporting, processor.force_flush),
        }
        for name, lane in lanes.items():
            times[name] = [_timed_us(lane) for _ in range(rounds)]
        for name, spool in (("aiobs, without spool", "off"), ("aiobs, with spool", folder)):
            aiobs_core.configure(otlp_endpoint=endpoint, spool=spool, console="off", store="off",
                                 metrics_exporter="none", export_timeout_s=_FLUSH_S)  # fmt: skip
            _aiobs(recorder)
            times[name] = [_timed_us(partial(_aiobs, recorder)) for _ in range(rounds)]
        aiobs_core.configure(exporters=[], console="off", store="off")
        exporting.shutdown()
    return {f"delivery, {name}": sorted(found)[len(found) // 10] for name, found in times.items()}


def _timed_us(do: Callable[[], Any]) -> float:
    before_s = time.process_time()
    do()
    return (time.process_time() - before_s) * 1e6 / _RUNS


def _by_hand(meter: Any, provider: TracerProvider, flush: Callable[[], bool]) -> None:
    tracer = provider.get_tracer("bench")
    duration, tokens = meter.create_histogram("duration"), meter.create_histogram("tokens")
    requests = meter.create_counter("requests")
    labels = {"model": "gpt-4o", "operation": "chat", "status": "success"}
    for _ in range(_RUNS):
        with tracer.start_as_current_span("chat gpt-4o", attributes=_ASKED) as span:
            span.set_attributes(_ANSWERED)
        duration.record(0.2, labels)
        tokens.record(812, labels)
        requests.add(1, labels)
    assert flush()


def _aiobs(recorder: aiobs_core.Recorder) -> None:
    model_runs(recorder, _RUNS)
    assert recorder.flush(_FLUSH_S)


def ratios(found: Mapping[str, float]) -> Mapping[str, float]:
    """aiobs with its spool, as a multiple of what is made by hand."""
    own = found["delivery, aiobs, with spool"]
    return {name: own / found[f"delivery, {name}"] for name in ("by hand, exported", "by hand, not exported")}


def gates(found: Mapping[str, float]) -> list[Gate]:
    ratio = ratios(found)["by hand, exported"]
    return [
        Gate(name="a run that is kept and sent, to a span by hand", value=ratio, limit=LIMIT_RATIO, unit="x")
    ]


def report(found: Mapping[str, float]) -> str:
    rows = [
        (name.removeprefix("delivery, "), f"{value:.1f}")
        for name, value in found.items()
        if name.startswith("delivery, ")
    ]
    rows += [(f"with spool, to {name}", f"{ratio:.2f} x") for name, ratio in ratios(found).items()]
    return table("A run that is kept and sent, µs of processor time in all threads", ("", "µs"), rows)
