"""`Masker`: what it replaces and with what, what it leaves, and what holds for every text and every policy."""
# ruff: noqa: RUF001 - full-width digits and look-alike letters are what hides a value
# ruff: noqa: SIM905, ISC003 - thirty pieces read better in one text; keys are put together so that scanners pass by

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiobs_core.privacy.hashing import NO_KEYS, Hasher, keys_in
from aiobs_core.privacy.masker import Masker
from aiobs_core.privacy.policy import (
    NAMED_ENTITIES,
    PERSONAL,
    PRESETS,
    SAFE_HARBOR,
    SECRETS,
    CustomDetector,
    Policy,
    Replacement,
)

HASHER: Final = Hasher(keys_in("a key for tests, long enough"))
OTHER_HASHER: Final = Hasher(keys_in("another key for tests, as long"))
_HOW: Final[tuple[Replacement, ...]] = ("tag", "pseudonym", "partial", "drop", "prefix_hash")


def policy_with(how: Replacement) -> Policy:
    """`strict` and the detectors of Safe Harbor, with one replacement for all."""
    detectors = dict(PRESETS["strict"].detectors)
    for name in (*SECRETS, *PERSONAL, *SAFE_HARBOR):
        detectors[name] = how
    return replace(PRESETS["strict"], name=how, detectors=detectors)


STRICT: Final = Masker(PRESETS["strict"], HASHER)
MASKERS: Final[dict[str, Masker]] = {
    **{name: Masker(policy, HASHER) for name, policy in PRESETS.items()},
    **{str(how): Masker(policy_with(how), HASHER) for how in _HOW},
    "without a key": Masker(PRESETS["gdpr"], Hasher(NO_KEYS)),
}

# Values are put together here, so that no scanner of repositories takes them for real ones.
OPENAI_KEY: Final = "sk-" + "proj-Zk3vQ9xLm2TtR8bYw4Hn"
JWT: Final = (
    "eyJ"
    + "hbGciOiJIUzI1NiJ9"
    + ".eyJ"
    + "zdWIiOiIxMjM0NTY3ODkwIn0"
    + ".dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
)
RANDOM: Final = "q7Zt2Lw9Xc4" + "Vb8Nm3Kp6Rs1Yd5"
_PEM_BODY: Final = "\n".join(
    base64.b64encode(bytes((7 * at + 13 * line) % 256 for at in range(48))).decode() for line in range(40)
)
PEM: Final = "-----BEGIN RSA " + "PRIVATE KEY-----\n" + _PEM_BODY + "\n-----END RSA " + "PRIVATE KEY-----"

SAMPLES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    # A text, and the value in it that must not leave.
    "email": (
        ("Write to jane.doe@example.com today", "jane.doe@example.com"),
        ("o'brien+news@mail.example.co.uk", "o'brien+news@mail.example.co.uk"),
    ),
    "phone": (
        ("Call +1 212-734-5678 now", "+1 212-734-5678"),
        ("전화 010-1234-5678로 주세요", "010-1234-5678"),
        ("tel: (415) 678-2345", "(415) 678-2345"),
    ),
    "card": (
        ("Card 4111 1111 1111 1111 was refused", "4111 1111 1111 1111"),
        ("amex 378282246310005.", "378282246310005"),
    ),
    "iban": (("to DE89 3704 0044 0532 0130 00, please", "DE89 3704 0044 0532 0130 00"),),
    "national_id": (
        ("주민등록번호 900101-1234568입니다", "900101-1234568"),
        ("SSN 536-22-8714", "536-22-8714"),
    ),
    "ip": (("from 203.0.113.77 it came", "203.0.113.77"), ("at 2001:db8::8a2e:370:7334", "2001:db8::8a2e:370:7334")),
    "mac": (("device 00:1b:63:84:45:e6", "00:1b:63:84:45:e6"),),
    "url_credentials": (
        ("postgres://admin:Tr0ubador@db.shop.test:5432/x", "admin:Tr0ubador"),
        ("https://shop.test/a?x=1&sig=Ab3dEf9h", "Ab3dEf9h"),
    ),
    "api_key": ((f"use {OPENAI_KEY} here", OPENAI_KEY),),
    "jwt": ((f"Token={JWT};", JWT),),
    "private_key": ((f"key:\n{PEM}\nend", _PEM_BODY[:40]),),
    "credential": (
        ("password: Tr0ub4dor&3x", "Tr0ub4dor&3x"),
        ("비밀번호는 Seoul2370xy입니다", "Seoul2370xy"),
        ('{"client_secret": "correct horse battery"', "correct horse battery"),
        ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678"),
    ),
    "secret": ((f"value {RANDOM} was sent", RANDOM),),
}  # fmt: skip
_ALL_SAMPLES: Final = [(name, text, value) for name, texts in SAMPLES.items() for text, value in texts]
_HAS: Final = pytest.mark.parametrize(
    ("detector", "text", "value"), _ALL_SAMPLES, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(_ALL_SAMPLES)]
)  # fmt: skip


# --- examples -------------------------------------------------------------------------------------------------


@_HAS
def test_each_detector_has_a_tag_of_its_own(detector: str, text: str, value: str) -> None:
    counts: Counter[str] = Counter()
    masked = STRICT.text(text, lambda name: counts.update([name]))
    assert value not in masked
    assert f"<{detector.upper()}>" in masked
    assert counts == {detector: 1}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe@example.com today", "Write to <EMAIL> today"),
        ("Jane <jane@example.com>, Joe <joe@example.com>", "Jane <<EMAIL>>, Joe <<EMAIL>>"),
        ("메일은 hong@example.com으로, 전화는 010-1234-5678로 주세요.", "메일은 <EMAIL>으로, 전화는 <PHONE>로 주세요."),
        ("제번호는010-1234-5678입니다", "제번호는<PHONE>입니다"),
        ("비밀번호는 Seoul2370xy입니다.", "비밀번호는 <CREDENTIAL>입니다."),
        ("비번은Seoul2370xy이에요", "비번은<CREDENTIAL>이에요"),
        ("주민번호 900101-1234568을 확인", "주민번호 <NATIONAL_ID>을 확인"),
        ("카드번호는4111111111111111이고 만료는 12/27", "카드번호는<CARD>이고 만료는 12/27"),
        ("연락처: +82 10-2345-6789 또는 02-3456-7890번", "연락처: <PHONE> 또는 <PHONE>번"),
        ("사업자등록번호 220-81-62517의 대표", "사업자등록번호 <NATIONAL_ID>의 대표"),
        ("서버203.0.113.77에서 접속", "서버<IP>에서 접속"),
        (f"키는{OPENAI_KEY}입니다", "키는<API_KEY>입니다"),
        ("call (415) 678-2345 ext. 12", "call <PHONE>"),
        ("A: 203.0.113.1:8080, B: [2001:db8::1:1]", "A: <IP>:8080, B: [<IP>]"),
        ("pay DE89 3704 0044 0532 0130 00 or GB82WEST12345698765432", "pay <IBAN> or <IBAN>"),
        ("00-1B-63-84-45-E6 and 001b.6384.45e6", "<MAC> and <MAC>"),
        ("https://u:p4ss@example.com/x?api_key=abc&page=2", "https://<URL_CREDENTIALS>/x?api_key=<CREDENTIAL>"),
        (f"a {PEM} b", "a <PRIVATE_KEY> b"),
        (f"a {PEM[:200]}", "a <PRIVATE_KEY>"),
        (f"Cookie: sid={RANDOM}; theme=dark", "Cookie: <CREDENTIAL>"),
        ("curl -u admin:Tr0ubador https://example.com", "curl -u <CREDENTIAL> https://example.com"),
        ("lee@example.com:Seoul2370 password for the shop", "<EMAIL>:<CREDENTIAL> password for the shop"),
        ("| user | password |\n|---|---|\n| kim | Tr0ubador1 |\n", "| user | password |\n|---|---|\n| kim | <CREDENTIAL> |\n"),
        ('{"to": "jane@example.com", "n": 1}', '{"to": "<EMAIL>", "n": 1}'),
        ('{"card": 4111111111111111, "at": 1753900000000}', '{"card": "<CARD>", "at": 1753900000000}'),
        ('{"card": 4111111111111111.0}', '{"card": "<CARD>"}'),
        ('{"password": "abc", "tokens": 5}', '{"password": "<CREDENTIAL>", "tokens": 5}'),
        ('{"password": ["abc", "def"]}', '{"password": ["<CREDENTIAL>", "<CREDENTIAL>"]}'),
        ('{"jane@example.com": {"phone": "2127345678"}}', '{"<EMAIL>": {"phone": "<PHONE>"}}'),
        ('{"a": "jane@example.com", "a": "b"}', '{"a": "<EMAIL>", "a": "b"}'),
        (' {"pin_token": 123456}\n', '{"pin_token": "<CREDENTIAL>"}'),
        (r'{"a":"{\"b\":\"{\\\"email\\\":\\\"jane@example.com\\\"}\"}"}', r'{"a": "{\"b\": \"{\\\"email\\\": \\\"<EMAIL>\\\"}\"}"}'),
        ("<SECRET>입니다.감사합니다. <CREDENTIAL>로 접속해주세요.", "<SECRET>입니다.감사합니다. <CREDENTIAL>로 접속해주세요."),
        ("<PASSWORD>Tr0ubador1</PASSWORD>", "<PASSWORD><CREDENTIAL></PASSWORD>"),
    ],
)  # fmt: skip
def test_the_value_goes_and_the_sentence_stays(text: str, expected: str) -> None:
    assert STRICT.text(text) == expected


@pytest.mark.parametrize(
    ("how", "text", "expected"),
    [
        ("tag", "mail jane.doe@example.com", r"mail <EMAIL>"),
        ("pseudonym", "mail jane.doe@example.com", r"mail <EMAIL:[b-t]{8}>"),
        ("partial", "mail jane.doe@example.com", r"mail <EMAIL …om>"),
        ("partial", "card 4111 1111 1111 1111", r"card <CARD …11>"),
        ("partial", "password: Ab3dE", r"password: <CREDENTIAL>"),
        ("drop", "mail jane.doe@example.com!", r"mail !"),
        ("prefix_hash", "mail jane.doe@example.com", r"mail <EMAIL jane…[b-t]{8}>"),
        ("prefix_hash", "card 4111 1111 1111 1111", r"card <CARD 4111…[b-t]{8}>"),
        ("prefix_hash", "password: Ab3dE", r"password: <CREDENTIAL:[b-t]{8}>"),
        ("prefix_hash", "password: Tr0ubador-and-more", r"password: <CREDENTIAL Tr0u…[b-t]{8}>"),
    ],
)
def test_each_replacement_has_its_form(how: str, text: str, expected: str) -> None:
    assert re.fullmatch(expected, MASKERS[how].text(text))


def test_without_a_key_a_pseudonym_is_a_tag() -> None:
    for how in ("pseudonym", "prefix_hash"):
        assert Masker(policy_with(how), Hasher(NO_KEYS)).text("to jane.doe@example.com") == "to <EMAIL>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("born 03/14/1959, seen 2024-05-06", "born <DATE>, seen <DATE>"),
        ("see https://example.com/a/b", "see <URL>"),
        ("Boston, MA 02115", "Boston, MA <ZIP_CODE>"),
        ("MRN: 00482917", "MRN: <RECORD_NUMBER>"),
        ("VIN 1M8GDM9AXKP042788", "VIN <RECORD_NUMBER>"),
        ("2024년 5월 6일에 진료", "<DATE>에 진료"),
    ],
)
def test_safe_harbor_masks_dates_places_and_numbers_of_records(text: str, expected: str) -> None:
    assert MASKERS["hipaa-safe-harbor"].text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "trace 4bf92f3577b34da6a3ce929d0e0e4736, span 00f067aa0ba902b7",
        "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "id 123e4567-e89b-12d3-a456-426614174000 was not found",
        "gpt-4o-2024-08-06, claude-sonnet-4-5-20250929, gemini-2.5-pro, text-embedding-3-large",
        "version 1.2.3.4, v10.0.0.1, release 2024.10.11.12",
        "It costs $1,234.56 or 1.234.567,89 € or ₩12,345,000, 25% off",
        "On 2024-05-06 at 12:34:56, 6 May 2024, 2024년 5월 6일",
        "def find(self, token: str) -> None: return self._tokens[token]",
        "password: str = getpass('password: ')",
        "The password must have 12 characters.",
        "비밀번호는 8자 이상이어야 합니다.",
        "max_tokens=4096, total_tokens: 123456, token_count = 17",
        "chatcmpl-9xYz8AbCdEfGhIjKlMnOpQrStUvWx call_Zk3vQ9xLm2TtR8bYw4HnPq",
        "@pytest.fixture and @dataclass(frozen=True), icon@2x.png",
        "git clone git@github.com:org/repo.git",
        "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "listening on 127.0.0.1:8080 and 0.0.0.0",
        "[0.1234567, -0.7654321, 1.0e-05] and 3.14159265358979",
        "1753900000000000000 ns, 1753900000 s",
        "SELECT * FROM users WHERE id = 1234567890123",
        "ratio 16:9, at 12:30:45, C:\\Users\\name\\new",
        "lat=37.566535, lon=126.977969",
        "rows[1::2] and zip(halves[::2], halves[1::2]), digits = '0123456789'",
        "In the Rust crate std::io::Read and a::b::c, at 10::20",
    ],
)
def test_what_is_no_personal_value_stays(text: str) -> None:
    assert STRICT.text(text) == text
    assert STRICT.value({"note": text}) == {"note": text}


# --- total, idempotent, bounded -------------------------------------------------------------------------------

_DISGUISES: Final[dict[str, Callable[[str], str]]] = {
    "full-width": lambda value: "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in value),
    "zero-width": "\u200b".join,
    "soft hyphen": lambda value: value[:5] + "\u00ad" + value[5:],
    "Arabic digits": lambda value: value.translate({ord("0") + at: 0x0660 + at for at in range(10)}),
    "Tamil digits": lambda value: value.translate({ord("0") + at: 0x0BE6 + at for at in range(10)}),
    "bold": lambda value: value.translate({ord("a") + at: 0x1D41A + at for at in range(26)}),
    "tags": "\U000e0041".join,
    "fillers": "\u3164".join,
    "look-alike": lambda value: value.translate(str.maketrans("aeopcx", "аеорсх")),
    "dashes": lambda value: value.replace("-", "\u2013"),
    "percent": quote,
    "percent of all": lambda value: "".join(f"%{byte:02X}" for byte in value.encode()),
    "percent twice": lambda value: quote(quote(value, safe=""), safe=""),
    "escapes": lambda value: "".join(f"\\u{ord(each):04x}" for each in value),
    "escapes twice": lambda value: "".join(f"\\\\u{ord(each):04x}" for each in value),
    "bytes": lambda value: "".join(f"\\x{byte:02x}" for byte in value.encode()),
    "references": lambda value: "".join(f"&#{ord(each)};" for each in value),
    "hexadecimal references": lambda value: "".join(f"&#x{ord(each):x};" for each in value),
    "references twice": lambda value: "".join(f"&amp;#{ord(each)};" for each in value),
}  # fmt: skip
_PIECES: Final = [
    *(text for _, text, value in _ALL_SAMPLES if len(text) < 200),
    *(value for _, _, value in _ALL_SAMPLES),
    *(
        disguise(value)
        for _, _, value in _ALL_SAMPLES
        if len(value) < 32
        for disguise in _DISGUISES.values()
    ),
    *(base64.b64encode(text.encode()).decode() for _, text, _ in _ALL_SAMPLES if len(text) < 200),
    *(json.dumps({"a": text}) for _, text, _ in _ALL_SAMPLES if len(text) < 200),
    *"password: |token=|secret |api_key|비밀번호는 |cookie: |Authorization: Bearer |-u |pw|SSN |phone |주민번호 ".split("|"),
    *"<EMAIL> <EMAIL:bcdfghjk> <CARD …42> <EMAIL jane…bcdfghjk> <CREDENTIAL> <SECRET <TOKEN> </a> <".split(),
    *"-----BEGIN |PRIVATE KEY-----|-----END |eyJ|sk-|://|@|.com|+1 |4111|010-|DE89|%40|\\u0040|&#64;|\\|\"|'|`".split("|"),
]  # fmt: skip
_SEPARATORS: Final = ["", " ", "\n", ",", ", ", ":", "=", "|", " | ", "/", "-", ".", "입니다", "은 ", "\t", "<", ">", '"', "\\", "\u200b", "。"]  # fmt: skip
_pieces = st.integers(0, len(_PIECES) - 1).map(lambda at: _PIECES[at])  # a list as long has too long a repr
_any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
_texts = st.one_of(
    _any_text,
    st.lists(
        st.one_of(_pieces, st.sampled_from(_SEPARATORS), _any_text, st.from_regex(r"[0-9 .\-]{1,20}", fullmatch=True)),
        max_size=8,
    ).map("".join),
)  # fmt: skip
_json_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.sampled_from([4111111111111111, 378282246310005, 2127345678, 821012345678, 10**50]),
    _texts,
)
_keys = st.one_of(st.sampled_from(["password", "api_key", "phone", "card", "to", "ssn", "x-api-key", "a", "b", "token", *_PIECES[:8]]), _texts)  # fmt: skip
_json = st.recursive(
    _json_leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(_keys, inner, max_size=4)),
    max_leaves=12,
)
_containers = st.one_of(st.lists(_json, max_size=4), st.dictionaries(_keys, _json, max_size=4))
_maskers = st.sampled_from(sorted(MASKERS))
_slow = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@_slow
@given(name=_maskers, text=_texts, max_chars=st.one_of(st.none(), st.integers(64, 200)))
def test_any_text_is_masked_without_an_error_and_without_growing_much(
    name: str, text: str, max_chars: int | None
) -> None:
    masked = MASKERS[name].text(text, max_chars=max_chars)
    assert type(masked) is str
    assert len(masked) <= 8 * len(text) + 64
    if max_chars is not None and len(text) > max_chars:
        assert len(masked) <= max_chars + len("…[999999 more characters]")


@_slow
@given(name=_maskers, value=_json)
def test_any_json_value_is_masked_without_an_error(name: str, value: Any) -> None:
    masked = MASKERS[name].value(value)
    json.dumps(masked)
    again = MASKERS[name].value(masked)
    assert again == masked


@_slow
@given(name=_maskers, text=_texts)
def test_masking_again_changes_nothing(name: str, text: str) -> None:
    masker = MASKERS[name]
    masked = masker.text(text)
    masker.clean.clear()
    assert masker.text(masked) == masked
    assert not masker.find(masked) or masked[:1] in "{[ \n\r\t"


@_slow
@given(name=_maskers, value=_containers, ascii_only=st.booleans())
def test_masking_json_text_is_masking_the_value(name: str, value: Any, ascii_only: bool) -> None:
    try:
        text = json.dumps(value, ensure_ascii=ascii_only)
    except UnicodeEncodeError:  # pragma: no cover - of no Python that we know
        return
    if json.loads(text) != value:  # two halves of a surrogate pair have become one character
        return
    assert json.loads(MASKERS[name].text(text)) == MASKERS[name].value(value)


@given(texts=st.lists(_texts, max_size=4), name=_maskers)
@_slow
def test_any_parts_are_masked_without_an_error_each_for_itself(texts: list[str], name: str) -> None:
    masked = MASKERS[name].parts(texts)
    assert len(masked) == len(texts)


# --- nothing planted survives ---------------------------------------------------------------------------------

_SHORT: Final = [(name, text, value) for name, text, value in _ALL_SAMPLES if name != "private_key"]
_EACH: Final = pytest.mark.parametrize(("detector", "text", "value"), _SHORT, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(_SHORT)])  # fmt: skip


def _bare(text: str) -> str:
    """Letters and digits of a text after every disguise is off, by other means than the masker's own."""
    for _ in range(3):
        text = html.unescape(unquote(text))
        text = re.sub(r"\\+(?:u00|x)([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
    text = text.replace("\u3164", "").translate({0x0BE6 + at: str(at) for at in range(10)})
    text = (
        unicodedata.normalize("NFKC", text)
        .translate({0x0660 + at: str(at) for at in range(10)})
        .translate(str.maketrans("аеорсх", "aeopcx"))
    )
    return "".join(each for each in text.lower() if each.isascii() and each.isalnum())


def _survives(value: str, text: str) -> bool:
    return value in text or _bare(value) in _bare(text)


@_EACH
@pytest.mark.parametrize("disguise", _DISGUISES)
def test_a_disguised_value_is_masked(detector: str, text: str, value: str, disguise: str) -> None:
    disguised = _DISGUISES[disguise](value)
    assert _survives(value, text.replace(value, disguised))
    for name, masker in MASKERS.items():
        if masker.policy.detectors[detector] != "off":
            masked = masker.text(text.replace(value, disguised))
            assert not _survives(value, masked), name
            assert disguised not in masked


@_EACH
def test_a_value_in_base64_is_masked(detector: str, text: str, value: str) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        for encoded in (encode(text.encode()).decode(), encode(text.encode()).decode().rstrip("=")):
            for context in (encoded, f"blob: {encoded}, end", f"값은 {encoded}입니다", f"https://example.com/x/{encoded}?y=1"):  # fmt: skip
                assert encoded.rstrip("=") not in STRICT.text(context), context
                assert encoded.rstrip("=") not in json.dumps(STRICT.value({"blob": [context]}))


def test_base64_that_is_cut_or_wrapped_is_masked() -> None:
    lines = base64.encodebytes(("문의는 jane.doe@example.com 으로 주세요. " * 6).encode()).decode()
    assert "jane" not in _decoded_lines(STRICT.text(lines))
    whole = base64.b64encode(b"write to jane.doe@example.com about it, please").decode()
    for cut in range(40, len(whole)):
        assert whole[:cut].rstrip("=") not in STRICT.text(whole[:cut])


def _decoded_lines(text: str) -> str:
    tokens = re.findall(r"[A-Za-z0-9+/]{8,}", text)
    return "".join(base64.b64decode(token[: len(token) // 4 * 4]).decode(errors="ignore") for token in tokens)


@_EACH
def test_a_value_in_json_is_masked_wherever_it_stands(detector: str, text: str, value: str) -> None:
    places: list[Any] = [
        {"text": text},
        {text: 1},
        [[text]],
        {"a": {"b": [{"c": text}]}},
        {"arguments": json.dumps({"text": text})},
        {"arguments": json.dumps({"inner": json.dumps({"deepest": json.dumps({"text": text})})})},
        {"password": value, "token": [value]},
    ]
    for place in places:
        for ascii_only in (True, False):
            assert not _survives(value, json.dumps(STRICT.value(place))), place
            whole = json.dumps(place, ensure_ascii=ascii_only)
            assert not _survives(value, STRICT.text(whole)), whole
            broken = whole[
                : whole.rindex("}" if "}" in whole else "]")
            ]  # as a limit leaves it: no JSON any more
            if '"password"' not in broken:
                assert not _survives(value, STRICT.text(broken)), broken


@pytest.mark.parametrize("number", [4111111111111111, 378282246310005, 5500000000000004])
@pytest.mark.parametrize("key", ["card", "number", "x", "id"])
def test_a_card_number_as_a_number_is_masked(number: int, key: str) -> None:
    for value in (number, float(number), -number, [number], {"n": number}):
        assert str(number) not in json.dumps(STRICT.value({key: value}))
        assert str(number) not in STRICT.text(json.dumps({key: value}))


@pytest.mark.parametrize("key", ["password", "api_key", "API-KEY", "x-api-key", "Authorization", "user.password", "dbPassword", "client_secret", "set-cookie", "accessKey"])  # fmt: skip
@pytest.mark.parametrize("value", ["hunter2", "a b c", 123456, 1.5, "4111"])
def test_whatever_stands_under_the_name_of_a_secret_is_masked(key: str, value: object) -> None:
    for name, masker in MASKERS.items():
        masked = masker.value({key: value, "other": [{key: value}]})
        assert str(value) not in json.dumps(masked), name
        assert next(iter(masked)) == key


def test_the_name_of_a_secret_hides_no_structure() -> None:
    schema = {"properties": {"password": {"type": "string", "description": "At least 8 characters"}}}
    assert STRICT.value(schema) == schema
    assert STRICT.value({"password": None, "token_count": 5, "max_tokens": 7}) == {"password": None, "token_count": 5, "max_tokens": 7}  # fmt: skip


@_HAS
def test_a_value_over_the_border_of_message_parts_is_masked(detector: str, text: str, value: str) -> None:
    begin = text.index(value)
    for name in ("strict", "debug", "drop", "prefix_hash"):
        masker = MASKERS[name]
        if masker.policy.detectors[detector] == "off":
            continue
        for at in range(begin + 1, begin + len(value), 2 if len(value) < 64 else 17):
            two = masker.parts([text[:at], text[at:]])
            assert len(two) == 2
            assert not _survives(value, "".join(two)), (name, at)
            three = masker.parts([text[: begin + 1], text[begin + 1 : at], "", text[at:]])
            assert not _survives(value, "".join(three)), (name, at)
            long = masker.parts(["So it is. " * 900 + text[:at], text[at:] + " So it is." * 900])
            assert not _survives(value, "".join(long)), (name, at)


def test_a_private_key_over_many_parts_is_masked() -> None:
    for name, masker in MASKERS.items():
        masked = "".join(masker.parts(["key: " + PEM[:900], PEM[900:1800], PEM[1800:] + " end"]))
        assert not any(line in masked for line in _PEM_BODY.split("\n")), name
        assert masked.endswith(" end")


def test_parts_keep_what_is_no_value_and_their_places() -> None:
    assert STRICT.parts(["one ", "jane@", "example", ".com two", " three"]) == ["one ", "<EMAIL>", "", " two", " three"]  # fmt: skip
    assert STRICT.parts([]) == []
    assert STRICT.parts(['{"a": 1}', "[2]"]) == ['{"a": 1}', "[2]"]


# --- the cut --------------------------------------------------------------------------------------------------

_LONG: Final = {
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9." + base64.urlsafe_b64encode(bytes(at * 37 % 251 for at in range(2_400))).decode() + ".c2ln",
    "secret": base64.b64encode(bytes(at * 91 % 253 for at in range(1_800))).decode().replace("+", "x").replace("/", "y"),
    "private_key": PEM,
    "encoded": base64.b64encode(("x, " * 700 + "jane.doe@example.com").encode()).decode(),
    "cookie": "Cookie: " + "; ".join(f"k{at}=Zq{at}vXw{at * 7}" for at in range(200)),
}  # fmt: skip
_WORDS: Final = {
    "English": "So it was, and so it will be. ",
    "한국어": "그래서 그랬고 앞으로도 그럴 것이다. ",
    "日本語": "それはそうだったのだから、これからもそうである",
}


def _runs_left(value: str, masked: str) -> list[str]:
    """Stretches of six characters of a value that are left before the mark of the cut."""
    masked = masked[: masked.rindex("…[")]
    if sum(map(str.isdigit, value)) >= 0.7 * len(re.sub(r"\W", "", value)):
        value, masked = re.sub(r"\D", "", value), re.sub(r"\D", "", masked)
    return [value[at : at + 6] for at in range(len(value) - 5) if value[at : at + 6] in masked]


@_HAS
@pytest.mark.parametrize("language", _WORDS)
def test_no_part_of_a_value_is_left_at_the_cut(detector: str, text: str, value: str, language: str) -> None:
    before, after = (_WORDS[language] * 20)[:256] + " ", " " + _WORDS[language] * 300
    whole = before + text + after
    begin = len(before) + text.index(value)
    for max_chars in range(begin - 3, begin + len(value) + 4, 1 if len(value) < 100 else 41):
        masked = STRICT.text(whole, max_chars=max_chars)
        assert not _runs_left(value, masked), max_chars
        assert len(masked) > 200 if language != "日本語" else masked
        assert re.fullmatch(r".*…\[\d+ more characters\]", masked, re.DOTALL)


@pytest.mark.parametrize("kind", _LONG)
@pytest.mark.parametrize("language", _WORDS)
def test_no_part_of_a_value_that_is_longer_than_the_margin_is_left_at_the_cut(
    kind: str, language: str
) -> None:
    value = _LONG[kind]
    before, after = (_WORDS[language] * 20)[:256] + " ", " " + _WORDS[language] * 300
    body = _PEM_BODY if kind == "private_key" else value.removeprefix("Cookie: ")
    for max_chars in [*range(250, 300, 3), *range(300, 257 + len(value) + 5, 331), 257 + len(value)]:
        masked = STRICT.text(before + value + after, max_chars=max_chars)
        assert not _runs_left(body, masked), max_chars


@_slow
@given(pieces=st.lists(st.sampled_from(_SHORT), min_size=1, max_size=12), max_chars=st.integers(64, 400))
def test_no_part_of_many_values_is_left_at_the_cut(
    pieces: list[tuple[str, str, str]], max_chars: int
) -> None:
    whole = ". ".join(text for _, text, _ in pieces) + " So it was." * 60
    masked = STRICT.text(whole, max_chars=max_chars)
    for _, _, value in pieces:
        assert value not in masked
        assert len(_runs_left(value, masked)) == 0


def test_a_text_that_was_clean_before_is_still_cut() -> None:
    masker = Masker(PRESETS["strict"], HASHER)
    text = "So it was, and so it will be. " * 4
    assert masker.text(text) == text
    assert masker.text(text, max_chars=64) == text[:64] + "…[56 more characters]"


# --- pseudonyms -----------------------------------------------------------------------------------------------

_PSEUDONYMS: Final = MASKERS["pseudonym"]


@pytest.mark.parametrize(
    "notations",
    [
        ("jane.doe@example.com", "Jane.Doe@Example.COM", "ｊane.doe＠example.com", "jane.doe%40example.com"),
        ("010-1234-5678", "+82 10-1234-5678", "010 1234 5678", "+821012345678", "０１０-１２３４-５６７８"),
        ("4111 1111 1111 1111", "4111111111111111", "4111-1111-1111-1111"),
        ("DE89 3704 0044 0532 0130 00", "DE89370400440532013000"),
        ("00:1b:63:84:45:e6", "00-1B-63-84-45-E6", "001b.6384.45e6"),
        ("2001:db8::1:1", "2001:0db8:0000:0000:0000:0000:0001:0001", "2001:DB8::1:1"),
    ],
)
def test_all_notations_of_a_value_have_one_pseudonym_under_one_key(notations: tuple[str, ...]) -> None:
    masked = {_PSEUDONYMS.text(f"it is {each} then") for each in notations}
    assert len(masked) == 1
    assert re.fullmatch(r"it is <[A-Z]+:[b-t]{8}> then", masked.pop())
    other = Masker(policy_with("pseudonym"), OTHER_HASHER)
    assert other.text(f"it is {notations[0]} then") != _PSEUDONYMS.text(f"it is {notations[0]} then")


def test_a_value_has_another_pseudonym_in_each_detector() -> None:
    assert HASHER.pseudonym("email", "1234") != HASHER.pseudonym("card", "1234")


@_HAS
def test_no_pseudonym_holds_a_digit_or_is_taken_for_a_value(detector: str, text: str, value: str) -> None:
    masked = _PSEUDONYMS.text(text)
    tags = re.findall(r"<[A-Z_]+:([^>]*)>", masked)
    assert tags
    assert not any(character.isdigit() for tag in tags for character in tag)
    assert not _PSEUDONYMS.find(masked)


def test_two_keys_have_no_pseudonym_in_common() -> None:
    text = " ".join(f"user{at}@example.com" for at in range(200))
    tags = [set(Masker(PRESETS["gdpr"], hasher).text(text).split()) for hasher in (HASHER, OTHER_HASHER)]
    assert [len(each) for each in tags] == [200, 200]
    assert not tags[0] & tags[1]


# --- custom detectors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Project Falcon is late", "Project <CODENAME> is late"),
        ("falcon, FALCON. Falconry", "<CODENAME>, <CODENAME>. Falconry"),
        ("Falcon은 언제 나오나요? Falcon이요", "<CODENAME>은 언제 나오나요? <CODENAME>이요"),
        ("the blue\n heron lands", "the <CODENAME> lands"),
        ("홍길동님과 홍길동이 만났다", "<CODENAME>님과 <CODENAME>이 만났다"),
        ("a홍길동b", "a<CODENAME>b"),
        ("ticket PRJ-1234, PRJ-12", "ticket <CODENAME>, PRJ-12"),
        ("Fal\u200bcon and Ｆalcon and F%61lcon", "<CODENAME> and <CODENAME> and <CODENAME>"),
    ],
)
def test_words_and_patterns_of_the_user_are_masked(text: str, expected: str) -> None:
    custom = CustomDetector(name="codename", words=("Falcon", "blue heron", "홍길동"), regex=r"PRJ-\d{4}")
    masker = Masker(replace(PRESETS["strict"], name="mine", custom=(custom,)), HASHER)
    assert masker.text(text) == expected
    assert masker.text(expected) == expected


def test_a_custom_detector_that_is_off_finds_nothing() -> None:
    custom = CustomDetector(name="codename", words=("Falcon",), replacement="off")
    assert (
        Masker(replace(PRESETS["strict"], name="mine", custom=(custom,)), HASHER).text("Falcon") == "Falcon"
    )


def test_names_and_places_are_off_unless_asked_for() -> None:
    assert all(
        PRESETS[name].detectors.get(each, "off") == "off" for name in PRESETS for each in NAMED_ENTITIES
    )
