"""`aiobs sampling`: what the rules are, and what they would have kept of a real store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aiobs_core import Kind, Operation, Outcome, Settings, Usage
from aiobs_core._recorder import Recorder
from aiobs_core.cli import main

CHAIN = Operation(kind=Kind.WORKFLOW, name="answer")
GPT = Operation(kind=Kind.MODEL, name="ChatOpenAI", provider="openai", model="gpt-3.5-turbo")
RULES = """
[[rules]]
when = { error = true }

[[rules]]
name = "large"
when = { call = { model = "gpt-3.5*", tokens_over = 500 } }
keep = 0.5

[[rules]]
keep = 0.1
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """80 plain traces of two spans, 10 with a failed root, 10 with a large call."""
    folder = tmp_path / ".aiobs"
    settings = Settings.load({}, {"console": "off", "store": str(folder)}, strict=True)
    recorder = Recorder(settings, tracer_provider=None)
    for number in range(100):
        root, call = object(), object()
        recorder.start(root, CHAIN, make_current=False)
        recorder.start(call, GPT, parent=root, make_current=False)
        recorder.end(call, Outcome(usage=Usage(input_tokens=900 if number < 10 else 90, output_tokens=1)))
        if 10 <= number < 20:
            recorder.fail(root, ValueError("no"))
        else:
            recorder.end(root)
    assert recorder.shutdown(30)
    return folder


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    file = tmp_path / "mine.toml"
    file.write_text(RULES, encoding="utf-8")
    return file


def explained(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["sampling", "explain", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def test_the_rules_and_the_expected_volumes_are_printed(
    store: Path, rules: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = explained(capsys, rules, "--store", store)
    assert out.startswith("mine: a trace is kept")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "error 100 % error" in lines
    assert "large 50 % call (model gpt-3.5*, tokens_over 500)" in lines
    assert "ratio 10 % every trace" in lines
    assert "error 10 10 (10.0 %) 20 (10.0 %)" in lines
    assert "large 10 5.0 (5.0 %) 10 (5.0 %)" in lines or "large 10 5 (5.0 %) 10 (5.0 %)" in lines
    assert "ratio 100 8.0 (8.0 %) 16 (8.0 %)" in lines or "ratio 100 8 (8.0 %) 16 (8.0 %)" in lines
    assert "together 100 23 (23.0 %) 46 (23.0 %)" in lines


def test_the_same_as_json(store: Path, rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: dict[str, Any] = json.loads(explained(capsys, rules, "--store", store, "--json"))
    assert [rule["name"] for rule in found["rules"]] == ["error", "large", "ratio"]
    assert found["expected"]["seen"] == {"traces": 100, "spans": 200}
    assert found["expected"]["kept"]["traces"] == pytest.approx(23, rel=1e-3)
    assert found["expected"]["by_rule"]["large"]["holding"]["traces"] == 10


def test_a_history_that_was_sampled_is_weighed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / ".aiobs"
    policy = {"rules": [{"keep": 0.25}]}
    settings = Settings.load({}, {"console": "off", "store": str(folder), "sampling": policy}, strict=True)
    recorder = Recorder(settings, tracer_provider=None)
    for _ in range(400):
        key = object()
        recorder.start(key, CHAIN, make_current=False)
        recorder.end(key)
    assert recorder.shutdown(30)
    found = json.loads(explained(capsys, "production", "--store", folder, "--json"))
    assert 250 < found["expected"]["seen"]["traces"] < 550
    assert found["expected"]["stored"] < 200
    out = explained(capsys, "production", "--store", folder)
    assert f"traces, for which {found['expected']['stored']} stored traces stand" in out


def test_without_a_store_the_rules_are_explained_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOBS_SAMPLING", "canary")
    monkeypatch.setenv("AIOBS_STORE", str(tmp_path / "none"))
    out = explained(capsys)
    assert out.startswith("canary")
    assert "No expected volumes: There is no aiobs store" in out
    assert "run the application with AIOBS_STORE=.aiobs" in out
    assert main(["sampling", "explain", "--store", str(tmp_path / "none")]) == 1


def test_what_history_cannot_tell_is_said(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = explained(capsys, 'rules = [{ when = { user = "u-1" } }]', "--store", store)
    assert "Not to be told: users are stored as keyed hashes" in out


def test_a_policy_that_is_none_is_a_clear_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sampling", "explain", "sometimes"]) == 1
    assert "expected one of all, production, canary" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["environment", "file"])
def test_a_policy_in_force_that_is_none_is_an_error_and_no_other_policy(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOBS_FLUSH_INTERVAL_S", "soon")  # another mistake, which is none of this command's
    if where == "environment":
        monkeypatch.setenv("AIOBS_SAMPLING", "sometimes")
    else:
        (tmp_path / "aiobs.toml").write_text('sampling = "sometimes"\n')
        monkeypatch.setenv("AIOBS_CONFIG_FILE", str(tmp_path / "aiobs.toml"))
    assert main(["sampling", "explain"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "sometimes" in err
    monkeypatch.setenv("AIOBS_SAMPLING", "canary")
    assert explained(capsys).startswith("canary")


def test_presets_and_conditions_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sampling", "list"]) == 0
    out = capsys.readouterr().out
    assert "production" in out
    assert "latency_over_quantile" in out
