"""What `import aiobs_langchain` adds to an application that has imported LangChain and the SDK: fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

from benchmarks.tables import Gate, table

IMPORT_LIMIT_MS: Final = 150.0
_THERE_ALREADY: Final = (
    "langchain_core.language_models, langchain_core.runnables, opentelemetry.sdk.trace.export"
)
_MEASURED: Final = f"""
import json, time
import {_THERE_ALREADY}
wall_s, cpu_s = time.perf_counter(), time.process_time()
import aiobs_langchain
print(json.dumps([(time.perf_counter() - wall_s) * 1e3, (time.process_time() - cpu_s) * 1e3]))
"""
_TOP: Final = 25


def import_times_ms(processes: int) -> tuple[float, float]:
    """The lowest wall and CPU time of so many fresh processes."""
    answers = [json.loads(_python("-c", _MEASURED).stdout) for _ in range(processes)]
    return min(wall for wall, _ in answers), min(cpu for _, cpu in answers)


def import_gate(cpu_ms: float) -> Gate:
    return Gate(name="import aiobs_langchain", value=cpu_ms, limit=IMPORT_LIMIT_MS, unit="ms of CPU time")


def slowest_imports() -> str:
    """The modules that take longest, from `-X importtime`, without those that are there already."""
    before = {module for module, _ in _imported(f"import {_THERE_ALREADY}")}
    after = _imported(f"import {_THERE_ALREADY}, aiobs_langchain")
    ours = sorted(((us, module) for module, us in after if module not in before), reverse=True)
    total_us = sum(us for us, _ in ours)
    rows = [(module, f"{us / 1e3:.2f}") for us, module in ours[:_TOP]]
    rows.append((f"all {len(ours)} modules", f"{total_us / 1e3:.2f}"))
    return table("Imports that aiobs_langchain adds, slowest first", ("", "ms, own"), rows)


def _imported(statement: str) -> list[tuple[str, int]]:
    """Modules with the microseconds that each took itself, without what it imported."""
    found = []
    for line in _python("-X", "importtime", "-c", statement).stderr.splitlines():
        own, _, module = (part.strip() for part in line.removeprefix("import time:").split("|", 2))
        if own.isdigit():  # the head line is not
            found.append((module, int(own)))
    return found


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)
