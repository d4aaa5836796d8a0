"""The spool: lines of OTLP-JSON, one file per process, for spans that SQLite cannot take now.

A process appends only to its own file. Any process may read any file into the store, because storing a span twice
changes nothing; a file is deleted by its owner, or by another once its owner is dead. Whoever has to empty the spool
now, as to erase a person, takes a file by giving it a name of its own: an owner that finds its file taken, after it
wrote, writes the line once more, to a new one.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from aiobs_core._health import Health
from aiobs_core.store.otlp_json import OtlpJsonError, decode_line, encode_line
from aiobs_core.store.schema import make_folder

FOLDER_NAME: Final = "spool"
_SUFFIX: Final = ".otlp.jsonl"
MAX_FILE_BYTES: Final = 1 << 30  # a process that can never use SQLite must not fill the disk
_FOREIGN_IDLE_S: Final = 3600.0  # another host's process cannot be asked whether it lives
_APPEND_TRIES: Final = 10


def spool_files(folder: Path) -> list[Path]:
    """The spool files of a store, oldest first; empty where there is no spool."""
    try:
        files = [(path.stat().st_mtime_ns, path) for path in (folder / FOLDER_NAME).glob(f"*{_SUFFIX}")]
    except FileNotFoundError:  # ingested by another process between the two calls
        return spool_files(folder)
    return [path for _, path in sorted(files)]


class Spool:
    """The spool file of this process. Not for use by several threads; after a fork the child needs its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / FOLDER_NAME / f"{os.getpid()}-{host_token()}{secrets.token_hex(4)}{_SUFFIX}"

    def append(self, spans: Sequence[ReadableSpan]) -> None:
        """Write one line that holds `spans`.

        Raises:
            OSError: If it cannot be written, or the file would become larger than `MAX_FILE_BYTES`; then none of
                it is kept.
        """
        line = encode_line(spans)
        for _ in range(_APPEND_TRIES):
            if self._append_line(line):
                return
        raise OSError("the spool file was taken away each time it was written")

    def _append_line(self, line: bytes) -> bool:
        """Whether the line stands in this process's file; False if someone took the file meanwhile."""
        if not self.path.parent.is_dir():
            make_folder(self._folder)
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
        # Opened for each line: whoever deletes the file after reading it never takes one that is still written to.
        descriptor = os.open(
            self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o600
        )
        try:
            size = os.fstat(descriptor).st_size
            if size + len(line) > MAX_FILE_BYTES:
                raise OSError(f"the spool file would be larger than {MAX_FILE_BYTES >> 20} MiB")
            try:
                _write_all(descriptor, line)
            except OSError:
                os.ftruncate(descriptor, size)  # a torn line would spoil the next one
                raise
            return self.path.exists()  # only this process makes a file of this name, so it is the same one
        finally:
            os.close(descriptor)


def take(path: Path, folder: Path) -> Path:
    """Give a spool file a name of the calling process, which may then ingest and delete it; the owner goes on.

    Args:
        path: The spool file.
        folder: The store's folder.

    Returns:
        The new name.

    Raises:
        OSError: If it is gone, or cannot be renamed (Windows: while its owner writes to it).
    """
    return path.rename(Spool(folder).path)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def ingest(
    folder: Path,
    store: Callable[[Sequence[ReadableSpan]], object],
    *,
    own: Path | None,
    health: Health,
    delete: bool = True,
    taken: Collection[Path] = (),
) -> Iterator[Path]:
    """Put the spool into the store, one line per step; delete the files that nobody writes to any more.

    A torn last line, as a killed process leaves it, is skipped, and counted once its file is deleted.

    Args:
        folder: The store's folder.
        store: Stores spans; may raise, which ends the ingest without a loss.
        own: Spool file of the calling process, which may be deleted.
        health: Counts lines that cannot be read.
        delete: False leaves all files where they are.
        taken: Files that the calling process took, which may be deleted.

    Yields:
        The file that a line was read from, after each line.

    Raises:
        OSError: If a file cannot be read or deleted.
    """
    for path in spool_files(folder):
        try:
            deletable = delete and (path == own or path in taken or _is_abandoned(path))
            yield from _ingest_file(path, store, health if deletable else None)
        except FileNotFoundError:
            continue  # another process was faster


def _ingest_file(
    path: Path, store: Callable[[Sequence[ReadableSpan]], object], health: Health | None
) -> Iterator[Path]:
    """Store one file's spans; with a `health` to tell about torn lines, delete it then."""
    size_bytes = 0
    unread: list[bytes] = []
    with path.open("rb") as lines:
        for line in lines:
            size_bytes += len(line)
            if not _is_at(path, lines.fileno()):
                return  # taken or deleted by a process that stored all of it, perhaps to erase it
            spans = _decode(line)
            if spans is None:
                unread.append(line)
            else:
                store(spans)
            yield path
    if health is not None and path.stat().st_size == size_bytes:
        path.unlink()
        _count_unread(path, unread, health)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether an open file still lies at its path: another process may have taken or deleted it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _decode(line: bytes) -> list[ReadableSpan] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return decode_line(line)
    except OtlpJsonError:
        return None  # counted by the caller when the line is gone for good


def _count_unread(path: Path, unread: list[bytes], health: Health) -> None:
    for line in unread:
        health.problem(
            "store.spool_torn",
            f"{path}: a line of the spool is not whole, as a killed process leaves it; its spans are lost.",
            lost=max(1, line.count(b'"startTimeUnixNano"')),
        )


def _is_abandoned(path: Path) -> bool:
    """Whether no process will append to this file again."""
    pid, _, token = path.name.removesuffix(_SUFFIX).partition("-")
    if not pid.isdigit() or not token.startswith(host_token()) or sys.platform == "win32":
        return time.time() - path.stat().st_mtime > _FOREIGN_IDLE_S
    if int(pid) == os.getpid():
        return True  # not our own file, see the caller: an earlier process had our number
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def host_token() -> str:
    """Eight characters for the set of processes whose numbers mean the same here: one boot, one pid namespace."""
    parts = [platform.node()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    except OSError:
        parts.append("")  # not Linux: the name of the host has to do
    return hashlib.blake2s("\n".join(parts).encode(), digest_size=4).hexdigest()
