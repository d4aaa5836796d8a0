"""What passes between the outbox and those that use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What became of spans before they reached the outbox, since it was opened; all counts.

    Attributes:
        received: Spans that ended.
        held: Those that wait elsewhere in the process.
        direct: Sent without having been in this outbox.
        losses: By reason.
    """

    received: int = 0
    sampled_out: int = 0
    held: int = 0
    direct: int = 0
    losses: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Spans that one process put, on their way to the receiver; `last` is the highest of their row numbers."""

    process: int
    first: int
    last: int
    spans: Sequence[tuple[bytes, bytes]]
    heads: Mapping[bytes, bytes]
    tried: int

    @property
    def count(self) -> int:
        return len(self.spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How much an outbox may hold: the oldest spans give way."""

    max_bytes: int
    max_spans: int | None = None
