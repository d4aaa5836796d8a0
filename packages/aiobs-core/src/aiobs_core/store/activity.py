"""What happened lately, summed up by model: for those who look again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from aiobs_core.store.reader import Store
from aiobs_core.store.writer import HISTOGRAM

_NS_PER_MINUTE = 60_000_000_000


class RecentRun(NamedTuple):
    """A run that began lately; None is unknown."""

    duration_s: float
    has_error: bool
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None


class ModelActivity(NamedTuple):
    """The calls of one model; `histogram` has the buckets of `rows.bucket_of`, and the name is empty where spans have none."""

    name: str
    calls: int
    errors: int
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    histogram: Sequence[int]


def activity(store: Store, since_minute: int) -> tuple[list[RecentRun], list[ModelActivity]]:
    """Runs that began in or after a minute (of Unix time) and are complete, and the model calls of these minutes.

    Raises:
        StoreError: If the store cannot be read.
    """
    runs = store.query(
        'SELECT "end" - start, errs, in_tok, out_tok, cost FROM runs WHERE start >= ? AND root > 0',
        since_minute * _NS_PER_MINUTE,
    )
    cells = store.query(
        "SELECT model, n, errs, in_tok, out_tok, cost, hist FROM roll WHERE minute >= ?", since_minute
    )
    models: dict[str, ModelActivity] = {}
    for name, calls, errors, input_tokens, output_tokens, cost, histogram in cells:
        cell = ModelActivity(
            name, calls, errors, input_tokens, output_tokens, _usd(cost), HISTOGRAM.unpack(histogram)
        )
        models[name] = cell if name not in models else _sum(models[name], cell)
    return (
        [RecentRun(ns / 1e9, bool(errors), given, got, _usd(cost)) for ns, errors, given, got, cost in runs],
        list(models.values()),
    )


def _usd(cost_nano_usd: int | None) -> float | None:
    return None if cost_nano_usd is None else cost_nano_usd / 1e9


def _sum(one: ModelActivity, other: ModelActivity) -> ModelActivity:
    return ModelActivity(
        one.name,
        one.calls + other.calls,
        one.errors + other.errors,
        _known(one.input_tokens, other.input_tokens),
        _known(one.output_tokens, other.output_tokens),
        None
        if one.cost_usd is None and other.cost_usd is None
        else (one.cost_usd or 0.0) + (other.cost_usd or 0.0),
        [a + b for a, b in zip(one.histogram, other.histogram, strict=True)],
    )


def _known(one: int | None, other: int | None) -> int | None:
    return None if one is None and other is None else (one or 0) + (other or 0)
