"""What attributes of metrics may say: few values each, and nothing that the privacy policy keeps back."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from aiobs_core.privacy.content import Tally
from aiobs_core.semconv.metrics import OTHER

if TYPE_CHECKING:
    from aiobs_core.privacy.stage import Privacy

_MAX_CHARS: Final = 128
_NOT_PRINTED: Final = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")


class LabelValues:
    """Makes the values of attributes fit to leave, and bounds how many there are. Used by the worker only.

    Args:
        privacy: Whose detectors see each value before it is used for the first time.
        max_values: Values by attribute; any further one is `other`.
        taken: The values so far, which series have, whatever settings change; it is added to.
        overflowed: Told the attribute when that happens.
    """

    def __init__(
        self,
        privacy: Privacy,
        *,
        max_values: int,
        taken: dict[str, set[str]],
        overflowed: Callable[[str], None],
    ) -> None:
        self._taken = taken
        self._privacy = privacy
        self._max_values = max_values
        self._overflowed = overflowed
        self._known: dict[str, dict[tuple[str | None, str], str]] = {}

    def value(self, attribute: str, text: str, policy: str | None) -> str:
        """The value for an attribute of a run whose request chose `policy`, or None."""
        known = self._known.setdefault(attribute, {})
        found = known.get((policy, text))
        if found is not None:
            return found
        if len(known) < self._max_values:
            cleaned, taken = self._clean(attribute, text, policy), self._taken.setdefault(attribute, set())
            if cleaned in taken or len(taken) < self._max_values:
                taken.add(cleaned)
                known[policy, text] = cleaned
                return cleaned
        self._overflowed(attribute)
        return OTHER

    def _clean(self, attribute: str, text: str, policy: str | None) -> str:
        text = text[: 8 * _MAX_CHARS].encode("utf-8", "replace").decode("utf-8")  # no lone surrogates
        rules = self._privacy.rules(policy)
        masked = self._privacy.text(attribute, text, rules, Tally(), max_chars=_MAX_CHARS)
        return _NOT_PRINTED.sub(" ", masked).strip()[:_MAX_CHARS] or OTHER
