"""Conditions in OTTL, the OpenTelemetry Transformation Language: as text, put together from small parts.

Paths begin with their context (`span.`, `spanevent.`), which the tail sampling processor takes since 0.153.
https://github.com/open-telemetry/opentelemetry-collector-contrib/blob/main/pkg/ottl/LANGUAGE.md
https://github.com/open-telemetry/opentelemetry-collector-contrib/blob/main/pkg/ottl/ottlfuncs/README.md
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Final

from aiobs_core.sampling.conditions import matches
from aiobs_ops.collector.globs import is_glob, re2_of

NAME: Final = "span.name"
EVENT_NAME: Final = "spanevent.name"
HAS_FAILED: Final = "span.status.code == STATUS_CODE_ERROR"
IS_ROOT: Final = "IsRootSpan()"
DURATION_NS: Final = "span.end_time_unix_nano - span.start_time_unix_nano"
RANDOMNESS: Final = "Substring(span.trace_id.string, 18, 14)"
"""The last 56 bits of the trace id; as hexadecimal digits of equal length texts have the order of numbers."""
MAX_INT: Final = 1 << 63
"""One more than the greatest whole number."""


def attribute(name: str) -> str:
    """Path of a span's attribute; nil where it has none of that name."""
    return f"span.attributes[{text(name)}]"


def event_attribute(name: str) -> str:
    """The same of an event."""
    return f"spanevent.attributes[{text(name)}]"


def text(value: str) -> str:
    """A text as a literal."""
    # OTTL reads it as Go does, which knows no `\\ud83d\ude00`: nothing but control characters is escaped by its number.
    return json.dumps(value, ensure_ascii=False)


def number(value: float) -> str:
    """A number as a literal, never with an exponent.

    Raises:
        ValueError: If OTTL has no literal for it.
    """
    if isinstance(value, int):
        if not -MAX_INT <= value < MAX_INT:
            raise ValueError(f"the Collector's numbers have 64 bits, got {value}")
        # The sign is an operator of its own, so that the least number has no literal.
        return str(value) if value > -MAX_INT else f"{value + 1} - 1"
    if not math.isfinite(value):
        raise ValueError(f"the Collector knows finite numbers only, got {value}")
    plain = format(Decimal(repr(value)), "f")
    return plain if "." in plain else f"{plain}.0"


def all_of(*parts: str) -> str:
    """Each part holds."""
    return " and ".join(map(_grouped, parts)) if len(parts) > 1 else parts[0]


def any_of(*parts: str) -> str:
    """One part holds."""
    return " or ".join(map(_grouped, parts)) if len(parts) > 1 else parts[0]


def none_of(part: str) -> str:
    """The part does not hold."""
    return f"not ({part})"


def _grouped(part: str) -> str:
    return f"({part})" if " and " in part or " or " in part else part


def fits(path: str, patterns: Sequence[str]) -> str:
    """A text there fits a pattern. `IsMatch` makes texts of numbers and lists, so it has to be a text already."""
    exact = [f"{path} == {text(each)}" for each in patterns if not is_glob(each)]
    globs = [f"IsMatch({path}, {text(re2_of(each))})" for each in patterns if is_glob(each)]
    if globs:
        exact.append(all_of(f"IsString({path})", any_of(*globs)))
    return any_of(*exact)


def first_fits(paths: Sequence[str], patterns: Sequence[str]) -> str:
    """The first of some texts that is there and not empty fits a pattern."""
    takes_empty = matches(tuple(patterns))("")
    ways = []
    for index, path in enumerate(paths):
        before = [any_of(f"{each} == nil", f'{each} == ""') for each in paths[:index]]
        is_last = index == len(paths) - 1
        own = [] if is_last or not takes_empty else [f'{path} != ""']
        ways.append(all_of(*before, *own, fits(path, patterns)))
    return any_of(*ways)
