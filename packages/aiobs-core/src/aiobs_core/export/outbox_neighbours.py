"""The other processes that use an outbox: whose spans to take over after their death, and whose counts to fold."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final

from aiobs_core.export.outbox_file import EXPIRED, add_losses, lives, myself

if TYPE_CHECKING:
    from aiobs_core.export.outbox import Outbox

_ADOPTED: Final = 4_096
_FAR_S: Final = (
    60.0  # a process that cannot be asked is taken for dead when its beat has stood still for so long
)
_KEPT_PROCESSES: Final = 100

open_here: set[int] = set()
"""The outboxes' numbers that are open in this process."""


class Neighbours:
    """What one process does about the others. For one thread at a time."""

    def __init__(self, box: Outbox) -> None:
        self.box = box
        self._seen_beats: dict[int, tuple[int, float]] = {}

    def adopt(self, monotonic_s: float) -> int:
        """Take over what dead processes of the same application have left; returns how many spans.

        Whether a process of this boot lives, the system says. One of another host or container shows it by its beat.
        """
        with self.box.reading() as db:
            others = db.execute(
                "SELECT id, pid, host, born, ended, beat FROM processes WHERE destination = ? AND id <> ? AND id IN "
                "(SELECT DISTINCT sender FROM spans)",
                (self.box.destination, self.box.process),
            ).fetchall()
        dead = [int(row[0]) for row in others if self._is_dead(row, monotonic_s)]
        taken = 0
        for process in dead:  # at most a slice of each: the others must not wait for the end of it
            with self.box.transaction() as db:
                mark_tried(db, process)
                db.execute(
                    "UPDATE processes SET first = NULL, last = NULL, ended = 1 WHERE id = ?", (process,)
                )
                taken += self._take_over(db, process)
        return taken

    def _take_over(self, db: sqlite3.Connection, process: int) -> int:
        return db.execute(
            "UPDATE spans SET sender = ? WHERE id IN (SELECT id FROM spans WHERE sender = ? ORDER BY id LIMIT ?)",
            (self.box.process, process, _ADOPTED),
        ).rowcount

    def _is_dead(self, row: tuple[int, int, str, str, int, int], monotonic_s: float) -> bool:
        process, pid, host, born, ended, beat = row
        if process in open_here:
            return False
        if ended:
            return True
        if (pid, host, born) == myself():
            return True  # an earlier connection of this process
        alive = lives(pid, host, born)
        if alive is not None:
            return not alive
        known = self._seen_beats.get(process)
        if known is None or known[0] != beat:
            self._seen_beats[process] = (beat, monotonic_s)
            return False
        return monotonic_s - known[1] > _FAR_S

    def beat(self) -> None:
        """Show that this process lives, though it puts nothing and nothing of it leaves."""
        with self.box.transaction() as db:
            db.execute("UPDATE processes SET beat = beat + 1, ended = 0 WHERE id = ?", (self.box.process,))

    def expire(self, monotonic_s: float, *, before_s: float) -> None:
        """Delete what dead processes have left for receivers that nobody here sends to, once it is too old.

        Args:
            monotonic_s: As for `adopt`.
            before_s: Spans that were put before this instant go, in seconds since the epoch.
        """
        with self.box.reading() as db:
            others = db.execute(
                "SELECT id, pid, host, born, ended, beat FROM processes WHERE destination <> ? AND id IN "
                "(SELECT sender FROM spans WHERE at_s < ?)",
                (self.box.destination, int(before_s)),
            ).fetchall()
        for process in [int(row[0]) for row in others if self._is_dead(row, monotonic_s)]:
            with self.box.transaction() as db:
                old = "FROM spans WHERE sender = ? AND at_s < ?"
                found = db.execute(
                    f"SELECT process, count(*) {old} GROUP BY process", (process, int(before_s))
                ).fetchall()
                db.execute(f"DELETE {old}", (process, int(before_s)))
                for owner, count in found:
                    add_losses(db, owner, {EXPIRED: count})

    def tidy(self) -> None:
        """Give room on the disk back, and fold the counts of long ended processes into one row."""
        with self.box.reading() as db:
            others = db.execute("SELECT id, pid, host, born FROM processes WHERE NOT ended").fetchall()
        # Only those that the system knows to be dead: one of another host may be idle, and goes on counting in its row.
        killed = [(row[0],) for row in others if lives(*row[1:]) is False]
        with self.box.transaction() as db:
            db.executemany("UPDATE processes SET ended = 1 WHERE id = ?", killed)
            old = db.execute(
                "SELECT id FROM processes WHERE id <> 0 AND id <> ? AND ended AND id NOT IN (SELECT process FROM spans) "
                "AND id NOT IN (SELECT sender FROM spans) ORDER BY id DESC LIMIT -1 OFFSET ?",
                (self.box.process, _KEPT_PROCESSES),
            ).fetchall()
            for (process,) in old:
                _fold(db, process)
        with self.box.reading() as db:
            db.execute("PRAGMA incremental_vacuum(1024)").fetchall()


def forget_after_fork() -> None:
    """What is open in this process: nothing of the parent's."""
    open_here.clear()


def mark_tried(db: sqlite3.Connection, process: int) -> None:
    """Remember of the spans that are on their way that they may have arrived."""
    db.execute(
        "UPDATE spans SET tried = 1 WHERE sender = :id AND id BETWEEN "
        "(SELECT first FROM processes WHERE id = :id) AND (SELECT last FROM processes WHERE id = :id)",
        {"id": process},
    )


def _fold(db: sqlite3.Connection, process: int) -> None:
    """Add a process's counts to those of row 0, which stands for all that are long gone."""
    db.execute(
        "INSERT OR IGNORE INTO processes(id, pid, host, born, service, destination, place, started_s, seen_s, ended) "
        "VALUES(0, 0, '', '', 'earlier processes', x'', '', 0, 0, 1)"
    )
    sums = ("received", "sampled_out", "held", "put", "exported", "direct", "repeated")
    for name in sums:
        db.execute(
            f"UPDATE processes SET {name} = {name} + (SELECT {name} FROM processes WHERE id = ?) WHERE id = 0",  # noqa: S608
            (process,),
        )
    db.execute(
        "INSERT INTO losses(process, reason, spans) SELECT 0, reason, spans FROM losses WHERE process = ? "
        "ON CONFLICT(process, reason) DO UPDATE SET spans = spans + excluded.spans",
        (process,),
    )
    db.execute("DELETE FROM losses WHERE process = ?", (process,))
    db.execute("DELETE FROM processes WHERE id = ?", (process,))
