"""Which regular expressions can take for ever: those that can read one text in very many ways."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

if sys.version_info >= (3, 11):
    from re import _constants as constants
    from re import _parser as parser
else:
    import sre_constants as constants
    import sre_parse as parser

_UNBOUNDED_REPEATS: Final = 1_000  # and more: as good as without a bound
_REPEATS: Final = {constants.MAX_REPEAT, constants.MIN_REPEAT}
_SOME: Final = frozenset([*map(chr, range(256)), "가", "字"])  # stand for all characters
_CATEGORIES: Final = {
    constants.CATEGORY_DIGIT: r"\d",
    constants.CATEGORY_NOT_DIGIT: r"\D",
    constants.CATEGORY_SPACE: r"\s",
    constants.CATEGORY_NOT_SPACE: r"\S",
    constants.CATEGORY_WORD: r"\w",
    constants.CATEGORY_NOT_WORD: r"\W",
}
_Part = tuple[Any, Any]  # code and argument, as the parser gives them


def slow_part(pattern: str) -> str | None:
    """What makes a pattern slow on some text, in words; None if nothing does.

    A repetition of what can be read in two ways, such as `(a+)+`, `(aa?)+` or `(a|ab?)+`, takes exponential time; three
    unbounded repetitions in a row cubic. In doubt a pattern counts as slow: only the first character of what may come next
    is compared.

    Args:
        pattern: Python's syntax, and valid.
    """
    return _slow(parser.parse(pattern), inside=False)


def _slow(parts: Any, *, inside: bool) -> str | None:
    in_a_row = 0
    for code, argument in parts:
        is_unbounded = code in _REPEATS and argument[1] >= _UNBOUNDED_REPEATS
        if is_unbounded:
            in_a_row += 1
            if inside:
                return "a repetition inside a repetition"
            if in_a_row > 2:
                return "three unbounded repetitions in a row"
        for child in _children(argument):
            found = _slow(child, inside=inside or is_unbounded)
            if found is not None:
                return found
        if is_unbounded and _is_ambiguous(list(argument[2]), _first(argument[2])):
            return "a repetition of what can be read in two ways"
    return None


def _children(argument: Any) -> Iterator[Any]:
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for each in argument:
            yield from _children(each)


def _is_ambiguous(parts: Sequence[_Part], after: frozenset[str]) -> bool:
    """Whether a sequence can go on in two ways at some character.

    Args:
        parts: The sequence.
        after: Characters that may follow it.
    """
    for at, (code, argument) in enumerate(parts):
        rest = _first(parts[at + 1 :])
        following = (rest - {""}) | (after if "" in rest else frozenset())
        if code in _REPEATS:
            low, high, body = argument
            if low != high and (_first(body) & following) - {""}:
                return True
        if code is constants.BRANCH:
            seen: frozenset[str] = frozenset()
            for branch in argument[1]:
                first = _first(branch)
                first = (first - {""}) | (following if "" in first else frozenset())
                if first & seen - {""}:
                    return True
                seen |= first
        if any(_is_ambiguous(list(child), following) for child in _children(argument)):
            return True
    return False


def _first(parts: Any) -> frozenset[str]:
    """Which of `_SOME` a sequence may begin with; and the empty text, if it may match that."""
    found: set[str] = set()
    for part in parts:
        first = _first_of(part)
        found |= first - {""}
        if "" not in first:
            return frozenset(found)
    return frozenset(found | {""})


def _first_of(part: _Part) -> frozenset[str]:
    code, argument = part
    if code is constants.LITERAL:
        return frozenset([chr(argument)])
    if code is constants.NOT_LITERAL:
        return _SOME - {chr(argument)}
    if code is constants.ANY:
        return _SOME
    if code is constants.IN:
        return _first_in(argument)
    if code is constants.BRANCH:
        return frozenset().union(*(_first(branch) for branch in argument[1]))
    if code in {constants.ASSERT, constants.ASSERT_NOT, constants.AT}:
        return frozenset([""])
    children = list(_children(argument))
    if not children:
        return _SOME | {""}  # a reference to a group, of which anything may be so
    found = frozenset().union(*(_first(child) for child in children))
    may_be_left_out = isinstance(argument[0], int) and code is not constants.SUBPATTERN and argument[0] == 0
    return found | {""} if may_be_left_out else found


def _first_in(items: Sequence[_Part]) -> frozenset[str]:
    found: set[str] = set()
    for code, argument in items:
        if code is constants.LITERAL:
            found.add(chr(argument))
        elif code is constants.RANGE:
            found.update(each for each in _SOME if argument[0] <= ord(each) <= argument[1])
        elif code is constants.CATEGORY:
            found.update(each for each in _SOME if re.match(_CATEGORIES[argument], each))
    return _SOME - found if items[0][0] is constants.NEGATE else frozenset(found)
