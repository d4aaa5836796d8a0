"""Quantiles from buckets, as PromQL's `histogram_quantile` has them."""

from __future__ import annotations

from collections.abc import Sequence


def quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """The value below which a part `q` of all values lies, with values spread evenly within each bucket.

    Args:
        q: From 0 to 1.
        bounds: Upper bounds of the buckets, ascending, all above 0.
        counts: Values in each bucket, and one more for those beyond the last bound, which count as the last bound.

    Returns:
        None where there is no value.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank, seen, lower = q * total, 0.0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count > 0 and seen + count >= rank:
            # Rounded, the sum can end above its bucket.
            return min(bound, lower + (bound - lower) * max(0.0, rank - seen) / count)
        seen += count
        lower = bound
    return lower
