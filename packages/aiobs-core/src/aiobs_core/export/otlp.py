"""The official OTLP exporters, chosen and opened from the settings: one for each signal."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import urlsplit

from aiobs_core._errors import AiobsError
from aiobs_core._health import Health
from aiobs_core.export.headers import HeaderSource, warn_of_clear_text

if TYPE_CHECKING:
    from aiobs_core._settings import Settings
    from aiobs_core.export.tls import ClientTls

Signal = Literal["traces", "metrics", "logs"]

_GRPC_PORT: Final = 4317
_DEFAULT_TIMEOUT_S: Final = 10.0
_MAX_TIMEOUT_S: Final = 3_600
DEFAULT_GRPC: Final = "http://localhost:4317"
_DEFAULT_HTTP: Final = "http://localhost:4318"
_EXPORTERS: Final = {
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
}
"""Module and class by signal; both protocols have the same. That of logs is private by its name, and has no other.

Spans are sent by `aiobs_core.export.transport`.
"""


def open_exporter(
    signal: Literal["metrics", "logs"],
    endpoint: str,
    protocol: str = "",
    *,
    environ: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    health: Health | None = None,
) -> object:
    """Open the OTLP exporter of a signal over gRPC or HTTP; it connects with its first export.

    Compression and timeout are the `OTEL_EXPORTER_OTLP_*` variables, which the official exporters read from the process's
    environment themselves. Headers and certificates are those variables, too, and what the settings add: see `headers_of`
    and `tls_of`.

    Args:
        signal: What it exports.
        endpoint: Receiver; empty: the protocol's default one.
        protocol: `grpc` or `http/protobuf`; empty: as the port says.
        environ: Variables that decide how the endpoint is meant; the process's own if None.
        settings: Of TLS and header secrets; the defaults if None.
        health: Told once of each way in which TLS is refused.

    Raises:
        AiobsError: If the exporter's package is not installed, or certificates cannot be used.
    """
    environ = os.environ if environ is None else environ  # noqa: TID251 (a default; tests pass their own)
    health = health or Health()
    is_grpc = protocol_for(endpoint, protocol) == "grpc"
    make = _exporter_class(signal, "grpc" if is_grpc else "http")
    if is_grpc:
        endpoint = endpoint or DEFAULT_GRPC
        make = partial(make, endpoint=endpoint, **_grpc_compression(signal, environ))
        return _over_grpc(signal, make, endpoint=endpoint, environ=environ, settings=settings, health=health)
    url = signal_url(signal, endpoint, environ=environ)
    return _over_http(signal, make, url=url, environ=environ, settings=settings, health=health)


def _over_http(
    signal: Signal,
    make: Callable[..., Any],
    *,
    url: str,
    environ: Mapping[str, str],
    settings: Settings | None,
    health: Health,
) -> object:
    source = headers_of(signal, environ, settings, health)
    split = urlsplit(url)
    warn_of_clear_text(health, source, is_secure=split.scheme == "https", host=split.hostname or "")
    if _has_credential_provider(signal, "HTTP", environ):
        return make(endpoint=url)  # a session of ours would replace the one that it makes
    from aiobs_core.export.tls_session import open_session

    import_ahead()
    tls = tls_of(signal, url, "http/protobuf", environ=environ, settings=settings, health=health)
    return make(endpoint=url, session=open_session(url, tls, source))


def _exporter_class(signal: Signal, over: str) -> Callable[..., Any]:
    module, name = _EXPORTERS[signal]
    try:
        found: Callable[..., Any] = getattr(
            import_module(f"opentelemetry.exporter.otlp.proto.{over}.{module}"), name
        )
    except ImportError as error:
        package = f"opentelemetry-exporter-otlp-proto-{over}"
        raise AiobsError(
            f"OTLP over {over} needs the package {package}, which cannot be imported ({error.name}): "
            f"pip install {package}"
        ) from error

    def make(**options: Any) -> Any:
        # Headers that are not well-formed are told by `headers_of`; OpenTelemetry would log them, secrets and all.
        parser = logging.getLogger("opentelemetry.util.re")
        parser.addFilter(_never)
        try:
            return found(**options)
        finally:
            parser.removeFilter(_never)

    return make


def _never(_: logging.LogRecord) -> bool:
    return False


def _over_grpc(
    signal: Signal,
    make: Callable[..., Any],
    *,
    endpoint: str,
    environ: Mapping[str, str],
    settings: Settings | None,
    health: Health,
) -> object:
    from aiobs_core.export.grpc_receiver import GrpcReceiver, grpc_target
    from aiobs_core.export.otlp_grpc import FreshGrpcExporter

    source = headers_of(signal, environ, settings, health)
    if _has_credential_provider(signal, "GRPC", environ):
        return make()
    target = grpc_target(signal, endpoint, environ)
    warn_of_clear_text(health, source, is_secure=target.is_secure, host=target.host)
    tls = tls_of(signal, endpoint, "grpc", environ=environ, settings=settings, health=health)
    return FreshGrpcExporter(
        make,
        receiver=GrpcReceiver(target, tls),
        source=source,
        timeout_s=timeout_s(signal, environ),
    )


def tls_of(
    signal: Signal,
    endpoint: str,
    protocol: str,
    *,
    environ: Mapping[str, str],
    settings: Settings | None,
    health: Health,
) -> ClientTls | None:
    """The certificates for a receiver, or None where TLS is not used, or a credential provider of the user's is.

    Raises:
        AiobsError: If the port of a gRPC endpoint is no number.
    """
    from aiobs_core.export.grpc_receiver import grpc_target
    from aiobs_core.export.tls import ClientTls, files_of

    over_grpc = protocol == "grpc"
    if _has_credential_provider(signal, "GRPC" if over_grpc else "HTTP", environ):
        return None
    if not (grpc_target(signal, endpoint, environ).is_secure if over_grpc else endpoint.startswith("https:")):
        return None
    password = "" if settings is None else settings.otlp_client_key_password_file
    return ClientTls(
        files_of(signal, environ, over_grpc=over_grpc, key_password=password),
        minimum="1.3" if settings is None else settings.tls_min_version,
        over_grpc=over_grpc,
        health=health,
        signal=signal,
    )


def headers_of(
    signal: Signal, environ: Mapping[str, str], settings: Settings | None, health: Health
) -> HeaderSource:
    """The headers of a signal's requests: of `OTEL_EXPORTER_OTLP_HEADERS`, and over them those of the secrets' file."""
    path = "" if settings is None else settings.otlp_headers_file
    return HeaderSource(variable(signal, "HEADERS", environ), path, health)


def _has_credential_provider(signal: Signal, over: str, environ: Mapping[str, str]) -> bool:
    variable = f"OTEL_PYTHON_EXPORTER_OTLP_{over}_{{}}CREDENTIAL_PROVIDER"
    return any(environ.get(variable.format(each)) for each in ("", f"{signal.upper()}_"))


def timeout_s(signal: Signal, environ: Mapping[str, str]) -> float:
    """How long a request of the signal may take; the default where the variable has no time from 0 to an hour."""
    try:
        given_s = float(variable(signal, "TIMEOUT", environ) or _DEFAULT_TIMEOUT_S)
    except ValueError:
        return _DEFAULT_TIMEOUT_S
    return given_s if 0 < given_s < _MAX_TIMEOUT_S else _DEFAULT_TIMEOUT_S


def import_ahead() -> None:
    """Import what the first HTTP request would: a fork in the middle of that leaves a child that can send nothing.

    See `aiobs_core._fork`; whoever opens exporters holds its lock.
    """
    for module in ("netrc", "encodings.idna", "stringprep"):
        import_module(module)


def _grpc_compression(signal: Signal, environ: Mapping[str, str]) -> Mapping[str, Any]:
    if variable(signal, "COMPRESSION", environ).lower() != "none":
        return {}
    from grpc import Compression

    # "none" is the specification's default, but the gRPC exporters (1.45) refuse to start if it is spelled out.
    return {"compression": Compression.NoCompression}


def variable(signal: Signal, name: str, environ: Mapping[str, str]) -> str:
    """The variable of the signal, else that of all signals."""
    variables = (f"OTEL_EXPORTER_OTLP_{signal.upper()}_{name}", f"OTEL_EXPORTER_OTLP_{name}")
    return next((environ[each].strip() for each in variables if environ.get(each)), "")


def protocol_of(settings: Settings) -> str:
    """The protocol of spans."""
    return protocol_for(settings.otlp_endpoint, settings.otlp_protocol)


def protocol_for(endpoint: str, given: str = "") -> str:
    """`grpc` or `http/protobuf`: as given, else gRPC for port 4317 and HTTP for any other."""
    if given:
        return given
    try:
        # gRPC endpoints may come without a scheme: "collector:4317".
        port = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").port
    except ValueError:  # no number, or out of range: the exporter says so when it connects
        port = None
    return "grpc" if port == _GRPC_PORT else "http/protobuf"


def signal_url(signal: Signal, endpoint: str, *, environ: Mapping[str, str]) -> str:
    """Where OTLP/HTTP of a signal goes: its own endpoint as it is, any other endpoint with `/v1/<signal>` added.

    An endpoint from `configure()` or the settings file may be either; it is taken as it is where it ends so.
    See https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp.
    """
    if endpoint and endpoint == environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "").strip():
        return endpoint
    path = f"/v1/{signal}"
    base = (endpoint or _DEFAULT_HTTP).removesuffix("/")
    from_environment = endpoint == environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    return base if base.endswith(path) and not from_environment else base + path
