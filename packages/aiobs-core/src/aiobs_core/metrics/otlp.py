"""OTLP metrics: snapshots, as OpenTelemetry's exporters take them, sent at intervals by a thread of their own."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import attach, set_value
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, Resource

from aiobs_core._context import SUPPRESS_KEY
from aiobs_core._errors import AiobsError
from aiobs_core._fork import is_forked_child
from aiobs_core._version import __version__
from aiobs_core.metrics.series import Attributes, Exemplar, FamilySnapshot, HistogramPoint, Point
from aiobs_core.semconv.metrics import METRICS_SCOPE

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import Metric as SdkMetric
    from opentelemetry.sdk.metrics.export import MetricExporter, MetricsData

    from aiobs_core._health import Health

_Key = tuple[str, Attributes]


class OtlpMetrics:
    """Exports all metrics every `interval_s` seconds, at a flush and at the end.

    Args:
        make: Makes the exporter, on the thread that exports: it may take a second to import.
        read: The metrics of this process now.
        resource: Of this process; see `with_instance_id`.
        health: Told of exports that failed.
        interval_s: Seconds from one export to the next.
        is_delta: Whether sums and histograms are told since the last export, instead of since the start.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        read: Callable[[], Sequence[FamilySnapshot]],
        *,
        resource: Resource,
        health: Health,
        interval_s: float,
        is_delta: bool = False,
    ) -> None:
        self._make = make
        self._read = read
        self._resource = with_instance_id(resource)
        self._health = health
        self._interval_s = interval_s
        self._deltas = Deltas() if is_delta else None
        self._start_ns = time.time_ns()
        self._exporter: MetricExporter | None = None
        self._asked = threading.Condition()
        self._wanted = self._done = 0  # exports asked for, and of those the ones that are over
        self._ticket = 0  # of an export that somebody will wait for
        self._delivered = True
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="aiobs-metrics", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """Begin an export, for a `flush` that follows to wait for: the other exporters flush meanwhile."""
        with self._asked:
            self._wanted += 1
            self._ticket = self._wanted
            self._asked.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Export now, unless that was asked for before; False if it failed, or took longer."""
        deadline_s = time.monotonic() + timeout_s
        if not self._ticket:
            self.ask()
        with self._asked:
            ticket, self._ticket = self._ticket, 0
            while self._done < ticket:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or not self._thread.is_alive():
                    return False
                self._asked.wait(left_s)
            return self._delivered

    def close(self, timeout_s: float) -> bool:
        """Export once more, and end the thread."""
        self._closing = True
        delivered = self.flush(timeout_s)
        if not delivered:
            self._failed("not in time")
        self._thread.join(timeout=0.2)
        return delivered

    def _work(self) -> None:
        attach(set_value(SUPPRESS_KEY, True))
        while True:
            with self._asked:
                if self._wanted == self._done:
                    self._asked.wait(self._interval_s)
                ticket = self._wanted
            delivered = self._export()
            with self._asked:
                self._done, self._delivered = ticket, delivered
                self._asked.notify_all()
            if self._closing and ticket == self._wanted:
                self._shut_down()
                return

    def _export(self) -> bool:
        try:
            if self._exporter is None:
                self._exporter = self._make()
            from opentelemetry.sdk.metrics.export import MetricExportResult

            snapshot, now_ns = self._read(), time.time_ns()
            deltas = self._deltas
            families = snapshot if deltas is None else deltas.since_last(snapshot)
            start_ns = self._start_ns if deltas is None else deltas.since_ns or self._start_ns
            data = metrics_data(
                families, self._resource, start_ns=start_ns, now_ns=now_ns, is_delta=deltas is not None
            )
            result = self._exporter.export(data)
        except Exception as error:  # noqa: BLE001 (a foreign exporter may raise anything; counted and warned of)
            self._failed(str(error) if isinstance(error, AiobsError) else type(error).__name__)
            return False
        if result is not MetricExportResult.SUCCESS:
            self._failed("FAILURE")
            return False
        if deltas is not None:
            deltas.accept(snapshot, now_ns)
        return True

    def _failed(self, why: str) -> None:
        self._health.problem(
            "export.metrics",
            f"aiobs: metrics could not be exported over OTLP ({why}); the next export tells of all since the start. "
            "OTEL_METRICS_EXPORTER=none turns them off where the receiver takes none.",
            lost=1,
            signal="metrics",
        )

    def _shut_down(self) -> None:
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            try:
                exporter.shutdown()
            except Exception as error:  # noqa: BLE001 (as above)
                self._failed(type(error).__name__)


class Deltas:
    """Tells what has come to counters and histograms since the last export that arrived."""

    def __init__(self) -> None:
        self._before: dict[_Key, Point | HistogramPoint] = {}
        self.since_ns: int | None = None
        """When that was."""

    def since_last(self, snapshot: Sequence[FamilySnapshot]) -> Sequence[FamilySnapshot]:
        """The differences; gauges stay as they are, and series in which nothing happened are left out."""
        found = []
        for metric, points in snapshot:
            if metric.instrument == "gauge":
                found.append(FamilySnapshot(metric, points))
                continue
            grown = [more for point in points if (more := self._more(metric.name, point)) is not None]
            if grown:
                found.append(FamilySnapshot(metric, grown))
        return found

    def accept(self, snapshot: Sequence[FamilySnapshot], now_ns: int) -> None:
        """Take this as the last export that arrived."""
        self.since_ns = now_ns
        self._before = {
            (metric.name, point.attributes): point
            for metric, points in snapshot
            for point in points
            if metric.instrument != "gauge"
        }

    def _more(self, name: str, point: Point | HistogramPoint) -> Point | HistogramPoint | None:
        before = self._before.get((name, point.attributes))
        if before is None:
            return point
        if isinstance(point, Point):
            assert isinstance(before, Point)
            more = point.value - before.value
            return Point(point.attributes, more) if more else None
        assert isinstance(before, HistogramPoint)
        counts = tuple([now - then for now, then in zip(point.counts, before.counts, strict=True)])
        if not any(counts):
            return None
        fresh = {
            bucket: exemplar
            for bucket, exemplar in point.exemplars.items()
            if before.exemplars.get(bucket) is not exemplar
        }
        return HistogramPoint(point.attributes, counts, point.sum - before.sum, fresh)


def with_instance_id(resource: Resource) -> Resource:
    """The resource with an id of this process: the workers of one server would overwrite each other's counts.

    One made before a fork has the parent's id, whether OpenTelemetry's SDK made it up or the user chose it.
    """
    given = resource.attributes.get(SERVICE_INSTANCE_ID)
    if given is not None and not is_forked_child():
        return resource
    own = str(uuid.uuid4()) if given is None else f"{given}-{os.getpid()}"
    return resource.merge(Resource({SERVICE_INSTANCE_ID: own}))


def metrics_data(
    families: Sequence[FamilySnapshot],
    resource: Resource,
    *,
    start_ns: int,
    now_ns: int,
    is_delta: bool = False,
) -> MetricsData:
    """Snapshots in the form that OpenTelemetry's exporters take."""
    from opentelemetry.sdk.metrics.export import MetricsData, ResourceMetrics, ScopeMetrics
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    metrics = [_metric(family, start_ns, now_ns, is_delta=is_delta) for family in families]
    scope = ScopeMetrics(InstrumentationScope(METRICS_SCOPE, __version__), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], resource.schema_url)])


def _metric(family: FamilySnapshot, start_ns: int, now_ns: int, *, is_delta: bool) -> SdkMetric:
    from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, Metric, Sum

    metric = family.metric
    temporality = AggregationTemporality.DELTA if is_delta else AggregationTemporality.CUMULATIVE
    points: list[Any] = [_point(point, metric.bounds, start_ns, now_ns) for point in family.points]
    data: Any
    if metric.instrument == "histogram":
        data = Histogram(points, temporality)
    elif metric.instrument == "counter":
        data = Sum(points, temporality, is_monotonic=True)
    else:
        data = Gauge(points)
    return Metric(metric.name, metric.brief, metric.unit, data)


def _point(point: Point | HistogramPoint, bounds: Sequence[float], start_ns: int, now_ns: int) -> Any:
    from opentelemetry.sdk.metrics.export import HistogramDataPoint, NumberDataPoint

    attributes: Mapping[str, Any] = dict(point.attributes)
    if isinstance(point, Point):
        return NumberDataPoint(attributes, start_ns, now_ns, point.value)
    return HistogramDataPoint(
        attributes=attributes,
        start_time_unix_nano=start_ns,
        time_unix_nano=now_ns,
        count=sum(point.counts),
        sum=point.sum,
        bucket_counts=point.counts,
        explicit_bounds=bounds,
        min=_UNKNOWN_MIN,
        max=_UNKNOWN_MAX,
        exemplars=[_exemplar(exemplar) for exemplar in point.exemplars.values()],
    )


_UNKNOWN_MIN: Final[Any] = None  # the encoder leaves them out; the page of Prometheus knows neither
_UNKNOWN_MAX: Final[Any] = None


def _exemplar(exemplar: Exemplar) -> Any:
    from opentelemetry.sdk.metrics import Exemplar as SdkExemplar

    return SdkExemplar({}, exemplar.value, exemplar.time_ns, exemplar.span_id, exemplar.trace_id)
