"""Training examples: features cached from corpora, joined to buckets of a few fixed shapes.

A batch is a function of the seed and its number alone, so that a run resumes at the exact sample.
"""

import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

from gradalign import audio, manifest
from gradalign.bundle import Bundle
from gradalign.errors import FormatError
from gradalign.features import LogMel, log_mel_padded
from gradalign.manifest import Utterance
from gradalign.training.config import DataConfig, Source
from gradalign.transcript import Transcript

log = logging.getLogger(__name__)

LABELS_PER_SECOND = 20
"""Room for labels in an example; nobody speaks faster for long."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bucket:
    """One batch shape, so that each is compiled once: ``size`` examples of ``frames`` feature frames."""

    frames: int
    size: int
    labels: int


@dataclasses.dataclass(frozen=True, slots=True)
class Corpus:
    """Utterances of one set with their share of the training batches.

    Attributes:
        name: For messages.
        features: Log-mel frames of each utterance, float16.
        labels: Label ids of each utterance.
        spans: Start and end of each label in feature frames, -1 where times are not known.
        weight: Relative share of draws.
        ids: Names of the utterances, for messages.
    """

    name: str
    features: list[np.ndarray]
    labels: list[np.ndarray]
    spans: list[np.ndarray]
    weight: float
    ids: list[str]

    def part(self, chosen: np.ndarray) -> "Corpus":
        """The utterances for which ``chosen`` is True."""
        index = np.flatnonzero(chosen)

        def some(values: list) -> list:
            return [values[i] for i in index]

        return Corpus(self.name, some(self.features), some(self.labels), some(self.spans), self.weight, some(self.ids))


class Batch(NamedTuple):
    """Padded examples of one bucket.

    Attributes:
        features: Log-mel frames.
        n_frames: Real frames of each example.
        labels: Label ids.
        n_labels: Real labels of each example.
        spans: Start and end of each label in feature frames, -1 where times are not known.
    """

    features: Float[np.ndarray | Array, "examples frames mels"]
    n_frames: Int[np.ndarray | Array, " examples"]
    labels: Int[np.ndarray | Array, "examples labels"]
    n_labels: Int[np.ndarray | Array, " examples"]
    spans: Float[np.ndarray | Array, "examples labels 2"]


@dataclasses.dataclass(frozen=True, slots=True)
class Mixture:
    """Corpora, and how batches are drawn from them.

    Attributes:
        corpora: What is drawn from, by weight.
        config: Shapes and shares.
        buckets: Batch shapes, shortest first.
        fits: For each bucket and corpus the utterances that fit into an example.
        seed: Of all draws.
    """

    corpora: list[Corpus]
    config: DataConfig
    buckets: tuple[Bucket, ...]
    fits: list[list[np.ndarray]]
    seed: int

    def __len__(self) -> int:
        return sum(len(corpus.features) for corpus in self.corpora)


def mixture(corpora: list[Corpus], config: DataConfig, *, hop_s: float, seed: int, devices: int = 1) -> Mixture:
    """What `batch` draws from; batches divide evenly among ``devices``.

    Raises:
        FormatError: If no utterance fits the longest bucket that has a share.
    """
    found = buckets(config, hop_s=hop_s, devices=devices)
    fits = []
    for bucket in found:
        room = [
            [len(f) <= bucket.frames and len(y) <= bucket.labels for f, y in zip(c.features, c.labels, strict=True)]
            for c in corpora
        ]
        fits.append([np.flatnonzero(row) for row in room])
    longest = max(number for number, share in enumerate(config.shares) if share > 0)
    if not any(len(index) for index in fits[longest]):
        raise FormatError(
            f"nothing to train on: no utterance of at most {found[longest].frames * hop_s:.1f} s and "
            f"{found[longest].labels} labels; give longer data.lengths, or shorter recordings"
        )
    return Mixture(corpora, config, found, fits, seed)


def buckets(config: DataConfig, *, hop_s: float, devices: int = 1) -> tuple[Bucket, ...]:
    """The batch shapes of a run; sizes are rounded up to a multiple of ``devices``."""
    found = []
    for frames in config.lengths:
        size = max(1, config.frames_per_batch // frames)
        found.append(Bucket(frames, -(-size // devices) * devices, round(frames * hop_s * LABELS_PER_SECOND)))
    return tuple(found)


def batch(source: Mixture, step: int) -> tuple[Batch, tuple[str, ...]]:
    """The batch of an update, counted from 1, and the names of the utterances in it.

    Utterances are drawn by corpus weight and joined end to end until an example is full. Joining makes
    short recordings into long ones with pauses and changes of speaker, so that the decoder does not rely
    on an utterance's length. The first ``easy_steps`` batches are single short utterances: attention
    finds its way on them first.
    """
    config = source.config
    rng = np.random.default_rng([source.seed, step])
    shares = np.array(config.shares) * [any(len(index) for index in row) for row in source.fits]
    easy = step <= config.easy_steps and shares[:2].any()
    if easy:
        shares[2:] = 0
    number = rng.choice(len(shares), p=shares / shares.sum())
    bucket, fits = source.buckets[number], source.fits[number]
    examples = []
    for _ in range(bucket.size):
        joined = not easy and (2 * number >= len(shares) or rng.random() < config.join)
        examples.append(_example(source.corpora, fits, bucket, joined=joined, rng=rng))
    names = tuple(name for example in examples for name in example[3])
    return padded([example[:3] for example in examples], bucket), names


def stream(source: Mixture, start: int, steps: int) -> Iterator[tuple[Batch, tuple[str, ...]]]:
    """The batches of updates ``start`` (inclusive, from 1) to ``steps`` (inclusive), prepared in the background."""
    import grain

    numbers = grain.MapDataset.range(start, steps + 1)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    return iter(numbers.map(lambda step: batch(source, int(step))).to_iter_dataset(options))


def dev_batches(corpora: list[Corpus], config: DataConfig, *, hop_s: float, devices: int = 1) -> list[Batch]:
    """Each utterance once, alone in its example, in as few batches of the buckets as will do."""
    rest = [(f, y, s) for c in corpora for f, y, s in zip(c.features, c.labels, c.spans, strict=True)]
    found = []
    for bucket in buckets(config, hop_s=hop_s, devices=devices):
        here = [e for e in rest if len(e[0]) <= bucket.frames and len(e[1]) <= bucket.labels]
        rest = [e for e in rest if len(e[0]) > bucket.frames or len(e[1]) > bucket.labels]
        found += [padded(here[i : i + bucket.size], bucket) for i in range(0, len(here), bucket.size)]
    return found


def padded(examples: list, bucket: Bucket) -> Batch:
    """A batch of at most ``bucket.size`` examples; missing ones have no frames and no labels."""
    mels = examples[0][0].shape[1]
    features = np.zeros((bucket.size, bucket.frames, mels), np.float32)
    labels = np.zeros((bucket.size, bucket.labels), np.int32)
    spans = np.full((bucket.size, bucket.labels, 2), -1, np.float32)
    sizes = np.zeros((bucket.size, 2), np.int32)
    for row, (f, y, times) in enumerate(examples):
        features[row, : len(f)], labels[row, : len(y)], spans[row, : len(y)] = f, y, times
        sizes[row] = len(f), len(y)
    return Batch(features, sizes[:, 0], labels, sizes[:, 1], spans)


def _example(corpora: list[Corpus], fits: list[np.ndarray], bucket: Bucket, *, joined: bool, rng: np.random.Generator):
    """Frames, labels, spans and names of one example."""
    weights = np.array([corpus.weight * (len(index) > 0) for corpus, index in zip(corpora, fits, strict=True)])
    weights /= weights.sum()
    features: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    spans: list[np.ndarray] = []
    names: list[str] = []
    frames, n_labels, misses = 0, 0, 0
    while misses < 6:
        number = rng.choice(len(corpora), p=weights)
        corpus, i = corpora[number], rng.choice(fits[number])
        f, y = corpus.features[i], corpus.labels[i]
        if frames + len(f) > bucket.frames or n_labels + len(y) > bucket.labels:
            misses += 1
            continue
        features.append(f)
        labels.append(y)
        spans.append(np.where(corpus.spans[i] < 0, -1, corpus.spans[i] + frames))
        names.append(corpus.ids[i])
        frames, n_labels = frames + len(f), n_labels + len(y)
        if not joined:
            break
    return np.concatenate(features), np.concatenate(labels), np.concatenate(spans), names


def read_corpora(
    sources: tuple[Source, ...],
    root: Path,
    bundle: Bundle,
    cache: Path,
    *,
    max_frames: int,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Corpus]:
    """The speech that ``sources`` name, checked, with features cached in ``cache``.

    What cannot be used is left out and logged, with counts and names.

    Args:
        sources: What to read.
        root: Folder that their paths are relative to.
        bundle: Labels and features of the model.
        cache: Folder for features, made if need be.
        max_frames: Longest utterance in feature frames.
        progress: Told what is being done.

    Raises:
        FormatError: If a source cannot be read, or a set that is named is not in it or holds nothing usable.
    """
    corpora = []
    for source in sources:
        progress(f"checking {source.path}")
        found = manifest.read(root / source.path)
        if missing := sorted(source.weights.keys() - {u.set for u in found}):
            there = ", ".join(sorted({u.set for u in found}))
            raise FormatError(f"{root / source.path} has no set {', '.join(missing)}; it has {there}")
        found = [u for u in found if not source.weights or u.set in source.weights]
        report = manifest.check(found, max_duration_s=max_frames * bundle.grid.hop_s)
        progress("")
        log.log(logging.WARNING if report.problems else logging.INFO, "%s: %s", source.path, report)
        groups: dict[str, list[Utterance]] = {}
        for utterance in report.usable:
            groups.setdefault(utterance.set if source.weights else source.path, []).append(utterance)
        if unusable := sorted((source.weights or {source.path: 1.0}).keys() - groups.keys()):
            sets = f" of the set {', '.join(unusable)}" if source.weights else ""
            raise FormatError(f"{root / source.path}: no utterance{sets} can be used; see the report above")
        for name, group in groups.items():
            corpora.append(_corpus(name, source.weights.get(name, 1.0), group, bundle, cache, max_frames, progress))
    return corpora


def hold_out(corpora: list[Corpus], share: float) -> tuple[list[Corpus], list[Corpus]]:
    """Corpora without, and with only, a ``share`` of their utterances, which their names alone decide."""
    train, dev = [], []
    for corpus in corpora:
        digests = [hashlib.sha256(name.encode()).digest() for name in corpus.ids]
        out = np.array([int.from_bytes(d[:4], "big") < share * 2**32 for d in digests], bool)
        if out.all():
            out[:] = False
        train.append(corpus.part(~out))
        dev.append(corpus.part(out))
    return train, dev


def digest(corpora: list[Corpus]) -> str:
    """A short name for these utterances with their labels and weights; other ones have another."""
    found = hashlib.sha256()
    for corpus in corpora:
        sizes = [(i, len(f), y.tolist()) for i, f, y in zip(corpus.ids, corpus.features, corpus.labels, strict=True)]
        found.update(json.dumps([corpus.name, corpus.weight, sizes]).encode())
    return found.hexdigest()[:16]


def _corpus(name, weight, group: list[Utterance], bundle: Bundle, cache: Path, max_frames: int, progress) -> Corpus:
    labels = [_labels(utterance, bundle) for utterance in group]
    features = _cached_features(name, group, bundle.features, cache, progress)
    spans = [_spans(utterance, len(y), bundle) for utterance, y in zip(group, labels, strict=True)]
    corpus = Corpus(name, features, labels, spans, weight, [u.id for u in group])
    subsampling = bundle.network.config.subsampling
    kept = corpus.part(
        np.array([_usable(f, y, subsampling, max_frames) for f, y in zip(features, labels, strict=True)], bool)
    )
    hours = sum(map(len, kept.features)) * bundle.grid.hop_s / 3600
    if not kept.features:
        raise FormatError(
            f"{name}: none of {len(group)} utterances can be trained on: they have no labels, or more labels than "
            f"one a {subsampling} frames"
        )
    log.info("%s: %d of %d utterances, %.2f h", name, len(kept.features), len(group), hours)
    return kept


def _labels(utterance: Utterance, bundle: Bundle) -> np.ndarray:
    """Label ids of an utterance; none where a word cannot be pronounced, so that it is left out."""
    if utterance.labels is not None:
        return bundle.ids(utterance.labels)
    transcript = Transcript.from_text(utterance.text)
    if len(set(transcript.word_of_label)) < len(transcript.words):
        return np.zeros(0, np.int32)
    return bundle.ids(transcript.labels)


def _spans(utterance: Utterance, n_labels: int, bundle: Bundle) -> np.ndarray:
    """Start and end of each label in feature frames by the manifest's times."""
    if utterance.phones is None:
        return np.full((n_labels, 2), -1, np.float32)
    times = np.array([(phone.start, phone.end) for phone in utterance.phones], np.float32).reshape(-1, 2)
    return times / np.float32(bundle.grid.hop_s)


def _usable(features: np.ndarray, labels: np.ndarray, subsampling: int, max_frames: int) -> bool:
    """At least one label, and a CTC path exists with some slack."""
    repeats = int((labels[1:] == labels[:-1]).sum()) if len(labels) else 0
    return 0 < len(labels) + repeats <= len(features) / subsampling * 0.9 and len(features) <= max_frames


def _cached_features(name: str, group: list[Utterance], config: LogMel, cache: Path, progress) -> list[np.ndarray]:
    """Features of each utterance from one flat file, made on first use and then mapped, not read."""
    what = [[str(u.audio.resolve()), u.audio.stat().st_size, u.start, u.duration] for u in group]
    key = hashlib.sha256(json.dumps([what, dataclasses.astuple(config)]).encode()).hexdigest()[:16]
    flat, lengths = cache / f"{key}.npy", cache / f"{key}.lengths.npy"
    if not lengths.exists():
        cache.mkdir(parents=True, exist_ok=True)
        parts = []
        for number, utterance in enumerate(group, 1):
            parts.append(_features(utterance, config))
            if number % 50 == 0:
                progress(f"features of {name}: {number}/{len(group)}")
        progress("")
        _put(flat, np.concatenate(parts))
        _put(lengths, np.array([len(part) for part in parts]))  # last: what is there is whole
    return np.split(np.load(flat, mmap_mode="r"), np.cumsum(np.load(lengths))[:-1])


def _put(path: Path, array: np.ndarray) -> None:
    """Write in one step: another run may have mapped the same file."""
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    with draft.open("wb") as file:
        np.save(file, array)
    os.replace(draft, path)


def _features(utterance: Utterance, config: LogMel) -> np.ndarray:
    waveform = audio.read(utterance.audio, sample_rate=config.sample_rate)
    if utterance.duration is not None and (utterance.start or len(waveform) > config.sample_rate * utterance.duration):
        first, last = (round(config.sample_rate * s) for s in (utterance.start, utterance.start + utterance.duration))
        waveform = waveform[first:last]
    return np.asarray(log_mel_padded(waveform, config), np.float16)
