"""Erasure in the outbox: traces of a person, one trace, or all old ones that still wait for a receiver, and their bytes."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from aiobs_core import semconv
from aiobs_core.export.outbox_file import (
    ASIDE,
    ERASED,
    FILE_NAME,
    OutboxError,
    add_losses,
    identity_of,
    keep_for_ever,
    known_version,
    open_existing,
)
from aiobs_core.store.compaction import PAUSE_S, compact, overwrite_deleted, patiently
from aiobs_core.store.rows import user_of
from aiobs_core.store.schema import roll_back

PENDING_NAME: Final = "outbox.erase.pending"  # there from the first deletion until no byte is left; empty
_SLICE_SPANS: Final = 1_000  # so that no application waits long for the lock
_PAGE_ROWS: Final = 256  # one long read would keep the write-ahead log from being emptied
_NS_PER_S: Final = 1_000_000_000
_TRACE_BYTES: Final = 16
_FIRST_SPAN, _LAST_SPAN = b"\x00" * 8, b"\xff" * 8

_OF_TRACE: Final = (
    "SELECT process, count(*), max(id), sum(tried > 0 OR EXISTS(SELECT 1 FROM processes WHERE processes.id = sender "
    "AND spans.id BETWEEN first AND last)) FROM spans WHERE key BETWEEN ? AND ? GROUP BY process"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasedWaiting:
    """What an erasure in an outbox did.

    Attributes:
        traces: Their ids, 16 bytes each.
        span_count: Spans that were deleted.
        is_compacted: Whether their bytes are gone from all files of the outbox, too.
        remarks: What remains, or may have left, and what to do about it.
    """

    traces: frozenset[bytes]
    span_count: int
    is_compacted: bool
    remarks: tuple[str, ...]


def has_outbox(folder: Path) -> bool:
    """Whether there is an outbox, or a damaged one that was moved aside."""
    return (folder / FILE_NAME).is_file() or bool(_moved_aside(folder))


def waiting_traces(folder: Path, low: bytes, high: bytes) -> frozenset[bytes]:
    """Traces of spans that wait, from one id to another: two of them, if there are so many.

    Raises:
        OutboxError, sqlite3.Error: If the outbox cannot be read.
    """
    if not (folder / FILE_NAME).is_file():
        return frozenset()
    with _opened(folder / FILE_NAME) as db:
        if not known_version(db):
            return frozenset()
        query = "SELECT DISTINCT substr(key, 1, ?) FROM spans WHERE key BETWEEN ? AND ? LIMIT 2"
        found = db.execute(query, (_TRACE_BYTES, low + _FIRST_SPAN, high + _LAST_SPAN)).fetchall()
    return frozenset(bytes(row[0]) for row in found)


def erase_waiting(
    folder: Path, *, users: Collection[str] = (), traces: Collection[bytes] = (), before_ns: int | None = None
) -> ErasedWaiting:
    """Delete traces from the outbox in `folder`, and their bytes from its file. A trace goes if one of the three says so.

    Other processes may go on putting and sending. What they had read already may still arrive at the receiver; they send
    nothing of it that they read later. Spans of a trace that end after this go their way. Each span is counted as dropped (`erased`) for the process that put it. The file
    is rewritten even where nothing is found: it may hold bytes of spans that were sent.

    Args:
        folder: The outbox's folder; nothing is made there.
        users: Ids as spans carry them; a trace goes if one of its spans that wait has one.
        traces: Ids, 16 bytes each.
        before_ns: Traces go of which the last span that waits ended before this instant, in ns since the epoch; a span
            without an end counts as ended when it was put.

    Returns:
        What was deleted, and whether bytes of it remain.

    Raises:
        OutboxError: If a newer aiobs wrote it, or it was replaced meanwhile.
        sqlite3.Error: If it cannot be read or written now; it may be that some traces are deleted.
        OSError: If the mark of an unfinished erasure cannot be made.
    """
    path = folder / FILE_NAME
    remarks = [
        f"{each} is damaged and may hold spans of anybody; delete it." for each in _moved_aside(folder)
    ]
    is_compacted = not remarks
    found, span_count = frozenset[bytes](), 0
    if path.is_file():
        with _opened(path) as db:
            if known_version(db):
                erasure = _Erasure(db, folder, users=users, traces=traces, before_ns=before_ns)
                reason = erasure.run()
                found, span_count = frozenset(erasure.deleted), erasure.span_count
                is_compacted = is_compacted and reason is None
                remarks += _remarks(path, reason, erasure.sent_count)
    return ErasedWaiting(
        traces=found, span_count=span_count, is_compacted=is_compacted, remarks=tuple(remarks)
    )


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    identity = identity_of(path)
    db = open_existing(path)
    try:
        yield db
        if identity_of(path) != identity:
            raise OutboxError("it was replaced meanwhile, as one that is damaged is")
    finally:
        if identity_of(path) == identity:
            db.close()
        else:
            keep_for_ever(db)  # closing could delete the log of the new one: see `Outbox.leak`


def _moved_aside(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{FILE_NAME}{ASIDE}*"))


def _remarks(path: Path, reason: str | None, sent_count: int) -> Iterator[str]:
    if sent_count:
        spans = "span" if sent_count == 1 else "spans"
        yield (
            f"{sent_count} {spans} of those that waited may have reached the receiver: on the way just now, or sent "
            "before without an answer."
        )
    if reason is not None:
        yield (
            f"The spans that waited are deleted, but bytes of them remain in {path} or its write-ahead log ({reason}); "
            "run the same again when no other process reads it."
        )


class _Erasure:
    """One erasure while it goes on."""

    def __init__(
        self,
        db: sqlite3.Connection,
        folder: Path,
        *,
        users: Collection[str],
        traces: Collection[bytes],
        before_ns: int | None,
    ) -> None:
        self._db = db
        self._pending = folder / PENDING_NAME
        # As the store's column holds them: long ones are cut there.
        self._users = frozenset(user_of({semconv.USER_ID: user}) or "" for user in users) - {""}
        self._needles = [user.encode() for user in self._users]
        self._before_ns = before_ns
        self._traces = frozenset(traces)
        self.deleted: set[bytes] = set()
        self.span_count = 0
        self.sent_count = 0

    def run(self) -> str | None:
        """Delete, and rewrite the file; None, or why that failed."""
        overwrite_deleted(self._db)
        self._delete()
        reason = compact(self._db)
        # A process may have put some more after the search.
        if reason is None and self._delete():
            reason = compact(self._db)
        if reason is None:
            self._pending.unlink(missing_ok=True)
        else:
            self._pending.touch(mode=0o600)
        return reason

    def _delete(self) -> bool:
        """Delete all that is found, slice by slice; whether that was anything."""
        before = self.span_count
        found = list(self._found().items())
        while found:
            self._pending.touch(mode=0o600)
            done = patiently(partial(self._delete_slice, found))
            del found[:done]
            time.sleep(PAUSE_S)  # lets a writing application in
        return self.span_count > before

    def _found(self) -> dict[bytes, int | None]:
        """Traces to delete; with a number: only if no later row of the trace has come since."""
        named: dict[bytes, int | None] = dict.fromkeys(self._traces | self.deleted)
        if not self._users and self._before_ns is None:
            return named
        ends: dict[bytes, tuple[int, int]] = {}
        for row, key, at_s, body in self._rows():
            trace = key[:_TRACE_BYTES]
            if self._before_ns is not None:
                ends[trace] = max(ends.get(trace, (0, 0))[0], _end_ns(body, at_s)), row
            if trace not in named and self._is_of_user(body):
                named[trace] = None
        old = {trace: row for trace, (end_ns, row) in ends.items() if end_ns < (self._before_ns or 0)}
        return {**old, **named}

    def _rows(self) -> Iterator[tuple[int, bytes, int, bytes]]:
        """All rows: number, key, when it was put, the span."""
        position = 0
        # In what was saved of a damaged file a value may be of another kind.
        query = (
            "SELECT id, CAST(key AS BLOB), CAST(at_s AS INTEGER), CAST(body AS BLOB) FROM spans WHERE id > ? "
            "ORDER BY id LIMIT ?"
        )
        while page := self._db.execute(query, (position, _PAGE_ROWS)).fetchall():
            yield from map(tuple, page)
            position = page[-1][0]

    def _is_of_user(self, body: bytes) -> bool:
        if not any(needle in body for needle in self._needles):  # most need not be decoded
            return False
        span = _decoded(body)
        if span is None:
            return True  # damaged, and an id stands in it
        attributes = {each.key: each.value.string_value for each in span.attributes}
        return user_of(attributes) in self._users

    def _delete_slice(self, found: list[tuple[bytes, int | None]]) -> int:
        """Delete the first traces in one transaction, and count their spans; returns how many traces are done with."""
        done, counts = 0, Counter[str]()
        deleted: list[bytes] = []
        self._db.execute("BEGIN IMMEDIATE")
        try:
            while done < len(found) and counts["spans"] < _SLICE_SPANS:
                trace, last = found[done]
                done += 1
                if gone := self._delete_trace(trace, last):
                    deleted.append(trace)
                    counts.update(gone)
            self._db.execute("COMMIT")
        except BaseException:
            roll_back(self._db)
            raise
        self.deleted.update(deleted)
        self.span_count += counts["spans"]
        self.sent_count += counts["sent"]
        return done

    def _delete_trace(self, trace: bytes, last: int | None) -> dict[str, int]:
        bounds = trace + _FIRST_SPAN, trace + _LAST_SPAN
        rows = self._db.execute(_OF_TRACE, bounds).fetchall()
        if not rows or (last is not None and max(row[2] for row in rows) > last):
            return {}
        self._db.execute("DELETE FROM spans WHERE key BETWEEN ? AND ?", bounds)
        for process, count, _, _ in rows:
            add_losses(self._db, process, {ERASED: count})
        return {"spans": sum(row[1] for row in rows), "sent": sum(row[3] for row in rows)}


def _decoded(body: bytes) -> Span | None:
    try:
        span: Span = Span.FromString(body)
    except DecodeError:  # bytes of a file that was damaged
        return None
    return span


def _end_ns(body: bytes, at_s: int) -> int:
    span = _decoded(body)
    return (span.end_time_unix_nano if span is not None else 0) or at_s * _NS_PER_S
