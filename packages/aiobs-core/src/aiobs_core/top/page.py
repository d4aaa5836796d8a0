"""`aiobs top` from the Prometheus page of a running program: what has been counted between two looks at it."""

from __future__ import annotations

import math
import ssl
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from http.client import HTTPException
from typing import Final, NamedTuple
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from aiobs_core._operation import Kind
from aiobs_core.semconv import GEN_AI_OPERATIONS
from aiobs_core.semconv import metrics as names
from aiobs_core.top.quantiles import quantile
from aiobs_core.top.sources import TOTAL, UNNAMED, Reading, Row, SourceError

_TIMEOUT_S: Final = 5.0
_MAX_PAGE_BYTES: Final = 64 << 20
_BUCKET: Final = f"{names.LATENCY.prometheus_name}_bucket"
_READ: Final = (
    _BUCKET,
    *(
        metric.sample_name
        for metric in (names.REQUESTS, names.ERRORS, names.TOKENS, names.COST, names.UNPRICED)
    ),
)
_LINES: Final = (*_READ, *(f"# TYPE {name.removesuffix('_bucket')} " for name in _READ))
_CALLING_KINDS: Final = (Kind.MODEL, Kind.EMBEDDING)
_CALLS: Final = frozenset({"chat", "text_completion", "generate_content", "embeddings"})
# An agent may name the model that it uses, and a reranker has tokens; neither is a model call.
_OTHER_OPERATIONS: Final = frozenset(
    GEN_AI_OPERATIONS.get(kind, kind.value) for kind in Kind if kind not in _CALLING_KINDS
)
_BROKEN_OFF: Final = (
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    ConnectionResetError,
    ConnectionAbortedError,
    BrokenPipeError,
)
_Labels = frozenset[tuple[str, str]]
_Series = tuple[str, _Labels]
_Amounts = Mapping[float, float]
"""Of a histogram the values in each bucket, by its upper bound; of a counter its value, at 0."""


class _Whose(NamedTuple):
    """One number of the table; `model` is None for requests, `what` the upper bound of a bucket, or a word."""

    model: str | None
    what: str | float


class _Step(NamedTuple):
    """What was counted between two looks."""

    start_s: float
    counted: Mapping[_Whose, float]


class FromPage:
    """Reads a page again and again, without a Prometheus.

    A counter that has fallen belongs to a program that was started anew, so it has counted from 0, as for PromQL's `rate`.
    Unlike there, a series that was not there at the last look has also counted from 0: aiobs makes one at its first count.

    Args:
        url: Of the page.
        window_s: How long what was counted is shown.
        fetch: Gives the text of the page.
        clock: Seconds from any instant on.
    """

    def __init__(
        self,
        url: str,
        *,
        window_s: float,
        fetch: Callable[[str], str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._window_s = window_s
        self._fetch = fetch or fetch_page
        self._clock = clock
        self._known: dict[_Series, _Amounts] = {}
        self._looked_s: float | None = None
        self._steps: deque[_Step] = deque()

    def read(self) -> Reading:
        """Look once; the first time there is nothing to compare with, so there are no rows.

        Raises:
            SourceError: If there is no such page.
        """
        series = _series_of(self._url, self._fetch(self._url))
        now_s = self._clock()
        if self._looked_s is not None:
            self._steps.append(_Step(self._looked_s, _counted(self._known, series)))
        self._looked_s = now_s
        self._known.update(series)  # one that has gone may come back: of a worker that was not read this time
        while len(self._steps) > 1 and self._steps[1].start_s <= now_s - self._window_s:
            self._steps.popleft()
        if not self._steps:
            return Reading([], 0.0)
        counted: dict[_Whose, float] = defaultdict(float)
        for step in self._steps:
            for whose, amount in step.counted.items():
                counted[whose] += amount
        return Reading(_rows(counted), now_s - self._steps[0].start_s)


class PageFiles(NamedTuple):
    """The PEM files to read a page over TLS with; an empty name is none.

    Attributes:
        ca: Authority of the page's certificate.
        certificate: One of our own, where the page lets in only who has one.
        key: Its key; empty where it is in the same file.
    """

    ca: str = ""
    certificate: str = ""
    key: str = ""


_NO_FILES: Final = PageFiles()


def fetch_page(url: str, files: PageFiles = _NO_FILES) -> str:
    """The text of a page.

    Raises:
        SourceError: If there is none.
    """
    is_tls = url.lower().startswith("https:")
    try:
        # As Prometheus does, not through the proxy of the environment: the page is next door.
        secure = [HTTPSHandler(context=_tls(files))] if is_tls else []
        opener = build_opener(ProxyHandler({}), *secure)
        request = Request(url, headers={"Accept": "text/plain;version=0.0.4"})  # noqa: S310 (the user's own address)
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            page: bytes = answer.read(_MAX_PAGE_BYTES)
        return page.decode("utf-8")
    except HTTPError as error:
        with error:
            reason = f"the answer is {error.code} {error.reason}"
    except URLError as error:
        reason = (
            (is_tls and _tls_reason(error.reason))
            or getattr(error.reason, "strerror", None)
            or str(error.reason)
        )
    except (HTTPException, OSError, ValueError) as error:
        reason = (is_tls and _tls_reason(error)) or str(error) or type(error).__name__
    raise SourceError(
        f"{url}: no metrics page could be read ({reason}); it is there from the first run of a program on that has "
        "AIOBS_PROMETHEUS_PORT=9464. Without --url, the local store is shown."
    )


def _tls(files: PageFiles) -> ssl.SSLContext:
    from aiobs_core.export.tls import load_pair, readable

    if files.key and not files.certificate:
        raise ValueError("--key needs --cert: name the certificate, too")
    context = ssl.create_default_context(cafile=readable(files.ca) if files.ca else None)
    try:
        if files.certificate:
            load_pair(context, files.certificate, files.key, password=None)
    except ssl.SSLError:
        if files.key:
            raise
        raise ValueError("--cert needs --key: there is no key in the file of the certificate") from None
    return context


def _tls_reason(error: object) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{error.verify_message}; --ca names the authority of the page's certificate"
    if isinstance(error, ssl.SSLError) and "CERTIFICATE" in (error.reason or ""):
        return "the page lets in only who has a certificate, and not with this one or none; --cert and --key name one"
    if isinstance(error, _BROKEN_OFF):
        # With TLS 1.3 a client is refused after its handshake, and may find the connection gone before it reads why.
        return (
            "the connection was broken off, as by a page that lets in only who has a certificate, and not with this one or "
            "none; --cert and --key name one"
        )
    return ""


# --- the text -----------------------------------------------------------------------------------------------------------


def _series_of(url: str, page: str) -> dict[_Series, _Amounts]:
    """The series that are shown; buckets hold what is in them alone, not all below."""
    from prometheus_client.parser import text_string_to_metric_families

    if "ai_agent_" not in page:
        raise SourceError(
            f"{url}: the page has no metrics of aiobs; name one of a program with AIOBS_PROMETHEUS_PORT=9464."
        )
    # Only what is shown is parsed, since pages may be long. A newline in a label is escaped, so lines are whole.
    lines = "\n".join(line for line in page.split("\n") if line.startswith(_LINES))
    series: dict[_Series, dict[float, float]] = {}
    try:
        for family in text_string_to_metric_families(f"{lines}\n"):
            for name, labels, value, *_ in family.samples:
                if name in _READ and math.isfinite(value):
                    bound = float(labels.pop("le")) if name == _BUCKET else 0.0
                    series.setdefault((name, frozenset(labels.items())), {})[bound] = value
    except (ValueError, LookupError) as error:
        raise SourceError(
            f"{url}: the page cannot be understood ({str(error) or type(error).__name__})."
        ) from None
    return {key: _apart(found) if key[0] == _BUCKET else found for key, found in series.items()}


def _apart(cumulative: _Amounts) -> dict[float, float]:
    apart, below = {}, 0.0
    for bound in sorted(cumulative):
        apart[bound] = max(0.0, cumulative[bound] - below)
        below = max(below, cumulative[bound])
    return apart


# --- what was counted ---------------------------------------------------------------------------------------------------


def _counted(before: Mapping[_Series, _Amounts], after: Mapping[_Series, _Amounts]) -> Mapping[_Whose, float]:
    counted: dict[_Whose, float] = defaultdict(float)
    for key, amounts in after.items():
        earlier = before.get(key, {})
        if any(amounts.get(bound, 0.0) < value for bound, value in earlier.items()):
            earlier = {}  # a new process
        for bound, amount in amounts.items():
            for whose in _shown_as(key, bound):
                counted[whose] += amount - earlier.get(bound, 0.0)  # 0 is kept: known to be nothing
    return counted


def _shown_as(key: _Series, bound: float) -> Iterator[_Whose]:
    name, labelled = key
    labels = dict(labelled)
    operation, model = labels.get(names.OPERATION, ""), labels.get(names.MODEL)
    is_call = operation in _CALLS or (model is not None and operation not in _OTHER_OPERATIONS)
    shown: list[str | None] = [model or UNNAMED] if is_call else []
    if name in {names.COST.sample_name, names.UNPRICED.sample_name}:
        yield from (_Whose(each, name) for each in (*shown, None))  # tools and retrievers cost something, too
    elif name == names.TOKENS.sample_name:
        yield from (_Whose(each, labels.get(names.DIRECTION, "")) for each in (*shown, None) if is_call)
    else:
        if labels.get(names.STAGE) == names.TOTAL:
            shown = [None]
        yield from (_Whose(each, bound if name == _BUCKET else name) for each in shown)


def _rows(counted: Mapping[_Whose, float]) -> list[Row]:
    """One row of all requests, and one for each model that was called."""
    found: dict[str | None, dict[str | float, float]] = {None: {}}
    for (model, what), amount in counted.items():
        found.setdefault(model, {})[what] = amount
    # What has no calls may still have tokens: a series of requests that overflowed counts under `other`.
    total, *models = [_row(model, amounts) for model, amounts in found.items()]
    return [total, *(row for row in models if row.calls or row.input_tokens or row.output_tokens)]


def _row(model: str | None, amounts: Mapping[str | float, float]) -> Row:
    bounds = sorted(what for what in amounts if isinstance(what, float))
    counts = [amounts[bound] for bound in bounds]
    finite = [bound for bound in bounds if bound != math.inf]
    return Row(
        TOTAL if model is None else model,
        amounts.get(names.REQUESTS.sample_name, 0),
        amounts.get(names.ERRORS.sample_name, 0),
        quantile(0.5, finite, counts),
        quantile(0.95, finite, counts),
        amounts.get("input"),
        amounts.get("output"),
        amounts.get(names.COST.sample_name),
        amounts.get(names.UNPRICED.sample_name, 0),
    )
