"""How the conformance suite makes Your Framework do things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiobs_testing import Driver
from aiobs_your_framework import AiObsCallbackHandler, YourFrameworkInstrumentor

ABSENT: Final[Mapping[str, str]] = {
    # map here: the methods of Driver that this framework has nothing for → why, such as "embed": "it embeds nothing"
}


class YourFrameworkDriver(Driver):
    scope = "aiobs.your_framework"

    def make_handler(self) -> AiObsCallbackHandler:
        return AiObsCallbackHandler()

    def install(self) -> None:
        YourFrameworkInstrumentor().instrument()

    def uninstall(self) -> None:
        YourFrameworkInstrumentor().uninstrument()

    # map here: chat() first. Each method makes the framework do something, offline, with the callbacks in self.handlers.
