# ruff: noqa: RUF001 (signs that look like letters are what is tested)
"""What the terminal shows of a trace, to the character, and when it shows anything."""

from __future__ import annotations

import io
import re
import sys
import textwrap
import time

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, Status, StatusCode

from aiobs_core._health import Health
from aiobs_core.export._text import count_text, display_width, duration_text, neutralise
from aiobs_core.export.console import ConsoleExporter
from aiobs_core.export.tree import headline, render_summary, render_tree

TRACE = 0xA1
ID = " · trace 000000000000"
RESOURCE = Resource({})
ATTRIBUTES = {
    "kind": "ai.agent.span.kind",
    "model": "ai.agent.model.name",
    "given": "ai.agent.usage.input_tokens",
    "got": "ai.agent.usage.output_tokens",
    "cached": "ai.agent.usage.cache_read_tokens",
    "source": "ai.agent.usage.source",
    "first": "ai.agent.time_to_first_chunk_s",
    "outcome": "ai.agent.outcome",
    "error": "error.type",
    "operation": "gen_ai.operation.name",
    "request": "ai.agent.request.id",
    "attempt": "ai.agent.retry.attempt",
    "resume_wait_s": "ai.agent.resume.wait_s",
}


class LocalRoot(ReadableSpan):
    is_local_root = True


def span(span_id, parent, name, start_s, end_s, *, trace=TRACE, remote=False, make=ReadableSpan, **facts):
    """A span; `facts` by the short names above, further attributes under `more`."""
    scope = InstrumentationScope(facts.pop("scope", "aiobs.langchain"))
    attributes = facts.pop("more", {}) | {ATTRIBUTES[key]: value for key, value in facts.items()}
    return make(
        name=name,
        context=SpanContext(trace, span_id, is_remote=False),
        parent=SpanContext(trace, parent, is_remote=remote) if parent else None,
        resource=RESOURCE,
        attributes=attributes,
        status=Status(StatusCode.ERROR if "error" in facts else StatusCode.UNSET),
        start_time=10**18 + int(start_s * 1e9),
        end_time=None if end_s is None else 10**18 + int(end_s * 1e9),
        instrumentation_scope=scope,
    )


def agent_run():
    """29 spans: an agent with model calls, parallel tools, a retriever, a failed tool, a sub-agent that streams."""
    embed = {"kind": "embedding", "model": "text-embedding-3-small", "operation": "embeddings"}
    chat = {"kind": "model", "operation": "chat"}
    tool = {"kind": "tool", "operation": "execute_tool"}
    agent = {"kind": "agent", "operation": "invoke_agent"}
    return [
        span(1, None, "invoke_agent support", 0, 11.87, **agent),
        span(2, 1, "RunnableSequence", 0.01, 1.4, kind="chain"),
        span(3, 2, "ChatPromptTemplate", 0.01, 0.012, kind="prompt"),
        span(4, 2, "chat gpt-4o-mini", 0.02, 1.34, model="gpt-4o-mini", given=1180, got=49, **chat),
        span(5, 2, "JsonOutputParser", 1.35, 1.351, kind="parser"),
        span(6, 1, "execute_tool search_orders", 1.45, 3.6, **tool),
        span(7, 6, "GET", 1.5, 3.5),
        span(8, 1, "execute_tool 재고_확인", 1.45, 2.2, **tool),
        span(9, 1, "execute_tool refund_policy", 1.46, 6.5, error="TimeoutError", **tool),
        span(10, 1, "retrieval handbook", 1.47, 1.9, kind="retriever", operation="retrieval"),
        span(11, 10, "embeddings text-embedding-3-small", 1.48, 1.6, given=12, **embed),
        span(12, 1, "chain", 6.6, 8, kind="chain"),
        span(13, 12, "chat gpt-4o", 6.6, 8, model="gpt-4o", given=5400, got=310, cached=4900, **chat),
        *(
            span(20 + n, 1, "embeddings text-embedding-3-small", 8 + n * 0.05, 8.04 + n * 0.05, given=100, **embed)
            for n in range(12)
        ),
        span(40, 1, "invoke_agent writer", 8.7, 11.8, **agent),
        span(41, 40, "chat claude-sonnet-4-5", 8.75, 11.7, model="claude-sonnet-4-5", given=6900, got=812,
             cached=5400, first=0.62, **chat),
        span(42, 40, "guard", 11.71, 11.74, kind="guardrail"),
        span(43, 40, "chat claude-haiku", 10, 10.5, model="claude-haiku", outcome="cancelled", **chat),
    ]  # fmt: skip


def tree(spans, width=110, **options):
    """The tree without the trace's id, which ends its last line where there is room."""
    return render_tree(spans, width=width, color=False, **options).removesuffix(ID)


def expected(text):
    return textwrap.dedent(text).strip("\n")


# --- trees --------------------------------------------------------------------------------------------------------
def test_a_whole_agent_run():
    assert tree(agent_run()) == expected("""
    ◆ support                                    11.87s  ━━━━━━━━━━━━━━━━━━━━━
    ├ ✦ chat             gpt-4o-mini              1.32s  ━━╸                     1.2k→49
    ├ ƒ search_orders                             2.15s    ╺━━━╸
    │ └ · GET                                     2.00s    ╺━━━
    ├ ƒ 재고_확인                                 750ms    ╺━
    ├ ƒ refund_policy ✕                           5.04s    ╺━━━━━━━━╸                     TimeoutError
    ├ ≡ handbook                                  430ms    ╺╸
    │ └ ∷ embeddings     text-embedding-3-small   120ms    ╺                       12 in
    ├ ✦ chat             gpt-4o                   1.40s             ╺━━         5.4k→310  4.9k cached
    ├ ∷ embeddings ×12   text-embedding-3-small   480ms                ━╸        1.2k in
    └ ◆ writer                                    3.10s                 ━━━━━━
      ├ ✦ chat           claude-sonnet-4-5        2.95s                 ─╼━━━╸  6.9k→812  5.4k cached  first 620ms
      ├ ✦ chat ⊘         claude-haiku             500ms                   ╺╸              cancelled
      └ ◈ guard                                    30ms                      ╺
    ✓ 11.87s · 25 spans, 4 plumbing runs hidden · 14.7k in / 1.2k out · model 48% of wall · 1 failed
    """)


def test_the_same_in_80_columns():
    assert tree(agent_run(), 80) == expected("""
    ◆ support                            11.87s  ━━━━━━━━━━━
    ├ ✦ chat             gpt-4o-mini      1.32s  ━             1.2k→49
    ├ ƒ search_orders                     2.15s   ━━╸
    │ └ · GET                             2.00s   ━━
    ├ ƒ 재고_확인                         750ms   ━
    ├ ƒ refund_policy ✕                   5.04s   ━━━━━                 TimeoutError
    ├ ≡ handbook                          430ms   ━
    │ └ ∷ embeddings     text-embeddin…   120ms   ╸              12 in
    ├ ✦ chat             gpt-4o           1.40s        ━╸     5.4k→310  4.9k cached
    ├ ∷ embeddings ×12   text-embeddin…   480ms         ━      1.2k in
    └ ◆ writer                            3.10s          ━━━
      ├ ✦ chat           claude-sonnet…   2.95s          ╼━━  6.9k→812  5.4k cached
      ├ ✦ chat ⊘         claude-haiku     500ms           ╸             cancelled
      └ ◈ guard                            30ms            ╺
    ✓ 11.87s · 25 spans, 4 plumbing runs hidden · 14.7k in / 1.2k out · 1 failed
    """)


def test_the_same_in_40_columns_keeps_names_and_errors():
    assert tree(agent_run(), 40) == expected("""
    ◆ support
    ├ ✦ chat
    ├ ƒ search_orders
    │ └ · GET
    ├ ƒ 재고_확인
    ├ ƒ refund_policy ✕  TimeoutError
    ├ ≡ handbook
    │ └ ∷ embeddings
    ├ ✦ chat             4.9k cached
    ├ ∷ embeddings ×12
    └ ◆ writer
      ├ ✦ chat           5.4k cached
      ├ ✦ chat ⊘         cancelled
      └ ◈ guard
    ✓ 11.87s · 1 failed
    """)


def test_the_same_in_ascii():
    drawn = tree(agent_run(), 100, ascii_only=True)
    assert drawn.isascii()
    assert drawn == expected("""
    agent support                               11.87s  ============
    |-model chat                gpt-4o-mini      1.32s  ==             1.2k->49
    |-tool  search_orders                        2.15s   ===
    | `-span  GET                                2.00s   ===
    |-tool  ??_??                                750ms   =
    |-tool  refund_policy FAIL                   5.04s   ======                  TimeoutError
    |-find  handbook                             430ms   =
    | `-embed embeddings        text-embeddin~   120ms   =                12 in
    |-model chat                gpt-4o           1.40s        ==      5.4k->310  4.9k cached
    |-embed embeddings x12      text-embeddin~   480ms          =       1.2k in
    `-agent writer                               3.10s          ====
      |-model chat              claude-sonnet~   2.95s          -===  6.9k->812  5.4k cached
      |-model chat STOP         claude-haiku     500ms            =              cancelled
      `-guard guard                               30ms             =
    ok 11.87s | 25 spans, 4 plumbing runs hidden | 14.7k in / 1.2k out | model 48% of wall | 1 failed
    """)


def test_the_order_in_which_spans_were_exported_does_not_matter():
    assert tree(agent_run()[::-1]) == tree(agent_run())


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("width", [1, 20, 21, 33, 50, 64, 79, 95, 123, 400])
def test_no_line_is_wider_than_the_terminal(width, ascii_only):
    for line in tree(agent_run(), width, ascii_only=ascii_only).splitlines():
        assert display_width(line) <= max(width, 20)
    assert display_width(render_summary(agent_run(), width=width, color=False)) <= max(width, 20)


def test_colours_change_no_character():
    coloured = render_tree(agent_run(), width=110, color=True)
    assert "\x1b[31mrefund_policy\x1b[0m" in coloured
    assert "\x1b[36m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == tree(agent_run())


def test_unknown_is_left_out():
    assert tree([span(1, None, "job", 0, 2)]) == expected("""
    · job  2.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
    ✓ 2.00s · 1 span
    """)
    assert tree(
        [span(1, None, "", 0, None, kind="model", model="m", given=5, source="estimated")]
    ) == expected("""
    ✦ model  m  ╸                                 ~5 in
    ✓ 1 span · 5 in
    """)


@pytest.mark.parametrize(
    ("outcome", "mark"),
    [("cancelled", "⊘"), ("abandoned", "⊘"), ("timed_out", "⊘"), ("interrupted", "‖"), ("success", "✓")],
)
def test_how_a_run_ended_is_said_in_its_row_and_in_the_mark_of_the_last_line(outcome, mark):
    row, last = tree([span(1, None, "job", 0, 2, kind="agent", outcome=outcome)]).splitlines()
    assert last == f"{mark} 2.00s · 1 span"
    assert row.endswith(f"━  {outcome.replace('_', ' ')}" if mark != "✓" else "━")


def test_a_cache_hit_is_said():
    spans = [span(1, None, "chat", 0, 1, kind="model", source="cache_hit")]
    assert tree(spans).splitlines()[0].endswith("━  cache hit")
    assert tree(spans).splitlines()[1].startswith("✓")


def test_plumbing_is_hidden_unless_it_is_the_root_or_failed():
    spans = [
        span(1, None, "RunnableSequence", 0, 2, kind="chain"),
        span(2, 1, "RunnableParallel", 0, 2, kind="chain"),
        span(3, 2, "Prompt", 0, 0.1, kind="prompt"),
        span(4, 2, "Lambda", 1, 2, kind="chain", error="KeyError"),
        span(5, 3, "search", 0.05, 0.1, kind="tool"),
    ]
    assert tree(spans, 70) == expected("""
    ○ RunnableSequence  2.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
    ├ ƒ search           50ms  ╺╸
    └ ○ Lambda ✕        1.00s                  ━━━━━━━━━━━━━━━━  KeyError
    ✓ 2.00s · 3 spans, 2 plumbing runs hidden · 1 failed
    """)


@pytest.mark.parametrize("scope", ["aiobs.langchain", "openinference.instrumentation.langchain"])
def test_hidden_runs_of_one_kind_are_called_by_it(scope):
    spans = [span(1, None, "agent", 0, 2, kind="agent"), span(2, 1, "model", 0, 2, kind="chain", scope=scope)]
    assert tree(spans, 70).splitlines()[-1] == "✓ 2.00s · 1 span, 1 chain hidden"
    spans.append(span(3, 2, "tools", 0, 2, kind="chain", scope=scope))
    assert tree(spans, 70).splitlines()[-1] == "✓ 2.00s · 1 span, 2 chains hidden"
    assert tree(spans, 20).splitlines()[-1] == "✓ 2.00s · 1 span"
    assert render_summary(spans, width=70, color=False) == f"✓ agent  2.00s · 3 spans{ID}"


def test_what_was_written_down_by_hand_is_never_plumbing():
    manual = {"scope": "aiobs.manual"}
    spans = [
        span(1, None, "answer", 0, 2, kind="chain", **manual),
        span(2, 1, "clean", 0, 0.5, kind="chain", **manual),
        span(3, 2, "fill in", 0, 0.2, kind="prompt", **manual),
        span(4, 1, "RunnableSequence", 0.5, 2, kind="chain"),
        span(5, 4, "read", 1.5, 2, kind="parser", **manual),
    ]
    assert tree(spans, 60) == expected("""
    ○ answer       2.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
    ├ ○ clean      500ms  ━━━━━━━━
    │ └ ¶ fill in  200ms  ━━━
    └ ≔ read       500ms                          ━━━━━━━━
    ✓ 2.00s · 4 spans, 1 chain hidden
    """)


def test_an_error_counts_where_it_arose_and_is_named_by_its_class():
    limit, wrapped = "langchain_openai.chat_models.base.RateLimitError", "shop.GaveUp"
    spans = [
        span(1, None, "agent", 0, 4, kind="agent", error=limit),
        span(2, 1, "tools", 0, 1, kind="chain"),
        span(3, 2, "search", 0, 1, kind="tool", error="KeyError"),  # the agent handled it
        span(4, 1, "model", 1, 4, kind="chain", error=limit),
        span(5, 4, "RunnableSequence", 1, 4, kind="chain", error=limit),
        span(6, 5, "chat", 1, 4, kind="model", error=limit),
        span(7, 6, "POST", 1, 4, error="RateLimitError"),
    ]
    assert tree(spans, 70) == expected("""
    ◆ agent ✕     4.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  RateLimitError
    ├ ƒ search ✕  1.00s  ━━━━━━━━                          KeyError
    └ ✦ chat ✕    3.00s          ━━━━━━━━━━━━━━━━━━━━━━━━  RateLimitError
      └ · POST ✕  3.00s          ━━━━━━━━━━━━━━━━━━━━━━━━  RateLimitError
    ✕ 4.00s · 4 spans, 3 chains hidden · model 75% of wall · 2 failed
    """)
    spans[0] = span(1, None, "agent", 0, 4, kind="agent", error=wrapped)
    spans[3] = span(4, 1, "model", 1, 4, kind="chain", error=wrapped)
    assert tree(spans, 70) == expected("""
    ◆ agent ✕       4.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  GaveUp
    ├ ƒ search ✕    1.00s  ━━━━━━━━                         KeyError
    └ ○ model ✕     3.00s         ╺━━━━━━━━━━━━━━━━━━━━━━━  GaveUp
      └ ✦ chat ✕    3.00s         ╺━━━━━━━━━━━━━━━━━━━━━━━  RateLimitError
        └ · POST ✕  3.00s         ╺━━━━━━━━━━━━━━━━━━━━━━━  RateLimitError
    ✕ 4.00s · 5 spans, 2 chains hidden · model 75% of wall · 3 failed
    """)


@pytest.mark.parametrize(
    ("error_type", "note"),
    [("a.b.Boom", "Boom"), ("job.<locals>.Boom", "Boom"), ("Boom", "Boom"), ("429", "429"), ("odd.", "odd."),
     (".", "."), ("", "error"), ("a." + "x" * 300, "x" * 10), ("a.\x1b[2J", "�[2J")],
)  # fmt: skip
def test_the_class_of_an_error_is_what_follows_the_last_dot(error_type, note):
    row = tree([span(1, None, "job", 0, 2, kind="agent", error=error_type)], 90).splitlines()[0]
    assert note in row
    assert "a." not in row


def test_an_error_of_unknown_class_counts_once_on_its_way_up_and_a_loop_counts_as_one():
    def failing(span_id, parent, **facts):
        return span(span_id, parent, "x", 0, 1, more={"ai.agent.outcome": "error"}, **facts)

    spans = [failing(1, None), failing(2, 1), span(3, 2, "x", 0, 1, error="KeyError"), failing(4, 1)]
    assert tree(spans).splitlines()[-1] == "✕ 1.00s · 4 spans · 2 failed"
    loop = [failing(1, 2), failing(2, 1), failing(3, 3)]
    assert tree(loop).splitlines()[-1] == "✕ 1.00s · 3 spans · 1 failed"


@pytest.mark.parametrize("outcome", ["interrupted", "cancelled", "abandoned", "timed_out"])
def test_plumbing_is_shown_where_only_it_tells_how_the_run_ended(outcome):
    spans = [
        span(1, None, "flow", 0, 4, kind="workflow", outcome=outcome),
        span(2, 1, "propose", 0, 1, kind="chain", outcome="success"),
        span(3, 1, "approve", 1, 4, kind="chain", outcome=outcome),
        span(4, 3, "RunnableSequence", 1, 4, kind="chain", outcome=outcome),
        span(5, 4, "look", 1, 2, kind="tool", outcome="success"),
    ]
    rows = tree(spans, 70).splitlines()
    assert [row[:24].rstrip() for row in rows[1:-1]] in (
        [f"└ ○ RunnableSequence {mark}", "  └ ƒ look"] for mark in "‖⊘"
    )
    assert rows[-1].endswith("2 chains hidden")
    spans.append(span(6, 4, "ask", 3, 4, kind="tool", outcome=outcome))
    assert [row[:10].rstrip() for row in tree(spans, 70).splitlines()[1:-1]] in (
        ["├ ƒ look", f"└ ƒ ask {mark}"] for mark in "‖⊘"
    )


def test_a_paused_run_and_its_continuation():
    paused = [
        span(1, None, "refund_desk", 0, 1, kind="workflow", outcome="interrupted"),
        span(2, 1, "propose", 0, 1, kind="chain"),
        span(3, 2, "chat", 0, 0.99, kind="model", model="m"),
        span(4, 1, "approve", 0.99, 1, kind="chain", outcome="interrupted"),
    ]
    assert tree(paused, 80) == expected("""
    ◇ refund_desk ‖     1.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  interrupted
    ├ ✦ chat         m  990ms  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╸
    └ ○ approve ‖        10ms                                 ╺  interrupted
    ‖ 1.00s · 3 spans, 1 chain hidden · model 99% of wall
    """)
    resumed = span(1, None, "refund_desk", 0, 1, kind="workflow", resume_wait_s=0.5171)
    assert tree([resumed], 80) == expected("""
    ◇ refund_desk  1.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  resumed after 517ms
    ✓ 1.00s · 1 span
    """)


def test_attempts_are_numbered_from_the_second_and_shown_even_of_plumbing():
    spans = [
        span(1, None, "agent", 0, 6, kind="agent"),
        span(2, 1, "chat", 0, 1, kind="model", error="TimeoutError", attempt=1),
        span(3, 1, "chat", 1, 2, kind="model", error="TimeoutError", attempt=2),
        span(4, 1, "chat", 2, 3, kind="model", attempt=3),
        span(5, 1, "node", 3, 4, kind="chain", error="ValueError"),
        span(6, 5, "search", 3, 4, kind="tool", error="ValueError"),
        span(7, 1, "node", 4, 5, kind="chain", attempt=2),
        span(8, 7, "search", 4, 5, kind="tool"),
    ]
    assert tree(spans, 70) == expected("""
    ◆ agent       6.00s  ━━━━━━━━━━━━━━━━━━━━━━━━
    ├ ✦ chat ✕    1.00s  ━━━━                      TimeoutError
    ├ ✦ chat ✕    1.00s      ━━━━                  TimeoutError  attempt 2
    ├ ✦ chat      1.00s          ━━━━              attempt 3
    ├ ƒ search ✕  1.00s              ━━━━          ValueError
    └ ○ node      1.00s                  ━━━━      attempt 2
      └ ƒ search  1.00s                  ━━━━
    ✓ 6.00s · 7 spans, 1 chain hidden · model 50% of wall · 3 failed
    """)


def test_a_request_id_is_shown_if_the_application_gave_it():
    made_up = [span(1, None, "agent", 0, 2, kind="agent", request=format(TRACE, "032x"))]
    assert tree(made_up, 70).splitlines()[-1] == "✓ 2.00s · 1 span"
    given = [span(1, None, "POST /ask", 0, 2), span(2, 1, "agent", 0, 2, kind="agent", request="order\n17")]
    assert tree(given, 70).splitlines()[-1] == "✓ 2.00s · 2 spans · request order�17"
    assert tree(given, 25).splitlines()[-1] == "✓ 2.00s"
    assert render_summary(given, width=70, color=False).endswith(f"2.00s · 2 spans · request order�17{ID}")
    long = [span(1, None, "agent", 0, 2, kind="agent", request="가" * 90)]
    assert tree(long, 70).splitlines()[-1] == "✓ 2.00s · 1 span · request " + "가" * 11 + "…"


def test_a_headline_says_what_the_tree_says():
    assert headline([], encoding="utf-8") is None
    run = headline(agent_run(), encoding="utf-8")
    assert (run.name, run.failure_count) == ("support", 1)
    call = [span(1, None, "chat gpt-4o", 0, 1, kind="model", operation="chat", model="gpt-4o")]
    assert headline(call, encoding="utf-8").name == "chat gpt-4o"
    assert headline([span(1, None, "재고\x1b", 0, 1)], encoding="ascii").name == "???"


def test_the_last_line_ends_with_the_id_that_the_command_takes_where_it_cuts_nothing():
    spans = [span(1, None, "agent", 0, 2, kind="agent", trace=0xABC << 112)]
    assert render_tree(spans, width=39, color=False).endswith("✓ 2.00s · 1 span · trace 0abc00000000")
    assert render_tree(spans, width=36, color=False).endswith("✓ 2.00s · 1 span")
    named = [span(1, None, "a name of twenty one.", 0, 2, kind="agent")]
    assert render_summary(named, width=60, color=False) == f"✓ a name of twenty one.  2.00s · 1 span{ID}"
    assert render_summary(named, width=59, color=False) == "✓ a name of twenty one.  2.00s · 1 span"


def test_a_node_of_a_graph_is_shown_if_nothing_below_it_is():
    def node(span_id, name, start_s, end_s):
        more = {"ai.agent.graph.node": name}
        return span(span_id, 1, name, start_s, end_s, kind="chain", more=more)

    spans = [
        span(1, None, "graph", 0, 4, kind="workflow"),
        node(2, "load", 0, 1),
        node(3, "clean", 1, 2),
        span(4, 3, "RunnableLambda", 1, 2, kind="chain"),
        node(5, "ask", 2, 4),
        span(6, 5, "chat", 2, 4, kind="model"),
    ]
    assert tree(spans, 60) == expected("""
    ◇ graph    4.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
    ├ ○ load   1.00s  ━━━━━━━━
    ├ ○ clean  1.00s          ━━━━━━━━
    └ ✦ chat   2.00s                  ━━━━━━━━━━━━━━━━
    ✓ 4.00s · 4 spans, 2 chains hidden · model 50% of wall
    """)


def test_equal_siblings_fold_from_three_on_if_nothing_stands_between_them():
    def search(span_id, start_s, **facts):
        return span(span_id, 1, "search", start_s, start_s + 1, kind="tool", **facts)

    spans = [
        span(1, None, "agent", 0, 10, kind="agent"),
        *(search(2 + n, n) for n in range(3)),
        *(search(5 + n, 3 + n, error="KeyError") for n in range(4)),
        search(9, 7),
        search(10, 8),
    ]
    assert tree(spans, 70) == expected("""
    ◆ agent          10.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
    ├ ƒ search ×3     3.00s  ━━━━━━━━━╸
    ├ ƒ search ×4 ✕   4.00s           ╺━━━━━━━━━━━━╸           KeyError
    ├ ƒ search        1.00s                        ━━━╸
    └ ƒ search        1.00s                           ╺━━━
    ✓ 10.00s · 10 spans · 4 failed
    """)


def test_the_duration_of_folded_siblings_is_the_time_in_which_any_ran():
    spans = [span(1, None, "agent", 0, 10, kind="agent")]
    spans += [span(2 + n, 1, "search", 0, 2, kind="tool") for n in range(5)]
    assert "ƒ search ×5   2.00s" in tree(spans)


def test_orphans_stand_at_top_level_after_the_root():
    spans = [
        span(3, 99, "orphan", 0, 1, kind="tool"),
        span(4, 3, "below it", 0, 1, kind="tool"),
        span(1, None, "root", 0.5, 2, kind="agent"),
        span(2, 1, "child", 1, 2, kind="tool"),
    ]
    assert tree(spans, 50) == expected("""
    ◆ root        1.50s         ━━━━━━━━━━━━━━━━━━━━━━
    └ ƒ child     1.00s                ╺━━━━━━━━━━━━━━
    ƒ orphan      1.00s  ━━━━━━━━━━━━━━╸
    └ ƒ below it  1.00s  ━━━━━━━━━━━━━━╸
    ✓ 2.00s · 4 spans
    """)


def test_loops_of_parents_are_shown_once_each():
    spans = [
        span(1, None, "root", 0, 3, kind="agent"),
        span(2, 3, "a", 1, 2, kind="tool"),
        span(3, 2, "b", 1, 2, kind="tool"),
        span(4, 4, "self", 1, 2, kind="tool"),
        span(4, 4, "the same again", 1, 2, kind="tool"),
    ]
    assert tree(spans, 50) == expected("""
    ◆ root  3.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
    ƒ a     1.00s            ╺━━━━━━━━━━╸
    └ ƒ b   1.00s            ╺━━━━━━━━━━╸
    ƒ self  1.00s            ╺━━━━━━━━━━╸
    ✓ 3.00s · 4 spans
    """)


def test_thousands_of_levels_are_drawn():
    spans = [span(n, n - 1 or None, f"step {n}", 0, 1, kind="tool") for n in range(1, 3_001)]
    began = time.perf_counter()
    lines = tree(spans, 80).splitlines()
    assert time.perf_counter() - began < 3.0
    assert len(lines) == 3_001
    assert all(display_width(line) <= 80 for line in lines)
    assert "step 2" in lines[1]


def test_rows_beyond_the_limit_are_left_out_except_failed_ones():
    spans = [span(1, None, "agent", 0, 9, kind="agent")]
    spans += [span(2 + n, 1, f"tool {n}", n, n + 1, kind="tool") for n in range(8)]
    spans += [span(10, 1, "tool 8", 8, 9, kind="tool", error="KeyError")]
    assert tree(spans, 50, max_rows=3) == expected("""
    ◆ agent       9.00s  ━━━━━━━━━━━━━━━━━━━
    ├ ƒ tool 0    1.00s  ━━
    ├ ƒ tool 1    1.00s    ━━
    └ ƒ tool 8 ✕  1.00s                  ╺━━  KeyError
    ✓ 9.00s · showing 4 of 10 spans · 1 failed
    """)
    assert "showing" not in tree(spans, 50, max_rows=10)


def test_tokens_are_summed_over_model_and_embedding_calls_once():
    spans = [
        span(1, None, "agent", 0, 4, kind="agent", given=999, got=999),
        span(2, 1, "chat", 0, 1, kind="model", given=100, got=10),
        span(
            3,
            2,
            "openai chat",
            0,
            1,
            more={"gen_ai.operation.name": "chat", "gen_ai.usage.input_tokens": 100},
        ),
        span(4, 1, "chat", 0.5, 2, kind="model", given=50, got=5),
        span(5, 1, "embed", 3, 4, kind="embedding", given=7),
    ]
    assert tree(spans).splitlines()[-1] == "✓ 4.00s · 5 spans · 157 in / 15 out · model 50% of wall"


def test_spans_of_other_dialects_are_read():
    spans = [
        span(1, None, "POST /ask", 0, 2),
        span(2, 1, "llm", 0, 1, more={"openinference.span.kind": "LLM"}),
        span(3, 1, "chat gpt-4o", 1, 2, more={
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-4o",
            "gen_ai.usage.input_tokens": 1200,
            "gen_ai.usage.output_tokens": 49,
        }),
    ]  # fmt: skip
    assert tree(spans, 70) == expected("""
    · POST /ask          2.00s  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
    ├ ✦ llm              1.00s  ━━━━━━━━━━━━━━━━
    └ ✦ chat     gpt-4o  1.00s                  ━━━━━━━━━━━━━━━━  1.2k→49
    ✓ 2.00s · 3 spans · 1.2k in / 49 out · model 100% of wall
    """)


def test_a_summary_is_one_line():
    line = render_summary(agent_run(), width=100, color=False)
    assert line == "✓ support  11.87s · 29 spans · 14.7k in / 1.2k out · model 48% of wall · 1 failed"
    assert render_summary(agent_run(), width=40, color=False) == "✓ support  11.87s · 1 failed"


def test_nothing_is_drawn_for_nothing():
    assert render_tree([], width=80, color=True) == render_summary([], width=80, color=True) == ""


# --- hostile text -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    [
        "\x1b[2J\x1b]0;owned\x07",
        "line\nbreak\r\n\ttab\x0b\x0c\x85\u2028\u2029",
        "\u202egnp.exe\u202c\u2066\u200f\u061c",
        "zero\u200bwidth\u200d\ufeff\u00ad",
        "x" * 10_000,
        "가" * 10_000,
        "z" + "\u0301" * 500,
        "\ud800 lone surrogate",
        "\U000e0041 tag \uffff",
        "\x9b31m c1",
    ],
)
@pytest.mark.parametrize("where", ["name", "model", "error"])
def test_hostile_text_is_neutralised_and_keeps_the_columns(name, where):
    facts = {"name": "tool", "kind": "tool", "model": "m", "error": "E"} | {where: name}
    spans = [span(1, None, "agent", 0, 2, kind="agent"), span(2, 1, facts.pop("name"), 0, 2, **facts)]
    drawn = tree(spans, 80)
    lines = drawn.splitlines()
    assert drawn.count("\n") == 2
    assert len(lines) == 3
    assert all(character.isprintable() or character == "\n" for character in drawn)
    assert all(display_width(line) <= 80 for line in lines)
    drawn.encode("utf-8")
    bars = {display_width(line[: line.index("━")]) for line in lines[:2]}
    assert len(bars) == 1


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("abc", 3),
        ("한국어", 6),
        ("日本", 4),
        ("ｆｕｌｌ", 8),
        ("é", 1),
        ("e\u0301", 1),
        ("\u1100\u1161", 2),
        ("🙂", 2),
    ],
)
def test_widths_are_those_of_a_terminal(text, width):
    assert display_width(neutralise(text, encoding="utf-8")) == width


def test_wide_names_keep_the_columns_aligned():
    names = ["find", "재고_확인", "東京タワー", "mixed 한글 x"]
    spans = [span(1, None, "agent", 0, 1, kind="agent")]
    spans += [span(2 + n, 1, name, 0, 1, kind="tool") for n, name in enumerate(names)]
    rows = tree(spans, 80).splitlines()[:-1]
    assert len({display_width(row[: row.index("━")]) for row in rows}) == 1


@pytest.mark.parametrize(
    ("duration_ns", "text"),
    [
        (0, "<0.1ms"), (23_000, "<0.1ms"), (99_999, "<0.1ms"), (100_000, "0.1ms"), (400_000, "0.4ms"), (9_949_999, "9.9ms"), (9_950_000, "10ms"), (310_000_000, "310ms"),
        (999_499_999, "999ms"), (999_500_000, "1.00s"), (11_870_000_000, "11.87s"), (59_994_999_999, "59.99s"),
        (59_995_000_000, "1m00s"), (125_400_000_000, "2m05s"), (3_599_600_000_000, "1h00m"),
        (3_720_000_000_000, "1h02m"),
    ],
)  # fmt: skip
def test_durations(duration_ns, text):
    assert duration_text(duration_ns) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1_000, "1.0k"), (1_180, "1.2k"), (99_949, "99.9k"), (99_950, "100k"),
     (999_499, "999k"), (999_500, "1.0M"), (12_300_000, "12.3M")],
)  # fmt: skip
def test_counts(count, text):
    assert count_text(count) == text


# --- when it prints -----------------------------------------------------------------------------------------------
class Terminal(io.StringIO):
    """A terminal that counts writes."""

    def __init__(self, tty=True, encoding="utf-8"):
        super().__init__()
        self._tty, self._encoding = tty, encoding
        self.writes = 0

    encoding = property(lambda self: self._encoding)

    def isatty(self):
        return self._tty

    def write(self, text):
        self.writes += 1
        text.encode(self._encoding)
        return super().write(text)


RUN = [span(2, 1, "search", 0, 0.2, kind="tool"), span(1, None, "agent", 0, 0.5, kind="agent")]
LONG = [span(2, 1, "search", 0, 0.2, kind="tool"), span(1, None, "agent", 0, 1.5, kind="agent")]
FAILED = [
    span(2, 1, "search", 0, 0.2, kind="tool", error="KeyError"),
    span(1, None, "agent", 0, 0.5, kind="agent", error="KeyError"),
]
LINE = f"✓ agent  500ms · 2 spans{ID}\n"


def printed(mode, spans, *, environ=None, stream=None, **options):
    stream = stream or Terminal()
    environ = {"NO_COLOR": "1", "COLUMNS": "60", **(environ or {})}
    ConsoleExporter(mode, stream=stream, environ=environ, **options).export(spans)
    return stream.getvalue()


def test_off_prints_nothing_summary_a_line_tree_a_tree():
    assert printed("off", RUN) == ""
    assert printed("summary", RUN) == LINE
    assert printed("tree", RUN) == render_tree(RUN, width=60, color=False) + "\n"


def test_auto_prints_the_tree_of_long_and_failed_runs_and_a_line_for_the_others():
    assert printed("auto", RUN) == LINE
    assert printed("auto", LONG) == render_tree(LONG, width=60, color=False) + "\n"
    assert printed("auto", FAILED) == render_tree(FAILED, width=60, color=False) + "\n"


@pytest.mark.parametrize("environ", [{"CI": "true"}, {"CI": "1"}, {"TERM": "dumb"}])
def test_auto_prints_nothing_in_ci_and_dumb_terminals(environ):
    assert printed("auto", LONG, environ=environ) == ""
    assert printed("tree", LONG, environ=environ) != ""


def test_auto_prints_nothing_into_a_pipe():
    assert printed("auto", LONG, stream=Terminal(tty=False)) == ""
    assert printed("summary", RUN, stream=Terminal(tty=False)) == LINE


@pytest.mark.parametrize("environ", [{"CI": ""}, {"CI": "false"}, {"TERM": "xterm"}])
def test_auto_prints_in_other_terminals(environ):
    assert printed("auto", RUN, environ=environ) == LINE


def test_auto_says_nothing_of_traces_in_which_no_agent_model_or_tool_ran():
    health_check = [span(1, None, "GET /health", 0, 3)]
    assert printed("auto", health_check) == ""
    assert printed("tree", health_check) != ""


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="mode: expected one of off, summary, tree, auto, got 'loud'"):
        ConsoleExporter("loud")


@pytest.mark.parametrize(
    ("environ", "tty", "coloured"),
    [({}, True, True), ({"NO_COLOR": "1"}, True, False), ({"TERM": "dumb"}, True, False), ({}, False, False)],
)
def test_colours_only_in_a_terminal_that_wants_them(environ, tty, coloured):
    stream = Terminal(tty=tty)
    ConsoleExporter("tree", stream=stream, environ=environ).export(RUN)
    assert ("\x1b[" in stream.getvalue()) is coloured


def test_a_trace_is_printed_with_one_write_when_its_root_arrives():
    stream = Terminal()
    exporter = ConsoleExporter("tree", stream=stream, environ={"NO_COLOR": "1", "COLUMNS": "60"})
    exporter.export([span(3, 1, "early", 0, 0.1, kind="tool")])
    assert stream.writes == 0
    # The straggler stands after the root in the same batch.
    exporter.export([*reversed(RUN), span(4, 2, "straggler", 0, 0.1, kind="tool")])
    assert stream.writes == 1
    assert (
        stream.getvalue()
        == expected("""
    ◆ agent          500ms  ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
    ├ ƒ search       200ms  ━━━━━━━━━━━━━
    │ └ ƒ straggler  100ms  ━━━━━━╸
    └ ƒ early        100ms  ━━━━━━╸
    ✓ 500ms · 4 spans · trace 000000000000
    """)
        + "\n"
    )
    exporter.export([span(5, 1, "much too late", 0, 0.1, kind="tool")])
    exporter.shutdown()
    exporter.export([span(1, None, "after shutdown", 0, 1, trace=5, kind="tool")])
    assert stream.writes == 1


def test_runs_of_one_remote_trace_are_printed_apart():
    stream = Terminal()
    exporter = ConsoleExporter("tree", stream=stream, environ={"NO_COLOR": "1", "COLUMNS": "60"})
    exporter.export(
        [span(2, 1, "of the first", 0, 1, kind="tool"), span(12, 11, "of the second", 0, 1, kind="tool")]
    )
    exporter.export([span(1, 99, "first", 0, 1, kind="agent", remote=True)])
    assert "of the first" in stream.getvalue()
    assert "second" not in stream.getvalue()
    exporter.export([span(11, 99, "second", 0, 1, kind="agent", make=LocalRoot)])
    assert stream.getvalue().count("of the second") == 1
    assert stream.getvalue().count("✓ 1.00s · 2 spans") == 2


def test_a_footer_that_is_not_known_yet_is_said_when_it_is():
    answers = iter([None, "stored in .aiobs"])
    lines = ConsoleExporter(
        "summary", stream=(stream := Terminal()), environ={"NO_COLOR": "1"}, footer=lambda: next(answers)
    )
    for trace in (1, 2, 3):
        lines.export([span(1, None, "agent", 0, 1, kind="agent", trace=trace)])
    assert ["stored" in line for line in stream.getvalue().splitlines()] == [False, False, True, False]


def test_the_footer_is_said_once():
    trees = ConsoleExporter(
        "tree", stream=(stream := Terminal()), environ={}, footer="stored in .aiobs\x1b[2J"
    )
    lines = ConsoleExporter("summary", stream=(other := Terminal()), environ={}, footer="stored in .aiobs")
    for trace in (1, 2):
        root = [span(1, None, "agent", 0, 0.5, kind="agent", trace=trace)]
        trees.export(root)
        lines.export(root)
    assert stream.getvalue().count("stored in .aiobs�[2J") == 1
    assert other.getvalue().count("stored in .aiobs") == 1


def test_standard_error_is_looked_up_when_it_prints(capsys):
    exporter = ConsoleExporter("summary", environ={})
    exporter.export(RUN)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", LINE)
    stream, sys.stderr = sys.stderr, Terminal()
    try:
        exporter.export([span(1, None, "agent", 0, 0.5, kind="agent", trace=2)])
        assert "agent" in sys.stderr.getvalue()
    finally:
        sys.stderr = stream


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp949", "cp1252", "unknown"])
def test_what_the_stream_cannot_encode_is_drawn_in_ascii(encoding):
    class Picky(Terminal):
        def write(self, text):
            text.encode("ascii" if encoding == "unknown" else encoding)
            return io.StringIO.write(self, text)

    health = Health()
    korean = [span(1, None, "재고_확인", 0, 2, kind="agent")]
    drawn = printed("tree", korean, stream=Picky(encoding=encoding), health=health)
    if encoding == "unknown":  # nothing can be said to a stream that does not know itself
        assert health.counts() == {"console.unwritable": 1}
        return
    assert drawn.startswith(
        "agent 재고_확인  2.00s  ===" if encoding == "cp949" else "agent ??_??  2.00s  ==="
    )
    assert health.counts() == {}


@pytest.mark.parametrize(
    "error", [ValueError("closed"), BrokenPipeError(), UnicodeEncodeError("ascii", "é", 0, 1, "")]
)
def test_a_stream_that_cannot_be_written_ends_the_printing_and_is_counted(caplog, error):
    class Broken(Terminal):
        def write(self, text):
            self.writes += 1
            raise error

    health = Health()
    exporter = ConsoleExporter("tree", stream=(stream := Broken()), environ={}, health=health)
    for trace in range(3):
        exporter.export([span(1, None, "agent", 0, 0.5, trace=trace + 1)])
    assert stream.writes == 1
    assert health.counts() == {"console.unwritable": 1}
    assert [record.getMessage() for record in caplog.records] == [
        f"aiobs: console: printing failed ({type(error).__name__}); nothing more is printed."
    ]


def test_no_stream_at_all_is_survived(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)  # pythonw
    ConsoleExporter("tree", environ={}).export(RUN)
    ConsoleExporter("auto", environ={}).export(RUN)


def test_a_closed_stream_is_survived():
    stream = Terminal()
    stream.close()
    ConsoleExporter("tree", stream=stream, environ={}).export(RUN)


def test_what_waits_for_its_root_is_bounded(caplog):
    health = Health()
    exporter = ConsoleExporter(
        "summary", stream=(stream := Terminal()), environ={"NO_COLOR": "1"}, health=health
    )
    for trace in range(1, 300):
        exporter.export([span(2, 1, "x", 0, 1, kind="tool", trace=trace)])
    exporter.export([span(n + 2, 1, "x", 0, 1, kind="tool", trace=299) for n in range(6_000)])
    exporter.export([span(1, None, "x", 0, 1, kind="tool", trace=1), span(1, None, "x", 0, 1, trace=299)])
    assert f"1 span{ID}\n" in stream.getvalue()  # the oldest trace was forgotten, its root is alone
    assert f"5000 spans{ID}\n" in stream.getvalue()
    assert set(health.counts()) == {"console.traces_dropped", "console.spans_dropped"}
    assert len(caplog.records) == 2


def test_a_run_of_5000_spans_does_not_flood_the_terminal():
    spans = [span(1, None, "agent", 0, 5_001, kind="agent")]
    spans += [span(2 + n, 1, f"tool {n}", n, n + 1, kind="tool") for n in range(5_000)]
    began = time.perf_counter()
    drawn = printed("tree", spans)
    assert time.perf_counter() - began < 3.0
    assert drawn.count("\n") == 201
    assert "showing 200 of 5001 spans" in drawn
    spans += [span(6_000, 1, "inner", 0, 1, kind="prompt")]
    assert "showing 199 of 5001 spans, 1 prompt hidden" in tree(spans, max_rows=199)
