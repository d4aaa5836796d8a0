"""OTLP over gRPC."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aiobs_core.export.answer import FAR_S, MAX_PAUSE_S, Answer, of_refusal, of_response
from aiobs_core.export.tls_refusal import TlsRefused

if TYPE_CHECKING:
    from aiobs_core.export.grpc_receiver import GrpcReceiver
    from aiobs_core.export.headers import HeaderSource

_EXPORT: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_RETRY_INFO: Final = "google.rpc.retryinfo-bin"
_HANDSHAKE_S: Final = 3.0
_AGAIN_CODES: Final = frozenset(
    {"CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"}
)


class GrpcTransport:
    """Takes requests through a channel, which is opened anew when certificates change; see `transport.Transport`.

    Args:
        open_channel: Opens one with the certificates of now.
        receiver: Checked before it is used.
        source: Headers that go with each request.
        timeout_s: Of one request.
    """

    def __init__(
        self,
        open_channel: Callable[[], Any],
        *,
        receiver: GrpcReceiver,
        source: HeaderSource,
        timeout_s: float,
    ) -> None:
        self._open_channel = open_channel
        self._receiver = receiver
        self._source = source
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._channel: Any = None
        self._call: Any = None
        self._opened_with = -1

    def send(self, request: bytes, within_s: float = FAR_S) -> Answer:
        import grpc

        timeout_s = min(self._timeout_s, within_s)
        if self._closed.is_set():
            return Answer(verdict="again", why="closed")
        try:
            call = self._ready_call(min(timeout_s, _HANDSHAKE_S))
        except TlsRefused as refused:
            return of_refusal(refused.refusal.kind)
        except OSError as error:
            return Answer(verdict="again", why=type(error).__name__)
        metadata = tuple(self._source.metadata().items())
        try:
            return of_response(call(request, timeout=timeout_s, metadata=metadata))
        except grpc.RpcError as error:
            why = None if self._closed.is_set() else self._receiver.explain_failure()
            # What a front says of certificates is no answer to the spans: they wait until that is mended.
            return _of_rpc(error) if why is None else of_refusal(why.refusal.kind)
        except ValueError:  # the channel was closed by a shutdown that did not wait any longer
            return Answer(verdict="again", why="closed")

    def _ready_call(self, timeout_s: float) -> Any:
        """Through a channel with the certificates of now, to a receiver that may be used."""
        version = self._receiver.certificates_version
        if version != self._opened_with:
            self._receiver.check_again()
        self._receiver.check(timeout_s)
        if self._call is None or version != self._opened_with:
            if self._channel is not None:
                self._channel.close()
            self._channel, self._opened_with = self._open_channel(), version
            self._call = self._channel.unary_unary(_EXPORT)  # without serializers: bytes in, bytes out
        return self._call

    def close(self) -> None:
        self._closed.set()
        channel = self._channel
        if channel is not None:
            channel.close()


def _of_rpc(error: Any) -> Answer:
    code = error.code().name
    why = f"gRPC status {code}"
    details = str(error.details() or "")
    if code == "RESOURCE_EXHAUSTED":
        wanted_s = _retry_info_s(error.trailing_metadata() or ())
        if wanted_s is not None:  # the specification: to be sent again only if the receiver says when
            return Answer(verdict="again", why=why, after_s=wanted_s)
        return Answer(verdict="split" if "larger than max" in details else "refused", why=why)
    if code not in _AGAIN_CODES:
        return Answer(verdict="refused", why=why)
    return Answer(
        verdict="again",
        why=why,
        after_s=_retry_info_s(error.trailing_metadata() or ()) or 0.0,
        may_have_arrived=code != "UNAVAILABLE" or "connect" not in details.lower(),
    )


def _retry_info_s(metadata: Any) -> float | None:
    found = next((value for key, value in metadata if key == _RETRY_INFO), None)
    if found is None:
        return None
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]

    try:
        delay = RetryInfo.FromString(found).retry_delay
    except (DecodeError, TypeError):
        return None
    return float(min(max(delay.seconds + delay.nanos / 1e9, 0.0), MAX_PAUSE_S))
