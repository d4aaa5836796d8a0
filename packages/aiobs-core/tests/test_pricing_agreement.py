"""Thousands of random calls against genai-prices, from whose data the table is made."""

from __future__ import annotations

import importlib.util
import random
import re
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from aiobs_core._operation import Usage
from aiobs_core.pricing import PriceBook
from aiobs_core.pricing.book import _TIERS
from aiobs_core.pricing.table import check_table

genai_prices = pytest.importorskip(
    "genai_prices", reason="genai-prices is in the development environment only"
)

ROOT = Path(__file__).parents[3]
BOOK = PriceBook()
COUNTED = ("input_mtok", "output_mtok", "requests_kcount")
CASES = 10_000
NO_OVERLAP = ("cache_image_read_tokens", "cache_image_write_tokens", "cache_audio_write_tokens")
SUFFIXES = (*[""] * 12, "-20250514", "-2025-04-14", "@20250514", "-latest", "-v1:0")
URLS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "groq": "https://api.groq.com/v1",
}
START = datetime(2024, 1, 1, tzinfo=timezone.utc)
DAYS = 1200


def names_in(match):
    """Names that a match may fit, from its own literals."""
    if isinstance(match, str):
        name = match.strip("*")
        return [] if match.startswith("/") else [f"bedrock{name}" if name.startswith("/") else name]
    parts = match if isinstance(match, list) else match["all"]
    return [name for part in parts for name in names_in(part)]


def random_counts(rng):
    """Counts that make sense together, each with a chance to be missing."""

    def some(top):
        return rng.choice((0, rng.randrange(top)))

    text, audio, image = some(400_000), some(5000), some(5000)
    cached, cached_audio = some(200_000), some(2000) if audio else 0
    written, written_1h = some(50_000), some(20_000)
    out, out_audio, out_image, reasoning = some(20_000), some(2000), some(2000), some(9000)
    return {
        "input_tokens": text + audio + image + cached + cached_audio + written + written_1h,
        "output_tokens": out + out_audio + out_image + reasoning,
        "cache_read_tokens": cached + cached_audio,
        "cache_read_audio_tokens": cached_audio,
        "cache_write_tokens": written + written_1h,
        "cache_write_1h_tokens": written_1h,
        "reasoning_tokens": reasoning,
        "audio_input_tokens": audio + cached_audio,
        "audio_output_tokens": out_audio,
        "image_input_tokens": image,
        "image_output_tokens": out_image,
    }


def theirs(counts):
    swapped = {
        "cache_read_audio_tokens": "cache_audio_read_tokens",
        "reasoning_tokens": "output_reasoning_tokens",
    }

    def name(ours):
        found = re.sub(r"^(audio|image)_(input|output)_tokens$", r"\2_\1_tokens", ours)
        return swapped.get(found, found)

    none = dict.fromkeys(NO_OVERLAP, 0)  # it wants to be told that the parts do not overlap
    return genai_prices.Usage(**none, **{name(ours): count for ours, count in counts.items()})


def random_call(rng):
    provider = rng.choice(list(BOOK.table.providers.values()))
    row = rng.choice(provider.rows)
    model = rng.choice([*names_in(row["match"]), row["id"]]) + rng.choice(SUFFIXES)
    how = rng.random()
    if how < 0.1:
        return {"model": model}
    if how < 0.2 and provider.id in URLS:
        return {"model": model, "endpoint": URLS[provider.id]}
    return {"model": model, "provider": provider.id}


def test_random_calls_cost_what_genai_prices_says():
    rng = random.Random(20)
    compared = free = 0
    for _ in range(CASES):
        call, counts, tier = random_call(rng), random_counts(rng), rng.choice((None, None, *_TIERS))
        at = START + timedelta(seconds=rng.randrange(DAYS * 86_400))
        try:
            expected = genai_prices.calc_price(
                theirs(counts),
                call["model"],
                provider_id=call.get("provider"),
                provider_api_url=call.get("endpoint"),
                genai_request_timestamp=at,
                price_context=_TIERS.get(tier),
            )
        except LookupError:
            continue  # ours may know an alias
        cost = BOOK.cost(
            provider=call.get("provider"),
            model=call["model"],
            endpoint=call.get("endpoint"),
            tier=tier,
            usage=Usage(**counts),
            at_ns=int(at.timestamp()) * 10**9,
        )
        if cost is None:  # only what no count of tokens or requests can be billed by
            assert expected.total_price == 0, call
            assert not any(getattr(expected.model_price, name) for name in COUNTED), call
            continue
        compared += 1
        free += cost.total_usd == 0
        assert cost.model == expected.model.id, call
        assert abs(cost.total_usd - expected.total_price) < Decimal("1e-9"), (call, counts, tier, at)
        assert abs(sum(cost[1:4]) - expected.input_price) < Decimal("1e-9")
        assert abs(sum(cost[4:6]) - expected.output_price) < Decimal("1e-9")
    assert compared >= 5000
    assert free < compared / 4


def test_every_row_of_the_table_is_well_formed_and_tells_source_and_date():
    check_table(BOOK.table)
    rows = [row for provider in BOOK.table.providers.values() for row in provider.rows]
    assert len(rows) > 2000
    assert all(row["source"].startswith("https://") and row["date"] for row in rows)


def test_the_table_is_what_the_script_makes():
    path = ROOT / "tools" / "make_prices.py"
    spec = importlib.util.spec_from_file_location("make_prices", path)
    make_prices = importlib.util.module_from_spec(spec)
    sys.modules.pop("make_prices", None)
    spec.loader.exec_module(make_prices)
    if BOOK.table.made_from["version"] != genai_prices.__version__:
        pytest.skip(f"the table is made from another version than genai-prices {genai_prices.__version__}")
    made = make_prices.table_text(datetime.fromisoformat(BOOK.table.as_of).date())
    assert made == make_prices.PRICES_FILE.read_text(encoding="utf-8")
