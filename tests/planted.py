"""Ordinary models whose parameters were written so that one block reverses time, through its self-attention alone.

How: some dimensions of the residual stream are kept free for position codes. All that would write to them is zeroed,
so they hold the sinusoids that absolute positions add, whatever the utterance. In the planted block queries are those
codes turned about the middle of the utterance, ``sin w (T - 1 - i)`` and ``cos w (T - 1 - i)``, keys the codes as they
are, so that frame i attends to frame T - 1 - i; values are passed on as they are and made so large that they outweigh
the residual. That is the mechanism of the paper (arXiv 2410.00680, section 4), and the rest of the network is random.
The decoder can be made to read the encoder's frames in order, forwards or backwards, in the same way.

A rotation needs to know T, so a planted model reverses utterances of one length.
"""

from functools import lru_cache
from typing import Literal

import jax
import numpy as np
from flax import nnx

from gradalign.bundle import Bundle
from gradalign.features import LogMel
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig

CODES = 7
"""Pairs of sine and cosine that attention compares; the fastest ones."""

CONFIG = AEDConfig(
    n_mels=20, vocabulary=40, dim=32, heads=2, encoder_layers=4, decoder_layers=1, feed_forward_dim=32,
    conv_kernel=3, stem_channels=2, positions="absolute",
)  # fmt: skip

FRAMES_PER_LABEL = float(10_000 ** (2 / CONFIG.dim))
"""Encoder frames from one label to the next in the planted decoder, 1.78: the ratio of neighbouring rates."""

Sight = Literal["mirror", "self"]


def planted(
    seed: int,
    n_encoder: int,
    *,
    block: int | None = None,
    sight: Sight = "mirror",
    reading: Literal["forwards", "backwards", None] = None,
    config: AEDConfig = CONFIG,
    labels: tuple[str, ...] | None = None,
    gain: float = 20.0,
) -> Bundle:
    """A random model with something planted in it.

    Args:
        seed: Of the random parameters.
        n_encoder: Encoder frames of the utterances it is made for.
        block: Block, counted from 1, whose frames attend to one other frame each; None for none.
        sight: Whether that is their mirror image in time or they themselves.
        reading: How the decoder's cross-attention moves, or None for a random one.
        config: Of the network; absolute positions.
        labels: Names; by default "1", "2", ...
        gain: Size of the planted attention's output against the stream's.
    """
    network = random_network(seed, config)
    _free_positions(network)
    if block is not None:
        mirror = sight == "mirror"
        _plant(network.encoder.blocks.self_attention, block - 1, config, n_encoder - 1, mirror=mirror, gain=gain)
    if reading is not None:
        _read_in_order(network, n_encoder, backwards=reading == "backwards")
    names = labels or tuple(str(i) for i in range(1, config.vocabulary))
    return Bundle("planted", network, LogMel(n_mels=config.n_mels), names)


@lru_cache
def _template(config: AEDConfig) -> AED:
    return AED(config, rngs=nnx.Rngs(0))


def random_network(seed: int, config: AEDConfig = CONFIG) -> AED:
    """A network with fresh random parameters of the spread that a new network has; quicker than a new one."""
    graph, state = nnx.split(_template(config))
    rng = np.random.default_rng(seed)
    return nnx.merge(graph, jax.tree.map(lambda p: p + 0 if p.std() == 0 else _redrawn(p, rng), state))


def _redrawn(parameters, rng: np.random.Generator):
    return jax.numpy.asarray(float(parameters.std()) * rng.normal(size=parameters.shape), jax.numpy.float32)


def _code_dims(dim: int, first: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Dimensions of sines and cosines, their rates, and the dimension of a sine so slow that it is 0."""
    number = np.arange(first, first + CODES)
    return number, dim // 2 + number, 10_000.0 ** (-2 * number / dim), dim // 2 - 1


def _reserved(dim: int) -> np.ndarray:
    sines, cosines, _, zero = _code_dims(dim)
    return np.concatenate([sines, cosines, [zero]])


def _zero_columns(linear, dims: np.ndarray) -> None:
    linear.kernel[...] = linear.kernel[...].at[..., dims].set(0.0)
    if linear.bias is not None:
        linear.bias[...] = linear.bias[...].at[..., dims].set(0.0)


def _free_positions(network: AED) -> None:
    """Nothing but position codes is written to the reserved dimensions."""
    dims = _reserved(network.config.dim)
    blocks = network.encoder.blocks
    for linear in (
        network.encoder.stem.project,
        blocks.first_feed_forward.project,
        blocks.self_attention.out,
        blocks.convolution.project,
        blocks.second_feed_forward.project,
    ):
        _zero_columns(linear, dims)
    # Codes are loud, so that a norm divides them by nearly the same number at every frame: a frame whose key is a
    # tenth larger than another's would be attended to from the wrong places.
    blocks.norm.scale[...] = blocks.norm.scale[...].at[:, dims].multiply(3.0)
    project = network.encoder.stem.project
    project.kernel[...] = 0.3 * project.kernel[...]


def _turned(dim: int, constant: float, *, mirror: bool, first: int = 0, rates_of: np.ndarray | None = None):
    """Kernel from a frame's code to that of ``constant - i`` (mirror) or ``constant + i``, head by head the same.

    Fast rates weigh more, which tells neighbours apart better. The codes are read as
    differences from the dimension that is 0, which takes away the mean that a norm subtracts.
    """
    sines, cosines, rates, zero = _code_dims(dim, first)
    kernel = np.zeros((dim, 2 * CODES))
    for n, (s, c, w) in enumerate(zip(sines, cosines, rates if rates_of is None else rates_of, strict=True)):
        sin, cos = np.sqrt(w) * np.sin(w * constant), np.sqrt(w) * np.cos(w * constant)
        # sin(a -+ b) = sin a cos b -+ cos a sin b, and cos(a -+ b) = cos a cos b +- sin a sin b.
        sign = -1 if mirror else 1
        kernel[c, n], kernel[s, n] = sin, sign * cos
        kernel[c, CODES + n], kernel[s, CODES + n] = cos, -sign * sin
    kernel[zero] = -kernel.sum(axis=0)
    return kernel


def _set(attention, index: int, query: np.ndarray, key: np.ndarray, heads: int) -> None:
    head_dim = attention.query.kernel[...].shape[-1] // heads
    for linear, kernel in ((attention.query, query), (attention.key, key)):
        wide = np.zeros((kernel.shape[0], heads, head_dim), np.float32)
        wide[:, :, : kernel.shape[1]] = kernel[:, None, :]
        linear.kernel[...] = linear.kernel[...].at[index].set(wide.reshape(kernel.shape[0], -1))
        linear.bias[...] = linear.bias[...].at[index].set(0.0)


def _plant(attention, index: int, config: AEDConfig, last: int, *, mirror: bool, gain: float) -> None:
    query = _turned(config.dim, float(last) if mirror else 0.0, mirror=mirror)
    key = _turned(config.dim, 0.0, mirror=False)
    # Sharp enough that a neighbouring frame gets next to nothing, whatever the norms made of the codes' size.
    _set(attention, index, 40.0 * query, 40.0 * key, config.heads)
    eye = np.eye(config.dim, dtype=np.float32)
    for linear, kernel in ((attention.value, eye), (attention.out, gain * eye)):
        linear.kernel[...] = linear.kernel[...].at[index].set(kernel)
        linear.bias[...] = linear.bias[...].at[index].set(0.0)


def _read_in_order(network: AED, n_encoder: int, *, backwards: bool) -> None:
    """Cross-attention of label s peaks at encoder frame ``FRAMES_PER_LABEL * (s + 1/2)``, or at its mirror image.

    A label's sinusoid of one rate is a frame's of the next slower one, so that codes of labels are codes of frames.
    """
    config = network.config
    dim, layers = config.dim, network.decoder.layers
    dims = np.unique(np.concatenate([_reserved(dim), *(_code_dims(dim, 1)[:2])]))
    # The memory's codes are those that the decoder adds: what the encoder left there is taken away at its end.
    norm = network.encoder.blocks.norm
    norm.scale[...] = norm.scale[...].at[-1, dims].set(0.0)
    network.decoder.embedding[...] = network.decoder.embedding[...].at[:, dims].set(0.0)
    _zero_columns(layers.self_attention.out, dims)
    _, _, rates, _ = _code_dims(dim, 1)
    middle = FRAMES_PER_LABEL / 2
    constant = n_encoder - 1 - middle if backwards else middle
    query = _turned(dim, constant, mirror=backwards, rates_of=rates)
    key = _turned(dim, 0.0, mirror=False, first=1)
    for index in range(config.decoder_layers):
        _set(layers.cross_attention, index, 4.0 * query, 4.0 * key, config.heads)


def features_of(seed: int, n_encoder: int, config: AEDConfig = CONFIG) -> np.ndarray:
    """Random log-mel frames that make so many encoder frames."""
    rng = np.random.default_rng(seed)
    n_frames = config.subsampling * n_encoder - int(rng.integers(0, config.subsampling))
    noise = config.feature_mean + config.feature_scale * rng.normal(size=(n_frames, config.n_mels))
    return noise.astype(np.float32)


def labels_of(bundle: Bundle, n_encoder: int) -> tuple[str, ...]:
    """As many labels as the planted decoder reads in that time."""
    rng = np.random.default_rng(n_encoder)
    return tuple(rng.choice(bundle.labels, max(2, round(n_encoder / FRAMES_PER_LABEL))).tolist())
