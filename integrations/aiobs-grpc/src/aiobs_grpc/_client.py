"""Around OpenTelemetry's interceptor for clients: what the application gave and gets back stays what it is without it.

The interceptor keeps one of several values of a metadata key, and answers a call that streams with a generator: without
`cancel()` or `code()`, and with the span current in whoever reads from it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextvars import copy_context
from typing import Any

import grpc
from opentelemetry.instrumentation.grpc.grpcext import StreamClientInterceptor, UnaryClientInterceptor
from opentelemetry.trace import Span, get_current_span

from aiobs_grpc._tracer import end_span

Metadata = tuple[tuple[str, Any], ...]
Invoker = Callable[[Any, Any], Any]


class ClientInterceptor(UnaryClientInterceptor, StreamClientInterceptor):
    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def intercept_unary(self, request: Any, metadata: Any, client_info: Any, invoker: Invoker) -> Any:
        given = _pairs(metadata)
        return self._inner.intercept_unary(request, given, client_info, _with_all(given, invoker))

    def intercept_stream(self, requests: Any, metadata: Any, client_info: Any, invoker: Invoker) -> Any:
        given = _pairs(metadata)
        invoke = _with_all(given, invoker)
        called: list[Any] = []

        def call(requests: Any, traced: Any) -> Any:
            sent = requests
            if client_info.is_client_stream and hasattr(requests, "__next__"):
                sent = _Requests(requests)
            called.append(invoke(sent, traced))
            return _End(called[0], get_current_span()) if client_info.is_server_stream else called[0]

        if not client_info.is_server_stream:
            return self._inner.intercept_stream(requests, given, client_info, call)
        # Told that the answer is a single one, the interceptor makes the span end with the call.
        self._inner.intercept_stream(requests, given, client_info._replace(is_server_stream=False), call)
        return called[0]


def _pairs(metadata: Any) -> Metadata:
    return tuple(metadata.items() if isinstance(metadata, Mapping) else metadata or ())


def _with_all(given: Metadata, invoker: Invoker) -> Invoker:
    """Calls with the application's metadata and what was injected, given the latter and one value of each key."""

    def invoke(request: Any, traced: Any) -> Any:
        known = dict(given)
        injected = {
            key: value for key, value in _pairs(traced) if key not in known or known[key] is not value
        }
        kept = tuple((key, value) for key, value in given if key not in injected)
        return invoker(request, (*kept, *injected.items()))

    return invoke


class _Requests:
    """A stream of requests that is made inside the call: gRPC reads it in a thread of its own."""

    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests
        self._context = copy_context()

    def __iter__(self) -> _Requests:
        return self

    def __next__(self) -> Any:
        return self._context.run(next, self._requests)


class _End:
    """The end of a call that streams, and of its span, in the shape of the `grpc.Future` that the interceptor waits for.

    It holds the call by a weak reference: gRPC cancels a call that nobody reads any more when it is collected.
    """

    def __init__(self, call: Any, span: Span) -> None:
        self._call = weakref.ref(call)
        self._span = span

    def add_done_callback(self, _: object) -> None:
        call = self._call()
        if call is None or not call.add_callback(self._end):
            self._end()

    def _end(self) -> None:
        call = self._call()
        end_span(self._span, grpc.StatusCode.CANCELLED if call is None else call.code())


grpc.Future.register(_End)
