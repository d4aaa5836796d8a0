"""Context across the border of a process: W3C trace context, and what of a request's identity goes with it as baggage.

`traceparent` and `tracestate` travel by OpenTelemetry's global propagator, so each of its instrumentations (HTTP clients,
gRPC, brokers) carries them. `install` has the same propagator take along the identity of the request, and nothing else:
baggage that came from outside is not passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import Token
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

from opentelemetry import propagate
from opentelemetry.baggage import clear, get_all, remove_baggage, set_baggage
from opentelemetry.context import Context, attach, create_key, detach, get_current
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

from aiobs_core import semconv
from aiobs_core._context import (
    BAGGAGE_KEY,
    RUN_KEY,
    SPAN_KEY,
    RequestAttributes,
    identity_in,
    is_id,
    request_attributes,
)
from aiobs_core._inside import still_open
from aiobs_core._process import get_recorder

if TYPE_CHECKING:
    from aiobs_core._settings import Settings

__all__ = [
    "HEADERS",
    "Headers",
    "RequestAttributes",
    "RequestPropagator",
    "continued",
    "entered",
    "extract",
    "identity_in",
    "inject",
    "install",
    "is_id",
    "request_in_force",
    "set_request",
    "unset_request",
]
_BAGGAGE: Final = "baggage"
_TRACEPARENT: Final = "traceparent"
_TRACESTATE: Final = "tracestate"
_MAX_HEADER_CHARS: Final = 8_192  # of all baggage, https://www.w3.org/TR/baggage/#limits
_MAX_PARENT_CHARS: Final = 512  # OpenTelemetry's own reader writes longer ones into the application's log
_MAX_STATE_CHARS: Final = (
    512  # of a tracestate that has to be passed on, https://www.w3.org/TR/trace-context/
)
_MAX_ENTRIES: Final = 64
_MEMBER: Final = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256})\s*=\s*([\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*)\s*(;.*)?"
)
_STATE_MEMBER: Final = re.compile(
    r"(?:[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_RECEIVED: Final = create_key("aiobs-received-baggage")


class Headers(Getter[Any]):
    """Reads headers and metadata in all shapes that servers and brokers have.

    Mappings or pairs, names and values in text or bytes, one value or several. Upper and lower case of names are the same.
    """

    def get(self, carrier: Any, key: str) -> list[str] | None:
        found: list[Any] = []
        for name, value in _pairs(carrier):
            if _name(name) == key:
                found.extend(value if isinstance(value, (list, tuple)) else [value])
        return found or None

    def keys(self, carrier: Any) -> list[str]:
        return [_name(name) for name, _ in _pairs(carrier)]


def _pairs(carrier: Any) -> list[tuple[Any, Any]]:
    return list(carrier.items() if isinstance(carrier, Mapping) else carrier or ())


def _name(name: object) -> str:
    return (name.decode("latin-1") if isinstance(name, bytes) else str(name)).lower()


HEADERS: Final = Headers()


def install() -> None:
    """Have OpenTelemetry's global propagator take the identity of requests along, in and out; does nothing a second time.

    Called by the packages for servers and brokers. The propagators that were set (`OTEL_PROPAGATORS`) stay in place behind
    it; where `baggage` is none of them, no identity travels.

    Example:
        >>> install()
    """
    current = propagate.get_global_textmap()
    if not isinstance(current, RequestPropagator):
        propagate.set_global_textmap(RequestPropagator(current))


def extract(carrier: Any, *, getter: Getter[Any] = HEADERS) -> Context:
    """The context that a carrier (headers, metadata of a message) brings: its trace, and the identity of its request.

    Never raises because of what the carrier says. Malformed, doubled or oversized headers count as none.

    Args:
        carrier: Headers as `Headers` reads them, or whatever `getter` can read.
        getter: Reads it.

    Example:
        >>> from opentelemetry.trace import get_current_span
        >>> came = extract({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})
        >>> f"{get_current_span(came).get_span_context().trace_id:032x}"
        '0af7651916cd43dd8448eb211c80319c'
    """
    return _propagator().extract(carrier, Context(), getter)


def inject(carrier: CarrierT, *, setter: Setter[CarrierT] = default_setter) -> None:
    """Put the current trace and the identity of the request into a carrier.

    Args:
        carrier: A mutable mapping, or whatever `setter` can write.
        setter: Writes it.

    Example:
        >>> headers: dict[str, str] = {}
        >>> inject(headers)  # outside of any trace
        >>> headers
        {}
    """
    _propagator().inject(carrier, None, setter)


@contextmanager
def continued(carrier: Any, *, getter: Getter[Any] = HEADERS) -> Iterator[Context]:
    """Go on with the trace and the request of a carrier inside the block.

    Args:
        carrier: As for `extract`.
        getter: Reads it.

    Example:
        >>> with continued({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}):
        ...     pass  # handle the message
    """
    with entered(extract(carrier, getter=getter)) as context:
        yield context


@contextmanager
def entered(came: Context) -> Iterator[Context]:
    """Go on with the trace and the request that `extract` has found, inside the block.

    Args:
        came: Context of the carrier, or one with another current span put into it.

    Example:
        >>> with entered(extract({"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"})):
        ...     pass  # handle the message
    """
    # Another request's trace: the baggage around the block is none of its business. Suppression and policy stay.
    around = clear(get_current()) if SPAN_KEY in came else get_current()
    context = Context({**around, **came})
    token = attach(context)
    given = request_attributes.set(_request_of(came, request_attributes.get()))
    try:
        yield context
    finally:
        unset_request(given)
        detach(token)


def _request_of(came: Context, outer: RequestAttributes | None) -> RequestAttributes | None:
    """The request that came; what holds for the block, but is no identity, stays."""
    request = identity_in(came)
    if request is None:
        return outer
    return (
        request if outer is None else replace(request, tags=outer.tags, privacy_policy=outer.privacy_policy)
    )


def request_in_force() -> RequestAttributes | None:
    """What `using_attributes` or a server says of the request here."""
    return request_attributes.get()


def set_request(request: RequestAttributes | None) -> Token[RequestAttributes | None]:
    """Let the runs that start here belong to a request, or to none, until `unset_request`: for servers, which are no blocks."""
    return request_attributes.set(request)


def unset_request(token: Token[RequestAttributes | None]) -> None:
    """Undo `set_request`; does nothing in another context, where it was never done."""
    try:
        request_attributes.reset(token)
    except ValueError:
        return


def _propagator() -> RequestPropagator:
    current = propagate.get_global_textmap()
    return current if isinstance(current, RequestPropagator) else RequestPropagator(current)


class RequestPropagator(TextMapPropagator):
    """Carries what another propagator carries; of baggage only what may cross the border of the process."""

    def __init__(self, inner: TextMapPropagator) -> None:
        self._inner = inner
        self._hashes = _Hashes()

    @property
    def fields(self) -> set[str]:
        return self._inner.fields

    def extract(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,
    ) -> Context:
        before = get_current() if context is None else context
        try:
            found = self._inner.extract(carrier, before, _Wary(getter))
        except Exception:  # noqa: BLE001 (a carrier that cannot be read brings nothing)
            return before
        if found.get(BAGGAGE_KEY) is before.get(BAGGAGE_KEY):
            return found
        return Context({**found, _RECEIVED: frozenset(get_all(found))})

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        self._inner.inject(carrier, self._leaving(get_current() if context is None else context), setter)

    def _leaving(self, context: Context) -> Context:
        settings = get_recorder().settings
        received: Any = context.get(_RECEIVED, frozenset())
        for name in received.difference(settings.baggage_keys):
            context = remove_baggage(name, context)
        for name, value in self._identity(context, settings).items():
            context = set_baggage(name, value, context)
        return context

    def _identity(self, context: Context, settings: Settings) -> Mapping[str, str]:
        run = still_open(context.get(RUN_KEY))  # type: ignore[arg-type]  # a run or nothing
        request = request_attributes.get()
        if run is not None:
            request = request or run.request
        request = request or identity_in(context)
        found = {} if request is None else self._hashes.identity(request, settings)
        if run is not None:
            found.setdefault(semconv.REQUEST_ID, f"{run.trace.trace_id:032x}")
            if run.trace.is_forced:
                found[semconv.SAMPLING_KEEP] = "true"
        return found


class _Hashes:
    """Ids of sessions and tenants in the form in which they may leave: hashed, each once."""

    _MAX: Final = 4_096

    def __init__(self) -> None:
        self._settings: Settings | None = None
        self._hasher: Any = None
        self._known: dict[tuple[str, str], str | None] = {}

    def identity(self, request: RequestAttributes, settings: Settings) -> dict[str, str]:
        found = {}
        if request.request_id:
            found[semconv.REQUEST_ID] = request.request_id
        if request.session_id and (session := self._hash("session_id", request.session_id, settings)):
            found[semconv.SESSION_ID] = session
        if request.tenant_id and (tenant := self._hash("user_id", request.tenant_id, settings)):
            found[semconv.TENANT_ID] = tenant
        return found

    def _hash(self, field: str, value: str, settings: Settings) -> str | None:
        from aiobs_core.privacy.hashing import is_hash

        if is_hash(value):
            return value
        if settings is not self._settings or len(self._known) >= self._MAX:
            self._renew(settings)
        key = field, value
        if key not in self._known:
            self._known[key] = None if self._hasher is None else self._hasher.hash(field, value)
        return self._known[key]

    def _renew(self, settings: Settings) -> None:
        from aiobs_core.privacy.hashing import Hasher
        from aiobs_core.privacy.keys import keys_in_force

        try:
            hasher: Hasher | None = Hasher(keys_in_force(settings))
        except (
            OSError,
            RuntimeError,
            ValueError,
        ):  # said where the key is used first; without one nothing leaves
            hasher = None
        self._settings, self._hasher, self._known = settings, hasher, {}


class _Wary(Getter[CarrierT]):
    """Reads a carrier of strangers: what is malformed, doubled or too large is not there."""

    def __init__(self, getter: Getter[CarrierT]) -> None:
        self._getter = getter

    def keys(self, carrier: CarrierT) -> list[str]:
        return self._getter.keys(carrier)

    def get(self, carrier: CarrierT, key: str) -> list[str] | None:
        values = self._getter.get(carrier, key)
        if values is None:
            return None
        texts = [text for value in values if (text := _text(value)) is not None]
        if key == _TRACEPARENT:
            is_one = len(values) == len(texts) == 1 and len(texts[0]) <= _MAX_PARENT_CHARS
            return texts if is_one else None
        joined = ",".join(texts)
        if key == _TRACESTATE:
            return _well_formed_state(joined)
        if key == _BAGGAGE:
            return _well_formed(joined)
        return texts or None


def _text(value: object) -> str | None:
    if isinstance(value, (bytes, bytearray)):
        value = bytes(value).decode("latin-1")
    return value if isinstance(value, str) and value.isascii() and value.isprintable() else None


def _well_formed_state(header: str) -> list[str] | None:
    """The members of a state that are ones; OpenTelemetry's own reader writes the others into the application's log."""
    if len(header) > _MAX_STATE_CHARS:
        return None
    members = [member for member in map(str.strip, header.split(",")) if _STATE_MEMBER.fullmatch(member)]
    return [",".join(members)] if members else None


def _well_formed(header: str) -> list[str] | None:
    """The members of a header that are ones; OpenTelemetry's own reader writes the others into the application's log."""
    if not 0 < len(header) <= _MAX_HEADER_CHARS:
        return None
    members: dict[str, str] = {}
    for member in header.split(",", _MAX_ENTRIES)[:_MAX_ENTRIES]:
        found = _MEMBER.fullmatch(member)
        if found is not None and unquote_plus(found[2]).isprintable():
            members.setdefault(found[1], f"{found[1]}={found[2]}")
    return [",".join(members.values())] if members else None
