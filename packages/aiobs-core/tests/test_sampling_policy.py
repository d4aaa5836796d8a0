"""Rules as data: what is understood, what is refused, and what is said of it."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobs_core import Settings, SettingsError
from aiobs_core.sampling.conditions import CHECKS, matches, text_of
from aiobs_core.sampling.policy import PRESETS, policy_of, read_policy

EVERY_CHECK: dict[str, Any] = {
    "error": "RateLimit*",
    "tool_failed": ["search", "sql*"],
    "call": {"model": "gpt-4*", "tokens_over": 500, "cost_over_usd": 0.1, "latency_over_s": 2},
    "tokens_over": 10_000,
    "cost_over_usd": 0.5,
    "latency_over_s": 10,
    "latency_over_quantile": 0.99,
    "model": "gpt-*",
    "agent": "planner",
    "operation": "POST /chat",
    "user": "u-17",
    "session": "s-*",
    "tenant": "acme",
    "tag": ["gold", "beta*"],
    "attribute": {"shop.tier": "gold", "shop.retries": 2},
    "score_below": {"helpfulness": 0.5},
    "score_over": 0.9,
    "forced": True,
}


@given(st.lists(st.text("ab*?[].\n"), min_size=1, max_size=3), st.text("ab*.[\n"))
def test_a_text_fits_where_one_of_its_patterns_does(patterns: list[str], text: str) -> None:
    fits = matches(tuple(patterns))
    assert fits(text) is any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)
    assert not fits(None)


def test_every_check_can_be_written_and_is_told_in_words() -> None:
    assert EVERY_CHECK.keys() == CHECKS.keys()
    rules = [{"name": name, "when": {name: value}} for name, value in EVERY_CHECK.items()]
    policy = policy_of({"rules": rules})
    assert [text_of(rule.when) for rule in policy.rules] == [
        "error RateLimit*",
        "tool_failed search or sql*",
        "call (model gpt-4*, tokens_over 500, cost_over_usd 0.1, latency_over_s 2)",
        "tokens_over 10000",
        "cost_over_usd 0.5",
        "latency_over_s 10",
        "latency_over_quantile 0.99",
        "model gpt-*",
        "agent planner",
        "operation POST /chat",
        "user u-17",
        "session s-*",
        "tenant acme",
        "tag gold or beta*",
        "attribute (shop.tier gold, shop.retries 2)",
        "score_below 0.5 of helpfulness",
        "score_over 0.9",
        "forced",
    ]


def test_conditions_nest() -> None:
    when = {
        "any": [{"error": True, "not": {"tag": "test"}}, {"all": [{"agent": "a"}, {"tenant": ["b", "c"]}]}]
    }
    (rule,) = policy_of({"rules": [{"when": when}]}).rules
    assert text_of(rule.when) == "(error and not (tag test)) or (agent a and tenant b or c)"


def test_the_same_policy_from_code_a_file_and_the_environment(tmp_path: Path) -> None:
    text = 'rules = [{ when = { error = true } }, { name = "rare", per_second = 2, per = "model" }, { keep = 0.05 }]'
    file = tmp_path / "busy.toml"
    file.write_text(f"[sampling]\n{text}\n", encoding="utf-8")
    table = {
        "rules": [
            {"when": {"error": True}},
            {"name": "rare", "per_second": 2, "per": "model"},
            {"keep": 0.05},
        ]
    }
    from_code = Settings.load({}, {"sampling": table}, strict=True).sampling
    from_file = Settings.load({"AIOBS_SAMPLING": str(file)}, strict=True).sampling
    from_environment = Settings.load({"AIOBS_SAMPLING": text}, strict=True).sampling
    assert from_code.rules == from_file.rules == from_environment.rules
    assert [rule.name for rule in from_code.rules] == ["error", "rare", "ratio"]
    assert from_file.name == "busy"
    config = tmp_path / "aiobs.toml"
    config.write_text(f"[aiobs.sampling]\n{text}\n", encoding="utf-8")
    assert Settings.load({"AIOBS_CONFIG_FILE": str(config)}, strict=True).sampling.rules == from_code.rules


def test_presets_say_what_the_design_asks_for() -> None:
    assert Settings.load({}).sampling is PRESETS["all"]
    assert PRESETS["all"].keeps_all
    assert read_policy("Production") is PRESETS["production"]
    assert [(rule.name, rule.keep) for rule in PRESETS["production"].rules] == [
        ("error", 1),
        ("costly", 1),
        ("ratio", 0.01),
    ]
    assert PRESETS["canary"].rules[-1].keep == 0.1
    assert not PRESETS["canary"].keeps_all


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sometimes", "one of all, production, canary"),
        ("nowhere.toml", "a readable file"),
        ("rules = [", "cannot be parsed"),
        ("rules = []", "from 1 to 100"),
        ("keep = 0.1", "a list of rules"),
        ({"rules": [{"keep": 1.5}]}, "rule 1: keep: expected a share from 0 to 1, got 1.5"),
        ({"rules": [{"keep": True}]}, "keep: expected a share"),
        ({"rules": [{"keep": float("nan")}]}, "keep: expected a share"),
        ({"rules": [{"error": True}]}, "error: no such key, accepted: name, when, keep"),
        ({"rules": [{"when": {"errors": True}}]}, "did you mean error?"),
        ({"rules": [{"when": {"latency_over_s": "5s"}}]}, "latency_over_s: expected a number of seconds"),
        ({"rules": [{"when": {"call": {"tokens": 5}}}]}, "without 'tokens'"),
        ({"rules": [{"when": {}}]}, "leave `when` out"),
        ({"rules": [{"when": {"any": {"error": True}}}]}, "any: expected a list"),
        ({"rules": [{"when": {"error": 1}}]}, "error: expected a pattern"),
        ({"rules": [{"per": "model"}]}, "per: expected together with per_second"),
        ({"rules": [{"per_second": 1, "per": "colour"}]}, "per: expected one of operation, model"),
        ({"rules": [{"per_second": 1, "keep": 0.5}]}, "expected one of the two"),
        ({"rules": [{"per_second": 0}]}, "per_second: expected a number of traces"),
        ({"rules": [{"keep": 0.1}, {"keep": 0.2}]}, "two are named ratio"),
        ({"rules": [{"name": "a\nb"}]}, "printable characters"),
        ({"rules": [1]}, "rule 1: expected a table"),
        ({"rules": [{}], "colour": 1}, "colour: no such key"),
        (17, "one of all, production, canary"),
    ],
)
def test_a_mistake_is_a_clear_error_at_the_start(given: object, said: str) -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.load({}, {"sampling": given}, strict=True)
    assert "sampling: expected" in str(raised.value)
    assert said in str(raised.value)
    assert str(raised.value).endswith("; every trace is kept.")


def test_all_mistakes_of_a_policy_are_told_at_once() -> None:
    with pytest.raises(ValueError, match=r"rule 1: keep.*rule 2: when.*|rule 1: keep.*rule 2") as raised:
        policy_of({"rules": [{"keep": 2}, {"when": {"latency": 1}}]})
    assert "rule 2: latency: no such condition" in str(raised.value)


def test_all_mistakes_of_one_rule_are_told_at_once_with_what_was_meant() -> None:
    rule = {
        "naem": "x",
        "keep": 2,
        "per_second": 0,
        "per": "modell",
        "when": {
            "errror": True,
            "any": [{"call": {"modle": "gpt*", "tokens_over": -1}}, {"cost_over_usd": "1"}],
        },
    }
    with pytest.raises(ValueError) as raised:
        policy_of({"rules": [rule]})
    said = str(raised.value)
    for part in (
        "naem: no such key", "did you mean name?", "expected one of the two", "per_second: expected a number",
        "did you mean model?", "errror: no such condition", "did you mean error", "without 'modle'",
        "for tokens_over a number", "cost_over_usd: expected a number",
    ):  # fmt: skip
        assert part in said, part


def test_a_slip_of_the_pen_in_a_preset_is_told() -> None:
    with pytest.raises(ValueError, match="did you mean production"):
        read_policy("prodution")


def test_a_rule_of_the_same_depth_as_a_tree_is_refused() -> None:
    when: dict[str, Any] = {"error": True}
    for _ in range(30):
        when = {"not": when}
    with pytest.raises(ValueError, match="at most 16 deep"):
        policy_of({"rules": [{"when": when}]})
