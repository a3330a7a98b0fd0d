"""Recordings longer than a model takes: which stretches to align by themselves, and their alignments put together.

The CTC head hears the recording in overlapping windows and is followed through the whole transcript in a moving band of
labels; where it hears pauses, the recording is cut. Memory and time grow with the length alone.
"""

import dataclasses
from bisect import bisect_left
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gradalign._types import Seconds
from gradalign.alignment import Alignment, Interval, Tier, TranscriptWord
from gradalign.band import ctc_path
from gradalign.bundle import Bundle
from gradalign.clock import part
from gradalign.errors import AlignmentError
from gradalign.lattice import spans
from gradalign.pieces import pieces
from gradalign.readout import ctc_log_probs
from gradalign.transcript import Transcript

LONGEST_S = 16.0
"""Length of a stretch. Longer ones cost more, since a lattice grows with labels times frames."""

LEAST_GAIN = 1.0
"""Nats by which labels must be more probable where they are placed than elsewhere, in the mean over labels."""


class Stretch(NamedTuple):
    """A part of a recording with the words said in it: half-open ranges."""

    words: tuple[int, int]
    frames: tuple[int, int]


def stretches(
    bundle: Bundle, features: Float[np.ndarray, "frames mels"], transcript: Transcript
) -> tuple[Stretch, ...]:
    """Cut a recording and its transcript at pauses between words.

    Args:
        bundle: The model.
        features: Log-mel frames of the whole recording.
        transcript: What is said in it.

    Returns:
        Stretches in order, which together hold all words. Between them may lie silence, or anything else that is not
        said in the transcript.

    Raises:
        AlignmentError: If the CTC head does not hear the transcript in the recording.
    """
    ids = bundle.ids(transcript.labels)
    with part("encode"):
        log_probs = ctc_log_probs(bundle, features)
    with part("lattice"):
        path = ctc_path(log_probs, ids)
    _check_heard(log_probs, ids, path)
    runs = spans(path, len(ids))
    owner = np.asarray(transcript.word_of_label)
    spoken, first_label = np.unique(owner, return_index=True)
    last_label = np.append(first_label[1:], len(owner)) - 1
    scale = bundle.network.config.subsampling
    longest = round(min(LONGEST_S, bundle.max_duration_s) / bundle.grid.hop_s)
    cut = pieces(scale * runs[first_label, 0], scale * (runs[last_label, 1] - 1), len(features), longest=longest)
    # A word without labels goes with the one before it.
    begins = [0, *(int(spoken[piece.labels[0]]) for piece in cut[1:]), len(transcript.words)]
    return tuple(Stretch((begins[i], begins[i + 1]), piece.frames) for i, piece in enumerate(cut))


def _check_heard(
    log_probs: Float[np.ndarray, "frames vocabulary"],
    ids: Int[np.ndarray, " labels"],
    path: Int[np.ndarray, " frames"],
) -> None:
    """Some path can always be found: that of another text, or of a CTC head that was never trained, is refused."""
    frames = np.flatnonzero(path >= 0)
    spoken = ids[path[frames]]
    gain = float((log_probs[frames, spoken] - log_probs.mean(axis=0)[spoken]).mean())
    if gain < LEAST_GAIN:
        raise AlignmentError(
            f"the CTC head does not hear the transcript in the recording (its labels are {gain:.1f} nats more probable "
            f"where they would be than elsewhere, expected at least {LEAST_GAIN:g}): is it what is said there? A model "
            "without a trained CTC head cannot align recordings of this length; split them and their transcripts"
        )


def part_of(transcript: Transcript, first: int, last: int) -> Transcript | None:
    """The words ``[first, last)`` of a transcript, with their labels; None if they have none."""
    begin, end = bisect_left(transcript.word_of_label, first), bisect_left(transcript.word_of_label, last)
    if begin == end:
        return None
    units = transcript.unit_of_label[begin:end]
    return dataclasses.replace(
        transcript,
        words=transcript.words[first:last],
        labels=transcript.labels[begin:end],
        word_of_label=tuple(word - first for word in transcript.word_of_label[begin:end]),
        unit_of_label=tuple(unit - units[0] for unit in units),
        variants=transcript.variants[units[0] : units[-1] + 1],
    )


def merged(
    parts: Iterable[tuple[Stretch, Alignment | None]],
    transcript: Transcript,
    *,
    hop: Seconds,
    duration: Seconds,
    method: str,
    model: str,
) -> Alignment:
    """One alignment from those of the stretches.

    Args:
        parts: Stretches in order, each with its alignment; None where it could not be aligned.
        transcript: Of the whole recording.
        hop: Between frames.
        duration: Of the whole recording.
        method: For the result.
        model: For the result.

    Returns:
        The alignment, without evidence. Words of stretches that could not be aligned are "unplaced".
    """
    labelled = set(transcript.word_of_label)
    tiers: dict[str, list[Interval]] = {"words": [], "phones": []}
    fates: list[TranscriptWord] = []
    for stretch, found in parts:
        begin, end = (frame * hop for frame in stretch.frames)
        before = len(tiers["words"])
        if found is None:
            for index in range(*stretch.words):
                word = transcript.words[index]
                status = "unplaced" if index in labelled else "unpronounceable"
                fates.append(TranscriptWord(word.text, word.start_char, word.end_char, status))
            continue
        fates += [w if w.index is None else dataclasses.replace(w, index=w.index + before) for w in found.words]
        for name, intervals in tiers.items():
            intervals += [_moved(interval, begin, min(end, duration)) for interval in found.tier(name)]
    joined = tuple(Tier(name, tuple(intervals)) for name, intervals in tiers.items())
    return Alignment(duration, joined, transcript.text, tuple(fates), method, model)


def _moved(interval: Interval, by: Seconds, end: Seconds) -> Interval:
    """An interval of a stretch in the time of the recording; rounding must not carry it past the stretch's end."""

    def moved(time: Seconds) -> Seconds:
        return min(time + by, end)

    def both(limits: tuple[Seconds, Seconds] | None) -> tuple[Seconds, Seconds] | None:
        return None if limits is None else (moved(limits[0]), moved(limits[1]))

    return dataclasses.replace(
        interval,
        start=moved(interval.start),
        end=moved(interval.end),
        start_range=both(interval.start_range),
        end_range=both(interval.end_range),
    )
