"""Files beside the local store for content that is too long for an attribute: whole, and masked by the same rules."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

CONTENT_FOLDER: Final = "content"
MAX_CHARS: Final = 10_000_000  # of one text


def is_longer(value: Any, max_chars: int) -> bool:
    """Whether a text in a JSON value is longer than that; keys and the JSON as a whole do not count."""
    if isinstance(value, str):
        return len(value) > max_chars
    if isinstance(value, Mapping):
        return any(is_longer(item, max_chars) for item in value.values())
    return isinstance(value, (list, tuple)) and any(is_longer(item, max_chars) for item in value)


def put_aside(folder: Path, name: str, content: Mapping[str, Any]) -> str:
    """Write the content attributes of one span as JSON into a file for its owner only.

    Args:
        folder: The store's.
        name: Of the file, without its ending: unique for the span, and safe to be part of a path.
        content: Attributes, masked.

    Returns:
        The file's path below the store's folder, which `aiobs erase` and retention delete with the span's trace.

    Raises:
        OSError: If it cannot be written.
    """
    target = folder / CONTENT_FOLDER / f"{name}.json"
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = target.with_suffix(".tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        json.dump(dict(content), file, ensure_ascii=False)
    draft.replace(target)
    return f"{CONTENT_FOLDER}/{target.name}"
