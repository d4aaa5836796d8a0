"""Where log lines go: standard streams and files through a loguru logger of aiobs' own, or the application's logging."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core.logs.json_line import as_ascii, json_line

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core._settings import Settings

_STREAMS: Final = ("stdout", "stderr")
_LOGURU_LEVELS: Final = {"DEBUG": "DEBUG", "INFO": "INFO", "WARN": "WARNING", "ERROR": "ERROR"}
# What loguru puts between the name and the ending of a file that it sets aside.
_PUT_ASIDE: Final = r"\.\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_\d{6}(?:\.\d+)?"


class Sink(Protocol):
    """Takes lines, in the order in which they happened to be read. Used by the worker only; may raise anything."""

    def write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Write one line."""

    def close(self) -> None:
        """Let go of what the sink has opened."""


def open_sink(settings: Settings, health: Health) -> Sink | None:
    """The sink that the settings ask for; None for `off`, and where a package is missing."""
    chosen = settings.log
    if chosen == "off":
        return None
    try:
        with uninterrupted_by_fork():
            if chosen in {"logging", "loguru", "structlog"}:
                from aiobs_core.logs.application import application_sink

                return application_sink(chosen)
            return _LoguruSink(settings)
    except Exception as error:  # noqa: BLE001 (a missing or a very different package, a path that is none)
        package = "structlog" if chosen == "structlog" else "loguru"
        health.problem(
            "logs.sink",
            f"aiobs: AIOBS_LOG={chosen!r} cannot be opened ({type(error).__name__}: {error}); no log lines are written. "
            + (
                f"pip install {package}"
                if isinstance(error, ImportError)
                else "The application is not affected."
            ),
        )
        return None


class _LoguruSink:
    """JSON lines through loguru.

    Loguru has one logger for all: a handler there would also have to be kept out of the way of the application's
    `logger.remove()`, and its handlers out of that of our lines. So this makes another logger, as loguru makes its own.
    The way to do so is private (loguru 0.6 to 0.7 have the same); the documented one, a deep copy, fails as soon as the
    application has a handler that cannot be copied, such as the one for stderr that is there from the start.
    """

    def __init__(self, settings: Settings) -> None:
        from loguru import logger

        core = type(logger._core)()  # type: ignore[attr-defined]  # noqa: SLF001 (see above)
        options = logger._options  # type: ignore[attr-defined]  # noqa: SLF001
        make: Any = type(logger)
        self._logger: Any = make(core, *options[:-2], [], {}).opt(raw=True)
        plain: dict[str, Any] = {"level": 0, "format": "{message}", "colorize": False, "diagnose": False}
        # Without `catch`, what a full disk raises comes to us, to be counted, and not to stderr for each line.
        plain.update(backtrace=False, catch=False)
        if settings.log in _STREAMS:
            self._logger.add(partial(_to_stream, settings.log), **plain)
        else:
            self._logger.add(_path(settings.log), **plain, **_file_options(settings))

    def write(self, level: str, event: str, fields: Mapping[str, Any]) -> None:  # noqa: ARG002 (both are fields, too)
        line = f"{json_line(fields)}\n"
        self._logger.log(_LOGURU_LEVELS[level], line)

    def close(self) -> None:
        self._logger.remove()


def _to_stream(name: str, line: str) -> None:
    """The stream of that name now: notebooks, tests and servers put another in its place."""
    stream: TextIO = getattr(sys, name)
    try:
        stream.write(line)
    except UnicodeEncodeError:
        stream.write(as_ascii(line))
    stream.flush()


def _path(given: str) -> str:
    path = str(Path(given.replace("{pid}", str(os.getpid()))).expanduser())
    return path.replace("{", "{{").replace("}", "}}")  # loguru formats it


def _file_options(settings: Settings) -> dict[str, Any]:
    options: dict[str, Any] = {"encoding": "utf-8", "delay": True, "watch": True}
    if settings.log_file_max_bytes:
        options["rotation"] = settings.log_file_max_bytes
        options["retention"] = partial(_keep_newest, Path(_path(settings.log)).name, settings.log_file_count)
    if settings.log_file_compression:
        options["compression"] = settings.log_file_compression
    return options


def _keep_newest(name: str, count: int, found: Sequence[str]) -> None:
    """Delete the oldest files put aside; not others of a similar name, which loguru's own rule would take for them."""
    root, ending = os.path.splitext(name)  # noqa: PTH122 (a name, not a path)
    ours = re.compile(rf"{re.escape(root)}{_PUT_ASIDE}{re.escape(ending)}(?:\.\w+)?")
    aside = sorted(each for each in found if ours.fullmatch(Path(each).name))
    for each in aside[:-count]:
        Path(each).unlink(missing_ok=True)
