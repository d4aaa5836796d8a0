"""`Meters`: all metrics of one process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from aiobs_core.metrics.series import Attributes, Family, FamilySnapshot, Number, Point, Record
from aiobs_core.semconv import metrics as names

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core.metrics.shared import SharedFolder
    from aiobs_core.pricing.budget import Window
    from aiobs_core.semconv.metrics import Metric

_SERIES_PER_VALUE: Final = 20
_DROPPED: Final = ".dropped"

Observer = Callable[[], Iterable[FamilySnapshot]]


class Meters:
    """Counts from the start of the process on, whatever settings change meanwhile.

    The worker counts while it holds `lock`, once for a batch. `snapshot` may be called from any thread.

    Attributes:
        lock: Held by whoever changes a series or reads all of them.
        health: Whose problems are told as metrics.
    """

    def __init__(self, health: Health, *, max_values: int) -> None:
        self.lock = threading.Lock()
        self.health = health
        self._max_values = max_values
        self._families: dict[str, Family] = {}
        self._observers: dict[str, Observer] = {}
        self.label_values: dict[str, set[str]] = {}
        """Values that attributes of series have, by attribute."""
        self.windows: dict[str, Window] = {}
        """What was spent of budgets, which a change of settings must not forget."""
        self.sorts: set[Attributes] = set()
        """What the runs so far were, for the gauge of open ones."""
        self._histograms: Mapping[str, Record] = {}
        self.shared: SharedFolder | None = None
        """Where the other workers of the same server tell of theirs, if there are any."""
        self.overflow: dict[str, int] = {}
        """Points counted under `other`, by attribute; by metric, where there were too many series."""

    def apply(self, *, max_values: int) -> None:
        """Use another bound for series to come."""
        self._max_values = max_values
        for family in self._families.values():
            family.max_series = max_values * _SERIES_PER_VALUE

    def family(self, metric: Metric) -> Family:
        """The series of a metric."""
        family = self._families.get(metric.name)
        if family is None:
            family = Family(
                metric,
                max_series=self._max_values * _SERIES_PER_VALUE,
                overflowed=lambda: self.note_overflow(metric.name),
            )
            family.forward(self._histograms.get(metric.name))
            self._families[metric.name] = family
        return family

    def forward(self, histograms: Mapping[str, Record]) -> None:
        """Record what histograms count in those of OpenTelemetry's SDK, too: by name of the metric."""
        with self.lock:
            self._histograms = histograms
            for name, family in self._families.items():
                family.forward(histograms.get(name))

    def number(self, metric: Metric, attributes: Attributes = ()) -> Number:
        """A series of a counter or gauge."""
        return self.family(metric).number(attributes)

    def note_overflow(self, attribute: str) -> None:
        """Count a point that could not keep its attributes."""
        self.overflow[attribute] = self.overflow.get(attribute, 0) + 1

    def observe(self, name: str, observer: Observer) -> None:
        """Ask `observer`, instead of the last one of that name, for further families with each snapshot.

        It is called on the thread that wants the snapshot.
        """
        self._observers[name] = observer

    def snapshot(self) -> Sequence[FamilySnapshot]:
        """All metrics at this instant; families without a point are left out."""
        with self.lock:
            found = [family.snapshot() for family in self._families.values()]
            overflow = dict(self.overflow)
        found.append(
            _counted(names.TELEMETRY_OVERFLOW, {((names.ATTRIBUTE, key),): n for key, n in overflow.items()})
        )
        found.extend(self._of_health())
        for observer in list(self._observers.values()):
            found.extend(observer())
        return [family for family in found if family.points]

    def snapshot_of(self, metric: Metric) -> Iterable[FamilySnapshot]:
        """One metric at this instant."""
        with self.lock:
            family = self._families.get(metric.name)
            if family is not None:
                return [family.snapshot()]
        return [found for found in self.snapshot() if found.metric is metric]

    def page(self) -> Sequence[FamilySnapshot]:
        """All metrics at this instant, with those of the other workers of the same server."""
        own, shared = self.snapshot(), self.shared
        return own if shared is None else shared.read(own)

    def _of_health(self) -> Sequence[FamilySnapshot]:
        dropped: dict[Attributes, float] = {}
        errors: dict[Attributes, float] = {}
        for kind, count in self.health.counts().items():
            if kind.endswith(_DROPPED):
                dropped[(names.SIGNAL, kind.removesuffix(_DROPPED)),] = count
            else:
                errors[(names.KIND, kind),] = count
        dropped.setdefault(
            ((names.SIGNAL, "spans"),), 0
        )  # so that a rate over it exists before the first loss
        return [_counted(names.TELEMETRY_DROPPED, dropped), _counted(names.TELEMETRY_ERRORS, errors)]


def _counted(metric: Metric, counts: dict[Attributes, float]) -> FamilySnapshot:
    return FamilySnapshot(metric, [Point(attributes, value) for attributes, value in counts.items()])
