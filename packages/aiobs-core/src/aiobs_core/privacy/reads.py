"""Where the audit log is, and what the commands note in it: who gave content out of the store, and who erased what."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiobs_core import semconv

if TYPE_CHECKING:
    from aiobs_core._settings import Settings
    from aiobs_core.store.reader import StoredSpan

AUDIT_FILE_NAME: Final = "audit.jsonl"
_MAX_NOTED_TRACES: Final = 32
_OWN_PREFIX: Final = "ai.agent."


def audit_path(settings: Settings, folder: Path | None) -> Path | None:
    """Where the audit log is, or would be: as AIOBS_AUDIT says, else in the store's folder. None if it is off."""
    if settings.audit == "off":
        return None
    if settings.audit != "auto":
        return Path(settings.audit).expanduser()
    return None if folder is None else folder / AUDIT_FILE_NAME


def audit_in_use(settings: Settings, folder: Path | None) -> Path | None:
    """The audit log that commands add to: one that is in the store's folder already, or that AIOBS_AUDIT names.

    They start none in a store whose application keeps none.
    """
    path = audit_path(settings, folder)
    return path if path is not None and (settings.audit != "auto" or path.exists()) else None


def note(kind: str, facts: Mapping[str, object], settings: Settings, folder: Path | None) -> None:
    """Append a record to the audit log in use, if any; a failure is said on stderr and stops nothing.

    Args:
        kind: What was done.
        facts: Counts and names; who did it is added.
        settings: Say where the log is, and which key seals it.
        folder: The store's; None if there is none.
    """
    from aiobs_core.privacy.audit import AuditLog
    from aiobs_core.privacy.keys import keys_in_force

    path = audit_in_use(settings, folder)
    if path is None:
        return
    try:
        keys = keys_in_force(settings).keys
        if not keys:
            raise ValueError("there is no hash key to seal it with")
        AuditLog(path, keys[0]).append(kind, {"who": operating_user(), **facts})
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        message = f"aiobs: {path}: no record {kind!r} was written ({reason}); the command goes on."
        print(message, file=sys.stderr)  # noqa: T201 (for commands)


def operating_user() -> str:
    """Name of the user that the process runs as; not from the environment, where anyone may write another."""
    if sys.platform == "win32":
        import getpass

        return getpass.getuser()
    import os
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container that knows the number only
        return str(os.getuid())


class ContentReads:
    """The traces with content that a command gives out. For use by one thread.

    Attributes:
        trace_count: All of them.
        first_trace_ids: Of the first 32, so that the record stays short.
    """

    def __init__(self) -> None:
        self.trace_count = 0
        self.first_trace_ids: list[str] = []

    def see(self, spans: Sequence[StoredSpan]) -> None:
        """Take note of the spans of one trace, before they are given out."""
        if any(map(_holds_content, spans)):
            self.trace_count += 1
            if self.trace_count <= _MAX_NOTED_TRACES:
                self.first_trace_ids.append(spans[0].trace_id)


@contextmanager
def noted_reads(command: str, store: str | None) -> Iterator[ContentReads]:
    """Collects what a command gives out, and notes it in the audit log in use when the command ends, however it does.

    Args:
        command: As it is called.
        store: Folder of the store as it was given; None is as AIOBS_STORE says.

    Yields:
        What the caller shows each trace to, before it gives it out.
    """
    from aiobs_core._settings import Settings
    from aiobs_core.store.options import folder_of

    reads = ContentReads()
    try:
        yield reads
    finally:
        if reads.trace_count:
            facts = {
                "command": command,
                "trace_count": reads.trace_count,
                "trace_ids": reads.first_trace_ids,
            }
            settings = Settings.load()
            note("content_read", facts, settings, folder_of(store, settings))


def _holds_content(span: StoredSpan) -> bool:
    if any(map(_is_content, span.attributes)):
        return True
    return any(semconv.EXCEPTION_MESSAGE in (event.attributes or {}) for event in span.to_readable().events)


def _is_content(name: str) -> bool:
    from aiobs_core.privacy.foreign import field_of

    if name.startswith(
        _OWN_PREFIX
    ):  # the others are counts and hashes, one of which is named like tool arguments
        return name == semconv.EMBEDDING_TEXTS
    return field_of(name) not in {"", "user_id"}
