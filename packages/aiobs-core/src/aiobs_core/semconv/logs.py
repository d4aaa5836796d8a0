"""Every field of aiobs' log lines, and the events that lines tell of.

A line is a flat JSON object (only `parameters` is one itself); an OpenTelemetry log record has the same mapping as its body
and the event as its `event_name`. The JSON schema is made from here by `aiobs_core.logs.schema`. What is not known is not
there: no field is ever null, empty or a made-up 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

FieldType = Literal["string", "integer", "number", "object"]
Level = Literal["DEBUG", "INFO", "WARN", "ERROR"]

LOG_SCOPE: Final = "aiobs.logs"
LEVELS: Final = ("DEBUG", "INFO", "WARN", "ERROR")
MAX_TEXT_CHARS: Final = 256
"""Longest text of any other field; a line stays below the 16 KiB at which container runtimes break lines in two."""
MAX_SUMMARY_CHARS: Final = 200
"""Longest `output_summary`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a line.

    Attributes:
        accepted: All values that there are; empty: any of the type.
        pattern: Regular expression of a text.
        max_chars: Longest text.
    """

    name: str
    type: FieldType
    brief: str
    accepted: tuple[str, ...] = ()
    pattern: str | None = None
    max_chars: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """What a line tells of: when it is written, and which fields it has in any case beside those of every line."""

    name: str
    brief: str
    levels: tuple[Level, ...]
    required: tuple[str, ...]


FIELDS: Final[dict[str, Field]] = {}
LOG_EVENTS: Final[dict[str, LogEvent]] = {}


def _text(name: str, brief: str, max_chars: int = MAX_TEXT_CHARS, pattern: str | None = None) -> str:
    FIELDS[name] = Field(name=name, type="string", brief=brief, max_chars=max_chars, pattern=pattern)
    return name


def _one_of(name: str, brief: str, *accepted: str) -> str:
    FIELDS[name] = Field(name=name, type="string", brief=brief, accepted=accepted)
    return name


def _number(name: str, type_: FieldType, brief: str) -> str:
    FIELDS[name] = Field(name=name, type=type_, brief=brief)
    return name


def _log_event(name: str, brief: str, levels: tuple[Level, ...], *required: str) -> str:
    LOG_EVENTS[name] = LogEvent(name=name, brief=brief, levels=levels, required=required)
    return name


# --- fields -----------------------------------------------------------------------------------------------------

TIMESTAMP: Final = _text(
    "timestamp",
    "When it happened, in UTC (RFC 3339); of a run that ended, its end",
    pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
)
LEVEL: Final = _one_of("level", "As OpenTelemetry writes it", *LEVELS)
EVENT: Final = "event"  # its values are the events below
TRACE_ID: Final = _text("trace_id", "The trace that the line belongs to", pattern=r"^[0-9a-f]{32}$")
SPAN_ID: Final = _text("span_id", "The span of the run", pattern=r"^[0-9a-f]{16}$")
REQUEST_ID: Final = _text("request_id", "Id of the whole request: the application's, else the trace id")
SESSION_ID: Final = _text("session_id", "Id of the conversation or session")
USER_ID: Final = _text(
    "user_id", "Keyed hash of the user's id, unless the policy's mode of logs says otherwise"
)
FRAMEWORK: Final = _text("framework", "Framework that the run was observed in")
AGENT: Final = _text("agent", "Agent that ran, or that the run belongs to")
OPERATION: Final = _text(
    "operation", "`chat`, `execute_tool`, `invoke_agent`, …; the kind of run where GenAI has no name for it"
)
NAME: Final = _text("name", "The tool, agent, workflow, node or function; of a model its class or name")
MODEL: Final = _text(
    "model", "Model that was asked for; of a request, the one with the most tokens, else the last one"
)
MODEL_VERSION: Final = _text("model_version", "Model that answered, as the provider names it")
PROMPT_HASH: Final = _text(
    "prompt_hash",
    "Keyed hash of the prompt; of a request without one of its own, that of its first model call",
)
PARAMETERS: Final = _number("parameters", "object", "Inference parameters of that model's last call")
OUTPUT_SUMMARY: Final = _text(
    "output_summary",
    "Beginning of the answer, masked and on one line; only where the policy's mode of completions on logs allows it",
    MAX_SUMMARY_CHARS,
)
LATENCY_MS: Final = _number("latency_ms", "integer", "From start to end, in milliseconds")
STATUS: Final = _one_of(
    "status",
    "`error` for errors and time-outs, else `success`; `outcome` says it exactly",
    "success",
    "error",
)
OUTCOME: Final = _one_of(
    "outcome", "How it ended", "success", "error", "cancelled", "abandoned", "interrupted", "timed_out"
)
ERROR_CODE: Final = _text(
    "error_code", "Class of the error, never its message; `timed_out` if no end was seen"
)
INPUT_TOKENS: Final = _number(
    "input_tokens", "integer", "Input tokens, cached ones included; of a request, of all calls"
)
OUTPUT_TOKENS: Final = _number("output_tokens", "integer", "Output tokens, reasoning included")
CACHED_TOKENS: Final = _number("cached_tokens", "integer", "Of the input tokens, those read from a cache")
REASONING_TOKENS: Final = _number(
    "reasoning_tokens", "integer", "Of the output tokens, those spent on reasoning"
)
COST_USD: Final = _number("cost_usd", "number", "Dollars; of a request, everything inside that has a price")
MODEL_CALLS: Final = _number("model_calls", "integer", "Model calls of the request")
RETRIES: Final = _number("retries", "integer", "Attempts within the request after a first one")
ATTEMPT: Final = _number("attempt", "integer", "Number of the attempt, as the framework counts")

# --- events -----------------------------------------------------------------------------------------------------

REQUEST: Final = _log_event(
    "ai.agent.request",
    "A request has ended: the first run of its trace in this process",
    ("INFO", "ERROR"),
    REQUEST_ID, OPERATION, LATENCY_MS, STATUS, OUTCOME,
)  # fmt: skip
RUN_START: Final = _log_event(
    "ai.agent.run.start",
    "A run has started; written once it has ended, with the time of its start",
    ("DEBUG",),
    OPERATION,
)
RUN_END: Final = _log_event(
    "ai.agent.run.end",
    "A run inside a request has ended",
    ("DEBUG",),
    OPERATION, LATENCY_MS, STATUS, OUTCOME,
)  # fmt: skip
RETRY: Final = _log_event("ai.agent.retry", "Something is tried again", ("WARN",), OPERATION)
ERROR: Final = _log_event(
    "ai.agent.error",
    "A run inside a request has failed or timed out; one line where the error arose, none for those it passed through",
    ("ERROR",),
    OPERATION, LATENCY_MS, STATUS, OUTCOME,
)  # fmt: skip

_one_of(EVENT, "What the line tells of", *LOG_EVENTS)
ON_EVERY_LINE: Final = (TIMESTAMP, LEVEL, EVENT, TRACE_ID, SPAN_ID)
