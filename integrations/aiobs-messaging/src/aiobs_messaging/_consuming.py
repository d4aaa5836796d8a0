"""`consuming`: the run of a message, or of a batch, that is worked on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from contextvars import Token
from types import TracebackType
from typing import Any, Final

from opentelemetry.trace import INVALID_SPAN, Span, SpanContext, get_current_span, set_span_in_context

from aiobs_core import Kind, Operation, Outcome, Recorder, get_recorder, semconv
from aiobs_core.propagation import entered, extract, install
from aiobs_messaging._carriers import read
from aiobs_messaging._foreign import consumer_span
from aiobs_messaging._message import SCOPE, Attributes, asked
from aiobs_messaging._retries import Attempt, FirstAttempts, current_attempt, from_header

_PROCESS: Final = "process"
_MAX_LINKS: Final = 128  # of one span
_first_attempts: Final = FirstAttempts()


def consuming(
    destination: str,
    headers: Any = None,
    *,
    system: str,
    batch: Iterable[Any] | None = None,
    message_id: object = None,
    attempt: int = 1,
    consumer_group: str | None = None,
    attributes: Attributes | None = None,
) -> AbstractContextManager[Span]:
    """Record the block that works on a message as one run: a child of the run that sent it, with its request's identity.

    Headers that are malformed, missing or of another type count as none, and the run belongs to what is current here. An
    error of the block is recorded and goes on unchanged. Where one of OpenTelemetry's instrumentations has a span for the
    message, and it is current, it stays the only one, and gets the request's identity and the links.

    Args:
        destination: Queue, topic, stream or subject.
        headers: The headers of the message, or the message: a dict, pairs, SQS message attributes, or an object with
            `headers`. Names and values in text or bytes.
        system: Broker, as in `messaging.system`: `kafka`, `rabbitmq`, `aws_sqs`, `redis`, `nats`, …
        batch: In place of `headers`: those of each message of a batch. The run has a link to each run that sent one
            (the first 128), and belongs to no request of theirs.
        message_id: Its id, if the client tells; `attempt` above 1 then finds the first attempt of this process by it.
        attempt: How often the broker has delivered it, this time included, if the client tells. From the second time on
            the run links to the first attempt: the one that the headers name (`producing(…, retry=True)`), or that this
            process has seen.
        consumer_group: Group of the consumer.
        attributes: Further attributes; they leave the process as they are, so put no content in them.

    Example:
        >>> with consuming("orders", {"traceparent": "no such thing"}, system="redis"):
        ...     pass  # handle it

    Raises:
        ValueError: If both `headers` and `batch` are given.
    """
    if batch is not None and headers is not None:
        raise ValueError("consuming: expected headers of one message or a batch of them, got both; give one.")
    messages = None if batch is None else list(batch)
    operation = asked(
        Kind.CONSUMER,
        _PROCESS,
        destination,
        system=system,
        message_id=message_id,
        consumer_group=consumer_group,
        batch_size=None if messages is None else len(messages),
        attributes=attributes,
    )
    if messages is not None:
        return Batch(operation, messages, system=system)
    return Consuming(operation, headers, system=system, attempt=attempt)


class Consuming(AbstractContextManager[Span]):
    """One message while it is worked on."""

    def __init__(self, operation: Operation, headers: Any, *, system: str, attempt: int) -> None:
        self._operation = operation
        self._headers = headers
        self._system = system
        self._number = attempt
        self._recorder: Recorder | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Span:
        install()
        found = read(self._headers)
        came = extract(found)
        sender = get_current_span(came).get_span_context()
        theirs = consumer_span(self._system)
        if came:
            here = came if theirs is None else set_span_in_context(theirs, came)
            self._stack.enter_context(entered(here))
        attempt = self._attempt(found)
        span = theirs
        if span is None:
            self._recorder = get_recorder()
            span = self._recorder.start(self, self._operation, scope=SCOPE) or INVALID_SPAN
        self._note(span, attempt, sender)
        return span

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish(error)

    def finish(self, error: BaseException | None = None, outcome: Outcome | None = None) -> None:
        """Leave the block, with the error that ended it if there was one."""
        if self._recorder is not None:
            if error is None:
                self._recorder.end(self, outcome)
            else:
                self._recorder.fail(self, error, outcome)
        self._stack.close()

    def _attempt(self, found: dict[str, object]) -> Attempt:
        told = from_header(found.get(semconv.RETRY_HEADER)) or Attempt(1, None)
        return Attempt(max(self._number, told.number), told.first)

    def _note(self, span: Span, attempt: Attempt, sender: SpanContext) -> None:
        """Link the run to the first attempt, and let a message that is sent again inside know of it."""
        said = self._operation.attributes
        message = said.get(semconv.MESSAGING_MESSAGE_ID) or (
            (sender.trace_id, sender.span_id) if sender.is_valid else None
        )
        key = (
            said.get(semconv.MESSAGING_DESTINATION_NAME),
            said.get(semconv.MESSAGING_CONSUMER_GROUP_NAME),
            message,
        )
        own = span.get_span_context()
        first = attempt.first
        if attempt.number > 1:
            span.set_attribute(semconv.RETRY_ATTEMPT, attempt.number)
            first = first or (None if message is None else _first_attempts.find(key))
            if first is not None:
                span.add_link(first, {semconv.LINK_REASON: "retry"})
        elif message is not None and own.is_valid:
            _first_attempts.note(key, own)
        token = current_attempt.set(Attempt(attempt.number, first or own))
        self._stack.callback(_reset, token)


class Batch(AbstractContextManager[Span]):
    """A batch of messages while it is worked on."""

    def __init__(self, operation: Operation, messages: Sequence[Any], *, system: str) -> None:
        self._operation = operation
        self._messages = messages
        self._system = system
        self._recorder: Recorder | None = None

    def __enter__(self) -> Span:
        install()
        theirs = consumer_span(self._system)
        if theirs is not None:  # it has links of its own
            return theirs
        self._recorder = get_recorder()
        span = self._recorder.start(self, self._operation, scope=SCOPE)
        if span is None:
            return INVALID_SPAN
        senders = _senders(self._messages)
        for sender in senders[:_MAX_LINKS]:
            span.add_link(sender, {semconv.LINK_REASON: "batch"})
        if len(senders) > _MAX_LINKS:
            self._recorder.health.problem(
                "messaging.links",
                f"aiobs: a batch came from more than {_MAX_LINKS} runs; its span links to the first {_MAX_LINKS} of them. "
                f"{semconv.MESSAGING_BATCH_MESSAGE_COUNT} tells how many messages it had.",
            )
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


def _senders(messages: Sequence[Any]) -> list[SpanContext]:
    """The runs that sent them, each once."""
    found: dict[tuple[int, int], SpanContext] = {}
    for message in messages:
        sender = get_current_span(extract(read(message))).get_span_context()
        if sender.is_valid:
            found.setdefault((sender.trace_id, sender.span_id), sender)
    return list(found.values())


def _reset(token: Token[Attempt | None]) -> None:
    try:
        current_attempt.reset(token)
    except ValueError:  # the block was left in another context, as an async generator is that nobody finishes
        return
