"""The words that CTC log-probabilities spell: token passing through a tree of pronunciations. NumPy alone, no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


@dataclass(frozen=True, slots=True)
class WordTree:
    """Pronunciations that begin alike share their first nodes. Node 0 is the root, where words begin.

    Attributes:
        label: Label id of each node, > 0; 0 for the root.
        parent: Node before it; 0 for first labels and the root itself.
        word: Index of the word that ends there, -1 for none.
    """

    label: Int[np.ndarray, " nodes"]
    parent: Int[np.ndarray, " nodes"]
    word: Int[np.ndarray, " nodes"]

    @classmethod
    def from_pronunciations(cls, words: Sequence[Sequence[Sequence[int]]]) -> "WordTree":
        """The tree of some words; a pronunciation without labels is left out.

        Of words that sound alike one is taken: that of which it is the earlier variant, else the earlier word.

        Args:
            words: For each word its pronunciations, each a sequence of label ids > 0.
        """
        label, parent, word = [0], [0], [-1]
        children: dict[tuple[int, int], int] = {}
        ways = [(rank, index, way) for index, variants in enumerate(words) for rank, way in enumerate(variants)]
        for _, index, way in sorted(ways, key=lambda one: one[:2]):
            node = 0
            for one in way:
                if (node, one) not in children:
                    children[node, one] = len(label)
                    label.append(one)
                    parent.append(node)
                    word.append(-1)
                node = children[node, one]
            if node and word[node] < 0:
                word[node] = index
        return cls(*(np.array(column, np.int64) for column in (label, parent, word)))

    def labels_to(self, node: int | np.integer) -> tuple[int, ...]:
        """Labels on the way from the root to a node."""
        found = []
        while node:
            found.append(int(self.label[node]))
            node = self.parent[node]
        return tuple(reversed(found))


@dataclass(frozen=True, slots=True)
class WordPath:
    """A word sequence and its best labelling of the frames.

    Attributes:
        words: Indices of the words; may be empty.
        labels: Label ids of the pronunciations that were taken.
        score: Log-probability of the labelling less the penalties of the words.
    """

    words: tuple[int, ...]
    labels: tuple[int, ...]
    score: float


def best_words(
    log_probs: Float[np.ndarray, "frames vocabulary"],
    tree: WordTree,
    *,
    beam: int = 1,
    word_penalty: float = 0.0,
    max_nodes: int = 10_000,
) -> list[WordPath]:
    """The word sequences whose best labelling of the frames scores highest, best first; at least one.

    A labelling gives each frame a label or blank and spells the words as under CTC: equal labels
    side by side count once, blanks may stand anywhere, and the same label twice needs a blank between.
    Every node of the tree holds the ``beam`` best ways to it that differ in the words before, so that
    the result is exact as long as no node is dropped.

    Args:
        log_probs: Finite log-probabilities of the CTC head; column 0 is blank.
        tree: The words, any number of times in any order.
        beam: How many word sequences to find at most, >= 1.
        word_penalty: Subtracted for each word.
        max_nodes: Nodes kept at each frame, >= 1; the others are dropped, those as good as the last one are not.

    References:
        Young, Russell and Thornton 1989, "Token passing: a simple conceptual model for connected speech
        recognition systems", CUED/F-INFENG/TR38; Graves et al. 2006, "Connectionist temporal
        classification" (the labelling).
    """
    log_probs = np.asarray(log_probs, np.float64)
    n_labels = log_probs.shape[1]
    traces = _Traces(1 + len(log_probs) * n_labels * beam)
    in_label, in_blank = (_nobody(len(tree.label), beam) for _ in range(2))
    # Between words: one has just ended with a label, or the last frame is blank.
    ended, paused = _nobody(n_labels, beam), _nobody(1, beam)
    paused.score[0, 0] = 0.0
    active = np.zeros(len(tree.label), bool)
    for row in log_probs:
        active[0] = True
        at = np.flatnonzero(active | active[tree.parent])[1:]
        label, parent = tree.label[at], tree.parent[at]
        here, entered, waited = in_label.at(at), in_label.at(parent), in_blank.at(parent)
        entered.score[tree.label[parent] == label] = -np.inf
        beginning, first = _beginning(ended, paused, traces), parent == 0
        waited.score[first], waited.trace[first] = beginning.score[label[first]], beginning.trace[label[first]]
        said = _best(traces, here, entered, waited).plus(row[label][:, None])
        silent = _best(traces, here, in_blank.at(at)).plus(row[0])
        paused = _best(traces, paused, ended.in_a_row()).plus(row[0])
        ended = _ended(tree, at, said, traces, word_penalty, n_labels)
        best = np.maximum(said.score[:, 0], silent.score[:, 0])
        kept = best > -np.inf
        if kept.sum() > max_nodes:
            kept &= best >= np.partition(best, -max_nodes)[-max_nodes]
        for tokens, new in ((in_label, said), (in_blank, silent)):
            tokens.score[at], tokens.trace[at] = np.where(kept[:, None], new.score, -np.inf), new.trace
        active[at] = kept
    final = _best(traces, paused, ended.in_a_row())
    return [
        traces.path(tree, int(trace), float(score))
        for score, trace in zip(final.score[0], final.trace[0], strict=True)
        if score > -np.inf
    ]


class _Tokens(NamedTuple):
    """Ways to some places, best first: the score of each, and the trace of the words that ended before."""

    score: Float[np.ndarray, "places ways"]
    trace: Int[np.ndarray, "places ways"]

    def at(self, places: np.ndarray) -> "_Tokens":
        return _Tokens(self.score[places], self.trace[places])

    def plus(self, log_prob: np.ndarray | np.floating) -> "_Tokens":
        return _Tokens(self.score + log_prob, self.trace)

    def in_a_row(self) -> "_Tokens":
        return _Tokens(self.score.reshape(1, -1), self.trace.reshape(1, -1))


class _Traces:
    """What was said before: each trace is an earlier one and the node where one more word ended. Trace 0 is empty.

    Traces of the same words, perhaps pronounced or timed differently, have the same number in ``said``.
    """

    def __init__(self, n: int):
        self.before, self.node, self.said = (np.zeros(n, np.int64) for _ in range(3))
        self.n = 1
        self._numbers: dict[tuple[int, int], int] = {}

    def add(self, before: np.ndarray, node: np.ndarray, word: np.ndarray) -> np.ndarray:
        new = np.arange(self.n, self.n + len(before))
        self.n += len(before)
        self.before[new], self.node[new] = before, node
        pairs = zip(self.said[before].tolist(), word.tolist(), strict=True)
        self.said[new] = [self._numbers.setdefault(pair, len(self._numbers) + 1) for pair in pairs]
        return new

    def path(self, tree: WordTree, trace: int, score: float) -> WordPath:
        nodes = []
        while trace:
            nodes.append(int(self.node[trace]))
            trace = int(self.before[trace])
        nodes.reverse()
        labels = tuple(label for node in nodes for label in tree.labels_to(node))
        return WordPath(tuple(int(tree.word[node]) for node in nodes), labels, score)


def _nobody(places: int, ways: int) -> _Tokens:
    return _Tokens(np.full((places, ways), -np.inf), np.zeros((places, ways), np.int64))


def _best(traces: _Traces, *sources: _Tokens) -> _Tokens:
    """At each place the best ways from several sources that differ in what was said; as many as in the first."""
    found = _nobody(*sources[0].score.shape)
    score = np.concatenate([tokens.score for tokens in sources], axis=1)
    trace = np.concatenate([tokens.trace for tokens in sources], axis=1)
    said = traces.said[trace]
    rows = np.arange(len(score))
    for way in range(found.score.shape[1]):
        best = score.argmax(axis=1)
        found.score[:, way], found.trace[:, way] = score[rows, best], trace[rows, best]
        score[said == said[rows, best][:, None]] = -np.inf
    return found


def _beginning(ended: _Tokens, paused: _Tokens, traces: _Traces) -> _Tokens:
    """The ways to the start of a word, for each label it may begin with: the same label twice needs a blank."""
    n, ways = ended.score.shape
    others = np.where(np.eye(n, dtype=bool)[:, :, None], -np.inf, ended.score[None]).reshape(n, n * ways)
    every = np.broadcast_to(ended.trace.reshape(1, -1), others.shape)
    pause = _Tokens(*(np.broadcast_to(part, (n, ways)) for part in paused))
    return _best(traces, pause, _Tokens(others, every))


def _ended(
    tree: WordTree, at: np.ndarray, said: _Tokens, traces: _Traces, word_penalty: float, n_labels: int
) -> _Tokens:
    """The best ways to have just finished a word, by its last label."""
    ways = said.score.shape[1]
    found = _nobody(n_labels, ways)
    rows, columns = np.nonzero((tree.word[at] >= 0)[:, None] & (said.score > -np.inf))
    node, score, before = at[rows], said.score[rows, columns] - word_penalty, said.trace[rows, columns]
    label, word = tree.label[node], tree.word[node]
    order = np.lexsort((-score, label))
    # Two pronunciations of a word after the same words: the first is the better one.
    same = (label * traces.n + traces.said[before]) * (tree.word.max() + 1) + word
    order = order[np.sort(np.unique(same[order], return_index=True)[1])]
    place = np.arange(len(order)) - np.searchsorted(label[order], label[order])
    order, place = order[place < ways], place[place < ways]
    found.score[label[order], place] = score[order]
    found.trace[label[order], place] = traces.add(before[order], node[order], word[order])
    return found
