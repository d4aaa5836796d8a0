"""What a receiver's answer to an OTLP request of spans means for them: https://opentelemetry.io/docs/specs/otlp/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

FAR_S: Final = 1e9
MAX_PAUSE_S: Final = 3_600.0
"""The longest that a receiver may ask to be left alone."""
TLS_FAILED: Final = "TLS: "
"""How the reason begins where either side refused the other's certificate; the kind of the refusal follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a request.

    Attributes:
        verdict: `sent`; `again`: the same, later; `split`: too large, in halves; `refused`: it must not be sent again.
        why: Class or status, to be logged: nothing of endpoint, headers or content.
        rejected: Of a request that was sent: spans that the receiver did not take.
        after_s: Seconds that the receiver wants to be left alone.
        may_have_arrived: Of `again`: whether the receiver may have taken the spans although it did not say so.
        is_ours: Of `again`: whether it failed on this side, such as for a file that is not there.
    """

    verdict: Literal["sent", "again", "split", "refused"]
    why: str = ""
    rejected: int = 0
    after_s: float = 0.0
    may_have_arrived: bool = False
    is_ours: bool = False


def of_refusal(kind: str) -> Answer:
    """TLS was refused by either side: the spans wait until that is mended, and none of them has left."""
    return Answer(verdict="again", why=f"{TLS_FAILED}{kind}")


def of_response(body: bytes) -> Answer:
    """The answer of a receiver that says it has taken a request."""
    rejected = _rejected_in(body)
    if rejected is None:
        # What it says counts: some backends answer in JSON or with text, and would get all spans for ever.
        return Answer(verdict="sent", why="an answer that is no OTLP")
    return Answer(verdict="sent", rejected=rejected)


def _rejected_in(body: bytes) -> int | None:
    """Spans that an `ExportTraceServiceResponse` says were not taken; None if it is none."""
    if not body:
        return 0
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    try:
        return max(0, int(ExportTraceServiceResponse.FromString(body).partial_success.rejected_spans))
    except (DecodeError, UnicodeDecodeError):
        return None
