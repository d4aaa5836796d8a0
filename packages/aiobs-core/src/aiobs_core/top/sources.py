"""What `aiobs top` shows of a window of time, and how it is read from the local store; `page` reads it elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from aiobs_core._errors import AiobsError
from aiobs_core._health import Health
from aiobs_core.top.quantiles import quantile

if TYPE_CHECKING:
    from aiobs_core.store.activity import ModelActivity
    from aiobs_core.store.reader import Store

TOTAL: Final = "(requests)"
UNNAMED: Final = "(unnamed)"
_STORE_BOUNDS_S: Final = tuple(1.25 ** (bucket + 1) / 1_000 for bucket in range(63))  # as of `rows.bucket_of`
_NS_PER_MINUTE: Final = 60_000_000_000
_IS_ERROR: Final = 2  # StatusCode.ERROR

# The run that began a request says how it went: a tool that failed inside, and was called again, is no failed request.
_REQUESTS: Final = """
SELECT s.dur, s.status FROM runs r JOIN spans s ON s.id = (
    SELECT id FROM spans WHERE trace_id = r.trace_id ORDER BY parent_id IS NOT NULL, start, id LIMIT 1)
WHERE r.start >= ? AND r.root > 0"""
# Of each model the calls that have tokens and no price; in the row without a model, what tools and retrievers cost.
_BESIDE: Final = """
SELECT CASE WHEN s.kind IN ('model', 'embedding') THEN coalesce(s.model, '') END AS called,
    sum(s.cost), sum(s.cost IS NULL AND (s.in_tok IS NOT NULL OR s.out_tok IS NOT NULL))
FROM runs r JOIN spans s ON s.trace_id = r.trace_id WHERE r.start >= ? GROUP BY called"""


class Row(NamedTuple):
    """What one model did in the window, or all requests together. None is unknown.

    Attributes:
        cost_usd: Of the calls whose price is known.
        unpriced_calls: Calls that have tokens and no known price, so are missing from `cost_usd`.
    """

    name: str
    calls: float
    errors: float
    p50_s: float | None
    p95_s: float | None
    input_tokens: float | None
    output_tokens: float | None
    cost_usd: float | None
    unpriced_calls: float = 0


class Reading(NamedTuple):
    """All rows, that of the requests first, and how many seconds they are of."""

    rows: Sequence[Row]
    window_s: float


class SourceError(AiobsError):
    """The source cannot be read; the message says what to do."""


class FromStore:
    """Reads the last minutes of the local store.

    Args:
        folder: Of the store; it need not exist yet.
        window_s: Of how long. The store sums up by minutes, so the window begins with the minute that it begins in.
        clock: Seconds since the epoch.
    """

    def __init__(self, folder: Path, *, window_s: float, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._window_s = window_s
        self._clock = clock

    def read(self) -> Reading:
        """The rows of the window.

        Raises:
            AiobsError: If the store cannot be read.
        """
        from aiobs_core.store.activity import activity
        from aiobs_core.store.reader import open_store

        now_s = self._clock()
        since_minute = int((now_s - self._window_s) // 60)
        # Opened anew each time: the folder may be deleted and made again, and what waits in the spool is taken in.
        with closing(open_store(self._folder, health=Health())) as store:
            _, models = activity(store, since_minute)
            beside = store.query(_BESIDE, since_minute * _NS_PER_MINUTE)
            unpriced = {called: count for called, _, count in beside}
            rows = [_row_of(model, unpriced.get(model.name, 0)) for model in models]
            costs = [row.cost_usd for row in rows]
            costs += [
                nano_usd / 1e9 for called, nano_usd, _ in beside if called is None and nano_usd is not None
            ]
            total = _requests(store, since_minute)._replace(
                input_tokens=_sum([row.input_tokens for row in rows]),
                output_tokens=_sum([row.output_tokens for row in rows]),
                cost_usd=_sum(costs),
                unpriced_calls=sum(row.unpriced_calls for row in rows),
            )
        return Reading([total, *rows], now_s - since_minute * 60)


def _requests(store: Store, since_minute: int) -> Row:
    from aiobs_core.store.rows import bucket_of

    found = store.query(_REQUESTS, since_minute * _NS_PER_MINUTE)
    buckets = Counter(bucket_of(duration_ns) for duration_ns, _ in found if duration_ns is not None)
    counts = [buckets[at] for at in range(len(_STORE_BOUNDS_S) + 1)]
    return Row(
        TOTAL,
        len(found),
        sum(status == _IS_ERROR for _, status in found),
        quantile(0.5, _STORE_BOUNDS_S, counts),
        quantile(0.95, _STORE_BOUNDS_S, counts),
        None,
        None,
        None,
    )


def _row_of(model: ModelActivity, unpriced_calls: int) -> Row:
    return Row(
        model.name or UNNAMED,
        model.calls,
        model.errors,
        quantile(0.5, _STORE_BOUNDS_S, model.histogram),
        quantile(0.95, _STORE_BOUNDS_S, model.histogram),
        model.input_tokens,
        model.output_tokens,
        model.cost_usd,
        unpriced_calls,
    )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
