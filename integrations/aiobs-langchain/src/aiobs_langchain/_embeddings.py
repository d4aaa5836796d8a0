"""Embeddings and vector stores, for which LangChain has no callbacks: opt-in, by wrapping their methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeVar

from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from opentelemetry import trace

from aiobs_core import Kind, Operation, Stage, semconv
from aiobs_core.adapter import found_documents, found_vectors
from aiobs_core.methods import Method, ObservedMethods
from aiobs_core.providers import base_url, provider_name, request_model
from aiobs_langchain import _operation as operation

T = TypeVar("T", Embeddings, VectorStore)
Arguments = tuple[Any, ...]


def _embedding(instance: Any, _: str, arguments: Arguments, keywords: Mapping[str, Any]) -> Operation:
    fields, texts = vars(instance), keywords.get("texts", arguments[0] if arguments else "")
    model = request_model(fields)
    return Operation(
        kind=Kind.EMBEDDING,
        name=model or type(instance).__name__,
        model=model,
        provider=_provider(instance),
        endpoint=base_url(fields),
        attributes={semconv.EMBEDDING_TEXT_COUNT: 1 if isinstance(texts, str) else len(texts)},
    )


def _search(instance: Any, *_: Any) -> Operation:
    return Operation(kind=Kind.RETRIEVER, name=type(instance).__name__)


def _write(instance: Any, method: str, *_: Any) -> Operation:
    return Operation(kind=Kind.CHAIN, name=f"{type(instance).__name__}.{method}", stage=Stage.PRE_PROCESS)


def _provider(instance: Any) -> str | None:
    """`langchain_openai.embeddings.base` → `openai`: integrations are packages named after the provider."""
    package = type(instance).__module__.partition(".")[0]
    if type(instance).__name__.startswith("Azure"):  # of the same package as OpenAI's
        return provider_name("azure_openai")
    known = package.startswith("langchain_") and package not in {"langchain_core", "langchain_community"}
    return provider_name(package.removeprefix("langchain_")) if known else None


def _is_in_retriever() -> bool:
    """Whether the run around is LangChain's own of the retriever that searches this store."""
    around: Any = trace.get_current_span()
    source = getattr(around.current(), "operation", None) if hasattr(around, "current") else None
    return getattr(source, "func", None) is operation.retriever


_SCOPE: Final = "aiobs.langchain"
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
    Embeddings, _SCOPE, dict.fromkeys(("embed_documents", "embed_query"), _EMBEDS)
)
STORES: Final = ObservedMethods(
    VectorStore,
    _SCOPE,
    dict.fromkeys(_SEARCHES, _FINDS) | dict.fromkeys(("add_documents", "add_texts", "delete"), _WRITES),
)


def observed(target: T) -> T:
    """Record the calls of one embedding model or vector store, for which LangChain has no callbacks.

    The object itself is changed and returned: it gets a subclass of its class. A search inside LangChain's run of a
    retriever is not recorded, since that run stands for it; the embedding of the query is.

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
        return EMBEDDINGS.observe(target)
    if isinstance(target, VectorStore):
        return STORES.observe(target)
    raise TypeError(f"observed(): expected an Embeddings or a VectorStore, got {type(target).__name__}")
