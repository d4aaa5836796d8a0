"""OpenTelemetry's own instrumentations of brokers: where one is at work, its span is the message's, and ours is not made."""

from __future__ import annotations

import sys
from typing import Final

from opentelemetry.trace import Span, SpanKind, get_current_span

from aiobs_core import AgentSpan

_INSTRUMENTORS: Final = {
    "rabbitmq": (("pika", "PikaInstrumentor"), ("aio_pika", "AioPikaInstrumentor")),
    "kafka": (
        ("confluent_kafka", "ConfluentKafkaInstrumentor"),
        ("aiokafka", "AIOKafkaInstrumentor"),
        ("kafka", "KafkaInstrumentor"),
    ),
    "celery": (("celery", "CeleryInstrumentor"),),
}
_SYSTEM: Final = "messaging.system"


def is_instrumented(system: str) -> bool:
    """Whether one of them is switched on, and so makes a span of each message that is sent to this broker."""
    return any(_is_active(module, name) for module, name in _INSTRUMENTORS.get(system, ()))


def consumer_span(system: str) -> Span | None:
    """Their span of the message that is worked on here, if there is one; also one that has ended and is current still."""
    current = get_current_span()
    if isinstance(current, AgentSpan) or getattr(current, "kind", None) is not SpanKind.CONSUMER:
        return None
    attributes = getattr(current, "attributes", None) or {}
    return current if attributes.get(_SYSTEM, system) == system else None


def _is_active(module: str, name: str) -> bool:
    loaded = sys.modules.get(f"opentelemetry.instrumentation.{module}")
    try:
        return loaded is not None and bool(
            getattr(loaded, name)().is_instrumented_by_opentelemetry
        )  # a singleton
    except Exception:  # noqa: BLE001 (a foreign module)
        return False
