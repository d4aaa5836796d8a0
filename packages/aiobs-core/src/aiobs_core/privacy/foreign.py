"""Spans of other instrumentations: what their attributes hold, by their names, and how each kind of it leaves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, TraceState

from aiobs_core.privacy.calls import is_query, without_query
from aiobs_core.privacy.messages import readable

if TYPE_CHECKING:
    from aiobs_core.privacy.content import Rules, Tally
    from aiobs_core.privacy.masker import Masker

_OTHER: Final = ""
_MAX_KNOWN: Final = 8_192
_MAX_NAME_CHARS: Final = 256
_TOO_LARGE: Final = 10**9  # longer numbers can be those of cards, accounts and telephones
# OpenTelemetry's GenAI conventions old and new, OpenInference, OpenLLMetry, LangSmith, Langfuse, Logfire, Vercel's AI SDK.
_PATTERNS: Final = (
    ("exceptions", r"exception\.(?:message|stacktrace)|error\.message|otel\.status_description"),
    ("system", r"gen_ai\.system_instructions|gen_ai\.system\.message|llm\.system\b.*|gen_ai\.agent\.description"),
    ("tool_arguments", r"ai\.toolCall\.args|.*\btool[._](?:call[._])?(?:s?\.\d+\.)?(?:.*[._])?(?:arguments|parameters|input)(?:\.\w+)?"),
    ("tool_results", r"ai\.toolCall\.result|.*\btool[._](?:call[._])?(?:result|results|output|response)|gen_ai\.tool\.message"),
    ("documents", (r"gen_ai\.retrieval\.documents|retrieval\.documents\..*|(?:.*\.)?reranker\.(?:input|output)_documents\..*"
                  r"|document\.(?:content|metadata)|db\.vector\.query\.result.*|db\.search\.result.*")),
    ("embeddings", r"embedding\.embeddings\..*|embedding\.text|gen_ai\.embeddings?\.input.*|gen_ai\.embedding\.text"),
    ("completions", (r"gen_ai\.output\.messages|gen_ai\.completion(?:\.\d+\..*)?|gen_ai\.choice|gen_ai\.content\.completion(?:\.chunk)?|llm\.output_messages\..*"
                    r"|llm\.completions?(?:\.\d+.*)?|output\.value|traceloop\.entity\.output|langfuse\.observation\.output"
                    r"|langfuse\.trace\.output|ai\.response\.(?:text|object|toolCalls)|response_data|gen_ai\.response\.text"
                    r"|gen_ai\.response\.reasoning|mlflow\.spanOutputs|haystack\.component\.output|final_result|ai\.value|output|gen_ai\.event\.content|gen_ai\.evaluation\.explanation")),
    ("prompts", (r"gen_ai\.input\.messages|gen_ai\.prompt(?:\.\d+\..*)?|gen_ai\.(?:user|assistant)\.message|gen_ai\.content\.prompt|gen_ai\.request\.prompt"
                r"|llm\.input_messages\..*|llm\.prompts?(?:\.\d+.*)?|llm\.prompt_template\.(?:template|variables)|llm\.tools\..*"
                r"|llm\.function_call|llm\.request\.functions\..*|gen_ai\.tool\.definitions|input\.value|traceloop\.entity\.input"
                r"|langfuse\.observation\.input|langfuse\.trace\.input|ai\.prompt(?:\..*)?|request_data|gen_ai\.retrieval\.query\.text"
                r"|all_messages_events|pydantic_ai\.all_messages|traceloop\.association\.properties\..*prompt.*|gen_ai\.memory\..*"
                r"|langfuse\.observation\.metadata.*|mlflow\.spanInputs|logfire\.msg|haystack\.component\.input|crewai\..*description|input|message|message\.content|message\.contents\..*|mcp\.request\.argument.*|llamaindex\.step\..*|prompt|prompts")),
    ("user_id", (r"user\.id|enduser\.id|user_id|langfuse\.user\.id|traceloop\.association\.properties\.user_id|user\.(?:email|name|full_name)"
                r"|enduser\.pseudo\.id")),
)  # fmt: skip
_COMPILED: Final = tuple((field, re.compile(pattern)) for field, pattern in _PATTERNS)
_SECRET_HEADERS: Final = re.compile(
    r"(?i)(?:.*\.)?(?:authorization|proxy[\-_]authorization|cookie|set[\-_]cookie|x[\-_]api[\-_]key|api[\-_]key"
    r"|x[\-_]auth[\-_]token|x[\-_]amz[\-_]security[\-_]token|x[\-_]goog[\-_]api[\-_]key)$"
)
_THRESHOLD: Final = re.compile(r"th:[0-9a-f]{1,14}(?:;rv:[0-9a-f]{14})?")  # of a sampler: it tells of nobody
_fields: dict[str, str] = {}


def field_of(name: str) -> str:
    """The kind of content that an attribute or an event of that name holds; empty if it is none.

    A name longer than any that instrumentations use is a text itself, and counts as a prompt.
    """
    if len(name) > _MAX_NAME_CHARS:
        return "prompts"
    found = _fields.get(name)
    if found is None:
        found = next((field for field, pattern in _COMPILED if pattern.fullmatch(name)), _OTHER)
        if len(_fields) >= _MAX_KNOWN:
            _fields.clear()
        _fields[name] = found
    return found


def is_secret_header(name: str) -> bool:
    """Whether an attribute of that name holds a header whose whole value is a secret."""
    return _SECRET_HEADERS.match(name) is not None and "header" in name


class ForeignSpan(NamedTuple):
    """An ended span of another instrumentation, and what is known beside it.

    Attributes:
        policy: Name of the privacy policy that was in force around it; None: that of the settings.
        told: Attributes that aiobs adds.
        threshold: By which its trace was kept, where a sampling policy decided.
    """

    span: ReadableSpan
    policy: str | None
    told: Mapping[str, Any] = {}
    threshold: int | None = None


class _MaskedSpan(ReadableSpan):
    """A copy that says what the original had already dropped for its limits."""

    dropped = (0, 0, 0)

    @property
    def dropped_attributes(self) -> int:
        return self.dropped[0]

    @property
    def dropped_events(self) -> int:
        return self.dropped[1]

    @property
    def dropped_links(self) -> int:
        return self.dropped[2]


class ForeignMask:
    """Masks what another instrumentation has put together. Used by one thread at a time.

    Content, by the names of attributes, goes by the mode of its field: none and `hash` leave it out (a hash would be no
    text of the shape that its readers expect), `masked` masks it, `full` leaves it. Everything else is masked.
    """

    def __init__(self, rules: Rules, tally: Tally, *, max_chars: int) -> None:
        self._modes = rules.modes
        self._masker: Masker = rules.masker
        self._tally = tally
        self._max_chars = max_chars

    def span(self, span: ReadableSpan, resource: Any) -> ReadableSpan:
        """The span as it may leave; all texts in it are masked, those of exceptions and content by their modes."""
        description = span.status.description
        attributes = self.attributes(span.attributes)
        joined = self._joined(span.events)
        events = [
            Event(
                self.text(event.name),
                {**self.attributes(event.attributes, event.name), **joined.get(at, {})},
                event.timestamp,
            )
            for at, event in enumerate(span.events)
        ]
        masked = _MaskedSpan(
            name=self.text(span.name),
            context=None if span.context is None else self.context(span.context),
            parent=span.parent,
            resource=resource,
            attributes=attributes,
            events=events,
            links=[Link(self.context(link.context), self.attributes(link.attributes)) for link in span.links],
            kind=span.kind,
            status=Status(
                span.status.status_code, self._of_field("exceptions", description) if description else None
            ),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=self._scope(span.instrumentation_scope),
        )
        masked.dropped = (span.dropped_attributes, span.dropped_events, span.dropped_links)
        return masked

    def _joined(self, events: Sequence[Event]) -> dict[int, dict[str, str]]:
        """Content that several events of one name bring in pieces, such as a stream's chunks, masked as one text."""
        pieces: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for at, event in enumerate(events):
            within = field_of(event.name)
            for key, value in (event.attributes or {}).items():
                field = field_of(key) or within
                if field != _OTHER and self._modes[field] == "masked" and isinstance(value, str):
                    pieces.setdefault((event.name, key), []).append((at, value))
        found: dict[int, dict[str, str]] = {}
        for (name, key), parts in pieces.items():
            if len(parts) > 1:
                count = self._tally.of(field_of(key) or field_of(name))
                texts = self._masker.parts([text for _, text in parts], count, max_chars=self._max_chars)
                for (at, _), text in zip(parts, texts, strict=True):
                    found.setdefault(at, {})[key] = text
        return found

    def attributes(self, given: Mapping[str, Any] | None, event: str = "") -> dict[str, Any]:
        """Attributes as they may leave; those of an event that is content are content."""
        found: dict[str, Any] = {}
        within = field_of(event) if event else _OTHER
        for key, value in (given or {}).items():
            field = field_of(key) or within
            if field != _OTHER:
                masked = self._of_field(field, value)
            elif not self._masker.masks_secrets:
                masked = self.value(key, value)
            elif is_query(key):
                continue
            else:
                masked = self.value(key, without_query(key, value) if isinstance(value, str) else value)
            if masked is not None:
                found[self.text(key)] = masked
        return found

    def context(self, context: SpanContext) -> SpanContext:
        """The context without the entries of its trace state in which a detector finds something."""
        if not context.trace_state:
            return context
        kept = [
            (key, value)
            for key, value in context.trace_state.items()
            if (key == "ot" and _THRESHOLD.fullmatch(value)) or not self._masker.find(value)
        ]
        if len(kept) == len(context.trace_state):
            return context
        ids = context.trace_id, context.span_id, context.is_remote, context.trace_flags
        return SpanContext(*ids, TraceState(kept))

    def _scope(self, scope: InstrumentationScope | None) -> InstrumentationScope | None:
        if scope is None or not scope.attributes:
            return scope
        return InstrumentationScope(
            scope.name, scope.version, scope.schema_url, self.attributes(scope.attributes)
        )

    def value(self, key: str, value: Any) -> Any:
        """The value of an attribute that is no content."""
        if isinstance(value, str):
            if is_secret_header(key) or self._names_secret(key):
                self._tally.of("attributes")("credential")
                return "<CREDENTIAL>"
            return self.text(value)
        if value is None or isinstance(value, bool):
            return value
        if (
            isinstance(value, (int, float)) and abs(value) < _TOO_LARGE
        ):  # a count, such as `llm.token_count.prompt`
            return value
        if is_secret_header(key):
            self._tally.of("attributes")("credential")
            return ("<CREDENTIAL>",)
        named = self._masker.value({key: value}, self._tally.of("attributes"), max_chars=4 * self._max_chars)
        (masked,) = named.values()
        return tuple(masked) if isinstance(masked, list) else masked

    def _names_secret(self, key: str) -> bool:
        *_, above, last = ("", *key.split("."))
        return self._masker.names_secret(above if last.isdigit() or last == "value" else last)

    def text(self, text: str) -> str:
        """A text that is no content."""
        return self._masker.text(text, self._tally.of("attributes"), max_chars=4 * self._max_chars)

    def _of_field(self, field: str, value: Any) -> Any:
        shown = readable(
            value, field, self._modes, self._masker, count=self._tally.of, max_chars=self._max_chars
        )
        return tuple(shown) if isinstance(shown, list) else shown
