"""What is recorded of each sort of run, and how an error is told."""

from __future__ import annotations

from typing import Any, Final

import pytest
from opentelemetry import trace

from aiobs_core import semconv, using_attributes
from aiobs_testing.conformance.subject import CANARY, Subject, current_id, raising

_CALLS: Final[dict[str, tuple[Any, ...]]] = {
    "stream": ("hello",),
    "embed": (["one", "two"],),
    "retrieve": ("query", ["one", "two"]),
    "rerank": ("query", ["one", "two", "three"]),
    "agent": ("hello", lambda: "found"),
}

_GENERATIONS: Final = [
    pytest.param(name, marks=pytest.mark.telemetry(semconv=name, dialects="gen_ai,openinference"))
    for name in ("1.41", "latest")
]


class Recording:
    """Models, tools, agents and pipelines, as spans with names, attributes and status."""

    def test_chat(self, subject: Subject) -> None:
        subject.observed("chat")("hello")
        span = subject.the("model")
        subject.check_model(span)
        assert span.kind is trace.SpanKind.CLIENT
        assert semconv.TIME_TO_FIRST_CHUNK_S not in (span.attributes or {})

    @pytest.mark.asyncio
    async def test_achat(self, subject: Subject) -> None:
        await subject.observed("achat")("hello")
        subject.check_model(subject.the("model"))

    def test_stream(self, subject: Subject) -> None:
        assert len(list(subject.observed("stream")("hello"))) >= 3
        span = subject.the("model")
        subject.check_model(span)
        subject.check_first_chunk(span)

    @pytest.mark.asyncio
    async def test_astream(self, subject: Subject) -> None:
        assert len([chunk async for chunk in subject.observed("astream")("hello")]) >= 3
        span = subject.the("model")
        subject.check_model(span)
        subject.check_first_chunk(span)

    def test_batch(self, subject: Subject) -> None:
        subject.observed("batch")(["a", "b", "c"])
        models = subject.of_kind("model")
        assert len(models) == 3
        assert len({subject.trace(span) for span in models}) == 3

    def test_embed(self, subject: Subject) -> None:
        subject.observed("embed")(["one", "two", "three"])
        span = subject.the("embedding")
        assert span.name.split()[0] == "embeddings"
        assert span.kind is trace.SpanKind.CLIENT
        assert subject.get(span, semconv.EMBEDDING_TEXT_COUNT) == 3
        assert subject.get(span, semconv.EMBEDDING_DIMENSION_COUNT) == subject.driver.dimensions
        assert subject.get(span, semconv.GEN_AI_EMBEDDINGS_DIMENSION_COUNT) == subject.driver.dimensions

    def test_retrieve(self, subject: Subject) -> None:
        subject.observed("retrieve")("query", ["one", "two"])
        span = subject.the("retriever")
        assert span.name.split()[0] == "retrieval"
        assert subject.get(span, semconv.DOCUMENT_COUNT) == 2

    def test_rerank(self, subject: Subject) -> None:
        subject.observed("rerank")("query", ["one", "two", "three"])
        assert subject.get(subject.the("reranker"), semconv.DOCUMENT_COUNT) == 2

    def test_query(self, subject: Subject) -> None:
        subject.observed("query")("hello")
        subject.check_pipeline()
        subject.check_model(subject.the("model"))

    def test_stream_query(self, subject: Subject) -> None:
        chunks = subject.observed("stream_query")("hello")
        assert len(list(chunks)) >= 3
        subject.check_pipeline()
        span = subject.the("model")
        subject.check_model(span)
        subject.check_first_chunk(span)

    def test_tool(self, subject: Subject) -> None:
        result = object()
        subject.observed("tool")("x", lambda: str(id(result)))
        span = subject.the("tool")
        assert span.name == "execute_tool look"
        assert subject.get(span, semconv.GEN_AI_TOOL_NAME) == "look"

    def test_parallel_tools(self, subject: Subject) -> None:
        inside: dict[str, int] = {}
        subject.observed("parallel_tools")(lambda name: inside.setdefault(name, current_id()))
        tools = subject.of_kind("tool")
        assert {subject.id(span) for span in tools} == set(inside.values())
        assert len({subject.trace(span) for span in tools}) == 1
        assert len(inside) == 2

    def test_agent(self, subject: Subject) -> None:
        subject.observed("agent")("hello", lambda: "found")
        subject.check_agent(subject.spans())

    @pytest.mark.asyncio
    async def test_aagent(self, subject: Subject) -> None:
        await subject.observed("aagent")("hello", lambda: "found")
        subject.check_agent(subject.spans())

    def test_every_span_names_its_scope_and_framework(self, subject: Subject) -> None:
        subject.observed("chat")("hello")
        for span in subject.spans():
            assert span.instrumentation_scope is not None
            assert span.instrumentation_scope.version
            framework = subject.driver.scope.removeprefix(semconv.SCOPE_PREFIX)
            assert subject.get(span, semconv.FRAMEWORK) == framework

    @pytest.mark.parametrize("generation", _GENERATIONS)
    def test_names_are_of_the_generation_that_the_user_chose(self, subject: Subject, generation: str) -> None:
        """Adapters say what happened in fields, or under names that all generations share."""
        subject.observed("chat")("hello")
        for method, arguments in _CALLS.items():
            subject.run_if_there(method, *arguments)
        names = {name for span in subject.spans() for name in span.attributes or {}}
        of = {semconv.ATTRIBUTES[name].generation for name in names if name in semconv.ATTRIBUTES}
        assert of <= {None, generation}

    def test_the_request_is_named_on_every_span(self, subject: Subject) -> None:
        call = subject.observed("agent")
        with using_attributes(request_id="r-17", tags=["trial"]):
            call("hello", lambda: "found")
        assert {subject.get(span, semconv.REQUEST_ID) for span in subject.spans()} == {"r-17"}
        assert {subject.get(span, semconv.TAGS) for span in subject.spans()} == {("trial",)}

    # --- errors -----------------------------------------------------------------------------------------------------

    def test_tool_error(self, subject: Subject) -> None:
        error = ValueError(CANARY)
        with pytest.raises(ValueError, match=CANARY) as caught:
            subject.observed("tool")("x", raising(error))
        assert caught.value is error
        subject.check_error(subject.the("tool"), "ValueError")

    @pytest.mark.asyncio
    async def test_async_tool_error(self, subject: Subject) -> None:
        error = ValueError(CANARY)
        with pytest.raises(ValueError, match=CANARY) as caught:
            await subject.observed("atool")("x", raising(error))
        assert caught.value is error
        subject.check_error(subject.the("tool"), "ValueError")

    def test_model_error(self, subject: Subject) -> None:
        error = ConnectionError(CANARY)
        with pytest.raises(ConnectionError, match=CANARY) as caught:
            subject.observed("failing_chat")(error)
        assert caught.value is error
        subject.check_error(subject.the("model"), "ConnectionError")

    def test_stream_error(self, subject: Subject) -> None:
        error = ConnectionError(CANARY)
        chunks = subject.observed("failing_stream")(error)
        with pytest.raises(ConnectionError, match=CANARY) as caught:
            for _ in chunks:
                pass
        assert caught.value is error
        span = subject.the("model")
        subject.check_error(span, "ConnectionError")
        assert subject.get(span, semconv.CHUNK_COUNT) >= 1

    def test_a_tool_error_inside_an_agent(self, subject: Subject) -> None:
        """The agent raises it, and failed; or it handles it, and says so."""
        call, raised = subject.observed("agent"), False
        try:
            call("hello", raising(LookupError(CANARY)))
        except LookupError:
            raised = True
        subject.check_error(subject.the("tool"), "LookupError")
        agent = subject.the("agent")
        if raised:
            subject.check_error(agent, "LookupError")
        else:
            subject.check_not_an_error(agent, "success")
            assert subject.get(agent, semconv.SUPPRESSED_ERROR) == "LookupError"
