"""Which unit of one tier answers to which of another, and which boundary to which. No measures here."""

import unicodedata
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from gradalign._types import Seconds

Match = Literal["label", "position"]

_SLACK_S = 1e-9
"""Times this much over a tolerance are still within it: 0.32 - 0.30 is not 0.02 in floating point."""


def normalise_word(label: str) -> str:
    """The word for comparison: compatibility form, case folded, only letters, marks and digits."""
    folded = unicodedata.normalize("NFKC", label).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] in "LMN") or folded


def normalise_phone(label: str) -> str:
    """The phone for comparison: compatibility form, case folded, without an ARPAbet stress digit at its end."""
    folded = unicodedata.normalize("NFKC", label).casefold()
    return folded.rstrip("012") or folded


def pair_units(
    reference: Sequence[str],
    hypothesis: Sequence[str],
    reference_middle_s: Float[np.ndarray, " reference"],
    hypothesis_middle_s: Float[np.ndarray, " hypothesis"],
    *,
    match: Match,
) -> Int[np.ndarray, "pairs 2"]:
    """Indices of the units that answer to each other, by edit distance over their labels.

    Of the pairings with the fewest edits (insertion, deletion and, for "position", substitution cost 1
    each) this takes the one whose midpoints lie closest in sum, so that of two equal words the nearer
    one is paired. It holds one byte for each pair of a reference and a hypothesis unit.

    Args:
        reference: Labels, normalised, of the units that should be there.
        hypothesis: Labels, normalised, of the units that are.
        reference_middle_s: Their midpoints.
        hypothesis_middle_s: Their midpoints.
        match: "label" pairs only equal labels; "position" pairs substituted ones as well.

    Returns:
        Reference and hypothesis index of each pair, both increasing.

    References:
        Wagner and Fischer, "The string-to-string correction problem", J. ACM 21(1), 1974.
    """
    if list(reference) == list(hypothesis):
        return np.stack([np.arange(len(reference))] * 2, axis=1)
    if not reference or not hypothesis:
        return np.zeros((0, 2), dtype=np.int64)
    ids = {label: n for n, label in enumerate(dict.fromkeys([*reference, *hypothesis]))}
    left, right = (np.array([ids[label] for label in labels]) for labels in (reference, hypothesis))
    middles = np.concatenate([reference_middle_s, hypothesis_middle_s])
    near = np.ptp(middles) or 1.0
    moves = _moves(
        left,
        right,
        reference_middle_s / near,
        hypothesis_middle_s / near,
        substitution=1.0 if match == "position" else np.inf,
    )
    return _traced(moves)


def count_hits(
    reference: Float[np.ndarray, " reference"], found: Float[np.ndarray, " found"], within_s: Seconds
) -> int:
    """How many boundaries can be paired one to one within a tolerance, at most.

    Going from left to right and pairing the earliest two that are near enough is optimal, since every
    boundary has the same tolerance.

    Args:
        reference: Increasing times in seconds.
        found: Increasing times in seconds.
        within_s: Largest distance of a pair, >= 0 (a nanosecond over still counts).

    Returns:
        Size of a largest one-to-one matching.
    """
    hits = i = j = 0
    while i < len(reference) and j < len(found):
        gap = found[j] - reference[i]
        if abs(gap) <= within_s + _SLACK_S:
            hits, i, j = hits + 1, i + 1, j + 1
        elif gap > 0:
            i += 1
        else:
            j += 1
    return hits


def boundaries(times_s: Float[np.ndarray, "units 2"]) -> Float[np.ndarray, " boundaries"]:
    """Every time at which a unit starts or ends, increasing; those less than a nanosecond apart are one."""
    times = np.sort(times_s, axis=None)
    return times[np.diff(times, prepend=-np.inf) > _SLACK_S]


def within(errors_s: Float[np.ndarray, "..."], tolerance_s: Seconds) -> Bool[np.ndarray, "..."]:
    """Which errors are at most the tolerance in size (a nanosecond over still counts)."""
    return np.abs(errors_s) <= tolerance_s + _SLACK_S


_PAIR, _DELETE, _INSERT = 0, 1, 2


def _moves(
    left: Int[np.ndarray, " left"],
    right: Int[np.ndarray, " right"],
    left_place: Float[np.ndarray, " left"],
    right_place: Float[np.ndarray, " right"],
    *,
    substitution: float,
) -> Int[np.ndarray, "left+1 right+1"]:
    # One edit outweighs all distances together, which are at most 1 each. Row by row: a run of insertions
    # that begins at column k costs edit * (j - k), so the best k is a running minimum.
    edit = float(len(left) + len(right) + 1)
    insertions = edit * np.arange(len(right) + 1)
    row = insertions
    moves = np.full((len(left) + 1, len(right) + 1), _INSERT, dtype=np.int8)
    for i in range(len(left)):
        pair = row[:-1] + np.abs(left_place[i] - right_place) + np.where(left[i] == right, 0.0, edit * substitution)
        down = row + edit
        shifted = np.concatenate([down[:1], np.minimum(pair, down[1:])]) - insertions
        lowest = np.minimum.accumulate(shifted)
        stay = np.concatenate([[_DELETE], np.where(pair <= down[1:], _PAIR, _DELETE)])
        moves[i + 1] = np.where(shifted > lowest, _INSERT, stay)
        row = lowest + insertions
    return moves


def _traced(moves: Int[np.ndarray, "rows columns"]) -> Int[np.ndarray, "pairs 2"]:
    i, j = moves.shape[0] - 1, moves.shape[1] - 1
    pairs = []
    while i or j:
        move = int(moves[i, j])
        i, j = i - (move != _INSERT), j - (move != _DELETE)
        if move == _PAIR:
            pairs.append((i, j))
    return np.array(pairs[::-1], dtype=np.int64).reshape(-1, 2)
