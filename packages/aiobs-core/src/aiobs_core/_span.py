"""`AgentSpan`: the record of one run, and at the same time the OpenTelemetry span that is current while it runs."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Hashable, Mapping
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    Link,
    Span,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AnyValue

from aiobs_core import semconv
from aiobs_core._switches import ALL, TRACES
from aiobs_core.sampling.threshold import with_threshold

if TYPE_CHECKING:
    import weakref
    from asyncio import Task
    from decimal import Decimal
    from typing import Any

    from aiobs_core._context import RequestAttributes
    from aiobs_core._operation import Operation, Outcome, RunStatus
    from aiobs_core.logs.request import RequestSummary
    from aiobs_core.pricing.stage import CostBelow
    from aiobs_core.sampling.trace import Trace

    OperationSource = Operation | Callable[[], Operation | None]
    OutcomeSource = Outcome | Callable[[], Outcome | None]

_RANDOM: Final = 0x02  # W3C trace context level 2: the trace id is random, so consistent samplers may use it
NEW_TRACE_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED | _RANDOM)
_MAX_EVENTS: Final = 128  # the SDK's default span limits
_MAX_ATTRIBUTES: Final = 128
_MAX_LINKS: Final = 128
_MAX_CLASS_NAME: Final = 200

# Not `random`'s shared generator: an application that seeds it would make the same ids again in each process.
_ids = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.seed)


def new_span_id() -> int:
    """A random non-zero 64-bit id."""
    return _ids.getrandbits(64) or 1


def new_trace_id() -> int:
    """A random non-zero 128-bit id."""
    return _ids.getrandbits(128) or 1


class LocalTrace:
    """What all spans of one trace share in this process: id, clock, sampling flag.

    Every time in the trace is `perf_counter_ns()` plus one offset, taken when the local root started: durations
    are monotonic and children lie inside their parents even when the wall clock is set meanwhile.
    """

    __slots__ = (
        "clock_offset_ns",
        "flags",
        "is_forced",
        "is_settled",
        "log",
        "sampled",
        "signals",
        "spent_usd",
        "state",
        "tail",
        "trace_id",
    )

    def __init__(
        self,
        trace_id: int,
        flags: TraceFlags = NEW_TRACE_SAMPLED,
        state: TraceState | None = None,
        signals: int = ALL,
    ) -> None:
        self.trace_id = trace_id
        self.flags = flags
        self.sampled = flags is NEW_TRACE_SAMPLED or flags.sampled  # the property takes a while
        self.state = state
        self.signals = signals
        self.clock_offset_ns = time_ns() - perf_counter_ns()
        self.log: RequestSummary | None = None  # the worker's: what the line of the request will say
        self.spent_usd: Decimal | None = None  # the worker's: of a budget per request
        self.is_forced = False  # the application's: to be kept whatever the sampling policy says
        self.tail: Trace | None = None  # the worker's: what the tail sampler holds back and has decided
        self.is_settled = False

    def settle(self, threshold: int) -> None:
        """Tell with the spans of a kept trace, and those that it still calls, by which threshold it was kept."""
        if not self.is_settled:
            self.is_settled = True
            self.state = with_threshold(self.state, threshold)


class AgentSpan(Span):
    """One run of an agent, model, tool, …, from start to end.

    As the current span it heals itself: attached when the run starts and never detached, it answers with its own
    context until the run ends, and from then on with the span that was current before. No token has to be reset,
    so no framework that ends a run in another task can break the context.

    The caller's thread owns it until it ends, the worker afterwards; attributes set in between by the
    application are kept, those set after the end go to the span that is current by then.
    """

    __slots__ = (
        "_context",
        "active_as",
        "adopts",
        "agent_inside",
        "answered_below",
        "attributes",
        "attempts",
        "below",
        "chunk_count",
        "end_ns",
        "error",
        "error_below",
        "error_class",
        "events",
        "finish_reasons",
        "first_chunk_ns",
        "forced_status",
        "frame_id",
        "in_event_loop",
        "interrupted_below",
        "key",
        "last_item",
        "lifetime",
        "links",
        "name_override",
        "open_children",
        "operation",
        "outcome",
        "outer",
        "parent",
        "parent_context",
        "promoted_kind",
        "request",
        "scope",
        "span_id",
        "start_ns",
        "status_code",
        "subject",
        "task",
        "thread_id",
        "trace",
        "unreadable",
        "user_status",
    )

    def __init__(  # noqa: PLR0917 (names would cost the one caller, the recorder, a fifth of this call)
        self,
        key: Hashable,
        operation: OperationSource | None,
        trace: LocalTrace,
        parent: AgentSpan | None,
        parent_context: SpanContext | None,
        outer: Span,
        scope: str,
        span_id: int,
    ) -> None:
        self.key = key
        self.operation = operation
        self.trace = trace
        self.parent = parent
        self.parent_context = parent_context
        self.outer = outer
        self.scope = scope
        self.span_id = span_id
        self.start_ns = perf_counter_ns() + trace.clock_offset_ns
        self.end_ns = 0
        self.first_chunk_ns = 0
        self.finish_reasons: tuple[str, ...] = ()  # of a stream, where its last chunk does not tell
        self.chunk_count = 0
        self.last_item: object = None
        self.outcome: OutcomeSource | None = None
        self.error: BaseException | None = None  # only where a policy may let its text out
        self.error_class: type[BaseException] | None = None
        self.status_code: int | None = None
        self.forced_status: RunStatus | None = None
        self.user_status: Status | None = None
        self.request: RequestAttributes | None = None
        self.attributes: dict[str, AnyValue] | None = None
        self.events: list[tuple[str, int, Mapping[str, AnyValue]]] | None = None
        self.links: list[Link] | None = None
        self.name_override: str | None = None
        self.open_children: dict[int, AgentSpan] = {}
        self.lifetime: weakref.ref[object] | None = None
        self.in_event_loop = False
        self.adopts = False
        self.subject: object = None
        self.frame_id = 0
        self.thread_id = 0
        self.task: weakref.ref[Task[Any]] | None = None
        # Written by the worker only, on the way through the stages:
        self.promoted_kind: str | None = None
        self.interrupted_below = False
        self.error_below: str | None = None
        self.attempts: dict[Hashable, int] | None = None
        self.unreadable: str | None = None  # class of what its operation raised
        self.agent_inside: str | None = (
            ""  # of the runs inside, where their framework does not say; empty: not asked
        )
        self.answered_below: set[tuple[int | None, ...]] | None = (
            None  # tokens of model calls right inside this one
        )
        self.below: CostBelow | None = None
        self._context: SpanContext | None = None
        self.active_as: tuple[tuple[str, str | int], ...] | None = None  # of whoever counts the open runs

    # --- the record ----------------------------------------------------------------------------------------

    @property
    def is_local_root(self) -> bool:
        """True for the first run of its trace in this process."""
        return self.parent is None

    @property
    def local_root(self) -> AgentSpan:
        """The first run of its trace in this process."""
        span = self
        while span.parent is not None:
            span = span.parent
        return span

    @property
    def has_own_policy(self) -> bool:
        """Whether the application chose a privacy policy for this run."""
        return self.request is not None and self.request.privacy_policy is not None

    @property
    def started_ns(self) -> int:
        """`perf_counter_ns()` when the run started."""
        return self.start_ns - self.trace.clock_offset_ns

    def own_context(self) -> SpanContext:
        """This span's own ids, whether it has ended or not."""
        context = self._context
        if context is None:
            trace = self.trace
            context = self._context = SpanContext(
                trace.trace_id, self.span_id, False, trace.flags, trace.state
            )
        return context

    def forget_context(self) -> None:
        """Make `own_context` answer with the trace's state as it is now."""
        self._context = None

    def current(self) -> Span:
        """This span while it runs; afterwards the one that was current before it."""
        span: Span = self
        # isinstance would ask the abstract base class, which is ten times as slow.
        while type(span) is AgentSpan and span.end_ns:
            span = span.outer
        return span

    def _seen_by_others(self) -> Span:
        """The current span as other instrumentations see it: one that is not exported is no parent of theirs."""
        span: Span = self
        while type(span) is AgentSpan and (span.end_ns or not span.trace.signals & TRACES):
            span = span.outer
        return span

    def finish(self, end_ns: int = 0) -> None:
        """Stop the clock and let go of what only a running span needs."""
        self.end_ns = end_ns or perf_counter_ns() + self.trace.clock_offset_ns
        self.lifetime = None
        self.last_item = None
        self.subject = None
        if self.parent is not None:
            self.parent.open_children.pop(self.span_id, None)

    # --- opentelemetry.trace.Span ----------------------------------------------------------------------------

    def get_span_context(self) -> SpanContext:
        span = self._seen_by_others()
        if type(span) is AgentSpan:
            return span.own_context()
        return span.get_span_context() if span is not INVALID_SPAN else INVALID_SPAN_CONTEXT

    def is_recording(self) -> bool:
        span = self._seen_by_others()
        return span.trace.sampled if type(span) is AgentSpan else span.is_recording()

    def set_attribute(self, key: str, value: AnyValue) -> None:
        if self.end_ns:
            self.current().set_attribute(key, value)
            return
        if self.attributes is None:
            self.attributes = {}
        if key in self.attributes or len(self.attributes) < _MAX_ATTRIBUTES:
            self.attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, AnyValue]) -> None:
        for key, value in attributes.items():
            self.set_attribute(key, value)

    def add_event(
        self, name: str, attributes: Mapping[str, AnyValue] | None = None, timestamp: int | None = None
    ) -> None:
        if self.end_ns:
            self.current().add_event(name, attributes, timestamp)
            return
        if self.events is None:
            self.events = []
        if len(self.events) < _MAX_EVENTS:
            now = timestamp or perf_counter_ns() + self.trace.clock_offset_ns
            self.events.append((name, now, dict(attributes) if attributes else {}))

    def add_link(self, context: SpanContext, attributes: Mapping[str, AnyValue] | None = None) -> None:
        if self.end_ns:
            self.current().add_link(context, attributes)
            return
        if self.links is None:
            self.links = []
        if len(self.links) < _MAX_LINKS:
            self.links.append(Link(context, attributes))

    def update_name(self, name: str) -> None:
        if self.end_ns:
            self.current().update_name(name)
        else:
            self.name_override = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if self.end_ns:
            self.current().set_status(status, description)
        else:  # the description is dropped: it is where instrumentations put exception texts
            self.user_status = Status(status.status_code if isinstance(status, Status) else status)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, AnyValue] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Record the exception's class; its message and stack trace stay in the process."""
        if self.end_ns:
            self.current().record_exception(exception, attributes, timestamp, escaped)
        else:
            event = {semconv.EXCEPTION_TYPE: class_name(type(exception))}
            self.add_event(semconv.EVENT_EXCEPTION, event, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """Do nothing: only the recorder ends runs, so that each ends exactly once."""

    def __repr__(self) -> str:
        return f"AgentSpan(trace_id={self.trace.trace_id:032x}, span_id={self.span_id:016x})"


def class_name(cls: type) -> str:
    """`openai.RateLimitError`, `ValueError`: the name that `error.type` takes for an exception class."""
    module, name = getattr(cls, "__module__", ""), getattr(cls, "__qualname__", None)
    if type(name) is not str or not _is_class_name(name):
        return "Exception"  # a class made at run time may carry text in its name
    return name if type(module) is not str or module in {"builtins", ""} else f"{module}.{name}"


def _is_class_name(name: str) -> bool:
    return len(name) <= _MAX_CLASS_NAME and all(
        part.isidentifier() or part == "<locals>" for part in name.split(".")
    )
