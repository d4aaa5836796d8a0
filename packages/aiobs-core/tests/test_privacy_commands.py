"""`aiobs erase`, `aiobs audit`, `aiobs privacy`, and the reading of content that `show` and `export` note."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import datetime, timezone

import pytest
from opentelemetry.sdk.trace import Event

from aiobs_core import cli, semconv
from aiobs_core._health import Health
from aiobs_core._settings import Settings
from aiobs_core.privacy import reads
from aiobs_core.privacy.audit import AuditLog, verify
from aiobs_core.privacy.hashing import NO_KEYS, Hasher, key_id, keys_in
from aiobs_core.privacy.keys import has_key, installation_key_file, key_source, keys_in_force
from aiobs_core.store.reader import Store
from aiobs_core.store.writer import StoreExporter

KEY, OLD_KEY = "the key of these tests", "the key before that one"
HASH = Hasher(keys_in(KEY)).hash("user_id", "u-ada")
DAY_NS = 86_400 * 10**9
SECRET = "jane@example.com"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("AIOBS_", "OTEL_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("AIOBS_HASH_KEY", KEY)
    return tmp_path / ".aiobs"


@pytest.fixture
def fill(folder):
    def fill(*spans):
        exporter = StoreExporter(folder, health=Health())
        exporter.export(spans)
        exporter.shutdown()

    return fill


@pytest.fixture
def log(folder):
    """An audit log in the store's folder: it is in use, since it is there."""
    path = folder / "audit.jsonl"
    AuditLog(path, KEY.encode()).append("started", {"policy": "strict"})
    return path


def run(capsys, *argv):
    code = cli.main(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def of_user(make_span, user, **options):
    return make_span("chat", {semconv.SPAN_KIND: "model", semconv.USER_ID: user}, **options)


def traces_in(folder):
    store = Store(folder)
    try:
        return {int(run.trace_id, 16) for run in store.runs()}
    finally:
        store.close()


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class Terminal(io.StringIO):
    def isatty(self):
        return True


# --- erase


def test_erase_takes_the_hash_as_it_is_displayed(fill, make_span, folder, capsys):
    fill(of_user(make_span, HASH, trace_id=1), of_user(make_span, "other", trace_id=2))
    code, out, err = run(capsys, "erase", "--user", HASH, "--yes")
    assert (code, out, err) == (0, f"Erased 1 trace (1 span) from {folder}.\n", "")
    assert traces_in(folder) == {2}


def test_erase_finds_a_plain_id_under_every_key_and_in_the_clear(
    fill, make_span, folder, monkeypatch, capsys
):
    monkeypatch.setenv("AIOBS_HASH_KEY", f"{KEY}\n{OLD_KEY}")
    old = Hasher(keys_in(OLD_KEY)).hash("user_id", "u-ada")
    fill(*(of_user(make_span, user, trace_id=at) for at, user in enumerate([HASH, old, "u-ada", "bob"], 1)))
    code, out, _ = run(capsys, "erase", "--user-id", "u-ada", "--yes", "--json")
    assert code == 0
    assert json.loads(out) == {
        "store": str(folder), "outboxes": [], "trace_count": 3, "span_count": 3, "spooled_span_count": 0,
        "waiting_span_count": 0, "is_compacted": True, "remark": None,
    }  # fmt: skip
    assert traces_in(folder) == {4}


def test_erase_says_why_it_found_nothing_of_a_user(fill, make_span, folder, monkeypatch, capsys):
    fill(make_span(trace_id=1))
    code, out, _ = run(capsys, "erase", "--user-id", "u-ada", "--yes")
    assert (code, "No span there carries a user (ai.agent.user.id)" in out) == (0, True)
    fill(of_user(make_span, HASH, trace_id=2))
    code, out, _ = run(capsys, "erase", "--user-id", "u-bob", "--yes")
    assert (code, "none of them is this one" in out) == (0, True)
    monkeypatch.setenv("AIOBS_HASH_KEY", OLD_KEY)
    code, out, _ = run(capsys, "erase", "--user-id", "u-ada", "--yes", "--json")
    assert (code, f"hashed under {HASH[:6]}" in json.loads(out)["remark"]) == (1, True)
    assert "AIOBS_HASH_KEY" in json.loads(out)["remark"]
    assert traces_in(folder) == {1, 2}


def test_erase_takes_a_trace_by_its_first_digits(fill, make_span, folder, capsys):
    fill(make_span(trace_id=0xABC << 112), make_span(trace_id=7))
    assert run(capsys, "erase", "--trace", "0abc", "--yes")[0] == 0
    assert traces_in(folder) == {7}
    code, _, err = run(capsys, "erase", "--trace", "0abc", "--yes")
    assert (code, "No trace" in err) == (1, True)


@pytest.mark.parametrize("date", ["2027-01-16", "2027-01-15T17:00:00+09:00", "2027-01-15T08:00:01Z"])
def test_erase_takes_dates_and_instants(fill, make_span, folder, monkeypatch, capsys, date):
    monkeypatch.setenv("TZ", "UTC")
    noon_ns = int(datetime(2027, 1, 15, 7, tzinfo=timezone.utc).timestamp()) * 10**9
    fill(make_span(trace_id=1, start_ns=noon_ns), make_span(trace_id=2, start_ns=noon_ns + 2 * DAY_NS))
    assert run(capsys, "erase", "--before", date, "--yes")[0] == 0
    assert traces_in(folder) == {2}


def test_a_date_without_a_zone_is_local(folder):
    from aiobs_core.erasure.commands import _instant_ns

    local = datetime(2027, 1, 16).astimezone()
    assert _instant_ns("2027-01-16") == int(local.timestamp()) * 10**9
    assert _instant_ns("2027-01-16T00:00:00.000001Z") % 10**9 == 1_000


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["erase"], "one of the arguments --user --user-id --trace --before is required"),
        (["erase", "--user", HASH, "--trace", "1"], "not allowed with argument"),
        (["erase", "--user", "u-ada", "--yes"], "expected a hash as it is displayed"),
        (["erase", "--user-id", " ", "--yes"], "expected the id of a user"),
        (["erase", "--before", "yesterday", "--yes"], "expected a date or date-time in ISO 8601"),
    ],
)
def test_a_wrong_call_of_erase_erases_nothing(fill, make_span, folder, capsys, argv, said):
    fill(of_user(make_span, HASH, trace_id=1))
    code, _, err = run(capsys, *argv)
    assert (code, said in err) == (2, True)
    assert traces_in(folder) == {1}


def test_erase_needs_yes_without_a_terminal(fill, make_span, folder, monkeypatch, capsys):
    fill(of_user(make_span, HASH, trace_id=1))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    code, out, err = run(capsys, "erase", "--user", HASH)
    assert (code, out) == (2, "")
    assert (
        err
        == "aiobs: erase asks before it deletes, and there is no terminal to ask on; give --yes. Nothing was erased.\n"
    )
    assert traces_in(folder) == {1}


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y\n", 0, set()), ("no\n", 1, {1}), ("\n", 1, {1}), ("", 1, {1})]
)
def test_erase_asks_on_a_terminal(fill, make_span, folder, monkeypatch, capsys, answer, code, left):
    fill(of_user(make_span, HASH, trace_id=1))
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    found, out, err = run(capsys, "erase", "--user", HASH)
    assert found == code
    assert err.startswith(f"Erase all traces of the user {HASH} from {folder}? This cannot be undone. [y/N] ")
    assert bool(out) is (code == 0)
    assert traces_in(folder) == left


def test_a_user_id_is_never_looked_for_without_a_key(fill, make_span, folder, monkeypatch, capsys):
    fill(of_user(make_span, HASH, trace_id=1))
    monkeypatch.setenv("AIOBS_HASH_KEY", "short")
    code, _, err = run(capsys, "erase", "--user-id", "u-ada", "--yes")
    assert (code, "There is no valid hash key" in err, "u-ada" in err) == (1, True, False)
    monkeypatch.delenv("AIOBS_HASH_KEY")
    path = installation_key_file()
    path.parent.mkdir(parents=True)
    path.write_text("short")
    path.chmod(0o600)
    code, _, err = run(capsys, "erase", "--user-id", "u-ada", "--yes")
    assert (code, "The hash key cannot be used" in err) == (1, True)
    assert traces_in(folder) == {1}


def test_erase_says_what_remains(fill, make_span, folder, capsys):
    import sqlite3

    fill(of_user(make_span, HASH, trace_id=1))
    reader = sqlite3.connect(folder / "aiobs.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM spans").fetchone()
    try:
        code, out, _ = run(capsys, "erase", "--user", HASH, "--yes")
    finally:
        reader.close()
    assert code == 1
    assert out.startswith("Erased 1 trace (1 span) from ")
    assert "bytes of them remain" in out.splitlines()[1]


@pytest.mark.parametrize(
    ("argv", "facts"),
    [
        (["--user", HASH], {"selector": "user", "user": HASH}),
        (["--user-id", "u-ada"], {"selector": "user_id"}),
        (["--trace", "1" * 32], {"selector": "trace", "trace": "1" * 32}),
        (["--before", "2030-01-01T00:00Z"], {"selector": "before", "before": "2030-01-01T00:00:00+00:00"}),
    ],
)
def test_an_erasure_is_noted_without_the_plain_id(fill, make_span, log, capsys, argv, facts):
    fill(of_user(make_span, HASH, trace_id=int("1" * 32, 16)))
    assert run(capsys, "erase", *argv, "--yes")[0] == 0
    noted = records(log)[-1]
    counts = {
        "trace_count": 1, "span_count": 1, "spooled_span_count": 0, "is_compacted": True, "waiting_span_count": 0,
    }  # fmt: skip
    assert (noted["kind"], noted["facts"]) == ("erasure", {"who": reads.operating_user(), **facts, **counts})
    assert b"u-ada" not in log.read_bytes()
    assert verify(log, [KEY.encode()]).is_intact


def test_nothing_is_noted_where_no_audit_log_is_in_use(fill, make_span, folder, monkeypatch, capsys):
    fill(of_user(make_span, HASH, trace_id=1))
    assert run(capsys, "erase", "--user", HASH, "--yes")[0] == 0
    assert not (folder / "audit.jsonl").exists()
    named = folder / "named.jsonl"
    monkeypatch.setenv("AIOBS_AUDIT", str(named))
    assert run(capsys, "erase", "--user", HASH, "--yes")[0] == 0
    assert records(named)[0]["facts"]["trace_count"] == 0


def test_an_erasure_that_fails_is_noted(fill, make_span, folder, log, monkeypatch, capsys):
    from aiobs_core.store import compaction

    fill(of_user(make_span, HASH, trace_id=1))
    monkeypatch.setattr(compaction, "PATIENCE_S", 0.1)
    import sqlite3

    writer = sqlite3.connect(folder / "aiobs.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    try:
        code, _, err = run(capsys, "erase", "--user", HASH, "--yes")
    finally:
        writer.close()
    assert (code, "cannot be written now" in err) == (1, True)
    assert records(log)[-1]["facts"]["is_complete"] is False


def test_erase_says_that_there_is_no_store(folder, monkeypatch, capsys):
    code, _, err = run(capsys, "erase", "--user", HASH, "--yes")
    assert (code, "There is no aiobs store in" in err) == (1, True)
    assert not folder.exists()
    monkeypatch.setenv("AIOBS_STORE", "off")
    code, _, err = run(capsys, "erase", "--user", HASH, "--yes")
    assert (code, "AIOBS_STORE is `off`" in err) == (1, True)


# --- reads of content


def content_of(make_span, **options):
    return make_span("chat", {semconv.GEN_AI_INPUT_MESSAGES: "[]"}, **options)


def test_reading_content_is_noted(fill, make_span, log, capsys, tmp_path):
    fill(content_of(make_span, trace_id=1), make_span("plain", trace_id=2))
    fill(
        make_span("failed", trace_id=3, events=[Event("exception", {semconv.EXCEPTION_MESSAGE: "no"}, 1)]),
        make_span("other", {"llm.input_messages.0.message.content": "hi"}, trace_id=4),
    )
    assert run(capsys, "show", format(1, "032x"), "--json")[0] == 0
    assert run(capsys, "export", "--format", "jsonl")[0] == 0
    assert run(capsys, "export", "--format", "otlp-json", "-o", str(tmp_path / "out"))[0] == 0
    who = reads.operating_user()
    ids = [format(number, "032x") for number in (1, 3, 4)]
    assert [(record["kind"], record["facts"]) for record in records(log)[1:]] == [
        ("content_read", {"who": who, "command": "show --json", "trace_count": 1, "trace_ids": ids[:1]}),
        ("content_read", {"who": who, "command": "export", "trace_count": 3, "trace_ids": ids}),
        ("content_read", {"who": who, "command": "export", "trace_count": 3, "trace_ids": ids}),
    ]


def test_reading_what_is_no_content_is_not_noted(fill, make_span, log, capsys):
    hashes = {semconv.PROMPT_HASH: HASH, semconv.TOOL_ARGUMENTS_HASH: HASH, semconv.USER_ID: HASH}
    fill(make_span("chat", {**hashes, semconv.OI_USER_ID: HASH}, trace_id=1))
    run(capsys, "show", "last", "--json")
    run(capsys, "show", "last")
    run(capsys, "export", "--format", "jsonl")
    run(capsys, "runs")
    assert len(records(log)) == 1


def test_no_more_than_32_traces_are_named(fill, make_span, log, capsys):
    fill(*(content_of(make_span, trace_id=number) for number in range(1, 41)))
    run(capsys, "export", "--format", "jsonl")
    facts = records(log)[-1]["facts"]
    assert (facts["trace_count"], len(facts["trace_ids"])) == (40, 32)


def test_a_log_that_cannot_be_written_stops_no_command(fill, make_span, folder, monkeypatch, capsys):
    fill(content_of(make_span, trace_id=1))
    (folder / "blocked").mkdir()
    monkeypatch.setenv("AIOBS_AUDIT", str(folder / "blocked"))
    code, out, err = run(capsys, "show", "last", "--json")
    assert (code, len(json.loads(out))) == (0, 1)
    assert "no record 'content_read' was written" in err
    monkeypatch.setenv("AIOBS_HASH_KEY", "short")
    monkeypatch.setenv("AIOBS_AUDIT", str(folder / "audit.jsonl"))
    assert "there is no hash key to seal it with" in run(capsys, "export", "--format", "jsonl")[2]


# --- audit


def test_verify_says_what_it_found(log, capsys):
    AuditLog(log, KEY.encode()).append("masked", {"email": 2})
    first, last = records(log)
    code, out, err = run(capsys, "audit", "verify")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"{log}: intact",
        f"records: 2, from {first['at']} to {last['at']}",
        f"head: 2:{last['mac']} (note it elsewhere: with --expect, it shows whether the log was taken back)",
    ]
    assert run(capsys, "audit", "verify", "--expect", f"1:{first['mac']}")[0] == 0
    log.write_bytes(log.read_bytes().replace(b'"email":2', b'"email":3'))
    code, out, _ = run(capsys, "audit", "verify", str(log))
    assert (code, out.splitlines()[0]) == (1, f"{log}: NOT intact")
    assert "problem: line 2: its MAC is wrong: edited, or written without the key" in out
    found = json.loads(run(capsys, "audit", "verify", "--json")[1])
    assert (found["is_intact"], found["record_count"], found["path"]) == (False, 1, str(log))


def test_verify_refuses_a_wrong_call(log, tmp_path, monkeypatch, capsys):
    code, _, err = run(capsys, "audit", "verify", "--expect", "3")
    assert (code, err.startswith("aiobs: --expect: '3' is not SEQ:MAC")) == (2, True)
    assert run(capsys, "audit")[0] == 2
    code, _, err = run(capsys, "audit", "verify", str(tmp_path / "none"))
    assert (code, "There is no audit log at" in err) == (1, True)
    assert run(capsys, "audit", "show", str(tmp_path / "none"))[0] == 1
    monkeypatch.setenv("AIOBS_AUDIT", "off")
    code, _, err = run(capsys, "audit", "verify")
    assert (code, "name the file" in err) == (1, True)
    monkeypatch.setenv("AIOBS_HASH_KEY", "short")
    assert run(capsys, "audit", "verify", str(log))[0] == 1


def test_show_prints_records_readably(log, capsys):
    for number in range(3):
        facts = {"email": number, "who": "ada b", "evil": "\x1b[2J"}
        AuditLog(log, KEY.encode()).append("masked", facts)
    with log.open("a") as file:
        file.write('half a rec\n{"facts": 1}\n')
    code, out, _ = run(capsys, "audit", "show", "--limit", "3")
    last = records_that_parse(log)[-1]
    assert code == 0
    assert out.splitlines() == [
        f'#4  {last["at"]}  masked  email=2 evil=�[2J who="ada b"',
        "line 5: no audit record; `aiobs audit verify` says more",
        "line 6: no audit record; `aiobs audit verify` says more",
    ]


def records_that_parse(path):
    return [json.loads(line) for line in path.read_text().splitlines() if '"mac"' in line]


# --- privacy test


@pytest.fixture
def text(folder, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(
        f"Hello {SECRET}\ncall +1 650-253-0000\n\nagain {SECRET}\n"
        '{"password": "hunter22", "to": "bob@example.org"}\n'
    )
    return path


def test_privacy_test_shows_what_is_masked_and_where(text, capsys):
    code, out, err = run(capsys, "privacy", "test", str(text))
    assert (code, err) == (0, "")
    masked, table, modes = out.split("\n\n", 3)[0:1], out.split("\n\n")[2], out.split("\n\n")[3]
    assert masked == ["Hello <EMAIL>\ncall <PHONE>"]
    assert '{"password": "<CREDENTIAL>", "to": "<EMAIL>"}' in out
    assert table.splitlines() == [
        "DETECTOR    COUNT  REPLACEMENT  LINES",
        "email       3      tag          1, 4, 5",
        "phone       1      tag          2",
        "credential  1      tag          5",
    ]
    assert modes.splitlines()[0].startswith("policy strict, version 1, fingerprint ")
    assert "prompts         hash   hash" in modes
    for value in (SECRET, "hunter22", "bob@", "650"):
        assert value not in out


def test_privacy_test_takes_standard_input_and_another_policy(folder, monkeypatch, capsys):
    stdin = io.TextIOWrapper(io.BytesIO(f"to {SECRET}".encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    found = json.loads(run(capsys, "privacy", "test", "-", "--policy", "gdpr", "--json")[1])
    assert found["findings"] == [
        {"detector": "email", "value_count": 1, "replacement": "pseudonym", "lines": [1]}
    ]
    assert (found["policy"], found["modes"]["spans"]["prompts"]) == ("gdpr", "hash")
    assert found["text"].startswith("to <EMAIL:")


def test_privacy_test_sees_a_whole_document_of_json_and_a_key_over_many_lines(folder, tmp_path, capsys):
    document = tmp_path / "a.json"
    document.write_text(json.dumps({"a": 1, "api_key": "hunter22!", "b": [SECRET]}, indent=2) + "\n")
    found = json.loads(run(capsys, "privacy", "test", str(document), "--json")[1])
    assert [(each["detector"], each["lines"]) for each in found["findings"]] == [
        ("credential", [3]),
        ("email", [5]),
    ]
    begin, end = ("-----" + word + " RSA PRIVATE KEY-----" for word in ("BEGIN", "END"))
    key = tmp_path / "key"
    key.write_text(f"see:\n{begin}\nProc-Type: 4,ENCRYPTED\n\nMIIEow\n{end}\nend of it\n")
    assert run(capsys, "privacy", "test", str(key))[1].startswith("see:\n<PRIVATE_KEY>\nend of it\n")


def test_privacy_test_says_that_nothing_was_found_and_makes_no_key(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("AIOBS_HASH_KEY")
    (tmp_path / "a").write_bytes(b"plain \xff\n")
    code, out, _ = run(capsys, "privacy", "test", str(tmp_path / "a"))
    assert (code, "Nothing was found." in out) == (0, True)
    assert not installation_key_file().exists()


def test_an_unknown_policy_or_file_is_refused(folder, text, capsys):
    code, _, err = run(capsys, "privacy", "test", str(text), "--policy", "lax")
    assert (code, "--policy: expected one of strict, gdpr" in err, "got 'lax'" in err) == (2, True, True)
    code, _, err = run(capsys, "privacy", "test", "missing.txt")
    assert (code, "missing.txt: No such file" in err) == (1, True)


def test_many_lines_are_counted_rather_than_listed(folder, tmp_path, capsys):
    (tmp_path / "a").write_text(f"{SECRET}\n" * 15)
    out = run(capsys, "privacy", "test", str(tmp_path / "a"))[1]
    assert "email     15     tag          1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 5 more" in out


# --- privacy show, hash


def test_privacy_show_says_what_is_in_force(folder, monkeypatch, capsys):
    monkeypatch.setenv("AIOBS_CONTENT", "tool_results=masked")
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "span_only")
    code, out, err = run(capsys, "privacy", "show", "--policy", "gdpr")
    assert (code, err) == (0, "")
    head, modes, detectors, off = out.split("\n\n")
    assert head.splitlines()[1:] == [
        f"hash key   {key_id(KEY.encode())} (AIOBS_HASH_KEY)",
        "regions    KR, US",
        "retention  30 days",
    ]
    assert "tool_results    masked  none" in modes
    assert "email            pseudonym" in detectors
    assert off.startswith("off: url")
    found = json.loads(run(capsys, "privacy", "show", "--json")[1])
    assert (found["policy"]["name"], found["key_id"]) == ("strict", key_id(KEY.encode()))
    assert found["modes"]["logs"]["tool_results"] == "none"
    assert KEY not in out


def test_privacy_show_lists_the_problems_of_the_settings(folder, monkeypatch, capsys):
    monkeypatch.setenv("AIOBS_PRIVACY_POLICY", "lax")
    monkeypatch.setenv("AIOBS_HASH_KEY", "short")
    code, out, err = run(capsys, "privacy", "show")
    problems = [line for line in err.splitlines() if line.startswith("aiobs: ")]
    assert (code, out) == (1, "")
    assert problems[0].startswith("aiobs: AIOBS_PRIVACY_POLICY: expected one of strict")
    assert problems[1].startswith("aiobs: AIOBS_HASH_KEY: expected a secret of at least 16 bytes")


def test_privacy_show_makes_no_key(folder, monkeypatch, capsys):
    monkeypatch.delenv("AIOBS_HASH_KEY")
    out = run(capsys, "privacy", "show")[1]
    path = installation_key_file()
    assert f"hash key   none yet, made on first use (this installation: {path})" in out
    assert not path.exists()


@pytest.mark.parametrize(
    ("argv", "field", "text"),
    [
        (["u-ada"], "user_id", "u-ada"),
        (["--field", "prompts", "Hello"], "prompts", "user: Hello"),
        (["--field", "completions", "Hi"], "completions", "assistant: Hi"),
        (["--field", "prompts", "--as-is", "user: a\nassistant: b"], "prompts", "user: a\nassistant: b"),
        (["--field", "tool_arguments", '{"b": 1, "a": "é"}'], "tool_arguments", '{"a":"é","b":1}'),
        (["--field", "tool_results", "sunny"], "tool_results", "sunny"),
    ],
)
def test_privacy_hash_is_that_of_the_attributes(folder, capsys, argv, field, text):
    assert run(capsys, "privacy", "hash", *argv)[1] == f"{Hasher(keys_in(KEY)).hash(field, text)}\n"


def test_privacy_hash_takes_standard_input_and_needs_a_key(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("u-ada\n"))
    assert run(capsys, "privacy", "hash", "-")[1] == f"{HASH}\n"
    monkeypatch.setenv("AIOBS_HASH_KEY", "short")
    code, out, err = run(capsys, "privacy", "hash", "u-ada")
    assert (code, out, "There is no valid hash key" in err) == (1, "", True)


# --- keys


def test_keys_come_from_the_setting_then_the_file_then_this_installation(folder, tmp_path):
    file = tmp_path / "key"
    file.write_text(OLD_KEY)
    file.chmod(0o600)
    both = Settings.load({"AIOBS_HASH_KEY": KEY, "AIOBS_HASH_KEY_FILE": str(file)})
    only_file = Settings.load({"AIOBS_HASH_KEY_FILE": str(file)})
    neither = Settings.load({})
    assert (keys_in_force(both), key_source(both)) == (keys_in(KEY), "AIOBS_HASH_KEY")
    assert (keys_in_force(only_file), key_source(only_file)) == (keys_in(OLD_KEY), "AIOBS_HASH_KEY_FILE")
    assert not has_key(neither)
    made = keys_in_force(neither)
    assert has_key(neither)
    assert made == keys_in_force(neither) != NO_KEYS
    assert key_source(neither) == f"this installation: {installation_key_file()}"


# --- start-up


def test_help_loads_no_detector(folder):
    code = (
        "import sys\nfrom aiobs_core.cli import main\nmain(['--help'])\n"
        "heavy = [name for name in sys.modules if name.startswith(('phonenumbers', 'stdnum', 'aiobs_core.privacy.detectors',"
        " 'aiobs_core.privacy.masker', 'aiobs_core.store.erase'))]\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(name in done.stdout for name in ("erase", "audit", "privacy"))
