"""Where the outbox lies, and what may be said of where its spans go."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from aiobs_core.store.location import store_folder


def outbox_folder(setting: str, *, cwd: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Folder of the outbox; it need not exist, and is not made here.

    Args:
        setting: `off`, a folder, or `auto`: that of the local store, whether that is used or not.
        cwd: The project's folder; None: it is gone.
        environ: Variables that name the user's folders.

    Returns:
        The folder, or None for `off`, and where no folder can be found.
    """
    if setting == "off" or (cwd is None and setting == "auto" and not environ.get("HOME")):
        return None
    try:
        return store_folder(setting, cwd=cwd or Path("/"), environ=environ)
    except (OSError, RuntimeError):  # there is no home
        return None


def place_of(endpoint: str) -> str:
    """Host and port of an endpoint, without what may be secret in it."""
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        return f"{parts.hostname or 'localhost'}{f':{parts.port}' if parts.port else ''}"
    except ValueError:
        return "?"
