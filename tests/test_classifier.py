"""The classifier of frames: against scikit-learn, its condition of optimality, and where its answers end up."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from gradalign import readout
from gradalign.alignment import Interval
from gradalign.calibrate import METHODS, TimedUtterance, calibrate
from gradalign.calibration import Calibration, initial, load, save
from gradalign.classifier import Classifier, block_of, learn, log_probs, name_of
from gradalign.errors import AlignmentError, FormatError
from gradalign.features import log_mel_padded
from gradalign.readout import AllSignals, middle_states, names_of, picked, read_all, read_signals
from gradalign.signals import CUES, LEAST, depth_of, family, signal_names

FACTOR, DIM, SYMBOLS, DECAY = 4, 6, 5, 1e-2


def random_classifier(rng: np.random.Generator, dim: int = DIM, symbols: int = SYMBOLS) -> Classifier:
    return Classifier(rng.normal(size=(dim, symbols)).astype(np.float32), rng.normal(size=symbols).astype(np.float32))


def between(states: np.ndarray, n_frames: int) -> np.ndarray:
    """States at each frame, by numpy's interpolation."""
    centres = FACTOR * np.arange(len(states))
    return np.stack([np.interp(np.arange(n_frames), centres, column) for column in states.T], axis=1)


def test_logits_are_interpolated_between_frames_of_the_encoder(rng):
    classifier, states = random_classifier(rng), rng.normal(size=(7, DIM))
    expected = log_softmax(between(states, 26) @ classifier.weights + classifier.bias, axis=1)
    found = log_probs(classifier, states, FACTOR, 26)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def examples(rng: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Symbols drawn from a planted classifier."""
    planted = random_classifier(rng)
    states = [rng.normal(size=(n, DIM)) for n in (60, 90)]
    symbols = []
    for one in states:
        logits = between(one, FACTOR * len(one) - 2) @ planted.weights + planted.bias
        symbols.append(np.array([rng.choice(SYMBOLS, p=np.exp(row)) for row in log_softmax(logits, axis=1)]))
    return states, symbols


def test_what_is_learnt_is_what_scikit_learn_learns(rng):
    linear_model = pytest.importorskip("sklearn.linear_model")
    states, symbols = examples(rng)
    heard = []
    found = learn(states, symbols, SYMBOLS, factor=FACTOR, decay=DECAY, report=lambda step, value: heard.append(value))
    assert heard[-1] < heard[0]
    seen = np.concatenate([between(s, len(t)) for s, t in zip(states, symbols, strict=True)])
    true = np.concatenate(symbols)
    # Its penalty is half the squared weights, against C times the summed loss.
    peer = linear_model.LogisticRegression(C=1 / (2 * DECAY * len(true)), max_iter=1000, tol=1e-8).fit(seen, true)
    ours = log_softmax(seen @ found.weights + found.bias, axis=1)
    np.testing.assert_allclose(ours, peer.predict_log_proba(seen), atol=0.01)


def test_a_symbol_that_never_occurs_is_improbable(rng):
    states, symbols = examples(rng)
    found = learn(states, [np.minimum(s, SYMBOLS - 2) for s in symbols], SYMBOLS, factor=FACTOR)
    assert log_softmax(between(states[0], 50) @ found.weights + found.bias, axis=1)[:, -1].max() < -5


@pytest.fixture
def classifier(tiny_bundle, rng) -> Classifier:
    return random_classifier(rng, tiny_bundle.network.config.dim, len(tiny_bundle.labels) + 1)


@pytest.fixture
def features(tiny_bundle, rng) -> np.ndarray:
    return rng.normal(size=(83, tiny_bundle.features.n_mels)).astype(np.float32)


def test_it_is_one_of_the_signals(tiny_bundle, classifier, features):
    labels = tiny_bundle.labels[:3]
    config = tiny_bundle.network.config
    found = log_probs(classifier, middle_states(tiny_bundle, features), FACTOR, len(features))
    states = np.asarray(tiny_bundle.network.to_depth(jnp.asarray(features), block_of(config)))
    np.testing.assert_allclose(middle_states(tiny_bundle, features), states, atol=1e-5)
    expected = log_softmax(between(states, len(features)) @ classifier.weights + classifier.bias, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-4)

    whole = read_signals(tiny_bundle, features, labels, classifier=classifier)
    bare = read_signals(tiny_bundle, features, labels)
    names = names_of(config, classifier)
    assert names == (*signal_names(config), name_of(config))
    assert depth_of(names[-1], config.encoder_layers) == block_of(config)
    np.testing.assert_allclose(whole.scores[-1], np.maximum(found, LEAST)[:, tiny_bundle.ids(labels)].T, atol=1e-6)
    np.testing.assert_allclose(whole.scores[:-1], bare.scores, atol=1e-6)
    at = CUES.index("no-phone")
    np.testing.assert_allclose(whole.cues[at], np.maximum(found[:, 0], LEAST), atol=1e-6)
    assert not bare.cues[at].any()

    turned = read_signals(tiny_bundle, features, labels, (names[-1], "ctc"), classifier=classifier)
    np.testing.assert_allclose(turned.scores[0], whole.scores[-1], atol=1e-6)
    np.testing.assert_allclose(turned.scores[1], whole.scores[names.index("ctc")], atol=1e-5)
    part = picked(AllSignals(whole, whole), ("ctc",), names)
    assert not part.cues[at].any()  # a method without the classifier knows nothing of it
    assert picked(AllSignals(whole, whole), ("ctc", names[-1]), names).cues[at].any()


def test_a_classifier_that_is_missing_or_of_another_model_is_refused(tiny_bundle, classifier, features):
    names = ("ctc", name_of(tiny_bundle.network.config))
    with pytest.raises(AlignmentError, match=r"expected a classifier .* got none"):
        read_signals(tiny_bundle, features, tiny_bundle.labels[:2], names)
    other = Classifier(classifier.weights[1:], classifier.bias)
    with pytest.raises(AlignmentError, match="calibrate the model anew"):
        read_signals(tiny_bundle, features, tiny_bundle.labels[:2], names, classifier=other)


def test_it_is_kept_with_the_calibration(tmp_path, classifier):
    path = tmp_path / "calibration.json"
    save(
        {"calibrated": Calibration(("ctc", "classifier@block-1"), initial(2), (), classifier)},
        path,
        about="x",
        network="n",
    )
    found = load(path, network="n")[0]["calibrated"].classifier
    assert found is not None
    np.testing.assert_allclose(found.weights, classifier.weights, atol=1e-5)
    np.testing.assert_allclose(found.bias, classifier.bias, atol=1e-5)
    save({"calibrated": Calibration(("ctc", "classifier@block-1"), initial(2))}, path, about="x", network="n")
    with pytest.raises(FormatError, match="neither without the other"):
        load(path, network="n")
    broken = Classifier(classifier.weights, classifier.bias[1:])
    save(
        {"calibrated": Calibration(("ctc", "classifier@block-1"), initial(2), (), broken)}, path, about="x", network="n"
    )
    with pytest.raises(FormatError, match="classifier has shapes"):
        load(path, network="n")


def spoken(samples: np.ndarray, word: str = "back", labels: tuple[str, ...] = ("B", "A", "K")) -> TimedUtterance:
    phones = tuple(Interval(0.103 + 0.1 * n, 0.203 + 0.1 * n, label) for n, label in enumerate(labels))
    return TimedUtterance(samples, word, phones, (Interval(0.103, 0.403, word),))


def test_calibrating_learns_it_from_other_speech_or_keeps_the_one_there_is(tiny_bundle, rng, monkeypatch):
    timed, framed = spoken(0.1 * rng.normal(size=8_000)), spoken(0.1 * rng.normal(size=9_000), "cab", ("K", "A", "B"))
    silent = framed._replace(words=(*framed.words, Interval(0.403, 0.5, "back")))  # a word without phones
    lines = []
    bare = calibrate(tiny_bundle, [timed], about="one", framed=[framed], steps=2, report=lines.append)
    assert bare.calibrations["calibrated"].classifier is None  # too little to learn it from
    assert any("no classifier of frames" in line for line in lines)

    monkeypatch.setattr("gradalign.calibrate.FEWEST", 1)
    done = calibrate(tiny_bundle, [timed], about="one", framed=[framed, silent], steps=2, report=lines.append)
    own = done.calibrations["calibrated"].classifier
    assert own is not None
    assert done.calibrated_on == "one; the classifier of frames on 1 others"
    assert any("frames: 1 of 2 utterances left out" in line and "no phone lies in the word" in line for line in lines)
    features = log_mel_padded(framed.samples.astype(np.float32), tiny_bundle.features)
    at = (np.arange(len(features)) + 0.5) * 0.01 + tiny_bundle.grid.edge_s(0)
    ids = dict(zip(("K", "A", "B"), tiny_bundle.ids(("K", "A", "B")), strict=True))
    true = [next((ids[p.label] for p in framed.phones if p.start <= t < p.end), 0) for t in at]
    states = [middle_states(tiny_bundle, features)]
    again = learn(states, [np.array(true, np.int32)], len(tiny_bundle.labels) + 1, factor=4)
    np.testing.assert_allclose(own.weights, again.weights, atol=1e-3)

    assert done.calibrations["calibrated"].signals[-1] == name_of(tiny_bundle.network.config)
    for method in ("calibrated-gradient", "calibrated-attention", "calibrated-ctc"):
        assert done.calibrations[method].classifier is None
    kept = calibrate(done, [timed], about="one", steps=2)
    assert kept.calibrations["calibrated"].classifier is own
    assert kept.calibrated_on == "one; the classifier of frames as it was"


def test_a_long_recording_is_classified_as_a_whole(tiny_bundle, classifier, rng, monkeypatch):
    monkeypatch.setattr(readout, "LONGEST_S", 0.9)
    features = rng.normal(size=(120, tiny_bundle.features.n_mels)).astype(np.float32)
    labels = (tiny_bundle.labels * 40)[:6]
    config = tiny_bundle.network.config
    seen = read_all(tiny_bundle, features, labels, classifier)
    expected = np.maximum(log_probs(classifier, middle_states(tiny_bundle, features), FACTOR, 120), LEAST)
    names = names_of(config, classifier)
    for families in METHODS.values():
        chosen = tuple(name for name in names if family(name) in families)
        part = picked(seen, chosen, names)
        assert part.scores.shape == (len(chosen), 6, 120)
        if "classifier" in families:
            np.testing.assert_allclose(part.scores[-1], expected[:, tiny_bundle.ids(labels)].T, atol=1e-5)
            np.testing.assert_allclose(part.cues[CUES.index("no-phone")], expected[:, 0], atol=1e-5)
