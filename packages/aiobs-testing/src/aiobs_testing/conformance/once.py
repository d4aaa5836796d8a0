"""Each run is one span, however often it is reported; nothing is recorded where nothing should be."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import pytest

from aiobs_core import semconv, suppressed
from aiobs_testing.conformance.subject import Subject

_COPIES: Final[dict[str, Callable[[Any], Any]]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda handler: pickle.loads(pickle.dumps(handler)),
}


class Once:
    """Handlers, their copies, the instrumentor, and the ways to switch all of it off."""

    @pytest.mark.parametrize("handlers", ["the same twice", "two instances"])
    def test_a_run_is_one_span_however_often_it_is_reported(self, subject: Subject, handlers: str) -> None:
        call = subject.observed("chat")
        again = subject.driver.handlers[0] if handlers == "the same twice" else subject.make_handler()
        subject.driver.handlers.append(again)
        call("hello")
        subject.check_model(subject.the("model"))

    def test_a_stream_is_one_span_however_often_it_is_reported(self, subject: Subject) -> None:
        call = subject.observed("stream")
        list(call("observed once"))
        subject.driver.handlers.append(subject.make_handler())
        list(call("observed twice"))
        once, twice = [subject.get(span, semconv.CHUNK_COUNT) for span in subject.of_kind("model")]
        assert once == twice

    @pytest.mark.parametrize("how", list(_COPIES))
    def test_a_copied_handler_observes_the_same_runs(self, subject: Subject, how: str) -> None:
        call = subject.observed("chat")
        (handler,) = subject.driver.handlers
        made = subject.keep(_COPIES[how](handler))
        subject.driver.handlers = [made]
        call("with the copy alone")
        subject.driver.handlers = [handler, made]
        call("with both")
        assert len(subject.of_kind("model")) == 2

    # --- the instrumentor -------------------------------------------------------------------------------------------

    def test_installed_twice_and_uninstalled(self, subject: Subject) -> None:
        call = subject.method("chat")
        install, uninstall = subject.method("install"), subject.method("uninstall")
        install()
        install()
        try:
            call("hello")
        finally:
            uninstall()
        assert len(subject.of_kind("model")) == 1
        call("hello")
        assert len(subject.of_kind("model")) == 1

    def test_installed_beside_a_handler(self, subject: Subject) -> None:
        call = subject.method("agent")
        install, uninstall = subject.method("install"), subject.method("uninstall")
        install()
        try:
            subject.driver.handlers = [subject.make_handler()]
            call("hello", lambda: "found")
        finally:
            uninstall()
        subject.check_agent(subject.spans())

    def test_uninstalled_while_running(self, subject: Subject) -> None:
        call = subject.method("tool")
        install, uninstall = subject.method("install"), subject.method("uninstall")
        install()
        call("x", uninstall)
        subject.closed()
        call("x", lambda: "")
        subject.check_not_an_error(subject.the("tool"), "success")

    def test_uninstalling_leaves_no_trace(self, subject: Subject) -> None:
        call, traces_left = subject.method("chat"), subject.method("traces_left")
        install, uninstall = subject.method("install"), subject.method("uninstall")
        for _ in range(2):
            install()
            try:
                call("hello")
            finally:
                uninstall()
            assert traces_left() == []
        assert len(subject.of_kind("model")) == 2

    # --- nothing at all ---------------------------------------------------------------------------------------------

    def test_suppressed(self, subject: Subject) -> None:
        call = subject.observed("chat")
        with suppressed():
            call("hello")
            subject.run_if_there("stream", "hello")
            subject.run_if_there("agent", "hello", lambda: "found")
        assert subject.spans() == []

    def test_switched_off_while_running(self, subject: Subject) -> None:
        call = subject.observed("tool")
        recorder = subject.telemetry.recorder
        on = recorder.settings
        off = replace(on, enabled=False)
        call("x", lambda: recorder.apply(off))
        call("x", lambda: "")
        recorder.apply(on)
        call("x", lambda: "")
        assert [subject.get(span, semconv.OUTCOME) for span in subject.of_kind("tool")] == ["success"] * 2
