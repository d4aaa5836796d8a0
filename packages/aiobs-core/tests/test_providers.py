"""What providers report, one row for each of their shapes."""

from __future__ import annotations

import enum
from types import MappingProxyType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobs_core import Usage
from aiobs_core.providers import (
    base_url,
    cost_usd,
    finish_reason,
    provider_name,
    request_model,
    request_params,
    response_fields,
    response_id,
    response_model,
    service_tier,
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
    "LiteLLM, with Anthropic behind it": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 9,
            "cache_creation_input_tokens": 100,
            "cache_read_input_tokens": 800,
            "prompt_tokens_details": {
                "cached_tokens": 800,
                "cache_creation_tokens": 100,
                "cache_creation_token_details": {
                    "ephemeral_5m_input_tokens": 70,
                    "ephemeral_1h_input_tokens": 30,
                },
            },
        },
        Usage(
            input_tokens=1000,
            output_tokens=9,
            cache_read_tokens=800,
            cache_write_tokens=100,
            cache_write_1h_tokens=30,
        ),
    ),
    "OpenRouter, with images": (
        {
            "prompt_tokens": 194,
            "completion_tokens": 1300,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "image_tokens": 1290},
        },
        Usage(
            input_tokens=194,
            output_tokens=1300,
            cache_read_tokens=0,
            cache_write_tokens=100,
            reasoning_tokens=0,
            audio_input_tokens=0,
            image_output_tokens=1290,
        ),
    ),
    "xAI, whose output excludes reasoning": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 9,
            "total_tokens": 135,
            "completion_tokens_details": {"reasoning_tokens": 94},
        },
        Usage(input_tokens=32, output_tokens=103, reasoning_tokens=94),
    ),
    "OpenAI responses": (
        {
            "input_tokens": 20,
            "output_tokens": 9,
            "total_tokens": 29,
            "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 5},
            "output_tokens_details": {"reasoning_tokens": 4},
        },
        Usage(
            input_tokens=20, output_tokens=9, cache_read_tokens=8, cache_write_tokens=5, reasoning_tokens=4
        ),
    ),
    "OpenAI images": (
        {
            "input_tokens": 60,
            "output_tokens": 1056,
            "input_tokens_details": {"image_tokens": 50, "text_tokens": 10},
            "output_tokens_details": {"image_tokens": 1056, "text_tokens": 0},
        },
        Usage(input_tokens=60, output_tokens=1056, image_input_tokens=50, image_output_tokens=1056),
    ),
    "OpenAI realtime": (
        {
            "input_tokens": 60,
            "output_tokens": 20,
            "input_token_details": {
                "cached_tokens": 30,
                "cached_tokens_details": {"audio_tokens": 25, "text_tokens": 5},
                "audio_tokens": 40,
                "image_tokens": 7,
            },
            "output_token_details": {"audio_tokens": 15},
        },
        Usage(
            input_tokens=60,
            output_tokens=20,
            cache_read_tokens=30,
            cache_read_audio_tokens=25,
            audio_input_tokens=40,
            image_input_tokens=7,
            audio_output_tokens=15,
        ),
    ),
    "Perplexity": (
        {
            "input_tokens": 20,
            "output_tokens": 9,
            "input_tokens_details": {"cache_read_input_tokens": 8, "cache_creation_input_tokens": 2},
        },
        Usage(input_tokens=20, output_tokens=9, cache_read_tokens=8, cache_write_tokens=2),
    ),
    "LangChain, of a call that OpenAI served as flex": (
        {
            "input_tokens": 20,
            "output_tokens": 9,
            "total_tokens": 29,
            "input_token_details": {"flex_cache_read": 8, "flex_cache_creation": 5, "flex": 12},
            "output_token_details": {"flex_reasoning": 4, "flex": 5},
        },
        Usage(
            input_tokens=20, output_tokens=9, cache_read_tokens=8, cache_write_tokens=5, reasoning_tokens=4
        ),
    ),
    "LangChain, of Anthropic, which sets the total of writes to 0": (
        {
            "input_tokens": 920,
            "output_tokens": 9,
            "total_tokens": 929,
            "input_token_details": {
                "cache_read": 800,
                "cache_creation": 0,
                "ephemeral_5m_input_tokens": 70,
                "ephemeral_1h_input_tokens": 30,
            },
        },
        Usage(
            input_tokens=920,
            output_tokens=9,
            cache_read_tokens=800,
            cache_write_tokens=100,
            cache_write_1h_tokens=30,
        ),
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
    "Anthropic, with writes for an hour and thoughts": (
        {
            "input_tokens": 20,
            "output_tokens": 9,
            "cache_read_input_tokens": 0,
            "cache_creation_input_tokens": 100,
            "cache_creation": {"ephemeral_5m_input_tokens": 70, "ephemeral_1h_input_tokens": 30},
            "output_tokens_details": {"thinking_tokens": 4},
            "service_tier": "standard",
        },
        Usage(
            input_tokens=120,
            output_tokens=9,
            cache_read_tokens=0,
            cache_write_tokens=100,
            cache_write_1h_tokens=30,
            reasoning_tokens=4,
        ),
    ),
    "Anthropic without a cache": (
        {
            "input_tokens": 20,
            "output_tokens": 9,
            "cache_read_input_tokens": None,
            "cache_creation_input_tokens": 0,
            "cache_creation": None,
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
    "Gemini, by modality": (
        {
            "prompt_token_count": 500,
            "candidates_token_count": 1300,
            "cached_content_token_count": 200,
            "tool_use_prompt_token_count": 40,
            "prompt_tokens_details": [
                {"modality": "TEXT", "token_count": 100},
                {"modality": "AUDIO", "token_count": 300},
                {"modality": "IMAGE", "token_count": 100},
            ],
            "tool_use_prompt_tokens_details": [{"modality": "IMAGE", "token_count": 40}],
            "cache_tokens_details": [
                {"modality": "AUDIO", "token_count": 150},
                {"modality": "TEXT", "token_count": 50},
            ],
            "candidates_tokens_details": [{"modality": "IMAGE", "token_count": 1290}],
        },
        Usage(
            input_tokens=540,
            output_tokens=1300,
            cache_read_tokens=200,
            cache_read_audio_tokens=150,
            audio_input_tokens=300,
            image_input_tokens=140,
            image_output_tokens=1290,
        ),
    ),
    "Gemini over REST, by modality": (
        {
            "promptTokenCount": 500,
            "candidatesTokenCount": 9,
            "cachedContentTokenCount": 200,
            "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 300}],
            "cacheTokensDetails": [{"modality": "AUDIO", "tokenCount": 150}],
            "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 5}],
        },
        Usage(
            input_tokens=500,
            output_tokens=9,
            cache_read_tokens=200,
            cache_read_audio_tokens=150,
            audio_input_tokens=300,
            audio_output_tokens=5,
        ),
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
    "Bedrock Converse, with writes for an hour": (
        {
            "inputTokens": 20,
            "outputTokens": 9,
            "cacheWriteInputTokens": 100,
            "cacheDetails": [{"ttl": "1h", "inputTokens": 30}, {"ttl": "5m", "inputTokens": 70}],
        },
        Usage(input_tokens=120, output_tokens=9, cache_write_tokens=100, cache_write_1h_tokens=30),
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
    if isinstance(value, list):
        return [as_object(inner) for inner in value]
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


def names_in(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(names_in, value))
    return set(value).union(*map(names_in, value.values())) if isinstance(value, dict) else set()


NAMES = st.sampled_from(
    sorted(
        names_in([reported for reported, _ in SHAPES.values()]) | {"usage", "meta", "service_tier", "cost"}
    )
)
WORDS = st.sampled_from(["TEXT", "AUDIO", "IMAGE", "1h", "5m", "ON_DEMAND", "flex", "fast"])
LEAVES = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=3), WORDS)
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


# --- tier and cost, which a bill depends on beside tokens -----------------------------------------------------------


class TrafficType(str, enum.Enum):
    """As in Google's SDK: its text is not what `str` makes of it."""

    ON_DEMAND_FLEX = "ON_DEMAND_FLEX"


TIERS = {
    "OpenAI": ({"service_tier": "priority", "usage": {"prompt_tokens": 1}}, "priority"),
    "Anthropic": ({"usage": {"input_tokens": 1, "service_tier": "batch"}}, "batch"),
    "Anthropic's fast mode": ({"usage": {"service_tier": "standard", "speed": "fast"}}, "fast"),
    "Anthropic, not in it": ({"usage": {"service_tier": "standard", "speed": "standard"}}, "standard"),
    "Gemini": ({"usageMetadata": {"serviceTier": "flex"}}, "flex"),
    "Gemini on Vertex": ({"usage_metadata": {"traffic_type": "ON_DEMAND_PRIORITY"}}, "priority"),
    "Gemini on Vertex over REST": ({"usageMetadata": {"trafficType": "ON_DEMAND"}}, "standard"),
    "Google's SDK": ({"usage_metadata": {"traffic_type": TrafficType.ON_DEMAND_FLEX}}, "flex"),
    "provisioned": (
        {"usage_metadata": {"traffic_type": "PROVISIONED_THROUGHPUT"}},
        "provisioned_throughput",
    ),
    "Gemini that does not say": ({"usage_metadata": {"traffic_type": "TRAFFIC_TYPE_UNSPECIFIED"}}, None),
    "Bedrock": ({"usage": {"inputTokens": 1}, "serviceTier": {"type": "flex"}}, "flex"),
    "Groq": ({"service_tier": "on_demand"}, "standard"),
    "LangChain, whose message lost it": (
        {
            "usage_metadata": {
                "input_tokens": 9,
                "input_token_details": {"priority_cache_read": 4, "priority": 5},
            }
        },
        "priority",
    ),
}


@pytest.mark.parametrize("form", [dict, as_object])
@pytest.mark.parametrize("provider", TIERS)
def test_the_tier_that_served_is_read_in_each_providers_words(provider, form):
    response, tier = TIERS[provider]
    assert service_tier(form(response)) == tier


def test_the_first_response_that_names_a_tier_wins():
    assert (
        service_tier(None, {"service_tier": None}, {"service_tier": "flex"}, {"service_tier": "auto"})
        == "flex"
    )


NO_TIERS = [None, "", 7, True, [], {}, {"type": None}, {"type": ["flex"]}]


@pytest.mark.parametrize("said", NO_TIERS)
def test_what_is_no_tier_is_unknown(said):
    assert service_tier({"service_tier": said}) is None
    assert request_params({"service_tier": said}) == {}


@pytest.mark.parametrize(
    "asked",
    [
        {"service_tier": "flex"},
        {"serviceTier": {"type": "flex"}},
        {"model_kwargs": {"service_tier": "flex"}},
        {"extra_body": {"service_tier": "FLEX"}},
        {"extra_body": {"service_tier": "auto"}, "service_tier": "flex"},
    ],
)
def test_the_tier_that_is_asked_for_is_a_param(asked):
    assert request_params(asked) == {"service_tier": "flex"}


COSTS = {
    "OpenRouter": ({"usage": {"prompt_tokens": 194, "cost": 0.0033789, "is_byok": False}}, 0.0033789),
    "OpenRouter, which repeats what it paid": (
        {"usage": {"cost": 0.5, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.5}}},
        0.5,
    ),
    "OpenRouter, with one's own key": (
        {"usage": {"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.25}}},
        0.25,
    ),
    "OpenRouter, with one's own key and a fee": (
        {"usage": {"cost": 0.25, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.125}}},
        0.375,
    ),
    "LangChain, which does not say whose key": (
        {"cost": 0.25, "cost_details": {"upstream_inference_cost": 5}},
        5.25,
    ),
    "LangChain, whose key it does not matter": (
        {"cost": 0.5, "cost_details": {"upstream_inference_cost": 0.5}},
        0.5,
    ),
    "a cost without details": ({"usage": {"cost": 0.5, "cost_details": None}}, 0.5),
    "xAI": ({"usage": {"prompt_tokens": 32, "cost_in_usd_ticks": 37_756_000}}, 0.0037756),
    "Perplexity": ({"usage": {"cost": {"request_cost": 0.006, "total_cost": 0.0075}}}, 0.0075),
    "LangChain's usage": ({"usage_metadata": {"input_tokens": 1, "total_cost": 0.5}}, 0.5),
    "nothing": ({"usage": {"cost": 0}}, 0.0),
}


@pytest.mark.parametrize("form", [dict, as_object])
@pytest.mark.parametrize("provider", COSTS)
def test_what_a_call_cost_is_read_where_a_provider_says_it(provider, form):
    response, cost = COSTS[provider]
    assert cost_usd(form(response)) == pytest.approx(cost)


@pytest.mark.parametrize(
    "said", [None, True, -0.1, float("nan"), float("inf"), 10**400, "0.1", [0.1], {}, {"total_cost": "0.1"}]
)
def test_what_is_no_cost_is_unknown_and_never_0(said):
    assert cost_usd({"usage": {"cost": said}}) is None
    assert cost_usd({"cost": said}, None, {"cost": 0.5}) == 0.5
    assert cost_usd({"cost_in_usd_ticks": said}) is None


def test_no_report_says_neither_tier_nor_cost():
    for response in (None, "", 7, [], {}, {"usage": None}, {"usage": {}}, {"usage": "many"}, object()):
        assert service_tier(response) is None
        assert cost_usd(response) is None


# --- the last event of a stream -------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [dict, as_object])
def test_the_response_that_an_event_carries_is_found(form):
    usage = {"input_tokens": 20, "output_tokens": 9}
    completed = form(
        {"type": "response.completed", "response": {"id": "r-1", "usage": usage, "service_tier": "flex"}}
    )
    fields = response_fields(completed)
    assert (fields["id"], service_tier(fields), usage_in(fields)) == (
        "r-1",
        "flex",
        usage_in({"usage": usage}),
    )
    bedrock = form(
        {"metadata": {"usage": {"inputTokens": 20, "outputTokens": 9}, "serviceTier": {"type": "flex"}}}
    )
    assert (service_tier(response_fields(bedrock)), usage_in(response_fields(bedrock))) == (
        "flex",
        usage_in({"usage": usage}),
    )


@pytest.mark.parametrize(
    "response",
    [
        {"id": "r-1", "usage": {"prompt_tokens": 1}, "metadata": {"usage": "the application's own"}},
        {"response": "Ollama's text", "eval_count": 9},
        {"metadata": None},
        {"metadata": {"usages": 3}},
    ],
)
def test_a_response_is_itself(response):
    assert response_fields(response) is response


# --- never raises ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ODD)
def test_objects_that_raise_or_never_end_say_nothing(odd):
    made = ODD[odd]()
    for source in (made, {"usage": made}, {"service_tier": made, "cost": made, "input_token_details": made}):
        assert service_tier(source) is None
        assert cost_usd(source) is None
    response_fields(made)
    response_fields({"response": made, "metadata": made})
    assert request_params({"service_tier": made, "extra_body": made}) == {}
    assert usage_in(
        {
            "usage": {
                "prompt_token_count": 3,
                "prompt_tokens_details": [made, {"modality": made, "token_count": made}],
                "cache_tokens_details": made,
            }
        }
    ) == usage_in({"usage": {"prompt_token_count": 3}})


@given(REPORTS)
def test_tier_and_cost_are_total(response: Any) -> None:
    tier, cost = service_tier(response), cost_usd(response)
    assert tier is None or (type(tier) is str and tier)
    assert cost is None or (type(cost) is float and 0 <= cost < float("inf"))


@given(
    st.lists(st.sampled_from(["TEXT", "AUDIO", "IMAGE", "VIDEO", "DOCUMENT", None]), max_size=5),
    st.integers(0, 10**6),
)
def test_parts_add_up_over_entries(modalities: list[Any], tokens: int) -> None:
    entries = [SimpleNamespace(modality=each, token_count=tokens) for each in modalities]
    usage = usage_in({"usage": {"prompt_token_count": 9, "prompt_tokens_details": entries}})
    assert usage is not None
    expected = modalities.count("AUDIO") * tokens if "AUDIO" in modalities else None
    assert usage.audio_input_tokens == expected


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
