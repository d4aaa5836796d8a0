"""What the line of a request will say of the runs inside it, gathered as they come by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiobs_core._operation import UNSPENT

if TYPE_CHECKING:
    from aiobs_core._operation import Usage

_MAX_MODELS: Final = 64


class Call(NamedTuple):
    """One model call, as far as a request's line tells of it; every text is masked already."""

    model: str | None
    model_version: str | None
    parameters: Mapping[str, Any] | None
    prompt_hash: str | None
    output_summary: str | None
    usage: Usage | None
    start_ns: int
    end_ns: int


class RequestSummary:
    """Sums and choices over the model calls of one request. Used by the worker only."""

    __slots__ = (
        "_by_model",
        "_first_ns",
        "_last_ns",
        "cached_tokens",
        "input_tokens",
        "is_written",
        "last",
        "model_calls",
        "output_summary",
        "output_tokens",
        "prompt_hash",
        "reasoning_tokens",
        "retries",
    )

    def __init__(self) -> None:
        self.is_written = False
        self.model_calls = 0
        self.retries = 0
        # None: no call has told of any.
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.cached_tokens: int | None = None
        self.reasoning_tokens: int | None = None
        self.prompt_hash: str | None = None
        self.output_summary: str | None = None
        self.last: Call | None = None
        self._first_ns = 0
        self._last_ns = 0
        self._by_model: dict[tuple[str | None, str | None], tuple[int, Call]] = {}

    def add(self, call: Call) -> None:
        """Count a call that has ended."""
        self.model_calls += 1
        if call.prompt_hash is not None and (self.prompt_hash is None or call.start_ns < self._first_ns):
            self.prompt_hash, self._first_ns = call.prompt_hash, call.start_ns
        if call.end_ns >= self._last_ns:
            self._last_ns = call.end_ns
            self.last = call
            self.output_summary = call.output_summary or self.output_summary
        usage = call.usage
        tokens = 0
        if usage is not None and usage.source not in UNSPENT:
            self.input_tokens = _sum(self.input_tokens, usage.input_tokens)
            self.output_tokens = _sum(self.output_tokens, usage.output_tokens)
            self.cached_tokens = _sum(self.cached_tokens, usage.cache_read_tokens)
            self.reasoning_tokens = _sum(self.reasoning_tokens, usage.reasoning_tokens)
            tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0)
        models, model = self._by_model, (call.model, call.model_version)
        if model in models or len(models) < _MAX_MODELS:
            models[model] = (tokens + (models[model][0] if model in models else 0), call)

    def main_call(self) -> Call | None:
        """The last call of the model with the most tokens; where none has any, the last call of all."""
        most, call = max(self._by_model.values(), key=lambda found: found[0], default=(0, None))
        return call if most else self.last


def _sum(known: int | None, more: int | None) -> int | None:
    if type(more) is not int or more < 0:
        return known
    return more if known is None else known + more


WRITTEN: Final = RequestSummary()
"""Stands on a trace whose request's line was written, in the place of what was gathered for it."""
WRITTEN.is_written = True
