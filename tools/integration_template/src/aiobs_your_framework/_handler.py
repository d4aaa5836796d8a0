"""The callback handler: one method per event of Your Framework, each a verb of the recorder.

What the worker reads later is bound with `partial`; what the application could change meanwhile is taken at once.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from aiobs_core import get_recorder
from aiobs_core.adapter import SharedHandler
from aiobs_your_framework import _mapping as mapping

_SCOPE: Final = "aiobs.your_framework"


class AiObsCallbackHandler(SharedHandler):
    """Records Your Framework's runs as OpenTelemetry spans.

    Stateless: all instances report to the one recorder of the process, so an instance can be shared between requests,
    threads and event loops, made anew for each request, or passed twice; every run gives one span.
    """

    # map here: the framework's base class of listeners, its names for these four events, and what it passes with each.
    # `run` stands for an object that the framework keeps as long as the run; nothing else may be made to live longer.

    def on_start(self, run: Any) -> None:
        get_recorder().start(
            run.id,
            partial(mapping.operation, run.kind, run.name),
            parent=run.parent_id,
            scope=_SCOPE,
            lifetime=run,
        )

    def on_chunk(self, run: Any, chunk: object) -> None:
        get_recorder().chunk(run.id, chunk)

    def on_end(self, run: Any) -> None:
        get_recorder().end(run.id, mapping.outcome)

    def on_error(self, run: Any, error: BaseException) -> None:
        get_recorder().fail(run.id, error)
