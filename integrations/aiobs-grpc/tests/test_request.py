"""From the client to the server: one trace, one request, and what each call is of it."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_service import AGENT, KINDS, SERVICE, SIDES, Writing, call, call_from, server_of, sync_server
from opentelemetry import trace

from aiobs_core import get_recorder, keep, semconv, using_attributes
from aiobs_core.privacy.hashing import is_hash

SCOPE = "opentelemetry.instrumentation.grpc"


def of(telemetry, kind=None, scope=SCOPE):
    return [span for span in telemetry.spans() if span["scope"] == scope and kind in {None, span["kind"]}]


def runs(telemetry):
    return [span for span in telemetry.spans() if span["name"] == "execute_tool work"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SIDES)
@pytest.mark.parametrize("client", SIDES)
async def test_a_call_is_of_the_request_and_the_trace_of_its_caller(instrumented, client, server, kind):
    async with server_of(server) as address:
        with (
            using_attributes(request_id="r-17", session_id="s-4", tenant_id="acme"),
            get_recorder().span(AGENT),
        ):
            assert await call_from(client, address, kind, b"a", b"b") == b"a,b"
    (agent,) = [span for span in instrumented.spans() if span["name"] == "invoke_agent planner"]
    (calling,), (serving,) = of(instrumented, "CLIENT"), of(instrumented, "SERVER")
    working = runs(instrumented)
    assert {span["trace"] for span in instrumented.spans()} == {1}
    assert (calling["parent"], serving["parent"]) == (agent["id"], calling["id"])
    assert {span["parent"] for span in working} == {serving["id"]}
    assert len(working) == (1 if kind == "unary_unary" else 2)
    assert {span["attributes"][semconv.REQUEST_ID] for span in working} == {"r-17"}
    hashed = {
        (span["attributes"][semconv.SESSION_ID], span["attributes"][semconv.TENANT_ID]) for span in working
    }
    assert len(hashed) == 1
    assert all(is_hash(value) for value in hashed.pop())
    assert agent["attributes"][semconv.REQUEST_ID] == "r-17"
    assert calling["attributes"][semconv.STAGE] == serving["attributes"][semconv.STAGE] == "external_api"
    assert calling["attributes"][semconv.API_NAME] == f"{SERVICE}/{kind}"
    assert serving["attributes"][semconv.REQUEST_ID] == "r-17"


@pytest.mark.parametrize("server", SIDES)
async def test_a_call_from_outside_of_a_run_begins_a_request(instrumented, server):
    async with server_of(server) as address:
        await call_from("aio", address, "unary_unary", b"a")
    (calling,), (serving,) = of(instrumented, "CLIENT"), of(instrumented, "SERVER")
    assert calling["attributes"][semconv.STAGE] == "external_api"  # as of every call to another service
    assert calling["attributes"][semconv.API_NAME] == f"{SERVICE}/unary_unary"
    assert serving["attributes"][semconv.STAGE] == "prompt_receive"
    assert semconv.REQUEST_ID not in serving["attributes"]


async def test_without_an_id_of_the_application_the_trace_is_the_request(instrumented):
    async with server_of("aio") as address:
        with get_recorder().span(AGENT) as agent:
            await call_from("aio", address, "unary_unary", b"a")
    (serving,) = of(instrumented, "SERVER")
    assert serving["attributes"][semconv.REQUEST_ID] == f"{agent.trace.trace_id:032x}"


def test_a_span_of_the_application_between_run_and_call_takes_nothing_away(instrumented):
    look_up = trace.get_tracer("shop").start_as_current_span("look up")
    with sync_server() as address, get_recorder().span(AGENT), look_up:
        call(address, "unary_unary", b"a")
    (calling,) = of(instrumented, "CLIENT")
    assert calling["attributes"][semconv.STAGE] == "external_api"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SIDES)
async def test_a_server_that_was_started_inside_a_request_serves_those_of_its_callers(
    instrumented, server, kind
):
    with using_attributes(request_id="of-the-server", session_id="s-1"), get_recorder().span(AGENT):
        started = server_of(server)
        address = await started.__aenter__()
    with using_attributes(request_id="of-the-caller"), get_recorder().span(AGENT) as agent:
        await call_from("aio", address, kind, b"a")
    await started.__aexit__(None, None, None)
    (working,) = [span for span in instrumented.raw() if span.name == "execute_tool work"]
    assert working.attributes[semconv.REQUEST_ID] == "of-the-caller"
    assert semconv.SESSION_ID not in working.attributes
    assert working.context.trace_id == agent.trace.trace_id


@pytest.mark.parametrize("client", SIDES)
async def test_a_caller_that_says_nothing_has_no_part_in_the_last_one_s_request(instrumented, client):
    with sync_server(threads=1) as address:
        with using_attributes(request_id="r-1"), get_recorder().span(AGENT):
            await call_from(client, address, "stream_stream", b"a")
        with grpc_untraced():
            await call_from(client, address, "unary_unary", b"b")
    first, second = runs(instrumented)
    assert first["trace"] != second["trace"]
    assert second["attributes"][semconv.REQUEST_ID] != "r-1"


def grpc_untraced():
    from opentelemetry.instrumentation.utils import suppress_instrumentation

    return suppress_instrumentation()


@pytest.mark.parametrize("kind", ["stream_unary", "stream_stream"])
@pytest.mark.parametrize("client", SIDES)
async def test_what_makes_the_stream_of_requests_runs_inside_the_call(instrumented, client, kind):
    def questions():
        for question in (b"a", b"b"):
            with get_recorder().span(AGENT):
                pass
            yield question

    async def aquestions():
        for question in questions():
            yield question

    def ask():
        with grpc.insecure_channel(address) as channel:
            answer = getattr(channel, kind)(f"/{SERVICE}/{kind}")(questions(), timeout=20)
            return b",".join(answer) if kind.endswith("stream") else answer

    async def aask():
        async with grpc.aio.insecure_channel(address) as channel:
            answer = getattr(channel, kind)(f"/{SERVICE}/{kind}")(aquestions(), timeout=20)
            if kind.endswith("stream"):
                return b",".join([part async for part in answer])
            return await answer

    with sync_server() as address, using_attributes(request_id="r-1"), get_recorder().span(AGENT):
        assert await (aask() if client == "aio" else asyncio.to_thread(ask)) == b"a,b"
    (calling,) = of(instrumented, "CLIENT")
    inner = [
        span for span in instrumented.spans() if span["parent"] == calling["id"] and span["kind"] != "SERVER"
    ]
    assert [span["name"] for span in inner] == ["invoke_agent planner"] * 2


@pytest.mark.parametrize("kind", ["unary_stream", "stream_stream"])
@pytest.mark.parametrize("client", SIDES)
async def test_who_reads_a_stream_is_not_inside_the_call(instrumented, client, kind):
    """Two streams read in turn, and a run between two reads: none is the other's parent."""

    def read(address):
        with grpc.insecure_channel(address) as channel, get_recorder().span(AGENT) as agent:
            stub = getattr(channel, kind)(f"/{SERVICE}/{kind}")
            streams = [stub(iter([b"a", b"b"]) if kind.startswith("stream") else b"a,b") for _ in range(2)]
            for stream in (*streams, *streams):
                next(stream)
                assert trace.get_current_span() is agent
            streams[0].cancel()
            assert list(streams[1]) == []
        assert not trace.get_current_span().get_span_context().is_valid

    async def aread(address):
        async with grpc.aio.insecure_channel(address) as channel:
            with get_recorder().span(AGENT) as agent:
                stub = getattr(channel, kind)(f"/{SERVICE}/{kind}")
                streams = [
                    stub(iter([b"a", b"b"]) if kind.startswith("stream") else b"a,b") for _ in range(2)
                ]
                for stream in (*streams, *streams):
                    await stream.read()
                    assert trace.get_current_span() is agent
                streams[0].cancel()
                assert [part async for part in streams[1]] == []

    async with server_of("sync") as address:
        await (aread(address) if client == "aio" else asyncio.to_thread(read, address))
    assert len(of(instrumented, "CLIENT")) == 2


@pytest.mark.telemetry(sampling={"rules": [{"keep": 0.0}]}, trust_baggage=True)
@pytest.mark.parametrize("server", SIDES)
async def test_a_trace_that_the_caller_keeps_is_kept_at_the_server(instrumented, server):
    async with server_of(server) as address:
        with get_recorder().span(AGENT):
            await call_from("aio", address, "unary_stream", b"dropped")
        assert instrumented.spans() == []
        with get_recorder().span(AGENT):
            keep()
            await call_from("aio", address, "unary_stream", b"kept")
    assert len(runs(instrumented)) == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_handlers_that_read_and_write_their_streams_themselves_are_traced(instrumented, kind):
    async with server_of("aio", Writing()) as address:
        with using_attributes(request_id="r-17"), get_recorder().span(AGENT):
            assert await call_from("aio", address, kind, b"a", b"b") == b"a,b"
    assert {span["attributes"][semconv.REQUEST_ID] for span in runs(instrumented)} == {"r-17"}


@pytest.mark.parametrize("kind", KINDS)
async def test_handlers_of_an_asynchronous_server_that_are_not_asynchronous_are_traced(instrumented, kind):
    from grpc_service import Sync

    async with server_of("aio", Sync()) as address:
        with using_attributes(request_id="r-17"), get_recorder().span(AGENT):
            assert await call_from("aio", address, kind, b"a", b"b") == b"a,b"
    assert {span["attributes"][semconv.REQUEST_ID] for span in runs(instrumented)} == {"r-17"}
    assert {span["trace"] for span in instrumented.spans()} == {1}


@pytest.mark.telemetry(enabled=False)
@pytest.mark.parametrize("server", SIDES)
async def test_calls_work_while_aiobs_is_off(telemetry, server):
    from aiobs_grpc import GrpcInstrumentor

    GrpcInstrumentor().instrument()
    try:
        async with server_of(server) as address:
            for kind in KINDS:
                assert await call_from("aio", address, kind, b"a") == b"a"
    finally:
        GrpcInstrumentor().uninstrument()
    assert telemetry.spans() == []
