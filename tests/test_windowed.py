"""Pull-backs in windows: against the exact Jacobian of the network where windows leave nothing out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradalign.nn.aed import AED
from gradalign.nn.windowed import (
    Windows,
    decoder_cotangents,
    decoder_pull_back,
    encoder_cotangents,
    teacher_forced,
)

N_FRAMES, ROWS, LABELS = 37, 44, (1, 3, 3, 2, 1, 3)
N_ENCODER = ROWS // 4


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(11)
    return jnp.asarray(-10.0 + 4.5 * rng.normal(size=(ROWS, 20)), jnp.float32)


@pytest.fixture(scope="module")
def labels():
    return jnp.asarray(LABELS, jnp.int32)


@pytest.fixture(scope="module")
def kept(tiny_bundle, features, labels):
    return jax.jit(lambda x: teacher_forced(tiny_bundle.network, x, labels, N_FRAMES))(features)


def _encoder_jacobian(network, encoded, labels):
    return jax.jacrev(lambda h: network.label_log_probs(h, labels, N_FRAMES, depth=network.config.encoder_layers))(
        encoded
    )


def _at(found, depth):
    """The gradients of one leaf, where no other deeper one was asked for."""
    return found.features if depth < 0 else found.deeper[0]


def _close(found, exact):
    exact = np.asarray(exact)
    np.testing.assert_allclose(found, exact, atol=1e-5 * np.abs(exact).max())


def test_the_pass_is_that_of_the_network(tiny_bundle, features, labels, kept):
    network = tiny_bundle.network
    np.testing.assert_allclose(kept.log_probs, network.label_log_probs(features, labels, N_FRAMES), atol=1e-5)
    np.testing.assert_allclose(kept.encoded, network.encode(features, N_FRAMES)[0], atol=1e-5)
    for depth, states in enumerate(kept.states, 1):
        np.testing.assert_allclose(states, network.to_depth(features, depth, N_FRAMES), atol=1e-5)


def test_whole_windows_and_whole_history_give_the_jacobian_by_the_encoder(tiny_bundle, labels, kept):
    exact = _encoder_jacobian(tiny_bundle.network, kept.encoded, labels)
    indices, starts = jnp.arange(6), jnp.zeros(6, jnp.int32)
    found = decoder_cotangents(tiny_bundle.network, kept, indices, Windows(starts, N_ENCODER), history=6)
    _close(found, exact)


def test_sums_of_labels_are_pulled_back_through_all_paths(tiny_bundle, labels, kept):
    exact = _encoder_jacobian(tiny_bundle.network, kept.encoded, labels)
    weights = jnp.asarray(np.random.default_rng(4).normal(size=(3, 6)), jnp.float32)
    _close(decoder_pull_back(tiny_bundle.network, kept, weights), jnp.einsum("rl,lkd->rkd", weights, exact))


def test_a_window_of_the_decoder_is_cut_out_of_the_jacobian(tiny_bundle, labels, kept):
    exact = np.asarray(_encoder_jacobian(tiny_bundle.network, kept.encoded, labels))
    indices, starts = jnp.asarray([4, 1]), jnp.asarray([3, 7])
    found = decoder_cotangents(tiny_bundle.network, kept, indices, Windows(starts, 4), history=6)
    _close(found, np.stack([exact[4, 3:7], exact[1, 7:11]]))


def test_the_first_label_has_no_history_to_leave_out(tiny_bundle, labels, kept):
    exact = _encoder_jacobian(tiny_bundle.network, kept.encoded, labels)[:1]
    zero = jnp.zeros(1, jnp.int32)
    _close(decoder_cotangents(tiny_bundle.network, kept, zero, Windows(zero, N_ENCODER)), exact)


@pytest.mark.parametrize("short", [0, 32])
@pytest.mark.parametrize(
    ("positions", "depth"),
    [("relative", -1), ("relative", 0), ("relative", 1), ("relative", 2), ("both", -1), ("none", -1)],
)
def test_whole_windows_give_the_jacobian_at_every_leaf(
    tiny_bundle, features, labels, monkeypatch, positions, depth, short
):
    monkeypatch.setattr("gradalign.nn.pullback.SHORT", short)  # both ways to reckon with distances
    network = tiny_bundle.network
    if positions != "relative":
        graph, state = nnx.split(AED(replace(network.config, positions=positions), rngs=nnx.Rngs(3)))
        rng = np.random.default_rng(5)
        state = jax.tree.map(lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32), state)
        network = nnx.merge(graph, state)
    kept = teacher_forced(network, features, labels, N_FRAMES)
    leaf = network.to_depth(features, depth, N_FRAMES)
    exact = jax.jacrev(lambda x: network.label_log_probs(x, labels, N_FRAMES, depth=depth))(leaf)
    starts = jnp.zeros(6, jnp.int32)
    cotangents = decoder_cotangents(network, kept, jnp.arange(6), Windows(starts, N_ENCODER), history=6)
    found = _at(encoder_cotangents(network, kept, cotangents, Windows(starts, N_ENCODER), depths=(depth,)), depth)
    if depth == -1:
        assert np.all(np.asarray(found)[:, :3] == 0), "before the recording"
        found = found[:, 3:]
    _close(found, exact)


@pytest.mark.parametrize("rows", [1, 22, 50])
def test_how_many_labels_go_through_the_stem_together_changes_nothing(tiny_bundle, kept, monkeypatch, rows):
    cotangents = jnp.asarray(np.random.default_rng(6).normal(size=(6, 7, 16)), jnp.float32)
    windows = Windows(jnp.asarray([0, 1, 2, 2, 3, 4]), 7)
    together = encoder_cotangents(tiny_bundle.network, kept, cotangents, windows).features
    monkeypatch.setattr("gradalign.nn.windowed.STEM_ROWS", rows)
    _close(encoder_cotangents(tiny_bundle.network, kept, cotangents, windows).features, together)


@pytest.mark.parametrize("silenced", ["attention", "convolution"])
def test_what_leaves_the_window_is_dropped_and_nothing_else(tiny_bundle, features, labels, silenced):
    """The oracle: the Jacobian of a block in which only one module couples frames, cut to the window."""
    network = nnx.clone(tiny_bundle.network)
    blocks = network.encoder.blocks
    coupling = blocks.self_attention.out if silenced == "attention" else blocks.convolution.project
    coupling.kernel[...] = jnp.zeros_like(coupling.kernel[...])
    if silenced == "convolution":
        # Without queries of their own, frames are coupled by values and keys alone.
        query = blocks.self_attention.query.kernel
        query[...] = jnp.zeros_like(query[...])
    kept = teacher_forced(network, features, labels, N_FRAMES)
    leaf = network.to_depth(features, 1, N_FRAMES)
    jacobian = np.asarray(jax.jacrev(lambda x: network.encode(x, N_FRAMES, depth=1)[0])(leaf))
    cotangents = np.random.default_rng(1).normal(size=(2, 5, 16)).astype(np.float32)
    starts = np.array([2, 4])
    windows = Windows(jnp.asarray(starts), 5)
    found = encoder_cotangents(network, kept, jnp.asarray(cotangents), windows, depths=(1,)).deeper[0]
    for one, start, cotangent in zip(found, starts, cotangents, strict=True):
        here = slice(start, start + 5)
        _close(one, np.einsum("qd,qdke->ke", cotangent, jacobian[here, :, here]))
