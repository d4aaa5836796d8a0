"""Celery with a real Redis: a worker in a thread, and one with processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest

import aiobs_core
from aiobs_core import semconv
from aiobs_testing.receiver import OtlpReceiver

pytestmark = [
    pytest.mark.needs("celery", "redis"),
    # Celery's own affairs
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning"),
]

SHOP = """
import os
import celery
import aiobs_core
import aiobs_messaging.celery

app = celery.Celery("shop", broker=os.environ["SHOP_URL"], backend=os.environ["SHOP_URL"])
app.conf.task_default_queue = os.environ["SHOP_QUEUE"]
aiobs_messaging.celery.instrument()

@app.task(name="shop.pack", bind=True, max_retries=1)
def pack(self):
    with aiobs_core.span("wrap", kind="tool"):
        if self.request.retries == 0:
            raise self.retry(countdown=0)
    return os.getpid()
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


def test_workers_that_are_forked_go_on_with_the_tree_and_the_request(telemetry, app, url, tmp_path):
    """A worker as it is run: a pool of processes, of an application that has called `instrument` before they fork."""
    (tmp_path / "shop.py").write_text(SHOP, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "celery", "-A", "shop", "worker"]
    command += ["-P", "prefork", "-c", "2", "--loglevel", "ERROR"]
    with OtlpReceiver() as receiver:
        environ = {
            **os.environ,
            "SHOP_URL": url,
            "SHOP_QUEUE": app.conf.task_default_queue,
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.http_endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "AIOBS_CONSOLE": "off",
        }
        with subprocess.Popen(command, cwd=tmp_path, env=environ) as worker:
            with aiobs_core.using_attributes(request_id="r-17"):
                pid = app.send_task("shop.pack").get(timeout=40)
            spans = receiver.wait_for_spans(5, 20)
            worker.terminate()
    assert pid != worker.pid
    (send,) = telemetry.raw()
    assert {span["trace_id"] for span in spans} == {f"{send.context.trace_id:032x}"}
    assert {span["attributes"].get(semconv.REQUEST_ID) for span in spans} == {"r-17"}
    first, second = sorted(
        (span for span in spans if span["name"] == "process shop.pack"), key=lambda span: span["start_ns"]
    )
    assert first["parent_span_id"] == f"{send.context.span_id:016x}"
    (link,) = second["links"]
    assert (link["span_id"], link["attributes"]) == (first["span_id"], {semconv.LINK_REASON: "retry"})


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
