"""The settings of money, metrics and logs; a part of `Settings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiobs_core import _setting_values as values
from aiobs_core._setting_sources import setting
from aiobs_core._transport_settings import TransportSettings

if TYPE_CHECKING:
    from aiobs_core.pricing.file import PriceFile


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSettings(TransportSettings):  # a chain: see LogSettings
    """What is counted, priced and logged, and where that goes."""

    price_file: PriceFile | None = setting(
        values.price_file,
        None,
        "AIOBS_PRICE_FILE",
        "Prices of your own and aliases, in TOML: they win over the table that comes with aiobs.",
    )
    service_tier: str = setting(
        values.text,
        "",
        "AIOBS_SERVICE_TIER",
        "Tier that calls are billed in where the answer does not say, such as `batch` or `flex`.",
    )
    budget_usd_per_request: float = setting(
        values.number(0, 1e9, "USD"),
        0.0,
        "AIOBS_BUDGET_USD_PER_REQUEST",
        "Budget of one request; 0: none. Crossing it is told by a metric, a span event and a warning, and blocks nothing.",
    )
    budget_usd_per_hour: float = setting(
        values.number(0, 1e9, "USD"),
        0.0,
        "AIOBS_BUDGET_USD_PER_HOUR",
        "Budget of this process for each clock hour (UTC); 0: none.",
    )
    budget_usd_per_day: float = setting(
        values.number(0, 1e9, "USD"),
        0.0,
        "AIOBS_BUDGET_USD_PER_DAY",
        "Budget of this process for each day (UTC); 0: none.",
    )
    metrics: bool = setting(
        values.boolean,
        True,
        "AIOBS_METRICS",
        "Count metrics of all runs, sampled or not. They leave by OTLP, the Prometheus page or the application's "
        "MeterProvider.",
        light=True,
    )
    metrics_exporter: tuple[str, ...] = setting(
        values.metric_exporters,
        (),
        "OTEL_METRICS_EXPORTER",
        "`none`: send no metrics although an endpoint is set; `otlp`: send them; `prometheus`: serve the page.",
    )
    metrics_endpoint: str = setting(
        values.endpoint,
        "",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTLP receiver of metrics. Not used with a MeterProvider of the application's own, which sends by itself.",
    )
    metrics_protocol: str = setting(
        values.choice("", "grpc", "http/protobuf"),
        "",
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL OTEL_EXPORTER_OTLP_PROTOCOL",
        "`grpc` or `http/protobuf`. Unset: `grpc` for port 4317, else `http/protobuf`.",
    )
    metric_export_interval_ms: int = setting(
        values.count(100, 86_400_000),
        60_000,
        "OTEL_METRIC_EXPORT_INTERVAL",
        "Milliseconds between two exports of metrics over OTLP.",
    )
    metric_temporality: str = setting(
        values.choice("cumulative", "delta", "lowmemory"),
        "cumulative",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "Whether OTLP tells counts since the start (`cumulative`), or since the last export (`delta`, `lowmemory`).",
    )
    metric_max_values: int = setting(
        values.count(1, 100_000),
        100,
        "AIOBS_METRIC_MAX_VALUES",
        "Values that an attribute of metrics may have; further ones become `other`, and are counted. A metric has at most "
        "20 times as many series.",
    )
    prometheus_port: int = setting(
        values.count(0, 65_535),
        0,
        "AIOBS_PROMETHEUS_PORT OTEL_EXPORTER_PROMETHEUS_PORT",
        "Port of the Prometheus page; 0: none, or 9464 with `OTEL_METRICS_EXPORTER=prometheus`.",
    )
    prometheus_host: str = setting(
        values.text,
        "localhost",
        "AIOBS_PROMETHEUS_HOST OTEL_EXPORTER_PROMETHEUS_HOST",
        "Address that the page is served on; `0.0.0.0` for a container that others scrape.",
    )
    prometheus_certificate: str = setting(
        values.text,
        "",
        "AIOBS_PROMETHEUS_CERTIFICATE",
        "File with the page's certificate, in PEM: it is served over TLS.",
    )
    prometheus_key: str = setting(
        values.text, "", "AIOBS_PROMETHEUS_KEY", "File with that certificate's key."
    )
    prometheus_client_ca: str = setting(
        values.text,
        "",
        "AIOBS_PROMETHEUS_CLIENT_CA",
        "File with the authority of client certificates: only who has one may scrape.",
    )
    metrics_folder: str = setting(
        values.text,
        "",
        "AIOBS_METRICS_DIR PROMETHEUS_MULTIPROC_DIR",
        "Folder that the workers of one server share, so that each page tells of all of them.",
    )
