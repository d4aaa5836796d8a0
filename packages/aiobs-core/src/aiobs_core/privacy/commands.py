# ruff: noqa: T201 - commands print
"""The commands `aiobs privacy` and `aiobs audit`: what the policy does, and what the audit log says."""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiobs_core._errors import AiobsError
from aiobs_core.cli import SubParsers, _complain, _positive, _print_json, _safe
from aiobs_core.privacy.policy import CONTENT_FIELDS, Mode, Policy, PolicyError
from aiobs_core.privacy.policy_file import read_policy

if TYPE_CHECKING:
    from aiobs_core._settings import Settings
    from aiobs_core.privacy.audit import Verdict
    from aiobs_core.privacy.hashing import Hasher, HashKeys
    from aiobs_core.privacy.masker import Masker

_WRONG_CALL: Final = 2
_KEYED: Final = ("pseudonym", "prefix_hash")
_MAX_LINES_SHOWN: Final = 10
_ROLES: Final = {"prompts": "user", "completions": "assistant", "system": "system"}
_HASHED_FIELDS: Final = ("user_id", *CONTENT_FIELDS)


def add_commands(commands: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `erase`, `audit` and `privacy`.

    Args:
        commands: argparse's sub-parsers of `aiobs`.
    """
    from aiobs_core.erasure.commands import add_erase

    add_erase(commands)
    audit = commands.add_parser("audit", help="check or show the audit log")
    _add_audit(audit.add_subparsers(metavar="COMMAND", required=True))
    privacy = commands.add_parser("privacy", help="try out, show or export the privacy policy")
    _add_privacy(privacy.add_subparsers(metavar="COMMAND", required=True))


def _add_audit(commands: SubParsers[argparse.ArgumentParser]) -> None:
    from aiobs_core.store.options import add_store_option

    verify = commands.add_parser(
        "verify",
        help="check that the audit log is whole",
        description="Check that no record of the audit log was changed, removed, added or moved. Exit status: 0 if it "
        "is intact, 1 if not, 2 for a wrong call.",
    )
    verify.add_argument(
        "--expect", metavar="SEQ:MAC", help="a head noted earlier, which the log must still hold"
    )
    verify.add_argument("--json", action="store_true", help="the verdict as a JSON object")
    verify.set_defaults(run=_audit_verify)
    show = commands.add_parser("show", help="print records of the audit log, the newest last")
    show.add_argument("--limit", type=_positive, default=20, metavar="N", help="how many (default: 20)")
    show.set_defaults(run=_audit_show)
    for command in (verify, show):
        command.add_argument(
            "file",
            nargs="?",
            metavar="FILE",
            help="default: as AIOBS_AUDIT says, else audit.jsonl in the store",
        )
        add_store_option(command)


def _add_privacy(commands: SubParsers[argparse.ArgumentParser]) -> None:
    test = commands.add_parser("test", help="show what would be masked in a text")
    test.add_argument("file", metavar="FILE", help="a file of text in UTF-8; - for standard input")
    test.add_argument("--json", action="store_true", help="text, findings and modes as a JSON object")
    test.set_defaults(run=partial(_with_policy, _privacy_test))
    show = commands.add_parser("show", help="show the policy in force, and problems of the settings")
    show.add_argument("--json", action="store_true", help="as a JSON object")
    show.set_defaults(run=partial(_with_policy, _privacy_show))
    digest = commands.add_parser(
        "hash",
        help="hash a text as the attributes have it",
        description="Hash a text as the attributes have it. Prompts, completions and system prompts are taken for the "
        "text of one message; --as-is takes all that is hashed: of messages, a line `role: text` each.",
    )
    digest.add_argument("text", metavar="TEXT", help="- for standard input")
    digest.add_argument(
        "--field",
        choices=_HASHED_FIELDS,
        default=_HASHED_FIELDS[0],
        metavar="FIELD",
        help=f"what it is: {', '.join(_HASHED_FIELDS)} (default: {_HASHED_FIELDS[0]})",
    )
    digest.add_argument("--as-is", action="store_true", help="hash the text as it stands, such as a query")
    digest.set_defaults(run=_privacy_hash)
    collector = commands.add_parser(
        "collector", help="print configuration of the OpenTelemetry Collector that does what the policy does"
    )
    collector.add_argument("--format", choices=("yaml",), default="yaml", help="default: yaml")
    collector.set_defaults(run=partial(_with_policy, _privacy_collector))
    for command in (test, show, collector):
        command.add_argument(
            "--policy",
            metavar="NAME|FILE",
            help="a preset or a policy file (default: as AIOBS_PRIVACY_POLICY says)",
        )


# --- audit --------------------------------------------------------------------------------------------------------


def _audit_file(arguments: argparse.Namespace, settings: Settings) -> Path:
    from aiobs_core.privacy.reads import audit_path
    from aiobs_core.store.options import folder_of

    path = (
        Path(arguments.file) if arguments.file else audit_path(settings, folder_of(arguments.store, settings))
    )
    if path is None:
        raise AiobsError("AIOBS_AUDIT or AIOBS_STORE is `off`; name the file of an audit log.")
    return path


def _audit_verify(arguments: argparse.Namespace) -> int:
    from aiobs_core._settings import Settings
    from aiobs_core.privacy.audit import verify

    settings = Settings.load()
    path = _audit_file(arguments, settings)
    keys = _keys(settings).keys
    try:
        verdict = verify(path, keys, expect=arguments.expect)
    except ValueError as error:
        _complain(f"--{error}; nothing was checked.")
        return _WRONG_CALL
    except FileNotFoundError:
        raise _no_log(path) from None
    if arguments.json:
        _print_json({**asdict(verdict), "path": str(verdict.path), "is_intact": verdict.is_intact})
    else:
        print("\n".join(_verdict_lines(verdict)))
    return 0 if verdict.is_intact else 1


def _no_log(path: Path) -> AiobsError:
    return AiobsError(f"There is no audit log at {path}; name its file, or set AIOBS_AUDIT.")


def _verdict_lines(verdict: Verdict) -> Iterator[str]:
    yield f"{verdict.path}: {'intact' if verdict.is_intact else 'NOT intact'}"
    period = f", from {verdict.first_at} to {verdict.last_at}" if verdict.record_count else ""
    yield f"records: {verdict.record_count}{period}"
    if verdict.head is not None:
        yield f"head: {verdict.head} (note it elsewhere: with --expect, it shows whether the log was taken back)"
    for problem in verdict.problems:
        yield f"problem: {_safe(problem, sys.stdout)}"
    for remark in verdict.remarks:
        yield f"remark: {_safe(remark, sys.stdout)}"


def _audit_show(arguments: argparse.Namespace) -> int:
    from aiobs_core._settings import Settings

    path = _audit_file(arguments, Settings.load())
    try:
        with path.open(encoding="utf-8", errors="replace") as log:
            last = deque(enumerate(log, 1), maxlen=arguments.limit)
    except FileNotFoundError:
        raise _no_log(path) from None
    for number, line in last:
        print(_safe(_record_text(number, line), sys.stdout))
    return 0


def _record_text(number: int, line: str) -> str:
    try:
        record = json.loads(line)
        facts = " ".join(f"{name}={_fact(value)}" for name, value in record["facts"].items())
        return f"#{record['seq']}  {record['at']}  {record['kind']}  {facts}"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"line {number}: no audit record; `aiobs audit verify` says more"


def _fact(value: object) -> str:
    return value if isinstance(value, str) and " " not in value else json.dumps(value, ensure_ascii=False)


# --- privacy: what is in force --------------------------------------------------------------------------------------


def _keys(settings: Settings) -> HashKeys:
    from aiobs_core.privacy.keys import keys_in_force

    try:
        keys = keys_in_force(settings)
    except (OSError, RuntimeError, ValueError) as error:
        raise AiobsError(
            f"The key of this installation cannot be used ({error}); set AIOBS_HASH_KEY or AIOBS_HASH_KEY_FILE."
        ) from None
    if not keys.keys:
        raise AiobsError("There is no valid hash key; mend AIOBS_HASH_KEY or AIOBS_HASH_KEY_FILE.")
    return keys


def _with_policy(
    act: Callable[[Policy, Settings, argparse.Namespace], int], arguments: argparse.Namespace
) -> int:
    """Run a command under the policy that `--policy` names, else the one in force."""
    from aiobs_core._settings import Settings

    settings = Settings.load()
    if arguments.policy is None:
        return act(settings.privacy_policy, settings, arguments)
    try:
        policy = read_policy(arguments.policy)
    except PolicyError as error:
        _complain(f"--policy: expected {error}, got {arguments.policy[:80]!r}; nothing was done.")
        return _WRONG_CALL
    return act(policy, replace(settings, privacy_policy=policy), arguments)


def _modes(policy: Policy, settings: Settings) -> tuple[Mapping[str, Mode], Mapping[str, Mode]]:
    """Modes in force on spans and on logs."""
    from aiobs_core.privacy.modes import modes_in_force

    return modes_in_force(policy, settings, "spans"), modes_in_force(policy, settings, "logs")


def _headline(policy: Policy) -> str:
    return f"{policy.name}, version {_safe(policy.version, sys.stdout)}, fingerprint {policy.fingerprint}"


def _mode_lines(policy: Policy, settings: Settings) -> Iterator[str]:
    spans, logs = _modes(policy, settings)
    return _columns(
        [("CONTENT", "SPANS", "LOGS"), *((name, mode, logs[name]) for name, mode in spans.items())]
    )


def _columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _privacy_show(policy: Policy, settings: Settings, arguments: argparse.Namespace) -> int:
    from aiobs_core._errors import SettingsError

    try:
        type(settings).load(strict=True)
    except SettingsError as error:
        for problem in str(error).splitlines():
            _complain(problem)
        return 1
    if arguments.json:
        _print_json(_facts(policy, settings))
    else:
        print("\n".join(_policy_lines(policy, settings)))
    return 0


def _facts(policy: Policy, settings: Settings) -> dict[str, Any]:
    from aiobs_core.privacy.keys import has_key, key_source

    return {
        "policy": policy.as_data(),
        "fingerprint": policy.fingerprint,
        "modes": _modes_data(policy, settings),
        "retention_days": _retention_days(policy, settings),
        "key_id": _hasher(settings).key_id if has_key(settings) else None,
        "key_source": key_source(settings),
    }


def _retention_days(policy: Policy, settings: Settings) -> float | None:
    return settings.retention_days or policy.retention_days


def _modes_data(policy: Policy, settings: Settings) -> dict[str, dict[str, str]]:
    spans, logs = _modes(policy, settings)
    return {"spans": dict(spans), "logs": dict(logs)}


def _policy_lines(policy: Policy, settings: Settings) -> Iterator[str]:
    from aiobs_core.privacy.keys import has_key, key_source

    days = _retention_days(policy, settings)
    key = _hasher(settings).key_id if has_key(settings) else "none yet, made on first use"
    yield f"policy     {_headline(policy)}"
    yield f"hash key   {key} ({key_source(settings)})"
    yield f"regions    {', '.join(policy.regions) or 'none'}"
    yield f"retention  {'for ever' if days is None else f'{days:g} days'}"
    yield ""
    yield from _mode_lines(policy, settings)
    yield ""
    hows = {**policy.detectors, **{custom.name: custom.replacement for custom in policy.custom}}
    yield from _columns(
        [("DETECTOR", "REPLACEMENT"), *((name, how) for name, how in hows.items() if how != "off")]
    )
    if off := [name for name, how in hows.items() if how == "off"]:
        yield f"\noff: {', '.join(off)}"


def _hasher(settings: Settings) -> Hasher:
    from aiobs_core.privacy.hashing import Hasher

    return Hasher(_keys(settings))


def _privacy_hash(arguments: argparse.Namespace) -> int:
    from aiobs_core._settings import Settings

    text = sys.stdin.read() if arguments.text == "-" else arguments.text
    field = arguments.field
    print(_hasher(Settings.load()).hash(field, text if arguments.as_is else _as_hashed(field, text)))
    return 0


def _as_hashed(field: str, text: str) -> str:
    """The text in the form that is hashed of that field: one message, or canonical JSON."""
    if field in _ROLES:
        return f"{_ROLES[field]}: {text}"
    if field == "user_id":
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def _privacy_collector(policy: Policy, settings: Settings, _: argparse.Namespace) -> int:
    from aiobs_core.privacy.collector import collector_config

    spans, logs = _modes(policy, settings)
    print(collector_config(policy, spans, logs_modes=logs), end="")
    return 0


# --- privacy test ---------------------------------------------------------------------------------------------------


def _privacy_test(policy: Policy, settings: Settings, arguments: argparse.Namespace) -> int:
    from aiobs_core.privacy.trial import tried

    masked, findings = tried(_masker(policy, settings), _text_in(arguments.file))
    if arguments.json:
        facts = {
            "policy": policy.name,
            "fingerprint": policy.fingerprint,
            "modes": _modes_data(policy, settings),
        }
        _print_json({"text": masked, "findings": [each._asdict() for each in findings], **facts})
        return 0
    is_terminal = sys.stdout.isatty()
    for line in masked.splitlines():
        print(_safe(line, sys.stdout) if is_terminal else line)
    print()
    if findings:
        rows = [
            (each.detector, str(each.value_count), each.replacement, _line_numbers(each.lines))
            for each in findings
        ]
        print("\n".join(_columns([("DETECTOR", "COUNT", "REPLACEMENT", "LINES"), *rows])))
    else:
        print("Nothing was found.")
    print("\n".join(["", f"policy {_headline(policy)}", *_mode_lines(policy, settings)]))
    return 0


def _text_in(file: str) -> str:
    raw = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    return raw.decode("utf-8", errors="replace")


def _masker(policy: Policy, settings: Settings) -> Masker:
    from aiobs_core.privacy.hashing import NO_KEYS, Hasher
    from aiobs_core.privacy.masker import Masker

    hows = (*policy.detectors.values(), *(custom.replacement for custom in policy.custom))
    needs_key = any(how in _KEYED for how in hows)  # else none has to be made
    try:
        return Masker(policy, _hasher(settings) if needs_key else Hasher(NO_KEYS))
    except (ImportError, OSError) as error:
        raise AiobsError(
            f"A detector of the policy {policy.name} cannot be loaded ({type(error).__name__}: {error}). `pip install "
            "'aiobs-core[presidio]'` and a model of spaCy's are needed for `person` and `location`."
        ) from None


def _line_numbers(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:_MAX_LINES_SHOWN]))
    return shown if len(lines) <= _MAX_LINES_SHOWN else f"{shown} and {len(lines) - _MAX_LINES_SHOWN} more"
