# ruff: noqa: T201 - commands print
"""The command `aiobs verify`."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from aiobs_core import Stage

if TYPE_CHECKING:
    from aiobs_core.cli import SubParsers
    from aiobs_ops.verify.canary import Hop


def add_commands(commands: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `verify`.

    Args:
        commands: argparse's sub-parsers of `aiobs`.
    """
    parser = commands.add_parser(
        "verify",
        help="send a canary request through a live service and check what it leaves",
        description="Send a canary request through a live service and check: the trace survives each hop, services and stages "
        "are in it, metrics count it, a log line leads to it, and secrets planted in it are masked. What needs an option that "
        "was not given is skipped. Exit status: 0, 1 if a check failed, 2 if the call was wrong.",
    )
    parser.add_argument("url", type=_hop, metavar="URL", help="where callers enter; NAME=URL gives it a name")
    parser.add_argument(
        "--hop",
        type=_hop,
        action="append",
        default=[],
        metavar="NAME=URL",
        help="what lies behind it and can be asked by itself, the outermost first; may be repeated",
    )
    _add_request(parser)
    _add_evidence(parser)
    parser.add_argument(
        "--timeout-s",
        type=_seconds,
        default=15.0,
        metavar="S",
        help="for the answer, and then for what it leaves (default: 15)",
    )
    parser.add_argument("--junit", metavar="FILE", help="write the checks as JUnit XML, too")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    parser.set_defaults(run=_verify)


def _add_request(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--method", metavar="NAME", help="default: POST with --data, else GET")
    parser.add_argument(
        "--data",
        type=_json,
        metavar="JSON",
        help="body; {canary} in it becomes a made-up e-mail address and API key",
    )
    parser.add_argument(
        "--header",
        type=_header,
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="a further header; may be repeated",
    )
    parser.add_argument(
        "--request-id-header", default="x-request-id", metavar="NAME", help="default: x-request-id"
    )


def _add_evidence(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--store", metavar="DIR", help="folder of the store that the services write to")
    parser.add_argument(
        "--service",
        action="append",
        default=[],
        metavar="NAME",
        help="one that has a span in the trace; may be repeated",
    )
    parser.add_argument(
        "--stage",
        action="append",
        default=[],
        choices=[stage.value for stage in Stage],
        help="a stage that there is beside prompt_receive and response_send; may be repeated",
    )
    parser.add_argument("--metrics", type=_url, metavar="URL", help="the service's Prometheus page")
    parser.add_argument("--logs", metavar="FILE", help="the service's log file (AIOBS_LOG)")


def _url(text: str) -> str:
    from aiobs_ops.verify.canary import require_address

    try:
        require_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _hop(text: str) -> Hop:
    from aiobs_ops.verify.canary import Hop

    named = re.fullmatch(r"([\w.-]+)=(https?://.*)", text)
    return Hop(named[1], _url(named[2])) if named else Hop("", _url(text))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if colon and re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) and value.strip().isprintable():
        return name, value.strip()
    raise argparse.ArgumentTypeError(
        "expected 'NAME: VALUE'; what was given is not shown, since it may be secret"
    )


def _json(text: str) -> str:
    from aiobs_ops.verify.canary import is_json

    if is_json(text):
        return text
    raise argparse.ArgumentTypeError('expected JSON, such as \'{"question": "Who is {canary}?"}\'')


def _seconds(text: str) -> float:
    duration_s = float(text) if re.fullmatch(r"\d+(?:\.\d+)?", text) else 0.0
    if 0.1 <= duration_s <= 3_600:
        return duration_s
    raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to 3600, got {text[:80]!r}")


def _verify(arguments: argparse.Namespace) -> int:
    from aiobs_core.cli import _print_json, _safe
    from aiobs_ops.verify.run import verify

    entry: Hop = arguments.url
    found = verify(
        entry.url,
        name=entry.name,
        hops=arguments.hop,
        method=arguments.method,
        data=arguments.data,
        headers=dict(arguments.header),
        request_id_header=arguments.request_id_header,
        services=arguments.service,
        stages=arguments.stage,
        store=arguments.store,
        metrics=arguments.metrics,
        logs=arguments.logs,
        timeout_s=arguments.timeout_s,
    )
    if arguments.junit:
        Path(arguments.junit).write_bytes(found.to_junit())
    if arguments.json:
        _print_json(found.to_json())
    else:
        print("\n".join(_safe(line, sys.stdout) for line in str(found).split("\n")))
    return 1 if found.failed else 0
