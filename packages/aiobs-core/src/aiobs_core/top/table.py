"""The table of `aiobs top`: plain text, or with the colours of rich where that is installed."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiobs_core.export._text import (
    count_text,
    counted,
    cut,
    display_width,
    duration_text,
    money_text,
    neutralise,
)
from aiobs_core.top.sources import Reading, Row

HEADINGS: Final = ("MODEL", "CALLS", "/S", "ERRORS", "P50", "P95", "IN TOK/S", "OUT TOK/S", "$/H")
SORTS: Final[dict[str, Callable[[Row], Any]]] = {
    "calls": lambda row: -row.calls,
    "errors": lambda row: -row.errors,
    "p50": lambda row: -(row.p50_s or 0),
    "p95": lambda row: -(row.p95_s or 0),
    "tokens": lambda row: -((row.input_tokens or 0) + (row.output_tokens or 0)),
    "cost": lambda row: -(row.cost_usd or 0),
    "name": lambda row: row.name,
}
"""The columns that can be sorted by, the most first; what is not known comes last."""
_UNKNOWN: Final = "-"
_MAX_NAME: Final = 40
_LEAST_NAME: Final = 12
_GAP: Final = "  "
_ERRORS_AT: Final = HEADINGS.index("ERRORS")


def ordered(rows: Sequence[Row], sort: str) -> list[Row]:
    """Requests first, then the models."""
    return [*rows[:1], *sorted(rows[1:], key=SORTS[sort])]


def cells(row: Row, window_s: float, encoding: str) -> tuple[str, ...]:
    """One row as text; what is not known is `-`, never 0."""
    return (
        neutralise(row.name, encoding=encoding),
        count_text(round(row.calls)),
        _rate(row.calls, window_s),
        f"{100 * row.errors / row.calls:.1f}%" if row.calls else _UNKNOWN,
        _duration(row.p50_s),
        _duration(row.p95_s),
        _rate(row.input_tokens, window_s),
        _rate(row.output_tokens, window_s),
        _money(row, window_s),
    )


def lines_of(
    reading: Reading, *, sort: str, encoding: str, width: int | None = None, height: int | None = None
) -> list[tuple[str, ...]]:
    """The headings and the rows, in cells that are as wide as their column.

    Args:
        reading: What is shown.
        sort: One of `SORTS`.
        encoding: Of the stream that it goes to.
        width: The columns of the terminal, of which the names have what is left.
        height: Lines that there is room for; the models that come last stay away.
    """
    rows = ordered(reading.rows, sort)[: None if height is None else max(height - 1, 1)]
    lines = [HEADINGS, *(cells(row, reading.window_s, encoding) for row in rows)]
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    room = _MAX_NAME if width is None else width - sum(widths[1:]) - len(_GAP) * len(widths[1:])
    widths[0] = min(widths[0], max(_LEAST_NAME, min(room, _MAX_NAME)))
    return [
        (_left(name, widths[0]), *(cell.rjust(wide) for cell, wide in zip(numbers, widths[1:], strict=True)))
        for name, *numbers in lines
    ]


def plain(lines: Sequence[Sequence[str]], below: str, *, width: int | None = None) -> str:
    """The table as text, with a line below it."""
    text = [_GAP.join(line) for line in lines]
    if width is not None:
        text = [cut(line, width, ellipsis="") for line in text]
    return "\n".join([*text, "", below] if text else [below])


def coloured(lines: Sequence[Sequence[str]], below: str, *, width: int) -> str:
    """The same with colours.

    Raises:
        ImportError: If rich is not installed.
    """
    from rich.console import Console
    from rich.text import Text

    text = Text(no_wrap=True, overflow="crop")
    for at, line in enumerate(lines):
        style = ("dim", "bold")[at] if at < 2 else ""
        for column, cell in enumerate(line):
            fails = column == _ERRORS_AT and at and cell.strip() not in {_UNKNOWN, "0.0%"}
            text.append(_GAP if column else "", style=style)
            text.append(cell, style=f"{style} red" if fails else style)
        text.append("\n")
    text.append(f"\n{below}" if lines else below, style="dim")
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=width).print(text, end="", highlight=False)
    return out.getvalue()


def remarks(reading: Reading, *, hidden: int = 0) -> list[str]:
    """What one has to know of the numbers, of which `hidden` rows are not shown."""
    said = [f"Of the last {duration_text(round(reading.window_s * 1e9))}"]
    if hidden:
        said.append(counted(hidden, "more model"))
    if any(_is_partly_priced(row) for row in reading.rows):
        said.append("+: calls without a known price are not in it")
    return said


def _left(name: str, width: int) -> str:
    name = cut(name, width, ellipsis="...")
    return name + " " * (width - display_width(name))


def _rate(amount: float | None, window_s: float) -> str:
    if amount is None or not window_s:
        return _UNKNOWN
    rate = amount / window_s
    return f"{rate:.2f}" if rate < 100 else count_text(round(rate))


def _duration(duration_s: float | None) -> str:
    return _UNKNOWN if duration_s is None else duration_text(round(duration_s * 1e9))


def _money(row: Row, window_s: float) -> str:
    if row.cost_usd is None or not window_s or (row.unpriced_calls and not row.cost_usd):
        return _UNKNOWN
    return money_text(row.cost_usd * 3_600 / window_s) + "+" * _is_partly_priced(row)


def _is_partly_priced(row: Row) -> bool:
    return bool(row.cost_usd and row.unpriced_calls)
