"""What a wrong adapter is registered with: which tests of the suite must fail for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Final, TypeVar

import pytest
from toy import ToyDriver, ToyHandler

from aiobs_testing import ConformanceSuite, Telemetry

T = TypeVar("T", ToyHandler, ToyDriver)
CAUGHT_BY: Final[dict[str, tuple[str, ...]]] = {}
"""Where the suite of a wrong adapter is, as pytest names it: `file.py::TestClass` → tests that fail."""


class Impatient(ConformanceSuite):
    @pytest.fixture(autouse=True)
    def _what_is_left_open_stays_open(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Telemetry, "closes_within_s", 0.6)


def caught_by(*tests: str) -> Callable[[type[T]], type[T]]:
    """Make a class of tests of a wrong adapter or driver, in its module; at least these of the suite must fail."""

    def suite_for(wrong: type[T]) -> type[T]:
        driver = wrong if issubclass(wrong, ToyDriver) else type("Wrong", (ToyDriver,), {"handler": wrong})
        module, name = sys.modules[wrong.__module__], f"Test{wrong.__name__}"
        setattr(module, name, type(name, (Impatient,), {"driver": driver, "__module__": module.__name__}))
        CAUGHT_BY[f"{wrong.__module__}.py::{name}"] = tests
        return wrong

    return suite_for
