"""The measures of `gradalign.analysis` on a network: one utterance, or the mean over several. Needs no times."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from gradalign import audio as audio_files
from gradalign.analysis.attention import anti_diagonal_weight, diagonal_weight, first_frame_weight
from gradalign.analysis.diagonality import diagonality, flip_index, label_flip_index
from gradalign.analysis.direction import direction
from gradalign.analysis.jacobian import diagonal_dominance, jacobian_norms
from gradalign.analysis.norms import dominance
from gradalign.analysis.verdict import TimeOrder, time_order
from gradalign.buckets import pad
from gradalign.bundle import Bundle
from gradalign.cache import by_shape
from gradalign.features import log_mel_padded
from gradalign.gradients import norm, pulled_back
from gradalign.nn.aed import AED, Leaves
from gradalign.nn.encoder import ConformerBlock
from gradalign.nn.layers import sinusoids
from gradalign.readout import CHUNK_BYTES

MODULES = ("feed-forward 1", "self-attention", "convolution", "feed-forward 2")
"""Modules of a block in order; each adds to the residual stream."""


class Measures(NamedTuple):
    """Everything that is measured; of one utterance, or the mean over several.

    Depths are the features, the stem's output, and the output of each block.

    Attributes:
        label_direction: Spearman's rank correlation of the labels' order with the time of their saliency.
        label_flip: Flip index of the saliency.
        frame_flip: Flip index of the squared norms of the Jacobian from each depth to the encoder's output. Squared:
            the pedestal of a frame that depends a little on all others would otherwise hide where it looks.
        diagonal: Its mean norm on the diagonal over that elsewhere, from the stem's output on.
        anti_diagonal: The same of the anti-diagonal.
        dominance: Norm of what each of `MODULES` adds, over that of the stream it is added to.
        head_diagonality: Of self-attention.
        head_flip: Flip index of self-attention.
        head_diagonal: Weight of self-attention on the frame itself; 1 is uniform.
        head_anti_diagonal: Weight on the frame's mirror image in time; 1 is uniform.
        head_first_frame: Weight on the first frame; 1 is uniform.
        cross_direction: Of the mean cross-attention of each decoder layer.
        cross_flip: Flip index of the same.
        label_log_prob: Mean teacher-forced log-probability of a label.
    """

    label_direction: Float[np.ndarray, " depths"]
    label_flip: Float[np.ndarray, " depths"]
    frame_flip: Float[np.ndarray, " depths"]
    diagonal: Float[np.ndarray, " encoder_depths"]
    anti_diagonal: Float[np.ndarray, " encoder_depths"]
    dominance: Float[np.ndarray, "blocks modules"]
    head_diagonality: Float[np.ndarray, "blocks heads"]
    head_flip: Float[np.ndarray, "blocks heads"]
    head_diagonal: Float[np.ndarray, "blocks heads"]
    head_anti_diagonal: Float[np.ndarray, "blocks heads"]
    head_first_frame: Float[np.ndarray, "blocks heads"]
    cross_direction: Float[np.ndarray, " layers"]
    cross_flip: Float[np.ndarray, " layers"]
    label_log_prob: Float[np.ndarray, ""]


@dataclass(frozen=True, slots=True)
class Maps:
    """Pictures of one utterance; one row a label unless said otherwise.

    Attributes:
        labels: Names of the labels.
        saliency: By depth, the features first, whose frames are the others' times the subsampling.
        cross_attention: Mean over heads of each decoder layer.
        jacobian: Norms from the stem's output to some frames of the encoder's output, one row each.
        rows: Encoder frames that the rows of ``jacobian`` belong to.
    """

    labels: tuple[str, ...]
    saliency: tuple[Float[np.ndarray, "labels _"], ...]
    cross_attention: Float[np.ndarray, "layers labels encoder_frames"]
    jacobian: Float[np.ndarray, "rows encoder_frames"]
    rows: Int[np.ndarray, " rows"]


@dataclass(frozen=True, slots=True)
class Examined:
    """What one utterance says about a model.

    Attributes:
        name: Of the utterance.
        measures: Its measures.
        order: The verdict by these alone.
        maps: For the figure.
    """

    name: str
    measures: Measures
    order: TimeOrder
    maps: Maps


@dataclass(frozen=True, slots=True)
class Health:
    """The report on a model.

    Attributes:
        model: Its name.
        depths: Names of the depths: "features", "stem", "block-1", ...
        measures: Mean over the utterances.
        order: The verdict.
        utterances: What each utterance says by itself.
    """

    model: str
    depths: tuple[str, ...]
    measures: Measures
    order: TimeOrder
    utterances: tuple[Examined, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and texts, for JSON; measures are rounded to five decimals."""
        return {
            "model": self.model,
            "order": self.order.order,
            "block": self.order.block,
            "verdict": str(self.order),
            "depths": list(self.depths),
            "modules": list(MODULES),
            "measures": {k: np.round(np.asarray(v, float), 5).tolist() for k, v in self.measures._asdict().items()},
            "utterances": [{"name": u.name, "verdict": str(u.order)} for u in self.utterances],
        }


def examine(
    bundle: Bundle,
    features: Float[np.ndarray, "frames mels"],
    labels: tuple[str, ...],
    *,
    name: str = "",
    rows: int = 24,
    probes: int = 6,
) -> Examined:
    """Measure a model on one utterance.

    Args:
        bundle: The model.
        features: Log-mel frames, at least five, so that there are two encoder frames.
        labels: What is said, as the model's labels; at least one.
        name: Of the utterance, for the report.
        rows: Output frames whose dependence on the others is measured, evenly spread, >= 1.
        probes: Random-sign vectors for each of them; see `gradalign.analysis.jacobian.jacobian_norms`.

    Raises:
        AlignmentError: If the model lacks a label.
        ValueError: If the utterance is too short.
    """
    ids, n_frames = bundle.ids(labels), len(features)
    n_encoder = -(-n_frames // bundle.network.config.subsampling)
    if n_encoder < 2 or not labels:
        raise ValueError(
            f"{n_frames} frames and {len(labels)} labels say nothing about order; expected 5 and 1 at least"
        )
    # Symmetric about the middle, or the sample would lean to one side.
    count = min(rows, n_encoder)
    frames = np.round((np.arange(count) + 0.5) * n_encoder / count - 0.5).astype(np.int32)
    # Always as many rows, so that a short utterance needs no program of its own; the surplus repeats the last frame.
    frames = np.pad(frames, (0, rows - count), mode="edge")
    graph, state = nnx.split(bundle.network)
    padded, _, padded_ids = pad(features, ids)
    found, maps = _measures(graph, state, padded, n_frames, padded_ids, len(ids), frames, count, probes=probes)
    found = Measures(**{measure: np.asarray(value) for measure, value in found.items()})
    at_features, at_depths, cross, jacobian = (np.asarray(part) for part in maps)
    saliency = (at_features[: len(ids), :n_frames], *at_depths[:, : len(ids), :n_encoder])
    kept = Maps(tuple(labels), saliency, cross[:, : len(ids), :n_encoder], jacobian[:count, :n_encoder], frames[:count])
    return Examined(name, found, time_order(found.frame_flip.tolist(), found.label_flip.tolist()), kept)


def examine_recording(
    bundle: Bundle, samples: Float[np.ndarray, " samples"], labels: tuple[str, ...], *, name: str = ""
) -> Examined:
    """`examine` for a recording, which is made as loud as for aligning.

    Args:
        bundle: The model.
        samples: Mono samples at the model's rate.
        labels: What is said, as the model's labels.
        name: Of the recording, for the report.

    Raises:
        AlignmentError: If the samples cannot be used, or the model lacks a label.
        ValueError: If the recording is too short.
    """
    checked = audio_files.check(np.asarray(samples, np.float32), name=name or "waveform")
    return examine(bundle, log_mel_padded(audio_files.levelled(checked), bundle.features), labels, name=name)


def health(bundle: Bundle, utterances: Sequence[Examined]) -> Health:
    """The report from what each utterance says: measures are averaged, and the verdict is that of the averages.

    If less than three quarters of the utterances agree with it, it is "mixed".

    Args:
        bundle: The model.
        utterances: At least one.

    Raises:
        ValueError: If there is none.
    """
    if not utterances:
        raise ValueError("a report needs at least one utterance")
    means = Measures(*(np.mean(parts, axis=0) for parts in zip(*(u.measures for u in utterances), strict=True)))
    order = time_order(means.frame_flip.tolist(), means.label_flip.tolist())
    agree = sum((u.order.order, u.order.block) == (order.order, order.block) for u in utterances)
    if order.order != "mixed" and agree < 0.75 * len(utterances):
        reason = f"on average the {order}, but only {agree} of {len(utterances)} recordings show that"
        order = TimeOrder("mixed", reason=reason)
    depths = ("features", "stem", *(f"block-{k + 1}" for k in range(bundle.network.config.encoder_layers)))
    return Health(bundle.name, depths, means, order, tuple(utterances))


@partial(by_shape, static_argnames=("graph", "probes"))
def _measures(graph, state, features, n_frames, labels, n_labels, frames, n_rows, *, probes: int):
    """The measures, and the maps for the figure; all padded."""
    network: AED = nnx.merge(graph, state)
    n_encoder = -(-n_frames // network.config.subsampling)
    nudges = network.zero_nudges(features.shape[0])
    chunk = int(np.clip(CHUNK_BYTES // (32 * network.config.heads * nudges.stem.shape[0] ** 2), 1, 16))

    def score(leaves: Leaves):
        return network.leaf_pass(leaves, features, labels, n_frames)

    log_probs, pull_back, seen = jax.vjp(score, nudges, has_aux=True)
    salient = pulled_back(pull_back, log_probs, lambda leaves: jax.tree.map(norm, leaves), chunk=chunk)
    at_depths = jnp.concatenate([salient.stem[None], salient.blocks.swapaxes(0, 1)])
    encode = _encoder(network, features, n_frames)
    jacobian = jacobian_norms(encode, nudges, frames, key=jax.random.key(0), probes=probes, chunk=chunk)
    from_depths = jnp.concatenate([jacobian.stem[None], jacobian.blocks.swapaxes(0, 1)])
    cross = seen.cross_attention.mean(axis=1)
    modules, maps = _inside(network, features, n_frames)

    by_label = {"n_labels": n_labels, "n_frames": n_encoder}
    rows = {"frame_of_query": frames, "n_queries": n_rows, "n_frames": n_encoder}
    position = (frames + 0.5) / n_encoder

    def over_depths(at_features, measure: Callable[[Array], Array], parts: Array):
        return jnp.concatenate([at_features[None], jax.vmap(measure)(parts)])

    def over_heads(measure: Callable[..., Array]):
        return jax.vmap(jax.vmap(lambda one: measure(one, n_frames=n_encoder)))(maps)

    def dominance_of(flipped: bool):
        # Repeated rows repeat what is counted already, and nothing else.
        real_row = jnp.where(jnp.arange(frames.shape[0]) < n_rows, frames, n_encoder)
        return jax.vmap(lambda m: diagonal_dominance(m, flipped=flipped, frame_of_row=real_row, n_frames=n_encoder))

    measures = {
        "label_direction": over_depths(
            direction(salient.features, n_labels=n_labels, n_frames=n_frames),
            lambda m: direction(m, **by_label),
            at_depths,
        ),
        "label_flip": over_depths(
            label_flip_index(salient.features, n_labels=n_labels, n_frames=n_frames),
            lambda m: label_flip_index(m, **by_label),
            at_depths,
        ),
        "frame_flip": over_depths(
            label_flip_index(_squared(jacobian.features), position=position, n_labels=n_rows, n_frames=n_frames),
            lambda m: flip_index(_squared(m), **rows),
            from_depths,
        ),
        "diagonal": dominance_of(False)(from_depths),
        "anti_diagonal": dominance_of(True)(from_depths),
        "dominance": modules,
        "head_diagonality": over_heads(diagonality),
        "head_flip": over_heads(flip_index),
        "head_diagonal": over_heads(diagonal_weight),
        "head_anti_diagonal": over_heads(anti_diagonal_weight),
        "head_first_frame": over_heads(first_frame_weight),
        "cross_direction": jax.vmap(lambda m: direction(m, **by_label))(cross),
        "cross_flip": jax.vmap(lambda m: label_flip_index(m, **by_label))(cross),
        "label_log_prob": jnp.where(jnp.arange(labels.shape[0]) < n_labels, log_probs, 0.0).sum() / n_labels,
    }
    return measures, (salient.features, at_depths, cross, jacobian.stem)


def _squared(norms: Array) -> Array:
    """Squares of norms, scaled so that those of small gradients are not lost in float32."""
    return jnp.square(norms / jnp.maximum(norms.max(), jnp.finfo(norms.dtype).tiny))


def _encoder(network: AED, features: Array, n_frames: Array) -> Callable[[Leaves], Array]:
    """Encoder frames as a function of what is added at every depth."""

    def encode(leaves: Leaves) -> Array:
        x = network.encoder.stem(features + leaves.features, jnp.asarray(n_frames)) + leaves.stem
        return network.encoder.run_blocks(x, network.valid_frames(x.shape[0], n_frames), nudges=leaves.blocks)[0]

    return encode


def _inside(network: AED, features: Array, n_frames: Array):
    """Norms of the modules of each block over those of the streams they join, and the self-attention maps."""
    x = network.encoder.stem(features, jnp.asarray(n_frames))
    valid = network.valid_frames(x.shape[0], n_frames)
    if network.encoder.absolute:
        x = x + sinusoids(jnp.arange(x.shape[0], dtype=jnp.float32), x.shape[1]).astype(x.dtype)
    graph, state = nnx.split(network.encoder.blocks)

    def step(x, parameters):
        block: Any = nnx.merge(graph, parameters)
        x, modules, weights = inside_block(block, x, valid)
        return x, (modules, weights)

    return jax.lax.scan(step, x, state)[1]


def inside_block(
    block: ConformerBlock, x: Float[Array, "frames dim"], valid: Bool[Array, " frames"]
) -> tuple[Float[Array, "frames dim"], Float[Array, " modules"], Float[Array, "heads frames frames"]]:
    """A block's output, `dominance` of each of its `MODULES`, and its self-attention map.

    The same sums as in `ConformerBlock.__call__`, which keeps none of them.

    Args:
        block: One Conformer block.
        x: Its input.
        valid: True for frames inside the recording.
    """
    n_frames = valid.sum()
    found, weights = [], None
    for module in ("first_feed_forward", "self_attention", "convolution", "second_feed_forward"):
        if module == "self_attention":
            added, weights = block.attend(x, valid)
        elif module == "convolution":
            added = block.convolution(x, valid)
        else:
            added = 0.5 * getattr(block, module)(x)
        found.append(dominance(added, x, n_frames=n_frames))
        x = x + added
    assert weights is not None, "self-attention is one of the modules"
    return block.norm(x), jnp.stack(found), weights
