"""The callback handler: one line per LangChain event, each a verb of the recorder.

What the worker reads later is bound with `partial`; what the application could change meanwhile is taken at once.
Signatures name every argument that LangChain passes, used or not: Python compares one that falls into `**_` with each
of the others, which took a fifth of the call.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler

from aiobs_core import Outcome, RunStatus, get_recorder, semconv
from aiobs_langchain import _outcome as outcome
from aiobs_langchain._operation import chain, chat_model, retriever, text_model, tool
from aiobs_langchain._overlap import report_overlaps

if TYPE_CHECKING:  # LangChain's messages take 0.2 s to import; who runs a model has them anyway, later
    from langchain_core.documents import Document
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

SCOPE: Final = "aiobs.langchain"
_TOOL_RETURNED_ERROR: Final = Outcome(status=RunStatus.ERROR, error_type="tool_error")
_INTERRUPTED: Final = Outcome(status=RunStatus.INTERRUPTED, events=(semconv.EVENT_INTERRUPT,))


class AiObsCallbackHandler(BaseCallbackHandler):
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
        try:
            report_overlaps()
        except Exception as error:  # noqa: BLE001 (it looks into foreign modules, and a handler must always be made)
            recorder.health.problem(
                "overlap", f"aiobs: looking for other instrumentations failed ({type(error).__name__})."
            )

    def __copy__(self) -> AiObsCallbackHandler:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> AiObsCallbackHandler:
        return self  # configs are deep-copied by applications; the recorder behind it is one per process

    def __reduce__(self) -> tuple[type[AiObsCallbackHandler], tuple[()]]:
        return (type(self), ())

    # --- models -------------------------------------------------------------------------------------------------

    def on_chat_model_start(
        self,
        serialized: dict[str, Any] | None,
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        invocation_params: dict[str, Any] | None = None,
        options: Any = None,
        name: str | None = None,
        batch_size: Any = None,
        **_: Any,
    ) -> None:
        self._start(
            run_id.int,
            partial(chat_model, serialized, messages, tags, metadata, invocation_params, name),
            parent=None if parent_run_id is None else parent_run_id.int,
            scope=SCOPE,
            lifetime=run_id,
            frame_id=0 if parent_run_id is not None else _frame_id(),
        )

    def on_llm_start(
        self,
        serialized: dict[str, Any] | None,
        prompts: list[str],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        invocation_params: dict[str, Any] | None = None,
        options: Any = None,
        name: str | None = None,
        batch_size: Any = None,
        **_: Any,
    ) -> None:
        self._start(
            run_id.int,
            partial(text_model, serialized, prompts, tags, metadata, invocation_params, name),
            parent=None if parent_run_id is None else parent_run_id.int,
            scope=SCOPE,
            lifetime=run_id,
            frame_id=0 if parent_run_id is not None else _frame_id(),
        )

    def on_llm_new_token(
        self,
        token: str | list[Any] = "",
        *,
        chunk: Any = None,
        run_id: UUID,
        parent_run_id: Any = None,
        tags: Any = None,
        **_: Any,
    ) -> None:
        if token or outcome.calls_a_tool(chunk):
            self._chunk(run_id.int, chunk)

    def on_llm_end(
        self, response: LLMResult, *, run_id: UUID, parent_run_id: Any = None, tags: Any = None, **_: Any
    ) -> None:
        self._end(run_id.int, partial(outcome.model, response, outcome.messages(response)))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        response = kwargs.get("response")
        self._fail(run_id.int, error, partial(outcome.model, response, outcome.messages(response)))

    # --- chains, graphs and agents --------------------------------------------------------------------------------

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        run_type: str | None = None,
        **_: Any,
    ) -> None:
        self._start(
            run_id.int,
            partial(chain, serialized, name, run_type, tags, metadata, outcome.resumes(inputs)),
            parent=None if parent_run_id is None else parent_run_id.int,
            scope=SCOPE,
            plumbing=parent_run_id is not None and (not metadata or metadata.get("lc_agent_name") != name),
            lifetime=run_id,
            frame_id=0 if parent_run_id is not None else _frame_id(),
            adopts=name
            == "RunnableWithFallbacks",  # it hands its own config, not its children's, to what it tries
        )

    def on_chain_end(
        self, outputs: Any, *, run_id: UUID, parent_run_id: Any = None, tags: Any = None, **_: Any
    ) -> None:
        self._end(run_id.int, _INTERRUPTED if outcome.is_paused(outputs) else None)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id.int, error, outcome.of_control_flow(error))

    # --- tools and retrievers -------------------------------------------------------------------------------------

    def on_tool_start(
        self,
        serialized: dict[str, Any] | None,
        input_str: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        inputs: dict[str, Any] | None = None,
        name: str | None = None,
        tool_call_id: str | None = None,
        **_: Any,
    ) -> None:
        self._start(
            run_id.int,
            partial(tool, serialized, tags, metadata, name, tool_call_id),
            parent=None if parent_run_id is None else parent_run_id.int,
            scope=SCOPE,
            lifetime=run_id,
            frame_id=0 if parent_run_id is not None else _frame_id(),
        )

    def on_tool_end(
        self, output: Any, *, run_id: UUID, parent_run_id: Any = None, tags: Any = None, **_: Any
    ) -> None:
        failed = type(output).__name__ == "ToolMessage" and getattr(output, "status", None) == "error"
        self._end(run_id.int, _TOOL_RETURNED_ERROR if failed else None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id.int, error, outcome.of_control_flow(error))

    def on_retriever_start(
        self,
        serialized: dict[str, Any] | None,
        query: str,
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        name: str | None = None,
        **_: Any,
    ) -> None:
        self._start(
            run_id.int,
            partial(retriever, serialized, tags, metadata, name),
            parent=None if parent_run_id is None else parent_run_id.int,
            scope=SCOPE,
            lifetime=run_id,
            frame_id=0 if parent_run_id is not None else _frame_id(),
        )

    def on_retriever_end(
        self,
        documents: Sequence[Document],
        *,
        run_id: UUID,
        parent_run_id: Any = None,
        tags: Any = None,
        **_: Any,
    ) -> None:
        self._end(run_id.int, outcome.documents(documents))

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **_: Any) -> None:
        self._fail(run_id.int, error)

    # --- events on open runs --------------------------------------------------------------------------------------

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **_: Any) -> None:
        span = self._find(run_id.int)
        if span is not None and type(name) is str:
            span.add_event(semconv.EVENT_CUSTOM_PREFIX + "." + name)

    def on_retry(self, retry_state: Any, *, run_id: UUID, **_: Any) -> None:
        span = self._find(run_id.int)
        if span is not None:
            span.add_event(semconv.EVENT_RETRY, {semconv.RETRY_ATTEMPT: retry_state.attempt_number})


def _frame_id() -> int:
    """`id()` of the frame that started a run: the first one outside LangChain's callback managers."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 (what inspect.currentframe() is made of)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("langchain_core.callbacks"):
        frame = frame.f_back
    return id(frame)
