"""The best path through recordings of any length: a band of labels that moves along with what was heard so far.

The whole lattice of half an hour has a billion states. At any time all but a few hundred labels are out of question,
so the forward pass keeps a band of them, and shifts it every few seconds to where the best path is by then. Memory
grows with the frames alone.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gradalign.cache import by_shape
from gradalign.errors import AlignmentError
from gradalign.lattice import NEVER, Steps, Topology, viterbi_steps

WIDTH = 1024
"""Labels of the band: more than a minute of fast speech, half of it on each side of the best path."""
BLOCK = 256
"""Frames between two shifts; in no more than that is anybody able to say half a band of labels."""


def ctc_path(
    log_probs: Float[np.ndarray, "frames vocabulary"],
    ids: Int[np.ndarray, " labels"],
    *,
    width: int = WIDTH,
    block: int = BLOCK,
) -> Int[np.ndarray, " frames"]:
    """CTC forced alignment of a recording of any length.

    The best path as `gradalign.lattice.viterbi` finds it, among those that stay in the band; all of them, if there are
    not more labels than the band is wide.

    Args:
        log_probs: Of the CTC head, blank first.
        ids: Of the transcript's labels, none of them blank; at least one.
        width: Labels of the band, >= 2.
        block: Frames between two shifts, >= 1.

    Returns:
        Index of the label at each frame; -1 in blanks.

    Raises:
        AlignmentError: If no path in the band reaches the last label.

    References:
        Graves et al. 2006, "Connectionist temporal classification" (the lattice). The moving band is ours.
    """
    n_frames, n_labels = len(log_probs), len(ids)
    padded_ids = np.pad(np.asarray(ids, np.int32), (0, width))
    may_touch = np.ones(n_labels + width, bool)
    may_touch[1:] = padded_ids[1:] != padded_ids[:-1]
    low, alpha, lows, moves = 0, None, [], []
    for begin in range(0, n_frames, block):
        if alpha is not None:
            best = int(np.argmax(alpha)) // 2
            shift = min(max(best - width // 2, 0), max(n_labels - width - low, 0))
            alpha = np.concatenate([alpha[2 * shift :], np.full(2 * shift, NEVER, np.float32)])
            low += shift
        here = log_probs[begin : begin + block]
        padded = np.pad(here, ((0, block - len(here)), (0, 0)))
        window = slice(low, low + width)
        steps = _steps(alpha, padded, padded_ids[window], may_touch[window], len(here))
        alpha = np.asarray(steps.alpha)
        lows.append(low)
        moves.append(np.asarray(steps.came)[: len(here)])
    final = 2 * (n_labels - low) - np.arange(2)  # blank after the last label, or the label itself
    if alpha is None or low + width < n_labels or alpha[final].max() < NEVER / 10:
        heard = 0 if alpha is None else low + int(np.argmax(alpha)) // 2
        raise AlignmentError(
            f"at the end of the recording the CTC head had only got to label {heard} of {n_labels}: the transcript "
            "says much more than the recording, or something else"
        )
    # Of equal ones the label, as `viterbi` prefers it.
    state = int(final[::-1][np.argmax(alpha[final[::-1]])]) + 2 * low
    labels = np.full(n_frames, -1, np.int32)
    frame = n_frames - 1
    for low, block_moves in zip(reversed(lows), reversed(moves), strict=True):
        for moved in block_moves[::-1]:
            labels[frame] = state // 2 if state % 2 else -1
            state -= int(moved[state - 2 * low])
            frame -= 1
    return labels


@by_shape
def _steps(
    alpha: Float[Array, " states"] | None,
    log_probs: Float[Array, "frames vocabulary"],
    ids: Int[Array, " labels"],
    may_touch: Array,
    n_frames: Int[Array, ""],
) -> Steps:
    """A block of frames; labels past the end of the transcript have id 0, and forbidden scores."""
    scores = jnp.where((ids > 0)[:, None], log_probs[:, ids].T, NEVER)
    topology = Topology(jnp.ones(len(ids) + 1, bool), may_touch)
    return viterbi_steps(alpha, scores, log_probs[:, 0], topology, n_frames=n_frames)
