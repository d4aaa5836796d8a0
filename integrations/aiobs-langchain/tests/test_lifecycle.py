"""Every run that starts ends once: cancelled, broken off, killed, forgotten or one of many at a time."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import sys
import threading
import time
from dataclasses import replace
from operator import add as concatenate
from typing import Annotated, Any
from uuid import uuid4

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableConfig, RunnableLambda, RunnableParallel
from langchain_core.tools import StructuredTool
from langchain_fakes import FakeChat, FakeRetriever, SlowChat, aadd, add
from langgraph.graph import END, START, StateGraph
from langgraph.types import Send
from naive import fails_with_naive
from scenarios import (
    CORE,
    AiobsSubject,
    every,
    is_child,
    is_error,
    kind,
    names,
    one,
    outcome,
    parent_of,
    path,
    roots,
    traces,
    until,
)
from typing_extensions import TypedDict


def outcomes(spans: Any) -> set[Any]:
    return {outcome(span) for span in spans}


def chain_of(model: FakeChat) -> Any:
    return ChatPromptTemplate.from_messages([("user", "{q}")]) | model


# --- cancellation -----------------------------------------------------------------------------------------------------


@fails_with_naive
async def test_500_cancelled_requests_end_as_cancelled(subject):
    chain = chain_of(SlowChat())
    tasks = [asyncio.create_task(chain.ainvoke({"q": "q"}, subject.config())) for _ in range(500)]
    while subject.witness.count("model") < 500:  # noqa: ASYNC110 (callbacks set no events)
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert {type(result) for result in results} == {asyncio.CancelledError}
    del results, task, tasks
    spans = subject.all_ended()
    calls, tops = kind(spans, "model"), kind(spans, "workflow")
    assert (len(tops), len(calls)) == (500, 500)
    assert len(traces(spans)) == 500
    assert outcomes(calls) == outcomes(tops) == {"cancelled"}
    assert not any(is_error(span) for span in spans)


async def _cancel(work, begun):
    task = asyncio.ensure_future(work)
    await begun.wait()
    task.cancel()
    await task


async def _wait_for(work, begun):
    task = asyncio.ensure_future(work)
    await begun.wait()
    await asyncio.wait_for(task, 0.001)


async def _timeout(work, begun):
    async with asyncio.timeout(None) as limit:
        asyncio.create_task(begun.wait()).add_done_callback(
            lambda _: limit.reschedule(asyncio.get_running_loop().time())
        )
        await work


class Beginning(SlowChat):
    begun: Any = None

    async def _agenerate(self, *args: Any, **kwargs: Any) -> Any:
        self.begun.set()
        return await super()._agenerate(*args, **kwargs)


def _model(subject, begun):
    return Beginning(begun=begun).ainvoke("q", subject.config())


def _chain(subject, begun):
    return chain_of(Beginning(begun=begun)).ainvoke({"q": "q"}, subject.config())


from_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is new in Python 3.11")


@pytest.mark.parametrize("what", [_model, _chain], ids=["model", "chain"])
@pytest.mark.parametrize(
    "stop",
    [_cancel, _wait_for, pytest.param(_timeout, marks=from_311)],
    ids=["cancel", "wait_for", "timeout"],
)
@fails_with_naive
async def test_200_calls_stopped_from_outside_end_once_and_leave_nothing_behind(subject, what, stop):
    """The task lives on in half of the ways to stop a call: what it does next must not hang under the dead run."""

    async def request(tracer) -> None:
        begun = asyncio.Event()
        with tracer.start_as_current_span("request"):
            try:
                await stop(what(subject, begun), begun)
            except (asyncio.CancelledError, asyncio.TimeoutError):
                pass
            await FakeChat(model="fake-2").ainvoke("q", subject.config())

    for _ in range(10):
        await asyncio.gather(*(request(subject.tracer()) for _ in range(20)))
    spans = subject.all_ended()
    dead, alive = every(spans, "fake-1"), every(spans, "fake-2")
    assert (len(dead), len(alive)) == (200, 200)
    assert outcomes(dead) == {"cancelled"}
    assert outcomes(alive) == {"success"}
    assert not any(is_error(span) for span in spans)
    assert len(traces(spans)) == 200
    by_id = {span.context.span_id: span for span in spans}
    assert {by_id[span.parent.span_id].name for span in alive} == {"request"}


async def test_a_cancelled_retriever_ends_as_cancelled(subject):
    with contextlib.suppress(
        asyncio.TimeoutError
    ):  # pytest.raises() would keep the frames, and so the run, alive
        await asyncio.wait_for(FakeRetriever(delay_s=30).ainvoke("q", subject.config()), 0.01)
    await asyncio.sleep(0)  # from Python 3.12 the loop holds the last frames for one more step
    assert [outcome(span) for span in subject.all_ended()] == ["cancelled"]


async def test_a_cancelled_tool_ends_as_cancelled(subject):
    async def slow(text: str) -> str:
        await asyncio.sleep(30)
        return text

    tool = StructuredTool.from_function(coroutine=slow, name="slow", description="Slow.")
    with contextlib.suppress(
        asyncio.TimeoutError
    ):  # pytest.raises() would keep the frames, and so the run, alive
        await asyncio.wait_for(tool.ainvoke({"text": "q"}, subject.config()), 0.01)
    await asyncio.sleep(0)
    assert [outcome(span) for span in subject.all_ended()] == ["cancelled"]


async def test_a_run_id_that_the_application_keeps_does_not_keep_the_run_of_a_cancelled_task(subject):
    run_id = uuid4()
    with contextlib.suppress(
        asyncio.TimeoutError
    ):  # pytest.raises() would keep the frames, and so the run, alive
        await asyncio.wait_for(chain_of(SlowChat()).ainvoke({"q": "q"}, subject.config(run_id=run_id)), 0.01)
    assert outcomes(subject.all_ended()) <= {"cancelled", "success"}
    assert run_id is not None


# --- broken-off streams -----------------------------------------------------------------------------------------------


@fails_with_naive
async def test_a_stream_left_after_one_token_ends_once_as_abandoned(subject):
    async def consume():
        async for _ in chain_of(FakeChat()).astream({"q": "q"}, subject.config()):
            break  # and no aclose(): the event loop closes it when it is collected

    await consume()
    gc.collect()
    await asyncio.sleep(0.05)
    spans = subject.all_ended()
    assert [outcome(call) for call in kind(spans, "model")] == ["abandoned"]
    (call,) = kind(spans, "model")
    assert subject.get(call, "ai.agent.chunk.count") >= 1
    assert call.attributes["ai.agent.output.size_chars"] == len("hello")
    assert not any(is_error(span) for span in spans)
    assert len({span.context.span_id for span in spans}) == len(spans) == len(subject.witness.started)


@pytest.mark.parametrize("form", ["model", "chain"])
@fails_with_naive
async def test_200_async_streams_broken_off_end_once_and_without_error(subject, form):
    async def consume(limit: int) -> None:
        source = FakeChat() if form == "model" else chain_of(FakeChat())
        seen = 0
        async for _ in source.astream("q" if form == "model" else {"q": "q"}, subject.config()):
            seen += 1
            if seen > limit:
                break

    await asyncio.gather(*(consume(index % 3) for index in range(200)))
    gc.collect()
    await asyncio.sleep(0.05)
    spans = subject.all_ended()
    assert len(every(spans, "fake-1")) == 200
    assert outcomes(every(spans, "fake-1")) <= {"abandoned", "cancelled"}
    assert not any(is_error(span) for span in spans)
    assert len({span.context.span_id for span in spans}) == len(spans) == len(subject.witness.started)
    assert len(traces(spans)) == 200


@pytest.mark.parametrize("form", ["model", "chain"])
@fails_with_naive
def test_200_sync_streams_broken_off_end_once_and_without_error(subject, form):
    def consume(limit: int) -> None:
        source = FakeChat() if form == "model" else chain_of(FakeChat())
        for seen, _ in enumerate(source.stream("q" if form == "model" else {"q": "q"}, subject.config())):
            if seen >= limit:
                break

    for index in range(200):
        consume(index % 3)
    spans = subject.all_ended()
    assert len(every(spans, "fake-1")) == 200
    assert outcomes(every(spans, "fake-1")) == {"abandoned"}
    assert not any(is_error(span) for span in spans)
    assert len({span.context.span_id for span in spans}) == len(spans) == len(subject.witness.started)
    assert len(traces(spans)) == 200


def test_a_stream_kept_and_never_finished_is_closed_at_shutdown(subject):
    stream = FakeChat().stream("q", subject.config())
    next(stream)
    assert subject.open_runs() == 1
    subject.recorder.shutdown()
    assert [outcome(span) for span in subject.exporter.get_finished_spans()] == ["abandoned"]
    stream.close()
    assert len(subject.exporter.get_finished_spans()) == 1


# --- ends that never come -----------------------------------------------------------------------------------------


def test_a_run_whose_end_never_comes_is_timed_out(subject):
    """As after a killed thread: no end event, and the framework's objects are still alive."""
    subject.reconfigure(run_ttl_s=1.0)
    run_id = uuid4()
    subject.counts_runs = False
    subject.handler.on_chat_model_start(None, [[HumanMessage("q")]], run_id=run_id)
    assert subject.open_runs() == 1
    until(lambda: subject.open_runs() == 0, 4.0)
    assert [outcome(span) for span in subject.spans()] == ["timed_out"]
    subject.handler.on_llm_error(ValueError(), run_id=run_id)  # too late: it has ended
    assert len(subject.spans()) == 1


def test_beyond_the_cap_the_oldest_run_is_closed_and_counted(subject):
    subject.reconfigure(max_open_runs=10)
    subject.counts_runs = False
    subject.expected = ("AIOBS_MAX_OPEN_RUNS",)
    before = subject.recorder.health.counts().get("runs.evicted", 0)
    held = [uuid4() for _ in range(30)]
    threads = [
        threading.Thread(
            target=subject.handler.on_chat_model_start, args=(None, [[]]), kwargs={"run_id": run_id}
        )
        for run_id in held
    ]
    for thread in threads:
        thread.start()
        thread.join()
    assert subject.open_runs() == 10
    assert subject.recorder.health.counts()["runs.evicted"] - before == 20
    evicted = subject.spans()
    assert len(evicted) == 20
    assert outcomes(evicted) == {"abandoned"}
    for run_id in held:
        subject.handler.on_llm_error(ValueError("late"), run_id=run_id)
    assert len(subject.spans()) == 30


def test_a_handler_switched_off_while_runs_are_open_still_ends_them(subject):
    stream = chain_of(FakeChat()).stream({"q": "q"}, subject.config())
    next(stream)
    settings = subject.recorder.settings
    subject.recorder.apply(replace(settings, enabled=False))
    list(stream)
    FakeChat(model="fake-2").invoke("q", {"callbacks": [subject.handler]})
    subject.recorder.apply(settings)
    FakeChat(model="fake-3").invoke("q", subject.config())
    assert names(kind(subject.all_ended(), "model")) == ["chat fake-1", "chat fake-3"]


def test_without_traces_every_call_is_counted(subject):
    subject.counts_runs = False
    subject.recorder.apply({"traces": False})
    before = requests_counted(subject)
    for _ in range(5):
        chain_of(FakeChat()).invoke({"q": "q"}, subject.config())
    assert subject.all_ended() == []
    assert requests_counted(subject) == before + 5
    subject.recorder.apply({"traces": True})
    chain_of(FakeChat()).invoke({"q": "q"}, subject.config())
    assert len(kind(subject.all_ended(), "model")) == 1


def requests_counted(subject):
    return sum(
        point.value
        for family in subject.recorder.metrics.snapshot()
        if family.metric.name == "ai.agent.requests"
        for point in family.points
        if {"operation": "chat", "framework": "langchain"}.items() <= dict(point.attributes).items()
    )


def spans_lost(subject):
    return subject.recorder.health.counts().get("spans.dropped", 0)


@pytest.mark.parametrize("duration_s", [2.0, pytest.param(60.0, marks=pytest.mark.soak)])
def test_switches_that_are_flipped_under_streams_and_threads_break_nothing(subject, duration_s):
    """Answers as ever, no run stays open, no span without its parent, and as many counted as without."""
    subject.counts_runs = False  # those that were begun while traces were off are not exported
    stop, failed, answers = threading.Event(), [], []

    def work():
        count = 0
        try:
            while not stop.is_set():
                chain = chain_of(FakeChat())
                assert chain.invoke({"q": "q"}, subject.config()).content == "hello world foo"
                parts = chain.stream({"q": "q"}, subject.config())
                assert [part.content for part in parts if part.content] == ["hello", "world", "foo"]
                count += 2
                time.sleep(0.002)  # models that take no time at all fill any queue on a busy machine
        except BaseException as error:
            failed.append(error)
        answers.append(count)

    threads = [threading.Thread(target=work) for _ in range(4)]
    before, counted = threading.active_count(), requests_counted(subject)
    lost = spans_lost(subject)  # in this process, by tests before
    for thread in threads:
        thread.start()
    chance, ends_s = random.Random(3), time.monotonic() + duration_s
    while time.monotonic() < ends_s:
        name = chance.choice(["enabled", "traces", "metrics", "logs"])
        subject.recorder.apply({name: not getattr(subject.recorder.settings, name)})
        time.sleep(0.003)
    stop.set()
    for thread in threads:
        thread.join(60)
    subject.recorder.apply(dict.fromkeys(["enabled", "traces", "metrics", "logs"], True))
    assert failed == []
    spans = subject.all_ended()
    ids = [span.context.span_id for span in spans]
    assert len(ids) == len(set(ids)) > 0
    assert {span.parent.span_id for span in spans if span.parent} <= set(ids)
    assert 0 < len(kind(spans, "model")) < sum(answers)
    assert 0 < requests_counted(subject) - counted < sum(answers)
    assert spans_lost(subject) == lost
    assert threading.active_count() <= before + 1  # the worker


# --- many at once -------------------------------------------------------------------------------------------------


@fails_with_naive
async def test_parallel_branches_keep_their_own_children(subject):
    branches = RunnableParallel(
        left=RunnableLambda(lambda x: x, name="left_step") | FakeChat(model="fake-left"),
        right=RunnableLambda(lambda x: x, name="right_step") | FakeChat(model="fake-right"),
    )
    await subject.same_async(lambda callbacks: branches.ainvoke("q", {"callbacks": callbacks}))
    branches.invoke("q", subject.config())
    spans = subject.all_ended()
    assert subject.log.lines == []
    assert len(traces(spans)) == 2
    for side in ("left", "right"):
        for step, call in zip(every(spans, f"{side}_step"), every(spans, f"fake-{side}"), strict=True):
            assert parent_of(spans, step) is parent_of(spans, call)
            assert is_child(
                parent_of(spans, call),
                one(
                    [s for s in roots(spans) if s.context.trace_id == call.context.trace_id],
                    "RunnableParallel<left,right>",
                ),
            )


@fails_with_naive
async def test_each_element_of_a_batch_is_a_trace_of_its_own(subject):
    chain = chain_of(FakeChat())
    inputs = [{"q": str(index)} for index in range(10)]
    await chain.abatch(inputs, subject.config())
    chain.batch(inputs, subject.config())
    spans = subject.all_ended()
    assert subject.log.lines == []
    assert len(traces(spans)) == 20
    assert {tuple(path(spans, call)) for call in kind(spans, "model")} == {
        ("invoke_workflow RunnableSequence", "chat fake-1")
    }


@fails_with_naive
async def test_a_batch_inside_a_request_stays_in_its_trace(subject):
    with subject.tracer().start_as_current_span("request"):
        await chain_of(FakeChat()).abatch([{"q": "1"}, {"q": "2"}], subject.config())
    spans = subject.all_ended()
    assert len(traces(spans)) == 1
    assert subject.log.lines == []
    assert all(is_child(top, one(spans, "request")) for top in every(spans, "RunnableSequence"))


class State(TypedDict):
    items: list[str]
    out: Annotated[list[str], concatenate]


@pytest.mark.parametrize("is_async", [True, False])
@fails_with_naive
async def test_fan_out_with_send_keeps_each_branch_apart(subject, is_async):
    model = FakeChat()

    def work(
        state, config: RunnableConfig
    ):  # passed on by hand: below Python 3.11 LangGraph cannot do it in async code
        return {"out": [model.invoke(state["item"], config).content]}

    builder = StateGraph(State)
    builder.add_node("work", work)
    builder.add_conditional_edges(
        START, lambda state: [Send("work", {"item": item}) for item in state["items"]]
    )
    builder.add_edge("work", END)
    flow = builder.compile(name="flow")
    given = {"items": ["a", "b", "c", "d"], "out": []}
    result = await flow.ainvoke(given, subject.config()) if is_async else flow.invoke(given, subject.config())
    assert len(result["out"]) == 4
    spans = subject.all_ended()
    assert len(traces(spans)) == 1
    nodes = every(spans, "work")
    calls = kind(spans, "model")
    assert len(nodes) == len(calls) == 4
    assert {parent_of(spans, call).context.span_id for call in calls} == {
        node.context.span_id for node in nodes
    }


@pytest.mark.skipif(
    sys.version_info < (3, 11) and CORE < (1, 7),
    reason="LangChain 1.0 on Python 3.10 cannot pass callbacks into async functions",
)
@fails_with_naive
async def test_tools_gathered_in_a_node_hang_under_it(subject):
    async def fan(_):
        return await asyncio.gather(
            *(aadd.ainvoke({"a": n, "b": 1}) for n in range(5)), add.ainvoke({"a": 5, "b": 1})
        )

    result = await subject.same_async(
        lambda callbacks: RunnableLambda(fan, name="fan").ainvoke("q", {"callbacks": callbacks})
    )
    assert result == [1, 2, 3, 4, 5, 6]
    spans = subject.all_ended()
    assert subject.log.lines == []
    assert len(traces(spans)) == 1
    tools = every(spans, "aadd") + every(spans, "add")
    assert len(tools) == 6
    assert all(is_child(span, one(spans, "fan")) for span in tools)


async def test_concurrent_requests_share_nothing(subject):
    async def request(number: int) -> None:
        with subject.tracer().start_as_current_span(f"request {number}"):
            await chain_of(FakeChat(model=f"fake-{number}")).ainvoke({"q": "q"}, subject.config())

    await asyncio.gather(*(request(number) for number in range(50)))
    spans = subject.all_ended()
    assert len(traces(spans)) == 50
    for call in kind(spans, "model"):
        number = call.name.rpartition("-")[2]
        assert path(spans, call)[0] == f"request {number}"


def test_rule_g_itself_can_fail():
    subject = AiobsSubject()
    subject.handler.on_chat_model_start(None, [[]], run_id=(run_id := uuid4()))
    subject.handler.on_llm_error(ValueError(), run_id=run_id)
    with pytest.raises(AssertionError):
        subject.check_rule_g()
