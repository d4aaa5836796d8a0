"""The rules of a sampling policy as policies of the Collector's `tail_sampling` processor.

A trace is kept where one policy of the processor says so. Its `and` takes what asks spans, and since 0.154 a `not` of that,
but nothing nested further: each rule becomes as many policies as there are ways to fulfil it.
https://github.com/open-telemetry/opentelemetry-collector-contrib/tree/main/processor/tailsamplingprocessor
"""

from __future__ import annotations

from itertools import product
from typing import Any, Final, NamedTuple

from aiobs_core import AiobsError
from aiobs_core.sampling.conditions import All, Check, Condition, Not, checks_in
from aiobs_core.sampling.policy import FORCED, Rule, SamplingPolicy
from aiobs_core.sampling.threshold import RANDOM_VALUES, threshold_of
from aiobs_ops.collector import ottl
from aiobs_ops.collector.checks import RATE_REFUSED, Atom, IdForm, Lasts, Spans, atom_of

_MAX_WAYS: Final = 64


class NotExpressibleError(AiobsError):
    """Rules that the Collector cannot follow; the message names each, why, and what to use instead."""


class _Literal(NamedTuple):
    atom: Atom
    holds: bool


_Way = tuple[_Literal, ...]  # all of them


def tail_sampling_policies(
    policy: SamplingPolicy, *, user_id_form: IdForm | None = None, notes: list[str]
) -> list[dict[str, Any]]:
    """The processor's policies that keep the same traces.

    Args:
        policy: The rules.
        user_id_form: How ids of users and tenants leave the process; None: not known.
        notes: Where it is told how the Collector's decisions can differ.

    Raises:
        NotExpressibleError: With all that cannot be had.
    """
    rules = policy.rules
    if not any(check.name == FORCED for rule in rules for check in checks_in(rule.when)):
        rules = (Rule(name=FORCED, when=Check(FORCED, True)), *rules)
    made: list[dict[str, Any]] = []
    problems: list[str] = []
    for rule in rules:
        try:
            made += _policies_of(rule, user_id_form, notes)
        except ValueError as error:
            problems.append(f"rule {rule.name!r}: {error}")
    if problems:
        raise NotExpressibleError(
            f"The policy {policy.name!r} has rules that the Collector cannot follow: {'; '.join(problems)}. Nothing was written."
        )
    return _with_names_of_their_own(made)


def _policies_of(rule: Rule, user_id_form: IdForm | None, notes: list[str]) -> list[dict[str, Any]]:
    if rule.per_second is not None:
        raise ValueError(RATE_REFUSED)
    threshold = threshold_of(rule.keep)
    if threshold >= RANDOM_VALUES:
        return []
    ways = _ways(rule.when, True, user_id_form, notes)
    if len(ways) == 1:
        return [_policy(rule.name, ways[0], threshold)]
    return [_policy(f"{rule.name} {index}", way, threshold) for index, way in enumerate(ways, 1)]


def _with_names_of_their_own(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    taken: set[str] = set()
    for policy in made:
        while policy["name"] in taken:  # the processor refuses two of one name
            policy["name"] += "'"
        taken.add(policy["name"])
    return made


# --- conditions -----------------------------------------------------------------------------------------------------


def _ways(condition: Condition, holds: bool, form: IdForm | None, notes: list[str]) -> list[_Way]:
    """The ways in which a condition holds, or fails to."""
    if isinstance(condition, Check):
        return [(_Literal(atom_of(condition, form, notes), holds),)]
    if isinstance(condition, Not):
        return _ways(condition.part, not holds, form, notes)
    below = [_ways(part, holds, form, notes) for part in condition.parts]
    if isinstance(condition, All) is holds:
        count = 1
        for ways in below:
            count *= len(ways)
        if count > _MAX_WAYS:
            raise ValueError(
                f"it can be fulfilled in {count} ways, more than {_MAX_WAYS}; make rules of its parts"
            )
        return [_all_at_once(chosen) for chosen in product(*below)]
    return _one_where_possible([way for ways in below for way in ways])


def _all_at_once(chosen: tuple[_Way, ...]) -> _Way:
    """No span fulfils this, and none that: one question for a span that fulfils either."""
    found = list(dict.fromkeys(literal for way in chosen for literal in way))
    absent = [each.atom for each in found if not each.holds and isinstance(each.atom, Spans)]
    if len(absent) < 2:
        return tuple(found)
    others = [each for each in found if each.holds or not isinstance(each.atom, Spans)]
    return (*others, _Literal(_either(absent), False))


def _one_where_possible(ways: list[_Way]) -> list[_Way]:
    """Some span fulfils this, or some span that: one question for a span that fulfils either."""
    atoms: list[Spans] = []
    others: list[_Way] = []
    for way in ways:
        if len(way) == 1 and way[0].holds and isinstance(way[0].atom, Spans):
            atoms.append(way[0].atom)
        else:
            others.append(way)
    return [(_Literal(_either(atoms), True),), *others] if atoms else others


def _either(atoms: list[Spans]) -> Spans:
    return Spans(
        tuple(dict.fromkeys(each for atom in atoms for each in atom.span)),
        tuple(dict.fromkeys(each for atom in atoms for each in atom.event)),
    )


# --- the processor's configuration ----------------------------------------------------------------------------------


def _policy(name: str, way: _Way, threshold: int) -> dict[str, Any]:
    parts = [_part(literal) for literal in way]
    if threshold:
        parts.append(_spans("ratio", Spans((f"{ottl.RANDOMNESS} >= {ottl.text(f'{threshold:014x}')}",))))
    if not parts:
        return {"name": name, "type": "always_sample"}
    if len(parts) == 1:
        return {**parts[0], "name": name}
    for index, part in enumerate(parts, 1):
        part["name"] = f"{part['name']} {index}"
    return {"name": name, "type": "and", "and": {"and_sub_policy": parts}}


def _part(literal: _Literal) -> dict[str, Any]:
    if isinstance(literal.atom, Lasts):
        # Since 0.157 the bound itself is not over it: of whole milliseconds, cut off.
        part = {"name": "lasts", "type": "latency", "latency": {"threshold_ms": literal.atom.at_least_ms - 1}}
    else:
        part = _spans("spans", literal.atom)
    if literal.holds:
        return part
    return {"name": "without", "type": "not", "not": {"not_sub_policy": part}}


def _spans(name: str, atom: Spans) -> dict[str, Any]:
    # A condition that cannot be answered (a text where a number was expected) is a no, as it is in the process.
    condition: dict[str, Any] = {"error_mode": "ignore"}
    if atom.span:
        condition["span"] = list(atom.span)
    if atom.event:
        condition["spanevent"] = list(atom.event)
    return {"name": name, "type": "ottl_condition", "ottl_condition": condition}
