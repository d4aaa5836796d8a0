"""Spans of other libraries sit under the run that was at work, and runs under the request that asked for them."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from operator import add as concatenate
from typing import Annotated, Any

import httpx
import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import ContextThreadPoolExecutor
from langchain_core.tools import StructuredTool, tool
from langchain_fakes import IDENTITY, FakeChat, FakeRetriever, add
from langgraph.graph import START, StateGraph
from naive import fails_with_naive
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.propagate import extract, inject
from scenarios import every, is_child, kind, names, one, parent_id, parent_of, path, roots, traces
from typing_extensions import TypedDict

import aiobs_core

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class _Server(BaseHTTPRequestHandler):
    seen: list[dict[str, str]] = []

    def do_GET(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        self.send_response(204)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def site():
    """A web site on the loopback interface and the headers that it was asked with."""
    _Server.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


class App:
    """What an application does inside a run: a span of its own, and an HTTP call through an instrumented client."""

    def __init__(self, subject: Any, site: str) -> None:
        self.tracer = subject.tracer()
        self.site = site
        self.provider = None if not subject.is_naive else subject.provider
        self.carriers: list[dict[str, str]] = []

    def work(self) -> None:
        carrier: dict[str, str] = {}
        inject(carrier)
        self.carriers.append(carrier)
        with self.tracer.start_as_current_span("own"), httpx.Client() as client:
            HTTPXClientInstrumentor().instrument_client(client, tracer_provider=self.provider)
            client.get(self.site)

    async def awork(self) -> None:
        carrier: dict[str, str] = {}
        inject(carrier)
        self.carriers.append(carrier)
        with self.tracer.start_as_current_span("own"):
            async with httpx.AsyncClient() as client:
                HTTPXClientInstrumentor().instrument_client(client, tracer_provider=self.provider)
                await client.get(self.site)


@pytest.fixture
def app(subject, site):
    return App(subject, site)


def check_nesting(spans: Any, app: App, run_name: str) -> None:
    run, own, get = one(spans, run_name), one(spans, "own"), one(spans, "GET")
    assert is_child(own, run)
    assert is_child(get, own)
    carried = app.carriers[0].get("traceparent", "")
    assert carried.split("-")[1:3] == [f"{run.context.trace_id:032x}", f"{run.context.span_id:016x}"]
    asked = _Server.seen[0].get("traceparent", "")
    assert asked.split("-")[1:3] == [f"{get.context.trace_id:032x}", f"{get.context.span_id:016x}"]


def sync_tool(app: App) -> Any:
    def look(q: str) -> str:
        """Look."""
        app.work()
        return q

    return StructuredTool.from_function(look)


def async_tool(app: App) -> Any:
    async def look(q: str) -> str:
        """Look."""
        await app.awork()
        return q

    return StructuredTool.from_function(coroutine=look)


def test_work_in_a_sync_tool_hangs_under_it(subject, app):
    sync_tool(app).invoke({"q": "q"}, subject.config())
    check_nesting(subject.all_ended(), app, "look")


@fails_with_naive
async def test_work_in_an_async_tool_hangs_under_it(subject, app):
    await async_tool(app).ainvoke({"q": "q"}, subject.config())
    check_nesting(subject.all_ended(), app, "look")


async def test_work_in_a_sync_tool_called_from_async_code_hangs_under_it(subject, app):
    """LangChain runs it in a thread pool, with a copy of the context."""
    await sync_tool(app).ainvoke({"q": "q"}, subject.config())
    check_nesting(subject.all_ended(), app, "look")


@pytest.mark.parametrize("pool", ["langchain", "asyncio.to_thread", "copy_context"])
async def test_work_that_a_tool_gives_to_a_thread_pool_hangs_under_it(subject, app, pool):
    if pool == "asyncio.to_thread":

        async def look(q: str) -> str:
            """Look."""
            await asyncio.to_thread(app.work)
            return q

        tools: Any = StructuredTool.from_function(coroutine=look)
    else:

        def look(q: str) -> str:
            """Look."""
            if pool == "langchain":
                with ContextThreadPoolExecutor() as executor:
                    executor.submit(app.work).result()
            else:
                with ThreadPoolExecutor() as executor:
                    executor.submit(copy_context().run, app.work).result()
            return q

        tools = StructuredTool.from_function(look)
    await tools.ainvoke({"q": "q"}, subject.config())
    check_nesting(subject.all_ended(), app, "look")


class State(TypedDict):
    steps: Annotated[list[str], concatenate]


def flow_of(node: Any) -> Any:
    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    return builder.compile(name="flow")


def test_work_in_a_graph_node_hangs_under_it(subject, app):
    flow_of(lambda _: (app.work(), {"steps": ["1"]})[1]).invoke({"steps": []}, subject.config())
    check_nesting(subject.all_ended(), app, "node")


@fails_with_naive
async def test_work_in_an_async_graph_node_hangs_under_it(subject, app):
    async def node(_):
        await app.awork()
        return {"steps": ["1"]}

    await flow_of(node).ainvoke({"steps": []}, subject.config())
    check_nesting(subject.all_ended(), app, "node")


async def test_work_in_a_model_and_in_a_retriever_hangs_under_them(subject, app):
    class Model(FakeChat):
        async def _agenerate(self, *args, **kwargs):
            await app.awork()
            return await super()._agenerate(*args, **kwargs)

    await Model().ainvoke("q", subject.config())
    check_nesting(subject.all_ended(), app, "fake-1")


async def test_a_tool_may_call_another_chain_without_passing_its_config(subject):
    """The inner chain has no parent run id (on Python 3.10 even with LangChain's own context): the span decides."""
    inner = IDENTITY | FakeChat()

    @tool
    async def ask(q: str) -> str:
        """Ask."""
        return str((await inner.ainvoke(q, {"callbacks": subject.callbacks})).content)

    await ask.ainvoke({"q": "q"}, subject.config())
    spans = subject.all_ended()
    assert len(traces(spans)) == 1
    (call,) = kind(spans, "model")
    assert path(spans, call) == ["execute_tool ask", "RunnableSequence", "chat fake-1"]


def test_a_tool_may_call_another_chain_inside_a_span_of_its_own(subject):
    @tool
    def ask(q: str) -> str:
        """Ask."""
        with subject.tracer().start_as_current_span("own"):
            return str(FakeChat().invoke(q, {"callbacks": subject.callbacks}).content)

    ask.invoke({"q": "q"}, subject.config())
    spans = subject.all_ended()
    assert path(spans, kind(spans, "model")[0]) == ["execute_tool ask", "own", "chat fake-1"]


@fails_with_naive
async def test_what_follows_a_call_hangs_under_the_request(subject, app):
    tracer = subject.tracer()
    with tracer.start_as_current_span("request"):
        await (IDENTITY | FakeChat()).ainvoke("q", subject.config())
        with tracer.start_as_current_span("after chain"):
            pass
        await FakeRetriever().ainvoke("q", subject.config())
        with tracer.start_as_current_span("after retriever"):
            pass
        await async_tool(app).ainvoke({"q": "q"}, subject.config())
        with tracer.start_as_current_span("after tool"):
            pass
        async for _ in FakeChat(model="fake-2").astream("q", subject.config()):
            pass
        with tracer.start_as_current_span("after stream"):
            pass
        with pytest.raises(ValueError, match="down"):
            await (IDENTITY | FakeChat(model="fake-3", fail=ValueError("down"))).ainvoke(
                "q", subject.config()
            )
        with tracer.start_as_current_span("after error"):
            pass
    with tracer.start_as_current_span("unrelated"):
        pass
    spans = subject.all_ended()
    request = one(spans, "request")
    for name in ("after chain", "after retriever", "after tool", "after stream", "after error"):
        assert is_child(one(spans, name), request), name
    assert one(spans, "unrelated").parent is None
    assert {span.name for span in spans if is_child(span, request)} >= {
        "invoke_workflow RunnableSequence",
        "chat fake-2",
    }
    assert subject.log.lines == []


async def test_a_call_while_a_stream_is_read_is_not_part_of_the_stream(subject):
    with subject.tracer().start_as_current_span("request"):
        async for _ in (IDENTITY | FakeChat()).astream("q", subject.config()):
            await FakeChat(model="fake-2").ainvoke("q", subject.config())
            break
    await asyncio.sleep(0.05)
    spans = subject.all_ended()
    assert path(spans, one(spans, "fake-2")) == ["request", "chat fake-2"]


def test_a_run_joins_the_trace_of_an_incoming_request(subject):
    """As an HTTP server, a queue worker or a gRPC service does it: extract, attach, work."""
    arrived = extract({"traceparent": TRACEPARENT, "baggage": "tenant=a"})
    token = context.attach(arrived)
    outgoing: dict[str, str] = {}
    try:
        RunnableLambda(lambda _: (inject(outgoing), baggage.get_baggage("tenant"))[1], name="work").invoke(
            "q", subject.config()
        )
    finally:
        context.detach(token)
    (root,) = subject.all_ended()
    assert root.context.trace_id == int("0af7651916cd43dd8448eb211c80319c", 16)
    assert parent_id(root) == int("b7ad6b7169203331", 16)
    assert root.parent.is_remote
    assert outgoing["traceparent"].split("-")[1:3] == [
        f"{root.context.trace_id:032x}",
        f"{root.context.span_id:016x}",
    ]
    assert outgoing["baggage"] == "tenant=a"


def test_an_incoming_request_that_is_not_sampled_stays_so(subject):
    token = context.attach(extract({"traceparent": TRACEPARENT[:-1] + "0"}))
    carried: dict[str, str] = {}
    try:
        RunnableLambda(lambda _: inject(carried), name="work").invoke("q", subject.config())
    finally:
        context.detach(token)
    assert subject.all_ended() == []
    assert carried["traceparent"].endswith("-00")
    subject.counts_runs = False


async def test_the_trace_id_of_a_log_line_is_the_one_of_the_run_it_is_written_in(subject):
    seen = []

    async def look(q: str) -> str:
        """Look."""
        seen.append(trace.get_current_span().get_span_context())
        return q

    await StructuredTool.from_function(coroutine=look).ainvoke({"q": "q"}, subject.config())
    (span,) = subject.all_ended()
    assert [(here.trace_id, here.span_id) for here in seen] == [(span.context.trace_id, span.context.span_id)]


@pytest.mark.parametrize("around", ["another instrumentation", "a request of ours"])
async def test_siblings_in_one_task_do_not_nest(subject, around):
    """A batch starts all its runs before any of them works; a list of prompts does the same."""
    with (
        subject.tracer().start_as_current_span("request")
        if around.startswith("another")
        else aiobs_core.span("request", kind="request")
    ):
        (IDENTITY | FakeChat()).batch(["a", "b", "c"], subject.config())
        FakeChat(model="fake-2").generate([[], []], callbacks=subject.callbacks)
        await FakeChat(model="fake-3").agenerate([[], []], callbacks=subject.callbacks)
    spans = subject.all_ended()
    request = one(spans, "request")
    for name, count in (("RunnableSequence", 3), ("fake-2", 2), ("fake-3", 2)):
        assert [is_child(span, request) for span in every(spans, name)] == [True] * count, name
    assert names(roots(spans)) == ["request"]
    assert all(
        parent_of(spans, call).name == "invoke_workflow RunnableSequence" for call in every(spans, "fake-1")
    )


def test_a_span_of_a_run_takes_what_the_application_adds(subject):
    @tool
    def look(q: str) -> str:
        """Look."""
        span = trace.get_current_span()
        span.set_attribute("shop.rows", 3)
        span.add_event("cache miss", {"shop.key": "a"})
        return q

    look.invoke({"q": "q"}, subject.config())
    (span,) = subject.all_ended()
    assert span.attributes["shop.rows"] == 3
    assert [(event.name, dict(event.attributes)) for event in span.events] == [
        ("cache miss", {"shop.key": "a"})
    ]


def test_add_is_a_tool_like_any_other(subject):
    add.invoke({"a": 1, "b": 2}, subject.config())
    assert names(subject.all_ended()) == ["execute_tool add"]
