"""A shop of three processes and a broker, started by one command: one question, one trace, whatever handles a part of it.

python examples/shop/run.py                   # a Redis stream, or a queue of RabbitMQ where that is installed
python examples/shop/run.py --queue redis
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import httpx

from aiobs_core.cli import main as aiobs
from aiobs_core.store.reader import Store, StoreError
from aiobs_testing.brokers import BrokerNotInstalled, RabbitMq, Redis
from aiobs_testing.rotel import free_ports

HERE = Path(__file__).parent
QUESTION = "Are there headphones, and how long can they be returned?"
PARTS = ("shop-front", "shop-stock", "shop-worker")
WITHIN_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--queue", choices=("auto", "redis", "rabbitmq"), default="auto")
    queue = parser.parse_args().queue
    store = Path(os.environ.setdefault("AIOBS_STORE", ".aiobs")).absolute()
    os.environ["AIOBS_STORE"] = str(store)
    with ExitStack() as running:
        os.environ["SHOP_QUEUE"] = running.enter_context(broker(queue))
        ports = free_ports(2)
        os.environ["SHOP_STOCK"] = f"127.0.0.1:{ports[0]}"
        for part, argument in zip(PARTS, (str(ports[1]), str(ports[0]), ""), strict=True):
            running.enter_context(process(part, argument))
        front = f"http://127.0.0.1:{ports[1]}"
        wait_for("the stock", lambda: is_listening(os.environ["SHOP_STOCK"]))
        wait_for("the front", lambda: httpx.get(f"{front}/healthz").is_success)
        headers = {"x-request-id": "order-17", "x-user": "ada"}
        reply = httpx.post(f"{front}/ask", json={"question": QUESTION}, headers=headers, timeout=WITHIN_S)
        print(reply.json()["answer"], "\n")
        trace_id = reply.headers["traceparent"].split("-")[1]
        wait_for("the letter", lambda: is_whole(store, trace_id))
    aiobs(["show", trace_id, "--store", str(store)])


@contextmanager
def broker(wanted: str) -> Iterator[str]:
    """Start the queue's broker; yields its URL."""
    if wanted != "redis":
        try:
            RabbitMq.find()
        except BrokerNotInstalled as missing:
            if wanted == "rabbitmq":
                raise
            print(f"By a Redis stream: {missing}\n")
        else:
            with RabbitMq() as rabbitmq:
                yield f"amqp://guest:guest@127.0.0.1:{rabbitmq.port}/"
            return
    with Redis() as redis:
        yield f"redis://127.0.0.1:{redis.port}"


@contextmanager
def process(part: str, argument: str) -> Iterator[None]:
    program = HERE / f"{part.removeprefix('shop-')}.py"
    started = subprocess.Popen(
        [sys.executable, str(program), *filter(None, [argument])],
        env={**os.environ, "OTEL_SERVICE_NAME": part},
    )
    try:
        yield
    finally:
        started.terminate()
        started.wait(10)


def is_listening(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(1)
    return True


def is_whole(store: Path, trace_id: str) -> bool:
    """Whether every process has told its part of the trace, and nothing hangs in the air."""
    found = Store(store)
    try:
        spans = found.trace(trace_id)
    finally:
        found.close()
    services = {span.to_readable().resource.attributes["service.name"] for span in spans}
    ids = {span.span_id for span in spans}
    orphans = [span for span in spans if span.parent_id is not None and span.parent_id not in ids]
    return services >= set(PARTS) and not orphans


def wait_for(what: str, holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline_s:
        try:
            if holds():
                return
        except (httpx.HTTPError, StoreError, grpc.FutureTimeoutError):
            pass
        time.sleep(0.1)
    raise SystemExit(f"{what} did not come within {WITHIN_S:g} s")


if __name__ == "__main__":
    main()
