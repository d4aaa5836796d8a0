"""Labelled sentences for detectors of personal data and secrets, and how a detector is scored on them.

Sentences are written as templates: `{slot}` is filled by the method of `_Maker` of that name, `⟦type|value⟧` marks a
label (`⟦encoded|text⟧`: the base64 of the text). Secrets are made at run time, so that no scanner of repositories
takes this file for a leak. Needs `faker`; other versions of it make other sentences.
"""
# ruff: noqa: RUF001 - full-width digits and Cyrillic letters are what hides a value
# ruff: noqa: Q000, Q003 - templates hold both quotes: the one that needs fewer escapes reads better

from __future__ import annotations

import base64
import ipaddress
import json
import random
import re
import string
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone
from typing import Final, NamedTuple

from faker import Faker

Span = tuple[int, int, str]
"""Start, end (exclusive), type."""


class Labelled(NamedTuple):
    text: str
    spans: tuple[Span, ...]
    source: str
    """`generated` or `hand-written`."""


TYPES: Final = (
    "email",
    "phone",
    "card",
    "iban",
    "national_id",
    "ip",
    "mac",
    "url_credentials",
    "api_key",
    "jwt",
    "private_key",
    "credential",
    "secret",
    "encoded",  # base64 of a text that holds one of the others; hand-written only
)


def corpus(seed: int = 4) -> list[Labelled]:
    """The same sentences for the same seed and version of faker: positives of each type, negatives, hard cases."""
    maker = _Maker(seed)
    generated: dict[str, Labelled] = {}
    for kind in TYPES[:-1]:
        for pool in _templates(kind):
            _draw(maker, pool, count=_PER_CONTEXT, kind=kind, into=generated)
    _draw(maker, _MIXED, count=_MIXED_COUNT, kind=None, into=generated)
    for family in _NEGATIVES:
        _draw(maker, family, count=_PER_NEGATIVE, kind=None, into=generated)
    written = [_parsed(maker.fill(template, None), source="hand-written") for template in _HAND_WRITTEN]
    return [*generated.values(), *written]


# --- scoring ------------------------------------------------------------------------------------------------


class Score(NamedTuple):
    true_positive: int = 0
    """Labels of which no character was left to read."""
    missed: int = 0
    """Labels of which at least one was."""
    false_positive: int = 0
    """Spans found where no label of their type (or family) is."""

    @property
    def recall(self) -> float:
        return self.true_positive / max(1, self.true_positive + self.missed)

    @property
    def precision(self) -> float:
        return self.true_positive / max(1, self.true_positive + self.false_positive)


_SECRETS: Final = frozenset({"secret", "api_key", "credential", "jwt", "encoded", "url_credentials"})
_SEPARATORS: Final = frozenset("-.()/:_,;+\u200b\u200c\u200d\u2060\ufeff\u00ad")


def score(corpus: Iterable[Labelled], find: Callable[[str], Sequence[Span]]) -> dict[str, Score]:
    """Recall asks what leaks, precision what is masked for nothing.

    A label counts as found if spans of any type together cover each of its characters but separators. A found span
    counts as right if it overlaps a label of its type; the types of `_SECRETS` stand in for one another, all others
    (card, iban, phone and national_id among them) must carry the label's own type. Precision is per found type, and
    counts the labels of that type as what was right: a label found in two pieces counts once.
    """
    counts = {kind: [0, 0, 0] for kind in TYPES}
    for sentence in corpus:
        found = find(sentence.text)
        for label in sentence.spans:
            counts[label[2]][_is_missed(sentence.text, label, found)] += 1
        for span in found:
            if not any(_agree(span, label) for label in sentence.spans):
                counts.setdefault(span[2], [0, 0, 0])[2] += 1
    return {kind: Score(*numbers) for kind, numbers in counts.items()}


def table(scores: dict[str, Score]) -> str:
    """The scores as a markdown table, with a line for all types together."""
    total = Score(*(sum(numbers) for numbers in zip(*scores.values(), strict=True)))
    lines = [
        "| type | labels | found | missed | false | recall | precision |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for kind, row in [*scores.items(), ("**all**", total)]:
        found, missed, false = row
        lines.append(
            f"| {kind} | {found + missed} | {found} | {missed} | {false} | {row.recall:.3f} | {row.precision:.3f} |"
        )
    return "\n".join(lines)


def _is_missed(text: str, label: Span, found: Sequence[Span]) -> bool:
    start, end, _ = label
    covered = {at for first, last, _ in found for at in range(max(first, start), min(last, end))}
    return any(at not in covered and not _is_separator(text[at]) for at in range(start, end))


def _is_separator(character: str) -> bool:
    return character.isspace() or character in _SEPARATORS


def _agree(span: Span, label: Span) -> bool:
    overlap = span[0] < label[1] and label[0] < span[1]
    return overlap and (span[2] == label[2] or {span[2], label[2]} <= _SECRETS)


# --- templates to sentences ---------------------------------------------------------------------------------

_PER_CONTEXT: Final = 22
_PER_NEGATIVE: Final = 14
_MIXED_COUNT: Final = 60
_MARK: Final = re.compile(r"⟦([a-z_]+)\|(.*?)⟧", re.DOTALL)
_SLOT: Final = re.compile(r"\{([A-Za-z0-9_]+)\}")


class _Value(NamedTuple):
    text: str
    """Marked already, or marked as a whole."""
    noun: str
    ko: str
    key: str


def _draw(
    maker: _Maker, templates: Sequence[str], *, count: int, kind: str | None, into: dict[str, Labelled]
) -> None:
    order: list[str] = []
    wanted = len(into) + count
    for _ in range(50 * count):
        order = order or maker.rng.sample(templates, len(templates))
        value = maker.value(kind) if kind else None
        sentence = _parsed(maker.fill(order.pop(), value), source="generated")
        into.setdefault(sentence.text, sentence)
        if len(into) == wanted:
            return
    raise ValueError(f"{kind}: expected {count} different sentences from {templates!r}")


def _parsed(marked: str, *, source: str) -> Labelled:
    text, spans, last = "", [], 0
    for mark in _MARK.finditer(marked):
        text += marked[last : mark.start()]
        value = _base64(mark[2]) if mark[1] == "encoded" else mark[2]
        spans.append((len(text), len(text) + len(value), mark[1]))
        text += value
        last = mark.end()
    return Labelled(text + marked[last:], tuple(spans), source)


def _templates(kind: str) -> list[Sequence[str]]:
    """One pool per context: English, Korean, code, JSON, logs, tables."""
    if kind in _OWN:
        return list(_OWN[kind])
    bare = _BARE if kind in _KNOWN_WITHOUT_A_NOUN else ((),) * len(_NAMED)
    return [(*named, *plain) for named, plain in zip(_NAMED, bare, strict=True)]


# --- values -------------------------------------------------------------------------------------------------

_UPPER: Final = string.ascii_uppercase
_BASE62: Final = string.ascii_letters + string.digits
_BASE64: Final = _BASE62 + "+/"
_URL_SAFE: Final = _BASE62 + "-_"
_HEX: Final = "0123456789abcdef"
_EPOCH: Final = datetime(2024, 1, 1, tzinfo=timezone.utc)


class _Maker:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.fakers = {
            locale: Faker(locale)
            for locale in ("en_US", "ko_KR", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL")
        }
        for number, faker in enumerate(self.fakers.values()):
            faker.seed_instance(seed * 100 + number)
        self.keys: list[Callable[[], tuple[str, str]]] = [
            *(lambda row=row: (row[0], row[1] + self.random(row[2], row[3])) for row in _KEY_SHAPES),
            lambda: ("SendGrid", "SG" + "." + self.random(_URL_SAFE, 22) + "." + self.random(_URL_SAFE, 43)),
            lambda: ("Telegram bot", f"{self.rng.randrange(10**8, 10**10)}:AA" + self.random(_URL_SAFE, 33)),
            lambda: ("Slack", "xox" + f"b-{self.digits(12)}-{self.digits(12)}-" + self.random(_BASE62, 24)),
            lambda: (
                "GitHub",
                "github_" + "pat_" + self.random(_BASE62, 22) + "_" + self.random(_BASE62, 59),
            ),
        ]

    def fill(self, template: str, value: _Value | None) -> str:
        """Slots that no method fills stay as they are: code has braces of its own."""

        def filled(slot: re.Match[str]) -> str:
            name = slot[1]
            if value and name in {"v", "ve", "noun", "ko", "key", "KEY"}:
                escaped = value.text.replace("\n", "\\n")
                known = {"v": value.text, "ve": escaped, "KEY": value.key.upper()}
                return known.get(name) or str(getattr(value, name))
            method = getattr(self, name, None)
            return str(method()) if callable(method) else slot[0]

        return _SLOT.sub(filled, template)

    def value(self, kind: str) -> _Value:
        if kind == "url_credentials":
            return _Value(self.secret_url(), "URL", "주소", "url")
        if kind == "national_id":
            noun, ko, key, text = self.national_id()
        elif kind == "api_key":
            issuer, text = self.rng.choice(self.keys)()
            noun, ko = f"{issuer} key", f"{issuer} API 키"
            key = re.sub(r"\W+", "_", issuer).lower() + "_api_key"
        else:
            noun, ko, key = self.rng.choice(_NOUNS.get(kind, (("value", "값", "value"),)))
            text = str(getattr(self, kind)())
        return _Value(f"⟦{kind}|{text}⟧", noun, ko, key)

    def random(self, alphabet: str, length: int) -> str:
        """Of letters of both cases and digits where the alphabet has them: what a random string of that length has."""
        while True:
            text = "".join(self.rng.choices(alphabet, k=length))
            classes = (str.isupper, str.islower, str.isdigit)
            missing = [is_in for is_in in classes if any(map(is_in, alphabet)) and not any(map(is_in, text))]
            if (not missing or length < 12) and text[-1].isalnum():
                return text

    def digits(self, count: int) -> str:
        return self.random("0123456789", count)

    def shaped(self, shapes: Sequence[str]) -> str:
        """`#` is a digit, `%` a digit that starts a subscriber's number."""
        shape = self.rng.choice(shapes)
        return re.sub(
            "[#%]", lambda mark: self.rng.choice("23456789" if mark[0] == "%" else string.digits), shape
        )

    # people and places

    def name(self) -> str:
        return str(self.fakers["en_US"].name())

    def ko_name(self) -> str:
        return str(self.fakers["ko_KR"].name())

    def eu_name(self) -> str:
        return str(self.fakers[self.rng.choice(("de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL"))].name())

    def company(self) -> str:
        return str(self.fakers["en_US"].company())

    def ko_address(self) -> str:
        return str(self.fakers["ko_KR"].address()).replace("\n", " ")

    def sentence(self) -> str:
        return str(self.fakers["en_US"].sentence())

    def path(self) -> str:
        return str(self.fakers["en_US"].file_path(depth=self.rng.randint(2, 5)))

    def host(self) -> str:
        return self.rng.choice(("api", "db", "cache", "files", "git")) + "." + self.domain()

    def domain(self) -> str:
        return str(self.fakers["en_US"].domain_name())

    # personal data

    def email(self) -> str:
        faker = self.fakers[self.rng.choice(tuple(self.fakers))]
        first, last = faker.user_name(), self.fakers["en_US"].last_name().lower()
        local = self.rng.choice(
            (first, f"{first}.{last}", f"{first}+{last}", f"{first}_{self.digits(2)}", f"{last}-{first}")
        )
        domain = self.rng.choice((faker.domain_name(), faker.free_email_domain(), "mail." + self.domain()))
        return f"{local}@{domain}"

    def phone(self) -> str:
        return self.shaped(self.rng.choice(_PHONES))

    def card(self) -> str:
        first, length = self.rng.choice(
            (("4", 16), ("5" + self.rng.choice("12345"), 16), ("37", 15), ("34", 15))
        )
        number = first + self.digits(length - 1 - len(first))
        number += str(_luhn(number))
        gap = self.rng.choice((" ", " ", "-", ""))
        groups = (4, 6, 5) if length == 15 else (4, 4, 4, 4)
        return gap.join(_cut(number, groups))

    def iban(self) -> str:
        country = self.rng.choice(("DE", "FR", "GB", "NL", "ES"))
        if country == "DE":
            account = self.digits(18)
        elif country == "FR":
            account = self.digits(21)
            account += (
                f"{97 - (89 * int(account[:5]) + 15 * int(account[5:10]) + 3 * int(account[10:])) % 97:02}"
            )
        elif country == "GB":
            account = self.rng.choice(("NWBK", "BARC", "LOYD", "MIDL")) + self.digits(14)
        elif country == "NL":
            account = self.rng.choice(("ABNA", "INGB", "RABO")) + "0" + self.eleven_test(9)
        else:
            bank, number = self.digits(8), self.digits(10)
            account = bank + _spanish_digit("00" + bank) + _spanish_digit(number) + number
        check = 98 - _as_number(account + country + "00") % 97
        text = f"{country}{check:02}{account}"
        return " ".join(_cut(text, (4,) * 9)) if self.rng.random() < 0.5 else text

    def eleven_test(self, length: int) -> str:
        while True:
            body = self.rng.choice("123456789") + self.digits(length - 2)
            check = (
                sum(int(digit) * weight for digit, weight in zip(body, range(length, 1, -1), strict=True))
                % 11
            )
            if check < 10:
                return f"{body}{check}"

    def national_id(self) -> tuple[str, str, str, str]:
        makers = (
            self.rrn, self.rrn, self.business_number, self.ssn, self.steuer_id, self.nir, self.dni, self.nie,
            self.codice_fiscale, self.bsn, self.pesel, self.nino, self.cpf, self.aadhaar,
        )  # fmt: skip
        return self.rng.choice(makers)()

    def born(self) -> datetime:
        return _EPOCH - timedelta(days=self.rng.randint(19 * 365, 85 * 365))

    def rrn(self) -> tuple[str, str, str, str]:
        born = self.born()
        first, second = f"{born:%y%m%d}", self.rng.choice("111222256" if born.year < 2000 else "3334447")
        second += f"{self.rng.randrange(96):02}" + self.digits(3)
        weights = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
        rest = sum(int(digit) * weight for digit, weight in zip(first + second, weights, strict=True)) % 11
        foreign = second[0] in "5678"
        second += str(((13 if foreign else 11) - rest) % 10)
        gap = self.rng.choice(("-", "-", "-", "-", ""))
        noun, ko = (
            ("alien registration number", "외국인등록번호")
            if foreign
            else ("resident number", "주민등록번호")
        )
        return f"Korean {noun} (주민등록번호)", ko, "resident_registration_number", f"{first}{gap}{second}"

    def business_number(self) -> tuple[str, str, str, str]:
        number = f"{self.rng.randint(101, 699)}{self.rng.randint(1, 99):02}{self.rng.randint(1, 9999):04}"
        digits = [int(digit) for digit in number]
        total = sum(digit * weight for digit, weight in zip(digits, (1, 3, 7, 1, 3, 7, 1, 3, 5), strict=True))
        number += str(-(total + digits[8] * 5 // 10) % 10)
        text = "-".join(_cut(number, (3, 2, 5)))
        return "business registration number", "사업자등록번호", "business_registration_number", text

    def ssn(self) -> tuple[str, str, str, str]:
        area = self.rng.choice([area for area in range(1, 900) if area != 666])
        text = f"{area:03}-{self.rng.randint(1, 99):02}-{self.rng.randint(1, 9999):04}"
        return self.rng.choice(("SSN", "social security number")), "미국 SSN", "ssn", text

    def steuer_id(self) -> tuple[str, str, str, str]:
        while True:  # of ten digits one comes twice, one not at all
            ten = self.rng.sample(string.digits, 10)
            ten[self.rng.randrange(10)] = ten[self.rng.randrange(10)]
            body = "".join(ten)
            if len(set(body)) == 9 and body[0] != "0":
                break
        rest = 10
        for digit in body:
            rest = ((int(digit) + rest) % 10 or 10) * 2 % 11
        text = f"{body}{(11 - rest) % 10}"
        if self.rng.random() < 0.4:
            text = " ".join(_cut(text, (2, 3, 3, 3)))
        return self.rng.choice(("Steuer-ID", "German tax ID")), "독일 Steuer-ID", "steuer_id", text

    def nir(self) -> tuple[str, str, str, str]:
        born = self.born()
        body = f"{self.rng.randint(1, 2)}{born:%y%m}{self.rng.randint(21, 95)}{self.rng.randint(1, 900):03}"
        body += f"{self.rng.randint(1, 999):03}"
        text = f"{body}{97 - int(body) % 97:02}"
        if self.rng.random() < 0.5:
            text = " ".join(_cut(text, (1, 2, 2, 2, 3, 3, 2)))
        return self.rng.choice(("NIR", "numéro de sécurité sociale")), "프랑스 NIR", "nir", text

    def dni(self) -> tuple[str, str, str, str]:
        number = self.digits(8)
        return "DNI", "스페인 DNI", "dni", number + _SPANISH_LETTERS[int(number) % 23]

    def nie(self) -> tuple[str, str, str, str]:
        first, number = self.rng.randrange(3), self.digits(7)
        return (
            "NIE",
            "스페인 NIE",
            "nie",
            "XYZ"[first] + number + _SPANISH_LETTERS[int(f"{first}{number}") % 23],
        )

    def codice_fiscale(self) -> tuple[str, str, str, str]:
        born = self.born()
        day = born.day + self.rng.choice((0, 40))
        letters = "BCDFGLMNPRSTVZ"
        body = self.random(letters, 6) + f"{born:%y}" + "ABCDEHLMPRST"[born.month - 1] + f"{day:02}"
        body += self.rng.choice("ABCDEFGHIL") + f"{self.rng.randint(101, 899)}"
        total = sum(
            _as_number_or_place(character) if place % 2 else _ITALIAN_ODD[_as_number_or_place(character)]
            for place, character in enumerate(body)
        )
        return "codice fiscale", "이탈리아 codice fiscale", "codice_fiscale", body + _UPPER[total % 26]

    def bsn(self) -> tuple[str, str, str, str]:
        return "BSN", "네덜란드 BSN", "bsn", self.eleven_test(9)

    def pesel(self) -> tuple[str, str, str, str]:
        born = self.born()
        body = f"{born:%y}{born.month + (20 if born.year >= 2000 else 0):02}{born:%d}{self.digits(4)}"
        weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)
        check = -sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True)) % 10
        return "PESEL", "폴란드 PESEL", "pesel", f"{body}{check}"

    def nino(self) -> tuple[str, str, str, str]:
        text = (
            self.rng.choice("ABCEGHJ")
            + self.rng.choice("ABCEHJKLMPRSTWX")
            + self.digits(6)
            + self.rng.choice("ABCD")
        )
        if self.rng.random() < 0.5:
            text = " ".join(_cut(text, (2, 2, 2, 2, 1)))
        noun = self.rng.choice(("NI number", "National Insurance number"))
        return noun, "영국 국민보험번호(NINO)", "nino", re.sub("^(GB|BG|NK|KN|TN|NT|ZZ)", "AB", text)

    def cpf(self) -> tuple[str, str, str, str]:
        number = self.digits(9)
        for length in (10, 11):
            total = sum(
                int(digit) * weight for digit, weight in zip(number, range(length, 1, -1), strict=True)
            )
            number += str((11 - total % 11) % 11 % 10)
        return "CPF", "브라질 CPF", "cpf", f"{number[:3]}.{number[3:6]}.{number[6:9]}-{number[9:]}"

    def aadhaar(self) -> tuple[str, str, str, str]:
        while True:
            body = self.rng.choice("23456789") + self.digits(10)
            number = next(body + check for check in string.digits if _verhoeff(body + check) == 0)
            if number != number[::-1]:
                return "Aadhaar", "인도 Aadhaar", "aadhaar", " ".join(_cut(number, (4, 4, 4)))

    # networks

    def ip(self) -> str:
        chosen = self.rng.random()
        if chosen < 0.25:
            private = ("10.{}.{}.{}", "192.168.{1}.{2}", "172.{3}.{1}.{2}")
            numbers = [self.rng.randint(1, 254) for _ in range(3)]
            return self.rng.choice(private).format(*numbers, self.rng.randint(16, 31))
        if chosen < 0.65:
            while True:
                address = ipaddress.IPv4Address(self.rng.getrandbits(32))
                if address.is_global and not address.is_multicast:
                    return str(address)
        prefix = self.rng.choice((0x20010DB8, 0x2A001450, 0x26064700, 0xFE800000)) << 96
        if chosen < 0.8:
            return ipaddress.IPv6Address(prefix | self.rng.getrandbits(96)).exploded
        return ipaddress.IPv6Address(
            prefix | self.rng.getrandbits(self.rng.choice((8, 16, 32, 48)))
        ).compressed

    def mac(self) -> str:
        text = self.rng.choice((":", "-")).join(self.random(_HEX, 2) for _ in range(6))
        return self.rng.choice((text, text.upper()))

    def secret_url(self) -> str:
        host, user = self.host(), self.fakers["en_US"].user_name()
        word, token = self.plain_password(), self.random(_BASE62, self.rng.choice((20, 32, 40)))
        return self.rng.choice((
            f"https://⟦url_credentials|{user}:{word}⟧@{host}/v1/items",
            f"postgres://⟦url_credentials|{user}:{word}⟧@{host}:5432/app",
            f"postgresql+asyncpg://⟦url_credentials|{user}:{word}⟧@{host}/orders?sslmode=require",
            f"mysql://⟦url_credentials|{user}:{word}⟧@{host}:3306/shop",
            f"redis://:⟦url_credentials|{word}⟧@{host}:6379/0",
            f"mongodb+srv://⟦url_credentials|{user}:{word}⟧@{host}/?retryWrites=true",
            f"amqp://⟦url_credentials|{user}:{word}⟧@{host}/vhost",
            f"ftp://⟦url_credentials|{user}:{word}⟧@{host}/pub/report.csv",
            f"https://⟦url_credentials|oauth2:{token}⟧@{host}/group/project.git",
            f"https://{host}/v2/search?q=shoes&api_key=⟦url_credentials|{token}⟧",
            f"https://{host}/callback?access_token=⟦url_credentials|{token}⟧&state=ok",
            f"https://{host}/data.parquet?sv=2022-11-02&sr=b&sig=⟦url_credentials|{self.random(_BASE62, 42)}%3D⟧",
            f"https://{host}/hook?token=⟦url_credentials|{token}⟧",
            f"wss://{host}/stream?v=3&apikey=⟦url_credentials|{token}⟧",
            f"https://{host}/o?X-Amz-Expires=300&X-Amz-Signature=⟦url_credentials|{self.random(_HEX, 64)}⟧",
        ))  # fmt: skip

    # secrets

    def api_key(self) -> str:
        return self.rng.choice(self.keys)()[1]

    def jwt(self) -> str:
        header = {"alg": self.rng.choice(("HS256", "RS256", "ES256")), "typ": "JWT"}
        claims = {
            "sub": self.digits(8),
            "name": self.fakers["en_US"].first_name(),
            "iat": int(self.digits(9)),
        }
        if self.rng.random() < 0.5:
            claims["role"] = "admin"
        parts = [json.dumps(part, separators=(",", ":")) for part in (header, claims)]
        encoded = [base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts]
        return ".".join([*encoded, self.random(_URL_SAFE, 43)])

    def private_key(self) -> str:
        kind = self.rng.choice(
            ("RSA PRIVATE", "EC PRIVATE", "OPENSSH PRIVATE", "PRIVATE", "ENCRYPTED PRIVATE")
        )
        lines = [self.random(_BASE64, 64) for _ in range(self.rng.randint(2, 5))]
        last = self.random(_BASE64, 30) + "=="
        return "\n".join((f"-----BEGIN {kind} KEY-----", *lines, last, f"-----END {kind} KEY-----"))

    def credential(self) -> str:
        return self.rng.choice((
            self.plain_password, self.plain_password, lambda: self.random(_BASE62 + "!@%*^", 14),
            lambda: self.random(_BASE62, 20), lambda: self.word() + self.rng.choice("!@*^") + self.digits(4),
        ))()  # fmt: skip

    def plain_password(self) -> str:
        """As people choose them; fit for a URL."""
        return self.rng.choice((
            lambda: f"{self.word()}{self.digits(2)}-{self.rng.choice('xyzq')}{self.digits(1)}",
            lambda: f"{self.word().title()}{self.digits(4)}",
            lambda: f"{self.word()}-{self.word()}-{self.word()}-{self.digits(1)}",
            lambda: f"{self.word()}_{self.random(_BASE62, 5)}{self.digits(1)}",
            lambda: self.random(_BASE62, 12),
        ))()  # fmt: skip

    def word(self) -> str:
        return self.rng.choice(_WORDS)

    def secret(self) -> str:
        return self.random(
            self.rng.choice((_BASE62, _BASE62, _URL_SAFE)), self.rng.choice((24, 28, 32, 40, 44, 48))
        )

    def hex_secret(self) -> str:
        return f"⟦secret|{self.random(_HEX, self.rng.choice((32, 40, 64)))}⟧"

    def bearer(self) -> str:
        return f"⟦credential|{self.random(_URL_SAFE, self.rng.choice((24, 32, 40)))}⟧"

    def basic(self) -> str:
        return f"⟦credential|{_base64(self.word() + ':' + self.plain_password())}⟧"

    def spaced_key(self) -> str:
        """With a zero-width space in the middle."""
        text = self.api_key()
        return text[:9] + "\u200b" + text[9:]

    # what only looks like it

    def at(self) -> datetime:
        return _EPOCH + timedelta(seconds=self.rng.randrange(86_400 * 900))

    def iso(self) -> str:
        moment, form = (
            self.at(),
            self.rng.choice(("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S,123", "%Y-%m-%dT%H:%M:%S+09:00")),
        )
        return moment.strftime(form)

    def date(self) -> str:
        return self.at().strftime(self.rng.choice(("%Y-%m-%d", "%d.%m.%Y", "%Y/%m/%d", "%Y.%m.%d")))

    def clock(self) -> str:
        return self.at().strftime("%H:%M:%S")

    def level(self) -> str:
        return self.rng.choice(("INFO", "DEBUG", "WARNING", "ERROR"))

    def version(self) -> str:
        return ".".join(str(self.rng.randint(0, 30)) for _ in range(4))

    def semver(self) -> str:
        return ".".join(str(self.rng.randint(0, 30)) for _ in range(3))

    def uuid(self) -> str:
        text = self.random(_HEX, 32)
        return "-".join(_cut(text[:12] + "4" + text[13:16] + "a" + text[17:], (8, 4, 4, 4, 12)))

    def sha(self) -> str:
        return self.random(_HEX, 40)

    def short_sha(self) -> str:
        return self.random(_HEX, 7)

    def md5(self) -> str:
        return self.random(_HEX, 32)

    def sha256(self) -> str:
        return self.random(_HEX, 64)

    def span_id(self) -> str:
        return self.random(_HEX, 16)

    def order(self) -> str:
        return self.rng.choice(
            (
                f"ORD-{self.digits(8)}",
                f"#{self.digits(6)}",
                f"2025{self.digits(4)}-{self.digits(6)}",
                f"SO{self.digits(7)}",
            )
        )

    def number(self) -> str:
        return str(self.rng.randint(2, 9999))

    def grouped(self) -> str:
        return f"{self.rng.randrange(10**4, 10**9):,}"

    def price(self) -> str:
        return self.rng.choice("$€£") + f"{self.rng.randrange(100, 10**7) / 100:,.2f}"

    def nine_to_eleven(self) -> str:
        """Starts as no telephone number and no trunk prefix does in Korea or the United States."""
        return "1" + self.rng.choice("01") + self.digits(self.rng.randint(7, 9))

    def not_a_card(self) -> str:
        while True:
            number = self.rng.choice("456") + self.digits(15)
            if _luhn(number[:-1]) != int(number[-1]):
                return self.rng.choice((" ", "-", "")).join(_cut(number, (4, 4, 4, 4)))

    def ean(self) -> str:
        body = self.rng.choice(("880", "400", "401", "505")) + self.digits(9)
        return body + str(-sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(body)) % 10)

    def isbn(self) -> str:
        body = "978" + self.digits(9)
        check = -sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(body)) % 10
        return "-".join(_cut(f"{body}{check}", (3, 1, 5, 3, 1)))

    def model(self) -> str:
        return self.rng.choice(_MODELS)

    def camel(self) -> str:
        words = self.rng.sample(_CAMEL, self.rng.randint(4, 6))
        return words[0].lower() + "".join(words[1:]) + self.rng.choice(("", "V2", "Base64", "Utf8", "3d"))

    def colour(self) -> str:
        return "#" + self.random(_HEX, self.rng.choice((3, 6, 8)))

    def short_mac(self) -> str:
        return ":".join(self.random(_HEX, 2) for _ in range(self.rng.choice((3, 4, 5))))

    def latitude(self) -> str:
        return f"{self.rng.uniform(-90, 90):.{self.rng.choice((4, 6))}f}"

    def longitude(self) -> str:
        return f"{self.rng.uniform(-180, 180):.{self.rng.choice((4, 6))}f}"

    def model_call_id(self) -> str:
        prefix, length = self.rng.choice(
            (("chatcmpl-", 29), ("call_", 24), ("toolu_01", 22), ("msg_01", 22), ("resp_", 40))
        )
        return prefix + self.random(_BASE62, length)

    def integrity(self) -> str:
        return "sha512-" + self.random(_BASE64, 86) + "=="


def _cut(text: str, lengths: Iterable[int]) -> list[str]:
    pieces, at = [], 0
    for length in lengths:
        pieces.append(text[at : at + length])
        at += length
    return [piece for piece in pieces if piece]


def _luhn(body: str) -> int:
    doubled = (int(digit) * (1 if place % 2 else 2) for place, digit in enumerate(reversed(body)))
    return -sum(value // 10 + value % 10 for value in doubled) % 10


def _as_number(text: str) -> int:
    return int("".join(str(int(character, 36)) for character in text))


def _as_number_or_place(character: str) -> int:
    return int(character) if character.isdigit() else _UPPER.index(character)


def _spanish_digit(ten: str) -> str:
    weights = (1, 2, 4, 8, 5, 10, 9, 7, 3, 6)
    check = 11 - sum(int(digit) * weight for digit, weight in zip(ten, weights, strict=True)) % 11
    return str({10: 1, 11: 0}.get(check, check))


def _verhoeff(number: str) -> int:
    """The dihedral group of ten elements, by its rule: https://en.wikipedia.org/wiki/Verhoeff_algorithm."""
    check = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit)
        for _ in range(place % 8):
            value = int("1576283094"[value])
        first, second = check, value
        turned = (first + second) % 5 if first < 5 else (first - second) % 5
        check = turned + 5 * ((first >= 5) != (second >= 5))
    return check


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


_SPANISH_LETTERS: Final = "TRWAGMYFPDXBNJZSQVHLCKE"
_ITALIAN_ODD: Final = (
    1,
    0,
    5,
    7,
    9,
    13,
    15,
    17,
    19,
    21,
    2,
    4,
    18,
    20,
    11,
    3,
    6,
    8,
    12,
    14,
    16,
    10,
    22,
    25,
    24,
    23,
)
_WORDS: Final = (
    "hunter", "dragon", "sunshine", "monkey", "winter", "bluebird", "seoul", "coffee", "staple", "battery", "horse",
    "kimchi", "rocket", "purple", "mango", "tiger", "guitar", "lemon", "otter", "pepper", "violet", "zebra",
)  # fmt: skip
_CAMEL: Final = (
    "Get", "Customer", "Billing", "Address", "From", "Request", "Handler", "Factory", "Session", "Builder", "Async",
    "Message", "Queue", "Provider", "Retry", "Policy", "Embedding", "Vector", "Index", "Callback",
)  # fmt: skip
_MODELS: Final = (
    "gpt-4o-2024-08-06", "gpt-4.1-mini-2025-04-14", "claude-sonnet-4-20250514", "claude-3-5-haiku-20241022",
    "text-embedding-3-large", "gemini-2.5-flash-preview-09-2025", "llama-3.3-70b-instruct", "o3-mini-2025-01-31",
    "mistral-large-2411", "Qwen/Qwen2.5-72B-Instruct-GPTQ-Int4", "meta-llama/Llama-4-Scout-17B-16E-Instruct",
)  # fmt: skip
_KEY_SHAPES: Final = (  # issuer, prefix (in pieces: scanners), alphabet, length of the rest
    ("OpenAI", "s" + "k-", _BASE62, 48),
    ("OpenAI", "s" + "k-proj-", _URL_SAFE, 120),
    ("Anthropic", "s" + "k-ant-" + "api03-", _URL_SAFE, 95),
    ("AWS", "AK" + "IA", _UPPER + "234567", 16),
    ("Google Cloud", "AI" + "za", _URL_SAFE, 35),
    ("GitHub", "gh" + "p_", _BASE62, 36),
    ("GitLab", "gl" + "pat-", _URL_SAFE, 20),
    ("Hugging Face", "h" + "f_", string.ascii_letters, 34),
    ("Stripe", "s" + "k_li" + "ve_", _BASE62, 24),
    ("npm", "np" + "m_", _BASE62, 36),
    ("PyPI", "py" + "pi-" + "AgEIcHlwaS5vcmc", _URL_SAFE, 140),
    ("Twilio", "S" + "K", _HEX, 32),
    ("DigitalOcean", "do" + "p_v1_", _HEX, 64),
    ("Groq", "gs" + "k_", _BASE62, 52),
    ("xAI", "xa" + "i-", _BASE62, 80),
    ("Google OAuth", "ya" + "29.", _URL_SAFE, 100),
)
_PHONES: Final = (
    ("010-%###-####", "010.%###.####", "010 %### ####", "010%#######", "(02) %##-####", "02-%###-####", "031-%##-####"),
    ("+82 10-%###-####", "+82-10-%###-####", "+8210%#######", "+82 10 %### ####", "+82 2-%###-####", "+82 51-%##-####"),
    ("(212) %34-####", "415-%78-####", "206.%46-####", "312.%37.####", "(650) %83-####", "1-617-%53-####"),
    ("+1 212 %34 ####", "+1-415-%78-####", "+1 (650) %83-####", "+1312%37####", "+1 206-%46-#### ext. 12"),
    ("+49 30 %#######", "+49 89 %#####", "+49 171 %######", "+4915112######"),
    ("+33 1 42 ## ## ##", "+33 6 1# ## ## ##", "+336 7# ## ## ##", "+33142######"),
    ("+44 20 7### ####", "+44 7911 1#####", "+442079######", "+44 20-79##-####"),
)  # fmt: skip
_NOUNS: Final = {
    "email": (("e-mail address", "이메일", "email"), ("contact email", "연락처 이메일", "contact_email")),
    "phone": (("phone number", "전화번호", "phone"), ("mobile", "휴대폰 번호", "mobile")),
    "card": (("card number", "카드번호", "card_number"), ("credit card", "신용카드", "credit_card")),
    "iban": (("IBAN", "IBAN", "iban"), ("bank account", "계좌번호", "bank_account")),
    "ip": (("IP address", "IP 주소", "client_ip"), ("host address", "접속 IP", "remote_addr")),
    "mac": (("MAC address", "MAC 주소", "mac_address"), ("hardware address", "장치 주소", "hw_addr")),
    "jwt": (("session token", "세션 토큰", "id_token"), ("JWT", "JWT", "jwt")),
}
_KNOWN_WITHOUT_A_NOUN: Final = frozenset({"email", "phone", "card", "iban", "ip", "mac", "api_key", "jwt"})

# --- templates ----------------------------------------------------------------------------------------------
# In the order English, Korean, code, JSON, logs, markdown tables.

_NAMED: Final[tuple[tuple[str, ...], ...]] = (
    (
        "Please change the {noun} on my account to {v}.",
        "{name} gave us {v} as {noun}; can you check it before {date}?",
        "My {noun} is {v}, and the order was {order}.",
        "The customer's {noun} ({v}) does not match our records.",
        "{noun}: {v}",
        "Two things: the {noun} should be {v}, and the invoice over {price} is still open.",
        "Could you look up {noun} {v} for {eu_name}?",
        'We were told that the {noun} "{v}" belongs to {company}.',
        "What is wrong with this {noun}? {v}",
        "I wrote down the {noun} {v}; {sentence}",
    ),
    (
        "제 {ko}는 {v}입니다.",
        "{ko_name}님의 {ko} {v}로 변경해 주세요.",
        "{ko}: {v}",
        "고객 {ko_name}의 {ko}가 {v}으로 등록되어 있습니다.",
        "{ko}({v})를 확인해 주시겠어요?",
        "{ko}는 {v}이고 주문번호는 {order}입니다.",
        "{date}에 {ko} {v}를 삭제했습니다.",
        "혹시 {ko}가 {v}인가요?",
        "{ko} {v}에서 오류가 발생했어요. 금액은 {grouped}원입니다.",
        "새 {ko}는 '{v}'라고 합니다.",
    ),
    (
        '{key} = "{v}"',
        "{KEY}={v}",
        'export {KEY}="{v}"',
        'customer = Customer(name="{name}", {key}="{v}", active=True)',
        "assert user.{key} == '{v}'  # {sentence}",
        'curl -X POST https://{host}/v1/customers -d \'{"{key}": "{v}"}\'',
        "def test_lookup():\n    result = lookup({key}='{v}')\n    assert result is not None",
        "# {noun} of {name}: {v}",
        "INSERT INTO customers (id, {key}) VALUES ({number}, '{v}');",
        'const {key}: string = "{v}";',
        "{key}: {v}\nretries: 3",
    ),
    (
        '{"name": "update_customer", "arguments": {"{key}": "{v}", "notify": true}}',
        '{"{key}": "{v}"}',
        '{"id": "{uuid}", "customer": {"name": "{ko_name}", "{key}": "{v}"}, "total": {number}}',
        '{"role": "user", "content": "my {noun} is {v}"}',
        '{"role": "user", "content": "제 {ko}는 {v}입니다"}',
        '{"type":"function","function":{"name":"lookup","arguments":"{\\"{key}\\": \\"{v}\\", \\"limit\\": 5}"}}',
        '{"items":[{"{key}":"{v}","created_at":"{iso}"}],"next":null}',
        '{\n  "order": "{order}",\n  "{key}": "{v}",\n  "model": "{model}"\n}',
    ),
    (
        "{iso} {level} customer.update {key}={v} took {number} ms",
        "{iso} [{level}] app.checkout: {noun} {v} rejected (request {uuid})",
        '[{clock}] {level} lookup {key}="{v}" status=404',
        'level={level} ts={iso} msg="saved" {key}={v} trace_id={md5}',
        "{iso} {level} 12 --- [main] c.e.Importer : {noun}={v}, row={number}",
        "{level}: ValueError: invalid {noun}: '{v}'",
    ),
    (
        "| field | value |\n| --- | --- |\n| {noun} | {v} |\n| order | {order} |",
        "| 항목 | 값 |\n|---|---|\n| {ko} | {v} |\n| 이름 | {ko_name} |",
        "| id | name | {key} |\n|---:|---|---|\n| {number} | {name} | {v} |",
        "| date | {noun} | amount |\n| --- | --- | ---: |\n| {date} | `{v}` | {price} |",
        "|name|{key}|\n|-|-|\n|{name}|{v}|",
    ),
)
_BARE: Final[tuple[tuple[str, ...], ...]] = (
    (
        "{v} is what {name} left with us.",
        "Send it to {v}, please.",
        "Is {v} still in use? It was set on {date}.",
        "They used {v} and then {company} complained.",
        "It says {v}!",
    ),
    (
        "{v}으로 보내 주세요.",
        "{v}로 연락 바랍니다.",
        "{ko_name}님은 {v}를 사용합니다.",
        "{v}에서 접속이 확인되었습니다.",
        "문의는{v}로 해주세요",
        "어제 {v}이 차단되었어요.",
    ),
    (
        "send('{v}', retries=3)",
        'KNOWN = ["{v}", "{semver}"]',
        "grep -rn '{v}' src/ | head",
        "./run --to {v} --dry-run",
        'print("{v}")  # {date}',
    ),
    (
        '{"content": "{v}"}',
        '["{v}", {number}, null]',
        '{"tool": "search", "input": "find {v} in the archive"}',
        '{"messages":[{"role":"assistant","content":"I found {v}."}]}',
    ),
    (
        "{iso} {level} seen {v} at {host}",
        "{clock} {level} worker-3 [{v}] done in {number} ms",
        "{level}:root:got {v}, expected none",
    ),
    ("| {v} | {date} | ok |", "| seen | count |\n|---|---|\n| {v} | {number} |"),
)

_OWN: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "url_credentials": (
        (
            "The service answers at {v} since {date}.",
            "Use {v} for the migration, {name} said.",
            "I get a timeout from {v} every few minutes.",
            "Here is the link: {v}",
            "Open <{v}> and press the button.",
            "Why does ({v}) return 403?",
        ),
        (
            "접속 주소는 {v} 입니다.",
            "{v} 로 연결해 주세요.",
            "{ko_name}님이 공유한 링크: {v}",
            "이 주소({v})에서 오류가 납니다.",
            "아래 URL을 사용하세요.\n{v}\n감사합니다.",
        ),
        (
            'DATABASE_URL="{v}"',
            "SERVICE_URL={v}",
            'engine = connect("{v}", pool_size=5)',
            "curl -s '{v}' | jq .",
            "url = '{v}'  # {sentence}",
            "services:\n  app:\n    environment:\n      UPSTREAM: \"{v}\"",
        ),
        (
            '{"url": "{v}", "method": "GET"}',
            '{"name": "fetch", "arguments": {"url": "{v}", "timeout": 30}}',
            '{"type":"function","function":{"name":"fetch","arguments":"{\\"url\\": \\"{v}\\"}"}}',
            '{"id": "{uuid}", "callback": "{v}"}',
        ),
        (
            "{iso} {level} connecting to {v}",
            '{iso} {level} httpx HTTP Request: GET {v} "HTTP/1.1 200 OK"',
            "[{clock}] {level} retry {number} url={v}",
            "{level}: OperationalError: could not connect: {v}",
        ),
        (
            "| service | url |\n| --- | --- |\n| app | {v} |",
            "| 이름 | 주소 |\n|---|---|\n| {ko_name} | {v} |",
            "| {date} | `{v}` | ok |",
        ),
    ),
    "private_key": (
        (
            "Here is the key I use:\n{v}\nIs it in the right format?",
            "{v}",
            "{name} sent this by mistake:\n\n{v}\n\nPlease revoke it.",
            "Why does ssh refuse this key?\n```\n{v}\n```",
        ),
        (
            "아래 키로 접속해 주세요.\n{v}\n감사합니다.",
            "{ko_name}님의 개인 키입니다:\n{v}",
            "이 키는 왜 안 되나요?\n```\n{v}\n```",
        ),
        (
            'KEY = """{v}"""',
            'PRIVATE_KEY="{ve}"',
            "cat > id_rsa <<EOF\n{v}\nEOF\nchmod 600 id_rsa",
            'signer = Signer("{ve}")',
            "export TLS_KEY='{v}'",
        ),
        (
            '{"type": "service_account", "private_key": "{ve}", "project_id": "demo"}',
            '{"role": "user", "content": "my key:\\n{ve}\\nthanks"}',
            '{"tool": "write_file", "arguments": {"path": "/srv/.ssh/id_ed25519", "text": "{ve}"}}',
        ),
        ("{iso} {level} loaded {ve}", "{iso} {level} key:\n{v}", "{level}: ValueError: bad key '{ve}'"),
        ("| name | key |\n| --- | --- |\n| deploy | {ve} |", "| {date} | `{ve}` |"),
    ),
    "credential": (
        (
            "My password is {v} and I cannot log in.",
            "password: {v}",
            "Use the password {v} for the demo account of {name}.",
            "Login: {word}\nPassword: {v}\nThe rest you know.",
            "The passphrase is \"{v}\", keep it safe.",
            "The new pwd: {v}, valid until {date}.",
            "I set the admin password to '{v}' yesterday.",
        ),
        (
            "비밀번호: {v}",
            "비밀번호는 {v}입니다.",
            "{ko_name}님, 임시 비밀번호는 {v} 이니 변경해 주세요.",
            "아이디는 {word}이고 비밀번호는 {v}이에요",
            "패스워드 : {v}",
            "와이파이 비번은 {v}예요.",
            "비번={v}",
        ),
        (
            'password = "{v}"',
            "DB_PASSWORD={v}",
            "export PGPASSWORD='{v}'",
            'client = Client(user="{word}", password="{v}")',
            'curl -H "Authorization: Bearer {bearer}" https://{host}/v1/models',
            'headers = {"Authorization": "Basic {basic}"}',
            'headers["Authorization"] = f"Bearer {bearer}"',
            "mysql --user={word} --password={v} shop",
            "spring.datasource.password={v}",
            "smtp:\n  user: {word}\n  passwd: {v}\n  port: 587",
            '$password = "{v}";',
        ),
        (
            '{"client_id": "web", "client_secret": "{v}"}',
            '{"username": "{word}", "password": "{v}"}',
            '{"headers": {"Authorization": "Bearer {bearer}", "Accept": "application/json"}}',
            '{"headers": {"authorization": "Basic {basic}"}, "retries": 2}',
            '{"type":"function","function":{"name":"login","arguments":"{\\"password\\": \\"{v}\\"}"}}',
            '{"db": {"host": "{host}", "port": 5432, "passwd": "{v}"}}',
            '{"x-api-key": "{v}", "model": "{model}"}',
        ),
        (
            "{iso} {level} login user={word} password={v} ok",
            "{iso} {level} > Authorization: Bearer {bearer}",
            "> authorization: Basic {basic}\n> accept: */*",
            "[{clock}] {level} config db.password={v} db.pool=5",
            "{level}: AuthError: wrong password '{v}' for {word}",
        ),
        (
            "| user | password |\n| --- | --- |\n| {word} | {v} |",
            "| setting | value |\n| --- | --- |\n| password | {v} |\n| port | 5432 |",
            "| 항목 | 값 |\n|---|---|\n| 비밀번호 | {v} |",
            "| header | value |\n|---|---|\n| Authorization | Bearer {bearer} |",
        ),
    ),
    "secret": (
        (
            "{v}",
            "The script printed {v} and stopped.",
            "Use {v} for the webhook, {name} said.",
            "The signing secret is {hex_secret}.",
            "secret key: {hex_secret}",
            "Our encryption key {hex_secret} was set on {date}.",
            "What is this? {v}",
        ),
        (
            "{v}를 입력해 주세요.",
            "시크릿은 {v}입니다.",
            "비밀키: {hex_secret}",
            "{ko_name}님이 {v} 값을 보냈습니다.",
            "서명 키(secret key)는 {hex_secret}입니다.",
            "토큰 {v}로 다시 시도하세요.",
        ),
        (
            'SECRET_KEY = "{v}"',
            "SESSION_SECRET={hex_secret}",
            'hmac.new(b"{v}", body, "sha256")',
            "export WEBHOOK_SECRET='{v}'",
            'value = "{v}"',
            "./deploy --with {v} --region eu-west-1",
            'aws_secret_access_key = {v}',
            'encryption_key: "{hex_secret}"',
        ),
        (
            '{"secret": "{v}"}',
            '{"value": "{v}", "ttl": 3600}',
            '{"name": "deploy", "arguments": {"webhook_secret": "{hex_secret}", "dry_run": false}}',
            '{"type":"function","function":{"name":"run","arguments":"{\\"secret_key\\": \\"{v}\\"}"}}',
            '{"output": "done: {v}"}',
        ),
        (
            "{iso} {level} received {v} from {host}",
            "{iso} {level} signing_secret={hex_secret}",
            "[{clock}] {level} session {v} opened",
            "{level}: HookError: secret {v} rejected",
        ),
        (
            "| name | value |\n| --- | --- |\n| secret | {v} |",
            "| 항목 | 값 |\n|---|---|\n| 비밀키 | {hex_secret} |",
            "| {date} | `{v}` | ok |",
        ),
    ),
}  # fmt: skip

_MIXED: Final = (
    "{name}, {company}\n⟦email|{email}⟧\n⟦phone|{phone}⟧",
    "담당자 {ko_name}(⟦phone|{phone}⟧, ⟦email|{email}⟧)에게 {date}까지 회신 바랍니다.",
    '{"name":"{name}","email":"⟦email|{email}⟧","phone":"⟦phone|{phone}⟧","card":"⟦card|{card}⟧"}',
    "{iso} {level} client ⟦ip|{ip}⟧ user=⟦email|{email}⟧ status=200",
    "OPENAI_API_KEY=⟦api_key|{api_key}⟧\nDB_PASSWORD=⟦credential|{credential}⟧\nDEBUG=1",
    "Pay to ⟦iban|{iban}⟧ or by card ⟦card|{card}⟧; questions to ⟦email|{email}⟧.",
    "ssh from ⟦ip|{ip}⟧ (⟦mac|{mac}⟧) at {clock}, password: ⟦credential|{plain_password}⟧",
    "| name | e-mail | phone |\n|---|---|---|\n| {ko_name} | ⟦email|{email}⟧ | ⟦phone|{phone}⟧ |",
)

_NEGATIVES: Final[tuple[tuple[str, ...], ...]] = (
    ("Order {order} shipped on {date}.", "주문번호 {order}의 배송이 시작되었습니다.", '{"order_id": "{order}"}', "{iso} {level} order={order} paid"),
    ("The meeting is on {iso}.", '{"created_at": "{iso}", "updated_at": "{iso}"}', "{iso} {level} started", "{date}부터 {date}까지 휴무입니다."),
    ("Upgrade to version {version} soon.", "v{version} was released on {date}.", "version: {version}", "버전 {version}에서 수정되었습니다.", "Version={version}, Culture=neutral"),
    ("pip install requests=={semver} httpx=={semver}", "node v{semver}, npm {semver}", '{"version": "{semver}"}', "lodash@{semver} -> lodash@{semver}", "npm i @types/node@{semver}"),
    ("Run {uuid} failed.", '{"id": "{uuid}"}', "request_id={uuid} status=500", "요청 {uuid}을 확인했습니다.", "| {uuid} | {date} |"),
    ("Fixed in commit {sha}.", "git checkout {sha}", "commit {sha}\nAuthor: {name}\nDate: {date}", '{"commit": "{sha}", "branch": "main"}', "커밋 {sha}에서 고쳤습니다."),
    ("{short_sha} fix the parser\n{short_sha} add a test", "See {short_sha} for the change.", "git revert {short_sha}", "{short_sha}..{short_sha}  main -> main"),
    ("md5: {md5}", "MD5 checksum {md5} of the archive", "{md5}  archive.tar.gz (md5)", '{"md5": "{md5}", "size": {number}}', "ETag: \"{md5}\""),
    ("sha256:{sha256}", "SHA256 ({path}) = {sha256}", "--hash=sha256:{sha256}", '{"sha256": "{sha256}"}', "image@sha256:{sha256}", "체크섬 sha256 {sha256}이 일치합니다."),
    ("trace_id={md5} span_id={span_id}", '{"trace_id": "{md5}", "span_id": "{span_id}"}', "traceparent: 00-{md5}-{span_id}-01", "Look at trace {md5} in the viewer.", "트레이스 {md5}를 확인하세요."),
    ('"integrity": "{integrity}"', 'integrity sha1-{short_sha}\n  "{integrity}"', '<script src="https://{host}/a.js" integrity="{integrity}"></script>'),
    ("It costs {price} per month, {price} per year.", "총 {price}", '{"total": "{price}"}', "| {price} | {price} |", "{price} + {price} VAT on invoice {order}"),
    ("금액은 {grouped}원입니다.", "{grouped}원을 {date}에 입금했습니다.", "잔액 {grouped}원, 이자 {number}원", "합계: {grouped}원 (부가세 {grouped}원)"),
    ("We use {model} and {model}.", 'model="{model}"', '{"model": "{model}", "temperature": 0.2}', "{model} 모델을 사용했습니다.", "{iso} {level} {model} 812 tokens"),
    ("The file is at {path}.", "open('{path}')", "{path}:{number}: error", "파일 {path}를 찾을 수 없습니다.", '{"path": "{path}", "lines": {number}}'),
    ("/usr/lib/python3.11/site-packages/{camel}/__init__.py", "s3://bucket-2025/{date}/part-00{number}.parquet", "C:\\Users\\{word}\\AppData\\{camel}.log", "/proc/{number}/fd/{number}"),
    ("Call {camel} before {camel}.", "const {camel} = {camel}(options);", "def {camel}(self): ...", "com.example.{camel}.{camel}", '{"tool": "{camel}"}', "{camel} 함수를 호출하세요."),
    ("color: {colour};", ".card { background: {colour}; border: 1px solid {colour} }", "The brand colour is {colour}.", "색상은 {colour}입니다.", '{"fill": "{colour}"}'),
    ("EAN {ean}", "Product {ean} is out of stock.", '{"ean": "{ean}", "qty": {number}}', "바코드 {ean} 상품입니다.", "| {ean} | {price} |"),
    ("ISBN {isbn}", "The book (ISBN {isbn}) costs {price}.", '{"isbn": "{isbn}"}', "도서 ISBN: {isbn}"),
    ("{number} + {number} * {number} = ?", "x = ({number} - {number}) / {number}", "What is {number} times {number}?", "{number} * {grouped} 을 계산해줘", "3.14159265358979 * {number}"),
    ("@app.route('/items')\ndef items(): ...", "@pytest.fixture(scope=\"{word}\")\ndef {word}(): ...", "@{camel}\nclass {word}: ...", "@dataclass(frozen=True)\nclass {camel}: ...", "@{word}.setter"),
    ("ssh {word}@{word}", "user@ is what it printed for {word}", "{word}@localhost:~$ ls {path}", "git log --author={word}@", "Thanks @{word} and @{word}!", "root@{word}:/# id"),
    ("token_count = {number}", "max_tokens: {number}", '{"max_tokens": {number}, "total_tokens": {number}}', "prompt_tokens={number} completion_tokens={number}", "토큰 수는 {number}개입니다.", "token_limit={number}"),
    ("The password must have {number} characters.", "Your password expires on {date}.", "Password rules changed in version {semver}.", "She forgot the password again on {date}.", "password length: {number}"),
    ("비밀번호는 {number}자 이상이어야 합니다.", "{date}에 비밀번호를 변경하세요.", "비밀번호 오류 {number}회", "비밀번호가 틀렸습니다. ({number}번째)", "{ko_name}님, 비밀번호를 잊으셨나요?"),
    ("The API key is missing ({level}).", "api key is missing for {company}", "{level}: no API key found; set OPENAI_API_KEY ({date})", "API 키가 없습니다. ({date})", "Rotate the secret every {number} days."),
    ('api_key = os.environ["{word}_API_KEY"]', "password = getpass('{word}: ')", "def login(self, {word}: str, password: str) -> None:", "secret=settings.{camel}", "token = await get_token({number})", 'password = config["{word}"]["password"]'),
    ('{"api_key": "${{word}_API_KEY}"}', "password: ******** ({date})", "Authorization: Bearer <token> # {word}", "API_KEY=<YOUR_{word}_KEY>", '{"password": null, "user": "{word}"}', "password={{ {word}_password }}", "secret: [REDACTED] {date}"),
    ("https://{host}/docs/{word}?page={number}&sort=desc", "See https://{host}/{camel} for more.", "curl https://{host}:8443/health", "링크: https://{host}/ko/{word}", "GET https://{host}/v1/items/{number}?limit=5"),
    ("https://{host}/@{word}/posts/{number}", "https://{host}/a:b@{number}", "https://www.npmjs.com/package/@{word}/{word}", "postgres://{host}:5432/{word}", "redis://{host}:6379/{number}"),
    ("lat={latitude}, lon={longitude}", "The place is at {latitude}, {longitude}.", '{"lat": {latitude}, "lng": {longitude}}', "좌표는 {latitude}, {longitude}입니다.", "POINT({longitude} {latitude})"),
    ("See section {semver} and section {semver}.", "{semver} Scope\n{semver} Terms", "§ {semver} says so.", "{semver}절을 참고하세요.", "chapter {semver}.{number}"),
    ("At {clock} it stopped, at {clock} it ran again.", "{clock}에 시작합니다.", "{clock} - {clock}: lunch", '{"time": "{clock}"}', "00:{clock} elapsed"),
    ("The bytes are {short_mac}.", "fingerprint ends in {short_mac}", "prefix {short_mac} ({word})", "{short_mac} 로 시작합니다."),
    ("Number {not_a_card} is not a card.", "id {not_a_card}", '{"counter": "{not_a_card}"}', "관리번호 {not_a_card} 입니다.", "serial {not_a_card}, batch {number}"),
    ("The value was {nine_to_eleven}.", '{"id": {nine_to_eleven}}', "row {nine_to_eleven} of {nine_to_eleven}", "값은 {nine_to_eleven}입니다.", "{iso} {level} bytes={nine_to_eleven}"),
    ("주소는 {ko_address}입니다.", "{ko_name}, {ko_address}", "배송지: {ko_address}", '{"address": "{ko_address}"}'),
    ("{name} met {ko_name} in {date}.", "{eu_name} works for {company}.", "{ko_name}님 안녕하세요.", "{sentence}"),
    ('{"id": "{model_call_id}", "object": "chat.completion"}', "tool_call_id={model_call_id}", "{iso} {level} response {model_call_id} done", 'tool_calls=[{"id": "{model_call_id}", "type": "function"}]'),
    ("for i in range({number}): total += i * {number}", "SELECT {word} FROM {word} WHERE id = {number}", "df.loc[{number}:{number}, '{word}'].mean()", "if x > {number} and y < {number}: return {number}"),
    ("Invoice {order} of {date} over {price}, due in {number} days.", "| {order} | {date} | {price} |", "{date} {order} {price}", "청구서 {order} ({date}) {grouped}원"),
    ("timestamp 17{nine_to_eleven}", "ts=1{nine_to_eleven}", '{"start_ns": 17{nine_to_eleven}{number}}', "1{nine_to_eleven} ms since the epoch"),
    ("tracking number 1Z999AA1{nine_to_eleven}", "운송장 번호 {nine_to_eleven}", "flight KE0{number}, seat 12A, {date}", "lot L{nine_to_eleven}"),
    ("pod {word}-{short_sha}-x{number}q restarted", "i-0{span_id} is running", "arn:aws:s3:::{word}-{date}", "projects/{word}-{number}/locations/us-central1", "node-{word}-{number}.internal"),
    ("[0.{number}, -0.{number}, 0.{number}, 1.{number}]", "score 0.{number}{number}", "loss: 2.{number}e-05", "embedding dims {number}, norm 1.{number}"),
    ("The ratio is {number}:{number}:{number}.", "resolution {number}x{number}@2x", "scale @{number}px", "{number}% of {grouped} rows", "{number}/{number} passed"),
    ("{sentence} {sentence}", "{sentence} ({company}, {date})", "{company}: {sentence}"),
)  # fmt: skip

# --- hard cases, written by hand ----------------------------------------------------------------------------

_ZERO_WIDTH_SPACE, _ZERO_WIDTH_JOINER, _WORD_JOINER, _SOFT_HYPHEN = "\u200b", "\u200d", "\u2060", "\u00ad"

_HAND_WRITTEN: Final = (
    # full-width digits, letters and signs
    "메일은 ⟦email|hong＠example.com⟧ 입니다",
    "⟦email|ｈｏｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ⟧",
    "전화 ⟦phone|０１０－１２３４－５６７８⟧로 주세요",
    "휴대폰：⟦phone|０１０-９８７６-５４３２⟧",
    "카드 ⟦card|４１１１ １１１１ １１１１ １１１１⟧",
    "Card ⟦card|５５００-００００-００００-０００４⟧ was refused.",
    "주민등록번호 ⟦national_id|９００１０１－１２３４５６８⟧",
    "IP ⟦ip|１９２．１６８．０．１７⟧",
    "전화: ⟦phone|（０２）３４５６－７８９０⟧",
    "메일주소：⟦email|minsu.kim＠corp.example.kr⟧。",
    # zero-width and invisible characters inside values
    f"⟦email|hong{_ZERO_WIDTH_SPACE}@example.com⟧",
    f"write to ⟦email|al{_ZERO_WIDTH_JOINER}ice@exam{_ZERO_WIDTH_JOINER}ple.com⟧ today",
    f"연락처 ⟦phone|010-{_ZERO_WIDTH_SPACE}1234-{_ZERO_WIDTH_SPACE}5678⟧입니다",
    f"card ⟦card|4111{_WORD_JOINER}1111{_WORD_JOINER}1111{_WORD_JOINER}1111⟧",
    f"⟦iban|DE89{_ZERO_WIDTH_SPACE}3704{_ZERO_WIDTH_SPACE}0044{_ZERO_WIDTH_SPACE}0532{_ZERO_WIDTH_SPACE}0130{_ZERO_WIDTH_SPACE}00⟧",
    "key ⟦api_key|{spaced_key}⟧ end",
    f"⟦email|bob{_SOFT_HYPHEN}by@example.org⟧",
    f"ip ⟦ip|203.0.{_ZERO_WIDTH_SPACE}113.7⟧",
    f"{_ZERO_WIDTH_SPACE}⟦email|carol@example.net⟧{_ZERO_WIDTH_SPACE}",
    "\ufeff⟦phone|+82 10-2345-6789⟧",
    # homoglyphs
    "⟦email|аlice@example.com⟧ (Cyrillic а)",
    "send to ⟦email|bоb@exаmple.com⟧",
    "⟦email|сарlo@example.org⟧로 보내 주세요",
    "reply: ⟦email|support@ехample.com⟧",
    "⟦email|маria@пример.рф⟧",
    "⟦email|김철수@예시.한국⟧ 로 보내세요",
    "⟦email|müller@beispiel-straße.de⟧",
    # brackets and quotes
    "<⟦email|dave@example.com⟧>",
    "Dave Jones <⟦email|dave.jones@example.co.uk⟧>, Eve <⟦email|eve@example.com⟧>",
    "(⟦phone|010-1234-5678⟧)",
    "[⟦ip|198.51.100.23⟧]",
    "[⟦ip|2001:db8::8a2e:370:7334⟧]:8443",
    "“⟦email|frank@example.com⟧”",
    "‘⟦phone|+1 212-734-5678⟧’",
    "「⟦email|grace@example.jp⟧」",
    "『⟦phone|02-3456-7890⟧』",
    "{⟦email|heidi@example.com⟧}",
    "**⟦email|ivan@example.com⟧**",
    "_⟦email|judy@example.com⟧_",
    "`⟦api_key|{api_key}⟧`",
    "'⟦card|4111-1111-1111-1111⟧'",
    '"""⟦email|ken@example.com⟧"""',
    "[mail me](mailto:⟦email|leo@example.com⟧)",
    "<a href=\"mailto:⟦email|mallory@example.com⟧?subject=hi\">write</a>",
    "<td>⟦phone|415-678-2345⟧</td><td>⟦email|niaj@example.com⟧</td>",
    "<password>⟦credential|{plain_password}⟧</password>",
    "<apiKey>⟦api_key|{api_key}⟧</apiKey>",
    "((⟦iban|GB82 WEST 1234 5698 7654 32⟧))",
    # at the start and the end, next to punctuation
    "⟦email|olivia@example.com⟧",
    "⟦phone|010-2222-3333⟧",
    "⟦card|378282246310005⟧",
    "⟦ip|203.0.113.99⟧",
    "⟦mac|00:1b:63:84:45:e6⟧",
    "⟦iban|NL91ABNA0417164300⟧",
    "Mail ⟦email|peggy@example.com⟧.",
    "Mail ⟦email|peggy@example.com⟧, call ⟦phone|206-746-1234⟧; or wait…",
    "Is it ⟦email|quentin@example.com⟧?",
    "No: ⟦ip|203.0.113.5⟧!",
    "from ⟦ip|203.0.113.5⟧.",
    "ip=⟦ip|203.0.113.5⟧:51234",
    "⟦ip|203.0.113.5⟧/24 and ⟦ip|2001:db8::⟧/32",
    "e-mail:⟦email|rupert@example.com⟧;phone:⟦phone|312-437-1234⟧",
    "…⟦email|sybil@example.com⟧…",
    "—⟦phone|+49 30 23456789⟧—",
    "Password:⟦credential|{plain_password}⟧\n",
    "pw=⟦credential|{plain_password}⟧,user=root",
    "Use the key ⟦api_key|{api_key}⟧.",
    "Key:⟦api_key|{api_key}⟧,next",
    "Token=⟦jwt|{jwt}⟧;",
    "\t⟦email|trent@example.com⟧\r\n",
    "email=⟦email|victor@example.com⟧&phone=⟦phone|+12127345678⟧",
    "A/⟦email|walter@example.com⟧/B",
    "a|⟦email|wendy@example.com⟧|b",
    # e-mails with unusual local parts and domains
    "⟦email|first.last+tag.more@sub.mail.example.co.uk⟧",
    "⟦email|a@b.co⟧",
    "⟦email|x_y-z.1+2@example.museum⟧",
    "⟦email|o'brien@example.ie⟧ is hers",
    "⟦email|no.reply+bounce=42@lists.example.org⟧",
    "⟦email|UPPER.CASE@EXAMPLE.COM⟧",
    "⟦email|1234567890@example.com⟧",
    "⟦email|admin@mail-01.eu-west.example.technology⟧",
    "⟦email|ops@xn--bcher-kva.example⟧",
    "⟦email|user%group@example.com⟧",
    "\"⟦email|john.q.public@example.com⟧\" bounced",
    # two values next to one another
    "⟦email|a.one@example.com⟧,⟦email|b.two@example.com⟧",
    "⟦email|a.one@example.com⟧;⟦email|b.two@example.com⟧",
    "⟦email|a.one@example.com⟧ ⟦email|b.two@example.com⟧",
    "⟦email|a.one@example.com⟧/⟦phone|010-4444-5555⟧",
    "⟦phone|010-4444-5555⟧⟦email|kim@example.com⟧",
    "⟦phone|010-4444-5555⟧/⟦phone|02-777-8888⟧",
    "⟦phone|010-4444-5555⟧, ⟦phone|010-6666-7777⟧",
    "⟦ip|203.0.113.1⟧,⟦ip|203.0.113.2⟧",
    "⟦ip|10.0.0.1⟧ ⟦ip|10.0.0.2⟧ ⟦ip|10.0.0.3⟧",
    "⟦ip|10.0.0.1⟧-⟦ip|10.0.0.254⟧",
    "⟦card|4111111111111111⟧\n⟦card|5500000000000004⟧",
    "⟦card|4111111111111111⟧,⟦iban|DE89370400440532013000⟧",
    "⟦mac|00:1b:63:84:45:e6⟧ ⟦ip|192.168.1.20⟧",
    "⟦api_key|{api_key}⟧ ⟦api_key|{api_key}⟧",
    "⟦api_key|{api_key}⟧\n⟦jwt|{jwt}⟧",
    "⟦email|lee@example.com⟧:⟦credential|{plain_password}⟧ password for the shop",
    # Korean without spaces
    "제이메일은⟦email|hong@example.com⟧이고전화는⟦phone|010-1234-5678⟧입니다",
    "⟦email|hong@example.com⟧으로보내주세요",
    "⟦phone|010-1234-5678⟧로연락주세요",
    "전화번호⟦phone|01012345678⟧입니다",
    "연락처는⟦phone|010.1234.5678⟧이에요",
    "카드번호는⟦card|4111111111111111⟧이고유효기간은12/27입니다",
    "주민번호⟦national_id|900101-1234568⟧맞나요",
    "비밀번호는⟦credential|{plain_password}⟧입니다",
    "비번은⟦credential|{plain_password}⟧이에요",
    "아이피⟦ip|203.0.113.77⟧에서접속",
    "서버⟦ip|10.20.30.40⟧번",
    "계좌는⟦iban|DE89370400440532013000⟧입니다",
    "키는⟦api_key|{api_key}⟧입니다",
    "토큰⟦jwt|{jwt}⟧를확인해주세요",
    "맥주소⟦mac|00-1B-63-84-45-E6⟧인장비",
    "사업자등록번호⟦national_id|220-81-62517⟧입니다",
    "홍길동⟦phone|010-1234-5678⟧서울시강남구",
    "문의⟦phone|02)123-4567⟧",
    "팩스⟦phone|031-234-5678⟧번으로",
    # URL-encoded, entities, escapes
    "https://example.com/u?email=⟦email|name%40example.com⟧&page=2",
    "https://example.com/u?e=⟦email|first.last%2Btag%40example.co.uk⟧",
    "GET /login?user=⟦email|hong%40example.com⟧ HTTP/1.1",
    "redirect_uri=https%3A%2F%2Fexample.com%2F%3Fmail%3D⟦email|kim%40example.com⟧",
    "email%3D⟦email|lee%40example.com⟧%26x%3D1",
    "mailto:⟦email|park%40example.com⟧",
    "phone=⟦phone|%2B821012345678⟧&lang=ko",
    r'{"email": "⟦email|hong\u0040example.com⟧"}',
    r'{"to": "⟦email|alice\u0040example.com⟧", "cc": "⟦email|bob\u0040example.com⟧"}',
    "<p>⟦email|hong&#64;example.com⟧</p>",
    "<p>⟦email|hong&#x40;example.com⟧</p>",
    # base64 of a text that holds an e-mail
    "payload: ⟦encoded|please write to hong@example.com about the order⟧",
    '{"data": "⟦encoded|From: alice@example.com, To: bob@example.com, Subject: hello⟧"}',
    "echo ⟦encoded|user=carol@example.net&plan=pro&lang=en⟧ | base64 -d",
    "⟦encoded|연락처는 minsu@example.kr 입니다. 감사합니다.⟧",
    "인코딩된 값은 ⟦encoded|{'email': 'dave@example.com', 'id': 17}⟧입니다",
    "cursor=⟦encoded|next:erin@example.com:2025-01-01⟧&limit=20",
    "| blob | ⟦encoded|frank.smith@example.com is the owner of it⟧ |",
    "X-User: ⟦encoded|grace.hopper+navy@example.mil,heidi@example.com⟧",
    "data:text/plain;base64,⟦encoded|reach me at ivan@example.com or at judy@example.com⟧",
    "b64decode('⟦encoded|mail: ken@example.com; phone: 010-1234-5678⟧')",
    "INFO body=⟦encoded|<contact>leo@example.com</contact>⟧ size=48",
    "The header was \"⟦encoded|sub: mallory@example.com, aud: example⟧\".",
    # nested JSON
    r'{"name":"send_mail","arguments":"{\"to\":\"⟦email|hong@example.com⟧\",\"body\":\"hi\\n\"}"}',
    r'{"arguments":"{\"phone\":\"⟦phone|010-1234-5678⟧\",\"text\":\"a\\\"b\"}"}',
    r'{"a":"{\"b\":\"{\\\"email\\\":\\\"⟦email|deep@example.com⟧\\\"}\"}"}',
    r'{"a":"{\"password\":\"⟦credential|{plain_password}⟧\"}"}',
    r'{"a":"{\"b\":\"{\\\"api_key\\\":\\\"⟦api_key|{api_key}⟧\\\"}\"}"}',
    r'{"output":"line one\n⟦email|line.two@example.com⟧\nline three"}',
    r'{"output":"card:\t⟦card|4111 1111 1111 1111⟧\r\n"}',
    r'{"env":"A=1\nDB_PASSWORD=⟦credential|{plain_password}⟧\nB=2"}',
    r'{"stdout":"Authorization: Bearer ⟦credential|{secret}⟧\n"}',
    r'{"query":"SELECT * FROM users WHERE email = \u0027⟦email|sql@example.com⟧\u0027"}',
    r'"{\"ssn\": \"⟦national_id|536-22-8714⟧\"}"',
    r'{"url":"https:\/\/⟦url_credentials|admin:{plain_password}⟧@example.com\/x"}',
    r'{"text":"\uc774\uba54\uc77c ⟦email|unicode@example.com⟧\uc785\ub2c8\ub2e4"}',
    r"{'email': '⟦email|python.repr@example.com⟧', 'n': None}",
    r"b'⟦email|bytes@example.com⟧\r\n'",
    # emoji around
    "📧⟦email|emoji@example.com⟧📧",
    "📞⟦phone|010-1234-5678⟧",
    "☎️ ⟦phone|+82 2-3456-7890⟧ 🙂",
    "🔑⟦api_key|{api_key}⟧🔑",
    "💳 ⟦card|4111 1111 1111 1111⟧ ✅",
    "👩‍💻 ⟦email|dev@example.com⟧ 👨‍👩‍👧",
    "비밀번호🔒: ⟦credential|{plain_password}⟧ 😀",
    "🇰🇷⟦phone|+821012345678⟧🇩🇪⟦phone|+49 171 2345678⟧",
    "🏦⟦iban|FR1420041010050500013M02606⟧",
    "𝒜 math letter before ⟦email|astral@example.com⟧",
    # line breaks and wrapping
    "E-mail:\n⟦email|below@example.com⟧\nPhone:\n⟦phone|010-1234-5678⟧",
    "> ⟦email|quoted@example.com⟧ wrote:\n>> old text",
    "- ⟦email|item.one@example.com⟧\n- ⟦email|item.two@example.com⟧\n* ⟦phone|02-555-1234⟧",
    "host,ip\nweb,⟦ip|203.0.113.8⟧\ndb,⟦ip|10.1.2.3⟧\n",
    "name\temail\nKim\t⟦email|tab@example.com⟧",
    "password:\n  ⟦credential|{plain_password}⟧",
    "Card number\n⟦card|4111 1111 1111 1111⟧\nExpiry 12/27",
    "Version 1.2.3.4 runs at ⟦ip|203.0.113.4⟧, commit {short_sha}.",
    "On {date} at {clock} ⟦email|mixed@example.com⟧ paid {price} with ⟦card|4242 4242 4242 4242⟧ for {order}.",
    "git clone https://⟦url_credentials|x-access-token:{secret}⟧@github.com/org/repo.git",
    "curl -u '⟦credential|{word}:{plain_password}⟧' https://{host}/",
    "sk- is how OpenAI keys start; this is one: ⟦api_key|{api_key}⟧",
    "Cookie: theme=dark; session=⟦secret|{secret}⟧; lang=ko",
    "Set-Cookie: sid=⟦jwt|{jwt}⟧; HttpOnly; Path=/",
)  # fmt: skip
