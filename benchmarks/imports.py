"""What importing an integration adds to an application that has imported its framework and the SDK: fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Final

from benchmarks.tables import Gate, table

IMPORT_LIMIT_MS: Final = 150.0
_THERE_ALREADY: Final = {  # our package → what an application has imported before
    "aiobs_langchain": (
        "langchain_core.language_models, langchain_core.runnables, opentelemetry.sdk.trace.export"
    ),
    "aiobs_llama_index": "llama_index.core, opentelemetry.sdk.trace.export",
}
_MEASURED: Final = """
import json, time
import {before}
wall_s, cpu_s = time.perf_counter(), time.process_time()
import {package}
print(json.dumps([(time.perf_counter() - wall_s) * 1e3, (time.process_time() - cpu_s) * 1e3]))
"""
_TOP: Final = 25


def import_times(processes: int) -> Mapping[str, float]:
    """For each package the lowest wall and CPU time of so many fresh processes, in milliseconds."""
    found = {}
    for package, before in _THERE_ALREADY.items():
        program = _MEASURED.format(package=package, before=before)
        answers = [json.loads(_python("-c", program).stdout) for _ in range(processes)]
        found[f"import {package}, wall ms"] = min(wall for wall, _ in answers)
        found[f"import {package}, CPU ms"] = min(cpu for _, cpu in answers)
    return found


def gates(found: Mapping[str, float]) -> list[Gate]:
    return [
        Gate(
            name=f"import {package}",
            value=found[f"import {package}, CPU ms"],
            limit=IMPORT_LIMIT_MS,
            unit="ms of CPU time",
        )
        for package in _THERE_ALREADY
    ]


def report(found: Mapping[str, float]) -> str:
    rows = [
        (package, *(f"{found[f'import {package}, {clock} ms']:.0f}" for clock in ("CPU", "wall")))
        for package in _THERE_ALREADY
    ]
    return table("Import, after the framework and the SDK, ms", ("", "CPU time", "wall"), rows)


def slowest_imports() -> str:
    """The modules that take longest, from `-X importtime`, without those that are there already."""
    return "\n".join(_slowest(package, before) for package, before in _THERE_ALREADY.items())


def _slowest(package: str, there: str) -> str:
    before = {module for module, _ in _imported(f"import {there}")}
    after = _imported(f"import {there}, {package}")
    ours = sorted(((us, module) for module, us in after if module not in before), reverse=True)
    total_us = sum(us for us, _ in ours)
    rows = [(module, f"{us / 1e3:.2f}") for us, module in ours[:_TOP]]
    rows.append((f"all {len(ours)} modules", f"{total_us / 1e3:.2f}"))
    return table(f"Imports that {package} adds, slowest first", ("", "ms, own"), rows)


def _imported(statement: str) -> list[tuple[str, int]]:
    """Modules with the microseconds that each took itself, without what it imported."""
    found = []
    for line in _python("-X", "importtime", "-c", statement).stderr.splitlines():
        if not line.startswith("import time:"):  # a warning of the framework's
            continue
        own, _, module = (part.strip() for part in line.removeprefix("import time:").split("|", 2))
        if own.isdigit():  # the head line is not
            found.append((module, int(own)))
    return found


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
