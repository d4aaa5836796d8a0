"""Views of a text in which detectors see through disguises, each with the way back to the text itself.

Full-width digits, look-alike letters and unusual dashes become plain ASCII; zero-width characters vanish; percent
encoding, escapes of JSON and character references of HTML are decoded, layer by layer.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
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
_DIGIT_ZEROS: Final = (  # https://www.unicode.org/Public/UCD/latest/ucd/extracted/DerivedNumericType.txt
    "٠۰߀०০੦૦୦௦౦೦൦෦๐໐༠၀႐០᠐᥆᧐᪀᪐᭐᮰᱀᱐꘠꣐꤀꧐꧰꩐꯰０\U0001d7ce\U0001d7d8\U0001d7e2\U0001d7ec\U0001d7f6\U0001fbf0"
)
_LETTERS: Final = {  # mathematical and circled ones
    code: ascii_
    for code in (*range(0x1D400, 0x1D7CC), *range(0x24B6, 0x24EA))
    if (ascii_ := unicodedata.normalize("NFKC", chr(code))).isascii()
}
_TO_ASCII: Final[dict[int, str]] = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},  # full-width forms
    **{ord(each): ascii_ for each, ascii_ in _LOOK_ALIKES.items()},
    **dict.fromkeys(map(ord, _DASHES), "-"),
    **dict.fromkeys(map(ord, _SPACES), " "),
    **dict.fromkeys(map(ord, _DOTS), "."),
    **{ord(zero) + digit: str(digit) for zero in _DIGIT_ZEROS for digit in range(10)},
    **_LETTERS,
    0xFE6B: "@",
}
_INVISIBLE: Final = frozenset(
    map(chr, (
        0x00AD, 0x034F, 0x061C, 0x180E, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2065),
        *range(0x2066, 0x2070), *range(0xFE00, 0xFE10), 0xFEFF,
        0x115F, 0x1160, 0x3164, 0xFFA0, *range(0xE0000, 0xE01F0),  # fillers of Hangul, tags, selectors of variants
    ))
)  # fmt: skip
_FOLDED: Final = {
    **{chr(code): ascii_ for code, ascii_ in _TO_ASCII.items()},
    **dict.fromkeys(_INVISIBLE, ""),
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
_CLUSTER: Final = re.compile(
    r"[\u1100-\u115f][\u1160-\u11a7]?[\u11a8-\u11ff]?|[^\u0300-\u036f][\u0300-\u036f\u1ab0-\u1aff\u20d0-\u20ff]+",
    re.DOTALL,
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
    if not text.isascii() and not unicodedata.is_normalized("NFC", view.text):
        view = _composed(view)
    found = [view]
    while len(found) <= _MAX_LAYERS and ("%" in view.text or "\\" in view.text or "&" in view.text):
        decoded = _decoded(view)
        if decoded is None:
            break
        view = decoded
        found.append(view)
    return found


def _without_hidden(text: str) -> View:
    if _INVISIBLE.isdisjoint(text):
        return View(text, None)
    kept = [at for at, character in enumerate(text) if character not in _INVISIBLE]
    return View("".join([text[at] for at in kept]), [*kept, len(text)])


def _composed(view: View) -> View:
    """With letters and their marks, and the parts of Korean syllables, put together, as file names of macOS have them not."""
    text, before = view
    characters: list[str] = []
    origins: list[int] = []
    at = 0
    for match in _CLUSTER.finditer(text):
        characters.append(text[at : match.start()])
        origins.extend(range(at, match.start()))
        composed = unicodedata.normalize("NFC", match[0])
        characters.append(composed)
        origins.extend([match.start()] * len(composed))
        at = match.end()
    characters.append(text[at:])
    origins.extend(range(at, len(text) + 1))
    if before is not None:
        origins = [before[origin] for origin in origins]
    return View("".join(characters), origins)


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


def base64_text(token: str) -> str | None:
    """What a token says, if it is base64 of readable text, from the first character on."""
    bare = token.replace("-", "+").replace("_", "/")
    if len(bare) % 4 == 1:  # cut off
        bare = bare[:-1]
    try:
        decoded = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    text = decoded.decode("utf-8", "replace").strip("\ufffd")  # a line of many may begin within a character
    if "\ufffd" in text or not (
        text.isprintable() or text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable()
    ):
        return None
    return text
