"""What is activated, beside what the application has activated itself; and what is left when it is taken back."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import grpc
import grpc.aio
import pytest
from grpc_service import AGENT, KINDS, SERVICE, call, call_from, server_of, sync_server
from opentelemetry.instrumentation import grpc as opentelemetrys
from opentelemetry.instrumentation.grpc import filters
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import get_recorder, semconv, suppressed, using_attributes
from aiobs_grpc import GrpcInstrumentor

FUNCTIONS = ((grpc, "server"), (grpc, "insecure_channel"), (grpc, "secure_channel"), (grpc.aio, "server"),
             (grpc.aio, "insecure_channel"), (grpc.aio, "secure_channel"),
             (opentelemetrys, "client_interceptor"), (opentelemetrys, "server_interceptor"),
             (opentelemetrys, "aio_client_interceptors"), (opentelemetrys, "aio_server_interceptor"))  # fmt: skip


@pytest.fixture
def uninstrumented(telemetry):
    with telemetry.recorder.span(AGENT):
        pass
    telemetry.spans()
    telemetry._exporter.clear()
    yield telemetry
    for each in (
        GrpcInstrumentor,
        opentelemetrys.GrpcInstrumentorClient,
        opentelemetrys.GrpcInstrumentorServer,
        opentelemetrys.GrpcAioInstrumentorServer,
    ):
        if each.__new__(each).is_instrumented_by_opentelemetry:
            each.__new__(each).uninstrument()


def kinds(telemetry):
    return sorted(span["kind"] for span in telemetry.spans() if span["kind"] in {"CLIENT", "SERVER"})


def test_everything_is_put_back(uninstrumented):
    before = [getattr(module, name) for module, name in FUNCTIONS]
    GrpcInstrumentor().instrument()
    assert not any(
        getattr(module, name) is was for (module, name), was in zip(FUNCTIONS, before, strict=True)
    )
    GrpcInstrumentor().uninstrument()
    assert [getattr(module, name) for module, name in FUNCTIONS] == before


@pytest.mark.parametrize(
    ("options", "seen"), [({"client": False}, ["SERVER"]), ({"server": False}, ["CLIENT"])]
)
def test_only_what_is_wanted_is_activated(uninstrumented, options, seen):
    GrpcInstrumentor().instrument(**options)
    with sync_server() as address:
        call(address, "unary_unary", b"a")
    assert kinds(uninstrumented) == seen


def test_what_the_application_has_activated_stays_and_is_not_activated_twice(uninstrumented):
    """One span of each call, the application's filter and hook in force, and ours around them."""
    hooked = []
    only_streams = filters.negate(filters.method_name("unary_unary"))
    opentelemetrys.GrpcInstrumentorClient(filter_=only_streams).instrument(
        request_hook=lambda span, request: hooked.append(request)
    )
    GrpcInstrumentor().instrument()
    with sync_server() as address, get_recorder().span(AGENT):
        for kind in ("unary_unary", "unary_stream"):
            call(address, kind, b"a")
    assert kinds(uninstrumented) == ["CLIENT", "SERVER", "SERVER"]
    (calling,) = [span for span in uninstrumented.spans() if span["kind"] == "CLIENT"]
    assert calling["attributes"][semconv.API_NAME] == f"{SERVICE}/unary_stream"
    assert hooked == [b"a"]
    GrpcInstrumentor().uninstrument()
    its_own = opentelemetrys.GrpcInstrumentorClient
    assert its_own.__new__(its_own).is_instrumented_by_opentelemetry


def test_interceptors_that_the_application_makes_itself_carry_the_request(uninstrumented):
    GrpcInstrumentor().instrument(client=False)
    with sync_server() as address, grpc.insecure_channel(address) as plain:
        channel = opentelemetrys.grpcext.intercept_channel(plain, opentelemetrys.client_interceptor())
        with using_attributes(request_id="r-1"), get_recorder().span(AGENT):
            assert channel.unary_unary(f"/{SERVICE}/unary_unary")(b"a") == b"a"
    (serving,) = [span for span in uninstrumented.spans() if span["kind"] == "SERVER"]
    assert serving["attributes"][semconv.REQUEST_ID] == "r-1"


async def test_a_hook_for_responses_is_called_as_before(uninstrumented):
    hooked = []
    GrpcInstrumentor().instrument(response_hook=lambda span, response: hooked.append(response))
    async with server_of("aio") as address:
        await call_from("aio", address, "unary_stream", b"a", b"b")
        await call_from("sync", address, "unary_unary", b"c")
    assert hooked == [b"a", b"b", b"c"]


@pytest.mark.parametrize("side", ["sync", "aio"])
async def test_calls_that_are_not_traced_pass(uninstrumented, monkeypatch, side):
    monkeypatch.setenv("OTEL_PYTHON_GRPC_EXCLUDED_SERVICES", SERVICE)
    GrpcInstrumentor().instrument()
    async with server_of(side) as address:
        with using_attributes(request_id="r-1"), get_recorder().span(AGENT):
            for kind in KINDS:
                assert await call_from(side, address, kind, b"a") == b"a"
        with suppressed():
            assert await call_from(side, address, "stream_stream", b"a") == b"a"
    assert kinds(uninstrumented) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["sync", "aio"])
async def test_a_handler_that_is_not_traced_is_of_its_caller_s_request(uninstrumented, side, kind):
    only_others = filters.negate(filters.service_name(SERVICE))
    opentelemetrys.GrpcInstrumentorServer(filter_=only_others).instrument()
    opentelemetrys.GrpcAioInstrumentorServer(filter_=only_others).instrument()
    GrpcInstrumentor().instrument()
    with using_attributes(request_id="of-the-server"):
        started = server_of(side)
        address = await started.__aenter__()
    with using_attributes(request_id="of-the-caller"), get_recorder().span(AGENT):
        await call_from("aio", address, kind, b"a")
    await started.__aexit__(None, None, None)
    (working,) = [span for span in uninstrumented.spans() if span["name"] == "execute_tool work"]
    assert working["attributes"][semconv.REQUEST_ID] == "of-the-caller"
    assert kinds(uninstrumented) == ["CLIENT"]


@pytest.mark.parametrize("side", ["sync", "aio"])
async def test_spans_go_to_the_provider_that_is_given(uninstrumented, side):
    provider, memory = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    GrpcInstrumentor().instrument(tracer_provider=provider)
    async with server_of(side) as address:
        await call_from(side, address, "unary_unary", b"a")
    assert sorted(span.kind.name for span in memory.get_finished_spans()) == ["CLIENT", "SERVER"]
    provider.shutdown()


@pytest.mark.telemetry
def test_without_the_instrumentation_it_says_how_to_get_it(telemetry, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(
        "aiobs_grpc._instrumentor.find_spec",
        lambda name: None if name == "opentelemetry.instrumentation.grpc" else there(name),
    )
    GrpcInstrumentor().instrument()
    assert not GrpcInstrumentor().is_instrumented_by_opentelemetry
    (said,) = telemetry.warnings
    assert "aiobs-grpc[instruments]" in said
    telemetry.forgive_warnings()


def test_importing_the_package_loads_neither_grpc_nor_its_instrumentation():
    code = "import sys, aiobs_grpc; print([name for name in ('grpc', 'opentelemetry.instrumentation') if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_deliveries_of_spans_over_grpc_make_no_spans():
    """The exporter is a gRPC client, too: its calls would be exported, and those again."""
    code = """
import time
from concurrent.futures import ThreadPoolExecutor
import grpc
from aiobs_core import Kind, Operation, configure
from aiobs_grpc import GrpcInstrumentor
got = []
method = grpc.unary_unary_rpc_method_handler(lambda body, call: got.append(body) or b"")
server = grpc.server(ThreadPoolExecutor(2))
service = "opentelemetry.proto.collector.trace.v1.TraceService"
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
GrpcInstrumentor().instrument(server=False)
recorder = configure(store="off", console="off", spool="off", metrics=False, logs=False, otlp_endpoint=f"http://127.0.0.1:{port}", otlp_protocol="grpc", flush_interval_s=0.01)
for _ in range(3):
    with recorder.span(Operation(kind=Kind.TOOL, name="work")):
        pass
    assert recorder.flush(10)
time.sleep(0.3)
assert recorder.flush(10)
print(len(got), any(b"TraceService" in body for body in got))
recorder.shutdown(5)
server.stop(None)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["3", "False"], ran.stderr
