# ruff: noqa: T201 - commands print
"""The command `aiobs doctor`: what became of the spans of all processes, and whether that adds up."""

from __future__ import annotations

import argparse
import os
import socket
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final

from aiobs_core._errors import AiobsError
from aiobs_core.cli import SubParsers, _print_json, _safe
from aiobs_core.export.answer import TLS_FAILED
from aiobs_core.export.outbox import DUPLICATE
from aiobs_core.export.outbox_file import FILE_NAME, lives, open_existing
from aiobs_core.export.outbox_place import outbox_folder

_HEADINGS: Final = (
    "PROCESS", "SERVICE", "RECEIVER", "RECEIVED", "EXPORTED", "WAITING", "SAMPLED OUT", "DROPPED", "TWICE?"
)  # fmt: skip
_DIED: Final = "process_died"
_CONNECT_S: Final = 1.0
_ENVIRON: Final = os.environ  # noqa: TID251 - handed on to where folders are decided


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """What became of the spans of one process.

    Attributes:
        process: Its number, and whether it runs.
        received: Spans that ended, as far as it has written that down.
        held: Those that waited in its memory when it did.
        repeated: Of the exported, those that may have arrived twice.
        dropped: By reason.
        error: What went wrong last when it sent: class or status.
        error_age_s: How long ago.
        oldest_age_s: For how long the oldest of its spans has been waiting.
    """

    process: str
    service: str
    receiver: str
    received: int
    exported: int
    waiting: int
    held: int
    sampled_out: int
    repeated: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    error_age_s: float | None = None
    oldest_age_s: float | None = None

    @property
    def unexplained(self) -> int:
        """Spans that were received and are nowhere."""
        explained = self.exported + self.waiting + self.held + self.sampled_out
        return self.received - explained - sum(self.dropped.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """Spans that wait for a receiver that no process sends to now."""

    service: str
    receiver: str
    spans: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the spool says."""

    path: str
    size_bytes: int
    oldest_age_s: float | None
    accounts: Sequence[Account]
    left: Sequence[Left] = ()

    @property
    def total(self) -> Account:
        """All processes together."""
        return replace(
            _together(self.accounts, process="total"), service="", receiver="", error=None, error_age_s=None
        )


def _together(accounts: Sequence[Account], *, process: str) -> Account:
    """The accounts of some processes as one, which is of the service and receiver of the first."""
    dropped: Counter[str] = Counter()
    for account in accounts:
        dropped.update(account.dropped)
    sums = {
        name: sum(getattr(account, name) for account in accounts)
        for name in ("received", "exported", "waiting", "held", "sampled_out", "repeated")
    }
    failed = min((each for each in accounts if each.error), key=_error_age_s, default=None)
    return Account(
        process=process,
        service=accounts[0].service if accounts else "",
        receiver=accounts[0].receiver if accounts else "",
        dropped=dict(dropped),
        error=None if failed is None else failed.error,
        error_age_s=None if failed is None else failed.error_age_s,
        **sums,
    )


def add_commands(commands: SubParsers[argparse.ArgumentParser]) -> None:
    """Add `doctor`.

    Args:
        commands: argparse's sub-parsers of `aiobs`.
    """
    doctor = commands.add_parser(
        "doctor",
        help="say what became of all spans on their way to the OTLP receiver",
        description="Say what became of all spans on their way to the OTLP receiver, by process. Exit status: 0, or 1 if it "
        "does not add up, or there is nothing to look at.",
    )
    doctor.add_argument("--spool", metavar="DIR", help="folder of the spool (default: as AIOBS_SPOOL says)")
    doctor.add_argument("--json", action="store_true", help="as a JSON object")
    doctor.set_defaults(run=_doctor)


def _doctor(arguments: argparse.Namespace) -> int:
    from aiobs_core._settings import Settings

    setting = arguments.spool or Settings.load().spool
    folder = outbox_folder(setting, cwd=Path.cwd(), environ=_ENVIRON)
    if folder is None:
        raise AiobsError("There is no spool (AIOBS_SPOOL is `off`), so processes keep their balance in memory: see the "
                         "metric ai.agent.telemetry.spans.")  # fmt: skip
    if not (folder / FILE_NAME).is_file():
        raise AiobsError(
            f"There is no spool in {folder}: no process has sent spans over OTLP from here. --spool DIR or AIOBS_SPOOL "
            "looks elsewhere."
        )
    try:
        found = examine(folder / FILE_NAME, now_s=time.time())
    except sqlite3.Error as error:
        raise AiobsError(f"{folder / FILE_NAME} cannot be read ({error}).") from None
    if arguments.json:
        _print_json({**asdict(found), "total": asdict(found.total), "unexplained": found.total.unexplained})
    else:
        print("\n".join(_safe(line, sys.stdout) for line in _lines(found)))
    return 0 if all(account.unexplained == 0 for account in found.accounts) else 1


def examine(path: Path, *, now_s: float) -> Findings:
    """Read the accounts of all processes.

    Args:
        path: The spool's file.
        now_s: Seconds since the epoch.

    Raises:
        sqlite3.Error: If it cannot be read.
    """
    with closing(open_existing(path)) as db:
        db.execute("BEGIN")  # all at one instant
        waiting = {
            process: (count, max(now_s - oldest_s, 0.0))
            for process, count, oldest_s in db.execute(
                "SELECT process, count(*), min(at_s) FROM spans GROUP BY process"
            )
        }
        lost: dict[int, dict[str, int]] = {}
        for process, reason, count in db.execute("SELECT process, reason, spans FROM losses"):
            lost.setdefault(process, {})[reason] = count
        accounts = [
            _account(row, waiting.get(row["id"], (0, None)), lost.get(row["id"], {}), now_s)
            for row in db.execute("SELECT * FROM processes ORDER BY started_s, id")
        ]
        left = _left(db)
        db.execute("ROLLBACK")
    return Findings(
        path=str(path),
        size_bytes=path.stat().st_size,
        oldest_age_s=max((age_s for _, age_s in waiting.values()), default=None),
        accounts=_folded(accounts),
        left=left,
    )


def _left(db: sqlite3.Connection) -> list[Left]:
    senders = db.execute("SELECT destination, pid, host, born FROM processes WHERE NOT ended").fetchall()
    served = {destination for destination, *who in senders if lives(*who) is not False}
    waiting = db.execute(
        "SELECT destination, service, place, count(*) FROM spans JOIN processes ON processes.id = sender "
        "GROUP BY destination ORDER BY service, place"
    ).fetchall()
    return [Left(service=row[1], receiver=row[2], spans=row[3]) for row in waiting if row[0] not in served]


def _folded(accounts: Sequence[Account]) -> list[Account]:
    """Those that are over as one for each destination: every process and every reload of settings leaves another."""
    groups: dict[object, list[Account]] = {}
    for account in accounts:
        is_over = account.process.endswith("(ended)") and not account.waiting and not account.unexplained
        groups.setdefault((account.service, account.receiver) if is_over else id(account), []).append(account)
    return [
        group[0] if len(group) == 1 else _together(group, process=f"{len(group)} ended")
        for group in groups.values()
    ]


def _account(
    row: sqlite3.Row, waiting: tuple[int, float | None], lost: Mapping[str, int], now_s: float
) -> Account:
    alive = False if row["ended"] else lives(row["pid"], row["host"], row["born"])
    state = {True: "runs", False: "ended", None: "elsewhere"}[alive]
    held, dropped = int(row["held"]), {reason: count for reason, count in lost.items() if count}
    if held and alive is False:  # nobody else had them
        dropped, held = {**dropped, _DIED: held}, 0
    return Account(
        process=f"{row['pid']} ({state})" if row["pid"] else "-",
        service=row["service"],
        receiver=row["place"],
        received=row["received"],
        exported=row["exported"] + row["direct"],
        waiting=waiting[0],
        oldest_age_s=waiting[1],
        held=held,
        sampled_out=row["sampled_out"],
        repeated=row["repeated"],
        dropped=dropped,
        error=row["error"],
        error_age_s=None if row["error_s"] is None else max(now_s - row["error_s"], 0.0),
    )


def _lines(found: Findings) -> Iterator[str]:
    from aiobs_core.export._text import duration_text

    total = found.total
    yield f"spool {found.path} ({found.size_bytes / (1 << 20):.1f} MiB)"
    rows = [_HEADINGS, *map(_cells, found.accounts)]
    if len(found.accounts) != 1:
        rows.append(_cells(total))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.ljust(width) if i < 3 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        yield "  ".join(cells).rstrip()
    for reason, count in sorted(total.dropped.items()):
        note = " (came twice, sent once: nothing is lost)" if reason == DUPLICATE else ""
        yield f"dropped: {count} {reason}{note}"
    if found.oldest_age_s is not None:
        yield f"the oldest waiting span waits for {duration_text(int(found.oldest_age_s * 1e9))}"
    last = min((each for each in found.accounts if each.error), key=_error_age_s, default=None)
    if last is not None:
        age = duration_text(int(_error_age_s(last) * 1e9))
        yield f"last error: {last.error}, {age} ago (process {last.process})"
    for receiver in sorted({each.receiver for each in found.accounts if each.waiting}):
        yield from _receiver_line(receiver, [each for each in found.accounts if each.receiver == receiver])
    yield from map(_left_line, found.left)
    yield _sum_line(total)


def _receiver_line(receiver: str, accounts: Sequence[Account]) -> Iterator[str]:
    from aiobs_core.export._text import duration_text

    last = min((each for each in accounts if each.error), key=_error_age_s, default=None)
    oldest_age_s = max(each.oldest_age_s or 0.0 for each in accounts)
    if last is not None and _is_of_tls(last.error or "") and _error_age_s(last) <= oldest_age_s:
        age = duration_text(int(_error_age_s(last) * 1e9))
        reason = (last.error or "").removeprefix(TLS_FAILED)
        # That the port is open says nothing then.
        yield f"receiver {receiver}: TLS failed ({reason}) {age} ago; spans wait until certificates are mended"
    elif (answer := _reachable(receiver)) is not None:
        yield f"receiver {receiver}: {'accepts connections' if answer else 'does not accept connections'}"


def _left_line(left: Left) -> str:
    spans, wait = ("span", "waits") if left.spans == 1 else ("spans", "wait")
    return (
        f"{left.spans} {spans} of {left.service or 'no service'} {wait} for {left.receiver}, and no process sends there now: "
        "start one of that service with the same endpoint and names of headers, or delete them with `aiobs erase`; once "
        "older than AIOBS_SPOOL_MAX_AGE_S they expire when another process uses this spool"
    )


def _is_of_tls(error: str) -> bool:
    from aiobs_core.export.tls import UNUSABLE

    return error.startswith((TLS_FAILED, UNUSABLE))


def _error_age_s(account: Account) -> float:
    return account.error_age_s or 0.0


def _cells(account: Account) -> tuple[str, ...]:
    numbers = (
        account.received,
        account.exported,
        account.waiting + account.held,
        account.sampled_out,
        sum(account.dropped.values()),
        account.repeated,
    )
    return (account.process, account.service or "-", account.receiver or "-", *map(str, numbers))


def _sum_line(total: Account) -> str:
    parts = (
        (total.exported, "exported"),
        (total.waiting + total.held, "waiting"),
        (total.sampled_out, "sampled out"),
        (sum(total.dropped.values()), "dropped"),
    )
    told = " + ".join(f"{count} {name}" for count, name in parts)
    if total.unexplained:
        return f"does not add up: {total.received} received, {told}; {total.unexplained} unexplained"
    return f"adds up: {total.received} received = {told}"


def _reachable(receiver: str) -> bool | None:
    """Whether somebody listens there; None where the port is not known."""
    host, _, port = receiver.rpartition(":")
    if not port.isdigit() or not host:
        return None
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True
