"""Streams whose run lasts from their first item to their last, and is current only while their own code runs."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any

from opentelemetry.context import attach, detach, get_current

from aiobs_core._context import context_with

if TYPE_CHECKING:
    from collections.abc import Hashable

    from aiobs_core._recorder import Recorder
    from aiobs_core._span import AgentSpan


def inside(
    recorder: Recorder, key: Hashable, span: AgentSpan | None, items: Generator[Any, Any, Any]
) -> Generator[Any, Any, Any]:
    """The same items; each is made inside the run, and the run ends as they do.

    Args:
        recorder: Has started the run.
        key: Its key.
        span: Its span; None where nothing is recorded.
        items: The generator; `send` and `throw` are handed on to it.

    Yields:
        What `items` yields.

    Returns:
        What `items` returns.
    """
    step: Callable[[Any], Any] = items.send
    value: Any = None
    try:
        while True:
            # Attached and detached in the same frame, so always in the same context.
            token = attach(context_with(get_current(), span)) if span is not None else None
            try:
                item = step(value)
            finally:
                if token is not None:
                    detach(token)
            recorder.chunk(key)
            try:
                value = yield item
                step = items.send
            except GeneratorExit:
                raise
            except BaseException as thrown:  # noqa: BLE001 (generator.throw() is for the wrapped one)
                step, value = items.throw, thrown
    except StopIteration as stop:
        recorder.end(key)
        return stop.value
    except BaseException as error:
        try:  # not made current: a collection may close it in any context, where nothing could be detached
            items.close()
        finally:
            recorder.fail(key, error)
        raise


def async_generator_inside(
    begin: Callable[..., tuple[Recorder, Hashable, AgentSpan | None, AsyncGenerator[Any, Any]]],
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Make an async generator function of one that begins: it starts the run, and returns what `inside` takes.

    Unlike generators, async ones cannot hand everything on to another, and frameworks ask `inspect` what a function is.
    """

    async def async_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        recorder, key, span, items = begin(*args, **kwargs)
        step: Callable[[Any], Any] = items.asend
        value: Any = None
        try:
            while True:
                token = attach(context_with(get_current(), span)) if span is not None else None
                try:
                    item = await step(value)
                finally:
                    if token is not None:
                        detach(token)
                recorder.chunk(key)
                try:
                    value = yield item
                    step = items.asend
                except GeneratorExit:
                    raise
                except BaseException as thrown:  # noqa: BLE001 (athrow() is for the wrapped one)
                    step, value = items.athrow, thrown
        except StopAsyncIteration:
            recorder.end(key)
        except BaseException as error:
            try:
                await items.aclose()
            finally:
                recorder.fail(key, error)
            raise

    return async_generator


def is_iterator(items: object) -> bool:
    """Whether these can be followed: an iterator or an async one, known by its class."""
    return hasattr(type(items), "__next__") or hasattr(type(items), "__anext__")


def following(recorder: Recorder, key: Hashable, span: AgentSpan, items: Any) -> Any:
    """The items of an open run, as a generator of their own sort that ends it; of an iterator, `close` is handed on."""
    if inspect.isgenerator(items):
        return inside(recorder, key, span, items)
    if inspect.isasyncgen(items) or hasattr(type(items), "__anext__"):
        made = items if inspect.isasyncgen(items) else _items_of_async(items)
        return async_generator_inside(lambda: (recorder, key, span, made))()
    return inside(recorder, key, span, _items_of(items))


def _items_of(items: Any) -> Generator[Any, Any, Any]:
    try:
        yield from items
    finally:
        close = getattr(items, "close", None)
        if close is not None:
            close()


async def _items_of_async(items: Any) -> AsyncGenerator[Any, Any]:
    try:
        async for item in items:
            yield item
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
