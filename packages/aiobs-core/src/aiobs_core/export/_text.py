"""Text for a terminal: neutralised, measured in columns, cut to fit, and numbers a person can read."""

from __future__ import annotations

import unicodedata
from typing import Final

_LONGEST: Final = 200  # characters of a name that are looked at; no column is wider
_ID_DIGITS: Final = 12  # of a trace id; enough to be unambiguous among 100,000 runs
_MARKS_PER_LETTER: Final = 2  # Thai and Devanagari need two; more is a "zalgo" stack that covers other rows
# Controls (escape sequences, newlines), formats (bidi overrides, zero width), surrogates, unassigned, separators.
_UNPRINTABLE: Final = {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}


def neutralise(text: str, *, encoding: str) -> str:
    """Make a name from outside safe to print: one line, no control or format characters, at most 200 characters.

    Args:
        text: Any text, possibly hostile.
        encoding: What `encoding` cannot write becomes `?`, so that the columns stay where they were measured.
    """
    too_long = len(text) > _LONGEST
    # NFC first: file names from macOS spell Korean in loose letters, which terminals do not put together.
    characters: list[str] = []
    marks = 0
    for character in unicodedata.normalize("NFC", text[:_LONGEST]):
        category = unicodedata.category(character)
        if category in ("Mn", "Me"):
            marks += 1
            if not characters or marks > _MARKS_PER_LETTER:
                continue
        else:
            marks = 0
        characters.append("�" if category in _UNPRINTABLE else " " if category == "Zs" else character)
    clean = "".join(characters).encode(encoding, "replace").decode(encoding, "replace")
    return clean + "..." if too_long else clean


def _character_width(character: str) -> int:
    if character.isascii():
        return 1
    # Vowels and finals of loose Korean letters take no column of their own.
    if unicodedata.category(character) in ("Mn", "Me") or "\u1160" <= character <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1


def display_width(text: str) -> int:
    """Terminal columns that neutralised text takes."""
    return len(text) if text.isascii() else sum(map(_character_width, text))


def cut(text: str, width: int, *, ellipsis: str) -> str:
    """Shorten text to at most `width` columns, its end replaced by `ellipsis` where something is cut."""
    if display_width(text) <= width:
        return text
    room = width - len(ellipsis)
    if room < 0:
        return ellipsis[: max(width, 0)]
    kept: list[str] = []
    for character in text:
        room -= _character_width(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + ellipsis


def duration_text(duration_ns: int) -> str:
    """A duration in nanoseconds as `<0.1ms`, `0.4ms`, `310ms`, `11.87s`, `2m05s` or `1h02m`."""
    if duration_ns < 100_000:
        return "<0.1ms"
    if duration_ns < 9_950_000:
        return f"{duration_ns / 1e6:.1f}ms"
    if duration_ns < 999_500_000:
        return f"{duration_ns / 1e6:.0f}ms"
    if duration_ns < 59_995_000_000:
        return f"{duration_ns / 1e9:.2f}s"
    seconds = round(duration_ns / 1e9)
    if seconds < 3_600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    return f"{seconds // 3_600}h{seconds % 3_600 // 60:02d}m"


def count_text(count: int) -> str:
    """A count as `49`, `1.2k`, `123k` or `1.2M`."""
    if count < 1_000:
        return str(count)
    if count < 99_950:
        return f"{count / 1e3:.1f}k"
    if count < 999_500:
        return f"{count / 1e3:.0f}k"
    return f"{count / 1e6:.1f}M"


def counted(count: int, noun: str) -> str:
    """A count with its noun: `1 span`, `2 spans`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def short_trace_id(trace_id: str) -> str:
    """The first digits of a hexadecimal trace id, as lists and trees print it and `aiobs show` takes it."""
    return trace_id[:_ID_DIGITS]


def money_text(cost_usd: float) -> str:
    """`$0.0042`; with two digits that tell something, where there are more noughts."""
    return f"${cost_usd:.4f}" if cost_usd >= 0.0001 or not cost_usd else f"${cost_usd:.1e}"
