"""Log lines of a LangGraph agent and a LlamaIndex engine: by the schema, one per request, each with a trace to go to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from aiobs_core import semconv

QUESTIONS = ("Where is it", "How long can headphones be returned", "It was shipped", "Thirty days", "lost")


class Agents:
    def __init__(self, process: Any, file: Path) -> None:
        self.process = process
        self._file = file
        self._read = 0
        assert process.stdout.readline() == "ready\n", process.stderr.read()

    def work(self, count: int, failures: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Spans and lines of so many requests of each framework."""
        self.process.stdin.write(f"work {count} {failures}\n")
        self.process.stdin.flush()
        spans = json.loads(self.process.stdout.readline())
        text = self._file.read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text[self._read :].splitlines()]
        self._read = len(text)
        return spans, lines


@contextmanager
def agents(tmp_path: Path, **variables: str) -> Iterator[Agents]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("prometheus_scenes.py"))],
        env={**os.environ, "AIOBS_LOG": str(tmp_path / "requests.jsonl"), **variables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        yield Agents(process, tmp_path / "requests.jsonl")
    finally:
        process.communicate("quit\n", timeout=30)


def test_each_request_has_one_line_by_the_schema_that_joins_its_trace(tmp_path: Path) -> None:
    schema = json.loads(
        resources.files("aiobs_core.logs").joinpath("schema.json").read_text(encoding="utf-8")
    )
    validator = jsonschema.Draft202012Validator(schema)
    with agents(tmp_path) as running:
        spans, lines = running.work(5, 2)
    for line in lines:
        validator.validate(line)
    roots = {span["trace_id"]: span["attributes"] for span in spans if span["is_root"]}
    requests = {line["trace_id"]: line for line in lines if line["event"] == "ai.agent.request"}
    assert requests.keys() == roots.keys()
    assert {line["trace_id"] for line in lines} <= roots.keys()
    for trace_id, line in requests.items():
        inside = [span["attributes"] for span in spans if span["trace_id"] == trace_id]
        models = [each for each in inside if each[semconv.SPAN_KIND] == "model"]
        assert line["status"] == ("error" if roots[trace_id][semconv.OUTCOME] == "error" else "success")
        assert line["level"] == ("ERROR" if line["status"] == "error" else "INFO")
        assert line["model_calls"] == len(models)
        assert line.get("input_tokens", 0) == sum(each.get(semconv.USAGE_INPUT_TOKENS, 0) for each in models)
        assert line["prompt_hash"] in {each.get(semconv.PROMPT_HASH) for each in models}
    failed = [line for line in requests.values() if line["status"] == "error"]
    assert [line["error_code"] for line in failed] == ["LookupError", "LookupError"]


@pytest.mark.parametrize("content", ["none", "hash"])
def test_no_content_is_on_a_line_unless_a_policy_lets_it_out(tmp_path: Path, content: str) -> None:
    with agents(tmp_path, AIOBS_CONTENT=content, AIOBS_LOG_LEVEL="DEBUG") as running:
        _, lines = running.work(2, 1)
    assert any(line["level"] == "DEBUG" for line in lines)
    text = (tmp_path / "requests.jsonl").read_text(encoding="utf-8")
    assert [said for said in QUESTIONS if said in text] == []
    assert ("prompt_hash" in text) == (content == "hash")


def test_answers_are_summed_up_where_a_policy_lets_them_out(tmp_path: Path) -> None:
    with agents(tmp_path, AIOBS_CONTENT="completions=masked") as running:
        _, lines = running.work(1)
    assert {line.get("output_summary") for line in lines} == {"It was shipped.", "Thirty days."}


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="no such signal on this system")
def test_the_level_is_switched_in_the_running_program(tmp_path: Path) -> None:
    with agents(tmp_path, AIOBS_LOG_SIGNAL="SIGUSR2") as running:
        levels = []
        for _ in range(3):
            _, lines = running.work(1)
            levels.append({line["level"] for line in lines})
            running.process.send_signal(signal.SIGUSR2)
    assert levels == [{"INFO"}, {"INFO", "DEBUG"}, {"INFO"}]
