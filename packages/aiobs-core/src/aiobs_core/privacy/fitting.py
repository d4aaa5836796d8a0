"""JSON that fits an attribute: shortened so that it stays JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

_SHORTEST: Final = 64


def fitted(value: Any, max_chars: int) -> str:
    """The JSON text of a value that is masked already; texts in it are cut, items left out, until it fits."""
    text = _json(value)
    shortest = max_chars // 2
    while len(text) > max_chars and shortest >= _SHORTEST:
        value = _shortened(value, shortest)
        text = _json(value)
        shortest //= 4
    return text if len(text) <= max_chars else _json({"omitted_chars": len(text)})


def fitted_messages(messages: Sequence[dict[str, Any]], max_chars: int) -> str:
    """The same for messages: the first and the last ones stay, those between are left out first, with a mark."""
    encoded = [_json(message) for message in messages]
    total = sum(map(len, encoded)) + 2 * len(encoded)
    if total <= max_chars:
        return "[" + ", ".join(encoded) + "]"
    kept, left, last = list(messages), 0, len(messages) - 1
    at = 1
    while total > max_chars and at < last:
        total -= len(encoded[at]) + 2
        left += 1
        at += 1
    if left:
        mark = {"role": "system", "parts": [{"type": "omitted", "messages": left}]}
        kept = [messages[0], mark, *messages[1 + left :]]
    return fitted(kept, max_chars)


def _shortened(value: Any, max_chars: int) -> Any:
    if isinstance(value, str):
        if len(value) <= max_chars:
            return value
        head = value[:max_chars]
        begin = head.rfind("<", max(0, len(head) - 48))
        if begin >= 0 and ">" not in head[begin:]:  # half of a tag
            head = head[:begin]
        return f"{head}…[{len(value) - len(head)} more characters]"
    if isinstance(value, dict):
        return {key: _shortened(item, max_chars) for key, item in value.items()}
    if isinstance(value, list):
        most = max(8, max_chars // 8)
        more = [f"…{len(value) - most} more"] if len(value) > most else []
        return [_shortened(item, max_chars) for item in value[:most]] + more
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
