"""Pronunciations: the log-probability is that of an independent sum, and a planted preference is followed."""

from itertools import groupby, product

import jax.numpy as jnp
import numpy as np
import pytest

from gradalign.lexicon import Pronunciation
from gradalign.pronunciation import CTC_WEIGHT, chosen_variants, log_probs, with_variants
from gradalign.text import Word
from gradalign.transcript import Transcript


def transcript(*variants: tuple[str, ...]) -> Transcript:
    """Words whose variants are given as strings of one-letter labels."""
    known = tuple(tuple(Pronunciation(tuple(v), "dictionary") for v in one) for one in variants)
    labels = [label for one in known for label in one[0].phones]
    units = [unit for unit, one in enumerate(known) for _ in one[0].phones]
    words = tuple(Word(str(n), 2 * n, 2 * n + 1, (str(n),)) for n in range(len(known)))
    text = " ".join(word.text for word in words)
    return Transcript(text, words, tuple(labels), tuple(units), tuple(units), known)


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(20, 20)).astype(np.float32)


def brute_force(bundle, ids: np.ndarray, features: np.ndarray) -> float:
    """Decoder: one label after the other. CTC: all ways to fill the frames."""
    network = bundle.network
    encoded, valid, _ = network.encode(jnp.asarray(features))
    history, decoder = [0], 0.0
    for label in [*ids.tolist(), 0]:
        by_label, _ = network.decoder(jnp.asarray(history), encoded, valid)
        decoder += float(by_label[-1, label])
        history.append(label)
    ctc = np.asarray(network.ctc_log_probs(encoded))
    total = 0.0
    for path in product({0, *ids.tolist()}, repeat=len(ctc)):
        if [label for label, _ in groupby(path) if label] == ids.tolist():
            total += np.exp(ctc[np.arange(len(ctc)), path].sum())
    return (1 - CTC_WEIGHT) * decoder + CTC_WEIGHT * np.log(total)


def test_log_probs_are_those_of_all_paths(tiny_bundle, features):
    sequences = [np.array(ids, np.int32) for ids in ([1, 2], [2], [3, 3, 1], [1, 2, 3, 1])]
    padded = np.pad(features, ((0, 12), (0, 0)))
    found = log_probs(tiny_bundle, sequences, padded, len(features))
    for ids, score in zip(sequences, found, strict=True):
        assert score == pytest.approx(brute_force(tiny_bundle, ids, features), abs=2e-3)


def test_many_sequences_are_scored_like_few(tiny_bundle, features):
    sequences = [np.array([1 + n % 3, 1 + (n + 1) % 3], np.int32) for n in range(20)]
    found = log_probs(tiny_bundle, sequences, features, len(features))
    np.testing.assert_allclose(found[:3], log_probs(tiny_bundle, sequences[:3], features, len(features)), atol=1e-4)
    np.testing.assert_allclose(found[18:], found[:2], atol=1e-4)


def test_the_more_probable_variant_is_taken_and_the_less_probable_is_not(tiny_bundle, features):
    for word in (("AB", "KK"), ("KK", "AB")):
        said = transcript(word, ("A",))
        first, second = (
            log_probs(tiny_bundle, [tiny_bundle.ids(with_variants(said, {0: k}).labels)], features, len(features))[0]
            for k in (0, 1)
        )
        found = chosen_variants(tiny_bundle, said, features, len(features))
        assert "".join(found.labels) == (word[1] if second > first else word[0]) + "A"


def test_labels_words_and_units_stay_together(tiny_bundle, features):
    said = transcript(("A", "AB"), ("BK", "K"))
    found = with_variants(said, {0: 1, 1: 1})
    assert (found.labels, found.unit_of_label, found.word_of_label) == (("A", "B", "K"), (0, 0, 1), (0, 0, 1))
    assert with_variants(said, {}) == said


def test_a_variant_the_model_cannot_say_is_passed_over(tiny_bundle, features):
    said = transcript(("AB", "A?"))
    assert chosen_variants(tiny_bundle, said, features, len(features)) == said
    units = Transcript.from_units([("x", ["A", "B"])])
    assert chosen_variants(tiny_bundle, units, features, len(features)) is units
