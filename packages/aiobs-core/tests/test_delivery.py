"""Delivery to receivers that fail in all ways, over real sockets: nothing is lost, or it is counted."""

from __future__ import annotations

import gzip
import logging
import os
import socket
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from aiobs_core import cli
from aiobs_core._accounts import Accounts
from aiobs_core._health import Health
from aiobs_core._settings import Settings
from aiobs_core.export.answer import Answer
from aiobs_core.export.boxes import Boxes
from aiobs_core.export.courier import Courier, Pace
from aiobs_core.export.delivery import Delivery
from aiobs_core.export.doctor import examine
from aiobs_core.export.open_delivery import open_delivery
from aiobs_core.export.outbox import Outbox
from aiobs_core.export.outbox_file import identity_of, myself
from aiobs_core.export.outbox_neighbours import Neighbours, open_here
from aiobs_core.export.outbox_place import outbox_folder, place_of
from aiobs_core.export.outbox_rescue import rescue
from aiobs_core.export.parcels import Bounds, Tally
from aiobs_core.export.transport import open_transport
from aiobs_core.export.wire import Encoder
from aiobs_testing.receiver import OtlpReceiver, decode_spans

ENVIRON = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
QUICK = Pace(first_s=0.02, last_s=0.05)
PATIENCE_S = 20.0


class Faulty:
    """An OTLP/HTTP receiver that does to each request what the next of its `faults` says, and takes what comes after.

    A fault is a status, with headers and body if need be, or one of: `hang`; `garbage`, which is no HTTP; `cut`, half an
    answer to spans that were taken; `drop`, the connection closed without an answer to spans that were not; `drip`, an
    answer that takes half a minute.
    """

    def __init__(self, *faults):
        self.faults = list(faults)
        self.keys = []  # of spans that were taken, in order
        self.sizes = []  # spans of each request
        self.headers = []
        self.port = 0
        self.server = None
        self.open = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.open.set()
        self.stop()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        handler = type("Handler", (_Handler,), {"faulty": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def stop(self):
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()
            self.server = None

    def take(self, body):
        self.keys.extend((span["trace_id"], span["span_id"]) for span in decode_spans(body))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"  # a connection for each request, so that a stopped server is gone

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        faulty = self.faulty
        faulty.sizes.append(len(decode_spans(body)))
        faulty.headers.append(dict(self.headers))
        fault = faulty.faults.pop(0) if faulty.faults else 200
        status, headers, answer = fault if isinstance(fault, tuple) else (fault, {}, b"")
        if status == "hang":
            faulty.open.wait(30)
        elif status == "garbage":
            self.wfile.write(b"\x00\x01\x02 this is no HTTP \xff\xfe\r\n\r\n")
        elif status == "cut":
            faulty.take(body)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        elif status == "drip":
            faulty.take(body)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 150\r\n\r\n")
            for _ in range(150):
                if not faulty.open.wait(0.2):
                    self.wfile.write(b"x")
        elif status != "drop":
            if status == 200:
                faulty.take(body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
        self.close_connection = True

    def log_message(self, *_):
        pass


@pytest.fixture
def delivery(tmp_path):
    """Makes deliveries; `folder=None` is one without a spool."""
    made = []

    def make(endpoint, protocol="", *, folder=tmp_path / "outbox", environ=None, **more):
        made.append(Built(endpoint, protocol, folder=folder, environ={**ENVIRON, **(environ or {})}, **more))
        return made[-1]

    yield make
    for each in made:
        each.delivery.shutdown()


class Built:
    """A delivery with its parts, and the time that its callers waited at the most."""

    def __init__(
        self,
        endpoint,
        protocol,
        *,
        folder,
        environ,
        max_bytes=64 << 20,
        max_spans=None,
        max_age_s=1e6,
        timeout_s=1.0,
        pace=QUICK,
        wall_s=time.time,
        transport=None,
        insists=True,
        starts=True,
        clock_s=time.monotonic,
    ):
        self.health = Health()
        self.accounts = Accounts(self.health)
        settings = Settings(otlp_endpoint=endpoint, otlp_protocol=protocol)
        box = partial(Outbox, destination=b"d" * 16, place=place_of(endpoint), service="shop", wall_s=wall_s)
        bounds = Bounds(max_bytes=max_bytes)
        self.boxes = Boxes(
            None if folder is None else partial(box, folder, bounds=bounds),
            partial(box, None, bounds=Bounds(max_bytes=max_bytes, max_spans=max_spans)),
            self.health,
            folder=folder,
            accounts=self.accounts,
            key="spool",
            insists=insists,
        )
        make = transport or partial(open_transport, settings, environ=environ)
        self.courier = Courier(
            make, self.boxes.all, self.health, max_age_s=max_age_s, pace=pace, clock_s=clock_s
        )
        self.delivery = Delivery(self.boxes, self.courier, health=self.health, timeout_s=timeout_s)
        self.slowest_s = 0.0
        if starts:
            self.delivery.make_ready()
        self.delivery.begin()

    def give(self, spans):
        """Hand spans over, as the last stage of the corridor does."""
        self.health.balance.received += len(spans)
        began = time.perf_counter()
        self.delivery.export(spans)
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began)

    def flush(self, timeout_s=PATIENCE_S):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.delivery.force_flush(500):
                return True
        return False

    @property
    def counts(self):
        counts = self.accounts.balance()
        assert counts.unexplained == 0, counts
        return counts


def keys_of(spans):
    return Counter((f"{s.context.trace_id:032x}", f"{s.context.span_id:016x}") for s in spans)


def waiting_in(folder):
    """Spans of all processes that wait in the outbox."""
    with closing(sqlite3.connect(folder / "outbox.db")) as db:
        return db.execute("SELECT count(*) FROM spans").fetchone()[0]


# --- a receiver that fails ------------------------------------------------------------------------------------------
def test_a_receiver_that_is_down_at_the_start_gets_everything_once_it_is_there(delivery, make_span):
    spans = [make_span() for _ in range(1_000)]
    with Faulty() as receiver:
        receiver.stop()
        built = delivery(receiver.endpoint)
        for start in range(0, 1_000, 100):
            built.give(spans[start : start + 100])
        assert not built.delivery.force_flush(200)
        assert built.counts.waiting == 1_000
        receiver.start()
        assert built.flush()
    assert Counter(receiver.keys) == keys_of(spans)
    assert built.counts.exported == 1_000
    assert "spans.dropped" not in built.health.counts()


def test_an_answer_that_drips_holds_up_nothing_for_longer_than_the_timeout(delivery, make_span):
    with Faulty("drip") as receiver:
        built = delivery(receiver.endpoint)
        built.give([make_span()])
        began = time.monotonic()
        assert built.flush()
        assert time.monotonic() - began < 15.0  # a half of what it would take
        receiver.open.set()
    assert built.counts.exported == 1


def test_an_outage_that_is_over_is_said_once_all_that_waited_has_left(caplog, delivery, make_span):
    caplog.set_level(logging.INFO, "aiobs")
    with Faulty() as receiver:
        receiver.stop()
        built = delivery(receiver.endpoint)
        for _ in range(3):
            built.give([make_span() for _ in range(400)])
        assert not built.delivery.force_flush(200)
        receiver.start()
        assert built.flush()
        wait_until(lambda: "delivered again" in caplog.text)
        built.give([make_span()])
        assert built.flush()
    unreachable, over = [record.getMessage() for record in caplog.records]
    assert "took no spans" in unreachable
    assert over.startswith("aiobs: spans are delivered again after ")
    assert over.endswith("; 1200 that had waited were sent.")
    assert str(receiver.port) not in over


@pytest.mark.parametrize("with_spool", [True, False])
def test_a_receiver_that_goes_away_in_the_middle_misses_nothing(delivery, make_span, tmp_path, with_spool):
    spans = [make_span() for _ in range(1_500)]
    with Faulty() as receiver:
        built = delivery(receiver.endpoint, folder=tmp_path / "outbox" if with_spool else None)
        built.give(spans[:500])
        assert built.flush()
        receiver.stop()
        built.give(spans[500:1_000])
        assert not built.delivery.force_flush(200)
        receiver.start()
        built.give(spans[1_000:])
        assert built.flush()
    assert Counter(receiver.keys) == keys_of(spans)
    assert (built.counts.exported, built.counts.repeated) == (1_500, 0)


@pytest.mark.parametrize("fault", ["hang", "garbage", "cut", "drop"])
def test_what_may_have_arrived_is_sent_again_and_counted(delivery, make_span, fault):
    spans = [make_span() for _ in range(100)]
    with Faulty(fault, fault) as receiver:
        built = delivery(receiver.endpoint)
        built.give(spans)
        assert built.flush()
        receiver.open.set()
    received = Counter(receiver.keys)
    assert received.keys() == keys_of(spans).keys()
    counts = built.counts
    assert (counts.exported, counts.waiting) == (100, 0)
    assert counts.repeated == 100
    assert sum(n > 1 for n in received.values()) <= counts.repeated


def test_the_caller_waits_for_no_receiver_whatever_it_does(delivery, make_span, record_property):
    with Faulty(*["hang"] * 20) as receiver:
        built = delivery(receiver.endpoint)
        for _ in range(40):
            built.give([make_span() for _ in range(50)])
        record_property("slowest_s", built.slowest_s)
        assert built.slowest_s < 1.0  # a hang would be 1 s for each request
        receiver.open.set()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_statuses_that_pass_are_tried_again(delivery, make_span, status):
    spans = [make_span() for _ in range(10)]
    with Faulty(status, status, status) as receiver:
        built = delivery(receiver.endpoint)
        built.give(spans)
        assert built.flush()
    assert receiver.sizes == [10] * 4
    assert Counter(receiver.keys) == keys_of(spans)
    assert (built.counts.exported, built.counts.repeated) == (10, 0)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 501])
def test_statuses_that_stay_are_not_tried_again(caplog, delivery, make_span, status):
    with Faulty(status) as receiver:
        built = delivery(receiver.endpoint)
        built.give([make_span() for _ in range(10)])
        assert built.flush()
        assert receiver.sizes == [10]
    assert built.counts.dropped == {"refused": 10}
    assert built.health.counts() == {"otlp.refused": 1, "spans.dropped": 10}
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"(HTTP status {status})" in said
    assert str(receiver.port) not in said


def test_a_batch_that_is_too_large_is_halved_until_it_fits(delivery, make_span):
    spans = [make_span() for _ in range(8)]
    with Faulty(413, 413) as receiver:
        built = delivery(receiver.endpoint, starts=False)
        built.give(spans)
        assert built.flush()
    assert receiver.sizes[:3] == [8, 4, 2]
    assert Counter(receiver.keys) == keys_of(spans)
    assert built.counts.exported == 8


def test_a_span_that_is_too_large_by_itself_is_dropped_and_the_rest_goes_on(delivery, make_span):
    with Faulty(413, 413) as receiver:
        built = delivery(receiver.endpoint, starts=False)
        built.give([make_span() for _ in range(2)])
        assert built.flush()
    assert (built.counts.exported, built.counts.dropped) == (1, {"too_large": 1})


def test_what_the_receiver_rejects_in_part_is_counted_and_not_sent_again(delivery, make_span):
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 3
    answer.partial_success.error_message = "secret"
    with Faulty((200, {}, answer.SerializeToString())) as receiver:
        built = delivery(receiver.endpoint)
        built.give([make_span() for _ in range(10)])
        assert built.flush()
    assert receiver.sizes == [10]
    assert (built.counts.exported, built.counts.dropped) == (7, {"rejected": 3})


def test_an_answer_that_is_no_otlp_counts_by_its_status(delivery, make_span):
    with Faulty((200, {"Content-Type": "text/html"}, b"<html>\xff")) as receiver:
        built = delivery(receiver.endpoint)
        built.give([make_span()])
        assert built.flush()
    assert receiver.sizes == [1]
    assert built.health.counts() == {"otlp.odd_answer": 1}


def test_a_redirect_takes_no_header_elsewhere_and_loses_nothing(delivery, make_span):
    with Faulty((307, {"Location": "http://127.0.0.1:9/v1/traces"}, b"")) as receiver:
        built = delivery(receiver.endpoint, environ={"OTEL_EXPORTER_OTLP_HEADERS": "x-key=secret"})
        built.give([make_span()])
        assert built.flush()
    assert receiver.sizes == [1, 1]
    assert receiver.headers[0]["x-key"] == "secret"


@pytest.mark.parametrize("compression", ["gzip", "deflate", "none"])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_requests_arrive_in_any_compression(delivery, make_span, compression, protocol):
    environ = {
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION": compression,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20b",
    }
    with OtlpReceiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        built = delivery(endpoint, protocol, environ=environ)
        built.give([make_span("검색", {"n": 1})])
        assert built.flush()
        (span,) = receiver.spans
        assert (span["name"], span["attributes"], span["resource"]) == (
            "검색",
            {"n": 1},
            {"service.name": "shop"},
        )
        assert receiver.requests[0].headers["x-key"] == "a b"


# --- gRPC -----------------------------------------------------------------------------------------------------------
class FaultyGrpc:
    """The same over gRPC: a fault is a status code, with details and a delay for `RetryInfo`, or bytes to answer."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.keys, self.sizes = [], []

    def __enter__(self):
        self.pool = ThreadPoolExecutor(2)
        self.server = grpc.server(self.pool)
        method = grpc.unary_unary_rpc_method_handler(self.export)
        service = "opentelemetry.proto.collector.trace.v1.TraceService"
        self.server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"Export": method}),)
        )
        self.endpoint = f"http://127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop(None).wait()
        self.pool.shutdown()

    def export(self, body, call):
        spans = decode_spans(body)
        self.sizes.append(len(spans))
        fault = self.faults.pop(0) if self.faults else b""
        if isinstance(fault, bytes):
            self.keys.extend((span["trace_id"], span["span_id"]) for span in spans)
            return fault
        code, details, delay_s = fault
        if delay_s is not None:
            info = RetryInfo(retry_delay=Duration(nanos=int(delay_s * 1e9)))
            call.set_trailing_metadata((("google.rpc.retryinfo-bin", info.SerializeToString()),))
        call.abort(getattr(grpc.StatusCode, code), details)
        return None


AGAIN = ["CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"]
NEVER = ["INVALID_ARGUMENT", "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "INTERNAL", "UNKNOWN"]


@pytest.mark.parametrize("code", AGAIN)
def test_grpc_codes_that_pass_are_tried_again(delivery, make_span, code):
    spans = [make_span() for _ in range(5)]
    with FaultyGrpc((code, "", None), (code, "", 0.01)) as receiver:
        built = delivery(receiver.endpoint, "grpc")
        built.give(spans)
        assert built.flush()
    assert receiver.sizes == [5, 5, 5]
    assert Counter(receiver.keys) == keys_of(spans)


@pytest.mark.parametrize("code", NEVER)
def test_grpc_codes_that_stay_are_not(delivery, make_span, code):
    with FaultyGrpc((code, "", None)) as receiver:
        built = delivery(receiver.endpoint, "grpc")
        built.give([make_span() for _ in range(5)])
        assert built.flush()
    assert (receiver.sizes, built.counts.dropped) == ([5], {"refused": 5})


@pytest.mark.parametrize(
    ("details", "delay_s", "sizes", "exported"),
    [
        ("quota", 0.01, [4, 4], 4),
        ("quota", None, [4], 0),
        ("message larger than max (9 vs. 4)", None, [4, 2, 2], 4),
    ],
)
def test_resource_exhausted_means_again_only_with_retry_info(
    delivery, make_span, details, delay_s, sizes, exported
):
    with FaultyGrpc(("RESOURCE_EXHAUSTED", details, delay_s)) as receiver:
        built = delivery(receiver.endpoint, "grpc", starts=False)
        built.give([make_span() for _ in range(4)])
        assert built.flush()
    assert (receiver.sizes, built.counts.exported) == (sizes, exported)


def test_a_partial_success_over_grpc_is_counted(delivery, make_span):
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = 2
    with FaultyGrpc(answer.SerializeToString()) as receiver:
        built = delivery(receiver.endpoint, "grpc")
        built.give([make_span() for _ in range(4)])
        assert built.flush()
    assert built.counts.dropped == {"rejected": 2}


# --- when it is tried again -------------------------------------------------------------------------------------------
class Clock:
    def __init__(self):
        self.now_s = 1_000.0

    def __call__(self):
        return self.now_s


def test_pauses_double_up_to_a_bound_and_vary(delivery, make_span):
    clock = Clock()
    with Faulty() as receiver:
        receiver.stop()
        pace = Pace(first_s=1.0, last_s=30.0, chance=lambda: 0.0)
        built = delivery(receiver.endpoint, starts=False, clock_s=clock, pace=pace)
        built.boxes.put(encoded([make_span()]))
        pauses = []
        for _ in range(7):
            pauses.append(built.courier.step())
            assert built.courier.step() == pytest.approx(pauses[-1])  # it is not time yet
            clock.now_s += pauses[-1]
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 30, 30])
    assert Pace(chance=lambda: 1.0).pause_s(1) == 0.5


def encoded(spans):
    encode = Encoder()
    return [encode(span) for span in spans]


@pytest.mark.parametrize("value", ["120", "date"])
def test_the_receiver_is_left_alone_for_as_long_as_it_asks(delivery, make_span, value):
    clock = Clock()
    if value == "date":
        value = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 120))
    with Faulty((429, {"Retry-After": value}, b"")) as receiver:
        built = delivery(receiver.endpoint, starts=False, clock_s=clock)
        built.boxes.put(encoded([make_span()]))
        assert built.courier.step() == pytest.approx(120, abs=2)
        built.courier.hurry()  # a flush does not change that
        assert built.courier.step() == pytest.approx(120, abs=2)
        assert receiver.sizes == [1]
        clock.now_s += 122
        built.courier.step()
        assert receiver.sizes == [1, 1]


# --- the disk ---------------------------------------------------------------------------------------------------------
def fill(built, spans, at_once):
    """Put spans into the outbox while nobody sends."""
    for start in range(0, len(spans), at_once):
        built.health.balance.received += at_once
        built.boxes.put(encoded(spans[start : start + at_once]))


def test_a_spool_that_is_full_lets_the_oldest_go_and_counts_them(delivery, make_span):
    spans = [make_span(attributes={"text": "x" * 5_000}) for _ in range(600)]
    with Faulty() as receiver:
        built = delivery(receiver.endpoint, max_bytes=1 << 20, starts=False)
        fill(built, spans, 20)
        lost = built.counts.dropped["spool_full"]
        assert 0 < lost < 600
        assert built.boxes.all()[0]._path.stat().st_size < 3 << 20
        built.delivery.make_ready()
        assert built.flush()
    assert Counter(receiver.keys) == keys_of(spans[lost:])


def test_in_memory_the_number_of_spans_is_bounded_too(delivery, make_span):
    spans = [make_span() for _ in range(500)]
    with Faulty() as receiver:
        built = delivery(receiver.endpoint, folder=None, max_spans=200, starts=False)
        fill(built, spans, 50)
        built.delivery.make_ready()
        assert built.flush()
    assert Counter(receiver.keys) == keys_of(spans[300:])
    assert built.counts.dropped == {"spool_full": 300}


def test_what_is_on_its_way_does_not_give_way(delivery, make_span):
    """It would be counted as lost, and arrive."""
    spans = [make_span() for _ in range(600)]
    with Faulty("hang") as receiver:
        built = delivery(receiver.endpoint, folder=None, max_spans=200)
        built.give(spans[:100])
        while not receiver.sizes:
            time.sleep(0.01)
        for start in range(100, 600, 50):
            built.give(spans[start : start + 50])
        receiver.open.set()
        assert built.flush()
    received = Counter(receiver.keys)
    assert built.counts.dropped == {"spool_full": 400}
    assert built.health.counts()["spans.dropped"] == 400
    assert received.keys() == (keys_of(spans[:100]) + keys_of(spans[500:])).keys()


def test_a_disk_that_is_full_moves_spans_to_memory(delivery, make_span):
    spans = [make_span(attributes={"text": "x" * 2_000}) for _ in range(400)]
    with Faulty() as receiver:
        receiver.stop()
        built = delivery(receiver.endpoint)
        built.give(spans[:50])
        (box,) = built.boxes.all()
        box._db.execute("PRAGMA max_page_count=1")  # SQLite's words for a full disk
        for start in range(50, 400, 50):
            built.give(spans[start : start + 50])
        assert "otlp.spool_unwritable" in built.health.counts()
        receiver.start()
        assert built.flush()
        assert Counter(receiver.keys) == keys_of(spans)
        assert built.counts.exported == 400
        box._db.execute("PRAGMA max_page_count=1000000")
        more = [make_span() for _ in range(10)]
        built.give(more)
        assert built.flush()
    assert Counter(receiver.keys) == keys_of(spans + more)


def test_a_spool_that_is_locked_at_the_start_is_used_once_it_is_free(
    delivery, make_span, monkeypatch, tmp_path
):
    monkeypatch.setattr("aiobs_core.export.boxes._REOPEN_S", 0.1)
    folder = tmp_path / "outbox"
    Outbox(folder, destination=b"", place="", service="", bounds=Bounds(max_bytes=1 << 20)).close()
    with Faulty() as receiver, closing(sqlite3.connect(folder / "outbox.db", isolation_level=None)) as other:
        receiver.stop()
        other.execute("BEGIN EXCLUSIVE")
        built = delivery(receiver.endpoint, folder=folder, insists=False)
        built.give([make_span()])
        other.execute("ROLLBACK")
        deadline = time.monotonic() + PATIENCE_S
        given = 1
        while not waiting_in(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
            built.give([make_span()])
            given += 1
        assert waiting_in(folder)
        assert built.counts.waiting == given
        assert "otlp.spool_unavailable" in built.health.counts()
        receiver.start()
        assert built.flush()
    assert built.counts.exported == given


def test_a_damaged_spool_that_cannot_be_replaced_means_memory(delivery, make_span, monkeypatch):
    def full(folder, identity):
        raise OSError(28, "no space left on device")

    spans = [make_span() for _ in range(20)]
    with Faulty() as receiver:
        receiver.stop()
        built = delivery(receiver.endpoint)
        built.give(spans[:10])
        monkeypatch.setattr("aiobs_core.export.boxes.rescue", full)
        (box,) = built.boxes.opened
        monkeypatch.setattr(box, "put", raises_damage)
        built.give(spans[10:])
        assert built.counts.waiting == 20
        receiver.start()
        assert built.flush()
    assert Counter(receiver.keys) == keys_of(spans)


def raises_damage(*_):
    raise sqlite3.DatabaseError("database disk image is malformed")


@pytest.mark.parametrize("insists", [True, False])
def test_a_folder_that_cannot_be_written_means_no_spool_and_no_error(
    caplog, delivery, make_span, tmp_path, insists
):
    caplog.set_level(logging.INFO)
    (tmp_path / "file").write_text("")
    with Faulty() as receiver:
        built = delivery(receiver.endpoint, folder=tmp_path / "file" / "outbox", insists=insists)
        built.give([make_span() for _ in range(10)])
        assert built.flush()
    assert built.counts.exported == 10
    said = [record for record in caplog.records if "there is no spool" in record.getMessage()]
    assert [record.levelno for record in said] == [logging.WARNING if insists else logging.INFO]
    assert built.health.counts() == ({"otlp.spool_unavailable": 1} if insists else {})


@pytest.mark.parametrize("page", ["header", "first", "middle", "last"])
def test_a_damaged_spool_is_moved_aside_and_what_can_be_read_of_it_arrives(
    caplog, delivery, make_span, tmp_path, page
):
    spans = [make_span(attributes={"text": "x" * 500}) for _ in range(500)]
    folder = tmp_path / "outbox"
    with Faulty() as receiver:
        receiver.stop()
        first = delivery(receiver.endpoint)
        first.give(spans)
        first.delivery.shutdown()
        assert first.delivery.undelivered == 500
        path = folder / "outbox.db"
        size = path.stat().st_size
        at = {"header": 0, "first": 2 * 8_192, "middle": size // 2 // 8_192 * 8_192, "last": size - 8_192}[
            page
        ]
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"\xa5" * 4_096)
        receiver.start()
        second = delivery(receiver.endpoint)
        more = [make_span() for _ in range(10)]
        second.give(more)
        assert second.flush()
        deadline = time.monotonic() + PATIENCE_S
        while waiting_in(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
    received = Counter(receiver.keys)
    assert max(received.values()) == 1
    assert received.keys() >= keys_of(more).keys()
    lost = 510 - len(received)
    assert second.health.counts()["otlp.spool_damaged"] >= 1
    if page != "header":  # without it nothing at all can be read, not even how much there was
        assert second.health.counts().get("spans.dropped", 0) == lost
    if page in ("middle", "last"):
        assert lost < 100
    (said,) = [each for each in caplog.messages if "damaged" in each]
    assert ("how many are lost is not known" if page == "header" else f"{lost} are lost") in said
    assert len(list(folder.glob("outbox.db.damaged-????????"))) == 1


def test_a_spool_that_is_deleted_meanwhile_loses_nothing(delivery, make_span, tmp_path):
    spans = [make_span() for _ in range(100)]
    with Faulty() as receiver:
        receiver.stop()
        built = delivery(receiver.endpoint)
        built.give(spans[:50])
        for path in (tmp_path / "outbox").iterdir():
            path.unlink()
        built.give(spans[50:])
        receiver.start()
        assert built.flush()
    assert Counter(receiver.keys) == keys_of(spans)


def test_files_are_for_their_owner_only(delivery, make_span, tmp_path):
    with Faulty() as receiver:
        built = delivery(receiver.endpoint)
        built.give([make_span()])
        assert built.flush()
        folder = tmp_path / "outbox"
        assert folder.stat().st_mode & 0o077 == 0
        assert all(path.stat().st_mode & 0o077 == 0 for path in folder.glob("outbox.db*"))


# --- clocks -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0 * 365])
def test_a_clock_that_jumps_costs_nothing_while_the_receiver_is_there(delivery, make_span, jump_s):
    now = [1_800_000_000.0]
    spans = [make_span() for _ in range(10)]
    with Faulty() as receiver:
        built = delivery(receiver.endpoint, max_age_s=3_600, wall_s=lambda: now[0], starts=False)
        built.boxes.put(encoded(spans[:5]))
        built.health.balance.received += 5
        now[0] += jump_s
        built.give(spans[5:])
        assert built.flush()
    assert Counter(receiver.keys) == keys_of(spans)


def test_what_nobody_takes_is_given_up_at_its_age(delivery, make_span):
    now = [1_800_000_000.0]
    with Faulty() as receiver:
        receiver.stop()
        built = delivery(receiver.endpoint, max_age_s=3_600, wall_s=lambda: now[0])
        built.give([make_span() for _ in range(5)])
        assert not built.delivery.force_flush(100)
        assert built.counts.waiting == 5
        now[0] += 3_700
        assert built.flush()  # nothing waits any more
    assert built.counts.dropped == {"expired": 5}


# --- what breaks ------------------------------------------------------------------------------------------------------
def neighbour(folder, *, destination=b"d" * 16, host="elsewhere", wall_s=time.time):
    """The outbox of a process of another host, which nobody can ask whether it lives."""
    box = Outbox(
        folder,
        destination=destination,
        place="there",
        service="shop",
        bounds=Bounds(max_bytes=1 << 30),
        wall_s=wall_s,
    )
    with box.transaction() as db:
        db.execute("UPDATE processes SET host = ?, pid = 1 WHERE id = ?", (host, box.process))
    open_here.discard(box.process)
    return box


def test_a_living_process_of_another_host_whose_receiver_is_down_keeps_its_spans(make_span, tmp_path):
    encode, now = Encoder(), [1_000.0]

    class Down:
        def send(self, request, within_s=0):
            return Answer(verdict="again", why="down", after_s=600.0)

        def close(self):
            pass

    theirs = neighbour(tmp_path)
    theirs.put([encode(make_span())], Tally())
    courier = Courier(Down, lambda: [theirs], Health(), max_age_s=1e6, clock_s=lambda: now[0])
    mine = neighbour(tmp_path, host="here")
    others = Neighbours(mine)
    for _ in range(30):
        courier.step()
        assert others.adopt(now[0]) == 0
        now[0] += 10.0
    for _ in range(8):  # and now it is dead
        adopted = others.adopt(now[0])
        now[0] += 10.0
    assert adopted == 0
    assert mine.take(max_spans=10, max_bytes=1 << 20, own=False).count == 1
    theirs.put([encode(make_span())], Tally())  # it was not
    assert mine_of(tmp_path, theirs.process) == (0,)
    for box in (mine, theirs):
        box.close()


def mine_of(folder, process):
    with closing(sqlite3.connect(folder / "outbox.db")) as db:
        return db.execute("SELECT ended FROM processes WHERE id = ?", (process,)).fetchone()


def test_what_was_left_for_a_receiver_that_nobody_uses_any_more_expires(make_span, tmp_path):
    encode, now = Encoder(), [1e9]
    theirs = neighbour(tmp_path, destination=b"e" * 16, wall_s=lambda: now[0])
    theirs.put([encode(make_span()) for _ in range(3)], Tally(received=3))
    theirs.close()
    mine = neighbour(tmp_path, host="here")
    courier = Courier(
        lambda: None, lambda: [mine], Health(), max_age_s=3_600, clock_s=lambda: now[0], wall_s=lambda: now[0]
    )
    courier.step()
    assert waiting_in(tmp_path) == 3
    now[0] += 3_700
    courier.step()
    assert waiting_in(tmp_path) == 0
    found = examine(tmp_path / "outbox.db", now_s=now[0])
    assert (found.total.received, dict(found.total.dropped), found.total.unexplained) == (
        3,
        {"expired": 3},
        0,
    )
    mine.close()


def test_processes_that_were_killed_are_folded_as_those_that_ended(tmp_path):
    for number in range(120):
        dead = neighbour(tmp_path, host=myself()[1])  # and process 1 began at another time
        dead.tell(Tally(received=1, sampled_out=1))
        dead.close() if number % 4 else dead.leave()
    mine = neighbour(tmp_path, host="here")
    Neighbours(mine).tidy()
    found = examine(tmp_path / "outbox.db", now_s=time.time())
    assert (found.total.received, found.total.sampled_out, found.total.unexplained) == (120, 120, 0)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as db:
        assert (
            db.execute("SELECT count(*) FROM processes").fetchone()[0] == 102
        )  # 100, one for the rest, and mine
    assert {account.process for account in found.accounts} == {"-", "100 ended", "1 (elsewhere)"}
    mine.close()


def test_a_rescue_that_is_interrupted_is_finished_by_the_next_process(
    delivery, make_span, monkeypatch, tmp_path
):
    encode, folder = Encoder(), tmp_path / "outbox"
    spans = [make_span() for _ in range(100)]
    theirs = neighbour(folder, host=myself()[1])
    theirs.put([encode(span) for span in spans], Tally(received=100))

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("aiobs_core.export.outbox_rescue._restore", killed)
        with pytest.raises(KeyboardInterrupt):
            rescue(folder, identity_of(folder / "outbox.db"))
    theirs.leave()
    with Faulty() as receiver:
        for _ in range(2):  # once is enough
            built = delivery(receiver.endpoint, folder=folder)
            more = make_span()
            built.give([more])
            spans.append(more)
            assert built.flush()
            wait_until(lambda: waiting_in(folder) == 0)
            built.delivery.shutdown()
    assert Counter(receiver.keys) == keys_of(spans)
    found = examine(folder / "outbox.db", now_s=time.time())
    assert (found.total.received, found.total.exported, found.total.unexplained) == (102, 102, 0)


def wait_until(holds):
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "flip",
    [
        "UPDATE spans SET body = 17 WHERE id = 2",
        "UPDATE spans SET body = CAST(x'c3' AS TEXT) WHERE id = 2",
        "UPDATE spans SET body = x'ffffff' WHERE id = 2",
        "UPDATE spans SET grp = 5 WHERE id = 2",
    ],
)
def test_a_row_that_damage_has_changed_holds_up_no_other(delivery, make_span, tmp_path, flip):
    folder, spans = tmp_path / "outbox", [make_span() for _ in range(10)]
    with Faulty() as receiver:
        receiver.stop()
        built = delivery(receiver.endpoint, folder=folder)
        built.give(spans)
        with closing(sqlite3.connect(folder / "outbox.db", isolation_level=None, timeout=10)) as db:
            db.execute(flip)
        built.boxes.renew_damaged()
        receiver.start()
        assert built.flush()
        assert built.counts.dropped == {"damaged": 1}
    assert len(receiver.keys) == 9


def test_a_resource_that_damage_has_changed_holds_up_no_span(delivery, make_span, tmp_path):
    folder, spans = tmp_path / "outbox", [make_span() for _ in range(10)]
    with Faulty() as receiver:
        receiver.stop()
        built = delivery(receiver.endpoint, folder=folder)
        built.give(spans)
        with closing(sqlite3.connect(folder / "outbox.db", isolation_level=None, timeout=10)) as db:
            db.execute("UPDATE heads SET head = x'ff'")
        receiver.start()
        assert built.flush()
    assert Counter(receiver.keys) == keys_of(spans)


def test_a_transport_that_raises_ends_nothing(delivery, make_span):
    class Broken:
        def __init__(self):
            self.errors = [ValueError("secret"), SystemExit(), KeyboardInterrupt(), MemoryError()]
            self.inner = None

        def send(self, request, within_s=0):
            if self.errors:
                raise self.errors.pop()
            return self.inner.send(request, within_s)

        def close(self):
            self.inner.close()

    with Faulty() as receiver:
        broken = Broken()
        broken.inner = open_transport(Settings(otlp_endpoint=receiver.endpoint), environ=ENVIRON)
        built = delivery(receiver.endpoint, transport=lambda: broken)
        built.give([make_span() for _ in range(5)])
        assert built.flush()
    assert built.counts.exported == 5


def test_a_span_that_comes_twice_leaves_once_and_is_not_lost(caplog, capsys, delivery, make_span, tmp_path):
    span = make_span()
    with Faulty() as receiver:
        receiver.stop()
        built = delivery(receiver.endpoint)
        built.give([span, make_span()])
        built.give([span])
        receiver.start()
        assert built.flush()
    assert len(receiver.keys) == 2
    assert built.counts.dropped == {"duplicate": 1}
    assert "spans.dropped" not in built.health.counts()
    (said,) = [each for each in caplog.messages if "twice" in each]
    assert "aiobs: 1 span came twice and leaves once; nothing is lost" in said
    built.delivery.shutdown()
    assert cli.main(["doctor", "--spool", str(tmp_path / "outbox")]) == 0
    assert "dropped: 1 duplicate (came twice, sent once: nothing is lost)" in capsys.readouterr().out


# --- the end ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fault", ["down", "hang"])
@pytest.mark.parametrize("with_spool", [True, False])
def test_a_dead_receiver_holds_up_no_shutdown_and_the_next_process_delivers(
    delivery, make_span, tmp_path, fault, with_spool
):
    spans = [make_span() for _ in range(100)]
    with Faulty(*["hang"] * 2 if fault == "hang" else []) as receiver:
        if fault == "down":
            receiver.stop()
        built = delivery(receiver.endpoint, folder=tmp_path / "outbox" if with_spool else None, timeout_s=0.5)
        built.give(spans)
        began = time.monotonic()
        built.delivery.shutdown()
        assert time.monotonic() - began < 3.0
        if not with_spool:
            assert built.health.losses() == {"otlp.shutdown": 100}
            return
        assert "spans.dropped" not in built.health.counts()
        assert built.delivery.undelivered == 100
        receiver.faults.clear()
        if fault == "down":
            receiver.start()
        heir = delivery(receiver.endpoint)
        deadline = time.monotonic() + PATIENCE_S
        while len(set(receiver.keys)) < 100 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert set(receiver.keys) == set(keys_of(spans))
        assert heir.counts.exported == 0  # they count for the one that was given them
        receiver.open.set()


def test_where_no_thread_can_be_started_a_receiver_that_hangs_holds_up_no_shutdown(
    delivery, make_span, monkeypatch
):
    refuse_threads(monkeypatch)
    with Faulty("hang") as receiver:
        built = delivery(receiver.endpoint, environ={"OTEL_EXPORTER_OTLP_TIMEOUT": "20"}, timeout_s=1.0)
        built.give([make_span()])
        began = time.monotonic()
        built.delivery.shutdown()
        assert time.monotonic() - began < 10.0  # a half of what the request might take
        assert built.counts.waiting == 1
        receiver.open.set()


@pytest.mark.parametrize("has_threads", [True, False])
def test_the_end_of_a_short_process_delivers_what_others_left_while_there_is_time(
    delivery, make_span, monkeypatch, tmp_path, has_threads
):
    left = [make_span() for _ in range(6_000)]  # more than is taken over at once
    with Faulty() as receiver:
        receiver.stop()
        first = delivery(receiver.endpoint, starts=False)
        fill(first, left, 500)
        first.boxes.close(is_idle=True)
        first.delivery.start_afresh()
        receiver.start()
        if not has_threads:
            refuse_threads(monkeypatch)
        short = delivery(receiver.endpoint, starts=False, timeout_s=PATIENCE_S)
        own = [make_span() for _ in range(3)]
        short.give(own)
        short.delivery.shutdown()
        assert waiting_in(tmp_path / "outbox") == 0
        assert Counter(receiver.keys) == keys_of(left + own)
        assert short.counts.exported == 3


def test_what_others_left_holds_up_no_shutdown_for_longer_than_its_limit(delivery, make_span, tmp_path):
    with Faulty() as receiver:
        receiver.stop()
        first = delivery(receiver.endpoint, starts=False)
        fill(first, [make_span() for _ in range(2_000)], 500)
        first.boxes.close(is_idle=True)
        first.delivery.start_afresh()
        receiver.faults += [200, "hang", "hang", "hang"]
        receiver.start()
        short = delivery(receiver.endpoint, environ={"OTEL_EXPORTER_OTLP_TIMEOUT": "30"}, starts=False)
        short.give([make_span()])
        began = time.monotonic()
        short.delivery.shutdown()
        assert time.monotonic() - began < 10.0  # a third of what the request might take
        assert waiting_in(tmp_path / "outbox") >= 1_000
        receiver.open.set()


def refuse_threads(monkeypatch):
    """As in the exit handlers of Python 3.12 and later."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "aiobs-otlp":
            raise RuntimeError("can't create new thread at interpreter shutdown")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def test_spans_after_shutdown_are_counted(delivery, make_span):
    with Faulty() as receiver:
        built = delivery(receiver.endpoint)
        built.delivery.shutdown()
        built.give([make_span()])
    assert built.health.losses() == {"otlp.shutdown": 1}


# --- where it lies ----------------------------------------------------------------------------------------------------
def test_the_spool_lies_beside_the_local_store(tmp_path, monkeypatch):
    environ = {"HOME": str(tmp_path / "home")}
    assert outbox_folder("auto", cwd=tmp_path, environ=environ) == tmp_path / ".aiobs"
    assert outbox_folder("off", cwd=tmp_path, environ=environ) is None
    assert outbox_folder("here", cwd=tmp_path, environ=environ) == tmp_path / "here"
    assert outbox_folder("auto", cwd=None, environ={}) is None
    assert outbox_folder("auto", cwd=None, environ=environ) is not None


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [
        ("https://user:secret@host:4318/v1/traces?key=secret", "host:4318"),
        ("collector:4317", "collector:4317"),
        ("", "localhost"),
        ("http://[::1", "?"),
    ],
)
def test_no_secret_of_the_endpoint_is_shown(endpoint, place):
    assert place_of(endpoint) == place


def test_another_application_or_receiver_sends_nothing_of_this_one(make_span, tmp_path):
    """In one folder, as in the home folder of one user: credentials are not shared."""
    from opentelemetry.sdk.resources import Resource

    with Faulty() as receiver, Faulty() as other:
        receiver.stop()
        settings = Settings(otlp_endpoint=receiver.endpoint, spool=str(tmp_path), export_timeout_s=0.5)
        first = open_delivery(
            settings,
            Health(),
            Resource({"service.name": "a"}),
            accounts=Accounts(Health()),
            cwd=tmp_path,
            environ=ENVIRON,
        )
        first.export([make_span()])
        first.shutdown()
        receiver.start()
        for endpoint, service in ((other.endpoint, "a"), (receiver.endpoint, "b")):
            settings = Settings(otlp_endpoint=endpoint, spool=str(tmp_path))
            second = open_delivery(
                settings,
                Health(),
                Resource({"service.name": service}),
                accounts=Accounts(Health()),
                cwd=tmp_path,
                environ=ENVIRON,
            )
            second.begin()
            second.make_ready()
            second.wait_until_ready(5)
            time.sleep(0.3)
            second.shutdown()
        assert (receiver.keys, other.keys) == ([], [])


@pytest.mark.parametrize(
    ("before", "after", "is_sent"),
    [
        ("x-scope-orgid=a", "x-scope-orgid=a", True),
        ("X-Scope-OrgID=a", "x-scope-orgid=%61", True),
        ("x-scope-orgid=a", "x-scope-orgid=b", False),
        ("x-tenant=a,authorization=Bearer%20old", "x-tenant=a,authorization=Bearer%20new", True),
        ("x-tenant-key=old", "x-tenant-key=new", True),  # a key that was rotated
        ("x-release=1", "x-release=2", True),
        ("x-tenant=a", "x-tenant=a,x-more=1", False),
    ],
)
def test_what_one_tenant_left_another_does_not_send_and_a_new_key_does(
    make_span, tmp_path, before, after, is_sent
):
    from opentelemetry.sdk.resources import Resource

    with Faulty() as receiver:
        for is_first, headers in ((True, before), (False, after)):
            settings = Settings(otlp_endpoint=receiver.endpoint, spool=str(tmp_path), export_timeout_s=5)
            environ = {**ENVIRON, "OTEL_EXPORTER_OTLP_HEADERS": headers}
            delivery = open_delivery(
                settings,
                Health(),
                Resource({}),
                accounts=Accounts(Health()),
                cwd=tmp_path,
                environ=environ,
            )
            if is_first:
                receiver.stop()
                delivery.export([make_span()])
            delivery.make_ready()
            delivery.shutdown()
            receiver.stop()
            receiver.start()
        assert len(receiver.keys) == is_sent
        assert waiting_in(tmp_path) == (not is_sent)
    assert not [path for path in tmp_path.iterdir() if b"Bearer" in path.read_bytes()]


def test_a_port_that_nobody_listens_on_is_no_ambiguity():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        for protocol in ("grpc", "http/protobuf"):
            transport = open_transport(
                Settings(otlp_endpoint=endpoint, otlp_protocol=protocol), environ=ENVIRON
            )
            answer = transport.send(b"")
            transport.close()
            assert (answer.verdict, answer.may_have_arrived) == ("again", False), answer
    assert os.getpid()
