"""The reader: runs and traces out of a store that other processes may be writing to."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.util.types import Attributes

from aiobs_core._health import Health
from aiobs_core.store.blocks import read_block
from aiobs_core.store.schema import BUSY_TIMEOUT_S, FILE_NAME, StoreError, require_known_version
from aiobs_core.store.spool import ingest, spool_files
from aiobs_core.store.writer import StoreWriter

LAST: Final = "last"
_PAGE_RUNS: Final = 200
_RUN_COLUMNS: Final = (
    'trace_id, start, "end", name, root, service, user, session, n, errs, in_tok, out_tok, cost, masked'
)
_SPAN_COLUMNS: Final = "span_id, parent_id, kind, name, op, model, start, dur, status, in_tok, out_tok, cache_tok, cost, ttft, blk, pos"


class NoStoreError(StoreError):
    """There is no store in the folder."""


class UnknownTraceError(StoreError):
    """No trace, or more than one, has the id."""


class CorruptStoreError(StoreError):
    """The store's file is damaged, or is no store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """One trace, summed up. None is unknown.

    Attributes:
        trace_id: 32 hexadecimal digits.
        name: Of the root span; None while it is pending.
        is_pending: Whether the root span has not arrived yet: the run still goes on, or its process died.
        start_ns: Start of its first span, since the epoch.
        end_ns: End of its last span so far.
        error_count: Spans that failed.
        input_tokens: Of its model calls.
        output_tokens: Of its model calls.
        cost_nano_usd: Of its calls, as far as their price is known.
    """

    trace_id: str
    name: str | None
    is_pending: bool
    service: str | None
    user: str | None
    session: str | None
    start_ns: int
    end_ns: int
    span_count: int
    error_count: int
    input_tokens: int | None
    output_tokens: int | None
    cost_nano_usd: int | None
    masked_count: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSpan:
    """One span: the columns of the store, and the whole of it as it was exported. None is unknown."""

    trace_id: str
    span_id: str
    parent_id: str | None
    kind: str | None
    name: str
    operation: str | None
    model: str | None
    start_ns: int
    duration_ns: int | None
    status: str
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cost_nano_usd: int | None
    first_chunk_ns: int | None
    readable: ReadableSpan

    @property
    def attributes(self) -> Mapping[str, object]:
        """All attributes, as they were exported."""
        attributes: Attributes = self.readable.attributes
        return attributes or {}

    def to_readable(self) -> ReadableSpan:
        """The span as the SDK would hand it to an exporter."""
        return self.readable


def open_store(folder: Path, *, health: Health) -> Store:
    """Open the store in `folder` after taking in what waits in its spool.

    Where the file cannot be written, as on a network file system, the spool is read into a temporary store that goes
    with the returned object.

    Args:
        folder: The store's folder.
        health: Told about spooled spans that cannot be shown.

    Raises:
        StoreError: If there is no store, or it cannot be read.
    """
    if not spool_files(folder):
        return Store(folder)
    try:
        _ingest_all(folder, folder, health=health, delete=True)
    except (StoreError, sqlite3.Error, OSError) as error:
        if (folder / FILE_NAME).exists():
            health.problem("store.spool_waiting", f"The spool in {folder} cannot be taken in: {error}.")
            return Store(folder)
        return _temporary_store(folder, health)
    return Store(folder)


def _ingest_all(source: Path, target: Path, *, health: Health, delete: bool) -> None:
    writer = StoreWriter(target, health=health)
    try:
        for _ in ingest(source, writer.write, own=None, health=health, delete=delete):
            pass
    finally:
        writer.close()


def _temporary_store(folder: Path, health: Health) -> Store:
    temporary = Path(tempfile.mkdtemp(prefix="aiobs-"))  # readable for its owner only
    try:
        _ingest_all(folder, temporary, health=health, delete=False)
        return Store(temporary, on_close=lambda: shutil.rmtree(temporary, ignore_errors=True))
    except (sqlite3.Error, OSError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise StoreError(f"{folder}: the spool cannot be read ({error}).") from error


def trace_bounds(trace_id: str) -> tuple[bytes, bytes]:
    """The lowest and the highest id that begin with these digits.

    Raises:
        UnknownTraceError: If it is no beginning of an id.
    """
    digits = trace_id.lower().removeprefix("0x")
    try:
        low, high = bytes.fromhex(digits.ljust(32, "0")), bytes.fromhex(digits.ljust(32, "f"))
    except ValueError:
        low, high = b"", b""
    if not digits or len(low) != 16:
        raise UnknownTraceError(
            f"{trace_id[:80]!r} is no trace id; expected up to 32 hexadecimal digits, or {LAST!r}."
        )
    return low, high


def only_trace(trace_id: str, found: Collection[bytes], *, where: str) -> bytes:
    """The one trace that begins with given digits.

    Args:
        trace_id: The digits.
        found: What begins with them.
        where: The end of the message that says that there is none.

    Raises:
        UnknownTraceError: If there is none, or more than one.
    """
    if not found:
        raise UnknownTraceError(f"No trace in {where}")
    if len(found) > 1:
        raise UnknownTraceError(f"More than one trace begins with {trace_id!r}; give more digits.")
    return next(iter(found))


class Store:
    """A read-only connection to the store in one folder; for use by one thread. Never makes a file.

    Close it after use, as with `contextlib.closing`. Each call sees one consistent state; writers are never blocked.
    """

    def __init__(self, folder: Path, *, on_close: Callable[[], object] | None = None) -> None:
        """Open the store.

        Args:
            folder: The store's folder.
            on_close: Called by `close`.

        Raises:
            NoStoreError: If the folder holds none.
            NewerStoreError: If a newer aiobs wrote it.
            CorruptStoreError: If the file is damaged.
            StoreError: If it cannot be read for another reason.
        """
        self.path = folder / FILE_NAME
        self._on_close = on_close
        if not self.path.exists():
            raise NoStoreError(
                f"There is no aiobs store in {folder}; run your program there, or name its folder."
            )
        self._connection = self._connect()
        try:
            self._require_store()
        except StoreError:
            self._connection.close()
            raise

    def _connect(self) -> sqlite3.Connection:
        # Without a write-ahead log to read and no right to make one, the file is all there is: "immutable".
        options = ["mode=ro"]
        if not self.path.with_name(FILE_NAME + "-wal").exists():
            options.append("mode=ro&immutable=1")
        reason: sqlite3.Error | None = None
        for option in options:
            connection = None
            try:
                address = f"{self.path.resolve().as_uri()}?{option}"
                connection = sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()
                return connection
            except sqlite3.Error as error:
                reason = error
                if connection is not None:
                    connection.close()
        raise self._error(reason)

    def _require_store(self) -> None:
        # In this order: a store being made at this moment gets its tables and its version in one step.
        has_tables = bool(self._rows("SELECT 1 FROM sqlite_master LIMIT 1"))
        version = self._rows("PRAGMA user_version")[0][0]
        require_known_version(version, self.path)
        if version == 0:
            if has_tables:
                raise CorruptStoreError(
                    f"{self.path} holds something else than an aiobs store; move the file away to start a new one."
                )
            raise self._missing()  # a process is making it at this moment, or died while it did

    def _missing(self) -> NoStoreError:
        return NoStoreError(
            f"There is no aiobs store in {self.path.parent}; run your program first, or name the folder of its store."
        )

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        if self._on_close is not None:
            self._on_close()

    def runs(self, limit: int = 50, offset: int = 0) -> list[StoredRun]:
        """Runs, the newest first."""
        query = f"SELECT {_RUN_COLUMNS} FROM runs ORDER BY start DESC, trace_id LIMIT ? OFFSET ?"  # noqa: S608
        return [_run(row) for row in self._rows(query, limit, offset)]

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """The rows of a query in SQL; see `schema` for the tables."""
        return self._rows(sql, *parameters)

    def trace(self, trace_id: str) -> list[StoredSpan]:
        """The spans of one trace by start, whole.

        Args:
            trace_id: Hexadecimal; its first digits are enough if no other trace has them. `last` is the newest run.

        Raises:
            UnknownTraceError: If no trace, or more than one, fits.
            CorruptStoreError: If the spans cannot be decoded.
        """
        return self._spans(self._find(trace_id))

    def iter_traces(self) -> Iterator[list[StoredSpan]]:
        """All traces, the oldest first, one at a time in memory; runs that begin meanwhile may be included."""
        start, last = -1, b""
        query = (
            "SELECT start, trace_id FROM runs WHERE start > ? OR (start = ? AND trace_id > ?) "
            "ORDER BY start, trace_id LIMIT ?"
        )
        # Page by page: one long read would keep the write-ahead log from being emptied.
        while page := self._rows(query, start, start, last, _PAGE_RUNS):
            for _, trace_id in page:
                yield self._spans(trace_id)
            start, last = page[-1]

    def _find(self, trace_id: str) -> bytes:
        if trace_id == LAST:
            newest = self._rows("SELECT trace_id FROM runs ORDER BY start DESC LIMIT 1")
            if not newest:
                raise UnknownTraceError(f"{self.path} holds no run yet.")
            return bytes(newest[0][0])
        found = self.traces_between(*trace_bounds(trace_id))
        return only_trace(
            trace_id, found, where=f"{self.path} begins with {trace_id!r}; `aiobs runs` lists them."
        )

    def traces_between(self, low: bytes, high: bytes) -> list[bytes]:
        """Traces from one id to another: two of them, if there are so many."""
        query = "SELECT trace_id FROM runs WHERE trace_id BETWEEN ? AND ? LIMIT 2"
        return [bytes(row[0]) for row in self._rows(query, low, high)]

    def user_key_ids(self) -> list[str]:
        """Under which keys users are hashed, by the keys' ids; an empty one if there are users in the clear."""
        query = "SELECT DISTINCT CASE WHEN user LIKE ? THEN substr(user, 1, 6) ELSE '' END FROM spans WHERE user IS NOT NULL"
        return [str(row[0]) for row in self._rows(query, "______:" + "_" * 32)]

    def _spans(self, trace_id: bytes) -> list[StoredSpan]:
        query = f"SELECT {_SPAN_COLUMNS} FROM spans WHERE trace_id = ? ORDER BY start, id"  # noqa: S608
        rows = self._rows(query, trace_id)
        blocks: dict[int, list[ReadableSpan]] = {}
        try:
            for number in {row[-2] for row in rows}:
                blocks[number] = read_block(self._rows("SELECT z FROM body WHERE id = ?", number)[0][0])
            return [_span(trace_id, row, blocks[row[-2]][row[-1]]) for row in rows]
        except (ValueError, IndexError) as error:
            raise CorruptStoreError(
                f"{self.path}: trace {trace_id.hex()} cannot be decoded ({error})."
            ) from error

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _error(self, error: sqlite3.Error | None) -> StoreError:
        # Busy, locked and "cannot open" are OperationalErrors; a damaged file is the plain DatabaseError.
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            return CorruptStoreError(
                f"{self.path} is damaged ({error}); move the file away to start a new one."
            )
        return StoreError(f"{self.path} cannot be read ({error}).")


def _run(row: Sequence[Any]) -> StoredRun:
    trace_id, start, end, name, root, service, user, session, n, errs, in_tok, out_tok, cost, masked = row
    return StoredRun(
        trace_id=bytes(trace_id).hex(),
        name=name,
        is_pending=not root,
        service=service,
        user=user,
        session=session,
        start_ns=start,
        end_ns=end,
        span_count=n,
        error_count=errs,
        input_tokens=in_tok,
        output_tokens=out_tok,
        cost_nano_usd=cost,
        masked_count=masked,
    )


def _span(trace_id: bytes, row: Sequence[Any], readable: ReadableSpan) -> StoredSpan:
    span_id, parent_id, kind, name, op, model, start, dur, _, in_tok, out_tok, cache_tok, cost, ttft = row[
        :14
    ]
    return StoredSpan(
        trace_id=trace_id.hex(),
        span_id=bytes(span_id).hex(),
        parent_id=None if parent_id is None else bytes(parent_id).hex(),
        kind=kind,
        name=name,
        operation=op,
        model=model,
        start_ns=start,
        duration_ns=dur,
        status=readable.status.status_code.name.lower(),
        input_tokens=in_tok,
        output_tokens=out_tok,
        cache_read_tokens=cache_tok,
        cost_nano_usd=cost,
        first_chunk_ns=ttft,
        readable=readable,
    )
