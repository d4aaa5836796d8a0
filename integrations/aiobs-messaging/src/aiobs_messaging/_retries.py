"""Which attempt at a message is the first, for the later ones to link to."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable
from contextvars import ContextVar
from typing import Final, NamedTuple

from opentelemetry.trace import SpanContext, TraceFlags

_MAX_KNOWN: Final = 4_096
_MAX_ATTEMPT: Final = 1_000_000
_HEADER: Final = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2});([1-9][0-9]{0,5})")


class Attempt(NamedTuple):
    """An attempt at a message.

    Attributes:
        number: 1 for the first.
        first: Span of the first one, if it is known; its own if it is the first.
    """

    number: int
    first: SpanContext | None


current_attempt: ContextVar[Attempt | None] = ContextVar("aiobs_messaging_attempt", default=None)
"""The attempt that the running code is inside of."""


def to_header(attempt: Attempt) -> str | None:
    """What the message of the next attempt says."""
    first = attempt.first
    if first is None or not first.is_valid:
        return None
    number = min(attempt.number + 1, _MAX_ATTEMPT - 1)
    return f"00-{first.trace_id:032x}-{first.span_id:016x}-{first.trace_flags & 0xFF:02x};{number}"


def from_header(value: object) -> Attempt | None:
    """What a message says of the attempts before; None if that is nothing, or nonsense."""
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value).decode("latin-1")
    found = _HEADER.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    trace_id, span_id, flags = (int(found[group], 16) for group in (1, 2, 3))
    first = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return Attempt(int(found[4]), first if first.is_valid else None)


class FirstAttempts:
    """The first attempts that this process has made, for brokers that deliver again without a word; the latest 4096."""

    def __init__(self) -> None:
        self._known: OrderedDict[Hashable, SpanContext] = OrderedDict()

    def note(self, key: Hashable, attempt: SpanContext) -> None:
        """Remember the first attempt at a message."""
        self._known[key] = attempt
        if len(self._known) > _MAX_KNOWN:
            try:
                self._known.popitem(last=False)
            except KeyError:  # another thread was faster
                pass

    def find(self, key: Hashable) -> SpanContext | None:
        """The first attempt at a message; None if another process has made it, or if it is too long ago."""
        return self._known.get(key)
