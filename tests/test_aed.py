"""The network: padding, leaves, causality and gradients of a tiny one with random parameters."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradalign.gradients import saliency
from gradalign.nn.aed import AED, FEATURES_LEAF
from gradalign.nn.config import AEDConfig

N_FRAMES = (13, 20, 33)
N_LABELS = (1, 5, 3)
ROWS, COLUMNS = 44, 6


@pytest.fixture(scope="module")
def network(tiny_bundle):
    return tiny_bundle.network


@pytest.fixture(scope="module")
def intermediates(network):
    """Compiled once a shape for the whole file."""
    return jax.jit(network.intermediates)


@pytest.fixture(scope="module")
def utterances():
    """Three utterances in padded arrays; what is past their ends is as large as what is inside."""
    rng = np.random.default_rng(11)
    features = -10.0 + 4.5 * rng.normal(size=(3, ROWS, 20))
    labels = rng.integers(1, 4, (3, COLUMNS))
    return jnp.asarray(features, jnp.float32), jnp.asarray(labels, jnp.int32)


@pytest.fixture(scope="module")
def one(utterances):
    """The second utterance without padding."""
    return utterances[0][1, : N_FRAMES[1]], utterances[1][1, : N_LABELS[1]]


def test_a_padded_batch_is_its_utterances_one_by_one(network, utterances):
    def everything(features, labels, n_frames):
        return network.label_log_probs(features, labels, n_frames), network.intermediates(features, labels, n_frames)

    batch_scores, batch_seen = jax.jit(jax.vmap(everything))(*utterances, jnp.array(N_FRAMES))
    for i in (0, 2):  # a shape more is a compilation more
        n_frames, n_labels = N_FRAMES[i], N_LABELS[i]
        scores, seen = jax.jit(everything)(utterances[0][i, :n_frames], utterances[1][i, :n_labels], n_frames)
        n = -(-n_frames // 4)
        close = partial(np.testing.assert_allclose, atol=1e-4)
        close(batch_scores[i, :n_labels], scores)
        close(batch_seen.log_probs[i, :n_labels], seen.log_probs)
        close(batch_seen.ctc_log_probs[i, :n], seen.ctc_log_probs)
        close(batch_seen.stem[i, :n], seen.stem)
        close(batch_seen.encoder.blocks[i, :, :n], seen.encoder.blocks)
        close(batch_seen.encoder.attention[i, :, :, :n, :n], seen.encoder.attention)
        close(batch_seen.cross_attention[i, :, :, :n_labels, :n], seen.cross_attention)
        assert np.all(np.asarray(batch_seen.encoder.attention)[i, :, :, :, n:] == 0)
        assert np.all(np.asarray(batch_seen.cross_attention)[i, :, :, :, n:] == 0)


def test_intermediates_are_distributions_and_agree_with_the_scores(network, intermediates, one):
    features, labels = one
    seen = intermediates(features, labels)
    for log_probs in (seen.log_probs, seen.ctc_log_probs):
        np.testing.assert_allclose(np.exp(log_probs).sum(axis=-1), 1.0, rtol=1e-5)
    for weights in (seen.encoder.attention, seen.cross_attention):
        np.testing.assert_allclose(np.sum(weights, axis=-1), 1.0, rtol=1e-5)
    assert seen.cross_attention.shape == (2, 2, 5, 5)
    assert seen.encoder.blocks.shape == (2, 5, 16)
    found = jax.jit(network.label_log_probs)(features, labels)
    np.testing.assert_allclose(found, np.asarray(seen.log_probs)[np.arange(5), labels], atol=1e-5)
    last = seen.encoder.blocks[-1]
    np.testing.assert_allclose(network.ctc_log_probs(last), seen.ctc_log_probs, atol=1e-5)


@pytest.mark.parametrize("depth", [FEATURES_LEAF, 0, 1, 2])
def test_all_that_follows_from_a_leaf_follows_from_the_features(network, intermediates, utterances, depth):
    features, labels, n_frames = utterances[0][2], utterances[1][2], N_FRAMES[2]

    @jax.jit
    def run(features, n_frames):
        leaf = network.to_depth(features, depth, n_frames)
        scores = network.label_log_probs(leaf, labels, n_frames, depth=depth)
        return leaf, network.encode(leaf, n_frames, depth=depth)[:2], scores

    leaf, (encoded, valid), scores = run(features, n_frames)
    assert leaf.shape == ((ROWS, 20) if depth == FEATURES_LEAF else (ROWS // 4, 16))
    assert valid.sum() == 9  # 33 frames in fours
    expected = intermediates(features, labels, n_frames)
    np.testing.assert_allclose(encoded, expected.encoder.blocks[-1], atol=1e-5)
    np.testing.assert_allclose(scores, np.asarray(expected.log_probs)[np.arange(COLUMNS), labels], atol=1e-5)
    if depth >= 0:
        np.testing.assert_allclose(leaf, [expected.stem, *expected.encoder.blocks][depth], atol=1e-5)


def test_without_a_count_all_frames_are_real(network, one):
    stem = network.to_depth(one[0], 0)
    assert network.encode(stem, depth=0)[1].sum() == network.encode(one[0])[1].sum() == 5


@pytest.mark.parametrize("depth", [FEATURES_LEAF, 1])
def test_saliency_is_positive_inside_the_recording_and_exactly_zero_after_it(network, utterances, depth):
    features, labels, n_frames = utterances[0][1], utterances[1][1], N_FRAMES[1]

    @jax.jit
    def run(features, n_frames):
        leaf = network.to_depth(features, depth, n_frames)
        return saliency(lambda x: network.label_log_probs(x, labels, n_frames, depth=depth), leaf)

    found = np.asarray(run(features, n_frames))
    n = n_frames if depth == FEATURES_LEAF else -(-n_frames // 4)
    assert np.all(np.isfinite(found))
    assert np.all(found[:, :n] > 0)
    assert np.all(found[:, n:] == 0)


def test_gradients_are_finite_and_equal_to_differences(network, utterances, rng):
    """For features and for parameters, along random directions, from a padded utterance."""
    features, labels, n_frames = utterances[0][1], utterances[1][1], N_FRAMES[1]
    graph, state = nnx.split(network)

    @jax.jit
    def total(features, state):
        return nnx.merge(graph, state).label_log_probs(features, labels, n_frames)[: N_LABELS[1]].sum()

    gradients = jax.jit(jax.grad(total, argnums=(0, 1)))(features, state)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradients))
    for which in (0, 1):

        def unit(leaf):
            return jnp.asarray(rng.normal(size=leaf.shape), jnp.float32)

        point = (features, state)[which]
        direction = jax.tree.map(unit, point)
        size = 0.02 if which == 0 else 1e-3
        ends = []
        for sign in (1, -1):
            moved = jax.tree.map(lambda p, d: p + sign * size * d, point, direction)  # noqa: B023 (used at once)
            ends.append(total(*((moved, state) if which == 0 else (features, moved))))
        slope = sum(
            float((g * d).sum())
            for g, d in zip(jax.tree.leaves(gradients[which]), jax.tree.leaves(direction), strict=True)
        )
        # Rounding of a sum near -10 in float32 is about 1e-5, over twice the size.
        np.testing.assert_allclose((ends[0] - ends[1]) / (2 * size), slope, rtol=0.02, atol=0.02)


def test_compiled_is_eager(network, one):
    np.testing.assert_allclose(jax.jit(network.label_log_probs)(*one), network.label_log_probs(*one), atol=1e-5)


def test_scanned_blocks_are_a_loop_over_blocks(network, one):
    stem = network.to_depth(one[0], 0)
    valid = jnp.arange(5) < 4
    found, trace = network.encoder.run_blocks(stem, valid, trace=True)
    graph, state = nnx.split(network.encoder.blocks)
    x = stem
    for k in range(2):
        x, weights = nnx.merge(graph, jax.tree.map(lambda leaf, k=k: leaf[k], state))(x, valid)
        np.testing.assert_allclose(trace.blocks[k], x, atol=1e-5)
        np.testing.assert_allclose(trace.attention[k], weights, atol=1e-5)
    np.testing.assert_allclose(found, x, atol=1e-5)


def test_gradients_of_training_are_those_of_a_loop_over_blocks(one):
    """With dropout, a pause of the way down at a block in the middle, and nothing computed twice."""
    config = AEDConfig(
        n_mels=20, vocabulary=5, dim=16, heads=2, encoder_layers=3, decoder_layers=1, feed_forward_dim=32,
        conv_kernel=5, stem_channels=4, dropout=0.3,
    )  # fmt: skip
    network = AED(config, rngs=nnx.Rngs(0))
    stem = jax.random.normal(jax.random.key(1), (6, 16))
    valid = jnp.arange(6) < 5
    whole, all_state = nnx.split(network.encoder)
    graph, _ = nnx.split(network.encoder.blocks)
    parts = ((0, 2, jax.random.key(2)), (2, 3, jax.random.key(3)))

    def scanned(all_state, x):
        encoder = nnx.merge(whole, all_state)
        for start, stop, key in parts:
            x, _ = encoder.run_blocks(x, valid, start=start, stop=stop, key=key)
        return (x**3).sum()

    def looped(all_state, x):
        state = all_state["blocks"]
        for start, stop, key in parts:
            for k, block_key in zip(range(start, stop), jax.random.split(key, stop - start), strict=True):
                block = nnx.merge(graph, jax.tree.map(lambda leaf, k=k: leaf[k], state))
                x, _ = block(x, valid, block_key)
        return (x**3).sum()

    found, expected = (jax.jit(jax.grad(f, argnums=(0, 1)))(all_state, stem) for f in (scanned, looped))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_later_labels_change_no_score(network, one):
    features, labels = one
    score = jax.jit(network.label_log_probs)
    expected = np.asarray(score(features, labels))
    for s in range(4):
        changed = labels.at[s + 1 :].set(labels[s + 1 :] % 3 + 1)
        found = np.asarray(score(features, changed))
        np.testing.assert_array_equal(found[: s + 1], expected[: s + 1])
        assert found[s + 1] != expected[s + 1]
    unlike = labels.at[0].set(labels[0] % 3 + 1)
    assert np.all(np.asarray(score(features, unlike)) != expected)


def test_a_label_has_no_gradient_to_the_embeddings_of_itself_and_later_labels(network):
    graph, state = nnx.split(network.decoder)
    labels = jnp.array([1, 1, 2, 3])
    encoded, valid = jax.random.normal(jax.random.key(0), (5, 16)), jnp.ones(5, bool)

    def score(state):
        log_probs, _ = nnx.merge(graph, state)(jnp.array([0, 1, 1, 2]), encoded, valid)
        return jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]

    jacobian = np.asarray(jax.jit(jax.jacrev(score))(state)["embedding"][...])
    reached = np.abs(jacobian).max(axis=2) > 0
    # Columns: the sentence start and labels 1, 2, 3; a label is embedded from the next position on.
    expected = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    np.testing.assert_array_equal(reached, np.array(expected, bool))


def test_training_without_noise_scores_as_alignment_does(network, intermediates, utterances, one):
    run = jax.jit(network.training_pass)
    features, labels, n_frames = utterances[0][1], utterances[1][1], jnp.array(N_FRAMES[1])
    log_probs, (ctc,), attention = run(features, n_frames, labels, None)
    assert log_probs.shape == (COLUMNS + 1, 4)
    seen = intermediates(*one)
    np.testing.assert_allclose(log_probs[:5], seen.log_probs, atol=1e-4)
    np.testing.assert_allclose(ctc[:5], seen.ctc_log_probs, atol=1e-4)
    np.testing.assert_allclose(attention[:5, :5], seen.cross_attention.mean((0, 1)), atol=1e-4)
    noisy, (noisy_ctc,), _ = run(features, n_frames, labels, jax.random.key(0))
    assert np.all(np.isfinite(noisy))
    assert np.abs(np.asarray(noisy - log_probs)).max() > 1e-3
    assert np.abs(np.asarray(noisy_ctc - ctc)).max() > 1e-3


def test_the_ctc_head_reads_the_blocks_asked_for(network, intermediates, utterances, one):
    features, labels, n_frames = utterances[0][1], utterances[1][1], jnp.array(N_FRAMES[1])
    heard = network.training_pass(features, n_frames, labels, None, ctc_blocks=(1,)).ctc_log_probs
    seen = intermediates(*one)
    np.testing.assert_allclose(heard[0][:5], network.ctc_log_probs(seen.encoder.blocks[0])[:5], atol=1e-4)
    np.testing.assert_allclose(heard[1][:5], seen.ctc_log_probs[:5], atol=1e-4)


def test_a_new_network_has_blocks_of_its_own_and_finite_scores(network, one):
    fresh = AED(network.config, rngs=nnx.Rngs(3))
    kernel = np.asarray(fresh.encoder.blocks.self_attention.query.kernel[...])
    assert kernel.shape == (2, 16, 16)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1
    assert np.all(np.isfinite(fresh.label_log_probs(*one)))
    assert (
        fresh.n_parameters() == network.n_parameters() == sum(leaf.size for leaf in jax.tree.leaves(nnx.state(fresh)))
    )


def test_a_large_diagonal_bias_holds_every_frame_in_place(network, one):
    config = dataclasses.replace(network.config, diagonal_bias=60.0)
    held = AED(config, rngs=nnx.Rngs(3))
    seen = jax.jit(lambda x: held.encode(x, trace=True)[2].attention)(one[0])
    np.testing.assert_allclose(seen, np.broadcast_to(np.eye(5), seen.shape), atol=1e-4)
    free = jax.jit(lambda x: network.encode(x, trace=True)[2].attention)(one[0])
    assert np.abs(np.asarray(free) - np.eye(5)).max() > 0.1


def test_a_config_that_cannot_be_built_names_all_problems():
    with pytest.raises(
        ValueError,
        match=r"dim 15 must be a multiple of heads 4; dim 15 must be even; conv_kernel 4 must be odd; "
        r"vocabulary 1 must hold a label besides id 0; dropout 1\.0 must lie in \[0, 1\)",
    ):
        AEDConfig(dim=15, heads=4, conv_kernel=4, vocabulary=1, dropout=1.0)
