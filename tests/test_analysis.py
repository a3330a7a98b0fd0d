"""The measures against closed forms, SciPy, explicit loops and full Jacobians; padding changes nothing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from gradalign.analysis.attention import anti_diagonal_weight, diagonal_weight, first_frame_weight
from gradalign.analysis.diagonality import diagonality, flip_index, label_diagonality, label_flip_index, shares
from gradalign.analysis.direction import centres, direction, rank_correlation, turning_points
from gradalign.analysis.jacobian import attention_jacobian, diagonal_dominance, jacobian_norms
from gradalign.analysis.norms import dominance, mean_norm, normalised_gradient
from gradalign.gradients import saliency
from gradalign.nn.aed import AED
from gradalign.nn.config import AEDConfig
from gradalign.nn.layers import LayerNorm


def random_map(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    weights = rng.random((rows, columns)) ** 4
    return weights / weights.sum(axis=1, keepdims=True)


def band_integral(weights: np.ndarray) -> float:
    """The definition: weight within a band, integrated over its half-width. Piecewise constant, so exactly."""
    n = len(weights)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    within = [weights[distance <= width].sum() / n for width in range(n)]
    return float(np.mean(within[:-1])) if n > 1 else 1.0


# --- diagonality


@pytest.mark.parametrize("n", [1, 2, 3, 50, 51, 500])
def test_closed_form_of_diagonality_is_the_integral_over_bands(rng, n):  # CAD-1
    weights = random_map(rng, n, n)
    with jax.enable_x64(True):
        assert abs(float(diagonality(jnp.asarray(weights))) - band_integral(weights)) <= 1e-12
        mirrored = jnp.asarray(weights[:, ::-1].copy())
        assert abs(float(diagonality(mirrored, flipped=True)) - band_integral(weights)) <= 1e-12


@pytest.mark.parametrize("n", [2, 7, 40, 101])
def test_diagonality_of_maps_whose_value_is_known(n):  # CAD-2
    half = 1 - n / (2 * (n - 1)) if n % 2 == 0 else (n - 1) / (2 * n)
    uniform = 1 - (n + 1) / (3 * n)
    sink = np.zeros((n, n))
    sink[:, 0] = 1
    known = {
        "identity": (np.eye(n), 1.0, half),
        "uniform": (np.full((n, n), 1 / n), uniform, uniform),
        "first frame": (sink, 0.5, 0.5),
        "reversal": (np.eye(n)[::-1].copy(), half, 1.0),
    }
    flips = {}
    for name, (weights, plain, flipped) in known.items():
        weights = jnp.asarray(weights, jnp.float32)
        assert float(diagonality(weights)) == pytest.approx(plain, abs=1e-6), name
        assert float(diagonality(weights, flipped=True)) == pytest.approx(flipped, abs=1e-6), name
        flips[name] = float(flip_index(weights))
    assert abs(flips["identity"] + 0.5) <= 1 / n
    assert abs(flips["reversal"] - 0.5) <= 1 / n
    assert abs(flips["uniform"]) <= 1e-6
    assert abs(flips["first frame"]) <= 1e-6


def test_padding_changes_no_measure_of_a_square_map(rng):  # CAD-3
    sizes = (5, 9, 12)
    maps = [random_map(rng, n, n) for n in sizes]
    batch = jnp.asarray([np.pad(m, (0, 14 - n), constant_values=7.0) for m, n in zip(maps, sizes, strict=True)])
    measures = (
        diagonality,
        partial(diagonality, flipped=True),
        flip_index,
        diagonal_weight,
        anti_diagonal_weight,
        first_frame_weight,
        diagonal_dominance,
        partial(diagonal_dominance, flipped=True),
    )
    for measure in measures:
        found = jax.jit(jax.vmap(lambda w, n, measure=measure: measure(w, n_frames=n)))(batch, jnp.array(sizes))
        alone = [float(measure(jnp.asarray(m, jnp.float32))) for m in maps]
        np.testing.assert_allclose(found, alone, atol=1e-6)


def test_padding_changes_no_measure_of_a_label_map(rng):
    maps = [random_map(rng, s, t) for s, t in ((1, 4), (3, 9), (5, 8))]
    batch = jnp.asarray(
        [np.pad(m, ((0, 6 - m.shape[0]), (0, 9 - m.shape[1])), constant_values=3.0) for m in maps], jnp.float32
    )
    sizes = jnp.array([m.shape for m in maps])
    for measure in (label_diagonality, label_flip_index, direction):
        found = jax.vmap(lambda w, n, m=measure: m(w, n_labels=n[0], n_frames=n[1]))(batch, sizes)
        np.testing.assert_allclose(found, [float(measure(jnp.asarray(m, jnp.float32))) for m in maps], atol=1e-6)


def test_label_diagonality_is_one_minus_the_mean_distance_of_shares_of_the_utterance(rng):
    weights = random_map(rng, 4, 11)
    by_hand = sum(
        weights[s, t] * abs((s + 0.5) / 4 - (t + 0.5) / 11) / 4 for s in range(4) for t in range(11)
    )  # fmt: skip
    found = partial(label_diagonality, jnp.asarray(weights, jnp.float32))
    assert float(found()) == pytest.approx(1 - by_hand, abs=1e-6)
    mirrored = jnp.asarray(weights[:, ::-1].copy(), jnp.float32)
    assert float(label_diagonality(mirrored, flipped=True)) == pytest.approx(float(found()), abs=1e-6)


def test_label_flip_index_has_the_sign_of_the_direction():
    rising = jnp.asarray(np.repeat(np.eye(5), 4, axis=1), jnp.float32)
    assert float(label_flip_index(rising)) < -0.35
    assert float(label_flip_index(rising[:, ::-1])) == pytest.approx(-float(label_flip_index(rising)), abs=1e-6)
    assert float(label_flip_index(jnp.ones((5, 20)))) == pytest.approx(0, abs=1e-6)
    # A row without weight counts as uniform: it says nothing.
    assert float(label_flip_index(rising.at[0].set(0.0))) < -0.2


def test_some_rows_of_a_map_do_for_its_flip_index(rng):
    some = jnp.arange(1, 60, 4)
    for weights, exact in ((np.eye(60), -0.5), (np.eye(60)[::-1].copy(), 0.5)):
        found = flip_index(jnp.asarray(weights, jnp.float32)[some], frame_of_query=some)
        assert float(found) == pytest.approx(exact, abs=0.02)
    at = (some + 0.5) / 60
    found = label_flip_index(jnp.eye(60)[::-1][some], position=at)
    assert float(found) == pytest.approx(0.5, abs=0.02)


def test_shares_of_numbers_near_the_smallest_ones_sum_to_one():
    tiny = jnp.asarray([[3e-36, 1e-36, 0.0], [0.0, 0.0, 0.0]], jnp.float32)
    np.testing.assert_allclose(shares(tiny), [[0.75, 0.25, 0.0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-5)


def test_diagonality_can_be_differentiated_where_a_row_is_empty(rng):
    weights = jnp.asarray(random_map(rng, 6, 6), jnp.float32).at[2].set(0.0)
    assert np.isfinite(jax.grad(flip_index)(weights)).all()


# --- direction


def test_rank_correlation_is_that_of_scipy_with_ties_and_padding(rng):
    for n in (2, 7, 30):
        x, y = rng.integers(0, 6, n).astype(float), rng.normal(size=n)
        x[0] += 0.5  # two numbers at least
        padded = [jnp.asarray(np.pad(v, (0, 9), constant_values=-4.0), jnp.float32) for v in (x, y)]
        expected = scipy.stats.spearmanr(x, y).statistic
        assert float(rank_correlation(*padded, n=n)) == pytest.approx(expected, abs=1e-5)
    assert float(rank_correlation(jnp.ones(5), jnp.arange(5.0))) == 0.0


def test_direction_of_a_rising_a_falling_and_a_shapeless_map(rng):
    rising = jnp.asarray(np.repeat(np.eye(6), 3, axis=1) + 0.01, jnp.float32)
    assert float(direction(rising)) == pytest.approx(1)
    assert float(direction(rising[::-1])) == pytest.approx(-1)
    assert float(direction(rising * jnp.asarray(rng.random((6, 1)), jnp.float32))) == pytest.approx(1)
    assert float(direction(jnp.ones((1, 4)))) == 0.0
    np.testing.assert_allclose(centres(jnp.asarray([[0.0, 1.0, 1.0], [0.0, 0.0, 2.0]])), [1.5, 2.0], rtol=1e-6)


def test_turning_points_are_where_clear_signs_change():
    assert turning_points([-0.5, -0.4, 0.02, -0.3]) == []
    assert turning_points([0.4, 0.3, 0.01, -0.3, -0.5]) == [3]
    assert turning_points([-0.4, 0.4, -0.4]) == [1, 2]
    assert turning_points([]) == turning_points([0.01, -0.01]) == []


# --- attention


def test_weights_of_a_uniform_map_are_one_and_of_a_permutation_the_number_of_frames():
    uniform, reversal = jnp.full((8, 8), 1 / 8), jnp.eye(8)[::-1]
    for measure in (diagonal_weight, anti_diagonal_weight, first_frame_weight):
        assert float(measure(uniform)) == pytest.approx(1, abs=1e-6)
    assert float(diagonal_weight(jnp.eye(8))) == float(anti_diagonal_weight(reversal)) == 8
    assert float(anti_diagonal_weight(jnp.eye(8))) == float(diagonal_weight(reversal)) == 0
    assert float(first_frame_weight(jnp.eye(8)[jnp.zeros(8, int)])) == 8


# --- Jacobians


def head(x, logits, value):
    """One attention head with a residual."""
    return x + jax.nn.softmax(x @ logits @ x.T, axis=-1) @ x @ value.T


def head_of(rng, frames: int, dim: int):
    x = rng.normal(size=(frames, dim))
    query, key, value = rng.normal(size=(3, dim, dim)) / np.sqrt(dim)
    return jnp.asarray(x), jnp.asarray(query @ key.T / np.sqrt(dim)), jnp.asarray(value)


def test_jacobian_of_an_attention_head_is_that_of_automatic_differentiation(rng):  # JA-1
    with jax.enable_x64(True):
        x, logits, value = head_of(rng, 7, 4)
        found = sum(attention_jacobian(x, logits, value))
        exact = jax.jacrev(head)(x, logits, value).transpose(0, 2, 1, 3)
        assert np.abs(np.asarray(found - exact)).max() <= 1e-12


def test_off_diagonal_blocks_fade_with_length_and_diagonal_ones_do_not(rng):  # JA-2
    lengths, dim = np.array([8, 16, 32, 64, 128]), 16
    means = []
    for frames in lengths:
        on, off = [], []
        for _ in range(4):
            x, logits, value = head_of(rng, int(frames), dim)
            norms = np.linalg.norm(np.asarray(sum(attention_jacobian(x, logits, value))), axis=(2, 3))
            on.append(np.diag(norms).mean())
            off.append(norms[~np.eye(frames, dtype=bool)].mean())
        means.append((np.mean(on), np.mean(off)))
    on_slope, off_slope = np.polyfit(np.log(lengths), np.log(means), 1)[0]
    assert -1.1 <= off_slope <= -0.85
    assert -0.1 <= on_slope <= 0.05


def test_random_signs_estimate_the_norms_of_all_blocks(rng):  # JA-3
    x, logits, value = head_of(rng, 9, 16)
    exact = np.asarray((jax.jacrev(head)(x, logits, value) ** 2).sum((1, 3)))
    rows = jnp.asarray([0, 3, 8])
    found = jacobian_norms(lambda y: head(y, logits, value), x, rows, key=jax.random.key(0), probes=256)
    error = np.abs(np.asarray(found) ** 2 / exact[[0, 3, 8]] - 1).mean()
    assert error <= 0.10


def test_probes_give_the_norms_at_all_arrays_of_a_tree_whatever_the_chunk(rng):
    x = jnp.asarray(rng.normal(size=(5, 3)), jnp.float32)
    tree = {"a": x, "b": jnp.stack([x, x])}

    def function(t):
        # Each output frame is a frame of "a" times two, plus the mirrored frames of the second part of "b".
        return 2 * t["a"] + t["b"][1][::-1] + 0 * t["b"][0]

    norms = partial(jacobian_norms, function, tree, jnp.arange(5), key=jax.random.key(1), probes=3)
    for chunk in (1, 4, 100):
        found = norms(chunk=chunk)
        # One sign vector is exact for multiples of the identity.
        np.testing.assert_allclose(found["a"], 2 * np.sqrt(3) * np.eye(5), atol=1e-5)
        np.testing.assert_allclose(found["b"][:, 1], np.sqrt(3) * np.eye(5)[::-1], atol=1e-5)
        assert np.all(np.asarray(found["b"][:, 0]) == 0)


def test_dominance_of_diagonals():
    norms = jnp.full((4, 4), 0.5) + 1.5 * jnp.eye(4)
    assert float(diagonal_dominance(norms)) == pytest.approx(4)
    assert float(diagonal_dominance(norms[::-1], flipped=True)) == pytest.approx(4)
    assert float(diagonal_dominance(norms[1:3], frame_of_row=jnp.array([1, 2]))) == pytest.approx(4)
    assert float(diagonal_dominance(jnp.ones((5, 5)))) == pytest.approx(1)
    assert float(diagonal_dominance(jnp.eye(5))) == pytest.approx(1e9)


# --- norms


def test_norms_and_their_ratio(rng):
    stream = jnp.asarray([[3.0, 4.0], [0.0, 1.0], [9.0, 9.0]])
    assert float(mean_norm(stream, n_frames=2)) == pytest.approx(3)
    assert float(dominance(5 * stream, stream)) == pytest.approx(5)
    assert np.isfinite(float(dominance(stream, 0 * stream)))


def test_gradient_before_a_layer_norm_is_orthogonal_to_its_input_and_grows_on_quiet_frames(rng):  # LN-2
    with jax.enable_x64(True):
        x, target = jnp.asarray(rng.normal(size=(2, 6, 8)))
        w, b = jnp.asarray(rng.normal(size=(2, 8)))

        def unit(y):
            centred = y - y.mean(-1, keepdims=True)
            return centred / jnp.sqrt((centred**2).mean(-1, keepdims=True))

        def loss_of_unit(u):
            return (jnp.tanh(u * w[None, :] + b[None, :]) * target).sum()

        gradient = jax.grad(lambda y: loss_of_unit(unit(y)))(x)
        assert np.abs(np.asarray((x * gradient).sum(-1))).max() <= 1e-10
        assert np.abs(np.asarray(gradient.sum(-1))).max() <= 1e-10
        # Quieter frames: larger gradients, but not once they are normalised.
        quiet = x * jnp.asarray([1.0, 0.1, 1.0, 0.01, 1.0, 1.0])[:, None]
        at_quiet = jax.grad(lambda y: loss_of_unit(unit(y)))(quiet)
        assert np.linalg.norm(at_quiet[3]) > 50 * np.linalg.norm(gradient[3])
        same = normalised_gradient(gradient, x)
        np.testing.assert_allclose(normalised_gradient(at_quiet, quiet), same, rtol=1e-9)
        # It is the gradient by the normalised frames, less what the norm cannot pass on.
        u = unit(x)
        after = jax.grad(loss_of_unit)(u)
        passed = after - after.mean(-1, keepdims=True) - u * (after * u).mean(-1, keepdims=True)
        np.testing.assert_allclose(same, passed, atol=1e-10)


def test_our_layer_norm_has_that_gradient_too(rng):
    x = jnp.asarray(rng.normal(size=(4, 16)), jnp.float32)
    target = jnp.asarray(rng.normal(size=(4, 16)), jnp.float32)
    gradient = jax.grad(lambda y: (LayerNorm(16)(y) * target).sum())(x)
    assert np.abs(np.asarray((x * gradient).sum(-1))).max() < 1e-4
    assert np.abs(np.asarray(gradient.sum(-1))).max() < 1e-4


# --- a reversal, planted


@pytest.mark.parametrize("reverse", [False, True])
def test_an_encoder_layer_replaced_by_reversal_turns_every_flip_index_positive(rng, reverse):  # FL-2
    config = AEDConfig(
        n_mels=8, vocabulary=6, dim=16, heads=2, encoder_layers=1, decoder_layers=1, feed_forward_dim=16,
        conv_kernel=3, stem_channels=2,
    )  # fmt: skip
    network = AED(config, rngs=nnx.Rngs(2))
    stem = jnp.asarray(rng.normal(size=(24, 16)), jnp.float32)
    valid = jnp.ones(24, bool)

    def layer(x):
        return x[::-1] if reverse else x

    def encode(x):
        return network.encoder.run_blocks(layer(x), valid)[0]

    found = jacobian_norms(encode, stem, jnp.arange(24), key=jax.random.key(0), probes=4)
    assert (float(flip_index(found)) > 0.2) == reverse
    assert (float(flip_index(found)) < -0.2) == (not reverse)

    # Labels that read the encoder's frames in order, as cross-attention of a trained decoder does.
    reader = jnp.asarray(np.repeat(np.eye(6), 4, axis=1), jnp.float32)
    readout = jnp.asarray(rng.normal(size=16), jnp.float32)
    by_label = saliency(lambda x: reader @ jnp.tanh(encode(x)) @ readout, stem)
    assert (float(label_flip_index(by_label)) > 0.1) == reverse
    assert (float(label_flip_index(by_label)) < -0.1) == (not reverse)
    assert float(direction(by_label)) * (-1 if reverse else 1) > 0.9
