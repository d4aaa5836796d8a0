"""`aiobs verify` against real services in processes of their own, behind a real nginx."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen
from xml.etree import ElementTree as ET

import pytest

pytest.importorskip("fastapi", reason="FastAPI is not installed; get it with: pip install fastapi uvicorn")
pytest.importorskip("uvicorn", reason="uvicorn is not installed; get it with: pip install uvicorn")

from aiobs_core import cli
from aiobs_core.privacy import PRESETS, Hasher, Masker
from aiobs_core.privacy.hashing import NO_KEYS
from aiobs_ops.verify import Hop, verify
from aiobs_ops.verify.canary import Canary
from aiobs_testing.nginx import NginxNotInstalled, NginxProxy, nginx_program
from aiobs_testing.rotel import free_ports

APP = Path(__file__).with_name("verify_app.py")
QUESTION = '{"question": "Where is {canary}?"}'
DROPS = 'proxy_set_header traceparent "";'


def has_nginx():
    try:
        nginx_program()
    except NginxNotInstalled as error:
        return str(error)
    return ""


needs_nginx = pytest.mark.skipif(bool(has_nginx()), reason=has_nginx() or "it is there")


class Service:
    def __init__(self, folder, port, name):
        self.url = f"http://127.0.0.1:{port}"
        self.chat = f"{self.url}/chat"
        self.store = folder / "store"
        self.logs = folder / f"{name}.jsonl"
        self.metrics = f"{self.url}/metrics"

    @property
    def evidence(self):
        return {"store": self.store, "metrics": self.metrics, "logs": self.logs}


@contextmanager
def running(folder, name="app", **environ):
    (port,) = free_ports(1)
    service = Service(folder, port, name)
    settings = {
        "VERIFY_PORT": str(port),
        "OTEL_SERVICE_NAME": name,
        "AIOBS_STORE": str(service.store),
        "AIOBS_LOG": str(service.logs),
        "AIOBS_CONSOLE": "off",
        "VERIFY_SILENT": "1",
        **environ,
    }
    process = subprocess.Popen(
        [sys.executable, str(APP)], env={**os.environ, **settings}, cwd=folder, stderr=subprocess.PIPE
    )
    try:
        while True:
            assert process.poll() is None, process.stderr.read()
            try:
                urlopen(f"{service.url}/healthz", timeout=5).close()
                break
            except OSError:
                time.sleep(0.02)
        yield service
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with running(tmp_path_factory.mktemp("app")) as service:
        yield service


def said(found):
    return {check.name: (check.status, check.says) for check in found.checks}


def statuses(found):
    return {check.name: check.status for check in found.checks}


ALL_PASSED = dict.fromkeys(
    ("answer", "trace", "request_id", "services", "stages", "metrics", "logs", "masked"), "passed"
)


# --- one service --------------------------------------------------------------------------------------------------------


def test_a_sound_service_passes_every_check(app):
    found = verify(app.chat, data=QUESTION, services=["app"], stages=["model_inference"], **app.evidence)
    assert statuses(found) == ALL_PASSED, str(found)
    assert "model_inference, prompt_receive, response_send" in said(found)["stages"][1]
    assert "rose by 1 request" in said(found)["metrics"][1]


def test_what_needs_an_option_is_skipped_and_says_which(app):
    found = verify(app.chat)
    assert {name: status for name, (status, _) in said(found).items() if status == "passed"} == {
        "answer": "passed", "trace": "passed", "request_id": "passed",
    }  # fmt: skip
    for name, option in (
        ("services", "--store"), ("stages", "--store"), ("metrics", "--metrics"), ("logs", "--logs"), ("masked", "--store"),
    ):  # fmt: skip
        assert said(found)[name][0] == "skipped"
        assert option in said(found)[name][1]
    assert not found.failed


def test_a_service_that_is_not_there_is_one_failure():
    (port,) = free_ports(1)
    found = verify(f"http://127.0.0.1:{port}/chat?token=secret", timeout_s=5)
    assert statuses(found) == {"answer": "failed"}
    assert "Connection refused" in str(found)
    assert "secret" not in str(found)


def test_an_error_of_the_service_fails_and_its_body_is_not_shown(app):
    found = verify(f"{app.url}/fail", store=app.store, timeout_s=1)
    assert said(found)["answer"][0] == "failed"
    assert "500" in said(found)["answer"][1]
    assert "Internal" not in str(found)
    assert "a secret" not in str(found)


def test_a_service_without_the_middleware_says_so(tmp_path):
    with running(tmp_path, VERIFY_BARE="1") as service:
        found = verify(service.chat, store=service.store, timeout_s=1)
    assert said(found)["trace"][0] == "failed"
    assert "AiObsMiddleware" in said(found)["trace"][1]
    assert said(found)["request_id"][0] == "skipped"
    assert (
        "prompt_receive, response_send" in said(found)["stages"][1] or "no span" in said(found)["stages"][1]
    )


def test_missing_stages_and_services_are_named(app):
    found = verify(
        app.chat, stages=["external_api"], services=["app", "billing"], store=app.store, timeout_s=1
    )
    assert "Missing: external_api" in said(found)["stages"][1]
    assert said(found)["services"][0] == "failed"
    assert "billing has no span" in said(found)["services"][1]
    assert "app has" not in said(found)["services"][1]


def test_evidence_of_another_service_does_not_count(app, tmp_path):
    with running(tmp_path, "other") as other:
        found = verify(app.chat, timeout_s=1, **other.evidence)
    assert {name for name, (status, _) in said(found).items() if status == "failed"} == {
        "stages", "metrics", "logs",
    }  # fmt: skip
    assert said(found)["masked"][0] in {"passed", "skipped"}


def test_content_that_is_not_masked_is_found_in_spans(tmp_path):
    with running(tmp_path, AIOBS_PRIVACY_POLICY="debug", AIOBS_CONTENT="full") as service:
        found = verify(service.chat, data=QUESTION, **service.evidence)
    assert {check.name for check in found.failed} == {"masked"}, str(found)
    assert "gen_ai.input.messages" in said(found)["masked"][1]
    assert "canary-" not in said(found)["masked"][1]


def test_masked_content_passes(tmp_path):
    with running(tmp_path, AIOBS_CONTENT="masked") as service:
        found = verify(service.chat, data=QUESTION, **service.evidence)
    assert not found.failed, str(found)


def test_a_dropped_trace_says_how_canaries_are_kept(tmp_path):
    drops = "rules = [{ name = 'rest', keep = 0.0 }]"
    with running(tmp_path, AIOBS_SAMPLING=drops) as service:
        found = verify(service.chat, timeout_s=1, **service.evidence)
    assert said(found)["metrics"][0] == "passed"  # taken before sampling
    assert "AIOBS_TRUST_BAGGAGE" in said(found)["stages"][1]
    kept = tmp_path / "kept"
    kept.mkdir()
    with running(kept, AIOBS_SAMPLING=drops, AIOBS_TRUST_BAGGAGE="true") as service:
        found = verify(service.chat, **service.evidence)
    assert not found.failed, str(found)


def test_secrets_of_canaries_are_what_the_strict_policy_masks():

    masker = Masker(PRESETS["strict"], Hasher(NO_KEYS))
    for _ in range(200):
        canary = Canary.new()
        masked = masker.text(f"Where is {canary.secrets}?")
        assert not any(mark in masked for mark in canary.marks)
        assert masker.text(canary.request_id) == canary.request_id


# --- hops ---------------------------------------------------------------------------------------------------------------


@needs_nginx
def test_a_proxy_that_drops_the_trace_is_named_with_its_remedy(app):
    with NginxProxy(app.url, directives=DROPS) as proxy:
        found = verify(
            f"{proxy.url}/chat", name="nginx", hops=[Hop("app", app.chat)], services=["app"], **app.evidence
        )
    assert {check.name for check in found.failed} == {"trace", "services"}, str(found)
    assert said(found)["trace"][1] == (
        f"nginx ({proxy.url}) drops traceparent: app ({app.url}) behind it goes on with it, and through nginx ({proxy.url}) "
        "it does not; nginx passes it on with: proxy_set_header traceparent $http_traceparent;"
    )
    assert "the trace was lost on the way to it" in said(found)["services"][1]
    assert "in 4 spans," in said(found)["masked"][1]  # each looked at once, whichever trace it stands in


@needs_nginx
def test_a_proxy_that_keeps_the_trace_passes(app):
    keeps = "proxy_set_header traceparent $http_traceparent;"
    for directives in ("", keeps):
        with NginxProxy(app.url, directives=directives) as proxy:
            found = verify(
                f"{proxy.url}/chat", hops=[("app", app.chat)], data=QUESTION, services=["app"], **app.evidence
            )
        assert statuses(found) == ALL_PASSED, str(found)


@needs_nginx
def test_of_two_proxies_the_one_that_drops_is_named(app):
    with NginxProxy(app.url) as inner, NginxProxy(inner.url, directives=DROPS) as outer:
        way = {"name": "edge", "hops": [("inner", f"{inner.url}/chat"), ("app", app.chat)]}
        found = verify(f"{outer.url}/chat", **way)
        assert said(found)["trace"][1].startswith("edge ("), str(found)
    with NginxProxy(app.url, directives=DROPS) as inner, NginxProxy(inner.url) as outer:
        way = {"name": "edge", "hops": [("inner", f"{inner.url}/chat"), ("app", app.chat)]}
        found = verify(f"{outer.url}/chat", **way)
        assert said(found)["trace"][1].startswith("inner ("), str(found)


@needs_nginx
def test_a_proxy_with_request_ids_of_its_own_is_named(app):
    with NginxProxy(app.url, directives="proxy_set_header x-request-id $request_id;") as proxy:
        found = verify(f"{proxy.url}/chat", name="nginx", hops=[("app", app.chat)], **app.evidence)
    assert {check.name for check in found.failed} == {"request_id"}, str(found)
    assert "nginx passes it on with: proxy_set_header x-request-id $http_x_request_id;" in str(found)


@needs_nginx
def test_a_proxy_that_hides_the_answers_header_is_told_from_one_that_drops_the_trace(app):
    with NginxProxy(app.url, directives="proxy_hide_header traceparent;") as proxy:
        found = verify(f"{proxy.url}/chat", name="nginx", hops=[("app", app.chat)])
        assert "from the answer" in said(found)["trace"][1]
        found = verify(f"{proxy.url}/chat", name="nginx", hops=[("app", app.chat)], **app.evidence)
    assert not found.failed, str(found)  # the store has the canary's trace


@needs_nginx
def test_without_hops_a_lost_trace_says_how_the_hop_is_found(app):
    with NginxProxy(app.url, directives=DROPS) as proxy:
        found = verify(f"{proxy.url}/chat")
    assert said(found)["trace"][0] == "failed"
    assert "--hop" in said(found)["trace"][1]


def test_a_hop_that_is_not_there_is_told(app):
    (port,) = free_ports(1)
    found = verify(app.chat, hops=[("app", f"http://127.0.0.1:{port}")], timeout_s=5)
    assert f"app (http://127.0.0.1:{port}) gave no answer" in said(found)["trace"][1]


def test_a_service_that_forgets_to_take_the_trace_along_is_found(tmp_path):
    with (
        running(tmp_path, "backend") as backend,
        running(tmp_path, "gateway", VERIFY_BEHIND=backend.chat) as gateway,
    ):
        found = verify(gateway.chat, services=["gateway", "backend"], store=gateway.store)
        assert not found.failed, str(found)
        assert "backend, gateway" in said(found)["services"][1]
    with (
        running(tmp_path, "backend") as backend,
        running(tmp_path, "gateway", VERIFY_BEHIND=backend.chat, VERIFY_FORGETS="1") as gateway,
    ):
        found = verify(gateway.chat, services=["gateway", "backend"], store=gateway.store, timeout_s=2)
    assert {check.name for check in found.failed} == {"services"}, str(found)
    assert "backend has spans of the request in trace" in said(found)["services"][1]
    assert "gateway has" not in said(found)["services"][1]


# --- the command --------------------------------------------------------------------------------------------------------


def test_the_command_ends_with_0_and_writes_junit(app, tmp_path, capsys):
    junit = tmp_path / "verify.xml"
    code = cli.main([
        "verify", f"shop={app.chat}", "--data", QUESTION, "--service", "app", "--store", str(app.store),
        "--metrics", app.metrics, "--logs", str(app.logs), "--junit", str(junit),
    ])  # fmt: skip
    out = capsys.readouterr().out
    assert code == 0, out
    assert out.startswith("shop (http://127.0.0.1:")
    assert "forty-two" not in out
    suite = ET.parse(junit).getroot().find("testsuite")
    assert suite.get("failures") == "0"
    assert [case.get("name") for case in suite] == list(ALL_PASSED)


def test_the_command_ends_with_1_and_junit_has_the_sentence(app, tmp_path, capsys):
    junit = tmp_path / "verify.xml"
    code = cli.main([
        "verify", app.chat, "--store", str(tmp_path / "nothing"), "--timeout-s", "0.5", "--junit", str(junit), "--json",
    ])  # fmt: skip
    found = json.loads(capsys.readouterr().out)
    assert (code, found["passed"]) == (1, False)
    failure = ET.parse(junit).getroot().find("testsuite/testcase[@name='stages']/failure")
    assert failure.get("message") == next(
        check["says"] for check in found["checks"] if check["name"] == "stages"
    )
    assert ET.parse(junit).getroot().find("testsuite").get("skipped") == "4"
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["ftp://127.0.0.1"], ["http://"], ["http://user:s3cret@x"], ["http://x", "--data", "{"], ["http://x", "--header", "no colon"],
        ["http://x", "--timeout-s", "0"], ["http://x", "--hop", "app"], ["http://x", "--stage", "lunch"], [],
    ],
)  # fmt: skip
def test_a_wrong_call_ends_with_2(arguments, capsys):
    assert cli.main(["verify", *arguments]) == 2
    err = capsys.readouterr().err
    assert err
    assert "s3cret" not in err


def test_a_name_from_outside_is_no_escape_sequence_and_no_broken_xml(tmp_path):
    with running(tmp_path, "evil\x1b[2J\x0b<&") as service:
        found = verify(service.chat, store=service.store)
    assert "\x1b" not in str(found)
    ET.fromstring(found.to_junit())
