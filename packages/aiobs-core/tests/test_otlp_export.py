"""Delivery over OTLP: to a receiver in this process and through a real collector, with and without TLS."""

from __future__ import annotations

import contextlib

import pytest
import requests
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from aiobs_core._errors import AiobsError
from aiobs_core._settings import Settings
from aiobs_core.export.otlp import open_exporter, protocol_of, signal_url
from aiobs_core.export.transport import open_transport
from aiobs_core.export.wire import Encoder, request_of
from aiobs_testing.receiver import OtlpReceiver
from aiobs_testing.rotel import Rotel, RotelNotInstalled, rotel_program

PROTOCOLS = ("grpc", "http/protobuf")
RESOURCE = Resource({"service.name": "shop"})
SCOPE = InstrumentationScope("aiobs.langchain", "0.1.0")


def context_of(span_id):
    return SpanContext(0xA1, span_id, is_remote=False)


def span_of(span_id=0xB2, parent_id=None, **attributes):
    return ReadableSpan(
        name="execute_tool 검색",
        context=context_of(span_id),
        parent=context_of(parent_id) if parent_id else None,
        resource=RESOURCE,
        attributes={
            "gen_ai.tool.name": "검색",
            "n": 3,
            "ratio": 0.5,
            "ok": True,
            "tags": ("a", "b"),
            **attributes,
        },
        events=[Event("exception", {"exception.type": "TimeoutError"}, 1_500)],
        links=[Link(context_of(0xC3), {"ai.agent.link.reason": "resume"})],
        kind=SpanKind.CLIENT,
        status=Status(StatusCode.ERROR),
        start_time=1_000,
        end_time=2_000,
        instrumentation_scope=SCOPE,
    )


RECEIVED = {
    "trace_id": "000000000000000000000000000000a1",
    "span_id": "00000000000000b2",
    "parent_span_id": "00000000000000b1",
    "name": "execute_tool 검색",
    "kind": "CLIENT",
    "attributes": {"gen_ai.tool.name": "검색", "n": 3, "ratio": 0.5, "ok": True, "tags": ["a", "b"]},
    "events": [{"name": "exception", "time_ns": 1_500, "attributes": {"exception.type": "TimeoutError"}}],
    "links": [
        {
            "trace_id": "000000000000000000000000000000a1",
            "span_id": "00000000000000c3",
            "attributes": {"ai.agent.link.reason": "resume"},
        }
    ],
    "status": {"code": "ERROR", "message": ""},
    "start_ns": 1_000,
    "end_ns": 2_000,
    "resource": {"service.name": "shop"},
    "scope": {"name": "aiobs.langchain", "version": "0.1.0"},
}


@pytest.fixture(autouse=True)
def _quick_and_alone(monkeypatch):
    """No variable of the developer's machine; give up after a second."""
    for name in (
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")


@pytest.fixture
def send():
    """Sends a span as the courier does; whether the receiver has taken it."""
    opened = []

    def do(endpoint, protocol=""):
        opened.append(open_transport(Settings(otlp_endpoint=endpoint, otlp_protocol=protocol)))
        span = Encoder()(span_of(parent_id=0xB1))
        request = request_of([(span.group, span.body)], {span.group: span.head})
        return opened[-1].send(request).verdict == "sent"

    yield do
    for transport in opened:
        transport.close()


@pytest.fixture
def export():
    """Exports no metrics through an official exporter; whether the receiver has taken them."""
    opened = []

    def do(endpoint, protocol=""):
        opened.append(open_exporter("metrics", endpoint, protocol))
        with contextlib.suppress(requests.ConnectionError):  # what older exporters do
            return opened[-1].export(MetricsData([])).name == "SUCCESS"
        return False

    yield do
    for exporter in opened:
        exporter.shutdown()


def endpoint_of(receiver, protocol):
    return receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint


# --- what arrives -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_span_arrives_as_it_was(send, monkeypatch, protocol, compression):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=secret")
    with OtlpReceiver() as receiver:
        assert send(endpoint_of(receiver, protocol), protocol)
        assert receiver.wait_for_spans(1) == [RECEIVED]
        (request,) = receiver.requests
        assert request.transport == ("grpc" if protocol == "grpc" else "http")
        assert request.headers["x-api-key"] == "secret"
        assert "검색".encode() in receiver.raw[0]


@pytest.fixture(scope="module")
def collector():
    try:
        rotel_program()
    except RotelNotInstalled as missing:
        pytest.skip(str(missing))
    with OtlpReceiver() as receiver, Rotel(receiver) as rotel:
        yield receiver, rotel


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_span_passes_a_real_collector_unchanged(send, collector, protocol):
    receiver, rotel = collector
    before = len(receiver.spans)
    assert send(endpoint_of(rotel, protocol), protocol)
    assert receiver.wait_for_spans(before + 1, 10)[before:] == [RECEIVED]
    assert "execute_tool 검색" in rotel.debug_log


# --- endpoint and protocol ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("endpoint", "given", "protocol"),
    [
        ("http://localhost:4317", "", "grpc"),
        ("collector:4317", "", "grpc"),
        ("http://localhost:4318", "", "http/protobuf"),
        ("https://example.com/otlp", "", "http/protobuf"),
        ("http://[::1]:4317", "", "grpc"),
        ("http://localhost:99999", "", "http/protobuf"),
        ("", "", "http/protobuf"),
        ("http://localhost:4317", "http/protobuf", "http/protobuf"),
        ("http://localhost:4318", "grpc", "grpc"),
    ],
)
def test_the_protocol_is_as_set_or_follows_from_the_port(endpoint, given, protocol):
    assert protocol_of(Settings(otlp_endpoint=endpoint, otlp_protocol=given)) == protocol


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "http://localhost:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c/otlp"}, "http://c/otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c/v1/traces"}, "http://c/v1/traces/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, "http://c:4318"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/x?key=1"}, "http://c/x?key=1"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c"},
            "http://t/x",
        ),
    ],
)
def test_endpoints_from_the_environment_mean_what_the_specification_says(environ, url):
    assert signal_url("traces", Settings.load(environ).otlp_endpoint, environ=environ) == url


@pytest.mark.parametrize("endpoint", ["http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"])
def test_an_endpoint_from_code_may_or_may_not_have_the_path(endpoint):
    environ = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://other/x"}
    settings = Settings.load(environ, {"otlp_endpoint": endpoint})
    assert signal_url("traces", settings.otlp_endpoint, environ=environ) == "http://c:4318/v1/traces"


def test_a_per_signal_endpoint_is_used_as_it_is(send, monkeypatch):
    with OtlpReceiver() as receiver:
        endpoint = f"{receiver.http_endpoint}/v1/traces"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
        assert send(endpoint)
        assert len(receiver.wait_for_spans(1)) == 1


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(
        __import__("sys").modules, "opentelemetry.exporter.otlp.proto.grpc.metric_exporter", None
    )
    with pytest.raises(AiobsError, match="pip install opentelemetry-exporter-otlp-proto-grpc"):
        open_exporter("metrics", "", "grpc")


# --- TLS ----------------------------------------------------------------------------------------------------------
def set_tls(monkeypatch, tls, *, ca="ca.pem", prefix="OTEL_EXPORTER_OTLP_", client=True):
    monkeypatch.setenv(f"{prefix}CERTIFICATE", str(tls / ca))
    if client:
        monkeypatch.setenv(f"{prefix}CLIENT_KEY", str(tls / "client.key"))
        monkeypatch.setenv(f"{prefix}CLIENT_CERTIFICATE", str(tls / "client.pem"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("prefix", ["OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_METRICS_"])
@pytest.mark.parametrize("bundle", [None, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_mutual_tls_of_official_exporters_works_whatever_ca_bundle_the_machine_has(
    export, monkeypatch, tls, secured, protocol, prefix, bundle
):
    set_tls(monkeypatch, tls, prefix=prefix)
    if bundle:
        monkeypatch.setenv(bundle, str(tls / "other-ca.pem"))
    assert export(endpoint_of(secured, protocol), protocol)
    assert [request.signal for request in secured.requests] == ["metrics"]


def test_the_proxy_of_the_environment_is_still_used(export, monkeypatch, tls):
    set_tls(monkeypatch, tls)
    with OtlpReceiver() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.http_endpoint)
        monkeypatch.setenv("NO_PROXY", "direct.invalid")
        assert export("http://collector.invalid:4318")
        assert not export("http://direct.invalid:4318")
        assert len(proxy.requests) == 1
