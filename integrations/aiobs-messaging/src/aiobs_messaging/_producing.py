"""`producing`: the run of a message that is sent."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final

from opentelemetry.trace import INVALID_SPAN, Span, get_current_span

from aiobs_core import Kind, Operation, Recorder, get_recorder, semconv
from aiobs_core.propagation import install
from aiobs_messaging._carriers import current_fields, write
from aiobs_messaging._foreign import is_instrumented
from aiobs_messaging._message import SCOPE, Attributes, asked
from aiobs_messaging._retries import current_attempt, to_header

_SEND: Final = "send"


def producing(
    destination: str,
    headers: Any = None,
    *,
    system: str,
    message_id: object = None,
    retry: bool = False,
    attributes: Attributes | None = None,
) -> AbstractContextManager[Span]:
    """Record the block that sends a message as one run, and put its context into the headers of the message.

    Where one of OpenTelemetry's instrumentations for the broker is switched on, its span is the message's: then there is no
    run of ours, and the headers of a list (Kafka) are left to it.

    Args:
        destination: Queue, topic, stream or subject.
        headers: What the message takes along, changed on entering: see `inject_headers`. None: nothing is put anywhere.
        system: Broker, as in `messaging.system`: `kafka`, `rabbitmq`, `aws_sqs`, `redis`, `nats`, …
        message_id: Its id, if the application gives it one.
        retry: This is the message that is worked on here, sent once more (to a queue of delayed retries, say): its consumer
            will link to the first attempt.
        attributes: Further attributes; they leave the process as they are, so put no content in them.

    Example:
        >>> headers: dict[str, str] = {}
        >>> with producing("orders", headers, system="redis"):
        ...     pass  # client.xadd("orders", {"id": "17", **headers})
        >>> "traceparent" in headers
        True
    """
    operation = asked(
        Kind.PRODUCER, _SEND, destination, system=system, message_id=message_id, attributes=attributes
    )
    return Producing(operation, headers, system=system, retry=retry)


class Producing(AbstractContextManager[Span]):
    """One message, or some with the same headers, while they are sent."""

    def __init__(self, operation: Operation, headers: Any, *, system: str, retry: bool) -> None:
        self._operation = operation
        self._headers = headers
        self._system = system
        self._retry = retry
        self._recorder: Recorder | None = None

    def __enter__(self) -> Span:
        install()
        fields: dict[str, str] = {}
        is_theirs = is_instrumented(self._system)
        if is_theirs:
            span = get_current_span()
        else:
            self._recorder = get_recorder()
            span = self._recorder.start(self, self._operation, scope=SCOPE) or INVALID_SPAN
        if self._headers is None:
            return span
        if not (is_theirs and isinstance(self._headers, list)):  # they append, and look at the first
            fields = current_fields()
        retry = self._retry_header()
        if retry is not None:
            fields[semconv.RETRY_HEADER] = retry
        if fields or is_theirs:
            write(self._headers, fields, system=self._system)
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._recorder is None:
            return
        if error is None:
            self._recorder.end(self)
        else:
            self._recorder.fail(self, error)

    def _retry_header(self) -> str | None:
        attempt = current_attempt.get() if self._retry else None
        return None if attempt is None else to_header(attempt)
