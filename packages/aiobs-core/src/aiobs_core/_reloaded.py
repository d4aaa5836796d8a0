"""What is made of files, and made anew when one of them changes: certificates, keys, header secrets."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar, final

_Made = TypeVar("_Made")
Signature = tuple[tuple[int, ...] | None, ...]

LOOK_EVERY_S: Final = 1.0
_ATTEMPTS: Final = 5


@final
class Reloaded(Generic[_Made]):
    """Makes something of files, and makes it again when one of them was changed, replaced or linked elsewhere.

    A rotation writes several files, one after the other, so a new version that cannot be used leaves the old one in use,
    and is tried again with each look. The files are looked at when the value is asked for, at most once a second: a look
    is one `stat` each. It follows links, so it sees a Kubernetes volume whose `..data` was swapped.

    For one thread: that of the exporter or server which owns it.

    Args:
        paths: Of the files; one that is missing is a state as any other.
        make: Reads them; raises OSError or ValueError if they cannot be used.
        unusable: Told of a new version that cannot be used, and with what error.
        clock: Seconds from any instant on.

    Attributes:
        version: Grows with each value that was made.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        make: Callable[[], _Made],
        *,
        unusable: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = [Path(path).expanduser() for path in paths if path]
        self._make = make
        self._unusable = unusable
        self._clock = clock
        self._value: _Made | None = None
        self._made_of: Signature = ()
        self._look_at_s = 0.0
        self.version = 0

    def get(self) -> _Made:
        """The newest value that could be made.

        Raises:
            OSError: If there is none yet, and a file cannot be read.
            ValueError: If there is none yet, and a file has no such value in it.
        """
        now_s = self._clock()
        if self._value is not None and now_s < self._look_at_s:
            return self._value
        self._look_at_s = now_s + LOOK_EVERY_S
        if self._value is not None and signature_of(self._paths) == self._made_of:
            return self._value
        try:
            return self._renew()
        except (OSError, ValueError) as error:
            if self._value is None:
                raise
            self._unusable(error)
            return self._value

    def look_again(self) -> None:
        """Look at the files when the value is next asked for: something has just not worked with this one."""
        self._look_at_s = 0.0

    def _renew(self) -> _Made:
        for _ in range(_ATTEMPTS):
            before = signature_of(self._paths)
            made = self._make()
            if signature_of(self._paths) == before:  # else the files were of two versions
                self._value, self._made_of = made, before
                self.version += 1
                return made
        raise ValueError("the files change while they are read")


def signature_of(paths: Sequence[Path]) -> Signature:
    """What is another after one of the files was changed, replaced or linked elsewhere: one `stat` each."""
    return tuple([_signature(path) for path in paths])


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    # With the time of the last change of its rights: a file that could not be read becomes readable by it.
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
