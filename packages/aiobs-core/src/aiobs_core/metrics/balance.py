"""The balance of spans, as metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from aiobs_core.metrics.series import FamilySnapshot, Point
from aiobs_core.semconv import metrics as names

if TYPE_CHECKING:
    from aiobs_core._balance import Counts


def balance_metrics(counts: Counts) -> Sequence[FamilySnapshot]:
    """What became of spans, what waits, and what may have arrived twice."""
    states = {
        names.RECEIVED: counts.received,
        names.SAMPLED_OUT: counts.sampled_out,
        names.EXPORTED: counts.exported,
        names.STORED: counts.stored,
    }
    points = [Point(((names.STATE, state),), count) for state, count in states.items()]
    points += [
        Point(((names.STATE, names.DROPPED), (names.REASON, reason)), count)
        for reason, count in counts.dropped.items()
    ]
    return [
        FamilySnapshot(names.TELEMETRY_SPANS, points),
        FamilySnapshot(names.TELEMETRY_WAITING, [Point((), counts.waiting + counts.held)]),
        FamilySnapshot(names.TELEMETRY_REPEATED, [Point((), counts.repeated)]),
    ]
