"""What a decision remembers of earlier traces: how often each group comes, and how long each operation takes."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

_MAX_KEYS: Final = 1_000
_ADAPTATION_S: Final = 10.0
_RATIO: Final = 1.05  # of neighbouring buckets: a quantile is at most so much too high
_LOG_RATIO: Final = math.log(_RATIO)
_MIN_COUNT: Final = 100  # fewer traces have no quantile worth the name
_MAX_COUNT: Final = 20_000.0


class _Arrivals:
    __slots__ = ("at_ns", "count", "window_s")

    def __init__(self, at_ns: int) -> None:
        self.at_ns = at_ns
        self.count = 0.0
        self.window_s = _ADAPTATION_S


class Rates:
    """Gives each group the probability that keeps about so many traces of it a second. Used by the worker only.

    The mean of the last ten seconds, weighted by age, as consistent samplers that limit rates have it: a probability does not
    depend on what earlier draws have kept, so counts that are weighted by it stay unbiased. A sudden burst may keep some tens
    of traces more.
    """

    def __init__(self) -> None:
        self._groups: OrderedDict[Hashable, _Arrivals] = OrderedDict()

    def probability(self, group: Hashable, per_second: float, now_ns: int) -> float:
        """Note a trace of a group, and answer with its probability.

        Args:
            group: Whatever has a rate of its own; beyond 1,000 the one that was not seen for longest starts anew.
            per_second: Traces to keep.
            now_ns: A monotonic clock.
        """
        arrivals = self._groups.get(group)
        if arrivals is None:
            arrivals = self._groups[group] = _Arrivals(now_ns)
            if len(self._groups) > _MAX_KEYS:
                self._groups.popitem(last=False)
        else:
            self._groups.move_to_end(group)
        since_s = max(0, now_ns - arrivals.at_ns) / 1e9
        decay = math.exp(-since_s / _ADAPTATION_S)
        arrivals.at_ns = now_ns
        arrivals.count = arrivals.count * decay + 1
        arrivals.window_s = arrivals.window_s * decay + since_s
        # The window tends to its mean where traces come at a steady rate; until then it started as if nothing had come.
        return min(1.0, per_second * max(arrivals.window_s, 1e-9) / arrivals.count)


class Latencies:
    """Running quantiles of the durations of each operation, the newer ones counting for more. Used by the worker only."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, dict[int, float]] = OrderedDict()
        self._counts: dict[str, float] = {}

    def is_over(self, operation: str, latency_s: float, quantile: float) -> bool:
        """Whether a duration is above the quantile of the earlier ones; no, while fewer than 100 are known."""
        count = self._counts.get(operation, 0.0)
        if count < _MIN_COUNT:
            return False
        most, own = count * (1 - quantile), _bucket_of(latency_s)
        above = sum(n for bucket, n in self._buckets[operation].items() if bucket >= own)
        return above <= most

    def record(self, operation: str, latency_s: float) -> None:
        """Count a duration."""
        buckets = self._buckets.get(operation)
        if buckets is None:
            buckets = self._buckets[operation] = {}
            if len(self._buckets) > _MAX_KEYS:
                forgotten, _ = self._buckets.popitem(last=False)
                self._counts.pop(forgotten, None)
        bucket = _bucket_of(latency_s)
        buckets[bucket] = buckets.get(bucket, 0.0) + 1
        count = self._counts[operation] = self._counts.get(operation, 0.0) + 1
        if count >= _MAX_COUNT:  # half of the past counts on: what is slow today is no exception tomorrow
            halved = {bucket: n / 2 for bucket, n in buckets.items() if n > 0.5}
            self._buckets[operation] = halved
            self._counts[operation] = sum(halved.values())


def _bucket_of(latency_s: float) -> int:
    return math.floor(math.log(max(latency_s, 1e-6)) / _LOG_RATIO)
