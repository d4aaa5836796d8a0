"""What holds for everything inside a block: request identity, tags, prompt, suppression."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeGuard

from opentelemetry.baggage import get_baggage, set_baggage
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,
    Context,
    attach,
    create_key,
    detach,
    set_value,
)
from opentelemetry.trace import INVALID_SPAN, Span, set_span_in_context

from aiobs_core import semconv

if TYPE_CHECKING:
    from aiobs_core._span import AgentSpan

SUPPRESS_KEY: Final[str] = (
    _SUPPRESS_INSTRUMENTATION_KEY  # every instrumentation reads this key, private or not
)
(SPAN_KEY,) = set_span_in_context(INVALID_SPAN, Context())  # the key is private, what it is put under is not
RUN_KEY: Final = create_key("aiobs-run")
(BAGGAGE_KEY,) = set_baggage("", "", Context())  # as SPAN_KEY
_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")


def context_with(context: Context, span: Span) -> Context:
    """The context in which one of our spans is current, and known as the innermost run."""
    return Context({**context, SPAN_KEY: span, RUN_KEY: span})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestAttributes:
    """Identity of the request that runs belong to; see `using_attributes`."""

    request_id: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    tenant_id: str | None = None
    tags: tuple[str, ...] = ()
    prompt_name: str | None = None
    prompt_version: str | None = None
    privacy_policy: str | None = None


_CARRIED: Final = {
    "request_id": semconv.REQUEST_ID,
    "session_id": semconv.SESSION_ID,
    "tenant_id": semconv.TENANT_ID,
}
"""What of it crosses the border of a process, by the key of the baggage."""

request_attributes: ContextVar[RequestAttributes | None] = ContextVar(
    "aiobs_request_attributes", default=None
)


def is_id(text: object) -> TypeGuard[str]:
    """Whether something can be the id of a request: short, printable, without spaces, so that it can be a header."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def identity_in(context: Context) -> RequestAttributes | None:
    """What the baggage of a context says of the request; anybody may have sent it, so only short plain ids count."""
    if BAGGAGE_KEY not in context:
        return None
    found = {field: value for field, name in _CARRIED.items() if is_id(value := get_baggage(name, context))}
    return RequestAttributes(**found) if found else None  # type: ignore[arg-type]  # all of them are texts


def request_for(context: Context, parent: AgentSpan | None) -> RequestAttributes | None:
    """The request that a run belongs to: as the application says, else as its parent; of a root, also as the baggage does."""
    request = request_attributes.get()
    if parent is not None:
        return request or parent.request
    came = identity_in(context) if BAGGAGE_KEY in context else None
    if came is None or request is None:
        return request or came
    missing = {
        name: value for name in _CARRIED if (value := getattr(came, name)) and getattr(request, name) is None
    }
    return replace(request, **missing) if missing else request


@contextmanager
def using_attributes(
    *,
    request_id: str | None = None,
    user_id: str | None = None,
    session_id: str | None = None,
    conversation_id: str | None = None,
    tenant_id: str | None = None,
    tags: Sequence[str] = (),
    prompt_name: str | None = None,
    prompt_version: str | None = None,
    privacy_policy: str | None = None,
) -> Iterator[None]:
    """Put the request's identity on every run started inside the block.

    Blocks nest: an inner one adds to the outer one and wins where both set the same. The values follow the context
    into tasks, and into threads that copy it; runs also inherit them from their parent.

    Args:
        request_id: `ai.agent.request.id`.
        user_id: `ai.agent.user.id`; leaves as a keyed hash unless the privacy policy allows otherwise.
        session_id: `ai.agent.session.id` and `gen_ai.conversation.id`.
        conversation_id: Another name for `session_id`.
        tenant_id: `ai.agent.tenant.id`; leaves as `user_id` does.
        tags: `ai.agent.tags`; added to the outer block's.
        prompt_name: `ai.agent.prompt.name`.
        prompt_version: `ai.agent.prompt.version`.
        privacy_policy: Name of the policy for what the runs say: a preset, or one of `AIOBS_PRIVACY_POLICIES`. An
            unknown one lets no content out.

    Example:
        >>> with using_attributes(request_id="r-17", session_id="s-4"):
        ...     pass  # chain.invoke(...)
    """
    given = {
        "request_id": request_id,
        "user_id": user_id,
        "session_id": session_id or conversation_id,
        "tenant_id": tenant_id,
        "prompt_name": prompt_name,
        "prompt_version": prompt_version,
        "privacy_policy": privacy_policy,
    }
    outer = request_attributes.get() or RequestAttributes()
    inner = replace(
        outer,
        tags=(*outer.tags, *(tag for tag in _strings(tags) if tag not in outer.tags)),
        **{name: str(value) for name, value in given.items() if value is not None},
    )
    token = request_attributes.set(inner)
    try:
        yield
    finally:
        _reset(token, inner, outer)


def _strings(tags: Sequence[str]) -> tuple[str, ...]:
    return (tags,) if isinstance(tags, str) else tuple(str(tag) for tag in tags)


def _reset(
    token: Token[RequestAttributes | None], inner: RequestAttributes, outer: RequestAttributes
) -> None:
    try:
        request_attributes.reset(token)
    except ValueError:  # an async generator that was closed in another context
        if request_attributes.get() is inner:
            request_attributes.set(outer if outer != RequestAttributes() else None)


@contextmanager
def suppressed() -> Iterator[None]:
    """Record nothing for runs started inside the block; OpenTelemetry's own suppression key.

    Other instrumentations that honour the key stay silent, too.
    """
    token = attach(set_value(SUPPRESS_KEY, True))
    try:
        yield
    finally:
        detach(token)
