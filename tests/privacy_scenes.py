"""Runs of real frameworks with secrets planted in every place where they carry text; the searches are in the test.

`python privacy_scenes.py FOLDER` plays all of them under the settings of the environment, and leaves in FOLDER which
places it planted (`planted.json`) and what aiobs logged (`logs.txt`). Without frameworks, it is a module of canaries:
the same place has the same ones in every process.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import random
import string
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

ROOT: Final = Path(__file__).resolve().parents[1]
PERSON: Final = "ottilie.brandvold@people-example.org"
"""Named in every place: under pseudonyms, the same one has to stand there."""
_BASE62: Final = string.ascii_letters + string.digits
_planted: Final[set[str]] = set()


# --- canaries -------------------------------------------------------------------------------------------------


class Canaries:
    """Secrets of every built-in type that `strict` looks for, unique to one place."""

    def __init__(self, place: str) -> None:
        self._rng = random.Random(f"canaries of {place}")
        self.words = place.replace(".", " ").replace("_", " ")
        draw = self._draw
        keys = {
            "openai": "sk-" + "proj-" + draw(_BASE62, 48),
            "anthropic": "sk-" + "ant-api03-" + draw(_BASE62, 60),
            "github": "ghp" + "_" + draw(_BASE62, 36),
            "aws": "AK" + "IA" + draw(string.ascii_uppercase + "234567", 16),
            "google": "AI" + "za" + draw(_BASE62, 35),
            "slack": "xox" + "b-" + draw(string.digits, 12) + "-" + draw(_BASE62, 24),
            "stripe": "sk" + "_live_" + draw(_BASE62, 24),
            "huggingface": "hf" + "_" + draw(string.ascii_letters, 34),
        }
        chosen = self._rng.sample(sorted(keys), 3)
        self.values: dict[str, str] = {
            "email": f"{draw(string.ascii_lowercase, 7)}.{draw(string.ascii_lowercase, 6)}@mail-example.com",
            **{f"api_key.{name}": keys[name] for name in chosen},
            "jwt": self._jwt(),
            "private_key": draw(_BASE62, 64),  # one line of it
            "url_credentials": draw(_BASE62, 20),
            "query_token": draw(_BASE62, 32),
            "credential": f"Otter{draw(string.digits, 4)}-{draw(string.ascii_lowercase, 6)}",
            "secret": draw(_BASE62, 40),
            "iban": self._iban(),
            "rrn": self._rrn(),
            "ssn": f"{self._rng.randint(101, 599)}-{self._rng.randint(11, 99)}-{self._rng.randint(1001, 9999)}",
            "card": self._card(),
            "phone_kr": f"010-{self._rng.randint(2000, 5899)}-{self._rng.randint(1000, 9999)}",
            "phone": f"+49 30 {self._rng.randint(2_000_000, 9_999_999)}",
            "mac": ":".join(draw("0123456789abcdef", 2) for _ in range(6)),
            "ip": f"{self._rng.randint(80, 90)}.{'.'.join(str(self._rng.randint(101, 254)) for _ in range(3))}",
        }

    @property
    def text(self) -> str:
        """What a person might write, with all of them."""
        value = self.values
        keys = " and ".join(text for name, text in value.items() if name.startswith("api_key."))
        return (
            f"From {PERSON} about {self.words} today: write to {value['email']}, call {value['phone_kr']} or "
            f"{value['phone']}. Card {value['card']}, IBAN {value['iban']}, 주민등록번호 {value['rrn']}, "
            f"SSN {value['ssn']}. Host {value['ip']} with MAC {value['mac']}. Keys {keys}, token {value['jwt']}, "
            f"password: {value['credential']}, db postgres://shop:{value['url_credentials']}@db.example.com/app and "
            f"https://api.example.com/v1?api_key={value['query_token']}&page=2 and then {value['secret']} too.\n"
            f"-----BEGIN PRIVATE KEY-----\n{value['private_key']}\n-----END PRIVATE KEY-----\nThanks a lot."
        )

    @property
    def disguised(self) -> str:
        """The same in forms that a reader, or a program, undoes with ease."""
        value = self.values
        wide = {ord(char): chr(ord(char) + 0xFEE0) for char in string.digits + string.ascii_letters + "@."}
        key = next(text for name, text in value.items() if name.startswith("api_key."))
        encoded = base64.b64encode(f"login {value['email']} with {value['secret']}".encode()).decode()
        return (
            f"From {PERSON} about {self.words} today: {value['card'].translate(wide)}; "
            f"{value['rrn'][:6]}\u200b{value['rrn'][6:]}; {key[:9]}\u200b{key[9:]}; {quote(value['email'], safe='')}; "
            f"base64 {encoded} end; {value['phone_kr'].translate(wide)}; {value['email'][:3]}\u00ad{value['email'][3:]}; "
            f"{value['email'].translate(wide)} thanks a lot."
        )

    @property
    def named(self) -> dict[str, str]:
        """A password by the name of its key only."""
        return {"password": self.values["credential"]}

    @property
    def word(self) -> str:
        """Nothing but a password, which only the name beside it gives away."""
        return self.values["credential"]

    @property
    def bare(self) -> str:
        """A query as `url.query` has it, without the question mark."""
        return f"code={self.values['credential']}&contact={quote(self.values['email'])}"

    @property
    def number(self) -> int:
        return int(self.values["card"].replace(" ", ""))

    @property
    def name(self) -> str:
        """For places that are short, or do not take every character."""
        return f"of {self.words} by {self.values['email']}"

    @property
    def url(self) -> str:
        value = self.values
        return (
            f"https://shop:{value['url_credentials']}@llm.example.com:8443/v1?api_key={value['query_token']}"
            f"&contact={quote(value['email'])}"
        )

    @property
    def halves(self) -> tuple[str, str]:
        """One text in two parts, cut within a key."""
        text = f"From {PERSON} about {self.words} today: the key is {self.key} thanks a lot."
        at = text.index(self.key) + len(self.key) // 2
        return text[:at], text[at:]

    @property
    def key(self) -> str:
        """The longest key of the three."""
        return max((text for name, text in self.values.items() if name.startswith("api_key.")), key=len)

    def edge(self, max_chars: int) -> str:
        """So long that a cut at `max_chars` leaves no more of an address than most of the part before the @."""
        before = f"From {PERSON} about {self.words} today: "
        return before + ("and so on " * max_chars)[: max_chars - 13 - len(before)] + self.values["email"]

    def _draw(self, alphabet: str, length: int) -> str:
        """With letters of both cases and digits, as far as the alphabet has them."""
        while True:
            text = "".join(self._rng.choices(alphabet, k=length))
            classes = (str.isupper, str.islower, str.isdigit)
            if length < 12 or all(any(map(is_in, text)) for is_in in classes if any(map(is_in, alphabet))):
                return text

    def _jwt(self) -> str:
        claims = {"sub": self._draw(string.digits, 10), "name": self._draw(string.ascii_lowercase, 8)}
        parts = [json.dumps(each).encode() for each in ({"alg": "HS256", "typ": "JWT"}, claims)]
        encoded = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts]
        return ".".join([*encoded, self._draw(_BASE62, 43)])

    def _iban(self) -> str:
        account = self._draw(string.digits, 18)
        return f"DE{98 - int(account + '131400') % 97:02}{account}"

    def _rrn(self) -> str:
        body = f"{self._rng.randint(60, 99)}{self._rng.randint(1, 12):02}{self._rng.randint(1, 28):02}"
        body += f"{self._rng.choice('12')}{self._rng.randint(0, 95):02}{self._draw(string.digits, 3)}"
        weights = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)
        total = sum(int(digit) * weight for digit, weight in zip(body, weights, strict=True))
        return f"{body[:6]}-{body[6:]}{(11 - total % 11) % 10}"

    def _card(self) -> str:
        body = "4" + self._draw(string.digits, 14)
        doubled = [int(digit) * (2 - at % 2) for at, digit in enumerate(body)]
        body += str(-sum(each // 10 + each % 10 for each in doubled) % 10)
        return " ".join(body[at : at + 4] for at in (0, 4, 8, 12))


@cache
def canaries(place: str) -> Canaries:
    return Canaries(place)


def plant(place: str) -> Any:
    """What to put there: all secrets as a text, unless the last part of the place's name is one of the other forms."""
    _planted.add(place)
    form, found = place.rpartition(".")[2], canaries(place)
    if form in EDGES:
        return found.edge(EDGES[form])
    return getattr(found, form) if form in FORMS else found.text


FORMS: Final = ("bare", "disguised", "halves", "key", "name", "named", "number", "url", "word")
EDGES: Final = {"edge": 4_096, "long": 8_192, "huge": 32_768}


# --- LangChain and LangGraph ----------------------------------------------------------------------------------


def langchain_messages(config: Any) -> None:
    from langchain_core.language_models import FakeListLLM
    from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_fakes import FakeChat

    def called(place: str, **more: Any) -> dict[str, Any]:
        return {"name": "look", "args": {"q": plant(place)}, "id": "call-1", **more}

    image = {"type": "image_url", "image_url": {"url": "data:text/plain," + plant("lc.history.image")}}
    thought = {"type": "reasoning", "reasoning": plant("lc.history.reasoning")}
    FakeChat(
        responses=[AIMessage(plant("lc.completion"), tool_calls=[called("lc.completion.call")])]
    ).invoke(
        [
            SystemMessage(plant("lc.system")),
            HumanMessage(plant("lc.history.human"), name=plant("lc.history.name")),
            AIMessage([{"type": "text", "text": plant("lc.history.ai")}, thought]),
            AIMessage("", tool_calls=[called("lc.history.call")], additional_kwargs={"x": plant("lc.history.more")}),
            ToolMessage(plant("lc.history.tool"), tool_call_id="call-1", artifact=plant("lc.history.artifact")),
            HumanMessage([{"type": "text", "text": "What is this?"}, image]),
        ],
        config,
    )  # fmt: skip
    chain = ChatPromptTemplate.from_messages([("user", "{question}")]) | FakeChat(
        responses=[plant("lc.completion.disguised")]
    )
    chain.invoke({"question": plant("lc.prompt")}, config)
    chain.invoke({"question": plant("lc.prompt.disguised")}, config)
    chain.invoke({"question": plant("lc.prompt.long")}, config)

    def parts(place: str) -> Any:
        return [{"type": "text", "text": half} for half in plant(place)]

    FakeChat(responses=[AIMessage(parts("lc.completion.halves"))]).invoke(
        [SystemMessage(parts("lc.system.halves")), HumanMessage(parts("lc.prompt.halves"))], config
    )
    FakeListLLM(responses=[plant("lc.text.completion")]).invoke(plant("lc.text.prompt"), config)
    # What a model says beside its texts, and what an application may call its messages:
    FakeChat(
        responses=[AIMessage("", tool_calls=[{"name": plant("lc.call.tool.name"), "args": {}, "id": plant("lc.call.id.name")}])]
    ).invoke([ChatMessage("hello", role=plant("lc.role.name"))], config)  # fmt: skip


def langchain_streams(config: Any) -> None:
    from langchain_core.messages import AIMessageChunk
    from langchain_core.outputs import ChatGenerationChunk
    from langchain_fakes import FakeChat

    class InPieces(FakeChat):
        def _chunks(self) -> Iterator[Any]:
            for piece in in_pieces(str(self._answer().content)):
                yield ChatGenerationChunk(message=AIMessageChunk(content=piece))

    for _ in InPieces(responses=[plant("lc.stream")]).stream("hello", config):
        pass

    async def read() -> None:
        async for _ in InPieces(responses=[plant("lc.astream")]).astream("hello", config):
            pass

    asyncio.run(read())
    broken = InPieces(responses=[plant("lc.stream.partial")], fail_after_chunks=10_000)
    broken.fail = ConnectionError("reset")
    broken.fail_after_chunks = len(list(in_pieces(plant("lc.stream.partial")))) - 1
    with contextlib.suppress(ConnectionError):
        for _ in broken.stream("hello", config):
            pass


def in_pieces(text: str) -> Iterator[str]:
    """No secret is whole in any of them."""
    return (text[at : at + 7] for at in range(0, len(text), 7))


def langchain_tools(config: Any) -> None:
    from langchain_core.tools import ToolException, tool
    from pydantic import BaseModel

    class Answer(BaseModel):
        text: str

    results: dict[str, Any] = {
        "text": plant("lc.tool.result"),
        "dict": {"found": [{"text": plant("lc.tool.result.dict")}], plant("lc.tool.result.keys"): 1},
        "model": Answer(text=plant("lc.tool.result.model")),
        "disguised": plant("lc.tool.result.disguised"),
    }

    @tool(description=plant("lc.tool.description"))
    def look(how: str, query: Any = None) -> Any:
        return results[how]

    @tool(response_format="content_and_artifact")
    def fetch() -> Any:
        """Fetch."""
        return plant("lc.tool.message"), plant("lc.tool.artifact")

    @tool
    def fail() -> None:
        """Fail."""
        try:
            raise KeyError(plant("lc.tool.cause"))
        except KeyError as error:
            raise ValueError(plant("lc.tool.error")) from error

    @tool
    def give_up() -> None:
        """Say why."""
        raise ToolException(plant("lc.tool.handled"))

    give_up.handle_tool_error = True
    query = {
        "deep": [{"text": plant("lc.tool.arguments"), "login": plant("lc.tool.arguments.named")}],
        plant("lc.tool.arguments.keys"): 1,
        "paid with": plant("lc.tool.arguments.number"),
    }
    look.invoke({"how": "text", "query": query}, config)
    look.invoke({"how": "dict", "query": plant("lc.tool.arguments.disguised")}, config)
    look.invoke({"how": "disguised", "query": json.dumps({"text": plant("lc.tool.arguments.json")})}, config)
    look.invoke({"how": "model"}, config)
    call = {"type": "tool_call", "name": "fetch", "args": {}, "id": plant("lc.tool.call_id.name")}
    fetch.invoke(call, config)  # type: ignore[arg-type]
    with contextlib.suppress(ValueError):
        fail.invoke({}, config)
    give_up.invoke({}, config)


def langchain_errors(config: Any) -> None:
    from langchain_core.runnables import RunnableLambda
    from langchain_fakes import FakeChat, FakeRetriever
    from tenacity import RetryCallState, Retrying

    class Retries(FakeChat):
        def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Any:
            state = RetryCallState(Retrying(), None, (), {})
            try:
                raise ConnectionError(plant("lc.on_retry"))
            except ConnectionError:
                state.set_exception(sys.exc_info())
            run_manager.on_retry(state)
            return super()._generate(messages)

    Retries().invoke("hello", config)
    failing = FakeChat(fail=RuntimeError(plant("lc.model.error")))
    retried = failing.with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    retried.with_fallbacks([FakeChat()]).invoke("hello", config)

    def fail(_: Any) -> None:
        failure = type("Failure", (Exception,), {"__qualname__": plant("lc.error.class.name")})
        if sys.version_info < (3, 11):
            raise failure(plant("lc.error.note"))
        error = failure("no text")
        error.add_note(plant("lc.error.note"))
        raise error

    for broken in (RunnableLambda(fail), FakeRetriever(fail=OSError(plant("lc.retriever.error.disguised")))):
        with contextlib.suppress(Exception):
            broken.invoke("hello", config)


def langchain_search(config: Any) -> None:
    from langchain_core.documents import Document
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.vectorstores import InMemoryVectorStore
    from langchain_fakes import FakeRetriever

    from aiobs_langchain import observed

    document = Document(
        plant("lc.document"), metadata={"by": plant("lc.document.metadata")}, id=plant("lc.document.id.name")
    )
    disguised = Document(plant("lc.document.disguised"), metadata={plant("lc.document.keys"): {"deep": [1]}})
    FakeRetriever(documents=[document, disguised]).invoke(plant("lc.query"), config)
    embedding = observed(DeterministicFakeEmbedding(size=4))
    embedding.embed_query(plant("lc.embedding.query"))
    embedding.embed_documents([plant("lc.embedding.text"), plant("lc.embedding.text.disguised")])
    store = observed(InMemoryVectorStore(DeterministicFakeEmbedding(size=4)))
    store.add_texts([plant("lc.store.text")], metadatas=[{"by": plant("lc.store.metadata")}])
    store.similarity_search(plant("lc.store.query"))


def langchain_names(config: Any) -> None:
    from langchain_core.callbacks import dispatch_custom_event
    from langchain_core.messages import AIMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.runnables import RunnableLambda
    from langchain_fakes import FakeChat
    from pydantic import SecretStr

    from aiobs_core import observe, using_attributes

    class Configured(FakeChat):
        api_key: SecretStr = SecretStr(plant("lc.serialized.key"))
        note: str = plant("lc.serialized")

        def _result(self) -> ChatResult:
            said = {
                "finish_reason": plant("lc.finish_reason.name"),
                "id": plant("lc.response.id.name"),
                "model_name": plant("lc.response.model.name"),
            }
            message = AIMessage("hello", response_metadata={**said, "headers": plant("lc.response.metadata")})
            return ChatResult(generations=[ChatGeneration(message=message)])

    Configured(base_url=plant("lc.base.url"), model=plant("lc.model.name")).invoke("hello", config)
    metadata = {
        "allowed": plant("lc.metadata.allowed"),
        "listed": [plant("lc.metadata.listed")],
        "cut": plant("lc.metadata.edge"),
        "card": plant("lc.metadata.number"),
        "hidden": plant("lc.metadata.hidden"),
        "user_id": plant("lc.metadata.user.name"),
        "session_id": plant("lc.metadata.session"),
        "request_id": plant("lc.metadata.request"),
    }
    named = {"run_name": plant("lc.run_name"), "tags": [plant("lc.tag")], "metadata": metadata}
    step = RunnableLambda(
        lambda _: dispatch_custom_event(plant("lc.event"), {"said": plant("lc.event.inside")})
    )
    step.invoke("hello", {**config, **named})
    step.invoke("hello", {**config, "run_name": plant("lc.run_name.edge")})
    with using_attributes(
        user_id=plant("request.user.name"), session_id=plant("request.session"), request_id=plant("request.id"),
        tags=[plant("request.tag"), plant("request.tag.disguised")], prompt_name=plant("request.prompt"),
        prompt_version=plant("request.version"),
    ):  # fmt: skip
        FakeChat().invoke("hello", config)
    observe(name=plant("observe.name"))(lambda: None)()


def langgraph_runs(config: Any) -> None:
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_fakes import FakeChat, tool_calls
    from langgraph.checkpoint.memory import InMemorySaver
    from langgraph.graph import START, StateGraph
    from langgraph.types import Command, interrupt
    from typing_extensions import TypedDict

    class State(TypedDict):
        topic: str

    node = plant("lg.node.name")
    graph = StateGraph(State)
    graph.add_node(node, lambda _: {"topic": interrupt({"question": plant("lg.interrupt")})})
    graph.add_edge(START, node)
    paused = graph.compile(checkpointer=InMemorySaver())
    thread = {**config, "configurable": {"thread_id": plant("lg.thread"), "key": plant("lg.configurable")}}
    paused.invoke({"topic": plant("lg.state")}, thread)
    paused.invoke(Command(resume=plant("lg.resume")), thread)

    @tool
    async def look_up(order: str) -> str:
        """Look it up."""
        return plant("lg.tool.result")

    said = [tool_calls(("look_up", {"order": plant("lg.tool.arguments")})), plant("lg.completion")]
    agent = create_agent(FakeChat(responses=said), [look_up], system_prompt=plant("lg.system"), name="shop")
    asyncio.run(agent.ainvoke({"messages": [("user", plant("lg.prompt"))]}, config))


# --- LlamaIndex -----------------------------------------------------------------------------------------------


def llama_index_models() -> None:
    from llama_fakes import FakeLLM
    from llama_index.core.chat_engine import SimpleChatEngine
    from llama_index.core.llms import ChatMessage, ChatResponse, TextBlock

    class InPieces(FakeLLM):
        def _chunks(self) -> Any:
            text = ""
            for piece in in_pieces(self._next()):
                text += piece
                yield ChatResponse(message=ChatMessage(role="assistant", content=text), delta=piece)

    def parts(place: str) -> Any:
        return [TextBlock(text=half) for half in plant(place)]

    FakeLLM(responses=[plant("li.completion")]).chat(
        [
            ChatMessage(role="system", content=plant("li.system")),
            ChatMessage(role="user", content=plant("li.history.user")),
            ChatMessage(role="assistant", content=plant("li.history.assistant")),
            ChatMessage(role="tool", content=plant("li.history.tool"), additional_kwargs={"tool_call_id": "call-1"}),
            ChatMessage(role="user", blocks=parts("li.prompt.halves")),
            ChatMessage(role="user", content=plant("li.prompt.disguised")),
        ]
    )  # fmt: skip
    FakeLLM(responses=[("look", {"what": plant("li.completion.call")})]).chat([ChatMessage("hello")])
    FakeLLM(responses=[plant("li.text.completion")]).complete(plant("li.text.prompt"))
    for _ in InPieces(responses=[plant("li.stream")]).stream_chat([ChatMessage("hello")]):
        pass

    async def read() -> None:
        async for _ in await InPieces(responses=[plant("li.astream")]).astream_chat([ChatMessage("hello")]):
            pass

    asyncio.run(read())
    with contextlib.suppress(RuntimeError):
        FakeLLM(fail=RuntimeError(plant("li.model.error"))).chat([ChatMessage("hello")])
    llm = InPieces(responses=[plant("li.engine.completion")])
    engine = SimpleChatEngine.from_defaults(llm=llm, system_prompt=plant("li.engine.system"))
    list(engine.stream_chat(plant("li.engine.prompt")).response_gen)


def llama_index_search() -> None:
    from llama_fakes import FakeLLM
    from llama_index.core import VectorStoreIndex
    from llama_index.core.embeddings import MockEmbedding
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

    class Reranker(BaseNodePostprocessor):
        def _postprocess_nodes(self, nodes: Any, query_bundle: Any = None) -> Any:
            return nodes[::-1]

    node = TextNode(
        text=plant("li.document"),
        metadata={"by": plant("li.document.metadata")},
        id_=plant("li.document.id.name"),
    )
    index = VectorStoreIndex(nodes=[node], embed_model=MockEmbedding(embed_dim=4))
    index.as_retriever().retrieve(plant("li.query"))
    answer = FakeLLM(responses=[plant("li.answer")])
    index.as_query_engine(llm=answer, node_postprocessors=[Reranker()]).query(plant("li.question"))
    found = NodeWithScore(node=TextNode(text=plant("li.reranked")), score=0.5)
    Reranker().postprocess_nodes([found], query_bundle=QueryBundle(plant("li.reranker.query")))
    MockEmbedding(embed_dim=4).get_text_embedding_batch([plant("li.embedding.text")])


def llama_index_tools() -> None:
    from llama_fakes import FakeLLM
    from llama_index.core.agent.workflow import FunctionAgent
    from llama_index.core.instrumentation.dispatcher import instrument_tags
    from llama_index.core.tools import FunctionTool
    from llama_index.core.workflow import StartEvent, StopEvent, Workflow, step

    def look(what: Any, **_: Any) -> Any:
        """Look it up."""
        return {"found": plant("li.tool.result")}

    def fail() -> None:
        """Fail."""
        try:
            raise KeyError(plant("li.tool.cause"))
        except KeyError as error:
            raise ValueError(plant("li.tool.error")) from error

    class Flow(Workflow):
        @step
        async def first(self, ev: StartEvent) -> StopEvent:
            if ev.get("fail", None):
                raise ValueError(plant("li.workflow.error"))
            return StopEvent(result=plant("li.workflow.stop"))

    tool = FunctionTool.from_defaults(look, description=plant("li.tool.description"))
    tool.call(
        what={"deep": [plant("li.tool.arguments")], plant("li.tool.arguments.keys"): 1},
        login=plant("li.tool.arguments.named"),
    )
    with contextlib.suppress(ValueError):
        FunctionTool.from_defaults(fail).call()
    tags = {
        "allowed": plant("li.tag.allowed"),
        "user_id": plant("li.tag.user.name"),
        "session_id": plant("li.tag.session"),
    }
    with instrument_tags({**tags, "llamaindex.step.input_summary": plant("li.tag.hidden")}):
        asyncio.run(_run(Flow(), topic=plant("li.workflow.start")))
    with contextlib.suppress(Exception):
        asyncio.run(_run(Flow(), fail=True))

    def order(number: str) -> str:
        """Find an order."""
        return plant("li.agent.result")

    said = [("order", {"number": plant("li.agent.arguments")}), plant("li.agent.completion")]
    agent = FunctionAgent(
        name="shop", tools=[FunctionTool.from_defaults(order)], llm=FakeLLM(responses=said), streaming=False,
        system_prompt=plant("li.agent.system"),
    )  # fmt: skip
    asyncio.run(_run(agent, user_msg=plant("li.agent.prompt")))


async def _run(workflow: Any, **given: Any) -> None:
    await workflow.run(**given)


# --- everything else in the same trace ------------------------------------------------------------------------


def own_span(_: Any) -> None:
    """What an application sets on the span that is current, which is one of aiobs'."""
    from opentelemetry import trace
    from opentelemetry.trace import StatusCode

    from aiobs_core import span

    with span(plant("own.span"), attributes={"described": plant("own.span.attribute")}) as current:
        current.set_attribute("note", plant("own.attribute"))
        current.set_attribute("notes", ["plain", plant("own.attribute.listed")])
        current.set_attribute("cut", plant("own.attribute.edge"))
        current.set_attribute("card", plant("own.attribute.number"))
        current.set_attribute("cards", [plant("own.attribute.listed.number")])
        current.set_attribute("password", plant("own.attribute.word"))
        current.set_attribute(plant("own.attribute.key.name"), 1)
        current.set_attribute("input.value", plant("own.content"))
        current.add_event(plant("own.event"), {"detail": plant("own.event.attribute")})
        current.add_event("gen_ai.user.message", {"content": plant("own.event.content")})
        current.record_exception(
            ValueError(plant("own.exception")), {"exception.message": plant("own.exception.message")}
        )
        current.set_status(StatusCode.ERROR, plant("own.status"))
        current.add_link(trace.SpanContext(7, 7, is_remote=False), {"why": plant("own.link")})
        with span("renamed") as renamed:
            renamed.update_name(plant("own.name"))
    state = trace.TraceState([("vendor", canaries("remote.state").values["secret"])])
    remote = trace.SpanContext(9, 9, is_remote=True, trace_flags=trace.TraceFlags(1), trace_state=state)
    _planted.add("remote.state")
    from opentelemetry.context import attach, detach

    token = attach(trace.set_span_in_context(trace.NonRecordingSpan(remote)))
    with span("continued"):
        pass
    detach(token)


def foreign_spans(config: Any) -> None:
    from langchain_core.tools import tool
    from opentelemetry import trace

    @tool
    def look() -> str:
        """Make spans as other instrumentations do."""
        _foreign(trace.get_tracer("another", attributes={"note": plant("foreign.scope.name")}))
        _http_call()
        return "done"

    look.invoke({}, config)


def _foreign(tracer: Any) -> None:
    from opentelemetry.trace import Link, SpanContext, Status, StatusCode

    link = Link(SpanContext(7, 7, is_remote=False), {"why": plant("foreign.link")})
    header = "http.request.header."
    with tracer.start_as_current_span(plant("foreign.name"), links=[link]) as span:
        span.set_attributes(
            {
                "note": plant("foreign.attribute"),
                "notes": ["plain", plant("foreign.attribute.listed")],
                "hidden": plant("foreign.attribute.disguised"),
                "cut": plant("foreign.attribute.huge"),
                plant("foreign.attribute.key.name"): 1,
                "card": plant("foreign.attribute.number"),
                "db.password": plant("foreign.attribute.word"),
                "url.query": plant("foreign.bare"),
                "http.url": plant("foreign.http.url"),
                "url.full": plant("foreign.full.url"),
                f"{header}authorization": ["Bearer " + plant("foreign.header.key")],
                f"{header}x-api-key": plant("foreign.header.other.key"),
                "db.query.text": f"SELECT * FROM users WHERE note = '{plant('foreign.database')}'",
                "gen_ai.input.messages": json.dumps(
                    [{"role": "user", "parts": [{"type": "text", "content": plant("foreign.messages")}]}]
                ),
                "llm.input_messages.0.message.content": plant("foreign.openinference"),
                "input.value": plant("foreign.input.disguised"),
                "output.value": plant("foreign.output"),
                "gen_ai.completion.0.content": plant("foreign.completion.long"),
                "user.id": plant("foreign.user.name"),
            }
        )
        span.add_event(plant("foreign.event"), {"detail": plant("foreign.event.attribute")})
        span.add_event("gen_ai.content.prompt", {"gen_ai.prompt": plant("foreign.event.prompt")})
        try:
            raise ValueError(plant("foreign.exception"))
        except ValueError as error:
            span.record_exception(error)
        span.set_status(Status(StatusCode.ERROR, plant("foreign.status")))


def _http_call() -> None:
    """A real call through a real instrumentation, which captures headers as the environment says."""
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    import httpx
    from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Set-Cookie", f"session={plant('httpx.cookie.key')}")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in http.server)
            """Print nothing."""

    server = HTTPServer(("127.0.0.1", 0), Answers)
    thread = Thread(target=server.handle_request)
    thread.start()
    instrumentor = HTTPXClientInstrumentor()
    instrumentor.instrument()
    found = canaries("httpx.url").values
    plant("httpx.url")
    path = f"/users/{quote(found['email'])}?api_key={found['query_token']}&code={found['secret']}"
    headers = {"Authorization": f"Bearer {plant('httpx.header.key')}", "X-Note": plant("httpx.note.name")}
    httpx.get(f"http://shop:{found['url_credentials']}@127.0.0.1:{server.server_port}{path}", headers=headers)
    instrumentor.uninstrument()
    thread.join()
    server.server_close()


def openinference_spans(_: Any) -> None:
    """The same framework through another instrumentation, which sends all content."""
    from langchain_core.tools import tool
    from langchain_fakes import FakeChat
    from openinference.instrumentation.langchain import LangChainInstrumentor

    @tool
    def look(what: str) -> str:
        """Look it up."""
        return plant("oi.tool.result")

    instrumentor = LangChainInstrumentor()
    instrumentor.instrument()
    metadata = {"metadata": {"by": plant("oi.metadata")}}
    FakeChat(responses=[plant("oi.completion")]).invoke(plant("oi.prompt"), metadata)
    look.invoke({"what": plant("oi.tool.arguments")})
    with contextlib.suppress(RuntimeError):
        FakeChat(fail=RuntimeError(plant("oi.error"))).invoke("hello")
    instrumentor.uninstrument()


# --- one process ----------------------------------------------------------------------------------------------


def play(folder: Path) -> None:
    handler = logging.FileHandler(folder / "logs.txt", encoding="utf-8")
    handler.addFilter(lambda record: record.name.startswith("aiobs"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("aiobs").setLevel(logging.DEBUG)
    for name in ("langchain", "llama-index"):
        sys.path.insert(0, str(ROOT / f"integrations/aiobs-{name}/tests"))
    from aiobs_core import get_recorder, span
    from aiobs_core.metrics.page import render
    from aiobs_langchain import AiObsCallbackHandler as LangChainHandler
    from aiobs_llama_index import AiObsCallbackHandler as LlamaIndexHandler

    config = {"callbacks": [LangChainHandler()]}
    rooms = [
        partial(room, config)
        for room in (
            langchain_messages, langchain_streams, langchain_tools, langchain_errors, langchain_search, langchain_names,
            langgraph_runs, own_span, foreign_spans, openinference_spans,
        )
    ]  # fmt: skip
    observer = LlamaIndexHandler()
    rooms += [llama_index_models, llama_index_search, llama_index_tools]
    for room in rooms:
        with span("room"):
            room()
    observer.close()
    for given in ("resource.name", "resource.command.word"):  # whoever started this process
        plant(given)
    recorder = get_recorder()
    recorder.flush(20)
    counts = dict(recorder.health.counts())
    families = recorder.metrics.page()
    (folder / "page.txt").write_bytes(
        render(families, openmetrics=False) + render(families, openmetrics=True)
    )
    recorder.shutdown(20)
    (folder / "planted.json").write_text(json.dumps({"places": sorted(_planted), "counts": counts}))


if __name__ == "__main__":
    play(Path(sys.argv[1]))
