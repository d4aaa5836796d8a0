"""E-mail addresses and telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import phonenumbers

from aiobs_core.privacy.detectors._search import Find, Span, digit_starts, near_before

_LOCAL_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._%+-'=")
_LOCAL: Final = re.compile(r"[A-Za-z0-9._%\-]+(?:'[A-Za-z0-9._%\-]+)?(?:\+[A-Za-z0-9._%+\-=]*)?\Z")
_DOMAIN: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9\-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}")
# Around an @ that belongs to no address of ASCII; the letters may be of any script.
_LOCAL_OF_ANY_SCRIPT: Final = re.compile(r"[\w.%+\-]{1,64}\Z")
_DOMAIN_OF_ANY_SCRIPT: Final = re.compile(r"(?:[^\W_][\w\-]{0,62}\.){1,8}[^\W\d_]{2,24}")
_MAX_LOCAL: Final = 256
_SCALED_IMAGE: Final = re.compile(r"@[1-4]x\.(?:png|jpe?g|gif|webp|svg)\Z", re.IGNORECASE)
_PHONE: Final = re.compile(
    r"\d(?<![0-9A-Za-z_.&#\-]\d)[\d().\-/ ]{5,24}\d(?![0-9A-Za-z_])|\d(?<=\+\d)[\d().\-/ ]{5,24}\d(?![0-9A-Za-z_])"
)
_EXTENSION: Final = re.compile(r"(?i),? {0,2}(?:ext\.?|extension|x|내선) {0,2}\d{1,6}(?!\d)")
_PHONE_WORDS: Final = re.compile(
    r"(?i)phone|tel|call|mobile|cell|fax|whatsapp|sms|dial|number is|contact|전화|연락|휴대|핸드폰|번호|팩스|문자"
)
_END: Final = r"(?![0-9A-Za-z_]|[.\-()]{1,2}[0-9])"
_SHAPES: Final = {
    # How numbers are written in their own country; elsewhere digits alone say too little.
    "KR": re.compile(
        rf"(?:(?:\(?0\d{{1,2}}\)|0\d{{1,3}})[ .\-]?\d{{3,4}}[ .\-]?\d{{4}}|1[5-9]\d\d[ .\-]\d{{4}}){_END}"
    ),
    "US": re.compile(
        rf"(?:(?:1[ .\-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .\-/])[2-9]\d\d[ .\-]\d{{4}}|[2-9]\d{{9}}){_END}"
    ),
}
_OTHER_SHAPE: Final = re.compile(rf"\(?0\d{{1,5}}\)?(?:([ .\-/])\d{{2,8}}){{1,5}}{_END}")
_MAX_CHECKS: Final = 200  # of one text; beyond them a candidate counts as a number without being checked


def find_email(text: str) -> Iterator[Span]:
    """E-mail addresses: of ASCII, and where an @ belongs to none of these, of any script."""
    at = text.find("@")
    while at >= 0:
        span = _address_around(text, at)
        if span is not None:
            yield span
        at = text.find("@", at + 1 if span is None else max(span.end, at + 1))


def _address_around(text: str, at: int) -> Span | None:
    start, first = at, max(0, at - _MAX_LOCAL)
    while start > first and text[start - 1] in _LOCAL_CHARACTERS:
        start -= 1
    local, domain = _LOCAL.search(text, start, at), _DOMAIN.match(text, at + 1)
    if local is not None and domain is not None and (text.isascii() or not _goes_on(text, domain.end())):
        is_remote = local[0] == "git" and text[domain.end() : domain.end() + 1] == ":"
        if is_remote or _SCALED_IMAGE.search(text, at, domain.end()):
            return None
        return Span(local.start(), domain.end(), text[local.start() : domain.end()].lower())
    if text.isascii():
        return None
    local = _LOCAL_OF_ANY_SCRIPT.search(text, max(0, at - 64), at)
    domain = _DOMAIN_OF_ANY_SCRIPT.match(text, at + 1)
    if local is None or domain is None:
        return None
    return Span(local.start(), domain.end(), text[local.start() : domain.end()].lower())


def _goes_on(text: str, end: int) -> bool:
    """Whether the domain goes on in letters that are not ASCII, and are no Korean particle or Chinese sentence."""
    following = text[end : end + 1]
    return following.isalpha() and not following.isascii() and following < "\u0e00"


def phone_finder(regions: Sequence[str]) -> Find:
    """Telephone numbers that `phonenumbers` holds for valid: international ones, and national ones of `regions`."""

    def find(text: str) -> Iterator[Span]:
        checks = _Checks(regions)
        at = 0
        for start in digit_starts(text):
            if start >= at and (match := _PHONE.match(text, start)) is not None:
                span = _first_number(text, match, checks)
                if span is not None:
                    at = span.end
                    yield span

    return find


class _Checks:
    """Asks `phonenumbers`, up to a limit."""

    def __init__(self, regions: Sequence[str]) -> None:
        self._regions = regions
        self._left = _MAX_CHECKS

    def international(self, text: str, begin: int, end: int) -> tuple[int, str] | None:
        """End and E.164 notation of the longest number that begins with a plus at `begin`."""
        while end - begin > 6:
            number = text[begin:end].rstrip(" .-/(")
            if 7 <= sum(map(str.isdigit, number)) <= 15:
                value = self._valid(number, None)
                if value is not None:
                    return begin + len(number), value
            end = max(text.rfind(" ", begin, end), text.rfind("/", begin, end))
        return None

    def national(
        self, text: str, begin: int, end: int, is_named: Callable[[], bool]
    ) -> tuple[int, str] | None:
        """End and E.164 notation of a number that is written as in one of the regions."""
        for region in self._regions:
            shape = _SHAPES.get(region, _OTHER_SHAPE)
            match = shape.match(text, begin, end)
            while match is not None:
                if region != "US" or not match[0].isdigit() or is_named():
                    value = self._valid(match[0], region)
                    if value is not None:
                        return match.end(), value
                if not shape.groups or match[1] not in " /":
                    break
                match = shape.match(text, begin, match.start(1))  # the last group may be another number
        return None

    def _valid(self, number: str, region: str | None) -> str | None:
        if number == "0123456789":  # all digits, and a valid number in Korea
            return None
        self._left -= 1
        if self._left < 0:
            return re.sub(r"\D", "", number)
        try:
            parsed = phonenumbers.parse(number, region)
        except phonenumbers.NumberParseException:
            return None
        # Korea gives out mobile numbers faster than the library learns of them: 010-597x to 010-599x are missing.
        national = parsed.national_number or 0
        is_korean_mobile = parsed.country_code == 82 and 10 * 10**8 <= national < 11 * 10**8
        if not is_korean_mobile and not phonenumbers.is_valid_number(parsed):
            return None
        return f"+{parsed.country_code}{parsed.national_number}"


def _first_number(text: str, match: re.Match[str], checks: _Checks) -> Span | None:
    """The longest number at the start of a match, which may have swallowed what follows it."""
    begin, end = match.span()
    if text[begin - 1 : begin] == "(":  # the search is for a digit, which is faster
        begin -= 1
    if text[begin - 1 : begin] == "+":
        begin -= 1
        found = checks.international(text, begin, end)
    else:

        def is_named() -> bool:
            return near_before(_PHONE_WORDS, text, begin)

        found = checks.national(text, begin, end, is_named)
        if found is None and text[begin] == "(":
            begin += 1
            found = checks.national(text, begin, end, is_named)
    if found is None:
        return None
    extension = _EXTENSION.match(text, found[0])
    return Span(begin, found[0] if extension is None else extension.end(), found[1])
