"""Calibrations: what is planted is learnt, padding changes nothing, and files come back as they were."""

import dataclasses
import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from gradalign import bundle as bundles
from gradalign._lbfgs import minimise
from gradalign._whitening import inverse_root
from gradalign._whitening import moments as window_moments
from gradalign.aligner import align
from gradalign.alignment import Interval
from gradalign.calibrate import GROUPS, METHODS, PULL, _alike, _example, _mask, _one_by_one, _read, calibrate, learn
from gradalign.calibration import (
    CLASS_NAMES,
    TAPS,
    Calibration,
    Example,
    Weights,
    classes_of,
    initial,
    load,
    loss,
    moves,
    save,
    scores,
    surprise,
    true_mask,
    true_path,
)
from gradalign.errors import AlignmentError, FormatError
from gradalign.features import LogMel
from gradalign.lattice import Moves, Topology, viterbi
from gradalign.lexicon import PHONES
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig
from gradalign.placement import place_calibrated
from gradalign.readout import AllSignals, picked
from gradalign.signals import CUES, OF_CTC, OF_GRADIENTS, Signals, signal_names
from gradalign.timed_speech import TimedUtterance
from gradalign.timing import FrameGrid
from gradalign.transcript import Transcript

N_LABELS, N_FRAMES, LAG = 4, 60, 3


def planted(rng: np.random.Generator, gap: int = 6) -> Example:
    """One signal shows each label `LAG` frames late, a second one is noise; the energy is low in silence."""
    lengths = rng.integers(6, 11, size=N_LABELS)
    first = gap + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    first[2:] += gap  # a pause in the middle
    edges = np.stack([first, first + lengths], axis=1).astype(float)
    path = true_path(edges, N_FRAMES)
    seen = np.where(path[None, :] == np.arange(N_LABELS)[:, None], 2.0, -2.0)
    late = np.roll(seen, LAG, axis=1)
    noise = 2.0 * rng.normal(size=late.shape)
    cues = np.zeros((len(CUES), N_FRAMES))
    cues[0] = np.where(path < 0, -3.0, 0.0) + 0.3 * rng.normal(size=N_FRAMES)
    signals = Signals(*(jnp.asarray(x, jnp.float32) for x in (np.stack([late, noise]), cues, np.zeros((N_LABELS, 2)))))
    topology = Topology.words([0, 0, 1, 1])
    mask = jnp.asarray(true_mask(path, topology))
    return Example(signals, jnp.zeros(N_LABELS, int), topology, mask, jnp.asarray(N_LABELS), jnp.asarray(N_FRAMES))


def path_of(example: Example) -> np.ndarray:
    """The only true path of an example."""
    mask = np.asarray(example.mask)
    np.testing.assert_array_equal(mask.sum(axis=0), 1)
    return mask.argmax(axis=0) - 1


def stacked(examples: list[Example]) -> Example:
    return jax.tree.map(lambda *parts: jnp.stack(parts), *examples)


def errors(weights, example: Example) -> np.ndarray:
    """Whether each frame is on the right label."""
    found, silence = scores(weights, example.signals, example.classes, N_LABELS)
    between = moves(weights, example.signals, example.classes)
    return np.asarray(viterbi(found, silence, example.topology, moves=between).labels) != path_of(example)


def test_a_planted_lag_and_a_planted_silence_are_learnt(rng):
    train = stacked([planted(rng) for _ in range(12)])
    history = []
    weights = learn(train, steps=60, decay=1e-3, report=lambda step, value: history.append(value))
    assert history[-1] < 0.3 * history[0]
    taps = np.asarray(weights.taps + weights.class_taps[0])  # all labels are of one class
    assert int(taps[0].argmax()) == TAPS // 2 + LAG
    assert np.abs(taps[1]).max() < 0.3 * np.abs(taps[0]).max()
    unseen = [planted(rng) for _ in range(10)]
    before = np.mean([errors(initial(2), example).mean() for example in unseen])
    after = np.mean([errors(weights, example).mean() for example in unseen])
    assert after < 0.03
    assert after < before / 4


def test_the_loss_is_minus_a_log_probability(rng):
    """Its gradient by the scores is posterior minus truth, so it is 0 where the truth is certain."""
    example = planted(rng)
    sure = jnp.where(path_of(example)[None, :] == jnp.arange(N_LABELS)[:, None], 50.0, -50.0)
    certain = example._replace(signals=example.signals._replace(scores=jnp.stack([sure, sure])))
    quiet = initial(2)._replace(speech=jnp.zeros(3))
    assert 0 <= float(loss(quiet, certain)) < 1e-3
    assert float(loss(initial(2), example)) > 0


@functools.cache
def every_path(words: tuple[int, ...], n_frames: int) -> list[np.ndarray]:
    """All paths of a small lattice, by trying every sequence."""
    silence_allowed, found = Topology.words(words).silence_allowed, []
    for path in itertools.product(range(-1, len(words)), repeat=n_frames):
        runs = [label for label, _ in itertools.groupby(path)]
        if [label for label in runs if label >= 0] != list(range(len(words))):
            continue
        before = np.cumsum([label >= 0 for label in runs])
        if all(silence_allowed[at] for label, at in zip(runs, before, strict=True) if label < 0):
            found.append(np.array(path))
    return found


def edges_of(path: np.ndarray) -> np.ndarray:
    """First frame and last frame + 1 of each label."""
    return np.array([[np.flatnonzero(path == k)[0], np.flatnonzero(path == k)[-1] + 1] for k in range(path.max() + 1)])


def slips(path: np.ndarray, true: np.ndarray, topology: Topology) -> int:
    """Frames by which the worst boundary of a path lies outside of where it may be by the true times: at an edge of a
    label where silence may lie beside it, and else anywhere from the end of a label to the start of the next."""
    found, given = edges_of(path), edges_of(true)
    worst = 0
    for k, ((first, end), (early, late)) in enumerate(zip(found, given, strict=True)):
        from_ = early if topology.silence_allowed[k] or k == 0 else given[k - 1, 1]
        until = late if topology.silence_allowed[k + 1] or k + 1 == len(given) else given[k + 1, 0]
        worst = max(worst, from_ - first, first - early, end - until, late - end)
    return worst


@pytest.mark.parametrize("slack", [0, 1, 2, 30])
@pytest.mark.parametrize(
    "path",
    [
        [-1, 0, 0, 0, 1, 1, 1, -1, 2, 2],
        [0, 0, 0, 1, 1, 1, 2, 2, 2, 2],
        [0, 0, -1, -1, 1, 1, 2, 2, -1, -1],
        [-1, -1, 0, 0, 1, 1, -1, -1, -1, 2],
    ],
)
def test_the_loss_is_over_all_paths_whose_boundaries_are_within_the_slack(rng, path, slack):
    """Against the sum over every path of a small lattice, picked out by its boundaries."""
    topology, n_labels, n_frames = Topology.words([0, 0, 1]), 3, len(path)
    path = np.array(path)
    found, quiet = rng.normal(size=(n_labels, n_frames)), rng.normal(size=n_frames)
    mask = true_mask(path, topology, slack)
    every = every_path((0, 0, 1), n_frames)
    right = [one for one in every if slips(one, path, topology) <= slack]
    in_mask = [one for one in every if mask[one + 1, np.arange(n_frames)].all()]
    as_sets = [{tuple(one) for one in paths} for paths in (right, in_mask)]
    assert as_sets[0] <= as_sets[1]  # every path within the slack is in the mask
    if np.diff(edges_of(path)).min() > 2 * slack or slack == 30:
        assert as_sets[0] == as_sets[1]  # and, but for labels that are short, no other is
    sizes = [(n_labels, n_frames), (n_labels, n_frames), (n_labels + 1, n_frames)]
    between = Moves(*(rng.normal(size=size).astype(np.float32) for size in sizes))
    total, true = (
        np.logaddexp.reduce([oracles.score_of(one, found, quiet, between) for one in paths])
        for paths in (every, in_mask)
    )
    example = Example(
        Signals(np.zeros((1, n_labels, n_frames)), np.zeros((len(CUES), n_frames)), np.zeros((n_labels, 2))),
        jnp.zeros(n_labels, int),
        topology,
        jnp.asarray(mask),
        jnp.asarray(n_labels),
        jnp.asarray(n_frames),
    )
    given = jax.tree.map(jnp.asarray, (found.astype(np.float32), quiet.astype(np.float32), between))
    ours = float(surprise(*given, example))
    assert ours == pytest.approx((total - true) / n_frames, abs=1e-5)


def test_words_start_and_end_within_the_slack_though_their_phones_are_short():
    """By every path that the mask allows, of phones no longer than the slack: what a word may slip by is what its edge
    may, not what its phones may together."""
    slack, topology = 3, Topology.words([0, 0, 0, 1, 1, 1])
    for gap in (0, 1, 8):
        path = np.repeat([-1, 0, 1, 2, -1, 3, 4, 5, -1], [9, 3, 3, 3, gap, 3, 3, 3, 9])
        mask = true_mask(path, topology, slack)
        starts, ends = possible(mask, topology)
        for label, at in ((0, starts), (3, starts), (2, ends), (5, ends)):
            given = edges_of(path)[label][0 if at is starts else 1]
            assert (min(at[label]), max(at[label])) == (given - slack, given + slack), (gap, label)


def possible(mask: np.ndarray, topology: Topology) -> tuple[list[set[int]], list[set[int]]]:
    """Starts and ends of each label on paths through a mask: states that can be reached, and from which the end can."""
    n_labels, n_frames = len(mask) - 1, mask.shape[1]
    n_states = 2 * n_labels + 1

    def fits(state: int, frame: int) -> bool:
        if state % 2 == 0:
            return bool(mask[0, frame] and topology.silence_allowed[state // 2])
        return bool(mask[(state + 1) // 2, frame])

    def moves(state: int) -> list[int]:
        return [to for to in (state, state + 1, state + 2 * (state % 2)) if to < n_states]

    reached = [{state for state in (0, 1) if fits(state, 0)}]
    for frame in range(1, n_frames):
        reached.append({to for state in reached[-1] for to in moves(state) if fits(to, frame)})
    alive = [reached[-1] & {n_states - 1, n_states - 2}]
    for frame in range(n_frames - 2, -1, -1):
        alive.insert(0, {state for state in reached[frame] if set(moves(state)) & alive[0]})
    starts, ends = [set() for _ in range(n_labels)], [set() for _ in range(n_labels)]
    for frame in range(1, n_frames):
        for state in alive[frame - 1]:
            for to in set(moves(state)) & alive[frame] - {state}:
                if to % 2:
                    starts[to // 2].add(frame)
                if state % 2:
                    ends[state // 2].add(frame)
    return starts, ends


def test_a_gap_inside_a_word_may_be_of_either_neighbour():
    """People who mark phones leave gaps; the lattice has no silence there."""
    path = np.array([-1, 0, 0, -1, -1, 1, -1, 2])
    mask = true_mask(path, Topology.words([0, 0, 1])).astype(int)
    np.testing.assert_array_equal(mask[0], [1, 0, 0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(mask[1], [0, 1, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(mask[2], [0, 0, 0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(mask[3], [0, 0, 0, 0, 0, 0, 0, 1])


def test_padding_changes_neither_scores_nor_loss(rng):
    example = planted(rng)
    weights = jax.tree.map(lambda w: w + 0.1 * jnp.asarray(rng.normal(size=w.shape), jnp.float32), initial(2))
    padded = Example(
        Signals(
            jnp.pad(example.signals.scores, ((0, 0), (0, 3), (0, 9))),
            jnp.pad(example.signals.cues, ((0, 0), (0, 9))),
            jnp.pad(example.signals.sure, ((0, 3), (0, 0))),
        ),
        jnp.pad(example.classes, (0, 3)),
        example.topology.padded(N_LABELS + 3),
        jnp.pad(example.mask, ((0, 3), (0, 9))),
        example.n_labels,
        example.n_frames,
    )
    ours, theirs = (scores(weights, one.signals, one.classes, one.n_labels) for one in (example, padded))
    np.testing.assert_allclose(theirs[0][:N_LABELS, :N_FRAMES], ours[0], atol=1e-4)
    np.testing.assert_allclose(theirs[1][:N_FRAMES], ours[1], atol=1e-4)
    np.testing.assert_allclose(loss(weights, padded), loss(weights, example), atol=1e-5)


def test_gates_follow_how_sure_the_model_is(rng):
    example = planted(rng)
    gates = jnp.zeros((2, 3)).at[0, 1].set(5.0)  # of the first signal, over the log-probability
    weights = initial(2)._replace(gates=gates)
    unsure = example.signals._replace(sure=example.signals.sure.at[1, 0].set(-10.0))
    open_, shut = (scores(weights, s, example.classes, N_LABELS)[0] for s in (example.signals, unsure))
    np.testing.assert_allclose(shut[0], open_[0], atol=1e-5)
    np.testing.assert_allclose(shut[1], example.signals.scores[1, 1] / 2, atol=1e-3)  # only the other signal is left


def test_scores_are_the_sum_that_the_documentation_gives(rng):
    """Against a loop over labels, signals, cues and taps."""
    example = planted(rng)
    sure, classes = rng.normal(size=(N_LABELS, 2)), np.array([0, 1, 1, 6])
    signals = example.signals._replace(sure=jnp.asarray(sure, jnp.float32))
    weights = jax.tree.map(lambda w: 0.3 * rng.normal(size=w.shape), initial(2))
    seen, cues = np.asarray(signals.scores), np.asarray(signals.cues)

    def at(row: np.ndarray, frame: int) -> float:
        return float(row[frame]) if 0 <= frame < N_FRAMES else 0.0

    expected, quiet = np.zeros((N_LABELS, N_FRAMES)), np.zeros(N_FRAMES)
    around = [(tap, tap - TAPS // 2) for tap in range(TAPS)]
    for t in range(N_FRAMES):
        for s, c in enumerate(classes):
            total = weights.constants[c]
            for k in range(2):
                gate = 2 / (1 + np.exp(-weights.gates[k] @ [1, *sure[s]]))
                filters = weights.taps[k] + weights.class_taps[c, k]
                total += gate * sum(filters[tap] * at(seen[k, s], t + d) for tap, d in around)
            for i in range(len(CUES)):
                total += sum(weights.cues[c, i, tap] * at(cues[i], t + d) for tap, d in around)
            expected[s, t] = total
        quiet[t] = sum(weights.silence[i, tap] * at(cues[i], t + d) for i in range(len(CUES)) for tap, d in around)
    quiet += weights.speech @ [expected.mean(0), expected.max(0), np.ones(N_FRAMES)]
    found, silence = scores(
        jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), weights), signals, jnp.asarray(classes), N_LABELS
    )
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(silence, quiet, atol=2e-3)


def test_scores_of_boundaries_are_the_sum_that_the_documentation_gives(rng):
    """Against a loop over labels, signals, cues and taps."""
    example, classes = planted(rng), np.array([0, 1, 1, 6])
    weights = jax.tree.map(lambda w: 0.3 * rng.normal(size=w.shape), initial(2))
    seen, cues = np.asarray(example.signals.scores), np.asarray(example.signals.cues)

    def filtered(filters: np.ndarray, rows: np.ndarray, t: int) -> float:
        there = [tap for tap in range(TAPS) if 0 <= t + tap - TAPS // 2 < N_FRAMES]
        return sum(
            float(f[tap] * row[t + tap - TAPS // 2]) for f, row in zip(filters, rows, strict=True) for tap in there
        )

    found = moves(jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), weights), example.signals, jnp.asarray(classes))
    for t in range(N_FRAMES):
        begins = [
            filtered(weights.first, seen[:, s], t) + filtered(weights.opens[c], cues, t) for s, c in enumerate(classes)
        ]
        ends = [
            filtered(weights.last, seen[:, s], t) + filtered(weights.closes[c], cues, t) for s, c in enumerate(classes)
        ]
        opened, closed = filtered(weights.opens[-1], cues, t), filtered(weights.closes[-1], cues, t)
        before = np.array([0.0, *ends])
        np.testing.assert_allclose(found.touch[:, t], before[:-1] + begins, atol=2e-3)
        np.testing.assert_allclose(found.start[:, t], np.array(begins) + closed, atol=2e-3)
        np.testing.assert_allclose(found.end[:, t], before + opened, atol=2e-3)


def planted_boundaries(rng: np.random.Generator) -> Example:
    """Two labels, silent or loud alike and seen by no signal; a blip of a cue tells where each begins and ends."""
    edges = np.cumsum(rng.integers(8, 17, size=3)).astype(float)
    path = true_path(np.stack([edges[:-1], edges[1:]], axis=1), N_FRAMES)
    cues = np.zeros((len(CUES), N_FRAMES))
    cues[1, edges.astype(int)] = 1.0
    signals = Signals(*(jnp.asarray(x, jnp.float32) for x in (np.zeros((1, 2, N_FRAMES)), cues, np.zeros((2, 2)))))
    topology = Topology.words([0, 0])
    sizes = jnp.asarray(2), jnp.asarray(N_FRAMES)
    return Example(signals, jnp.zeros(2, int), topology, jnp.asarray(true_mask(path, topology)), *sizes)


def test_planted_blips_at_boundaries_are_learnt(rng):
    """Scores of frames cannot say that something changes here, and not what: those of boundaries can."""
    weights = learn(stacked([planted_boundaries(rng) for _ in range(20)]), steps=60, decay=1e-3)
    wrong = []
    for _ in range(10):
        example = planted_boundaries(rng)
        found, silence = scores(weights, example.signals, example.classes, 2)
        between = moves(weights, example.signals, example.classes)
        labels = viterbi(found, silence, example.topology, moves=between).labels
        wrong.append(float(np.mean(np.asarray(labels) != path_of(example))))
    assert np.mean(wrong) < 0.02


def test_placement_follows_scores_of_boundaries(rng):
    """Of the path and of the medians of its boundaries alike, also where label and frames are padded."""
    calibration = Calibration(("nothing",), boundary_weights())
    for _ in range(5):
        example = planted_boundaries(rng)
        transcript = Transcript.from_units([("one", ["a", "b"])])
        signals = Signals(*map(np.asarray, example.signals))
        grid = FrameGrid(16_000, 160)
        features = (np.zeros((N_FRAMES, 4), np.float32), grid)
        found, _ = place_calibrated(
            transcript, signals, calibration, grid=grid, duration=N_FRAMES / 100, features=features
        )
        assert found.evidence is not None
        np.testing.assert_array_equal(found.evidence.path, path_of(example))
        for label, phone in enumerate(found.tier("phones")):
            run = np.flatnonzero(path_of(example) == label)
            assert phone.start == pytest.approx(grid.edge_s(int(run[0])), abs=0.006)
            assert phone.end == pytest.approx(grid.edge_s(int(run[-1]) + 1), abs=0.006)


def boundary_weights() -> Weights:
    """Boundaries are where cue 1 is, and nothing else counts."""
    weights = jax.tree.map(jnp.zeros_like, initial(1))
    at_blips = weights.opens.at[:, 1, TAPS // 2].set(10.0)
    return weights._replace(opens=at_blips)


def test_scores_of_boundaries_that_are_no_numbers_are_refused(rng):
    weights = boundary_weights()
    broken = Calibration(("nothing",), weights._replace(first=weights.first.at[0, 3].set(jnp.nan)))
    transcript = Transcript.from_units([("one", ["a", "b"])])
    signals = Signals(*map(np.asarray, planted_boundaries(rng).signals))
    with pytest.raises(AlignmentError, match="scores are NaN, infinite"):
        place_calibrated(transcript, signals, broken, grid=FrameGrid(16_000, 160), duration=N_FRAMES / 100)


def test_every_label_has_a_frame_of_the_true_path():
    edges = np.array([[1.2, 3.6], [3.6, 3.7], [3.7, 5.4], [9.0, 30.0]])
    np.testing.assert_array_equal(true_path(edges, 12), [-1, 0, 0, 0, 1, 2, -1, -1, -1, 3, 3, 3])


def test_classes_are_those_of_phones():
    found = classes_of(["AA", "P", "F", "CH", "M", "L", "Y", "?"])
    assert [CLASS_NAMES[i] for i in found] == [
        "vowel", "stop", "fricative", "affricate", "nasal", "liquid", "liquid", "other",
    ]  # fmt: skip


def test_a_planted_utterance_is_placed_with_ranges_and_confidence(rng):
    example = planted(rng, gap=8)  # longer than the closure of a stop
    weights = learn(stacked([planted(rng) for _ in range(12)]), steps=60, decay=1e-3)
    transcript = Transcript.from_units([("one", ["a", "b"]), ("two", ["c", "d"])])
    calibration = Calibration(("late", "noise"), weights, (0.5, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0))
    signals = Signals(*map(np.asarray, example.signals))
    grid = FrameGrid(16_000, 160)
    found, table = place_calibrated(transcript, signals, calibration, grid=grid, duration=N_FRAMES / 100)
    runs = [np.flatnonzero(path_of(example) == i) for i in range(N_LABELS)]
    for phone, run in zip(found.tier("phones"), runs, strict=True):
        assert phone.start == pytest.approx(grid.edge_s(int(run[0])), abs=0.011)
        assert phone.end == pytest.approx(grid.edge_s(int(run[-1]) + 1), abs=0.011)
        assert phone.start_range is not None
        assert phone.start_range[0] <= phone.start <= phone.start_range[1]
    first = found.tier("words")[0]
    assert first.start_range == found.tier("phones")[0].start_range
    assert first.confidence is not None
    assert 0.9 < first.confidence < 1.0
    assert table.shape == (2, 6)


def test_calibrating_a_model_and_using_it(tiny_bundle, tmp_path, rng):
    """From speech with times to a model folder with a calibration, which `align` then takes by default."""
    said = [("back", ("B", "A", "K")), ("cab", ("K", "A", "B"))]
    utterances = []
    for number in range(3):
        words = [said[(number + i) % 2] for i in range(2)]
        phones, intervals, at = [], [], 0.1
        for word, labels in words:
            start = at
            for label in labels:
                phones.append(Interval(at, at + 0.1, label))
                at = round(at + 0.1, 3)
            intervals.append(Interval(start, at, word))
        samples = 0.1 * rng.normal(size=round(16_000 * (at + 0.1)))
        text = " ".join(word for word, _ in words)
        utterances.append(TimedUtterance(samples, text, tuple(phones), tuple(intervals)))
    lines = []
    done = calibrate(tiny_bundle, utterances, about="three made-up utterances", steps=3, report=lines.append)
    assert set(done.calibrations) == set(METHODS)
    assert not any("ctc" in name for name in done.calibrations["calibrated-gradient"].signals)
    assert any("calibrated-ctc: loss" in line for line in lines)
    bundles.save(done, tmp_path / "model")
    kept = bundles.load(tmp_path / "model")
    assert kept.calibrated_on == "three made-up utterances"
    transcript = Transcript.from_units(said)
    for method in (None, *METHODS):
        found = align(utterances[0].samples.astype(np.float32), transcript, model=kept, method=method)
        assert found.method == (method or "calibrated")
        assert all(word.start_range is not None for word in found.tier("words"))
        again = align(utterances[0].samples.astype(np.float32), transcript, model=done, method=method)
        assert [w.start for w in again.tier("words")] == pytest.approx([w.start for w in found.tier("words")], abs=1e-3)
    assert align(utterances[0].samples.astype(np.float32), transcript, model=tiny_bundle).method == "gradient"
    assert align(utterances[0].samples.astype(np.float32), transcript, model=kept, leaf="stem").method == "gradient"
    with pytest.raises(ValueError, match="leaf and reduce go with method"):
        align(utterances[0].samples.astype(np.float32), transcript, model=kept, method="calibrated", leaf="stem")
    with pytest.raises(AlignmentError, match=r"'tiny' has not learnt method 'calibrated'.*gradalign calibrate"):
        align(utterances[0].samples.astype(np.float32), transcript, model=tiny_bundle, method="calibrated")


def test_methods_of_your_own_weigh_the_signals_they_name(tiny_bundle, rng):
    phones = (Interval(0.1, 0.2, "B"), Interval(0.2, 0.3, "A"), Interval(0.3, 0.4, "K"))
    speech = TimedUtterance(0.1 * rng.normal(size=8_000), "back", phones, (Interval(0.1, 0.4, "back"),))
    methods = {"one leaf": ["gradient@features"], "two kinds": ["ctc", "attention"]}
    done = calibrate(tiny_bundle, [speech], about="one", methods=methods, confidences=False, steps=2).calibrations
    assert done["one leaf"].signals == ("gradient@features",)
    assert done["two kinds"].signals == signal_names(tiny_bundle.network.config, ("attention", "ctc"))
    assert not any(one.confidence for one in done.values())
    for wrong in (["gradient@nowhere"], []):
        with pytest.raises(
            ValueError, match=r"mine: expected some of gradient, attention, ctc, .*, got (gradient@nowh|noth)"
        ):
            calibrate(tiny_bundle, [speech], about="one", methods={"mine": wrong})


def test_speech_without_times_of_words_is_refused(tiny_bundle):
    lost = TimedUtterance(np.zeros(8_000), "back", (Interval(0.1, 0.2, "B"),), (Interval(0.3, 0.4, "back"),))
    with pytest.raises(AlignmentError, match=r"none of 1 utterances .*phone B at 0\.100 s lies in no"):
        calibrate(tiny_bundle, [lost], about="nothing")


def cut(example: Example, n_labels: int, n_frames: int, slack: int) -> Example:
    """The beginning of an example, whose times may be wrong."""
    seen = Signals(
        example.signals.scores[:, :n_labels, :n_frames],
        example.signals.cues[:, :n_frames],
        example.signals.sure[:n_labels],
    )
    topology = Topology.words([0, 0, 1, 1][:n_labels])
    path = path_of(example)
    mask = true_mask(np.where(path < n_labels, path, -1)[:n_frames], topology, slack)
    return Example(
        seen, example.classes[:n_labels], topology, jnp.asarray(mask), jnp.asarray(n_labels), jnp.asarray(n_frames)
    )


def test_utterances_in_groups_of_their_size_count_the_same_each(rng):
    """What is minimised is the plain mean of the losses of all utterances, each computed by itself and not padded."""
    sizes = [(4, 60), (2, 30), (4, 57), (3, 45), (4, 59), (2, 33), (3, 47)]
    examples = [cut(planted(rng), *size, slack=i % 3) for i, size in enumerate(sizes)]
    groups = _alike(examples)
    assert len(groups) == GROUPS
    kept = [(int(n), int(t)) for group in groups for n, t in zip(group.n_labels, group.n_frames, strict=True)]
    assert sorted(kept) == sorted(sizes)
    heard: list[float] = []
    found = learn(*groups, steps=3, decay=0.1, report=lambda step, value: heard.append(value))
    start = initial(2)
    far = sum(float(jnp.square(a - b).sum()) for a, b in zip(found, start, strict=True))
    alone = np.mean([float(loss(found, example)) for example in examples])
    assert heard[-1] == pytest.approx(alone + 0.1 * far, rel=1e-3)
    assert alone < np.mean([float(loss(start, example)) for example in examples])


def test_what_is_begun_with_is_what_weights_are_pulled_to(rng):
    """What is minimised counts the distance from there; and a pull that is strong enough leaves all as it was."""
    train, heard = stacked([planted(rng) for _ in range(6)]), []
    start = jax.tree.map(lambda part: part + 0.1 * jnp.asarray(rng.normal(size=part.shape), part.dtype), initial(2))
    found = learn(train, start=start, steps=4, decay=0.1, report=lambda step, value: heard.append(value))
    far = sum(float(jnp.square(a - b).sum()) for a, b in zip(found, start, strict=True))
    alone = np.mean([float(loss(found, jax.tree.map(lambda part, i=i: part[i], train))) for i in range(6)])
    assert far > 0.01
    assert heard[-1] == pytest.approx(alone + 0.1 * far, rel=1e-3)
    kept = learn(train, start=start, steps=4, decay=1e6)
    for got, expected in zip(kept, start, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-4)


def test_a_calibration_is_begun_with_another_of_the_same_signals(tiny_bundle, rng):
    one, other, lines = spoken(rng, 0.1), spoken(rng, 0.15), []
    options = {"confidences": False, "steps": 3, "report": lines.append}
    before = calibrate(tiny_bundle, [one], about="one", methods={"mine": ["ctc"], "more": ["ctc"]}, **options)
    assert before.calibrated_on == "one"
    methods = {"mine": ["ctc"], "more": ["attention"]}
    after = calibrate(before, [other], about="other", onward=True, methods=methods, **options)
    assert after.calibrated_on == "other; begun with what was learnt on one"
    read = _read(tiny_bundle, other, None)
    example = stacked([_example(read, ("ctc",), signal_names(tiny_bundle.network.config))])
    expected = learn(example, start=before.calibrations["mine"].weights, steps=3, decay=PULL)
    np.testing.assert_allclose(after.calibrations["mine"].weights.taps, expected.taps, atol=1e-5)
    assert [line for line in lines if "afresh" in line] == [
        "more: afresh, because the model has none that weighs the same signals"
    ]
    methods = {"more": ["attention"]}  # nothing is begun with, and nothing says so
    assert calibrate(before, [other], about="other", onward=True, methods=methods, **options).calibrated_on == "other"
    assert calibrate(before, [other], about="other", methods={"mine": ["ctc"]}, **options).calibrated_on == "other"


def test_confidence_that_cannot_be_learnt_stays_as_it_was(tiny_bundle, rng):
    """Words that the dictionary does not take apart as the times do teach none."""
    methods = {"mine": ["ctc"]}
    before = calibrate(tiny_bundle, [spoken(rng, 0.1)], about="", methods=methods, confidences=False, steps=1)
    one = dataclasses.replace(before.calibrations["mine"], confidence=(0.1,) * 7)
    before = dataclasses.replace(before, calibrations={"mine": one})
    odd = spoken(rng, 0.15)
    odd = odd._replace(words=(dataclasses.replace(odd.words[0], label="back back"),))
    for onward, expected in ((True, (0.1,) * 7), (False, ())):
        found = calibrate(before, [odd], about="", onward=onward, methods=methods, steps=1).calibrations["mine"]
        assert found.confidence == expected


def alike(rng: np.random.Generator) -> Example:
    """A planted utterance that six signals show badly, nearly the same ones of very different sizes."""
    example = planted(rng)
    shown = np.asarray(example.signals.scores[0]) + 4.0 * rng.normal(size=(N_LABELS, N_FRAMES))
    seen = [size * (shown + rng.normal(size=shown.shape)) for size in (0.1, 0.5, 1.0, 2.0, 3.0, 5.0)]
    return example._replace(signals=example.signals._replace(scores=jnp.asarray(np.stack(seen), jnp.float32)))


def test_signals_that_are_much_alike_are_learnt_in_few_iterations(rng):
    """Against L-BFGS on the weights themselves, for the same objective; and both end at the same optimum."""
    example, decay = stacked([alike(rng) for _ in range(8)]), 1e-2
    start, unflatten = ravel_pytree(initial(6))

    def objective(point, data) -> jax.Array:
        return jax.vmap(lambda e: loss(unflatten(point), e))(data).mean() + decay * jnp.square(point - start).sum()

    def value(weights) -> float:
        return float(objective(ravel_pytree(weights)[0], example))

    def plain(steps: int) -> Weights:
        return unflatten(
            jnp.asarray(minimise(objective, np.asarray(start), example, steps=steps, report=lambda *_: None))
        )

    best = value(plain(2000))
    few, many = (value(learn(example, steps=steps, decay=decay)) for steps in (12, 400))
    assert few - best < 0.3 * (value(plain(12)) - best)
    assert many == pytest.approx(best, rel=1e-2)


def test_moments_are_those_of_all_windows(rng):
    channels, taps = rng.normal(size=(2, 3, 11)), 5
    padded = np.pad(channels, ((0, 0), (0, 0), (taps - 1, taps - 1)))
    windows = [padded[:, row, at : at + taps].ravel() for row in range(3) for at in range(11 + taps - 1)]
    found = window_moments(channels, taps)
    np.testing.assert_allclose(found, sum(np.outer(w, w) for w in windows), atol=1e-9)
    root = inverse_root(found, 0.5)
    np.testing.assert_allclose(root @ (found + 0.5 * np.eye(10)) @ root, np.eye(10), atol=1e-4)


def spoken(rng: np.random.Generator, first: float) -> TimedUtterance:
    phones = tuple(Interval(first + 0.1 * i, first + 0.1 * (i + 1), label) for i, label in enumerate("BAK"))
    return TimedUtterance(0.1 * rng.normal(size=8_000), "back", phones, (Interval(first, first + 0.3, "back"),))


@pytest.fixture(scope="module")
def english() -> bundles.Bundle:
    """An untrained model that knows the phones of the dictionary."""
    config = AEDConfig(
        dim=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward_dim=32, stem_channels=4, conv_kernel=5
    )
    return bundles.Bundle("english", AED(config, rngs=nnx.Rngs(0)), LogMel(), PHONES)


def worded(rng: np.random.Generator, *words: tuple[float, float, str], seconds: float = 1.0) -> TimedUtterance:
    """An utterance of which only words have times."""
    said = tuple(Interval(*word) for word in words)
    samples = 0.1 * rng.normal(size=round(16_000 * seconds))
    return TimedUtterance(samples, " ".join(word.label for word in said), (), said)


@pytest.mark.parametrize("slack", [0, 3])
def test_phones_without_times_may_be_anywhere_in_their_words(english, rng, slack):
    one = _read(english, worded(rng, (0.1, 0.42, "She"), (0.42, 0.6, "well-known"), (0.75, 0.9, "cat.")), None)
    one = one._replace(slack=slack)
    assert one.labels == ("SH", "IY", "W", "EH", "L", "N", "OW", "N", "K", "AE", "T")
    n_frames = one.seen.together.scores.shape[2]
    # Edges in frames, and where silence may be within the slack of them.
    spans = [np.round((np.array(t) - english.grid.edge_s(0)) / english.grid.hop_s) for t in ((0.1, 0.42), (0.42, 0.6))]
    spans.append(np.round((np.array((0.75, 0.9)) - english.grid.edge_s(0)) / english.grid.hop_s))
    word_of = [0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2]
    expected = [
        [spans[word][0] - slack <= frame < spans[word][1] + slack for frame in range(n_frames)] for word in word_of
    ]
    mask = _mask(one, n_frames)
    np.testing.assert_array_equal(mask[1:], expected)
    inside = np.array([[first + slack <= frame < end - slack for frame in range(n_frames)] for first, end in spans])
    # "well-known" is said as two: between these there may be silence, but the word neither begins nor ends with it.
    inside[1] &= [not spans[1][0] < frame < spans[1][1] - 1 for frame in range(n_frames)]
    np.testing.assert_array_equal(mask[0], ~inside.any(axis=0))


def test_words_of_one_phone_teach_the_same_as_their_phones(english, rng):
    """Where a word has one phone, times of words are times of phones."""
    bare = worded(rng, (0.1, 0.3, "a"), (0.3, 0.55, "I"), (0.7, 0.9, "oh"))
    told = _read(english, bare, None).labels
    assert len(told) == 3
    full = bare._replace(phones=tuple(Interval(w.start, w.end, p) for w, p in zip(bare.words, told, strict=True)))
    taps = [
        calibrate(english, [one], about="", methods={"mine": ["ctc"]}, confidences=False, steps=3)
        .calibrations["mine"]
        .weights.taps
        for one in (bare, full)
    ]
    np.testing.assert_array_equal(np.asarray(taps[0]), np.asarray(taps[1]))


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        (("“Hi,”", "she", "said."), "HH AY SH IY S EH D"),
        (("$20", "don't"), "T W EH N T IY D AA L ER Z D OW N T"),
        (("3", "km"), "TH R IY K AH L AA M AH T ER Z"),
    ],
)
def test_words_are_what_people_write(words, labels):
    transcript = _one_by_one(words)
    assert len(transcript.words) == len(words)
    assert sorted(set(transcript.word_of_label)) == list(range(len(words)))
    assert " ".join(transcript.labels) == labels


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (((0.1, 0.4, "the"), (0.5, 0.52, "cat")), r"3 phones of 'cat' at 0\.500 s in 2 frames"),
        (((0.1, 0.4, "the cat"), (0.5, 0.8, "sat")), r"'the cat', word 1, is not one word that can be pronounced"),
        (((0.1, 0.4, "the"), (0.5, 0.8, "***")), r"'\*\*\*', word 2, is not one word that can be pronounced"),
        (((0.1, 0.4, "the"), (0.5, 0.8, "<unk>")), r"'<unk>', word 2, is not one word that can be pronounced"),
        (((0.1, 0.4, "[laughter]"), (0.5, 0.8, "cat")), r"'\[laughter\]', word 1, is not one word"),
        (((0.1, 0.4, "the"), (0.5, 0.8, "SIL")), r"'SIL', word 2, is not one word that can be pronounced"),
        (((0.1, 0.4, "the"), (1.2, 1.4, "cat")), r"no frame is left for word cat at 1\.200 s: .* ends at 1\.000 s"),
    ],
)
def test_words_that_cannot_be_learnt_from_are_named(english, rng, words, message):
    with pytest.raises(AlignmentError, match=r"none of 1 utterances can be used: .*" + message):
        calibrate(english, [worded(rng, *words)], about="", methods={"mine": ["ctc"]})


def test_the_classifier_of_frames_is_not_learnt_from_words_alone(english, rng):
    bare, lines = worded(rng, (0.1, 0.4, "the"), (0.5, 0.8, "cat")), []
    options = {"methods": {"mine": ["ctc"]}, "confidences": False, "steps": 1, "report": lines.append}
    calibrate(english, [bare], framed=[bare], about="", **options)
    assert any("1 of 1 utterances left out" in line and "its phones have none" in line for line in lines)


def test_recordings_besides_teach_weights_but_not_confidence(tiny_bundle, rng):
    exact, uncertain, states = spoken(rng, 0.1), spoken(rng, 0.15), []
    methods = {"mine": ["ctc"]}
    done = calibrate(
        tiny_bundle, [exact], besides=[uncertain], about="", methods=methods, steps=5, status=states.append
    )
    both = calibrate(tiny_bundle, [exact, uncertain], about="", methods=methods, confidences=False, steps=5)
    alone = calibrate(tiny_bundle, [exact], about="", methods=methods, confidences=False, steps=5)
    taps = [np.asarray(found.calibrations["mine"].weights.taps) for found in (done, both, alone)]
    np.testing.assert_array_equal(taps[0], taps[1])
    assert np.abs(taps[0] - taps[2]).max() > 1e-4
    assert [state for state in states if "confidence" in state] == ["confidence: 1/1 utterances"]
    lost = exact._replace(words=(Interval(0.4, 0.45, "back"),))
    with pytest.raises(AlignmentError, match=r"none of 1 recordings besides can be used: .*phone B at 0\.100 s"):
        calibrate(tiny_bundle, [exact], besides=[lost], about="", methods=methods)
    late = spoken(rng, 0.25)._replace(samples=exact.samples[:7_200])  # ends where the last phone begins
    with pytest.raises(AlignmentError, match=r"no frame is left for phone K at 0\.450 s: the recording ends at 0\.450"):
        calibrate(tiny_bundle, [late], about="", methods=methods)


def test_only_times_of_recordings_besides_are_uncertain(tiny_bundle, rng, monkeypatch):
    exact, uncertain, slacks = spoken(rng, 0.1), spoken(rng, 0.15), []

    def told(path, topology, slack):
        slacks.append(slack)
        return true_mask(path, topology, slack)

    monkeypatch.setattr("gradalign.calibrate.true_mask", told)
    options = {"about": "", "methods": {"mine": ["ctc"]}, "confidences": False, "steps": 1}
    for within in (0.0, 0.001, 0.03, 0.04):
        calibrate(tiny_bundle, [exact], besides=[uncertain], within=within, **options)
    assert slacks == [0, 0, 0, 1, 0, 3, 0, 4]  # frames of 10 ms, rounded up
    with pytest.raises(ValueError, match=r"within to be a number of seconds from 0 to 1, got 2\.0"):
        calibrate(tiny_bundle, [exact], besides=[uncertain], within=2.0, **options)


def test_a_gradient_method_sees_nothing_of_the_ctc_head(tiny_bundle, rng):
    names = signal_names(tiny_bundle.network.config)
    together, seen = (
        Signals(rng.normal(size=(len(names), 2, 5)), rng.normal(size=(len(CUES), 5)), rng.normal(size=(2, 2)))
        for _ in range(2)
    )
    whole = AllSignals(together, seen)
    heads = picked(whole, ("ctc",), names)
    blank, salient = (slice(CUES.index(of[0]), CUES.index(of[-1]) + 1) for of in (OF_CTC, OF_GRADIENTS))
    np.testing.assert_allclose(heads.cues[: blank.stop], together.cues[: blank.stop], rtol=1e-6)
    assert not heads.cues[salient].any()
    part = picked(whole, ("attention-2", "gradient@stem"), names)
    np.testing.assert_allclose(part.scores[0], seen.scores[names.index("attention-2")], rtol=1e-6)
    assert not part.cues[blank].any()
    assert part.cues[: blank.start] == pytest.approx(seen.cues[: blank.start])
    assert part.cues[salient] == pytest.approx(seen.cues[salient])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(version=9), "version 9"),
        (lambda c: c["calibrations"]["x"]["weights"].pop("taps"), "taps"),
        (lambda c: c["calibrations"]["x"]["signals"].append("more"), "taps has shape"),
        (lambda c: c.update(network="other"), "learnt for parameters other, and those of this model are this"),
        (lambda c: c.clear(), "format"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, change, message):
    path = tmp_path / "calibration.json"
    save({"x": Calibration(("a", "b"), initial(2))}, path, about="x", network="this")
    found, about = load(path, network="this")
    assert (about, found["x"].signals) == ("x", ("a", "b"))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(FormatError, match=message):
        load(path, network="this")
    with pytest.raises(FormatError, match="no calibration"):
        load(tmp_path / "none.json", network="this")


def test_a_calibration_goes_with_its_parameters_alone(tiny_bundle, tmp_path):
    learnt = {"calibrated-ctc": Calibration(("ctc",), initial(1))}
    bundles.save(dataclasses.replace(tiny_bundle, calibrations=learnt), tmp_path / "full")
    # Kept in half precision the parameters are the same.
    bundles.save(bundles.load(tmp_path / "full"), tmp_path / "half", dtype=np.float16)
    assert set(bundles.load(tmp_path / "half").calibrations) == set(learnt)
    assert bundles.load(tmp_path / "half", calibration=tmp_path / "full" / "calibration.json").calibrations
    assert bundles.load(tmp_path / "half", precision="bfloat16").calibrations
    # Parameters saved again without it keep what was learnt for them.
    bundles.save(bundles.load(tmp_path / "half", calibrated=False), tmp_path / "half", dtype=np.float16)
    assert bundles.load(tmp_path / "half").calibrations
    mine = tmp_path / "mine.json"
    mine.write_bytes((tmp_path / "full" / "calibration.json").read_bytes())
    other = AED(tiny_bundle.network.config, rngs=nnx.Rngs(9))
    bundles.save(dataclasses.replace(tiny_bundle, network=other, calibrations={}), tmp_path / "full")
    assert bundles.load(tmp_path / "full").calibrations == {}  # the file of before went with its parameters
    with pytest.raises(FormatError, match="learnt for parameters"):
        bundles.load(tmp_path / "full", calibration=mine)
    mine.rename(tmp_path / "full" / "calibration.json")
    with pytest.raises(FormatError, match="learnt for parameters"):
        bundles.load(tmp_path / "full")
    assert bundles.load(tmp_path / "full", calibrated=False).calibrations == {}
    with pytest.raises(ValueError, match="goes with calibrated=True"):
        bundles.load(tmp_path / "full", calibrated=False, calibration=mine)


def test_a_saved_model_without_calibration_has_none(tiny_bundle, tmp_path):
    bundles.save(dataclasses.replace(tiny_bundle, calibrations={}), tmp_path / "plain")
    assert bundles.load(tmp_path / "plain").calibrations == {}
