"""What the evidence says: services, stages, metrics, logs, masking; one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from aiobs_core import Stage, semconv
from aiobs_core.export._text import counted
from aiobs_core.semconv.metrics import REQUESTS
from aiobs_core.store.reader import StoredSpan
from aiobs_ops.verify.canary import CANARY_HEADER, Canary
from aiobs_ops.verify.evidence import Evidence, service_of, texts_of
from aiobs_ops.verify.result import Check, failed, passed, skipped

_OF_EVERY_REQUEST: Final = (Stage.PROMPT_RECEIVE.value, Stage.RESPONSE_SEND.value)
_MAX_NAMED: Final = 3


class Expected(NamedTuple):
    """What a canary should leave.

    Attributes:
        trace_id: The trace that the request ran in: the canary's, or the one that the answer names.
        request_id: Its id in logs: the canary's, or the one in the answer.
        services: That have a span each.
        stages: That there are, beside the two of every request.
        in_body: Whether the secrets went into the body.
    """

    canary: Canary
    trace_id: str
    request_id: str
    services: Sequence[str]
    stages: Sequence[str]
    in_body: bool
    timeout_s: float


def is_complete(evidence: Evidence, expected: Expected) -> bool:
    """Whether there is nothing more to wait for."""
    has_spans = evidence.store is None or not (
        _missing_stages(evidence.spans, expected)
        or set(expected.services).difference(map(service_of, evidence.spans))
    )
    has_line = evidence.log is None or _joined(evidence, expected) > 0
    return has_spans and has_line and (evidence.page is None or _risen(evidence) > 0)


# --- spans --------------------------------------------------------------------------------------------------------------


def check_services(evidence: Evidence, expected: Expected, elsewhere: Sequence[StoredSpan]) -> Check:
    """Whether each service has a span in the canary's trace.

    Args:
        evidence: What there is.
        expected: What there should be.
        elsewhere: Spans of the same request in other traces than the canary's.
    """
    if evidence.store is None:
        return skipped("services", "--store DIR shows the spans of services, --service NAME says which.")
    present = {service_of(span) for span in evidence.spans if span.trace_id == expected.canary.trace_id}
    strayed = {service_of(span): span.trace_id for span in elsewhere}
    if not expected.services and not present and not strayed:
        return skipped("services", "--service NAME says which services the canary passes through.")
    wrong = [name for name in expected.services or strayed if name not in present or name in strayed]
    if not wrong:
        return passed("services", f"In one trace: {', '.join(sorted(present))}.")
    return failed(
        "services",
        "; ".join(
            f"{name} has spans of the request in trace {strayed[name]}, not in the canary's: the trace was lost on the way to it"
            if name in strayed
            else f"{name} has no span in the canary's trace, nor one of its request in another: "
            f"the request did not come to it, or it writes to another store than {_store_of(evidence)}"
            for name in wrong
        )
        + ".",
    )


def check_stages(evidence: Evidence, expected: Expected) -> Check:
    """Whether the stages of a request are there."""
    if evidence.store is None:
        return skipped("stages", "--store DIR shows the stages of the request.")
    if not evidence.spans:
        return failed("stages", _no_spans(evidence, expected))
    missing = _missing_stages(evidence.spans, expected)
    present = ", ".join(sorted(_stages(evidence.spans)))
    if missing:
        return failed(
            "stages",
            f"Missing: {', '.join(missing)}; present: {present or 'none'}. AiObsMiddleware records the two of every request, "
            "integrations the others.",
        )
    return passed("stages", f"Present: {present}.")


def _no_spans(evidence: Evidence, expected: Expected) -> str:
    assert evidence.store is not None
    if evidence.store.problem:
        return evidence.store.problem
    return (
        f"{_store_of(evidence)} has no span of trace {expected.trace_id} after {expected.timeout_s:g} s: does the service write "
        "there (AIOBS_STORE)? A sampling policy drops canaries, too, unless AIOBS_TRUST_BAGGAGE=true lets their baggage ask to "
        "be kept, or keep_header of the middleware their --header."
    )


def _store_of(evidence: Evidence) -> str:
    return "" if evidence.store is None else str(evidence.store.folder)


def _stages(spans: Sequence[StoredSpan]) -> set[str]:
    return {str(stage) for span in spans if (stage := span.attributes.get(semconv.STAGE))}


def _missing_stages(spans: Sequence[StoredSpan], expected: Expected) -> list[str]:
    present = _stages(spans)
    return [stage for stage in (*_OF_EVERY_REQUEST, *expected.stages) if stage not in present]


# --- metrics and logs ---------------------------------------------------------------------------------------------------


def check_metrics(evidence: Evidence) -> Check:
    """Whether the request was counted."""
    page = evidence.page
    if page is None:
        return skipped("metrics", "--metrics URL reads the service's Prometheus page.")
    if evidence.after is None:
        return failed("metrics", f"{page.url}: no metrics page could be read ({page.problem}).")
    name = REQUESTS.sample_name
    if _risen(evidence) <= 0:
        return failed(
            "metrics",
            f"{name} did not rise: it counts {evidence.after.runs:g} runs as before. Is {page.url} the page of the process that "
            "answered? Workers of one server need AIOBS_METRICS_DIR.",
        )
    if evidence.before is None:
        return passed(
            "metrics", f"{name} counts {evidence.after.requests:g} requests; before, there was no page."
        )
    requests = evidence.after.requests - evidence.before.requests
    if requests <= 0:  # another instrumentation has the span of the request, and its metrics
        return passed("metrics", f"{name} rose by {_risen(evidence):g} runs, parts of a request.")
    return passed("metrics", f"{name} rose by {counted(round(requests), 'request')}.")


def _risen(evidence: Evidence) -> float:
    if evidence.after is None:
        return 0.0
    before = evidence.before
    if before is None or evidence.after.runs < before.runs:  # a new process counts from 0
        return evidence.after.runs
    return evidence.after.runs - before.runs


def check_logs(evidence: Evidence, expected: Expected) -> Check:
    """Whether a log line leads to the trace, and to the request."""
    if evidence.log is None:
        return skipped("logs", "--logs FILE reads the service's log lines (AIOBS_LOG).")
    path = evidence.log.path
    if joined := _joined(evidence, expected):
        return passed("logs", f"{counted(joined, 'line')} with trace and request id.")
    of_trace = [line for line in evidence.lines if line.trace_id == expected.trace_id]
    of_request = [line for line in evidence.lines if line.request_id == expected.request_id]
    if of_trace:
        return failed(
            "logs",
            f"{path} has the trace with request id {of_trace[0].request_id or '(none)'}, not {expected.request_id}.",
        )
    if of_request:
        return failed(
            "logs", f"{path} has the request in trace {of_request[0].trace_id}, not {expected.trace_id}."
        )
    return failed(
        "logs",
        f"{path} has no line of the request after {expected.timeout_s:g} s: does AIOBS_LOG of the service name it? A trace that "
        "a sampling policy dropped has none.",
    )


def _joined(evidence: Evidence, expected: Expected) -> int:
    return sum(
        line.trace_id == expected.trace_id and line.request_id == expected.request_id
        for line in evidence.lines
    )


# --- masking ------------------------------------------------------------------------------------------------------------


def check_masked(evidence: Evidence, expected: Expected, elsewhere: Sequence[StoredSpan]) -> Check:
    """Whether the planted secrets are in no span, no log line and no metric."""
    # Where the trace was lost, both have the spans of the trace that the answer names.
    spans = list({span.span_id: span for span in (*evidence.spans, *elsewhere)}.values())
    page = "" if evidence.page is None else evidence.page.text
    if evidence.store is None and evidence.log is None and evidence.page is None:
        return skipped(
            "masked", "--store DIR, --logs FILE and --metrics URL are looked through for planted secrets."
        )
    if not (spans or evidence.lines or page):
        return skipped("masked", "Nothing of the request was found to look through.")
    marks = expected.canary.marks
    found = list(dict.fromkeys(_leaks(spans, marks)))  # in their order, each once
    if evidence.log is not None and any(mark in line.text for line in evidence.lines for mark in marks):
        found.append(f"a line of {evidence.log.path}")
    if evidence.page is not None and any(mark in page for mark in marks):
        found.append(f"a label of {evidence.page.url}")
    if found:
        more = f" and {len(found) - _MAX_NAMED} more places" if len(found) > _MAX_NAMED else ""
        return failed(
            "masked",
            f"The planted e-mail address or key is readable in {'; '.join(found[:_MAX_NAMED])}{more}. "
            "AIOBS_PRIVACY_POLICY=strict masks both.",
        )
    looked = [counted(len(spans), "span")] if evidence.store is not None else []
    looked += [counted(len(evidence.lines), "log line")] if evidence.log is not None else []
    looked += ["the metrics page"] if page else []
    note = (
        ""
        if expected.in_body
        else f" They went in the header {CANARY_HEADER} only: {{canary}} in --data takes them into a prompt."
    )
    return passed(
        "masked", f"Neither the planted e-mail address nor the key is in {', '.join(looked)}.{note}"
    )


def _leaks(spans: Sequence[StoredSpan], marks: Sequence[str]) -> Iterator[str]:
    for span in spans:
        for where, text in texts_of(span):
            if any(mark in text for mark in marks):
                yield f"{where} of a span of {service_of(span)}"
