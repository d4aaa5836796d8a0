"""What `flush` sends through the queue, and waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_asking = threading.local()


def is_asking() -> bool:
    """Whether this thread waits for the receivers now: what it flushes must not flush us in turn."""
    return getattr(_asking, "is_asking", False)


class Marker:
    """Everything that was queued before it has to be delivered; `close` also shuts the destinations.

    The worker answers as soon as it has written everything; what the receivers still have to take is waited for by the
    thread that asked, so that the queue is emptied meanwhile.
    """

    __slots__ = ("_done", "_rest", "close", "deadline")

    def __init__(self, *, timeout_s: float, close: bool) -> None:
        self.deadline = time.monotonic() + timeout_s
        self.close = close
        self._rest: Callable[[float], bool] | bool = False
        self._done = threading.Event()

    @property
    def is_answered(self) -> bool:
        return self._done.is_set()

    @property
    def left_s(self) -> float:
        return max(0.0, self.deadline - time.monotonic())

    def answer(self, rest: Callable[[float], bool] | bool) -> None:
        """On the worker: whether everything was delivered, or what waits for that for so many seconds."""
        self._rest = rest
        self._done.set()

    def wait(self) -> bool:
        """On the thread that asked: False if not everything was delivered in time."""
        if not self._done.wait(self.left_s):
            return False
        if isinstance(self._rest, bool):
            return self._rest
        _asking.is_asking = True
        try:
            return self._rest(self.left_s)
        finally:
            _asking.is_asking = False
