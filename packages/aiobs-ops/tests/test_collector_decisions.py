"""Recorded traces are decided alike: by aiobs' own matcher, and by the generated configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import pytest
from collector_by_hand import OttlError, Processor, Span, parsed, received, unquoted
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from opentelemetry import context, propagate, trace
from traces import (
    ERRORS,
    MODELS,
    SCENES,
    SESSIONS,
    TAGS,
    TOOLS,
    Stage,
    Trace,
    at_random,
    forced_by_baggage,
    recorded,
)

from aiobs_core import semconv
from aiobs_core.sampling.conditions import CHECKS
from aiobs_core.sampling.facts import facts_of_span
from aiobs_core.sampling.matcher import Known, Matcher
from aiobs_core.sampling.policy import PRESETS, SamplingPolicy, policy_of
from aiobs_core.sampling.threshold import randomness_of, threshold_of
from aiobs_ops.collector import CollectorOptions, collector_yaml
from aiobs_ops.collector.globs import re2_of

NEVER = {"name": "never", "keep": 0.0}
OPTIONS = CollectorOptions(endpoint="tempo:4317", user_id_form=lambda user_id: user_id)


@pytest.fixture(scope="module")
def traces() -> list[Trace]:
    """Of each scene one, and forty at random."""
    return recorded({**SCENES, **{f"random {seed}": at_random(seed) for seed in range(40)}})


@pytest.fixture(scope="module")
def arrived(traces: Sequence[Trace]) -> list[list[Span]]:
    return [received(trace.spans) for trace in traces]


def kept_by_aiobs(policy: SamplingPolicy, trace: Trace) -> bool:
    matcher, known = Matcher(policy), Known()
    for span in trace.spans:
        matcher.note(known, facts_of_span(span))
    known.operation = trace.operation
    return matcher.decide(known, randomness_of(trace.trace_id), 0).is_kept


def disagreements(
    policy: SamplingPolicy, traces: Sequence[Trace], arrived: Sequence[list[Span]]
) -> list[str]:
    processor = Processor(collector_yaml(policy, OPTIONS))
    return [
        trace.name
        for trace, spans in zip(traces, arrived, strict=True)
        if processor.keeps(spans) is not kept_by_aiobs(policy, trace)
    ]


def kept_names(policy: SamplingPolicy, traces: Sequence[Trace], arrived: Sequence[list[Span]]) -> set[str]:
    processor = Processor(collector_yaml(policy, OPTIONS))
    return {trace.name for trace, spans in zip(traces, arrived, strict=True) if processor.keeps(spans)}


# --- presets, and each check by itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_decides_alike(name: str, traces: list[Trace], arrived: list[list[Span]]) -> None:
    assert disagreements(PRESETS[name], traces, arrived) == []


WHAT_IS_KEPT: list[tuple[dict[str, Any], set[str]]] = [
    ({"error": True}, {"failed_model", "failed_tool", "timed_out", "failed_request"}),
    ({"error": ["Time*", "ValueError"]}, {"failed_model", "failed_tool"}),
    ({"error": "HTTP*"}, {"failed_request"}),
    ({"tool_failed": True}, {"failed_tool"}),
    ({"tool_failed": "sql*"}, {"failed_tool"}),
    ({"tool_failed": "search"}, set()),
    ({"call": {"model": "gpt-3.5-turbo*", "tokens_over": 500}}, {"large_call", "large_input_only"}),
    ({"call": {"tokens_over": 899.5}}, {"large_input_only", "large_output_only"}),
    ({"call": {"tokens_over": 800}}, {"large_input_only", "large_output_only"}),
    ({"call": {"tokens_over": 799}}, {"large_input_only", "large_output_only", "two_calls"}),
    ({"call": {"model": "gpt-3.5*", "tokens_over": 501}}, {"large_call"}),
    ({"call": {"model": "house*", "tokens_over": 1_999}}, {"large_output_only"}),
    ({"call": {"model": "house*", "tokens_over": 2_000}}, set()),
    ({"call": {"cost_over_usd": 0.03}}, {"costly", "costly_call_alone"}),
    ({"call": {"latency_over_s": 0.04}}, {"slow_call"}),
    ({"cost_over_usd": 0.05}, {"costly", "costly_call_alone"}),
    ({"latency_over_s": 5}, {"slow_request", "slow_beside"}),
    ({"latency_over_s": 9.5}, {"slow_request"}),
    ({"model": "house model [[]v2]"}, {"large_output_only"}),
    ({"model": "embed-?"}, {"large_input_only"}),
    ({"agent": "buy*"}, {"failed_tool"}),
    ({"operation": ["GET *", "buyer"]}, {"slow_beside", "request_with_odd_attributes", "failed_tool"}),
    ({"operation": "planner*", "tag": "gold"}, {"tagged"}),
    ({"session": "s-2"}, {"of_somebody"}),
    ({"session": "caf?"}, {"oddly_tagged"}),
    ({"tag": ["gold", "other"]}, {"tagged"}),
    ({"tag": "a $1 tag"}, {"oddly_tagged"}),
    ({"tag": 'quoted "tag"'}, {"oddly_tagged"}),
    ({"attribute": {"shop.tier": "gold"}}, {"with_attributes"}),
    ({"attribute": {"shop.tier": "gold*"}}, {"with_attributes", "with_other_attributes"}),
    ({"attribute": {"shop.retries": 2}}, {"with_attributes", "with_other_attributes"}),
    ({"attribute": {"shop.retries": 2.0}}, {"with_attributes", "with_other_attributes"}),
    ({"attribute": {"shop.retries": 0}}, set()),
    ({"attribute": {"shop.new": True, "shop.share": 2.0}}, {"with_attributes"}),
    ({"attribute": {"shop.new": 1}}, {"request_with_odd_attributes"}),
    ({"attribute": {"shop.new": "*"}}, {"with_other_attributes"}),
    ({"attribute": {"shop.retries": False}}, {"request_with_odd_attributes"}),
    ({"score_below": 0.5}, {"blamed"}),
    ({"score_below": {"help*": 0.96, "style": 0.1}}, {"blamed", "praised"}),
    ({"score_over": {"style": 0.4}}, {"praised"}),
    ({"forced": True}, set()),
]  # fmt: skip
ALWAYS = {"forced", "forced_in_a_request"}


@pytest.mark.parametrize(("when", "names"), WHAT_IS_KEPT)
def test_a_check_finds_what_it_is_for_and_nothing_else(
    when: dict[str, Any], names: set[str], traces: list[Trace], arrived: list[list[Span]]
) -> None:
    policy = policy_of({"rules": [{"when": when}, NEVER]})
    assert {name for name in kept_names(policy, traces, arrived) if name in SCENES} == names | ALWAYS
    assert disagreements(policy, traces, arrived) == []


def test_every_check_is_translated_or_refused_by_name() -> None:
    tried = {name for when, _ in WHAT_IS_KEPT for name in when} | {"user", "tenant"}
    assert set(CHECKS) - tried == {"tokens_over", "latency_over_quantile"}


NUMBERS = [
    sign * number
    for sign in (1, -1)
    for number in (0, 1, 2.0, 0.1, 1e-7, 2**53, 2**53 + 1, 2.0**53, 2**63 - 1, 2**63 - 1024, 2.0**63, 2.0**62, 1e300)
]  # fmt: skip


@pytest.mark.parametrize("wanted", [*NUMBERS, -(2**63), True, False])
def test_numbers_are_equal_where_they_are_in_the_process(wanted: bool | float) -> None:
    """Whole numbers, doubles, truth values: equal by value, the first two to the last bit."""
    policy = policy_of({"rules": [{"when": {"attribute": {"n": wanted}}}, NEVER]})
    processor, stage = Processor(collector_yaml(policy, OPTIONS)), Stage()
    others = (-(2**63), True, False, "1", "true", [1, 2])  # others than finite numbers do not leave a process
    try:
        for found in (*NUMBERS, *others):
            stage.exporter.clear()
            with stage.agent():
                trace.get_current_span().set_attribute("n", found)
            sent = Trace("one", "planner", tuple(stage.exported()))
            assert "n" in (sent.spans[0].attributes or {}), found
            assert processor.keeps(received(sent.spans)) is kept_by_aiobs(policy, sent), found
    finally:
        stage.close()


# --- in the process, and downstream ---------------------------------------------------------------------------------

BY_ITS_OWN_DECISION = [
    # All but what two plays of a scene may differ in under load.
    *(when for when, _ in WHAT_IS_KEPT if "latency_over_s" not in when.get("call", {})),
    {"call": {"model": ["gpt-3.5-turbo*"], "tokens_over": 500}},
    {"agent": "buyer", "error": True},
    {"any": [{"tag": "gold"}, {"all": [{"operation": "POST *"}, {"not": {"error": True}}]}]},
    {"user": "u-17"},
]


@pytest.mark.parametrize("when", BY_ITS_OWN_DECISION)
def test_a_process_keeps_what_the_collector_keeps(
    when: dict[str, Any], traces: list[Trace], arrived: list[list[Span]]
) -> None:
    """The same scenes, once with the policy in the process, once with all of it sent on and decided there."""
    from aiobs_core.privacy.hashing import Hasher, keys_in

    key = "a key of both sides, long enough"
    hasher = Hasher(keys_in(key))
    policy = policy_of({"rules": [{"when": when}, NEVER]})
    kept: set[str] = set()
    stage = Stage(policy, hash_key=key)
    try:
        for name, scene in SCENES.items():
            stage.exporter.clear()
            stage.play(scene)
            if stage.exported():
                kept.add(name)
    finally:
        stage.close()
    sent = recorded(SCENES, hash_key=key)
    options = CollectorOptions(
        endpoint="tempo:4317", user_id_form=lambda user_id: hasher.hash("user_id", user_id)
    )
    processor = Processor(collector_yaml(policy, options))
    assert {trace.name for trace in sent if processor.keeps(received(trace.spans))} == kept


def test_a_trace_across_processes_is_decided_as_one() -> None:
    """The one that failed is another process than the one that answered the request."""
    front, back = Stage(), Stage()
    headers: dict[str, str] = {}
    try:
        with front.agent("planner"):
            propagate.inject(headers)
        token = context.attach(propagate.extract(headers, context.Context()))
        back.tool("sql_query", ValueError("no such table"))
        context.detach(token)
        sent = [*front.exported(), *back.exported()]
    finally:
        front.close()
        back.close()
    processor = Processor(
        collector_yaml(policy_of({"rules": [{"when": {"agent": "planner", "tool_failed": True}}]}), OPTIONS)
    )
    assert [len(front.exported()), len(back.exported())] == [1, 1]
    assert processor.keeps(received(sent))
    assert not any(processor.keeps(received([span])) for span in sent)


# --- any policy -----------------------------------------------------------------------------------------------------

_patterns = st.lists(
    st.sampled_from([*MODELS, *TOOLS, "gpt-*", "gpt-3.5*", "*[0-9]", "[!gs]*", "se??ch", "*"]),
    min_size=1,
    max_size=2,
)
_tokens = st.sampled_from([0, 100, 499, 500, 501, 649.5, 1_000])
_usd = st.sampled_from([0, 0.0, 0.02, 0.05, 0.1, 1e-7])
_checks = st.one_of(
    st.builds(lambda: {"error": True}),
    st.builds(lambda names: {"error": names}, st.lists(st.sampled_from([e.__name__ for e in ERRORS]), min_size=1)),
    st.builds(lambda names: {"tool_failed": names}, _patterns),
    st.builds(lambda names: {"model": names}, _patterns),
    st.builds(
        lambda call: {"call": call},
        st.fixed_dictionaries(
            {}, optional={"model": _patterns, "tokens_over": _tokens, "cost_over_usd": _usd, "latency_over_s": st.just(0.04)}
        ).filter(bool),
    ),
    st.builds(lambda usd: {"cost_over_usd": usd}, _usd),
    st.builds(lambda most_s: {"latency_over_s": most_s}, st.sampled_from([2, 5, 8.999])),
    st.builds(lambda name: {"agent": name}, st.sampled_from(["planner", "b*", "[a-m]*"])),
    st.builds(lambda name: {"operation": name}, st.sampled_from(["planner", "POST *", "GET /late", "*"])),
    st.builds(lambda name: {"session": name}, st.sampled_from([*SESSIONS, "s-?", "*"])),
    st.builds(lambda tags: {"tag": tags}, st.lists(st.sampled_from(TAGS), min_size=1, max_size=2)),
    st.builds(
        lambda tier: {"attribute": tier},
        st.sampled_from(
            [{"shop.tier": "gold"}, {"shop.tier": ["s*", "gold"]}, {"shop.retries": 2}, {"shop.share": 2.0}, {"shop.new": True}, {"shop.new": 1}]
        ),
    ),
    st.builds(lambda bound: {"score_below": bound}, st.sampled_from([0.5, {"style": 0.3}, {"h*": 1.1, "style": 0}])),
    st.builds(lambda bound: {"score_over": bound}, st.sampled_from([0.5, -1, {"style": 0.7}])),
    st.builds(lambda: {"forced": True}),
)  # fmt: skip
_conditions = st.recursive(
    _checks,
    lambda inner: st.one_of(
        st.builds(lambda parts: {"all": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"any": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=6,
)
_shares = st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.9, 1.0])
_rules = st.lists(
    st.one_of(
        st.builds(lambda when, keep: {"when": when, "keep": keep}, _conditions, _shares),
        st.builds(lambda keep: {"keep": keep}, _shares),
    ),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(rules=_rules)
def test_any_policy_decides_alike(rules: list[Any], traces: list[Trace], arrived: list[list[Span]]) -> None:
    policy = policy_of({"rules": [{"name": f"r{index}", **rule} for index, rule in enumerate(rules)]})
    assert disagreements(policy, traces, arrived) == []


@settings(max_examples=300, deadline=None)
@example(0.25, 0xC0_0000_0000_0000)
@example(0.25, 0xC0_0000_0000_0000 - 1)
@example(0.01, 1 << 127)
@example(1.0, 0)
@given(st.floats(0, 1), st.integers(0, (1 << 128) - 1))
def test_a_share_keeps_the_traces_whose_ids_the_process_keeps(share: float, trace_id: int) -> None:
    policy = policy_of({"rules": [{"keep": share}]})
    span = Span(f"{trace_id:032x}", True, "GET", 0, 1, 2, {})
    assert Processor(collector_yaml(policy, OPTIONS)).keeps([span]) is (
        randomness_of(trace_id) >= threshold_of(share)
    )


@settings(max_examples=500, deadline=None)
@example("a*b?c[!x]", "a\n\nb\nc\n")
@example("[]a]", "]")
@example("[!]a]", "]")
@example("[b-a]", "a")
@example("a", "a\n")
@given(
    st.text(st.sampled_from("ab-*?[]!^.\\$(1é\n")),
    st.text(st.sampled_from("ab-[]!^.\\$(1é\n"), max_size=6),
)
def test_patterns_fit_what_they_fit_in_python(pattern: str, text: str) -> None:
    re2 = pytest.importorskip("re2", reason="google-re2 is in the group `dev` only: make install")
    assert (re2.search(re2_of(pattern), text) is not None) is fnmatchcase(text, pattern)


# --- where the answers differ, as the notes say -----------------------------------------------------------------------


def two_runs_of_one_request(stage: Stage) -> str:
    with stage.tracer.start_as_current_span("POST /chat"):
        for _ in range(2):
            with stage.agent("planner"):
                stage.model("gpt-4o", cost_usd=0.04)
    return "POST /chat"


def test_what_two_runs_of_a_request_cost_together_the_collector_sees_on_its_span() -> None:
    (trace,) = recorded({"two": two_runs_of_one_request})
    policy = policy_of({"rules": [{"when": {"cost_over_usd": 0.05}}]})
    written = collector_yaml(policy, OPTIONS)
    assert "# cost_over_usd: the Collector cannot add over spans" in written
    assert kept_by_aiobs(policy, trace)
    assert Processor(written).keeps(received(trace.spans))
    without = [span for span in trace.spans if span.name != "POST /chat"]  # as where only the caller has one
    assert not Processor(written).keeps(received(tuple(without)))


def test_baggage_that_asks_for_a_trace_is_not_seen_where_the_process_drops_nothing() -> None:
    """The process does not read it then, and the Collector never gets it; `keep()` it does."""
    (trace,) = recorded({"forced": forced_by_baggage})
    written = collector_yaml(policy_of({"rules": [NEVER]}), OPTIONS)
    assert "# forced: " in written
    assert not Processor(written).keeps(received(trace.spans))


def test_the_total_is_that_of_the_process_and_not_of_one_call() -> None:
    (trace,) = recorded({"costly": SCENES["costly"]})
    costs = [(span.attributes or {}).get(semconv.COST_USD) for span in trace.spans]
    assert (
        max(cost for cost in costs if cost is not None)
        < 0.05
        < sum(cost for cost in costs if cost is not None)
    )


# --- the stand-in itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ('span.attributes["n"] > 1', True),
        ('span.attributes["n"] > 1.5', True),
        ('span.attributes["n"] + 1 == 3', True),
        ('span.attributes["n"] == "2"', False),
        ('span.attributes["n"] != "2"', True),
        ('span.attributes["none"] == nil', True),
        ('span.attributes["none"] != "x"', True),
        ('span.attributes["none"] > 0', False),
        ('not span.attributes["s"] == "x" and true', True),
        ('span.attributes["s"] < "b"', True),
        ('false and true or span.name == "GET"', True),
        ('ContainsValue(span.attributes["l"], "b")', True),
        ('IsList(span.attributes["s"]) and ContainsValue(span.attributes["s"], "b")', False),
        ('Substring(span.trace_id.string, 18, 14) >= "fffffffffffff0"', True),
    ],
)
def test_the_stand_in_answers_as_the_language_says(condition: str, expected: bool) -> None:
    span = Span("f" * 32, True, "GET", 0, 1, 2, {"n": 2, "s": "a", "l": ["a", "b"]})
    assert parsed(condition)(span, None) is expected


@pytest.mark.parametrize(
    "condition",
    ['span.attributes["none"] + 1 > 0', 'ContainsValue(span.name, "a")', "span.nome == 1", 'span.name == "\\q"', "(true",
     'span.attributes["n"] > 1e-7', "true true"],
)  # fmt: skip
def test_the_stand_in_refuses_what_the_language_does_not_have(condition: str) -> None:
    with pytest.raises(OttlError):
        parsed(condition)(Span("f" * 32, True, "GET", 0, 1, 2, {"n": 2}), None)


def test_the_stand_in_reads_texts_as_go_does() -> None:
    assert unquoted(r'"a\"b\\c\u00e9\n"') == 'a"b\\cé\n'
    with pytest.raises(OttlError, match="Go knows no"):
        unquoted(r'"\ud83d\ude00"')
