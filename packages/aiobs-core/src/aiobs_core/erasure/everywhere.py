"""Erasure wherever aiobs keeps spans on this disk: in the store, and in the outboxes where they wait for a receiver."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aiobs_core._health import Health
from aiobs_core.export.outbox_erase import (
    PENDING_NAME,
    ErasedWaiting,
    erase_waiting,
    has_outbox,
    waiting_traces,
)
from aiobs_core.export.outbox_file import FILE_NAME as OUTBOX_NAME
from aiobs_core.export.outbox_file import OutboxError, is_damage
from aiobs_core.store.erase import Erased, bounds_to_erase, erase, require_one
from aiobs_core.store.reader import UnknownTraceError, only_trace
from aiobs_core.store.schema import FILE_NAME, StoreError
from aiobs_core.store.spool import spool_files


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where spans are.

    Attributes:
        store: The store's folder; None: there is none.
        outboxes: Folders with spans that wait for a receiver.
    """

    store: Path | None
    outboxes: tuple[Path, ...]

    def __str__(self) -> str:
        """For a person: folder of the store, files of the outboxes."""
        store = () if self.store is None else (str(self.store),)
        return " and ".join((*store, *(str(folder / OUTBOX_NAME) for folder in self.outboxes)))


def places_in(store: Path | None, spool: Path | None) -> Places:
    """What there is in the folder of the store and that of the spool, which may be the same; None: there is no such.

    Where there is neither a store nor an outbox, the folder of the store is taken for one.
    """
    folders = {folder.resolve(): folder for folder in (spool, store) if folder is not None}
    outboxes = tuple(folder for folder in reversed(folders.values()) if has_outbox(folder))
    if store is not None and outboxes and not (store / FILE_NAME).exists() and not spool_files(store):
        store = None
    return Places(store=store, outboxes=outboxes)


def erase_everywhere(
    places: Places,
    *,
    health: Health,
    users: Collection[str] = (),
    trace_id: str | None = None,
    before_ns: int | None = None,
) -> Erased:
    """Delete traces from the store and from the outboxes, and their bytes from all files; one of the three says which.

    What goes from the store goes from the outboxes, too; in these, the rest is decided by the spans that wait.

    Args:
        places: Where to look.
        health: See `erase`.
        users: See `erase`.
        trace_id: 32 hexadecimal digits; the first ones are enough if no other trace in one of the places has them.
        before_ns: See `erase`, and `erase_waiting` for what counts as the end there.

    Returns:
        All that was deleted.

    Raises:
        ValueError: See `erase`.
        UnknownTraceError: If no trace, or more than one, has the id; nothing was deleted.
        StoreError: If a place cannot be read or written now; it may be that some traces are deleted.
    """
    require_one(users, trace_id, before_ns)
    known = _known_waiting(places, trace_id)
    remarks: list[str] = []
    done = Erased(trace_count=0, span_count=0, spooled_span_count=0, is_compacted=True, remark=None)
    try:
        if places.store is not None:
            done = erase(
                places.store,
                health=health,
                users=users,
                trace_id=trace_id,
                before_ns=before_ns,
                elsewhere=known,
            )
        elif trace_id is not None:
            only_trace(trace_id, known, where=f"{places} begins with {trace_id!r}.")
    except UnknownTraceError as error:
        if known or not any((folder / PENDING_NAME).exists() for folder in places.outboxes):
            raise
        remarks.append(f"{error} What an earlier erasure had left behind was to be removed.")
    for folder in places.outboxes:
        with _as_store_error(folder, done.trace_count):
            more = erase_waiting(folder, users=users, traces=known | done.traces, before_ns=before_ns)
        done = _sum(done, more)
        remarks += more.remarks
    return replace(done, remark=" ".join(filter(None, (done.remark, *remarks))) or None)


def _known_waiting(places: Places, trace_id: str | None) -> frozenset[bytes]:
    if trace_id is None or not places.outboxes:
        return frozenset()
    low, high = bounds_to_erase(trace_id)
    found = frozenset[bytes]()
    for folder in places.outboxes:
        with _as_store_error(folder, 0):
            found |= waiting_traces(folder, low, high)
    return found


def _sum(done: Erased, more: ErasedWaiting) -> Erased:
    traces = done.traces | more.traces
    return replace(
        done,
        traces=traces,
        trace_count=len(traces),
        waiting_span_count=done.waiting_span_count + more.span_count,
        is_compacted=done.is_compacted and more.is_compacted,
    )


@contextmanager
def _as_store_error(folder: Path, trace_count: int) -> Iterator[None]:
    try:
        yield
    except (OutboxError, sqlite3.Error, OSError) as error:
        advice = "Run the same again."
        if isinstance(error, sqlite3.Error) and is_damage(error):
            advice = "A running application replaces a damaged file; else delete it."
        raise StoreError(
            f"{folder / OUTBOX_NAME}: cannot be searched now ({error}); {trace_count} traces were deleted elsewhere so "
            f"far, and some may have been here. {advice}"
        ) from error
