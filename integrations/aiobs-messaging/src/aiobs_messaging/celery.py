"""Celery: runs of tasks that are sent and worked on, by Celery's signals. Call `instrument()` where the application is made.

Where OpenTelemetry's own instrumentation of Celery is switched on, its spans stay the only ones, and `instrument()` does no
more than let the identity of the request travel along.
"""

from __future__ import annotations

from typing import Any, Final

from celery import signals

from aiobs_core import Kind, Outcome, semconv
from aiobs_core.propagation import install
from aiobs_messaging._carriers import names
from aiobs_messaging._consuming import Consuming
from aiobs_messaging._foreign import is_instrumented
from aiobs_messaging._message import asked
from aiobs_messaging._producing import Producing

_SYSTEM: Final = "celery"
_QUEUE: Final = "celery"  # the default one
_AGAIN: Final = Outcome(events=(semconv.EVENT_RETRY,))
_open: Final[dict[str, Consuming]] = {}  # by the id of the task that is worked on


def instrument() -> None:
    """Record every task of the process, those that are sent and those that are worked on; does nothing a second time.

    A task's run is named for it (`process shop.pack`), is the child of the run that sent it, and belongs to its request.
    Retries link to the first attempt. Before the workers fork, or in each.
    """
    install()
    for signal, receiver in _RECEIVERS:
        signal.connect(receiver, weak=False, dispatch_uid=f"aiobs.{receiver.__name__}")


def uninstrument() -> None:
    """Undo `instrument`, where no task is worked on."""
    for signal, receiver in _RECEIVERS:
        signal.disconnect(receiver, dispatch_uid=f"aiobs.{receiver.__name__}")


def _sent(
    sender: object = None, headers: Any = None, routing_key: str | None = None, **_: object
) -> None:  # before_task_publish
    # Over at once: if the broker cannot be reached, no signal tells of the end.
    if is_instrumented(_SYSTEM) or not isinstance(headers, dict):
        return
    operation = asked(
        Kind.PRODUCER,
        "send",
        routing_key or _QUEUE,
        system=_SYSTEM,
        target=str(sender),
        message_id=headers.get("id"),
    )
    with Producing(operation, headers, system=_SYSTEM, retry=bool(headers.get("retries"))):
        pass


def _begins(task_id: str | None = None, task: Any = None, **_: object) -> None:  # task_prerun
    if is_instrumented(_SYSTEM) or task is None or task_id is None:
        return
    request = task.request
    delivery = request.delivery_info or {}
    operation = asked(
        Kind.CONSUMER,
        "process",
        delivery.get("routing_key") or _QUEUE,
        system=_SYSTEM,
        target=task.name,
        message_id=task_id,
    )
    attempt = (request.retries or 0) + (2 if delivery.get("redelivered") else 1)
    headers = {name: request.get(name) for name in names()}
    _open[task_id] = message = Consuming(operation, headers, system=_SYSTEM, attempt=attempt)
    message.__enter__()


def _worked_on(
    task_id: str = "", retval: object = None, state: str | None = None, **_: object
) -> None:  # task_postrun
    message = _open.pop(task_id, None)
    if message is None:
        return
    if state == "RETRY":
        # Celery's exception of a retry holds the one that led to it, if one did.
        cause = getattr(retval, "exc", None)
        message.finish(cause if isinstance(cause, BaseException) else None, _AGAIN)
    else:
        message.finish(retval if state == "FAILURE" and isinstance(retval, BaseException) else None)


_RECEIVERS: Final = (
    (signals.before_task_publish, _sent),
    (signals.task_prerun, _begins),
    (signals.task_postrun, _worked_on),
)
