"""`make integration`: what it makes fails until it is mapped, and passes once a reader has done what the page says."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "adding-a-framework.md").read_text(encoding="utf-8")
NAME = "tiny"
FOLDER = Path("integrations") / f"aiobs-{NAME}"
FILES = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL))
MAPPED = {path: text for path, text in FILES.items() if path.startswith(f"src/aiobs_{NAME}/")}
SAID = re.findall(r"^```text\n(.*?)\n```$", PAGE, re.MULTILINE | re.DOTALL)
FORMAT = ("-m", "ruff", "format", "--no-cache", "--check", "integrations")
STYLE = ("-m", "ruff", "check", "--no-cache", "integrations")
TYPES = ("-m", "mypy", f"{FOLDER.as_posix()}/src")
LAYERS = ("-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """What the generator reads and changes of the workspace, and its packages."""
    for path in ("pyproject.toml", "conftest.py", "docs/api.md"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, tmp_path / path)
    (tmp_path / "packages").symlink_to(ROOT / "packages")
    return tmp_path


def run(workspace: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = str(workspace / FOLDER / "src")
    return subprocess.run(
        [sys.executable, *command],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": path, "MYPYPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def generate(workspace: Path, name: str = NAME) -> subprocess.CompletedProcess[str]:
    return run(workspace, str(ROOT / "tools" / "new_integration.py"), name, "--root", str(workspace))


def run_tests(workspace: Path) -> subprocess.CompletedProcess[str]:
    return run(workspace, "-m", "pytest", "-q", "-p", "no:cacheprovider", FOLDER.as_posix())


def lint(workspace: Path, *checks: tuple[str, ...]) -> None:
    for check in checks:
        ran = run(workspace, *check)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def write(workspace: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (workspace / FOLDER / path).write_text(text, encoding="utf-8")


def test_who_follows_the_page_gets_an_adapter_that_passes_the_suite(workspace: Path) -> None:
    assert f"make integration NAME={NAME}" in PAGE
    asks_for_the_driver, asks_for_the_mapping = SAID
    assert generate(workspace).returncode == 0

    generated = run_tests(workspace)
    assert generated.returncode == 1
    assert asks_for_the_driver in generated.stdout

    write(workspace, {path: FILES[path] for path in FILES.keys() - MAPPED.keys()})
    driven = run_tests(workspace)
    assert driven.returncode == 1
    assert asks_for_the_mapping in driven.stdout

    write(workspace, MAPPED)
    mapped = run_tests(workspace)
    assert mapped.returncode == 0, mapped.stdout
    assert int(re.search(r"(\d+) passed", mapped.stdout)[1]) > 40, "most of the suite was skipped"
    lint(workspace, FORMAT, STYLE, TYPES, LAYERS)


def test_a_new_integration_is_named_where_nothing_looks_for_it(workspace: Path) -> None:
    assert generate(workspace, "zebra-crossing").returncode == 0

    settings = (workspace / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r'^root_packages = \[[^\]]*"aiobs_zebra_crossing"', settings, re.MULTILINE)
    assert re.search(r'" *[^"]*\| aiobs_zebra_crossing", "aiobs_core"\]', settings)
    assert "\n::: aiobs_zebra_crossing\n" in (workspace / "docs" / "api.md").read_text(encoding="utf-8")
    made = workspace / "integrations" / "aiobs-zebra-crossing"
    for path in (path for path in made.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        text = f"{path} {path.read_text(encoding='utf-8')}"
        assert re.search("your.?framework", text, re.IGNORECASE) is None, f"{path} speaks of the template"
    assert "class ZebraCrossingInstrumentor" in "".join(path.read_text() for path in made.rglob("*.py"))
    lint(workspace, FORMAT, STYLE)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Llama_Index", "NAME: expected lower-case words of letters and digits with hyphens between them"),
        ("2fast", "such as llama-index; got '2fast'. Nothing was written."),
        ("", "got ''"),
        ("../elsewhere", "got '../elsewhere'"),
        ("aiobs-x", "NAME: expected the framework's name without aiobs, got 'aiobs-x'"),
        ("core", "NAME: 'core' is taken: packages/aiobs-core exists."),
    ],
)
def test_a_name_that_cannot_be_one_is_refused_in_words(workspace: Path, name: str, said: str) -> None:
    refused = generate(workspace, name)

    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (workspace / "integrations").exists()


def test_what_exists_is_not_overwritten(workspace: Path) -> None:
    generate(workspace)
    readme = workspace / FOLDER / "README.md"
    readme.write_text("mine", encoding="utf-8")

    again = generate(workspace)

    assert again.returncode == 2
    assert f"{FOLDER.as_posix()} exists" in again.stderr
    assert readme.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("api", "said"),
    [
        ("# API\n", "docs/api.md: expected a place like"),
        (None, "--root: expected a workspace with a docs/api.md, got"),
    ],
)
def test_a_workspace_of_another_shape_is_left_alone(workspace: Path, api: str | None, said: str) -> None:
    settings = (workspace / "pyproject.toml").read_text(encoding="utf-8")
    (workspace / "docs" / "api.md").unlink()
    if api is not None:
        (workspace / "docs" / "api.md").write_text(api, encoding="utf-8")

    refused = generate(workspace)

    assert refused.returncode == 2
    assert said in refused.stderr
    assert not (workspace / "integrations").exists()
    assert (workspace / "pyproject.toml").read_text(encoding="utf-8") == settings
