"""Another instrumentation of LangChain in the same process is named once; it is neither removed nor disturbed."""

from __future__ import annotations

import subprocess
import sys

import pytest

_COUNT = """
import logging
from aiobs_langchain import AiObsCallbackHandler
told = []
logging.getLogger("aiobs").addFilter(lambda record: told.append(record.getMessage()))
AiObsCallbackHandler()
assert told == [], told
{activate}
AiObsCallbackHandler()
AiObsCallbackHandler()
assert len(told) == {times}, told
assert all({named!r} in line for line in told), told
"""


def run(activate: str, named: str, times: int = 1, **environ: str) -> None:
    script = _COUNT.format(activate=activate, named=named, times=times)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path), "AIOBS_STORE": "off", "AIOBS_CONSOLE": "off", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_openinference_is_named_once() -> None:
    pytest.importorskip(
        "openinference.instrumentation.langchain",
        reason="pip install openinference-instrumentation-langchain",
    )
    run(
        "from openinference.instrumentation.langchain import LangChainInstrumentor as Other; Other().instrument()",
        "OpenInference's LangChainInstrumentor is active beside aiobs",
    )


def test_an_instrumentor_that_is_imported_but_not_active_is_not_named() -> None:
    pytest.importorskip(
        "openinference.instrumentation.langchain",
        reason="pip install openinference-instrumentation-langchain",
    )
    run("import openinference.instrumentation.langchain", "", times=0)


@pytest.mark.parametrize(("tracing", "times"), [("true", 1), ("false", 0)])
def test_langsmiths_otel_mode_is_named_if_langsmith_traces(tracing: str, times: int) -> None:
    activate = f"""
import os
os.environ.update(LANGSMITH_OTEL_ENABLED="true", LANGSMITH_TRACING={tracing!r})
from langsmith import utils
utils.get_env_var.cache_clear()
"""
    run(activate, "LANGSMITH_OTEL_ENABLED", times)


def test_our_own_instrumentor_is_no_overlap() -> None:
    run(
        "from aiobs_langchain import LangChainInstrumentor; LangChainInstrumentor().instrument()", "", times=0
    )
