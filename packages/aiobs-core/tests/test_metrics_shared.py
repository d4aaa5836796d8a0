"""The folder of the workers of one server: sums that never go back, whoever writes, dies or damages a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiobs_core._health import Health
from aiobs_core.metrics.series import Exemplar, FamilySnapshot, HistogramPoint, Point
from aiobs_core.metrics.shared import SharedFolder
from aiobs_core.metrics.shared_format import Content, decode, encode
from aiobs_core.semconv import metrics as names
from aiobs_core.semconv.metrics import Metric

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a folder of workers needs POSIX")

WORKER = textwrap.dedent("""
    import os, sys, time
    from pathlib import Path
    from aiobs_core._health import Health
    from aiobs_core.metrics.series import FamilySnapshot, HistogramPoint, Point
    from aiobs_core.metrics.shared import SharedFolder
    from aiobs_core.semconv import metrics as names

    health, counted = Health(), 0
    folder = SharedFolder(Path(sys.argv[1]), health)

    def snapshot():
        now = counted  # once: a thread may count on
        counts = [0] * (len(names.LATENCY.bounds) + 1)
        counts[3] = now
        return [
            FamilySnapshot(names.REQUESTS, [Point((("model", "m"),), now)]),
            FamilySnapshot(names.LATENCY, [HistogramPoint((), tuple(counts), now * 0.02, {})]),
            FamilySnapshot(names.ACTIVE_INSTANCES, [Point((), 1)]),
        ]

    def number(page, metric):
        return sum(point.value for family in page if family.metric is metric for point in family.points)

    def told():
        page = folder.read(snapshot())
        counts = [sum(point.counts) for family in page if family.metric is names.LATENCY for point in family.points]
        assert sum(counts) == number(page, names.REQUESTS), page
        return f"{number(page, names.REQUESTS)} {number(page, names.ACTIVE_INSTANCES)}"

    print("ready", flush=True)
    for line in sys.stdin:
        verb, _, value = line.strip().partition(" ")
        if verb == "count":
            counted += int(value)
            folder.write(snapshot())
        elif verb == "busily":  # counts on, asked or not
            import threading
            def work():
                global counted
                while True:
                    counted += 1
                    folder.write(snapshot())
            threading.Thread(target=work, daemon=True).start()
        elif verb == "fork":
            child = os.fork()
            if not child:
                counted = int(value)
                folder = SharedFolder(Path(sys.argv[1]), health)
                folder.write(snapshot())
                os.write(1, b"%d\\n" % os.getpid())
                time.sleep(60)
                os._exit(0)
            continue
        elif verb == "close":
            folder.close()
        print(told(), flush=True)
    assert health.counts() == {}, health.counts()
""")


class Worker:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.line()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def say(self, line: str) -> tuple[int, int]:
        """Requests and living processes of the page that it makes thereafter."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        requests, living = self.line().split()
        return int(requests), int(living)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self) -> None:
        self.process.communicate(timeout=20)
        assert self.process.returncode == 0


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[list[Worker]]:
    made = [Worker(tmp_path / "folder") for _ in range(3)]
    yield made
    for worker in made:
        if worker.process.poll() is None:
            worker.kill()


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "folder").glob("aiobs-*.metrics"))


# --- processes ----------------------------------------------------------------------------------------------------------


def test_every_page_tells_of_all_and_counts_the_dead_on(workers: list[Worker], tmp_path: Path) -> None:
    one, two, three = workers
    assert one.say("count 5") == (5, 1)
    assert two.say("count 7") == (12, 2)
    assert three.say("count 0") == (12, 3)
    two.kill()
    assert one.say("count 1") == (13, 2)
    three.end()
    assert one.say("count 1") == (14, 1)
    workers.append(again := Worker(tmp_path / "folder"))
    assert again.say("count 100") == (114, 2)
    assert len(files(tmp_path)) == 3


def test_many_restarts_leave_two_files_and_the_whole_sum(tmp_path: Path) -> None:
    folder, sent = tmp_path / "folder", 0
    for at in range(12):
        worker = Worker(folder)
        sent += at
        assert worker.say(f"count {at}") == (sent, 1)
        (worker.kill if at % 2 else worker.end)()
        assert len(files(tmp_path)) <= 2


def test_no_page_tells_of_less_than_one_before_it_did(workers: list[Worker]) -> None:
    """Prometheus takes a total that went down for a restart, and counts all of it once more."""
    for worker in workers:
        worker.say("busily")
    before = 0
    deadline_s = time.monotonic() + 3
    at = 0
    while time.monotonic() < deadline_s:
        requests, _ = workers[at % len(workers)].say("tell")
        assert requests >= before
        before = requests
        if at == 30:
            workers.pop().kill()
        at += 1
    assert at > 50


def test_what_ended_in_peace_is_counted_but_not_alive(workers: list[Worker]) -> None:
    one, two, _ = workers
    one.say("count 5")
    assert two.say("count 7") == (12, 2)
    assert two.say("close") == (12, 1)
    assert one.say("count 0") == (12, 1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_counts_for_itself_and_does_not_keep_its_parent_alive(workers: list[Worker]) -> None:
    parent, other, _ = workers
    assert parent.say("count 5") == (5, 1)
    assert parent.process.stdin is not None
    parent.process.stdin.write("fork 20\n")
    parent.process.stdin.flush()
    child = int(parent.line())
    try:
        assert other.say("count 0") == (25, 3)
        parent.process.kill()  # its child has its pipes, and lives on
        parent.process.wait()
        assert other.say("count 0") == (25, 2)
    finally:
        os.kill(child, signal.SIGKILL)
        parent.process.communicate()


# --- what is in the way -------------------------------------------------------------------------------------------------


def requests(count: float, metric: Metric = names.REQUESTS) -> list[FamilySnapshot]:
    return [FamilySnapshot(metric, [Point((("model", "m"),), count)])]


def total(page: Sequence[FamilySnapshot], metric: Metric = names.REQUESTS) -> float:
    return sum(
        point.value
        for family in page
        if family.metric is metric
        for point in family.points
        if isinstance(point, Point)
    )


def put(folder: Path, name: str, families: Sequence[FamilySnapshot]) -> Path:
    """The file of a process that is dead."""
    path = folder / f"aiobs-{name}.metrics"
    path.write_bytes(encode(Content(families)))
    return path


def test_who_is_killed_while_it_adds_up_the_dead_has_counted_none_twice(tmp_path: Path) -> None:
    dead = put(tmp_path, "dead", requests(5))  # in the sum already, and not deleted yet
    (tmp_path / "aiobs-folded-1.metrics").write_bytes(encode(Content(requests(5), [dead.name])))
    shared = SharedFolder(tmp_path, Health())
    for _ in range(2):
        assert total(shared.read(requests(1))) == 6
        assert not dead.exists()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"[]\n",
        b"{}\n",
        b"[" * 100_000,
        encode(Content(requests(5)))[:-5],
        encode(Content(requests(5))) + b"{}\n",
        encode(Content(requests(5))).partition(b"\n")[0],
        encode(Content(requests(5))).replace(b'"format": 1', b'"format": 99'),
        encode(Content(requests(5))).replace(b'{"model":"m"},5', b'{"model":"m"},6'),
    ],
)
def test_a_damaged_or_foreign_file_is_left_out_with_one_warning(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "aiobs-0.metrics"
    path.write_bytes(text)
    put(tmp_path, "1", requests(5))
    health = Health()
    shared = SharedFolder(tmp_path, health)
    for _ in range(2):
        assert total(shared.read(requests(1))) == 6
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    assert path.read_bytes() == text


def test_a_damaged_sum_of_the_dead_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / "aiobs-folded-1.metrics").write_bytes(b"{")
    put(tmp_path, "1", requests(5))
    health = Health()
    assert total(SharedFolder(tmp_path, health).read(requests(1))) == 6
    assert health.counts() == {"metrics.folder_file": 1}
    assert (tmp_path / "aiobs-folded-1.damaged").exists()


def test_what_another_version_defines_otherwise_is_left_out_and_kept(tmp_path: Path) -> None:
    bounds = names.LATENCY.bounds[:-1]
    other = Metric(
        name=names.LATENCY.name, instrument="histogram", unit="s", brief="", attributes=(), bounds=bounds
    )
    theirs = FamilySnapshot(other, [HistogramPoint((), (1,) * (len(bounds) + 1), 1.0, {})])
    ours = FamilySnapshot(names.LATENCY, [HistogramPoint((), (1,) * (len(bounds) + 2), 1.0, {})])
    put(tmp_path, "1", [theirs, *requests(5), *requests(3, Metric(
        name="ai.agent.of.tomorrow", instrument="counter", unit="{x}", brief="", attributes=()))])  # fmt: skip
    health = Health()
    shared = SharedFolder(tmp_path, health)
    for _ in range(2):
        page = shared.read([ours, *requests(1)])
        assert total(page) == 6
        assert [family.points for family in page if family.metric.name == other.name] == [ours.points]
    assert set(health.counts()) == {"metrics.folder_definition"}
    kept = {
        family.metric.name for family in decode((tmp_path / "aiobs-folded-1.metrics").read_bytes()).families
    }
    assert kept == {"ai.agent.of.tomorrow", other.name, names.REQUESTS.name}


def test_a_folder_that_cannot_be_one_costs_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    shared = SharedFolder(tmp_path / "file", Health())
    shared.write(requests(1))
    assert total(shared.read(requests(2))) == 2
    shared.close()
    assert ["AIOBS_METRICS_DIR" in record.getMessage() for record in caplog.records] == [True]


def test_a_folder_that_was_emptied_is_filled_again(tmp_path: Path) -> None:
    shared = SharedFolder(tmp_path / "folder", Health())
    shared.write(requests(1))
    for path in (tmp_path / "folder").iterdir():
        path.unlink()
    (tmp_path / "folder").rmdir()
    assert total(shared.read(requests(2))) == 2
    assert len(files(tmp_path)) == 1


def test_an_older_snapshot_does_not_replace_a_later_one(tmp_path: Path) -> None:
    shared = SharedFolder(tmp_path, Health())
    shared.write(requests(5))
    shared.write(requests(4))  # by a thread that took it first and came last
    assert total(shared.read(requests(3))) == 5


def test_what_a_process_counts_goes_on_when_the_folder_is_opened_again(tmp_path: Path) -> None:
    first = SharedFolder(tmp_path, Health())
    first.write(requests(5))
    first.close()
    assert total(SharedFolder(tmp_path, Health()).read(requests(6))) == 6


def test_a_process_that_stops_with_the_lock_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    monkeypatch.setattr("aiobs_core.privacy._file_lock._PATIENCE_S", 0.05)
    put(tmp_path, "1", requests(5))
    shared = SharedFolder(tmp_path, Health())
    assert total(shared.read(requests(1))) == 6
    with (tmp_path / "aiobs-metrics.lock").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert total(shared.read(requests(2))) == 7


def test_threads_may_write_and_read_at_once(tmp_path: Path) -> None:
    shared, health = SharedFolder(tmp_path, Health()), Health()
    put(tmp_path, "1", requests(5))
    seen: list[float] = []

    def read() -> None:
        seen.extend(total(shared.read(requests(count))) for count in range(30))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(seen) == 34
    assert health.counts() == {}


# --- the text of a file -------------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec=None), max_size=10)
ATTRIBUTES = st.dictionaries(TEXT, TEXT | st.integers(0, 2**31), max_size=3).map(
    lambda found: tuple(found.items())
)
NUMBERS = st.floats(0, allow_nan=False) | st.integers(0, 2**60)
EXEMPLARS = st.builds(
    Exemplar, NUMBERS, st.integers(0, 2**62), st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1)
)
SIZE = len(names.TOKEN_USAGE.bounds) + 1
HISTOGRAMS = st.builds(
    HistogramPoint,
    ATTRIBUTES,
    st.lists(st.integers(0, 2**60), min_size=SIZE, max_size=SIZE).map(tuple),
    NUMBERS,
    st.dictionaries(st.integers(0, SIZE - 1), EXEMPLARS, max_size=3),
)


@given(st.lists(st.builds(Point, ATTRIBUTES, NUMBERS), max_size=3), st.lists(HISTOGRAMS, max_size=3))
def test_a_file_says_what_was_written(points: list[Point], histograms: list[HistogramPoint]) -> None:
    written = [FamilySnapshot(names.REQUESTS, points), FamilySnapshot(names.TOKEN_USAGE, histograms)]
    read = decode(encode(Content(written, ["a"])))
    assert read.folded == ["a"]
    assert [family.points for family in read.families] == [points, histograms]
    assert [(family.metric.name, family.metric.bounds) for family in read.families] == [
        (names.REQUESTS.name, ()),
        (names.TOKEN_USAGE.name, names.TOKEN_USAGE.bounds),
    ]


@given(st.data())
def test_any_damage_is_found_or_harmless(data: Any) -> None:
    exemplar = Exemplar(1.0, 2, 3, 4)
    points = [HistogramPoint((("model", "m"),), (1,) * SIZE, 1.0, {0: exemplar})]
    text = bytearray(encode(Content([FamilySnapshot(names.TOKEN_USAGE, points), *requests(2)])))
    for _ in range(data.draw(st.integers(1, 3))):
        text[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = decode(bytes(text))
    except ValueError:
        return
    assert encode(read)
