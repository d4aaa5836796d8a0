"""The ways in which metrics leave: OTLP, the Prometheus page, the application's MeterProvider, a folder of workers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiobs_core.metrics.provider import bridge

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from aiobs_core._health import Health
    from aiobs_core._settings import Settings
    from aiobs_core.metrics.meters import Meters
    from aiobs_core.metrics.otlp import OtlpMetrics
    from aiobs_core.metrics.server import PrometheusServer
    from aiobs_core.metrics.shared import SharedFolder

_DEFAULT_PORT: Final = (
    9464  # https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
)
_WRITE_NS: Final = 1_000_000_000
_NEVER_NS: Final = 1 << 62


class Outlets:
    """Opened with the corridor and closed with it. Used by the worker only, but for `read`.

    Args:
        settings: Which ways there are.
        health: Told what does not work; nothing is raised.
        meters: What leaves.
        resource: The resource that metrics belong to, as it may leave.
    """

    def __init__(self, settings: Settings, health: Health, meters: Meters, resource: Resource) -> None:
        self._health = health
        self._meters = meters
        self._folder: SharedFolder | None = None
        self._server: PrometheusServer | None = None
        self._otlp: OtlpMetrics | None = None
        self._is_unwritten = False
        self._write_at_ns = 0
        self._resource = resource
        self.is_open = False
        if settings.metrics:
            self.open(settings)

    def open(self, settings: Settings) -> None:
        """Open the ways out. They stay open where metrics are switched off: a page that is gone looks like a lost process."""
        self.is_open = True
        try:
            self._open(settings, self._resource)
        except Exception as error:  # noqa: BLE001 (a missing package, an odd provider: the application must not notice)
            self._health.problem(
                "metrics.open",
                f"aiobs: a way out for metrics cannot be opened ({type(error).__name__}: {error}).",
            )

    def _open(self, settings: Settings, resource: Resource) -> None:
        if settings.metrics_folder:
            from aiobs_core.metrics.shared import SharedFolder

            self._folder = SharedFolder(Path(settings.metrics_folder).expanduser(), self._health)
        self._meters.shared = self._folder
        port = settings.prometheus_port
        if not port and "prometheus" in settings.metrics_exporter:
            port = _DEFAULT_PORT
        if port:
            from aiobs_core.metrics.server import PrometheusServer

            self._server = PrometheusServer(settings, self._meters.page, self._health, port=port)
        owned = bridge()
        if owned is not None:
            owned.connect(self._meters)
        elif _sends(settings):
            self._otlp = self._open_otlp(settings, resource)

    def _open_otlp(self, settings: Settings, resource: Resource) -> OtlpMetrics:
        from aiobs_core.metrics.otlp import OtlpMetrics

        def make() -> Any:
            from aiobs_core.export.otlp import open_exporter

            endpoint, protocol = settings.metrics_endpoint, settings.metrics_protocol
            return open_exporter("metrics", endpoint, protocol, settings=settings, health=self._health)

        return OtlpMetrics(
            make,
            self._meters.snapshot,  # of this process: each worker of a server sends its own
            resource=resource,
            health=self._health,
            interval_s=settings.metric_export_interval_ms / 1_000,
            is_delta=settings.metric_temporality != "cumulative",
        )

    def keep(self, *, has_changed: bool) -> int:
        """Write to the folder of workers at most once a second; returns when to be called again (`perf_counter_ns`)."""
        if self._folder is None:
            return _NEVER_NS
        self._is_unwritten = self._is_unwritten or has_changed
        if not self._is_unwritten:
            return _NEVER_NS
        now_ns = time.perf_counter_ns()
        if now_ns >= self._write_at_ns:
            self._write()
            self._write_at_ns = now_ns + _WRITE_NS
            return _NEVER_NS
        return self._write_at_ns

    def _write(self) -> None:
        if self._folder is not None:
            self._folder.write(self._meters.snapshot())
            self._is_unwritten = False

    def begin_flush(self) -> None:
        """Write what there is, and begin to send it while others flush."""
        self._write()
        if self._otlp is not None:
            self._otlp.ask()

    def flush(self, timeout_s: float) -> bool:
        """Wait until it was sent; False if that failed. From any thread."""
        otlp = self._otlp
        return otlp is None or otlp.flush(timeout_s)

    def close(self, timeout_s: float) -> bool:
        """Send what there is, and close everything."""
        delivered = True
        if self._otlp is not None:
            delivered = self._otlp.close(timeout_s)
        self._write()
        if self._folder is not None:
            self._folder.close()
        if self._server is not None:
            self._server.close()
        return delivered

    def forget_after_fork(self) -> None:
        """Drop the parent's ways out: its port and its thread are not ours."""
        if self._folder is not None:
            self._folder.forget_after_fork()
        if self._server is not None:
            self._server.forget_after_fork()
        self._folder = self._server = self._otlp = None


def _sends(settings: Settings) -> bool:
    if "none" in settings.metrics_exporter:
        return False
    if settings.metrics_exporter:
        return "otlp" in settings.metrics_exporter
    return bool(settings.metrics_endpoint)
