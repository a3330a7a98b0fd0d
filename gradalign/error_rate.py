"""How many phones were recognised wrongly: edit distances and error rates. No times: see `metrics`."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True, slots=True)
class PhoneErrors:
    """What separates recognised phones from those that were said.

    Attributes:
        n_reference: Phones that were said.
        substitutions: Phones recognised as another one.
        insertions: Phones recognised where none was said.
        deletions: Phones said and not recognised.
    """

    n_reference: int
    substitutions: int
    insertions: int
    deletions: int

    @classmethod
    def pooled(cls, parts: Iterable["PhoneErrors"]) -> "PhoneErrors":
        """The sums over several recordings; all zero for none."""
        counts = [(e.n_reference, e.substitutions, e.insertions, e.deletions) for e in parts]
        return cls(*(sum(column) for column in zip((0, 0, 0, 0), *counts, strict=True)))

    @property
    def errors(self) -> int:
        """Substitutions, insertions and deletions."""
        return self.substitutions + self.insertions + self.deletions

    @property
    def rate(self) -> float:
        """Phone error rate: errors a phone that was said, >= 0; more than 1 if much is inserted.

        Raises:
            ValueError: If nothing was said.
        """
        if not self.n_reference:
            raise ValueError("an error rate needs at least 1 reference phone, got 0")
        return self.errors / self.n_reference


def edit_distance(reference: Sequence[Hashable], hypothesis: Sequence[Hashable]) -> PhoneErrors:
    """The fewest substitutions, insertions and deletions that turn one sequence into the other.

    Of several ways with as few edits it counts one with the most substitutions, that is the fewest
    insertions and deletions.

    Args:
        reference: What was said: phones, or anything else that can be compared.
        hypothesis: What was recognised.

    Example:
        >>> from gradalign.error_rate import edit_distance
        >>> edit_distance("K AE T S".split(), "K AH T".split())
        PhoneErrors(n_reference=4, substitutions=1, insertions=0, deletions=1)

    References:
        Wagner and Fischer, "The string-to-string correction problem", J. ACM 21(1), 1974.
    """
    (said,), heard = _ids([reference], hypothesis)
    # An edit weighs more than all that prefers one way with as few edits to another.
    edit = len(said) + len(heard) + 1
    cost = int(_rows((edit + 1) * np.arange(len(heard) + 1), said, heard, substitution=edit, gap=edit + 1)[-1])
    edits, gaps = divmod(cost, edit)
    insertions = (gaps + len(heard) - len(said)) // 2
    return PhoneErrors(len(said), edits - gaps, insertions, gaps - insertions)


def fewest_edits(variants: Sequence[Sequence[Sequence[Hashable]]], hypothesis: Sequence[Hashable]) -> int:
    """The edit distance to the nearest of all ways to say some words.

    Args:
        variants: For each word its pronunciations, at least one.
        hypothesis: What was recognised.
    """
    flat = [variant for word in variants for variant in word]
    ids, heard = _ids(flat, hypothesis)
    remaining = iter(ids)
    row = np.arange(len(heard) + 1)
    for word in variants:
        row = np.min([_rows(row, next(remaining), heard, substitution=1, gap=1) for _ in word], axis=0)
    return int(row[-1])


def rate_interval(
    parts: Sequence[PhoneErrors], *, n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """A percentile interval for the pooled error rate, drawing recordings with replacement.

    Args:
        parts: One a recording, at least two, with reference phones in each.
        n: How many draws, > 0.
        seed: Of the draws; the same seed gives the same interval.
        level: Share of the draws inside the interval, in (0, 1).

    Returns:
        Lower and upper end.

    Raises:
        ValueError: If there are fewer than two recordings or one without reference phones, or an
            option is out of range.

    References:
        Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    if len(parts) < 2 or not all(part.n_reference for part in parts):
        raise ValueError(f"a bootstrap needs at least 2 recordings, each with reference phones, got {len(parts)}")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"a bootstrap needs n > 0 and 0 < level < 1, got n={n} and level={level}")
    draws = np.random.default_rng(seed).integers(len(parts), size=(n, len(parts)))
    errors = np.array([part.errors for part in parts])[draws].sum(axis=1)
    phones = np.array([part.n_reference for part in parts])[draws].sum(axis=1)
    low, high = np.quantile(errors / phones, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ids(
    sequences: Sequence[Sequence[Hashable]], hypothesis: Sequence[Hashable]
) -> tuple[list[np.ndarray], np.ndarray]:
    """The same sequences as numbers, equal exactly where the items are."""
    every = dict.fromkeys(item for sequence in (*sequences, hypothesis) for item in sequence)
    table = {item: number for number, item in enumerate(every)}
    numbers = [np.array([table[item] for item in sequence], np.int64) for sequence in (*sequences, hypothesis)]
    return numbers[:-1], numbers[-1]


def _rows(
    row: Int[np.ndarray, " columns"],
    said: Int[np.ndarray, " said"],
    heard: Int[np.ndarray, " heard"],
    *,
    substitution: int,
    gap: int,
) -> Int[np.ndarray, " columns"]:
    """The cheapest way to each prefix of ``heard``, after ``said`` has been taken up as well."""
    insertions = gap * np.arange(len(heard) + 1)
    for label in said:
        down = row + gap
        pair = row[:-1] + np.where(heard == label, 0, substitution)
        # A run of insertions from column k costs gap * (j - k): the best k is a running minimum.
        row = np.minimum.accumulate(np.append(down[0], np.minimum(pair, down[1:])) - insertions) + insertions
    return row
