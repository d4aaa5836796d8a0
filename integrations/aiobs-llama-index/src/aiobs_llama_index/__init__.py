"""aiobs for LlamaIndex.

```python
from aiobs_llama_index import AiObsCallbackHandler
from llama_index.core import Settings
from llama_index.core.callbacks import CallbackManager

Settings.callback_manager = CallbackManager([AiObsCallbackHandler()])
```
"""

from typing import TYPE_CHECKING

from aiobs_core.adapter import lazy_names
from aiobs_llama_index._handler import AiObsCallbackHandler

if TYPE_CHECKING:
    from aiobs_llama_index._instrumentor import LlamaIndexInstrumentor

__all__ = ["AiObsCallbackHandler", "LlamaIndexInstrumentor"]

__getattr__ = lazy_names(__name__, {"LlamaIndexInstrumentor": "aiobs_llama_index._instrumentor"})
