# ruff: noqa: T201 - commands print
"""The command `aiobs top`."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from aiobs_core._errors import AiobsError
from aiobs_core.cli import SubParsers, _print_json, _safe

if TYPE_CHECKING:
    from aiobs_core.top.sources import Reading

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600}
_SORTS: Final = ("calls", "errors", "p50", "p95", "tokens", "cost", "name")  # the keys of `table.SORTS`
_LEAST_ROOM: Final = 3  # headings, requests and one model


class _Source(Protocol):
    def read(self) -> Reading:
        """What happened in the window."""


def add_commands(commands: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `top`."""
    top = commands.add_parser(
        "top",
        help="a live table of requests, errors, latency, tokens and dollars by model",
        description="A live table by model, from the local store, or from the metrics page of a running program. `q` leaves.",
    )
    where = top.add_mutually_exclusive_group()
    where.add_argument("--store", metavar="DIR", help="folder of the store (default: as AIOBS_STORE says)")
    where.add_argument("--url", type=_url, help="metrics page, such as http://localhost:9464/metrics")
    top.add_argument("--ca", metavar="FILE", default="", help="of --url: authority of the page's certificate")
    top.add_argument(
        "--cert", metavar="FILE", default="", help="of --url: a certificate of your own, if it wants one"
    )
    top.add_argument("--key", metavar="FILE", default="", help="of --url: the key of that certificate")
    top.add_argument(
        "--window",
        type=_duration_s,
        default=300.0,
        metavar="TIME",
        help="of how long: 90s, 5m, 1h (default: 5m)",
    )
    top.add_argument(
        "--interval", type=_duration_s, default=2.0, metavar="TIME", help="between two looks (default: 2s)"
    )
    top.add_argument("--sort", choices=_SORTS, default="calls", help="column to sort by (default: calls)")
    top.add_argument(
        "--once", action="store_true", help="print one table and end; also where there is no terminal"
    )
    top.add_argument("--json", action="store_true", help="one JSON object and end")
    top.set_defaults(run=_top)


def _url(text: str) -> str:
    if re.match(r"https?://[^/]+", text):
        return text
    raise argparse.ArgumentTypeError(f"expected http:// or https:// and a host, got {text[:80]!r}")


def _duration_s(text: str) -> float:
    matched = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    duration_s = float(matched[1]) * _UNITS_S[matched[2] or "s"] if matched else 0.0
    if 0.1 <= duration_s <= 86_400:
        return duration_s
    raise argparse.ArgumentTypeError(f"expected a time such as 2s, 5m or 1h, up to a day, got {text[:80]!r}")


def _top(arguments: argparse.Namespace) -> int:
    source = _source(arguments)
    if not (arguments.once or arguments.json) and sys.stdout.isatty():
        return _live(source, arguments)
    reading = source.read()
    if arguments.url:
        time.sleep(arguments.interval)  # a page has counters: it takes two looks to see what happens
        reading = source.read()
    if arguments.json:
        _print_json({"window_s": reading.window_s, "rows": [row._asdict() for row in reading.rows]})
        return 0
    from aiobs_core.top.table import lines_of, plain, remarks

    said = remarks(reading)
    if not any(row.calls for row in reading.rows):
        longer = (
            "a longer --interval waits for more" if arguments.url else "a longer --window looks further back"
        )
        said.append(f"nothing ran in this time, {longer}")
    lines = lines_of(reading, sort=arguments.sort, encoding=sys.stdout.encoding or "utf-8")
    print(plain(lines, f"{'; '.join(said)}."))
    return 0


def _source(arguments: argparse.Namespace) -> _Source:
    from aiobs_core._settings import Settings
    from aiobs_core.store.options import folder_of
    from aiobs_core.top.sources import FromStore

    if arguments.url:
        from functools import partial

        from aiobs_core.top.page import FromPage, PageFiles, fetch_page

        files = PageFiles(arguments.ca, arguments.cert, arguments.key)
        return FromPage(arguments.url, window_s=arguments.window, fetch=partial(fetch_page, files=files))
    folder: Path | None = folder_of(arguments.store, Settings.load())
    if folder is None:
        raise AiobsError(
            "AIOBS_STORE is `off`; name the folder of a store with --store, or a metrics page with --url."
        )
    return FromStore(folder, window_s=arguments.window)


# --- live ---------------------------------------------------------------------------------------------------------------


def _live(source: _Source, arguments: argparse.Namespace) -> int:
    from aiobs_core.top.screen import opened

    reading: Reading | None = None
    read_s = 0.0
    with opened(sys.stdout) as screen:
        while True:
            try:
                reading, read_s, trouble = source.read(), time.monotonic(), ""
            except AiobsError as error:  # a program that is not there yet, or is started anew
                trouble = str(error)
            said = _trouble(trouble, reading, time.monotonic() - read_s) if trouble else ""
            screen.show(_frame(reading, said, sort=arguments.sort))
            if screen.is_left(arguments.interval):
                return 0


def _trouble(what: str, reading: Reading | None, age_s: float) -> str:
    age = f"; the table is {age_s:.0f} s old" if reading is not None and reading.rows else ""
    return f"{_safe(what, sys.stdout)} Trying again{age}; q leaves."


def _frame(reading: Reading | None, trouble: str, *, sort: str) -> str:
    """What a screen of the terminal's size shows: the table, and what is to be known of it."""
    from aiobs_core.top.table import coloured, lines_of, plain

    width, height = shutil.get_terminal_size()
    lines, below = [], trouble or "Waiting for the second look at the page; q leaves."
    if reading is not None and reading.rows:
        below = trouble or _footer(reading, hidden=len(reading.rows))  # as long as it can be
        room = max(height - 1 - len(textwrap.wrap(below, width)), _LEAST_ROOM)
        encoding = sys.stdout.encoding or "utf-8"
        lines = lines_of(reading, sort=sort, encoding=encoding, width=width, height=room)
        below = trouble or _footer(reading, hidden=len(reading.rows) + 1 - len(lines))
    wrapped = "\n".join(textwrap.wrap(below, width))
    try:
        text = coloured(lines, wrapped, width=width)
    except ImportError:
        text = plain(lines, wrapped, width=width)
    return "\n".join(text.split("\n")[:height])


def _footer(reading: Reading, *, hidden: int) -> str:
    from aiobs_core.top.table import remarks

    return "; ".join([*remarks(reading, hidden=hidden), "q leaves."])
