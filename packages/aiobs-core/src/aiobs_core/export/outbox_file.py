"""The outbox's file: its tables, opening it, whose processes live, and what can be saved of a damaged one."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiobs_core._errors import AiobsError
from aiobs_core.store.location import network_file_system
from aiobs_core.store.schema import make_folder
from aiobs_core.store.spool import host_token

if TYPE_CHECKING:
    from aiobs_core.export.parcels import Batch

FILE_NAME: Final = "outbox.db"
IN_MEMORY: Final = ":memory:"
BUSY_TIMEOUT_S: Final = 1.0
ERASED: Final = "erased"  # why spans are gone: somebody had to be forgotten
DAMAGED: Final = "damaged"
EXPIRED: Final = "expired"
BY_OUTBOX: Final = (
    "spool_full",
    EXPIRED,
    "refused",
    "rejected",
    "too_large",
    "duplicate",
    "shutdown",
    ERASED,
    DAMAGED,
)
"""Reasons for which spans are lost that were in an outbox; others are told to it, to be shown."""
_VERSION: Final = 1
_PAGE_BYTES: Final = 8_192
ASIDE: Final = ".damaged-"
_kept: list[sqlite3.Connection] = []

_TABLES: Final = (
    # `sender`: the process that has to send the span: the one that put it, or another after its death.
    # `tried`: it may have been sent already by one that died, or was left without an answer.
    """CREATE TABLE IF NOT EXISTS spans(
        id INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB NOT NULL UNIQUE, process INTEGER NOT NULL,
        sender INTEGER NOT NULL, grp BLOB NOT NULL, at_s INTEGER NOT NULL, tried INTEGER NOT NULL DEFAULT 0,
        body BLOB NOT NULL)""",
    "CREATE INDEX IF NOT EXISTS spans_of ON spans(sender, process, id)",
    "CREATE TABLE IF NOT EXISTS heads(grp BLOB PRIMARY KEY NOT NULL, head BLOB NOT NULL) WITHOUT ROWID",
    # `beat` counts up while the process lives; `first`, `last`: spans on their way at this moment.
    """CREATE TABLE IF NOT EXISTS processes(
        id INTEGER PRIMARY KEY, pid INTEGER NOT NULL, host TEXT NOT NULL, born TEXT NOT NULL, service TEXT NOT NULL,
        destination BLOB NOT NULL, place TEXT NOT NULL, started_s INTEGER NOT NULL, seen_s INTEGER NOT NULL,
        ended INTEGER NOT NULL DEFAULT 0, beat INTEGER NOT NULL DEFAULT 0, first INTEGER, last INTEGER,
        received INTEGER NOT NULL DEFAULT 0, sampled_out INTEGER NOT NULL DEFAULT 0, held INTEGER NOT NULL DEFAULT 0, direct INTEGER NOT NULL DEFAULT 0,
        put INTEGER NOT NULL DEFAULT 0, exported INTEGER NOT NULL DEFAULT 0, repeated INTEGER NOT NULL DEFAULT 0,
        error TEXT, error_s INTEGER)""",
    """CREATE TABLE IF NOT EXISTS losses(
        process INTEGER NOT NULL, reason TEXT NOT NULL, spans INTEGER NOT NULL, PRIMARY KEY(process, reason))
        WITHOUT ROWID""",
)


class OutboxError(AiobsError):
    """The outbox cannot be used; the message says why."""


def open_file(folder: Path | None) -> sqlite3.Connection:
    """Open the outbox in `folder`, making it first; None: one in memory, of this process alone.

    Raises:
        OutboxError: If it lies on a network file system, or was written by a newer aiobs.
        sqlite3.Error: If it cannot be opened, is locked or damaged.
        OSError: If folder or file cannot be made.
    """
    path: Path | str = IN_MEMORY
    if folder is not None:
        kind = network_file_system(folder)
        if kind is not None:
            raise OutboxError(f"SQLite cannot be shared on a network file system ({kind})")
        make_folder(folder)
        path = folder / FILE_NAME
        # SQLite would make the file readable for all; its -wal and -shm files take over the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, in_memory=folder is None)
    except BaseException:
        connection.close()
        raise
    return connection


def open_existing(path: Path) -> sqlite3.Connection:
    """Open an outbox that is there, to look at it.

    Raises:
        sqlite3.Error: If there is none, or it cannot be read.
    """
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None
    )
    connection.row_factory = sqlite3.Row
    return connection


def _prepare(connection: sqlite3.Connection, *, in_memory: bool) -> None:
    version = known_version(connection)
    connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")  # before the first table and before WAL
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    if not in_memory:
        _write_ahead_log(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA journal_size_limit=8388608")
    if version == _VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version={_VERSION}")
    connection.execute("COMMIT")


def known_version(connection: sqlite3.Connection) -> int:
    """Version of an outbox's tables; 0: it has none yet.

    Raises:
        OutboxError: If a newer aiobs wrote it.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > _VERSION:
        raise OutboxError(f"its file was written by a newer aiobs (version {version}, known is {_VERSION})")
    return version


def _write_ahead_log(connection: sqlite3.Connection) -> None:
    # SQLite does not wait for this lock where waiting could dead-lock: two processes that make the same new file.
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    mode = ""
    while not mode:
        try:
            mode = str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)
    if mode != "wal":
        raise OutboxError(f"the file system allows no write-ahead log (journal mode {mode!r})")


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is broken: waiting or more room would not help."""
    if isinstance(error, sqlite3.OperationalError):
        return "malformed" in str(error)
    return type(error) is sqlite3.DatabaseError


def identity_of(path: Path) -> tuple[int, int] | None:
    """What tells one file from another that has taken its name."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def used_bytes(db: sqlite3.Connection) -> int:
    """Size of what is in the file, without pages that are free."""
    pages, free, size = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - free) * size


def heads_of(db: sqlite3.Connection, groups: set[bytes]) -> dict[bytes, bytes]:
    """The resources and scopes that spans belong to."""
    marks = ", ".join("?" * len(groups))
    found = db.execute(f"SELECT grp, head FROM heads WHERE grp IN ({marks})", tuple(groups))  # noqa: S608
    return dict(found.fetchall())


def add_losses(db: sqlite3.Connection, process: int, lost: Mapping[str, int]) -> None:
    """Count spans of a process that are gone, by reason."""
    for reason, count in lost.items():
        db.execute(
            "INSERT INTO losses(process, reason, spans) VALUES(?, ?, ?) "
            "ON CONFLICT(process, reason) DO UPDATE SET spans = spans + excluded.spans",
            (process, reason, count),
        )


def add_settled(db: sqlite3.Connection, batch: Batch, *, gone: int, lost: Mapping[str, int]) -> None:
    """Count what became of a batch.

    Args:
        db: In the transaction in which its rows were deleted.
        batch: What was taken.
        gone: How many of its rows there still were: others were erased meanwhile, and counted then.
        lost: How many were not exported, by reason.
    """
    left = gone
    for reason, count in lost.items():
        if counted := min(count, left):
            add_losses(db, batch.process, {reason: counted})
        left -= counted
    db.execute(
        "UPDATE processes SET exported = exported + ?, repeated = repeated + ? WHERE id = ?",
        (left, min(batch.tried, left), batch.process),
    )


def keep_for_ever(connection: sqlite3.Connection) -> None:
    """Never let a connection be closed."""
    _kept.append(connection)
    if (
        sys.implementation.name == "cpython"
    ):  # whose shutdown empties modules, and so would close it after all
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


# --- whose processes live ---------------------------------------------------------------------------------------
def myself() -> tuple[int, str, str]:
    """Number of this process, where that number counts, and when it began: no other process has the same three."""
    return os.getpid(), host_token(), _born(os.getpid())


def lives(pid: int, host: str, born: str) -> bool | None:
    """Whether a process lives; None for one that cannot be asked: of another host, container or boot."""
    if sys.platform == "win32" or host != host_token():
        return None
    if pid == os.getpid():
        return born == _born(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _born(pid) == born


def _born(pid: int) -> str:
    """When a process began, in ticks since boot: numbers of processes come again; "" where the system does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return ""
    fields = stat.rpartition(b")")[2].split()
    if fields[:1] == [b"Z"]:
        return "dead"  # and not yet buried by its parent
    return fields[19].decode() if len(fields) > 19 else ""
