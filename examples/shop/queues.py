"""The queue between the shop's processes: a Redis stream or a queue of RabbitMQ, by its URL."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from aiobs_messaging import consuming, producing

LETTERS = "letters"


def send(url: str, letter: Mapping[str, str]) -> None:
    """Put a letter into the queue; the trace and the request go with it."""
    if url.startswith("redis"):
        import redis

        fields: dict[str, Any] = {"letter": json.dumps(letter)}
        with redis.Redis.from_url(url) as client, producing(LETTERS, fields, system="redis"):
            client.xadd(LETTERS, fields)
        return
    import pika

    properties = pika.BasicProperties()
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.queue_declare(LETTERS)
    with producing(LETTERS, properties, system="rabbitmq"):
        channel.basic_publish("", LETTERS, json.dumps(letter).encode(), properties)
    connection.close()


def work_off(url: str, handle: Callable[[Mapping[str, str]], None]) -> None:
    """Handle letters for ever, each as a part of the request that it came from."""
    if url.startswith("redis"):
        _work_off_redis(url, handle)
    else:
        _work_off_rabbitmq(url, handle)


def _work_off_redis(url: str, handle: Callable[[Mapping[str, str]], None]) -> None:
    import redis

    client, last = redis.Redis.from_url(url), "0"
    while True:
        for _, messages in client.xread({LETTERS: last}, block=500):
            for number, fields in messages:
                last = number
                with consuming(LETTERS, fields, system="redis", message_id=number.decode()):
                    handle(json.loads(fields[b"letter"]))


def _work_off_rabbitmq(url: str, handle: Callable[[Mapping[str, str]], None]) -> None:
    import pika

    def take(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        with consuming(LETTERS, properties, system="rabbitmq"):
            handle(json.loads(body))
        channel.basic_ack(method.delivery_tag)

    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    channel.queue_declare(LETTERS)
    channel.basic_consume(LETTERS, take)
    channel.start_consuming()
