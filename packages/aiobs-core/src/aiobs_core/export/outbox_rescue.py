"""What is saved of a damaged outbox: the file is moved aside, and what can be read of it goes into a new one."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from aiobs_core.export.outbox_file import (
    ASIDE,
    BY_OUTBOX,
    DAMAGED,
    FILE_NAME,
    add_losses,
    identity_of,
    open_file,
)
from aiobs_core.privacy._file_lock import lock, unlock

_LOCK_NAME: Final = "outbox.lock"
_SLICE: Final = 256
_DONE_TABLE: Final = "CREATE TABLE IF NOT EXISTS rescued(name TEXT PRIMARY KEY NOT NULL) WITHOUT ROWID"
_COLUMNS: Final = {"spans": "(id, key, process, sender, grp, at_s, tried, body)"}


class Rescued(NamedTuple):
    """What came of a rescue.

    Attributes:
        found: Spans that could be read.
        lost: Those that are gone, as far as the counts of the processes could be read.
        is_exact: Whether all of these could be.
    """

    found: int = 0
    lost: int = 0
    is_exact: bool = True


def rescue(folder: Path, identity: tuple[int, int] | None) -> Rescued:
    """Replace a damaged file by one with what can be read of it.

    Args:
        folder: Where it lies.
        identity: Which file is damaged; if it lies there no more, another process has done the work.

    Raises:
        OSError, sqlite3.Error: If there can be no new one.
    """
    path = folder / FILE_NAME
    with _locked(folder):
        if identity is None or identity_of(path) != identity:
            return Rescued()
        rescued = _take_in(folder, _set_aside(path))
    _remove_old(folder)
    return rescued


def finish_rescues(folder: Path) -> Rescued:
    """Take in what rescues that were interrupted have left aside.

    Raises:
        OSError, sqlite3.Error: If there can be no new file.
    """
    sum_of = Rescued()
    if not any(_asides(folder)):
        return sum_of
    with _locked(folder):
        with closing(open_file(folder)) as db:
            db.execute(_DONE_TABLE)
            done = {name for (name,) in db.execute("SELECT name FROM rescued").fetchall()}
        for aside in _asides(folder):
            if aside.name not in done:
                found, lost, is_exact = _take_in(folder, aside)
                sum_of = Rescued(sum_of.found + found, sum_of.lost + lost, sum_of.is_exact and is_exact)
    return sum_of


def _asides(folder: Path) -> Iterator[Path]:
    return folder.glob(f"{FILE_NAME}{ASIDE}????????")


def _take_in(folder: Path, aside: Path) -> Rescued:
    is_exact = _can_be_counted(aside)
    with closing(open_file(folder)) as db:
        return Rescued(_restore(db, aside), _count_missing(db), is_exact)


def _can_be_counted(aside: Path) -> bool:
    """Whether what all processes have put, and what became of it, can be read."""
    try:
        with closing(sqlite3.connect(aside, timeout=0.1, isolation_level=None)) as db:
            db.execute("SELECT * FROM losses").fetchall()
            return bool(db.execute("SELECT * FROM processes").fetchall())
    except sqlite3.Error:
        return False


def was_rescued(folder: Path, identity: tuple[int, int] | None) -> bool:
    """Whether a file that is gone was moved aside as damaged, not deleted."""
    with _locked(folder):
        return any(identity_of(path) == identity for path in _asides(folder))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process at a time: a second one would move the first one's new file aside."""
    try:
        fd = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    except FileNotFoundError:  # the folder was deleted
        yield
        return
    try:
        lock(fd)
        try:
            yield
        finally:
            unlock(fd)
    finally:
        os.close(fd)


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{FILE_NAME}{ASIDE}{secrets.token_hex(4)}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):  # what was committed last stands in the first of them
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


def _restore(db: sqlite3.Connection, aside: Path) -> int:
    found = 0
    db.execute("BEGIN IMMEDIATE")
    db.execute(_DONE_TABLE)
    db.execute("INSERT OR IGNORE INTO rescued(name) VALUES(?)", (aside.name,))  # with its rows, or not at all
    for table, row in salvage(aside):
        if not _is_whole(table, row):
            continue
        marks = ", ".join("?" * len(row))
        columns = _COLUMNS.get(table, "")
        # Bytes that were flipped may have made a value of a kind that no column takes.
        with suppress(sqlite3.IntegrityError, sqlite3.InterfaceError):
            added = db.execute(f"INSERT OR IGNORE INTO {table}{columns} VALUES({marks})", row).rowcount
            found += added if table == "spans" else 0
    db.execute("COMMIT")
    return found


def _is_whole(table: str, row: tuple[object, ...]) -> bool:
    """Whether bytes that were flipped have left a row that can be sent: one that cannot would hold up all others."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

    message: Any = {"spans": Span, "heads": ResourceSpans}.get(table)
    if message is None:
        return True
    if table == "spans" and not (isinstance(row[1], bytes) and isinstance(row[4], bytes)):
        return False
    try:
        message.FromString(row[-1])
    except (TypeError, ValueError, DecodeError):
        return False
    return True


def _count_missing(db: sqlite3.Connection) -> int:
    """Count spans that are neither there nor accounted for as lost, and delete those nobody knows the receiver of."""
    missing: Counter[int] = Counter()
    marks = ", ".join("?" * len(BY_OUTBOX))
    db.execute("BEGIN IMMEDIATE")
    for process, count in db.execute(
        "SELECT sender, count(*) FROM spans WHERE sender NOT IN (SELECT id FROM processes) GROUP BY sender"
    ).fetchall():
        db.execute("DELETE FROM spans WHERE sender = ?", (process,))
        db.execute(
            "INSERT INTO processes(id, pid, host, born, service, destination, place, started_s, seen_s, ended, "
            "received, put) VALUES(?, 0, '', '', 'unknown', x'', '', 0, 0, 1, ?, ?)",
            (process, count, count),
        )
    for process, left in db.execute(
        f"SELECT id, put - exported - (SELECT count(*) FROM spans WHERE process = processes.id) - (SELECT "  # noqa: S608
        f"coalesce(sum(spans), 0) FROM losses WHERE process = processes.id AND reason IN ({marks})) FROM processes",
        BY_OUTBOX,
    ).fetchall():
        if left > 0:
            missing[process] = left
            add_losses(db, process, {DAMAGED: left})
    db.execute("COMMIT")
    return sum(missing.values())


def salvage(aside: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    """What can be read of a damaged file: table and row; pages that cannot be read are stepped over."""
    connection = sqlite3.connect(aside, timeout=0.1, isolation_level=None)
    with closing(connection):
        for table in ("heads", "processes", "losses"):
            with suppress(sqlite3.Error):
                for row in connection.execute(f"SELECT * FROM {table}"):  # noqa: S608 (names of our own)
                    yield table, row
        for row in _spans_of(connection):
            yield "spans", row


def _spans_of(connection: sqlite3.Connection) -> Iterator[tuple[object, ...]]:
    # As bytes: a text that is none would raise, on Python 3.10 one row before its own.
    query = (
        "SELECT id, key, process, sender, grp, at_s, tried, CAST(body AS BLOB) FROM spans NOT INDEXED WHERE id > ? "
        "ORDER BY id"
    )
    position, step = 0, 1
    try:
        # The sequence knows the highest number even where the page that holds it cannot be read.
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'spans'").fetchone()
    except sqlite3.Error:
        last = None
    end = int(last[0]) if last else 0
    while position <= end:
        try:
            for row in connection.execute(query, (position,)):
                yield row
                position, step = int(row[0]), 1
            return
        except sqlite3.Error:
            position, step = position + step, min(step * 2, 64)


def _remove_old(folder: Path) -> None:
    """Keep the newest of the files that were moved aside: older ones are of use to nobody."""
    with suppress(OSError):
        found = sorted(_asides(folder), key=lambda path: path.stat().st_mtime)
        for path in found[:-1]:
            for suffix in ("", "-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
