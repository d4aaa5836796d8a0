"""The gauge of open runs, read from the table of them: nothing is counted up and down, so it cannot drift."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from aiobs_core import semconv
from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core._operation import Kind, Operation
from aiobs_core._span import AgentSpan
from aiobs_core.metrics.series import Attributes, FamilySnapshot, Point
from aiobs_core.semconv import metrics as names

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core._settings import Settings
    from aiobs_core.metrics.labels import LabelValues

_CHAIN: Final = Kind.CHAIN
_PLUMBING: Final = (Kind.CHAIN, Kind.PROMPT, Kind.PARSER, Kind.STAGE, Kind.PRODUCER)
_NOTHING: Final[Attributes] = ()


class ActiveRuns:
    """Counts the open runs by operation, model and framework, on the thread that wants to know.

    Args:
        runs: The table of open runs; only read here.
        settings: Those in force now.
        health: Told what goes wrong.
        known: What is told with 0 if nothing of it is open, since a gap looks like a lost target; it is added to.
        taken: Values that attributes have, by attribute.
        overflowed: Told the attribute that has too many values.
    """

    def __init__(
        self,
        runs: Mapping[Hashable, object],
        settings: Callable[[], Settings],
        health: Health,
        *,
        known: set[Attributes],
        taken: dict[str, set[str]],
        overflowed: Callable[[str], None],
    ) -> None:
        self._runs = runs
        self._settings = settings
        self._health = health
        self._overflowed = overflowed
        self._lock = threading.Lock()  # detectors are for one thread at a time, and pages for several
        self._labels: LabelValues | None = None
        self._known = known
        self._taken = taken

    def __call__(self) -> Iterable[FamilySnapshot]:
        """The family at this instant."""
        with self._lock:
            counts = Counter(
                attributes
                for run in list(self._runs.values())
                if type(run) is AgentSpan and (attributes := self._attributes(run))
            )
            self._known.update(counts)
            points = [Point(attributes, counts[attributes]) for attributes in list(self._known)]
        return [FamilySnapshot(names.ACTIVE_INSTANCES, points)]

    def _attributes(self, span: AgentSpan) -> Attributes:
        found = span.active_as
        if found is None:
            try:
                found = self._found(span)
            except Exception as error:  # noqa: BLE001 (the mapping of foreign objects may raise anything)
                self._health.problem(
                    "metrics.active", f"aiobs: an open run could not be counted ({type(error).__name__})."
                )
                found = _NOTHING
            span.active_as = found
        return found

    def _found(self, span: AgentSpan) -> Attributes:
        source = span.operation
        operation = source if isinstance(source, Operation) or source is None else source()
        if operation is None or (operation.kind in _PLUMBING and not span.is_local_root):
            return _NOTHING
        kind = Kind.WORKFLOW if operation.kind is _CHAIN else operation.kind
        framework = span.scope.removeprefix(semconv.SCOPE_PREFIX)
        given = {
            names.OPERATION: operation.action or semconv.GEN_AI_OPERATIONS.get(kind, kind.value),
            names.MODEL: operation.model,
            names.FRAMEWORK: framework if framework != span.scope else None,
        }
        request = span.request
        policy = None if request is None else request.privacy_policy
        labels = self._label_values()
        return tuple(
            (name, labels.value(name, text, policy))
            for name, text in given.items()
            if type(text) is str and text
        )

    def _label_values(self) -> LabelValues:
        if self._labels is None:
            settings = self._settings()
            with uninterrupted_by_fork():
                from aiobs_core.metrics.labels import LabelValues
                from aiobs_core.privacy.stage import Privacy

            self._labels = LabelValues(
                Privacy(settings, self._health),
                max_values=settings.metric_max_values,
                taken=self._taken,
                overflowed=self._overflowed,
            )
        return self._labels
