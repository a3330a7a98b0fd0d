"""Boundaries between frames, read off the distribution over all paths instead of the best one."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Edges = Float[np.ndarray, " labels"]

INTERVAL = (0.05, 0.95)
"""Share of the probability below and above which an interval of a boundary lies."""


class Boundaries(NamedTuple):
    """When each label starts and ends, in edges: edge b lies before frame b, and parts of frames count.

    Attributes:
        starts: Median of the start.
        ends: Median of the end; at least one frame after the start, and at most the start of the next label.
        start_ranges: 5 and 95 % of the probability of the start lie before these.
        end_ranges: The same of the end.
    """

    starts: Edges
    ends: Edges
    start_ranges: Float[np.ndarray, "labels 2"]
    end_ranges: Float[np.ndarray, "labels 2"]


def boundaries(starts: Float[np.ndarray, "labels frames"], ends: Float[np.ndarray, "labels edges"]) -> Boundaries:
    """Medians and intervals of boundaries.

    On every path labels end before the next one starts and take a frame at least, so the medians do too: they are in
    order without being forced.

    Args:
        starts: Probability that the frame is the label's first, as `gradalign.lattice.Posteriors.starts`.
        ends: Probability that the label ends before the frame, as `gradalign.lattice.Posteriors.ends`.

    Returns:
        One boundary a label.
    """
    low, high = INTERVAL
    return Boundaries(
        quantile(starts, 0.5),
        quantile(ends, 0.5),
        np.stack([quantile(starts, low), quantile(starts, high)], axis=1),
        np.stack([quantile(ends, low), quantile(ends, high)], axis=1),
    )


def without_closures(found: Boundaries, shortest: float) -> Boundaries:
    """Boundaries in which a pause shorter than ``shortest`` is none, but the beginning of the label after it.

    Before the burst of a stop it is as silent as in a pause.

    Args:
        found: With pauses of any length.
        shortest: In frames.
    """
    closure = np.concatenate([[False], found.starts[1:] - found.ends[:-1] < shortest])
    starts = np.where(closure, np.concatenate([[0.0], found.ends[:-1]]), found.starts)
    low, high = found.start_ranges.T
    return found._replace(starts=starts, start_ranges=np.stack([np.minimum(low, starts), high], axis=1))


def quantile(mass: Float[np.ndarray, "labels edges"], share: float) -> Edges:
    """Where the cumulated probability of each row reaches a share of it.

    The mass at edge b is spread evenly over ``[b - 1/2, b + 1/2)``, so that the result moves with the probabilities.

    Args:
        mass: >= 0; each row sums to more than 0.
        share: In (0, 1).
    """
    total = np.cumsum(mass.astype(np.float64), axis=1)
    wanted = share * total[:, -1]
    at = (total >= wanted[:, None]).argmax(axis=1)
    row = np.arange(len(mass))
    before = np.where(at > 0, total[row, np.maximum(at - 1, 0)], 0.0)
    return at - 0.5 + (wanted - before) / np.maximum(total[row, at] - before, 1e-300)


def within(mass: Float[np.ndarray, "labels edges"], middle: Edges, reach: float) -> Float[np.ndarray, " labels"]:
    """Probability that a boundary is at most ``reach`` frames from ``middle``, in [0, 1]."""
    near = np.abs(np.arange(mass.shape[1])[None, :] - middle[:, None]) <= reach
    return np.clip((mass * near).sum(axis=1) / np.maximum(mass.sum(axis=1), 1e-300), 0.0, 1.0)
