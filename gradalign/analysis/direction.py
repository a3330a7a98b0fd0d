"""Whether what belongs to the labels of a transcript moves forwards or backwards in time, and where that changes."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradalign.analysis.diagonality import Count, shares


def centres(
    weights: Float[Array, "labels frames"], *, n_labels: Count = None, n_frames: Count = None
) -> Float[Array, " labels"]:
    """Mean frame of each label, weighted by its row: ``sum_t t G[s, t] / sum_t G[s, t]``.

    Args:
        weights: Attention or saliency, >= 0; a row of zeros counts as a uniform one.
        n_labels: True number of labels if padded; the others get 0.
        n_frames: True number of frames if padded.

    Returns:
        Frames, counted from 0, not rounded.
    """
    frame = jnp.arange(weights.shape[1], dtype=weights.dtype)
    return (shares(weights, n_rows=n_labels, n_frames=n_frames) * frame[None, :]).sum(axis=1)


def direction(
    weights: Float[Array, "labels frames"], *, n_labels: Count = None, n_frames: Count = None
) -> Float[Array, ""]:
    """Spearman's rank correlation of the labels' order with their `centres`: 1 rises, -1 falls.

    It says which way a map runs and not how clearly: labels that all look alike but for a hair may give any value.
    `gradalign.analysis.diagonality.label_flip_index` says how clearly.

    Args:
        weights: Attention or saliency of each label, >= 0.
        n_labels: True number of labels if padded.
        n_frames: True number of frames if padded.

    Returns:
        A number in [-1, 1]; 0 for fewer than two labels.

    References:
        Schmitt et al. 2025, arXiv 2410.00680: that falling cross-attention gives a reversed encoder away.
    """
    at = centres(weights, n_labels=n_labels, n_frames=n_frames)
    return rank_correlation(jnp.arange(weights.shape[0], dtype=weights.dtype), at, n=n_labels)


def rank_correlation(x: Float[Array, " n"], y: Float[Array, " n"], *, n: Count = None) -> Float[Array, ""]:
    """Spearman's rank correlation, with the mean rank for ties; 0 where one of the two does not vary.

    Args:
        x: Finite numbers.
        y: As many others.
        n: True number of both if padded.
    """
    real = jnp.arange(x.shape[0]) < (x.shape[0] if n is None else n)
    a, b = (_centred_ranks(values, real) for values in (x, y))
    size = jnp.sqrt((a * a).sum() * (b * b).sum())
    return jnp.where(size > 0, (a * b).sum() / jnp.where(size > 0, size, 1.0), 0.0)


def turning_points(flips: Sequence[float], *, clear: float = 0.05) -> list[int]:
    """Places in a sequence of flip indices by depth at which the order of time turns around.

    Args:
        flips: Flip index at each depth, input side first.
        clear: Indices nearer to 0 than this say nothing, and are passed over.

    Returns:
        Each ``k > 0`` with a clear sign at ``k`` that is not that of the last clear one before it.
    """
    found, last = [], 0.0
    for k, flip in enumerate(flips):
        if abs(flip) < clear:
            continue
        if last * flip < 0:
            found.append(k)
        last = flip
    return found


def _centred_ranks(values: Array, real: Array) -> Array:
    """Ranks less their mean; 0 where not real. Comparing all pairs: there are some hundreds of labels at most."""
    below = (values[None, :] < values[:, None]) & real[None, :]
    equal = (values[None, :] == values[:, None]) & real[None, :]
    rank = below.sum(axis=1) + 0.5 * equal.sum(axis=1)
    mean = jnp.where(real, rank, 0.0).sum() / jnp.maximum(real.sum(), 1)
    return jnp.where(real, rank - mean, 0.0).astype(values.dtype)
