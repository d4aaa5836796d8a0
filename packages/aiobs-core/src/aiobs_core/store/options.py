"""Where commands find the local store."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from aiobs_core.cli import _ENVIRON

if TYPE_CHECKING:
    from aiobs_core._settings import Settings


def add_store_option(parser: argparse.ArgumentParser) -> None:
    """Add `--store`, as all commands on the store have it."""
    parser.add_argument("--store", metavar="DIR", help="folder of the store (default: as AIOBS_STORE says)")


def folder_of(given: str | None, settings: Settings) -> Path | None:
    """Folder of the local store: the one given, else as AIOBS_STORE says; None if it is off."""
    from aiobs_core.store.location import store_folder

    return store_folder(given or settings.store, cwd=Path.cwd(), environ=_ENVIRON)
