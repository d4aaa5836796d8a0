"""The quantiles of `aiobs top` are those of PromQL."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiobs_core.metrics.series import Distribution
from aiobs_core.semconv.metrics import LATENCY_BOUNDS_S
from aiobs_core.top.quantiles import quantile

QS = st.sampled_from([0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0])
BOUNDS = st.lists(st.floats(0.001, 1_000), min_size=1, max_size=12, unique=True).map(sorted)


def histogram_quantile(q: float, bounds: list[float], cumulative: list[float]) -> float:
    """As Prometheus has it (promql/quantile.go), of the numbers on its page."""
    rank = q * cumulative[-1]
    at = next((at for at, count in enumerate(cumulative[:-1]) if count >= rank), len(bounds))
    if at == len(bounds):
        return bounds[-1]
    start, below = (bounds[at - 1], cumulative[at - 1]) if at else (0.0, 0.0)
    return start + (bounds[at] - start) * (rank - below) / (cumulative[at] - below)


@given(QS, BOUNDS, st.data())
def test_it_is_what_promql_says_of_the_same_buckets(
    q: float, bounds: list[float], data: st.DataObject
) -> None:
    size = len(bounds) + 1
    counts = data.draw(st.lists(st.integers(0, 50), min_size=size, max_size=size).filter(any))
    expected = histogram_quantile(q, bounds, list(accumulate(counts)))
    assert quantile(q, bounds, counts) == pytest.approx(expected)


@given(st.lists(st.floats(0.0001, 299), min_size=1, max_size=200), QS)
@example([0.005], 0.5)
def test_it_lies_in_the_bucket_of_the_value_that_it_stands_for(values: list[float], q: float) -> None:
    distribution = Distribution((), LATENCY_BOUNDS_S)
    for value in values:
        distribution.record(value)
    true = sorted(values)[math.ceil(q * len(values)) - 1]
    bucket = bisect_left(LATENCY_BOUNDS_S, true)
    found = quantile(q, LATENCY_BOUNDS_S, distribution.counts)
    assert found is not None
    assert (0.0, *LATENCY_BOUNDS_S)[bucket] <= found <= LATENCY_BOUNDS_S[bucket]


@given(BOUNDS, st.data())
def test_it_grows_with_q(bounds: list[float], data: st.DataObject) -> None:
    size = len(bounds) + 1
    counts = data.draw(st.lists(st.integers(0, 9), min_size=size, max_size=size).filter(any))
    found = [quantile(step / 20, bounds, counts) or 0.0 for step in range(21)]
    assert found == sorted(found)


def test_of_nothing_and_beyond_all_bounds() -> None:
    assert quantile(0.5, (1.0, 2.0), (0, 0, 0)) is None
    assert quantile(0.5, (1.0, 2.0), (0, 0, 3)) == 2.0
    assert quantile(0.5, (1.0, 2.0), (0, 4, 0)) == 1.5


def test_rounding_does_not_lead_out_of_the_bucket() -> None:
    bound = 682.9166647670656
    assert quantile(0.75, [bound], [3, 1]) == bound
