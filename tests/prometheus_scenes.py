"""A program that is scraped: a LangGraph agent and a LlamaIndex engine that answer as many requests as they are told to.

It reads lines from standard input, `work N FAILURES` or `quit`, and answers each with one line of JSON: the spans that were
exported since the last one.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from embeddings import HashedWords
from handbook import PARAGRAPHS
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from llama_index.core import Document, VectorStoreIndex
from llama_index.core import Settings as LlamaIndexSettings
from llama_index.core.callbacks import CallbackManager
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from scripted_llm import ScriptedLLM
from scripted_model import ChatScripted, call

import aiobs_langchain
import aiobs_llama_index
from aiobs_core import configure, suppressed

_random = random.Random(5)


@tool
def look_up(order: str) -> str:
    """The state of an order."""
    if order == "lost":
        raise LookupError(order)
    return f"{order} was shipped"


class Slow(ChatScripted):
    """Takes a little while, now longer, now shorter."""

    def _play(self, *given: Any) -> Any:
        return ((_random.choice((0, 0.001, 0.006, 0.03)), chunk) for _, chunk in super()._play(*given))


def make_agent(order: str) -> Any:
    script = [AIMessage("", tool_calls=[call("look_up", order=order)]), AIMessage("It was shipped.")]
    return create_agent(
        Slow(script=script, model_name="scripted-lc", streaming=True), [look_up], name="clerk"
    )


def make_engine() -> Any:
    with suppressed():
        documents = [Document(text=paragraph) for paragraph in PARAGRAPHS]
        index = VectorStoreIndex.from_documents(documents, embed_model=HashedWords())
    llm = ScriptedLLM(script=["Thirty days."], model="scripted-li", first_chunk_s=0.002, chunk_s=0)
    return index.as_query_engine(llm=llm, similarity_top_k=2)


def main() -> None:
    exporter = InMemorySpanExporter()
    recorder = configure(strict=True, exporters=[exporter], console="off", store="off")
    config: Any = {"callbacks": [aiobs_langchain.AiObsCallbackHandler()]}
    LlamaIndexSettings.callback_manager = CallbackManager([aiobs_llama_index.AiObsCallbackHandler()])
    agents, engine = {order: make_agent(order) for order in ("A-1", "lost")}, make_engine()
    print("ready", flush=True)
    for line in sys.stdin:
        word, *numbers = line.split()
        if word == "quit":
            break
        count, failures = map(int, numbers)
        for at in range(count):
            try:
                agents["lost" if at < failures else "A-1"].invoke(
                    {"messages": [HumanMessage("Where is it?")]}, config
                )
            except LookupError:
                pass
            engine.query("How long can headphones be returned?")
        assert recorder.flush(30)
        spans = exporter.get_finished_spans()
        exporter.clear()
        print(json.dumps([_plain(span) for span in spans]), flush=True)
    recorder.shutdown(10)


def _plain(span: Any) -> dict[str, Any]:
    return {
        "trace_id": f"{span.context.trace_id:032x}",
        "is_root": span.parent is None,
        "duration_s": (span.end_time - span.start_time) / 1e9,
        "attributes": {
            key: value for key, value in span.attributes.items() if isinstance(value, (str, int, float))
        },
    }


if __name__ == "__main__":
    main()
