"""OTLP over HTTP, as protobuf."""

from __future__ import annotations

import gzip
import time
import zlib
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from aiobs_core.export.answer import FAR_S, MAX_PAUSE_S, Answer, of_refusal, of_response
from aiobs_core.export.headers import Headers
from aiobs_core.export.tls_refusal import refusal_in_answer

if TYPE_CHECKING:
    from aiobs_core.export.headers import HeaderSource

_MAX_ANSWER_BYTES: Final = 65_536
_AGAIN_STATUS: Final = frozenset({429, 502, 503, 504})


class HttpTransport:
    """Takes requests to a URL; see `aiobs_core.export.transport.Transport`.

    Args:
        session: Of `requests`; sees to TLS.
        url: Of the receiver.
        source: Headers that go with each request.
        user_agent: Who sends.
        timeout_s: Of one request.
        compression: `gzip` or `deflate`; any other: none.
        tls: Arguments of `session.post` about TLS, where the session needs any.
    """

    def __init__(
        self,
        session: Any,
        url: str,
        *,
        source: HeaderSource,
        user_agent: str,
        timeout_s: float,
        compression: str,
        tls: Mapping[str, Any],
    ) -> None:
        self._session = session
        self._url = url
        self._source = source
        self._timeout_s = timeout_s
        self._compress: Callable[[bytes], bytes] | None = _COMPRESSIONS.get(compression)
        self._headers = {"content-type": "application/x-protobuf", "user-agent": user_agent}
        if self._compress is not None:
            self._headers["content-encoding"] = compression
        self._tls = tls

    def send(self, request: bytes, within_s: float = FAR_S) -> Answer:
        import requests

        from aiobs_core.export.tls_session import ConnectionRefused

        timeout_s = min(self._timeout_s, within_s)
        body = request if self._compress is None else self._compress(request)
        try:
            # Not followed: a redirect would turn the POST into a GET, or take secret headers to another host.
            with self._session.post(
                self._url,
                data=body,
                headers=Headers({**self._headers, **self._source.headers()}),
                timeout=timeout_s,
                allow_redirects=False,
                stream=True,
                **self._tls,
            ) as response:
                return _of_status(response, _body_of(response, timeout_s))
        except ConnectionRefused as error:
            return of_refusal(error.refusal.kind)
        except requests.RequestException as error:
            return Answer(verdict="again", why=_class_of(error), may_have_arrived=not _never_connected(error))
        except OSError as error:  # a certificate file that is not there
            return Answer(verdict="again", why=type(error).__name__, is_ours=True)

    def close(self) -> None:
        self._session.close()


def _body_of(response: Any, timeout_s: float) -> bytes:
    """The answer's body, as far as it is of interest and comes in time."""
    deadline_s = time.monotonic() + timeout_s
    body = b""
    for chunk in response.iter_content(
        1
    ):  # a larger one would wait for all of it, from a receiver that drips
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES or time.monotonic() > deadline_s:
            break
    return body


def _of_status(response: Any, body: bytes) -> Answer:
    status = int(response.status_code)
    why = f"HTTP status {status}"
    if 200 <= status < 300:
        return of_response(body)
    if status in _AGAIN_STATUS:
        return Answer(
            verdict="again", why=why, after_s=_retry_after_s(response.headers.get("Retry-After", ""))
        )
    if status == 413:
        return Answer(verdict="split", why=why)
    # A front such as nginx refuses certificates this way; that can be mended, the spans wait.
    refusal = refusal_in_answer(body) if status == 400 else None
    if refusal is not None:
        return of_refusal(refusal.kind)
    if 300 <= status < 400:
        return Answer(verdict="again", why=f"{why}: redirects are not followed")
    return Answer(verdict="refused", why=why)


def _retry_after_s(value: str) -> float:
    """Seconds in a `Retry-After`, which is a number or a date."""
    value = value.strip()
    if value.isdigit():
        return float(min(int(value[:9]), MAX_PAUSE_S))
    try:
        return min(max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0), MAX_PAUSE_S)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _never_connected(error: Exception) -> bool:
    import requests

    if isinstance(
        error, (requests.ConnectTimeout, requests.exceptions.SSLError, requests.exceptions.ProxyError)
    ):
        return True
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(error, requests.ConnectionError) and type(reason).__name__ in {
        "NewConnectionError",
        "NameResolutionError",
        "ConnectTimeoutError",
    }


def _class_of(error: BaseException) -> str:
    """The class of the error below requests' own: its message may hold the endpoint."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return type(reason).__name__ if isinstance(reason, BaseException) else type(error).__name__


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=6, mtime=0)


def _deflate(body: bytes) -> bytes:
    return zlib.compress(body)


_COMPRESSIONS: Final[Mapping[str, Callable[[bytes], bytes]]] = {"gzip": _gzip, "deflate": _deflate}
