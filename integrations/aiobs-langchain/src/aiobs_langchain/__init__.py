"""aiobs for LangChain and LangGraph.

from aiobs_langchain import AiObsCallbackHandler

chain.invoke(question, config={"callbacks": [AiObsCallbackHandler()]})
"""

from aiobs_langchain._handler import AiObsCallbackHandler
from aiobs_langchain._instrumentor import LangChainInstrumentor

__all__ = ["AiObsCallbackHandler", "LangChainInstrumentor"]
