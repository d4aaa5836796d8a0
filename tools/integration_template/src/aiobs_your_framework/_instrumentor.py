"""Zero-code registration: a handler that hears every run of the process."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # untyped module

from aiobs_your_framework._handler import AiObsCallbackHandler


class YourFrameworkInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # Any: the module is untyped
    """Records every Your Framework run of the process, without passing handlers.

    Also found by `opentelemetry-instrument` under the name `aiobs_your_framework`.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        return ()  # map here: as in the extra `instruments` of pyproject.toml, "your-framework >= 1.0, < 2"

    def _instrument(self, **_: Any) -> None:
        self._handler = AiObsCallbackHandler()
        # map here: give it to what the framework keeps for the whole process.

    def _uninstrument(self, **_: Any) -> None:
        # map here: and take it back.
        del self._handler
