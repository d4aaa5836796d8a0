"""Zero-code registration, through LangChain's own configure hook: nothing is patched."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]  # untyped module

from aiobs_langchain._handler import AiObsCallbackHandler

if TYPE_CHECKING:
    from aiobs_core.methods import ObservedMethods


class _Hook:
    """What LangChain asks for the handler of a run; a context variable's `get`, with a value for all contexts."""

    handler: AiObsCallbackHandler | None = None
    registered = False

    def get(self) -> AiObsCallbackHandler | None:
        return self.handler


_hook: Final = _Hook()


class LangChainInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # Any: the module is untyped
    """Records every LangChain and LangGraph run of the process, without passing callbacks.

    Also found by `opentelemetry-instrument` under the name `aiobs_langchain`. A handler given in `config` is used
    instead of this one, so nothing is recorded twice. LangGraph's `on_interrupt` and `on_resume` do not reach hooks;
    pauses are seen all the same.

    With `instrument(embeddings=True)` also the calls of all embedding models and vector stores, which have no callbacks:
    their methods are wrapped, of classes that are made later, too, until `uninstrument()`.

    Example:
        >>> LangChainInstrumentor().instrument(embeddings=True)
        >>> LangChainInstrumentor().uninstrument()
    """

    _observed: tuple[ObservedMethods, ...] = ()

    def instrumentation_dependencies(self) -> Collection[str]:
        return ("langchain-core >= 1.0, < 2",)

    def _instrument(self, *, embeddings: bool = False, **_: Any) -> None:
        if embeddings:
            from aiobs_langchain._embeddings import EMBEDDINGS, STORES  # LangChain's vector stores load NumPy

            self._observed = (EMBEDDINGS, STORES)
            for each in self._observed:
                each.install()
        _hook.handler = AiObsCallbackHandler()
        # LangChain's module of hooks loads LangSmith's client: 0.3 s that only those pay who come here.
        from langchain_core.tracers.context import register_configure_hook

        if not _hook.registered:  # hooks cannot be taken back; an empty one costs a function call per run
            register_configure_hook(_hook, inheritable=True, handle_class=AiObsCallbackHandler)  # type: ignore[arg-type]
            _hook.registered = True

    def _uninstrument(self, **_: Any) -> None:
        _hook.handler = None
        for each in self._observed:
            each.uninstall()
