"""Tables of the store, how they came to be version by version, and the opening of the file.

Times are ns since the epoch, durations ns, costs nano-USD. NULL is unknown; 0 is a count.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Final

from aiobs_core._errors import AiobsError

FILE_NAME: Final = "aiobs.db"
BUSY_TIMEOUT_S: Final = (
    2.0  # well below the time that shutdown has: a locked store must leave some for the spool
)
_PAGE_SIZE_BYTES: Final = 16_384  # a body of 2 kB on pages of 4 kB would leave half of each page empty

# One entry per version: the statements that lead to it from the version before. Never change an entry, add one.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE spans(
            id INTEGER PRIMARY KEY, trace_id BLOB NOT NULL, span_id BLOB NOT NULL, parent_id BLOB,
            kind TEXT, name TEXT NOT NULL, op TEXT, model TEXT, start INTEGER NOT NULL, dur INTEGER,
            status INTEGER NOT NULL, in_tok INTEGER, out_tok INTEGER, cache_tok INTEGER, cost INTEGER, ttft INTEGER,
            user TEXT, hidden INTEGER NOT NULL, masked INTEGER, blk INTEGER NOT NULL, pos INTEGER NOT NULL,
            UNIQUE(trace_id, span_id))""",
        "CREATE INDEX spans_dur ON spans(dur)",
        "CREATE INDEX spans_user ON spans(user) WHERE user IS NOT NULL",
        "CREATE TABLE body(id INTEGER PRIMARY KEY, z BLOB NOT NULL)",
        # root: 0 not seen yet (the run is pending), 1 a span with a remote parent, 2 a span without a parent
        """CREATE TABLE runs(
            trace_id BLOB PRIMARY KEY NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL, name TEXT,
            root INTEGER NOT NULL, service TEXT, user TEXT, session TEXT, n INTEGER NOT NULL, errs INTEGER NOT NULL,
            in_tok INTEGER, out_tok INTEGER, cost INTEGER, masked INTEGER)""",
        "CREATE INDEX runs_start ON runs(start)",
        "CREATE INDEX runs_user ON runs(user) WHERE user IS NOT NULL",
        # model calls by the minute they began in; model '' where the span names none; hist: 64 little-endian u32
        """CREATE TABLE roll(
            minute INTEGER NOT NULL, model TEXT NOT NULL, n INTEGER NOT NULL, errs INTEGER NOT NULL,
            in_tok INTEGER, out_tok INTEGER, cost INTEGER, hist BLOB NOT NULL, PRIMARY KEY(minute, model))
            WITHOUT ROWID""",
    ),
)
VERSION: Final = len(MIGRATIONS)


class StoreError(AiobsError):
    """The local store cannot be used; the message says which, why and what to do."""


class NewerStoreError(StoreError):
    """The store was written by a newer aiobs."""


def require_known_version(version: int, path: Path) -> None:
    """Refuse a store whose tables this aiobs does not know.

    Raises:
        NewerStoreError: If `version` is beyond `VERSION`.
    """
    if version > VERSION:
        raise NewerStoreError(
            f"{path}: the store has version {version}, this aiobs knows versions up to {VERSION}; "
            "update aiobs-core or use another folder (AIOBS_STORE)."
        )


def make_folder(folder: Path) -> None:
    """Make the store's folder, for its owner only and hidden from git; one that exists stays as it is.

    Raises:
        OSError: If it cannot be made.
    """
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        if not folder.is_dir():
            raise
        return  # another process was faster
    # Only in a folder of our own making: a `*` in a folder that the user named could hide their sources.
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")


def open_for_writing(folder: Path) -> sqlite3.Connection:
    """Open the store in `folder`, making or migrating it first; autocommit, usable from one thread at a time.

    Raises:
        NewerStoreError: If it was written by a newer aiobs.
        sqlite3.DatabaseError: If it cannot be opened, is locked or damaged, or cannot have a write-ahead log.
        OSError: If the folder or the file cannot be made.
    """
    make_folder(folder)
    path = folder / FILE_NAME
    # SQLite would make the file readable for all; its -wal and -shm files take over the mode of this one.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        require_known_version(_version(connection), path)  # before anything of it is touched
        _prepare(connection)
        _migrate(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA page_size={_PAGE_SIZE_BYTES}")  # before the first table and before WAL
    connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
    mode = _write_ahead_log(connection)
    if mode != "wal":
        raise sqlite3.OperationalError(f"the file system allows no write-ahead log (journal mode {mode!r})")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA journal_size_limit=16777216")


def _write_ahead_log(connection: sqlite3.Connection) -> str:
    # SQLite does not wait for this lock where waiting could dead-lock: two processes that make the same new store.
    deadline_s = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    version = _version(connection)
    require_known_version(version, path)
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)  # another process may have migrated it meanwhile
        require_known_version(version, path)
        for statements in MIGRATIONS[version:]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version={VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction without a trace, unless SQLite has done so already, as after `disk full`."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
