"""Zero-code registration: a handler that nobody has to put anywhere."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # untyped module

from aiobs_llama_index._handler import AiObsCallbackHandler


class LlamaIndexInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # Any: the module is untyped
    """Records every LlamaIndex run of the process, without a callback manager.

    Also found by `opentelemetry-instrument` under the name `aiobs_llama_index`. Handlers beside it change nothing.

    Example:
        >>> LlamaIndexInstrumentor().instrument()
        >>> LlamaIndexInstrumentor().uninstrument()
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        return ("llama-index-core >= 0.14.21, < 0.15",)

    def _instrument(self, **_: Any) -> None:
        self._handler = AiObsCallbackHandler()

    def _uninstrument(self, **_: Any) -> None:
        self._handler.close()
