"""Other instrumentations of LangChain in the same process: each makes a second span of every run."""

from __future__ import annotations

import sys
from typing import Final

from aiobs_core import get_recorder

_INSTRUMENTORS: Final = {  # module: name to tell
    "openinference.instrumentation.langchain": "OpenInference's LangChainInstrumentor",
    "opentelemetry.instrumentation.langchain": "OpenLLMetry's LangchainInstrumentor",
    "opentelemetry.instrumentation.genai.langchain": "OpenTelemetry's LangChainInstrumentor",
}


def report_overlaps() -> None:
    """Say once for each other instrumentation that is active."""
    from langsmith import utils as langsmith  # LangChain loads it with the first run at the latest

    for module, name in _INSTRUMENTORS.items():
        if module in sys.modules and _is_active(module):
            _report(module, f"{name} is active")
    if langsmith.get_env_var("OTEL_ENABLED") == "true" and langsmith.tracing_is_enabled():
        _report("langsmith", "LANGSMITH_OTEL_ENABLED makes LangSmith send its runs as OpenTelemetry spans")


def _is_active(module: str) -> bool:
    from opentelemetry.instrumentation import instrumentor  # loaded by the module in question

    base = instrumentor.BaseInstrumentor  # type: ignore[attr-defined]  # untyped module
    for value in vars(sys.modules[module]).values():
        if isinstance(value, type) and value.__module__ == module and issubclass(value, base):
            return bool(value().is_instrumented_by_opentelemetry)  # instrumentors are singletons
    return False


def _report(kind: str, what: str) -> None:
    get_recorder().health.problem(
        f"overlap.{kind}",
        f"aiobs: {what} beside aiobs, so every LangChain run gives two spans, and its tokens are counted twice by "
        "whoever sums over both. Switch one of them off.",
    )
