"""Nothing of a finished run stays in memory, however it ended; streams that nobody reads are closed."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_fakes import FakeLLM, ask, index_of, look_tool
from llama_index.core.agent.workflow import FunctionAgent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core import configure, get_recorder, semconv
from aiobs_core.metrics.series import Exemplar
from aiobs_llama_index import AiObsCallbackHandler
from aiobs_testing.capture import QUICK


class Counting(SpanExporter):
    """Counts spans by outcome and keeps none."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.outcomes.update(str((span.attributes or {})[semconv.OUTCOME]) for span in spans)
        return SpanExportResult.SUCCESS


@pytest.fixture
def exporter() -> Iterator[Counting]:
    made = Counting()
    configure(exporters=[made], strict=True, **{**QUICK, "grace_s": 0.05})
    handler = AiObsCallbackHandler()
    yield made
    handler.close()


def chat() -> None:
    FakeLLM().chat(ask())


def chat_error() -> None:
    with contextlib.suppress(ValueError):
        FakeLLM(fail=ValueError("down")).chat(ask())


def stream() -> None:
    for _ in FakeLLM().stream_chat(ask()):
        pass


def stream_dropped() -> None:
    next(FakeLLM().stream_chat(ask()))


def stream_unread() -> None:
    FakeLLM().stream_chat(ask())


def stream_error() -> None:
    with contextlib.suppress(ValueError):
        for _ in FakeLLM(fail=ValueError("down"), fail_after_chunks=1).stream_chat(ask()):
            pass


def tool() -> None:
    look_tool().call(what="x")


async def async_stream() -> None:
    async for _ in await FakeLLM().astream_chat(ask()):
        pass


async def async_stream_dropped() -> None:
    async for _ in await FakeLLM().astream_chat(ask()):
        break


async def async_stream_unread() -> None:
    await FakeLLM().astream_chat(ask())


async def cancelled() -> None:
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(FakeLLM(wait_s=5).achat(ask()), 0.001)


async def agent() -> None:
    llm = FakeLLM(responses=[("look", {"what": "x"}), "done"])
    await FunctionAgent(name="helper", tools=[look_tool()], llm=llm, streaming=False).run(user_msg="hello")


@functools.cache
def engine(*, streaming: bool) -> Any:
    return index_of().as_query_engine(llm=FakeLLM(), streaming=streaming)


def query() -> None:
    engine(streaming=False).query("hello")


def query_stream() -> None:
    for _ in engine(streaming=True).query("hello").response_gen:
        pass


def query_stream_dropped() -> None:
    next(engine(streaming=True).query("hello").response_gen)


def query_stream_unread() -> None:
    engine(streaming=True).query("hello")


def run(call: Callable[[], Any], times: int) -> None:
    if not asyncio.iscoroutinefunction(call):
        for _ in range(times):
            call()
        return

    async def all_of_them() -> None:
        for _ in range(times):
            await call()
        await asyncio.sleep(0.02)

    asyncio.run(all_of_them())


def settle() -> None:
    recorder = get_recorder()
    gc.collect()
    deadline = time.monotonic() + 10
    while recorder.open_runs and time.monotonic() < deadline:
        time.sleep(0.01)
    assert recorder.open_runs == 0
    assert recorder.flush(10)


def is_ours(found: Any) -> bool:
    kind = type(found)
    if kind is functools.partial:
        return str(getattr(found.func, "__module__", "")).startswith("aiobs")
    if (
        kind is Exemplar
    ):  # one for each bucket of a series; a slow run may open a new bucket, but no run is in it
        return False
    return str(kind.__module__).startswith(("aiobs_core", "aiobs_llama_index"))


def alive() -> Counter[str]:
    gc.collect()
    return Counter(type(found).__name__ for found in gc.get_objects() if is_ours(found))


@pytest.mark.parametrize(
    "call",
    [
        chat,
        chat_error,
        stream,
        stream_dropped,
        stream_unread,
        stream_error,
        tool,
        async_stream,
        async_stream_dropped,
        async_stream_unread,
        cancelled,
        agent,
        query,
        query_stream,
        query_stream_dropped,
        query_stream_unread,
    ],
)
def test_no_object_of_a_finished_run_stays(exporter: Counting, call: Callable[[], Any]) -> None:
    """As many objects live after a few calls as after many; the context of a thread may hold one ended span."""
    times = 10 if call is agent else 60
    run(call, 5)
    settle()
    before, exported = alive(), exporter.outcomes.total()
    run(call, times)
    settle()
    assert exporter.outcomes.total() >= exported + times
    grown = alive() - before
    assert sum(grown.values()) <= 2, grown


def test_the_search_for_what_stays_can_fail(exporter: Counting) -> None:
    before, kept = alive(), []
    for _ in range(50):
        chunks = FakeLLM().stream_chat(ask())
        kept.append(get_recorder())
        kept.append(chunks)  # an application that keeps its streams keeps their runs open
    assert sum((alive() - before).values()) >= 50
    kept.clear()
    del chunks
    settle()


def test_streams_that_nobody_reads_on_are_closed_as_abandoned(exporter: Counting) -> None:
    for call in (stream_dropped, stream_unread, query_stream_dropped, query_stream_unread):
        exporter.outcomes.clear()
        run(call, 20)
        settle()
        assert exporter.outcomes["abandoned"] >= 20
        assert exporter.outcomes["error"] == 0


# --- soak ---------------------------------------------------------------------------------------------------------------


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_flat_over_20_000_streams_of_which_a_third_is_abandoned(exporter: Counting) -> None:
    kinds = [stream, async_stream, stream, async_stream, stream_dropped, async_stream_unread] * 2
    kinds[-1], kinds[-2] = stream_unread, async_stream_dropped
    rounds, calls = 10, 20_000

    def one_round() -> None:
        for kind in kinds:
            run(kind, calls // rounds // len(kinds) + 1)
        settle()

    one_round()
    before_mib, before, threads = _rss_mib(), alive(), threading.active_count()
    exporter.outcomes.clear()
    for _ in range(rounds):
        one_round()
    assert exporter.outcomes.total() >= calls
    given_up = exporter.outcomes["abandoned"] + exporter.outcomes["cancelled"]
    assert 0.3 <= given_up / exporter.outcomes.total() <= 0.37
    assert sum((alive() - before).values()) <= 2
    assert threading.active_count() <= threads
    assert _rss_mib() - before_mib < 5


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
