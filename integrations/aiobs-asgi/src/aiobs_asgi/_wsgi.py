"""The middleware for WSGI: Flask, Django, and any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any

from aiobs_asgi._incoming import Incoming
from aiobs_asgi._middleware import SEEN, Middleware, server_span, wants_kept
from aiobs_asgi._request import Request
from aiobs_core import get_recorder

Environ = MutableMapping[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class AiObsWsgiMiddleware(Middleware[App]):
    """Records each request around the agents that answer it, as `AiObsMiddleware` does for ASGI.

    The answer is passed on piece by piece; the request is over when the server closes it.

    Args:
        app: The application.
        exclude: Patterns of paths that are not recorded.
        request_id_header: Where the request's id is read and answered.
        keep_header: A header that asks for the trace to be kept.
        user: Says who asks.
        session: The same for the conversation.
        tenant: The same for the tenant.
        server_timing: Whether to answer with `server-timing`.
        metrics_path: Where the Prometheus page is served; None: nowhere.

    Raises:
        ValueError: If an option is none.

    Example:
        >>> def application(environ, start_response):
        ...     start_response("200 OK", [])
        ...     return [b"hello"]
        >>> application = AiObsWsgiMiddleware(application)  # Flask: app.wsgi_app = AiObsWsgiMiddleware(app.wsgi_app)
    """

    def _page(self) -> App:
        from aiobs_core.metrics.mounted import metrics_wsgi_app

        return metrics_wsgi_app()

    def _key_of(self, header: str) -> str:
        return "HTTP_" + header.upper().replace("-", "_")

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if self._metrics is not None and path == self._metrics_path:
            return self._metrics(environ, start_response)
        if SEEN in environ or not self._is_recorded(path):
            return self.app(environ, start_response)
        environ[SEEN] = True
        method = str(environ.get("REQUEST_METHOD", "GET"))
        request = Request(
            self._options, get_recorder(), server_span(), method=method, find_route=partial(_route, environ)
        )
        self._begin(request, environ)
        try:
            answer = self.app(environ, partial(_answered_with, request, start_response))
            pieces = iter(answer)
        except BaseException as error:
            request.end(error)
            raise
        return _Answer(request, answer, pieces)

    def _begin(self, request: Request, environ: Environ) -> None:
        get = environ.get
        found = ((name, get(key)) for key, name in self._trace_headers.items())
        request.begin(
            partial(_incoming, environ),
            path=str(get("PATH_INFO", "")),
            scheme=str(get("wsgi.url_scheme", "http")),
            trace_headers=[(name, value) for name, value in found if isinstance(value, str)],
            request_id=get(self._id_header),
            is_forced=self._keep_header is not None and wants_kept(get(self._keep_header)),
            has_body=False,  # the application reads it as it likes: nobody sees its end
        )


class _Answer(Iterator[bytes]):
    """The application's answer, piece by piece. The request is current only while the application makes one.

    What drops it without a close, as test clients do, ends the request with it.
    """

    def __init__(self, request: Request, answer: Iterable[bytes], pieces: Iterator[bytes]) -> None:
        self._request = request
        self._answer = answer
        self._pieces = pieces
        self._error: BaseException | None = None
        self._is_closed = False
        request.leave()

    def __next__(self) -> bytes:
        self._request.enter()
        try:
            return next(self._pieces)
        except StopIteration:
            self._request.sent()
            raise
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._request.leave()

    def close(self) -> None:
        """Called by the server when it is done, or has given up."""
        if self._is_closed:
            return
        self._is_closed = True
        self._request.enter()
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            self._end()

    def _end(self) -> None:
        if not self._request.is_complete and self._error is None:
            self._request.is_gone = True
        self._request.end(self._error)

    def __del__(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._end()


def _answered_with(
    request: Request,
    start_response: StartResponse,
    status: str,
    headers: list[tuple[str, str]],
    *more: Any,
) -> Any:
    names = {name.lower() for name, _ in headers}
    code = status[:3]
    added = request.answered(int(code) if code.isdigit() else 0) or ()
    return start_response(status, [*headers, *(each for each in added if each[0] not in names)], *more)


def _route(environ: Mapping[str, Any]) -> str | None:
    """The rule that Flask has matched, of the request that werkzeug puts into the environ until the answer has begun."""
    rule = getattr(getattr(environ.get("werkzeug.request"), "url_rule", None), "rule", None)
    return rule if isinstance(rule, str) else None


def _incoming(environ: Mapping[str, Any]) -> Incoming:
    def headers() -> Iterable[tuple[str, str]]:
        return (
            (name[5:].replace("_", "-").lower(), str(value))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        )

    return Incoming(
        environ,
        method=str(environ.get("REQUEST_METHOD", "GET")),
        path=str(environ.get("PATH_INFO", "")),
        query=str(environ.get("QUERY_STRING", "")),
        headers=headers,
    )
