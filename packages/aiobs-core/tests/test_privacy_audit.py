"""The audit log of the masking: what a break-in, a crash or many writers do to it, and what `verify` then says."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiobs_core.privacy.audit import AuditLog, Verdict, verify

KEY, OTHER_KEY = b"a key of the tests", b"the key after it"
posix_only = pytest.mark.skipif(os.name != "posix", reason="POSIX modes and signals")

WRITER = textwrap.dedent("""
    import itertools, pathlib, sys
    from aiobs_core.privacy.audit import AuditLog

    log = AuditLog(pathlib.Path(sys.argv[1]), sys.argv[2].encode())
    print("ready", flush=True)
    for number in range(int(sys.argv[3])) if sys.argv[3] != "-" else itertools.count():
        log.append("masked", {"count": number, "filler": "x" * 3000})
""")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.jsonl"


def fill(path: Path, count: int = 5, key: bytes = KEY) -> list[bytes]:
    """Appends records and returns the lines of the file."""
    log = AuditLog(path, key)
    for number in range(count):
        log.append("masked", {"rule": "email", "count": number})
    return path.read_bytes().splitlines(keepends=True)


def head_of(path: Path) -> Path:
    return path.with_name(path.name + ".head")


def check(path: Path, *keys: bytes, expect: str | None = None) -> Verdict:
    return verify(path, keys or (KEY,), expect=expect)


def problems_after(path: Path, lines: Sequence[bytes]) -> str:
    path.write_bytes(b"".join(lines))
    return "\n".join(check(path).problems)


def forge(seq: int, prev: str, **extra: object) -> bytes:
    """A record that is right in everything but its MAC."""
    key_id = hmac.new(KEY, b"aiobs audit key id", hashlib.sha256).hexdigest()[:6]
    record = {"seq": seq, "at": "2026-01-01T00:00:00.000000Z", "kind": "masked", "facts": {}, "key": key_id}
    record |= {"prev": prev, "mac": hashlib.sha256(b"no key").hexdigest(), **extra}
    return json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n"


def mac_of(line: bytes) -> str:
    return str(json.loads(line)["mac"])


# --- what is written


def test_a_record_is_one_canonical_line_chained_to_the_one_before(path: Path) -> None:
    first, second = (json.loads(line) for line in fill(path, 2))
    assert set(first) == {"seq", "at", "kind", "facts", "key", "prev", "mac"}
    assert (first["seq"], first["kind"], first["facts"]) == (1, "masked", {"rule": "email", "count": 0})
    assert first["prev"] == "0" * 64
    assert (second["seq"], second["prev"]) == (2, first["mac"])
    line = path.read_bytes().splitlines()[0]
    assert line == json.dumps(first, sort_keys=True, separators=(",", ":")).encode("ascii")


def test_the_mac_can_be_computed_from_the_documented_recipe(path: Path) -> None:
    record = json.loads(fill(path, 1)[0])
    mac = record.pop("mac")
    secret = hmac.digest(KEY, b"aiobs audit", "sha256")
    body = json.dumps(record, sort_keys=True, separators=(",", ":")).encode()
    assert mac == hmac.new(secret, body, hashlib.sha256).hexdigest()


def test_an_intact_log_has_a_verdict_without_problems(path: Path) -> None:
    lines = fill(path)
    verdict = check(path)
    assert verdict.is_intact
    assert verdict.problems == verdict.remarks == ()
    assert (verdict.path, verdict.record_count) == (path, 5)
    assert verdict.first_at == json.loads(lines[0])["at"]
    assert verdict.last_at == json.loads(lines[-1])["at"]
    assert verdict.head == f"5:{mac_of(lines[-1])}"


def test_nothing_is_made_before_the_first_append(path: Path) -> None:
    AuditLog(path.parent / "new" / "audit.jsonl", KEY)
    assert list(path.parent.iterdir()) == []


@posix_only
def test_log_head_and_folder_are_for_their_owner_only(path: Path) -> None:
    log = path.parent / "new" / "audit.jsonl"
    fill(log, 1)
    modes = {item.name: stat.S_IMODE(item.stat().st_mode) for item in (log.parent, *log.parent.iterdir())}
    assert modes == {"new": 0o700, "audit.jsonl": 0o600, "audit.jsonl.head": 0o600}


def test_all_text_is_escaped_to_ascii_and_verifies(path: Path) -> None:
    facts = {
        "rule": "näme\n\u2028 🙂",
        "lone": "\ud83d",
        "pair": "\ud83d\ude00",
        "é": {"10": 1, "9": 2},
        "ratio": 1e-7,
    }
    AuditLog(path, KEY).append("größe", facts)
    assert path.read_bytes().isascii()
    assert check(path).is_intact


def test_names_that_are_numbers_verify_too(path: Path) -> None:
    AuditLog(path, KEY).append("masked", {"by length": {9: 1, 10: 2, 100: 3}})
    assert check(path).is_intact


@pytest.mark.parametrize(
    ("facts", "error"),
    [
        ({"ratio": float("nan")}, ValueError),
        ({"ratio": [float("inf")]}, ValueError),
        ({"rule": object()}, TypeError),
        ({"rule": "x" * 2_000_000}, ValueError),
    ],
)
def test_facts_that_json_cannot_hold_are_refused_and_leave_the_log_intact(path, facts, error) -> None:
    fill(path, 2)
    with pytest.raises(error):
        AuditLog(path, KEY).append("masked", facts)
    assert check(path).record_count == 2
    assert check(path).is_intact


def test_an_empty_key_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="audit key"):
        AuditLog(path, b"")


def test_a_log_that_cannot_be_written_raises_oserror(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        AuditLog(tmp_path / "file" / "audit.jsonl", KEY).append("masked", {})


# --- tampering


def test_an_edited_line_is_named(path: Path) -> None:
    lines = fill(path)
    lines[2] = lines[2].replace(b'"count":2', b'"count":3')
    assert problems_after(path, lines) == "line 3: its MAC is wrong: edited, or written without the key"


def test_a_removed_line_is_named(path: Path) -> None:
    lines = fill(path)
    del lines[2]
    assert problems_after(path, lines) == "line 3: record 3 missing before record 4: removed or moved"


def test_a_removed_first_line_is_named(path: Path) -> None:
    assert problems_after(path, fill(path)[2:]) == (
        "line 1: records 1 to 2 missing before record 3: removed or moved"
    )


def test_reordered_lines_are_named(path: Path) -> None:
    one, two, three, four, five = fill(path)
    assert problems_after(path, [one, three, two, four, five]).splitlines() == [
        "line 2: record 2 missing before record 3: removed or moved",
        "line 3: record 2 stands out of order",
    ]


def test_a_duplicated_line_is_named(path: Path) -> None:
    lines = fill(path)
    assert problems_after(path, [*lines[:3], lines[2], *lines[3:]]) == (
        "line 4: record 3 stands here a second time"
    )


def test_an_inserted_record_is_named(path: Path) -> None:
    lines = fill(path)
    problems = problems_after(path, [*lines[:3], forge(4, mac_of(lines[2])), *lines[3:]])
    assert "line 4: its MAC is wrong" in problems


def test_a_truncated_file_is_named(path: Path) -> None:
    assert problems_after(path, fill(path)[:-2]) == ("truncated: the log ends at record 3, its head at 5")


def test_an_emptied_file_is_named(path: Path) -> None:
    fill(path)
    assert problems_after(path, []) == "truncated: the log ends at record 0, its head at 5"


def test_a_deleted_file_whose_head_remains_is_named(path: Path) -> None:
    fill(path)
    path.unlink()
    assert check(path).problems[0] == "the log file is missing"


def test_a_tail_forged_without_the_key_is_named(path: Path) -> None:
    lines = fill(path)
    sixth = forge(6, mac_of(lines[-1]))
    seventh = forge(7, mac_of(sixth))
    verdict_lines = problems_after(path, [*lines, sixth, seventh]).splitlines()
    assert [line[:25] for line in verdict_lines] == ["line 6: its MAC is wrong:", "line 7: its MAC is wrong:"]
    assert check(path).head == f"5:{mac_of(lines[-1])}"


@pytest.mark.parametrize(
    "junk", [b"hello\n", b"\n", b"{}\n", b"[" * 50_000 + b"\n", b"\xff\xfe\n", b'{"seq":NaN}\n']
)
def test_a_line_that_is_no_record_is_named(path: Path, junk: bytes) -> None:
    lines = fill(path)
    assert problems_after(path, [*lines[:2], junk, *lines[2:]]) == (
        "line 3: no audit record: edited, inserted or joined"
    )
    assert problems_after(path, [*lines, junk]) == "line 6: no audit record: edited, inserted or joined"


def test_a_line_longer_than_any_record_counts_as_one(path: Path) -> None:
    lines = fill(path)
    lines[4] = lines[4].replace(b"email", b"EMAIL")
    assert problems_after(path, [*lines[:2], b"x" * 5_000_000 + b"\n", *lines[2:]]).splitlines() == [
        "line 3: no audit record: edited, inserted or joined",
        "line 6: its MAC is wrong: edited, or written without the key",
    ]


def test_a_missing_head_is_named(path: Path) -> None:
    fill(path)
    head_of(path).unlink()
    assert check(path).problems == ("the head file: it is missing",)


@pytest.mark.parametrize("head", [b"", b"hello", b"[]\n", b"\xff", b"{" * 5000])
def test_a_head_that_is_no_head_is_named(path: Path, head: bytes) -> None:
    fill(path)
    head_of(path).write_bytes(head)
    assert check(path).problems == ("the head file: missing, or not readable",)


def test_a_head_set_back_without_the_key_is_named(path: Path) -> None:
    lines = fill(path)
    head = json.loads(head_of(path).read_bytes()) | {"seq": 3, "mac": mac_of(lines[2])}
    head_of(path).write_text(json.dumps(head, sort_keys=True, separators=(",", ":")) + "\n")
    assert problems_after(path, lines[:3]) == (
        "the head file: its MAC is wrong: edited, or written without the key"
    )


def test_a_log_and_head_taken_back_together_are_found_by_the_head_noted_elsewhere(path: Path) -> None:
    fill(path, 3)
    earlier = {item: item.read_bytes() for item in (path, head_of(path))}
    fill(path, 3)
    noted = check(path).head
    assert check(path, expect=noted).is_intact
    fill(path, 2)
    assert check(path, expect=noted).is_intact
    for item, content in earlier.items():
        item.write_bytes(content)
    assert check(path).is_intact
    assert check(path, expect=noted).problems == (
        f"the expected record {noted} is not in the log: taken back or replaced",
    )


def test_log_and_head_deleted_together_are_found_by_the_head_noted_elsewhere(path: Path) -> None:
    fill(path)
    noted = check(path).head
    path.unlink()
    head_of(path).unlink()
    assert len(check(path, expect=noted).problems) == 2
    fill(path)
    assert len(check(path, expect=noted).problems) == 1


@pytest.mark.parametrize("expect", ["", "5", "0:" + "0" * 64, "5:" + "0" * 63, "5:" + "G" * 64])
def test_an_expectation_of_another_shape_is_the_callers_error(path: Path, expect: str) -> None:
    fill(path)
    with pytest.raises(ValueError, match="SEQ:MAC"):
        check(path, expect=expect)


def test_a_log_that_was_never_written_cannot_be_read(path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check(path)


def test_a_ruined_log_does_not_flood_the_verdict(path: Path) -> None:
    fill(path)
    lines = [forge(7, "0" * 64) for _ in range(1000)]
    path.write_bytes(b"".join(lines))
    verdict = check(path)
    assert len(verdict.problems) == 101
    assert verdict.problems[-1] == "and 901 more problems"


# --- the next append must not hide what happened before it


def remove_end(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-2]))


def remove_end_and_head(path: Path) -> None:
    remove_end(path)
    head_of(path).unlink()


def remove_end_and_spoil_head(path: Path) -> None:
    remove_end(path)
    head_of(path).write_bytes(b"?")


def remove_end_and_forge_head(path: Path) -> None:
    remove_end(path)
    head = json.loads(head_of(path).read_bytes()) | {"seq": 1, "key": "abcdef"}
    head_of(path).write_text(json.dumps(head, sort_keys=True, separators=(",", ":")))


def overwrite_the_last_line(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]) + b"junk")


@pytest.mark.parametrize(
    "tamper",
    [
        remove_end,
        remove_end_and_head,
        remove_end_and_spoil_head,
        remove_end_and_forge_head,
        overwrite_the_last_line,
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes() + b"junk\n"),
        lambda path: path.write_bytes(path.read_bytes().replace(b"email", b"EMAIL")),
        lambda path: path.write_bytes(
            path.read_bytes() + forge(6, mac_of(path.read_bytes().splitlines()[-1]))
        ),
    ],
)
def test_an_append_after_tampering_goes_on_and_hides_nothing(
    path: Path, tamper: Callable[[Path], object]
) -> None:
    fill(path)
    tamper(path)
    fill(path, 3)
    verdict = check(path)
    assert not verdict.is_intact
    assert verdict.last_at == json.loads(path.read_bytes().splitlines()[-1])["at"]


# --- rotated keys


def test_a_log_written_with_several_keys_is_verified_with_all_of_them(path: Path) -> None:
    for key in (KEY, OTHER_KEY, KEY, OTHER_KEY):
        fill(path, 2, key)
    verdict = check(path, OTHER_KEY, KEY)
    assert verdict.problems == ()
    assert verdict.record_count == 8


def test_an_unknown_key_is_one_problem_that_names_its_id(path: Path) -> None:
    fill(path, 2)
    lines = fill(path, 3, OTHER_KEY)
    key_id = json.loads(lines[-1])["key"]
    verdict = check(path)
    assert verdict.problems[0] == f"line 3: sealed with key {key_id}, which is not among those given"
    assert sum(problem.startswith("line") for problem in verdict.problems) == 1
    assert verdict.record_count == 2


def test_a_truncation_before_the_key_changed_is_named(path: Path) -> None:
    lines = fill(path)
    path.write_bytes(b"".join(lines[:-1]))
    fill(path, 2, OTHER_KEY)
    assert check(path, KEY, OTHER_KEY).problems == (
        "line 5: record 5 missing before record 6: removed or moved",
    )


# --- crashes


@pytest.mark.parametrize("kept_bytes", [1, 2, 40, 200, -2])
def test_a_line_torn_at_the_end_is_a_remark_and_the_next_append_vouches_for_it(
    path: Path, kept_bytes: int
) -> None:
    lines = fill(path, 3)
    head = head_of(path).read_bytes()
    fragment = fill(path, 1)[-1][:kept_bytes]
    path.write_bytes(b"".join(lines) + fragment)
    head_of(path).write_bytes(head)
    assert check(path).problems == ()
    assert check(path).remarks == ("line 4: torn, as a process died; the next append repairs it",)
    last = fill(path, 1)[-1]
    assert json.loads(last)["torn"] == hashlib.sha256(fragment).hexdigest()
    assert path.read_bytes() == b"".join(lines) + fragment + b"\n" + last
    fill(path, 2)
    assert check(path).problems == ()
    assert check(path).record_count == 6
    assert check(path).remarks == ("line 4: torn, as a process died; line 5 vouches for it",)


def test_a_very_first_line_may_be_torn(path: Path) -> None:
    key_id = json.loads(fill(path, 1)[0])["key"]
    path.write_bytes(path.read_bytes()[:50])
    head = json.dumps({"key": key_id, "mac": "0" * 64, "seq": 0}, separators=(",", ":"))
    seal = hmac.new(hmac.digest(KEY, b"aiobs audit", "sha256"), head.encode(), hashlib.sha256).hexdigest()
    head = json.dumps({**json.loads(head), "seal": seal}, separators=(",", ":"), sort_keys=True)
    head_of(path).write_text(head)  # it is written before the first record
    assert check(path).problems == ()
    fill(path, 1)
    assert check(path).problems == ()
    assert check(path).record_count == 1


def test_a_repair_may_itself_be_torn(path: Path) -> None:
    fill(path, 2)
    with path.open("ab") as log:
        log.write(b'{"at":"20\n{"at":"2026-')
    assert check(path).problems == ()
    fill(path, 2)
    assert check(path).problems == ()
    assert check(path).remarks == ("lines 3 to 4: torn, as a process died; line 5 vouches for it",)


def test_an_edited_or_removed_torn_line_is_named(path: Path) -> None:
    fill(path, 2)
    with path.open("ab") as log:
        log.write(b"{fragment")
    lines = fill(path, 2)
    assert problems_after(path, [*lines[:2], b"{Fragment\n", *lines[3:]]) == (
        "line 3: no audit record: edited, inserted or joined"
    )
    assert problems_after(path, [*lines[:2], *lines[3:]]) == (
        "line 3: the torn line that this record vouches for was removed"
    )


def test_a_record_that_lost_its_newline_stays_a_record(path: Path) -> None:
    path.write_bytes(b"".join(fill(path, 3)).removesuffix(b"\n"))
    assert check(path).is_intact
    assert check(path).remarks == (
        "line 3: a whole record without its newline, as a process died; the next append repairs it",
    )
    fill(path, 2)
    assert check(path).record_count == 5
    assert check(path).problems == check(path).remarks == ()


def test_a_head_left_behind_is_no_problem(path: Path) -> None:
    fill(path, 3)
    head = head_of(path).read_bytes()
    fill(path, 1)
    head_of(path).write_bytes(head)
    assert check(path).is_intact
    fill(path, 2)
    assert check(path).is_intact
    assert check(path).record_count == 6


def test_the_last_record_is_found_behind_much_that_is_none(path: Path) -> None:
    fill(path, 3)
    with path.open("ab") as log:
        log.write(b"x" * 1_000_000)
    fill(path, 1)
    assert check(path).problems == ()


@posix_only
def test_a_writer_killed_at_any_moment_leaves_a_valid_log(path: Path) -> None:
    for wait_s in (0.0, 0.003, 0.011, 0.02, 0.05):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, path, KEY, "-"], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(wait_s)
            writer.send_signal(signal.SIGKILL)
        fill(path, 1)
        assert check(path).problems == ()


# --- many writers


def test_processes_that_append_at_once_make_one_chain(path: Path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, KEY, "50"]) for _ in range(4)]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert check(path).problems == ()
        time.sleep(0.01)
    assert [writer.returncode for writer in writers] == [0] * 4
    verdict = check(path)
    assert verdict.problems == verdict.remarks == ()
    assert verdict.record_count == 200


def test_a_record_that_is_half_written_meanwhile_is_no_problem(path: Path) -> None:
    fill(path, 1)
    first, head = path.read_bytes(), path.with_name(f"{path.name}.head").read_bytes()
    fill(path, 150)
    later = path.read_bytes()[len(first) :].splitlines(keepends=True)
    path.write_bytes(first)
    path.with_name(f"{path.name}.head").write_bytes(head)

    def write_in_halves() -> None:
        with path.open("ab", buffering=0) as log:
            for line in later:
                for piece in (line[:90], line[90:]):
                    log.write(piece)
                    time.sleep(0.0005)

    writer = threading.Thread(target=write_in_halves)
    writer.start()
    while writer.is_alive():
        assert check(path).problems == ()
    writer.join()
    assert check(path).record_count == 151


@posix_only
def test_a_log_made_before_a_fork_serves_parent_and_child(path: Path) -> None:
    program = textwrap.dedent("""
        import os, pathlib, sys
        from aiobs_core.privacy.audit import AuditLog
        log = AuditLog(pathlib.Path(sys.argv[1]), sys.argv[2].encode())
        log.append("masked", {})
        child = os.fork()
        for _ in range(10):
            log.append("masked", {"in": "child" if child == 0 else "parent"})
        if child:
            os.waitpid(child, 0)
    """)
    subprocess.run([sys.executable, "-c", program, path, KEY], check=True)
    assert check(path).is_intact
    assert check(path).record_count == 21


# --- properties


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("sample") / "audit.jsonl"
    fill(path, 4)
    with path.open("ab") as log:
        log.write(b"{torn")
    fill(path, 2)
    return path, path.read_bytes()


@settings(max_examples=400, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_edit_of_a_single_byte_is_found(sample: tuple[Path, bytes], place: float, flip: int) -> None:
    path, content = sample
    at = int(place * len(content))
    path.write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
    assert not check(path).is_intact


@settings(max_examples=200, deadline=None)
@given(start=st.floats(0, 1, exclude_max=True), removed_bytes=st.integers(2, 900))
def test_any_bytes_removed_are_found(sample: tuple[Path, bytes], start: float, removed_bytes: int) -> None:
    path, content = sample
    at = int(start * (len(content) - 1))
    path.write_bytes(content[:at] + content[at + removed_bytes :])
    assert not check(path).is_intact


PIECES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"\n", b"{", b"}", b",", b'"', b"NaN", b'"seq":1', b'"facts":{},', b'"torn":"' + b"0" * 64 + b'"']
    ),
    st.integers(1, 9).map(lambda seq: forge(seq, "0" * 64)),
    st.integers(1, 9).map(lambda seq: forge(seq, "0" * 64, head_found=None, torn="0" * 64)),
    st.tuples(st.integers(0, 300), st.integers(0, 300)).map(lambda cut: forge(7, "0" * 64)[cut[0] : cut[1]]),
)


@settings(max_examples=300, deadline=None)
@given(content=st.lists(PIECES, max_size=8).map(b"".join), head=PIECES | st.none())
def test_no_content_makes_verify_or_append_raise(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes | None
) -> None:
    path = tmp_path_factory.mktemp("any") / "audit.jsonl"
    path.write_bytes(content)
    if head is not None:
        head_of(path).write_bytes(head)
    check(path)
    fill(path, 1)
    assert check(path).record_count <= 1


def test_a_second_field_of_the_same_name_is_no_record(path: Path) -> None:
    lines = fill(path, 3)
    lines[1] = lines[1].replace(b'"facts":', b'"facts":{},"facts":')
    assert "line 2: no audit record" in problems_after(path, lines)


def test_a_field_that_no_writer_wrote_is_found(path: Path) -> None:
    lines = fill(path, 3)
    lines[1] = lines[1].replace(b'"key":', b'"hello":{},"key":')
    assert problems_after(path, lines).startswith("line 2: ")


@posix_only
def test_a_disk_that_is_full_leaves_no_half_a_record(path: Path) -> None:
    fill(path, 2)
    program = textwrap.dedent("""
        import pathlib, resource, signal, sys
        from aiobs_core.privacy.audit import AuditLog
        path = pathlib.Path(sys.argv[1])
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, -1))
        try:
            AuditLog(path, sys.argv[2].encode()).append("masked", {"rule": "x" * 500})
        except OSError:
            print("refused")
    """)
    before = path.read_bytes()
    done = subprocess.run([sys.executable, "-c", program, path, KEY], check=True, capture_output=True)
    assert done.stdout == b"refused\n"
    assert path.read_bytes() == before
    assert check(path).is_intact


def test_a_verdict_takes_time_in_proportion_to_a_line_of_any_make(path: Path) -> None:
    fill(path, 1)
    unit = b'},"key":"abcdef","kind":"'
    line = b'{"at":"2","facts":{' + unit * 30_000
    assert len(problems_after(path, [*path.read_bytes().splitlines(keepends=True), line + b"\n"])) < 200
