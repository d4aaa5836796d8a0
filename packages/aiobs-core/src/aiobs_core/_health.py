"""What aiobs lost or could not do: counters and one warning per kind of problem."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from aiobs_core._balance import Balance

_log = logging.getLogger("aiobs")


class Health:
    """Counts problems and warns once per kind.

    Safe to use from any thread. The lock guards two dictionary operations and is taken only where something went
    wrong, never while all is well. It is reentrant, because a finalizer may report while its thread holds it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._warned: set[str] = set()
        self._losses: Counter[str] = Counter()
        self.balance = Balance()

    def problem(self, kind: str, message: str, *, lost: int = 0, signal: str = "spans") -> None:
        """Count one problem and log `message` if it is the first of its `kind`.

        Args:
            kind: Short dotted name such as `store.unwritable`; never user data, since each kind is kept for ever.
            message: What went wrong, its consequence and what to do; no content.
            lost: Items that are gone because of it.
            signal: What they are: `spans`, `metrics` or `logs`.
        """
        with self._lock:
            self._counts[kind] += 1
            if lost:
                self._counts[f"{signal}.dropped"] += lost
                if signal == "spans":
                    self._losses[kind] += lost
            first = kind not in self._warned
            self._warned.add(kind)
        if first:
            try:
                _log.warning("%s", message)
            except Exception:  # noqa: BLE001 (a filter or handler of the application; the problem is counted)
                self._counts["log.failed"] += 1

    def warn_again(self) -> None:
        """Log the next problem of each kind once more; the counts stay."""
        with self._lock:
            self._warned.clear()

    def counts(self) -> dict[str, int]:
        """Problems by kind, and `spans.dropped` and the like, since the process started (a copy)."""
        with self._lock:
            return dict(self._counts)

    def losses(self) -> dict[str, int]:
        """Spans that are gone, by kind of problem, since the process started (a copy)."""
        with self._lock:
            return dict(self._losses)
