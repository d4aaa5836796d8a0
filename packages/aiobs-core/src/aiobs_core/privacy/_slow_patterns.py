"""Which regular expressions can take for ever: unbounded repetition inside unbounded repetition."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, Final

if sys.version_info >= (3, 11):
    from re import _constants as constants
    from re import _parser as parser
else:
    import sre_constants as constants
    import sre_parse as parser

_MANY: Final = 1_000
_REPEATS: Final = {constants.MAX_REPEAT, constants.MIN_REPEAT}


def slow_part(pattern: str) -> str | None:
    """What makes a pattern slow on some text, in words; None if nothing does.

    A repetition of a repetition, such as `(a+)+`, takes exponential time; three unbounded repetitions in a row cubic.
    """
    return _slow(parser.parse(pattern), inside=False)


def _slow(parts: Any, *, inside: bool) -> str | None:
    in_a_row = 0
    for code, argument in parts:
        is_unbounded = code in _REPEATS and argument[1] >= _MANY
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
    return None


def _children(argument: Any) -> Iterator[Any]:
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for each in argument:
            yield from _children(each)
