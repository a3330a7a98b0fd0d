"""Gradients of all labels for the price of a few passes: each is pulled back through a stretch of frames only.

A teacher-forced pass keeps what its derivative needs (`teacher_forced`). The gradient of a label by the encoder's
output is then taken at the label's own window of encoder frames (`decoder_cotangents`), and carried down to a leaf
inside that window (`encoder_cotangents`); what leaves the window is dropped. With windows as long as the utterance
nothing is, and the result is that of `jax.vjp` (tests/test_windowed.py). How each module is pulled back is in
`gradalign.nn.pullback`; which windows are right is not decided here (`gradalign.compressed`).
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
from gradalign.nn.encoder import ConformerBlock
from gradalign.nn.layers import sinusoids
from gradalign.nn.pullback import (
    STEM_REACH,
    BlockKept,
    DecoderLayerKept,
    NormKept,
    StemKept,
    keep_block,
    keep_decoder_layer,
    keep_norm,
    keep_stem,
    pull_block,
    pull_decoder_layer,
    pull_linear,
    pull_norm,
    pull_stem,
    take,
)

STEM_ROWS = 325
"""Rows that go through the stem together, at most: each has 5,760 numbers there, and memory that is new is slow."""


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
        states: Outputs of the blocks.
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
    states: Float[Array, "blocks encoder_frames dim"]
    layers: DecoderLayerKept
    norm: NormKept
    by_logits: Float[Array, "labels vocabulary"]


class Windows(NamedTuple):
    """Stretches of encoder frames, as long as each other."""

    starts: Int[Array, " labels"]
    length: int


class AtLeaves(NamedTuple):
    """Gradients at the leaves that were asked for.

    Attributes:
        features: At the features: ``4 window + 3`` frames, the first of which is frame ``4 start - 3``, which may lie
            before the recording; what is there is zero. None if not asked for.
        deeper: At the others, in order of depth.
    """

    features: Float[Array, "labels feature_window mels"] | None
    deeper: Float[Array, "leaves labels window dim"]


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
    x, stem = keep_stem(network.encoder.stem, features, jnp.asarray(n_frames))
    valid = network.valid_frames(x.shape[0], n_frames)
    if network.encoder.absolute:
        x = x + sinusoids(jnp.arange(x.shape[0], dtype=jnp.float32), x.shape[1]).astype(x.dtype)
    graph, state = nnx.split(network.encoder.blocks)

    def block(x: Array, parameters: Any) -> tuple[Array, tuple[BlockKept, Array, Array]]:
        x, kept, weights = keep_block(cast(ConformerBlock, nnx.merge(graph, parameters)), x, valid)
        return x, (kept, weights, x)

    encoded, (blocks, block_weights, states) = jax.lax.scan(block, x, state)

    decoder = network.decoder
    history = jnp.concatenate([jnp.zeros((1,), labels.dtype), labels[:-1]])
    n, dim = len(labels), encoded.shape[1]
    y = decoder.embedding[...][history]
    y = y + sinusoids(jnp.arange(n, dtype=jnp.float32), dim).astype(y.dtype)
    memory = decoder.marked(encoded)
    causal = jnp.tril(jnp.ones((n, n), bool))
    layer_graph, layer_state = nnx.split(decoder.layers)

    def layer(y: Array, parameters: Any) -> tuple[Array, DecoderLayerKept]:
        return keep_decoder_layer(cast(DecoderLayer, nnx.merge(layer_graph, parameters)), y, memory, causal, valid)

    y, layers = jax.lax.scan(layer, y, layer_state)
    y, norm = keep_norm(decoder.norm, y)
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
        states,
        layers,
        norm,
        by_logits,
    )


def decoder_cotangents(
    network: AED,
    kept: Pass,
    labels: Int[Array, " chosen"],
    windows: Windows,
    *,
    history: int = 0,
) -> Float[Array, "chosen window dim"]:
    """Gradient of the log-probability of each label by the encoder's output, in the label's window.

    A label hears the recording through the cross-attention of its own position in every layer, and through that of
    the positions before it, which its self-attention reads.

    Args:
        network: The network.
        kept: Its pass.
        labels: Which labels, by index.
        windows: Of encoder frames, one for each of the labels; they must lie inside the utterance.
        history: Positions before the label's own that are followed; 0 for its own only. As many as there are
            labels: all, and nothing is left out.
    """
    positions = labels[:, None] + jnp.arange(-history, 1)[None, :]
    rows = jnp.maximum(positions, 0)
    frames = windows.starts[:, None] + jnp.arange(windows.length)[None, :]
    last = _pull_output(network, kept, kept.by_logits[labels], labels)
    g = jnp.zeros((*rows.shape, last.shape[-1])).at[:, -1].set(last)
    return _pull_layers(network, kept, g, rows, positions >= 0, frames)


def decoder_pull_back(
    network: AED, kept: Pass, weights: Float[Array, "rows labels"]
) -> Float[Array, "rows encoder_frames dim"]:
    """Gradient by the encoder's output of weighted sums of the labels' log-probabilities, through all paths there are.

    Args:
        network: The network.
        kept: Its pass.
        weights: Of each label in each of the sums.
    """
    every = jnp.arange(weights.shape[1])[None]

    def one(weights: Float[Array, " labels"]) -> Float[Array, "encoder_frames dim"]:
        g = _pull_output(network, kept, weights[:, None] * kept.by_logits, every[0])[None]
        return _pull_layers(network, kept, g, every, every >= 0, None)[0]

    return jax.vmap(one)(weights)


def _pull_output(
    network: AED, kept: Pass, by_logits: Float[Array, "rows vocabulary"], rows: Int[Array, " rows"]
) -> Float[Array, "rows dim"]:
    """From the decoder's logits at some positions to what its layers gave there."""
    decoder = network.decoder
    return pull_norm(decoder.norm, take(kept.norm, rows), pull_linear(decoder.project, by_logits))


def _pull_layers(
    network: AED,
    kept: Pass,
    g: Float[Array, "labels positions dim"],
    rows: Int[Array, "labels positions"],
    there: Bool[Array, "labels positions"],
    frames: Int[Array, "labels window"] | None,
) -> Float[Array, "labels window dim"]:
    """From what the layers gave at some positions to the encoder's output in windows (None: everywhere)."""
    graph, state = nnx.split(network.decoder.layers)
    window = len(kept.encoded) if frames is None else frames.shape[1]
    gathered = jnp.zeros((len(g), window, g.shape[-1]))

    def layer(carry: tuple[Array, Array], inputs: tuple[Any, DecoderLayerKept]) -> tuple[tuple[Array, Array], None]:
        g, gathered = carry
        parameters, layer_kept = inputs
        module = cast(DecoderLayer, nnx.merge(graph, parameters))
        g, by_memory = pull_decoder_layer(module, layer_kept, g, rows, there, frames)
        return (g, gathered + by_memory), None

    (_, gathered), _ = jax.lax.scan(layer, (g, gathered), (state, kept.layers), reverse=True)
    return gathered


def encoder_cotangents(
    network: AED,
    kept: Pass,
    cotangents: Float[Array, "labels window dim"],
    windows: Windows | None,
    *,
    depths: tuple[int, ...] = (FEATURES_LEAF,),
) -> AtLeaves:
    """Gradients at some leaves from those at the encoder's output, each inside its window, by one way down.

    Args:
        network: The network.
        kept: Its pass.
        cotangents: What `decoder_cotangents` gave in these windows, or any combination of it.
        windows: Where; None for windows that are the whole utterance (of `decoder_pull_back`), which are then exact,
            and share all that was kept.
        depths: The leaves: features (-1), stem output (0), or output of block ``depth``. The backward stops at the
            lowest.
    """
    cotangents = cotangents.astype(jnp.float32)
    lowest, n_blocks = max(min(depths), 0), network.config.encoder_layers
    starts = None if windows is None else windows.starts
    # Entry k is at depth ``lowest + k``, at the end of it all; only the first where no other is asked for.
    found = _down(network, kept, cotangents, starts, (lowest, n_blocks), trace=max(depths) > lowest)
    features = None
    if FEATURES_LEAF in depths:
        first, stem = _first(starts), network.encoder.stem
        # A few labels at a time, the same number each time, or the rest of them would be another program.
        n_labels, window = found.shape[1:3]
        together = max(n for n in range(1, max(STEM_ROWS // window, 1) + 1) if n_labels % n == 0)
        g = jax.lax.map(
            lambda one: pull_stem(stem, kept.stem, one[0][None], one[1][None])[0],
            (found[0], jnp.broadcast_to(first, (n_labels,))),
            batch_size=together,
        )
        real = jnp.pad(kept.real, (STEM_REACH, 0))[4 * first[:, None] + jnp.arange(g.shape[1])[None, :]]
        features = jnp.where(real[..., None], g, 0.0)
    deeper = np.array(sorted(depth for depth in depths if depth != FEATURES_LEAF), np.int32)
    return AtLeaves(features, found[deeper - lowest])


def _down(
    network: AED,
    kept: Pass,
    cotangents: Float[Array, "labels window dim"],
    starts: Int[Array, " labels"] | None,
    blocks: tuple[int, int],
    *,
    trace: bool,
) -> Float[Array, "depths labels window dim"]:
    """Through the blocks from the second number down to the first one: gradients there or, traced, at all up to it."""
    low, high = blocks
    if low == high:
        return cotangents[None]
    window = cotangents.shape[1]
    rows = _first(starts)[:, None] + jnp.arange(window)[None, :]
    graph, state = nnx.split(network.encoder.blocks)

    def block(g: Array, at: Array) -> tuple[Array, Array | None]:
        # Taken one by one: a slice of all of them would be copied.
        parameters, block_kept, block_weights = jax.tree.map(
            lambda leaf: leaf[at], (state, kept.blocks, kept.block_weights)
        )
        module = cast(ConformerBlock, nnx.merge(graph, parameters))
        if starts is None:
            block_kept, here = jax.tree.map(lambda leaf: leaf[None], (block_kept, block_weights))
        else:
            block_kept = take(block_kept, rows)
            here = jax.vmap(lambda start: _square(block_weights, start, window))(starts)
        g = _apply(starts, lambda one: pull_block(module, block_kept, here, one), g)
        return g, g if trace else None

    g, passed = jax.lax.scan(block, cotangents, jnp.arange(low, high), reverse=True)
    return g[None] if passed is None else jnp.concatenate([passed, cotangents[None]])


def _first(starts: Int[Array, " labels"] | None) -> Int[Array, " rows"]:
    return jnp.zeros(1, jnp.int32) if starts is None else starts


def _apply(starts: Int[Array, " labels"] | None, pull: Callable[[Array], Array], g: Array) -> Array:
    """One label at a time without windows, batched by vmap: what is kept has one entry for all of them."""
    return pull(g) if starts is not None else jax.vmap(lambda one: pull(one[None])[0])(g)


def _square(weights: Float[Array, "heads frames frames"], start: Array, window: int) -> Array:
    zero = jnp.zeros((), start.dtype)
    return jax.lax.dynamic_slice(weights, (zero, start, start), (weights.shape[0], window, window))
