# ruff: noqa: T201 - commands print
"""The command `aiobs sampling`: the policies there are, and what one would keep of the stored traces."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from aiobs_core._errors import AiobsError, SettingsError
from aiobs_core.cli import SubParsers, _print_json, _store
from aiobs_core.sampling.conditions import CHECKS, text_of
from aiobs_core.sampling.policy import EVERYTHING, PRESETS, Rule, SamplingPolicy, read_policy

if TYPE_CHECKING:
    from aiobs_core.sampling.history import Expected, Volume

_HEADINGS: Final = ("RULE", "KEEPS", "TRACES")
_HOW_TO_GET_THEM: Final = "For an estimate run the application with AIOBS_STORE=.aiobs for a while, which also keeps what is sent elsewhere."
_HISTORY_HEADINGS: Final = ("RULE", "TRACES", "KEPT", "SPANS KEPT")


def add_commands(commands: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `sampling`.

    Args:
        commands: argparse's sub-parsers of `aiobs`.
    """
    sampling = commands.add_parser("sampling", help="look at sampling policies, and at what they would keep")
    below = sampling.add_subparsers(metavar="COMMAND", required=True)
    listing = below.add_parser("list", help="list the policies that come with aiobs, and what rules can ask")
    listing.set_defaults(run=_list)
    explain = below.add_parser(
        "explain",
        help="show the rules of a policy, and what they would have kept of the stored traces",
        description="Show the rules of a policy, and what they would have kept of the traces in the local store.",
    )
    explain.add_argument(
        "policy",
        nargs="?",
        metavar="POLICY",
        help="a preset, a TOML file or rules in TOML (default: as AIOBS_SAMPLING says)",
    )
    explain.add_argument("--store", metavar="DIR", help="folder of the store (default: as AIOBS_STORE says)")
    explain.add_argument("--json", action="store_true", help="as a JSON object")
    explain.set_defaults(run=_explain)


# --- list -----------------------------------------------------------------------------------------------------------


def _list(_: argparse.Namespace) -> int:
    for policy in PRESETS.values():
        print(policy.name)
        print("\n".join(f"  {line}" for line in _aligned([_cells(rule) for rule in policy.rules])))
        print()
    print("Rules of your own can ask:")
    print("\n".join(f"  {line}" for line in _aligned([(name, each.brief) for name, each in CHECKS.items()])))
    return 0


def _cells(rule: Rule) -> tuple[str, str, str]:
    return rule.name, _share_text(rule), "every trace" if rule.when == EVERYTHING else text_of(rule.when)


def _share_text(rule: Rule) -> str:
    if rule.per_second is None:
        return f"{rule.keep * 100:g} %"
    return f"{rule.per_second:g} a second" + (f" of each {rule.per}" if rule.per else "")


# --- explain --------------------------------------------------------------------------------------------------------


def _explain(arguments: argparse.Namespace) -> int:
    policy = _policy(arguments.policy)
    found, why_not = _history(arguments, policy)
    if arguments.json:
        _print_json(_data(policy, found))
        return 0
    print(f"{policy.name}: a trace is kept with the highest share that a rule gives it.\n")
    print("\n".join(_aligned([_HEADINGS, *map(_cells, policy.rules)])))
    print()
    if found is None:
        print(why_not)
    else:
        print("\n".join(_history_lines(policy, found)))
    return 0


def _policy(given: str | None) -> SamplingPolicy:
    if given is None:
        return _policy_in_force()
    try:
        return read_policy(given)
    except ValueError as error:
        raise AiobsError(f"expected {error}, got {given[:80]!r}") from None


def _policy_in_force() -> SamplingPolicy:
    from aiobs_core._settings import Settings

    try:
        return Settings.load(strict=True).sampling
    except SettingsError as error:
        wrong = [line for line in str(error).splitlines() if _is_of_sampling(line)]
        if wrong:
            raise AiobsError("\n".join(wrong)) from None
    return Settings.load().sampling  # something else is wrong, which is said here


def _is_of_sampling(line: str) -> bool:
    return line.partition(":")[0].rpartition(" ")[2].lower() in {"sampling", "aiobs_sampling"}


def _history(arguments: argparse.Namespace, policy: SamplingPolicy) -> tuple[Expected | None, str]:
    from aiobs_core.sampling.history import expected

    try:
        with _store(arguments) as store:
            found = expected(
                policy, ([span.to_readable() for span in spans] for spans in store.iter_traces())
            )
    except AiobsError as error:
        if arguments.store is not None:
            raise
        return None, f"No expected volumes: {error} {_HOW_TO_GET_THEM}"
    if not found.seen.traces:
        return None, f"No expected volumes: the store holds no trace yet. {_HOW_TO_GET_THEM}"
    return found, ""


def _history_lines(policy: SamplingPolicy, found: Expected) -> Iterator[str]:
    days = [
        datetime.fromtimestamp(ns / 1e9).astimezone().strftime("%Y-%m-%d %H:%M")
        for ns in (found.start_ns, found.end_ns)
    ]
    stored = f"{found.stored:,} stored {'trace' if found.stored == 1 else 'traces'}"
    if found.seen.traces != found.stored:
        stored = f"about {_count_text(found.seen.traces)} traces, for which {stored} stand"
    yield f"Of {stored}, from {days[0]} to {days[1]}:"
    yield ""
    names = [*dict.fromkeys([*(rule.name for rule in policy.rules), *found.because])]
    rows = [_row(name, found.holding[name], found.because.get(name), found) for name in names]
    yield from _aligned(
        [_HISTORY_HEADINGS, *rows, _row("together", found.seen, found.kept, found)], right=True
    )
    for why in found.untold:
        yield f"Not to be told: {why}."


def _row(name: str, holding: Volume, kept: Volume | None, found: Expected) -> tuple[str, ...]:
    traces, spans = (0.0, 0.0) if kept is None else (kept.traces, kept.spans)
    return (
        name,
        _count_text(holding.traces),
        f"{_count_text(traces)} ({100 * traces / found.seen.traces:.1f} %)",
        f"{_count_text(spans)} ({100 * spans / found.seen.spans:.1f} %)",
    )


def _count_text(count: float) -> str:
    return f"{count:,.0f}" if count >= 10 or count == round(count) else f"{count:.1f}"


def _data(policy: SamplingPolicy, found: Expected | None) -> dict[str, Any]:
    rules = [
        {"name": rule.name, "when": text_of(rule.when) or None, "keep": rule.keep, "per_second": rule.per_second, "per": rule.per}
        for rule in policy.rules
    ]  # fmt: skip
    if found is None:
        return {"policy": policy.name, "rules": rules, "expected": None}

    def volume(each: Volume) -> dict[str, float]:
        return {"traces": each.traces, "spans": each.spans}

    by_rule = {
        name: {
            "holding": volume(each),
            "kept": volume(found.because[name]) if name in found.because else None,
        }
        for name, each in found.holding.items()
    }
    together = {
        "stored": found.stored,
        "seen": volume(found.seen),
        "kept": volume(found.kept),
        "untold": list(found.untold),
    }
    return {"policy": policy.name, "rules": rules, "expected": {**together, "by_rule": by_rule}}


def _aligned(rows: Sequence[Sequence[str]], *, right: bool = False) -> Iterator[str]:
    """Columns as wide as their widest cell; `right`: all but the first end together."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if right and at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield "  ".join(cells).rstrip()
