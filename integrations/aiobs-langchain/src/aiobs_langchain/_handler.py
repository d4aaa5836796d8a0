"""The callback handler: one line per LangChain event, each a verb of the recorder.

What the worker reads later is bound with `partial`; what the application could change meanwhile is taken at once.
"""

# ruff: noqa: ARG001 (callbacks have the framework's signature)

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from aiobs_core import Operation, get_recorder, semconv
from aiobs_core.adapter import SharedHandler, found_documents, frame_outside, kept, outcome_of, report_overlap
from aiobs_langchain import _operation as operation
from aiobs_langchain import _outcome as outcome
from aiobs_langchain._operation import Metadata, Serialized, Tags

SCOPE: Final = "aiobs.langchain"
_INSTRUMENTORS: Final = {
    "openinference.instrumentation.langchain": "OpenInference's LangChainInstrumentor",
    "opentelemetry.instrumentation.langchain": "OpenLLMetry's LangchainInstrumentor",
    "opentelemetry.instrumentation.genai.langchain": "OpenTelemetry's LangChainInstrumentor",
}


def _langsmith() -> str | None:
    from langsmith import utils  # LangChain loads it with the first run at the latest

    if utils.get_env_var("OTEL_ENABLED") == "true" and utils.tracing_is_enabled():
        return "LANGSMITH_OTEL_ENABLED makes LangSmith send its runs as OpenTelemetry spans"
    return None


class Retrieval:
    """The subject of a retriever's run: a search of a vector store right inside is a part of it."""


def _starts(
    read: Callable[..., Operation], *, is_chain: bool = False, subject: Callable[[], object] | None = None
) -> Any:
    """The method for a start event, whose arguments `read` understands; LangChain passes the first two by position."""

    # Names every argument that LangChain passes, used or not: Python compares one that falls into `**_` with each of
    # the others, which took a fifth of the call.
    def on_start(
        self: AiObsCallbackHandler,
        serialized: Serialized,
        given: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: Tags = None,
        metadata: Metadata = None,
        name: str | None = None,
        run_type: str | None = None,
        invocation_params: Metadata = None,
        tool_call_id: str | None = None,
        options: Any = None,
        batch_size: Any = None,
        inputs: Any = None,
        color: Any = None,
        **_: Any,
    ) -> None:
        if is_chain:
            given = outcome.resumes(given)  # a graph's state is not kept, and may change
        elif inputs is not None:  # the arguments of a tool, of which `given` is only the text
            given = kept(inputs)
        own = run_type or invocation_params or tool_call_id  # no event has more than one of them
        self._start(
            run_id.int,
            partial(read, serialized, given, tags, metadata, name, own),
            parent=None if parent_run_id is None else parent_run_id.int,
            scope=SCOPE,
            plumbing=is_chain
            and parent_run_id is not None
            and (not metadata or metadata.get("lc_agent_name") != name),
            lifetime=run_id,
            frame_id=0 if parent_run_id is not None else frame_outside("langchain_core.callbacks"),
            # It hands its own config, not its children's, to what it tries.
            adopts=is_chain and name == "RunnableWithFallbacks",
            subject=None if subject is None else subject(),
        )

    return on_start


def _ends(read: Callable[[Any], Any]) -> Any:
    """The method for an end event; `read` makes an outcome of what came back, or a function that does so later."""

    def on_end(
        self: Any, returned: Any, *, run_id: UUID, parent_run_id: Any = None, tags: Any = None, **_: Any
    ) -> None:
        self._end(run_id.int, outcome_of(read, returned))

    return on_end


class AiObsCallbackHandler(SharedHandler, BaseCallbackHandler):
    """Records LangChain and LangGraph runs as OpenTelemetry spans.

    Stateless: all instances report to the one recorder of the process, so an instance can be shared between
    requests, threads and event loops, made anew for each request, or passed twice; every run gives one span.
    Settings come from `aiobs_core.configure()`, the environment or a file.

    Example:
        >>> from langchain_core.language_models import FakeListChatModel
        >>> model = FakeListChatModel(responses=["Seoul"])
        >>> model.invoke("Capital of Korea?", config={"callbacks": [AiObsCallbackHandler()]}).content
        'Seoul'
    """

    # Called in the task that runs the chain, not in an executor: a third of the cost, and the span becomes current
    # where the body runs.
    run_inline = True

    def __init__(self) -> None:
        recorder = get_recorder()
        self._start = recorder.start
        self._chunk = recorder.chunk
        self._end = recorder.end
        self._fail = recorder.fail
        self._find = recorder.find
        report_overlap("LangChain", _INSTRUMENTORS, {"langsmith": _langsmith})

    on_chain_start = _starts(operation.chain, is_chain=True)
    on_chat_model_start = on_llm_start = _starts(operation.model)
    on_tool_start = _starts(operation.tool)
    on_retriever_start = _starts(operation.retriever, subject=Retrieval)

    on_chain_end = _ends(outcome.of_chain)
    on_llm_end = _ends(outcome.of_model)
    on_tool_end = _ends(outcome.of_tool)
    on_retriever_end = _ends(found_documents)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id.int, error, outcome.of_control_flow(error))

    on_tool_error = on_retriever_error = on_chain_error

    def on_llm_error(self, error: BaseException, *, run_id: UUID, response: Any = None, **_: Any) -> None:
        self._fail(run_id.int, error, outcome.of_model(response))

    def on_llm_new_token(
        self,
        token: Any = "",
        *,
        chunk: Any = None,
        run_id: UUID,
        parent_run_id: Any = None,
        tags: Any = None,
        **_: Any,
    ) -> None:
        if token or outcome.calls_a_tool(chunk):
            self._chunk(run_id.int, chunk)

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **_: Any) -> None:
        span = self._find(run_id.int)
        if span is not None and type(name) is str:
            span.add_event(semconv.EVENT_CUSTOM_PREFIX + "." + name)

    def on_retry(self, retry_state: Any, *, run_id: UUID, **_: Any) -> None:
        span = self._find(run_id.int)
        if span is not None:
            span.add_event(semconv.EVENT_RETRY, {semconv.RETRY_ATTEMPT: retry_state.attempt_number})
