"""What is said of a message, whichever way it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from aiobs_core import Kind, Operation, semconv

SCOPE: Final = f"{semconv.SCOPE_PREFIX}messaging"
Attributes = Mapping[str, str | bool | int | float]
_MADE_UP: Final = ("amq.gen-", "_INBOX.")  # RabbitMQ's and NATS' names of queues for replies: each is another
_ANONYMOUS: Final = "(anonymous)"


def asked(
    kind: Kind,
    verb: str,
    destination: object,
    *,
    system: str,
    target: str | None = None,
    message_id: object = None,
    consumer_group: str | None = None,
    batch_size: int | None = None,
    attributes: Attributes | None = None,
) -> Operation:
    """The operation of a run, named `send orders` or `process orders`.

    Args:
        kind: Producer or consumer.
        verb: What is done.
        destination: Queue, topic, …
        system: Broker.
        target: What the run is named for, if not the destination.
        message_id: Id of the message.
        consumer_group: Group of the consumer.
        batch_size: Messages that are worked on at once, if it is a batch.
        attributes: Further ones; those above win.
    """
    name = _text(destination)
    said: dict[str, str | bool | int | float | None] = {
        **(attributes or {}),
        semconv.MESSAGING_SYSTEM: system,
        semconv.MESSAGING_OPERATION_NAME: verb,
        semconv.MESSAGING_OPERATION_TYPE: verb,
        semconv.MESSAGING_DESTINATION_NAME: name or None,
        semconv.MESSAGING_MESSAGE_ID: _text(message_id) or None,
        semconv.MESSAGING_CONSUMER_GROUP_NAME: consumer_group,
        semconv.MESSAGING_BATCH_MESSAGE_COUNT: batch_size,
    }
    if name.startswith(_MADE_UP):
        said[semconv.MESSAGING_DESTINATION_ANONYMOUS] = True
        target = target or _ANONYMOUS
    known = {key: value for key, value in said.items() if value is not None}
    return Operation(kind=kind, name=f"{verb} {target or name}".rstrip(), attributes=known)


def _text(name: object) -> str:
    if isinstance(name, bytes):  # Redis' clients give ids and names so
        return name.decode("utf-8", "replace")
    return "" if name is None else str(name)
