"""Which table is read: the one in the package, or a newer one that the user installed."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Final

from aiobs_core.pricing.table import BUNDLED, Table, check_table, read_table
from aiobs_core.store.location import user_data_folder

_log = logging.getLogger("aiobs")
_AS_OF: Final = re.compile(rb'"as_of":\s*"(\d{4}-\d\d-\d\d)"')
_HEAD_BYTES: Final = 4096


def installed_file() -> Path:
    """Where `aiobs prices update` puts a table; it need not exist."""
    return user_data_folder(os.environ) / "aiobs" / "prices.json"  # noqa: TID251 (a convention of the platform, no setting)


def newest_table() -> Table:
    """The installed table if it is newer than that of the package and whole, else that of the package."""
    try:
        path = installed_file()
        if as_of(path) > as_of(BUNDLED):
            table = read_table(path)
            check_table(table)
            return table
    except FileNotFoundError:
        pass
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: no home folder
        _log.warning("The installed price table cannot be used (%s); the one of the package is.", error)
    return read_table(BUNDLED)


def as_of(path: Path) -> str:
    """The day of a table, ISO, read from its head alone; empty if there is none.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        found = _AS_OF.search(file.read(_HEAD_BYTES))
    return found[1].decode() if found else ""
