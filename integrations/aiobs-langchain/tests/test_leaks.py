"""Nothing of a finished run stays in memory, however it ended."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import sys
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_fakes import IDENTITY, FakeChat, SlowChat, aadd, add
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from scenarios import until

from aiobs_core import configure, get_recorder
from aiobs_core.metrics.series import Exemplar
from aiobs_langchain import AiObsCallbackHandler
from aiobs_testing.capture import QUICK


class Counting(SpanExporter):
    """Counts spans and keeps none."""

    count = 0

    def export(self, spans):
        self.count += len(spans)
        return SpanExportResult.SUCCESS


@pytest.fixture
def exporter():
    made = Counting()
    configure(exporters=[made], strict=True, **{**QUICK, "grace_s": 0.05})
    return made


def chat(callbacks: Any) -> None:
    (IDENTITY | FakeChat()).invoke("q", {"callbacks": callbacks})


def error(callbacks: Any) -> None:
    with contextlib.suppress(ValueError):
        (IDENTITY | FakeChat(fail=ValueError("down"))).invoke("q", {"callbacks": callbacks})


def early_break(callbacks: Any) -> None:
    for _ in (IDENTITY | FakeChat()).stream("q", {"callbacks": callbacks}):
        break


def tool(callbacks: Any) -> None:
    add.invoke({"a": 1, "b": 2}, {"callbacks": callbacks})


async def async_chat(callbacks: Any) -> None:
    await (IDENTITY | FakeChat()).ainvoke("q", {"callbacks": callbacks})


async def async_error(callbacks: Any) -> None:
    with contextlib.suppress(ValueError):
        await (IDENTITY | FakeChat(fail=ValueError("down"))).ainvoke("q", {"callbacks": callbacks})


async def async_early_break(callbacks: Any) -> None:
    async for _ in (IDENTITY | FakeChat()).astream("q", {"callbacks": callbacks}):
        break


async def async_tool(callbacks: Any) -> None:
    await aadd.ainvoke({"a": 1, "b": 2}, {"callbacks": callbacks})


async def cancelled(callbacks: Any) -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(SlowChat().ainvoke("q", {"callbacks": callbacks}), 0.0001)


def is_ours(found: Any) -> bool:
    kind = type(found)
    if kind is functools.partial:
        return str(getattr(found.func, "__module__", "")).startswith("aiobs")
    if (
        kind is Exemplar
    ):  # one for each bucket of a series; a slow run may open a new bucket, but no run is in it
        return False
    return str(kind.__module__).startswith(("aiobs_core", "aiobs_langchain"))


def alive() -> Counter[str]:
    gc.collect()
    return Counter(type(found).__name__ for found in gc.get_objects() if is_ours(found))


def run(call: Any, times: int, handlers: list[BaseCallbackHandler]) -> None:
    if not asyncio.iscoroutinefunction(call):
        for _ in range(times):
            call(handlers)
        return

    async def all_of_them() -> None:
        for _ in range(times):
            await call(handlers)
        await asyncio.sleep(0.02)

    asyncio.run(all_of_them())


def settle(recorder: Any) -> None:
    gc.collect()
    until(lambda: recorder.open_runs == 0)
    assert recorder.flush(10)


CALLS = [chat, error, early_break, tool, async_chat, async_error, async_early_break, async_tool, cancelled]


@pytest.mark.parametrize("call", CALLS)
def test_no_object_of_a_finished_run_stays(exporter, call):
    """2,000 runs in all: as many objects live after 20 calls as after 220; one ended span per context may stay."""
    recorder = get_recorder()
    handlers: list[BaseCallbackHandler] = [AiObsCallbackHandler()]
    run(call, 20, handlers)
    settle(recorder)
    before, exported = alive(), exporter.count
    run(call, 200, handlers)
    settle(recorder)
    assert exporter.count >= exported + 200 * (call is not cancelled)
    after = alive()
    grown = after - before
    assert sum(grown.values()) <= 2, grown
    assert after["AgentSpan"] <= 8


def test_the_search_for_what_stays_can_fail(exporter):
    """A handler that keeps the spans of its runs is found out."""
    recorder = get_recorder()

    class Keeping(AiObsCallbackHandler):
        def __init__(self) -> None:
            super().__init__()
            self.kept: list[Any] = []

        def on_chain_end(self, outputs, *, run_id, **kwargs):
            self.kept.append(recorder.find(run_id.int))
            super().on_chain_end(outputs, run_id=run_id, **kwargs)

    handlers: list[BaseCallbackHandler] = [Keeping()]
    before = alive()
    run(chat, 50, handlers)
    settle(recorder)
    assert sum((alive() - before).values()) >= 100


def test_a_run_in_flight_keeps_no_content_once_it_has_ended(exporter):
    """The context of a request may live long after its last run: a web socket, a worker's loop."""
    recorder = get_recorder()
    message = HumanMessage("a long conversation")
    reference = weakref.ref(message)
    FakeChat().invoke([message], {"callbacks": [AiObsCallbackHandler()]})
    del message
    settle(recorder)
    gc.collect()
    assert reference() is None


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("call", [chat, async_early_break, async_error])
def test_memory_is_flat_over_100_000_runs(exporter, call):
    recorder = get_recorder()
    handlers: list[BaseCallbackHandler] = [AiObsCallbackHandler()]
    runs_per_call = 3
    run(call, 10_000 // runs_per_call, handlers)
    settle(recorder)
    before_mib, before = rss_mib(), alive()
    for _ in range(10):
        run(call, 10_000 // runs_per_call, handlers)
        assert recorder.open_runs < 1_000
    settle(recorder)
    assert recorder.open_runs == 0
    assert exporter.count > 100_000
    assert sum((alive() - before).values()) <= 2
    assert abs(rss_mib() - before_mib) < 5
