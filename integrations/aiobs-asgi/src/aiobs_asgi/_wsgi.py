"""The middleware for WSGI: Flask, Django, and any other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from aiobs_asgi._incoming import Incoming
from aiobs_asgi._options import TRACE_HEADERS, Options, server_span
from aiobs_asgi._request import METHODS, Request, outcome_of
from aiobs_core import Kind, Operation, Outcome, get_recorder, semconv
from aiobs_core.propagation import install

if TYPE_CHECKING:
    from aiobs_asgi._incoming import Extract

Environ = MutableMapping[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

_SEEN: Final = "aiobs.request"


class AiObsWsgiMiddleware:
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
        self._options = Options(
            exclude=exclude,
            request_id_header=request_id_header,
            keep_header=keep_header,
            user=user,
            session=session,
            tenant=tenant,
            server_timing=server_timing,
        )
        self._id_variable = _variable(self._options.request_id_header)
        self._keep_variable = (
            None if self._options.keep_header is None else _variable(self._options.keep_header)
        )
        self._metrics_path = metrics_path
        self._metrics: App | None = None
        if metrics_path is not None:
            from aiobs_core.metrics.mounted import metrics_wsgi_app

            self._metrics = metrics_wsgi_app()
        install()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if self._metrics is not None and path == self._metrics_path:
            return self._metrics(environ, start_response)
        recorder = get_recorder()
        if _SEEN in environ or not recorder.settings.is_on or self._options.excludes(path):
            return self.app(environ, start_response)
        environ[_SEEN] = True
        request = Request(self._options, recorder, server_span())
        self._begin(request, environ)
        try:
            answer = self.app(environ, partial(_answered_with, request, environ, start_response))
        except BaseException as error:
            request.end(outcome_of_status, error=error)
            raise
        return _Answer(request, answer)

    def _begin(self, request: Request, environ: Environ) -> None:
        found = ((name, environ.get(_variable(name))) for name in TRACE_HEADERS)
        keep_variable = self._keep_variable
        request.begin(
            partial(_asked, environ),
            partial(_incoming, environ),
            trace_headers=[(name, value) for name, value in found if isinstance(value, str)],
            request_id=environ.get(self._id_variable),
            is_forced=keep_variable is not None and self._options.wants_kept(environ.get(keep_variable)),
            has_body=False,  # the application reads it as it likes: nobody sees its end
        )


class _Answer(Iterator[bytes]):
    """The application's answer, piece by piece. The request is current while the application makes one."""

    def __init__(self, request: Request, answer: Iterable[bytes]) -> None:
        self._request = request
        self._answer = answer
        self._pieces = iter(answer)
        self._error: BaseException | None = None
        self._is_closed = False

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            self._request.sent()
            raise
        except BaseException as error:
            self._error = error
            raise

    def close(self) -> None:
        """Called by the server when it is done, or has given up."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            close = getattr(self._answer, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            self._error = self._error or error
            raise
        finally:
            if not self._request.is_complete and self._error is None:
                self._request.is_gone = True
            self._request.end(outcome_of_status, route=self._request.route, error=self._error)


def _answered_with(
    request: Request,
    environ: Environ,
    start_response: StartResponse,
    status: str,
    headers: list[tuple[str, str]],
    *more: Any,
) -> Any:
    names = {name.lower() for name, _ in headers}
    code = status[:3]
    request.route = _named(environ)  # now: Flask takes its request out of the environ at the end
    added = request.answered(int(code) if code.isdigit() else 0) or ()
    return start_response(status, [*headers, *(each for each in added if each[0] not in names)], *more)


def _variable(header: str) -> str:
    return "HTTP_" + header.upper().replace("-", "_")


def outcome_of_status(status: int) -> Outcome:
    """The outcome where no route is known."""
    return outcome_of(status, None)


def _asked(environ: Mapping[str, Any]) -> Operation:
    method = _method(environ)
    return Operation(
        kind=Kind.REQUEST,
        name=method,
        attributes={
            semconv.HTTP_REQUEST_METHOD: method if method in METHODS else "_OTHER",
            semconv.URL_PATH: str(environ.get("PATH_INFO", "")),
            semconv.URL_SCHEME: str(environ.get("wsgi.url_scheme", "http")),
        },
    )


def _method(environ: Mapping[str, Any]) -> str:
    return str(environ.get("REQUEST_METHOD", "GET"))


def _named(environ: Mapping[str, Any]) -> str | None:
    """Flask leaves its rule with the request that werkzeug has put into the environ."""
    rule = getattr(getattr(environ.get("werkzeug.request"), "url_rule", None), "rule", None)
    return f"{_method(environ)} {rule}" if isinstance(rule, str) else None


def _incoming(environ: Mapping[str, Any]) -> Incoming:
    def headers() -> Iterable[tuple[str, str]]:
        return (
            (name[5:].replace("_", "-").lower(), str(value))
            for name, value in environ.items()
            if name.startswith("HTTP_")
        )

    return Incoming(
        environ,
        method=_method(environ),
        path=str(environ.get("PATH_INFO", "")),
        query=str(environ.get("QUERY_STRING", "")),
        headers=headers,
    )
