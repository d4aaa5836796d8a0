"""Embeddings and vector stores: recorded where somebody asks for it, and left as they were."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from dirty_equals import IsStr
from inline_snapshot import snapshot
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore, VectorStore
from opentelemetry import trace
from pydantic import BaseModel

from aiobs_core import semconv, suppressed
from aiobs_langchain import AiObsCallbackHandler, LangChainInstrumentor, observed
from aiobs_testing import Telemetry

TEXTS = ["The house is red.", "The car is blue.", "canary-51c0"]


class Model(Embeddings):
    """As an integration is: with a model, an address with credentials in it, and everything made of one method."""

    def __init__(self, fail: BaseException | None = None) -> None:
        self.model = "embed-1"
        self.base_url = "https://user:password@llm.example:8443/v1?key=1"
        self.fail = fail
        self.vectors = [[1.0, 2.0, 3.0]] * 3

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if self.fail is not None:
            raise self.fail
        return self.vectors[: len(texts)]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def fake() -> DeterministicFakeEmbedding:
    return DeterministicFakeEmbedding(size=8)


def store(embedding: Embeddings | None = None) -> InMemoryVectorStore:
    made = InMemoryVectorStore(embedding or fake())
    made.add_documents([Document(text) for text in TEXTS])
    return made


@pytest.fixture
def instrumented(telemetry: Telemetry) -> Iterator[LangChainInstrumentor]:
    instrumentor = LangChainInstrumentor()
    instrumentor.instrument(embeddings=True)
    yield instrumentor
    instrumentor.uninstrument()


# --- what is recorded ---------------------------------------------------------------------------------------------------


def test_an_embedding_is_one_span_with_model_texts_and_dimensions(telemetry: Telemetry) -> None:
    model = observed(Model())
    vectors = model.embed_documents(TEXTS)
    assert vectors[0] is model.vectors[0]
    (span,) = telemetry.spans()
    assert (span["name"], span["kind"], span["parent"]) == ("embeddings embed-1", "CLIENT", None)
    assert span["attributes"] == snapshot(
        {
            "ai.agent.span.kind": "embedding",
            "ai.agent.outcome": "success",
            "ai.agent.stage": "pre_process",
            "ai.agent.framework": "langchain",
            "ai.agent.request.id": IsStr(regex="[0-9a-f]{32}"),
            "ai.agent.model.name": "embed-1",
            "ai.agent.endpoint": "llm.example:8443",
            "server.address": "llm.example",
            "server.port": 8443,
            "gen_ai.operation.name": "embeddings",
            "gen_ai.request.model": "embed-1",
            "gen_ai.embeddings.dimension.count": 3,
            "ai.agent.embedding.text_count": 3,
            "ai.agent.embedding.dimension_count": 3,
        }
    )


def test_a_method_that_is_made_of_another_is_one_call(telemetry: Telemetry) -> None:
    assert observed(Model()).embed_query("canary-51c0") == [1.0, 2.0, 3.0]
    (span,) = telemetry.spans()
    assert span["attributes"][semconv.EMBEDDING_TEXT_COUNT] == 1


async def test_async_calls_are_one_span_though_they_run_in_an_executor(telemetry: Telemetry) -> None:
    model = observed(Model())
    with trace.get_tracer("application").start_as_current_span("request"):
        await model.aembed_documents(TEXTS)
        await model.aembed_query("house")
    assert telemetry.tree() == snapshot("""\
request
  embeddings embed-1
  embeddings embed-1\
""")


def test_a_cache_and_the_model_behind_it_are_two_spans(telemetry: Telemetry) -> None:
    class Cache(Model):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return behind.embed_documents(texts)

    behind = observed(Model())
    observed(Cache()).embed_query("house")
    assert telemetry.tree() == "embeddings embed-1\n  embeddings embed-1"


def test_an_error_is_the_same_object(telemetry: Telemetry) -> None:
    error = ConnectionError("canary-51c0")
    with pytest.raises(ConnectionError) as caught:
        observed(Model(error)).embed_query("house")
    assert caught.value is error
    (span,) = telemetry.spans()
    assert (span["status"], span["attributes"]["error.type"]) == ("ERROR", "ConnectionError")


def test_a_store_is_searched_and_written(telemetry: Telemetry) -> None:
    searched = store(observed(fake()))
    telemetry.wait_until_closed()
    before = len(telemetry.spans())
    observed(searched)
    found = searched.similarity_search("house", k=2)
    assert len(found) == 2
    searched.similarity_search_with_score("house", k=1)
    searched.max_marginal_relevance_search("house", k=1)
    searched.add_texts(["more"])
    searched.delete(["none"])
    tree = telemetry.tree().splitlines()
    assert "\n".join(tree[before:]) == snapshot("""\
retrieval InMemoryVectorStore
  embeddings DeterministicFakeEmbedding
retrieval InMemoryVectorStore
  embeddings DeterministicFakeEmbedding
retrieval InMemoryVectorStore
  embeddings DeterministicFakeEmbedding
invoke_workflow InMemoryVectorStore.add_texts
  embeddings DeterministicFakeEmbedding
invoke_workflow InMemoryVectorStore.delete\
""")
    counts = [span["attributes"].get(semconv.DOCUMENT_COUNT) for span in telemetry.spans()]
    assert [count for count in counts if count is not None] == [2, 1, 1]


def test_a_search_by_a_retriever_is_the_retrievers_own_run(telemetry: Telemetry) -> None:
    searched = observed(store(observed(fake())))
    chain = searched.as_retriever() | RunnableLambda(len, name="count")
    before = len(telemetry.spans())
    assert chain.invoke("house", {"callbacks": [AiObsCallbackHandler()]}) == 3
    assert "\n".join(telemetry.tree().splitlines()[before:]) == snapshot("""\
invoke_workflow RunnableSequence
  retrieval InMemoryVectorStore
    embeddings DeterministicFakeEmbedding
  count\
""")


@pytest.mark.parametrize("ways", ["invoke", "batch", "batch one by one", "ainvoke", "abatch", "astream"])
async def test_the_embedding_hangs_below_the_retriever_however_the_chain_is_called(
    telemetry: Telemetry, ways: str
) -> None:
    searched = observed(store(observed(fake())))
    chain = searched.as_retriever() | RunnableLambda(len, name="count")
    config: Any = {"callbacks": [AiObsCallbackHandler()]}
    before = len(telemetry.spans())
    if ways.startswith("batch"):
        config["max_concurrency"] = 1 if ways.endswith("one") else None
        chain.batch(["house", "car"], config)
    elif ways == "abatch":
        await chain.abatch(["house", "car"], config)
    elif ways == "astream":
        assert [chunk async for chunk in chain.astream("house", config)] == [3]
    else:
        assert (
            await chain.ainvoke("house", config) if ways == "ainvoke" else chain.invoke("house", config)
        ) == 3
    one = """\
invoke_workflow RunnableSequence
  retrieval InMemoryVectorStore
    embeddings DeterministicFakeEmbedding
  count"""
    times = 2 if "batch" in ways else 1
    assert telemetry.tree().splitlines()[before:] == one.splitlines() * times


@pytest.mark.parametrize("search_type", ["similarity", "mmr"])
async def test_a_retriever_searches_in_its_own_run_whatever_its_way(
    telemetry: Telemetry, instrumented: LangChainInstrumentor, search_type: str
) -> None:
    retriever = InMemoryVectorStore(fake()).as_retriever(search_type=search_type)
    retriever.invoke("house")
    await retriever.ainvoke("house")
    one = ["retrieval InMemoryVectorStore", "  embeddings DeterministicFakeEmbedding"]
    assert telemetry.tree().splitlines() == one * 2


# --- what is left as it was ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [fake, Model, store])
def test_the_object_is_the_same_and_of_its_class(telemetry: Telemetry, make: Any) -> None:
    plain = make()
    cls, state = type(plain), dict(vars(plain))
    made = observed(plain)
    assert made is plain
    assert observed(made) is made
    assert isinstance(made, cls)
    assert (type(made).__name__, type(made).__module__) == (cls.__name__, cls.__module__)
    assert type(made) is cls
    assert vars(made) == state


def test_copies_are_other_objects(telemetry: Telemetry) -> None:
    for make in (fake, Model):
        made = observed(make())
        assert made == made
        for each in (pickle.loads(pickle.dumps(made)), copy.copy(made), copy.deepcopy(made)):
            assert type(each) is type(made)
            assert len(each.embed_query("house")) in {3, 8}
    assert observed(fake()) == fake()
    assert telemetry.spans() == []


def test_other_objects_are_not_observed(telemetry: Telemetry) -> None:
    observed(Model())
    Model().embed_query("house")
    assert telemetry.spans() == []


def test_what_is_neither_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected an Embeddings or a VectorStore, got str"):
        observed("house")  # type: ignore[type-var]


def test_suppressed_calls_are_not_recorded(telemetry: Telemetry) -> None:
    model = observed(Model())
    with suppressed():
        assert model.embed_query("house") == [1.0, 2.0, 3.0]
    assert telemetry.spans() == []


def test_no_content_leaves(telemetry: Telemetry) -> None:
    searched = observed(store(observed(fake())))
    searched.similarity_search("canary-51c0")
    searched.add_documents([Document("canary-51c0", metadata={"canary-51c0": "canary-51c0"})])
    assert telemetry.raw()
    for span in telemetry.raw():
        assert "canary-51c0" not in span.to_json()
        assert "password" not in span.to_json()


# --- the instrumentation ------------------------------------------------------------------------------------------------


def test_instrumented_every_object_is_recorded(
    telemetry: Telemetry, instrumented: LangChainInstrumentor
) -> None:
    made = store()
    made.similarity_search("house")
    assert telemetry.tree() == snapshot("""\
invoke_workflow InMemoryVectorStore.add_documents
  embeddings DeterministicFakeEmbedding
retrieval InMemoryVectorStore
  embeddings DeterministicFakeEmbedding\
""")


def test_classes_made_later_are_recorded_too(
    telemetry: Telemetry, instrumented: LangChainInstrumentor
) -> None:
    class Later(Model):
        def embed_query(self, text: str) -> list[float]:
            return super().embed_query(text)

    class WithFields(DeterministicFakeEmbedding):
        model: str = "later-1"

        def embed_query(self, text: str) -> list[float]:
            return [0.0]

    Later().embed_query("house")
    WithFields(size=3).embed_query("house")
    assert telemetry.tree() == snapshot("""\
embeddings embed-1
embeddings later-1\
""")


def test_models_with_fields_are_recorded_though_pydantic_makes_their_class(
    telemetry: Telemetry, instrumented: LangChainInstrumentor
) -> None:
    class Fields(BaseModel, Embeddings):  # in this order, as OpenAIEmbeddings
        model: str = "fields-1"

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[0.0]] * len(texts)

        def embed_query(self, text: str) -> list[float]:
            return [0.0]

    Fields().embed_documents(TEXTS)
    assert telemetry.tree() == "embeddings fields-1"


def test_the_provider_is_that_of_the_package_also_of_an_applications_own_class(telemetry: Telemetry) -> None:
    def of(module: str, name: str, base: type = Model) -> type[Model]:
        return type(name, (base,), {"__module__": module})

    openai = of("langchain_openai.embeddings.base", "OpenAIEmbeddings")
    azure = of("langchain_openai.embeddings.azure", "AzureOpenAIEmbeddings", openai)
    classes = [
        openai,
        azure,
        of("application", "Ours", openai),
        of("application", "AzureOfOurs", azure),
        of("langchain_azure_ai.embeddings.inference", "AzureAIEmbeddingsModel"),
        of("langchain_community.embeddings.fake", "Fake"),
        of("application", "AzureHouse"),
    ]
    for cls in classes:
        observed(cls()).embed_query("house")
    assert [span["attributes"].get("gen_ai.provider.name") for span in telemetry.spans()] == snapshot(
        ["openai", "azure.ai.openai", "openai", "azure.ai.openai", "azure.ai.inference", None, None]
    )


def test_instrumented_and_observed_a_call_is_one_span(
    telemetry: Telemetry, instrumented: LangChainInstrumentor
) -> None:
    observed(Model()).embed_query("house")
    assert len(telemetry.spans()) == 1


def test_uninstrumenting_puts_everything_back(telemetry: Telemetry) -> None:
    classes = [Embeddings, VectorStore, DeterministicFakeEmbedding, InMemoryVectorStore, Model]
    before = [dict(vars(cls)) for cls in classes]
    for _ in range(2):
        LangChainInstrumentor().instrument(embeddings=True)
        LangChainInstrumentor().uninstrument()
    assert [dict(vars(cls)) for cls in classes] == before
    LangChainInstrumentor().instrument()  # without embeddings
    try:
        Model().embed_query("house")
    finally:
        LangChainInstrumentor().uninstrument()
    assert telemetry.spans() == []


def test_what_others_have_wrapped_since_stays_and_records_nothing(telemetry: Telemetry) -> None:
    original = Model.embed_query
    LangChainInstrumentor().instrument(embeddings=True)
    ours = Model.embed_query

    def theirs(self: Model, text: str) -> list[float]:
        return ours(self, text)

    Model.embed_query = theirs  # type: ignore[method-assign]
    try:
        LangChainInstrumentor().uninstrument()
        assert Model.embed_query is theirs
        assert Model().embed_query("house") == [1.0, 2.0, 3.0]
    finally:
        Model.embed_query = original  # type: ignore[method-assign]
    assert telemetry.spans() == []


def test_uninstrumenting_in_the_middle_of_a_call(telemetry: Telemetry) -> None:
    inside, go_on = threading.Event(), threading.Event()

    class Waits(Model):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            inside.set()
            go_on.wait(10)
            return super().embed_documents(texts)

    LangChainInstrumentor().instrument(embeddings=True)
    worker = threading.Thread(target=lambda: Waits().embed_documents(TEXTS))
    worker.start()
    inside.wait(10)
    LangChainInstrumentor().uninstrument()
    go_on.set()
    worker.join()
    assert [span["name"] for span in telemetry.spans()] == ["embeddings embed-1"]
