"""Budgets: told when they are crossed, and never more than that."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from aiobs_core import semconv
from aiobs_core.metrics.series import FamilySnapshot, Point
from aiobs_core.semconv import metrics as names

if TYPE_CHECKING:
    from aiobs_core._run import Run
    from aiobs_core._settings import Settings
    from aiobs_core.metrics.meters import Meters

_log = logging.getLogger("aiobs")
_NS_PER_S: Final = 1_000_000_000
_PERIODS_S: Final = {"hour": 3_600, "day": 86_400}
_NOTHING: Final = Decimal(0)


class Window:
    """One clock period: an hour or a day of UTC."""

    __slots__ = ("is_crossed", "length_ns", "limit_usd", "name", "number", "spent_usd")

    def __init__(self, name: str, length_s: int, limit_usd: Decimal) -> None:
        self.name = name
        self.length_ns = length_s * _NS_PER_S
        self.limit_usd = limit_usd
        self.number = -1
        self.spent_usd = _NOTHING
        self.is_crossed = False


class Budgets:
    """What was spent of the budgets that are set, by this process. Used by the worker only.

    Crossing one adds an event to the span of the call that did it, counts in `ai.agent.budget.exceeded` and logs a warning:
    once for each hour, day or request.

    Attributes:
        are_set: Whether there is one, so that what is spent has to be told.
    """

    def __init__(self, settings: Settings, meters: Meters) -> None:
        self._meters = meters
        meters.observe("budgets", self.observed)
        limits = {"hour": settings.budget_usd_per_hour, "day": settings.budget_usd_per_day}
        self._windows = []
        for name, limit in limits.items():
            if limit:  # what was spent stays spent when settings change
                window = meters.windows.setdefault(name, Window(name, _PERIODS_S[name], Decimal(repr(limit))))
                window.limit_usd = Decimal(repr(limit))
                self._windows.append(window)
        limit_usd = settings.budget_usd_per_request
        self._per_request_usd = Decimal(repr(limit_usd)) if limit_usd else None
        self.are_set = bool(self._windows) or self._per_request_usd is not None

    def spend(self, run: Run, cost_usd: Decimal) -> None:
        """Take what a call cost from the budgets."""
        if self._per_request_usd is not None:
            trace = run.span.trace
            before_usd = trace.spent_usd or _NOTHING
            trace.spent_usd = spent_usd = before_usd + cost_usd
            if before_usd <= self._per_request_usd < spent_usd:
                self._cross(run, "request", self._per_request_usd, spent_usd)
        for window in self._windows:
            number = run.span.end_ns // window.length_ns
            if number > window.number:
                window.number, window.spent_usd, window.is_crossed = number, _NOTHING, False
            # Of an earlier window, too: a call that ended before it came by here.
            window.spent_usd += cost_usd
            if window.spent_usd > window.limit_usd and not window.is_crossed:
                window.is_crossed = True
                self._cross(run, window.name, window.limit_usd, window.spent_usd)

    def observed(self) -> Iterable[FamilySnapshot]:
        """What is spent of hour and day, as a family of metrics; may be called from any thread."""
        now_ns = time.time_ns()
        points = [
            Point(
                ((names.BUDGET, window.name),),
                float(window.spent_usd) if now_ns // window.length_ns == window.number else 0.0,
            )
            for window in self._windows
        ]
        return [FamilySnapshot(names.BUDGET_SPENT, points)]

    def _cross(self, run: Run, budget: str, limit_usd: Decimal, spent_usd: Decimal) -> None:
        with self._meters.lock:
            self._meters.number(names.BUDGET_EXCEEDED, ((names.BUDGET, budget),)).value += 1
        span = run.span
        told: dict[str, Any] = {
            semconv.BUDGET_NAME: budget,
            semconv.BUDGET_LIMIT_USD: float(limit_usd),
            semconv.BUDGET_SPENT_USD: float(spent_usd),
        }
        span.events = [*(span.events or []), (semconv.EVENT_BUDGET_EXCEEDED, span.end_ns, told)]
        _log.warning(
            "aiobs: the budget of $%s per %s is exceeded: $%s spent (trace %032x). Nothing is blocked; %s counts it.",
            limit_usd,
            budget,
            spent_usd,
            span.trace.trace_id,
            names.BUDGET_EXCEEDED.sample_name,
        )
