"""Whatever the order of events, each started span is exported exactly once and nothing stays open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import Kind, Operation, Outcome, Recorder, RunStatus, Settings

KEYS = st.integers(0, 7)


def _numbers(fails_at: int | None = None) -> Iterator[int]:
    for number in range(3):
        if number == fails_at:
            raise ValueError
        yield number


class Verbs(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = InMemorySpanExporter()
        self.recorder = Recorder(
            Settings.load({}, {"flush_interval_s": 0.01, "grace_s": 0}), exporters=[self.memory]
        )
        self.started: Counter[int] = Counter()
        self.parents: dict[int, int | None] = {}
        self.streams: list[Iterator[int]] = []

    @rule(
        key=KEYS,
        parent=st.none() | KEYS,
        transparent=st.booleans(),
        broken=st.booleans(),
        current=st.booleans(),
    )
    def start(self, key: int, parent: int | None, transparent: bool, broken: bool, current: bool) -> None:
        known = self.recorder.find(key)
        operation = Operation(kind=Kind.CHAIN, name=str(key))
        source = None if transparent else (lambda: operation) if not broken else (lambda: 1 / 0)
        span = self.recorder.start(key, source, parent=parent, make_current=current)  # type: ignore[arg-type]
        if span is not None and span is not known:
            self.started[span.span_id] += 1

    @rule(key=KEYS)
    def chunk(self, key: int) -> None:
        self.recorder.chunk(key)

    @rule(key=KEYS)
    def end(self, key: int) -> None:
        self.recorder.end(key, Outcome())

    @rule(key=KEYS)
    def fail(self, key: int) -> None:
        self.recorder.fail(key, ValueError())

    @rule(key=KEYS, collected=st.sampled_from([RunStatus.ABANDONED, RunStatus.SUCCESS]))
    def hand_over(self, key: int, collected: RunStatus) -> None:
        stream = iter(_numbers())
        self.recorder.hand_over(key, stream, collected=collected)
        self.streams.append(stream)

    @rule(key=KEYS, fails_at=st.integers(0, 4))
    def follow(self, key: int, fails_at: int) -> None:
        self.streams.append(self.recorder.follow(key, _numbers(fails_at)))

    @rule(number=st.integers(0, 7))
    def read(self, number: int) -> None:
        if number < len(self.streams):
            try:
                next(self.streams[number])
            except (StopIteration, ValueError):
                pass

    @rule(number=st.integers(0, 7))
    def drop(self, number: int) -> None:
        if number < len(self.streams):
            del self.streams[number]

    @rule()
    def flush(self) -> None:
        assert self.recorder.flush(5)

    @invariant()
    def no_more_runs_open_than_keys(self) -> None:
        assert self.recorder.open_runs <= 8

    def teardown(self) -> None:
        self.streams.clear()
        assert self.recorder.shutdown(5)
        assert self.recorder.open_runs == 0
        exported = Counter(span.context.span_id for span in self.memory.get_finished_spans())
        assert exported == self.started
        by_id = {span.context.span_id: span for span in self.memory.get_finished_spans()}
        for span in by_id.values():
            assert span.start_time <= span.end_time
            if span.parent is not None:
                assert by_id[span.parent.span_id].context.trace_id == span.context.trace_id


Verbs.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestVerbs = Verbs.TestCase
