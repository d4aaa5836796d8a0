"""What log lines say of requests: fields, levels, sums, privacy, and the published schema they keep to."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from dirty_equals import IsPartialDict, IsStr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import aiobs_core
from aiobs_core import (
    Kind,
    Operation,
    Outcome,
    Recorder,
    RunStatus,
    Settings,
    Usage,
    semconv,
    using_attributes,
)
from aiobs_core._span import AgentSpan
from aiobs_core.adapter import message_of
from aiobs_core.logs.lines import PARAMETERS
from aiobs_core.logs.request import WRITTEN
from aiobs_core.logs.schema import log_line_schema, schema_text
from aiobs_core.privacy import policy_of
from aiobs_core.privacy.hashing import Hasher, keys_in
from aiobs_core.semconv import logs as names
from aiobs_core.signals import gen_ai

KEY = "a key for the tests of logs"
SCHEMA = jsonschema.Draft202012Validator(log_line_schema(), format_checker=jsonschema.FormatChecker())
ASKED = [message_of("user", "Where is jane@example.com?")]
SAID = [message_of("assistant", "In  Seoul,\nshe is\tjane@example.com. " + "And so on. " * 50)]
CANARIES = ("jane@example.com", "Seoul", "Where is")


class Log:
    """A recorder that writes lines to a file, and what came of it."""

    def __init__(self, folder: Path, **given: object) -> None:
        self.path = folder / "requests.jsonl"
        self.memory = InMemorySpanExporter()
        found = {"log": str(self.path), "flush_interval_s": 0.01, "hash_key": KEY, "grace_s": 0.05, **given}
        self.recorder = Recorder(Settings.load({}, found, strict=True), exporters=[self.memory])

    def lines(self) -> list[dict[str, Any]]:
        assert self.recorder.flush(10)
        if not self.path.exists():
            return []
        found = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        for line in found:
            SCHEMA.validate(line)
        return found

    @contextmanager
    def run(self, kind: Kind, name: str, **more: Any) -> Iterator[AgentSpan | None]:
        with self.recorder.span(Operation(kind=kind, name=name, **more), scope="aiobs.testing") as span:
            yield span

    def call(self, outcome: Outcome | None = None, **more: Any) -> None:
        key = object()
        operation = {"kind": Kind.MODEL, "name": "chat", "model": "gpt-5-mini", **more}
        self.recorder.start(key, Operation(**operation), scope="aiobs.testing")
        self.recorder.end(key, outcome)

    def answer(self, **more: Any) -> None:
        """A request with one model call that has content."""
        with self.run(Kind.WORKFLOW, "answer"):
            outcome = Outcome(model="gpt-5-mini-2025-08-07", usage=Usage(12, 3, 4), content=lambda: SAID)
            self.call(outcome, provider="openai", params={"temperature": 0.2}, content=lambda: ASKED, **more)


@pytest.fixture
def log(tmp_path):
    made: list[Log] = []

    def make(**given: object) -> Log:
        made.append(Log(tmp_path, **given))
        return made[-1]

    yield make
    for each in made:
        each.recorder.shutdown()


# --- the line of a request ----------------------------------------------------------------------------------------
def test_a_request_is_one_line_with_the_fields_of_the_design(log):
    one = log()
    with using_attributes(request_id="r-17", user_id="u-1", session_id="s-4"):
        one.answer()
    (line,) = one.lines()
    (root,) = [span for span in one.memory.get_finished_spans() if span.parent is None]
    assert line == snapshot(
        {
            "timestamp": IsStr(regex=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
            "level": "INFO",
            "event": "ai.agent.request",
            "trace_id": f"{root.context.trace_id:032x}",
            "span_id": f"{root.context.span_id:016x}",
            "request_id": "r-17",
            "session_id": "s-4",
            "framework": "testing",
            "operation": "invoke_workflow",
            "name": "answer",
            "user_id": Hasher(keys_in(KEY)).hash("user_id", "u-1"),
            "model": "gpt-5-mini",
            "model_version": "gpt-5-mini-2025-08-07",
            "parameters": {"temperature": 0.2},
            "prompt_hash": Hasher(keys_in(KEY)).hash("prompts", "user: Where is jane@example.com?"),
            "input_tokens": 12,
            "output_tokens": 3,
            "cached_tokens": 4,
            "cost_usd": 8.1e-06,
            "model_calls": 1,
            "latency_ms": 0,
            "status": "success",
            "outcome": "success",
        }
    )


def test_the_request_id_is_the_trace_id_where_the_application_has_none(log):
    one = log()
    one.answer()
    (line,) = one.lines()
    assert line["request_id"] == line["trace_id"]


def test_the_tokens_of_a_request_are_those_of_all_its_calls_and_its_model_the_one_with_most(log):
    one = log()
    with one.run(Kind.AGENT, "planner"):
        one.call(Outcome(usage=Usage(100, 10, reasoning_tokens=5)), model="small", params={"top_k": 3})
        one.call(Outcome(usage=Usage(80, 40)), model="small", params={"top_k": 4})
        with one.run(Kind.TOOL, "search"):
            one.call(Outcome(usage=Usage(150, 1)), model="large")
        one.call(Outcome(usage=Usage(9, 9, source="cache_hit")), model="large")
    (line,) = one.lines()
    expected = {"input_tokens": 330, "output_tokens": 51, "reasoning_tokens": 5, "model_calls": 4}
    assert line == IsPartialDict(
        expected | {"model": "small", "parameters": {"top_k": 4}, "agent": "planner"}
    )
    assert "cached_tokens" not in line  # nobody has told of any


def test_without_tokens_the_last_model_is_named_and_no_count_is_made_up(log):
    one = log()
    with one.run(Kind.WORKFLOW, "answer"):
        one.call(model="first")
        one.call(model="last")
    (line,) = one.lines()
    assert line["model"] == "last"
    assert not line.keys() & {"input_tokens", "output_tokens", "cost_usd", "prompt_hash", "parameters"}


def test_a_model_call_without_anything_around_it_is_a_request(log):
    one = log()
    one.call(Outcome(usage=Usage(12, 3)), content=lambda: ASKED)
    (line,) = one.lines()
    assert line == IsPartialDict({"operation": "chat", "input_tokens": 12, "model_calls": 1})
    assert "prompt_hash" in line


@pytest.mark.parametrize(
    ("status", "level", "said"),
    [
        (RunStatus.SUCCESS, "INFO", ("success", "success", None)),
        (RunStatus.ERROR, "ERROR", ("error", "error", "RateLimitError")),
        (RunStatus.TIMED_OUT, "ERROR", ("error", "timed_out", "timed_out")),
        (RunStatus.CANCELLED, "INFO", ("success", "cancelled", None)),
        (RunStatus.ABANDONED, "INFO", ("success", "abandoned", None)),
        (RunStatus.INTERRUPTED, "INFO", ("success", "interrupted", None)),
    ],
)
def test_errors_and_timeouts_alone_are_errors_and_the_outcome_says_the_rest(log, status, level, said):
    one = log()
    one.call(Outcome(status=status, error_type="RateLimitError"))
    (line,) = one.lines()
    assert line["level"] == level
    assert (line["status"], line["outcome"], line.get("error_code")) == said


# --- levels -------------------------------------------------------------------------------------------------------
def troubled(one: Log) -> None:
    """An agent with a retried node, a model call that fails after a retry of its own, and an error passed on."""
    with pytest.raises(ValueError), one.run(Kind.WORKFLOW, "answer"):
        for _ in range(2):
            with one.run(Kind.CHAIN, "node", attempt_of="node"):
                pass
        with one.run(Kind.CHAIN, "step"), one.run(Kind.MODEL, "chat", model="m") as call:
            call.add_event(semconv.EVENT_RETRY, {semconv.RETRY_ATTEMPT: 1})
            raise ValueError("jane@example.com")


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("ERROR", ["ERROR ai.agent.error chat", "ERROR ai.agent.request answer"]),
        (
            "INFO",
            [
                "WARN ai.agent.retry node",
                "WARN ai.agent.retry chat",
                "ERROR ai.agent.error chat",
                "ERROR ai.agent.request answer",
            ],
        ),
        (
            "DEBUG",
            [
                "DEBUG ai.agent.run.start node",
                "DEBUG ai.agent.run.end node",
                "DEBUG ai.agent.run.start node",
                "WARN ai.agent.retry node",
                "DEBUG ai.agent.run.end node",
                "DEBUG ai.agent.run.start chat",
                "WARN ai.agent.retry chat",
                "ERROR ai.agent.error chat",
                "DEBUG ai.agent.run.start step",
                "DEBUG ai.agent.run.end step",
                "DEBUG ai.agent.run.start answer",
                "ERROR ai.agent.request answer",
            ],
        ),
    ],
)
def test_each_level_has_its_lines_and_no_run_ends_twice(log, level, written):
    one = log(log_level=level)
    troubled(one)
    lines = one.lines()
    assert [f"{line['level']} {line['event']} {line['name']}" for line in lines] == written
    assert lines[-1] == IsPartialDict({"retries": 2, "status": "error", "error_code": "ValueError"})


def test_at_warn_a_request_that_went_well_has_no_line(log):
    one = log(log_level="WARN")
    one.answer()
    assert one.lines() == []


def test_a_start_has_the_time_of_the_start(log):
    one = log(log_level="DEBUG")
    one.answer()
    start, end = [line for line in one.lines() if line["name"] == "chat"]
    assert start["timestamp"] < end["timestamp"]
    assert end == IsPartialDict({"parameters": {"temperature": 0.2}, "input_tokens": 12, "cost_usd": 8.1e-06})


def test_an_attempt_is_numbered_as_the_framework_does(log):
    one = log()
    troubled(one)
    assert [line["attempt"] for line in one.lines() if line["event"] == names.RETRY] == [2, 1]


def test_every_line_belongs_to_an_exported_span(log):
    one = log(log_level="DEBUG")
    one.answer()
    troubled(one)
    lines = one.lines()
    spans = {
        (f"{s.context.trace_id:032x}", f"{s.context.span_id:016x}") for s in one.memory.get_finished_spans()
    }
    assert {(line["trace_id"], line["span_id"]) for line in lines} == spans


def test_a_trace_that_is_not_kept_has_no_line(log, monkeypatch):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    one = log()
    one.recorder.apply(one.recorder.settings, tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    one.answer()
    assert one.lines() == []


# --- privacy ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("level", ["DEBUG", "INFO"])
def test_no_content_and_no_hash_is_on_a_line_where_the_mode_is_none(log, level):
    one = log(
        log_level=level,
        content="none",
        privacy_policy=policy_of({"name": "x", "content": {"user_id": "none"}}),
    )
    with using_attributes(user_id="jane@example.com"):
        one.answer()
    lines = one.lines()
    assert not {"prompt_hash", "output_summary", "user_id"} & {name for line in lines for name in line}
    assert not any(canary in one.path.read_text() for canary in CANARIES)


def test_by_default_content_is_not_read_for_a_line(log):
    reads: list[str] = []
    one = log()
    one.call(
        Outcome(content=lambda: reads.append("answer") or SAID),
        content=lambda: reads.append("question") or ASKED,
    )
    one.lines()
    assert reads == ["question"]  # once, for the hash on the span, which is that of the line


def test_a_policy_may_hash_prompts_on_logs_and_not_on_spans(log):
    policy = policy_of({"name": "x", "content": {"prompts": "none", "logs": {"prompts": "hash"}}})
    one = log(privacy_policy=policy)
    one.answer()
    (line,) = one.lines()
    assert line["prompt_hash"] == Hasher(keys_in(KEY)).hash("prompts", "user: Where is jane@example.com?")
    assert not any(semconv.PROMPT_HASH in span.attributes for span in one.memory.get_finished_spans())


def test_a_policy_may_have_content_on_spans_and_not_on_logs(log):
    policy = policy_of(
        {
            "name": "x",
            "base": "debug",
            "content": {"logs": {"prompts": "none", "completions": "none", "user_id": "hash"}},
        }
    )
    one = log(privacy_policy=policy)
    with using_attributes(user_id="u-1"):
        one.answer()
    (line,) = one.lines()
    assert not {"prompt_hash", "output_summary"} & line.keys()
    assert line["user_id"] == Hasher(keys_in(KEY)).hash("user_id", "u-1")
    assert any(span.attributes.get(semconv.USER_ID) == "u-1" for span in one.memory.get_finished_spans())


@pytest.mark.parametrize(("mode", "shown"), [("masked", "<EMAIL>"), ("full", "jane@example.com")])
def test_a_summary_is_the_beginning_of_the_answer_on_one_line(log, mode, shown):
    one = log(content={"completions": mode})
    one.answer()
    (line,) = one.lines()
    assert line["output_summary"].startswith(f"In Seoul, she is {shown}. And so on. And")
    assert line["output_summary"].endswith("…")
    assert len(line["output_summary"]) == names.MAX_SUMMARY_CHARS


def test_the_summary_is_that_of_the_last_answer(log):
    one = log(content={"completions": "masked"})
    with one.run(Kind.WORKFLOW, "answer"):
        one.call(Outcome(content=lambda: [message_of("assistant", "first")]))
        one.call(Outcome(content=lambda: [message_of("assistant", "last")]))
        one.call(Outcome(content=lambda: [message_of("assistant", "", [("c1", "look_up", {})])]))
    (line,) = one.lines()
    assert line["output_summary"] == "last"


def test_a_request_may_choose_a_policy_of_its_own(log):
    one = log()
    with using_attributes(privacy_policy="hipaa-safe-harbor", user_id="u-1"):
        one.answer()
    with using_attributes(privacy_policy="debug", user_id="u-1"):
        one.answer()
    closed, open_ = one.lines()
    assert not {"prompt_hash", "output_summary", "user_id"} & closed.keys()
    assert open_["output_summary"].startswith("In Seoul, she is")
    assert open_["user_id"] == "u-1"


def test_every_text_of_a_line_is_masked(log):
    one = log(log_level="DEBUG")
    mail = "jane@example.com"
    with using_attributes(request_id=mail, session_id=mail), one.run(Kind.AGENT, mail):
        one.call(
            Outcome(model=mail, error_type=mail, status=RunStatus.ERROR), name=mail, model=mail, action=mail
        )
    lines = one.lines()
    assert mail not in one.path.read_text()
    for line in lines:
        assert (line["request_id"], line["session_id"], line["name"]) == ("<EMAIL>",) * 3


def test_parameters_pass_an_allow_list_of_names_and_types(log):
    one = log()
    params = {
        "temperature": 0.2, "max_tokens": 100, "top_p": "jane@example.com", "seed": True, "stop": ["x"], "prompt": "x",
        "frequency_penalty": float("nan"), "reasoning_effort": "high", "top_k": 4111111111111111, "presence_penalty": 1 << 80,
    }  # fmt: skip
    one.call(params=params)
    (line,) = one.lines()
    assert line["parameters"] == {
        "temperature": 0.2,
        "max_tokens": 100,
        "reasoning_effort": "high",
        "top_k": "<CARD>",
    }


def test_the_allow_list_is_that_of_spans():
    of_spans = {name for name, _ in (*gen_ai.FLOATS, *gen_ai.INTS)} | {"n"}
    assert set(PARAMETERS) == of_spans


# --- hostile values -----------------------------------------------------------------------------------------------
class Loud(str):
    __slots__ = ()

    def __hash__(self) -> int:
        raise RuntimeError("hash")

    def __str__(self) -> str:
        raise RuntimeError("str")


class Model(str, Enum):
    LARGE = "large"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(min_size=1, max_size=300), min_size=4, max_size=4))
def test_any_text_is_on_one_line_that_everybody_can_parse(tmp_path, texts):
    one = Log(tmp_path)
    one.path.unlink(missing_ok=True)
    name, model, request, session = texts
    with using_attributes(request_id=request, session_id=session):
        one.call(name=name, model=model)
    (line,) = one.lines()  # which splits at every character that anybody could take for the end of a line
    assert line["event"] == names.REQUEST
    assert len(one.path.read_bytes()) < 16_384
    one.recorder.shutdown()


@pytest.mark.parametrize(
    "name",
    ["\ud800\udc00\udfff", "a\u2028b\u2029c\x85d\x0be\x1cf", "\x1b[2J\x9b31m", "\u202etxt.exe", "x" * 9999],
)
def test_odd_characters_neither_end_the_line_nor_reach_a_terminal(log, name):
    one = log()
    one.call(name=name)
    (line,) = one.lines()
    raw = one.path.read_text(encoding="utf-8")
    assert raw.removesuffix("\n").isprintable()
    assert len(line["name"]) <= names.MAX_TEXT_CHARS


@pytest.mark.parametrize(("given", "shown"), [(Loud("x"), "unnamed"), (Model.LARGE, "large"), (7, "unnamed")])
def test_a_name_that_is_no_plain_text_costs_no_line(log, given, shown):
    one = log()
    one.call(name="chat", model=given)
    (line,) = one.lines()
    assert line["model"] == shown


def test_numbers_that_json_has_no_notation_for_are_left_out(log):
    one = log()
    one.call(
        Outcome(usage=Usage(1 << 70, -3, float("nan")), cost_usd=float("inf")),
        model="x",
        params={"top_p": float("inf")},
    )
    (line,) = one.lines()
    assert not line.keys() & {"input_tokens", "output_tokens", "cached_tokens", "cost_usd", "parameters"}


def test_content_that_raises_costs_one_line_and_is_told_once(log, caplog):
    def broken() -> Any:
        raise RuntimeError("jane@example.com")

    one = log(content={"completions": "masked", "prompts": "none"})
    for _ in range(3):
        one.call(Outcome(content=broken))
    one.answer()
    lines = one.lines()
    assert lines[-1]["output_summary"].startswith("In Seoul")
    assert all(line["event"] == names.REQUEST for line in lines)
    assert len(lines) == 4
    assert "jane" not in caplog.text
    assert one.recorder.health.counts()["logs.content"] == 3


# --- memory -------------------------------------------------------------------------------------------------------
def test_nothing_is_kept_for_a_request_whose_line_was_written(log):
    one = log(log_level="ERROR")
    trace = None
    gathered: list[weakref.ref[Any]] = []
    with one.run(Kind.WORKFLOW, "answer") as root:
        trace = root.trace
        one.call(Outcome(usage=Usage(1, 1)))
        late = object()
        one.recorder.start(late, Operation(kind=Kind.MODEL, name="late"), scope="aiobs.testing")
        one.recorder.flush(10)
        gathered.append(weakref.ref(root))
        assert trace.log.model_calls == 1
    one.recorder.flush(10)
    one.recorder.end(late, Outcome(usage=Usage(5, 5)))
    one.recorder.flush(10)
    assert trace.log is WRITTEN
    assert WRITTEN.model_calls == 0


def test_off_gathers_nothing(log):
    one = log(log="off")
    with one.run(Kind.WORKFLOW, "answer") as root:
        one.call()
    one.recorder.flush(10)
    assert root.trace.log is None
    gc.collect()


# --- the schema ---------------------------------------------------------------------------------------------------
def test_the_published_schema_is_made_from_the_conventions():
    published = Path(aiobs_core.__file__).parent / "logs" / "schema.json"
    assert published.read_text(encoding="utf-8") == schema_text()
    jsonschema.Draft202012Validator.check_schema(json.loads(schema_text()))
    assert set(log_line_schema()["properties"]) == set(names.FIELDS)


@pytest.mark.parametrize(
    "change",
    [{"prompt": "x"}, {"status": "cancelled"}, {"latency_ms": 1.5}, {"trace_id": "xyz"}, {"level": "WARN"}, {"model": ""},
     {"output_summary": "x" * 201}, {"timestamp": "yesterday"}, {"input_tokens": -1}, {"event": "other"}],
)  # fmt: skip
def test_the_schema_refuses_what_is_no_line(log, change):
    one = log()
    one.answer()
    (line,) = one.lines()
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate({**line, **change})


@pytest.mark.parametrize("missing", ["timestamp", "trace_id", "request_id", "latency_ms", "status"])
def test_the_schema_wants_what_every_request_has(log, missing):
    one = log()
    one.answer()
    (line,) = one.lines()
    del line[missing]
    with pytest.raises(jsonschema.ValidationError):
        SCHEMA.validate(line)
    assert logging.getLogger("aiobs").name == "aiobs"
