"""Tests start from the defaults, and leave the process as they found it.

No variable of the developer's shell counts; nothing is stored in the repository or in the home folder.
"""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from opentelemetry import propagate

for _name in [name for name in os.environ if name.startswith(("AIOBS_", "OBS", "OTEL_", "PROMETHEUS_"))]:
    del os.environ[_name]
os.environ["AIOBS_STORE"] = "off"
os.environ["AIOBS_SPOOL"] = "off"
os.environ["AIOBS_HASH_KEY"] = "a key for tests, the same in every run"

# An example takes as long as the machine is busy: that is no finding.
settings.register_profile("aiobs", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("aiobs")


@pytest.fixture(autouse=True)
def _global_propagator() -> Iterator[None]:
    """Packages for servers and brokers put theirs before it, for as long as the process lives."""
    before = propagate.get_global_textmap()
    yield
    propagate.set_global_textmap(before)
