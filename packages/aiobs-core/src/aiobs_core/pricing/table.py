"""The price table: a file of providers, models and prices with a day each, and the search for a model in it.

`prices.json` is made by tools/make_prices.py; how it reads stands in its head. Rows are parsed when they match, so a
table is there in milliseconds although it holds thousands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiobs_core.pricing.cost import Price

BUNDLED: Final = Path(__file__).with_name("prices.json")
FORMAT: Final = 1
DAY_NS: Final = 86_400 * 10**9
_MAX_USD: Final = 10_000
_NOT_PRICES: Final = frozenset({"from", "hours", "when"})
_PRICE_NAME: Final = re.compile(r"[a-z0-9_]+_(mtok|kcount|kpages|hours|mchars|gpixels)$")
_COMPACT_DAY: Final = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_Row = Mapping[str, Any]


class Period(NamedTuple):
    """Prices and when they are in force.

    Attributes:
        prices: By the table's names.
        start: First day, ISO; None if it is not known.
        start_ns: Its first instant, Unix time.
        hours_ns: Time of day from and to, in nanoseconds after midnight UTC.
        when: What a call has to say for a variant to hold.
    """

    prices: Mapping[str, Price]
    start: str | None = None
    start_ns: int | None = None
    hours_ns: tuple[int, int] | None = None
    when: Mapping[str, str] = {}

    def is_active(self, at_ns: int) -> bool:
        """Whether the prices hold at that instant."""
        if self.start_ns is not None and at_ns < self.start_ns:
            return False
        if self.hours_ns is None:
            return True
        start, end = self.hours_ns
        now = at_ns % DAY_NS
        return start <= now < end if start <= end else now >= start or now < end


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One row.

    Attributes:
        id: Its name in the table.
        periods: The last active one counts, else the first; none if the model has no price.
        variants: What replaces single prices for calls of another kind, such as batches.
        source: Where the price was read.
        date: First day of the price, or the day up to which the table is known to be right.
    """

    id: str
    periods: tuple[Period, ...]
    variants: tuple[Period, ...]
    source: str
    date: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """A provider with its models as they stand in the file."""

    id: str
    api: str
    match: object
    model_match: object
    fallback: tuple[str, ...]
    rows: Sequence[_Row]


class Table:
    """All providers, in the order of the file, which is the order of precedence."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        if data.get("format") != FORMAT:
            raise ValueError(f"format: got {data.get('format')!r}, expected {FORMAT}")
        self.as_of = _day(data["as_of"], "as_of").isoformat()
        self.made_from: Mapping[str, str] = data.get("made_from", {})
        self.providers = {row["id"]: _provider(row) for row in data["providers"]}

    def provider_named(self, name: str) -> Provider | None:
        """The provider of that id, or to which that name belongs."""
        wanted = name.lower().strip()
        if found := self.providers.get(wanted):
            return found
        return next((each for each in self.providers.values() if fits(each.match, wanted)), None)

    def providers_at(self, url: str) -> Iterator[Provider]:
        """The providers whose address it is."""
        return (each for each in self.providers.values() if _is_address_of(each.api, url))

    def provider_of(self, model: str) -> Provider | None:
        """The provider to whom models of that name belong, where nothing else is known."""
        wanted = model.lower()
        return next((each for each in self.providers.values() if fits(each.model_match, wanted)), None)

    def find(self, provider: Provider, model: str) -> tuple[Model, bool] | None:
        """The row of a model.

        Args:
            provider: Who was called.
            model: Its name, as it was asked for or answered.

        Returns:
            The row, and whether it is the provider's own, not one of those whose models it resells at their price.
        """
        wanted = model.lower()
        # Gateways write a day as 20251211 where the provider has 2025-12-11.
        for name in dict.fromkeys((wanted, _with_dashes(wanted))):
            for seller in (provider.id, *provider.fallback):
                for row in self.providers[seller].rows if seller in self.providers else ():
                    if fits(row["match"], name):
                        return model_of(row), seller == provider.id
        return None


def read_table(path: Path) -> Table:
    """The table in a file.

    Raises:
        ValueError: If it is no table.
        OSError: If it cannot be read.
    """
    try:
        return Table(json.loads(path.read_bytes(), parse_float=Decimal))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no price table ({type(error).__name__}: {error})") from None


def check_table(table: Table) -> None:
    """Parse every row.

    Raises:
        ValueError: Naming provider, model and field of the first thing that is wrong.
    """
    for provider in table.providers.values():
        ids: set[str] = set()
        for match in (provider.match, provider.model_match):
            _check_match(match, f"{provider.id}, match")
        for place, row in enumerate(provider.rows, 1):
            where = (
                f"{provider.id}, row {place} ({row['id'] if isinstance(row, dict) and 'id' in row else row})"
            )
            try:
                model = model_of(row)
            except (KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{where}: {type(error).__name__}: {error}") from None
            except ValueError as error:
                raise ValueError(f"{where}, {error}") from None
            _check_match(row["match"], f"{where}, match")
            if model.id in ids:
                raise ValueError(f"{where}, id: there is a row of this id already")
            ids.add(model.id)


def fits(match: object, text: str) -> bool:
    """Whether a match of the table fits a name in small letters; nothing fits None."""
    if isinstance(match, str):
        if match.startswith("/"):
            return re.search(match[1:-1], text) is not None
        if match.startswith("*"):
            return match[1:-1] in text if match.endswith("*") else text.endswith(match[1:])
        return text.startswith(match[:-1]) if match.endswith("*") else text == match
    if isinstance(match, list):
        return any(fits(each, text) for each in match)
    return isinstance(match, dict) and all(fits(each, text) for each in match["all"])


def model_of(row: _Row) -> Model:
    """A row, parsed.

    Raises:
        ValueError: Naming the field that is wrong.
    """
    periods = tuple(_period(each, "prices") for each in row.get("prices", ()))
    if row.get("free"):
        periods = (Period({}),)
    variants = tuple(_period(each, "variants") for each in row.get("variants", ()))
    return Model(
        id=row["id"],
        periods=periods,
        variants=variants,
        source=row["source"],
        date=_day(row["date"], "date").isoformat(),
    )


def _provider(row: _Row) -> Provider:
    re.compile(row["api"])
    return Provider(
        id=row["id"],
        api=row["api"],
        match=row.get("match"),
        model_match=row.get("model_match"),
        fallback=tuple(row.get("fallback", ())),
        rows=row["models"],
    )


def _period(raw: _Row, field: str) -> Period:
    start = _day(raw["from"], f"{field}.from") if "from" in raw else None
    hours = raw.get("hours")
    return Period(
        prices={
            name: _price(value, f"{field}.{name}") for name, value in raw.items() if name not in _NOT_PRICES
        },
        start=None if start is None else start.isoformat(),
        start_ns=None
        if start is None
        else int(datetime.combine(start, time(), timezone.utc).timestamp()) * 10**9,
        hours_ns=None if hours is None else _hours_ns(hours),
        when=raw.get("when", {}),
    )


def _day(value: object, field: str) -> date:
    try:
        return date.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"{field}: got {value!r}, expected a day such as 2026-01-31") from None


def _hours_ns(text: str) -> tuple[int, int]:
    start, end = (time.fromisoformat(part) for part in text.split("-"))
    return _after_midnight_ns(start), _after_midnight_ns(end)


def _after_midnight_ns(moment: time) -> int:
    return (moment.hour * 3600 + moment.minute * 60 + moment.second) * 10**9


def _price(value: object, field: str) -> Price:
    if not _PRICE_NAME.match(field.partition(".")[2]):
        raise ValueError(f"{field}: not the name of a price")
    if not isinstance(value, list):
        return _usd(value, field), ()
    base, *tiers = value
    steps = tuple((start, _usd(amount, field)) for start, amount in tiers)
    starts = [start for start, _ in steps]
    if any(type(start) is not int or start < 0 for start in starts) or sorted(set(starts)) != starts:
        raise ValueError(f"{field}: got steps at {starts}, expected counts of tokens in rising order")
    return _usd(base, field), steps


def _usd(value: object, field: str) -> Decimal:
    if type(value) not in (int, Decimal) or not 0 <= (amount := Decimal(str(value))) <= _MAX_USD:
        raise ValueError(f"{field}: got {value!r}, expected a number of USD from 0 to {_MAX_USD}")
    return amount


def _check_match(match: object, where: str) -> None:
    try:
        fits(match, "")
    except (re.error, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{where}: {error}") from None


def _is_address_of(pattern: str, url: str) -> bool:
    found = re.match(pattern, url)
    # `https://api.openai.com.example.org` is somebody else; a pattern that ends in a dot means more to follow.
    return found is not None and (
        pattern.endswith(".") or not re.match(r"[\w.-]", url[found.end() :]) or url[found.end() - 1] == "/"
    )


def _with_dashes(model: str) -> str:
    def dashed(found: re.Match[str]) -> str:
        try:
            return f"-{date(*map(int, found.groups())).isoformat()}"
        except ValueError:  # 31 February
            return found[0]

    return _COMPACT_DAY.sub(dashed, model)
