"""What all detectors share: the shape of a finding, searches that validate, and where digits and long words are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

TAG: Final = re.compile(r"<[A-Z][A-Z_]{1,31}(?::[b-t]{8}| …[^<>\n]{2}| [^<>\n…]{1,4}…[b-t]{8})?>")
"""What stands where a value was."""


class Span(NamedTuple):
    """A stretch of text that a detector found, and the value in the one notation that all its notations share."""

    start: int
    end: int
    value: str


Find = Callable[[str], Iterator[Span]]
"""Finds values in a text, in linear time; never raises for any text."""


def validated(
    pattern: re.Pattern[str], text: str, canonical: Callable[[re.Match[str]], str | None]
) -> Iterator[Span]:
    """Matches that `canonical` accepts; where it refuses one by None, the search goes on one character later."""
    at = 0
    while (match := pattern.search(text, at)) is not None:
        value = canonical(match)
        if value is None:
            at = match.start() + 1
        else:
            yield Span(match.start(), match.end(), value)
            at = match.end()


def matches_at(pattern: re.Pattern[str], text: str, starts: Sequence[int]) -> Iterator[re.Match[str]]:
    """Matches of a pattern that can only begin at one of some places. Overlaps are the caller's business."""
    for start in starts:
        match = pattern.match(text, start)
        if match is not None:
            yield match


def near_before(words: re.Pattern[str], text: str, start: int, *, reach: int = 40) -> bool:
    """Whether one of the words stands shortly before a position; what a tag is called is no word of the text."""
    if "<" not in text[max(0, start - reach) : start]:
        return words.search(text, max(0, start - reach), start) is not None
    return words.search(TAG.sub("<>", text[max(0, start - reach) : start])) is not None


class _Places:
    """Where runs of some characters are, by a table of bytes, which is a hundred times faster than `re`.

    The answer for the last text is kept until `forget_places`: several detectors ask for the same.
    """

    def __init__(self, characters: str, shortest: int) -> None:
        inside = characters.encode()
        self._table = bytes(49 if code in inside else 32 for code in range(256))
        self._run = b"1" * shortest
        self._last: tuple[str, tuple[tuple[int, int], ...]] | None = None

    def of(self, text: str) -> Sequence[tuple[int, int]]:
        last = self._last
        if last is not None and last[0] is text:
            return last[1]
        marks = text.encode("ascii", "replace").translate(self._table)  # any other character is one byte too
        found: list[tuple[int, int]] = []
        size, at = len(marks), marks.find(self._run)
        while at >= 0:
            end = marks.find(b" ", at + 1)
            end = size if end < 0 else end
            found.append((at, end))
            at = marks.find(self._run, end)
        places = tuple(found)
        self._last = (text, places)
        return places

    def forget(self) -> None:
        self._last = None


_DIGITS: Final = _Places("0123456789", 1)
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_TOKENS: Final = _Places(_LETTERS + "+/_-", 16)
_WORDS: Final = _Places(_LETTERS + "+/_-.:=", 12)


def digit_starts(text: str) -> list[int]:
    """Where each run of digits begins."""
    return [start for start, _ in _DIGITS.of(text)]


def long_tokens(text: str) -> Sequence[tuple[int, int]]:
    """Runs of sixteen and more letters, digits and signs of base64, from their first to after their last character."""
    return _TOKENS.of(text)


def long_words(text: str) -> str:
    """Words of twelve and more characters that API keys may consist of, with spaces between."""
    return " ".join([text[start:end] for start, end in _WORDS.of(text)])


def forget_places() -> None:
    """Lets go of the last text."""
    _DIGITS.forget()
    _TOKENS.forget()
    _WORDS.forget()
