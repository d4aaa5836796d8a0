"""A real nginx on loopback, for tests: it ends TLS before an OTLP receiver, or passes requests on to an application."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Protocol, final

from aiobs_testing.rotel import free_ports

_READY_WITHIN_S: Final = 15.0
_POLL_S: Final = 0.02
_SYSTEM_FOLDERS: Final = "/usr/sbin:/usr/local/sbin"  # not in everybody's PATH

_HEAD: Final = """
daemon off;
master_process off;
pid nginx.pid;
error_log error.log warn;
events { worker_connections 256; }
"""
_FOLDERS: Final = "client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;"
_FRONT: Final = """
http {{
    log_format tls '$ssl_protocol $ssl_client_verify $ssl_client_serial';
    access_log access.log tls;
    client_max_body_size 64m;
    {folders}
    ssl_certificate "{certificate}";
    ssl_certificate_key "{private_key}";
    ssl_protocols {protocols};
    {client}
    server {{ listen 127.0.0.1:{http_port} ssl; location / {{ proxy_pass {http_endpoint}; }} }}
    server {{ listen 127.0.0.1:{grpc_port} ssl http2; location / {{ grpc_pass grpc://{grpc_address}; }} }}
}}
"""
_PROXY: Final = """
http {{
    access_log off;
    {folders}
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {behind}; {directives} }} }}
}}
"""


class NginxNotInstalled(RuntimeError):
    """The program is not installed; the message says how to get it."""


class Behind(Protocol):
    """An OTLP receiver without TLS, such as an `OtlpReceiver` or a `Rotel`."""

    http_endpoint: str
    grpc_endpoint: str


class FrontRequest(NamedTuple):
    """How a request came in.

    Attributes:
        protocol: `TLSv1.3` or older.
        verified: `SUCCESS`, `NONE`, or `FAILED:` and why.
        serial: Of the client's certificate, in upper-case hex; `-` if there was none.
    """

    protocol: str
    verified: str
    serial: str


class _Nginx:
    """A process with a configuration, in a folder that goes with it."""

    def _start(self, configuration: str, ports: list[int]) -> None:
        program = nginx_program()
        self._folder = tempfile.TemporaryDirectory(prefix="nginx-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        (folder / "nginx.conf").write_text(_HEAD + configuration, encoding="utf-8")
        self._log_path = folder / "stderr.log"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready(ports)
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()  # it has no more to say
        self._process.wait()
        self._folder.cleanup()

    def _wait_until_ready(self, ports: list[int]) -> None:
        deadline_s = time.monotonic() + _READY_WITHIN_S
        for port in ports:
            while True:
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    end = self._log_path.read_text(encoding="utf-8", errors="replace")[-2_000:]
                    raise RuntimeError(f"nginx did not start; the end of its log:\n{end}")
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(_POLL_S)


@final
class NginxFront(_Nginx):
    """Runs the real nginx on loopback before an OTLP receiver, for HTTP and gRPC; a context manager.

    It finishes the handshake with any client, and answers those without the right certificate with 400.

    Args:
        behind: Where it passes requests on to.
        certificate: PEM file of its certificate, with the chain.
        private_key: PEM file of its key.
        client_ca: PEM file of the CA that clients must have a certificate of.
        protocols: Versions of TLS that it speaks, such as `TLSv1.2 TLSv1.3`.

    Raises:
        NginxNotInstalled: On entering, if the program is missing.
        RuntimeError: On entering, if it does not start; with the end of its log.
    """

    def __init__(
        self,
        behind: Behind,
        *,
        certificate: Path | str,
        private_key: Path | str,
        client_ca: Path | str | None = None,
        protocols: str = "TLSv1.3",
    ) -> None:
        self._behind = behind
        self._certificate, self._private_key, self._client_ca = certificate, private_key, client_ca
        self._protocols = protocols

    def __enter__(self) -> NginxFront:
        ports = free_ports(2)
        self.http_endpoint, self.grpc_endpoint = (f"https://127.0.0.1:{port}" for port in ports)
        self._start(self._configuration(*ports), ports)
        return self

    @property
    def requests(self) -> list[FrontRequest]:
        """How the requests so far came in, refused ones included, in their order."""
        path = Path(self._folder.name, "access.log")
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [
            FrontRequest(protocol, verified, serial)
            for protocol, *words, serial in (line.split() for line in lines)
            for verified in (" ".join(words),)
        ]

    def wait_for_requests(self, count: int, timeout_s: float = 10.0) -> list[FrontRequest]:
        """Wait until `count` requests are in its log, which it writes after it has answered, and return all.

        Raises:
            TimeoutError: If there are fewer after `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        while len(found := self.requests) < count:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"expected {count} requests within {timeout_s:g} s, got {len(found)}")
            time.sleep(_POLL_S)
        return found

    def _configuration(self, http_port: int, grpc_port: int) -> str:
        client = (
            f'ssl_verify_client on; ssl_client_certificate "{self._client_ca}";' if self._client_ca else ""
        )
        return _FRONT.format(
            folders=_FOLDERS,
            certificate=self._certificate,
            private_key=self._private_key,
            protocols=self._protocols,
            client=client,
            http_port=http_port,
            grpc_port=grpc_port,
            http_endpoint=self._behind.http_endpoint,
            grpc_address=self._behind.grpc_endpoint.partition("://")[2],
        )


@final
class NginxProxy(_Nginx):
    """Runs the real nginx on loopback as a proxy before an application; a context manager.

    Args:
        behind: Address of the application, such as `http://127.0.0.1:8000`.
        directives: What its `location` says beside `proxy_pass`, such as `proxy_set_header traceparent "";`.

    Raises:
        NginxNotInstalled: On entering, if the program is missing.
        RuntimeError: On entering, if it does not start; with the end of its log.
    """

    def __init__(self, behind: str, *, directives: str = "") -> None:
        self._behind = behind
        self._directives = directives

    def __enter__(self) -> NginxProxy:
        ports = free_ports(1)
        self.url = f"http://127.0.0.1:{ports[0]}"
        configuration = _PROXY.format(
            folders=_FOLDERS, port=ports[0], behind=self._behind, directives=self._directives
        )
        self._start(configuration, ports)
        return self


def nginx_program() -> str:
    """Where the program lies.

    Raises:
        NginxNotInstalled: If it is missing.
    """
    found = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_FOLDERS}")
    if found is None:
        raise NginxNotInstalled(
            "nginx is not installed; Debian and Ubuntu have it in the package: nginx-light"
        )
    return found
