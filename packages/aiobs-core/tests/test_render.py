"""What leaves: dialects, generations, names, and values that every exporter can encode."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, Usage, semconv
from aiobs_core._health import Health
from aiobs_core.privacy.content import Tally
from aiobs_core.privacy.stage import Privacy
from aiobs_core.signals.ai_agent import host_and_port
from aiobs_core.signals.spans import Safe

USAGE = Usage(input_tokens=10, output_tokens=5, cache_read_tokens=4, cache_write_tokens=2, reasoning_tokens=3)


def rendered(operation: Operation, outcome: Outcome | None = None, **settings: object) -> ReadableSpan:
    memory = InMemorySpanExporter()
    recorder = Recorder(Settings.load({}, {"flush_interval_s": 0.01, **settings}), exporters=[memory])
    recorder.start("a", operation, scope="aiobs.testing")
    recorder.chunk("a")
    recorder.end("a", outcome)
    assert recorder.shutdown(5)
    (span,) = memory.get_finished_spans()
    return span


def model(**fields: Any) -> Operation:
    return Operation(kind=Kind.MODEL, name="gpt", model="gpt", provider="openai", **fields)


@pytest.mark.parametrize(
    ("generation", "present", "absent"),
    [
        (
            "1.41",
            [semconv.GEN_AI_USAGE_CACHE_CREATION],
            [semconv.GEN_AI_USAGE_CACHE_WRITE, semconv.GEN_AI_REQUEST_STREAM],
        ),
        (
            "latest",
            [semconv.GEN_AI_USAGE_CACHE_WRITE, semconv.GEN_AI_USAGE_REASONING, semconv.GEN_AI_REQUEST_STREAM],
            [semconv.GEN_AI_USAGE_CACHE_CREATION],
        ),
        ("both", [semconv.GEN_AI_USAGE_CACHE_WRITE, semconv.GEN_AI_USAGE_CACHE_CREATION], []),
    ],
)
def test_the_generation_of_gen_ai_names_is_a_setting(
    generation: str, present: list[str], absent: list[str]
) -> None:
    attributes = rendered(model(), Outcome(usage=USAGE), semconv=generation).attributes or {}
    assert set(present) <= set(attributes)
    assert not set(absent) & set(attributes)
    assert attributes[semconv.GEN_AI_USAGE_INPUT_TOKENS] == 10


def test_openinference_carries_kind_model_and_tokens() -> None:
    attributes = rendered(model(), Outcome(usage=USAGE), dialects="openinference").attributes or {}
    assert attributes[semconv.OI_SPAN_KIND] == "LLM"
    assert attributes[semconv.OI_LLM_MODEL_NAME] == "gpt"
    assert attributes[semconv.OI_TOKENS_TOTAL] == 15
    assert not any(name.startswith("gen_ai.") for name in attributes)


@pytest.mark.parametrize("kind", list(Kind))
def test_every_kind_renders_in_every_dialect_with_registered_names_and_types(kind: Kind) -> None:
    operation = Operation(
        kind=kind,
        name="n",
        model="m",
        provider="p",
        agent="a",
        conversation_id="c",
        endpoint="https://u:p@h:8/x?k=s",
    )
    span = rendered(operation, Outcome(usage=USAGE), dialects="gen_ai,openinference", semconv="both")
    types = {"string": str, "int": int, "double": float, "boolean": bool, "string[]": tuple}
    for name, value in (span.attributes or {}).items():
        assert type(value) is types[semconv.ATTRIBUTES[name].type], name
    assert span.instrumentation_scope.name == "aiobs.testing"
    assert (span.attributes or {})[semconv.FRAMEWORK] == "testing"


def test_only_allow_listed_parameters_of_the_right_type_leave() -> None:
    params = {"temperature": "SECRET", "api_key": "SECRET", "max_tokens": {"k": "SECRET"}, "top_p": 0.5, "seed": True,
              "reasoning_effort": "SECRET", "stop": ["SECRET"]}  # fmt: skip
    span = rendered(model(params=params, metadata={"k": "SECRET", "plan": "pro"}), metadata_keys="plan")
    assert "SECRET" not in span.to_json()
    assert (span.attributes or {})[semconv.GEN_AI_REQUEST_TOP_P] == 0.5
    assert (span.attributes or {})["ai.agent.metadata.plan"] == "pro"
    assert semconv.GEN_AI_REQUEST_SEED not in (span.attributes or {})


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("https://user:pass@api.example.com:8443/v1?key=s#f", ("api.example.com", 8443)),
        ("http://localhost/v1", ("localhost", None)),
        ("api.example.com:443", ("api.example.com", 443)),
        ("http://[::1]:8080/v1", ("::1", 8080)),
        ("http://host:notaport/", None),
        ("", None),
        ("/only/a/path", None),
    ],
)
def test_endpoints_are_reduced_to_host_and_port(endpoint: str, expected: object) -> None:
    assert host_and_port(endpoint) == expected


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.just("\ud800")
    | st.just("x" * 9_999),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


PRIVACY = Privacy(Settings(), Health())


def clean(attributes: dict[str, Any]) -> Any:
    return Safe(PRIVACY, PRIVACY.rules(), Tally()).attributes(attributes)


@given(st.dictionaries(st.text(), VALUES))
def test_clean_is_total_idempotent_and_encodable(attributes: dict[str, Any]) -> None:
    once = clean(attributes)
    assert clean(once) == once
    json.dumps(once, allow_nan=False).encode()
    assert all(len(value) <= 4_096 for value in once.values() if isinstance(value, str))
    span = rendered(Operation(kind=Kind.CHAIN, name="n"))
    span._attributes = once
    if all(_encodable(key) for key in once):
        encode_spans([span]).SerializeToString()


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@pytest.fixture(autouse=True)
def _no_warnings_left(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]
