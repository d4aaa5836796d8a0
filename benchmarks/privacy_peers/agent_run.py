"""A LangChain agent with a canary in every place, observed by one peer: `run.py` starts this in the peer's venv.

It needs no network: the model plays a script, and the peer sends to the receiver that OTEL_EXPORTER_OTLP_ENDPOINT names.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import os
import sys
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

PLACES = (
    "system prompt",
    "user prompt",
    "history",
    "tool arguments",
    "tool result",
    "tool exception",
    "document text",
    "document metadata",
    "completion",
    "config metadata",
    "tag",
    "run name",
    "user_id",
    "session_id",
)


class Canary(NamedTuple):
    """What stands in one place: an address, a key, and words that a detector of either has no reason to touch."""

    email: str
    key: str
    words: str

    @property
    def text(self) -> str:
        return f"{self.words} {self.email} {self.key}"


def canary(place: str, *, other: bool = False) -> Canary:
    """The same for the same place; `other` is one of the same length."""
    seed = hashlib.sha256(f"{place} {other}".encode()).hexdigest()
    return Canary(f"ada.{seed[:12]}@canary.example", f"sk-{seed[12:48]}", f"heron {seed[48:60]} lands")


# --- the application ------------------------------------------------------------------------------------------
def agent_and_input(text: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    from langchain.agents import create_agent
    from langchain.agents.middleware import wrap_tool_call
    from langchain_core.documents import Document
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    from langchain_core.outputs import ChatGeneration, ChatResult
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.tools import tool

    class Scripted(BaseChatModel):
        replies: list[Any]
        model_name: str = "scripted-1"

        @property
        def _llm_type(self) -> str:
            return "scripted"

        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self.bind(tools=[{"type": "function", "function": {"name": each.name}} for each in tools])

        def _generate(self, messages: list[Any], *_: Any, **__: Any) -> ChatResult:
            said = sum(isinstance(message, ToolMessage) for message in messages)
            return ChatResult(generations=[ChatGeneration(message=self.replies[said])])

    class Handbook(BaseRetriever):
        def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
            return [Document(text["document text"], metadata={"source": text["document metadata"]})]

    @tool
    def look_up(order: str) -> str:
        """Look an order up."""
        return text["tool result"]

    @tool
    def refund() -> str:
        """Refund an order."""
        raise RuntimeError(text["tool exception"])

    @tool
    def search() -> str:
        """Search the handbook."""
        return f"{len(Handbook().invoke('refunds'))} documents found"  # the model is not shown what they say

    @wrap_tool_call
    def survive(request: Any, handler: Callable[[Any], Any]) -> Any:
        try:
            return handler(request)
        except RuntimeError:  # nor what went wrong: the message is seen by the instrumentation alone
            return ToolMessage("The tool failed.", tool_call_id=request.tool_call["id"], status="error")

    def reply(content: str, called: str | None = None, **arguments: str) -> AIMessage:
        calls = [{"name": called, "args": arguments, "id": f"call_{called}"}] if called else []
        return AIMessage(
            content,
            tool_calls=calls,
            response_metadata={
                "model_name": "scripted-1",
                "finish_reason": "tool_calls" if calls else "stop",
            },
            usage_metadata={"input_tokens": 812, "output_tokens": 64, "total_tokens": 876},
        )

    replies = [
        reply("", "look_up", order=text["tool arguments"]),
        reply("", "refund"),
        reply("", "search"),
        reply(text["completion"]),
    ]
    agent = create_agent(
        Scripted(replies=replies),
        tools=[look_up, refund, search],
        system_prompt=text["system prompt"],
        middleware=[survive],
    )
    said = [HumanMessage(text["history"]), AIMessage("How can I help?"), HumanMessage(text["user prompt"])]
    return agent, {"messages": said}


# --- the peers, each set up as its documentation says ---------------------------------------------------------
Invoke = Callable[[Any, dict[str, Any], dict[str, Any], str, str], Any]
"""Runs the agent on an input with a config, for a user and a session; what was recorded is sent when it returns."""


def _with(config: dict[str, Any], *callbacks: Any, **metadata: str) -> dict[str, Any]:
    return {**config, "callbacks": list(callbacks), "metadata": {**config["metadata"], **metadata}}


def _otlp() -> Callable[[], object]:
    """The application's own set-up of OpenTelemetry, for peers that are instrumentations only; gives its flush."""
    from opentelemetry import metrics, trace
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    tracers = TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    meters = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())])
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(meters)
    return lambda: (tracers.force_flush(), meters.force_flush())


def openinference(*, off: bool = False) -> Invoke:
    if off:
        for what in ("INPUTS", "OUTPUTS", "PROMPTS", "RETRIEVAL_DOCUMENTS", "LLM_INVOCATION_PARAMETERS"):
            os.environ[f"OPENINFERENCE_HIDE_{what}"] = "true"
    from openinference.instrumentation import using_attributes
    from openinference.instrumentation.langchain import LangChainInstrumentor

    flush = _otlp()
    LangChainInstrumentor().instrument()

    def invoke(agent: Any, given: Any, config: Any, user: str, session: str) -> Any:
        with using_attributes(user_id=user, session_id=session):
            answer = agent.invoke(given, config)
        flush()
        return answer

    return invoke


def openllmetry(*, off: bool = False) -> Invoke:
    if off:
        os.environ["TRACELOOP_TRACE_CONTENT"] = "false"
    from opentelemetry.instrumentation.langchain import LangchainInstrumentor

    flush = _otlp()
    LangchainInstrumentor().instrument()

    def invoke(agent: Any, given: Any, config: Any, user: str, session: str) -> Any:
        answer = agent.invoke(given, _with(config, user_id=user, session_id=session))
        flush()
        return answer

    return invoke


def langfuse(*, mask: bool = False, mask_export: bool = False) -> Invoke:
    os.environ["LANGFUSE_BASE_URL"] = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
    os.environ.update(LANGFUSE_PUBLIC_KEY="pk-lf-dummy", LANGFUSE_SECRET_KEY="sk-lf-dummy")
    from langfuse import Langfuse
    from langfuse.langchain import CallbackHandler
    from langfuse.types import MaskOtelSpansResult, OtelSpanPatch

    def mask_canaries(*, params: Any) -> Any:
        """A perfect detector: each attribute with a canary in it, and no other."""
        patches = {}
        for identifier, span in params.spans.items():
            found = [key for key, value in span.attributes.items() if "heron" in str(value)]
            patches[identifier] = OtelSpanPatch(set_attributes=dict.fromkeys(found, "[masked]"))
        return MaskOtelSpansResult(span_patches=patches)

    client = Langfuse(
        mask=(lambda *, data, **_: "[masked]") if mask else None,
        mask_otel_spans=mask_canaries if mask_export else None,
    )
    handler = CallbackHandler()

    def invoke(agent: Any, given: Any, config: Any, user: str, session: str) -> Any:
        config = _with(config, handler, langfuse_user_id=user, langfuse_session_id=session)
        answer = agent.invoke(given, config)
        client.flush()
        return answer

    return invoke


def aiobs() -> Invoke:
    import aiobs_core
    from aiobs_langchain import AiObsCallbackHandler

    handler = AiObsCallbackHandler()

    def invoke(agent: Any, given: Any, config: Any, user: str, session: str) -> Any:
        with aiobs_core.using_attributes(user_id=user, session_id=session):
            answer = agent.invoke(given, _with(config, handler))
        aiobs_core.flush()
        return answer

    return invoke


PEERS: dict[str, Callable[[], Invoke]] = {
    "openinference": openinference,
    "openinference-off": functools.partial(openinference, off=True),
    "openllmetry": openllmetry,
    "openllmetry-off": functools.partial(openllmetry, off=True),
    "langfuse": langfuse,
    "langfuse-mask": functools.partial(langfuse, mask=True),
    "langfuse-mask-export": functools.partial(langfuse, mask=True, mask_export=True),
    "aiobs": aiobs,
}


# --- running --------------------------------------------------------------------------------------------------
def texts() -> Iterator[tuple[str, dict[str, str]]]:
    """The same run three times, and between them one for each place, with another canary there: a hash changes with it."""
    same = {place: canary(place).text for place in PLACES}
    yield "first", same
    yield "again", same
    for place in PLACES:
        yield place, {**same, place: canary(place, other=True).text}
    yield "at last", same


def observe(invoke: Invoke, text: dict[str, str]) -> None:
    agent, given = agent_and_input(text)
    config = {
        "metadata": {"note": text["config metadata"]},
        "tags": [text["tag"]],
        "run_name": text["run name"],
    }
    answer = invoke(agent, given, config, text["user_id"], text["session_id"])
    assert answer["messages"][-1].content == text["completion"]


def _stay_home(event: str, args: tuple[Any, ...]) -> None:
    """Refuse everything but loopback, and say what was asked for."""
    host = str(args[0] if event == "socket.getaddrinfo" else args[1][0] if event == "socket.connect" else "")
    if host and host not in {"127.0.0.1", "localhost", "::1"}:
        print(f"refused: {event} {host}", file=sys.stderr)
        raise PermissionError(f"{event} {host}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer", choices=PEERS, required=True)
    sys.addaudithook(_stay_home)
    invoke = PEERS[parser.parse_args().peer]()
    for name, text in texts():
        begin = f"{os.environ['OTEL_EXPORTER_OTLP_ENDPOINT']}/begin"
        urllib.request.urlopen(begin, data=name.encode()).close()
        observe(invoke, text)


if __name__ == "__main__":
    main()
