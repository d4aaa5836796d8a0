"""For random traces and rules the kept ones are those that the rules' definition keeps, whole, with the right weights.

The oracle below reads the rules' data, not what aiobs made of it, and looks at all spans of a trace at once.
"""

from __future__ import annotations

import fnmatch
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.trace import INVALID_SPAN

from aiobs_core import Kind, Operation, Outcome, RunStatus, Usage, semconv
from aiobs_core._context import RequestAttributes
from aiobs_core._health import Health
from aiobs_core._run import Run
from aiobs_core._span import AgentSpan, LocalTrace
from aiobs_core.metrics.meters import Meters
from aiobs_core.sampling.policy import policy_of
from aiobs_core.sampling.tail import TailSampler
from aiobs_core.sampling.threshold import threshold_of
from aiobs_core.sampling.trace import Limits

WIDE = Limits(traces=10**6, spans=10**6, size_bytes=10**12, wait_ns=10**15, grace_ns=0)
MODELS = ("gpt-4o", "gpt-3.5-turbo", "claude-sonnet-4")


# --- random data ----------------------------------------------------------------------------------------------------

SPANS = st.fixed_dictionaries({
    "kind": st.sampled_from(["model", "tool", "chain", "agent"]),
    "name": st.sampled_from(["search", "planner", "sql"]),
    "status": st.sampled_from(["success"] * 6 + ["error", "timed_out", "cancelled"]),
    "error_type": st.sampled_from(["ValueError", "openai.RateLimitError"]),
    "model": st.sampled_from(MODELS),
    "tokens": st.sampled_from([None, 0, 400, 501, 5_000]),
    "cost_usd": st.sampled_from([None, 0.0, 0.01, 0.2]),
    "start_s": st.integers(0, 5),
    "took_s": st.sampled_from([0.0, 0.5, 3.0, 20.0]),
    "tags": st.sampled_from([(), ("gold",), ("test", "beta")]),
    "score": st.sampled_from([None, 0.1, 0.9]),
})  # fmt: skip
TRACES = st.lists(SPANS, min_size=1, max_size=8)

CHECKS = st.sampled_from([
    {"error": True}, {"error": "*RateLimit*"}, {"tool_failed": True}, {"tool_failed": "sql"},
    {"call": {"model": "gpt-3.5*", "tokens_over": 500}}, {"call": {"cost_over_usd": 0.1, "latency_over_s": 1}},
    {"tokens_over": 5_000}, {"cost_over_usd": 0.3}, {"latency_over_s": 4}, {"model": ["claude*", "gpt-4o"]},
    {"agent": "planner"}, {"tag": "gold"}, {"score_below": 0.5}, {"operation": "search"}, {"forced": True},
])  # fmt: skip
CONDITIONS = st.recursive(
    CHECKS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"any": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"all": parts}),
        inner.map(lambda part: {"not": part}),
    ),
    max_leaves=6,
)
RULES = st.lists(
    st.tuples(st.none() | CONDITIONS, st.sampled_from([0.0, 0.01, 0.3, 1.0])), min_size=1, max_size=5
).map(
    lambda rules: [
        {"name": f"r{number}", "keep": ratio, **({} if when is None else {"when": when})}
        for number, (when, ratio) in enumerate(rules)
    ]
)


# --- the oracle -----------------------------------------------------------------------------------------------------


def oracle(when: Mapping[str, Any] | None, spans: Sequence[Mapping[str, Any]]) -> bool:
    if when is None:
        return True
    return all(_check(name, wanted, spans) for name, wanted in when.items())


def _check(name: str, wanted: Any, spans: Sequence[Mapping[str, Any]]) -> bool:
    if name == "any":
        return any(oracle(part, spans) for part in wanted)
    if name == "all":
        return all(oracle(part, spans) for part in wanted)
    if name == "not":
        return not oracle(wanted, spans)
    if name == "forced":
        return False
    if name == "operation":
        return _fits(wanted, spans[-1]["name"])
    if name == "tokens_over":
        return sum(span["tokens"] or 0 for span in spans if span["kind"] == "model") > wanted
    if name == "cost_over_usd":
        return math.fsum(span["cost_usd"] or 0 for span in spans) > wanted
    if name == "latency_over_s":
        start = min(span["start_s"] for span in spans)
        return max(span["start_s"] + span["took_s"] for span in spans) - start > wanted
    return any(_of_one(name, wanted, span) for span in spans)


def _of_one(name: str, wanted: Any, span: Mapping[str, Any]) -> bool:
    failed = span["status"] in ("error", "timed_out")
    if name == "error":
        return failed and (
            wanted is True or (span["status"] == "error" and _fits(wanted, span["error_type"]))
        )
    if name == "tool_failed":
        return failed and span["kind"] == "tool" and (wanted is True or _fits(wanted, span["name"]))
    if name == "model":
        return span["kind"] == "model" and _fits(wanted, span["model"])
    if name == "agent":
        return span["kind"] == "agent" and _fits(wanted, span["name"])
    if name == "tag":
        return any(_fits(wanted, tag) for tag in span["tags"])
    if name == "score_below":
        return span["score"] is not None and span["score"] < wanted
    assert name == "call"
    asked = {
        "model": lambda given: _fits(given, span["model"]),
        "tokens_over": lambda given: (span["tokens"] or 0) > given,
        "cost_over_usd": lambda given: (span["cost_usd"] or 0) > given,
        "latency_over_s": lambda given: span["took_s"] > given,
    }
    return span["kind"] == "model" and all(asked[key](given) for key, given in wanted.items())


def _fits(patterns: Any, text: str) -> bool:
    return any(
        fnmatch.fnmatchcase(text, each) for each in ([patterns] if isinstance(patterns, str) else patterns)
    )


def expected(
    rules: Sequence[Mapping[str, Any]], spans: Sequence[Mapping[str, Any]], trace_id: int
) -> tuple[bool, float]:
    """Whether it is kept, and the probability of that."""
    holding = [rule["keep"] for rule in rules if oracle(rule.get("when"), spans)]
    probability = max(holding, default=0.0)
    return (trace_id & ((1 << 56) - 1)) >= threshold_of(probability), probability


# --- runs -----------------------------------------------------------------------------------------------------------


def runs_of(spans: Sequence[Mapping[str, Any]], trace_id: int) -> Iterator[Run]:
    """The last one is the root; the others are its children and end before it."""
    trace = LocalTrace(trace_id)
    root: AgentSpan | None = None
    made = []
    for number, said in enumerate(reversed(spans)):
        span = AgentSpan(number, None, trace, root, None, INVALID_SPAN, "aiobs.test", number + 1)
        root = root or span
        span.start_ns = 10**18 + said["start_s"] * 10**9
        span.end_ns = span.start_ns + int(said["took_s"] * 1e9)
        span.request = RequestAttributes(tags=said["tags"])
        if said["score"] is not None:
            scored = {semconv.GEN_AI_EVALUATION_NAME: "x", semconv.GEN_AI_EVALUATION_SCORE: said["score"]}
            span.events = [(semconv.EVENT_EVALUATION, span.end_ns, scored)]
        made.append(_run_of(span, said))
    return reversed(made)  # type: ignore[return-value]


def _run_of(span: AgentSpan, said: Mapping[str, Any]) -> Run:
    model = said["model"] if said["kind"] == "model" else None
    usage = (
        Usage(input_tokens=said["tokens"]) if said["kind"] == "model" and said["tokens"] is not None else None
    )
    run = Run(span, Operation(kind=Kind(said["kind"]), name=said["name"], model=model), Outcome(usage=usage))
    run.status = RunStatus(said["status"])
    run.error_type = said["error_type"] if said["status"] == "error" else None
    run.cost_usd = said["cost_usd"]
    return run


def ids_of(traces: Sequence[object], order: random.Random) -> list[int]:
    """Random ids, all of them different whatever hypothesis makes of its random numbers."""
    own = random.Random(order.getrandbits(32))
    return [own.getrandbits(128) for _ in traces]


def sampler(rules: Sequence[Mapping[str, Any]], limits: Limits = WIDE) -> TailSampler:
    meters = Meters(Health(), max_values=100)
    return TailSampler(policy_of({"rules": rules}), limits, sees_foreign=True, is_second=False, meters=meters)


def interleaved(traces: Sequence[Sequence[Run]], order: random.Random) -> list[Run]:
    queues = [list(runs) for runs in traces]
    out = []
    while queues:
        queue = order.choice(queues)
        out.append(queue.pop(0))
        if not queue:
            queues.remove(queue)
    return out


@settings(max_examples=300)
@given(RULES, st.lists(TRACES, min_size=1, max_size=12), st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_kept_set_is_what_the_rules_define(
    rules: list[dict[str, Any]], traces: list[list[dict[str, Any]]], order: random.Random, batch: int
) -> None:
    ids = ids_of(traces, order)
    tail, kept = sampler(rules), defaultdict(list)
    runs = interleaved(
        [list(runs_of(spans, trace_id)) for spans, trace_id in zip(traces, ids, strict=True)], order
    )
    for at in range(0, len(runs), batch):
        for run in tail.sample(runs[at : at + batch], at):
            kept[run.span.trace.trace_id].append(run)
    assert (tail.trace_count, tail.span_count, tail.size_bytes) == (0, 0, 0)
    for spans, trace_id in zip(traces, ids, strict=True):
        is_kept, probability = expected(rules, spans, trace_id)
        assert len(kept[trace_id]) == (len(spans) if is_kept else 0)
        for run in kept[trace_id]:
            count = run.extra[semconv.SAMPLING_ADJUSTED_COUNT]
            assert isinstance(count, float)
            assert math.isclose(count, 1 / probability, rel_tol=1e-4)
            rule = next(rule for rule in rules if rule["name"] == run.extra[semconv.SAMPLING_REASON])
            assert rule["keep"] == probability
            assert oracle(rule.get("when"), spans)


@settings(max_examples=60)
@given(RULES, st.lists(TRACES, min_size=5, max_size=30), st.randoms(use_true_random=False))
def test_an_error_is_never_lost_whatever_the_bounds(
    rules: list[dict[str, Any]], traces: list[list[dict[str, Any]]], order: random.Random
) -> None:
    rules = [{"name": "errors", "when": {"error": True}}, *rules]
    tight = Limits(traces=3, spans=8, size_bytes=10**12, wait_ns=10, grace_ns=0)
    tail, kept = sampler(rules, tight), []
    ids = ids_of(traces, order)
    runs = interleaved(
        [list(runs_of(spans, trace_id)) for spans, trace_id in zip(traces, ids, strict=True)], order
    )
    for at, run in enumerate(runs):
        kept += [*tail.sample([run], at), *tail.due(at)]
        assert tail.span_count <= 8
        assert tail.trace_count <= 3
    kept += tail.release(len(runs), everything=True)
    assert len(set(map(id, kept))) == len(kept)
    failed = [run for run in runs if run.status in (RunStatus.ERROR, RunStatus.TIMED_OUT)]
    assert {id(run) for run in failed} <= {id(run) for run in kept}


def many(count: int, make: Callable[[random.Random], list[dict[str, Any]]]) -> tuple[list[Any], list[Any]]:
    """All traces, and the kept ones with their weights, under errors · costly · 5 %."""
    order = random.Random(11)
    tail = sampler([
        {"name": "errors", "when": {"error": True}},
        {"name": "costly", "when": {"cost_over_usd": 0.1}},
        {"name": "rest", "keep": 0.05},
    ])  # fmt: skip
    every, kept = [], []
    for at in range(count):
        spans = make(order)
        every.append(spans)
        out = tail.sample(list(runs_of(spans, order.getrandbits(128) or 1)), at)
        if out:
            kept.append((spans, out[0].extra[semconv.SAMPLING_ADJUSTED_COUNT]))  # type: ignore[union-attr]
    return every, kept


def plain(order: random.Random) -> list[dict[str, Any]]:
    kind = order.choices(["plain", "error", "costly"], [0.95, 0.02, 0.03])[0]
    said = {
        "kind": "model", "name": "search", "status": "error" if kind == "error" else "success",
        "error_type": "ValueError", "model": order.choice(MODELS), "tokens": order.choice([100, 1_000]),
        "cost_usd": 0.2 if kind == "costly" else 0.001, "start_s": 0, "took_s": 0.5, "tags": (), "score": None,
    }  # fmt: skip
    return [said]


def test_the_kept_ratio_and_the_weights_are_those_of_the_traffic() -> None:
    every, kept = many(40_000, plain)
    ordinary = [spans for spans in every if spans[0]["status"] == "success" and spans[0]["cost_usd"] < 0.1]
    others = len(every) - len(ordinary)
    by_ratio = [spans for spans, weight in kept if weight > 1]
    spread = math.sqrt(len(ordinary) * 0.05 * 0.95)
    assert abs(len(by_ratio) - 0.05 * len(ordinary)) < 4 * spread
    assert sum(weight == 1 for _, weight in kept) == others
    for total, of_one in (
        (len(every), lambda spans: 1),
        (sum(spans[0]["tokens"] for spans in every), lambda spans: spans[0]["tokens"]),
        (sum(spans[0]["cost_usd"] for spans in every), lambda spans: spans[0]["cost_usd"]),
        (sum(spans[0]["model"] == "gpt-4o" for spans in every), lambda spans: spans[0]["model"] == "gpt-4o"),
    ):
        estimate = sum(weight * of_one(spans) for spans, weight in kept)
        assert abs(estimate / total - 1) < 0.08
