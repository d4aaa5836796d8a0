"""An append-only, hash-chained log of what the masking did: counts and names, never values.

A line is one record, canonical JSON (ASCII, sorted keys, no blanks), so that each byte of the file matters:

    {"at","facts","key","kind","mac","prev","seq"}            always
    "torn"        SHA-256 of the fragment before it, left by a process that died while writing
    "head_found"  the head file as found, where the writer's key could not vouch for it; null: there was none

`mac` is an HMAC over all other fields, `prev` the `mac` of the record before. Beside the log stands its head,
`<name>.head`: the last record's number and MAC, sealed with the same key, so that an end cut off is noticed.
Whoever takes log and head back to an earlier state together is found only by a head noted elsewhere (`expect`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Final, NamedTuple

from aiobs_core.privacy._file_lock import lock, unlock
from aiobs_core.privacy.keys import audit_key_id

_START: Final = "0" * 64
_MAX_LINE_BYTES: Final = 1 << 20
_MAX_PROBLEMS: Final = 100
_BINARY: Final[int] = getattr(os, "O_BINARY", 0)
_HASH: Final = '"[0-9a-f]{64}"'
_HEAD: Final = rf'\{{"key":"[0-9a-f]{{6}}","mac":{_HASH},"seal":{_HASH},"seq":(0|[1-9][0-9]{{0,14}})\}}'
_RECORD: Final = (
    rf'\{{"at":"[-.:TZ0-9]+","facts":\{{[ -~]*\}},("head_found":(null|{_HEAD}),)?"key":"[0-9a-f]{{6}}",'
    rf'"kind":"(?:[^"\\]|\\.)*","mac":{_HASH},"prev":{_HASH},"seq":[1-9][0-9]{{0,14}}(,"torn":{_HASH})?\}}'
)
_is_head = re.compile(_HEAD.encode()).fullmatch
_is_record = re.compile(_RECORD.encode()).fullmatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What `verify` found in a log."""

    path: Path
    record_count: int  # those that verify and stand in order
    first_at: str | None  # of the first of them: RFC 3339, UTC
    last_at: str | None
    head: str | None  # SEQ:MAC of the last of them: noted elsewhere, it is an `expect` for later
    problems: tuple[str, ...]  # the first 100, then how many more
    remarks: tuple[str, ...]  # odd, but no sign of tampering, such as a line torn when a process died

    @property
    def is_intact(self) -> bool:
        """Whether nothing speaks for tampering."""
        return not self.problems


class AuditLog:
    """Appends to an audit log that any number of processes and threads share.

    It keeps no file open and no state but path and key, so it may be used before and after a fork.

    Args:
        path: The log; it, its folder and its head are made by the first append, for their owner only.
        key: The secret that seals the records; `verify` needs the same.

    Raises:
        ValueError: If the key is empty.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self._path = path
        self._key = _derive_key(key)

    def append(self, kind: str, facts: Mapping[str, object]) -> None:
        """Append one record, and wait until it is on the disk.

        Args:
            kind: What happened.
            facts: Counts and names, as JSON can hold them; never a value that was masked.

        Raises:
            OSError: If log or head cannot be written.
            TypeError: If the facts hold what JSON cannot.
            ValueError: If the facts hold NaN or infinity, or make the record longer than 1 MiB.
        """
        # There and back again: keys that are no strings sort otherwise once they are.
        plain: dict[str, object] = json.loads(json.dumps(dict(facts), allow_nan=False))
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | _BINARY, 0o600)
        try:
            lock(fd)
            try:
                self._append(fd, kind, plain)
            finally:
                unlock(fd)  # closing is not enough: a child forked meanwhile holds the file open
        finally:
            os.close(fd)

    def _append(self, fd: int, kind: str, facts: Mapping[str, object]) -> None:
        size_bytes = os.lseek(fd, 0, os.SEEK_END)
        raw_head = _read_head(self._path)
        if raw_head is None and size_bytes == 0:
            raw_head = self._write_head(0, _START)  # before any record: from now on, no head means tampering
        head = _parse(raw_head or b"", _is_head)
        last, torn, is_ended = _read_tail(fd, size_bytes)
        seq, prev = (last.seq, last.mac) if last else (0, _START)
        if head and head.seq >= seq:  # the end was cut off: leave the gap, or this append would hide it
            seq, prev = head.seq, head.mac
        at = datetime.now(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
        record = {"seq": seq + 1, "at": at, "kind": kind, "facts": facts, "key": self._key.id, "prev": prev}
        if torn:
            record["torn"] = torn
        if _find_objection(head, [self._key]):
            record["head_found"] = head.fields if head else None
        mac = _compute_mac(self._key, record)
        line = _encode({**record, "mac": mac}) + b"\n"
        if len(line) > _MAX_LINE_BYTES:
            raise ValueError(f"audit record {kind!r}: {len(line)} bytes, at most 1 MiB; not written")
        _write_whole(fd, line if is_ended else b"\n" + line, size_bytes)
        os.fsync(fd)  # else a power cut may leave a head that names a record which was lost
        self._write_head(seq + 1, mac)

    def _write_head(self, seq: int, mac: str) -> bytes:
        head = {"seq": seq, "mac": mac, "key": self._key.id}
        raw = _encode({**head, "seal": _compute_mac(self._key, head)}) + b"\n"
        target = self._path.with_name(f"{self._path.name}.head")
        draft = target.with_name(f"{target.name}.tmp")  # one writer at a time: the log is locked
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _BINARY, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as file:
            file.write(raw)
            os.fsync(fd)
        draft.replace(target)
        return raw


def verify(path: Path, keys: Sequence[bytes], *, expect: str | None = None) -> Verdict:
    """Check a log from first line to last, in linear time, even while others append; a bad one is a verdict, no error.

    Args:
        path: The log.
        keys: All keys it was written with.
        expect: A `Verdict.head` noted earlier: the log must still hold that record.

    Raises:
        OSError: If log or head cannot be read; `FileNotFoundError` where there is neither, and none is expected.
        ValueError: If a key is empty, or `expect` is no `SEQ:MAC`.
    """
    if expect is not None and not re.fullmatch("[1-9][0-9]{0,14}:[0-9a-f]{64}", expect):
        raise ValueError(f"expect: {expect!r} is not SEQ:MAC, such as 12:{'0a' * 4}… (64 hex digits)")
    raw_head = _read_head(path)  # before the log: records appended meanwhile are beyond it, which is allowed
    check = _Check([_derive_key(key) for key in keys], raw_head, _parse(raw_head or b"", _is_head), expect)
    try:
        with path.open("rb") as log:
            left_bytes = os.fstat(log.fileno()).st_size  # not beyond: half a line may be whole a moment later
            while piece := log.readline(min(left_bytes, _MAX_LINE_BYTES)):
                left_bytes -= len(piece)
                check.take(piece)
    except FileNotFoundError:
        if raw_head is None and expect is None:
            raise
        check.add_problem("the log file is missing")
    if raw_head is None and _read_head(path) is not None:  # the log was just being made
        return verify(path, keys, expect=expect)
    return check.finish(path)


class _Key(NamedTuple):
    id: str
    secret: bytes


class _Sealed(NamedTuple):
    seq: int
    mac: str
    fields: dict[str, object]  # of a record or head: of the right shape, be its seal right or wrong


@dataclass(slots=True)
class _Check:
    """One walk over a log: where it stands, and what it found."""

    keys: Sequence[_Key]
    raw_head: bytes | None
    head: _Sealed | None
    expect: str | None  # None once it is met
    line: int = 0
    is_line_ended: bool = True
    seq: int = 0
    mac: str = _START
    noise_line: int = 0  # where a run of lines that are no records began; 0: there is no run
    noise_end: bytes = b""  # its last newline, not hashed unless more follows
    noise_hash: hashlib._Hash = field(default_factory=hashlib.sha256)
    first: _Sealed | None = None
    last: _Sealed | None = None
    record_count: int = 0
    gaps: list[range] = field(default_factory=list)
    unknown_keys: set[object] = field(default_factory=set)
    problem_count: int = 0
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def report(self, text: str) -> None:
        self.add_problem(f"line {self.line}: {text}")

    def add_problem(self, text: str) -> None:
        self.problem_count += 1
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(text)

    def take(self, piece: bytes) -> None:
        """Take the next line, or the next piece of one too long to be a record."""
        is_new_line = self.is_line_ended
        self.is_line_ended = piece.endswith(b"\n")
        self.line += is_new_line
        record = _parse(piece, _is_record) if is_new_line else None
        if record is None:
            self._take_noise(piece)
        else:
            self._take_record(record)

    def _take_noise(self, piece: bytes) -> None:
        if not self.noise_line:
            self.noise_line, self.noise_end, self.noise_hash = self.line, b"", hashlib.sha256()
        body = piece.removesuffix(b"\n")
        self.noise_hash.update(self.noise_end + body)
        self.noise_end = piece[len(body) :]

    def _take_record(self, record: _Sealed) -> None:
        objection = _find_objection(record, self.keys)
        self._settle_noise(None if objection else record.fields.get("torn"))
        if objection is None:
            self._place(record)
            return
        key_id = record.fields["key"]
        if key_id not in self.unknown_keys:  # one problem for all its records
            self.report(objection)
        if all(key_id != key.id for key in self.keys) and len(self.unknown_keys) < _MAX_PROBLEMS:
            self.unknown_keys.add(key_id)
        if record.seq == self.seq + 1 and record.fields["prev"] == self.mac:
            self.seq, self.mac = record.seq, record.mac  # `append` went on from it

    def _settle_noise(self, torn: object) -> None:
        where, self.noise_line = self.noise_line, 0
        name = f"line {where}" if where == self.line - 1 else f"lines {where} to {self.line - 1}"
        if where and torn == self.noise_hash.hexdigest():
            self.remarks.append(f"{name}: torn, as a process died; line {self.line} vouches for it")
        elif where:
            self.add_problem(f"{name}: no audit record: edited, inserted or joined")
        elif torn:
            self.report("the torn line that this record vouches for was removed")

    def _place(self, record: _Sealed) -> None:
        if "head_found" in record.fields:
            found = _parse(_encode(record.fields["head_found"]), _is_head)
            if objection := _find_objection(found, self.keys):
                self.report(f"the head file that its writer found: {objection}")
        if record.seq <= self.seq:
            is_moved = any(record.seq in gap for gap in self.gaps)
            self.report(f"record {record.seq} stands {'out of order' if is_moved else 'here a second time'}")
            return
        if skipped := range(self.seq + 1, record.seq):
            which = f"record {skipped[0]}" if len(skipped) == 1 else f"records {skipped[0]} to {skipped[-1]}"
            self.report(f"{which} missing before record {record.seq}: removed or moved")
            self.gaps += [skipped] if len(self.gaps) < _MAX_PROBLEMS else []
        elif record.fields["prev"] != self.mac:
            self.report(f"record {record.seq} does not follow the one that stands before it")
        if self.head and record.seq == self.head.seq and record.mac != self.head.mac:
            self.report(f"the head file names another record {record.seq}")
        self.seq, self.mac, self.last = record.seq, record.mac, record
        self.first = self.first or record
        self.record_count += 1
        if self.expect == f"{record.seq}:{record.mac}":
            self.expect = None

    def finish(self, path: Path) -> Verdict:
        if not self.is_line_ended:
            what = "torn" if self.noise_line else "a whole record without its newline"
            self.remarks.append(f"line {self.line}: {what}, as a process died; the next append repairs it")
        elif self.noise_line:
            self.line += 1
            self._settle_noise(None)
        if self.line or self.raw_head is not None:
            self._check_head()
        if self.expect:
            self.add_problem(f"the expected record {self.expect} is not in the log: taken back or replaced")
        if hidden := self.problem_count - len(self.problems):
            self.problems.append(f"and {hidden} more problems")
        return Verdict(
            path=path,
            record_count=self.record_count,
            first_at=str(self.first.fields["at"]) if self.first else None,
            last_at=str(self.last.fields["at"]) if self.last else None,
            head=f"{self.last.seq}:{self.last.mac}" if self.last else None,
            problems=tuple(self.problems),
            remarks=tuple(self.remarks),
        )

    def _check_head(self) -> None:
        if objection := "it is missing" if self.raw_head is None else _find_objection(self.head, self.keys):
            self.add_problem(f"the head file: {objection}")
        elif self.head and self.head.seq > self.seq:
            self.add_problem(f"truncated: the log ends at record {self.seq}, its head at {self.head.seq}")


def _derive_key(key: bytes) -> _Key:
    if not key:
        raise ValueError("audit key: expected secret bytes, got none")
    return _Key(audit_key_id(key), hmac.digest(key, b"aiobs audit", "sha256"))


def _encode(fields: object) -> bytes:
    return json.dumps(fields, allow_nan=False, separators=(",", ":"), sort_keys=True).encode("ascii")


def _compute_mac(key: _Key, fields: Mapping[str, object]) -> str:
    return hmac.new(key.secret, _encode(fields), hashlib.sha256).hexdigest()


def _find_objection(sealed: _Sealed | None, keys: Sequence[_Key]) -> str | None:
    """Why a record or head is not ours: None where its seal is right."""
    if sealed is None:
        return "missing, or not readable"
    fields = sealed.fields
    own = [key for key in keys if key.id == fields["key"]]
    if not own:
        return f"sealed with key {fields['key']}, which is not among those given"
    seal = "seal" if "seal" in fields else "mac"
    body = {name: value for name, value in fields.items() if name != seal}
    if any(hmac.compare_digest(_compute_mac(key, body), str(fields[seal])) for key in own):
        return None
    return "its MAC is wrong: edited, or written without the key"


def _parse(line: bytes, is_right: Callable[[bytes], object]) -> _Sealed | None:
    text = line.removesuffix(b"\n")
    try:
        fields = json.loads(text) if is_right(text) else None
        return _Sealed(fields["seq"], fields["mac"], fields) if fields and _encode(fields) == text else None
    except (ValueError, RecursionError):
        return None


def _read_head(path: Path) -> bytes | None:
    try:
        with path.with_name(f"{path.name}.head").open("rb") as file:
            return file.read(1 << 10)
    except FileNotFoundError:
        return None


def _read_tail(fd: int, size_bytes: int) -> tuple[_Sealed | None, str | None, bool]:
    """The last record, the hash of what a process that died left after it, and whether the last line is ended."""
    window_bytes = min(size_bytes, 1 << 16)
    while True:
        os.lseek(fd, size_bytes - window_bytes, os.SEEK_SET)
        lines = os.read(fd, window_bytes).split(b"\n")
        is_ended, is_whole = not lines[-1], window_bytes == size_bytes
        lines = lines if is_whole else lines[1:]  # the first may be half a line
        last, at = None, len(lines)
        while last is None and at > 0:
            at -= 1
            last = _parse(lines[at], _is_record)
        if last or is_whole or window_bytes >= 1 << 24:
            noise = lines[at + bool(last) :]
            torn = hashlib.sha256(b"\n".join(noise)).hexdigest() if noise and noise[-1] else None
            return last, torn, is_ended
        window_bytes = min(size_bytes, window_bytes * 4)


def _write_whole(fd: int, content: bytes, size_bytes: int) -> None:
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except OSError:
        os.ftruncate(fd, size_bytes)  # the disk is full: leave no half a record
        raise
