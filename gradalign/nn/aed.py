"""The attention encoder-decoder with a CTC head: the joints the rest of the package plugs into."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from gradalign._types import Precision
from gradalign.nn.config import FEATURES_LEAF, AEDConfig
from gradalign.nn.decoder import AttentionDecoder
from gradalign.nn.encoder import ConformerEncoder, EncoderTrace
from gradalign.nn.layers import Key, Linear, split_key


class Intermediates(NamedTuple):
    """What a teacher-forced pass computed on the way; all for one utterance.

    Attributes:
        stem: Output of the stem.
        encoder: Block outputs and self-attention maps.
        cross_attention: One map a decoder layer and head; row ``s`` belongs to label ``s``.
        log_probs: Log-probabilities of every vocabulary entry at each label position.
        ctc_log_probs: Log-probabilities of the CTC head per encoder frame.
    """

    stem: Float[Array, "encoder_frames dim"]
    encoder: EncoderTrace
    cross_attention: Float[Array, "layers heads labels encoder_frames"]
    log_probs: Float[Array, "labels vocabulary"]
    ctc_log_probs: Float[Array, "encoder_frames vocabulary"]


class Leaves(NamedTuple):
    """One array for each place where gradients can be taken.

    Attributes:
        features: Log-mel frames.
        stem: Output of the stem.
        blocks: Output of each block.
    """

    features: Float[Array, "frames mels"]
    stem: Float[Array, "encoder_frames dim"]
    blocks: Float[Array, "blocks encoder_frames dim"]


class LeafPass(NamedTuple):
    """What a teacher-forced pass knows besides the scores that are differentiated.

    Attributes:
        log_probs: Of every vocabulary entry at each label position.
        cross_attention: One map a decoder layer and head; row ``s`` belongs to label ``s``.
        ctc_log_probs: Of the CTC head per encoder frame.
        states: Output of each block.
    """

    log_probs: Float[Array, "labels vocabulary"]
    cross_attention: Float[Array, "layers heads labels encoder_frames"]
    ctc_log_probs: Float[Array, "encoder_frames vocabulary"]
    states: Float[Array, "blocks encoder_frames dim"]


class TrainingPass(NamedTuple):
    """What the losses of training need; all for one utterance.

    Attributes:
        log_probs: Of the decoder at each label and at the sentence end.
        ctc_log_probs: Of the CTC head at the blocks asked for, the encoder's output last.
        attention: Cross-attention, the mean over layers and heads.
    """

    log_probs: Float[Array, "positions vocabulary"]
    ctc_log_probs: Float[Array, "outputs encoder_frames vocabulary"]
    attention: Float[Array, "positions encoder_frames"]


class AED(nnx.Module):
    """Conformer encoder, attention decoder and CTC head, for one utterance; batch by ``jax.vmap``.

    ``n_frames`` is the number of real feature frames where ``features`` is padded (default: all).
    Padding changes no output at a real position.

    Attributes:
        windows_in: What gradients in windows are multiplied with the kernels in, "float32" or "bfloat16"; see
            `gradalign.compressed`.
    """

    def __init__(self, config: AEDConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.windows_in: Precision = "float32"
        self.encoder = ConformerEncoder(config, rngs=rngs)
        self.decoder = AttentionDecoder(config, rngs=rngs)
        self.ctc_head = Linear(config.dim, config.vocabulary, rngs=rngs)

    def valid_frames(self, n_rows: int, n_frames: Int[Array, ""] | int) -> Bool[Array, " encoder_frames"]:
        """Which of ``n_rows`` encoder frames lie inside a recording of ``n_frames`` feature frames."""
        return jnp.arange(n_rows) < -(-n_frames // self.config.subsampling)

    def to_depth(
        self,
        features: Float[Array, "frames mels"],
        depth: int,
        n_frames: Int[Array, ""] | int | None = None,
    ) -> Float[Array, "leaf_frames leaf_dim"]:
        """The value of the leaf at ``depth``: features (-1), stem output (0), output of block ``depth``."""
        if depth == FEATURES_LEAF:
            return features
        n_frames = features.shape[0] if n_frames is None else n_frames
        x = self.encoder.stem(features, jnp.asarray(n_frames))
        return self.encoder.run_blocks(x, self.valid_frames(x.shape[0], n_frames), stop=depth)[0]

    def encode(
        self,
        leaf: Float[Array, "leaf_frames leaf_dim"],
        n_frames: Int[Array, ""] | int | None = None,
        *,
        depth: int = FEATURES_LEAF,
        key: Key = None,
        trace: bool = False,
        learned: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, "encoder_frames dim"], Bool[Array, " encoder_frames"], EncoderTrace | None]:
        """Encoder frames and which of them are real, from the leaf at ``depth`` on.

        Args:
            leaf: What `to_depth` gave; by default the features themselves.
            n_frames: Real *feature* frames, whatever the depth.
            depth: Where ``leaf`` was taken.
            key: Dropout noise; None for none.
            trace: Whether to return block outputs and attention maps.
            learned: Share of self-attention, as in `ConformerEncoder.run_blocks`.
        """
        if n_frames is None:
            n_frames = leaf.shape[0] * (1 if depth == FEATURES_LEAF else self.config.subsampling)
        x = self.encoder.stem(leaf, jnp.asarray(n_frames)) if depth == FEATURES_LEAF else leaf
        valid = self.valid_frames(x.shape[0], n_frames)
        x, seen = self.encoder.run_blocks(x, valid, start=max(depth, 0), key=key, trace=trace, learned=learned)
        return x, valid, seen

    def ctc_log_probs(self, encoded: Float[Array, "encoder_frames dim"]) -> Float[Array, "encoder_frames vocabulary"]:
        """Log-probabilities of the CTC head; column 0 is blank."""
        return jax.nn.log_softmax(self.ctc_head(encoded).astype(jnp.float32), axis=-1)

    def label_log_probs(
        self,
        leaf: Float[Array, "leaf_frames leaf_dim"],
        labels: Int[Array, " labels"],
        n_frames: Int[Array, ""] | int | None = None,
        *,
        depth: int = FEATURES_LEAF,
    ) -> Float[Array, " labels"]:
        """Teacher-forced ``log p(a_s | a_<s, x)`` of each label, without the sentence end.

        Args:
            leaf: Features, or the value of a deeper leaf.
            labels: The transcript; rows past its end may hold anything, the decoder is causal.
            n_frames: Real feature frames.
            depth: Where ``leaf`` was taken.

        References:
            Schmitt et al. 2025, arXiv 2410.00680: the score whose gradient makes the alignment.
        """
        encoded, valid, _ = self.encode(leaf, n_frames, depth=depth)
        history = jnp.concatenate([jnp.zeros((1,), labels.dtype), labels[:-1]])
        log_probs, _ = self.decoder(history, encoded, valid)
        return jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]

    def leaf_pass(
        self,
        nudges: Leaves,
        features: Float[Array, "frames mels"],
        labels: Int[Array, " labels"],
        n_frames: Int[Array, ""] | int | None = None,
    ) -> tuple[Float[Array, " labels"], LeafPass]:
        """`label_log_probs` as a function of all leaves at once, and what else a teacher-forced pass knows.

        Differentiated by ``nudges``, which are zero, it gives the gradients at every leaf for one pull-back a label.

        Args:
            nudges: Added to the value of each leaf; see `zero_nudges`.
            features: Log-mel frames.
            labels: The transcript; rows past its end may hold anything.
            n_frames: Real feature frames.
        """
        n_frames = features.shape[0] if n_frames is None else n_frames
        x = self.encoder.stem(features + nudges.features, jnp.asarray(n_frames))
        x = x + nudges.stem.astype(x.dtype)
        valid = self.valid_frames(x.shape[0], n_frames)
        encoded, trace = self.encoder.run_blocks(x, valid, nudges=nudges.blocks, trace=True)
        history = jnp.concatenate([jnp.zeros((1,), labels.dtype), labels[:-1]])
        log_probs, maps = self.decoder(history, encoded, valid, trace=True)
        assert trace is not None, "asked for above"
        assert maps is not None, "asked for above"
        chosen = jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
        return chosen, LeafPass(log_probs, maps, self.ctc_log_probs(encoded), trace.blocks)

    def zero_nudges(self, n_rows: int) -> Leaves:
        """What to differentiate `leaf_pass` by, for features of so many rows."""
        config, n_encoder = self.config, -(-n_rows // self.config.subsampling)
        return Leaves(
            jnp.zeros((n_rows, config.n_mels)),
            jnp.zeros((n_encoder, config.dim)),
            jnp.zeros((config.encoder_layers, n_encoder, config.dim)),
        )

    def training_pass(
        self,
        features: Float[Array, "frames mels"],
        n_frames: Int[Array, ""],
        labels: Int[Array, " labels"],
        key: Key,
        *,
        first_position: Float[Array, ""] | float = 0.0,
        self_attention: Float[Array, ""] | None = None,
        cross_attention: Float[Array, ""] | None = None,
        ctc_blocks: tuple[int, ...] = (),
    ) -> TrainingPass:
        """One teacher-forced pass with dropout, and what the losses of training need from it.

        Args:
            features: Log-mel frames, padded at the end.
            n_frames: Real frames.
            labels: Padded transcript.
            key: Dropout noise; None for none.
            first_position: Position code of the first label and frame.
            self_attention: Share of the encoder's learned self-attention, as in `ConformerEncoder.run_blocks`.
            cross_attention: Share of learned cross-attention, as in `AttentionDecoder.__call__`.
            ctc_blocks: Blocks before the last, counted from 1 and increasing, whose output the CTC head also reads
                (Lee and Watanabe 2021).
        """
        *block_keys, decoder_key = split_key(key, len(ctc_blocks) + 2)
        x = self.encoder.stem(features, n_frames)
        valid = self.valid_frames(x.shape[0], n_frames)
        heard, start = [], 0
        for stop, block_key in zip((*ctc_blocks, self.config.encoder_layers), block_keys, strict=True):
            x, _ = self.encoder.run_blocks(x, valid, start=start, stop=stop, key=block_key, learned=self_attention)
            heard.append(self.ctc_log_probs(x))
            start = stop
        history = jnp.concatenate([jnp.zeros((1,), labels.dtype), labels])
        log_probs, maps = self.decoder(
            history, x, valid, first_position=first_position, key=decoder_key, trace=True, learned=cross_attention
        )
        assert maps is not None, "asked for above"
        return TrainingPass(log_probs, jnp.stack(heard), maps.mean((0, 1)))

    def intermediates(
        self,
        features: Float[Array, "frames mels"],
        labels: Int[Array, " labels"],
        n_frames: Int[Array, ""] | int | None = None,
    ) -> Intermediates:
        """A teacher-forced pass with everything it computed on the way."""
        stem = self.to_depth(features, 0, n_frames)
        encoded, valid, trace = self.encode(features, n_frames, trace=True)
        history = jnp.concatenate([jnp.zeros((1,), labels.dtype), labels[:-1]])
        log_probs, maps = self.decoder(history, encoded, valid, trace=True)
        assert trace is not None, "asked for above"
        assert maps is not None, "asked for above"
        return Intermediates(stem, trace, maps, log_probs, self.ctc_log_probs(encoded))

    def n_parameters(self) -> int:
        """How many numbers the network holds."""
        return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(nnx.state(self, nnx.Param)))
