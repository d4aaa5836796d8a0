"""The shop's letters: a LlamaIndex engine looks the rule up and writes, in a process of its own, when it gets to it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the models that play a script

import queues
from embeddings import HashedWords
from handbook import PARAGRAPHS
from llama_index.core import Document, Settings, VectorStoreIndex
from llama_index.core.callbacks import CallbackManager
from scripted_llm import ScriptedLLM

from aiobs_core import flush, suppressed
from aiobs_llama_index import AiObsCallbackHandler


def main() -> None:
    with suppressed():  # the indexing is not part of any request
        documents = [Document(text=paragraph) for paragraph in PARAGRAPHS]
        index = VectorStoreIndex.from_documents(documents, embed_model=HashedWords())
    Settings.callback_manager = CallbackManager([AiObsCallbackHandler()])
    model = ScriptedLLM(script=["Headphones can be returned within 30 days of delivery, used or not."])
    engine = index.as_query_engine(llm=model, similarity_top_k=2)

    def write(letter: Mapping[str, str]) -> None:
        engine.query(letter["question"])
        flush()

    queues.work_off(os.environ["SHOP_QUEUE"], write)


if __name__ == "__main__":
    main()
