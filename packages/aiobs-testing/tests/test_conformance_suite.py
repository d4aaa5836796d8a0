"""The suite passes for an adapter that is right, and holds those who declare gaps to them."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy import ToyDriver

from aiobs_testing import ConformanceSuite, Driver

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

        class ForgetsFailures(toy.ToyHandler):
            def failed(self, run, error):
                pass

        {body}
        """
    )
    return pytester.runpytest_subprocess("-q", "-W", "ignore", "-k", " or ".join(only))


def test_the_toy_has_everything_that_a_driver_can_have() -> None:
    """So that no test of the suite is skipped here."""
    methods = [name for name, default in vars(Driver).items() if default is None]
    assert [name for name in methods if getattr(ToyDriver, name) is None] == []


def test_a_gap_that_is_none_fails_and_a_true_one_does_not(pytester: pytest.Pytester) -> None:
    result = outcomes(
        pytester,
        """
        class Silent(toy.ToyDriver):
            handler = ForgetsFailures

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
