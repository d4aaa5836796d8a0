"""Every Python block of README and docs runs, offline; a page's blocks run in order, as a reader would paste them.

A comment `#> text` in a block is checked against what the block prints. `<!-- not run: reason -->` before a block
leaves it out. Pages that show tests are run by pytest, too.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(
    r"(?P<skip><!-- not run: [^>]+ -->\n+)?^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
_TESTS = re.compile(r"^(def test_|class Test)", re.MULTILINE)
_RUNNER = """
import contextlib, io, logging, pathlib, sys

import aiobs_core

said = []
logging.getLogger("aiobs").addHandler(type("Said", (logging.Handler,), {"emit": lambda _, record: said.append(record)})())
logging.getLogger("aiobs.pricing").propagate = False  # the models of examples have no price
page, names = pathlib.Path(sys.argv[1]), {"__name__": "__main__"}
for argument in sys.argv[2:]:
    line, _, code = argument.partition(":")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile("\\n" * int(line) + code, str(page), "exec"), names)  # tracebacks name the page's own lines
    expected = [text.split("#> ", 1)[1] for text in code.splitlines() if text.lstrip().startswith("#> ")]
    got = printed.getvalue().splitlines()
    if expected and got != expected:
        sys.exit(f"{page}:{int(line) + 1}: the block says it prints {expected}, it prints {got}")
aiobs_core.flush()
if said:
    sys.exit(f"{page}: aiobs warned: " + "; ".join(record.getMessage() for record in said))
"""


def _pages() -> list[str]:
    candidates = [
        ROOT / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
        *sorted(ROOT.glob("packages/*/README.md")),
        *sorted(ROOT.glob("integrations/*/README.md")),
    ]
    return [
        page.relative_to(ROOT).as_posix()
        for page in candidates
        if _BLOCK.search(page.read_text(encoding="utf-8"))
    ]


def _blocks(page: str) -> list[tuple[int, str]]:
    """Line before the block, and its code."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        (text[: block.start("code")].count("\n"), block["code"])
        for block in _BLOCK.finditer(text)
        if not block["skip"]
    ]


def _environ() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "AIOBS_"))}
    return {**own, "AIOBS_STORE": "off"}


@pytest.mark.parametrize("page", _pages())
def test_code_blocks_run(page: str, tmp_path: Path) -> None:
    blocks = [f"{line}:{code}" for line, code in _blocks(page)]

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", _RUNNER, str(ROOT / page), *blocks],
        cwd=tmp_path,
        env=_environ(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert not list(tmp_path.iterdir()), "an example left files behind"


@pytest.mark.parametrize(
    "page", [page for page in _pages() if any(_TESTS.search(code) for _, code in _blocks(page))]
)
def test_tests_on_a_page_pass(page: str, tmp_path: Path) -> None:
    settings = "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    (tmp_path / "pytest.ini").write_text(settings, encoding="utf-8")
    code = "\n".join(code for _, code in _blocks(page))
    (tmp_path / "test_page.py").write_text(code, encoding="utf-8")

    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        env=_environ(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stdout + ran.stderr
