"""The official OTLP exporter for traces, chosen and opened from the settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiobs_core._errors import AiobsError

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk.trace.export import SpanExporter

    from aiobs_core._settings import Settings

_TRACES_PATH: Final = "/v1/traces"
_GRPC_PORT: Final = 4317
_DEFAULT_GRPC: Final = "http://localhost:4317"
_DEFAULT_HTTP: Final = "http://localhost:4318"
_TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_CERTIFICATES: Final = ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE")
_COMPRESSIONS: Final = ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION")
_CREDENTIAL_PROVIDERS: Final = (
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_CREDENTIAL_PROVIDER",
    "OTEL_PYTHON_EXPORTER_OTLP_HTTP_TRACES_CREDENTIAL_PROVIDER",
)


def make_otlp_exporter(settings: Settings, *, environ: Mapping[str, str] | None = None) -> SpanExporter:
    """Open the OTLP exporter over gRPC or HTTP; it connects with its first export.

    Headers, compression, timeout and certificates are the `OTEL_EXPORTER_OTLP_*` variables, which the official
    exporters read from the process's environment themselves.

    Args:
        settings: Endpoint and protocol.
        environ: Variables that decide how the endpoint is meant; the process's own if None.

    Raises:
        AiobsError: If the exporter's package is not installed.
    """
    environ = os.environ if environ is None else environ  # noqa: TID251 (a default; tests pass their own)
    endpoint = settings.otlp_endpoint
    try:
        if protocol_of(settings) == "grpc":
            return _grpc_exporter(endpoint or _DEFAULT_GRPC, environ)
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
    except ImportError as error:
        protocol = protocol_of(settings)
        package = "opentelemetry-exporter-otlp-proto-" + ("grpc" if protocol == "grpc" else "http")
        raise AiobsError(
            f"OTLP over {protocol} needs the package {package}, which cannot be imported ({error.name}): "
            f"pip install {package}"
        ) from error
    url = traces_url(endpoint, environ=environ)
    return HttpExporter(endpoint=url, session=_session(url, environ))


def _grpc_exporter(endpoint: str, environ: Mapping[str, str]) -> SpanExporter:
    from grpc import Compression
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    compression = next((environ[name] for name in _COMPRESSIONS if environ.get(name)), "")
    if compression.strip().lower() != "none":
        return OTLPSpanExporter(endpoint=endpoint)
    # "none" is the specification's default, but the gRPC exporter (1.45) refuses to start if it is spelled out.
    return OTLPSpanExporter(endpoint=endpoint, compression=Compression.NoCompression)


def protocol_of(settings: Settings) -> str:
    """`grpc` or `http/protobuf`: as set, else gRPC for port 4317 and HTTP for any other."""
    if settings.otlp_protocol:
        return settings.otlp_protocol
    endpoint = settings.otlp_endpoint
    try:
        # gRPC endpoints may come without a scheme: "collector:4317".
        port = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}").port
    except ValueError:  # no number, or out of range: the exporter says so when it connects
        port = None
    return "grpc" if port == _GRPC_PORT else "http/protobuf"


def traces_url(endpoint: str, *, environ: Mapping[str, str]) -> str:
    """Where OTLP/HTTP traces go: the traces endpoint as it is, any other endpoint with `/v1/traces` added.

    An endpoint from `configure()` or the settings file may be either; it is taken as it is where it ends so.
    See https://opentelemetry.io/docs/specs/otel/protocol/exporter/#endpoint-urls-for-otlphttp.
    """
    if endpoint and endpoint == environ.get(_TRACES_ENDPOINT, "").strip():
        return endpoint
    base = (endpoint or _DEFAULT_HTTP).removesuffix("/")
    from_environment = endpoint == environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    return base if base.endswith(_TRACES_PATH) and not from_environment else base + _TRACES_PATH


def _session(url: str, environ: Mapping[str, str]) -> requests.Session | None:
    """A session that trusts the CA of OTEL_EXPORTER_OTLP_CERTIFICATE, or None: the exporter's own is right.

    With `trust_env`, requests lets REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE win over the session's CA, so that a
    private collector is refused on every machine whose company proxy needs those variables.
    """
    if not any(environ.get(name) for name in _CERTIFICATES):
        return None
    if any(environ.get(name) for name in _CREDENTIAL_PROVIDERS):
        return None  # a session given to the exporter would replace the one that the user's provider makes
    import requests
    from requests.utils import get_environ_proxies

    session = requests.Session()
    session.trust_env = False
    session.proxies.update(get_environ_proxies(url))  # NO_PROXY is applied here, to the one host we call
    return session
