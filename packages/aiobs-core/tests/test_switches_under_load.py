"""Everything is switched every few milliseconds while four threads work: what was accepted leaves, once, and nothing breaks."""

from __future__ import annotations

import gc
import logging
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.context import Context, attach, detach
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, Usage
from aiobs_core._settings_watch import SettingsWatch
from aiobs_core._switches import LOGS, METRICS, TRACES
from aiobs_core.metrics.series import Point
from aiobs_core.semconv import metrics as names

THREADS = 4
SWITCHES = ("enabled", "traces", "metrics", "logs")
KEPT_WHOLE = 20_000  # spans whose parents are looked up; of more, ids are only summed up
REQUEST = Operation(kind=Kind.WORKFLOW, name="request")
CALL = Operation(kind=Kind.MODEL, name="call", model="gpt-4o", provider="openai")
SEARCH = Operation(kind=Kind.TOOL, name="search")
USED = Outcome(usage=Usage(input_tokens=7, output_tokens=3), model="gpt-4o")


class Exporter(SpanExporter):
    """Counts; keeps no span."""

    def __init__(self) -> None:
        self.count = self.sum_of_ids = 0
        self.parents: dict[int, int | None] = {}

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            self.count += 1
            self.sum_of_ids += span.context.span_id
            if self.count <= KEPT_WHOLE:
                self.parents[span.context.span_id] = span.parent and span.parent.span_id
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class Lines(logging.Handler):
    """Counts the lines of requests that the application's logging is given."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.getMessage() == "ai.agent.request"


class Switchboard:
    """Which switches are on, and whether that is certain at the moment."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.flips = 0
        self.epoch = 0  # odd while they are changed
        self.on = dict.fromkeys(SWITCHES, True)

    def apply(self, changes: Mapping[str, object]) -> None:
        self.epoch += 1
        self.recorder.apply(changes)
        self.on = {**self.on, **{name: bool(value) for name, value in changes.items() if name in SWITCHES}}
        self.epoch += 1
        self.flips += 1

    def signals(self) -> int:
        """What a trace that begins now is expected to have; 0: it does not begin."""
        on = self.on
        return on["enabled"] * (TRACES * on["traces"] | METRICS * on["metrics"] | LOGS * on["logs"])


class Load:
    """One thread's requests, and the account of what was accepted."""

    def __init__(self, recorder: Recorder, board: Switchboard) -> None:
        self.recorder, self.board = recorder, board
        self.accepted: Counter[str] = Counter()
        self.certain = self.refused = self.sum_of_ids = 0
        self.problems: list[str] = []
        self.slowest_s = 0.0

    def work(self, stop: threading.Event, seed: int) -> None:
        chance = random.Random(seed)
        try:
            while not stop.is_set():
                token = attach(Context())
                try:
                    self._request(chance)
                finally:
                    detach(token)
                time.sleep(chance.random() / 500)
        except BaseException as error:
            self.problems.append(repr(error))
            raise

    def _request(self, chance: random.Random) -> None:
        keys = [object() for _ in range(3)]
        epoch, expected = self.board.epoch, self.board.signals()
        began_s = time.perf_counter()
        root = self._start(keys[0], REQUEST, None)
        self.slowest_s = max(self.slowest_s, time.perf_counter() - began_s)
        if epoch == self.board.epoch and not epoch % 2:
            self.certain += 1
            got = 0 if root is None else root.trace.signals
            if got != expected:
                self.problems.append(f"signals {got}, expected {expected} ({self.board.on})")
        if chance.random() < 0.5:
            time.sleep(chance.random() / 200)  # long enough for some switch to change
        for key, operation in zip(keys[1:], (CALL, SEARCH), strict=True):
            self._start(key, operation, keys[0])
            if operation is CALL:
                self.recorder.chunk(key)
            if chance.random() < 0.1:
                self.recorder.fail(key, ValueError())
            else:
                self.recorder.end(key, USED if operation is CALL else None)
        self.recorder.end(keys[0])

    def _start(self, key: object, operation: Operation, parent: object) -> Any:
        span = self.recorder.start(key, operation, parent=parent, scope="aiobs.test")
        if span is None:
            self.refused += 1
            return None
        signals = span.trace.signals
        if not signals:
            self.problems.append("a run that nobody wants was accepted")
        if signals & TRACES:
            self.accepted["spans"] += 1
            self.sum_of_ids += span.span_id
        if signals & METRICS:
            self.accepted[f"measured {operation.kind.value}"] += 1
            self.accepted["measured roots"] += span.is_local_root
        if signals & LOGS:
            self.accepted["logged roots"] += span.is_local_root
        return span


def flip_by_apply(board: Switchboard, stop: threading.Event, _: Path) -> None:
    chance, flips = random.Random(5), 0
    while not stop.wait(0.001 + chance.random() / 250):
        flips += 1
        if flips % 100 == 0:  # a heavy one: the destinations are opened anew under load
            board.apply({"chain_spans": not board.recorder.settings.chain_spans})
        else:
            name = chance.choice(SWITCHES)
            board.apply({name: not board.on[name]})


def flip_by_file(board: Switchboard, stop: threading.Event, folder: Path) -> None:
    """Whole, in halves, gone, and by the links of a ConfigMap's mount; the watch looks every 2 ms instead of every second."""
    chance, file = random.Random(6), folder / "aiobs.toml"
    file.write_text("")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIOBS_CONFIG_FILE", str(file))
        watch = SettingsWatch(str(file), board.apply, every_s=0.002)
        watch.load({"log": "logging", "store": "off", "console": "off"})
        watch.start()
        while not stop.wait(0.01):
            lines = [f"{name} = {str(chance.random() < 0.6).lower()}" for name in SWITCHES]
            if chance.random() < 0.02:
                lines.append("chain_spans = false")
            text = "\n".join(lines)
            way = chance.random()
            if way < 0.1:
                file.unlink(missing_ok=True)
            elif way < 0.3:
                file.write_text(text[: chance.randrange(len(text))])
            elif way < 0.5:
                (folder / "new").unlink(missing_ok=True)
                (folder / "version").write_text(text)
                (folder / "new").symlink_to("version")
                (folder / "new").replace(file)
            else:
                (folder / "whole").write_text(text)
                (folder / "whole").replace(file)
        watch.stop()
        assert watch._thread is not None
        watch._thread.join(30)
        assert not watch._thread.is_alive()


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def total(recorder: Recorder, **attributes: str) -> float:
    return sum(
        point.value
        for family in recorder.metrics.snapshot()
        if family.metric is names.REQUESTS
        for point in family.points
        if isinstance(point, Point) and attributes.items() <= dict(point.attributes).items()
    )


def flip_under_load(flip: Any, duration_s: float, folder: Path) -> None:
    logger, lines = logging.getLogger("aiobs.requests"), Lines()
    with pytest.MonkeyPatch.context() as patch:  # pytest's own handler would keep the records of a minute
        patch.setattr(logger, "propagate", False)
        patch.setattr(logger, "handlers", [lines])
        _flip_under_load(flip, duration_s, folder, lines)


def _flip_under_load(flip: Any, duration_s: float, folder: Path, lines: Lines) -> None:
    given = {
        "log": "logging",
        "store": "off",
        "console": "off",
        "queue_size": 1_000_000,
        "export_timeout_s": 60,
    }
    exporter = Exporter()
    recorder = Recorder(Settings.load({}, given, strict=True), exporters=[exporter])
    board, stop = Switchboard(recorder), threading.Event()
    loads = [Load(recorder, board) for _ in range(THREADS)]
    threads = [
        threading.Thread(target=load.work, args=(stop, seed), name=f"load-{seed}")
        for seed, load in enumerate(loads)
    ]
    flipper_failed: list[BaseException] = []

    def flipping() -> None:
        try:
            flip(board, stop, folder)
        except BaseException as error:
            flipper_failed.append(error)

    threads.append(threading.Thread(target=flipping, name="flipper"))
    before = {thread.ident for thread in threading.enumerate()}
    for thread in threads:
        thread.start()
    memory_mib: list[float] = []
    most_threads = 0
    ends_s = time.monotonic() + duration_s
    while time.monotonic() < ends_s:
        time.sleep(min(1.0, duration_s / 10))
        most_threads = max(most_threads, threading.active_count())
        if sys.platform == "linux" and exporter.count > KEPT_WHOLE:
            gc.collect()
            memory_mib.append(rss_mib())
    stop.set()
    for thread in threads:
        thread.join(120)
    recorder.apply(dict.fromkeys(SWITCHES, True))
    assert recorder.flush(60)

    accepted = sum((load.accepted for load in loads), Counter())
    certain, refused = sum(load.certain for load in loads), sum(load.refused for load in loads)
    slowest_s = max(load.slowest_s for load in loads)
    print(
        f"{board.flips} flips; {dict(accepted)}; {refused} refused; {certain} certain; {most_threads} threads; slowest "
        f"start {slowest_s * 1e3:.1f} ms; RSS {memory_mib[:1]} to {memory_mib[-1:]} MiB; {recorder.health.counts()}"
    )
    assert [problem for load in loads for problem in load.problems] == []
    assert flipper_failed == []
    assert recorder.health.counts() == {}
    assert recorder.open_runs == 0
    # Every accepted span was exported once, under a parent that was exported, too.
    assert exporter.count == accepted["spans"]
    assert exporter.sum_of_ids == sum(load.sum_of_ids for load in loads)
    if exporter.count <= KEPT_WHOLE:
        assert {parent for parent in exporter.parents.values() if parent} <= exporter.parents.keys()
    # Metrics are those of the runs whose trace began while metrics were on; lines likewise.
    assert total(recorder, stage="total") == accepted["measured roots"]
    assert total(recorder, stage="model_inference") == accepted["measured model"]
    assert total(recorder, stage="external_api") == accepted["measured tool"]
    assert lines.count == accepted["logged roots"]
    # And all of that happened.
    assert board.flips > 20
    assert min(accepted["spans"], accepted["measured roots"], accepted["logged roots"], certain, refused) > 0
    assert len({accepted["spans"], accepted["measured workflow"] * 3}) == 2
    # Load, flipper, watch, worker; one worker more for the moment in which another one closes.
    assert most_threads <= len(before) + THREADS + 1 + 1 + 2
    recorder.shutdown(60)
    assert {thread.ident for thread in threading.enumerate()} <= before
    if len(memory_mib) > 10:
        half = len(memory_mib) // 2
        grown_mib = max(memory_mib[half:]) - max(memory_mib[:half])
        assert grown_mib < 5, memory_mib


@pytest.mark.parametrize("flip", [flip_by_apply, flip_by_file])
def test_flipping_under_load_loses_nothing(flip: Any, tmp_path: Path) -> None:
    flip_under_load(flip, 2.5, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("flip", [flip_by_apply, flip_by_file])
def test_flipping_for_a_minute_loses_nothing(flip: Any, tmp_path: Path) -> None:
    flip_under_load(flip, 60, tmp_path)
