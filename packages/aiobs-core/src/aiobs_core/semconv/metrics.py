"""Every metric that aiobs emits, and the attributes on them; `aiobs_core.semconv` holds those of spans and events.

Attributes of `ai.agent.*` metrics have short names, since they are the labels that people write in PromQL. Their names are
the same over OTLP and on the Prometheus page. A Prometheus name follows from name, unit and instrument by the rules of
https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from aiobs_core.semconv import Generation

Instrument = Literal["counter", "histogram", "gauge"]

METRICS_SCOPE: Final = "aiobs"
OTHER: Final = "other"
"""The value of an attribute that has more values than its bound allows."""
TOTAL: Final = "total"
"""The `stage` of a whole request: the first run of a trace in this process, from its start to its end."""
KEPT: Final = "kept"
DROPPED: Final = "dropped"
"""Values of `decision`; the latter is one of `state`, too."""
RECEIVED: Final = "received"
SAMPLED_OUT: Final = "sampled_out"
EXPORTED: Final = "exported"
STORED: Final = "stored"
"""The other values of `state`."""
UPSTREAM_RULE: Final = "parent"
"""The `rule`, and the reason on spans, of a trace that whoever called us has kept."""
NO_RULE: Final = "no rule"
"""The `rule` of a trace that no rule speaks of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One emitted metric.

    Attributes:
        unit: UCUM, as OpenTelemetry writes it; a curly one says what is counted.
        attributes: Names of the attributes that its points may have.
        bounds: Upper bounds of a histogram's buckets, inclusive; none for others.
        is_monotonic: False for a gauge.
        generation: None: the same in every generation of the `gen_ai.*` names.
    """

    name: str
    instrument: Instrument
    unit: str
    brief: str
    attributes: tuple[str, ...]
    bounds: tuple[float, ...] = ()
    dialect: Literal["ai_agent", "gen_ai"] = "ai_agent"
    generation: Generation | None = None

    @property
    def prometheus_name(self) -> str:
        """Its name on the Prometheus page, without the suffixes that single samples have (`_bucket`, `_total`)."""
        name = self.name.replace(".", "_")
        return f"{name}_seconds" if self.unit == "s" and not name.endswith("_seconds") else name

    @property
    def sample_name(self) -> str:
        """The name that PromQL selects: `…_total` for a counter."""
        return f"{self.prometheus_name}_total" if self.instrument == "counter" else self.prometheus_name


METRICS: Final[dict[str, Metric]] = {}


def _metric(metric: Metric) -> Metric:
    METRICS[metric.name] = metric
    return metric


# --- attributes -------------------------------------------------------------------------------------------------

STAGE: Final = "stage"
OPERATION: Final = "operation"
PROVIDER: Final = "provider"
MODEL: Final = "model"
MODEL_VERSION: Final = "model_version"
FRAMEWORK: Final = "framework"
AGENT: Final = "agent"
TOOL: Final = "tool"
STATUS: Final = "status"
ERROR_TYPE: Final = "error_type"
DIRECTION: Final = "direction"
BUDGET: Final = "budget"
KIND: Final = "kind"
SIGNAL: Final = "signal"
ATTRIBUTE: Final = "attribute"
WORK: Final = "work"
DECISION: Final = "decision"
RULE: Final = "rule"
STATE: Final = "state"
REASON: Final = "reason"

LABELS: Final = {
    STAGE: "Part of the request, as `ai.agent.stage`; `total`: the whole of it",
    OPERATION: "`chat`, `embeddings`, `execute_tool`, `retrieval`, `invoke_agent`, `invoke_workflow`, or the kind of run",
    PROVIDER: "Who serves the model",
    MODEL: "Model that was asked for, else the one that answered",
    MODEL_VERSION: "Model that answered, as the provider names it",
    FRAMEWORK: "Framework that the run was observed in",
    AGENT: "Agent that ran, or that the run belongs to",
    TOOL: "Tool that was called",
    STATUS: "How it ended: `success`, `error`, `cancelled`, `abandoned`, `interrupted`, `timed_out`",
    ERROR_TYPE: "Class of the error; never its message",
    DIRECTION: "`input` (cached included), `output` (reasoning included), `cached`, `reasoning`",
    BUDGET: "`hour`, `day` or `request`",
    KIND: "What went wrong, such as `queue.full`",
    SIGNAL: "`spans`, `metrics` or `logs`",
    ATTRIBUTE: "Attribute whose values were too many",
    WORK: "Part of aiobs' own work",
    DECISION: f"`{KEPT}` or `{DROPPED}`",
    RULE: f"Rule of the sampling policy that decided; `{UPSTREAM_RULE}`: whoever called us has kept it; `{NO_RULE}`: none holds",
    STATE: f"`{RECEIVED}`, `{SAMPLED_OUT}`, `{EXPORTED}`, `{STORED}` or `{DROPPED}`",
    REASON: "Why spans were dropped, such as `spool_full`; empty for other states",
}
"""The attributes of `ai.agent.*` metrics, and what they say."""

GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"
GEN_AI_TOKEN_MODALITY: Final = "gen_ai.token.modality"
_GEN_AI: Final = (
    "gen_ai.operation.name",
    "gen_ai.provider.name",
    "gen_ai.request.model",
    "gen_ai.response.model",
    "server.address",
    "server.port",
)
_RUN: Final = (STAGE, OPERATION, PROVIDER, MODEL, MODEL_VERSION, FRAMEWORK, AGENT, TOOL, STATUS)
_CALL: Final = (OPERATION, PROVIDER, MODEL, MODEL_VERSION, FRAMEWORK, AGENT)

# --- buckets ----------------------------------------------------------------------------------------------------

LATENCY_BOUNDS_S: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0,
    120.0, 300.0,
)  # fmt: skip
"""From a cached prompt template to an agent that works for minutes; dense where chats are, and with the bounds that
objectives are written in: 0.2, 0.5, 1, 2, 5, 10, 30 s."""
FIRST_CHUNK_BOUNDS_S: Final = (
    0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0, 20.0, 30.0, 60.0,
)  # fmt: skip
TOKEN_BOUNDS: Final = (
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0, 67108864.0,
)  # fmt: skip
"""Those of the GenAI conventions, so that both histograms can be compared."""
GEN_AI_DURATION_BOUNDS_S: Final = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
"""https://github.com/open-telemetry/semantic-conventions-genai/blob/main/docs/gen-ai/gen-ai-metrics.md"""
DOCUMENT_BOUNDS: Final = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)

# --- ai.agent.*: what runs did ----------------------------------------------------------------------------------

REQUESTS: Final = _metric(Metric(
    name="ai.agent.requests", instrument="counter", unit="{request}", attributes=_RUN,
    brief="Runs that ended: whole requests (`stage=total`), and their parts by stage and operation",
))  # fmt: skip
ERRORS: Final = _metric(Metric(
    name="ai.agent.errors", instrument="counter", unit="{error}",
    attributes=(*_RUN[:-1], ERROR_TYPE),
    brief="Runs that ended with an error, counted like `ai.agent.requests`",
))  # fmt: skip
LATENCY: Final = _metric(Metric(
    name="ai.agent.latency", instrument="histogram", unit="s", attributes=_RUN, bounds=LATENCY_BOUNDS_S,
    brief="From start to end of a run, by stage and operation",
))  # fmt: skip
TIME_TO_FIRST_CHUNK: Final = _metric(Metric(
    name="ai.agent.time_to_first_chunk", instrument="histogram", unit="s", attributes=_CALL,
    bounds=FIRST_CHUNK_BOUNDS_S, brief="From the start of a streamed model call to its first chunk",
))  # fmt: skip
TOKEN_USAGE: Final = _metric(Metric(
    name="ai.agent.token.usage", instrument="histogram", unit="{token}", attributes=(DIRECTION, *_CALL),
    bounds=TOKEN_BOUNDS, brief="Tokens of a model call",
))  # fmt: skip
TOKENS: Final = _metric(Metric(
    name="ai.agent.tokens", instrument="counter", unit="{token}", attributes=(DIRECTION, *_CALL),
    brief="Tokens of all model calls; `cached` is part of `input`, `reasoning` of `output`",
))  # fmt: skip
COST: Final = _metric(Metric(
    name="ai.agent.cost_usd", instrument="counter", unit="{USD}", attributes=(*_CALL, TOOL),
    brief="What model calls, tools and retrievers cost; nothing is counted twice",
))  # fmt: skip
UNPRICED: Final = _metric(Metric(
    name="ai.agent.cost.unpriced", instrument="counter", unit="{call}", attributes=(OPERATION, PROVIDER, MODEL),
    brief="Model calls with tokens but without a known price: missing from `ai.agent.cost_usd`",
))  # fmt: skip
ACTIVE_INSTANCES: Final = _metric(Metric(
    name="ai.agent.active_instances", instrument="gauge", unit="{run}",
    attributes=(OPERATION, MODEL, FRAMEWORK), brief="Runs that are open now, from the table of open runs",
))  # fmt: skip
TOOL_CALLS: Final = _metric(Metric(
    name="ai.agent.tool.calls", instrument="counter", unit="{call}", attributes=(TOOL, AGENT, FRAMEWORK, STATUS),
    brief="Tool calls that ended",
))  # fmt: skip
RETRIEVAL_DOCUMENTS: Final = _metric(Metric(
    name="ai.agent.retrieval.documents", instrument="histogram", unit="{document}",
    attributes=(OPERATION, FRAMEWORK, AGENT), bounds=DOCUMENT_BOUNDS, brief="Documents that a retrieval returned",
))  # fmt: skip
BUDGET_SPENT: Final = _metric(Metric(
    name="ai.agent.budget.spent_usd", instrument="gauge", unit="{USD}", attributes=(BUDGET,),
    brief="Spent in the current hour or day (UTC) by this process, of a budget that is set",
))  # fmt: skip
BUDGET_EXCEEDED: Final = _metric(Metric(
    name="ai.agent.budget.exceeded", instrument="counter", unit="{event}", attributes=(BUDGET,),
    brief="Times that a budget was crossed: once an hour, day or request at the most",
))  # fmt: skip

# --- ai.agent.telemetry.*: how aiobs itself is ------------------------------------------------------------------

SAMPLING_DECISIONS: Final = _metric(Metric(
    name="ai.agent.sampling.decisions", instrument="counter", unit="{trace}",
    brief="Traces that the sampling policy has decided", attributes=(DECISION, RULE),
))  # fmt: skip
SAMPLING_SPANS_DROPPED: Final = _metric(Metric(
    name="ai.agent.sampling.spans_dropped", instrument="counter", unit="{span}",
    brief="Spans of traces that the sampling policy, or a head sampler, has dropped", attributes=(),
))  # fmt: skip
SAMPLING_BUFFERED_TRACES: Final = _metric(Metric(
    name="ai.agent.sampling.buffered_traces", instrument="gauge", unit="{trace}",
    brief="Traces that are not decided yet", attributes=(),
))  # fmt: skip
SAMPLING_BUFFERED_SPANS: Final = _metric(Metric(
    name="ai.agent.sampling.buffered_spans", instrument="gauge", unit="{span}",
    brief="Finished spans that wait for the decision on their trace", attributes=(),
))  # fmt: skip
SAMPLING_BUFFERED_BYTES: Final = _metric(Metric(
    name="ai.agent.sampling.buffered_bytes", instrument="gauge", unit="By",
    brief="Estimated size of the spans that wait for a decision", attributes=(),
))  # fmt: skip
TELEMETRY_QUEUED: Final = _metric(Metric(
    name="ai.agent.telemetry.queued", instrument="gauge", unit="{span}", attributes=(),
    brief="Ended spans that wait for the worker",
))  # fmt: skip
TELEMETRY_DROPPED: Final = _metric(Metric(
    name="ai.agent.telemetry.dropped", instrument="counter", unit="{item}", attributes=(SIGNAL,),
    brief="Spans, metric exports and log records that were lost",
))  # fmt: skip
TELEMETRY_ERRORS: Final = _metric(Metric(
    name="ai.agent.telemetry.errors", instrument="counter", unit="{error}", attributes=(KIND,),
    brief="Problems of aiobs itself, by kind; the first of each is logged, too",
))  # fmt: skip
TELEMETRY_SPANS: Final = _metric(Metric(
    name="ai.agent.telemetry.spans", instrument="counter", unit="{span}", attributes=(STATE, REASON),
    brief="What became of ended spans: those `received` are the sum of the others and of those that wait",
))  # fmt: skip
TELEMETRY_WAITING: Final = _metric(Metric(
    name="ai.agent.telemetry.waiting", instrument="gauge", unit="{span}", attributes=(),
    brief="Spans that were received, and wait for a decision or for the receiver",
))  # fmt: skip
TELEMETRY_REPEATED: Final = _metric(Metric(
    name="ai.agent.telemetry.repeated", instrument="counter", unit="{span}", attributes=(),
    brief="Exported spans that the receiver may have got twice, since an earlier try was left without an answer",
))  # fmt: skip
TELEMETRY_OVERHEAD: Final = _metric(Metric(
    name="ai.agent.telemetry.overhead", instrument="counter", unit="s", attributes=(WORK,),
    brief="Processor time that the worker spent",
))  # fmt: skip
TELEMETRY_OVERFLOW: Final = _metric(Metric(
    name="ai.agent.telemetry.overflow", instrument="counter", unit="{point}", attributes=(ATTRIBUTE,),
    brief="Points whose attribute became `other`, since it has too many values",
))  # fmt: skip

# --- gen_ai.*: OpenTelemetry's own ------------------------------------------------------------------------------


def _gen_ai(metric: str, instrument: Instrument, unit: str, brief: str, *more: str,
            bounds: tuple[float, ...] = (), generation: Generation | None = None) -> Metric:  # fmt: skip
    return _metric(Metric(
        name=metric, instrument=instrument, unit=unit, brief=brief, attributes=(*_GEN_AI, *more), bounds=bounds,
        dialect="gen_ai", generation=generation,
    ))  # fmt: skip


GEN_AI_OPERATION_DURATION: Final = _gen_ai(
    "gen_ai.client.operation.duration", "histogram", "s", "Duration of a model call, embedding or retrieval",
    "error.type", bounds=GEN_AI_DURATION_BOUNDS_S,
)  # fmt: skip
GEN_AI_TIME_TO_FIRST_CHUNK: Final = _gen_ai(
    "gen_ai.client.operation.time_to_first_chunk", "histogram", "s", "Time to the first streamed chunk",
    bounds=GEN_AI_DURATION_BOUNDS_S,
)  # fmt: skip
GEN_AI_TOKEN_USAGE: Final = _gen_ai(
    "gen_ai.client.token.usage", "histogram", "{token}", "Tokens of a model call by `gen_ai.token.type`",
    GEN_AI_TOKEN_TYPE, bounds=TOKEN_BOUNDS, generation="1.41",
)  # fmt: skip
GEN_AI_INPUT_TOKENS: Final = _gen_ai(
    "gen_ai.client.inference.usage.input_tokens", "counter", "{token}", "Input tokens, cached included",
    GEN_AI_TOKEN_MODALITY, generation="latest",
)  # fmt: skip
GEN_AI_OUTPUT_TOKENS: Final = _gen_ai(
    "gen_ai.client.inference.usage.output_tokens", "counter", "{token}", "Output tokens, reasoning included",
    GEN_AI_TOKEN_MODALITY, generation="latest",
)  # fmt: skip
GEN_AI_CACHE_READ_TOKENS: Final = _gen_ai(
    "gen_ai.client.inference.usage.cache_read.input_tokens", "counter", "{token}", "Input tokens read from a cache",
    GEN_AI_TOKEN_MODALITY, generation="latest",
)  # fmt: skip
GEN_AI_CACHE_WRITE_TOKENS: Final = _gen_ai(
    "gen_ai.client.inference.usage.cache_write.input_tokens", "counter", "{token}",
    "Input tokens written to a cache", GEN_AI_TOKEN_MODALITY, generation="latest",
)  # fmt: skip
GEN_AI_REASONING_TOKENS: Final = _gen_ai(
    "gen_ai.client.inference.usage.reasoning.output_tokens", "counter", "{token}", "Reasoning tokens",
    GEN_AI_TOKEN_MODALITY, generation="latest",
)  # fmt: skip
GEN_AI_OPERATION_INPUT_TOKENS: Final = _gen_ai(
    "gen_ai.client.inference.operation.input_tokens", "histogram", "{token}", "Input tokens of one model call",
    bounds=TOKEN_BOUNDS, generation="latest",
)  # fmt: skip
GEN_AI_OPERATION_OUTPUT_TOKENS: Final = _gen_ai(
    "gen_ai.client.inference.operation.output_tokens", "histogram", "{token}", "Output tokens of one model call",
    bounds=TOKEN_BOUNDS, generation="latest",
)  # fmt: skip
