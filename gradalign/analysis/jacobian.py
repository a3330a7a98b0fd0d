"""How much each output frame depends on each input frame, whatever lies between: no attention map is read."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from gradalign.analysis.diagonality import Count


def jacobian_norms(
    function: Callable[[Any], Float[Array, "frames dim"]],
    x: Any,
    rows: Int[Array, " rows"],
    *,
    key: PRNGKeyArray,
    probes: int = 8,
    chunk: int = 16,
) -> Any:
    """Estimated Frobenius norms of the blocks of a Jacobian: ``N[i, k] = || d y_i / d x_k ||_F``.

    ``N[i, k]^2`` is the mean of ``|| J_ik^T r ||^2`` over vectors r of random signs, and one pull-back of r at output
    frame i gives it for all k, and for all arrays of ``x``, at once. The squares have a relative error of about
    ``sqrt(2 / probes)`` in a block of high rank; flip indices, which sum over a row, need 4 to 8 probes.

    Args:
        function: Maps ``x`` to output frames.
        x: An array whose last axis is features and the one before it frames, or a tree of such arrays.
        rows: Output frames to measure.
        key: Of the random signs.
        probes: Sign vectors a row, >= 1.
        chunk: Pull-backs made together, >= 1. The result does not depend on it.

    Returns:
        ``x`` without its last axis, and with a leading one of rows; >= 0.

    References:
        Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1990: random signs.
    """
    outputs, pull_back = jax.vjp(function, x)
    signs = jax.random.rademacher(key, (rows.shape[0], probes, outputs.shape[1]), outputs.dtype)

    def squares(probe: tuple[Array, Array]) -> Any:
        row, sign = probe
        (gradient,) = pull_back(jnp.zeros_like(outputs).at[row].set(sign))
        return jax.tree.map(lambda part: jnp.square(part).sum(axis=-1), gradient)

    every = (jnp.repeat(rows, probes), signs.reshape(-1, outputs.shape[1]))
    found = jax.lax.map(squares, every, batch_size=chunk)
    return jax.tree.map(lambda part: jnp.sqrt(part.reshape(rows.shape[0], probes, *part.shape[1:]).mean(axis=1)), found)


def diagonal_dominance(
    norms: Float[Array, "rows frames"],
    *,
    flipped: bool = False,
    frame_of_row: Int[Array, " rows"] | None = None,
    n_frames: Count = None,
) -> Float[Array, ""]:
    """Mean of the Jacobian's norm on the diagonal over its mean elsewhere; 1 where the diagonal is nothing special.

    Args:
        norms: What `jacobian_norms` gave, for as many output as input frames, at least two.
        flipped: Of the anti-diagonal ``T - 1 - i`` instead.
        frame_of_row: Output frame of each row; by default all in order.
        n_frames: True number of frames if padded.

    Returns:
        A number >= 0.
    """
    size = jnp.asarray(norms.shape[1] if n_frames is None else n_frames)
    frame = jnp.arange(norms.shape[0]) if frame_of_row is None else frame_of_row
    column = jnp.arange(norms.shape[1])[None, :]
    real = (frame < size)[:, None] & (column < size)
    on = real & (column == (size - 1 - frame if flipped else frame)[:, None])
    on_mean = jnp.where(on, norms, 0.0).sum() / jnp.maximum(on.sum(), 1)
    off_mean = jnp.where(real & ~on, norms, 0.0).sum() / jnp.maximum((real & ~on).sum(), 1)
    # At most a thousand million, so that a map with nothing else than a diagonal has a finite value.
    return on_mean / jnp.maximum(jnp.maximum(off_mean, 1e-9 * on_mean), jnp.finfo(norms.dtype).tiny)


class AttentionJacobian(NamedTuple):
    """Blocks ``d y_i / d x_k`` of one attention head with a residual, by the way that they take; they add up.

    Attributes:
        residual: Past the attention.
        value: Through what is attended to.
        key: Through what decides that frame k is attended to.
        query: Through what decides where frame i looks.
    """

    residual: Float[Array, "frames frames dim dim"]
    value: Float[Array, "frames frames dim dim"]
    key: Float[Array, "frames frames dim dim"]
    query: Float[Array, "frames frames dim dim"]


def attention_jacobian(
    x: Float[Array, "frames dim"], logits: Float[Array, "dim dim"], value: Float[Array, "dim dim"]
) -> AttentionJacobian:
    """Exact Jacobian of ``y_i = x_i + W_V sum_j A_ij x_j`` with ``A`` the softmax over j of ``x_i^T M x_j``.

    ``J_ik = delta_ik I + W_V [A_ik I + A_ik (x_k - m_i) x_i^T M + delta_ik C_i M^T]`` with m_i the mean and C_i the
    covariance of the frames under row i of A. Every block off the diagonal has the factor A_ik, so it fades as 1 / T;
    those on the diagonal do not.

    Args:
        x: Frames.
        logits: M, that is ``W_Q W_K^T / sqrt(head dim)``.
        value: W_V, with the output projection in it.

    References:
        Hankemeier and Schilling 2026, arXiv 2602.10956: the three ways. The formula was derived anew.
    """
    frames, dim = x.shape
    eye, same = jnp.eye(dim, dtype=x.dtype), jnp.eye(frames, dtype=x.dtype)
    weights = jax.nn.softmax(x @ logits @ x.T, axis=-1)
    apart = x[None, :, :] - (weights @ x)[:, None, :]
    spread = jnp.einsum("ij,ija,ijb->iab", weights, apart, apart)
    return AttentionJacobian(
        jnp.einsum("ik,ab->ikab", same, eye),
        jnp.einsum("ik,ab->ikab", weights, value),
        jnp.einsum("ik,ikc,ib,ac->ikab", weights, apart, x @ logits, value),
        jnp.einsum("ik,icd,bd,ac->ikab", same, spread, logits, value),
    )
