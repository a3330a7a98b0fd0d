"""The one description of a network: everything needed to build it, nothing about its weights."""

from dataclasses import dataclass
from typing import Literal, get_args

Positions = Literal["relative", "absolute", "both", "none"]


FEATURES_LEAF = -1
"""Depth of the log-mel frames; 0 is the stem's output and ``k`` that of block ``k``, counted from 1."""


def leaf_depth(leaf: str, n_blocks: int) -> int:
    """Depth of a leaf by its name: -1 for the features, 0 for the stem's output, ``k`` for block ``k``.

    Raises:
        ValueError: If there is no such leaf; the message lists those there are.
    """
    names = {"features": FEATURES_LEAF, "stem": 0} | {f"block-{k}": k for k in range(1, n_blocks + 1)}
    names["encoder"] = n_blocks
    if leaf not in names:
        raise ValueError(f"no leaf {leaf!r}; this model has {', '.join(names)}")
    return names[leaf]


@dataclass(frozen=True, slots=True)
class AEDConfig:
    """A Conformer attention encoder-decoder with a CTC head.

    Attributes:
        n_mels: Bands of a feature frame.
        vocabulary: Labels including id 0, which is the CTC blank and the decoder's sentence boundary.
        dim: Width of the encoder and the decoder.
        heads: Attention heads; divides ``dim``.
        encoder_layers: Conformer blocks.
        decoder_layers: Transformer decoder layers.
        feed_forward_dim: Inner width of the feed-forward modules.
        conv_kernel: Frames seen by the depthwise convolution; odd.
        stem_channels: Channels of the two-dimensional subsampling stem.
        dropout: Rate in training, in [0, 1).
        positions: What the encoder is told about positions: by "relative" codes in self-attention (as the
            Conformer is), "absolute" ones added to the stem's output, "both", or "none".
        diagonal_bias: Added to the logit of each encoder frame's attention to itself. Positive values hold frames in
            place, a remedy against encoders that reverse time; 0 is the Conformer as it is.
        memory_positions: Whether the decoder adds position codes to the encoder's frames before it attends to them.
            Without them only the encoder can tell where a frame is, as in recurrent decoders.
        feature_mean: Subtracted from every feature.
        feature_scale: Divides the features after that, > 0.

    Raises:
        ValueError: If sizes do not fit together; all problems are named.
    """

    n_mels: int = 80
    vocabulary: int = 40
    dim: int = 144
    heads: int = 4
    encoder_layers: int = 6
    decoder_layers: int = 2
    feed_forward_dim: int = 576
    conv_kernel: int = 15
    stem_channels: int = 32
    dropout: float = 0.1
    positions: Positions = "relative"
    diagonal_bias: float = 0.0
    memory_positions: bool = True
    feature_mean: float = -10.0
    feature_scale: float = 4.5

    subsampling = 4
    """Feature frames an encoder frame; fixed by the stem's two strides of two."""

    def __post_init__(self) -> None:
        problems = []
        if self.dim % self.heads:
            problems.append(f"dim {self.dim} must be a multiple of heads {self.heads}")
        if self.dim % 2:
            problems.append(f"dim {self.dim} must be even")
        if self.conv_kernel % 2 == 0:
            problems.append(f"conv_kernel {self.conv_kernel} must be odd")
        if self.vocabulary < 2:
            problems.append(f"vocabulary {self.vocabulary} must hold a label besides id 0")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout {self.dropout} must lie in [0, 1)")
        if self.positions not in get_args(Positions):
            problems.append(f"positions {self.positions!r} must be one of {', '.join(get_args(Positions))}")
        if problems:
            raise ValueError("the network cannot be built: " + "; ".join(problems))
