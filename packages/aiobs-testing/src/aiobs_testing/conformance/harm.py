"""The application gets what it gets unobserved, its content stays in the process, and no failure of ours reaches it."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan

from aiobs_core import semconv
from aiobs_testing.conformance.subject import CANARY, FailingExporter, Subject, raising


class _Missing(Exception):
    """Raised by nothing but a test of this suite."""


class Harm:
    """Observed or not, the application sees the same."""

    def test_results_are_those_of_an_unobserved_call(self, subject: Subject) -> None:
        call = subject.method("tool")
        bare = call("x", lambda: "found")
        assert subject.comparable(subject.observed("tool")("x", lambda: "found")) == subject.comparable(bare)

    def test_results_are_the_same_objects(self, subject: Subject) -> None:
        """Where the framework hands on what the tool returned; many make a text of it."""
        found = str(object())  # not interned
        is_handed_on = subject.method("tool")("x", lambda: found) is found
        assert (subject.observed("tool")("x", lambda: found) is found) == is_handed_on

    def test_streams_are_those_of_an_unobserved_call(self, subject: Subject) -> None:
        bare = subject.method("stream")("hello")
        observed = subject.observed("stream")("hello")
        assert type(observed) is type(bare)
        assert list(map(subject.comparable, observed)) == list(map(subject.comparable, bare))

    def test_errors_are_not_changed(self, subject: Subject) -> None:
        error = _Missing("as it was")
        with pytest.raises(_Missing) as caught:
            subject.observed("failing_chat")(error)
        assert caught.value is error
        assert error.args == ("as it was",)
        assert getattr(error, "__notes__", []) == []

    @pytest.mark.parametrize("first", ["the broken one", "ours"])
    def test_a_broken_handler_beside_ours(self, subject: Subject, first: str) -> None:
        broken = subject.keep(subject.method("make_broken_handler")())
        call = subject.observed("agent" if subject.has("agent") else "chat")
        arguments = ("hello", lambda: "found") if subject.has("agent") else ("hello",)
        bare = call(*arguments)
        expected = _shape(subject, subject.spans())
        ours = subject.driver.handlers
        subject.driver.handlers = [broken, *ours] if first == "the broken one" else [*ours, broken]

        assert type(call(*arguments)) is type(bare)  # agents' results have ids of their own

        _, spans = subject.traces()
        assert _shape(subject, spans) == expected
        subject.telemetry.forgive_warnings(type(broken).__name__)

    # --- content ----------------------------------------------------------------------------------------------------

    def test_no_content_leaves(self, subject: Subject) -> None:
        if not any(map(subject.has, _CALLS)):
            pytest.skip(f"{type(subject.driver).__name__} calls nothing yet")
        for method, arguments in _CALLS.items():
            subject.run_if_there(method, *arguments)
        for method, arguments in _FAILING_CALLS.items():
            if subject.has(method):
                with pytest.raises(_Missing):
                    subject.run_if_there(method, *arguments)
        assert subject.spans()
        _check_no_content(subject)

    @pytest.mark.parametrize("method", ["chat", "stream", "stream_query"])
    def test_answers_do_not_leave(self, subject: Subject, method: str) -> None:
        answer = subject.observed(method)(CANARY)
        said = repr(answer) if method == "chat" else "".join(map(repr, answer))
        if CANARY not in said:
            pytest.skip(f"{method}() of {type(subject.driver).__name__} does not answer with its prompt")
        _check_no_content(subject)

    def test_system_prompts_do_not_leave(self, subject: Subject) -> None:
        subject.observed("system_chat")(CANARY, "hello")
        subject.check_model(subject.the("model"))
        _check_no_content(subject)

    # --- our own failures -------------------------------------------------------------------------------------------

    def test_a_failing_exporter_does_not_reach_the_application(self, subject: Subject) -> None:
        recorder = subject.telemetry.recorder
        recorder.apply(recorder.settings, exporters=[FailingExporter()])
        subject.observed("chat")("hello")
        assert not recorder.flush(5)
        assert recorder.health.counts()["spans.dropped"] >= 1
        recorder.apply(recorder.settings, exporters=[])
        subject.telemetry.forgive_warnings()


_CALLS: dict[str, tuple[Any, ...]] = {
    "chat": (CANARY,),
    "stream": (CANARY,),
    "embed": ([CANARY, CANARY],),
    "retrieve": (CANARY, [CANARY, CANARY]),
    "rerank": (CANARY, [CANARY, CANARY, CANARY]),
    "query": (CANARY,),
    "stream_query": (CANARY,),
    "tool": (CANARY, lambda: CANARY),
    "agent": (CANARY, lambda: CANARY),
}
_FAILING_CALLS: dict[str, tuple[Any, ...]] = {
    "tool": ("x", raising(_Missing(CANARY))),
    "failing_chat": (_Missing(CANARY),),
    "failing_stream": (_Missing(CANARY),),
}


def _check_no_content(subject: Subject) -> None:
    for span in subject.telemetry.raw():
        assert CANARY not in span.to_json()


def _shape(subject: Subject, spans: list[ReadableSpan]) -> list[tuple[object, ...]]:
    """Names, outcomes and depths of a trace: what has to be the same for the same call."""
    return [(span.name, subject.get(span, semconv.OUTCOME), len(list(subject.above(span)))) for span in spans]
