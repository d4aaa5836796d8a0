"""Make a virtual environment with pinned dependencies and this repository's packages, editable.

    python3 tools/setup_venv.py .venv constraints.txt

Needs only Python and its venv module. uv does the installing if pip can get it (about ten times faster),
pip does otherwise; both check the hashes in the constraint files.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def package_folders() -> list[Path]:
    """Folders of the workspace's packages, those that others depend on first."""
    return [
        path.parent.relative_to(ROOT)
        for folder in ("packages", "integrations")
        for path in sorted((ROOT / folder).glob("*/pyproject.toml"))
    ]


def python_of(venv: Path) -> Path:
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def create(venv: Path, *, interpreter: str = sys.executable) -> None:
    if python_of(venv).exists():
        return
    made = subprocess.run([interpreter, "-m", "venv", str(venv)], cwd=ROOT, check=False)
    if made.returncode:
        sys.exit(
            f"{interpreter} cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"
        )


def install(venv: Path, constraints: Sequence[str]) -> None:
    """Install the pins of some constraint files, then this repository's packages.

    Raises:
        subprocess.CalledProcessError: If a package cannot be had.
    """
    command = [*_installer(venv), "install", "--quiet"]
    if "uv" in command:
        command += ["--python", str(python_of(venv))]  # else an activated environment would win
    for name in constraints:
        # The pins are complete, so --no-deps loses nothing and lets constraints-newest.txt overrule its packages' wishes.
        _run([*command, "--no-deps", "--require-hashes", "-r", name])
    # All in one command and without dependencies: no index is asked for the name of one of our own packages.
    folders = [part for folder in package_folders() for part in ("-e", str(folder))]
    _run([*command, "--no-deps", "--no-build-isolation", *folders])


def _installer(venv: Path) -> list[str]:
    python = str(python_of(venv))
    if not _has_uv(python):
        pins = venv / "uv.txt"
        pins.write_text(_pin_of("uv"), encoding="utf-8")
        got = subprocess.run(
            [python, "-m", "pip", "install", "-qq", "--no-deps", "--require-hashes", "-r", str(pins)],
            cwd=ROOT,
            check=False,
        )
        if got.returncode or not _has_uv(python):
            print("uv is not to be had here; installing with pip, which takes some minutes.", flush=True)
            return [python, "-m", "pip"]
    os.environ.setdefault("UV_PYTHON_DOWNLOADS", "never")
    return [python, "-m", "uv", "pip"]


def _has_uv(python: str) -> bool:
    return subprocess.run([python, "-m", "uv", "--version"], capture_output=True, check=False).returncode == 0


def _pin_of(name: str) -> str:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{name}=="))
    end = next(index for index in range(start, len(lines)) if not lines[index].endswith("\\"))
    return "\n".join(lines[start : end + 1]) + "\n"


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True)


def main() -> None:
    if sys.version_info < (3, 10):  # noqa: UP036 - whoever runs this may have an older Python; say so in words
        sys.exit("Python 3.10 or newer is needed; name one with `make PYTHON=python3.12 …`.")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("venv", type=Path)
    parser.add_argument("constraints", nargs="+")
    arguments = parser.parse_args()
    started_s = time.monotonic()
    create(arguments.venv)
    install(arguments.venv, arguments.constraints)
    print(f"{arguments.venv}: ready after {time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
