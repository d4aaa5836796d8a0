"""Imports that a fork must not interrupt.

A module that another thread is importing at the moment of a fork can never be imported in the child: its lock stays
held (https://github.com/python/cpython/issues/50970). aiobs imports exporters when they are first needed, so a fork waits
for that.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_PATIENCE_S: Final = 1.0  # a thread that forks while it, or one it waits for, imports must not wait for ever

_lock = threading.RLock()
_is_child = False
_here = threading.local()


@contextmanager
def uninterrupted_by_fork() -> Iterator[None]:
    """Let forks in other threads wait for the end of the block; for at most a second."""
    with _lock:
        yield


def _before() -> None:
    _here.waited = _lock.acquire(timeout=_PATIENCE_S)


def _after_in_parent() -> None:
    if _here.waited:
        _lock.release()


def _after_in_child() -> None:
    global _lock, _is_child
    _lock = threading.RLock()
    _is_child = True


def is_forked_child() -> bool:
    """Whether this process was forked from one that had aiobs imported: what that one made may be ours, too."""
    return _is_child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)
