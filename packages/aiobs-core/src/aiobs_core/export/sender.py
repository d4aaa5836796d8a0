"""A thread and a bounded queue in front of an exporter that may be slow, down or broken."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from opentelemetry import context
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core._context import SUPPRESS_KEY
from aiobs_core._errors import AiobsError
from aiobs_core._fork import uninterrupted_by_fork

_log = logging.getLogger("aiobs")

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from aiobs_core._health import Health

_BATCH: Final = 512
_INTERRUPT_SHARE: Final = 0.1  # of the shutdown timeout, kept for breaking off an export that does not return


class Sender(SpanExporter):
    """Sends spans through another exporter in a daemon thread of its own, so that its caller never waits.

    The exporter is made in that thread with the first span, and called only there (except for its `shutdown`, which
    may have to interrupt it). It must have sent its spans when its `export` returns, as the OTLP exporters do.
    Every span that is not sent is counted in `health`; `export` therefore always answers SUCCESS, so that nobody
    counts the loss twice.

    Args:
        exporter_factory: Makes the exporter; called again with the next batch if it fails.
        queue_size: Spans that may wait; beyond it new ones are dropped.
        health: Where losses are counted, under `<name>.queue_full`, `.export_failed`, `.unavailable`, `.shutdown`.
        name: Short name of the destination, such as `otlp`.
        timeout_s: How long `shutdown` may take.
    """

    counts_its_losses = True

    def __init__(
        self,
        exporter_factory: Callable[[], SpanExporter],
        *,
        queue_size: int,
        health: Health,
        name: str,
        timeout_s: float = 5.0,
    ) -> None:
        self._make = exporter_factory
        self._queue_size = queue_size
        self._health = health
        self._name = name
        self._timeout_s = timeout_s
        self._closed = False
        self._start_afresh()
        _senders.add(self)

    def _start_afresh(self) -> None:
        # Guards all below; held while references are moved, never while sending or logging.
        self._changed = threading.Condition()
        self._queue: deque[ReadableSpan] = deque()
        self._in_flight = 0
        self._accepted = 0  # spans ever queued and spans done with: first in, first out, so two counters say
        self._finished = 0  # which spans force_flush waits for
        self._failed = 0
        self._reported = 0  # of the failed, those that a flush has told
        self._thread: threading.Thread | None = None
        self._exporter: SpanExporter | None = None
        self._ready = threading.Event()

    def make_ready(self) -> None:
        """Make the exporter now, in the background, not with the first spans: these may come as late as process exit."""
        with self._changed:
            self._ensure_thread(idle=True)

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the exporter was made, or could not be; returns at once where `make_ready` was not called."""
        if self._thread is not None:
            self._ready.wait(timeout_s)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Queue spans; returns at once and always SUCCESS (losses are counted, see the class)."""
        with self._changed:
            room = 0 if self._closed else max(self._queue_size - len(self._queue), 0)
            taken = spans[:room]
            self._queue.extend(taken)
            self._accepted += len(taken)
            self._ensure_thread()
            self._changed.notify_all()
        if lost := len(spans) - len(taken):
            self._report_refused(lost)
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until the spans queued so far were sent.

        Returns:
            False if they were not within `timeout_millis`, or if sending failed since the last flush.
        """
        deadline = time.monotonic() + timeout_millis / 1_000
        with self._changed:
            target = self._accepted
            running = self._ensure_thread()
        if not running:
            self._send_here(deadline)
        with self._changed:
            done = self._wait(lambda: self._finished >= target, deadline)
            failed, self._reported = self._failed - self._reported, self._failed
            return done and not failed

    def shutdown(self) -> None:
        """Send what is queued, within `timeout_s`; the rest is dropped and counted. Later spans are refused."""
        deadline = time.monotonic() + self._timeout_s
        drained_by = deadline - self._timeout_s * _INTERRUPT_SHARE
        with self._changed:
            if self._closed:
                return
            self._closed = True
            running = self._ensure_thread()
            self._changed.notify_all()
        if not running:
            self._send_here(drained_by)
        with self._changed:
            self._wait(self._is_idle, drained_by)
            idle, thread = self._is_idle(), self._thread
        if not idle:
            self._break_off(deadline)
        elif thread is None:
            self._close_exporter()
        else:
            thread.join(max(deadline - time.monotonic(), 0.0))  # it closes the exporter as its last act

    # --- caller's side ------------------------------------------------------------------------------------------
    def _ensure_thread(self, *, idle: bool = False) -> bool:
        """Start the thread if there is work for it (or `idle`) and it does not run; call with the lock held."""
        if (not self._queue and not idle) or (self._thread is not None and self._thread.is_alive()):
            return True
        thread = threading.Thread(target=self._run, name=f"aiobs-{self._name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # since Python 3.12 an exit handler can start no thread
            self._thread = None
            return False
        self._thread = thread
        return True

    def _send_here(self, deadline: float) -> None:
        """Send in the caller's thread: the first spans of a short script may come as late as its exit handlers."""
        token = context.attach(_suppressed())
        try:
            while time.monotonic() < deadline and self._send_next():
                pass
        finally:
            context.detach(token)

    def _wait(self, condition: Callable[[], bool], deadline: float) -> bool:
        """Wait with the lock held; no longer than a thread lives that could fulfil the condition."""
        while not condition():
            left_s = deadline - time.monotonic()
            if left_s <= 0 or self._thread is None or not self._thread.is_alive():
                return condition()
            self._changed.wait(min(left_s, 0.5))
        return True

    def _is_idle(self) -> bool:
        return not self._queue and not self._in_flight

    def _break_off(self, deadline: float) -> None:
        """Drop what is queued and make the exporter give up the export that does not return."""
        with self._changed:
            dropped = len(self._queue)
            self._queue.clear()
            self._finished += dropped
            self._failed += dropped
        # In a thread, since an exporter may wait in shutdown() for the export that it should interrupt.
        closer = threading.Thread(target=self._close_exporter, name=f"aiobs-{self._name}-close", daemon=True)
        try:
            closer.start()
        except RuntimeError:  # an exit handler of Python 3.12 or later; sockets close with the process
            deadline = time.monotonic()
        with self._changed:
            self._wait(self._is_idle, deadline)
            unsent, self._in_flight = self._in_flight, 0
        if closer.ident is not None:
            closer.join(max(deadline - time.monotonic(), 0.0))
        if lost := dropped + unsent:
            self._lose(
                "shutdown", f"shutdown had waited {self._timeout_s:g} s (AIOBS_EXPORT_TIMEOUT_S)", lost
            )

    def _close_exporter(self) -> None:
        with self._changed:
            exporter, self._exporter = self._exporter, None
        if exporter is None:
            return
        token = context.attach(_suppressed())
        try:
            exporter.shutdown()
        except Exception as error:  # noqa: BLE001 (foreign exporters may raise anything; counted)
            self._health.problem(
                f"{self._name}.shutdown_failed",
                f"aiobs: the exporter of {self._name} failed to shut down ({type(error).__name__}); "
                "no spans are lost by that.",
            )
        finally:
            context.detach(token)

    # --- the thread ---------------------------------------------------------------------------------------------
    def _run(self) -> None:
        changed = self._changed
        context.attach(_suppressed())
        with changed:
            early = not self._queue
        if early:
            self._make_early()
        else:
            self._send_next()
        self._ready.set()
        while True:
            with changed:
                while not self._queue and not self._closed:
                    changed.wait()
            if not self._send_next():
                break
        self._close_exporter()

    def _make_early(self) -> None:
        try:
            self._exporter = self._open()
        except Exception as error:  # noqa: BLE001 (said with the first spans, which try again)
            _log.debug("the exporter of %s is not ready: %s", self._name, type(error).__name__)

    def _send_next(self) -> bool:
        """Send one batch; False if nothing is queued."""
        with self._changed:
            batch = [self._queue.popleft() for _ in range(min(_BATCH, len(self._queue)))]
            self._in_flight = len(batch)
        if not batch:
            return False
        sent = False
        try:
            sent = self._send(batch)
        finally:
            with self._changed:
                self._in_flight = 0
                self._finished += len(batch)
                self._failed += 0 if sent else len(batch)
                self._changed.notify_all()
        return True

    def _send(self, batch: Sequence[ReadableSpan]) -> bool:
        try:
            exporter = self._exporter = self._exporter or self._open()
        except Exception as error:  # noqa: BLE001 (a missing package, a bad variable; counted, tried again)
            self._unsent("unavailable", f"no exporter could be made ({_reason(error)})", len(batch))
            return False
        try:
            result = exporter.export(batch)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (foreign exporters may raise anything; counted)
            said = (
                str(error) if isinstance(error, AiobsError) else f"the exporter raised {type(error).__name__}"
            )
            self._unsent("export_failed", said, len(batch))
            return False
        if result is not SpanExportResult.SUCCESS:
            self._unsent("export_failed", "the exporter gave up; its own log says why", len(batch))
            return False
        return True

    def _open(self) -> SpanExporter:
        with uninterrupted_by_fork():
            return self._make()

    def _unsent(self, problem: str, reason: str, lost: int) -> None:
        with self._changed:
            already_counted = not self._in_flight  # by shutdown(), which did not wait any longer
        if not already_counted:
            self._lose(problem, reason, lost)

    # --- what went wrong ----------------------------------------------------------------------------------------
    def _report_refused(self, lost: int) -> None:
        if self._closed:
            self._lose("shutdown", "they came after shutdown", lost)
        else:
            self._lose("queue_full", f"{self._queue_size} spans are waiting already (AIOBS_QUEUE_SIZE)", lost)

    def _lose(self, problem: str, reason: str, lost: int) -> None:
        self._health.problem(
            f"{self._name}.{problem}",
            f"aiobs: {lost} {'span was' if lost == 1 else 'spans were'} not sent to {self._name}: {reason}. "
            "They are lost; further losses of this kind are only counted.",
            lost=lost,
        )


def _suppressed() -> context.Context:
    """A context in which the exporter's own HTTP and gRPC calls do not become spans, which would be sent, which ..."""
    return context.set_value(SUPPRESS_KEY, True, context.Context())


def _reason(error: Exception) -> str:
    """What may be said about an error: foreign messages can hold endpoints and headers."""
    return str(error) if isinstance(error, AiobsError) else type(error).__name__


_senders: weakref.WeakSet[Sender] = weakref.WeakSet()
_parents_exporters: list[object] = []


def _after_fork_in_child() -> None:
    """Give each sender a new lock, queue and thread: the parent's lock may be held by a thread that is not here."""
    for sender in list(_senders):
        # Kept for ever: closing the parent's gRPC channel from here can hang.
        _parents_exporters.append(sender._exporter)  # noqa: SLF001 (the same class, in effect)
        sender._start_afresh()  # noqa: SLF001


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
