"""One test per trap that LangChain and LangGraph lay for whoever observes them; each fails with the naive handler."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import ContextVar
from operator import add as concatenate
from typing import Annotated, Any
from uuid import uuid4

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import context as langchain_context
from langchain_fakes import IDENTITY, FakeChat, FakeRetriever, SlowChat
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, RetryPolicy, interrupt
from naive import NaiveHandler, fails_with_naive
from scenarios import (
    CORE,
    every,
    is_child,
    is_error,
    kind,
    names,
    one,
    outcome,
    parent_of,
    path,
    roots,
    traces,
)
from typing_extensions import TypedDict

from aiobs_core import span as aiobs_span
from aiobs_langchain import LangChainInstrumentor


class State(TypedDict):
    steps: Annotated[list[str], concatenate]


def graph(**nodes: Any) -> Any:
    """A graph of the nodes in the order given, with a checkpointer."""
    builder = StateGraph(State)
    builder.add_sequence(list(nodes.items()))
    builder.add_edge(START, next(iter(nodes)))
    return builder.compile(checkpointer=InMemorySaver(), name="flow")


def models(subject: Any, spans: Any) -> list[Any]:
    return every(spans, "chat") if subject.is_naive else kind(spans, "model")


@fails_with_naive
async def test_trap_01_fallbacks_do_not_orphan_their_children(subject):
    def chain():
        return FakeChat(fail=ValueError("down")).with_fallbacks([FakeChat(model="fake-2")])

    answer = await subject.same_async(lambda callbacks: chain().ainvoke("q", {"callbacks": callbacks}))
    assert answer.content == "hello world foo"
    spans = subject.all_ended()
    assert len(traces(spans)) == 1
    assert len(roots(spans)) == 1
    assert all(is_child(call, roots(spans)[0]) for call in models(subject, spans))


@fails_with_naive
async def test_trap_01_fallbacks_inside_a_chain_keep_their_children(subject):
    chain = IDENTITY | FakeChat(fail=ValueError("down")).with_fallbacks([FakeChat(model="fake-2")])
    await chain.ainvoke("q", subject.config())
    spans = subject.all_ended()
    fallbacks = one(spans, "RunnableWithFallbacks")
    assert [parent_of(spans, call).context.span_id for call in models(subject, spans)] == [
        fallbacks.context.span_id,
        fallbacks.context.span_id,
    ]


@fails_with_naive
def test_trap_02_the_same_handler_twice_gives_one_span_per_run(subject):
    IDENTITY.with_config(callbacks=[subject.handler]).invoke(1, subject.config())
    (IDENTITY | FakeChat()).invoke("q", {"callbacks": [subject.handler, *subject.callbacks]})
    spans = subject.all_ended()
    assert len(spans) == len(subject.witness.started)
    assert subject.log.lines == []


@fails_with_naive
def test_trap_03_two_instances_give_one_span_per_run(subject):
    FakeChat(callbacks=[subject.make_handler()]).invoke("q", subject.config())
    assert len(subject.all_ended()) == 1


@fails_with_naive
async def test_trap_04_no_context_token_is_lost_in_async_code(subject):
    tracer = subject.tracer()
    with tracer.start_as_current_span("request"):
        await (IDENTITY | FakeChat()).ainvoke("q", subject.config())
        with tracer.start_as_current_span("after"):
            pass
    spans = subject.all_ended()
    assert subject.log.lines == []
    assert is_child(one(spans, "after"), one(spans, "request"))
    assert is_child(one(spans, "RunnableSequence"), one(spans, "request"))


@fails_with_naive
def test_trap_05_tokens_come_by_keyword(subject):
    list(FakeChat().stream("q", subject.config()))
    spans = subject.all_ended()
    assert subject.log.lines == []
    assert subject.get(spans[0], "ai.agent.chunk.count") == 3


@fails_with_naive
def test_trap_06_chunks_are_not_tokens(subject):
    """Three words, a chunk that carries usage only and an end marker: three chunks, seven tokens."""
    list(FakeChat().stream("q", subject.config()))
    (call,) = subject.all_ended()
    assert subject.get(call, "ai.agent.usage.output_tokens") == 7
    assert subject.get(call, "ai.agent.chunk.count") == 3


@fails_with_naive
def test_trap_07_no_conversation_id_is_invented(subject):
    chain = IDENTITY | FakeChat()
    chain.invoke("q", subject.config(configurable={"thread_id": "T"}))
    spans = subject.all_ended()
    found = {subject.get(span, "gen_ai.conversation.id") for span in spans}
    # langchain-core 1.0 still copied `configurable` into the metadata of every run; a plain chain span has no id.
    assert found == ({"T", None} if CORE < (1, 1) else {None})


@fails_with_naive
def test_trap_07_a_conversation_id_in_metadata_is_kept(subject):
    (IDENTITY | FakeChat()).invoke("q", subject.config(metadata={"thread_id": "T"}))
    spans = subject.all_ended()
    with_operation = [span for span in spans if "gen_ai.operation.name" in span.attributes] or spans
    assert {subject.get(span, "gen_ai.conversation.id") for span in with_operation} == {"T"}


@fails_with_naive
def test_trap_07_graphs_name_their_thread_themselves(subject):
    flow = graph(first=lambda state: {"steps": ["1"]})
    flow.invoke({"steps": []}, subject.config(configurable={"thread_id": "T"}))
    (root,) = roots(subject.all_ended())
    assert subject.get(root, "gen_ai.conversation.id") == "T"


@fails_with_naive
def test_trap_08_only_values_that_otlp_can_carry_become_attributes(subject):
    odd = {
        "none": None,
        "dict": {"a": 1},
        "tuple": (1, "a", None),
        "uuid": uuid4(),
        "nan": float("nan"),
        "set": {1},
    }
    if not subject.is_naive:
        subject.reconfigure(metadata_keys=tuple(odd))
    FakeChat().invoke("q", subject.config(metadata=odd))
    (call,) = subject.all_ended()
    for key, value in call.attributes.items():
        values = value if isinstance(value, tuple) else (value,)
        assert len({type(item) for item in values}) <= 1, key
        assert all(type(item) in {str, bool, int, float} and item == item for item in values), key


@fails_with_naive
async def test_trap_09_a_model_run_without_an_end_is_closed(subject):
    async def call(callbacks):
        await asyncio.wait_for((IDENTITY | SlowChat()).ainvoke("q", {"callbacks": callbacks}), 0.05)

    error = await subject.same_async(call)
    assert type(error) is asyncio.TimeoutError
    del error
    spans = subject.all_ended(3.0)
    assert [outcome(span) for span in models(subject, spans)] == ["cancelled"]
    assert not any(is_error(span) for span in spans)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
@fails_with_naive
def test_trap_10_a_retriever_stopped_by_the_system_is_closed(subject, error):
    with contextlib.suppress(BaseException):
        FakeRetriever(fail=error()).invoke("q", subject.config())
    spans = subject.all_ended(3.0)
    assert [outcome(span) for span in spans] == ["abandoned"]


@fails_with_naive
def test_trap_11_a_late_child_keeps_what_it_reports(subject):
    """A broken-off stream ends its chain first, and the model afterwards with the usage so far."""
    stream = (IDENTITY | FakeChat()).stream("q", subject.config())
    next(stream)
    stream.close()
    spans = subject.all_ended()
    (call,) = models(subject, spans)
    assert outcome(call) == "abandoned"
    assert subject.get(call, "ai.agent.chunk.count") == 1
    assert call.attributes["ai.agent.output.size_chars"] == len("hello")
    assert len(traces(spans)) == 1


@fails_with_naive
def test_trap_12_an_interrupt_is_not_an_error(subject):
    flow = graph(ask=lambda state: {"steps": [interrupt("sure?")]})
    flow.invoke({"steps": []}, subject.config(configurable={"thread_id": "T"}))
    spans = subject.all_ended()
    assert not any(is_error(span) for span in spans)
    assert [outcome(one(spans, name)) for name in ("ask", "flow")] == ["interrupted", "interrupted"]


@fails_with_naive
def test_trap_12_a_hand_off_to_the_parent_graph_is_not_an_error(subject):
    inner = StateGraph(State)
    inner.add_node(
        "leave", lambda state: Command(graph=Command.PARENT, goto="after", update={"steps": ["left"]})
    )
    inner.add_edge(START, "leave")
    outer = StateGraph(State)
    outer.add_node("inner", inner.compile(name="inner_graph"))
    outer.add_node("after", lambda state: {"steps": ["after"]})
    outer.add_edge(START, "inner")
    outer.add_edge("after", END)
    result = subject.same(
        lambda callbacks: outer.compile(name="flow").invoke({"steps": []}, {"callbacks": callbacks})
    )
    assert result == {"steps": ["left", "after"]}
    spans = subject.all_ended()
    assert not any(is_error(span) for span in spans)
    assert outcome(one(spans, "leave")) == "success"
    assert [event.name for event in one(spans, "leave").events] == ["ai.agent.handoff"]


@contextlib.contextmanager
def everywhere(subject, **naive_hook):
    """The subject's handler on every run, without passing callbacks."""
    hooks = langchain_context._configure_hooks
    before = list(hooks)
    if subject.is_naive:
        variable = ContextVar("naive", default=None)
        variable.set(subject.handler)
        langchain_context.register_configure_hook(variable, inheritable=True, **naive_hook)
    else:
        LangChainInstrumentor().instrument()
    try:
        yield
    finally:
        if subject.is_naive:
            hooks[:] = before
        else:
            LangChainInstrumentor().uninstrument()


@fails_with_naive
def test_trap_13_pauses_are_seen_without_graph_callbacks(subject):
    """LangGraph calls on_interrupt only for handlers in `config`, and only for those of its own class."""
    subject.counts_runs = False
    flow = graph(ask=lambda state: {"steps": [interrupt("sure?")]})
    with everywhere(subject):
        paused = flow.invoke({"steps": []}, {"configurable": {"thread_id": "T"}})
    spans = subject.all_ended()
    (asked,) = paused["__interrupt__"]
    assert one(spans, "ask").attributes.get("ai.agent.interrupt.id") == asked.id
    assert outcome(one(spans, "flow")) == "interrupted"


@fails_with_naive
def test_trap_14_instrumenting_the_process_makes_one_handler(subject, monkeypatch):
    subject.counts_runs = False
    made = []
    cls = type(subject.handler)
    original = cls.__init__
    monkeypatch.setattr(cls, "__init__", lambda self, *args: (made.append(1), original(self, *args))[1])
    monkeypatch.setenv("NAIVE_TRACING", "true")
    provider = getattr(subject, "provider", None)

    class FromEnvironment(cls):
        def __init__(self):
            super().__init__(provider)

    hook = {"handle_class": FromEnvironment, "env_var": "NAIVE_TRACING"} if subject.is_naive else {}
    if subject.is_naive:
        subject.handler = None
    with everywhere(subject, **hook):
        (IDENTITY | FakeChat()).invoke("q")
        FakeChat().batch(["a", "b", "c"])
    assert len(made) == 1
    assert len(traces(subject.all_ended())) == 4


@fails_with_naive
def test_trap_15_a_cache_hit_uses_no_tokens(subject):
    model = FakeChat(cache=InMemoryCache())
    model.invoke("q", subject.config())
    model.invoke("q", subject.config())
    first, second = subject.all_ended()
    assert subject.get(first, "ai.agent.usage.input_tokens") == 11
    assert subject.get(second, "ai.agent.usage.input_tokens") is None
    assert subject.get(second, "ai.agent.usage.source") == "cache_hit"


@fails_with_naive
def test_trap_16_usage_of_several_choices_is_counted_once(subject):
    FakeChat(choices=3).invoke("q", subject.config())
    (call,) = subject.all_ended()
    assert subject.get(call, "ai.agent.usage.input_tokens") == 11
    assert subject.get(call, "ai.agent.usage.output_tokens") == 7


@pytest.mark.parametrize("streamed", [True, False])
@fails_with_naive
def test_trap_17_missing_usage_is_missing_and_never_zero(subject, streamed):
    model = FakeChat(usage=None)
    list(model.stream("q", subject.config())) if streamed else model.invoke("q", subject.config())
    (call,) = subject.all_ended()
    assert subject.get(call, "ai.agent.usage.input_tokens") is None
    assert subject.get(call, "ai.agent.usage.output_tokens") is None
    assert subject.get(call, "ai.agent.usage.source") == "missing"


class FourDimensions(Embeddings):
    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[1.0, 0.0, 0.0, 0.0] for _ in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


def test_trap_18_embeddings_have_no_events(subject):
    """LangChain reports no embedding calls: nothing is recorded, and nothing breaks."""

    def call(callbacks):
        model = FourDimensions()
        return RunnableLambda(model.embed_query, name="embed").invoke("q", {"callbacks": callbacks})

    assert len(subject.same(call)) == 4
    assert names(subject.all_ended()) == ["invoke_workflow embed"]


@fails_with_naive
def test_trap_18_an_embedding_in_a_span_block_hangs_under_its_run(subject):
    def embed(text):
        with aiobs_span("embed-1", kind="embedding"):
            return FourDimensions().embed_query(text)

    RunnableLambda(embed, name="embed").invoke("q", subject.config())
    spans = subject.all_ended()
    assert is_child(one(spans, "embed-1"), one(spans, "embed"))


@fails_with_naive
def test_trap_19_runs_without_a_serialized_form_have_a_name(subject):
    if subject.is_naive:
        subject.handler = NaiveHandler(subject.provider)
    chain = ChatPromptTemplate.from_messages([("user", "{q}")]) | FakeChat() | StrOutputParser()
    chain.invoke({"q": "q"}, subject.config())
    FakeRetriever().invoke("q", subject.config())
    graph(first=lambda state: {"steps": ["1"]}).invoke(
        {"steps": []}, subject.config(configurable={"thread_id": "T"})
    )
    spans = subject.all_ended()
    assert subject.log.lines == []
    assert sorted(names(spans)) == sorted(
        [
            "ChatPromptTemplate",
            "StrOutputParser",
            "chat fake-1",
            "first",
            "invoke_workflow RunnableSequence",
            "invoke_workflow flow",
            "retrieval fake",
        ]
    )


@fails_with_naive
def test_trap_20_a_bare_thread_starts_a_trace_of_its_own(subject):
    """A thread has no context to find a parent in; with process-wide instrumentation its calls are seen all the same."""
    subject.counts_runs = False

    def in_thread(_):
        thread = threading.Thread(target=FakeChat().invoke, args=("q",))
        thread.start()
        thread.join()

    with everywhere(subject):
        RunnableLambda(in_thread, name="outer").invoke(1)
    spans = subject.all_ended()
    assert len(spans) == 2
    assert len(traces(spans)) == 2


def test_trap_20_a_bare_thread_is_not_seen_through_config(subject):
    def in_thread(_):
        thread = threading.Thread(target=FakeChat().invoke, args=("q",))
        thread.start()
        thread.join()

    RunnableLambda(in_thread, name="outer").invoke(1, subject.config())
    assert names(subject.all_ended()) == ["invoke_workflow outer"]


@fails_with_naive
def test_trap_21_inputs_that_change_later_change_nothing(subject):
    question = HumanMessage("short")
    inputs = {"question": question, "secret": "first"}

    def change(given):
        given["secret"] = "changed-later"
        return [given["question"]]

    (RunnableLambda(change) | FakeChat()).invoke(inputs, subject.config())
    spans = subject.all_ended()
    assert not any("changed-later" in str(value) for span in spans for value in span.attributes.values())
    (call,) = models(subject, spans)
    assert subject.get(call, "ai.agent.input.size_chars") == len("short")


@fails_with_naive
def test_trap_22_the_empty_input_of_a_stream_is_not_taken_for_its_input(subject):
    list((IDENTITY | FakeChat()).stream("hello", subject.config()))
    spans = subject.all_ended()
    assert not any("{'input': ''}" in str(value) for span in spans for value in span.attributes.values())
    (call,) = models(subject, spans)
    assert subject.get(call, "ai.agent.input.size_chars") == len("hello")


class _Stop(BaseException):
    pass


class Hostile(Exception):
    """Raises what no handler expects from every attribute that telemetry could look at."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"status_code", "response", "args", "__class__"}:
            raise _Stop
        return super().__getattribute__(name)

    def __str__(self) -> str:
        raise KeyboardInterrupt

    __repr__ = __str__


@fails_with_naive
def test_trap_23_nothing_raised_while_recording_reaches_the_application(subject):
    error = Hostile()

    def fail(_):
        raise error

    caught = None
    subject.expected = ("aiobs: recording a run failed in fail",)
    try:
        RunnableLambda(fail, name="fails").invoke("q", subject.config())
    except BaseException as raised:
        caught = raised
    passed_on = caught is error  # pytest would ask for the repr
    assert passed_on
    assert [is_error(span) for span in subject.all_ended()] == [True]


@fails_with_naive
def test_trap_24_instrumentation_and_a_handler_in_config_give_one_span_per_run(subject):
    with everywhere(subject):
        if subject.is_naive:
            subject.handler = subject.make_handler()
        (IDENTITY | FakeChat()).invoke("q", subject.config())
    spans = subject.all_ended()
    assert len(spans) == len(subject.witness.started) == 3


def test_trap_24_another_instrumentation_does_not_tear_the_tree(subject):
    """Its spans may stand between ours, but there is one trace and each run has one span of ours."""
    other = NaiveHandlerInOurProvider()
    (IDENTITY | FakeChat()).invoke("q", subject.config(callbacks=[other, *subject.callbacks]))
    spans = subject.all_ended()
    assert len(traces(spans)) == 1
    (call,) = kind(spans, "model")
    assert path(spans, call)[0] == "other RunnableSequence"


class NaiveHandlerInOurProvider(NaiveHandler):
    def __init__(self) -> None:
        from opentelemetry import trace

        super().__init__(trace.get_tracer_provider())

    def on_chain_start(self, serialized, inputs, *, name=None, **kwargs):
        super().on_chain_start({"name": f"other {name}"}, inputs, **kwargs)


@fails_with_naive
def test_trap_36_attempts_of_with_retry_are_numbered(subject):
    fails = iter([ValueError("1"), ValueError("2")])

    def call(text):
        for error in fails:
            raise error
        return text

    chain = RunnableLambda(call, name="call").with_retry(
        stop_after_attempt=3, wait_exponential_jitter=False, retry_if_exception_type=(ValueError,)
    )
    assert chain.invoke("q", subject.config()) == "q"
    spans = subject.all_ended()
    outer, *attempts = every(spans, "call")
    assert all(is_child(span, outer) for span in attempts)
    # LangChain marks attempts from the second on; the first is over before anyone can know that it was one of several.
    assert [span.attributes.get("ai.agent.retry.attempt") for span in attempts] == [None, 2, 3]
    assert [is_error(span) for span in (outer, *attempts)] == [False, True, True, False]


@fails_with_naive
def test_trap_36_attempts_of_a_graph_node_are_numbered(subject):
    fails = iter([ValueError("1")])

    def call(state):
        for error in fails:
            raise error
        return {"steps": ["1"]}

    builder = StateGraph(State)
    builder.add_node("call", call, retry_policy=RetryPolicy(initial_interval=0.001, retry_on=ValueError))
    builder.add_edge(START, "call")
    builder.compile(name="flow").invoke({"steps": []}, subject.config())
    attempts = every(subject.all_ended(), "call")
    assert [span.attributes.get("ai.agent.retry.attempt") for span in attempts] == [None, 2]
