"""A real Prometheus on loopback that scrapes what a test names, and its linter."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, final
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import ProxyHandler, build_opener

from aiobs_testing.rotel import free_ports

_READY_WITHIN_S: Final = 15.0
_POLL_S: Final = 0.05
_http = build_opener(ProxyHandler({}))  # a proxy of whoever runs the tests knows nothing of loopback


class PrometheusNotInstalled(RuntimeError):
    """The program is not installed; the message says how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrapeTls:
    """How Prometheus reaches targets over TLS.

    Attributes:
        authority: PEM file of the authority of the targets' certificates.
        certificate: PEM file of Prometheus' own certificate, for targets that ask for one.
        key: PEM file of its key.
        min_version: Lowest version of TLS that it accepts, such as `TLS13`.
    """

    authority: Path | str
    certificate: Path | str | None = None
    key: Path | str | None = None
    min_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredExemplar:
    """An exemplar that Prometheus has kept."""

    series: Mapping[str, str]
    labels: Mapping[str, str]
    value: float
    time_s: float


@final
class Prometheus:
    """Runs the real Prometheus on loopback; a context manager.

    It scrapes nothing in its first five seconds: `wait_until_up` and `wait_for` wait that long and more.

    Args:
        targets: `host:port` of the pages, which it looks for at /metrics.
        tls: Scrape over TLS.
        path: Another path of the pages.
        accept_exemplars: False scrapes as a Prometheus that keeps none.

    Raises:
        PrometheusNotInstalled: On entering, if the program is missing.
        RuntimeError: On entering, if it does not start; with the end of its log.

    Example:
        >>> with Prometheus(["localhost:9464"]) as prometheus:  # doctest: +SKIP
        ...     prometheus.wait_for("ai_agent_requests_total")
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        tls: ScrapeTls | None = None,
        path: str = "/metrics",
        accept_exemplars: bool = True,
    ) -> None:
        self._targets = list(targets)
        self._tls = tls
        self._path = path
        self._accept_exemplars = accept_exemplars

    def __enter__(self) -> Prometheus:
        program = prometheus_program()
        self._folder = tempfile.TemporaryDirectory(prefix="prometheus-", ignore_cleanup_errors=True)
        folder = Path(self._folder.name)
        self._log_path = folder / "stdout.log"
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        # JSON is YAML, and needs no package to be written.
        (folder / "prometheus.yml").write_text(json.dumps(self._configuration()), encoding="utf-8")
        command = [program, "--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"]
        command += [f"--web.listen-address=127.0.0.1:{port}"]
        if self._accept_exemplars:
            command += ["--enable-feature=exemplar-storage"]
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=folder
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
        self._process.kill()  # it would write its blocks first, which nobody reads
        self._process.wait()
        self._folder.cleanup()

    @property
    def log(self) -> str:
        """What Prometheus printed so far."""
        return self._log_path.read_text(encoding="utf-8", errors="replace")

    # --- questions ----------------------------------------------------------------------------------------------
    def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that an instant query gives now; of a scalar, without labels."""
        result = self._api("query", query=promql)
        if result["resultType"] == "scalar":
            return [({}, float(result["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in result["result"]]

    def value(self, promql: str) -> float | None:
        """The value of a query that gives one series; None if it gives none.

        Raises:
            ValueError: If it gives several.
        """
        found = self.query(promql)
        if len(found) > 1:
            raise ValueError(f"{promql}: expected one series, got {found}")
        return found[0][1] if found else None

    def exemplars(self, selector: str, *, window_s: float = 3600.0) -> list[StoredExemplar]:
        """The exemplars of the series that a query names, of the last `window_s` seconds."""
        now_s = time.time()
        found = self._api("query_exemplars", query=selector, start=now_s - window_s, end=now_s + window_s)
        return [
            StoredExemplar(
                series=series["seriesLabels"],
                labels=exemplar["labels"],
                value=float(exemplar["value"]),
                time_s=exemplar["timestamp"],
            )
            for series in found
            for exemplar in series["exemplars"]
        ]

    def targets(self) -> dict[str, str]:
        """For each target's `host:port` the error of its last scrape, which is empty if it went well."""
        active = self._api("targets")["activeTargets"]
        return {target["labels"]["instance"]: target["lastError"] for target in active}

    # --- waiting ------------------------------------------------------------------------------------------------
    def wait_until_up(self, timeout_s: float = 20.0) -> None:
        """Wait until every target has been scraped.

        Raises:
            TimeoutError: If one was not within `timeout_s`; with its error.
        """
        try:
            self.wait_for(f"sum(up) == {len(self._targets)}", timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; errors of the targets: {self.targets()}") from None

    def wait_for(self, promql: str, timeout_s: float = 20.0) -> list[tuple[dict[str, str], float]]:
        """Wait until a query gives anything, as `sum(x) == 3` does once it is true.

        Raises:
            TimeoutError: If it gave nothing within `timeout_s`.
        """
        deadline_s = time.monotonic() + timeout_s
        while not (found := self.query(promql)):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{promql}: nothing within {timeout_s:g} s")
            time.sleep(_POLL_S)
        return found

    # --- its program --------------------------------------------------------------------------------------------
    def _configuration(self) -> dict[str, Any]:
        scrape: dict[str, Any] = {
            "job_name": "test",
            "metrics_path": self._path,
            "static_configs": [{"targets": self._targets}],
        }
        if self._tls is not None:
            files = (self._tls.authority, self._tls.certificate, self._tls.key)
            named = zip(("ca_file", "cert_file", "key_file"), files, strict=True)
            tls = {name: str(Path(path).resolve()) for name, path in named if path is not None}
            if self._tls.min_version is not None:
                tls["min_version"] = self._tls.min_version
            scrape |= {"scheme": "https", "tls_config": tls}
        return {"global": {"scrape_interval": "200ms"}, "scrape_configs": [scrape]}

    def _api(self, endpoint: str, **parameters: object) -> Any:
        with _http.open(f"{self.url}/api/v1/{endpoint}?{urlencode(parameters)}", timeout=10.0) as answer:
            return json.load(answer)["data"]

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _READY_WITHIN_S
        while True:
            try:
                with _http.open(f"{self.url}/-/ready", timeout=1.0):
                    return
            except (URLError, OSError):  # it does not listen yet, or says 503 while it reads its storage
                if self._process.poll() is not None or time.monotonic() > deadline_s:
                    end = self.log[-2_000:]
                    raise RuntimeError(f"Prometheus did not start; the end of its log:\n{end}") from None
            time.sleep(_POLL_S)


def prometheus_program(name: str = "prometheus") -> str:
    """Where the program lies; `promtool` is its linter.

    Raises:
        PrometheusNotInstalled: If it is missing.
    """
    found = shutil.which(name)
    if found is None:
        raise PrometheusNotInstalled(
            f"{name} is not installed; Debian and Ubuntu have it in the package: prometheus"
        )
    return found


def lint_page(page: bytes) -> list[str]:
    """What `promtool check metrics` says about a page in the text format; empty if nothing.

    Raises:
        PrometheusNotInstalled: If the program is missing.
    """
    program = prometheus_program("promtool")
    ran = subprocess.run(
        [program, "check", "metrics"], input=page, capture_output=True, check=False, timeout=60
    )
    said = (ran.stdout + ran.stderr).decode("utf-8", "replace").splitlines()
    return said if ran.returncode or said else []
