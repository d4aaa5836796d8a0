"""The fixture: stable numbers, trees, and tests that fail for what they left behind."""

from __future__ import annotations

import logging

import pytest
from inline_snapshot import snapshot

from aiobs_core import span, using_attributes
from aiobs_testing import Telemetry

pytest_plugins = ["pytester"]


def test_spans_are_plain_data_with_counted_ids(telemetry: Telemetry) -> None:
    with using_attributes(request_id="r-1"), span("outer", kind="agent"), span("inner", kind="tool"):
        pass
    with pytest.raises(ValueError, match="x"), span("second"):
        raise ValueError("x")
    assert [
        (s["trace"], s["id"], s["parent"], s["name"], s["status"]) for s in telemetry.spans()
    ] == snapshot(
        [
            (1, 1, None, "invoke_agent outer", "UNSET"),
            (1, 2, 1, "execute_tool inner", "UNSET"),
            (2, 3, None, "invoke_workflow second", "ERROR"),
        ]
    )
    assert telemetry.tree() == snapshot("""\
invoke_agent outer
  execute_tool inner
invoke_workflow second [error]\
""")
    assert telemetry.by_name("execute_tool inner")["attributes"] == snapshot(
        {
            "ai.agent.span.kind": "tool",
            "ai.agent.outcome": "success",
            "ai.agent.stage": "external_api",
            "ai.agent.framework": "manual",
            "ai.agent.name": "outer",
            "ai.agent.request.id": "r-1",
            "ai.agent.api.name": "inner",
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": "inner",
            "gen_ai.agent.name": "outer",
        }
    )


def test_a_name_that_is_not_there_says_which_are(telemetry: Telemetry) -> None:
    with span("only"):
        pass
    with pytest.raises(AssertionError, match="invoke_workflow only"):
        telemetry.by_name("other")


@pytest.mark.telemetry(open_runs=True, semconv="latest")
def test_the_marker_gives_settings(telemetry: Telemetry) -> None:
    assert telemetry.recorder.settings.semconv == "latest"
    telemetry.recorder.start("left open", None)


def test_a_test_that_leaves_a_run_open_or_hurts_fails(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import logging
        from aiobs_core import Kind, Operation

        def test_open(telemetry):
            telemetry.recorder.start("a", Operation(kind=Kind.TOOL, name="t"))

        def test_hurts(telemetry):
            logging.getLogger("opentelemetry.context").error("Failed to detach context")
        """
    )
    result = pytester.runpytest_subprocess("-q", "-W", "ignore")
    result.assert_outcomes(passed=2, errors=2)
    result.stdout.fnmatch_lines(["*1 runs are still open*", "*Failed to detach context*"])


def test_warnings_of_others_do_not_count(telemetry: Telemetry) -> None:
    logging.getLogger("somebody.else").warning("not ours")
    assert telemetry.warnings == []
