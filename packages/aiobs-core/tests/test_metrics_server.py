"""The Prometheus page: on its own port, inside an application, and of several workers at once."""

from __future__ import annotations

import asyncio
import gzip
import os
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from aiobs_core import Kind, Operation, Outcome, Recorder, Settings, Usage, cli
from aiobs_core._health import Health
from aiobs_core.metrics import metrics_asgi_app, metrics_wsgi_app, register
from aiobs_core.metrics.prometheus import AiobsCollector
from aiobs_core.metrics.server import PrometheusServer
from aiobs_core.semconv import metrics as names
from aiobs_testing.prometheus import Prometheus, PrometheusNotInstalled, ScrapeTls, lint_page
from aiobs_testing.rotel import free_ports

QUICK = {"console": "off", "store": "off", "flush_interval_s": 0.01, "export_timeout_s": 10.0}
GPT = Operation(kind=Kind.MODEL, name="m", provider="openai", model="gpt-4o")
USED = Outcome(usage=Usage(input_tokens=1_000, output_tokens=100, cache_read_tokens=10, reasoning_tokens=5))
NAMES = [
    "line\nbreak",
    'quo"te',
    "back\\slash",
    "x" * 10_000,
    "\ud800",
    "\x00\x1b[31m",
    "  ",
    "검색",
    "a,b={}#",
]
REQUESTS = names.REQUESTS.sample_name


@contextmanager
def recording(**settings: Any) -> Iterator[Recorder]:
    loaded = Settings.load({}, {**QUICK, **settings}, strict=True)
    recorder = Recorder(loaded, exporters=[InMemorySpanExporter()])
    try:
        yield recorder
    finally:
        recorder.shutdown(5)


def call(recorder: Recorder, operation: Operation = GPT) -> None:
    recorder.start(1, operation, scope="aiobs.test")
    recorder.end(1, USED)
    assert recorder.flush(10)


def get(url: str, *, tls: ssl.SSLContext | None = None, **headers: str) -> Any:
    handlers: list[Any] = [ProxyHandler({})]
    if tls is not None:
        handlers.append(HTTPSHandler(context=tls))
    return build_opener(*handlers).open(Request(url, headers=headers), timeout=10)


def total(page: bytes, name: str = REQUESTS, **labels: str) -> float:
    return sum(
        sample.value
        for family in parse(page.decode())
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


# --- what a page says -------------------------------------------------------------------------------------------------


def test_hostile_names_leave_a_page_that_parses() -> None:
    (port,) = free_ports(1)
    with recording(prometheus_port=port) as recorder:
        for name in NAMES:
            call(recorder, Operation(kind=Kind.TOOL, name=name))
        url = f"http://localhost:{port}/metrics"
        with get(url, Accept="text/plain") as answer:
            page = answer.read()
        assert total(page, names.TOOL_CALLS.sample_name) == len(NAMES)
        with get(url, Accept="application/openmetrics-text;version=1.0.0") as answer:
            assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
            families = {family.name: family for family in parse_openmetrics(answer.read().decode())}
        buckets = families[names.LATENCY.prometheus_name].samples
        assert any(sample.exemplar for sample in buckets)
        try:
            assert lint_page(page) == []
        except PrometheusNotInstalled as missing:
            pytest.skip(str(missing))


def test_the_page_is_packed_for_who_can_unpack_it() -> None:
    (port,) = free_ports(1)
    with recording(prometheus_port=port) as recorder:
        call(recorder)
        with get(f"http://127.0.0.1:{port}/", **{"Accept-Encoding": "gzip"}) as answer:
            assert total(gzip.decompress(answer.read()), stage="total") == 1


def test_only_the_page_is_there() -> None:
    (port,) = free_ports(1)
    with recording(prometheus_port=port) as recorder:
        call(recorder)
        with pytest.raises(URLError, match="404"):
            get(f"http://localhost:{port}/etc/passwd")
        with pytest.raises(URLError, match="405"):
            build_opener(ProxyHandler({})).open(f"http://localhost:{port}/metrics", data=b"x", timeout=5)


def test_the_port_is_free_after_the_end_and_taken_again_by_the_next() -> None:
    (port,) = free_ports(1)
    for _ in range(2):
        with recording(prometheus_port=port) as recorder:
            call(recorder)
            with get(f"http://localhost:{port}/metrics") as answer:
                assert total(answer.read(), stage="total") == 1
    with pytest.raises(URLError):
        get(f"http://localhost:{port}/metrics")


def test_another_level_of_logs_leaves_the_page_open() -> None:
    (port,) = free_ports(1)
    with recording(prometheus_port=port) as recorder:
        call(recorder)
        recorder.apply(
            Settings.load({}, {**QUICK, "prometheus_port": port, "log_level": "DEBUG"}, strict=True)
        )
        with get(f"http://localhost:{port}/metrics") as answer:
            assert total(answer.read(), stage="total") == 1
        call(recorder)
        assert (
            len(recorder._pipeline._exporters[0].get_finished_spans()) == 2
        )  # the destinations are the same


def test_a_port_in_use_is_told_with_the_next_step(caplog: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with recording(prometheus_port=taken.getsockname()[1]) as recorder:
            call(recorder)
    (warning,) = [each.getMessage() for each in caplog.records if "cannot be served" in each.getMessage()]
    assert "AIOBS_PROMETHEUS_PORT" in warning
    assert "AIOBS_METRICS_DIR" in warning


def test_a_host_that_is_none_is_told_even_where_workers_wait_for_the_port(
    tmp_path: Path, caplog: Any
) -> None:
    (port,) = free_ports(1)
    with recording(
        prometheus_port=port, prometheus_host="192.0.2.1", metrics_folder=str(tmp_path)
    ) as recorder:
        call(recorder)
    assert ["192.0.2.1" in each.getMessage() for each in caplog.records] == [True]


def test_a_page_that_cannot_be_made_is_told_and_is_no_half_page(caplog: Any) -> None:
    (port,) = free_ports(1)

    def read() -> Any:
        raise RuntimeError("an observer is broken")

    server = PrometheusServer(Settings.load({}, QUICK), read, Health(), port=port)
    try:
        with pytest.raises(URLError, match="503"):
            get(f"http://localhost:{port}/metrics")
    finally:
        server.close()
    assert ["an observer is broken" in each.getMessage() for each in caplog.records] == [True]


def test_who_connects_and_says_nothing_takes_few_threads() -> None:
    (port,) = free_ports(1)
    with recording(prometheus_port=port) as recorder:
        call(recorder)
        before = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(100)]
        try:
            assert silent[-1].recv(1) == b""  # closed at once
            assert threading.active_count() - before < 50
        finally:
            for each in silent:
                each.close()
        deadline = time.monotonic() + 5
        while threading.active_count() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        with get(f"http://localhost:{port}/metrics") as answer:
            assert total(answer.read(), stage="total") == 1


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: Any) -> dict[str, str]:
    folder, authority = tmp_path_factory.mktemp("certificates"), trustme.CA()
    server, client = authority.issue_cert("localhost", "127.0.0.1"), authority.issue_cert("scraper")
    other = trustme.CA()
    server_next, stranger = authority.issue_cert("localhost", "127.0.0.1"), other.issue_cert("scraper")
    named = {"server": server, "server_next": server_next, "client": client, "other": stranger}
    every = ("ca", "other_ca", *(name + ending for name in named for ending in ("", "_key")))
    paths = {name: str(folder / f"{name}.pem") for name in every}
    authority.cert_pem.write_to_path(paths["ca"])
    other.cert_pem.write_to_path(paths["other_ca"])
    for name, issued in named.items():
        issued.cert_chain_pems[0].write_to_path(paths[name])
        issued.private_key_pem.write_to_path(paths[f"{name}_key"])
    return paths


def test_only_who_has_a_certificate_may_scrape(certificates: dict[str, str]) -> None:
    (port,) = free_ports(1)
    settings = {
        "prometheus_port": port,
        "prometheus_certificate": certificates["server"],
        "prometheus_key": certificates["server_key"],
        "prometheus_client_ca": certificates["ca"],
    }
    with recording(**settings) as recorder:
        call(recorder)
        stranger = ssl.create_default_context(cafile=certificates["ca"])
        with pytest.raises(OSError):
            get(f"https://localhost:{port}/metrics", tls=stranger).read()
        known = ssl.create_default_context(cafile=certificates["ca"])
        known.load_cert_chain(certificates["client"], certificates["client_key"])
        with get(f"https://localhost:{port}/metrics", tls=known) as answer:
            assert total(answer.read(), stage="total") == 1
        tls = ScrapeTls(
            authority=certificates["ca"], certificate=certificates["client"], key=certificates["client_key"]
        )
        try:
            with Prometheus([f"localhost:{port}"], tls=tls) as prometheus:
                prometheus.wait_until_up()
                assert prometheus.value(f'sum({REQUESTS}{{stage="total"}})') == 1
        except PrometheusNotInstalled as missing:
            pytest.skip(str(missing))


def page_over_tls(certificates: dict[str, str], folder: Path) -> dict[str, Any]:
    """Settings of a page whose certificates lie in a folder of their own."""
    for name in ("ca", "server", "server_key"):
        shutil.copy(certificates[name], folder / f"{name}.pem")
    return {
        "prometheus_certificate": str(folder / "server.pem"),
        "prometheus_key": str(folder / "server_key.pem"),
        "prometheus_client_ca": str(folder / "ca.pem"),
    }


def scraper(certificates: dict[str, str], *, client: str = "client") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=certificates["ca"])
    context.load_cert_chain(certificates[client], certificates[f"{client}_key"])
    return context


def test_the_page_speaks_tls_1_3_at_least_unless_told_otherwise(certificates: dict[str, str]) -> None:
    settings = {
        "prometheus_certificate": certificates["server"],
        "prometheus_key": certificates["server_key"],
    }
    for minimum, is_let_in in (("1.3", False), ("1.2", True)):
        (port,) = free_ports(1)
        with recording(prometheus_port=port, tls_min_version=minimum, **settings) as recorder:
            call(recorder)
            old = ssl.create_default_context(cafile=certificates["ca"])
            old.maximum_version = ssl.TLSVersion.TLSv1_2
            with nullcontext() if is_let_in else pytest.raises(URLError, match=r"(?i)version"):
                get(f"https://localhost:{port}/metrics", tls=old).close()


def test_a_prometheus_that_asks_for_tls_1_3_scrapes_through_a_rotation(
    certificates: dict[str, str], tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    tls = ScrapeTls(
        authority=certificates["ca"],
        certificate=certificates["client"],
        key=certificates["client_key"],
        min_version="TLS13",
    )
    with recording(prometheus_port=port, **page_over_tls(certificates, tmp_path)) as recorder:
        call(recorder)
        try:
            with Prometheus([f"localhost:{port}"], tls=tls) as prometheus:
                prometheus.wait_until_up()
                put_in_place(certificates, "server_next", tmp_path)
                assert served_serial(port, certificates, "server_next")
                scrapes = prometheus.value("count_over_time(up[5m])") or 0
                prometheus.wait_for(f"count_over_time(up[5m]) >= {scrapes + 5}")
                assert prometheus.value("min_over_time(up[5m])") == 1  # no scrape has failed
                assert prometheus.value(f'sum({REQUESTS}{{stage="total"}})') == 1
        except PrometheusNotInstalled as missing:
            pytest.skip(str(missing))


def page_of_who_has_a_certificate(certificates: dict[str, str], port: int) -> dict[str, Any]:
    return {
        "prometheus_port": port,
        "prometheus_certificate": certificates["server"],
        "prometheus_key": certificates["server_key"],
        "prometheus_client_ca": certificates["ca"],
    }


def test_aiobs_top_reads_such_a_page_or_says_what_it_lacks(certificates: dict[str, str], capsys: Any) -> None:
    (port,) = free_ports(1)
    top = ["top", "--url", f"https://localhost:{port}/metrics", "--json", "--interval", "0.1s"]
    ca = ["--ca", certificates["ca"]]
    with recording(**page_of_who_has_a_certificate(certificates, port)) as recorder:
        call(recorder)
        assert (
            cli.main([*top, *ca, "--cert", certificates["client"], "--key", certificates["client_key"]]) == 0
        )
        assert '"rows"' in capsys.readouterr().out
        assert cli.main(top) != 0
        assert "--ca" in capsys.readouterr().err
        assert cli.main([*top, *ca]) != 0
        assert "--cert" in capsys.readouterr().err
        for given, other in (("--cert", "--key"), ("--key", "--cert")):
            file = certificates["client" if given == "--cert" else "client_key"]
            assert cli.main([*top, *ca, given, file]) != 0
            assert f"{given} needs {other}" in capsys.readouterr().err
        for given in (["--ca", "gone.pem"], [*ca, "--cert", "gone.pem"]):
            assert cli.main([*top, *given]) != 0
            assert "'gone.pem'" in capsys.readouterr().err


def test_who_is_refused_can_read_why_however_late(certificates: dict[str, str]) -> None:
    """With TLS 1.3 a request leaves before the refusal comes; a reset would take the refusal away."""
    (port,) = free_ports(1)
    tls = ssl.create_default_context(cafile=certificates["ca"])
    with recording(**page_of_who_has_a_certificate(certificates, port)) as recorder:
        call(recorder)
        with (
            socket.create_connection(("localhost", port), timeout=10) as plain,
            tls.wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            connection.sendall(b"GET /metrics HTTP/1.1\r\n")
            time.sleep(0.3)  # it has been refused by now, or soon is: both have to do
            connection.sendall(b"Host: localhost\r\n\r\n")
            with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
                connection.recv(1)


def test_aiobs_top_says_what_a_page_may_lack_that_breaks_off(
    certificates: dict[str, str], capsys: Any
) -> None:
    """As others than ours do, and proxies before it: the alert is lost."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates["server"], certificates["server_key"])
    for heard in (0, 4096):
        with socket.create_server(("localhost", 0)) as listening:

            def break_off(listening: socket.socket = listening, heard: int = heard) -> None:
                connection, _ = listening.accept()
                with tls.wrap_socket(connection, server_side=True) as secure:
                    if heard:
                        secure.recv(heard)
                    secure.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

            thread = threading.Thread(target=break_off)
            thread.start()
            url = f"https://localhost:{listening.getsockname()[1]}/metrics"
            assert cli.main(["top", "--url", url, "--json", "--ca", certificates["ca"]]) != 0
            thread.join(10)
        assert "broken off" in (said := capsys.readouterr().err)
        assert "--cert" in said


def put_in_place(certificates: dict[str, str], name: str, folder: Path) -> None:
    for ending in ("", "_key"):
        shutil.copy(certificates[name + ending], folder / f"fresh{ending}")
        (folder / f"fresh{ending}").replace(folder / f"server{ending}.pem")


def served_serial(port: int, certificates: dict[str, str], wanted: str, within_s: float = 30.0) -> bool:
    """Whether the page gets to be served with a certificate."""
    expected = ssl.PEM_cert_to_DER_cert(Path(certificates[wanted]).read_text())
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        with (
            socket.create_connection(("localhost", port), timeout=10) as plain,
            scraper(certificates).wrap_socket(plain, server_hostname="localhost") as tls,
        ):
            if tls.getpeercert(binary_form=True) == expected:
                return True
        time.sleep(0.05)
    return False


def test_half_a_rotation_leaves_the_page_as_it_was(
    certificates: dict[str, str], tmp_path: Path, caplog: Any
) -> None:
    (port,) = free_ports(1)
    with recording(prometheus_port=port, **page_over_tls(certificates, tmp_path)) as recorder:
        call(recorder)
        shutil.copy(certificates["server_next"], tmp_path / "server.pem")  # and not yet its key
        deadline_s = time.monotonic() + 30
        while "certificate_change" not in str(recorder.health.counts()) and time.monotonic() < deadline_s:
            get(f"https://localhost:{port}/metrics", tls=scraper(certificates)).close()
            time.sleep(0.05)
        assert served_serial(port, certificates, "server")
        put_in_place(certificates, "server_next", tmp_path)
        assert served_serial(port, certificates, "server_next")
    assert ["key values mismatch" in each.getMessage() for each in caplog.records] == [True]


def test_a_new_authority_of_clients_holds_without_a_restart(
    certificates: dict[str, str], tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    with recording(prometheus_port=port, **page_over_tls(certificates, tmp_path)) as recorder:
        call(recorder)
        url, other = f"https://localhost:{port}/metrics", scraper(certificates, client="other")
        with pytest.raises(OSError):
            get(url, tls=other).read()
        shutil.copy(certificates["other_ca"], tmp_path / "ca.pem")
        deadline_s = time.monotonic() + 30
        while True:
            try:
                get(url, tls=other).close()
                break
            except OSError:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
        with pytest.raises(OSError):
            get(url, tls=scraper(certificates)).read()


def test_a_certificate_that_comes_after_the_start_opens_the_page(
    certificates: dict[str, str], tmp_path: Path, caplog: Any
) -> None:
    (port,) = free_ports(1)
    settings = page_over_tls(certificates, tmp_path)
    (tmp_path / "server_key.pem").unlink()
    with recording(prometheus_port=port, **settings) as recorder:
        call(recorder)
        shutil.copy(certificates["server_key"], tmp_path / "server_key.pem")
        deadline_s = time.monotonic() + 30
        while True:
            try:
                get(f"https://localhost:{port}/metrics", tls=scraper(certificates)).close()
                break
            except URLError:
                assert time.monotonic() < deadline_s
                time.sleep(0.05)
    (said,) = [each.getMessage() for each in caplog.records]
    assert (
        f"is not served: its certificate, key or authority cannot be used (No such file or directory: {tmp_path}"
        in said
    )
    assert "server_key.pem" in said


def test_without_a_usable_certificate_there_is_no_page_and_a_warning(
    certificates: dict[str, str], caplog: Any
) -> None:
    (port,) = free_ports(1)
    with recording(prometheus_port=port, prometheus_certificate=certificates["server"]) as recorder:
        call(recorder)
        with pytest.raises(URLError):
            get(f"http://localhost:{port}/metrics")
    assert any("AIOBS_PROMETHEUS_KEY" in each.getMessage() for each in caplog.records)


def test_a_key_with_a_password_is_refused_and_asks_no_terminal(
    certificates: dict[str, str], tmp_path: Path, caplog: Any
) -> None:
    key = load_pem_private_key(Path(certificates["server_key"]).read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )
    (port,) = free_ports(1)
    settings = {"prometheus_certificate": certificates["server"], "prometheus_key": str(locked)}
    with recording(prometheus_port=port, **settings) as recorder:
        call(recorder)
        with pytest.raises(URLError):
            get(f"http://localhost:{port}/metrics")
    assert any("AIOBS_PROMETHEUS_KEY" in each.getMessage() for each in caplog.records)


# --- inside an application ----------------------------------------------------------------------------------------------


def test_the_page_can_be_mounted_and_registered() -> None:
    with recording() as recorder:
        call(recorder)
        read = recorder.metrics.page
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"accept", b"text/plain")]}
        asyncio.run(metrics_asgi_app(read)(scope, receive, send))
        assert sent[0]["status"] == 200
        assert total(sent[1]["body"], stage="total") == 1

        started: list[Any] = []
        body = metrics_wsgi_app(read)({"REQUEST_METHOD": "GET"}, lambda *given: started.append(given))
        assert started[0][0] == "200 OK"
        assert total(b"".join(body), stage="total") == 1

        registry = CollectorRegistry()
        registry.register(AiobsCollector(read))
        assert total(generate_latest(registry), stage="total") == 1


def test_the_applications_own_registry_tells_of_this_process() -> None:
    registry = CollectorRegistry()
    collector = register(registry)
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(AiobsCollector(list))
    registry.unregister(collector)


# --- several workers ----------------------------------------------------------------------------------------------------

WORKER = textwrap.dedent("""
    import sys
    from aiobs_core import Kind, Operation, Outcome, Usage, configure
    recorder = configure(console="off", store="off", exporters=[], flush_interval_s=0.01)
    print("ready", flush=True)
    for line in sys.stdin:
        for at in range(int(line)):
            recorder.start(at, Operation(kind=Kind.MODEL, name="m", provider="openai", model="gpt-4o"))
            recorder.end(at, Outcome(usage=Usage(input_tokens=10, output_tokens=1)))
        recorder.flush(10)
        print("done", flush=True)
""")
needs_folder = pytest.mark.skipif(sys.platform == "win32", reason="a folder of workers needs POSIX")


class Worker:
    def __init__(self, folder: Path, port: int) -> None:
        environment = {**os.environ, "AIOBS_METRICS_DIR": str(folder), "AIOBS_PROMETHEUS_PORT": str(port)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def work(self, count: int) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        while self.process.stdout.readline() not in {"done\n", ""}:
            pass

    def end(self) -> None:
        self.process.communicate(timeout=20)


@needs_folder
def test_one_page_tells_of_all_workers_living_and_dead(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    workers = [Worker(tmp_path, port) for _ in range(4)]
    sent = 0
    try:
        for count, worker in enumerate(workers, start=1):
            worker.work(10 * count)
            sent += 10 * count
        assert _page_total(port, sent) == sent
        workers[0].process.send_signal(signal.SIGKILL)  # the one that has the port
        workers[0].process.communicate()
        workers[1].end()  # and one that ends in peace
        workers.append(Worker(tmp_path, port))
        workers[-1].work(5)
        assert _page_total(port, sent + 5) == sent + 5
    finally:
        for worker in workers[2:]:
            worker.end()
    assert len(list(tmp_path.glob("aiobs-*.metrics"))) <= 5


def _page_total(port: int, expected: float) -> float:
    """The requests on the page, once there is one: another worker may have to take the port over."""
    deadline = time.monotonic() + 15
    found = -1.0
    while found != expected and time.monotonic() < deadline:
        try:
            with get(f"http://localhost:{port}/metrics") as answer:
                found = total(answer.read(), stage="total")
        except OSError:
            pass
        time.sleep(0.1)
    return found


@needs_folder
def test_a_damaged_file_costs_one_warning_and_no_page(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "aiobs-0123.metrics").write_bytes(b"{no metrics")
    (tmp_path / "gauge_all_17.db").write_bytes(b"prometheus_client's own")
    (port,) = free_ports(1)
    with recording(prometheus_port=port, metrics_folder=str(tmp_path)) as recorder:
        call(recorder)
        for _ in range(3):
            with get(f"http://localhost:{port}/metrics") as answer:
                assert total(answer.read(), stage="total") == 1
    assert sum("aiobs-0123.metrics" in each.getMessage() for each in caplog.records) == 1
    assert (tmp_path / "gauge_all_17.db").exists()


@needs_folder
def test_what_is_shared_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "made by us"
    with recording(metrics_folder=str(folder)) as recorder:
        call(recorder)
        assert folder.stat().st_mode & 0o077 == 0
        assert [path.stat().st_mode & 0o077 for path in folder.glob("*.metrics")] == [0]
