from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode finds no helper modules beside the tests

from naive import NaiveSubject
from scenarios import AiobsSubject


@pytest.fixture
def subject(request):
    """aiobs, and in tests marked with `fails_with_naive` also the naive handler; rule G is checked for aiobs."""
    made = NaiveSubject() if getattr(request, "param", "aiobs") == "naive" else AiobsSubject()
    logging.getLogger().addHandler(made.log)
    try:
        yield made
        if not made.is_naive:
            made.check_rule_g()
    finally:
        logging.getLogger().removeHandler(made.log)
        made.close()
