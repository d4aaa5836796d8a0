"""Any object as a JSON value, without running its code: `repr` and serialisers can be slow, or say too much."""

from __future__ import annotations

import math
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

_MAX_DEPTH: Final = 12
_MAX_ITEMS: Final = 1_000
_MAX_LEAVES: Final = 2_000  # of one value: what an attribute can show, and the time that masking may take
_MAX_INT: Final = 10**40


def plain(value: object) -> Any:
    """The JSON value of plain data, dataclasses and pydantic models; other objects only say their class.

    Depth and numbers of items are bounded; what is left out is marked. Iterators are never consumed, bytes never shown.
    """
    return _plain(value, 0, [_MAX_LEAVES])


def _plain(value: object, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        return "…"
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        value = value.value
    if type(value) is str or type(value) is int:
        return value if isinstance(value, str) or abs(value) < _MAX_INT else "<large number>"
    if isinstance(value, str):
        return str.__str__(value)  # of a subclass: without code of its own
    if isinstance(value, (int, float)):
        number = float(value)  # of a subclass of int, too, whose repr may be anything
        return number if math.isfinite(number) else str(number)
    if depth >= _MAX_DEPTH:
        return "<deeper>"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if type(value) is dict or isinstance(value, Mapping):
        items = list(value.items())
        found = {_name(key): _plain(item, depth + 1, left) for key, item in items[:_MAX_ITEMS]}
        if len(items) > _MAX_ITEMS:
            found["…"] = f"{len(items) - _MAX_ITEMS} more"
        return found
    if isinstance(value, (list, tuple, set, frozenset)):
        listed = list(value)
        more = [f"…{len(listed) - _MAX_ITEMS} more"] if len(listed) > _MAX_ITEMS else []
        return [_plain(item, depth + 1, left) for item in listed[:_MAX_ITEMS]] + more
    return _object(value, depth, left)


def _name(key: object) -> str:
    return str(key) if isinstance(key, (str, int, float)) else f"<{type(key).__name__}>"


def _object(value: object, depth: int, left: list[int]) -> Any:
    """Public fields of a data class or a pydantic model, read past its properties; else the name of its class."""
    cls = type(value)
    if cls.__name__ in {"SecretStr", "SecretBytes", "Secret"}:  # pydantic's
        return "<CREDENTIAL>"
    names = getattr(cls, "model_fields", None) or getattr(cls, "__dataclass_fields__", None)
    fields = getattr(value, "__dict__", None)
    if isinstance(names, dict) and isinstance(fields, dict):
        return {
            name: _plain(fields[name], depth + 1, left)
            for name in names
            if name in fields and not name.startswith("_")
        }
    return f"<{cls.__name__}>"
