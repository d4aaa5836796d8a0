"""Views of a text in which detectors see through disguises, each with the way back to the text itself.

Full-width digits, look-alike letters and unusual dashes become plain ASCII; zero-width characters vanish; percent
encoding, escapes of JSON and character references of HTML are decoded, layer by layer.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

_LOOK_ALIKES: Final = {
    # Cyrillic and Greek letters that look like Latin ones: https://www.unicode.org/Public/security/latest/confusables.txt
    "а": "a", "е": "e", "о": "o", "р": "p", "с": "c", "у": "y", "х": "x", "і": "i", "ј": "j", "ѕ": "s", "һ": "h",
    "ԁ": "d", "ԛ": "q", "ԝ": "w", "к": "k", "м": "m", "т": "t", "в": "b", "н": "h", "ո": "n", "ѵ": "v", "ɡ": "g",
    "ɑ": "a", "ı": "i", "ⅼ": "l", "ο": "o", "α": "a", "ν": "v", "ρ": "p", "ι": "i", "υ": "u", "κ": "k", "τ": "t",
    "А": "A", "В": "B", "Е": "E", "К": "K", "М": "M", "Н": "H", "О": "O", "Р": "P", "С": "C", "Т": "T", "Х": "X",
    "І": "I", "Ј": "J", "Ѕ": "S", "Ү": "Y", "Α": "A", "Β": "B", "Ε": "E", "Ζ": "Z", "Η": "H", "Ι": "I", "Κ": "K",
    "Μ": "M", "Ν": "N", "Ο": "O", "Ρ": "P", "Τ": "T", "Υ": "Y", "Χ": "X",
}  # fmt: skip
_DASHES: Final = "‐‑‒–—―−﹣－"
_SPACES: Final = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_DOTS: Final = "。．｡․"
_DIGIT_ZEROS: Final = (
    0x0660,
    0x06F0,
    0x0966,
    0x09E6,
    0x0E50,
    0xFF10,
    0x1D7CE,
    0x1D7D8,
    0x1D7E2,
    0x1D7EC,
    0x1D7F6,
)
_TO_ASCII: Final[dict[int, str]] = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width forms
    **{ord(each): ascii_ for each, ascii_ in _LOOK_ALIKES.items()},
    **dict.fromkeys(map(ord, _DASHES), "-"),
    **dict.fromkeys(map(ord, _SPACES), " "),
    **dict.fromkeys(map(ord, _DOTS), "."),
    **{zero + digit: str(digit) for zero in _DIGIT_ZEROS for digit in range(10)},
    0xFE6B: "@",
}
_INVISIBLE: Final = (
    "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff"
)
_HIDDEN: Final = re.compile(f"[{_INVISIBLE}]")
_FOLDED: Final = {
    **{chr(code): ascii_ for code, ascii_ in _TO_ASCII.items()},
    **{chr(code): "" for code in range(0x10000) if _HIDDEN.match(chr(code))},
}
_DISGUISES: Final = frozenset(_FOLDED)
_NAMED: Final = {
    "amp": "&", "quot": '"', "apos": "'", "lt": "<", "gt": ">", "nbsp": " ", "commat": "@", "period": ".", "colon": ":",
    "hyphen": "-", "dash": "-", "lowbar": "_", "plus": "+", "sol": "/", "equals": "=",
}  # fmt: skip
_ENCODED: Final = re.compile(
    r"(?:%[0-9A-Fa-f]{2})+|(?:\\u[0-9A-Fa-f]{4})+|(?:\\x[0-9A-Fa-f]{2})+|\\[nrt/\"'\\]"
    rf"|&#(?:\d{{2,7}}|[xX][0-9A-Fa-f]{{2,6}});|&(?:{'|'.join(_NAMED)});"
)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t"}
_MAX_LAYERS: Final = 4  # JSON in JSON in JSON, in a text that was cut and cannot be parsed any more


class View(NamedTuple):
    """A text as detectors read it.

    Attributes:
        text: What they read.
        origins: For each of its characters, and for its end, the position in the text that it was made from; None if
            they are the same.
    """

    text: str
    origins: list[int] | None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Where a stretch of the view lies in the text that it was made from."""
        if self.origins is None or start >= end:
            return start, end
        return self.origins[start], self.origins[end]


def views(text: str) -> list[View]:
    """The readings of a text, the plainest first; nearly always there is only one, and it is the text itself."""
    view = View(text, None)
    if not text.isascii() and not _DISGUISES.isdisjoint(text):
        view = _without_hidden(text.translate(_TO_ASCII))  # one character for one: positions stay
    found = [view]
    while len(found) <= _MAX_LAYERS and ("%" in view.text or "\\" in view.text or "&" in view.text):
        decoded = _decoded(view)
        if decoded is None:
            break
        view = decoded
        found.append(view)
    return found


def _without_hidden(text: str) -> View:
    if not _HIDDEN.search(text):
        return View(text, None)
    kept = [at for at, character in enumerate(text) if not _HIDDEN.match(character)]
    return View("".join([text[at] for at in kept]), [*kept, len(text)])


def _decoded(view: View) -> View | None:
    """What a view says with one layer of encoding taken off; None if there is none."""
    text, before = view
    parts: list[str] = []
    origins: list[int] = []
    at = 0
    for match in _ENCODED.finditer(text):
        start = match.start()
        parts.append(text[at:start])
        origins.extend(range(at, start))
        for character, position in _meaning(match[0], start):
            folded = _FOLDED.get(character, character)
            if folded:
                parts.append(folded)
                origins.append(position)
        at = match.end()
    if at == 0:
        return None
    parts.append(text[at:])
    origins.extend(range(at, len(text) + 1))
    return View("".join(parts), origins if before is None else [before[origin] for origin in origins])


def _meaning(encoded: str, start: int) -> list[tuple[str, int]]:
    """The characters that a match stands for, and where each begins."""
    if encoded[0] == "%":
        return _of_bytes(unquote_to_bytes(encoded), start, 3)
    if encoded[0] == "&":
        name = encoded[1:-1]
        if name[0] != "#":
            return [(_NAMED[name], start)]
        code = int(f"0{name[1:]}", 0) if name[1] in "xX" else int(name[1:])
        return [(chr(code) if code < 0x110000 else "?", start)]
    if encoded[1] == "u" and len(encoded) > 2:
        return _of_units([int(digits, 16) for digits in encoded[2:].split("\\u")], start)
    if encoded[1] == "x" and len(encoded) > 2:
        return _of_bytes(bytes.fromhex(encoded.replace("\\x", "")), start, 4)
    return [(_ESCAPES.get(encoded[1], encoded[1]), start)]


def _of_bytes(encoded: bytes, start: int, width: int) -> list[tuple[str, int]]:
    characters: list[tuple[str, int]] = []
    at = start
    for character in encoded.decode("utf-8", "surrogateescape"):
        characters.append((character, at))
        at += width * len(character.encode("utf-8", "surrogateescape"))
    return characters


def _of_units(units: list[int], start: int) -> list[tuple[str, int]]:
    """Characters of UTF-16, where two units may be one character."""
    characters: list[tuple[str, int]] = []
    for at, unit in enumerate(units):
        if 0xDC00 <= unit < 0xE000 and at > 0 and 0xD800 <= units[at - 1] < 0xDC00:
            high, position = characters.pop()
            code = 0x10000 + ((ord(high) - 0xD800) << 10) + (unit - 0xDC00)
            characters.append((chr(code), position))
        else:
            characters.append((chr(unit), start + 6 * at))
    return characters
