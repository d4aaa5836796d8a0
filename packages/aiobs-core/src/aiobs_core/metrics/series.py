"""What metrics are made of: one series per set of attributes, in a family per metric, and snapshots of them.

Not the instruments of OpenTelemetry's SDK: one record of theirs costs 14 µs, and a model call makes a dozen. Here a run
finds the series that belong to it by one look-up, and counts in them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiobs_core.semconv.metrics import OTHER, Metric

Record = Callable[[float, Mapping[str, Any]], None]
"""A histogram of OpenTelemetry's SDK: takes a value and its attributes."""
Attributes = tuple[tuple[str, str | int], ...]
"""Attributes of a series by name, in the order of the metric's; those that are unknown are not there."""


class Exemplar(NamedTuple):
    """One kept run that fell into a bucket."""

    value: float
    time_ns: int  # since the epoch
    trace_id: int
    span_id: int


class Point(NamedTuple):
    """The state of a counter or gauge."""

    attributes: Attributes
    value: float


class HistogramPoint(NamedTuple):
    """The state of a histogram; `counts` has one more than there are bounds, and adds up to the number of values."""

    attributes: Attributes
    counts: tuple[int, ...]
    sum: float
    exemplars: Mapping[int, Exemplar]  # by bucket


class FamilySnapshot(NamedTuple):
    """All series of one metric at one instant; of a histogram they are `HistogramPoint`s, else `Point`s."""

    metric: Metric
    points: Sequence[Point | HistogramPoint]


class Number:
    """Series of a counter or gauge."""

    __slots__ = ("attributes", "value")

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        self.value: float = 0

    def add(self, value: float) -> None:
        """Count."""
        self.value += value

    def point(self) -> Point:
        """Its state now."""
        return Point(self.attributes, self.value)


class Distribution:
    """Series of a histogram."""

    __slots__ = ("_forward", "_given", "attributes", "bounds", "counts", "exemplars", "sum")

    def __init__(self, attributes: Attributes, bounds: Sequence[float]) -> None:
        self._forward: Record | None = None
        self._given: Mapping[str, Any] = {}
        self.attributes = attributes
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0
        self.exemplars: dict[int, Exemplar] = {}

    def record(self, value: float) -> int:
        """Count one value; returns its bucket."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if self._forward is not None:
            self._forward(value, self._given)
        return bucket

    def forward(self, record: Record | None) -> None:
        """Record each value in a histogram of OpenTelemetry's SDK, too."""
        self._forward, self._given = record, dict(self.attributes)

    def point(self) -> HistogramPoint:
        """Its state now."""
        return HistogramPoint(self.attributes, tuple(self.counts), self.sum, dict(self.exemplars))


Series = Number | Distribution


class Family:
    """The series of one metric, of which there are at most `max_series`.

    Args:
        metric: What is counted.
        max_series: Beyond it, a new set of attributes counts under the set in which every value is `other`.
        overflowed: Told the number of points that were put there.
    """

    def __init__(self, metric: Metric, *, max_series: int, overflowed: Callable[[], None]) -> None:
        self.metric = metric
        bounds = metric.bounds
        # Of tokens, say: to find a whole number among floats takes half as long again.
        self._bounds = tuple(map(int, bounds)) if all(map(float.is_integer, bounds)) else bounds
        self.max_series = max_series
        self._overflowed = overflowed
        self._series: dict[Attributes, Series] = {}
        self._forward: Record | None = None

    def forward(self, record: Record | None) -> None:
        """Record what is counted in a histogram of OpenTelemetry's SDK, too; does nothing for other metrics."""
        self._forward = record
        for series in self._series.values():
            if isinstance(series, Distribution):
                series.forward(record)

    def number(self, attributes: Attributes) -> Number:
        """The series of a counter or gauge, made if there is none."""
        found = self._series.get(attributes) or self._make(attributes)
        assert type(found) is Number
        return found

    def distribution(self, attributes: Attributes) -> Distribution:
        """The series of a histogram, made if there is none."""
        found = self._series.get(attributes) or self._make(attributes)
        assert type(found) is Distribution
        return found

    def _make(self, attributes: Attributes) -> Series:
        if len(self._series) >= self.max_series:
            self._overflowed()
            attributes = tuple((name, OTHER) for name, _ in attributes)
            if (found := self._series.get(attributes)) is not None:
                return found
        made: Series
        if self.metric.instrument == "histogram":
            made = Distribution(attributes, self._bounds)
            made.forward(self._forward)
        else:
            made = Number(attributes)
        self._series[attributes] = made
        return made

    def snapshot(self) -> FamilySnapshot:
        """All series as they are now."""
        return FamilySnapshot(self.metric, [series.point() for series in self._series.values()])


_NO_EXEMPLARS: Final[Mapping[int, Exemplar]] = {}


def merged(snapshots: Iterable[Sequence[FamilySnapshot]]) -> Sequence[FamilySnapshot]:
    """Snapshots of several processes as one: numbers, counts and sums add up, the newest exemplar of a bucket stays."""
    by_metric: dict[str, tuple[Metric, dict[Attributes, Point | HistogramPoint]]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            _, known = by_metric.setdefault(family.metric.name, (family.metric, {}))
            for point in family.points:
                before = known.get(point.attributes)
                known[point.attributes] = point if before is None else _sum(before, point)
    return [FamilySnapshot(metric, list(points.values())) for metric, points in by_metric.values()]


def _sum(one: Point | HistogramPoint, other: Point | HistogramPoint) -> Point | HistogramPoint:
    if isinstance(one, Point) or isinstance(other, Point):
        assert isinstance(one, Point)
        assert isinstance(other, Point)
        return Point(one.attributes, one.value + other.value)
    exemplars = dict(one.exemplars)
    for bucket, exemplar in other.exemplars.items():
        if bucket not in exemplars or exemplars[bucket].time_ns < exemplar.time_ns:
            exemplars[bucket] = exemplar
    counts = tuple(a + b for a, b in zip(one.counts, other.counts, strict=True))
    return HistogramPoint(one.attributes, counts, one.sum + other.sum, exemplars)
