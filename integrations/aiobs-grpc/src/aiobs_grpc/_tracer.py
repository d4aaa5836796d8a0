"""The spans that OpenTelemetry's interceptors make: told apart as parts of a request, and ended where a call raises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import grpc
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, TracerProvider

from aiobs_core import Stage, semconv
from aiobs_core.adapter import current_request_id


class StageTracerProvider(TracerProvider):
    """Another provider, or the global one, whose spans of calls say which part of the request they are."""

    def __init__(self, inner: TracerProvider | None) -> None:
        self._inner = inner

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> Tracer:
        named = instrumenting_module_name, instrumenting_library_version or ""
        return _StageTracer(trace.get_tracer(*named, self._inner, schema_url, attributes))


class _StageTracer(Tracer):
    def __init__(self, inner: Tracer) -> None:
        self._inner = inner

    def start_span(self, name: str, *args: Any, **kwargs: Any) -> Span:
        return self._inner.start_span(name, *args, **kwargs)

    @contextmanager
    def start_as_current_span(self, name: str, **given: Any) -> Iterator[Span]:  # type: ignore[override]  # keywords only
        given["attributes"] = {**(given.get("attributes") or {}), **_stage_of(name, given.get("kind"))}
        with self._inner.start_as_current_span(name, **given) as span:
            try:
                yield span
            except BaseException:
                # Clients end the span of a call themselves; theirs forget it where the task is cancelled.
                if not given.get("end_on_exit", True) and span.is_recording():
                    span.end()
                raise


_EXTERNAL: Final = Stage.EXTERNAL_API.value
_RECEIVED: Final = Stage.PROMPT_RECEIVE.value


def _stage_of(method: str, kind: SpanKind | None) -> Mapping[str, str]:
    """What a call is of the request."""
    if kind is SpanKind.CLIENT:
        return {semconv.STAGE: _EXTERNAL, semconv.API_NAME: method.lstrip("/")}
    request_id = current_request_id()
    if request_id is None:
        return {semconv.STAGE: _RECEIVED}  # it begins here
    return {semconv.STAGE: _EXTERNAL, semconv.REQUEST_ID: request_id}


def end_span(span: Span, code: grpc.StatusCode) -> None:
    """End the span of a client's call with the status of the call."""
    if code is not grpc.StatusCode.OK:
        span.set_attribute(semconv.RPC_GRPC_STATUS_CODE, code.value[0])
        span.set_status(StatusCode.ERROR)
    span.end()
