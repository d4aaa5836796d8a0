"""Gates and plain-text tables, the same for both modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One measured number that has to stay at or below its limit; `goal` is where it should be, if not there yet."""

    name: str
    value: float
    limit: float
    unit: str
    goal: float | None = None

    @property
    def is_met(self) -> bool:
        return self.value <= self.limit


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table with its first column to the left and all others to the right."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]

    def drawn(line: Sequence[str]) -> str:
        first = line[0].ljust(widths[0])
        return "  ".join(
            (first, *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)))
        )

    rule = "  ".join("-" * width for width in widths)
    return "\n".join((title, drawn(lines[0]), rule, *(drawn(line).rstrip() for line in lines[1:]), ""))


def gate_table(gates: Sequence[Gate]) -> str:
    """All gates with what was measured and whether it was met."""
    rows = [
        (
            gate.name,
            f"{gate.value:.3g}",
            f"{gate.limit:g}",
            "" if gate.goal is None else f"{gate.goal:g}",
            gate.unit,
            "ok" if gate.is_met else "MISSED",
        )
        for gate in gates
    ]
    return table("Gates", ("", "measured", "at most", "goal", "", ""), rows)
