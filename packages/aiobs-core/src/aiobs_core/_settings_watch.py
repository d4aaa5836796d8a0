"""Follows the settings file while the process runs: what changes in it is applied within seconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Final

from opentelemetry.context import attach, set_value

from aiobs_core._context import SUPPRESS_KEY
from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core._setting_sources import CONFIG_FILE_VARIABLE, state_of_file, warn_once
from aiobs_core._settings import Settings

CHECK_EVERY_S: Final = 1.0
_log = logging.getLogger("aiobs")


class SettingsWatch:
    """Looks at the file once a second from a thread of its own, and tells what has become different.

    A thread and not the worker: while aiobs is switched off there is no worker, and that is when somebody waits for the
    file to switch it on again. A look is one `stat`; no thread of the application has to do with it.

    A change is taken once the file has stood still from one look to the next, so that it is not read while it is written.
    Only settings that differ from the last reading are told: what code has switched meanwhile stays, and so does all that
    an argument of `configure()` or the environment decides.

    Args:
        path: The file. A link is followed at each look, as a mounted ConfigMap needs it.
        changed: Told the new values by name; may block, and may raise.
        every_s: Seconds from one look to the next.
    """

    def __init__(
        self, path: str, changed: Callable[[Mapping[str, object]], None], *, every_s: float = CHECK_EVERY_S
    ) -> None:
        self.lock = threading.RLock()
        """Held by whoever reads the file and applies what it says."""
        self.path = path
        self._changed = changed
        self._every_s = every_s
        self._overrides: Mapping[str, object] = {}
        self._loaded = Settings()
        self._read = self._seen = state_of_file(path)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def load(self, overrides: Mapping[str, object], *, strict: bool = False) -> Settings:
        """Read everything anew, as `Settings.load` does, and follow the file from there.

        The caller holds `lock` until the settings are applied.
        """
        state = state_of_file(self.path)  # before it is read: what is written meanwhile is a change
        loaded = Settings.load(None, overrides, strict=strict)
        self._read = self._seen = state
        self._loaded, self._overrides = loaded, dict(overrides)
        return loaded

    def start(self) -> None:
        """Look from now on, until `stop`; once is enough."""
        if self._thread is not None or not self.path:
            return
        thread = threading.Thread(target=self._work, name="aiobs-settings", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # out of threads, or the interpreter shuts down
            warn_once(
                f"{CONFIG_FILE_VARIABLE}: {self.path!r} is not followed; no thread could be started ({error})."
            )
            return
        self._thread = thread

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def after_fork_in_child(self) -> None:
        """Look from a thread of this process; the parent's may have been in the middle of anything."""
        self._stop = threading.Event()
        had_thread, self._thread = self._thread is not None, None
        self._read = None  # it may have been read there, and not applied
        if had_thread:
            self.start()

    def look(self) -> None:
        """Look once, and apply what has changed and stood still since the last look."""
        state = state_of_file(self.path)
        if state != self._seen:
            self._seen = state
            return
        if state == self._read:
            return
        with self.lock:
            self._take(state)

    def _take(self, state: tuple[int, int, int, int] | None) -> None:
        self._read = state
        if state is None or not state[1]:
            what = "is gone" if state is None else "is empty"
            warn_once(f"{CONFIG_FILE_VARIABLE}: {self.path!r} {what}; the settings stay as they are.")
            return
        with uninterrupted_by_fork():  # a policy or a price file may have to import its reader
            found = Settings.load(None, self._overrides, before=self._loaded)
        if state_of_file(self.path) != state:  # replaced while it was read: the next look sees another state
            self._read = None
            return
        changes = {
            item.name: value
            for item in fields(Settings)
            if (value := getattr(found, item.name)) != getattr(self._loaded, item.name)
        }
        if changes:
            self._changed(changes)
            self._loaded = found
            _log.info("aiobs: %s changed (%s)", ", ".join(changes), self.path)  # names only: some are secret

    def _work(self) -> None:
        attach(set_value(SUPPRESS_KEY, True))
        stop = self._stop
        while not stop.wait(self._every_s):
            try:
                self.look()
            except BaseException as error:  # noqa: BLE001 (whatever it was, the next change must be seen)
                warn_once(
                    f"{CONFIG_FILE_VARIABLE}: {self.path!r} could not be applied ({type(error).__name__}: {error}); the "
                    "settings stay as they are until it changes again."
                )
