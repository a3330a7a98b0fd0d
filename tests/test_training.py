"""Training: batches of fixed shapes, augmentation that keeps order, a loss that falls."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import soundfile
from flax import nnx

from gradalign.errors import AlignmentError
from gradalign.nn.aed import AED
from gradalign.training.augment import augment, stretch
from gradalign.training.data import BUCKETS, Batch, Corpus, batches, read_corpora
from gradalign.training.train import losses, timing_losses


def corpus(rng: np.random.Generator, n: int = 30) -> Corpus:
    """Utterances whose features tell their label: row value = label id."""
    labels = [rng.integers(1, 4, size=rng.integers(2, 6)).astype(np.int32) for _ in range(n)]
    features = [np.repeat(y, 20)[:, None].astype(np.float16) * np.ones((1, 20), np.float16) for y in labels]
    spans = [20.0 * np.arange(len(y))[:, None] + np.array([[0.0, 20.0]]) for y in labels]
    return Corpus("planted", features, labels, spans, 1.0)


def test_batches_have_the_shapes_of_their_buckets_and_keep_features_with_labels(rng: np.random.Generator):
    shapes = {(b.size, b.frames) for b in BUCKETS}
    stream = batches([corpus(rng)], seed=0)
    for _ in range(20):
        batch = next(stream)
        assert batch.features.shape[:2] in shapes
        for x, n, y, m in zip(batch.features, batch.n_frames, batch.labels, batch.n_labels, strict=True):
            assert (x[:n, 0].reshape(-1, 20)[:, 0] == y[:m]).all()
            assert not x[n:].any()
            assert not y[m:].any()


def test_spans_move_with_their_utterance(rng: np.random.Generator):
    stream = batches([corpus(rng)], seed=0)
    for _ in range(20):
        batch = next(stream)
        for m, at in zip(batch.n_labels, batch.spans, strict=True):
            np.testing.assert_array_equal(at[:m], 20 * np.arange(m)[:, None] + np.array([[0, 20]]))
            assert (at[m:] == -1).all()


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


def test_the_same_seed_gives_the_same_batches(rng: np.random.Generator):
    data = corpus(rng)
    first, second = next(batches([data], seed=5)), next(batches([data], seed=5))
    np.testing.assert_array_equal(first.features, second.features)


def test_easy_batches_hold_one_utterance_an_example(rng: np.random.Generator):
    stream = batches([corpus(rng)], seed=0, easy=10)
    assert all(next(stream).n_labels.max() < 6 for _ in range(10))


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
    x = rng.normal(-10, 4, size=(160, 80)).astype(np.float32)
    for seed in range(5):
        y, n, _ = jax.jit(augment)(x, 150, jnp.float32(1.0), jax.random.key(seed))
        assert np.isfinite(y).all()
        assert 0 < n <= 160


def test_the_loss_falls_on_a_planted_task(tiny_bundle, rng: np.random.Generator):
    network = AED(tiny_bundle.network.config, rngs=nnx.Rngs(1))
    graph, params = nnx.split(network)
    tx = optax.adam(3e-3)
    moments = tx.init(params)
    labels = rng.integers(1, 4, size=(8, 4)).astype(np.int32)
    features = np.repeat(labels, 20, axis=1)[:, :, None] * np.ones((1, 1, 20)) * 3.0 - 10.0
    batch = (
        features.astype(np.float32),
        np.full(8, 80, np.int32),
        labels,
        np.full(8, 4, np.int32),
        np.full((8, 4, 2), -1, np.float32),
    )

    @jax.jit
    def step(params, moments, key):
        def loss_of(p):
            return losses(nnx.merge(graph, p), Batch(*batch), key, jnp.float32(0.0), jnp.float32(0.0))

        grads, metrics = jax.grad(loss_of, has_aux=True)(params)
        updates, moments = tx.update(grads, moments, params)
        return optax.apply_updates(params, updates), moments, metrics

    history = []
    for i in range(60):
        params, moments, metrics = step(params, moments, jax.random.key(i))
        history.append(float(metrics["loss"]))
    assert np.isfinite(history).all()
    assert np.mean(history[-5:]) < 0.8 * np.mean(history[:5])


def test_a_manifest_becomes_features_and_labels(tiny_bundle, tmp_path: Path, rng: np.random.Generator):
    soundfile.write(tmp_path / "a.wav", 0.1 * rng.normal(size=16_000), 16_000)
    phones = [[0.0, 0.5, "A"], [0.5, 1.0, "K"]]
    line = {"audio_filepath": "a.wav", "text": "x", "set": "s", "id": "a", "phones": phones}
    (tmp_path / "m.jsonl").write_text(json.dumps(line) + "\n")
    for _ in range(2):  # the second time from the cache
        (found,) = read_corpora(tmp_path / "m.jsonl", {"s": 2.0}, tiny_bundle, tmp_path / "cache")
        assert found.features[0].shape == (101, 20)
        assert found.labels[0].tolist() == [1, 3]
        np.testing.assert_allclose(found.spans[0], [[0, 50], [50, 100]])
        assert found.weight == 2.0


def test_a_phone_the_model_lacks_is_named(tiny_bundle):
    with pytest.raises(AlignmentError, match=r"no label for \['ZH'\]"):
        tiny_bundle.ids(("A", "ZH"))
