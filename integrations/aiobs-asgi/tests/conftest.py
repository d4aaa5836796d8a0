from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from opentelemetry import context
from opentelemetry.context import Context
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import _process
from aiobs_core._recorder import Recorder
from aiobs_core._settings import Settings


class Observed:
    """The recorder of the process, and what it has exported."""

    def __init__(self, **settings):
        self.memory = InMemorySpanExporter()
        loaded = Settings.load({}, {"console": "off", "store": "off", **settings}, strict=True)
        self.recorder = Recorder(loaded, exporters=[self.memory])

    @property
    def spans(self):
        assert self.recorder.flush(10)
        return list(self.memory.get_finished_spans())

    @property
    def ours(self):
        """Without those of other instrumentations: newer versions of FastAPI make some themselves."""
        return [span for span in self.spans if span.instrumentation_scope.name.startswith("aiobs")]

    def is_inside(self, span, above):
        parents = {each.context.span_id: each.parent for each in self.spans}
        parent = span.parent
        while parent is not None and parent.span_id != above.context.span_id:
            parent = parents.get(parent.span_id)
        return parent is not None

    def named(self, name):
        found = [span for span in self.spans if span.name == name]
        assert len(found) == 1, [
            (span.name, span.instrumentation_scope.name, str(span.kind)) for span in self.spans
        ]
        return found[0]


@pytest.fixture
def observe(monkeypatch, caplog):
    made = []

    def make(**settings):
        one = Observed(**settings)
        monkeypatch.setattr(_process, "_recorder", one.recorder)
        made.append(one)
        return one

    token = context.attach(Context())
    caplog.set_level(logging.WARNING)
    yield make
    context.detach(token)
    for one in made:
        assert one.recorder.open_runs == 0
        one.recorder.shutdown(5)
    assert not [record for record in caplog.records if "detach" in record.getMessage()]


@pytest.fixture
def observed(observe):
    return observe()


@contextmanager
def served(app, **options):
    """A real server on a thread; yields its address."""
    import uvicorn

    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


def asgi_client(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop")
