"""Embeddings and vector stores, for which LangChain has no callbacks: opt-in, by wrapping their methods."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, TypeVar

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from aiobs_core import Kind, Operation, Stage, semconv
from aiobs_core.adapter import as_it_is, current_subject, found_documents, found_vectors
from aiobs_core.methods import Call, Method, ObservedMethods
from aiobs_core.providers import base_url, provider_name, request_model
from aiobs_langchain._handler import SCOPE, Retrieval

T = TypeVar("T", Embeddings, VectorStore)
_NO_PROVIDERS: Final = {"core", "community", "classic", "experimental", "tests"}  # LangChain's own packages


def _embedding(call: Call) -> Operation:
    texts = call.keywords.get("texts", call.arguments[0] if call.arguments else "")
    count = 1 if isinstance(texts, str) else len(texts) if hasattr(texts, "__len__") else None
    model = request_model(call.fields)
    return Operation(
        kind=Kind.EMBEDDING,
        name=model or type(call.instance).__name__,
        model=model,
        provider=_provider(call.instance),
        endpoint=base_url(call.fields),
        attributes={} if count is None else {semconv.EMBEDDING_TEXT_COUNT: count},
        content=partial(as_it_is, texts),
    )


def _search(call: Call) -> Operation:
    query = call.keywords.get("query", call.arguments[0] if call.arguments else None)
    content = partial(as_it_is, query) if isinstance(query, str) else None  # else a vector
    return Operation(kind=Kind.RETRIEVER, name=type(call.instance).__name__, content=content)


def _write(call: Call) -> Operation:
    name = f"{type(call.instance).__name__}.{call.method}"
    return Operation(kind=Kind.CHAIN, name=name, stage=Stage.PRE_PROCESS)


def _provider(instance: Any) -> str | None:
    """`langchain_openai.embeddings.base` → `openai`: integrations are packages named after the provider."""
    for cls in type(instance).__mro__:
        package = cls.__module__.partition(".")[0]
        name = package.removeprefix("langchain_")
        if name != package and name not in _NO_PROVIDERS:
            is_azure = name == "openai" and cls.__name__.startswith("Azure")
            return provider_name("azure_openai" if is_azure else name)
    return None


def _is_in_retriever() -> bool:
    """Whether the run around is LangChain's own of the retriever that searches this store."""
    return isinstance(current_subject(), Retrieval)


_EMBEDS: Final = Method(_embedding, found_vectors)
_FINDS: Final = Method(_search, found_documents, _is_in_retriever)
_WRITES: Final = Method(_write, lambda _: None)
_SEARCHES: Final = (
    "similarity_search",
    "similarity_search_by_vector",
    "similarity_search_with_score",
    "similarity_search_with_relevance_scores",
    "max_marginal_relevance_search",
    "max_marginal_relevance_search_by_vector",
)
EMBEDDINGS: Final = ObservedMethods(
    Embeddings, SCOPE, dict.fromkeys(("embed_documents", "embed_query"), _EMBEDS)
)
STORES: Final = ObservedMethods(
    VectorStore,
    SCOPE,
    dict.fromkeys(_SEARCHES, _FINDS) | dict.fromkeys(("add_documents", "add_texts", "delete"), _WRITES),
)


def observed(target: T) -> T:
    """Record the calls of one embedding model or vector store, for which LangChain has no callbacks.

    The same object is returned. A search inside LangChain's run of a retriever is not recorded, since that run stands for
    it; the embedding of the query is.

    Args:
        target: An `Embeddings` or a `VectorStore`.

    Raises:
        TypeError: If it is neither.

    Example:
        >>> from langchain_core.embeddings import DeterministicFakeEmbedding
        >>> len(observed(DeterministicFakeEmbedding(size=8)).embed_query("house"))
        8
    """
    if isinstance(target, Embeddings):
        EMBEDDINGS.observe(target)
    if isinstance(target, VectorStore):
        STORES.observe(target)
    if isinstance(target, (Embeddings, VectorStore)):
        return target
    raise TypeError(f"observed(): expected an Embeddings or a VectorStore, got {type(target).__name__}")
