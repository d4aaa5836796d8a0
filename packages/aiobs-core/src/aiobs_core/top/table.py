"""The table of `aiobs top`, as cells; plain text, or with rich where that is installed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from aiobs_core.export._text import count_text, cut, display_width, duration_text, money_text, neutralise
from aiobs_core.top.sources import TOTAL, Reading, Row

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS: Final = ("MODEL", "CALLS", "/S", "ERRORS", "P50", "P95", "IN TOK/S", "OUT TOK/S", "$/H")
_UNKNOWN: Final = "-"
_MAX_NAME: Final = 40


def ordered(rows: Sequence[Row], sort: str) -> list[Row]:
    """Requests first, then the models by what is asked for, the most first."""
    keys: dict[str, Callable[[Row], Any]] = {
        "calls": lambda row: -row.calls,
        "errors": lambda row: -row.errors,
        "p95": lambda row: -(row.p95_s or 0),
        "tokens": lambda row: -((row.input_tokens or 0) + (row.output_tokens or 0)),
        "cost": lambda row: -(row.cost_usd or 0),
        "name": lambda row: row.name,
    }
    return sorted(rows, key=lambda row: (row.name != TOTAL, keys[sort](row)))


def cells(row: Row, window_s: float, encoding: str) -> tuple[str, ...]:
    """One row as text; what is not known is `-`, never 0."""
    return (
        cut(neutralise(row.name, encoding=encoding), _MAX_NAME, ellipsis="..."),
        count_text(round(row.calls)),
        _rate(row.calls, window_s),
        f"{100 * row.errors / row.calls:.1f}%" if row.calls else _UNKNOWN,
        _duration(row.p50_s),
        _duration(row.p95_s),
        _rate(row.input_tokens, window_s),
        _rate(row.output_tokens, window_s),
        _UNKNOWN if row.cost_usd is None or not window_s else money_text(row.cost_usd * 3_600 / window_s),
    )


def plain(reading: Reading, *, sort: str, encoding: str) -> str:
    """The table as lines of text."""
    lines = [HEADINGS, *(cells(row, reading.window_s, encoding) for row in ordered(reading.rows, sort))]
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [
                line[0] + " " * (widths[0] - display_width(line[0])),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            ]
        )
        for line in lines
    )


def rich_table(reading: Reading, *, sort: str, encoding: str) -> Table:
    """The table for a terminal with rich."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for at, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if at else "left", no_wrap=True)
    for row in ordered(reading.rows, sort):
        told = [escape(cell) for cell in cells(row, reading.window_s, encoding)]
        if row.errors:
            told[3] = f"[red]{told[3]}[/red]"
        table.add_row(*told, style="bold" if row.name == TOTAL else "")
    return table


def _rate(amount: float | None, window_s: float) -> str:
    if amount is None or not window_s:
        return _UNKNOWN
    rate = amount / window_s
    return f"{rate:.2f}" if rate < 100 else count_text(round(rate))


def _duration(duration_s: float | None) -> str:
    return _UNKNOWN if duration_s is None else duration_text(round(duration_s * 1e9))
