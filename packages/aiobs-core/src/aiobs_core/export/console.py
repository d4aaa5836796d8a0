"""Prints the tree or a line of each trace when its local root arrives."""

from __future__ import annotations

import os
import sys
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TextIO, TypedDict

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from aiobs_core.export._facts import is_failed, is_local_root, kind_of
from aiobs_core.export._layout import Glyphs, paint, shows_colours
from aiobs_core.export._text import neutralise
from aiobs_core.export.tree import render_summary, render_tree

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from aiobs_core._health import Health

_MODES: Final = ("off", "summary", "tree", "auto")
_MAX_TRACES: Final = 256
_MAX_SPANS: Final = 5_000
_MAX_ROWS: Final = 200  # a terminal is no place for more; the store and the page have them all
_LONG_RUN_NS: Final = 1_000_000_000
_USUAL_WIDTH: Final = 100  # where there is no terminal to ask


class _Drawing(TypedDict):
    width: int
    color: bool
    ascii_only: bool
    encoding: str


class ConsoleExporter(SpanExporter):
    """Prints each trace once its local root has ended, with one write.

    Never raises: what cannot be printed is counted in `health`, and a broken stream ends the printing. May be called
    from any thread; nothing is locked while writing.

    Args:
        mode: `off`, `summary` (one line), `tree`, or `auto`: in a terminal outside CI only, the tree of a run that
            failed or took over a second, else one line; nothing for traces in which no agent, model or tool ran.
        stream: Where to print; None is `sys.stderr` as it is at that moment.
        environ: Variables to read (`NO_COLOR`, `TERM`, `CI`, `COLUMNS`); the process's own if None.
        footer: Where runs can be found later; said once, after the first tree or line. A callable is asked at each
            print until it has an answer: None says nothing.
        health: Where problems are counted.

    Raises:
        ValueError: If `mode` is none of the four.
    """

    def __init__(
        self,
        mode: str,
        *,
        stream: TextIO | None = None,
        environ: Mapping[str, str] | None = None,
        footer: str | Callable[[], str | None] | None = None,
        health: Health | None = None,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode: expected one of {', '.join(_MODES)}, got {mode!r}")
        self._mode = mode
        self._stream = stream
        self._environ = os.environ if environ is None else environ  # noqa: TID251 (a default)
        self._footer = footer
        self._health = health
        self._footer_was_shown = False
        self._broken = False
        self._lock = threading.Lock()
        self._traces: OrderedDict[int, deque[ReadableSpan]] = OrderedDict()
        self._printed: OrderedDict[int, None] = OrderedDict()  # whose stragglers are not kept
        self._dropped: set[str] = set()  # bounds that were hit, to be reported without the lock

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep the spans until their local root comes, and print the traces whose root is among them."""
        if self._mode == "off" or self._broken:
            return SpanExportResult.SUCCESS
        try:
            stream = sys.stderr if self._stream is None else self._stream
            if self._mode == "auto" and not self._is_interactive(stream):
                return SpanExportResult.SUCCESS
            with self._lock:
                finished = self._gather(spans)
            self._report_dropped()
            if finished:
                self._print(finished, stream)
        except Exception as error:  # noqa: BLE001 (a closed stream, an unknown encoding: the app must not notice)
            self._broken = True
            self._problem("unwritable", f"printing failed ({type(error).__name__}); nothing more is printed.")
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 (SpanExporter has it)
        """Nothing waits here that could be printed: traces without their root are not complete."""
        return True

    def shutdown(self) -> None:
        """Forget the traces whose root never came."""
        with self._lock:
            self._traces.clear()
            self._mode = "off"

    # --- which spans --------------------------------------------------------------------------------------------
    def _gather(self, spans: Sequence[ReadableSpan]) -> list[tuple[ReadableSpan, list[ReadableSpan]]]:
        """Buffer a batch; the local roots in it, each with its spans. Stragglers stand after their root."""
        roots: list[ReadableSpan] = []
        for span in spans:
            if span.context is None or span.context.trace_id in self._printed:
                continue
            self._buffer(span.context.trace_id).append(span)
            if is_local_root(span):
                roots.append(span)
        finished = [(root, self._take(root)) for root in roots]
        if self._mode != "auto":
            return finished
        return [(root, mine) for root, mine in finished if any(map(kind_of, mine))]

    def _buffer(self, trace_id: int) -> deque[ReadableSpan]:
        kept = self._traces.get(trace_id)
        if kept is None:
            if len(self._traces) >= _MAX_TRACES:
                self._traces.popitem(last=False)
                self._dropped.add("traces_dropped")
            kept = self._traces[trace_id] = deque(maxlen=_MAX_SPANS)
        if len(kept) == _MAX_SPANS:
            self._dropped.add("spans_dropped")
        return kept

    def _take(self, root: ReadableSpan) -> list[ReadableSpan]:
        """Remove the root's spans from the buffer: the whole trace, or what descends from a local root."""
        trace_id = root.context.trace_id
        kept = self._traces.get(trace_id, deque())
        if root.parent is None:
            self._traces.pop(trace_id, None)
            self._printed[trace_id] = None
            if len(self._printed) > _MAX_TRACES:
                self._printed.popitem(last=False)
            # The root itself may have been the oldest of too many.
            return [root, *(span for span in kept if span is not root)]
        # One remote trace may enter this process several times, also at once.
        mine = _descendants(root, kept)
        rest = deque((span for span in kept if span.context.span_id not in mine), maxlen=_MAX_SPANS)
        if rest:
            self._traces[trace_id] = rest
        else:
            self._traces.pop(trace_id, None)
        return [span for span in kept if span.context.span_id in mine]

    # --- how ----------------------------------------------------------------------------------------------------
    def _is_interactive(self, stream: TextIO) -> bool:
        in_ci = self._environ.get("CI", "").lower() not in ("", "0", "false")
        return not in_ci and self._environ.get("TERM") != "dumb" and stream.isatty()

    def _print(self, finished: Sequence[tuple[ReadableSpan, list[ReadableSpan]]], stream: TextIO) -> None:
        encoding = getattr(stream, "encoding", None) or "utf-8"  # io.StringIO has none and takes everything
        width = _width(stream, self._environ)
        colour = shows_colours(stream, self._environ)
        ascii_only = not Glyphs.can_be_written(encoding)
        blocks = []
        for root, spans in finished:
            as_tree = self._mode == "tree" or (self._mode == "auto" and _deserves_a_tree(root))
            options = _Drawing(width=width, color=colour, ascii_only=ascii_only, encoding=encoding)
            if as_tree:
                blocks.append(render_tree(spans, max_rows=_MAX_ROWS, **options))
            else:
                blocks.append(render_summary(spans, **options))
            if footer := self._footer_to_show():
                blocks.append(paint((neutralise(footer, encoding=encoding), "2"), colour))
        stream.write("\n".join(blocks) + "\n")
        stream.flush()

    def _footer_to_show(self) -> str | None:
        if self._footer_was_shown:
            return None
        footer = self._footer() if callable(self._footer) else self._footer
        self._footer_was_shown = bool(footer)
        return footer

    def _report_dropped(self) -> None:
        dropped, self._dropped = self._dropped, set()
        if "traces_dropped" in dropped:
            self._problem("traces_dropped", f"over {_MAX_TRACES} runs are open; the oldest are not printed.")
        if "spans_dropped" in dropped:
            self._problem("spans_dropped", f"a run has over {_MAX_SPANS} spans; only the latest are printed.")

    def _problem(self, kind: str, message: str) -> None:
        if self._health is not None:
            self._health.problem(f"console.{kind}", f"aiobs: console: {message}")


def _descendants(root: ReadableSpan, spans: Sequence[ReadableSpan] | deque[ReadableSpan]) -> set[int]:
    children: dict[int, list[int]] = {}
    for span in spans:
        if span.parent is not None and not (is_local_root(span) and span is not root):
            children.setdefault(span.parent.span_id, []).append(span.context.span_id)
    found: set[int] = set()
    waiting = [root.context.span_id]
    while waiting:
        span_id = waiting.pop()
        if span_id not in found:
            found.add(span_id)
            waiting.extend(children.get(span_id, ()))
    return found


def _deserves_a_tree(root: ReadableSpan) -> bool:
    return is_failed(root) or (root.end_time or 0) - (root.start_time or 0) > _LONG_RUN_NS


def _width(stream: TextIO, environ: Mapping[str, str]) -> int:
    given = environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except (OSError, ValueError, AttributeError):  # no terminal, or a stream without a file
        return _USUAL_WIDTH
