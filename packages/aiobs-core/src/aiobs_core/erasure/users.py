"""Why nothing of a user was found: under which keys the users are hashed that there are."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Final

from aiobs_core import semconv
from aiobs_core.export.outbox_file import FILE_NAME as OUTBOX_NAME
from aiobs_core.export.outbox_file import open_existing
from aiobs_core.store.reader import Store
from aiobs_core.store.schema import StoreError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from aiobs_core.erasure.everywhere import Places

# In the encoded span: the attribute's name, a few bytes of lengths and tags, and the hash if it is one.
_WAITING: Final = re.compile(
    re.escape(semconv.USER_ID.encode()) + rb"(?:.{1,6}?([0-9a-f]{6}):[0-9a-f]{32})?", re.DOTALL
)


def why_no_user(places: Places, known: Collection[str], key_source: str) -> tuple[str, bool]:
    """What to say where no span of a user was found by the plain id.

    Args:
        places: Where it was looked for.
        known: Ids of the keys that were tried, see `aiobs_core.privacy.hashing.key_id`.
        key_source: Where these are from.

    Returns:
        The sentence, and whether the user may be there all the same, under a key that is not known here.
    """
    seen = {*_of_store(places), *_of_outboxes(places)}
    other = seen.difference(known, [""])
    if not seen:
        why = (
            f"No span there carries a user ({semconv.USER_ID}): they do where the application names one, such as with "
            "`using_attributes(user_id=...)`."
        )
    elif other:
        why = (
            f"Nothing was found under the key {_list(known)} ({key_source}), and there are users that are hashed under "
            f"{_list(other)}: if that is the application's key, set AIOBS_HASH_KEY or AIOBS_HASH_KEY_FILE as it has it, "
            "and run the same again."
        )
    else:
        why = "Users are there, but none of them is this one, under any key that is known here."
    return why, bool(other)


def _list(keys: Collection[str]) -> str:
    return ", ".join(sorted(keys))


def _of_store(places: Places) -> Iterator[str]:
    """Ids of keys; an empty one for users in the clear."""
    if places.store is None:
        return
    try:
        with closing(Store(places.store)) as store:
            yield from store.user_key_ids()
    except (StoreError, sqlite3.Error):
        return  # what cannot be read now has been told of by the erasure itself


def _of_outboxes(places: Places) -> Iterator[str]:
    for folder in places.outboxes:
        try:
            with closing(open_existing(folder / OUTBOX_NAME)) as db:
                for (body,) in db.execute("SELECT CAST(body AS BLOB) FROM spans"):
                    yield from (found.decode() for found in _WAITING.findall(body))
        except (OSError, sqlite3.Error):
            continue  # the same
