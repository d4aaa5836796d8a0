"""The four verbs: identity, parents, ends that never come, bounds. Through the public API, no framework."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from aiobs_core import Kind, Operation, Outcome, Recorder, RunStatus, Settings, Usage, semconv, suppressed


class Recording:
    """A recorder of its own with everything it exported."""

    def __init__(self, **settings: object) -> None:
        defaults = {"flush_interval_s": 0.01, "grace_s": 0.05}
        self.memory = InMemorySpanExporter()
        self.recorder = Recorder(Settings.load({}, defaults | settings), exporters=[self.memory])

    def spans(self) -> dict[str, ReadableSpan]:
        assert self.recorder.flush(5)
        return {span.name: span for span in self.memory.get_finished_spans()}

    def wait_for(self, count: int) -> list[ReadableSpan]:
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            self.recorder.flush(5)
            if len(self.memory.get_finished_spans()) >= count:
                break
            time.sleep(0.01)
        return list(self.memory.get_finished_spans())


@pytest.fixture
def recording() -> Iterator[Recording]:
    made = Recording()
    yield made
    made.recorder.shutdown(5)


def op(name: str, kind: Kind = Kind.CHAIN, **fields: object) -> Operation:
    return Operation(kind=kind, name=name, **fields)  # type: ignore[arg-type]


def attribute(span: ReadableSpan, name: str) -> object:
    return (span.attributes or {}).get(name)


def test_a_child_named_by_key_hangs_under_its_parent(recording: Recording) -> None:
    recording.recorder.start("a", op("outer"))
    recording.recorder.start("b", op("inner"), parent="a")
    recording.recorder.end("b")
    recording.recorder.end("a")
    spans = recording.spans()
    outer, inner = spans["invoke_workflow outer"], spans["inner"]
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert inner.context.trace_id == outer.context.trace_id
    assert outer.start_time <= inner.start_time <= inner.end_time <= outer.end_time


def test_verbs_are_idempotent_by_key(recording: Recording) -> None:
    first = recording.recorder.start("a", op("once"))
    assert recording.recorder.start("a", op("once")) is first
    recording.recorder.end("a")
    recording.recorder.end("a")
    recording.recorder.fail("a", ValueError())
    recording.recorder.chunk("a")
    assert len(recording.wait_for(1)) == 1
    assert recording.recorder.open_runs == 0


def test_a_transparent_run_passes_its_children_to_the_next_ancestor(recording: Recording) -> None:
    recording.recorder.start("a", op("outer"))
    assert recording.recorder.start("t", None, parent="a") is None
    recording.recorder.start("b", op("inner"), parent="t")
    for key in "bta":
        recording.recorder.end(key)
    spans = recording.spans()
    assert set(spans) == {"invoke_workflow outer", "inner"}
    assert spans["inner"].parent.span_id == spans["invoke_workflow outer"].context.span_id
    assert recording.recorder.open_runs == 0


def test_a_deferred_operation_may_say_that_there_is_no_run(recording: Recording) -> None:
    recording.recorder.start("a", op("outer"))
    recording.recorder.start("n", lambda: None, parent="a")
    recording.recorder.start("b", lambda: op("inner"), parent="n")
    for key in "bna":
        recording.recorder.end(key)
    spans = recording.spans()
    assert set(spans) == {"invoke_workflow outer", "inner"}
    assert spans["inner"].parent.span_id == spans["invoke_workflow outer"].context.span_id


def test_plumbing_is_left_out_when_chain_spans_are_off() -> None:
    recording = Recording(chain_spans=False)
    recording.recorder.start("a", op("outer"))
    recording.recorder.start("p", op("plumbing"), parent="a", plumbing=True)
    recording.recorder.start("b", op("inner", Kind.TOOL), parent="p")
    for key in "bpa":
        recording.recorder.end(key)
    spans = recording.spans()
    assert set(spans) == {"invoke_workflow outer", "execute_tool inner"}
    recording.recorder.shutdown(5)


def test_metrics_of_a_model_call_are_exact(recording: Recording) -> None:
    usage = Usage(input_tokens=11, output_tokens=7, cache_read_tokens=4, reasoning_tokens=3)
    recording.recorder.start(
        "m", op("gpt", Kind.MODEL, model="gpt", provider="openai", params={"temperature": 0})
    )
    recording.recorder.chunk("m", item := object())
    recording.recorder.chunk("m", item)  # the same chunk, reported by a second handler
    recording.recorder.chunk("m", object())
    recording.recorder.end("m", lambda: Outcome(usage=usage, model="gpt-0613", finish_reasons=("stop",)))
    span = recording.spans()["chat gpt"]
    assert attribute(span, semconv.USAGE_INPUT_TOKENS) == 11
    assert attribute(span, semconv.GEN_AI_USAGE_OUTPUT_TOKENS) == 7
    assert attribute(span, semconv.CHUNK_COUNT) == 2
    assert attribute(span, semconv.GEN_AI_REQUEST_TEMPERATURE) == 0.0
    assert attribute(span, semconv.GEN_AI_RESPONSE_MODEL) == "gpt-0613"
    duration_s = (span.end_time - span.start_time) / 1e9
    assert 0 < attribute(span, semconv.TIME_TO_FIRST_CHUNK_S) <= duration_s


def test_missing_usage_is_absent_and_never_zero(recording: Recording) -> None:
    recording.recorder.start("m", op("gpt", Kind.MODEL, model="gpt"))
    recording.recorder.end("m", Outcome())
    span = recording.spans()["chat gpt"]
    assert attribute(span, semconv.USAGE_SOURCE) == "missing"
    assert attribute(span, semconv.USAGE_INPUT_TOKENS) is None
    assert attribute(span, semconv.GEN_AI_USAGE_INPUT_TOKENS) is None


@pytest.mark.parametrize(
    ("error", "outcome", "is_error"),
    [
        (ValueError("secret"), RunStatus.ERROR, True),
        (asyncio.CancelledError(), RunStatus.CANCELLED, False),
        (GeneratorExit(), RunStatus.ABANDONED, False),
    ],
)
def test_only_errors_are_errors(
    recording: Recording, error: BaseException, outcome: RunStatus, is_error: bool
) -> None:
    recording.recorder.start("a", op("run"))
    recording.recorder.fail("a", error)
    span = recording.spans()["invoke_workflow run"]
    assert attribute(span, semconv.OUTCOME) == outcome.value
    assert (span.status.status_code is trace.StatusCode.ERROR) is is_error
    assert span.status.description is None
    assert "secret" not in span.to_json()


def test_the_http_status_of_an_error_is_kept_and_a_hostile_error_is_survived(recording: Recording) -> None:
    class Refused(Exception):
        status_code = 429

    class Hostile(Exception):
        @property
        def status_code(self) -> int:
            raise RuntimeError

    recording.recorder.start("a", op("refused"))
    recording.recorder.fail("a", Refused())
    recording.recorder.start("b", op("hostile"))
    recording.recorder.fail("b", Hostile())
    spans = recording.spans()
    assert attribute(spans["invoke_workflow refused"], semconv.STATUS_CODE) == 429
    assert str(attribute(spans["invoke_workflow hostile"], semconv.ERROR_TYPE)).endswith("Hostile")


@pytest.mark.parametrize("raised", [ValueError("secret"), KeyboardInterrupt(), RecursionError()])
def test_a_broken_mapping_gives_a_marked_span(recording: Recording, raised: BaseException) -> None:
    def broken() -> Operation:
        raise raised

    recording.recorder.start("a", broken)
    recording.recorder.end("a", lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    (span,) = recording.wait_for(1)
    assert attribute(span, semconv.TELEMETRY_ERROR) is not None
    assert "secret" not in span.to_json()
    assert recording.recorder.health.counts()["mapping.operation"] == 1


def test_descendants_still_open_when_an_ancestor_ended_close_after_the_grace_period(
    recording: Recording,
) -> None:
    recording.recorder.start("a", op("outer"))
    recording.recorder.start("b", op("inner"), parent="a")
    recording.recorder.start("c", op("innermost"), parent="b")
    recording.recorder.fail("a", asyncio.CancelledError())
    spans = {span.name: span for span in recording.wait_for(3)}
    assert attribute(spans["inner"], semconv.OUTCOME) == "cancelled"
    assert attribute(spans["innermost"], semconv.OUTCOME) == "cancelled"
    assert recording.recorder.open_runs == 0


def test_a_late_child_event_within_the_grace_period_still_lands() -> None:
    recording = Recording(grace_s=5)
    recording.recorder.start("a", op("outer"))
    recording.recorder.start("b", op("model", Kind.MODEL, model="m"), parent="a")
    recording.recorder.end("a")
    recording.recorder.flush()
    recording.recorder.end("b", Outcome(usage=Usage(input_tokens=3)))
    span = recording.spans()["chat m"]
    assert attribute(span, semconv.USAGE_INPUT_TOKENS) == 3
    assert attribute(span, semconv.OUTCOME) == "success"
    recording.recorder.shutdown(5)


class FrameworkRunId:
    """Any object that a framework keeps for as long as a run lasts."""


@pytest.mark.parametrize("in_loop", [False, True])
def test_a_run_whose_lifetime_is_over_closes_by_itself(recording: Recording, in_loop: bool) -> None:
    async def start() -> None:
        recording.recorder.start("a", op("gone"), lifetime=FrameworkRunId())

    if in_loop:
        asyncio.run(start())
    else:
        recording.recorder.start("a", op("gone"), lifetime=FrameworkRunId())
    gc.collect()
    span = recording.spans()["invoke_workflow gone"]
    assert attribute(span, semconv.OUTCOME) == ("cancelled" if in_loop else "abandoned")
    assert span.status.status_code is trace.StatusCode.UNSET


def test_a_lifetime_that_ends_after_the_run_changes_nothing(recording: Recording) -> None:
    run_id = FrameworkRunId()
    recording.recorder.start("a", op("done"), lifetime=run_id)
    recording.recorder.end("a")
    recording.recorder.start("a", op("again"))
    del run_id
    gc.collect()
    assert recording.recorder.open_runs == 1
    recording.recorder.end("a")
    assert len(recording.wait_for(2)) == 2


def test_a_run_older_than_the_ttl_times_out() -> None:
    recording = Recording(run_ttl_s=1)
    recording.recorder.start("a", op("stuck"))
    recording.recorder.start("t", None)
    time.sleep(1.1)
    (span,) = recording.wait_for(1)
    assert attribute(span, semconv.OUTCOME) == "timed_out"
    assert recording.recorder.open_runs == 0
    recording.recorder.shutdown(5)


def test_open_runs_are_bounded_and_the_oldest_goes_first() -> None:
    recording = Recording(max_open_runs=10)
    for number in range(100):
        recording.recorder.start(number, op(f"run {number}"), make_current=False)
    assert recording.recorder.open_runs == 10
    assert recording.recorder.find(99) is not None
    assert recording.recorder.find(0) is None
    assert recording.recorder.health.counts()["runs.evicted"] == 90
    assert len(recording.wait_for(90)) == 90
    recording.recorder.shutdown(5)


def test_a_full_queue_drops_and_counts_and_never_blocks() -> None:
    class Stuck(InMemorySpanExporter):
        gate = threading.Event()

        def export(self, spans: object) -> object:  # type: ignore[override]
            self.gate.wait(5)
            return super().export(spans)  # type: ignore[arg-type]

    stuck = Stuck()
    recorder = Recorder(Settings.load({}, {"queue_size": 16, "flush_interval_s": 0.01}), exporters=[stuck])
    began = time.monotonic()
    for number in range(5_000):
        recorder.start(number, op("run"), make_current=False)
        recorder.end(number)
    assert time.monotonic() - began < 4
    stuck.gate.set()
    recorder.shutdown(5)
    assert len(stuck.get_finished_spans()) + recorder.health.counts()["spans.dropped"] == 5_000


def test_disabled_costs_nothing_and_can_be_flipped_while_runs_are_open(recording: Recording) -> None:
    settings = recording.recorder.settings
    off = Settings.load({}, {"enabled": False, "flush_interval_s": 0.01, "grace_s": 0.05})
    recording.recorder.start("before", op("before"))
    recording.recorder.apply(off)
    assert recording.recorder.start("during", op("during")) is None
    recording.recorder.end("during")
    recording.recorder.end("before")
    recording.recorder.apply(settings)
    recording.recorder.start("after", op("after"))
    recording.recorder.end("after")
    assert {span.name for span in recording.wait_for(2)} == {
        "invoke_workflow before",
        "invoke_workflow after",
    }


def test_suppression_is_honoured(recording: Recording) -> None:
    with suppressed():
        assert recording.recorder.start("a", op("hidden")) is None
    recording.recorder.end("a")
    assert recording.recorder.open_runs == 0


def test_attempts_of_the_same_thing_are_numbered_from_the_second_on(recording: Recording) -> None:
    recording.recorder.start("r", op("retrying"))
    for attempt in (1, 2, 3):
        recording.recorder.start(attempt, op(f"attempt {attempt}", attempt_of="call"), parent="r")
        if attempt < 3:
            recording.recorder.fail(attempt, ValueError())
        else:
            recording.recorder.end(attempt)
    recording.recorder.end("r")
    spans = recording.spans()
    assert [attribute(spans[f"attempt {n}"], semconv.RETRY_ATTEMPT) for n in (1, 2, 3)] == [None, 2, 3]
    assert spans["invoke_workflow retrying"].status.status_code is trace.StatusCode.UNSET


def test_a_resumed_run_links_to_the_paused_one(recording: Recording) -> None:
    recording.recorder.start("a", op("graph", Kind.WORKFLOW, conversation_id="c"))
    recording.recorder.end("a", Outcome(status=RunStatus.INTERRUPTED))
    recording.recorder.start("b", op("resumed", Kind.WORKFLOW, conversation_id="c", resumes=True))
    recording.recorder.end("b")
    spans = recording.spans()
    paused, resumed = spans["invoke_workflow graph"], spans["invoke_workflow resumed"]
    assert resumed.context.trace_id != paused.context.trace_id
    assert resumed.links[0].context.span_id == paused.context.span_id
    assert attribute(resumed, semconv.RESUME_WAIT_S) >= 0
    assert paused.status.status_code is trace.StatusCode.OK


def test_a_pause_below_marks_the_runs_above(recording: Recording) -> None:
    recording.recorder.start("a", op("graph"))
    recording.recorder.start("b", op("node"), parent="a")
    recording.recorder.fail("b", RuntimeError(), Outcome(status=RunStatus.INTERRUPTED))
    recording.recorder.end("a")
    spans = recording.spans()
    assert attribute(spans["invoke_workflow graph"], semconv.OUTCOME) == "interrupted"
    assert attribute(spans["node"], semconv.ERROR_TYPE) is None


def test_100_threads_keep_their_runs_apart(recording: Recording) -> None:
    def work(number: int) -> None:
        recording.recorder.start(("root", number), op(f"root {number}"))
        for step in range(20):
            key = (number, step)
            recording.recorder.start(key, op(f"step {number}"), parent=("root", number))
            recording.recorder.end(key)
        recording.recorder.end(("root", number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = recording.wait_for(2_100)
    assert len(spans) == 2_100
    roots = {span.context.trace_id: span for span in spans if span.parent is None}
    assert len(roots) == 100
    for span in spans:
        assert span.name.rpartition(" ")[2] == roots[span.context.trace_id].name.rpartition(" ")[2]


def test_shutdown_closes_what_is_open_and_the_next_run_opens_again(recording: Recording) -> None:
    recording.recorder.start("a", op("open"))
    assert recording.recorder.shutdown(5)
    (span,) = recording.memory.get_finished_spans()
    assert attribute(span, semconv.OUTCOME) == "abandoned"


def test_flush_from_inside_an_exporter_does_not_wait_for_itself() -> None:
    class Flushing(InMemorySpanExporter):
        answers: list[bool] = []

        def export(self, spans: object) -> object:  # type: ignore[override]
            self.answers.append(recorder.flush(5))
            return super().export(spans)  # type: ignore[arg-type]

    exporter = Flushing()
    recorder = Recorder(Settings.load({}, {"flush_interval_s": 0.01}), exporters=[exporter])
    recorder.start("a", op("run"))
    recorder.end("a")
    assert recorder.flush(5)
    assert exporter.answers == [False]
    recorder.shutdown(5)


def test_a_chain_of_five_thousand_open_runs_is_swept() -> None:
    recording = Recording()
    for number in range(5_000):
        recording.recorder.start(
            number, op("deep"), parent=number - 1 if number else None, make_current=False
        )
    recording.recorder.end(0)
    assert len(recording.wait_for(5_000)) == 5_000
    assert recording.recorder.open_runs == 0
    recording.recorder.shutdown(5)


def test_transparent_runs_are_bounded_too() -> None:
    recording = Recording(max_open_runs=10)
    for number in range(100):
        recording.recorder.start(number, None)
    assert recording.recorder.open_runs == 10
    recording.recorder.shutdown(5)


def test_an_exporter_that_exits_or_answers_failure_is_counted_and_survived() -> None:
    class Exiting(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            raise SystemExit

    class Refusing(InMemorySpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.FAILURE

    memory = InMemorySpanExporter()
    recorder = Recorder(
        Settings.load({}, {"flush_interval_s": 0.01}), exporters=[Exiting(), Refusing(), memory]
    )
    for number in range(3):
        recorder.start(number, op("run"))
        recorder.end(number)
        recorder.flush(5)
    assert len(memory.get_finished_spans()) == 3
    assert recorder.health.counts()["spans.dropped"] == 6
    recorder.shutdown(5)


def test_an_exporter_that_was_given_is_flushed_and_never_shut_down(recording: Recording) -> None:
    for number in range(2):
        recording.recorder.start(number, op("run"))
        recording.recorder.end(number)
        assert recording.recorder.shutdown(5)
    assert len(recording.memory.get_finished_spans()) == 2


def test_a_queue_that_fills_wakes_the_worker() -> None:
    recording = Recording(queue_size=64, flush_interval_s=30)
    for number in range(640):
        recording.recorder.start(number, op("run"), make_current=False)
        recording.recorder.end(number)
        if number % 32 == 0:
            time.sleep(0.02)
    assert recording.recorder.health.counts().get("spans.dropped", 0) == 0
    assert len(recording.wait_for(640)) == 640
    recording.recorder.shutdown(5)


@pytest.mark.parametrize("runs", [100, 257, 1_000, 2_000])
def test_a_flush_waits_for_no_interval_however_much_is_queued(runs: int) -> None:
    recording = Recording(flush_interval_s=30)
    for number in range(runs):
        recording.recorder.start(number, op("run"), make_current=False)
        recording.recorder.end(number)
        if number == 0:
            time.sleep(0.05)  # the worker waits for more now
    assert recording.recorder.flush(5)
    assert len(recording.memory.get_finished_spans()) == runs
    recording.recorder.shutdown(5)


def test_a_stream_that_is_told_of_under_an_open_runs_key_takes_over_none(recording: Recording) -> None:
    recorder = recording.recorder
    recorder.start("outer", op("outer", Kind.TOOL))
    recorder.start("other", op("other", Kind.TOOL))
    stream = (number for number in [1])
    recorder.hand_over("outer", stream, told_as="other")
    del stream  # the end of the run that was handed over, and of no other
    assert recorder.find("other") is not None
    assert recorder.find("outer") is None
    recorder.end("other")
    outcomes = {name: attribute(span, semconv.OUTCOME) for name, span in recording.spans().items()}
    assert outcomes == {"execute_tool outer": "abandoned", "execute_tool other": "success"}


def test_a_run_goes_on_under_the_key_that_its_stream_is_told_of(recording: Recording) -> None:
    recorder = recording.recorder
    recorder.start("outer", op("outer", Kind.TOOL))
    stream = (number for number in [1])
    recorder.hand_over("outer", stream, told_as="inner")
    recorder.end("outer")
    assert recorder.open_runs == 1
    recorder.end("inner")
    assert attribute(recording.spans()["execute_tool outer"], semconv.OUTCOME) == "success"
