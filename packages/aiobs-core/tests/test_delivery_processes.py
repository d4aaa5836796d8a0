"""Delivery by processes that fork, share a spool, end in all ways, or are killed: each is a new interpreter."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from aiobs_core import cli
from aiobs_testing.receiver import OtlpReceiver

needs_posix = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="there is no fork and no SIGKILL on this system"
)
PATIENCE_S = 30.0

PRELUDE = """
import os, sys, signal, threading, time
import aiobs_core
from aiobs_core import flush, span

def run(name):
    with span(name) as current:
        return current.get_span_context().span_id

def put(name):
    "Record a run and wait until the worker has put it into the spool."
    span_id = run(name)
    recorder = aiobs_core.get_recorder()
    while recorder._pipeline._accounts.balance().received <= put.before or not recorder._pipeline._queue.empty():
        time.sleep(0.001)
    put.before += 1
    return span_id
put.before = 0
"""


@pytest.fixture
def environ(tmp_path):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIOBS_", "OTEL_"))}

    def make(endpoint, **more):
        return {
            **kept,
            "AIOBS_SPOOL": str(tmp_path / "outbox"),
            "AIOBS_CONSOLE": "off",
            "AIOBS_METRICS": "off",
            "AIOBS_FLUSH_INTERVAL_S": "0.01",
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            **more,
        }

    return make


def start(script, environ, **options):
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PRELUDE + script]
    return subprocess.Popen(
        command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options
    )


def finish(process):
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    return out


def drain(receiver, environ, expected, capsys, tmp_path):
    """Let another process deliver what is left; the balance of all of them, which must add up."""
    out = finish(
        start(
            """
run("last")
assert flush(20)
box = aiobs_core.get_recorder()._pipeline._destinations.delivery._boxes.all()[0]
deadline = time.monotonic() + 25
while time.monotonic() < deadline:
    with box.reading() as db:
        if not db.execute("SELECT count(*) FROM spans").fetchone()[0]:
            break
    time.sleep(0.02)
""",
            environ,
        )
    )
    assert out == ""
    code = cli.main(["doctor", "--json", "--spool", str(tmp_path / "outbox")])
    found = json.loads(capsys.readouterr().out)
    assert (code, found["unexplained"], found["total"]["waiting"]) == (0, 0, 0), found
    received = Counter(int(span["span_id"], 16) for span in receiver.spans)
    assert received.keys() >= expected
    return received, found["total"]


@needs_posix
def test_spans_that_were_put_survive_a_kill_at_any_moment(environ, capsys, tmp_path):
    kill_rounds(12, environ, capsys, tmp_path)


@needs_posix
@pytest.mark.soak
def test_spans_that_were_put_survive_200_kills(environ, capsys, tmp_path):
    kill_rounds(200, environ, capsys, tmp_path)


def kill_rounds(rounds, environ, capsys, tmp_path):
    """Each round: a process records runs and tells those that are in the spool, until it is killed."""
    chance = random.Random(6)
    told = set()
    with OtlpReceiver() as receiver:
        there = environ(receiver.http_endpoint)
        for number in range(rounds):
            receiver.fail_with = 503 if number % 3 == 2 else None
            process = start(
                'while True:\n    span_id = put("run")\n    os.write(1, b"%d\\n" % span_id)\n', there
            )
            lines = [process.stdout.readline()]  # it is at work
            time.sleep(chance.uniform(0.0, 0.25))
            process.send_signal(signal.SIGKILL)
            rest, _ = process.communicate(timeout=PATIENCE_S)
            # The last line may be torn.
            told |= {int(line) for line in (lines[0] + rest).split("\n")[:-1]}
        receiver.fail_with = None
        received, total = drain(receiver, there, told, capsys, tmp_path)
    assert len(told) >= rounds
    # As `aiobs doctor` counts them: spans, not arrivals.
    twice = sum(count > 1 for count in received.values())
    assert twice <= total["repeated"], "a span arrived twice, and nobody says that it may have"


@needs_posix
def test_ten_processes_share_a_spool_and_nothing_is_sent_twice(environ, capsys, tmp_path):
    with OtlpReceiver() as receiver:
        there = environ(receiver.http_endpoint, AIOBS_EXPORT_TIMEOUT_S="20")
        processes = [
            start("for number in range(200):\n    run('run')\n    time.sleep(0.001)\nassert flush(20)", there)
            for _ in range(10)
        ]
        for process in processes:
            finish(process)
        received, total = drain(receiver, there, set(), capsys, tmp_path)
    assert len(received) == 2_001
    assert max(received.values()) == 1
    assert (total["exported"], total["repeated"], total["dropped"]) == (2_001, 0, {})


@needs_posix
def test_a_fork_in_the_middle_of_batches_sends_each_span_once(environ, capsys, tmp_path):
    with OtlpReceiver(delay_s=0.02) as receiver:
        there = environ(receiver.http_endpoint, AIOBS_EXPORT_TIMEOUT_S="20")
        finish(
            start(
                """
stop = threading.Event()
def busy():
    while not stop.is_set():
        run("parent")
        time.sleep(0.001)
thread = threading.Thread(target=busy)
thread.start()
children = []
for _ in range(10):
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        for number in range(20):
            run("child")
        os._exit(0 if flush(20) else 1)
    children.append(child)
statuses = [os.waitpid(child, 0)[1] for child in children]
stop.set()
thread.join()
assert not any(statuses), statuses
assert flush(20)
""",
                there,
            )
        )
        received, total = drain(receiver, there, set(), capsys, tmp_path)
        names = Counter(span["name"].split()[-1] for span in receiver.spans)
    assert max(received.values()) == 1
    assert names["child"] == 200
    assert total["dropped"] == {}


@needs_posix
@pytest.mark.parametrize("last_act", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGTERM)", "os.abort()"])
def test_spans_in_the_spool_outlive_an_end_without_exit_handlers(environ, capsys, tmp_path, last_act):
    with OtlpReceiver(fail_with=503) as receiver:
        there = environ(receiver.http_endpoint)
        process = start(f"ids = [put('run') for _ in range(20)]\nprint(*ids, flush=True)\n{last_act}", there)
        out, _ = process.communicate(timeout=PATIENCE_S)
        told = {int(each) for each in out.split()}
        assert len(told) == 20
        receiver.fail_with = None
        received, _ = drain(receiver, there, told, capsys, tmp_path)
    assert max(received.values()) == 1


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
@pytest.mark.parametrize("trouble", ["down", "hangs"])
def test_a_dead_collector_holds_up_no_exit(environ, trouble, protocol):
    """All signals go there: spans, metrics and logs."""
    with OtlpReceiver(delay_s=60) as receiver:
        endpoint = receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint
        if trouble == "down":
            endpoint = "http://127.0.0.1:9"
        there = environ(
            endpoint, OTEL_EXPORTER_OTLP_PROTOCOL=protocol, AIOBS_METRICS="on", OTEL_LOGS_EXPORTER="otlp"
        )
        process = start(
            "for _ in range(10):\n    run('run')\ntime.sleep(2.0)\nprint(time.time(), flush=True)", there
        )
        out, _ = process.communicate(timeout=PATIENCE_S)
        took_s = time.time() - float(out)
    assert process.returncode == 0
    assert took_s < 2.0 + 2.0  # the limit, and what a loaded machine takes to end an interpreter


def test_a_flush_before_the_freeze_is_all_that_a_lambda_needs(environ, capsys, tmp_path):
    """The process is stopped between two calls, and may never go on."""
    with OtlpReceiver() as receiver:
        there = environ(receiver.http_endpoint)
        process = start("print(put('call'), flush(10), flush=True)\ntime.sleep(60)", there)
        said = process.stdout.readline().split()
        process.send_signal(getattr(signal, "SIGSTOP", signal.SIGTERM))
        assert said[1] == "True"
        assert [int(span["span_id"], 16) for span in receiver.spans] == [int(said[0])]
        process.kill()
        process.communicate()


# --- aiobs doctor -----------------------------------------------------------------------------------------------------
@needs_posix
def test_doctor_prints_the_balance_of_all_processes(environ, capsys, tmp_path):
    folder = str(tmp_path / "outbox")
    with OtlpReceiver(fail_with=400) as receiver:
        there = environ(receiver.http_endpoint, OTEL_SERVICE_NAME="shop", OTEL_TRACES_SAMPLER="traceidratio",
                        OTEL_TRACES_SAMPLER_ARG="0")  # fmt: skip
        finish(start("for _ in range(3):\n    run('out')\nflush(5)", there))
        there = environ(receiver.http_endpoint, OTEL_SERVICE_NAME="shop")
        finish(start("logging = __import__('logging').disable(50)\nrun('refused')\nflush(5)", there))
        receiver.fail_with = None
        finish(start("run('sent')\nassert flush(5)", there))
        receiver.fail_with = 503
        finish(start("logging = __import__('logging').disable(50)\nrun('waits')\nflush(0.5)", there))
        assert cli.main(["doctor", "--spool", folder]) == 0
        out = capsys.readouterr().out
        place = receiver.http_endpoint.removeprefix("http://")
    rows = [re.sub(r"\d+ \(ended\)", "P", line).replace("3 ended", "E").split() for line in out.splitlines()]
    assert rows[2:5] == [
        ["E", "shop", place, "5", "1", "0", "3", "1", "0"],
        ["P", "shop", place, "1", "0", "1", "0", "0", "0"],
        ["total", "-", "-", "6", "1", "1", "3", "1", "0"],
    ]
    assert "dropped: 1 refused" in out
    assert "last error: HTTP status 503" in out
    assert f"receiver {place}: accepts connections" in out
    assert "the oldest waiting span waits for" in out
    assert f"1 span of shop waits for {place}, and no process sends there now" in out
    assert out.splitlines()[-1] == "adds up: 6 received = 1 exported + 1 waiting + 3 sampled out + 1 dropped"


def test_doctor_says_nothing_of_that_while_a_process_sends_there(environ, capsys, tmp_path):
    with OtlpReceiver(fail_with=503) as receiver:
        process = start(
            "put('waits')\nprint('put', flush=True)\nsys.stdin.readline()\nos._exit(0)",
            environ(receiver.http_endpoint),
            stdin=subprocess.PIPE,
        )
        assert process.stdout.readline() == "put\n"
        assert cli.main(["doctor", "--spool", str(tmp_path / "outbox")]) == 0
        process.communicate("go\n", timeout=PATIENCE_S)
    said = capsys.readouterr().out
    assert "1 waiting" in said
    assert "no process sends there" not in said


def test_doctor_says_when_it_does_not_add_up(environ, capsys, tmp_path):
    import sqlite3
    from contextlib import closing

    with OtlpReceiver() as receiver:
        finish(start("run('sent')\nassert flush(5)", environ(receiver.http_endpoint)))
    with closing(sqlite3.connect(tmp_path / "outbox" / "outbox.db")) as db, db:
        db.execute("UPDATE processes SET exported = 0")
    assert cli.main(["doctor", "--spool", str(tmp_path / "outbox")]) == 1
    assert "does not add up: 1 received" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("spool", "message"), [("off", "There is no spool (AIOBS_SPOOL"), ("nowhere", "There is no spool in")]
)
def test_doctor_says_where_there_is_nothing_to_look_at(capsys, tmp_path, monkeypatch, spool, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor", "--spool", spool]) == 1
    assert message in capsys.readouterr().err


# --- what the application waits for -----------------------------------------------------------------------------------
@pytest.mark.parametrize("trouble", ["hangs", "503", "spool locked"])
def test_the_application_waits_for_nothing(environ, trouble, record_property):
    """The 99th percentile is bounded; the maximum is reported: it is Python's own, such as a pass of the collector."""
    with OtlpReceiver(
        delay_s=60 if trouble == "hangs" else 0, fail_with=503 if trouble == "503" else None
    ) as receiver:
        there = environ(receiver.http_endpoint, AIOBS_EXPORT_TIMEOUT_S="1")
        process = start(
            f"""
import logging, pathlib, sqlite3
logging.disable(50)
put("first")
lock = sqlite3.connect(pathlib.Path(os.environ["AIOBS_SPOOL"]) / "outbox.db", isolation_level=None)
if {trouble == "spool locked"}:
    lock.execute("BEGIN IMMEDIATE")
took_s = []
for _ in range(4_000):
    began = time.perf_counter()
    run("run")
    took_s.append(time.perf_counter() - began)
    time.sleep(0.0005)
lock.close()
took_s.sort()
health = aiobs_core.get_recorder().health.counts()
print(took_s[int(len(took_s) * 0.99)], took_s[-1], health.get("spans.dropped", 0), flush=True)
os._exit(0)
""",
            there,
        )
        slow_s, slowest_s, dropped = map(float, finish(process).split())
    record_property("slowest_s", slowest_s)
    assert dropped == 0
    assert slow_s < 0.02


@needs_posix
def test_a_disk_that_takes_no_more_loses_nothing_while_the_process_lives(environ):
    """As a quota does it: the system refuses to let the file grow."""
    with OtlpReceiver(fail_with=503) as receiver:
        there = environ(receiver.http_endpoint)
        process = start(
            """
import logging, resource
logging.disable(50)
put("first")
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
for _ in range(1_000):
    run("run")
recorder = aiobs_core.get_recorder()
while recorder._pipeline._accounts.balance().received < 1_001:
    time.sleep(0.01)
print("full" if "otlp.spool_unwritable" in recorder.health.counts() else "not full", flush=True)
sys.stdin.readline()
ok = False
while not ok:
    ok = flush(20)
counts = recorder._pipeline._accounts.balance()
print(counts.exported, counts.unexplained, recorder.health.counts().get("spans.dropped", 0))
""",
            there,
            stdin=subprocess.PIPE,
        )
        assert process.stdout.readline() == "full\n"
        receiver.fail_with = None
        out, _ = process.communicate("go\n", timeout=PATIENCE_S)
        assert out.split() == ["1001", "0", "0"]
        received = Counter(span["span_id"] for span in receiver.spans)
    assert len(received) == 1_001
