"""What the processes of one server have counted, added up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from aiobs_core.metrics.series import FamilySnapshot, HistogramPoint, Point, merged
from aiobs_core.semconv.metrics import OTHER, Metric

_MAX_POINTS: Final = 20_000  # sets of attributes of one metric; in later ones, every value is `other`

Definition = tuple[str, str, str, tuple[float, ...]]


def amount(snapshot: Sequence[FamilySnapshot]) -> float:
    """Grows with everything that is counted: the later of two snapshots never has less."""
    return math.fsum(
        sum(point.counts) if isinstance(point, HistogramPoint) else point.value
        for family in snapshot
        if family.metric.instrument != "gauge"
        for point in family.points
    )


def countable(families: Sequence[FamilySnapshot]) -> Sequence[FamilySnapshot]:
    """What stays true of a process when it is dead."""
    return [family for family in families if family.metric.instrument != "gauge"]


def definition(metric: Metric) -> Definition:
    """What has to be the same, so that points of two processes can be added up."""
    return metric.name, metric.instrument, metric.unit, metric.bounds


def added(snapshots: Iterable[Sequence[FamilySnapshot]]) -> Sequence[FamilySnapshot]:
    """The sum of several processes, apart for each way to define a metric."""
    alike: dict[Definition, list[Sequence[FamilySnapshot]]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            alike.setdefault(definition(family.metric), []).append([family])
    return [family for group in alike.values() for family in merged(group)]


def bounded(families: Sequence[FamilySnapshot]) -> Sequence[FamilySnapshot]:
    """The same, with no more points than a metric may have."""
    return [family if len(family.points) <= _MAX_POINTS else _with_others(family) for family in families]


def _with_others(family: FamilySnapshot) -> FamilySnapshot:
    kept, rest = family.points[:_MAX_POINTS], family.points[_MAX_POINTS:]
    others: list[Point | HistogramPoint] = [
        point._replace(attributes=tuple((name, OTHER) for name, _ in point.attributes)) for point in rest
    ]
    one_by_one = [[FamilySnapshot(family.metric, [point])] for point in others]
    return merged([[FamilySnapshot(family.metric, kept)], *one_by_one])[0]
