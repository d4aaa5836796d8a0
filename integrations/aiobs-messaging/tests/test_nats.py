"""NATS, with a real server: core messages, and JetStream's redeliveries."""

from __future__ import annotations

import pytest

import aiobs_core
from aiobs_core import semconv
from aiobs_messaging import consuming, producing

pytestmark = pytest.mark.needs("nats-py")


@pytest.fixture
async def client(nats_server):
    import nats

    connected = await nats.connect(f"nats://127.0.0.1:{nats_server.port}")
    yield connected
    await connected.close()


async def test_a_message_and_its_reply_are_in_one_tree(telemetry, client):
    async def pack(message):
        with consuming(message.subject, message, system="nats"):
            headers = {}
            with producing(message.reply, headers, system="nats"):
                await client.publish(message.reply, b"packed", headers=headers)

    await client.subscribe("orders", cb=pack)
    headers = {}
    with aiobs_core.span("answer"), producing("orders", headers, system="nats"):
        reply = await client.request("orders", b"17", headers=headers, timeout=10)
    with consuming("replies", reply, system="nats"):
        pass
    assert telemetry.tree() == (
        "invoke_workflow answer\n  send orders\n    process orders\n      send (anonymous)\n        process replies"
    )


async def test_a_message_without_headers_is_worked_on(telemetry, client):
    got = await client.subscribe("plain")
    await client.publish("plain", b"17")
    with consuming("plain", await got.next_msg(timeout=10), system="nats"):
        pass
    assert telemetry.tree() == "process plain"


async def test_a_redelivery_links_to_the_first_attempt(telemetry, client):
    stream = client.jetstream()
    await stream.add_stream(name="orders", subjects=["jobs.*"])
    headers = {}
    with producing("jobs.pack", headers, system="nats"):
        await stream.publish("jobs.pack", b"17", headers=headers)
    pulled = await stream.pull_subscribe("jobs.pack", durable="packers")
    for _ in range(2):
        [message] = await pulled.fetch(1, timeout=10)
        tries = message.metadata.num_delivered
        with consuming("jobs.pack", message, system="nats", attempt=tries, consumer_group="packers"):
            await (message.nak() if tries == 1 else message.ack())
    _, first, second = telemetry.spans()
    assert second["links"] == [{"id": first["id"], "attributes": {semconv.LINK_REASON: "retry"}}]
    assert first["trace"] == second["trace"]
