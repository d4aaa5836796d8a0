"""Adapters whose telemetry is wrong, in one way each, and the tests of the suite that catch them.

No part of the test run: test_wrong_adapters.py runs this file and expects failures. By hand, for one of them:
`pytest packages/aiobs-testing/tests/wrong_adapters.py::TestForgetsFailures`.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any, ClassVar

from catching import caught_by
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import INVALID_SPAN, set_span_in_context
from toy import Run, ToyHandler

from aiobs_core import Operation, Outcome, Usage, get_recorder, semconv

# --- what is recorded -------------------------------------------------------------------------------------------------


@caught_by("test_chat", "test_batch")
class DoublesRuns(ToyHandler):
    """Two events of the framework are about the same thing, and it records both."""

    def started(self, run: Run) -> None:
        super().started(run)
        get_recorder().start((run.id,), self.operation(run), parent=run.id, scope="aiobs.toy")

    def ended(self, run: Run, result: Any) -> None:
        get_recorder().end((run.id,), self.outcome(run, result))
        super().ended(run, result)

    def failed(self, run: Run, error: BaseException) -> None:
        get_recorder().fail((run.id,), error)
        super().failed(run, error)


@caught_by("test_chat", "test_achat", "test_embed", "test_retrieve", "test_rerank", "test_query")
class ReportsNothingBack(ToyHandler):
    """It knows that something ran, and not what came of it."""

    def outcome(self, run: Run, result: Any) -> Outcome | None:
        return None


@caught_by("test_stream", "test_astream", "test_stream_query")
class IgnoresChunks(ToyHandler):
    def chunk(self, run: Run, word: str) -> None:
        pass


@caught_by("test_tool", "test_every_span_names_its_scope_and_framework")
class MisnamesEverything(ToyHandler):
    def operation(self, run: Run) -> Operation:
        return super().operation(run)._replace(name=f"toy.{run.kind}", attributes={semconv.FRAMEWORK: "tin"})


@caught_by("test_chat")
class MakesUpAttributes(ToyHandler):
    def outcome(self, run: Run, result: Any) -> Outcome | None:
        return Outcome(usage=Usage(input_tokens=11, output_tokens=7), attributes={"toy.run": run.id})


@caught_by("test_chat")
class MistypesAttributes(ToyHandler):
    def outcome(self, run: Run, result: Any) -> Outcome | None:
        made = super().outcome(run, result) or Outcome()
        return made._replace(attributes={**made.attributes, semconv.INPUT_MESSAGE_COUNT: "one"})


@caught_by("test_names_are_of_the_generation_that_the_user_chose")
class NamesOneGeneration(ToyHandler):
    """It writes a name of the conventions that the next generation has changed, whatever the user chose."""

    def outcome(self, run: Run, result: Any) -> Outcome | None:
        made = super().outcome(run, result) or Outcome()
        return made._replace(attributes={**made.attributes, semconv.GEN_AI_USAGE_CACHE_CREATION: 1})


# --- errors and ends --------------------------------------------------------------------------------------------------


@caught_by("test_model_error", "test_tool_error", "test_async_tool_error", "test_stream_error")
class ForgetsFailures(ToyHandler):
    def failed(self, run: Run, error: BaseException) -> None:
        pass


@caught_by("test_model_error", "test_tool_error", "test_a_tool_error_inside_an_agent", "test_cancelled")
class CallsFailuresSuccess(ToyHandler):
    def failed(self, run: Run, error: BaseException) -> None:
        self.ended(run, None)


@caught_by(
    "test_stream_closed_early",
    "test_async_stream_closed_early",
    "test_a_reader_of_a_stream_that_is_cancelled",
    "test_cancelled",
    "test_a_stream_of_a_pipeline_closed_early",
)
class CallsGivingUpAnError(ToyHandler):
    """To it, whatever is raised is an error: also a closed generator, and a cancelled task."""

    def failed(self, run: Run, error: BaseException) -> None:
        super().failed(run, error if isinstance(error, Exception) else RuntimeError())


@caught_by("test_a_stream_that_is_never_read", "test_an_async_stream_that_is_never_read")
class BeginsTooEarly(ToyHandler):
    """With the stream's making: where nobody reads it, nothing says that it is over."""

    def made(self, run: Run) -> None:
        if run.is_stream:
            get_recorder().start(run.id, self.operation(run), scope="aiobs.toy", make_current=False)


@caught_by("test_chat")
class LeavesSomethingOpen(ToyHandler):
    """A run that has no span has no end either."""

    def started(self, run: Run) -> None:
        super().started(run)
        get_recorder().start(("inside", run.id), None)


# --- context ----------------------------------------------------------------------------------------------------------


@caught_by(
    "test_agent",
    "test_aagent",
    "test_parallel_tools",
    "test_query",
    "test_stream_query",
    "test_the_tool_is_current_in_its_body",
    "test_the_tool_is_current_in_its_async_body",
    "test_a_tool_that_uses_another_framework",
    "test_an_async_tool_that_uses_another_framework",
)
class LosesParents(ToyHandler):
    def started(self, run: Run) -> None:
        get_recorder().start(run.id, self.operation(run), scope="aiobs.toy", lifetime=run, make_current=False)


@caught_by(
    "test_a_call_inside_another_framework",
    "test_parallel_async_calls_inside_a_run",
    "test_an_event_loop_inside_another",
    "test_what_was_current_before_is_current_after",
    "test_suppressed",
)
class IgnoresTheOutside(ToyHandler):
    """It starts its runs in an empty context: no parent, no request, no suppression."""

    def started(self, run: Run) -> None:
        token = attach(Context())
        super().started(run)
        detach(token)


@caught_by(
    "test_the_request_is_named_on_every_span", "test_the_tool_is_current_in_its_body", "test_suppressed"
)
class SpeaksFromElsewhere(ToyHandler):
    """As from a thread of its own, where the application's context is not."""

    def started(self, run: Run) -> None:
        contextvars.Context().run(super().started, run)


@caught_by("test_what_was_current_before_is_current_after")
class LeavesItsMark(ToyHandler):
    """It makes something current and never takes that back."""

    def ended(self, run: Run, result: Any) -> None:
        super().ended(run, result)
        if (
            asyncio._get_running_loop() is not None
        ):  # a task has a context of its own, so the next test is spared
            attach(set_span_in_context(INVALID_SPAN))


@caught_by(
    "test_between_chunks_the_application_is_not_inside_the_stream",
    "test_interleaved_streams",
    "test_interleaved_async_streams",
)
class StaysInsideStreams(ToyHandler):
    def started(self, run: Run) -> None:
        get_recorder().start(run.id, self.operation(run), parent=self.parent(run), scope="aiobs.toy")


# --- concurrency ------------------------------------------------------------------------------------------------------


@caught_by(
    "test_threads_are_kept_apart",
    "test_chats_in_threads",
    "test_agents_in_threads",
    "test_parallel_async_calls",
    "test_parallel_async_agents",
)
class GuessesParents(ToyHandler):
    """By what started last, which is another thread's or task's as often as not."""

    open: ClassVar[list[int]] = []

    def parent(self, run: Run) -> Any:
        above = self.open[-1] if self.open else None
        self.open.append(run.id)
        return above

    def ended(self, run: Run, result: Any) -> None:
        super().ended(run, result)
        self.open.remove(run.id)

    def failed(self, run: Run, error: BaseException) -> None:
        super().failed(run, error)
        self.open.remove(run.id)


@caught_by("test_a_stream_read_in_another_thread", "test_parallel_tools")
class KeepsRunsByThread(ToyHandler):
    """A stream that began in one thread and ends in another has no key there."""

    here = threading.local()

    def key(self, run: Run) -> Any:
        keys = self.here.__dict__.setdefault("keys", {})
        return keys.setdefault(run.id, (threading.get_ident(), run.id))


@caught_by("test_two_event_loops", "test_an_event_loop_inside_another")
class KeepsItsLoop(ToyHandler):
    """It belongs to the event loop in which it was first used, and is silent in others."""

    loop: Any = None

    def started(self, run: Run) -> None:
        running = asyncio._get_running_loop()
        self.loop = self.loop or running
        if self.loop is running:
            super().started(run)
