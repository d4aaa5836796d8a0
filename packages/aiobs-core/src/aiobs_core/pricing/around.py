"""What the runs inside another instrumentation's span cost: told on it when it ends, and by it to the one around it."""

from __future__ import annotations

from collections import OrderedDict
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from aiobs_core import semconv
from aiobs_core.privacy.foreign import ForeignSpan

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext

_MAX_OPEN: Final = 4_096  # spans with costs inside that have not ended; the oldest are forgotten
_NOTHING: Final = Decimal(0)


class CostAround:
    """Sums by the span around root runs. Used by the worker only; knows spans of this process only."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[int, int], tuple[Decimal | None, int]] = OrderedDict()

    def add(self, around: SpanContext, total_usd: Decimal | None, unpriced_calls: int) -> None:
        """Count what a run, or a span, right inside that span has cost."""
        if around.is_remote or (total_usd is None and not unpriced_calls):
            return
        key = around.trace_id, around.span_id
        known_usd, known_calls = self._open.pop(key, (None, 0))
        if total_usd is not None:
            known_usd = (known_usd or _NOTHING) + total_usd
        self._open[key] = known_usd, known_calls + unpriced_calls
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)

    def told(self, item: ReadableSpan | ForeignSpan) -> ReadableSpan | ForeignSpan:
        """The span with what everything inside it has cost, once it has ended; the same where that is nothing."""
        if not self._open:
            return item
        span = item.span if isinstance(item, ForeignSpan) else item
        context = span.context
        found = None if context is None else self._open.pop((context.trace_id, context.span_id), None)
        if found is None:
            return item
        total_usd, unpriced_calls = found
        if span.parent is not None:
            self.add(span.parent, total_usd, unpriced_calls)
        told: dict[str, Any] = {}
        if total_usd is not None:
            told[semconv.COST_TOTAL_USD] = float(total_usd)
        if unpriced_calls:
            told[semconv.COST_UNPRICED_CALLS] = unpriced_calls
        return item._replace(told=told) if isinstance(item, ForeignSpan) else ForeignSpan(span, None, told)
