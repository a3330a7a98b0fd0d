"""Gradients of all labels for the price of a few passes: each is pulled back through a stretch of frames only.

A teacher-forced pass keeps what its derivative needs (`teacher_forced`). The gradient of a label by the encoder's
output is then taken at the label's own window of encoder frames (`decoder_cotangents`), and carried down to a leaf
inside that window (`encoder_cotangents`); what leaves the window is dropped. With windows as long as the utterance
nothing is, and the result is that of `jax.vjp` (tests/test_windowed.py). Written by hand, because what
`jax.vjp` keeps cannot be cut into windows. Which windows are right is not decided here (`gradalign.compressed`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from gradalign.nn.aed import AED, FEATURES_LEAF
from gradalign.nn.decoder import DecoderLayer
from gradalign.nn.encoder import ConformerBlock, Convolution, Stem
from gradalign.nn.layers import Attention, FeedForward, LayerNorm, Linear, depthwise, sinusoids

STEM_REACH = 3
"""Feature frames before an encoder frame's first one that the stem looks at: a window's gradients begin there."""


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
    """Of the stem: the slopes of both activations, where the recording is (0 outside)."""

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


class Pass(NamedTuple):
    """A teacher-forced pass, and what its derivative needs; the blocks and layers stacked.

    Attributes:
        log_probs: Of each label of the transcript.
        all_log_probs: Of every label at each position.
        encoded: Output of the encoder.
        real: Which feature frames are not padding.
        stem: Of the stem.
        blocks: Of the blocks.
        block_weights: Self-attention maps of the blocks.
        layers: Of the decoder layers.
        norm: Of the decoder's last norm.
        by_logits: Gradient of each label's log-probability by the decoder's logits.
    """

    log_probs: Float[Array, " labels"]
    all_log_probs: Float[Array, "labels vocabulary"]
    encoded: Float[Array, "encoder_frames dim"]
    real: Bool[Array, " frames"]
    stem: StemKept
    blocks: BlockKept
    block_weights: Float[Array, "blocks heads encoder_frames encoder_frames"]
    layers: DecoderLayerKept
    norm: NormKept
    by_logits: Float[Array, "labels vocabulary"]


class Windows(NamedTuple):
    """Stretches of encoder frames, as long as each other."""

    starts: Int[Array, " labels"]
    length: int


def teacher_forced(
    network: AED,
    features: Float[Array, "frames mels"],
    labels: Int[Array, " labels"],
    n_frames: Int[Array, ""] | int,
) -> Pass:
    """`AED.label_log_probs`, keeping what the derivative needs.

    Args:
        network: The network; its dropout is off.
        features: Log-mel frames.
        labels: The transcript; rows past its end may hold anything.
        n_frames: Real feature frames.
    """
    # The last window of the stem is then as long as the others.
    features = jnp.pad(features, ((0, -len(features) % network.config.subsampling), (0, 0)))
    x, stem = _stem(network.encoder.stem, features, jnp.asarray(n_frames))
    valid = network.valid_frames(x.shape[0], n_frames)
    if network.encoder.absolute:
        x = x + sinusoids(jnp.arange(x.shape[0], dtype=jnp.float32), x.shape[1]).astype(x.dtype)
    graph, state = nnx.split(network.encoder.blocks)

    def block(x: Array, parameters: Any) -> tuple[Array, tuple[BlockKept, Array]]:
        x, kept, weights = _block(cast(ConformerBlock, nnx.merge(graph, parameters)), x, valid)
        return x, (kept, weights)

    encoded, (blocks, block_weights) = jax.lax.scan(block, x, state)

    decoder = network.decoder
    history = jnp.concatenate([jnp.zeros((1,), labels.dtype), labels[:-1]])
    n, dim = len(labels), encoded.shape[1]
    y = decoder.embedding[...][history]
    y = y + sinusoids(jnp.arange(n, dtype=jnp.float32), dim).astype(y.dtype)
    memory = decoder.marked(encoded)
    causal = jnp.tril(jnp.ones((n, n), bool))
    layer_graph, layer_state = nnx.split(decoder.layers)

    def layer(y: Array, parameters: Any) -> tuple[Array, DecoderLayerKept]:
        return _decoder_layer(cast(DecoderLayer, nnx.merge(layer_graph, parameters)), y, memory, causal, valid)

    y, layers = jax.lax.scan(layer, y, layer_state)
    y, norm = _norm(decoder.norm, y)
    log_probs = jax.nn.log_softmax(decoder.project(y).astype(jnp.float32), axis=-1)
    by_logits = jax.nn.one_hot(labels, log_probs.shape[1]) - jnp.exp(log_probs)
    chosen = jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
    return Pass(
        chosen,
        log_probs,
        encoded,
        jnp.arange(len(features)) < n_frames,
        stem,
        blocks,
        block_weights,
        layers,
        norm,
        by_logits,
    )


def decoder_cotangents(
    network: AED,
    kept: Pass,
    labels: Int[Array, " chosen"],
    starts: Int[Array, " chosen"],
    *,
    window: int,
    history: int = 0,
) -> Float[Array, "chosen window dim"]:
    """Gradient of the log-probability of each label by the encoder's output, in the label's window.

    A label hears the recording through the cross-attention of its own position in every layer, and through that of
    the positions before it, which its self-attention reads.

    Args:
        network: The network.
        kept: Its pass.
        labels: Which labels, by index.
        starts: First encoder frame of each window, which must lie inside the utterance.
        window: Encoder frames a window.
        history: Positions before the label's own that are followed; 0 for its own only. As many as there are
            labels: all, and nothing is left out.
    """
    decoder = network.decoder
    graph, state = nnx.split(decoder.layers)
    before = jnp.arange(-history, 1)
    positions = labels[:, None] + before[None, :]
    there = positions >= 0
    rows = jnp.maximum(positions, 0)
    frames = starts[:, None] + jnp.arange(window)[None, :]
    by_logits = kept.by_logits[labels]
    last = _pull_norm(decoder.norm, _take(kept.norm, labels), _pull_linear(decoder.project, by_logits))
    g = jnp.zeros((*rows.shape, last.shape[-1])).at[:, -1].set(last)
    gathered = jnp.zeros((len(labels), window, last.shape[-1]))

    def layer(carry: tuple[Array, Array], inputs: tuple[Any, DecoderLayerKept]) -> tuple[tuple[Array, Array], None]:
        g, gathered = carry
        parameters, layer_kept = inputs
        module = cast(DecoderLayer, nnx.merge(graph, parameters))
        g, by_memory = _pull_decoder_layer(module, layer_kept, g, rows, there, frames)
        return (g, gathered + by_memory), None

    (_, gathered), _ = jax.lax.scan(layer, (g, gathered), (state, kept.layers), reverse=True)
    return gathered


def encoder_cotangents(
    network: AED,
    kept: Pass,
    cotangents: Float[Array, "labels window dim"],
    starts: Int[Array, " labels"] | None,
    *,
    depths: tuple[int, ...] = (FEATURES_LEAF,),
    wider: Windows | None = None,
) -> tuple[Float[Array, "labels leaf_window leaf_dim"], ...]:
    """Gradients at some leaves from those at the encoder's output, each inside its window, by one way down.

    Args:
        network: The network.
        kept: Its pass.
        cotangents: What `decoder_cotangents` gave, or any combination of it.
        starts: First encoder frame of each window; None for windows that are the whole utterance, which are then
            exact, and share all that was kept.
        depths: The leaves: features (-1), stem output (0), or output of block ``depth``. The backward stops at the
            lowest.
        wider: Windows in the lower half of the blocks, each around the other one: gradients spread on their way down.
            None for the same ones.

    Returns:
        For each leaf as many frames as the window (the wider one) at a depth >= 0. At the features ``4 window + 3`` of
        them, the first of which is frame ``4 start - 3``, which may lie before the recording; what is there is zero.
    """
    cotangents = cotangents.astype(jnp.float32)
    lowest, n_blocks = max(min(depths), 0), network.config.encoder_layers
    middle = lowest if wider is None else max(lowest, n_blocks // 2)
    found = {n_blocks: cotangents}
    if middle < n_blocks:
        found = _down(network, kept, cotangents, starts, (middle, n_blocks), depths)
    if wider is not None and starts is not None:
        found = {depth: _widened(one, starts, wider) for depth, one in found.items()}
        starts = wider.starts
        if lowest < middle:
            found |= _down(network, kept, found[middle], starts, (lowest, middle), depths)
    if FEATURES_LEAF in depths:
        first = _first(starts)
        g = _apply(starts, lambda one: _pull_stem(network.encoder.stem, kept.stem, one, first), found[0])
        real = jnp.pad(kept.real, (3, 0))[4 * first[:, None] + jnp.arange(g.shape[1])[None, :]]
        found[FEATURES_LEAF] = jnp.where(real[..., None], g, 0.0)
    return tuple(found[depth] for depth in depths)


def _down(
    network: AED,
    kept: Pass,
    cotangents: Float[Array, "labels window dim"],
    starts: Int[Array, " labels"] | None,
    blocks: tuple[int, int],
    depths: tuple[int, ...],
) -> dict[int, Float[Array, "labels window dim"]]:
    """Through the blocks from the second number down to the first one: gradients by depth, at both of them at least."""
    low, high = blocks
    window = cotangents.shape[1]
    rows = _first(starts)[:, None] + jnp.arange(window)[None, :]
    graph, state = nnx.split(network.encoder.blocks)
    inputs = jax.tree.map(lambda leaf: leaf[low:high], (state, kept.blocks, kept.block_weights))
    # Only what is asked for is kept on the way down.
    trace = any(low < depth < high for depth in depths)

    def block(g: Array, inputs: tuple[Any, BlockKept, Array]) -> tuple[Array, Array | None]:
        parameters, block_kept, block_weights = inputs
        module = cast(ConformerBlock, nnx.merge(graph, parameters))
        if starts is None:
            block_kept, here = jax.tree.map(lambda leaf: leaf[None], (block_kept, block_weights))
        else:
            block_kept = _take(block_kept, rows)
            here = jax.vmap(lambda start: _square(block_weights, start, window))(starts)
        g = _apply(starts, lambda one: _pull_block(module, block_kept, here, one), g)
        return g, g if trace else None

    g, passed = jax.lax.scan(block, cotangents, inputs, reverse=True)
    found = {low: g, high: cotangents}
    if passed is not None:
        found |= {depth: passed[depth - low] for depth in range(low, high)}
    return found


def _first(starts: Int[Array, " labels"] | None) -> Int[Array, " rows"]:
    return jnp.zeros(1, jnp.int32) if starts is None else starts


def _apply(starts: Int[Array, " labels"] | None, pull: Callable[[Array], Array], g: Array) -> Array:
    """One label at a time without windows, batched by vmap: what is kept has one entry for all of them."""
    return pull(g) if starts is not None else jax.vmap(lambda one: pull(one[None])[0])(g)


def _widened(
    g: Float[Array, "labels window dim"], starts: Int[Array, " labels"], wider: Windows
) -> Float[Array, "labels wider_window dim"]:
    """The same gradients in wider windows, with zeros around them."""

    def one(g: Array, at: Array) -> Array:
        return jax.lax.dynamic_update_slice(jnp.zeros((wider.length, g.shape[1]), g.dtype), g, (at, jnp.zeros_like(at)))

    return jax.vmap(one)(g, starts - wider.starts)


# Each module: forward with what is kept, and the pull-back of rows of any leading shape.


def _norm(layer: LayerNorm, x: Float[Array, "frames dim"]) -> tuple[Float[Array, "frames dim"], NormKept]:
    exact = x.astype(jnp.float32)
    centred = exact - exact.mean(-1, keepdims=True)
    inverse = jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    unit = centred * inverse
    return unit.astype(x.dtype) * layer.scale[...][None, :] + layer.shift[...][None, :], NormKept(unit, inverse)


def _pull_norm(layer: LayerNorm, kept: NormKept, g: Float[Array, "*rows dim"]) -> Float[Array, "*rows dim"]:
    g = g * jnp.broadcast_to(layer.scale[...], g.shape)
    along = (g * kept.unit).mean(-1, keepdims=True)
    return kept.inverse * (g - g.mean(-1, keepdims=True) - kept.unit * along)


def _pull_linear(layer: Linear, g: Float[Array, "*rows n_out"]) -> Float[Array, "*rows n_in"]:
    """In what the layer computes in; gradients are float32 between the matrix products."""
    kernel = layer.kernel[...]
    return jnp.matmul(g.astype(kernel.dtype), kernel.T, preferred_element_type=jnp.float32)


def _silu(x: Array) -> tuple[Array, Array]:
    """The activation and its slope."""
    gate = jax.nn.sigmoid(x)
    value = x * gate
    return value, gate + value * (1.0 - gate)


def _feed_forward(module: FeedForward, x: Float[Array, "frames dim"]) -> tuple[Array, FeedForwardKept]:
    normed, norm = _norm(module.norm, x)
    inner, slope = _silu(module.expand(normed))
    return module.project(inner), FeedForwardKept(norm, slope)


def _pull_feed_forward(module: FeedForward, kept: FeedForwardKept, g: Float[Array, "*rows dim"]) -> Array:
    g = _pull_linear(module.project, g) * kept.slope
    return _pull_norm(module.norm, kept.norm, _pull_linear(module.expand, g))


def _convolution(
    module: Convolution, x: Float[Array, "frames dim"], valid: Bool[Array, " frames"]
) -> tuple[Array, ConvolutionKept]:
    normed, norm = _norm(module.norm, x)
    value, gate = jnp.split(module.expand(normed), 2, axis=-1)
    opened = jnp.where(valid[:, None], jax.nn.sigmoid(gate), 0.0)
    mixed, inner_norm = _norm(module.inner_norm, depthwise(value * opened, module.depthwise[...]))
    inner, slope = _silu(mixed)
    # The gate's slope is s (1 - s): zero where it is shut by the mask, too.
    return module.project(inner), ConvolutionKept(norm, opened, value * opened * (1.0 - opened), inner_norm, slope)


def _pull_convolution(module: Convolution, kept: ConvolutionKept, g: Float[Array, "labels window dim"]) -> Array:
    g = _pull_norm(module.inner_norm, kept.inner_norm, _pull_linear(module.project, g) * kept.slope)
    flipped = module.depthwise[...][::-1]
    g = jax.vmap(lambda rows: depthwise(rows, flipped))(g)
    g = jnp.concatenate([g * kept.by_value, g * kept.by_gate], axis=-1)
    return _pull_norm(module.norm, kept.norm, _pull_linear(module.expand, g))


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


def _block(
    block: ConformerBlock, x: Float[Array, "frames dim"], valid: Bool[Array, " frames"]
) -> tuple[Array, BlockKept, Array]:
    added, first = _feed_forward(block.first_feed_forward, x)
    x = x + 0.5 * added
    normed, norm = _norm(block.attention_norm, x)
    added, attention, memory, weights = _attention(
        block.self_attention, norm, normed, normed, valid[None, :], block.held(len(x))
    )
    x = x + added
    added, convolution = _convolution(block.convolution, x, valid)
    x = x + added
    added, second = _feed_forward(block.second_feed_forward, x)
    x, norm = _norm(block.norm, x + 0.5 * added)
    return x, BlockKept(first, attention, memory, convolution, second, norm), weights


def _pull_block(
    block: ConformerBlock,
    kept: BlockKept,
    weights: Float[Array, "labels heads window window"],
    g: Float[Array, "labels window dim"],
) -> Float[Array, "labels window dim"]:
    g = _pull_norm(block.norm, kept.norm, g)
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
    by_attended = _pull_linear(module.out, g).reshape(kept.attended.shape)
    by_logits = _by_logits(kept, memory.value, weights, by_attended)
    by_value = jnp.einsum("lhqk,lqhd->lkhd", weights, by_attended)
    by_query = jnp.einsum("lhqk,lkhd->lqhd", by_logits, memory.key)
    query = kept.query
    if module.content_bias is not None:
        query = query + module.content_bias[...][None, None]
        by_query = by_query + jnp.einsum("lhqp,phd->lqhd", _by_distance(by_logits), module.codes(g.shape[1]))
    by_key = jnp.einsum("lhqk,lqhd->lkhd", by_logits, query)
    together = jnp.concatenate([part.reshape(g.shape) for part in (by_query, by_key, by_value)], axis=-1)
    kernel = jnp.concatenate([linear.kernel[...].T for linear in (module.query, module.key, module.value)])
    back = jnp.matmul(together.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)
    return _pull_norm(layer_norm, kept.norm, back)


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


def _by_distance(by_logits: Float[Array, "labels heads n n"]) -> Float[Array, "labels heads n distances"]:
    """Pull-back of `relative_shift`: row i moves ``n - 1 - i`` columns to the right, zeros around it."""
    n_labels, heads, n, _ = by_logits.shape
    if n == 1:
        return by_logits
    rows = jnp.pad(by_logits, ((0, 0), (0, 0), (0, 0), (0, n - 2))).reshape(n_labels, heads, -1)
    return jnp.pad(rows, ((0, 0), (0, 0), (n - 1, 1))).reshape(n_labels, heads, n, 2 * n - 1)


def _decoder_layer(
    layer: DecoderLayer, x: Array, memory: Array, causal: Bool[Array, "labels labels"], valid: Bool[Array, " frames"]
) -> tuple[Array, DecoderLayerKept]:
    normed, norm = _norm(layer.self_norm, x)
    added, own, own_memory, own_weights = _attention(layer.self_attention, norm, normed, normed, causal)
    x = x + added
    normed, norm = _norm(layer.cross_norm, x)
    added, cross, cross_memory, cross_weights = _attention(layer.cross_attention, norm, normed, memory, valid[None, :])
    x = x + added
    added, feed_forward = _feed_forward(layer.feed_forward, x)
    kept = DecoderLayerKept(own, own_memory, own_weights, cross, cross_memory, cross_weights, feed_forward)
    return x + added, kept


def _pull_decoder_layer(
    layer: DecoderLayer,
    kept: DecoderLayerKept,
    g: Float[Array, "labels positions dim"],
    rows: Int[Array, "labels positions"],
    there: Bool[Array, "labels positions"],
    frames: Int[Array, "labels window"],
) -> tuple[Float[Array, "labels positions dim"], Float[Array, "labels window dim"]]:
    """Gradients by the layer's input at the positions, and by the memory in the window."""
    g = g + _pull_feed_forward(layer.feed_forward, _take(kept.feed_forward, rows), g)
    module, cross = layer.cross_attention, _take(kept.cross_attention, rows)
    by_attended = _pull_linear(module.out, g).reshape(cross.attended.shape)
    weights = jnp.moveaxis(kept.cross_weights, 0, 1)[rows]
    # All keys count for the query; the window is cut out of what goes to the memory.
    mean = (by_attended * cross.attended).sum(-1)[..., None]
    by_weights = jnp.einsum("lphd,khd->lphk", by_attended, kept.cross_memory.value)
    by_logits = weights * (by_weights - mean) / np.float32(np.sqrt(cross.query.shape[-1]))
    by_query = jnp.einsum("lphk,khd->lphd", by_logits, kept.cross_memory.key)
    here = frames[:, None, None, :]
    by_value = jnp.einsum("lphw,lphd->lwhd", jnp.take_along_axis(weights, here, axis=-1), by_attended)
    by_key = jnp.einsum("lphw,lphd->lwhd", jnp.take_along_axis(by_logits, here, axis=-1), cross.query)
    flat = (*frames.shape, g.shape[-1])
    by_memory = _pull_linear(module.value, by_value.reshape(flat)) + _pull_linear(module.key, by_key.reshape(flat))
    g = g + _pull_norm(layer.cross_norm, cross.norm, _pull_linear(module.query, by_query.reshape(g.shape)))
    own_weights = kept.self_weights[:, rows[:, :, None], rows[:, None, :]] * there[None, :, None, :]
    own = _pull_self_attention(
        layer.self_attention,
        layer.self_norm,
        _take(kept.self_attention, rows),
        _take(kept.self_memory, rows),
        jnp.moveaxis(own_weights, 0, 1),
        g,
    )
    return g + own, by_memory


def _stem(stem: Stem, features: Array, n_frames: Int[Array, ""]) -> tuple[Array, StemKept]:
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
    return stem.project(x.reshape(len(x), -1)), StemKept(jnp.where(halves[:, None, None], slopes[0], 0.0), slopes[1])


def _strided(layer: Linear, x: Float[Array, "frames bands channels"]) -> Array:
    """``layer(strided_patches(x))``, as a convolution of XLA: forward alone that is faster on a CPU, too."""
    kernel = layer.kernel[...].reshape(3, 3, x.shape[2], -1)
    # The last neighbourhood of an odd size reads one past the end, that of an even one does not.
    padding = tuple((1, (n + 1) // 2 * 2 - n) for n in x.shape[:2])
    layout = ("NHWC", "HWIO", "NHWC")
    found = jax.lax.conv_general_dilated(x[None], kernel, (2, 2), padding, dimension_numbers=layout)[0]
    assert layer.bias is not None, "the stem's layers have one"
    return found + layer.bias[...][None, None]


def _pull_stem(
    stem: Stem, kept: StemKept, g: Float[Array, "labels window dim"], starts: Int[Array, " labels"]
) -> Float[Array, "labels feature_window mels"]:
    window, config = g.shape[1], stem.config
    rows = starts[:, None] + jnp.arange(window)[None, :]
    # Frame j is made of rows 2 j - 1, 2 j and 2 j + 1 of the first layer; row -1 is padding.
    half_rows = 2 * starts[:, None] + jnp.arange(2 * window + 1)[None, :]
    first = jnp.pad(kept.first, ((1, 0), (0, 0), (0, 0)))[half_rows]
    second = kept.second[rows]
    g = _pull_linear(stem.project, g).reshape(second.shape) * second
    g = _pull_patches(_pull_linear(stem.second, g), first.shape[2]) * first
    g = _pull_patches(_pull_linear(stem.first, g), config.n_mels)
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


def _take(kept: Any, rows: Int[Array, "*rows"]) -> Any:
    """The rows of everything that is kept."""
    return jax.tree.map(lambda leaf: leaf[rows], kept)


def _square(weights: Float[Array, "heads frames frames"], start: Array, window: int) -> Array:
    zero = jnp.zeros((), start.dtype)
    return jax.lax.dynamic_slice(weights, (zero, start, start), (weights.shape[0], window, window))
