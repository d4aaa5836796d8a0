"""The official OTLP exporters, chosen and opened from the settings: one for each signal."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Literal, cast
from urllib.parse import urlsplit

from aiobs_core._errors import AiobsError

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk.trace.export import SpanExporter

    from aiobs_core._settings import Settings

Signal = Literal["traces", "metrics", "logs"]

_GRPC_PORT: Final = 4317
_DEFAULT_GRPC: Final = "http://localhost:4317"
_DEFAULT_HTTP: Final = "http://localhost:4318"
_EXPORTERS: Final = {
    "traces": ("trace_exporter", "OTLPSpanExporter"),
    "metrics": ("metric_exporter", "OTLPMetricExporter"),
    "logs": ("_log_exporter", "OTLPLogExporter"),
}
"""Module and class by signal; both protocols have the same. That of logs is private by its name, and has no other."""


def make_otlp_exporter(settings: Settings, *, environ: Mapping[str, str] | None = None) -> SpanExporter:
    """Open the exporter of spans that the settings ask for; see `open_exporter`."""
    exporter = open_exporter("traces", settings.otlp_endpoint, settings.otlp_protocol, environ=environ)
    return cast("SpanExporter", exporter)


def open_exporter(
    signal: Signal,
    endpoint: str,
    protocol: str = "",
    *,
    environ: Mapping[str, str] | None = None,
    **options: Any,
) -> object:
    """Open the OTLP exporter of a signal over gRPC or HTTP; it connects with its first export.

    Headers, compression, timeout and certificates are the `OTEL_EXPORTER_OTLP_*` variables, which the official
    exporters read from the process's environment themselves.

    Args:
        signal: What it exports.
        endpoint: Receiver; empty: the protocol's default one.
        protocol: `grpc` or `http/protobuf`; empty: as the port says.
        environ: Variables that decide how the endpoint is meant; the process's own if None.
        options: Further arguments of the exporter's class.

    Raises:
        AiobsError: If the exporter's package is not installed.
    """
    environ = os.environ if environ is None else environ  # noqa: TID251 (a default; tests pass their own)
    protocol = protocol_for(endpoint, protocol)
    over = "grpc" if protocol == "grpc" else "http"
    module, name = _EXPORTERS[signal]
    try:
        make = getattr(import_module(f"opentelemetry.exporter.otlp.proto.{over}.{module}"), name)
        if over == "grpc":
            options = {**_grpc_compression(signal, environ), **options}
            return make(endpoint=endpoint or _DEFAULT_GRPC, **options)
    except ImportError as error:
        package = f"opentelemetry-exporter-otlp-proto-{over}"
        raise AiobsError(
            f"OTLP over {protocol} needs the package {package}, which cannot be imported ({error.name}): "
            f"pip install {package}"
        ) from error
    import_ahead()
    url = signal_url(signal, endpoint, environ=environ)
    return make(endpoint=url, session=_session(signal, url, environ), **options)


def import_ahead() -> None:
    """Import what the first HTTP request would: a fork in the middle of that leaves a child that can send nothing.

    See `aiobs_core._fork`; whoever opens exporters holds its lock.
    """
    for module in ("netrc", "encodings.idna", "stringprep"):
        import_module(module)


def _grpc_compression(signal: Signal, environ: Mapping[str, str]) -> Mapping[str, Any]:
    if _variable(signal, "COMPRESSION", environ).lower() != "none":
        return {}
    from grpc import Compression

    # "none" is the specification's default, but the gRPC exporters (1.45) refuse to start if it is spelled out.
    return {"compression": Compression.NoCompression}


def _variable(signal: Signal, name: str, environ: Mapping[str, str]) -> str:
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


def traces_url(endpoint: str, *, environ: Mapping[str, str]) -> str:
    """Where OTLP/HTTP spans go."""
    return signal_url("traces", endpoint, environ=environ)


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


def _session(signal: Signal, url: str, environ: Mapping[str, str]) -> requests.Session | None:
    """A session that trusts the CA of OTEL_EXPORTER_OTLP_CERTIFICATE, or None: the exporter's own is right.

    With `trust_env`, requests lets REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE win over the session's CA, so that a
    private collector is refused on every machine whose company proxy needs those variables.
    """
    if not _variable(signal, "CERTIFICATE", environ):
        return None
    variable = "OTEL_PYTHON_EXPORTER_OTLP_HTTP_{}CREDENTIAL_PROVIDER"
    if any(environ.get(variable.format(each)) for each in ("", f"{signal.upper()}_")):
        return None  # a session given to the exporter would replace the one that the user's provider makes
    import requests
    from requests.utils import get_environ_proxies

    session = requests.Session()
    session.trust_env = False
    session.proxies.update(get_environ_proxies(url))  # NO_PROXY is applied here, to the one host we call
    return session
