"""Training examples: features cached from manifests, joined to buckets of a few fixed shapes."""

import dataclasses
import hashlib
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gradalign import audio
from gradalign.bundle import Bundle
from gradalign.features import LogMel
from gradalign.transcript import Transcript

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """One batch shape, so that each is compiled once: ``size`` examples of ``frames`` feature frames."""

    frames: int
    size: int
    share: float

    @property
    def labels(self) -> int:
        """Most labels of an example: 20 phones a second."""
        return self.frames // 5


BUCKETS = (Bucket(320, 16, 0.25), Bucket(640, 8, 0.45), Bucket(1280, 4, 0.22), Bucket(2560, 2, 0.08))


@dataclasses.dataclass(frozen=True, slots=True)
class Corpus:
    """Utterances of one set with their share of the training batches.

    Attributes:
        name: For messages.
        features: Log-mel frames of each utterance, float16.
        labels: Label ids of each utterance.
        spans: Start and end of each label in feature frames, -1 where times are not known.
        weight: Relative share of draws.
    """

    name: str
    features: list[np.ndarray]
    labels: list[np.ndarray]
    spans: list[np.ndarray]
    weight: float


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Padded examples of one bucket; ``spans`` is in feature frames, -1 where times are not known."""

    features: np.ndarray
    n_frames: np.ndarray
    labels: np.ndarray
    n_labels: np.ndarray
    spans: np.ndarray


def read_corpora(manifest: Path, weights: dict[str, float], bundle: Bundle, cache: Path) -> list[Corpus]:
    """The sets of a manifest that ``weights`` names; features are cached in ``cache``.

    Labels come from the manifest's ``phones``, else from its text through the lexicon.
    """
    by_set: dict[str, list[dict]] = {}
    for line in manifest.read_text("utf-8").splitlines():
        entry = json.loads(line)
        if weights.get(entry["set"], 0) > 0:
            by_set.setdefault(entry["set"], []).append(entry)
    corpora = []
    for name, entries in by_set.items():
        labels = [_labels(entry, bundle) for entry in entries]
        features = _cached_features(name, manifest.parent, entries, bundle.features, cache)
        kept = [i for i, (f, y) in enumerate(zip(features, labels, strict=True)) if _usable(f, y)]
        log.info(
            "%s: %d of %d utterances, %.2f h",
            name,
            len(kept),
            len(entries),
            sum(len(features[i]) for i in kept) * bundle.grid.hop_s / 3600,
        )
        spans = [_spans(entry, len(y), bundle) for entry, y in zip(entries, labels, strict=True)]
        corpora.append(
            Corpus(
                name,
                features=[features[i] for i in kept],
                labels=[labels[i] for i in kept],
                spans=[spans[i] for i in kept],
                weight=weights[name],
            )
        )
    return corpora


def _labels(entry: dict, bundle: Bundle) -> np.ndarray:
    """Label ids of an utterance; none where a word cannot be pronounced, so that it is left out."""
    if "phones" in entry:
        return bundle.ids(tuple(phone[2] for phone in entry["phones"]))
    transcript = Transcript.from_text(entry["text"])
    if len(set(transcript.word_of_label)) < len(transcript.words):
        return np.zeros(0, np.int32)
    return bundle.ids(transcript.labels)


def _spans(entry: dict, n_labels: int, bundle: Bundle) -> np.ndarray:
    """Start and end of each label in feature frames by the manifest's exact times."""
    if "phones" not in entry:
        return np.full((n_labels, 2), -1, np.float32)
    times = np.array([phone[:2] for phone in entry["phones"]], np.float32)
    return times / np.float32(bundle.grid.hop_s)


def _usable(features: np.ndarray, labels: np.ndarray) -> bool:
    """At least one label, and a CTC path exists with some slack."""
    repeats = int((labels[1:] == labels[:-1]).sum()) if len(labels) else 0
    return 0 < len(labels) + repeats <= len(features) / 4 * 0.9 and len(features) <= BUCKETS[-1].frames


def _cached_features(name: str, root: Path, entries: list[dict], config: LogMel, cache: Path) -> list[np.ndarray]:
    """Features of each entry from one flat file, made on first use."""
    paths = [entry["audio_filepath"] for entry in entries]
    key = hashlib.sha256(json.dumps([str(root.resolve()), paths, dataclasses.astuple(config)]).encode()).hexdigest()
    flat, lengths = cache / f"{name}-{key[:12]}.npy", cache / f"{name}-{key[:12]}.lengths.npy"
    if not lengths.exists():
        cache.mkdir(parents=True, exist_ok=True)
        parts = [features_of(audio.read(root / entry["audio_filepath"]), config) for entry in entries]
        np.save(flat, np.concatenate(parts))
        np.save(lengths, np.array([len(part) for part in parts]))
    ends = np.cumsum(np.load(lengths))
    return np.split(np.load(flat), ends[:-1])


def features_of(waveform: np.ndarray, config: LogMel) -> np.ndarray:
    """Log-mel frames as float16, computed at whole-second lengths so that few shapes are compiled."""
    from gradalign.features import log_mel_padded

    return np.asarray(log_mel_padded(waveform, config), np.float16)


def batches(corpora: list[Corpus], seed: int, *, easy: int = 0) -> Iterator[Batch]:
    """Endless batches: utterances drawn by corpus weight, joined end to end until a bucket is full.

    Joining makes short recordings into long ones with pauses and changes of speaker, so that the
    decoder does not rely on an utterance's length. The first ``easy`` batches are single short
    utterances: attention finds its way on them first.
    """
    rng = np.random.default_rng(seed)
    weights = np.array([corpus.weight for corpus in corpora])
    shares = np.array([bucket.share for bucket in BUCKETS])
    for number in itertools.count():
        n_open = 2 if number < easy else len(BUCKETS)
        bucket = BUCKETS[rng.choice(n_open, p=shares[:n_open] / shares[:n_open].sum())]
        join = number >= easy and (bucket.frames > 640 or rng.random() < 0.4)
        examples = [_example(corpora, weights / weights.sum(), bucket, join, rng) for _ in range(bucket.size)]
        yield _padded(examples, bucket)


def _example(corpora: list[Corpus], weights: np.ndarray, bucket: Bucket, join: bool, rng: np.random.Generator):
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    spans: list[np.ndarray] = []
    room, room_labels, misses = bucket.frames, bucket.labels, 0
    while misses < 6:
        corpus = corpora[rng.choice(len(corpora), p=weights)]
        i = rng.integers(len(corpus.features))
        f, y = corpus.features[i], corpus.labels[i]
        if len(f) > room or len(y) > room_labels:
            misses += 1
            if misses == 6 and not features:
                misses = 0
            continue
        before = sum(len(part) for part in features)
        features.append(f)
        labels.append(y)
        spans.append(np.where(corpus.spans[i] < 0, -1, corpus.spans[i] + before))
        room, room_labels = room - len(f), room_labels - len(y)
        if not join:
            break
    return np.concatenate(features), np.concatenate(labels), np.concatenate(spans)


def _padded(examples: list, bucket: Bucket) -> Batch:
    first = examples[0][0]
    features = np.zeros((len(examples), bucket.frames, first.shape[1]), np.float32)
    labels = np.zeros((len(examples), bucket.labels), np.int32)
    spans = np.full((len(examples), bucket.labels, 2), -1, np.float32)
    for row, (f, y, times) in enumerate(examples):
        features[row, : len(f)], labels[row, : len(y)], spans[row, : len(y)] = f, y, times
    sizes = np.array([[len(f), len(y)] for f, y, _ in examples], np.int32)
    return Batch(features, sizes[:, 0], labels, sizes[:, 1], spans)
