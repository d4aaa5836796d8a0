"""What the tests of traps, lifecycle and control flow share: the two subjects, rule G, and reading of span trees."""

from __future__ import annotations

import gc
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult, LLMResult
from langchain_core.version import VERSION
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import configure, get_recorder
from aiobs_langchain import AiObsCallbackHandler
from aiobs_testing.capture import QUICK

CORE = tuple(int(part) for part in VERSION.split(".")[:2])
SCOPE = "aiobs.langchain"
_HURT = ("opentelemetry", "langchain_core", "langgraph", "aiobs")


class Witness(BaseCallbackHandler):
    """Counts the runs that LangChain says it started; keeps numbers only, so that it keeps no run alive."""

    run_inline = True

    def __init__(self) -> None:
        self.started: dict[int, str] = {}

    def on_chain_start(self, serialized, inputs, *, run_id, **kwargs):
        self.started[run_id.int] = "chain"

    def on_chat_model_start(self, serialized, messages, *, run_id, **kwargs):
        self.started[run_id.int] = "model"

    def on_llm_start(self, serialized, prompts, *, run_id, **kwargs):
        self.started[run_id.int] = "model"

    def on_tool_start(self, serialized, input_str, *, run_id, **kwargs):
        self.started[run_id.int] = "tool"

    def on_retriever_start(self, serialized, query, *, run_id, **kwargs):
        self.started[run_id.int] = "retriever"

    def count(self, kind: str) -> int:
        return Counter(self.started.values())[kind]


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if (
            record.name.split(".", maxsplit=1)[0] in _HURT and record.name != "aiobs.pricing"
        ):  # fakes have no price
            self.lines.append(f"{record.name}: {record.getMessage()}")


class Subject:
    """One side of a comparison: its handler, its spans, and what LangChain and the logs say about the same runs."""

    is_naive = False
    names: dict[str, str] = {}
    handler: BaseCallbackHandler

    def __init__(self) -> None:
        self.witness = Witness()
        self.log = _Log()
        self.counts_runs = True
        self.expected: tuple[str, ...] = ()  # warnings that the scenario provokes

    @property
    def callbacks(self) -> list[BaseCallbackHandler]:
        return [self.handler, self.witness]

    def config(self, **more: Any) -> Any:
        return {"callbacks": self.callbacks, **more}

    def make_handler(self) -> BaseCallbackHandler:
        raise NotImplementedError

    def close(self) -> None:
        """Let go of what the test has set up."""

    def tracer(self) -> trace.Tracer:
        raise NotImplementedError

    def spans(self) -> list[ReadableSpan]:
        raise NotImplementedError

    def open_runs(self) -> int:
        raise NotImplementedError

    def get(self, span: ReadableSpan, name: str) -> Any:
        return (span.attributes or {}).get(self.names.get(name, name))

    def same(self, call: Callable[[Any], Any]) -> Any:
        """Run `call` without and with the handlers; both must give the same result or exception. Returns it."""
        bare = _outcome_of(lambda: call([]))
        seen = _outcome_of(lambda: call(self.callbacks))
        assert _comparable(seen) == _comparable(bare)
        return seen

    async def same_async(self, call: Callable[[Any], Awaitable[Any]]) -> Any:
        bare = await _outcome_of_async(lambda: call([]))
        seen = await _outcome_of_async(lambda: call(self.callbacks))
        assert _comparable(seen) == _comparable(bare)
        return seen

    def all_ended(self, timeout_s: float = 5.0) -> list[ReadableSpan]:
        """The spans, once nothing is open any more."""
        if self.open_runs():
            gc.collect()  # a pass over all modules takes 0.1 s
        until(lambda: self.open_runs() == 0, timeout_s)
        return self.spans()

    def check_rule_g(self) -> None:
        """Nothing logged, each started run exported exactly once, nothing kept."""
        spans = self.all_ended()
        assert [line for line in self.log.lines if not any(text in line for text in self.expected)] == []
        ids = [span.context.span_id for span in spans]
        assert len(ids) == len(set(ids)), "a span was exported twice"
        if self.counts_runs:
            ours = [span for span in spans if not self.is_naive and span.instrumentation_scope.name == SCOPE]
            assert len(ours) == len(self.witness.started), (names(ours), self.witness.started)


class AiobsSubject(Subject):
    """aiobs itself; what it exports is kept in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.reconfigure()
        self.recorder = get_recorder()
        self.handler = self.make_handler()

    def reconfigure(self, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        configure(exporters=[self.exporter], strict=True, **{**QUICK, **settings})

    def close(self) -> None:
        self.recorder.shutdown(10)
        self.recorder.apply(self.recorder.settings, exporters=[])

    def make_handler(self) -> AiObsCallbackHandler:
        return AiObsCallbackHandler()

    def tracer(self) -> trace.Tracer:
        return trace.get_tracer("app")

    def spans(self) -> list[ReadableSpan]:
        assert get_recorder().flush(10)
        return list(self.exporter.get_finished_spans())

    def open_runs(self) -> int:
        return get_recorder().open_runs


# --- waiting and comparing ------------------------------------------------------------------------------------------


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.01)


def _outcome_of(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BaseException as error:
        return error.with_traceback(None)


async def _outcome_of_async(call: Callable[[], Awaitable[Any]]) -> Any:
    try:
        return await call()
    except BaseException as error:
        return error.with_traceback(None)


def _comparable(value: Any) -> Any:
    """The value without the ids that LangChain draws anew in each run."""
    if isinstance(value, BaseException):
        return type(value), str(value)
    if isinstance(value, BaseMessage):
        kept = {key: item for key, item in value.model_dump().items() if key not in {"id", "artifact"}}
        return type(value).__name__, _comparable(kept)
    if isinstance(value, (ChatResult, LLMResult, Document)):
        return type(value).__name__, _comparable(value.model_dump(exclude={"run", "id"}))
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items() if key not in {"id", "__interrupt__"}}
    if isinstance(value, (list, tuple)):
        return [_comparable(item) for item in value]
    return value


# --- reading trees --------------------------------------------------------------------------------------------------


def names(spans: Sequence[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


def one(spans: Sequence[ReadableSpan], name: str) -> ReadableSpan:
    """The only span of this name, or whose name ends so (`chat fake-1` → `fake-1`)."""
    found = [span for span in spans if span.name == name or span.name.endswith(f" {name}")]
    assert len(found) == 1, f"{name}: {len(found)} of {names(spans)}"
    return found[0]


def every(spans: Sequence[ReadableSpan], name: str) -> list[ReadableSpan]:
    found = [span for span in spans if span.name == name or span.name.endswith(f" {name}")]
    return sorted(found, key=lambda span: span.start_time or 0)


def kind(spans: Sequence[ReadableSpan], kind_: str) -> list[ReadableSpan]:
    found = [span for span in spans if (span.attributes or {}).get("ai.agent.span.kind") == kind_]
    return sorted(found, key=lambda span: span.start_time or 0)


def parent_id(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    return parent_id(span) == parent.context.span_id and span.context.trace_id == parent.context.trace_id


def traces(spans: Sequence[ReadableSpan]) -> set[int]:
    return {span.context.trace_id for span in spans}


def roots(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    return [span for span in spans if span.parent is None]


def parent_of(spans: Sequence[ReadableSpan], span: ReadableSpan) -> ReadableSpan:
    found = [other for other in spans if other.context.span_id == parent_id(span)]
    assert len(found) == 1, f"{span.name} has no parent among {names(spans)}"
    return found[0]


def path(spans: Sequence[ReadableSpan], span: ReadableSpan) -> list[str]:
    """Names from the root down to the span."""
    out = [span.name]
    while span.parent is not None:
        span = parent_of(spans, span)
        out.insert(0, span.name)
    return out


def outcome(span: ReadableSpan) -> Any:
    return (span.attributes or {}).get("ai.agent.outcome")


def is_error(span: ReadableSpan) -> bool:
    return span.status.status_code is trace.StatusCode.ERROR
