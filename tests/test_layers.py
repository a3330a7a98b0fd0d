"""Layers: each against the plain formula or XLA's own convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradalign.nn import layers
from gradalign.nn.layers import Attention, LayerNorm, Linear, depthwise, relative_shift, sinusoids, strided_patches


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("n_frames", "taps"), [(1, 5), (4, 15), (20, 15), (7, 1), (9, 3)])
def test_depthwise_shifts_are_a_depthwise_convolution(rng, n_frames, taps):
    x, kernel = normal(rng, n_frames, 6), normal(rng, taps, 6)
    expected = jax.lax.conv_general_dilated(
        x[None],
        kernel[:, None, :],
        window_strides=(1,),
        padding=((taps // 2, taps // 2),),
        dimension_numbers=("NHC", "HIO", "NHC"),
        feature_group_count=6,
    )[0]
    np.testing.assert_allclose(depthwise(x, kernel), expected, atol=1e-5)


@pytest.mark.parametrize(("n_frames", "n_bands"), [(1, 1), (2, 3), (5, 4), (8, 8), (9, 7)])
def test_patches_times_a_matrix_are_a_strided_convolution(rng, n_frames, n_bands):
    x, kernel = normal(rng, n_frames, n_bands, 2), normal(rng, 3, 3, 2, 5)
    expected = jax.lax.conv_general_dilated(
        x[None],
        kernel,
        window_strides=(2, 2),
        padding=((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )[0]
    found = strided_patches(x) @ kernel.reshape(18, 5)
    assert found.shape == ((n_frames + 1) // 2, (n_bands + 1) // 2, 5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_relative_shift_is_a_gather_by_distance(rng, n):
    by_distance = normal(rng, 3, n, 2 * n - 1)
    query, key = np.arange(n)[:, None], np.arange(n)[None, :]
    expected = np.asarray(by_distance)[:, query, (n - 1) - (query - key)]
    np.testing.assert_array_equal(relative_shift(by_distance), expected)


def attention_loop(layer, x, memory, mask):
    """The formula in float64, one query and key at a time."""

    def affine(linear, y):
        bias = 0.0 if linear.bias is None else np.asarray(linear.bias[...], np.float64)
        return np.asarray(y, np.float64) @ np.asarray(linear.kernel[...], np.float64) + bias

    def heads(y):
        return y.reshape(len(y), layer.heads, -1)

    query, key, value = (
        heads(affine(layer.query, x)),
        heads(affine(layer.key, memory)),
        heads(affine(layer.value, memory)),
    )
    n, m, dim = len(x), len(memory), x.shape[1]
    weights, attended = np.zeros((layer.heads, n, m)), np.zeros((n, layer.heads, dim // layer.heads))
    for h in range(layer.heads):
        for i in range(n):
            logits = np.full(m, -np.inf)
            for j in range(m):
                if layer.position is None:
                    logits[j] = query[i, h] @ key[j, h]
                else:
                    angles = (i - j) * 10_000.0 ** (-np.arange(0, dim, 2) / dim)
                    code = heads(affine(layer.position, np.concatenate([np.sin(angles), np.cos(angles)])[None]))[0, h]
                    content_bias, position_bias = layer.content_bias[...][h], layer.position_bias[...][h]
                    logits[j] = (query[i, h] + content_bias) @ key[j, h] + (query[i, h] + position_bias) @ code
            logits = np.where(mask[i], logits / np.sqrt(dim // layer.heads), -np.inf)
            weights[h, i] = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            attended[i, h] = weights[h, i] @ value[:, h]
    return affine(layer.out, attended.reshape(n, dim)), weights


def random_attention(rng, *, relative):
    layer = Attention(8, 2, relative=relative, rngs=nnx.Rngs(0))
    graph, state = nnx.split(layer)
    return nnx.merge(graph, jax.tree.map(lambda leaf: 0.5 * normal(rng, *leaf.shape), state))


@pytest.mark.parametrize("n", [1, 6])
def test_relative_attention_is_its_formula(rng, n):
    layer, x = random_attention(rng, relative=True), normal(rng, n, 8)
    mask = np.arange(n)[None, :].repeat(n, 0) < max(1, n - 2)
    found, weights = layer(x, x, jnp.asarray(mask[:1]))
    expected, expected_weights = attention_loop(layer, x, x, mask)
    np.testing.assert_allclose(weights, expected_weights, atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_attention_to_a_memory_is_its_formula(rng):
    layer, x, memory = random_attention(rng, relative=False), normal(rng, 3, 8), normal(rng, 5, 8)
    mask = np.array([[1, 0, 0, 0, 0], [1, 1, 0, 1, 0], [0, 0, 1, 1, 1]], bool)
    found, weights = layer(x, memory, jnp.asarray(mask))
    expected, expected_weights = attention_loop(layer, x, memory, mask)
    np.testing.assert_allclose(weights, expected_weights, atol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.all(np.asarray(weights)[:, ~mask] == 0)


def test_attention_where_nothing_may_be_seen_has_finite_gradients(rng):
    layer, x = random_attention(rng, relative=True), normal(rng, 4, 8)
    nothing = jnp.zeros((1, 4), bool)
    assert np.all(np.isfinite(jax.grad(lambda y: jnp.square(layer(y, y, nothing)[0]).sum())(x)))


def test_layer_norm_has_mean_shift_and_deviation_scale(rng):
    layer = LayerNorm(32)
    layer.scale[...] = jnp.full(32, 3.0)
    layer.shift[...] = jnp.full(32, -1.0)
    found = layer(100.0 + 7.0 * normal(rng, 5, 32))
    np.testing.assert_allclose(np.mean(found, axis=1), -1.0, atol=1e-4)
    np.testing.assert_allclose(np.std(found, axis=1), 3.0, rtol=1e-4)


def test_layer_norm_of_equal_numbers_has_a_finite_gradient():
    gradient = jax.grad(lambda x: LayerNorm(4)(x).sum() + LayerNorm(4)(x)[0, 0])(jnp.ones((2, 4)))
    assert np.all(np.isfinite(gradient))


def test_linear_multiplies_and_adds_over_the_last_axis(rng):
    layer, x = Linear(3, 2, rngs=nnx.Rngs(0)), normal(rng, 4, 5, 3)
    layer.bias[...] = jnp.array([1.0, -2.0])
    np.testing.assert_allclose(layer(x), np.asarray(x) @ np.asarray(layer.kernel[...]) + [1, -2], atol=1e-6)
    assert Linear(3, 2, bias=False, rngs=nnx.Rngs(0)).bias is None


def test_sinusoids_are_sines_then_cosines():
    found = sinusoids(jnp.array([0.0, 1.0, -3.0]), 4)
    np.testing.assert_allclose(found[0], [0, 0, 1, 1])
    np.testing.assert_allclose(found[1], [np.sin(1), np.sin(0.01), np.cos(1), np.cos(0.01)], rtol=1e-6)
    np.testing.assert_allclose(found[2], [-np.sin(3), -np.sin(0.03), np.cos(3), np.cos(0.03)], rtol=1e-6)


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    x = jnp.ones((200, 200))
    found = np.asarray(layers.dropout(x, 0.25, jax.random.key(0)))
    np.testing.assert_allclose(np.unique(found), [0, 1 / 0.75], rtol=1e-6)
    assert abs((found == 0).mean() - 0.25) < 0.01  # five deviations of a mean over 40000
    assert layers.dropout(x, 0.25, None) is x
    assert layers.dropout(x, 0.0, jax.random.key(0)) is x


def test_split_keys_differ_and_no_key_splits_into_none():
    assert layers.split_key(None, 3) == (None, None, None)
    first, second = layers.split_key(jax.random.key(1), 2)
    assert jax.random.uniform(first) != jax.random.uniform(second)
