"""Hashes: their form, what they do not tell apart, rotation of keys, and the key of an installation."""

from __future__ import annotations

import hashlib
import hmac
import stat
import subprocess
import sys
import threading
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobs_core.privacy.hashing import (
    NO_KEYS,
    Hasher,
    HashKeys,
    installation_keys,
    key_id,
    keys_in,
    keys_in_file,
)

KEY = "correct horse battery staple"
HASHER = Hasher(keys_in(KEY))
_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights of files")
_texts = st.text(st.characters(codec=None, exclude_categories=()))


# --- hashes ---------------------------------------------------------------------------------------------------


def test_a_hash_is_the_id_of_the_key_and_128_bits_of_hmac_sha_256() -> None:
    expected = hmac.new(KEY.encode(), b"prompts\0hello", hashlib.sha256).hexdigest()[:32]
    identity = hmac.new(KEY.encode(), b"aiobs key id", hashlib.sha256).hexdigest()[:6]
    assert HASHER.hash("prompts", "hello") == f"{identity}:{expected}"
    assert HASHER.key_id == identity == key_id(KEY.encode())


@given(text=_texts, field=st.text(max_size=10))
def test_any_text_has_a_hash(text: str, field: str) -> None:
    found = HASHER.hash(field, text)
    assert found is not None
    prefix, _, digits = found.partition(":")
    assert len(prefix) == 6
    assert len(digits) == 32
    assert set(prefix + digits) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("caf\u00e9", "cafe\u0301"),
        ("한글", unicodedata.normalize("NFD", "한글")),
        ("a\nb", "a\r\nb"),
        ("a", "  a\n"),
        ("a b", "\ta b\u3000"),
        ("", " \n"),
    ],
)
def test_composition_line_ends_and_white_space_around_do_not_matter(one: str, other: str) -> None:
    assert HASHER.hash("prompts", one) == HASHER.hash("prompts", other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a", "A"), ("a b", "a  b"), ("a\nb", "a\n\nb"), ("a", "b"), ("ﬁ", "fi"), ("1", "１")],  # noqa: RUF001 - full-width
)
def test_everything_else_matters(one: str, other: str) -> None:
    assert HASHER.hash("prompts", one) != HASHER.hash("prompts", other)


def test_fields_keys_and_pseudonyms_are_apart() -> None:
    other = Hasher(keys_in("another key of enough bytes"))
    values = {
        HASHER.hash("prompts", "x"),
        HASHER.hash("completions", "x"),
        HASHER.hash("prompts\0x", ""),
        other.hash("prompts", "x"),
    }
    assert len(values) == 4
    pseudonyms = {HASHER.pseudonym("email", "x"), HASHER.pseudonym("card", "x"), other.pseudonym("email", "x")}  # fmt: skip
    assert len(pseudonyms) == 3
    assert all(each and len(each) == 8 and each.isalpha() and each.islower() for each in pseudonyms)


def test_a_prefix_hash_shows_four_characters() -> None:
    assert (
        HASHER.prefix_hash("email", "jane@example.com")
        == f"jane…{HASHER.pseudonym('email', 'jane@example.com')}"
    )


def test_without_a_key_there_is_no_hash() -> None:
    none = Hasher(NO_KEYS)
    assert none.key_id is None
    assert none.hash("prompts", "x") is none.pseudonym("email", "x") is none.prefix_hash("email", "x") is None
    assert none.all_hashes("prompts", "x") == ()


# --- keys -----------------------------------------------------------------------------------------------------


def test_older_keys_recognise_what_was_hashed_under_them() -> None:
    older, newer = "the key of last year", "the key of this year"
    before = Hasher(keys_in(older)).hash("user", "u-17")
    rotated = Hasher(keys_in(f"# ours\n{newer}\n\n  {older}  \r\n"))
    assert rotated.hash("user", "u-17") == Hasher(keys_in(newer)).hash("user", "u-17") != before
    assert rotated.all_hashes("user", " u-17") == (rotated.hash("user", "u-17"), before)


@pytest.mark.parametrize("text", ["", "\n \n", "# only a comment of enough bytes", "short", f"{KEY}\nshort"])
def test_a_key_that_is_no_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a secret of at least 16 bytes"):
        keys_in(text)


def test_sixteen_bytes_are_enough_whatever_the_script() -> None:
    assert keys_in("a" * 16).keys == (b"a" * 16,)
    assert keys_in("가나다라마바").keys == ("가나다라마바".encode(),)


def test_keys_are_equal_by_value_and_never_shown() -> None:
    keys = keys_in(KEY)
    assert keys == keys_in(KEY) != keys_in(KEY + "!")
    assert hash(keys) == hash(keys_in(KEY))
    assert keys != KEY
    assert repr(keys) == f"HashKeys({HASHER.key_id})"
    assert "correct" not in repr([keys, HASHER, NO_KEYS])


@_posix
@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_key_file_that_its_owner_and_group_can_read_is_used(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(mode)
    assert keys_in_file(file) == keys_in(KEY)


@_posix
@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o620, 0o660, 0o777])
def test_a_key_file_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(mode)
    with pytest.raises(ValueError, match=rf"others cannot read or change .* it has mode {mode:04o}"):
        keys_in_file(file)


def test_a_key_file_that_is_missing_no_text_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a file that can be read \(No such file"):
        keys_in_file(tmp_path / "none")
    for content, message in ((b"\xff\xfe" * 10, "a file of text in UTF-8"), (b"", "at least 16 bytes")):
        file = tmp_path / "key"
        file.write_bytes(content)
        file.chmod(0o600)
        with pytest.raises(ValueError, match=message):
            keys_in_file(file)


# --- the key of an installation -------------------------------------------------------------------------------


@_posix
def test_the_key_of_an_installation_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    keys = installation_keys(folder)
    (file,) = folder.iterdir()
    assert file.name == "hash.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(keys.keys[0]) == 64
    assert installation_keys(folder) == keys != installation_keys(tmp_path / "other")


@_posix
def test_the_key_of_an_installation_is_refused_once_others_can_read_it(tmp_path: Path) -> None:
    installation_keys(tmp_path)
    (tmp_path / "hash.key").chmod(0o644)
    with pytest.raises(ValueError, match="0644"):
        installation_keys(tmp_path)


# New interpreters, since those of `multiprocessing` cannot import a test module; all make the key when the line comes.
_MAKES_A_KEY = """
import sys
from pathlib import Path
from aiobs_core.privacy.hashing import installation_keys
sys.stdin.readline()
print(installation_keys(Path(sys.argv[1])).keys[0].decode())
"""


def test_racing_processes_make_one_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MAKES_A_KEY, str(tmp_path)]
    racing = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(8)
    ]
    for process in racing:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    keys = {process.communicate(timeout=60)[0] for process in racing}
    assert len(keys) == 1
    assert len(keys.pop().strip()) == 64
    assert [file.name for file in tmp_path.iterdir()] == ["hash.key"]


def test_racing_threads_make_one_key(tmp_path: Path) -> None:
    for round_ in range(20):
        folder = tmp_path / str(round_)
        start, found = threading.Barrier(8), list[HashKeys]()

        def make(
            folder: Path = folder, start: threading.Barrier = start, found: list[HashKeys] = found
        ) -> None:
            start.wait(10)
            found.append(installation_keys(folder))

        threads = [threading.Thread(target=make) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert len(found) == 8
        assert len(set(found)) == 1
        assert [file.name for file in folder.iterdir()] == ["hash.key"]
