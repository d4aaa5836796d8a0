"""The pytest plugin: registers the fixtures `telemetry` and `aiobs_verify`; what they do is imported when a test asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aiobs_ops.verify import Verification
    from aiobs_testing.capture import Telemetry

# For editable installs; of others pytest knows the files.
pytest.register_assert_rewrite("aiobs_testing.capture", "aiobs_testing.conformance")


@pytest.fixture
def telemetry(request: pytest.FixtureRequest) -> Iterator[Telemetry]:
    """What aiobs exports while the test runs, in memory; fails the test if a run is left open or a log line hurts.

    `@pytest.mark.telemetry(grace_s=5, …)` gives settings; `open_runs=True` allows runs to be open at the end.
    """
    from aiobs_testing.capture import capture

    marker = request.node.get_closest_marker("telemetry")
    settings = dict(marker.kwargs) if marker is not None else {}
    may_stay_open = bool(settings.pop("open_runs", False))
    with capture(**settings) as captured:
        yield captured
        if not may_stay_open:
            captured.wait_until_closed()
        captured.check_logs()


@pytest.fixture(scope="session")
def aiobs_verify() -> Callable[..., Verification]:
    """What `aiobs verify` does, as a function: sends a canary through a service that runs, and returns the checks.

    Its arguments are those of `aiobs_ops.verify.verify`; it needs the extra `verify`.
    """
    try:
        from aiobs_ops.verify import verify
    except ImportError:
        pytest.fail(
            "aiobs_verify comes with the package aiobs-ops, which is not installed: pip install 'aiobs-testing[verify]'",
            pytrace=False,
        )
    return verify


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, for `--strict-markers`."""
    config.addinivalue_line("markers", "telemetry(**settings): settings of aiobs for the fixture `telemetry`")
