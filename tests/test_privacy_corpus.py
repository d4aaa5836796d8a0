"""What `strict` finds, and what it takes for something it is not, on the labelled corpus.

The table is printed: `pytest -s tests/test_privacy_corpus.py`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from aiobs_core.privacy.hashing import NO_KEYS, Hasher
from aiobs_core.privacy.masker import Masker
from aiobs_core.privacy.policy import PRESETS

pytest.importorskip(
    "faker",
    reason="The sentences of the corpus are made with faker: `pip install faker`, or all of the group `test` with "
    "`uv sync --group test`.",
)

_TUNED_ON = 4
_NEVER_TUNED_ON = (20_260_731, 515_377)


@pytest.fixture(scope="module")
def labelled() -> ModuleType:
    """`privacy_corpus.py` beside this file, which is in no package."""
    name = "aiobs_privacy_corpus"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("privacy_corpus.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return sys.modules[name]


def _failures(
    labelled: ModuleType, seed: int, *, recall: float, precision: float, recall_encoded: float
) -> list[str]:
    """Types that miss the mark, each with the numbers; and prints the table."""
    sentences = labelled.corpus(seed)
    assert len(sentences) >= 2_000
    masker = Masker(PRESETS["strict"], Hasher(NO_KEYS))
    scores = labelled.score(
        sentences, lambda text: [(found.start, found.end, found.detector) for found in masker.find(text)]
    )
    print(f"\nstrict on {len(sentences)} sentences, seed {seed}\n\n{labelled.table(scores)}")
    assert scores.keys() >= set(labelled.TYPES)
    return [
        f"{kind}: recall {row.recall:.4f}, precision {row.precision:.4f}"
        for kind, row in scores.items()
        if row.recall < (recall_encoded if kind == "encoded" else recall) or row.precision < precision
    ]


def test_strict_finds_each_type_and_little_else(labelled: ModuleType) -> None:
    assert not _failures(labelled, _TUNED_ON, recall=0.99, precision=0.97, recall_encoded=0.9)


@pytest.mark.parametrize("seed", _NEVER_TUNED_ON)
def test_strict_does_as_well_on_sentences_that_nobody_tuned_it_on(labelled: ModuleType, seed: int) -> None:
    assert not _failures(labelled, seed, recall=0.98, precision=0.95, recall_encoded=0.9)


def test_no_labelled_value_is_left_in_the_masked_text(labelled: ModuleType) -> None:
    """The score asks where values are found; this asks what leaves. Values of few characters may occur elsewhere too."""
    masker = Masker(PRESETS["strict"], Hasher(NO_KEYS))
    left, labels = [], 0
    for sentence in labelled.corpus(_TUNED_ON):
        masked = masker.text(sentence.text)
        for start, end, kind in sentence.spans:
            value = sentence.text[start:end]
            labels += 1
            if len(value) >= 6 and value in masked:
                left.append((kind, value))
    assert len(left) <= 0.002 * labels, left


def test_masking_a_sentence_of_the_corpus_again_changes_nothing(labelled: ModuleType) -> None:
    masker = Masker(PRESETS["strict"], Hasher(NO_KEYS))
    masked = [masker.text(sentence.text) for sentence in labelled.corpus(_TUNED_ON)]
    masker.clean.clear()
    assert [masker.text(text) for text in masked] == masked
