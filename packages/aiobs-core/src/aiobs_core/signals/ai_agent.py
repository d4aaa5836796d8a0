"""The `ai.agent.*` dialect: everything aiobs knows of a run, under one set of names."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Final
from urllib.parse import urlsplit

from aiobs_core import semconv
from aiobs_core._operation import Kind, RunStatus, Stage, Usage
from aiobs_core._run import Run

# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_AGENT: Final = Kind.AGENT
_EMBEDDING: Final = Kind.EMBEDDING
_MODEL: Final = Kind.MODEL
_TOOL: Final = Kind.TOOL


_RARE_NAMES: Final = (
    semconv.USAGE_CACHE_WRITE_1H_TOKENS,
    semconv.USAGE_CACHE_READ_AUDIO_TOKENS,
    semconv.USAGE_AUDIO_INPUT_TOKENS,
    semconv.USAGE_AUDIO_OUTPUT_TOKENS,
    semconv.USAGE_IMAGE_INPUT_TOKENS,
    semconv.USAGE_IMAGE_OUTPUT_TOKENS,
)
_PARTS_OF_A_BILL: Final = (
    (semconv.COST_INPUT_USD, "input_usd"),
    (semconv.COST_CACHED_USD, "cached_usd"),
    (semconv.COST_CACHE_WRITE_USD, "cache_write_usd"),
    (semconv.COST_OUTPUT_USD, "output_usd"),
    (semconv.COST_REASONING_USD, "reasoning_usd"),
    (semconv.COST_OTHER_USD, "other_usd"),
)
_rare_counts: Final = attrgetter(
    "cache_write_1h_tokens",
    "cache_read_audio_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_input_tokens",
    "image_output_tokens",
)


def add(run: Run, attributes: dict[str, Any]) -> None:
    """Add the `ai.agent.*` attributes of a run, beside those of its nature; unknown ones stay absent."""
    operation, span = run.operation, run.span
    agent = operation.name if run.kind is _AGENT else run.agent
    if agent:
        attributes[semconv.AGENT_NAME] = agent
    _add_request(run, attributes)
    if run.kind is _MODEL or run.kind is _EMBEDDING or operation.model:
        _add_model(run, attributes)
    elif run.kind is _TOOL:
        attributes[semconv.API_NAME] = operation.name
    if operation.endpoint:
        endpoint = host_and_port(operation.endpoint)
        if endpoint is not None:
            host, port = endpoint
            attributes[semconv.ENDPOINT] = host if port is None else f"{host}:{port}"
            attributes[semconv.SERVER_ADDRESS] = host
            if port is not None:
                attributes[semconv.SERVER_PORT] = port
    if span.first_chunk_ns:
        attributes[semconv.TIME_TO_FIRST_CHUNK_S] = (span.first_chunk_ns - span.start_ns) / 1e9
        attributes[semconv.CHUNK_COUNT] = span.chunk_count
    if span.status_code is not None:
        attributes[semconv.STATUS_CODE] = span.status_code


def add_cost(run: Run, attributes: dict[str, Any]) -> None:
    """Add what a run cost, what everything inside it cost, the parts that are not nothing, and where the price is from."""
    if run.cost_usd is not None:
        attributes[semconv.COST_USD] = run.cost_usd
    if run.is_sum:
        if run.cost_total_usd is not None:
            attributes[semconv.COST_TOTAL_USD] = run.cost_total_usd
        if run.unpriced_calls:
            attributes[semconv.COST_UNPRICED_CALLS] = run.unpriced_calls
    if run.cost_source is not None:
        attributes[semconv.COST_SOURCE] = run.cost_source
    elif run.price is not None and run.outcome.usage is not None:
        offer, (rates, start) = run.price
        bill = rates.bill(run.outcome.usage)
        for name, field in _PARTS_OF_A_BILL:
            if part := getattr(bill, field):
                attributes[name] = float(part)
        attributes[semconv.COST_SOURCE] = f"{offer.source} {start}" if start else offer.source


def nature(run: Run) -> Mapping[str, str]:
    """What a run is, how it ended, its stage and framework: attributes that many runs share."""
    key = (run.kind, run.status, run.stage, run.span.scope)
    return _of_nature.get(key) or _add_nature(*key)


_of_nature: dict[tuple[Kind, RunStatus, Stage | None, str], dict[str, str]] = {}  # a few dozen at the most


def _add_nature(kind: Kind, status: RunStatus, stage: Stage | None, scope: str) -> dict[str, str]:
    found = {semconv.SPAN_KIND: kind.value, semconv.OUTCOME: status.value}
    if stage is not None:
        found[semconv.STAGE] = stage.value
    if scope.startswith(semconv.SCOPE_PREFIX):
        found[semconv.FRAMEWORK] = scope[len(semconv.SCOPE_PREFIX) :]
    _of_nature[kind, status, stage, scope] = found
    return found


def _add_request(run: Run, attributes: dict[str, Any]) -> None:
    operation, request = run.operation, run.span.request
    request_id, session_id = operation.request_id, operation.conversation_id
    if request is not None:
        request_id = request.request_id or request_id
        session_id = request.session_id or session_id
        if request.tags:
            attributes[semconv.TAGS] = request.tags
        if request.prompt_name:
            attributes[semconv.PROMPT_NAME] = request.prompt_name
        if request.prompt_version:
            attributes[semconv.PROMPT_VERSION] = request.prompt_version
    if request_id is None and run.span.is_local_root:
        request_id = f"{run.span.trace.trace_id:032x}"
    if request_id:
        attributes[semconv.REQUEST_ID] = request_id
    if run.span.is_local_root and run.span.trace.is_forced:
        attributes[semconv.SAMPLING_KEEP] = True  # whoever decides after us has to know
    if session_id:
        attributes[semconv.SESSION_ID] = session_id


def _add_model(run: Run, attributes: dict[str, Any]) -> None:
    operation, outcome = run.operation, run.outcome
    if operation.provider:
        attributes[semconv.PROVIDER_NAME] = operation.provider
    model = operation.model or outcome.model
    if model:
        attributes[semconv.MODEL_NAME] = model
    if outcome.model:
        attributes[semconv.MODEL_VERSION] = outcome.model
    if outcome.service_tier:
        attributes[semconv.SERVICE_TIER] = outcome.service_tier
    temperature = number(operation.params.get("temperature"))
    if temperature is not None:
        attributes[semconv.MODEL_TEMPERATURE] = float(temperature)
    max_tokens = operation.params.get("max_tokens")
    if type(max_tokens) is int:
        attributes[semconv.MODEL_MAX_TOKENS] = max_tokens
    if run.kind is _MODEL or outcome.usage is not None:
        add_usage(outcome.usage, attributes)


def add_usage(usage: Usage | None, attributes: dict[str, Any]) -> None:
    """Add token counts that are known, and where they come from."""
    if usage is None:
        attributes[semconv.USAGE_SOURCE] = "missing"
        return
    attributes[semconv.USAGE_SOURCE] = usage.source
    if usage.input_tokens is not None:
        attributes[semconv.USAGE_INPUT_TOKENS] = usage.input_tokens
    if usage.output_tokens is not None:
        attributes[semconv.USAGE_OUTPUT_TOKENS] = usage.output_tokens
    if usage.cache_read_tokens is not None:
        attributes[semconv.USAGE_CACHE_READ_TOKENS] = usage.cache_read_tokens
    if usage.cache_write_tokens is not None:
        attributes[semconv.USAGE_CACHE_WRITE_TOKENS] = usage.cache_write_tokens
    if usage.reasoning_tokens is not None:
        attributes[semconv.USAGE_REASONING_TOKENS] = usage.reasoning_tokens
    rare = zip(_RARE_NAMES, _rare_counts(usage), strict=True)
    attributes.update((name, count) for name, count in rare if count is not None)


def number(value: object) -> int | float | None:
    """The value if it is a plain number; parameters may hold anything an application passed."""
    return value if type(value) is int or type(value) is float else None


_endpoints: dict[str, tuple[str, int | None] | None] = {}


def host_and_port(endpoint: str) -> tuple[str, int | None] | None:
    """Host and port of a base URL, without credentials, path or query; None if there is no host."""
    if endpoint in _endpoints:
        return _endpoints[endpoint]
    try:
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        found = (parts.hostname, parts.port) if parts.hostname else None
    except ValueError:
        found = None
    if len(_endpoints) < 1_024:
        _endpoints[endpoint] = found
    return found
