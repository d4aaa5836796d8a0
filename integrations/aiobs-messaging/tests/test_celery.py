"""Celery with a real Redis: a worker in a thread, and one in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest

import aiobs_core
from aiobs_core import semconv

pytestmark = [
    pytest.mark.needs("celery", "redis"),
    # Celery's own affairs
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]

WORKER = """
import json, sys
import celery
import aiobs_core
import aiobs_messaging.celery
from aiobs_testing.capture import capture
from celery.contrib.testing.worker import start_worker

app = celery.Celery("shop", broker=sys.argv[1], backend=sys.argv[1])
app.conf.task_default_queue = sys.argv[2]

@app.task(name="shop.pack")
def pack():
    with aiobs_core.span("wrap", kind="tool"):
        return "packed"

aiobs_messaging.celery.instrument()
with capture() as telemetry:
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
        print("ready", flush=True)
        sys.stdin.readline()
    print(json.dumps([
        [span.name, f"{span.context.trace_id:032x}", span.parent and f"{span.parent.span_id:016x}", dict(span.attributes)]
        for span in telemetry.raw()
    ]))
"""


@pytest.fixture
def url(redis_server):
    return f"redis://127.0.0.1:{redis_server.port}/1"


@pytest.fixture
def app(url, request):
    import celery

    import aiobs_messaging.celery

    made = celery.Celery("shop", broker=url, backend=url, set_as_current=False)
    made.conf.task_default_queue = f"celery-{request.node.name}"
    aiobs_messaging.celery.instrument()
    yield made
    aiobs_messaging.celery.uninstrument()
    made.close()


@contextmanager
def working(app):
    from celery.contrib.testing.worker import start_worker

    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR"):
        yield


def test_one_tree_and_one_request_from_task_to_task(telemetry, app):
    @app.task(name="shop.ship", shared=False)
    def ship():
        with aiobs_core.span("label", kind="tool"):
            pass

    @app.task(name="shop.pack", shared=False)
    def pack():
        ship.delay()

    with working(app), aiobs_core.using_attributes(request_id="r-17"), aiobs_core.span("answer"):
        pack.delay().get(timeout=20)
        # of the second task, nobody waits for the result
        app.send_task("shop.ship").get(timeout=20)
    assert telemetry.tree() == (
        "invoke_workflow answer\n"
        "  send shop.pack\n"
        "    process shop.pack\n"
        "      send shop.ship\n"
        "        process shop.ship\n"
        "          execute_tool label\n"
        "  send shop.ship\n"
        "    process shop.ship\n"
        "      execute_tool label"
    )
    pack_run = telemetry.by_name("process shop.pack")
    assert pack_run["attributes"][semconv.MESSAGING_DESTINATION_NAME] == app.conf.task_default_queue
    assert {span["attributes"].get(semconv.REQUEST_ID) for span in telemetry.spans()} == {"r-17"}


def test_retries_link_to_the_first_attempt_and_say_what_led_to_them(telemetry, app):
    @app.task(name="shop.pack", shared=False, bind=True, max_retries=2)
    def pack(self):
        if self.request.retries < 2:
            raise self.retry(exc=TimeoutError("private"), countdown=0)
        return "packed"

    with working(app):
        assert pack.delay().get(timeout=20) == "packed"
    first, second, third = (span for span in telemetry.spans() if span["name"] == "process shop.pack")
    assert [span["attributes"].get(semconv.ERROR_TYPE) for span in (first, second, third)] == [
        "TimeoutError",
        "TimeoutError",
        None,
    ]
    assert first["events"][0]["name"] == semconv.EVENT_RETRY
    assert first["links"] == []
    for number, span in ((2, second), (3, third)):
        assert span["attributes"][semconv.RETRY_ATTEMPT] == number
        assert span["links"] == [{"id": first["id"], "attributes": {semconv.LINK_REASON: "retry"}}]
    assert {span["trace"] for span in telemetry.spans()} == {1}


def test_the_error_of_a_task_is_recorded_and_reaches_its_caller(telemetry, app):
    @app.task(name="shop.pack", shared=False)
    def pack():
        raise KeyError("private")

    with working(app), pytest.raises(KeyError):
        pack.delay().get(timeout=20)
    span = telemetry.by_name("process shop.pack")
    assert (span["status"], span["attributes"][semconv.ERROR_TYPE]) == ("ERROR", "KeyError")
    assert "private" not in str(telemetry.spans())


def test_tasks_that_run_in_place_are_inside_their_caller(telemetry, app):
    app.conf.task_always_eager = True

    @app.task(name="shop.pack", shared=False)
    def pack():
        with aiobs_core.span("wrap", kind="tool"):
            pass

    with aiobs_core.span("answer"):
        pack.delay()
    assert telemetry.tree() == "invoke_workflow answer\n  process shop.pack\n    execute_tool wrap"


def test_one_tree_and_one_request_across_two_processes(telemetry, app, url):
    command = [sys.executable, "-W", "ignore", "-c", WORKER, url, app.conf.task_default_queue]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout.readline() == "ready\n"
        with aiobs_core.using_attributes(request_id="r-17"):
            assert app.send_task("shop.pack").get(timeout=20) == "packed"
        out, _ = worker.communicate("stop\n", timeout=30)
    process, tool = json.loads(out.splitlines()[-1])
    (send,) = telemetry.raw()
    assert (process[0], tool[0]) == ("process shop.pack", "execute_tool wrap")
    assert (process[1], process[2]) == (f"{send.context.trace_id:032x}", f"{send.context.span_id:016x}")
    assert process[3][semconv.REQUEST_ID] == tool[3][semconv.REQUEST_ID] == "r-17"


@pytest.mark.needs("opentelemetry-instrumentation-celery")
def test_beside_the_instrumentation_of_celery_there_is_no_second_span(telemetry, app):
    from opentelemetry.instrumentation.celery import CeleryInstrumentor

    @app.task(name="shop.pack", shared=False)
    def pack():
        with aiobs_core.span("wrap", kind="tool"):
            pass

    CeleryInstrumentor().instrument()
    try:
        with working(app), aiobs_core.using_attributes(request_id="r-17"), aiobs_core.span("answer"):
            pack.delay().get(timeout=20)
    finally:
        CeleryInstrumentor().uninstrument()
    assert telemetry.tree() == (
        "invoke_workflow answer\n  apply_async/shop.pack\n    run/shop.pack\n      execute_tool wrap"
    )
    assert telemetry.by_name("execute_tool wrap")["attributes"][semconv.REQUEST_ID] == "r-17"
