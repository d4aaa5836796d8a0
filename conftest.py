"""Tests start from the defaults: no variable of the developer's shell counts, nothing is stored in the repository."""

import os

for _name in [name for name in os.environ if name.startswith(("AIOBS_", "OBSERVABILITY_", "OTEL_"))]:
    del os.environ[_name]
os.environ["AIOBS_STORE"] = "off"
