"""One request while it is answered: its span, its stages, its identity. The same for ASGI and WSGI."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import Token
from functools import partial, wraps
from time import perf_counter_ns
from typing import TYPE_CHECKING, Concatenate, Final, ParamSpec, TypeVar

from opentelemetry.context import Context, attach, detach, get_current
from opentelemetry.trace import Span, SpanContext

from aiobs_core import Kind, Operation, Outcome, Recorder, RunStatus, Stage, keep, semconv
from aiobs_core.propagation import extract, is_id, request_in_force, set_request, unset_request

if TYPE_CHECKING:
    from aiobs_asgi._incoming import Incoming
    from aiobs_asgi._middleware import Options
    from aiobs_core import AgentSpan
    from aiobs_core.propagation import RequestAttributes

P = ParamSpec("P")
R = TypeVar("R")
SCOPE: Final = "aiobs.asgi"
_RECEIVE: Final = Operation(kind=Kind.STAGE, name=Stage.PROMPT_RECEIVE.value, stage=Stage.PROMPT_RECEIVE)
_SEND: Final = Operation(kind=Kind.STAGE, name=Stage.RESPONSE_SEND.value, stage=Stage.RESPONSE_SEND)
_GONE: Final = Outcome(status=RunStatus.CANCELLED)
_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
_TRACEPARENT: Final = "traceparent"
_SERVER_TIMING: Final = "server-timing"

TraceHeaders = Sequence[tuple[str, str]]


def _harmless(method: Callable[Concatenate[Request, P], R]) -> Callable[Concatenate[Request, P], R | None]:
    """Nothing that goes wrong here may cost the application its answer: it is counted, told of once, and None."""

    @wraps(method)
    def call(self: Request, /, *given: P.args, **named: P.kwargs) -> R | None:
        try:
            return method(self, *given, **named)
        except Exception as error:  # noqa: BLE001 (the request matters more)
            self.failed(method.__name__, error)
            return None

    return call


class Request:
    """Owned by the task or thread that answers it. Its methods never raise."""

    __slots__ = (
        "_around",
        "_attached",
        "_find_route",
        "_given",
        "_inside",
        "_method",
        "_options",
        "_receiving",
        "_recorder",
        "_sending",
        "_span",
        "ended_ns",
        "is_complete",
        "is_gone",
        "_route",
        "request_id",
        "status",
    )

    def __init__(
        self,
        options: Options,
        recorder: Recorder,
        around: Span | None,
        *,
        method: str,
        find_route: Callable[[], str | None],
    ) -> None:
        """Begin nothing yet.

        Args:
            options: Of the middleware.
            recorder: Of the process.
            around: Another instrumentation's span of the same request.
            method: Of HTTP.
            find_route: Says which pattern of paths the framework has matched, once it has.
        """
        self._options = options
        self._recorder = recorder
        self._around = around
        self._method = method
        self._find_route = find_route
        self._attached: Token[Context] | None = None
        self._given: Token[RequestAttributes | None] | None = None
        self._inside: tuple[Context, RequestAttributes | None] | None = None
        self._span: AgentSpan | None = None
        self._receiving: AgentSpan | None = None
        self._sending: AgentSpan | None = None
        self.ended_ns = 0
        self.is_complete = False
        self.is_gone = False
        self.request_id = ""
        self._route: str | None = None
        self.status = 0

    @_harmless
    def begin(
        self,
        incoming: Callable[[], Incoming],
        *,
        path: str,
        scheme: str,
        trace_headers: TraceHeaders,
        request_id: str | None,
        is_forced: bool,
        has_body: bool,
    ) -> None:
        """Open the span and the first stage.

        Args:
            incoming: For the application's extractors.
            path: Without the query.
            scheme: `http` and the like.
            trace_headers: W3C headers that came, in lower case.
            request_id: The header's.
            is_forced: Whether a header asks for the trace to be kept.
            has_body: Whether more of the request is to come.
        """
        here = get_current()
        if trace_headers and self._around is None:
            here = Context({**here, **extract(trace_headers)})
        self._attached = attach(here)
        start = self._recorder.start
        if self._around is None:
            self._span = start(self, partial(_asked, self._method, path, scheme), scope=SCOPE)
        own = self.context
        default = f"{own.trace_id:032x}" if own is not None and own.is_valid else None
        identity = self._options.identity(get_current(), incoming, request_id, default=default)
        self._given = set_request(identity)
        if self._span is not None:
            self._span.request = identity
        if self._around is not None and identity.request_id:
            self._around.set_attribute(semconv.REQUEST_ID, identity.request_id)
        self.request_id = identity.request_id if is_id(identity.request_id) else ""
        self._receiving = start((self, 0), _RECEIVE, parent=self, scope=SCOPE, make_current=False)
        if not has_body:
            self.received()
        if is_forced:
            keep()

    @property
    def context(self) -> SpanContext | None:
        """Of the request's span."""
        span = self._span if self._around is None else self._around
        return None if span is None else span.get_span_context()

    @_harmless
    def received(self) -> None:
        """All of the request has come."""
        if self._receiving is not None:
            self._recorder.end((self, 0))
            self._receiving = None

    @_harmless
    def answered(self, status: int) -> list[tuple[str, str]]:
        """The answer begins; returns the headers to add to it."""
        self.received()
        self._look_at_route()
        self.status = status
        self._sending = self._recorder.start((self, 1), _SEND, parent=self, scope=SCOPE, make_current=False)
        headers = [(self._options.request_id_header, self.request_id)] if self.request_id else []
        here = self.context
        if here is not None and here.is_valid:
            parent = f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags & 0xFF:02x}"
            headers.append((_TRACEPARENT, parent))
            if self._options.server_timing:
                headers.append((_SERVER_TIMING, self._timing(parent)))
        return headers

    def failed(self, what: str, error: Exception) -> None:
        """Count what went wrong."""
        self._recorder.health.problem(
            f"request.{what}",
            f"aiobs: recording a request failed in {what} ({type(error).__name__}); its answer is not affected.",
        )

    def _timing(self, parent: str) -> str:
        timing = f'{_TRACEPARENT};desc="{parent}"'
        if self._span is not None:
            spent_ms = (perf_counter_ns() - self._span.started_ns) / 1e6
            timing += f", total;dur={spent_ms:.1f}"  # until here: headers come first
        return timing

    @_harmless
    def sent(self) -> None:
        """The answer has gone out."""
        self.is_complete = True
        self._close_sending()
        if self._span is not None:
            self.ended_ns = perf_counter_ns() + self._span.trace.clock_offset_ns

    def _close_sending(self, outcome: Outcome | None = None) -> None:
        if self._sending is not None:
            self._recorder.end((self, 1), outcome)
            self._sending = None

    def _look_at_route(self) -> None:
        if self._route is None:
            try:
                self._route = self._find_route()
            except Exception as error:  # noqa: BLE001 (objects of a framework; the name is the less telling one)
                self.failed("route", error)

    @_harmless
    def end(self, error: BaseException | None = None) -> None:
        """The application has returned, or raised."""
        is_broken = not self.is_complete and (self.is_gone or error is not None)
        self.received()
        self._close_sending(_GONE if is_broken else None)
        if self._span is not None:
            self._end(self._span, error)
        self._restore()

    @_harmless
    def leave(self) -> None:
        """Let the thread be as it was before the request, until `enter`."""
        self._inside = get_current(), request_in_force()
        self._restore()

    @_harmless
    def enter(self) -> None:
        """Go on where `leave` was."""
        if self._inside is not None:
            context, request = self._inside
            self._attached, self._given, self._inside = attach(context), set_request(request), None

    def _restore(self) -> None:
        if self._given is not None:
            unset_request(self._given)
        if self._attached is not None:
            detach(self._attached)
        self._attached = self._given = None

    def _end(self, span: AgentSpan, error: BaseException | None) -> None:
        self._look_at_route()
        if self._route:
            span.update_name(f"{self._method} {self._route}")
        outcome = partial(_answered, self.status, self._route)
        if error is not None:
            self._recorder.fail(self, error, outcome)
        elif self.is_gone and not self.is_complete:
            self._recorder.end(self, partial(_gone, outcome))
        else:
            self._recorder.end(self, outcome, end_ns=self.ended_ns)


# --- read by the worker -----------------------------------------------------------------------------------------------


def _asked(method: str, path: str, scheme: str) -> Operation:
    known = method if method in _METHODS else "_OTHER"
    return Operation(
        kind=Kind.REQUEST,
        name=method,
        attributes={semconv.HTTP_REQUEST_METHOD: known, semconv.URL_PATH: path, semconv.URL_SCHEME: scheme},
    )


def _gone(outcome: Callable[[], Outcome]) -> Outcome:
    """The caller did not wait for the whole answer."""
    return outcome()._replace(status=RunStatus.CANCELLED, error_type=None)


def _answered(status: int, route: str | None) -> Outcome:
    """What an HTTP status says: 5xx is the server's error, everything else an answer."""
    attributes: dict[str, str | int] = {}
    if status:
        attributes[semconv.HTTP_RESPONSE_STATUS_CODE] = status
    if route:
        attributes[semconv.HTTP_ROUTE] = route
    if status >= 500:
        return Outcome(attributes=attributes, status=RunStatus.ERROR, error_type=str(status))
    return Outcome(attributes=attributes)
