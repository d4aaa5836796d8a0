"""The stage `measure`: counts every run that ended, before anybody decides whether its trace is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiobs_core import semconv
from aiobs_core._operation import UNSPENT, Kind, RunStatus
from aiobs_core._run import Run
from aiobs_core._switches import METRICS, TRACES
from aiobs_core.metrics.gen_ai import MAX_COUNT, GenAiSeries, gen_ai_series
from aiobs_core.metrics.labels import LabelValues
from aiobs_core.metrics.meters import Meters
from aiobs_core.metrics.series import Attributes, Distribution, Exemplar, Number
from aiobs_core.semconv import metrics as names
from aiobs_core.semconv.metrics import OTHER
from aiobs_core.signals.ai_agent import host_and_port

if TYPE_CHECKING:
    from aiobs_core._operation import Usage
    from aiobs_core._settings import Settings
    from aiobs_core.privacy.stage import Privacy
    from aiobs_core.semconv.metrics import Metric

_MAX_BOUND: Final = 4_096
# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_AGENT: Final = Kind.AGENT
_CHAIN: Final = Kind.CHAIN
_EMBEDDING: Final = Kind.EMBEDDING
_MODEL: Final = Kind.MODEL
_RERANKER: Final = Kind.RERANKER
_RETRIEVER: Final = Kind.RETRIEVER
_TOOL: Final = Kind.TOOL
_ERROR: Final = RunStatus.ERROR
_PARTS: Final = (
    Kind.STAGE,
    Kind.PRODUCER,
)  # never a whole request, also where nothing of ours is around them
_CALLS_A_MODEL: Final = (_MODEL, _EMBEDDING)
_NAMED_FROM: Final = (
    5  # of what makes a sort of runs, the names; an application may have bound them to anything
)
_DIRECTIONS: Final = ("input", "output", "cached", "reasoning")


class _Stage(NamedTuple):
    """Where the runs of one stage are counted, or all in `total`."""

    latency: Distribution
    requests: Number


class _Tokens(NamedTuple):
    """Where the tokens of one direction are counted."""

    usage: Distribution
    total: Number


class _Bound:
    """The series that runs of one sort belong to: found once, then counted in."""

    __slots__ = (
        "cost",
        "documents",
        "errors",
        "first_chunk",
        "gen_ai",
        "stages",
        "tokens",
        "tool_calls",
        "values",
    )

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values
        self.stages: list[_Stage] = []
        self.errors: list[Number] = []
        self.first_chunk: Distribution | None = None
        self.tokens: list[_Tokens | None] = [None, None, None, None]
        self.cost: Number | None = None
        self.tool_calls: Number | None = None
        self.documents: Distribution | None = None
        self.gen_ai: GenAiSeries | None = None


class Measure:
    """Finds the series of each run and counts in them. Used by the worker only."""

    def __init__(self, settings: Settings, meters: Meters, privacy: Privacy) -> None:
        self._meters = meters
        self._labels = LabelValues(
            privacy,
            max_values=settings.metric_max_values,
            taken=meters.label_values,
            overflowed=meters.note_overflow,
        )
        self._generation = settings.semconv if "gen_ai" in settings.dialects else None
        self._bound: dict[tuple[object, ...], _Bound] = {}

    def measure(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Count a batch; a run that cannot be counted is told of, and goes on all the same."""
        with self._meters.lock:
            for item in batch:
                if type(item) is Run and item.span.trace.signals & METRICS:
                    try:
                        self._count(item)
                    except Exception as error:  # noqa: BLE001 (odd objects of an application among names and counts)
                        self._meters.health.problem(
                            "metrics.measure", f"aiobs: a run could not be counted ({type(error).__name__})."
                        )
        return batch

    def mark(self, batch: Sequence[Any]) -> Sequence[Any]:
        """Make examples of the kept runs: a bucket shows the newest one, so that a graph leads to a trace that is there."""
        with self._meters.lock:
            for item in batch:
                if type(item) is Run and item.span.trace.signals & TRACES:
                    span = item.span
                    for series, bucket, value in item.marks:
                        series.exemplars[bucket] = Exemplar(
                            value, span.end_ns, span.trace.trace_id, span.span_id
                        )
        return batch

    # --- one run ----------------------------------------------------------------------------------------------------

    def _count(self, run: Run) -> None:
        kind, span = run.kind, run.span
        if run.stage is None and kind is _CHAIN and not span.is_local_root:
            return  # it only moves data: no part of a request, and many of them
        operation, usage = run.operation, run.outcome.usage
        request = span.request
        key = (
            kind,
            run.status,
            run.stage,
            span.scope,
            span.parent is None,
            operation.action,
            operation.provider,
            operation.model,
            run.outcome.model,
            operation.name if kind is _AGENT or kind is _TOOL else None,
            run.agent,
            run.error_type,
            operation.endpoint,
            None if request is None else request.privacy_policy,
        )
        try:
            bound = self._bound.get(key)
        except TypeError:  # a name that is no text, and cannot be hashed
            bound = None
        if bound is None:
            bound = self._bind(key, run)
        duration_s = (span.end_ns - span.start_ns) / 1e9
        marks = []
        for latency, requests in bound.stages:
            marks.append((latency, latency.record(duration_s), duration_s))
            requests.value += 1
        for number in bound.errors:
            number.value += 1
        if run.is_unpriced:
            self._number(names.UNPRICED, bound).value += 1
        if run.cost_usd:
            self._cost(bound).value += run.cost_usd
        if kind is _TOOL:
            self._tool_calls(bound).value += 1
        elif kind is _RETRIEVER or kind is _RERANKER:
            self._add_documents(run, bound)
        called = usage is None or usage.source not in UNSPENT
        if called and span.first_chunk_ns and kind is _MODEL:
            first_s = (span.first_chunk_ns - span.start_ns) / 1e9
            series = self._first_chunk(bound)
            marks.append((series, series.record(first_s), first_s))
        if called and usage is not None:
            self._add_tokens(usage, bound)
        if called and bound.gen_ai is not None:
            bound.gen_ai.count(duration_s, span, usage)
        run.marks = marks

    def _cost(self, bound: _Bound) -> Number:
        if bound.cost is None:
            bound.cost = self._number(names.COST, bound)
        return bound.cost

    def _tool_calls(self, bound: _Bound) -> Number:
        if bound.tool_calls is None:
            bound.tool_calls = self._number(names.TOOL_CALLS, bound)
        return bound.tool_calls

    def _add_documents(self, run: Run, bound: _Bound) -> None:
        count = run.outcome.attributes.get(semconv.DOCUMENT_COUNT)
        if type(count) is not int:
            return
        if bound.documents is None:
            bound.documents = self._distribution(names.RETRIEVAL_DOCUMENTS, bound)
        bound.documents.record(count)

    def _first_chunk(self, bound: _Bound) -> Distribution:
        if bound.first_chunk is None:
            bound.first_chunk = self._distribution(names.TIME_TO_FIRST_CHUNK, bound)
        return bound.first_chunk

    def _add_tokens(self, usage: Usage, bound: _Bound) -> None:
        counts = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.reasoning_tokens)
        for at, count in enumerate(counts):
            if type(count) is not int or not 0 <= count < MAX_COUNT:  # `is_count`, without a call for each
                continue
            tokens = bound.tokens[at]
            if tokens is None:
                given = {**bound.values, names.DIRECTION: _DIRECTIONS[at]}
                tokens = bound.tokens[at] = _Tokens(
                    self._meters.family(names.TOKEN_USAGE).distribution(_of(names.TOKEN_USAGE, given)),
                    self._meters.family(names.TOKENS).number(_of(names.TOKENS, given)),
                )
            tokens.usage.record(count)
            tokens.total.value += count

    # --- which series -------------------------------------------------------------------------------------------

    def _bind(self, asked: tuple[object, ...], run: Run) -> _Bound:
        key = (*asked[:_NAMED_FROM], *map(_text, asked[_NAMED_FROM:]))
        if (known := self._bound.get(key)) is not None:
            return known
        values = self._values(run)
        bound = _Bound(values)
        stages: list[str | None] = [] if run.stage is None else [run.stage.value]
        if run.span.is_local_root and run.kind not in _PARTS:
            stages.append(names.TOTAL)
        for stage in stages or [None]:
            given = values if stage is None else {**values, names.STAGE: stage}
            bound.stages.append(
                _Stage(
                    self._meters.family(names.LATENCY).distribution(_of(names.LATENCY, given)),
                    self._meters.family(names.REQUESTS).number(_of(names.REQUESTS, given)),
                )
            )
            if run.status is _ERROR:
                bound.errors.append(self._meters.family(names.ERRORS).number(_of(names.ERRORS, given)))
        if self._generation is not None and (run.kind in _CALLS_A_MODEL or run.kind is _RETRIEVER):
            bound.gen_ai = gen_ai_series(self._meters, self._generation, values, self._server_of(run))
        if len(self._meters.sorts) < _MAX_BOUND:
            self._meters.sorts.add(_of(names.ACTIVE_INSTANCES, values))
        if len(self._bound) >= _MAX_BOUND:
            self._bound.clear()  # the series stay; only finding them costs once more
        self._bound[key] = bound
        return bound

    def _values(self, run: Run) -> dict[str, str]:
        operation, request = run.operation, run.span.request
        scope = run.span.scope
        given = {
            names.OPERATION: operation.action or semconv.GEN_AI_OPERATIONS.get(run.kind, run.kind.value),
            names.PROVIDER: operation.provider,
            names.MODEL: (operation.model or run.outcome.model)
            if run.kind in _CALLS_A_MODEL
            else operation.model,
            names.MODEL_VERSION: run.outcome.model,
            names.FRAMEWORK: scope.removeprefix(semconv.SCOPE_PREFIX)
            if scope.startswith(semconv.SCOPE_PREFIX)
            else None,
            names.AGENT: operation.name if run.kind is _AGENT else run.agent,
            names.TOOL: operation.name if run.kind is _TOOL else None,
            names.STATUS: run.status.value,
            names.ERROR_TYPE: run.error_type,
        }
        policy = None if request is None else request.privacy_policy
        return {
            name: self._labels.value(name, text, policy)
            for name, value in given.items()
            if (text := _text(value))
        }

    def _server_of(self, run: Run) -> tuple[str, int | None] | None:
        """Host and port of the endpoint, as they may leave: there may be one for each tenant, with a name in it."""
        endpoint = _text(run.operation.endpoint)
        found = host_and_port(endpoint) if endpoint else None
        if found is None:
            return None
        request = run.span.request
        policy = None if request is None else request.privacy_policy
        host = self._labels.value(semconv.SERVER_ADDRESS, found[0], policy)
        return host, found[1] if host == found[0] else None

    def _number(self, metric: Metric, bound: _Bound) -> Number:
        return self._meters.family(metric).number(_of(metric, bound.values))

    def _distribution(self, metric: Metric, bound: _Bound) -> Distribution:
        return self._meters.family(metric).distribution(_of(metric, bound.values))


def _text(value: object) -> str | None:
    """A name, which applications may have bound to anything: what is no text is `other`, so that the run counts."""
    return value if type(value) is str or value is None else OTHER


def _of(metric: Metric, values: dict[str, str]) -> Attributes:
    """Those of the values that the metric has."""
    return tuple([(name, values[name]) for name in metric.attributes if name in values])
