"""aiobs: observability for AI agents, on OpenTelemetry.

from aiobs_core import observe, span, using_attributes

with using_attributes(request_id="r-17"), span("answer", kind="workflow"):
    ...
"""

from aiobs_core._context import suppressed, using_attributes
from aiobs_core._errors import AiobsError, SettingsError
from aiobs_core._keep import feedback, keep
from aiobs_core._observe import observe, span
from aiobs_core._operation import Kind, Operation, Outcome, RunStatus, Stage, Usage
from aiobs_core._process import configure, flush, get_recorder, shutdown
from aiobs_core._recorder import Recorder
from aiobs_core._settings import Settings
from aiobs_core._span import AgentSpan
from aiobs_core._version import __version__

__all__ = [
    "AgentSpan",
    "AiobsError",
    "Kind",
    "Operation",
    "Outcome",
    "Recorder",
    "RunStatus",
    "Settings",
    "SettingsError",
    "Stage",
    "Usage",
    "__version__",
    "configure",
    "feedback",
    "flush",
    "get_recorder",
    "keep",
    "observe",
    "shutdown",
    "span",
    "suppressed",
    "using_attributes",
]
