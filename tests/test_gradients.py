"""Saliency against the full Jacobian, on functions small enough to have one."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from gradalign.gradients import saliency

N_FRAMES, DIM, N_LABELS = 6, 4, 5


def jacobian_saliency(score, features, reduce):
    """The whole [labels, frames, dim] Jacobian, then the reduction in NumPy."""
    jacobian = np.asarray(jax.jit(jax.jacrev(score))(features), np.float64)
    if reduce == "l2":
        return np.linalg.norm(jacobian, axis=2)
    if reduce == "l1":
        return np.abs(jacobian).sum(axis=2)
    return np.abs((jacobian * np.asarray(features)[None]).sum(axis=2))


@pytest.fixture
def features(rng):
    return jnp.asarray(rng.normal(size=(N_FRAMES, DIM)), jnp.float32)


@pytest.fixture
def score(rng):
    """Log-probability of label s after a layer that mixes all frames."""
    mix = jnp.asarray(rng.normal(size=(N_LABELS, N_FRAMES)), jnp.float32)
    classify = jnp.asarray(rng.normal(size=(DIM, 7)), jnp.float32)

    def score(features):
        log_probs = jax.nn.log_softmax(jnp.tanh(mix @ jnp.sin(features)) @ classify)
        return log_probs[:, 2]

    return score


@pytest.mark.parametrize("reduce", ["l2", "l1", "grad_x_input"])
@pytest.mark.parametrize("chunk", [1, 3, 32])
def test_saliency_is_the_reduced_jacobian_whatever_the_chunk(score, features, reduce, chunk):
    found = jax.jit(lambda x: saliency(score, x, reduce=reduce, chunk=chunk))(features)
    np.testing.assert_allclose(found, jacobian_saliency(score, features, reduce), atol=1e-5)


def test_saliency_of_a_linear_score_is_the_norm_of_its_weights():
    weights = jnp.array([[[3.0, 4.0], [0.0, 0.0]], [[0.0, -2.0], [6.0, 8.0]]])
    features = jnp.array([[1.0, 1.0], [2.0, -1.0]])

    def linear(x):
        return jnp.einsum("std,td->s", weights, x)

    np.testing.assert_allclose(saliency(linear, features), [[5, 0], [2, 10]])
    np.testing.assert_allclose(saliency(linear, features, reduce="l1"), [[7, 0], [2, 14]])
    np.testing.assert_allclose(saliency(linear, features, reduce="grad_x_input"), [[7, 0], [2, 4]])


def test_frames_that_a_score_ignores_have_zero_saliency(score, features):
    heard = jnp.arange(N_FRAMES) < 4
    found = saliency(lambda x: score(jnp.where(heard[:, None], x, 0.0)), features)
    assert np.all(np.asarray(found)[:, 4:] == 0)
    assert np.all(np.asarray(found)[:, :4] > 0)


def test_saliency_under_jit_and_vmap_is_saliency(score, features):
    batch = jnp.stack([features, 2 * features, features[::-1]])
    batched = jax.jit(jax.vmap(lambda x: saliency(score, x, chunk=2)))(batch)
    for found, one in zip(batched, batch, strict=True):
        np.testing.assert_allclose(found, saliency(score, one, chunk=2), atol=1e-6)


@pytest.mark.parametrize("reduce", ["l2", "l1", "grad_x_input"])
def test_the_gradient_of_saliency_is_finite_where_saliency_is_zero(features, reduce):
    def flat(x):
        return jnp.stack([0.0 * x.sum(), jnp.square(x[0]).sum()])

    gradient = jax.grad(lambda x: saliency(flat, x, reduce=reduce).sum())(features.at[0].set(0.0))
    assert np.all(np.isfinite(gradient))


def test_the_gradient_of_saliency_is_that_of_the_norm(score, features):
    direction = jnp.cos(jnp.arange(features.size, dtype=jnp.float32)).reshape(features.shape)
    _, found = jax.jvp(lambda x: saliency(score, x), (features,), (direction,))
    _, expected = jax.jvp(lambda x: jnp.sqrt(jnp.square(jax.jacrev(score)(x)).sum(axis=2)), (features,), (direction,))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradients_whose_squares_underflow_are_not_lost(features):
    found = saliency(lambda x: jnp.stack([1e-25 * x.sum()]), features)
    np.testing.assert_allclose(found, np.full((1, N_FRAMES), 2e-25), rtol=1e-5)


def test_the_largest_array_is_one_chunk_of_gradients():
    n_labels, n_frames, dim, chunk = 64, 200, 50, 4
    weights = jnp.ones((n_labels, n_frames), jnp.float32)
    compiled = (
        jax.jit(lambda x: saliency(lambda y: jnp.tanh(weights @ y).sum(axis=1), x, chunk=chunk))
        .lower(jnp.ones((n_frames, dim)))
        .compile()
    )
    one_chunk = 4 * chunk * n_frames * dim
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 4 * one_chunk < 4 * n_labels * n_frames * dim


def test_no_labels_give_no_rows(features):
    assert saliency(lambda x: jnp.zeros(0), features).shape == (0, N_FRAMES)


def test_bad_arguments_are_reported_together(score, features, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(
        ValueError, match=r"shape \[frames, dim\], got shape \(4,\).*got 'max'.*at least 1 label, got 0"
    ):
        saliency(score, features[0], reduce="max", chunk=0)  # pyright: ignore[reportArgumentType]


def test_a_score_that_is_not_one_number_a_label_is_refused(features):
    with pytest.raises(ValueError, match=r"one number a label, shape \[labels\], got shape \(6, 4\)"):
        saliency(lambda x: x, features)
