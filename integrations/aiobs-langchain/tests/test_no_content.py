"""With the defaults no content leaves the process: no byte sent, stored or printed holds what users and models said."""

from __future__ import annotations

import contextlib
import io
import logging
import sqlite3
import sys
import zlib
from operator import add as concatenate
from typing import Annotated, Any

import httpx
import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import adispatch_custom_event
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import StructuredTool, ToolException
from langchain_fakes import FakeChat, FakeLLM, FakeRetriever, tool_calls
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, interrupt
from naive import NamedNaiveHandler
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from pydantic import SecretStr
from scenarios import CORE
from typing_extensions import TypedDict

from aiobs_core import configure, flush, shutdown, using_attributes
from aiobs_langchain import AiObsCallbackHandler
from aiobs_testing.receiver import OtlpReceiver


class Secrets:
    """Draws a recognisable text for each place; `planted` maps the text to its place."""

    def __init__(self) -> None:
        self.planted: dict[str, str] = {}

    def __call__(self, place: str) -> str:
        text = f"sk-{len(self.planted):03d}-canary-{len(place):03d}"
        self.planted[text] = place
        return text

    def found_in(self, data: bytes) -> list[str]:
        return [place for text, place in self.planted.items() if text.encode() in data]


class KeyedChat(FakeChat):
    """A model as providers write it: keys, headers and a base URL in its constructor."""

    api_key: SecretStr | str = ""
    default_headers: dict[str, str] = {}

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {**super()._identifying_params, "headers": self.default_headers}


class State(TypedDict):
    steps: Annotated[list[str], concatenate]


def keyed_model(secret: Secrets, **fields: Any) -> KeyedChat:
    return KeyedChat(
        api_key=secret("constructor: api_key"),
        default_headers={"Authorization": f"Bearer {secret('constructor: header')}"},
        base_url=f"https://{secret('base url: user')}:{secret('base url: password')}@llm.example:8443/"
        f"{secret('base url: path')}?key={secret('base url: query')}#{secret('base url: fragment')}",
        metadata={"note": secret("constructor: metadata")},
        tags=[secret("constructor: tag")],
        **fields,
    )


async def chat(secret: Secrets, callbacks: list[Any]) -> None:
    prompt = ChatPromptTemplate.from_messages(
        [
            ("system", secret("system prompt")),
            ("user", secret("template") + " {variable}"),
        ]
    )
    model = keyed_model(secret, responses=[secret("answer")]).bind(
        stop=[secret("bound: stop")],
        user=secret("bound: user"),
        temperature=secret("bound: temperature"),
        max_tokens=secret("bound: max_tokens"),
        seed=secret("bound: seed"),
        reasoning_effort=secret("bound: reasoning_effort"),
        extra_headers={"x-api-key": secret("bound: header")},
        response_format={"schema": secret("bound: schema")},
    )
    config = {
        "callbacks": callbacks,
        "metadata": {"customer": secret("metadata"), "nested": {"e-mail": secret("metadata: nested")}},
        "tags": [secret("tag")],
        "configurable": {"api_key": secret("configurable"), "name": secret("configurable: name")},
    }
    with using_attributes(user_id=secret("user id")):
        await (prompt | model).ainvoke({"variable": secret("template variable")}, config)
        async for _ in (prompt | model).astream({"variable": secret("streamed variable")}, config):
            pass
        (prompt | FakeLLM()).invoke({"variable": secret("completion variable")}, config)


async def retrieve(secret: Secrets, callbacks: list[Any]) -> None:
    found = [
        Document(
            secret("document"), metadata={"source": secret("document: source")}, id=secret("document: id")
        )
    ]
    await FakeRetriever(documents=found).ainvoke(secret("query"), {"callbacks": callbacks})


async def use_tools(secret: Secrets, callbacks: list[Any]) -> None:
    tracer = trace.get_tracer("app")

    async def look(q: str) -> str:
        if sys.version_info >= (3, 11) or CORE >= (1, 7):  # LangChain 1.0 on 3.10 does not know the run here
            await adispatch_custom_event("progress", {"row": secret("custom event")})
        with tracer.start_as_current_span("own") as own:
            own.record_exception(ValueError(secret("user span: recorded exception")))
            own.set_status(trace.Status(trace.StatusCode.ERROR, secret("user span: status")))
        with contextlib.suppress(LookupError), tracer.start_as_current_span("own failing"):
            raise LookupError(secret("user span: raised"))
        current = trace.get_current_span()
        current.record_exception(ValueError(secret("run: recorded exception")))
        current.set_status(trace.Status(trace.StatusCode.ERROR, secret("run: status")))
        return secret("tool result")

    def refuse(q: str) -> str:
        raise ToolException(secret("ToolException"))

    answers = [
        tool_calls(
            ("look", {"q": secret("tool argument")}), ("refuse", {"q": secret("argument of a failing tool")})
        ),
        secret("agent's answer"),
    ]
    agent = create_agent(
        keyed_model(secret, responses=answers),
        [
            StructuredTool.from_function(coroutine=look, name="look", description=secret("tool description")),
            StructuredTool.from_function(
                refuse, name="refuse", description="Refuse.", handle_tool_error=True
            ),
        ],
        system_prompt=secret("agent's system prompt"),
        name="helper",
    )
    await agent.ainvoke({"messages": [("user", secret("user message"))]}, {"callbacks": callbacks})


async def pause(secret: Secrets, callbacks: list[Any]) -> None:
    builder = StateGraph(State)
    builder.add_node("ask", lambda _: {"steps": [interrupt({"question": secret("interrupt")})]})
    builder.add_edge(START, "ask")
    flow = builder.compile(checkpointer=InMemorySaver(), name="flow")
    config = {"callbacks": callbacks, "configurable": {"thread_id": "T"}}
    flow.invoke({"steps": [secret("graph state")]}, config)  # in async code interrupt() needs Python 3.11
    flow.invoke(Command(resume=secret("resume value")), config)


async def fail(secret: Secrets, callbacks: list[Any]) -> None:
    class Rejected(Exception):
        def __init__(self, text: str) -> None:
            super().__init__(text)
            self.response = httpx.Response(401, text=secret("error: response"))
            self.body = {"error": secret("error: body")}
            self.add_note(secret("error: note")) if hasattr(self, "add_note") else None

    def raise_from(_: Any) -> None:
        local = secret("error: local variable")
        try:
            raise KeyError(secret("error: cause"))
        except KeyError as cause:
            raise Rejected(f"{secret('error: text')} {local}") from cause

    with pytest.raises(Rejected):
        await RunnableLambda(raise_from, name="raise_from").ainvoke(
            secret("failing input"), {"callbacks": callbacks}
        )
    for model in (
        FakeChat(fail=Rejected(secret("model error"))),
        FakeLLM(fail=Rejected(secret("completion error"))),
    ):
        with pytest.raises(Rejected):
            await model.ainvoke(secret("prompt of a failing model"), {"callbacks": callbacks})
        with pytest.raises(Rejected):
            await FakeRetriever(fail=Rejected(secret("retriever error"))).ainvoke(
                "q", {"callbacks": callbacks}
            )
    stream = FakeChat(
        fail=Rejected(secret("stream error")), fail_after_chunks=2, responses=[secret("part") + " a b"]
    )
    with pytest.raises(Rejected):
        async for _ in stream.astream("q", {"callbacks": callbacks}):
            pass


class Unreadable(FakeChat):
    """Its answers cannot be read, so that aiobs has something to warn about."""

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._generate(*args, **kwargs)
        result.generations[0].message.usage_metadata = Trap(self.responses[0])
        return result


class Trap(dict):  # type: ignore[type-arg]
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def get(self, *_: Any) -> Any:
        raise ValueError(self.text)

    def __bool__(self) -> bool:
        return True


class Unspeakable(str):
    """A name that raises when it is put into a text."""

    __slots__ = ()

    def __format__(self, _: str) -> str:
        raise ValueError(str(self))


async def confuse(secret: Secrets, callbacks: list[Any]) -> None:
    metadata = {
        "odd": Trap(secret("metadata that raises")),
        "thread_id": Trap(secret("thread id that raises")),
    }
    RunnableLambda(lambda x: x, name="take").invoke("q", {"callbacks": callbacks, "metadata": metadata})
    unspeakable = Unspeakable(secret("name that raises"))
    RunnableLambda(lambda x: x).invoke("q", {"callbacks": callbacks, "run_name": unspeakable})
    Unreadable(responses=[secret("text of an error inside aiobs")]).invoke("q", {"callbacks": callbacks})


class Captured:
    """Everything that left the process in one scenario: sent, stored, printed and logged."""

    def __init__(self, tmp_path: Any, monkeypatch: Any) -> None:
        self.folder = tmp_path / "store"
        self.printed = io.StringIO()
        self.log = logging.StreamHandler(self.printed)
        self.monkeypatch = monkeypatch
        self.receiver = OtlpReceiver()

    @contextlib.contextmanager
    def open(self, **settings: Any):
        with self.receiver as receiver:
            logging.getLogger("aiobs").addHandler(self.log)
            self.monkeypatch.setattr(sys, "stderr", self.printed)  # here: pytest sets its own before the test
            try:
                configure(
                    strict=True,
                    otlp_endpoint=receiver.http_endpoint,
                    store=str(self.folder),
                    console="tree",
                    dialects=("gen_ai", "openinference"),
                    semconv="both",
                    flush_interval_s=0.01,
                    **settings,
                )
                yield
                assert flush(10)
                self._read_open_store()
            finally:
                logging.getLogger("aiobs").removeHandler(self.log)
                shutdown(5)

    def _read_open_store(self) -> None:
        self.stored = {path.name: path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        with contextlib.closing(sqlite3.connect(self.folder / "aiobs.db")) as connection:
            blocks = connection.execute("SELECT z FROM body").fetchall()
        self.blocks = [zlib.decompress(data) for (data,) in blocks]

    @property
    def spans(self) -> list[str]:
        return [span["name"] for span in self.receiver.spans]

    def everything(self) -> dict[str, bytes]:
        headers = [
            f"{name}: {value}" for one in self.receiver.requests for name, value in one.headers.items()
        ]
        return {
            "sent": b"\n".join(self.receiver.raw),
            "sent headers": "\n".join(headers).encode(),
            "stored": b"\n".join([*self.stored.values(), *self.blocks]),
            "printed": self.printed.getvalue().encode(),
        }

    def leaks(self, secret: Secrets) -> set[tuple[str, str]]:
        return {
            (where, place) for where, data in self.everything().items() for place in secret.found_in(data)
        }


@pytest.fixture
def captured(tmp_path, monkeypatch):
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER", "AIOBS_STORE", "AIOBS_CONSOLE"):
        monkeypatch.delenv(name, raising=False)
    return Captured(tmp_path, monkeypatch)


SCENARIOS = [chat, retrieve, use_tools, pause, fail, confuse]


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_no_content_leaves_the_process(captured, scenario):
    secret = Secrets()
    with captured.open():
        await scenario(secret, [AiObsCallbackHandler()])
    assert captured.spans, "nothing was observed, so nothing was shown"
    assert {name for name in captured.stored if name.startswith("aiobs.db")} >= {"aiobs.db", "aiobs.db-wal"}
    assert len(captured.blocks) > 0
    assert all(captured.everything().values())
    assert captured.leaks(secret) == set()
    if scenario is confuse:
        assert b"could not read the outcome" in captured.everything()["printed"]


async def test_each_destination_would_show_a_leak(captured):
    """The same search finds a text that an application lets out on purpose, everywhere."""
    secret = Secrets()
    with captured.open(metadata_keys=("customer",)):
        await chat(secret, [AiObsCallbackHandler()])
        RunnableLambda(lambda x: x, name=secret("name of a run")).invoke(
            "q", {"callbacks": [AiObsCallbackHandler()]}
        )
    found = captured.leaks(secret)
    assert found >= {("sent", "metadata"), ("stored", "metadata")}
    assert found >= {(where, "name of a run") for where in ("sent", "stored", "printed")}


@pytest.mark.parametrize(
    ("scenario", "places"),
    [
        (chat, {"system prompt", "template variable", "answer", "bound: stop", "metadata"}),
        (retrieve, {"query", "document"}),
        (use_tools, {"tool argument", "tool result", "user message"}),
        (pause, {"graph state", "resume value"}),
        (fail, {"failing input"}),  # error texts are taken out of spans of other instrumentations, too
    ],
)
async def test_a_naive_handler_leaks_each_kind_of_content(captured, scenario, places):
    secret = Secrets()
    with captured.open():
        AiObsCallbackHandler()
        configure_provider()
        handler = NamedNaiveHandler(trace.get_tracer_provider())
        handler.run_inline = True
        await scenario(secret, [handler])
    assert {place for where, place in captured.leaks(secret) if where == "sent"} >= places


def configure_provider() -> None:
    """aiobs sets up the tracer provider with the first run."""
    RunnableLambda(lambda x: x, name="first").invoke("q", {"callbacks": [AiObsCallbackHandler()]})


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_no_content_is_sent_over_either_protocol(captured, protocol):
    secret = Secrets()
    with captured.open():
        endpoint = captured.receiver.grpc_endpoint if protocol == "grpc" else captured.receiver.http_endpoint
        configure(
            strict=True,
            otlp_endpoint=endpoint,
            otlp_protocol=protocol,
            store=str(captured.folder),
            console="off",
        )
        await fail(secret, [AiObsCallbackHandler()])
        await use_tools(secret, [AiObsCallbackHandler()])
        assert flush(10)
    assert captured.spans
    assert captured.leaks(secret) == set()


async def test_a_url_that_an_http_client_span_carries_is_the_applications_own(captured):
    """aiobs renders what other instrumentations recorded, and takes only exception texts out of it."""
    secret = Secrets()

    def ask(_: Any) -> int:
        with httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(204))) as client:
            HTTPXClientInstrumentor().instrument_client(client)
            return client.get(f"https://llm.example/{secret('path of a URL')}").status_code

    with captured.open():
        RunnableLambda(ask, name="ask").invoke("q", {"callbacks": [AiObsCallbackHandler()]})
    assert {place for _, place in captured.leaks(secret)} == {"path of a URL"}
