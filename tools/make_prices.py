"""Make the price table of aiobs-core from the data of genai-prices.

    python tools/make_prices.py --as-of 2026-11-09

Run it after `genai-prices` was updated in the development environment, then read the difference: one line is one model.
Run it again with the same arguments and nothing changes. `--check` only says whether the file is up to date.

What it writes, and how to read it, stands in the head of the file itself. Descriptions, names, context windows and the
rules for reading usage out of responses are left out: aiobs has its own, or needs none.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time, timezone
from decimal import Decimal
from importlib import metadata
from pathlib import Path
from typing import Any, Final

PRICES_FILE: Final = (
    Path(__file__).parents[1] / "packages" / "aiobs-core" / "src" / "aiobs_core" / "pricing" / "prices.json"
)
_FORMAT: Final = 1
_HOW_TO_READ: Final = (
    "One line is one model; the first whose `match` fits a name counts. A match is a name, a name with * at an end, a "
    "/regular expression/, a list of which one has to fit, or {all: […]}; letters count alike in either case, except in "
    "expressions. `api` is a regular expression for the start of a provider's address. `prices`: the last that is in force "
    "counts, else the first; `from` is its first day and `hours` its time of day, both UTC. `variants` replace single "
    "prices where the call says `when`. USD per unit: …_mtok a million tokens, …_kcount and …_kpages a thousand, "
    "…_hours an hour, …_mchars a million characters, …_gpixels 10^9 pixels. [2, [200000, 4]] is 2, and 4 for all tokens of "
    "a call with more than 200000 input tokens. A model without prices is known and not priced; `free` costs nothing."
)
# Models that the source lists without any price and whose provider says that a call costs nothing. Others without one
# are charged by what the source does not model (a clip of music, a monthly plan): no price is not a price of 0.
_FREE: Final = re.compile(
    r"(:free|^(openai/moderation|google/gemma-3|google/gemma-3n|google/gemma-4-26b-a4b-it|google/gemma-4-31b-it))$"
)


def main() -> int:
    """Write the table, or check it; 1 if the check fails."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "--as-of", metavar="DATE", help="last day that the data knows of (default: as in the present file)"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the file is not up to date"
    )
    arguments = parser.parse_args()
    present = PRICES_FILE.read_text(encoding="utf-8") if PRICES_FILE.exists() else ""
    as_of = arguments.as_of or (json.loads(present)["as_of"] if present else None)
    if as_of is None:
        parser.error("there is no table yet: --as-of is needed")
    made = table_text(date.fromisoformat(as_of))
    if arguments.check:
        return int(made != present)
    PRICES_FILE.write_text(made, encoding="utf-8")
    print(f"{PRICES_FILE.name}: {made.count(chr(10))} lines, {len(made.encode()) / 1000:.0f} kB")
    return 0


def table_text(as_of: date) -> str:
    """The whole file.

    Args:
        as_of: The last day that the data knows of; stands in the head, and beside each price without a first day.
    """
    from genai_prices.data import providers

    head = {
        "format": _FORMAT,
        "as_of": as_of.isoformat(),
        "made_from": {
            "name": "genai-prices",
            "version": metadata.version("genai-prices"),
            "url": "https://github.com/pydantic/genai-prices",
        },
        "licence": _licence(),
        "how_to_read": _HOW_TO_READ,
    }
    lines = [_json(head)[:-1] + ',"providers":[']
    for place, provider in enumerate(providers):
        lines.append(_json(_provider(provider))[:-1] + ',"models":[')
        models = [_json(_model(provider, model, as_of)) for model in provider.models]
        lines += [line + "," for line in models[:-1]] + models[-1:]
        lines.append("]}," if place < len(providers) - 1 else "]}")
    lines.append("]}")
    return "\n".join(lines) + "\n"


def _licence() -> str:
    """The licence of the data, whose notice has to go where the data goes."""
    files = metadata.files("genai-prices") or ()
    return next(file for file in files if file.name == "LICENSE").read_text().strip()


def _provider(provider: Any) -> dict[str, object]:
    row: dict[str, object] = {"id": provider.id, "api": provider.api_pattern}
    if provider.provider_match is not None:
        row["match"] = _match(provider.provider_match)
    if provider.model_match is not None:
        row["model_match"] = _match(provider.model_match)
    if provider.fallback_model_providers:
        row["fallback"] = list(provider.fallback_model_providers)
    return row


def _model(provider: Any, model: Any, as_of: date) -> dict[str, object]:
    row: dict[str, object] = {"id": model.id, "match": _match(model.match)}
    periods = model.prices if isinstance(model.prices, list) else [model]
    prices = [{**_when(period), **_prices(period.prices)} for period in periods]
    if any(prices):
        row["prices"] = prices
    elif _FREE.search(f"{provider.id}/{model.id}"):
        row["free"] = True
    if variants := [_variant(variant) for variant in model.price_variants or () if _prices(variant.prices)]:
        row["variants"] = variants
    row["source"] = provider.pricing_urls[0]
    starts = [start for each in prices if (start := str(each.get("from", ""))) and start <= as_of.isoformat()]
    row["date"] = max(starts, default=as_of.isoformat())
    return row


def _variant(variant: Any) -> dict[str, object]:
    return {"when": dict(variant.when), **_when(variant), **_prices(variant.prices)}


def _when(period: Any) -> dict[str, str]:
    """When a price is in force; nothing if always."""
    constraint = getattr(period, "constraint", None)
    if constraint is None:
        return {}
    if hasattr(constraint, "start_date"):
        return {"from": constraint.start_date.isoformat()}
    return {"hours": f"{_utc(constraint.start_time)}-{_utc(constraint.end_time)}"}


def _utc(moment: time) -> str:
    if moment.tzinfo not in (None, timezone.utc):
        raise ValueError(f"time of day in UTC expected, got {moment!r}; teach this script to convert it")
    return moment.strftime("%H:%M:%S")


def _prices(prices: Any) -> dict[str, object]:
    values = {name: value for name, value in vars(prices).items() if value is not None}
    return {name: _price(value) for name, value in sorted(values.items())}


def _price(value: Any) -> object:
    if isinstance(value, Decimal):
        return value
    return [value.base, *([tier.start, tier.price] for tier in value.tiers)]


def _match(clause: Any) -> object:
    """A clause in the notation of the table."""
    for name in ("or_", "and_"):
        if hasattr(clause, name):
            parts = [_match(part) for part in getattr(clause, name)]
            return parts if name == "or_" else {"all": parts}
    if hasattr(clause, "regex"):
        return f"/{clause.regex}/"
    for name, form in (("equals", "{}"), ("starts_with", "{}*"), ("ends_with", "*{}"), ("contains", "*{}*")):
        if hasattr(clause, name):
            text = getattr(clause, name).lower()
            found = form.format(text)
            if "*" in text or found.startswith("/"):
                raise ValueError(f"{text!r} cannot be told from a pattern; extend the notation of the table")
            return found
    raise ValueError(f"unknown clause {clause!r}")


def _json(value: object) -> str:
    return "".join(_pieces(value))


def _pieces(value: object) -> Iterator[str]:
    """Compact JSON with decimals as they are written, which `json` can only do by way of floats."""
    if isinstance(value, Decimal):
        yield f"{value.normalize():f}"
    elif isinstance(value, Mapping):
        yield "{"
        for place, (key, each) in enumerate(value.items()):
            yield f"{',' if place else ''}{json.dumps(key)}:"
            yield from _pieces(each)
        yield "}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield "["
        for place, each in enumerate(value):
            yield "," if place else ""
            yield from _pieces(each)
        yield "]"
    else:
        yield json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    sys.exit(main())
