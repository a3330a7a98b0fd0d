"""From scores to an alignment: the path or the posteriors of the lattice, put into words, phones and seconds."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from gradalign._types import Seconds
from gradalign.alignment import Alignment, Evidence, Interval, Tier, TranscriptWord
from gradalign.boundaries import Boundaries, boundaries, within, without_closures
from gradalign.buckets import FRAME_BUCKETS, LABEL_BUCKETS, bucket
from gradalign.cache import by_shape
from gradalign.calibration import Calibration, classes_of
from gradalign.calibration import moves as calibrated_moves
from gradalign.calibration import scores as calibrated_scores
from gradalign.clock import part
from gradalign.confidence import FACTS, REACH_S, facts, of_words
from gradalign.errors import AlignmentError
from gradalign.evidence import normalise
from gradalign.lattice import Moves, Posteriors, Topology, check_feasible, forward_backward, spans, viterbi
from gradalign.signals import CUES, Signals
from gradalign.timing import FrameGrid
from gradalign.transcript import Transcript

CLOSURE_S = 0.06
"""By calibrated methods, silence shorter than this before a word is the word's own: stops begin with as much of it."""

LEASH = 25
"""Frames to either side of where CTC forced alignment has a label that cost nothing."""

LEASH_COST = 0.1
"""Natural log of odds a frame further than these."""


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
        scores: Log score (natural, finite) of each label at each frame.
        silence: Log score of silence at each frame, comparable with these.
        grid: Times of the frames.
        duration: Length of the recording in seconds.
        topology: Where silence may lie; by default between spoken units and at both ends.
        features: Log-mel frames and their grid, kept with the evidence for plots; None keeps none.
        method: Name of the evidence, for the result.
        model: Name of the model, for the result.

    Returns:
        Tiers "words" and "phones", on the edges of frames, in seconds.

    Raises:
        AlignmentError: If scores are not finite, or there are more labels than frames.
        ValueError: If scores, silence, topology, grid and duration do not belong together.
    """
    scores, silence = np.asarray(scores), np.asarray(silence)
    topology = Topology.words(transcript.unit_of_label) if topology is None else topology
    return _placed(transcript, scores, silence, topology, grid, duration, features, method, model, None)[0]


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

    If the CTC head is among them, labels are held near to where CTC forced alignment has them, see `strayed`.

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
    rows, columns = bucket(n_labels, LABEL_BUCKETS), bucket(n_frames, FRAME_BUCKETS)
    more_labels, more_frames = (0, rows - n_labels), (0, columns - n_frames)
    padded = Signals(
        np.pad(seen.scores, ((0, 0), more_labels, more_frames)),
        np.pad(seen.cues, ((0, 0), more_frames)),
        np.pad(seen.sure, (more_labels, (0, 0))),
    )
    classes = np.pad(classes_of(transcript.labels), more_labels)
    with part("lattice"):
        scores, silence, moves = jax.tree.map(np.asarray, _weighed(calibration.weights, padded, classes, n_labels))
    at = calibration.signals.index("ctc") if "ctc" in calibration.signals else None
    heard = None if at is None else np.asarray(seen.scores[at])
    touch, start, end = (move[:, :n_frames] for move in moves)
    between = Moves(touch[:n_labels], start[:n_labels], end[: n_labels + 1])
    told = _Told(-np.asarray(seen.sure)[:, 0], heard, calibration.confidence, between)
    scores, silence = scores[:n_labels, :n_frames], silence[:n_frames]
    if heard is not None:
        blank = np.asarray(seen.cues[CUES.index("blank")])
        with part("lattice"):
            scores = scores - (LEASH_COST * strayed(heard, blank, transcript.labels)).astype(scores.dtype)
    topology = Topology.words(transcript.unit_of_label)
    return _placed(transcript, scores, silence, topology, grid, duration, features, method, model, told)


def strayed(
    heard: Float[np.ndarray, "labels frames"], blank: Float[np.ndarray, " frames"], labels: Sequence[str]
) -> Int[np.ndarray, "labels frames"]:
    """Frames by which each frame lies further than `LEASH` from where CTC forced alignment has the label.

    What is learnt on short sentences without a mistake may lose its place in long informal speech. There the CTC head
    is the better guide to about where a word is, if not to its edges.

    Args:
        heard: Log-posterior of each label.
        blank: Of the blank.
        labels: Names of the labels; between equal neighbours there must be a blank.
    """
    n_labels, n_frames = heard.shape
    topology = Topology.ctc(np.unique(labels, return_inverse=True)[1])
    if n_frames < n_labels + int((~topology.skip_allowed).sum()):
        return np.zeros(heard.shape, np.int32)
    first, end = spans(_path(heard, blank, topology), n_labels).T[:, :, None]
    frame = np.arange(n_frames)[None, :]
    return np.maximum(np.maximum(first - frame, frame - (end - 1)) - LEASH, 0)


class _Told(NamedTuple):
    """What a calibrated method tells of each label besides its scores, and what confidence is made of it."""

    surprise: Float[np.ndarray, " labels"]
    heard: Float[np.ndarray, "labels frames"] | None
    confidence: tuple[float, ...]
    moves: Moves


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
    _check_scores(transcript, scores, silence, () if told is None else told.moves, topology, grid, duration)
    check_feasible(n_labels, n_frames, topology)
    with part("lattice"):
        path = _path(scores, silence, topology, None if told is None else told.moves)
    runs = spans(path, n_labels)
    means = [float(scores[i, first:last].mean()) for i, (first, last) in enumerate(runs)]
    if told is None:
        phones = tuple(
            Interval(*grid.span_s(int(first), int(last), duration), label, mean)
            for (first, last), label, mean in zip(runs, transcript.labels, means, strict=True)
        )
        table, confidence = np.zeros((0, len(FACTS))), None
    else:
        with part("lattice"):
            found = _posteriors(scores, silence, topology, told.moves)
        edges = boundaries(np.asarray(found.starts), np.asarray(found.ends))
        shown = without_closures(edges, CLOSURE_S / grid.hop_s)
        phones = _medians(transcript.labels, shown, means, grid, duration)
        table = _facts(transcript, found, edges, runs, told, grid)
        confidence = of_words(table, told.confidence) if told.confidence else None
    entries, fates = _words(transcript, phones, runs, means, confidence)
    evidence = None
    if features is not None:
        evidence = Evidence(features[0], features[1], scores, silence, path, transcript.labels, grid)
    tiers = (Tier("words", entries), Tier("phones", phones))
    return Alignment(duration, tiers, transcript.text, fates, method, model, evidence), table


def _check_scores(transcript, scores, silence, moves, topology, grid, duration) -> None:
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
    bad = sum(int((~(np.abs(part) < 1e9)).sum()) for part in (scores, silence, *moves))
    if bad:
        raise AlignmentError(
            f"{bad} scores are NaN, infinite or beyond 1e9; check the model's parameters and the recording"
        )


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


def _members(transcript: Transcript) -> dict[int, list[int]]:
    """Labels of each word that has any."""
    members: dict[int, list[int]] = {}
    for label, word in enumerate(transcript.word_of_label):
        members.setdefault(word, []).append(label)
    return members


@by_shape
def _weighed(weights, seen, classes, n_labels):
    found, silence = normalise(*calibrated_scores(weights, seen, classes, n_labels), n_labels=n_labels)
    return found, silence, calibrated_moves(weights, seen, classes)


def _path(scores: np.ndarray, silence: np.ndarray, topology: Topology, moves: Moves | None = None) -> np.ndarray:
    return np.asarray(_viterbi(*_padded_scores(scores, silence, topology, moves)))[: scores.shape[1]]


def _posteriors(scores: np.ndarray, silence: np.ndarray, topology: Topology, moves: Moves) -> Posteriors:
    """On the host, without padding."""
    n_labels, n_frames = scores.shape
    found = jax.tree.map(np.asarray, _forward_backward(*_padded_scores(scores, silence, topology, moves)))
    return Posteriors(
        found.labels[:n_labels, :n_frames],
        found.silence[:n_frames],
        found.starts[:n_labels, :n_frames],
        found.ends[:n_labels, : n_frames + 1],
        found.log_total,
    )


def _padded_scores(scores: np.ndarray, silence: np.ndarray, topology: Topology, moves: Moves | None):
    n_labels, n_frames = scores.shape
    rows, columns = bucket(n_labels, LABEL_BUCKETS), bucket(n_frames, FRAME_BUCKETS)

    def padded(part: np.ndarray) -> np.ndarray:
        return np.pad(part, ((0, rows - n_labels), (0, columns - n_frames)))

    quiet = np.pad(silence, (0, columns - n_frames))
    return padded(scores), quiet, topology.padded(rows), n_labels, n_frames, jax.tree.map(padded, moves)


@by_shape
def _viterbi(scores, silence, topology, n_labels, n_frames, moves):
    return viterbi(scores, silence, topology, n_labels=n_labels, n_frames=n_frames, moves=moves).labels


@by_shape
def _forward_backward(scores, silence, topology, n_labels, n_frames, moves):
    return forward_backward(scores, silence, topology, n_labels=n_labels, n_frames=n_frames, moves=moves)
