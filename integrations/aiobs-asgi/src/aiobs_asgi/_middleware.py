"""What both middlewares can be told, and what follows from it for one request."""

from __future__ import annotations

import fnmatch
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, get_current_span

from aiobs_asgi._incoming import Extract, Incoming
from aiobs_core import AgentSpan, get_recorder
from aiobs_core.propagation import RequestAttributes, identity_in, install, is_id, request_in_force

App = TypeVar("App")
SEEN: Final = "aiobs.request"
"""In the scope or environ of a request that another middleware of these is around already."""
_TRACE_HEADERS: Final = ("traceparent", "tracestate", "baggage")
_YES: Final = frozenset({"1", "true", "yes"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Of the middlewares; names of headers in lower case."""

    request_id_header: str
    user: Extract | None
    session: Extract | None
    tenant: Extract | None
    server_timing: bool

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


class Middleware(ABC, Generic[App]):
    """Takes the options, and the page of metrics; how a request passes, each interface says itself."""

    def __init__(
        self,
        app: App,
        *,
        exclude: Sequence[str] = (),
        request_id_header: str = "x-request-id",
        keep_header: str | None = None,
        user: Extract | None = None,
        session: Extract | None = None,
        tenant: Extract | None = None,
        server_timing: bool = False,
        metrics_path: str | None = None,
    ) -> None:
        self.app = app
        self._excluded = _matcher(exclude)
        self._options = Options(
            request_id_header=request_id_header.lower(),
            user=user,
            session=session,
            tenant=tenant,
            server_timing=server_timing,
        )
        self._id_header = self._key_of(request_id_header.lower())
        self._keep_header = None if keep_header is None else self._key_of(keep_header.lower())
        self._trace_headers = {self._key_of(name): name for name in _TRACE_HEADERS}
        self._metrics_path = metrics_path
        self._metrics = None if metrics_path is None else self._page()
        install()

    @abstractmethod
    def _page(self) -> App:
        """The application that serves the page of metrics."""

    @abstractmethod
    def _key_of(self, header: str) -> Any:
        """Under which a header stands in a request."""

    def _is_recorded(self, path: str) -> bool:
        return get_recorder().settings.is_on and not (self._excluded and self._excluded(path))


def _matcher(patterns: Sequence[str]) -> Callable[[str], object] | None:
    if isinstance(patterns, str) or not all(isinstance(each, str) for each in patterns):
        raise ValueError(
            f"exclude: expected a list of patterns of paths, such as ['/healthz', '/static/*'], got {patterns!r}."
        )
    if not patterns:
        return None
    return re.compile("|".join(f"(?:{fnmatch.translate(each)})" for each in patterns)).match


def wants_kept(value: str | None) -> bool:
    """Whether a header asks for the trace to be kept."""
    return value is not None and value.strip().lower() in _YES


def server_span() -> Span | None:
    """The span of another instrumentation for the same request, if one is around: it is joined, not doubled."""
    current = get_current_span()
    if isinstance(current, AgentSpan) or not current.is_recording():
        return None
    return current if getattr(current, "kind", None) is SpanKind.SERVER else None


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
