"""The settings of sampling; a part of `Settings`."""

from __future__ import annotations

from dataclasses import dataclass

from aiobs_core import _setting_values as values
from aiobs_core._setting_sources import setting
from aiobs_core.sampling.policy import PRESETS, SamplingPolicy, read_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingSettings:
    """Which traces are kept, and what may be held back until that is known."""

    sampling: SamplingPolicy = setting(
        read_policy,
        PRESETS["all"],
        "AIOBS_SAMPLING",
        "Which traces are kept, decided at their end: `all`, `production` (errors, costly ones, 1 % of the rest), `canary` (the "
        "same with 10 %), a TOML file of rules, or the rules themselves in TOML. Metrics count all of them.",
        closed=(PRESETS["all"], "every trace is kept"),
        stays=True,
    )
    sampling_max_traces: int = setting(
        values.count(10, 10_000_000),
        10_000,
        "AIOBS_SAMPLING_MAX_TRACES",
        "Traces that may be undecided at once; beyond it, and beyond the next two, those with the most spans and then the oldest "
        "are decided on what is known.",
    )
    sampling_max_spans: int = setting(
        values.count(100, 100_000_000),
        100_000,
        "AIOBS_SAMPLING_MAX_SPANS",
        "Finished spans that may wait for the decision on their trace.",
    )
    sampling_max_bytes: int = setting(
        values.count(100_000, 1 << 40),
        200_000_000,
        "AIOBS_SAMPLING_MAX_BYTES",
        "Memory that these spans may take, estimated.",
    )
    sampling_max_wait_s: float = setting(
        values.number(0.1, 86_400, "seconds"),
        300.0,
        "AIOBS_SAMPLING_MAX_WAIT_S",
        "Age at which a trace is decided although it goes on; what comes then follows, and an error still makes it kept.",
    )
