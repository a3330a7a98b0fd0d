"""Saliency from windows: exact where windows leave nothing out, honest about what they miss where they do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradalign.compressed import coarse_alignment, exact_saliency, windowed_saliency, worthwhile
from gradalign.gradients import saliency
from gradalign.nn.windowed import Windows, decoder_cotangents, encoder_cotangents, teacher_forced

N_FRAMES, N_LABELS = 61, 5


@pytest.fixture(scope="module")
def utterance():
    rng = np.random.default_rng(3)
    features = -10.0 + 4.5 * rng.normal(size=(80, 20))
    labels = np.zeros(8, np.int32)
    labels[:N_LABELS] = (1, 3, 2, 2, 1)
    return jnp.asarray(features, jnp.float32), jnp.asarray(labels)


@pytest.fixture(scope="module")
def exact(tiny_bundle, utterance):
    features, labels = utterance
    return np.asarray(saliency(lambda x: tiny_bundle.network.label_log_probs(x, labels, N_FRAMES), features))


def _found(bundle, utterance, **options):
    features, labels = utterance
    return jax.jit(lambda x: windowed_saliency(bundle.network, x, labels, N_FRAMES, **options))(features)


@pytest.mark.parametrize("chunk", [2, 3, 16])
def test_windows_as_long_as_the_utterance_are_exact(tiny_bundle, utterance, exact, chunk):
    found = _found(tiny_bundle, utterance, width=20, history=8, chunk=chunk)
    scale = exact[:N_LABELS].max()
    np.testing.assert_allclose(found.fine[0][:N_LABELS], exact[:N_LABELS], atol=1e-5 * scale)
    assert float(found.missed) < 1e-6


def test_mixed_precision_moves_gradients_in_windows_by_rounding_alone(tiny_bundle, utterance, exact, monkeypatch):
    full = _found(tiny_bundle, utterance, width=20, history=8).fine[0]
    monkeypatch.setattr(tiny_bundle.network, "windows_in", "bfloat16")
    half = _found(tiny_bundle, utterance, width=20, history=8)
    assert half.fine.dtype == jnp.float32
    rounding = np.abs(half.fine[0] - full)[:N_LABELS].max() / exact[:N_LABELS].max()
    assert 1e-6 < rounding < 2e-2
    assert float(half.missed) < 1e-3


@pytest.mark.parametrize(
    ("reduce", "depth", "budget"), [("l2", -1, 1 << 28), ("l1", 0, 1), ("grad_x_input", -1, 60_000)]
)
def test_the_exact_way_is_the_plain_one_whatever_the_budget(tiny_bundle, utterance, reduce, depth, budget):
    features, labels = utterance
    network = tiny_bundle.network
    leaf = network.to_depth(features, depth, N_FRAMES)

    def plain(x):
        return saliency(lambda y: network.label_log_probs(y, labels, N_FRAMES, depth=depth), x, reduce=reduce)

    expected = np.asarray(jax.jit(plain)(leaf))[:N_LABELS]
    found = jax.jit(
        lambda x: exact_saliency(network, x, labels, N_FRAMES, depth=depth, reduce=reduce, budget_bytes=budget)
    )(features)
    np.testing.assert_allclose(found[:N_LABELS], expected, atol=1e-5 * expected.max())


def test_deeper_leaves_are_exact_too(tiny_bundle, utterance):
    features, labels = utterance
    for depth in (0, 1):
        leaf = tiny_bundle.network.to_depth(features, depth, N_FRAMES)

        def score(x, depth=depth):
            return tiny_bundle.network.label_log_probs(x, labels, N_FRAMES, depth=depth)

        exact = np.asarray(saliency(score, leaf))[:N_LABELS]
        found = _found(tiny_bundle, utterance, width=20, history=8, depths=(depth,))
        np.testing.assert_allclose(found.coarse[0][:N_LABELS], exact, atol=1e-5 * exact.max())


def test_all_leaves_together_are_each_alone(tiny_bundle, utterance):
    together = _found(tiny_bundle, utterance, width=9, depths=(-1, 0, 1, 2), bands=3)
    alone = _found(tiny_bundle, utterance, width=9)
    assert (together.fine.shape, together.coarse.shape) == ((1 + 3, 8, 80), (3, 8, 20))
    assert (len(alone.fine), len(alone.coarse)) == (1, 0)
    np.testing.assert_allclose(together.fine[0][:N_LABELS], alone.fine[0][:N_LABELS], rtol=1e-3)
    # What stands in for the rest depends on the lowest leaf, what is in the windows does not.
    start = np.clip(np.asarray(together.centres)[:N_LABELS, None] - 4, 0, 16 - 9)
    inside = (np.arange(20) >= start) & (np.arange(20) < start + 9)
    for depth in (0, 1, 2):
        alone = _found(tiny_bundle, utterance, width=9, depths=(depth,))
        assert (len(alone.fine), len(alone.coarse)) == (0, 1)
        one, of_all = (np.asarray(found)[:N_LABELS] for found in (alone.coarse[0], together.coarse[depth]))
        np.testing.assert_allclose(of_all[inside], one[inside], atol=1e-5 * one.max())


@pytest.mark.parametrize("bands", [1, 3, 4])
def test_bands_are_parts_of_the_features(tiny_bundle, utterance, bands):
    """Of 20: three parts are not of one size."""
    features, labels = utterance
    network = tiny_bundle.network
    jacobian = np.asarray(jax.jacrev(lambda x: network.label_log_probs(x, labels, N_FRAMES))(features))[:N_LABELS]
    found = _found(tiny_bundle, utterance, width=20, history=8, bands=bands)
    parts = [jacobian, *np.array_split(jacobian, bands, axis=2)]
    for row, part in zip(found.fine, parts, strict=True):
        exact = np.linalg.norm(part, axis=2)
        np.testing.assert_allclose(row[:N_LABELS], exact, atol=1e-5 * exact.max())


def test_what_is_missed_is_what_the_exact_gradients_have_more(tiny_bundle, utterance):
    """Hutchinson's estimate, averaged over many probes, against the exact residual."""
    features, labels = utterance
    network = tiny_bundle.network
    jacobian = np.asarray(jax.jacrev(lambda x: network.label_log_probs(x, labels, N_FRAMES))(features))[:N_LABELS]
    found = _found(tiny_bundle, utterance, width=7, probes=256)
    kept = teacher_forced(network, features, labels, N_FRAMES)
    starts = jnp.clip(found.centres[:N_LABELS] - 3, 0, 16 - 7)
    cotangents = decoder_cotangents(network, kept, jnp.arange(N_LABELS), Windows(starts, 7))
    windowed = np.asarray(encoder_cotangents(network, kept, cotangents, Windows(starts, 7)).features)
    strength = np.sqrt(np.square(windowed).sum((1, 2)))
    missed = 0.0
    for label, start in enumerate(np.asarray(starts)):
        whole = np.zeros((83 + 3, 20))
        whole[4 * start : 4 * start + 31] = windowed[label]
        scale = max(strength[label], np.median(strength))
        missed += np.square((jacobian[label] - whole[3:83]) / scale).sum()
    assert float(found.missed) == pytest.approx(missed / N_LABELS, rel=0.2)


def test_padding_changes_nothing(tiny_bundle, utterance):
    features, labels = utterance
    short = _found(tiny_bundle, (features[:64], labels[:N_LABELS]), width=9)
    long = _found(tiny_bundle, utterance, width=9)
    scale = float(short.fine[0].max())
    np.testing.assert_allclose(short.fine[0][:, :N_FRAMES], long.fine[0][:N_LABELS, :N_FRAMES], atol=1e-5 * scale)
    assert float(short.missed) == pytest.approx(float(long.missed), rel=1e-4)
    np.testing.assert_array_equal(short.centres, long.centres[:N_LABELS])


def test_a_batch_is_its_utterances_one_by_one(tiny_bundle, utterance):
    features, labels = utterance

    def run(x, n):
        return windowed_saliency(tiny_bundle.network, x, labels, n, width=9)

    together = jax.jit(jax.vmap(run))(jnp.stack([features, features[::-1]]), jnp.asarray([N_FRAMES, 44]))
    alone = jax.jit(run)(features[::-1], 44)
    np.testing.assert_allclose(
        together.fine[1, 0, :N_LABELS], alone.fine[0][:N_LABELS], atol=1e-4 * float(alone.fine[0].max())
    )


def test_more_labels_than_the_coarse_alignment_has_frames_are_not_sure(tiny_bundle):
    features = jnp.full((8, 20), -10.0)
    found = windowed_saliency(tiny_bundle.network, features, jnp.asarray([1, 1, 1, 1]), 8, width=2)
    assert np.isinf(found.missed)


def test_the_coarse_alignment_keeps_the_order(tiny_bundle, utterance):
    features, labels = utterance
    kept = teacher_forced(tiny_bundle.network, features, labels, N_FRAMES)
    centres, found = coarse_alignment(tiny_bundle.network, kept.encoded, labels, N_FRAMES)
    assert bool(found)
    assert np.all(np.diff(np.asarray(centres)[:N_LABELS]) >= 0)
    assert np.all(np.asarray(centres)[:N_LABELS] < 16)


def test_few_labels_are_cheaper_exact():
    assert not worthwhile(1, 250)
    assert worthwhile(100, 250)
    assert not worthwhile(30, 7)
