"""What the Collector's `tail_sampling` processor does with a configuration, as far as ours needs it: from the YAML alone.

Written after the processor's and OTTL's own documentation and sources; it stands in for the Collector, which is not a
Python package. Spans come as OTLP has them, so that types are those that the Collector sees.
https://github.com/open-telemetry/opentelemetry-collector-contrib/tree/main/processor/tailsamplingprocessor
https://github.com/open-telemetry/opentelemetry-collector-contrib/blob/main/pkg/ottl/LANGUAGE.md
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import yaml
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

try:
    import re2
except ImportError:  # in the group `dev` only; Python's expressions can stand in for what is generated
    re2 = None

_MAX_INT = (1 << 63) - 1


class OttlError(Exception):
    """A condition that cannot be parsed, or not be answered."""


# --- spans ----------------------------------------------------------------------------------------------------------


@dataclass
class Event:
    name: str
    attributes: dict[str, Any]


@dataclass
class Span:
    trace_id: str
    is_root: bool
    name: str
    status_code: int
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    events: list[Event] = field(default_factory=list)


def received(spans: Sequence[ReadableSpan]) -> list[Span]:
    """The spans as a Collector has them after OTLP."""
    found = []
    for resource_spans in encode_spans(list(spans)).resource_spans:
        for scope_spans in resource_spans.scope_spans:
            found += [
                Span(
                    span.trace_id.hex(),
                    not any(span.parent_span_id),
                    span.name,
                    span.status.code,
                    span.start_time_unix_nano,
                    span.end_time_unix_nano,
                    _plain_map(span.attributes),
                    [Event(event.name, _plain_map(event.attributes)) for event in span.events],
                )
                for span in scope_spans.spans
            ]
    return found


def _plain_map(pairs: Any) -> dict[str, Any]:
    return {pair.key: _plain(pair.value) for pair in pairs}


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(each) for each in value.array_value.values]
    return None if kind is None else getattr(value, kind)


# --- the processor --------------------------------------------------------------------------------------------------


class Processor:
    """The decisions of a configuration, given as the text of a file."""

    def __init__(self, text: str) -> None:
        self.config = _with_variables(yaml.safe_load(text))
        self.policies = self.config["processors"]["tail_sampling"]["policies"]

    def keeps(self, spans: Sequence[Span]) -> bool:
        """No policy drops here; so a trace is kept where one samples it."""
        return any(_samples(policy, spans) for policy in self.policies)


def _with_variables(value: Any) -> Any:
    if isinstance(value, str):
        assert not re.search(r"(?<!\$)(?:\$\$)*\$(?!\$)", value), f"a variable would be put into {value!r}"
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [_with_variables(each) for each in value]
    if isinstance(value, dict):
        return {key: _with_variables(each) for key, each in value.items()}
    return value


def _samples(policy: dict[str, Any], spans: Sequence[Span]) -> bool:
    kind = policy["type"]
    if kind == "always_sample":
        return True
    if kind == "and":
        return all(_samples(each, spans) for each in policy["and"]["and_sub_policy"])
    if kind == "not":
        return not _samples(policy["not"]["not_sub_policy"], spans)
    if kind == "latency":  # as of 0.157
        lasted_ns = max(span.end_ns for span in spans) - min(span.start_ns for span in spans)
        return lasted_ns // 1_000_000 > policy["latency"]["threshold_ms"]
    assert kind == "ottl_condition", f"unknown type {kind}"
    given = policy["ottl_condition"]
    of_spans = [parsed(text) for text in given.get("span", [])]
    of_events = [parsed(text) for text in given.get("spanevent", [])]
    return any(
        _is_true(of_spans, span, None) or any(_is_true(of_events, span, event) for event in span.events)
        for span in spans
    )


def _is_true(conditions: Iterable[Answer], span: Span, event: Event | None) -> bool:
    for condition in conditions:
        try:
            if condition(span, event):
                return True
        except OttlError:  # error_mode: ignore
            continue
    return False


# --- OTTL -----------------------------------------------------------------------------------------------------------

Answer = Callable[[Span, "Event | None"], Any]
_TOKENS = re.compile(
    r"""\s*(?:
      (?P<float>\d*\.\d+(?:[eE][-+]?\d+)?) | (?P<int>\d+) | (?P<string>"(?:\\.|[^\\"])*")
    | (?P<word>\b(?:not|or|and|true|false|nil)\b) | (?P<compare>==|!=|>=|<=|>|<)
    | (?P<call>[A-Z][A-Za-z0-9_]*(?=\()) | (?P<enum>[A-Z][A-Z0-9_]*)
    | (?P<path>[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*) | (?P<sign>[-+(),\[\]])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ENUMS = {"STATUS_CODE_UNSET": 0, "STATUS_CODE_OK": 1, "STATUS_CODE_ERROR": 2}
_COMPARE = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_FIELDS: dict[str, Callable[[Span], Any]] = {
    "span.name": lambda span: span.name,
    "span.status.code": lambda span: span.status_code,
    "span.start_time_unix_nano": lambda span: span.start_ns,
    "span.end_time_unix_nano": lambda span: span.end_ns,
    "span.trace_id.string": lambda span: span.trace_id,
}


@cache
def parsed(text: str) -> Answer:
    """A condition, ready to be asked."""
    return _Parser(text).condition()


def compared(left: Any, sign: str, right: Any) -> bool:
    """By the table in LANGUAGE.md: what has no order in common is unequal, and nothing else."""
    is_number = [type(each) in (int, float) for each in (left, right)]
    if left is None and right is None:
        return sign in ("==", "<=", ">=")
    if all(is_number) and type(left) is not type(right):  # a whole number with a double: both as doubles
        return bool(_COMPARE[sign](float(left), float(right)))
    if all(is_number) or (type(left) is type(right) and isinstance(left, (str, bool))):
        return bool(_COMPARE[sign](left, right))
    return sign == "!="


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            found = _TOKENS.match(text, at)
            if found is None:
                raise OttlError(f"no token at {text[at:]!r}")
            self.tokens.append((str(found.lastgroup), found[str(found.lastgroup)]))
            at = found.end()
        self.at = 0

    def condition(self) -> Answer:
        answer = self._any()
        if self.at != len(self.tokens):
            raise OttlError(f"unexpected {self.tokens[self.at :]}")
        return answer

    def _next(self) -> tuple[str, str]:
        return self.tokens[self.at] if self.at < len(self.tokens) else ("end", "")

    def _takes(self, token: str) -> bool:
        if self._next()[1] == token and self._next()[0] != "string":
            self.at += 1
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._takes(token):
            raise OttlError(f"expected {token}, got {self._next()}")

    def _any(self) -> Answer:
        parts = [self._all()]
        while self._takes("or"):
            parts.append(self._all())
        return lambda span, event: any(part(span, event) for part in parts)

    def _all(self) -> Answer:
        parts = [self._single()]
        while self._takes("and"):
            parts.append(self._single())
        return lambda span, event: all(part(span, event) for part in parts)

    def _single(self) -> Answer:
        if self._takes("not"):
            part = self._single()
            return lambda span, event: not part(span, event)
        if self._takes("("):
            inside = self._any()
            self._expect(")")
            return inside
        left = self._sum()
        kind, sign = self._next()
        if kind != "compare":
            return _boolean(left)
        self.at += 1
        right = self._sum()
        return lambda span, event: compared(left(span, event), sign, right(span, event))

    def _sum(self) -> Answer:
        value = self._value()
        while self._next() in (("sign", "+"), ("sign", "-")):
            sign = self._next()[1]
            self.at += 1
            value = _arithmetic(value, sign, self._value())
        return value

    def _value(self) -> Answer:
        is_negative = self._takes("-")
        kind, text = self._next()
        self.at += 1
        if kind in ("int", "float"):
            value: Any = int(text) if kind == "int" else float(text)
            if kind == "int" and value > _MAX_INT:
                raise OttlError(f"{text} has more than 64 bits")
            value = -value if is_negative else value
            return lambda span, event: value
        if is_negative:
            raise OttlError(f"no number after -: {text}")
        if kind == "string":
            literal = unquoted(text)
            return lambda span, event: literal
        if kind == "word" and text in ("true", "false", "nil"):
            constant = {"true": True, "false": False, "nil": None}[text]
            return lambda span, event: constant
        if kind == "enum":
            number = _ENUMS[text]
            return lambda span, event: number
        if kind == "call":
            return self._call(text)
        if kind == "path":
            return self._path(text)
        raise OttlError(f"no value: {kind} {text}")

    def _path(self, path: str) -> Answer:
        if path in ("span.attributes", "spanevent.attributes"):
            self._expect("[")
            kind, text = self._next()
            if kind != "string":
                raise OttlError(f"no key: {text}")
            self.at += 1
            self._expect("]")
            key = unquoted(text)
            if path == "span.attributes":
                return lambda span, event: span.attributes.get(key)
            return lambda span, event: event.attributes.get(key)  # type: ignore[union-attr]
        if path == "spanevent.name":
            return lambda span, event: event.name  # type: ignore[union-attr]
        if path not in _FIELDS:
            raise OttlError(f"no such path: {path}")
        read = _FIELDS[path]
        return lambda span, event: read(span)

    def _call(self, name: str) -> Answer:
        self._expect("(")
        arguments = []
        while not self._takes(")"):
            if arguments:
                self._expect(",")
            arguments.append(self._sum())
        if name == "IsRootSpan":
            return lambda span, event: span.is_root
        function = _FUNCTIONS[name]
        return lambda span, event: function(*(argument(span, event) for argument in arguments))


def _boolean(value: Answer) -> Answer:
    def answer(span: Span, event: Event | None) -> bool:
        found = value(span, event)
        if type(found) is not bool:
            raise OttlError(f"{found!r} is no boolean")
        return found

    return answer


def _arithmetic(left: Answer, sign: str, right: Answer) -> Answer:
    def answer(span: Span, event: Event | None) -> Any:
        first, second = left(span, event), right(span, event)
        if type(first) not in (int, float) or type(second) not in (int, float):
            raise OttlError(f"{first!r} {sign} {second!r}")
        return first + second if sign == "+" else first - second

    return answer


def _is_match(target: Any, pattern: str) -> bool:
    if target is None:
        return False
    assert isinstance(target, str), "the Collector would make a text of it in its own way"
    return (re2.search(pattern, target) if re2 else re.search(_as_python(pattern), target)) is not None


def _as_python(pattern: str) -> str:
    """Two spellings differ."""
    return re.sub(r"\\x\{([0-9A-F]+)\}", lambda found: rf"\U{int(found[1], 16):08x}", pattern).replace(
        r"\z", r"\Z"
    )


def _contains(target: Any, item: Any) -> bool:
    if not isinstance(target, list):
        raise OttlError(f"{target!r} is no list")
    return any(compared(each, "==", item) for each in target)


def _substring(target: Any, start: int, length: int) -> str:
    if not isinstance(target, str) or start < 0 or length <= 0 or start + length > len(target):
        raise OttlError(f"no such part of {target!r}")
    return target[start : start + length]


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "IsString": lambda value: isinstance(value, str),
    "IsInt": lambda value: type(value) is int,
    "IsDouble": lambda value: type(value) is float,
    "IsList": lambda value: isinstance(value, list),
    "IsMatch": _is_match,
    "ContainsValue": _contains,
    "Substring": _substring,
}
_ESCAPES = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}


def unquoted(literal: str) -> str:
    """A text as Go's `strconv.Unquote` reads it."""

    def character(found: re.Match[str]) -> str:
        escaped = found[1]
        if escaped in _ESCAPES:
            return _ESCAPES[escaped]
        if escaped[0] in "xuU" and len(escaped) == {"x": 3, "u": 5, "U": 9}[escaped[0]]:
            code = int(escaped[1:], 16)
            if not 0xD800 <= code < 0xE000:
                return chr(code)
        raise OttlError(f"Go knows no \\{escaped}")

    if "\n" in literal:
        raise OttlError("a line break in a text")
    return re.sub(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|x[0-9a-fA-F]{2}|.)", character, literal[1:-1])
