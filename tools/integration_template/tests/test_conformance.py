"""The conformance suite, driven through Your Framework, and what is still to be done for it."""

from __future__ import annotations

from typing import Any

import pytest
from your_framework_driver import ABSENT, YourFrameworkDriver

from aiobs_testing import ConformanceSuite, Driver, Telemetry


class TestYourFramework(ConformanceSuite):
    driver = YourFrameworkDriver


def test_the_driver_does_all_that_the_framework_can() -> None:
    """The suite skips what a driver lacks: here nothing is skipped unless somebody said why."""
    methods = [name for name, default in vars(Driver).items() if default is None]
    has = [name for name in methods if getattr(YourFrameworkDriver, name) is not None]
    to_do = sorted({*methods} - {*has, *ABSENT}, key=lambda name: (name != "chat", methods.index(name)))
    if to_do:
        pytest.fail(
            f"Next: write YourFrameworkDriver.{to_do[0]}() as aiobs_testing.Driver says, or name it in ABSENT with the "
            f"reason why Your Framework has none. After it: {', '.join(to_do[1:]) or 'nothing'}.",
            pytrace=False,
        )
    untrue = [name for name in ABSENT if name in has or name not in methods]
    assert untrue == [], "take these out of ABSENT: the driver has them, or no driver can"


def test_the_handler_hears_the_framework(telemetry: Telemetry) -> None:
    driver: Any = YourFrameworkDriver()
    if driver.chat is None:
        pytest.skip("the driver has no chat() yet")
    driver.handlers = [driver.make_handler()]
    driver.chat("hello")
    if not telemetry.raw_of(driver.scope):
        pytest.fail(
            "Next: chat() ran, and nothing was recorded. Make the events of Your Framework call AiObsCallbackHandler "
            "(_handler.py), and give its model calls a kind (_mapping.py).",
            pytrace=False,
        )
