"""Whatever the order of events, each started span is exported exactly once and nothing stays open."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import Kind, Operation, Outcome, Recorder, RunStatus, Settings

KEYS = st.integers(0, 7)
STREAM_KEYS = {key: key + 8 for key in range(8)}  # under which a framework tells of a run's stream
ALL_KEYS = KEYS | st.sampled_from(sorted(STREAM_KEYS.values()))


def _numbers(fails_at: int | None = None) -> Iterator[int]:
    for number in range(3):
        if number == fails_at:
            raise ValueError
        yield number


async def _async_numbers(fails_at: int) -> AsyncIterator[int]:
    for number in _numbers(fails_at):
        yield number


def _close(stream: Any) -> None:
    try:
        if hasattr(stream, "aclose"):
            stream.aclose().send(None)
        else:
            stream.close()
    except StopIteration:
        pass


class Lifetime:
    """Kept as long as a run, by a framework."""


class Verbs(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = InMemorySpanExporter()
        self.recorder = Recorder(
            Settings.load({}, {"flush_interval_s": 0.01, "grace_s": 0}), exporters=[self.memory]
        )
        self.started: Counter[int] = Counter()
        self.parents: dict[int, int | None] = {}
        self.streams: list[Any] = []
        self.lifetimes: list[Lifetime] = []
        self.in_streams: set[int] = set()

    @rule(
        key=KEYS,
        parent=st.none() | KEYS,
        transparent=st.booleans(),
        broken=st.booleans(),
        current=st.booleans(),
        kept=st.booleans(),
    )
    def start(
        self, key: int, parent: int | None, transparent: bool, broken: bool, current: bool, kept: bool
    ) -> None:
        known = self.recorder.find(key)
        operation = Operation(kind=Kind.CHAIN, name=str(key))
        source = None if transparent else (lambda: operation) if not broken else (lambda: 1 / 0)
        lifetime = Lifetime()
        if kept:
            self.lifetimes.append(lifetime)
        span = self.recorder.start(
            key, source, parent=parent, make_current=current, lifetime=lifetime if kept else None
        )
        if span is not None and span is not known:
            self.started[span.span_id] += 1

    @rule(key=ALL_KEYS)
    def chunk(self, key: int) -> None:
        self.recorder.chunk(key)

    @rule(key=ALL_KEYS)
    def end(self, key: int) -> None:
        self.recorder.end(key, Outcome())

    @rule(key=ALL_KEYS)
    def fail(self, key: int) -> None:
        self.recorder.fail(key, ValueError())

    @rule(
        key=ALL_KEYS,
        collected=st.sampled_from([RunStatus.ABANDONED, RunStatus.SUCCESS]),
        renamed=st.booleans(),
    )
    def hand_over(self, key: int, collected: RunStatus, renamed: bool) -> None:
        told_as = STREAM_KEYS.get(key) if renamed else None
        if told_as is not None and self.recorder.find(told_as) is not None:
            told_as = None  # a framework has one run of a key
        stream = _numbers()
        self._note_in_stream(key)
        self.recorder.hand_over(key, stream, collected=collected, told_as=told_as)
        self.streams.append(stream)

    @rule(key=ALL_KEYS, fails_at=st.integers(0, 4), is_async=st.booleans())
    def follow(self, key: int, fails_at: int, is_async: bool) -> None:
        self._note_in_stream(key)
        items = (_async_numbers if is_async else _numbers)(fails_at)
        self.streams.append(self.recorder.follow(key, items))

    def _note_in_stream(self, key: int) -> None:
        span = self.recorder.find(key)
        if span is not None:
            self.in_streams.add(span.span_id)

    @rule(number=st.integers(0, 7))
    def read(self, number: int) -> None:
        if number < len(self.streams):
            stream = self.streams[number]
            try:
                if hasattr(stream, "__anext__"):
                    anext(stream).send(None)  # nothing in it waits, so no event loop is needed
                else:
                    next(stream)
            except (StopIteration, StopAsyncIteration, ValueError):
                pass

    @rule(number=st.integers(0, 7), closed=st.booleans())
    def drop(self, number: int, closed: bool) -> None:
        if number < len(self.streams):
            stream = self.streams.pop(number)
            if closed:
                _close(stream)

    @rule(number=st.integers(0, 7))
    def let_go(self, number: int) -> None:
        if number < len(self.lifetimes):
            del self.lifetimes[number]

    @rule(enabled=st.booleans())
    def switch(self, enabled: bool) -> None:
        self.recorder.apply(replace(self.recorder.settings, enabled=enabled))

    @rule()
    def flush(self) -> None:
        assert self.recorder.flush(5)

    @invariant()
    def no_more_runs_open_than_keys(self) -> None:
        assert self.recorder.open_runs <= 16

    def teardown(self) -> None:
        self.streams.clear()
        still_open = {span.span_id for key in range(16) if (span := self.recorder.find(key)) is not None}
        assert not still_open & self.in_streams, "a run outlives the stream that it was handed over to"
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
