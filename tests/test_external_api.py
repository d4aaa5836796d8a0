"""Calls of tools to other services: their spans tell which service answered how, and carry the request along."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry import context, propagate
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from aiobs_core import Kind, Operation, _process, semconv, using_attributes
from aiobs_core._recorder import Recorder
from aiobs_core._settings import Settings
from aiobs_core.export.destinations import _OwnProvider
from aiobs_core.privacy.calls import call_of, without_query
from aiobs_core.propagation import install

TOOL = Operation(kind=Kind.TOOL, name="weather")


@pytest.fixture
def service():
    """A service that answers 503 to `/down`; yields its address and the headers that came."""
    came: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            came.append(dict(self.headers))
            self.send_response(503 if self.path.startswith("/down") else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}", came
        server.shutdown()


@pytest.fixture
def observed(monkeypatch):
    memory, provider = InMemorySpanExporter(), _OwnProvider()
    settings = Settings.load({}, {"console": "off", "store": "off"}, strict=True)
    recorder = Recorder(settings, exporters=[memory], tracer_provider=provider)
    monkeypatch.setattr(_process, "_recorder", recorder)
    before = propagate.get_global_textmap()
    install()
    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    token = context.attach(context.Context())
    yield recorder, memory
    context.detach(token)
    HTTPXClientInstrumentor().uninstrument()
    propagate.set_global_textmap(before)
    recorder.shutdown(5)


@pytest.mark.parametrize(("path", "status"), [("/v1/now", 200), ("/down", 503)])
def test_a_call_of_a_tool_says_which_service_answered_how(observed, service, path, status):
    recorder, memory = observed
    address, came = service
    with using_attributes(request_id="r-17"), recorder.span(TOOL) as tool:
        httpx.get(f"http://ada:hunter22@{address}{path}?q=a+secret&key=k-1#there")
    assert recorder.flush(5)
    call, _ = memory.get_finished_spans()
    assert (call.kind, call.parent.span_id) == (SpanKind.CLIENT, tool.span_id)
    host, _, port = address.partition(":")
    assert {
        semconv.STAGE: "external_api", semconv.API_NAME: host, semconv.ENDPOINT: f"{host}:{port}",
        semconv.STATUS_CODE: status,
    }.items() <= dict(call.attributes).items()  # fmt: skip
    told = call.to_json()
    assert path in told
    for secret in ("secret", "k-1", "hunter22", "ada"):
        assert secret not in told, secret
    assert f"{call.context.span_id:016x}" in came[0]["traceparent"]
    assert came[0]["baggage"] == "ai.agent.request.id=r-17"


@pytest.mark.parametrize(
    ("address", "left"),
    [
        ("https://ada:pw@api.example.com:8443/v1/x?k=s#f", "https://api.example.com:8443/v1/x"),
        ("/v1/x?k=s", "/v1/x"),
        ("http://[::1", ""),
        ("", ""),
    ],
)
def test_an_address_leaves_without_query_and_credentials(address, left):
    assert without_query("url.full", address) == left
    assert without_query("shop.note", address) == address


def test_only_calls_are_calls():
    assert call_of(SpanKind.SERVER, {"http.request.method": "GET"}) == {}
    assert call_of(SpanKind.CLIENT, {"db.system": "redis"}) == {}
    retried = {
        "http.request.method": "GET",
        "server.address": "a",
        "server.port": 0,
        "http.request.resend_count": 2,
    }
    assert call_of(SpanKind.CLIENT, retried) == {
        semconv.STAGE: "external_api", semconv.API_NAME: "a", semconv.ENDPOINT: "a", semconv.RETRY_ATTEMPT: 3,
    }  # fmt: skip
    rpc = {"rpc.system": "grpc", "rpc.service": "shop.Stock", "http.request.resend_count": "x"}
    assert call_of(SpanKind.CLIENT, rpc) == {semconv.STAGE: "external_api", semconv.API_NAME: "shop.Stock"}
