"""Content that others have put together: what of it may be read, part by part, by the mode of each part's own field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from aiobs_core.privacy._json import json_in

if TYPE_CHECKING:
    from aiobs_core.privacy.masker import Count, Masker
    from aiobs_core.privacy.policy import Mode

READABLE: Final = ("masked", "full")
FIELD_OF_ROLE: Final = {
    "system": "system", "developer": "system", "assistant": "completions", "ai": "completions", "tool": "tool_results",
    "function": "tool_results",
}  # fmt: skip
_FIELD_OF_PART: Final = {"arguments": "tool_arguments", "response": "tool_results", "result": "tool_results"}
# What says of a message which kind it is, and nothing of what it says.
_SHAPE: Final = frozenset({"role", "type", "id", "index", "finish_reason"})


def readable(
    value: Any,
    field: str,
    modes: Mapping[str, Mode],
    masker: Masker,
    *,
    count: Callable[[str], Count],
    max_chars: int,
) -> Any:
    """A value as the mode of its field allows, without the parts of it that are of another field that does not.

    Args:
        value: A text, perhaps JSON, or a JSON value: messages with roles and parts, or anything else.
        field: What it is as a whole.
        modes: Of all fields.
        masker: For what is to be masked.
        count: Counts what was masked in a field.
        max_chars: Longest text.

    Returns:
        The value, masked unless all fields in it are `full`; None if nothing of it may be read.
    """
    if modes[field] not in READABLE:
        return None
    parsed = json_in(value) if isinstance(value, str) else None
    given = value if parsed is None else parsed
    met = {modes[field]}
    kept = _kept(given, field, modes, met)
    if met != {"full"}:
        kept = masker.value(kept, count(field), max_chars=max_chars)
    if kept == given:
        return value  # JSON in its own notation
    return kept if parsed is None else json.dumps(kept, ensure_ascii=False)


def _kept(value: Any, field: str, modes: Mapping[str, Mode], met: set[Mode]) -> Any:
    """What of a value may be read; adds to `met` the modes of all fields that it has parts of."""
    if isinstance(value, Mapping):
        field = FIELD_OF_ROLE.get(str(value.get("role")), field)
        found = dict(value)
        for key, item in value.items():
            if key not in _SHAPE or not isinstance(item, (str, int)):
                found[key] = _kept(item, _FIELD_OF_PART.get(key, field), modes, met)
        return {key: item for key, item in found.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [kept for item in value if (kept := _kept(item, field, modes, met)) is not None]
    met.add(modes[field])
    return value if modes[field] in READABLE else None
