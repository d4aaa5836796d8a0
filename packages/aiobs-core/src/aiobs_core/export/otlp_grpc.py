"""The official gRPC exporters, opened anew when certificates or headers change, and only to receivers that may be used."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from aiobs_core._errors import AiobsError
from aiobs_core.export.headers import HeaderSource
from aiobs_core.export.tls import ClientTls
from aiobs_core.export.tls_refusal import TlsRefused

_DEFAULT_PORT: Final = 443
_HANDSHAKE_S: Final = 3.0
_PROXIES: Final = ("grpc_proxy", "https_proxy", "http_proxy")  # the order of gRPC


class Target(NamedTuple):
    """Where a channel leads.

    Attributes:
        proxy: The HTTP proxy that gRPC goes through, as the environment says; empty: none.
    """

    host: str
    port: int
    is_secure: bool
    proxy: str


class FreshGrpcExporter:
    """Exports through an official exporter that has the certificates and headers of now.

    gRPC for Python can be told no lowest version of TLS. So one handshake of our own, with that version and the same
    certificates, goes before each channel, and before the next export after one that failed. A receiver that passes it
    is not talked into an older version by anybody between: TLS 1.3 has a mark against that (RFC 8446, section 4.1.3).

    Args:
        make: Opens the exporter with `credentials` and `headers`.
        target: Of the receiver.
        tls: Its certificates; None where it is not secure.
        source: Of headers.
        timeout_s: Of one export, that of a receiver to come up included.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        *,
        target: Target,
        tls: ClientTls | None,
        source: HeaderSource,
        timeout_s: float,
    ) -> None:
        self._make = make
        self._target = target
        self._tls = tls
        self._source = source
        self._timeout_s = timeout_s
        self._closing = threading.Event()
        self._is_checked = False
        self._exporter: Any = None
        self._made_with: tuple[int, Mapping[str, str]] | None = None
        self._open_exporter(self._wanted())  # what cannot work at all is said now

    def export(self, batch: Any) -> Any:
        """Export as the official one does.

        Raises:
            TlsRefused: If the receiver may not be used.
            AiobsError: If certificates cannot be used.
            OSError: If there was no connection within `timeout_s`.
        """
        if self._closing.is_set():
            raise AiobsError("the exporter is shut down")
        wanted = self._wanted()
        if self._exporter is None or wanted != self._made_with:
            self._close_exporter()
            self._check()
            self._open_exporter(wanted)
        elif self._tls is not None and not self._is_checked:
            self._check()
        exporter = self._exporter
        if exporter is None:  # shut down meanwhile, by another thread
            raise AiobsError("the exporter was shut down")
        result = exporter.export(batch)
        if result.name != "SUCCESS":
            self._is_checked = False
            self._explain()
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 (nothing is held back)
        return True

    def shutdown(self) -> None:
        self._closing.set()
        self._close_exporter()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _explain(self) -> None:
        """Say why, if it is for the certificate: the official exporter knows only that there was no good answer."""
        if self._tls is None or not self._target.host or self._closing.is_set():
            return
        host, port, _, proxy = self._target
        try:
            self._tls.check_receiver(host, port, timeout_s=1.0, proxy=proxy, has_failed=True)
        except (AiobsError, OSError):
            self._is_checked = False
        else:
            self._is_checked = True

    def _wanted(self) -> tuple[int, Mapping[str, str]]:
        return (0 if self._tls is None else self._tls.version), self._source.headers()

    def _open_exporter(self, wanted: tuple[int, Mapping[str, str]]) -> None:
        credentials = None if self._tls is None else self._tls.grpc_credentials()
        headers = tuple(wanted[1].items())
        self._exporter = self._make(
            credentials=credentials, headers=headers or None, insecure=not self._target.is_secure
        )
        self._made_with = wanted

    def _check(self) -> None:
        """Wait for a receiver that may be used, as the official exporter waits for one at all."""
        if self._tls is None or not self._target.host:
            return
        host, port, _, proxy = self._target
        deadline_s = time.monotonic() + self._timeout_s
        pause_s = 1.0
        while True:
            left_s = deadline_s - time.monotonic()
            try:
                self._tls.check_receiver(
                    host, port, timeout_s=min(max(left_s, 0.1), _HANDSHAKE_S), proxy=proxy
                )
            except TlsRefused:
                raise
            except OSError:
                if left_s <= pause_s or self._closing.wait(pause_s * random.uniform(0.8, 1.2)):
                    raise
                pause_s *= 2
            else:
                self._is_checked = True
                return

    def _close_exporter(self) -> None:
        exporter, self._exporter = self._exporter, None
        self._is_checked = False
        if exporter is not None:
            exporter.shutdown()


def grpc_target(signal: str, endpoint: str, environ: Mapping[str, str]) -> Target:
    """What an endpoint means for gRPC; secure is as the official exporters decide it.

    Raises:
        AiobsError: If its port is no number.
    """
    split = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    try:
        host, port = split.hostname or "", split.port or _DEFAULT_PORT
    except ValueError:
        raise AiobsError("the port of the OTLP endpoint is not a number from 0 to 65535") from None
    variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE")
    insecure = next((environ[each].strip().lower() for each in variables if environ.get(each)), "")
    is_secure = split.scheme == "https" or (
        insecure != "true" if insecure else split.scheme not in {"http", "unix"}
    )
    return Target(host, port, is_secure, _proxy_for(host, environ))


def _proxy_for(host: str, environ: Mapping[str, str]) -> str:
    listed = environ.get("no_grpc_proxy") or environ.get("no_proxy") or ""
    if any(_is_meant(host, each.strip()) for each in listed.split(",")):
        return ""
    return next((environ[each] for each in _PROXIES if environ.get(each)), "")


def _is_meant(host: str, listed: str) -> bool:
    """Whether an entry of `no_proxy` names a host: by its domain, or the block of its address."""
    if "/" not in listed:
        return bool(listed) and (listed == "*" or f".{host}".endswith(f".{listed.lstrip('.')}"))
    try:
        return ip_address(host) in ip_network(listed, strict=False)
    except ValueError:
        return False
