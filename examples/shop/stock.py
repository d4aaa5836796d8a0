"""The shop's stock as a gRPC service: a tool of the agent, in a process of its own."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from aiobs_core import span
from aiobs_grpc import GrpcInstrumentor

COUNT = "/shop.Stock/Count"
_PIECES = {"headphones": 12, "a lamp": 0}


def count(request: bytes, _: Any) -> bytes:
    """How many pieces there are, as text in bytes: no generated code is needed for this."""
    with span("shelves", kind="retriever"):
        return str(_PIECES.get(request.decode(), 0)).encode()


def pieces_of(address: str, article: str) -> int:
    """Ask the service."""
    with grpc.insecure_channel(address) as channel:
        answer: bytes = channel.unary_unary(COUNT)(article.encode(), timeout=5)
    return int(answer)


def serve(port: int) -> None:
    GrpcInstrumentor().instrument()
    server = grpc.server(ThreadPoolExecutor(2))
    service, method = COUNT[1:].split("/")
    handler = grpc.method_handlers_generic_handler(
        service, {method: grpc.unary_unary_rpc_method_handler(count)}
    )
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
