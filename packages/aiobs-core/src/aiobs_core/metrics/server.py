"""The Prometheus page on a port of its own."""

from __future__ import annotations

import errno
import socket
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opentelemetry.context import attach, set_value

from aiobs_core._context import SUPPRESS_KEY
from aiobs_core.metrics.page import answer
from aiobs_core.metrics.page_tls import PageTls, page_tls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiobs_core._health import Health
    from aiobs_core._settings import Settings
    from aiobs_core.metrics.page import Read
    from aiobs_core.metrics.series import FamilySnapshot

_PATHS: Final = {"/", "/metrics"}
_AGAIN_S: Final = 2.0
_PATIENCE_S: Final = 10.0  # of a connection that says nothing
_FAREWELL_S: Final = 2.0  # for whoever was refused, to read why
_MAX_FAREWELL_READS: Final = 16
_MAX_CONNECTIONS: Final = 32  # each has a thread of the application's process


class PrometheusServer:
    """Serves the page from its own thread until it is closed. Nothing is raised.

    With a folder of workers, the one that has the port tells of all of them; the others wait for the port, so that another
    takes over when that one ends.

    Args:
        settings: Host, certificates and folder of workers.
        read: What the page says.
        health: Told once what does not work.
        port: Where it is served.
    """

    def __init__(self, settings: Settings, read: Read, health: Health, *, port: int) -> None:
        self._settings = settings
        self._read = read
        self._health = health
        self._port = port
        self._waits = bool(settings.metrics_folder)
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._server: _HttpServer | None = None
        self._opened: _HttpServer | None = None  # stays, so that the thread finds what `close` waits for
        self._tls = page_tls(settings, health)
        is_ready = self._tls is None or self._tls.is_usable()
        if not is_ready or self._open() or self._waits:
            self._thread = threading.Thread(target=self._serve, name="aiobs-prometheus", daemon=True)
            self._thread.start()

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port while this process serves the page."""
        server = self._server
        return None if server is None else (str(server.server_address[0]), int(server.server_address[1]))

    def close(self) -> None:
        """Free the port and end the thread."""
        self._closing.set()
        server = self._taken()
        if server is not None:
            server.shutdown()
            server.close_connections()
            server.server_close()

    def forget_after_fork(self) -> None:
        """Let go of the parent's port in a forked child."""
        self._closing.set()
        server, self._server = self._server, None
        if server is not None:
            server.socket.close()  # of this process; the parent goes on listening

    # --- inside -----------------------------------------------------------------------------------------------------

    def _open(self) -> bool:
        host = self._settings.prometheus_host
        try:
            found = socket.getaddrinfo(
                host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            # IPv4 first: "localhost" is both, and Prometheus tries both.
            family, _, _, _, address = min(found, key=lambda each: each[0] is not socket.AF_INET)
            self._server = self._opened = _HttpServer(family, address, self._page, self._tls)
        except OSError as error:
            # Another worker serves the page then. A host that is none, or a port that is not ours to take, never works.
            if not self._waits or error.errno != errno.EADDRINUSE:
                self._health.problem(
                    "metrics.port",
                    f"aiobs: the Prometheus page cannot be served on {host}:{self._port} ({error.strerror or error}). Choose "
                    "another AIOBS_PROMETHEUS_PORT; where several workers of one server share it, name a folder for all "
                    "of them with AIOBS_METRICS_DIR.",
                )
            return False
        return True

    def _page(self) -> Sequence[FamilySnapshot]:
        try:
            return self._read()
        except Exception as error:
            self._health.problem(
                "metrics.page",
                f"aiobs: the Prometheus page cannot be made ({type(error).__name__}: {error}).",
            )
            raise

    def _serve(self) -> None:
        attach(set_value(SUPPRESS_KEY, True))
        while self._opened is None:
            if self._closing.wait(_AGAIN_S):
                return
            if (self._tls is None or self._tls.is_usable()) and not self._open() and not self._waits:
                return
        if self._closing.is_set() and (unserved := self._taken()) is not None:  # closed while it was opened
            unserved.server_close()
            return
        self._opened.serve_forever(0.2)  # in any case: whoever took it waits for the end of this

    def _taken(self) -> _HttpServer | None:
        """The server, for the one who asks first to close."""
        with self._lock:
            server, self._server = self._server, None
        return server


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    # Else the port is taken for a minute after each restart; on Windows, it would let others take it from us.
    allow_reuse_address = sys.platform != "win32"
    allow_reuse_port = False
    request_queue_size = 2 * _MAX_CONNECTIONS  # with the 5 of socketserver, a burst waits for seconds

    def __init__(self, family: int, address: Any, read: Read, tls: PageTls | None) -> None:
        self.address_family = family
        self.read = read
        self._tls = tls
        self._connections: set[socket.socket] = set()
        super().__init__(address[:2], _Page)

    def server_bind(self) -> None:
        """Bind without asking the resolver for this machine's name, which may take seconds."""
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = self.socket.accept()
        connection.settimeout(_PATIENCE_S)
        if self._tls is not None:
            # The handshake happens on the connection's own thread: who stalls must not block the others.
            connection = self._tls.context().wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        self._connections.add(connection)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 (the signature of socketserver)
        """Whether there is a thread left for it: else it is closed."""
        return len(self._connections) <= _MAX_CONNECTIONS

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection, or refuse it; on its own thread."""
        if isinstance(request, ssl.SSLSocket):
            try:
                request.do_handshake()
            except ssl.SSLError:
                _hear_out(request)
                return
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever breaks off, or has no certificate, must not fill the application's log."""

    def close_connections(self) -> None:
        """End what scrapers keep alive."""
        for connection in list(self._connections):
            self.shutdown_request(connection)


def _hear_out(refused: ssl.SSLSocket) -> None:
    """Take what a refused client still sends.

    A close with bytes unread resets the connection, and the alert gets lost that says why: with TLS 1.3, clients send their
    request before they are told that a certificate is wanted.
    """
    try:
        refused.shutdown(socket.SHUT_WR)  # from here on it is a plain socket
        refused.settimeout(_FAREWELL_S)
        for _ in range(_MAX_FAREWELL_READS):
            if not refused.recv(4096):
                return
    except OSError:  # it has gone, or stays silent
        return


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "aiobs"
    sys_version = ""
    server: _HttpServer

    def do_GET(self) -> None:
        """Send the page."""
        if urlsplit(self.path).path not in _PATHS:
            self.send_error(404)
            return
        accepted = self.headers.get("Accept", ""), self.headers.get("Accept-Encoding", "")
        try:
            given = answer(self.command, *accepted, self.server.read)
        except Exception:  # noqa: BLE001 (it was told; no page is better than half of one)
            self.send_error(503)
            return
        self.send_response(given.status)
        for name, value in given.headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(given.body)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 (names of http.server)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in http.server)
        """Print nothing per scrape."""
