"""A request around agents, with real FastAPI and Starlette apps behind a real server."""

from __future__ import annotations

import asyncio
import inspect
import sys
import time
from pathlib import Path

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode finds no helper modules beside the tests

pytest.importorskip("fastapi", reason="FastAPI is not installed; get it with: pip install fastapi uvicorn")
from conftest import asgi_client, served
from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from opentelemetry.trace import INVALID_SPAN, SpanKind, StatusCode, get_current_span
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from aiobs_asgi import AiObsMiddleware, AiObsWsgiMiddleware
from aiobs_core import semconv, span, using_attributes
from aiobs_core.propagation import request_in_force

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE_ID = 0x0AF7651916CD43DD8448EB211C80319C
BODY = {"question": "What is the capital of Korea?"}


HAS_OWN_SPANS = (
    "telemetry" in inspect.signature(FastAPI).parameters
)  # newer versions make a server span themselves
SILENT = {"telemetry": {"tracing": False}} if HAS_OWN_SPANS else {}


def shop(*, fastapi=SILENT, **options):
    app = FastAPI(**fastapi)
    app.add_middleware(AiObsMiddleware, **options)

    @app.post("/chat/{room}")
    async def chat(room: str, request: Request):
        await request.json()
        with span("answer", kind="workflow"), span("look up", kind="tool"):
            return {"room": room}

    @app.get("/fail")
    async def fail():
        raise ValueError("a secret")

    @app.get("/refuse")
    async def refuse():
        return PlainTextResponse("no", status_code=503)

    @app.get("/stream")
    async def stream():
        async def pieces():
            for number in range(5):
                with span(f"piece {number}", kind="tool"):
                    yield b"%d" % number
                await asyncio.sleep(0.02)

        return StreamingResponse(pieces(), media_type="text/event-stream")

    @app.get("/endless")
    async def endless():
        async def pieces():
            while True:
                yield b"x" * 1_000
                await asyncio.sleep(0.005)

        return StreamingResponse(pieces())

    @app.get("/later")
    async def later(tasks: BackgroundTasks):
        def work():
            with span("afterwards", kind="workflow"):
                time.sleep(0.1)

        tasks.add_task(work)
        return {}

    @app.websocket("/talk")
    async def talk(socket: WebSocket):
        await socket.accept()
        async for text in socket.iter_text():
            with span("answer", kind="workflow"):
                await socket.send_text(text.upper())

    return app


# --- one tree -------------------------------------------------------------------------------------------------------


def test_a_request_is_a_server_span_with_its_stages_around_the_agent(observed):
    with served(shop()) as address:
        answer = httpx.post(f"{address}/chat/7?token=secret", json=BODY)
    request = observed.named("POST /chat/{room}")
    assert request.kind is SpanKind.SERVER
    assert request.parent is None
    assert {
        semconv.HTTP_REQUEST_METHOD: "POST", semconv.HTTP_ROUTE: "/chat/{room}", semconv.URL_PATH: "/chat/7",
        semconv.URL_SCHEME: "http", semconv.HTTP_RESPONSE_STATUS_CODE: 200, semconv.SPAN_KIND: "request",
    }.items() <= dict(request.attributes).items()  # fmt: skip
    assert request.status.status_code is StatusCode.UNSET
    for name, stage in (("prompt_receive", "prompt_receive"), ("response_send", "response_send")):
        found = observed.named(name)
        assert observed.is_inside(found, request)
        assert found.attributes[semconv.STAGE] == stage
        assert request.start_time <= found.start_time <= found.end_time <= request.end_time
    workflow = observed.named("invoke_workflow answer")
    assert observed.is_inside(workflow, request)
    assert observed.named("execute_tool look up").parent.span_id == workflow.context.span_id
    assert len({one.context.trace_id for one in observed.spans}) == 1
    assert "secret" not in "".join(one.to_json() for one in observed.spans)
    assert (
        answer.headers["traceparent"]
        == f"00-{request.context.trace_id:032x}-{request.context.span_id:016x}-03"
    )


def test_the_callers_trace_and_id_go_on_and_come_back(observed):
    with served(shop()) as address:
        headers = {"traceparent": PARENT, "X-Request-ID": "r-17"}
        answer = httpx.post(f"{address}/chat/7", json=BODY, headers=headers)
    assert answer.headers["x-request-id"] == "r-17"
    assert {one.context.trace_id for one in observed.spans} == {TRACE_ID}
    assert {one.attributes[semconv.REQUEST_ID] for one in observed.ours} == {"r-17"}
    assert observed.named("POST /chat/{room}").parent.span_id == 0xB7AD6B7169203331


def test_without_an_id_the_trace_is_the_request_of_all_its_runs(observed):
    with served(shop()) as address:
        answer = httpx.post(f"{address}/chat/7", json=BODY)
    trace_id = f"{observed.spans[0].context.trace_id:032x}"
    assert answer.headers["x-request-id"] == trace_id
    assert {one.attributes[semconv.REQUEST_ID] for one in observed.ours} == {trace_id}


def test_who_asks_is_taken_from_the_request_and_leaves_hashed(observe):
    observed = observe(hash_key="correct horse battery")
    app = shop(
        user=lambda asked: asked.header("X-User"),
        session=lambda asked: asked.cookie("session"),
        tenant=lambda asked: asked.query("tenant"),
    )
    with served(app) as address:
        httpx.post(
            f"{address}/chat/7?tenant=acme", json=BODY, headers={"x-user": "ada", "cookie": "session=s-4"}
        )
    for one in observed.ours:
        assert one.attributes[semconv.SESSION_ID] == "s-4"
        assert ":" in one.attributes[semconv.USER_ID]
        assert not {"ada", "acme"} & set(map(str, one.attributes.values()))


def test_an_extractor_that_fails_costs_its_answer_only(observed, caplog):
    def broken(asked):
        raise RuntimeError("a secret")

    with served(shop(user=broken)) as address:
        for _ in range(3):
            assert httpx.post(f"{address}/chat/7", json=BODY).status_code == 200
    assert len([r for r in caplog.records if "extractor of the user failed" in r.getMessage()]) == 1
    assert "a secret" not in caplog.text


@pytest.mark.parametrize("policy", ["all", "production"])
@pytest.mark.parametrize("is_joined", [False, True])
async def test_what_the_runs_cost_adds_up_on_the_request(observe, is_joined, policy):
    observed = observe(sampling=policy)
    app = FastAPI(**SILENT)
    app.add_middleware(AiObsMiddleware)

    @app.get("/ask")
    async def ask():
        with span("answer", kind="workflow"):
            for cost_usd in (0.25, 0.5):
                with span("gpt-4o", kind="model") as call:
                    call.set_attribute(semconv.COST_USD, cost_usd)
        return {}

    if is_joined:
        observed.recorder.open()
        pytest.importorskip("opentelemetry.instrumentation.fastapi").FastAPIInstrumentor.instrument_app(app)
    async with asgi_client(app) as client:
        await client.get("/ask")
    (request,) = [one for one in observed.spans if one.kind is SpanKind.SERVER]
    assert request.instrumentation_scope.name.startswith("opentelemetry") is is_joined
    assert request.attributes[semconv.COST_TOTAL_USD] == 0.75


# --- how it ends ----------------------------------------------------------------------------------------------------


def test_an_error_is_the_requests_and_passes_as_it_is(observed):
    with served(shop()) as address:
        assert httpx.get(f"{address}/fail").status_code == 500
    request = observed.named("GET /fail")
    assert request.status.status_code is StatusCode.ERROR
    assert request.attributes[semconv.ERROR_TYPE] == "ValueError"
    assert "a secret" not in request.to_json()


def test_a_status_of_5xx_is_an_error_and_4xx_is_an_answer(observed):
    with served(shop()) as address:
        httpx.get(f"{address}/refuse")
        httpx.get(f"{address}/nowhere")
    assert observed.named("GET /refuse").attributes[semconv.ERROR_TYPE] == "503"
    missing = observed.named("GET")
    assert missing.status.status_code is StatusCode.UNSET
    assert missing.attributes[semconv.HTTP_RESPONSE_STATUS_CODE] == 404


def test_the_answer_of_a_stream_lasts_from_its_first_to_its_last_piece(observed):
    with served(shop()) as address, httpx.stream("GET", f"{address}/stream") as answer:
        assert b"".join(answer.iter_raw()) == b"01234"
    sending, request = observed.named("response_send"), observed.named("GET /stream")
    assert sending.end_time - sending.start_time > 60e6
    pieces = [one for one in observed.spans if one.name.startswith("execute_tool piece")]
    assert [observed.is_inside(one, request) for one in pieces] == [True] * 5


def test_a_client_that_goes_away_is_no_error_and_leaves_nothing_open(observed):
    with served(shop()) as address:
        with httpx.stream("GET", f"{address}/endless") as answer:
            next(answer.iter_raw())
        deadline = time.monotonic() + 10
        while observed.recorder.open_runs and time.monotonic() < deadline:
            time.sleep(0.01)
    request = observed.named("GET /endless")
    assert request.attributes[semconv.OUTCOME] == "cancelled"
    assert request.status.status_code is StatusCode.UNSET


def test_work_after_the_answer_is_in_the_trace_and_not_in_the_latency(observed):
    with served(shop()) as address:
        httpx.get(f"{address}/later")
    request, later = observed.named("GET /later"), observed.named("invoke_workflow afterwards")
    assert observed.is_inside(later, request)
    assert request.end_time < later.end_time
    assert request.end_time - request.start_time < 90e6


async def test_a_websocket_is_one_request(observed):
    websockets = pytest.importorskip("websockets")
    with served(shop()) as address:
        async with websockets.connect(address.replace("http", "ws") + "/talk") as socket:
            for text in ("a", "b"):
                await socket.send(text)
                assert await socket.recv() == text.upper()
    request = observed.named("GET /talk")
    assert request.attributes[semconv.OUTCOME] == "success"
    runs = [one for one in observed.spans if one.name == "invoke_workflow answer"]
    assert [observed.is_inside(one, request) for one in runs] == [True] * 2


async def test_a_thousand_streams_at_once_keep_their_runs_apart(observed):
    seen = {}

    async def app(scope, receive, send):
        name = scope["path"][1:]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            with span(name, kind="tool"):
                await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": name.encode(), "more_body": number < 2})

    wrapped = AiObsMiddleware(app)

    async def ask(name):
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            await asyncio.sleep(3600)

        scope = {"type": "http", "method": "GET", "path": f"/{name}", "headers": [], "query_string": b""}
        await wrapped(scope, receive, send)
        seen[name] = b"".join(each.get("body", b"") for each in sent)

    await asyncio.gather(*(ask(f"r{number}") for number in range(1_000)))
    assert seen["r7"] == b"r7" * 3
    assert observed.recorder.open_runs == 0
    requests = {
        one.context.span_id: one.attributes[semconv.URL_PATH] for one in observed.spans if one.name == "GET"
    }
    assert len(requests) == 1_000
    tools = [one for one in observed.spans if one.name.startswith("execute_tool")]
    assert len(tools) == 3_000
    assert all(one.name == f"execute_tool {requests[one.parent.span_id][1:]}" for one in tools)


# --- beside others --------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    not HAS_OWN_SPANS, reason="this FastAPI makes no spans itself; newer ones do: pip install -U fastapi"
)
def test_the_span_of_fastapi_itself_is_joined(observed):
    with served(shop(fastapi={})) as address:
        httpx.get(f"{address}/stream")  # aiobs' provider is there from the first run on
        answer = httpx.post(f"{address}/chat/7", json=BODY, headers={"traceparent": PARENT})
    (server,) = [
        one for one in observed.spans if one.kind is SpanKind.SERVER and one.context.trace_id == TRACE_ID
    ]
    assert observed.is_inside(observed.named("invoke_workflow answer"), server)
    assert server.attributes[semconv.REQUEST_ID] == answer.headers["x-request-id"] == f"{TRACE_ID:032x}"


def test_the_span_of_another_instrumentation_is_joined(observed):
    instrumentor = pytest.importorskip("opentelemetry.instrumentation.fastapi").FastAPIInstrumentor
    app = shop()
    instrumentor.instrument_app(app)
    with served(app) as address:
        headers = {"traceparent": PARENT, "x-request-id": "r-17"}
        answer = httpx.post(f"{address}/chat/7", json=BODY, headers=headers)
    servers = [one for one in observed.spans if one.kind is SpanKind.SERVER]
    assert [one.attributes.get(semconv.REQUEST_ID) for one in servers] == ["r-17"]
    assert servers[0].instrumentation_scope.name.startswith("opentelemetry.")
    assert observed.is_inside(observed.named("invoke_workflow answer"), servers[0])
    assert observed.is_inside(observed.named("prompt_receive"), servers[0])
    assert answer.headers["x-request-id"] == "r-17"


def test_two_of_them_and_others_in_between_are_one(observed):
    class Between(BaseHTTPMiddleware):
        async def dispatch(self, request, call_next):
            return await call_next(request)

    app = shop()
    app.add_middleware(Between)
    app.add_middleware(AiObsMiddleware)
    with served(app) as address:
        assert httpx.post(f"{address}/chat/7", json=BODY).json() == {"room": "7"}
    (request,) = [one for one in observed.spans if one.kind is SpanKind.SERVER]
    assert observed.is_inside(observed.named("invoke_workflow answer"), request)


def test_starlette_names_its_routes(observed):
    async def home(request):
        return PlainTextResponse("hi")

    app = Starlette(routes=[Route("/rooms/{room}", home), Mount("/static", Starlette())])
    app.add_middleware(AiObsMiddleware)
    with served(app) as address:
        httpx.get(f"{address}/rooms/7")
    assert observed.named("GET /rooms/{room}").attributes[semconv.HTTP_ROUTE] == "/rooms/{room}"


# --- options --------------------------------------------------------------------------------------------------------


async def test_excluded_paths_and_the_page_of_metrics_are_no_requests(observed):
    app = shop(exclude=["/health*"], metrics_path="/metrics")

    @app.get("/healthz")
    async def healthz():
        return {}

    async with asgi_client(app) as client:
        assert (await client.get("/healthz")).status_code == 200
        page = await client.get("/metrics")
    assert "ai_agent_telemetry_spans_total" in page.text
    assert observed.spans == []


@pytest.mark.parametrize("value", ["1", "true", None])
async def test_a_header_can_ask_for_the_trace_to_be_kept(observe, value):
    observed = observe(sampling={"rules": [{"keep": 0.0}]})
    async with asgi_client(shop(keep_header="X-Keep")) as client:
        await client.post("/chat/7", json=BODY, headers={} if value is None else {"x-keep": value})
    assert bool(observed.spans) is (value is not None)


async def test_switched_off_the_application_is_alone(observe):
    observed = observe(enabled=False)
    async with asgi_client(shop()) as client:
        answer = await client.post("/chat/7", json=BODY)
    assert answer.status_code == 200
    assert "traceparent" not in answer.headers
    assert observed.spans == []


async def test_server_timing_is_there_for_those_who_want_it(observed):
    async with asgi_client(shop(server_timing=True)) as client:
        answer = await client.post("/chat/7", json=BODY)
    assert answer.headers["traceparent"] in answer.headers["server-timing"]
    assert "total;dur=" in answer.headers["server-timing"]


async def test_what_the_application_answers_itself_stands(observed):
    app = FastAPI(**SILENT)
    app.add_middleware(AiObsMiddleware)

    @app.get("/")
    async def home():
        return PlainTextResponse("hi", headers={"X-Request-Id": "mine"})

    async with asgi_client(app) as client:
        answer = await client.get("/")
    assert answer.headers.get_list("x-request-id") == ["mine"]


@pytest.mark.parametrize("exclude", ["/healthz", [1]])
def test_an_option_that_is_none_is_said(exclude):
    with pytest.raises(ValueError, match="expected a list of patterns"):
        AiObsMiddleware(shop(), exclude=exclude)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"traceparent", b"\xff\xfe"), (b"x-request-id", b"\xff" * 10)],
        [(b"traceparent", PARENT.encode()), (b"traceparent", PARENT.encode())],
        [(b"x-request-id", b"a\nb"), (b"baggage", b"," * 9_000), (b"tracestate", b"=" * 9_000)],
        [(b"content-length", b"many")],
    ],
)
async def test_headers_of_strangers_are_harmless(observed, headers):
    async with asgi_client(shop()) as client:
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            return {"type": "http.request", "body": b"{}"}

        scope = {
            "type": "http", "method": "POST", "path": "/chat/7", "raw_path": b"/chat/7", "query_string": b"",
            "headers": headers, "scheme": "http", "server": ("shop", 80), "http_version": "1.1",
        }  # fmt: skip
        await client._transport.app(scope, receive, send)
    assert sent[0]["status"] == 200
    request = observed.named("POST /chat/{room}")
    assert request.context.trace_id != TRACE_ID
    assert request.attributes[semconv.REQUEST_ID] == f"{request.context.trace_id:032x}"


@pytest.mark.parametrize("broken", ["start", "end"])
async def test_what_goes_wrong_in_here_costs_no_answer(observed, monkeypatch, caplog, broken):
    def fails(*_, **__):
        raise KeyError(broken)

    monkeypatch.setattr(observed.recorder, broken, fails)
    app = FastAPI(**SILENT)
    app.add_middleware(AiObsMiddleware)

    @app.get("/")
    async def home():
        return {"fine": True}

    async with asgi_client(app) as client:
        for _ in range(3):
            assert (await client.get("/")).json() == {"fine": True}
    monkeypatch.undo()
    for key in list(observed.recorder._runs):
        observed.recorder.end(key)
    assert any("its answer is not affected" in record.getMessage() for record in caplog.records)


async def test_an_id_of_the_application_that_is_no_header_is_not_answered(observed):
    app = shop()
    with using_attributes(request_id="a\r\nset-cookie: x"):
        async with asgi_client(app) as client:
            answer = await client.post("/chat/7", json=BODY)
    assert answer.status_code == 200
    assert "x-request-id" not in answer.headers


async def test_what_the_lifespan_raises_passes_as_it_is(observed):
    async def app(scope, receive, send):
        raise RuntimeError(scope["type"])

    with pytest.raises(RuntimeError, match="lifespan"):
        await AiObsMiddleware(app)({"type": "lifespan"}, None, None)
    assert observed.spans == []


async def test_an_upload_that_breaks_off_is_cancelled_with_its_stage(observed):
    async def app(scope, receive, send):
        while (message := await receive())["type"] != "http.disconnect":
            assert message["more_body"]

    pieces = iter([b"a", b"b"])

    async def receive():
        piece = next(pieces, None)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": True}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"transfer-encoding", b"chunked")]}
    await AiObsMiddleware(app)(scope, receive, None)
    assert observed.named("POST").attributes[semconv.OUTCOME] == "cancelled"
    assert observed.named("prompt_receive").end_time


async def test_bodies_pass_byte_by_byte_and_can_be_read_again(observed):
    body = bytes(range(256)) * 4_000
    app = FastAPI(**SILENT)
    app.add_middleware(AiObsMiddleware)

    @app.post("/echo")
    async def echo(request: Request):
        assert await request.body() == await request.body()
        return StreamingResponse(iter([await request.body()]))

    with served(app) as address:
        answer = await asyncio.to_thread(httpx.post, f"{address}/echo", content=body)
    assert answer.content == body


# --- Django's and Flask's side ----------------------------------------------------------------------------------------


def test_wsgi_with_flask(observed):
    flask = pytest.importorskip("flask", reason="Flask is not installed; get it with: pip install flask")
    app = flask.Flask("shop")

    @app.route("/chat/<room>", methods=["POST"])
    def chat(room):
        with span("answer", kind="workflow"):
            return {"room": room}

    @app.route("/stream")
    def stream():
        def pieces():
            for number in range(3):
                with span(f"piece {number}", kind="tool"):
                    yield b"%d" % number

        return flask.Response(pieces())

    app.wsgi_app = AiObsWsgiMiddleware(app.wsgi_app, metrics_path="/metrics")
    client = app.test_client()
    headers = {"traceparent": PARENT, "x-request-id": "r-17"}
    answer = client.post("/chat/7", json=BODY, headers=headers, buffered=True)
    assert answer.headers["x-request-id"] == "r-17"
    assert client.get("/stream", buffered=True).data == b"012"
    assert b"ai_agent_telemetry_spans_total" in client.get("/metrics").data
    request = observed.named("POST /chat/<room>")
    assert (request.context.trace_id, request.kind) == (TRACE_ID, SpanKind.SERVER)
    assert observed.is_inside(observed.named("invoke_workflow answer"), request)
    stream_ = observed.named("GET /stream")
    pieces = [one for one in observed.spans if one.name.startswith("execute_tool piece")]
    assert [one.parent.span_id for one in pieces] == [stream_.context.span_id] * 3
    assert [one.attributes[semconv.OUTCOME] for one in (request, stream_)] == ["success"] * 2


def test_wsgi_leaves_nothing_behind_in_the_thread_of_a_client_that_never_closes(observed):
    flask = pytest.importorskip("flask", reason="Flask is not installed; get it with: pip install flask")
    app = flask.Flask("shop")

    @app.route("/chat/<room>")
    def chat(room):
        def pieces():
            with span(f"answer {room}", kind="workflow"):
                yield b"a"
                yield room.encode()

        return flask.Response(pieces())

    app.wsgi_app = AiObsWsgiMiddleware(app.wsgi_app)
    client = app.test_client()
    one = client.get("/chat/1", headers={"traceparent": PARENT, "x-request-id": "r-1"})
    assert (get_current_span(), request_in_force()) == (INVALID_SPAN, None)
    two = client.get("/chat/2", headers={"x-request-id": "r-2"})
    assert (one.text, two.text) == ("a1", "a2")
    del one, two
    for number in (1, 2):
        answer = observed.named(f"invoke_workflow answer {number}")
        request = next(each for each in observed.spans if each.context.span_id == answer.parent.span_id)
        assert (request.name, request.attributes[semconv.OUTCOME]) == ("GET /chat/<room>", "success")
        assert answer.attributes[semconv.REQUEST_ID] == f"r-{number}"
        assert (request.context.trace_id == TRACE_ID) is (number == 1)
    assert (get_current_span(), request_in_force()) == (INVALID_SPAN, None)
