"""What every integration shares besides the recorder's verbs.

For integrations: reading of content and names, outcomes that frameworks have in common, and what a handler and a package
have to do whatever the framework.
"""

from __future__ import annotations

import sys
from asyncio import current_task
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from opentelemetry.context import get_current
from opentelemetry.trace import get_current_span

from aiobs_core import semconv
from aiobs_core._context import identity_in, request_attributes
from aiobs_core._inside import running_loop
from aiobs_core._operation import Outcome, RunStatus, Stage
from aiobs_core._process import get_recorder
from aiobs_core._span import AgentSpan

if TYPE_CHECKING:
    from typing_extensions import Self

    from aiobs_core._span import OutcomeSource

TOOL_RETURNED_ERROR: Final = Outcome(status=RunStatus.ERROR, error_type="tool_error")
"""A tool answered with an error instead of raising it."""
INTERRUPTED: Final = Outcome(status=RunStatus.INTERRUPTED, events=(semconv.EVENT_INTERRUPT,))
"""The run paused and waits for a person."""
HANDED_OFF: Final = Outcome(status=RunStatus.SUCCESS, events=(semconv.EVENT_HANDOFF,))
"""Control went to another agent or graph."""

T = TypeVar("T")
_DOCUMENT_TEXTS: Final = ("page_content", "text")
_STAGES: Final = {stage.value: stage for stage in Stage}
_CONVERSATION_KEYS: Final = ("thread_id", "session_id", "conversation_id")
_REQUEST_KEYS: Final = ("request_id",)
_USER_KEYS: Final = ("user_id", "langfuse_user_id")
_COMPREHENSIONS: Final = ("<listcomp>", "<genexpr>")  # frames of their own: the former before Python 3.12


# --- reading, in the worker -----------------------------------------------------------------------------------------


def first_text(source: Mapping[str, object], keys: Sequence[str]) -> str | None:
    """The first non-empty text under one of the keys."""
    for key in filter(
        source.__contains__, keys
    ):  # nearly all are missing: these cost no step of the interpreter
        value = source[key]
        # In this order: what an application puts there may have a truth value that raises.
        if isinstance(value, str) and value:
            return value
    return None


def stage_of(name: object) -> Stage | None:
    """The stage of that name, which a user gave by tag or metadata; None for any other."""
    return _STAGES.get(name) if isinstance(name, str) else None


def from_metadata(metadata: Mapping[str, object]) -> dict[str, Any]:
    """The arguments of `Operation` that an application's metadata or tags give: what the run belongs to, and its stage."""
    given: dict[str, Any] = {"metadata": metadata}
    if metadata:
        given["conversation_id"] = first_text(metadata, _CONVERSATION_KEYS)
        given["request_id"] = first_text(metadata, _REQUEST_KEYS)
        given["user_id"] = first_text(metadata, _USER_KEYS)
        if (stage := stage_of(metadata.get("aiobs_stage"))) is not None:
            given["stage"] = stage
    return given


def text_size(content: object) -> int:
    """Characters of text in a message's content: a string, or a list of strings and text blocks."""
    return len(content) if type(content) is str else sum(map(len, _texts(content)))


def message_of(
    role: str,
    content: object,
    tool_calls: Iterable[tuple[object, object, object]] = (),
    *,
    answers: object = None,
) -> Mapping[str, object]:
    """A message in the JSON shape of the GenAI conventions, with its text, tool calls and results of tools only.

    Args:
        role: `system`, `user`, `assistant` or `tool`.
        content: A string, or a list of strings and text blocks.
        tool_calls: Id, name and arguments of each.
        answers: Id of the tool call whose result the message is, if it is one.
    """
    texts = _texts(content)
    if role == "tool":
        return {
            "role": role,
            "parts": [{"type": "tool_call_response", "id": answers, "response": "".join(texts)}],
        }
    parts: list[Mapping[str, object]] = [{"type": "text", "content": text} for text in texts]
    for call_id, name, arguments in tool_calls:
        parts.append({"type": "tool_call", "id": call_id, "name": name, "arguments": arguments})
    return {"role": role, "parts": parts}


def found_documents(found: object) -> Outcome | None:
    """The documents that a retriever or reranker returned; safe in the application's thread."""
    if not isinstance(found, (list, tuple)):
        return None
    return Outcome(attributes={semconv.DOCUMENT_COUNT: len(found)}, content=partial(documents, tuple(found)))


def documents(found: Sequence[Any]) -> list[Mapping[str, object]]:
    """Documents as the GenAI conventions show them, with `content` and `metadata`: LangChain's and LlamaIndex's classes."""
    return [_document(each) for each in found]


def _document(each: Any) -> Mapping[str, object]:
    score = getattr(each, "score", None)
    if isinstance(each, tuple) and len(each) == 2:
        each, score = each
    each = getattr(each, "node", each)
    text = next(
        (value for name in _DOCUMENT_TEXTS if isinstance(value := getattr(each, name, None), str)), None
    )
    shown = {
        "id": getattr(each, "id", None) or getattr(each, "id_", None),
        "content": text,
        "metadata": getattr(each, "metadata", None),
    }
    if isinstance(score, (int, float)):
        shown["score"] = score
    return {name: value for name, value in shown.items() if value}


def as_it_is(value: T) -> T:
    """What a run was given, or gave back, as its content."""
    return value


def kept(value: Any) -> Any:
    """The value, or a copy of the list or dict that the application may change."""
    return value.copy() if type(value) is dict or type(value) is list else value


def found_vectors(found: object) -> Outcome | None:
    """Dimensions of what an embedding model returned, a vector or a list of them; safe in the application's thread."""
    vector = found[0] if isinstance(found, list) and found and isinstance(found[0], list) else found
    return (
        Outcome(attributes={semconv.EMBEDDING_DIMENSION_COUNT: len(vector)})
        if isinstance(vector, list)
        else None
    )


def _texts(content: object) -> list[str]:
    if type(content) is str:
        return [content] if content else []
    blocks = content if isinstance(content, (list, tuple)) else (content,)
    texts = [_text(block) for block in blocks]
    return [text for text in texts if text]


def _text(block: object) -> str:
    text = block
    if isinstance(block, dict):
        text = block.get("text")
    elif not isinstance(block, str):
        text = getattr(block, "text", None)
    return text if isinstance(text, str) else ""


# --- reading at once, in the application's thread -------------------------------------------------------------------------


def outcome_of(read: Callable[[Any], OutcomeSource | None], result: object) -> OutcomeSource | None:
    """What `read` takes from a result; what it raises is raised again in the worker, which marks the span and warns once."""
    try:
        return read(result)
    except Exception:  # noqa: BLE001 (as said above)
        return partial(read, result)  # type: ignore[return-value]  # it raises


def current_subject() -> object:
    """The `subject` that the current run was started with; None if there is none."""
    span = get_current_span()
    if type(span) is AgentSpan:
        span = span.current()
    return span.subject if type(span) is AgentSpan else None


def current_request_id() -> str | None:
    """The id of the request that the running code belongs to, as the application or the caller of a server said it."""
    request = request_attributes.get() or identity_in(get_current())
    return None if request is None else request.request_id


# --- handlers -------------------------------------------------------------------------------------------------------


class SharedHandler:
    """A handler that reports to the one recorder of the process: a copy of it is itself.

    Applications deep-copy and pickle the configurations that handlers stand in.
    """

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return (type(self), ())


def frame_outside(package: str) -> int:
    """The `frame_id` of a run: the innermost frame outside `package`, from whose modules the adapter was called.

    A framework may start the runs of a batch in a comprehension, which is over before they work, or each in a task of
    its own. The frame around the comprehension counts; of such a task there is none to go by: 0.
    """
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001 (what inspect.currentframe() is made of)
    entry = None
    while frame is not None and (
        frame.f_globals.get("__name__", "").startswith(package) or frame.f_code.co_name in _COMPREHENSIONS
    ):
        entry, frame = frame, frame.f_back
    task = None if (loop := running_loop()) is None else current_task(loop)
    if task is not None and entry is not None and getattr(task.get_coro(), "cr_frame", None) is entry:
        return 0
    return id(frame)


def report_overlap(
    framework: str,
    instrumentors: Mapping[str, str],
    exporters: Mapping[str, Callable[[], str | None]] | None = None,
) -> None:
    """Warn once for each other instrumentation of the framework that is active: it makes a second span of every run.

    Args:
        framework: Its name as people write it.
        instrumentors: Modules with an OpenTelemetry instrumentor → its name, as in "OpenInference's LangChainInstrumentor".
        exporters: Whatever else makes spans, by a short name: a function that says what is active, or None.
    """
    try:
        for module, name in instrumentors.items():
            if module in sys.modules and _is_active(module):
                _report(framework, module, f"{name} is active")
        for name, active in (exporters or {}).items():
            if (what := active()) is not None:
                _report(framework, name, what)
    except Exception as error:  # noqa: BLE001 (it looks into foreign modules, and a handler must always be made)
        get_recorder().health.problem(
            "overlap", f"aiobs: looking for other instrumentations failed ({type(error).__name__})."
        )


def _is_active(module: str) -> bool:
    from opentelemetry.instrumentation import instrumentor  # loaded by the module in question

    base = instrumentor.BaseInstrumentor  # type: ignore[attr-defined]  # untyped module
    for value in vars(sys.modules[module]).values():
        if isinstance(value, type) and value.__module__ == module and issubclass(value, base):
            return bool(value().is_instrumented_by_opentelemetry)  # instrumentors are singletons
    return False


def _report(framework: str, kind: str, what: str) -> None:
    get_recorder().health.problem(
        f"overlap.{kind}",
        f"aiobs: {what} beside aiobs, so every {framework} run gives two spans, and its tokens are counted twice by "
        "whoever sums over both. Switch one of them off.",
    )


# --- packages -------------------------------------------------------------------------------------------------------


def lazy_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A module's `__getattr__` that imports on demand.

    Packages load their instrumentor so: OpenTelemetry's base class of it takes 60 ms to import.

    Args:
        module: The module's `__name__`.
        names: Public name → module that defines it.
    """

    def load(name: str) -> Any:
        if name in names:
            return getattr(import_module(names[name]), name)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return load
