"""The level of log lines, which can be switched while the process runs: by settings, by a signal, by a file."""

from __future__ import annotations

import logging
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from aiobs_core._log_settings import log_level
from aiobs_core._setting_sources import read_file, state_of_file, warn_once

if TYPE_CHECKING:
    from aiobs_core._settings import Settings

NUMBERS: Final = {"DEBUG": 10, "INFO": 20, "WARN": 30, "ERROR": 40}
_CHECK_EVERY_S: Final = 2.0
_log = logging.getLogger("aiobs")


class _Switch:
    """What the signal has set; of the process, since a signal is."""

    __slots__ = ("is_debug", "listens_to")

    def __init__(self) -> None:
        self.is_debug = False
        self.listens_to: set[int] = set()


_switch: Final = _Switch()


def switch_level_on(name: str = "SIGUSR2") -> bool:
    """Let a signal switch the level to `DEBUG`, and the next one back to what it was set to.

    For code that sets aiobs up outside of the main thread, or at another time than its first run; else `AIOBS_LOG_SIGNAL`
    does the same. A handler that the application has set before is called, too; one that it sets afterwards takes the
    place of this one.

    Args:
        name: Of the signal, such as `SIGUSR2`.

    Returns:
        Whether the signal is listened to; False outside of the main thread and where code that is not Python's handles it.
    """
    number = getattr(signal, name, None)
    if number is None or threading.current_thread() is not threading.main_thread():
        return False
    if number in _switch.listens_to:
        return True
    before = signal.getsignal(number)
    if before is None:
        return False

    def switch(received: int, frame: Any) -> None:
        _switch.is_debug = not _switch.is_debug
        if callable(before):
            before(received, frame)

    signal.signal(number, switch)
    _switch.listens_to.add(number)
    return True


class LiveLevel:
    """The level in force. `now` is the worker's; `apply` may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._set = NUMBERS[settings.log_level]
        self._file = settings.log_level_file
        self._from_file: int | None = None
        self._seen = state_of_file(self._file) if self._file else None
        self._next_check_s = time.monotonic() + _CHECK_EVERY_S
        if settings.log_signal and not switch_level_on(settings.log_signal):
            warn_once(
                f"AIOBS_LOG_SIGNAL: {settings.log_signal} cannot be listened to from here; call "
                f"aiobs_core.logs.switch_level_on({settings.log_signal!r}) in the main thread."
            )

    def apply(self, settings: Settings) -> None:
        """Use another level from the next run on; it wins over what the file has said before."""
        self._from_file = None
        self._set = NUMBERS[settings.log_level]

    def now(self) -> int:
        """The number of the level, as `logging` counts."""
        if self._file and time.monotonic() >= self._next_check_s:
            self._look_into_file()
        if _switch.is_debug:
            return NUMBERS["DEBUG"]
        return self._set if self._from_file is None else self._from_file

    def _look_into_file(self) -> None:
        self._next_check_s = time.monotonic() + _CHECK_EVERY_S
        state = state_of_file(self._file)
        if state == self._seen:
            return
        self._seen = state
        if state is None:  # in the middle of being replaced, or gone: the level stays
            return
        section = read_file(self._file, {}, [])
        if section is None:
            warn_once(f"{self._file}: cannot be read as TOML; the level of log lines stays as it is.")
            return
        given = section.get("log_level")
        if given is None:
            self._from_file = None
            return
        try:
            self._from_file = NUMBERS[log_level(given)]
        except ValueError as error:
            warn_once(
                f"log_level: expected {error}, got {str(given)[:80]!r} ({self._file}); the level stays as it is."
            )
            return
        _log.info("aiobs: log_level is %s now (%s)", log_level(given), self._file)
