"""The settings of transport security; a part of `Settings`."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs_core import _setting_values as values
from aiobs_core._sampling_settings import SamplingSettings
from aiobs_core._setting_sources import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportSettings(SamplingSettings):
    """How connections are secured. Certificates of OTLP are OpenTelemetry's own variables."""

    tls_min_version: str = setting(
        values.choice("1.3", "1.2"),
        "1.3",
        "AIOBS_TLS_MIN_VERSION",
        "Lowest version of TLS, of OTLP over HTTP and gRPC and of the Prometheus page. `1.2` is for receivers that have no "
        "newer one.",
    )
    otlp_headers_file: str = setting(
        values.text,
        "",
        "AIOBS_OTLP_HEADERS_FILE",
        "File with headers of OTLP requests that are secret, a line each: `name: value`. They win over "
        "`OTEL_EXPORTER_OTLP_HEADERS`; the file is read again when it changes.",
    )
    otlp_client_key_password_file: str = setting(
        values.text,
        "",
        "AIOBS_OTLP_CLIENT_KEY_PASSWORD_FILE",
        "File with the password of `OTEL_EXPORTER_OTLP_CLIENT_KEY`; over HTTP only, since gRPC takes no such key.",
    )
