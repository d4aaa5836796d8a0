"""Run the packages' tests on the oldest and the newest supported framework versions, on several Pythons.

    python tools/compat.py [--python 3.10 --python 3.13] [--set oldest --set newest] [-- pytest arguments]

A Python that is not installed is named and left out; a set that cannot be installed is an error, except that
"newest" falls back to the versions of constraints.txt and says so.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import setup_venv

PYTHONS = ("3.10", "3.13")
SETS = {
    "oldest": ("constraints-oldest.txt",),
    "newest": ("constraints.txt", "constraints-newest.txt"),
}
SHOWN = ("langchain-core", "langchain", "langgraph", "llama-index-core", "opentelemetry-sdk")


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One cell of the table."""

    python: str
    versions: str
    verdict: str
    passed: bool


def find_python(version: str) -> str | None:
    """Path of an interpreter that runs, or None."""
    candidates = [shutil.which(f"python{version}"), sys.executable, *_pyenv_pythons(version)]
    for candidate in filter(None, candidates):
        ask = [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:  # a pyenv shim is on the path even where it cannot run
            return candidate
    return None


def _pyenv_pythons(version: str) -> list[str]:
    if shutil.which("pyenv") is None:
        return []
    root = subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=False).stdout.strip()
    return [str(path) for path in sorted(Path(root).glob(f"versions/{version}.*/bin/python"), reverse=True)]


def run_cell(interpreter: str, python: str, set_name: str, pytest_arguments: list[str]) -> Result:
    venv = setup_venv.ROOT / f".venv-{python}-{set_name}"
    setup_venv.create(venv, interpreter=interpreter)
    note = ""
    try:
        setup_venv.install(venv, SETS[set_name])
    except subprocess.CalledProcessError:
        if set_name != "newest":
            raise
        note = " (newer ones cannot be installed here)"
        setup_venv.install(venv, SETS[set_name][:1])
    executable = str(setup_venv.python_of(venv))
    versions = _versions(executable) + note
    print(f"\n== Python {python}, {versions}", flush=True)
    started_s = time.monotonic()
    ran = subprocess.run(
        [
            executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "packages",
            "integrations",
            *pytest_arguments,
        ],
        cwd=setup_venv.ROOT,
        env={**os.environ, "VIRTUAL_ENV": str(venv)},
        check=False,
    )
    verdict = f"{'passed' if ran.returncode == 0 else 'FAILED'} in {time.monotonic() - started_s:.0f} s"
    return Result(python=python, versions=versions, verdict=verdict, passed=ran.returncode == 0)


def _versions(executable: str) -> str:
    code = f"from importlib.metadata import version as v; print(', '.join(n + ' ' + v(n) for n in {SHOWN!r}))"
    return subprocess.run([executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", action="append", help=f"default: {' and '.join(PYTHONS)}")
    parser.add_argument("--set", action="append", choices=list(SETS), help="default: both")
    parser.add_argument("pytest_arguments", nargs="*")
    arguments = parser.parse_args()
    results: list[Result] = []
    missing: list[str] = []
    for python in arguments.python or PYTHONS:
        interpreter = find_python(python)
        if interpreter is None:
            missing.append(python)
            continue
        results += [
            run_cell(interpreter, python, name, arguments.pytest_arguments) for name in arguments.set or SETS
        ]
    print("\nCompatibility:")
    for result in results:
        print(f"  Python {result.python}: {result.verdict}: {result.versions}")
    for python in missing:
        print(f"  Python {python}: not installed here, so not tried")
    return 0 if results and all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
