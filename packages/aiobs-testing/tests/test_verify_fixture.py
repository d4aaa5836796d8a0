"""The fixture `aiobs_verify`, as users' tests have it."""

from __future__ import annotations

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

pytest.importorskip("aiobs_ops", reason="it comes with: pip install 'aiobs-testing[verify]'")


class Echo(BaseHTTPRequestHandler):
    """A service that goes on with the trace and the id of its caller, in its answer at least."""

    def do_GET(self):
        self.send_response(204)
        for name in ("traceparent", "x-request-id"):
            self.send_header(name, self.headers[name])
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_live_service_is_verified_inside_a_test(aiobs_verify, service):
    found = aiobs_verify(service)
    assert not found.failed
    assert [check.name for check in found.checks if check.status == "passed"] == [
        "answer",
        "trace",
        "request_id",
    ]


def test_without_aiobs_ops_the_test_fails_and_says_what_to_install(tmp_path):
    (tmp_path / "test_it.py").write_text("def test_it(aiobs_verify): pass\n", encoding="utf-8")
    code = "import sys; sys.modules['aiobs_ops'] = None; import pytest; sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider']))"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert "pip install 'aiobs-testing[verify]'" in ran.stdout
