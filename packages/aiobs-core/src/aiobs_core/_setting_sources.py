"""How settings are found: the first valid one of several sources, the settings file, and what is said of bad ones."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import Field, field
from pathlib import Path
from typing import Any, Final

from aiobs_core._errors import did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_log = logging.getLogger("aiobs")

CONFIG_FILE_VARIABLE: Final = "AIOBS_CONFIG_FILE"
_LISTED: Final = "; the page `Configuration` of the documentation lists all"


def setting(
    parse: Callable[[object], object],
    default: object,
    variables: str,
    help_: str,
    *,
    closed: tuple[object, str] | None = None,
    secret: bool = False,
    light: bool = False,
    stays: bool = False,
) -> Any:
    """A field of `Settings`.

    Args:
        parse: Makes the value; raises ValueError that says what is accepted.
        default: Where nothing is given.
        variables: Of the environment, the first set one counts.
        help_: For the page of settings.
        closed: What an invalid value gives instead of the next source's, and what that means: privacy fails closed.
        secret: The value is never shown.
        stays: Where the settings file is read again, an invalid value changes nothing, in spite of `closed`.
        light: It changes while the process runs and everything stays open; any other opens the destinations anew.
    """
    metadata = {
        "parse": parse,
        "variables": tuple(variables.split()),
        "help": help_,
        "closed": closed,
        "secret": secret,
        "light": light,
        "stays": stays,
    }
    return field(default=default, metadata=metadata, repr=not secret)


def first_valid(
    candidates: list[tuple[object, str, str]],
    item: Field[object],
    problems: list[str],
    otherwise: object,
    *,
    closed: tuple[object, str] | None,
) -> object:
    """The value of the first candidate that has a valid one; `otherwise` where none has."""
    parse, is_secret = item.metadata["parse"], item.metadata["secret"]
    rejected: list[str] = []
    value: object = otherwise
    for given, name, source in candidates:
        try:
            value = parse(given)
            break
        except (ValueError, RuntimeError, OverflowError, OSError) as error:
            got = "a value that is not shown" if is_secret else _shown(given)
            rejected.append(f"{name}: expected {error}, got {got} ({source})")
            if closed is not None:  # the next source's could be weaker than what was meant
                value = closed[0]
                break
    consequence = closed[1] if closed is not None else f"using {value!r}"
    if closed is None and item.metadata["stays"] and value is otherwise:
        consequence = "what is in force stays"
    problems.extend(f"{text}; {consequence}." for text in rejected)
    return value


def _shown(given: object) -> str:
    try:
        return f"{str(given)[:80]!r}"
    except Exception:  # noqa: BLE001 (an integer of more digits than Python prints, an object without a text)
        return f"a value that cannot be shown ({type(given).__name__})"


def meant_by(unknown: set[str], known: Mapping[str, object]) -> set[str]:
    """The settings that names with a slip of the pen in them are meant to be."""
    if not unknown:
        return set()
    from difflib import get_close_matches

    return {match for name in unknown for match in get_close_matches(name, known, n=1, cutoff=0.8)}


def read_file(
    path: str, known: Mapping[str, object], problems: list[str], *, stays: bool = False
) -> Mapping[str, object] | None:
    """The table of settings in the file; None if it cannot be read, and `stays` is whether that changes nothing then."""
    if not path:
        return {}
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        problems.append(
            f"{CONFIG_FILE_VARIABLE}: cannot read {path!r} as TOML ({type(error).__name__}: {error}); "
            + (
                "the settings stay as they are."
                if stays
                else "using environment and defaults; what they do not say of privacy is closed."
            )
        )
        return None
    section = table.get("aiobs", table)
    if not isinstance(section, dict):
        problems.append(f"{CONFIG_FILE_VARIABLE}: expected a table [aiobs] in {path!r}; ignoring the file.")
        return None
    problems.extend(unknown_names(section, known, path))
    return section


def state_of_file(path: str) -> tuple[int, int, int, int] | None:
    """What differs once a file was written or replaced, also behind a link; None where there is none. Takes 2 µs."""
    try:
        found = os.stat(path)  # noqa: PTH116 (a name that may be none: `Path` asks more)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev


def unknown_names(given: Mapping[str, object], known: Mapping[str, object], source: str) -> list[str]:
    return [
        f"{name}: no such setting ({source}){did_you_mean(name, known) or _LISTED}; ignoring it."
        for name in sorted(given.keys() - known.keys())
    ]


_warned: set[str] = set()


def warn_once(problem: str) -> None:
    if problem not in _warned:
        _warned.add(problem)
        _log.warning("%s", problem)
