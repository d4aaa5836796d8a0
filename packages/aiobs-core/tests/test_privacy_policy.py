"""Policies: what a file may say, what is told of one that is not understood, presets, and which modes are in force."""

from __future__ import annotations

import itertools
import logging
import re
import sys
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest

from aiobs_core import Settings, SettingsError, _setting_sources
from aiobs_core.privacy._slow_patterns import slow_part
from aiobs_core.privacy.hashing import NO_KEYS, Hasher
from aiobs_core.privacy.masker import Masker
from aiobs_core.privacy.modes import keeps_errors, modes_in_force
from aiobs_core.privacy.policy import (
    CLOSED,
    CONTENT_FIELDS,
    DETECTORS,
    FIELDS,
    MODES,
    NAMED_ENTITIES,
    PERSONAL,
    PRESETS,
    SAFE_HARBOR,
    SECRETS,
    CustomDetector,
    Policy,
    PolicyError,
    Signal,
)
from aiobs_core.privacy.policy_file import policy_of, read_policy

_SIGNALS: tuple[Signal, ...] = ("spans", "logs")
_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights of files")

_TOML = """
base = "gdpr"
name = "shop"
version = "2026-07"
regions = ["KR", "DE"]
retention_days = 7

[content]
prompts = "masked"
[content.logs]
prompts = "none"

[detectors]
ip = "off"
email = "partial"

[[custom]]
name = "employee"
regex = 'EMP\\d{6}'

[[custom]]
name = "codename"
words = ["Falcon", "blue  heron", "홍길동"]
words_file = "words.txt"
replacement = "pseudonym"
"""
_YAML = """
base: gdpr
name: shop
version: 2026-07
regions: [KR, DE]
retention_days: 7
content:
  prompts: masked
  logs: {prompts: none}
detectors: {ip: "off", email: partial}
custom:
  - {name: employee, regex: 'EMP\\d{6}'}
  - name: codename
    words: [Falcon, blue  heron, 홍길동]
    words_file: words.txt
    replacement: pseudonym
"""


# --- files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "text"), [(".toml", _TOML), (".yaml", _YAML), (".YML", _YAML)])
def test_a_file_says_what_differs_from_its_base(tmp_path: Path, ending: str, text: str) -> None:
    if ending != ".toml":
        pytest.importorskip("yaml", reason="pip install 'aiobs-core[yaml]'")
    (tmp_path / "words.txt").write_text("김철수\n\n  Falcon \n이 영희\n", encoding="utf-8")
    file = tmp_path / f"policy{ending}"
    file.write_text(text, encoding="utf-8")
    policy = read_policy(str(file))
    assert (policy.name, policy.version, policy.regions, policy.retention_days) == ("shop", "2026-07", ("KR", "DE"), 7.0)  # fmt: skip
    assert policy.content == {**PRESETS["gdpr"].content, "prompts": "masked"}
    assert policy.logs_content == {**PRESETS["gdpr"].content, "prompts": "none"}
    assert policy.modes("spans") is policy.content
    assert policy.modes("logs") is policy.logs_content
    assert policy.detectors == {**PRESETS["gdpr"].detectors, "ip": "off", "email": "partial"}
    assert policy.custom == (
        CustomDetector(name="employee", regex=r"EMP\d{6}"),
        CustomDetector(
            name="codename",
            words=("Falcon", "blue heron", "홍길동", "김철수", "이 영희"),
            replacement="pseudonym",
        ),
    )
    assert policy_of({**policy.as_data(), "custom": []}).detectors == policy.detectors


def test_a_file_that_says_nothing_is_strict_under_its_own_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("")
    assert read_policy(str(file)) == replace(PRESETS["strict"], name="mine")


def test_logs_follow_content_where_nothing_else_is_said() -> None:
    assert policy_of({"content": {"prompts": "none"}}).logs_content["prompts"] == "none"


def test_presets_are_found_by_name_in_any_case() -> None:
    assert read_policy("GDPR") is PRESETS["gdpr"]


_KEYS = "one of the keys base, name, version, content, detectors, custom, regions, retention_days"
_MODE = "one of none, hash, masked, full"
_REPLACEMENT = "one of tag, pseudonym, partial, drop, prefix_hash, off"
_NAME = "letters, digits, - and _, and not the name of a preset"
_WRONG: list[tuple[dict[str, Any], str]] = [
    ({"contents": {}}, f"contents: expected {_KEYS}, got '{{}}'"),
    ({"base": "lax"}, f"base: expected one of {', '.join(PRESETS)}, got 'lax'"),
    ({"base": 1}, f"base: expected one of {', '.join(PRESETS)}, got '1'"),
    ({"name": "strict"}, f"name: expected {_NAME}, got 'strict'"),
    ({"name": "closed"}, f"name: expected {_NAME}, got 'closed'"),
    ({"name": "a b"}, f"name: expected {_NAME}, got 'a b'"),
    ({"name": 5}, f"name: expected {_NAME}, got '5'"),
    ({"content": "masked"}, "content: expected a table, got 'masked'"),
    ({"content": {"promts": "none"}}, f"content.promts: expected one of the fields {', '.join(FIELDS)}, got 'promts'"),
    ({"content": {"prompts": "mask"}}, f"content.prompts: expected {_MODE}, got 'mask'"),
    ({"content": {"prompts": True}}, f"content.prompts: expected {_MODE}, got 'True'"),
    ({"content": {"exceptions": "hash"}}, "content.exceptions: expected one of none, masked, full, got 'hash'"),
    ({"content": {"logs": {"tools": "none"}}}, "content.logs.tools: expected one of the fields"),
    ({"content": {"logs": "none"}}, "content.logs.logs: expected one of the fields"),
    ({"detectors": []}, "detectors: expected a table, got '[]'"),
    ({"detectors": {"mail": "tag"}}, f"detectors.mail: expected one of the detectors {', '.join(DETECTORS)}, got 'mail'"),
    ({"detectors": {"email": "hash"}}, f"detectors.email: expected {_REPLACEMENT}, got 'hash'"),
    ({"detectors": {"email": True}}, f"detectors.email: expected {_REPLACEMENT}, got 'True'"),
    ({"regions": ["kr"]}, "regions: expected a list of countries in two upper-case letters, such as KR, got \"['kr']\""),
    ({"regions": "KR"}, "regions: expected a list of countries in two upper-case letters"),
    ({"retention_days": 0}, "retention_days: expected a number of days above 0, got '0'"),
    ({"retention_days": -1}, "retention_days: expected a number of days above 0, got '-1'"),
    ({"retention_days": True}, "retention_days: expected a number of days above 0, got 'True'"),
    ({"retention_days": float("nan")}, "retention_days: expected a number of days above 0, got 'nan'"),
    ({"retention_days": "30"}, "retention_days: expected a number of days above 0, got '30'"),
    ({"custom": {"name": "x"}}, "custom: expected a list of tables with name, and regex, words or words_file"),
    ({"custom": ["x"]}, "custom: expected a list of tables"),
]  # fmt: skip
_WRONG_CUSTOM: list[tuple[dict[str, Any], str]] = [
    ({}, "custom[0]: expected regex, words or words_file"),
    ({"words": []}, "custom[0]: expected regex, words or words_file"),
    ({"name": "email", "words": ["a"]}, "custom[0].name: expected lower-case letters and _, and not the name of a built-in detector, got 'email'"),
    ({"name": "Mine", "words": ["a"]}, "custom[0].name: expected lower-case letters and _"),
    ({"pattern": "a"}, "custom[0].pattern: expected one of the keys name, regex, words, words_file, replacement, got 'a'"),
    ({"regex": "("}, "custom[0].regex: expected a regular expression of Python (missing ), unterminated subpattern at position 0), got '('"),
    ({"regex": 5}, "custom[0].regex: expected a regular expression of Python"),
    ({"regex": "a*"}, "custom[0].regex: expected a pattern that does not match the empty text, got 'a*'"),
    ({"regex": "(a+)+$"}, "custom[0].regex: expected a pattern without a repetition inside a repetition, which can take for ever on some texts, got '(a+)+$'"),
    ({"regex": "(ab?b?)+$"}, "custom[0].regex: expected a pattern without a repetition of what can be read in two ways"),
    ({"regex": r"x.*y.*z.*"}, "custom[0].regex: expected a pattern without three unbounded repetitions in a row"),
    ({"words": "Falcon"}, "custom[0].words: expected a list of texts, got 'Falcon'"),
    ({"words": [1]}, "custom[0].words: expected a list of texts"),
    ({"words": [str(at) for at in range(100_001)]}, "custom[0].words: expected at most 100000 words, got '100001'"),
    ({"words_file": "none.txt"}, "custom[0].words_file: expected a readable file in UTF-8 (No such file or directory), got 'none.txt'"),
    ({"words": ["a"], "replacement": "hide"}, f"custom[0].replacement: expected {_REPLACEMENT}, got 'hide'"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "problem"),
    [*_WRONG, *(({"custom": [{"name": "mine", **custom}]}, problem) for custom, problem in _WRONG_CUSTOM)],
)
def test_each_thing_that_is_not_understood_is_told(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(PolicyError) as error:
        policy_of(table)
    assert str(error.value).startswith("a valid policy: ")
    assert problem in str(error.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    table = {
        "base": "lax",
        "retention_days": 0,
        "content": {"prompts": "mask", "logs": {"x": "none"}},
        "detectors": {"email": "hide"},
        "custom": [{"name": "a", "regex": "("}, {"name": "b", "regex": "b*"}],
    }
    with pytest.raises(PolicyError) as error:
        policy_of(table)
    told = str(error.value).removeprefix("a valid policy: ").split("; ")
    assert [each.partition(":")[0] for each in told] == [
        "base", "content.prompts", "content.logs.x", "detectors.email", "custom[0].regex", "custom[1].regex", "retention_days",
    ]  # fmt: skip


def test_a_file_that_cannot_be_read_or_parsed_is_told_with_its_path(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="pip install 'aiobs-core[yaml]'")
    for name, content, message in (
        ("none.toml", None, r"a readable file in UTF-8 \(.*none\.toml: FileNotFoundError: No such file"),
        (
            "latin.toml",
            b'name = "\xe9"',
            r"a readable file in UTF-8 \(.*latin\.toml: UnicodeDecodeError: invalid",
        ),
        ("broken.toml", b"name = ", r"a policy file that can be parsed \(.*broken\.toml: Invalid value"),
        ("broken.yaml", b"name: [", r"a policy file that can be parsed \(.*broken\.yaml: .*line 1"),
        ("twice.toml", b"name = 'a'\nname = 'b'", r"a policy file that can be parsed \(.*twice\.toml: "),
        (
            "code.yaml",
            b"!!python/object/apply:os.getcwd []",
            r"a policy file that can be parsed \(.*code\.yaml: ",
        ),
        ("list.yaml", b"- a", r"a policy file with a table at its top level \(.*list\.yaml\)"),
        ("empty.yaml", b"", r"a policy file with a table at its top level \(.*empty\.yaml\)"),
    ):
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(PolicyError, match=message):
            read_policy(str(file))


@pytest.mark.parametrize("given", ["lax", "policy.json", "", "strict.txt"])
def test_a_name_that_is_neither_preset_nor_policy_file_is_refused(given: str) -> None:
    with pytest.raises(
        PolicyError, match=r"one of strict, gdpr, ccpa, hipaa-safe-harbor, debug, or a file that ends in"
    ):
        read_policy(given)


def test_a_words_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(
        PolicyError, match=r"words_file: expected a readable file in UTF-8 \(invalid start byte\)"
    ):
        policy_of({"custom": [{"name": "x", "words_file": "words.txt"}]}, folder=tmp_path)


@pytest.mark.parametrize(
    "pattern",
    [r"(a+)+$", r"(a*)*b", r"(\w+\s*)+x", r"(aa?)+$", r"(a|aa)+$", r"(a{1,2})+$", r"(.a?)*x", r"((ab|a)b?)+$", r"(a?){1,2000}b", r"a*a*a*b"],
)  # fmt: skip
def test_patterns_that_can_take_for_ever_are_told_from_others(pattern: str) -> None:
    assert slow_part(pattern) is not None


@pytest.mark.parametrize(
    "pattern",
    [r"(\d{1,3}\.)+\d", r"(foo|bar)+", r"PRJ-\d{4}", r"[A-Z]+-\d+", r"(?:[A-Z]{2}-?)+\d", r"(?<=id=)[a-f0-9]{8}", r"(?:\d{4}[ -]){3}\d{4}", r"직원\d+", r"(x)(y)?\1", r"[^\s,]+@corp"],
)  # fmt: skip
def test_ordinary_patterns_are_not_refused(pattern: str) -> None:
    assert slow_part(pattern) is None
    assert policy_of({"custom": [{"name": "x", "regex": pattern}]}).custom[0].regex == pattern


# --- what a policy does ---------------------------------------------------------------------------------------


def test_words_and_patterns_of_a_file_are_masked(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("김철수\n서울 본사\n", encoding="utf-8")
    table = {
        "custom": [
            {"name": "employee", "regex": r"EMP\d{6}"},
            {"name": "name", "words": ["Falcon"], "words_file": "words.txt"},
        ]
    }
    masker = Masker(policy_of(table, folder=tmp_path), Hasher(NO_KEYS))
    assert (
        masker.text("김철수는 서울 본사에서 EMP123456으로 falcon을 맡는다. Falcons.")
        == "<NAME>는 <NAME>에서 <EMPLOYEE>으로 <NAME>을 맡는다. Falcons."
    )


def test_a_detector_that_is_off_looks_for_nothing() -> None:
    masker = Masker(policy_of({"detectors": {"email": "off"}}), Hasher(NO_KEYS))
    assert masker.text("jane@example.com at 203.0.113.9") == "jane@example.com at <IP>"


def test_the_fingerprint_changes_with_every_rule() -> None:
    base = policy_of({})
    tables: list[dict[str, Any]] = [
        {"name": "other"},
        {"version": "2"},
        {"regions": ["KR"]},
        {"retention_days": 3},
        *({"content": {name: "full" if name == "exceptions" else "masked", "logs": dict(base.logs_content)}} for name in FIELDS),
        *({"content": {"logs": {name: "full"}}} for name in FIELDS),
        *({"detectors": {name: "drop"}} for name in DETECTORS),
        {"custom": [{"name": "a", "regex": "x"}]},
        {"custom": [{"name": "b", "regex": "x"}]},
        {"custom": [{"name": "a", "regex": "y"}]},
        {"custom": [{"name": "a", "words": ["x"]}]},
        {"custom": [{"name": "a", "words": ["y"]}]},
        {"custom": [{"name": "a", "words": ["x"], "replacement": "drop"}]},
    ]  # fmt: skip
    prints = [policy.fingerprint for policy in (base, *map(policy_of, tables))]
    assert len(set(prints)) == len(prints)
    assert all(re.fullmatch(r"[0-9a-f]{12}", each) for each in prints)
    assert policy_of({}).fingerprint == base.fingerprint
    assert base.fingerprint in repr(base)


def test_a_policy_cannot_be_changed() -> None:
    policy = policy_of({})
    with pytest.raises(FrozenInstanceError):
        policy.name = "x"  # type: ignore[misc]
    for mapping in (policy.content, policy.logs_content, policy.detectors, PRESETS):
        with pytest.raises(TypeError):
            mapping["prompts"] = "full"  # type: ignore[index]


# --- presets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "modes", "secrets", "personal", "safe_harbor", "days"),
    [
        ("strict", {"prompts": "hash", "user_id": "hash"}, "tag", "tag", "off", None),
        ("gdpr", {"prompts": "hash", "user_id": "hash"}, "tag", "pseudonym", "off", 30.0),
        ("ccpa", {"prompts": "hash", "user_id": "hash"}, "tag", "pseudonym", "off", 365.0),
        ("hipaa-safe-harbor", {}, "tag", "tag", "tag", None),
        ("debug", {**dict.fromkeys(FIELDS, "masked"), "user_id": "full"}, "tag", "off", "off", None),
    ],
)
def test_presets_are_what_they_are_said_to_be(
    name: str, modes: Mapping[str, str], secrets: str, personal: str, safe_harbor: str, days: float | None
) -> None:
    policy = PRESETS[name]
    assert policy.name == name
    assert policy.content == policy.logs_content == {**dict.fromkeys(FIELDS, "none"), **modes}
    expected = {
        **dict.fromkeys(SECRETS, secrets),
        **dict.fromkeys(PERSONAL, personal),
        **dict.fromkeys(SAFE_HARBOR, safe_harbor),
        **dict.fromkeys(NAMED_ENTITIES, "off"),
    }
    if name == "debug":
        expected["secret"] = "off"
    assert policy.detectors == expected
    assert policy.retention_days == days


def test_the_closed_policy_lets_nothing_out() -> None:
    assert set(CLOSED.content.values()) == set(CLOSED.logs_content.values()) == {"none"}


# --- settings fail closed -------------------------------------------------------------------------------------


def _load(caplog: pytest.LogCaptureFixture, environ: Mapping[str, str]) -> tuple[Settings, list[str]]:
    caplog.clear()
    _setting_sources._warned.clear()  # another test may have been told the same
    with caplog.at_level(logging.WARNING, "aiobs"):
        settings = Settings.load(environ)
        assert Settings.load(environ) == settings  # nothing is said twice
    with pytest.raises(SettingsError):
        Settings.load(environ, strict=True)
    return settings, [record.getMessage() for record in caplog.records]


def _lets_out(settings: Settings) -> set[str]:
    return {mode for signal in _SIGNALS for mode in modes_in_force(settings.privacy_policy, settings, signal).values()}  # fmt: skip


@pytest.mark.parametrize("given", ["lax", "none.toml", "broken.toml"])
def test_a_policy_that_cannot_be_read_closes_everything(
    given: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.toml").write_text('[content]\nprompts = "mask"\n')
    (tmp_path / "aiobs.toml").write_text('privacy_policy = "debug"\n')
    path = str(tmp_path / given) if given.endswith(".toml") else given
    environ = {
        "AIOBS_PRIVACY_POLICY": path,
        "AIOBS_CONFIG_FILE": str(tmp_path / "aiobs.toml"),
        "AIOBS_CONTENT": "full",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true",
    }
    settings, warnings = _load(caplog, environ)
    assert settings.privacy_policy is CLOSED
    assert _lets_out(settings) == {"none"}
    assert not keeps_errors(settings)
    assert len(warnings) == 1
    assert warnings[0].startswith("AIOBS_PRIVACY_POLICY: expected ")
    assert warnings[0].endswith(
        "(environment); no content, no hash and no user id leaves until it is mended."
    )


@pytest.mark.parametrize("given", ["mask", "prompts=mask", "promts=none", "prompts=none,tools=full", "full,"])
def test_content_that_is_not_understood_closes_all_content(
    given: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "aiobs.toml").write_text('content = "full"\n')
    environ = {
        "AIOBS_CONTENT": given,
        "AIOBS_PRIVACY_POLICY": "debug",
        "AIOBS_CONFIG_FILE": str(tmp_path / "aiobs.toml"),
    }
    if given == "full,":  # a comma too many hurts nobody
        assert dict(Settings.load(environ).content)["prompts"] == "full"
        return
    settings, warnings = _load(caplog, environ)
    assert _lets_out(settings) == {"none"}
    assert len(warnings) == 1
    assert warnings[0].startswith(
        "AIOBS_CONTENT: expected one of none, hash, masked, full, or <field>=<mode>"
    )


def test_a_capture_switch_that_is_not_understood_lets_no_content_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = {"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "yes", "AIOBS_PRIVACY_POLICY": "debug"}
    settings, warnings = _load(caplog, environ)
    assert settings.capture_message_content == "no_content"
    assert not _lets_out(settings) & {"masked"}
    assert len(warnings) == 1
    assert warnings[0].endswith("no readable content leaves until it is mended.")


def test_further_policies_that_cannot_be_read_cannot_be_chosen(caplog: pytest.LogCaptureFixture) -> None:
    settings, warnings = _load(caplog, {"AIOBS_PRIVACY_POLICIES": "gdpr,none.toml"})
    assert settings.privacy_policies == ()
    assert len(warnings) == 1
    assert warnings[0].endswith("they cannot be chosen.")


_KEY = "a key that nobody may see"


@_posix
@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        (None, 0o600, "a file that can be read"),
        (_KEY.encode(), 0o644, "a file that others cannot read or change"),
        (b"short-key", 0o600, "a secret of at least 16 bytes"),
        (b"\xff" * 32, 0o600, "a file of text in UTF-8"),
    ],
)
def test_a_key_file_that_cannot_be_used_leaves_hashes_out(
    content: bytes | None, mode: int, message: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    settings, warnings = _load(caplog, {"AIOBS_HASH_KEY_FILE": str(file)})
    assert settings.hash_key_file is NO_KEYS
    assert len(warnings) == 1
    assert warnings[0].startswith(f"AIOBS_HASH_KEY_FILE: expected {message}")
    assert warnings[0].endswith("got a value that is not shown (environment); hashes are left out until it is mended.")  # fmt: skip
    assert "nobody" not in warnings[0]
    assert "short-key" not in warnings[0]


def test_a_key_that_is_too_short_is_not_replaced_by_that_of_the_next_source(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "aiobs.toml").write_text(f'hash_key = "{_KEY}"\n')
    settings, warnings = _load(caplog, {"AIOBS_HASH_KEY": "s3cr3t", "AIOBS_CONFIG_FILE": str(tmp_path / "aiobs.toml")})  # fmt: skip
    assert settings.hash_key is NO_KEYS
    assert len(warnings) == 1
    assert "s3cr3t" not in warnings[0]


def test_keys_are_never_shown() -> None:
    settings = Settings.load({"AIOBS_HASH_KEY": _KEY})
    assert settings.hash_key is not None
    for shown in (repr(settings), str(settings), f"{settings.hash_key}", repr(settings.hash_key)):
        assert _KEY not in shown
        assert repr(_KEY.encode()) not in shown
    with pytest.raises(SettingsError) as error:
        Settings.load({"AIOBS_HASH_KEY": "s3cr3t"}, strict=True)
    assert "s3cr3t" not in str(error.value)
    assert {each.name for each in fields(Settings) if each.metadata["secret"]} == {
        "hash_key",
        "hash_key_file",
    }


# --- modes in force -------------------------------------------------------------------------------------------

_ALLOWED = {
    "": {"spans", "logs"},
    "no_content": set(),
    "false": set(),
    "span_only": {"spans"},
    "event_only": {"logs"},
    "span_and_event": {"spans", "logs"},
    "true": {"spans", "logs"},
}


@pytest.mark.parametrize("switch", _ALLOWED)
@pytest.mark.parametrize("policy", [*PRESETS.values(), CLOSED], ids=lambda policy: policy.name)
def test_the_switch_of_opentelemetry_is_an_upper_bound_and_a_wish(switch: str, policy: Policy) -> None:
    for content, signal in itertools.product(["", *MODES, "prompts=masked", "tool_results=full", "user_id=full"], _SIGNALS):  # fmt: skip
        environ = {
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": switch.upper(),
            "AIOBS_CONTENT": content,
        }
        settings = Settings.load(environ, {"privacy_policy": policy}, strict=True)
        found = modes_in_force(policy, settings, signal)
        asked = {**policy.modes(signal), **dict(settings.content)}
        where = (content, signal)
        assert set(found) == set(FIELDS), where
        if policy is CLOSED:
            assert set(found.values()) == {"none"}, where
        elif signal not in _ALLOWED[switch]:
            assert not any(mode in {"masked", "full"} for name, mode in found.items() if name != "user_id"), (
                where
            )
            assert found["user_id"] == asked["user_id"], where
            assert found["prompts"] == ("none" if asked["prompts"] == "none" else "hash"), where
            for name in FIELDS:
                assert found[name] == asked[name] or asked[name] in {"masked", "full"}, where
        elif switch and not content and policy is PRESETS["strict"]:  # an own choice is not widened
            assert found == {**asked, **dict.fromkeys(CONTENT_FIELDS, "masked")}, where
        else:
            assert found == asked, where


def test_a_mode_for_all_is_none_for_who_the_user_is_and_hashes_no_exceptions() -> None:
    assert dict(Settings.load({"AIOBS_CONTENT": "hash"}).content) == {
        **{name: "hash" for name in FIELDS if name != "user_id"},
        "exceptions": "none",
    }
    assert dict(Settings.load({"AIOBS_CONTENT": "user_id=full, prompts=none"}).content) == {"user_id": "full", "prompts": "none"}  # fmt: skip


def test_texts_of_errors_are_kept_only_where_a_policy_may_let_them_out() -> None:
    assert not keeps_errors(Settings.load({}))
    assert keeps_errors(Settings.load({"AIOBS_PRIVACY_POLICY": "debug"}))
    assert keeps_errors(Settings.load({"AIOBS_PRIVACY_POLICIES": "debug"}))
    assert keeps_errors(Settings.load({"AIOBS_CONTENT": "exceptions=masked"}))
    assert not keeps_errors(Settings.load({"AIOBS_PRIVACY_POLICY": "debug", "AIOBS_CONTENT": "exceptions=none"}))  # fmt: skip


def test_what_a_request_chose_can_only_be_tightened() -> None:
    settings = Settings.load({"AIOBS_CONTENT": "masked"})
    assert set(modes_in_force(PRESETS["hipaa-safe-harbor"], settings, "spans").values()) == {"none"}
    settings = Settings.load({"AIOBS_CONTENT": "none"})
    assert modes_in_force(PRESETS["debug"], settings, "spans")["prompts"] == "none"


def test_a_bare_off_of_yaml_is_understood(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("detectors:\n  ip: off\n")
    assert read_policy(str(tmp_path / "p.yaml")).detectors["ip"] == "off"
