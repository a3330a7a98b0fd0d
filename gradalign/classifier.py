"""What phone each frame holds, as a linear classifier hears it halfway up the encoder.

The upper blocks gather a label's evidence in one or two frames; those in the middle still say for every frame what is
spoken in it. Of this classifier the time of a label is read at the rate of the features, from frames of the encoder
with nothing but interpolation between them. It is learnt beside a calibration, from the same kind of speech; the model
is not changed.

References:
    Alain and Bengio 2016, arXiv 1610.01644 (linear classifiers on the layers of a network). As evidence for forced
    alignment we know of no publication.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gradalign._lbfgs import minimise
from gradalign.nn.config import AEDConfig


class Classifier(NamedTuple):
    """Logits of silence (column 0) and of each label of the model, from a frame of the encoder.

    Attributes:
        weights: Of each number of a frame.
        bias: Of each symbol.
    """

    weights: Float[Array | np.ndarray, "dim symbols"]
    bias: Float[Array | np.ndarray, " symbols"]


def block_of(config: AEDConfig) -> int:
    """The block whose output is classified, counted from 1: the one in the middle."""
    return max(1, config.encoder_layers // 2)


def name_of(config: AEDConfig) -> str:
    """Name of the signal."""
    return f"classifier@block-{block_of(config)}"


def log_probs(
    classifier: Classifier, states: Float[np.ndarray, "encoder_frames dim"], factor: int, n_frames: int
) -> Float[np.ndarray, "frames symbols"]:
    """Log-probability of each symbol at each feature frame; logits are interpolated between encoder frames.

    On the host: it is one small product, and a program of its own would have to be compiled.

    Args:
        classifier: What was learnt.
        states: Output of the block.
        factor: Feature frames an encoder frame.
        n_frames: Rows of the result.
    """
    logits = np.asarray(states, np.float32) @ np.asarray(classifier.weights) + np.asarray(classifier.bias)
    fine = _between(logits, factor, n_frames)
    fine = fine - fine.max(axis=1, keepdims=True)
    return fine - np.log(np.exp(fine).sum(axis=1, keepdims=True))


def learn(
    states: Sequence[Float[np.ndarray, "_encoder_frames dim"]],
    symbols: Sequence[Int[np.ndarray, " _frames"]],
    n_symbols: int,
    *,
    factor: int,
    decay: float = 1e-3,
    steps: int = 200,
    report: Callable[[int, float], None] = lambda step, value: None,
) -> Classifier:
    """The classifier under which the true symbols are most probable, by L-BFGS; the problem is convex.

    Args:
        states: Output of the block for each utterance.
        symbols: 0 for silence, else the label's id, at each feature frame of each utterance.
        n_symbols: Labels of the model, and silence.
        factor: Feature frames an encoder frame.
        decay: Weight of the squared size of the weights.
        steps: Iterations at most.
        report: Told the number of an iteration and the mean loss after it, in nats a frame.
    """
    dim, at = states[0].shape[1], 0
    fine = np.empty((sum(map(len, symbols)), dim), np.float32)
    for one, true in zip(states, symbols, strict=True):
        fine[at : at + len(true)] = _between(one, factor, len(true))
        at += len(true)
    data = jnp.asarray(fine), jnp.asarray(np.concatenate(symbols))

    def parts(point):
        return Classifier(point[:-n_symbols].reshape(dim, n_symbols), point[-n_symbols:])

    def loss(point, data):
        seen, true = data
        classifier = parts(point)
        found = jax.nn.log_softmax(seen @ classifier.weights + classifier.bias[None, :], axis=1)
        surprise = -jnp.take_along_axis(found, true[:, None], axis=1).mean()
        return surprise + decay * jnp.square(classifier.weights).sum()

    return parts(minimise(loss, np.zeros((dim + 1) * n_symbols), data, steps=steps, report=report))


def _between(
    states: Float[np.ndarray, "encoder_frames dim"], factor: int, n_frames: int
) -> Float[np.ndarray, "frames dim"]:
    """`gradalign.evidence.upsample` on the host: as JAX operations each length would be programs of its own."""
    at = np.arange(n_frames)
    left = np.minimum(at // factor, len(states) - 1)
    right = np.minimum(left + 1, len(states) - 1)
    weight = (at % factor / factor).astype(np.float32)[:, None]
    return (1 - weight) * states[left] + weight * states[right]
