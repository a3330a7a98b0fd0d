"""Lattice: best path and distributions against enumeration of every alignment, on sizes where that is possible."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest

from gradalign.errors import AlignmentError
from gradalign.evidence import ctc_scores
from gradalign.lattice import Moves, Path, Topology, check_feasible, forward_backward, spans, viterbi

N_LABELS, N_FRAMES = 3, 7

TOPOLOGIES = {
    "free": Topology.free(N_LABELS),
    "words": Topology.words([0, 0, 1]),
    "ctc": Topology.ctc([5, 5, 2]),
    "no_silence": Topology.no_silence(N_LABELS),
}
every_topology = pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=TOPOLOGIES.keys())

fast_viterbi = jax.jit(viterbi)
fast_forward_backward = jax.jit(forward_backward)


def random_scores(rng, n_labels=N_LABELS, n_frames=N_FRAMES):
    scores = rng.normal(scale=2.0, size=(n_labels, n_frames))
    return jnp.asarray(scores, jnp.float32), jnp.asarray(rng.normal(size=n_frames), jnp.float32)


def alignments(topology, n_frames=N_FRAMES):
    return list(oracles.all_alignments(n_frames, *map(np.asarray, topology)))


def test_topologies_say_where_silence_may_be():
    words = Topology.words([0, 0, 1])
    np.testing.assert_array_equal(words.silence_allowed, [True, False, True, True])
    assert words.skip_allowed.all()
    ctc = Topology.ctc([5, 5, 2])
    np.testing.assert_array_equal(ctc.skip_allowed, [True, False, True])
    assert ctc.silence_allowed.all()
    assert not Topology.no_silence(3).silence_allowed.any()
    assert Topology.free(3).silence_allowed.shape == (4,)


@every_topology
def test_viterbi_finds_a_best_path_even_among_ties(rng, topology):
    """Scores of -1, 0 and 1 make most optima shared; float32 adds them exactly."""
    paths = [oracles.frame_labels(spans, N_FRAMES) for spans in alignments(topology)]
    for _ in range(60):
        scores, silence = rng.integers(-1, 2, (N_LABELS, N_FRAMES)), rng.integers(-1, 2, N_FRAMES)
        best = max(oracles.score_of(path, scores, silence) for path in paths)
        found = fast_viterbi(jnp.asarray(scores, jnp.float32), jnp.asarray(silence, jnp.float32), topology)
        labels = np.asarray(found.labels)
        assert any(np.array_equal(labels, path) for path in paths)
        assert oracles.score_of(labels, scores, silence) == best == found.score


@every_topology
def test_viterbi_finds_the_best_path_of_random_scores(rng, topology):
    paths = [oracles.frame_labels(spans, N_FRAMES) for spans in alignments(topology)]
    for _ in range(20):
        scores, silence = random_scores(rng)
        totals = [oracles.score_of(path, np.asarray(scores), np.asarray(silence)) for path in paths]
        found = fast_viterbi(scores, silence, topology)
        np.testing.assert_array_equal(found.labels, paths[int(np.argmax(totals))])
        np.testing.assert_allclose(found.score, max(totals), rtol=1e-5)


@pytest.mark.parametrize("block", [1, 3])
def test_blocks_of_frames_change_nothing(rng, monkeypatch, block):
    """Of 7 frames, 5 of them real: with 3 a block, the last block has no real frame, and padding of its own."""
    scores, silence = random_scores(rng)
    topology = TOPOLOGIES["words"]
    paths = [oracles.frame_labels(spans, 5) for spans in alignments(topology, 5)]
    totals = [oracles.score_of(path, np.asarray(scores)[:, :5], np.asarray(silence)[:5]) for path in paths]
    monkeypatch.setattr("gradalign.lattice.BLOCK", block)
    found = viterbi(scores, silence, topology, n_frames=5)
    np.testing.assert_array_equal(found.labels[:5], paths[int(np.argmax(totals))])
    np.testing.assert_allclose(found.score, max(totals), rtol=1e-5)


def test_ties_go_to_the_latest_labels():
    labels = fast_viterbi(jnp.zeros((2, 5)), jnp.zeros(5), Topology.free(2)).labels
    np.testing.assert_array_equal(labels, [-1, -1, -1, 0, 1])
    labels = fast_viterbi(jnp.zeros((2, 5)), jnp.zeros(5), Topology.no_silence(2)).labels
    np.testing.assert_array_equal(labels, [0, 0, 0, 0, 1])


@every_topology
def test_forward_backward_is_the_average_over_all_alignments(rng, topology):
    for _ in range(5):
        scores, silence = random_scores(rng)
        expected = oracles.posteriors(np.asarray(scores), np.asarray(silence), *map(np.asarray, topology))
        found = fast_forward_backward(scores, silence, topology)
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def random_moves(rng, n_labels=N_LABELS, n_frames=N_FRAMES) -> Moves:
    sizes = [(n_labels, n_frames), (n_labels, n_frames), (n_labels + 1, n_frames)]
    return Moves(*(jnp.asarray(rng.normal(scale=2.0, size=size), jnp.float32) for size in sizes))


@every_topology
def test_boundaries_have_scores_of_their_own(rng, topology):
    """The best path and all posteriors against every alignment; what a score gains by is how likely its move is."""
    paths = [oracles.frame_labels(spans, N_FRAMES) for spans in alignments(topology)]

    def log_total(moves, scores, silence):
        return fast_forward_backward(scores, silence, topology, moves=moves).log_total

    for _ in range(5):
        (scores, silence), moves = random_scores(rng), random_moves(rng)
        given = (np.asarray(scores), np.asarray(silence))
        as_numpy = Moves(*map(np.asarray, moves))
        totals = np.array([oracles.score_of(path, *given, as_numpy) for path in paths])
        best = fast_viterbi(scores, silence, topology, moves=moves)
        np.testing.assert_array_equal(best.labels, paths[int(np.argmax(totals))])
        np.testing.assert_allclose(best.score, totals.max(), rtol=1e-5)
        found = fast_forward_backward(scores, silence, topology, moves=moves)
        for got, want in zip(found, oracles.posteriors(*given, *map(np.asarray, topology), as_numpy), strict=True):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)
        likely = Moves(*map(np.zeros_like, as_numpy))
        for path, share in zip(paths, np.exp(totals - np.logaddexp.reduce(totals)), strict=True):
            for kind, row, frame in oracles.moves_of(path):
                getattr(likely, kind)[row, frame] += share
        for got, want in zip(jax.grad(log_total)(moves, scores, silence), likely, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-5)


@every_topology
def test_posteriors_are_the_gradients_of_log_total(rng, topology):
    scores, silence = random_scores(rng)
    gradient = jax.grad(lambda x, y: fast_forward_backward(x, y, topology).log_total, argnums=(0, 1))
    found = fast_forward_backward(scores, silence, topology)
    for got, want in zip(gradient(scores, silence), (found.labels, found.silence), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_gradients_of_expected_starts_are_finite_and_equal_to_differences(rng):
    scores, silence = random_scores(rng)
    topology = TOPOLOGIES["words"]

    @jax.jit
    def expected_start(scores):
        return (fast_forward_backward(scores, silence, topology).starts[2] * jnp.arange(N_FRAMES)).sum()

    gradient = np.asarray(jax.jit(jax.grad(expected_start))(scores))
    assert np.all(np.isfinite(gradient))
    for index in [(0, 0), (1, 3), (2, 4), (2, 6)]:
        step = jnp.zeros_like(scores).at[index].set(1e-2)
        difference = (expected_start(scores + step) - expected_start(scores - step)) / 2e-2
        # Central differences in float32: the step gives 1e-4, rounding of a value near 5 gives 1e-4.
        np.testing.assert_allclose(gradient[index], difference, atol=1e-3)


def test_gradients_are_finite_on_the_shortest_possible_utterance(rng):
    """Every state but one a frame is unreachable or a dead end."""
    scores, silence = random_scores(rng, n_frames=N_LABELS)
    gradient = jax.grad(lambda s: fast_forward_backward(s, silence, TOPOLOGIES["free"]).log_total)(scores)
    np.testing.assert_allclose(gradient, np.eye(N_LABELS), atol=1e-6)


def test_a_planted_path_is_recovered(rng):
    planted = np.repeat([-1, 0, 1, -1, 2, 3, -1, 4, -1], rng.integers(1, 6, 9))
    holds = planted[None, :] == np.arange(5)[:, None]
    scores = jnp.asarray(rng.normal(size=holds.shape) + 8.0 * holds, jnp.float32)
    silence = jnp.asarray(8.0 * (planted < 0), jnp.float32)
    found = fast_viterbi(scores, silence, Topology.free(5))
    np.testing.assert_array_equal(found.labels, planted)
    for label, (first, last) in enumerate(np.asarray(spans(found.labels, 5))):
        np.testing.assert_array_equal(np.flatnonzero(planted == label), np.arange(first, last))


def test_equal_labels_may_touch_in_the_free_topology_but_not_in_ctc():
    scores = jnp.zeros((2, 3))
    silence = jnp.full(3, -5.0)
    np.testing.assert_array_equal(fast_viterbi(scores, silence, Topology.free(2)).labels, [0, 0, 1])
    np.testing.assert_array_equal(fast_viterbi(scores, silence, Topology.ctc([4, 4])).labels, [0, -1, 1])


@pytest.mark.parametrize("labels", [[1, 2], [2, 2], [1, 2, 2]])
def test_ctc_total_is_the_sum_over_all_labelings_that_collapse_to_the_labels(rng, labels):
    log_probs = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(6, 3)), jnp.float32))
    found = fast_forward_backward(*ctc_scores(log_probs, jnp.array(labels)), Topology.ctc(labels))
    np.testing.assert_allclose(found.log_total, oracles.ctc_log_total(np.asarray(log_probs), labels), rtol=1e-5)


def test_ctc_total_is_the_negative_of_the_optax_loss_with_padding(rng):
    logits = jnp.asarray(rng.normal(size=(2, 12, 6)), jnp.float32)
    labels = np.array([[3, 3, 1, 5], [2, 4, 0, 0]])
    n_labels, n_frames = np.array([4, 2]), np.array([12, 9])
    loss = optax.ctc_loss(
        logits, jnp.asarray(np.arange(12) >= n_frames[:, None]), labels, jnp.asarray(np.arange(4) >= n_labels[:, None])
    )
    scores, silence = jax.vmap(ctc_scores)(jax.nn.log_softmax(logits), jnp.asarray(labels))
    topologies = [Topology.ctc(row[:n]).padded(4) for row, n in zip(labels, n_labels, strict=True)]
    found = batched(forward_backward)(scores, silence, stacked(topologies), jnp.array(n_labels), jnp.array(n_frames))
    np.testing.assert_allclose(found.log_total, -loss, rtol=1e-5)


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def batched(function):
    def one(scores, silence, topology, n_labels, n_frames, moves=None):
        return function(scores, silence, topology, n_labels=n_labels, n_frames=n_frames, moves=moves)

    return jax.jit(jax.vmap(one))


@pytest.mark.parametrize("with_moves", [False, True], ids=["plain", "moves"])
@pytest.mark.parametrize("function", [viterbi, forward_backward])
def test_a_padded_batch_under_jit_is_a_loop_over_unpadded_utterances(rng, function, with_moves):
    topologies = [Topology.words([0, 0, 1, 1]), Topology.no_silence(2), Topology.free(0)]
    frames = [9, 2, 3]
    sizes = [(len(t.skip_allowed), n) for t, n in zip(topologies, frames, strict=True)]
    evidence = [random_scores(rng, *size) for size in sizes]
    # Padding that would win if it were looked at.
    scores = jnp.stack(
        [jnp.full((5, 11), 50.0).at[:s, :t].set(e[0]) for (s, t), e in zip(sizes, evidence, strict=True)]
    )
    silence = jnp.stack([jnp.full(11, 50.0).at[:t].set(e[1]) for (_, t), e in zip(sizes, evidence, strict=True)])
    n_labels, n_frames = jnp.array(sizes).T
    moves = [random_moves(rng, *size) if with_moves else None for size in sizes]
    padded = [
        jax.tree.map(lambda part, n=n, t=t: jnp.full((5 + len(part) - n, 11), 50.0).at[: len(part), :t].set(part), m)
        for m, (n, t) in zip(moves, sizes, strict=True)
    ]
    found = batched(function)(
        scores, silence, stacked([t.padded(5) for t in topologies]), n_labels, n_frames, stacked(padded)
    )
    for row, (utterance, topology) in enumerate(zip(evidence, topologies, strict=True)):
        alone = jax.jit(function)(*utterance, topology, moves=moves[row])
        for name, got, want in zip(alone._fields, (leaf[row] for leaf in found), alone, strict=True):
            whole = np.full(got.shape, -1 if function is viterbi else 0, want.dtype)
            whole[tuple(slice(size) for size in want.shape)] = want
            np.testing.assert_allclose(got, whole, atol=1e-6, rtol=1e-6, err_msg=name)


def test_more_padding_gives_the_same_path(rng):
    scores, silence = random_scores(rng)
    for topology in TOPOLOGIES.values():
        alone = fast_viterbi(scores, silence, topology)
        more = fast_viterbi(
            jnp.pad(scores, ((0, 2), (0, 3)), constant_values=9.0),
            jnp.pad(silence, (0, 3), constant_values=9.0),
            topology.padded(5),
            n_labels=3,
            n_frames=7,
        )
        np.testing.assert_array_equal(more.labels[:7], alone.labels)


@every_topology
def test_jit_is_eager(rng, topology):
    scores, silence = random_scores(rng)
    for fast, plain in [(fast_viterbi, viterbi), (fast_forward_backward, forward_backward)]:
        for got, want in zip(fast(scores, silence, topology), plain(scores, silence, topology), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-6, rtol=1e-6)


def test_long_utterances_in_float32_agree_with_float64():
    rng = np.random.default_rng(7)
    n_labels, n_frames = 400, 3000
    planted = np.sort(rng.integers(0, n_labels, n_frames))
    distance = np.abs(np.arange(n_labels)[:, None] - planted[None, :])
    scores = (-6 - 0.5 * np.minimum(distance, 20) + rng.normal(size=distance.shape)).astype(np.float32)
    silence = (-6 + rng.normal(size=n_frames)).astype(np.float32)
    best, occupancies, log_total = oracles.forward_backward_free(scores.astype(float), silence.astype(float))
    topology = Topology.free(n_labels)
    path = fast_viterbi(jnp.asarray(scores), jnp.asarray(silence), topology)
    found = fast_forward_backward(jnp.asarray(scores), jnp.asarray(silence), topology)
    exact = oracles.score_of(np.asarray(path.labels), scores.astype(float), silence.astype(float))
    assert best - 1e-3 < exact <= best + 1e-9
    np.testing.assert_allclose(found.log_total, log_total, rtol=1e-6)
    np.testing.assert_allclose(found.labels, occupancies, atol=1e-4)
    np.testing.assert_allclose(np.sum(found.starts, axis=1), 1.0, rtol=1e-4)
    np.testing.assert_allclose(np.sum(found.ends, axis=1), 1.0, rtol=1e-4)


def test_the_score_of_the_best_path_is_the_sum_along_it(rng):
    scores, silence = random_scores(rng)
    path = fast_viterbi(scores, silence, TOPOLOGIES["free"], n_frames=6)
    assert isinstance(path, Path)
    along = oracles.score_of(np.asarray(path.labels)[:6], np.asarray(scores), np.asarray(silence))
    np.testing.assert_allclose(path.score, along, rtol=1e-6)


def test_spans_are_half_open_and_empty_for_labels_not_on_the_path():
    path = jnp.array([-1, 0, 0, 1, -1, 2])
    np.testing.assert_array_equal(spans(path, 4), [[1, 3], [3, 4], [5, 6], [0, 0]])


@pytest.mark.parametrize("n_labels", [0, 1])
def test_one_frame_and_no_labels_work(n_labels):
    topology = Topology.free(n_labels)
    check_feasible(n_labels, 1, topology)
    found = fast_viterbi(jnp.full((n_labels, 1), 2.0), jnp.ones(1), topology)
    np.testing.assert_array_equal(found.labels, [n_labels - 1])
    assert found.score == 1 + n_labels
    posteriors = fast_forward_backward(jnp.full((n_labels, 1), 2.0), jnp.ones(1), topology)
    np.testing.assert_allclose(posteriors.log_total, 1.0 + n_labels)
    assert spans(found.labels, n_labels).shape == (n_labels, 2)


@pytest.mark.parametrize(
    ("topology", "needed"),
    [(Topology.free(3), 3), (Topology.no_silence(3), 3), (Topology.ctc([4, 4, 4]), 5), (Topology.free(0), 1)],
)
def test_feasible_means_that_an_alignment_exists(topology, needed):
    n_labels = len(topology.skip_allowed)
    assert alignments(topology, needed)
    check_feasible(n_labels, needed, topology.padded(9))
    with pytest.raises(AlignmentError, match=f"{n_labels} labels need at least {needed} frames.*got {needed - 1}"):
        check_feasible(n_labels, needed - 1, topology)


def test_an_infeasible_input_gives_finite_scores_that_show_it():
    scores, silence, topology = jnp.zeros((3, 4)), jnp.zeros(4), Topology.ctc([4, 4, 4])
    for total in (
        fast_viterbi(scores, silence, topology).score,
        fast_forward_backward(scores, silence, topology).log_total,
    ):
        assert np.isfinite(total)
        assert total < -1e29


def test_a_topology_without_any_path_is_reported():
    with pytest.raises(AlignmentError, match="before label 1 silence is both required and forbidden"):
        check_feasible(2, 99, Topology(jnp.zeros(3, bool), jnp.array([True, False])))
    with pytest.raises(AlignmentError, match="no label and no silence"):
        check_feasible(0, 99, Topology.no_silence(0))


def test_a_topology_is_not_padded_to_fewer_labels():
    with pytest.raises(ValueError, match="cannot pad a topology of 3 labels to 2"):
        Topology.free(3).padded(2)
