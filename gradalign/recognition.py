"""From speech to labels: greedy and beam search with the joint CTC/attention score. No times: see `aligner`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from gradalign import audio as audio_files
from gradalign.aligner import FRAME_BUCKETS
from gradalign.bundle import Bundle
from gradalign.errors import AlignmentError
from gradalign.features import log_mel_padded

NEVER = -1e30
"""Finite stand-in for the log-probability of what cannot happen."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """One label sequence and how good it is.

    Attributes:
        labels: Labels by name.
        log_prob: Joint score, ``(1 - ctc_weight) * log p_att + ctc_weight * log p_ctc``, sentence end included; <= 0.
    """

    labels: tuple[str, ...]
    log_prob: float


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
    _check(beam, ctc_weight, max_labels)
    features = _features(waveform, bundle)
    graph, state = nnx.split(bundle.network)
    columns = next((b for b in FRAME_BUCKETS if b >= len(features)), len(features))
    padded = np.pad(features, ((0, columns - len(features)), (0, 0)))
    encoded, valid, ctc = _encode(graph, state, padded, len(features))
    n_frames = int(np.asarray(valid).sum())

    def next_log_probs(histories: list[tuple[int, ...]]) -> np.ndarray:
        length = len(histories[0])
        # Padded to few shapes, each compiled once; the decoder is causal, so padding changes nothing.
        rows = np.zeros((beam, max(16, 1 << length.bit_length())), np.int32)
        rows[: len(histories), 1 : length + 1] = histories
        return np.asarray(_next_log_probs(graph, state, rows, length, encoded, valid))[: len(histories)]

    found = search(
        np.asarray(ctc)[:n_frames],
        next_log_probs,
        beam=beam,
        ctc_weight=ctc_weight,
        max_labels=n_frames if max_labels is None else max_labels,
    )
    return Recognition(tuple(Hypothesis(tuple(bundle.labels[i - 1] for i in ids), score) for ids, score in found))


def search(
    ctc_log_probs: Float[np.ndarray, "frames vocabulary"],
    next_log_probs: Callable[[list[tuple[int, ...]]], Float[np.ndarray, "hypotheses vocabulary"]],
    *,
    beam: int,
    ctc_weight: float,
    max_labels: int,
) -> list[tuple[tuple[int, ...], float]]:
    """The best label sequences and their joint scores, best first; at least one, at most ``beam``.

    Longer and finished hypotheses compete for the same ``beam`` places. No extension scores above
    the prefix it extends, so the search stops once no prefix beats the worst of ``beam`` results.

    Args:
        ctc_log_probs: Finite log-probabilities of the CTC head; column 0 is blank.
        next_log_probs: Maps label histories, all of one length, to log-probabilities of the next
            label; column 0 is the sentence end. The decoder's score.
        beam: Places, >= 1.
        ctc_weight: Share of the CTC score, in [0, 1].
        max_labels: Longest hypothesis, >= 0.
    """
    log_probs = np.asarray(ctc_log_probs, np.float64)
    live: list[tuple[int, ...]] = [()]
    attention, prefixes = np.zeros(1), empty_prefix(log_probs)
    finished: list[tuple[tuple[int, ...], float]] = []
    for length in range(max_labels + 1):
        attended = attention[:, None] + next_log_probs(live)
        ctc = prefix_log_probs(log_probs, prefixes)
        possible = (ctc > NEVER / 2) | (ctc_weight == 0)
        possible[:, 1:] &= length < max_labels
        joint = np.where(possible, (1 - ctc_weight) * attended + ctc_weight * ctc, -np.inf)
        best = np.argsort(-joint, axis=None, kind="stable")[:beam]
        best = best[np.isfinite(joint.ravel()[best])]
        parents, labels = np.divmod(best, joint.shape[1])
        ended = parents[labels == 0]
        finished += [(live[i], float(joint[i, 0])) for i in ended]
        finished = sorted(finished, key=lambda result: -result[1])[:beam]
        parents, labels = parents[labels > 0], labels[labels > 0]
        if not len(labels) or (len(finished) == beam and joint[parents[0], labels[0]] <= finished[-1][1]):
            break
        live = [(*live[i], int(label)) for i, label in zip(parents, labels, strict=True)]
        attention = attended[parents, labels]
        prefixes = extend(log_probs, Prefixes(*(part[parents] for part in prefixes)), labels)
    return finished


def ctc_greedy(log_probs: Float[np.ndarray | Array, "frames vocabulary"]) -> tuple[int, ...]:
    """The labels of the most probable frame labelling: repeats collapsed, then blanks (column 0) dropped.

    Example:
        >>> import numpy as np
        >>> from gradalign.recognition import ctc_greedy
        >>> ctc_greedy(np.eye(3)[[0, 1, 1, 0, 1, 2]])
        (1, 1, 2)
    """
    best = np.asarray(log_probs).argmax(axis=1)
    first = np.diff(best, prepend=-1) != 0
    return tuple(int(label) for label in best[first & (best > 0)])


class Prefixes(NamedTuple):
    """Forward log-probabilities of label prefixes under CTC; time ``t`` is after ``t`` frames, so one more than frames.

    Attributes:
        non_blank: Of the prefix having been said exactly, and frame ``t`` being its last label.
        blank: Likewise, and frame ``t`` being blank.
        last: Last label of each prefix; 0 for the empty one.
    """

    non_blank: Float[np.ndarray, "prefixes times"]
    blank: Float[np.ndarray, "prefixes times"]
    last: Int[np.ndarray, " prefixes"]


def empty_prefix(log_probs: Float[np.ndarray, "frames vocabulary"]) -> Prefixes:
    """The prefix without labels, as the only one."""
    blank = np.concatenate([[0.0], np.cumsum(log_probs[:, 0])])
    return Prefixes(np.full((1, blank.size), NEVER), blank[None], np.zeros(1, np.int64))


def prefix_log_probs(
    log_probs: Float[np.ndarray, "frames vocabulary"], prefixes: Prefixes
) -> Float[np.ndarray, "prefixes vocabulary"]:
    """Log-probability, for each prefix and label, that what was said begins with the prefix and then the label.

    Column 0: that the prefix is all that was said. Holds one ``[prefixes, frames, vocabulary]`` array.

    References:
        Watanabe et al. 2017, section IV-B, algorithm 2.
    """
    either = np.logaddexp(prefixes.non_blank, prefixes.blank)
    begins = np.broadcast_to(either[:, :-1, None], (*either[:, 1:].shape, log_probs.shape[1])).copy()
    for row, label in enumerate(prefixes.last):
        # The same label twice needs a blank between.
        begins[row, :, label] = prefixes.blank[row, :-1]
    scores = np.logaddexp.reduce(begins + log_probs[None], axis=1)
    scores[:, 0] = either[:, -1]
    return scores


def extend(
    log_probs: Float[np.ndarray, "frames vocabulary"], prefixes: Prefixes, labels: Int[np.ndarray, " prefixes"]
) -> Prefixes:
    """Each prefix with one more label (> 0)."""
    repeated = (prefixes.last == labels)[:, None]
    begins = np.where(repeated, prefixes.blank, np.logaddexp(prefixes.non_blank, prefixes.blank))
    non_blank = _accumulate(begins, log_probs[:, labels].T)
    blank = _accumulate(non_blank, np.broadcast_to(log_probs[:, 0], (len(labels), len(log_probs))))
    return Prefixes(non_blank, blank, labels)


def _accumulate(
    entering: Float[np.ndarray, "prefixes times"], staying: Float[np.ndarray, "prefixes frames"]
) -> Float[np.ndarray, "prefixes times"]:
    """``r[t] = logaddexp(r[t - 1], entering[t - 1]) + staying[t]`` and ``r[0]`` never, without a loop over frames."""
    # With C the running sum of staying, r - C is the running logaddexp of entering - C.
    total = np.pad(np.cumsum(staying, axis=1), ((0, 0), (1, 0)))
    reached = np.logaddexp.accumulate((entering - total)[:, :-1], axis=1) + total[:, 1:]
    return np.pad(reached, ((0, 0), (1, 0)), constant_values=NEVER)


@partial(jax.jit, static_argnames="graph")
def _encode(graph: Any, state: Any, features: Array, n_frames: Array) -> tuple[Array, Array, Array]:
    network = nnx.merge(graph, state)
    encoded, valid, _ = network.encode(features, n_frames)
    return encoded, valid, network.ctc_log_probs(encoded)


@partial(jax.jit, static_argnames="graph")
def _next_log_probs(graph, state, histories, at, encoded, valid):
    """Log-probabilities of the label after each history of length ``at``."""
    network = nnx.merge(graph, state)
    return jax.vmap(lambda history: network.decoder(history, encoded, valid)[0][at])(jnp.asarray(histories))


def _features(waveform: np.ndarray, bundle: Bundle) -> np.ndarray:
    if waveform.ndim != 1:
        raise AlignmentError(f"expected mono samples, shape (samples,), got shape {waveform.shape}; pick a channel")
    seconds = len(waveform) / bundle.features.sample_rate
    if seconds > bundle.max_duration_s:
        raise AlignmentError(
            f"the recording is {seconds:.0f} s long, model {bundle.name!r} takes at most "
            f"{bundle.max_duration_s:.0f} s in one piece; split it at pauses"
        )
    return log_mel_padded(audio_files.check(np.asarray(waveform, np.float32)), bundle.features)


def _check(beam: int, ctc_weight: float, max_labels: int | None) -> None:
    problems = []
    if beam < 1:
        problems.append(f"beam must be at least 1 hypothesis, got {beam}")
    if not 0 <= ctc_weight <= 1:
        problems.append(f"ctc_weight must lie in [0, 1], got {ctc_weight}")
    if max_labels is not None and max_labels < 0:
        problems.append(f"max_labels must be 0 or more, got {max_labels}")
    if problems:
        raise ValueError("; ".join(problems))
