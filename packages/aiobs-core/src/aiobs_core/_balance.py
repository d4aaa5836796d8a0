"""What became of every span that ended: each is exported, stored, sampled out, waiting, or dropped for a reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from aiobs_core._health import Health

_BEFORE_DELIVERY: Final = frozenset(
    {
        "queue.full",
        "pipeline.open",
        "read",
        "render",
        "otlp.unencodable",
        "otlp.unspoolable",
        "export.Delivery",
    }
)
_NEVER_RECEIVED: Final = ("queue.full", "pipeline.open")  # lost before the corridor counts what it receives
_STORE: Final = "store."
NO_DESTINATION: Final = "no_destination"


class Balance:
    """Counts of one process since it started; written by the worker only.

    Attributes:
        received: Spans that entered the corridor.
        sampled_out: Those that the decision dropped.
        held: Those that wait for a decision now.
        exported: Handed to a destination that keeps no account of its own.
        stored: Handed to the local store, where that is the only destination.
        aimless: There was no destination.
        failed: Not taken by that destination, by reason.
    """

    __slots__ = ("aimless", "exported", "failed", "held", "received", "sampled_out", "stored")

    def __init__(self) -> None:
        self.received = self.sampled_out = self.held = self.exported = self.stored = self.aimless = 0
        self.failed: dict[str, int] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """A balance at one instant; `received` is the sum of all the others."""

    received: int = 0
    sampled_out: int = 0
    held: int = 0
    waiting: int = 0
    exported: int = 0
    stored: int = 0
    repeated: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __add__(self, other: Counts) -> Counts:
        return self._with(other, 1)

    def __sub__(self, other: Counts) -> Counts:
        return self._with(other, -1)

    def _with(self, other: Counts, sign: int) -> Counts:
        reasons = {**self.dropped, **other.dropped}
        dropped = {why: self.dropped.get(why, 0) + sign * other.dropped.get(why, 0) for why in reasons}
        return Counts(
            **{name: getattr(self, name) + sign * getattr(other, name) for name in _SUMS},
            dropped={why: count for why, count in dropped.items() if count},
        )

    @property
    def unexplained(self) -> int:
        """What the others do not add up to."""
        explained = self.sampled_out + self.held + self.waiting + self.exported + self.stored
        return self.received - explained - sum(self.dropped.values())


_SUMS: Final = ("received", "sampled_out", "held", "waiting", "exported", "stored", "repeated")
NOTHING: Final = Counts()


def before_delivery(health: Health) -> Counts:
    """What became of spans before they reached a destination."""
    balance, losses = health.balance, health.losses()
    dropped = {
        kind: count for kind, count in losses.items() if kind in _BEFORE_DELIVERY or kind.startswith("stage.")
    }
    return Counts(
        received=balance.received + sum(dropped.get(kind, 0) for kind in _NEVER_RECEIVED),
        sampled_out=balance.sampled_out,
        held=balance.held,
        dropped=dropped,
    )


def without_outbox(health: Health) -> Counts:
    """The balance where spans go to the local store, to exporters or to a provider of the application's."""
    counts, balance = before_delivery(health), health.balance
    lost = (
        {kind: n for kind, n in health.losses().items() if kind.startswith(_STORE)} if balance.stored else {}
    )
    lost_stored = min(sum(lost.values()), balance.stored)
    dropped = {**counts.dropped, **balance.failed, **lost}
    if balance.aimless:
        dropped[NO_DESTINATION] = balance.aimless
    return Counts(
        received=counts.received,
        sampled_out=counts.sampled_out,
        held=counts.held,
        exported=balance.exported,
        stored=balance.stored - lost_stored,
        dropped=dropped,
    )
