"""The pull-back of each module of the network, for many labels in windows or for whole utterances.

Each module comes twice: forward, as in the rest of `gradalign.nn` but returning what its derivative needs, and back.
Written by hand, because what `jax.vjp` keeps cannot be cut into windows; `gradalign.nn.windowed` does that.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gradalign.nn.decoder import DecoderLayer
from gradalign.nn.encoder import ConformerBlock, Convolution, Stem
from gradalign.nn.layers import Attention, FeedForward, LayerNorm, Linear, depthwise, sinusoids

STEM_REACH = 3
"""Feature frames before an encoder frame's first one that the stem looks at: a window's gradients begin there."""

SHORT = 32
"""Encoder frames of windows that are short to self-attention."""


class NormKept(NamedTuple):
    """Of a layer norm: the normed input, and the inverse of its standard deviation."""

    unit: Float[Array, "*rows dim"]
    inverse: Float[Array, "*rows 1"]


class FeedForwardKept(NamedTuple):
    """Of a feed-forward module: its norm, and the slope of its activation."""

    norm: NormKept
    slope: Float[Array, "*rows inner"]


class AttentionKept(NamedTuple):
    """Of attention, what has one row a query or a key."""

    norm: NormKept
    query: Float[Array, "*queries heads head_dim"]
    attended: Float[Array, "*queries heads head_dim"]


class Memory(NamedTuple):
    """Keys and values."""

    key: Float[Array, "*keys heads head_dim"]
    value: Float[Array, "*keys heads head_dim"]


class ConvolutionKept(NamedTuple):
    """Of a convolution module: its norms, and the slopes by both halves of its gate and of its activation."""

    norm: NormKept
    by_value: Float[Array, "*rows dim"]
    by_gate: Float[Array, "*rows dim"]
    inner_norm: NormKept
    slope: Float[Array, "*rows dim"]


class BlockKept(NamedTuple):
    """Of a Conformer block, what has one row a frame."""

    first_feed_forward: FeedForwardKept
    attention: AttentionKept
    memory: Memory
    convolution: ConvolutionKept
    second_feed_forward: FeedForwardKept
    norm: NormKept


class StemKept(NamedTuple):
    """Of the stem: the slopes of both activations; the first is 0 outside of the recording, and has a row before it."""

    first: Float[Array, "*half_rows half_bands channels"]
    second: Float[Array, "*rows bands channels"]


class DecoderLayerKept(NamedTuple):
    """Of a decoder layer."""

    self_attention: AttentionKept
    self_memory: Memory
    self_weights: Float[Array, "*layers heads labels labels"]
    cross_attention: AttentionKept
    cross_memory: Memory
    cross_weights: Float[Array, "*layers heads labels frames"]
    feed_forward: FeedForwardKept


def keep_norm(layer: LayerNorm, x: Float[Array, "frames dim"]) -> tuple[Float[Array, "frames dim"], NormKept]:
    """Output of a layer norm, and what is kept."""
    exact = x.astype(jnp.float32)
    centred = exact - exact.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    unit = centred * inverse
    return unit.astype(x.dtype) * layer.scale[...][None, :] + layer.shift[...][None, :], NormKept(unit, inverse)


def pull_norm(layer: LayerNorm, kept: NormKept, g: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
    """Gradient by the input of a layer norm."""
    g = g * jnp.broadcast_to(layer.scale[...], g.shape)
    along = (g * kept.unit).mean(-1, keepdims=True)
    return kept.inverse * (g - g.mean(-1, keepdims=True) - kept.unit * along)


def pull_linear(layer: Linear, g: Float[Array, "*rows n_out"]) -> Float[Array, "*rows n_in"]:
    """Gradient by the input of a layer, in what it computes in; float32 between the matrix products."""
    kernel = layer.kernel[...]
    return jnp.matmul(g.astype(kernel.dtype), kernel.T, preferred_element_type=jnp.float32)


def _silu(x: Array) -> tuple[Array, Array]:
    """The activation and its slope."""
    gate = jax.nn.sigmoid(x)
    value = x * gate
    return value, gate + value * (1.0 - gate)


def _feed_forward(module: FeedForward, x: Float[Array, "frames dim"]) -> tuple[Array, FeedForwardKept]:
    normed, norm = keep_norm(module.norm, x)
    inner, slope = _silu(module.expand(normed))
    return module.project(inner), FeedForwardKept(norm, slope)


def _pull_feed_forward(module: FeedForward, kept: FeedForwardKept, g: Float[Array, "*rows dim"]) -> Array:
    g = pull_linear(module.project, g) * kept.slope
    return pull_norm(module.norm, kept.norm, pull_linear(module.expand, g))


def _convolution(
    module: Convolution, x: Float[Array, "frames dim"], valid: Bool[Array, " frames"]
) -> tuple[Array, ConvolutionKept]:
    normed, norm = keep_norm(module.norm, x)
    value, gate = jnp.split(module.expand(normed), 2, axis=-1)
    opened = jnp.where(valid[:, None], jax.nn.sigmoid(gate), 0.0)
    mixed, inner_norm = keep_norm(module.inner_norm, depthwise(value * opened, module.depthwise[...]))
    inner, slope = _silu(mixed)
    # The gate's slope is s (1 - s): zero where it is shut by the mask, too.
    return module.project(inner), ConvolutionKept(norm, opened, value * opened * (1.0 - opened), inner_norm, slope)


def _pull_convolution(module: Convolution, kept: ConvolutionKept, g: Float[Array, "labels window dim"]) -> Array:
    g = pull_norm(module.inner_norm, kept.inner_norm, pull_linear(module.project, g) * kept.slope)
    flipped = module.depthwise[...][::-1]
    g = jax.vmap(lambda rows: depthwise(rows, flipped))(g)
    g = jnp.concatenate([g * kept.by_value, g * kept.by_gate], axis=-1)
    return pull_norm(module.norm, kept.norm, pull_linear(module.expand, g))


def _attention(
    module: Attention,
    norm: NormKept,
    x: Array,
    memory: Array,
    mask: Bool[Array, "#queries keys"],
    bias: Float[Array, "queries keys"] | None = None,
) -> tuple[Array, AttentionKept, Memory, Array]:
    query, key, value = module.projected(x, memory)
    weights = module.weights(query, key, mask, bias)
    attended = jnp.einsum("hqk,khd->qhd", weights.astype(value.dtype), value)
    return module.out(attended.reshape(x.shape)), AttentionKept(norm, query, attended), Memory(key, value), weights


def keep_block(
    block: ConformerBlock, x: Float[Array, "frames dim"], valid: Bool[Array, " frames"]
) -> tuple[Array, BlockKept, Array]:
    """Output of a Conformer block, what is kept, and its self-attention map."""
    added, first = _feed_forward(block.first_feed_forward, x)
    x = x + 0.5 * added
    normed, norm = keep_norm(block.attention_norm, x)
    added, attention, memory, weights = _attention(
        block.self_attention, norm, normed, normed, valid[None, :], block.held(len(x))
    )
    x = x + added
    added, convolution = _convolution(block.convolution, x, valid)
    x = x + added
    added, second = _feed_forward(block.second_feed_forward, x)
    x, norm = keep_norm(block.norm, x + 0.5 * added)
    return x, BlockKept(first, attention, memory, convolution, second, norm), weights


def pull_block(
    block: ConformerBlock,
    kept: BlockKept,
    weights: Float[Array, "labels heads window window"],
    g: Float[Array, "labels window dim"],
) -> Float[Array, "labels window dim"]:
    """Gradients by the input of a Conformer block in windows, by what was kept of them."""
    g = pull_norm(block.norm, kept.norm, g)
    g = g + 0.5 * _pull_feed_forward(block.second_feed_forward, kept.second_feed_forward, g)
    g = g + _pull_convolution(block.convolution, kept.convolution, g)
    g = g + _pull_self_attention(block.self_attention, block.attention_norm, kept.attention, kept.memory, weights, g)
    return g + 0.5 * _pull_feed_forward(block.first_feed_forward, kept.first_feed_forward, g)


def _pull_self_attention(
    module: Attention,
    layer_norm: LayerNorm,
    kept: AttentionKept,
    memory: Memory,
    weights: Float[Array, "labels heads window window"],
    g: Float[Array, "labels window dim"],
) -> Float[Array, "labels window dim"]:
    """The pull-back of self-attention among the frames (or the positions) of one window."""
    by_attended = pull_linear(module.out, g).reshape(kept.attended.shape)
    by_logits = _by_logits(kept, memory.value, weights, by_attended)
    by_value = jnp.einsum("lhqk,lqhd->lkhd", weights, by_attended)
    by_query = _pull_query(module, by_logits, memory.key)
    query = kept.query if module.content_bias is None else kept.query + module.content_bias[...][None, None]
    by_key = jnp.einsum("lhqk,lqhd->lkhd", by_logits, query)
    together = jnp.concatenate([part.reshape(g.shape) for part in (by_query, by_key, by_value)], axis=-1)
    kernel = jnp.concatenate([linear.kernel[...].T for linear in (module.query, module.key, module.value)])
    back = jnp.matmul(together.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
    return pull_norm(layer_norm, kept.norm, back)


def _by_logits(
    kept: AttentionKept,
    value: Float[Array, "labels keys heads head_dim"],
    weights: Float[Array, "labels heads queries keys"],
    by_attended: Float[Array, "labels queries heads head_dim"],
) -> Float[Array, "labels heads queries keys"]:
    """Gradient by query-key products: the slope of the softmax needs no key outside the window.

    With weights w, values v and their mean m = sum_k w_k v_k, the gradient by the logit of key k is
    ``w_k g (v_k - m)``.
    """
    mean = (by_attended * kept.attended).sum(-1).transpose(0, 2, 1)
    by_weights = jnp.einsum("lqhd,lkhd->lhqk", by_attended, value)
    return weights * (by_weights - mean[..., None]) / np.float32(np.sqrt(value.shape[-1]))


def _pull_query(
    module: Attention, by_logits: Float[Array, "labels heads n n"], key: Float[Array, "labels n heads head_dim"]
) -> Float[Array, "labels n heads head_dim"]:
    """Gradient by the queries, from the keys and, in relative attention, from the codes of the distances to them.

    In a short window each query has its own rows of codes. In a longer one these would be too many; there the sines and
    cosines of ``i - k`` are those of ``k``, turned by ``i``: so sums over keys come first, as one matrix product with n
    rows of keys and codes, and no array has an axis of all distances.
    """
    if module.position is None:
        return jnp.einsum("lhqk,lkhd->lqhd", by_logits, key)
    n, head_dim = by_logits.shape[2], key.shape[-1]
    if n <= SHORT:
        row = n - 1 - np.arange(n)[:, None] + np.arange(n)[None, :]
        by_code = jnp.einsum("lhqk,qkhd->lqhd", by_logits, module.codes(n)[row])
        return by_code + jnp.einsum("lhqk,lkhd->lqhd", by_logits, key)
    kernel = module.position.kernel[...]
    dim = kernel.shape[0]
    codes = sinusoids(jnp.arange(n, dtype=jnp.float32), dim)
    keys_and_codes = jnp.concatenate([key, jnp.broadcast_to(codes[None, :, None], (*key.shape[:-1], dim))], axis=-1)
    sums = jnp.einsum("lhqk,lkhc->lhqc", by_logits, keys_and_codes)
    by_key, by_sine, by_cosine = jnp.split(sums, (head_dim, head_dim + dim // 2), axis=-1)
    sine, cosine = jnp.split(codes[None, None], 2, axis=-1)
    turned = jnp.concatenate([sine * by_cosine - cosine * by_sine, cosine * by_cosine + sine * by_sine], axis=-1)
    kernel = kernel.reshape(dim, module.heads, -1)
    by_code = jnp.einsum("lhqc,chd->lqhd", turned.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
    return jnp.moveaxis(by_key, 1, 2) + by_code


def keep_decoder_layer(
    layer: DecoderLayer, x: Array, memory: Array, causal: Bool[Array, "labels labels"], valid: Bool[Array, " frames"]
) -> tuple[Array, DecoderLayerKept]:
    """Output of a decoder layer, and what is kept."""
    normed, norm = keep_norm(layer.self_norm, x)
    added, own, own_memory, own_weights = _attention(layer.self_attention, norm, normed, normed, causal)
    x = x + added
    normed, norm = keep_norm(layer.cross_norm, x)
    added, cross, cross_memory, cross_weights = _attention(layer.cross_attention, norm, normed, memory, valid[None, :])
    x = x + added
    added, feed_forward = _feed_forward(layer.feed_forward, x)
    kept = DecoderLayerKept(own, own_memory, own_weights, cross, cross_memory, cross_weights, feed_forward)
    return x + added, kept


def pull_decoder_layer(
    layer: DecoderLayer,
    kept: DecoderLayerKept,
    g: Float[Array, "labels positions dim"],
    rows: Int[Array, "labels positions"],
    there: Bool[Array, "labels positions"],
    frames: Int[Array, "labels window"] | None,
) -> tuple[Float[Array, "labels positions dim"], Float[Array, "labels window dim"]]:
    """Gradients by the layer's input at the positions, and by the memory in the window (None: everywhere)."""
    g = g + _pull_feed_forward(layer.feed_forward, take(kept.feed_forward, rows), g)
    module, cross = layer.cross_attention, take(kept.cross_attention, rows)
    by_attended = pull_linear(module.out, g).reshape(cross.attended.shape)
    weights = jnp.moveaxis(kept.cross_weights, 0, 1)[rows]
    # All keys count for the query; the window is cut out of what goes to the memory.
    mean = (by_attended * cross.attended).sum(-1)[..., None]
    by_weights = jnp.einsum("lphd,khd->lphk", by_attended, kept.cross_memory.value)
    by_logits = weights * (by_weights - mean) / np.float32(np.sqrt(cross.query.shape[-1]))
    by_query = jnp.einsum("lphk,khd->lphd", by_logits, kept.cross_memory.key)
    if frames is not None:
        here = frames[:, None, None, :]
        weights, by_logits = (jnp.take_along_axis(part, here, axis=-1) for part in (weights, by_logits))
    by_value = jnp.einsum("lphw,lphd->lwhd", weights, by_attended)
    by_key = jnp.einsum("lphw,lphd->lwhd", by_logits, cross.query)
    flat = (*by_value.shape[:2], g.shape[-1])
    by_memory = pull_linear(module.value, by_value.reshape(flat)) + pull_linear(module.key, by_key.reshape(flat))
    g = g + pull_norm(layer.cross_norm, cross.norm, pull_linear(module.query, by_query.reshape(g.shape)))
    own_weights = kept.self_weights[:, rows[:, :, None], rows[:, None, :]] * there[None, :, None, :]
    own = _pull_self_attention(
        layer.self_attention,
        layer.self_norm,
        take(kept.self_attention, rows),
        take(kept.self_memory, rows),
        jnp.moveaxis(own_weights, 0, 1),
        g,
    )
    return g + own, by_memory


def keep_stem(stem: Stem, features: Array, n_frames: Int[Array, ""]) -> tuple[Array, StemKept]:
    """Output of the stem, and what is kept."""
    x = ((features - stem.config.feature_mean) / stem.config.feature_scale)[:, :, None]
    x = x.astype(stem.first.kernel[...].dtype)
    slopes, real = [], n_frames
    for layer in (stem.first, stem.second):
        x = jnp.where((jnp.arange(len(x)) < real)[:, None, None], x, 0.0)
        x, slope = _silu(_strided(layer, x))
        real = (real + 1) // 2
        slopes.append(slope)
    # What the second layer is told to be zero has no slope.
    halves = jnp.arange(len(slopes[0])) < (n_frames + 1) // 2
    first = jnp.pad(jnp.where(halves[:, None, None], slopes[0], 0.0), ((1, 0), (0, 0), (0, 0)))
    return stem.project(x.reshape(len(x), -1)), StemKept(first, slopes[1])


def _strided(layer: Linear, x: Float[Array, "frames bands channels"]) -> Array:
    """``layer(strided_patches(x))``, as a convolution of XLA: forward alone that is faster on a CPU, too."""
    kernel = layer.kernel[...].reshape(3, 3, x.shape[2], -1)
    # The last neighbourhood of an odd size reads one past the end, that of an even one does not.
    padding = tuple((1, (n + 1) // 2 * 2 - n) for n in x.shape[:2])
    layout = ("NHWC", "HWIO", "NHWC")
    found = jax.lax.conv_general_dilated(x[None], kernel, (2, 2), padding, dimension_numbers=layout)[0]
    assert layer.bias is not None, "the stem's layers have one"
    return found + layer.bias[...][None, None]


def pull_stem(
    stem: Stem, kept: StemKept, g: Float[Array, "labels window dim"], starts: Int[Array, " labels"]
) -> Float[Array, "labels feature_window mels"]:
    """Gradients by the features, from `STEM_REACH` frames before each window to its end."""
    window, config = g.shape[1], stem.config
    rows = starts[:, None] + jnp.arange(window)[None, :]
    # Frame j is made of rows 2 j - 1, 2 j and 2 j + 1 of the first layer; row -1 is padding.
    half_rows = 2 * starts[:, None] + jnp.arange(2 * window + 1)[None, :]
    first = kept.first[half_rows]
    second = kept.second[rows]
    g = pull_linear(stem.project, g).reshape(second.shape) * second
    g = _pull_patches(pull_linear(stem.second, g), first.shape[2]) * first
    g = _pull_patches(pull_linear(stem.first, g), config.n_mels)
    return g[..., 0] / config.feature_scale


def _pull_patches(
    g: Float[Array, "labels window bands patch"], n_bands: int
) -> Float[Array, "labels rows wide_bands channels"]:
    """Pull-back of `strided_patches` for windows of ``2 window + 1`` rows that need no padding."""
    n, window, half_bands, patch = g.shape
    channels = patch // 9

    def spread(part: Array, tap: int, other: int) -> Array:
        # Entry (r, c) goes to row 2 r + tap and band 2 c + other of the padded bands.
        widths = ((0, 0, 0), (tap, 2 - tap, 1), (other, 2 - other, 1), (0, 0, 0))
        return jax.lax.pad(part, jnp.zeros((), g.dtype), widths)

    parts = jnp.split(g, 9, axis=-1)
    total = jnp.zeros((n, 2 * window + 1, 2 * half_bands + 1, channels), g.dtype)
    for index, part in enumerate(parts):
        total = total + spread(part, *divmod(index, 3))
    return total[:, :, 1 : 1 + n_bands]


def take(kept: Any, rows: Int[Array, "*rows"]) -> Any:
    """The rows of everything that is kept."""
    return jax.tree.map(lambda leaf: leaf[rows], kept)
