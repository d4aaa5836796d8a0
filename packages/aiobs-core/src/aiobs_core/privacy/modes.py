"""Which mode of content is in force, where policy, `AIOBS_CONTENT` and OpenTelemetry's own switch all have a say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from aiobs_core.privacy.policy import CLOSED, CONTENT_FIELDS, MODES, PRESETS, Mode, Policy, Signal

if TYPE_CHECKING:
    from aiobs_core._settings import Settings

_READABLE: Final = ("masked", "full")
_ALLOWED: Final[Mapping[str, tuple[Signal, ...]]] = {
    "no_content": (),
    "false": (),
    "span_only": ("spans",),
    "event_only": ("logs",),
    "span_and_event": ("spans", "logs"),
    "true": ("spans", "logs"),
}


def modes_in_force(policy: Policy, settings: Settings, signal: Signal) -> Mapping[str, Mode]:
    """Mode of each field on one signal.

    `AIOBS_CONTENT` wins over the policy of the process, and can only tighten one that a request chose. `OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT` is an upper bound: where it
    allows no content, what would be readable is hashed if it is a prompt, and left out if not. Where it allows content,
    the policy is the default one and `AIOBS_CONTENT` says nothing, content is masked. The closed policy lets nothing out,
    whatever else is said.
    """
    if policy is CLOSED:
        return policy.modes(signal)
    found: dict[str, Mode] = dict(policy.modes(signal))
    for name, mode in settings.content:
        if policy is settings.privacy_policy or MODES.index(mode) < MODES.index(found[name]):
            found[name] = mode  # type: ignore[assignment]  # its parser has checked it
    allowed = _ALLOWED.get(settings.capture_message_content)
    if allowed is None:
        return found
    if signal not in allowed:
        return {name: _withheld(name, mode) for name, mode in found.items()}
    if policy is PRESETS["strict"] and policy is settings.privacy_policy and not settings.content:
        found.update(dict.fromkeys(CONTENT_FIELDS, "masked"))
    return found


def keeps_errors(settings: Settings) -> bool:
    """Whether a policy may let the texts of exceptions out, on any signal."""
    policies = (settings.privacy_policy, *settings.privacy_policies)
    return any(modes_in_force(policy, settings, "spans")["exceptions"] != "none" for policy in policies)


def _withheld(name: str, mode: Mode) -> Mode:
    if mode not in _READABLE or name == "user_id":  # who the user is, is no message
        return mode
    return "hash" if name == "prompts" else "none"
