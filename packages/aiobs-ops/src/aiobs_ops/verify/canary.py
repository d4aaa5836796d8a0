"""The canary: a request with a trace, an id and planted secrets of its own, and what the answer says of it."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import Final, NamedTuple
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, Request

from aiobs_core import AiobsError, semconv

PLACEHOLDER: Final = "{canary}"
TRACEPARENT: Final = "traceparent"
CANARY_HEADER: Final = "x-aiobs-canary"
_W3C: Final = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_ADDRESS: Final = re.compile(r"https?://[^/?#\s]+", re.IGNORECASE)
_MAX_PAGE_BYTES: Final = 64 << 20


class Hop(NamedTuple):
    """An address that the canary is sent to.

    Attributes:
        name: What it is called in messages; may be empty.
        url: Where it answers.
    """

    name: str
    url: str

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        place = f"{parts.scheme}://{parts.netloc}"  # a query may be secret
        return f"{self.name} ({place})" if self.name else place


def require_address(url: str) -> None:
    """Refuse what is no address of HTTP.

    Raises:
        ValueError: What is accepted.
    """
    if not _ADDRESS.match(url):
        raise ValueError(f"expected http:// or https:// and a host, got {url[:80]!r}")
    if "@" in urlsplit(url).netloc:
        raise ValueError(
            "expected an address without a user: a password goes into a header, such as 'authorization: Basic …'"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How the service is asked.

    Attributes:
        data: Body; `{canary}` in it becomes the planted secrets.
        headers: Further ones.
        request_id_header: Where the request's id goes, and is answered.
        timeout_s: How long an answer may take.
    """

    method: str
    data: str | None
    headers: Mapping[str, str]
    request_id_header: str
    timeout_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One request. `email` and `api_key` are made up, and nowhere else in the world."""

    trace_id: str
    span_id: str
    request_id: str
    mark: str
    key: str = field(repr=False)

    @classmethod
    def new(cls, random_hex: Callable[[int], str] = secrets.token_hex) -> Canary:
        """A canary that nobody has seen."""
        return cls(
            trace_id=random_hex(16),
            span_id=random_hex(8),
            # Short enough that no detector of secrets takes it for one: it has to arrive as it is.
            request_id=f"verify-{random_hex(6)}",
            mark=f"canary-{random_hex(6)}",
            key=random_hex(16),
        )

    @property
    def secrets(self) -> str:
        """What no policy may let through: an e-mail address and an API key."""
        return f"{self.mark}@example.com sk-proj-{self.key}"

    @property
    def marks(self) -> tuple[str, str]:
        """Parts of the secrets by which each is recognised, even where it was cut."""
        return self.mark, self.key

    def headers(self, asking: Asking) -> dict[str, str]:
        """The headers of the request, in lower case."""
        return {
            "user-agent": "aiobs-verify",
            "baggage": f"{semconv.SAMPLING_KEEP}=true",  # followed where AIOBS_TRUST_BAGGAGE says so
            CANARY_HEADER: self.secrets,
            **({} if asking.data is None else {"content-type": "application/json"}),
            **{name.lower(): value for name, value in asking.headers.items()},
            TRACEPARENT: f"00-{self.trace_id}-{self.span_id}-01",
            asking.request_id_header.lower(): self.request_id,
        }


class Answer(NamedTuple):
    """What came back; the body is read and forgotten.

    Attributes:
        status: Of HTTP; 0: none came.
        reason: Why none came.
        trace_id: The trace that the answer's `traceparent` names.
        request_id: The id in the answer.
        server: What the server calls itself.
    """

    status: int
    reason: str = ""
    trace_id: str | None = None
    request_id: str | None = None
    server: str = ""


class Probe(NamedTuple):
    """A canary, where it was sent, and what came back."""

    hop: Hop
    canary: Canary
    answer: Answer


def send(hop: Hop, canary: Canary, asking: Asking) -> Probe:
    """Send the canary to an address and read the whole answer."""
    body = None if asking.data is None else asking.data.replace(PLACEHOLDER, canary.secrets).encode()
    request = Request(hop.url, data=body, headers=canary.headers(asking), method=asking.method)  # noqa: S310 (the user's own address)
    try:
        with _opener().open(request, timeout=asking.timeout_s) as answer:
            return Probe(hop, canary, _read(answer, asking))
    except (HTTPException, OSError, ValueError) as error:
        return Probe(hop, canary, Answer(0, _reason(error)))


def fetch(url: str, timeout_s: float) -> str:
    """The text of a metrics page.

    Raises:
        AiobsError: If there is none; its message is the reason.
    """
    request = Request(url, headers={"accept": "text/plain;version=0.0.4"})  # noqa: S310 (the user's own address)
    try:
        with _opener().open(request, timeout=timeout_s) as answer:
            status: int = answer.status
            page: bytes = answer.read(_MAX_PAGE_BYTES)
    except (HTTPException, OSError, ValueError) as error:
        raise AiobsError(_reason(error)) from None
    if status != 200:
        raise AiobsError(f"the answer is {status}")
    return page.decode("utf-8", "replace")


def _opener() -> OpenerDirector:
    """Asks the address that was named: no proxy of the environment, and a redirection is an answer as any other."""
    opener = OpenerDirector()
    opener.add_handler(HTTPHandler())
    opener.add_handler(HTTPSHandler())
    return opener


def _read(answer: HTTPResponse, asking: Asking) -> Answer:
    """Read to the end: the service has sent its answer only then. A stream without an end is left."""
    deadline_s = time.monotonic() + asking.timeout_s
    with suppress(HTTPException, OSError):
        while answer.read1(1 << 16) and time.monotonic() < deadline_s:
            pass
    return _said(answer.status, answer.headers, asking)


def _said(status: int, headers: HTTPMessage, asking: Asking) -> Answer:
    named = _W3C.fullmatch((headers.get(TRACEPARENT) or "").strip())
    return Answer(
        status,
        trace_id=named[1] if named else None,
        request_id=headers.get(asking.request_id_header),
        server=headers.get("server") or "",
    )


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return str(getattr(cause, "strerror", None) or cause) or type(cause).__name__


def is_json(text: str) -> bool:
    """Whether a body is JSON, with secrets in the place of `{canary}`."""
    try:
        json.loads(text.replace(PLACEHOLDER, Canary.new().secrets))
    except ValueError:
        return False
    return True
