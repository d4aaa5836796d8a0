"""Make a new integration from tools/integration_template, and enter it where packages are listed by name.

    python tools/new_integration.py llama-index [--root a/copy/of/the/workspace]

Everything is worked out before the first byte is written: a name that is taken or a folder that is no workspace leaves
nothing behind.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "tools" / "integration_template"
LINE_LENGTH = 110
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LEFT_OUT = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"}


class NotPossibleError(Exception):
    """Says what was given and what is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """A framework's name as the files of its integration spell it."""

    name: str  # llama-index

    @property
    def package(self) -> str:
        return f"aiobs_{self.name.replace('-', '_')}"

    @property
    def folder(self) -> str:
        return f"integrations/aiobs-{self.name}"

    def in_place_of_the_templates(self, text: str) -> str:
        words = self.name.split("-")
        for template, own in {
            "your-framework": self.name,
            "your_framework": "_".join(words),
            "YourFramework": "".join(word.capitalize() for word in words),
            "Your Framework": " ".join(word.capitalize() for word in words),
        }.items():
            text = text.replace(template, own)
        return text


def check(name: str, root: Path) -> Names:
    """The name as an integration's.

    Raises:
        NotPossibleError: If it is not one, or there is such a package.
    """
    if re.match(r"aiobs\b|aiobs_", name):
        raise NotPossibleError(
            f"NAME: expected the framework's name without aiobs, got {name!r}; 'aiobs-' is added."
        )
    if not _NAME.fullmatch(name):
        raise NotPossibleError(
            f"NAME: expected lower-case words of letters and digits with hyphens between them, such as llama-index; "
            f"got {name!r}."
        )
    for taken in sorted(root.glob(f"*/aiobs-{name}")):
        raise NotPossibleError(
            f"NAME: {name!r} is taken: {taken.relative_to(root).as_posix()} exists. Choose another, or delete it."
        )
    return Names(name=name)


def new_files(names: Names) -> Mapping[str, str]:
    """Text by path below the root."""
    made = {f"{names.folder}/LICENSE": (ROOT / "LICENSE").read_text(encoding="utf-8")}
    for path in sorted(TEMPLATE.rglob("*")):
        place = path.relative_to(TEMPLATE)
        if path.is_file() and _LEFT_OUT.isdisjoint(place.parts):
            own = names.in_place_of_the_templates(place.as_posix())
            made[f"{names.folder}/{own}"] = names.in_place_of_the_templates(path.read_text(encoding="utf-8"))
    return made


def changed_files(names: Names, root: Path) -> Mapping[str, str]:
    """New text of the files that list packages by name, because their tools look for none.

    Raises:
        NotPossibleError: If the place in such a file is not found.
    """
    changed: dict[str, str] = {}
    for path, place, change in (
        ("pyproject.toml", r"^root_packages = \[[^\]]*\]", _with_root_package),
        ("pyproject.toml", r'"[a-z0-9_ |]+"(?=,\s*"aiobs_core",?\s*\])', _with_sibling),
        ("docs/api.md", r"^## aiobs_testing ", _with_section),
    ):
        if not (root / path).is_file():
            raise NotPossibleError(f"--root: expected a workspace with a {path}, got {root.as_posix()!r}.")
        text = changed.get(path) or (root / path).read_text(encoding="utf-8")
        found = re.search(place, text, re.MULTILINE)
        if found is None:
            raise NotPossibleError(
                f"{path}: expected a place like {place!r} to name {names.package} in; found none."
            )
        changed[path] = text[: found.start()] + change(found[0], names) + text[found.end() :]
    return changed


def _with_root_package(found: str, names: Names) -> str:
    quoted = [f'"{name}"' for name in sorted({*re.findall(r'"([^"]+)"', found), names.package})]
    line = f"root_packages = [{', '.join(quoted)}]"
    if len(line) <= LINE_LENGTH:
        return line
    return "root_packages = [\n" + "".join(f"  {name},\n" for name in quoted) + "]"


def _with_sibling(found: str, names: Names) -> str:
    return '"' + " | ".join(sorted([*found.strip('"').split(" | "), names.package])) + '"'


def _with_section(found: str, names: Names) -> str:
    return f"## {names.package} {{ #{names.name} }}\n\n::: {names.package}\n\n{found}"


def tidy(folder: Path) -> None:
    """Sort imports and wrap lines: both depend on how the name sorts, and on its length."""
    for command in (["check", "--quiet", "--select", "I", "--fix"], ["format", "--quiet"]):
        subprocess.run([sys.executable, "-m", "ruff", *command, str(folder)], cwd=folder, check=True)


def make(name: str, root: Path, say: Callable[[str], object]) -> None:
    """Write the integration and enter it in the workspace at `root`."""
    names = check(name, root)
    changed, made = changed_files(names, root), new_files(names)
    for path, text in {**made, **changed}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")
    tidy(root / names.folder)
    say(f"made {names.folder} ({len(made)} files), named it in {' and '.join(changed)}")
    say(f"next: make test ARGS={names.folder} fails, and says what to map first")
    say("docs/adding-a-framework.md does it all for a framework of fifty lines")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="such as llama-index")
    parser.add_argument("--root", type=Path, default=ROOT, help="workspace to write into; default: this one")
    arguments = parser.parse_args()
    try:
        make(arguments.name, arguments.root.resolve(), print)
    except NotPossibleError as problem:
        print(f"{problem} Nothing was written.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
