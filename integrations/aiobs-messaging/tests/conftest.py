from __future__ import annotations

from importlib.util import find_spec

import pytest
from opentelemetry import context

from aiobs_testing.brokers import BrokerNotInstalled, Kafka, Nats, RabbitMq, Redis


@pytest.fixture(autouse=True)
def _outside_of_any_trace():
    """Tests start without a context."""
    token = context.attach(context.Context())
    yield
    context.detach(token)


def _running(broker):
    try:
        broker.find()
    except BrokerNotInstalled as missing:
        pytest.skip(str(missing))
    with broker() as running:
        yield running


@pytest.fixture(scope="session")
def redis_server():
    yield from _running(Redis)


@pytest.fixture(scope="session")
def nats_server():
    yield from _running(Nats)


@pytest.fixture(scope="session")
def kafka_broker():
    yield from _running(Kafka)


@pytest.fixture(scope="session")
def rabbitmq_server():
    yield from _running(RabbitMq)


@pytest.fixture(autouse=True)
def _clients(request):
    """`@pytest.mark.needs("pika")` names the distributions whose modules a test imports."""
    for marker in request.node.iter_markers("needs"):
        for name in marker.args:
            module = {"nats-py": "nats"}.get(name, name.replace("-", "_"))
            if name.startswith("opentelemetry-instrumentation-"):
                module = "opentelemetry.instrumentation." + module.removeprefix(
                    "opentelemetry_instrumentation_"
                )
            if find_spec(module) is None:
                pytest.skip(f"{name} is not installed; get it with: pip install {name}")


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "needs(*distributions): client libraries that the test talks to brokers with"
    )
