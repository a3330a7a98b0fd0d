"""Edit distances against every alignment of two sequences, and by hand."""

import itertools
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradalign.error_rate import PhoneErrors, edit_distance, fewest_edits, rate_interval

short = st.lists(st.sampled_from("abc"), max_size=6)


def every_alignment(reference, hypothesis):
    """(substitutions, insertions, deletions) of each way to turn one sequence into the other."""

    @cache
    def ways(i, j):
        if i == 0 and j == 0:
            return frozenset({(0, 0, 0)})
        found = set()
        if i:
            found |= {(s, n, d + 1) for s, n, d in ways(i - 1, j)}
        if j:
            found |= {(s, n + 1, d) for s, n, d in ways(i, j - 1)}
        if i and j:
            wrong = reference[i - 1] != hypothesis[j - 1]
            found |= {(s + wrong, n, d) for s, n, d in ways(i - 1, j - 1)}
        return frozenset(found)

    return ways(len(reference), len(hypothesis))


@given(short, short)
def test_counts_are_of_the_shortest_alignment_with_most_substitutions(reference, hypothesis):
    best = min(every_alignment(tuple(reference), tuple(hypothesis)), key=lambda w: (sum(w), -w[0]))
    assert edit_distance(reference, hypothesis) == PhoneErrors(len(reference), *best)


@given(st.lists(st.lists(short, min_size=1, max_size=3), max_size=3), short)
def test_fewest_edits_are_those_of_the_nearest_choice_of_variants(variants, hypothesis):
    choices = [list(itertools.chain(*choice)) for choice in itertools.product(*variants)]
    assert fewest_edits(variants, hypothesis) == min(edit_distance(choice, hypothesis).errors for choice in choices)


def test_counts_by_hand():
    # DH AH K AE T against AH K AA T S: DH is lost, AE heard as AA, S added.
    found = edit_distance("DH AH K AE T".split(), "AH K AA T S".split())
    assert found == PhoneErrors(n_reference=5, substitutions=1, insertions=1, deletions=1)
    assert (found.errors, found.rate) == (3, 0.6)
    assert edit_distance([], ["a"]) == PhoneErrors(0, 0, 1, 0)
    assert edit_distance(["a"], []) == PhoneErrors(1, 0, 0, 1)


def test_pooled_counts_are_sums_and_their_rate_weighs_phones():
    parts = [PhoneErrors(10, 1, 2, 3), PhoneErrors(30, 0, 0, 2)]
    assert PhoneErrors.pooled(parts) == PhoneErrors(40, 1, 2, 5)
    assert PhoneErrors.pooled(parts).rate == 0.2
    assert PhoneErrors.pooled([]) == PhoneErrors(0, 0, 0, 0)


def test_the_interval_holds_the_rate_and_closes_where_all_recordings_agree():
    same = [PhoneErrors(20, 1, 1, 0)] * 7
    assert rate_interval(same) == (0.1, 0.1)
    mixed = [PhoneErrors(20, k % 5, 0, 0) for k in range(40)]
    low, high = rate_interval(mixed)
    assert low < PhoneErrors.pooled(mixed).rate < high
    assert rate_interval(mixed) == (low, high)
    # The standard error of the mean of 40 draws from {0, 1, 2, 3, 4} / 20 is 0.0112.
    assert high - low == pytest.approx(2 * 1.96 * 0.0112, rel=0.15)


def test_what_has_no_rate_or_interval_says_why():
    with pytest.raises(ValueError, match="at least 1 reference phone"):
        _ = edit_distance([], ["a"]).rate
    with pytest.raises(ValueError, match="at least 2 recordings"):
        rate_interval([PhoneErrors(1, 0, 0, 0)])
    with pytest.raises(ValueError, match="each with reference phones"):
        rate_interval([PhoneErrors(1, 0, 0, 0), PhoneErrors(0, 0, 1, 0)])
    with pytest.raises(ValueError, match=r"got n=0 and level=0\.95"):
        rate_interval([PhoneErrors(1, 0, 0, 0)] * 2, n=0)
