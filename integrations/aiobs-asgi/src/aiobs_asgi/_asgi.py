"""The middleware for ASGI: FastAPI, Starlette, Django, and any other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiobs_asgi._incoming import Incoming
from aiobs_asgi._options import TRACE_HEADERS, Options, server_span
from aiobs_asgi._request import METHODS, Request, outcome_of
from aiobs_core import Kind, Operation, Outcome, get_recorder, semconv
from aiobs_core.propagation import install

if TYPE_CHECKING:
    from aiobs_asgi._incoming import Extract

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_SEEN: Final = "aiobs.request"  # in the scope: another of these is around
_ANSWERS: Final = ("http.response.start", "websocket.accept")
_CLOSED_ORDERLY: Final = (1000, 1001, 1005)  # RFC 6455: done, going away, no reason given
_LENGTH, _ENCODING = b"content-length", b"transfer-encoding"


class AiObsMiddleware:
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

    def __init__(
        self,
        app: App,
        *,
        exclude: Sequence[str] = (),
        request_id_header: str = "x-request-id",
        keep_header: str | None = None,
        user: Extract | None = None,
        session: Extract | None = None,
        tenant: Extract | None = None,
        server_timing: bool = False,
        metrics_path: str | None = None,
    ) -> None:
        self.app = app
        self._options = options = Options(
            exclude=exclude,
            request_id_header=request_id_header,
            keep_header=keep_header,
            user=user,
            session=session,
            tenant=tenant,
            server_timing=server_timing,
        )
        self._id_header = options.request_id_header.encode("latin-1")
        self._keep_header = None if options.keep_header is None else options.keep_header.encode("latin-1")
        self._wanted = {name.encode() for name in TRACE_HEADERS} | {self._id_header, _LENGTH, _ENCODING}
        if self._keep_header is not None:
            self._wanted.add(self._keep_header)
        self._metrics_path = metrics_path
        self._metrics: App | None = None
        if metrics_path is not None:
            from aiobs_core.metrics.mounted import metrics_asgi_app

            self._metrics = metrics_asgi_app()
        install()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in {"http", "websocket"} or _SEEN in scope:
            await self.app(scope, receive, send)
            return
        path = scope.get("path", "")
        if self._metrics is not None and path == self._metrics_path:
            await self._metrics(scope, receive, send)
            return
        recorder = get_recorder()
        if not recorder.settings.is_on or self._options.excludes(path):
            await self.app(scope, receive, send)
            return
        await self._recorded(
            {**scope, _SEEN: True}, receive, send, Request(self._options, recorder, server_span())
        )

    async def _recorded(self, scope: Scope, receive: Receive, send: Send, request: Request) -> None:
        error: BaseException | None = None
        self._begin(request, scope)
        exchange = _Exchange(request, receive, send, self._id_header)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as raised:
            error = raised
            raise
        finally:
            request.end(partial(_answered, scope), route=_named(scope), error=error)

    def _begin(self, request: Request, scope: Scope) -> None:
        wanted = self._wanted
        found = [(name, value) for name, value in scope.get("headers", ()) if name in wanted]
        trace_headers: list[tuple[str, str]] = []
        request_id: str | None = None
        is_forced = has_body = False
        for name, value in found:
            if name == self._id_header:
                request_id = value.decode("latin-1")
            elif name == _LENGTH:
                has_body = value != b"0"
            elif name == _ENCODING:
                has_body = True
            elif name == self._keep_header:
                is_forced = self._options.wants_kept(value.decode("latin-1"))
            else:
                trace_headers.append((name.decode("latin-1"), value.decode("latin-1")))
        request.begin(
            partial(_asked, scope),
            partial(_incoming, scope),
            trace_headers=trace_headers,
            request_id=request_id,
            is_forced=is_forced,
            has_body=has_body or scope["type"] == "websocket",
        )


class _Exchange:
    """The two channels between server and application, looked at on the way; messages pass as they are."""

    __slots__ = ("_id_header", "_receive", "_request", "_send")

    def __init__(self, request: Request, receive: Receive, send: Send, id_header: bytes) -> None:
        self._request = request
        self._receive = receive
        self._send = send
        self._id_header = id_header

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
        given: Iterable[tuple[bytes, bytes]] = message.get("headers") or ()
        headers = list(given)
        names = {bytes(name).lower() for name, _ in headers}
        for name, value in self._request.answered(status) or ():
            raw = name.encode("latin-1")
            if raw not in names:  # what the application says itself, stands
                headers.append((raw, value.encode("latin-1")))
        return {**message, "headers": headers}


# --- read by the worker, once the request is over ---------------------------------------------------------------------


def _asked(scope: Mapping[str, Any]) -> Operation:
    method = _method(scope)
    return Operation(
        kind=Kind.REQUEST,
        name=method,
        attributes={
            semconv.HTTP_REQUEST_METHOD: method if method in METHODS else "_OTHER",
            semconv.URL_PATH: str(scope.get("path", "")),
            semconv.URL_SCHEME: str(scope.get("scheme", "http")),
        },
    )


def _answered(scope: Mapping[str, Any], status: int) -> Outcome:
    return outcome_of(status, _route(scope))


def _method(scope: Mapping[str, Any]) -> str:
    return str(scope.get("method", "GET"))  # a WebSocket begins with one


def _named(scope: Mapping[str, Any]) -> str | None:
    route = _route(scope)
    return None if route is None else f"{_method(scope)} {route}"


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
        method=_method(scope),
        path=str(scope.get("path", "")),
        query=bytes(scope.get("query_string", b"")).decode("latin-1"),
        headers=headers,
    )
