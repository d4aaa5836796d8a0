"""Where spans go: the application's TracerProvider if it has one, else our own exporters, and the console."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

from aiobs_core import semconv
from aiobs_core._context import identity_in
from aiobs_core.export.console import ConsoleExporter
from aiobs_core.export.delivery import Delivery
from aiobs_core.store.location import store_folder
from aiobs_core.store.writer import StoreExporter

if TYPE_CHECKING:
    from aiobs_core._accounts import Accounts
    from aiobs_core._health import Health
    from aiobs_core._settings import Settings

_SURVIVED = BaseException  # a foreign exporter may raise anything without hurting the others
_DRAIN_S = 5.0
_DEFAULT_SAMPLER = sampling.DEFAULT_ON
_ENTRANCES = (trace.SpanKind.SERVER, trace.SpanKind.CONSUMER)
_provider_lock = threading.Lock()


def _after_fork_in_child() -> None:
    global _provider_lock  # another thread of the parent may have held it
    _provider_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


class _ForeignSpans(SpanProcessor):
    """Takes the ended spans of other instrumentations into the corridor; sits in the provider that aiobs made."""

    def __init__(self) -> None:
        self.receive: Callable[[ReadableSpan], None] | None = None

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """A server's span, or a consumer's, belongs to the request that came with it."""
        if span.kind not in _ENTRANCES:
            return
        request = identity_in(get_current() if parent_context is None else parent_context)
        if request is not None and request.request_id:
            span.set_attribute(semconv.REQUEST_ID, request.request_id)

    def on_end(self, span: ReadableSpan) -> None:
        receive = self.receive
        if receive is not None and span.context is not None and span.context.trace_flags.sampled:
            receive(span)


class _ToProvider(SpanExporter):
    """Hands finished spans to the span processors of a provider that the application owns."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        # No public way leads from a provider to its processors, and tracers cannot make spans with given ids.
        processor = self._provider._active_span_processor  # noqa: SLF001
        for span in spans:
            processor.on_end(span)
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._provider.force_flush(timeout_millis) is not False

    def shutdown(self) -> None:
        """Leave the provider alone: the application shuts it down."""


class _DrainFirst(SpanProcessor):
    """First processor of the application's provider: its flush and shutdown wait for what is still in the corridor."""

    def __init__(self) -> None:
        self.drain: Callable[[float], bool] | None = None

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        drain = self.drain
        return drain is None or drain(min(timeout_millis / 1_000, _DRAIN_S))

    def shutdown(self) -> None:
        self.force_flush()


def _drain_first(provider: Any, drain: Callable[[float], bool]) -> None:
    # The public way appends, and processors are flushed and shut down in order: the spans would come too late.
    processors = getattr(provider._active_span_processor, "_span_processors", None)  # noqa: SLF001
    if not isinstance(processors, tuple):
        return
    first = processors[0] if processors and isinstance(processors[0], _DrainFirst) else _DrainFirst()
    first.drain = drain
    if first not in processors:
        with provider._active_span_processor._lock:  # noqa: SLF001
            provider._active_span_processor._span_processors = (first, *processors)  # noqa: SLF001


class Destinations:
    """Exporters of finished spans, opened from the settings, and what the trace start needs from the provider.

    But for `flush_sent`, everything is called by the worker only. Nothing here raises into it: a failing
    exporter is counted and the others still get the spans.
    """

    def __init__(
        self,
        settings: Settings,
        health: Health,
        *,
        accounts: Accounts,
        foreign_spans: Callable[[ReadableSpan], None],
        drain: Callable[[float], bool],
        exporters: Sequence[SpanExporter] | None = None,
        tracer_provider: trace.TracerProvider | None = None,
    ) -> None:
        self._health = health
        self._accounts = accounts
        self._has_begun = False
        self._known_losses = health.counts().get("spans.dropped", 0)
        provider = _provider(tracer_provider, foreign_spans)
        app_owned = not isinstance(provider, _OwnProvider)
        if app_owned and not hasattr(provider, "_active_span_processor"):
            app_owned = False
            health.problem(
                "provider.foreign",
                f"aiobs: the TracerProvider in use ({type(provider).__name__}) is not OpenTelemetry's SDK and takes no "
                "finished spans; they go to aiobs' own destinations instead.",
            )
        self.resource: Resource = getattr(provider, "resource", None) or Resource.create()
        self.sees_foreign = not app_owned and isinstance(provider, _OwnProvider)
        """Whether the spans of other instrumentations come through the corridor."""
        sampler = getattr(provider, "sampler", None)
        self.head_sampler: sampling.Sampler | None = None if sampler is _DEFAULT_SAMPLER else sampler
        generator = getattr(provider, "id_generator", None)
        self.id_generator: IdGenerator | None = None if type(generator) is RandomIdGenerator else generator
        self._exporters: list[SpanExporter] = []
        self._made: Sequence[SpanExporter] = ()  # those that are ours to shut down
        if app_owned:
            self._exporters.append(_ToProvider(provider))
            _drain_first(provider, drain)
        if exporters is not None:
            self._exporters.extend(exporters)
        else:
            self._made = _standard(settings, health, self.resource, accounts, app_owned=app_owned)
            self._exporters.extend(self._made)
        stores = [each for each in self._made if isinstance(each, StoreExporter)]
        self.store_folder: Path | None = stores[0].folder if stores else None
        self.delivery = next((each for each in self._made if isinstance(each, Delivery)), None)

    def begin(self) -> None:
        """Use files that the destinations before these had open, too."""
        if self._has_begun:
            return
        self._has_begun = True
        if self.delivery is None:
            self._accounts.open(None, None)
        else:
            self.delivery.begin()

    def deliver(self, batch: Sequence[object]) -> Sequence[Any]:
        """Give the finished spans to every exporter; the last stage, so nothing goes on."""
        spans = cast("Sequence[ReadableSpan]", batch)
        # For the balance: the outbox counts itself; where there is none, the first destination is the one that counts.
        counts = self.delivery is None
        if counts and not self._exporters:
            self._health.balance.aimless += len(spans)
        for exporter in self._exporters:
            why = ""
            try:
                result = exporter.export(spans)
            except _SURVIVED as error:
                why = type(error).__name__
            else:
                if result is SpanExportResult.FAILURE and not getattr(exporter, "counts_its_losses", False):
                    why = "FAILURE"
            if why:
                self._lost(exporter, why, len(spans))
            if counts:
                self._count(exporter, len(spans), failed=bool(why))
                counts = False
        return ()

    def _count(self, exporter: SpanExporter, count: int, *, failed: bool) -> None:
        balance = self._health.balance
        if failed:
            reason = f"export.{type(exporter).__name__}"
            balance.failed[reason] = balance.failed.get(reason, 0) + count
        elif isinstance(exporter, StoreExporter):
            balance.stored += count
        else:
            balance.exported += count

    def _lost(self, exporter: SpanExporter, why: str, count: int) -> None:
        name = type(exporter).__name__
        self._health.problem(
            f"export.{name}",
            f"aiobs: {name} failed ({why}); the spans of that batch did not reach it.",
            lost=count,
        )

    def flush_written(self, timeout_s: float) -> bool:
        """Flush the exporters that write in the worker; False if one could not in time."""
        return self._flush([each for each in self._exporters if not _waits(each)], timeout_s)

    def flush_sent(self, timeout_s: float) -> bool:
        """Wait for those that send in threads of their own; False also if spans were lost since the last flush.

        From any thread, as long as it is not the one that everything else waits for.
        """
        return (
            self._flush([each for each in self._exporters if _waits(each)], timeout_s)
            and self._lost_nothing()
        )

    def _flush(self, exporters: Sequence[SpanExporter], timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        results = []
        for exporter in exporters:
            left_ms = max(1, int((deadline - time.monotonic()) * 1_000))
            try:
                results.append(
                    exporter.force_flush(left_ms) is not False
                )  # None: inherited, nothing to flush
            except _SURVIVED as error:
                self._failed("flush", exporter, error)
                results.append(False)
        return all(results)

    def shutdown(self, timeout_s: float) -> bool:
        """Flush what was given to us, close what we made; False as for a flush.

        Our own exporters deliver and count what they lose within their own limit, which is below `export_timeout_s`,
        so that it is said before the process ends.
        """
        made, self._exporters = (
            self._made,
            [exporter for exporter in self._exporters if exporter not in self._made],
        )
        delivered = self._flush(self._exporters, timeout_s)
        for exporter in made:
            try:
                exporter.shutdown()
            except _SURVIVED as error:
                self._failed("shutdown", exporter, error)
                delivered = False
        delivered = delivered and not (self.delivery is not None and self.delivery.undelivered)
        self._accounts.close()
        return self._lost_nothing() and delivered

    def wait_until_ready(self, timeout_s: float) -> None:
        """Wait until the exporters that are made in the background are there, or have failed to be."""
        for exporter in self._made:
            if isinstance(exporter, Delivery):
                exporter.wait_until_ready(timeout_s)

    def _lost_nothing(self) -> bool:
        known, self._known_losses = self._known_losses, self._health.counts().get("spans.dropped", 0)
        return known == self._known_losses

    def forget_after_fork(self, health: Health) -> None:
        """Drop the parent's exporters without closing them: their connections are still the parent's."""
        self._exporters = []
        self._health = health

    def _failed(self, action: str, exporter: SpanExporter, error: BaseException) -> None:
        name = type(exporter).__name__
        self._health.problem(
            f"export.{name}.{action}", f"aiobs: {action} of {name} failed ({type(error).__name__})."
        )


def _waits(exporter: SpanExporter) -> bool:
    return isinstance(exporter, (Delivery, _ToProvider))


class _OwnProvider(TracerProvider):
    """The provider that aiobs makes where the application has none."""

    def __init__(self) -> None:
        super().__init__(
            shutdown_on_exit=False
        )  # aiobs' own exit handler flushes; it has no exporter of its own
        self.foreign_spans = _ForeignSpans()
        self.add_span_processor(self.foreign_spans)


def _provider(
    given: trace.TracerProvider | None, foreign_spans: Callable[[ReadableSpan], None]
) -> trace.TracerProvider:
    """The given provider, the application's global one, or one of our own made global."""
    with _provider_lock:
        provider = given or trace.get_tracer_provider()
        if given is None and isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
            trace.set_tracer_provider(_OwnProvider())
            provider = trace.get_tracer_provider()  # the application's, if it was set at this very moment
        if isinstance(provider, _OwnProvider):
            provider.foreign_spans.receive = foreign_spans
        return provider


def _standard(
    settings: Settings, health: Health, resource: Resource, accounts: Accounts, *, app_owned: bool
) -> list[SpanExporter]:
    exporters: list[SpanExporter] = []
    sends = not app_owned and "none" not in settings.traces_exporter
    sends = sends and bool(settings.otlp_endpoint or "otlp" in settings.traces_exporter)
    if sends:
        exporters.append(_otlp(settings, health, resource, accounts))
    wants_store = settings.store != "auto" or not (sends or app_owned)
    folder = _store_folder(settings, health) if wants_store else None
    retention_days = settings.retention_days or settings.privacy_policy.retention_days
    retention_s = None if retention_days is None else retention_days * 86_400
    store = None if folder is None else StoreExporter(folder, health=health, retention_s=retention_s)
    if store is not None:
        exporters.append(store)
    mode = "tree" if "console" in settings.traces_exporter else settings.console
    if mode != "off":
        exporters.append(ConsoleExporter(mode, footer=lambda: _stored_in(store), health=health))
    return exporters


def _stored_in(store: StoreExporter | None) -> str | None:
    where = None if store is None else store.stored_in
    return None if where is None else f"stored in {where}"


def _store_folder(settings: Settings, health: Health) -> Path | None:
    try:
        # Where the user's data folder is, is a convention of the platform, not a setting of aiobs.
        return store_folder(settings.store, cwd=Path.cwd(), environ=os.environ)  # noqa: TID251
    except (OSError, RuntimeError) as error:  # the working directory is gone, or there is no home
        health.problem(
            "store.no_folder",
            f"aiobs: no folder for the local store was found ({type(error).__name__}); runs are not stored. Set "
            "AIOBS_STORE to a folder.",
        )
        return None


def _otlp(settings: Settings, health: Health, resource: Resource, accounts: Accounts) -> SpanExporter:
    from aiobs_core.export.open_delivery import open_delivery

    # What the platform says of folders and of OTLP's variables is no setting of aiobs.
    environ = os.environ  # noqa: TID251
    delivery = open_delivery(
        settings, health, resource, accounts=accounts, cwd=_working_folder(), environ=environ
    )
    delivery.make_ready()
    return delivery


def _working_folder() -> Path | None:
    try:
        return Path.cwd()
    except OSError:  # it was deleted
        return None
