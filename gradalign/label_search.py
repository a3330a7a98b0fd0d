"""The labels that log-probabilities spell: CTC prefix scores, joint beam search, greedy CTC. NumPy alone, no model."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

NEVER = -1e30
"""Finite stand-in for the log-probability of what cannot happen."""


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
        >>> from gradalign.label_search import ctc_greedy
        >>> ctc_greedy(np.eye(3)[[0, 1, 1, 0, 1, 2]])
        (1, 1, 2)
    """
    return collapsed(np.asarray(log_probs).argmax(axis=1))


def collapsed(frame_labels: Int[np.ndarray, " frames"]) -> tuple[int, ...]:
    """The labels that a labelling of the frames spells: repeats as one, then without blanks (0).

    Example:
        >>> import numpy as np
        >>> from gradalign.label_search import collapsed
        >>> collapsed(np.array([0, 1, 1, 0, 1, 2]))
        (1, 1, 2)
    """
    first = np.diff(frame_labels, prepend=-1) != 0
    return tuple(int(label) for label in frame_labels[first & (frame_labels > 0)])


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


def ctc_log_prob(log_probs: Float[np.ndarray, "frames vocabulary"], labels: tuple[int, ...]) -> float:
    """Log-probability of a label sequence under CTC, over all labellings of the frames."""
    log_probs = np.asarray(log_probs, np.float64)
    prefix = empty_prefix(log_probs)
    for label in labels:
        prefix = extend(log_probs, prefix, np.array([label]))
    return float(np.logaddexp(prefix.non_blank[0, -1], prefix.blank[0, -1]))
