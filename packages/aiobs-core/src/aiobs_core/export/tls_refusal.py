"""Who refused a TLS connection, and why, in words; and a handshake made only to find that out."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from aiobs_core._errors import AiobsError

_HTTP2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_ALERT_WITHIN_S: Final = 1.0  # an HTTP/1.1 server that takes the certificate says nothing
_GRPC_ALERT_WITHIN_S: Final = 0.25
_MAX_DEPTH: Final = 16
_MAX_ANSWER_BYTES: Final = 4_096


class Refusal(NamedTuple):
    """Why there is no connection.

    Attributes:
        kind: One of few words, for a counter: `server_expired`, `protocol_version`, …
        reason: Which side refused what.
    """

    kind: str
    reason: str


class TlsRefused(AiobsError):
    """A TLS connection was refused by either side; the message says why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


# Of X.509 verification (`X509_V_ERR_*`), which is ours of the receiver's certificate.
_VERIFICATION: Final = {
    9: Refusal(
        "server_not_yet_valid",
        "aiobs refused the receiver: its certificate is not yet valid; are both clocks right?",
    ),
    10: Refusal("server_expired", "aiobs refused the receiver: its certificate has expired"),
    62: Refusal("server_name", "aiobs refused the receiver: its certificate is for another host name"),
    64: Refusal("server_name", "aiobs refused the receiver: its certificate is for another IP address"),
}
_UNKNOWN_AUTHORITY: Final = Refusal(
    "unknown_ca",
    "aiobs refused the receiver: its certificate is of an unknown CA, not of the one in OTEL_EXPORTER_OTLP_CERTIFICATE",
)
_UNKNOWN_AUTHORITY_CODES: Final = (2, 18, 19, 20, 21, 24)
_CLIENT_REQUIRED: Final = Refusal(
    "client_certificate_required",
    "the receiver refused aiobs: it requires a client certificate (OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and …_CLIENT_KEY)",
)
_CLOSED: Final = Refusal(
    "closed", "the receiver closed the connection in the middle of the TLS handshake, without an alert"
)
_CLOSED_WITHOUT: Final = Refusal(
    "client_certificate_required",
    "the receiver closed the connection after the TLS handshake, without an alert: it seems to require a client certificate "
    "(OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and …_CLIENT_KEY)",
)
_CLOSED_WITH_CERTIFICATE: Final = Refusal(
    "client_certificate",
    "the receiver closed the connection after the TLS handshake, without an alert: it seems to refuse the client certificate "
    "(expired, or of a CA unknown to it)",
)
_PROTOCOL: Final = (
    "no TLS version in common: the receiver does not speak what AIOBS_TLS_MIN_VERSION asks for, TLS {}"
)
# Of OpenSSL's names for errors, parts that have stayed the same from 1.1.1 to 3.x; the first that fits.
_REASONS: Final = (
    ("CERTIFICATE_REQUIRED", _CLIENT_REQUIRED),
    ("PEER_DID_NOT_RETURN", _CLIENT_REQUIRED),
    ("CERTIFICATE_EXPIRED", Refusal("client_expired", "the receiver refused aiobs: the client certificate has expired")),
    ("CERTIFICATE_REVOKED", Refusal("client_revoked", "the receiver refused aiobs: the client certificate is revoked")),
    ("UNKNOWN_CA", Refusal("client_unknown_ca", "the receiver refused aiobs: the client certificate is of a CA unknown to it")),
    ("WRONG_VERSION_NUMBER", Refusal("not_tls", "the receiver does not speak TLS on this port, or one older than TLS 1.2")),
    ("HTTP_REQUEST", Refusal("not_tls", "the receiver does not speak TLS on this port")),
)  # fmt: skip
_CLIENT_CERTIFICATE_REASONS: Final = ("BAD_CERTIFICATE", "CERTIFICATE_UNKNOWN", "DECRYPT_ERROR", "ACCESS_DENIED",
                                      "UNSUPPORTED_CERTIFICATE")  # fmt: skip
_VERSION_REASONS: Final = ("PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "NO_PROTOCOLS_AVAILABLE")


def refusal_of(error: ssl.SSLError, *, minimum: str) -> Refusal:
    """What an error of TLS means for who has to mend it.

    Args:
        error: As Python's `ssl` raised it.
        minimum: The lowest version of TLS that was offered, such as `1.3`.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _UNKNOWN_AUTHORITY_CODES:
            return _UNKNOWN_AUTHORITY
        other = Refusal(
            "server_certificate", f"aiobs refused the receiver's certificate: {error.verify_message}"
        )
        return _VERIFICATION.get(error.verify_code, other)
    reason = error.reason or ""
    if any(part in reason for part in _VERSION_REASONS):
        return Refusal("protocol_version", _PROTOCOL.format(minimum))
    for part, refusal in _REASONS:
        if part in reason:
            return refusal
    if any(part in reason for part in _CLIENT_CERTIFICATE_REASONS):
        return Refusal(
            "client_certificate", f"the receiver refused aiobs' client certificate ({reason.lower()})"
        )
    return Refusal("handshake", f"the TLS handshake failed ({reason.lower() or type(error).__name__})")


def tls_error_in(error: BaseException) -> ssl.SSLError | None:
    """The error of TLS that the errors of requests and urllib3 are wrapped around, if there is one."""
    for inner in _inside(error, _MAX_DEPTH):
        if isinstance(inner, ssl.SSLError) and not isinstance(
            inner, ssl.SSLEOFError
        ):  # an end that says nothing
            return inner
    return None


def is_broken_off(error: BaseException) -> bool:
    """Whether there was a connection, which the other side has ended before it answered."""
    return any(
        isinstance(
            each, (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError, http.client.RemoteDisconnected)
        )
        for each in _inside(error, _MAX_DEPTH)
    )


def _inside(error: BaseException, depth: int) -> Iterator[BaseException]:
    yield error
    if depth:
        inner = (*error.args, getattr(error, "reason", None), error.__cause__, error.__context__)
        for each in inner:
            if isinstance(each, BaseException) and each is not error:
                yield from _inside(each, depth // 2)


def try_handshake(
    context: ssl.SSLContext,
    host: str,
    port: int,
    *,
    minimum: str,
    timeout_s: float,
    over_grpc: bool,
    has_certificate: bool,
    proxy: str = "",
) -> None:
    """Connect, and wait until the receiver has taken our certificate too: in TLS 1.3 it says so after the handshake.

    Args:
        context: Certificates and versions, as for what is sent.
        host: Of the receiver.
        port: The same.
        minimum: For the message.
        timeout_s: For connecting, and for the handshake.
        over_grpc: The receiver speaks HTTP/2, in which it has to say something first.
        has_certificate: Whether `context` has one of a client, for the message.
        proxy: URL of an HTTP proxy that leads there.

    Raises:
        TlsRefused: If either side refused the other.
        OSError: If there is no connection at all.
    """
    with _connect(host, port, timeout_s, proxy) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=host) as tls:
                if _is_closed(tls, timeout_s=timeout_s, over_grpc=over_grpc):
                    raise TlsRefused(_CLOSED_WITH_CERTIFICATE if has_certificate else _CLOSED_WITHOUT)
        except ssl.SSLEOFError as error:
            raise TlsRefused(_CLOSED) from error
        except ssl.SSLError as error:
            raise TlsRefused(refusal_of(error, minimum=minimum)) from error


def refusal_in_answer(answer: bytes) -> Refusal | None:
    """Of a front that ends TLS, which takes any certificate in the handshake and refuses it in its answer, as nginx does."""
    if b"No required SSL certificate" in answer:
        return _CLIENT_REQUIRED
    if b"SSL certificate error" in answer:
        return Refusal(
            "client_certificate",
            "the receiver's front refused the client certificate: it has expired, or is of a CA unknown to it",
        )
    return None


def ask_front(context: ssl.SSLContext, host: str, port: int, *, timeout_s: float, proxy: str = "") -> None:
    """Ask a receiver that gRPC got no good answer from whether it refuses the client's certificate; quiet if it does not say.

    Args:
        context: As for what is sent; not in use by anybody else meanwhile.
        host: Of the receiver.
        port: The same.
        timeout_s: For connecting, and for the answer.
        proxy: URL of an HTTP proxy that leads there.

    Raises:
        TlsRefused: If it does.
    """
    context.set_alpn_protocols(["http/1.1"])
    try:
        with (
            _connect(host, port, timeout_s, proxy) as plain,
            context.wrap_socket(plain, server_hostname=host) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: receiver\r\nConnection: close\r\n\r\n")
            answer = b""
            while len(answer) < _MAX_ANSWER_BYTES and (more := tls.recv(_MAX_ANSWER_BYTES)):
                answer += more
    except OSError:  # it speaks HTTP/2 alone
        return
    finally:
        context.set_alpn_protocols(["h2"])
    refusal = refusal_in_answer(answer)
    if refusal is not None:
        raise TlsRefused(refusal)


def _is_closed(tls: ssl.SSLSocket, *, timeout_s: float, over_grpc: bool) -> bool:
    """Whether the receiver breaks off after the handshake; an alert is raised."""
    try:
        # First only listen: what is sent to a receiver that has closed resets the connection, and its alert is lost.
        tls.settimeout(min(timeout_s, _GRPC_ALERT_WITHIN_S if over_grpc else _ALERT_WITHIN_S))
        try:
            return not tls.recv(1)
        except TimeoutError:
            if not over_grpc:
                return False  # nobody has objected
        tls.settimeout(timeout_s)
        tls.sendall(_HTTP2_PREFACE)  # some servers wait for it before they say anything
        return not tls.recv(1)
    except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):  # gRPC's own server sends no alert
        return True


def _connect(host: str, port: int, timeout_s: float, proxy: str) -> socket.socket:
    if not proxy:
        return socket.create_connection((host, port), timeout=timeout_s)
    through = urlsplit(proxy if "://" in proxy else f"//{proxy}")
    if not through.hostname:
        raise OSError("the proxy in the environment is no address")
    connection: Any = http.client.HTTPConnection(through.hostname, through.port or 80, timeout=timeout_s)
    connection.set_tunnel(host, port)
    connection.connect()
    tunnel: socket.socket = connection.sock
    return tunnel
