"""How far an alignment is from a reference: `compare` one recording, `Comparison.pooled` many."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from jaxtyping import Bool, Float

from gradalign._types import Seconds
from gradalign.alignment import Alignment, Tier
from gradalign.pairing import Match, boundaries, count_hits, normalise_phone, normalise_word, pair_units, within

TOLERANCES_S = (0.01, 0.02, 0.025, 0.05, 0.1)
"""Tolerances at which shares are reported, in seconds."""


@dataclass(frozen=True, eq=False)
class Utterance:
    """The raw outcome for one recording, from which `Comparison` takes every measure.

    Attributes:
        reference_s: Start and end of each paired unit in the reference, in seconds.
        hypothesis_s: Start and end of the unit of the hypothesis that answers to it.
        edge: True for the first and the last unit of the reference.
        charge_s: For each reference unit without a pair, the largest TSE it could have got.
        n_extra: Units of the hypothesis without a pair.
        n_substituted: Pairs whose labels differ.
        reference_boundaries_s: Every time at which a reference unit starts or ends, once, increasing.
        hypothesis_boundaries_s: The same for the hypothesis.
    """

    reference_s: Float[np.ndarray, "pairs 2"]
    hypothesis_s: Float[np.ndarray, "pairs 2"]
    edge: Bool[np.ndarray, " pairs"]
    charge_s: Float[np.ndarray, " missing"]
    n_extra: int
    n_substituted: int
    reference_boundaries_s: Float[np.ndarray, " reference"]
    hypothesis_boundaries_s: Float[np.ndarray, " hypothesis"]


@dataclass(frozen=True, slots=True)
class BoundaryScore:
    """Boundaries as a set, whatever their labels: how many were found, one to one, within a tolerance.

    Attributes:
        n_hits: Boundaries paired.
        n_reference: Boundaries of the reference.
        n_hypothesis: Boundaries of the hypothesis.
    """

    n_hits: int
    n_reference: int
    n_hypothesis: int

    @property
    def precision(self) -> float:
        """Share of the hypothesis' boundaries that are hits; ValueError if there is none."""
        return _ratio(self.n_hits, self.n_hypothesis, "the hypothesis has no boundaries, so no precision")

    @property
    def recall(self) -> float:
        """Share of the reference's boundaries that were hit (the hit rate); ValueError if there is none."""
        return _ratio(self.n_hits, self.n_reference, "the reference has no boundaries, so no recall")

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 without hits, ValueError without any boundary."""
        return _ratio(2 * self.n_hits, self.n_reference + self.n_hypothesis, "there are no boundaries, so no F1")

    @property
    def r_value(self) -> float:
        """Closeness to full recall without over-segmentation, 1 at best.

        With hit rate HR and over-segmentation OS = hypothesis/reference - 1: r1 is the distance from the
        point (HR = 1, OS = 0), r2 that from the line HR = 1 + OS, and R = 1 - (|r1| + |r2|) / 2.

        References:
            Räsänen, Laine and Altosaar, "An improved speech segmentation quality measure: the R-value",
            Interspeech 2009.
        """
        hit_rate = self.recall
        over = self.n_hypothesis / self.n_reference - 1
        r1 = math.hypot(1 - hit_rate, over)
        r2 = (-over + hit_rate - 1) / math.sqrt(2)
        return 1 - (abs(r1) + abs(r2)) / 2


@dataclass(frozen=True, eq=False)
class Comparison:
    """Errors of a hypothesis against a reference, over one recording or many; all times in seconds.

    Every measure is a view of the paired units. Errors are hypothesis minus reference, so a positive
    bias is lateness. A measure that is not defined (nothing was paired) raises ValueError; in
    `to_dict` it is None. Means are over paired units; reference units without a pair count in
    ``n_missing``, as failures of every tolerance, and in `tse_charged_s`.

    Attributes:
        utterances: One entry a recording.
    """

    utterances: tuple[Utterance, ...]

    @classmethod
    def pooled(cls, comparisons: Iterable["Comparison"]) -> "Comparison":
        """All recordings of several comparisons in one."""
        return cls(tuple(utterance for comparison in comparisons for utterance in comparison.utterances))

    @property
    def n_matched(self) -> int:
        """Pairs of units."""
        return sum(len(u.edge) for u in self.utterances)

    @property
    def n_missing(self) -> int:
        """Reference units without a pair."""
        return sum(len(u.charge_s) for u in self.utterances)

    @property
    def n_extra(self) -> int:
        """Hypothesis units without a pair."""
        return sum(u.n_extra for u in self.utterances)

    @property
    def n_substituted(self) -> int:
        """Pairs whose labels differ; 0 unless ``match="position"``."""
        return sum(u.n_substituted for u in self.utterances)

    @property
    def n_reference(self) -> int:
        """Units of the reference."""
        return self.n_matched + self.n_missing

    @property
    def n_hypothesis(self) -> int:
        """Units of the hypothesis."""
        return self.n_matched + self.n_extra

    @property
    def boundary_errors_s(self) -> Float[np.ndarray, "pairs 2"]:
        """Signed error of start and end of every pair."""
        return np.concatenate([np.zeros((0, 2)), *(u.hypothesis_s - u.reference_s for u in self.utterances)])

    @property
    def unit_tse_s(self) -> Float[np.ndarray, " pairs"]:
        """TSE of every pair, (|start error| + |end error|) / 2."""
        return np.abs(self.boundary_errors_s).mean(axis=1)

    @property
    def tse_s(self) -> float:
        """Time stamp error: mean of `unit_tse_s` over all pairs (micro average).

        References:
            Schmitt et al., "The Conformer encoder may reverse the time dimension", ICASSP 2025.
        """
        return _mean(self.unit_tse_s)

    @property
    def tse_macro_s(self) -> float:
        """Mean over recordings of each one's mean TSE; recordings without a pair are left out."""
        means = [_tse(u).mean() for u in self.utterances if len(u.edge)]
        return _mean(np.array(means, dtype=np.float64))

    @property
    def tse_median_s(self) -> float:
        """Median of `unit_tse_s`."""
        return float(np.median(_defined(self.unit_tse_s)))

    @property
    def tse_edge_s(self) -> float:
        """TSE of the first and last unit of each recording."""
        return _mean(self.unit_tse_s[self._edge])

    @property
    def tse_interior_s(self) -> float:
        """TSE of the units that are neither first nor last in their recording."""
        return _mean(self.unit_tse_s[~self._edge])

    @property
    def tse_charged_s(self) -> float:
        """TSE over all reference units, a missing one charged the largest TSE that it could have got.

        That is max(m, D - m) for a unit with midpoint m in a recording of D seconds, so that leaving a
        unit out never pays.
        """
        return _mean(np.concatenate([self.unit_tse_s, *(u.charge_s for u in self.utterances)]))

    @property
    def start_error_s(self) -> float:
        """Mean size of the start's error."""
        return _mean(np.abs(self.boundary_errors_s[:, 0]))

    @property
    def end_error_s(self) -> float:
        """Mean size of the end's error."""
        return _mean(np.abs(self.boundary_errors_s[:, 1]))

    @property
    def centre_error_s(self) -> float:
        """Mean size of the midpoint's error."""
        return _mean(np.abs(self.boundary_errors_s.mean(axis=1)))

    @property
    def start_bias_s(self) -> float:
        """Mean signed error of the start; positive is late."""
        return _mean(self.boundary_errors_s[:, 0])

    @property
    def end_bias_s(self) -> float:
        """Mean signed error of the end; positive is late."""
        return _mean(self.boundary_errors_s[:, 1])

    def boundaries_within(self, tolerance_s: Seconds) -> float:
        """Share of the reference units' starts and ends at most ``tolerance_s`` off; missing ones fail."""
        hits = int(within(self.boundary_errors_s, tolerance_s).sum())
        return _ratio(hits, 2 * self.n_reference, "the reference has no units, so no share of them")

    def units_within(self, tolerance_s: Seconds) -> float:
        """Share of the reference units with a TSE of at most ``tolerance_s``; missing ones fail."""
        hits = int(within(self.unit_tse_s, tolerance_s).sum())
        return _ratio(hits, self.n_reference, "the reference has no units, so no share of them")

    def boundary_score(self, tolerance_s: Seconds = 0.02) -> BoundaryScore:
        """Precision, recall, F1 and R-value of the boundaries, paired one to one in each recording.

        A time at which one unit ends and the next starts is one boundary. Labels play no part.
        """
        pairs = [(u.reference_boundaries_s, u.hypothesis_boundaries_s) for u in self.utterances]
        return BoundaryScore(
            sum(count_hits(reference, hypothesis, tolerance_s) for reference, hypothesis in pairs),
            sum(len(reference) for reference, _ in pairs),
            sum(len(hypothesis) for _, hypothesis in pairs),
        )

    def bootstrap(
        self, statistic: Callable[["Comparison"], float], *, n: int = 1000, seed: int = 0, level: float = 0.95
    ) -> tuple[float, float]:
        """A percentile interval for a measure, drawing recordings with replacement.

        Args:
            statistic: The measure, for example ``lambda c: c.tse_s``.
            n: How many draws, > 0.
            seed: Of the draws; the same seed gives the same interval.
            level: Share of the draws' values inside the interval, in (0, 1).

        Returns:
            Lower and upper end.

        Raises:
            ValueError: If there are fewer than two recordings, ``n`` or ``level`` is out of range, or
                the measure is not defined for a draw.

        References:
            Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
        """
        return _interval([statistic(drawn) for (drawn,) in _resampled((self,), n, seed, level)], level)

    def bootstrap_difference(
        self,
        other: "Comparison",
        statistic: Callable[["Comparison"], float],
        *,
        n: int = 1000,
        seed: int = 0,
        level: float = 0.95,
    ) -> tuple[float, float]:
        """As `bootstrap`, of how much larger a measure is here than in another comparison of the same recordings.

        Each draw takes the same recordings from both, so that what is hard for both does not widen the interval. Where
        it holds 0, the two cannot be told apart.

        Args:
            other: Of another hypothesis with the same references, recording by recording.
            statistic: The measure.
            n: As for `bootstrap`.
            seed: As for `bootstrap`.
            level: As for `bootstrap`.

        Raises:
            ValueError: As `bootstrap`, and if the recordings are not the same.
        """
        sizes, others = ([len(u.edge) + len(u.charge_s) for u in c.utterances] for c in (self, other))
        if sizes != others:
            raise ValueError(
                f"a difference needs the same recordings on both sides, got {len(sizes)} with {sum(sizes)} reference "
                f"units and {len(others)} with {sum(others)}; compare both hypotheses with the same references"
            )
        drawn = _resampled((self, other), n, seed, level)
        return _interval([statistic(ours) - statistic(theirs) for ours, theirs in drawn], level)

    def to_dict(self) -> dict[str, Any]:
        """Every measure by name, for JSON: counts, seconds, shares; None where one is not defined."""
        counts = ("n_reference", "n_hypothesis", "n_matched", "n_missing", "n_extra", "n_substituted")
        score = self.boundary_score()
        return {
            "n_utterances": len(self.utterances),
            **{name: getattr(self, name) for name in counts},
            **{name: _or_none(lambda name=name: getattr(self, name)) for name in _SECONDS},
            "boundaries_within": {f"{t:g}": _or_none(lambda t=t: self.boundaries_within(t)) for t in TOLERANCES_S},
            "units_within": {f"{t:g}": _or_none(lambda t=t: self.units_within(t)) for t in TOLERANCES_S},
            "boundaries_at_0.02": {name: _or_none(lambda name=name: getattr(score, name)) for name in _SCORES},
        }

    def __str__(self) -> str:
        values = self.to_dict()
        lines = [
            f"{values['n_utterances']} recordings, {self.n_reference} reference units: {self.n_matched} paired "
            f"({self.n_substituted} with other labels), {self.n_missing} missing, {self.n_extra} extra"
        ]
        lines += [f"{title:<32} {_shown(values[name], 1000.0):>8} ms" for name, title in _SECONDS.items()]
        for t in TOLERANCES_S:
            shares = [_shown(values[name][f"{t:g}"], 100.0) for name in ("boundaries_within", "units_within")]
            lines.append(f"within {t * 1000:>3g} ms: boundaries, units   {shares[0]:>6} % {shares[1]:>6} %")
        lines.append(
            "boundaries at 20 ms              "
            + ", ".join(f"{name} {_shown(value, 100.0)}" for name, value in values["boundaries_at_0.02"].items())
        )
        return "\n".join(lines)

    @property
    def _edge(self) -> Bool[np.ndarray, " pairs"]:
        return np.concatenate([np.zeros(0, dtype=bool), *(u.edge for u in self.utterances)])


def compare(
    reference: Alignment | Tier,
    hypothesis: Alignment | Tier,
    *,
    tier: str = "words",
    match: Match = "label",
    normalise: Callable[[str], str] | None = None,
) -> Comparison:
    """The errors of a hypothesis against a reference of the same recording.

    Units are paired by edit distance over their labels, so that a missing or an extra unit does not
    shift the rest; among equally good pairings the nearest in time wins (`gradalign.pairing`).

    Args:
        reference: What is right.
        hypothesis: What is measured.
        tier: Which tier of an `Alignment`; of a `Tier`, its own name tells words from phones.
        match: "label" pairs only equal labels, all others are missing or extra. "position" pairs
            substituted labels too: for phones of another pronunciation or phone set.
        normalise: Applied to labels before they are compared. By default case is ignored, and for words
            punctuation, for a tier named "phones" the stress digit.

    Returns:
        One recording's comparison; see `Comparison.pooled` for many.

    Raises:
        KeyError: If an alignment has no such tier.
        ValueError: If ``match`` is neither of these.
    """
    if match not in get_args(Match):
        raise ValueError(f"match must be one of {', '.join(get_args(Match))}; got {match!r}")
    left, right = (x.tier(tier) if isinstance(x, Alignment) else x for x in (reference, hypothesis))
    if normalise is None:
        normalise = normalise_phone if left.name == "phones" else normalise_word
    times, found = _times(left), _times(right)
    labels, heard = ([normalise(unit.label) for unit in x] for x in (left, right))
    pairs = pair_units(labels, heard, times.mean(axis=1), found.mean(axis=1), match=match)
    missing = np.setdiff1d(np.arange(len(left)), pairs[:, 0])
    middle = times[missing].mean(axis=1)
    end = max([x.duration for x in (reference, hypothesis) if isinstance(x, Alignment)] + [_end(left), _end(right)])
    utterance = Utterance(
        reference_s=times[pairs[:, 0]],
        hypothesis_s=found[pairs[:, 1]],
        edge=np.isin(pairs[:, 0], [0, len(left) - 1]),
        charge_s=np.maximum(middle, end - middle),
        n_extra=len(right) - len(pairs),
        n_substituted=sum(labels[i] != heard[j] for i, j in pairs),
        reference_boundaries_s=boundaries(times),
        hypothesis_boundaries_s=boundaries(found),
    )
    return Comparison((utterance,))


_SECONDS = {
    "tse_s": "TSE",
    "tse_macro_s": "TSE, mean of recordings",
    "tse_median_s": "TSE, median",
    "tse_edge_s": "TSE, first and last",
    "tse_interior_s": "TSE, interior",
    "tse_charged_s": "TSE, missing units charged",
    "centre_error_s": "centre error",
    "start_error_s": "start error",
    "end_error_s": "end error",
    "start_bias_s": "start bias (late is positive)",
    "end_bias_s": "end bias (late is positive)",
}
_SCORES = ("precision", "recall", "f1", "r_value")


def _times(tier: Tier) -> Float[np.ndarray, "units 2"]:
    return np.array([(unit.start, unit.end) for unit in tier], dtype=np.float64).reshape(-1, 2)


def _end(tier: Tier) -> Seconds:
    return tier[-1].end if len(tier) else 0.0


def _tse(utterance: Utterance) -> Float[np.ndarray, " pairs"]:
    return np.abs(utterance.hypothesis_s - utterance.reference_s).mean(axis=1)


def _mean(values: Float[np.ndarray, " values"]) -> float:
    return float(_defined(values).mean())


def _defined(values: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    if not values.size:
        raise ValueError(
            'this measure has no paired unit to be taken over; do the labels agree? match="position" pairs others too'
        )
    return values


def _ratio(part: int, whole: int, problem: str) -> float:
    if not whole:
        raise ValueError(problem)
    return part / whole


def _resampled(
    comparisons: tuple[Comparison, ...], n: int, seed: int, level: float
) -> Iterator[tuple[Comparison, ...]]:
    """``n`` draws of recordings with replacement, the same ones of each comparison."""
    size = len(comparisons[0].utterances)
    if size < 2:
        raise ValueError(f"a bootstrap over recordings needs at least 2 of them, got {size}; pool more")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"a bootstrap needs n > 0 and 0 < level < 1, got n={n} and level={level}")
    for draw in np.random.default_rng(seed).integers(size, size=(n, size)):
        yield tuple(Comparison(tuple(c.utterances[i] for i in draw)) for c in comparisons)


def _interval(values: list[float], level: float) -> tuple[float, float]:
    """What a share of the values lies in, as much of the rest below as above."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _or_none(measure: Callable[[], float]) -> float | None:
    try:
        return measure()
    except ValueError:
        return None


def _shown(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{value * scale:.1f}"
