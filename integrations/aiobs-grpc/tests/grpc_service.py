"""A service of four kinds of calls, on both sorts of servers, and a client of each sort; each message is worked on in a run."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager

import grpc
import grpc.aio

from aiobs_core import Kind, Operation, get_recorder

KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
SIDES = ("sync", "aio")
WARM_UP = Operation(kind=Kind.CHAIN, name="warm up")
AGENT = Operation(kind=Kind.AGENT, name="planner")
WORK = Operation(kind=Kind.TOOL, name="work")
SERVICE = "shop.Search"


def work(request, context):
    with get_recorder().span(WORK):
        if request == b"fail":
            raise ValueError("the handler failed")
        if request == b"abort":
            context.abort(grpc.StatusCode.NOT_FOUND, "nothing there")
        while request == b"wait" and context.is_active():
            time.sleep(0.005)
        return request


async def awork(request, context):
    with get_recorder().span(WORK):
        if request == b"fail":
            raise ValueError("the handler failed")
        if request == b"abort":
            await context.abort(grpc.StatusCode.NOT_FOUND, "nothing there")
        if request == b"wait":
            await asyncio.sleep(60)
        return request


class Sync:
    def unary_unary(self, request, context):
        return work(request, context)

    def unary_stream(self, request, context):
        for part in request.split(b","):
            yield work(part, context)

    def stream_unary(self, requests, context):
        return b",".join([work(request, context) for request in requests])

    def stream_stream(self, requests, context):
        for request in requests:
            yield work(request, context)


class Aio:
    async def unary_unary(self, request, context):
        return await awork(request, context)

    async def unary_stream(self, request, context):
        for part in request.split(b","):
            yield await awork(part, context)

    async def stream_unary(self, requests, context):
        return b",".join([await awork(request, context) async for request in requests])

    async def stream_stream(self, requests, context):
        async for request in requests:
            yield await awork(request, context)


class Writing(Aio):
    """Streams by `context.read()` and `context.write()`."""

    async def unary_stream(self, request, context):
        for part in request.split(b","):
            await context.write(await awork(part, context))

    async def stream_stream(self, _, context):
        while (request := await context.read()) is not grpc.aio.EOF:
            await context.write(await awork(request, context))


def handlers_of(behaviors):
    made = {kind: getattr(grpc, f"{kind}_rpc_method_handler")(getattr(behaviors, kind)) for kind in KINDS}
    return grpc.method_handlers_generic_handler(SERVICE, made)


@contextmanager
def sync_server(behaviors=None, *, threads=4):
    with ThreadPoolExecutor(threads) as pool:
        server = grpc.server(pool)
        server.add_generic_rpc_handlers((handlers_of(behaviors or Sync()),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(1).wait()


@asynccontextmanager
async def aio_server(behaviors=None):
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers_of(behaviors or Aio()),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(1)


@asynccontextmanager
async def server_of(side, behaviors=None):
    if side == "aio":
        async with aio_server(behaviors) as address:
            yield address
    else:
        with sync_server(behaviors) as address:
            yield address


def given(kind, messages):
    return iter(messages) if kind.startswith("stream") else b",".join(messages)


def call(address, kind, *messages, **options):
    """All responses, joined."""
    with grpc.insecure_channel(address) as channel:
        answer = getattr(channel, kind)(f"/{SERVICE}/{kind}")(given(kind, messages), timeout=20, **options)
        return b",".join(answer) if kind.endswith("stream") else answer


async def acall(address, kind, *messages, **options):
    async with grpc.aio.insecure_channel(address) as channel:
        answer = getattr(channel, kind)(f"/{SERVICE}/{kind}")(given(kind, messages), timeout=20, **options)
        if kind.endswith("stream"):
            return b",".join([part async for part in answer])
        return await answer


async def call_from(side, address, kind, *messages, **options):
    """By the client of that sort; the server may be in this event loop."""
    if side == "aio":
        return await acall(address, kind, *messages, **options)
    return await asyncio.to_thread(call, address, kind, *messages, **options)
