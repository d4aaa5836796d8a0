"""Forks, spawned processes, exits and sudden death: each process reports its own runs, once. Each is a new interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from aiobs_core._health import Health
from aiobs_core.store.reader import open_store
from aiobs_testing.receiver import OtlpReceiver

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")

PRELUDE = """
import os, sys, threading, time
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from aiobs_core import configure, flush, get_recorder, observe, shutdown, span

class Lines(SpanExporter):
    "Writes a line for each span: the process that exported it, its name and id."
    def export(self, spans):
        lines = [f"{os.getpid()} {one.name} {one.context.span_id:016x}" + chr(10) for one in spans]
        target = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(target, "".join(lines).encode())
        os.close(target)
        return SpanExportResult.SUCCESS

def run(name):
    with span(name):
        pass

def to_lines(**settings):
    configure(exporters=[Lines()], console="off", store="off", **settings)
"""


@pytest.fixture
def lines(tmp_path):
    return tmp_path / "lines"


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AIOBS_", "OTEL_"))}
    return {**kept, "AIOBS_SPOOL": "off", **variables}


def execute(script: str, *arguments: object, as_file: Path | None = None, **variables: str) -> str:
    """Run a script to its end; returns what it printed. It must exit with 0 and say nothing on stderr."""
    if as_file is not None:
        as_file.write_text(PRELUDE + script)
    what = [str(as_file)] if as_file is not None else ["-c", PRELUDE + script]
    # Python 3.12 warns of every fork in a process with threads, and whoever forks has been told.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", *what, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment(**variables)
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def exported(lines: Path) -> Counter[str]:
    """How often each run was exported; each span id at most once."""
    rows = [line.split() for line in lines.read_text().splitlines()]
    assert len({row[-1] for row in rows}) == len(rows), "a span was exported twice"
    return Counter(row[-2] for row in rows)


@needs_fork
def test_a_forked_worker_exports_its_own_runs_and_no_others(lines):
    """The parent's queue is full of ended runs at the moment of the fork, and one run is open."""
    execute(
        """
to_lines(flush_interval_s=0.5)
for number in range(50):
    run(f"parent-{number}")
with span("open-during-fork"):
    child = os.fork()
    if child == 0:
        for number in range(20):
            run(f"child-{number}")
        assert flush(5)
        os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
run("after")
""",
        lines,
    )
    counts = exported(lines)
    expected = [
        *(f"parent-{n}" for n in range(50)),
        *(f"child-{n}" for n in range(20)),
        "open-during-fork",
        "after",
    ]
    assert counts == Counter(expected)
    by_process = {line.split()[-2]: line.split()[0] for line in lines.read_text().splitlines()}
    assert by_process["child-0"] != by_process["parent-0"]
    assert by_process["open-during-fork"] == by_process["parent-0"]


@needs_fork
def test_forked_workers_that_leave_by_the_front_door_lose_nothing(lines):
    """As with `gunicorn --preload`: set up before the fork, four workers, no flush(); exit handlers do it."""
    execute(
        """
to_lines()
run("before")
children = []
for worker in range(4):
    child = os.fork()
    if child == 0:
        for number in range(25):
            run(f"worker-{worker}-{number}")
        sys.exit(0)
    children.append(child)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
""",
        lines,
    )
    assert exported(lines) == Counter(["before", *(f"worker-{w}-{n}" for w in range(4) for n in range(25))])


@needs_fork
def test_a_fork_while_other_threads_record_does_not_hang(lines):
    """Locks that are held at the moment of the fork are renewed in the child."""
    execute(
        """
to_lines(flush_interval_s=0.01)
stop = threading.Event()
def busy():
    while not stop.is_set():
        run("busy")
        time.sleep(0.001)
threads = [threading.Thread(target=busy) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        run("forked")
        os._exit(0 if flush(10) else 1)
    assert os.waitpid(child, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
""",
        lines,
    )
    assert exported(lines)["forked"] == 20


@needs_fork
def test_a_forked_worker_sends_to_the_collector_by_itself():
    with OtlpReceiver() as receiver:
        execute(
            """
for number in range(10):
    run(f"parent-{number}")
assert flush(5)
child = os.fork()
if child == 0:
    for number in range(10):
        run(f"child-{number}")
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
run("after")
""",
            OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_endpoint,
            AIOBS_CONSOLE="off",
        )
        spans = receiver.wait_for_spans(21)
    expected = ["after", *(f"{who}-{n}" for who in ("parent", "child") for n in range(10))]
    assert Counter(span["name"].split()[-1] for span in spans) == Counter(expected)


@pytest.mark.parametrize("method", ["spawn", pytest.param("fork", marks=needs_fork), "forkserver"])
def test_multiprocessing_workers_export_their_runs(lines, tmp_path, method):
    """A worker of multiprocessing leaves through os._exit(): without exit handlers, so it flushes."""
    if method not in __import__("multiprocessing").get_all_start_methods():
        pytest.skip(f"no {method} on this system")
    execute(
        f"""
import multiprocessing

def work(number):
    to_lines()
    run(f"worker-{{number}}")
    return flush(5)

if __name__ == "__main__":
    to_lines()
    run("parent")
    with multiprocessing.get_context("{method}").Pool(2) as pool:
        assert all(pool.map(work, range(6)))
""",
        lines,
        as_file=tmp_path / "script.py",
    )
    assert exported(lines) == Counter(["parent", *(f"worker-{n}" for n in range(6))])


def test_a_script_without_flush_loses_nothing_at_its_exit(lines):
    execute(
        """
to_lines(flush_interval_s=10)
for number in range(1000):
    run(f"run-{number}")
""",
        lines,
    )
    assert exported(lines) == Counter(f"run-{number}" for number in range(1000))


def test_a_script_that_fails_loses_nothing_at_its_exit(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + "run('first')\nraise SystemExit(3)"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env=environment(AIOBS_STORE=str(tmp_path / "store"), AIOBS_CONSOLE="off"),
    )
    assert (done.returncode, done.stderr) == (3, "")
    with closing(open_store(tmp_path / "store", health=Health())) as store:
        assert [run.name.split()[-1] for run in store.runs()] == ["first"]


@pytest.mark.parametrize(
    "last_act",
    [
        # An exit handler that was registered before ours, so it runs after it.
        "atexit.register(lambda: run('late'))",
        # A generator that is closed with the module, when threads cannot be started any more.
        """
@observe
def items():
    yield 1
    yield 2

kept = items()
next(kept)
""",
        # A thread that is still working when the interpreter shuts down.
        """
def busy():
    while True:
        run("busy")
        time.sleep(0.001)
threading.Thread(target=busy, daemon=True).start()
time.sleep(0.1)
""",
        # A run in a finaliser of the last moment.
        """
class Last:
    def __del__(self):
        run("del")
sys.last_of_all = Last()
""",
        # Open for ever.
        "forever = span('forever'); forever.__enter__()",
    ],
    ids=["exit handler", "generator", "thread", "finaliser", "open run"],
)
def test_a_run_that_ends_while_the_interpreter_shuts_down_does_not_raise(lines, last_act):
    execute(f"import atexit\n{last_act}\nto_lines()\nrun('first')\n", lines, AIOBS_STORE="off")
    counts = exported(lines)
    assert counts["first"] == 1
    if "forever" in last_act:
        assert counts["forever"] == 1


def test_what_had_ended_one_flush_interval_before_a_kill_is_in_the_store(tmp_path):
    flush_interval_s, slack_s = 0.2, 0.3  # slack: a busy machine's scheduling and one pass through the stages
    script = """
configure(console="off", store=sys.argv[1], flush_interval_s=0.2)
for number in range(100_000):
    run(f"run-{number}")
    print(number, time.time(), flush=True)
    time.sleep(0.001)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    acknowledged: list[tuple[int, float]] = []
    for line in process.stdout:
        number, ended = line.split()
        acknowledged.append((int(number), float(ended)))
        if len(acknowledged) == 1_000:
            break
    killed = time.time()
    process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    process.wait(10)
    process.stdout.close()
    with closing(open_store(tmp_path, health=Health())) as store:
        stored = {run.name.split()[-1] for run in store.runs(limit=100_000)}
    due = [f"run-{number}" for number, ended in acknowledged if killed - ended > flush_interval_s + slack_s]
    assert len(due) > 300
    assert [name for name in due if name not in stored] == []
