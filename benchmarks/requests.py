"""What a middleware costs a request, beside the one of OpenTelemetry's contributors: on an application that only answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import thread_time_ns
from typing import Any, Final

from benchmarks import timing
from benchmarks.scenarios import CountingExporter
from benchmarks.tables import Gate, table
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import aiobs_core
from aiobs_asgi import AiObsMiddleware

_REQUESTS: Final = 200
_PARENT: Final = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
_RATIO_LIMIT: Final = 0.5
_SCOPE: Final[Mapping[str, Any]] = {
    "type": "http", "method": "POST", "path": "/chat", "raw_path": b"/chat", "query_string": b"", "scheme": "http",
    "headers": [(b"host", b"shop"), (b"accept", b"*/*"), (b"user-agent", b"bench"), (b"content-length", b"10")],
    "server": ("shop", 80), "client": ("127.0.0.1", 1), "http_version": "1.1", "asgi": {"version": "3.0"},
}  # fmt: skip


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"hello"})


async def _receive() -> Mapping[str, Any]:
    return {"type": "http.request", "body": b"0123456789", "more_body": False}


async def _send(message: Mapping[str, Any]) -> None:
    pass


def measure(rounds: int) -> Mapping[str, float]:
    """Microseconds of CPU time of the server's thread per request, on top of the application alone; medians."""
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(CountingExporter(), schedule_delay_millis=60_000))
    aiobs_core.configure(exporters=[CountingExporter()], console="off", store="off", traces_exporter="none")
    apps = {
        "bare": _app,
        "contrib": OpenTelemetryMiddleware(_app, tracer_provider=provider),
        "aiobs": AiObsMiddleware(_app),
    }
    loop = asyncio.new_event_loop()
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, app in apps.items():
            for suffix, headers in (("", []), (", traceparent", [_PARENT])):
                scope = {**_SCOPE, "headers": [*_SCOPE["headers"], *headers]}
                taken.setdefault(f"request, {name}{suffix}", []).append(_one(loop, app, scope))
                timing.flush()
                provider.force_flush()
    loop.close()
    provider.shutdown()
    found = {name: sorted(values)[len(values) // 2] for name, values in taken.items()}
    bare = found["request, bare"]
    return {name: value - bare for name, value in found.items()}


def _one(loop: asyncio.AbstractEventLoop, app: Any, scope: Mapping[str, Any]) -> float:
    async def go() -> None:
        for _ in range(_REQUESTS):
            await app(dict(scope), _receive, _send)

    start_ns = thread_time_ns()
    loop.run_until_complete(go())
    return (thread_time_ns() - start_ns) / 1e3 / _REQUESTS


def gates(found: Mapping[str, float]) -> list[Gate]:
    worst = found["request, aiobs, traceparent"]
    return [
        Gate(
            name="request with a traceparent", value=worst / found["request, contrib, traceparent"], limit=_RATIO_LIMIT,
            goal=_RATIO_LIMIT, unit="of opentelemetry-instrumentation-asgi",
        ),
    ]  # fmt: skip


def report(found: Mapping[str, float]) -> str:
    rows = [
        (name.removeprefix("request, "), f"{found[name]:.1f}")
        for name in found
        if not name.startswith("request, bare")
    ]
    return table("a request, us on top of the application", ("middleware", "us"), rows)
