"""The application's call is unchanged and recorded, whatever else listens, and however the handler is made and lost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from llama_fakes import FakeLLM, Nap, PlainLLM, ask, index_of, look_tool
from llama_index.core import Settings
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.response.schema import StreamingResponse
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.chat_engine.types import StreamingAgentChatResponse
from llama_index.core.embeddings import MockEmbedding
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.tools import BaseTool, FunctionTool, ToolMetadata
from opentelemetry import trace

import aiobs_core
from aiobs_core import get_recorder, semconv
from aiobs_llama_index import AiObsCallbackHandler
from aiobs_testing import Telemetry
from aiobs_testing.conformance.subject import current_id as current_span_id


class BrokenSpans(BaseSpanHandler[Any]):
    def new_span(self, *_: Any, **__: Any) -> None:
        raise SystemExit

    span_enter = span_exit = span_drop = prepare_to_exit_span = prepare_to_drop_span = new_span


class BrokenEvents(BaseEventHandler):
    def handle(self, event: Any, **_: Any) -> None:
        raise KeyError


@pytest.fixture
def dispatcher() -> Iterator[Any]:
    root = get_dispatcher()
    before = list(root.span_handlers), list(root.event_handlers)
    yield root
    root.span_handlers, root.event_handlers = before


# --- who else is there --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [True, False])
def test_handlers_of_others_that_raise(telemetry: Telemetry, dispatcher: Any, first: bool) -> None:
    if not first:
        observing = AiObsCallbackHandler()
    dispatcher.add_span_handler(BrokenSpans())
    dispatcher.add_event_handler(BrokenEvents())
    if first:
        observing = AiObsCallbackHandler()
    answer = index_of().as_query_engine(llm=FakeLLM()).query("hello")
    observing.close()
    assert str(answer) == "hello big world"
    names = telemetry.tree().split("\n")
    assert "invoke_workflow RetrieverQueryEngine" in names


def test_openinference_beside_us(
    telemetry: Telemetry, handler: AiObsCallbackHandler, dispatcher: Any
) -> None:
    module = pytest.importorskip(
        "openinference.instrumentation.llama_index",
        reason="pip install openinference-instrumentation-llama-index",
    )
    engine = index_of().as_query_engine(llm=FakeLLM())
    alone = _tree_of_ours(telemetry, engine)
    module.LlamaIndexInstrumentor().instrument()
    try:
        beside = _tree_of_ours(telemetry, engine)
        another = AiObsCallbackHandler()
        another.close()
    finally:
        module.LlamaIndexInstrumentor().uninstrument()
    assert beside == alone
    assert sum("OpenInference" in warning for warning in telemetry.warnings) == 1
    telemetry.forgive_warnings()


def _tree_of_ours(telemetry: Telemetry, engine: Any) -> list[tuple[str, bool]]:
    before = len(telemetry.raw_of("aiobs.llama_index"))
    engine.query("hello")
    return [(span.name, span.parent is None) for span in telemetry.raw_of("aiobs.llama_index")[before:]]


def test_models_without_the_decorators(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    assert PlainLLM().chat(ask()).message.content == "hello"
    assert len(list(PlainLLM().stream_chat(ask()))) == 3
    telemetry.wait_until_closed()
    assert [span["attributes"][semconv.OUTCOME] for span in telemetry.spans()] == ["success", "success"]


# --- how the handler lives ----------------------------------------------------------------------------------------------


def test_a_handler_observes_until_it_is_collected(telemetry: Telemetry) -> None:
    Settings.callback_manager = CallbackManager([AiObsCallbackHandler()])
    FakeLLM().chat(ask())
    assert len(telemetry.spans()) == 1  # a run that has not been exported yet may hold what holds the handler
    Settings.callback_manager = None  # an empty manager would take over the handlers of the one before
    gc.collect()
    FakeLLM().chat(ask())
    assert len(telemetry.spans()) == 1


def test_a_handler_may_be_closed_often_and_others_go_on(telemetry: Telemetry) -> None:
    one, other = AiObsCallbackHandler(), AiObsCallbackHandler()
    one.close()
    one.close()
    FakeLLM().chat(ask())
    other.close()
    FakeLLM().chat(ask())
    assert len(telemetry.spans()) == 1


def test_what_runs_when_the_last_handler_closes_is_recorded_to_its_end(telemetry: Telemetry) -> None:
    observing = AiObsCallbackHandler()
    chunks = FakeLLM().stream_chat(ask())
    next(chunks)
    observing.close()
    list(chunks)
    FakeLLM().chat(ask())
    (span,) = telemetry.spans()
    assert span["attributes"][semconv.CHUNK_COUNT] == 3
    assert span["attributes"][semconv.OUTCOME] == "success"


def test_handlers_made_in_many_threads_while_others_work(telemetry: Telemetry) -> None:
    observing, engine = AiObsCallbackHandler(), index_of().as_query_engine(llm=FakeLLM())
    before = len(telemetry.raw())
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            AiObsCallbackHandler().close()
            time.sleep(0.0005)

    with ThreadPoolExecutor(4) as pool:
        comings = [pool.submit(come_and_go) for _ in range(3)]
        for _ in range(40):
            engine.query("hello")
        stop.set()
        for each in comings:
            each.result()
    observing.close()
    roots = [span for span in telemetry.raw()[before:] if span.parent is None]
    assert len(roots) == 40
    assert {span.name for span in roots} == {"invoke_workflow RetrieverQueryEngine"}


# --- context ------------------------------------------------------------------------------------------------------------


async def test_a_tool_is_current_in_its_body_and_not_after(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    inside: list[int] = []

    def note(what: str) -> str:
        inside.append(current_span_id())
        return what

    async def anote(what: str) -> str:
        inside.append(current_span_id())
        return what

    with trace.get_tracer("application").start_as_current_span("request") as request:
        tool = FunctionTool.from_defaults(note, async_fn=anote, name="note", description="Note.")
        tool.call(what="x")
        await tool.acall(what="x")
        assert current_span_id() == request.get_span_context().span_id
    ids = [
        span.context.span_id for span in telemetry.raw() if span.name == "execute_tool note" and span.context
    ]
    assert sorted(inside) == sorted(ids)


async def test_a_chat_engine_inside_a_request(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    with trace.get_tracer("application").start_as_current_span("request") as request:
        answer = SimpleChatEngine.from_defaults(llm=FakeLLM()).stream_chat("hello")
        assert current_span_id() == request.get_span_context().span_id
        assert "".join(answer.response_gen)
        assert current_span_id() == request.get_span_context().span_id
    assert len({span["trace"] for span in telemetry.spans()}) == 1


def test_two_event_loops(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    async def run_agent() -> None:
        agent = FunctionAgent(name="helper", tools=[look_tool()], llm=FakeLLM(), streaming=False)
        await agent.run("hello")

    for _ in range(2):
        asyncio.run(run_agent())
    assert telemetry.tree().count("invoke_agent helper") == 2


async def test_a_nested_event_loop(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    """As in a notebook: a synchronous call inside a running loop, which LlamaIndex takes to a thread."""
    with trace.get_tracer("application").start_as_current_span("cell"):
        index_of().as_query_engine(llm=FakeLLM(), use_async=True).query("hello")
    names = [span["name"] for span in telemetry.spans()]
    assert names[0] == "cell"
    assert len({span["trace"] for span in telemetry.spans()}) == 1


# --- ends ---------------------------------------------------------------------------------------------------------------


async def test_a_workflow_that_takes_too_long_and_one_that_is_cancelled(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    with pytest.raises(Exception, match=r"timed out|Timeout"):
        await Nap(timeout=0.05).run(rest_s=5)
    running = Nap(timeout=5).run(rest_s=5)
    await asyncio.sleep(0.05)
    await running.cancel_run()
    with pytest.raises(BaseException):  # noqa: B017 (what it is depends on LlamaIndex's version)
        await running
    await asyncio.sleep(0.05)
    telemetry.wait_until_closed()
    outcomes = [span["attributes"][semconv.OUTCOME] for span in telemetry.spans() if span["parent"] is None]
    assert outcomes == ["error", "cancelled"]


def test_a_stream_that_is_read_in_another_thread(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    answer: Any = index_of().as_query_engine(llm=FakeLLM(), streaming=True).query("hello")
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(answer.response_gen))
    reader.start()
    reader.join()
    assert "".join(said) == "hellobigworld"
    roots = [span for span in telemetry.raw() if span.parent is None]
    assert [span.name for span in roots][-1] == "invoke_workflow RetrieverQueryEngine"


def test_a_process_that_exits_with_open_streams(tmp_path: Path) -> None:
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        from llama_fakes import FakeLLM, ask, index_of
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter
        import aiobs_core
        from aiobs_llama_index import AiObsCallbackHandler
        aiobs_core.configure(exporters=[ConsoleSpanExporter()], console="off", store="off")
        handler = AiObsCallbackHandler()
        open_stream = FakeLLM().stream_chat(ask())
        next(open_stream)
        FakeLLM().chat(ask())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count('"name": "chat fake-1"') == 2


def test_nothing_of_the_content_leaves(telemetry: Telemetry, handler: AiObsCallbackHandler) -> None:
    canary = "canary-51c0"
    llm = FakeLLM(responses=[("look", {"what": canary}), canary], system_prompt=canary)

    async def run_agent() -> None:
        agent = FunctionAgent(
            name="helper", system_prompt=canary, tools=[look_tool()], llm=llm, streaming=False
        )
        await agent.run(user_msg=canary)

    asyncio.run(run_agent())
    index = index_of(canary, canary)
    index.as_query_engine(llm=FakeLLM(responses=[canary])).query(canary)
    "".join(index.as_query_engine(llm=FakeLLM(responses=[canary]), streaming=True).query(canary).response_gen)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=canary):
        FakeLLM(fail=ValueError(canary)).chat(ask(canary))
    assert len(telemetry.raw()) > 20
    assert get_recorder().open_runs == 0
    for span in telemetry.raw():
        assert canary not in span.to_json()


# --- what an adversary found --------------------------------------------------------------------------------------------


class HandsOn(FakeLLM):
    """As `OpenAILike` is: without decorators of its own, it hands on what its parent's decorated methods return."""

    def stream_chat(self, messages: Any, **kwargs: Any) -> Any:
        return super().stream_chat(messages, **kwargs)

    async def astream_chat(self, messages: Any, **kwargs: Any) -> Any:
        return await super().astream_chat(messages, **kwargs)


async def test_a_stream_that_a_subclass_hands_on_is_one_run(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    list(HandsOn().stream_chat(ask()))
    [_ async for _ in await HandsOn().astream_chat(ask())]
    with pytest.raises(LookupError):
        list(HandsOn(fail=LookupError(), fail_after_chunks=1).stream_chat(ask()))
    sync, asynchronous, failed = [span["attributes"] for span in telemetry.spans()]
    for found in (sync, asynchronous):
        assert (found[semconv.OUTCOME], found[semconv.CHUNK_COUNT]) == ("success", 3)
        assert found[semconv.USAGE_INPUT_TOKENS] == 11
    assert (failed[semconv.OUTCOME], failed["error.type"]) == ("error", "LookupError")


class Odd(CustomQueryEngine):
    """Answers with what the test gives it, whatever the type says."""

    given: Any = None

    def custom_query(self, query_str: str) -> Any:
        return StreamingResponse(response_gen=self.given)


class Items:
    """As an SDK's stream is: an iterator that has to be closed."""

    closed = False

    def __init__(self) -> None:
        self.left = iter(["a", "b"])

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> str:
        return next(self.left)

    def close(self) -> None:
        self.closed = True


def test_an_answer_that_is_no_stream_stays_as_it_is(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    texts = ["a", "b"]
    answer: Any = Odd(given=texts).query("hello")
    assert answer.response_gen is texts
    assert Odd(given=None).query("hello").response_gen is None  # type: ignore[union-attr]
    assert [span["attributes"][semconv.OUTCOME] for span in telemetry.spans()] == ["success", "success"]
    assert current_span_id() == 0


def test_a_stream_that_has_to_be_closed_is_closed(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    items = Items()
    answer: Any = Odd(given=items).query("hello")
    assert next(answer.response_gen) == "a"
    answer.response_gen.close()
    assert items.closed
    assert telemetry.spans()[0]["attributes"][semconv.OUTCOME] == "abandoned"


def test_a_result_that_cannot_be_read_ends_its_run(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    class Hostile:
        @property
        def is_error(self) -> bool:
            raise ValueError("canary-51c0")

    class HostileTool(BaseTool):
        @property
        def metadata(self) -> ToolMetadata:
            return ToolMetadata(description="Hostile.", name="hostile")

        def __call__(self, value: Any) -> Any:
            return Hostile()

    assert isinstance(HostileTool()("x"), Hostile)
    FakeLLM().chat(ask())
    assert telemetry.tree() == "execute_tool hostile\nchat fake-1"
    assert telemetry.spans()[0]["attributes"][semconv.TELEMETRY_ERROR] == "ValueError"
    assert "canary-51c0" not in telemetry.raw()[0].to_json()
    telemetry.forgive_warnings()


def test_a_writer_ends_only_the_run_of_its_chat_engine(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    """An application may fill an answer itself, inside a run of its own."""
    with aiobs_core.span("mine", kind="tool"):
        chunks = FakeLLM(fail=LookupError(), fail_after_chunks=1).stream_chat(ask())
        with contextlib.suppress(LookupError):
            StreamingAgentChatResponse(chat_stream=chunks).write_response_to_history(
                ChatMemoryBuffer.from_defaults()
            )
        time.sleep(0.02)
    mine = next(span for span in telemetry.raw() if span.name == "execute_tool mine")
    assert (mine.end_time or 0) - (mine.start_time or 0) > 15e6
    assert (mine.attributes or {})[semconv.OUTCOME] == "success"


def test_a_chat_engine_whose_writer_is_done_before_or_after_the_call_returns(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    for read_late in (False, True) * 40:
        answer = SimpleChatEngine.from_defaults(llm=FakeLLM()).stream_chat("hello")
        if read_late:
            time.sleep(0.002)
        assert "".join(answer.response_gen) == "hellobigworld"
        del answer
    telemetry.wait_until_closed()
    engines = [span for span in telemetry.spans() if span["parent"] is None]
    assert len(engines) == 80
    assert {span["attributes"][semconv.OUTCOME] for span in engines} == {"success"}


def test_what_is_changed_after_a_call_is_as_it_was(
    telemetry: Telemetry, handler: AiObsCallbackHandler
) -> None:
    llm = FakeLLM()
    llm.chat(ask())
    llm.model, llm.temperature = "other", 0.9
    texts = ["a", "b", "c"]
    MockEmbedding(embed_dim=8).get_text_embedding_batch(texts)
    texts.clear()
    chat, embedding = [span["attributes"] for span in telemetry.spans()]
    assert (chat[semconv.GEN_AI_REQUEST_MODEL], chat[semconv.GEN_AI_REQUEST_TEMPERATURE]) == ("fake-1", 0.3)
    assert embedding[semconv.EMBEDDING_TEXT_COUNT] == 3
