"""Learning a model's calibration from speech with times: synthetic, or recordings aligned by hand or by a model."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from gradalign import confidence
from gradalign._lbfgs import minimise
from gradalign._whitening import inverse_root, moments
from gradalign.aligner import pronounced
from gradalign.bundle import Bundle
from gradalign.calibration import (
    TAPS,
    Calibration,
    Example,
    Weights,
    classes_of,
    classifier_of,
    initial,
    moves,
    scores,
    surprise,
    true_mask,
    true_path,
)
from gradalign.classifier import Classifier
from gradalign.classifier import learn as learn_classifier
from gradalign.errors import AlignmentError
from gradalign.features import log_mel_padded
from gradalign.lattice import Topology, spans
from gradalign.placement import place_calibrated
from gradalign.readout import AllSignals, middle_states, names_of, picked, read_all
from gradalign.signals import CUES, FAMILIES, Signals, family
from gradalign.timed_speech import TimedUtterance
from gradalign.transcript import Transcript

METHODS: Mapping[str, Collection[str]] = {
    "calibrated": ("gradient", "attention", "ctc", "classifier"),
    "calibrated-gradient": ("gradient",),
    "calibrated-attention": ("attention",),
    "calibrated-ctc": ("ctc",),
}
"""Families of signals that each calibrated method weighs."""

_NOISE = re.compile(r"<.*>|\[.*\]|\{.*\}|\(.*\)|sil|sp|spn|nsn", re.IGNORECASE)
"""What people write for what is no word: noise, laughter, an unknown word."""

FEWEST = 100
"""A classifier of frames is not learnt from fewer utterances: it is made of thousands of numbers."""

STEPS = 50
"""Iterations for each method, at most: more of them hardly change the loss."""

DECAY = 1e-2
"""Weight of the squared distance from the start where that is nothing learnt, against the mean over all utterances."""

PULL = 4.0
"""Weight of the squared distance from what was learnt before, against the sum over all utterances: about what that was
learnt with, whose start was a worse guess. The fewer utterances, the nearer to it."""

UNCERTAIN = 0.1
"""About what share of labels and frames tells anything about the weights: those near boundaries. How fast the optimum
is found depends on it, not where it lies."""

GROUPS = 4
"""Of utterances of about one size: with more of them less is padded, and more is compiled."""


def calibrate(
    bundle: Bundle,
    utterances: Sequence[TimedUtterance],
    *,
    about: str,
    framed: Sequence[TimedUtterance] = (),
    besides: Sequence[TimedUtterance] = (),
    within: float = 0.0,
    onward: bool = False,
    methods: Mapping[str, Collection[str]] = METHODS,
    confidences: bool = True,
    steps: int = STEPS,
    seed: int = 0,
    report: Callable[[str], None] = lambda line: None,
    status: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """The model with calibrations learnt anew.

    Args:
        bundle: The model. The classifier of frames that it has is weighed where none is learnt.
        utterances: Speech with times of words and phones, or of words alone: then phones may lie anywhere in their
            words. One in which a word has no phones, or that is too short for its labels, is left out.
        about: On what it is learnt, in words; kept with the calibrations.
        framed: Other speech with times, to learn the classifier of frames from, if there are `FEWEST`. Not the same
            speech: of what it has learnt from it is surer than of anything else.
        besides: Recordings whose times are not certain, such as a model's own: weights are learnt from these, too, but
            neither confidence nor the classifier.
        within: Seconds by which each boundary of those may be wrong, rounded up to frames: all paths within it count
            as true, so that what is peculiar to whoever placed the boundaries need not be copied.
        onward: Whether to begin with the model's own calibrations, and not to leave them without need: few utterances
            then teach what is peculiar to them. A method that it lacks, or has with other signals, begins afresh.
        methods: What to learn, by the name that it gets: the families of signals that it weighs, or single signals.
        confidences: Whether to learn the confidence of words as well.
        steps: Iterations for each method, at most.
        seed: Of the choice of wrong words for confidence.
        report: Told what has been done, a line each.
        status: Told what is being done.

    Raises:
        AlignmentError: If none of the utterances can be used, or none of those besides.
        ValueError: If a method has no signals, or one that the model does not have; if `within` is not from 0 to 1.
    """
    if not 0.0 <= within <= 1.0:
        raise ValueError(f"expected within to be a number of seconds from 0 to 1, got {within}")
    classifier = classifier_of(bundle.calibrations)
    learnt, n_framed = _classifier(bundle, framed, report, status)
    if learnt is not None:
        classifier, about = learnt, f"{about}; the classifier of frames on {n_framed} others"
    elif classifier is not None:
        about = f"{about}; the classifier of frames as it was"
    else:
        report("no classifier of frames: there is none yet, and too little speech to learn it from")
    names = names_of(bundle.network.config, classifier)
    by_method = {method: _chosen(method, wanted, names) for method, wanted in methods.items()}
    read = _all_read(bundle, utterances, classifier, "utterances", report, status)
    if besides:
        slack = math.ceil(round(within / bundle.grid.hop_s, 6))
        read += [
            one._replace(slack=slack)
            for one in _all_read(bundle, besides, classifier, "recordings besides", report, status)
        ]
    start = {m: c for m, c in bundle.calibrations.items() if onward and c.signals == by_method.get(m)}
    if start:
        about = f"{about}; begun with what was learnt on {bundle.calibrated_on}"
    found: dict[str, Calibration] = {}
    for method, chosen in by_method.items():
        groups = _alike([_example(one, chosen, names) for one in read])
        with_frames = classifier if any(family(name) == "classifier" for name in chosen) else None
        if onward and bundle.calibrations and method not in start:
            report(f"{method}: afresh, because the model has none that weighs the same signals")
        weights = _learnt(method, groups, start.get(method), steps, report, status)
        found[method] = Calibration(chosen, weights, classifier=with_frames)
    if confidences:
        learnt_too = _confidences(bundle, utterances, found, names, seed, status)
        for method, one in found.items():
            kept = start[method].confidence if method in start else ()
            found[method] = replace(one, confidence=learnt_too[method] or kept)
    return replace(bundle, calibrations=found, calibrated_on=about)


def _chosen(method: str, wanted: Collection[str], names: Sequence[str]) -> tuple[str, ...]:
    """The signals of a method, in the order in which they are read."""
    known = (*FAMILIES, "classifier", *names)
    chosen = tuple(name for name in names if name in wanted or family(name) in wanted)
    if not chosen or not set(wanted) <= set(known):
        raise ValueError(f"{method}: expected some of {', '.join(known)}, got {', '.join(wanted) or 'nothing'}")
    return chosen


def _learnt(
    method: str,
    groups: Sequence[Example],
    known: Calibration | None,
    steps: int,
    report: Callable[[str], None],
    status: Callable[[str], None],
) -> Weights:
    """`learn`, and tell of it."""
    last = 0.0

    def told(step: int, value: float) -> None:
        nonlocal last
        last = value
        status(f"{method}: iteration {step + 1}/{steps}, loss {value:.4f}")

    if known is None:
        weights = learn(*groups, steps=steps, report=told)
    else:
        decay = PULL / sum(len(group.n_labels) for group in groups)
        weights = learn(*groups, start=known.weights, steps=steps, decay=decay, report=told)
    report(f"{method}: loss {last:.4f} a frame")
    return jax.tree.map(np.asarray, weights)


class _Read(NamedTuple):
    """One utterance with all of its signals.

    Attributes:
        seen: Its signals.
        labels: What is said.
        owners: Spoken unit of each label: silence may lie between units.
        edges: First and last edge in frames of what has times: every label, or every word.
        timed: Index into these for each label.
        slack: Frames by which each edge may be wrong.
    """

    seen: AllSignals
    labels: tuple[str, ...]
    owners: tuple[int, ...]
    edges: Float[np.ndarray, "timed 2"]
    timed: tuple[int, ...]
    slack: int = 0


def _classifier(
    bundle: Bundle,
    utterances: Sequence[TimedUtterance],
    report: Callable[[str], None],
    status: Callable[[str], None],
) -> tuple[Classifier | None, int]:
    """A classifier of frames and how many utterances it is learnt from: all that can be used, if there are enough."""
    states, symbols, problems = [], [], []
    for number, utterance in enumerate(utterances, 1):
        status(f"frames: {number}/{len(utterances)} utterances")
        try:
            _owners(utterance)  # a word without phones would be learnt as silence
            labels, features, edges = _framed(bundle, utterance)
            ids = np.append(bundle.ids(labels), 0)
        except AlignmentError as error:
            problems.append(_about(utterance, error))
            continue
        states.append(middle_states(bundle, features))
        symbols.append(ids[true_path(edges, len(features))])
    if problems:
        report(
            f"frames: {len(problems)} of {len(utterances)} utterances left out, the first one because of: {problems[0]}"
        )
    if len(states) < FEWEST:
        return None, len(states)
    last = 0.0

    def told(step: int, value: float) -> None:
        nonlocal last
        last = value
        status(f"classifier: iteration {step + 1}, loss {value:.4f}")

    factor = bundle.network.config.subsampling
    found = learn_classifier(states, symbols, len(bundle.labels) + 1, factor=factor, report=told)
    report(f"classifier of frames: loss {last:.4f} a frame, from {len(states)} utterances")
    return found, len(states)


def _about(utterance: TimedUtterance, error: AlignmentError) -> str:
    return f"{utterance.name}: {error}" if utterance.name else str(error)


def _framed(
    bundle: Bundle, utterance: TimedUtterance
) -> tuple[tuple[str, ...], Float[np.ndarray, "frames mels"], Float[np.ndarray, "labels 2"]]:
    """Labels, features and true edges in frames, where phones have times."""
    labels = tuple(phone.label for phone in utterance.phones)
    features = _features(bundle, utterance, len(labels))
    return labels, features, _edges(bundle, utterance, "phone", len(features))


def _worded(
    bundle: Bundle, utterance: TimedUtterance
) -> tuple[Transcript, Float[np.ndarray, "frames mels"], Float[np.ndarray, "words 2"]]:
    """Transcript, features and true edges of words in frames, where only words have times."""
    transcript = _one_by_one([word.label for word in utterance.words])
    features = _features(bundle, utterance, len(transcript.labels))
    transcript = pronounced(bundle, transcript, features)
    edges = _edges(bundle, utterance, "word", len(features))
    room = np.bincount(true_path(edges, len(features)) + 1, minlength=len(edges) + 1)[1:]
    for word, frames, needed in zip(utterance.words, room, np.bincount(transcript.word_of_label), strict=True):
        if frames < needed:
            raise AlignmentError(f"{needed} phones of {word.label!r} at {word.start:.3f} s in {frames} frames")
    return transcript, features, edges


def _one_by_one(words: Sequence[str]) -> Transcript:
    """The transcript of these words, each of which is one of its own."""
    transcript, begin = Transcript.from_text(" ".join(words)), 0
    for index, word in enumerate(words):
        inside = [i for i, w in enumerate(transcript.words) if begin <= w.start_char <= begin + len(word)]
        if inside != [index] or index not in transcript.word_of_label or _NOISE.fullmatch(word.strip()):
            raise AlignmentError(f"{word!r}, word {index + 1}, is not one word that can be pronounced")
        begin += len(word) + 1
    return transcript


def _edges(bundle: Bundle, utterance: TimedUtterance, kind: str, n_frames: int) -> Float[np.ndarray, "timed 2"]:
    """First and last edge in frames of each phone or word, which has one at least."""
    units = utterance.phones if kind == "phone" else utterance.words
    times = np.array([(unit.start, unit.end) for unit in units])
    edges = (times - bundle.grid.edge_s(0)) / bundle.grid.hop_s
    lost = np.setdiff1d(np.arange(len(units)), true_path(edges, n_frames))
    if len(lost):
        unit, duration = units[lost[0]], len(utterance.samples) / bundle.features.sample_rate
        raise AlignmentError(
            f"no frame is left for {kind} {unit.label} at {unit.start:.3f} s: the recording ends at {duration:.3f} s"
        )
    return edges


def _all_read(
    bundle: Bundle,
    utterances: Sequence[TimedUtterance],
    classifier: Classifier | None,
    what: str,
    report: Callable[[str], None],
    status: Callable[[str], None],
) -> list[_Read]:
    """Every utterance that can be used; what cannot is reported, and an AlignmentError if nothing is left."""
    read, problems = [], []
    for number, utterance in enumerate(utterances, 1):
        status(f"reading {number}/{len(utterances)} {what}")
        try:
            read.append(_read(bundle, utterance, classifier))
        except AlignmentError as error:
            problems.append(_about(utterance, error))
    if not read:
        raise AlignmentError(
            f"none of {len(utterances)} {what} can be used: each needs times of words, or of words and phones"
            + (f"; the first one: {problems[0]}" if problems else "")
        )
    if problems:
        report(f"{len(problems)} of {len(utterances)} {what} left out, the first one because of: {problems[0]}")
    return read


def _read(bundle: Bundle, utterance: TimedUtterance, classifier: Classifier | None) -> _Read:
    if utterance.phones:
        owners = _owners(utterance)
        labels, features, edges = _framed(bundle, utterance)
        timed = tuple(range(len(labels)))
    else:
        transcript, features, edges = _worded(bundle, utterance)
        labels, owners, timed = transcript.labels, transcript.unit_of_label, transcript.word_of_label
    seen = read_all(bundle, features, labels, classifier)
    half = AllSignals(*(Signals(*(np.asarray(part, np.float16) for part in signals)) for signals in seen))
    return _Read(half, labels, owners, edges, timed)


def _owners(utterance: TimedUtterance) -> tuple[int, ...]:
    """Word of each phone: the one that holds its middle."""
    if not utterance.phones:
        raise AlignmentError("its words have times, its phones have none")
    found = []
    for phone in utterance.phones:
        middle = (phone.start + phone.end) / 2
        inside = [i for i, word in enumerate(utterance.words) if word.start <= middle < word.end]
        if not inside:
            raise AlignmentError(f"phone {phone.label} at {phone.start:.3f} s lies in no word")
        found.append(inside[0])
    if set(found) != set(range(len(utterance.words))):
        silent = next(w for i, w in enumerate(utterance.words) if i not in found)
        raise AlignmentError(f"no phone lies in the word {silent.label!r} at {silent.start:.3f} s")
    return tuple(found)


def _features(bundle: Bundle, utterance: TimedUtterance, n_labels: int) -> Float[np.ndarray, "frames mels"]:
    """Of an utterance that the model takes in one piece, with a frame a label at least."""
    features = log_mel_padded(utterance.samples.astype(np.float32), bundle.features)
    if n_labels > len(features):
        raise AlignmentError(f"{n_labels} labels in {len(features)} frames; expected a frame a label at least")
    if len(features) * bundle.grid.hop_s > bundle.max_duration_s + 1.0:
        raise AlignmentError(f"it is longer than the {bundle.max_duration_s:.0f} s that the model takes")
    return features


def _example(one: _Read, chosen: Sequence[str], names: Sequence[str]) -> Example:
    n_frames = one.seen.together.scores.shape[2]
    return Example(
        picked(one.seen, chosen, names),
        jnp.asarray(classes_of(one.labels)),
        Topology.words(one.owners),
        jnp.asarray(_mask(one, n_frames)),
        jnp.asarray(len(one.labels)),
        jnp.asarray(n_frames),
    )


def _mask(one: _Read, n_frames: int) -> Bool[np.ndarray, "labels_and_silence frames"]:
    """Where silence and each label may be: labels of a word whose phones have no times, anywhere in the word."""
    between = Topology.words([one.owners[one.timed.index(unit)] for unit in range(len(one.edges))])
    path = true_path(one.edges, n_frames)
    mask = true_mask(path, between, one.slack)
    for unit, (first, end) in enumerate(spans(path, len(one.edges))):
        # A word that is said as several may have silence between them, if neither first nor last.
        if len({owner for owner, timed in zip(one.owners, one.timed, strict=True) if timed == unit}) > 1:
            mask[0, first + 1 : end - 1] = True
    return mask[[0, *(unit + 1 for unit in one.timed)]]


def _alike(examples: Sequence[Example]) -> list[Example]:
    """Examples stacked with others of about their size, since each costs what the largest beside it costs."""
    by_size = sorted(examples, key=lambda e: int(e.n_labels) * int(e.n_frames))
    size = -(-len(by_size) // GROUPS)
    return [_stacked(by_size[first : first + size]) for first in range(0, len(by_size), size)]


def _stacked(examples: Sequence[Example]) -> Example:
    """Examples padded to the longest and stacked."""
    n_labels = max(int(e.n_labels) for e in examples)
    n_frames = max(int(e.n_frames) for e in examples)

    def padded(e: Example) -> Example:
        labels, frames = (0, n_labels - int(e.n_labels)), (0, n_frames - int(e.n_frames))
        seen = Signals(
            np.pad(e.signals.scores, ((0, 0), labels, frames)),
            np.pad(e.signals.cues, ((0, 0), frames)),
            np.pad(e.signals.sure, (labels, (0, 0))),
        )
        topology, mask = e.topology.padded(n_labels), jnp.pad(e.mask, (labels, frames))
        return Example(seen, jnp.pad(e.classes, labels), topology, mask, e.n_labels, e.n_frames)

    return jax.tree.map(lambda *parts: jnp.stack(parts), *map(padded, examples))


def _confidences(
    bundle: Bundle,
    utterances: Sequence[TimedUtterance],
    calibrations: dict[str, Calibration],
    names: Sequence[str],
    seed: int,
    status: Callable[[str], None],
) -> dict[str, tuple[float, ...]]:
    """Weights of confidence for each method, from transcripts as users give them: right ones, and with a wrong word."""
    rng = np.random.default_rng(seed)
    all_words = [word.label for utterance in utterances for word in utterance.words]
    tables: dict[str, list[np.ndarray]] = {method: [] for method in calibrations}
    right: dict[str, list[np.ndarray]] = {method: [] for method in calibrations}
    for number, utterance in enumerate(utterances, 1):
        status(f"confidence: {number}/{len(utterances)} utterances")
        said = [word.label for word in utterance.words]
        swapped = int(rng.integers(len(said)))
        others = [word for word in all_words if word.lower() != said[swapped].lower()]
        tries = [(said, -1)]
        if others:
            tries.append(([*said[:swapped], str(rng.choice(others)), *said[swapped + 1 :]], swapped))
        for words, at in tries:
            for method, (table, hits) in _tried(bundle, utterance, words, at, calibrations, names).items():
                tables[method].append(table)
                right[method].append(hits)
    if not any(len(table) for all_of_it in tables.values() for table in all_of_it):
        return {method: () for method in calibrations}
    return {
        method: confidence.learn(np.concatenate(tables[method]), np.concatenate(right[method]))
        for method in calibrations
    }


def _tried(
    bundle: Bundle,
    utterance: TimedUtterance,
    words: Sequence[str],
    wrong: int,
    calibrations: dict[str, Calibration],
    names: Sequence[str],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """By method: what is known of each word of a transcript, and whether it is right; nothing if it cannot be told."""
    try:
        transcript = _one_by_one(words)
        features = _features(bundle, utterance, len(transcript.labels))
        seen = read_all(bundle, features, transcript.labels, classifier_of(calibrations))
        duration = len(utterance.samples) / bundle.features.sample_rate
        found = {}
        for method, calibration in calibrations.items():
            alignment, table = place_calibrated(
                transcript,
                picked(seen, calibration.signals, names),
                calibration,
                grid=bundle.grid,
                duration=duration,
            )
            placed = zip(alignment.tier("words"), utterance.words, strict=True)
            far = [max(abs(a.start - b.start), abs(a.end - b.end)) for a, b in placed]
            found[method] = (table, (np.array(far) <= confidence.REACH_S) & (np.arange(len(words)) != wrong))
        return found
    except AlignmentError:
        return {}


def learn(
    first: Example,
    *others: Example,
    start: Weights | None = None,
    steps: int = STEPS,
    decay: float = DECAY,
    report: Callable[[int, float], None] = lambda step, value: None,
) -> Weights:
    """The weights under which the true paths are most probable, by L-BFGS (Liu and Nocedal 1989) on all utterances.

    Not by Adam: signals differ so much in size that a rate which is right for one diverges for another. And not in the
    weights themselves: taps see nearly the same as their neighbours do, and gradients at one leaf as those at the next,
    so that it is the differences between weights that take many iterations. It finds weights in coordinates in which
    they would be told apart equally well, see `gradalign._whitening`; where the optimum lies does not depend on it.

    Args:
        first: Utterances stacked along a leading axis.
        others: More of them, padded to another size: it saves time and memory and changes nothing else.
        start: Where to begin; by default `initial`.
        steps: Iterations at most.
        decay: Weight of the squared distance from the start, which keeps what the data do not tell; > 0.
        report: Told the number of an iteration and the loss after it.
    """
    groups = (first, *others)
    if start is None:
        start = initial(first.signals.scores.shape[1])
    origin, unflatten = ravel_pytree(jax.tree.map(jnp.zeros_like, start))
    n_utterances = sum(len(group.n_labels) for group in groups)

    def total(point, data):
        start, roots, groups = data
        moved = _moved(unflatten(point), roots)
        weights = jax.tree.map(jnp.add, start, moved)
        loss = decay * sum((jnp.square(part).sum() for part in moved), jnp.zeros(()))
        for group in groups:
            # One utterance's signals fit into a processor's cache, those of all together do not; lattices are small.
            found, silence, between = jax.lax.map(
                lambda e: (*scores(weights, e.signals, e.classes, e.n_labels), moves(weights, e.signals, e.classes)),
                group,
            )
            loss += jax.vmap(surprise)(found, silence, between, group).sum() / n_utterances
        return loss

    roots = _roots(groups, decay)
    point = minimise(total, np.asarray(origin), (start, roots, groups), steps=steps, report=report)
    return jax.tree.map(jnp.add, start, _moved(unflatten(jnp.asarray(point)), roots))


class _Roots(NamedTuple):
    """What makes filters of signals and of cues from the coordinates in which they are learnt."""

    signals: Float[Array, "signals*taps signals*taps"]
    cues: Float[Array, "cues*taps cues*taps"]


def _roots(groups: Sequence[Example], decay: float) -> _Roots:
    """From what filters see in all utterances, and the pull towards the start."""
    size = groups[0].signals.scores.shape[1] * TAPS
    of_signals, of_cues = np.zeros((size, size)), np.zeros((len(CUES) * TAPS,) * 2)
    n_seen = n_frames = 0
    for group in groups:
        seen, cues = (np.asarray(part, np.float32) for part in group.signals[:2])
        sizes = zip(np.asarray(group.n_labels).tolist(), np.asarray(group.n_frames).tolist(), strict=True)
        for of_labels, of_frames, (rows, frames) in zip(seen, cues, sizes, strict=True):
            of_signals += moments(of_labels[:, :rows, :frames], TAPS)
            of_cues += moments(of_frames[:, None, :frames], TAPS)
            n_seen, n_frames = n_seen + rows * frames, n_frames + frames

    def root(matrix: Float[np.ndarray, "values values"], number: int) -> Float[Array, "values values"]:
        return jnp.asarray(inverse_root(UNCERTAIN * matrix / number, 2.0 * decay))

    return _Roots(root(of_signals, n_seen), root(of_cues, n_frames))


def _moved(point: Weights, roots: _Roots) -> Weights:
    """How far weights are from their start at a point of the coordinates in which they are learnt."""

    def by(root: Float[Array, "values values"], filters: Array) -> Array:
        return jnp.matmul(filters.reshape(-1, len(root)), root, precision="highest").reshape(filters.shape)

    of_signals, of_cues = ("taps", "class_taps", "first", "last"), ("cues", "silence", "opens", "closes")
    return point._replace(
        **{name: by(roots.signals, getattr(point, name)) for name in of_signals},
        **{name: by(roots.cues, getattr(point, name)) for name in of_cues},
    )
