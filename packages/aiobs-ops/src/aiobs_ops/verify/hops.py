"""Through which hop `traceparent` and the request's id get lost: what each one's own answer says of its own canary."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, Literal

from aiobs_ops.verify.canary import TRACEPARENT, Probe
from aiobs_ops.verify.result import Check, failed, passed, skipped

Fate = Literal["kept", "lost", "silent", "unreached"]
_NGINX_VARIABLES: Final = {TRACEPARENT: "$http_traceparent", "x-request-id": "$http_x_request_id"}


def trace_fate(probe: Probe, stored: Collection[str] = ()) -> Fate:
    """What became of the trace on the way to what answers at a hop.

    Args:
        probe: The hop's.
        stored: Traces that the store has, for services that do not answer with `traceparent`.
    """
    if not probe.answer.status:
        return "unreached"
    if probe.canary.trace_id in (probe.answer.trace_id, *stored):
        return "kept"
    return "silent" if probe.answer.trace_id is None else "lost"


def _id_fate(probe: Probe) -> Fate:
    if not probe.answer.status:
        return "unreached"
    if probe.answer.request_id is None:
        return "silent"
    return "kept" if probe.answer.request_id == probe.canary.request_id else "lost"


def check_answer(probe: Probe) -> Check:
    """Whether the service answered, and not with an error."""
    status, hop = probe.answer.status, probe.hop
    if not status:
        return failed("answer", f"{hop} gave no answer ({probe.answer.reason}).")
    if status < 300:
        return passed("answer", f"{hop} answered with {status}.")
    hint = (
        "give the address that it leads to"
        if status < 400
        else "give the path, --method, --data and --header that the service wants"
        if status < 500
        else "the service's own log says why"
    )
    return failed("answer", f"{hop} answered with {status}: {hint}.")


def check_trace(probes: Sequence[Probe], stored: Collection[str]) -> Check:
    """Whether the trace survives each hop; names the first from the inside that loses it.

    Args:
        probes: The outermost hop's first.
        stored: Traces that the store has.
    """
    found = _first_loss("trace", TRACEPARENT, probes, lambda probe: trace_fate(probe, stored))
    if found is not None:
        return found
    return passed("trace", f"traceparent survives {_way(probes)}.")


def check_request_id(probes: Sequence[Probe], header: str) -> Check:
    """The same for the request's id, which not every service answers with."""
    if all(_id_fate(probe) == "silent" for probe in probes):
        return skipped(
            "request_id", f"No answer has {header}; --request-id-header names another one, if there is one."
        )
    found = _first_loss("request_id", header, probes, _id_fate)
    return found or passed("request_id", f"{header} survives {_way(probes)}.")


def _way(probes: Sequence[Probe]) -> str:
    return " and ".join(str(probe.hop) for probe in probes)


def _first_loss(
    check: str, header: str, probes: Sequence[Probe], fate_of: Callable[[Probe], Fate]
) -> Check | None:
    inner: Probe | None = None
    for probe in reversed(probes):
        fate = fate_of(probe)
        if fate == "unreached":
            return failed(check, f"{probe.hop} gave no answer ({probe.answer.reason}).")
        if fate != "kept":
            says = (
                _behind(probe, header, fate, is_entry=probe is probes[0])
                if inner is None
                else _between(probe, inner, header, fate)
            )
            return failed(check, says)
        inner = probe
    return None


def _behind(probe: Probe, header: str, fate: Fate, *, is_entry: bool) -> str:
    """Of the innermost hop: what lies behind it was not named."""
    more = (
        "; --hop NAME=URL names what lies behind it, and the hop that loses it is found" if is_entry else ""
    )
    if fate == "lost":
        return f"{header} is lost in {probe.hop} or behind it: the answer has another one{more}."
    if header == TRACEPARENT:
        return (
            f"The answer of {probe.hop} has no {header}, so nothing says whether it arrived: AiObsMiddleware answers with it; "
            f"for services that do not, --store DIR shows their spans{more}."
        )
    return f"The answer of {probe.hop} has no {header}{more}."


def _between(probe: Probe, inner: Probe, header: str, fate: Fate) -> str:
    """Of a hop behind which all is well."""
    if fate == "silent":
        return (
            f"{probe.hop} drops {header} from the answer: that of {inner.hop} behind it has it; let the header of the answer "
            "through, too."
        )
    remedy = f"let it pass the request's {header} on as it came"
    if probe.answer.server.lower().startswith(("nginx", "openresty")):
        variable = _NGINX_VARIABLES.get(header, f"$http_{header.replace('-', '_')}")
        remedy = f"nginx passes it on with: proxy_set_header {header} {variable};"
    return f"{probe.hop} drops {header}: {inner.hop} behind it goes on with it, and through {probe.hop} it does not; {remedy}"
