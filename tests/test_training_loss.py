"""Losses and augmentation: right answers cost nothing, padding changes nothing, time order is kept."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.fft
from flax import nnx

from gradalign.gradients import saliency
from gradalign.lattice import Topology, forward_backward
from gradalign.nn.aed import AED
from gradalign.training.augment import augment, babble, interrupt, smooth, stretch
from gradalign.training.config import AugmentConfig, LossConfig
from gradalign.training.data import Batch
from gradalign.training.loss import (
    CTC_LIMIT,
    Shares,
    boundary_losses,
    chosen_labels,
    ctc_losses,
    decoder_losses,
    losses,
    saliency_losses,
    timing_losses,
)

PLAIN = Shares(jnp.float32(0.0), jnp.float32(0.0), None, None)

DEFAULT = LossConfig()

EVERYTHING = AugmentConfig(mix=1.0, pause=1.0, smooth=1.0)


def batch_of(labels: np.ndarray, n_frames: int = 80, rows: int = 80, spans: np.ndarray | None = None) -> Batch:
    n = len(labels)
    features = np.repeat(labels, n_frames // labels.shape[1], axis=1)[:, :, None] * np.ones((1, 1, 20)) * 3.0 - 10.0
    padded = np.zeros((n, rows, 20), np.float32)
    padded[:, :n_frames] = features
    times = np.full((*labels.shape, 2), -1, np.float32) if spans is None else spans
    lengths = np.full(n, labels.shape[1], np.int32)
    return Batch(padded, np.full(n, n_frames, np.int32), labels, lengths, times)


def test_decoder_loss_is_the_cross_entropy_of_each_label_and_the_end(rng: np.random.Generator):
    log_probs = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32))
    labels = np.array([[1, 2, 0], [2, 0, 0]], np.int32)
    batch = Batch(
        np.zeros((2, 8, 1), np.float32),
        np.full(2, 8),
        labels,
        np.array([2, 1], np.int32),
        np.full((2, 3, 2), -1, np.float32),
    )
    said = [(0, 0, 1), (0, 1, 2), (0, 2, 0), (1, 0, 2), (1, 1, 0)]  # example, position, label; 0 ends it
    found, accuracy = decoder_losses(log_probs, batch, 0.1)
    expected = -sum(0.9 * log_probs[e, p, y] + 0.1 * log_probs[e, p].mean() for e, p, y in said) / 3
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert float(accuracy) == np.mean([int(log_probs[e, p].argmax()) == y for e, p, y in said])


def test_ctc_loss_is_that_of_every_frame_labelling_and_limited(rng: np.random.Generator):
    log_probs = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(2, 4, 3)), jnp.float32))
    labels = np.array([[1, 2], [1, 1]], np.int32)
    batch = Batch(
        np.zeros((2, 16, 1), np.float32),
        np.array([13, 5], np.int32),
        labels,
        np.full(2, 2, np.int32),
        np.full((2, 2, 2), -1, np.float32),
    )
    # Labellings of four frames that collapse to 1, 2; the second example has 2 frames, too few for 1, 1.
    ways = [(1, 2, 0, 0), (1, 0, 2, 0), (1, 0, 0, 2), (0, 1, 2, 0), (0, 1, 0, 2), (0, 0, 1, 2), (1, 1, 2, 0)]
    ways += [
        (1, 1, 0, 2),
        (1, 2, 2, 0),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
        (0, 1, 2, 2),
        (1, 1, 1, 2),
        (1, 1, 2, 2),
        (1, 2, 2, 2),
    ]
    total = sum(np.exp(sum(float(log_probs[0, t, y]) for t, y in enumerate(way))) for way in ways)
    found = ctc_losses(log_probs, batch, 4)
    assert float(found) == pytest.approx((-np.log(total) + 2 * CTC_LIMIT) / 4, rel=1e-4)


def test_timing_losses_vanish_when_times_are_right_and_ignore_unknown_ones():
    labels = np.array([[1, 2], [1, 2]], np.int32)
    spans = np.array([[[0, 20], [20, 40]], [[-1, -1], [-1, -1]]], np.float32)
    batch = Batch(np.zeros((2, 40, 1), np.float32), np.full(2, 40), labels, np.full(2, 2), spans)
    said = np.repeat([1, 2], 5)  # five encoder frames each
    log_probs = np.where(np.arange(3)[None, :] == said[:, None], 0.0, -9.0)
    attention = np.zeros((2, 3, 10), np.float32)
    attention[0, 0, 2] = attention[0, 1, 7] = 1.0
    both = np.stack([log_probs, np.full_like(log_probs, -9.0)]).astype(np.float32)
    frame, guide = timing_losses(batch, jnp.asarray(both), jnp.asarray(attention))
    assert float(frame) == pytest.approx(0.0)
    assert float(guide) == pytest.approx(-np.log(1.01), abs=1e-5)
    slow, _ = timing_losses(batch._replace(spans=spans * 2), jnp.asarray(both), jnp.asarray(attention))
    assert float(slow) > 1.0  # the same frames at half the rate are no longer right


def trained(network: AED, batch: Batch, config: LossConfig):
    return jax.jit(lambda batch: saliency_losses(network, batch, jax.random.key(0), config))(batch)


def test_the_saliency_loss_is_the_cross_entropy_with_the_true_interval(tiny_bundle, rng: np.random.Generator):
    labels = rng.integers(1, 4, size=(1, 2)).astype(np.int32)
    spans = np.array([[[0.0, 40.0], [40.0, 80.0]]], np.float32)
    batch = batch_of(labels, spans=spans)
    network = tiny_bundle.network
    found, _, _ = trained(network, batch, LossConfig(saliency=1.0, saliency_labels=2))

    @jax.jit
    def sizes(x):
        return saliency(lambda x: network.label_log_probs(x, jnp.asarray(labels[0])), x)

    size = np.asarray(sizes(jnp.asarray(batch.features[0])))
    share = size / size.sum(1, keepdims=True) + 1e-8
    expected = -np.mean([np.log(share[0, :40]).mean(), np.log(share[1, 40:]).mean()])
    assert float(found) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("leaf", "depth"), [("stem", 0), ("block-1", 1)])
def test_the_saliency_that_is_trained_is_that_of_the_leaf_asked_for(tiny_bundle, leaf: str, depth: int):
    """The oracle: its Jacobian, whose norms lie on every fourth frame and between them on straight lines."""
    network, n_frames = tiny_bundle.network, 78
    labels = np.array([[1, 2]], np.int32)
    spans = np.array([[[0.0, 40.0], [40.0, 78.0]]], np.float32)
    batch = batch_of(labels, n_frames=n_frames, spans=spans)
    found, _, _ = trained(network, batch, LossConfig(saliency_leaf=leaf, saliency_labels=2))

    @jax.jit
    def jacobian(x):
        value = network.to_depth(x, depth, n_frames)
        return jax.jacrev(lambda y: network.label_log_probs(y, jnp.asarray(labels[0]), n_frames, depth=depth))(value)

    sizes = np.linalg.norm(np.asarray(jacobian(jnp.asarray(batch.features[0]))), axis=2)
    frame, real = np.arange(80), -(-n_frames // 4)
    fine = np.array([np.interp(frame, 4 * np.arange(real), row[:real]) for row in sizes])
    share = fine / fine.sum(1, keepdims=True) + 1e-8
    expected = -np.mean([np.log(share[0, :40]).mean(), np.log(share[1, 40:n_frames]).mean()])
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_labels_that_share_a_pull_back_each_count_on_the_frames_nearest_to_them(tiny_bundle, rng: np.random.Generator):
    network = tiny_bundle.network
    labels = np.array([[1, 2, 3, 1, 2]], np.int32)
    # The last one's time is not known: it takes no part.
    spans = np.array([[[0, 10], [10, 30], [32, 50], [50, 71], [-1, -1]]], np.float32)
    batch = batch_of(labels, spans=spans)
    config = LossConfig(saliency=1.0, saliency_labels=2, saliency_stride=2)
    found, _, _ = trained(network, batch, config)

    def score(x):
        return network.label_log_probs(x, jnp.asarray(labels[0]))

    x = jnp.asarray(batch.features[0])
    jacobian, sure = np.asarray(jax.jit(jax.jacrev(score))(x)), np.exp(np.asarray(jax.jit(score)(x)))
    lost = []
    # Frames 21 and 40 are as far from the end of the one as from the start of the other, and go to the first.
    for row, owned in [((0, 2), (range(22), range(22, 80))), ((1, 3), (range(41), range(41, 80)))]:
        together = np.linalg.norm(sum(jacobian[s] / (1.001 - sure[s]) for s in row), axis=1)
        for s, frames in zip(row, owned, strict=True):
            own = together[list(frames)] / together[list(frames)].sum()
            first, last = spans[0, s].astype(int)
            inside = [own[list(frames).index(t)] for t in range(first, last)]
            lost.append(-np.log(np.array(inside) + 1e-8).mean())
    assert float(found) == pytest.approx(np.mean(lost), rel=1e-3)


@pytest.mark.parametrize("stride", [0, 3])
def test_all_labels_are_trained_and_no_two_in_one_row_are_near(stride: int):
    known = jnp.arange(11) < 10
    config = LossConfig(saliency_labels=11, saliency_stride=stride)
    rows = np.asarray(chosen_labels(known, jax.random.key(1), config))
    assert sorted(rows[rows >= 0]) == list(range(11))
    for row in rows:
        assert all(np.diff(row[row >= 0]) == stride)


@pytest.mark.parametrize("stride", [0, 2])
def test_the_saliency_loss_ignores_examples_without_times(tiny_bundle, rng: np.random.Generator, stride: int):
    batch = batch_of(rng.integers(1, 4, size=(2, 2)).astype(np.int32))
    config = LossConfig(saliency=1.0, saliency_labels=2, saliency_stride=stride)
    assert float(trained(tiny_bundle.network, batch, config)[0]) == 0.0


# Where labels share a pull-back their weights in it are held, and finite differences would move them.
@pytest.mark.parametrize(
    ("leaf", "stride", "boundary", "silence"),
    [("features", 0, 0.0, 0.5), ("features", 4, 2.0, 0.0), ("features", 4, 1.0, 1.0), ("encoder", 4, 1.0, 1.0)],
)
def test_the_slope_of_the_saliency_losses_is_that_of_finite_differences(
    tiny_bundle, leaf: str, stride: int, boundary: float, silence: float
):
    labels = np.array([[1, 2, 3, 1]], np.int32)
    spans = np.array([[[0, 20], [20, 40], [45, 60], [60, 70]]], np.float32)
    batch = batch_of(labels, spans=spans)
    config = LossConfig(
        saliency_leaf=leaf,
        saliency_labels=2,
        saliency_stride=stride,
        saliency_boundary=boundary,
        saliency_silence=silence,
    )
    graph, params = nnx.split(tiny_bundle.network)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        spread, meeting, quiet = saliency_losses(nnx.merge(graph, params), batch, jax.random.key(0), config)
        return spread + boundary * meeting + silence * quiet

    _, slope = loss(params)
    # Along the slope itself, whose rise is its squared length.
    length = np.sqrt(sum(float(jnp.square(part).sum()) for part in jax.tree.leaves(slope)))

    def after(step: float) -> float:
        moved = jax.tree.map(lambda p, g: p + step * g / length, params, slope)
        return float(loss(moved)[0])

    assert (after(1e-2) - after(-1e-2)) / 2e-2 == pytest.approx(length, rel=0.03)


def test_the_boundary_loss_is_that_of_the_lattice_of_two_labels(rng: np.random.Generator):
    """The oracle: every boundary tried, and the lattice that aligns."""
    scores = jnp.asarray(rng.normal(size=(5, 30)), jnp.float32)
    # The third pair leaves a gap, the fourth has one way only.
    spans = jnp.asarray([[2, 8], [8.2, 15], [15, 21.4], [23, 24], [24, 25]], jnp.float32)
    taken = jnp.array([True, True, True, True, True])
    lost, pairs = boundary_losses(scores, taken, spans)
    assert pairs.tolist() == [True, True, False, False]
    for a, (first, meet, last) in enumerate([(2, 8, 15), (8, 15, 21)]):
        ways = [scores[a, first:b].sum() + scores[a + 1, b:last].sum() for b in range(first + 1, last)]
        expected = -jax.nn.log_softmax(jnp.array(ways))[meet - first - 1]
        assert float(lost[a]) == pytest.approx(float(expected), rel=1e-5)
        inside = scores[a : a + 2, first:last]
        found = forward_backward(inside, jnp.zeros(last - first), Topology.no_silence(2))
        assert float(lost[a]) == pytest.approx(-np.log(float(found.starts[1, meet - first])), rel=1e-4)
    assert boundary_losses(scores, taken.at[1].set(False), spans)[1].tolist() == [False] * 4


def test_boundaries_are_learnt_between_labels_of_neighbouring_pull_backs(tiny_bundle):
    """The same as the two saliencies alone give, where no label shares a pull-back with another."""
    network = tiny_bundle.network
    labels = np.array([[1, 2, 3]], np.int32)
    spans = np.array([[[0, 20], [20, 50], [50, 80]]], np.float32)
    config = LossConfig(saliency_labels=3, saliency_stride=3, saliency_boundary=1.0)
    batch = batch_of(np.repeat(labels, 1, axis=0), n_frames=78, spans=spans)
    _, found, _ = trained(network, batch, config)

    @jax.jit
    def sizes_of(x):
        return saliency(lambda x: network.label_log_probs(x, jnp.asarray(labels[0]), jnp.asarray(78)), x)

    sizes = sizes_of(jnp.asarray(batch.features[0]))
    shares = jnp.log(sizes / sizes.sum(1, keepdims=True) + 1e-8)
    lost, pairs = boundary_losses(shares, jnp.ones(3, bool), jnp.asarray(spans[0]))
    assert pairs.all()
    assert float(found) == pytest.approx(float(lost.mean()), rel=1e-3)


def test_the_silence_loss_asks_of_each_frame_whether_it_is_the_labels(tiny_bundle):
    """The oracle: the cross-entropy of two classes, frame by frame; in the first label and in what nobody says."""
    network = tiny_bundle.network
    labels = np.array([[1, 2]], np.int32)
    spans = np.array([[[10, 30], [50, 70]]], np.float32)
    batch = batch_of(labels, n_frames=78, spans=spans)
    config = LossConfig(saliency_labels=1, saliency_stride=2, saliency_silence=1.0)

    @jax.jit
    def sizes_of(x):
        return saliency(lambda x: network.label_log_probs(x, jnp.asarray(labels[0]), jnp.asarray(78)), x)

    shares = np.asarray(sizes_of(jnp.asarray(batch.features[0])), np.float64)
    shares /= shares.sum(1, keepdims=True)
    expected = []
    _, _, found = trained(network, batch, config)
    for label in (0, 1):
        first, last = map(int, spans[0, label])
        lost = []
        for t in range(78):
            speech = 1 / (1 + 1 / (shares[label, t] * 78))
            if first <= t < last:
                lost.append(-np.log(speech))
            elif not any(a <= t < b for a, b in spans[0]):
                lost.append(-np.log(1 - speech))
        expected.append(np.mean(lost))
    assert float(found) == pytest.approx(expected[0], rel=1e-3) or float(found) == pytest.approx(expected[1], rel=1e-3)
    assert expected[0] != pytest.approx(expected[1], rel=1e-2)
    # A label without times may lie anywhere: no frame is known to be silent then, those of the others count.
    spans[0, 1] = -1
    _, _, found = trained(network, batch._replace(spans=spans), config)
    said = [-np.log(1 / (1 + 1 / (shares[0, t] * 78))) for t in range(10, 30)]
    assert float(found) in (0.0, pytest.approx(np.mean(said), rel=1e-3))


def run(network: AED, batch: Batch, config: LossConfig = DEFAULT, shares: Shares = PLAIN, **options):
    return jax.jit(lambda key: losses(network, batch, key, shares, config, AugmentConfig(), **options))(
        jax.random.key(0)
    )


@pytest.fixture(scope="module")
def calm(tiny_bundle):
    """The tiny network without dropout, so that two passes can be compared."""
    import dataclasses

    _, params = nnx.split(tiny_bundle.network)
    config = dataclasses.replace(tiny_bundle.network.config, dropout=0.0)
    network = AED(config, rngs=nnx.Rngs(0))
    nnx.update(network, params)
    return network


def test_padding_of_frames_and_examples_changes_no_loss(calm, rng: np.random.Generator):
    labels = rng.integers(1, 4, size=(3, 4)).astype(np.int32)
    short, long = batch_of(labels), batch_of(labels, rows=160)
    empty = Batch(*(np.concatenate([part, np.zeros_like(part[:1])]) for part in long))
    expected, _ = run(calm, short)
    for padded in (long, empty):
        assert float(run(calm, padded)[0]) == pytest.approx(float(expected), rel=1e-4)


def test_weights_of_the_parts_add_up(calm, rng: np.random.Generator):
    batch = batch_of(rng.integers(1, 4, size=(2, 4)).astype(np.int32))
    for weight in (0.0, 0.3, 1.0):
        loss, parts = run(calm, batch, LossConfig(ctc=weight))
        expected = (1 - weight) * parts["attention"] + weight * parts["ctc"]
        assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    with_middle, parts = run(calm, batch, LossConfig(ctc=1.0, ctc_blocks=(1,), ctc_blocks_share=1.0))
    assert float(with_middle) != pytest.approx(float(parts["ctc"]), rel=1e-3)


def test_shares_of_one_are_the_learned_attention_and_of_none_the_prescribed_one(calm, rng: np.random.Generator):
    batch = batch_of(rng.integers(1, 4, size=(1, 4)).astype(np.int32))

    def passed(self_attention, cross_attention):
        return calm.training_pass(
            jnp.asarray(batch.features[0]),
            jnp.asarray(batch.n_frames[0]),
            jnp.asarray(batch.labels[0]),
            None,
            self_attention=self_attention,
            cross_attention=cross_attention,
        )

    plain, full = passed(None, None), passed(jnp.float32(1.0), jnp.float32(1.0))
    np.testing.assert_allclose(plain.log_probs, full.log_probs, atol=1e-5)
    centred = passed(None, jnp.float32(0.0))
    assert (np.asarray(centred.attention).argmax(-1) == 10).all()  # of 20 encoder frames
    np.testing.assert_allclose(np.asarray(centred.attention).max(-1), 1.0)

    # Without self-attention an encoder frame sees no further than stem and convolution reach.
    def reach(share):
        def out(x):
            return calm.training_pass(
                x, jnp.asarray(80), jnp.asarray(batch.labels[0]), None, self_attention=share
            ).ctc_log_probs[-1, 0, 1]

        return np.abs(jax.grad(out)(jnp.asarray(batch.features[0]))).max(1) > 0

    assert reach(jnp.float32(1.0))[60:].any()
    assert not reach(jnp.float32(0.0))[60:].any()


def test_a_decoder_may_not_mark_the_frames_it_reads(calm):
    config = dataclasses.replace(calm.config, memory_positions=False)
    network = AED(config, rngs=nnx.Rngs(0))
    memory = jnp.asarray(np.random.default_rng(0).normal(size=(12, config.dim)), jnp.float32)
    history, valid = jnp.asarray([0, 1, 2]), jnp.ones(12, bool)
    order = np.random.default_rng(1).permutation(12)

    def heard(network, memory):
        return np.asarray(network.decoder(history, memory, valid)[0])

    # It reads a set of frames; one that marks them reads a sequence.
    np.testing.assert_allclose(heard(network, memory[order]), heard(network, memory), atol=1e-5)
    assert np.abs(heard(calm, memory[order]) - heard(calm, memory)).max() > 1e-3


def test_positions_can_be_told_in_four_ways(calm):
    features = jnp.asarray(np.random.default_rng(0).normal(-10, 4, (80, 20)), jnp.float32)
    seen = {}
    for positions in ("relative", "absolute", "both", "none"):
        network = AED(dataclasses.replace(calm.config, positions=positions), rngs=nnx.Rngs(0))
        has = network.encoder.blocks.self_attention.position is not None
        assert has == (positions in ("relative", "both"))
        whole, *_ = network.encode(features)
        seen[positions] = np.asarray(whole)
        # The rest of the blocks from the middle is the same as all in one.
        middle = network.to_depth(features, 1)
        rest, *_ = network.encode(middle, 80, depth=1)
        np.testing.assert_allclose(rest, whole, atol=1e-4)
    assert np.abs(seen["none"] - seen["absolute"]).max() > 1e-2
    assert np.abs(seen["relative"] - seen["both"]).max() > 1e-2


def test_bfloat16_gives_nearly_the_same_loss_and_float32_results(calm, rng: np.random.Generator):
    batch = batch_of(rng.integers(1, 4, size=(2, 4)).astype(np.int32))
    graph, params = nnx.split(calm)
    half = nnx.merge(graph, jax.tree.map(lambda p: p.astype(jnp.bfloat16), params))
    (expected, _), (found, parts) = run(calm, batch), run(half, batch)
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(float(expected), rel=0.03)
    assert {value.dtype for value in parts.values()} == {jnp.dtype("float32")}


def test_the_loss_falls_on_a_planted_task(tiny_bundle, rng: np.random.Generator):
    network = AED(tiny_bundle.network.config, rngs=nnx.Rngs(1))
    graph, params = nnx.split(network)
    tx = optax.adam(3e-3)
    moments = tx.init(params)
    batch = batch_of(rng.integers(1, 4, size=(8, 4)).astype(np.int32))

    @jax.jit
    def step(params, moments, key):
        def loss_of(p):
            return losses(nnx.merge(graph, p), batch, key, PLAIN, LossConfig(), AugmentConfig())

        grads, metrics = jax.grad(loss_of, has_aux=True)(params)
        updates, moments = tx.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, metrics

    history = []
    for i in range(60):
        params, moments, metrics = step(params, moments, jax.random.key(i))
        history.append(float(metrics["loss"]))
    assert np.isfinite(history).all()
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:5])


def test_no_strength_means_no_augmentation(rng: np.random.Generator):
    x = rng.normal(size=(160, 20)).astype(np.float32)
    spans = np.array([[3.0, 50.0], [50.0, 90.0]], np.float32)
    y, n, moved = jax.jit(partial(augment, config=EVERYTHING))(x, 100, spans, jnp.float32(0.0), jax.random.key(0))
    np.testing.assert_array_equal(x, y)
    assert n == 100
    np.testing.assert_array_equal(spans, moved)


def test_a_pause_moves_all_that_follows_and_nothing_else(rng: np.random.Generator):
    n_labels, n, rows = 4, 100, 400
    spans = np.array([[5, 25], [25, 50], [55, 80], [80, 95], [-1, -1]], np.float32)
    x = np.full((rows, 6), -20.0, np.float32)
    for s in range(n_labels):
        x[int(spans[s, 0]) : int(spans[s, 1])] = s + 1
    at = set()
    for seed in range(40):
        y, m, moved = map(np.asarray, jax.jit(partial(interrupt, chance=1.0))(x, n, spans, key=jax.random.key(seed)))
        assert 20 <= m - n <= 120
        # Each label is where its span says, and what lies between them was pauses before or is the new one.
        for s in range(n_labels):
            first, last = moved[s].astype(int)
            assert last - first == spans[s, 1] - spans[s, 0]
            assert (y[first:last] == s + 1).all()
        assert (moved[-1] == -1).all()
        at.add(int(np.argmax(moved[:-1, 0] != spans[:-1, 0])) if (moved != spans).any() else n_labels)
    assert at == set(range(n_labels + 1))  # before each of them, and after the last


def test_a_pause_needs_room_and_known_times(rng: np.random.Generator):
    x = jnp.asarray(rng.normal(size=(60, 4)), jnp.float32)
    known = jnp.array([[5.0, 20.0], [20.0, 40.0]])
    pause = jax.jit(partial(interrupt, chance=1.0))
    for n, spans, most in [(60, known, 0), (50, known, 10), (20, -jnp.ones((2, 2)), 0)]:
        y, m, moved = pause(x, n, spans, key=jax.random.key(0))
        assert m == n + most
        if not most:
            np.testing.assert_array_equal(x, y)
            np.testing.assert_array_equal(spans, moved)


def test_stretching_keeps_order_and_proportion():
    x = jnp.arange(100.0)[:, None] * jnp.ones((1, 3))
    x = jnp.pad(x, ((0, 60), (0, 0)))
    for seed in range(5):
        y, n, rate = jax.jit(stretch)(x, jnp.int32(100), jax.random.key(seed))
        row = np.asarray(y)[: int(n) - 2, 0]
        assert (np.diff(row) > 0).all()
        np.testing.assert_allclose(np.diff(row), rate, rtol=1e-3)
        assert 100 / 1.2 - 1 <= n <= 100 / 0.85 + 1


def test_smooth_spectra_keep_their_first_cosines_and_their_mean_over_time(rng: np.random.Generator):
    """The oracle: SciPy's cosine transform."""
    n, rows = 90, 120
    x = rng.normal(size=(rows, 80)).astype(np.float32)
    before = scipy.fft.dct(x[:n], norm="ortho")
    for seed in range(5):
        y = np.asarray(jax.jit(partial(smooth, chance=1.0))(x, n, key=jax.random.key(seed)))
        np.testing.assert_array_equal(y[n:], x[n:])
        after = scipy.fft.dct(y[:n], norm="ortho")
        np.testing.assert_allclose(after[:, 41:], 0.0, atol=1e-4)
        # Each frame between itself and the mean of the five around it.
        around = before[np.clip(np.arange(n)[:, None] + np.arange(-2, 3), 0, n - 1)].mean(1)
        share = (after[:, :12] - before[:, :12]) / (around - before)[:, :12]
        assert 0 <= np.median(share) <= 1
        np.testing.assert_allclose(
            after[:, :12], before[:, :12] + np.median(share) * (around - before)[:, :12], atol=1e-3
        )
    np.testing.assert_array_equal(jax.jit(partial(smooth, chance=0.0))(x, n, key=jax.random.key(0)), x)


def test_augmented_features_are_finite(rng: np.random.Generator):
    x = jnp.asarray(rng.normal(-10, 4, size=(160, 80)), jnp.float32)
    spans = jnp.array([[0.0, 60.0], [60.0, 120.0]])
    for seed in range(5):
        y, n, _ = jax.jit(
            lambda key: augment(
                x, jnp.int32(120), spans, jnp.float32(1.0), key, EVERYTHING, background=x, n_background=90
            )
        )(jax.random.key(seed))
        assert np.isfinite(y).all()
        assert 0 < n <= 160


def test_background_speech_is_10_to_25_decibels_below_and_ends_where_it_ends(rng: np.random.Generator):
    x = jnp.full((60, 4), -12.0)
    other = jnp.full((60, 4), 3.0)
    for seed in range(5):
        y = np.asarray(babble(x, jnp.int32(50), other, jnp.int32(40), 1.0, jax.random.key(seed)))
        added = 10 / np.log(10) * np.log(np.exp(y[:40]) - np.exp(x[:40])) - 10 / np.log(10) * x[:40]
        assert ((added > -25.1) & (added < -9.9)).all()
        np.testing.assert_array_equal(y[40:], x[40:])
