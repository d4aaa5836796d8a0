"""Adapters that do harm, or are there too often, or too long; and the tests of the suite that catch them.

No part of the test run: test_wrong_adapters.py runs this file and expects failures. By hand, for one of them:
`pytest packages/aiobs-testing/tests/wrong_manners.py::TestRaisesItself`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from catching import caught_by
from toy import Run, ToyDriver, ToyHandler, listeners

from aiobs_core import Operation, Outcome, get_recorder, semconv

# --- once -------------------------------------------------------------------------------------------------------------


@caught_by(
    "test_a_run_is_one_span_however_often_it_is_reported",
    "test_a_stream_is_one_span_however_often_it_is_reported",
    "test_a_copied_handler_observes_the_same_runs",
    "test_installed_beside_a_handler",
)
class KnowsItselfOnly(ToyHandler):
    """Another handler's report of the same run, or a copy's, is another run to it."""

    def __deepcopy__(self, memo: Any) -> KnowsItselfOnly:
        return type(self)()

    def key(self, run: Run) -> Any:
        return (id(self), run.id)


@caught_by("test_switched_off_while_running")
class ObservesUntilDisabled(ToyHandler):
    """It asks at each event whether it is on, so that what has begun does not end."""

    def ended(self, run: Run, result: Any) -> None:
        if get_recorder().settings.enabled:
            super().ended(run, result)


@caught_by("test_switched_off_while_running")
class IsNeverOff(ToyHandler):
    """It switches on what the user has switched off."""

    def started(self, run: Run) -> None:
        recorder = get_recorder()
        if not recorder.settings.enabled:
            recorder.apply(replace(recorder.settings, enabled=True))
        super().started(run)


@caught_by("test_installed_twice_and_uninstalled")
class InstallsTwice(ToyDriver):
    """Its instrumentor adds a handler each time, and takes one back."""

    handler = KnowsItselfOnly

    def install(self) -> None:
        listeners.append(self.handler())

    def uninstall(self) -> None:
        listeners.pop()


@caught_by("test_installed_twice_and_uninstalled", "test_uninstalling_leaves_no_trace")
class LeavesListeners(ToyDriver):
    """Its instrumentor forgets to take back what it has added."""

    def uninstall(self) -> None:
        pass


@caught_by("test_uninstalled_while_running")
class DropsOpenRuns(ToyDriver):
    """Its instrumentor makes its handler deaf, also to the end of what is running."""

    def uninstall(self) -> None:
        for listener in listeners:
            listener.ended = lambda *_: None
        listeners.clear()


# --- harm -------------------------------------------------------------------------------------------------------------


@caught_by("test_results_are_those_of_an_unobserved_call", "test_tool")
class RaisesItself(ToyHandler):
    raises = True

    def started(self, run: Run) -> None:
        if run.kind == "tool":
            raise KeyError(run.kind)
        super().started(run)


@caught_by(
    "test_errors_are_not_changed",
    "test_model_error",
    "test_tool_error",
    "test_async_tool_error",
    "test_stream_error",
)
class ReplacesErrors(ToyHandler):
    raises = True

    def failed(self, run: Run, error: BaseException) -> None:
        super().failed(run, error)
        raise type(error)(*error.args)


@caught_by("test_errors_are_not_changed")
class AddsToErrors(ToyHandler):
    def failed(self, run: Run, error: BaseException) -> None:
        super().failed(run, error)
        error.args = (*error.args, run.id)


@caught_by("test_results_are_the_same_objects", "test_streams_are_those_of_an_unobserved_call")
class ReplacesResults(ToyHandler):
    """By something that looks the same, or nearly."""

    def changed(self, result: Any) -> Any:
        return "".join(list(result)) if isinstance(result, str) else iter(list(result))


@caught_by("test_results_are_those_of_an_unobserved_call", "test_results_are_the_same_objects")
class ChangesResults(ToyHandler):
    def changed(self, result: Any) -> Any:
        return [result]


@caught_by("test_a_broken_handler_beside_ours")
class WantsToBeFirst(ToyHandler):
    """It shares nothing with handlers that were there before it."""

    def started(self, run: Run) -> None:
        if run.hears[0] is self:
            super().started(run)


@caught_by("test_model_error", "test_tool_error", "test_no_content_leaves")
class LeaksErrors(ToyHandler):
    def failed(self, run: Run, error: BaseException) -> None:
        get_recorder().fail(run.id, error, Outcome(attributes={semconv.API_NAME: str(error)}))


@caught_by("test_no_content_leaves", "test_system_prompts_do_not_leave")
class LeaksPrompts(ToyHandler):
    def operation(self, run: Run) -> Operation:
        facts = str(run.facts)
        made = super().operation(run)
        return made._replace(attributes={**made.attributes, semconv.API_NAME: facts})


@caught_by("test_no_content_leaves", "test_answers_do_not_leave")
class LeaksAnswers(ToyHandler):
    def outcome(self, run: Run, result: Any) -> Outcome | None:
        made = super().outcome(run, result) or Outcome()
        return made._replace(attributes={**made.attributes, semconv.API_NAME: str(result)})


@caught_by("test_a_failing_exporter_does_not_reach_the_application")
class DeliversItself(ToyHandler):
    """It waits for the export, and lets its failure through."""

    raises = True

    def ended(self, run: Run, result: Any) -> None:
        super().ended(run, result)
        if not get_recorder().flush(5):
            raise OSError("not delivered")
