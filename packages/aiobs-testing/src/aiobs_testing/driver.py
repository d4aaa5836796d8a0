"""`Driver`: how the conformance suite makes a framework do things."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, ClassVar


class Driver:
    """Makes one framework call models, tools and agents, offline, with the framework's own fake parts.

    Subclass it and override what the framework has; what is left out is skipped by name. Each method runs with the
    callbacks in `self.handlers` (none: nothing is observed, unless `install` was called) and must

    * report usage of 11 input and 7 output tokens with each model call,
    * return what the framework returned and let through what it raised.

    Attributes:
        handlers: Set by the suite before each call: instances from `make_handler`.
        scope: Instrumentation scope of the spans, such as `aiobs.langchain`.
        model: Name of the fake model, expected as request model.
    """

    scope: ClassVar[str]
    model: ClassVar[str] = "fake-1"

    def __init__(self) -> None:
        self.handlers: list[Any] = []

    def make_handler(self) -> Any:
        """A new handler of the integration."""
        raise NotImplementedError

    install: Callable[[], None] | None = None
    """Observe without handlers, as the integration's instrumentor does."""
    uninstall: Callable[[], None] | None = None
    """Take that back."""

    chat: Callable[[str], Any] | None = None
    """One model call with this prompt."""
    achat: Callable[[str], Any] | None = None
    """The same as a coroutine function."""
    failing_chat: Callable[[BaseException], Any] | None = None
    """One model call that raises this exception."""
    stream: Callable[[str], Iterator[Any]] | None = None
    """A streamed model call: at least three chunks, then usage."""
    astream: Callable[[str], AsyncIterator[Any]] | None = None
    """The same as an async generator."""
    slow_achat: Callable[[str], Any] | None = None
    """A coroutine function that calls a model and takes longer than any test waits."""
    tool: Callable[[str, Callable[[], Any]], Any] | None = None
    """Call the tool `look` with this argument; the tool runs the given function and returns what it returned."""
    atool: Callable[[str, Callable[[], Any]], Any] | None = None
    """The same through the framework's async API."""
    retrieve: Callable[[str, Sequence[str]], Any] | None = None
    """Retrieve two documents with these texts for this query."""
    agent: Callable[[str, Callable[[], Any]], Any] | None = None
    """An agent named `helper`: a model call, the tool `look` (which runs the function), a model call."""
    aagent: Callable[[str, Callable[[], Any]], Any] | None = None
    """The same as a coroutine function."""
    parallel_tools: Callable[[Callable[[str], Any]], Any] | None = None
    """One parent run whose two tool runs `look` (arguments `a` and `b`, given to the function) run in parallel."""
    batch: Callable[[Sequence[str]], Any] | None = None
    """Independent model calls through the framework's batch API; one root each."""
