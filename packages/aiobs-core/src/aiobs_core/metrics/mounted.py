"""The Prometheus page inside the application: as an ASGI or WSGI app to mount, or in its own registry."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from aiobs_core.metrics.page import Read, answer
from aiobs_core.metrics.series import FamilySnapshot

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from aiobs_core.metrics.prometheus import AiobsCollector

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
WsgiApp = Callable[[Mapping[str, Any], Callable[..., object]], Iterable[bytes]]

_REASONS: Final = {200: "OK", 405: "Method Not Allowed", 503: "Service Unavailable"}


def metrics_asgi_app(read: Read | None = None) -> AsgiApp:
    """An ASGI app that answers with the page of this process, to be mounted in FastAPI, Starlette and the like.

    The page is made on a thread, so the event loop goes on meanwhile.

    Args:
        read: What the page says; the metrics of this process if None, or of all workers with `AIOBS_METRICS_DIR`.

    Example:
        >>> app = metrics_asgi_app()  # application.mount("/metrics", app)
    """
    read = read or _page

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        accepted = headers.get("accept", ""), headers.get("accept-encoding", "")
        given = await asyncio.to_thread(answer, scope["method"], *accepted, read)
        sent = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in given.headers]
        await send({"type": "http.response.start", "status": given.status, "headers": sent})
        body = b"" if scope["method"] == "HEAD" else given.body
        await send({"type": "http.response.body", "body": body})

    return app


async def _live(receive: Receive, send: Send) -> None:
    """Answer the questions of a server that runs the app by itself."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def metrics_wsgi_app(read: Read | None = None) -> WsgiApp:
    """A WSGI app that answers with the page of this process, for Flask, Django and the like.

    Args:
        read: As for `metrics_asgi_app`.

    Example:
        >>> app = metrics_wsgi_app()  # DispatcherMiddleware(application, {"/metrics": app})
    """
    read = read or _page

    def app(environ: Mapping[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        method = environ.get("REQUEST_METHOD", "GET")
        given = answer(method, environ.get("HTTP_ACCEPT", ""), environ.get("HTTP_ACCEPT_ENCODING", ""), read)
        start_response(f"{given.status} {_REASONS[given.status]}", given.headers)
        return [b"" if method == "HEAD" else given.body]

    return app


def register(registry: CollectorRegistry | None = None) -> AiobsCollector:
    """Let a registry of `prometheus_client`, and so the page that the application has already, tell of aiobs, too.

    Args:
        registry: The registry; `prometheus_client.REGISTRY` if None.

    Returns:
        The collector, for `registry.unregister`.

    Raises:
        ValueError: If it is registered there already.

    Example:
        >>> from prometheus_client import REGISTRY
        >>> collector = register()
        >>> REGISTRY.unregister(collector)
    """
    from prometheus_client import REGISTRY

    from aiobs_core.metrics.prometheus import AiobsCollector

    collector = AiobsCollector(_page)
    (registry or REGISTRY).register(collector)
    return collector


def _page() -> Sequence[FamilySnapshot]:
    from aiobs_core._process import get_recorder

    return get_recorder().metrics.page()
