"""Detectors that a policy adds: patterns and words of the user's own, and names and places by Presidio."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from aiobs_core.privacy.detectors import Find, Span

if TYPE_CHECKING:
    from aiobs_core.privacy.policy import CustomDetector

# Not \w: Korean particles are attached to a word, and no part of it.
_LATIN: Final = r"[A-Za-z0-9_\u00c0-\u024f]"
_WORD: Final = re.compile(f"{_LATIN}+")
_ENTITIES: Final = {"person": "PERSON", "location": "LOCATION"}


def custom_finder(detector: CustomDetector) -> Find:
    """Finds what a detector of the user's own describes: first by its pattern, then by its words."""
    pattern = None if detector.regex is None else re.compile(detector.regex)
    in_words = _word_finder(detector.words)

    def find(text: str) -> Iterator[Span]:
        if pattern is not None:
            for match in pattern.finditer(text):
                if match[0]:
                    yield Span(match.start(), match.end(), match[0])
        yield from in_words(text)

    return find


def _word_finder(words: Sequence[str]) -> Find:
    """Finds words and phrases: those of ASCII by their first word, others, which have particles attached, anywhere."""
    by_first: dict[str, list[re.Pattern[str]]] = defaultdict(list)
    by_start: dict[str, list[str]] = defaultdict(list)
    for word in words:
        first = _WORD.match(word)
        if word.isascii() and first is not None:
            phrase = r"\s+".join(map(re.escape, word.split()))
            by_first[first[0].lower()].append(re.compile(f"{phrase}(?!{_LATIN})", re.IGNORECASE))
        else:
            by_start[word[0]].append(word)

    starts = re.compile(f"[{''.join(map(re.escape, by_start))}]" if by_start else "(?!)")

    def find(text: str) -> Iterator[Span]:
        if by_first:
            for match in _WORD.finditer(text):
                for pattern in by_first.get(match[0].lower(), ()):
                    if (whole := pattern.match(text, match.start())) is not None:
                        yield Span(whole.start(), whole.end(), whole[0].lower())
        if by_start and not by_start.keys().isdisjoint(text):
            for match in starts.finditer(text):
                for word in by_start[match[0]]:
                    if text.startswith(word, match.start()):
                        yield Span(match.start(), match.start() + len(word), word)

    return find


def named_entity_finders(wanted: Container[str]) -> dict[str, Find]:
    """Finders of names and places by Microsoft's Presidio (`aiobs-core[presidio]`), if the policy wants any.

    Args:
        wanted: Names of the detectors that are on.

    Raises:
        ImportError: If one is wanted and Presidio is not installed.
        OSError: If its language model is not.
    """
    names = [name for name in _ENTITIES if name in wanted]
    if not names:
        return {}
    from presidio_analyzer import AnalyzerEngine  # type: ignore[import-not-found]  # an extra

    engine: Any = AnalyzerEngine()
    return {name: _entity_finder(engine, _ENTITIES[name]) for name in names}


def _entity_finder(engine: Any, entity: str) -> Find:
    def find(text: str) -> Iterator[Span]:
        for result in engine.analyze(text=text, entities=[entity], language="en"):
            yield Span(result.start, result.end, text[result.start : result.end])

    return find
