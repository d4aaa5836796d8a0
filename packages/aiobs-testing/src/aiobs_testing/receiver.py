"""An OTLP receiver in the test's own process: gRPC and HTTP, TLS and mutual TLS, failing or slow on demand."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Literal, TypedDict, final
from urllib.parse import urlsplit

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

Signal = Literal["traces", "metrics", "logs"]

_GRPC_SERVICES: Final[dict[Signal, str]] = {
    "traces": "opentelemetry.proto.collector.trace.v1.TraceService",
    "metrics": "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "logs": "opentelemetry.proto.collector.logs.v1.LogsService",
}
_GRPC_CODES: Final = {  # as the OTLP specification maps them
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.UNIMPLEMENTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,  # gRPC's own RESOURCE_EXHAUSTED would be retried
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}


class ReceivedEvent(TypedDict):
    """An event of a received span."""

    name: str
    time_ns: int
    attributes: dict[str, object]


class ReceivedLink(TypedDict):
    """A link of a received span."""

    trace_id: str
    span_id: str
    attributes: dict[str, object]


class ReceivedSpan(TypedDict):
    """A received span in plain Python; ids are lower-case hex, `parent_span_id` is "" for a root."""

    trace_id: str
    span_id: str
    parent_span_id: str
    name: str
    kind: str
    attributes: dict[str, object]
    events: list[ReceivedEvent]
    links: list[ReceivedLink]
    status: dict[str, str]
    start_ns: int
    end_ns: int
    resource: dict[str, object]
    scope: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedRequest:
    """One export request as it came in, decompressed; header names are in lower case."""

    signal: Signal
    transport: Literal["grpc", "http"]
    headers: Mapping[str, str]
    body: bytes


@final
class OtlpReceiver:
    """Receives OTLP over gRPC and HTTP on loopback, inside the test process.

    Use it as a context manager. It can be told at any time to fail (`fail_with`) or to be slow (`delay_s`); requests
    that it fails are not kept.

    Args:
        certificate: PEM file of the server's certificate; turns TLS on for both protocols.
        private_key: PEM file of its key.
        client_ca: PEM file of the CA that clients must have a certificate of (mutual TLS).
        fail_with: HTTP status to answer with, also mapped to a gRPC code; None accepts.
        delay_s: Seconds to wait before answering.

    Example:
        >>> with OtlpReceiver() as receiver:
        ...     receiver.spans
        []
    """

    def __init__(
        self,
        *,
        certificate: Path | str | None = None,
        private_key: Path | str | None = None,
        client_ca: Path | str | None = None,
        fail_with: int | None = None,
        delay_s: float = 0.0,
    ) -> None:
        self.fail_with = fail_with
        self.delay_s = delay_s
        self._certificate, self._private_key, self._client_ca = certificate, private_key, client_ca
        self._arrived = threading.Condition()
        self._closing = threading.Event()
        self._requests: list[ReceivedRequest] = []
        self._scheme = "https" if certificate else "http"
        self._grpc_port = 0
        self._http_port = 0

    def __enter__(self) -> OtlpReceiver:
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="otlp-receiver")
        self._grpc = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        for signal, service in _GRPC_SERVICES.items():
            self._grpc.add_generic_rpc_handlers((self._grpc_handler(signal, service),))
        self._grpc_port = self._bind_grpc()
        self._grpc.start()
        self._http = _HttpServer(self, self._tls())
        self._http_port = self._http.server_address[1]
        self._http_thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._http_thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.close_connections()
        self._http.server_close()
        self._http_thread.join()
        self._grpc.stop(None).wait()
        self._pool.shutdown()

    # --- what arrived -------------------------------------------------------------------------------------------
    @property
    def grpc_endpoint(self) -> str:
        """Value for OTEL_EXPORTER_OTLP_ENDPOINT with the protocol grpc."""
        return f"{self._scheme}://127.0.0.1:{self._grpc_port}"

    @property
    def http_endpoint(self) -> str:
        """Value for OTEL_EXPORTER_OTLP_ENDPOINT with the protocol http/protobuf: no path."""
        return f"{self._scheme}://127.0.0.1:{self._http_port}"

    @property
    def requests(self) -> list[ReceivedRequest]:
        """The accepted requests of all signals in order of arrival (a copy)."""
        with self._arrived:
            return list(self._requests)

    @property
    def raw(self) -> list[bytes]:
        """The bodies of the accepted requests, as protobuf: to search for what must not have left the process."""
        return [request.body for request in self.requests]

    @property
    def spans(self) -> list[ReceivedSpan]:
        """The received spans in order of arrival."""
        return [span for body in self._bodies("traces") for span in decode_spans(body)]

    @property
    def metrics(self) -> list[ExportMetricsServiceRequest]:
        """The received metrics requests."""
        return [ExportMetricsServiceRequest.FromString(body) for body in self._bodies("metrics")]

    @property
    def logs(self) -> list[ExportLogsServiceRequest]:
        """The received logs requests."""
        return [ExportLogsServiceRequest.FromString(body) for body in self._bodies("logs")]

    def wait_for_spans(self, count: int, timeout_s: float = 5.0) -> list[ReceivedSpan]:
        """Wait until at least `count` spans have arrived, and return all.

        Raises:
            TimeoutError: If fewer came within `timeout_s`.
        """
        with self._arrived:
            if self._arrived.wait_for(lambda: len(self.spans) >= count, timeout_s):
                return self.spans
        raise TimeoutError(f"expected {count} spans within {timeout_s:g} s, got {len(self.spans)}")

    def _bodies(self, signal: Signal) -> list[bytes]:
        return [request.body for request in self.requests if request.signal == signal]

    # --- serving ------------------------------------------------------------------------------------------------
    def accept(self, request: ReceivedRequest) -> int:
        """Keep a request and say with which HTTP status to answer it."""
        if self.delay_s:
            self._closing.wait(self.delay_s)
        if self.fail_with is not None:
            return self.fail_with
        with self._arrived:
            self._requests.append(request)
            self._arrived.notify_all()
        return 200

    def _grpc_handler(self, signal: Signal, service: str) -> Any:
        def export(body: bytes, call: Any) -> bytes:
            headers = {key: str(value) for key, value in call.invocation_metadata()}
            status = self.accept(ReceivedRequest(signal=signal, transport="grpc", headers=headers, body=body))
            if status != 200:
                call.abort(_GRPC_CODES.get(status, grpc.StatusCode.INTERNAL), f"told to fail with {status}")
            return b""  # an empty response message: everything was accepted

        method = grpc.unary_unary_rpc_method_handler(export)  # without decoders: bytes in, bytes out
        return grpc.method_handlers_generic_handler(service, {"Export": method})

    def _bind_grpc(self) -> int:
        if self._certificate is None or self._private_key is None:
            return int(self._grpc.add_insecure_port("127.0.0.1:0"))
        pair = (Path(self._private_key).read_bytes(), Path(self._certificate).read_bytes())
        ca = Path(self._client_ca).read_bytes() if self._client_ca else None
        credentials = grpc.ssl_server_credentials([pair], ca, require_client_auth=ca is not None)
        return int(self._grpc.add_secure_port("127.0.0.1:0", credentials))

    def _tls(self) -> ssl.SSLContext | None:
        if self._certificate is None or self._private_key is None:
            return None
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(self._certificate, self._private_key)
        if self._client_ca:
            tls.load_verify_locations(self._client_ca)
            tls.verify_mode = ssl.CERT_REQUIRED
        return tls


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, receiver: OtlpReceiver, tls: ssl.SSLContext | None) -> None:
        self.receiver = receiver
        self._tls = tls
        self._connections: set[socket.socket] = set()
        super().__init__(("127.0.0.1", 0), _HttpHandler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = self.socket.accept()
        if self._tls is not None:
            # The handshake happens in the connection's own thread: a client that stalls must not block the others.
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that break off or fail the handshake are what some tests are about."""

    def close_connections(self) -> None:
        """End what clients keep alive."""
        for connection in list(self._connections):
            self.shutdown_request(connection)


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        encoding = self.headers.get("Content-Encoding", "")
        if encoding == "gzip":
            body = gzip.decompress(body)
        elif encoding == "deflate":
            body = zlib.decompress(body)
        path = urlsplit(self.path).path  # a client that takes this server for its proxy sends the whole URL
        signal = next((signal for signal in _GRPC_SERVICES if path == f"/v1/{signal}"), None)
        status = 404
        if signal is not None:
            headers = {key.lower(): value for key, value in self.headers.items()}
            status = self.server.receiver.accept(
                ReceivedRequest(signal=signal, transport="http", headers=headers, body=body)
            )
        self.send_response(status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in http.server)
        """Print nothing per request."""


# --- decoding -----------------------------------------------------------------------------------------------------
def decode_spans(body: bytes) -> list[ReceivedSpan]:
    """The spans of an ExportTraceServiceRequest in plain Python."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        _span(
            span,
            _attributes(group.resource.attributes),
            {"name": scope.scope.name, "version": scope.scope.version},
        )
        for group in request.resource_spans
        for scope in group.scope_spans
        for span in scope.spans
    ]


def _span(span: Span, resource: dict[str, object], scope: dict[str, str]) -> ReceivedSpan:
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent_span_id.hex(),
        "name": span.name,
        "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        "attributes": _attributes(span.attributes),
        "events": [
            {"name": event.name, "time_ns": event.time_unix_nano, "attributes": _attributes(event.attributes)}
            for event in span.events
        ],
        "links": [
            {
                "trace_id": link.trace_id.hex(),
                "span_id": link.span_id.hex(),
                "attributes": _attributes(link.attributes),
            }
            for link in span.links
        ],
        "status": {
            "code": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
            "message": span.status.message,
        },
        "start_ns": span.start_time_unix_nano,
        "end_ns": span.end_time_unix_nano,
        "resource": resource,
        "scope": scope,
    }


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, object]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    if kind is None:
        return None
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return _attributes(value.kvlist_value.values)
    plain: object = getattr(value, kind)
    return plain
