"""The suite passes for an adapter that is right, and fails for each that is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from toy import ToyDriver

from aiobs_testing import ConformanceSuite

pytest_plugins = ["pytester"]


class TestToy(ConformanceSuite):
    driver = ToyDriver


def outcomes(pytester: pytest.Pytester, body: str, *only: str) -> pytest.RunResult:
    pytester.makepyfile(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import toy
        from aiobs_testing import ConformanceSuite

        {body}
        """
    )
    return pytester.runpytest_subprocess("-q", "-W", "ignore", "-k", " or ".join(only))


@pytest.mark.parametrize(
    ("handler", "caught_by"),
    [
        ("ForgetsFailures", "test_tool_error"),
        ("LeaksContent", "test_no_content_leaves"),
        ("DoublesRuns", "test_chat"),
        ("MakesUpNames", "test_chat"),
        ("LosesParents", "test_agent"),
        ("StaysInsideStreams", "test_between_chunks_the_application_is_not_inside_the_stream"),
        ("StaysInsideStreams", "test_interleaved_streams"),
        ("IsAlone", "test_a_stream_is_one_span_however_often_it_is_reported"),
        ("IsAlone", "test_a_copied_handler_observes_the_same_runs"),
        ("GuessesParents", "test_agents_in_threads"),
        ("TypesWrong", "test_chat"),
        ("RaisesItself", "test_results_are_those_of_an_unobserved_call"),
    ],
)
def test_the_suite_fails_for_a_wrong_adapter(pytester: pytest.Pytester, handler: str, caught_by: str) -> None:
    result = outcomes(
        pytester,
        f"""
        class Wrong(toy.ToyDriver):
            handler = toy.{handler}

        class TestWrong(ConformanceSuite):
            driver = Wrong
        """,
        caught_by,
    )
    assert result.ret == 1
    text = result.stdout.str()
    assert any(f"{word} test_" in text and f"::{caught_by}" in text for word in ("FAILED", "ERROR")), text


def test_a_gap_that_is_none_fails_and_a_true_one_does_not(pytester: pytest.Pytester) -> None:
    result = outcomes(
        pytester,
        """
        class Silent(toy.ToyDriver):
            handler = toy.ForgetsFailures

        class TestSilent(ConformanceSuite):
            driver = Silent
            gaps = {"test_model_error": "the toy says nothing", "test_chat": "untrue"}
        """,
        "test_model_error",
        "test_chat",
    )
    text = result.stdout.str()
    assert "::test_chat" in text
    assert "[XPASS(strict)] untrue" in text
    assert (
        "FAILED test_a_gap_that_is_none_fails_and_a_true_one_does_not.py::TestSilent::test_model_error"
        not in text
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def test_chat(self): pass", "overrides test_chat; declare a gap instead"),
        ("gaps = {'test_flying': 'cannot'}", "gaps in tests that do not exist: test_flying"),
    ],
)
def test_overriding_and_invented_gaps_are_errors(body: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        exec(f"class TestBad(ConformanceSuite):\n    driver = ToyDriver\n    {body}\n", globals(), {})
