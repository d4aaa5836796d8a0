"""Traces to decide on: played by a real recorder and the SDK, each told by its name."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Status, StatusCode

from aiobs_core import (
    Kind,
    Operation,
    Outcome,
    RunStatus,
    Settings,
    Usage,
    feedback,
    keep,
    semconv,
    using_attributes,
)
from aiobs_core._recorder import Recorder
from aiobs_core.export.destinations import _OwnProvider

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01, "grace_s": 0.1}
MODELS = ("gpt-3.5-turbo-0125", "gpt-4o", "claude-sonnet-4", "house model [v2]")
TOOLS = ("search", "sql_query", "send mail")
ERRORS = (ValueError, TimeoutError, RuntimeError)
TAGS = ("gold", "beta", "a $1 tag", 'quoted "tag"')
SESSIONS = ("s-1", "s-2", "café")
SCORES = ("helpfulness", "style")


@dataclass(frozen=True)
class Trace:
    """One recorded trace.

    Attributes:
        name: Of the scene.
        operation: Name of its outermost run or request.
        spans: As they were exported.
    """

    name: str
    operation: str
    spans: tuple[ReadableSpan, ...]

    @property
    def trace_id(self) -> int:
        found = self.spans[0].context
        assert found is not None
        return found.trace_id


class Stage:
    """A recorder whose provider takes the spans of other instrumentations, too."""

    def __init__(self, sampling: object = "all", **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = _OwnProvider()
        loaded = Settings.load({}, {**QUICK, "sampling": sampling, **settings}, strict=True)
        self.recorder = Recorder(loaded, exporters=[self.exporter], tracer_provider=self.provider)
        self.tracer = self.provider.get_tracer("http")

    @contextmanager
    def run(
        self, operation: Operation, outcome: Outcome | None = None, error: Exception | None = None
    ) -> Any:
        key = object()
        self.recorder.start(key, operation, scope="aiobs.test", make_current=True)
        yield key
        if error is not None:
            self.recorder.fail(key, error)
        else:
            self.recorder.end(key, outcome)

    def agent(self, name: str = "planner", outcome: Outcome | None = None) -> Any:
        return self.run(Operation(kind=Kind.AGENT, name=name), outcome)

    def tool(self, name: str = "search", error: Exception | None = None) -> None:
        with self.run(Operation(kind=Kind.TOOL, name=name), None, error):
            pass

    def model(
        self,
        model: str,
        usage: Usage | None = None,
        *,
        cost_usd: float | None = None,
        kind: Kind = Kind.MODEL,
        sleep_s: float = 0,
    ) -> None:
        with self.run(
            Operation(kind=kind, name="Chat", provider="house", model=model),
            Outcome(usage=usage, cost_usd=cost_usd),
        ):
            time.sleep(sleep_s)

    def play(self, scene: Callable[[Stage], str]) -> str:
        """Play a scene as a trace of its own; what it calls its outermost run."""
        token = context.attach(context.Context())
        try:
            return scene(self)
        finally:
            context.detach(token)

    def exported(self) -> list[ReadableSpan]:
        assert self.recorder.flush(30)
        return list(self.exporter.get_finished_spans())

    def close(self) -> None:
        self.recorder.shutdown(10)


# --- scenes: each returns the name of its outermost run or request ---------------------------------------------------


def plain(stage: Stage) -> str:
    with stage.agent("planner"):
        stage.model("gpt-4o", Usage(input_tokens=10, output_tokens=3))
        stage.tool()
    return "planner"


def failed_model(stage: Stage) -> str:
    call = Operation(kind=Kind.MODEL, name="Chat", model="gpt-4o")
    with stage.run(Operation(kind=Kind.WORKFLOW, name="answer")), stage.run(call, error=TimeoutError("late")):
        pass
    return "answer"


def failed_tool(stage: Stage) -> str:
    with stage.agent("buyer"):
        stage.tool("sql_query", ValueError("no such table"))
        stage.tool("search")
    return "buyer"


def timed_out(stage: Stage) -> str:
    with stage.agent("planner", Outcome(status=RunStatus.TIMED_OUT)):
        stage.tool()
    return "planner"


def cancelled(stage: Stage) -> str:
    with stage.agent("planner", Outcome(status=RunStatus.CANCELLED)):
        pass
    return "planner"


def costly(stage: Stage) -> str:
    with stage.agent("planner"):
        stage.model("gpt-4o", Usage(input_tokens=10, output_tokens=3), cost_usd=0.04)
        with stage.run(Operation(kind=Kind.CHAIN, name="step")):
            stage.model("gpt-4o", Usage(input_tokens=10), cost_usd=0.03)
    return "planner"


def costly_call_alone(stage: Stage) -> str:
    stage.model("claude-sonnet-4", Usage(input_tokens=10, output_tokens=3), cost_usd=0.25)
    return "chat claude-sonnet-4"


def large_call(stage: Stage) -> str:
    with stage.run(Operation(kind=Kind.WORKFLOW, name="answer")):
        stage.model("gpt-3.5-turbo-0125", Usage(input_tokens=400, output_tokens=150))
    return "answer"


def large_input_only(stage: Stage) -> str:
    with stage.agent("planner"):
        stage.model("gpt-3.5-turbo-0125", Usage(input_tokens=501))
        stage.model("embed-1", Usage(input_tokens=900), kind=Kind.EMBEDDING)
    return "planner"


def large_output_only(stage: Stage) -> str:
    with stage.agent("planner"):
        stage.model("house model [v2]", Usage(output_tokens=2_000))
    return "planner"


def cached_large_call(stage: Stage) -> str:
    with stage.agent("planner"):
        stage.model("gpt-3.5-turbo-0125", Usage(input_tokens=4_000, output_tokens=1, source="cache_hit"))
    return "planner"


def two_calls(stage: Stage) -> str:
    """Large and of the right model, but not the same one."""
    with stage.agent("planner"):
        stage.model("gpt-3.5-turbo-0125", Usage(input_tokens=100, output_tokens=100))
        stage.model("gpt-4o", Usage(input_tokens=700, output_tokens=100))
    return "planner"


def slow_call(stage: Stage) -> str:
    with stage.agent("planner"):
        stage.model("gpt-4o", Usage(input_tokens=1), sleep_s=0.05)
    return "planner"


def forced(stage: Stage) -> str:
    with stage.agent("planner"), stage.run(Operation(kind=Kind.TOOL, name="search")):
        assert keep()
    return "planner"


def forced_by_baggage(stage: Stage) -> str:
    context.attach(baggage.set_baggage(semconv.SAMPLING_KEEP, "true"))
    return plain(stage)


def forced_in_a_request(stage: Stage) -> str:
    with stage.tracer.start_as_current_span("POST /chat"):
        assert keep()
        stage.tool()
    return "POST /chat"


def tagged(stage: Stage) -> str:
    with using_attributes(tags=["beta", "gold"], session_id="s-1"):
        return plain(stage)


def oddly_tagged(stage: Stage) -> str:
    with using_attributes(tags=["a $1 tag", 'quoted "tag"'], session_id="café"):
        return plain(stage)


def of_somebody(stage: Stage) -> str:
    with using_attributes(user_id="u-17", tenant_id="acme", session_id="s-2"):
        return plain(stage)


def with_attributes(stage: Stage) -> str:
    with stage.agent("planner"):
        trace.get_current_span().set_attributes(
            {"shop.tier": "gold", "shop.retries": 2, "shop.share": 2.0, "shop.new": True}
        )
    return "planner"


def with_other_attributes(stage: Stage) -> str:
    with stage.agent("planner"):
        trace.get_current_span().set_attributes(
            {"shop.tier": "golden", "shop.retries": 2.0, "shop.share": 2, "shop.new": "true"}
        )
    return "planner"


def praised(stage: Stage) -> str:
    with stage.agent("planner"):
        assert feedback("helpfulness", 0.95)
        assert feedback("style", 0.5)
    return "planner"


def blamed(stage: Stage) -> str:
    with stage.agent("planner"):
        assert feedback("helpfulness", 0.1)
    return "planner"


def slow_request(stage: Stage) -> str:
    start_ns = time.time_ns() - 12 * 10**9
    with stage.tracer.start_as_current_span("POST /chat", start_time=start_ns):
        plain(stage)
    return "POST /chat"


def slow_beside(stage: Stage) -> str:
    """No single span lasts long; the first and the last do together."""
    with stage.tracer.start_as_current_span("GET /late"):
        now_ns = time.time_ns()
        stage.tracer.start_span("before", start_time=now_ns - 7 * 10**9).end(now_ns - 6 * 10**9)
        stage.tool()
    return "GET /late"


def failed_request(stage: Stage) -> str:
    with stage.tracer.start_as_current_span("POST /chat") as span:
        span.set_attribute(semconv.ERROR_TYPE, "HTTPError")
        span.set_status(Status(StatusCode.ERROR))
        plain(stage)
    return "POST /chat"


def request_with_odd_attributes(stage: Stage) -> str:
    """Types where nobody expects them."""
    with stage.tracer.start_as_current_span("GET /odd") as span:
        span.set_attributes(
            {semconv.TAGS: "gold", "shop.tier": ["gold"], "shop.retries": False, "shop.share": "2.0"}
        )
        with stage.tracer.start_as_current_span("SELECT") as below:
            below.set_attributes({"shop.tier": 7, "db.rows": 12, "shop.new": 1})
            below.set_attributes(
                {semconv.SPAN_KIND: "model", semconv.USAGE_INPUT_TOKENS: True, semconv.COST_USD: True}
            )
            for score in (True, False, "0.0"):
                below.add_event(semconv.EVENT_EVALUATION, {semconv.GEN_AI_EVALUATION_SCORE: score})
    return "GET /odd"


SCENES: Mapping[str, Callable[[Stage], str]] = {
    scene.__name__: scene
    for scene in (
        plain, failed_model, failed_tool, timed_out, cancelled, costly, costly_call_alone, large_call, large_input_only,
        large_output_only, cached_large_call, two_calls, slow_call, forced, forced_in_a_request, tagged,
        oddly_tagged, of_somebody, with_attributes, with_other_attributes, praised, blamed, slow_request, slow_beside,
        failed_request, request_with_odd_attributes,
    )
}  # fmt: skip


def at_random(seed: int) -> Callable[[Stage], str]:
    """A scene of anything: up to ten runs, tools and models that fail or not, tags, scores, a request around."""
    dice = random.Random(seed)

    def inside(stage: Stage, depth: int) -> None:
        for _ in range(dice.randint(0, 3)):
            kind = dice.choice(("tool", "model", "chain", "foreign"))
            if kind == "tool":
                stage.tool(dice.choice(TOOLS), dice.choice((None, None, dice.choice(ERRORS)("x"))))
            elif kind == "model":
                counts = [dice.choice((None, 0, 100, 499, 500, 501, 3_000)) for _ in range(2)]
                usage = (
                    None if counts == [None, None] else Usage(input_tokens=counts[0], output_tokens=counts[1])
                )
                stage.model(dice.choice(MODELS), usage, cost_usd=dice.choice((None, 0.0, 0.011, 0.043, 0.3)))
            elif kind == "foreign":
                with stage.tracer.start_as_current_span(dice.choice(("GET", "SELECT"))) as span:
                    span.set_attributes(
                        {"shop.tier": dice.choice(("gold", "silver")), "shop.retries": dice.randint(0, 3)}
                    )
                    if not dice.randint(0, 5):
                        span.set_status(Status(StatusCode.ERROR))
            elif depth < 2:
                with stage.run(
                    Operation(kind=Kind.CHAIN, name="step"),
                    error=dice.choice((None, None, None, ValueError("x"))),
                ):
                    if not dice.randint(0, 2):
                        feedback(dice.choice(SCORES), dice.choice((0.0, 0.25, 0.75, 1.0)))
                    inside(stage, depth + 1)

    def scene(stage: Stage) -> str:
        tags = dice.sample(TAGS, dice.randint(0, 2))
        with using_attributes(tags=tags, session_id=dice.choice((None, *SESSIONS))):
            if dice.randint(0, 1):
                with stage.agent(name := dice.choice(("planner", "buyer"))):
                    inside(stage, 0)
                return name
            name = dice.choice(("POST /chat", "GET /late"))
            start_ns = time.time_ns() - dice.choice((0, 0, 3, 9)) * 10**9
            with stage.tracer.start_as_current_span(name, start_time=start_ns), stage.agent("planner"):
                inside(stage, 0)
            return name

    return scene


def recorded(scenes: Mapping[str, Callable[[Stage], str]], **settings: Any) -> list[Trace]:
    """Each scene as a trace of its own, with all of its spans as they are exported where everything is kept."""
    found = []
    stage = Stage(**settings)
    try:
        for name, scene in scenes.items():
            stage.exporter.clear()
            operation = stage.play(scene)
            found.append(Trace(name, operation, tuple(stage.exported())))
    finally:
        stage.close()
    return found
