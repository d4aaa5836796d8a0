"""`Policy`: what may leave the process and in which form, as data; presets, and files of the user's own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal

Mode = Literal["none", "hash", "masked", "full"]
Replacement = Literal["tag", "pseudonym", "partial", "drop", "prefix_hash", "off"]
Signal = Literal["spans", "logs"]

MODES: Final = ("none", "hash", "masked", "full")
REPLACEMENTS: Final = ("tag", "pseudonym", "partial", "drop", "prefix_hash", "off")
SIGNALS: Final = ("spans", "logs")
CONTENT_FIELDS: Final = (
    "prompts", "completions", "system", "tool_arguments", "tool_results", "documents", "embeddings",
)  # fmt: skip
FIELDS: Final = (*CONTENT_FIELDS, "exceptions", "user_id")
SECRETS: Final = ("private_key", "jwt", "api_key", "url_credentials", "credential", "secret")
PERSONAL: Final = ("email", "iban", "national_id", "card", "phone", "mac", "ip")
SAFE_HARBOR: Final = ("url", "date", "zip_code", "record_number")
NAMED_ENTITIES: Final = ("person", "location")  # need the extra `presidio`
DETECTORS: Final = (*SECRETS, *PERSONAL, *SAFE_HARBOR, *NAMED_ENTITIES)


class PolicyError(ValueError):
    """A policy that is not understood; the message is one line per problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomDetector:
    """A detector of the user's own: a pattern, words, or both.

    Attributes:
        name: Lower case; the tag is the same in upper case.
        regex: Python's syntax; one with nested repetition, which can take for ever, is refused.
        words: Found as whole words, in upper or lower case; Korean and Chinese ones anywhere.
        replacement: As for built-in detectors.
    """

    name: str
    regex: str | None = None
    words: tuple[str, ...] = ()
    replacement: Replacement = "tag"


def _modes(default: Mode = "none", **given: Mode) -> Mapping[str, Mode]:
    return MappingProxyType({name: given.get(name, default) for name in FIELDS})


def _replacements(**by_group: Replacement) -> Mapping[str, Replacement]:
    groups = {"secrets": SECRETS, "personal": PERSONAL, "safe_harbor": SAFE_HARBOR, "named": NAMED_ENTITIES}
    found: dict[str, Replacement] = {
        name: by_group.get(group, "off") for group, names in groups.items() for name in names
    }
    return MappingProxyType(found)


_HASHED: Final = _modes(prompts="hash", user_id="hash")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Policy:
    """What may leave the process, and in which form. Immutable; safe to share between threads.

    Attributes:
        name: As `using_attributes(privacy_policy=…)` and the audit log call it.
        version: The author's own; beside `fingerprint`, which changes with every rule.
        content: Mode of each kind of content on spans, by the names in `FIELDS`.
        logs_content: The same on logs.
        detectors: Replacement of what each detector finds in any text that leaves; `off` does not look for it.
        custom: Detectors of the user's own.
        regions: Countries (ISO 3166) whose national notation of telephone numbers counts.
        retention_days: Age at which traces are deleted from the local store; None keeps them.

    Example:
        >>> PRESETS["strict"].content["prompts"]
        'hash'
    """

    name: str
    version: str = "1"
    content: Mapping[str, Mode] = field(default_factory=lambda: _HASHED)
    logs_content: Mapping[str, Mode] = field(default_factory=lambda: _HASHED)
    detectors: Mapping[str, Replacement] = field(
        default_factory=lambda: _replacements(secrets="tag", personal="tag")
    )
    custom: tuple[CustomDetector, ...] = ()
    regions: tuple[str, ...] = ("KR", "US")
    retention_days: float | None = None

    def __repr__(self) -> str:
        return f"Policy({self.name!r}, version={self.version!r}, fingerprint={self.fingerprint!r})"

    def __post_init__(self) -> None:
        modes = (*self.content.items(), *self.logs_content.items())
        wrong = [f"{name}={mode!r}" for name, mode in modes if name not in FIELDS or mode not in MODES]
        wrong += [
            f"{name} missing" for name in FIELDS if name not in self.content or name not in self.logs_content
        ]
        wrong += [
            f"{name}={how!r}"
            for name, how in self.detectors.items()
            if name not in DETECTORS or how not in REPLACEMENTS
        ]
        names = [custom.name for custom in self.custom]
        wrong += [
            f"two detectors {name!r}" for name in sorted({name for name in names if names.count(name) > 1})
        ]
        if wrong:
            raise PolicyError(f"a valid policy: {', '.join(wrong)}")

    def __hash__(self) -> int:
        return hash((self.name, self.version))

    def modes(self, signal: Signal) -> Mapping[str, Mode]:
        """Mode of each kind of content on a signal."""
        return self.content if signal == "spans" else self.logs_content

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change with every rule."""
        return hashlib.sha256(json.dumps(self.as_data(), sort_keys=True).encode()).hexdigest()[:12]

    def as_data(self) -> dict[str, Any]:
        """The whole policy in the shape of a policy file."""
        return {
            "name": self.name,
            "version": self.version,
            "content": {**self.content, "logs": dict(self.logs_content)},
            "detectors": dict(self.detectors),
            "custom": [
                {"name": each.name, "regex": each.regex, "words": list(each.words), "replacement": each.replacement}
                for each in self.custom
            ],
            "regions": list(self.regions),
            "retention_days": self.retention_days,
        }  # fmt: skip


def _preset(name: str, content: Mapping[str, Mode], **more: Any) -> Policy:
    return Policy(name=name, content=content, logs_content=content, **more)


_PSEUDONYMS: Final = _replacements(secrets="tag", personal="pseudonym")
PRESETS: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        "strict": _preset("strict", _HASHED),
        "gdpr": _preset("gdpr", _HASHED, detectors=_PSEUDONYMS, retention_days=30.0),
        "ccpa": _preset("ccpa", _HASHED, detectors=_PSEUDONYMS, retention_days=365.0),
        # Codes derived from a person's data are no de-identification: 45 CFR 164.514(c).
        "hipaa-safe-harbor": _preset(
            "hipaa-safe-harbor",
            _modes("none"),
            detectors=_replacements(secrets="tag", personal="tag", safe_harbor="tag"),
        ),
        "debug": _preset(
            "debug",
            _modes("masked", user_id="full"),
            detectors={**_replacements(secrets="tag"), "secret": "off"},
        ),
    }
)
CLOSED: Final = _preset("closed", _modes("none"))
"""In force where the policy that was asked for cannot be read: nothing of any content leaves."""
