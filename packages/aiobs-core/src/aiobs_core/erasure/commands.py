# ruff: noqa: T201 - a command prints
"""The command `aiobs erase`: traces of a person, one trace, or all old ones leave the local store and the outbox."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiobs_core._errors import AiobsError
from aiobs_core._health import Health
from aiobs_core.cli import _ENVIRON, SubParsers, _complain, _print_json
from aiobs_core.store.options import add_store_option, folder_of

if TYPE_CHECKING:
    from aiobs_core._settings import Settings
    from aiobs_core.erasure.everywhere import Places
    from aiobs_core.store.erase import Erased

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_WRONG_CALL: Final = 2


class _Selection(NamedTuple):
    """Which traces are to go.

    Attributes:
        arguments: For `erase`.
        words: For the question that is asked before.
        facts: For the audit log, which may not know a plain id.
    """

    arguments: Mapping[str, Any]
    words: str
    facts: Mapping[str, object]


def add_erase(commands: SubParsers[argparse.ArgumentParser]) -> None:
    """Add the command."""
    erase = commands.add_parser(
        "erase",
        help="delete traces from the local store and from what waits to be sent, and their bytes from the files",
        description="Delete traces from the local store and from the spool of spans that wait for a receiver, and their bytes "
        "from the files. What was sent stays where it is.",
    )
    which = erase.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--user",
        type=_user_hash,
        metavar="HASH",
        help="all traces of a user, by the hash that `show` displays",
    )
    which.add_argument(
        "--user-id",
        type=_user_id,
        metavar="ID",
        help="all traces of a user, by the plain id, under every known key",
    )
    which.add_argument("--trace", metavar="ID", help="one trace: first digits of its id")
    which.add_argument(
        "--before",
        dest="before_ns",
        type=_instant_ns,
        metavar="DATE",
        help="all traces that ended before a date or date-time in ISO 8601 (local time, unless it says otherwise)",
    )
    add_store_option(erase)
    erase.add_argument("--spool", metavar="DIR", help="folder of the spool (default: as AIOBS_SPOOL says)")
    erase.add_argument("--yes", action="store_true", help="do not ask")
    erase.add_argument("--json", action="store_true", help="what was erased as a JSON object")
    erase.set_defaults(run=_erase)


# --- what was given ---------------------------------------------------------------------------------------------


def _user_hash(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{6}:[0-9a-f]{32}", text):
        return text
    raise argparse.ArgumentTypeError(
        f"expected a hash as it is displayed (6 hex digits, a colon, 32 hex digits), got {text[:80]!r}; "
        "--user-id takes the plain id. Nothing was erased."
    )


def _user_id(text: str) -> str:
    if text.strip():
        return text
    raise argparse.ArgumentTypeError(f"expected the id of a user, got {text[:80]!r}. Nothing was erased.")


def _instant_ns(text: str) -> int:
    """The instant in ns since the epoch."""
    try:
        # Python 3.10 knows no Z. A date is its first instant; without a zone it is local.
        instant = datetime.fromisoformat(re.sub(r"[zZ]$", "+00:00", text.strip())).astimezone()
    except (ValueError, OverflowError, OSError):
        raise argparse.ArgumentTypeError(
            "expected a date or date-time in ISO 8601, such as 2026-01-31 or 2026-01-31T12:00+09:00, "
            f"got {text[:80]!r}. Nothing was erased."
        ) from None
    return (instant - _EPOCH) // timedelta(microseconds=1) * 1_000


# --- erase --------------------------------------------------------------------------------------------------------


def _erase(arguments: argparse.Namespace) -> int:
    from aiobs_core._settings import Settings
    from aiobs_core.erasure.everywhere import erase_everywhere
    from aiobs_core.privacy.reads import note
    from aiobs_core.store.reader import NoStoreError, UnknownTraceError
    from aiobs_core.store.schema import StoreError

    settings = Settings.load()
    folder = folder_of(arguments.store, settings)
    places = _places(arguments, folder, settings)
    if places.store is None and not places.outboxes:
        raise AiobsError("AIOBS_STORE is `off`; name the folder of a store with --store. Nothing was erased.")
    selection = _selection(arguments, settings)
    if not arguments.yes:
        if not sys.stdin.isatty():
            _complain(
                "erase asks before it deletes, and there is no terminal to ask on; give --yes. Nothing was erased."
            )
            return _WRONG_CALL
        if not _is_confirmed(f"Erase {selection.words} from {places}? This cannot be undone. [y/N] "):
            _complain("Nothing was erased.")
            return 1
    try:
        erased = erase_everywhere(places, health=Health(), **selection.arguments)
    except (NoStoreError, UnknownTraceError):  # kinds of StoreError, and nothing was deleted
        raise
    except StoreError:  # after it may have deleted some
        note("erasure", {**selection.facts, "is_complete": False, "is_compacted": False}, settings, folder)
        raise
    note("erasure", {**selection.facts, **_counts(erased)}, settings, folder)
    is_sure = True
    if arguments.user_id is not None and not erased.trace_count:
        why, may_be_there = _why_none(places, settings)
        erased = replace(erased, remark=" ".join(filter(None, (erased.remark, why))))
        is_sure = not may_be_there
    if arguments.json:
        store = None if places.store is None else str(places.store)
        outboxes = [str(each) for each in places.outboxes]
        _print_json({"store": store, "outboxes": outboxes, **_counts(erased), "remark": erased.remark})
    else:
        _print_erased(erased, places)
    return 0 if erased.is_compacted and is_sure else 1


def _why_none(places: Places, settings: Settings) -> tuple[str, bool]:
    from aiobs_core.erasure.users import why_no_user
    from aiobs_core.privacy.hashing import key_id
    from aiobs_core.privacy.keys import key_source, keys_in_force

    keys = [key_id(key) for key in keys_in_force(settings).keys]
    return why_no_user(places, keys, key_source(settings))


def _places(arguments: argparse.Namespace, folder: Path | None, settings: Settings) -> Places:
    """Where to look: in the folders that were given only, else in those of the store and of the spool."""
    from aiobs_core.erasure.everywhere import places_in
    from aiobs_core.export.outbox_erase import has_outbox
    from aiobs_core.export.outbox_place import outbox_folder

    if arguments.spool is not None:
        spool = Path(arguments.spool).expanduser()
        if not has_outbox(spool):
            raise AiobsError(f"There is no spool in {spool} (--spool). Nothing was erased.")
        return places_in(folder if arguments.store is not None else None, spool)
    return places_in(
        folder,
        None if arguments.store else outbox_folder(settings.spool, cwd=Path.cwd(), environ=_ENVIRON),
    )


def _selection(arguments: argparse.Namespace, settings: Settings) -> _Selection:
    if arguments.user is not None:
        facts = {"selector": "user", "user": arguments.user}
        return _Selection({"users": (arguments.user,)}, f"all traces of the user {arguments.user}", facts)
    if arguments.user_id is not None:
        users = _ids_of(arguments.user_id, settings)
        return _Selection({"users": users}, "all traces of that user", {"selector": "user_id"})
    if arguments.trace is not None:
        facts = {"selector": "trace", "trace": arguments.trace[:32]}
        return _Selection({"trace_id": arguments.trace}, f"the trace {arguments.trace[:32]}", facts)
    instant = (_EPOCH + timedelta(microseconds=arguments.before_ns // 1_000)).astimezone()
    facts = {"selector": "before", "before": instant.astimezone(timezone.utc).isoformat()}
    words = f"all traces that ended before {instant.isoformat(sep=' ')}"
    return _Selection({"before_ns": arguments.before_ns}, words, facts)


def _ids_of(user_id: str, settings: Settings) -> tuple[str, ...]:
    """What spans may carry for a user: a hash under each key, and the id itself, which some policies let out."""
    from aiobs_core.privacy.hashing import Hasher
    from aiobs_core.privacy.keys import keys_in_force

    try:
        hashes = Hasher(keys_in_force(settings)).all_hashes("user_id", user_id)
    except (OSError, RuntimeError, ValueError) as error:
        raise AiobsError(
            f"The hash key cannot be used ({error}), so the user's hash is not known. Nothing was erased; set "
            "AIOBS_HASH_KEY, or give the hash with --user."
        ) from None
    if not hashes:
        raise AiobsError(
            "There is no valid hash key, so the user's hash is not known. Nothing was erased; mend AIOBS_HASH_KEY or "
            "AIOBS_HASH_KEY_FILE, or give the hash with --user."
        )
    return (*hashes, user_id)


def _is_confirmed(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _counts(erased: Erased) -> dict[str, object]:
    return {name: value for name, value in asdict(erased).items() if name not in ("remark", "traces")}


def _print_erased(erased: Erased, places: Places) -> None:
    spooled = f", {erased.spooled_span_count} of them from side files" if erased.spooled_span_count else ""
    traces = "trace" if erased.trace_count == 1 else "traces"
    spans = "span" if erased.span_count == 1 else "spans"
    waiting = f"{erased.waiting_span_count} {'span' if erased.waiting_span_count == 1 else 'spans'} that waited to be sent"
    told = [f"{erased.span_count} {spans}{spooled}"] if places.store is not None else []
    told += [waiting] if places.outboxes else []
    print(f"Erased {erased.trace_count} {traces} ({'; '.join(told)}) from {places}.")
    if places.outboxes:
        print("What was sent stays with the receiver: erase it there, too.")
    if erased.remark:
        print(erased.remark)
