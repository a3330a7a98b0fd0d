"""Measurements on speech kept aside: losses, phone error rate, and whether attention runs backwards."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from gradalign.analysis.diagonality import label_flip_index
from gradalign.error_rate import edit_distance
from gradalign.label_search import collapsed
from gradalign.training.config import TrainConfig
from gradalign.training.data import Batch
from gradalign.training.loss import ctc_losses, decoder_losses
from gradalign.training.update import place


def measure(graph: Any, params: Any, batches: list[Batch], mesh: Mesh, config: TrainConfig) -> dict[str, float]:
    """Losses a label, accuracy of the decoder given the right history, and phone error rate of greedy CTC.

    And ``cross_flip``, the flip index of cross-attention: positive where it falls, as behind an encoder that reverses
    time. No augmentation, no dropout, no remedies; no error rate if CTC is not trained.
    """
    sums: dict[str, float] = {}
    labels = edits = 0
    for batch in batches:
        parts, heard = _measure(params, place(batch, mesh), graph=graph, smoothing=config.loss.label_smoothing)
        n = int(batch.n_labels.sum())
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value) * n
        labels += n
        found = np.asarray(heard)
        subsampling = batch.features.shape[1] // found.shape[1]
        for row, n_frames, said, n_labels in zip(found, batch.n_frames, batch.labels, batch.n_labels, strict=True):
            if n_labels:
                best = collapsed(row[: -(-int(n_frames) // subsampling)])
                edits += edit_distance(said[:n_labels].tolist(), best).errors
    means = {name: total / labels for name, total in sums.items()}
    return means | {"per": edits / labels} if config.loss.ctc else means


def reversal_warning(cross_flip: float) -> str | None:
    """What to tell of a model whose cross-attention falls, with the remedies; None for any other.

    Args:
        cross_flip: Flip index of its cross-attention; see `gradalign.analysis.diagonality.label_flip_index`.
    """
    if cross_flip < 0.1:
        return None
    return (
        f"cross-attention runs backwards (flip index {cross_flip:+.2f}): the encoder seems to reverse time, and only "
        "gradients at the input will align. Remedies, in a new run: loss.ctc = 0.3, remedies.self_attention_from, "
        "remedies.centre_attention_until or network.diagonal_bias; gradalign inspect tells more"
    )


@partial(jax.jit, static_argnames=("graph", "smoothing"))
def _measure(params: Any, batch: Batch, *, graph: Any, smoothing: float):
    """Losses of a batch, and the best label of each encoder frame."""
    network = nnx.merge(graph, params)
    out = jax.vmap(lambda x, n, y: network.training_pass(x, n, y, None))(batch.features, batch.n_frames, batch.labels)
    decoder_loss, accuracy = decoder_losses(out.log_probs, batch, smoothing)
    heard = out.ctc_log_probs[:, -1]
    ctc_loss = ctc_losses(heard, batch, batch.features.shape[1] // heard.shape[1])
    n_labels = jnp.maximum(batch.n_labels, 1)
    n_encoder = -(-batch.n_frames // (batch.features.shape[1] // heard.shape[1]))
    flips = jax.vmap(lambda m, s, t: label_flip_index(m, n_labels=s, n_frames=t))(
        out.attention, n_labels, jnp.maximum(n_encoder, 1)
    )
    # By labels, as the others; an example without labels is padding.
    flip = (flips * batch.n_labels).sum() / jnp.maximum(batch.n_labels.sum(), 1)
    parts = {"attention": decoder_loss, "ctc": ctc_loss, "accuracy": accuracy, "cross_flip": flip}
    return parts, heard.argmax(-1)
