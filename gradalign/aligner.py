"""From a recording and its transcript to an alignment: the one place where all parts meet."""

import logging
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from gradalign import audio as audio_files
from gradalign import bundle as bundles
from gradalign._types import Method, Seconds
from gradalign.alignment import Alignment, Evidence, Interval, Tier, TranscriptWord
from gradalign.bundle import Bundle
from gradalign.clock import part
from gradalign.compressed import UNSURE, exact_saliency, windowed_saliency, worthwhile
from gradalign.errors import AlignmentError
from gradalign.evidence import attention_scores, ctc_scores, log_saliency, normalise, silence_score, upsample
from gradalign.features import log_mel_padded
from gradalign.gradients import Reduction
from gradalign.io._files import read_text
from gradalign.lattice import Topology, check_feasible, spans, viterbi
from gradalign.nn.aed import FEATURES_LEAF
from gradalign.timing import FrameGrid
from gradalign.transcript import Transcript

_log = logging.getLogger(__name__)

# Each padded shape is compiled once, so there are few of them.
FRAME_BUCKETS = (160, 320, 480, 640, 800, 960, 1280, 1600, 1920, 2560, 3200, 3840, 4800, 6016)
LABEL_BUCKETS = (16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536)
QUIET = 0.1
"""Recordings whose largest sample is below this are amplified."""


def align(
    audio: str | Path | np.ndarray,
    transcript: str | Path | Transcript,
    *,
    model: str | Path | Bundle = bundles.DEFAULT,
    method: Method = "gradient",
    sample_rate: int | None = None,
    channel: int | None = None,
    leaf: str = "features",
    reduce: Reduction = "l2",
    keep_evidence: bool = True,
    exact: bool = False,
) -> Alignment:
    """When each word and phone of a transcript was said.

    Args:
        audio: A file, or mono samples in [-1, 1].
        transcript: The words that are said, as people write them; a `pathlib.Path` of a text file with
            them (a str is never a path here); or a `Transcript` with labels.
        model: Name of a model that comes with the package, a model folder, or a loaded `Bundle`.
        method: "gradient" (saliency of each label's log-probability), "ctc" (plain forced alignment
            from the CTC head), "attention" (cross-attention with dynamic time warping), or "equal"
            (labels spread evenly: the floor that any evidence must beat).
        sample_rate: Of ``audio`` if it is an array; default 16 kHz. Not for files.
        channel: Channel of a file, counted from 0; None averages all of them.
        leaf: Where gradients are taken: "features" (log-mel frames), "stem", "block-K" (output of
            the K-th block, counted from 1) or "encoder" (output of the last one).
        reduce: How a frame's gradient becomes one number; see `gradalign.saliency`.
        keep_evidence: Whether the result keeps what it was read off, for `Alignment.plot`.
        exact: Whether each label's gradient is followed through the whole recording, instead of a window around the
            place where the CTC head hears the label. Slower by the length of the recording; see docs/speed.md. It is
            so anyway where windows are not cheaper, where a probe says that they miss too much (which is logged as a
            warning), and with ``reduce`` other than "l2".

    Returns:
        Tiers "words" and "phones", and the fate of every word of the transcript.

    Raises:
        AlignmentError: If this recording cannot be aligned with this transcript.
        FormatError: If the file or the model cannot be read.
        ValueError: If an option is not one of those named here.

    References:
        Schmitt et al. 2025, arXiv 2410.00680 (the method); docs/method.md (ours, step by step).
    """
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(get_args(Method))}; got {method!r}")
    bundle = model if isinstance(model, Bundle) else bundles.load(model)
    depth = leaf_depth(leaf, bundle.network.config.encoder_layers)
    if isinstance(transcript, Path):
        transcript = read_text(transcript)
    if isinstance(transcript, str):
        transcript = Transcript.from_text(transcript)
    with part("read"):
        waveform = _waveform(audio, sample_rate, channel, bundle)
    with part("features"):
        features = log_mel_padded(waveform, bundle.features)
    duration = len(waveform) / bundle.features.sample_rate
    scores, silence, topology, grid = _evidence(bundle, features, transcript, method, depth, reduce, exact)
    return place(
        transcript,
        scores,
        silence,
        grid=grid,
        duration=duration,
        topology=topology,
        features=(features, bundle.grid) if keep_evidence else None,
        method=method,
        model=bundle.name,
    )


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
    n_labels, n_frames = scores.shape
    topology = Topology.words(transcript.unit_of_label) if topology is None else topology
    _check_scores(transcript, scores, silence, topology, grid, duration)
    check_feasible(n_labels, n_frames, topology)
    with part("lattice"):
        path = _path(scores, silence, topology)
    runs = np.asarray(spans(jnp.asarray(path), n_labels))
    means = [float(scores[i, first:last].mean()) for i, (first, last) in enumerate(runs)]
    phones = tuple(
        Interval(*grid.span_s(int(first), int(last), duration), label, mean)
        for (first, last), label, mean in zip(runs, transcript.labels, means, strict=True)
    )
    entries, fates = _words(transcript, phones, runs, means)
    evidence = None
    if features is not None:
        evidence = Evidence(features[0], features[1], scores, silence, path, transcript.labels, grid)
    tiers = (Tier("words", entries), Tier("phones", phones))
    return Alignment(duration, tiers, transcript.text, fates, method, model, evidence)


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


def _evidence(bundle, features, transcript, method, depth, reduce, exact):
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
        with part("gradients"):
            found = _gradients(graph, state, features, labels, depth, reduce, exact)
            scores, silence = np.asarray(found[0])[:n_labels, :n_frames], np.asarray(found[1])[:n_frames]
        return scores, silence, words, bundle.grid
    if method == "ctc":
        topology = Topology.ctc(labels.tolist())
        check_feasible(n_labels, n_encoder, topology)
        with part("encode"):
            log_probs = np.asarray(_ctc_log_probs(graph, state, *_pad(features, labels)[:2]))[:n_encoder]
        scores, silence = ctc_scores(jnp.asarray(log_probs), jnp.asarray(labels))
        return scores, silence, topology, bundle.encoder_grid
    topology = Topology.no_silence(n_labels)
    check_feasible(n_labels, n_encoder, topology)
    with part("encode"):
        maps = np.asarray(_cross_attention(graph, state, *_pad(features, labels)))[:n_labels, :n_encoder]
    return attention_scores(jnp.asarray(maps)), jnp.full(n_encoder, -1e3), topology, bundle.encoder_grid


@partial(jax.jit, static_argnames=("graph", "depth", "reduce"))
def _saliency(graph: Any, state: Any, features, n_frames, labels, *, depth: int, reduce: Reduction):
    network = nnx.merge(graph, state)
    return exact_saliency(network, features, labels, n_frames, depth=depth, reduce=reduce)


@partial(jax.jit, static_argnames=("graph", "depth", "reduce"))
def _gradient_scores(graph, state, features, n_frames, labels, *, depth, reduce):
    found = _saliency(graph, state, features, n_frames, labels, depth=depth, reduce=reduce)
    return _scores_of(found, graph, state, features, n_frames, labels, depth)


@partial(jax.jit, static_argnames=("graph", "depth"))
def _windowed(graph, state, features, n_frames, labels, *, depth):
    return windowed_saliency(nnx.merge(graph, state), features, labels, n_frames, depth=depth)


@partial(jax.jit, static_argnames=("graph", "depth"))
def _windowed_scores(graph, state, features, n_frames, labels, *, depth):
    found = _windowed(graph, state, features, n_frames, labels, depth=depth)
    return _scores_of(found.saliency, graph, state, features, n_frames, labels, depth), found.missed


def _gradients(graph, state, features, labels, depth, reduce, exact):
    """Scores and silence from windows where they are cheaper and can be trusted, else from the whole recording."""
    padded = _pad(features, labels)
    if not exact and reduce == "l2" and worthwhile(len(labels), len(features)):
        scores, missed = _windowed_scores(graph, state, *padded, depth=depth)
        if float(missed) <= UNSURE:
            return scores
        _log.warning(
            "windows miss %.2f of the gradients (at most %g may be missed): each label's is followed through the "
            "whole recording, which is slower",
            float(missed),
            UNSURE,
        )
    return _gradient_scores(graph, state, *padded, depth=depth, reduce=reduce)


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


def _path(scores: np.ndarray, silence: np.ndarray, topology: Topology) -> np.ndarray:
    n_labels, n_frames = scores.shape
    rows, columns = _bucket(n_labels, LABEL_BUCKETS), _bucket(n_frames, FRAME_BUCKETS)
    padded = np.pad(scores, ((0, rows - n_labels), (0, columns - n_frames)))
    quiet = np.pad(silence, (0, columns - n_frames))
    return np.asarray(_viterbi(padded, quiet, topology.padded(rows), n_labels, n_frames))[:n_frames]


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


def _waveform(audio, sample_rate: int | None, channel: int | None, bundle: Bundle) -> np.ndarray:
    """Samples at the model's rate, checked and not too long."""
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


def _words(transcript: Transcript, phones, runs, means) -> tuple[tuple[Interval, ...], tuple[TranscriptWord, ...]]:
    """The words tier, and what became of each word."""
    members: dict[int, list[int]] = {}
    for label, word in enumerate(transcript.word_of_label):
        members.setdefault(word, []).append(label)
    entries, fates = [], []
    for index, word in enumerate(transcript.words):
        inside = members.get(index)
        if inside is None:
            fates.append(TranscriptWord(word.text, word.start_char, word.end_char, "unpronounceable"))
            continue
        frames = np.array([runs[i][1] - runs[i][0] for i in inside])
        score = float(np.average([means[i] for i in inside], weights=frames))
        fates.append(TranscriptWord(word.text, word.start_char, word.end_char, "aligned", len(entries)))
        entries.append(Interval(phones[inside[0]].start, phones[inside[-1]].end, word.text, score))
    return tuple(entries), tuple(fates)
