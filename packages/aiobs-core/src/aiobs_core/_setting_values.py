"""What values settings may have: each function makes one from what was given, or says what it accepts by a ValueError."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from aiobs_core.privacy.hashing import HashKeys, keys_in, keys_in_file
from aiobs_core.privacy.policy import FIELDS, MODES, Policy
from aiobs_core.privacy.policy_file import read_policy

_CREDENTIALS: Final = re.compile(r"^(\w+://)?[^/@]*@", re.ASCII)
_TRUE: Final = {"true", "1", "yes", "on"}
_FALSE: Final = {"false", "0", "no", "off"}


def boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("true or false")


def choice(*accepted: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = str(value).strip().lower()
        if text not in accepted:
            raise ValueError("one of " + ", ".join(accepted))
        return text

    return parse


def number(low: float, high: float, unit: str) -> Callable[[object], float]:
    def parse(value: object) -> float:
        error = f"a number of {unit} from {low:g} to {high:g}"
        if isinstance(value, bool):
            raise ValueError(error)
        try:
            number = float(str(value))
        except ValueError:
            raise ValueError(error) from None
        if not low <= number <= high:  # also refuses NaN
            raise ValueError(error)
        return number

    return parse


def count(low: int, high: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        error = f"a whole number from {low} to {high}"
        if isinstance(value, bool):
            raise ValueError(error)
        try:
            number = int(str(value))
        except ValueError:
            raise ValueError(error) from None
        if not low <= number <= high:
            raise ValueError(error)
        return number

    return parse


def names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value):
        return tuple(value)
    raise ValueError("names separated by commas")


def dialects(value: object) -> tuple[str, ...]:
    given = names(value)
    accepted = ("ai_agent", "gen_ai", "openinference")
    if any(name not in accepted for name in given):
        raise ValueError("any of " + ", ".join(accepted) + ", separated by commas")
    return tuple(name for name in accepted if name == "ai_agent" or name in given)


def exporters(value: object) -> tuple[str, ...]:
    accepted = ("otlp", "none", "console")
    given = names(value)
    if any(name not in accepted for name in given):
        raise ValueError("any of " + ", ".join(accepted) + ", separated by commas")
    return given


def metric_exporters(value: object) -> tuple[str, ...]:
    accepted = ("otlp", "none", "prometheus")
    given = names(value)
    if any(name not in accepted for name in given):
        raise ValueError("any of " + ", ".join(accepted) + ", separated by commas")
    return given


def price_file(value: object) -> Any:
    from aiobs_core.pricing.file import PriceFile, read_price_file

    if isinstance(value, PriceFile):
        return value
    try:
        return read_price_file(Path(text(value)).expanduser())
    except ValueError as error:
        raise ValueError(f"a price file without mistakes ({error})") from None


def text(value: object) -> str:
    if not isinstance(value, (str, Path)):
        raise ValueError("text")
    return str(value).strip()


class Endpoint(str):
    """A URL, or host and port; its `repr`, which logs and crash reports have, is without name and password."""

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(_CREDENTIALS.sub(r"\1…@", self, count=1))


def endpoint(value: object) -> Endpoint:
    return Endpoint(text(value))


def store(value: object) -> str:
    given = text(value)
    return given.lower() if given.lower() in {"auto", "off"} else given


def policy(value: object) -> Policy:
    return value if isinstance(value, Policy) else read_policy(text(value))


def policies(value: object) -> tuple[Policy, ...]:
    given = value if isinstance(value, (list, tuple)) else names(value)
    return tuple(policy(each) for each in given)


def content(value: object) -> tuple[tuple[str, str], ...]:
    """Modes by field: one for all (`masked`), or `prompts=masked,completions=none`."""
    pairs = (
        value.items() if isinstance(value, Mapping) else [part.partition("=")[::2] for part in names(value)]
    )
    found: dict[str, str] = {}
    for name, given in [(str(name).strip().lower(), str(mode).strip().lower()) for name, mode in pairs]:
        chosen = (name,) if given else FIELDS
        mode = given or name
        if mode not in MODES or any(each not in FIELDS for each in chosen):
            raise ValueError(
                f"one of {', '.join(MODES)}, or <field>=<mode> separated by commas with the fields {', '.join(FIELDS)}"
            )
        for each in chosen:
            if given or each != "user_id":  # a mode for all is one of content; who the user is, is no content
                found[each] = "none" if (each, mode) == ("exceptions", "hash") else mode
    return tuple(found.items())


def hash_key(value: object) -> HashKeys:
    return value if isinstance(value, HashKeys) else keys_in(text(value))


def hash_key_file(value: object) -> HashKeys:
    return value if isinstance(value, HashKeys) else keys_in_file(Path(text(value)).expanduser())
