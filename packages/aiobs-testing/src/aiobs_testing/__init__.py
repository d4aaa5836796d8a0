"""Tools for testing with aiobs: a pytest fixture, an OTLP receiver, and the conformance suite of integrations.

    def test_my_agent(telemetry):
        my_agent.invoke("…", config={"callbacks": [AiObsCallbackHandler()]})
        assert telemetry.tree() == "…"

The receivers are in `aiobs_testing.receiver` and `aiobs_testing.rotel`; they need the extra `receiver`.
"""

from typing import TYPE_CHECKING

from aiobs_core.adapter import lazy_names

if TYPE_CHECKING:
    from aiobs_testing.capture import Telemetry
    from aiobs_testing.conformance import ConformanceSuite
    from aiobs_testing.driver import Driver

__all__ = ["ConformanceSuite", "Driver", "Telemetry"]
# On demand: pytest can rewrite the assertions of a module only if the plugin has named it before.
__getattr__ = lazy_names(
    __name__,
    {
        "ConformanceSuite": "aiobs_testing.conformance",
        "Driver": "aiobs_testing.driver",
        "Telemetry": "aiobs_testing.capture",
    },
)
