"""A framework of forty lines, an adapter for it, and adapters that are wrong in one way each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from aiobs_core import Kind, Operation, Outcome, Usage, get_recorder, semconv
from aiobs_testing import Driver

ids = itertools.count(1)


class Toy:
    """The framework: announces what it does to its handlers."""

    def __init__(self, handlers: list[Any]) -> None:
        self.handlers = handlers
        self.parent: int | None = None

    def run(self, kind: str, name: str, body: Callable[[], Any], **facts: Any) -> Any:
        run, parent = next(ids), self.parent
        self.tell("started", run, kind, name, parent, facts)
        self.parent = run
        try:
            result = body()
        except BaseException as error:
            self.tell("failed", run, error)
            raise
        finally:
            self.parent = parent
        self.tell("ended", run, kind, result)
        return result

    def stream(self, words: list[str]) -> Iterator[str]:
        run = next(ids)
        self.tell("started", run, "model", "fake-1", self.parent, {"stream": True})
        try:
            for word in words:
                self.tell("chunk", run, word)
                yield word
        except BaseException as error:
            self.tell("failed", run, error)
            raise
        self.tell("ended", run, "model", words)

    def tell(self, event: str, *facts: Any) -> None:
        for handler in self.handlers:
            getattr(handler, event)(*facts)


class ToyHandler:
    """The adapter: pure mapping onto the four verbs."""

    def started(self, run: int, kind: str, name: str, parent: int | None, facts: dict[str, Any]) -> None:
        model = name if kind == "model" else None
        operation = Operation(kind=Kind(kind), name=name, model=model, params=facts)
        # A generator runs in the context of whoever reads it: its run must not be current between two items.
        is_current = not facts.get("stream")
        get_recorder().start(run, operation, parent=parent, scope="aiobs.toy", make_current=is_current)

    def chunk(self, run: int, word: str) -> None:
        get_recorder().chunk(run, word)

    def ended(self, run: int, kind: str, result: Any) -> None:
        usage = Usage(input_tokens=11, output_tokens=7) if kind == "model" else None
        attributes = {"ai.agent.retrieval.document_count": len(result)} if kind == "retriever" else {}
        get_recorder().end(run, Outcome(usage=usage, attributes=attributes))

    def failed(self, run: int, error: BaseException) -> None:
        get_recorder().fail(run, error)


class ForgetsFailures(ToyHandler):
    def failed(self, run: int, error: BaseException) -> None:
        pass


class LeaksContent(ToyHandler):
    def failed(self, run: int, error: BaseException) -> None:
        span = get_recorder().find(run)
        if span is not None:
            span.set_attribute("ai.agent.api.name", str(error))
        super().failed(run, error)


class DoublesRuns(ToyHandler):
    def started(self, run: int, *facts: Any) -> None:
        super().started(run, *facts)
        super().started(run + 1_000_000, *facts)

    def ended(self, run: int, *facts: Any) -> None:
        super().ended(run + 1_000_000, *facts)
        super().ended(run, *facts)

    def failed(self, run: int, error: BaseException) -> None:
        super().failed(run + 1_000_000, error)
        super().failed(run, error)


class MakesUpNames(ToyHandler):
    def started(self, run: int, *facts: Any) -> None:
        super().started(run, *facts)
        span = get_recorder().find(run)
        if span is not None:
            span.set_attribute("toy.run", run)


class LosesParents(ToyHandler):
    def started(self, run: int, kind: str, name: str, parent: int | None, facts: dict[str, Any]) -> None:
        get_recorder().start(
            run, Operation(kind=Kind(kind), name=name), scope="aiobs.toy", make_current=False
        )


class StaysInsideStreams(ToyHandler):
    def started(self, run: int, kind: str, name: str, parent: int | None, facts: dict[str, Any]) -> None:
        super().started(run, kind, name, parent, {})


class GuessesParents(ToyHandler):
    """By what started last, which is another thread's as often as not."""

    last: list[int] = []

    def started(self, run: int, kind: str, name: str, parent: int | None, facts: dict[str, Any]) -> None:
        super().started(run, kind, name, self.last[-1] if self.last else None, facts)
        self.last.append(run)

    def ended(self, run: int, kind: str, result: Any) -> None:
        super().ended(run, kind, result)
        self.last.remove(run)

    def failed(self, run: int, error: BaseException) -> None:
        super().failed(run, error)
        self.last.remove(run)


class IsAlone(ToyHandler):
    """Made for one handler in one place."""

    def chunk(self, run: int, word: str) -> None:
        get_recorder().chunk(run)  # without the chunk, which tells two reports of one from two

    def __deepcopy__(self, memo: Any) -> IsAlone:
        raise TypeError("cannot be copied")


class TypesWrong(ToyHandler):
    def ended(self, run: int, kind: str, result: Any) -> None:
        span = get_recorder().find(run)
        if span is not None:
            span.set_attribute(semconv.INPUT_MESSAGE_COUNT, "one")
        super().ended(run, kind, result)


class RaisesItself(ToyHandler):
    def started(self, run: int, kind: str, *facts: Any) -> None:
        if kind == "tool":
            raise KeyError(kind)
        super().started(run, kind, *facts)


class ToyDriver(Driver):
    scope = "aiobs.toy"
    handler: type[ToyHandler] = ToyHandler

    def make_handler(self) -> ToyHandler:
        return self.handler()

    def chat(self, prompt: str) -> Any:
        return Toy(self.handlers).run("model", "fake-1", lambda: prompt)

    def failing_chat(self, error: BaseException) -> Any:
        return Toy(self.handlers).run("model", "fake-1", raising(error))

    def stream(self, prompt: str) -> Iterator[Any]:
        return Toy(self.handlers).stream([prompt, "to", "you"])

    def tool(self, argument: str, body: Callable[[], Any]) -> Any:
        return Toy(self.handlers).run("tool", "look", body)

    def retrieve(self, query: str, documents: Any) -> Any:
        return Toy(self.handlers).run("retriever", "toy-store", lambda: documents)

    def agent(self, prompt: str, body: Callable[[], Any]) -> Any:
        toy = Toy(self.handlers)

        def steps() -> str:
            toy.run("model", "fake-1", lambda: "call look")
            toy.run("tool", "look", body)
            return str(toy.run("model", "fake-1", lambda: "done"))

        return toy.run("agent", "helper", steps)

    def batch(self, prompts: Any) -> Any:
        return [self.chat(prompt) for prompt in prompts]


def raising(error: BaseException) -> Callable[[], Any]:
    def body() -> Any:
        raise error

    return body
