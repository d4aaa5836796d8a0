"""What model providers and their SDKs call things, in OpenTelemetry's names.

For integrations. Everything here is a pure function over a mapping or an object that a provider's SDK made, and runs in
the worker. Names: https://github.com/open-telemetry/semantic-conventions-genai (`gen_ai.provider.name`, `gen_ai.request.*`,
`gen_ai.usage.*`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from aiobs_core._operation import Usage
from aiobs_core.adapter import first_text

_PROVIDERS: Final = {  # frameworks' names, often of a Python module → OpenTelemetry's; any other is taken as it is
    "amazon_bedrock": "aws.bedrock",
    "aws": "aws.bedrock",
    "bedrock": "aws.bedrock",
    "bedrock_converse": "aws.bedrock",
    "azure": "azure.ai.openai",
    "azure_openai": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "azure_inference": "azure.ai.inference",
    "gemini": "gcp.gemini",
    "google": "gcp.gen_ai",
    "google_genai": "gcp.gen_ai",
    "palm": "gcp.gen_ai",
    "google_vertexai": "gcp.vertex_ai",
    "vertex": "gcp.vertex_ai",
    "vertex_endpoint": "gcp.vertex_ai",
    "vertexai": "gcp.vertex_ai",
    "ibm": "ibm.watsonx.ai",
    "watsonx": "ibm.watsonx.ai",
    "mistral": "mistral_ai",
    "mistralai": "mistral_ai",
    "moonshot": "moonshot_ai",
    "grok": "x_ai",
    "xai": "x_ai",
}
_PARAMS: Final = {  # the providers' names → GenAI's
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",  # Hugging Face
    "max_output_tokens": "max_tokens",  # OpenAI Responses, Gemini
    "max_tokens_to_sample": "max_tokens",  # Anthropic's text completions
    "maxTokens": "max_tokens",  # Bedrock Converse
    "num_predict": "max_tokens",  # Ollama
    "top_p": "top_p",
    "topP": "top_p",
    "top_k": "top_k",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
    "random_seed": "seed",  # Mistral
    "n": "n",
    "candidate_count": "n",  # Gemini
    "reasoning_effort": "reasoning_effort",
}
_REQUEST_MODEL_KEYS: Final = (
    "model",
    "model_name",
    "model_id",
    "deployment_name",
    "azure_deployment",
    "engine",
)
_BASE_URL_KEYS: Final = (  # Azure's before `api_base`, which Azure classes inherit with OpenAI's address in it
    "openai_api_base",
    "base_url",
    "azure_endpoint",
    "endpoint_url",
    "anthropic_api_url",
    "api_base",
    "endpoint",
    "host",
)
_FINISH_KEYS: Final = ("finish_reason", "stop_reason", "done_reason", "stopReason")
_RESPONSE_MODEL_KEYS: Final = ("model_name", "model", "model_id", "model_version")
_RESPONSE_ID_KEYS: Final = ("id", "response_id")
_USAGE_KEYS: Final = ("usage", "usage_metadata", "token_usage", "meta", "usageMetadata")
_MAPPINGS: Final = (dict, Mapping)  # the abstract class alone takes ten times as long to ask
_Fields = Mapping[str, str]
"""A provider's name of a count → field of `Usage`; of several names for a field the first with a count is taken."""


class _Shape(NamedTuple):
    """Where a family of providers reports its counts.

    `details` are objects inside the report. What stands under `more_input` and `more_output` is missing from the
    provider's totals and is added to them: the GenAI conventions count cache reads and writes as input, and reasoning as
    output.
    """

    input: str
    output: str
    details: Mapping[str, _Fields] = MappingProxyType({})
    counts: _Fields = MappingProxyType({})
    more_input: Sequence[str] = ()
    more_output: Sequence[str] = ()


_ANTHROPIC_CACHE: Final = {
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}
_SHAPES: Final = (
    # OpenAI's chat completions and whoever speaks them: https://platform.openai.com/docs/api-reference/chat/object
    # `prompt_cache_hit_tokens` is DeepSeek's; gateways add Anthropic's two names, as parts of `prompt_tokens`.
    _Shape(
        input="prompt_tokens",
        output="completion_tokens",
        details={
            "prompt_tokens_details": {
                "cached_tokens": "cache_read_tokens",
                "cache_write_tokens": "cache_write_tokens",
                "audio_tokens": "audio_input_tokens",
            },
            "completion_tokens_details": {
                "reasoning_tokens": "reasoning_tokens",
                "audio_tokens": "audio_output_tokens",
            },
        },
        counts={"prompt_cache_hit_tokens": "cache_read_tokens", **_ANTHROPIC_CACHE},
    ),
    # What frameworks make of all providers' counts (`…_token_details`), OpenAI's responses
    # (https://platform.openai.com/docs/api-reference/responses/object), and Anthropic, whose input excludes the cache:
    # https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching#tracking-cache-performance
    _Shape(
        input="input_tokens",
        output="output_tokens",
        details={
            "input_token_details": {
                "cache_read": "cache_read_tokens",
                "cache_creation": "cache_write_tokens",
                "audio": "audio_input_tokens",
            },
            "output_token_details": {"reasoning": "reasoning_tokens", "audio": "audio_output_tokens"},
            "input_tokens_details": {"cached_tokens": "cache_read_tokens"},
            "output_tokens_details": {"reasoning_tokens": "reasoning_tokens"},
        },
        counts=_ANTHROPIC_CACHE,
        more_input=tuple(_ANTHROPIC_CACHE),
    ),
    # Gemini, from its SDK and over REST: https://ai.google.dev/api/generate-content#UsageMetadata
    _Shape(
        input="prompt_token_count",
        output="candidates_token_count",
        counts={
            "cached_content_token_count": "cache_read_tokens",
            "thoughts_token_count": "reasoning_tokens",
        },
        more_input=("tool_use_prompt_token_count",),
        more_output=("thoughts_token_count",),
    ),
    _Shape(
        input="promptTokenCount",
        output="candidatesTokenCount",
        counts={"cachedContentTokenCount": "cache_read_tokens", "thoughtsTokenCount": "reasoning_tokens"},
        more_input=("toolUsePromptTokenCount",),
        more_output=("thoughtsTokenCount",),
    ),
    # Bedrock: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html
    _Shape(
        input="inputTokens",
        output="outputTokens",
        counts={"cacheReadInputTokens": "cache_read_tokens", "cacheWriteInputTokens": "cache_write_tokens"},
        more_input=("cacheReadInputTokens", "cacheWriteInputTokens"),
    ),
    # Ollama: https://github.com/ollama/ollama/blob/main/docs/api.md#generate-a-chat-completion
    _Shape(input="prompt_eval_count", output="eval_count"),
)
# Cohere reports what was billed and what was used (https://docs.cohere.com/reference/chat); the conventions want what was
# billed where both are known.
_NESTED_UNITS: Final = ("billed_units", "tokens")
_READ_NAMES: Final = frozenset(
    (
        *_USAGE_KEYS,
        *_FINISH_KEYS,
        *_RESPONSE_MODEL_KEYS,
        *_RESPONSE_ID_KEYS,
        *_NESTED_UNITS,
        *(
            name
            for shape in _SHAPES
            for name in (shape.input, shape.output, *shape.more_input, *shape.more_output)
        ),
        *(name for shape in _SHAPES for name in (*shape.details, *shape.counts)),
        *(name for shape in _SHAPES for names in shape.details.values() for name in names),
    )
)
_NOTHING: Final[Mapping[str, object]] = MappingProxyType({})


# --- requests -------------------------------------------------------------------------------------------------------


def provider_name(name: str | None) -> str | None:
    """The value of `gen_ai.provider.name` for what a framework calls a provider; unknown names are kept."""
    return _PROVIDERS.get(name, name) if name else None


def request_params(*sources: Mapping[str, object] | None) -> dict[str, object]:
    """The inference parameters in the sources, under their GenAI names; later sources win, None counts as not given."""
    params: dict[str, object] = {}
    for source in sources:
        if source is None:
            continue
        for name in filter(_PARAMS.__contains__, source):
            if (value := source[name]) is not None:
                params[_PARAMS[name]] = value
    return params


def request_model(source: Mapping[str, object]) -> str | None:
    """The model that is asked for, from the arguments of a call or the fields of a client."""
    return first_text(source, _REQUEST_MODEL_KEYS)


def base_url(source: Mapping[str, object]) -> str | None:
    """The address that a client was given."""
    return first_text(source, _BASE_URL_KEYS)


# --- responses ------------------------------------------------------------------------------------------------------


def usage_of(reported: object) -> Usage | None:
    """Tokens, from the part of a provider's response that reports them.

    Args:
        reported: A mapping or an object, in the shape of OpenAI, Anthropic, Gemini, Bedrock, Ollama or Cohere.

    Returns:
        What is reported; fields that hold no count are None. None if there is no count at all.
    """
    fields = fields_of(reported)
    usage = _in_known_shape(fields)
    for units in _NESTED_UNITS:
        if usage is None and (nested := fields.get(units)) is not None:
            usage = _in_known_shape(fields_of(nested))
    return usage


def usage_in(response: object) -> Usage | None:
    """Tokens, from a provider's whole response: a mapping or an object."""
    fields = fields_of(response)
    for key in filter(fields.__contains__, _USAGE_KEYS):
        reported = fields[key]
        if reported is not None and (usage := usage_of(reported)) is not None:
            return usage
    return usage_of(fields)  # Ollama's


def fields_of(source: object) -> Mapping[str, object]:
    """The fields of a provider's object, as a mapping; a mapping is returned as it is.

    Of an object that keeps its fields elsewhere, such as a protocol buffer, only what this module reads.
    """
    if type(source) is dict or issubclass(type(source), Mapping):  # a foreign `__class__` may raise
        return source  # type: ignore[return-value]  # a mapping, by its class
    if source is None:
        return _NOTHING
    # Pydantic asks several places for an attribute that it does not have: one such costs more than all of this.
    fields, undeclared = _read(source, "__dict__"), _read(source, "__pydantic_extra__")
    if type(fields) is dict and type(undeclared) is dict and undeclared:
        fields = {**fields, **undeclared}
    if type(fields) is dict and not _READ_NAMES.isdisjoint(fields):
        return fields
    return {name: value for name in _READ_NAMES if (value := _read(source, name)) is not None}


def finish_reason(*sources: Mapping[str, object] | None) -> str | None:
    """Why the model stopped, as the provider says it in the first source that does."""
    return _text(sources, _FINISH_KEYS)


def response_model(*sources: Mapping[str, object] | None) -> str | None:
    """The model that answered, from the first source that names it."""
    return _text(sources, _RESPONSE_MODEL_KEYS)


def response_id(*sources: Mapping[str, object] | None) -> str | None:
    """The provider's id of the response, from the first source that has one."""
    return _text(sources, _RESPONSE_ID_KEYS)


def _text(sources: Sequence[Mapping[str, object] | None], keys: Sequence[str]) -> str | None:
    for source in sources:
        if isinstance(source, _MAPPINGS) and (found := first_text(source, keys)) is not None:
            return found
    return None


def _in_known_shape(fields: Mapping[str, object]) -> Usage | None:
    for shape in _SHAPES:
        if shape.input not in fields and shape.output not in fields:
            continue
        input_tokens, output_tokens = _count(fields.get(shape.input)), _count(fields.get(shape.output))
        if input_tokens is None and output_tokens is None:
            continue
        found: dict[str, Any] = {}
        for name in filter(fields.__contains__, shape.details):
            _collect(fields_of(fields[name]), shape.details[name], found)
        _collect(fields, shape.counts, found)
        if input_tokens is not None:
            for name in filter(fields.__contains__, shape.more_input):
                input_tokens += _count(fields[name]) or 0
        for name in filter(fields.__contains__, shape.more_output):
            if (more := _count(fields[name])) is not None:  # alone, too: Gemini leaves out a count of nothing
                output_tokens = (output_tokens or 0) + more
        return Usage(input_tokens=input_tokens, output_tokens=output_tokens, **found)
    return None


def _collect(source: Mapping[str, object], names: _Fields, found: dict[str, Any]) -> None:
    for name in filter(source.__contains__, names):
        if (count := _count(source[name])) is not None:
            found.setdefault(names[name], count)


def _count(value: object) -> int | None:
    if type(value) is int:
        return value if value >= 0 else None
    # Cohere's SDK declares its counts as floats.
    return int(value) if type(value) is float and value.is_integer() and value >= 0 else None


def _read(source: object, key: str) -> object:
    try:
        return getattr(source, key, None)
    except Exception:  # noqa: BLE001 (a foreign object's attributes may raise anything: nothing is reported there)
        return None
