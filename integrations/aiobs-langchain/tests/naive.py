"""A LangChain callback handler as it is usually written, with every trap that the tests name.

Never use it: it exists so that each test can be shown to fail. `fails_with_naive` runs a test twice, against aiobs and
against this handler, and expects an AssertionError from the second.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import Status, StatusCode, set_span_in_context
from scenarios import Subject


class NaiveHandler(BaseCallbackHandler):
    """One SDK span per run, opened and attached in start, closed and detached in end; state on the instance."""

    made = 0

    def __init__(self, provider: TracerProvider) -> None:
        type(self).made += 1
        self.tracer = provider.get_tracer("naive")
        self.open: dict[Any, Any] = {}
        self.tokens: dict[Any, int] = {}
        self.inputs: dict[Any, Any] = {}

    def _begin(self, name, run_id, parent_run_id, inputs, metadata) -> None:
        parent = self.open.get(parent_run_id)
        above = set_span_in_context(parent[0]) if parent else None
        span = self.tracer.start_span(name, context=above)
        span.set_attribute("seen.input", str(inputs))
        span.set_attribute("session.id", str(run_id))
        for key, value in (metadata or {}).items():
            span.set_attribute(f"metadata.{key}", value)
        token = context.attach(set_span_in_context(span))
        self.open[run_id] = (span, token)
        self.inputs[run_id] = inputs

    def _finish(self, run_id, output) -> None:
        span, token = self.open.pop(run_id)
        span.set_attribute("seen.final", str(self.inputs.pop(run_id)))
        span.set_attribute("seen.output", str(output))
        context.detach(token)
        span.end()

    def _break(self, run_id, error) -> None:
        span, token = self.open.pop(run_id)
        self.inputs.pop(run_id)
        span.record_exception(error)
        span.set_attribute("error.message", str(error))
        span.set_status(Status(StatusCode.ERROR, str(error)))
        context.detach(token)
        span.end()

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, metadata=None, **kwargs):
        self._begin(serialized["name"], run_id, parent_run_id, inputs, metadata)

    def on_chat_model_start(
        self, serialized, messages, *, run_id, parent_run_id=None, metadata=None, **kwargs
    ):
        self.tokens[run_id] = 0
        self._begin("chat", run_id, parent_run_id, messages, metadata)
        self.open[run_id][0].set_attribute("params", str(kwargs.get("invocation_params")))

    def on_llm_start(self, serialized, prompts, *, run_id, parent_run_id=None, metadata=None, **kwargs):
        self.tokens[run_id] = 0
        self._begin("completion", run_id, parent_run_id, prompts, metadata)

    def on_tool_start(self, serialized, input_str, *, run_id, parent_run_id=None, metadata=None, **kwargs):
        self._begin(serialized["name"], run_id, parent_run_id, input_str, metadata)

    def on_retriever_start(self, serialized, query, *, run_id, parent_run_id=None, metadata=None, **kwargs):
        self._begin(serialized["name"], run_id, parent_run_id, query, metadata)

    def on_llm_new_token(self, tok, *, run_id, **kwargs):
        self.tokens[run_id] += 1

    def on_llm_end(self, response, *, run_id, **kwargs):
        span = self.open[run_id][0]
        usage = [
            getattr(choice.message, "usage_metadata", None) or {}
            for prompt in response.generations
            for choice in prompt
            if hasattr(choice, "message")
        ]
        span.set_attribute("usage.input_tokens", sum(one.get("input_tokens", 0) for one in usage))
        span.set_attribute("usage.output_tokens", sum(one.get("output_tokens", 0) for one in usage))
        span.set_attribute("chunk.count", self.tokens.pop(run_id, 0))
        self._finish(run_id, response)

    def on_chain_end(self, outputs, *, run_id, **kwargs):
        self._finish(run_id, outputs)

    on_tool_end = on_chain_end
    on_retriever_end = on_chain_end

    def on_chain_error(self, error, *, run_id, **kwargs):
        self._break(run_id, error)

    on_llm_error = on_chain_error
    on_tool_error = on_chain_error
    on_retriever_error = on_chain_error


class NamedNaiveHandler(NaiveHandler):
    """The same with the usual patch for `serialized` being None, so that it gets as far as the next trap."""

    def on_chain_start(self, serialized, inputs, *, name=None, **kwargs):
        super().on_chain_start({"name": name or "chain"}, inputs, **kwargs)

    def on_retriever_start(self, serialized, query, *, name=None, **kwargs):
        super().on_retriever_start({"name": name or "retriever"}, query, **kwargs)


class _Everything(SpanProcessor):
    def __init__(self) -> None:
        self.started: list[Any] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span, parent_context=None):
        self.started.append(span)

    def on_end(self, span):
        self.ended.append(span)


class NaiveSubject(Subject):
    """What a scenario sees when it runs with the naive handler; the attribute names are translated to ours."""

    is_naive = True
    names = {
        "gen_ai.conversation.id": "session.id",
        "ai.agent.usage.input_tokens": "usage.input_tokens",
        "ai.agent.usage.output_tokens": "usage.output_tokens",
        "ai.agent.chunk.count": "chunk.count",
    }

    def __init__(self) -> None:
        super().__init__()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self._seen = _Everything()
        self.provider.add_span_processor(self._seen)
        self.handler = self.make_handler()

    def make_handler(self) -> NaiveHandler:
        return NamedNaiveHandler(self.provider)

    def tracer(self) -> trace.Tracer:
        return self.provider.get_tracer("app")

    def spans(self) -> list[ReadableSpan]:
        return list(self._seen.ended)

    def all_ended(self, timeout_s: float = 0.0) -> list[ReadableSpan]:
        return self.spans()  # what did not end will not

    def open_runs(self) -> int:
        return len(self._seen.started) - len(self._seen.ended)


def fails_with_naive(check: Callable[..., Any]) -> Callable[..., Any]:
    """Make two tests of one: it holds with aiobs, and an assertion in it fails with the naive handler.

    Each half runs in a context of its own, since the naive one leaves its spans attached for ever.
    """
    if inspect.iscoroutinefunction(check):

        @functools.wraps(check)
        async def test(*args: Any, **kwargs: Any) -> None:
            naive = any(getattr(value, "is_naive", False) for value in kwargs.values())
            task = asyncio.get_running_loop().create_task(check(*args, **kwargs))
            if not naive:
                await task
                return
            with pytest.raises(AssertionError):
                await task

    else:

        @functools.wraps(check)
        def test(*args: Any, **kwargs: Any) -> None:
            naive = any(getattr(value, "is_naive", False) for value in kwargs.values())
            run = contextvars.copy_context().run
            if not naive:
                run(check, *args, **kwargs)
                return
            with pytest.raises(AssertionError):
                run(check, *args, **kwargs)

    return pytest.mark.parametrize("subject", ["aiobs", "naive"], indirect=True)(test)
