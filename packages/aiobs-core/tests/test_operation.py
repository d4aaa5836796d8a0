"""`Operation`, `Outcome` and `Usage` are frozen dataclasses in every respect, although they are made in another way."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import pytest

from aiobs_core import Kind, Operation, Outcome, RunStatus, Usage

MADE = [
    Operation(kind=Kind.TOOL, name="search", params={"n": 2}),
    Outcome(usage=Usage(input_tokens=3)),
    Usage(),
]


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_records_cannot_be_changed(made):
    name = dataclasses.fields(made)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(made, name, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        delattr(made, name)
    with pytest.raises((AttributeError, TypeError)):
        made.other = 1


@pytest.mark.parametrize("made", MADE, ids=lambda made: type(made).__name__)
def test_records_survive_copy_pickle_and_replace(made):
    for again in (
        copy.copy(made),
        copy.deepcopy(made),
        pickle.loads(pickle.dumps(made)),
        dataclasses.replace(made),
    ):
        assert again == made
        assert type(again) is type(made)


def test_replace_keeps_the_rest():
    changed = dataclasses.replace(MADE[0], name="find")
    assert (changed.name, changed.kind, changed.params) == ("find", Kind.TOOL, {"n": 2})


def test_a_record_says_what_is_missing_or_unknown():
    with pytest.raises(TypeError, match="name"):
        Operation(kind=Kind.TOOL)
    with pytest.raises(TypeError, match="modle"):
        Outcome(modle="gpt-4o")
    with pytest.raises(TypeError):
        Operation(Kind.TOOL, "search")


def test_the_signature_is_the_one_of_the_fields():
    assert list(inspect.signature(Operation).parameters) == [
        item.name for item in dataclasses.fields(Operation)
    ]


def test_a_subclass_keeps_its_own_fields():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Special(Operation):
        color: str = "red"

    made = Special(kind=Kind.TOOL, name="search", color="blue")
    assert (type(made), made.name, made.color) == (Special, "search", "blue")


def test_a_name_is_equal_to_its_text_and_found_under_it():
    assert Kind.TOOL == "tool"
    assert hash(Kind.TOOL) == hash("tool")
    assert {"error": 1}[RunStatus.ERROR] == 1
