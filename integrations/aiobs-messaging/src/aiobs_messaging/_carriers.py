"""Headers of messages in the shapes that brokers' clients have, read and written.

Reading never raises and looks at the few headers that count. Writing replaces what stood there before, since messages are
sent on and sent again with the headers they came with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any, Final, TypeVar

from opentelemetry import propagate

from aiobs_core import get_recorder, semconv
from aiobs_core.propagation import inject

SQS: Final = "aws_sqs"
T = TypeVar("T")
_SQS_ATTRIBUTES: Final = ("MessageAttributes", "messageAttributes")  # as received; as Lambda hands it on
_SQS_VALUES: Final = ("StringValue", "stringValue", "Value", "BinaryValue", "binaryValue")
_MAX_SQS_ATTRIBUTES: Final = 10  # of one message
_LAST: Final = ("tracestate", "baggage")  # what a message with little room goes without


def inject_headers(headers: T, *, system: str = "") -> T:
    """Put the current trace and the identity of the request into the headers of a message.

    Replaces what they say of another one. Never raises; headers that cannot be written stay as they are, which is said once.

    Args:
        headers: A dict, a list of pairs (Kafka), a dict of SQS message attributes, or a message or its properties with
            such headers. None in their place is replaced by a dict.
        system: The broker's name where its form differs: `aws_sqs`.

    Returns:
        The same headers, changed.

    Example:
        >>> inject_headers({})  # outside of any trace
        {}
    """
    if fields := current_fields():
        write(headers, fields, system=system)
    return headers


def current_fields() -> dict[str, str]:
    """The headers of the current trace and the identity of its request."""
    fields: dict[str, str] = {}
    try:
        inject(fields)
    except Exception as error:  # noqa: BLE001 (a propagator of the application's)
        _problem("inject", f"the propagator failed ({type(error).__name__})")
    return fields


def names() -> set[str]:
    """The headers that are ours to read and to replace, in lower case."""
    return {
        *(name.lower() for name in propagate.get_global_textmap().fields),
        "baggage",
        semconv.RETRY_HEADER,
    }


def read(message: object) -> dict[str, object]:
    """The headers that count, by name in lower case; of several with one name the last, which was added last.

    Args:
        message: Headers, or what has them. Whatever else it is has none.
    """
    found: dict[str, object] = {}
    try:
        wanted = names()
        for pair in _pairs(_headers_in(message)):
            if isinstance(pair, (tuple, list)) and len(pair) == 2 and (name := _name(pair[0])) in wanted:
                found[name] = _value(pair[1])
    except Exception:  # noqa: BLE001 (a poison message: whatever can be read has been)
        return found
    return found


def write(carrier: Any, fields: Mapping[str, str], *, system: str) -> None:
    """Put headers into a carrier, in its form, and take out what is theirs to replace. Never raises."""
    try:
        headers = _writable(carrier)
        if isinstance(headers, MutableMapping):
            _write_mapping(headers, fields, is_sqs=system == SQS)
        elif isinstance(headers, list):
            _write_list(headers, fields)
        else:
            _problem(
                "headers",
                f"headers: expected a dict, a list of pairs, or a message with such headers, got {type(headers).__name__}",
            )
    except Exception as error:  # noqa: BLE001 (a foreign class: a read-only mapping, a property that raises)
        _problem("headers", f"the headers of a message cannot be written ({type(error).__name__})")


def _headers_in(message: object) -> object:
    if isinstance(message, Mapping):
        return next(
            (inner for key in _SQS_ATTRIBUTES if isinstance(inner := message.get(key), Mapping)), message
        )
    if message is None or isinstance(message, (list, tuple)):
        return message
    headers = getattr(message, "headers", None)  # pika's properties, messages of aio-pika, aiokafka, NATS
    return headers() if callable(headers) else headers  # confluent-kafka's


def _pairs(headers: object) -> Iterable[object]:
    if isinstance(headers, Mapping):
        return list(headers.items())
    return headers if isinstance(headers, (list, tuple)) else ()


def _name(name: object) -> str:
    if isinstance(name, (bytes, bytearray)):
        name = bytes(name).decode("latin-1")
    return name.lower() if isinstance(name, str) else ""


def _value(value: object) -> object:
    if isinstance(value, Mapping):
        value = next((value[key] for key in _SQS_VALUES if key in value), None)
    if isinstance(value, (list, tuple)):
        value = value[-1] if value else None
    return bytes(value) if isinstance(value, memoryview) else value


def _writable(carrier: Any) -> object:
    if carrier is None or isinstance(carrier, (Mapping, list, tuple)):
        return carrier
    if carrier.headers is None:  # pika's properties
        carrier.headers = {}
    return carrier.headers


def _write_mapping(headers: MutableMapping[Any, Any], fields: Mapping[str, str], *, is_sqs: bool) -> None:
    ours = names()
    for name in [name for name in headers if _name(name) in ours]:
        del headers[name]
    # redis-py takes both, but what wraps it may take the sort only that is there already.
    is_binary = bool(headers) and all(isinstance(value, bytes) for value in headers.values())
    has_binary_names = bool(headers) and all(isinstance(name, bytes) for name in headers)
    for name in sorted(fields, key=_LAST.__contains__):
        if is_sqs and len(headers) >= _MAX_SQS_ATTRIBUTES:
            _problem(
                "sqs",
                f"an SQS message with {_MAX_SQS_ATTRIBUTES} attributes has no room for context; it goes without",
            )
            return
        value = fields[name]
        key = name.encode() if has_binary_names else name
        if is_sqs:
            headers[key] = {"DataType": "String", "StringValue": value}
        else:
            headers[key] = value.encode() if is_binary else value


def _write_list(headers: list[Any], fields: Mapping[str, str]) -> None:
    ours = names()
    headers[:] = [
        pair
        for pair in headers
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and _name(pair[0]) in ours)
    ]
    headers.extend((name, value.encode()) for name, value in fields.items())


def _problem(kind: str, what: str) -> None:
    get_recorder().health.problem(
        f"messaging.{kind}",
        f"aiobs: {what}; the message is sent all the same, and its consumer may begin a new trace.",
    )
