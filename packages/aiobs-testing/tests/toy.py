"""A framework of a page, the adapter for it that is right, and the driver for the conformance suite."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiobs_core import Kind, Operation, Outcome, Usage, get_recorder, semconv
from aiobs_core.adapter import SharedHandler, found_documents, found_vectors
from aiobs_testing import Driver

# --- the framework --------------------------------------------------------------------------------------------------

ids = itertools.count(1)
listeners: list[Any] = []  # of the whole process


class Run:
    """Of a model, a tool, …; kept for as long as it lasts. Tells its handlers what happens, and swallows their errors."""

    def __init__(
        self, kind: str, name: str, handlers: Sequence[Any], inside: Run | None = None, **facts: Any
    ) -> None:
        self.id, self.kind, self.name, self.inside, self.facts = next(ids), kind, name, inside, facts
        self.hears: list[Any] = [*listeners, *handlers] if inside is None else inside.hears
        self.tell("made")

    @property
    def is_stream(self) -> bool:
        return bool(self.facts.get("stream"))

    def tell(self, event: str, *facts: Any) -> None:
        for handler in self.hears:
            try:
                getattr(handler, event)(self, *facts)
            except Exception:
                if handler.raises:
                    raise

    @contextmanager
    def told(self) -> Iterator[None]:
        self.tell("started")
        try:
            yield
        except BaseException as error:
            self.tell("failed", error)
            raise

    def do(self, body: Callable[[], Any]) -> Any:
        with self.told():
            time.sleep(0.001)  # for other threads to come in between
            result = body()
        return self.done(result)

    async def ado(self, body: Callable[[], Any]) -> Any:
        with self.told():
            result = body()
            result = await (result if asyncio.iscoroutine(result) else asyncio.sleep(0, result))
        return self.done(result)

    def done(self, result: Any) -> Any:
        self.tell("ended", result)
        for handler in self.hears:
            result = handler.changed(result)
        return result

    def stream(self, words: Sequence[Any]) -> Any:
        """A word that is an exception is raised."""
        items = self._words(words)
        for handler in self.hears:
            items = handler.changed(items)
        return items

    def _words(self, words: Sequence[Any]) -> Iterator[str]:
        with self.told():
            for word in words:
                yield self._word(word)
        self.tell("ended", words)

    async def astream(self, words: Sequence[Any]) -> AsyncIterator[str]:
        with self.told():
            for word in words:
                await asyncio.sleep(0)
                yield self._word(word)
        self.tell("ended", words)

    def _word(self, word: Any) -> str:
        if isinstance(word, BaseException):
            raise word
        self.tell("chunk", word)
        return str(word)


# --- the adapter ----------------------------------------------------------------------------------------------------


class ToyHandler(SharedHandler):
    """Pure mapping onto the four verbs."""

    raises = False  # whether the framework lets through what this raises

    def made(self, run: Run) -> None:
        """A stream may be made and never be read: its run begins later."""

    def started(self, run: Run) -> None:
        get_recorder().start(
            self.key(run),
            self.operation(run),
            parent=self.parent(run),
            scope="aiobs.toy",
            lifetime=run,
            # A generator runs in the context of whoever reads it: its run must not be current between two items.
            make_current=not run.is_stream,
        )

    def key(self, run: Run) -> Any:
        return run.id

    def parent(self, run: Run) -> Any:
        return self.key(run.inside) if run.inside is not None else None

    def operation(self, run: Run) -> Operation:
        texts = run.facts.get("texts")
        return Operation(
            kind=Kind(run.kind),
            name=run.name,
            model=run.name if run.kind in {"model", "embedding"} else None,
            attributes={} if texts is None else {semconv.EMBEDDING_TEXT_COUNT: len(texts)},
        )

    def chunk(self, run: Run, word: str) -> None:
        get_recorder().chunk(self.key(run), word)

    def ended(self, run: Run, result: Any) -> None:
        get_recorder().end(self.key(run), self.outcome(run, result))

    def outcome(self, run: Run, result: Any) -> Outcome | None:
        if run.kind == "model":
            return Outcome(usage=Usage(input_tokens=11, output_tokens=7))
        return found_vectors(result) if run.kind == "embedding" else found_documents(result)

    def failed(self, run: Run, error: BaseException) -> None:
        get_recorder().fail(self.key(run), error)

    def changed(self, result: Any) -> Any:
        """The framework lets handlers replace results; those who observe do not."""
        return result


class Broken:
    raises = False

    def started(self, *_: Any) -> None:
        raise RuntimeError

    made = chunk = ended = failed = started

    def changed(self, result: Any) -> Any:
        return result


# --- the driver -----------------------------------------------------------------------------------------------------


class ToyDriver(Driver):
    """With everything that a driver can have."""

    scope = "aiobs.toy"
    handler: type[ToyHandler] = ToyHandler

    def __init__(self) -> None:
        super().__init__()
        listeners.clear()  # what a wrong adapter has left is not the next one's

    def make_handler(self) -> ToyHandler:
        return self.handler()

    def make_broken_handler(self) -> Any:
        return Broken()

    def install(self) -> None:
        if not listeners:
            listeners.append(self.handler())

    def uninstall(self) -> None:
        listeners.clear()

    def traces_left(self) -> list[str]:
        return list(map(repr, listeners))

    def run(self, kind: str, name: str, inside: Run | None = None, **facts: Any) -> Run:
        return Run(kind, name, self.handlers, inside, **facts)

    def ask(self, inside: Run | None = None, **facts: Any) -> Run:
        return self.run("model", "fake-1", inside, **facts)

    # --- models -----------------------------------------------------------------------------------------------------

    def chat(self, prompt: str) -> Any:
        return self.ask(prompt=prompt).do(lambda: prompt)

    async def achat(self, prompt: str) -> Any:
        return await self.ask(prompt=prompt).ado(lambda: prompt)

    def system_chat(self, system: str, prompt: str) -> Any:
        return self.ask(system=system, prompt=prompt).do(lambda: prompt)

    def failing_chat(self, error: BaseException) -> Any:
        return self.ask().do(raising(error))

    async def slow_achat(self, prompt: str) -> Any:
        return await self.ask(prompt=prompt).ado(lambda: asyncio.sleep(30))

    def batch(self, prompts: Sequence[str]) -> Any:
        return [self.chat(prompt) for prompt in prompts]

    def stream(self, prompt: str) -> Iterator[Any]:
        return self.ask(prompt=prompt, stream=True).stream([prompt, "to", "you"])

    def astream(self, prompt: str) -> AsyncIterator[Any]:
        return self.ask(prompt=prompt, stream=True).astream([prompt, "to", "you"])

    def failing_stream(self, error: BaseException) -> Iterator[Any]:
        return self.ask(stream=True).stream(["one", error])

    def embed(self, texts: Sequence[str]) -> Any:
        return self.run("embedding", "embed-1", texts=texts).do(lambda: [[0.5] * 8 for _ in texts])

    # --- tools and agents -------------------------------------------------------------------------------------------

    def tool(self, argument: str, body: Callable[[], Any]) -> Any:
        return self.run("tool", "look", argument=argument).do(body)

    async def atool(self, argument: str, body: Callable[[], Any]) -> Any:
        return await self.run("tool", "look", argument=argument).ado(body)

    def parallel_tools(self, body: Callable[[str], Any]) -> Any:
        both = self.run("chain", "both")

        def steps() -> None:
            tools = [self.run("tool", "look", both, argument=name) for name in "ab"]
            threads = [
                threading.Thread(target=tool.do, args=(lambda tool=tool: body(tool.facts["argument"]),))
                for tool in tools
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        return both.do(steps)

    def agent(self, prompt: str, body: Callable[[], Any]) -> Any:
        agent = self.run("agent", "helper", prompt=prompt)

        def steps() -> Any:
            self.ask(agent).do(lambda: "call look")
            found = self.run("tool", "look", agent).do(body)
            return self.ask(agent).do(lambda: f"{found} it")

        return agent.do(steps)

    async def aagent(self, prompt: str, body: Callable[[], Any]) -> Any:
        agent = self.run("agent", "helper", prompt=prompt)

        async def steps() -> Any:
            await self.ask(agent).ado(lambda: "call look")
            found = await self.run("tool", "look", agent).ado(body)
            return await self.ask(agent).ado(lambda: f"{found} it")

        return await agent.ado(steps)

    # --- retrieval --------------------------------------------------------------------------------------------------

    def retrieve(self, query: str, documents: Sequence[str]) -> Any:
        return self.run("retriever", "toy-store", query=query).do(lambda: documents)

    def rerank(self, query: str, documents: Sequence[str]) -> Any:
        return self.run("reranker", "toy-reranker", query=query).do(lambda: documents[:2])

    def query(self, question: str) -> Any:
        chain = self.run("chain", "pipeline", question=question)

        def steps() -> Any:
            self.run("retriever", "toy-store", chain).do(lambda: ["one", "two"])
            return self.ask(chain).do(lambda: question)

        return chain.do(steps)

    def stream_query(self, question: str) -> Iterator[Any]:
        chain = self.run("chain", "pipeline", question=question, stream=True)
        with chain.told():
            self.run("retriever", "toy-store", chain).do(lambda: ["one", "two"])
            yield from self.ask(chain, stream=True).stream([question, "to", "you"])
        chain.done(None)


def raising(error: BaseException) -> Callable[[], Any]:
    def body() -> Any:
        raise error

    return body
