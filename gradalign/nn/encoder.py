"""The Conformer encoder (Gulati et al. 2020): subsampling stem and a stack of identical blocks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from gradalign.nn.config import AEDConfig
from gradalign.nn.layers import (
    Attention,
    FeedForward,
    Key,
    LayerNorm,
    Linear,
    depthwise,
    dropout,
    sinusoids,
    split_key,
    strided_patches,
)


class Stem(nnx.Module):
    """Convolution subsampling by four: two 3 x 3 convolutions of stride two, then a projection.

    Frames past the end are zeroed before each convolution, so that padding changes nothing.
    """

    def __init__(self, config: AEDConfig, *, rngs: nnx.Rngs):
        channels, bands = config.stem_channels, ((config.n_mels + 1) // 2 + 1) // 2
        self.first = Linear(9, channels, rngs=rngs)
        self.second = Linear(9 * channels, channels, rngs=rngs)
        self.project = Linear(bands * channels, config.dim, rngs=rngs)
        self.config = config

    def __call__(
        self, features: Float[Array, "frames mels"], n_frames: Int[Array, ""]
    ) -> Float[Array, "encoder_frames dim"]:
        """Encoder frames; frame ``j`` is centred on feature frame ``4 j``."""
        x = ((features - self.config.feature_mean) / self.config.feature_scale)[:, :, None]
        x = x.astype(self.first.kernel[...].dtype)
        for layer in (self.first, self.second):
            x = jnp.where((jnp.arange(x.shape[0]) < n_frames)[:, None, None], x, 0.0)
            x = jax.nn.silu(layer(strided_patches(x)))
            n_frames = (n_frames + 1) // 2
        return self.project(x.reshape(x.shape[0], -1))


class Convolution(nnx.Module):
    """Convolution module: gated pointwise, depthwise, norm, Swish, pointwise.

    The paper's batch norm is a layer norm here: batch statistics would tie utterances together.
    """

    def __init__(self, config: AEDConfig, *, rngs: nnx.Rngs):
        dim, taps = config.dim, config.conv_kernel
        self.norm = LayerNorm(dim)
        self.expand = Linear(dim, 2 * dim, rngs=rngs)
        self.depthwise = nnx.Param(jax.random.normal(rngs.params(), (taps, dim)) / jnp.sqrt(float(taps)))
        self.inner_norm = LayerNorm(dim)
        self.project = Linear(dim, dim, rngs=rngs)
        self.rate = config.dropout

    def __call__(
        self, x: Float[Array, "frames dim"], valid: Bool[Array, " frames"], key: Key = None
    ) -> Float[Array, "frames dim"]:
        """What the module adds to its residual stream."""
        value, gate = jnp.split(self.expand(self.norm(x)), 2, axis=-1)
        gated = jnp.where(valid[:, None], value * jax.nn.sigmoid(gate), 0.0)
        mixed = jax.nn.silu(self.inner_norm(depthwise(gated, self.depthwise[...])))
        return dropout(self.project(mixed), self.rate, key)


class ConformerBlock(nnx.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, norm (section 2.4, equation 1)."""

    def __init__(self, config: AEDConfig, *, rngs: nnx.Rngs):
        self.first_feed_forward = FeedForward(config.dim, config.feed_forward_dim, config.dropout, rngs=rngs)
        self.attention_norm = LayerNorm(config.dim)
        relative = config.positions in ("relative", "both")
        self.self_attention = Attention(config.dim, config.heads, relative=relative, rngs=rngs)
        self.convolution = Convolution(config, rngs=rngs)
        self.second_feed_forward = FeedForward(config.dim, config.feed_forward_dim, config.dropout, rngs=rngs)
        self.norm = LayerNorm(config.dim)
        self.rate = config.dropout
        self.diagonal_bias = config.diagonal_bias

    def __call__(
        self,
        x: Float[Array, "frames dim"],
        valid: Bool[Array, " frames"],
        key: Key = None,
        learned: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, "frames dim"], Float[Array, "heads frames frames"]]:
        """The block's output and its self-attention map; ``learned`` as in `ConformerEncoder.run_blocks`."""
        keys = split_key(key, 4)
        x = x + 0.5 * self.first_feed_forward(x, keys[0])
        attended, weights = self.attend(x, valid, learned)
        x = x + dropout(attended, self.rate, keys[1])
        x = x + self.convolution(x, valid, keys[2])
        x = x + 0.5 * self.second_feed_forward(x, keys[3])
        return self.norm(x), weights

    def attend(
        self, x: Float[Array, "frames dim"], valid: Bool[Array, " frames"], learned: Float[Array, ""] | None = None
    ) -> tuple[Float[Array, "frames dim"], Float[Array, "heads frames frames"]]:
        """What self-attention adds to the stream, and its map; ``learned`` as in `ConformerEncoder.run_blocks`."""
        normed = self.attention_norm(x)
        blend = None if learned is None else (jnp.eye(x.shape[0]), learned)
        return self.self_attention(normed, normed, valid[None, :], blend, self.held(x.shape[0]))

    def held(self, n: int) -> Float[Array, "n n"] | None:
        """What is added to the logits of ``n`` frames so that they hold on to themselves, if anything."""
        return self.diagonal_bias * jnp.eye(n) if self.diagonal_bias else None


class EncoderTrace(NamedTuple):
    """What happened inside the encoder.

    Attributes:
        blocks: Output of each block that ran.
        attention: Self-attention maps of each block; rows are queries.
    """

    blocks: Float[Array, "blocks frames dim"]
    attention: Float[Array, "blocks heads frames frames"]


class ConformerEncoder(nnx.Module):
    """Stem and blocks; the blocks' parameters are stacked and run by one ``lax.scan``."""

    def __init__(self, config: AEDConfig, *, rngs: nnx.Rngs):
        self.stem = Stem(config, rngs=rngs)
        self.blocks = stacked(ConformerBlock, config, config.encoder_layers, rngs)
        self.n_blocks = config.encoder_layers
        self.absolute = config.positions in ("absolute", "both")

    def run_blocks(
        self,
        x: Float[Array, "frames dim"],
        valid: Bool[Array, " frames"],
        *,
        start: int = 0,
        stop: int | None = None,
        key: Key = None,
        trace: bool = False,
        learned: Float[Array, ""] | None = None,
        nudges: Float[Array, "blocks frames dim"] | None = None,
    ) -> tuple[Float[Array, "frames dim"], EncoderTrace | None]:
        """Run blocks ``start`` (inclusive) to ``stop`` (exclusive).

        Args:
            x: Output of the stem, or of block ``start - 1``.
            valid: True for frames inside the recording.
            start: First block to run, counted from 0.
            stop: Block to stop before; default: run all.
            key: Dropout noise; None for none.
            trace: Whether to return the trace.
            learned: Share in [0, 1] of self-attention; the rest is each frame attending to itself. A
                remedy against encoders that reverse time, for early training. None means 1.
            nudges: Added to the output of each block that runs; zeros to differentiate by.
        """
        stop = self.n_blocks if stop is None else stop
        graph, state = nnx.split(self.blocks)
        state = jax.tree.map(lambda leaf: leaf[start:stop], state)
        keys = None if key is None else jax.random.split(key, stop - start)

        def step(x, inputs):
            parameters, block_key, nudge = inputs
            x, weights = nnx.merge(graph, parameters)(x, valid, block_key, learned)
            x = x if nudge is None else x + nudge.astype(x.dtype)
            return x, (x, weights) if trace else None

        if start == stop:
            return x, None
        if self.absolute and start == 0:
            x = x + sinusoids(jnp.arange(x.shape[0], dtype=jnp.float32), x.shape[1]).astype(x.dtype)
        if key is not None:
            # In training all but matrix products is computed again on the way back: keeping it takes longer.
            kept = jax.checkpoint_policies.dots_saveable
            step = jax.checkpoint(step, policy=kept, prevent_cse=False)
        x, seen = jax.lax.scan(step, x, (state, keys, nudges))
        return x, None if seen is None else EncoderTrace(*seen)


def stacked(block: type, config: AEDConfig, n: int, rngs: nnx.Rngs) -> nnx.Module:
    """One module whose parameters have a leading axis of ``n``, each slice initialised on its own."""

    @nnx.split_rngs(splits=n)
    @nnx.vmap(in_axes=0, out_axes=0)
    def build(rngs: nnx.Rngs) -> nnx.Module:
        return block(config, rngs=rngs)

    return build(rngs)
