"""Log records of OpenTelemetry: through the application's LoggerProvider, or sent by aiobs over OTLP."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from typing import Any

import opentelemetry._logs._internal as api
import pytest
from opentelemetry.sdk import _logs as sdk
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.util._once import Once

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, Usage, semconv, using_attributes
from aiobs_core.adapter import message_of
from aiobs_core.privacy import MaskingLogRecordProcessor
from aiobs_testing.receiver import OtlpReceiver

try:
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter as InMemory
except ImportError:  # SDKs before 1.39
    from opentelemetry.sdk._logs.export import InMemoryLogExporter as InMemory

PROTOCOLS = ("grpc", "http/protobuf")


@pytest.fixture
def recorders():
    made: list[Recorder] = []

    def make(**given: object) -> Recorder:
        loaded = Settings.load({}, {"flush_interval_s": 0.01, **given}, strict=True)
        made.append(Recorder(loaded, exporters=[]))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()


@pytest.fixture
def applications(monkeypatch):
    """Makes a global LoggerProvider as an application does; forgotten when the test is over."""

    def make(*processors: Any) -> tuple[LoggerProvider, Any]:
        memory = InMemory()
        provider = LoggerProvider(shutdown_on_exit=False)
        for processor in (*processors, SimpleLogRecordProcessor(memory)):
            provider.add_log_record_processor(processor)
        monkeypatch.setattr(api, "_LOGGER_PROVIDER", None)
        monkeypatch.setattr(api, "_LOGGER_PROVIDER_SET_ONCE", Once())
        api.set_logger_provider(provider)
        return provider, memory

    return make


def request(recorder: Recorder, name: str = "answer") -> None:
    with using_attributes(user_id="u-1"), recorder.span(Operation(kind=Kind.WORKFLOW, name=name)):
        key = object()
        asked = Operation(
            kind=Kind.MODEL, name="chat", model="gpt-5-mini", params={"temperature": 0.5},
            content=lambda: [message_of("user", "hello")],
        )  # fmt: skip
        recorder.start(key, asked)
        recorder.end(key, Outcome(usage=Usage(12, 3, 4, reasoning_tokens=1)))


def lines(path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the application's provider -----------------------------------------------------------------------------------
def test_the_applications_provider_gets_the_same_as_the_line(recorders, applications, tmp_path):
    _, memory = applications()
    path = tmp_path / "x.log"
    one = recorders(log=str(path))
    request(one)
    assert one.flush(5)
    (given,) = memory.get_finished_logs()
    record = given.log_record
    (line,) = lines(path)
    assert record.body == line
    assert record.event_name == "ai.agent.request"
    assert (record.severity_text, record.severity_number.value) == ("INFO", 9)
    assert f"{record.trace_id:032x}" == line["trace_id"]
    assert f"{record.span_id:016x}" == line["span_id"]
    assert given.instrumentation_scope.name == "aiobs.logs"


def test_records_need_no_sink_and_keep_to_the_level(recorders, applications):
    _, memory = applications()
    one = recorders(log_level="WARN")
    request(one)
    with pytest.raises(ValueError), one.span(Operation(kind=Kind.TOOL, name="t")):
        raise ValueError
    one.flush(5)
    (given,) = memory.get_finished_logs()
    assert given.log_record.severity_text == "ERROR"
    assert given.log_record.body["error_code"] == "ValueError"


def test_a_provider_that_comes_after_the_first_run_is_found(recorders, applications):
    one = recorders()
    request(one)
    one.flush(5)
    _, memory = applications()
    request(one)
    one.flush(5)
    assert len(memory.get_finished_logs()) == 1


def test_the_applications_provider_stays_open(recorders, applications):
    _, memory = applications()
    for _ in range(2):
        one = recorders()
        request(one)
        one.shutdown()
    assert len(memory.get_finished_logs()) == 2


def test_the_applications_masking_processor_leaves_our_records_whole(recorders, applications, tmp_path):
    _, memory = applications(MaskingLogRecordProcessor())
    path = tmp_path / "x.log"
    one = recorders(log=str(path))
    request(one)
    one.flush(5)
    (line,) = lines(path)
    assert line["user_id"]
    assert dict(memory.get_finished_logs()[0].log_record.body) == line


def test_a_processor_that_raises_is_counted_and_the_line_is_written(recorders, applications, tmp_path):
    class Broken(sdk.LogRecordProcessor):
        def on_emit(self, log_record):
            raise OSError

        def shutdown(self):
            pass

        def force_flush(self, timeout_millis=30_000):
            return True

    applications(Broken())
    path = tmp_path / "x.log"
    one = recorders(log=str(path))
    request(one)
    one.flush(5)
    assert len(lines(path)) == 1
    assert one.health.counts() == {"logs.records": 1, "logs.dropped": 1}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_opentelemetry_handler_of_logging_does_not_send_a_second_record(recorders, applications):
    provider, memory = applications()
    handler = sdk.LoggingHandler(logger_provider=provider)
    logging.getLogger().addHandler(handler)
    try:
        one = recorders(log="logging")
        request(one)
        one.flush(5)
    finally:
        logging.getLogger().removeHandler(handler)
    (given,) = memory.get_finished_logs()
    assert isinstance(given.log_record.body, dict)


# --- OTLP ---------------------------------------------------------------------------------------------------------
def endpoint_of(receiver: OtlpReceiver, protocol: str) -> str:
    return receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_records_arrive_over_otlp(recorders, protocol):
    with OtlpReceiver() as receiver:
        one = recorders(logs_endpoint=endpoint_of(receiver, protocol), logs_protocol=protocol)
        request(one, "검색")
        assert one.flush(10)
        (sent,) = receiver.logs
        (resource,) = sent.resource_logs
        (scope,) = resource.scope_logs
        (record,) = scope.log_records
        one.shutdown()
    body = {pair.key: pair.value for pair in record.body.kvlist_value.values}
    assert scope.scope.name == "aiobs.logs"
    assert record.event_name == "ai.agent.request"
    assert record.trace_id.hex() == body["trace_id"].string_value
    assert body["name"].string_value == "검색"
    assert body["input_tokens"].int_value == 12
    assert body["parameters"].kvlist_value.values[0].value.double_value == 0.5
    assert any(pair.key == "service.name" for pair in resource.resource.attributes)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"logs_exporter": "none"}, 0),
        ({"logs_exporter": "otlp"}, 1),
        ({}, 1),
        ({"log_level": "ERROR"}, 0),
    ],
)
def test_the_exporter_variable_has_the_last_word(recorders, given, wanted):
    with OtlpReceiver() as receiver:
        one = recorders(logs_endpoint=receiver.http_endpoint, **given)
        request(one)
        assert one.flush(10)
        assert len(receiver.logs) == wanted


def test_endpoints_come_from_the_variables_of_opentelemetry():
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318",
        "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://l/x",
    }
    assert Settings.load(environ).logs_endpoint == "http://l/x"
    assert Settings.load({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}).logs_endpoint == "http://c:4318"
    assert Settings.load({"OTEL_LOGS_EXPORTER": "none"}).logs_exporter == ("none",)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_without_logs_costs_records_and_one_warning(recorders, caplog, monkeypatch, protocol):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with OtlpReceiver(fail_with=404) as receiver:
        one = recorders(logs_endpoint=endpoint_of(receiver, protocol), logs_protocol=protocol)
        for _ in range(3):
            request(one)
            assert not one.flush(5)
        one.shutdown()
    counts = one.health.counts()
    assert counts["logs.dropped"] == 3
    assert counts["otlp_logs.export_failed"] == 3
    assert "spans.dropped" not in counts
    ours = [record.getMessage() for record in caplog.records if record.name == "aiobs"]
    assert len(ours) == 1
    assert "OTEL_LOGS_EXPORTER=none" in ours[0]


def test_a_provider_of_the_applications_sends_and_aiobs_does_not(recorders, applications):
    _, memory = applications()
    with OtlpReceiver() as receiver:
        one = recorders(logs_endpoint=receiver.http_endpoint)
        request(one)
        one.flush(5)
        assert receiver.logs == []
    assert len(memory.get_finished_logs()) == 1


def test_a_script_that_just_ends_has_sent_its_records():
    script = """
import aiobs_core, sys
aiobs_core.configure(store="off", console="off", traces_exporter="none", metrics=False)
with aiobs_core.span("answer"): pass
"""
    with OtlpReceiver() as receiver:
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, "AIOBS_HASH_KEY": "x" * 20}
        subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=environ)
        assert len(receiver.logs) == 1


def test_no_content_is_in_a_record(recorders, applications):
    _, memory = applications()
    one = recorders(content="none")
    request(one)
    one.flush(5)
    body = memory.get_finished_logs()[0].log_record.body
    assert "hello" not in str(body)
    assert semconv.PROMPT_HASH not in body
    assert "prompt_hash" not in body
