"""The program that runs under callgrind: imports a framework once, then one forked child for each scenario and variant.

Every call of libc's `getpriority`, which nothing else here uses, makes callgrind write what was executed since the
last one (`--dump-before`), on all threads together. Not for direct use; see `instructions.py`.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback

from benchmarks.scenarios import OURS, CountingExporter, Framework, configure, load

import aiobs_core

_WARM_UP_CALLS = 8
_FLUSH_S = 120.0


def _cut() -> None:
    os.getpriority(os.PRIO_PROCESS, 0)


def count(framework: Framework, scenario: str, variant: str) -> None:
    """Execute `few` calls, then `many`; what comes before the first and after the last cut is not of interest."""
    asked = framework.scenarios[scenario]
    exporter = CountingExporter()
    if variant in OURS:
        # One batch for each flush: under callgrind everything takes 50 times as long, so the worker would wake up for
        # single spans, which it never does at the speed of a real process.
        configure(variant, exporter, flush_interval_s=60, export_timeout_s=_FLUSH_S)
    config = framework.listen(variant)
    run = asked.make()
    run(_WARM_UP_CALLS, config)
    aiobs_core.flush(_FLUSH_S)
    gc.collect()
    exporter.count = 0
    _cut()
    for calls in (asked.few, asked.many):
        run(calls, config)
        aiobs_core.flush(_FLUSH_S)
        _cut()
    expected = (asked.few + asked.many) * asked.spans if variant == "aiobs" else 0
    if exporter.count != expected:
        raise AssertionError(
            f"{scenario}, {variant}: {exporter.count} spans were exported, expected {expected}"
        )


def _fork(framework: Framework, scenario: str, variant: str) -> int:
    child = os.fork()
    if child:
        print(json.dumps({"pid": child, "scenario": scenario, "variant": variant}), flush=True)
        return child
    try:
        count(framework, scenario, variant)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def main(name: str, pairs: list[str]) -> int:
    """Run `scenario/variant` pairs of a framework, two at a time."""
    framework = load(name)
    gc.collect()
    gc.freeze()  # what is imported takes no part in later collections, so their cost is that of the calls
    waiting, running, failed = list(pairs), 0, 0
    while waiting or running:
        while waiting and running < 2:
            _fork(framework, *waiting.pop(0).split("/"))
            running += 1
        _, status = os.wait()
        running -= 1
        failed += os.waitstatus_to_exitcode(status) != 0
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
