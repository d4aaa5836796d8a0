"""Where the numbers of `aiobs top` come from: the local store, or the Prometheus page of a running process."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple
from urllib.error import URLError
from urllib.request import Request, urlopen

from aiobs_core._errors import AiobsError
from aiobs_core._health import Health
from aiobs_core.semconv import metrics as names
from aiobs_core.top.quantiles import quantile

TOTAL: Final = "(requests)"
_TIMEOUT_S: Final = 5.0
_STORE_BOUNDS_S: Final = tuple(1.25 ** (bucket + 1) / 1_000 for bucket in range(63))
_MAX_PAGE_BYTES: Final = 64 << 20


class Row(NamedTuple):
    """What one model did in the window, or all requests; None is unknown."""

    name: str
    calls: float
    errors: float
    p50_s: float | None
    p95_s: float | None
    input_tokens: float | None
    output_tokens: float | None
    cost_usd: float | None


class Reading(NamedTuple):
    """All rows, requests first, and how many seconds they are of."""

    rows: Sequence[Row]
    window_s: float


class SourceError(AiobsError):
    """The source cannot be read; the message says what to do."""


# --- the local store --------------------------------------------------------------------------------------------------


class FromStore:
    """Reads the last minutes of the local store."""

    def __init__(self, folder: Path, *, window_s: float) -> None:
        self._folder = folder
        self._minutes = max(1, round(window_s / 60))

    def read(self) -> Reading:
        """The rows of the last whole minutes and the current one.

        Raises:
            AiobsError: If the store cannot be read.
        """
        from aiobs_core.store.activity import activity
        from aiobs_core.store.reader import open_store

        now_s = time.time()
        since_minute = int(now_s // 60) - self._minutes + 1
        with closing(open_store(self._folder, health=Health())) as store:
            runs, models = activity(store, since_minute)
        durations_s = sorted(run.duration_s for run in runs)
        total = Row(
            TOTAL,
            len(runs),
            sum(run.has_error for run in runs),
            _at(durations_s, 0.5),
            _at(durations_s, 0.95),
            _sum([run.input_tokens for run in runs]),
            _sum([run.output_tokens for run in runs]),
            _sum([run.cost_usd for run in runs]),
        )
        rows = [
            Row(
                model.name or "(unnamed)",
                model.calls,
                model.errors,
                quantile(0.5, _STORE_BOUNDS_S, model.histogram),
                quantile(0.95, _STORE_BOUNDS_S, model.histogram),
                model.input_tokens,
                model.output_tokens,
                model.cost_usd,
            )
            for model in models
        ]
        return Reading([total, *rows], now_s - since_minute * 60)


def _at(ordered: Sequence[float], q: float) -> float | None:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else None


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


# --- a page -------------------------------------------------------------------------------------------------------------

_Series = tuple[str, frozenset[tuple[str, str]]]


class FromPage:
    """Reads a Prometheus page again and again; rates are differences within the window.

    A counter that has fallen belongs to a process that was started anew: it counts from 0, as for PromQL's `rate`.
    """

    def __init__(self, url: str, *, window_s: float) -> None:
        self._url = url
        self._window_s = window_s
        self._scrapes: deque[tuple[float, Mapping[_Series, float]]] = deque()

    def read(self) -> Reading:
        """Scrape once; the first time there is nothing to compare with, so there are no rows.

        Raises:
            SourceError: If there is no such page.
        """
        now_s = time.monotonic()
        self._scrapes.append((now_s, self._scrape()))
        while len(self._scrapes) > 2 and now_s - self._scrapes[1][0] >= self._window_s:
            self._scrapes.popleft()
        if len(self._scrapes) < 2:
            return Reading([], 0.0)
        return Reading(
            _rows(_increase([samples for _, samples in self._scrapes])), now_s - self._scrapes[0][0]
        )

    def _scrape(self) -> Mapping[_Series, float]:
        from prometheus_client.parser import text_string_to_metric_families

        try:
            request = Request(self._url, headers={"Accept": "text/plain"})  # noqa: S310 (the user's own address)
            with urlopen(request, timeout=_TIMEOUT_S) as answer:  # noqa: S310
                page = answer.read(_MAX_PAGE_BYTES).decode("utf-8")
            return {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(page)
                for sample in family.samples
            }
        except (URLError, OSError, ValueError) as error:
            raise SourceError(
                f"{self._url}: no metrics page could be read ({error}); start the program with AIOBS_PROMETHEUS_PORT=9464, "
                "or leave --url out to look at the local store."
            ) from None


def _increase(scrapes: Sequence[Mapping[_Series, float]]) -> Mapping[_Series, float]:
    grown: dict[_Series, float] = defaultdict(float)
    for before, after in pairwise(scrapes):
        for series, value in after.items():
            earlier = before.get(series, 0.0)
            grown[series] += value - earlier if value >= earlier else value
    return grown


def _rows(grown: Mapping[_Series, float]) -> list[Row]:
    """One row of all requests, and one for each model that was called."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    buckets: dict[str, dict[float, float]] = defaultdict(lambda: defaultdict(float))
    for (name, labelled), value in grown.items():
        labels = dict(labelled)
        who = _whose(labels)
        if who is None or not value:
            continue
        if name == names.LATENCY.prometheus_name + "_bucket":
            buckets[who][float(labels["le"])] += value
        elif name == names.REQUESTS.sample_name:
            found[who]["count"] += value
        elif name == names.ERRORS.sample_name:
            found[who]["errors"] += value
        elif name == names.TOKENS.sample_name:
            for each in {who, TOTAL}:
                found[each][labels.get(names.DIRECTION, "")] += value
        elif name == names.COST.sample_name:
            for each in {who, TOTAL}:
                found[each]["cost"] += value
    models = sorted((who for who in found if who != TOTAL), key=lambda who: -found[who]["count"])
    return [_row(who, found[who], buckets[who]) for who in (TOTAL, *models)]


def _whose(labels: Mapping[str, str]) -> str | None:
    stage = labels.get(names.STAGE)
    if stage == names.TOTAL:
        return TOTAL
    if names.MODEL in labels and stage in {None, "model_inference"}:
        return labels[names.MODEL]
    return TOTAL if stage is None and names.TOOL in labels else None  # what a tool says that it cost


def _row(who: str, found: Mapping[str, float], cumulative: Mapping[float, float]) -> Row:
    bounds = sorted(cumulative)
    counts = [
        cumulative[bound] - (cumulative[bounds[at - 1]] if at else 0.0) for at, bound in enumerate(bounds)
    ]
    finite = [bound for bound in bounds if bound != float("inf")]
    return Row(
        who,
        found.get("count", 0.0),
        found.get("errors", 0.0),
        quantile(0.5, finite, counts),
        quantile(0.95, finite, counts),
        found.get("input"),
        found.get("output"),
        found.get("cost"),
    )
