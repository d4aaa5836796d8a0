"""Delivery of spans over OTLP: into the outbox at once, and from there to the receiver by a thread of its own."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from opentelemetry import context
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core._context import SUPPRESS_KEY
from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core.export.answer import FAR_S
from aiobs_core.export.outbox import DUPLICATE
from aiobs_core.export.outbox_file import is_damage
from aiobs_core.export.outbox_neighbours import forget_after_fork

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from aiobs_core._balance import Counts
    from aiobs_core._health import Health
    from aiobs_core.export.boxes import Boxes
    from aiobs_core.export.courier import Courier
    from aiobs_core.export.wire import Encoded, Encoder

_log = logging.getLogger("aiobs")
_SURVIVED: Final = BaseException  # foreign code in the thread may raise anything without ending it
_TROUBLE_S: Final = 1.0
_LIFE_S: Final = 10.0  # the courier has to show that this process lives, however long it pauses
_CLOSE_SHARE: Final = 0.1  # of the time that a shutdown has, for breaking off what does not end
_LAST_SHARE: Final = (
    0.25  # of it, in which no batch of others is begun: one that is broken off may arrive twice
)


class Delivery(SpanExporter):
    """Keeps spans until the receiver has them. Its caller waits for the outbox only, never for the receiver.

    Every span ends as exported, waiting in the outbox, or lost for a reason that is counted in `health`; `export`
    therefore always answers SUCCESS, so that nobody counts a loss twice.

    Args:
        boxes: Where spans wait.
        courier: Takes them to the receiver.
        health: Told of losses, under `otlp.*`.
        timeout_s: How long `shutdown` may take.
    """

    counts_its_losses = True

    def __init__(self, boxes: Boxes, courier: Courier, *, health: Health, timeout_s: float = 2.0) -> None:
        self._boxes = boxes
        self._courier = courier
        self._encode: Encoder | None = None
        self._health = health
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._has_begun = False
        self._is_woken = False
        self._is_sending = False
        self._flushing = 0
        self._is_closed = False
        self._is_over = False
        self._is_left = False
        self._delivers_left = False
        self._counts = boxes.state()
        self.undelivered = 0
        _deliveries.add(self)

    # --- on the worker ------------------------------------------------------------------------------------------
    def make_ready(self) -> None:
        """Load packages now, in the background."""
        with self._changed:
            self._ensure_thread()

    def begin(self) -> None:
        """Open the outbox, and send what is in it: the destinations before this one are closed."""
        if self._has_begun:
            return
        self._boxes.begin(self.balance)
        with self._changed:
            self._has_begun = self._is_woken = True
            self._changed.notify_all()

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the transport was made, or could not be."""
        if self._thread is not None:
            self._ready.wait(timeout_s)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Put spans into the outbox; they are safe from the end of the process when this returns, if it is on disk."""
        if self._is_closed:
            self._lose("shutdown", "they came after shutdown", len(spans))
            return SpanExportResult.SUCCESS
        self.begin()
        encoded = self._encoded(spans)
        if encoded:
            try:
                lost = self._boxes.put(encoded)
            except (sqlite3.Error, OSError) as error:
                self._lose("unspoolable", f"no outbox takes them ({type(error).__name__})", len(encoded))
            else:
                self._report(lost)
        with self._changed:
            self._is_woken = True
            self._ensure_thread()
            self._changed.notify_all()
        return SpanExportResult.SUCCESS

    def _encoded(self, spans: Sequence[ReadableSpan]) -> list[Encoded]:
        encode, out = self._encode, []
        if encode is None:
            with uninterrupted_by_fork():  # protobuf takes a tenth of a second to import
                from aiobs_core.export.wire import Encoder

                encode = self._encode = Encoder()
        for span in spans:
            try:
                out.append(encode(span))
            except Exception as error:  # noqa: BLE001 (one that cannot be encoded must not take the others along)
                self._lose("unencodable", f"it cannot be encoded ({type(error).__name__})", 1)
        return out

    def _report(self, lost: Mapping[str, int]) -> None:
        for reason, count in lost.items():
            if reason == DUPLICATE:
                self._health.problem(
                    f"otlp.{DUPLICATE}",
                    f"aiobs: {count} {'span' if count == 1 else 'spans'} came twice and "
                    f"{'leaves' if count == 1 else 'leave'} once; nothing is lost. Further ones are only counted.",
                )
            else:
                self._lose(reason, "the oldest give way (AIOBS_SPOOL_MAX_BYTES)", count)

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until what this process has put was delivered; False if that was not in time. Nothing is lost by it.

        From any thread; after a shutdown it says whether that has left anything.
        """
        if self._is_left:
            return not self.undelivered
        return self._flush(time.monotonic() + timeout_millis / 1_000, gives_up=False)

    def _flush(self, deadline: float, *, gives_up: bool) -> bool:
        """Wait; `gives_up`: no longer than until a try fails, if what waits outlives the process."""
        self.begin()
        with self._changed:
            self._flushing += 1
            self._is_woken = True
            failures = self._courier.failed_tries
            self._courier.hurry()
            running = self._ensure_thread()
            self._changed.notify_all()
        try:
            if not running:
                self._send_here(deadline)
            targets = [(box, box.last_put()) for box in self._boxes.all()]
            while True:
                waiting = [box for box, last in targets if last and box.waits(last)]
                if not waiting:
                    return True
                left_s = deadline - time.monotonic()
                failed = gives_up and self._courier.failed_tries > failures
                if left_s <= 0 or not self._runs() or (failed and all(box.is_durable for box in waiting)):
                    return False
                with self._changed:
                    self._changed.wait(min(left_s, 0.05))
        except sqlite3.Error:
            return False
        finally:
            with self._changed:
                self._flushing -= 1

    def shutdown(self) -> None:
        """Deliver what is possible within `timeout_s`. The rest waits on disk for the next process, or is lost."""
        if self._is_closed:
            return
        self._is_closed = True
        deadline = time.monotonic() + self._timeout_s
        close_at_s = deadline - self._timeout_s * _CLOSE_SHARE
        if self._flush(close_at_s, gives_up=True):
            self._deliver_left(close_at_s)
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
            is_idle = not self._is_sending
        if self._thread is not None:
            if not is_idle:
                self._courier.close()  # breaks off what does not return
            self._thread.join(max(deadline - time.monotonic(), 0.0))
        is_idle = not self._is_sending
        self._leave(is_idle=is_idle)
        self._courier.close()

    def _deliver_left(self, deadline: float) -> None:
        """Deliver what dead processes have left, while there is time: one short process after the other leaves more."""
        last_s = deadline - self._timeout_s * _LAST_SHARE
        self._courier.look_around()
        if not self._runs():
            self._send_here(last_s)
            return
        with self._changed:
            self._delivers_left = self._is_woken = True
            self._changed.notify_all()
            self._wait_while(lambda: self._delivers_left, last_s)
            self._is_over = True
            self._wait_while(lambda: self._is_sending, deadline)

    def _wait_while(self, holds: Callable[[], bool], deadline: float) -> None:
        while holds() and self._runs() and (left_s := deadline - time.monotonic()) > 0:
            self._changed.wait(min(left_s, 0.05))

    def _leave(self, *, is_idle: bool) -> None:
        try:
            lost = self._boxes.drop_memory("shutdown")
            self._lose(
                "shutdown", f"shutdown had waited {self._timeout_s:g} s (AIOBS_EXPORT_TIMEOUT_S)", lost
            )
        except sqlite3.Error as error:
            _log.debug("what waits could not be dropped: %s", type(error).__name__)
        self.balance()  # which stays as it is now
        self._is_left = True
        with suppress(sqlite3.Error):
            self.undelivered = self._boxes.waiting
        self._boxes.close(is_idle=is_idle)
        if self.undelivered:
            _log.info("aiobs: %d spans wait in the spool; the next process sends them.", self.undelivered)

    def balance(self) -> Counts:
        """What became of the spans that were put."""
        if not self._is_left:
            try:
                self._counts = self._boxes.state()
            except sqlite3.Error as error:  # locked, or damaged: the thread sees to that
                _log.debug("the balance is an older one: %s", type(error).__name__)
        return self._counts

    # --- the thread ---------------------------------------------------------------------------------------------
    def _ensure_thread(self) -> bool:
        """Start the thread, with the lock held; False if that is not possible."""
        if self._runs():
            return True
        thread = threading.Thread(target=self._run, name="aiobs-otlp", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # since Python 3.12 an exit handler can start no thread
            return False
        self._thread = thread
        return True

    def _runs(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        context.attach(_suppressed())
        try:
            self._courier.make_ready()
        except Exception as error:  # noqa: BLE001 (said with the first spans, which try again)
            _log.debug("the OTLP transport is not ready: %s", type(error).__name__)
        self._ready.set()
        while not self._is_over:
            is_asked = self._delivers_left
            wait_s = self._step() if self._has_begun else _LIFE_S
            with self._changed:
                if is_asked and wait_s > 0:  # nothing is left, or it cannot be sent now
                    self._delivers_left = False
                self._changed.notify_all()
                if wait_s > 0 and not self._is_woken and not self._is_over:
                    self._changed.wait(min(wait_s, _LIFE_S))
                self._is_woken = False

    def _step(self, within_s: float = FAR_S) -> float:
        self._is_sending = True
        try:
            return self._courier.step(own=self._flushing > 0, within_s=within_s)
        except sqlite3.Error as error:
            if self._is_over:
                return 0.0
            if is_damage(error):
                return 0.0 if self._boxes.renew_damaged() else _TROUBLE_S
            self._health.problem(
                "otlp.spool_unreadable", f"aiobs: the spool cannot be used ({type(error).__name__})."
            )
            return _TROUBLE_S
        except _SURVIVED as error:
            self._health.problem(
                "otlp.export_failed", f"aiobs: sending spans failed ({type(error).__name__})."
            )
            return _TROUBLE_S
        finally:
            self._is_sending = False

    def _send_here(self, deadline: float) -> None:
        """Send in the caller's thread: the first spans of a short script may come as late as its exit handlers."""
        token = context.attach(_suppressed())
        try:
            while (left_s := deadline - time.monotonic()) > 0 and self._step(left_s) <= 0:
                pass
        finally:
            context.detach(token)

    def _lose(self, reason: str, why: str, count: int) -> None:
        if count:
            self._health.problem(
                f"otlp.{reason}",
                f"aiobs: {count} {'span was' if count == 1 else 'spans were'} not delivered: {why}. They are lost; "
                "further losses of this kind are only counted.",
                lost=count,
            )

    def start_afresh(self) -> None:
        """In a forked child: the files and the thread are the parent's."""
        self._boxes.leak()
        self._ready.set()  # nobody waits for the parent's thread
        self._thread = None
        self._is_left = True
        self._is_closed = self._is_over = True


def _suppressed() -> context.Context:
    """A context in which the transport's own calls do not become spans, which would be sent, which ..."""
    return context.set_value(SUPPRESS_KEY, True, context.Context())


_deliveries: weakref.WeakSet[Delivery] = weakref.WeakSet()
_parents: list[Delivery] = []


def _after_fork_in_child() -> None:
    forget_after_fork()
    for delivery in list(_deliveries):
        _parents.append(delivery)  # kept for ever: closing the parent's gRPC channel from here can hang
        delivery.start_afresh()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
