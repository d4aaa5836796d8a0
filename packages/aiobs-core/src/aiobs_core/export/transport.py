"""How OTLP requests of spans travel: over HTTP or gRPC, and what the receiver's answer means for them.

The official exporters retry, log and give up by themselves and tell their caller only that they failed. What may be sent
again, when, and in what size is what the outbox has to know. The rules are those of
https://opentelemetry.io/docs/specs/otlp/.
"""

from __future__ import annotations

import gzip
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from aiobs_core._errors import AiobsError
from aiobs_core._version import __version__
from aiobs_core.export.otlp import _DEFAULT_GRPC, _session, import_ahead, protocol_for, signal_url
from aiobs_core.export.otlp import _variable as variable

if TYPE_CHECKING:
    from aiobs_core._settings import Settings

_DEFAULT_TIMEOUT_S: Final = 10.0
_MAX_ANSWER_BYTES: Final = 65_536
_AGAIN_STATUS: Final = frozenset({429, 502, 503, 504})
_AGAIN_CODES: Final = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)
_RESPONSE: Final = "opentelemetry.proto.collector.trace.v1.trace_service_pb2"
_RETRY_INFO: Final = "google.rpc.retryinfo-bin"
_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_USER_AGENT: Final = f"aiobs/{__version__}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a request.

    Attributes:
        verdict: `sent`; `again`: the same, later; `split`: too large, in halves; `refused`: it must not be sent again.
        why: Class or status, to be logged: nothing of endpoint, headers or content.
        rejected: Of a request that was sent: spans that the receiver did not take.
        after_s: Seconds that the receiver wants to be left alone.
        may_have_arrived: Of `again`: whether the receiver may have taken the spans although it did not say so.
    """

    verdict: Literal["sent", "again", "split", "refused"]
    why: str = ""
    rejected: int = 0
    after_s: float = 0.0
    may_have_arrived: bool = False


class Transport(Protocol):
    """Takes requests to the receiver; used by one thread."""

    def send(self, request: bytes) -> Answer:
        """Send an `ExportTraceServiceRequest`; raises nothing that it knows of."""

    def close(self) -> None:
        """Close connections; may be called by another thread, to end a `send`."""


def open_transport(settings: Settings, *, environ: Mapping[str, str] | None = None) -> Transport:
    """Open the transport that the settings ask for; it connects with its first request.

    Raises:
        AiobsError: If a package is missing.
    """
    environ = os.environ if environ is None else environ  # noqa: TID251 (a default; tests pass their own)
    protocol = protocol_for(settings.otlp_endpoint, settings.otlp_protocol)
    over = "grpc" if protocol == "grpc" else "http"
    try:
        for module in ("google.protobuf.message", "google.rpc.error_details_pb2", _RESPONSE):
            import_module(module)  # what answers are read with: a fork must not fall into that
        return (open_grpc if over == "grpc" else open_http)(settings.otlp_endpoint, environ)
    except ImportError as error:
        package = f"opentelemetry-exporter-otlp-proto-{over}"
        raise AiobsError(
            f"OTLP over {protocol} needs the package {package}, which cannot be imported ({error.name}): "
            f"pip install {package}"
        ) from error


def open_http(endpoint: str, environ: Mapping[str, str]) -> Transport:
    """A transport over HTTP."""
    import_ahead()
    url = signal_url("traces", endpoint, environ=environ)
    return HttpTransport(
        make_session(url, environ),
        url,
        headers=_headers(environ),
        timeout_s=_timeout_s(environ),
        compression=variable("traces", "COMPRESSION", environ).lower(),
        verify=variable("traces", "CERTIFICATE", environ) or True,
        certificate=_client_certificate(environ),
    )


def open_grpc(endpoint: str, environ: Mapping[str, str]) -> Transport:
    """A transport over gRPC."""
    channel = make_channel(endpoint or _DEFAULT_GRPC, environ)
    return GrpcTransport(channel, headers=_headers(environ), timeout_s=_timeout_s(environ))


# --- connections: where transport security is decided -------------------------------------------------------------
def make_session(url: str, environ: Mapping[str, str]) -> Any:
    """The session of HTTP requests: the credential provider's, one that trusts the variables' CA alone, or a plain one."""
    import requests

    provided = _provided("HTTP", environ)
    return provided or _session("traces", url, environ) or requests.Session()


def make_channel(endpoint: str, environ: Mapping[str, str]) -> Any:
    """The channel of gRPC requests."""
    import grpc

    by_name = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
    compression = by_name.get(
        variable("traces", "COMPRESSION", environ).lower(), grpc.Compression.NoCompression
    )
    options = (
        ("grpc.primary_user_agent", _USER_AGENT),
        ("grpc.enable_retries", 0),  # they would not be counted
        ("grpc.max_reconnect_backoff_ms", 2_000),  # it is the outbox that waits
    )
    parts = urlsplit(endpoint)
    target = parts.netloc or endpoint
    insecure = variable(
        "traces", "INSECURE", environ
    ).lower()  # for endpoints without a scheme, such as "collector:4317"
    if parts.scheme != "https" and (parts.scheme == "http" or insecure == "true"):
        return grpc.insecure_channel(target, options=options, compression=compression)
    return grpc.secure_channel(target, make_credentials(environ), options=options, compression=compression)


def make_credentials(environ: Mapping[str, str]) -> Any:
    """The credentials of a gRPC channel over TLS."""
    import grpc

    files = [
        variable("traces", name, environ) for name in ("CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
    ]
    ca, key, certificate = (Path(file).read_bytes() if file else None for file in files)
    return _provided("GRPC", environ) or grpc.ssl_channel_credentials(ca, key, certificate)


def _provided(over: str, environ: Mapping[str, str]) -> Any:
    """What the user's credential provider makes, if one is named; as the official exporters do it."""
    names = [f"OTEL_PYTHON_EXPORTER_OTLP_{over}_{signal}CREDENTIAL_PROVIDER" for signal in ("TRACES_", "")]
    name = next((environ[each] for each in names if environ.get(each)), "")
    if not name:
        return None
    found = tuple(metadata.entry_points(group="opentelemetry_otlp_credential_provider", name=name))
    if not found:
        raise AiobsError(
            f"there is no credential provider named {name!r}: install its package, or unset {names[0]}"
        )
    return found[0].load()()


class HttpTransport:
    """OTLP over HTTP, as protobuf."""

    def __init__(
        self,
        session: Any,
        url: str,
        *,
        headers: Mapping[str, str],
        timeout_s: float,
        compression: str,
        verify: bool | str,
        certificate: str | tuple[str, str] | None,
    ) -> None:
        self._session = session
        self._url = url
        self._timeout_s = timeout_s
        self._compress: Callable[[bytes], bytes] | None = _COMPRESSIONS.get(compression)
        self._headers = {"content-type": "application/x-protobuf", "user-agent": _USER_AGENT, **headers}
        if self._compress is not None:
            self._headers["content-encoding"] = compression
        self._tls = {"verify": verify, "cert": certificate}

    def send(self, request: bytes) -> Answer:
        import requests

        body = request if self._compress is None else self._compress(request)
        try:
            # Not followed: a redirect would turn the POST into a GET, or take secret headers to another host.
            with self._session.post(
                self._url,
                data=body,
                headers=self._headers,
                timeout=self._timeout_s,
                allow_redirects=False,
                stream=True,
                **self._tls,
            ) as response:
                return _of_status(response, _body_of(response, self._timeout_s))
        except requests.RequestException as error:
            return Answer(verdict="again", why=_class_of(error), may_have_arrived=not _never_connected(error))
        except OSError as error:  # a certificate file that is not there
            return Answer(verdict="again", why=type(error).__name__)

    def close(self) -> None:
        self._session.close()


def _body_of(response: Any, timeout_s: float) -> bytes:
    """The answer's body, as far as it is of interest and comes in time."""
    deadline_s = time.monotonic() + timeout_s
    body = b""
    for chunk in response.iter_content(4_096):
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES or time.monotonic() > deadline_s:
            break
    return body


def _of_status(response: Any, body: bytes) -> Answer:
    status = int(response.status_code)
    why = f"HTTP status {status}"
    if 200 <= status < 300:
        rejected = _rejected_in(body)
        if rejected is None:
            # The status counts: some backends answer in JSON or with text, and would get all spans for ever.
            return Answer(verdict="sent", why="an answer that is no OTLP")
        return Answer(verdict="sent", rejected=rejected)
    if status in _AGAIN_STATUS:
        return Answer(
            verdict="again", why=why, after_s=_retry_after_s(response.headers.get("Retry-After", ""))
        )
    if status == 413:
        return Answer(verdict="split", why=why)
    if 300 <= status < 400:
        return Answer(verdict="again", why=f"{why}: redirects are not followed")
    return Answer(verdict="refused", why=why)


def _rejected_in(body: bytes) -> int | None:
    """Spans that an `ExportTraceServiceResponse` says were not taken; None if it is none."""
    if not body:
        return 0
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        return max(0, int(ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans))
    except (DecodeError, UnicodeDecodeError):
        return None


def _retry_after_s(value: str) -> float:
    """Seconds in a `Retry-After`, which is a number or a date."""
    value = value.strip()
    if value.isdigit():
        return float(min(int(value[:9]), 3_600))
    try:
        return min(max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0), 3_600.0)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _never_connected(error: Exception) -> bool:
    import requests

    if isinstance(
        error, (requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError)
    ):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.ConnectionError) and type(reason).__name__ in {
        "NewConnectionError",
        "NameResolutionError",
        "ConnectTimeoutError",
    }


def _class_of(error: BaseException) -> str:
    """The class of the error below requests' own: its message may hold the endpoint."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return type(reason).__name__ if isinstance(reason, BaseException) else type(error).__name__


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=6, mtime=0)


def _deflate(body: bytes) -> bytes:
    return zlib.compress(body)


_COMPRESSIONS: Final[Mapping[str, Callable[[bytes], bytes]]] = {"gzip": _gzip, "deflate": _deflate}


class GrpcTransport:
    """OTLP over gRPC."""

    def __init__(self, channel: Any, *, headers: Mapping[str, str], timeout_s: float) -> None:
        self._channel = channel
        self._call = channel.unary_unary(_EXPORT)  # without serializers: bytes in, bytes out
        self._metadata = tuple((name.lower(), value) for name, value in headers.items())
        self._timeout_s = timeout_s

    def send(self, request: bytes) -> Answer:
        import grpc

        try:
            body = self._call(request, timeout=self._timeout_s, metadata=self._metadata)
        except grpc.RpcError as error:
            return _of_rpc(error)
        except ValueError:  # the channel was closed by a shutdown that did not wait any longer
            return Answer(verdict="again", why="closed")
        rejected = _rejected_in(body)
        if rejected is None:
            return Answer(verdict="sent", why="an answer that is no OTLP")
        return Answer(verdict="sent", rejected=rejected)

    def close(self) -> None:
        self._channel.close()


def _of_rpc(error: Any) -> Answer:
    code = error.code().name
    why = f"gRPC status {code}"
    details = str(error.details() or "")
    if code == "RESOURCE_EXHAUSTED":
        wanted_s = _retry_info_s(error.trailing_metadata() or ())
        if wanted_s is not None:  # the specification: to be sent again only if the receiver says when
            return Answer(verdict="again", why=why, after_s=wanted_s)
        return Answer(verdict="split" if "larger than max" in details else "refused", why=why)
    if code not in _AGAIN_CODES:
        return Answer(verdict="refused", why=why)
    return Answer(
        verdict="again",
        why=why,
        after_s=_retry_info_s(error.trailing_metadata() or ()) or 0.0,
        may_have_arrived=code != "UNAVAILABLE" or "connect" not in details.lower(),
    )


def _retry_info_s(metadata: Any) -> float | None:
    found = next((value for key, value in metadata if key == _RETRY_INFO), None)
    if found is None:
        return None
    from google.protobuf.message import DecodeError
    from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]

    try:
        delay = RetryInfo.FromString(found).retry_delay
    except (DecodeError, TypeError):
        return None
    return float(min(max(delay.seconds + delay.nanos / 1e9, 0.0), 3_600.0))


# --- what the variables say ---------------------------------------------------------------------------------------
def _headers(environ: Mapping[str, str]) -> dict[str, str]:
    from opentelemetry.util.re import parse_env_headers

    return dict(parse_env_headers(variable("traces", "HEADERS", environ), liberal=True))


def _timeout_s(environ: Mapping[str, str]) -> float:
    try:
        given_s = float(variable("traces", "TIMEOUT", environ) or _DEFAULT_TIMEOUT_S)
    except ValueError:
        return _DEFAULT_TIMEOUT_S
    return given_s if 0 < given_s < 3_600 else _DEFAULT_TIMEOUT_S


def _client_certificate(environ: Mapping[str, str]) -> str | tuple[str, str] | None:
    certificate = variable("traces", "CLIENT_CERTIFICATE", environ)
    key = variable("traces", "CLIENT_KEY", environ)
    return (certificate, key) if certificate and key else certificate or None
