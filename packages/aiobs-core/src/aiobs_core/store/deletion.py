"""Deletion of traces: their rows, blocks and side files, a slice per transaction; and the retention that uses it."""

from __future__ import annotations

import json
import math
import sqlite3
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiobs_core import semconv
from aiobs_core._health import Health
from aiobs_core.privacy.overflow import CONTENT_FOLDER
from aiobs_core.store import schema
from aiobs_core.store.blocks import read_block

SLICE_TRACES: Final = 20
_SLICE_SPANS: Final = 1_000  # so that a slice of large traces keeps the lock no longer than one of small ones
_PERIOD_S: Final = 600.0  # from one look for old runs to the next
_STEP_S: Final = 0.05  # the longest that an export is held up
_VACUUM_PAGES: Final = 16
_NS_PER_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What a slice deleted."""

    traces: tuple[bytes, ...]
    span_count: int


def expired(connection: sqlite3.Connection, before_ns: int) -> list[bytes]:
    """A slice of the runs whose last span ended before `before_ns`, the oldest first; empty where there is none."""
    # No run ends before it starts: the first condition lets the index on `start` bound the search.
    query = 'SELECT trace_id, n FROM runs WHERE start < ? AND "end" < ? ORDER BY start LIMIT ?'
    return _bounded(connection.execute(query, (before_ns, before_ns, SLICE_TRACES)).fetchall())


def traces_of(connection: sqlite3.Connection, user: str) -> list[bytes]:
    """A slice of the traces in which a span has this user; empty where there is none."""
    query = (
        "SELECT DISTINCT s.trace_id, coalesce(r.n, 1) FROM spans s LEFT JOIN runs r ON r.trace_id = s.trace_id "
        "WHERE s.user = ? LIMIT ?"
    )
    return _bounded(connection.execute(query, (user, SLICE_TRACES)).fetchall())


def _bounded(rows: Sequence[tuple[bytes, int]]) -> list[bytes]:
    """The first traces, so many that they have `_SLICE_SPANS` together; at least one."""
    traces: list[bytes] = []
    span_count = 0
    for trace_id, n in rows:
        span_count += n
        if traces and span_count > _SLICE_SPANS:
            break
        traces.append(trace_id)
    return traces


class Deletion:
    """Deletes traces through one connection. Not for use by several threads at a time.

    The bytes of what it deletes are overwritten in the file by the next checkpoint; until then the file and its
    write-ahead log may still hold them.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        folder: Path,
        *,
        health: Health,
        content_ref_attribute: str = semconv.CONTENT_REF,
    ) -> None:
        self._connection = connection
        self._folder = folder
        self._health = health
        self._attribute = content_ref_attribute
        self._needle = json.dumps(content_ref_attribute, ensure_ascii=False).encode()
        self.left_files: list[Path] = []  # side files that could not be deleted
        connection.execute("PRAGMA secure_delete=ON")

    def delete(self, traces: Sequence[bytes], *, before_ns: int | None = None) -> Deleted:
        """Delete traces in one transaction.

        Args:
            traces: Their ids, at most about `SLICE_TRACES`.
            before_ns: Spare a trace whose last span has not ended before this instant by now.

        Returns:
            What was deleted.

        Raises:
            sqlite3.Error: If the store cannot be written; then nothing is deleted but, perhaps, side files.
        """
        # Decoding takes longer than deleting: it is done before anybody has to wait for the lock.
        references = {block: self._references(block) for trace in traces for block in self._blocks(trace)}
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            gone = [trace for trace in traces if before_ns is None or self._has_ended(trace, before_ns)]
            span_count = sum([self._delete_trace(trace, references) for trace in gone])
            self._connection.execute("COMMIT")
        except BaseException:
            schema.roll_back(self._connection)
            raise
        return Deleted(traces=tuple(gone), span_count=span_count)

    def _blocks(self, trace: bytes) -> list[int]:
        found = self._connection.execute("SELECT DISTINCT blk FROM spans WHERE trace_id = ?", (trace,))
        return [block for (block,) in found.fetchall()]

    def _has_ended(self, trace: bytes, before_ns: int) -> bool:
        query = 'SELECT 1 FROM runs WHERE trace_id = ? AND "end" < ?'
        return self._connection.execute(query, (trace, before_ns)).fetchone() is not None

    def _delete_trace(self, trace: bytes, references: dict[int, frozenset[str]]) -> int:
        blocks = self._blocks(trace)
        for block in blocks:
            known = references.get(block)  # None: it was written after the others had been read
            # Before the commit: a process that dies here leaves a trace that can be deleted again.
            for reference in self._references(block) if known is None else known:
                self._delete_file(reference)
        for path in (self._folder / CONTENT_FOLDER).glob(
            f"{trace.hex()}-*"
        ):  # of spans that never got here, too
            self._delete_file(f"{CONTENT_FOLDER}/{path.name}")
        execute = self._connection.execute
        self._connection.executemany("DELETE FROM body WHERE id = ?", [(block,) for block in blocks])
        span_count = execute("DELETE FROM spans WHERE trace_id = ?", (trace,)).rowcount
        execute("DELETE FROM runs WHERE trace_id = ?", (trace,))
        return span_count

    def _references(self, block: int) -> frozenset[str]:
        """Side files that the spans of a block name."""
        found = self._connection.execute("SELECT z FROM body WHERE id = ?", (block,)).fetchone()
        if found is None:
            return frozenset()
        try:
            if self._needle not in zlib.decompress(found[0]):
                return frozenset()
            values = [(span.attributes or {}).get(self._attribute) for span in read_block(found[0])]
        except (ValueError, zlib.error) as error:
            self._health.problem(
                "store.block_damaged",
                f"{self._folder / schema.FILE_NAME}: a damaged block is deleted ({error}); files below "
                f"{self._folder / CONTENT_FOLDER} that its spans name stay.",
            )
            return frozenset()
        return frozenset(value for value in values if isinstance(value, str))

    def _delete_file(self, reference: str) -> None:
        path = self._folder / reference
        try:
            # The last part is not resolved: of a symbolic link there, the link itself goes.
            home = path.parent.resolve()
            if not home.is_relative_to(self._folder.resolve() / CONTENT_FOLDER) or path.name in ("", ".."):
                self._health.problem(
                    "store.content_outside",
                    f"A span names a file outside of {self._folder / CONTENT_FOLDER}; it is not touched.",
                )
                return
            (home / path.name).unlink(missing_ok=True)
        except (OSError, ValueError, RuntimeError) as error:  # a null byte, a loop of links
            self.left_files.append(path)
            self._health.problem(
                "store.content_left",
                f"{self._folder / CONTENT_FOLDER}: a file of a deleted trace cannot be deleted "
                f"({type(error).__name__}); delete it by hand.",
            )


class Retention:
    """Deletes runs that ended too long ago, a little at a time, and looks for more of them every ten minutes."""

    def __init__(self, folder: Path, *, keep_s: float, health: Health) -> None:
        """Do nothing yet.

        Args:
            folder: The store's folder.
            keep_s: Time after its last span for which a run is kept.
            health: Told about what went wrong.

        Raises:
            ValueError: If `keep_s` is not a positive, finite number.
        """
        if not (math.isfinite(keep_s) and keep_s > 0):
            raise ValueError(f"retention_s: expected a positive, finite number of seconds, got {keep_s!r}.")
        self._folder = folder
        self._keep_ns = round(keep_s * _NS_PER_S)
        self._health = health
        self._due_s = 0.0

    def step(self, connection: sqlite3.Connection) -> None:
        """Delete for about `_STEP_S`, if it is time to; never raises."""
        if time.monotonic() < self._due_s:
            return
        try:
            connection.execute(f"PRAGMA busy_timeout={round(_STEP_S * 1000)}")
            try:
                is_done = self._delete(connection)
            finally:
                connection.execute(f"PRAGMA busy_timeout={round(schema.BUSY_TIMEOUT_S * 1000)}")
        except Exception as error:  # noqa: BLE001 - the spans are stored; deletion must not cost the next ones
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                return  # another process writes: after the next export, then
            is_done = True
            self._health.problem(
                "store.retention_failed",
                f"{self._folder / schema.FILE_NAME}: old runs could not be deleted ({type(error).__name__}: "
                f"{error}); tried again in {_PERIOD_S:.0f} s.",
            )
        if is_done:
            self._due_s = time.monotonic() + _PERIOD_S

    def _delete(self, connection: sqlite3.Connection) -> bool:
        """Whether nothing is left to delete, and no page to give back."""
        deadline_s = time.monotonic() + _STEP_S
        before_ns = time.time_ns() - self._keep_ns
        deletion: Deletion | None = None
        while traces := expired(connection, before_ns):
            deletion = deletion or Deletion(connection, self._folder, health=self._health)
            deletion.delete(traces, before_ns=before_ns)
            if time.monotonic() > deadline_s:
                return False
        free, before = _free_pages(connection), -1
        while free not in (0, before):
            # Each page is a row of the result: unread, it would stay.
            connection.execute(f"PRAGMA incremental_vacuum({_VACUUM_PAGES})").fetchall()
            if time.monotonic() > deadline_s:
                return False
            free, before = _free_pages(connection), free
        return True


def _free_pages(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA freelist_count").fetchone()[0])
