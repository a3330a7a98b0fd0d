"""What a model tells about a recording: the signals that a calibration weighs.

Where the CTC head may be asked, it says where to look: in which windows, and where to cut a long recording.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from gradalign.buckets import pad
from gradalign.bundle import Bundle
from gradalign.cache import by_shape
from gradalign.classifier import Classifier, block_of, log_probs, name_of
from gradalign.clock import part
from gradalign.compressed import (
    UNSURE,
    WIDTHS,
    coarse_alignment,
    worthwhile,
)
from gradalign.errors import AlignmentError
from gradalign.nn.aed import FEATURES_LEAF
from gradalign.nn.config import AEDConfig
from gradalign.pieces import Piece, joined, pieces
from gradalign.signals import CUES, LEAST, OF_CLASSIFIER, OF_CTC, OF_GRADIENTS, Signals, family, signal_names
from gradalign.signals import chosen as chosen_signals

_log = logging.getLogger(__name__)

T = TypeVar("T")

LONGEST_S = 16.0
"""Longer recordings are read in pieces of at most this; most utterances that models learn from are shorter."""

HEARD, OVERLAP = 1920, 240
"""Frames of a window in which the CTC head hears recordings of any length, and of its context on each side."""

CHUNK_BYTES = 1 << 30
"""Memory that one chunk of cotangents may take in self-attention, the largest part of a pull-back."""


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
    if "ctc" in names and len(names) > 1 and is_long(bundle, features):
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


def is_long(bundle: Bundle, features: Float[np.ndarray, "frames mels"]) -> bool:
    """Whether a recording is longer than `LONGEST_S`."""
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
        seen = first_trusted(read, n_labels, n_frames_at(n_frames, 0, bundle)) if windows else None
        seen = read(None)[0] if seen is None else seen
    return _unpadded(seen, bundle, n_labels, n_frames)


def first_trusted(read: Callable[[int], tuple[T, float]], n_labels: int, n_encoder: int) -> T | None:
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
        why = "gradients are not where the CTC head hears the labels"
        if np.isinf(missed):  # nor is there a place for wider ones
            why = "the CTC head finds no path through the transcript"
            break
    if why:
        _log.warning(
            "%s: each label's gradient is followed through the whole recording, which is slower; is the transcript "
            "what is said?",
            why,
        )
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
        cut, whole = cut_at_pauses(bundle, features, bundle.ids(labels))
    parts = []
    for piece in cut:
        inside, here = labels[slice(*piece.labels)], features[slice(*piece.frames)]
        parts.append((piece, _read(bundle, here, inside, names, exact=exact)))
    return joined(parts, whole, names.index("ctc"))


def cut_at_pauses(
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
    if float(together.missed) == 0.0 and not is_long(bundle, features):
        return AllSignals(together, together)
    return AllSignals(together, _read(bundle, features, labels, signal_names(bundle.network.config), exact=True))


def picked(seen: AllSignals, chosen: Sequence[str], names: Sequence[str]) -> Signals:
    """Some of the signals in the order asked for; of families that are not among them, no cue is known either."""
    source = seen.together if "ctc" in chosen else seen.apart
    cues = np.array(source.cues, np.float32)
    families = {family(name) for name in chosen}
    for kind, of_it in (("ctc", OF_CTC), ("gradient", OF_GRADIENTS), ("classifier", OF_CLASSIFIER)):
        if kind not in families:
            cues[[CUES.index(name) for name in of_it]] = 0.0
    rows = [names.index(name) for name in chosen]
    return Signals(np.asarray(source.scores, np.float32)[rows], cues, np.asarray(source.sure, np.float32))


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


@partial(by_shape, static_argnames=("graph",))
def _ctc_log_probs(graph, state, features, n_frames):
    network = nnx.merge(graph, state)
    return network.ctc_log_probs(network.encode(features, n_frames)[0])


def n_frames_at(n_features: int, depth: int, bundle: Bundle) -> int:
    """Frames that a recording of so many feature frames has at a depth, counted as by `leaf_depth`."""
    return n_features if depth == FEATURES_LEAF else -(-n_features // bundle.network.config.subsampling)
