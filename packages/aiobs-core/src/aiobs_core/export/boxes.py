"""The outboxes of one process: the one on disk, and the one in memory for what that cannot take."""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiobs_core._accounts import Row
from aiobs_core._balance import NOTHING, Counts
from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core.export.outbox import Outbox
from aiobs_core.export.outbox_file import FILE_NAME, OutboxError, identity_of, is_damage
from aiobs_core.export.outbox_rescue import Rescued, finish_rescues, rescue, was_rescued
from aiobs_core.export.parcels import Tally

if TYPE_CHECKING:
    from aiobs_core._accounts import Accounts
    from aiobs_core._health import Health
    from aiobs_core.export.wire import Encoded

_log = logging.getLogger("aiobs")
_REOPEN_S: Final = 30.0
_AVOID_S: Final = 5.0  # a lock that somebody keeps takes a second to be refused: the worker could not keep up
_IN_MEMORY: Final = " (memory)"
_NO_PLACE: Final = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST})


class Boxes:
    """Opens outboxes when they are needed, and others where they fail. Safe to use from several threads.

    Args:
        on_disk: Opens the one in `folder`; None: there is none.
        in_memory: Opens the other.
        health: Told of what failed, under `otlp.spool_*`.
        folder: Where the one on disk lies.
        accounts: Of this process: what it has to write into the file, and what it wrote before.
        insists: Whether the user asked for a spool: then it is a problem if there is none.
        key: Of the row in the file, which is continued where it is the same as the last one's.
    """

    def __init__(
        self,
        on_disk: Callable[..., Outbox] | None,
        in_memory: Callable[[], Outbox],
        health: Health,
        *,
        folder: Path | None,
        accounts: Accounts,
        insists: bool,
        key: Hashable = None,
    ) -> None:
        self._on_disk = on_disk
        self._in_memory = in_memory
        self._health = health
        self._accounts = accounts
        self._key = key
        self._insists = insists
        self._folder = folder
        # Always after the lock of forks: the worker holds that one while it passes its first batch.
        self._lock = threading.RLock()
        self._disk: Outbox | None = None
        self._memory: Outbox | None = None
        self._deleted: list[Outbox] = []  # files that somebody deleted: what was in them can still be read
        self._open_at_s = 0.0
        self._avoid_until_s = 0.0
        self._process: int | None = None  # our number in a file that was damaged, or that was open before
        self._before: dict[int, Counts] = {}  # what a row said already when it was opened again

    def begin(self, delivered: Callable[[], Counts]) -> None:
        """Begin to count, once nobody else of this process uses the file any more.

        Args:
            delivered: Says what became of the spans in here.
        """
        self._accounts.open(delivered, self._key)
        self._process = None if self._accounts.row is None else self._accounts.row.process

    def all(self) -> list[Outbox]:
        """Those that may hold spans."""
        with uninterrupted_by_fork(), self._lock:
            self._ensure_disk()
            return [box for box in (self._disk, self._memory, *self._deleted) if box is not None]

    @property
    def opened(self) -> list[Outbox]:
        return [box for box in (self._disk, self._memory, *self._deleted) if box is not None]

    def put(self, spans: Sequence[Encoded]) -> Mapping[str, int]:
        """Take spans in; returns how many of this process's had to go for it, by reason."""
        with uninterrupted_by_fork(), self._lock:
            for _ in range(2):  # the second time into a new file
                box = self._ensure_disk()
                if box is None or time.monotonic() < self._avoid_until_s:
                    break
                now = self._now()
                try:
                    lost = box.put(spans, self._tally(now))
                except sqlite3.Error as error:
                    if not self._mend(box, error):
                        break
                else:
                    self._accounts.told = now
                    return lost
            self._memory = self._memory or self._in_memory()
            return self._memory.put(spans, Tally())

    def tell(self) -> None:
        """Write the balance down, for `aiobs doctor`."""
        with uninterrupted_by_fork(), self._lock:
            box, now = self._disk, self._now()
            if box is None or not box.is_current:
                return
            try:
                box.tell(self._tally(now))
            except sqlite3.Error:
                return  # the next one that can be written says the same and more
            self._accounts.told = now

    def _now(self) -> Counts:
        """What became of spans that are not in the file."""
        now = self._accounts.before_delivery() + self._accounts.beside
        return now if self._memory is None else now + _in_memory(self._memory.state())

    def _tally(self, now: Counts) -> Tally:
        row = self._accounts.row
        since = now if row is None else now - row.base
        return Tally(
            received=since.received,
            sampled_out=since.sampled_out,
            held=since.held + since.waiting,
            direct=since.exported,
            losses=since.dropped,
        )

    # --- what fails -----------------------------------------------------------------------------------------------
    def _ensure_disk(self) -> Outbox | None:
        if self._disk is not None and not self._disk.is_current:
            self._leave(self._disk)
        if self._disk is None and self._on_disk is not None and time.monotonic() >= self._open_at_s:
            self._open_at_s = time.monotonic() + _REOPEN_S
            try:
                self._disk = self._open_mended(self._on_disk)
            except (OutboxError, OSError, sqlite3.Error) as error:
                self._say_there_is_none(error)
            else:
                self._enter(self._disk)
        return self._disk

    def _enter(self, box: Outbox) -> None:
        """Go on with our row, or begin one."""
        accounts, row = self._accounts, self._accounts.row
        if row is not None and not box.is_new:
            self._before[box.process] = row.last
            return
        if row is not None:
            accounts.abandon_row()
        accounts.row = Row(key=self._key, process=box.process, base=accounts.told)

    def _open_mended(self, on_disk: Callable[..., Outbox]) -> Outbox:
        try:
            if self._folder is not None:
                self._say_damaged(finish_rescues(self._folder))
            return on_disk(process=self._process)
        except sqlite3.DatabaseError as error:
            if self._folder is None or not is_damage(error):
                raise
            if not self._rescue(self._folder, identity_of(self._folder / FILE_NAME)):
                raise
            return on_disk(process=self._process)

    def _say_there_is_none(self, error: Exception) -> None:
        why = str(error) if isinstance(error, OutboxError) else type(error).__name__
        message = f"aiobs: there is no spool ({why}); spans wait in memory, and are lost if the process dies."
        # A lock that somebody holds, or a disk that is full, passes; that there is no place for files does not.
        is_for_good = isinstance(error, OutboxError) or getattr(error, "errno", None) in _NO_PLACE
        if is_for_good and not self._insists:
            _log.info("%s", message)
            self._on_disk = None
            return
        self._health.problem(
            "otlp.spool_unavailable",
            f"{message} It is tried again every {_REOPEN_S:g} s; AIOBS_SPOOL names another folder, or off.",
        )

    def _mend(self, box: Outbox, error: sqlite3.Error) -> bool:
        """Whether it is worth another try."""
        if is_damage(error) and self.renew(box):
            return True
        self._avoid_until_s = time.monotonic() + _AVOID_S
        self._health.problem(
            "otlp.spool_unwritable",
            f"aiobs: the spool cannot be written ({type(error).__name__}); spans wait in memory until it can.",
        )
        return False

    def renew(self, box: Outbox) -> bool:
        """Move a damaged file aside, and go on with what can be read of it; False if there is no room for another."""
        with uninterrupted_by_fork(), self._lock:
            if box is not self._disk or box.folder is None:
                return True
            if not self._rescue(box.folder, box.identity):
                return False
            self._leave(box)
            self._ensure_disk()
            return True

    def renew_damaged(self) -> bool:
        """The same, for the one on disk."""
        box = self._disk
        return box is None or self.renew(box)

    def _rescue(self, folder: Path, identity: tuple[int, int] | None) -> bool:
        try:
            rescued = rescue(folder, identity)
        except (OSError, sqlite3.Error, OutboxError) as error:
            self._health.problem(
                "otlp.spool_lost",
                f"aiobs: the spool is damaged, and there can be no new one ({type(error).__name__}).",
            )
            return False
        self._say_damaged(rescued, is_new=True)
        return True

    def _say_damaged(self, rescued: Rescued, *, is_new: bool = False) -> None:
        found, lost, is_exact = rescued
        if not (is_new or found or lost):
            return
        told = f"{lost} are lost" if is_exact else "how many are lost is not known"
        self._health.problem(
            "otlp.spool_damaged",
            f"aiobs: the spool was damaged and was moved aside; {found} spans could be read, {told}.",
            lost=lost,
        )

    def _leave(self, box: Outbox) -> None:
        self._disk, self._open_at_s = None, 0.0
        if box.folder is not None and was_rescued(box.folder, box.identity):
            box.leave()
            self._process = box.process
        else:
            self._deleted.append(box)
            self._process = None

    # --- the end --------------------------------------------------------------------------------------------------
    def state(self) -> Counts:
        """What became of the spans in here since `begin`."""
        with uninterrupted_by_fork(), self._lock:
            before = self._before
            return sum((box.state() - before.get(box.process, NOTHING) for box in self.opened), NOTHING)

    @property
    def waiting(self) -> int:
        """Spans that this process has put and that were not sent."""
        with uninterrupted_by_fork(), self._lock:
            return sum(box.state().waiting for box in self.opened)

    def drop_memory(self, reason: str) -> int:
        """Give up what only this process has; returns how many spans."""
        with uninterrupted_by_fork(), self._lock:
            return sum(box.drop(reason) for box in (self._memory, *self._deleted) if box is not None)

    def close(self, *, is_idle: bool) -> None:
        """Close all files."""
        with uninterrupted_by_fork(), self._lock:
            self.tell()
            accounts = self._accounts
            accounts.told = self._now()
            if self._memory is not None:
                accounts.beside += _in_memory(self._memory.state())
            if self._disk is not None and accounts.row is not None:
                accounts.row.last = self._disk.state()
            for box in self.opened:
                box.close(is_idle=is_idle)
            self._disk = self._memory = self._on_disk = None  # whoever still waits for a flush must open none
            self._deleted.clear()

    def leak(self) -> None:
        """After a fork: the files are the parent's."""
        for box in self.opened:
            box.leak()


def _in_memory(state: Counts) -> Counts:
    """The same, with the reasons of losses told apart from those of the file."""
    return replace(state, dropped={why + _IN_MEMORY: count for why, count in state.dropped.items()})
