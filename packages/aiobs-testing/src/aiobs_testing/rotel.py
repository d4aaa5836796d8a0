"""A real OpenTelemetry collector (rotel) on loopback, for tests."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, final

from aiobs_testing.receiver import OtlpReceiver

_READY_WITHIN_S: Final = 15.0


class RotelNotInstalled(RuntimeError):
    """The collector is not installed; the message says how to get it."""


@final
class Rotel:
    """Runs the real collector rotel on loopback, forwarding to an `OtlpReceiver`; a context manager.

    Args:
        forward_to: Where it sends what it gets; None drops it, and only `debug_log` tells.
        protocol: Protocol to forward with.

    Raises:
        RotelNotInstalled: On entering, if the package `rotel` is missing.
        RuntimeError: On entering, if it does not start; with the end of its log.
    """

    def __init__(
        self, forward_to: OtlpReceiver | None = None, *, protocol: Literal["grpc", "http"] = "grpc"
    ) -> None:
        self._forward_to = forward_to
        self._protocol = protocol

    def __enter__(self) -> Rotel:
        program = rotel_program()
        self._folder = tempfile.TemporaryDirectory(prefix="rotel-")
        self._log_path = Path(self._folder.name, "stdout.log")
        grpc_port, http_port = free_ports(2)
        self.grpc_endpoint = f"http://127.0.0.1:{grpc_port}"
        self.http_endpoint = f"http://127.0.0.1:{http_port}"
        # ROTEL_* variables of whoever runs the tests would override nothing here, but add exporters.
        environ = {key: value for key, value in os.environ.items() if not key.startswith("ROTEL_")}
        # The program links to this Python's library, which the loader finds by itself only in the system's folders.
        library_path = "DYLD_LIBRARY_PATH" if sys.platform == "darwin" else "LD_LIBRARY_PATH"
        folders = [str(sysconfig.get_config_var("LIBDIR") or ""), environ.get(library_path, "")]
        environ[library_path] = os.pathsep.join(filter(None, folders))
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [str(program), *self._arguments(grpc_port, http_port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environ,
                cwd=self._folder.name,
            )
        try:
            self._wait_until_ready((grpc_port, http_port))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    @property
    def debug_log(self) -> str:
        """What rotel printed so far: with every span and attribute that it received."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    def _arguments(self, grpc_port: int, http_port: int) -> list[str]:
        arguments = ["start", "--otlp-grpc-endpoint", f"127.0.0.1:{grpc_port}"]
        arguments += ["--otlp-http-endpoint", f"127.0.0.1:{http_port}", "--batch-timeout", "50ms"]
        arguments += ["--pid-file", "rotel.pid", "--log-file", "rotel.log"]
        for signal in ("traces", "metrics", "logs"):
            arguments += ["--debug-log", signal]
        arguments += ["--debug-log-verbosity", "detailed"]
        if self._forward_to is None:
            return [*arguments, "--exporter", "blackhole"]
        to = self._forward_to
        endpoint = to.grpc_endpoint if self._protocol == "grpc" else to.http_endpoint
        arguments += ["--exporter", "otlp", "--otlp-exporter-endpoint", endpoint]
        return [*arguments, "--otlp-exporter-protocol", self._protocol]

    def _wait_until_ready(self, ports: Iterable[int]) -> None:
        deadline = time.monotonic() + _READY_WITHIN_S
        waiting = list(ports)
        while waiting:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"rotel did not start; the end of its log:\n{self.debug_log[-2_000:]}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", waiting[0])) == 0:
                    waiting.pop(0)
                    continue
            time.sleep(0.02)


def rotel_program() -> Path:
    """Where the collector's program lies.

    Raises:
        RotelNotInstalled: If the package `rotel` is missing.
    """
    package = importlib.util.find_spec("rotel")
    folders = package.submodule_search_locations if package is not None else None
    for folder in folders or ():
        program = Path(folder, "rotel-agent")
        if program.is_file():
            return program
    raise RotelNotInstalled(
        "rotel, a real OpenTelemetry collector, is not installed; get it with: pip install rotel (50 MB, Linux and macOS)"
    )


def free_ports(count: int) -> list[int]:
    """TCP ports on loopback that nobody listens on at this moment."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
