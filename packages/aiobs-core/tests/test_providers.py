"""What providers report, one row for each of their shapes."""

from __future__ import annotations

from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobs_core import Usage
from aiobs_core.providers import (
    base_url,
    finish_reason,
    provider_name,
    request_model,
    request_params,
    response_id,
    response_model,
    usage_in,
    usage_of,
)

SHAPES = {
    "OpenAI chat": (
        {
            "prompt_tokens": 20,
            "completion_tokens": 9,
            "total_tokens": 29,
            "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 4, "audio_tokens": 2},
        },
        Usage(
            input_tokens=20,
            output_tokens=9,
            cache_read_tokens=8,
            reasoning_tokens=4,
            audio_input_tokens=3,
            audio_output_tokens=2,
        ),
    ),
    "OpenAI embeddings": ({"prompt_tokens": 5, "total_tokens": 5}, Usage(input_tokens=5)),
    "DeepSeek": (
        {"prompt_tokens": 20, "completion_tokens": 9, "prompt_cache_hit_tokens": 16},
        Usage(input_tokens=20, output_tokens=9, cache_read_tokens=16),
    ),
    "Anthropic behind a gateway that speaks OpenAI chat": (
        {
            "prompt_tokens": 20,
            "completion_tokens": 9,
            "cache_read_input_tokens": 8,
            "cache_creation_input_tokens": 2,
        },
        Usage(input_tokens=20, output_tokens=9, cache_read_tokens=8, cache_write_tokens=2),
    ),
    "OpenAI responses": (
        {
            "input_tokens": 20,
            "output_tokens": 9,
            "input_tokens_details": {"cached_tokens": 8},
            "output_tokens_details": {"reasoning_tokens": 4},
        },
        Usage(input_tokens=20, output_tokens=9, cache_read_tokens=8, reasoning_tokens=4),
    ),
    "a framework's own": (
        {
            "input_tokens": 20,
            "output_tokens": 9,
            "input_token_details": {"cache_read": 8, "cache_creation": 2, "audio": 3},
            "output_token_details": {"reasoning": 4, "audio": 1},
        },
        Usage(
            input_tokens=20,
            output_tokens=9,
            cache_read_tokens=8,
            cache_write_tokens=2,
            reasoning_tokens=4,
            audio_input_tokens=3,
            audio_output_tokens=1,
        ),
    ),
    "Anthropic, whose input excludes the cache": (
        {
            "input_tokens": 20,
            "output_tokens": 9,
            "cache_read_input_tokens": 800,
            "cache_creation_input_tokens": 100,
        },
        Usage(input_tokens=920, output_tokens=9, cache_read_tokens=800, cache_write_tokens=100),
    ),
    "Anthropic without a cache": (
        {
            "input_tokens": 20,
            "output_tokens": 9,
            "cache_read_input_tokens": None,
            "cache_creation_input_tokens": 0,
        },
        Usage(input_tokens=20, output_tokens=9, cache_write_tokens=0),
    ),
    "Gemini, whose output excludes thoughts": (
        {
            "prompt_token_count": 20,
            "candidates_token_count": 9,
            "cached_content_token_count": 8,
            "thoughts_token_count": 50,
            "tool_use_prompt_token_count": 7,
            "prompt_tokens_details": [{"modality": "TEXT", "token_count": 20}],
        },
        Usage(input_tokens=27, output_tokens=59, cache_read_tokens=8, reasoning_tokens=50),
    ),
    "Gemini over REST": (
        {
            "promptTokenCount": 20,
            "candidatesTokenCount": 9,
            "cachedContentTokenCount": 8,
            "thoughtsTokenCount": 50,
        },
        Usage(input_tokens=20, output_tokens=59, cache_read_tokens=8, reasoning_tokens=50),
    ),
    "Bedrock Converse, whose input excludes the cache": (
        {"inputTokens": 20, "outputTokens": 9, "cacheReadInputTokens": 800, "cacheWriteInputTokens": 100},
        Usage(input_tokens=920, output_tokens=9, cache_read_tokens=800, cache_write_tokens=100),
    ),
    "Ollama": ({"prompt_eval_count": 20, "eval_count": 9}, Usage(input_tokens=20, output_tokens=9)),
    "Cohere, billed before used": (
        {
            "billed_units": {"input_tokens": 20.0, "output_tokens": 9.0},
            "tokens": {"input_tokens": 200.0, "output_tokens": 9.0},
        },
        Usage(input_tokens=20, output_tokens=9),
    ),
    "Cohere, only used": ({"tokens": {"input_tokens": 20}}, Usage(input_tokens=20)),
}


def as_object(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return SimpleNamespace(**{key: as_object(inner) for key, inner in value.items()})


@pytest.mark.parametrize("form", [dict, MappingProxyType, as_object])
@pytest.mark.parametrize("shape", SHAPES)
def test_usage_is_read_in_each_providers_shape(shape, form):
    reported, usage = SHAPES[shape]
    assert usage_of(form(reported)) == usage


@pytest.mark.parametrize("key", ["usage", "usage_metadata", "usageMetadata", "token_usage", "meta"])
@pytest.mark.parametrize("form", [dict, as_object])
def test_usage_is_found_in_a_response(key, form):
    response = {"id": "r-1", "usage": None, key: {"input_tokens": 20, "output_tokens": 9}}
    assert usage_in(form(response)) == Usage(input_tokens=20, output_tokens=9)


def test_usage_is_found_in_a_response_that_is_its_own_report():
    assert usage_in({"done": True, "eval_count": 9}) == Usage(output_tokens=9)


@pytest.mark.parametrize("count", [None, True, -1, "9", 1.5, float("nan"), float("inf"), [9]])
def test_what_is_no_count_is_unknown_and_never_0(count):
    assert usage_of({"prompt_tokens": count}) is None
    assert usage_of({"prompt_tokens": 3, "completion_tokens": count}) == Usage(input_tokens=3)


def test_counts_added_to_an_unknown_total_leave_it_unknown():
    assert usage_of({"output_tokens": 9, "cache_read_input_tokens": 8}) == Usage(
        output_tokens=9, cache_read_tokens=8
    )
    # Gemini leaves out a count of nothing: it was cut off while it was thinking.
    assert usage_of({"prompt_token_count": 5, "thoughts_token_count": 100}) == Usage(
        input_tokens=5, output_tokens=100, reasoning_tokens=100
    )


@pytest.mark.parametrize("response", [None, "", 7, [], {}, {"usage": {}}, {"usage": "many"}, object()])
def test_no_report_is_no_usage(response):
    assert usage_in(response) is None
    assert usage_of(response) is None


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __getattr__(self, name: str) -> Any:
        raise self.error

    @property
    def __class__(self):
        raise self.error

    def __bool__(self) -> bool:
        raise self.error


class Endless:
    def __getattr__(self, name: str) -> Any:
        return self


ODD = {  # made in the test: pytest looks at parameters
    "KeyError": lambda: Raises(KeyError("usage")),
    "RuntimeError": lambda: Raises(RuntimeError("detached")),
    "endless": Endless,
}


@pytest.mark.parametrize("odd", ODD)
def test_objects_that_raise_or_never_end_report_nothing(odd):
    made = ODD[odd]()
    assert usage_in(made) is None
    assert usage_in({"usage": made}) is None
    assert usage_of({"prompt_tokens": 3, "prompt_tokens_details": made}) == Usage(input_tokens=3)


class Lazy:
    """Some SDKs raise where a field was not sent."""

    output_tokens = 9

    def __getattr__(self, name: str) -> Any:
        raise KeyError(name)


def test_one_attribute_that_raises_hides_no_other():
    assert usage_of(Lazy()) == Usage(output_tokens=9)


NAMES = st.sampled_from(
    sorted({name for reported, _ in SHAPES.values() for name in reported} | {"usage", "meta"})
)
LEAVES = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3))
REPORTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(NAMES, inner, max_size=6),
        st.dictionaries(NAMES, inner, max_size=6).map(as_object),
    ),
)


@given(REPORTS)
def test_usage_is_total_and_never_negative(reported):
    for usage in (usage_of(reported), usage_in(reported)):
        if usage is not None:
            counts = usage[:-1]
            assert any(count is not None for count in counts)
            assert all(count is None or (type(count) is int and count >= 0) for count in counts)


# --- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("framework", "name"),
    [
        (None, None),
        ("", None),
        ("openai", "openai"),
        ("anthropic", "anthropic"),
        ("my_gateway", "my_gateway"),
        ("azure", "azure.ai.openai"),
        ("azure_openai", "azure.ai.openai"),
        ("azure_inference", "azure.ai.inference"),
        ("amazon_bedrock", "aws.bedrock"),
        ("bedrock_converse", "aws.bedrock"),
        ("gemini", "gcp.gemini"),
        ("google_genai", "gcp.gen_ai"),
        ("google_vertexai", "gcp.vertex_ai"),
        ("vertex", "gcp.vertex_ai"),
        ("ibm", "ibm.watsonx.ai"),
        ("watsonx", "ibm.watsonx.ai"),
        ("mistralai", "mistral_ai"),
        ("moonshot", "moonshot_ai"),
        ("grok", "x_ai"),
        *((same, same) for same in ("cohere", "deepseek", "groq", "perplexity", "ollama")),
    ],
)
def test_providers_have_opentelemetrys_names(framework, name):
    assert provider_name(framework) == name


def test_params_have_genai_names_and_later_sources_win():
    defaults = {"temperature": 0.1, "top_k": 40, "model": "m", "api_key": "secret"}
    call = {"temperature": 0.0, "top_k": None, "max_completion_tokens": 100, "stop": ["x"]}
    assert request_params(defaults, None, call) == {"temperature": 0.0, "top_k": 40, "max_tokens": 100}


@pytest.mark.parametrize(
    ("given_name", "known"),
    [
        ("max_output_tokens", "max_tokens"),
        ("maxTokens", "max_tokens"),
        ("num_predict", "max_tokens"),
        ("random_seed", "seed"),
        ("candidate_count", "n"),
        ("topP", "top_p"),
    ],
)
def test_each_providers_name_of_a_param_is_known(given_name, known):
    assert request_params({given_name: 1}) == {known: 1}


@pytest.mark.parametrize(
    ("source", "model"),
    [
        ({"model": "gpt-4o", "model_name": "other"}, "gpt-4o"),
        ({"model": "", "model_name": "claude"}, "claude"),
        ({"model_id": "granite"}, "granite"),
        ({"deployment_name": "prod"}, "prod"),
        ({"model": object()}, None),
        ({}, None),
    ],
)
def test_the_request_model_is_found(source, model):
    assert request_model(source) == model


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ({"base_url": "http://localhost:11434"}, "http://localhost:11434"),
        (
            {"api_base": "https://api.openai.com/v1", "azure_endpoint": "https://a.azure.com"},
            "https://a.azure.com",
        ),
        ({"host": "https://dbc.example"}, "https://dbc.example"),
        ({"base_url": None}, None),
    ],
)
def test_the_base_url_is_found(source, url):
    assert base_url(source) == url


def test_a_response_says_why_it_stopped_who_answered_and_its_id():
    openai = {"finish_reason": "stop", "model_name": "gpt-4o-2024-08-06", "id": "chatcmpl-1"}
    assert (finish_reason(openai), response_model(openai), response_id(openai)) == (
        "stop",
        "gpt-4o-2024-08-06",
        "chatcmpl-1",
    )
    assert [finish_reason({key: "stop"}) for key in ("stop_reason", "done_reason", "stopReason")] == [
        "stop"
    ] * 3
    assert response_model({"model": "claude"}) == "claude"
    assert response_id(None, {}, {"id": "r-1"}, {"id": "r-2"}) == "r-1"


@pytest.mark.parametrize("read", [finish_reason, response_model, response_id])
@pytest.mark.parametrize("source", [None, {}, {"finish_reason": None, "model": 7, "id": ""}, "stop"])
def test_what_a_response_does_not_say_is_unknown(read, source):
    assert read(source) is None
