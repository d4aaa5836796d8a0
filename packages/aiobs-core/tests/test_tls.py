"""OTLP over TLS: who is let in and who is refused, by receivers in this process and by a real nginx before them."""

from __future__ import annotations

import base64
import contextlib
import datetime as dt
import json
import logging
import os
import select
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trustme
from opentelemetry.sdk.metrics.export import MetricsData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from aiobs_core import cli
from aiobs_core._accounts import Accounts
from aiobs_core._errors import AiobsError
from aiobs_core._health import Health
from aiobs_core._settings import Settings
from aiobs_core.export.courier import Pace
from aiobs_core.export.grpc_receiver import grpc_target
from aiobs_core.export.open_delivery import open_delivery
from aiobs_core.export.otlp import open_exporter
from aiobs_core.export.outbox_place import place_of
from aiobs_core.export.tls import ClientTls, TlsFiles
from aiobs_core.export.transport import open_transport
from aiobs_testing.nginx import NginxFront, NginxNotInstalled, nginx_program
from aiobs_testing.receiver import OtlpReceiver
from aiobs_testing.rotel import Rotel, RotelNotInstalled, rotel_program

PROTOCOLS = ("grpc", "http/protobuf")
LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.timezone.utc)
WITHIN_S = 30.0  # with an early exit: a second, where the machine is idle


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No variable of the developer's machine."""
    for name in list(os.environ):
        if name.startswith("OTEL_EXPORTER_") or name.lower().endswith(("_proxy", "_ca_bundle")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def pki(tmp_path_factory, authority):
    """Certificates by name: that of a CA, and pairs of servers and clients, right and wrong."""
    folder, other = tmp_path_factory.mktemp("pki"), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other-ca.pem")
    server = ("localhost", "127.0.0.1")
    write(folder, "server", authority.issue_cert(*server))
    write(folder, "server-elsewhere", authority.issue_cert("elsewhere.example"))
    write(folder, "server-expired", authority.issue_cert(*server, not_after=LONG_AGO))
    write(folder, "client", authority.issue_cert("aiobs-agent.local"))
    write(folder, "client-expired", authority.issue_cert("aiobs-agent.local", not_after=LONG_AGO))
    write(folder, "client-foreign", other.issue_cert("aiobs-agent.local"))
    return folder


def write(folder: Path, name: str, issued) -> None:
    for suffix, parts in ((".pem", issued.cert_chain_pems), (".key", [issued.private_key_pem])):
        fresh = folder / f".{name}{suffix}"  # then moved into place, whole
        fresh.write_bytes(b"".join(part.bytes() for part in parts))
        fresh.replace(folder / f"{name}{suffix}")


def copy_pair(folder: Path, name: str, to: Path) -> None:
    for suffix in (".pem", ".key"):
        (to / f"fresh{suffix}").write_bytes((folder / f"{name}{suffix}").read_bytes())
        (to / f"fresh{suffix}").replace(to / f"client{suffix}")


def secret_of(folder: Path, name: str, version: Path) -> Path:
    """A version of a Kubernetes Secret."""
    version.mkdir()
    (version / "tls.crt").write_bytes((folder / f"{name}.pem").read_bytes())
    (version / "tls.key").write_bytes((folder / f"{name}.key").read_bytes())
    return version


@contextlib.contextmanager
def served(kind, pki, server="server", *, client_ca=True):
    """A receiver that asks for client certificates: an `OtlpReceiver` and what stands before it, which has the endpoints."""
    tls = {
        "certificate": pki / f"{server}.pem",
        "private_key": pki / f"{server}.key",
        "client_ca": pki / "ca.pem" if client_ca else None,
    }
    if kind == "receiver":
        with OtlpReceiver(**tls) as receiver:
            yield receiver, receiver
        return
    need(nginx_program, NginxNotInstalled)
    with OtlpReceiver() as receiver, NginxFront(receiver, **tls) as front:
        yield receiver, front


def need(find, missing):
    try:
        find()
    except missing as error:
        pytest.skip(str(error))


def endpoint_of(server, protocol):
    return server.grpc_endpoint if protocol == "grpc" else server.http_endpoint


class Spans:
    """An exporter over the transport of spans, which the courier uses, with what it catches."""

    def __init__(self, settings, environ, health):
        self.transport = open_transport(settings, environ=environ, health=health)

    def export(self, batch):
        assert not batch
        verdict = self.transport.send(b"").verdict
        assert verdict in {"sent", "again"}  # spans are not given up for certificates that can be mended
        return SpanExportResult.SUCCESS if verdict == "sent" else SpanExportResult.FAILURE

    def shutdown(self):
        self.transport.close()


class Outgoing:
    """An exporter under test: that of spans, or of metrics, which is opened like that of logs."""

    def __init__(self, endpoint, protocol, *, signal="metrics", settings=None, **environ):
        self.health = Health()
        variables = {f"OTEL_EXPORTER_OTLP_{name.upper()}": str(value) for name, value in environ.items()}
        variables["OTEL_EXPORTER_OTLP_TIMEOUT"] = os.environ["OTEL_EXPORTER_OTLP_TIMEOUT"]
        self.batch = MetricsData([]) if signal == "metrics" else []
        if signal == "traces":
            settings = replace(settings or Settings(), otlp_endpoint=endpoint, otlp_protocol=protocol)
            self.exporter = Spans(settings, variables, self.health)
        else:
            self.exporter = open_exporter(
                signal, endpoint, protocol, environ=variables, settings=settings, health=self.health
            )

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.exporter.shutdown()

    def send(self):
        """Whether an export got through."""
        try:
            return self.exporter.export(self.batch).name == "SUCCESS"
        except (AiobsError, OSError):  # older exporters let those of requests out, which are OSErrors
            return False

    def send_within(self, timeout_s=WITHIN_S):
        """Whether one did before the time was over."""
        deadline_s = time.monotonic() + timeout_s
        while not (sent := self.send()) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return sent

    def kinds(self):
        return {kind.removeprefix("otlp.tls.") for kind in self.health.counts()}


@pytest.fixture(params=["traces", "metrics"])
def outgoing(request):
    return partial(Outgoing, signal=request.param)


def certificates(pki, *, ca="ca", client="client"):
    found = {"certificate": pki / f"{ca}.pem"}
    if client:
        found |= {"client_certificate": pki / f"{client}.pem", "client_key": pki / f"{client}.key"}
    return found


@pytest.fixture(autouse=True)
def _give_up_soon(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")


def own_warnings(caplog):
    return [
        each.getMessage()
        for each in caplog.records
        if each.name == "aiobs" and each.levelno >= logging.WARNING
    ]


# --- who is let in ------------------------------------------------------------------------------------------------------
SERVERS = ("receiver", "nginx")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_the_right_certificate_passes_for_every_signal(pki, kind, protocol, signal):
    with served(kind, pki) as (receiver, server):
        with Outgoing(endpoint_of(server, protocol), protocol, signal=signal, **certificates(pki)) as out:
            assert out.exporter.export(out.batch).name == "SUCCESS"
            assert out.health.counts() == {}
        assert [request.signal for request in receiver.requests] == [signal]
        if kind == "nginx":
            found = server.wait_for_requests(1)
            assert {(each.protocol, each.verified) for each in found} == {("TLSv1.3", "SUCCESS")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_passes_a_front_before_a_real_collector(pki, protocol, outgoing):
    need(nginx_program, NginxNotInstalled)
    need(rotel_program, RotelNotInstalled)
    with (
        OtlpReceiver() as receiver,
        Rotel(receiver) as rotel,
        NginxFront(
            rotel, certificate=pki / "server.pem", private_key=pki / "server.key", client_ca=pki / "ca.pem"
        ) as front,
        outgoing(endpoint_of(front, protocol), protocol, **certificates(pki)) as out,
    ):
        assert out.send()
        assert {each.verified for each in front.wait_for_requests(1)} == {"SUCCESS"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("bundle", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("nonsense", ["other-ca.pem", "no-such-file.pem"])
def test_the_machines_ca_bundle_does_not_win_over_that_of_otlp(
    monkeypatch, pki, protocol, bundle, nonsense, outgoing
):
    monkeypatch.setenv(bundle, str(pki / nonsense))
    with served("receiver", pki) as (receiver, server):
        with outgoing(endpoint_of(server, protocol), protocol, **certificates(pki)) as out:
            assert out.send()
        assert len(receiver.requests) == 1


def test_the_machines_ca_bundle_is_used_where_otlp_names_none(pki):
    with served("receiver", pki) as (_, server):
        files = certificates(pki)
        del files["certificate"]
        health = Health()
        environ = {f"OTEL_EXPORTER_OTLP_{name.upper()}": str(value) for name, value in files.items()}
        environ["REQUESTS_CA_BUNDLE"] = str(pki / "ca.pem")
        exporter = open_exporter("metrics", server.http_endpoint, environ=environ, health=health)
        assert exporter.export(MetricsData([])).name == "SUCCESS"
        exporter.shutdown()


def test_public_authorities_are_not_trusted_beside_the_one_named(monkeypatch, pki, outgoing):
    # requests adds its own bundle to any context that is given to it: this receiver would be let in.
    monkeypatch.setattr("requests.adapters.DEFAULT_CA_BUNDLE_PATH", str(pki / "ca.pem"))
    with (
        served("receiver", pki) as (_, server),
        outgoing(server.http_endpoint, "http/protobuf", **certificates(pki, ca="other-ca")) as out,
    ):
        assert not out.send()
        assert out.kinds() == {"unknown_ca"}


class ConnectProxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy that makes tunnels, and remembers where to."""

    allow_reuse_address = daemon_threads = True

    def __enter__(self):
        self.asked = []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Tunnel(socketserver.StreamRequestHandler):
    rbufsize = 0

    def handle(self):
        target = self.rfile.readline().split()[1].decode()
        while self.rfile.readline().strip():
            pass
        self.server.asked.append(target)
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as there:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            ends = {self.connection: there, there: self.connection}
            while True:
                for end in select.select(list(ends), [], [], 30)[0]:
                    if not (part := end.recv(65_536)):
                        return
                    ends[end].sendall(part)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_proxy_of_the_environment_is_gone_through(monkeypatch, pki, protocol):
    variable = "grpc_proxy" if protocol == "grpc" else "HTTPS_PROXY"
    with served("receiver", pki) as (receiver, server), ConnectProxy(("127.0.0.1", 0), Tunnel) as proxy:
        monkeypatch.setenv(variable, proxy.url)
        exporter = open_exporter(
            "metrics",
            endpoint_of(server, protocol),
            protocol,
            environ={
                **{
                    f"OTEL_EXPORTER_OTLP_{name.upper()}": str(path)
                    for name, path in certificates(pki).items()
                },
                "grpc_proxy": proxy.url,
            },
        )
        assert exporter.export(MetricsData([])).name == "SUCCESS"
        exporter.shutdown()
        assert set(proxy.asked) == {endpoint_of(server, protocol).partition("://")[2]}
        assert len(proxy.asked) >= (2 if protocol == "grpc" else 1)  # over gRPC, a handshake goes before
        assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("endpoint", "environ", "target"),
    [
        ("https://c:4317", {}, ("c", 4317, True, "")),
        ("https://c:4317", {"OTEL_EXPORTER_OTLP_INSECURE": "true"}, ("c", 4317, True, "")),
        ("http://c:4317", {}, ("c", 4317, False, "")),
        ("http://c:4317", {"OTEL_EXPORTER_OTLP_TRACES_INSECURE": "false"}, ("c", 4317, True, "")),
        ("c:4317", {}, ("c", 4317, True, "")),
        ("c:4317", {"OTEL_EXPORTER_OTLP_INSECURE": "true"}, ("c", 4317, False, "")),
        ("https://c", {}, ("c", 443, True, "")),
        ("https://[::1]:1", {}, ("::1", 1, True, "")),
        ("https://c:1", {"https_proxy": "http://p:3128"}, ("c", 1, True, "http://p:3128")),
        ("https://a.c:1", {"https_proxy": "http://p", "no_proxy": "x, .c"}, ("a.c", 1, True, "")),
        ("https://ac:1", {"https_proxy": "http://p", "no_proxy": "c"}, ("ac", 1, True, "http://p")),
        (
            "https://10.1.2.3:1",
            {"https_proxy": "http://p", "no_proxy": "10.0.0.0/8"},
            ("10.1.2.3", 1, True, ""),
        ),
    ],
)
def test_an_endpoint_of_grpc_is_meant_as_the_official_exporters_mean_it(endpoint, environ, target):
    assert grpc_target("traces", endpoint, environ) == target


# --- who is refused -----------------------------------------------------------------------------------------------------
NO_CERTIFICATE, NOT_THIS_ONE = {"client_certificate_required"}, {"client_certificate"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(
    ("server", "files", "kinds"),
    [
        ("server", {"ca": "other-ca"}, {"unknown_ca"}),
        ("server-expired", {}, {"server_expired"}),
        ("server-elsewhere", {}, {"server_name"}),
        ("server", {"client": None}, NO_CERTIFICATE),
        ("server", {"client": "client-expired"}, NOT_THIS_ONE | {"client_expired"}),
        ("server", {"client": "client-foreign"}, NOT_THIS_ONE | {"client_unknown_ca"}),
    ],
)
def test_the_wrong_certificate_is_refused_and_said_once(
    caplog, monkeypatch, pki, kind, protocol, server, files, kinds, outgoing
):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # the official exporter tries again meanwhile
    with served(kind, pki, server) as (receiver, front):
        with outgoing(endpoint_of(front, protocol), protocol, **certificates(pki, **files)) as out:
            assert not out.send()
            assert not out.send()
            assert len(out.kinds()) == 1
            assert out.kinds() <= kinds
        assert receiver.requests == []
    (warning,) = own_warnings(caplog)
    assert "refuse" in warning or "require" in warning


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize(
    ("server", "files", "kinds"),
    [
        ("server", {"ca": "other-ca"}, {"unknown_ca"}),
        ("server-expired", {}, {"server_expired"}),
        ("server", {"client": None}, NO_CERTIFICATE),
        ("server", {"client": "client-expired"}, NOT_THIS_ONE | {"client_expired"}),
    ],
)
def test_doctor_says_over_either_protocol_why_tls_failed(
    make_span, capsys, tmp_path, pki, kind, protocol, server, files, kinds
):
    files = certificates(pki, **files)
    environ = {f"OTEL_EXPORTER_OTLP_{name.upper()}": str(path) for name, path in files.items()}
    with served(kind, pki, server) as (_, front):
        settings = Settings(
            otlp_endpoint=endpoint_of(front, protocol), otlp_protocol=protocol, spool=str(tmp_path)
        )
        health = Health()
        delivery = open_delivery(
            settings, health, Resource({}), accounts=Accounts(health), cwd=tmp_path, environ=environ
        )
        health.balance.received += 1
        delivery.export([make_span()])
        assert not delivery.force_flush(1_500)
        delivery.shutdown()
        assert cli.main(["doctor", "--spool", str(tmp_path)]) == 0
        said = capsys.readouterr().out
    place = place_of(settings.otlp_endpoint)
    assert any(f"last error: TLS: {each}, " in said for each in kinds), said
    assert any(f"receiver {place}: TLS failed ({each}) " in said for each in kinds), said
    assert "accepts connections" not in said


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_that_speaks_only_tls_1_2_is_refused_unless_that_is_allowed(
    caplog, pki, protocol, outgoing
):
    need(nginx_program, NginxNotInstalled)
    tls = {"certificate": pki / "server.pem", "private_key": pki / "server.key", "client_ca": pki / "ca.pem"}
    with OtlpReceiver() as receiver, NginxFront(receiver, **tls, protocols="TLSv1.2") as front:
        endpoint = endpoint_of(front, protocol)
        with outgoing(endpoint, protocol, **certificates(pki)) as out:
            assert not out.send()
            assert out.kinds() == {"protocol_version"}
        assert front.requests == []
        assert receiver.requests == []
        (warning,) = own_warnings(caplog)
        assert "AIOBS_TLS_MIN_VERSION" in warning
        allowed = Settings(tls_min_version="1.2")
        with outgoing(endpoint, protocol, settings=allowed, **certificates(pki)) as out:
            assert out.send()
        assert {each.protocol for each in front.wait_for_requests(1)} == {"TLSv1.2"}


@contextlib.contextmanager
def bare_listener(pki, version):
    """Accepts TLS of one version and nothing else, and remembers the versions that clients have agreed to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "server.pem", pki / "server.key")
    context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    agreed: list[str] = []

    def serve():
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                with contextlib.suppress(OSError), plain, context.wrap_socket(plain, server_side=True) as tls:
                    agreed.append(tls.version())

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], agreed
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


@pytest.mark.skipif(sys.platform == "darwin", reason="a listening socket cannot be shut down there")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_connection_of_tls_1_2_is_ever_agreed_to(monkeypatch, pki, protocol, outgoing):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with (
        bare_listener(pki, ssl.TLSVersion.TLSv1_2) as (port, agreed),
        outgoing(f"https://127.0.0.1:{port}", protocol, **certificates(pki)) as out,
    ):
        for _ in range(5):
            assert not out.send()
        assert out.kinds() == {"protocol_version"}
    assert agreed == []


def test_grpc_itself_agrees_to_no_tls_1_2_with_the_suite_that_the_guide_names(pki):
    """With a variable that its library reads once, so in a process of its own; without it, it does agree."""
    connect = (
        "import sys, grpc\n"
        "ca, port = open(sys.argv[1], 'rb').read(), sys.argv[2]\n"
        "with grpc.secure_channel(f'localhost:{port}', grpc.ssl_channel_credentials(ca)) as channel:\n"
        "    try: channel.unary_unary('/x/y')(b'', timeout=5)\n"
        "    except grpc.RpcError: pass\n"
    )
    suite = {"GRPC_SSL_CIPHER_SUITES": "ECDHE-PSK-AES128-CBC-SHA"}
    for version, environ, is_agreed_to in (
        (ssl.TLSVersion.TLSv1_2, {}, True),
        (ssl.TLSVersion.TLSv1_2, suite, False),
        (ssl.TLSVersion.TLSv1_3, suite, True),
    ):
        with bare_listener(pki, version) as (port, agreed):
            command = [sys.executable, "-c", connect, str(pki / "ca.pem"), str(port)]
            subprocess.run(
                command, env={**os.environ, **environ}, check=True, timeout=60, capture_output=True
            )
            assert bool(agreed) == is_agreed_to, (version, environ)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_without_tls_is_told_as_such(pki, protocol, outgoing):
    with OtlpReceiver() as receiver:
        endpoint = endpoint_of(receiver, protocol).replace("http:", "https:")
        with outgoing(endpoint, protocol, **certificates(pki)) as out:
            assert not out.send()
            assert out.kinds() & {"not_tls", "closed"}


def test_a_refused_receiver_is_not_asked_with_every_batch(pki):
    now_s = [100.0]
    files = TlsFiles(ca=str(pki / "other-ca.pem"))
    health = Health()
    tls = ClientTls(files, minimum="1.3", over_grpc=True, health=health, clock=lambda: now_s[0])
    with served("receiver", pki) as (_, server):
        port = int(server.grpc_endpoint.rpartition(":")[2])
        for _ in range(50):
            with pytest.raises(AiobsError, match="unknown CA"):
                tls.check_receiver("127.0.0.1", port, timeout_s=10)
        assert health.counts() == {"otlp.tls.unknown_ca": 1}
        now_s[0] += 1.1
        with pytest.raises(AiobsError, match="unknown CA"):
            tls.check_receiver("127.0.0.1", port, timeout_s=10)
        assert health.counts() == {"otlp.tls.unknown_ca": 2}


# --- rotation -----------------------------------------------------------------------------------------------------------
def serial_of(pem: Path) -> str:
    from cryptography import x509

    number = x509.load_pem_x509_certificate(pem.read_bytes()).serial_number
    digits = f"{number:X}"
    return digits.rjust(len(digits) + len(digits) % 2, "0")  # as nginx writes it: whole bytes


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_new_client_certificate_is_used_without_a_restart(tmp_path, pki, authority, protocol, outgoing):
    copy_pair(pki, "client-expired", tmp_path)
    (tmp_path / "ca.pem").write_bytes((pki / "ca.pem").read_bytes())
    with served("receiver", pki) as (receiver, server):
        with outgoing(endpoint_of(server, protocol), protocol, **certificates(tmp_path)) as out:
            assert not out.send()
            copy_pair(pki, "client", tmp_path)
            assert out.send_within()
        assert receiver.requests


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wrong", ["client-expired", "client-foreign"])
def test_spans_wait_for_the_right_certificate_and_arrive_once(
    make_span, tmp_path, pki, kind, protocol, wrong
):
    copy_pair(pki, wrong, tmp_path)
    files = {**certificates(tmp_path), "certificate": pki / "ca.pem"}
    environ = {f"OTEL_EXPORTER_OTLP_{name.upper()}": str(path) for name, path in files.items()}
    spans, health = [make_span() for _ in range(600)], Health()
    accounts = Accounts(health)
    with served(kind, pki) as (receiver, server):
        settings = Settings(
            otlp_endpoint=endpoint_of(server, protocol), otlp_protocol=protocol, spool=str(tmp_path / "spool")
        )
        delivery = open_delivery(
            settings, health, Resource({}), accounts=accounts, cwd=tmp_path, environ=environ
        )
        health.balance.received += len(spans)
        delivery.export(spans)
        assert not delivery.force_flush(1_500)
        assert accounts.balance().waiting == 600
        copy_pair(pki, "client", tmp_path)
        deadline_s = time.monotonic() + WITHIN_S
        while not delivery.force_flush(500) and time.monotonic() < deadline_s:
            pass
        delivery.shutdown()
        counts = accounts.balance()
        assert (counts.exported, counts.waiting, dict(counts.dropped), counts.unexplained) == (600, 0, {}, 0)
        arrived = sorted(span["span_id"] for span in receiver.spans)
    assert arrived == sorted(f"{span.context.span_id:016x}" for span in spans)


@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wrong", ["client-expired", "none"])
def test_a_pause_ends_when_the_certificates_are_mended(
    caplog, make_span, monkeypatch, tmp_path, pki, kind, protocol, wrong
):
    caplog.set_level(logging.INFO, "aiobs")
    monkeypatch.setattr(Pace, "pause_s", lambda *_: 600.0)
    if wrong != "none":
        copy_pair(pki, wrong, tmp_path)
    files = {**certificates(tmp_path), "certificate": pki / "ca.pem"}
    environ = {f"OTEL_EXPORTER_OTLP_{name.upper()}": str(path) for name, path in files.items()}
    with served(kind, pki) as (receiver, server):
        settings = Settings(
            otlp_endpoint=endpoint_of(server, protocol), otlp_protocol=protocol, spool=str(tmp_path / "spool")
        )
        delivery = open_delivery(
            settings,
            Health(),
            Resource({}),
            accounts=Accounts(Health()),
            cwd=tmp_path,
            environ=environ,
        )
        delivery.export([make_span() for _ in range(3)])
        assert wait_until(lambda: "tried again" in caplog.text or "sent again" in caplog.text)
        copy_pair(pki, "client", tmp_path)
        assert wait_until(lambda: len(receiver.spans) == 3)
        assert wait_until(lambda: "delivered again" in caplog.text)
        delivery.shutdown()
    said = [each.getMessage() for each in caplog.records]
    if wrong == "none":
        assert (
            f"no spans can be sent (the certificates for OTLP cannot be used (No such file or directory: {tmp_path}"
            in said[0]
        )
        assert "receiver" not in said[0]
    assert said[-1].startswith("aiobs: spans are delivered again after ")
    assert said[-1].endswith("; 3 that had waited were sent.")


def wait_until(holds):
    deadline_s = time.monotonic() + WITHIN_S
    while not (held := holds()) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return held


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_connections_kept_alive_do_not_keep_the_old_certificate(tmp_path, pki, authority, protocol, outgoing):
    copy_pair(pki, "client", tmp_path)
    write(pki, "client-next", authority.issue_cert("aiobs-agent.local"))
    files = {**certificates(tmp_path), "certificate": pki / "ca.pem"}
    serials = [serial_of(pki / f"{name}.pem") for name in ("client", "client-next")]
    with served("nginx", pki) as (_, front), outgoing(endpoint_of(front, protocol), protocol, **files) as out:
        assert out.send()
        assert out.send()
        assert {each.serial for each in front.wait_for_requests(2)} == {serials[0]}
        copy_pair(pki, "client-next", tmp_path)
        deadline_s = time.monotonic() + WITHIN_S
        while front.requests[-1].serial == serials[0] and time.monotonic() < deadline_s:
            assert out.send()  # none is lost on the way
            time.sleep(0.05)
        assert front.requests[-1].serial == serials[1]
        assert out.health.counts() == {}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_kubernetes_secret_that_is_swapped_is_noticed(tmp_path, pki, protocol, outgoing):
    secret_of(pki, "client-foreign", tmp_path / "..2026_1")
    (tmp_path / "..data").symlink_to("..2026_1")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    files = {
        "certificate": pki / "ca.pem",
        "client_certificate": tmp_path / "tls.crt",
        "client_key": tmp_path / "tls.key",
    }
    with (
        served("receiver", pki) as (_, server),
        outgoing(endpoint_of(server, protocol), protocol, **files) as out,
    ):
        assert not out.send()
        secret_of(pki, "client", tmp_path / "..2026_2")
        (tmp_path / "..data_tmp").symlink_to("..2026_2")
        (tmp_path / "..data_tmp").replace(tmp_path / "..data")
        assert out.send_within()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_new_ca_is_used_without_a_restart(tmp_path, pki, protocol, outgoing):
    ca = tmp_path / "ca.pem"
    ca.write_bytes((pki / "other-ca.pem").read_bytes())
    files = {**certificates(pki), "certificate": ca}
    with (
        served("receiver", pki) as (_, server),
        outgoing(endpoint_of(server, protocol), protocol, **files) as out,
    ):
        assert not out.send()
        ca.write_bytes((pki / "ca.pem").read_bytes())
        assert out.send_within()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_half_a_rotation_leaves_the_old_pair_in_use(caplog, tmp_path, pki, authority, protocol, outgoing):
    copy_pair(pki, "client", tmp_path)
    write(pki, "client-half", authority.issue_cert("aiobs-agent.local"))
    files = {**certificates(tmp_path), "certificate": pki / "ca.pem"}
    with (
        served("receiver", pki) as (_, server),
        outgoing(endpoint_of(server, protocol), protocol, **files) as out,
    ):
        assert out.send()
        (tmp_path / "client.pem").write_bytes((pki / "client-half.pem").read_bytes())  # and not yet its key
        deadline_s = time.monotonic() + WITHIN_S
        while out.health.counts().get("otlp.tls.unusable", 0) < 2 and time.monotonic() < deadline_s:
            assert out.send()
            time.sleep(0.05)
        assert out.health.counts()["otlp.tls.unusable"] >= 2
        (warning,) = own_warnings(caplog)
        assert "key values mismatch" in warning
        (tmp_path / "client.key").write_bytes((pki / "client-half.key").read_bytes())
        counted = -1
        while counted != (
            counted := out.health.counts()["otlp.tls.unusable"]
        ):  # until a look finds nothing wrong
            time.sleep(1.2)
            assert out.send()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_certificates_that_come_after_the_start_are_used(tmp_path, pki, protocol, outgoing):
    """As of a Vault agent that is slower than the application."""
    files = {**certificates(tmp_path), "certificate": pki / "ca.pem"}
    with served("receiver", pki) as (_, server):
        with pytest.raises(AiobsError, match=f"No such file or directory: {tmp_path}"):
            outgoing(endpoint_of(server, protocol), protocol, **files)
        copy_pair(pki, "client", tmp_path)
        with outgoing(endpoint_of(server, protocol), protocol, **files) as out:
            assert out.send()


def test_a_folder_of_authorities_is_for_http_only(tmp_path, pki, outgoing):
    (tmp_path / "00000000.0").write_bytes((pki / "ca.pem").read_bytes())
    files = {"certificate": tmp_path}
    with outgoing("https://localhost:1", "http/protobuf", **files):
        pass
    with pytest.raises(AiobsError, match="not as a folder"):
        outgoing("https://localhost:1", "grpc", **files)


def test_a_file_is_looked_at_once_a_second(monkeypatch, pki):
    now_s, looks = [100.0], []
    files = TlsFiles(ca=str(pki / "ca.pem"))
    tls = ClientTls(files, minimum="1.3", over_grpc=False, health=Health(), clock=lambda: now_s[0])
    first = tls.context()
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **more: looks.append(path) or stat(path, **more))
    for _ in range(1_000):
        assert tls.context() is first
    assert looks == []
    now_s[0] += 1.1
    assert tls.context() is first
    assert len(looks) == 1


# --- keys with a password, header secrets ---------------------------------------------------------------------------------
def locked(pki: Path, to: Path, password: str) -> None:
    from cryptography.hazmat.primitives import serialization as keys

    key = keys.load_pem_private_key((pki / "client.key").read_bytes(), None)
    sealed = keys.BestAvailableEncryption(password.encode())
    to.write_bytes(key.private_bytes(keys.Encoding.PEM, keys.PrivateFormat.PKCS8, sealed))


def test_a_key_with_a_password_is_opened_with_that_of_a_file_over_http(tmp_path, pki, outgoing):
    locked(pki, tmp_path / "client.key", "open sesame")
    (tmp_path / "client.pem").write_bytes((pki / "client.pem").read_bytes())
    (tmp_path / "password").write_text("open sesame\n")
    files = {**certificates(tmp_path), "certificate": pki / "ca.pem"}
    settings = Settings(otlp_client_key_password_file=str(tmp_path / "password"))
    with served("receiver", pki) as (_, server):
        with outgoing(server.http_endpoint, "http/protobuf", settings=settings, **files) as out:
            assert out.send()
        with pytest.raises(AiobsError, match="gRPC takes no key with a password"):
            outgoing(server.grpc_endpoint, "grpc", settings=settings, **files)
        with pytest.raises(AiobsError, match="cannot be used"):  # and no question at the terminal
            outgoing(server.http_endpoint, "http/protobuf", **files)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_headers_of_a_file_win_and_follow_it(tmp_path, protocol, outgoing):
    path = tmp_path / "headers"
    path.write_text("# of the vault\nAuthorization: Bearer first\n\nx-scope=tenant=7\n")
    path.chmod(0o400)
    settings = Settings(otlp_headers_file=str(path))
    with OtlpReceiver() as receiver:
        endpoint = endpoint_of(receiver, protocol)
        given = {"headers": "authorization=Bearer%20old,x-more=1"}
        with outgoing(endpoint, protocol, settings=settings, **given) as out:
            assert out.send()
            sent = receiver.requests[-1].headers
            assert (sent["authorization"], sent["x-scope"], sent["x-more"]) == (
                "Bearer first",
                "tenant=7",
                "1",
            )
            fresh = tmp_path / "fresh"
            fresh.write_text("Authorization: Bearer second")
            fresh.chmod(0o400)
            fresh.replace(path)
            deadline_s = time.monotonic() + WITHIN_S
            while (
                receiver.requests[-1].headers["authorization"] == "Bearer first"
                and time.monotonic() < deadline_s
            ):
                assert out.send()
                time.sleep(0.05)
            assert receiver.requests[-1].headers["authorization"] == "Bearer second"
            assert out.health.counts() == {}


@pytest.mark.parametrize("header", ["x$y=1", "x=caf%C3%A9", "trace-bin=1", "grpc-timeout=1"])
def test_a_header_that_grpc_does_not_take_costs_no_span(caplog, outgoing, header):
    with OtlpReceiver() as receiver:
        given = f"{header},authorization=Bearer mine"
        with outgoing(receiver.grpc_endpoint, "grpc", headers=given) as out:
            assert out.send()
            assert out.send()
        assert receiver.requests[-1].headers["authorization"] == "Bearer mine"
    (warning,) = own_warnings(caplog)
    assert header.partition("=")[0] in warning


def test_a_name_and_password_in_the_endpoint_are_sent_and_not_shown(caplog, outgoing):
    with OtlpReceiver() as receiver:
        endpoint = receiver.http_endpoint.replace("://", "://me:CANARY%40secret@")
        settings = Settings.load({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
        with outgoing(settings.otlp_endpoint, "http/protobuf") as out:
            assert out.send()
        expected = "Basic " + base64.b64encode(b"me:CANARY@secret").decode()
        assert receiver.requests[-1].headers["authorization"] == expected
        with outgoing(settings.otlp_endpoint, "http/protobuf", headers="authorization=Bearer mine") as out:
            assert out.send()
        assert receiver.requests[-1].headers["authorization"] == "Bearer mine"
        with outgoing(
            endpoint.replace(f":{receiver.http_endpoint.rpartition(':')[2]}", ":1"), "http/protobuf"
        ) as out:
            assert not out.send()
    assert "CANARY" not in caplog.text
    assert "CANARY" not in repr(settings)
    assert "me:" not in repr(settings)
    assert receiver.http_endpoint.partition("://")[2] in repr(settings)


def test_secrets_do_not_follow_a_redirect(tmp_path, outgoing):
    (tmp_path / "headers").write_text("x-key: CANARY")
    (tmp_path / "headers").chmod(0o400)

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(307)
            self.send_header("Location", f"{receiver.http_endpoint}/v1/metrics")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *given): ...

    with OtlpReceiver() as receiver, HTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        settings = Settings(otlp_headers_file=str(tmp_path / "headers"))
        with outgoing(f"http://127.0.0.1:{server.server_port}", "http/protobuf", settings=settings) as out:
            is_sent = out.send()
        server.shutdown()
        thread.join()
        assert not is_sent
        assert receiver.requests == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no header"),
        ("Authorization: a\nCANARY\n", "line 2"),
        ("a: CANARY\x07", "line 1"),
        ("x y: CANARY", "line 1"),
    ],
)
def test_a_file_that_is_none_of_headers_is_told_without_what_is_in_it(
    caplog, tmp_path, text, problem, outgoing
):
    path = tmp_path / "headers"
    path.write_text(text)
    path.chmod(0o600)
    with OtlpReceiver() as receiver:
        settings = Settings(otlp_headers_file=str(path))
        with outgoing(receiver.http_endpoint, "http/protobuf", settings=settings) as out:
            assert out.send()
            assert set(out.health.counts()) == {"otlp.headers_unusable"}
    (warning,) = own_warnings(caplog)
    assert problem in warning
    assert "CANARY" not in warning


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other rights")
def test_a_file_of_secrets_that_anybody_may_read_is_told(caplog, tmp_path, outgoing):
    path = tmp_path / "headers"
    path.write_text("authorization: x")
    path.chmod(0o644)
    with OtlpReceiver() as receiver:
        settings = Settings(otlp_headers_file=str(path))
        with outgoing(receiver.http_endpoint, "http/protobuf", settings=settings) as out:
            assert out.send()
    (warning,) = own_warnings(caplog)
    assert "defaultMode" in warning


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("endpoint", "headers", "is_told"),
    [
        ("http://collector.invalid:4318", "authorization=x", True),
        ("http://collector.invalid:4318", "x-scope=7", False),
        ("http://localhost:4318", "authorization=x", False),
        ("http://127.0.0.2:4318", "api-key=x", False),
        ("http://[::1]:4318", "api-key=x", False),
        ("https://collector.invalid:4318", "authorization=x", False),
    ],
)
def test_secrets_in_clear_text_to_another_host_are_told(protocol, endpoint, headers, is_told, outgoing):
    with outgoing(endpoint, protocol, headers=headers) as out:
        assert ("otlp.headers_in_clear" in out.health.counts()) == is_told


# --- nothing secret is said -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("trouble", ["none", "refused", "down", "garbage"])
def test_no_secret_is_in_logs_exceptions_or_repr(
    caplog, monkeypatch, tmp_path, pki, protocol, trouble, outgoing
):
    caplog.set_level(logging.DEBUG)
    (tmp_path / "headers").write_text("authorization: Bearer CANARY-header\nx-key: CANARY-key")
    (tmp_path / "headers").chmod(0o400)
    (tmp_path / "password").write_text("CANARY-password")
    locked(pki, tmp_path / "client.key", "CANARY-password")
    (tmp_path / "client.pem").write_bytes((pki / "client.pem").read_bytes())
    key_lines = (pki / "client.key").read_text().splitlines()[1:3]
    over_http = protocol != "grpc"
    settings = Settings(
        otlp_headers_file=str(tmp_path / "headers"),
        otlp_client_key_password_file=str(tmp_path / "password") if over_http else "",
    )
    files = certificates(pki)
    if over_http:
        files |= certificates(tmp_path) | {"certificate": pki / "ca.pem"}
    if trouble == "refused":
        files["certificate"] = pki / "other-ca.pem"
    given = "x-api-key=CANARY-environment," + ("no header CANARY-broken" if trouble == "garbage" else "")
    raised = []
    with served("receiver", pki) as (receiver, server):
        endpoint = endpoint_of(server, protocol)
        if trouble == "down":
            endpoint = f"https://127.0.0.1:{closed_port()}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", given)  # OpenTelemetry's own code reads it, too
        out = outgoing(endpoint, protocol, settings=settings, headers=given, **files)
        with out:
            try:
                assert (out.exporter.export(out.batch).name == "SUCCESS") == (trouble in {"none", "garbage"})
            except (AiobsError, OSError) as error:
                raised.append(error)
            ours = getattr(out.exporter, "transport", out.exporter)
            told = [repr(settings), repr(ours)]
            if type(ours).__module__.startswith("aiobs"):
                told += [repr(value) for value in vars(ours).values()]
            told += [text for error in raised for text in texts_of(error)]
        if trouble == "none":
            assert receiver.requests[-1].headers["authorization"] == "Bearer CANARY-header"
    told += [f"{each.getMessage()} {each.args} {each.exc_text}" for each in caplog.records]
    assert not [text for text in told if "CANARY" in text or any(line in text for line in key_lines)]


def texts_of(error):
    while error is not None:
        yield f"{error} {error!r} {error.args}"
        error = error.__cause__ or error.__context__


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- the whole of aiobs ---------------------------------------------------------------------------------------------------
APPLICATION = """
import json, logging, sys
import aiobs_core
from aiobs_core import Kind, Operation, Outcome, Usage

logging.basicConfig(level=logging.WARNING)
recorder = aiobs_core.configure(console="off", store="off", export_timeout_s=float(sys.argv[1]))
for at in range(200):
    recorder.start(at, Operation(kind=Kind.MODEL, name="chat", provider="openai", model="gpt-4o"))
    recorder.end(at, Outcome(usage=Usage(input_tokens=10, output_tokens=1)))
aiobs_core.shutdown()
print(json.dumps({"counts": recorder.health.counts()}))
"""


def run_application(endpoint, protocol, files, timeout_s):
    variables = {f"OTEL_EXPORTER_OTLP_{name.upper()}": str(value) for name, value in files.items()}
    variables |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=CANARY",
        "OTEL_LOGS_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
    }
    ran = subprocess.run(
        [sys.executable, "-c", APPLICATION, str(timeout_s)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CANARY" not in ran.stderr
    return json.loads(ran.stdout.splitlines()[-1]), ran.stderr


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_application_sends_all_signals_over_mutual_tls(pki, protocol):
    with served("nginx", pki) as (receiver, front):
        said, _ = run_application(endpoint_of(front, protocol), protocol, certificates(pki), 30)
        assert {request.signal for request in receiver.requests} == {"traces", "metrics", "logs"}
        assert len(receiver.spans) == 200
        assert {(each.protocol, each.verified) for each in front.requests} == {("TLSv1.3", "SUCCESS")}
    assert not [kind for kind in said["counts"] if "otlp" in kind or "dropped" in kind]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_application_that_is_refused_goes_on_and_is_told_why_once(pki, protocol):
    files = certificates(pki, client="client-expired")
    with served("receiver", pki) as (receiver, server):
        said, log = run_application(endpoint_of(server, protocol), protocol, files, 5)
        assert receiver.requests == []
    kinds = [kind for kind in said["counts"] if kind.startswith("otlp.tls.")]
    assert kinds
    assert log.count("cannot be sent over OTLP") == len(kinds)
    assert said["counts"]["spans.dropped"] == 200
