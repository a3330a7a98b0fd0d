"""Layers shared by encoder and decoder, each for one utterance; callers batch by ``vmap``.

Convolutions are written as sums of shifts and as patches times a matrix: XLA's CPU convolutions
are an order of magnitude slower, and the numbers are the same (tests/test_layers.py).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, PRNGKeyArray

MASKED = -1e30
"""Finite stand-in for minus infinity: gradients through a masked softmax stay finite."""

Key = PRNGKeyArray | None
"""Source of dropout noise; None switches dropout off."""


def dropout(x: Float[Array, "..."], rate: float, key: Key) -> Float[Array, "..."]:
    """``x`` with a share ``rate`` of its entries zeroed and the rest scaled up; ``x`` itself without a key.

    The share is rounded to a multiple of 1/256: one random word decides on four entries, since drawing words is
    slow on CPUs.
    """
    dropped = min(round(256 * rate), 255)
    if key is None or dropped == 0:
        return x
    words = jax.random.bits(key, (-(-x.size // 4),), jnp.uint32)
    drawn = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(-1)[: x.size].reshape(x.shape)
    return jnp.where(drawn >= dropped, x * (256 / (256 - dropped)), 0.0)


def split_key(key: Key, n: int) -> tuple[Key, ...]:
    """``n`` independent keys, or ``n`` times None."""
    return (None,) * n if key is None else tuple(jax.random.split(key, n))


def sinusoids(positions: Float[Array, " positions"], dim: int) -> Float[Array, "positions dim"]:
    """Sinusoidal position codes (Vaswani et al. 2017, section 3.5), sines first, then cosines."""
    rates = np.exp(-np.log(10_000.0) * np.arange(0, dim, 2) / dim).astype(np.float32)
    angles = positions[:, None] * rates[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Linear(nnx.Module):
    """``x @ kernel + bias`` over the last axis."""

    def __init__(self, n_in: int, n_out: int, *, bias: bool = True, rngs: nnx.Rngs):
        limit = float(np.sqrt(3.0 / n_in))
        self.kernel = nnx.Param(jax.random.uniform(rngs.params(), (n_in, n_out), jnp.float32, -limit, limit))
        self.bias = nnx.Param(jnp.zeros((n_out,))) if bias else None

    def __call__(self, x: Float[Array, "... n_in"]) -> Float[Array, "... n_out"]:
        """Apply the layer."""
        y = x @ self.kernel[...]
        return y if self.bias is None else y + jnp.broadcast_to(self.bias[...], y.shape)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last axis, with scale and shift."""

    def __init__(self, dim: int):
        self.scale = nnx.Param(jnp.ones((dim,)))
        self.shift = nnx.Param(jnp.zeros((dim,)))

    def __call__(self, x: Float[Array, "frames dim"]) -> Float[Array, "frames dim"]:
        """Apply the layer."""
        # In float32 whatever the rest of the network computes in: a mean of squares needs the digits.
        exact = x.astype(jnp.float32)
        centred = exact - exact.mean(-1, keepdims=True)
        unit = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return unit.astype(x.dtype) * self.scale[...][None, :] + self.shift[...][None, :]


class FeedForward(nnx.Module):
    """Feed-forward module of the Conformer: norm, expand, Swish, project (Gulati et al. 2020, section 2.3)."""

    def __init__(self, dim: int, inner: int, rate: float, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(dim)
        self.expand = Linear(dim, inner, rngs=rngs)
        self.project = Linear(inner, dim, rngs=rngs)
        self.rate = rate

    def __call__(self, x: Float[Array, "frames dim"], key: Key = None) -> Float[Array, "frames dim"]:
        """What the module adds to its residual stream."""
        inner_key, out_key = split_key(key, 2)
        inner = dropout(jax.nn.silu(self.expand(self.norm(x))), self.rate, inner_key)
        return dropout(self.project(inner), self.rate, out_key)


class Attention(nnx.Module):
    """Multi-headed attention, with relative sinusoidal positions on request.

    With ``relative`` the logits are those of Transformer-XL (Dai et al. 2019, section 3.3), as the
    Conformer uses them: content and position terms, each with its learned bias.
    """

    def __init__(self, dim: int, heads: int, *, relative: bool, rngs: nnx.Rngs):
        self.query = Linear(dim, dim, rngs=rngs)
        self.key = Linear(dim, dim, rngs=rngs)
        self.value = Linear(dim, dim, rngs=rngs)
        self.out = Linear(dim, dim, rngs=rngs)
        self.heads = heads
        self.position = Linear(dim, dim, bias=False, rngs=rngs) if relative else None
        self.content_bias = nnx.Param(jnp.zeros((heads, dim // heads))) if relative else None
        self.position_bias = nnx.Param(jnp.zeros((heads, dim // heads))) if relative else None

    def __call__(
        self,
        x: Float[Array, "queries dim"],
        memory: Float[Array, "keys dim"],
        mask: Bool[Array, "#queries keys"],
        blend: tuple[Float[Array, "queries keys"], Float[Array, ""]] | None = None,
        bias: Float[Array, "queries keys"] | None = None,
    ) -> tuple[Float[Array, "queries dim"], Float[Array, "heads queries keys"]]:
        """The attended values and the attention map.

        Args:
            x: What asks.
            memory: What is looked at.
            mask: True where a query may look.
            blend: Prescribed weights, and the share in [0, 1] of the learned ones that is left beside them.
            bias: Added to the logits of every head.
        """
        query, key, value = self.projected(x, memory)
        weights = self.weights(query, key, mask, bias)
        if blend is not None:
            prescribed, learned = blend
            weights = learned * weights + (1.0 - learned) * prescribed[None]
        attended = jnp.einsum("hqk,khd->qhd", weights.astype(value.dtype), value)
        return self.out(attended.reshape(x.shape)), weights

    def projected(
        self, x: Float[Array, "queries dim"], memory: Float[Array, "keys dim"]
    ) -> tuple[
        Float[Array, "queries heads head_dim"], Float[Array, "keys heads head_dim"], Float[Array, "keys heads head_dim"]
    ]:
        """Queries, keys and values of every head."""
        return self._split(self.query(x)), self._split(self.key(memory)), self._split(self.value(memory))

    def weights(
        self,
        query: Float[Array, "queries heads head_dim"],
        key: Float[Array, "keys heads head_dim"],
        mask: Bool[Array, "#queries keys"],
        bias: Float[Array, "queries keys"] | None = None,
    ) -> Float[Array, "heads queries keys"]:
        """The attention map of what `projected` gives; a bias is added to the logits of every head."""
        if self.content_bias is None or self.position_bias is None:
            logits = jnp.einsum("qhd,khd->hqk", query, key)
        else:
            n = query.shape[0]
            logits = jnp.einsum("qhd,khd->hqk", query + self.content_bias[...][None], key)
            codes = self.codes(n).astype(query.dtype)
            by_distance = jnp.einsum("qhd,phd->hqp", query + self.position_bias[...][None], codes)
            logits = logits + relative_shift(by_distance)
        scaled = logits.astype(jnp.float32) / np.float32(np.sqrt(query.shape[-1]))
        scaled = scaled if bias is None else scaled + bias[None]
        return jax.nn.softmax(jnp.where(mask[None], scaled, MASKED), axis=-1)

    def codes(self, n: int) -> Float[Array, "distances heads head_dim"]:
        """What a query is multiplied by at each distance query - key, from ``n - 1`` down to ``-(n - 1)``."""
        assert self.position is not None, "asked for of relative attention only"
        distances = sinusoids(jnp.arange(n - 1, -n, -1, dtype=jnp.float32), self.position.kernel.shape[0])
        return self._split(self.position(distances.astype(self.position.kernel[...].dtype)))

    def _split(self, y: Float[Array, "n dim"]) -> Float[Array, "n heads head_dim"]:
        return y.reshape(y.shape[0], self.heads, -1)


def relative_shift(by_distance: Float[Array, "heads n distances"]) -> Float[Array, "heads n n"]:
    """Entries ``[h, i, j]`` of the logits by distance ``i - j``, whose axis runs from ``n-1`` to ``-(n-1)``.

    The pad-and-reshape trick of Dai et al. 2019, appendix B: no gather.
    """
    heads, n, distances = by_distance.shape
    padded = jnp.pad(by_distance, ((0, 0), (0, 0), (1, 0))).reshape(heads, distances + 1, n)
    return padded[:, 1:].reshape(heads, n, distances)[:, :, :n]


def depthwise(x: Float[Array, "frames dim"], kernel: Float[Array, "taps dim"]) -> Float[Array, "frames dim"]:
    """Depthwise convolution over time with zero padding, as a sum of shifted products; odd ``taps``."""
    taps, n = kernel.shape[0], x.shape[0]
    padded = jnp.pad(x, ((taps // 2, taps // 2), (0, 0)))
    total = jnp.zeros_like(x)
    for tap in range(taps):
        total = total + padded[tap : tap + n] * kernel[tap][None, :]
    return total


def strided_patches(
    x: Float[Array, "frames bands channels"],
) -> Float[Array, "half_frames half_bands patch"]:
    """The 3 x 3 neighbourhoods at every second frame and band, zero padded; patch = tap, tap, channel."""
    frames, bands, _ = x.shape
    rows, columns = (frames + 1) // 2, (bands + 1) // 2
    padded = jnp.pad(x, ((1, 2), (1, 2), (0, 0)))
    parts = [padded[i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(3) for j in range(3)]
    return jnp.concatenate(parts, axis=-1)
