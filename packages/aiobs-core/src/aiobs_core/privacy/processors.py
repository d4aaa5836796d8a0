"""The masking for any pipeline of the OpenTelemetry SDK: span processor, span exporter and log record processor.

They need nothing else of aiobs. Each takes a policy by name, file or object; where none is given, the settings say which
(`AIOBS_PRIVACY_POLICY`, `AIOBS_CONTENT`, …), read when the object is made. They fail closed: what cannot be masked leaves
without its texts, and is counted and warned of once on the logger `aiobs`.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk._logs import LogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

from aiobs_core import semconv
from aiobs_core._health import Health
from aiobs_core._settings import Settings
from aiobs_core.privacy.foreign import field_of, is_secret_header
from aiobs_core.privacy.messages import readable
from aiobs_core.privacy.modes import modes_in_force
from aiobs_core.privacy.policy import Policy
from aiobs_core.privacy.stage import Privacy

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk._logs import ReadWriteLogRecord
    from opentelemetry.sdk.trace import Span

_Worker = TypeVar("_Worker")
_Result = TypeVar("_Result")
_MAX_IDLE: Final = 64
_MASKED: Final = "masked"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-]{0,127}")
_TOO_LARGE: Final = 10**9
_HASHED: Final = re.compile("[0-9a-f]{6}:[0-9a-f]{32}")
_USER_IDS: Final = frozenset({semconv.OI_USER_ID, "enduser.id", "user_id"})

_ABOUT_CALL: Final = frozenset({
    "event.name", "gen_ai.system", semconv.GEN_AI_PROVIDER_NAME, semconv.GEN_AI_OPERATION_NAME,
    semconv.GEN_AI_REQUEST_MODEL, semconv.GEN_AI_RESPONSE_MODEL, semconv.GEN_AI_RESPONSE_ID,
    semconv.GEN_AI_CONVERSATION_ID, semconv.SERVER_ADDRESS, semconv.ERROR_TYPE,
})  # fmt: skip
_FIELD_OF_ROLE: Final = {
    "system": "system",
    "developer": "system",
    "assistant": "completions",
    "tool": "tool_results",
}


class _Pool(Generic[_Worker]):
    """Lends each thread a worker of its own for one piece of work.

    A masker is for one thread at a time. `deque.pop` and `append` are atomic, so there is no lock: none that a fork could
    leave held in the child, and none on which a signal handler or finalizer that ends a span while its own thread masks
    another could wait for ever; it gets a second worker. There are as many as ever worked at once, not one per thread.
    """

    def __init__(self, make: Callable[[], _Worker], health: Health) -> None:
        self._make = make
        self._idle: deque[_Worker] = deque(maxlen=_MAX_IDLE)
        try:  # the detectors are imported now: by the thread that sets the pipeline up, and before a server forks
            self._idle.append(make())
        except Exception as error:  # noqa: BLE001 (each span will meet it again, and leave without its texts)
            _problem(health, "policy", error)

    def do(self, work: Callable[[_Worker], _Result]) -> _Result:
        try:
            worker = self._idle.pop()
        except IndexError:
            worker = self._make()
        try:
            return work(worker)
        finally:
            self._idle.append(worker)


class _Watched:
    """What the three public classes tell of themselves."""

    _health: Health

    def problems(self) -> dict[str, int]:
        """How often masking failed, by kind."""
        return self._health.counts()


# --- spans ----------------------------------------------------------------------------------------------------------


class _SpanMask:
    """Masked copies of spans. Safe to use from any thread."""

    def __init__(self, policy: str | Policy | None, health: Health) -> None:
        settings = Settings.load(overrides={"privacy_policy": policy})
        self._health = health
        self._pool = _Pool(lambda: _privacy(settings, health), health)

    def masked(self, span: ReadableSpan) -> ReadableSpan | None:
        """The span as it may leave, or None if not even one without texts can be made of it."""
        try:
            return self._pool.do(lambda privacy: privacy.masked_span(span, None))
        except Exception as error:  # noqa: BLE001 (the raw span must not leave, and the application must not notice)
            _problem(self._health, "span", error)
            reason = type(error).__name__
        try:
            return self._emptied(span, reason)
        except Exception as error:  # noqa: BLE001 (no span of the SDK's; better lost than raw)
            self._health.problem(
                "privacy.span_lost", f"aiobs dropped a span that it could not mask ({type(error).__name__}).", lost=1
            )  # fmt: skip
            return None

    def _emptied(self, span: ReadableSpan, reason: str) -> ReadableSpan:
        return ReadableSpan(
            name=_MASKED,
            context=span.context,
            parent=span.parent,
            resource=_resource(self._pool, span.resource),
            attributes={**_numbers(span.attributes), semconv.TELEMETRY_ERROR: reason},
            links=[Link(link.context) for link in span.links],
            kind=span.kind,
            status=Status(span.status.status_code),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )


class MaskingSpanExporter(_Watched, SpanExporter):
    """Masks spans on their way to another exporter, on the thread that exports.

    The application's threads do none of the work, so this is the one to choose with a batch processor. Safe to use from
    any thread; works after a fork.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
        >>> provider = TracerProvider()
        >>> provider.add_span_processor(BatchSpanProcessor(MaskingSpanExporter(ConsoleSpanExporter())))
    """

    def __init__(self, exporter: SpanExporter, *, policy: str | Policy | None = None) -> None:
        """Take the exporter that the masked spans go to.

        Args:
            exporter: Gets masked copies; its results and exceptions are passed on.
            policy: A preset's name, a policy file or a policy; None: what the settings say. One that cannot be read is
                warned of, and lets no content out.
        """
        self._exporter = exporter
        self._health = Health()
        self._mask = _SpanMask(policy, self._health)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export masked copies."""
        masked = [copy for span in spans if (copy := self._mask.masked(span)) is not None]
        return self._exporter.export(masked) if masked else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the exporter."""
        return self._exporter.force_flush(timeout_millis)


class MaskingSpanProcessor(_Watched, SpanProcessor):
    """Masks spans on their way to another span processor, on the thread that ends them.

    It wraps, and does not stand in a row with others: the specification makes a span read-only once it has ended
    (https://opentelemetry.io/docs/specs/otel/trace/sdk/#onendspan), so a processor cannot change what the next one gets, and
    before the end it would miss what is set later. Prefer `MaskingSpanExporter` where the processor takes an exporter: it
    masks off the application's threads. Safe to use from any thread; works after a fork.
    """

    def __init__(self, processor: SpanProcessor, *, policy: str | Policy | None = None) -> None:
        """Take the processor that the masked spans go to.

        Args:
            processor: Sees spans at their start as they are, and masked copies at their end.
            policy: As for `MaskingSpanExporter`.
        """
        self._processor = processor
        self._health = Health()
        self._mask = _SpanMask(policy, self._health)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Pass the span on: it is still the application's to write to."""
        self._processor.on_start(span, parent_context)

    def _on_ending(self, span: Span) -> None:
        on_ending = getattr(self._processor, "_on_ending", None)  # private, and younger than SDKs we support
        if on_ending is not None:
            on_ending(span)

    def on_end(self, span: ReadableSpan) -> None:
        """Hand a masked copy on."""
        masked = self._mask.masked(span)
        if masked is not None:
            self._processor.on_end(masked)

    def shutdown(self) -> None:
        """Shut the processor down."""
        self._processor.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the processor."""
        return self._processor.force_flush(timeout_millis)


# --- logs -----------------------------------------------------------------------------------------------------------


class MaskingLogRecordProcessor(_Watched, LogRecordProcessor):
    """Masks log records in place, for the processors after it: add it to the `LoggerProvider` first.

    Body, attributes, texts of exceptions and messages of the GenAI events go by the `logs` modes of the policy. A traceback
    that a formatter has put into the body is text like any other. Not for a `ConcurrentMultiLogRecordProcessor`, whose
    processors have no order. Safe to use from any thread; works after a fork.
    """

    def __init__(self, *, policy: str | Policy | None = None) -> None:
        """Read the settings; `policy` is as for `MaskingSpanExporter`."""
        settings = Settings.load(overrides={"privacy_policy": policy})
        self._health = Health()
        self._pool = _Pool(lambda: _LogMask(Privacy(settings, self._health), settings), self._health)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Mask the record."""
        # SDKs before 1.39 hand over a LogData, whose record has the resource; later ones have it beside the record.
        record: Any = getattr(log_record, "log_record", log_record)
        holder: Any = log_record if hasattr(log_record, "resource") else record
        try:
            self._pool.do(lambda mask: mask.apply(record, holder))
        except Exception as error:  # noqa: BLE001 (the raw record must not leave, and the application must not notice)
            _empty(record, type(error).__name__)
            holder.resource = _resource(self._pool, holder.resource)
            _problem(self._health, "log record", error)

    def enabled(self, **_: object) -> bool:
        """Whether this processor alone would make a record worth its while: never, since it emits nothing."""
        return False

    def shutdown(self) -> None:
        """Nothing to shut down."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 (its name in the SDK)
        """Nothing to flush."""
        return True


class _LogMask:
    """Masks log records under the policy of the process. For use by one thread at a time."""

    def __init__(self, privacy: Privacy, settings: Settings) -> None:
        rules = privacy.rules()  # of the closed policy where the detectors cannot be loaded
        self._hasher = privacy.hasher
        self.masked_resource = privacy.masked_resource
        self._masker = rules.masker
        self._modes = modes_in_force(rules.policy, settings, "logs")
        self._max_chars = settings.content_max_chars
        self._max_attribute_chars = 4 * settings.content_max_chars

    def apply(self, record: Any, holder: Any) -> None:
        """Put what may leave in the place of what there is; everything is masked before anything is replaced."""
        given = record.attributes or {}
        event = record.event_name or given.get("event.name")
        within = field_of(event) if isinstance(event, str) else ""
        attributes = self.attributes(given, within)
        body = self.body(record.body, within)
        resource = holder.resource and self.masked_resource(holder.resource)
        severity, event = self.text(record.severity_text), self.text(record.event_name)
        if given:
            _replace(given, attributes)
        record.body, record.severity_text, record.event_name = body, severity, event
        holder.resource = resource
        record.exception = None  # newer SDKs keep it beside its texts, which are among the attributes by now

    def text(self, text: str | None) -> str | None:
        """A text that is no content."""
        return None if text is None else self._masker.text(text, max_chars=self._max_attribute_chars)

    def body(self, body: Any, within: str) -> Any:
        """The body of a record; that of an event that is content is content."""
        if within:
            return self._content(body, within)
        if isinstance(body, Mapping):
            return self.attributes(body, "")
        return self._masker.value(body, max_chars=self._max_attribute_chars)

    def attributes(self, given: Mapping[Any, Any], within: str) -> dict[str, Any]:
        """Attributes as they may leave; those of an event that is content are content, if not known to be none."""
        found: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for key, value in given.items():
            name = str(key)
            field = field_of(name) or ("" if name in _ABOUT_CALL else within)
            if not field:
                nested = self.attributes(value, within) if isinstance(value, Mapping) else value
                others[name] = "<CREDENTIAL>" if is_secret_header(name) else nested
                continue
            if name in _USER_IDS and self._modes[field] == "hash":
                is_hash = isinstance(value, str) and _HASHED.fullmatch(value)  # aiobs' own records have one
                shown = value if is_hash else self._hasher.hash(field, str(value))
            else:
                shown = self._content(value, field)
            if shown is not None:
                found[self._masker.text(name)] = shown
        return {**self._masker.value(others, max_chars=self._max_attribute_chars), **found}

    def _content(self, value: Any, field: str) -> Any:
        return readable(
            value, field, self._modes, self._masker, count=lambda _: _count_nothing, max_chars=self._max_chars
        )


def _count_nothing(_: str) -> None:
    """Nobody asks what was masked in a log record."""


def _privacy(settings: Settings, health: Health) -> Privacy:
    privacy = Privacy(settings, health)
    privacy.rules()  # made now
    return privacy


def _resource(pool: _Pool[Any], resource: Resource) -> Resource:
    """The masked resource, for what could not be masked itself: so that one knows from which service it came."""
    try:
        return cast("Resource", pool.do(lambda worker: worker.masked_resource(resource)))
    except Exception:  # noqa: BLE001 (told of already)
        return Resource.get_empty()


def _problem(health: Health, what: str, error: Exception) -> None:
    health.problem(
        f"privacy.{what.replace(' ', '_')}",
        f"aiobs could not mask a {what} ({type(error).__name__}); what cannot be masked leaves without its texts.",
    )


def _numbers(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Attributes that are small numbers or booleans, under names that look like those of attributes."""
    try:
        return {
            name: value
            for name, value in (attributes or {}).items()
            if isinstance(value, (bool, int, float)) and abs(value) < _TOO_LARGE and _NAME.fullmatch(name)
        }
    except Exception:  # noqa: BLE001 (what could not be masked may be what cannot be read)
        return {}


def _empty(record: Any, reason: str) -> None:
    """Leave nothing of a log record but severity, times, ids and numbers."""
    numbers = {**_numbers(record.attributes), semconv.TELEMETRY_ERROR: reason}
    record.attributes = BoundedAttributes(attributes=numbers, immutable=False)
    record.body, record.severity_text, record.event_name, record.exception = _MASKED, None, None, None


def _replace(attributes: Any, masked: Mapping[str, Any]) -> None:
    """Change a mapping into another, in place: the SDK's knows how many attributes its limits have dropped."""
    for name in list(attributes):
        if name not in masked:
            del attributes[name]
    for name, value in masked.items():
        if attributes.get(name) != value:
            attributes[name] = value
