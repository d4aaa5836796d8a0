"""The exceptions that aiobs raises, all of them only where the developer asked for strictness."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


class AiobsError(Exception):
    """Base of all errors raised by aiobs."""


class SettingsError(AiobsError):
    """A setting is invalid; the message names it, its value, what is accepted and where it came from."""


def all_made(makers: Iterable[Callable[[], T]]) -> list[T]:
    """What each of them makes.

    Raises:
        ValueError: With what all of them say is wrong, not only the first.
    """
    made: list[T] = []
    wrong: list[str] = []
    for make in makers:
        try:
            made.append(make())
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))
    return made


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean x or y?` for a name with a slip of the pen in it; empty where it is like none."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=3, cutoff=0.75)
    return f"; did you mean {' or '.join(near)}?" if near else ""
