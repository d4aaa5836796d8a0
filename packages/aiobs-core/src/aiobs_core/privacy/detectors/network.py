"""IP and MAC addresses, and what URLs give away."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from aiobs_core.privacy.detectors._search import Span, digit_starts, matches_at, near_before, validated

_IPV4: Final = re.compile(r"\d(?<![0-9A-Za-z.]\d)(?<![A-Za-z]-\d)\d{0,2}(?:\.\d{1,3}){3}(?![0-9A-Za-z]|\.\d)")
_IPV6: Final = re.compile(
    r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4})(?![0-9A-Za-z:])"
)
_VERSION_WORDS: Final = re.compile(
    r"(?i)(?:\b(?:v|version|release|ver\.?|build|firmware|section|chapter)|§|버전|릴리스|절)[\"':= ]{0,4}$"
)
_MAC: Final = re.compile(
    r"(?<![0-9A-Za-z:\-])[0-9A-Fa-f]{2}([:\-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![0-9A-Za-z:\-])"
)
_MAC_OF_CISCO: Final = re.compile(
    r"(?<![0-9A-Za-z.])[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?![0-9A-Za-z.])"
)
_QUADS: Final = re.compile(r"\.[0-9A-Fa-f]{4}\.")
# A password may hold what ends an authority, if it stands where no port can.
_USER_INFO: Final = re.compile(
    r"(?<=://)(?:[^\s/@:\"'<>?#\\]{0,128}:(?!\d{1,5}[/?#])[^\s\"'<>\\]{1,256}|[^\s/@\"'<>?#\\]{1,256})(?=@)"
)
_QUERY: Final = re.compile(r"(?:\A|[?&;])([A-Za-z0-9_.\-]{1,64})=([^&#\s\"'<>\\;]+)")
_SECRET_PARAMETERS: Final = re.compile(
    r"(?i)(?:^|[_\-.])(?:key|apikey|token|secret|sig|signature|password|passwd|pwd|pass|auth|credential|credentials|code"
    r"|sas|jwt|session|sessionid|sid|assertion)$|(?:token|secret|apikey|password)$"
)


def find_ip(text: str) -> Iterator[Span]:
    """IPv4 and IPv6 addresses but those of the machine itself; four small numbers after "version" are none."""
    if text.count(".") >= 3:
        for match in matches_at(_IPV4, text, digit_starts(text)):
            value = _ipv4(text, match)
            if value is not None:
                yield Span(match.start(), match.end(), value)
    if text.count(":") >= 2:
        yield from validated(_IPV6, text, _ipv6)


def _ipv4(text: str, match: re.Match[str]) -> str | None:
    if any(int(part) > 255 for part in match[0].split(".")):
        return None
    if match[0].startswith(("127.", "0.0.0.0", "255.255.255")):  # noqa: S104 - nothing is bound here
        return None
    return None if near_before(_VERSION_WORDS, text, match.start(), reach=14) else match[0]


def _ipv6(match: re.Match[str]) -> str | None:
    groups = [group for group in match[0].split(":") if group]
    if len(groups) < 2 or not any(map(str.isdigit, match[0])):
        return None
    if len(groups) < 8 and max(map(len, groups)) < 3:  # a slice: rows[1::2]
        return None
    try:
        return str(ipaddress.IPv6Address(match[0]))
    except ValueError:
        return None


def find_mac(text: str) -> Iterator[Span]:
    """Hardware addresses in the notations of IEEE and Cisco."""
    if text.count(":") >= 5 or text.count("-") >= 5:
        yield from validated(_MAC, text, _mac)
    if _QUADS.search(text):
        yield from validated(_MAC_OF_CISCO, text, _mac)


def _mac(match: re.Match[str]) -> str | None:
    digits = re.sub(r"\W", "", match[0]).lower()
    return digits if any(map(str.isdigit, digits)) else None


def find_url_credentials(text: str) -> Iterator[Span]:
    """User and password before the @ of a URL, and values of query parameters such as `api_key`, `sig` or `code`."""
    if "://" in text:
        yield from validated(_USER_INFO, text, lambda match: match[0])
    if "=" in text and ("?" in text or "&" in text):
        for match in _QUERY.finditer(text):
            if _SECRET_PARAMETERS.search(match[1]):
                yield Span(match.start(2), match.end(2), match[2])
