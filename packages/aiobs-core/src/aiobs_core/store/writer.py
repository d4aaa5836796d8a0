"""The writer: finished spans into the local store, or into the spool while SQLite cannot take them."""

from __future__ import annotations

import ctypes
import os
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core._health import Health
from aiobs_core.store import schema
from aiobs_core.store.batches import Block, blocks_of, run_of, slices
from aiobs_core.store.deletion import Retention
from aiobs_core.store.location import network_file_system
from aiobs_core.store.rows import (
    HISTOGRAM_BUCKETS,
    INSERT_SPAN,
    SpanRow,
    bucket_of,
    sums_of,
)
from aiobs_core.store.spool import Spool, ingest, spool_files

_PAUSE_S: Final = 0.002  # between slices: lets the application's threads and other writers in
_RETRY_S: Final = 30.0
_INGEST_S: Final = 0.25  # share of one export that may go to ingesting the spool
_NS_PER_MINUTE: Final = 60_000_000_000
HISTOGRAM: Final = struct.Struct(f"<{HISTOGRAM_BUCKETS}I")
# Not of the store but of what is written: a value that SQLite cannot hold.
_UNSTORABLE: Final = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.ProgrammingError,
    sqlite3.InterfaceError,
)
_leaked: Final[list[sqlite3.Connection]] = []

_UPSERT_RUN: Final = """
INSERT INTO runs(trace_id, start, "end", name, root, service, user, session, n, errs, in_tok, out_tok, cost, masked)
VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT(trace_id) DO UPDATE SET
    start = min(start, excluded.start), "end" = max("end", excluded."end"),
    name = CASE WHEN excluded.root > root THEN excluded.name ELSE name END,
    service = CASE WHEN excluded.root > root THEN excluded.service ELSE coalesce(service, excluded.service) END,
    root = max(root, excluded.root), session = coalesce(session, excluded.session),
    user = coalesce(user, excluded.user), masked = coalesce(masked + excluded.masked, masked, excluded.masked),
    n = n + excluded.n, errs = errs + excluded.errs,
    in_tok = coalesce(in_tok + excluded.in_tok, in_tok, excluded.in_tok),
    out_tok = coalesce(out_tok + excluded.out_tok, out_tok, excluded.out_tok),
    cost = coalesce(cost + excluded.cost, cost, excluded.cost)"""
_UPSERT_ROLL: Final = """
INSERT INTO roll(minute, model, n, errs, in_tok, out_tok, cost, hist) VALUES(?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT(minute, model) DO UPDATE SET
    n = n + excluded.n, errs = errs + excluded.errs, hist = excluded.hist,
    in_tok = coalesce(in_tok + excluded.in_tok, in_tok, excluded.in_tok),
    out_tok = coalesce(out_tok + excluded.out_tok, out_tok, excluded.out_tok),
    cost = coalesce(cost + excluded.cost, cost, excluded.cost)"""


class StoreWriter:
    """One read-write connection to a store. Not for use by several threads at a time, nor across a fork."""

    def __init__(self, folder: Path, *, health: Health) -> None:
        """Open the store, making it first if need be.

        Args:
            folder: The store's folder.
            health: Counts spans that no store can hold.

        Raises:
            StoreError: If it lies on a network file system, or was written by a newer aiobs.
            sqlite3.Error: If it cannot be opened, is locked or damaged.
            OSError: If the folder or the file cannot be made.
        """
        kind = network_file_system(folder)
        if kind is not None:
            path = folder / schema.FILE_NAME
            raise schema.StoreError(f"{path}: SQLite cannot be shared on a network file system ({kind}).")
        self._health = health
        self._path = folder / schema.FILE_NAME
        self._connection = schema.open_for_writing(folder)
        self._identity = _identity_of(self._path)

    @property
    def is_current(self) -> bool:
        """Whether the file is still there: someone may delete the folder while the application runs."""
        return _identity_of(self._path) == self._identity

    def close(self) -> None:
        """Close the connection; the last one of all processes also empties the write-ahead log."""
        self._connection.close()

    def leak(self) -> None:
        """Keep the connection open for ever: inherited through a fork, or to a file that was deleted.

        Closing it could drop the parent's locks, or delete the write-ahead log of a new file of the same name:
        https://www.sqlite.org/howtocorrupt.html.
        """
        _leaked.append(self._connection)
        if (
            sys.implementation.name == "cpython"
        ):  # whose shutdown empties modules, and so would close it after all
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._connection))

    def delete_old(self, retention: Retention) -> None:
        """Delete some of the runs that are to be kept no longer; never raises."""
        retention.step(self._connection)

    def write(self, spans: Sequence[ReadableSpan]) -> None:
        """Store spans in slices, each one transaction.

        Raises:
            sqlite3.Error: If a slice cannot be stored; the slices before it are.
        """
        for position, part in enumerate(slices(spans)):
            if position:
                time.sleep(_PAUSE_S)
            self.write_slice(part)

    def write_slice(self, spans: Sequence[ReadableSpan]) -> None:
        """Store spans in one transaction; those that are there already change nothing.

        A span that no store can hold is dropped and counted.

        Raises:
            sqlite3.Error: If the store cannot be written; then none of the spans is stored.
        """
        try:
            self._transact(spans)
        except sqlite3.Error as error:
            if not isinstance(error, _UNSTORABLE):
                raise
            self._write_one_by_one(spans, error)
        except (MemoryError, OSError):
            raise
        except Exception as error:  # noqa: BLE001 - one odd span must not cost the others
            self._write_one_by_one(spans, error)

    def _write_one_by_one(self, spans: Sequence[ReadableSpan], error: Exception) -> None:
        if len(spans) > 1:
            for span in spans:
                self.write_slice([span])
            return
        self._health.problem(
            "store.span_unstorable", f"A span cannot be stored ({described(error)}).", lost=1
        )

    def _transact(self, spans: Sequence[ReadableSpan]) -> None:
        blocks = blocks_of(spans)  # before the transaction: nobody waits for the compression
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        try:
            if not self._insert(blocks):
                execute("ROLLBACK")
                execute("BEGIN IMMEDIATE")
                self._insert(blocks_of(self._new(spans)))
            execute("COMMIT")
        except BaseException:
            schema.roll_back(self._connection)
            raise

    def _insert(self, blocks: Sequence[Block]) -> bool:
        """Insert blocks, rows and sums; False, and half done, if one of the spans is there already."""
        connection = self._connection
        for block in blocks:
            number = connection.execute("INSERT INTO body(z) VALUES(?)", (block.data,)).lastrowid
            before = connection.total_changes
            connection.executemany(
                INSERT_SPAN, [(*row, number, position) for position, row in enumerate(block.rows)]
            )
            if connection.total_changes - before != len(block.rows):
                return False
            connection.execute(_UPSERT_RUN, run_of(block))
        self._roll_up([row for block in blocks for row in block.rows if row.calls_a_model])
        return True

    def _new(self, spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
        """The spans that the store does not hold, each once."""
        known = "SELECT 1 FROM spans WHERE trace_id = ? AND span_id = ?"
        new: dict[tuple[bytes, bytes], ReadableSpan] = {}
        for span in spans:
            context = span.get_span_context()
            if context is not None:
                identity = (context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big"))
                if identity not in new and self._connection.execute(known, identity).fetchone() is None:
                    new[identity] = span
        return list(new.values())

    def _roll_up(self, rows: Sequence[SpanRow]) -> None:
        cells: dict[tuple[int, str], list[SpanRow]] = {}
        for row in rows:
            cells.setdefault((row.start // _NS_PER_MINUTE, row.model or ""), []).append(row)
        for cell, group in cells.items():
            find = "SELECT hist FROM roll WHERE minute = ? AND model = ?"
            found = self._connection.execute(find, cell).fetchone()
            histogram = list(HISTOGRAM.unpack(found[0])) if found else [0] * HISTOGRAM_BUCKETS
            for row in group:
                if row.dur is not None:
                    histogram[bucket_of(row.dur)] += 1
            self._connection.execute(
                _UPSERT_ROLL, (*cell, len(group), *sums_of(group), HISTOGRAM.pack(*histogram))
            )


def _identity_of(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


class StoreExporter(SpanExporter):
    """Writes spans to the local store in `folder`, and to the spool beside it while SQLite cannot be used.

    Never raises. Made to be called from one worker thread; a lock makes `shutdown` from another one safe. Several
    processes may write to one store. After a fork the child opens its own connection and leaves the parent's alone.
    """

    counts_its_losses = True

    def __init__(self, folder: Path, *, health: Health, retention_s: float | None = None) -> None:
        """Nothing is opened or made before the first span.

        Args:
            folder: The store's folder.
            health: Counts what could not be stored.
            retention_s: Runs that ended longer ago are deleted, a few after each export; None keeps all.

        Raises:
            ValueError: If `retention_s` is not a positive, finite number.
        """
        self.folder = folder
        self._health = health
        self._retention = (
            None if retention_s is None else Retention(folder, keep_s=retention_s, health=health)
        )
        self._pid = 0
        self._writer: StoreWriter | None = None
        self._begin()

    def _begin(self) -> None:
        """Start afresh: a new exporter, or the copy of one in a forked child."""
        if self._writer is not None:
            self._writer.leak()
        self._pid = os.getpid()
        self._lock = threading.Lock()  # the parent's may be held by a thread that does not exist here
        self._writer = None
        self._spool = Spool(self.folder)
        self._ingest: Iterator[Path] | None = None
        self._retry_at_s = 0.0
        self._is_shut_down = False
        self._stored_in: Path | None = None

    @property
    def stored_in(self) -> str | None:
        """Folder that the spans exported last went to: the store's or its spool's; None if they were lost, or none came yet."""
        return None if self._stored_in is None else str(self._stored_in)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Store the spans; what it acknowledges with SUCCESS survives the death of the process."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            if self._is_shut_down:
                return SpanExportResult.FAILURE
            waiting = list(slices(spans))
            try:
                self._store(waiting)
                return SpanExportResult.SUCCESS if self._put_aside(waiting) else SpanExportResult.FAILURE
            except Exception as error:  # noqa: BLE001 - an exporter that raises would kill the worker
                self._stored_in = None
                message = f"{self.folder}: spans could not be stored ({described(error)}); they are lost."
                self._health.problem("store.failed", message, lost=sum(map(len, waiting)))
                return SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the interface's
        """True: `export` returns only when the spans are written."""
        return True

    def shutdown(self) -> None:
        """Close the store; spans that come later are refused."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            self._is_shut_down = True
            self._close()

    def _store(self, waiting: list[Sequence[ReadableSpan]]) -> None:
        """Write slices to SQLite and take them off the list; leave the rest there if SQLite cannot be used."""
        if not waiting or (self._writer is None and time.monotonic() < self._retry_at_s):
            return
        try:
            writer = self._opened()
            while waiting:
                writer.write_slice(waiting[0])
                self._stored_in = self.folder
                del waiting[0]
                if waiting:
                    time.sleep(_PAUSE_S)
            self._ingest_a_little()
            if self._retention is not None:
                writer.delete_old(self._retention)
        except (schema.StoreError, sqlite3.Error, OSError) as error:
            self._close()
            self._retry_at_s = time.monotonic() + _RETRY_S
            newer = isinstance(error, schema.NewerStoreError)
            path = self.folder / schema.FILE_NAME
            reason = f"{path} cannot be written ({described(error)})."
            self._health.problem(
                "store.newer_version" if newer else "store.unusable",
                f"The local store is not in use: {error if isinstance(error, schema.StoreError) else reason} "
                f"Spans go to {self._spool.path} and move into the store once it can be written.",
            )

    def _opened(self) -> StoreWriter:
        if self._writer is not None and not self._writer.is_current:
            self._writer.leak()
            self._writer = self._ingest = None
        if self._writer is None:
            self._writer = StoreWriter(self.folder, health=self._health)
            if spool_files(self.folder):
                self._ingest = ingest(
                    self.folder, self._writer.write, own=self._spool.path, health=self._health
                )
        return self._writer

    def _ingest_a_little(self) -> None:
        deadline_s = time.monotonic() + _INGEST_S
        while self._ingest is not None and time.monotonic() < deadline_s:
            if next(self._ingest, None) is None:
                self._ingest = None

    def _put_aside(self, waiting: Sequence[Sequence[ReadableSpan]]) -> bool:
        spans = [span for part in waiting for span in part]
        if not spans:
            return True
        try:
            self._spool.append(spans)
        except OSError as error:
            self._stored_in = None
            self._health.problem(
                "store.spool_unwritable",
                f"Neither the local store in {self.folder} nor {self._spool.path} can be written "
                f"({described(error)}); spans are lost until one of them can.",
                lost=len(spans),
            )
            return False
        self._stored_in = self._spool.path.parent
        return True

    def _close(self) -> None:
        writer, self._writer, self._ingest = self._writer, None, None
        if writer is None:
            return
        try:
            writer.close()
        except sqlite3.Error as error:
            self._health.problem("store.close_failed", f"{self.folder}: closing failed ({described(error)}).")


def described(error: BaseException) -> str:
    """An error in a few words, for a message."""
    return f"{type(error).__name__}: {error}"
