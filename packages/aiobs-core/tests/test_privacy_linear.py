"""Masking takes time in proportion to the length of a text, whoever wrote it.

Nothing here is gated on seconds: a text of four times the length is compared with the text, and with prose as long.
"""

# ruff: noqa: RUF001 - full-width digits and look-alike letters are what hides a value

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiobs_core.privacy.detectors import built_in
from aiobs_core.privacy.hashing import NO_KEYS, Hasher, keys_in
from aiobs_core.privacy.masker import Masker
from aiobs_core.privacy.policy import PRESETS

_SMALL_CHARS: Final = 6_000
_TIMES: Final = 4
_MOST_TIMES: Final = 8  # as long; a quadratic pattern would take sixteen times
_MOST_PROSE: Final = 120  # each word a value, against no value at all
_SENTENCE: Final = "You are an agent for the shop at 12 Main Street. Answer in two sentences, and cite the page (5) you used. "

_UNITS: Final = (
    # Pieces of the patterns, alone and as near misses.
    "a@", "@", "a@b.", "a.b@", "a" * 255 + "@", "a@" + "b" * 62 + ".", "가@", "a'", "a+", "@1x.png ",
    "1 ", "1-", "1.", "1/", "(1", "12 ", "1234 ", "1234-", "010-", "010-1234-", "02 ", "+1 ", "+1", "+82 10 1234 ", "+ ", "212-", "2127345678 ", "0)",
    "4111 1111 1111 111 ", "4111111111111112 ", "4111", "4111 ", "DE12 ", "DE89 3704 ", "DE", "DE89", "AB12CD34 ",
    "900101-", "900101-1 ", "123456789 ", "12345678A ", "999-99-", "ssn ", "SSN 123456789 ", "12 34 ", "1 23 ", "AB123456C", "| 123456789 ",
    "1.2.", "1.2.3.", "300.1.1.1 ", ":", "::", "a:", "f:f:", "00:", "00-", "00:1b:63:84:45: ", "1234.5678.", "version 1.2.3.",
    "://", "://a", "://a:b", "://" + "a" * 200, "?a=", "&key=", "&a=b", "?key=a&", ";", "=",
    "eyJ.", "eyJ", "eyJabcdefgh", "eyJabcdefgh.", "eyJabcdefgh.a.a.a.a.a ", "sk-", "sk-a", "SG.", "SG.aaaaaaaaaaaaaaaaa.", "AKIA", "gh", "ghp_", "xoxb-", ".atlasv1.",
    "123456789:AA", "SK0123456789", "AccountKey=", "whsec_", "hooks.slack.com/services/",
    "-----BEGIN ", "-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY----- -----END PRIVATE KEY----- ", "-----", "-----END ", "-----BEGIN A B C D PRIVATE ",
    "password ", "password:", "password=", "password: ", 'password:"', "password:'", "password", "pw", "pw=", "token is ", "token=self.", "secret=your", "api_key", "api key",
    "password:$", "password=....", "password|", "password>", "비밀번호", "비밀번호는 ", "비밀번호는 abc1 ", "authorization:", "Bearer ", "bearer abcdefghijkl1 ", "basic ", "cookie:", "cookie: a", "-u ", "-u a:", "--user=",
    "a@b.co:", "a@b.co:abc1d ", "password @abc.de:", "<TOKEN>", "<CREDENTIAL>", "<PASSWORD>abc</", "secret " + "a" * 30 + " ",
    "| ", "|", "| a ", "| password ", "|\n", "| password |\n", "| password |\n|-|\n", "|a" * 8 + "|\n", "| password |\n|-|\n| a |\n",
    "A1b2C3d4E5f6G7h8I9j0 ", "A1b2C3d4E5f6G7h8I9j0/", "A1b2C3d4E5f6G7h8I9j0", "abcdefgh-", "deadbeef", "secret deadbeefdeadbeefdeadbeef ", "key-", "/", "_", "-", "+", "aaaaaaaaaaaaaaaa ", "YW5lQGV4YW1wbGUuY29t ",
    # Disguises.
    "%41", "%", "%2", "%25", "%40a", "%EC%9D", "\\u0040", "\\u", "\\\\", "\\", '\\"', "\\n", "\\x40", "&#64;", "&#", "&amp;", "&amp;#64;", "&", "\\ud83d", "\\\\u0040",
    "\u200b", "a\u200b", "１", "１ ", "а", "–", "\ufeff1", "\ud800", "\U0001d7d9",
    # Tags, JSON, everything else.
    "<EMAIL>", "<", "<A", "<EMAIL:bcdfghjk>", "<EMAIL>a@b.co ", "…", "<CARD …11>", ">", "{", "[", "[1,", '{"a":', '"', "'", "`", ".", ",", "(", "0", "a", "f", "A", "가", " ", "\n", "x" * 15 + " ", "漢",
    "1950-01-01 ", "1 jan ", "jan 1", "12월 ", "https://", "https://a ", "zip 12345 ", "MA 12345 ", "mrn ", "member id ", "account no. # ", "1M8GDM9AXKP042788", "1M8GDM9AXKP042789 ",
)  # fmt: skip
_OF_SAFE_HARBOR: Final = {"url", "date", "zip_code", "record_number"}


def _seconds(work: Callable[[], object]) -> float:
    took = []
    for _ in range(3):
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return min(took)


def _repeated(unit: str, size: int) -> str:
    return unit * (size // len(unit) + 1)


def _prose_seconds(mask: Callable[[str], object]) -> float:
    return _seconds(lambda: mask(_repeated(_SENTENCE, _TIMES * _SMALL_CHARS)))


def _complaint(mask: Callable[[str], object], unit: str) -> str | None:
    """What is wrong with the time that a unit takes, repeated; measured again if it seems wrong."""
    wrong = None
    for _ in range(3):
        prose = _prose_seconds(mask)
        small = _seconds(lambda: mask(_repeated(unit, _SMALL_CHARS)))
        large = _seconds(lambda: mask(_repeated(unit, _TIMES * _SMALL_CHARS)))
        if large > _MOST_TIMES * small + prose:
            wrong = f"{unit!r}: {large / small:.1f} times the time for {_TIMES} times the length"
        elif large > _MOST_PROSE * prose:
            wrong = f"{unit!r}: {large / prose:.0f} times the time of prose"
        else:
            return None
    return wrong


def _masking(preset: str, *, pseudonyms: bool = False) -> Callable[[str], object]:
    masker = Masker(
        PRESETS[preset], Hasher(keys_in("a key for tests, long enough") if pseudonyms else NO_KEYS)
    )
    return masker.text


def test_a_repeated_piece_of_a_pattern_takes_linear_time() -> None:
    complaints = [_complaint(_masking("strict"), unit) for unit in _UNITS]
    assert not [each for each in complaints if each]


@pytest.mark.parametrize("detector", sorted(built_in(("KR", "US", "DE"))))
def test_each_detector_takes_linear_time(detector: str) -> None:
    """Alone: what is dear in one is not hidden by what all take together. The prose is that of all detectors."""
    find = built_in(("KR", "US", "DE"))[detector]
    prose = _prose_seconds(_masking("strict"))
    slow = []
    for unit in _UNITS:
        small = large = 0.0
        for _ in range(3):
            small = _seconds(lambda unit=unit: list(find(_repeated(unit, _SMALL_CHARS))))  # type: ignore[misc]
            large = _seconds(lambda unit=unit: list(find(_repeated(unit, _TIMES * _SMALL_CHARS))))  # type: ignore[misc]
            if large <= _MOST_TIMES * small + prose:
                break
        else:
            slow.append(f"{unit!r}: {large / small:.1f} times")
    assert not slow


@pytest.mark.parametrize("unit", ["1950-01-01 ", "https://a ", "mrn 12345 ", "jan 1 ", "a@b.co ", "1M8GDM9AXKP042788 ", "| password |\n"])  # fmt: skip
@pytest.mark.parametrize("preset", ["hipaa-safe-harbor", "gdpr", "debug"])
def test_other_presets_take_linear_time(preset: str, unit: str) -> None:
    assert _complaint(_masking(preset, pseudonyms=True), unit) is None


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    unit=st.lists(
        st.one_of(st.sampled_from(_UNITS), st.text(max_size=3), st.sampled_from("0123456789abcdefABC:.-/@\"'|<>\\%&= \n")),
        min_size=1,
        max_size=4,
    ).map("".join).filter(bool)
)  # fmt: skip
def test_any_repeated_text_takes_linear_time(unit: str) -> None:
    assert _complaint(_masking("strict"), unit) is None


def test_json_that_is_deep_or_wide_takes_linear_time() -> None:
    mask = _masking("strict")
    prose = _prose_seconds(mask)
    for make in (
        lambda size: "[" * size + "]" * size,
        lambda size: '{"a":' * (size // 5) + "1" + "}" * (size // 5),
        lambda size: "[" + ",".join(["4111111111111111"] * (size // 17)) + "]",
        lambda size: "{" + ",".join(f'"k{at}@x.co":1' for at in range(size // 15)) + "}",
        lambda size: '{"a":["' + '","'.join(["password"] * (size // 11)) + '"]}',
    ):
        small, large = make(_SMALL_CHARS), make(4 * _SMALL_CHARS)
        took = [_seconds(lambda text=text: mask(text)) for text in (small, large)]  # type: ignore[misc]
        assert took[1] <= _MOST_TIMES * took[0] + prose, small[:40]


def test_keys_that_are_masked_alike_stay_apart_in_linear_time() -> None:
    mask = Masker(PRESETS["strict"], Hasher(NO_KEYS)).value
    took = [
        _seconds(lambda size=size: mask({f"user{at}@example.com": 1 for at in range(size)}))  # type: ignore[misc]
        for size in (500, 2_000)
    ]
    assert len(mask({f"user{at}@example.com": 1 for at in range(500)})) == 500
    assert took[1] <= _MOST_TIMES * took[0]
