"""Metrics over OTLP, and through a MeterProvider of the application's own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AggregationTemporality, Metric

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, Usage
from aiobs_core.semconv import metrics as names
from aiobs_testing.receiver import OtlpReceiver

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01, "export_timeout_s": 10.0}
GPT = Operation(kind=Kind.MODEL, name="ChatOpenAI", provider="openai", model="gpt-4o")
USED = Outcome(usage=Usage(input_tokens=1_000, output_tokens=100))


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with OtlpReceiver() as receiver:
        yield receiver


def recorder_for(endpoint: str, **settings: Any) -> Recorder:
    given = {**QUICK, "spool": "off", "otlp_endpoint": endpoint, "metrics_endpoint": endpoint, **settings}
    if "protocol" in given:
        given["otlp_protocol"] = given["metrics_protocol"] = given.pop("protocol")
    return Recorder(Settings.load({}, given, strict=True))


def call(recorder: Recorder, count: int = 1) -> None:
    for _ in range(count):
        recorder.start(1, GPT, scope="aiobs.test")
        recorder.end(1, USED)


def last(receiver: OtlpReceiver) -> dict[str, Metric]:
    """The metrics of the last export, by name."""
    (group,) = receiver.metrics[-1].resource_metrics
    (scope,) = group.scope_metrics
    assert scope.scope.name == "aiobs"
    return {metric.name: metric for metric in scope.metrics}


def texts(attributes: Any) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in attributes}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_flush_delivers_all_metrics(receiver: OtlpReceiver, protocol: str) -> None:
    endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
    recorder = recorder_for(endpoint, protocol=protocol)
    call(recorder, 3)
    assert recorder.flush()
    metrics = last(receiver)
    latency = metrics["ai.agent.latency"]
    assert (latency.unit, latency.description) == (names.LATENCY.unit, names.LATENCY.brief)
    assert (
        latency.histogram.aggregation_temporality == AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
    )
    point = next(
        each for each in latency.histogram.data_points if texts(each.attributes)["stage"] == "model_inference"
    )
    assert tuple(point.explicit_bounds) == names.LATENCY_BOUNDS_S
    assert sum(point.bucket_counts) == point.count == 3
    assert texts(point.attributes)["model"] == "gpt-4o"
    assert {each.trace_id.hex() for each in point.exemplars} <= {span["trace_id"] for span in receiver.spans}
    assert point.exemplars
    tokens = {
        texts(each.attributes)["direction"]: each.as_int or each.as_double
        for each in metrics["ai.agent.tokens"].sum.data_points
    }
    assert tokens == {"input": 3_000, "output": 300}
    assert metrics["ai.agent.tokens"].sum.is_monotonic
    (cost,) = metrics["ai.agent.cost_usd"].sum.data_points
    assert cost.as_double == pytest.approx(3 * 0.0035)
    assert metrics["ai.agent.telemetry.queued"].gauge.data_points
    recorder.shutdown()


@pytest.mark.skipif(sys.platform == "win32", reason="fork is a thing of POSIX")
@pytest.mark.parametrize("given", ["", "service.instance.id=shop-7"])
def test_workers_that_were_forked_are_told_apart(receiver: OtlpReceiver, given: str) -> None:
    program = textwrap.dedent("""
        import os
        from aiobs_core import flush, span
        def work():
            with span("answer", kind="workflow"):
                pass
            assert flush(10)
        work()
        children = []
        for _ in range(2):
            child = os.fork()
            if not child:
                work()
                os._exit(0)
            children.append(child)
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    """)
    environment = {
        "AIOBS_SPOOL": "off",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        "AIOBS_HASH_KEY": "sixteen bytes or more",
        "OTEL_RESOURCE_ATTRIBUTES": given,
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    ids = {
        texts(request.resource_metrics[0].resource.attributes)["service.instance.id"]
        for request in receiver.metrics
    }
    assert len(ids) == 3


def test_metrics_come_at_intervals_without_a_flush(receiver: OtlpReceiver) -> None:
    recorder = recorder_for(receiver.http_endpoint, metric_export_interval_ms=100)
    call(recorder)
    deadline = time.monotonic() + 15
    while len(receiver.metrics) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    recorder.shutdown()


def test_deltas_add_up_to_the_total_although_exports_fail(receiver: OtlpReceiver) -> None:
    recorder = recorder_for(receiver.http_endpoint, metric_temporality="delta")
    counts = []
    for at in range(6):
        receiver.fail_with = 400 if at in {1, 2} else None
        call(recorder, at + 1)
        recorder.flush()
    receiver.fail_with = None
    for request in receiver.metrics:
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            if metric.name == "ai.agent.requests":
                delta = AggregationTemporality.AGGREGATION_TEMPORALITY_DELTA
                assert metric.sum.aggregation_temporality == delta
                counts += [
                    each.as_int
                    for each in metric.sum.data_points
                    if texts(each.attributes)["stage"] == "total"
                ]
    assert counts == [1, 2 + 3 + 4, 5, 6]
    recorder.shutdown()


def test_a_receiver_that_takes_no_metrics_costs_one_warning(receiver: OtlpReceiver, caplog: Any) -> None:
    receiver.fail_with = 404
    recorder = recorder_for(receiver.http_endpoint)
    call(recorder)
    assert not recorder.flush()
    assert not recorder.flush()
    warnings = [
        each.getMessage() for each in caplog.records if "metrics could not be exported" in each.getMessage()
    ]
    assert len(warnings) == 1
    assert "OTEL_METRICS_EXPORTER=none" in warnings[0]
    assert recorder.health.counts()["metrics.dropped"] >= 2
    recorder.shutdown(1)


@pytest.mark.parametrize(
    ("settings", "sent"),
    [
        ({}, True),
        ({"metrics_exporter": "none"}, False),
        ({"metrics": False}, False),
        ({"metrics_endpoint": ""}, False),
    ],
)
def test_metrics_are_sent_where_they_are_wanted(receiver: OtlpReceiver, settings: Any, *, sent: bool) -> None:
    given = {
        **QUICK,
        "otlp_endpoint": receiver.http_endpoint,
        "spool": "off",
        "metrics_endpoint": receiver.http_endpoint,
        **settings,
    }
    recorder = Recorder(Settings.load({}, given, strict=True))
    call(recorder)
    assert recorder.flush()
    assert bool(receiver.metrics) == sent
    assert receiver.spans
    recorder.shutdown()


def test_the_end_of_a_script_delivers_its_metrics(receiver: OtlpReceiver) -> None:
    program = textwrap.dedent("""
        from aiobs_core import span
        with span("answer", kind="workflow"):
            pass
    """)
    environment = {
        "AIOBS_SPOOL": "off",
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
        "AIOBS_HASH_KEY": "sixteen bytes or more",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "ai.agent.requests" in last(receiver)


# --- a MeterProvider of the application's own -------------------------------------------------------------------------

_OWN = """
    import json, sys
    from opentelemetry import metrics
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from aiobs_core import Kind, Operation, Outcome, Usage, configure

    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    metrics.set_meter_provider(provider)
    endpoint = sys.argv[1]
    recorder = configure(console="off", store="off", exporters=[], metrics_endpoint=endpoint)

    def call():
        recorder.start(1, Operation(kind=Kind.MODEL, name="m", provider="openai", model="gpt-4o"))
        recorder.chunk(1)
        recorder.end(1, Outcome(usage=Usage(input_tokens=1000, output_tokens=100)))
        assert recorder.flush(10)

    def collected():
        data, found = reader.get_metrics_data(), {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.data.data_points:
                key = metric.name + " " + point.attributes.get("stage", point.attributes.get("direction", ""))
                found[key] = getattr(point, "value", None) or getattr(point, "count", 0)
        return found

    call()
    call()
    first = collected()
    recorder = configure(console="off", store="off", exporters=[], metrics_endpoint=endpoint, semconv="latest")
    call()
    assert metrics.get_meter_provider() is provider
    print(json.dumps([first, collected()]))
"""


def test_the_applications_own_meter_provider_gets_the_same_numbers(receiver: OtlpReceiver) -> None:
    import json

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(_OWN), receiver.http_endpoint],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, then = json.loads(done.stdout)
    for found, count in ((first, 2), (then, 3)):
        assert found["ai.agent.requests total"] == count
        assert found["ai.agent.latency total"] == count
        assert found["ai.agent.latency model_inference"] == count
        assert found["ai.agent.time_to_first_chunk "] == count
        assert found["ai.agent.tokens input"] == 1_000 * count
        assert found["ai.agent.token.usage output"] == count
        assert found["ai.agent.cost_usd "] == pytest.approx(0.0035 * count)
        assert found["ai.agent.active_instances "] == 0
    assert receiver.metrics == []  # it sends by itself
