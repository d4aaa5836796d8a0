"""Which keys hashes are made and the audit log is sealed with, where they come from, and how the log names them."""

from __future__ import annotations

import hmac
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiobs_core.privacy.hashing import HashKeys, installation_keys
from aiobs_core.store.location import user_data_folder

if TYPE_CHECKING:
    from aiobs_core._settings import Settings

_FILE_NAME: Final = "hash.key"  # as `installation_keys` names it


def keys_in_force(settings: Settings) -> HashKeys:
    """The keys that the settings give, else those of this installation, made on first use.

    Returns:
        `NO_KEYS` where a setting was given and is invalid: privacy fails closed, no other key takes its place.

    Raises:
        ValueError: If the key of this installation is there and cannot be used.
        OSError: If it cannot be made.
        RuntimeError: If the user has no home folder.
    """
    given = _given(settings)
    return installation_keys(_installation_folder()) if given is None else given


def key_source(settings: Settings) -> str:
    """Where the keys in force come from: a setting by its variable, or the file of this installation."""
    if settings.hash_key is not None:
        return "AIOBS_HASH_KEY"
    if settings.hash_key_file is not None:
        return "AIOBS_HASH_KEY_FILE"
    return f"this installation: {installation_key_file()}"


def installation_key_file() -> Path:
    """The file with the key of this installation; it need not exist yet."""
    return _installation_folder() / _FILE_NAME


def has_key(settings: Settings) -> bool:
    """Whether there is a key already; if not, `keys_in_force` makes one."""
    return _given(settings) is not None or installation_key_file().exists()


def audit_key_id(key: bytes) -> str:
    """Six hexadecimal digits by which the audit log names its key; not those that hashes name the same key by."""
    return hmac.digest(key, b"aiobs audit key id", "sha256").hex()[:6]


def _given(settings: Settings) -> HashKeys | None:
    return settings.hash_key if settings.hash_key is not None else settings.hash_key_file


def _installation_folder() -> Path:
    return user_data_folder(os.environ) / "aiobs"  # noqa: TID251 (a convention of the platform, no setting of aiobs)
