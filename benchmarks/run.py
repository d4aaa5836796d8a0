"""What observing costs: `make bench`, or `python -m benchmarks.run`.

Two modes. Time mode compares CPU time side by side in one process; it takes a minute. Instruction mode counts what is
executed under valgrind's callgrind, repeats within about 1 % on any machine and takes minutes; its gates hold in CI.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import delivery, imports, instructions, requests, sampling, timing, worker
from benchmarks.scenarios import FRAMEWORKS, load
from benchmarks.tables import Gate, gate_table

_ROUNDS = 60
_QUICK_ROUNDS = 12
_PROCESSES = 7
_QUICK_PROCESSES = 3
_QUICK_SCENARIOS = ("chain", "llama chat")
_NO_CALLGRIND = (
    "Instruction mode was skipped: it needs valgrind (apt install valgrind, dnf install valgrind)."
)


def _scenarios() -> list[str]:
    return [scenario for framework in FRAMEWORKS for scenario in load(framework).scenarios]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench ARGS=…", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--gate", action="store_true", help="instruction mode only; exit 1 if a gate is missed"
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, and instructions of one scenario each"
    )
    parser.add_argument(
        "--only", action="append", choices=_scenarios(), metavar="SCENARIO", help="count these only"
    )
    parser.add_argument("--imports", action="store_true", help="only list the slowest imports")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers to FILE")
    return parser.parse_args(given)


def _time(*, quick: bool) -> tuple[Mapping[str, float], list[Gate]]:
    rounds = _QUICK_ROUNDS if quick else _ROUNDS
    found = {
        **timing.time_runs(rounds),
        **timing.time_langchain(rounds),
        **timing.time_llama_index(rounds),
        "store": timing.time_store(rounds),
    }
    print(timing.report(found))
    of_worker = worker.measure(rounds)
    print(worker.report(of_worker))
    found |= of_worker
    of_sampling = sampling.measure(rounds)
    print(sampling.report(of_sampling))
    found |= of_sampling
    of_delivery = delivery.measure(rounds)
    print(delivery.report(of_delivery))
    found |= of_delivery
    of_requests = requests.measure(rounds)
    print(requests.report(of_requests))
    found |= of_requests
    found |= imports.import_times(_QUICK_PROCESSES if quick else _PROCESSES)
    print(imports.report(found))
    parts = (timing, worker, sampling, delivery, requests, imports)
    return found, [gate for part in parts for gate in part.gates(found)]


def _count(only: Sequence[str]) -> tuple[Mapping[str, float], list[Gate]]:
    counted = instructions.count_instructions(only)
    print(instructions.report(counted))
    return {
        f"{scenario}, {variant}": value for (scenario, variant), value in counted.items()
    }, instructions.gates(counted)


def main(given: Sequence[str] | None = None) -> int:
    arguments = _arguments(given)
    if arguments.imports:
        print(imports.slowest_imports())
        return 0
    result: dict[str, Any] = {"python": platform.python_version(), "machine": platform.machine()}
    gates: list[Gate] = []
    if not arguments.gate:
        result["time_us"], found = _time(quick=arguments.quick)
        gates += found
    if instructions.has_callgrind():
        only = arguments.only or (_QUICK_SCENARIOS if arguments.quick else ())
        result["instructions_m"], found = _count(only)
        gates += found
    else:
        print(_NO_CALLGRIND)
        if arguments.gate:
            return 1 if os.environ.get("CI") == "true" else 0
    print(gate_table(gates))
    if arguments.json is not None:
        result["gates"] = [
            {
                "name": gate.name,
                "value": gate.value,
                "limit": gate.limit,
                "unit": gate.unit,
                "met": gate.is_met,
            }
            for gate in gates
        ]
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 1 if arguments.gate and not all(gate.is_met for gate in gates) else 0


if __name__ == "__main__":
    sys.exit(main())
