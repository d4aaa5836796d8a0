"""aiobs for LangChain and LangGraph.

```python
from aiobs_langchain import AiObsCallbackHandler

chain.invoke(question, config={"callbacks": [AiObsCallbackHandler()]})
```
"""

from typing import TYPE_CHECKING, Any

from aiobs_langchain._handler import AiObsCallbackHandler

if TYPE_CHECKING:
    from aiobs_langchain._instrumentor import LangChainInstrumentor

__all__ = ["AiObsCallbackHandler", "LangChainInstrumentor"]


def __getattr__(name: str) -> Any:
    """Load the instrumentor when it is asked for: OpenTelemetry's base class of it takes 60 ms to import."""
    if name == "LangChainInstrumentor":
        from aiobs_langchain._instrumentor import LangChainInstrumentor

        return LangChainInstrumentor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
