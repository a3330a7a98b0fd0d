"""Measures against numbers worked by hand, and pairings against all pairings there are."""

import json
import math
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import tier_edges, words_tiers

from gradalign.alignment import Alignment, Interval, Tier
from gradalign.metrics import BoundaryScore, Comparison, compare
from gradalign.pairing import Match, boundaries, count_hits, normalise_phone, normalise_word, pair_units

# beartype looks at one random element of a sequence, which Hypothesis takes for a strategy's doing.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


def tier(*rows: tuple[str, float, float], name: str = "words") -> Tier:
    return Tier(name, tuple(Interval(start, end, label) for label, start, end in rows))


REFERENCE = tier(("the", 0.10, 0.30), ("cat", 0.30, 0.70), ("sat", 0.80, 1.20))
# Errors of start and end in ms:      +10, +20               +20, -40               +100, 0
HYPOTHESIS = tier(("The", 0.11, 0.32), ("cat,", 0.32, 0.66), ("sat", 0.90, 1.20))


@pytest.fixture
def three() -> Comparison:
    return compare(REFERENCE, HYPOTHESIS)


# Measures by hand


def test_errors_of_three_words_worked_by_hand(three: Comparison) -> None:
    np.testing.assert_allclose(three.boundary_errors_s, [[0.01, 0.02], [0.02, -0.04], [0.1, 0.0]], atol=1e-12)
    np.testing.assert_allclose(three.unit_tse_s, [0.015, 0.03, 0.05], atol=1e-12)
    assert three.tse_s == pytest.approx(0.095 / 3)
    assert three.tse_median_s == pytest.approx(0.03)
    assert three.tse_edge_s == pytest.approx(0.0325)
    assert three.tse_interior_s == pytest.approx(0.03)
    assert three.start_error_s == pytest.approx(0.13 / 3)
    assert three.end_error_s == pytest.approx(0.02)
    assert three.start_bias_s == pytest.approx(0.13 / 3)
    assert three.end_bias_s == pytest.approx(-0.02 / 3)
    assert three.centre_error_s == pytest.approx((0.015 + 0.01 + 0.05) / 3)
    assert three.tse_charged_s == three.tse_s


def test_shares_within_a_tolerance_include_errors_equal_to_it(three: Comparison) -> None:
    assert [three.boundaries_within(t) * 6 for t in (0.01, 0.02, 0.025, 0.05, 0.1)] == pytest.approx([2, 4, 4, 5, 6])
    assert [three.units_within(t) * 3 for t in (0.01, 0.02, 0.03, 0.05)] == pytest.approx([0, 1, 2, 3])
    assert 0.32 - 0.30 > 0.02, "floating point, not the measure, makes this exceed 20 ms"
    assert compare(tier(("a", 0.30, 1.0)), tier(("a", 0.32, 1.0))).boundaries_within(0.02) == 1


def test_boundaries_are_scored_as_sets_with_touching_ends_once(three: Comparison) -> None:
    # Reference 0.10 0.30 0.70 0.80 1.20, hypothesis 0.11 0.32 0.66 0.90 1.20: three hits within 20 ms.
    score = three.boundary_score(0.02)
    assert score == BoundaryScore(3, 5, 5)
    assert (score.precision, score.recall, score.f1) == pytest.approx((0.6, 0.6, 0.6))
    # OS = 0: r1 = 0.4, r2 = -0.4 / sqrt(2).
    assert score.r_value == pytest.approx(1 - (0.4 + 0.4 / math.sqrt(2)) / 2)


@pytest.mark.parametrize(
    ("score", "r_value"),
    [
        (BoundaryScore(10, 10, 10), 1.0),
        # HR 0.8, OS 0.5: r1 = sqrt(0.29), r2 = -0.7 / sqrt(2).
        (BoundaryScore(8, 10, 15), 1 - (math.sqrt(0.29) + 0.7 / math.sqrt(2)) / 2),
        # HR 0.5, OS -0.5: r1 = sqrt(0.5), r2 = 0.
        (BoundaryScore(5, 10, 5), 1 - math.sqrt(0.5) / 2),
    ],
)
def test_r_value_by_hand(score: BoundaryScore, r_value: float) -> None:
    assert score.r_value == pytest.approx(r_value)


def test_micro_weighs_words_and_macro_weighs_recordings(three: Comparison) -> None:
    other = compare(tier(("a", 0.0, 1.0)), tier(("a", 0.1, 1.0)))
    both = Comparison.pooled([three, other])
    assert both.tse_s == pytest.approx((0.095 + 0.05) / 4)
    assert both.tse_macro_s == pytest.approx((0.095 / 3 + 0.05) / 2)
    assert both.tse_edge_s == pytest.approx((0.015 + 0.05 + 0.05) / 3)
    assert both.boundary_score() == BoundaryScore(4, 7, 7)
    assert len(both.utterances) == 2


def test_pooling_does_not_match_boundaries_across_recordings() -> None:
    one = compare(tier(("a", 0.0, 1.0)), tier(("a", 2.0, 3.0)))
    other = compare(tier(("a", 2.0, 3.0)), tier(("a", 0.0, 1.0)))
    assert Comparison.pooled([one, other]).boundary_score().n_hits == 0


def test_a_missing_unit_fails_every_tolerance_and_is_charged_the_most_it_could_have_cost() -> None:
    reference = Alignment(2.0, (tier(("a", 0.0, 0.4), ("b", 0.4, 0.8), ("c", 1.0, 1.4)),))
    hypothesis = Alignment(2.0, (tier(("a", 0.0, 0.4), ("c", 1.0, 1.4)),))
    found = compare(reference, hypothesis)
    assert (found.n_reference, found.n_matched, found.n_missing, found.n_extra, found.n_hypothesis) == (3, 2, 1, 0, 2)
    assert found.tse_s == 0
    assert found.tse_charged_s == pytest.approx(1.4 / 3), "b's midpoint is 0.6 s, the far end 1.4 s away"
    assert found.boundaries_within(10.0) == pytest.approx(2 / 3)
    assert found.units_within(10.0) == pytest.approx(2 / 3)
    assert found.boundary_score().recall == pytest.approx(4 / 5)


@given(tier_edges(), tier_edges(), st.data())
def test_leaving_a_unit_out_never_pays(reference: list[float], hypothesis: list[float], data: st.DataObject) -> None:
    n = min(len(reference), len(hypothesis)) - 1
    right, placed = (Tier("words", tuple(spelled(edges[: n + 1]))) for edges in (reference, hypothesis))
    without = data.draw(st.integers(0, n - 1))
    fewer = Tier("words", placed.intervals[:without] + placed.intervals[without + 1 :])
    whole, lacking = (compare(right, Alignment(50.0, (found,))).tse_charged_s for found in (placed, fewer))
    assert lacking >= whole - 1e-9


def spelled(edges: list[float]) -> list[Interval]:
    return [Interval(a, b, f"word{n}") for n, (a, b) in enumerate(pairwise(edges))]


def test_an_extra_unit_costs_precision_and_shifts_nothing() -> None:
    found = compare(REFERENCE, tier(("the", 0.1, 0.3), ("big", 0.3, 0.4), ("cat", 0.4, 0.7), ("sat", 0.8, 1.2)))
    assert (found.n_matched, found.n_missing, found.n_extra) == (3, 0, 1)
    np.testing.assert_allclose(found.unit_tse_s, [0, 0.05, 0], atol=1e-12)
    assert found.boundary_score().precision == pytest.approx(5 / 6)
    assert found.boundary_score().recall == 1


def test_of_two_equal_words_the_nearer_one_is_paired() -> None:
    twice = tier(("no", 0.0, 0.4), ("no", 1.0, 1.4))
    assert compare(twice, tier(("no", 1.0, 1.4))).tse_s == 0
    assert compare(twice, tier(("no", 0.0, 0.4))).tse_s == 0
    assert compare(tier(("no", 1.0, 1.4)), twice).tse_s == 0


def test_substituted_labels_pair_only_by_position() -> None:
    reference = tier(("AE1", 0.0, 0.5), ("T", 0.5, 1.0), name="phones")
    hypothesis = tier(("eh", 0.1, 0.6), ("t", 0.6, 1.0), name="phones")
    by_label = compare(reference, hypothesis)
    assert (by_label.n_matched, by_label.n_missing, by_label.n_extra, by_label.n_substituted) == (1, 1, 1, 0)
    by_position = compare(reference, hypothesis, match="position")
    assert (by_position.n_matched, by_position.n_missing, by_position.n_substituted) == (2, 0, 1)
    assert by_position.tse_s == pytest.approx(0.075)


def test_stress_and_case_of_phones_and_punctuation_of_words_do_not_matter() -> None:
    assert normalise_phone("AH0") == normalise_phone("ah") == "ah"
    assert normalise_phone("@") == "@"
    assert normalise_phone("2") == "2"
    assert normalise_word("Don’t!") == normalise_word("dont") == "dont"
    assert normalise_word("naïve") == normalise_word("NAI\u0308VE")
    assert normalise_word("...") == "..."
    assert normalise_word("हिन्दी,") == "हिन्दी"


def test_alignments_are_compared_by_the_tier_asked_for() -> None:
    phones = tier(("K", 0.3, 0.4), ("AE1", 0.4, 0.5), name="phones")
    other = tier(("k", 0.3, 0.4), ("ae0", 0.4, 0.6), name="phones")
    reference, hypothesis = Alignment(2.0, (REFERENCE, phones)), Alignment(2.0, (HYPOTHESIS, other))
    assert compare(reference, hypothesis).n_matched == 3
    assert compare(reference, hypothesis, tier="phones").tse_s == pytest.approx(0.025)
    assert compare(reference, other, tier="phones").tse_s == pytest.approx(0.025)
    with pytest.raises(KeyError, match="no tier 'syllables'"):
        compare(reference, hypothesis, tier="syllables")


# What is not defined says so


def test_measures_without_a_pair_raise_and_are_none_in_the_dictionary() -> None:
    found = compare(tier(("a", 0.0, 1.0)), tier(("b", 0.0, 1.0)))
    for name in ("tse_s", "tse_macro_s", "tse_median_s", "tse_interior_s", "centre_error_s", "start_bias_s"):
        with pytest.raises(ValueError, match=r"no paired unit.*match=\"position\""):
            getattr(found, name)
    assert found.units_within(0.1) == 0
    assert found.tse_charged_s == 0.5
    values = found.to_dict()
    assert values["tse_s"] is None
    assert values["boundaries_at_0.02"]["recall"] == 1
    assert "TSE" in str(found)


def test_empty_sides_have_counts_but_no_ratio_over_nothing() -> None:
    nothing = compare(REFERENCE, tier())
    assert (nothing.n_missing, nothing.n_extra, nothing.n_matched) == (3, 0, 0)
    assert nothing.boundary_score().f1 == 0
    assert nothing.boundary_score().recall == 0
    with pytest.raises(ValueError, match="hypothesis has no boundaries"):
        _ = nothing.boundary_score().precision
    unasked = compare(tier(), HYPOTHESIS)
    assert (unasked.n_reference, unasked.n_extra) == (0, 3)
    for measure in (lambda: unasked.boundaries_within(0.1), lambda: unasked.units_within(0.1)):
        with pytest.raises(ValueError, match="reference has no units"):
            measure()
    for measure in (lambda: unasked.boundary_score().recall, lambda: unasked.boundary_score().r_value):
        with pytest.raises(ValueError, match="reference has no boundaries"):
            measure()
    for empty in (compare(tier(), tier()), Comparison.pooled([])):
        assert empty.to_dict()["boundaries_at_0.02"]["f1"] is None
        assert "0 reference units" in str(empty)


def test_interior_is_not_defined_for_two_words_and_macro_leaves_unpaired_recordings_out() -> None:
    two = compare(tier(("a", 0.0, 1.0), ("b", 1.0, 2.0)), tier(("a", 0.0, 1.2), ("b", 1.2, 2.0)))
    assert two.to_dict()["tse_interior_s"] is None
    unpaired = compare(REFERENCE, tier())
    assert Comparison.pooled([two, unpaired]).tse_macro_s == two.tse_s


# Output


def test_the_dictionary_is_json_and_the_table_shows_milliseconds(three: Comparison) -> None:
    values = json.loads(json.dumps(three.to_dict(), allow_nan=False))
    assert values["n_utterances"] == 1
    assert values["tse_s"] == three.tse_s
    assert values["boundaries_within"]["0.025"] == three.boundaries_within(0.025)
    text = str(three)
    assert "1 recordings, 3 reference units: 3 paired (0 with other labels), 0 missing, 0 extra" in text
    assert any(line.split() == ["TSE", "31.7", "ms"] for line in text.splitlines())
    assert any(line.split() == "within 20 ms: boundaries, units 66.7 % 33.3 %".split() for line in text.splitlines())


# Bootstrap


def shifted(by: float) -> Comparison:
    return compare(tier(("a", 1.0, 2.0)), tier(("a", 1.0 + by, 2.0 + by)))


def test_the_bootstrap_interval_of_a_mean_agrees_with_the_normal_one(rng: np.random.Generator) -> None:
    sizes = rng.uniform(0, 0.1, 100)
    pooled = Comparison.pooled(shifted(float(size)) for size in sizes)
    low, high = pooled.bootstrap(lambda c: c.tse_s)
    half = 1.96 * sizes.std() / math.sqrt(len(sizes))
    # 1000 draws leave a percentile's place uncertain by about a tenth of the half width.
    assert low == pytest.approx(sizes.mean() - half, abs=half / 3)
    assert high == pytest.approx(sizes.mean() + half, abs=half / 3)
    assert (low, high) == pooled.bootstrap(lambda c: c.tse_s)
    assert (low, high) != pooled.bootstrap(lambda c: c.tse_s, seed=1)
    inner = pooled.bootstrap(lambda c: c.tse_s, level=0.5)
    assert low < inner[0] < inner[1] < high


def test_the_bootstrap_of_equal_recordings_has_no_width() -> None:
    assert Comparison.pooled([shifted(0.25)] * 3).bootstrap(lambda c: c.tse_s, n=10) == (0.25, 0.25)


def test_a_difference_is_surer_than_what_it_is_between(rng: np.random.Generator) -> None:
    """Two methods that find the same recordings hard, one of them 10 ms better on average."""
    hard, spread = rng.uniform(0.1, 0.9, 100), rng.normal(0.01, 0.004, 100)
    ours = Comparison.pooled(shifted(float(by)) for by in hard)
    theirs = Comparison.pooled(shifted(float(by)) for by in hard + spread)
    low, high = theirs.bootstrap_difference(ours, lambda c: c.tse_s)
    half = 1.96 * spread.std() / math.sqrt(len(spread))
    assert low == pytest.approx(spread.mean() - half, abs=half / 3)
    assert high == pytest.approx(spread.mean() + half, abs=half / 3)
    assert ours.bootstrap_difference(theirs, lambda c: c.tse_s) == pytest.approx((-high, -low))
    assert ours.bootstrap_difference(ours, lambda c: c.tse_s) == (0.0, 0.0)


def test_a_bootstrap_that_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        shifted(0.1).bootstrap(lambda c: c.tse_s)
    two = Comparison.pooled([shifted(0.1), shifted(0.2)])
    for n, level in ((0, 0.95), (10, 0.0), (10, 1.0)):
        with pytest.raises(ValueError, match="needs n > 0 and 0 < level < 1"):
            two.bootstrap(lambda c: c.tse_s, n=n, level=level)
    with pytest.raises(
        ValueError, match="the same recordings on both sides, got 2 with 2 reference units and 1 with 1"
    ):
        two.bootstrap_difference(shifted(0.1), lambda c: c.tse_s)


# Pairing against every pairing


def all_pairings(n: int, m: int) -> list[list[tuple[int, int]]]:
    return [
        list(zip(left, right, strict=True))
        for size in range(min(n, m) + 1)
        for left in combinations(range(n), size)
        for right in combinations(range(m), size)
    ]


def cost(pairs: list[tuple[int, int]], a: list[str], b: list[str], x: np.ndarray, y: np.ndarray) -> tuple[int, float]:
    edits = len(a) + len(b) - 2 * len(pairs) + sum(a[i] != b[j] for i, j in pairs)
    return edits, round(float(sum(abs(x[i] - y[j]) for i, j in pairs)), 9)


short_texts = st.lists(st.sampled_from("ab"), max_size=5)


@given(short_texts, short_texts, st.sampled_from(["label", "position"]), st.integers(0, 2**32 - 1))
def test_pairs_have_the_fewest_edits_and_then_the_least_distance(
    a: list[str], b: list[str], match: Match, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = (np.sort(rng.integers(0, 1000, len(labels))) / 100 for labels in (a, b))
    got = [(int(i), int(j)) for i, j in pair_units(a, b, x, y, match=match)]
    allowed = [p for p in all_pairings(len(a), len(b)) if match == "position" or all(a[i] == b[j] for i, j in p)]
    assert got in allowed
    if a != b:  # equal label sequences are paired one to one without looking at times
        assert cost(got, a, b, x, y) == min(cost(p, a, b, x, y) for p in allowed)
    else:
        assert got == [(i, i) for i in range(len(a))]


times = st.lists(st.integers(0, 12), max_size=5, unique=True).map(lambda x: np.sort(np.array(x, dtype=np.float64)))


@given(times, times, st.integers(0, 4))
def test_hits_are_the_largest_one_to_one_matching(a: np.ndarray, b: np.ndarray, tolerance: int) -> None:
    few, many = sorted((a, b), key=len)
    best = max(int((np.abs(few - many[list(p)]) <= tolerance).sum()) for p in permutations(range(len(many)), len(few)))
    assert count_hits(a, b, float(tolerance)) == count_hits(b, a, float(tolerance)) == best


def test_times_a_nanosecond_apart_are_one_boundary() -> None:
    np.testing.assert_array_equal(boundaries(np.array([[0.0, 0.1 + 0.2], [0.3, 1.0]])), [0.0, 0.3, 1.0])


@given(words_tiers())
def test_a_tier_compared_with_itself_is_perfect(reference: Tier) -> None:
    found = compare(reference, reference)
    assert found.n_matched == len(reference)
    assert found.n_missing == found.n_extra == 0
    if len(reference):
        assert found.tse_charged_s == 0
        assert found.boundaries_within(0.0) == 1
        assert found.boundary_score(0.0).r_value == pytest.approx(1)


def test_a_thousand_words_with_one_missing_pair_in_order() -> None:
    rows = [(f"w{i % 7}", i * 0.5, i * 0.5 + 0.4) for i in range(1000)]
    found = compare(tier(*rows), tier(*(rows[:500] + rows[501:])))
    assert (found.n_missing, found.tse_s) == (1, 0.0)
