"""JSON that fits an attribute: shortened so that it stays JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

_MIN_TEXT_CHARS: Final = 64
_MAX_TAG_CHARS: Final = 48  # of what the masker puts in the place of a value


def fitted(value: Any, max_chars: int) -> str:
    """The JSON text of a value that is masked already; texts in it are cut, items left out, until it fits.

    Args:
        value: As `plain` makes it.
        max_chars: Of the JSON text. What does not fit even when its texts are short is left out, and counted.
    """
    text = _json(value)
    longest_text_chars = max_chars // 2
    while len(text) > max_chars and longest_text_chars >= _MIN_TEXT_CHARS:
        value = _shortened(value, longest_text_chars)
        text = _json(value)
        longest_text_chars //= 4
    return text if len(text) <= max_chars else _json({"omitted_chars": len(text)})


def fitted_messages(messages: Sequence[dict[str, Any]], max_chars: int) -> str:
    """The same for messages: the first and the last one stay; of those between, the older are left out first.

    One message with the number of those left out stands in their place.
    """
    encoded = [_json(message) for message in messages]
    size_chars = sum(map(len, encoded)) + 2 * len(encoded)  # with brackets and commas
    if size_chars <= max_chars:
        return "[" + ", ".join(encoded) + "]"
    omitted_count = 0
    while size_chars > max_chars and omitted_count < len(messages) - 2:
        omitted_count += 1
        size_chars -= len(encoded[omitted_count]) + 2
    if omitted_count == 0:
        return fitted(list(messages), max_chars)
    gone = messages[1 : 1 + omitted_count]
    mark = {"role": "system", "parts": [{"type": "omitted", "messages": sum(map(_stands_for, gone))}]}
    return fitted([messages[0], mark, *messages[1 + omitted_count :]], max_chars)


def _stands_for(message: Mapping[str, Any]) -> int:
    """How many messages one is: a mark stands for those that were left out before it was masked."""
    return sum(part.get("messages", 0) for part in message["parts"] if part["type"] == "omitted") or 1


def cut_mark(left_out_chars: int) -> str:
    """What stands at the end of a text that was cut."""
    return f"…[{left_out_chars} more characters]"


def without_half_tag(head: str) -> str:
    """The beginning of a masked text, without the tag that its end has cut in two."""
    begin = head.rfind("<", max(0, len(head) - _MAX_TAG_CHARS))
    return head if begin < 0 or ">" in head[begin:] else head[:begin]


def _shortened(value: Any, max_chars: int) -> Any:
    if isinstance(value, str):
        if len(value) <= max_chars:
            return value
        head = without_half_tag(value[:max_chars])
        return head + cut_mark(len(value) - len(head))
    if isinstance(value, dict):
        return {key: _shortened(item, max_chars) for key, item in value.items()}
    if isinstance(value, list):
        most = max(8, max_chars // 8)
        more = [f"…{len(value) - most} more"] if len(value) > most else []
        return [_shortened(item, max_chars) for item in value[:most]] + more
    return value


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
