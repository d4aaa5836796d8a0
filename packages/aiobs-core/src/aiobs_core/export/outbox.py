"""The outbox: spans that wait to be sent, in a SQLite file that all processes of a project share, or in memory.

Each span has one process that has to send it: the one that put it, or another that took it over after its death. So no
two send the same rows, and a batch that is settled counts for the process that put it, in the same transaction in which
its rows go: whatever moment a process is killed at, the counts add up.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiobs_core._balance import Counts
from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core.export.outbox_file import (
    BY_OUTBOX,
    EXPIRED,
    FILE_NAME,
    add_losses,
    add_settled,
    heads_of,
    identity_of,
    keep_for_ever,
    myself,
    open_file,
    used_bytes,
)
from aiobs_core.export.outbox_neighbours import mark_tried, open_here
from aiobs_core.export.parcels import Batch, Bounds, Tally

if TYPE_CHECKING:
    from aiobs_core.export.wire import Encoded

EVICTED: Final = "spool_full"
DUPLICATE: Final = "duplicate"
_SLICE: Final = 32  # spans that give way at once: more could be all there are, where they are large

_OLDEST: Final = (  # those on their way are spared: they would be counted as lost, and arrive
    "SELECT id, process FROM spans WHERE NOT EXISTS(SELECT 1 FROM processes WHERE processes.id = sender "
    "AND spans.id BETWEEN first AND last) ORDER BY id LIMIT ?"
)
_READS: Final = 10  # of what is erased each time before it can leave
_COUNT_OF: Final = "SELECT count(*) FROM spans WHERE sender = ? AND process = ? AND id BETWEEN ? AND ?"


class Outbox:
    """One process's connection to an outbox. Safe to use from several threads; after a fork the child needs its own.

    Args:
        folder: Where the file lies; None: in memory.
        destination: Tells the receiver and the application apart from others that use the same file.
        place: The receiver's host, to be shown.
        service: The application's name, to be shown.
        bounds: How much it may hold.
        wall_s: The clock of the wall.
        process: The number that this process has already; None: a new one.

    Raises:
        OutboxError, sqlite3.Error, OSError: If it cannot be opened; see `open_file`.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        destination: bytes,
        place: str,
        service: str,
        bounds: Bounds,
        wall_s: Callable[[], float] = time.time,
        process: int | None = None,
    ) -> None:
        self.folder = folder
        self._bounds = bounds
        self.destination = destination
        self._wall_s = wall_s
        self._lock = threading.RLock()
        self._db = open_file(folder)
        self._path = None if folder is None else folder / FILE_NAME
        self.identity = None if self._path is None else identity_of(self._path)
        self._held_spans = 0  # in memory only, where no other process changes it
        # By chance: those of a damaged file come into the new one.
        self.process = process or secrets.randbits(48) | 1
        try:
            self.is_new = self._register(place, service)
        except BaseException:
            self._db.close()
            raise
        open_here.add(self.process)

    def _register(self, place: str, service: str) -> bool:
        """Enter this process into the file; False if it is there already, and goes on."""
        now_s = int(self._wall_s())
        row = (self.process, *myself(), service, self.destination, place, now_s, now_s)
        with self.transaction() as db:
            db.execute("UPDATE processes SET ended = 0 WHERE id = ?", row[:1])
            return bool(
                db.execute(
                    "INSERT OR IGNORE INTO processes(id, pid, host, born, service, destination, place, started_s, "
                    "seen_s) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    row,
                ).rowcount
            )

    @property
    def is_durable(self) -> bool:
        """Whether its spans outlive the process."""
        return self.folder is not None

    @property
    def is_current(self) -> bool:
        """Whether its file is still there: it may have been deleted, or moved away as damaged."""
        return self._path is None or identity_of(self._path) == self.identity

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        # SQLite's own locks must not be held by another thread at the moment of a fork: the child could never open a file.
        with uninterrupted_by_fork(), self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite may have rolled back already, as after `disk full`
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        with uninterrupted_by_fork(), self._lock:
            yield self._db

    # --- in -----------------------------------------------------------------------------------------------------
    def put(self, spans: Sequence[Encoded], tally: Tally) -> Mapping[str, int]:
        """Take spans in, all or none; those that are in it already are counted as duplicates.

        Returns:
            Spans of this process that had to go for it, by reason.

        Raises:
            sqlite3.Error: If they cannot be written; then nothing was.
        """
        at_s = int(self._wall_s())
        rows = [(span.key, self.process, self.process, span.group, at_s, span.body) for span in spans]
        with self.transaction() as db:
            heads = {span.group: span.head for span in spans}
            db.executemany("INSERT OR IGNORE INTO heads(grp, head) VALUES(?, ?)", heads.items())
            before = db.total_changes
            db.executemany(
                "INSERT OR IGNORE INTO spans(key, process, sender, grp, at_s, body) VALUES(?, ?, ?, ?, ?, ?)",
                rows,
            )
            added = db.total_changes - before
            lost = {DUPLICATE: len(rows) - added} if added < len(rows) else {}
            add_losses(db, self.process, lost)
            db.execute("UPDATE processes SET put = put + ? WHERE id = ?", (len(rows), self.process))
            self._tell(db, tally)
            evicted = self._make_room(db, added)
        self._held_spans += added - evicted
        return {**lost, EVICTED: evicted} if evicted else lost

    def tell(self, tally: Tally) -> None:
        """Write down what became of spans that never came here; raises sqlite3.Error if that is not possible."""
        with self.transaction() as db:
            self._tell(db, tally)

    def _tell(self, db: sqlite3.Connection, tally: Tally) -> None:
        db.execute(
            "UPDATE processes SET received = ?, sampled_out = ?, held = ?, direct = ?, beat = beat + 1, ended = 0, seen_s = ? "
            "WHERE id = ?",
            (tally.received, tally.sampled_out, tally.held, tally.direct, int(self._wall_s()), self.process),
        )
        if tally.losses:
            db.executemany(
                "INSERT OR REPLACE INTO losses(process, reason, spans) VALUES(?, ?, ?)",
                [(self.process, reason, count) for reason, count in tally.losses.items()],
            )

    def _make_room(self, db: sqlite3.Connection, added: int) -> int:
        """Delete the oldest spans until the rest fits; returns how many of them were this process's."""
        own = 0
        excess = 0
        if self._bounds.max_spans is not None:
            excess = self._held_spans + added - self._bounds.max_spans
        while excess > 0 or used_bytes(db) > self._bounds.max_bytes:
            oldest = db.execute(_OLDEST, (min(excess, _SLICE) if excess > 0 else _SLICE,)).fetchall()
            if not oldest:
                break
            db.executemany("DELETE FROM spans WHERE id = ?", [row[:1] for row in oldest])
            for process in {row[1] for row in oldest}:
                count = sum(row[1] == process for row in oldest)
                add_losses(db, process, {EVICTED: count})
                own += count if process == self.process else 0
            excess -= len(oldest)
        return own

    # --- out ----------------------------------------------------------------------------------------------------
    def take(self, *, max_spans: int, max_bytes: int, own: bool) -> Batch | None:
        """The oldest spans that this process has to send; None if there are none.

        They stay until they are settled. That they are on their way is written down, for whoever takes them over.

        Args:
            max_spans: How many at the most.
            max_bytes: Of all bodies; a single one may be larger.
            own: Those that this process put, or else those that it took over.
        """
        for _ in range(_READS):
            batch = self._oldest(max_spans=max_spans, max_bytes=max_bytes, own=own)
            if batch is None or self._note_flight(batch):
                return batch
        return None

    def _oldest(self, *, max_spans: int, max_bytes: int, own: bool) -> Batch | None:
        with self.reading() as db:
            process = self.process if own else self._adopted_from(db)
            if process is None:
                return None
            rows = db.execute(
                "SELECT id, grp, body, tried FROM spans WHERE sender = ? AND process = ? ORDER BY id LIMIT ?",
                (self.process, process, max_spans),
            ).fetchall()
            if not rows:
                return None
            size = 0
            for position, row in enumerate(rows):
                size += len(row[2])
                if position and size > max_bytes:
                    del rows[position:]
                    break
            return Batch(
                process=process,
                first=rows[0][0],
                last=rows[-1][0],
                spans=[(row[1], row[2]) for row in rows],
                heads=heads_of(db, {row[1] for row in rows}),
                tried=sum(row[3] > 0 for row in rows),
            )

    def _adopted_from(self, db: sqlite3.Connection) -> int | None:
        row = db.execute(
            "SELECT process FROM spans WHERE sender = ? AND process <> ? LIMIT 1",
            (self.process, self.process),
        ).fetchone()
        return None if row is None else int(row[0])

    def _note_flight(self, batch: Batch) -> bool:
        """Whether all of it may leave; False if some of it was erased since it was read."""
        try:
            with self.transaction() as db:
                (left,) = db.execute(
                    _COUNT_OF, (self.process, batch.process, batch.first, batch.last)
                ).fetchone()
                if left == batch.count:
                    db.execute("UPDATE processes SET first = ?, last = ? WHERE id = ?",
                               (batch.first, batch.last, self.process))  # fmt: skip
                return bool(left == batch.count)
        except sqlite3.OperationalError:
            return True  # a full disk must not keep anything from leaving; a repeat after a crash is not foretold then

    def settle(self, batch: Batch, *, lost: Mapping[str, int]) -> None:
        """Delete a batch that is done with, and count what became of it.

        Raises:
            sqlite3.Error: If that cannot be written; it has to be tried again before anything else is taken.
        """
        with self.transaction() as db:
            gone = db.execute(
                "DELETE FROM spans WHERE sender = ? AND process = ? AND id BETWEEN ? AND ?",
                (self.process, batch.process, batch.first, batch.last),
            ).rowcount
            add_settled(db, batch, gone=gone, lost=lost)
            db.execute(
                "UPDATE processes SET first = NULL, last = NULL, beat = beat + 1, seen_s = ? WHERE id = ?",
                (int(self._wall_s()), self.process),
            )
        self._held_spans -= gone

    def put_back(self, batch: Batch, *, error: str, may_have_arrived: bool) -> None:
        """Leave a batch that was not sent where it is, for the next try; raises sqlite3.Error, without a loss."""
        with self.transaction() as db:
            if may_have_arrived:
                db.execute(
                    "UPDATE spans SET tried = 1 WHERE sender = ? AND process = ? AND id BETWEEN ? AND ?",
                    (self.process, batch.process, batch.first, batch.last),
                )
            self._note_error(db, error)
            db.execute("UPDATE processes SET first = NULL, last = NULL WHERE id = ?", (self.process,))

    def note_error(self, error: str) -> None:
        """Keep what went wrong last, to be shown: class and status."""
        with self.transaction() as db:
            self._note_error(db, error)

    def _note_error(self, db: sqlite3.Connection, error: str) -> None:
        db.execute(
            "UPDATE processes SET error = ?, error_s = ? WHERE id = ?",
            (error, int(self._wall_s()), self.process),
        )

    def expire(self, max_age_s: float) -> int:
        """Delete what is older than that and has to be sent by this process; returns how many spans.

        To be called after a try that failed: what can be delivered is, however old it is, so a clock that jumps ahead
        costs nothing while the receiver is there.
        """
        limit_s = int(self._wall_s() - max_age_s)
        with self.transaction() as db:
            old = db.execute(
                "SELECT process, count(*) FROM spans WHERE sender = ? AND at_s < ? GROUP BY process",
                (self.process, limit_s),
            ).fetchall()
            if not old:
                return 0
            db.execute("DELETE FROM spans WHERE sender = ? AND at_s < ?", (self.process, limit_s))
            for process, count in old:
                add_losses(db, process, {EXPIRED: count})
        lost = sum(count for _, count in old)
        self._held_spans -= lost
        return int(lost)

    def drop(self, reason: str) -> int:
        """Delete all that this process has to send, and count it; returns how many spans."""
        with self.transaction() as db:
            count = db.execute("DELETE FROM spans WHERE sender = ?", (self.process,)).rowcount
            if count:
                add_losses(db, self.process, {reason: count})
        self._held_spans -= count
        return int(count)

    # --- what there is --------------------------------------------------------------------------------------------
    def last_put(self) -> int:
        """The highest row number that this process has put; 0: nothing waits."""
        with self.reading() as db:
            found = db.execute(
                "SELECT max(id) FROM spans WHERE sender = ? AND process = ?", (self.process, self.process)
            ).fetchone()[0]
        return int(found or 0)

    def waits(self, last: int) -> bool:
        """Whether a span that this process put, up to that number, still waits."""
        with self.reading() as db:
            return bool(
                db.execute(
                    "SELECT EXISTS(SELECT 1 FROM spans WHERE sender = ? AND process = ? AND id <= ?)",
                    (self.process, self.process, last),
                ).fetchone()[0]
            )

    def state(self) -> Counts:
        """Of the spans that this process has put: how many wait, were exported, perhaps twice, and were lost here."""
        own = (self.process,)
        with self.reading() as db:
            (waiting,) = db.execute("SELECT count(*) FROM spans WHERE process = ?", own).fetchone()
            exported, repeated = db.execute(
                "SELECT exported, repeated FROM processes WHERE id = ?", own
            ).fetchone() or (0, 0)
            rows = db.execute("SELECT reason, spans FROM losses WHERE process = ?", own).fetchall()
        lost = {why: n for why, n in rows if why in BY_OUTBOX}
        return Counts(waiting=waiting, exported=exported, repeated=repeated, dropped=lost)

    def close(self, *, is_idle: bool = True) -> None:
        """Say that this process sends no more, and close the file; what waits is for the next one.

        Args:
            is_idle: False: a batch is still on its way, and nobody waits for what becomes of it.
        """
        open_here.discard(self.process)
        try:
            with self.transaction() as db:
                if not is_idle:
                    mark_tried(db, self.process)
                db.execute(
                    "UPDATE processes SET ended = 1, first = NULL, last = NULL WHERE id = ?", (self.process,)
                )
        except sqlite3.Error:
            pass  # its death says the same
        if self.is_current:
            with self.reading() as db:
                db.close()
        else:
            self.leak()

    def leave(self) -> None:
        """Turn away from a file that was moved aside, and all that was in it."""
        open_here.discard(self.process)
        self.leak()

    def leak(self) -> None:
        """Never close the file: it is the parent's, before a fork, or one that was deleted or moved.

        Closing could drop the parent's locks, or delete the log of a new file: https://www.sqlite.org/howtocorrupt.html.
        """
        keep_for_ever(self._db)
