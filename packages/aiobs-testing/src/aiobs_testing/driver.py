"""`Driver`: how the conformance suite makes a framework do things."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, ClassVar


class Driver:
    """Makes one framework call models, tools and agents, offline, with the framework's own fake parts.

    Subclass it and override what the framework has; what is left out is skipped by name. Each method runs with the
    callbacks in `self.handlers` (none: nothing is observed, unless `install` was called) and must

    * report usage of 11 input and 7 output tokens with each model call,
    * return what the framework returned and let through what it raised,
    * where it can, let the model answer with its prompt, so that the suite sees answers stay in the process.

    Attributes:
        handlers: Set by the suite before each call: instances from `make_handler`.
        scope: Instrumentation scope of the spans, such as `aiobs.langchain`.
        model: Name of the fake model, expected as request model.
        dimensions: Length of the vectors of `embed`.
    """

    scope: ClassVar[str]
    model: ClassVar[str] = "fake-1"
    dimensions: ClassVar[int] = 8

    def __init__(self) -> None:
        self.handlers: list[Any] = []

    # --- observing --------------------------------------------------------------------------------------------------

    def make_handler(self) -> Any:
        """A new handler of the integration."""
        raise NotImplementedError

    def let_go(self, handler: Any) -> None:
        """Called at the end of a test for each handler, also for copies; for those that observe until they are closed."""

    make_broken_handler: Callable[[], Any] | None = None
    """A handler of the framework's own kind that raises whatever it is told; its class is named in what is logged."""
    install: Callable[[], None] | None = None
    """Observe without handlers, as the integration's instrumentor does."""
    uninstall: Callable[[], None] | None = None
    """Take that back."""
    traces_left: Callable[[], list[str]] | None = None
    """What of the integration the framework still holds, in words; empty once `uninstall` has been called."""

    # --- models -----------------------------------------------------------------------------------------------------

    chat: Callable[[str], Any] | None = None
    """One model call with this prompt."""
    achat: Callable[[str], Any] | None = None
    """The same as a coroutine function."""
    system_chat: Callable[[str, str], Any] | None = None
    """One model call with this system prompt and this prompt."""
    failing_chat: Callable[[BaseException], Any] | None = None
    """One model call that raises this exception."""
    slow_achat: Callable[[str], Any] | None = None
    """A coroutine function that calls a model and takes longer than any test waits."""
    batch: Callable[[Sequence[str]], Any] | None = None
    """Independent model calls through the framework's batch API; one root each."""
    stream: Callable[[str], Iterator[Any]] | None = None
    """A streamed model call: at least three chunks, then usage."""
    astream: Callable[[str], AsyncIterator[Any]] | None = None
    """The same as an async generator."""
    failing_stream: Callable[[BaseException], Iterator[Any]] | None = None
    """A streamed model call that raises this exception after its first chunk."""
    embed: Callable[[Sequence[str]], Any] | None = None
    """Embed these texts in one call."""

    # --- tools and agents -------------------------------------------------------------------------------------------

    tool: Callable[[str, Callable[[], Any]], Any] | None = None
    """Call the tool `look` with this argument; the tool runs the given function and returns what it returned."""
    atool: Callable[[str, Callable[[], Any]], Any] | None = None
    """The same through the framework's async API."""
    parallel_tools: Callable[[Callable[[str], Any]], Any] | None = None
    """One parent run whose two tool runs `look` (arguments `a` and `b`, given to the function) run in parallel."""
    agent: Callable[[str, Callable[[], Any]], Any] | None = None
    """An agent named `helper`: a model call, the tool `look` (which runs the function), a model call."""
    aagent: Callable[[str, Callable[[], Any]], Any] | None = None
    """The same as a coroutine function."""

    # --- retrieval --------------------------------------------------------------------------------------------------

    retrieve: Callable[[str, Sequence[str]], Any] | None = None
    """Retrieve two documents with these texts for this query."""
    rerank: Callable[[str, Sequence[str]], Any] | None = None
    """Rerank three documents with these texts for this query, and keep two."""
    query: Callable[[str], Any] | None = None
    """Ask a pipeline this question: one root, with one retriever and one model call somewhere below it."""
    stream_query: Callable[[str], Iterator[Any]] | None = None
    """The same with a streamed answer: at least three chunks."""
