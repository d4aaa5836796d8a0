"""Instruction mode: what one call executes, counted by callgrind; repeats within about 1 % on a busy machine, too.

One process under callgrind imports everything, then forks a child for each scenario and variant. A child makes
`few` calls and then `many`; the difference, divided by the difference in calls, is what one call costs on all
threads, with flushing, without what is done once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from benchmarks.scenarios import SCENARIOS
from benchmarks.tables import Gate, table

_TIMEOUT_S: Final = 1_500
_FOREIGN: Final = (
    "AIOBS_",
    "OBSERVABILITY_",
    "OTEL_",
    "LANGSMITH_",
    "LANGCHAIN_",
)  # a developer's own settings
_COMPARED: Final = ("none", "inline", "aiobs")
_GOALS_M: Final = {  # what observing should cost at the most, from the floors measured when aiobs was designed
    ("chain", "aiobs"): 0.70,
    ("stream", "aiobs"): 4.0,
    ("agent", "aiobs"): 4.0,
    ("rag", "aiobs"): 1.4,
    ("large", "aiobs"): 0.70,
    ("async", "aiobs"): 0.85,
    ("chain", "unsampled"): 0.50,
}
# What it costs now and about 7 %, where that is more: it may fall, and not rise. Lower these with each gain.
_RATCHET_M: Final = {
    ("chain", "aiobs"): 0.86,
    ("agent", "aiobs"): 5.4,
    ("rag", "aiobs"): 1.7,
    ("large", "aiobs"): 0.86,
    ("async", "aiobs"): 1.09,
    ("chain", "unsampled"): 0.65,
}

Counted = Mapping[tuple[str, str], float]
"""Million instructions per call, by scenario and variant."""


def has_callgrind() -> bool:
    """True if valgrind is installed."""
    return shutil.which("valgrind") is not None


def count_instructions(only: Sequence[str] = ()) -> Counted:
    """Count all scenarios, or those named; takes minutes.

    Raises:
        RuntimeError: If a scenario failed, or did not export the spans it should have.
    """
    pairs = [(scenario, variant) for scenario in only or SCENARIOS for variant in _COMPARED]
    pairs.extend(pair for pair in _GOALS_M if pair not in pairs and pair[0] in (only or SCENARIOS))
    pairs.sort(key=lambda pair: pair[0] != "agent")  # the longest first: two run at a time
    with tempfile.TemporaryDirectory(prefix="aiobs-bench-") as folder:
        children = _run(pairs, Path(folder))
        return {pair: _millions_per_call(pair[0], pid, Path(folder)) for pair, pid in children.items()}


def _run(pairs: Sequence[tuple[str, str]], folder: Path) -> Mapping[tuple[str, str], int]:
    command = [
        "valgrind",
        "--tool=callgrind",
        "--quiet",
        f"--callgrind-out-file={folder}/counted.%p",
        "--dump-before=getpriority",
        sys.executable,
        "-m",
        "benchmarks.counted",
        *("/".join(pair) for pair in pairs),
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    done = subprocess.run(
        command,
        env={**environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"callgrind ended with {done.returncode}:\n{done.stderr[-4_000:]}")
    children = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {(child["scenario"], child["variant"]): child["pid"] for child in children}


def _millions_per_call(scenario: str, pid: int, folder: Path) -> float:
    # Part 1 is start-up and warm-up, part 2 the few calls, part 3 the many.
    few, many = (_total(folder / f"counted.{pid}.{part}") for part in (2, 3))
    asked = SCENARIOS[scenario]
    return (many - few) / (asked.many - asked.few) / 1e6


def _total(part: Path) -> int:
    with part.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith("totals:"):
                return int(line.split()[1])
    raise RuntimeError(f"{part.name}: no line 'totals:'; valgrind was interrupted or writes another format")


def added(counted: Counted, scenario: str, variant: str) -> float:
    """Million instructions per call on top of the same call without a handler."""
    return counted[scenario, variant] - counted[scenario, "none"]


def gates(counted: Counted) -> list[Gate]:
    """The limits of all scenarios that were counted."""
    return [
        Gate(
            name=f"{scenario}, {variant}" if variant != "aiobs" else scenario,
            value=added(counted, scenario, variant),
            limit=_RATCHET_M.get((scenario, variant), goal),
            goal=goal,
            unit="M added instructions per call",
        )
        for (scenario, variant), goal in _GOALS_M.items()
        if (scenario, variant) in counted
    ]


def report(counted: Counted) -> str:
    """The table of all scenarios."""
    rows = []
    for scenario, asked in SCENARIOS.items():
        if (scenario, "none") not in counted:
            continue
        columns = [f"+{added(counted, scenario, variant):.3f}" for variant in _COMPARED[1:]]
        unsampled = (
            f"+{added(counted, scenario, 'unsampled'):.3f}" if (scenario, "unsampled") in counted else ""
        )
        label = f"{scenario}: {asked.says} ({asked.spans} spans)"
        rows.append((label, f"{counted[scenario, 'none']:.3f}", *columns, unsampled))
    head = ("", "no handler", "empty handler, inline", "aiobs", "aiobs, not sampled")
    return table("Million instructions per call, all threads, flushed (callgrind)", head, rows)
