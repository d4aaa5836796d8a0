from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode finds no helper modules beside the tests

from llama_index.core import Settings
from llama_index.core.instrumentation import get_dispatcher
from llama_naive import AiobsSubject, NaiveSubject, Subject

from aiobs_llama_index import AiObsCallbackHandler

_THEIRS = ["NullSpanHandler", "NullEventHandler"]


@pytest.fixture
def handler(telemetry: object) -> Iterator[AiObsCallbackHandler]:
    """aiobs, switched on by a handler while the test runs."""
    made = AiObsCallbackHandler()
    yield made
    made.close()


@pytest.fixture
def subject(request: pytest.FixtureRequest, telemetry: Any) -> Iterator[Subject]:
    """aiobs, and in tests marked with `fails_with_naive` also the naive handlers."""
    made = NaiveSubject() if getattr(request, "param", "aiobs") == "naive" else AiobsSubject(telemetry)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _no_loop_is_made_in_passing() -> None:
    """LlamaIndex's sync calls ask for the thread's event loop; Python makes the first one, and nobody closes it."""
    asyncio.set_event_loop(None)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Settings are as they were, and no handler of ours is left on the dispatcher."""
    yield
    Settings._callback_manager = None
    Settings._llm = Settings._embed_model = None
    if _handlers() != _THEIRS:
        gc.collect()  # a handler observes until it is collected; a pass over all modules takes 0.2 s
    assert _handlers() == _THEIRS


def _handlers() -> list[str]:
    root = get_dispatcher()
    return [type(each).__name__ for each in (*root.span_handlers, *root.event_handlers)]
