"""Boundaries by the distribution over paths: planted distributions, brute force over all paths, and their order."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradalign.boundaries import boundaries, quantile, within, without_closures
from gradalign.lattice import Topology, forward_backward


def test_quantiles_of_planted_mass():
    mass = np.array([[0.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.0, 0.5]])
    np.testing.assert_allclose(quantile(mass, 0.5), [2.0, 1.5, 1.5])
    np.testing.assert_allclose(quantile(mass, 0.05), [1.55, -0.3, 0.6])
    np.testing.assert_allclose(quantile(mass, 0.25), [1.75, 0.5, 1.0])
    np.testing.assert_allclose(quantile(10 * mass, 0.5), quantile(mass, 0.5))  # rounding of the sum does not matter


def test_the_mass_near_a_boundary():
    mass = np.array([[0.1, 0.2, 0.3, 0.4]])
    np.testing.assert_allclose(within(mass, np.array([1.0]), 1.0), [0.6])
    np.testing.assert_allclose(within(mass, np.array([1.2]), 0.1), [0.0])


summed = jax.jit(lambda scores, silence: forward_backward(scores, silence, Topology.free(len(scores))))


@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(0.0, 6.0))
def test_medians_are_in_order_whatever_the_scores(seed, n_labels, scale):
    rng = np.random.default_rng(seed)
    scores = jnp.asarray(scale * rng.normal(size=(n_labels, 9)), jnp.float32)
    silence = jnp.asarray(scale * rng.normal(size=9), jnp.float32)
    found = summed(scores, silence)
    edges = boundaries(np.asarray(found.starts), np.asarray(found.ends))
    assert (edges.ends - edges.starts > 0.999).all()
    assert (edges.starts[1:] - edges.ends[:-1] > -1e-3).all()
    for ranges, middle in ((edges.start_ranges, edges.starts), (edges.end_ranges, edges.ends)):
        assert (ranges[:, 0] <= middle + 1e-9).all()
        assert (middle <= ranges[:, 1] + 1e-9).all()


def test_the_median_is_that_of_all_paths(rng):
    n_labels, n_frames = 2, 6
    scores, silence = rng.normal(size=(n_labels, n_frames)), rng.normal(size=n_frames)
    weights = np.zeros(n_frames)
    for a, b, c, d in itertools.product(range(n_frames + 1), repeat=4):
        if not (a < b <= c < d):
            continue
        total = silence[:a].sum() + scores[0, a:b].sum() + silence[b:c].sum() + scores[1, c:d].sum() + silence[d:].sum()
        weights[c] += np.exp(total)
    found = forward_backward(
        jnp.asarray(scores, jnp.float32), jnp.asarray(silence, jnp.float32), Topology.free(n_labels)
    )
    edges = boundaries(np.asarray(found.starts), np.asarray(found.ends))
    assert edges.starts[1] == pytest.approx(quantile(weights[None], 0.5)[0], abs=1e-3)


def test_a_pause_shorter_than_asked_for_is_the_next_label_s():
    starts = np.array([[1.0, 0, 0, 0, 0, 0], [0, 0, 0, 0.4, 0.6, 0]])
    ends = np.array([[0, 0, 0, 1.0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1.0]])
    open_ = boundaries(starts, ends)
    gap = open_.starts[1] - open_.ends[0]
    assert gap == pytest.approx(3.5 + 1 / 6 - 3.0)
    closed = without_closures(open_, 1.5)
    assert closed.starts[1] == closed.ends[0] == open_.ends[0]
    assert (closed.start_ranges[:, 0] <= closed.starts).all()
    assert closed.starts[0] == open_.starts[0]
    np.testing.assert_array_equal(closed.ends, open_.ends)
    np.testing.assert_array_equal(without_closures(open_, gap - 0.01).starts, open_.starts)
