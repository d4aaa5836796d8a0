"""Errors, cancellation, deadlines, strange metadata, many calls at once: nothing stays open, and nobody notices."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

import grpc
import grpc.experimental
import pytest
from grpc_service import (
    AGENT,
    KINDS,
    SERVICE,
    SIDES,
    Aio,
    acall,
    aio_server,
    call,
    call_from,
    given,
    server_of,
    sync_server,
)
from hypothesis import HealthCheck, settings
from hypothesis import given as drawn
from hypothesis import strategies as st
from opentelemetry import trace

from aiobs_core import get_recorder, semconv, using_attributes
from aiobs_grpc import GrpcInstrumentor

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
STREAMS = ("unary_stream", "stream_stream")


def kinds_of_spans(telemetry):
    return sorted(span["kind"] for span in telemetry.spans() if span["kind"] in {"CLIENT", "SERVER"})


async def settle(telemetry, spans):
    """What ends after the answer: the handler, in its thread or task."""
    deadline = time.monotonic() + 5
    while (telemetry.open_runs or len(kinds_of_spans(telemetry)) < spans) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert telemetry.open_runs == 0
    assert len(kinds_of_spans(telemetry)) == spans


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("message", "code"), [(b"fail", "UNKNOWN"), (b"abort", "NOT_FOUND")])
@pytest.mark.parametrize("server", SIDES)
@pytest.mark.parametrize("client", SIDES)
async def test_an_error_of_the_handler_arrives_as_it_was(instrumented, client, server, message, code, kind):
    async with server_of(server) as address:
        with get_recorder().span(AGENT), pytest.raises(grpc.RpcError) as failed:
            await call_from(client, address, kind, message)
    assert failed.value.code().name == code
    await settle(instrumented, 2)
    (calling,) = [span for span in instrumented.spans() if span["kind"] == "CLIENT"]
    assert calling["status"] == "ERROR"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SIDES)
@pytest.mark.parametrize("client", SIDES)
async def test_a_deadline_that_passes_leaves_nothing_open(instrumented, client, server, kind):
    def ask():
        with grpc.insecure_channel(address) as channel:
            answer = getattr(channel, kind)(f"/{SERVICE}/{kind}")(given(kind, [b"wait"]), timeout=0.2)
            return list(answer) if kind in STREAMS else answer

    async def aask():
        async with grpc.aio.insecure_channel(address) as channel:
            answer = getattr(channel, kind)(f"/{SERVICE}/{kind}")(given(kind, [b"wait"]), timeout=0.2)
            return [part async for part in answer] if kind in STREAMS else await answer

    async with server_of(server) as address:
        with get_recorder().span(AGENT), pytest.raises(grpc.RpcError) as failed:
            await (aask() if client == "aio" else asyncio.to_thread(ask))
        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await settle(instrumented, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SIDES)
async def test_a_call_that_its_asynchronous_client_cancels_leaves_nothing_open(instrumented, server, kind):
    async with server_of(server) as address, grpc.aio.insecure_channel(address) as channel:
        with get_recorder().span(AGENT):
            first = [b"a"] if kind in STREAMS else []
            answer = getattr(channel, kind)(f"/{SERVICE}/{kind}")(given(kind, [*first, b"wait"]))
            if kind in STREAMS:
                assert (await answer.read())[:1] == b"a"
            else:
                await asyncio.sleep(0.1)
            assert answer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await (answer.read() if kind in STREAMS else answer)
        del answer
        await settle(instrumented, 2)


@pytest.mark.parametrize("kind", ["unary_unary", "stream_unary"])
async def test_a_task_that_is_cancelled_in_a_call_leaves_nothing_open(instrumented, kind):
    async with aio_server() as address:
        task = asyncio.create_task(acall(address, kind, b"wait"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle(instrumented, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server", SIDES)
async def test_a_call_that_its_client_cancels_leaves_nothing_open(instrumented, server, kind):
    def ask():
        with grpc.insecure_channel(address) as channel, get_recorder().span(AGENT):
            stub = getattr(channel, kind)(f"/{SERVICE}/{kind}")
            if kind in STREAMS:
                answer = stub(given(kind, [b"a", b"wait"]))
                assert next(answer)[:1] == b"a"
            else:
                answer = stub.future(given(kind, [b"wait"]))
                time.sleep(0.1)
            assert answer.cancel()
            assert answer.code() is grpc.StatusCode.CANCELLED

    async with server_of(server) as address:
        await asyncio.to_thread(ask)
        await settle(instrumented, 2)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("reads", [0, 1])
def test_a_stream_that_nobody_reads_any_more_is_cancelled_as_without_us(instrumented, kind, reads):
    with sync_server() as address, grpc.insecure_channel(address) as channel:
        answer = getattr(channel, kind)(f"/{SERVICE}/{kind}")(given(kind, [b"a", b"wait"]))
        for _ in range(reads):
            next(answer)
        time.sleep(0.1)
        del answer
        gc.collect()
        asyncio.run(settle(instrumented, 2))


@pytest.mark.parametrize("kind", STREAMS)
async def test_an_asynchronous_stream_that_is_never_read_has_a_span(instrumented, kind):
    async with aio_server() as address, grpc.aio.insecure_channel(address) as channel:
        answer = getattr(channel, kind)(f"/{SERVICE}/{kind}")(given(kind, [b"wait"]))
        await asyncio.sleep(0.1)
        answer.cancel()
        await settle(instrumented, 2)


@pytest.mark.parametrize("kind", STREAMS)
async def test_a_generator_that_waits_to_send_ends_in_its_own_task_when_the_client_is_gone(
    instrumented, kind
):
    class Flood(Aio):
        async def unary_stream(self, request, context):
            with get_recorder().span(AGENT):
                while True:
                    yield b"x" * 100_000

        stream_stream = unary_stream

    async with aio_server(Flood()) as address:
        for _ in range(5):
            async with grpc.aio.insecure_channel(address) as channel:
                answer = getattr(channel, kind)(f"/{SERVICE}/{kind}")(given(kind, [b"a"]))
                await answer.read()
                await asyncio.sleep(0.02)  # the window of the connection is full
                answer.cancel()
        del answer
        gc.collect()
        await settle(instrumented, 10)
    assert "detach" not in " ".join(instrumented.warnings)


@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("server", SIDES)
async def test_hundreds_of_streams_at_once_keep_to_their_own_request(instrumented, server, kind):
    async def ask(channel, number):
        with using_attributes(request_id=f"r-{number}"), get_recorder().span(AGENT):
            stub = getattr(channel, kind)(f"/{SERVICE}/{kind}")
            message = str(number).encode()
            answer = stub(given(kind, [message, b"wait"] if number % 4 == 0 else [message, message]))
            assert await answer.read() == message
            if number % 4 == 0:
                answer.cancel()
            else:
                assert await answer.read() == message

    async with server_of(server) as address, grpc.aio.insecure_channel(address) as channel:
        await asyncio.gather(*(ask(channel, number) for number in range(200)))
        await settle(instrumented, 400)
    traces = {}
    for span in instrumented.spans():
        if span["name"] == "execute_tool work":
            traces.setdefault(span["attributes"][semconv.REQUEST_ID], set()).add(span["trace"])
    assert len(traces) == 200
    assert len(set().union(*traces.values())) == 200


def test_threads_that_call_and_serve_in_turn_keep_requests_apart(instrumented):
    def ask(number):
        with using_attributes(request_id=f"r-{number}"), get_recorder().span(AGENT):
            for kind in KINDS:
                call(address, kind, str(number).encode())

    with sync_server() as address:
        threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    requests = {}
    for span in instrumented.spans():
        requests.setdefault(span["trace"], set()).add(span["attributes"].get(semconv.REQUEST_ID))
    told = {frozenset(ids - {None}) for ids in requests.values()}
    assert len(requests) == 8
    assert told == {frozenset({f"r-{number}"}) for number in range(8)}


# --- metadata -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", SIDES)
async def test_metadata_of_the_application_arrives_whole(instrumented, side):
    class Echo:
        def unary_unary(self, request, context):
            return b"|".join(
                f"{key}={value!r}".encode()
                for key, value in context.invocation_metadata()
                if key.startswith("x-")
            )

        unary_stream = stream_unary = stream_stream = unary_unary

    sent = (("x-a", "1"), ("x-a", "2"), ("x-b-bin", b"\x00\xff"), ("x-b-bin", b"\x01"))
    with sync_server(Echo()) as address:
        got = await call_from(side, address, "unary_unary", b"a", metadata=sent)
    assert got == b"x-a='1'|x-a='2'|x-b-bin=b'\\x00\\xff'|x-b-bin=b'\\x01'"


@pytest.mark.parametrize("side", SIDES)
async def test_metadata_that_grpc_refuses_is_refused_as_without_us(instrumented, side):
    async def refused():
        with sync_server() as address, pytest.raises(Exception) as raised:
            await call_from(side, address, "unary_unary", b"a", metadata=(("A B", "x"),))
        return type(raised.value)

    with_us = await refused()
    await settle(instrumented, 1)
    GrpcInstrumentor().uninstrument()
    assert with_us is await refused()


NAMES = st.sampled_from(
    [
        "traceparent",
        "tracestate",
        "baggage",
        "traceparent-bin",
        "baggage-bin",
        "grpc-trace-bin",
        "x-request-id",
    ]
)
TEXTS = st.one_of(
    st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=60),
    st.sampled_from(
        [
            PARENT, PARENT.upper(), PARENT + "-x", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "=,;=", "a=b,a=c", "ai.agent.request.id=",
            "ai.agent.request.id=" + "x" * 500, "ai.agent.request.id=%00%ff", "k=v," * 200, "ai.agent.session.id=%2",
        ]
    ),
)  # fmt: skip
# All together stay below the 8 KiB from which on gRPC refuses metadata at random.
METADATA = st.lists(st.tuples(NAMES, TEXTS), max_size=6)


@pytest.mark.parametrize("side", SIDES)
def test_no_metadata_hurts(instrumented, caplog, side):
    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @drawn(metadata=METADATA, kind=st.sampled_from(KINDS))
    def each(metadata, kind):
        sent = [(key, value.encode() if key.endswith("-bin") else value.strip()) for key, value in metadata]
        stub = getattr(channel, kind)(f"/{SERVICE}/{kind}")
        answer = stub(given(kind, [b"a"]), metadata=sent, timeout=20)
        assert (b"".join(answer) if kind in STREAMS else answer) == b"a"

    from opentelemetry.instrumentation.utils import suppress_instrumentation

    def run(address):
        nonlocal channel
        with (
            grpc.insecure_channel(address) as channel,
            suppress_instrumentation(),
        ):  # the client sends what it is given
            each()

    async def served():
        async with server_of(side) as address:
            await asyncio.to_thread(run, address)

    channel = None
    asyncio.run(served())
    asyncio.run(settle(instrumented, len(kinds_of_spans(instrumented))))
    assert [
        record.getMessage() for record in caplog.records if record.levelname in {"WARNING", "ERROR"}
    ] == []


@pytest.mark.parametrize("server", SIDES)
async def test_a_current_span_outlives_no_call(instrumented, server):
    async with server_of(server) as address:
        for kind in KINDS:
            await acall(address, kind, b"a")
            await asyncio.to_thread(call, address, kind, b"a")
    assert not trace.get_current_span().get_span_context().is_valid


def test_a_stream_that_is_read_in_the_caller_s_thread_alone_ends_its_span(instrumented):
    options = [(grpc.experimental.ChannelOptions.SingleThreadedUnaryStream, 1)]
    with sync_server() as address, grpc.insecure_channel(address, options=options) as channel:
        assert list(channel.unary_stream(f"/{SERVICE}/unary_stream")(b"a,b")) == [b"a", b"b"]
        asyncio.run(settle(instrumented, 2))
