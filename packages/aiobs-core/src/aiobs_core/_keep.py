"""What the application says of the trace that is current: keep it, and how good it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

from opentelemetry.baggage import get_baggage
from opentelemetry.context import Context, get_current
from opentelemetry.trace import get_current_span

from aiobs_core import semconv
from aiobs_core._context import BAGGAGE_KEY, RUN_KEY, SPAN_KEY
from aiobs_core._span import AgentSpan

_YES: Final = frozenset({"1", "true"})


def is_forced(context: Context, *, trusts_baggage: bool) -> bool:
    """Whether `keep` was called in the span around it, or W3C baggage asks for the trace to be kept, where that is trusted.

    Of a provider that the application made that span never passes here.
    """
    if not context:
        return False
    if trusts_baggage and BAGGAGE_KEY in context:
        asked = get_baggage(semconv.SAMPLING_KEEP, context)
        if isinstance(asked, (str, int)) and str(asked).strip().lower() in _YES:
            return True
    around = getattr(context.get(SPAN_KEY), "attributes", None)
    return around is not None and isinstance(around, Mapping) and around.get(semconv.SAMPLING_KEEP) is True


def keep() -> bool:
    """Have the current trace kept, whatever the sampling policy says.

    To be called before the outermost run or request has ended: afterwards its decision has been made. For what other services
    record of the same trace, `aiobs_core.propagation` takes it along as baggage, which they follow with `AIOBS_TRUST_BAGGAGE`. Never raises, takes
    about a microsecond, and may be called from any thread or task in which the run is current.

    Returns:
        Whether there is a recorded run or span to keep; not where the trace was dropped upstream.

    Example:
        >>> keep()  # outside of any run
        False
    """
    run = get_current().get(RUN_KEY)
    while type(run) is AgentSpan and run.end_ns:
        run = run.parent
    if type(run) is AgentSpan:
        run.trace.is_forced = True
        return run.trace.sampled
    current = get_current_span()
    if not current.is_recording():
        return False
    current.set_attribute(semconv.SAMPLING_KEEP, True)
    return True


def feedback(name: str, score: float, *, label: str | None = None) -> bool:
    """Record a score of the current run as an event `gen_ai.evaluation.result`, which sampling rules can ask for.

    Like `keep` it has to come before the outermost run has ended.

    Args:
        name: What was scored, such as `helpfulness`; no content.
        score: Any finite number; higher is better.
        label: The score in a word, such as `pass`; no content.

    Returns:
        Whether there is a recorded run or span to put it on, and the score is a number.

    Example:
        >>> feedback("helpfulness", 0.2, label="poor")  # outside of any run
        False
    """
    current = get_current_span()
    if isinstance(score, bool) or not current.is_recording():
        return False
    try:
        if not math.isfinite(score):
            return False
        said: dict[str, str | float] = {
            semconv.GEN_AI_EVALUATION_NAME: str(name),
            semconv.GEN_AI_EVALUATION_SCORE: float(score),
        }
        if label is not None:
            said[semconv.GEN_AI_EVALUATION_LABEL] = str(label)
    except Exception:  # noqa: BLE001 (what is no number, or too large a one; an object without a text)
        return False
    current.add_event(semconv.EVENT_EVALUATION, said)
    return True
