"""The bytes of what was deleted leave a SQLite file that other processes use, with patience for their locks."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

PATIENCE_S: Final = 5.0
BUSY_TIMEOUT_MS: Final = 500  # of one try, so that the patience is kept
PAUSE_S: Final = 0.005

_T = TypeVar("_T")


def overwrite_deleted(connection: sqlite3.Connection) -> None:
    """Have what is deleted from now on overwritten with zeros, and each try for a lock given up in time."""
    connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
    connection.execute("PRAGMA secure_delete=ON")


def compact(connection: sqlite3.Connection) -> str | None:
    """Rewrite the file without what was deleted and empty the write-ahead log; None, or why that failed."""
    deadline_s = time.monotonic() + PATIENCE_S
    reason: str | None = None
    for step in (_vacuum, _empty_log):
        try:
            patiently(partial(step, connection), deadline_s)
        except sqlite3.OperationalError as error:  # a full disk; what was deleted is zeros all the same
            reason = reason or str(error)
    return reason


def _vacuum(connection: sqlite3.Connection) -> None:
    connection.execute("VACUUM")


def _empty_log(connection: sqlite3.Connection) -> None:
    is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if is_busy:
        raise sqlite3.OperationalError("database is locked by another process")


def patiently(action: Callable[[], _T], deadline_s: float | None = None) -> _T:
    """Do it, again and again while another process has the lock.

    Args:
        action: What needs the lock.
        deadline_s: `time.monotonic()` at which to give up; None: `PATIENCE_S` from now.

    Raises:
        sqlite3.OperationalError: If the lock is still held then, or for any other reason at once.
    """
    deadline_s = time.monotonic() + PATIENCE_S if deadline_s is None else deadline_s
    while True:
        try:
            return action()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(PAUSE_S)
