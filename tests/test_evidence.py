"""Evidence: every transform against NumPy, padding, and independence of length and gain."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from gradalign import evidence
from gradalign.lattice import Topology, forward_backward, viterbi

# Compiling each function whole is several times faster than compiling its operations one by one.
log_saliency = jax.jit(evidence.log_saliency)
silence_score = jax.jit(evidence.silence_score, static_argnames=("kind", "percentile", "kappa"))
upsample = jax.jit(evidence.upsample, static_argnums=(1, 2))


def random_saliency(rng, n_labels=4, n_frames=11):
    return jnp.asarray(rng.gamma(1.0, size=(n_labels, n_frames)), jnp.float32)


def grown(matrix, n_labels, n_frames, fill=7.0):
    """The matrix in the corner of a larger one."""
    return jnp.full((n_labels, n_frames), fill).at[: matrix.shape[0], : matrix.shape[1]].set(matrix)


def test_log_saliency_is_a_log_distribution_over_frames(rng):
    raw = random_saliency(rng)
    found = log_saliency(raw)
    np.testing.assert_allclose(jnp.exp(found).sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(found, np.log(raw / np.sum(raw, axis=1, keepdims=True)), atol=1e-5)


def test_log_saliency_does_not_see_the_gain_of_a_label(rng):
    raw = random_saliency(rng)
    gain = jnp.array([1e-30, 1e-3, 1.0, 1e9])[:, None]
    np.testing.assert_allclose(log_saliency(gain * raw), log_saliency(raw), atol=2e-5)


def test_log_saliency_is_uniform_for_a_label_without_gradient(rng):
    raw = random_saliency(rng).at[2].set(0.0)
    np.testing.assert_allclose(log_saliency(raw)[2], -np.log(11), atol=1e-5)


def test_log_saliency_has_a_floor_and_a_finite_gradient_at_zero(rng):
    raw = random_saliency(rng).at[:, 3].set(0.0).at[1].set(0.0)
    found = log_saliency(raw)
    np.testing.assert_allclose(found[0].max() - found[0, 3], -np.log(1e-6), rtol=1e-5)
    weights = jnp.cos(jnp.arange(44.0)).reshape(4, 11)
    assert np.all(np.isfinite(jax.grad(lambda g: (weights * log_saliency(g)).sum())(raw)))


@pytest.mark.parametrize("percentile", [0.0, 37.0, 80.0, 100.0])
def test_flipped_silence_mirrors_mean_evidence_at_its_percentile(rng, percentile):
    scores = log_saliency(random_saliency(rng))
    mean = np.mean(np.asarray(scores, np.float64), axis=0)
    expected = 2 * np.percentile(mean, percentile) - mean
    np.testing.assert_allclose(silence_score(scores, percentile=percentile), expected, rtol=1e-5)


def test_zscore_silence_is_mean_plus_kappa_deviations(rng):
    scores = np.asarray(log_saliency(random_saliency(rng)))
    found = silence_score(jnp.asarray(scores), kind="zscore", kappa=2.0)
    np.testing.assert_allclose(found, scores.mean(axis=0) + 2 * scores.std(axis=0), rtol=1e-5)


@pytest.mark.parametrize("kind", ["flipped", "zscore"])
def test_silence_has_a_finite_gradient_with_one_label(rng, kind):
    scores = log_saliency(random_saliency(rng, n_labels=1))
    assert np.all(np.isfinite(jax.grad(lambda s: silence_score(s, kind=kind).sum())(scores)))


@pytest.mark.parametrize("kind", ["flipped", "zscore"])
@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_a_finer_frame_rate_leaves_labels_against_silence_as_they_were(rng, kind, repeats):
    """With 11 frames the 80th percentile is the ninth value, and stays it when every value is repeated."""
    raw = random_saliency(rng)

    @jax.jit
    def contrast(saliency):
        scores = log_saliency(saliency)
        return scores - silence_score(scores, kind=kind, percentile=80.0)[None, :]

    finer = contrast(jnp.repeat(raw, repeats, axis=1))
    np.testing.assert_allclose(finer, jnp.repeat(contrast(raw), repeats, axis=1), atol=2e-5)


@pytest.mark.parametrize("kind", ["flipped", "zscore"])
def test_more_audio_of_the_same_statistics_leaves_labels_against_silence_as_they_were(rng, kind):
    raw = random_saliency(rng)

    @jax.jit
    def contrast(saliency):
        scores = log_saliency(saliency)
        return scores - silence_score(scores, kind=kind, percentile=80.0)[None, :]

    np.testing.assert_allclose(contrast(jnp.tile(raw, (1, 3))), jnp.tile(contrast(raw), (1, 3)), atol=2e-5)


def test_normalise_gives_probabilities_and_changes_neither_path_nor_posteriors(rng):
    scores = log_saliency(random_saliency(rng))
    silence = silence_score(scores)
    normal, normal_silence = evidence.normalise(scores, silence)
    np.testing.assert_allclose(jnp.exp(normal).sum(axis=0) + jnp.exp(normal_silence), 1.0, rtol=1e-5)
    topology = Topology.free(4)
    best, spread = jax.jit(viterbi), jax.jit(forward_backward)
    np.testing.assert_array_equal(best(scores, silence, topology).labels, best(normal, normal_silence, topology).labels)
    before, after = spread(scores, silence, topology), spread(normal, normal_silence, topology)
    np.testing.assert_allclose(before.labels, after.labels, atol=1e-5)


@pytest.mark.parametrize("kind", ["flipped", "zscore"])
def test_padding_changes_no_evidence(rng, kind):
    def chain(raw, n_labels=None, n_frames=None):
        scores = log_saliency(raw, n_frames=n_frames)
        silence = silence_score(scores, kind=kind, n_labels=n_labels, n_frames=n_frames)
        return evidence.normalise(scores, silence, n_labels=n_labels)

    raw = random_saliency(rng)
    scores, silence = chain(raw)
    padded_scores, padded_silence = jax.jit(chain)(grown(raw, 6, 16), jnp.array(4), jnp.array(11))
    np.testing.assert_allclose(padded_scores[:4, :11], scores, atol=1e-5)
    np.testing.assert_allclose(padded_silence[:11], silence, atol=1e-5)
    assert np.all(np.isfinite(padded_scores))
    assert np.all(np.isfinite(padded_silence))


def test_attention_scores_are_logs_with_a_floor_and_ignore_padding():
    attention = jnp.array([[0.5, 0.5, 0.0, 9.0]])
    floor = np.log(0.5e-6)
    found = evidence.attention_scores(attention, n_frames=3)
    np.testing.assert_allclose(found, [[np.log(0.5), np.log(0.5), floor, 0.0]], rtol=1e-5)


def test_attention_warping_finds_a_planted_monotone_path(rng):
    planted = np.array([0, 0, 0, 1, 2, 2, 2, 2, 3, 3, 3])
    energies = 0.3 * rng.normal(size=(4, 11)) + 4.0 * (planted[None, :] == np.arange(4)[:, None])
    attention = jax.nn.softmax(jnp.asarray(energies, jnp.float32), axis=1)
    path = jax.jit(viterbi)(evidence.attention_scores(attention), jnp.zeros(11), Topology.no_silence(4))
    np.testing.assert_array_equal(path.labels, planted)


def test_ctc_scores_pick_the_labels_and_the_blank(rng):
    log_probs = jnp.asarray(rng.normal(size=(5, 4)), jnp.float32)
    scores, silence = evidence.ctc_scores(log_probs, jnp.array([3, 1, 1]), blank=2)
    np.testing.assert_array_equal(scores, np.asarray(log_probs)[:, [3, 1, 1]].T)
    np.testing.assert_array_equal(silence, np.asarray(log_probs)[:, 2])


@pytest.mark.parametrize(("factor", "n_frames"), [(1, 5), (4, 18), (4, 12)])
def test_upsample_is_linear_interpolation_between_frame_centres(rng, factor, n_frames):
    coarse = rng.normal(size=(2, 5)).astype(np.float32)
    expected = [np.interp(np.arange(n_frames), np.arange(5) * factor, row) for row in coarse]
    np.testing.assert_allclose(upsample(jnp.asarray(coarse), factor, n_frames), expected, atol=1e-6)
    padded = upsample(grown(jnp.asarray(coarse), 2, 8), factor, n_frames, n_coarse=5)
    np.testing.assert_allclose(padded, expected, atol=1e-6)


def test_bad_arguments_say_what_was_expected(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    scores = jnp.zeros((2, 3))
    with pytest.raises(ValueError, match=r'"flipped" or "zscore", got \'max\''):
        evidence.silence_score(scores, kind="max")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"percentile must be in \[0, 100\], got 101"):
        evidence.silence_score(scores, percentile=101.0)
    with pytest.raises(ValueError, match="factor must be at least 1 frame a coarse frame, got 0"):
        evidence.upsample(scores, 0, 3)
