"""Signals: each equals what the plain method sees, padding changes nothing, and one family needs no other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradalign.evidence import log_saliency, upsample
from gradalign.plain import gradient_saliency
from gradalign.readout import read_signals
from gradalign.signals import (
    AROUND,
    BANDS,
    CUES,
    FAMILIES,
    IN_SPEECH,
    LEAST,
    LEAST_SALIENT,
    OF_CTC,
    OF_GRADIENTS,
    chosen,
    family,
    signal_names,
    signals,
)

LABELS = ("A", "B", "K", "A")
N_FRAMES = 42


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(N_FRAMES, 20)).astype(np.float32)


@pytest.fixture(scope="module")
def seen(tiny_bundle, features):
    return read_signals(tiny_bundle, features, LABELS, exact=True)


@pytest.fixture(scope="module")
def names(tiny_bundle):
    return signal_names(tiny_bundle.network.config)


def test_names_are_those_of_the_rows(seen, names):
    assert names == (
        "gradient@features",
        "gradient@stem",
        "gradient@block-1",
        "gradient@block-2",
        *(f"gradient@features/{b + 1}" for b in range(BANDS)),
        "attention-1",
        "attention-2",
        "ctc",
    )
    assert seen.scores.shape == (len(names), len(LABELS), N_FRAMES)
    assert seen.cues.shape == (len(CUES), N_FRAMES)
    assert {family(name) for name in names} == set(FAMILIES)


@pytest.mark.parametrize("leaf", ["features", "stem", "block-1", "block-2"])
def test_gradients_are_those_of_the_plain_method(tiny_bundle, features, seen, names, leaf):
    plain = gradient_saliency(tiny_bundle, features, tiny_bundle.ids(LABELS), leaf=leaf)
    expected = log_saliency(jnp.asarray(plain))
    if leaf != "features":
        expected = upsample(expected, 4, N_FRAMES)
    expected = expected - expected.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(seen.scores[names.index(f"gradient@{leaf}")], expected, atol=2e-3)


def test_the_energy_of_bands_is_that_of_all_of_them(tiny_bundle, features):
    def norms(network, x, labels):
        return jax.jacrev(lambda y: network.label_log_probs(y, labels))(x)

    gradient = np.asarray(norms(tiny_bundle.network, jnp.asarray(features), jnp.asarray(tiny_bundle.ids(LABELS))))
    found = read_signals(tiny_bundle, features, LABELS, exact=True)
    order = signal_names(tiny_bundle.network.config)
    for b, part in enumerate(np.array_split(gradient, BANDS, axis=2)):
        expected = np.log(np.linalg.norm(part, axis=2))
        row = found.scores[order.index(f"gradient@features/{b + 1}")]
        np.testing.assert_allclose(row, expected - expected.mean(axis=1, keepdims=True), atol=2e-3)


def test_ctc_attention_and_sureness(tiny_bundle, features, seen, names):
    network, ids = tiny_bundle.network, jnp.asarray(tiny_bundle.ids(LABELS))
    inside = network.intermediates(jnp.asarray(features), ids)
    coarse = seen.scores[names.index("ctc")][:, ::4]
    np.testing.assert_allclose(coarse, np.maximum(inside.ctc_log_probs[:, ids].T, LEAST), atol=1e-4)
    weights = np.log(inside.cross_attention[1].mean(0))
    fine = np.asarray(upsample(jnp.asarray(weights), 4, N_FRAMES))
    found = seen.scores[names.index("attention-2")]
    np.testing.assert_allclose(found, fine - fine.mean(axis=1, keepdims=True), atol=1e-3)
    log_probs = np.asarray(inside.log_probs)
    np.testing.assert_allclose(seen.sure[:, 0], log_probs[np.arange(4), ids], atol=1e-4)
    np.testing.assert_allclose(seen.sure[:, 1], (np.exp(log_probs) * log_probs).sum(1), atol=1e-4)


def test_salient_frames_are_those_that_the_labels_gradients_lie_in(tiny_bundle, features, seen):
    sizes = gradient_saliency(tiny_bundle, features, tiny_bundle.ids(LABELS), leaf="encoder")
    between = np.array([np.interp(np.arange(N_FRAMES) / 4, np.arange(len(row)), np.log(row)) for row in sizes])
    share = np.exp(between) / np.exp(between).sum(1, keepdims=True)
    labels_a_frame = share.sum(0)
    assert labels_a_frame.sum() == pytest.approx(len(LABELS), rel=1e-5)
    log, around = (seen.cues[CUES.index(name)] for name in OF_GRADIENTS)
    np.testing.assert_allclose(log, np.maximum(np.log(labels_a_frame / IN_SPEECH), LEAST_SALIENT), atol=1e-3)
    most = [labels_a_frame[max(t - AROUND, 0) : t + AROUND + 1].max() for t in range(N_FRAMES)]
    np.testing.assert_allclose(around, np.exp(-np.array(most) / IN_SPEECH), atol=1e-3)


def test_windows_as_long_as_the_recording_see_what_whole_gradients_do(tiny_bundle, features, seen, monkeypatch):
    from gradalign import signals as module

    whole = partial(module.windowed_saliency, history=len(LABELS))
    monkeypatch.setattr(module, "windowed_saliency", whole)
    ids = jnp.asarray(tiny_bundle.ids(LABELS))
    found = jax.jit(lambda x: signals(tiny_bundle.network, x, ids, width=11))(jnp.asarray(features))
    np.testing.assert_allclose(found.scores, seen.scores, atol=5e-3)
    np.testing.assert_allclose(found.sure, seen.sure, atol=1e-4)
    np.testing.assert_allclose(found.cues, seen.cues, atol=1e-4)
    assert float(found.missed) < 1e-5


def test_mixed_precision_is_for_windows_alone(tiny_bundle, features, seen, names, monkeypatch):
    monkeypatch.setattr("gradalign.readout.UNSURE", np.inf)
    monkeypatch.setattr("gradalign.readout.worthwhile", lambda *_: True)
    full = read_signals(tiny_bundle, features, LABELS)
    monkeypatch.setattr(tiny_bundle.network, "windows_in", "bfloat16")
    half = read_signals(tiny_bundle, features, LABELS)
    for name, before, after in zip(names, full.scores, half.scores, strict=True):
        changes = family(name) == "gradient"
        assert np.array_equal(before, after) != changes, name
    np.testing.assert_array_equal(read_signals(tiny_bundle, features, LABELS, exact=True).scores, seen.scores)


def test_padding_changes_nothing(tiny_bundle, features):
    network, ids = tiny_bundle.network, jnp.asarray(tiny_bundle.ids(LABELS))
    plain = jax.jit(lambda x, ids: signals(network, x, ids))(features, ids)
    padded = jax.jit(lambda x, ids: signals(network, x, ids, N_FRAMES, chunk=3))(
        jnp.pad(features, ((0, 22), (0, 0))), jnp.pad(ids, (0, 3))
    )
    np.testing.assert_allclose(padded.scores[:, :4, :N_FRAMES], plain.scores, atol=2e-3)
    np.testing.assert_allclose(padded.cues[:, :N_FRAMES], plain.cues, atol=1e-4)
    np.testing.assert_allclose(padded.sure[:4], plain.sure, atol=1e-4)
    assert not np.asarray(padded.scores[:, :, N_FRAMES:]).any()
    assert not np.asarray(padded.cues[:, N_FRAMES:]).any()


def test_a_part_is_what_the_whole_holds(tiny_bundle, features, seen, names):
    wanted = ("attention-2", "attention-1")
    network, ids = tiny_bundle.network, jnp.asarray(tiny_bundle.ids(LABELS))
    part = chosen(network, jnp.asarray(features), ids, names=wanted)
    np.testing.assert_allclose(part.scores, seen.scores[[names.index(name) for name in wanted]], atol=1e-3)
    # Nothing is taken from the CTC head, nor from gradients.
    assert not np.asarray(part.cues)[[CUES.index(name) for name in OF_CTC + OF_GRADIENTS]].any()
    with pytest.raises(ValueError, match=r"no signal gradient@block-9; it has gradient@features"):
        chosen(network, jnp.asarray(features), ids, names=("gradient@block-9",))


def test_loudness_changes_no_cue(tiny_bundle, features):
    louder = read_signals(tiny_bundle, features + 3.0, LABELS)
    np.testing.assert_allclose(
        louder.cues[: CUES.index("blank")],
        read_signals(tiny_bundle, features, LABELS).cues[: CUES.index("blank")],
        atol=1e-4,
    )
