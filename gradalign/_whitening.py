"""Coordinates in which what weights do is uncorrelated: neighbouring taps of time filters see nearly the same."""

import numpy as np
from jaxtyping import Float


def moments(channels: Float[np.ndarray, "channels rows frames"], taps: int) -> Float[np.ndarray, "values values"]:
    """Sums of products of any two values of a window of so many frames, over all windows in every row.

    Rows are 0 beyond their ends. Windows that reach beyond them count, so that a product depends on the lag between its
    two taps alone.

    Args:
        channels: What windows are over.
        taps: Frames of a window; a value is one of these in one channel, channels outside and taps inside.
    """
    n, _, frames = channels.shape
    total = np.zeros((n, taps, n, taps))
    for lag in range(min(taps, frames)):
        early, late = channels[:, :, : frames - lag], channels[:, :, lag:]
        products = np.tensordot(early, late, axes=((1, 2), (1, 2)))
        for first in range(taps - lag):
            total[:, first, :, first + lag] = products
            total[:, first + lag, :, first] = products.T
    return total.reshape(n * taps, n * taps)


def inverse_root(matrix: Float[np.ndarray, "values values"], ridge: float) -> Float[np.ndarray, "values values"]:
    """The symmetric inverse square root of a positive semi-definite matrix with so much, > 0, added to its diagonal."""
    if not ridge > 0:
        raise ValueError(f"expected a ridge > 0, got {ridge}")
    values, vectors = np.linalg.eigh(matrix)
    return ((vectors / np.sqrt(np.maximum(values, 0.0) + ridge)) @ vectors.T).astype(np.float32)
