"""The ids of the current span on the application's own log lines."""

from __future__ import annotations

import logging

import loguru
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from aiobs_core import Kind, Operation, Recorder, Settings
from aiobs_core.logs import add_trace_ids, trace_ids, trace_ids_processor


@pytest.fixture
def recorder():
    one = Recorder(Settings.load({}, {"flush_interval_s": 0.01}), exporters=[])
    yield one
    one.shutdown()


def ids_of(span) -> tuple[str, str]:
    context = span.own_context()
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


def test_records_of_logging_have_the_ids_whatever_logger_makes_them(recorder, caplog):
    before = logging.getLogRecordFactory()
    try:
        add_trace_ids()
        add_trace_ids()
        with recorder.span(Operation(kind=Kind.TOOL, name="t")) as span:
            logging.getLogger("shop.orders").warning("inside")
            ids = ids_of(span)
        logging.getLogger("shop").warning("outside")
    finally:
        logging.setLogRecordFactory(before)
    inside, outside = [record for record in caplog.records if record.name.startswith("shop")]
    assert (inside.trace_id, inside.span_id) == ids
    assert (outside.trace_id, outside.span_id) == ("", "")  # a format that names them works everywhere


def test_a_record_factory_of_the_applications_goes_on_to_work(caplog):
    before = logging.getLogRecordFactory()

    def theirs(*args, **kwargs):
        record = before(*args, **kwargs)
        record.shop = "tea"
        return record

    try:
        logging.setLogRecordFactory(theirs)
        add_trace_ids()
        logging.getLogger("shop").warning("x")
    finally:
        logging.setLogRecordFactory(before)
    assert (caplog.records[0].shop, caplog.records[0].trace_id) == ("tea", "")


def test_loguru_has_the_ids_inside_of_a_run(recorder):
    records: list[dict] = []
    number = loguru.logger.add(lambda message: records.append(message.record))
    loguru.logger.configure(patcher=trace_ids)
    try:
        with recorder.span(Operation(kind=Kind.TOOL, name="t")) as span:
            loguru.logger.info("inside")
            ids = ids_of(span)
        loguru.logger.info("outside")
    finally:
        loguru.logger.remove(number)
        loguru.logger.configure(patcher=None)
    assert (records[0]["extra"]["trace_id"], records[0]["extra"]["span_id"]) == ids
    assert records[1]["extra"] == {}


def test_structlog_has_the_ids_inside_of_a_run(recorder):
    captured = structlog.testing.LogCapture()
    structlog.configure(processors=[trace_ids_processor, captured])
    try:
        with recorder.span(Operation(kind=Kind.TOOL, name="t")) as span:
            structlog.get_logger().info("inside")
            ids = ids_of(span)
        structlog.get_logger().info("outside")
    finally:
        structlog.reset_defaults()
    assert (captured.entries[0]["trace_id"], captured.entries[0]["span_id"]) == ids
    assert "trace_id" not in captured.entries[1]


def test_ids_of_other_instrumentations_spans_count_too():
    record: dict = {"extra": {}}
    with trace.use_span(NonRecordingSpan(SpanContext(0xA1, 0xB2, False, TraceFlags(1)))):
        trace_ids(record)
    assert record["extra"] == {"trace_id": f"{0xA1:032x}", "span_id": f"{0xB2:016x}"}
