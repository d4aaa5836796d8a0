"""aiobs for Your Framework: give `AiObsCallbackHandler()` to it as one of its listeners."""

from typing import TYPE_CHECKING

from aiobs_core.adapter import lazy_names
from aiobs_your_framework._handler import AiObsCallbackHandler

if TYPE_CHECKING:
    from aiobs_your_framework._instrumentor import YourFrameworkInstrumentor

__all__ = ["AiObsCallbackHandler", "YourFrameworkInstrumentor"]
__getattr__ = lazy_names(__name__, {"YourFrameworkInstrumentor": "aiobs_your_framework._instrumentor"})
