"""Every Python block of README and docs runs, offline; a page's blocks run in order, as a reader would paste them.

A comment `#> text` in a block is checked against what the block prints. `<!-- not run: reason -->` before a block
leaves it out.
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
_RUNNER = """
import contextlib, io, logging, pathlib, sys

import aiobs_core

said = []
logging.getLogger("aiobs").addHandler(type("Said", (logging.Handler,), {"emit": lambda _, record: said.append(record)})())
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


@pytest.mark.parametrize("page", _pages())
def test_code_blocks_run(page: str, tmp_path: Path) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = [
        f"{text[: block.start('code')].count(chr(10))}:{block['code']}"
        for block in _BLOCK.finditer(text)
        if not block["skip"]
    ]
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "AIOBS_"))}

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", _RUNNER, str(ROOT / page), *blocks],
        cwd=tmp_path,
        env={**environ, "AIOBS_STORE": "off"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    assert not list(tmp_path.iterdir()), "an example left files behind"
