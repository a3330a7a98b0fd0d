"""Hypothesis strategies for alignments and what they are made of."""

from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from gradalign.alignment import Alignment, Interval, Tier, TranscriptWord

scores = st.none() | st.floats(-50, 5)


def labels() -> st.SearchStrategy[str]:
    """Any Unicode that a text file can hold, quotes and line breaks included, but not only white space."""
    some = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
    often = st.sampled_from(['"', "\n", "\r", " ", "\t", "\x85", "\u2028", "é", "日", "a", "=", '"text" = "']).map(str)
    return st.lists(often | some, min_size=1, max_size=6).map("".join).filter(lambda label: bool(label.strip()))


LABELS = labels()


@st.composite
def tier_edges(draw: st.DrawFn, max_size: int = 8) -> list[float]:
    """Increasing times at least ten microseconds apart."""
    steps = draw(st.lists(st.floats(1e-5, 5.0), min_size=1, max_size=max_size))
    first = draw(st.just(0.0) | st.floats(0, 3))
    return [first, *(first + np.cumsum(steps)).tolist()]


@st.composite
def words_tiers(draw: st.DrawFn, label: st.SearchStrategy[str] = LABELS, max_size: int = 8) -> Tier:
    """A words tier with gaps, perhaps empty."""
    edges = draw(tier_edges(max_size))
    spans = [span for span in pairwise(edges) if draw(st.booleans())]
    return Tier("words", tuple(Interval(a, b, draw(label), draw(scores)) for a, b in spans))


@st.composite
def alignments(draw: st.DrawFn) -> Alignment:
    """Words and phones that agree, a transcript whose words point at them, one word without a place."""
    words = draw(words_tiers())
    end = words[-1].end if len(words) else 0.0
    duration = end + draw(st.floats(0, 2) if end else st.floats(0.01, 2))
    phones = tuple(phone for word in words for phone in _halves(word, draw(st.booleans()), draw(labels())))
    if draw(st.booleans()):
        return Alignment(duration, (words, Tier("phones", phones)))
    entries, text = [], ""
    for index, word in enumerate(words):
        entries.append(TranscriptWord(word.label, len(text), len(text) + len(word.label), "aligned", index))
        text += word.label + " "
    entries.append(
        TranscriptWord("x", len(text), len(text) + 1, draw(st.sampled_from(["unplaced", "unpronounceable"])))
    )
    model = draw(st.none() | labels())
    return Alignment(duration, (words, Tier("phones", phones)), text + "x", tuple(entries), "gradient", model)


def _halves(word: Interval, split: bool, label: str) -> list[Interval]:
    if not split:
        return [Interval(word.start, word.end, label)]
    middle = (word.start + word.end) / 2
    return [Interval(word.start, middle, label, -1.5), Interval(middle, word.end, label)]
