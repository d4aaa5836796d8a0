"""Pauses, retries, fallbacks and handled errors are told apart from failures; no payload can hurt the application."""

from __future__ import annotations

import asyncio
import sys
import time
from operator import add as concatenate
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import StructuredTool, ToolException, tool
from langchain_fakes import IDENTITY, FakeChat, add, tool_calls
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import GraphRecursionError
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from naive import fails_with_naive
from scenarios import CORE, every, is_child, is_error, kind, names, one, outcome, parent_of, roots, traces
from typing_extensions import TypedDict


class State(TypedDict):
    steps: Annotated[list[str], concatenate]


THREAD = {"thread_id": "T"}


def asking_flow() -> Any:
    builder = StateGraph(State)
    builder.add_node("ask", lambda _: {"steps": [interrupt("sure?")]})
    builder.add_edge(START, "ask")
    return builder.compile(checkpointer=InMemorySaver(), name="flow")


# --- pause and resume ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "is_async",
    [
        False,
        pytest.param(
            True,
            marks=pytest.mark.skipif(
                sys.version_info < (3, 11), reason="in async code LangGraph's interrupt() needs Python 3.11"
            ),
        ),
    ],
)
@fails_with_naive
async def test_a_pause_is_no_error_and_the_resumed_run_links_to_it(subject, is_async):
    flow = asking_flow()

    async def call(given):
        config = subject.config(configurable=THREAD)
        return await flow.ainvoke(given, config) if is_async else flow.invoke(given, config)

    paused = await call({"steps": []})
    await asyncio.sleep(0.1)
    result = await call(Command(resume="yes"))
    assert result == {"steps": ["yes"]}
    spans = subject.all_ended()
    assert not any(is_error(span) for span in spans)
    first, second = every(spans, "flow")
    first_ask, second_ask = every(spans, "ask")
    assert [outcome(span) for span in (first, first_ask)] == ["interrupted", "interrupted"]
    assert [outcome(span) for span in (second, second_ask)] == ["success", "success"]
    assert first_ask.attributes["ai.agent.interrupt.id"] == paused["__interrupt__"][0].id
    assert "ai.agent.interrupt" in [event.name for event in first_ask.events]
    assert first.context.trace_id != second.context.trace_id
    (link,) = second.links
    assert link.context.span_id == first.context.span_id
    assert link.attributes == {"ai.agent.link.reason": "resume"}
    waited_s = second.attributes["ai.agent.resume.wait_s"]
    assert 0.1 <= waited_s < 5
    assert (second.end_time - second.start_time) / 1e9 < waited_s
    assert {span.attributes["gen_ai.conversation.id"] for span in (first, second)} == {"T"}


@fails_with_naive
def test_a_pause_inside_a_tool_of_an_agent_is_no_error(subject):
    @tool
    def approve(amount: int) -> str:
        """Ask a person."""
        return str(interrupt({"amount": amount}))

    model = FakeChat(responses=[tool_calls(("approve", {"amount": 5})), "done"])
    agent = create_agent(model, [approve], checkpointer=InMemorySaver(), name="buyer")
    paused = agent.invoke({"messages": [("user", "buy")]}, subject.config(configurable=THREAD))
    agent.invoke(Command(resume="yes"), subject.config(configurable=THREAD))
    spans = subject.all_ended()
    assert not any(is_error(span) for span in spans)
    first, second = every(spans, "approve")
    assert [outcome(first), outcome(second)] == ["interrupted", "success"]
    assert first.attributes["ai.agent.interrupt.id"] == paused["__interrupt__"][0].id
    assert [outcome(span) for span in every(spans, "buyer")] == ["interrupted", "success"]
    assert len(every(spans, "buyer")[1].links) == 1


def test_a_resume_in_another_thread_of_conversation_does_not_link(subject):
    flow = asking_flow()
    flow.invoke({"steps": []}, subject.config(configurable={"thread_id": "A"}))
    flow.invoke({"steps": []}, subject.config(configurable={"thread_id": "B"}))
    flow.invoke(Command(resume="yes"), subject.config(configurable={"thread_id": "B"}))
    spans = every(subject.all_ended(), "flow")
    (link,) = spans[2].links
    assert link.context.span_id == spans[1].context.span_id


def test_a_recursion_limit_is_an_error(subject):
    builder = StateGraph(State)
    builder.add_node("loop", lambda _: {"steps": ["x"]})
    builder.add_edge(START, "loop")
    builder.add_edge("loop", "loop")
    flow = builder.compile(name="flow")
    error = subject.same(
        lambda callbacks: flow.invoke({"steps": []}, {"callbacks": callbacks, "recursion_limit": 3})
    )
    assert type(error) is GraphRecursionError
    root = one(subject.all_ended(), "flow")
    assert is_error(root)
    assert root.attributes["error.type"] == "langgraph.errors.GraphRecursionError"


# --- retries and fallbacks ------------------------------------------------------------------------------------------


class Flaky(FakeChat):
    failures: int = 2

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("try again")
        return super()._generate(*args, **kwargs)


@pytest.mark.parametrize("is_async", [True, False])
@fails_with_naive
async def test_attempts_are_numbered_under_one_operation_that_is_fine(subject, is_async):
    class AsyncFlaky(Flaky):
        async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
            return self._generate(*args, **kwargs)

    def chain():
        return IDENTITY | AsyncFlaky().with_retry(stop_after_attempt=3, wait_exponential_jitter=False)

    if is_async:
        await subject.same_async(lambda callbacks: chain().ainvoke("q", {"callbacks": callbacks}))
    else:
        subject.same(lambda callbacks: chain().invoke("q", {"callbacks": callbacks}))
    spans = subject.all_ended()
    attempts = kind(spans, "model")
    # LangChain marks attempts from the second on: that the first is one of several is known only after its end.
    assert [span.attributes.get("ai.agent.retry.attempt") for span in attempts] == [None, 2, 3]
    assert [is_error(span) for span in attempts] == [True, True, False]
    operation = {parent_of(spans, span).context.span_id for span in attempts}
    assert len(operation) == 1
    assert not any(
        is_error(span) for span in spans if span.context.span_id in operation or span.parent is None
    )
    assert [span.attributes.get("gen_ai.usage.output_tokens") for span in attempts] == [None, None, 7]


@fails_with_naive
async def test_the_failed_and_the_used_model_of_a_fallback_are_both_visible(subject):
    def chain():
        return IDENTITY | FakeChat(model="first", fail=ConnectionError("down")).with_fallbacks(
            [FakeChat(model="second")]
        )

    await subject.same_async(lambda callbacks: chain().ainvoke("q", {"callbacks": callbacks}))
    spans = subject.all_ended()
    assert len(kind(spans, "model")) == 2
    first, second = kind(spans, "model")
    assert [call.attributes["gen_ai.request.model"] for call in (first, second)] == ["first", "second"]
    assert [is_error(call) for call in (first, second)] == [True, False]
    assert first.attributes["error.type"] == "ConnectionError"
    assert parent_of(spans, first) is parent_of(spans, second) is one(spans, "RunnableWithFallbacks")
    assert not is_error(roots(spans)[0])


async def test_fallbacks_that_stream_keep_their_children(subject):
    chain = IDENTITY | FakeChat(model="first", fail=ConnectionError("down")).with_fallbacks(
        [FakeChat(model="second")]
    )
    assert "".join([chunk.content async for chunk in chain.astream("q", subject.config())]) == "helloworldfoo"
    spans = subject.all_ended()
    assert {parent_of(spans, call).name for call in kind(spans, "model")} == {"RunnableWithFallbacks"}


# --- errors of tools ------------------------------------------------------------------------------------------------


def agent_with(failing: Any) -> Any:
    model = FakeChat(responses=[tool_calls(("look", {"q": "q"})), "done"])
    return create_agent(model, [failing], name="helper")


@fails_with_naive
def test_an_error_that_the_agent_handles_is_the_tools_and_not_the_agents(subject):
    def look(q: str) -> str:
        """Look."""
        raise ToolException("not found")

    failing = StructuredTool.from_function(look, handle_tool_error=True)
    result = subject.same(
        lambda callbacks: agent_with(failing).invoke({"messages": [("user", "q")]}, {"callbacks": callbacks})
    )
    assert result["messages"][-1].content == "done"
    spans = subject.all_ended()
    call = one(spans, "look")
    assert is_error(call)
    assert call.attributes["error.type"] == "tool_error"
    assert [span.name for span in spans if is_error(span)] == ["execute_tool look"]
    assert not is_error(one(spans, "helper"))


def test_an_error_that_nobody_handles_is_everybodys(subject):
    def look(q: str) -> str:
        """Look."""
        raise ToolException("not found")

    error = subject.same(
        lambda callbacks: StructuredTool.from_function(look).invoke({"q": "q"}, {"callbacks": callbacks})
    )
    assert type(error) is ToolException
    call = one(subject.all_ended(), "look")
    assert call.attributes["error.type"] == "langchain_core.tools.base.ToolException"
    assert call.status.description is None


def test_the_http_status_of_an_error_is_kept(subject):
    class RateLimited(Exception):
        status_code = 429

    with pytest.raises(RateLimited):
        FakeChat(fail=RateLimited("slow down")).invoke("q", subject.config())
    (call,) = subject.all_ended()
    assert call.attributes["ai.agent.status_code"] == 429


# --- hostile payloads -----------------------------------------------------------------------------------------------


class Grenade:
    """Raises from whatever telemetry might ask of it."""

    def __init__(self, error: BaseException) -> None:
        object.__setattr__(self, "error", error)

    def __getattribute__(self, name: str) -> Any:
        if name in {"__class__", "__dict__"}:
            return object.__getattribute__(self, name)
        raise object.__getattribute__(self, "error")

    def _throw(self, *_: Any) -> Any:
        raise object.__getattribute__(self, "error")

    __repr__ = __str__ = __len__ = __iter__ = __bool__ = __eq__ = __hash__ = _throw


class Stop(BaseException):
    pass


def cyclic() -> dict[str, Any]:
    loop: dict[str, Any] = {}
    loop["self"] = [loop]
    return loop


def deep(levels: int) -> Any:
    value: Any = "bottom"
    for _ in range(levels):
        value = {"next": [value]}
    return value


PAYLOADS = {
    "raises an Exception": lambda: Grenade(ValueError("boom")),
    "raises a BaseException": lambda: Grenade(Stop()),
    "cyclic": cyclic,
    "200 levels deep": lambda: deep(200),
    "NaN": lambda: {"score": float("nan"), "high": float("inf")},
    "lone surrogates": lambda: "a\ud800b",
    "None": lambda: None,
    "bytes": lambda: b"\xff\xfe",
    "a class": lambda: Command,
}


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
async def test_any_input_and_output_of_a_chain_is_survived(subject, payload):
    value = payload()
    passed = RunnableLambda(lambda _: value, name="give") | RunnableLambda(
        lambda given: given is value, name="take"
    )
    assert passed.invoke(value, subject.config())
    assert await passed.ainvoke(value, subject.config())
    assert names(every(subject.all_ended(), "take")) == ["take", "take"]


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_any_metadata_is_survived(subject, payload):
    value = payload()
    subject.reconfigure(metadata_keys=("odd",))
    chain = RunnableLambda(lambda given: given, name="take")
    assert chain.invoke("q", subject.config(metadata={"odd": value, "thread_id": value})) == "q"
    (span,) = subject.all_ended()
    assert span.name == "invoke_workflow take"
    subject.expected = ("could not be read", "could not read", "could not be rendered")


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_any_result_and_argument_of_a_tool_is_survived(subject, payload):
    value = payload()

    def look(q: Any) -> Any:
        """Look."""
        return value

    assert StructuredTool.from_function(look).invoke({"q": "q"}, subject.config()) is value
    assert names(subject.all_ended()) == ["execute_tool look"]


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS)
def test_any_error_is_survived(subject, payload):
    value = payload()

    class Odd(Exception):
        status_code = value
        response = value

    error = Odd(value)

    def fail(_):
        raise error

    caught = None
    try:
        RunnableLambda(fail, name="fail").invoke("q", subject.config())
    except BaseException as raised:
        caught = raised
    same = caught is error
    assert same
    (span,) = subject.all_ended()
    assert is_error(span)
    assert span.attributes["error.type"].endswith("Odd")
    subject.expected = ("recording a run failed in fail",)


@pytest.mark.parametrize("raised", [ValueError("boom"), Stop()], ids=["Exception", "BaseException"])
def test_a_model_whose_response_cannot_be_read_has_a_span_that_says_so(subject, raised):
    class Odd(FakeChat):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            result = super()._generate(*args, **kwargs)
            result.generations[0].message.response_metadata = {
                "model_name": "m",
                "finish_reason": Grenade(raised),
            }
            result.generations[0].message.additional_kwargs["odd"] = Grenade(raised)
            return result

    Odd().invoke("q", subject.config())
    (call,) = subject.all_ended()
    assert call.name == "chat fake-1"
    subject.expected = ("could not read the outcome",)


def test_a_generator_is_not_advanced(subject):
    advanced = []

    def items():
        advanced.append(1)
        yield "x"

    source = items()
    passed = RunnableLambda(lambda given: {"rows": given}, name="rows").invoke(source, subject.config())
    assert advanced == []
    assert next(passed["rows"]) == "x"


def test_a_prompt_of_50_mb_costs_no_copy(subject):
    text = "x" * 50_000_000
    (IDENTITY | FakeChat()).invoke([HumanMessage(text)], subject.config())
    spans = subject.all_ended()
    (call,) = kind(spans, "model")
    assert call.attributes["ai.agent.input.size_chars"] == 50_000_000
    assert all(
        len(value) < 10_000 for span in spans for value in span.attributes.values() if isinstance(value, str)
    )
    # The context still holds the ended span, and that must not hold the prompt.
    del spans, call
    before = sys.getrefcount(text)
    assert before <= 4


@pytest.mark.parametrize(
    "event",
    ["on_chain_start", "on_chat_model_start", "on_llm_start", "on_tool_start", "on_retriever_start"],
)
def test_none_in_place_of_dictionaries_is_survived(subject, event):
    from uuid import uuid4

    subject.counts_runs = False
    run_id = uuid4()
    getattr(subject.handler, event)(None, None, run_id=run_id, tags=None, metadata=None)
    end = {
        "on_chain_start": "on_chain_end",
        "on_chat_model_start": "on_llm_end",
        "on_llm_start": "on_llm_end",
        "on_tool_start": "on_tool_end",
        "on_retriever_start": "on_retriever_end",
    }[event]
    getattr(subject.handler, end)(None, run_id=run_id)
    (span,) = subject.all_ended()
    assert "ai.agent.telemetry.error" not in span.attributes


def test_telemetry_takes_no_time_from_a_slow_exporter(subject):
    """An exporter that hangs delays nobody; what it misses is counted elsewhere."""

    class Slow(type(subject.exporter)):
        def export(self, spans):
            time.sleep(0.3)
            return super().export(spans)

    from aiobs_core import configure

    subject.exporter = Slow()
    configure(exporters=[subject.exporter], console="off", store="off", grace_s=0.2, flush_interval_s=0.01)
    FakeChat().invoke("q", subject.config())
    began = time.perf_counter()
    for _ in range(20):
        FakeChat().invoke("q", subject.config())
    assert time.perf_counter() - began < 0.25


@tool
def transfer_to_writer() -> Command:
    """Hand off."""
    return Command(graph=Command.PARENT, goto="writer", update={"steps": ["handed off"]})


@fails_with_naive
def test_a_hand_off_from_a_tool_is_no_error(subject):
    inner = StateGraph(State)
    inner.add_node("decide", lambda _: transfer_to_writer.invoke({}))
    inner.add_edge(START, "decide")
    outer = StateGraph(State)
    outer.add_node("planner", inner.compile(name="planner_graph"))
    outer.add_node("writer", lambda _: {"steps": ["written"]})
    outer.add_edge(START, "planner")
    outer.add_edge("writer", END)
    result = outer.compile(name="team").invoke({"steps": []}, subject.config())
    assert result == {"steps": ["handed off", "written"]}
    spans = subject.all_ended()
    assert not any(is_error(span) for span in spans)
    assert len(traces(spans)) == 1
    assert is_child(one(spans, "writer"), one(spans, "team"))


def test_versions_are_those_that_the_suite_was_written_for():
    assert (1, 0) <= CORE < (2, 0)


def test_add_keeps_its_result(subject):
    assert subject.same(lambda callbacks: add.invoke({"a": 1, "b": 2}, {"callbacks": callbacks})) == 3
