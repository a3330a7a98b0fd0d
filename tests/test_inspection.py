"""The health report on models in which a reversal of time was planted, and on those in which none was."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from planted import CONFIG, FRAMES_PER_LABEL, features_of, labels_of, planted

from gradalign.analysis.diagonality import flip_index, label_flip_index
from gradalign.analysis.verdict import TimeOrder, time_order
from gradalign.inspection.health import MODULES, Examined, examine, health, inside_block
from gradalign.inspection.page import draw, table
from gradalign.plain import gradient_saliency

N_MODELS = 50


def examined(seed: int, n_encoder: int, **kwargs) -> Examined:
    bundle = planted(seed, n_encoder, **kwargs)
    return examine(bundle, features_of(seed, n_encoder), labels_of(bundle, n_encoder))


def cases(seed: int) -> tuple[int, int]:
    """A length, and a block."""
    rng = np.random.default_rng([9, seed])
    # Lengths of one bucket, so that one program serves all of them.
    return int(rng.integers(30, 41)), int(rng.integers(1, CONFIG.encoder_layers + 1))


def test_every_planted_reversal_is_found_in_its_block_and_its_flip_index_is_that_of_an_exact_one():
    readings = (None, "backwards", "forwards")
    for seed in range(N_MODELS):
        n, block = cases(seed)
        found = examined(seed, n, block=block, reading=readings[seed % 3])
        assert (found.order.order, found.order.block) == ("reversed", block), (seed, found)
        exact = 0.5 * n / (n - 1) if n % 2 == 0 else 0.5 * (n + 1) / n
        assert np.abs(found.measures.head_flip[block - 1] - exact).max() <= 1e-3, seed
        # Random convolutions of the other blocks blur the map of the whole encoder a little.
        assert np.abs(found.measures.frame_flip[1 : block + 1] - exact).max() <= 0.15, seed
        assert found.measures.dominance[block - 1].argmax() == MODULES.index("self-attention")
        if readings[seed % 3] == "backwards":
            # Labels that are read in the order in which they are said, behind an encoder that reversed it.
            assert found.measures.label_direction[0] > 0.5 > -0.5 > found.measures.cross_direction[0]


def test_no_straight_model_is_flagged():
    for seed in range(N_MODELS):
        n, block = cases(seed)
        sight = {"block": block, "sight": "self"} if seed % 2 else {}
        found = examined(100 + seed, n, reading=(None, "forwards")[seed // 2 % 2], **sight)
        assert found.order == TimeOrder("kept"), (seed, found)
        assert np.all(found.measures.frame_flip < -0.25)


def test_probed_flip_index_is_near_that_of_the_full_jacobian():
    n = 32
    features = features_of(3, n)

    @partial(jax.jit, static_argnames="graph")
    def flip_of_all_blocks_of_the_jacobian(graph, state):
        network = nnx.merge(graph, state)
        stem = network.to_depth(jnp.asarray(features), 0)
        _, pull_back = jax.vjp(lambda x: network.encode(x, len(features), depth=0)[0], stem)
        # Not by jax.jacrev: on CPU jaxlib 0.10.2 computes one batch of all these cotangents wrong, but not a few.
        unit = jnp.eye(stem.size).reshape(-1, *stem.shape)
        squares = jax.lax.map(lambda one: jnp.square(pull_back(one)[0]).sum(1), unit, batch_size=32)
        return flip_index(squares.reshape(*stem.shape, -1).sum(1))

    for seed in range(6):
        bundle = planted(seed, n, block=(None, 2, 4)[seed % 3])
        exact = float(flip_of_all_blocks_of_the_jacobian(*nnx.split(bundle.network)))
        found = examine(bundle, features, labels_of(bundle, n)).measures.frame_flip[1]
        assert abs(found - exact) <= 0.03
        assert (exact > 0.3) == (seed % 3 > 0)


def test_measures_are_those_of_the_unpadded_maps():
    n = 31
    bundle = planted(5, n, block=3, reading="backwards")
    features, labels = features_of(5, n), labels_of(bundle, n)
    found = examine(bundle, features, labels)
    ids = jnp.asarray(bundle.ids(labels))
    seen = jax.jit(bundle.network.intermediates)(jnp.asarray(features), ids)
    np.testing.assert_allclose(found.maps.cross_attention, seen.cross_attention.mean(1), atol=1e-5)
    for head in range(2):
        flip = float(flip_index(seen.encoder.attention[2, head]))
        assert found.measures.head_flip[2, head] == pytest.approx(flip, abs=1e-4)
    for depth, leaf in ((0, "features"), (4, "block-3")):
        alone = gradient_saliency(bundle, features, np.asarray(ids), leaf=leaf)
        np.testing.assert_allclose(found.maps.saliency[depth], alone, atol=1e-5 * alone.max(), rtol=1e-3)
        flip = float(label_flip_index(jnp.asarray(alone)))
        assert found.measures.label_flip[depth] == pytest.approx(flip, abs=1e-4)
    score = float(jnp.take_along_axis(seen.log_probs, ids[:, None], 1).mean())
    assert found.measures.label_log_prob == pytest.approx(score, abs=1e-4)


def test_behind_a_reversal_only_gradients_at_the_input_point_to_where_labels_are():
    n = 36
    bundle = planted(4, n, block=3, reading="backwards")
    found = examine(bundle, features_of(4, n), labels_of(bundle, n)).maps
    at_features, *_, at_encoder = (m.argmax(axis=1) for m in found.saliency)
    expected = FRAMES_PER_LABEL * (np.arange(len(at_encoder)) + 0.5)
    assert np.median(np.abs(at_features / 4 - expected)) < 2
    assert np.median(np.abs(at_encoder - (n - 1 - expected))) < 2


@pytest.mark.parametrize("valid", [9, 6])
def test_what_is_seen_inside_a_block_is_what_the_block_does(rng, valid):
    network = planted(1, 30).network
    graph, state = nnx.split(network.encoder.blocks)
    block = nnx.merge(graph, jax.tree.map(lambda p: p[1], state))
    x, real = jnp.asarray(rng.normal(size=(9, CONFIG.dim)), jnp.float32), jnp.arange(9) < valid
    out, modules, weights = inside_block(block, x, real)
    expected, expected_weights = block(x, real)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    np.testing.assert_allclose(weights, expected_weights, atol=1e-6)
    first = 0.5 * np.asarray(block.first_feed_forward(x))[:valid]
    ratio = np.linalg.norm(first, axis=1).mean() / np.linalg.norm(np.asarray(x)[:valid], axis=1).mean()
    assert modules[0] == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("n_encoder", [2, 3])
def test_a_very_short_utterance_has_finite_measures(n_encoder):
    bundle = planted(0, n_encoder)
    found = examine(bundle, features_of(0, n_encoder), bundle.labels[:1])
    assert all(np.isfinite(part).all() for part in found.measures)


def test_nothing_to_measure_is_said_so():
    bundle = planted(0, 30)
    with pytest.raises(ValueError, match="4 frames and 1 labels say nothing about order; expected 5 and 1 at least"):
        examine(bundle, features_of(0, 30)[:4], ("1",))
    with pytest.raises(ValueError, match="at least one utterance"):
        health(bundle, [])


# --- the verdict from numbers


verdict = partial(time_order, label_flips=[0.0] * 5)


def test_verdicts_of_flip_indices_by_depth():
    assert str(verdict([-0.4, -0.4, -0.4, -0.4, -0.5])) == "encoder keeps time order"
    assert str(verdict([0.4, 0.4, 0.4, -0.4, -0.5])) == "encoder reverses time in block 2"
    assert str(verdict([0.4, 0.4, 0.03, -0.4, -0.5])) == "encoder reverses time in block 2"
    assert str(verdict([0.4, -0.4, -0.4, -0.4, -0.5])) == "encoder reverses time in the stem"
    assert str(verdict([-0.4, -0.4, 0.4, -0.4, -0.5])) == (
        "mixed: time is turned around more than once, in block 1, block 2"
    )
    assert str(verdict([0.01, -0.01, 0.0, -0.4, -0.5])) == "mixed: neither frames nor labels show a clear order"


def test_labels_decide_where_frames_are_unclear_and_object_where_both_are_clear():
    unclear, falls_at_2 = [0.0, 0.0, 0.0, 0.0, -0.5], [-0.3, -0.3, -0.3, 0.3, 0.4]
    assert time_order(unclear, falls_at_2) == TimeOrder("reversed", 2)
    assert time_order(unclear, [-0.3, -0.3, -0.3, -0.3, -0.4]) == TimeOrder("kept")
    found = time_order([-0.5] * 5, falls_at_2)
    assert str(found) == (
        "mixed: by its frames the encoder keeps time order, by the saliency of labels the encoder reverses time in "
        "block 2"
    )
    # Labels that fall already at the features say nothing about the encoder.
    assert time_order([-0.5] * 5, [0.3] * 5) == TimeOrder("kept")


def test_a_verdict_needs_two_depths_and_a_block_a_reversal():
    with pytest.raises(ValueError, match="as many frame as label flip indices, and two at least, got 1 and 2"):
        time_order([0.1], [0.1, 0.2])
    with pytest.raises(ValueError, match="a block goes with"):
        TimeOrder("kept", 3)


# --- several utterances


def test_a_report_averages_utterances_and_is_mixed_where_they_disagree():
    reverse = partial(examined, 1, 30, block=2, reading="backwards")
    keep = partial(examined, 2, 30, block=2, sight="self", reading="forwards")
    bundle = planted(1, 30)
    both = health(bundle, [reverse(), reverse(), reverse()])
    assert str(both.order) == "encoder reverses time in block 2"
    assert both.depths == ("features", "stem", "block-1", "block-2", "block-3", "block-4")
    np.testing.assert_allclose(both.measures.frame_flip, reverse().measures.frame_flip, atol=1e-6)
    doubtful = health(bundle, [reverse(), reverse(), keep()])
    assert doubtful.order.order == "mixed"
    found = json.loads(json.dumps(both.to_dict()))
    assert (found["order"], found["block"], len(found["measures"]["frame_flip"])) == ("reversed", 2, 6)
    assert all(name in table(both) for name in both.depths)


def test_the_page_shows_a_map_for_each_depth(tmp_path):
    report = health(planted(1, 30), [examined(1, 30, block=2, reading="backwards")])
    figure = draw(report, path=tmp_path / "report.png")
    assert (tmp_path / "report.png").stat().st_size > 20_000
    assert "reverses time in block 2" in figure.get_suptitle()
    titles = " ".join(axes.get_title(loc="left") for axes in figure.axes)
    assert all(depth in titles for depth in report.depths)
