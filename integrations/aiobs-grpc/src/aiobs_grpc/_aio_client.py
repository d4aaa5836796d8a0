"""Around OpenTelemetry's interceptors for asynchronous clients: a call is the application's from its start, and ends its span.

Theirs wait for the end of a call that has a single response, so that who cancels it cancels the waiting and not the call. For
one that streams they answer with a generator, which ends the span where it is read to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import grpc
import grpc.aio
from opentelemetry.trace import Span, get_current_span

from aiobs_grpc._tracer import end_span


def around(interceptors: Sequence[Any], response_hook: Callable[..., object] | None) -> list[Any]:
    """Ours around each of them; as they are where there is a hook for responses, which they alone can call."""
    return list(interceptors) if response_hook is not None else [_around(each) for each in interceptors]


def _around(interceptor: Any) -> Any:
    return next((ours(interceptor) for kind, ours in _OURS if isinstance(interceptor, kind)), interceptor)


class _Around:
    def __init__(self, inner: Any) -> None:
        self._inner = inner


class _UnaryUnary(_Around, grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[misc]  # Any: the module is untyped
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await _call(self._inner.intercept_unary_unary, continuation, client_call_details, request)


class _UnaryStream(_Around, grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[misc]  # as above
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await _call(self._inner.intercept_unary_stream, continuation, client_call_details, request)


class _StreamUnary(_Around, grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[misc]  # as above
    async def intercept_stream_unary(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        intercept = self._inner.intercept_stream_unary
        return await _call(intercept, continuation, client_call_details, request_iterator)


class _StreamStream(_Around, grpc.aio.StreamStreamClientInterceptor):  # type: ignore[misc]  # as above
    async def intercept_stream_stream(
        self, continuation: Any, client_call_details: Any, request_iterator: Any
    ) -> Any:
        intercept = self._inner.intercept_stream_stream
        return await _call(intercept, continuation, client_call_details, request_iterator)


_OURS: tuple[tuple[Any, type[_Around]], ...] = (
    (grpc.aio.UnaryUnaryClientInterceptor, _UnaryUnary),
    (grpc.aio.UnaryStreamClientInterceptor, _UnaryStream),
    (grpc.aio.StreamUnaryClientInterceptor, _StreamUnary),
    (grpc.aio.StreamStreamClientInterceptor, _StreamStream),
)


class _Made:
    """What their interceptor gets for the call: one that is done, and that a generator may read, though nobody reads that."""

    call: Any = None
    span: Span
    is_waited_for = False

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def details(self) -> str:
        return ""

    def add_done_callback(self, _: object) -> None:
        self.is_waited_for = True


async def _call(intercept: Callable[..., Any], continuation: Any, details: Any, request: Any) -> Any:
    made = _Made()

    async def inside(details: Any, request: Any) -> _Made:
        made.call = await continuation(details, request)
        made.span = get_current_span()
        return made

    answer = await intercept(inside, details, request)
    if made.is_waited_for or answer is not made:  # else it is not traced
        _end_with(made.call, made.span)
    return made.call


def _end_with(call: Any, span: Span) -> None:
    try:
        call.add_done_callback(partial(_end, span))
    except NotImplementedError:  # a response that an interceptor of the application has waited for
        _end(span, call)


def _end(span: Span, call: Any) -> None:
    end_span(span, _code_of(call))


def _code_of(call: Any) -> grpc.StatusCode:
    """The status of a call that is done, whose coroutine has nothing to wait for."""
    asked = call.code()
    try:
        asked.send(None)
    except StopIteration as answer:
        return answer.value
    asked.close()
    return grpc.StatusCode.UNKNOWN
