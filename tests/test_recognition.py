"""Recognition: CTC prefix scores against every frame labelling, the search against every label sequence."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gradalign.errors import AlignmentError
from gradalign.features import log_mel
from gradalign.label_search import NEVER, Prefixes, ctc_greedy, empty_prefix, extend, prefix_log_probs, search
from gradalign.lexicon import Lexicon
from gradalign.recognition import Hypothesis, features_of, greedy, recognise, recognise_words, word_list

N_FRAMES, N_LABELS = 5, 3


def log_softmax(x):
    return x - np.logaddexp.reduce(x, axis=-1, keepdims=True)


def collapse(labelling):
    return tuple(label for label, _ in itertools.groupby(labelling) if label > 0)


def sequence_probabilities(log_probs):
    """Probability of each label sequence, from every labelling of the frames."""
    found = {}
    for labelling in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        probability = np.exp(log_probs[np.arange(len(log_probs)), list(labelling)].sum())
        found[collapse(labelling)] = found.get(collapse(labelling), 0.0) + probability
    return found


def prefix_of(log_probs, labels):
    prefixes = empty_prefix(log_probs)
    for label in labels:
        prefixes = extend(log_probs, prefixes, np.array([label]))
    return prefixes


def sequences(longest, n_labels=N_LABELS):
    return [y for n in range(longest + 1) for y in itertools.product(range(1, n_labels + 1), repeat=n)]


class TableDecoder:
    """Random but fixed log-probabilities of the next label after each history."""

    def __init__(self, vocabulary):
        self.vocabulary = vocabulary

    def __call__(self, histories):
        rows = [np.random.default_rng([len(h), *h]).normal(scale=2.0, size=self.vocabulary) for h in histories]
        return log_softmax(np.stack(rows))

    def score(self, labels):
        steps = [*labels, 0]
        return sum(self([tuple(labels[:i])])[0, step] for i, step in enumerate(steps))


@pytest.fixture
def ctc(rng):
    return log_softmax(rng.normal(scale=1.5, size=(N_FRAMES, N_LABELS + 1)))


def all_scores(ctc, decoder, weight, longest):
    ctc_of = sequence_probabilities(ctc)
    return {y: (1 - weight) * decoder.score(y) + weight * np.log(ctc_of[y]) for y in sequences(longest) if y in ctc_of}


def test_prefix_scores_are_sums_over_all_frame_labellings(ctc):
    probability = sequence_probabilities(ctc)
    for prefix in sequences(3):
        found = prefix_log_probs(ctc, prefix_of(ctc, prefix))[0]
        assert found.shape == (N_LABELS + 1,)
        expected = [probability.get(prefix, 0.0)]
        for label in range(1, N_LABELS + 1):
            longer = (*prefix, label)
            expected.append(sum(p for y, p in probability.items() if y[: len(longer)] == longer))
        np.testing.assert_allclose(np.exp(found), expected, rtol=1e-9, atol=1e-300)


def test_prefixes_side_by_side_score_as_they_do_alone(ctc):
    ones = [prefix_of(ctc, prefix) for prefix in [(1, 1), (1, 2), (3, 1)]]
    together = Prefixes(*(np.concatenate(parts) for parts in zip(*ones, strict=True)))
    expected = np.concatenate([prefix_log_probs(ctc, one) for one in ones])
    np.testing.assert_allclose(prefix_log_probs(ctc, together), expected)
    longer = extend(ctc, together, np.array([1, 2, 3]))
    np.testing.assert_allclose(longer.blank[2], prefix_of(ctc, (3, 1, 3)).blank[0])
    np.testing.assert_array_equal(longer.last, [1, 2, 3])


def test_prefixes_that_do_not_fit_are_impossible_and_finite(ctc):
    crowded = prefix_log_probs(ctc, prefix_of(ctc, (1, 1, 1)))[0]  # needs 5 frames; one more 1 would need 7
    assert crowded[0] > -50
    assert np.all(crowded[1:] < NEVER / 2)
    assert np.all(np.isfinite(crowded))


def test_prefix_scores_hold_over_many_frames_of_hard_decisions():
    """A frame-by-frame loop over 600 frames whose log-probabilities reach -50."""
    ctc = log_softmax(np.random.default_rng(3).normal(scale=25.0, size=(600, 4)))
    labels = (1, 2, 2, 3, 1)
    states = np.full(2 * len(labels) + 1, -np.inf)
    states[0] = 0.0
    symbols = [0 if i % 2 == 0 else labels[i // 2] for i in range(len(states))]
    for row in ctc:
        new = states.copy()
        for i, symbol in enumerate(symbols):
            if i > 0:
                new[i] = np.logaddexp(new[i], states[i - 1])
            if i > 1 and symbol and symbol != symbols[i - 2]:
                new[i] = np.logaddexp(new[i], states[i - 2])
            new[i] += row[symbol]
        states = new
    expected = np.logaddexp(states[-1], states[-2])
    np.testing.assert_allclose(prefix_log_probs(ctc, prefix_of(ctc, labels))[0, 0], expected, rtol=1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("longest", [0, 1, 3])
def test_a_huge_beam_finds_every_sequence_in_order(ctc, weight, longest):
    decoder = TableDecoder(N_LABELS + 1)
    found = search(ctc, decoder, beam=1000, ctc_weight=weight, max_labels=longest)
    expected = sorted(all_scores(ctc, decoder, weight, longest).items(), key=lambda item: -item[1])
    assert [y for y, _ in found] == [y for y, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=1e-9)


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_no_result_is_longer_than_ctc_allows(ctc, weight):
    decoder = TableDecoder(N_LABELS + 1)
    found = search(ctc[:2], decoder, beam=200, ctc_weight=weight, max_labels=4)
    assert {y for y, _ in found} == set(sequence_probabilities(ctc[:2]))


def test_without_ctc_results_may_be_longer_than_frames(ctc):
    decoder = TableDecoder(N_LABELS + 1)
    found = search(ctc[:1], decoder, beam=1000, ctc_weight=0.0, max_labels=2)
    assert {y for y, _ in found} == set(sequences(2))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_beam_of_one_is_a_plain_greedy_loop(weight):
    decoder = TableDecoder(N_LABELS + 1)
    lengths = set()
    for seed in range(20):
        ctc = log_softmax(np.random.default_rng(seed).normal(scale=3.0, size=(N_FRAMES, N_LABELS + 1)))
        probability = sequence_probabilities(ctc)
        history, attention = (), 0.0
        while True:
            scores = []
            for label in range(N_LABELS + 1):
                longer = (*history, label) if label else history
                begins = sum(
                    p for y, p in probability.items() if (y == longer if label == 0 else y[: len(longer)] == longer)
                )
                step = attention + decoder([history])[0, label]
                ctc_score = weight * np.log(begins) if begins > 0 else (-np.inf if weight else 0.0)
                possible = label == 0 or len(history) < N_FRAMES
                scores.append((1 - weight) * step + ctc_score if possible else -np.inf)
            best = int(np.argmax(scores))
            if best == 0:
                break
            attention += decoder([history])[0, best]
            history = (*history, best)
        ((found, score),) = search(ctc, decoder, beam=1, ctc_weight=weight, max_labels=N_FRAMES)
        assert found == history
        np.testing.assert_allclose(score, scores[0])
        lengths.add(len(found))
    assert len(lengths) > 1 or weight == 0  # without CTC the twenty are one


def test_every_score_of_a_small_beam_is_the_score_of_its_labels(ctc):
    decoder = TableDecoder(N_LABELS + 1)
    expected = all_scores(ctc, decoder, 0.3, N_FRAMES)
    for beam in (1, 2, 3, 8):
        found = search(ctc, decoder, beam=beam, ctc_weight=0.3, max_labels=N_FRAMES)
        assert 1 <= len(found) <= beam
        assert [s for _, s in found] == sorted((s for _, s in found), reverse=True)
        assert len({y for y, _ in found}) == len(found)
        np.testing.assert_allclose([s for _, s in found], [expected[y] for y, _ in found])


def test_the_search_stops_once_no_prefix_can_win():
    decoder = TableDecoder(N_LABELS + 1)
    calls = []

    def counted(histories):
        calls.append(len(histories[0]))
        return decoder(histories)

    likely = np.full((40, 2), -8.0)
    likely[:, 0] = np.log1p(-np.exp(-8.0))
    found = search(likely, lambda histories: counted(histories)[:, :2], beam=3, ctc_weight=1.0, max_labels=40)
    assert found[0][0] == ()
    assert max(calls) < 10


def test_ctc_greedy_collapses_repeats_then_drops_blanks():
    assert ctc_greedy(np.log(np.eye(4)[[0, 1, 1, 0, 1, 2, 3, 3, 0]] + 1e-9)) == (1, 1, 2, 3)
    assert ctc_greedy(np.zeros((3, 2))) == ()
    assert ctc_greedy(np.zeros((0, 2))) == ()


def test_ctc_alone_agrees_with_the_greedy_labelling_where_that_is_certain(rng):
    best = np.array([0, 1, 1, 0, 1, 2, 0, 3, 3])
    ctc = log_softmax(20.0 * np.eye(4)[best] + rng.normal(size=(9, 4)))
    ((found, score), *_) = search(ctc, TableDecoder(4), beam=2, ctc_weight=1.0, max_labels=9)
    assert found == ctc_greedy(ctc) == (1, 1, 2, 3)
    np.testing.assert_allclose(score, 0.0, atol=1e-3)


@pytest.fixture(scope="module")
def waveform():
    return (0.1 * np.random.default_rng(5).normal(size=3200)).astype(np.float32)


@pytest.fixture(scope="module")
def network_scores(tiny_bundle, waveform):
    """Attention and CTC scores of all sequences of up to two labels, from the unpadded recording."""
    sequence = [y for y in sequences(2)]
    histories = jnp.array([[0, *y, 0, 0][:3] for y in sequence], jnp.int32)

    @jax.jit
    def run(samples):
        encoded, valid, _ = tiny_bundle.network.encode(log_mel(samples, tiny_bundle.features))
        log_probs = jax.vmap(lambda history: tiny_bundle.network.decoder(history, encoded, valid)[0])(histories)
        return log_probs, tiny_bundle.network.ctc_log_probs(encoded)

    log_probs, ctc = run(jnp.asarray(waveform))
    ctc_of = sequence_probabilities(np.asarray(ctc, np.float64))
    attention = [
        rows[np.arange(len(y) + 1), [*y, 0]].sum() for rows, y in zip(np.asarray(log_probs), sequence, strict=True)
    ]
    names = [tuple(tiny_bundle.labels[i - 1] for i in y) for y in sequence]
    return dict(zip(names, zip(attention, [np.log(ctc_of[y]) for y in sequence], strict=True), strict=True))


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_recognition_with_a_huge_beam_is_exhaustive_search_over_the_network(
    tiny_bundle, waveform, network_scores, weight
):
    found = recognise(tiny_bundle, waveform, beam=50, ctc_weight=weight, max_labels=2)
    scores = {y: (1 - weight) * att + weight * ctc for y, (att, ctc) in network_scores.items()}
    assert found.labels == max(scores, key=scores.__getitem__)
    assert {h.labels for h in found.n_best} == set(scores)
    # Sums of three float32 log-probabilities from another padding.
    np.testing.assert_allclose([h.log_prob for h in found.n_best], [scores[h.labels] for h in found.n_best], atol=1e-4)
    assert found.log_prob == found.n_best[0].log_prob


def test_recognition_is_bounded_by_the_encoder_frames_or_by_request(tiny_bundle, waveform):
    graph, state = nnx.split(tiny_bundle.network)
    endless = nnx.merge(graph, state)
    endless.decoder.project.bias[...] = np.array([-30.0, 5.0, 0.0, 0.0], np.float32)
    bundle = type(tiny_bundle)("endless", endless, tiny_bundle.features, tiny_bundle.labels)
    assert recognise(bundle, waveform, beam=1, ctc_weight=0.0).labels == ("A",) * 6  # 21 feature frames
    assert recognise(bundle, waveform, beam=2, ctc_weight=0.0, max_labels=3).labels == ("A",) * 3
    none = recognise(bundle, waveform, beam=1, ctc_weight=0.0, max_labels=0)
    assert none.n_best == (Hypothesis((), none.log_prob),)


def test_bad_options_are_all_named(tiny_bundle, waveform):
    with pytest.raises(ValueError, match=r"beam must be at least 1.*got 0; ctc_weight must lie in \[0, 1\], got 2"):
        recognise(tiny_bundle, waveform, beam=0, ctc_weight=2.0)
    with pytest.raises(ValueError, match="max_labels must be 0 or more, got -1"):
        recognise(tiny_bundle, waveform, max_labels=-1)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros(0, np.float32), "0 samples"),
        (np.zeros(100, np.float32), "silent"),
        (np.full(100, np.nan, np.float32), "NaN"),
        (np.zeros((100, 2), np.float32), r"shape \(100, 2\)"),
        (np.ones(16_000 * 61, np.float32), "61 s long, model 'tiny' takes at most 60 s"),
    ],
)
def test_recordings_that_cannot_be_recognised_have_their_message(tiny_bundle, bad, message):
    with pytest.raises(AlignmentError, match=message):
        recognise(tiny_bundle, bad)


def test_very_quiet_recordings_are_heard_like_louder_ones(tiny_bundle, waveform):
    quiet = features_of(waveform * np.float32(1e-2), tiny_bundle)
    np.testing.assert_allclose(
        quiet, features_of(waveform * np.float32(0.5 / np.abs(waveform).max()), tiny_bundle), atol=1e-4
    )
    expected = log_mel(jnp.asarray(waveform), tiny_bundle.features)
    np.testing.assert_allclose(features_of(waveform, tiny_bundle), expected, atol=1e-4)


# --- greedy, side by side


def babble(bundle):
    """A copy of the network that finds all labels about equally likely, so that it says one now and another then."""
    graph, state = nnx.split(bundle.network)
    network = nnx.merge(graph, state)
    samples = (0.2 * np.random.default_rng(0).normal(size=27_000)).astype(np.float32)
    encoded, valid, _ = network.encode(jnp.asarray(features_of(samples, bundle)))
    history = jnp.asarray(np.random.default_rng(1).integers(1, 4, size=40), jnp.int32)
    network.decoder.project.bias[...] -= network.decoder(history, encoded, valid)[0].mean(axis=0)
    network.decoder.project.bias[...] -= jnp.array([0.1, 0.0, 0.0, 0.0])  # or all would end at once
    network.ctc_head.bias[...] -= network.ctc_log_probs(encoded).mean(axis=0)
    return type(bundle)("babble", network, bundle.features, bundle.labels)


@pytest.fixture(scope="module")
def one_by_one(tiny_bundle):
    """A bundle, features of recordings of different lengths, and what each says on its own."""
    bundle = babble(tiny_bundle)
    rng = np.random.default_rng(3)
    samples = [(0.2 * rng.normal(size=n)).astype(np.float32) for n in (5000, 27_000, 9000)]
    features = [features_of(x, bundle) for x in samples]
    attention = [recognise(bundle, x, beam=1, ctc_weight=0.0).labels for x in samples]
    assert len(set(attention)) == 3
    assert max(len(set(labels)) for labels in attention) > 1
    assert max(map(len, attention)) > 32  # past the first length of histories
    ctc = [ctc_greedy(bundle.network.ctc_log_probs(bundle.network.encode(jnp.asarray(x))[0])) for x in features]
    assert len(set(ctc)) == 3
    return bundle, features, attention, ctc


@pytest.mark.parametrize("batch", [1, 8])
def test_greedy_side_by_side_is_greedy_one_by_one(one_by_one, batch):
    bundle, features, attention, ctc = one_by_one
    found = greedy(bundle.network, features, batch=batch)
    assert [tuple(bundle.labels[i - 1] for i in one.attention) for one in found] == attention
    assert [one.ctc for one in found] == ctc


def test_greedy_of_nothing_is_nothing_and_a_batch_holds_something(tiny_bundle):
    assert greedy(tiny_bundle.network, []) == []
    with pytest.raises(ValueError, match="at least 1 recording, got 0"):
        greedy(tiny_bundle.network, [], batch=0)


# --- words

VOCABULARY = {"ab": [("A", "B")], "k": [("K",), ("A", "K")], "ba": [("B", "A")]}


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_recognised_words_are_in_the_order_of_the_joint_score(tiny_bundle, weight):
    samples = (0.1 * np.random.default_rng(5).normal(size=3200)).astype(np.float32)
    found = recognise_words(tiny_bundle, samples, VOCABULARY, beam=5, ctc_weight=weight, word_penalty=0.7)
    assert [h.log_prob for h in found.n_best] == sorted((h.log_prob for h in found.n_best), reverse=True)
    assert len({h.words for h in found.n_best}) == len(found.n_best) == 5
    encoded, valid, _ = tiny_bundle.network.encode(log_mel(jnp.asarray(samples), tiny_bundle.features))
    ctc_of = sequence_probabilities(np.asarray(tiny_bundle.network.ctc_log_probs(encoded), np.float64))
    decode = jax.jit(lambda history: tiny_bundle.network.decoder(history, encoded, valid)[0])
    for hypothesis in found.n_best:
        ways = [[()]] + [VOCABULARY[word] for word in hypothesis.words]
        assert hypothesis.labels in {tuple(itertools.chain(*choice)) for choice in itertools.product(*ways)}
        ids = tuple(tiny_bundle.labels.index(label) + 1 for label in hypothesis.labels)
        log_probs = decode(jnp.array([0, *ids, *[0] * 8][:8]))
        attended = np.asarray(log_probs)[np.arange(len(ids) + 1), [*ids, 0]].sum()
        expected = (1 - weight) * attended + weight * np.log(ctc_of[ids]) - 0.7 * len(hypothesis.words)
        np.testing.assert_allclose(hypothesis.log_prob, expected, atol=1e-4)
    assert found.words == found.n_best[0].words


def test_the_penalty_of_a_word_is_half_that_of_equally_likely_words_unless_given(tiny_bundle, waveform):
    by_default = recognise_words(tiny_bundle, waveform, VOCABULARY, beam=3)
    assert by_default == recognise_words(tiny_bundle, waveform, VOCABULARY, beam=3, word_penalty=float(np.log(3)) / 2)
    none = recognise_words(tiny_bundle, waveform, VOCABULARY, beam=1, word_penalty=100.0)
    assert (none.words, none.labels) == ((), ())
    many = recognise_words(tiny_bundle, waveform, VOCABULARY, beam=1, word_penalty=-100.0)
    assert len(many.words) >= 3


def test_a_vocabulary_that_cannot_be_used_says_why(tiny_bundle, waveform):
    with pytest.raises(AlignmentError, match=r"model 'tiny' has no label for \['T'\]"):
        recognise_words(tiny_bundle, waveform, {"at": [("A", "T")]})
    with pytest.raises(ValueError, match="the vocabulary of 0 words holds no pronunciation"):
        recognise_words(tiny_bundle, waveform, {})
    with pytest.raises(ValueError, match="beam must be at least 1"):
        recognise_words(tiny_bundle, waveform, VOCABULARY, beam=0)
    with pytest.raises(ValueError, match="word_penalty must be finite, got nan"):
        recognise_words(tiny_bundle, waveform, VOCABULARY, word_penalty=float("nan"))


def test_a_word_list_holds_each_spoken_word_once_with_its_variants(caplog):
    found = word_list("The tomato\nCAT\n\ncat costs $20 сидит", Lexicon({"cat": [["K", "AE", "T"], ["K", "AA", "T"]]}))
    assert list(found) == ["the", "tomato", "cat", "costs", "twenty", "dollars"]
    assert found["cat"] == (("K", "AE", "T"), ("K", "AA", "T"))
    assert len(found["tomato"]) == 2
    assert "1 words of the list cannot be pronounced and were left out: сидит" in caplog.text


def test_a_list_without_words_is_refused():
    with pytest.raises(AlignmentError, match="no word that can be pronounced"):
        word_list("...\nсидит\n")
