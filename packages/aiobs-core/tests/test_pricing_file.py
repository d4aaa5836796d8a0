"""Price files: what they may say, which row counts, and what each mistake is told as."""

from __future__ import annotations

from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path

import pytest

from aiobs_core._operation import Usage
from aiobs_core.pricing import PriceBook, read_price_file

TODAY = date(2026, 9, 15)
USAGE = Usage(input_tokens=1_000_000, output_tokens=1_000_000, cache_read_tokens=400_000)
ROW = '[[price]]\nmodel = "m"\nunit = "usd_per_million_tokens"\ninput = 1\n'


def at(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()) * 10**9


NOW = at("2026-09-15")


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "prices.toml"
        path.write_text(text, encoding="utf-8")
        return read_price_file(path, today=TODAY)

    return read


@pytest.fixture
def cost(read):
    def cost(text, model="m", *, provider="vllm", usage=USAGE, at_ns=NOW, **more):
        return PriceBook(read(text)).cost(provider=provider, model=model, usage=usage, at_ns=at_ns, **more)

    return cost


# --- what a file says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "input_", "output"),
    [
        ("usd_per_million_tokens", "0.5", "1.5"),
        ("usd_per_1k_tokens", "0.0005", "0.0015"),
        ("usd_per_token", "5e-7", "15e-7"),
    ],
)
def test_units(cost, unit, input_, output):
    found = cost(
        f'[[price]]\nmodel = "m"\nunit = "{unit}"\ninput = {input_}\noutput = {output}\ncache_read = 0\n'
    )
    assert (found.input_usd, found.cached_usd, found.output_usd) == (Decimal("0.3"), 0, Decimal("1.5"))
    assert (found.provider, found.model, found.source, found.valid_from) == ("vllm", "m", "file", None)


def test_free_fees_and_longer_inputs(cost):
    assert cost('[[price]]\nmodel = "m"\nfree = true').total_usd == 0
    assert cost('[[price]]\nmodel = "m"\nper_request_usd = 0.005').other_usd == Decimal("0.005")
    steps = ROW + "[[price.above]]\ninput_tokens = 200_000\ninput = 2\n"
    assert cost(steps).input_usd == Decimal("1.2")
    assert cost(steps, usage=Usage(input_tokens=200_000)).input_usd == Decimal("0.2")


def test_the_row_that_says_the_most_counts(cost):
    rows = [
        ("*", ""), ("acme-*", ""), ("acme-chat", ""), ("acme-chat", 'provider = "vllm"'),
        ("acme-chat", 'endpoint = "http://gpu-1:8000/v1"'), ("acme-chat", 'tier = "batch"'),
    ]  # fmt: skip
    text = "".join(
        f'[[price]]\nmodel = "{model}"\n{more}\nunit = "usd_per_million_tokens"\ninput = {place}\n'
        for place, (model, more) in enumerate(rows, 1)
    )

    def input_usd(model, **more):
        return cost(text, model, usage=Usage(input_tokens=1_000_000), **more).total_usd

    assert input_usd("other") == 1
    assert input_usd("acme-code") == 2
    assert input_usd("ACME-chat", provider="tgi") == 3
    assert input_usd("acme-chat") == 4
    assert input_usd("acme-chat", endpoint="http://gpu-1:8000/v1/") == 5
    assert input_usd("acme-chat", endpoint="http://gpu-2:8000/v1") == 4
    assert input_usd("acme-chat", provider="tgi", tier="batch") == 6


def test_a_price_counts_from_its_day_and_the_table_before(cost):
    text = (
        '[[price]]\nmodel = "gpt-4o"\nprovider = "openai"\nvalid_from = 2026-01-01\nunit = "usd_per_million_tokens"\ninput = 1\n'
        '[[price]]\nmodel = "gpt-4o"\nprovider = "openai"\nvalid_from = "2026-06-01"\nunit = "usd_per_million_tokens"\ninput = 2\n'
    )
    usage = Usage(input_tokens=1_000_000)
    days = {
        day: cost(text, "gpt-4o", provider="openai", usage=usage, at_ns=at(day))
        for day in ("2025-12-31", "2026-05-31", "2026-06-01")
    }
    assert {day: (found.total_usd, found.source, found.valid_from) for day, found in days.items()} == {
        "2025-12-31": (Decimal("2.5"), "table", None),
        "2026-05-31": (1, "file", "2026-01-01"),
        "2026-06-01": (2, "file", "2026-06-01"),
    }


def test_a_provider_is_known_by_any_of_its_names(cost):
    text = ROW + 'provider = "aws"'
    assert cost(text, provider="aws.bedrock").source == "file"
    assert cost(text, provider="bedrock_converse").source == "file"
    assert cost(text, provider="vllm") is None


def test_aliases_and_gateways(cost):
    text = (
        '[aliases]\nsupport-bot = "azure/gpt-4o"\n"house model" = "acme/m"\n[endpoints]\n"https://llm.acme.example" = "openai"\n'
        + ROW + 'provider = "acme"'
    )  # fmt: skip
    usage = Usage(input_tokens=1_000_000)
    bot = cost(
        text, "Support-Bot", provider="azure.ai.openai", usage=usage, endpoint="https://unknown.example"
    )
    assert (bot.provider, bot.model, bot.total_usd, bot.source) == (
        "azure",
        "gpt-4o",
        Decimal("2.5"),
        "table",
    )
    assert cost(text, "house model", usage=usage).total_usd == 1
    assert cost(text, "m", usage=usage) is None
    gateway = cost(text, "gpt-4o", provider="openai", usage=usage, endpoint="https://llm.acme.example/v1")
    assert gateway.total_usd == Decimal("2.5")
    assert (
        cost(text, "gpt-4o", provider="openai", usage=usage, endpoint="https://llm.acme.example.org") is None
    )


def test_a_local_server_has_the_price_of_the_file(cost):
    text = '[[price]]\nmodel = "*.gguf"\nendpoint = "http://localhost:8080"\nfree = true'
    assert (
        cost(text, "qwen3-4b-Q4_K_M.gguf", provider="openai", endpoint="http://localhost:8080/v1").total_usd
        == 0
    )
    assert cost(text, "qwen3-4b-Q4_K_M.gguf", provider="openai", endpoint="http://localhost:9090/v1") is None


def test_the_example_of_the_guide_does_what_it_says(cost):
    guide = Path(__file__).parents[3] / "docs" / "guides" / "money.md"
    text = guide.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    usage = Usage(input_tokens=1_000_000)
    contract = cost(text, "gpt-4o", provider="openai", usage=usage)
    assert (contract.total_usd, contract.source, contract.valid_from) == (4, "file", "2026-01-01")
    assert cost(text, "qwen3.gguf", provider="openai", endpoint="http://localhost:8080/v1").total_usd == 0
    assert cost(text, "support-bot", provider="azure.ai.openai").provider == "azure"
    assert (
        cost(text, "gpt-4o-mini", provider="openai", endpoint="https://llm.example.com/v1").source == "table"
    )


def test_files_of_the_same_content_are_equal_and_hashed_alike(read):
    assert read(ROW) == read(ROW)
    assert hash(read(ROW)) == hash(read(ROW))
    assert read(ROW) != read(ROW.replace("= 1", "= 2"))


# --- what is wrong with one ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[price]]\nmodel = "m"\ninput = 1', "price 1, unit: got nothing, expected one of usd_per_million_tokens,"),
        (ROW.replace("_million_tokens", "_kilo_tokens"), "price 1, unit: got 'usd_per_kilo_tokens'"),
        (ROW.replace("million_tokens", "token"), "price 1, input: got 1, expected a number from 0 to 0.01 usd_per_token"),
        (ROW.replace("= 1", "= 0.0000005"), "price 1, input: got 5E-7, expected 0, or at least 0.0001 usd_per_million_tokens"),
        (ROW.replace("= 1", "= 10_001"), "price 1, input: got 10001, expected a number from 0 to 10000"),
        (ROW.replace("= 1", "= -1"), "price 1, input: got -1"),
        (ROW.replace("= 1", '= "1"'), "price 1, input: got '1'"),
        (ROW.replace("= 1", "= true"), "price 1, input: got True"),
        (ROW.replace("= 1", "= nan"), "price 1, input: got NaN"),
        (ROW.replace("= 1", "= inf"), "price 1, input: got Infinity"),
        (ROW + "output = [1]", "price 1, output: got [1]"),
        (ROW + "reasoning = 3", "price 1, output: got nothing, expected a price, since reasoning is a part of it"),
        (ROW + "cache_write_1h = 3", "price 1, cache_write: got nothing"),
        (ROW + "cached = 3", "price 1, cached: got 3, expected one of the fields model, provider"),
        (ROW + ROW, "price 2, model: got 'm', expected one price for a model, provider, endpoint, tier and valid_from; price 1"),
        (ROW + "valid_from = 2026-09-16", "price 1, valid_from: got 2026-09-16, expected a day that is not in the future"),
        (ROW + 'valid_from = "soon"', "price 1, valid_from: got 'soon', expected a day such as"),
        (ROW + "valid_from = 2026-01-01T00:00:00", "price 1, valid_from: got 2026-01-01"),
        (ROW.replace('"m"', '" "'), "price 1, model: got ' '"),
        (ROW.replace('model = "m"', ""), "price 1, model: got nothing"),
        (ROW + "provider = 7", "price 1, provider: got 7, expected text"),
        (ROW + "free = true", "price 1, input: got 1, expected no price beside `free = true`"),
        ('[[price]]\nmodel = "m"\nfree = 1', "price 1, free: got 1, expected true or false"),
        ('[[price]]\nmodel = "m"', "price 1, input: got nothing, expected a price: input, output, per_request_usd"),
        ('[[price]]\nmodel = "m"\nper_request_usd = 101', "price 1, per_request_usd: got 101, expected a number from 0 to 100"),
        (ROW + "[[price.above]]\ninput = 2", "price 1, above 1, input_tokens: got nothing"),
        (ROW + "[[price.above]]\ninput_tokens = 5\noutput = 2", "price 1, above 1, output: got 2, expected a price that the row"),
        (ROW + "[[price.above]]\ninput_tokens = 5\ninput = -2", "price 1, above 1, input: got -2"),
        (ROW + "above = 3", "price 1, above: got 3, expected tables"),
        ("[price]\nmodel = 1", "price: got {'model': 1}, expected tables headed [[price]]"),
        ("prices = []", "prices: got [], expected the tables price, aliases and endpoints"),
        ('[aliases]\nx = "gpt-4o"', "aliases, x: got 'gpt-4o', expected a name in quotes and its \"provider/model\""),
        ("[endpoints]\nx = 1", "endpoints, x: got 1, expected an address"),
        ('[aliases]\nX = "a/b"\nx = "a/c"', "aliases, x: got 'a/c', expected one entry for a name"),
        ("model = ", "expected TOML"),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_file_row_and_field_and_refuses_the_whole_file(read, text, told):
    with pytest.raises(ValueError) as error:
        read(text)
    message = str(error.value)
    assert told in message
    assert "prices.toml" in message
    assert "refused as a whole" in message


def test_all_mistakes_are_told_at_once(read):
    with pytest.raises(ValueError) as error:
        read(ROW.replace("= 1", "= -1") + ROW.replace('"m"', '"n"').replace("= 1", "= -2"))
    assert [line.split(": ", 1)[1][:24] for line in str(error.value).splitlines()] == [
        "price 1, input: got -1, ",
        "price 2, input: got -2, ",
    ]


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match="expected a readable file in UTF-8"):
        read_price_file(tmp_path / "none.toml")
