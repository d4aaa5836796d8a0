"""What a policy would mask in a text: the text with replacements, and what was found on which lines."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from aiobs_core.privacy.masker import Masker


class Finding(NamedTuple):
    """What one detector found; never the values themselves.

    Attributes:
        detector: Its name.
        value_count: How many values were replaced.
        replacement: What the policy puts in their place.
        lines: Numbers of the lines on which they begin, from 1 on.
    """

    detector: str
    value_count: int
    replacement: str
    lines: Sequence[int]


def tried(masker: Masker, text: str) -> tuple[str, list[Finding]]:
    """What a policy would make of a text.

    JSON documents and paragraphs are masked each for itself, as texts of their own are in the process.

    Args:
        masker: Has the policy.
        text: Of any length.

    Returns:
        The text with its values replaced, and what was found, by detector, the most frequent first.
    """
    counts: Counter[str] = Counter()
    lines: dict[str, set[int]] = defaultdict(set)
    parts: list[str] = []
    for first, part in _parts(text):
        bare = part.rstrip("\r\n")  # JSON is known by its last character
        found: list[str] = []
        parts += [masker.text(bare, found.append), part[len(bare) :]]
        counts.update(found)
        for each in masker.find(bare):
            lines[each.detector].add(first + bare.count("\n", 0, each.start))
        for name in found:
            if not lines[name]:  # under the key of a secret in JSON: only the part is known
                lines[name].add(first)
    custom = {each.name: each.replacement for each in masker.policy.custom}
    hows: dict[str, str] = {**masker.policy.detectors, **custom}
    return "".join(parts), [
        Finding(name, count, hows.get(name, "tag"), sorted(lines[name]))
        for name, count in counts.most_common()
    ]


def _parts(text: str) -> Iterator[tuple[int, str]]:
    """Parts that are masked each for itself, with the number of their first line: JSON documents and paragraphs."""
    if _is_json(text):
        yield 1, text
        return
    first, block = 1, ""
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        is_alone = _is_json(line)
        is_end = not line.strip() and "PRIVATE KEY" not in block  # a key may have an empty line in it
        if block and is_alone:
            yield first, block
            block = ""
        first = first if block else number
        block += line
        if is_alone or is_end:
            yield first, block
            block = ""
    if block:
        yield first, block


def _is_json(text: str) -> bool:
    bare = text.strip()
    if not (bare[:1] in {"{", "["} and bare[-1:] in {"}", "]"}):
        return False
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True
