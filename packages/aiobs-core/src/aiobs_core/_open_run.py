"""What the recorder keeps of an open run beside its span."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from aiobs_core._operation import RunStatus
from aiobs_core._span import AgentSpan

if TYPE_CHECKING:
    from aiobs_core._span import OutcomeSource


class TransparentRun:
    """Table entry of a run that gets no span: its children hang under `parent`."""

    __slots__ = ("lifetime", "parent", "started_ns")

    def __init__(self, parent: AgentSpan | None) -> None:
        self.parent = parent
        self.lifetime: weakref.ref[object] | None = None
        self.started_ns = perf_counter_ns()


class Lifetime(weakref.ref[object]):
    """Fires when the framework lets go of a run without having ended it."""

    __slots__ = ("key",)
    key: Hashable


def http_status(error: BaseException) -> int | None:
    """The HTTP status that an exception of a client library carries, if any."""
    code = getattr(error, "status_code", None)
    if code is None:
        code = getattr(getattr(error, "response", None), "status_code", None)
    return code if type(code) is int else None


def pauses(outcome: OutcomeSource | None) -> bool:
    """Whether an outcome says that the run waits for a person; asks a deferred one, and takes what raises for a no."""
    try:
        said = outcome() if callable(outcome) else outcome
    except Exception:  # noqa: BLE001 (a deferred mapping of foreign objects, of a run that has no span to mark)
        return False
    return said is not None and said.status is RunStatus.INTERRUPTED
