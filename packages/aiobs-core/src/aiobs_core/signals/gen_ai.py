"""The `gen_ai.*` dialect of OpenTelemetry, in the generation chosen by `AIOBS_SEMCONV`; also names and span kinds."""

from __future__ import annotations

from typing import Any, Final

from opentelemetry.trace import SpanKind

from aiobs_core import semconv
from aiobs_core._operation import Kind, Operation, Usage
from aiobs_core._run import Run
from aiobs_core.signals.ai_agent import number

# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_AGENT: Final = Kind.AGENT
_EMBEDDING: Final = Kind.EMBEDDING
_MODEL: Final = Kind.MODEL
_RETRIEVER: Final = Kind.RETRIEVER
_TOOL: Final = Kind.TOOL
_WORKFLOW: Final = Kind.WORKFLOW
_INTERNAL_SPAN: Final = SpanKind.INTERNAL
_SPAN_KINDS: Final = {
    _MODEL: SpanKind.CLIENT,
    _RETRIEVER: SpanKind.CLIENT,
    _EMBEDDING: SpanKind.CLIENT,
    Kind.REQUEST: SpanKind.SERVER,
    Kind.PRODUCER: SpanKind.PRODUCER,
    Kind.CONSUMER: SpanKind.CONSUMER,
}
REASONING_LEVELS: Final = {"none", "minimal", "low", "medium", "high", "xhigh", "max", "auto"}
FLOATS: Final = (
    ("temperature", semconv.GEN_AI_REQUEST_TEMPERATURE),
    ("top_p", semconv.GEN_AI_REQUEST_TOP_P),
    ("frequency_penalty", semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY),
    ("presence_penalty", semconv.GEN_AI_REQUEST_PRESENCE_PENALTY),
)
INTS: Final = (
    ("max_tokens", semconv.GEN_AI_REQUEST_MAX_TOKENS),
    ("top_k", semconv.GEN_AI_REQUEST_TOP_K),
    ("seed", semconv.GEN_AI_REQUEST_SEED),
)


def action_of(run: Run) -> str | None:
    """The GenAI operation name of a run, or None where the conventions have none."""
    return run.operation.action or semconv.GEN_AI_OPERATIONS.get(run.kind)


def span_name(run: Run) -> str:
    """`chat gpt-4o`, `execute_tool search`, `invoke_agent planner`; the run's own name where there is no operation."""
    operation = run.operation
    action = action_of(run)
    if action is None:
        return operation.name or run.kind._value_
    target = operation.model or run.outcome.model if run.kind is _MODEL else operation.name
    return f"{action} {target}" if target else action


def span_kind(run: Run) -> SpanKind:
    """CLIENT for calls to a service, the kinds of servers and brokers, INTERNAL for everything else."""
    return _SPAN_KINDS.get(run.kind, _INTERNAL_SPAN)


class Dialect:
    """Adds `gen_ai.*` attributes; `generation` is `1.41`, `latest` or `both`."""

    def __init__(self, generation: str) -> None:
        self._old = generation in {"1.41", "both"}
        self._new = generation in {"latest", "both"}

    def add(self, run: Run, attributes: dict[str, Any]) -> None:
        """Add the attributes of a run that the conventions define; others get none."""
        action = action_of(run)
        if action is None:
            return
        operation = run.operation
        attributes[semconv.GEN_AI_OPERATION_NAME] = action
        conversation = attributes.get(semconv.SESSION_ID)
        if conversation is not None:
            attributes[semconv.GEN_AI_CONVERSATION_ID] = conversation
        prompt = attributes.get(semconv.PROMPT_NAME)
        if prompt is not None:
            attributes[semconv.GEN_AI_PROMPT_NAME] = prompt
        if run.kind is _MODEL:
            self._add_model(run, attributes)
        elif run.kind is _EMBEDDING:
            self._add_model(run, attributes)
            dimensions = run.outcome.attributes.get(semconv.EMBEDDING_DIMENSION_COUNT)
            if dimensions is not None:
                attributes[semconv.GEN_AI_EMBEDDINGS_DIMENSION_COUNT] = dimensions
        elif run.kind is _TOOL:
            attributes[semconv.GEN_AI_TOOL_NAME] = operation.name
        elif run.kind is _AGENT:
            attributes[semconv.GEN_AI_AGENT_NAME] = operation.name
        elif run.kind is _WORKFLOW:
            attributes[semconv.GEN_AI_WORKFLOW_NAME] = operation.name
        elif run.kind is _RETRIEVER:
            attributes[semconv.GEN_AI_DATA_SOURCE_ID] = operation.name
            if operation.provider:
                attributes[semconv.GEN_AI_PROVIDER_NAME] = operation.provider
        if run.agent and run.kind is not _AGENT:
            attributes[semconv.GEN_AI_AGENT_NAME] = run.agent

    def _add_model(self, run: Run, attributes: dict[str, Any]) -> None:
        operation, outcome, span = run.operation, run.outcome, run.span
        if operation.provider:
            attributes[semconv.GEN_AI_PROVIDER_NAME] = operation.provider
        if operation.model:
            attributes[semconv.GEN_AI_REQUEST_MODEL] = operation.model
        if operation.params:
            self._add_params(operation, attributes)
        if outcome.model:
            attributes[semconv.GEN_AI_RESPONSE_MODEL] = outcome.model
        if outcome.response_id:
            attributes[semconv.GEN_AI_RESPONSE_ID] = outcome.response_id
        if outcome.finish_reasons:
            attributes[semconv.GEN_AI_RESPONSE_FINISH_REASONS] = outcome.finish_reasons
        if outcome.usage is not None:
            self._add_usage(outcome.usage, attributes)
        if span.first_chunk_ns and self._new:
            attributes[semconv.GEN_AI_REQUEST_STREAM] = True
            attributes[semconv.GEN_AI_RESPONSE_TIME_TO_FIRST_CHUNK] = (
                span.first_chunk_ns - span.start_ns
            ) / 1e9

    def _add_params(self, operation: Operation, attributes: dict[str, Any]) -> None:
        # An allow-list of names *and* types: an application can bind any object under any of these names.
        params = operation.params
        for name, attribute in FLOATS:
            value = number(params.get(name))
            if value is not None:
                attributes[attribute] = float(value)
        for name, attribute in INTS:
            count = params.get(name)
            if type(count) is int:
                attributes[attribute] = count
        choices = params.get("n")
        if type(choices) is int and choices != 1:
            attributes[semconv.GEN_AI_REQUEST_CHOICE_COUNT] = choices
        level = params.get("reasoning_effort")
        if self._new and isinstance(level, str) and level in REASONING_LEVELS:
            attributes[semconv.GEN_AI_REQUEST_REASONING_LEVEL] = level

    def _add_usage(self, usage: Usage, attributes: dict[str, Any]) -> None:
        if usage.input_tokens is not None:
            attributes[semconv.GEN_AI_USAGE_INPUT_TOKENS] = usage.input_tokens
        if usage.output_tokens is not None:
            attributes[semconv.GEN_AI_USAGE_OUTPUT_TOKENS] = usage.output_tokens
        if usage.cache_read_tokens is not None:
            attributes[semconv.GEN_AI_USAGE_CACHE_READ] = usage.cache_read_tokens
        if usage.cache_write_tokens is not None:
            if self._old:
                attributes[semconv.GEN_AI_USAGE_CACHE_CREATION] = usage.cache_write_tokens
            if self._new:
                attributes[semconv.GEN_AI_USAGE_CACHE_WRITE] = usage.cache_write_tokens
        if usage.reasoning_tokens is not None and self._new:
            attributes[semconv.GEN_AI_USAGE_REASONING] = usage.reasoning_tokens
