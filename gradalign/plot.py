"""Pictures of an alignment: spectrogram, saliency and tiers over one time axis. Needs matplotlib."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gradalign.alignment import Alignment, Evidence, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _ACCENT, _FILL = "#1b1b1f", "#d1495b", ("#e8eef6", "#d3e0ef")
_POINTS = 72
_WIDTH = 0.6
"""Mean width of a letter as a share of the font size."""


def plot(alignment: Alignment, *, path: str | Path | None = None) -> "Figure":
    """A figure of what an alignment was read off, with its tiers below.

    From the top: the log-mel spectrogram with the starts and ends of words; the evidence, one row a
    label from first to last, dark where it says that the label is, with the path that was taken; and
    one row of boxes a tier. Labels that would not fit are left out.

    Args:
        alignment: The result of `gradalign.align` with its evidence.
        path: Where to save the figure as well; the suffix (.png, .pdf, .svg) chooses the format. A
            file that is there is replaced.

    Returns:
        A figure without a window. Its axes are the spectrogram, the evidence and the tiers.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the alignment has no evidence, or the suffix is not known to matplotlib.

    Example:
        >>> figure = gradalign.align("rec.wav", "hello world").plot(path="rec.png")  # doctest: +SKIP
    """
    figure_class = _figure_class()
    evidence = alignment.evidence
    if evidence is None:
        raise ValueError(
            "this alignment has no evidence to draw: align with keep_evidence=True (the default); one that was read "
            "from a file has none"
        )
    tiers = [tier for tier in alignment.tiers if len(tier)]
    width = float(np.clip(2.2 * alignment.duration + 1.5, 7, 40))
    heights = [1.6, float(np.clip(0.11 * len(evidence.labels), 1.6, 9)), 0.36 * max(1, len(tiers))]
    figure = figure_class(figsize=(width, sum(heights) + 0.9), layout="constrained")
    spectrogram, matrix, boxes = figure.subplots(3, sharex=True, height_ratios=heights)
    _draw_spectrogram(spectrogram, evidence, alignment)
    _draw_evidence(matrix, evidence, alignment.method, heights[1])
    for row, tier in enumerate(tiers):
        for number, interval in enumerate(tier):
            _draw_box(boxes, interval, row, _FILL[number % 2], inches_per_s=0.93 * width / alignment.duration)
    boxes.set(yticks=np.arange(len(tiers)), yticklabels=[tier.name for tier in tiers], xlabel="time (s)")
    boxes.set(xlim=(0, alignment.duration), ylim=(max(1, len(tiers)) - 0.5, -0.5))
    boxes.tick_params(axis="y", length=0)
    for word in next((tier for tier in tiers if tier.name == "words"), ()):
        for time in (word.start, word.end):
            spectrogram.axvline(time, color=_ACCENT, linewidth=0.8, alpha=0.8)
            matrix.axvline(time, color=_INK, linewidth=0.5, alpha=0.2)
    for axes in (spectrogram, matrix, boxes):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    matrix.tick_params(axis="y", labelsize=_row_font(heights[1], len(evidence.labels)))
    if path is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a script that the font lacks is drawn as boxes
            figure.savefig(path, dpi=150)
    return figure


def _figure_class() -> "type[Figure]":
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib, which is not installed: pip install "gradalign[plot]"') from error
    return Figure


def _draw_spectrogram(axes: "Axes", evidence: Evidence, alignment: Alignment) -> None:
    low, high = np.percentile(evidence.features, [5, 99.8])
    axes.imshow(
        evidence.features.T,
        aspect="auto",
        origin="lower",
        extent=_extent(evidence.feature_grid.edge_s, *evidence.features.shape),
        cmap="Greys",
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    axes.set(ylabel="mel band", yticks=[])
    by = " by ".join(x for x in (alignment.model, alignment.method) if x)
    text = " ".join((alignment.transcript or "").split())
    longest = int(axes.figure.get_figwidth() * 11) - len(by)  # type: ignore[union-attr]  # the figure just made
    text = text if len(text) <= longest else text[: longest - 3] + "..."
    axes.set_title(f"{text}   ({by})" if by else text, fontsize=9, loc="left", color=_INK, parse_math=False)


def _draw_evidence(axes: "Axes", evidence: Evidence, method: str | None, height: float) -> None:
    strength = np.exp(np.minimum(evidence.scores, 0.0))
    n_labels, n_frames = strength.shape
    left, right, _, _ = _extent(evidence.grid.edge_s, n_frames, n_labels)
    axes.imshow(
        strength,
        aspect="auto",
        extent=(left, right, n_labels - 0.5, -0.5),
        cmap="Blues",
        vmin=0,
        vmax=max(float(np.percentile(strength, 99.8)), 0.1),  # evidence that is weak all over stays pale
        interpolation="nearest",
    )
    rows = np.where(evidence.path >= 0, evidence.path.astype(float), np.nan)
    times = [evidence.grid.edge_s(frame) for frame in range(n_frames + 1)]
    axes.stairs(rows, times, baseline=None, color=_ACCENT, linewidth=1.1)
    step = max(1, int(np.ceil(n_labels * 5.0 / _POINTS / height)))
    shown = np.arange(0, n_labels, step)
    axes.set(yticks=shown, yticklabels=[evidence.labels[i] for i in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel({"gradient": "saliency of label", None: "evidence"}.get(method, f"{method} evidence"))


def _draw_box(axes: "Axes", interval: Interval, row: int, colour: str, *, inches_per_s: float) -> None:
    axes.broken_barh(
        [(interval.start, interval.duration)], (row - 0.42, 0.84), facecolor=colour, edgecolor=_INK, linewidth=0.5
    )
    room = interval.duration * inches_per_s * _POINTS / (_WIDTH * len(interval.label))
    if room >= 5:
        middle = (interval.start + interval.end) / 2
        axes.text(
            middle, row, interval.label, ha="center", va="center", fontsize=min(9.0, room), color=_INK,
            clip_on=True, parse_math=False,
        )  # fmt: skip


def _extent(edge_s, n_frames: int, n_rows: int) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of an image in seconds and rows."""
    return edge_s(0), edge_s(n_frames), -0.5, n_rows - 0.5


def _row_font(height: float, n_labels: int) -> float:
    return float(np.clip(0.8 * height * _POINTS / max(1, n_labels), 4.5, 8))
