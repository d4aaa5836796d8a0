"""What model providers and their SDKs call things: the tables that `aiobs_core.providers` reads by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple, TypeAlias, Union

PROVIDERS: Final = {  # frameworks' names, often of a Python module → OpenTelemetry's; any other is taken as it is
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
PARAMS: Final = {  # the providers' names → GenAI's
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
    "service_tier": "service_tier",
    "serviceTier": "service_tier",  # Bedrock
}
PARAM_HOLDERS: Final = (
    "model_kwargs",
    "extra_body",
)  # where clients keep parameters that they have no name for
REQUEST_MODEL_KEYS: Final = (
    "model",
    "model_name",
    "model_id",
    "deployment_name",
    "azure_deployment",
    "engine",
)
BASE_URL_KEYS: Final = (  # Azure's before `api_base`, which Azure classes inherit with OpenAI's address in it
    "openai_api_base",
    "base_url",
    "azure_endpoint",
    "endpoint_url",
    "anthropic_api_url",
    "api_base",
    "endpoint",
    "host",
)
FINISH_KEYS: Final = ("finish_reason", "stop_reason", "done_reason", "stopReason")
RESPONSE_MODEL_KEYS: Final = ("model_name", "model", "model_id", "model_version")
RESPONSE_ID_KEYS: Final = ("id", "response_id")
USAGE_KEYS: Final = ("usage", "usage_metadata", "token_usage", "meta", "usageMetadata")
RESPONSE_HOLDERS: Final = (
    "response",
    "metadata",
)  # last events of OpenAI's and Bedrock's streams: a response is inside
TIER_KEYS: Final = (
    "service_tier",
    "serviceTier",
    "traffic_type",
    "trafficType",
)  # the latter two: Gemini on Vertex
TIERS: Final = {  # words that stand for another; any other is taken as it is
    # https://googleapis.github.io/python-genai/genai.html#genai.types.TrafficType
    "on_demand": "standard",  # Groq's word, too
    "on_demand_priority": "priority",
    "on_demand_flex": "flex",
    "traffic_type_unspecified": None,
    "unspecified": None,
}
PREFIXED_TIERS: Final = ("priority", "flex")
"""Frameworks put these before the names of what OpenAI counts in them: it has other prices."""
FIVE_MINUTES: Final = "cache_write_5m_tokens"
"""No field of `Usage`: what is written to the cache for an hour and for five minutes is all that is written."""


class Parts(NamedTuple):
    """A list of parts of a total: an entry says under `key` which one it counts, and under `tokens` how many."""

    key: str
    tokens: str
    fields: Mapping[str, str]


Fields: TypeAlias = Mapping[str, Union[str, Parts, "Fields"]]
"""A provider's name → the field of `Usage` that it counts, or what stands inside it.

Of several names for a field the first with a count is taken; the entries of a list are added up.
"""


class Shape(NamedTuple):
    """Where a family of providers reports its counts.

    What stands under `more_input` and `more_output` is missing from the provider's totals and is added to them: the GenAI
    conventions count cache reads and writes as input, and reasoning as output.
    """

    input: str
    output: str
    total: str = ""
    fields: Fields = MappingProxyType({})
    more_input: Sequence[str] = ()
    more_output: Sequence[str] = ()


_ANTHROPIC_CACHE: Final = {
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}
_BY_LIFETIME: Final = {
    "ephemeral_1h_input_tokens": "cache_write_1h_tokens",
    "ephemeral_5m_input_tokens": FIVE_MINUTES,
}
_INPUT_DETAILS: Final[Fields] = {
    "cached_tokens": "cache_read_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "cached_tokens_details": {"audio_tokens": "cache_read_audio_tokens"},
    "audio_tokens": "audio_input_tokens",
    "image_tokens": "image_input_tokens",
}
_OUTPUT_DETAILS: Final = {
    "reasoning_tokens": "reasoning_tokens",
    "audio_tokens": "audio_output_tokens",
    "image_tokens": "image_output_tokens",
}
_PREFIXES: Final = ("", *(f"{tier}_" for tier in PREFIXED_TIERS))


def _gemini(*, is_camel: bool) -> Shape:
    def spelled(name: str) -> str:
        first, *more = name.split("_")
        return first + "".join(map(str.title, more)) if is_camel else name

    def by_modality(audio: str, **more: str) -> Parts:
        return Parts("modality", spelled("token_count"), {"AUDIO": audio, **more})

    into = by_modality("audio_input_tokens", IMAGE="image_input_tokens")
    return Shape(
        input=spelled("prompt_token_count"),
        output=spelled("candidates_token_count"),
        fields={
            spelled("cached_content_token_count"): "cache_read_tokens",
            spelled("thoughts_token_count"): "reasoning_tokens",
            spelled("prompt_tokens_details"): into,
            spelled("tool_use_prompt_tokens_details"): into,
            spelled("cache_tokens_details"): by_modality("cache_read_audio_tokens"),
            spelled("candidates_tokens_details"): by_modality(
                "audio_output_tokens", IMAGE="image_output_tokens"
            ),
        },
        more_input=(spelled("tool_use_prompt_token_count"),),
        more_output=(spelled("thoughts_token_count"),),
    )


SHAPES: Final = (
    # OpenAI's chat completions and whoever speaks them: https://platform.openai.com/docs/api-reference/chat/object
    # `prompt_cache_hit_tokens` is DeepSeek's; gateways add Anthropic's names, as parts of `prompt_tokens`, and LiteLLM its
    # own: https://docs.litellm.ai/docs/completion/prompt_caching
    Shape(
        input="prompt_tokens",
        output="completion_tokens",
        total="total_tokens",
        fields={
            "prompt_tokens_details": {
                **_INPUT_DETAILS,
                "cache_creation_tokens": "cache_write_tokens",
                "cache_creation_token_details": _BY_LIFETIME,
            },
            "completion_tokens_details": _OUTPUT_DETAILS,
            "prompt_cache_hit_tokens": "cache_read_tokens",
            **_ANTHROPIC_CACHE,
            "cache_creation": _BY_LIFETIME,
        },
    ),
    # What frameworks make of all providers' counts, OpenAI's realtime API (both `…_token_details`), its responses and images
    # (https://platform.openai.com/docs/api-reference/responses/object), Perplexity, and Anthropic, whose input excludes the
    # cache: https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching#tracking-cache-performance
    Shape(
        input="input_tokens",
        output="output_tokens",
        total="total_tokens",
        fields={
            "input_token_details": {
                **{f"{prefix}cache_read": "cache_read_tokens" for prefix in _PREFIXES},
                **{f"{prefix}cache_creation": "cache_write_tokens" for prefix in _PREFIXES},
                "audio": "audio_input_tokens",
                "image": "image_input_tokens",
                **_BY_LIFETIME,
                **_INPUT_DETAILS,
            },
            "output_token_details": {
                **{f"{prefix}reasoning": "reasoning_tokens" for prefix in _PREFIXES},
                "audio": "audio_output_tokens",
                "image": "image_output_tokens",
                **_OUTPUT_DETAILS,
            },
            "input_tokens_details": {**_INPUT_DETAILS, **_ANTHROPIC_CACHE},
            "output_tokens_details": {**_OUTPUT_DETAILS, "thinking_tokens": "reasoning_tokens"},
            **_ANTHROPIC_CACHE,
            "cache_creation": _BY_LIFETIME,
        },
        more_input=tuple(_ANTHROPIC_CACHE),
    ),
    # Gemini, from its SDK and over REST: https://ai.google.dev/api/generate-content#UsageMetadata
    _gemini(is_camel=False),
    _gemini(is_camel=True),
    # Bedrock: https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html
    Shape(
        input="inputTokens",
        output="outputTokens",
        fields={
            "cacheReadInputTokens": "cache_read_tokens",
            "cacheWriteInputTokens": "cache_write_tokens",
            "cacheDetails": Parts("ttl", "inputTokens", {"1h": "cache_write_1h_tokens", "5m": FIVE_MINUTES}),
        },
        more_input=("cacheReadInputTokens", "cacheWriteInputTokens"),
    ),
    # Ollama: https://github.com/ollama/ollama/blob/main/docs/api.md#generate-a-chat-completion
    Shape(input="prompt_eval_count", output="eval_count"),
)
# Cohere reports what was billed and what was used (https://docs.cohere.com/reference/chat); the conventions want what was
# billed where both are known.
NESTED_UNITS: Final = ("billed_units", "tokens")


def _names(fields: Fields) -> Iterator[str]:
    for name, field in fields.items():
        yield name
        if isinstance(field, Parts):
            yield from (field.key, field.tokens)
        elif not isinstance(field, str):
            yield from _names(field)


READ_NAMES: Final = frozenset(
    (
        *USAGE_KEYS,
        *FINISH_KEYS,
        *RESPONSE_MODEL_KEYS,
        *RESPONSE_ID_KEYS,
        *RESPONSE_HOLDERS,
        *NESTED_UNITS,
        *TIER_KEYS,
        "type",  # of a tier, in Bedrock's answers
        "speed",
        "cost",
        "cost_details",
        "cost_in_usd_ticks",
        "is_byok",
        "total_cost",
        "upstream_inference_cost",
        *PREFIXED_TIERS,
        *(
            name
            for shape in SHAPES
            for name in (shape.input, shape.output, *shape.more_input, *shape.more_output, shape.total)
            if name
        ),
        *(name for shape in SHAPES for name in _names(shape.fields)),
    )
)
"""All that is read of a response, for objects that do not tell what fields they have."""
