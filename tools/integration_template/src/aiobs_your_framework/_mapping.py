"""What Your Framework says, as aiobs records it: pure functions, which the worker calls after the fact."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiobs_core import Kind, Operation, Outcome

_KINDS: Final[Mapping[str, Kind]] = {
    # map here: what the framework calls what runs → its kind, such as "llm": Kind.MODEL
}


def operation(kind: str, name: str) -> Operation | None:
    """What was asked; None for a run that is not worth a span, whose children find the run above it."""
    known = _KINDS.get(kind)
    if known is None:
        return None
    # map here: for a model its `model`, `provider` and `params`; see aiobs_core.providers.
    return Operation(kind=known, name=name)


def outcome() -> Outcome:
    """What came back."""
    # map here: for a model its `usage`, `finish_reasons` and `response_id`; what the framework does not say stays None.
    return Outcome()
