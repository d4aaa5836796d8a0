"""Embeddings without a server: words hashed into a vector, or a real model of word vectors from a package."""

from __future__ import annotations

import re
import sys
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

from llama_index.core.embeddings import BaseEmbedding

PACKAGE = "wordllama"  # 256 dimensions, 32,000 tokens; the vectors are in the wheel (19 MB)


class HashedWords(BaseEmbedding):
    """Which words are in a text: each sets the place that its hash names.

    It knows nothing of meaning: "send" and "export" have nothing in common. But it is the same on every machine, needs
    no package, and finds the paragraph that shares rare words with a question.
    """

    model_name: str = "hashed-words"
    dimension_count: int = 4096

    def _get_text_embedding(self, text: str) -> list[float]:
        vector = [0.0] * self.dimension_count
        for word in re.findall(r"[a-z]{4,}", text.lower()):
            vector[crc32(word.removesuffix("s").encode()) % self.dimension_count] = float(len(word))
        return vector

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class WordVectors(HashedWords):
    """The mean of the vectors that a language model has for its tokens: words of a like meaning are near each other."""

    model_name: str = PACKAGE

    @cached_property
    def _model(self) -> Any:
        try:
            import wordllama
        except ImportError as error:
            sys.exit(f"{error}. These embeddings need: pip install {PACKAGE} (19 MB)")
        # Without its own folder as the cache, it would fetch the tokenizer that lies beside it.
        folder = Path(wordllama.__file__).parent
        return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)

    def _get_text_embedding(self, text: str) -> list[float]:
        return [float(number) for number in self._model.embed(text)[0]]
