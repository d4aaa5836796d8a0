"""How OTLP requests of spans travel: over HTTP or gRPC, as the settings and OpenTelemetry's variables ask for.

The official exporters retry, log and give up by themselves and tell their caller only that they failed. What may be sent
again, when, and in what size is what the outbox has to know: see `aiobs_core.export.answer`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlsplit

from aiobs_core._errors import AiobsError
from aiobs_core._health import Health
from aiobs_core._version import __version__
from aiobs_core.export.answer import FAR_S, Answer
from aiobs_core.export.headers import warn_of_clear_text
from aiobs_core.export.otlp import (
    DEFAULT_GRPC,
    headers_of,
    import_ahead,
    protocol_for,
    signal_url,
    timeout_s,
    tls_of,
    variable,
)

if TYPE_CHECKING:
    from aiobs_core._settings import Settings
    from aiobs_core.export.grpc_receiver import GrpcReceiver

_RESPONSE: Final = "opentelemetry.proto.collector.trace.v1.trace_service_pb2"
_USER_AGENT: Final = f"aiobs/{__version__}"


class Transport(Protocol):
    """Takes requests to the receiver; used by one thread."""

    def send(self, request: bytes, within_s: float = FAR_S) -> Answer:
        """Send an `ExportTraceServiceRequest`, in at most so many seconds; raises nothing that it knows of."""

    def close(self) -> None:
        """Close connections; may be called by another thread, to end a `send`."""


def open_transport(
    settings: Settings, *, environ: Mapping[str, str] | None = None, health: Health | None = None
) -> Transport:
    """Open the transport that the settings ask for; it connects with its first request.

    Args:
        settings: Endpoint, protocol, TLS and header secrets.
        environ: OpenTelemetry's variables; the process's own if None.
        health: Told once of each way in which TLS is refused.

    Raises:
        AiobsError: If a package is missing, or certificates cannot be used.
    """
    environ = os.environ if environ is None else environ  # noqa: TID251 (a default; tests pass their own)
    health = health or Health()
    protocol = protocol_for(settings.otlp_endpoint, settings.otlp_protocol)
    over = "grpc" if protocol == "grpc" else "http"
    try:
        library = "grpc" if over == "grpc" else "requests"
        for module in (library, "google.protobuf.message", "google.rpc.error_details_pb2", _RESPONSE):
            import_module(module)  # also what answers are read with: a fork must not fall into that
        return (_open_grpc if over == "grpc" else _open_http)(settings, environ, health)
    except ImportError as error:
        package = f"opentelemetry-exporter-otlp-proto-{over}"
        raise AiobsError(
            f"OTLP over {protocol} needs the package {package}, which cannot be imported ({error.name}): "
            f"pip install {package}"
        ) from error


def _open_http(settings: Settings, environ: Mapping[str, str], health: Health) -> Transport:
    from aiobs_core.export.tls_session import open_session
    from aiobs_core.export.transport_http import HttpTransport

    import_ahead()
    url = signal_url("traces", settings.otlp_endpoint, environ=environ)
    split = urlsplit(url)
    source = headers_of("traces", environ, settings, health)
    warn_of_clear_text(health, source, is_secure=split.scheme == "https", host=split.hostname or "")
    session, tls = _provided("HTTP", environ), {}
    if session is None:
        certificates = tls_of(
            "traces", url, "http/protobuf", environ=environ, settings=settings, health=health
        )
        session = open_session(url, certificates, source)
    else:
        tls = {
            "verify": variable("traces", "CERTIFICATE", environ) or True,
            "cert": _client_certificate(environ),
        }
    return HttpTransport(
        session,
        url,
        source=source,
        user_agent=_USER_AGENT,
        timeout_s=timeout_s("traces", environ),
        compression=variable("traces", "COMPRESSION", environ).lower(),
        tls=tls,
    )


def _open_grpc(settings: Settings, environ: Mapping[str, str], health: Health) -> Transport:
    from aiobs_core.export.grpc_receiver import GrpcReceiver, grpc_target
    from aiobs_core.export.transport_grpc import GrpcTransport

    endpoint = settings.otlp_endpoint or DEFAULT_GRPC
    target = grpc_target("traces", endpoint, environ)
    source = headers_of("traces", environ, settings, health)
    warn_of_clear_text(health, source, is_secure=target.is_secure, host=target.host)
    tls = tls_of("traces", endpoint, "grpc", environ=environ, settings=settings, health=health)
    receiver = GrpcReceiver(target, tls)
    open_channel = partial(
        _open_channel,
        endpoint,
        receiver,
        provided=_provided("GRPC", environ),
        compression=variable("traces", "COMPRESSION", environ).lower(),
    )
    if tls is not None:
        receiver.credentials()  # what cannot work at all is said now
    return GrpcTransport(
        open_channel, receiver=receiver, source=source, timeout_s=timeout_s("traces", environ)
    )


def _open_channel(endpoint: str, receiver: GrpcReceiver, *, provided: Any, compression: str) -> Any:
    import grpc

    by_name = {"gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}
    options = (
        ("grpc.primary_user_agent", _USER_AGENT),
        ("grpc.enable_retries", 0),  # they would not be counted
        ("grpc.max_reconnect_backoff_ms", 2_000),  # it is the outbox that waits
    )
    chosen = by_name.get(compression, grpc.Compression.NoCompression)
    target = urlsplit(endpoint).netloc or endpoint
    if not receiver.is_secure:
        return grpc.insecure_channel(target, options=options, compression=chosen)
    credentials = provided or receiver.credentials()
    return grpc.secure_channel(target, credentials, options=options, compression=chosen)


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


def _client_certificate(environ: Mapping[str, str]) -> str | tuple[str, str] | None:
    certificate = variable("traces", "CLIENT_CERTIFICATE", environ)
    key = variable("traces", "CLIENT_KEY", environ)
    return (certificate, key) if certificate and key else certificate or None
