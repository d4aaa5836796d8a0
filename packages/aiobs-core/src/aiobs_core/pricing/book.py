"""The price book: which price is that of a call, found once and remembered."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from aiobs_core._operation import Usage
from aiobs_core.pricing.cost import NOTHING, Cost, Rates
from aiobs_core.pricing.file import FilePrice, PriceFile
from aiobs_core.pricing.location import newest_table
from aiobs_core.pricing.names import (
    address,
    is_local_file,
    is_ones_own,
    provider_at,
    spellings,
    table_provider,
)
from aiobs_core.pricing.table import Model, Period, Provider, Table

_log = logging.getLogger("aiobs")
_MAX_REMEMBERED: Final = 2048
_STANDARD: Final = frozenset({"", "auto", "default", "on_demand", "on-demand", "standard", "standard_only"})
_TIERS: Final[
    Mapping[str, Mapping[str, str]]
] = {  # the providers' words → what a call says, as the table has it
    "batch": {"processing": "batch"},
    "fast": {"service_tier": "fast", "speed": "fast"},
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
}


CallFacts = tuple[str | None, str, str | None, str | None, str | None]
"""The same as `Call`, which takes longer to make."""


class Call(NamedTuple):
    """What decides on the price of a call, besides its day."""

    provider: str | None
    model: str
    response_model: str | None = None
    endpoint: str | None = None
    tier: str | None = None


class InForce(NamedTuple):
    """Prices at one time, with the first day of the youngest of them."""

    rates: Rates
    start: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One row's prices for one kind of call.

    Attributes:
        provider: Id of the provider.
        model: Id of the row.
        source: `table` or `file`.
        periods: The last active one counts.
        variants: Those that hold for this kind of call.
        has_earliest: Before all periods, the first counts.
        reference: Where the price was read.
        date: Day of the row.
    """

    provider: str
    model: str
    source: str
    periods: Sequence[Period]
    variants: Sequence[Period] = ()
    has_earliest: bool = True
    reference: str | None = None
    date: str | None = None

    def in_force(self, at_ns: int, made: dict[tuple[int, ...], InForce]) -> InForce | None:
        """The prices at an instant.

        Args:
            at_ns: Unix time.
            made: What was made for this offer before; it is added to.

        Returns:
            None if there is no price then.
        """
        last = len(self.periods) - 1
        chosen = next((at for at in range(last, -1, -1) if self.periods[at].is_active(at_ns)), None)
        if chosen is None:
            if not self.has_earliest or last < 0:
                return None
            chosen = 0
        key = (chosen, *(at for at, each in enumerate(self.variants) if each.is_active(at_ns)))
        if key not in made:
            made[key] = self._made(*key)
        return made[key]

    def _made(self, chosen: int, *variants: int) -> InForce:
        period = self.periods[chosen]
        prices, start = dict(period.prices), period.start
        for variant in reversed(
            [self.variants[at] for at in variants]
        ):  # of two that price the same, the first counts
            prices.update(variant.prices)
            start = variant.start or start
        return InForce(Rates(prices), start)


class Found(NamedTuple):
    """What is known of a kind of call.

    Attributes:
        offers: The first with a price at the time of the call counts; none if the model is unknown.
        notes: How they were found, or why none was.
        made: Prices made so far, for each offer.
    """

    offers: Sequence[Offer]
    notes: Sequence[str]
    made: Sequence[dict[tuple[int, ...], InForce]]

    def in_force(self, at_ns: int) -> tuple[Offer, InForce] | None:
        """The offer and its prices at an instant."""
        for offer, made in zip(self.offers, self.made, strict=True):
            if (found := offer.in_force(at_ns, made)) is not None and found.rates.count_tokens_or_requests:
                return offer, found
        return None


class PriceBook:
    """What calls cost.

    For one thread. The table is read on the first call, which takes some milliseconds; a call after that, some
    microseconds. It never goes to the network.

    Example:
        >>> usage = Usage(input_tokens=1000, output_tokens=500, cache_read_tokens=200)
        >>> cost = PriceBook().cost(provider="openai", model="gpt-4o", usage=usage, at_ns=1_790_000_000 * 10**9)
        >>> float(cost.total_usd)
        0.00725
    """

    def __init__(self, overrides: PriceFile | None = None) -> None:
        self._overrides = overrides
        self._table: Table | None = None
        self._found: dict[CallFacts, Found] = {}
        self._recent: dict[CallFacts, tuple[int, tuple[Offer, InForce] | None]] = {}

    @property
    def table(self) -> Table:
        """The table, read when it is first asked for."""
        if self._table is None:
            self._table = newest_table()
        return self._table

    def cost(
        self,
        *,
        provider: str | None,
        model: str,
        usage: Usage,
        at_ns: int,
        endpoint: str | None = None,
        tier: str | None = None,
        response_model: str | None = None,
    ) -> Cost | None:
        """What a call cost.

        Args:
            provider: As in `gen_ai.provider.name`, or as a framework calls it.
            model: The model that was asked for.
            usage: Its tokens. An unknown count is nothing billed; with both totals unknown there is no cost. A part that
                exceeds its total is billed in full. What was answered from a cache on this side costs 0.
            at_ns: When it ran, Unix time.
            endpoint: Base URL that the client was given: it says who is paid, whatever `provider` says.
            tier: The provider's word for the service tier; one without a price of its own has the standard price.
            response_model: The model that answered; believed where it has a price.

        Returns:
            None if the price is not known, which is not 0.
        """
        if usage.input_tokens is None and usage.output_tokens is None:
            return None
        priced = self.price(Call(provider, model, response_model, endpoint, tier), at_ns)
        if priced is None:
            return None
        offer, (rates, start) = priced
        bill = NOTHING if usage.source == "cache_hit" else rates.bill(usage)
        return Cost(*bill, offer.provider, offer.model, offer.source, start)

    def price(self, call: CallFacts, at_ns: int) -> tuple[Offer, InForce] | None:
        """Who sells a kind of call, and at which prices at an instant (Unix time); None if that is not known."""
        at_s = at_ns // 1_000_000_000  # prices change on whole minutes
        recent = self._recent.get(call)
        if recent is None or recent[0] != at_s:
            found = self._found.get(call) or self._remember(Call(*call))
            recent = self._recent[call] = at_s, found.in_force(at_ns)
        return recent[1]

    def sells(self, provider: str | None, endpoint: str | None) -> bool:
        """Whether whoever serves a call is in the table, so that a model without a price is a surprise."""
        found, _ = self._provider(Call(provider, "", None, endpoint), [])
        return found is not None

    def find(self, call: Call) -> Found:
        """The prices for a kind of call and how they were found, without remembering them."""
        notes: list[str] = []
        offers = [offer for offer in self._offers(call, notes) if offer is not None]
        if offers and (note := _tier_note(offers, call.tier)):
            notes.append(note)
        return Found(offers, notes, [{} for _ in offers])

    def _remember(self, call: Call) -> Found:
        if len(self._found) >= _MAX_REMEMBERED:
            self._recent.clear()
            self._found.clear()  # names without end are a mistake or an attack: no order of leaving is worth its time
        try:
            found = self.find(call)
        except Exception as error:  # noqa: BLE001 (a price file or table that breaks a rule nobody thought of)
            _log.warning(
                "aiobs: the price of a call cannot be found (%s); it has no cost.",  # without names: they may be anything
                type(error).__name__,
            )
            found = Found((), (), ())
        self._found[call] = found
        return found

    # --- the user's prices, then the table's ----------------------------------------------------------------------

    def _offers(self, call: Call, notes: list[str]) -> Iterator[Offer | None]:
        names = [name for name in (call.model, call.response_model) if name]
        alias = self._alias(names, notes)
        if self._overrides is not None:
            yield from self._own(call, [alias[1]] if alias else names, alias and alias[0])
        if alias is not None:
            provider = table_provider(self.table, alias[0])
            if provider is None:
                notes.append(f"the table has no provider {alias[0]}")
            else:
                yield self._listed([alias[1]], provider, call.tier, notes)
            return
        if any(map(is_local_file, names)):
            notes.append("a model from a file has no price, unless a price file gives one")
            return
        yield from self._of_table(call, notes)

    def _of_table(self, call: Call, notes: list[str]) -> Iterator[Offer | None]:
        provider, is_known = self._provider(call, notes)
        if not is_known:
            return
        # A deployment's name tells nothing, and an alias moves: the model that answered is the one that is billed. Not so
        # for a model of one's own: what answers may call itself by the name of its base, which has another price.
        names = [call.response_model, call.model] if not is_ones_own(call.model) else [call.model]
        yield self._listed([name for name in names if name], provider, call.tier, notes)

    def _alias(self, names: Sequence[str], notes: list[str]) -> tuple[str, str] | None:
        """Provider and model that the user says a name stands for."""
        aliases = (
            {name.lower(): target for name, target in self._overrides.aliases} if self._overrides else {}
        )
        for name in names:
            if target := aliases.get(name.lower()):
                notes.append(f"the price file says that {name} is {target}")
                provider, _, model = target.partition("/")
                return provider, model
        return None

    def _own(self, call: Call, names: Sequence[str], alias_provider: str | None) -> Iterator[Offer]:
        """The user's prices, the one that says the most about the call first."""
        assert self._overrides is not None
        provider = alias_provider or call.provider
        ids = {name.lower() for name in (provider, self._table_id(provider)) if name}
        called = address(call.endpoint) if call.endpoint else None
        rows = [
            row
            for row in self._overrides.prices
            if row.fits(names, provider_ids=ids, address=called, tier=call.tier)
        ]
        if not rows:
            return
        groups: dict[tuple[object, ...], list[FilePrice]] = {}
        for row in sorted(rows, key=FilePrice.says, reverse=True):
            groups.setdefault(row.key, []).append(row)
        for group in groups.values():
            periods = sorted((row.period for row in group), key=lambda period: period.start or "")
            yield Offer(
                provider=group[0].provider or provider or "unknown",
                model=group[0].model,
                source="file",
                periods=periods,
                has_earliest=False,
                reference=group[0].source,
                date=periods[-1].start,
            )

    def _table_id(self, provider: str | None) -> str | None:
        """Id of the table for a provider; not asked for, and so the table not read, without need."""
        assert self._overrides is not None
        if provider is None or all(row.provider is None for row in self._overrides.prices):
            return None
        found = table_provider(self.table, provider)
        return None if found is None else found.id

    def _provider(self, call: Call, notes: list[str]) -> tuple[Provider | None, bool]:
        """Who is paid, and whether a search makes sense: not at an address, or under a name, that nobody knows."""
        named = table_provider(self.table, call.provider) if call.provider else None
        if call.endpoint:
            return self._provider_at(call.endpoint, named, notes)
        if call.provider and call.provider.lower() == "litellm":  # it says whom it asks in front of the model
            return table_provider(
                self.table, call.model.partition("/")[0]
            ) if "/" in call.model else None, True
        if named is None and call.provider:
            notes.append(f"the table has no provider {call.provider}")
            return None, False
        return named, True

    def _provider_at(
        self, endpoint: str, named: Provider | None, notes: list[str]
    ) -> tuple[Provider | None, bool]:
        host = address(endpoint)
        for place, id_ in self._overrides.endpoints if self._overrides else ():
            if host == place or host.startswith(place + "/"):
                notes.append(f"the price file says that {place} is {id_}")
                found = table_provider(self.table, id_)
                return found, found is not None
        found = provider_at(self.table, endpoint, None if named is None else named.id)
        if found is None:
            notes.append(f"{host} is no provider's address that the table knows")
        elif found is not named:
            notes.append(f"{host} is the address of {found.id}")
        return found, found is not None

    def _listed(
        self, names: Sequence[str], provider: Provider | None, tier: str | None, notes: list[str]
    ) -> Offer | None:
        """The table's row for the first name that has one with a price."""
        for name in names:
            for spelling in spellings(name, table=self.table, provider=provider):
                seller = provider or self._seller(spelling.model, spelling.provider)
                found = self.table.find(seller, spelling.model) if seller is not None else None
                if seller is None or found is None:
                    continue
                model, is_own = found
                if spelling.note:
                    notes.append(spelling.note)
                notes.append(f"{spelling.model} is the row {model.id} of {seller.id}")
                if model.periods:
                    return _offer(seller, model, is_own=is_own, tier=tier)
                notes.append("the row has no price")
                break
        notes.append(f"no row of {provider.id if provider else 'the table'} fits {' or '.join(names)}")
        return None

    def _seller(self, model: str, asked: str | None) -> Provider | None:
        return self.table.providers.get(asked) if asked is not None else self.table.provider_of(model)


def _offer(seller: Provider, model: Model, *, is_own: bool, tier: str | None) -> Offer:
    said = _TIERS.get((tier or "").lower(), {})
    # What a reseller takes for another kind of call is not what the maker takes.
    variants = [each for each in model.variants if is_own and said and each.when.items() <= said.items()]
    return Offer(
        provider=seller.id,
        model=model.id,
        source="table",
        periods=model.periods,
        variants=variants,
        reference=model.source,
        date=model.date,
    )


def _tier_note(offers: Sequence[Offer], tier: str | None) -> str | None:
    if tier is None or tier.lower() in _STANDARD or offers[0].source == "file" or offers[0].variants:
        return None
    return f"there is no price for the tier {tier}: the standard price is taken"
