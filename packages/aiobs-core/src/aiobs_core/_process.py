"""The one recorder of this process: made on first use, flushed at exit, renewed after a fork."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 (registers its exit hook, which has to be before, that is: behind, ours)
import os
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from aiobs_core._recorder import Recorder
from aiobs_core._settings import settings_file
from aiobs_core._settings_watch import SettingsWatch

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import TracerProvider

_EXPORTERS_READY_S: Final = 3.0

_recorder: Recorder | None = None
_watch: SettingsWatch | None = None
_lock = threading.Lock()


def get_recorder() -> Recorder:
    """The recorder of this process, made from environment and settings file when first asked for."""
    recorder = _recorder
    if recorder is None:
        watch = _watch_of_file()
        with watch.lock:
            recorder = _recorder  # another thread may have configured it meanwhile: its settings stay
            if recorder is None:
                loaded = watch.load({})
                with _lock:
                    recorder = _recorder or _make(Recorder(loaded))
                watch.start()
    return recorder


def _watch_of_file() -> SettingsWatch:
    """The one that follows the settings file of the environment."""
    global _watch
    path = settings_file()
    with _lock:
        if _watch is None or _watch.path != path:
            if _watch is not None:
                _watch.stop()
            _watch = SettingsWatch(path, lambda changes: get_recorder().apply(changes))
        return _watch


def _make(recorder: Recorder) -> Recorder:
    global _recorder
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork_in_child)
    _recorder = recorder
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        try:
            register(_before_threads_end)
        except RuntimeError:  # the interpreter shuts down already
            return recorder
    return recorder


def _before_threads_end() -> None:
    """Called when the main thread has ended, before `concurrent.futures` and others refuse work.

    OpenTelemetry's gRPC exporter needs a thread pool to be made. A script may end before it is, and the exit handler
    of `atexit`, which delivers the rest, comes too late for that. The hook is the one of `concurrent.futures`: private,
    and there since Python 3.9.
    """
    if _watch is not None:
        _watch.stop()
    if _recorder is not None:
        _recorder.wait_until_ready(_EXPORTERS_READY_S)


def configure(
    *,
    strict: bool = False,
    exporters: Sequence[SpanExporter] | None = None,
    tracer_provider: TracerProvider | None = None,
    **settings: object,
) -> Recorder:
    """Set up aiobs, or change its settings while it runs; optional, since the first handler does it by itself.

    Each call starts from the environment: what an earlier call set and this one does not name is forgotten.

    Args:
        strict: Raise on an invalid setting instead of warning and using the next source.
        exporters: Send to these instead of OTLP, local store and console. They are flushed, and never shut down.
        tracer_provider: Use this provider instead of the global one.
        settings: Fields of `Settings` by name; they win over environment and file.

    Returns:
        The recorder of this process; always the same object.

    Raises:
        SettingsError: If `strict` and a setting is invalid.

    Example:
        >>> recorder = configure(console="off", store="off")
        >>> recorder.settings.console
        'off'
    """
    watch = _watch_of_file()
    with watch.lock:  # what the file says next comes after what this says
        loaded = watch.load(settings, strict=strict)
        watch.start()
        with _lock:
            if _recorder is None:
                return _make(Recorder(loaded, exporters=exporters, tracer_provider=tracer_provider))
            recorder = _recorder
        recorder.apply(loaded, exporters=exporters, tracer_provider=tracer_provider)
    return recorder


def flush(timeout_s: float | None = None) -> bool:
    """Deliver every run that has ended so far; see `Recorder.flush`."""
    return _recorder.flush(timeout_s) if _recorder is not None else True


def shutdown(timeout_s: float | None = None) -> bool:
    """Close open runs, deliver everything, close the destinations; see `Recorder.shutdown`."""
    return _recorder.shutdown(timeout_s) if _recorder is not None else True


def _renew_locks() -> None:
    global _lock  # another thread of the parent may have held them
    _lock = threading.Lock()
    if _watch is not None:
        _watch.lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # now: the first recorder may be in the making when another thread forks
    os.register_at_fork(after_in_child=_renew_locks)


def _after_fork_in_child() -> None:
    if _recorder is not None:
        _recorder.after_fork_in_child()
        if _watch is not None:
            _watch.after_fork_in_child()
        processes = sys.modules.get("multiprocessing.util")
        if processes is not None:  # its children leave without running exit handlers, but not without these
            processes.Finalize(None, _recorder.shutdown, exitpriority=10)
