"""aiobs for LangChain and LangGraph.

```python
from aiobs_langchain import AiObsCallbackHandler

chain.invoke(question, config={"callbacks": [AiObsCallbackHandler()]})
```
"""

from typing import TYPE_CHECKING

from aiobs_core.adapter import lazy_names
from aiobs_langchain._handler import AiObsCallbackHandler

if TYPE_CHECKING:
    from aiobs_langchain._embeddings import observed
    from aiobs_langchain._instrumentor import LangChainInstrumentor

__all__ = ["AiObsCallbackHandler", "LangChainInstrumentor", "observed"]
__getattr__ = lazy_names(
    __name__,
    {"LangChainInstrumentor": "aiobs_langchain._instrumentor", "observed": "aiobs_langchain._embeddings"},
)
