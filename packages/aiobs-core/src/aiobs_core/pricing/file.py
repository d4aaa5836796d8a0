"""The user's own prices: a TOML file with a row for each price, and names for deployments and gateways.

A file is taken as a whole or not at all: half of somebody's prices would be wrong sums that look right.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timezone
from decimal import Decimal
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from aiobs_core.pricing.cost import REQUESTS, Price
from aiobs_core.pricing.names import address
from aiobs_core.pricing.table import Period

PRICE_NAMES: Final = {  # a field of the file → price in the table, and the field that has to be there with it
    "input": ("input_mtok", None),
    "output": ("output_mtok", None),
    "cache_read": ("cache_read_mtok", "input"),
    "cache_write": ("cache_write_mtok", "input"),
    "cache_write_1h": ("cache_write_1h_mtok", "cache_write"),
    "cache_read_audio": ("cache_audio_read_mtok", "cache_read"),
    "reasoning": ("output_reasoning_mtok", "output"),
    "audio_input": ("input_audio_mtok", "input"),
    "audio_output": ("output_audio_mtok", "output"),
    "image_input": ("input_image_mtok", "input"),
    "image_output": ("output_image_mtok", "output"),
}
UNITS: Final = {"usd_per_million_tokens": 1, "usd_per_1k_tokens": 1000, "usd_per_token": 1_000_000}
_TEXTS: Final = ("model", "provider", "endpoint", "tier", "source", "unit")
_KEYS: Final = (*_TEXTS, "valid_from", *PRICE_NAMES, "per_request_usd", "free", "above")
_MAX_USD: Final = 10_000  # for a million tokens: the dearest model of 2026 costs 600
_MIN_USD: Final = Decimal("0.0001")  # the cheapest cache read costs 0.001; less is a price for one token
_MAX_REQUEST_USD: Final = 100
_REFUSED: Final = "the file is refused as a whole, and only the prices of the table are used"


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePrice:
    """One row of a price file."""

    model: str
    provider: str | None = None
    endpoint: str | None = None
    tier: str | None = None
    valid_from: date | None = None
    prices: tuple[tuple[str, Price], ...] = ()
    source: str | None = None

    @property
    def key(self) -> tuple[str | None, ...]:
        """What it is the price of, apart from the day."""
        return self.model, self.provider, self.endpoint, self.tier

    @property
    def period(self) -> Period:
        """Its prices and first day."""
        start = self.valid_from
        start_ns = (
            None if start is None else int(datetime.combine(start, time(), timezone.utc).timestamp()) * 10**9
        )
        return Period(dict(self.prices), None if start is None else start.isoformat(), start_ns)

    def fits(
        self, names: Sequence[str], *, provider_ids: Collection[str], address: str | None, tier: str | None
    ) -> bool:
        """Whether it is the price of a call.

        Args:
            names: Of the model.
            provider_ids: Names of the provider, in small letters.
            address: Host and path that are called.
            tier: Service tier of the call.
        """
        if self.provider is not None and self.provider not in provider_ids:
            return False
        if self.endpoint is not None and not (
            address == self.endpoint or (address or "").startswith(self.endpoint + "/")
        ):
            return False
        if self.tier is not None and self.tier != (tier or "").lower():
            return False
        return any(name.lower() == self.model or fnmatchcase(name.lower(), self.model) for name in names)

    def says(self) -> tuple[bool, bool, bool, bool, int, str]:
        """How much it says about a call: of several rows that fit, the one that says most counts."""
        is_exact = not re.search(r"[*?\[]", self.model)
        return (
            is_exact,
            self.endpoint is not None,
            self.provider is not None,
            self.tier is not None,
            len(self.model),
            self.model,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceFile:
    """A price file that was read; equal to another with the same content.

    Attributes:
        path: Where it was read.
        prices: Its rows.
        aliases: Names of deployments and the `provider/model` that each stands for.
        endpoints: Addresses of gateways and the provider whose prices hold there.
    """

    path: str
    prices: tuple[FilePrice, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    endpoints: tuple[tuple[str, str], ...] = ()


def read_price_file(path: str | Path, *, today: date | None = None) -> PriceFile:
    """The prices in a TOML file.

    Args:
        path: Of the file; `~` is the home folder.
        today: No price may begin later; the day in UTC if None.

    Raises:
        ValueError: With a line for everything that is wrong: file, row, field, what was given, what is accepted.
    """
    try:
        file = Path(path).expanduser()
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{path}: expected a readable file in UTF-8 ({reason}); {_REFUSED}") from None
    return _Reader(str(file), today or datetime.now(timezone.utc).date()).read(_toml(text, file))


def _toml(text: str, file: Path) -> Mapping[str, Any]:
    import sys

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text, parse_float=Decimal)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{file}: expected TOML ({error}); {_REFUSED}") from None


class _Reader:
    """Reads one file, and collects everything that is wrong with it."""

    def __init__(self, path: str, today: date) -> None:
        self._path = path
        self._today = today
        self._problems: list[str] = []

    def read(self, tables: Mapping[str, Any]) -> PriceFile:
        for key in tables.keys() - {"price", "aliases", "endpoints"}:
            self._wrong(key, "", tables[key], "the tables price, aliases and endpoints")
        rows = tables.get("price", [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            self._wrong("price", "", rows, "tables headed [[price]]")
            rows = []
        prices = [self._row(row, f"price {place}") for place, row in enumerate(rows, 1)]
        self._refuse_duplicates(prices)
        aliases = self._names(tables, "aliases", 'a name in quotes and its "provider/model"', r"[^/\s]+/\S+")
        endpoints = self._names(
            tables, "endpoints", "an address in quotes and the name of a provider", r"\S+"
        )
        if self._problems:
            raise ValueError("\n".join(self._problems))
        places = tuple(sorted((address(place), name) for place, name in endpoints))
        return PriceFile(path=self._path, prices=tuple(prices), aliases=aliases, endpoints=places)

    def _wrong(self, where: str, field: str, value: object, accepted: str) -> None:
        given = (
            "nothing" if value is None else str(value) if isinstance(value, (Decimal, date)) else repr(value)
        )
        name = f"{where}, {field}" if field else where
        self._problems.append(f"{self._path}: {name}: got {given[:80]}, expected {accepted}; {_REFUSED}.")

    def _row(self, row: Mapping[str, Any], where: str) -> FilePrice:
        for key in sorted(row.keys() - set(_KEYS)):
            self._wrong(where, key, row[key], f"one of the fields {', '.join(_KEYS)}")
        texts = {key: self._text(row, where, key) for key in _TEXTS}
        endpoint = texts["endpoint"]
        return FilePrice(
            model=(texts["model"] or "").lower(),
            provider=texts["provider"] and texts["provider"].lower(),
            endpoint=endpoint and address(endpoint),
            tier=texts["tier"] and texts["tier"].lower(),
            valid_from=self._day(row, where),
            prices=tuple(self._prices(row, where).items()),
            source=texts["source"],
        )

    def _text(self, row: Mapping[str, Any], where: str, key: str) -> str | None:
        value = row.get(key)
        if value is None and key != "model":
            return None
        if not isinstance(value, str) or not value.strip():
            self._wrong(
                where, key, value, "the model's name, with * for any letters" if key == "model" else "text"
            )
            return None
        return value.strip()

    def _day(self, row: Mapping[str, Any], where: str) -> date | None:
        given = row.get("valid_from")
        day = given
        if isinstance(given, str):
            try:
                day = date.fromisoformat(given)
            except ValueError:
                day = None
        if given is None:
            return None
        if not isinstance(day, date) or isinstance(day, datetime):
            self._wrong(where, "valid_from", given, "a day such as 2026-01-31")
            return None
        if day > self._today:
            self._wrong(
                where, "valid_from", given, f"a day that is not in the future (today is {self._today})"
            )
        return day

    # --- prices ---------------------------------------------------------------------------------------------------

    def _prices(self, row: Mapping[str, Any], where: str) -> dict[str, Price]:
        given = [name for name in PRICE_NAMES if name in row]
        if row.get("free", False) is not False:
            if row["free"] is not True:
                self._wrong(where, "free", row["free"], "true or false")
            for name in (*given, *(key for key in ("per_request_usd", "above") if key in row)):
                self._wrong(where, name, row[name], "no price beside `free = true`")
            return {}
        if not given and "per_request_usd" not in row:
            self._wrong(where, "input", None, "a price: input, output, per_request_usd, or free = true")
        for name in given:
            needed = PRICE_NAMES[name][1]
            if needed is not None and needed not in row:
                self._wrong(where, needed, None, f"a price, since {name} is a part of it")
        factor = self._factor(row, where) if given else 1
        steps = self._steps(row, where, given, factor)
        prices: dict[str, Price] = {}
        for name in given:
            amount = self._amount(row[name], where, name, factor)
            tiers = tuple((start, amounts[name]) for start, amounts in steps if name in amounts)
            prices[PRICE_NAMES[name][0]] = (amount, tiers)
        if "per_request_usd" in row:
            fee = self._number(
                row["per_request_usd"], where, "per_request_usd", _MAX_REQUEST_USD, "USD for a request"
            )
            prices[REQUESTS] = (fee * 1000, ())
        return prices

    def _factor(self, row: Mapping[str, Any], where: str) -> int:
        unit = row.get("unit")
        if not isinstance(unit, str) or unit not in UNITS:
            self._wrong(where, "unit", unit, f"one of {', '.join(UNITS)}")
            return 0  # of an unknown unit nothing can be said about the amounts
        return UNITS[unit]

    def _steps(
        self, row: Mapping[str, Any], where: str, given: Sequence[str], factor: int
    ) -> list[tuple[int, dict[str, Decimal]]]:
        """What `[[price.above]]` says: other prices for calls with more input tokens than it names."""
        tables = row.get("above", [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._wrong(where, "above", tables, "tables headed [[price.above]]")
            return []
        steps: dict[int, dict[str, Decimal]] = {}
        for place, table in enumerate(tables, 1):
            here = f"{where}, above {place}"
            start = table.get("input_tokens")
            if type(start) is not int or start < 1 or start in steps:
                self._wrong(
                    here, "input_tokens", start, "a number of input tokens that no other has, such as 200000"
                )
                continue
            for key in sorted(table.keys() - {"input_tokens", *given}):
                self._wrong(here, key, table[key], f"a price that the row has too: {', '.join(given)}")
            steps[start] = {
                name: self._amount(table[name], here, name, factor) for name in given if name in table
            }
        return sorted(steps.items())

    def _amount(self, value: object, where: str, field: str, factor: int) -> Decimal:
        """USD for a million tokens."""
        if not factor:
            return self._number(value, where, field, None, "USD")
        most = Decimal(_MAX_USD) / factor
        unit = next(name for name, of in UNITS.items() if of == factor)
        amount = self._number(value, where, field, most, unit) * factor
        if 0 < amount < _MIN_USD:
            least = f"{_MIN_USD / factor:f}"
            self._wrong(where, field, value, f"0, or at least {least} {unit}; look at `unit`")
        return amount

    def _number(
        self, value: object, where: str, field: str, most: Decimal | int | None, unit: str
    ) -> Decimal:
        number = Decimal(value) if type(value) is int else value
        is_number = isinstance(number, Decimal) and number.is_finite()
        if not is_number or number < 0 or (most is not None and number > most):  # type: ignore[operator]  # a number
            upper = "" if most is None else f" to {most:f}"
            self._wrong(where, field, value, f"a number from 0{upper} {unit}")
            return Decimal(0)
        assert isinstance(number, Decimal)
        return number

    # --- the file as a whole --------------------------------------------------------------------------------------

    def _refuse_duplicates(self, prices: Sequence[FilePrice]) -> None:
        places: dict[tuple[object, ...], int] = {}
        for place, price in enumerate(prices, 1):
            first = places.setdefault((*price.key, price.valid_from), place)
            if price.model and first != place:
                accepted = f"one price for a model, provider, endpoint, tier and valid_from; price {first} has them too"
                self._wrong(f"price {place}", "model", price.model, accepted)

    def _names(
        self, tables: Mapping[str, Any], table: str, accepted: str, form: str
    ) -> tuple[tuple[str, str], ...]:
        given = tables.get(table, {})
        if not isinstance(given, dict):
            self._wrong(table, "", given, f"a table of {accepted}")
            return ()
        seen: set[str] = set()
        for name, target in given.items():
            if name.lower() in seen:
                self._wrong(table, name, target, "one entry for a name, however its letters are written")
            seen.add(name.lower())
            if not isinstance(target, str) or not re.fullmatch(form, target):
                self._wrong(table, name, target, accepted)
        return tuple((name, target) for name, target in given.items() if isinstance(target, str))
