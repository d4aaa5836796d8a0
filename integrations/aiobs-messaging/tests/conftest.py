from __future__ import annotations

import pytest
from opentelemetry import context, propagate


@pytest.fixture(autouse=True)
def _outside_of_any_trace():
    """Tests start without a context, and leave the global propagator as they found it."""
    before = propagate.get_global_textmap()
    token = context.attach(context.Context())
    yield
    context.detach(token)
    propagate.set_global_textmap(before)
