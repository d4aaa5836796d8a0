"""Retrieval over this repository's own documentation with LlamaIndex: two traces, the indexing and the question.

python examples/rag_over_docs.py                                         offline; a script stands in for the model
python examples/rag_over_docs.py --embedding wordllama                   real word vectors: pip install wordllama
python examples/rag_over_docs.py "Which exporters does aiobs have?"      any other question
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from embeddings import HashedWords, WordVectors
from llama_index.core import Settings, SimpleDirectoryReader, VectorStoreIndex
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import MarkdownNodeParser
from scripted_llm import ScriptedLLM

from aiobs_core import flush, span
from aiobs_llama_index import AiObsCallbackHandler

DOCS = Path(__file__).parent.parent / "docs"
QUESTION = "What happens when the process ends?"
EMBEDDINGS = {"hashed-words": HashedWords, "wordllama": WordVectors}


def index_docs(embedding: BaseEmbedding) -> VectorStoreIndex:
    """One trace of its own: a section of a page is a node, and each node gets a vector."""
    with span("index_docs", kind="workflow"):
        reader = SimpleDirectoryReader(DOCS, recursive=True, required_exts=[".md"], file_metadata=_page)
        pages = reader.load_data()
        sections = IngestionPipeline(transformations=[MarkdownNodeParser()]).run(documents=pages)
        return VectorStoreIndex(sections, embed_model=embedding)


def _page(path: str) -> dict[str, str]:
    return {"page": Path(path).stem}


def quote(messages: Sequence[ChatMessage]) -> str:
    """What a model would do better: the found sentence that has most in common with the question."""
    _, context, asked = re.split(r"-{20,}", str(messages[-1].content))
    wanted = _words(asked.partition("Query: ")[2].partition("Answer: ")[0])
    sentences = (" ".join(found.split()) for found in re.split(r"\n{2,}|(?<=[.!?])\s+", context))
    whole = [sentence for sentence in sentences if sentence.endswith(".")]
    return max(whole, key=lambda sentence: len(wanted & _words(sentence)))


def _words(text: str) -> set[str]:
    return {word.removesuffix("s") for word in re.findall(r"[a-z]{4,}", text.lower())}


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask the documentation of aiobs.")
    parser.add_argument("question", nargs="?", default=QUESTION)
    parser.add_argument("--embedding", choices=EMBEDDINGS, default="hashed-words")
    options = parser.parse_args()
    os.environ.setdefault("AIOBS_CONSOLE", "tree")
    Settings.callback_manager = CallbackManager([AiObsCallbackHandler()])  # all there is to do

    index = index_docs(EMBEDDINGS[options.embedding]())
    llm = ScriptedLLM(script=[quote])  # any LlamaIndex model
    answer = index.as_query_engine(llm=llm, streaming=True, similarity_top_k=2).query(options.question)
    for text in answer.response_gen:  # the model is asked here, and the trace is of one piece all the same
        print(text, end="", flush=True)
    print()
    for found in answer.source_nodes:
        print(f"  {found.metadata['page']}  {found.score:.2f}")
    flush()


if __name__ == "__main__":
    main()
