"""Confidence: planted weights are found again, and what it says is how often it is right."""

import numpy as np
import pytest

from gradalign.confidence import FACTS, facts, learn, of_words


def test_planted_weights_are_found_and_confidence_is_frequency(rng):
    true = np.array([0.8, 0.0, -1.0, 0.3, 0.0, -0.5, 0.4])
    table = rng.normal(size=(20_000, 6))
    right = rng.random(20_000) < of_words(table, tuple(true))
    found = learn(table, right, decay=0.0)
    np.testing.assert_allclose(found, true, atol=0.08)
    sure = of_words(table, found)
    for low, high in ((0.1, 0.3), (0.5, 0.7), (0.85, 0.95)):
        inside = (sure > low) & (sure < high)
        assert right[inside].mean() == pytest.approx(sure[inside].mean(), abs=0.03)


def test_words_that_can_be_told_apart_give_finite_weights():
    table = np.linspace(-1, 1, 40)[:, None] * np.ones((1, 6))
    found = learn(table, table[:, 0] > 0)
    assert np.isfinite(found).all()
    assert (of_words(table, found)[table[:, 0] > 0.5] > 0.9).all()


def test_all_right_is_no_reason_to_break(rng):
    found = learn(rng.normal(size=(30, 6)), np.ones(30, bool))
    assert np.isfinite(found).all()


def test_facts_of_a_word():
    told = facts(0.5, 1.0, np.array([0.1, 0.3]), np.array([2.0, 0.0]))
    assert len(told) == len(FACTS)
    np.testing.assert_allclose(told, [0.0, np.log(0.999 / 0.001), 0.2, 0.3, 1.0, 2.0], atol=1e-9)
