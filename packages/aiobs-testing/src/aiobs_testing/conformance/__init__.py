"""`ConformanceSuite`: what every integration must do, as tests that it inherits and cannot override.

A room for each theme: what is recorded, how runs end, who is inside of whom, what happens at the same time, what is
recorded once or not at all, and what must not harm the application.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from aiobs_testing.capture import Telemetry
from aiobs_testing.conformance.concurrency import Concurrency
from aiobs_testing.conformance.context import Context
from aiobs_testing.conformance.ends import Ends
from aiobs_testing.conformance.harm import Harm
from aiobs_testing.conformance.once import Once
from aiobs_testing.conformance.recording import Recording
from aiobs_testing.conformance.subject import Subject
from aiobs_testing.driver import Driver
from aiobs_testing.semconv_check import problems

__all__ = ["ConformanceSuite"]


class ConformanceSuite(Recording, Ends, Context, Concurrency, Once, Harm):
    """Subclass it, set `driver`, and declare in `gaps` what the framework cannot do.

    A test whose name is in `gaps` must fail: once it passes, the gap has to be deleted. Overriding a test is an
    error. Driver methods that are missing are skipped by name. Needs the fixture `telemetry` of this package.

    After each test no run may be open, spans form trees and say how they ended, and attributes and events are those of
    `aiobs_core.semconv`.

    Example:
        class TestLangChain(ConformanceSuite):
            driver = LangChainDriver
            gaps = {"test_batch": "the framework has no batch API that …"}
    """

    driver: ClassVar[type[Driver]]
    gaps: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        tests = {name for name in dir(ConformanceSuite) if name.startswith("test_")}
        overridden = sorted(tests & vars(cls).keys())
        if overridden:
            raise TypeError(f"{cls.__name__} overrides {', '.join(overridden)}; declare a gap instead")
        unknown = sorted(cls.gaps.keys() - tests)
        if unknown:
            raise TypeError(f"{cls.__name__} declares gaps in tests that do not exist: {', '.join(unknown)}")

    @pytest.fixture(autouse=True)
    def _declared_gap(self, request: pytest.FixtureRequest) -> None:
        reason = self.gaps.get(request.node.originalname)
        if reason is not None:
            request.applymarker(pytest.mark.xfail(reason=reason, strict=True))

    @pytest.fixture
    def subject(self, telemetry: Telemetry) -> Iterator[Subject]:
        subject = Subject(self.driver(), telemetry)
        yield subject
        subject.let_go()
        telemetry.wait_until_closed()
        assert problems(subject.spans()) == []
        assert subject.tree_problems() == []
        assert subject.end_problems() == []
