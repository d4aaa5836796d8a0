"""What holds for every bill: exact, additive, monotonic, never negative, never an error."""

from __future__ import annotations

import decimal
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobs_core._operation import Usage
from aiobs_core.pricing import PriceBook
from aiobs_core.pricing.cost import NOTHING, Rates

AT_NS = 1_790_000_000 * 10**9
BOOK = PriceBook()
FLAT = Rates(
    {
        "input_mtok": (Decimal(3), ()),
        "output_mtok": (Decimal(15), ()),
        "cache_read_mtok": (Decimal("0.3"), ()),
        "cache_audio_read_mtok": (Decimal("0.7"), ()),
        "cache_write_mtok": (Decimal("3.75"), ()),
        "cache_write_1h_mtok": (Decimal(6), ()),
        "input_audio_mtok": (Decimal(32), ()),
        "input_image_mtok": (Decimal(5), ()),
        "output_audio_mtok": (Decimal(64), ()),
        "output_reasoning_mtok": (Decimal(16), ()),
    }
)
PARTS_OF = {  # a kind of token → the counts that it is in
    "plain": ("input_tokens",),
    "cached": ("input_tokens", "cache_read_tokens"),
    "cached audio": ("input_tokens", "cache_read_tokens", "audio_input_tokens", "cache_read_audio_tokens"),
    "written": ("input_tokens", "cache_write_tokens"),
    "written for an hour": ("input_tokens", "cache_write_tokens", "cache_write_1h_tokens"),
    "audio": ("input_tokens", "audio_input_tokens"),
    "image": ("input_tokens", "image_input_tokens"),
    "output": ("output_tokens",),
    "reasoning": ("output_tokens", "reasoning_tokens"),
    "audio out": ("output_tokens", "audio_output_tokens"),
    "image out": ("output_tokens", "image_output_tokens"),
}
ALL_COUNTS = tuple(dict.fromkeys(name for names in PARTS_OF.values() for name in names))
KINDS = st.fixed_dictionaries({kind: st.integers(0, 10**7) for kind in PARTS_OF})
ANYTHING = st.one_of(
    st.none(), st.integers(-(10**30), 10**30), st.floats(), st.booleans(), st.text(max_size=3)
)
MODELS = st.sampled_from(
    [
        ("openai", "gpt-4o"), ("openai", "gpt-5.4"), ("openai", "gpt-realtime"), ("openai", "gpt-image-1"),
        ("anthropic", "claude-sonnet-4-5"), ("gcp.gemini", "gemini-2.5-pro"), ("gcp.gemini", "gemini-2.5-flash"),
        ("perplexity", "sonar"), ("perplexity", "sonar-deep-research"), ("deepseek", "deepseek-v4-pro"),
    ]
)  # fmt: skip


def usage_of(kinds):
    counts = {name: sum(kinds[kind] for kind in kinds if name in PARTS_OF[kind]) for name in ALL_COUNTS}
    return Usage(**counts)


def cost_of(kinds, model=("openai", "gpt-4o")):
    return BOOK.cost(provider=model[0], model=model[1], usage=usage_of(kinds), at_ns=AT_NS)


@given(KINDS, KINDS)
def test_two_bills_are_together_the_bill_of_both(one, two):
    both = {kind: one[kind] + two[kind] for kind in one}
    bills = [FLAT.bill(usage_of(kinds)) for kinds in (one, two, both)]
    assert [FLAT.total(usage_of(kinds)) for kinds in (one, two, both)] == [bill.total_usd for bill in bills]
    assert [a + b for a, b in zip(bills[0], bills[1], strict=True)] == list(bills[2])


@given(KINDS, st.sampled_from(list(PARTS_OF)), st.integers(0, 10**6), MODELS)
def test_more_tokens_of_a_kind_never_cost_less(kinds, kind, more, model):
    assert cost_of({**kinds, kind: kinds[kind] + more}, model).total_usd >= cost_of(kinds, model).total_usd


@given(KINDS, MODELS)
def test_the_parts_sum_exactly_to_the_total_whatever_the_applications_decimal_context(kinds, model):
    with decimal.localcontext() as context:
        context.prec = 3
        context.traps[decimal.Inexact] = True
        cost = cost_of(kinds, model)
    with decimal.localcontext() as context:
        context.prec = 80
        assert sum(cost[1:7]) == cost.total_usd
    assert min(cost[:7]) >= 0


@given(st.fixed_dictionaries(dict.fromkeys(ALL_COUNTS, ANYTHING)), MODELS)
def test_no_usage_raises_or_gives_money_back(counts, model):
    cost = BOOK.cost(provider=model[0], model=model[1], usage=Usage(**counts), at_ns=AT_NS)
    assert cost is None or (min(cost[:7]) >= 0 and cost.total_usd.is_finite())


def test_sums_are_exact_where_floats_are_not():
    cost = BOOK.cost(
        provider="openai", model="gpt-4o-mini", usage=Usage(input_tokens=1, output_tokens=3), at_ns=AT_NS
    )
    assert cost.total_usd == Decimal("0.00000195")
    assert cost.total_usd * 10**6 == Decimal("1.95")


def test_a_part_without_a_price_of_its_own_is_billed_as_the_whole_and_still_shown():
    rates = Rates({"input_mtok": (Decimal(1), ()), "output_mtok": (Decimal(2), ())})
    bill = rates.bill(Usage(input_tokens=100, cache_read_tokens=40, output_tokens=50, reasoning_tokens=20))
    million = Decimal(10**6)
    assert (bill.input_usd, bill.cached_usd) == (60 / million, 40 / million)
    assert (bill.output_usd, bill.reasoning_usd) == (60 / million, 40 / million)


@pytest.mark.parametrize(
    ("counts", "same_as"),
    [
        ({"input_tokens": 10, "cache_read_tokens": 30}, {"input_tokens": 30, "cache_read_tokens": 30}),
        ({"input_tokens": None, "cache_read_tokens": 30}, {"input_tokens": 30, "cache_read_tokens": 30}),
        ({"output_tokens": 5, "reasoning_tokens": 9}, {"output_tokens": 9, "reasoning_tokens": 9}),
        (
            {"cache_write_tokens": 2, "cache_write_1h_tokens": 9},
            {"cache_write_tokens": 9, "cache_write_1h_tokens": 9},
        ),
        ({"input_tokens": 10, "cache_read_tokens": -30}, {"input_tokens": 10}),
        (  # 40 tokens are both: some audio was cached, and not reported as such
            {"input_tokens": 100, "audio_input_tokens": 80, "cache_read_tokens": 60},
            {
                "input_tokens": 100,
                "audio_input_tokens": 80,
                "cache_read_tokens": 60,
                "cache_read_audio_tokens": 40,
            },
        ),
        (  # 30 of the image's tokens were cached, at the price of what is cached
            {"input_tokens": 100, "image_input_tokens": 70, "cache_read_tokens": 60},
            {"input_tokens": 100, "image_input_tokens": 40, "cache_read_tokens": 60},
        ),
    ],
)
def test_a_part_that_exceeds_its_total_is_billed_in_full(counts, same_as):
    default = {"input_tokens": 0, "output_tokens": 0}
    assert FLAT.bill(Usage(**{**default, **counts})) == FLAT.bill(Usage(**{**default, **same_as}))


@pytest.mark.parametrize(("tokens", "price"), [(200_000, "1.25"), (200_001, "2.50")])
def test_a_longer_input_has_one_price_for_all_its_tokens(tokens, price):
    cost = BOOK.cost(
        provider="gcp.gemini", model="gemini-2.5-pro", usage=Usage(input_tokens=tokens), at_ns=AT_NS
    )
    assert cost.total_usd == tokens * Decimal(price) / 10**6


def test_unknown_counts_have_no_cost_and_a_cache_hit_costs_nothing():
    call = {"provider": "openai", "model": "gpt-4o", "at_ns": AT_NS}
    assert BOOK.cost(usage=Usage(source="missing"), **call) is None
    assert BOOK.cost(usage=Usage(cache_read_tokens=5), **call) is None
    assert BOOK.cost(usage=Usage(input_tokens=0, output_tokens=0), **call).total_usd == 0
    hit = BOOK.cost(usage=Usage(input_tokens=500, output_tokens=9, source="cache_hit"), **call)
    assert hit[:7] == tuple(NOTHING)
    assert hit.model == "gpt-4o"
