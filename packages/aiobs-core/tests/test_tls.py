"""OTLP over TLS: who is let in and who is refused, by receivers in this process and by a real nginx before them."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import socket
import ssl
import sys
import threading
import time
from pathlib import Path

import pytest
import trustme
from opentelemetry.sdk.metrics.export import MetricsData

from aiobs_core._errors import AiobsError
from aiobs_core._health import Health
from aiobs_core._settings import Settings
from aiobs_core.export.otlp import open_exporter
from aiobs_core.export.tls import ClientTls, TlsFiles
from aiobs_testing.nginx import NginxFront, NginxNotInstalled, nginx_program
from aiobs_testing.receiver import OtlpReceiver
from aiobs_testing.rotel import Rotel, RotelNotInstalled, rotel_program

PROTOCOLS = ("grpc", "http/protobuf")
LONG_AGO = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
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


class Outgoing:
    """An exporter of metrics under test: it has no data to be made up, and all signals are opened alike."""

    def __init__(self, endpoint, protocol, *, signal="metrics", settings=None, **environ):
        self.health = Health()
        variables = {f"OTEL_EXPORTER_OTLP_{name.upper()}": str(value) for name, value in environ.items()}
        if signal == "traces":
            self.batch = []
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
            return self.exporter.export(MetricsData([])).name == "SUCCESS"
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


def certificates(pki, *, ca="ca", client="client"):
    found = {"certificate": pki / f"{ca}.pem"}
    if client:
        found |= {"client_certificate": pki / f"{client}.pem", "client_key": pki / f"{client}.key"}
    return found


@pytest.fixture(autouse=True)
def _give_up_soon(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")


def own_warnings(caplog):
    return [each.getMessage() for each in caplog.records if each.name == "aiobs" and each.levelno >= logging.WARNING]


# --- who is let in ------------------------------------------------------------------------------------------------------
SERVERS = ("receiver", "nginx")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", SERVERS)
@pytest.mark.parametrize("signal", ["traces", "metrics", "logs"])
def test_the_right_certificate_passes_for_every_signal(pki, kind, protocol, signal):
    with served(kind, pki) as (receiver, server):
        with Outgoing(endpoint_of(server, protocol), protocol, signal=signal, **certificates(pki)) as out:
            batch = MetricsData([]) if signal == "metrics" else []
            assert out.exporter.export(batch).name == "SUCCESS"
            assert out.health.counts() == {}
        assert [request.signal for request in receiver.requests] == [signal]
        if kind == "nginx":
            assert {(each.protocol, each.verified) for each in server.requests} == {("TLSv1.3", "SUCCESS")}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_passes_a_front_before_a_real_collector(pki, protocol):
    need(nginx_program, NginxNotInstalled)
    need(rotel_program, RotelNotInstalled)
    with (
        OtlpReceiver() as receiver,
        Rotel(receiver) as rotel,
        NginxFront(
            rotel, certificate=pki / "server.pem", private_key=pki / "server.key", client_ca=pki / "ca.pem"
        ) as front,
        Outgoing(endpoint_of(front, protocol), protocol, **certificates(pki)) as out,
    ):
        assert out.send()
        assert {each.verified for each in front.requests} == {"SUCCESS"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("bundle", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("nonsense", ["other-ca.pem", "no-such-file.pem"])
def test_the_machines_ca_bundle_does_not_win_over_that_of_otlp(monkeypatch, pki, protocol, bundle, nonsense):
    monkeypatch.setenv(bundle, str(pki / nonsense))
    with served("receiver", pki) as (receiver, server):
        with Outgoing(endpoint_of(server, protocol), protocol, **certificates(pki)) as out:
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


def test_public_authorities_are_not_trusted_beside_the_one_named(pki, authority):
    with served("receiver", pki) as (_, server):
        # Were requests' own bundle added, as it is to any context that is given to it, this one would be let in.
        with Outgoing(server.http_endpoint, "http/protobuf", **certificates(pki, ca="other-ca")) as out:
            session = out.exporter.__dict__.get("_session")
            if session is None:
                session = out.exporter._client._transport._session
            session.verify = str(pki / "ca.pem")
            assert not out.send()
            assert out.kinds() == {"unknown_ca"}


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
def test_the_wrong_certificate_is_refused_and_said_once(caplog, pki, kind, protocol, server, files, kinds):
    with served(kind, pki, server) as (receiver, front):
        with Outgoing(endpoint_of(front, protocol), protocol, **certificates(pki, **files)) as out:
            assert not out.send()
            assert not out.send()
            assert len(out.kinds()) == 1
            assert out.kinds() <= kinds
        assert receiver.requests == []
    (warning,) = own_warnings(caplog)
    assert "refuse" in warning or "require" in warning


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_that_speaks_only_tls_1_2_is_refused_unless_that_is_allowed(caplog, pki, protocol):
    need(nginx_program, NginxNotInstalled)
    tls = {"certificate": pki / "server.pem", "private_key": pki / "server.key", "client_ca": pki / "ca.pem"}
    with OtlpReceiver() as receiver, NginxFront(receiver, **tls, protocols="TLSv1.2") as front:
        endpoint = endpoint_of(front, protocol)
        with Outgoing(endpoint, protocol, **certificates(pki)) as out:
            assert not out.send()
            assert out.kinds() == {"protocol_version"}
        assert front.requests == []
        assert receiver.requests == []
        (warning,) = own_warnings(caplog)
        assert "AIOBS_TLS_MIN_VERSION" in warning
        allowed = Settings(tls_min_version="1.2")
        with Outgoing(endpoint, protocol, settings=allowed, **certificates(pki)) as out:
            assert out.send()
        assert {each.protocol for each in front.requests} == {"TLSv1.2"}


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
def test_no_connection_of_tls_1_2_is_ever_agreed_to(pki, protocol):
    with bare_listener(pki, ssl.TLSVersion.TLSv1_2) as (port, agreed):
        with Outgoing(f"https://127.0.0.1:{port}", protocol, **certificates(pki)) as out:
            for _ in range(5):
                assert not out.send()
            assert out.kinds() == {"protocol_version"}
    assert agreed == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_receiver_without_tls_is_told_as_such(pki, protocol):
    with OtlpReceiver() as receiver:
        endpoint = endpoint_of(receiver, protocol).replace("http:", "https:")
        with Outgoing(endpoint, protocol, **certificates(pki)) as out:
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
