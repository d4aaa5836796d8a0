"""Each wheel builds, holds what it should, and installs and imports alone in a fresh environment."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Distribution, folder, extra that its import needs, what is to be imported.
PACKAGES = [
    (path.parent.name, path.parent, extra, path.parent.name.replace("-", "_"))
    for folder, extra in (("packages", ""), ("integrations", "[instruments]"))
    for path in sorted(ROOT.glob(f"{folder}/*/pyproject.toml"))
]

pytestmark = pytest.mark.wheels


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for _, project, _, _ in PACKAGES:
        command = [
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--wheel",
            "--outdir",
            str(folder),
            str(project),
        ]
        built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stdout + built.stderr
    return folder


def _wheel(wheels: Path, distribution: str) -> Path:
    (wheel,) = wheels.glob(f"{distribution.replace('-', '_')}-*.whl")
    return wheel


@pytest.mark.parametrize(("distribution", "package"), [(row[0], row[3]) for row in PACKAGES])
def test_wheel_holds_the_package_and_nothing_else(wheels: Path, distribution: str, package: str) -> None:
    with zipfile.ZipFile(_wheel(wheels, distribution)) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert {name.split("/")[0].split("-")[0] for name in names} == {package}
    assert f"{package}/py.typed" in names
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    assert [name for name in names if "test_" in name or name.endswith((".pyc", ".gguf"))] == []
    assert "License-Expression: Apache-2.0" in metadata
    assert "# " + distribution in metadata, "the README is the long description"


@pytest.mark.parametrize(("distribution", "extra", "package"), [(row[0], row[2], row[3]) for row in PACKAGES])
def test_wheel_installs_and_imports_alone(
    wheels: Path, tmp_path: Path, distribution: str, extra: str, package: str
) -> None:
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
    # The core is named as a file: no index is asked for the name of one of our own packages.
    files = [f"{_wheel(wheels, distribution)}{extra}", str(_wheel(wheels, "aiobs-core"))]
    command = [*install, "-c", str(ROOT / "constraints.txt"), *files]
    installed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert installed.returncode == 0, installed.stderr

    code = f"import {package}; print({package}.__file__)"
    ran = subprocess.run(
        [str(python), "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert str(environment) in ran.stdout


def test_the_command_is_installed_with_the_core(wheels: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(_wheel(wheels, "aiobs-core")) as archive:
        entry_points = archive.read(
            next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        ).decode()
    assert "aiobs = aiobs_core.cli:main" in entry_points
