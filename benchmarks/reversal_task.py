"""A small task on which encoders may learn to reverse time: noisy segments of random length, with exact times.

A label is a spectral shape of its own that moves a little while it lasts, at a loudness of its own each time. An
utterance is silence, some labels in random order, silence. There is no language to learn: only sound tells labels.
It is rendered straight as log-mel-like frames, so that thousands of utterances take no time to make.
"""

from dataclasses import dataclass

import numpy as np

from gradalign.alignment import Alignment, Interval, Tier
from gradalign.features import LogMel
from gradalign.training.data import Batch
from gradalign.transcript import Transcript


@dataclass(frozen=True)
class Task:
    """What utterances are like; ranges include both ends.

    Attributes:
        n_labels: How many different ones there are.
        n_mels: Bands of a frame.
        length: Labels of an utterance.
        segment: Frames of a label.
        silence: Frames of silence before the first label, and as drawn anew after the last one.
        noise: Standard deviation of the noise in each band, in the logarithm.
    """

    n_labels: int = 12
    n_mels: int = 20
    length: tuple[int, int] = (10, 14)
    segment: tuple[int, int] = (6, 12)
    silence: tuple[int, int] = (4, 12)
    noise: float = 1.0

    @property
    def frames(self) -> int:
        """Frames of a padded utterance, a multiple of 32."""
        longest = self.length[1] * self.segment[1] + 2 * self.silence[1]
        return -(-longest // 32) * 32

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple(f"L{i}" for i in range(1, self.n_labels + 1))

    @property
    def features(self) -> LogMel:
        """Times of the frames; no sound is ever made."""
        return LogMel(n_mels=self.n_mels)


@dataclass(frozen=True)
class Example:
    """One utterance: log-mel-like frames, label ids from 1, and each label's first frame and the one after its last."""

    features: np.ndarray
    labels: np.ndarray
    spans: np.ndarray

    def reference(self, task: Task) -> Alignment:
        """The exact times as an alignment."""
        grid, duration = task.features.grid, self.duration_s(task)
        phones = tuple(
            Interval(*grid.span_s(int(first), int(last), duration), task.labels[label - 1])
            for (first, last), label in zip(self.spans, self.labels, strict=True)
        )
        return Alignment(duration, (Tier("phones", phones),))

    def transcript(self, task: Task) -> Transcript:
        """The labels, each a word of its own, so that silence may lie anywhere."""
        return Transcript.from_units([(task.labels[i - 1], [task.labels[i - 1]]) for i in self.labels])

    def duration_s(self, task: Task) -> float:
        """Length of the recording that has so many centred frames."""
        return (len(self.features) - 1) * task.features.grid.hop_s


def _shapes(task: Task) -> np.ndarray:
    """Two spectra a label, between which it glides: bumps over the bands, the same in every run."""
    rng = np.random.default_rng(42)
    bands = np.arange(task.n_mels)[None, None, :]
    at = rng.uniform(0, task.n_mels, (task.n_labels, 3, 1))
    start, end = (
        np.exp(-0.5 * ((bands - at - move) / 1.5) ** 2).max(axis=1)
        for move in (0.0, rng.normal(0, 1.0, (task.n_labels, 3, 1)))
    )
    return np.stack([start, end], axis=1)


def example(task: Task, rng: np.random.Generator) -> Example:
    """One random utterance."""
    shapes = _shapes(task)
    labels = rng.integers(1, task.n_labels + 1, rng.integers(task.length[0], task.length[1] + 1))
    lengths = rng.integers(task.segment[0], task.segment[1] + 1, len(labels))
    before, after = rng.integers(task.silence[0], task.silence[1] + 1, 2)
    ends = before + np.cumsum(lengths)
    frames = np.zeros((ends[-1] + after, task.n_mels))
    for label, first, length in zip(labels, ends - lengths, lengths, strict=True):
        glide = ((np.arange(length) + 0.5) / length)[:, None]
        spectrum = (1 - glide) * shapes[label - 1, 0] + glide * shapes[label - 1, 1]
        frames[first : first + length] = rng.uniform(0.7, 1.1) * spectrum
    # On the scale of real log-mel frames: silence near -14, loud bands near -4.
    features = -14.0 + 10.0 * frames + task.noise * rng.normal(size=frames.shape)
    return Example(features.astype(np.float32), labels, np.stack([ends - lengths, ends], axis=1))


def mirrored(given: Batch) -> Batch:
    """The same utterances, with the times that their labels would have if time ran backwards."""
    ends = given.n_frames[:, None, None].astype(np.float32)
    return given._replace(spans=np.where(given.spans >= 0, ends - given.spans[:, :, ::-1], given.spans))


def batch(task: Task, size: int, seed: int, step: int) -> Batch:
    """The batch of an update: a function of seed and number alone."""
    rng = np.random.default_rng([seed, step])
    features = np.zeros((size, task.frames, task.n_mels), np.float32)
    labels = np.zeros((size, task.length[1]), np.int32)
    spans = np.full((size, task.length[1], 2), -1, np.float32)
    sizes = np.zeros((size, 2), np.int32)
    for row in range(size):
        e = example(task, rng)
        features[row, : len(e.features)], labels[row, : len(e.labels)] = e.features, e.labels
        spans[row, : len(e.labels)], sizes[row] = e.spans, (len(e.features), len(e.labels))
    return Batch(features, sizes[:, 0], labels, sizes[:, 1], spans)
