"""Content of runs under each mode and policy, from the recorder's verbs to what an exporter is given."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, semconv, using_attributes
from aiobs_core.adapter import found_documents, message_of
from aiobs_core.privacy.audit import verify
from aiobs_core.privacy.hashing import Hasher, keys_in

KEY = "a key for the tests of content"
HASHER = Hasher(keys_in(KEY))
ASKED = [
    message_of("system", "Be kind to jane@example.com."),
    message_of("user", ["Call 010-1234-5678", " or write to ja", "ne@example.com."]),
    message_of("assistant", "", [("c1", "look_up", {"mail": "jane@example.com", "password": "hunter2-x"})]),
    message_of("tool", "jane@example.com lives in Seoul", answers="c1"),
]
SAID = [message_of("assistant", "She is jane@example.com", [("c2", "send", {"to": "jane@example.com"})])]
READABLE = (
    semconv.GEN_AI_INPUT_MESSAGES,
    semconv.GEN_AI_OUTPUT_MESSAGES,
    semconv.GEN_AI_TOOL_CALL_ARGUMENTS,
    semconv.GEN_AI_TOOL_CALL_RESULT,
    semconv.GEN_AI_RETRIEVAL_DOCUMENTS,
    semconv.GEN_AI_RETRIEVAL_QUERY_TEXT,
    semconv.EMBEDDING_TEXTS,
)
HASHES = (
    semconv.PROMPT_HASH,
    semconv.COMPLETION_HASH,
    semconv.SYSTEM_HASH,
    semconv.TOOL_ARGUMENTS_HASH,
    semconv.TOOL_RESULT_HASH,
    semconv.DOCUMENTS_HASH,
    semconv.EMBEDDING_TEXTS_HASH,
)


class Document:
    id, page_content, metadata = "d1", "jane@example.com wrote this", {"author": "jane@example.com"}


def operations() -> list[tuple[Operation, Outcome | None]]:
    return [
        (
            Operation(kind=Kind.MODEL, name="m", model="m", content=lambda: ASKED),
            Outcome(finish_reasons=("stop",), content=lambda: SAID),
        ),
        (
            Operation(kind=Kind.TOOL, name="t", content=lambda: {"to": ["jane@example.com"], "n": 3}),
            Outcome(content=lambda: "sent to jane@example.com"),
        ),
        (
            Operation(kind=Kind.RETRIEVER, name="r", content=lambda: "who is jane@example.com"),
            found_documents([Document()]),
        ),
        (Operation(kind=Kind.EMBEDDING, name="e", content=lambda: ["jane@example.com", "x"]), None),
    ]


def exported(
    *runs: tuple[Operation, Outcome | None], error: BaseException | None = None, **settings: object
) -> list[Any]:
    memory = InMemorySpanExporter()
    given = {"flush_interval_s": 0.01, "hash_key": KEY, **settings}
    recorder = Recorder(Settings.load({}, given, strict=True), exporters=[memory])
    for number, (operation, outcome) in enumerate(runs):
        recorder.start(number, operation, scope="aiobs.testing")
        if error is None:
            recorder.end(number, outcome)
        else:
            recorder.fail(number, error)
    assert recorder.shutdown(10)
    return list(memory.get_finished_spans())


def attributes_of(*runs: tuple[Operation, Outcome | None], **settings: object) -> dict[str, Any]:
    return {
        name: value for span in exported(*runs, **settings) for name, value in (span.attributes or {}).items()
    }


def test_by_default_only_the_prompts_hash_leaves():
    found = attributes_of(*operations())
    assert found.keys().isdisjoint(READABLE)
    assert [name for name in HASHES if name in found] == [semconv.PROMPT_HASH]
    assert "jane" not in json.dumps(found)


def test_the_hash_of_a_prompt_can_be_computed_by_hand():
    messages = [message_of("system", "s"), message_of("user", " Bonjour, e\u0301te\u0301 \r\n")]
    found = attributes_of((Operation(kind=Kind.MODEL, name="m", content=lambda: messages), None))
    assert found[semconv.PROMPT_HASH] == HASHER.hash("prompts", "user:  Bonjour, \u00e9t\u00e9")


def test_hash_gives_each_field_one_and_nothing_readable():
    found = attributes_of(*operations(), content="hash")
    assert found.keys().isdisjoint(READABLE)
    assert all(found[name].startswith(f"{HASHER.key_id}:") for name in HASHES)
    assert len({found[name] for name in HASHES}) == len(HASHES)


def test_none_leaves_nothing_of_it():
    found = attributes_of(*operations(), content="none")
    assert found.keys().isdisjoint({*READABLE, *HASHES})


def test_masked_content_is_json_with_roles_and_parts():
    found = attributes_of(*operations(), content="masked")
    assert json.loads(found[semconv.GEN_AI_INPUT_MESSAGES]) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be kind to <EMAIL>."}]},
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "Call <PHONE>"},
                {"type": "text", "content": " or write to <EMAIL>"},
                {"type": "text", "content": "."},
            ],
        },
        {
            "role": "assistant",
            "parts": [
                {
                    "type": "tool_call",
                    "id": "c1",
                    "name": "look_up",
                    "arguments": {"mail": "<EMAIL>", "password": "<CREDENTIAL>"},
                }
            ],
        },
        {
            "role": "tool",
            "parts": [{"type": "tool_call_response", "id": "c1", "response": "<EMAIL> lives in Seoul"}],
        },
    ]
    (said,) = json.loads(found[semconv.GEN_AI_OUTPUT_MESSAGES])
    assert said["finish_reason"] == "stop"
    assert said["parts"][0] == {"type": "text", "content": "She is <EMAIL>"}
    assert json.loads(found[semconv.GEN_AI_TOOL_CALL_ARGUMENTS]) == {"to": ["<EMAIL>"], "n": 3}
    assert found[semconv.GEN_AI_TOOL_CALL_RESULT] == "sent to <EMAIL>"
    assert json.loads(found[semconv.GEN_AI_RETRIEVAL_DOCUMENTS]) == [
        {"id": "d1", "content": "<EMAIL> wrote this", "metadata": {"author": "<EMAIL>"}}
    ]
    assert found[semconv.GEN_AI_RETRIEVAL_QUERY_TEXT] == "who is <EMAIL>"
    assert json.loads(found[semconv.EMBEDDING_TEXTS]) == ["<EMAIL>", "x"]


def test_full_content_is_as_it_was():
    found = attributes_of(*operations(), content="full")
    assert found[semconv.GEN_AI_TOOL_CALL_RESULT] == "sent to jane@example.com"
    assert "hunter2-x" in found[semconv.GEN_AI_INPUT_MESSAGES]


def test_each_field_has_a_mode_of_its_own():
    found = attributes_of(
        *operations(), content="prompts=masked,completions=none,tool_results=hash,system=none"
    )
    system, user, assistant, tool = json.loads(found[semconv.GEN_AI_INPUT_MESSAGES])
    assert (system["parts"], len(user["parts"])) == ([], 3)
    assert assistant["parts"] == [{"type": "tool_call", "id": "c1", "name": "look_up"}]
    assert tool["parts"] == [{"type": "tool_call_response", "id": "c1"}]
    assert semconv.GEN_AI_OUTPUT_MESSAGES not in found
    assert semconv.TOOL_RESULT_HASH in found


def test_what_was_masked_is_said_in_the_span():
    (span,) = exported(operations()[1], content="masked")
    assert span.attributes[semconv.MASKED_COUNT] == 2
    assert span.attributes[semconv.MASKED_VALUES] == ("tool_arguments:email", "tool_results:email")


def test_every_attribute_event_link_and_name_is_masked():
    memory = InMemorySpanExporter()
    recorder = Recorder(Settings.load({}, {"flush_interval_s": 0.01}), exporters=[memory])
    context = trace.SpanContext(1, 2, is_remote=False)
    span = recorder.start("a", Operation(kind=Kind.CHAIN, name="for jane@example.com"))
    assert span is not None
    span.set_attribute("note", "jane@example.com")
    span.set_attribute("notes", ["jane@example.com"])
    span.add_event("jane@example.com", {"note": "jane@example.com"})
    span.add_link(context, {"note": "jane@example.com"})
    recorder.end("a")
    assert recorder.shutdown(5)
    (finished,) = memory.get_finished_spans()
    assert "jane@" not in finished.to_json()
    assert finished.name == "invoke_workflow for <EMAIL>"


def test_long_content_is_cut_with_a_mark_and_stays_json():
    messages = [
        message_of("user", f"message {number} " + "word " * 400 + "jane@example.com") for number in range(20)
    ]
    found = attributes_of(
        (Operation(kind=Kind.MODEL, name="m", content=lambda: messages), None),
        content="masked",
        content_max_chars=1_000,
    )
    text = found[semconv.GEN_AI_INPUT_MESSAGES]
    assert len(text) <= 4_000
    shown = json.loads(text)
    assert shown[0]["parts"][0]["content"].startswith("message 0 ")
    assert shown[-1]["parts"][0]["content"].startswith("message 19 ")
    assert shown[1] == {"role": "system", "parts": [{"type": "omitted", "messages": 20 - len(shown) + 1}]}
    assert "more characters]" in shown[0]["parts"][0]["content"]


@pytest.mark.parametrize(
    "value", [float("nan"), "\ud800", b"bytes", object(), {1: {2: {3}}}, range(3), iter([1])]
)
def test_odd_arguments_of_a_tool_are_shown_as_far_as_they_can_be(value):
    found = attributes_of(
        (Operation(kind=Kind.TOOL, name="t", content=lambda: {"value": value}), None), content="masked"
    )
    json.loads(found[semconv.GEN_AI_TOOL_CALL_ARGUMENTS])


def test_content_that_cannot_be_read_costs_the_content_only(caplog):
    def broken() -> Any:
        raise RuntimeError("jane@example.com")

    found = attributes_of((Operation(kind=Kind.TOOL, name="t", content=broken), None), content="masked")
    assert found[semconv.TELEMETRY_ERROR] == "RuntimeError"
    assert "jane" not in caplog.text


# --- exceptions ---------------------------------------------------------------------------------------------------------


def failed() -> BaseException:
    try:
        try:
            raise KeyError("jane@example.com")
        except KeyError as error:
            raise ValueError("no account for jane@example.com, token=s3cr3t-value-1") from error
    except ValueError as error:
        return error


@pytest.mark.parametrize("mode", ["none", "masked", "full"])
def test_texts_of_an_exception_go_by_their_mode(mode):
    (span,) = exported(
        (Operation(kind=Kind.TOOL, name="t"), None), error=failed(), content={"exceptions": mode}
    )
    told = [dict(event.attributes) for event in span.events]
    if mode == "none":
        assert told == []
        return
    (texts,) = told
    assert texts["exception.type"] == "ValueError"
    assert "Traceback" in texts["exception.stacktrace"]
    if mode == "masked":
        assert texts["exception.message"] == "no account for <EMAIL>, token=<CREDENTIAL>"
        assert "jane" not in span.to_json()
    else:
        assert "jane@example.com" in texts["exception.message"]


# --- users and policies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", None),
        ("hash", HASHER.hash("user_id", "jane@example.com")),
        ("masked", "<EMAIL>"),
        ("full", "jane@example.com"),
    ],
)
def test_the_user_leaves_by_their_mode(mode, expected):
    with using_attributes(user_id="jane@example.com"):
        found = attributes_of((Operation(kind=Kind.CHAIN, name="c"), None), content={"user_id": mode})
    assert found.get(semconv.USER_ID) == expected


def test_a_request_may_have_a_policy_of_its_own(tmp_path):
    own = tmp_path / "acme.toml"
    own.write_text('base = "strict"\n[content]\ntool_results = "masked"\n[detectors]\nemail = "pseudonym"\n')
    with using_attributes(privacy_policy="acme"):
        found = attributes_of(operations()[1], privacy_policies=str(own))
    assert found[semconv.GEN_AI_TOOL_CALL_RESULT].startswith("sent to <EMAIL:")
    assert found[semconv.PRIVACY_POLICY] == "acme"
    assert semconv.PRIVACY_POLICY not in attributes_of(operations()[1], privacy_policies=str(own))


def test_an_unknown_policy_of_a_request_lets_no_content_out_and_is_said_once(caplog):
    with using_attributes(privacy_policy="acem", user_id="u"):
        found = attributes_of(*operations(), content="full")
    assert found.keys().isdisjoint({*READABLE, *HASHES, semconv.USER_ID})
    assert [record.message for record in caplog.records if "name that no policy has" in record.message]


def test_without_a_usable_key_there_are_no_hashes(tmp_path, monkeypatch, caplog):
    folder = tmp_path / "aiobs"
    folder.mkdir()
    (folder / "hash.key").write_text("too short")
    (folder / "hash.key").chmod(0o600)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    memory = InMemorySpanExporter()
    recorder = Recorder(Settings.load({}, {"flush_interval_s": 0.01}), exporters=[memory])
    recorder.start("a", operations()[0][0])
    recorder.end("a")
    assert recorder.shutdown(5)
    (span,) = memory.get_finished_spans()
    assert semconv.PROMPT_HASH not in (span.attributes or {})
    assert "hashes are left out" in caplog.text


# --- beside the store ---------------------------------------------------------------------------------------------------


def stored(folder: Path, *, key: str = KEY, **settings: object) -> None:
    given = {"flush_interval_s": 0.01, "hash_key": key, "store": str(folder), "console": "off", **settings}
    recorder = Recorder(Settings.load({}, given, strict=True))
    for number, (operation, outcome) in enumerate(operations()):
        recorder.start(number, operation)
        recorder.end(number, outcome)
    assert recorder.shutdown(10)


@pytest.fixture
def own_provider(monkeypatch):
    """The local store is used where nobody else has a provider."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace._TRACER_PROVIDER_SET_ONCE, "_done", False)


@pytest.mark.usefixtures("own_provider")
def test_the_audit_log_says_the_policy_and_what_was_masked(tmp_path):
    stored(tmp_path, content="masked")
    records = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records] == ["configuration", "masked"]
    assert records[0]["facts"]["policies"][0]["name"] == "strict"
    assert records[1]["facts"]["values"]["strict"]["completions:email"] == 1
    assert "jane" not in (tmp_path / "audit.jsonl").read_text()
    assert verify(tmp_path / "audit.jsonl", [KEY.encode()]).is_intact


@pytest.mark.usefixtures("own_provider")
def test_a_rotated_key_is_said_at_the_start(tmp_path, caplog):
    stored(tmp_path)
    new = "another key, of the next year"
    stored(tmp_path, key=new)
    assert "the hash key is another" in caplog.text
    assert "is not known any more" in caplog.text
    caplog.clear()
    stored(tmp_path, key=f"a third key, of the year after\n{new}")
    assert "the older key is still known" in caplog.text


@pytest.mark.usefixtures("own_provider")
def test_long_content_can_be_kept_whole_beside_the_store(tmp_path):
    stored(tmp_path, content="masked", content_max_chars=64, content_overflow="store")
    files = [json.loads(path.read_text()) for path in (tmp_path / "content").iterdir()]
    (messages,) = [
        each[semconv.GEN_AI_INPUT_MESSAGES] for each in files if semconv.GEN_AI_INPUT_MESSAGES in each
    ]
    assert "<EMAIL> lives in Seoul" in messages
    assert not any("jane" in path.read_text() for path in (tmp_path / "content").iterdir())
    if os.name == "posix":
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "content").iterdir())


@pytest.mark.usefixtures("own_provider")
def test_an_audit_log_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "audit.jsonl").mkdir()
    with caplog.at_level(logging.WARNING, "aiobs"):
        stored(tmp_path, content="masked")
    assert "cannot be written" in caplog.text
    assert (tmp_path / "aiobs.db").exists()


# --- other instrumentations ---------------------------------------------------------------------------------------------


def foreign(**settings: object) -> Any:
    from opentelemetry.sdk.trace import TracerProvider

    from aiobs_core._health import Health
    from aiobs_core.privacy.stage import Privacy

    span = TracerProvider().get_tracer("other").start_span("call")
    for piece in ("mail ja", "ne@ex", "ample", ".com now"):
        span.add_event("gen_ai.content.completion.chunk", {"content": piece})
    span.end()
    privacy = Privacy(Settings.load({}, {"hash_key": KEY, **settings}, strict=True), Health())
    return privacy.masked_span(span, None)  # type: ignore[arg-type]  # the SDK's span is readable


def test_a_value_that_is_split_over_the_chunks_of_a_stream_is_masked():
    pieces = [event.attributes["content"] for event in foreign(content="masked").events]
    assert "".join(pieces) == "mail <EMAIL> now"


def test_content_in_events_goes_by_its_mode():
    assert [dict(event.attributes) for event in foreign().events] == [{}] * 4
    assert len(foreign(content="full").events[1].attributes["content"]) == 5


def test_a_masked_copy_says_what_the_original_had_dropped():
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider

    from aiobs_core._health import Health
    from aiobs_core.privacy.stage import Privacy

    limits = SpanLimits(max_span_attributes=1, max_events=1)
    span = TracerProvider(span_limits=limits).get_tracer("other").start_span("call")
    span.set_attributes({"a": 1, "b": 2, "c": 3})
    span.add_event("one")
    span.add_event("two")
    span.end()
    masked = Privacy(Settings.load({}, {"hash_key": KEY}), Health()).masked_span(span, None)  # type: ignore[arg-type]
    assert (masked.dropped_attributes, masked.dropped_events, masked.dropped_links) == (2, 1, 0)


# --- what people have tried -----------------------------------------------------------------------------------------------


def test_with_a_closed_policy_a_request_cannot_choose_another():
    from aiobs_core.privacy.policy import CLOSED

    with using_attributes(privacy_policy="debug", user_id="u"):
        found = attributes_of(*operations(), privacy_policy=CLOSED)
    assert found.keys().isdisjoint({*READABLE, *HASHES, semconv.USER_ID})


def test_unknown_policies_cost_one_set_of_rules_and_one_warning(caplog):
    from aiobs_core._health import Health
    from aiobs_core.privacy.stage import Privacy

    privacy = Privacy(Settings.load({}, {"hash_key": KEY}), Health())
    rules = {id(privacy.rules(f"jane@example.com-{number}")) for number in range(1_000)}
    assert len(rules) == 1
    assert len([record for record in caplog.records if "no policy has" in record.message]) == 1
    assert "jane" not in caplog.text


def test_where_policies_are_named_only_these_can_be_chosen():
    with using_attributes(privacy_policy="debug"):
        found = attributes_of(operations()[1], privacy_policies="gdpr")
    assert found.keys().isdisjoint(READABLE)


def test_one_odd_run_costs_no_other_its_span():
    odd = Operation(kind=Kind.TOOL, name="odd", user_id=42, content=lambda: 1 / 0)  # type: ignore[arg-type]  # on purpose
    spans = exported((odd, None), *operations(), content="masked")
    assert len(spans) == 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user.id", 12_345_678),
        ("enduser.id", 98_765.0),
        ("output.value", 77_123_456),
        ("input.value", 1.5e15),
        ("card", 4_111_111_111_111_111.0),
        ("user.password.value", "hunter2"),
        ("tool." * 60, "jane@example.com"),
    ],
)
def test_numbers_and_odd_names_of_other_instrumentations_leave_nothing(name, value):
    from opentelemetry.sdk.trace import TracerProvider

    from aiobs_core._health import Health
    from aiobs_core.privacy.stage import Privacy

    span = TracerProvider().get_tracer("other").start_span("call", attributes={name: value})
    span.end()
    privacy = Privacy(Settings.load({}, {"hash_key": KEY, "privacy_policy": "hipaa-safe-harbor"}), Health())
    masked = privacy.masked_span(span, None)  # type: ignore[arg-type]
    assert str(value) not in masked.to_json()


def test_parts_of_a_message_of_another_instrumentation_go_by_their_own_field():
    from opentelemetry.sdk.trace import TracerProvider

    from aiobs_core._health import Health
    from aiobs_core.privacy.stage import Privacy

    messages = json.dumps(
        [{"role": "system", "content": "secret plan"}, {"role": "user", "content": "hello"}]
    )
    span = (
        TracerProvider()
        .get_tracer("other")
        .start_span("call", attributes={"gen_ai.input.messages": messages})
    )
    span.end()
    settings = Settings.load({}, {"hash_key": KEY, "content": "prompts=masked,system=none"})
    masked = Privacy(settings, Health()).masked_span(span, None)  # type: ignore[arg-type]
    assert "hello" in masked.attributes["gen_ai.input.messages"]
    assert "secret plan" not in masked.attributes["gen_ai.input.messages"]


def test_values_under_the_name_of_a_secret_are_masked_however_they_are_nested():
    arguments = {
        "password": {"value": "hunter2"},
        "secret": [["hunter4"]],
        "headers": [["Authorization", "hunter5"]],
        "env": [{"name": "DB_PASSWORD", "value": "hunter7"}],
    }
    found = attributes_of(
        (Operation(kind=Kind.TOOL, name="t", content=lambda: arguments), None), content="masked"
    )
    assert "hunter" not in found[semconv.GEN_AI_TOOL_CALL_ARGUMENTS]


def test_roles_and_names_of_tools_in_messages_are_masked():
    key = "sk-proj-" + "abcdefghijklmnop1234"
    messages = [
        {
            "role": "jane@example.com",
            "parts": [{"type": "tool_call", "id": "1", "name": key, "arguments": {}}],
        }
    ]
    found = attributes_of(
        (Operation(kind=Kind.MODEL, name="m", content=lambda: messages), None), content="masked"
    )
    assert "jane" not in found[semconv.GEN_AI_INPUT_MESSAGES]
    assert key not in found[semconv.GEN_AI_INPUT_MESSAGES]


def test_a_settings_file_that_cannot_be_read_closes_what_nothing_else_says(tmp_path):
    from aiobs_core.privacy.policy import CLOSED

    (tmp_path / "aiobs.toml").write_text('[aiobs]\nprivacy_policy = "hipaa-safe-harbor\n')
    assert Settings.load({"AIOBS_CONFIG_FILE": str(tmp_path / "aiobs.toml")}).privacy_policy is CLOSED
    (tmp_path / "aiobs.toml").write_text('[aiobs]\nprivacy_polcy = "hipaa-safe-harbor"\n')
    assert Settings.load({"AIOBS_CONFIG_FILE": str(tmp_path / "aiobs.toml")}).privacy_policy is CLOSED
    assert Settings.load({"AIOBS_PRIVACY_POLICY": "~nobody-of-that-name/x.toml"}).privacy_policy is CLOSED


def test_a_policy_that_is_made_in_code_is_checked():
    from dataclasses import replace

    from aiobs_core.privacy.policy import PRESETS, CustomDetector, PolicyError

    with pytest.raises(PolicyError, match="tool_arguments='mask'"):
        replace(PRESETS["strict"], content={**PRESETS["strict"].content, "tool_arguments": "mask"})
    twice = (CustomDetector(name="x", words=("a",)), CustomDetector(name="x", words=("b",)))
    with pytest.raises(PolicyError, match="two detectors 'x'"):
        replace(PRESETS["strict"], custom=twice)


@pytest.mark.skipif(os.name != "posix", reason="flock")
def test_a_log_that_another_process_has_locked_holds_nobody_up_for_ever(tmp_path):
    import fcntl

    from aiobs_core.privacy.audit import AuditLog

    log = AuditLog(tmp_path / "audit.jsonl", KEY.encode())
    log.append("started", {})
    with (tmp_path / "audit.jsonl").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="locked"):
            log.append("masked", {})


def test_masking_is_bounded_by_what_an_attribute_can_hold():
    messages = [message_of("user", "word " * 1_500) for _ in range(400)]
    messages[200] = {"role": "user", "parts": [{"type": "text", "content": "tiny"}] * 20_000}
    rows = [{f"column {at}": f"{at}" for at in range(50)} for _ in range(1_000)]
    found = attributes_of(
        (Operation(kind=Kind.MODEL, name="m", content=lambda: messages), None),
        (Operation(kind=Kind.TOOL, name="t", content=lambda: rows), None),
        content="masked",
    )
    shown = json.loads(found[semconv.GEN_AI_INPUT_MESSAGES])
    assert shown[1]["parts"] == [{"type": "omitted", "messages": 400 - len(shown) + 1}]
    assert len(found[semconv.GEN_AI_TOOL_CALL_ARGUMENTS]) <= 4 * 8_192
