"""The attention decoder: a Transformer over labels that attends to encoder frames."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from gradalign.nn.config import AEDConfig
from gradalign.nn.encoder import stacked
from gradalign.nn.layers import Attention, FeedForward, Key, LayerNorm, Linear, dropout, sinusoids, split_key


class DecoderLayer(nnx.Module):
    """Causal self-attention, cross-attention, feed-forward; each normed first and added."""

    def __init__(self, config: AEDConfig, *, rngs: nnx.Rngs):
        self.self_norm = LayerNorm(config.dim)
        self.self_attention = Attention(config.dim, config.heads, relative=False, rngs=rngs)
        self.cross_norm = LayerNorm(config.dim)
        self.cross_attention = Attention(config.dim, config.heads, relative=False, rngs=rngs)
        self.feed_forward = FeedForward(config.dim, config.feed_forward_dim, config.dropout, rngs=rngs)
        self.rate = config.dropout

    def __call__(
        self,
        x: Float[Array, "labels dim"],
        memory: Float[Array, "frames dim"],
        causal: Bool[Array, "labels labels"],
        valid: Bool[Array, " frames"],
        key: Key = None,
        learned: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, "labels dim"], Float[Array, "heads labels frames"]]:
        """The layer's output and its cross-attention map; ``learned`` as in `AttentionDecoder.__call__`."""
        keys = split_key(key, 3)
        normed = self.self_norm(x)
        x = x + dropout(self.self_attention(normed, normed, causal)[0], self.rate, keys[0])
        blend = None
        if learned is not None:
            middle = (jnp.arange(memory.shape[0]) == valid.sum() // 2).astype(jnp.float32)
            blend = (jnp.broadcast_to(middle[None, :], (x.shape[0], memory.shape[0])), learned)
        attended, weights = self.cross_attention(self.cross_norm(x), memory, valid[None, :], blend)
        x = x + dropout(attended, self.rate, keys[1])
        return x + self.feed_forward(x, keys[2]), weights


class AttentionDecoder(nnx.Module):
    """Label history and encoder frames in, log-probabilities of the next label out."""

    def __init__(self, config: AEDConfig, *, rngs: nnx.Rngs):
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), (config.vocabulary, config.dim)))
        self.layers = stacked(DecoderLayer, config, config.decoder_layers, rngs)
        self.norm = LayerNorm(config.dim)
        self.project = Linear(config.dim, config.vocabulary, rngs=rngs)
        self.rate = config.dropout
        self.memory_positions = config.memory_positions

    def marked(
        self, memory: Float[Array, "frames dim"], first_position: Float[Array, ""] | float = 0.0
    ) -> Float[Array, "frames dim"]:
        """Encoder frames as cross-attention reads them: with position codes, unless the config leaves them out."""
        if not self.memory_positions:
            return memory
        n_frames, dim = memory.shape
        return memory + sinusoids(jnp.arange(n_frames) + first_position, dim).astype(memory.dtype)

    def __call__(
        self,
        history: Int[Array, " labels"],
        memory: Float[Array, "frames dim"],
        valid: Bool[Array, " frames"],
        *,
        first_position: Float[Array, ""] | float = 0.0,
        key: Key = None,
        trace: bool = False,
        learned: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, "labels vocabulary"], Float[Array, "layers heads labels frames"] | None]:
        """Log-probabilities of the label after each prefix of ``history``.

        Args:
            history: Label ids, starting with the sentence boundary 0.
            memory: Encoder frames.
            valid: True for frames inside the recording.
            first_position: Position code of the first label and frame; training draws it at random,
                so that long recordings meet no position never seen.
            key: Dropout noise; None for none.
            trace: Whether to return the cross-attention maps.
            learned: Share in [0, 1] of cross-attention; the rest is every label attending to the middle
                frame. A remedy against encoders that reverse time, for early training. None means 1.
        """
        n, dim = history.shape[0], memory.shape[1]
        embed_key, layer_key = split_key(key, 2)
        x = self.embedding[...][history]
        x = x + sinusoids(jnp.arange(n) + first_position, dim).astype(x.dtype)
        x = dropout(x, self.rate, embed_key)
        memory = self.marked(memory, first_position)
        causal = jnp.tril(jnp.ones((n, n), bool))
        graph, state = nnx.split(self.layers)
        n_layers = jax.tree.leaves(state)[0].shape[0]
        keys = None if layer_key is None else jax.random.split(layer_key, n_layers)

        def step(x, inputs):
            parameters, one_key = inputs
            x, weights = nnx.merge(graph, parameters)(x, memory, causal, valid, one_key, learned)
            return x, weights if trace else None

        x, maps = jax.lax.scan(step, x, (state, keys))
        return jax.nn.log_softmax(self.project(self.norm(x)).astype(jnp.float32), axis=-1), maps
