"""The exceptions that aiobs raises, all of them only where the developer asked for strictness."""

from __future__ import annotations


class AiobsError(Exception):
    """Base of all errors raised by aiobs."""


class SettingsError(AiobsError):
    """A setting is invalid; the message names it, its value, what is accepted and where it came from."""
