# ruff: noqa: T201 - commands print
"""The command `aiobs prices`: what is in the price table, why a call costs what it costs, and a newer table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, Final

from aiobs_core._errors import AiobsError
from aiobs_core._operation import Usage
from aiobs_core.cli import SubParsers, _complain, _print_json, _safe
from aiobs_core.pricing.book import Call, Found, InForce, Offer, PriceBook
from aiobs_core.pricing.cost import Bill, Price
from aiobs_core.pricing.file import PriceFile, read_price_file
from aiobs_core.pricing.names import table_provider
from aiobs_core.pricing.table import Model, Provider, model_of

_COUNTS: Final = {  # option → field of `Usage`
    "input": "input_tokens",
    "output": "output_tokens",
    "cache-read": "cache_read_tokens",
    "cache-write": "cache_write_tokens",
    "cache-write-1h": "cache_write_1h_tokens",
    "reasoning": "reasoning_tokens",
    "audio-input": "audio_input_tokens",
    "audio-output": "audio_output_tokens",
    "cache-read-audio": "cache_read_audio_tokens",
    "image-input": "image_input_tokens",
    "image-output": "image_output_tokens",
}
_EXAMPLE_TOKENS: Final = 1000
_LISTED: Final = ("input_mtok", "cache_read_mtok", "cache_write_mtok", "output_mtok")
_HEADINGS: Final = ("PROVIDER", "MODEL", "INPUT", "CACHED", "WRITTEN", "OUTPUT", "DATE")
_HOW_TO_ADD: Final = """\
To give it a price, write a file such as

    [[price]]
    model = "{model}"
    unit = "usd_per_million_tokens"
    input = 0.50
    output = 1.50

and name it in AIOBS_PRICE_FILE; `free = true` instead of the last three lines is a model that costs nothing."""


def add_commands(commands: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `prices`.

    Args:
        commands: argparse's sub-parsers of `aiobs`.
    """
    from aiobs_core.pricing.update import add_update

    prices = commands.add_parser("prices", help="look at the price table, and why a call costs what it costs")
    below = prices.add_subparsers(metavar="COMMAND", required=True)
    listing = below.add_parser(
        "list", help="list models with their prices today, in USD for a million tokens"
    )
    listing.add_argument(
        "text", nargs="?", default="", metavar="TEXT", help="only models with this in their name"
    )
    listing.add_argument("--provider", metavar="NAME", help="only models of this provider")
    listing.add_argument("--json", action="store_true", help="as a JSON array")
    listing.set_defaults(run=_list)
    _add_explain(below)
    add_update(below)


def _add_explain(commands: SubParsers[argparse.ArgumentParser]) -> None:
    explain = commands.add_parser(
        "explain",
        help="show which price a model has, and why",
        description="Show which price a call has, why, and what it costs. Exit status: 0, or 1 if the price is not known.",
    )
    explain.add_argument("model", metavar="MODEL", help="as it is asked for")
    explain.add_argument(
        "--response-model", metavar="MODEL", help="the model that answers, if that has another name"
    )
    explain.add_argument("--provider", metavar="NAME", help="as OpenTelemetry or a framework calls it")
    explain.add_argument("--endpoint", metavar="URL", help="base URL that the client is given")
    explain.add_argument("--tier", metavar="NAME", help="service tier, such as batch, flex or priority")
    explain.add_argument(
        "--at", type=_moment, metavar="DATE", help="a day or time, ISO, in UTC (default: now)"
    )
    explain.add_argument("--price-file", metavar="FILE", help="default: as AIOBS_PRICE_FILE says")
    explain.add_argument("--json", action="store_true", help="as a JSON object")
    for option in _COUNTS:
        explain.add_argument(
            f"--{option}", type=_tokens, metavar="N", help=f"tokens of {option.replace('-', ' ')}"
        )
    explain.set_defaults(run=_explain)


def _moment(text: str) -> int:
    moment = datetime.fromisoformat(text)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
    return int(aware.timestamp()) * 10**9


def _tokens(text: str) -> int:
    if (count := int(text)) < 0:
        raise ValueError(text)
    return count


def _now_ns() -> int:
    return int(datetime.now(timezone.utc).timestamp()) * 10**9


# --- list -----------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    table = PriceBook().table
    providers = list(table.providers.values())
    if arguments.provider is not None:
        named = table_provider(table, arguments.provider)
        if named is None:
            raise AiobsError(
                f"The table has no provider {arguments.provider!r}; it has {', '.join(table.providers)}."
            )
        providers = [named]
    wanted = arguments.text.lower()
    rows = [(each, model_of(row)) for each in providers for row in each.rows if wanted in row["id"].lower()]
    if not rows:
        raise AiobsError(
            f"No model has {arguments.text!r} in its name; `aiobs prices explain` finds aliases too."
        )
    if arguments.json:
        _print_json([_facts_of(provider, model) for provider, model in rows])
        return 0
    cells = [_HEADINGS, *(_cells(provider, model) for provider, model in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        texts = [cell.ljust(width) for cell, width in zip(line[:2], widths, strict=False)]
        print(
            "  ".join(
                [*texts, *(cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True))]
            )
        )
    print(f"\nUSD for a million tokens, of {table.as_of}; `+` is more for long inputs, `-` no price.")
    return 0


def _now_in_force(provider: Provider, model: Model) -> InForce | None:
    offer = Offer(provider=provider.id, model=model.id, source="table", periods=model.periods)
    return offer.in_force(_now_ns(), {})


def _cells(provider: Provider, model: Model) -> tuple[str, ...]:
    now = _now_in_force(provider, model)
    prices = now.rates.prices if now is not None else {}
    shown = ["0" if now is not None and not prices else _short(prices.get(name)) for name in _LISTED]
    return provider.id, model.id, *shown, model.date


def _short(price: Price | None) -> str:
    return "-" if price is None else f"{_plain(price[0])}{'+' if price[1] else ''}"


def _plain(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def _facts_of(provider: Provider, model: Model) -> dict[str, Any]:
    now = _now_in_force(provider, model)
    prices = None if now is None else _prices_data(now)
    return {
        "provider": provider.id,
        "model": model.id,
        "prices": prices,
        "source": model.source,
        "date": model.date,
    }


def _prices_data(in_force: InForce) -> dict[str, Any]:
    """Text, not numbers: a reader that takes them for floats would lose what makes them exact."""
    return {
        name: {"base": _plain(base), **{f"above_{start}_input_tokens": _plain(usd) for start, usd in tiers}}
        for name, (base, tiers) in sorted(in_force.rates.prices.items())
    }


# --- explain --------------------------------------------------------------------------------------------------


def _explain(arguments: argparse.Namespace) -> int:
    try:
        book = PriceBook(_price_file(arguments.price_file))
    except ValueError as error:
        for mistake in str(error).splitlines():
            _complain(mistake)
        return 1
    at_ns = _now_ns() if arguments.at is None else arguments.at
    call = Call(
        arguments.provider, arguments.model, arguments.response_model, arguments.endpoint, arguments.tier
    )
    found = book.find(call)
    priced = found.in_force(at_ns)
    if priced is None:
        return _unknown(book, call, found, as_json=arguments.json)
    offer, in_force = priced
    usage = _usage(arguments)
    bill = in_force.rates.bill(usage)
    if arguments.json:
        facts = {
            "provider": offer.provider,
            "model": offer.model,
            "from": offer.source,
            "source": offer.reference,
        }
        parts = {name: _plain(amount) for name, amount in bill._asdict().items()}
        days = {"valid_from": in_force.start, "date": offer.date, "table_as_of": book.table.as_of}
        more = {"why": list(found.notes), "prices": _prices_data(in_force), "cost": parts}
        _print_json({**facts, **days, **more})
    else:
        print("\n".join(_safe(line, sys.stdout) for line in _explained(book, found, priced, usage, bill)))
    return 0


def _price_file(given: str | None) -> PriceFile | None:
    if given is None:
        from aiobs_core._settings import Settings

        return Settings.load().price_file
    return read_price_file(given)


def _usage(arguments: argparse.Namespace) -> Usage:
    counts = {field: getattr(arguments, option.replace("-", "_")) for option, field in _COUNTS.items()}
    given = {field: count for field, count in counts.items() if count is not None}
    if not given:
        return Usage(input_tokens=_EXAMPLE_TOKENS, output_tokens=_EXAMPLE_TOKENS)
    return Usage(**given)


def _explained(
    book: PriceBook, found: Found, priced: tuple[Offer, InForce], usage: Usage, bill: Bill
) -> Iterator[str]:
    offer, in_force = priced
    yield f"{offer.provider}  {offer.model}"
    yield from (f"why      {note}" for note in found.notes)
    origin = f"the table, of {book.table.as_of}" if offer.source == "table" else "the price file"
    yield f"from     {origin}"
    yield f"source   {offer.reference or 'not given'}"
    yield (
        f"valid    from {in_force.start}" if in_force.start else f"valid    known on {offer.date or 'no day'}"
    )
    yield "prices   USD, of …_mtok for a million tokens, of …_kcount for a thousand"
    for name, (base, tiers) in sorted(in_force.rates.prices.items()):
        steps = "".join(f"; {_plain(usd)} if the input is over {start} tokens" for start, usd in tiers)
        yield f"         {name}  {_plain(base)}{steps}"
    if not in_force.rates.prices:
        yield "         none: it is free"
    counts = ", ".join(
        f"{name}={count}" for name, count in usage._asdict().items() if count and name != "source"
    )
    yield f"cost     of {counts or 'no tokens'}"
    yield from (f"         {name}  {_plain(amount)}" for name, amount in bill._asdict().items())


def _unknown(book: PriceBook, call: Call, found: Found, *, as_json: bool) -> int:
    near = _near(book, call)
    if as_json:
        _print_json({"model": call.model, "cost": None, "why": list(found.notes), "near": near})
        return 1
    lines = [f"The price of {call.model} is not known.", *(f"  - {note}" for note in found.notes)]
    if near:
        lines.append(f"Did you mean {', '.join(near)}?")
    lines += _HOW_TO_ADD.format(model=call.model).splitlines()
    for line in lines:
        print(_safe(line, sys.stderr), file=sys.stderr)
    return 1


def _near(book: PriceBook, call: Call) -> Sequence[str]:
    """Models of a similar name, those of the provider first."""
    named = table_provider(book.table, call.provider) if call.provider else None
    wanted = call.model.lower()
    for providers in ([named] if named else [], book.table.providers.values()):
        ids = {
            row["id"].lower(): f"{each.id}/{row['id']}"
            for each in reversed(list(providers))
            for row in each.rows
        }
        if close := get_close_matches(wanted, ids, n=3, cutoff=0.7):
            return [ids[each] for each in close]
    return []
