"""The folder in which the processes of one server add up what they have counted, so that each page tells of all.

Each process has one file, which it replaces and never changes. It holds a lock on it until it dies, which is how the
others know; nobody compares process ids, which are used again and mean nothing in another container. What the dead have
counted is added up in one file, so that there are never more files than processes.

A page may never tell of less than one before it did: Prometheus takes that for a restart, and counts everything once
more. Therefore a process writes its own file before it reads those of the others, and reads them while it holds the lock
of the folder.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiobs_core.metrics.series import FamilySnapshot, merged
from aiobs_core.metrics.shared_format import FORMAT, Content, decode, encode
from aiobs_core.metrics.shared_sums import added, amount, bounded, countable, definition
from aiobs_core.privacy._file_lock import lock, unlock
from aiobs_core.semconv.metrics import METRICS

if TYPE_CHECKING:
    from aiobs_core._health import Health

if sys.platform != "win32":
    import fcntl

_SUFFIX: Final = ".metrics"
_FOLDED: Final = f"aiobs-folded-{FORMAT}{_SUFFIX}"
_LOCK: Final = "aiobs-metrics.lock"
_UNFINISHED: Final = ".unfinished"
_UNFINISHED_S: Final = 60.0  # older ones belong to someone who was killed while it wrote


class _OwnFile:
    """The file of this process, whoever opens the folder: what a process counts goes on when settings change."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"aiobs-{secrets.token_hex(8)}{_SUFFIX}"
        self.lock = threading.Lock()
        self.latest: Sequence[FamilySnapshot] = ()
        self.amount = -1.0
        self.descriptor = -1

    def replace(self, content: bytes) -> None:
        """Write the file anew; it is locked before it has its name.

        Raises:
            OSError: If that fails; the old one stays.
        """
        unfinished = self.path.with_suffix(_UNFINISHED)
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _is_free(descriptor)
            _write_all(descriptor, content)
            unfinished.replace(self.path)
        except BaseException:
            os.close(descriptor)
            unfinished.unlink(missing_ok=True)
            raise
        before = self.descriptor
        self.descriptor = descriptor  # first, so that at no instant it is a closed one: see the fork below
        if before >= 0:
            os.close(before)


_own_files: dict[Path, _OwnFile] = {}


def _own_file(folder: Path) -> _OwnFile:
    return _own_files.get(folder) or _own_files.setdefault(folder, _OwnFile(folder))


def _after_fork_in_child() -> None:
    """A child is another process, and its parent's file must not look alive for as long as the child lives."""
    for own in _own_files.values():
        if own.descriptor >= 0:
            os.close(own.descriptor)  # without unlocking it: the parent still holds the lock
    _own_files.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class SharedFolder:
    """What the processes of one server have counted. Safe to use from any thread; never raises.

    On Windows, which lets nobody replace a file that others read, each process tells of itself only.

    Args:
        folder: Made if it is missing. On a disk of this machine: locks over a network are no proof of life.
        health: Told once what does not work.
    """

    def __init__(self, folder: Path, health: Health) -> None:
        self._folder = folder.absolute()
        self._health = health
        self._is_closed = False
        self._others: Sequence[FamilySnapshot] = ()
        self._parsed: dict[Path, tuple[bytes, Content | None]] = {}
        self._is_able = sys.platform != "win32"
        if not self._is_able:
            health.problem(
                "metrics.folder",
                "aiobs: AIOBS_METRICS_DIR does not work on Windows; each page tells of its own process only.",
            )

    def write(self, snapshot: Sequence[FamilySnapshot]) -> None:
        """Tell the others what this process has counted so far."""
        if not self._is_able or self._is_closed:
            return
        own = _own_file(self._folder)
        with own.lock:
            counted = amount(snapshot)
            if counted < own.amount:
                return  # another thread took a later one, and was faster
            is_first = own.descriptor < 0
            if is_first or snapshot != own.latest:
                self._replace_own(own, snapshot)
            own.latest, own.amount = snapshot, counted
        if is_first:
            self._look()  # where nobody asks for pages, too, the dead are folded

    def read(self, own_snapshot: Sequence[FamilySnapshot]) -> Sequence[FamilySnapshot]:
        """What all processes have counted: gauges of the living, everything else of the dead, too.

        Args:
            own_snapshot: What this process has counted so far.
        """
        if not self._is_able:
            return own_snapshot
        self.write(own_snapshot)
        self._look()
        own = _own_file(self._folder).latest
        return merged([own, self._known(self._others, own)])

    def close(self) -> None:
        """Stop telling. What was counted stays told; what is measured, as the number of open runs, does not."""
        own = _own_file(self._folder)
        with own.lock:
            if self._is_closed or not self._is_able:
                return
            self._is_closed = True
            own.latest = countable(own.latest)
            if own.descriptor >= 0:
                self._replace_own(own, own.latest)

    def forget_after_fork(self) -> None:
        """Leave the file to the parent."""
        self._is_able = False

    # --- this process -------------------------------------------------------------------------------------------
    def _replace_own(self, own: _OwnFile, snapshot: Sequence[FamilySnapshot]) -> None:
        content = encode(Content(snapshot))
        try:
            try:
                own.replace(content)
            except FileNotFoundError:  # nobody made the folder yet, or someone emptied it
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                own.replace(content)
        except OSError as error:
            self._cannot("written to", error)

    # --- the others ---------------------------------------------------------------------------------------------
    def _look(self) -> None:
        """Read what the others say; if that is impossible now, what they said last still stands."""
        try:
            with self._locked():
                self._others = self._read_others()
        except OSError as error:
            self._cannot("read", error)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            lock(descriptor)
            try:
                yield
            finally:
                unlock(descriptor)
        finally:
            os.close(descriptor)

    def _read_others(self) -> Sequence[FamilySnapshot]:
        folded = self._load_folded()
        living: list[Sequence[FamilySnapshot]] = []
        dead: dict[Path, Sequence[FamilySnapshot]] = {}
        gone = set(folded.folded)
        own_path = _own_file(self._folder).path
        seen = {self._folder / _FOLDED}
        for path in sorted(self._folder.glob(f"aiobs-*{_SUFFIX}")):
            if path.name == _FOLDED or path == own_path or path.name in gone:
                continue
            content, is_alive = self._load_sibling(path)
            if content is None:
                continue
            if is_alive:
                living.append(content.families)
            else:
                dead[path] = countable(content.families)
            seen.add(path)
        self._parsed = {path: parsed for path, parsed in self._parsed.items() if path in seen}
        if dead or gone:
            folded = self._fold(folded, dead)
        return added([folded.families, *living])

    def _load_sibling(self, path: Path) -> tuple[Content | None, bool]:
        """What a process says, and whether it lives."""
        while True:
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                return None, False
            except OSError as error:
                self._cannot_use(path, error)
                return None, False
            try:
                is_dead = _is_free(descriptor)
                if is_dead and not _is_at(path, descriptor):
                    continue  # its owner has just replaced it, and let the old one go
                return self._parse(path, descriptor), not is_dead
            finally:
                os.close(descriptor)

    def _load_folded(self) -> Content:
        path = self._folder / _FOLDED
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            return Content([])
        try:
            found = self._parse(path, descriptor)
        finally:
            os.close(descriptor)
        if found is None:  # the next one takes its place, and nobody should miss it by that
            path.replace(path.with_suffix(".damaged"))
        return found or Content([])

    def _parse(self, path: Path, descriptor: int) -> Content | None:
        """What a file says; read to the end only if its first line is another than before."""
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            header = file.readline()
            known = self._parsed.get(path)
            if known is not None and known[0] == header:
                return known[1]
            content: Content | None = None
            try:
                content = decode(header + file.read())
            except ValueError as error:
                self._cannot_use(path, error)
        self._parsed[path] = header, content
        return content

    def _fold(self, folded: Content, dead: dict[Path, Sequence[FamilySnapshot]]) -> Content:
        """Add the dead to the sum, then delete their files; whoever is killed in between has counted none twice."""
        left = [name for name in folded.folded if (self._folder / name).exists()]
        result = Content(
            bounded(added([folded.families, *dead.values()])), [*left, *(path.name for path in dead)]
        )
        unfinished = self._folder / f"{_FOLDED}{_UNFINISHED}"
        unfinished.unlink(missing_ok=True)
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _write_all(descriptor, encode(result))
        finally:
            os.close(descriptor)
        unfinished.replace(self._folder / _FOLDED)
        for name in result.folded:
            (self._folder / name).unlink(missing_ok=True)
        for path in self._folder.glob(f"aiobs-*{_UNFINISHED}"):
            if _is_left_behind(path):
                path.unlink(missing_ok=True)
        return result

    # --- definitions --------------------------------------------------------------------------------------------
    def _known(
        self, families: Sequence[FamilySnapshot], own: Sequence[FamilySnapshot]
    ) -> Sequence[FamilySnapshot]:
        """The families that this process counts in the same way: buckets of others cannot be added to its own."""
        metrics = METRICS | {family.metric.name: family.metric for family in own}
        found = []
        for family in families:
            metric = metrics.get(family.metric.name)
            if metric is not None and definition(metric) == definition(family.metric):
                found.append(FamilySnapshot(metric, family.points))
            else:
                self._health.problem(
                    "metrics.folder_definition",
                    f"aiobs: {self._folder} holds {family.metric.name} as another version of aiobs counts it; it is left "
                    "out of this page. Let all workers of a server run the same version, or give them another folder.",
                )
        return found

    # --- problems -----------------------------------------------------------------------------------------------
    def _cannot(self, what: str, error: OSError) -> None:
        self._health.problem(
            "metrics.folder",
            f"aiobs: the folder of metrics {self._folder} cannot be {what} ({type(error).__name__}: {error}); pages may "
            "lack what the other workers of the server count. All workers have to run as the user that owns the folder "
            "that AIOBS_METRICS_DIR names.",
        )

    def _cannot_use(self, path: Path, error: Exception) -> None:
        self._health.problem(
            "metrics.folder_file",
            f"aiobs: {path} is left out of the page ({type(error).__name__}: {error}). If no process of another version "
            "or user writes it, delete it.",
        )


# --- files ------------------------------------------------------------------------------------------------------


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _is_left_behind(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > _UNFINISHED_S
    except FileNotFoundError:  # finished
        return False


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


if sys.platform == "win32":

    def _is_free(descriptor: int) -> bool:
        return descriptor < 0

else:

    def _is_free(descriptor: int) -> bool:
        """Whether nobody holds the lock of the file; it is held by `descriptor` then."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
