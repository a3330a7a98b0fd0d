"""Word search against every labelling of the frames and every word sequence that spells it."""

import itertools

import numpy as np
import pytest

from gradalign.word_search import WordTree, best_words

# Word 0 has two pronunciations, word 1 repeats a label, word 2 is one label, word 3 goes on where word 0 ends.
WORDS = [[(1, 2), (2, 3)], [(1, 1)], [(3,)], [(1, 2, 3)]]


def log_softmax(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def collapse(labelling):
    return tuple(label for label, _ in itertools.groupby(labelling) if label > 0)


def every_word_sequence(log_probs, words, penalty):
    """Score of each word sequence by its pronunciation: the best over all labellings of the frames."""
    best_of = {}
    for labelling in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        score = log_probs[np.arange(len(log_probs)), list(labelling)].sum()
        labels = collapse(labelling)
        best_of[labels] = max(score, best_of.get(labels, -np.inf))
    found = {}
    for n in range(len(log_probs) + 1):
        for sequence in itertools.product(range(len(words)), repeat=n):
            for ways in itertools.product(*(words[word] for word in sequence)):
                labels = tuple(itertools.chain(*ways))
                if labels in best_of:
                    found.setdefault(sequence, {})[labels] = best_of[labels] - n * penalty
    return found


def assert_best(found, every, beam):
    """The best scores in order, each that of its words; sequences that spell the same labels may change places."""
    scores = sorted((max(ways.values()) for ways in every.values()), reverse=True)
    np.testing.assert_allclose([path.score for path in found], scores[:beam], rtol=1e-9)
    np.testing.assert_allclose([every[path.words][path.labels] for path in found], scores[:beam], rtol=1e-9)
    assert len({path.words for path in found}) == len(found)


@pytest.mark.parametrize("penalty", [0.0, 1.5, -1.0])
@pytest.mark.parametrize("beam", [1, 3, 500])
@pytest.mark.parametrize("seed", range(6))
def test_the_best_word_sequences_are_those_of_brute_force(seed, beam, penalty):
    log_probs = log_softmax(np.random.default_rng(seed).normal(scale=2.0, size=(6, 4)))
    found = best_words(log_probs, WordTree.from_pronunciations(WORDS), beam=beam, word_penalty=penalty)
    assert_best(found, every_word_sequence(log_probs, WORDS, penalty), beam)


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_few_frames_hold_few_words(frames, rng):
    log_probs = log_softmax(rng.normal(size=(frames, 4)))
    found = best_words(log_probs, WordTree.from_pronunciations(WORDS), beam=50)
    assert_best(found, every_word_sequence(log_probs, WORDS, 0.0), 50)
    assert any(path.words == () for path in found)


def test_the_same_label_at_a_word_boundary_needs_a_blank():
    tree = WordTree.from_pronunciations([[(1, 2)], [(2, 1)]])
    seen = log_softmax(20.0 * np.eye(3)[[1, 2, 2, 1]])
    assert best_words(seen, tree)[0].score < -10
    seen = log_softmax(20.0 * np.eye(3)[[1, 2, 0, 2, 1]])
    (found,) = best_words(seen, tree)
    assert found.words == (0, 1)
    assert found.score > -1e-6


def test_dropping_nodes_loses_nothing_where_the_posteriors_are_sure(rng):
    words = [[tuple(way)] for way in itertools.product((1, 2, 3, 4), repeat=4)]
    frames = np.repeat([0, 1, 2, 0, 2, 4, 0, 3, 1, 3, 1, 0], 2)
    log_probs = log_softmax(8.0 * np.eye(5)[frames] + rng.normal(size=(len(frames), 5)))
    tree = WordTree.from_pronunciations(words)
    exact, pruned = best_words(log_probs, tree), best_words(log_probs, tree, max_nodes=20)
    assert exact == pruned
    assert [words[word][0] for word in exact[0].words] == [(1, 2, 2, 4), (3, 1, 3, 1)]


def test_of_words_that_sound_alike_the_earlier_variant_then_the_earlier_word_is_taken():
    tree = WordTree.from_pronunciations([[(1,), (2,)], [(2,)], [(2,)], [()]])
    assert {tree.labels_to(node): int(tree.word[node]) for node in range(3)} == {(): -1, (1,): 0, (2,): 1}


def test_words_share_the_nodes_of_their_beginnings():
    tree = WordTree.from_pronunciations(WORDS)
    assert len(tree.label) == 1 + len({way[:n] for way in itertools.chain(*WORDS) for n in range(1, len(way) + 1)})
    ends = {tree.labels_to(node): int(tree.word[node]) for node in np.flatnonzero(tree.word >= 0)}
    assert ends == {way: word for word, ways in enumerate(WORDS) for way in ways}


def test_no_words_at_all_leave_silence():
    log_probs = log_softmax(np.zeros((3, 4)))
    (found,) = best_words(log_probs, WordTree.from_pronunciations([]))
    assert (found.words, found.labels) == ((), ())
    np.testing.assert_allclose(found.score, 3 * np.log(0.25))
