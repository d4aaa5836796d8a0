"""The tree of one trace as text for a terminal: what ran, for how long, on how many tokens, and what failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Final

from aiobs_core._operation import Kind, RunStatus
from aiobs_core.export._facts import (
    Facts,
    busy_ns,
    costs_text,
    failure_count,
    known_sum,
    outermost_calls,
    passing_on,
    tokens_text,
    unique_facts,
    walk,
)
from aiobs_core.export._layout import Column, Glyphs, Segment, bar, fit_columns, paint, segments_width
from aiobs_core.export._text import count_text, counted, cut, display_width, duration_text, short_trace_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_FOLD_FROM: Final = 3  # two equal calls are still told apart at a glance
_MAX_FAILED_BELOW: Final = 20
_NARROWEST: Final = 20
_NARROW_NAME: Final = 8  # of the root, in a line of totals
_REQUEST_WIDTH: Final = 24
_ENDING_WIDTH: Final = 16
_COLOUR_OF_KIND: Final = {
    Kind.REQUEST: "35",
    Kind.CONSUMER: "35",
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
class _Tree:
    facts: Sequence[Facts]  # of all spans
    root: _Node
    hidden: list[Facts]

    @property
    def tops(self) -> list[Facts]:
        return [node.facts for node in self.root.children if node.facts]

    @property
    def trace_id(self) -> str:
        context = self.facts[0].span.context
        return format(context.trace_id if context else 0, "032x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Headline:
    """A trace in a list of many.

    Attributes:
        name: What ran, as the first row of its tree says it.
        failure_count: How many things went wrong, as the last line of its tree says it.
        ending: How its root ended: the mark of the tree's first row, with a word where it was no success.
    """

    name: str
    failure_count: int
    ending: str


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

    Plumbing (inner chains, prompts, parsers) of a framework is left out, its children stand under the nearest ancestor
    shown. It gets a row where it tells more than those below: an error that arose in it, another end than success that
    none of them had, a repeated attempt, a node of a graph with no row below it. Names are neutralised: no control character reaches the terminal. Columns that do not fit are
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
    grown = _grow(facts)
    rows = list(_rows(grown.root, glyphs, deepest=max(width // 6, 2)))
    if max_rows is not None:
        failed_below = [row for row in rows[max_rows:] if row.spans[0].failed]
        rows = rows[:max_rows] + failed_below[:_MAX_FAILED_BELOW]
    drawn = sum(len(row.spans) for row in rows)
    lines = fit_columns(_columns(rows, facts, glyphs), width, glyphs)
    total = _totals(grown, drawn=drawn, width=width, glyphs=glyphs)
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
    line = _totals(_grow(facts), width=width, glyphs=glyphs, with_name=True)
    return "".join(paint(segment, color) for segment in line)


def headline(spans: Sequence[ReadableSpan], *, encoding: str) -> Headline | None:
    """What a list of traces says about one; None for no spans. The arguments are those of `render_tree`."""
    facts = unique_facts(spans, encoding)
    if not facts:
        return None
    top, _ = next(walk(facts))
    name = f"{top.name} {top.model}" if top.calls_a_model and top.model else top.name
    glyphs = Glyphs.unicode() if Glyphs.can_be_written(encoding) else Glyphs.ascii()
    ending = _mark(top, glyphs)
    if not top.ended_well:
        ending += " " + ("error" if top.failed else cut(top.note, _ENDING_WIDTH, ellipsis=glyphs.ellipsis))
    return Headline(name=name, failure_count=failure_count(facts), ending=ending)


# --- the tree ---------------------------------------------------------------------------------------------------
def _grow(facts: Sequence[Facts]) -> _Tree:
    """Build the tree of what is shown."""
    visits = list(walk(facts))
    shown = _shown(visits, passing_on(facts))
    tree = _Tree(facts=facts, root=_Node(facts=None), hidden=[])
    places: dict[int | None, _Node] = {None: tree.root}
    for item, above in visits:
        node = places[above]
        if item.span_id in shown:
            parent, node = node, _Node(facts=item)
            parent.children.append(node)
        else:
            tree.hidden.append(item)
        places[item.span_id] = node
    return tree


def _shown(visits: Sequence[tuple[Facts, int | None]], passing: set[int]) -> set[int]:
    """Ids of the spans that get a row, decided from the leaves up."""
    shown: set[int] = set()
    with_rows_below: set[int] = set()
    ends_below: dict[int, set[str]] = {}  # how rows below a span ended, errors and good ends left out
    for item, above in reversed(visits):
        ends = ends_below.pop(item.span_id, set())
        is_leaf = item.span_id not in with_rows_below
        if above is None or _deserves_a_row(item, ends, passing) or (item.is_graph_node and is_leaf):
            shown.add(item.span_id)
            if not item.failed and not item.ended_well:
                ends.add(item.note)
        if above is not None and (not is_leaf or item.span_id in shown):
            with_rows_below.add(above)
        if above is not None and ends:
            ends_below[above] = ends_below[above] | ends if above in ends_below else ends
    return shown


def _deserves_a_row(item: Facts, ends_below: set[str], passing: set[int]) -> bool:
    if not item.is_plumbing or item.attempt is not None:
        return True
    if item.failed:
        return item.span_id not in passing
    return not item.ended_well and item.note not in ends_below


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
        Column(
            name="tokens", cells=[[(tokens_text(row.spans, glyphs.arrow), "")] for row in rows], right=True
        ),
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
    mark = "" if facts.ended_well else " " + _mark(facts, glyphs)
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
    return _RED if facts.failed else _DIM if facts.ended_well else _YELLOW


def _mark(facts: Facts, glyphs: Glyphs) -> str:
    if facts.failed:
        return glyphs.failed
    if facts.note == RunStatus.INTERRUPTED.value:
        return glyphs.paused
    return glyphs.done if facts.ended_well else glyphs.stopped


def _remarks(row: _Row) -> list[Segment]:
    facts = row.spans[0]
    cached = known_sum(item.cached_tokens for item in row.spans)
    told = [(facts.note, _note_colour(facts))] if facts.note else []
    if facts.attempt is not None:
        told.append((f"attempt {count_text(facts.attempt)}", _YELLOW))
    if facts.resume_wait_ns is not None:
        told.append((f"resumed after {duration_text(facts.resume_wait_ns)}", _YELLOW))
    if cached:
        told.append((f"{count_text(cached)} cached", _DIM))
    if cost := costs_text(row.spans):
        told.append((cost, _DIM))
    if facts.first_chunk_ns and len(row.spans) == 1:
        told.append((f"first {duration_text(facts.first_chunk_ns)}", _DIM))
    return [(f"  {text}" if position else text, colour) for position, (text, colour) in enumerate(told)]


def _duration(spans: Sequence[Facts]) -> str:
    return duration_text(busy_ns(spans)) if all(item.span.end_time for item in spans) else ""


# --- totals -----------------------------------------------------------------------------------------------------
def _totals(
    tree: _Tree, *, drawn: int | None = None, width: int, glyphs: Glyphs, with_name: bool = False
) -> list[Segment]:
    tops = tree.tops
    first = next((top for top in tops if top.failed), tops[0])
    mark = (_mark(first, glyphs), _GREEN if first.ended_well else _note_colour(first))
    parts = _total_parts(tree, drawn=drawn, glyphs=glyphs)
    # The least telling part goes first where the line is too narrow; mark and wall time stay.
    taken = len(mark[0]) + 1 + (_NARROW_NAME + 2 if with_name else 0)
    whole_name = display_width(tops[0].name)  # not cut for the id
    for dispensable in ("trace", "share", "hidden", "spans", "tokens", "cost", "request", "failed"):
        more = max(whole_name - _NARROW_NAME, 0) if dispensable == "trace" and with_name else 0
        if taken + more + segments_width(_joined(parts, glyphs)) > width:
            parts.pop(dispensable, None)
    line = [mark, (" ", "")]
    rest = _joined(parts, glyphs)
    if with_name:
        room = width - taken - segments_width(rest) + _NARROW_NAME
        line.append((cut(tops[0].name, max(room, 4), ellipsis=glyphs.ellipsis) + "  ", _BOLD))
    return line + rest


def _joined(parts: dict[str, Segment], glyphs: Glyphs) -> list[Segment]:
    joined: list[Segment] = []
    for part, segment in parts.items():
        if joined:
            joined.append((", " if part == "hidden" else f" {glyphs.dot} ", _DIM))
        joined.append(segment)
    return joined


def _total_parts(tree: _Tree, *, drawn: int | None, glyphs: Glyphs) -> dict[str, Segment]:
    facts = tree.facts
    models = outermost_calls(facts)
    wall_ns = max(item.end_ns for item in facts) - min(item.start_ns for item in facts)
    parts: dict[str, Segment] = {}
    if any(item.span.end_time for item in facts):
        parts["wall"] = (duration_text(wall_ns), "")
    parts |= _span_counts(tree, drawn)
    given, got = (
        known_sum(item.input_tokens for item in models),
        known_sum(item.output_tokens for item in models),
    )
    known = [f"{count_text(n)} {word}" for n, word in ((given, "in"), (got, "out")) if n is not None]
    if known:
        parts["tokens"] = (" / ".join(known), "")
    if cost := costs_text(facts):
        parts["cost"] = (cost, "")
    generating = [item for item in models if item.kind is Kind.MODEL]
    if generating and wall_ns:
        parts["share"] = (f"model {100 * busy_ns(generating) / wall_ns:.0f}% of wall", "")
    if failures := failure_count(facts):
        parts["failed"] = (f"{failures} failed", _RED)
    # Runs of one agent that go on at once differ in nothing else.
    if request := next((item.request for item in facts if item.request), ""):
        parts["request"] = (f"request {cut(request, _REQUEST_WIDTH, ellipsis=glyphs.ellipsis)}", "")
    parts["trace"] = (f"trace {short_trace_id(tree.trace_id)}", _DIM)
    return parts


def _span_counts(tree: _Tree, drawn: int | None) -> dict[str, Segment]:
    """How many spans there are, drawn and left out; of a line that draws none just how many."""
    if drawn is None:
        return {"spans": (counted(len(tree.facts), "span"), "")}
    shown, hidden = len(tree.facts) - len(tree.hidden), len(tree.hidden)
    spans = counted(shown, "span")
    counts: dict[str, Segment] = {"spans": (f"showing {drawn} of {spans}" if drawn < shown else spans, "")}
    kinds = {item.kind.value for item in tree.hidden if item.kind}
    if hidden:
        noun = kinds.pop() if len(kinds) == 1 else "plumbing run"
        counts["hidden"] = (f"{counted(hidden, noun)} hidden", _DIM)
    return counts
