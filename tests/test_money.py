"""What calls cost, from what a provider sends to the bill, with the frameworks' own OpenAI classes.

A price file says that the address of the provider on this machine is OpenAI's: a server at an unknown one has no price.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool as langchain_tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from llama_index.core import Document, SummaryIndex
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.instrumentation.dispatcher import instrument_tags
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.callbacks import llm_chat_callback
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAI, OpenAIResponses
from opentelemetry import trace

from aiobs_core import Kind, Operation, Outcome, get_recorder, semconv
from aiobs_core.providers import usage_in
from aiobs_core.semconv import metrics as names
from aiobs_langchain import AiObsCallbackHandler as LangChainHandler
from aiobs_langchain import observed
from aiobs_llama_index import AiObsCallbackHandler as LlamaIndexHandler
from aiobs_testing import Telemetry
from aiobs_testing.capture import capture

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode finds no other modules beside the tests

from openai_provider import Answer, Provider, provider

HELLO = [ChatMessage(role="user", content="hello")]
WITH_USAGE = {"stream_options": {"include_usage": True}}
DIRECTIONS = ("input", "output", "cached", "reasoning")


class Shop:
    """Has models of both frameworks at the provider, and holds what aiobs says against what the provider billed."""

    def __init__(self, at: Provider, telemetry: Telemetry) -> None:
        self.provider = at
        self.telemetry = telemetry
        self._before = self._counted()

    def langchain(self, model: str = "gpt-5", **fields: Any) -> ChatOpenAI:
        given = {"max_retries": 0, "stream_usage": True, **fields}
        return ChatOpenAI(model=model, api_key="k", base_url=self.provider.address, **given)

    def llama_index(self, model: str = "gpt-5", cls: Callable[..., Any] = OpenAI, **fields: Any) -> Any:
        given = {"max_retries": 0, **fields}
        return cls(model=model, api_key="k", api_base=self.provider.address, **given)

    def check(self, micro_usd: Sequence[float | None], *, tools_usd: float = 0, unpriced: int = 0) -> None:
        """Each call's cost; that costs add up to the root and in the metric; that each token is counted once.

        Args:
            micro_usd: Of each call, in the order of their start: tokens times dollars for a million. None: no cost.
            tools_usd: What tools say that they cost.
            unpriced: Calls that are counted as having no price.
        """
        assert self.provider.answers == [], "nobody asked for these"
        spans = self.telemetry.spans()
        costs = [
            each["attributes"].get(semconv.COST_USD)
            for each in spans
            if each["attributes"].get(semconv.SPAN_KIND) in {"model", "embedding"}
        ]
        assert costs == [None if cost is None else pytest.approx(cost / 1e6) for cost in micro_usd]
        for root in [each for each in spans if each["parent"] is None]:
            inside = [each["attributes"] for each in spans if each["trace"] == root["trace"]]
            own = [each[semconv.COST_USD] for each in inside if semconv.COST_USD in each]
            total_usd = pytest.approx(sum(own)) if own else None
            assert root["attributes"].get(semconv.COST_TOTAL_USD) == total_usd
            assert root["attributes"].get(semconv.COST_UNPRICED_CALLS, 0) == unpriced
        counted = self._counted()
        counted.subtract(self._before)
        billed = {name: self.provider.billed[name] for name in DIRECTIONS}
        assert {name: counted[name] for name in DIRECTIONS} == billed
        assert (counted["gen_ai input"], counted["gen_ai output"]) == (billed["input"], billed["output"])
        assert counted["cost"] == pytest.approx(sum(cost or 0 for cost in micro_usd) / 1e6 + tools_usd)
        assert counted["unpriced"] == unpriced

    def _counted(self) -> Counter[str]:
        """The metrics, which go on counting from test to test."""
        assert self.telemetry.recorder.flush(10)
        counted: Counter[str] = Counter()
        for family in self.telemetry.recorder.metrics.snapshot():
            for point in family.points:
                values = dict(point.attributes)
                if family.metric is names.COST:
                    counted["cost"] += point.value
                elif family.metric is names.UNPRICED:
                    counted["unpriced"] += point.value
                elif family.metric is names.TOKENS:
                    counted[values[names.DIRECTION]] += point.value
                elif family.metric is names.GEN_AI_TOKEN_USAGE:
                    counted[f"gen_ai {values[names.GEN_AI_TOKEN_TYPE]}"] += point.sum
        return counted


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    asyncio.set_event_loop(None)  # else LlamaIndex's sync calls make one that nobody closes
    prices = tmp_path / "prices.toml"
    with provider() as running:
        prices.write_text(f'[endpoints]\n"{running.address}" = "openai"\n', encoding="utf-8")
        with capture(price_file=str(prices)) as telemetry:
            handler = LlamaIndexHandler()
            yield Shop(running, telemetry)
            handler.close()
            telemetry.wait_until_closed()
            telemetry.check_logs()


def config(**more: Any) -> Any:
    return {"callbacks": [LangChainHandler()], **more}


# --- the ways to call ---------------------------------------------------------------------------------------------

Way = Callable[[Shop], Any]


def _twice(shop: Shop) -> None:
    model = shop.langchain(cache=InMemoryCache())
    model.invoke("hello", config())
    model.invoke("hello", config())


def _in_a_batch(shop: Shop) -> None:
    with instrument_tags({"service_tier": "batch"}):
        shop.llama_index().chat(HELLO)


def _or_else(shop: Shop) -> None:
    try:
        shop.llama_index().chat(HELLO)
    except openai.InternalServerError:
        shop.llama_index("gpt-4o").chat(HELLO)


async def _at_once(llm: Any) -> None:
    await asyncio.gather(*(llm.achat(HELLO) for _ in range(3)))


LANGCHAIN: dict[str, Way] = {
    "chat": lambda shop: shop.langchain().invoke("hello", config()),
    "async": lambda shop: asyncio.run(shop.langchain().ainvoke("hello", config())),
    "stream": lambda shop: list(shop.langchain().stream("hello", config())),
    "stream, uncounted": lambda shop: list(shop.langchain(stream_usage=False).stream("hello", config())),
    "responses": lambda shop: shop.langchain(use_responses_api=True).invoke("hello", config()),
    "responses, streamed": lambda shop: list(
        shop.langchain(use_responses_api=True).stream("hello", config())
    ),
    "in a batch": lambda shop: shop.langchain().invoke("hello", config(metadata={"service_tier": "batch"})),
    "n = 3": lambda shop: shop.langchain(n=3).invoke("hello", config()),
    "three at once": lambda shop: shop.langchain().batch(["a", "b", "c"], config()),
    "twice, cached": _twice,
    "unlisted": lambda shop: shop.langchain("gpt-99-mega").invoke("hello", config()),
    "retried inside": lambda shop: shop.langchain(max_retries=2).invoke("hello", config()),
    "retried outside": lambda shop: (
        shop.langchain().with_retry(wait_exponential_jitter=False).invoke("hello", config())
    ),
    "or else gpt-4o": lambda shop: (
        shop.langchain().with_fallbacks([shop.langchain("gpt-4o")]).invoke("hello", config())
    ),
}
LLAMA_INDEX: dict[str, Way] = {
    "chat": lambda shop: shop.llama_index().chat(HELLO),
    "async": lambda shop: asyncio.run(shop.llama_index().achat(HELLO)),
    "stream": lambda shop: list(shop.llama_index().stream_chat(HELLO, **WITH_USAGE)),
    "stream, uncounted": lambda shop: list(shop.llama_index().stream_chat(HELLO)),
    "completion": lambda shop: shop.llama_index().complete("hello"),
    "responses": lambda shop: shop.llama_index(cls=OpenAIResponses).chat(HELLO),
    "responses, streamed": lambda shop: list(shop.llama_index(cls=OpenAIResponses).stream_chat(HELLO)),
    "in a batch": _in_a_batch,
    "n = 3": lambda shop: shop.llama_index(additional_kwargs={"n": 3}).chat(HELLO),
    "three at once": lambda shop: asyncio.run(_at_once(shop.llama_index())),
    "retried inside": lambda shop: shop.llama_index(max_retries=2).chat(HELLO),
    "or else gpt-4o": _or_else,
    "unlisted": lambda shop: shop.llama_index("ft:gpt-5:acme::1").chat(HELLO),
}

# --- the table: what the provider answers, and the bill ---------------------------------------------------------------
# A bill is in millionths of a dollar: tokens times dollars for a million of them. gpt-5: 1.25 in, 0.125 cached, 10 out.

PLAIN = Answer(input=1_000, output=100)
CACHED = replace(PLAIN, cached=600)
THOUGHT = Answer(input=1_000, cached=600, output=500, reasoning=400)
FAILED = Answer(status=500)
Case = tuple[str, Sequence[Answer], Sequence[float | None]]
CASES: dict[str, Case] = {
    "plain": ("chat", [PLAIN], [1_000 * 1.25 + 100 * 10]),
    "async": ("async", [PLAIN], [1_000 * 1.25 + 100 * 10]),
    "cached input": ("chat", [CACHED], [400 * 1.25 + 600 * 0.125 + 100 * 10]),
    "reasoning is output": ("chat", [THOUGHT], [400 * 1.25 + 600 * 0.125 + 100 * 10 + 400 * 10]),
    "streamed": ("stream", [CACHED], [400 * 1.25 + 600 * 0.125 + 100 * 10]),
    "streamed without usage": ("stream, uncounted", [PLAIN], [None]),
    "responses": ("responses", [THOUGHT], [400 * 1.25 + 600 * 0.125 + 500 * 10]),
    "responses, streamed": ("responses, streamed", [PLAIN], [1_000 * 1.25 + 100 * 10]),
    "flex": ("chat", [replace(PLAIN, tier="flex")], [1_000 * 0.625 + 100 * 5]),
    "priority": ("chat", [replace(PLAIN, tier="priority")], [1_000 * 2.5 + 100 * 20]),
    "batch": ("in a batch", [CACHED], [400 * 0.625 + 600 * 0.0625 + 100 * 5]),
    "n = 3 is billed once": ("n = 3", [Answer(input=1_000, output=300)], [1_000 * 1.25 + 300 * 10]),
    "each of three calls": ("three at once", [PLAIN, PLAIN, PLAIN], 3 * [1_000 * 1.25 + 100 * 10]),
    "the client's own retries are one call": ("retried inside", [FAILED, PLAIN], [1_000 * 1.25 + 100 * 10]),
    "dated answer": ("chat", [replace(PLAIN, model="gpt-5-2025-08-07")], [1_000 * 1.25 + 100 * 10]),
    "what answered is paid for": ("chat", [replace(PLAIN, model="gpt-4o")], [1_000 * 2.5 + 100 * 10]),
    "a gateway knows best": ("chat", [replace(PLAIN, cost_usd=0.0042)], [4_200]),
    "no tokens cost nothing": ("chat", [Answer()], [0]),
    "a fallback costs what answered": ("or else gpt-4o", [FAILED, PLAIN], [None, 1_000 * 2.5 + 100 * 10]),
}
LANGCHAIN_CASES: dict[str, Case] = {
    **CASES,
    "a cache hit is free": ("twice, cached", [PLAIN], [1_000 * 1.25 + 100 * 10, 0]),
    "a retried run is one more call": ("retried outside", [FAILED, PLAIN], [None, 1_000 * 1.25 + 100 * 10]),
}


def _bill(shop: Shop, ways: Mapping[str, Way], case: Case) -> None:
    way, answers, micro_usd = case
    shop.provider.answers = list(answers)
    ways[way](shop)
    shop.check(micro_usd)


@pytest.mark.parametrize("case", LANGCHAIN_CASES)
def test_langchain_calls_cost_what_they_should(shop: Shop, case: str) -> None:
    _bill(shop, LANGCHAIN, LANGCHAIN_CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_llama_index_calls_cost_what_they_should(shop: Shop, case: str) -> None:
    _bill(shop, LLAMA_INDEX, CASES[case])


# --- around calls -----------------------------------------------------------------------------------------------------


def test_an_agent_costs_its_calls_and_what_its_tools_say(shop: Shop) -> None:
    @langchain_tool
    def look_up(order: str) -> str:
        """The state of an order."""
        trace.get_current_span().set_attribute(semconv.COST_USD, 0.25)
        return f"{order} was shipped"

    shop.provider.answers = [
        Answer(input=1_000, output=20, calls_tool=True),
        Answer(input=1_100, cached=900, output=30),
    ]
    create_agent(shop.langchain(), [look_up]).invoke({"messages": [("user", "Where is it?")]}, config())
    shop.check([1_000 * 1.25 + 20 * 10, 200 * 1.25 + 900 * 0.125 + 30 * 10], tools_usd=0.25)


@pytest.mark.parametrize("streaming", [True, False])
def test_an_agent_of_llama_index_costs_its_calls_and_what_its_tools_say(shop: Shop, streaming: bool) -> None:
    def look_up(order: str) -> str:
        """The state of an order."""
        trace.get_current_span().set_attribute(semconv.COST_USD, 0.25)
        return f"{order} was shipped"

    shop.provider.answers = [Answer(input=1_000, output=20, calls_tool=True), Answer(input=1_100, output=30)]
    llm = shop.llama_index(additional_kwargs=WITH_USAGE)
    agent = FunctionAgent(tools=[FunctionTool.from_defaults(look_up)], llm=llm, streaming=streaming)

    async def ask() -> None:
        await agent.run("Where is it?")

    asyncio.run(ask())
    shop.check([1_000 * 1.25 + 20 * 10, 1_100 * 1.25 + 30 * 10], tools_usd=0.25)


def test_a_call_deep_inside_a_query_counts_once(shop: Shop) -> None:
    shop.provider.answers = [PLAIN]
    index = SummaryIndex.from_documents([Document(text="It was shipped.")])
    index.as_query_engine(llm=shop.llama_index()).query("Where is it?")
    shop.check([1_000 * 1.25 + 100 * 10])


def test_embeddings_whose_framework_keeps_the_usage_to_itself_have_no_cost(shop: Shop) -> None:
    shop.provider.answers = [Answer(input=1_000_000)]
    given = {"model": "text-embedding-3-small", "api_key": "k", "base_url": shop.provider.address}
    observed(OpenAIEmbeddings(check_embedding_ctx_length=False, **given)).embed_query("hello")
    shop.provider.billed.clear()  # LangChain's class hands on the vectors, and nothing else
    shop.check([None])


def test_embeddings_of_which_the_application_tells_the_usage_have_a_cost(shop: Shop) -> None:
    shop.provider.answers = [Answer(input=1_000_000)]
    model, address = "text-embedding-3-small", shop.provider.address
    recorder, key = get_recorder(), object()
    asked = Operation(kind=Kind.EMBEDDING, name=model, model=model, provider="openai", endpoint=address)
    recorder.start(key, asked)
    with openai.OpenAI(api_key="k", base_url=address, max_retries=0) as client:
        answered = client.embeddings.create(model=model, input="hello", encoding_format="float")
    recorder.end(key, Outcome(usage=usage_in(answered), model=answered.model))
    shop.check([1_000_000 * 0.02])


@pytest.mark.parametrize("ways", [LANGCHAIN, LLAMA_INDEX], ids=["langchain", "llama_index"])
def test_a_model_that_is_in_no_list_has_no_cost(shop: Shop, ways: Mapping[str, Way]) -> None:
    shop.provider.answers = [PLAIN]
    ways["unlisted"](shop)
    shop.check([None], unpriced=1)


# --- streams that break off ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", [LANGCHAIN, LLAMA_INDEX], ids=["langchain", "llama_index"])
def test_a_stream_that_broke_before_its_usage_has_no_cost(shop: Shop, ways: Mapping[str, Way]) -> None:
    shop.provider.answers = [replace(PLAIN, breaks_off="before the usage")]
    with pytest.raises(openai.APIError):
        ways["stream"](shop)
    shop.check([None])


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(LANGCHAIN, id="langchain"),
        pytest.param(LLAMA_INDEX, id="llama_index"),
    ],
)
def test_what_had_arrived_before_a_stream_broke_is_paid_for(shop: Shop, ways: Mapping[str, Way]) -> None:
    shop.provider.answers = [replace(PLAIN, breaks_off="after the usage")]
    with pytest.raises(openai.APIError):
        ways["stream"](shop)
    shop.check([1_000 * 1.25 + 100 * 10])


# --- models that hand a call on to another model -------------------------------------------------------------------


class Relay(OpenAI):
    """An application's own: it logs, chooses or limits, and lets another one answer."""

    behind: Any = None

    @llm_chat_callback()
    def chat(self, messages: Any, **more: Any) -> Any:
        return self.behind.chat(messages, **more)

    @llm_chat_callback()
    def stream_chat(self, messages: Any, **more: Any) -> Any:
        return self.behind.stream_chat(messages, **more)


class LangChainRelay(ChatOpenAI):
    """The same for LangChain."""

    behind: Any = None

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self.behind.invoke(messages, config()))])


@pytest.mark.parametrize("streamed", [True, False])
def test_a_model_of_llama_index_that_hands_a_call_on_does_not_bill_it_again(
    shop: Shop, streamed: bool
) -> None:
    shop.provider.answers = [PLAIN]
    relay = shop.llama_index(cls=Relay, behind=shop.llama_index())
    if streamed:
        list(relay.stream_chat(HELLO, **WITH_USAGE))
    else:
        relay.chat(HELLO)
    shop.check([None, 1_000 * 1.25 + 100 * 10])


def test_a_model_of_langchain_that_hands_a_call_on_does_not_bill_it_again(shop: Shop) -> None:
    shop.provider.answers = [PLAIN]
    relay = LangChainRelay(
        model="gpt-5", api_key="k", base_url=shop.provider.address, behind=shop.langchain()
    )
    relay.invoke("hello", config())
    shop.check([None, 1_000 * 1.25 + 100 * 10])
