"""`verify`: sends the canary, waits for what it leaves, and has it checked."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from aiobs_core.store.reader import StoredSpan
from aiobs_ops.verify import checks
from aiobs_ops.verify.canary import PLACEHOLDER, Asking, Canary, Hop, Probe, require_address, send
from aiobs_ops.verify.checks import Expected
from aiobs_ops.verify.evidence import Evidence
from aiobs_ops.verify.hops import check_answer, check_request_id, check_trace, trace_fate
from aiobs_ops.verify.result import Check, Verification

_POLL_S: Final = 0.25


def verify(
    url: str,
    *,
    hops: Sequence[Hop | tuple[str, str]] = (),
    method: str | None = None,
    data: str | None = None,
    headers: Mapping[str, str] | None = None,
    request_id_header: str = "x-request-id",
    services: Sequence[str] = (),
    stages: Sequence[str] = (),
    store: Path | str | None = None,
    metrics: str | None = None,
    logs: Path | str | None = None,
    name: str = "",
    timeout_s: float = 15.0,
) -> Verification:
    """Send a canary request through a live service, and check what it leaves.

    Each further hop gets a canary of its own, so a service behind two proxies is asked three times.

    Args:
        url: Where callers enter.
        hops: Name and address of what lies behind, the outermost first: each that can be asked by itself.
        method: Of HTTP; POST where there is `data`, else GET.
        data: JSON to send; `{canary}` in it becomes an e-mail address and an API key, both made up.
        headers: Further ones, such as `{"authorization": "Bearer …"}`.
        request_id_header: Where the service reads and answers the request's id.
        services: Names (`service.name`) of those that have a span in the trace.
        stages: Stages that there are beside `prompt_receive` and `response_send`, such as `model_inference`.
        store: Folder of the store that the services write to.
        metrics: The service's Prometheus page.
        logs: The service's log file (`AIOBS_LOG`).
        name: What the entry is called in messages.
        timeout_s: How long an answer may take, and then what it leaves.

    Returns:
        A check for each matter; those without what they need are skipped.

    Raises:
        ValueError: If an address is none of HTTP.
    """
    for each in (url, *(address for _, address in hops), *([] if metrics is None else [metrics])):
        require_address(each)
    started_s = time.monotonic()
    asking = Asking(
        method=method or ("GET" if data is None else "POST"),
        data=data,
        headers=headers or {},
        request_id_header=request_id_header,
        timeout_s=timeout_s,
    )
    evidence = Evidence(
        None if store is None else Path(store),
        metrics,
        None if logs is None else Path(logs),
        timeout_s=timeout_s,
    )
    entry = send(Hop(name, url), Canary.new(), asking)
    expected = Expected(
        canary=entry.canary,
        trace_id=entry.answer.trace_id or entry.canary.trace_id,
        request_id=entry.answer.request_id or entry.canary.request_id,
        services=services,
        stages=stages,
        in_body=data is not None and PLACEHOLDER in data,
        timeout_s=timeout_s,
    )
    found = _checked(entry, [Hop(*hop) for hop in hops], asking, evidence, expected)
    return Verification(
        target=str(entry.hop),
        trace_id=entry.canary.trace_id,
        request_id=entry.canary.request_id,
        duration_s=time.monotonic() - started_s,
        checks=found,
    )


def _checked(
    entry: Probe, behind: Sequence[Hop], asking: Asking, evidence: Evidence, expected: Expected
) -> list[Check]:
    answered = check_answer(entry)
    if not entry.answer.status:
        return [answered]
    _wait(evidence, expected)
    elsewhere = _strayed(evidence, expected)
    # From the inside out: where the innermost does not go on with the trace, no proxy is to blame.
    inner = [send(hop, Canary.new(), asking) for hop in reversed(behind)][::-1]
    probes = [entry, *inner]
    return [
        answered,
        check_trace(probes, _stored(probes, evidence, expected.timeout_s)),
        check_request_id(probes, asking.request_id_header),
        checks.check_services(evidence, expected, elsewhere),
        checks.check_stages(evidence, expected),
        checks.check_metrics(evidence),
        checks.check_logs(evidence, expected),
        checks.check_masked(evidence, expected, elsewhere),
    ]


def _wait(evidence: Evidence, expected: Expected) -> None:
    """Look until all is there and no more comes, or the time is over."""
    deadline_s = time.monotonic() + expected.timeout_s
    before: tuple[int, int] | None = None
    while True:
        evidence.look(expected.canary, expected.trace_id)
        seen = len(evidence.spans), len(evidence.lines)
        is_complete = checks.is_complete(evidence, expected)
        if (is_complete and seen == before) or time.monotonic() > deadline_s:
            return
        before = seen if is_complete else None
        time.sleep(_POLL_S)


def _strayed(evidence: Evidence, expected: Expected) -> list[StoredSpan]:
    """Spans of the same request in other traces than the canary's."""
    if evidence.store is None:
        return []
    ids = dict.fromkeys((expected.canary.request_id, expected.request_id))
    found = [span for request_id in ids for span in evidence.store.of_request(request_id)]
    return [span for span in found if span.trace_id != expected.canary.trace_id]


def _stored(probes: Sequence[Probe], evidence: Evidence, timeout_s: float) -> set[str]:
    """Traces of canaries whose answers do not name one, as far as the store has them."""
    store = evidence.store
    if store is None:
        return set()
    silent = {probe.canary.trace_id for probe in probes if trace_fate(probe) == "silent"}
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = {trace_id for trace_id in silent if store.trace(trace_id)}
        if found == silent or time.monotonic() > deadline_s:
            return found
        time.sleep(_POLL_S)
