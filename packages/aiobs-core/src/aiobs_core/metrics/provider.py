"""Metrics through the application's own MeterProvider: its readers, views and exporters get them, nothing global changes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from aiobs_core._version import __version__
from aiobs_core.metrics.series import Point
from aiobs_core.semconv.metrics import METRICS, METRICS_SCOPE, Metric

if TYPE_CHECKING:
    from aiobs_core.metrics.meters import Meters

_SDK: str = "opentelemetry.sdk.metrics"


class Bridge:
    """The instruments that aiobs has in one MeterProvider.

    Counters and gauges are observed when a reader collects. A histogram cannot be, so each value is recorded in the SDK's,
    too, which costs the worker 14 µs of each.
    """

    def __init__(self, provider: Any) -> None:
        self.meters: Meters | None = None
        self._histograms: dict[str, Callable[[float, Mapping[str, Any]], None]] = {}
        meter = provider.get_meter(METRICS_SCOPE, __version__)
        for metric in METRICS.values():
            if metric.instrument == "histogram":
                instrument = meter.create_histogram(
                    metric.name,
                    unit=metric.unit,
                    description=metric.brief,
                    explicit_bucket_boundaries_advisory=metric.bounds,
                )
                self._histograms[metric.name] = instrument.record
            else:
                make = (
                    meter.create_observable_counter
                    if metric.instrument == "counter"
                    else meter.create_observable_gauge
                )
                make(metric.name, [self._observer(metric)], unit=metric.unit, description=metric.brief)

    def connect(self, meters: Meters) -> None:
        """Tell of these meters from now on."""
        self.meters = meters
        meters.forward(self._histograms)

    def _observer(self, metric: Metric) -> Callable[[Any], Iterable[Any]]:
        def observe(_: Any) -> Iterable[Any]:
            from opentelemetry.metrics import Observation

            if self.meters is None:
                return []
            return [
                Observation(point.value, dict(point.attributes))
                for family in self.meters.snapshot_of(metric)
                for point in family.points
                if isinstance(point, Point)
            ]

        return observe


_bridges: WeakKeyDictionary[Any, Bridge] = WeakKeyDictionary()


def bridge() -> Bridge | None:
    """The bridge to the application's MeterProvider; None where it has none of the SDK's."""
    sdk = sys.modules.get(_SDK)
    if sdk is None:
        return None
    from opentelemetry.metrics import get_meter_provider

    provider = get_meter_provider()
    if not isinstance(provider, sdk.MeterProvider):
        return None
    found = _bridges.get(provider)
    if found is None:  # once for each provider: a second instrument of the same name would be warned of
        found = _bridges[provider] = Bridge(provider)
    return found
