"""The balance of a process over all its openings of destinations: a reload of the settings begins no new one."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from aiobs_core._balance import NOTHING, Counts, before_delivery, without_outbox

if TYPE_CHECKING:
    from aiobs_core._health import Health


@dataclass(slots=True, kw_only=True)
class Row:
    """What stands for this process in a spool; who opens the same spool again for the same receiver goes on with it.

    Attributes:
        key: The spool and the receiver.
        process: The number of the row.
        base: What had become of spans before the row was begun.
        last: What the spool said of the row when it was closed.
    """

    key: Hashable
    process: int
    base: Counts
    last: Counts = NOTHING


class Accounts:
    """What became of all spans of a process. Written by the worker, and by whoever opens a spool; read by any thread."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self._parts: tuple[Counts, Callable[[], Counts] | None] = (
            NOTHING,
            None,
        )  # replaced at once, for readers
        self.beside = NOTHING
        """What became of spans in outboxes in memory that are closed."""
        self.told = NOTHING
        """What is written in the row, or was elsewhere before there was one."""
        self.row: Row | None = None

    def before_delivery(self) -> Counts:
        """What became of spans before they reached an outbox."""
        return before_delivery(self._health)

    def balance(self) -> Counts:
        """What became of every span that has ended."""
        settled, delivered = self._parts
        total = without_outbox(self._health) + settled
        return total if delivered is None else total + delivered()

    def open(self, delivered: Callable[[], Counts] | None, key: Hashable) -> None:
        """Count what a new delivery says from now on, once the last one is closed.

        Args:
            delivered: What became of the spans in its outboxes; None: it has none.
            key: Of the row; None: there is no spool.
        """
        if self.row is not None and self.row.key != key:
            self.abandon_row()
        self._parts = self._parts[0], delivered

    def abandon_row(self) -> None:
        """What waits behind it is for others to send."""
        settled, delivered = self._parts
        self.row = None
        self._parts = replace(settled, stored=settled.stored + settled.waiting, waiting=0), delivered

    def close(self) -> None:
        """Keep what the delivery said last, and has written down."""
        settled, delivered = self._parts
        if delivered is None:  # whatever there was went elsewhere
            self.told = self.before_delivery() + self.beside
        self._parts = settled if delivered is None else settled + delivered(), None
