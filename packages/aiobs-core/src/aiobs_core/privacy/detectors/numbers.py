"""Payment cards, bank accounts and national ids: patterns, then their check digits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Final, NamedTuple

from stdnum import iban, luhn
from stdnum.exceptions import ValidationError

from aiobs_core.privacy.detectors._search import TAG, Span, digit_starts, matches_at

# All patterns begin with a digit, and look behind it after that: the search for a first character is fast, for a place
# between two characters it is not.
_CARD: Final = re.compile(
    r"\d(?<!\d\d)(?:\d{3}([ \-])\d{4}\1\d{4}\1\d{1,7}|\d{3}([ \-])\d{6}\2\d{4,5}|\d{13,18})(?!\d)"
)
# Lengths by first digits: https://en.wikipedia.org/wiki/Payment_card_number#Issuer_identification_number_(IIN)
_ISSUERS: Final = re.compile(
    r"4(?:\d{15}|\d{18})$|5[1-5]\d{14}$|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}$|3[47]\d{13}$"
    r"|3(?:0[0-5]\d|[689]\d\d)\d{10,15}$|6(?:011|4[4-9]\d|5\d\d)\d{12,15}$|35(?:2[89]|[3-8]\d)\d{12,15}$"
    r"|62\d{14,17}$|9792\d{12}$|9\d{15}$"
)
# By country: https://www.swift.com/standards/data-standards/iban-international-bank-account-number
_IBAN_LENGTHS: Final = (
    "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24 FI18"
    " FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20"
    " LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24 RS22 RU33 SA24"
    " SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30"
)
_IBANS: Final = {
    each[:2]: re.compile(
        rf"\d\d(?:[ \-]?[A-Za-z0-9]{{4}}){{{rest // 4}}}(?:[ \-]?[A-Za-z0-9]{{{rest % 4}}})?(?![A-Za-z0-9])"
    )
    for each in _IBAN_LENGTHS.split()
    if (rest := int(each[2:]) - 4)
}
_IBAN_START: Final = re.compile(r"\d\d(?<=[A-Za-z]{2}\d\d)(?<![A-Za-z0-9][A-Za-z]{2}\d\d)")
_IBAN_DIGITS: Final = {ord(each): str(int(each, 36)) for each in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}


def find_card(text: str) -> Iterator[Span]:
    """Payment card numbers: the issuer's first digits and length, and Luhn's check digit."""
    starts = digit_starts(text)
    if len(text) < 13 or not starts:
        return
    for match in matches_at(_CARD, text, starts):
        digits = _card(match)
        if digits is not None:
            yield Span(match.start(), match.end(), digits)


def _card(match: re.Match[str]) -> str | None:
    digits = match[0].replace(" ", "").replace("-", "")
    return digits if _ISSUERS.match(digits) and luhn.is_valid(digits) else None


def find_iban(text: str) -> Iterator[Span]:
    """International bank account numbers, by the length of their country and two check digits."""
    for start in digit_starts(text):
        pattern = _IBANS.get(text[start - 2 : start].upper()) if start >= 2 else None
        if pattern is None or not _IBAN_START.match(text, start):
            continue
        match = pattern.match(text, start)
        if match is None:
            continue
        value = text[start - 2 : match.end()].replace(" ", "").replace("-", "").upper()
        if int((value[4:] + value[:4]).translate(_IBAN_DIGITS)) % 97 == 1 and iban.is_valid(value):
            yield Span(start - 2, match.end(), value)


class _Id(NamedTuple):
    country: str
    validator: str | None  # module of stdnum
    needs_name: bool = False  # digits alone would be too many numbers of other kinds


# By shape: 9 a digit, A a letter.
_IDS: Final[dict[str, tuple[_Id, ...]]] = {
    "999999-9999999": (_Id("KR", "kr.rrn"),),
    "9999999999999": (_Id("KR", "kr.rrn", True), _Id("RO", "ro.cnp", True), _Id("SI", "si.emso", True), _Id("ZA", "za.idnr", True)),
    "999-99-99999": (_Id("KR", "kr.brn"),),
    "999-99-9999": (_Id("US", "us.ssn"), _Id("US", "us.itin")),
    "99-9999999": (_Id("US", "us.ein", True),),
    "999999999": (_Id("US", "us.ssn", True), _Id("NL", "nl.bsn", True), _Id("PT", "pt.nif", True), _Id("CA", "ca.sin", True), _Id("AU", "au.tfn", True), _Id("IL", "il.idnr", True)),
    "9999999999": (_Id("KR", "kr.brn", True), _Id("GB", "gb.nhs", True), _Id("BG", "bg.egn", True), _Id("HU", "hu.anum", True), _Id("AT", "at.vnr", True), _Id("DK", "dk.cpr", True), _Id("SE", "se.personnummer", True)),
    "99999999999": (_Id("DE", "de.idnr", True), _Id("PL", "pl.pesel", True), _Id("BE", "be.nn", True), _Id("EE", "ee.ik", True), _Id("LT", "lt.asmens", True), _Id("HR", "hr.oib", True), _Id("GR", "gr.amka", True), _Id("NO", "no.fodselsnummer", True), _Id("TR", "tr.tckimlik", True), _Id("BR", "br.cpf", True)),
    "999999999999": (_Id("IN", "in_.aadhaar", True), _Id("JP", None, True)),
    "9999-9999-9999": (_Id("IN", "in_.aadhaar"), _Id("JP", None, True)),
    "99999999A": (_Id("ES", "es.dni"),),
    "99999999-A": (_Id("ES", "es.dni"),),
    "A9999999A": (_Id("ES", "es.nie"),),
    "A-9999999-A": (_Id("ES", "es.nie"),),
    "AAAAAA99A99A999A": (_Id("IT", "it.codicefiscale"),),
    "AA999999A": (_Id("GB", None),),
    "AAAAA9999A": (_Id("IN", "in_.pan"),),
    "999.999.999-99": (_Id("BR", "br.cpf"),),
    "99.99.99-999.99": (_Id("BE", "be.nn"),),
    "999999-9999": (_Id("SE", "se.personnummer"), _Id("DK", "dk.cpr"), _Id("CZ", "cz.rc", True)),
    "999999+9999": (_Id("SE", "se.personnummer"),),
    "999999-999A": (_Id("FI", "fi.hetu"),),
    "999999A999A": (_Id("FI", "fi.hetu"),),
    "999999A9999": (_Id("FI", "fi.hetu"),),
    "999999/9999": (_Id("CZ", "cz.rc"),),
    "999999/999": (_Id("CZ", "cz.rc", True),),
    "9999999A": (_Id("IE", "ie.pps"),),
    "9999999AA": (_Id("IE", "ie.pps"),),
    "999.9999.9999.99": (_Id("CH", "ch.ssn"),),
    "99999999999999999A": (_Id("CN", "cn.ric"),),
    "999999999999999999": (_Id("CN", "cn.ric"),),
    "999999999999999": (_Id("FR", "fr.nir", True),),
    "AAAA999999AAAAAA99": (_Id("MX", "mx.curp"),),
    "999-999-999": (_Id("CA", "ca.sin", True), _Id("AU", "au.tfn", True), _Id("NL", "nl.bsn", True)),
    "999-999-9999": (_Id("GB", "gb.nhs", True),),
}  # fmt: skip
_TOKEN: Final = re.compile(r"\d(?<![0-9]\d)[0-9A-Za-z.\-/+]{5,24}")
_LETTERS_BEFORE: Final = re.compile(r"(?<![0-9A-Za-z])[A-Za-z]{1,6}-?\Z")
_SPACED: Final = re.compile(
    r"(?:\d(?<![0-9A-Za-z]\d)(?<![0-9] \d)(?:\d{3} \d{4} \d{4}|(?<=[12]) \d{2} \d{2} \d{2,3} \d{3} \d{3} \d{2}|\d \d{3} \d{3} \d{3}"
    r"|\d\d \d{3} \d{3,4}|\d\d \d{2} \d{4}|\d{5} [1-8]\d{6})(?! ?[0-9]|[A-Za-z])"
    r"|\d{2}(?<=[A-Za-z]{2} \d\d)(?<![0-9A-Za-z][A-Za-z]{2} \d\d) \d{2} \d{2} [A-Da-d](?![0-9A-Za-z]))"
)
_TO_SHAPE: Final = {
    **dict.fromkeys(map(ord, "0123456789"), "9"),
    **dict.fromkeys(map(ord, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"), "A"),
}
_SHORT_NAME_WORDS: Final = (
    "ssn itin ein sin tfn tin nin nif nie dni cpf pan bsn pesel nhs cnp egn oib emso amka aadhaar svnr cpr rrn brn idnr abn"
    " nir tax sofi"
)
_SHORT_NAMES: Final = frozenset(_SHORT_NAME_WORDS.split())
_LONG_NAMES: Final = (
    "social sec", "national", "identi", "steuer", "personal code", "personal number", "personal id", "personnummer", "fødsels",
    "insurance", "sécu", "burgerservice", "rodn", "kimlik", "my number", "mynumber", "citizen", "resident", "id number",
    "id card", "id no", "주민", "등록번호", "사업자", "외국인", "신분", "マイナンバー", "身份",
)  # fmt: skip
_LATIN: Final = re.compile(r"[a-z]+")
_UNSURE_RRN: Final = re.compile(r"\d{6}[1-4]\d{6}$")
_NINO: Final = re.compile(r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]\d{6}[A-D]$")
_RRN_DATE: Final = re.compile(r"\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])-?[1-8]\d{6}$")
_validators: dict[str, Callable[[str], str] | None] = {}


def find_national_id(text: str) -> Iterator[Span]:
    """National and tax ids of some thirty countries, by their check digits; plain digits only beside a word for it."""
    starts = digit_starts(text)
    at = 0
    for match in matches_at(_TOKEN, text, starts):
        if match.start() < at:
            continue
        at = match.end()
        letters = _LETTERS_BEFORE.search(text, max(0, match.start() - 8), match.start())
        start = match.start() if letters is None else letters.start()
        if start == match.start() and start > 0 and text[start - 1].isascii() and text[start - 1].isalnum():
            continue
        span = _id_at(text, start, text[start : match.end()].rstrip(".-/+"))
        if span is not None:
            yield span
    for match in matches_at(_SPACED, text, starts):
        start = match.start() - (3 if match[0][-1].isalpha() else 0)
        span = _id_at(text, start, text[start : match.end()])
        if span is not None:
            yield span


def _id_at(text: str, start: int, token: str) -> Span | None:
    compact = token.replace(" ", "")
    named: bool | None = None
    for each in _IDS.get(compact.translate(_TO_SHAPE), ()):
        is_sure = not each.needs_name and " " not in token
        if not is_sure and not (" " in token and each.country in {"IN", "FR", "GB"}):
            if named is None:
                named = _is_named(text, start, start + len(token))
            if not named and not (each.validator == "kr.rrn" and _UNSURE_RRN.match(compact)):
                continue
        if _is_id(each, compact.upper(), named=bool(named)):
            value = each.country + compact.upper().replace("-", "").replace(".", "").replace("/", "")
            return Span(start, start + len(token), value)
    return None


def _is_named(text: str, start: int, end: int) -> bool:
    """Whether a word for an id stands near; in a table, where the heading may be, or as the key of a JSON value."""
    reach = 400 if "|" in text[max(0, start - 3) : start] else 40
    around = text[max(0, start - reach) : start] + " " + text[end : end + 24]
    if "<" in around:  # what a tag is called is no word of the text
        around = TAG.sub("<>", around)
    around = around.lower().replace("_", " ")
    if any(name in around for name in _LONG_NAMES):
        return True
    return not _SHORT_NAMES.isdisjoint(_LATIN.findall(around))


def _is_id(kind: _Id, number: str, *, named: bool) -> bool:
    if kind.validator == "kr.rrn" and (named or "-" in number) and _RRN_DATE.match(number):
        return True  # numbers given since October 2020 have no check digit
    if kind.country == "GB" and kind.validator is None:
        return _NINO.match(number) is not None
    if kind.validator is None:
        return True
    validate = _validator(kind.validator)
    try:
        return validate is not None and bool(validate(number))
    except (ValidationError, ValueError, IndexError, KeyError):
        return False


def _validator(module: str) -> Callable[[str], str] | None:
    if module not in _validators:
        try:
            _validators[module] = import_module(f"stdnum.{module}").validate
        except ImportError:  # a version of python-stdnum without that country
            _validators[module] = None
    return _validators[module]
