"""What the Safe Harbor list of HIPAA names beyond contact data and ids: dates, places, numbers of records, URLs.

https://www.hhs.gov/hipaa/for-professionals/special-topics/de-identification (45 CFR 164.514(b)(2))
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from aiobs_core.privacy.detectors._search import Span

_MONTHS: Final = "jan|feb|mar|apr|may|jun|jul|aug|sep|sept|oct|nov|dec"
_DATE: Final = re.compile(
    r"(?<![0-9A-Za-z\-/])(?:\d{4}[\-./](?:0?[1-9]|1[0-2])[\-./](?:0?[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])[\-./](?:0?[1-9]|[12]\d|3[01])[\-./](?:19|20)?\d{2}"
    rf"|(?i:(?:{_MONTHS})[a-z]{{0,6}}\.? {{1,2}}\d{{1,2}}(?:st|nd|rd|th)?(?:,? {{1,2}}\d{{4}})?)"
    rf"|(?i:\d{{1,2}}(?:st|nd|rd|th)?\.? {{1,2}}(?:{_MONTHS})[a-z]{{0,6}}\.?(?:,? {{1,2}}\d{{4}})?)"
    r"|\d{4}년 ?\d{1,2}월 ?\d{1,2}일|\d{1,2}월 ?\d{1,2}일)(?![0-9A-Za-z])"
)
_URL: Final = re.compile(r"(?<![A-Za-z0-9])(?:https?|ftp)://[^\s\"'<>\\)\]}]+")
_ZIP_CODE: Final = re.compile(
    r"(?<=[A-Z]{2} )\d{5}(?:-\d{4})?(?!\d)|(?i:(?<=zip )|(?<=zip: )|(?<=zip code )|(?<=우편번호 ))\d{5}(?:-\d{4})?(?!\d)"
)
_RECORD: Final = re.compile(
    r"(?i)(?:\b(?:mrn|medical record|record|patient|chart|account|acct|member|policy|beneficiary|licen[cs]e|certificate"
    r"|plate|serial|device)(?: (?:id|no\.?|number|#))?|차트번호|환자번호|계좌번호|면허번호|보험증번호)\s{0,2}[:#]?\s{0,2}#?"
    r"(?P<value>[A-Z0-9][A-Z0-9\-]{3,24})"
)
_VIN: Final = re.compile(r"(?<![A-Za-z0-9])[A-HJ-NPR-Z0-9]{17}(?![A-Za-z0-9])")
_VIN_VALUES: Final = {
    **{str(digit): digit for digit in range(10)},
    **dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9], strict=True)),
}  # fmt: skip
_VIN_WEIGHTS: Final = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def find_date(text: str) -> Iterator[Span]:
    """Dates with a day, in English, Korean and numbers; a year alone is none."""
    for match in _DATE.finditer(text):
        yield Span(match.start(), match.end(), match[0])


def find_url(text: str) -> Iterator[Span]:
    """Whole URLs."""
    if "://" in text:
        for match in _URL.finditer(text):
            yield Span(match.start(), match.end(), match[0])


def find_zip_code(text: str) -> Iterator[Span]:
    """US and Korean postal codes after a state or a word for them."""
    for match in _ZIP_CODE.finditer(text):
        yield Span(match.start(), match.end(), match[0])


def find_record_number(text: str) -> Iterator[Span]:
    """Numbers after a word such as `MRN`, `member`, `licence` or `환자번호`, and vehicle identification numbers."""
    for match in _RECORD.finditer(text):
        if any(map(str.isdigit, match["value"])):
            yield Span(match.start("value"), match.end("value"), match["value"])
    for match in _VIN.finditer(text):
        if _is_vin(match[0]):
            yield Span(match.start(), match.end(), match[0])


def _is_vin(number: str) -> bool:
    total = sum(_VIN_VALUES[each] * weight for each, weight in zip(number, _VIN_WEIGHTS, strict=True))
    return number[8] == "0123456789X"[total % 11]
