"""The suite can fail: for each kind of mistake there is an adapter that makes it, and a test that notices."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Final

import pytest
from catching import CAUGHT_BY

from aiobs_testing import ConformanceSuite

_HERE: Final = Path(__file__).parent
for _module in sorted(_HERE.glob("wrong_*.py")):
    import_module(_module.stem)
_EXPECTED: Final = [(suite, test) for suite, tests in CAUGHT_BY.items() for test in tests]
_FAILED: Final = re.compile(
    r"^(?:FAILED|ERROR) (?:\S+/)?(?P<suite>\w+\.py::\w+)::(?P<test>\w+)", re.MULTILINE
)


@pytest.fixture(scope="session")
def failed() -> set[tuple[str, str]]:
    """All that are expected to fail, in one run: starting pytest takes longer than a test of the suite."""
    ids = [f"{_HERE / suite}::{test}" for suite, test in _EXPECTED]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "no:cacheprovider", *ids],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == pytest.ExitCode.TESTS_FAILED, ran.stdout + ran.stderr
    return {(found["suite"], found["test"]) for found in _FAILED.finditer(ran.stdout)}


@pytest.mark.parametrize(("suite", "test"), _EXPECTED)
def test_a_wrong_adapter_is_caught(failed: set[tuple[str, str]], suite: str, test: str) -> None:
    assert (suite, test) in failed


def test_every_test_of_the_suite_catches_somebody() -> None:
    tests = {name for name in dir(ConformanceSuite) if name.startswith("test_")}
    assert tests == {test for _, test in _EXPECTED}
