"""Tools for testing with aiobs: a pytest fixture, an OTLP receiver, and the conformance suite of integrations.

    def test_my_agent(telemetry):
        my_agent.invoke("…", config={"callbacks": [AiObsCallbackHandler()]})
        assert telemetry.tree() == "…"

The receivers are in `aiobs_testing.receiver` and `aiobs_testing.rotel`; they need the extra `receiver`.
"""

from aiobs_testing.capture import Telemetry
from aiobs_testing.conformance import ConformanceSuite
from aiobs_testing.driver import Driver

__all__ = ["ConformanceSuite", "Driver", "Telemetry"]
