"""From speech to labels or words: greedy and beam search with CTC and attention. No times: see `aligner`.

The search itself, on log-probabilities alone, is in `gradalign.label_search` and `gradalign.word_search`.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gradalign import audio as audio_files
from gradalign.buckets import FRAME_BUCKETS, bucket
from gradalign.bundle import Bundle
from gradalign.cache import by_shape
from gradalign.errors import AlignmentError
from gradalign.features import log_mel_padded
from gradalign.label_search import ctc_greedy, ctc_log_prob, search
from gradalign.lexicon import Lexicon
from gradalign.nn.aed import AED
from gradalign.text import words as words_of
from gradalign.transcript import default_lexicon
from gradalign.word_search import WordTree, best_words

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One label sequence and how good it is.

    Attributes:
        labels: Labels by name.
        log_prob: Joint score, ``(1 - ctc_weight) * log p_att + ctc_weight * log p_ctc``, sentence end included; <= 0.
            Where words were recognised, less their penalties.
        words: What the labels spell, if words were recognised.
    """

    labels: tuple[str, ...]
    log_prob: float
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Recognition:
    """What was said, as far as the model can tell.

    Attributes:
        n_best: Finished hypotheses, at least one and at most as many as the beam is wide, best first.
    """

    n_best: tuple[Hypothesis, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of the best hypothesis; may be empty."""
        return self.n_best[0].labels

    @property
    def log_prob(self) -> float:
        """Joint score of the best hypothesis."""
        return self.n_best[0].log_prob

    @property
    def words(self) -> tuple[str, ...]:
        """Words of the best hypothesis; none if only labels were recognised."""
        return self.n_best[0].words


def recognise(
    bundle: Bundle,
    waveform: Float[np.ndarray, "..."],
    *,
    beam: int = 4,
    ctc_weight: float = 0.3,
    max_labels: int | None = None,
) -> Recognition:
    """The labels that a model hears in a recording, by the joint CTC/attention score.

    The recording is encoded once; the decoder is run anew on the whole history for every label.

    Args:
        bundle: The model.
        waveform: Mono samples in [-1, 1] at ``bundle.features.sample_rate``.
        beam: Hypotheses kept at each length, >= 1; 1 is greedy search. Time grows with it.
        ctc_weight: Share of the CTC score, in [0, 1]; 0 is the decoder alone, 1 the CTC head alone.
        max_labels: Longest hypothesis, >= 0; default one label an encoder frame (CTC allows no more).

    Raises:
        ValueError: If an option is out of range.
        AlignmentError: If the recording is empty, silent, too long, not mono or not finite.

    References:
        Watanabe et al. 2017, "Hybrid CTC/attention architecture for end-to-end speech recognition", section IV-B.
    """
    _check(beam, ctc_weight, max_labels=max_labels)
    graph, state = nnx.split(bundle.network)
    encoded, valid, ctc = _heard(graph, state, features_of(waveform, bundle))

    def next_log_probs(histories: list[tuple[int, ...]]) -> np.ndarray:
        length = len(histories[0])
        # Padded to few shapes, each compiled once; the decoder is causal, so padding changes nothing.
        rows = np.zeros((beam, max(16, 1 << length.bit_length())), np.int32)
        rows[: len(histories), 1 : length + 1] = histories
        return np.asarray(_next_log_probs(graph, state, rows, length, encoded, valid))[: len(histories)]

    found = search(
        ctc,
        next_log_probs,
        beam=beam,
        ctc_weight=ctc_weight,
        max_labels=len(ctc) if max_labels is None else max_labels,
    )
    return Recognition(tuple(Hypothesis(_names(bundle, ids), score) for ids, score in found))


def recognise_words(
    bundle: Bundle,
    waveform: Float[np.ndarray, "..."],
    vocabulary: Mapping[str, Sequence[Sequence[str]]],
    *,
    beam: int = 4,
    ctc_weight: float = 0.3,
    word_penalty: float | None = None,
) -> Recognition:
    """The words of a list that a model hears in a recording, any number of them in any order.

    The CTC head proposes the ``beam`` word sequences whose best labelling of the frames scores
    highest (`gradalign.word_search`); the joint CTC/attention score then puts them in order. There is
    no language model: nothing but the sound and the penalty says which words are likely.

    Args:
        bundle: The model.
        waveform: Mono samples in [-1, 1] at ``bundle.features.sample_rate``.
        vocabulary: Each word with its pronunciations, such as `word_list` makes from a text. Of words
            that sound alike one is found: that of which it is the earlier pronunciation, else the earlier word.
        beam: Word sequences compared, >= 1. Time grows with it.
        ctc_weight: Share of the CTC score in the order, in [0, 1].
        word_penalty: Subtracted for each word; more gives fewer and longer words. By default half the
            logarithm of the number of words: in full, as if all were equally likely, would count twice what the
            CTC head has learnt about which labels follow each other. Best of none, half and all on training data.

    Raises:
        ValueError: If an option is out of range, or there is no pronunciation at all.
        AlignmentError: If a pronunciation has a label the model lacks, or the recording is empty,
            silent, too long, not mono or not finite.
    """
    _check(beam, ctc_weight, word_penalty=word_penalty)
    texts = list(vocabulary)
    bundle.ids(tuple({label for variants in vocabulary.values() for way in variants for label in way}))
    number = {label: i for i, label in enumerate(bundle.labels, start=1)}
    tree = WordTree.from_pronunciations([[[number[x] for x in way] for way in vocabulary[text]] for text in texts])
    if len(tree.label) == 1:
        raise ValueError(f"the vocabulary of {len(texts)} words holds no pronunciation; expected at least one")
    penalty = float(np.log(len(texts))) / 2 if word_penalty is None else word_penalty
    graph, state = nnx.split(bundle.network)
    encoded, valid, ctc = _heard(graph, state, features_of(waveform, bundle))
    paths = best_words(ctc, tree, beam=beam, word_penalty=penalty)
    attention = np.zeros(len(paths))
    if ctc_weight < 1:
        longest = max(len(path.labels) for path in paths)
        # Padded to few shapes, each compiled once.
        histories = np.zeros((beam, max(16, 1 << longest.bit_length())), np.int32)
        for row, path in zip(histories, paths, strict=False):
            row[1 : len(path.labels) + 1] = path.labels
        log_probs = np.asarray(_all_log_probs(graph, state, histories, encoded, valid), np.float64)
        for i, path in enumerate(paths):
            attention[i] = log_probs[i, np.arange(len(path.labels) + 1), [*path.labels, 0]].sum()
    found = [
        Hypothesis(
            _names(bundle, path.labels),
            (1 - ctc_weight) * float(attended)
            + ctc_weight * ctc_log_prob(ctc, path.labels)
            - penalty * len(path.words),
            tuple(texts[i] for i in path.words),
        )
        for path, attended in zip(paths, attention, strict=True)
    ]
    return Recognition(tuple(sorted(found, key=lambda hypothesis: -hypothesis.log_prob)))


def word_list(text: str, lexicon: Lexicon | None = None) -> dict[str, tuple[tuple[str, ...], ...]]:
    """What is said in a text, one spoken word after the other, each once, with its pronunciations.

    Words that cannot be pronounced are left out, with a warning in the log.

    Args:
        text: One word a line, or any English text; "$20" is two words, "twenty" and "dollars".
        lexicon: Pronunciations; by default CMUdict and the package's grapheme-to-phoneme model.

    Raises:
        AlignmentError: If no word can be pronounced.

    Example:
        >>> from gradalign.recognition import word_list
        >>> word_list("the cat")
        {'the': (('DH', 'AH'), ('DH', 'IY')), 'cat': (('K', 'AE', 'T'),)}
    """
    lexicon = lexicon or default_lexicon()
    found: dict[str, tuple[tuple[str, ...], ...]] = {}
    left_out = []
    for line in text.splitlines():
        for word in words_of(line):
            spoken = {part: tuple(p.phones for p in lexicon.pronunciations(part)) for part in word.spoken}
            if spoken and all(spoken.values()):
                found |= spoken
            else:
                left_out.append(word.text)
    if not found:
        raise AlignmentError("the word list holds no word that can be pronounced; expected English words")
    if left_out:
        shown = ", ".join(left_out[:5]) + (", ..." if len(left_out) > 5 else "")
        _log.warning("%d words of the list cannot be pronounced and were left out: %s", len(left_out), shown)
    return found


class Greedy(NamedTuple):
    """The most probable labels of one recording, label by label.

    Attributes:
        ctc: Label ids of the most probable frame labelling of the CTC head; see `ctc_greedy`.
        attention: Label ids that the decoder chose one after the other.
    """

    ctc: tuple[int, ...]
    attention: tuple[int, ...]


def greedy(network: AED, features: Sequence[Float[np.ndarray, "_ mels"]], *, batch: int = 8) -> list[Greedy]:
    """The labels of many recordings by greedy search, side by side; for measuring error rates.

    The same labels as `ctc_greedy` and as `recognise` with ``beam=1`` and ``ctc_weight=0``. Recordings
    of like length are padded to one of few lengths and share a compiled call.

    Args:
        network: The attention encoder-decoder.
        features: Log-mel frames of each recording; see `features_of`.
        batch: Recordings in one call, >= 1; memory grows with it.

    Returns:
        One result a recording, in the order given.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1 recording, got {batch}")
    graph, state = nnx.split(network)
    by_bucket: dict[int, list[int]] = {}
    for index in sorted(range(len(features)), key=lambda i: len(features[i])):
        by_bucket.setdefault(bucket(len(features[index]), FRAME_BUCKETS), []).append(index)
    found: dict[int, Greedy] = {}
    for columns, members in by_bucket.items():
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            padded = np.zeros((batch, columns, features[part[0]].shape[1]), np.float32)
            lengths = np.ones(batch, np.int32)
            for row, index in enumerate(part):
                lengths[row] = len(features[index])
                padded[row, : lengths[row]] = features[index]
            encoded, valid, ctc = _encode_all(graph, state, padded, lengths)
            n_frames = np.asarray(valid).sum(axis=1)
            n_frames[len(part) :] = 0
            attended = _attention_greedy(graph, state, encoded, valid, n_frames)
            for row, index in enumerate(part):
                found[index] = Greedy(ctc_greedy(np.asarray(ctc[row, : n_frames[row]])), attended[row])
    return [found[index] for index in range(len(features))]


def features_of(waveform: Float[np.ndarray, "..."], bundle: Bundle) -> Float[np.ndarray, "_ mels"]:
    """Log-mel frames of a recording, checked, and brought up to an ordinary level if it is very quiet.

    Args:
        waveform: Mono samples in [-1, 1] at ``bundle.features.sample_rate``.
        bundle: The model they are for.

    Raises:
        AlignmentError: If the recording is empty, silent, too long, not mono or not finite.
    """
    if waveform.ndim != 1:
        raise AlignmentError(f"expected mono samples, shape (samples,), got shape {waveform.shape}; pick a channel")
    seconds = len(waveform) / bundle.features.sample_rate
    if seconds > bundle.max_duration_s:
        raise AlignmentError(
            f"the recording is {seconds:.0f} s long, model {bundle.name!r} takes at most "
            f"{bundle.max_duration_s:.0f} s in one piece; split it at pauses"
        )
    samples = audio_files.check(np.asarray(waveform, np.float32))
    return log_mel_padded(audio_files.levelled(samples), bundle.features)


def _names(bundle: Bundle, ids: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(bundle.labels[i - 1] for i in ids)


def _heard(graph: Any, state: Any, features: np.ndarray) -> tuple[Array, Array, np.ndarray]:
    """Encoder frames, which of them are real, and the CTC log-probabilities of those."""
    padded = np.pad(features, ((0, bucket(len(features), FRAME_BUCKETS) - len(features)), (0, 0)))
    encoded, valid, ctc = _encode(graph, state, padded, len(features))
    return encoded, valid, np.asarray(ctc)[np.asarray(valid)]


@partial(by_shape, static_argnames=("graph",))
def _encode(graph: Any, state: Any, features: Array, n_frames: Array) -> tuple[Array, Array, Array]:
    network = nnx.merge(graph, state)
    encoded, valid, _ = network.encode(features, n_frames)
    return encoded, valid, network.ctc_log_probs(encoded)


@partial(by_shape, static_argnames=("graph",))
def _encode_all(graph, state, features, n_frames):
    """`_encode` for recordings side by side."""
    return jax.vmap(lambda x, n: _encode(graph, state, x, n))(features, n_frames)


@partial(by_shape, static_argnames=("graph",))
def _all_log_probs(graph, state, histories, encoded, valid):
    """Log-probabilities of the label after each prefix of each history."""
    network = nnx.merge(graph, state)
    return jax.vmap(lambda history: network.decoder(history, encoded, valid)[0])(jnp.asarray(histories))


def _attention_greedy(graph, state, encoded, valid, longest: np.ndarray) -> list[tuple[int, ...]]:
    """The decoder's labels of recordings side by side, each at most ``longest`` labels.

    The decoder is run anew for every label, on a history that grows in few steps: each is compiled once.
    """
    said, ended = np.zeros((len(longest), 1), np.int32), longest == 0
    while not ended.all():
        n = said.shape[1]
        said = np.pad(said, ((0, 0), (0, min(max(32, 2 * n), n + 128) - n)))
        # One that does not end would have all others carried along: only the unfinished, some perhaps twice.
        unfinished = np.flatnonzero(~ended)
        rows = np.resize(unfinished, 1 << (len(unfinished) - 1).bit_length())
        inputs = said[rows], n - 1, longest[rows].astype(np.int32), encoded[rows], valid[rows]
        said[rows], ended[rows] = (np.asarray(part) for part in _greedy_steps(graph, state, *inputs))
    return [tuple(int(label) for label in row[1:] if label) for row in said]


@partial(by_shape, static_argnames=("graph",))
def _greedy_steps(graph, state, histories, first, longest, encoded, valid):
    """Fill in what follows position ``first`` of each history, zeros from its end on; and which have ended."""
    decoder = nnx.merge(graph, state).decoder

    def unfinished(carry):
        at, histories, ended = carry
        return (at + 1 < histories.shape[1]) & ~ended.all()

    def step(carry):
        at, histories, ended = carry
        log_probs = jax.vmap(lambda history, memory, real: decoder(history, memory, real)[0][at])(
            histories, encoded, valid
        )
        label = jnp.where(ended | (at >= longest), 0, log_probs.argmax(axis=1)).astype(jnp.int32)
        return at + 1, histories.at[:, at + 1].set(label), label == 0

    carry = (jnp.asarray(first), jnp.asarray(histories), jnp.zeros(len(histories), bool))
    _, histories, ended = jax.lax.while_loop(unfinished, step, carry)
    return histories, ended


@partial(by_shape, static_argnames=("graph",))
def _next_log_probs(graph, state, histories, at, encoded, valid):
    """Log-probabilities of the label after each history of length ``at``."""
    network = nnx.merge(graph, state)
    return jax.vmap(lambda history: network.decoder(history, encoded, valid)[0][at])(jnp.asarray(histories))


def _check(beam: int, ctc_weight: float, *, max_labels: int | None = None, word_penalty: float | None = None) -> None:
    problems = []
    if beam < 1:
        problems.append(f"beam must be at least 1 hypothesis, got {beam}")
    if not 0 <= ctc_weight <= 1:
        problems.append(f"ctc_weight must lie in [0, 1], got {ctc_weight}")
    if max_labels is not None and max_labels < 0:
        problems.append(f"max_labels must be 0 or more, got {max_labels}")
    if word_penalty is not None and not math.isfinite(word_penalty):
        problems.append(f"word_penalty must be finite, got {word_penalty}")
    if problems:
        raise ValueError("; ".join(problems))
