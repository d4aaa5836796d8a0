"""The store under several processes, forks and sudden death; each process is a new interpreter."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from aiobs_core._health import Health
from aiobs_core.store.reader import NoStoreError, Store, open_store

PRELUDE = """
import os, sys
from pathlib import Path
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext
from aiobs_core._health import Health
from aiobs_core import semconv
from aiobs_core.store.writer import StoreExporter

RESOURCE = Resource({"service.name": "shop"})

def spans(first, count, *, trace):
    return [
        ReadableSpan(
            f"s{number}",
            context=SpanContext(trace, number, False),
            resource=RESOURCE,
            attributes={semconv.SPAN_KIND: "model", semconv.USAGE_INPUT_TOKENS: 1, "text": "x" * (number % 700)},
            start_time=1_800_000_000_000_000_000 + number,
            end_time=1_800_000_000_001_000_000 + number,
        )
        for number in range(first, first + count)
    ]

health = Health()
folder = Path(sys.argv[1])
exporter = StoreExporter(folder, health=health)
"""


@pytest.fixture
def folder(tmp_path):
    return tmp_path / ".aiobs"


def start(script, folder, *arguments):
    command = [sys.executable, "-W", "error::ResourceWarning", "-c", PRELUDE + script, str(folder)]
    return subprocess.Popen(
        [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    return out


WRITER = """
number = int(sys.argv[2])
for batch in range(40):
    result = exporter.export(spans(number * 1_000_000 + batch * 32 + 1, 32, trace=batch % 7 + 1))
    assert result.name == "SUCCESS"
exporter.shutdown()
assert health.counts() == {}, health.counts()
"""


def test_four_processes_write_while_one_reads(folder):
    writers = [start(WRITER, folder, number) for number in range(4)]
    seen = []
    while any(writer.poll() is None for writer in writers):
        try:
            with closing(Store(folder)) as store:
                seen.append(sum(run.span_count for run in store.runs()))
                if seen[-1]:
                    assert store.trace("last")
        except NoStoreError:
            pass
        time.sleep(0.02)
    for writer in writers:
        finish(writer)
    assert seen == sorted(seen)
    with closing(Store(folder)) as store:
        runs = store.runs()
        assert sum(run.span_count for run in runs) == 4 * 40 * 32
        assert sum(run.input_tokens for run in runs) == 4 * 40 * 32
        assert sum(len(spans) for spans in store.iter_traces()) == 4 * 40 * 32
    assert not (folder / "spool").exists()


ENDLESS_WRITER = """
batch = 0
while True:
    exporter.export(spans(batch * 64 + 1, 64, trace=batch + 1))
    print(batch, flush=True)
    batch += 1
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("delay_s", [0.0, 0.013, 0.05, 0.111, 0.2])
def test_what_was_acknowledged_survives_a_kill(folder, delay_s):
    process = start(ENDLESS_WRITER, folder)
    process.stdout.readline()
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate()
    acknowledged = [0, *map(int, out.split())]
    with closing(open_store(folder, health=Health())) as store:
        for batch in acknowledged:
            assert len(store.trace(format(batch + 1, "032x"))) == 64
    with closing(sqlite3.connect(folder / "aiobs.db")) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        spans = connection.execute("SELECT count(*) FROM spans").fetchone()
        assert connection.execute("SELECT sum(n) FROM runs").fetchone() == spans
        assert connection.execute("SELECT sum(n) FROM roll").fetchone() == spans


SPOOLING_WRITER = (
    """
(folder / "aiobs.db").mkdir(parents=True, exist_ok=True)
"""
    + ENDLESS_WRITER
)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_what_was_spooled_survives_a_kill(folder):
    process = start(SPOOLING_WRITER, folder)
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate()
    (folder / "aiobs.db").rmdir()
    with closing(open_store(folder, health=Health())) as store:
        for batch in (0, *map(int, out.split())):
            assert len(store.trace(format(batch + 1, "032x"))) == 64
    assert list((folder / "spool").iterdir()) == []


FORK = """
exporter.export(spans(1, 100, trace=1))
children = []
for number in range(2, 5):
    pid = os.fork()
    if pid == 0:
        for batch in range(10):
            result = exporter.export(spans(number * 10_000 + batch * 10, 10, trace=number))
            assert result.name == "SUCCESS"
        exporter.shutdown()
        sys.exit(0 if health.counts() == {} else 1)  # runs the interpreter's shutdown, as a gunicorn worker does
    children.append(pid)
for batch in range(10):
    exporter.export(spans(50_000 + batch * 10, 10, trace=5))
for pid in children:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
exporter.export(spans(60_000, 10, trace=6))
exporter.shutdown()
assert health.counts() == {}, health.counts()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_parent_and_children_write_on_after_a_fork(folder):
    finish(start(FORK, folder))
    with closing(Store(folder)) as store:
        counts = {int(run.trace_id, 16): run.span_count for run in store.runs()}
    assert counts == {1: 100, 2: 100, 3: 100, 4: 100, 5: 100, 6: 10}
    with closing(sqlite3.connect(folder / "aiobs.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


SPOOLING_FORK = """
(folder / "aiobs.db").mkdir(parents=True)
exporter.export(spans(1, 1, trace=1))
pid = os.fork()
exporter.export(spans(2 if pid else 3, 1, trace=1))
if pid:
    os.waitpid(pid, 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_each_process_has_its_own_spool_file(folder):
    process = start(SPOOLING_FORK, folder)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert sorted(len(path.read_bytes().splitlines()) for path in (folder / "spool").iterdir()) == [1, 2]


IMPORTS = """
import json
print(json.dumps(sorted(name for name in sys.modules if name.startswith(("google.protobuf", "grpc", "requests")))))
"""


def test_the_store_needs_neither_protobuf_nor_grpc(folder):
    assert finish(start(IMPORTS, folder)).strip() == "[]"
