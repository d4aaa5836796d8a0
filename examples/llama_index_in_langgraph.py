"""A LangGraph graph that asks a LlamaIndex query engine: two frameworks, one trace."""

from __future__ import annotations

import os
from typing import TypedDict

from embeddings import HashedWords
from handbook import PARAGRAPHS
from langchain_core.messages import AIMessage
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager
from scripted_llm import ScriptedLLM
from scripted_model import ChatScripted

import aiobs_langchain
import aiobs_llama_index
from aiobs_core import flush, suppressed

QUESTION = "How long can headphones be returned?"


class State(TypedDict, total=False):
    question: str
    rule: str
    answer: str


def handbook_index() -> VectorStoreIndex:
    with suppressed():  # the indexing is not part of any request
        documents = [Document(text=paragraph) for paragraph in PARAGRAPHS]
        return VectorStoreIndex.from_documents(documents, embed_model=HashedWords())


def shop_graph(index: VectorStoreIndex) -> CompiledStateGraph[State]:
    llama_index_llm = ScriptedLLM(
        script=["Headphones can be returned within 30 days of delivery, used or not."]
    )
    langchain_model = ChatScripted(
        script=[AIMessage("You have 30 days, even if you have used them.")], streaming=True
    )
    engine = index.as_query_engine(llm=llama_index_llm, similarity_top_k=2)

    def look_up(state: State) -> State:
        return {"rule": str(engine.query(state["question"]))}

    def reply(state: State) -> State:
        return {"answer": langchain_model.invoke(f"{state['question']} {state['rule']}").text}

    graph = StateGraph(State).add_sequence([look_up, reply])
    return graph.set_entry_point("look_up").compile(name="shop_graph")


def main() -> None:
    Settings.callback_manager = CallbackManager([aiobs_llama_index.AiObsCallbackHandler()])
    graph = shop_graph(handbook_index())
    result = graph.invoke(
        {"question": QUESTION}, config={"callbacks": [aiobs_langchain.AiObsCallbackHandler()]}
    )
    print(result["answer"])


if __name__ == "__main__":
    os.environ.setdefault("AIOBS_CONSOLE", "tree")
    main()
    flush()
