"""The `gen_ai.*` metrics of OpenTelemetry, in the generation that `AIOBS_SEMCONV` chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeGuard

from aiobs_core import semconv
from aiobs_core.metrics.series import Attributes, Distribution, Number
from aiobs_core.semconv import metrics as names

if TYPE_CHECKING:
    from aiobs_core._operation import Usage
    from aiobs_core._span import AgentSpan
    from aiobs_core.metrics.meters import Meters
    from aiobs_core.semconv.metrics import Metric

MAX_COUNT: Final = 1 << 53
_UNKNOWN_MODALITY: Final = "unknown"  # providers do not tell it of all their tokens


def is_count(value: object) -> TypeGuard[int]:
    """Whether a number of tokens can be one: a single absurd one would spoil a counter for good, and OTLP cannot hold it."""
    return type(value) is int and 0 <= value < MAX_COUNT


class GenAiSeries:
    """The series of model calls of one sort."""

    __slots__ = (
        "_attributes",
        "_counters",
        "_duration",
        "_error",
        "_first_chunk",
        "_generation",
        "_meters",
        "_usage",
    )

    def __init__(
        self, meters: Meters, generation: str, attributes: dict[str, str | int], error: str | None
    ) -> None:
        self._meters = meters
        self._generation = generation
        self._attributes = attributes
        self._error: dict[str, str] = {semconv.ERROR_TYPE: error} if error else {}
        self._duration: Distribution | None = None
        self._first_chunk: Distribution | None = None
        self._usage: dict[str, Distribution] = {}
        self._counters: dict[str, Number] = {}

    def count(self, duration_s: float, span: AgentSpan, usage: Usage | None) -> None:
        """Count one call."""
        if self._duration is None:
            self._duration = self._distribution(names.GEN_AI_OPERATION_DURATION, self._error)
        self._duration.record(duration_s)
        if span.first_chunk_ns:
            if self._first_chunk is None:
                self._first_chunk = self._distribution(names.GEN_AI_TIME_TO_FIRST_CHUNK, {})
            self._first_chunk.record((span.first_chunk_ns - span.start_ns) / 1e9)
        if usage is None:
            return
        if self._generation != "latest":
            self._use("input", usage.input_tokens)
            self._use("output", usage.output_tokens)
        if self._generation != "1.41":
            self._spread(names.GEN_AI_OPERATION_INPUT_TOKENS, usage.input_tokens)
            self._spread(names.GEN_AI_OPERATION_OUTPUT_TOKENS, usage.output_tokens)
            self._add(names.GEN_AI_INPUT_TOKENS, usage.input_tokens)
            self._add(names.GEN_AI_OUTPUT_TOKENS, usage.output_tokens)
            self._add(names.GEN_AI_CACHE_READ_TOKENS, usage.cache_read_tokens)
            self._add(names.GEN_AI_CACHE_WRITE_TOKENS, usage.cache_write_tokens)
            self._add(names.GEN_AI_REASONING_TOKENS, usage.reasoning_tokens)

    def _use(self, token_type: str, count: int | None) -> None:
        if not is_count(count):
            return
        series = self._usage.get(token_type)
        if series is None:
            more = {names.GEN_AI_TOKEN_TYPE: token_type}
            series = self._usage[token_type] = self._distribution(names.GEN_AI_TOKEN_USAGE, more)
        series.record(count)

    def _spread(self, metric: Metric, count: int | None) -> None:
        if not is_count(count):
            return
        series = self._usage.get(metric.name)
        if series is None:
            series = self._usage[metric.name] = self._distribution(metric, {})
        series.record(count)

    def _add(self, metric: Metric, count: int | None) -> None:
        if not is_count(count):
            return
        series = self._counters.get(metric.name)
        if series is None:
            given = {**self._attributes, names.GEN_AI_TOKEN_MODALITY: _UNKNOWN_MODALITY}
            series = self._counters[metric.name] = self._meters.number(metric, _of(metric, given))
        series.value += count

    def _distribution(self, metric: Metric, more: dict[str, str]) -> Distribution:
        return self._meters.family(metric).distribution(_of(metric, {**self._attributes, **more}))


def gen_ai_series(
    meters: Meters, generation: str, values: dict[str, str], server: tuple[str, int | None] | None
) -> GenAiSeries:
    """The series of a run.

    Args:
        meters: Where they are.
        generation: `1.41`, `latest` or `both`.
        values: The call's attributes for `ai.agent.*`, as they may leave.
        server: Host and port that it goes to, as they may leave.
    """
    attributes: dict[str, str | int] = {semconv.GEN_AI_OPERATION_NAME: values[names.OPERATION]}
    for name, own in (
        (semconv.GEN_AI_PROVIDER_NAME, names.PROVIDER),
        (semconv.GEN_AI_REQUEST_MODEL, names.MODEL),
        (semconv.GEN_AI_RESPONSE_MODEL, names.MODEL_VERSION),
    ):
        if own in values:
            attributes[name] = values[own]
    if server is not None:
        attributes[semconv.SERVER_ADDRESS] = server[0]
        if server[1] is not None:
            attributes[semconv.SERVER_PORT] = server[1]
    return GenAiSeries(meters, generation, attributes, values.get(names.ERROR_TYPE))


def _of(metric: Metric, values: dict[str, str | int]) -> Attributes:
    return tuple([(name, values[name]) for name in metric.attributes if name in values])
