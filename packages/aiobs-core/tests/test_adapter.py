"""What integrations share: names and content, copies of handlers, other instrumentations, names loaded on demand."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import subprocess
import sys
from types import SimpleNamespace

import pytest

from aiobs_core import Outcome, RunStatus, Stage, get_recorder
from aiobs_core.adapter import (
    HANDED_OFF,
    INTERRUPTED,
    TOOL_RETURNED_ERROR,
    SharedHandler,
    first_text,
    found_documents,
    frame_outside,
    from_metadata,
    lazy_names,
    message_of,
    report_overlap,
    stage_of,
    text_size,
)


class Moody:
    """An application's object whose truth value raises."""

    def __bool__(self) -> bool:
        raise ValueError


def test_the_first_text_is_taken_whatever_stands_before_it():
    source = {"a": None, "b": "", "c": Moody(), "d": 7, "e": "found", "f": "later"}
    assert first_text(source, ("missing", "a", "b", "c", "d", "e", "f")) == "found"
    assert first_text(source, ("a", "b", "c", "d")) is None


@pytest.mark.parametrize("name", [None, 7, ["pre_process"], "", "elsewhere", Moody()])
def test_what_is_no_stage_has_none(name):
    assert stage_of(name) is None


def test_a_stage_is_found_by_name():
    assert stage_of("pre_process") is Stage.PRE_PROCESS
    assert stage_of(Stage.PRE_PROCESS) is Stage.PRE_PROCESS


def test_metadata_says_what_a_run_belongs_to():
    metadata = {
        "aiobs_stage": "pre_process",
        "session_id": "S",
        "request_id": "R",
        "user_id": "U",
        "customer": Moody(),
    }
    assert from_metadata(metadata) == {
        "stage": Stage.PRE_PROCESS,
        "conversation_id": "S",
        "request_id": "R",
        "user_id": "U",
        "metadata": metadata,
    }
    assert from_metadata({"session_id": 7}) == {
        "user_id": None,
        "conversation_id": None,
        "request_id": None,
        "metadata": {"session_id": 7},
    }
    assert from_metadata({}) == {"metadata": {}}


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (None, 0),
        ("", 0),
        ("four", 4),
        (["four", "five"], 8),
        ([{"type": "text", "text": "four"}, {"type": "image", "data": "x" * 99}], 4),
        ([SimpleNamespace(text="four"), SimpleNamespace(url="http://x"), SimpleNamespace(text=None)], 4),
        ({"text": "four"}, 4),
        (7, 0),
    ],
)
def test_text_is_counted_and_nothing_else(content, size):
    assert text_size(content) == size


def test_a_message_holds_text_and_tool_calls():
    blocks = ["a", {"type": "text", "text": "b"}, {"type": "image_url", "image_url": "data:…"}]
    assert message_of("assistant", blocks, [("call-1", "search", {"q": "x"})]) == {
        "role": "assistant",
        "parts": [
            {"type": "text", "content": "a"},
            {"type": "text", "content": "b"},
            {"type": "tool_call", "id": "call-1", "name": "search", "arguments": {"q": "x"}},
        ],
    }
    assert message_of("user", "") == {"role": "user", "parts": []}


def test_outcomes_that_frameworks_share():
    assert Outcome(status=RunStatus.ERROR, error_type="tool_error") == TOOL_RETURNED_ERROR
    assert Outcome(status=RunStatus.INTERRUPTED, events=("ai.agent.interrupt",)) == INTERRUPTED
    assert Outcome(status=RunStatus.SUCCESS, events=("ai.agent.handoff",)) == HANDED_OFF


@pytest.mark.parametrize(("found", "count"), [([], 0), ([1, 2], 2), ((1,), 1)])
def test_documents_are_counted(found, count):
    outcome = found_documents(found)
    assert outcome is not None
    assert outcome.attributes == {"ai.agent.retrieval.document_count": count}


def test_documents_are_shown_with_text_metadata_and_score():
    class Document:
        id, page_content, metadata = "d1", "Seoul is a city.", {"page": 3}

    class Node:
        id_, text, metadata = "n1", "Busan is a port.", {}

    class NodeWithScore:
        node, score = Node(), 0.5

    outcome = found_documents([Document(), (Document(), 0.9), NodeWithScore()])
    assert outcome is not None
    assert outcome.content is not None
    assert outcome.content() == [
        {"id": "d1", "content": "Seoul is a city.", "metadata": {"page": 3}},
        {"id": "d1", "content": "Seoul is a city.", "metadata": {"page": 3}, "score": 0.9},
        {"id": "n1", "content": "Busan is a port.", "score": 0.5},
    ]


@pytest.mark.parametrize("found", [None, "text", {"a": 1}])
def test_what_is_no_list_has_no_documents(found):
    assert found_documents(found) is None


def test_a_run_is_placed_in_the_frame_that_called_the_framework():
    framework = {"__name__": "framework.callbacks.manager"}
    exec("def dispatch(handle): return handle()\ndef run(handle): return dispatch(handle)", framework)

    def on_start():
        return frame_outside("framework.callbacks")

    assert framework["run"](on_start) == id(sys._getframe())


def test_a_run_that_a_comprehension_starts_is_placed_in_the_frame_around_it():
    framework = {"__name__": "framework.callbacks.manager"}
    exec("def run(handle): return handle()", framework)

    def on_start():
        return frame_outside("framework.callbacks")

    assert [framework["run"](on_start) for _ in range(2)] == [id(sys._getframe())] * 2
    assert tuple(framework["run"](on_start) for _ in range(2)) == (id(sys._getframe()),) * 2


async def test_a_run_that_a_task_of_its_own_starts_has_no_place():
    framework = {"__name__": "framework.callbacks.manager"}
    exec("async def run(handle): return handle()", framework)

    def on_start():
        return frame_outside("framework.callbacks")

    assert await framework["run"](on_start) == id(sys._getframe())
    assert await asyncio.gather(framework["run"](on_start), framework["run"](on_start)) == [0, 0]


# --- handlers ---------------------------------------------------------------------------------------------------------


def test_a_copy_of_a_handler_is_itself_and_a_pickled_one_is_made_anew():
    handler = SharedHandler()
    assert copy.copy(handler) is handler
    assert copy.deepcopy({"callbacks": [handler]})["callbacks"] == [handler]
    assert type(pickle.loads(pickle.dumps(handler))) is SharedHandler


# --- other instrumentations -------------------------------------------------------------------------------------------


@pytest.fixture
def told():
    lines: list[str] = []
    keep = lambda record: lines.append(record.getMessage())  # noqa: E731 (a filter that logs nothing)
    logging.getLogger("aiobs").addFilter(keep)
    yield lines
    logging.getLogger("aiobs").removeFilter(keep)


def test_another_exporter_is_told_once(told):
    active = {"another": lambda: "ANOTHER=true makes spans", "silent": lambda: None}
    report_overlap("Framework", {}, active)
    report_overlap("Framework", {}, active)
    (line,) = told
    assert "ANOTHER=true makes spans beside aiobs, so every Framework run gives two spans" in line


def test_a_search_that_fails_is_counted_and_hurts_nobody():
    def fail() -> str:
        raise RuntimeError("no configuration")

    before = get_recorder().health.counts().get("overlap", 0)
    report_overlap("Framework", {}, {"failing": fail})
    assert get_recorder().health.counts()["overlap"] == before + 1


def test_modules_that_are_not_loaded_are_not_asked(told):
    report_overlap("Framework", {"no.such.module": "Nobody's instrumentor", __name__: "Not an instrumentor"})
    assert told == []


# --- names loaded on demand -------------------------------------------------------------------------------------------


def test_a_name_is_imported_when_it_is_asked_for():
    script = """
import sys
from aiobs_core.adapter import lazy_names
load = lazy_names("package", {"rgb_to_hsv": "colorsys"})
assert "colorsys" not in sys.modules
assert load("rgb_to_hsv").__name__ == "rgb_to_hsv"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_an_unknown_name_is_an_attribute_error():
    load = lazy_names("package", {"decode": "json"})
    with pytest.raises(AttributeError, match="module 'package' has no attribute 'other'"):
        load("other")
