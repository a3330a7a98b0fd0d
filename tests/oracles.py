"""Slow, obvious answers in float64 NumPy to compare the package with. Nothing here imports gradalign."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

Spans = tuple[tuple[int, int], ...]


def all_alignments(n_frames: int, silence_allowed, skip_allowed) -> Iterator[Spans]:
    """Every way to cut ``n_frames`` into one half-open run a label, with silence in the gaps.

    ``silence_allowed[k]``: may there be a gap before label k (the last entry: after the last label)?
    ``skip_allowed[k]``: may label k follow label k-1, or the start of the utterance, with no gap?
    """
    n_labels = len(skip_allowed)
    for cuts in itertools.combinations_with_replacement(range(n_frames + 1), 2 * n_labels):
        spans = tuple(zip(cuts[::2], cuts[1::2], strict=True))
        if any(start == end for start, end in spans):
            continue
        ends = (0, *cuts[1::2])
        starts = (*cuts[::2], n_frames)
        gaps = [start - end for end, start in zip(ends, starts, strict=True)]
        if any(gap and not allowed for gap, allowed in zip(gaps, silence_allowed, strict=True)):
            continue
        if any(not gap and not allowed for gap, allowed in zip(gaps[:-1], skip_allowed, strict=True)):
            continue
        yield spans


def frame_labels(spans: Spans, n_frames: int) -> np.ndarray:
    """Label index of each frame, -1 in silence."""
    labels = np.full(n_frames, -1)
    for label, (start, end) in enumerate(spans):
        labels[start:end] = label
    return labels


def moves_of(labels: np.ndarray) -> list[tuple[str, int, int]]:
    """Every boundary of a path and its beginning: (kind, label or silence arrived at, frame)."""
    found: list[tuple[str, int, int]] = []
    before = None
    for frame, label in enumerate(labels):
        if label == before:
            continue
        if label < 0:
            found.append(("end", max(labels[:frame], default=-1) + 1, frame))
        else:
            found.append(("start" if before == -1 else "touch", label, frame))
        before = label
    return found


def score_of(labels: np.ndarray, scores: np.ndarray, silence: np.ndarray, moves=None) -> float:
    """Sum over frames of the score of what the frame holds, and over boundaries of theirs."""
    of_frames = sum(silence[t] if s < 0 else scores[s, t] for t, s in enumerate(labels))
    if moves is None:
        return float(of_frames)
    return float(of_frames + sum(getattr(moves, kind)[row, frame] for kind, row, frame in moves_of(labels)))


def posteriors(scores: np.ndarray, silence: np.ndarray, silence_allowed, skip_allowed, moves=None):
    """(labels, silence, starts, ends, log_total) by enumeration of all alignments."""
    n_labels, n_frames = scores.shape
    labels, quiet = np.zeros((n_labels, n_frames)), np.zeros(n_frames)
    starts, ends = np.zeros((n_labels, n_frames)), np.zeros((n_labels, n_frames + 1))
    total = 0.0
    for spans in all_alignments(n_frames, silence_allowed, skip_allowed):
        path = frame_labels(spans, n_frames)
        weight = math.exp(score_of(path, scores, silence, moves))
        total += weight
        quiet += weight * (path < 0)
        for label, (start, end) in enumerate(spans):
            labels[label, start:end] += weight
            starts[label, start] += weight
            ends[label, end] += weight
    return labels / total, quiet / total, starts / total, ends / total, math.log(total)


def ctc_log_total(log_probs: np.ndarray, labels: list[int], blank: int = 0) -> float:
    """Log-probability of the label sequence: sum over all labelings of the frames that collapse to it."""
    n_frames, vocabulary = log_probs.shape
    total = 0.0
    for labeling in itertools.product(range(vocabulary), repeat=n_frames):
        collapsed = [symbol for symbol, _ in itertools.groupby(labeling) if symbol != blank]
        if collapsed == labels:
            total += math.exp(sum(log_probs[t, symbol] for t, symbol in enumerate(labeling)))
    return math.log(total)


def forward_backward_free(scores: np.ndarray, silence: np.ndarray):
    """(best score, label occupancies, log_total) of the free topology: textbook recursions in float64."""
    n_labels, n_frames = scores.shape
    emissions = np.empty((n_frames, 2 * n_labels + 1))
    emissions[:, 0::2] = silence[:, None]
    emissions[:, 1::2] = scores.T
    odd = np.arange(2 * n_labels + 1) % 2 == 1

    def arrivals(alpha):
        step = np.concatenate([[-np.inf], alpha[:-1]])
        jump = np.concatenate([[-np.inf, -np.inf], alpha[:-2]])
        return np.stack([alpha, step, np.where(odd, jump, -np.inf)])

    def departures(beta):
        step = np.concatenate([beta[1:], [-np.inf]])
        jump = np.concatenate([np.where(odd, beta, -np.inf)[2:], [-np.inf, -np.inf]])
        return np.stack([beta, step, jump])

    best = alpha = np.where(np.arange(2 * n_labels + 1) < 2, emissions[0], -np.inf)
    alphas = [alpha]
    for emission in emissions[1:]:
        best = emission + arrivals(best).max(axis=0)
        alpha = emission + np.logaddexp.reduce(arrivals(alpha))
        alphas.append(alpha)
    beta = np.where(np.arange(2 * n_labels + 1) >= 2 * n_labels - 1, 0.0, -np.inf)
    log_total = np.logaddexp.reduce(alpha + beta)
    occupancies = np.empty((n_labels, n_frames))
    for frame in reversed(range(n_frames)):
        occupancies[:, frame] = np.exp(alphas[frame] + beta - log_total)[1::2]
        beta = np.logaddexp.reduce(departures(emissions[frame] + beta))
    return best[-2:].max(), occupancies, log_total
