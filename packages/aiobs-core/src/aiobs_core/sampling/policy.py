"""Sampling policies: an ordered list of rules as data, the presets, and how both are read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiobs_core._errors import all_made, did_you_mean
from aiobs_core.sampling.conditions import CHECKS, All, Check, Condition, condition_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

EVERYTHING: Final = All(())
GROUPS: Final = ("operation", "model", "agent", "user", "session", "tenant", "tag")
"""What a rate may be limited by: each value of it has a rate of its own."""
FORCED: Final = "forced"
_RULE_KEYS: Final = ("name", "when", "keep", "per_second", "per")
_POLICY_KEYS: Final = ("name", "rules")
_MAX_RULES: Final = 100
_MAX_NAME_CHARS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Which traces, and how many of them are kept.

    Attributes:
        name: Told by kept spans as the reason.
        when: Which traces; all by default.
        keep: Share of them, from 0 to 1.
        per_second: Instead of a share: about so many traces a second, as an average over ten seconds.
        per: Gives each value of one of `GROUPS` its own rate, so that what is rare stays visible; None: one for all.
    """

    name: str
    when: Condition = EVERYTHING
    keep: float = 1.0
    per_second: float | None = None
    per: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingPolicy:
    """An ordered list of rules; a trace is kept with the highest probability that a rule gives it.

    Traces that no rule speaks of are dropped. What was forced (`keep()`, baggage) is always kept.

    Attributes:
        name: For messages and `aiobs sampling explain`.
        rules: In this order; of equal probabilities the first is told as the reason.
    """

    name: str
    rules: tuple[Rule, ...]

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is ever dropped, so that no trace has to be held back until it has ended."""
        return any(
            rule.when == EVERYTHING and rule.per_second is None and rule.keep >= 1 for rule in self.rules
        )

    def __str__(self) -> str:
        return self.name


def policy_of(table: object, *, default_name: str = "custom") -> SamplingPolicy:
    """The policy that a table says, as TOML and `configure(sampling={…})` have it.

    Args:
        table: `{"name": …, "rules": [{"name": …, "when": {…}, "keep": …}, …]}`, or that below a key `sampling`.
        default_name: Where the table has none.

    Raises:
        ValueError: With everything that is wrong in it.
    """
    if isinstance(table, Mapping) and isinstance(table.get("sampling"), Mapping):
        table = table["sampling"]
    if (
        not isinstance(table, Mapping)
        or not isinstance(table.get("rules"), Sequence)
        or isinstance(table["rules"], str)
    ):
        raise ValueError(
            "a table with a list of rules, such as rules = [{ when = { error = true } }, { keep = 0.01 }]"
        )
    if not 0 < len(table["rules"]) <= _MAX_RULES:
        raise ValueError(f"from 1 to {_MAX_RULES} rules, {len(table['rules'])} were given")
    mistakes = [
        f"{name}: no such key, accepted: {', '.join(_POLICY_KEYS)}{did_you_mean(str(name), _POLICY_KEYS)}"
        for name in table
        if name not in _POLICY_KEYS
    ]
    rules: list[Rule] = []
    for number, given in enumerate(table["rules"], 1):
        try:
            rules.append(_rule_of(given, number))
        except ValueError as error:
            mistakes.append(f"rule {number}: {error}")
    names = [rule.name for rule in rules]
    mistakes += [
        f"rules: two are named {name}" for name in sorted({name for name in names if names.count(name) > 1})
    ]
    if mistakes:
        raise ValueError("a sampling policy without mistakes (" + "; ".join(mistakes) + ")")
    return SamplingPolicy(name=str(table.get("name", default_name)), rules=tuple(rules))


def _rule_of(given: object, number: int) -> Rule:
    if not isinstance(given, Mapping):
        raise ValueError(f"expected a table with any of {', '.join(_RULE_KEYS)}, got {given!r}")
    wrong = [_unknown(str(key)) for key in given if key not in _RULE_KEYS]
    when, keep, rate, per, name = EVERYTHING, 1.0, None, None, None
    try:
        when, keep, rate, per, name = all_made(partial(read, given) for read in _READERS)
    except ValueError as error:
        wrong.append(str(error))
    if wrong:
        raise ValueError("; ".join(wrong))
    return Rule(name=name or _name_for(given, when, number), when=when, keep=keep, per_second=rate, per=per)


def _unknown(key: str) -> str:
    hint = " (conditions stand under `when`)" if key in CHECKS else did_you_mean(key, _RULE_KEYS)
    return f"{key}: no such key, accepted: {', '.join(_RULE_KEYS)}{hint}"


def _when(given: Mapping[str, Any]) -> Condition:
    return EVERYTHING if given.get("when") is None else condition_of(given["when"])


def _keep(given: Mapping[str, Any]) -> float:
    if "keep" in given and "per_second" in given:
        raise ValueError("keep, per_second: expected one of the two, got both")
    return _between(given.get("keep", 1.0), "keep", 0, 1, "share")


def _per_second(given: Mapping[str, Any]) -> float | None:
    rate = given.get("per_second")
    return None if rate is None else _between(rate, "per_second", 1e-6, 1e6, "number of traces")


def _per(given: Mapping[str, Any]) -> str | None:
    per = given.get("per")
    if per is None:
        return None
    if per not in GROUPS:
        raise ValueError(
            f"per: expected one of {', '.join(GROUPS)}, got {per!r}{did_you_mean(str(per), GROUPS)}"
        )
    if "per_second" not in given:
        raise ValueError("per: expected together with per_second, got it alone")
    return str(per)


def _name(given: Mapping[str, Any]) -> str | None:
    name = given.get("name")
    if name is None:
        return None
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME_CHARS or not name.isprintable():
        raise ValueError(f"name: expected up to {_MAX_NAME_CHARS} printable characters, got {name!r}")
    return name


_READERS: Final[tuple[Callable[[Mapping[str, Any]], Any], ...]] = (_when, _keep, _per_second, _per, _name)


def _name_for(given: Mapping[str, Any], when: Condition, number: int) -> str:
    if when == EVERYTHING:
        return "rate" if "per_second" in given else "ratio"
    return when.name if isinstance(when, Check) else f"rule {number}"


def _between(value: object, name: str, low: float, high: float, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{name}: expected a {what} from {low:g} to {high:g}, got {value!r}")
    return float(value)


_ERRORS: Final = {"name": "error", "when": {"error": True}}
_COSTLY: Final = {
    "name": "costly",
    "when": {
        "any": [
            {"call": {"model": ["gpt-3.5-turbo*"], "tokens_over": 500}},
            {"cost_over_usd": 0.05},
        ]
    },
}
PRESETS: Final[Mapping[str, SamplingPolicy]] = {
    "all": policy_of({"name": "all", "rules": [{"name": "all"}]}),
    "production": policy_of(
        {"name": "production", "rules": [_ERRORS, _COSTLY, {"name": "ratio", "keep": 0.01}]}
    ),
    "canary": policy_of({"name": "canary", "rules": [_ERRORS, _COSTLY, {"name": "ratio", "keep": 0.1}]}),
}
"""The policies that come with aiobs, by name."""


def read_policy(given: object) -> SamplingPolicy:
    """A policy from what a setting may say: a preset, a TOML file, TOML itself, a table, or a policy.

    Raises:
        ValueError: If it is none of them, or has mistakes; says what is accepted.
    """
    if isinstance(given, SamplingPolicy):
        return given
    if isinstance(given, Mapping):
        return policy_of(given)
    if not isinstance(given, (str, Path)):
        raise ValueError(_accepted())
    text = str(given).strip()
    if text.lower() in PRESETS:
        return PRESETS[text.lower()]
    if "=" in text and not text.endswith(".toml"):
        return policy_of(_parsed(text, "it"))
    path = Path(text)
    if path.suffix.lower() != ".toml":
        raise ValueError(_accepted() + did_you_mean(text.lower(), PRESETS))
    try:
        path = path.expanduser()
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, RuntimeError, ValueError) as error:  # no such user, a path with a zero in it, no UTF-8
        raise ValueError(f"a readable file ({path}: {type(error).__name__})") from None
    return policy_of(_parsed(text, str(path)), default_name=path.stem)


def _accepted() -> str:
    return f"one of {', '.join(PRESETS)}, a file that ends in .toml, or rules in TOML (rules = [{{ keep = 0.01 }}])"


def _parsed(text: str, what: str) -> Mapping[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError(f"rules in TOML ({what} is nested too deep)") from None
    except ValueError as error:
        raise ValueError(f"rules in TOML ({what} cannot be parsed: {' '.join(str(error).split())})") from None
