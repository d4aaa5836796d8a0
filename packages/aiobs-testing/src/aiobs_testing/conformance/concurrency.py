"""Many runs at once: threads, tasks, event loops, and streams that are read in turns."""

from __future__ import annotations

import asyncio
import threading
from asyncio.events import _set_running_loop as set_running_loop  # documented for who implements event loops,
from asyncio.tasks import _enter_task as enter_task  # as are these
from asyncio.tasks import _leave_task as leave_task
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from aiobs_core import semconv
from aiobs_testing.conformance.subject import Subject, current_id

_CALLS: Final = 8


class Concurrency:
    """Runs that happen at the same time know nothing of each other."""

    # --- threads ----------------------------------------------------------------------------------------------------

    def test_threads_are_kept_apart(self, subject: Subject) -> None:
        call = subject.observed("tool")
        _in_threads(lambda n: call(str(n), lambda: ""))
        tools = subject.of_kind("tool")
        assert len(tools) == _CALLS
        assert len({subject.trace(span) for span in tools}) == _CALLS

    def test_chats_in_threads(self, subject: Subject) -> None:
        call = subject.observed("chat")
        _in_threads(lambda n: call(str(n)))
        _check_models_apart(subject)

    def test_agents_in_threads(self, subject: Subject) -> None:
        call = subject.observed("agent")
        all_inside = threading.Barrier(_CALLS)

        def wait() -> str:
            try:
                all_inside.wait(2)  # where the framework lets its tools run at the same time
            except threading.BrokenBarrierError:
                pass
            return "found"

        _in_threads(lambda n: call(str(n), wait))
        _check_agents_apart(subject)

    # --- tasks and loops --------------------------------------------------------------------------------------------

    @pytest.mark.asyncio
    async def test_parallel_async_calls(self, subject: Subject) -> None:
        call = subject.observed("achat")
        await asyncio.gather(*(call(str(n)) for n in range(_CALLS)))
        _check_models_apart(subject)

    @pytest.mark.asyncio
    async def test_parallel_async_calls_inside_a_run(self, subject: Subject) -> None:
        call = subject.observed("achat")
        with subject.other_framework("outer"):
            await asyncio.gather(*(call(str(n)) for n in range(_CALLS)))
        models = subject.of_kind("model")
        assert len(models) == _CALLS
        for span in models:
            above = list(subject.above(span))
            assert above[-1].name == "execute_tool outer"
            assert not set(map(subject.id, above)) & set(map(subject.id, models)), "a model is under a model"

    @pytest.mark.asyncio
    async def test_parallel_async_agents(self, subject: Subject) -> None:
        call = subject.observed("aagent")
        await asyncio.gather(*(call(str(n), lambda: "found") for n in range(_CALLS)))
        _check_agents_apart(subject)

    def test_two_event_loops(self, subject: Subject) -> None:
        call = subject.observed("achat")
        for _ in range(2):
            _run(call("hello"))
        for span in subject.of_kind("model"):
            subject.check_model(span)
        assert len(subject.traces()) == 2

    @pytest.mark.asyncio
    async def test_an_event_loop_inside_another(self, subject: Subject) -> None:
        """As in Jupyter, where code that is called by a running loop runs a loop of its own."""
        call = subject.observed("achat")
        await call("in the outer loop")
        with subject.other_framework("outer") as outer:
            with _no_running_loop():
                _run(call("in the inner loop"))
            assert current_id() == outer.get_span_context().span_id
        _, inner = subject.of_kind("model")
        subject.check_model(inner)
        assert [span.name for span in subject.above(inner)][-1:] == ["execute_tool outer"]

    # --- streams ----------------------------------------------------------------------------------------------------

    def test_interleaved_streams(self, subject: Subject) -> None:
        call = subject.observed("stream")
        list(call("alone"))
        one, other = call("one"), call("other")
        next(one), next(other), next(one)
        _run_something_between(subject)
        next(one)
        list(one)
        other.close()
        del one, other
        _check_each_stream_has_its_own_chunks(subject)

    @pytest.mark.asyncio
    async def test_interleaved_async_streams(self, subject: Subject) -> None:
        call = subject.observed("astream")
        [_ async for _ in call("alone")]
        one, other = call("one"), call("other")
        await anext(one), await anext(other), await anext(one)
        _run_something_between(subject)
        [_ async for _ in one]
        await other.aclose()
        del one, other
        _check_each_stream_has_its_own_chunks(subject)

    def test_between_chunks_the_application_is_not_inside_the_stream(self, subject: Subject) -> None:
        """For spans of HTTP and database clients, which go by what is current."""
        before = current_id()
        chunks = subject.observed("stream")("hello")
        assert current_id() == before
        next(chunks)
        assert current_id() == before
        list(chunks)
        assert current_id() == before

    @pytest.mark.parametrize("read_here", [0, 1])
    def test_a_stream_read_in_another_thread(self, subject: Subject, read_here: int) -> None:
        call, before = subject.observed("stream"), current_id()
        chunks = iter(call("hello"))
        for _ in range(read_here):
            next(chunks)
        _in_threads(lambda _: list(chunks), calls=1)  # noqa: F821 (deleted below, after this call)
        del chunks
        subject.closed()
        subject.check_model(subject.the("model"))
        subject.check_first_chunk(subject.the("model"))
        assert current_id() == before


def _check_models_apart(subject: Subject) -> None:
    models = subject.of_kind("model")
    for span in models:
        subject.check_model(span)
    assert len(models) == len(subject.traces()) == _CALLS


def _check_agents_apart(subject: Subject) -> None:
    traces = subject.traces()
    assert len(traces) == _CALLS
    for spans in traces:
        subject.check_agent(spans)


def _run_something_between(subject: Subject) -> None:
    with subject.other_framework("between"):
        pass


def _check_each_stream_has_its_own_chunks(subject: Subject) -> None:
    subject.closed()
    alone, *both = [subject.get(span, semconv.CHUNK_COUNT) for span in subject.of_kind("model")]
    assert both[0] == alone
    assert 1 <= both[1] < alone
    assert subject.named("execute_tool between").parent is None
    assert len(subject.traces()) == 3


def _in_threads(call: Callable[[int], object], *, calls: int = _CALLS) -> None:
    """Call it once in each of some threads, all at the same time, and raise what one of them raised."""
    ready, errors = threading.Barrier(calls), []

    def run(number: int) -> None:
        ready.wait(10)
        try:
            call(number)
        except BaseException as error:  # noqa: BLE001 (raised again below)
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def _run(call: Coroutine[Any, Any, Any]) -> None:
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(call)
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


@contextmanager
def _no_running_loop() -> Iterator[None]:
    """What lets an event loop run inside another one, as `nest_asyncio` does."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    leave_task(loop, task)
    set_running_loop(None)
    try:
        yield
    finally:
        set_running_loop(loop)
        enter_task(loop, task)
