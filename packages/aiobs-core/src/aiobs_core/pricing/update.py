# ruff: noqa: T201 - commands print
"""`aiobs prices update`: how old the price table is, and a newer one from a file or an address that the user names."""

from __future__ import annotations

import argparse
import json
import os
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from aiobs_core._errors import AiobsError
from aiobs_core.cli import SubParsers
from aiobs_core.pricing.location import as_of, installed_file, newest_table
from aiobs_core.pricing.table import BUNDLED, Table, check_table

_MAX_BYTES: Final = 20_000_000
_TIMEOUT_S: Final = 30


def add_update(commands: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `update`.

    Args:
        commands: argparse's sub-parsers of `aiobs prices`.
    """
    update = commands.add_parser(
        "update",
        help="say how old the price table is, or install a newer one",
        description="Without an option, say how old the price table is. Nothing is ever fetched unless --url is given. A "
        "table is checked, row by row, before it is installed; a newer release of aiobs-core brings a newer table too.",
    )
    where = update.add_mutually_exclusive_group()
    where.add_argument("--from", dest="file", metavar="FILE", help="a prices.json")
    where.add_argument("--url", metavar="URL", help="fetch a prices.json from there (https)")
    update.set_defaults(run=_update)


def _update(arguments: argparse.Namespace) -> int:
    current = newest_table().as_of
    days = (datetime.now(timezone.utc).date() - date.fromisoformat(current)).days
    where = BUNDLED if as_of(BUNDLED) == current else installed_file()
    print(f"The price table is of {current}, {days} days ago: {where}")
    if arguments.file is None and arguments.url is None:
        print("Install a newer one with --from FILE or --url URL, or update aiobs-core.")
        return 0
    origin = arguments.file or arguments.url
    raw = Path(arguments.file).read_bytes() if arguments.file else _fetched(arguments.url)
    found = _checked(raw, origin)
    if found.as_of <= current:
        raise AiobsError(f"{origin} is of {found.as_of} and not newer; nothing was installed.")
    _install(raw, installed_file())
    print(f"Installed the table of {found.as_of}: {installed_file()}")
    return 0


def _checked(raw: bytes, origin: str) -> Table:
    try:
        data: Any = json.loads(raw, parse_float=Decimal)
        table = Table(data)
        check_table(table)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AiobsError(
            f"{origin} is no price table ({type(error).__name__}: {error}); nothing was installed."
        ) from None
    return table


def _fetched(url: str) -> bytes:
    from urllib.request import urlopen

    parts = urlsplit(url)
    is_local = parts.hostname in {"127.0.0.1", "::1", "localhost"}
    if parts.scheme != "https" and not (parts.scheme == "http" and is_local):
        raise AiobsError(
            f"--url: expected an address that begins with https://, got {url!r}; nothing was fetched."
        )
    with urlopen(url, timeout=_TIMEOUT_S) as response:  # noqa: S310 (the scheme was looked at)
        raw: bytes = response.read(_MAX_BYTES + 1)
    if len(raw) > _MAX_BYTES:
        raise AiobsError(
            f"{url} has more than {_MAX_BYTES} bytes, which no price table has; nothing was installed."
        )
    return raw


def _install(raw: bytes, path: Path) -> None:
    """Write beside and rename, so that no process ever reads half a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    beside.write_bytes(raw)
    beside.replace(path)
