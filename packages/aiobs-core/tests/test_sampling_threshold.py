"""Consistent probability sampling, as OpenTelemetry's specification has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import TraceState

from aiobs_core.sampling.threshold import (
    RANDOM_VALUES,
    adjusted_count_of,
    mixed,
    probability_of,
    randomness_of,
    threshold_in,
    threshold_of,
    with_threshold,
)


@pytest.mark.parametrize(
    ("probability", "th"),  # the examples of the specification, with its precision
    [
        (1.0, "0"),
        (0.5, "8"),
        (0.25, "c"),
        (0.1, "e6666"),
        (0.01, "fd70a4"),
        (1 / 3, "aaaab"),
        (0.001, "ffbe76d"),
    ],
)
def test_thresholds_are_those_of_the_specification(probability: float, th: str) -> None:
    state = with_threshold(None, threshold_of(probability))
    assert state["ot"] == f"th:{th}"
    assert threshold_in(state) == threshold_of(probability)
    assert probability_of(threshold_of(probability)) == pytest.approx(probability, rel=1e-4)


@given(st.floats(0, 1))
def test_a_probability_survives_being_written(probability: float) -> None:
    threshold = threshold_of(probability)
    assert 0 <= threshold <= RANDOM_VALUES
    if threshold < RANDOM_VALUES:
        assert threshold_in(with_threshold(None, threshold)) == threshold
        assert adjusted_count_of(threshold) * probability_of(threshold) == pytest.approx(1)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**128 - 1))
def test_what_a_smaller_probability_keeps_a_greater_one_keeps(
    one: float, other: float, trace_id: int
) -> None:
    low, high = sorted((one, other))
    assert threshold_of(low) >= threshold_of(high)
    if randomness_of(trace_id) >= threshold_of(low):
        assert randomness_of(trace_id) >= threshold_of(high)


def test_the_bounds_keep_all_and_nothing() -> None:
    assert threshold_of(1) == 0
    assert threshold_of(0) == RANDOM_VALUES
    assert threshold_of(1e-30) == RANDOM_VALUES


def test_randomness_is_of_the_state_or_of_the_last_digits_of_the_id() -> None:
    assert randomness_of((0xA1 << 56) | 7) == 7
    assert randomness_of(7, TraceState([("ot", "rv:000000000000ff")])) == 255
    for broken in ("rv:ff", "rv:zzzzzzzzzzzzzz", "rv", ""):
        assert randomness_of(7, TraceState([("ot", broken)])) == 7


def test_the_state_of_others_stays() -> None:
    state = TraceState([("vendor", "x"), ("ot", "rv:000000000000ff;th:8")])
    written = with_threshold(state, threshold_of(0.25))
    assert dict(written.items()) == {"vendor": "x", "ot": "th:c;rv:000000000000ff"}
    for broken in ("th:", "th:xyz", "th:123456789012345", "p:3"):
        assert threshold_in(TraceState([("ot", broken)])) is None


def test_mixed_bits_do_not_follow_the_ids_own() -> None:
    ids = range(1, 2_000_000, 101)  # all of them with low bits
    assert 0.09 < sum(mixed(each) >= threshold_of(0.1) for each in ids) / len(ids) < 0.11
