"""Runs whose end does not come by itself: streams nobody reads to the end, and calls that are given up."""

from __future__ import annotations

import asyncio
import gc

import pytest

from aiobs_testing.conformance.subject import Subject


class Ends:
    """Whatever becomes of a run, it ends once, and giving up is not an error."""

    def test_stream_closed_early(self, subject: Subject) -> None:
        chunks = subject.observed("stream")("hello")
        next(iter(chunks))
        chunks.close()
        del chunks
        subject.closed()
        subject.check_not_an_error(subject.the("model"), "abandoned")

    @pytest.mark.parametrize("how", ["closed", "dropped"])
    @pytest.mark.asyncio
    async def test_async_stream_closed_early(self, subject: Subject, how: str) -> None:
        chunks = subject.observed("astream")("hello")
        await anext(aiter(chunks))
        if how == "closed":
            await chunks.aclose()
        del chunks
        await _let_the_loop_work()
        subject.closed()
        subject.check_not_an_error(subject.the("model"), "abandoned", "cancelled")

    def test_a_stream_that_is_never_read(self, subject: Subject) -> None:
        subject.observed("stream")("hello")
        subject.closed()
        for span in subject.spans():  # none, where the model is asked when the first chunk is
            subject.check_not_an_error(span, "abandoned", "success")

    @pytest.mark.asyncio
    async def test_an_async_stream_that_is_never_read(self, subject: Subject) -> None:
        subject.observed("astream")("hello")
        await _let_the_loop_work()
        subject.closed()
        for span in subject.spans():
            subject.check_not_an_error(span, "abandoned", "cancelled", "success")

    @pytest.mark.asyncio
    async def test_a_reader_of_a_stream_that_is_cancelled(self, subject: Subject) -> None:
        chunks = subject.observed("astream")("hello")

        async def read() -> None:
            async for _ in chunks:  # noqa: F821 (deleted below, once nobody reads)
                await asyncio.sleep(30)

        reader = asyncio.ensure_future(read())
        await _until_open(subject)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        del reader, read, chunks
        await _let_the_loop_work()
        subject.closed()
        subject.check_not_an_error(subject.the("model"), "abandoned", "cancelled")

    @pytest.mark.parametrize("how", ["cancel", "wait_for"])
    @pytest.mark.asyncio
    async def test_cancelled(self, subject: Subject, how: str) -> None:
        call = subject.observed("slow_achat")
        if how == "cancel":
            task = asyncio.ensure_future(call("hello"))
            await _until_open(subject)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            del task
        else:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(call("hello"), 0.5)
        await _let_the_loop_work()
        subject.closed()
        subject.check_not_an_error(subject.the("model"), "cancelled")

    def test_a_stream_of_a_pipeline_closed_early(self, subject: Subject) -> None:
        chunks = iter(subject.observed("stream_query")("hello"))
        next(chunks)
        del chunks
        subject.closed()
        for span in subject.spans():
            subject.check_not_an_error(span, "success", "abandoned")
        assert [span for span in subject.spans() if span.parent is None]


async def _until_open(subject: Subject) -> None:
    """Wait until a run has begun, and its code waits for something."""
    for _ in range(500):
        await asyncio.sleep(0.01)
        if subject.telemetry.open_runs:
            break
    await asyncio.sleep(0.01)


async def _let_the_loop_work() -> None:
    """Time for callbacks of tasks, and for generators that are closed by their collection."""
    for _ in range(3):
        gc.collect()
        await asyncio.sleep(0)
