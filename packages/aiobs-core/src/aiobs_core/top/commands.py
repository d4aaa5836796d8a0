# ruff: noqa: T201 - commands print
"""The command `aiobs top`."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from aiobs_core._errors import AiobsError
from aiobs_core.cli import SubParsers, _print_json

if TYPE_CHECKING:
    from aiobs_core.top.sources import Reading

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600}
_SORTS: Final = ("calls", "errors", "p95", "tokens", "cost", "name")
_CLEAR: Final = "\x1b[H\x1b[2J"


class _Source(Protocol):
    def read(self) -> Reading:
        """What happened in the window."""


def add_commands(commands: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `top`."""
    top = commands.add_parser(
        "top",
        help="a live table of requests, errors, latency, tokens and dollars by model",
        description="A live table by model, from the local store, or from the metrics page of a running program. Ctrl-C leaves.",
    )
    where = top.add_mutually_exclusive_group()
    where.add_argument("--store", metavar="DIR", help="folder of the store (default: as AIOBS_STORE says)")
    where.add_argument("--url", type=_url, help="metrics page, such as http://localhost:9464/metrics")
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
    else:
        from aiobs_core.top.table import plain

        print(plain(reading, sort=arguments.sort, encoding=sys.stdout.encoding or "utf-8"))
    return 0


def _source(arguments: argparse.Namespace) -> _Source:
    from aiobs_core._settings import Settings
    from aiobs_core.store.commands import folder_of
    from aiobs_core.top.sources import FromPage, FromStore

    if arguments.url:
        return FromPage(arguments.url, window_s=arguments.window)
    folder: Path | None = folder_of(arguments.store, Settings.load())
    if folder is None:
        raise AiobsError(
            "AIOBS_STORE is `off`; name the folder of a store with --store, or a metrics page with --url."
        )
    return FromStore(folder, window_s=arguments.window)


def _live(source: _Source, arguments: argparse.Namespace) -> int:
    reading = source.read()  # what is wrong from the start is said, and ends it
    last_s, trouble = time.monotonic(), ""
    with _screen(arguments.sort) as show:
        while True:
            show(reading, trouble and f"{trouble} Shown: of {time.monotonic() - last_s:.0f} s ago.")
            time.sleep(arguments.interval)
            try:
                reading, last_s, trouble = source.read(), time.monotonic(), ""
            except AiobsError as error:
                trouble = str(error)


@contextmanager
def _screen(sort: str) -> Iterator[Callable[[Reading, str], None]]:
    """Shows a reading, and a line below it, in the place of the last one."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        from rich.console import Group
        from rich.live import Live
        from rich.text import Text
    except ImportError:
        from aiobs_core.top.table import plain

        def redraw(reading: Reading, below: str) -> None:
            print(
                f"{_CLEAR}{plain(reading, sort=sort, encoding=encoding)}\n\n{below or _about(reading)}",
                flush=True,
            )

        yield redraw
        return
    from aiobs_core.top.table import rich_table

    with Live(auto_refresh=False, screen=True) as live:

        def show(reading: Reading, below: str) -> None:
            parts: list[Any] = [
                rich_table(reading, sort=sort, encoding=encoding),
                Text(),
                Text(below or _about(reading), style="dim"),
            ]
            live.update(Group(*parts), refresh=True)

        yield show


def _about(reading: Reading) -> str:
    if not reading.rows:
        return "Waiting for the second look at the page; Ctrl-C leaves."
    return f"Of the last {reading.window_s:.0f} s; Ctrl-C leaves."
