"""Results: what may not be constructed, what can be asked, and how they show themselves."""

import math
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given, settings
from strategies import alignments

from gradalign.alignment import Alignment, Interval, Tier, TranscriptWord

WORDS = Tier("words", (Interval(0.1, 0.4, "a"), Interval(0.4, 0.9, "<b> & c", -1.0)))
PHONES = Tier(
    "phones", (Interval(0.1, 0.4, "AH"), Interval(0.4, 0.6, "B"), Interval(0.6, 0.8, "<&>"), Interval(0.8, 0.9, "K"))
)
FATES = (
    TranscriptWord("a", 0, 1, "aligned", 0),
    TranscriptWord("<x>", 2, 5, "unpronounceable"),
    TranscriptWord("<b> & c", 6, 13, "aligned", 1),
)
WHOLE = Alignment(1.0, (WORDS, PHONES), "a <x> <b> & c", FATES, "gradient", "tiny")


@pytest.mark.parametrize(
    ("start", "end", "label", "message"),
    [
        (0.5, 0.5, "a", r"interval 'a': needs 0 <= start < end in seconds, got \[0\.5, 0\.5\)"),
        (0.5, 0.4, "a", r"got \[0\.5, 0\.4\)"),
        (-0.1, 0.4, "a", r"got \[-0\.1, 0\.4\)"),
        (math.nan, 0.4, "a", "times must be finite"),
        (0.0, math.inf, "a", "times must be finite"),
        (0.0, math.nan, "a", "times must be finite"),
        (0.25, 0.4, "", r"interval at 0\.25 s has an empty label"),
    ],
)
def test_an_interval_is_finite_positive_and_labelled(start, end, label, message):
    with pytest.raises(ValueError, match=message):
        Interval(start, end, label)


def test_an_interval_has_a_duration_and_cannot_be_changed():
    interval = Interval(0.25, 0.75, "a")
    assert interval.duration == 0.5
    assert interval.score is None
    with pytest.raises(FrozenInstanceError):
        interval.end = 2.0


def test_a_tier_names_every_overlap():
    intervals = (Interval(0.0, 0.5, "a"), Interval(0.4, 0.8, "b"), Interval(0.8, 1.0, "c"), Interval(0.1, 0.2, "d"))
    with pytest.raises(ValueError, match=r"tier 'x': .*'a' \[0\.0, 0\.5\) then 'b' \[0\.4, 0\.8\); 'c' .* then 'd'"):
        Tier("x", intervals)


def test_a_tier_is_a_sequence_of_intervals_that_may_touch():
    assert len(PHONES) == 4
    assert [i.label for i in PHONES] == ["AH", "B", "<&>", "K"]
    assert PHONES[-1].label == "K"
    assert len(Tier("empty", ())) == 0


@pytest.mark.parametrize(("status", "index"), [("aligned", None), ("unplaced", 0), ("unpronounceable", 3)])
def test_a_word_has_an_index_if_and_only_if_it_is_aligned(status, index):
    with pytest.raises(ValueError, match=f"word 'a': status '{status}' does not go with interval index {index}"):
        TranscriptWord("a", 0, 1, status, index)


@pytest.mark.parametrize("duration", [0.0, -1.0, math.nan, math.inf])
def test_an_alignment_has_a_positive_duration(duration):
    with pytest.raises(ValueError, match="needs a positive duration in seconds"):
        Alignment(duration, ())


def test_tiers_have_different_names():
    with pytest.raises(ValueError, match=r"tier names must differ, got \['words', 'words'\]"):
        Alignment(1.0, (WORDS, WORDS))


def test_no_interval_leaves_the_recording():
    with pytest.raises(ValueError, match=r"tier 'phones': 'K' ends at 0\.9 s, after the recording's end at 0\.85 s"):
        Alignment(0.85, (PHONES,))
    Alignment(0.9, (PHONES,))


@pytest.mark.parametrize(
    "words",
    [
        FATES[:1],
        (FATES[2], FATES[0]),
        (FATES[0], FATES[0]),
        (*FATES, TranscriptWord("more", 14, 18, "aligned", 2)),
        (FATES[1],),
    ],
)
def test_each_interval_has_exactly_one_word_in_order(words):
    with pytest.raises(ValueError, match="each interval needs exactly one word, in order"):
        replace(WHOLE, words=words)


def test_tiers_are_found_by_name():
    assert WHOLE.tier("phones") is PHONES
    with pytest.raises(KeyError, match=r"no tier 'syllables'; this alignment has \['words', 'phones'\]"):
        WHOLE.tier("syllables")


def test_problems_are_the_words_without_an_interval():
    assert WHOLE.problems == (FATES[1],)
    assert Alignment(1.0, (WORDS,)).problems == ()


def test_phones_of_a_word_are_those_inside_it():
    assert [p.label for p in WHOLE.phones_of(WORDS[0])] == ["AH"]
    assert [p.label for p in WHOLE.phones_of(WORDS[1])] == ["B", "<&>", "K"]


def test_evidence_is_not_compared():
    assert replace(WHOLE, evidence=None) == WHOLE
    assert replace(WHOLE, duration=2.0) != WHOLE


def test_the_representation_has_a_line_a_word_with_its_phones_and_every_problem():
    assert repr(WHOLE).splitlines() == [
        "Alignment of 1.00 s (tiny by gradient)",
        "     0.100    0.400  a        AH",
        "     0.400    0.900  <b> & c  B <&> K",
        "  not aligned: '<x>' at characters 2-5: unpronounceable",
    ]


def test_the_representation_shows_phones_where_there_are_no_words():
    assert repr(Alignment(1.0, (PHONES,))).splitlines()[:2] == ["Alignment of 1.00 s", "     0.100    0.400  AH"]
    assert repr(Alignment(1.0, ())) == "Alignment of 1.00 s"


def test_the_representation_of_many_words_is_short():
    tier = Tier("words", tuple(Interval(float(i), i + 0.5, f"w{i}") for i in range(100)))
    lines = repr(Alignment(100.0, (tier,))).splitlines()
    assert len(lines) == 32
    assert lines[-1] == "  ... and 70 more in tier 'words'"


def test_the_table_for_notebooks_escapes_what_people_wrote():
    html = WHOLE._repr_html_()
    assert html.count("<tr>") == html.count("</tr>") == 4
    assert "<td>0.400</td><td>0.900</td><td>&lt;b&gt; &amp; c</td><td>B &lt;&amp;&gt; K</td>" in html
    assert "<td colspan=2>unpronounceable</td><td>&lt;x&gt;</td>" in html
    assert "<x>" not in html


def test_the_table_takes_the_first_tier_where_there_are_no_words():
    assert Alignment(1.0, (PHONES,))._repr_html_().count("<tr>") == 5
    assert Alignment(1.0, ())._repr_html_().count("<tr>") == 1


# beartype checks random items of the tuples that the strategy builds.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")
@settings(deadline=None)
@given(alignments())
def test_every_alignment_shows_itself(alignment):
    assert repr(alignment).startswith("Alignment of ")
    assert alignment._repr_html_().count("<tr>") == 1 + len(alignment.tier("words")) + len(alignment.problems)
    covered = [p for word in alignment.tier("words") for p in alignment.phones_of(word)]
    assert covered == list(alignment.tier("phones"))
