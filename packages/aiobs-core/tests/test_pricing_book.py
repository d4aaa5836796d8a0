"""Which price is that of a call: providers, addresses, aliases, days, tiers, and what has no price."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone
from decimal import Decimal

import pytest

from aiobs_core._operation import Usage
from aiobs_core.pricing import PriceBook, location
from aiobs_core.pricing.book import Call
from aiobs_core.pricing.table import BUNDLED, Table, check_table, fits, read_table

USAGE = Usage(input_tokens=1_000_000, output_tokens=0)
BOOK = PriceBook()


def at(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()) * 10**9


NOW = at("2026-09-15")


def row(provider, model, **more):
    """`provider/model` of the row that prices a call, or None."""
    cost = BOOK.cost(provider=provider, model=model, usage=USAGE, at_ns=NOW, **more)
    return cost and f"{cost.provider}/{cost.model}"


@pytest.mark.parametrize(
    ("provider", "model", "expected"),
    [
        ("openai", "gpt-4o", "openai/gpt-4o"),
        ("openai", "GPT-4o", "openai/gpt-4o"),
        ("openai", "gpt-4o-2024-08-06", "openai/gpt-4o"),
        ("openai", "gpt-4.1-20250414", "openai/gpt-4.1"),
        ("openai", "openai/gpt-4o", "openai/gpt-4o"),
        ("openai", "ft:gpt-4o-mini-2024-07-18:acme::8xYz", "openai/ft:gpt-4o-mini"),
        ("openai", "ft:gpt-4.1-2025-04-14:acme::8xYz", None),
        (None, "gpt-4o", "openai/gpt-4o"),
        (None, "claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
        ("azure.ai.openai", "gpt-4o", "azure/gpt-4o"),
        ("azure_openai", "gpt-4.1", "azure/gpt-4.1"),
        ("azure.ai.inference", "grok-4", "azure/grok-4-0709"),
        ("azure.ai.openai", "support-bot", None),
        (
            "aws.bedrock",
            "anthropic.claude-3-haiku-20240307-v1:0",
            "aws/regional.anthropic.claude-3-haiku-20240307-v1:0",
        ),
        ("bedrock_converse", "eu.amazon.nova-lite-v1:0", "aws/amazon.nova-lite-v1:0"),
        (
            None,
            "arn:aws:bedrock:us-east-1::foundation-model/amazon.nova-lite-v1:0",
            "aws/amazon.nova-lite-v1:0",
        ),
        (
            "aws.bedrock",
            "arn:aws:bedrock:us-east-1:123456789012:inference-profile/apac.amazon.nova-lite-v1:0",
            "aws/amazon.nova-lite-v1:0",
        ),
        ("aws.bedrock", "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/ab12", None),
        ("gcp.gemini", "models/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("gcp.vertex_ai", "publishers/google/models/gemini-2.5-flash", "google/gemini-2.5-flash"),
        (
            "gcp.vertex_ai",
            "projects/p/locations/eu/publishers/google/models/gemini-2.5-flash",
            "google/gemini-2.5-flash",
        ),
        ("gcp.vertex_ai", "gemini-2.0-flash@001", "google/gemini-2.0-flash"),
        ("gcp.vertex_ai", "claude-sonnet-4@20250514", "google/claude-4-sonnet"),
        ("google_genai", "gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("openrouter", "openai/gpt-4o", "openrouter/openai/gpt-4o"),
        ("openrouter", "openai/gpt-4o:online", "openrouter/openai/gpt-4o"),
        ("openrouter", "nobody/knows:free", None),
        (None, "openrouter/openai/gpt-4o", "openrouter/openai/gpt-4o"),
        ("litellm", "azure/gpt-4o", "azure/gpt-4o"),
        (None, "azure/gpt-4o", "azure/gpt-4o"),
        ("litellm", "bedrock/us-east-1/amazon.nova-lite-v1:0", "aws/amazon.nova-lite-v1:0"),
        ("litellm", "gemini/gemini-2.5-flash", "google/gemini-2.5-flash"),
        ("litellm", "gpt-4o", "openai/gpt-4o"),
        ("mistral_ai", "mistral-large-latest", "mistral/mistral-large"),
        ("x_ai", "grok-4", "x-ai/grok-4-0709"),
        ("moonshot_ai", "kimi-k2.6", "moonshotai/kimi-k2.6"),
        ("ibm.watsonx.ai", "granite-13b", None),
        ("ollama", "llama3.2", None),
        ("openai_like", "gpt-4o", None),
        ("openai", "/models/gpt-4o.Q4_K_M.gguf", None),
        (None, "gpt-4o-Q4_K_M.gguf", None),
        ("anthropic", "gpt-4o", None),
        ("openai", "", None),
    ],
)
def test_names_of_providers_and_models(provider, model, expected):
    assert row(provider, model) == expected


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("https://api.openai.com/v1", "openai/gpt-4o"),
        ("https://API.openai.com:443/v1/", "openai/gpt-4o"),
        ("api.openai.com", "openai/gpt-4o"),
        ("https://acme.openai.azure.com/openai/deployments/x", "azure/gpt-4o"),
        ("https://models.githubcopilot.com", None),
        ("http://localhost:8000/v1", None),
        ("http://127.0.0.1:11434", None),
        ("https://llm.acme.internal/openai", None),
        ("https://api.openai.com.acme.example/v1", None),
        ("https://user:secret@llm.acme.example/api.openai.com", None),
        ("nonsense", None),
    ],
)
def test_the_address_says_who_is_paid_and_an_unknown_one_has_no_price(endpoint, expected):
    assert row("openai", "gpt-4o", endpoint=endpoint) == expected


def test_another_providers_address_has_that_providers_prices():
    groq = BOOK.cost(
        provider="openai",
        model="llama-3.3-70b-versatile",
        usage=USAGE,
        at_ns=NOW,
        endpoint="https://api.groq.com/openai/v1",
    )
    assert (groq.provider, groq.total_usd) == ("groq", Decimal("0.59"))
    assert row("openai", "anthropic/claude-sonnet-4.5", endpoint="https://openrouter.ai/api/v1") == (
        "openrouter/anthropic/claude-sonnet-4.5"
    )
    vpc = "https://vpce-0a1b-c2.bedrock-runtime.eu-west-1.vpce.amazonaws.com"
    assert row("aws.bedrock", "amazon.nova-lite-v1:0", endpoint=vpc) == "aws/amazon.nova-lite-v1:0"


def test_the_model_that_answered_is_billed_where_it_has_a_price():
    assert row("azure.ai.openai", "support-bot", response_model="gpt-4o-2024-08-06") == "azure/gpt-4o"
    assert row("openai", "gpt-4o", response_model="gpt-4o-mini-2024-07-18") == "openai/gpt-4o-mini"
    assert row("openai", "gpt-4o", response_model="a name nobody knows") == "openai/gpt-4o"
    # The base's price is not that of a model of one's own.
    assert row("openai", "ft:gpt-4.1-2025-04-14:acme::8xYz", response_model="gpt-4.1") is None
    assert row("openai", "llama.gguf", response_model="gpt-4o") is None


@pytest.mark.parametrize(
    ("day", "usd", "start"),
    [("2025-06-09T23:59:59", 10, None), ("2025-06-10", 2, "2025-06-10"), ("2026-01-01", 2, "2025-06-10")],
)
def test_the_price_is_that_of_the_day_also_when_days_alternate(day, usd, start):
    for _ in range(2):
        cost = BOOK.cost(provider="openai", model="o3", usage=USAGE, at_ns=at(day))
        assert (cost.total_usd, cost.valid_from) == (usd, start)
        BOOK.cost(provider="openai", model="o3", usage=USAGE, at_ns=at("2020-01-01"))


def test_hours_of_the_day_have_their_price():
    hours = {}
    for hour in ("00:59:59", "01:00:00", "03:59:59", "04:00:00"):
        cost = BOOK.cost(
            provider="deepseek", model="deepseek-v4-pro", usage=USAGE, at_ns=at(f"2026-10-27T{hour}")
        )
        hours[hour] = str(cost.total_usd.normalize())
    assert hours == {"00:59:59": "0.66", "01:00:00": "1.32", "03:59:59": "1.32", "04:00:00": "0.66"}


@pytest.mark.parametrize(
    ("tier", "usd"),
    [
        (None, "1.25"),
        ("default", "1.25"),
        ("Flex", "0.625"),
        ("batch", "0.625"),
        ("priority", "2.5"),
        ("turbo", "1.25"),
    ],
)
def test_service_tiers(tier, usd):
    cost = BOOK.cost(provider="openai", model="gpt-5", usage=USAGE, at_ns=at("2026-10-20"), tier=tier)
    assert cost.total_usd == Decimal(usd)


def test_an_unknown_tier_is_told():
    assert (
        "there is no price for the tier turbo" in BOOK.find(Call("openai", "gpt-5", tier="turbo")).notes[-1]
    )
    assert not any("tier" in note for note in BOOK.find(Call("openai", "gpt-5", tier="flex")).notes)


@pytest.mark.parametrize("model", ["whisper-1", "tts-1"])
def test_what_is_billed_by_other_units_than_tokens_has_no_cost(model):
    assert row("openai", model) is None


def test_a_model_that_is_listed_as_free_costs_nothing_and_one_without_a_price_is_unknown():
    cost = BOOK.cost(provider="openrouter", model="qwen/qwq-32b:free", usage=USAGE, at_ns=NOW)
    assert cost.total_usd == 0
    assert (
        BOOK.cost(provider="openrouter", model="google/lyria-3-pro-preview", usage=USAGE, at_ns=NOW) is None
    )


def test_what_is_remembered_is_bounded_for_known_and_unknown_models():
    book = PriceBook()
    for number in range(5000):
        assert book.cost(provider="ollama", model=f"m{number}", usage=USAGE, at_ns=NOW) is None
    assert len(book._found) <= 2048


def test_nothing_is_read_before_the_first_call():
    assert PriceBook()._table is None


# --- the table ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "text", "expected"),
    [
        ("a", "a", True), ("a", "ab", False), ("a*", "ab", True), ("*b", "ab", True), ("*x*", "ab", False),
        ("/^a\\d$/", "a1", True), (["x", "a*"], "ab", True), ({"all": ["a*", "*c"]}, "ab", False), (None, "", False),
    ],
)  # fmt: skip
def test_matches(match, text, expected):
    assert fits(match, text) is expected


def a_table(**row_fields):
    row = {
        "id": "m",
        "match": "m",
        "prices": [{"input_mtok": 1}],
        "source": "https://x.example",
        "date": "2026-01-01",
    }
    return {
        "format": 1,
        "as_of": "2999-01-01",
        "providers": [{"id": "p", "api": "https://p\\.example", "models": [{**row, **row_fields}]}],
    }


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"prices": [{"input_mtok": -1}]}, "p, row 1 (m), prices.input_mtok: got -1"),
        ({"prices": [{"input_mtok": "1"}]}, "prices.input_mtok: got '1'"),
        ({"prices": [{"input": 1}]}, "prices.input: not the name of a price"),
        ({"prices": [{"input_mtok": [1, [5, 2], [4, 3]]}]}, "prices.input_mtok: got steps at [5, 4]"),
        ({"prices": [{"from": "soon", "input_mtok": 1}]}, "p, row 1 (m), prices.from: got 'soon'"),
        ({"variants": [{"when": {}, "output_mtok": 20_000}]}, "variants.output_mtok: got 20000"),
        ({"match": "/(/"}, "match"),
        ({"date": None}, "p, row 1 (m), date: got None, expected a day"),
    ],
)
def test_a_table_with_a_wrong_row_names_row_and_field(fields, told):
    with pytest.raises(ValueError) as error:
        check_table(Table(a_table(**fields)))
    assert told in str(error.value)


def test_an_installed_table_is_preferred_only_if_it_is_newer_and_whole(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    path = location.installed_file()
    path.parent.mkdir(parents=True)
    bundled = read_table(BUNDLED).as_of
    assert location.newest_table().as_of == bundled

    path.write_text(json.dumps(a_table()), encoding="utf-8")
    assert location.newest_table().as_of == "2999-01-01"
    path.write_text(json.dumps({**a_table(), "as_of": "2020-01-01"}), encoding="utf-8")
    assert location.newest_table().as_of == bundled

    path.write_text(json.dumps(a_table(prices=[{"input_mtok": -1}])), encoding="utf-8")
    with caplog.at_level(logging.WARNING, "aiobs"):
        assert location.newest_table().as_of == bundled
    assert "prices.input_mtok: got -1" in caplog.text
