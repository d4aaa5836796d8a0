"""Patterns of sampling rules (`*`, `?`, `[…]`) as regular expressions of RE2, which the Collector has."""

from __future__ import annotations

import re
from typing import Final

_SPECIAL: Final = re.compile(r"([\\.+*?()|\[\]{}^$])")
_NOTHING: Final = r"[^\x00-\x{10FFFF}]"


def is_glob(pattern: str) -> bool:
    """Whether a pattern stands for more than one text."""
    return any(sign in pattern for sign in "*?[")


def re2_of(pattern: str) -> str:
    r"""The regular expression that fits what `fnmatch.fnmatchcase` fits.

    Example:
        >>> re2_of("gpt-4*")
        '(?s)\\Agpt-4.*\\z'
    """
    out, at = [], 0
    while at < len(pattern):
        sign = pattern[at]
        at += 1
        if sign == "*":
            out.append(".*")
        elif sign == "?":
            out.append(".")
        elif sign == "[" and (end := _end_of_set(pattern, at)) is not None:
            out.append(_set(pattern[at:end]))
            at = end + 1
        else:
            out.append(_SPECIAL.sub(r"\\\1", sign))
    return rf"(?s)\A{''.join(out)}\z"


def _end_of_set(pattern: str, start: int) -> int | None:
    """Where the closing bracket is; one that comes first, or after `!`, is of the set."""
    at = start + (pattern[start : start + 1] == "!")
    end = pattern.find("]", at + (pattern[at : at + 1] == "]"))
    return None if end < 0 else end


def _set(inside: str) -> str:
    is_negated = inside.startswith("!")
    body = inside[is_negated:]
    ranges, at = [], 0
    while at < len(body):
        first = last = body[at]
        if body[at + 1 : at + 2] == "-" and at + 2 < len(body):
            last = body[at + 2]
            at += 2
        at += 1
        if first <= last:  # else it is empty, as in Python
            ranges.append(rf"\x{{{ord(first):X}}}-\x{{{ord(last):X}}}")
    if not ranges:
        return "." if is_negated else _NOTHING
    return f"[{'^' if is_negated else ''}{''.join(ranges)}]"
