"""The courier: takes the oldest spans from the outbox to the receiver, one batch at a time, and does what it answers."""

from __future__ import annotations

import logging
import random
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiobs_core._errors import AiobsError
from aiobs_core._fork import uninterrupted_by_fork
from aiobs_core._reloaded import LOOK_EVERY_S, Signature, signature_of
from aiobs_core.export._text import duration_text
from aiobs_core.export.answer import FAR_S, Answer
from aiobs_core.export.outbox_neighbours import Neighbours

if TYPE_CHECKING:
    from aiobs_core._health import Health
    from aiobs_core.export.outbox import Outbox
    from aiobs_core.export.parcels import Batch
    from aiobs_core.export.transport import Transport

_log = logging.getLogger("aiobs")

REFUSED: Final = "refused"
REJECTED: Final = "rejected"
TOO_LARGE: Final = "too_large"
_MAX_SPANS: Final = 512
_MAX_BYTES: Final = 3 << 20  # gRPC receivers take 4 MiB unless told otherwise
_FIRST_PAUSE_S: Final = 1.0
_LAST_PAUSE_S: Final = 30.0
_ADOPT_EVERY_S: Final = 10.0
_SOON_S: Final = 0.05  # what others left has to wait only until nobody waits for a flush
_TIDY_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long the courier waits after a try that failed: twice as long each time, and by chance up to half less.

    Attributes:
        first_s: After the first one.
        last_s: At the most, unless the receiver asks for more.
        chance: From 0 to 1.
    """

    first_s: float = _FIRST_PAUSE_S
    last_s: float = _LAST_PAUSE_S
    chance: Callable[[], float] = random.random

    def pause_s(self, failures: int) -> float:
        longest_s = min(self.last_s, self.first_s * 2.0 ** min(failures - 1, 30))
        return longest_s * (1.0 - self.chance() / 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    box: Outbox
    batch: Batch
    lost: Mapping[str, int]


class Courier:
    """Sends what the outboxes hold. For one thread at a time.

    Args:
        make: Makes the transport; called again after it failed.
        boxes: The outboxes now.
        health: Told of what went wrong, under `otlp.*`.
        max_age_s: What is older is given up once a try has failed.
        pace: How long it waits after failures.
        clock_s: A clock that does not jump.
        wall_s: The clock of the wall.
        files: Certificates and the like: when they have changed, no pause is waited for.
    """

    def __init__(
        self,
        make: Callable[[], Transport],
        boxes: Callable[[], Sequence[Outbox]],
        health: Health,
        *,
        max_age_s: float,
        pace: Pace | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
        files: Sequence[str] = (),
    ) -> None:
        self._make = make
        self._files = [Path(name).expanduser() for name in files if name]
        self._tried_with: Signature = ()
        self._boxes = boxes
        self._health = health
        self._max_age_s = max_age_s
        self._pace = pace or Pace()
        self._clock_s = clock_s
        self._wall_s = wall_s
        self._transport: Transport | None = None
        self._request_of: Callable[[Sequence[tuple[bytes, bytes]], Mapping[bytes, bytes]], bytes] | None = (
            None
        )
        self._unsettled: _Done | None = None
        self._max_spans = _MAX_SPANS
        self._failures = 0
        self._not_before_s = self._asked_for_s = clock_s()
        self._adopt_at_s = self._tidy_at_s = self._beat_at_s = self._look_at_s = clock_s()
        self._failing_since_s: float | None = None
        self._recovered_after_s: float | None = None
        self._sent_since = 0
        self._neighbours: Neighbours | None = None
        self._looked_in: Sequence[Outbox] = ()
        self._turn = 0
        self.failed_tries = 0
        self._is_closed = False

    def make_ready(self) -> None:
        """Make the transport.

        Raises:
            Exception: Whatever its packages raise.
        """
        if self._is_closed:
            raise AiobsError("delivery is shut down")
        if self._transport is None or self._request_of is None:
            with uninterrupted_by_fork():  # it imports
                from aiobs_core.export.wire import request_of

                self._request_of = request_of
                self._transport = self._make()

    def hurry(self) -> None:
        """Try again now, unless the receiver asked to be left alone."""
        self._not_before_s = self._asked_for_s
        self._failures = 0

    def look_around(self) -> None:
        """See with the next step what dead processes have left, though it was looked for a moment ago."""
        self._adopt_at_s = self._clock_s()

    def step(self, *, own: bool = False, within_s: float = FAR_S) -> float:
        """Send one batch, if one waits and it is time.

        Args:
            own: Only what this process has put: somebody waits for it.
            within_s: How long the receiver is waited for at the most.

        Returns:
            Seconds after which the next step has something to do: 0 at once.
        """
        now_s = self._clock_s()
        if now_s < self._not_before_s and self._files_have_changed(now_s):
            self.hurry()
        if now_s < self._not_before_s:
            self._show_life(now_s)
            left_s = self._not_before_s - now_s
            return min(left_s, LOOK_EVERY_S) if self._files else left_s
        if not self._settle_rest():
            return self._failed_here()
        if not own:
            self._look_after(now_s)
        for box in self._boxes():
            batch = self._take(box, own=own)
            if batch is not None:
                self._deliver(box, batch, within_s)
                return max(self._not_before_s - self._clock_s(), 0.0)
        self._say_recovered()
        return _SOON_S if own else _ADOPT_EVERY_S

    def _take(self, box: Outbox, *, own: bool) -> Batch | None:
        """In turns what this process put and what it took over, so that neither waits for the end of the other."""
        self._turn += 1
        first_own = own or self._turn % 2 == 0
        for is_own in (first_own,) if own else (first_own, not first_own):
            batch = box.take(max_spans=self._max_spans, max_bytes=_MAX_BYTES, own=is_own)
            if batch is not None:
                return batch
        return None

    def _deliver(self, box: Outbox, batch: Batch, within_s: float) -> None:
        answer = self._send(batch, within_s)
        if answer.verdict == "sent":
            self._failures = 0
            self._max_spans = min(self._max_spans * 2, _MAX_SPANS)
            rejected = min(answer.rejected, batch.count)
            self._note_recovery(batch.count - rejected)
            if answer.why:
                self._health.problem("otlp.odd_answer", f"aiobs: the OTLP receiver gave {answer.why}.")
            self._lose(REJECTED, "the receiver rejected them in part (partial success)", rejected)
            self._done(box, batch, {REJECTED: rejected} if rejected else {})
        elif answer.verdict == "split" and batch.count > 1:
            self._max_spans = max(1, batch.count // 2)
        elif answer.verdict == "split":
            self._lose(TOO_LARGE, f"the receiver takes none of that size ({answer.why})", 1)
            self._done(box, batch, {TOO_LARGE: 1})
        elif answer.verdict == "refused":
            box.note_error(answer.why)
            self._lose(REFUSED, f"the receiver refused them ({answer.why})", batch.count)
            self._done(box, batch, {REFUSED: batch.count})
        else:
            self._try_later(box, batch, answer)

    def _send(self, batch: Batch, within_s: float) -> Answer:
        self._tried_with = signature_of(self._files)
        try:
            self.make_ready()
            assert self._transport is not None
            assert self._request_of is not None
            return self._transport.send(self._request_of(batch.spans, batch.heads), within_s)
        except Exception as error:  # noqa: BLE001 (a missing package, a bad variable; counted, tried again)
            why = str(error) if isinstance(error, AiobsError) else type(error).__name__
            may_have_arrived = self._transport is not None
            return Answer(verdict="again", why=why, may_have_arrived=may_have_arrived, is_ours=True)

    def _done(self, box: Outbox, batch: Batch, lost: Mapping[str, int]) -> None:
        self._unsettled = _Done(box=box, batch=batch, lost=lost)
        if not self._settle_rest():
            self._failed_here()

    def _settle_rest(self) -> bool:
        """Delete what was sent; on a full disk that may have to wait, and nothing may be taken until then."""
        done = self._unsettled
        if done is None:
            return True
        try:
            done.box.settle(done.batch, lost=done.lost)
        except sqlite3.OperationalError as error:
            self._health.problem(
                "otlp.spool_unwritable",
                f"aiobs: the spool cannot be written ({type(error).__name__}); sent spans stay in it until it can.",
            )
            return False
        self._unsettled = None
        return True

    def _try_later(self, box: Outbox, batch: Batch, answer: Answer) -> None:
        self._failed_here(answer.after_s)
        self.failed_tries += 1
        self._say_recovered()  # of an earlier failure
        self._failing_since_s = self._failing_since_s or self._clock_s()
        if answer.is_ours:
            self._health.problem(
                "otlp.not_sent",
                f"aiobs: no spans can be sent ({answer.why}); they wait, and it is tried again.",
            )
        else:
            self._health.problem(
                "otlp.unreachable",
                f"aiobs: the OTLP receiver took no spans ({answer.why}); they wait and are sent again.",
            )
        try:
            box.put_back(batch, error=answer.why, may_have_arrived=answer.may_have_arrived)
            expired = box.expire(self._max_age_s)
        except sqlite3.OperationalError:
            return  # a full disk; the next try writes it down
        self._lose("expired", f"they were older than {self._max_age_s:g} s (AIOBS_SPOOL_MAX_AGE_S)", expired)

    def _failed_here(self, asked_for_s: float = 0.0) -> float:
        self._failures += 1
        now_s = self._clock_s()
        pause_s = max(self._pace.pause_s(self._failures), asked_for_s)
        self._not_before_s = now_s + pause_s
        self._asked_for_s = now_s + asked_for_s
        return pause_s

    def _files_have_changed(self, now_s: float) -> bool:
        """Whether it is worth another try before its time; looks once a second."""
        if not self._files or now_s < self._look_at_s:
            return False
        self._look_at_s = now_s + LOOK_EVERY_S
        return signature_of(self._files) != self._tried_with

    def _note_recovery(self, sent: int) -> None:
        if self._failing_since_s is not None:
            self._recovered_after_s = self._clock_s() - self._failing_since_s
            self._failing_since_s, self._sent_since = None, 0
        self._sent_since += sent

    def _say_recovered(self) -> None:
        """Say that an outage is over, once nothing waits any more."""
        after_s, self._recovered_after_s = self._recovered_after_s, None
        if after_s is not None:
            after = duration_text(int(after_s * 1e9))
            _log.info(
                "aiobs: spans are delivered again after %s; %d that had waited were sent.",
                after,
                self._sent_since,
            )

    def _show_life(self, now_s: float) -> None:
        """Keep others from taking over what waits here for a receiver that is down: they cannot ask every process."""
        if now_s < self._beat_at_s:
            return
        self._beat_at_s = now_s + _ADOPT_EVERY_S
        for box in self._boxes():
            if box.is_durable:
                with suppress(sqlite3.OperationalError):  # locked or full; there is another time
                    self._neighbours_of(box).beat()

    def _look_after(self, now_s: float) -> None:
        """Take over what dead processes left, and tidy up: now and then, and in a file that is another one."""
        opened = self._boxes()
        if now_s < self._adopt_at_s and opened == self._looked_in:
            return
        self._looked_in = opened
        self._adopt_at_s = now_s + _ADOPT_EVERY_S
        tidies = now_s >= self._tidy_at_s
        if tidies:
            self._tidy_at_s = now_s + _TIDY_EVERY_S
        for box in self._boxes():
            if not box.is_durable:
                continue
            try:
                neighbours = self._neighbours_of(box)
                if neighbours.adopt(now_s):
                    self._adopt_at_s = now_s  # there may be more
                if tidies:
                    neighbours.expire(now_s, before_s=self._wall_s() - self._max_age_s)
                    neighbours.tidy()
            except sqlite3.OperationalError:
                continue  # locked or full; there is no hurry

    def _neighbours_of(self, box: Outbox) -> Neighbours:
        known = self._neighbours
        if known is None or known.box is not box:
            known = self._neighbours = Neighbours(box)
        return known

    def _lose(self, reason: str, why: str, count: int) -> None:
        if not count:
            return
        self._health.problem(
            f"otlp.{reason}",
            f"aiobs: {count} {'span was' if count == 1 else 'spans were'} not delivered: {why}. They are lost; further "
            "losses of this kind are only counted.",
            lost=count,
        )

    def close(self) -> None:
        """Close the transport; may be called by another thread, to break off a request that does not return."""
        self._is_closed = True
        self._say_recovered()
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close()
