"""`Run`: a finished run with all deferred questions answered, as the stages after `read` see it."""

from __future__ import annotations

from asyncio import CancelledError
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from opentelemetry.trace import Link, SpanContext

from aiobs_core import semconv
from aiobs_core._estimate import Estimator
from aiobs_core._health import Health
from aiobs_core._operation import FORWARDED, AttributeValue, Kind, Operation, Outcome, RunStatus, Stage, Usage
from aiobs_core._settings import Settings
from aiobs_core._span import AgentSpan, class_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiobs_core.metrics.series import Distribution
    from aiobs_core.pricing.book import InForce, Offer
    from aiobs_core.privacy.content import Rules, Tally

_IMPLIED_STAGE: Final = {
    Kind.MODEL: Stage.MODEL_INFERENCE,
    Kind.TOOL: Stage.EXTERNAL_API,
    Kind.RETRIEVER: Stage.PRE_PROCESS,
    Kind.RERANKER: Stage.PRE_PROCESS,
    Kind.EMBEDDING: Stage.PRE_PROCESS,
    Kind.PROMPT: Stage.PRE_PROCESS,
    Kind.PARSER: Stage.POST_PROCESS,
    Kind.PRODUCER: Stage.EXTERNAL_API,
}
# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_AGENT: Final = Kind.AGENT
_CHAIN: Final = Kind.CHAIN
_ENTRANCES: Final = (Kind.REQUEST, Kind.CONSUMER)  # what begins right inside is a workflow of its own
_MODEL: Final = Kind.MODEL
_WORKFLOW: Final = Kind.WORKFLOW
_SUCCESS: Final = RunStatus.SUCCESS
_INTERRUPTED: Final = RunStatus.INTERRUPTED
_ERROR: Final = RunStatus.ERROR
_NO_OUTCOME: Final = Outcome()
_UNREADABLE: Final = Operation(kind=Kind.CHAIN, name="unreadable")
_READ: Final = Operation(kind=Kind.CHAIN, name="")
_MAX_PAUSED: Final = 4_096


class Run:
    """One finished run: its span, what was asked, what came back, and how it ended.

    Owned by the worker; each stage may add to `extra`, which is rendered last.
    """

    __slots__ = (
        "above",
        "agent",
        "content",
        "cost_source",
        "cost_total_usd",
        "cost_usd",
        "error",
        "error_type",
        "extra",
        "is_sum",
        "is_unpriced",
        "kind",
        "links",
        "marks",
        "operation",
        "outcome",
        "parent",
        "price",
        "rules",
        "span",
        "stage",
        "status",
        "tally",
        "unpriced_calls",
    )

    def __init__(self, span: AgentSpan, operation: Operation, outcome: Outcome) -> None:
        self.span = span
        self.operation = operation
        self.outcome = outcome
        self.kind = operation.kind
        self.agent = operation.agent
        self.stage: Stage | None = None
        self.status = _SUCCESS
        self.error_type: str | None = None
        self.parent: SpanContext | None = None
        self.above: AgentSpan | None = None  # the nearest recorded run above it
        self.links: list[Link] = span.links or []
        self.extra: dict[str, AttributeValue] = {}
        self.error: BaseException | None = None
        # Of the stage `price`: what the call cost by itself, and, where it has a price, with everything inside.
        self.cost_usd: float | None = None
        self.cost_total_usd: float | None = None
        self.price: tuple[Offer, InForce] | None = None  # of a call with a price of the book
        self.cost_source: str | None = None  # where it is none of the book
        self.is_unpriced = False
        self.is_sum = False  # whether it tells what everything inside it has cost
        self.unpriced_calls = 0
        # Of the stage `measure`: where a kept run is an example of what was counted.
        self.marks: Sequence[tuple[Distribution, int, float]] = ()
        # Of the stage `mask`: what the policy lets out of the content, and the rules for everything else.
        self.content: dict[str, AttributeValue] = {}
        self.rules: Rules | None = None
        self.tally: Tally | None = None


class Reader:
    """The first stage: asks the adapters' deferred mappings and settles what is known of a run only with those around it.

    That is kind, stage, status, agent, errors below, attempts and links; and token counts where they are to be estimated.

    Runs arrive in the order in which they ended, so a child is read before its parent. Used by the worker only.
    """

    def __init__(self, health: Health) -> None:
        self._health = health
        self._estimator: Estimator | None = None
        self._paused: OrderedDict[str, tuple[SpanContext, int]] = OrderedDict()

    def apply(self, settings: Settings) -> None:
        """Use other settings from the next run on."""
        if not settings.estimate_usage:
            self._estimator = None
        elif self._estimator is None:
            self._estimator = Estimator(self._health)

    def read(self, span: AgentSpan) -> Run | None:
        """Answer the deferred questions of an ended span; None if its mapping says that it is no run of its own."""
        operation = self._operation(span)
        if operation is None:
            span.outcome = None
            return None
        run = Run(span, operation, self._outcome(span))
        run.error, span.error = span.error, None
        if span.finish_reasons and not run.outcome.finish_reasons:
            run.outcome = run.outcome._replace(finish_reasons=span.finish_reasons)
        parent = run.above = None if span.parent is None else self._recorded_parent(span)
        if run.agent is None and parent is not None:
            agent = parent.agent_inside
            run.agent = agent if agent != "" else self._agent_inside(parent)
        if parent is not None and (given := parent.operation.inside):  # type: ignore[union-attr]  # it has been read
            run.extra.update(given)
        run.parent = span.parent_context or (parent.own_context() if parent is not None else None)
        self._settle_status(run)
        if run.status is _SUCCESS and span.error_below is not None:
            run.extra[semconv.SUPPRESSED_ERROR] = span.error_below
        if self._estimator is not None and run.kind is _MODEL and run.outcome.usage is None:
            self._estimate(run, self._estimator)
        if run.kind is _MODEL and run.outcome.usage is not None:
            self._settle_usage(run, run.outcome.usage)
        if span.promoted_kind is not None and (run.kind is _CHAIN or run.kind is _WORKFLOW):
            run.kind = Kind(span.promoted_kind)
        elif run.kind is _CHAIN and (span.is_local_root or _is_entrance(parent)):
            run.kind = _WORKFLOW
        run.stage = operation.stage or _IMPLIED_STAGE.get(run.kind)
        if parent is not None:
            self._tell_parent(run, parent)
        self._pause_and_resume(run)
        # A context may hold the ended span until something else becomes current there: keep no content alive by it.
        if span.unreadable is not None:
            run.extra[semconv.TELEMETRY_ERROR] = span.unreadable
        span.outcome = None
        if span.open_children:  # these may still ask for the agent, and for what it says of them
            self._agent_inside(span)
            span.operation = _READ._replace(inside=operation.inside)
        else:
            span.operation = _READ
        return run

    def _operation(self, span: AgentSpan) -> Operation | None:
        source = span.operation
        if isinstance(source, Operation) or source is None:
            return source
        try:
            operation = source()
        except BaseException as error:  # noqa: BLE001 (foreign objects may raise anything; marked, counted, warned)
            self._broken("operation", span, error)
            operation = _UNREADABLE
        span.operation = operation
        return operation

    def _outcome(self, span: AgentSpan) -> Outcome:
        source = span.outcome
        if isinstance(source, Outcome):
            return source
        if source is None:
            return _NO_OUTCOME
        try:
            return source() or _NO_OUTCOME
        except BaseException as error:  # noqa: BLE001 (as above)
            self._broken("outcome", span, error)
            return _NO_OUTCOME

    def _broken(self, what: str, span: AgentSpan, error: BaseException) -> None:
        name = class_name(type(error))
        span.unreadable = (
            name  # not among its attributes: an open parent's belong to the application's threads
        )
        self._health.problem(
            f"mapping.{what}",
            f"aiobs could not read the {what} of a {span.scope} run ({name}); its span is kept and marked with "
            f"{semconv.TELEMETRY_ERROR}. Further ones are counted only.",
        )

    def _recorded_parent(self, span: AgentSpan) -> AgentSpan | None:
        parent = span.parent
        while parent is not None and self._operation(parent) is None:
            parent = parent.parent
        return parent

    def _estimate(self, run: Run, estimator: Estimator) -> None:
        if run.status is not _SUCCESS:
            return
        try:
            run.outcome = run.outcome._replace(usage=estimator.usage(run.operation, run.outcome))
        except Exception as error:  # noqa: BLE001 (foreign messages may raise anything; marked, counted, warned)
            self._broken("content", run.span, error)

    def _settle_usage(self, run: Run, usage: Usage) -> None:
        """Tell apart who spent the tokens: a model that lets another one answer hands on that one's counts as its own."""
        below, above = run.span.answered_below, run.above
        is_inside = above is not None and above.operation.kind is _MODEL  # type: ignore[union-attr]  # it has been read
        if below is None and not is_inside:
            return
        counts = (usage.input_tokens, usage.output_tokens)
        if any(type(count) is not int for count in counts) or not any(counts):
            return
        if below is not None and counts in below:
            run.outcome = run.outcome._replace(usage=usage._replace(source=FORWARDED))
        if above is not None and is_inside:
            if above.answered_below is None:
                above.answered_below = set()
            above.answered_below.add(counts)

    def _agent_inside(self, span: AgentSpan) -> str | None:
        """The agent that the runs inside `span` belong to, where their own framework does not say."""
        asked: list[AgentSpan] = []
        above: AgentSpan | None = span
        is_agent = False
        agent: str | None = None
        while above is not None and agent is None:
            if (known := above.agent_inside) != "":
                agent = known
                break
            asked.append(above)
            operation = self._operation(above)
            if operation is not None:
                is_agent = is_agent or operation.kind is _AGENT or above.promoted_kind == _AGENT
                agent = operation.name if is_agent else operation.agent
                is_agent = operation.parent_kind is _AGENT  # the run above, as this one proves
            above = above.parent
        for each in asked:
            each.agent_inside = agent
        return agent

    def _settle_status(self, run: Run) -> None:
        span, outcome = run.span, run.outcome
        error = span.error_class
        run.error_type = outcome.error_type or (class_name(error) if error is not None else None)
        if span.forced_status is not None:
            run.status = span.forced_status
        elif outcome.status is not None:
            run.status = outcome.status
        elif error is not None:
            run.status = status_of(error)
        elif span.interrupted_below:
            run.status = _INTERRUPTED
        if run.status is not _ERROR:  # giving up is no error, and has no type of one
            run.error_type = None

    def _tell_parent(self, run: Run, parent: AgentSpan) -> None:
        operation, span = run.operation, run.span
        if operation.parent_kind is not None and parent.promoted_kind != _AGENT:  # the stronger claim
            parent.promoted_kind = operation.parent_kind
            parent.agent_inside = ""  # to be asked again
        if run.status is _INTERRUPTED:
            parent.interrupted_below = True
        elif run.status is _ERROR:
            parent.error_below = run.error_type
        elif span.error_below is not None and run.status is _SUCCESS:
            parent.error_below = span.error_below
        if operation.attempt_of is not None:
            if parent.attempts is None:
                parent.attempts = {}
            attempt = parent.attempts.get(operation.attempt_of, 0) + 1
            parent.attempts[operation.attempt_of] = attempt
            if attempt > 1:
                run.extra[semconv.RETRY_ATTEMPT] = attempt

    def _pause_and_resume(self, run: Run) -> None:
        conversation, span = run.operation.conversation_id, run.span
        if conversation is None or span.parent is not None:
            return
        if run.operation.resumes:
            span.events = [(semconv.EVENT_RESUME, span.start_ns, {}), *(span.events or [])]
        if run.operation.resumes and (paused := self._paused.pop(conversation, None)) is not None:
            context, since_ns = paused
            run.links.append(Link(context, {semconv.LINK_REASON: "resume"}))
            run.extra[semconv.RESUME_WAIT_S] = max(0, span.start_ns - since_ns) / 1e9
        if run.status is _INTERRUPTED:
            self._paused[conversation] = (span.own_context(), span.end_ns)
            if len(self._paused) > _MAX_PAUSED:
                self._paused.popitem(last=False)


def _is_entrance(span: AgentSpan | None) -> bool:
    return span is not None and span.operation.kind in _ENTRANCES  # type: ignore[union-attr]  # it has been read


def status_of(error: type[BaseException]) -> RunStatus:
    """How a run that raised this class ended."""
    if issubclass(error, CancelledError):
        return RunStatus.CANCELLED
    if issubclass(error, GeneratorExit):
        return RunStatus.ABANDONED
    return RunStatus.ERROR
