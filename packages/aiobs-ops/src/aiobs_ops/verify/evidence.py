"""Where a canary leaves traces: the store, the metrics page, the log file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from opentelemetry.sdk.resources import SERVICE_NAME

from aiobs_core import AiobsError, semconv
from aiobs_core._health import Health
from aiobs_core.semconv import logs as names
from aiobs_core.semconv.metrics import REQUESTS, STAGE, TOTAL
from aiobs_core.store.reader import NoStoreError, Store, StoredSpan, UnknownTraceError, open_store
from aiobs_ops.verify.canary import Canary, fetch

_RECENT_RUNS: Final = 200
_UNNAMED: Final = "(unnamed)"


def service_of(span: StoredSpan) -> str:
    """The service that a span is of."""
    return str(span.readable.resource.attributes.get(SERVICE_NAME) or _UNNAMED)


def texts_of(span: StoredSpan) -> Iterator[tuple[str, str]]:
    """All texts of a span, each with where it stands."""
    readable = span.readable
    yield "its name", span.name
    yield "its status", readable.status.description or ""
    for name, value in span.attributes.items():
        yield f"attribute {name}", f"{name} {value}"
    for event in readable.events:
        yield f"event {event.name}", f"{event.name} {dict(event.attributes or {})}"
    for link in readable.links:
        yield "a link", str(dict(link.attributes or {}))
    yield "its resource", str(dict(readable.resource.attributes))


class StoredTraces:
    """The store that the services write to; opened for each look, since they may make it only now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problem = ""

    def trace(self, trace_id: str) -> list[StoredSpan]:
        """The spans of a trace so far."""
        return self._look(lambda store: store.trace(trace_id))

    def of_request(self, request_id: str) -> list[StoredSpan]:
        """The spans with this request id in the newest traces, whichever trace they stand in."""
        return self._look(
            lambda store: [
                span
                for run in store.runs(_RECENT_RUNS)
                for span in store.trace(run.trace_id)
                if span.attributes.get(semconv.REQUEST_ID) == request_id
            ]
        )

    def _look(self, read: Callable[[Store], list[StoredSpan]]) -> list[StoredSpan]:
        try:
            with closing(open_store(self.folder, health=Health())) as store:
                found = read(store)
        except (NoStoreError, UnknownTraceError):
            return []
        except AiobsError as error:  # such as a store that is locked; a later look may succeed
            self.problem = str(error)
            return []
        self.problem = ""
        return found


class Line(NamedTuple):
    """A line of the log that mentions the canary; ids are None where it is no line of aiobs."""

    text: str
    trace_id: str | None
    request_id: str | None


class LogFile:
    """Follows a log file from where it ends now."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def read(self) -> Iterator[str]:
        """The lines that were written since the last look."""
        if not self.path.exists():
            return
        if self.path.stat().st_size < self._offset:  # put aside, and a new one begun
            self._offset, self._rest = 0, b""
        with self.path.open("rb") as file:
            file.seek(self._offset)
            for piece in file:
                self._offset += len(piece)
                self._rest += piece
                if self._rest.endswith(b"\n"):
                    yield self._rest.decode("utf-8", "replace")
                    self._rest = b""


def line_of(text: str) -> Line:
    """What a line says of its trace; runtimes of containers put a time before it."""
    try:
        said = json.loads(text[text.index("{") :])
    except ValueError:
        return Line(text, None, None)
    if not isinstance(said, dict) or said.get(names.EVENT) not in names.LOG_EVENTS:
        return Line(text, None, None)
    return Line(text, said.get(names.TRACE_ID), said.get(names.REQUEST_ID))


class Counted(NamedTuple):
    """Runs that the page counts: whole requests, and these with their parts."""

    requests: float
    runs: float


class MetricsPage:
    """A Prometheus page of the service."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        self.url = url
        self._timeout_s = timeout_s
        self.problem = ""
        self.text = ""

    def counted(self) -> Counted | None:
        """What it counts now; None if there is no page, and `problem` says why."""
        try:
            self.text = fetch(self.url, self._timeout_s)
        except AiobsError as error:
            self.problem = str(error)
            return None
        self.problem = ""
        requests = runs = 0.0
        for line in self.text.split("\n"):
            if line.startswith(f"{REQUESTS.sample_name}{{"):
                labels, _, rest = line.rpartition("} ")
                try:
                    value = float(rest.split(" ")[0])
                except ValueError:
                    continue
                runs += value
                requests += value if f'{STAGE}="{TOTAL}"' in labels else 0
        return Counted(requests, runs)


class Evidence:
    """What the canary has left so far. Without a source there is none of its kind."""

    def __init__(
        self, store: Path | None, metrics: str | None, logs: Path | None, *, timeout_s: float
    ) -> None:
        self.store = None if store is None else StoredTraces(store)
        self.page = None if metrics is None else MetricsPage(metrics, timeout_s=timeout_s)
        self.log = None if logs is None else LogFile(logs)
        self.before = None if self.page is None else self.page.counted()
        self.after: Counted | None = None
        self.spans: Sequence[StoredSpan] = ()
        self.lines: list[Line] = []

    def look(self, canary: Canary, trace_id: str) -> None:
        """Look again.

        Args:
            canary: What is looked for.
            trace_id: The trace that the request ran in, which is another one where the canary's was lost.
        """
        if self.store is not None:
            self.spans = self.store.trace(trace_id)
        if self.page is not None:
            self.after = self.page.counted()
        if self.log is not None:
            wanted = (canary.trace_id, canary.request_id, trace_id, *canary.marks)
            for text in self.log.read():
                if any(word in text for word in wanted):
                    self.lines.append(line_of(text))
