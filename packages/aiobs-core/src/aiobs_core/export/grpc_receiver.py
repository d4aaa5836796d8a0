"""The receiver behind a gRPC channel: where it is, and whether it may be used."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import urlsplit

from aiobs_core._errors import AiobsError
from aiobs_core.export.tls_refusal import TlsRefused

if TYPE_CHECKING:
    from aiobs_core.export.tls import ClientTls

_DEFAULT_PORT: Final = 443
_EXPLAIN_S: Final = 1.0
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


class GrpcReceiver:
    """Makes sure that a receiver may be used, before each channel to it, and again after something failed.

    gRPC for Python can be told no lowest version of TLS. So one handshake of our own, with that version and the same
    certificates, goes before each channel, and before the next export after one that failed. A receiver that passes it
    is not talked into an older version by anybody between: TLS 1.3 has a mark against that (RFC 8446, section 4.1.3).

    Args:
        target: Where it is.
        tls: Its certificates; None where it is not secure, or where a credential provider of the user's sees to that.
    """

    def __init__(self, target: Target, tls: ClientTls | None) -> None:
        self._target = target
        self._tls = tls
        self._is_checked = False

    @property
    def is_secure(self) -> bool:
        """Whether TLS is used."""
        return self._target.is_secure

    @property
    def certificates_version(self) -> int:
        """Grows when certificates have changed: then a channel is too old."""
        return 0 if self._tls is None else self._tls.version

    def credentials(self) -> Any:
        """Those of a channel; None where it is not secure.

        Raises:
            AiobsError: If certificates cannot be used.
        """
        return None if self._tls is None else self._tls.grpc_credentials()

    def check(self, timeout_s: float) -> None:
        """Make the handshake, unless nothing has failed since the last one.

        Raises:
            TlsRefused: If either side refused the other.
            AiobsError: If certificates cannot be used.
            OSError: If there is no connection within `timeout_s`.
        """
        if self._tls is None or not self._target.host or self._is_checked:
            return
        host, port, _, proxy = self._target
        self._tls.check_receiver(host, port, timeout_s=timeout_s, proxy=proxy)
        self._is_checked = True

    def check_again(self) -> None:
        """Whatever was found holds no longer: there is a new channel."""
        self._is_checked = False

    def explain_failure(self) -> TlsRefused | None:
        """Find out whether it was for the certificates; gRPC knows only that there was no good answer.

        Returns:
            Why they were refused, which is told, too; None if it was for something else.
        """
        self._is_checked = False
        if self._tls is None or not self._target.host:
            return None
        host, port, _, proxy = self._target
        try:
            self._tls.check_receiver(host, port, timeout_s=_EXPLAIN_S, proxy=proxy, has_failed=True)
        except TlsRefused as refused:
            return refused
        except (AiobsError, OSError):  # nothing can be found out now; checked before the next one
            return None
        self._is_checked = True
        return None


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
