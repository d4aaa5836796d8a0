"""Columns, bars and colours: how the tree of a trace is laid out on a terminal."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Final, TextIO

from aiobs_core._operation import Kind
from aiobs_core.export._text import cut, display_width

Spell = tuple[int, int, int]
"""Start, end and time to the first chunk (0: none) of one run, in nanoseconds; start and end on the trace's axis."""

Segment = tuple[str, str]
"""Text and its ANSI colour code ("": none)."""

_GAP: Final = "  "
_NARROWEST: Final = {
    "name": 24,
    "model": 14,
    "bar": 8,
    "remarks": 12,
}  # others are as wide as their widest cell
_DROPPED_FIRST: Final = ("remarks", "tokens", "bar", "model", "duration")
_GROWTH: Final = (("name", 28), ("bar", 12), ("remarks", 32), ("name", 48), ("model", 24), ("bar", 32))
_DIM: Final = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """The characters to draw with. None is an emoji: those are two columns wide on some terminals, one on others."""

    branch: str
    last: str
    line: str
    ellipsis: str
    times: str
    arrow: str
    dot: str
    done: str
    failed: str
    stopped: str
    paused: str
    icons: dict[Kind | None, str]
    halves: (
        str  # of a bar's cell, by 3 * left half + right half; each: 0 idle, 1 before the first chunk, 2 busy
    )

    @classmethod
    def can_be_written(cls, encoding: str) -> bool:
        """Whether a stream of this encoding takes the characters of `unicode()`."""
        try:
            _UNICODE.all().encode(encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    @classmethod
    def unicode(cls) -> Glyphs:
        """Box drawing, half cells."""
        return _UNICODE

    @classmethod
    def ascii(cls) -> Glyphs:
        """For streams that cannot write the others."""
        return _ASCII

    def icon(self, kind: Kind | None) -> str:
        """Icon or word of a kind of run; None is a span of unknown kind."""
        return self.icons.get(kind, self.icons[None])

    def all(self) -> str:
        """Every character of the set, to try an encoding with."""
        drawn = (
            self.branch,
            self.last,
            self.line,
            self.ellipsis,
            self.times,
            self.arrow,
            self.dot,
            self.halves,
        )
        return "".join((*drawn, self.done, self.failed, self.stopped, self.paused, *self.icons.values()))


_UNICODE: Final = Glyphs(
    branch="├ ",
    last="└ ",
    line="│ ",
    ellipsis="…",
    times="×",  # noqa: RUF001 (the sign is meant)
    arrow="→",
    dot="·",
    done="✓",
    failed="✕",
    stopped="⊘",
    paused="‖",
    icons={
        Kind.WORKFLOW: "◇",
        Kind.AGENT: "◆",
        Kind.MODEL: "✦",
        Kind.TOOL: "ƒ",
        Kind.RETRIEVER: "≡",
        Kind.RERANKER: "⇅",
        Kind.EMBEDDING: "∷",
        Kind.CHAIN: "○",
        Kind.PROMPT: "¶",
        Kind.PARSER: "≔",
        Kind.GUARDRAIL: "◈",
        Kind.EVALUATOR: "±",
        Kind.REQUEST: "⇒",
        Kind.STAGE: "▹",
        Kind.PRODUCER: "↗",
        Kind.CONSUMER: "↘",
        None: "·",
    },
    halves=" ╶╺╴─╼╸╾━",
)
_ASCII: Final = Glyphs(
    branch="|-",
    last="`-",
    line="| ",
    ellipsis="~",
    times="x",
    arrow="->",
    dot="|",
    done="ok",
    failed="FAIL",
    stopped="STOP",
    paused="WAIT",
    icons={
        Kind.WORKFLOW: "flow ",
        Kind.AGENT: "agent",
        Kind.MODEL: "model",
        Kind.TOOL: "tool ",
        Kind.RETRIEVER: "find ",
        Kind.RERANKER: "rank ",
        Kind.EMBEDDING: "embed",
        Kind.CHAIN: "chain",
        Kind.PROMPT: "prompt",
        Kind.PARSER: "parse",
        Kind.GUARDRAIL: "guard",
        Kind.EVALUATOR: "eval ",
        Kind.REQUEST: "http ",
        Kind.STAGE: "stage",
        Kind.PRODUCER: "send ",
        Kind.CONSUMER: "work ",
        None: "span ",
    },
    halves=" -=--====",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column: a cell per row, or for the bar one function per row that draws it in a given number of cells."""

    name: str
    cells: Sequence[Sequence[Segment]]
    right: bool = False
    draw: Sequence[Callable[[int], list[Segment]]] = field(default=())
    gives_way: int = 0  # index of the segment that is cut where the cell is too wide
    sheds: bool = False  # whether whole segments go from the end before one is cut
    stays: bool = False  # whether the column outlasts all others

    @property
    def width(self) -> int:
        """Columns of the terminal that the widest cell takes."""
        return max((segments_width(cell) for cell in self.cells), default=0)


def segments_width(segments: Sequence[Segment]) -> int:
    """Terminal columns of coloured text."""
    return sum(display_width(text) for text, _ in segments)


def paint(segment: Segment, color: bool) -> str:
    """Text with its ANSI colour, or as it is."""
    text, code = segment
    return f"\x1b[{code}m{text}\x1b[0m" if color and code and text.strip() else text


def shows_colours(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether the stream is a terminal that shows colours, and nobody asked for none."""
    if environ.get("NO_COLOR") or environ.get("TERM") == "dumb" or not stream.isatty():
        return False
    # The old Windows console shows escape sequences as text; newer terminals set one of these.
    return os.name != "nt" or any(environ.get(name) for name in ("WT_SESSION", "TERM", "ANSICON"))


def fit_columns(columns: Sequence[Column], width: int, glyphs: Glyphs) -> list[list[Segment]]:
    """Lay the columns side by side, dropping those that do not fit.

    Columns go from right to left, except that the duration outlasts the model and errors outlast all: what failed is
    what one looks for. The name always stays.
    """
    kept = [column for column in columns if column.draw or column.width]
    widths = {column.name: _least(column) for column in kept}
    stays = {column.name for column in kept if column.stays}
    for name in _DROPPED_FIRST:
        if _taken(widths) > width and name not in stays:
            widths.pop(name, None)
    if _taken(widths) > width:
        widths["name"] = max(width - _taken(widths) + widths["name"], width // 2)
    if _taken(widths) > width:
        widths = {"name": width}
    kept = [column for column in kept if column.name in widths]
    wanted = {column.name: width if column.draw else column.width for column in kept}
    for name, at_most in _GROWTH:
        if name in widths:
            more = min(width - _taken(widths), min(wanted[name], at_most) - widths[name])
            widths[name] += max(more, 0)
    return [_line(kept, widths, row, glyphs) for row in range(len(columns[0].cells))]


def _least(column: Column) -> int:
    least = _NARROWEST.get(column.name, column.width)
    return least if column.draw else min(column.width, least)


def _taken(widths: dict[str, int]) -> int:
    return sum(widths.values()) + len(_GAP) * (len(widths) - 1)


def _line(columns: Sequence[Column], widths: dict[str, int], row: int, glyphs: Glyphs) -> list[Segment]:
    line: list[Segment] = []
    for column in columns:
        width = widths[column.name]
        cell = column.draw[row](width) if column.draw else _cut_cell(column, row, width, glyphs)
        padding = (" " * (width - segments_width(cell)), "")
        gap = [(_GAP, "")] if line else []
        line += [*gap, padding, *cell] if column.right else [*gap, *cell, padding]
    return line


def _cut_cell(column: Column, row: int, width: int, glyphs: Glyphs) -> list[Segment]:
    cell = list(column.cells[row])
    while column.sheds and len(cell) > 1 and segments_width(cell) > width:
        cell.pop()
    excess = segments_width(cell) - width
    if excess > 0:
        text, colour = cell[column.gives_way]
        cell[column.gives_way] = (cut(text, display_width(text) - excess, ellipsis=glyphs.ellipsis), colour)
    while (
        segments_width(cell) > width
    ):  # nothing left of the name: the tree lines are too deep for so few columns
        cell.pop()
    return cell


def bar(spells: Sequence[Spell], wall_ns: int, cells: int, *, colour: str, glyphs: Glyphs) -> list[Segment]:
    """Draw runs on the trace's time axis in half cells; what came before the first chunk is thinner and dimmer.

    Args:
        spells: The runs to draw in this row.
        wall_ns: Length of the axis; 0 where no time passed.
        cells: Terminal columns to fill.
        colour: ANSI code of the busy part.
        glyphs: Characters to draw with.
    """
    halves = [0] * (2 * cells)
    scale = len(halves) / wall_ns if wall_ns else 0.0
    for start_ns, end_ns, first_chunk_ns in spells:
        start = min(int(start_ns * scale), len(halves) - 1)
        end = max(min(round(end_ns * scale), len(halves)), start + 1)
        first = min(round((start_ns + first_chunk_ns) * scale), end - 1) if first_chunk_ns else start
        halves[start:first] = [max(half, 1) for half in halves[start:first]]
        first = max(first, start)
        halves[first:end] = [2] * (end - first)
    drawn = [glyphs.halves[3 * left + right] for left, right in zip(halves[::2], halves[1::2], strict=True)]
    busy = [max(pair) == 2 for pair in zip(halves[::2], halves[1::2], strict=True)]
    return [
        ("".join(character for character, _ in cells_of_one_colour), colour if is_busy else _DIM)
        for is_busy, cells_of_one_colour in groupby(zip(drawn, busy, strict=True), key=itemgetter(1))
    ]
