"""From a recording and its transcript to an alignment: the one place where all parts meet."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from gradalign import audio as audio_files
from gradalign import bundle as bundles
from gradalign._types import Method, Seconds
from gradalign.alignment import Alignment, Evidence, Interval, Tier, TranscriptWord
from gradalign.boundaries import Boundaries, boundaries, within
from gradalign.bundle import Bundle
from gradalign.cache import spare_memory_maps
from gradalign.calibration import Calibration, classes_of
from gradalign.calibration import scores as calibrated_scores
from gradalign.confidence import FACTS, REACH_S, facts, of_words
from gradalign.errors import AlignmentError
from gradalign.evidence import attention_scores, ctc_scores, log_saliency, normalise, silence_score, upsample
from gradalign.features import log_mel_padded
from gradalign.gradients import Reduction, saliency
from gradalign.io._files import read_text
from gradalign.lattice import Posteriors, Topology, check_feasible, forward_backward, spans, viterbi
from gradalign.nn.aed import FEATURES_LEAF
from gradalign.pronunciation import chosen_variants
from gradalign.signals import Signals, depth_of, signal_names
from gradalign.signals import chosen as chosen_signals
from gradalign.timing import FrameGrid
from gradalign.transcript import Transcript

# Each padded shape is compiled once, so there are few of them.
FRAME_BUCKETS = (160, 320, 480, 640, 800, 960, 1280, 1600, 1920, 2560, 3200, 3840, 4800, 6016)
LABEL_BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536)
QUIET = 0.1
"""Recordings whose largest sample is below this are amplified."""
CHUNK_BYTES = 1 << 30
"""Memory that one chunk of cotangents may take in self-attention, the largest part of a pull-back."""


def align(
    audio: str | Path | np.ndarray,
    transcript: str | Path | Transcript,
    *,
    model: str | Path | Bundle = bundles.DEFAULT,
    method: Method | None = None,
    sample_rate: int | None = None,
    channel: int | None = None,
    leaf: str = "features",
    reduce: Reduction = "l2",
    variants: bool = True,
    keep_evidence: bool = True,
) -> Alignment:
    """When each word and phone of a transcript was said.

    Args:
        audio: A file, or mono samples in [-1, 1].
        transcript: The words that are said, as people write them; a `pathlib.Path` of a text file with
            them (a str is never a path here); or a `Transcript` with labels.
        model: Name of a model that comes with the package, a model folder, or a loaded `Bundle`.
        method: "calibrated" (all evidence, weighed as the model has learnt to), or "calibrated-gradient",
            "calibrated-attention" or "calibrated-ctc" (one kind of it, weighed likewise); plain, that is as published:
            "gradient" (saliency of each label's log-probability), "attention" (cross-attention with dynamic time
            warping), "ctc" (forced alignment from the CTC head); or "equal" (labels spread evenly: the floor that any
            evidence must beat). None means "calibrated" if the model has learnt it and neither ``leaf`` nor ``reduce``
            asks for plain gradients, else "gradient".
        sample_rate: Of ``audio`` if it is an array; default 16 kHz. Not for files.
        channel: Channel of a file, counted from 0; None averages all of them.
        leaf: Where the plain gradients are taken: "features" (log-mel frames), "stem", "block-K" (output of
            the K-th block, counted from 1) or "encoder" (output of the last one).
        reduce: How a frame's plain gradient becomes one number; see `gradalign.saliency`.
        variants: Whether the model chooses among the pronunciations of each word; else the first one is taken.
        keep_evidence: Whether the result keeps what it was read off, for `Alignment.plot`.

    Returns:
        Tiers "words" and "phones", and the fate of every word of the transcript. By a calibrated method boundaries are
        medians over all paths, with ranges, and words have a confidence; else they are those of the best path, on the
        edges of frames.

    Raises:
        AlignmentError: If this recording cannot be aligned with this transcript, or the model has not learnt the
            method.
        FormatError: If the file or the model cannot be read.
        ValueError: If an option is not one of those named here.

    References:
        Schmitt et al. 2025, arXiv 2410.00680 (the method); docs/method.md (ours, step by step).
    """
    if method is not None and method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}")
    bundle = model if isinstance(model, Bundle) else bundles.load(model)
    method = _chosen(method, bundle, plain=leaf != "features" or reduce != "l2")
    spare_memory_maps()
    depth = leaf_depth(leaf, bundle.network.config.encoder_layers)
    if method != "equal":
        bundle.check_time_order(*_deepest(method, leaf, bundle))
    if isinstance(transcript, Path):
        transcript = read_text(transcript)
    if isinstance(transcript, str):
        transcript = Transcript.from_text(transcript)
    waveform = prepared(audio, bundle, sample_rate=sample_rate, channel=channel)
    features = log_mel_padded(waveform, bundle.features)
    duration = len(waveform) / bundle.features.sample_rate
    kept = (features, bundle.grid) if keep_evidence else None
    if variants and method != "equal":
        transcript = pronounced(bundle, transcript, features)
    about: dict[str, Any] = {"duration": duration, "features": kept, "method": method, "model": bundle.name}
    if method in bundle.calibrations:
        calibration = bundle.calibrations[method]
        check_feasible(len(transcript.labels), len(features), Topology.words(transcript.unit_of_label))
        seen = read_signals(bundle, features, transcript.labels, calibration.signals)
        return place_calibrated(transcript, seen, calibration, grid=bundle.grid, **about)[0]
    scores, silence, topology, grid = _evidence(bundle, features, transcript, method, depth, reduce)
    if method == "attention" or (method == "gradient" and depth != FEATURES_LEAF):
        _check_rises(scores, method if method == "attention" else f"saliency at leaf {leaf!r}")
    return place(transcript, scores, silence, grid=grid, topology=topology, **about)


def pronounced(bundle: Bundle, transcript: Transcript, features: Float[np.ndarray, "frames mels"]) -> Transcript:
    """The transcript with the pronunciations that the model finds most probable; see `gradalign.pronunciation`.

    A transcript that is too long for the recording comes back as it is.
    """
    if len(transcript.labels) > _n_frames(len(features), 0, bundle):
        return transcript
    padded, n_frames, _ = _pad(features, np.zeros(1, np.int32))
    return chosen_variants(bundle, transcript, padded, n_frames)


def _chosen(method: Method | None, bundle: Bundle, *, plain: bool) -> Method:
    """The method that is meant; ``plain`` says that an option of the plain gradients was given."""
    if method is None:
        # Behind a block that reverses time, only gradients at the input point to the right frames.
        reversing = bundle.time_order is not None and bundle.time_order.order == "reversed"
        return "gradient" if plain or reversing or "calibrated" not in bundle.calibrations else "calibrated"
    if plain and method.startswith("calibrated"):
        raise ValueError(f'leaf and reduce go with method "gradient"; {method!r} takes the leaves that it has learnt')
    if method.startswith("calibrated") and method not in bundle.calibrations:
        raise AlignmentError(
            f"model {bundle.name!r} has not learnt method {method!r}; it has "
            f"{', '.join(bundle.calibrations) or 'no calibration'}: run gradalign calibrate, or take a plain method"
        )
    return method


def place(
    transcript: Transcript,
    scores: Float[np.ndarray | Array, "labels frames"],
    silence: Float[np.ndarray | Array, " frames"],
    *,
    grid: FrameGrid,
    duration: Seconds,
    topology: Topology | None = None,
    features: tuple[Float[np.ndarray, "feature_frames mels"], FrameGrid] | None = None,
    method: str | None = None,
    model: str | None = None,
) -> Alignment:
    """The best path through any label x frame scores, as an alignment. For models of your own.

    Args:
        transcript: Words and labels; one row of ``scores`` a label.
        scores: Log score of each label at each frame.
        silence: Log score of silence at each frame.
        grid: Times of the frames.
        duration: Length of the recording in seconds.
        topology: Where silence may lie; by default between spoken units and at both ends.
        features: Log-mel frames and their grid, kept with the evidence for plots; None keeps none.
        method: Name of the evidence, for the result.
        model: Name of the model, for the result.

    Raises:
        AlignmentError: If scores are not finite, or there are more labels than frames.
        ValueError: If scores, silence, topology, grid and duration do not belong together.
    """
    scores, silence = np.asarray(scores), np.asarray(silence)
    topology = Topology.words(transcript.unit_of_label) if topology is None else topology
    return _placed(transcript, scores, silence, topology, grid, duration, features, method, model, None)[0]


class _Told(NamedTuple):
    """What a calibrated method tells of each label besides its scores, and what confidence is made of it."""

    surprise: Float[np.ndarray, " labels"]
    heard: Float[np.ndarray, "labels frames"] | None
    confidence: tuple[float, ...]


def _placed(
    transcript: Transcript,
    scores: np.ndarray,
    silence: np.ndarray,
    topology: Topology,
    grid: FrameGrid,
    duration: Seconds,
    features: tuple[np.ndarray, FrameGrid] | None,
    method: str | None,
    model: str | None,
    told: _Told | None,
) -> tuple[Alignment, Float[np.ndarray, "words facts"]]:
    """An alignment from scores: by the best path or, where the scores are probabilities, by medians over all paths.

    Also what is known of each word, for its confidence; nothing where the scores are not probabilities.
    """
    n_labels, n_frames = scores.shape
    _check_scores(transcript, scores, silence, topology, grid, duration)
    check_feasible(n_labels, n_frames, topology)
    path = _path(scores, silence, topology)
    runs = np.asarray(spans(jnp.asarray(path), n_labels))
    means = [float(scores[i, first:last].mean()) for i, (first, last) in enumerate(runs)]
    if told is None:
        phones = tuple(
            Interval(*grid.span_s(int(first), int(last), duration), label, mean)
            for (first, last), label, mean in zip(runs, transcript.labels, means, strict=True)
        )
        table, confidence = np.zeros((0, len(FACTS))), None
    else:
        found = _posteriors(scores, silence, topology)
        edges = boundaries(np.asarray(found.starts), np.asarray(found.ends))
        phones = _medians(transcript.labels, edges, means, grid, duration)
        table = _facts(transcript, found, edges, runs, told, grid)
        confidence = of_words(table, told.confidence) if told.confidence else None
    entries, fates = _words(transcript, phones, runs, means, confidence)
    evidence = None
    if features is not None:
        evidence = Evidence(features[0], features[1], scores, silence, path, transcript.labels, grid)
    tiers = (Tier("words", entries), Tier("phones", phones))
    return Alignment(duration, tiers, transcript.text, fates, method, model, evidence), table


def _medians(
    labels: tuple[str, ...], edges: Boundaries, means: list[float], grid: FrameGrid, duration: Seconds
) -> tuple[Interval, ...]:
    """Intervals of labels with ranges, inside the recording. A millisecond is left to each, whatever the clipping."""
    least = 1e-3
    room = len(labels) * least

    def seconds(frames: np.ndarray) -> np.ndarray:
        return np.clip(np.array([grid.edge_s(float(b)) for b in frames]), 0.0, duration)

    starts, ends = seconds(edges.starts), seconds(edges.ends)
    ranges = [seconds(limits) for limits in (*edges.start_ranges.T, *edges.end_ranges.T)]
    found, at = [], 0.0
    for i, label in enumerate(labels):
        room -= least
        start = min(max(float(starts[i]), at), duration - room - least)
        end = min(max(float(ends[i]), start + least), duration - room)
        low, high, end_low, end_high = (float(r[i]) for r in ranges)
        found.append(Interval(start, end, label, means[i], (low, high), (end_low, end_high)))
        at = end
    return tuple(found)


def _facts(
    transcript: Transcript,
    found: Posteriors,
    edges: Boundaries,
    runs: np.ndarray,
    told: _Told,
    grid: FrameGrid,
) -> Float[np.ndarray, "words facts"]:
    """What is known of each word that has labels, see `gradalign.confidence`."""
    reach = REACH_S / grid.hop_s
    near_start = within(np.asarray(found.starts), edges.starts, reach)
    near_end = within(np.asarray(found.ends), edges.ends, reach)
    unheard = np.zeros(len(runs))
    if told.heard is not None:
        unheard = np.array([-told.heard[i, first:last].max() for i, (first, last) in enumerate(runs)])
    return np.stack(
        [
            facts(float(near_start[inside[0]]), float(near_end[inside[-1]]), told.surprise[inside], unheard[inside])
            for inside in _members(transcript).values()
        ]
    )


def _deepest(method: Method, leaf: str, bundle: Bundle) -> tuple[str, int]:
    """What a method reads off the network, and the depth of the deepest part of it, as `leaf_depth` counts."""
    layers = bundle.network.config.encoder_layers
    if method in bundle.calibrations:
        return f"method {method!r}", max(depth_of(name, layers) for name in bundle.calibrations[method].signals)
    if method == "gradient":
        return f"leaf {leaf!r}", leaf_depth(leaf, layers)
    return f"method {method!r}", layers


def _check_rises(scores: Float[np.ndarray | Array, "labels frames"], source: str) -> None:
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


def _check_scores(transcript, scores, silence, topology, grid, duration) -> None:
    n_labels, n_frames = scores.shape
    if n_labels != len(transcript.labels):
        raise ValueError(f"scores have {n_labels} rows, the transcript {len(transcript.labels)} labels")
    if len(silence) != n_frames:
        raise ValueError(f"silence has {len(silence)} frames, the scores have {n_frames}; give one score a frame")
    if len(topology.skip_allowed) != n_labels:
        raise ValueError(f"the topology is for {len(topology.skip_allowed)} labels, the transcript has {n_labels}")
    if not grid.edge_s(n_frames - 1) < duration <= grid.edge_s(n_frames) + grid.hop_s:
        raise ValueError(
            f"{n_frames} frames of {grid.hop_s} s do not go with {duration} s: the last one starts at "
            f"{grid.edge_s(n_frames - 1):.3f} s; check the grid and the duration"
        )
    # Far below any log-probability the lattice cannot tell a score from a forbidden move.
    bad = int((~(np.abs(scores) < 1e9)).sum() + (~(np.abs(silence) < 1e9)).sum())
    if bad:
        raise AlignmentError(
            f"{bad} scores are NaN, infinite or beyond 1e9; check the model's parameters and the recording"
        )


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
    padded = _pad(features, labels)
    graph, state = nnx.split(bundle.network)
    found = _saliency(graph, state, *padded, depth=depth, reduce=reduce)
    n_leaf = _n_frames(features.shape[0], depth, bundle)
    return np.asarray(found)[: len(labels), :n_leaf]


def _evidence(bundle, features, transcript, method, depth, reduce):
    """Scores, silence and topology of one method, and the grid they are on."""
    n_frames, n_labels = len(features), len(transcript.labels)
    n_encoder = _n_frames(n_frames, 0, bundle)
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
        scores, silence = _gradient_scores(graph, state, *_pad(features, labels), depth=depth, reduce=reduce)
        return np.asarray(scores)[:n_labels, :n_frames], np.asarray(silence)[:n_frames], words, bundle.grid
    if method == "ctc":
        topology = Topology.ctc(labels.tolist())
        check_feasible(n_labels, n_encoder, topology)
        log_probs = np.asarray(_ctc_log_probs(graph, state, *_pad(features, labels)[:2]))[:n_encoder]
        scores, silence = ctc_scores(jnp.asarray(log_probs), jnp.asarray(labels))
        return scores, silence, topology, bundle.encoder_grid
    topology = Topology.no_silence(n_labels)
    check_feasible(n_labels, n_encoder, topology)
    maps = _cross_attention(graph, state, *_pad(features, labels))[:n_labels, :n_encoder]
    return attention_scores(maps), jnp.full(n_encoder, -1e3), topology, bundle.encoder_grid


def read_signals(
    bundle: Bundle,
    features: Float[np.ndarray, "frames mels"],
    labels: tuple[str, ...],
    names: tuple[str, ...] | None = None,
) -> Signals:
    """What `gradalign.signals` gives for one recording, on the host and without padding.

    Args:
        bundle: The model.
        features: Log-mel frames.
        labels: Names of the transcript's labels.
        names: Which signals; None for all.
    """
    spare_memory_maps()
    graph, state = nnx.split(bundle.network)
    names = signal_names(bundle.network.config) if names is None else names
    seen = _signals(graph, state, *_pad(features, bundle.ids(labels)), names=names)
    n_labels, n_frames = len(labels), len(features)
    scores, cues, sure = (np.asarray(part) for part in seen)
    return Signals(scores[:, :n_labels, :n_frames], cues[:, :n_frames], sure[:n_labels])


def place_calibrated(
    transcript: Transcript,
    seen: Signals,
    calibration: Calibration,
    *,
    grid: FrameGrid,
    duration: Seconds,
    features: tuple[Float[np.ndarray, "feature_frames mels"], FrameGrid] | None = None,
    method: str | None = None,
    model: str | None = None,
) -> tuple[Alignment, Float[np.ndarray, "words facts"]]:
    """An alignment from the signals that a calibration is for, and what is known of each word in its tier.

    Args:
        transcript: Words and labels.
        seen: Signals of its labels, those of the calibration in its order.
        calibration: How to weigh them.
        grid: As for `place`.
        duration: As for `place`.
        features: As for `place`.
        method: As for `place`.
        model: As for `place`.

    Raises:
        AlignmentError: As `place`.
    """
    n_labels, n_frames = seen.scores.shape[1:]
    rows, columns = _bucket(n_labels, LABEL_BUCKETS), _bucket(n_frames, FRAME_BUCKETS)
    more_labels, more_frames = (0, rows - n_labels), (0, columns - n_frames)
    padded = Signals(
        np.pad(seen.scores, ((0, 0), more_labels, more_frames)),
        np.pad(seen.cues, ((0, 0), more_frames)),
        np.pad(seen.sure, (more_labels, (0, 0))),
    )
    classes = np.pad(classes_of(transcript.labels), more_labels)
    scores, silence = (np.asarray(x) for x in _weighed(calibration.weights, padded, classes, n_labels))
    at = calibration.signals.index("ctc") if "ctc" in calibration.signals else None
    heard = None if at is None else np.asarray(seen.scores[at])
    told = _Told(-np.asarray(seen.sure)[:, 0], heard, calibration.confidence)
    scores, silence = scores[:n_labels, :n_frames], silence[:n_frames]
    topology = Topology.words(transcript.unit_of_label)
    return _placed(transcript, scores, silence, topology, grid, duration, features, method, model, told)


@partial(jax.jit, static_argnames=("graph", "names"))
def _signals(graph, state, features, n_frames, labels, *, names):
    network = nnx.merge(graph, state)
    chunk = _chunk(network, features.shape[0])
    return chosen_signals(network, features, labels, n_frames, names=names, chunk=chunk)


@jax.jit
def _weighed(weights, seen, classes, n_labels):
    return normalise(*calibrated_scores(weights, seen, classes, n_labels), n_labels=n_labels)


def _chunk(network: Any, n_rows: int) -> int:
    """Labels differentiated together, so that their cotangents in self-attention fit into `CHUNK_BYTES`."""
    n_encoder = n_rows // network.config.subsampling
    return int(np.clip(CHUNK_BYTES // (4 * 8 * network.config.heads * n_encoder**2), 1, 32))


@partial(jax.jit, static_argnames=("graph", "depth", "reduce"))
def _saliency(graph: Any, state: Any, features, n_frames, labels, *, depth: int, reduce: Reduction):
    network = nnx.merge(graph, state)
    leaf = network.to_depth(features, depth, n_frames)

    def score(x):
        return network.label_log_probs(x, labels, n_frames, depth=depth)

    return saliency(score, leaf, reduce=reduce, chunk=_chunk(network, features.shape[0]))


@partial(jax.jit, static_argnames=("graph", "depth", "reduce"))
def _gradient_scores(graph, state, features, n_frames, labels, *, depth, reduce):
    n_labels = (labels > 0).sum()
    found = _saliency(graph, state, features, n_frames, labels, depth=depth, reduce=reduce)
    if depth == FEATURES_LEAF:
        scores = log_saliency(found, n_frames=n_frames)
    else:
        factor = nnx.merge(graph, state).config.subsampling
        n_coarse = -(-n_frames // factor)
        coarse = log_saliency(found, n_frames=n_coarse)
        scores = upsample(coarse, factor, features.shape[0], n_coarse=n_coarse)
    silence = silence_score(scores, n_labels=n_labels, n_frames=n_frames)
    return normalise(scores, silence, n_labels=n_labels)


@partial(jax.jit, static_argnames="graph")
def _ctc_log_probs(graph, state, features, n_frames):
    network = nnx.merge(graph, state)
    return network.ctc_log_probs(network.encode(features, n_frames)[0])


@partial(jax.jit, static_argnames="graph")
def _cross_attention(graph, state, features, n_frames, labels):
    """Cross-attention of the last decoder layer, averaged over heads."""
    seen = nnx.merge(graph, state).intermediates(features, labels, n_frames)
    return seen.cross_attention[-1].mean(axis=0)


@jax.jit
def _viterbi(scores, silence, topology, n_labels, n_frames):
    return viterbi(scores, silence, topology, n_labels=n_labels, n_frames=n_frames).labels


@jax.jit
def _forward_backward(scores, silence, topology, n_labels, n_frames):
    return forward_backward(scores, silence, topology, n_labels=n_labels, n_frames=n_frames)


def _path(scores: np.ndarray, silence: np.ndarray, topology: Topology) -> np.ndarray:
    return np.asarray(_viterbi(*_padded_scores(scores, silence, topology)))[: scores.shape[1]]


def _posteriors(scores: np.ndarray, silence: np.ndarray, topology: Topology) -> Posteriors:
    """On the host, without padding."""
    n_labels, n_frames = scores.shape
    found = jax.tree.map(np.asarray, _forward_backward(*_padded_scores(scores, silence, topology)))
    return Posteriors(
        found.labels[:n_labels, :n_frames],
        found.silence[:n_frames],
        found.starts[:n_labels, :n_frames],
        found.ends[:n_labels, : n_frames + 1],
        found.log_total,
    )


def _padded_scores(scores: np.ndarray, silence: np.ndarray, topology: Topology):
    n_labels, n_frames = scores.shape
    rows, columns = _bucket(n_labels, LABEL_BUCKETS), _bucket(n_frames, FRAME_BUCKETS)
    padded = np.pad(scores, ((0, rows - n_labels), (0, columns - n_frames)))
    quiet = np.pad(silence, (0, columns - n_frames))
    return padded, quiet, topology.padded(rows), n_labels, n_frames


def _pad(features: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int, np.ndarray]:
    rows, columns = _bucket(len(features), FRAME_BUCKETS), _bucket(len(labels), LABEL_BUCKETS)
    return (
        np.pad(features, ((0, rows - len(features)), (0, 0))),
        len(features),
        np.pad(labels, (0, columns - len(labels))),
    )


def _bucket(size: int, buckets: tuple[int, ...]) -> int:
    """The smallest bucket that holds ``size``; past the last one, a multiple of it."""
    return next((b for b in buckets if b >= size), -(-size // buckets[-1]) * buckets[-1])


def _n_frames(n_features: int, depth: int, bundle: Bundle) -> int:
    return n_features if depth == FEATURES_LEAF else -(-n_features // bundle.network.config.subsampling)


def prepared(
    audio: str | Path | np.ndarray, bundle: Bundle, *, sample_rate: int | None = None, channel: int | None = None
) -> Float[np.ndarray, " samples"]:
    """Samples as the model hears them: at its rate, checked, not too long and not too quiet.

    Args:
        audio: As for `align`.
        bundle: The model.
        sample_rate: As for `align`.
        channel: As for `align`.

    Raises:
        AlignmentError: If the samples cannot be used, or are too many for the model.
        FormatError: If the file cannot be read.
    """
    rate, longest = bundle.features.sample_rate, bundle.max_duration_s
    if isinstance(audio, np.ndarray):
        if audio.ndim != 1:
            raise AlignmentError(f"expected mono samples, shape (samples,), got shape {audio.shape}; pick a channel")
        if not np.issubdtype(audio.dtype, np.floating):
            raise AlignmentError(
                f"expected samples as floats in [-1, 1], got {audio.dtype}; divide 16-bit integers by 32768"
            )
        checked = audio_files.check(np.asarray(audio, np.float32))
        waveform = audio_files.resample(checked, sample_rate or rate, rate)
    else:
        waveform = audio_files.read(audio, channel=channel, sample_rate=rate, max_duration_s=longest)
    # Models hear speech of an ordinary level in training; what is 20 dB below that is brought up to it.
    peak = float(np.abs(waveform).max(initial=0.0))
    if 0 < peak < QUIET:
        waveform = waveform * np.float32(0.5 / peak)
    if len(waveform) / rate > bundle.max_duration_s:
        raise AlignmentError(
            f"the recording is {len(waveform) / rate:.0f} s long, model {bundle.name!r} takes at most "
            f"{bundle.max_duration_s:.0f} s in one piece; split it and its transcript at pauses"
        )
    return waveform


def _members(transcript: Transcript) -> dict[int, list[int]]:
    """Labels of each word that has any."""
    members: dict[int, list[int]] = {}
    for label, word in enumerate(transcript.word_of_label):
        members.setdefault(word, []).append(label)
    return members


def _words(
    transcript: Transcript,
    phones: tuple[Interval, ...],
    runs: np.ndarray,
    means: list[float],
    confidence: Float[np.ndarray, " words"] | None,
) -> tuple[tuple[Interval, ...], tuple[TranscriptWord, ...]]:
    """The words tier, and what became of each word."""
    members = _members(transcript)
    entries, fates = [], []
    for index, word in enumerate(transcript.words):
        inside = members.get(index)
        if inside is None:
            fates.append(TranscriptWord(word.text, word.start_char, word.end_char, "unpronounceable"))
            continue
        frames = np.array([runs[i][1] - runs[i][0] for i in inside])
        score = float(np.average([means[i] for i in inside], weights=frames))
        first, last = phones[inside[0]], phones[inside[-1]]
        sure = None if confidence is None else float(confidence[len(entries)])
        fates.append(TranscriptWord(word.text, word.start_char, word.end_char, "aligned", len(entries)))
        entries.append(Interval(first.start, last.end, word.text, score, first.start_range, last.end_range, sure))
    return tuple(entries), tuple(fates)
