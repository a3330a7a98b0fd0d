"""Which part of a sum decides: mean norms of frames, and gradients before a layer norm."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gradalign.analysis.diagonality import Count
from gradalign.gradients import norm


def mean_norm(x: Float[Array, "frames dim"], *, n_frames: Count = None) -> Float[Array, ""]:
    """Mean over time of the Euclidean norm of the frames.

    Args:
        x: Frames.
        n_frames: True number of frames if padded.

    References:
        Schmitt et al. 2025, arXiv 2410.00680: norms of the modules of the reversing block.
    """
    size = x.shape[0] if n_frames is None else n_frames
    real = jnp.arange(x.shape[0]) < size
    return jnp.where(real, norm(x), 0.0).sum() / jnp.maximum(jnp.asarray(size, x.dtype), 1.0)


def dominance(
    added: Float[Array, "frames dim"], stream: Float[Array, "frames dim"], *, n_frames: Count = None
) -> Float[Array, ""]:
    """`mean_norm` of a module's output over that of the residual stream it is added to.

    Far above 1 the module replaces what came before it: the layer norm at the end of the block leaves little of the
    stream. This is how self-attention can reverse time in spite of the residual connection around it.

    Args:
        added: What the module adds.
        stream: What it is added to.
        n_frames: True number of frames if padded.

    Returns:
        A number >= 0.
    """
    return mean_norm(added, n_frames=n_frames) / jnp.maximum(mean_norm(stream, n_frames=n_frames), 1e-12)


def normalised_gradient(
    gradient: Float[Array, "frames dim"], x: Float[Array, "frames dim"]
) -> Float[Array, "frames dim"]:
    """Gradient with respect to the frames after normalisation, from that before it: ``sigma_t g_t``.

    Where only a layer norm reads ``x``, the gradient at ``x`` is orthogonal to ``x`` and to the constant vector, and
    ``1 / sigma_t`` times that after the norm's ``(x - mean) / sigma``, less the parts along these two. So gradient
    times input is 0 there, and plain norms favour quiet frames; those of this gradient do not.

    Args:
        gradient: With respect to ``x``, which nothing but a layer norm reads.
        x: Frames before the layer norm.
    """
    return gradient * jnp.std(x, axis=-1, keepdims=True)
