"""The transport of spans: TLS, proxies, credentials, and a real collector."""

from __future__ import annotations

import pytest

from aiobs_core._errors import AiobsError
from aiobs_core._settings import Settings
from aiobs_core.export.transport import open_transport
from aiobs_core.export.wire import Encoder, request_of
from aiobs_testing.receiver import OtlpReceiver
from aiobs_testing.rotel import Rotel, RotelNotInstalled, rotel_program

PROTOCOLS = ("grpc", "http/protobuf")
PREFIXES = ("OTEL_EXPORTER_OTLP_", "OTEL_EXPORTER_OTLP_TRACES_")


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """No proxy and no CA of the developer's machine."""
    for name in (
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def send(make_span):
    """Sends one span and returns the answer."""
    opened = []

    def do(receiver, protocol, **environ):
        endpoint = receiver if isinstance(receiver, str) else endpoint_of(receiver, protocol)
        settings = Settings(otlp_endpoint=endpoint, otlp_protocol=protocol)
        opened.append(open_transport(settings, environ={"OTEL_EXPORTER_OTLP_TIMEOUT": "5", **environ}))
        span = Encoder()(make_span("chat 검색", {"n": 1}))
        return opened[-1].send(request_of([(span.group, span.body)], {span.group: span.head}))

    yield do
    for transport in opened:
        transport.close()


def endpoint_of(receiver, protocol):
    return receiver.grpc_endpoint if protocol == "grpc" else receiver.http_endpoint


def variables(tls, prefix=PREFIXES[0], *, ca="ca.pem", client=True):
    found = {f"{prefix}CERTIFICATE": str(tls / ca)}
    if client:
        found |= {f"{prefix}CLIENT_KEY": str(tls / "client.key")}
        found |= {f"{prefix}CLIENT_CERTIFICATE": str(tls / "client.pem")}
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("bundle", [None, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_mutual_tls_works_whatever_ca_bundle_the_machine_has(
    send, monkeypatch, tls, secured, protocol, prefix, bundle
):
    if bundle:
        monkeypatch.setenv(bundle, str(tls / "other-ca.pem"))
    assert send(secured, protocol, **variables(tls, prefix)).verdict == "sent"
    assert [span["name"] for span in secured.wait_for_spans(1)] == ["chat 검색"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("wrong", [{"ca": "other-ca.pem"}, {"client": False}, {"ca": "missing.pem"}])
def test_without_the_right_certificates_spans_wait_and_nothing_of_the_receiver_is_said(
    send, tls, secured, protocol, wrong
):
    if wrong == {"ca": "missing.pem"}:
        with pytest.raises(AiobsError, match=r"missing\.pem"):  # the courier says so, and tries again
            send(secured, protocol, **variables(tls, **wrong))
        return
    answer = send(secured, protocol, **variables(tls, **wrong))
    assert answer.verdict == "again"
    assert "127.0.0.1" not in answer.why
    assert secured.spans == []


def test_the_proxy_of_the_environment_is_used(send, monkeypatch, tls):
    with OtlpReceiver() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.http_endpoint)
        monkeypatch.setenv("NO_PROXY", "direct.invalid")
        for environ in ({}, variables(tls)):
            assert send("http://collector.invalid:4318", "http/protobuf", **environ).verdict == "sent"
        assert send("http://direct.invalid:4318", "http/protobuf").verdict == "again"
        assert len(proxy.spans) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_credential_provider_that_is_not_there_is_named(send, protocol):
    variable = f"OTEL_PYTHON_EXPORTER_OTLP_{'GRPC' if protocol == 'grpc' else 'HTTP'}_CREDENTIAL_PROVIDER"
    with pytest.raises(AiobsError, match="there is no credential provider named 'mine'"):
        send("https://localhost:1", protocol, **{variable: "mine"})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("package", ["requests", "grpc"])
def test_a_package_that_is_missing_is_named(send, monkeypatch, protocol, package):
    if (package == "grpc") != (protocol == "grpc"):
        return
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(AiobsError, match="pip install opentelemetry-exporter-otlp-proto-"):
        send("http://localhost:1", protocol)


@pytest.fixture(scope="module")
def collector():
    try:
        rotel_program()
    except RotelNotInstalled as missing:
        pytest.skip(str(missing))
    with OtlpReceiver() as receiver, Rotel(receiver) as rotel:
        yield receiver, rotel


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_span_passes_a_real_collector(send, collector, protocol):
    receiver, rotel = collector
    before = len(receiver.spans)
    assert send(rotel, protocol).verdict == "sent"
    (span,) = receiver.wait_for_spans(before + 1, 10)[before:]
    assert (span["name"], span["attributes"], span["resource"]) == (
        "chat 검색",
        {"n": 1},
        {"service.name": "shop"},
    )
