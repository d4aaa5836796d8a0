"""What several test files need: real SDK spans without a tracer provider behind them, and certificates."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import trustme
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from aiobs_testing.receiver import OtlpReceiver

START_NS = 1_800_000_000_000_000_000
_RESOURCE = Resource({"service.name": "shop"}, "https://example.org/schema")
_SCOPE = InstrumentationScope("aiobs.test", "0.1", "", {"scope.key": 1})
_random = random.Random(7)


@pytest.fixture
def make_span() -> Callable[..., ReadableSpan]:
    """Builds a span: `parent` is the span above it, in whose trace it then is."""

    def make(
        name: str = "chat",
        attributes: Mapping[str, Any] | None = None,
        *,
        parent: ReadableSpan | None = None,
        remote: bool = False,
        trace_id: int | None = None,
        start_ns: int = START_NS,
        duration_ns: int = 5_000_000,
        events: Sequence[Event] = (),
        links: Sequence[Link] = (),
        error: str | None = None,
        state: TraceState | None = None,
    ) -> ReadableSpan:
        above = parent.get_span_context() if parent else None
        number = above.trace_id if above else trace_id or _random.getrandbits(128) or 1
        return ReadableSpan(
            name=name,
            context=SpanContext(
                number, _random.getrandbits(64) or 1, False, TraceFlags(TraceFlags.SAMPLED), state
            ),
            parent=above and SpanContext(number, above.span_id, remote, above.trace_flags, state),
            resource=_RESOURCE,
            attributes=dict(attributes or {}),
            events=tuple(events),
            links=tuple(links),
            kind=SpanKind.CLIENT,
            status=Status(StatusCode.ERROR, error) if error is not None else Status(),
            start_time=start_ns,
            end_time=start_ns + duration_ns,
            instrumentation_scope=_SCOPE,
        )

    return make


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two CAs, and a server's and a client's certificate of the first."""
    folder = tmp_path_factory.mktemp("tls")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other-ca.pem")
    for name in ("server", "client"):
        pair = ca.issue_cert("localhost", "127.0.0.1")
        pair.private_key_pem.write_to_path(folder / f"{name}.key")
        for certificate in pair.cert_chain_pems:
            certificate.write_to_path(folder / f"{name}.pem", append=True)
    return folder


@pytest.fixture
def secured(tls: Path) -> Iterator[OtlpReceiver]:
    """A receiver that asks for a client certificate of that CA."""
    with OtlpReceiver(
        certificate=tls / "server.pem", private_key=tls / "server.key", client_ca=tls / "ca.pem"
    ) as receiver:
        yield receiver
