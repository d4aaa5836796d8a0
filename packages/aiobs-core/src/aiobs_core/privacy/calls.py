"""Calls to other services, as instrumentations of HTTP and RPC clients record them: what aiobs tells of them beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from opentelemetry.trace import SpanKind

from aiobs_core import semconv
from aiobs_core._operation import Stage

_CALLS: Final = ("http.request.method", "http.method", "rpc.system", "rpc.system.name")
_HOSTS: Final = ("server.address", "net.peer.name", "http.host")
_PORTS: Final = ("server.port", "net.peer.port")
_ADDRESSES: Final = ("url.full", "http.url")
_STATUSES: Final = (semconv.HTTP_RESPONSE_STATUS_CODE, "http.status_code")
_WITH_QUERY: Final = frozenset({"url.full", "http.url", "http.target", "url.template"})
_QUERIES: Final = frozenset({"url.query", "url.fragment"})
_MAX_PORT: Final = 65_535


def call_of(kind: SpanKind, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Stage, name, endpoint, status and attempt of a call; nothing of a span that is none.

    Args:
        kind: Of the span.
        attributes: Of the span, as they leave.
    """
    if kind is not SpanKind.CLIENT or not any(name in attributes for name in _CALLS):
        return {}
    found: dict[str, Any] = {semconv.STAGE: Stage.EXTERNAL_API.value}
    host, port = _place(attributes)
    name = attributes.get("rpc.service") or attributes.get("mcp.method.name") or host
    if isinstance(name, str) and name:
        found[semconv.API_NAME] = name
    if host:
        found[semconv.ENDPOINT] = f"{host}:{port}" if port and 0 < port <= _MAX_PORT else host
    if (status := _first(attributes, _STATUSES, int)) is not None:
        found[semconv.STATUS_CODE] = status
    resent = attributes.get("http.request.resend_count")
    if type(resent) is int and resent > 0:
        found[semconv.RETRY_ATTEMPT] = resent + 1
    return {
        name: value for name, value in found.items() if name not in attributes
    }  # who made the span knows better


def _place(attributes: Mapping[str, Any]) -> tuple[str | None, int | None]:
    host, port = _first(attributes, _HOSTS, str), _first(attributes, _PORTS, int)
    if host is not None:
        return host, port
    try:
        found = urlsplit(_first(attributes, _ADDRESSES, str) or "")
        return found.hostname, found.port
    except ValueError:
        return None, None


def _first(attributes: Mapping[str, Any], names: tuple[str, ...], wanted: type) -> Any:
    return next((attributes[name] for name in names if type(attributes.get(name)) is wanted), None)


def is_query(name: str) -> bool:
    """Whether an attribute of that name is what callers put behind an address: it may be a key, a question, a person."""
    return name in _QUERIES


def without_query(name: str, value: str) -> str:
    """An address without query, fragment, name and password; any other text as it is."""
    if name not in _WITH_QUERY:
        return value
    try:
        found = urlsplit(value)
    except ValueError:
        return ""
    host = found.netloc.rpartition("@")[2]
    return SplitResult(found.scheme, host, found.path, "", "").geturl()
