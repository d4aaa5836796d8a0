"""JSON that stands in a text."""

from __future__ import annotations

import json
from typing import Any


def json_in(text: str) -> Any:
    """The object or list that a text is in JSON; None for any other text."""
    if len(text) < 2 or text[0] not in "{[ \n\r\t" or text[-1] not in "}] \n\r\t":
        return None
    text = text.strip()
    if not (text[:1] in {"{", "["} and text[-1:] in {"}", "]"}):
        return None
    try:
        return json.loads(text, object_pairs_hook=_only_pairs)
    except (ValueError, RecursionError):
        return None


def _only_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of two values under one key, a dict would hide the first one, which is in the text all the same."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found
