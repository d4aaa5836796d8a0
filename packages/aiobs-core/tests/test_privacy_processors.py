"""Masking in a pipeline of the OpenTelemetry SDK without the rest of aiobs: what leaves, and what happens when it fails."""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider, LoggingHandler
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags

from aiobs_core.privacy import (
    PRESETS,
    MaskingLogRecordProcessor,
    MaskingSpanExporter,
    MaskingSpanProcessor,
    Policy,
    policy_of,
)
from aiobs_core.privacy.masker import Masker
from aiobs_testing.receiver import OtlpReceiver

EMAIL = "canary.person@leak-example.com"
KEY = "sk-ant-api03-Zq7vR2mK9xT4bW8nL1cY6pD3fH5jS0gA"
CARD = "4111 1111 1111 1111"
CANARIES = (b"canary.person", KEY.encode(), CARD.encode())
TEXT = f"write to {EMAIL}, key {KEY}, card {CARD}"
RESOURCE = Resource({"service.name": "shop", "process.command_line": f"serve --api-key {KEY} --to {EMAIL}"})
READABLE = policy_of(
    {
        "name": "readable",
        "base": "debug",
        "content": {"user_id": "hash"},
        "detectors": {"email": "tag", "card": "tag"},
    }
)
OPEN = replace(
    READABLE,
    name="open",
    detectors=MappingProxyType(dict.fromkeys(READABLE.detectors, "off")),
    content=MappingProxyType(dict.fromkeys(READABLE.content, "full")),
    logs_content=MappingProxyType(dict.fromkeys(READABLE.content, "full")),
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AIOBS_", "OTEL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AIOBS_HASH_KEY", "a key of the tests only")


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


class Kept(SpanExporter):
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.spans.extend(spans)
        return SpanExportResult.SUCCESS

    def text(self) -> bytes:
        return "\n".join(span.to_json() for span in self.spans).encode()


def modes(mode: str) -> Policy:
    """A policy that has that mode for everything."""
    given = {name: "none" if (name, mode) == ("exceptions", "hash") else mode for name in READABLE.content}
    return replace(READABLE, name=mode, content=given, logs_content=given)


def end_span(provider: TracerProvider, **attributes: Any) -> None:
    """A span with canaries wherever text can stand."""
    tracer = provider.get_tracer("foreign")
    linked = SpanContext(7, 7, is_remote=False, trace_flags=TraceFlags(1))
    span = tracer.start_span(f"GET /users/{EMAIL}", links=[Link(linked, {"why": TEXT})])
    span.set_attribute("note", TEXT)
    span.set_attribute("notes", ["plain", TEXT])
    span.set_attribute("http.request.header.authorization", [f"Bearer {KEY}"])
    span.set_attribute("gen_ai.usage.input_tokens", 12)
    span.set_attributes(attributes)
    span.add_event(f"sent to {EMAIL}", {"detail": TEXT, "gen_ai.prompt": TEXT})
    try:
        raise ValueError(TEXT)
    except ValueError as error:
        span.record_exception(error)
    span.set_status(Status(StatusCode.ERROR, TEXT))
    span.end()


def traced(processor: SpanProcessor, **attributes: Any) -> None:
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    end_span(provider, **attributes)
    provider.shutdown()


def leaked(*texts: bytes) -> list[bytes]:
    return [canary for canary in CANARIES for text in texts if canary in text]


# --- spans


def batched(receiver: OtlpReceiver, policy: Policy | str | None) -> SpanProcessor:
    exporter = OTLPSpanExporter(f"{receiver.http_endpoint}/v1/traces")
    return BatchSpanProcessor(MaskingSpanExporter(exporter, policy=policy))


def wrapped(receiver: OtlpReceiver, policy: Policy | str | None) -> SpanProcessor:
    exporter = OTLPSpanExporter(f"{receiver.http_endpoint}/v1/traces")
    return MaskingSpanProcessor(SimpleSpanProcessor(exporter), policy=policy)


both = pytest.mark.parametrize("pipeline", [batched, wrapped])
Pipeline = Callable[[OtlpReceiver, Policy | str | None], SpanProcessor]


@both
@pytest.mark.parametrize("policy", [None, "strict", "gdpr", READABLE])
def test_no_canary_leaves_in_any_part_of_a_span(
    receiver: OtlpReceiver, pipeline: Pipeline, policy: Policy | str | None
) -> None:
    traced(pipeline(receiver, policy), **{"gen_ai.input.messages": TEXT, "user.id": EMAIL})
    (span,) = receiver.wait_for_spans(1)
    assert not leaked(*receiver.raw)
    assert span["attributes"]["gen_ai.usage.input_tokens"] == 12
    assert span["resource"]["service.name"] == "shop"


@both
def test_the_canaries_are_found_where_nothing_is_masked(receiver: OtlpReceiver, pipeline: Pipeline) -> None:
    traced(pipeline(receiver, OPEN), **{"gen_ai.input.messages": TEXT})
    receiver.wait_for_spans(1)
    assert set(leaked(*receiver.raw)) == set(CANARIES)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("none", None), ("hash", None), ("masked", "hi, <EMAIL>"), ("full", f"hi, {EMAIL}")],
)
def test_content_of_a_span_leaves_as_its_mode_says(mode: str, expected: str | None) -> None:
    kept = Kept()
    traced(
        SimpleSpanProcessor(MaskingSpanExporter(kept, policy=modes(mode))),
        **{"llm.prompts.0": f"hi, {EMAIL}"},
    )
    assert (kept.spans[0].attributes or {}).get("llm.prompts.0") == expected


def test_the_environment_says_what_leaves_where_no_policy_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOBS_CONTENT", "prompts=masked")
    kept = Kept()
    traced(SimpleSpanProcessor(MaskingSpanExporter(kept)), **{"llm.prompts.0": EMAIL, "output.value": "x"})
    found = kept.spans[0].attributes or {}
    assert (found.get("llm.prompts.0"), found.get("output.value")) == ("<EMAIL>", None)


def test_a_policy_that_cannot_be_read_lets_no_content_out(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept()
    traced(
        SimpleSpanProcessor(MaskingSpanExporter(kept, policy="no-such-preset")), **{"llm.prompts.0": "hello"}
    )
    assert "llm.prompts.0" not in (kept.spans[0].attributes or {})
    assert "no-such-preset" in caplog.text


@pytest.mark.parametrize(
    "value",
    [{"to": EMAIL}, [{"to": EMAIL}], [1, EMAIL], EMAIL.encode(), 4111111111111111, [4111111111111111]],
    ids=["mapping", "list of mappings", "mixed list", "bytes", "number", "numbers"],
)
@pytest.mark.parametrize("name", ["note", "gen_ai.input.messages"])
def test_no_canary_leaves_in_values_that_are_no_texts(
    name: str, value: Any, make_span: Callable[..., ReadableSpan]
) -> None:
    kept = Kept()
    MaskingSpanExporter(kept).export([make_span(attributes={name: value})])
    assert not leaked(repr(kept.spans[0].attributes).encode())
    assert "4111111111111111" not in repr(kept.spans[0].attributes)


def test_the_wrapping_processor_passes_everything_but_the_end_through() -> None:
    calls: list[object] = []
    wanted = SimpleNamespace(
        on_start=lambda span, context: calls.append(("start", span.name, context)),
        _on_ending=lambda span: calls.append("ending"),
        on_end=lambda span: calls.append(("end", span.name)),
        shutdown=lambda: calls.append("shutdown"),
        force_flush=lambda timeout_millis: calls.append(timeout_millis) or False,
    )
    processor = MaskingSpanProcessor(wanted)  # type: ignore[arg-type]  # any object with its methods
    span = TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span(EMAIL)
    processor.on_start(span, None)  # type: ignore[arg-type]  # the SDK's own
    processor._on_ending(span)  # type: ignore[arg-type]  # the same
    processor.on_end(span)  # type: ignore[arg-type]  # the same
    assert processor.force_flush(17) is False
    processor.shutdown()
    assert calls == [("start", EMAIL, None), "ending", ("end", "<EMAIL>"), 17, "shutdown"]
    del wanted._on_ending
    processor._on_ending(span)  # type: ignore[arg-type]  # an SDK that is older than it


# --- logs


@pytest.fixture
def log(receiver: OtlpReceiver, request: pytest.FixtureRequest) -> Iterator[Callable[..., logging.Logger]]:
    """Makes a logger whose records go through the masking to the receiver."""
    made: list[tuple[LoggerProvider, logging.Logger, logging.Handler]] = []

    def make(
        policy: Policy | str | None = None, formatter: logging.Formatter | None = None
    ) -> logging.Logger:
        provider = provider_of(receiver, policy)
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # it moves to a package that old SDKs have not
            handler = LoggingHandler(logger_provider=provider)
        handler.setFormatter(formatter)
        logger = logging.getLogger("shop")
        logger.addHandler(handler)
        logger.propagate = False
        made.append((provider, logger, handler))
        return logger

    yield make
    for provider, logger, handler in made:
        logger.removeHandler(handler)
        provider.shutdown()


def provider_of(receiver: OtlpReceiver, policy: Policy | str | None) -> LoggerProvider:
    provider = LoggerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_log_record_processor(MaskingLogRecordProcessor(policy=policy))
    exporter = OTLPLogExporter(f"{receiver.http_endpoint}/v1/logs")
    provider.add_log_record_processor(BatchLogRecordProcessor(exporter))
    return provider


def handlers_of(logger: logging.Logger) -> list[LoggingHandler]:
    return [
        handler for handler in logger.handlers if isinstance(handler, LoggingHandler)
    ]  # pytest adds its own


def logged(receiver: OtlpReceiver, logger: logging.Logger) -> list[Any]:
    """The records that have arrived."""
    for handler in handlers_of(logger):
        handler._logger_provider.force_flush()  # type: ignore[attr-defined]  # the SDK's
    groups = [
        scope for request in receiver.logs for group in request.resource_logs for scope in group.scope_logs
    ]
    return [record for scope in groups for record in scope.log_records]


def log_canaries(logger: logging.Logger) -> None:
    logger.error(
        "told %s", TEXT, extra={"note": TEXT, "notes": ["plain", TEXT], "api_token": "hunter2-hunter2"}
    )
    logger.error({"to": EMAIL, "list": [{"key": KEY}, CARD]})
    try:
        raise ValueError(TEXT)
    except ValueError:
        logger.exception("failed for %s", EMAIL)


@pytest.mark.parametrize("policy", [None, "gdpr", READABLE])
@pytest.mark.parametrize("formatter", [None, logging.Formatter("%(levelname)s %(message)s")])
def test_no_canary_leaves_in_any_part_of_a_log_record(
    receiver: OtlpReceiver,
    log: Callable[..., logging.Logger],
    policy: Policy | str | None,
    formatter: logging.Formatter | None,
) -> None:
    logger = log(policy, formatter)
    log_canaries(logger)
    records = logged(receiver, logger)
    assert len(records) == 3
    assert not leaked(*receiver.raw)
    assert not any(b"hunter2" in body for body in receiver.raw)
    assert records[0].severity_text == "ERROR"


def test_the_canaries_are_found_in_logs_where_nothing_is_masked(
    receiver: OtlpReceiver, log: Callable[..., logging.Logger]
) -> None:
    logger = log(OPEN)
    log_canaries(logger)
    logged(receiver, logger)
    assert set(leaked(*receiver.raw)) == set(CANARIES)


@pytest.mark.parametrize(("mode", "is_there"), [("none", False), ("masked", True), ("full", True)])
def test_texts_of_logged_exceptions_leave_as_their_mode_says(
    receiver: OtlpReceiver, log: Callable[..., logging.Logger], mode: str, is_there: bool
) -> None:
    logger = log(modes(mode))
    log_canaries(logger)
    logged(receiver, logger)
    raw = b"".join(receiver.raw)
    assert (b"exception.message" in raw, b"exception.stacktrace" in raw) == (is_there, is_there)
    assert b"exception.type" in raw
    assert bool(leaked(raw)) is (mode == "full")


class Record(SimpleNamespace):
    """A log record of the SDK, for its fields."""


def masked_record(
    policy: Policy, *, body: Any = None, event_name: str | None = None, nested: bool = True, **attributes: Any
) -> Any:
    """A record after the processor, as old SDKs (`nested` is False: the resource is the record's) and new ones hand it."""
    record = Record(
        body=body, attributes=attributes, event_name=event_name, severity_text="INFO", exception=ValueError(EMAIL)
    )  # fmt: skip
    holder = Record(log_record=record)
    (holder if nested else record).resource = RESOURCE
    MaskingLogRecordProcessor(policy=policy).on_emit(holder)  # type: ignore[arg-type]  # any version's
    record.resource = (holder if nested else record).resource
    return record


@pytest.mark.parametrize("nested", [True, False])
def test_old_and_new_shapes_of_the_sdks_records_are_masked(nested: bool) -> None:
    record = masked_record(READABLE, body=f"to {EMAIL}", nested=nested, note=EMAIL)
    assert (record.body, record.attributes, record.exception) == ("to <EMAIL>", {"note": "<EMAIL>"}, None)
    assert KEY not in repr(record.resource.attributes)


MESSAGES = [
    {"role": "system", "parts": [{"type": "text", "content": f"be {EMAIL}"}]},
    {"role": "user", "parts": [{"type": "text", "content": f"hi {EMAIL}"}]},
    {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": f"got {EMAIL}"}]},
]


@pytest.mark.parametrize("as_json", [True, False])
def test_messages_leave_as_the_modes_of_their_roles_say(as_json: bool) -> None:
    import json

    policy = replace(READABLE, logs_content={**modes("none").content, "prompts": "masked", "system": "full"})
    given = json.dumps(MESSAGES) if as_json else MESSAGES
    record = masked_record(policy, **{"gen_ai.input.messages": given, "gen_ai.output.messages": given})
    (name, found), *rest = record.attributes.items()
    assert (name, rest) == ("gen_ai.input.messages", [])
    found = json.loads(found) if as_json else found
    assert found[1] == {"role": "user", "parts": [{"type": "text", "content": "hi <EMAIL>"}]}
    assert found[2] == {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1"}]}


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("none", None),
        ("hash", None),
        ("masked", {"content": "hi <EMAIL>", "role": "user", "id": "<EMAIL>"}),
        ("full", {"content": f"hi {EMAIL}", "role": "user", "id": EMAIL}),
    ],
)
def test_the_body_of_a_genai_event_leaves_as_its_mode_says(mode: str, expected: object) -> None:
    body = {"content": f"hi {EMAIL}", "role": "user", "id": EMAIL}
    named = masked_record(
        modes(mode), body=body, event_name="gen_ai.user.message", **{"gen_ai.system": "openai"}
    )
    assert (named.body, named.attributes) == (expected, {"gen_ai.system": "openai"})
    told = masked_record(modes(mode), body=body, **{"event.name": "gen_ai.user.message"})
    assert told.body == expected
    assert body["id"] == EMAIL  # the application's own is left alone


def test_a_user_id_is_hashed_alike_in_every_record() -> None:
    first, second = (masked_record(modes("hash"), **{"enduser.id": EMAIL}).attributes for _ in range(2))
    assert first == second
    assert ":" in first["enduser.id"]
    assert EMAIL not in first["enduser.id"]


def test_names_and_numbers_of_logs_are_masked_and_bytes_left_out() -> None:
    record = masked_record(
        READABLE, body=EMAIL.encode(), **{EMAIL: 1, "card": 4111111111111111, "deep": {"password": "swordfish"}}
    )  # fmt: skip
    assert record.body == "<bytes>"
    assert record.attributes == {"<EMAIL>": 1, "card": "<CARD>", "deep": {"password": "<CREDENTIAL>"}}


def test_the_masking_processor_does_not_make_a_logger_enabled() -> None:
    assert MaskingLogRecordProcessor().enabled(severity_number=None) is False
    assert MaskingLogRecordProcessor().force_flush() is True


# --- failing closed


@pytest.fixture
def _broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(*_: object, **__: object) -> str:
        raise RuntimeError(TEXT)

    monkeypatch.setattr(Masker, "text", raises)
    monkeypatch.setattr(Masker, "value", raises)


@both
@pytest.mark.usefixtures("_broken")
def test_a_span_that_cannot_be_masked_leaves_without_its_texts(
    receiver: OtlpReceiver, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    processor = pipeline(receiver, "debug")
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    for _ in range(3):
        end_span(provider, **{"card": 4111111111111111, EMAIL: 3, "ok": True})
    provider.shutdown()
    spans = receiver.wait_for_spans(3)
    assert not leaked(*receiver.raw)
    assert spans[0]["name"] == "masked"
    assert spans[0]["attributes"] == {
        "gen_ai.usage.input_tokens": 12,
        "ok": True,
        "ai.agent.telemetry.error": "RuntimeError",
    }
    assert spans[0]["status"] == {"code": "ERROR", "message": ""}
    assert (len(spans[0]["events"]), len(spans[0]["links"]), spans[0]["resource"]) == (0, 1, {})
    masking = processor if isinstance(processor, MaskingSpanProcessor) else processor.span_exporter  # type: ignore[attr-defined]
    assert masking.problems() == {"privacy.span": 3}
    assert [record.name for record in caplog.records].count("aiobs") == 1
    assert EMAIL not in caplog.text


@pytest.mark.usefixtures("_broken")
def test_a_log_record_that_cannot_be_masked_leaves_without_its_texts(
    receiver: OtlpReceiver, log: Callable[..., logging.Logger], caplog: pytest.LogCaptureFixture
) -> None:
    logger = log("debug")
    log_canaries(logger)
    records = logged(receiver, logger)
    assert not leaked(*receiver.raw)
    assert [record.body.string_value for record in records] == ["masked"] * 3
    assert {pair.key for record in records for pair in record.attributes} == {
        "code.line.number",
        "ai.agent.telemetry.error",
    }
    assert [record.name for record in caplog.records].count("aiobs") == 1


@pytest.mark.usefixtures("_broken")
def test_the_warning_of_a_failed_masking_may_itself_be_a_log_that_is_masked(
    receiver: OtlpReceiver, log: Callable[..., logging.Logger]
) -> None:
    logger = log("debug")
    aiobs = logging.getLogger("aiobs")
    (handler,) = handlers_of(logger)
    aiobs.addHandler(handler)
    try:
        logger.error(TEXT)
    finally:
        aiobs.removeHandler(handler)
    assert [record.body.string_value for record in logged(receiver, logger)] == ["masked"] * 2


def test_what_is_no_span_at_all_is_dropped_and_counted(make_span: Callable[..., ReadableSpan]) -> None:
    kept = Kept()
    exporter = MaskingSpanExporter(kept)
    assert exporter.export([SimpleNamespace(name=EMAIL)]) is SpanExportResult.SUCCESS  # type: ignore[list-item]
    assert not kept.spans
    assert exporter.problems() == {"privacy.span": 1, "privacy.span_lost": 1, "spans.dropped": 1}
    exporter.export([make_span(EMAIL)])
    assert [span.name for span in kept.spans] == ["<EMAIL>"]


# --- threads and processes


def test_eight_threads_mask_at_once() -> None:
    kept = Kept()
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    masking = MaskingSpanProcessor(SimpleSpanProcessor(kept), policy=READABLE)
    provider.add_span_processor(masking)
    logs = MaskingLogRecordProcessor(policy=READABLE)
    records: list[Record] = []
    # Made once: the SDK hides a deprecation of its own by a change of the process's warnings, which threads undo for one another.
    tracer = provider.get_tracer("foreign")
    same = SimpleNamespace(get_tracer=lambda _: tracer)

    def work(number: int) -> None:
        for at in range(40):
            end_span(same, n=f"{number}.{at} {EMAIL}")
            record = Record(
                body=f"{number}.{at} {EMAIL}", attributes={}, event_name=None, severity_text="INFO"
            )
            logs.on_emit(Record(log_record=record, resource=RESOURCE))  # type: ignore[arg-type]
            records.append(record)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    expected = {f"{number}.{at} <EMAIL>" for number in range(8) for at in range(40)}
    assert {(span.attributes or {})["n"] for span in kept.spans} == expected
    assert {record.body for record in records} == expected
    assert not leaked(kept.text())
    assert masking.problems() == logs.problems() == {}


def test_a_span_that_ends_while_its_thread_masks_another_is_masked_too(
    monkeypatch: pytest.MonkeyPatch, make_span: Callable[..., ReadableSpan]
) -> None:
    kept = Kept()
    exporter = MaskingSpanExporter(kept)
    original, inner = Masker.text, [make_span(f"inner {EMAIL}")]

    def interrupted(self: Masker, text: str, *args: Any, **more: Any) -> str:
        if inner:  # as a finalizer or a handler of signals would
            exporter.export([inner.pop()])
        return original(self, text, *args, **more)

    monkeypatch.setattr(Masker, "text", interrupted)
    exporter.export([make_span(f"outer {EMAIL}")])
    assert [span.name for span in kept.spans] == ["inner <EMAIL>", "outer <EMAIL>"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_masks_while_the_parents_threads_were_masking(receiver: OtlpReceiver) -> None:
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(batched(receiver, READABLE))
    stop = threading.Event()
    masking = MaskingSpanProcessor(SimpleSpanProcessor(Kept()), policy=READABLE)
    busy = TracerProvider(shutdown_on_exit=False)
    busy.add_span_processor(masking)

    def work() -> None:
        while not stop.is_set():
            end_span(busy)

    thread = threading.Thread(target=work)
    thread.start()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            end_span(busy)
            end_span(provider, child=True)
            status = 0 if provider.force_flush() else 2
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    stop.set()
    thread.join()
    provider.shutdown()
    assert os.waitstatus_to_exitcode(status) == 0
    assert [span["attributes"]["child"] for span in receiver.wait_for_spans(1)] == [True]
    assert not leaked(*receiver.raw)


def test_every_public_name_can_be_had() -> None:
    import aiobs_core.privacy as public

    assert all(getattr(public, name) is not None for name in public.__all__)
    assert public.PRESETS is PRESETS
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        public.nothing
