"""TLS of OTLP connections: certificates that are read again when they change, and a lowest version, for HTTP and gRPC."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiobs_core._errors import AiobsError
from aiobs_core._reloaded import Reloaded
from aiobs_core.export.tls_refusal import (
    TlsRefused,
    ask_front,
    is_broken_off,
    refusal_of,
    tls_error_in,
    try_handshake,
)

if TYPE_CHECKING:
    import grpc
    from requests.adapters import HTTPAdapter

    from aiobs_core._health import Health

VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_MAX_HOLD_S: Final = 5.0
UNUSABLE: Final = "the certificates for OTLP cannot be used"


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The PEM files of a connection; an empty name is none.

    Attributes:
        ca: Authority of the receiver's certificate; a folder of them, too, for HTTP only.
        certificate: The client's own certificate, followed by those between it and its authority.
        key: Its key; empty where it is in the file of the certificate.
        key_password: File with the password of the key; for HTTP only.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""
    key_password: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    context: ssl.SSLContext
    ca_pem: bytes | None
    certificate_pem: bytes | None
    key_pem: bytes | None = field(repr=False)


class ClientTls:
    """What a client needs to open TLS connections, always of one version of the files. For one thread at a time.

    `session_adapter` and `connect` keep to it by themselves: connections of older certificates are closed once newer
    ones can be used.

    Args:
        files: What is read.
        minimum: Lowest version of TLS: `1.3` or `1.2`.
        over_grpc: Whether the connections are those of gRPC, else of HTTP/1.1.
        health: Told once of certificates that cannot be used, and of each way to be refused.
        signal: What is sent, for messages.
        clock: Seconds from any instant on.
    """

    def __init__(
        self,
        files: TlsFiles,
        *,
        minimum: str,
        over_grpc: bool,
        health: Health,
        signal: str = "traces",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._minimum = minimum
        self._over_grpc = over_grpc
        self._health = health
        self._signal = signal
        self._clock = clock
        self._refused: TlsRefused | None = None
        self._refused_version = 0
        self._hold_until_s = 0.0
        self._hold_s = 1.0
        paths = (files.ca, files.certificate, files.key, files.key_password)
        self._loaded = Reloaded(paths, self._load, unusable=self._unusable, clock=clock)

    @property
    def version(self) -> int:
        """Grows when certificates have changed; looks at the files, at most once a second."""
        self.context()
        return self._loaded.version

    def context(self) -> ssl.SSLContext:
        """For Python's own connections; another object after each change.

        Raises:
            AiobsError: If the files cannot be used and never could.
        """
        return self._get().context

    def grpc_credentials(self) -> grpc.ChannelCredentials:
        """For a channel of gRPC, with the same certificates. gRPC takes no lowest version: see `check_receiver`.

        Raises:
            AiobsError: As `context` does.
        """
        import grpc

        loaded = self._get()
        return grpc.ssl_channel_credentials(loaded.ca_pem, loaded.key_pem, loaded.certificate_pem)

    def session_adapter(self) -> HTTPAdapter:
        """An adapter to mount in a `requests.Session` under `https://`; what `verify` and `cert` say is not heard.

        Raises:
            AiobsError: As `context` does.
        """
        from aiobs_core.export.tls_session import TlsAdapter

        return TlsAdapter(self)

    def check_receiver(
        self, host: str, port: int, *, timeout_s: float, proxy: str = "", has_failed: bool = False
    ) -> None:
        """Make one handshake with the lowest version, before a gRPC channel is opened and after it failed.

        A refusal is told once per kind. It is also remembered for some seconds (1, 2, 4, then 5), or until certificates
        change: so that a receiver is not asked with every batch.

        Args:
            host: Of the receiver.
            port: The same.
            timeout_s: For connecting, and for the handshake.
            proxy: URL of an HTTP proxy that leads there.
            has_failed: What was sent last was not taken: also ask for what a front such as nginx says of the certificate.

        Raises:
            TlsRefused: If either side refused the other.
            AiobsError: As `context` does.
            OSError: If there is no connection at all.
        """
        version, context = self.version, self.context()
        held = self._refused if self._refused_version == version else None
        if held is not None and self._clock() < self._hold_until_s:
            raise TlsRefused(held.refusal)
        try:
            self._try_handshake(context, host, port, timeout_s=timeout_s, proxy=proxy)
            if has_failed and self._over_grpc:
                ask_front(context, host, port, timeout_s=timeout_s, proxy=proxy)
        except TlsRefused as refused:
            self._hold(refused, version)
            self.tell(refused)
            raise
        self._refused, self._hold_s = None, 1.0

    def _try_handshake(
        self, context: ssl.SSLContext, host: str, port: int, *, timeout_s: float, proxy: str
    ) -> None:
        try_handshake(
            context,
            host,
            port,
            minimum=self._minimum,
            timeout_s=timeout_s,
            over_grpc=self._over_grpc,
            has_certificate=bool(self._files.certificate),
            proxy=proxy,
        )

    def _hold(self, refused: TlsRefused, version: int) -> None:
        self._refused, self._refused_version = refused, version
        self._hold_until_s = self._clock() + self._hold_s
        self._hold_s = min(self._hold_s * 2, _MAX_HOLD_S)

    def explain(self, error: BaseException, *, host: str, port: int) -> TlsRefused | None:
        """Tell why a connection over HTTP has failed, if it was for TLS; also looks at the files again, next time."""
        self._loaded.look_again()
        of_tls = tls_error_in(error)
        if of_tls is not None:
            refused = TlsRefused(refusal_of(of_tls, minimum=self._minimum))
            self.tell(refused)
            return refused
        if not is_broken_off(error):
            return None
        # What a TLS 1.3 receiver says of our certificate is lost where it closes the connection before we have sent all.
        try:
            self.check_receiver(host, port, timeout_s=1.0)
        except TlsRefused as refused:
            return refused
        except (AiobsError, OSError):
            return None
        return None

    def tell(self, refused: TlsRefused) -> None:
        """Count a refusal, and warn of the first of its kind."""
        self._loaded.look_again()
        self._health.problem(
            f"otlp.tls.{refused.refusal.kind}",
            f"aiobs: {self._signal} cannot be sent over OTLP: {refused}. The certificates are looked at again with what is "
            "sent next.",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._signal})"

    # --- inside -----------------------------------------------------------------------------------------------------

    def _get(self) -> _Loaded:
        try:
            return self._loaded.get()
        except (OSError, ValueError) as error:
            raise AiobsError(f"{UNUSABLE} ({reason_of(error)})") from error

    def _load(self) -> _Loaded:
        files = self._files
        password = (
            Path(files.key_password).expanduser().read_text("utf-8").strip() if files.key_password else ""
        )
        if password and self._over_grpc:
            raise ValueError(
                "gRPC takes no key with a password: use a key without, or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
            )
        if files.key and not files.certificate:
            raise ValueError("a client key without its certificate")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = VERSIONS[self._minimum]
        context.set_alpn_protocols(["h2" if self._over_grpc else "http/1.1"])
        ca_pem = None if _path(files.ca).is_dir() else _read(files.ca)
        if ca_pem is None and self._over_grpc:  # it would take the authorities known publicly
            raise ValueError("gRPC takes the CA as a file, not as a folder")
        if ca_pem is None:
            context.load_verify_locations(capath=_path(files.ca))
        else:
            context.load_verify_locations(cadata=ca_pem.decode("ascii", "ignore"))
        if files.certificate:
            load_pair(context, files.certificate, files.key, password=password)
        return _Loaded(
            context=context,
            ca_pem=ca_pem,
            certificate_pem=_read(files.certificate) if files.certificate else None,
            key_pem=_read(files.key or files.certificate) if files.certificate else None,
        )

    def _unusable(self, error: Exception) -> None:
        self._health.problem(
            "otlp.tls.unusable",
            f"aiobs: the certificates for OTLP have changed and cannot be used ({reason_of(error)}); going on with those "
            "known before, and looking again each second.",
        )


def load_pair(context: ssl.SSLContext, certificate: str, key: str, *, password: str | None = "") -> None:
    """Load a certificate and its key, which may be in the same file: then `key` is empty.

    Raises:
        OSError: If a file cannot be read; with its name.
        ssl.SSLError: If they are no pair, or the password is another.
    """
    pair = readable(certificate), readable(key) if key else None
    # With an empty password: with None, OpenSSL asks the terminal for that of an encrypted key, and waits.
    context.load_cert_chain(*pair, password=password)


def readable(name: str) -> Path:
    """A file that can be opened now: OpenSSL's errors do not name the one that cannot.

    Raises:
        OSError: If it cannot; with its name.
    """
    path = _path(name)
    with path.open("rb"):
        return path


def reason_of(error: Exception) -> str:
    """What is wrong with a file, without anything that is in it."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or type(error).__name__).lower().replace("_", " ")
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename}" if error.filename else str(error.strerror or error)
    return type(error).__name__ if isinstance(error, UnicodeError) else str(error)


def _path(name: str) -> Path:
    return Path(name).expanduser()


def _read(name: str) -> bytes:
    return _path(name).read_bytes()


def files_of(signal: str, environ: Mapping[str, str], *, over_grpc: bool, key_password: str = "") -> TlsFiles:
    """The files that OpenTelemetry's variables name, those of the signal first; without a CA, those known publicly.

    For HTTP these are of REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE where set: company proxies need that. They do not win over
    OTEL_EXPORTER_OTLP_CERTIFICATE.
    """

    def named(name: str) -> str:
        variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}")
        return next((environ[each].strip() for each in variables if environ.get(each, "").strip()), "")

    return TlsFiles(
        ca=named("CERTIFICATE") or _public_authorities(environ, over_grpc=over_grpc),
        certificate=named("CLIENT_CERTIFICATE"),
        key=named("CLIENT_KEY"),
        key_password=key_password,
    )


def _public_authorities(environ: Mapping[str, str], *, over_grpc: bool) -> str:
    variables = (
        ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",) if over_grpc else ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    )
    chosen = next((environ[each] for each in variables if environ.get(each)), "")
    if chosen:
        return chosen
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    return DEFAULT_CA_BUNDLE_PATH
