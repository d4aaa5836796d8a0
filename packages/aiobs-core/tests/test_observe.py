"""Manual spans: every kind of function, the same results and exceptions as without the decorator."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Generator, Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import aiobs_core
from aiobs_core import Kind, Stage, observe, semconv, span


@pytest.fixture
def memory() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    aiobs_core.configure(exporters=[exporter], flush_interval_s=0.01)
    yield exporter
    assert aiobs_core.get_recorder().open_runs == 0
    aiobs_core.shutdown()


def finished(memory: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    assert aiobs_core.flush()
    return {item.name: item for item in memory.get_finished_spans()}


def outcome(item: ReadableSpan) -> object:
    return (item.attributes or {})[semconv.OUTCOME]


def test_the_six_stages_nest_in_one_trace(memory: InMemorySpanExporter) -> None:
    with span("answer", kind="workflow"):
        for stage in Stage:
            with span(stage.value, stage=stage):
                pass
    spans = finished(memory)
    root = spans.pop("invoke_workflow answer")
    assert [(item.attributes or {})[semconv.STAGE] for item in spans.values()] == [
        stage.value for stage in Stage
    ]
    assert {item.parent.span_id for item in spans.values() if item.parent} == {root.context.span_id}


def test_a_decorated_function_returns_and_raises_the_same_objects(memory: InMemorySpanExporter) -> None:
    error, result = ValueError("secret"), object()

    @observe
    def plain(value: object) -> object:
        """Doc."""
        return value

    @observe(name="failing", kind=Kind.TOOL)
    def failing() -> None:
        raise error

    assert plain(result) is result
    assert plain.__doc__ == "Doc."
    with pytest.raises(ValueError, match="secret") as caught:
        failing()
    assert caught.value is error
    spans = finished(memory)
    assert outcome(spans["execute_tool failing"]) == "error"
    assert "secret" not in spans["execute_tool failing"].to_json()


async def test_a_coroutine_is_one_run_and_current_inside(memory: InMemorySpanExporter) -> None:
    @observe(name="inner", kind="tool")
    async def inner() -> int:
        await asyncio.sleep(0)
        return trace.get_current_span().get_span_context().span_id

    @observe(name="outer", kind="agent")
    async def outer() -> list[int]:
        return await asyncio.gather(inner(), inner())

    first, second = await outer()
    assert first != second
    spans = finished(memory)
    assert spans["execute_tool inner"].parent.span_id == spans["invoke_agent outer"].context.span_id


async def test_a_cancelled_coroutine_is_cancelled_and_no_error(memory: InMemorySpanExporter) -> None:
    @observe(name="slow")
    async def slow() -> None:
        await asyncio.sleep(10)

    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(slow(), 0.01)
    assert outcome(finished(memory)["invoke_workflow slow"]) == "cancelled"


def test_a_generator_is_current_in_its_own_code_only(memory: InMemorySpanExporter) -> None:
    inside: list[int] = []

    @observe(name="stream")
    def stream() -> Generator[str, str, str]:
        inside.append(trace.get_current_span().get_span_context().span_id)
        sent = yield "a"
        try:
            yield sent
        except KeyError:
            yield "caught"
        return "result"

    before = trace.get_current_span().get_span_context()
    items = stream()
    assert next(items) == "a"
    assert trace.get_current_span().get_span_context() == before
    assert items.send("b") == "b"
    assert items.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(items)
    assert stop.value.value == "result"
    item = finished(memory)["invoke_workflow stream"]
    assert inside == [item.context.span_id]
    assert (item.attributes or {})[semconv.CHUNK_COUNT] == 3
    assert outcome(item) == "success"


def test_a_generator_broken_off_is_abandoned(memory: InMemorySpanExporter) -> None:
    closed: list[bool] = []

    @observe(name="stream")
    def stream() -> Iterator[int]:
        try:
            yield from range(10)
        finally:
            closed.append(True)

    for _ in stream():
        break
    assert closed == [True]
    assert outcome(finished(memory)["invoke_workflow stream"]) == "abandoned"


def test_a_generator_whose_clean_up_raises_is_ended_all_the_same(memory: InMemorySpanExporter) -> None:
    @observe(name="stream")
    def stream() -> Iterator[int]:
        try:
            yield 1
        finally:
            raise RuntimeError("clean-up")

    items = stream()
    next(items)
    with pytest.raises(RuntimeError, match="clean-up"):
        items.close()  # type: ignore[attr-defined]
    assert outcome(finished(memory)["invoke_workflow stream"]) == "abandoned"


async def test_an_async_generator_ends_once_whether_read_closed_or_failed(
    memory: InMemorySpanExporter,
) -> None:
    @observe
    async def numbers(fail: bool) -> AsyncIterator[int]:
        for number in range(3):
            await asyncio.sleep(0)
            yield number
        if fail:
            raise ValueError

    assert [n async for n in numbers(fail=False)] == [0, 1, 2]
    with pytest.raises(ValueError):
        [n async for n in numbers(fail=True)]
    closed = numbers(fail=False)
    async for _ in closed:
        break
    await closed.aclose()  # type: ignore[attr-defined]
    assert aiobs_core.flush()
    assert [outcome(item) for item in memory.get_finished_spans()] == ["success", "error", "abandoned"]


def test_a_kind_that_does_not_exist_is_refused_at_definition() -> None:
    with pytest.raises(ValueError, match="modle"):
        observe(kind="modle")(lambda: None)


def test_a_decorated_function_is_of_the_same_kind_as_before() -> None:
    @observe
    def generator() -> Iterator[int]:
        yield 1

    @observe
    async def async_generator() -> AsyncIterator[int]:
        yield 1

    @observe
    async def coroutine() -> None: ...

    assert inspect.isgeneratorfunction(generator)
    assert inspect.isasyncgenfunction(async_generator)
    assert inspect.iscoroutinefunction(coroutine)
