"""Where the weight of a self-attention map lies: on the diagonal, the anti-diagonal, the first frame."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradalign.analysis.diagonality import Count


def diagonal_weight(attention: Float[Array, "frames frames"], *, n_frames: Count = None) -> Float[Array, ""]:
    """Mean weight that a frame gives itself, times the number of frames: 1 as in a uniform map, T in the identity.

    Args:
        attention: Rows are queries and sum to one.
        n_frames: True number of frames if padded.
    """
    frame = jnp.arange(attention.shape[0])
    return _mean_weight(attention, frame, n_frames)


def anti_diagonal_weight(attention: Float[Array, "frames frames"], *, n_frames: Count = None) -> Float[Array, ""]:
    """Mean weight that a frame gives its mirror image in time, ``T - 1 - i``, times the number of frames.

    Args:
        attention: Rows are queries and sum to one.
        n_frames: True number of frames if padded.
    """
    size = attention.shape[0] if n_frames is None else n_frames
    frame = jnp.arange(attention.shape[0])
    return _mean_weight(attention, jnp.maximum(size - 1 - frame, 0), n_frames)


def first_frame_weight(attention: Float[Array, "frames frames"], *, n_frames: Count = None) -> Float[Array, ""]:
    """Mean weight on the first frame times the number of frames: 1 as in a uniform map, T if nothing else is seen.

    Encoders that reverse time begin by moving everything to the first frames (arXiv 2410.00680).

    Args:
        attention: Rows are queries and sum to one.
        n_frames: True number of frames if padded.
    """
    return _mean_weight(attention, jnp.zeros(attention.shape[0], jnp.int32), n_frames)


def _mean_weight(attention: Array, column_of_row: Array, n_frames: Count) -> Float[Array, ""]:
    size = jnp.asarray(attention.shape[0] if n_frames is None else n_frames)
    picked = jnp.take_along_axis(attention, column_of_row[:, None], axis=1)[:, 0]
    # The number of frames and the division by it for the mean cancel.
    return jnp.where(jnp.arange(attention.shape[0]) < size, picked, 0.0).sum()
