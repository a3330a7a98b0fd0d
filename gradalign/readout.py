"""What a model tells about a recording: evidence of one kind, or all signals that a calibration weighs."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from gradalign._types import Method
from gradalign.buckets import pad
from gradalign.bundle import Bundle
from gradalign.cache import by_shape
from gradalign.classifier import Classifier, block_of, log_probs, name_of
from gradalign.clock import part
from gradalign.compressed import (
    UNSURE,
    WIDTHS,
    coarse_alignment,
    exact_saliency,
    windowed_saliency,
    worthwhile,
)
from gradalign.errors import AlignmentError
from gradalign.evidence import attention_scores, ctc_scores, log_saliency, normalise, silence_score, upsample
from gradalign.gradients import Reduction
from gradalign.lattice import Topology, check_feasible
from gradalign.nn.aed import FEATURES_LEAF
from gradalign.nn.config import AEDConfig
from gradalign.pieces import Piece, joined, pieces
from gradalign.signals import CUES, LEAST, OF_CTC, Signals, family, signal_names
from gradalign.signals import chosen as chosen_signals
from gradalign.timing import FrameGrid
from gradalign.transcript import Transcript

_log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_S = 16.0
"""Longer recordings are read in pieces of at most this; most utterances that models learn from are shorter."""

OUTSIDE = -1e3
"""Score of a label outside of its piece."""

HEARD, OVERLAP = 1920, 240
"""Frames of a window in which the CTC head hears recordings of any length, and of its context on each side."""

CHUNK_BYTES = 1 << 30
"""Memory that one chunk of cotangents may take in self-attention, the largest part of a pull-back."""


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
        labels: Ids of the transcript's labels.
        leaf: See `align`; deeper leaves than "features" have one frame each four feature frames.
        reduce: See `gradalign.saliency`.
    """
    depth = leaf_depth(leaf, bundle.network.config.encoder_layers)
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


def read_signals(
    bundle: Bundle,
    features: Float[np.ndarray, "frames mels"],
    labels: tuple[str, ...],
    names: tuple[str, ...] | None = None,
    *,
    exact: bool = False,
    classifier: Classifier | None = None,
) -> Signals:
    """What `gradalign.signals` gives for one recording, on the host and without padding.

    If the CTC head is among the signals, it says where to look: recordings longer than `LONGEST_S` are read in pieces,
    see `gradalign.pieces`, and gradients come from windows where these are cheaper and can be trusted, see
    `gradalign.compressed`.

    Args:
        bundle: The model.
        features: Log-mel frames.
        labels: Names of the transcript's labels.
        names: Which signals; None for all of the network's, and that of the classifier if there is one.
        exact: Whether gradients are followed through the whole recording anyway.
        classifier: Of frames; needed where its signal is asked for, together with others.

    Raises:
        AlignmentError: If the signal of a classifier is asked for and there is none, or one of another model.
    """
    own = name_of(bundle.network.config)
    if names is None:
        names = names_of(bundle.network.config, classifier)
    if own in names:
        classifier = _checked(bundle, classifier)
        others = tuple(name for name in names if name != own)
        seen = read_signals(bundle, features, labels, others, exact=exact)
        return _classified(seen, names.index(own), bundle, labels, classifier)
    if "ctc" in names and len(names) > 1 and _is_long(bundle, features):
        return _in_pieces(bundle, features, labels, names, exact=exact)
    return _read(bundle, features, labels, names, exact=exact)


def _classified(
    seen: Signals,
    at: int,
    bundle: Bundle,
    labels: tuple[str, ...],
    classifier: Classifier,
) -> Signals:
    """Signals with that of the classifier at its place among them, and its silence among the cues."""
    assert seen.states is not None, "what read them knows the states"
    found = log_probs(classifier, np.asarray(seen.states), bundle.network.config.subsampling, seen.cues.shape[1])
    found = np.maximum(found, LEAST)
    cues = np.array(seen.cues)
    cues[CUES.index("no-phone")] = found[:, 0]
    row = found[:, bundle.ids(labels)].T[None]
    scores = np.concatenate([seen.scores[:at], row, seen.scores[at:]])
    return seen._replace(scores=scores, cues=cues)


def _checked(bundle: Bundle, classifier: Classifier | None) -> Classifier:
    """The classifier, if it is one for this model."""
    expected = (bundle.network.config.dim, len(bundle.labels) + 1)
    if classifier is None or np.shape(classifier.weights) != expected:
        got = "none" if classifier is None else f"one for {np.shape(classifier.weights)}"
        raise AlignmentError(
            f"the calibration is of another model: expected a classifier for {expected} numbers and symbols, "
            f"got {got}; calibrate the model anew"
        )
    return classifier


def _is_long(bundle: Bundle, features: np.ndarray) -> bool:
    return len(features) > LONGEST_S / bundle.grid.hop_s


def _read(
    bundle: Bundle,
    features: Float[np.ndarray, "frames mels"],
    labels: tuple[str, ...],
    names: tuple[str, ...],
    *,
    exact: bool,
) -> Signals:
    """`read_signals` of a recording in one piece."""
    graph, state = nnx.split(bundle.network)
    n_labels, n_frames = len(labels), len(features)
    padded = pad(features, bundle.ids(labels))
    gradients = any(family(name) == "gradient" for name in names)

    def read(width: int | None) -> tuple[Signals, float]:
        seen = jax.tree.map(np.asarray, _signals(graph, state, *padded, names=names, width=width))
        return seen, float(seen.missed)

    with part("gradients" if gradients else "encode"):
        windows = gradients and not exact and "ctc" in names
        seen = _first_trusted(read, n_labels, n_frames_at(n_frames, 0, bundle)) if windows else None
        seen = read(None)[0] if seen is None else seen
    return _unpadded(seen, bundle, n_labels, n_frames)


def _first_trusted(read: Callable[[int], tuple[T, float]], n_labels: int, n_encoder: int) -> T | None:
    """What is read in the first windows that miss little enough; nothing, and says so, if all miss too much.

    Nothing, either, if windows would cost more than whole gradients.
    """
    why = ""
    for width in WIDTHS:
        if not worthwhile(n_labels, n_encoder, width):
            break
        found, missed = read(width)
        if missed <= UNSURE:
            return found
        why = f"windows miss {missed:.2f} of the gradients, more than {UNSURE:g}"
        if np.isinf(missed):  # nor is there a place for wider ones
            why = "the CTC head finds no path through the transcript, so there are no windows"
            break
    if why:
        _log.warning("%s: each label's gradient is followed through the whole recording, which is slower", why)
    return None


def _unpadded(seen: Signals, bundle: Bundle, n_labels: int, n_frames: int) -> Signals:
    states = None if seen.states is None else seen.states[: n_frames_at(n_frames, 0, bundle)]
    scores = seen.scores[:, :n_labels, :n_frames]
    return Signals(scores, seen.cues[:, :n_frames], seen.sure[:n_labels], seen.missed, states)


def _in_pieces(
    bundle: Bundle,
    features: Float[np.ndarray, "frames mels"],
    labels: tuple[str, ...],
    names: tuple[str, ...],
    *,
    exact: bool,
) -> Signals:
    """`read_signals` of a recording that is too long for the decoder."""
    with part("encode"):
        cut, whole = _cut(bundle, features, bundle.ids(labels))
    parts = []
    for piece in cut:
        inside, here = labels[slice(*piece.labels)], features[slice(*piece.frames)]
        parts.append((piece, _read(bundle, here, inside, names, exact=exact)))
    return joined(parts, whole, names.index("ctc"))


def _cut(
    bundle: Bundle, features: Float[np.ndarray, "frames mels"], labels: Int[np.ndarray, " labels"]
) -> tuple[list[Piece], Signals]:
    """Pieces of a long recording, one if the CTC head finds no path; and what that head alone tells of the whole."""
    whole, centres, found = jax.tree.map(np.asarray, _by_ctc(*nnx.split(bundle.network), *pad(features, labels)))
    whole = _unpadded(whole, bundle, len(labels), len(features))
    if not bool(found):
        return [Piece((0, len(labels)), (0, len(features)))], whole
    fine = bundle.network.config.subsampling * np.asarray(centres)[: len(labels)]
    return pieces(fine, fine, len(features), longest=round(LONGEST_S / bundle.grid.hop_s)), whole


def ctc_log_probs(
    bundle: Bundle, features: Float[np.ndarray, "frames mels"]
) -> Float[np.ndarray, "encoder_frames vocabulary"]:
    """Log-probabilities of the CTC head for a recording of any length, heard in overlapping windows.

    Args:
        bundle: The model.
        features: Log-mel frames.
    """
    graph, state = nnx.split(bundle.network)
    factor, n_frames = bundle.network.config.subsampling, len(features)
    parts = []
    for begin in range(0, n_frames, HEARD - 2 * OVERLAP):
        first, end = max(begin - OVERLAP, 0), min(begin + HEARD - 2 * OVERLAP, n_frames)
        here = features[first : min(end + OVERLAP, n_frames)]
        padded = np.pad(here, ((0, HEARD - len(here)), (0, 0)))
        found = np.asarray(_ctc_log_probs(graph, state, padded, len(here)))
        parts.append(found[(begin - first) // factor : -(-(end - first) // factor)])
    return np.concatenate(parts)


def middle_states(
    bundle: Bundle, features: Float[np.ndarray, "frames mels"]
) -> Float[np.ndarray, "encoder_frames dim"]:
    """What `gradalign.classifier` learns from: output of the block in the middle of the encoder.

    Args:
        bundle: The model.
        features: Log-mel frames of a recording that the model takes in one piece.
    """
    graph, state = nnx.split(bundle.network)
    padded, n_frames, _ = pad(features, bundle.ids(()))
    return np.asarray(_middle(graph, state, padded, n_frames))[: n_frames_at(n_frames, 0, bundle)]


class AllSignals(NamedTuple):
    """All signals of one recording, for every method that weighs some of them.

    Attributes:
        together: For methods that use the CTC head, which may say where to look for gradients.
        apart: For methods that do not: gradients through the whole recording.
    """

    together: Signals
    apart: Signals


def names_of(config: AEDConfig, classifier: Classifier | None) -> tuple[str, ...]:
    """Names of the signals that `read_all` gives, in its order."""
    return (*signal_names(config), *([name_of(config)] if classifier is not None else []))


def read_all(
    bundle: Bundle,
    features: Float[np.ndarray, "frames mels"],
    labels: tuple[str, ...],
    classifier: Classifier | None = None,
) -> AllSignals:
    """What `read_signals` gives for methods with and without the CTC head; the latter have no classifier."""
    together = read_signals(bundle, features, labels, classifier=classifier)
    if float(together.missed) == 0.0 and not _is_long(bundle, features):
        return AllSignals(together, together)
    return AllSignals(together, _read(bundle, features, labels, signal_names(bundle.network.config), exact=True))


def picked(seen: AllSignals, chosen: Sequence[str], names: Sequence[str]) -> Signals:
    """Some of the signals in the order asked for; of heads that are not among them, no cue is known either."""
    source = seen.together if "ctc" in chosen else seen.apart
    cues = np.array(source.cues, np.float32)
    if "ctc" not in chosen:
        cues[[CUES.index(name) for name in OF_CTC]] = 0.0
    if not any(family(name) == "classifier" for name in chosen):
        cues[CUES.index("no-phone")] = 0.0
    rows = [names.index(name) for name in chosen]
    return Signals(np.asarray(source.scores, np.float32)[rows], cues, np.asarray(source.sure, np.float32))


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


@partial(by_shape, static_argnames=("graph",))
def _by_ctc(graph, state, features, n_frames, labels):
    """What the CTC head alone tells: its signal and cues, and the coarse alignment; XLA shares the forward pass."""
    network = nnx.merge(graph, state)
    seen = chosen_signals(network, features, labels, n_frames, names=("ctc",), chunk=1)
    return seen, *coarse_alignment(network, network.encode(features, n_frames)[0], labels, n_frames)


@partial(by_shape, static_argnames=("graph",))
def _middle(graph, state, features, n_frames):
    network = nnx.merge(graph, state)
    return network.to_depth(features, block_of(network.config), n_frames)


@partial(by_shape, static_argnames=("graph", "names", "width"))
def _signals(graph, state, features, n_frames, labels, *, names, width):
    network = nnx.merge(graph, state)
    chunk = _chunk(network, features.shape[0])
    return chosen_signals(network, features, labels, n_frames, names=names, chunk=chunk, width=width)


def _chunk(network: Any, n_rows: int) -> int:
    """Labels differentiated together, so that their cotangents in self-attention fit into `CHUNK_BYTES`."""
    n_encoder = n_rows // network.config.subsampling
    return int(np.clip(CHUNK_BYTES // (4 * 8 * network.config.heads * n_encoder**2), 1, 32))


@partial(by_shape, static_argnames=("graph", "depth", "reduce"))
def _saliency(graph: Any, state: Any, features, n_frames, labels, *, depth: int, reduce: Reduction):
    network = nnx.merge(graph, state)
    return exact_saliency(network, features, labels, n_frames, depth=depth, reduce=reduce)


def _gradients(bundle, features, labels, depth, reduce, exact):
    """Scores and silence; where the CTC head may tell where to look, those of a long recording come from its pieces."""
    if exact or depth != FEATURES_LEAF or reduce != "l2" or not _is_long(bundle, features):
        return _in_one(bundle, features, labels, depth, reduce, exact)
    cut, _ = _cut(bundle, features, labels)
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

        if (scores := _first_trusted(read, len(labels), n_encoder)) is not None:
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
def _ctc_log_probs(graph, state, features, n_frames):
    network = nnx.merge(graph, state)
    return network.ctc_log_probs(network.encode(features, n_frames)[0])


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


def n_frames_at(n_features: int, depth: int, bundle: Bundle) -> int:
    """Frames that a recording of so many feature frames has at a depth, counted as by `leaf_depth`."""
    return n_features if depth == FEATURES_LEAF else -(-n_features // bundle.network.config.subsampling)
