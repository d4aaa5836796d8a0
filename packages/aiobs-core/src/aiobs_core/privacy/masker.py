"""`Masker`: replaces what the detectors of a policy find, in text and in JSON values."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from aiobs_core.privacy._json import json_in
from aiobs_core.privacy.custom import custom_finder, named_entity_finders
from aiobs_core.privacy.detectors import Find, Span, built_in, is_secret_name
from aiobs_core.privacy.detectors._search import TAG, forget_places, long_tokens
from aiobs_core.privacy.fold import View, base64_text, views
from aiobs_core.privacy.hashing import Hasher
from aiobs_core.privacy.policy import SECRETS, Policy, Replacement

_SIGNS: Final = re.compile(r"[/_\-]")
_SHOWN: Final = re.compile(r"[\w.+@:/\-]+\Z")  # of a value, within a tag
_EAST_ASIAN: Final = re.compile(r"[\u2e80-\ufdff]")  # written without spaces
_ENCODED: Final = "encoded"
_MAX_ROUNDS: Final = 4
_MARGIN_CHARS: Final = 1_024  # beyond the limit: longer than any value that has spaces in it
_MIN_BASE64: Final = 16
_MAX_REMEMBERED: Final = 4_096
_REMEMBERED_CHARS: Final = 128
_NAME_KEYS: Final = ("name", "key")  # beside "value"
_MAX_DEPTH: Final = 32
_MIN_DIGITS: Final = 9
_MAX_INT: Final = 10**40
_MAX_TAG: Final = 64
_MIN_HASHED: Final = 12  # of a value whose first four characters may be shown
_WINDOW_CHARS: Final = 4_096  # around the border of two parts: a private key is longer than other values

Count = Callable[[str], None]
"""Told the name of the detector for each value that was replaced."""


class Found(NamedTuple):
    """A value in a text, by the detector that found it."""

    start: int
    end: int
    detector: str
    value: str


def count_nothing(_: str) -> None:
    """For those who need no counts."""


class Masker:
    """Finds and replaces values under one policy and one key. For use by one thread at a time.

    Total: never raises, whatever the text. Idempotent: what it returns has nothing left to find. Linear in the length.

    Example:
        >>> from aiobs_core.privacy.hashing import NO_KEYS
        >>> from aiobs_core.privacy.policy import PRESETS
        >>> Masker(PRESETS["strict"], Hasher(NO_KEYS)).text("Write to jane@example.com")
        'Write to <EMAIL>'
    """

    def __init__(self, policy: Policy, hasher: Hasher) -> None:
        self.policy = policy
        self._hasher = hasher
        self._replacements: dict[str, Replacement] = {
            name: how for name, how in policy.detectors.items() if how != "off"
        }
        known = {**built_in(policy.regions), **named_entity_finders(self._replacements)}
        finders = {name: find for name, find in known.items() if name in self._replacements}
        for custom in policy.custom:
            if custom.replacement != "off":
                finders[custom.name] = custom_finder(custom)
                self._replacements[custom.name] = custom.replacement
        self._finders: Sequence[tuple[str, Find]] = tuple(finders.items())
        self._decodes = any(name in SECRETS or name == "email" for name in finders)
        self._masks_secrets = "credential" in finders
        # Short texts in which nothing was found: names of models, tools, classes.
        self.clean: dict[str, None] = {}

    # --- text -------------------------------------------------------------------------------------------------------

    @property
    def masks_secrets(self) -> bool:
        """Whether credentials are looked for: a policy without that lets everything out on purpose."""
        return self._masks_secrets

    def text(self, text: str, count: Count = count_nothing, *, max_chars: int | None = None) -> str:
        """The text with every value replaced, and cut to `max_chars` so that no part of a value is left at the cut."""
        if max_chars is not None and len(text) > max_chars:
            return self._cut(text, count, max_chars)
        if text in self.clean:
            return text
        masked = self._masked(text, count)
        if masked == text and len(text) <= _REMEMBERED_CHARS:
            if len(self.clean) >= _MAX_REMEMBERED:
                self.clean.clear()
            self.clean[text] = None
        return masked

    def _cut(self, text: str, count: Count, max_chars: int) -> str:
        head = text[: max_chars + _MARGIN_CHARS]
        if len(head) < len(text):
            head = head[: _last_border(head)]  # the word at the cut may be half of a value
        found = self.find(head)
        end = min(max_chars, len(head))
        within = [each for each in found if each.start < end]
        if within:
            end = max(end, within[-1].end)  # what begins before the cut is replaced as a whole
        masked = self._masked(self._replaced(head[:end], within, count), count)[:max_chars]
        begin = masked.rfind("<", max(0, len(masked) - _MAX_TAG))
        if begin >= 0 and ">" not in masked[begin:]:  # half of a tag
            masked = masked[:begin]
        return f"{masked}…[{len(text) - len(masked)} more characters]"

    def _masked(self, text: str, count: Count) -> str:
        parsed = json_in(text)
        if parsed is not None:
            masked = self.value(parsed, count)
            return text if masked == parsed else json.dumps(masked, ensure_ascii=False)
        for _ in range(_MAX_ROUNDS):  # a replacement may bring together what was apart
            found = self.find(text)
            if not found:
                return text
            text = self._replaced(text, found, count)
        return "".join(TAG.findall(text)) if self.find(text) else text

    def _replaced(self, text: str, found: Sequence[Found], count: Count) -> str:
        parts: list[str] = []
        at = 0
        for each in found:
            parts.append(text[at : each.start])
            parts.append(self._replacement(each))
            count(each.detector)
            at = each.end
        parts.append(text[at:])
        return "".join(parts)

    def _replacement(self, found: Found) -> str:
        how = self._replacements.get(found.detector, "tag")
        if how == "drop":
            return ""
        name, value = found.detector.upper(), found.value
        if how == "partial":
            return _partial(name, value)
        if how not in {"pseudonym", "prefix_hash"}:
            return f"<{name}>"
        pseudonym = self._hasher.pseudonym(found.detector, value)
        if pseudonym is None:
            return f"<{name}>"
        if how == "prefix_hash" and len(value) >= _MIN_HASHED:
            shown = self._hasher.prefix_hash(found.detector, value)
            if shown is not None and _SHOWN.match(shown[: -len(pseudonym) - 1]):
                return f"<{name} {shown}>"
        return f"<{name}:{pseudonym}>"

    # --- finding ----------------------------------------------------------------------------------------------------

    def find(self, text: str) -> list[Found]:
        """Every value in the text, from left to right, without overlaps: of two, what both cover goes to the first rule."""
        found: list[Found] = []
        for view in views(text):
            for name, span in self._search(view):
                start, end = view.span(span.start, span.end)
                if start < end:
                    found.append(Found(start, end, name, span.value))
        forget_places()
        return _apart(found, text) if found else found

    def _search(self, view: View) -> Iterator[tuple[str, Span]]:
        for name, find in self._finders:
            for span in find(view.text):
                yield name, span
        if self._decodes:
            yield from self._search_base64(view.text)

    def _search_base64(self, text: str) -> Iterator[tuple[str, Span]]:
        """Tokens that are base64 of a text with a value in it; if a path is around one, only its own segment."""
        for start, end in long_tokens(text):
            last = end
            while last - end < 2 and text[last : last + 1] == "=":
                last += 1
            if self._hides_value(text[start:end]):
                yield _ENCODED, Span(start, last, text[start:last])
                continue
            at = start
            for piece in _SIGNS.split(text[start:end]):
                if _MIN_BASE64 <= len(piece) < end - start and self._hides_value(piece):
                    until = last if at + len(piece) == end else at + len(piece)
                    yield _ENCODED, Span(at, until, text[at:until])
                at += len(piece) + 1

    def _hides_value(self, token: str) -> bool:
        inner = base64_text(token)
        return inner is not None and any(
            True for view in views(inner) for _, find in self._finders for _ in find(view.text)
        )

    def names_secret(self, name: str) -> bool:
        """Whether a key, header or attribute of that name holds a secret, whatever it looks like."""
        return self._masks_secrets and is_secret_name(name)

    # --- JSON values ------------------------------------------------------------------------------------------------

    def value(self, value: Any, count: Count = count_nothing, *, max_chars: int | None = None) -> Any:
        """A JSON value with the values in its texts, keys and long numbers replaced, and all under keys of secrets."""
        return self._value(value, count, max_chars, 0)

    def _value(self, value: Any, count: Count, max_chars: int | None, depth: int) -> Any:
        if isinstance(value, str):
            return self.text(value, count, max_chars=max_chars)
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float)):
            return self._number(value, "", count)
        if depth >= _MAX_DEPTH:
            return "<TOO_DEEP>"
        if isinstance(value, Mapping):
            masked: dict[str, Any] = {}
            alike: dict[str, int] = {}
            is_named = any(
                isinstance(each := value.get(name), str) and self.names_secret(each) for name in _NAME_KEYS
            )
            for key, item in value.items():
                name = tag = self.text(str(key), count)
                while name in masked:  # two keys that are masked alike
                    alike[tag] = alike.get(tag, 1) + 1
                    name = f"{tag}_{alike[tag]}"
                is_secret = (
                    self.names_secret(str(key)) or self.names_secret(tag) or (key == "value" and is_named)
                )
                masked[name] = self._item(tag, item, count, max_chars, depth, is_secret=is_secret)
            return masked
        if isinstance(value, (list, tuple)):
            if len(value) == 2 and isinstance(value[0], str) and self.names_secret(value[0]):  # a header
                return [value[0], self._all_secret(value[1], count, depth)]
            return [self._value(item, count, max_chars, depth + 1) for item in value]
        return f"<{type(value).__name__}>"

    def _item(
        self, key: str, item: Any, count: Count, max_chars: int | None, depth: int, *, is_secret: bool
    ) -> Any:
        """The value under a key, which may say what it is."""
        if is_secret:
            return self._all_secret(item, count, depth)
        if isinstance(item, (int, float)) and not isinstance(item, bool):
            return self._number(item, key, count)
        masked = self._value(item, count, max_chars, depth + 1)
        return self._in_context(key, masked, count) if isinstance(item, str) else masked

    def _in_context(self, key: str, text: str, count: Count) -> str:
        """A text without the values that only the key before it gives away."""
        for _ in range(_MAX_ROUNDS):
            if not 7 <= len(text) <= 64:
                return text
            named = _named(key, text)
            offset = len(named) - len(text)
            found = [
                each._replace(start=each.start - offset, end=each.end - offset)
                for each in self.find(named)
                if each.start >= offset
            ]
            if not found:
                return text
            text = self.text(self._replaced(text, found, count), count)
        return "".join(TAG.findall(text))

    def _all_secret(self, item: Any, count: Count, depth: int) -> Any:
        """What stands under the name of a secret, however it is nested."""
        if depth < _MAX_DEPTH and isinstance(item, Mapping):
            if "type" in item:  # a JSON schema, which only describes the secret
                return self._value(item, count, None, depth + 1)
            return {
                self.text(str(key), count): self._all_secret(value, count, depth + 1)
                for key, value in item.items()
            }
        if depth < _MAX_DEPTH and isinstance(item, (list, tuple)):
            return [self._all_secret(each, count, depth + 1) for each in item]
        return self._secret(item, count)

    def _secret(self, item: Any, count: Count) -> Any:
        if (
            item is None
            or isinstance(item, bool)
            or item == ""
            or (isinstance(item, str) and TAG.fullmatch(item))
        ):
            return item
        count("credential")
        return self._replacement(Found(0, 0, "credential", str(item)))

    def _number(self, number: float, key: str, count: Count) -> Any:
        """A number, or what replaces it: spreadsheets make floats of card numbers."""
        if not isinstance(number, int):
            if not 10**_MIN_DIGITS <= abs(number) < 2**53 or number != int(number):
                return number
            digits = str(int(number))
        elif abs(number) >= _MAX_INT:
            return f"<{number.bit_length()} bits>" if abs(number) >= _MAX_INT**100 else number
        else:
            digits = str(number)
        if len(digits) < _MIN_DIGITS:
            return number
        named = _named(key, digits)
        for found in self.find(named):
            if found.end > len(named) - len(digits):
                count(found.detector)
                return self._replacement(found)
        return number

    def parts(
        self, texts: Sequence[str], count: Count = count_nothing, *, max_chars: int | None = None
    ) -> list[str]:
        """The parts of one message, masked so that no value is left that begins in one part and ends in another."""
        if len(texts) > 1:
            texts = self._across(texts, count, _WINDOW_CHARS)
        masked = [self.text(text, count, max_chars=max_chars) for text in texts]
        return self._across(masked, count, _WINDOW_CHARS // 8) if len(masked) > 1 else masked

    def _across(self, texts: Sequence[str], count: Count, reach: int) -> list[str]:
        """Replaces values that lie across borders of texts, as far as they are within reach of one."""
        edits: list[tuple[int, int, int, str]] = []  # text, start, end, what stands there instead
        group: list[_Stretch] = []
        for at, text in enumerate(texts):
            if len(text) <= 2 * reach:
                group.append(_Stretch(at, 0, text))
                continue
            edits.extend(self._edits([*group, _Stretch(at, 0, text[:reach])], count))
            group = [_Stretch(at, len(text) - reach, text[-reach:])]
        edits.extend(self._edits(group, count))
        changed = list(texts)
        for at, start, end, replacement in sorted(edits, reverse=True):
            changed[at] = changed[at][:start] + replacement + changed[at][end:]
        return changed

    def _edits(self, group: Sequence[_Stretch], count: Count) -> Iterator[tuple[int, int, int, str]]:
        """What to change in stretches that follow one another, for values that begin in one and end in another."""
        for found in self.find("".join([each.text for each in group])) if len(group) > 1 else ():
            border = 0
            for each in group:
                low, high = max(found.start, border), min(found.end, border + len(each.text))
                begins, offset = found.start >= border, each.offset - border
                border += len(each.text)
                if low >= high:
                    continue
                if begins and found.end <= border:
                    break  # all of it in one text
                if begins:
                    count(found.detector)
                yield each.at, low + offset, high + offset, self._replacement(found) if begins else ""


class _Stretch(NamedTuple):
    """Part of one of several texts."""

    at: int
    offset: int
    text: str


def _apart(found: Iterable[Found], text: str) -> list[Found]:
    """Findings without overlaps and without those inside tags that are there already."""
    tags = [match.span() for match in TAG.finditer(text)] if "<" in text else []
    kept: list[Found] = []
    for each in sorted(found, key=lambda each: (each.start, -each.end)):
        tag = tags[bisect_right(tags, (each.start, len(text))) - 1] if tags else (0, 0)
        if tag[0] <= each.start and each.end <= tag[1]:
            continue
        if kept and each.start < kept[-1].end:
            if each.end > kept[-1].end:  # together they cover more than the first rule's value
                kept[-1] = kept[-1]._replace(end=each.end)
            continue
        kept.append(each)
    return kept


def _named(key: str, value: str) -> str:
    """A value with its key as the words before it; what a tag is called is no word."""
    return f"{TAG.sub('<>', key).replace('_', ' ')}: {value}"


def _last_border(text: str) -> int:
    """Where the last word of a text begins; languages that are written without spaces have one at each character."""
    end = len(text)
    while end > 0 and not text[end - 1].isspace() and not _EAST_ASIAN.match(text, end - 1):
        end -= 1
    return end


def _partial(name: str, value: str) -> str:
    """The last two characters of what is long enough to stay unknown: `<CARD …42>`."""
    return f"<{name} …{value[-2:]}>" if len(value) >= 10 and _SHOWN.match(value[-2:]) else f"<{name}>"
