"""What holds for all packages: one version, pinned siblings, tested floors, known public names, no addresses."""

import importlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
VERSION = "0.1.0"
PUBLIC_NAMES = {
    "aiobs_core": [
        "AgentSpan",
        "AiobsError",
        "Kind",
        "Operation",
        "Outcome",
        "Recorder",
        "RunStatus",
        "Settings",
        "SettingsError",
        "Stage",
        "Usage",
        "__version__",
        "configure",
        "feedback",
        "flush",
        "get_recorder",
        "keep",
        "observe",
        "shutdown",
        "span",
        "suppressed",
        "using_attributes",
    ],
    "aiobs_asgi": ["AiObsMiddleware", "AiObsWsgiMiddleware", "Incoming"],
    "aiobs_grpc": ["GrpcInstrumentor"],
    "aiobs_messaging": ["consuming", "inject_headers", "producing"],
    "aiobs_testing": ["ConformanceSuite", "Driver", "Telemetry"],
}
INTEGRATIONS = sorted(  # of frameworks; those of servers and brokers have no handler
    path.parent.name.replace("-", "_")
    for path in ROOT.glob("integrations/*/pyproject.toml")
    if "opentelemetry_instrumentor" in path.read_text(encoding="utf-8")
)
# Hosts of package indexes, spelt so that this file does not name them.
_REGISTRY = re.compile(
    r"(pypi\.(org|python)|files\.pythonhosted|test\.pypi|registry\.npmjs|registry\.yarnpkg|/simple/[a-z]|\.whl#sha)"
)
_LOCK_FILE = re.compile(
    r"(^|/)(uv\.lock|pylock[^/]*\.toml|poetry\.lock|Pipfile\.lock|pdm\.lock|package-lock\.json|yarn\.lock)$"
)


def _projects() -> list[Path]:
    return sorted([*ROOT.glob("packages/*/pyproject.toml"), *ROOT.glob("integrations/*/pyproject.toml")])


def _load(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _tracked() -> list[Path]:
    """Files that git has or would take; outside of a checkout, none."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def _texts() -> list[tuple[str, str]]:
    read = []
    for path in _tracked():
        content = path.read_bytes()
        if b"\0" not in content:
            read.append((path.relative_to(ROOT).as_posix(), content.decode("utf-8", errors="replace")))
    return read


def test_all_packages_share_one_version() -> None:
    versions = {path.parent.name: _load(path)["project"]["version"] for path in _projects()}
    assert "aiobs-core" in versions
    assert versions == dict.fromkeys(versions, VERSION)


def test_installed_version_is_the_declared_one() -> None:
    import aiobs_core

    assert aiobs_core.__version__ == VERSION


def test_siblings_are_pinned_to_the_same_minor_version() -> None:
    major, minor, _ = VERSION.split(".")
    own = {path.parent.name for path in _projects()}
    wrong = [
        f"{path.parent.name}: {requirement}"
        for path in _projects()
        for requirement in _load(path)["project"]["dependencies"]
        if (name := re.split(r"[<>=~!;\[ ]", requirement)[0]) in own
        and requirement != f"{name}>={major}.{minor},<{major}.{int(minor) + 1}"
    ]
    assert wrong == []


def test_declared_floors_are_the_tested_ones() -> None:
    oldest = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    pins = dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", oldest, re.MULTILINE))
    untested = []
    for path in _projects():
        project = _load(path)["project"]
        extras = project.get("optional-dependencies", {})
        for requirement in [*project["dependencies"], *extras.get("instruments", [])]:
            match = re.match(r"([a-z0-9-]+)>=([0-9.b]+)", requirement)
            assert match, f"{path.parent.name}: {requirement} has no floor"
            name, floor = match.groups()
            if name.startswith(("aiobs-", "pytest")):
                continue
            if _padded(pins.get(name, "")) != _padded(floor):
                untested.append(
                    f"{path.parent.name}: {requirement}, but constraints-oldest.txt has {pins.get(name)}"
                )
    assert untested == []


def _padded(version: str) -> str:
    return version if version.count(".") >= 2 or "b" in version else f"{version}.0"


def test_licences_are_the_same_text() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert [
        path.parent.name
        for path in _projects()
        if (path.parent / "LICENSE").read_text(encoding="utf-8") != text
    ] == []


def test_a_folder_is_named_like_its_distribution() -> None:
    assert {path.parent.name: _load(path)["project"]["name"] for path in _projects()} == {
        path.parent.name: path.parent.name for path in _projects()
    }


@pytest.mark.parametrize("package", PUBLIC_NAMES)
def test_public_names_are_the_listed_ones(package: str) -> None:
    assert sorted(importlib.import_module(package).__all__) == sorted(PUBLIC_NAMES[package])


@pytest.mark.parametrize("package", [package for package in INTEGRATIONS if package not in PUBLIC_NAMES])
def test_an_integration_exports_its_handler_and_its_instrumentor(package: str) -> None:
    handler, instrumentor, *_ = sorted(importlib.import_module(package).__all__)
    assert handler == "AiObsCallbackHandler"
    assert instrumentor.endswith("Instrumentor")
    project = _load(ROOT / "integrations" / package.replace("_", "-") / "pyproject.toml")["project"]
    assert project["entry-points"]["opentelemetry_instrumentor"] == {package: f"{package}:{instrumentor}"}


def test_every_package_stands_in_the_layers_contract() -> None:
    layers = _load(ROOT / "pyproject.toml")["tool"]["importlinter"]
    packages = {path.parent.name.replace("-", "_") for path in _projects()}
    assert set(layers["root_packages"]) == packages
    stacked = "|".join(layers["contracts"][0]["layers"])
    assert {name.strip() for name in stacked.split("|")} == packages


def test_importing_the_core_loads_no_framework_and_no_exporter() -> None:
    heavy = ("grpc", "langchain_core", "langgraph", "llama_index", "requests", "pydantic", "pytest")
    code = f"import sys, aiobs_core; print([name for name in {heavy!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_modules_stay_within_their_line_budget() -> None:
    sources = [
        *ROOT.glob("packages/*/src/**/*.py"),
        *ROOT.glob("integrations/*/src/**/*.py"),
        *ROOT.glob("tools/*.py"),
    ]
    sizes = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8").count("\n") for path in sources
    }
    assert {name: size for name, size in sizes.items() if size > 400} == {}


def test_every_package_is_typed() -> None:
    packages = [
        folder for path in _projects() for folder in (path.parent / "src").iterdir() if folder.is_dir()
    ]
    assert packages
    assert [folder.name for folder in packages if not (folder / "py.typed").exists()] == []


def test_no_lock_file_is_tracked() -> None:
    assert [path.name for path in _tracked() if _LOCK_FILE.search(path.as_posix())] == []


def test_no_file_names_a_package_registry() -> None:
    this = Path(__file__).relative_to(ROOT).as_posix()
    assert [name for name, text in _texts() if name != this and _REGISTRY.search(text)] == []


def test_no_file_names_a_path_of_this_machine() -> None:
    here = {f"{ROOT}/", f"{Path.home()}/"} - {"//"}
    assert [f"{name}: {path}" for name, text in _texts() for path in here if path in text] == []


def test_the_makefile_has_at_most_twelve_targets() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony is not None
    targets = set(phony[1].split())
    assert targets == set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert len(targets) <= 12
    assert [name for name in targets if not re.search(rf"^#   {name} ", makefile, re.MULTILINE)] == []
