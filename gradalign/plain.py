"""What a plain method reads off a model: scores of the labels and of silence from one kind of evidence."""

from functools import partial
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from gradalign._types import Method
from gradalign.buckets import pad
from gradalign.bundle import Bundle
from gradalign.cache import by_shape
from gradalign.clock import part
from gradalign.compressed import exact_saliency, windowed_saliency
from gradalign.errors import AlignmentError
from gradalign.evidence import attention_scores, ctc_scores, log_saliency, normalise, silence_score, upsample
from gradalign.gradients import Reduction
from gradalign.lattice import Topology, check_feasible
from gradalign.nn.config import FEATURES_LEAF, leaf_depth
from gradalign.readout import cut_at_pauses, first_trusted, is_long, n_frames_at
from gradalign.timing import FrameGrid
from gradalign.transcript import Transcript

OUTSIDE = -1e3
"""Score of a label outside of its piece."""


def gradient_saliency(
    bundle: Bundle,
    features: Float[np.ndarray, "frames mels"],
    labels: Int[np.ndarray, " labels"],
    *,
    leaf: str = "features",
    reduce: Reduction = "l2",
) -> Float[np.ndarray, "labels leaf_frames"]:
    """Saliency of each label's teacher-forced log-probability at a leaf; see `gradalign.saliency`.

    Args:
        bundle: The model.
        features: Log-mel frames.
        labels: Ids of the transcript's labels, as `Bundle.ids` gives them.
        leaf: See `align`; deeper leaves than "features" have one frame each four feature frames.
        reduce: See `gradalign.saliency`.

    Returns:
        One size a label and frame of the leaf, >= 0.

    Raises:
        ValueError: If there is no such leaf or label, or the features have another number of mels than the model's.
    """
    depth = leaf_depth(leaf, bundle.network.config.encoder_layers)
    if len(labels) and not (1 <= np.min(labels) and np.max(labels) <= len(bundle.labels)):
        raise ValueError(f"labels are ids from 1 to {len(bundle.labels)}, got {np.min(labels)} to {np.max(labels)}")
    if features.shape[1] != bundle.features.n_mels:
        raise ValueError(f"the model takes {bundle.features.n_mels} mels a frame, got {features.shape[1]}")
    padded = pad(features, labels)
    graph, state = nnx.split(bundle.network)
    found = _saliency(graph, state, *padded, depth=depth, reduce=reduce)
    n_leaf = n_frames_at(features.shape[0], depth, bundle)
    return np.asarray(found)[: len(labels), :n_leaf]


def evidence(
    bundle: Bundle,
    features: Float[np.ndarray, "frames mels"],
    transcript: Transcript,
    method: Method,
    depth: int,
    reduce: Reduction,
    exact: bool,
) -> tuple[Float[np.ndarray, "labels _frames"], Float[np.ndarray, " _frames"], Topology, FrameGrid]:
    """What a plain method reads off the network: scores, silence and topology, and the grid they are on.

    Args:
        bundle: The model.
        features: Log-mel frames.
        transcript: Labels, and where silence may lie.
        method: A plain one; see `gradalign.align`.
        depth: The leaf of "gradient", as `leaf_depth` counts.
        reduce: Of "gradient".
        exact: Of "gradient".

    Raises:
        AlignmentError: If there are more labels than frames.
    """
    n_frames, n_labels = len(features), len(transcript.labels)
    n_encoder = n_frames_at(n_frames, 0, bundle)
    labels = bundle.ids(transcript.labels)
    graph, state = nnx.split(bundle.network)
    words = Topology.words(transcript.unit_of_label)
    if method == "equal":
        check_feasible(n_labels, n_frames, Topology.no_silence(n_labels))
        owner = np.arange(n_frames) * n_labels // n_frames
        scores = np.where(owner[None, :] == np.arange(n_labels)[:, None], 0.0, -1e3).astype(np.float32)
        return scores, np.full(n_frames, -1e3, np.float32), Topology.no_silence(n_labels), bundle.grid
    if method == "gradient":
        check_feasible(n_labels, n_frames, words)
        with part("gradients"):
            found = _gradients(bundle, features, labels, depth, reduce, exact)
            scores, silence = np.asarray(found[0])[:n_labels, :n_frames], np.asarray(found[1])[:n_frames]
        return scores, silence, words, bundle.grid
    if method == "ctc":
        topology = Topology.ctc(labels.tolist())
        check_feasible(n_labels, n_encoder, topology)
        with part("encode"):
            scores, silence = _ctc_scores(graph, state, *pad(features, labels))
            scores, silence = np.asarray(scores)[:n_labels, :n_encoder], np.asarray(silence)[:n_encoder]
        return scores, silence, topology, bundle.encoder_grid
    topology = Topology.no_silence(n_labels)
    check_feasible(n_labels, n_encoder, topology)
    with part("encode"):
        scores = np.asarray(_attention_scores(graph, state, *pad(features, labels)))[:n_labels, :n_encoder]
    return scores, np.full(n_encoder, -1e3, np.float32), topology, bundle.encoder_grid


def check_rises(scores: Float[np.ndarray | Array, "labels frames"], source: str) -> None:
    """Evidence that runs backwards through the recording is refused: no path through it would mean anything."""
    n_labels, n_frames = scores.shape
    if n_labels < 5:
        return
    weights = np.exp(scores - np.max(scores, axis=1, keepdims=True))
    centres = weights @ ((np.arange(n_frames) + 0.5) / n_frames) / weights.sum(axis=1)
    # How far the centres move through the recording, of the whole of it: 1 in good evidence, 0 in none.
    order = (np.arange(n_labels) + 0.5) / n_labels
    slope = np.polyfit(order, centres, 1)[0]
    if slope < -0.05 and np.corrcoef(order, centres)[0, 1] < -0.5:
        raise AlignmentError(
            f"{source} runs backwards through the recording (its labels move by {slope:.0%} of it): the encoder seems "
            'to reverse time, which "gradalign inspect" can tell; align with gradients at the input (method '
            '"gradient", leaf "features")'
        )


@partial(by_shape, static_argnames=("graph", "depth", "reduce"))
def _saliency(graph: Any, state: Any, features, n_frames, labels, *, depth: int, reduce: Reduction):
    network = nnx.merge(graph, state)
    return exact_saliency(network, features, labels, n_frames, depth=depth, reduce=reduce)


def _gradients(bundle, features, labels, depth, reduce, exact):
    """Scores and silence; where the CTC head may tell where to look, those of a long recording come from its pieces."""
    if exact or depth != FEATURES_LEAF or reduce != "l2" or not is_long(bundle, features):
        return _in_one(bundle, features, labels, depth, reduce, exact)
    cut, _ = cut_at_pauses(bundle, features, labels)
    scores, silence = np.full((len(labels), len(features)), OUTSIDE, np.float32), np.zeros(len(features), np.float32)
    for piece in cut:
        here, frames = labels[slice(*piece.labels)], slice(*piece.frames)
        found = _in_one(bundle, features[frames], here, depth, reduce, exact)
        n_frames = piece.frames[1] - piece.frames[0]
        scores[slice(*piece.labels), frames] = np.asarray(found[0])[: len(here), :n_frames]
        silence[frames] = np.asarray(found[1])[:n_frames]
    return scores, silence


def _in_one(bundle, features, labels, depth, reduce, exact):
    """Scores and silence from windows where they are cheaper and can be trusted, else from the whole recording."""
    graph, state = nnx.split(bundle.network)
    padded, n_encoder = pad(features, labels), n_frames_at(len(features), 0, bundle)
    # Deeper leaves tell whether the encoder keeps the order of time, which windows along the CTC head's would hide.
    if not exact and depth == FEATURES_LEAF and reduce == "l2":

        def read(width: int) -> tuple[Any, float]:
            scores, missed = _windowed_scores(graph, state, *padded, depth=depth, width=width)
            return scores, float(missed)

        if (scores := first_trusted(read, len(labels), n_encoder)) is not None:
            return scores
    return _gradient_scores(graph, state, *padded, depth=depth, reduce=reduce)


@partial(by_shape, static_argnames=("graph", "depth", "reduce"))
def _gradient_scores(graph, state, features, n_frames, labels, *, depth, reduce):
    network = nnx.merge(graph, state)
    found = exact_saliency(network, features, labels, n_frames, depth=depth, reduce=reduce)
    return _scores_of(found, graph, state, features, n_frames, labels, depth)


@partial(by_shape, static_argnames=("graph", "depth", "width"))
def _windowed_scores(graph, state, features, n_frames, labels, *, depth, width):
    found = windowed_saliency(nnx.merge(graph, state), features, labels, n_frames, depths=(depth,), width=width)
    return _scores_of(found.fine[0], graph, state, features, n_frames, labels, depth), found.missed


def _scores_of(found, graph, state, features, n_frames, labels, depth):
    """Scores of labels and of silence from the saliency at a leaf."""
    n_labels = (labels > 0).sum()
    if depth == FEATURES_LEAF:
        scores = log_saliency(found, n_frames=n_frames)
    else:
        factor = nnx.merge(graph, state).config.subsampling
        n_coarse = -(-n_frames // factor)
        coarse = log_saliency(found, n_frames=n_coarse)
        scores = upsample(coarse, factor, features.shape[0], n_coarse=n_coarse)
    silence = silence_score(scores, n_labels=n_labels, n_frames=n_frames)
    return normalise(scores, silence, n_labels=n_labels)


@partial(by_shape, static_argnames=("graph",))
def _ctc_scores(graph, state, features, n_frames, labels):
    network = nnx.merge(graph, state)
    return ctc_scores(network.ctc_log_probs(network.encode(features, n_frames)[0]), labels)


@partial(by_shape, static_argnames=("graph",))
def _attention_scores(graph, state, features, n_frames, labels):
    """From the cross-attention of the last decoder layer, averaged over heads."""
    network = nnx.merge(graph, state)
    seen = network.intermediates(features, labels, n_frames)
    return attention_scores(seen.cross_attention[-1].mean(axis=0), n_frames=-(-n_frames // network.config.subsampling))
