# ruff: noqa: T201 - commands print
"""The command `aiobs collector`: configuration of the OpenTelemetry Collector."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from aiobs_core import AiobsError, Settings

if TYPE_CHECKING:
    from aiobs_core.cli import SubParsers
    from aiobs_core.sampling.policy import SamplingPolicy
    from aiobs_ops.collector.checks import IdForm


def add_commands(commands: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `collector`.

    Args:
        commands: argparse's sub-parsers of `aiobs`.
    """
    collector = commands.add_parser("collector", help="write configuration for the OpenTelemetry Collector")
    below = collector.add_subparsers(metavar="COMMAND", required=True)
    sampling = below.add_parser(
        "sampling",
        help="a sampling policy as configuration of the tail_sampling processor",
        description="Print configuration (YAML) with which the OpenTelemetry Collector keeps the traces that a sampling policy "
        "keeps. Exit status: 0, or 1 if the policy has rules that the Collector cannot follow.",
    )
    _add_options(sampling)
    _add_second_tier(sampling)
    sampling.set_defaults(run=_sampling)


def _add_options(sampling: argparse.ArgumentParser) -> None:
    sampling.add_argument(
        "policy",
        nargs="?",
        metavar="POLICY",
        help="all, production, canary, a TOML file, or rules in TOML (default: as AIOBS_SAMPLING says)",
    )
    sampling.add_argument(
        "--tier",
        choices=("single", "1", "2"),
        default="single",
        help="one Collector, the one that balances, or those that decide (default: single)",
    )
    sampling.add_argument(
        "--endpoint",
        metavar="HOST:PORT",
        help="where kept spans go, OTLP over gRPC; needed but for the first tier",
    )
    sampling.add_argument("--listen-host", metavar="HOST", help="what the receivers bind (default: 0.0.0.0)")
    sampling.add_argument("--insecure", action="store_true", help="send on without TLS")
    sampling.add_argument(
        "--decision-wait-s", type=int, metavar="S", help="age of a trace at its decision (default: 60)"
    )
    sampling.add_argument(
        "--traces", dest="trace_count", type=int, metavar="N", help="undecided traces (default: 50000)"
    )
    sampling.add_argument(
        "--user-ids",
        choices=("hash", "clear"),
        help="form in which ids of users and tenants leave: by the hash key of the settings, or as they are",
    )
    sampling.add_argument("-o", "--output", metavar="FILE", help="default: standard output")


def _add_second_tier(sampling: argparse.ArgumentParser) -> None:
    sampling.add_argument(
        "--sampler",
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="one of the second tier; may be repeated",
    )
    sampling.add_argument("--sampler-dns", metavar="NAME", help="name with the addresses of the second tier")
    sampling.add_argument(
        "--sampler-kubernetes", metavar="SERVICE", help="service.namespace of the second tier"
    )
    sampling.add_argument("--sampler-port", type=int, metavar="PORT", help="port of either (default: 4317)")


def _sampling(arguments: argparse.Namespace) -> int:
    from aiobs_ops.collector.config import CollectorOptions, collector_yaml

    given = {
        "endpoint": arguments.endpoint,
        "listen_host": arguments.listen_host,
        "decision_wait_s": arguments.decision_wait_s,
        "trace_count": arguments.trace_count,
        "samplers_port": arguments.sampler_port,
    }
    options = CollectorOptions(
        insecure=arguments.insecure,
        samplers=tuple(arguments.sampler),
        samplers_dns=arguments.sampler_dns,
        samplers_kubernetes=arguments.sampler_kubernetes,
        user_id_form=_user_id_form(arguments.user_ids),
        **{name: value for name, value in given.items() if value is not None},
    )
    written = collector_yaml(_policy(arguments.policy), options, tier=arguments.tier)
    if arguments.output:
        Path(arguments.output).write_text(written, encoding="utf-8")
    else:
        print(written, end="")
    return 0


def _policy(given: str | None) -> SamplingPolicy:
    from aiobs_core.sampling.policy import read_policy

    if given is None:
        return Settings.load(strict=True).sampling  # a policy with mistakes must not become another one
    try:
        return read_policy(given)
    except ValueError as error:
        raise AiobsError(
            f"POLICY: expected {error}, got {given!r} (argument); nothing was written."
        ) from None


def _user_id_form(given: str | None) -> IdForm | None:
    if given is None:
        return None
    if given == "clear":
        return lambda user_id: user_id
    from aiobs_core.privacy.hashing import Hasher
    from aiobs_core.privacy.keys import has_key, keys_in_force

    settings = Settings.load(strict=True)
    if not has_key(settings):
        raise AiobsError(
            "--user-ids hash: there is no key yet; set AIOBS_HASH_KEY or AIOBS_HASH_KEY_FILE as the processes have it. "
            "Nothing was written."
        )
    hasher = Hasher(keys_in_force(settings))
    return lambda user_id: hasher.hash("user_id", user_id)
