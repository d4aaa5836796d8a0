"""Which open run the running code is inside of, where the current span alone cannot say.

A span is current until its run ends, and some runs are still open when the code that follows is not inside them: one
that was cancelled and whose end nobody reports (`asyncio.timeout`), a stream while its consumer works, the first of a
batch whose runs are all started before any of them works. The stack knows: a run's body is called by the frame that
started the run.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from asyncio import Task, current_task
from types import FrameType
from typing import Any, Final

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import Span, SpanContext

from aiobs_core._context import RUN_KEY, SPAN_KEY
from aiobs_core._span import AgentSpan
from aiobs_core._switches import TRACES

running_loop: Final = asyncio._get_running_loop  # noqa: SLF001 (get_running_loop() raises where there is none: slow)
_OPAQUE: Final = ("async_generator_asend", "async_generator_athrow", "anext_awaitable")


def note_place(span: AgentSpan, frame_id: int) -> None:
    """Remember where a run without a parent started."""
    span.frame_id = frame_id
    span.thread_id = threading.get_ident()
    task = _task()
    if task is not None:
        span.task = weakref.ref(task)


def innermost(span: AgentSpan, frame_id: int) -> Span:
    """The innermost run around the running code, given the current one; or the span that was current before them.

    Args:
        span: The current span, open.
        frame_id: `id()` of the frame that starts another run; 0 if unknown.
    """
    frames: set[int] | None = None
    found: Span = span
    while isinstance(found, AgentSpan):
        root = _framed(found)
        if root is None:
            return found
        if not _is_here(root):
            if not root.end_ns and _is_inside_elsewhere(root):
                return found
        elif not root.end_ns:
            if frames is None:
                frames = _frames()
            # Both started by one frame: the one is not called by the other.
            if root.frame_id in frames and root.frame_id != frame_id:
                return found
        outer = root.outer
        found = outer.current() if isinstance(outer, AgentSpan) else outer
    return found


def _framed(span: AgentSpan) -> AgentSpan | None:
    """The outermost run around it, or itself, of which the place is known: a request or a manual span has none."""
    found = None
    above: AgentSpan | None = span
    while above is not None:
        if above.frame_id:
            found = above
        above = above.parent
    return found


def leave(span: AgentSpan) -> None:
    """Make current again what was current before this run, if it is the current one here."""
    context = get_current()
    current = context.get(SPAN_KEY)
    if type(current) is AgentSpan and current.current() is span:
        attach(Context({**context, SPAN_KEY: span.outer, RUN_KEY: span.parent}))


def is_inside(span: AgentSpan, above: AgentSpan) -> bool:
    """Whether one run is another's descendant."""
    parent = span.parent
    while parent is not None and parent is not above:
        parent = parent.parent
    return parent is not None


def foreign_parent(
    outer: Span, parent: AgentSpan | None, enclosing: AgentSpan | None
) -> tuple[AgentSpan | None, SpanContext | None]:
    """The parents of a run where a span of another instrumentation is current: ours, and that span if it is closer.

    That span is the parent of a root run, and of an inner run if it was opened inside the parent run: tool > their
    span > our model call.

    Args:
        outer: The other instrumentation's span.
        parent: Our run that the framework names, if any.
        enclosing: Our innermost run in this context.
    """
    enclosing = still_open(enclosing)
    foreign = outer.get_span_context()
    if not foreign.is_valid or not (parent is None or parent is enclosing):
        return parent, None
    if parent is None and enclosing is not None:
        is_seen = enclosing.trace.signals & TRACES  # where it is not, their span could not know of its trace
        if not is_seen or enclosing.trace.trace_id == foreign.trace_id:
            parent = enclosing
    return parent, foreign


def still_open(run: AgentSpan | None) -> AgentSpan | None:
    """The run itself, or the innermost one around it that has not ended: a context keeps the last that was started in it."""
    while run is not None and run.end_ns:
        run = run.parent
    return run


def was_cancelled(span: AgentSpan) -> bool:
    """Whether the task that started this run was cancelled, so that no end can come any more."""
    task = span.task() if span.task is not None else None
    return task is not None and task.done() and task.cancelled()


def _is_here(root: AgentSpan) -> bool:
    task = _task()
    if task is None:
        return root.task is None and root.thread_id == threading.get_ident()
    return root.task is not None and root.task() is task


def _task() -> Task[Any] | None:
    loop = running_loop()
    return None if loop is None else current_task(loop)


def _is_inside_elsewhere(root: AgentSpan) -> bool:
    """Whether the other task or thread, which started the root, is inside it now, waiting for this one perhaps."""
    if root.task is None:
        return _is_on_stack_of(root)
    task = root.task()
    if task is None or task.done():
        return False
    step: Any = task.get_coro()
    while step is not None:
        kind = next((kind for kind in ("cr", "gi") if hasattr(step, f"{kind}_frame")), None)
        if kind is None:
            # A future: nothing of ours further in. The step of an async generator does not show what it is inside of.
            return type(step).__name__ in _OPAQUE
        if getattr(step, f"{kind}_running"):  # in the thread of its loop, at this moment
            return _is_on_stack_of(root)
        if id(getattr(step, f"{kind}_frame")) == root.frame_id:
            return True
        step = getattr(step, "cr_await" if kind == "cr" else "gi_yieldfrom")
    return False


def _is_on_stack_of(root: AgentSpan) -> bool:
    return root.frame_id in _frames_from(sys._current_frames().get(root.thread_id))  # noqa: SLF001 (documented)


def _frames() -> set[int]:
    return _frames_from(sys._getframe(1))  # noqa: SLF001 (what inspect.currentframe() is made of)


def _frames_from(frame: FrameType | None) -> set[int]:
    frames: set[int] = set()
    while frame is not None:
        frames.add(id(frame))
        frame = frame.f_back
    return frames
