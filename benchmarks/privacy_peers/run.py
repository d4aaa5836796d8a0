"""What LangChain instrumentations send of one agent run: `python -m benchmarks.privacy_peers.run`.

Makes a venv for each peer (the newest release that pip finds), runs `agent_run.py` in it against a receiver on
loopback, searches what arrived for the canaries, and prints two tables: by default, and with content switched off.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import subprocess
import sys
import tempfile
import threading
import zlib
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.privacy_peers.agent_run import PLACES, canary

from aiobs_testing.receiver import decode_spans

_AGENT_RUN: Final = Path(__file__).with_name("agent_run.py")
_ROOT: Final = Path(__file__).parents[2]
_OTLP: Final = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
_AIOBS: Final = ("-e", f"{_ROOT}/packages/aiobs-core", "-e", f"{_ROOT}/integrations/aiobs-langchain")
_PACKAGES: Final = {
    "openinference": ("openinference-instrumentation-langchain", *_OTLP),
    "openllmetry": ("opentelemetry-instrumentation-langchain", *_OTLP),
    "langfuse": ("langfuse",),
    "aiobs": _AIOBS,
}
_VERSIONED: Final = {peer: packages[0] for peer, packages in _PACKAGES.items()} | {"aiobs": "aiobs-langchain"}
_DEFAULTS: Final = dict.fromkeys(_PACKAGES, "")
_OFF: Final = {
    "openinference-off": ": `OPENINFERENCE_HIDE_*`",
    "openllmetry-off": ": `TRACELOOP_TRACE_CONTENT=false`",
    "langfuse-mask": ": `mask`",
    "langfuse-mask-export": ": `mask` and `mask_otel_spans`",
    "aiobs": ": the default",
}


# --- the peers' environments ----------------------------------------------------------------------------------
def _python(peer: str, venvs: Path) -> Path:
    """The interpreter of the peer's venv, which is made if it is not there; the index is the one pip is set up for."""
    venv, ready = venvs / peer, venvs / peer / ".ready"
    if not ready.exists():
        print(f"installing {peer} …", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
    if not ready.exists() or peer == "aiobs":  # what this clone needs may have changed
        pip = [venv / "bin/python", "-m", "pip", "install", "-qq"]
        subprocess.run([*pip, "langchain", *_PACKAGES[peer]], check=True)
        ready.touch()
    return venv / "bin/python"


def _version(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


# --- receiving ------------------------------------------------------------------------------------------------
class _Request(NamedTuple):
    path: str
    headers: bytes
    body: bytes  # as it was before compression


_Runs = dict[str, list[_Request]]


class _Receiver(ThreadingHTTPServer):
    """Accepts every request to every path: aiobs_testing's receiver knows OTLP's own paths only."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: _Runs = {"": []}  # what comes before the first
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        encoding = self.headers.get("Content-Encoding", "")
        body = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding, bytes)(body)
        if self.path == "/begin":  # agent_run.py says that its next run begins
            self.server.runs[body.decode()] = []
        else:
            run = next(reversed(self.server.runs.values()))
            run.append(_Request(self.path, bytes(self.headers), body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_PUT = do_PATCH = do_POST  # noqa: N815 (their names in http.server)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name in http.server)
        """Print nothing per request."""


def _runs(python: Path, peer: str) -> _Runs:
    """What the peer sends, by run."""
    with _Receiver() as receiver, tempfile.TemporaryDirectory() as folder:
        endpoint = f"http://127.0.0.1:{receiver.server_address[1]}"
        # No proxy and no setting of this shell's.
        settings = {"PATH": os.environ["PATH"], "HOME": folder, "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        command = [python, _AGENT_RUN, "--peer", peer]
        subprocess.run(command, check=True, cwd=folder, env=settings, timeout=300)
        receiver.shutdown()
        return receiver.runs


# --- searching ------------------------------------------------------------------------------------------------
def _cell(place: str, runs: _Runs, words: Mapping[str, set[bytes]]) -> str:
    sent = b"\n".join(part for run in runs.values() for request in run for part in (*request[1:], b""))
    expected = canary(place)
    if expected.email.encode() in sent or expected.key.encode() in sent:
        return "in the clear"
    if expected.words.encode() in sent:
        return "masked"
    # What is the same each time that nothing changes, and gone when this place alone holds something else.
    derived = (words["first"] & words["again"] & words["at last"]) - words[place]
    return "hash" if derived else "-"


def _column(runs: _Runs) -> list[str]:
    words = {
        name: {word for request in run for word in re.findall(rb"[\w+/=-]{8,}", request.body)}
        for name, run in runs.items()
        if name
    }
    first = runs["first"]
    spans = [span for path, _, body in first if path.endswith("/v1/traces") for span in decode_spans(body)]
    if not spans:
        raise SystemExit("no span arrived: nothing was measured")
    sizes = [str(len(spans)), f"{sum(len(request.body) for request in first):,}"]
    return [*(_cell(place, runs, words) for place in PLACES), *sizes]


def _table(head: Sequence[str], columns: Sequence[Sequence[str]]) -> str:
    rows = zip([*PLACES, "spans", "bytes"], *columns, strict=True)
    lines = [["", *head], ["---"] * (len(head) + 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    kept = Path(tempfile.gettempdir(), "peers-venvs")
    parser.add_argument("--venvs", type=Path, default=kept, help="where the venvs are kept for the next time")
    venvs = parser.parse_args().venvs
    pythons = {peer: _python(peer, venvs) for peer in _PACKAGES}
    versions = {peer: _version(pythons[peer], package) for peer, package in _VERSIONED.items()}
    frameworks = [f"{name} {_version(pythons['aiobs'], name)}" for name in ("langchain", "langgraph")]
    print(", ".join([*frameworks, f"Python {sys.version.split()[0]}"]))
    for peers in (_DEFAULTS, _OFF):
        head, columns = [], []
        for peer, setting in peers.items():
            name = peer.partition("-")[0]
            head.append(f"{name} {versions[name]}{setting}")
            columns.append(_column(_runs(pythons[name], peer)))
        print("", _table(head, columns), sep="\n")


if __name__ == "__main__":
    main()
