"""What a request says, for the extractors that an application gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs


class Incoming:
    """A request as it came, before anything of the application has seen it. Looked at only where somebody asks.

    Attributes:
        scope: ASGI's scope, or WSGI's environ.
        method: `GET` and the like.
        path: Without the query.
    """

    __slots__ = ("_headers", "_query", "method", "path", "scope")

    def __init__(
        self,
        scope: Mapping[str, Any],
        *,
        method: str,
        path: str,
        query: str,
        headers: Callable[[], Iterable[tuple[str, str]]],
    ) -> None:
        self.scope = scope
        self.method = method
        self.path = path
        self._query = query
        self._headers = headers

    def header(self, name: str) -> str | None:
        """The first header of that name, in upper or lower case; None if there is none."""
        wanted = name.lower()
        return next((value for given, value in self._headers() if given == wanted), None)

    def query(self, name: str) -> str | None:
        """The first value of a parameter of the query."""
        return next(iter(parse_qs(self._query, max_num_fields=1_000).get(name, ())), None)

    def cookie(self, name: str) -> str | None:
        """A cookie."""
        try:
            found = SimpleCookie(self.header("cookie") or "").get(name)
        except CookieError:
            return None
        return None if found is None else found.value


Extract = Callable[[Incoming], str | None]
