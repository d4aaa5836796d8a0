"""The stage `price`: what each call cost by itself, and what everything inside a run cost."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from aiobs_core import semconv
from aiobs_core._operation import FORWARDED, Kind
from aiobs_core._run import Run
from aiobs_core.pricing.around import CostAround
from aiobs_core.pricing.book import PriceBook
from aiobs_core.pricing.budget import Budgets
from aiobs_core.privacy.content import Tally
from aiobs_core.semconv import metrics as names

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core._operation import Usage
    from aiobs_core._settings import Settings
    from aiobs_core._span import AgentSpan
    from aiobs_core.metrics.meters import Meters
    from aiobs_core.privacy.stage import Privacy

_log = logging.getLogger("aiobs.pricing")  # of its own: who runs models that have no price turns it off

# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_MODEL: Final = Kind.MODEL
_PRICED_KINDS: Final = (Kind.MODEL, Kind.EMBEDDING, Kind.RERANKER)
_NOTHING: Final = Decimal(0)
_MAX_REPORTED_USD: Final = 1_000_000  # of one call: beyond it is a slip, and would spoil the counter for good
_CACHE_HIT: Final = "cache_hit"
_MAX_UNPRICED: Final = 64  # models that are warned of


class CostBelow:
    """What the runs inside a span have cost so far; the worker's, on the span."""

    __slots__ = ("total_usd", "unpriced_calls")

    def __init__(self) -> None:
        self.total_usd: Decimal | None = None  # None: nothing inside has a price
        self.unpriced_calls = 0


_PASSED: Final = CostBelow()
"""Of a span that has come by: what comes now counts for those above it."""


class Pricer:
    """Prices model calls, takes what tools and retrievers report, and adds both up to the root. Used by the worker only.

    A parent ends after its children, so their costs are known when it comes by. What ends later than its parent counts for
    the next ancestor that has not ended.
    """

    def __init__(self, settings: Settings, health: Health, meters: Meters, privacy: Privacy) -> None:
        self._book = PriceBook(settings.price_file)
        self._default_tier = settings.service_tier or None
        self._health = health
        self._privacy = privacy
        self._budgets = Budgets(settings, meters)
        self._unpriced: set[tuple[str | None, str]] = set()
        self._around = CostAround()

    def price(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Price a batch; a run that cannot be priced is told of, and goes on without a cost."""
        out: list[Any] = []
        for item in batch:
            if type(item) is not Run:
                out.append(self._around.told(item))
            else:
                out.append(item)
                try:
                    self._price(item)
                except Exception as error:  # noqa: BLE001 (odd counts of a foreign object; the rest of the batch goes on)
                    self._health.problem(
                        "price", f"aiobs: a run could not be priced ({type(error).__name__}); it has no cost."
                    )
        return out

    def _price(self, run: Run) -> None:
        span, unpriced = run.span, 0
        cost_usd: Decimal | None = None
        usage = run.outcome.usage
        source = None if usage is None else usage.source
        if source == _CACHE_HIT:
            run.cost_source = _CACHE_HIT  # the framework's own: known to cost nothing
            cost_usd = _NOTHING
        elif source != FORWARDED:  # else whoever has answered is billed
            cost_usd = self._reported(run)
            if cost_usd is None and usage is not None and run.kind in _PRICED_KINDS:
                cost_usd, unpriced = self._by_the_book(run, usage)
        if cost_usd is not None:
            run.cost_usd = float(cost_usd)
            if cost_usd and self._budgets.are_set:
                self._budgets.spend(run, cost_usd)
        total_usd, below = cost_usd, span.below
        span.below = _PASSED
        if below is not None:
            unpriced += below.unpriced_calls
            if below.total_usd is not None:
                total_usd = below.total_usd + (cost_usd or _NOTHING)
        if total_usd is not None:
            run.cost_total_usd = run.cost_usd if total_usd is cost_usd else float(total_usd)
        if below is not None or span.parent is None:
            run.is_sum = True
            run.unpriced_calls = unpriced
        if run.above is not None and (total_usd is not None or unpriced):
            _add(run.above, total_usd, unpriced)
        elif span.parent_context is not None:
            self._around.add(span.parent_context, total_usd, unpriced)

    def _reported(self, run: Run) -> Decimal | None:
        """What the call says that it cost: the application's word, the framework's, the gateway's."""
        attributes = run.span.attributes
        given: object = attributes.get(semconv.COST_USD) if attributes else None
        if given is None:
            given = run.outcome.cost_usd
        if type(given) is not float and type(given) is not int:
            return None
        if not 0 <= given <= _MAX_REPORTED_USD:
            self._health.problem(
                "price.reported",
                f"aiobs: a run reported {given!r} as {semconv.COST_USD}; expected dollars, from 0 to a million. It has no cost.",
            )
            if attributes:
                attributes.pop(semconv.COST_USD, None)
            return None
        run.cost_source = "reported"
        return Decimal(repr(given))

    def _by_the_book(self, run: Run, usage: Usage) -> tuple[Decimal | None, int]:
        """The cost, and how many calls with tokens have none."""
        operation, outcome = run.operation, run.outcome
        model = operation.model or outcome.model
        if not model or (usage.input_tokens is None and usage.output_tokens is None):
            return None, 0
        if run.kind is _MODEL and (usage.input_tokens is None or usage.output_tokens is None):
            run.is_unpriced = True  # half a bill looks like a whole one
            return None, 1
        tier = self._tier(outcome.service_tier, operation.params)
        call = (operation.provider, model, outcome.model, operation.endpoint, tier)
        run.price = price = self._book.price(call, run.span.start_ns)
        if price is None:
            self._note_unpriced(run, model)
            return None, 1
        return price[1].rates.total(usage), 0

    def _tier(self, answered: str | None, params: Mapping[str, object]) -> str | None:
        """The tier that the call is billed in: what answered, but for a batch, of which answers do not tell."""
        asked = params.get("service_tier")
        if not isinstance(asked, str) or asked == "auto":
            asked = self._default_tier
        return asked if asked == "batch" else answered or asked

    def _note_unpriced(self, run: Run, model: str) -> None:
        run.is_unpriced = True
        named = (run.operation.provider, model)
        if named in self._unpriced or len(self._unpriced) >= _MAX_UNPRICED:
            return
        self._unpriced.add(named)
        operation, request = run.operation, run.span.request
        rules = self._privacy.rules(None if request is None else request.privacy_policy)
        _log.log(
            logging.WARNING if self._book.sells(operation.provider, operation.endpoint) else logging.INFO,
            "aiobs knows no price of the model %r (provider %s): its calls have no cost, and %s counts them. `aiobs prices "
            "explain MODEL` says why; a price file (AIOBS_PRICE_FILE) adds one.",
            self._privacy.text(semconv.MODEL_NAME, model, rules, Tally(), max_chars=80),
            _known(named[0]),
            names.UNPRICED.sample_name,
        )


def _known(provider: str | None) -> str:
    """The provider, if its name is one: it stands in a log, and applications may call theirs anything."""
    return (
        provider
        if provider and len(provider) <= 40 and provider.replace(".", "_").isidentifier()
        else "unknown"
    )


def _add(above: AgentSpan, total_usd: Decimal | None, unpriced_calls: int) -> None:
    span: AgentSpan | None = above
    while span is not None and span.below is _PASSED:
        span = span.parent
    if span is None:
        return
    below = span.below
    if below is None:
        below = span.below = CostBelow()
    below.unpriced_calls += unpriced_calls
    if total_usd is not None:
        below.total_usd = (below.total_usd or _NOTHING) + total_usd
