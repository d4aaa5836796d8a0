"""The OpenInference dialect, for Phoenix and Arize: kinds, model, tokens, and content as far as the policy lets it out."""

from __future__ import annotations

from typing import Any, Final

from aiobs_core import semconv
from aiobs_core._operation import Kind
from aiobs_core._run import Run

_KINDS: Final = {
    Kind.WORKFLOW: "CHAIN",
    Kind.AGENT: "AGENT",
    Kind.MODEL: "LLM",
    Kind.TOOL: "TOOL",
    Kind.RETRIEVER: "RETRIEVER",
    Kind.RERANKER: "RERANKER",
    Kind.EMBEDDING: "EMBEDDING",
    Kind.CHAIN: "CHAIN",
    Kind.PROMPT: "PROMPT",
    Kind.PARSER: "CHAIN",
    Kind.GUARDRAIL: "GUARDRAIL",
    Kind.EVALUATOR: "EVALUATOR",
    Kind.REQUEST: "CHAIN",
    Kind.STAGE: "CHAIN",
    Kind.PRODUCER: "CHAIN",
    Kind.CONSUMER: "CHAIN",
}
_CONTENT: Final = (
    (
        (
            semconv.GEN_AI_INPUT_MESSAGES,
            semconv.GEN_AI_TOOL_CALL_ARGUMENTS,
            semconv.GEN_AI_RETRIEVAL_QUERY_TEXT,
            semconv.EMBEDDING_TEXTS,
        ),
        semconv.OI_INPUT_VALUE,
        semconv.OI_INPUT_MIME_TYPE,
    ),
    (
        (
            semconv.GEN_AI_OUTPUT_MESSAGES,
            semconv.GEN_AI_TOOL_CALL_RESULT,
            semconv.GEN_AI_RETRIEVAL_DOCUMENTS,
        ),
        semconv.OI_OUTPUT_VALUE,
        semconv.OI_OUTPUT_MIME_TYPE,
    ),
)


def add(run: Run, attributes: dict[str, Any]) -> None:
    """Add the OpenInference attributes of a run, from the `ai.agent.*` ones that are there already."""
    operation = run.operation
    attributes[semconv.OI_SPAN_KIND] = _KINDS[run.kind]
    _copy(attributes, semconv.SESSION_ID, semconv.OI_SESSION_ID)
    _copy(attributes, semconv.TAGS, semconv.OI_TAGS)
    if run.kind is Kind.MODEL:
        _copy(attributes, semconv.MODEL_NAME, semconv.OI_LLM_MODEL_NAME)
        _copy(attributes, semconv.PROVIDER_NAME, semconv.OI_LLM_PROVIDER)
        _copy(attributes, semconv.USAGE_INPUT_TOKENS, semconv.OI_TOKENS_PROMPT)
        _copy(attributes, semconv.USAGE_OUTPUT_TOKENS, semconv.OI_TOKENS_COMPLETION)
        _copy(attributes, semconv.USAGE_CACHE_READ_TOKENS, semconv.OI_TOKENS_CACHE_READ)
        _copy(attributes, semconv.USAGE_CACHE_WRITE_TOKENS, semconv.OI_TOKENS_CACHE_WRITE)
        _copy(attributes, semconv.USAGE_REASONING_TOKENS, semconv.OI_TOKENS_REASONING)
        usage = run.outcome.usage
        if usage is not None and usage.input_tokens is not None and usage.output_tokens is not None:
            attributes[semconv.OI_TOKENS_TOTAL] = usage.input_tokens + usage.output_tokens
    elif run.kind is Kind.TOOL:
        attributes[semconv.OI_TOOL_NAME] = operation.name
    elif run.kind is Kind.AGENT:
        attributes[semconv.OI_AGENT_NAME] = operation.name
    elif run.kind is Kind.EMBEDDING:
        _copy(attributes, semconv.MODEL_NAME, semconv.OI_EMBEDDING_MODEL)
    elif run.kind is Kind.RERANKER:
        _copy(attributes, semconv.MODEL_NAME, semconv.OI_RERANKER_MODEL)
    node = operation.attributes.get(semconv.GRAPH_NODE)
    if node is not None:
        attributes[semconv.OI_GRAPH_NODE_ID] = node


def add_content(run: Run, attributes: dict[str, Any]) -> None:
    """Add what the privacy policy lets out, which has passed it already."""
    content = run.content
    if semconv.USER_ID in content:
        attributes[semconv.OI_USER_ID] = content[semconv.USER_ID]
    for sources, value, mime_type in _CONTENT:
        source = next((name for name in sources if name in content), None)
        if source is not None:
            attributes[value] = content[source]
            is_text = source == semconv.GEN_AI_RETRIEVAL_QUERY_TEXT
            attributes[mime_type] = "text/plain" if is_text else "application/json"


def _copy(attributes: dict[str, Any], source: str, target: str) -> None:
    value = attributes.get(source)
    if value is not None:
        attributes[target] = value
