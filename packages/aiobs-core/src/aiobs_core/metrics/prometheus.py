"""The metrics of aiobs as a collector of `prometheus_client`, for applications that have a page of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import final

from prometheus_client import Metric as PrometheusMetric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar as PrometheusExemplar

from aiobs_core.metrics.page import Read, bound_text, distinct, exemplar_labels, unit_of
from aiobs_core.metrics.series import Exemplar, FamilySnapshot, HistogramPoint
from aiobs_core.semconv.metrics import METRICS, Metric


@final
class AiobsCollector(Collector):
    """Tells a registry of `prometheus_client` what aiobs counts, exemplars included.

    Args:
        read: What to tell, asked at each scrape.
    """

    def __init__(self, read: Read) -> None:
        self._read = read

    def describe(self) -> Iterator[PrometheusMetric]:
        """Every family without a sample, so that a registry can see clashes without a scrape."""
        return map(_empty, METRICS.values())

    def collect(self) -> Iterator[PrometheusMetric]:
        """The families that have samples now."""
        return (_filled(family) for family in self._read() if family.points)


def _empty(metric: Metric) -> PrometheusMetric:
    return PrometheusMetric(metric.prometheus_name, metric.brief, metric.instrument, unit_of(metric))


def _filled(family: FamilySnapshot) -> PrometheusMetric:
    metric = _empty(family.metric)
    bounds = [*map(bound_text, family.metric.bounds), "+Inf"]
    for labels, point in distinct(family):
        if isinstance(point, HistogramPoint):
            _add_histogram(metric, labels, point, bounds)
        else:
            metric.add_sample(family.metric.sample_name, labels, point.value)
    return metric


def _add_histogram(
    metric: PrometheusMetric, labels: Mapping[str, str], point: HistogramPoint, bounds: list[str]
) -> None:
    total = 0
    for bucket, (bound, count) in enumerate(zip(bounds, point.counts, strict=True)):
        total += count
        exemplar = _exemplar(point.exemplars.get(bucket))
        metric.add_sample(f"{metric.name}_bucket", {**labels, "le": bound}, total, exemplar=exemplar)
    metric.add_sample(f"{metric.name}_count", dict(labels), total)
    metric.add_sample(f"{metric.name}_sum", dict(labels), point.sum)


def _exemplar(exemplar: Exemplar | None) -> PrometheusExemplar | None:
    if exemplar is None:
        return None
    return PrometheusExemplar(exemplar_labels(exemplar), exemplar.value, round(exemplar.time_ns / 1e9, 3))
