"""Tests start from the defaults: no variable of the developer's shell counts, nothing is stored in the repository or in the home folder."""

import os

for _name in [name for name in os.environ if name.startswith(("AIOBS_", "OBS", "OTEL_", "PROMETHEUS_"))]:
    del os.environ[_name]
os.environ["AIOBS_STORE"] = "off"
os.environ["AIOBS_SPOOL"] = "off"
os.environ["AIOBS_HASH_KEY"] = "a key for tests, the same in every run"
