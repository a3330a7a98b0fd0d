"""How near the diagonal a map lies, how near the anti-diagonal, and which of the two it prefers."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Count = int | Int[Array, ""] | None
"""True size of a padded axis; None where nothing is padded."""


def diagonality(
    weights: Float[Array, "queries frames"],
    *,
    flipped: bool = False,
    frame_of_query: Int[Array, " queries"] | None = None,
    n_queries: Count = None,
    n_frames: Count = None,
) -> Float[Array, ""]:
    """Cumulative attention diagonality of a frame x frame map: 1 if all weight is on the diagonal.

    The share of the weight within a band around the diagonal, integrated over the half-width of the band from
    nothing to the whole utterance. That integral has the closed form ``1 - mean_i sum_j A[i, j] |i - j| / (T - 1)``
    with the rows of A normalised: one minus the mean distance, as a share of the largest possible one.

    | map | diagonality | flipped |
    |---|---|---|
    | identity | 1 | about 1/2 |
    | uniform | 1 - (T + 1) / (3 T), about 2/3 | the same |
    | all on one of the two ends | 1/2 | 1/2 |
    | exact reversal of time | about 1/2 | 1 |

    Args:
        weights: Attention, or anything else >= 0 that tells how much each output frame depends on each input frame.
            Rows are normalised here; a row of zeros counts as a uniform one.
        flipped: Measure the map with its frames in reverse order: nearness to the anti-diagonal.
        frame_of_query: Frame that each row belongs to, in [0, frames), where there are not all of them in order.
        n_queries: True number of rows if padded; by default that of ``frame_of_query``, else ``n_frames``.
        n_frames: True number of frames if padded.

    Returns:
        A number in [0, 1]; 1 for a single frame.

    References:
        Shim, Choi and Sung, "Understanding the Role of Self Attention for Efficient Speech Recognition", ICLR 2022:
        the measure. The closed form and the flipped twin are ours.
    """
    n_frames = weights.shape[1] if n_frames is None else n_frames
    if frame_of_query is None:
        frame_of_query = jnp.arange(weights.shape[0])
        n_queries = n_frames if n_queries is None else n_queries
    last = jnp.asarray(n_frames, weights.dtype) - 1
    longest = jnp.maximum(last, 1.0)
    rows, columns = (jnp.asarray(at, weights.dtype) / longest for at in (frame_of_query, jnp.arange(weights.shape[1])))
    found = 1 - _mean_distance(weights, rows, last / longest - columns if flipped else columns, n_queries, n_frames)
    return jnp.where(last > 0, found, 1.0)


def flip_index(
    weights: Float[Array, "queries frames"],
    *,
    frame_of_query: Int[Array, " queries"] | None = None,
    n_queries: Count = None,
    n_frames: Count = None,
) -> Float[Array, ""]:
    """Flipped minus plain `diagonality`: about -1/2 for the identity, 0 for uniform maps and sinks, 1/2 for reversal.

    Diagonality alone cannot tell a reversed layer from one that looks only at the first frame: both lie near 1/2.

    Args:
        weights: As in `diagonality`.
        frame_of_query: As in `diagonality`.
        n_queries: As in `diagonality`.
        n_frames: As in `diagonality`.
    """
    options = {"frame_of_query": frame_of_query, "n_queries": n_queries, "n_frames": n_frames}
    return _flipped_minus_plain(diagonality, weights, **options)


def label_diagonality(
    weights: Float[Array, "labels frames"],
    *,
    flipped: bool = False,
    position: Float[Array, " labels"] | None = None,
    n_labels: Count = None,
    n_frames: Count = None,
) -> Float[Array, ""]:
    """Diagonality of a map with unlike axes: labels by frames, or frames by frames of another rate.

    ``1 - mean_s sum_t G[s, t] |(s + 1/2) / S - (t + 1/2) / T|`` with the rows of G normalised and s, t counted from 0.
    For cross-attention, and for saliency, whose time axis is that of the speech.

    Args:
        weights: One row a label, >= 0. Rows are normalised here; a row of zeros counts as a uniform one.
        flipped: Measure the map with its frames in reverse order.
        position: Where each row belongs, as a share of the utterance in [0, 1]; by default ``(s + 1/2) / S``.
        n_labels: True number of rows if padded.
        n_frames: True number of frames if padded.

    Returns:
        A number in [0, 1].
    """
    size = jnp.asarray(weights.shape[0] if n_labels is None else n_labels, weights.dtype)
    length = jnp.asarray(weights.shape[1] if n_frames is None else n_frames, weights.dtype)
    if position is None:
        position = (jnp.arange(weights.shape[0], dtype=weights.dtype) + 0.5) / size
    at = (jnp.arange(weights.shape[1], dtype=weights.dtype) + 0.5) / length
    return 1 - _mean_distance(weights, position, 1 - at if flipped else at, n_labels, n_frames)


def label_flip_index(
    weights: Float[Array, "labels frames"],
    *,
    position: Float[Array, " labels"] | None = None,
    n_labels: Count = None,
    n_frames: Count = None,
) -> Float[Array, ""]:
    """Flipped minus plain `label_diagonality`: negative if labels follow each other in time, positive if reversed.

    It lies within 1/2 of 0, and near 0 where all labels look alike. A cross-attention that falls, the symptom that
    opens the paper on reversed encoders (arXiv 2410.00680), is a positive one.

    Args:
        weights: As in `label_diagonality`.
        position: As in `label_diagonality`.
        n_labels: As in `label_diagonality`.
        n_frames: As in `label_diagonality`.
    """
    options = {"position": position, "n_labels": n_labels, "n_frames": n_frames}
    return _flipped_minus_plain(label_diagonality, weights, **options)


def shares(
    weights: Float[Array, "rows frames"], *, n_rows: Count = None, n_frames: Count = None
) -> Float[Array, "rows frames"]:
    """Rows that sum to one over real frames; uniform where there was nothing, zero in padded rows and frames.

    Args:
        weights: Anything >= 0.
        n_rows: True number of rows if padded.
        n_frames: True number of frames if padded.
    """
    real = _real(weights.shape[1], n_frames)[None, :]
    # Scaled by the largest first: saliencies may be so small that their sum is not a normal number.
    kept = jnp.where(real, weights, 0.0)
    peak = kept.max(axis=1, keepdims=True)
    kept = jnp.where(peak > 0, kept / jnp.where(peak > 0, peak, 1.0), real.astype(weights.dtype))
    found = kept / kept.sum(axis=1, keepdims=True)
    return jnp.where(_real(weights.shape[0], n_rows)[:, None], found, 0.0)


def _flipped_minus_plain(measure: Callable[..., Float[Array, ""]], weights: Array, **options: Any) -> Float[Array, ""]:
    return measure(weights, flipped=True, **options) - measure(weights, **options)


def _mean_distance(weights, rows, columns, n_rows: Count, n_frames: Count) -> Float[Array, ""]:
    count = weights.shape[0] if n_rows is None else n_rows
    spread = shares(weights, n_rows=n_rows, n_frames=n_frames) * jnp.abs(rows[:, None] - columns[None, :])
    return spread.sum() / jnp.asarray(count, weights.dtype)


def _real(size: int, count: Count) -> Array:
    return jnp.arange(size) < (size if count is None else count)
