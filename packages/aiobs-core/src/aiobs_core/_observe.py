"""Manual spans: the `span()` block and the `@observe` decorator, for code that no framework reports."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar, overload

from opentelemetry.trace import Span

from aiobs_core._operation import AttributeValue, Kind, Operation, Stage
from aiobs_core._process import get_recorder
from aiobs_core._streams import async_generator_inside, inside

P = ParamSpec("P")
R = TypeVar("R")


def span(
    name: str,
    *,
    kind: Kind | str = Kind.CHAIN,
    stage: Stage | str | None = None,
    attributes: Mapping[str, AttributeValue] | None = None,
) -> AbstractContextManager[Span]:
    """Record a block as one run, current inside it.

    Args:
        name: Name of the run.
        kind: What it is; decides span name and kind.
        stage: Part of the request, if other than the kind implies.
        attributes: Further attributes; they leave the process as they are, so put no content in them.

    Raises:
        ValueError: If `kind` or `stage` is not one of the known ones.

    Example:
        >>> with span("rank documents", kind="reranker") as current:
        ...     current.set_attribute("shop.candidates", 12)
    """
    return get_recorder().span(_operation(name, kind, stage, attributes))


@overload
def observe(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def observe(
    *, name: str | None = None, kind: Kind | str = Kind.CHAIN, stage: Stage | str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def observe(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    kind: Kind | str = Kind.CHAIN,
    stage: Stage | str | None = None,
) -> Any:
    """Record each call of a function as one run: sync, async, generator or async generator.

    Arguments and results stay in the process. A generator's run lasts from its first item to its last; it is current
    only while the generator's own code runs, and `abandoned` if its consumer stops early.

    Args:
        function: The function, when used without parentheses.
        name: Name of the run; the function's qualified name if None.
        kind: What it is.
        stage: Part of the request, if other than the kind implies.

    Raises:
        ValueError: If `kind` or `stage` is not one of the known ones.

    Example:
        >>> @observe(kind="tool")
        ... def look_up(order: str) -> str:
        ...     return "shipped"
        >>> look_up("A-1")
        'shipped'
    """

    def decorate(wrapped: Callable[P, R]) -> Callable[P, R]:
        operation = _operation(name or wrapped.__qualname__, kind, stage, None)
        return _wrap(wrapped, operation)

    return decorate if function is None else decorate(function)


def _operation(
    name: str, kind: Kind | str, stage: Stage | str | None, attributes: Mapping[str, AttributeValue] | None
) -> Operation:
    return Operation(
        kind=Kind(kind),
        name=name,
        model=name if Kind(kind) is Kind.MODEL else None,
        stage=None if stage is None else Stage(stage),
        attributes=dict(attributes or {}),
    )


def _wrap(wrapped: Callable[..., Any], operation: Operation) -> Callable[..., Any]:
    # Each wrapper is of the same kind as what it wraps: frameworks ask `inspect` what a function is.
    if inspect.isasyncgenfunction(wrapped):

        def begin(*args: Any, **kwargs: Any) -> Any:
            recorder, key = get_recorder(), object()
            span = recorder.start(key, operation, make_current=False)
            return recorder, key, span, wrapped(*args, **kwargs)

        return functools.wraps(wrapped)(async_generator_inside(begin))
    if inspect.iscoroutinefunction(wrapped):

        @functools.wraps(wrapped)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with get_recorder().span(operation):
                return await wrapped(*args, **kwargs)

        return coroutine
    if inspect.isgeneratorfunction(wrapped):

        @functools.wraps(wrapped)
        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            recorder, key = get_recorder(), object()
            span = recorder.start(key, operation, make_current=False)
            return (yield from inside(recorder, key, span, wrapped(*args, **kwargs)))

        return generator

    @functools.wraps(wrapped)
    def function(*args: Any, **kwargs: Any) -> Any:
        with get_recorder().span(operation):
            return wrapped(*args, **kwargs)

    return function
