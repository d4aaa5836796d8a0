"""The terminal while `aiobs top` has it: a screen of its own, and keys that are read as they are pressed."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Final, TextIO

# The other screen, without a cursor; leaving it brings back what was on the first one.
_ENTER: Final = "\x1b[?1049h\x1b[?25l"
_LEAVE: Final = "\x1b[?25h\x1b[?1049l"
_HOME: Final = "\x1b[H"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"


class Screen:
    """Shows text in the place of the last one, and waits for keys. Made by `opened`.

    Args:
        out: The terminal.
        keys: Descriptor of the terminal that is typed into; None where keys cannot be read one by one.
    """

    def __init__(self, out: TextIO, keys: int | None) -> None:
        self._out = out
        self._keys = keys

    def show(self, text: str) -> None:
        """Show a text that has no more lines than the terminal."""
        lines = text.split("\n")
        # Over the last one, not after erasing it: that would flicker.
        self._out.write(_HOME + "\n".join(f"{line}{_REST_OF_LINE}" for line in lines) + _REST_OF_SCREEN)
        self._out.flush()

    def is_left(self, within_s: float) -> bool:
        """Wait, but not longer than until somebody types `q`."""
        deadline_s = time.monotonic() + within_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            if self._keys is None:
                time.sleep(left_s)
            elif select.select([self._keys], [], [], left_s)[0]:
                typed = os.read(self._keys, 64)
                if b"q" in typed.lower():
                    return True
                if not typed:  # the terminal is gone
                    self._keys = None
        return False


@contextmanager
def opened(out: TextIO) -> Iterator[Screen]:
    """The screen of a terminal, which is as it was before when the block is left, by whichever way.

    Args:
        out: A terminal.
    """
    with ExitStack() as undo:
        keys = _typed_into(undo)
        undo.enter_context(_ended_by_signal())
        undo.callback(_write, out, _LEAVE)
        _write(out, _ENTER)
        yield Screen(out, keys)


def _write(out: TextIO, text: str) -> None:
    try:
        out.write(text)
        out.flush()
    except OSError:  # the terminal is gone
        pass


def _typed_into(undo: ExitStack) -> int | None:
    """Descriptor of standard input, which then gives each key at once; None if it is no terminal, or on Windows."""
    if sys.platform == "win32" or not sys.stdin.isatty():
        return None
    import termios
    import tty

    keys = sys.stdin.fileno()
    before = termios.tcgetattr(keys)
    undo.callback(termios.tcsetattr, keys, termios.TCSADRAIN, before)
    tty.setcbreak(keys)  # Ctrl-C still interrupts
    return keys


@contextmanager
def _ended_by_signal() -> Iterator[None]:
    """A SIGTERM, as of `timeout`, ends the block like an exit does, so that the terminal is put right."""

    def end(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
