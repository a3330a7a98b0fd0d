"""The health report as text and as one page of pictures. The page needs matplotlib."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gradalign.analysis.verdict import place
from gradalign.inspection.health import MODULES, Health, Measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _ACCENT, _COLOURS = "#1b1b1f", "#d1495b", ("#9db4c8", "#d1495b", "#66a182", "#c9b458")
_COLUMNS = 4


def table(report: Health) -> str:
    """The measures as text: one table by depth, one by block, and the verdict as the last line.

    Args:
        report: What `gradalign.inspection.health.health` gave.
    """
    m = report.measures
    names = [u.name for u in report.utterances if u.name]
    count = f"{len(report.utterances)} recording{'s' * (len(report.utterances) != 1)}"
    lines = [f"model {report.model}, {count}" + (f": {', '.join(names)}" if 0 < len(names) <= 3 else "")]
    lines += [f"mean log-probability of a label given those before it: {float(m.label_log_prob):.2f}", ""]
    lines += [*_by_depth(report), "", *_by_block(m), ""]
    for k, (rho, flip) in enumerate(zip(m.cross_direction, m.cross_flip, strict=True)):
        lines.append(f"cross-attention of decoder layer {k + 1}: direction {rho:+.2f}, flip {flip:+.2f}")
    block = report.order.block
    if block:
        number = int(np.argmax(m.dominance[block - 1]))
        lines.append(
            f"in {place(block)} {MODULES[number]} outweighs the rest: its output is "
            f"{m.dominance[block - 1, number]:.1f} times as large as the stream"
        )
    return "\n".join([*lines, str(report.order)])


def draw(report: Health, *, path: str | Path | None = None, utterance: int = 0) -> "Figure":
    """One page: the saliency of one utterance at every depth, its cross-attention, and the measures by depth.

    Args:
        report: What `gradalign.inspection.health.health` gave.
        path: Where to save the figure as well; the suffix (.png, .pdf, .svg) chooses the format. A file that is
            there is replaced.
        utterance: Index of the utterance whose maps are shown.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib, which is not installed: pip install "gradalign[plot]"') from error
    shown, m = report.utterances[utterance], report.measures
    maps, own = shown.maps, shown.measures
    n_panels = len(report.depths) + 2
    rows = -(-n_panels // _COLUMNS)
    figure = Figure(figsize=(15, 2.3 * rows + 3.6), layout="constrained")
    grid = figure.add_gridspec(rows + 1, _COLUMNS, height_ratios=[2.2] * rows + [3.0])
    panels = [figure.add_subplot(grid[i // _COLUMNS, i % _COLUMNS]) for i in range(n_panels)]
    # From the decoder down to the input, as the gradients go.
    _map(
        panels[0],
        maps.cross_attention[-1],
        maps.labels,
        f"cross-attention, direction {own.cross_direction[-1]:+.2f}",
        falls=bool(own.cross_flip[-1] > 0.05),
    )
    for panel, k in zip(panels[1:], reversed(range(len(report.depths))), strict=False):
        name = f"{report.depths[k]}, direction {own.label_direction[k]:+.2f}, flip {own.label_flip[k]:+.2f}"
        _map(panel, maps.saliency[k], maps.labels, name, falls=bool(own.label_flip[k] > 0.05))
    _jacobian(panels[-1], maps.jacobian, maps.rows, float(own.frame_flip[1]))
    for panel in panels[::_COLUMNS][:rows]:
        panel.set_ylabel("label", fontsize=8)
    _flips(figure.add_subplot(grid[rows, :2]), report)
    _norms(figure.add_subplot(grid[rows, 2:]), m.dominance)
    count = len(report.utterances)
    of = f"maps of {shown.name or 'the first recording'}" + (f", measures of {count}" if count > 1 else "")
    figure.suptitle(f"{report.model}: {report.order}   ({of})", fontsize=12, color=_INK, parse_math=False)
    if path is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a script that the font lacks is drawn as boxes
            figure.savefig(path, dpi=110)
    return figure


def _by_depth(report: Health) -> list[str]:
    m, rows = report.measures, []
    for k, depth in enumerate(report.depths):
        # Features have another rate, so no diagonal; of the output by itself there is nothing to say.
        told = 0 < k < len(report.depths) - 1
        diagonals = [_ratio(float(x[k - 1])) if told else "" for x in (m.diagonal, m.anti_diagonal)]
        flips = (m.label_direction[k], m.label_flip[k], m.frame_flip[k])
        rows.append((depth, *(f"{x:+.2f}" for x in flips), *diagonals))
    return [
        *_aligned(("depth", "labels: direction", "flip", "frames: flip", "diagonal", "anti-diagonal"), rows),
        "  labels: saliency at that depth; direction 1 rises, -1 falls; flip -0.5 straight, 0.5 reversed",
        "  frames: Jacobian from that depth to the encoder's output; norm on its diagonals over that elsewhere",
    ]


def _by_block(m: Measures) -> list[str]:
    rows = [
        (
            f"block-{k + 1}",
            *(f"{x:.2f}" for x in m.dominance[k]),
            " ".join(f"{x:.2f}" for x in m.head_diagonality[k]),
            " ".join(f"{x:+.2f}" for x in m.head_flip[k]),
            " ".join(_ratio(float(x)) for x in m.head_first_frame[k]),
        )
        for k in range(len(m.dominance))
    ]
    return [
        *_aligned(("block", *MODULES, "diagonality", "flip", "first frame"), rows),
        "  norm of each module's output over that of the stream it joins; then self-attention by head:",
        "  diagonality, flip index, and weight on the first frame (1 is that of uniform attention)",
    ]


def _aligned(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = []
    for first, *others in (head, *rows):
        lines.append(
            "  ".join([first.ljust(widths[0]), *(x.rjust(w) for x, w in zip(others, widths[1:], strict=True))])
        )
    return [line.rstrip() for line in lines]


def _ratio(x: float) -> str:
    return f"{x:.2g}" if x < 10 else f"{x:.0f}" if x < 1e4 else f"{x:.0e}"


def _map(axes: "Axes", weights: np.ndarray, labels: tuple[str, ...], title: str, *, falls: bool) -> None:
    # Each label has the same say, however sure the model is of it.
    share = weights / np.maximum(weights.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    axes.imshow(np.sqrt(share), aspect="auto", cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=9, loc="left", color=_ACCENT if falls else _INK)
    step = max(1, -(-len(labels) // 14))
    axes.set_yticks(range(0, len(labels), step), labels[::step])
    axes.tick_params(labelsize=6, length=2)


def _jacobian(axes: "Axes", norms: np.ndarray, rows: np.ndarray, flip: float) -> None:
    share = norms / np.maximum(norms.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    axes.imshow(
        share, aspect="auto", cmap="Greens", vmin=0, vmax=1, interpolation="nearest",
        extent=(-0.5, norms.shape[1] - 0.5, rows[-1] + 0.5, rows[0] - 0.5),
    )  # fmt: skip
    axes.set_title(f"output frame by stem frame, flip {flip:+.2f}", fontsize=9, loc="left",
                   color=_ACCENT if flip > 0.05 else _INK)  # fmt: skip
    axes.tick_params(labelsize=6, length=2)


def _flips(axes: "Axes", report: Health) -> None:
    m, at = report.measures, np.arange(len(report.depths))
    axes.axhline(0, color=_INK, linewidth=0.6)
    axes.plot(at, m.frame_flip, marker="o", color=_COLOURS[2], label="frames (Jacobian to the encoder's output)")
    axes.plot(at, m.label_flip, marker="s", color=_COLOURS[0], label="labels (saliency)")
    for head in m.head_flip.T:
        axes.plot(at[2:], head, ".", color=_COLOURS[1], alpha=0.5, markersize=5)
    axes.plot([], [], ".", color=_COLOURS[1], alpha=0.5, label="self-attention, by head")
    if report.order.block is not None:
        axes.axvspan(report.order.block + 0.5, report.order.block + 1.5, color=_ACCENT, alpha=0.12)
    axes.set_ylim(-0.6, 0.6)
    axes.set_ylabel("flip index: straight -0.5, reversed 0.5", fontsize=8)
    axes.set_xticks(at, report.depths, fontsize=7, rotation=30 if len(at) > 9 else 0)
    axes.set_title("order of time by depth", fontsize=9, loc="left")
    axes.legend(fontsize=7, loc="best", frameon=False)
    _plain(axes)


def _norms(axes: "Axes", dominance: np.ndarray) -> None:
    at = np.arange(1, len(dominance) + 1)
    for number, (name, colour) in enumerate(zip(MODULES, _COLOURS, strict=True)):
        axes.bar(at + 0.2 * (number - 1.5), dominance[:, number], 0.2, label=name, color=colour)
    axes.axhline(1, color=_INK, linewidth=0.6)
    axes.set_xticks(at)
    axes.set_xlabel("block", fontsize=8)
    axes.set_ylabel("norm over that of the stream", fontsize=8)
    axes.set_title("what each module adds to the residual stream", fontsize=9, loc="left")
    axes.legend(fontsize=7, loc="best", frameon=False)
    _plain(axes)


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", labelsize=7)
