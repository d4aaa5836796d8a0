"""The middleware for ASGI: FastAPI, Starlette, Django, and any other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from functools import partial
from typing import Any, Final

from aiobs_asgi._incoming import Incoming
from aiobs_asgi._middleware import SEEN, Middleware, server_span, wants_kept
from aiobs_asgi._request import Request
from aiobs_core import get_recorder

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_ANSWERS: Final = ("http.response.start", "websocket.accept")
_CLOSED_ORDERLY: Final = (1000, 1001, 1005)  # RFC 6455: done, going away, no reason given
_LENGTH, _ENCODING = b"content-length", b"transfer-encoding"


class AiObsMiddleware(Middleware[App]):
    """Records each request around the agents that answer it, and tells them who asks.

    The request is a span with two stages: `prompt_receive` until the whole of it has come, `response_send` from the first to
    the last piece of the answer. It goes on with the caller's trace (W3C), and answers with `traceparent` and the request's
    id. Bodies pass as they are. Where another instrumentation has a span for the request, that one is joined.

    Args:
        app: The application.
        exclude: Patterns of paths that are not recorded, such as `["/healthz", "/static/*"]`.
        request_id_header: Where the request's id is read and answered; without one the trace id is the request's.
        keep_header: A header that asks for the trace to be kept whatever the sampling policy says, for callers of your own.
        user: Says who asks, from what came; leaves as a keyed hash. Runs before anything of the application.
        session: The same for the conversation.
        tenant: The same for the tenant.
        server_timing: Whether to answer with `server-timing`, which browsers show.
        metrics_path: Where the Prometheus page is served, such as `/metrics`; None: nowhere.

    Raises:
        ValueError: If an option is none.

    Example:
        >>> from starlette.applications import Starlette
        >>> app = Starlette()
        >>> app.add_middleware(AiObsMiddleware, exclude=["/healthz"], user=lambda asked: asked.header("x-user"))
    """

    def _page(self) -> App:
        from aiobs_core.metrics.mounted import metrics_asgi_app

        return metrics_asgi_app()

    def _key_of(self, header: str) -> bytes:
        return header.encode("latin-1")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"} or SEEN in scope:
            await self.app(scope, receive, send)
            return
        path = scope.get("path", "")
        if self._metrics is not None and path == self._metrics_path:
            await self._metrics(scope, receive, send)
        elif self._is_recorded(path):
            await self._recorded({**scope, SEEN: True}, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _recorded(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = str(scope.get("method", "GET"))  # a WebSocket begins with one
        request = Request(
            self._options, get_recorder(), server_span(), method=method, find_route=partial(_route, scope)
        )
        try:
            self._begin(request, scope)
        except Exception as error:  # noqa: BLE001 (headers that are none; the request matters more)
            request.failed("begin", error)
        exchange = _Exchange(request, receive, send)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            request.end(error)
            raise
        request.end()

    def _begin(self, request: Request, scope: Scope) -> None:
        trace_headers: list[tuple[str, str]] = []
        request_id: str | None = None
        is_forced, has_body = False, scope["type"] == "websocket"
        for name, value in scope.get("headers", ()):
            if name in self._trace_headers:
                trace_headers.append((self._trace_headers[name], value.decode("latin-1")))
            elif name == self._id_header:
                request_id = value.decode("latin-1")
            elif name == self._keep_header:
                is_forced = wants_kept(value.decode("latin-1"))
            elif name == _LENGTH:
                has_body = value != b"0"
            elif name == _ENCODING:
                has_body = True
        request.begin(
            partial(_incoming, scope),
            path=str(scope.get("path", "")),
            scheme=str(scope.get("scheme", "http")),
            trace_headers=trace_headers,
            request_id=request_id,
            is_forced=is_forced,
            has_body=has_body,
        )


class _Exchange:
    """The two channels between server and application, looked at on the way; messages pass as they are."""

    __slots__ = ("_receive", "_request", "_send")

    def __init__(self, request: Request, receive: Receive, send: Send) -> None:
        self._request = request
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            if not message.get("more_body"):
                self._request.received()
        elif kind == "http.disconnect":
            self._request.is_gone = True
        elif kind == "websocket.disconnect":
            if message.get("code", 1005) in _CLOSED_ORDERLY:
                self._request.sent()
            else:
                self._request.is_gone = True
        elif kind == "websocket.receive":
            self._request.received()
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in _ANSWERS:
            message = self._with_headers(message, message.get("status", 101))
        await self._send(message)
        if kind == "http.response.body":
            if not message.get("more_body"):
                self._request.sent()
        elif kind in {"websocket.close", "http.response.pathsend", "websocket.http.response.body"}:
            self._request.sent()

    def _with_headers(self, message: Message, status: int) -> Message:
        added = self._request.answered(status) or ()
        try:
            headers = list(message.get("headers") or ())
            names = {bytes(name).lower() for name, _ in headers}
        except (TypeError, ValueError):  # headers that are none: the server says so
            return message
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in added]
        # What the application says itself, stands.
        return {**message, "headers": headers + [each for each in encoded if each[0] not in names]}


def _route(scope: Mapping[str, Any]) -> str | None:
    """The pattern that the framework matched: FastAPI leaves the route in the scope, Starlette what it leads to."""
    route = scope.get("route")
    found = getattr(route, "path_format", None) or getattr(route, "path", None)
    if isinstance(found, str):
        return found
    endpoint, router = scope.get("endpoint"), scope.get("router")
    for each in getattr(router, "routes", None) or ():
        if endpoint is not None and getattr(each, "endpoint", None) is endpoint:
            path = getattr(each, "path", None)
            return path if isinstance(path, str) else None
    return None


def _incoming(scope: Mapping[str, Any]) -> Incoming:
    def headers() -> Iterable[tuple[str, str]]:
        return (
            (bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1"))
            for name, value in scope.get("headers", ())
        )

    return Incoming(
        scope,
        method=str(scope.get("method", "GET")),
        path=str(scope.get("path", "")),
        query=bytes(scope.get("query_string", b"")).decode("latin-1"),
        headers=headers,
    )
