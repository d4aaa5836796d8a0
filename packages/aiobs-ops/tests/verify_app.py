"""A service to verify, in a process of its own: FastAPI with the middleware; what it does comes from the environment."""

from __future__ import annotations

import json
import os
import urllib.request

import uvicorn
from fastapi import FastAPI, Request

from aiobs_asgi import AiObsMiddleware
from aiobs_core import Kind, Operation, Outcome, get_recorder
from aiobs_core.propagation import inject

BEHIND = os.environ.get("VERIFY_BEHIND")  # the service that this one asks
FORGETS = "VERIFY_FORGETS" in os.environ  # to take the trace along

app = FastAPI(telemetry={"tracing": False}) if "VERIFY_SILENT" in os.environ else FastAPI()
if "VERIFY_BARE" not in os.environ:
    app.add_middleware(AiObsMiddleware, metrics_path="/metrics", exclude=["/healthz"])


@app.get("/healthz")
def healthz():
    return {}


@app.get("/fail")
def fail():
    raise ValueError("a secret")


@app.api_route("/chat", methods=["GET", "POST"])
def chat(request: Request, body: dict | None = None):
    prompt = json.dumps(body)
    run = object()
    get_recorder().start(
        run,
        Operation(
            kind=Kind.MODEL,
            name="chat",
            model="fake-1",
            content=lambda: [{"role": "user", "parts": [{"type": "text", "content": prompt}]}],
        ),
    )
    get_recorder().end(run, Outcome())
    if BEHIND:
        headers = {"x-request-id": request.headers.get("x-request-id", "")}
        if not FORGETS:
            inject(headers)
        with urllib.request.urlopen(urllib.request.Request(BEHIND, headers=headers), timeout=10) as answer:
            answer.read()
    return {"answer": "forty-two, said the service"}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["VERIFY_PORT"]), log_level="error")
