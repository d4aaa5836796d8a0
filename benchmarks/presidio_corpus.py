"""Microsoft Presidio on `tests/privacy_corpus.py`: as installed, and with more of the recognisers it ships.

Run from the root of the repository, in an environment of its own:

    python -m venv /tmp/presidio-venv && /tmp/presidio-venv/bin/pip install presidio-analyzer faker
    /tmp/presidio-venv/bin/python -m benchmarks.presidio_corpus

No trained spaCy model is needed: a blank English pipeline stands in for it. What only a model finds (names, places)
is not compared; context words are looked up as written, not by their lemma; and Presidio is faster than with a model.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Final

import spacy
import tldextract
from presidio_analyzer import AnalyzerEngine, EntityRecognizer, RecognizerRegistry, predefined_recognizers
from presidio_analyzer.nlp_engine import SpacyNlpEngine
from tests.privacy_corpus import Labelled, Score, Span, corpus, score, table

_TYPES: Final = {  # entities that are not here (URL, DATE_TIME, UUID, PERSON, US_BANK_NUMBER, …) are left out
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "MAC_ADDRESS": "mac",
    "US_SSN": "national_id",
    "US_ITIN": "national_id",
    "UK_NHS": "national_id",
    "UK_NINO": "national_id",
    "ES_NIF": "national_id",
    "ES_NIE": "national_id",
    "IT_FISCAL_CODE": "national_id",
    "PL_PESEL": "national_id",
    "IN_AADHAAR": "national_id",
    "KR_RRN": "national_id",
    "KR_FRN": "national_id",
    "KR_BRN": "national_id",
    "DE_TAX_ID": "national_id",
}
_SHIPPED_BUT_OFF: Final = (
    "UkNinoRecognizer",
    "EsNifRecognizer",
    "EsNieRecognizer",
    "ItFiscalCodeRecognizer",
    "PlPeselRecognizer",
    "InAadhaarRecognizer",
    "KrRrnRecognizer",
    "KrFrnRecognizer",
    "KrBrnRecognizer",
    "DeTaxIdRecognizer",
)


class _BlankEngine(SpacyNlpEngine):
    def load(self) -> None:
        self.nlp = {"en": spacy.blank("en")}


def main() -> None:
    logging.getLogger("presidio-analyzer").setLevel(logging.ERROR)
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(
        suffix_list_urls=()
    )  # else a download at the first e-mail
    sentences = corpus()
    print(
        f"presidio-analyzer {version('presidio-analyzer')}, spaCy {version('spacy')}, blank English pipeline,"
    )
    print(f"{len(sentences)} sentences, Korean ones analysed as English\n")
    for title, engine, threshold in (
        ("as installed", _engine(), 0.0),
        ("as installed, scores from 0.4", _engine(), 0.4),
        (
            "with its recognisers of ten national ids, phones of KR/US/GB/DE/FR, scores from 0.4",
            _configured(),
            0.4,
        ),
    ):
        _report(title, engine, sentences, threshold=threshold)


def _report(title: str, engine: AnalyzerEngine, sentences: Sequence[Labelled], *, threshold: float) -> None:
    engine.analyze("warm up", language="en")
    start_s = time.perf_counter()
    found = {
        sentence.text: engine.analyze(sentence.text, language="en", score_threshold=threshold)
        for sentence in sentences
    }
    took_s = time.perf_counter() - start_s

    def mapped(text: str) -> list[Span]:
        kinds = ((result, _TYPES.get(result.entity_type)) for result in found[text])
        return _without_repeats((result.start, result.end, kind) for result, kind in kinds if kind)

    def anything(text: str) -> list[Span]:
        return [(result.start, result.end, result.entity_type) for result in found[text]]

    scores = score(sentences, mapped)
    print(f"## {title}: {took_s / len(sentences) * 1000:.2f} s per 1,000 sentences\n")
    print(table(scores))
    print(
        "\nRecall where an entity of any kind hides a value: "
        + _recalls(score(sentences, anything), scores)
        + "\n"
    )


def _recalls(scores: dict[str, Score], kinds: Iterable[str]) -> str:
    return ", ".join(f"{kind} {scores[kind].recall:.3f}" for kind in kinds)


def _without_repeats(spans: Iterable[Span]) -> list[Span]:
    """Two recognisers of our one type may find the same value: that is one finding."""
    kept: list[Span] = []
    for span in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not any(one[2] == span[2] and one[0] <= span[0] and span[1] <= one[1] for one in kept):
            kept.append(span)
    return kept


def _engine(extra: Iterable[EntityRecognizer] = (), *, without: str | None = None) -> AnalyzerEngine:
    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    if without:
        registry.remove_recognizer(without)
    for recognizer in extra:
        registry.add_recognizer(recognizer)
    engine = _BlankEngine()
    engine.load()
    return AnalyzerEngine(registry=registry, nlp_engine=engine, supported_languages=["en"])


def _configured() -> AnalyzerEngine:
    national = [getattr(predefined_recognizers, name)(supported_language="en") for name in _SHIPPED_BUT_OFF]
    regions = ("KR", "US", "GB", "DE", "FR")
    phones = predefined_recognizers.PhoneRecognizer(supported_regions=regions)
    return _engine([*national, phones], without="PhoneRecognizer")


if __name__ == "__main__":
    main()
