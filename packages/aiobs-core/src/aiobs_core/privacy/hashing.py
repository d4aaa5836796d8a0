"""Keyed hashes: the same value has the same hash under one key, and nobody without the key can try values out."""

from __future__ import annotations

import hmac
import os
import re
import secrets
import stat
import sys
import unicodedata
from pathlib import Path
from typing import Final

_MIN_KEY_BYTES: Final = 16
_HEX_DIGITS: Final = 32  # 128 bits
_PREFIX_CHARS: Final = 4
_LETTERS: Final = (
    "bcdfghjklmnpqrst"  # of pseudonyms; no digits, which another detector could find something in
)
_LETTER_COUNT: Final = 8
_KEY_FILE: Final = "hash.key"


class HashKeys:
    """The key in force, and older ones by which earlier hashes can still be recognised; never shown."""

    __slots__ = ("keys",)

    def __init__(self, keys: tuple[bytes, ...]) -> None:
        self.keys = keys

    def __repr__(self) -> str:
        return f"HashKeys({', '.join(map(key_id, self.keys))})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashKeys) and self.keys == other.keys

    def __hash__(self) -> int:
        return hash(self.keys)


NO_KEYS: Final = HashKeys(())
"""No key can be used: what was to be hashed is left out."""


def key_id(key: bytes) -> str:
    """Six hexadecimal digits that tell keys apart and tell nothing of them."""
    return hmac.digest(key, b"aiobs key id", "sha256").hex()[:6]


def keys_in(text: str) -> HashKeys:
    """The keys that a text gives: the one in force on the first line, older ones below.

    Raises:
        ValueError: If there is none, or one is too short to be a secret.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if not lines or any(len(line.encode()) < _MIN_KEY_BYTES for line in lines):
        raise ValueError(f"a secret of at least {_MIN_KEY_BYTES} bytes (a line each, the one in force first)")
    return HashKeys(tuple(line.encode() for line in lines))


def keys_in_file(path: Path) -> HashKeys:
    """The keys in a file that only its owner, and at the most a group, may read.

    Raises:
        ValueError: If the file cannot be read, anyone may read it, or it holds no key.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("a file")
        if sys.platform != "win32" and mode & (stat.S_IRWXO | stat.S_IWGRP):
            raise ValueError(
                f"a file that others cannot read or change (mode 0400, 0440 or 0600; in Kubernetes `defaultMode: "
                f"0440` of the secret's volume); it has mode {stat.S_IMODE(mode):04o}"
            )
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"a file that can be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError("a file of text in UTF-8") from None
    return keys_in(text)


def installation_keys(folder: Path) -> HashKeys:
    """The keys of this installation, made on first use, in `folder`.

    Raises:
        ValueError: If the file is there and cannot be used.
        OSError: If it cannot be made.
    """
    path = folder / _KEY_FILE
    if not path.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = folder / f".{_KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}"
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32) + "\n")
            _publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return keys_in_file(path)


def _publish(temporary: Path, path: Path) -> None:
    """Whole or not at all, and never over the key that another process has just made."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            temporary.replace(path)


_HASH: Final = re.compile(r"[0-9a-f]{6}:[0-9a-f]{32}")


def is_hash(text: str) -> bool:
    """Whether a text has the form of a hash, such as one that another process has made."""
    return _HASH.fullmatch(text) is not None


class Hasher:
    """Hashes and pseudonyms under one key. Immutable; safe to share between threads.

    Example:
        >>> Hasher(keys_in("correct horse battery")).hash("user", "u-17").partition(":")[0]
        '15596c'
    """

    def __init__(self, keys: HashKeys) -> None:
        """Take the keys.

        Args:
            keys: `NO_KEYS` makes every hash None.
        """
        self._keys = keys.keys
        self.key_id = key_id(self._keys[0]) if self._keys else None
        self._prefix = f"{self.key_id}:"

    def hash(self, field: str, text: str) -> str | None:
        """`<key id>:<32 hexadecimal digits>`: HMAC-SHA-256 of the field's name, a zero byte and the normalised text.

        Normalised: Unicode NFC, Windows line ends made Unix ones, no white space around. Other fields give other
        hashes of the same text. None if there is no key.
        """
        if not self._keys:
            return None
        return self._prefix + _digest(self._keys[0], field, normalised(text)).hex()[:_HEX_DIGITS]

    def all_hashes(self, field: str, text: str) -> tuple[str, ...]:
        """The hash under each key, the one in force first."""
        value = normalised(text)
        return tuple(f"{key_id(key)}:{_digest(key, field, value).hex()[:_HEX_DIGITS]}" for key in self._keys)

    def pseudonym(self, detector: str, value: str) -> str | None:
        """Eight letters that stand for a value; None if there is no key."""
        if not self._keys:
            return None
        digest = _digest(self._keys[0], f"pseudonym {detector}", value)
        return "".join([_LETTERS[byte & 15] for byte in digest[:_LETTER_COUNT]])

    def prefix_hash(self, detector: str, value: str) -> str | None:
        """The first four characters and a pseudonym: for display only, since four characters can tell who it is."""
        pseudonym = self.pseudonym(detector, value)
        return None if pseudonym is None else f"{value[:_PREFIX_CHARS]}…{pseudonym}"


def _digest(key: bytes, field: str, text: str) -> bytes:
    return hmac.digest(key, f"{field}\0{text}".encode("utf-8", "surrogatepass"), "sha256")


def normalised(text: str) -> str:
    """The form of a text that is hashed."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if "\r" in text:
        text = text.replace("\r\n", "\n")
    return text.strip()
