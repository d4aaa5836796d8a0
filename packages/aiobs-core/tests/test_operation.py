"""The data of one run: `Operation`, `Outcome`, `Usage`, and the names in them."""

from __future__ import annotations

import pytest

from aiobs_core import Kind, Operation, Outcome, RunStatus, Usage


@pytest.mark.parametrize(
    ("made", "name"),
    [(Operation(kind=Kind.TOOL, name="search"), "name"), (Outcome(), "usage"), (Usage(), "source")],
)
def test_the_data_of_a_run_cannot_be_changed(made, name):
    with pytest.raises(AttributeError):
        setattr(made, name, None)


def test_defaults_are_shared_and_cannot_be_changed():
    with pytest.raises(TypeError):
        Operation(kind=Kind.TOOL, name="search").attributes["ai.agent.x"] = 1


def test_what_is_missing_or_unknown_is_named():
    with pytest.raises(TypeError, match="name"):
        Operation(kind=Kind.TOOL)
    with pytest.raises(TypeError, match="modle"):
        Outcome(modle="gpt-4o")


def test_a_name_is_equal_to_its_text_and_found_under_it():
    assert Kind.TOOL == "tool"
    assert hash(Kind.TOOL) == hash("tool")
    assert {"error": 1}[RunStatus.ERROR] == 1
