"""`aiobs top` on a real terminal: drawn again and again, left with a key or a signal, and the terminal is as before."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aiobs_core import Kind, Operation, Recorder, Settings
from aiobs_testing.rotel import free_ports

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

ENTERED, LEFT = b"\x1b[?1049h", b"\x1b[?25h\x1b[?1049l"


class Terminal:
    """A pseudo-terminal in which `aiobs top` runs."""

    def __init__(self, *arguments: str, rich: bool = True, rows: int = 24, controls: bool = False) -> None:
        import pty
        import termios

        self._main, self._other = pty.openpty()
        self._controls = controls
        self._before = termios.tcgetattr(self._other)
        # Who was started in the background ignores the signal, and so do its children.
        program = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        if controls:  # so that Ctrl-C is a signal
            program += "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        program += "" if rich else "sys.modules['rich.console'] = None; "
        program += f"from aiobs_core.cli import main; raise SystemExit(main({['top', '--interval', '0.1s', *arguments]}))"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=self._other,
            stdout=self._other,
            stderr=self._other,
            start_new_session=controls,
            env={**os.environ, "TERM": "xterm", "LINES": str(rows), "COLUMNS": "100"},
        )
        self.seen = b""

    def wait_for(self, text: bytes, times: int = 1) -> None:
        deadline_s = time.monotonic() + 30
        while self.seen.count(text) < times:
            assert time.monotonic() < deadline_s, self.seen[-2_000:]
            self._read(0.2)

    def _read(self, within_s: float) -> None:
        if select.select([self._main], [], [], within_s)[0]:
            self.seen += os.read(self._main, 65_536)

    def type(self, keys: bytes) -> None:
        os.write(self._main, keys)

    def ends_with(self, code: int) -> None:
        """It ends, and the terminal is as it was before: screen, cursor, and how keys are read."""
        import termios

        deadline_s = time.monotonic() + 30
        while self.process.poll() is None and time.monotonic() < deadline_s:
            self._read(0.1)  # a terminal that nobody reads is full at some time
        self._read(0.1)
        assert self.process.returncode == code, self.seen[-2_000:]
        assert self.seen.endswith(LEFT)
        assert (self.seen.count(ENTERED), self.seen.count(LEFT)) == (1, 1)
        if not self._controls:  # who controlled a terminal takes it along
            assert termios.tcgetattr(self._other) == self._before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)
        os.close(self._other)


@contextmanager
def terminal(
    *arguments: str, rich: bool = True, rows: int = 24, controls: bool = False
) -> Iterator[Terminal]:
    made = Terminal(*arguments, rich=rich, rows=rows, controls=controls)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    settings = {"console": "off", "store": str(tmp_path / "store"), "flush_interval_s": 0.01}
    recorder = Recorder(Settings.load({}, settings, strict=True))
    for at in range(20):
        recorder.start("call", Operation(kind=Kind.MODEL, name="m", model=f"model-{at:02}"))
        recorder.fail("call", ValueError())
    recorder.shutdown(5)
    return tmp_path / "store"


@pytest.mark.parametrize("rich", [True, False])
def test_the_table_is_drawn_again_and_left_with_q(folder: Path, rich: bool) -> None:
    with terminal("--store", str(folder), rich=rich) as shown:
        shown.wait_for(b"model-19", times=3)
        shown.type(b"xq")
        shown.ends_with(0)
    assert b"q leaves" in shown.seen
    assert (b"\x1b[31m100.0%" in shown.seen) == rich  # only with rich there are colours


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_table_leaves_the_terminal_as_it_was(folder: Path, number: int, code: int) -> None:
    with terminal("--store", str(folder)) as shown:
        shown.wait_for(b"model-19", times=2)
        shown.process.send_signal(number)
        shown.ends_with(code)


def test_ctrl_c_leaves(folder: Path) -> None:
    with terminal("--store", str(folder), controls=True) as shown:
        shown.wait_for(b"model-19", times=2)
        shown.type(b"\x03")
        shown.ends_with(130)


def test_models_for_which_there_is_no_room_are_counted(folder: Path) -> None:
    with terminal("--store", str(folder), "--sort", "name", rows=10) as shown:
        shown.wait_for(b"14 more models", times=2)
        shown.type(b"q")
        shown.ends_with(0)
    assert b"model-05" in shown.seen
    assert b"model-06" not in shown.seen


def test_a_program_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with terminal("--url", f"http://localhost:{port}/metrics") as shown:
        shown.wait_for(b"Trying again; q leaves.", times=2)
        settings = {"console": "off", "store": "off", "flush_interval_s": 0.01, "prometheus_port": port}
        recorder = Recorder(Settings.load({}, settings, strict=True))
        call = Operation(kind=Kind.MODEL, name="m", model="late-model")
        deadline_s = time.monotonic() + 30
        while b"late-model" not in shown.seen and time.monotonic() < deadline_s:
            recorder.start("call", call)
            recorder.end("call")
            shown._read(0.1)
        recorder.shutdown(5)
        shown.wait_for(b"the table is 0 s old")
        shown.wait_for(b"the table is 1 s old")
        shown.type(b"q")
        shown.ends_with(0)
