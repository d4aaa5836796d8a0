"""The Collector's configuration: it parses, its patterns are RE2's, and they find what they are for."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from aiobs_core import semconv
from aiobs_core.cli import main
from aiobs_core.privacy.collector import collector_config
from aiobs_core.privacy.foreign import field_of
from aiobs_core.privacy.policy import CLOSED, FIELDS, PRESETS, CustomDetector

yaml = pytest.importorskip("yaml")
re2 = pytest.importorskip("re2", reason="google-re2 is in the group `dev` only")

STRICT = PRESETS["strict"]
HASH = "17b8fe:" + "0a1b2c3d" * 4
# Made at run time, so that no scanner of repositories takes this file for a leak.
A62 = "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC2eF4hJ6kL8nP0rS2uV4xY6" * 2
PEM = "-----{} RSA PRIVATE " + "KEY-----"
SAMPLES = [
    ("email", "jane@example.com"), ("email", "first.last+tag@mail.example.co.kr"), ("email", "a_b-c@x-y.io"),
    ("card", "4111 1111 1111 1111"), ("card", "5500-0000-0000-0004"), ("card", "4111111111111111"),
    ("card", "3782 822463 10005"), ("card", "6011000990139424"),
    ("iban", "DE89 3704 0044 0532 0130 00"), ("iban", "GB29NWBK60161331926819"), ("iban", "FR14 2004 1010 0505 0001 3M02 606"),
    ("ip", "203.0.113.7"), ("ip", "2001:db8:0:0:0:8a2e:370:7334"), ("ip", "2001:db8::7"), ("ip", "fe80::1"),
    ("mac", "00:1A:2b:3c:4d:5e"), ("mac", "00-1A-2B-3C-4D-5E"), ("mac", "001a.2b3c.4d5e"),
    ("api_key", "sk-" + "proj-" + A62[:40]), ("api_key", "AKIA" + "IOSFODNN7EXAMPLE"), ("api_key", "gh" + "p_" + A62[:36]),
    ("api_key", "AIza" + A62[:35]), ("api_key", "xox" + "b-123456789012-" + A62[:24]), ("api_key", "hf" + "_" + A62[:34]),
    ("api_key", "glpat" + "-" + A62[:20]), ("api_key", "sk_" + "live_" + A62[:24]),
    ("jwt", "eyJ" + "hbGciOiJIUzI1NiJ9.eyJ" + "zdWIiOiIxIn0." + A62[:43]),
    ("private_key", f"{PEM.format('BEGIN')}\nMIIEow\n\nABC=\n{PEM.format('END')}"), ("private_key", f"{PEM.format('BEGIN')}\nMIIEo"),
    ("url_credentials", "postgres://app:hunter22@db.internal/x"), ("url_credentials", "https://x.io/cb?a=1&code=4fQ9x"),
    ("url_credentials", "https://x.io/?a=1&api_key=4fQ9abc"),
    ("credential", "password=hunter22"), ("credential", '"client_secret": "s3cr3tvalue"'), ("credential", "비밀번호: hunter22"),
    ("credential", "Authorization: Bearer abc.def-123"), ("credential", "curl -H 'X-API-Key: 0a1b2c3d4e'"),
    ("phone", "+82 10-1234-5678"), ("phone", "+1 (650) 253-0000"), ("phone", "+49 30 901820"), ("phone", "+442079460958"),
    ("phone", "010-1234-5678"), ("phone", "01012345678"), ("phone", "02-312-3456"), ("phone", "(650) 253-0000"),
    ("national_id", "900101-1234567"), ("national_id", "219-09-9999"), ("national_id", "123-45-67890"),
]  # fmt: skip
HARMLESS = [
    "The run took 12:30:45 on 2026-01-31, order 1234567, 3.14 of 1,000,000",
    "chat gpt-4.1 gpt-4.1-mini-2025-04-14 finish_reasons stop, max_tokens: 4096, total_tokens=12345",
    "std::vector<int> a; x = a::b; 0a1b2c3d-4e5f-6a7b-8c9d-0e1f2a3b4c5d",
    HASH,
    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "<EMAIL> called <PHONE:bcdfghjk>, password: <CREDENTIAL>, https://<URL_CREDENTIALS>@host/",
    "오늘 회의는 3시 30분, 방 번호 1203",
    "1800000000000000000",
]


def parsed(policy=STRICT, modes=None, **more):
    """Both processors, and each string as the Collector has it once it has put in its environment."""

    def expanded(value):
        if isinstance(value, str):
            assert re.fullmatch(r"(?:[^$]|\$\$)*", value), f"a variable of the environment: {value}"
            return value.replace("$$", "$")
        if isinstance(value, dict):
            return {key: expanded(item) for key, item in value.items()}
        return [expanded(item) for item in value] if isinstance(value, list) else value

    text = collector_config(policy, policy.content if modes is None else modes, **more)
    processors = expanded(yaml.safe_load(text))["processors"]
    return processors["redaction/aiobs"], processors["transform/aiobs"]


def statements(transform, context):
    groups = [*transform["trace_statements"], *transform["log_statements"]]
    return next(group["statements"] for group in groups if group["context"] == context)


def literals(statement):
    """The strings of an OTTL statement, as Go unquotes them."""
    found = re.findall(r'"((?:\\.|[^"\\])*)"', statement)
    return [each.encode().decode("unicode_escape").encode("latin-1").decode() for each in found]


def replaced(transform, text, *, target="log.body"):
    """What the statements on one target make of a text."""
    for statement in statements(transform, target.split(".", 1)[0]):
        if statement.startswith(f"replace_pattern({target}, "):
            pattern, with_ = literals(statement)[:2]
            text = re2.sub(pattern, with_.replace("${1}", r"\1"), text)
    return text


def deleted(transform, context, name, of="attributes"):
    prefix = f"delete_matching_keys({'log.body' if of == 'body' else context + '.attributes'}, "
    patterns = [literals(each)[0] for each in statements(transform, context) if each.startswith(prefix)]
    return any(re2.search(pattern, name) for pattern in patterns)


def blocked(redaction, name):
    return any(re2.search(pattern, name) for pattern in redaction["blocked_key_patterns"])


@pytest.mark.parametrize("policy", [*PRESETS.values(), CLOSED], ids=lambda policy: policy.name)
def test_every_pattern_compiles_in_re2(policy):
    redaction, transform = parsed(policy)
    for pattern in [*redaction["blocked_values"], *redaction["blocked_key_patterns"]]:
        re2.compile(pattern)
        assert not re2.search(pattern, "")
    for group in [*transform["trace_statements"], *transform["log_statements"]]:
        for statement in group["statements"]:
            if "_pattern" in statement or "_matching" in statement:
                at = 1 if "replace_all" in statement else 0
                re2.compile(literals(statement)[at])


def test_the_options_are_those_of_the_processors():
    redaction, transform = parsed()
    assert (redaction["allow_all_keys"], redaction["summary"]) == (True, "info")
    assert set(redaction) == {
        "allow_all_keys", "ignored_keys", "blocked_key_patterns", "blocked_values", "summary",
    }  # fmt: skip
    assert set(transform) == {"error_mode", "trace_statements", "log_statements"}
    contexts = [group["context"] for group in transform["trace_statements"]]
    assert contexts == ["span", "spanevent"]
    for context in ("span", "spanevent", "log"):
        for statement in statements(transform, context):
            assert re.match(
                r"(?:delete_matching_keys|delete_key|replace_all_patterns|replace_pattern|set)\(", statement
            )
            paths = set(
                re.findall(r"\b(span|spanevent|log|resource)\.", re.sub(r'"(?:\\.|[^"\\])*"', "", statement))
            )
            assert paths == {context}


@pytest.mark.parametrize(("detector", "value"), SAMPLES, ids=lambda value: value[:12])
def test_each_pattern_finds_its_type(detector, value):
    only = replace(STRICT, detectors={detector: "tag"})
    redaction, transform = parsed(only)
    text = f"see {value} here"
    assert f"<{detector.upper()}>" in replaced(transform, text)
    assert any(re2.search(pattern, text) for pattern in redaction["blocked_values"])
    everything = replaced(parsed()[1], text)
    secret = re.split(r"[=:]\s*\"?|//|Bearer ", value)[-1].split("@")[0][:12]
    assert secret not in everything


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_harmless_stays(text):
    redaction, transform = parsed()
    assert replaced(transform, text) == text
    assert not [pattern for pattern in redaction["blocked_values"] if re2.search(pattern, text)]


def test_what_stands_around_a_value_stays():
    _, transform = parsed()
    told = "ask jane@example.com, 연락처는 010-1234-5678이고 password = 'hunter22'; https://app:pw@db/x?token=abcd&a=1"
    assert replaced(transform, told) == (
        "ask <EMAIL>, 연락처는 <PHONE>이고 password = '<CREDENTIAL>'; "
        "https://<URL_CREDENTIALS>db/x?token=<URL_CREDENTIALS>&a=1"
    )
    assert replaced(transform, told, target="span.name") == replaced(transform, told)


def test_a_detector_that_is_off_is_not_looked_for():
    redaction, transform = parsed(PRESETS["debug"])
    assert replaced(transform, "jane@example.com 010-1234-5678") == "jane@example.com 010-1234-5678"
    assert not any(re2.search(pattern, "jane@example.com") for pattern in redaction["blocked_values"])
    none = replace(STRICT, detectors=dict.fromkeys(STRICT.detectors, "off"))
    assert "blocked_values" not in parsed(none)[0]


def test_what_is_dropped_leaves_no_tag():
    dropping = replace(STRICT, detectors={**STRICT.detectors, "email": "drop"})
    assert replaced(parsed(dropping)[1], "to jane@example.com.") == "to ."


def test_national_numbers_are_those_of_the_regions():
    german = replace(STRICT, regions=("DE",))
    assert replaced(parsed(german)[1], "010-1234-5678 or +82 10-1234-5678") == "010-1234-5678 or <PHONE>"


CONTENT = {
    semconv.GEN_AI_INPUT_MESSAGES: "prompts",
    semconv.GEN_AI_OUTPUT_MESSAGES: "completions",
    semconv.GEN_AI_TOOL_CALL_ARGUMENTS: "tool_arguments",
    semconv.GEN_AI_TOOL_CALL_RESULT: "tool_results",
    semconv.GEN_AI_RETRIEVAL_DOCUMENTS: "documents",
    semconv.GEN_AI_RETRIEVAL_QUERY_TEXT: "prompts",
    semconv.EMBEDDING_TEXTS: "embeddings",
    semconv.EXCEPTION_MESSAGE: "exceptions",
    semconv.EXCEPTION_STACKTRACE: "exceptions",
    semconv.OI_INPUT_VALUE: "prompts",
    semconv.OI_OUTPUT_VALUE: "completions",
}


@pytest.mark.parametrize(("name", "field"), CONTENT.items())
def test_withheld_content_is_deleted_and_readable_content_is_not(name, field):
    redaction, transform = parsed(modes=dict.fromkeys(FIELDS, "none"))
    assert all(deleted(transform, context, name) for context in ("span", "spanevent", "log"))
    assert deleted(transform, "log", name, of="body")
    assert blocked(redaction, name)
    redaction, transform = parsed(modes={**dict.fromkeys(FIELDS, "none"), field: "masked"})
    assert not any(deleted(transform, context, name) for context in ("span", "spanevent", "log"))
    assert not blocked(redaction, name)


OF_OTHERS = [
    "llm.input_messages.0.message.content", "llm.output_messages.0.message.content", "gen_ai.prompt.0.content",
    "gen_ai.completion.0.content", "gen_ai.prompt", "gen_ai.system_instructions", "gen_ai.tool.definitions",
    "retrieval.documents.0.document.content", "document.content", "embedding.embeddings.0.embedding.text",
    "traceloop.entity.input", "traceloop.entity.output", "langfuse.trace.output", "llm.prompt_template.variables",
    "error.message",
]  # fmt: skip


@pytest.mark.parametrize("name", OF_OTHERS)
def test_content_of_other_instrumentations_goes_by_the_same_field_as_in_the_process(name):
    field = field_of(name)
    assert deleted(parsed(modes=dict.fromkeys(FIELDS, "none"))[1], "span", name)
    assert not deleted(parsed(modes={**dict.fromkeys(FIELDS, "none"), field: "full"})[1], "span", name)


def test_logs_have_modes_of_their_own():
    modes = {**dict.fromkeys(FIELDS, "none"), "prompts": "masked"}
    redaction, transform = parsed(modes=modes, logs_modes=dict.fromkeys(FIELDS, "none"))
    name = semconv.GEN_AI_INPUT_MESSAGES
    assert [deleted(transform, context, name) for context in ("span", "log")] == [False, True]
    assert not blocked(redaction, name)  # it is one processor for both
    assert any(each.startswith('set(log.body, "") where') for each in statements(transform, "log"))


def test_only_hashes_of_users_stay_where_users_are_hashed():
    redaction, transform = parsed()
    for name in (semconv.USER_ID, semconv.OI_USER_ID):
        assert not deleted(transform, "span", name)
        assert not blocked(redaction, name)
        keep = next(
            each
            for each in statements(transform, "span")
            if each.startswith("delete_key(") and f'"{name}"' in each
        )
        pattern = literals(keep)[-1]
        assert re2.search(pattern, HASH)
        assert not re2.search(pattern, "ada")
    redaction, transform = parsed(modes={**STRICT.content, "user_id": "none"})
    assert deleted(transform, "span", semconv.USER_ID)
    assert blocked(redaction, semconv.OI_USER_ID)


def test_secret_headers_go_and_other_names_stay():
    redaction, transform = parsed()
    for name in (
        "http.request.header.authorization",
        "http.request.header.x-api-key",
        "http.response.header.set-cookie",
    ):
        assert deleted(transform, "span", name)
        assert blocked(redaction, name)
    for name in (*semconv.ATTRIBUTES, "http.request.header.accept", "service.name"):
        if name not in CONTENT:
            assert not deleted(transform, "span", name), name
            assert not blocked(redaction, name), name


def test_errors_lose_their_text_where_it_is_withheld():
    assert 'set(span.status.message, "")' in statements(parsed()[1], "span")
    shown = statements(parsed(modes={**STRICT.content, "exceptions": "masked"})[1], "span")
    assert not any("set(" in each for each in shown)
    assert any(each.startswith("replace_pattern(span.status.message, ") for each in shown)


def test_custom_detectors_go_along_if_go_knows_their_syntax():
    custom = (
        CustomDetector(name="employee", regex=r"EMP-\d{6}$"),
        CustomDetector(name="project", words=("Blue Bird", "청룡", "O'Neil")),
        CustomDetector(name="ahead", regex=r"A(?=B)"),
        CustomDetector(name="back", regex=r"(a)b\1"),
        CustomDetector(name="many", words=tuple(f"word{number}" for number in range(501))),
        CustomDetector(name="dropped", words=("gone",), replacement="drop"),
        CustomDetector(name="unused", words=("unused",), replacement="off"),
    )
    policy = replace(STRICT, name="own", custom=custom)
    redaction, transform = parsed(policy)
    assert replaced(transform, "blue  bird, 청룡은 o'neil gone unused EMP-123456") == (
        "<PROJECT>, <PROJECT>은 <PROJECT>  unused <EMPLOYEE>"
    )
    assert all(re2.compile(pattern) for pattern in redaction["blocked_values"])
    text = collector_config(policy, policy.content)
    assert "since patterns alone cannot: secret, ahead, back, many." in text


@pytest.mark.parametrize(
    "regex", [r"a\Z", r"(?x)a b", r"a++", r"(?>ab)", r"a{,3}b", r"\u0041", r"a{2000}", r"(?P=x)"]
)
def test_what_go_does_not_know_is_left_out(regex):
    policy = replace(STRICT, custom=(CustomDetector(name="odd", regex=regex),))
    assert regex not in parsed(policy)[0]["blocked_values"]


def test_the_heading_says_what_it_is_and_what_it_is_not():
    policy = replace(STRICT, version="2\nprocessors: {}")
    heading = collector_config(policy, policy.content).split("processors:\n")[0]
    assert all(line.startswith("#") for line in heading.splitlines())
    assert policy.fingerprint in heading
    assert "check digits are not verified here" in heading


def test_the_command_prints_it(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOBS_CONTENT", "prompts=masked")
    assert main(["privacy", "collector", "--policy", "gdpr"]) == 0
    modes = {**PRESETS["gdpr"].content, "prompts": "masked"}
    assert capsys.readouterr().out == collector_config(PRESETS["gdpr"], modes, logs_modes=modes)
    assert main(["privacy", "collector", "--policy", "lax"]) == 2
