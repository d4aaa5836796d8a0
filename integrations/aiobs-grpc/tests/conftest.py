from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode finds no helper modules beside the tests

from grpc_service import WARM_UP

from aiobs_grpc import GrpcInstrumentor


@pytest.fixture
def instrumented(telemetry, caplog):
    """The process is instrumented while the test runs; what it exports."""
    with telemetry.recorder.span(WARM_UP):
        pass  # the provider is made with the first run
    telemetry.spans()
    telemetry._exporter.clear()
    GrpcInstrumentor().instrument()
    yield telemetry
    said = {
        record.getMessage()
        for record in caplog.get_records("call")
        if record.name.startswith("opentelemetry")
    }
    assert said == set()
    GrpcInstrumentor().uninstrument()
