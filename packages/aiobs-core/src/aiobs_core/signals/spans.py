"""The `render` stage: a `Run` becomes an exportable `ReadableSpan`, in the chosen dialects.

The only place where exportable spans come from, so no text leaves that the privacy policy has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, Status, StatusCode

from aiobs_core import semconv
from aiobs_core._operation import RunStatus
from aiobs_core._run import Run
from aiobs_core._span import class_name
from aiobs_core._version import __version__
from aiobs_core.privacy.content import Rules, Tally
from aiobs_core.privacy.foreign import ForeignMask, ForeignSpan
from aiobs_core.privacy.stage import Privacy
from aiobs_core.signals import ai_agent, gen_ai, openinference

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

    from aiobs_core._health import Health
    from aiobs_core._settings import Settings

_MAX_CHARS: Final = 4_096
_MAX_READ: Final = 16_384
_MIN_NUMBER: Final = 10**8  # fewer digits are no card, account or person
_MAX_ITEMS: Final = 128
_MAX_INT: Final = (1 << 63) - 1
_MIN_INT: Final = -(1 << 63)
_UNSET: Final = Status(StatusCode.UNSET)
_OK: Final = Status(StatusCode.OK)
_ERROR: Final = Status(StatusCode.ERROR)
# Held here because looking up a member of an enum takes a thousand instructions on Python 3.11.
_RUN_ERROR: Final = RunStatus.ERROR
_RUN_INTERRUPTED: Final = RunStatus.INTERRUPTED
_RUN_SUCCESS: Final = RunStatus.SUCCESS
_EXCEPTION_TEXT: Final = (semconv.EXCEPTION_MESSAGE, semconv.EXCEPTION_STACKTRACE, "error.message")


class RenderedSpan(ReadableSpan):
    """A span that aiobs made; knows whether it is the first of its trace in this process."""

    is_local_root = False


class _RenderedRoot(RenderedSpan):
    is_local_root = True


class Renderer:
    """Makes exportable spans from runs, and masks the spans of other instrumentations."""

    __name__ = "render"

    def __init__(self, settings: Settings, resource: Resource, health: Health, privacy: Privacy) -> None:
        self._privacy = privacy
        self._resource = resource
        self._health = health
        # The newer generation has no released schema yet, and a mixture has none.
        self._schema_url = semconv.SCHEMA_URL_1_41 if settings.semconv == "1.41" else None
        self._metadata_keys = settings.metadata_keys
        self._scopes: dict[str, InstrumentationScope] = {}
        dialects: list[Any] = [ai_agent.add]
        if "gen_ai" in settings.dialects:
            dialects.append(gen_ai.Dialect(settings.semconv).add)
        if "openinference" in settings.dialects:
            dialects.append(openinference.add)
        self._dialects = tuple(dialects)
        self._adds_openinference = "openinference" in settings.dialects

    def __call__(self, batch: Sequence[object]) -> Sequence[Any]:
        """Render a batch; a run that cannot be rendered is counted and left out."""
        out: list[ReadableSpan] = []
        for item in batch:
            try:
                if isinstance(item, Run):
                    out.append(self.render(item))
                elif isinstance(item, ForeignSpan):
                    out.append(self._privacy.masked_foreign(item))
                elif isinstance(item, ReadableSpan):
                    out.append(self._privacy.masked_span(item, None))
            except Exception as error:  # noqa: BLE001 (counted and warned; the rest of the batch goes on)
                self._health.problem(
                    "render", f"aiobs: a span could not be rendered ({type(error).__name__}).", lost=1
                )
        return out

    def render(self, run: Run) -> ReadableSpan:
        """The exportable form of one run: whatever text is in it has passed the detectors of the run's policy."""
        span, operation, privacy = run.span, run.operation, self._privacy
        rules, tally = run.rules or privacy.rules(), run.tally or Tally()
        theirs = privacy.foreign_mask(rules, tally)
        attributes: dict[str, Any] = {}
        for add in self._dialects:
            add(run, attributes)
        attributes.update(operation.attributes)
        attributes.update(run.outcome.attributes)
        if span.attributes:
            attributes.update(theirs.attributes(without_text(span.attributes)))
        ai_agent.add_cost(run, attributes)
        attributes.update(run.extra)
        for key in self._metadata_keys:
            if key in operation.metadata:
                attributes[f"{semconv.METADATA_PREFIX}.{key}"] = operation.metadata[key]
        if run.error_type is not None:
            attributes[semconv.ERROR_TYPE] = run.error_type
        safe = Safe(privacy, rules, tally)
        leaving = {**ai_agent.nature(run), **safe.attributes(attributes)}
        if run.content:
            leaving.update(run.content)
            if self._adds_openinference:
                openinference.add_content(run, leaving)
        named = _name_of(run) if span.name_override is None else _text(span.name_override, _MAX_READ)
        name = safe.text("", named)
        events, links = self._events(run, safe, theirs), _links(run.links, safe, theirs) if run.links else ()
        if tally.found:
            privacy.close(tally, rules, leaving)
        make = _RenderedRoot if span.is_local_root else RenderedSpan
        return make(
            name,
            theirs.context(span.own_context()),
            run.parent,
            privacy.masked_resource(self._resource),
            leaving,
            events,
            links,
            gen_ai.span_kind(run),
            status=_status(run),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=self._scope(span.scope),
        )

    def _events(self, run: Run, safe: Safe, theirs: ForeignMask) -> Sequence[Event]:
        span = run.span
        if not span.events and not run.outcome.events and run.error is None:
            return ()
        events = [
            Event(
                safe.text("", _text(name, _MAX_READ)),
                safe.attributes(theirs.attributes(without_text(given), name if type(name) is str else "")),
                at_ns if type(at_ns) is int and 0 <= at_ns <= _MAX_INT else span.end_ns,
            )
            for name, at_ns, given in span.events or ()
        ]
        events.extend(Event(name, {}, span.end_ns) for name in run.outcome.events)
        if run.error is not None and (texts := self._privacy.exception(run)):
            told = {semconv.EXCEPTION_TYPE: run.error_type or class_name(type(run.error)), **texts}
            events.append(Event(semconv.EVENT_EXCEPTION, told, span.end_ns))
        return events

    def _scope(self, name: str) -> InstrumentationScope:
        scope = self._scopes.get(name)
        if scope is None:
            scope = InstrumentationScope(name, __version__, self._schema_url)
            self._scopes[name] = scope
        return scope


def _name_of(run: Run) -> str:
    try:
        return _text(gen_ai.span_name(run), _MAX_READ)
    except Exception:  # noqa: BLE001 (a str subclass that raises when it is put into a text: the span matters more)
        return run.kind.value


def _status(run: Run) -> Status:
    if run.status is _RUN_ERROR:
        return _ERROR
    given = run.span.user_status
    if given is not None and run.status is _RUN_SUCCESS:
        return given
    return _OK if run.status is _RUN_INTERRUPTED else _UNSET


def _tells(given: Mapping[str, Any] | None) -> bool:
    return given is not None and any(key in given for key in _EXCEPTION_TEXT)


def without_text(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Attributes without those that carry the text of an exception."""
    if given is None or not _tells(given):
        return given
    return {key: value for key, value in given.items() if key not in _EXCEPTION_TEXT}


def _links(links: Sequence[Link], safe: Safe, theirs: ForeignMask) -> Sequence[Link]:
    return [
        Link(theirs.context(link.context), safe.attributes(theirs.attributes(without_text(link.attributes))))
        for link in links
    ]


# --- values that every exporter can encode ------------------------------------------------------------------------


class Safe:
    """Makes the texts of one span fit to leave: masked by the rules of its policy, and such as OTLP can carry."""

    __slots__ = ("_known", "_privacy", "_rules", "_tally")

    def __init__(self, privacy: Privacy, rules: Rules, tally: Tally) -> None:
        self._privacy = privacy
        self._rules = rules
        self._tally = tally
        self._known = rules.masker.clean

    def text(self, name: str, value: str) -> str:
        """One text that stands under a name."""
        return (
            value
            if value in self._known
            else _text(
                # First masked, then cut: half of an address is none to find.
                self._privacy.text(
                    name, _text(value, _MAX_READ), self._rules, self._tally, max_chars=_MAX_CHARS
                )
            )
        )

    def attributes(self, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
        """Attributes reduced to what OTLP can carry: others are left out, long or broken text is cut or mended."""
        out = dict(attributes)
        known = self._known
        for key, value in attributes.items():  # nearly all are fine as they are: only the others are touched
            kind = type(value)
            if kind is str:
                if value not in known:
                    out[key] = self.text(key, value)
            elif kind is int:
                if not _MIN_INT <= value <= _MAX_INT:
                    del out[key]
                elif value >= _MIN_NUMBER:
                    out[key] = self._number(key, value)
            elif kind is float:
                if not math.isfinite(value):
                    del out[key]
                elif value >= _MIN_NUMBER:
                    out[key] = self._number(key, value)
            elif kind is not bool:
                mended = self._mended(key, value)
                if mended is None:
                    del out[key]
                else:
                    out[key] = mended
        return out

    def _number(self, key: str, value: float) -> Any:
        """A number, or the tag of what it is: cards and accounts are numbers to some applications."""
        (masked,) = self._rules.masker.value({key: value}, self._tally.of("attributes")).values()
        return masked

    def _mended(self, key: str, value: object) -> Any:
        if type(value) is tuple or type(value) is list:
            return self._items(key, value)
        return self.text(key, _text(value)) if isinstance(value, Enum) and isinstance(value, str) else None

    def _items(self, key: str, values: Sequence[Any]) -> tuple[Any, ...] | None:
        values = values[:_MAX_ITEMS]
        first: type = type(values[0]) if values else str
        if any(type(item) is not first for item in values):
            return None
        if first is str:
            return tuple([self.text(key, item) for item in values])
        if first is bool:
            return tuple(values)
        if first is int:
            kept = [item for item in values if _MIN_INT <= item <= _MAX_INT]
            masked = [self._number(key, item) if item >= _MIN_NUMBER else item for item in kept]
            return tuple(masked if masked == kept else map(str, masked))  # of one type, as OTLP asks
        if first is float:
            return tuple(item for item in values if math.isfinite(item))
        return None


def _text(value: object, max_chars: int = _MAX_CHARS) -> str:
    if (
        type(value) is not str
    ):  # a member of an enum; a subclass of str could do anything when its text is asked for
        value = value.value if isinstance(value, Enum) and type(value.value) is str else "unnamed"
    if len(value) > max_chars:
        value = value[: max_chars - 1] + "…"
    if not value.isascii():
        value = value.encode("utf-8", "replace").decode("utf-8")  # lone surrogates cannot be encoded
    return value
