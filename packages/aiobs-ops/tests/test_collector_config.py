"""The configuration around the rules: what the Collector accepts, what is said in it, and the command that writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from collector_by_hand import parsed
from inline_snapshot import snapshot
from test_collector_decisions import NEVER

from aiobs_core import AiobsError
from aiobs_core.cli import main
from aiobs_core.sampling.policy import PRESETS, policy_of
from aiobs_ops.collector import CollectorOptions, NotExpressibleError, collector_config, collector_yaml

# What otelcol-contrib accepts, as far as it is written: from `config.schema.yaml` and `config.go` of the tail sampling
# processor and the load balancing exporter (0.154 to 0.160), and the Collector's own receivers, exporters and memory limiter.
# A key that is not known there keeps the Collector from starting.
_CONDITION = {"error_mode": {"ignore", "silent", "propagate"}, "span": [str], "spanevent": [str]}
_SHARED: dict[str, Any] = {
    "name": str,
    "type": {"always_sample", "latency", "ottl_condition"},
    "latency": {"threshold_ms": int, "upper_threshold_ms": int},
    "ottl_condition": _CONDITION,
}
_NOT = {"not_sub_policy": _SHARED}
_PART = {**_SHARED, "type": {*_SHARED["type"], "not"}, "not": _NOT}  # a `not` in an `and`: since 0.154
_POLICY = {**_PART, "type": {*_PART["type"], "and"}, "and": {"and_sub_policy": [_PART]}}
_TLS = {"insecure": bool}
_QUEUE = {"enabled": bool}
ACCEPTED: dict[str, Any] = {
    "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": str}, "http": {"endpoint": str}}}},
    "processors": {
        "memory_limiter": {
            "check_interval": "duration",
            "limit_percentage": int,
            "spike_limit_percentage": int,
        },
        "tail_sampling": {
            "decision_wait": "duration",
            "num_traces": int,
            "decision_cache": {"sampled_cache_size": int, "non_sampled_cache_size": int},
            "policies": [_POLICY],
        },
    },
    "exporters": {
        "otlp_grpc": {"endpoint": str, "tls": _TLS},
        "load_balancing": {
            "routing_key": {"traceID"},
            "protocol": {"otlp": {"tls": _TLS}},
            "resolver": {
                "static": {"hostnames": [str]},
                "dns": {"hostname": str, "port": str},
                "k8s": {"service": str, "ports": [int]},
            },
            "retry_on_failure": _QUEUE,
            "sending_queue": _QUEUE,
        },
    },
    "service": {"pipelines": {"traces": {"receivers": [str], "processors": [str], "exporters": [str]}}},
}


def not_accepted(value: Any, accepted: Any, path: str = "") -> list[str]:
    if isinstance(accepted, dict):
        if not isinstance(value, dict):
            return [f"{path}: no table"]
        return [
            problem
            for name, each in value.items()
            for problem in (
                not_accepted(each, accepted[name], f"{path}.{name}")
                if name in accepted
                else [f"{path}.{name}: no such key"]
            )
        ]
    if isinstance(accepted, list):
        if not isinstance(value, list) or not value:
            return [f"{path}: no list, or an empty one"]
        return [
            each
            for index, item in enumerate(value)
            for each in not_accepted(item, accepted[0], f"{path}[{index}]")
        ]
    if isinstance(accepted, set):
        return [] if value in accepted else [f"{path}: {value!r}"]
    if accepted == "duration":
        return (
            []
            if isinstance(value, str) and value[:-1].isdigit() and value[-1] == "s"
            else [f"{path}: {value!r}"]
        )
    return [] if type(value) is accepted else [f"{path}: {value!r} is no {accepted.__name__}"]


MANY = policy_of(
    {
        "name": 'all of it\nreceivers: {} # "x"',
        "rules": [
            {"name": "a", "when": {"error": True, "not": {"latency_over_s": 2}}, "keep": 0.3},
            {
                "name": "b",
                "when": {"any": [{"latency_over_s": 4}, {"score_below": 0.5}, {"tag": "${env:HOME} $x"}]},
            },
            {"name": "b 1", "when": {"not": {"any": [{"model": "gpt*"}, {"agent": "x"}]}}},
            {"name": "no", "when": {"attribute": {"a": "no", "b": "yes é 😀\t"}}},
            {"keep": 0.01},
        ],
    }
)
TIERS: list[tuple[str, CollectorOptions]] = [
    ("single", CollectorOptions(endpoint="tempo:4317", insecure=True)),
    ("2", CollectorOptions(endpoint="tempo:4317", decision_wait_s=30, trace_count=1_000)),
    ("1", CollectorOptions(samplers=("sampler-0:4317", "sampler-1:4317"), insecure=True)),
    ("1", CollectorOptions(samplers_dns="sampler.observability.svc")),
    ("1", CollectorOptions(samplers_kubernetes="sampler.observability", samplers_port=14317)),
]


@pytest.mark.parametrize(("tier", "options"), TIERS)
@pytest.mark.parametrize("policy", [*PRESETS.values(), MANY], ids=lambda policy: policy.name.split("\n")[0])
def test_the_collector_knows_every_key_and_type(policy: Any, tier: Any, options: CollectorOptions) -> None:
    config = yaml.safe_load(collector_yaml(policy, options, tier=tier))
    assert not_accepted(config, ACCEPTED) == []
    assert config == collector_config(policy, options, tier=tier)
    pipeline = config["service"]["pipelines"]["traces"]
    assert pipeline["processors"] == list(config["processors"])
    assert pipeline["exporters"] == list(config["exporters"])


def test_names_of_policies_are_their_own_and_tell_the_rule() -> None:
    config = collector_config(MANY, CollectorOptions(endpoint="tempo:4317"))
    names = [policy["name"] for policy in config["processors"]["tail_sampling"]["policies"]]
    assert names == ["forced", "a", "b 1", "b 2", "b 1'", "no", "ratio"]


def test_every_condition_parses() -> None:
    conditions = list(_conditions_in(collector_config(MANY, CollectorOptions(endpoint="tempo:4317"))))
    assert len(conditions) > 8
    for condition in conditions:
        parsed(condition)


def _conditions_in(value: Any) -> Any:
    if isinstance(value, list):
        for each in value:
            yield from _conditions_in(each)
    if isinstance(value, dict):
        if "error_mode" in value:
            yield from (*value.get("span", ()), *value.get("spanevent", ()))
        else:
            for each in value.values():
                yield from _conditions_in(each)


def test_the_second_tier_as_a_file() -> None:
    policy = policy_of(
        {
            "name": "shop",
            "rules": [
                {"when": {"error": True, "not": {"agent": "probe*"}}},
                {"when": {"latency_over_s": 5}},
                {"keep": 0.1},
            ],
        }
    )
    assert collector_yaml(policy, CollectorOptions(endpoint="tempo:4317"), tier="2") == snapshot("""\
# OpenTelemetry Collector: second tier: decides which traces are kept by aiobs' sampling policy "shop".
# For otelcol-contrib 0.157 or later. Made by `aiobs collector sampling`.
# Processes that send to it: AIOBS_SAMPLING=all, or they decide before it.
# forced: keep() is seen; the baggage that asks for it only where a process has put it on a span, as an attribute of the same name.
# latency_over_s: the Collector counts whole milliseconds, over all processes, and keeps what took longer than threshold_ms.
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: 0.0.0.0:4317
      http:
        endpoint: 0.0.0.0:4318
processors:
  memory_limiter:
    check_interval: 1s
    limit_percentage: 80
    spike_limit_percentage: 20
  tail_sampling:
    decision_wait: 60s
    num_traces: 50000
    decision_cache:
      sampled_cache_size: 500000
      non_sampled_cache_size: 500000
    policies:
    - name: forced
      type: ottl_condition
      ottl_condition:
        error_mode: ignore
        span:
        - span.attributes["ai.agent.sampling.keep"] == true
    - name: rule 1
      type: and
      and:
        and_sub_policy:
        - name: spans 1
          type: ottl_condition
          ottl_condition:
            error_mode: ignore
            span:
            - span.status.code == STATUS_CODE_ERROR or span.attributes["ai.agent.outcome"] == "timed_out"
        - name: without 2
          type: not
          not:
            not_sub_policy:
              name: spans
              type: ottl_condition
              ottl_condition:
                error_mode: ignore
                span:
                - IsString(span.attributes["ai.agent.name"]) and IsMatch(span.attributes["ai.agent.name"], "(?s)\\\\Aprobe.*\\\\z")
    - name: latency_over_s
      type: latency
      latency:
        threshold_ms: 4999
    - name: ratio
      type: ottl_condition
      ottl_condition:
        error_mode: ignore
        span:
        - Substring(span.trace_id.string, 18, 14) >= "e6666000000000"
exporters:
  otlp_grpc:
    endpoint: tempo:4317
service:
  pipelines:
    traces:
      receivers:
      - otlp
      processors:
      - memory_limiter
      - tail_sampling
      exporters:
      - otlp_grpc
""")


def test_the_first_tier_as_a_file() -> None:
    options = CollectorOptions(samplers_dns="samplers.observability.svc.cluster.local", insecure=True)
    assert collector_yaml(PRESETS["production"], options, tier="1") == snapshot("""\
# OpenTelemetry Collector: sends all spans of a trace to the same Collector of the second tier.
# For otelcol-contrib 0.157 or later. Made by `aiobs collector sampling`.
receivers:
  otlp:
    protocols:
      grpc:
        endpoint: 0.0.0.0:4317
      http:
        endpoint: 0.0.0.0:4318
processors:
  memory_limiter:
    check_interval: 1s
    limit_percentage: 80
    spike_limit_percentage: 20
exporters:
  load_balancing:
    routing_key: traceID
    protocol:
      otlp:
        tls:
          insecure: true
    resolver:
      dns:
        hostname: samplers.observability.svc.cluster.local
        port: '4317'
    retry_on_failure:
      enabled: true
    sending_queue:
      enabled: true
service:
  pipelines:
    traces:
      receivers:
      - otlp
      processors:
      - memory_limiter
      exporters:
      - load_balancing
""")


# --- what cannot be had -----------------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"when": {"tokens_over": 10_000}}, "use call with tokens_over"),
    ({"when": {"latency_over_quantile": 0.99}}, "use latency_over_s"),
    ({"per_second": 5, "per": "model"}, "rate_limiting counts spans, not traces"),
    ({"when": {"tag": "gold*"}}, "compares a tag as a whole, got 'gold*'"),
    ({"when": {"user": "u-17"}}, "ids leave the process as keyed hashes"),
    ({"when": {"tenant": "acme"}}, "--user-ids hash or clear"),
    ({"when": {"latency_over_s": 0.0005}}, "whole milliseconds"),
    ({"when": {"latency_over_s": 1.00025}}, "whole milliseconds"),
    ({"when": {"attribute": {"n": 1 << 63}}}, "64 bits"),
    ({"when": {"attribute": {"n": float("nan")}}}, "finite numbers"),
    ({"when": {"all": [{"any": [{"latency_over_s": n}, {"error": True}]} for n in range(1, 8)]}}, "128 ways"),
]


@pytest.mark.parametrize(("rule", "why"), REFUSED)
def test_a_rule_that_the_collector_cannot_follow_is_refused_by_its_name(
    rule: dict[str, Any], why: str
) -> None:
    policy = policy_of(
        {"rules": [{"name": "mine", **rule}, {"name": "other", "when": {"tokens_over": 1}}, NEVER]}
    )
    with pytest.raises(NotExpressibleError) as raised:
        collector_config(policy, CollectorOptions(endpoint="tempo:4317"))
    assert "rule 'mine': " in str(raised.value)
    assert "rule 'other': tokens_over" in str(raised.value), "all of them at once"
    assert why in str(raised.value)


def test_ids_of_users_go_by_the_form_in_which_they_leave() -> None:
    def conditions(user: object, form: Any) -> list[str]:
        policy = policy_of({"rules": [{"when": {"user": user}}]})
        config = collector_config(policy, CollectorOptions(endpoint="tempo:4317", user_id_form=form))
        found: list[str] = config["processors"]["tail_sampling"]["policies"][1]["ottl_condition"]["span"]
        return found

    assert conditions("u-17", lambda _: "ab12:00") == ['span.attributes["ai.agent.user.id"] == "ab12:00"']
    assert conditions("u-17", lambda user: user) == ['span.attributes["ai.agent.user.id"] == "u-17"']
    assert "IsMatch" in conditions("u-*", lambda user: user)[0]
    with pytest.raises(NotExpressibleError, match=r"fits no pattern, got 'u-\*'"):
        conditions("u-*", lambda _: "ab12:00")
    with pytest.raises(NotExpressibleError, match="do not leave the process"):
        conditions("u-17", lambda _: None)


def test_the_first_tier_has_to_know_exactly_one_way_to_the_second() -> None:
    with pytest.raises(AiobsError, match="got none"):
        collector_config(PRESETS["all"], CollectorOptions(), tier="1")
    with pytest.raises(AiobsError, match="got static and dns"):
        collector_config(PRESETS["all"], CollectorOptions(samplers=("a:1",), samplers_dns="b"), tier="1")


@pytest.mark.parametrize(
    "options", [{"decision_wait_s": 0}, {"decision_wait_s": 100_000}, {"trace_count": 0}]
)
def test_options_have_bounds(options: Mapping[str, Any]) -> None:
    with pytest.raises(AiobsError, match="nothing was written"):
        CollectorOptions(**options)


@pytest.mark.parametrize(
    "endpoint",
    [
        "tempo",
        "http://tempo",
        "tempo:otlp",
        "tempo:0",
        "tempo:70000",
        "https://tempo:4318/v1/traces",
        "",
        "${env:X}:1",
    ],
)
def test_an_endpoint_that_the_exporter_cannot_send_to_is_refused(endpoint: str) -> None:
    with pytest.raises(AiobsError, match=r"expected host:port.* got .*nothing was written"):
        CollectorOptions(endpoint=endpoint)


@pytest.mark.parametrize(
    "endpoint", ["localhost:4317", "http://127.0.0.1:4317", "[::1]:4318", "0.0.0.0:4317"]
)
def test_a_collector_does_not_send_to_itself(endpoint: str) -> None:
    with pytest.raises(AiobsError, match="to itself"):
        CollectorOptions(endpoint=endpoint)


@pytest.mark.parametrize(
    ("endpoint", "listen_host"),
    [("tempo:4317", "0.0.0.0"), ("localhost:14317", "0.0.0.0"), ("dns:///tempo:4317", "0.0.0.0"),
     ("https://tempo.example:443", "0.0.0.0"), ("[2001:db8::1]:4317", "0.0.0.0"), ("localhost:4317", "10.0.0.5")],
)  # fmt: skip
def test_other_receivers_are_fine(endpoint: str, listen_host: str) -> None:
    config = collector_config(PRESETS["all"], CollectorOptions(endpoint=endpoint, listen_host=listen_host))
    assert config["exporters"]["otlp_grpc"]["endpoint"] == endpoint


def test_the_scheme_says_whether_tls_is_used_and_may_not_contradict() -> None:
    plain = collector_config(PRESETS["all"], CollectorOptions(endpoint="http://tempo:4317", listen_host="::"))
    assert plain["exporters"]["otlp_grpc"]["tls"] == {"insecure": True}
    assert plain["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] == "[::]:4317"
    with pytest.raises(AiobsError, match="give one of them"):
        collector_config(PRESETS["all"], CollectorOptions(endpoint="https://tempo:4317", insecure=True))


def test_where_kept_spans_go_has_to_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collector", "sampling", "production"]) == 1
    printed = capsys.readouterr()
    assert (printed.out, "--endpoint tempo:4317" in printed.err) == ("", True)
    assert main(["collector", "sampling", "production", "--tier", "1", "--sampler", "a:4317"]) == 0


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_prints_what_the_function_makes(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["collector", "sampling", "production", "--endpoint", "tempo:4317", "--decision-wait-s", "90"])
        == 0
    )
    options = CollectorOptions(endpoint="tempo:4317", decision_wait_s=90)
    assert capsys.readouterr().out == collector_yaml(PRESETS["production"], options)


def test_the_command_takes_the_policy_of_the_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOBS_SAMPLING", "canary")
    assert main(["collector", "sampling", "--endpoint", "tempo:4317"]) == 0
    assert 'sampling policy "canary"' in capsys.readouterr().out
    monkeypatch.setenv("AIOBS_SAMPLING", "cannary")
    assert main(["collector", "sampling"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "", "a policy with mistakes must not become another one"
    assert "AIOBS_SAMPLING" in printed.err


def test_the_command_writes_a_file_for_each_tier(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("rules = [{ when = { error = true } }, { keep = 0.05 }]\n", encoding="utf-8")
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    tempo = ["--endpoint", "tempo:4317"]
    assert main(["collector", "sampling", str(rules), "--tier", "2", *tempo, "-o", str(second)]) == 0
    command = [
        "collector",
        "sampling",
        str(rules),
        "--tier",
        "1",
        "--sampler",
        "a:4317",
        "--sampler",
        "b:4317",
    ]
    assert main([*command, "--insecure", "-o", str(first)]) == 0
    for path in (first, second):
        assert not_accepted(yaml.safe_load(path.read_text(encoding="utf-8")), ACCEPTED) == []
    assert 'policy "rules"' in second.read_text(encoding="utf-8")


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for command, said in (
        (["nonsense"], "POLICY: expected one of all, production, canary"),
        (
            ["rules = [{ when = { tokens_over = 5 } }]"],
            "rule 'tokens_over': tokens_over: the Collector cannot add over spans",
        ),
        (["all", "--tier", "1"], "expected one of --sampler HOST:PORT"),
        (["all", "--decision-wait-s", "0"], "decision_wait_s: expected seconds from 1"),
        (
            ["all", "--endpoint", "tempo:4317", "-o", str(tmp_path / "none" / "x.yaml")],
            "check the path and its permissions",
        ),
    ):
        assert main(["collector", "sampling", *command]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert said in printed.err, command


def test_the_command_hashes_ids_with_the_key_of_the_settings(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rules = 'rules = [{ when = { user = "u-17" } }]'
    assert main(["privacy", "hash", "--field", "user_id", "u-17"]) == 0
    digest = capsys.readouterr().out.strip()
    assert main(["collector", "sampling", "--endpoint", "tempo:4317", rules, "--user-ids", "hash"]) == 0
    assert f'span.attributes["ai.agent.user.id"] == "{digest}"' in capsys.readouterr().out
    assert main(["collector", "sampling", "--endpoint", "tempo:4317", rules, "--user-ids", "clear"]) == 0
    assert 'span.attributes["ai.agent.user.id"] == "u-17"' in capsys.readouterr().out
    assert main(["collector", "sampling", "--endpoint", "tempo:4317", rules]) == 1
    monkeypatch.delenv("AIOBS_HASH_KEY")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert main(["collector", "sampling", "--endpoint", "tempo:4317", rules, "--user-ids", "hash"]) == 1
    assert "there is no key yet" in capsys.readouterr().err
