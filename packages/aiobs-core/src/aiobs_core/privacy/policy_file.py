"""Policies of the user's own: TOML and YAML files, with everything that is wrong in them told at once."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from aiobs_core.privacy._slow_patterns import slow_part
from aiobs_core.privacy.policy import (
    CLOSED,
    DETECTORS,
    FIELDS,
    MODES,
    PRESETS,
    REPLACEMENTS,
    CustomDetector,
    Mode,
    Policy,
    PolicyError,
    Replacement,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_\-]{0,63}$")
_DETECTOR_NAME: Final = re.compile(r"[a-z][a-z_]{0,31}$")
_MAX_WORDS: Final = 100_000


def read_policy(given: str) -> Policy:
    """The preset of that name, or the policy in that TOML or YAML file.

    Raises:
        PolicyError: If there is no such preset or file, or the file has anything that is not understood.
    """
    if given.lower() in PRESETS:
        return PRESETS[given.lower()]
    try:
        path = Path(given).expanduser()
    except RuntimeError as error:
        raise PolicyError(f"a file in a home folder that exists ({error})") from None
    if path.suffix.lower() not in {".toml", ".yaml", ".yml"}:
        raise PolicyError(f"one of {', '.join(PRESETS)}, or a file that ends in .toml, .yaml or .yml")
    return policy_of(_table_in(path), folder=path.parent, default_name=path.stem)


def _table_in(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(
            f"a readable file in UTF-8 ({path}: {type(error).__name__}: {_reason(error)})"
        ) from None
    try:
        table = tomllib.loads(text) if path.suffix.lower() == ".toml" else _yaml(text)
    except ValueError as error:
        raise PolicyError(
            f"a policy file that can be parsed ({path}: {' '.join(str(error).split())})"
        ) from None
    if not isinstance(table, dict):
        raise PolicyError(f"a policy file with a table at its top level ({path})")
    return table


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or getattr(error, "reason", None) or error)


def _yaml(text: str) -> Any:
    try:
        import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
    except ImportError:
        raise PolicyError(
            "a TOML file, or YAML with PyYAML installed (pip install 'aiobs-core[yaml]')"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PolicyError(str(error)) from None


def policy_of(table: Mapping[str, Any], *, folder: Path = Path(), default_name: str = "custom") -> Policy:
    """The policy that a table describes, as it stands in a policy file.

    Args:
        table: `base` (a preset, default `strict`), `name`, `version`, and the tables `content` (with `content.logs`),
            `detectors`, `custom`, and `regions`, `retention_days`; what is left out is as in the base.
        folder: What `words_file` is relative to.
        default_name: Where the table gives none.

    Raises:
        PolicyError: With one line for each thing that is not understood.
    """
    return _Parser(table, folder).parse(default_name)


class _Parser:
    """Reads one table, and collects everything that is wrong with it."""

    _KEYS: Final = ("base", "name", "version", "content", "detectors", "custom", "regions", "retention_days")

    def __init__(self, table: Mapping[str, Any], folder: Path) -> None:
        self._table = table
        self._folder = folder
        self._problems: list[str] = []

    def parse(self, default_name: str) -> Policy:
        table = self._table
        for key in sorted(table.keys() - set(self._KEYS), key=str):
            self._wrong(key, table[key], f"one of the keys {', '.join(self._KEYS)}")
        base = self._choice("base", table.get("base", "strict"), tuple(PRESETS), "strict")
        start = PRESETS[base]
        content = dict(self._section("content"))
        logs = content.pop("logs", {})
        modes = self._modes("content", content, start.content)
        policy = replace(
            start,
            name=self._name(table.get("name", default_name)),
            version=str(table.get("version", start.version))[:64],
            content=modes,
            logs_content=self._modes("content.logs", logs if isinstance(logs, dict) else {"logs": logs}, modes),
            detectors=self._detectors(start.detectors),
            custom=start.custom + self._custom(),
            regions=self._regions(start.regions),
            retention_days=self._retention(start.retention_days),
        )  # fmt: skip
        if self._problems:
            raise PolicyError("a valid policy: " + "; ".join(self._problems))
        return policy

    def _wrong(self, where: str, value: object, expected: str) -> None:
        self._problems.append(f"{where}: expected {expected}, got {str(value)[:80]!r}")

    def _section(self, name: str) -> Mapping[str, Any]:
        section = self._table.get(name, {})
        if isinstance(section, dict):
            return section
        self._wrong(name, section, "a table")
        return {}

    def _choice(self, where: str, value: object, accepted: tuple[str, ...], otherwise: str) -> str:
        if isinstance(value, str) and value in accepted:
            return value
        self._wrong(where, value, "one of " + ", ".join(accepted))
        return otherwise

    def _name(self, value: object) -> str:
        if isinstance(value, str) and _NAME.match(value) and value not in {*PRESETS, CLOSED.name}:
            return value
        self._wrong("name", value, "letters, digits, - and _, and not the name of a preset")
        return "custom"

    def _modes(self, where: str, given: Mapping[str, Any], base: Mapping[str, Mode]) -> Mapping[str, Mode]:
        found = dict(base)
        for name, value in given.items():
            if name not in FIELDS:
                self._wrong(f"{where}.{name}", name, "one of the fields " + ", ".join(FIELDS))
            else:
                accepted = ("none", "masked", "full") if name == "exceptions" else MODES
                found[name] = cast("Mode", self._choice(f"{where}.{name}", value, accepted, "none"))
        return MappingProxyType(found)

    def _detectors(self, base: Mapping[str, Replacement]) -> Mapping[str, Replacement]:
        found = dict(base)
        for name, value in self._section("detectors").items():
            value = "off" if value is False else value  # noqa: PLW2901 (YAML reads a bare `off` as false)
            if name not in DETECTORS:
                self._wrong(f"detectors.{name}", name, "one of the detectors " + ", ".join(DETECTORS))
            else:
                found[name] = cast(
                    "Replacement", self._choice(f"detectors.{name}", value, REPLACEMENTS, "tag")
                )
        return MappingProxyType(found)

    def _custom(self) -> tuple[CustomDetector, ...]:
        given = self._table.get("custom", [])
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            self._wrong("custom", given, "a list of tables with name, and regex, words or words_file")
            return ()
        found = tuple(self._custom_detector(f"custom[{at}]", each) for at, each in enumerate(given))
        names = [each.name for each in found]
        for at, name in enumerate(names):
            if name in names[:at]:
                self._wrong(f"custom[{at}].name", name, "a name that no other detector has")
        return found if len(set(names)) == len(names) else ()

    def _custom_detector(self, where: str, given: Mapping[str, Any]) -> CustomDetector:
        accepted = ("name", "regex", "words", "words_file", "replacement")
        for key in sorted(given.keys() - set(accepted), key=str):
            self._wrong(f"{where}.{key}", given[key], f"one of the keys {', '.join(accepted)}")
        name = given.get("name")
        if not isinstance(name, str) or not _DETECTOR_NAME.match(name) or name in DETECTORS:
            self._wrong(
                f"{where}.name", name, "lower-case letters and _, and not the name of a built-in detector"
            )
            name = "custom"
        regex, words = given.get("regex"), self._words(where, given)
        if regex is not None:
            self._check_regex(f"{where}.regex", regex)
        elif not words:
            self._wrong(where, given, "regex, words or words_file")
        replacement = self._choice(
            f"{where}.replacement", given.get("replacement", "tag"), REPLACEMENTS, "tag"
        )
        return CustomDetector(
            name=name, regex=regex, words=words, replacement=cast("Replacement", replacement)
        )

    def _check_regex(self, where: str, regex: object) -> None:
        if not isinstance(regex, str):
            self._wrong(where, regex, "a regular expression of Python, as text")
            return
        try:
            compiled = re.compile(regex)
        except (re.error, TypeError, ValueError, OverflowError, RecursionError) as error:
            self._wrong(where, regex, f"a regular expression of Python ({error})")
            return
        if compiled.match(""):
            self._wrong(where, regex, "a pattern that does not match the empty text")
        elif (slow := slow_part(compiled.pattern)) is not None:
            self._wrong(where, regex, f"a pattern without {slow}, which can take for ever on some texts")

    def _words(self, where: str, given: Mapping[str, Any]) -> tuple[str, ...]:
        words = given.get("words", [])
        if not isinstance(words, list) or not all(isinstance(each, str) for each in words):
            self._wrong(f"{where}.words", words, "a list of texts")
            return ()
        file = given.get("words_file")
        if file is not None:
            try:
                words = [*words, *(self._folder / str(file)).read_text(encoding="utf-8-sig").splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                self._wrong(f"{where}.words_file", file, f"a readable file in UTF-8 ({_reason(error)})")
        found = tuple(dict.fromkeys(" ".join(each.split()) for each in words if each.strip()))
        if len(found) > _MAX_WORDS:
            self._wrong(f"{where}.words", len(found), f"at most {_MAX_WORDS} words")
        return found

    def _regions(self, base: tuple[str, ...]) -> tuple[str, ...]:
        given = self._table.get("regions", list(base))
        if isinstance(given, list) and all(
            isinstance(each, str) and re.match(r"[A-Z]{2}$", each) for each in given
        ):
            return tuple(given)
        self._wrong("regions", given, "a list of countries in two upper-case letters, such as KR")
        return base

    def _retention(self, base: float | None) -> float | None:
        given = self._table.get("retention_days", base)
        if given is None or (
            isinstance(given, (int, float)) and not isinstance(given, bool) and 0 < given <= 36_500
        ):
            return None if given is None else float(given)
        self._wrong("retention_days", given, "a number of days above 0")
        return base
