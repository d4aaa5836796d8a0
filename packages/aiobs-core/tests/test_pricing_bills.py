"""Bills worked out by hand, in pricing_bills.toml, against the price book."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from aiobs_core._operation import Usage
from aiobs_core.pricing import PriceBook

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BILLS = tomllib.loads(Path(__file__).with_name("pricing_bills.toml").read_text(encoding="utf-8"))["bill"]
BOOK = PriceBook()


def at_ns(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()) * 10**9


def line_usd(line):
    count, price, unit = (Decimal(part) for part in line.replace("/", "*").split("*"))
    return count * price / unit


def test_there_are_twenty_bills_and_each_tells_source_and_date():
    assert len(BILLS) >= 20
    assert all(bill["source"].startswith("https://") and bill["date"] for bill in BILLS)
    assert all(("table_usd" in bill) == ("why" in bill) for bill in BILLS)


@pytest.mark.parametrize("bill", BILLS, ids=lambda bill: bill["name"])
def test_the_price_book_makes_the_same_bill(bill):
    assert sum(map(line_usd, bill["sum"])) == Decimal(bill["total_usd"])  # the hand's own sum
    cost = BOOK.cost(**bill["call"], usage=Usage(**bill["usage"]), at_ns=at_ns(bill["date"]))
    assert cost.total_usd == Decimal(bill.get("table_usd", bill["total_usd"]))
    assert sum(cost[1:7]) == cost.total_usd
