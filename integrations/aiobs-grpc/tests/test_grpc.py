"""Both sides of a call are one trace and one request: real servers and channels, all kinds of calls."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from opentelemetry import context, propagate
from opentelemetry.context import Context
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from aiobs_core import Kind, Operation, _process, semconv, span, using_attributes
from aiobs_core._recorder import Recorder
from aiobs_core._settings import Settings
from aiobs_grpc import GrpcInstrumentor

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
AGENT = Operation(kind=Kind.WORKFLOW, name="answer")
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def observed(monkeypatch, caplog):
    memory = InMemorySpanExporter()
    settings = Settings.load(
        {}, {"console": "off", "store": "off", "hash_key": "correct horse battery"}, strict=True
    )
    recorder = Recorder(settings, exporters=[memory])
    recorder.memory = memory
    monkeypatch.setattr(_process, "_recorder", recorder)
    before, token = propagate.get_global_textmap(), context.attach(Context())
    GrpcInstrumentor().instrument()
    yield recorder
    GrpcInstrumentor().uninstrument()
    context.detach(token)
    propagate.set_global_textmap(before)
    assert recorder.open_runs == 0
    recorder.shutdown(5)
    assert not [record for record in caplog.records if "detach" in record.getMessage()]


def work(request):
    with span("shelves", kind="retriever"):
        if request == b"fail":
            raise ValueError("a secret")
        return request.upper()


def handlers(serve):
    """The four kinds of methods around one function."""
    return {
        "unary_unary": grpc.unary_unary_rpc_method_handler(lambda request, _: serve(request)),
        "unary_stream": grpc.unary_stream_rpc_method_handler(lambda request, _: iter([serve(request)] * 2)),
        "stream_unary": grpc.stream_unary_rpc_method_handler(
            lambda requests, _: b"".join(map(serve, requests))
        ),
        "stream_stream": grpc.stream_stream_rpc_method_handler(lambda requests, _: map(serve, requests)),
    }


@pytest.fixture
def served(observed):
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Stock", handlers(work)),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address
    server.stop(None).wait()


def call(channel, kind, request=b"lamp", **options):
    method = getattr(channel, kind)(f"/shop.Stock/{kind}")
    answer = method(iter([request]) if kind.startswith("stream") else request, timeout=10, **options)
    return b"".join(answer) if kind.endswith("stream") else answer


def finished(recorder, count, within_s=10.0):
    """The server's spans end a moment after the client has its answer."""
    deadline = time.monotonic() + within_s
    while len(recorder.memory.get_finished_spans()) < count and time.monotonic() < deadline:
        recorder.flush(1)
        time.sleep(0.01)
    return recorder.memory.get_finished_spans()


def path_to_root(spans, one):
    by_id = {each.context.span_id: each for each in spans}
    found = [one]
    while found[-1].parent is not None and found[-1].parent.span_id in by_id:
        found.append(by_id[found[-1].parent.span_id])
    return found


def check_one_tree(recorder, *, count=4):
    spans = finished(recorder, count)
    shelves = [each for each in spans if each.name == "retrieval shelves"]
    for each in shelves:
        path = path_to_root(spans, each)
        assert [step.kind for step in path[1:]] == [SpanKind.SERVER, SpanKind.CLIENT, SpanKind.INTERNAL]
        assert each.attributes[semconv.REQUEST_ID] == "r-17"
        assert ":" in each.attributes[semconv.SESSION_ID]
        assert path[1].attributes[semconv.REQUEST_ID] == "r-17"
        assert path[2].attributes[semconv.STAGE] == "external_api"
        assert path[2].attributes[semconv.API_NAME] == "shop.Stock"
    assert len({each.context.trace_id for each in spans}) == 1
    return shelves


@pytest.mark.parametrize("kind", KINDS)
def test_both_sides_are_one_trace_and_one_request(observed, served, kind):
    identity = using_attributes(request_id="r-17", session_id="s-4")
    with grpc.insecure_channel(served) as channel, identity, observed.span(AGENT):
        assert call(channel, kind).startswith(b"LAMP")
    assert check_one_tree(observed)


@pytest.mark.parametrize("kind", KINDS)
async def test_aio_clients_and_servers_do_the_same(observed, kind):
    async def unary(request, _):
        return work(request)

    async def stream(request, _):
        yield work(request)

    async def of_unary(requests, _):
        return b"".join([work(request) async for request in requests])

    async def of_stream(requests, _):
        async for request in requests:
            yield work(request)

    made = {
        "unary_unary": grpc.unary_unary_rpc_method_handler(unary),
        "unary_stream": grpc.unary_stream_rpc_method_handler(stream),
        "stream_unary": grpc.stream_unary_rpc_method_handler(of_unary),
        "stream_stream": grpc.stream_stream_rpc_method_handler(of_stream),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Stock", made),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def requests():
        yield b"lamp"

    with using_attributes(request_id="r-17", session_id="s-4"), observed.span(AGENT):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            method = getattr(channel, kind)(f"/shop.Stock/{kind}")
            answer = method(requests() if kind.startswith("stream") else b"lamp")
            found = b"".join([each async for each in answer]) if kind.endswith("stream") else await answer
    assert found.startswith(b"LAMP")
    await server.stop(None)
    await asyncio.to_thread(check_one_tree, observed)


def test_an_error_of_the_handler_passes_and_is_told_on_both_sides(observed, served):
    with grpc.insecure_channel(served) as channel, observed.span(AGENT), pytest.raises(grpc.RpcError):
        call(channel, "unary_unary", b"fail")
    spans = finished(observed, 4)
    failed = [each.name for each in spans if each.status.status_code.name == "ERROR"]
    assert "retrieval shelves" in failed
    assert len(failed) >= 2
    assert not any("a secret" in each.to_json() for each in spans)


@pytest.mark.parametrize(
    "metadata",
    [
        [("traceparent", "nonsense"), ("baggage", ",=;" * 500)],
        [("traceparent", "00-" + "0" * 32 + "-b7ad6b7169203331-01")],
        [("blob-bin", bytes(range(256))), ("tracestate", "=" * 600)],
        [("baggage", "ai.agent.sampling.keep=true,ai.agent.request.id=" + "x" * 4_000)],
    ],
)
def test_metadata_of_strangers_is_harmless(observed, served, metadata):
    GrpcInstrumentor().uninstrument()  # of the client, so that this is all that comes
    with grpc.insecure_channel(served) as channel:
        assert call(channel, "unary_unary", metadata=metadata) == b"LAMP"
    spans = finished(observed, 2)
    (shelves,) = [each for each in spans if each.name == "retrieval shelves"]
    assert len(shelves.attributes.get(semconv.REQUEST_ID, "")) <= 128
    GrpcInstrumentor().instrument()


def test_two_hundred_streams_at_once_leave_nothing_open(observed, served):
    with grpc.insecure_channel(served) as channel, ThreadPoolExecutor(20) as pool:

        def ask(number):
            with using_attributes(request_id=f"r-{number}"), observed.span(AGENT):
                return call(channel, "stream_stream")

        assert list(pool.map(ask, range(200))) == [b"LAMP"] * 200
    spans = finished(observed, 800)
    by_trace = {}
    for each in spans:
        by_trace.setdefault(each.context.trace_id, set()).add(each.attributes.get(semconv.REQUEST_ID))
    assert len(by_trace) == 200
    assert all(len(ids - {None}) == 1 for ids in by_trace.values())


def test_a_side_that_is_none_is_said():
    with pytest.raises(ValueError, match="expected a list of client and server"):
        GrpcInstrumentor().instrument(sides="server")
