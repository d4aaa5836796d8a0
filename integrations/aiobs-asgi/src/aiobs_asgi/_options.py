"""What both middlewares can be told, and what follows from it for one request."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeGuard

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, get_current_span

from aiobs_core import AgentSpan, get_recorder
from aiobs_core.propagation import RequestAttributes, identity_in, request_in_force

if TYPE_CHECKING:
    from aiobs_asgi._incoming import Extract, Incoming

_ID: Final = re.compile(r"[\x21-\x7e]{1,128}")
_YES: Final = frozenset({"1", "true", "yes"})
TRACE_HEADERS: Final = frozenset({"traceparent", "tracestate", "baggage"})


def is_id(text: str | None) -> TypeGuard[str]:
    """Whether a text can be the id of a request, and a header."""
    return text is not None and _ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """See the middlewares."""

    exclude: Sequence[str] = ()
    request_id_header: str = "x-request-id"
    keep_header: str | None = None
    user: Extract | None = None
    session: Extract | None = None
    tenant: Extract | None = None
    server_timing: bool = False
    _excluded: Callable[[str], object] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if isinstance(self.exclude, str) or not all(isinstance(each, str) for each in self.exclude):
            raise ValueError(
                f"exclude: expected a list of patterns of paths, such as ['/healthz', '/static/*'], got {self.exclude!r}."
            )
        for name in ("request_id_header", "keep_header"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, given.lower())
        if self.exclude:
            pattern = "|".join(f"(?:{fnmatch.translate(each)})" for each in self.exclude)
            object.__setattr__(self, "_excluded", re.compile(pattern).match)

    def excludes(self, path: str) -> bool:
        """Whether a path is none of aiobs' business."""
        return self._excluded is not None and self._excluded(path) is not None

    def wants_kept(self, value: str | None) -> bool:
        """What the header says that asks for the trace to be kept."""
        return value is not None and value.strip().lower() in _YES

    def identity(
        self,
        context: Context,
        incoming: Callable[[], Incoming],
        request_id: str | None,
        *,
        default: str | None,
    ) -> RequestAttributes:
        """Who asks: as the extractors say, else as a service upstream does, else as the header does, else `default`.

        Never raises: an extractor of the application's that fails is told of once, and says nothing.
        """
        came = identity_in(context) or RequestAttributes()
        outer = request_in_force() or RequestAttributes()
        if not is_id(request_id):
            request_id = None
        user = session = tenant = None
        if self.user or self.session or self.tenant:
            asked = incoming()
            user, session, tenant = (
                _said(extract, asked, name)
                for name, extract in (("user", self.user), ("session", self.session), ("tenant", self.tenant))
            )
        return RequestAttributes(
            request_id=came.request_id or request_id or outer.request_id or default,
            user_id=user or outer.user_id,
            session_id=session or came.session_id or outer.session_id,
            tenant_id=tenant or came.tenant_id or outer.tenant_id,
            tags=outer.tags,
            prompt_name=outer.prompt_name,
            prompt_version=outer.prompt_version,
            privacy_policy=outer.privacy_policy,
        )


def _said(extract: Extract | None, asked: Incoming, name: str) -> str | None:
    if extract is None:
        return None
    try:
        found = extract(asked)
        return None if found is None else str(found)
    except Exception as error:  # noqa: BLE001 (the application's; its request must not fail for it)
        get_recorder().health.problem(
            f"request.{name}",
            f"aiobs: the extractor of the {name} failed ({type(error).__name__}); the request has none.",
        )
        return None


def server_span() -> Span | None:
    """The span of another instrumentation for the same request, if one is around: it is joined, not doubled."""
    current = get_current_span()
    if isinstance(current, AgentSpan) or not current.is_recording():
        return None
    return current if getattr(current, "kind", None) is SpanKind.SERVER else None
