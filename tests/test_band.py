"""Forced alignment in a moving band: against the whole lattice, and planted paths that it must follow."""

import jax.numpy as jnp
import numpy as np
import pytest

from gradalign.band import ctc_path
from gradalign.errors import AlignmentError
from gradalign.lattice import Topology, spans, viterbi


def whole(log_probs: np.ndarray, ids: np.ndarray) -> np.ndarray:
    scores = jnp.asarray(log_probs[:, ids].T)
    return np.asarray(viterbi(scores, jnp.asarray(log_probs[:, 0]), Topology.ctc(ids)).labels)


def random_log_probs(rng: np.random.Generator, n_frames: int, vocabulary: int = 6) -> np.ndarray:
    logits = 2.0 * rng.normal(size=(n_frames, vocabulary))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


def planted(rng: np.random.Generator, n_labels: int, vocabulary: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities that speak for one path, the ids, and the path; long blanks, fast passages, repeats."""
    ids = rng.integers(1, vocabulary, n_labels).astype(np.int32)
    path = []
    for i in range(n_labels):
        # One frame of blank at least, since neighbours may be equal.
        path += [-1] * int(rng.choice([1, 2, 40], p=[0.7, 0.25, 0.05])) + [i] * int(rng.integers(1, 3))
    path = np.array([*path, -1])
    heard = np.where(path < 0, 0, ids[path])
    logits = 0.5 * rng.normal(size=(len(path), vocabulary)) + 8.0 * (heard[:, None] == np.arange(vocabulary))
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32), ids, path


@pytest.mark.parametrize("block", [1, 7, 64])
@pytest.mark.parametrize("n_labels", [1, 2, 13])
def test_with_all_labels_in_the_band_it_is_the_whole_lattice(rng, n_labels, block):
    for n_frames in (2 * n_labels, 40, 64):
        log_probs = random_log_probs(rng, n_frames)
        ids = rng.integers(1, 6, n_labels).astype(np.int32)
        np.testing.assert_array_equal(ctc_path(log_probs, ids, width=16, block=block), whole(log_probs, ids))


def test_a_narrow_band_follows_a_planted_path(rng):
    log_probs, ids, path = planted(rng, 400)
    found = ctc_path(log_probs, ids, width=48, block=16)
    np.testing.assert_array_equal(found, whole(log_probs, ids))
    true, seen = np.asarray(spans(jnp.asarray(path), 400)), np.asarray(spans(jnp.asarray(found), 400))
    assert np.abs(true - seen).max() <= 2


def test_the_band_is_what_limits_it(rng):
    """A band that is narrower than what is said in a block loses the path, which must not pass for an answer."""
    log_probs, ids, _ = planted(rng, 400)
    with pytest.raises(AlignmentError, match="had only got to label"):
        ctc_path(log_probs, ids, width=8, block=200)


def test_a_transcript_that_is_too_long_is_refused(rng):
    log_probs, _, _ = planted(rng, 60)
    with pytest.raises(AlignmentError, match=r"of 900: the transcript says much more"):
        ctc_path(log_probs, rng.integers(1, 9, 900).astype(np.int32), width=64, block=16)
