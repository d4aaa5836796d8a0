"""Erasure: traces of a person, one trace, or all old ones leave the store, and their bytes leave its files."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from aiobs_core import semconv
from aiobs_core._health import Health
from aiobs_core.store import schema
from aiobs_core.store.compaction import PAUSE_S, compact, overwrite_deleted, patiently
from aiobs_core.store.deletion import Deletion, expired, traces_of
from aiobs_core.store.reader import LAST, Store, UnknownTraceError, only_trace, trace_bounds
from aiobs_core.store.rows import user_of
from aiobs_core.store.spool import ingest, spool_files, take
from aiobs_core.store.writer import StoreWriter

PENDING_NAME: Final = "erase.pending"  # there from the first deletion until no byte is left; empty
_SPOOL_PATIENCE_S: Final = 1.0  # with one spool file
_SPOOL_PASSES: Final = 20
_MAX_NS: Final = 2**63 - 1  # the largest integer that SQLite holds

_Find = Callable[[], list[bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What an erasure did.

    Attributes:
        trace_count: Traces that were deleted.
        span_count: Their spans in the store.
        spooled_span_count: Those of them that stood in the spool.
        is_compacted: Whether their bytes are gone from all files of the store, too.
        remark: What remains and what to do about it; None if nothing is to be said.
        waiting_span_count: Spans that waited in outboxes and were deleted there.
        traces: Ids of the traces.
    """

    trace_count: int
    span_count: int
    spooled_span_count: int
    is_compacted: bool
    remark: str | None
    waiting_span_count: int = 0
    traces: frozenset[bytes] = field(default=frozenset(), compare=False, repr=False)


def erase(
    folder: Path,
    *,
    health: Health,
    users: Collection[str] = (),
    trace_id: str | None = None,
    before_ns: int | None = None,
    elsewhere: Collection[bytes] = (),
    content_ref_attribute: str = semconv.CONTENT_REF,
) -> Erased:
    """Delete traces from the store in `folder`, and their bytes from its files; one of the three says which.

    Other processes may go on reading and writing. Spans that they store meanwhile may belong to an erased trace and
    make a new run of it. The sums per minute and model stay: they name nobody.

    Args:
        folder: The store's folder.
        health: Told about spans of the spool that cannot be read, and side files that cannot be deleted.
        users: Ids as spans carry them; a trace goes if one of its spans has one.
        trace_id: 32 hexadecimal digits; the first ones are enough if no other trace has them.
        before_ns: Traces go whose last span ended before this instant, in ns since the epoch.
        elsewhere: Traces in other places whose ids begin with `trace_id`; with one of them it need not be in the store.
        content_ref_attribute: Attribute that names a span's file below `content/`, which goes with its trace.

    Returns:
        What was deleted, and whether bytes of it remain.

    Raises:
        ValueError: If not exactly one of the three is given, or a user's id is empty.
        UnknownTraceError: If no trace, or more than one, has the id.
        StoreError: If there is no store, or it cannot be written now; it may be that some traces are deleted.
    """
    require_one(users, trace_id, before_ns)
    if not spool_files(folder):
        Store(folder).close()  # raises where there is no store: none is made
    erasure = _Erasure(folder, health, content_ref_attribute, elsewhere=elsewhere)
    try:
        return erasure.run(users, trace_id, before_ns)
    except (sqlite3.Error, OSError) as error:
        raise schema.StoreError(
            f"{folder / schema.FILE_NAME}: cannot be written now ({error}); {erasure.trace_count} traces were "
            "deleted so far. Run the same again."
        ) from error


def require_one(users: Collection[str], trace_id: str | None, before_ns: int | None) -> None:
    """Refuse anything but exactly one of the three.

    Raises:
        ValueError: If it is not, or a user's id is empty.
    """
    given = {"users": bool(users), "trace_id": trace_id is not None, "before_ns": before_ns is not None}
    if sum(given.values()) != 1:
        names = " and ".join(name for name, is_given in given.items() if is_given) or "none"
        raise ValueError(f"erase: expected exactly one of users, trace_id and before_ns, got {names}.")
    if isinstance(users, str) or not all(users):
        raise ValueError("erase: expected users to be a collection of ids, none of them empty.")


def bounds_to_erase(trace_id: str) -> tuple[bytes, bytes]:
    """The lowest and the highest id that begin with these digits.

    Raises:
        UnknownTraceError: If it is no beginning of an id.
    """
    if trace_id == LAST:
        raise UnknownTraceError(
            f"{LAST!r} may be another trace by now; expected up to 32 hexadecimal digits to erase one."
        )
    return trace_bounds(trace_id)


class _Erasure:
    """One erasure while it goes on."""

    def __init__(
        self, folder: Path, health: Health, content_ref_attribute: str, *, elsewhere: Collection[bytes]
    ) -> None:
        self._folder = folder
        self._elsewhere = elsewhere
        self._health = health
        self._attribute = content_ref_attribute
        self._pending = folder / PENDING_NAME
        self._spooled: dict[bytes, set[int]] = {}
        self._remarks: list[str] = []
        self._deleted: set[bytes] = set()
        self._span_count = 0
        self._is_spool_left = False

    @property
    def trace_count(self) -> int:
        """Traces deleted so far."""
        return len(self._deleted)

    def run(self, users: Collection[str], trace_id: str | None, before_ns: int | None) -> Erased:
        """Take the spool in, delete, and rewrite the file; also finishes what an earlier erasure had to leave."""
        was_pending = self._pending.exists()
        self._take_in_spool()
        with closing(patiently(partial(schema.open_for_writing, self._folder))) as connection:
            overwrite_deleted(connection)
            deletion = Deletion(
                connection, self._folder, health=self._health, content_ref_attribute=self._attribute
            )
            try:
                find = self._finder(connection, users, trace_id, before_ns)
            except UnknownTraceError as error:
                if not was_pending:
                    raise
                find = list  # nothing; the trace may be the one that an earlier erasure had not done with
                self._remarks.append(f"{error} What an earlier erasure had left behind was to be removed.")
            self._delete_and_compact(connection, deletion, find, was_pending=was_pending)
        self._remarks += [f"{path} cannot be deleted; delete it by hand." for path in deletion.left_files]
        return Erased(
            trace_count=self.trace_count,
            span_count=self._span_count,
            spooled_span_count=sum(len(self._spooled.get(trace, ())) for trace in self._deleted),
            is_compacted=not self._pending.exists() and not deletion.left_files,
            remark=" ".join(self._remarks) or None,
            traces=frozenset(self._deleted),
        )

    def _delete_and_compact(
        self, connection: sqlite3.Connection, deletion: Deletion, find: _Find, *, was_pending: bool
    ) -> None:
        if not (self._delete(deletion, find) or was_pending or self._remarks):
            return
        reason = compact(connection)
        # A process that was reading the spool, too, may have stored some of it after the deletion.
        if reason is None and self._delete(deletion, find):
            reason = compact(connection)
        if reason is not None:
            self._remarks.append(
                f"The traces are deleted, but bytes of them remain in {self._folder / schema.FILE_NAME} or its "
                f"write-ahead log ({reason}); run the same again when no other process reads the store."
            )
        elif not self._is_spool_left:
            self._pending.unlink(missing_ok=True)

    def _delete(self, deletion: Deletion, find: _Find) -> bool:
        """Delete all that `find` finds, slice by slice; whether that was anything."""
        has_deleted = False
        while traces := find():
            if has_deleted:
                time.sleep(PAUSE_S)  # lets a writing application in
            self._pending.touch(mode=0o600)
            done = patiently(partial(deletion.delete, traces))
            self._deleted.update(done.traces)
            self._span_count += done.span_count
            has_deleted = True
        return has_deleted

    def _finder(
        self,
        connection: sqlite3.Connection,
        users: Collection[str],
        trace_id: str | None,
        before_ns: int | None,
    ) -> _Find:
        """What finds the next slice of traces to delete."""
        if before_ns is not None:
            bound_ns = max(-_MAX_NS, min(before_ns, _MAX_NS))
            return lambda: expired(connection, bound_ns)
        if trace_id is not None:
            one = self._trace(trace_id)
            query = "SELECT trace_id FROM runs WHERE trace_id = ?"
            return lambda: [found for (found,) in connection.execute(query, (one,)).fetchall()]
        # As the column holds them: long ones are cut there.
        stored = sorted({user_of({semconv.USER_ID: user}) or "" for user in users})
        return lambda: next(filter(None, (traces_of(connection, user) for user in stored)), [])

    def _trace(self, trace_id: str) -> bytes:
        low, high = bounds_to_erase(trace_id)
        with closing(Store(self._folder)) as store:
            found = {*store.traces_between(low, high), *self._elsewhere}
            return only_trace(
                trace_id, found, where=f"{store.path} begins with {trace_id!r}; `aiobs runs` lists them."
            )

    def _take_in_spool(self) -> None:
        """Move the spool into the store, the files of living processes included."""
        paths = spool_files(self._folder)
        if not paths:
            return
        # Before any file is taken: where this fails, all of them stay as they are.
        writer = patiently(partial(StoreWriter, self._folder, health=self._health))

        def store(spans: Sequence[ReadableSpan]) -> None:
            writer.write(spans)
            for span in spans:
                context = span.get_span_context()
                if context is not None:
                    trace = context.trace_id.to_bytes(16, "big")
                    self._spooled.setdefault(trace, set()).add(context.span_id)

        try:
            taken = [name for path in paths if (name := self._taken(path)) is not None]
            for _ in range(_SPOOL_PASSES):
                for _ in ingest(self._folder, store, own=None, taken=taken, health=self._health):
                    pass
                if not any(path.exists() for path in taken):
                    return
                time.sleep(PAUSE_S)  # its owner was writing a line: it will write it again, to a new file
        finally:
            writer.close()
        self._is_spool_left = True
        self._pending.touch(mode=0o600)
        self._remarks.append(
            f"{paths[0].parent}: the spool of a running process cannot be deleted yet; run the same again when it "
            "has ended."
        )

    def _taken(self, path: Path) -> Path | None:
        """Where a spool file is now; None if it is gone."""
        deadline_s = time.monotonic() + _SPOOL_PATIENCE_S
        while True:
            try:
                return take(path, self._folder)
            except FileNotFoundError:
                return None
            except PermissionError:  # Windows, while its owner writes
                if time.monotonic() > deadline_s:
                    return path
                time.sleep(PAUSE_S)
