"""The tree of one trace as text for a terminal: what ran, for how long, on how many tokens, and what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final

from aiobs_core._operation import Kind, RunStatus
from aiobs_core.export._facts import Facts, is_local_root, unique_facts
from aiobs_core.export._layout import Column, Glyphs, Segment, bar, fit_columns, paint
from aiobs_core.export._text import count_text, cut, duration_text

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_PLUMBING: Final = {Kind.CHAIN, Kind.PROMPT, Kind.PARSER}
_CALLS_A_MODEL: Final = {Kind.MODEL, Kind.EMBEDDING}
_FOLD_FROM: Final = 3  # two equal calls are still told apart at a glance
_MAX_FAILED_BELOW: Final = 20
_NARROWEST: Final = 20
_NARROW_NAME: Final = 8  # of the root, in a line of totals
_COLOUR_OF_KIND: Final = {
    Kind.WORKFLOW: "35",
    Kind.AGENT: "35",
    Kind.MODEL: "36",
    Kind.TOOL: "33",
    Kind.RETRIEVER: "34",
    Kind.RERANKER: "34",
    Kind.EMBEDDING: "34",
    Kind.GUARDRAIL: "32",
    Kind.EVALUATOR: "32",
}
_DIM, _BOLD, _RED, _GREEN, _YELLOW = "2", "1", "31", "32", "33"


@dataclass(slots=True, kw_only=True)
class _Node:
    facts: Facts | None  # None: the invisible parent of all top-level spans
    children: list[_Node] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    prefix: str
    spans: Sequence[Facts]  # more than one: equal siblings, folded
    is_root: bool


def render_tree(
    spans: Sequence[ReadableSpan],
    *,
    width: int,
    color: bool,
    ascii_only: bool = False,
    encoding: str | None = None,
    max_rows: int | None = None,
) -> str:
    """Draw the spans of one trace as a tree with a line of totals, without a final newline.

    Plumbing (inner chains, prompts, parsers) that did not fail is left out; its children stand under the nearest
    ancestor shown. Names are neutralised: no control character reaches the terminal. Columns that do not fit are
    dropped from right to left, errors last of all.

    Args:
        spans: Ended spans of one trace, in any order; parents may be missing.
        width: Columns of the terminal; at least 20 are used.
        color: Whether to use ANSI colours.
        ascii_only: Draw with ASCII characters only.
        encoding: Python codec that names must survive; None is ASCII if `ascii_only`, else UTF-8.
        max_rows: Rows to draw from the top; of those below, the first that failed are drawn as well.
    """
    width = max(width, _NARROWEST)
    glyphs = Glyphs.ascii() if ascii_only else Glyphs.unicode()
    facts = unique_facts(spans, encoding or ("ascii" if ascii_only else "utf-8"))
    if not facts:
        return ""
    root = _grow(facts)
    rows = list(_rows(root, glyphs, deepest=max(width // 6, 2)))
    if max_rows is not None:
        failed_below = [row for row in rows[max_rows:] if row.spans[0].failed]
        rows = rows[:max_rows] + failed_below[:_MAX_FAILED_BELOW]
    shown = sum(len(row.spans) for row in rows)
    lines = fit_columns(_columns(rows, facts, glyphs), width, glyphs)
    total = _totals(root, facts, shown=shown, width=width, glyphs=glyphs)
    return "\n".join("".join(paint(segment, color) for segment in line).rstrip() for line in [*lines, total])


def render_summary(
    spans: Sequence[ReadableSpan],
    *,
    width: int,
    color: bool,
    ascii_only: bool = False,
    encoding: str | None = None,
) -> str:
    """Say in one line what one trace was; the arguments are those of `render_tree`."""
    width = max(width, _NARROWEST)
    glyphs = Glyphs.ascii() if ascii_only else Glyphs.unicode()
    facts = unique_facts(spans, encoding or ("ascii" if ascii_only else "utf-8"))
    if not facts:
        return ""
    root = _grow(facts)
    return "".join(
        paint(segment, color)
        for segment in _totals(root, facts, shown=len(facts), width=width, glyphs=glyphs, with_name=True)
    )


# --- the tree ---------------------------------------------------------------------------------------------------
def _grow(facts: Sequence[Facts]) -> _Node:
    """Build the tree of what is shown; iterative, since traces may be thousands of spans deep."""
    children: dict[int | None, list[Facts]] = {}
    known = {item.span_id for item in facts}
    for item in facts:
        parent_id = item.parent_id if item.parent_id in known else None
        children.setdefault(parent_id, []).append(item)
    root = _Node(facts=None)
    placed: set[int] = set()
    # Real roots first, then spans whose parent is missing, then whatever is left: loops of parents.
    tops = sorted(children.get(None, []), key=lambda item: not is_local_root(item.span))
    for top in [*tops, *facts]:
        stack = [(top, root)]
        while stack:
            item, parent = stack.pop()
            if item.span_id in placed:
                continue
            placed.add(item.span_id)
            node = parent
            if parent is root or item.failed or item.kind not in _PLUMBING:
                node = _Node(facts=item)
                parent.children.append(node)
            stack.extend((child, node) for child in reversed(children.get(item.span_id, [])))
    return root


def _rows(root: _Node, glyphs: Glyphs, *, deepest: int) -> Iterator[_Row]:
    tops = root.children
    stack = [([top], "", "", top is tops[0]) for top in reversed(tops)]
    while stack:
        nodes, prefix, indent, is_root = stack.pop()
        shown_prefix = prefix if len(prefix) <= 2 * deepest else glyphs.ellipsis + prefix[-2 * deepest :]
        yield _Row(prefix=shown_prefix, spans=[node.facts for node in nodes if node.facts], is_root=is_root)
        groups = list(_folded(nodes[0].children))
        for position, group in reversed(list(enumerate(groups))):
            last = position == len(groups) - 1
            branch, line = (glyphs.last, "  ") if last else (glyphs.branch, glyphs.line)
            # Only its end is shown of an indent that is too deep.
            kept = indent[-2 * deepest - 2 :]
            stack.append((group, kept + branch, kept + line, False))


def _folded(children: list[_Node]) -> Iterator[list[_Node]]:
    """Children in order of start, runs of equal ones without children of their own as one group."""
    # Children of hidden plumbing were appended after later siblings.
    ordered = sorted(children, key=lambda node: node.facts.order if node.facts else (0, 0, 0))
    for identity, run in groupby(ordered, key=_fold_key):
        nodes = list(run)
        if identity is not None and len(nodes) >= _FOLD_FROM:
            yield nodes
        else:
            yield from ([node] for node in nodes)


def _fold_key(node: _Node) -> tuple[object, ...] | None:
    return None if node.children or node.facts is None else node.facts.identity


# --- columns ----------------------------------------------------------------------------------------------------
def _columns(rows: Sequence[_Row], facts: Sequence[Facts], glyphs: Glyphs) -> list[Column]:
    start_ns = min(item.start_ns for item in facts)
    wall_ns = max(item.end_ns for item in facts) - start_ns

    def bar_of(row: _Row) -> Callable[[int], list[Segment]]:
        spells = [
            (item.start_ns - start_ns, item.end_ns - start_ns, item.first_chunk_ns or 0) for item in row.spans
        ]
        colour = _RED if row.spans[0].failed else _colour(row.spans[0])
        return partial(bar, spells, wall_ns, colour=colour, glyphs=glyphs)

    return [
        Column(name="name", cells=[_name_cell(row, glyphs) for row in rows], gives_way=2),
        Column(name="model", cells=[[(row.spans[0].model, _DIM)] for row in rows]),
        Column(name="duration", cells=[[(_duration(row.spans), "")] for row in rows], right=True),
        Column(name="bar", cells=[[] for _ in rows], draw=[bar_of(row) for row in rows]),
        Column(name="tokens", cells=[[(_tokens(row.spans, glyphs), "")] for row in rows], right=True),
        Column(
            name="remarks",
            cells=[_remarks(row) for row in rows],
            sheds=True,
            stays=any(item.note for item in facts),
        ),
    ]


def _name_cell(row: _Row, glyphs: Glyphs) -> list[Segment]:
    facts = row.spans[0]
    times = f" {glyphs.times}{len(row.spans)}" if len(row.spans) > 1 else ""
    mark = "" if facts.note in ("", "cache hit") else " " + _mark(facts, glyphs)
    return [
        (row.prefix, _DIM),
        (glyphs.icon(facts.kind) + " ", _colour(facts)),
        (facts.name, _RED if facts.failed else _BOLD if row.is_root else ""),
        (times, _DIM),
        (mark, _note_colour(facts)),
    ]


def _colour(facts: Facts) -> str:
    return _COLOUR_OF_KIND.get(facts.kind, _DIM) if facts.kind else _DIM


def _note_colour(facts: Facts) -> str:
    return _RED if facts.failed else _DIM if facts.note == "cache hit" else _YELLOW


def _mark(facts: Facts, glyphs: Glyphs) -> str:
    if facts.failed:
        return glyphs.failed
    if facts.note == RunStatus.INTERRUPTED.value:
        return glyphs.paused
    return glyphs.done if facts.note in ("", "cache hit") else glyphs.stopped


def _tokens(spans: Sequence[Facts], glyphs: Glyphs) -> str:
    given, got = _sum(item.input_tokens for item in spans), _sum(item.output_tokens for item in spans)
    about = "~" if any(item.estimated for item in spans) else ""
    if given is None or got is None:
        known = [
            f"{about}{count_text(n)} {word}" for n, word in ((given, "in"), (got, "out")) if n is not None
        ]
        return "".join(known)
    return f"{about}{count_text(given)}{glyphs.arrow}{count_text(got)}"


def _remarks(row: _Row) -> list[Segment]:
    facts = row.spans[0]
    cached = _sum(item.cached_tokens for item in row.spans)
    remarks = [
        (facts.note, _note_colour(facts)),
        (f"{count_text(cached)} cached" if cached else "", _DIM),
        (
            f"first {duration_text(facts.first_chunk_ns)}"
            if facts.first_chunk_ns and len(row.spans) == 1
            else "",
            _DIM,
        ),
    ]
    told = [remark for remark in remarks if remark[0]]
    return [(f"  {text}" if position else text, colour) for position, (text, colour) in enumerate(told)]


def _sum(counts: Iterable[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _duration(spans: Sequence[Facts]) -> str:
    return duration_text(_busy_ns(spans)) if all(item.span.end_time for item in spans) else ""


def _busy_ns(spans: Iterable[Facts]) -> int:
    """Nanoseconds in which at least one of the spans ran."""
    busy_ns = until_ns = 0
    for start_ns, end_ns in sorted((item.start_ns, item.end_ns) for item in spans):
        busy_ns += max(end_ns - max(start_ns, until_ns), 0)
        until_ns = max(until_ns, end_ns)
    return busy_ns


# --- totals -----------------------------------------------------------------------------------------------------
def _totals(
    root: _Node, facts: Sequence[Facts], *, shown: int, width: int, glyphs: Glyphs, with_name: bool = False
) -> list[Segment]:
    tops = [node.facts for node in root.children if node.facts]
    first = next((top for top in tops if top.failed), tops[0])
    mark = (_mark(first, glyphs), _GREEN if not first.note else _note_colour(first))
    wall_ns = max(item.end_ns for item in facts) - min(item.start_ns for item in facts)
    parts = _total_parts(facts, shown=shown, wall_ns=wall_ns)
    # The least telling part goes first where the line is too narrow; mark and wall time stay.
    taken = len(mark[0]) + 1 + (_NARROW_NAME + 2 if with_name else 0) - 3
    for dispensable in ("share", "spans", "tokens", "failed"):
        if taken + sum(len(text) + 3 for text, _ in parts.values()) > width:
            parts.pop(dispensable, None)
    room = width - taken - sum(len(text) + 3 for text, _ in parts.values()) + _NARROW_NAME
    line = [mark, (" ", "")]
    if with_name:
        line.append((cut(tops[0].name, max(room, 4), ellipsis=glyphs.ellipsis) + "  ", _BOLD))
    for position, (text, colour) in enumerate(parts.values()):
        line.append((f" {glyphs.dot} " if position else "", _DIM))
        line.append((text, colour))
    return line


def _total_parts(facts: Sequence[Facts], *, shown: int, wall_ns: int) -> dict[str, Segment]:
    models = _outermost_calls(facts)
    given, got = _sum(item.input_tokens for item in models), _sum(item.output_tokens for item in models)
    failures = sum(item.failed for item in facts)
    plural = "" if len(facts) == 1 else "s"
    parts = {"wall": (duration_text(wall_ns), "")}
    if shown < len(facts):
        parts["spans"] = (f"showing {shown} of {len(facts)} spans", "")
    else:
        parts["spans"] = (f"{len(facts)} span{plural}", "")
    known = [f"{count_text(n)} {word}" for n, word in ((given, "in"), (got, "out")) if n is not None]
    if known:
        parts["tokens"] = (" / ".join(known), "")
    generating = [item for item in models if item.kind is Kind.MODEL]
    if generating and wall_ns:
        parts["share"] = (f"model {100 * _busy_ns(generating) / wall_ns:.0f}% of wall", "")
    if failures:
        parts["failed"] = (f"{failures} failed", _RED)
    return parts


def _outermost_calls(facts: Sequence[Facts]) -> list[Facts]:
    """Model and embedding calls, without those inside another one: a client's span repeats its framework's tokens."""
    calls = {item.span_id for item in facts if item.kind in _CALLS_A_MODEL}
    parents = {item.span_id: item.parent_id for item in facts}
    outermost = []
    inside: dict[int, bool] = {}
    for item in facts:
        path: dict[int, bool] = {}
        span_id = parents.get(item.span_id)
        while span_id is not None and span_id not in inside and span_id not in calls and span_id not in path:
            path[span_id] = True
            span_id = parents.get(span_id)
        found = span_id is not None and (span_id in calls or inside.get(span_id, False))
        inside.update(dict.fromkeys(path, found))
        if item.span_id in calls and not found:
            outermost.append(item)
    return outermost
