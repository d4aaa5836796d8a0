"""The stage `decide`: what the head sampler, the caller upstream and the sampling policy keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, Final

from aiobs_core._run import Run
from aiobs_core.metrics.series import FamilySnapshot, Point
from aiobs_core.sampling.tail import TailSampler
from aiobs_core.sampling.trace import Limits
from aiobs_core.semconv import metrics as names

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core._settings import Settings
    from aiobs_core.export.destinations import Destinations
    from aiobs_core.metrics.meters import Meters

_FAR: Final = 1 << 62
_SLACK_S: Final = 0.5  # between the end of the grace and the arrival of the runs that are closed then


class Decide:
    """Used by the worker only. With a policy that keeps everything nothing is held back."""

    def __init__(
        self, settings: Settings, meters: Meters, health: Health, destinations: Destinations
    ) -> None:
        self._balance = health.balance
        self._held = 0
        self._spans_dropped = meters.number(names.SAMPLING_SPANS_DROPPED)
        self._tail: TailSampler | None = None
        meters.observe("sampling", self._observed)  # also without one: that of a policy before must not stay
        if settings.sampling.keeps_all:
            return
        limits = Limits(
            traces=settings.sampling_max_traces,
            spans=settings.sampling_max_spans,
            size_bytes=settings.sampling_max_bytes,
            wait_ns=int(settings.sampling_max_wait_s * 1e9),
            grace_ns=int((settings.grace_s + 2 * settings.flush_interval_s + _SLACK_S) * 1e9),
        )
        self._tail = TailSampler(
            settings.sampling,
            limits,
            sees_foreign=destinations.sees_foreign,
            is_second=destinations.head_sampler is not None,
            meters=meters,
        )

    def decide(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Hold back, drop, or pass on."""
        if self._tail is not None:
            return self._booked(partial(self._tail.sample, batch, perf_counter_ns()))
        kept = [item for item in batch if type(item) is not Run or item.span.trace.sampled]
        dropped = len(batch) - len(kept)
        self._spans_dropped.value += dropped
        self._balance.sampled_out += dropped
        return kept

    def due(self) -> Sequence[Any]:
        """What has waited long enough."""
        return () if self._tail is None else self._booked(partial(self._tail.due, perf_counter_ns()))

    def next_ns(self) -> int:
        """When `due` has something to do (`perf_counter_ns`)."""
        return _FAR if self._tail is None else self._tail.next_ns()

    def release(self, *, everything: bool) -> Sequence[Any]:
        """What is kept of the traces that have ended, or of all, without waiting any longer."""
        if self._tail is None:
            return ()
        return self._booked(partial(self._tail.release, perf_counter_ns(), everything=everything))

    def _booked(self, take: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        """What the sampler lets go on; what it drops and holds back meanwhile goes into the balance."""
        assert self._tail is not None
        balance, dropped = self._balance, self._spans_dropped.value
        try:
            return take()
        finally:
            balance.sampled_out += int(self._spans_dropped.value - dropped)
            balance.held += self._tail.span_count - self._held
            self._held = self._tail.span_count

    def _observed(self) -> Sequence[FamilySnapshot]:
        tail = self._tail
        if tail is None:
            return ()
        return [
            FamilySnapshot(names.SAMPLING_BUFFERED_TRACES, [Point((), tail.trace_count)]),
            FamilySnapshot(names.SAMPLING_BUFFERED_SPANS, [Point((), tail.span_count)]),
            FamilySnapshot(names.SAMPLING_BUFFERED_BYTES, [Point((), tail.size_bytes)]),
        ]
