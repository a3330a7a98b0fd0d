"""Losses and augmentation: right answers cost nothing, padding changes nothing, time order is kept."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gradalign.gradients import saliency
from gradalign.nn.aed import AED
from gradalign.training.augment import augment, babble, stretch
from gradalign.training.config import LossConfig
from gradalign.training.data import Batch
from gradalign.training.loss import (
    CTC_LIMIT,
    Shares,
    ctc_losses,
    decoder_losses,
    losses,
    saliency_loss,
    timing_losses,
)

PLAIN = Shares(jnp.float32(0.0), jnp.float32(0.0), None, None)

DEFAULT = LossConfig()


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
    found = ctc_losses(log_probs, jnp.asarray(batch.n_frames), batch, 4)
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
    frame, guide = timing_losses(batch, jnp.ones(2), jnp.asarray(both), jnp.asarray(attention))
    assert float(frame) == pytest.approx(0.0)
    assert float(guide) == pytest.approx(-np.log(1.01), abs=1e-5)
    slow, _ = timing_losses(batch, jnp.full(2, 0.5), jnp.asarray(both), jnp.asarray(attention))
    assert float(slow) > 1.0  # the same frames at half the rate are no longer right


def test_the_saliency_loss_is_the_cross_entropy_with_the_true_interval(tiny_bundle, rng: np.random.Generator):
    labels = rng.integers(1, 4, size=(1, 2)).astype(np.int32)
    spans = np.array([[[0.0, 40.0], [40.0, 80.0]]], np.float32)
    batch = batch_of(labels, spans=spans)
    network = tiny_bundle.network
    found = saliency_loss(
        network,
        batch,
        jnp.asarray(batch.features),
        jnp.asarray(batch.n_frames),
        jnp.ones(1),
        jax.random.key(0),
        LossConfig(saliency=1.0, saliency_labels=2),
    )
    size = np.asarray(
        saliency(lambda x: network.label_log_probs(x, jnp.asarray(labels[0])), jnp.asarray(batch.features[0]))
    )
    share = size / size.sum(1, keepdims=True) + 1e-8
    expected = -np.mean([np.log(share[0, :40]).mean(), np.log(share[1, 40:]).mean()])
    assert float(found) == pytest.approx(expected, rel=1e-3)


def test_the_saliency_loss_ignores_examples_without_times(tiny_bundle, rng: np.random.Generator):
    batch = batch_of(rng.integers(1, 4, size=(2, 2)).astype(np.int32))
    arguments = (jnp.asarray(batch.features), jnp.asarray(batch.n_frames), jnp.ones(2), jax.random.key(0))
    config = LossConfig(saliency=1.0, saliency_labels=2)
    assert float(saliency_loss(tiny_bundle.network, batch, *arguments, config)) == 0.0


def run(network: AED, batch: Batch, config: LossConfig = DEFAULT, shares: Shares = PLAIN, **options):
    return jax.jit(lambda key: losses(network, batch, key, shares, config, **options))(jax.random.key(0))


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
            return losses(nnx.merge(graph, p), batch, key, PLAIN, LossConfig())

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
    y, n, rate = jax.jit(augment)(x, 100, jnp.float32(0.0), jax.random.key(0))
    np.testing.assert_array_equal(x, y)
    assert n == 100
    assert rate == 1.0


def test_stretching_keeps_order_and_proportion():
    x = jnp.arange(100.0)[:, None] * jnp.ones((1, 3))
    x = jnp.pad(x, ((0, 60), (0, 0)))
    for seed in range(5):
        y, n, rate = jax.jit(stretch)(x, jnp.int32(100), jax.random.key(seed))
        row = np.asarray(y)[: int(n) - 2, 0]
        assert (np.diff(row) > 0).all()
        np.testing.assert_allclose(np.diff(row), rate, rtol=1e-3)
        assert 100 / 1.2 - 1 <= n <= 100 / 0.85 + 1


def test_augmented_features_are_finite(rng: np.random.Generator):
    x = jnp.asarray(rng.normal(-10, 4, size=(160, 80)), jnp.float32)
    for seed in range(5):
        y, n, _ = jax.jit(
            lambda key: augment(x, jnp.int32(150), jnp.float32(1.0), key, background=x, n_background=90, mix=1.0)
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
