"""A lock on a file that processes share, for as long as one line takes."""

from __future__ import annotations

import os
import sys
import time
from typing import Final

_PATIENCE_S: Final = 2.0

if sys.platform == "win32":
    import msvcrt

    def lock(fd: int, how: int = msvcrt.LK_LOCK) -> None:
        os.lseek(fd, 0x7FFF0000, os.SEEK_SET)  # far beyond the end: Windows lets no one read what is locked
        msvcrt.locking(fd, how, 1)

    def unlock(fd: int) -> None:
        lock(fd, msvcrt.LK_UNLCK)

else:
    import fcntl

    def lock(fd: int) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:  # with an end: a process that was stopped in the middle of an append keeps the lock
            try:
                return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"another process has kept it locked for {_PATIENCE_S:g} s") from None
                time.sleep(0.005)

    def unlock(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_UN)
