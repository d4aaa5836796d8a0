"""Content of runs in the form that the modes allow: hashes, or masked texts in the JSON shapes of the GenAI conventions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from aiobs_core import semconv
from aiobs_core._operation import AttributeValue, Kind
from aiobs_core.privacy._plain import plain
from aiobs_core.privacy.fitting import fitted, fitted_messages
from aiobs_core.privacy.hashing import Hasher
from aiobs_core.privacy.messages import FIELD_OF_ROLE, READABLE
from aiobs_core.privacy.overflow import MAX_CHARS, is_longer
from aiobs_core.privacy.policy import Mode, Policy

if TYPE_CHECKING:
    from aiobs_core.privacy.masker import Count, Masker

_MODEL: Final = Kind.MODEL
_TOOL: Final = Kind.TOOL
_EMBEDDING: Final = Kind.EMBEDDING
_FIELDS_OF: Final = {
    Kind.MODEL: ("prompts", "completions", "system", "tool_arguments", "tool_results"),
    Kind.TOOL: ("tool_arguments", "tool_results"),
    Kind.RETRIEVER: ("prompts", "documents"),
    Kind.RERANKER: ("prompts", "documents"),
    Kind.EMBEDDING: ("embeddings",),
}
_HASHES: Final = {
    "prompts": semconv.PROMPT_HASH,
    "completions": semconv.COMPLETION_HASH,
    "system": semconv.SYSTEM_HASH,
    "tool_arguments": semconv.TOOL_ARGUMENTS_HASH,
    "tool_results": semconv.TOOL_RESULT_HASH,
    "documents": semconv.DOCUMENTS_HASH,
    "embeddings": semconv.EMBEDDING_TEXTS_HASH,
}
_ROLES: Final = frozenset({"user", *FIELD_OF_ROLE})
_SYSTEM: Final = ("system", "developer")
_MAX_PARTS: Final = 256
_LABEL: Final = re.compile(r"[A-Za-z0-9_\-.:]{1,128}")  # as names of tools and ids of calls look


class Rules(NamedTuple):
    """A policy at work: its modes on spans after every override, its masker, and the kinds of runs whose content is read."""

    policy: Policy
    modes: Mapping[str, Mode]
    masker: Masker
    is_default: bool
    read_kinds: frozenset[Kind]


def rules_of(policy: Policy, modes: Mapping[str, Mode], masker: Masker, *, is_default: bool) -> Rules:
    """The rules, with what has to be read at all worked out once."""
    read = frozenset(
        kind for kind, fields in _FIELDS_OF.items() if any(modes[field] != "none" for field in fields)
    )
    return Rules(policy, modes, masker, is_default, read)


class Tally:
    """Collects what was masked in one span, as `<field>:<detector>`."""

    __slots__ = ("found",)

    def __init__(self) -> None:
        self.found: list[str] = []

    def of(self, field: str) -> Count:
        """Counts for one field."""
        return lambda detector: self.found.append(f"{field}:{detector}")


class Asked(NamedTuple):
    """What of a run its content is read from.

    Attributes:
        kind: What ran.
        asked: What went in, in the form of its kind.
        came_back: What came out.
        finish_reasons: One per choice of a model.
    """

    kind: Kind
    asked: Callable[[], Any] | None
    came_back: Callable[[], Any] | None
    finish_reasons: Sequence[str] = ()


class ContentReader:
    """Reads the content of one kept run, and says of it what the rules allow.

    Args:
        rules: The policy at work.
        tally: Told what was masked.
        hasher: For what is to be hashed.
        max_chars: Longest text; an attribute holds at most four times as much.
    """

    def __init__(self, rules: Rules, tally: Tally, hasher: Hasher, *, max_chars: int) -> None:
        self._rules = rules
        self._modes = rules.modes
        self._tally = tally
        self._hasher = hasher
        self._max_chars = max_chars
        self._max_attribute_chars = 4 * max_chars
        self.found: dict[str, AttributeValue] = {}
        """Attributes with the content."""
        self.is_cut = False
        """Whether some of it was too long for them."""

    def read(self, run: Asked) -> None:
        """Add the content of a run, whose kind is one of the rules' `read_kinds`.

        Raises:
            Exception: Whatever the foreign objects of the content raise.
        """
        if run.kind is _MODEL:
            self._add_input(run.asked)
            self._add_output(run.came_back, run.finish_reasons)
        elif run.kind is _TOOL:
            self._add("tool_arguments", run.asked, semconv.GEN_AI_TOOL_CALL_ARGUMENTS)
            self._add("tool_results", run.came_back, semconv.GEN_AI_TOOL_CALL_RESULT)
        elif run.kind is _EMBEDDING:
            self._add("embeddings", run.asked, semconv.EMBEDDING_TEXTS)
        else:
            self._add("prompts", run.asked, semconv.GEN_AI_RETRIEVAL_QUERY_TEXT)
            self._add("documents", run.came_back, semconv.GEN_AI_RETRIEVAL_DOCUMENTS)

    # --- models -----------------------------------------------------------------------------------------------------

    def _add_input(self, asked: Callable[[], Any] | None) -> None:
        if asked is None:
            return
        modes, messages = self._modes, asked()
        # Beside readable prompts, too, since it is what calls are found by; but not where the policy wants no hashes.
        if modes["prompts"] != "none" and self._rules.policy.content["prompts"] != "none":
            self._add_hash("prompts", _told(messages, system=False))
        if modes["system"] == "hash":
            self._add_hash("system", _told(messages, system=True))
        if any(modes[field] in READABLE for field in ("prompts", "system", "completions", "tool_results")):
            shown = self._shown_within(messages)
            self.found[semconv.GEN_AI_INPUT_MESSAGES] = self._fitted(fitted_messages, shown)

    def _add_output(self, came_back: Callable[[], Any] | None, finish_reasons: Sequence[str]) -> None:
        modes = self._modes
        if came_back is None or (modes["completions"] == "none" and modes["tool_arguments"] not in READABLE):
            return
        messages = came_back()
        if modes["completions"] == "hash":
            self._add_hash("completions", _told(messages, system=False))
        if modes["completions"] in READABLE or modes["tool_arguments"] in READABLE:
            shown = [self._shown(message, "completions") for message in messages]
            for message, reason in zip(shown, finish_reasons, strict=False):
                message["finish_reason"] = self._name(reason)
            self.found[semconv.GEN_AI_OUTPUT_MESSAGES] = self._fitted(fitted_messages, shown)

    def _shown_within(self, messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The messages that an attribute can hold, with room to spare: the first, and the last ones. Others cost nothing."""
        left = 2 * self._max_attribute_chars
        last: list[Mapping[str, Any]] = []
        for message in reversed(messages[1:]):
            left -= sum(min(_size(part), self._max_chars) for part in message["parts"])
            if left < 0 and last:
                break
            last.append(message)
        omitted = len(messages) - 1 - len(last)
        mark = (
            [{"role": "system", "parts": [{"type": "omitted", "messages": omitted}]}] if omitted > 0 else []
        )
        self.is_cut = self.is_cut or omitted > 0
        shown = [self._shown(message, "prompts") for message in (*messages[:1], *reversed(last))]
        return [*shown[:1], *mark, *shown[1:]]

    def _shown(self, message: Mapping[str, Any], otherwise: str) -> dict[str, Any]:
        role = str(message.get("role"))
        shown_role = role if role in _ROLES else self._name(role)
        parts: list[dict[str, Any]] = []
        texts: list[str] = []
        left, given = 2 * self._max_attribute_chars, message.get("parts") or ()
        for at, part in enumerate(given):
            left -= min(_size(part), self._max_chars)
            if left < 0 or at >= _MAX_PARTS:
                self.is_cut = True
                parts.append({"type": "omitted", "parts": len(given) - at})
                break
            if part.get("type") == "text":
                texts.append(str(part.get("content")))
            elif part.get("type") == "tool_call":
                call = {
                    "type": "tool_call",
                    "id": self._label(part.get("id")),
                    "name": self._name(part.get("name")),
                }
                parts.append(self._with("arguments", call, part, "tool_arguments"))
            elif part.get("type") == "tool_call_response":
                answer = {"type": "tool_call_response", "id": self._label(part.get("id"))}
                parts.append(self._with("response", answer, part, "tool_results"))
        return {
            "role": shown_role,
            "parts": [*self._texts(texts, FIELD_OF_ROLE.get(role, otherwise)), *parts],
        }

    def _name(self, name: Any) -> Any:
        """A name, which a model may have put together from what it was told."""
        return (
            self._rules.masker.text(name, self._tally.of("attributes"), max_chars=256)
            if isinstance(name, str)
            else name
        )

    def _label(self, label: Any) -> Any:
        """An id; it is never cut."""
        if not isinstance(label, str) or _LABEL.fullmatch(label):
            return label
        return self._rules.masker.text(label, self._tally.of("attributes"))

    def _texts(self, texts: Sequence[str], field: str) -> list[dict[str, Any]]:
        mode = self._modes[field]
        self.is_cut = self.is_cut or any(len(text) > self._max_chars for text in texts)
        if mode == "masked":
            texts = self._rules.masker.parts(texts, self._tally.of(field), max_chars=self._max_chars)
        elif mode == "full":
            texts = [_cut(text, self._max_chars) for text in texts]
        else:
            return []
        return [{"type": "text", "content": text} for text in texts]

    def _with(self, name: str, shown: dict[str, Any], part: Mapping[str, Any], field: str) -> dict[str, Any]:
        if self._modes[field] in READABLE:
            shown[name] = self._readable(field, part.get(name))
        return shown

    # --- everything else --------------------------------------------------------------------------------------------

    def _add(self, field: str, source: Callable[[], Any] | None, attribute: str) -> None:
        mode = self._modes[field]
        value = None if source is None or mode == "none" else source()
        if value is None:
            return
        if mode == "hash":
            self._add_hash(field, value if isinstance(value, str) else _json(plain(value), canonical=True))
            return
        shown = self._readable(field, value)
        is_text = isinstance(shown, str)
        self.found[attribute] = shown if is_text else self._fitted(fitted, shown)

    def _readable(self, field: str, value: Any) -> Any:
        value = plain(value)
        self.is_cut = self.is_cut or is_longer(value, self._max_chars)
        if self._modes[field] == "full":
            return _cut(value, self._max_chars) if isinstance(value, str) else value
        return self._rules.masker.value(value, self._tally.of(field), max_chars=self._max_chars)

    def _fitted(self, fit: Callable[[Any, int], str], shown: Any) -> str:
        text = fit(shown, MAX_CHARS)
        if len(text) <= self._max_attribute_chars:
            return text
        self.is_cut = True
        return fit(shown, self._max_attribute_chars)

    def _add_hash(self, field: str, text: str) -> None:
        digest = self._hasher.hash(field, text) if text else None
        if digest is not None:
            self.found[_HASHES[field]] = digest


def _told(messages: Sequence[Mapping[str, Any]], *, system: bool) -> str:
    """What is hashed of messages: a line `role: text` each; tool calls, which have ids of their own, are left out."""
    lines = []
    for message in messages:
        role = message["role"]
        if (role in _SYSTEM) is system:
            texts = [part.get("content") or part.get("response") or "" for part in message["parts"]]
            lines.append(f"{role}: {texts[0] if len(texts) == 1 else ''.join(map(str, texts))}")
    return "\n".join(lines)


def _size(part: Mapping[str, Any]) -> int:
    text = part.get("content") or part.get("response")
    return len(text) if isinstance(text, str) else 64


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else f"{text[:max_chars]}…[{len(text) - max_chars} more characters]"


def _json(value: Any, *, canonical: bool = False) -> str:
    return json.dumps(
        value, ensure_ascii=False, sort_keys=canonical, separators=(",", ":") if canonical else None
    )
