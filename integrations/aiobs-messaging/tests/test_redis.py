"""Redis streams, with a real Redis: by one process, and from one process to another."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import aiobs_core
from aiobs_core import semconv
from aiobs_messaging import consuming, producing

pytestmark = pytest.mark.needs("redis")

CONSUMER = """
import json, sys
import redis
import aiobs_core
from aiobs_messaging import consuming
from aiobs_testing.capture import capture

client = redis.Redis(port=int(sys.argv[1]))
with capture() as telemetry:
    [[_, entries]] = client.xread({sys.argv[2]: "0"}, block=10_000)
    for entry_id, fields in entries:
        with consuming(sys.argv[2], fields, system="redis", message_id=entry_id.decode()):
            with aiobs_core.span("pack", kind="tool"):
                pass
    print(json.dumps([
        [f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", f"{span.parent.span_id:016x}", dict(span.attributes)]
        for span in telemetry.raw()
    ]))
"""


@pytest.fixture
def client(redis_server):
    import redis

    with redis.Redis(port=redis_server.port) as made:
        yield made


@pytest.fixture
def stream(request):
    return f"orders-{request.node.name}"


def test_one_tree_and_one_request_across_two_processes(telemetry, redis_server, client, stream):
    fields = {"id": "17"}
    with aiobs_core.using_attributes(request_id="r-17"), producing(stream, fields, system="redis"):
        client.xadd(stream, fields)
    ran = subprocess.run(
        [sys.executable, "-c", CONSUMER, str(redis_server.port), stream],
        capture_output=True,
        text=True,
        check=True,
    )
    (send,) = telemetry.raw()
    process, tool = json.loads(ran.stdout)
    assert process[:3] == [f"{send.context.trace_id:032x}", process[1], f"{send.context.span_id:016x}"]
    assert tool[0] == process[0]
    assert tool[2] == process[1]
    assert process[3][semconv.REQUEST_ID] == tool[3][semconv.REQUEST_ID] == "r-17"


def test_a_batch_of_a_group_links_to_its_producers(telemetry, client, stream):
    client.xgroup_create(stream, "packers", mkstream=True)
    for number in range(3):
        fields = {"id": number}
        with producing(stream, fields, system="redis"):
            client.xadd(stream, fields)
    client.xadd(stream, {"id": "without context"})
    [[_, entries]] = client.xreadgroup("packers", "one", {stream: ">"}, count=10)
    batch = [fields for _, fields in entries]
    with consuming(stream, batch=batch, system="redis", consumer_group="packers"):
        client.xack(stream, "packers", *(entry_id for entry_id, _ in entries))
    *sent, process = telemetry.spans()
    assert [link["id"] for link in process["links"]] == [span["id"] for span in sent]
    assert process["attributes"][semconv.MESSAGING_BATCH_MESSAGE_COUNT] == 4


def test_an_entry_that_is_claimed_again_links_to_the_first_attempt(telemetry, client, stream):
    client.xgroup_create(stream, "packers", mkstream=True)
    fields = {"id": 1}
    with producing(stream, fields, system="redis"):
        client.xadd(stream, fields)
    [[_, [(entry_id, got)]]] = client.xreadgroup("packers", "one", {stream: ">"})
    with pytest.raises(TimeoutError), consuming(stream, got, system="redis", message_id=entry_id):
        raise TimeoutError
    [(entry_id, got)] = client.xclaim(stream, "packers", "two", 0, [entry_id])
    [pending] = client.xpending_range(stream, "packers", "-", "+", 1)
    with consuming(stream, got, system="redis", message_id=entry_id, attempt=pending["times_delivered"]):
        client.xack(stream, "packers", entry_id)
    _, first, second = telemetry.spans()
    assert second["links"] == [{"id": first["id"], "attributes": {semconv.LINK_REASON: "retry"}}]
    assert second["attributes"][semconv.RETRY_ATTEMPT] == 2
    assert second["attributes"][semconv.MESSAGING_MESSAGE_ID] == entry_id.decode()
