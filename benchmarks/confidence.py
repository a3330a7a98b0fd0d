"""Is the confidence of words what it says, and does it show a wrong transcript?

    python benchmarks/confidence.py                                          # synthetic speech, made here
    python benchmarks/confidence.py --manifest ../shared/data/dev.jsonl      # and recordings with references

Words are binned by their confidence; of those given 0.9 about 90 % should lie within 50 ms at both ends. Then one word
of each transcript is replaced by another one of the corpus, of about its length: the area under the ROC curve (AUC) is
the probability that a replaced word has a lower confidence than one that was said.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import cast

import numpy as np
from sources import Recording, about, add_sources, gathered

from gradalign._types import Method
from gradalign.aligner import align
from gradalign.bundle import Bundle, load
from gradalign.confidence import REACH_S
from gradalign.errors import GradalignError
from gradalign.text import words

BINS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)


def measured(
    recordings: list[Recording], bundle: Bundle, method: Method, seed: int
) -> dict[str, dict[str, list[np.ndarray]]]:
    """By group: confidence and rightness of words, and confidence of replaced and of said words."""
    rng = np.random.default_rng(seed)
    vocabulary = sorted({word.text for recording in recordings for word in words(recording.text)})
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    for number, recording in enumerate(recordings, 1):
        print(f"{number}/{len(recordings)}", end="\r", file=sys.stderr)
        said = [word.text for word in words(recording.text)]
        swapped = int(rng.integers(len(said)))
        near = [w for w in vocabulary if abs(len(w) - len(said[swapped])) <= 1 and w.lower() != said[swapped].lower()]
        wrong = [*said[:swapped], str(rng.choice(near or vocabulary)), *said[swapped + 1 :]]
        try:
            right = align(recording.audio, " ".join(said), model=bundle, method=method, keep_evidence=False)
            other = align(recording.audio, " ".join(wrong), model=bundle, method=method, keep_evidence=False)
        except GradalignError:
            continue
        reference = next(tier for tier in recording.reference if tier.name == "words")
        if not len(right.tier("words")) == len(other.tier("words")) == len(reference) == len(said):
            continue
        here = found.setdefault(recording.group, {"sure": [], "right": [], "said": [], "replaced": []})
        placed = list(zip(right.tier("words"), reference, strict=True))
        far = np.array([max(abs(a.start - b.start), abs(a.end - b.end)) for a, b in placed])
        here["sure"].append(np.array([a.confidence for a, _ in placed], float))
        here["right"].append(far <= REACH_S)
        sure = np.array([a.confidence for a in other.tier("words")], float)
        here["replaced"].append(sure[[swapped]])
        here["said"].append(np.delete(sure, swapped))
    return found


def auc(low: np.ndarray, high: np.ndarray) -> float:
    """Probability that one of ``low`` is below one of ``high``; ties count half."""
    below = (low[:, None] < high[None, :]).mean()
    return float(below + 0.5 * (low[:, None] == high[None, :]).mean())


def draw(groups: dict[str, dict[str, list[np.ndarray]]], path: Path) -> None:
    """Confidence against the share that is right, a line a group; points hold at least ten words."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.5)
    for group, parts in groups.items():
        sure, right = np.concatenate(parts["sure"]), np.concatenate(parts["right"])
        bins = [(sure >= low) & ((sure < high) | (high == 1.0)) for low, high in itertools.pairwise(BINS)]
        points = [(sure[inside].mean(), right[inside].mean()) for inside in bins if inside.sum() >= 10]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=group)
    axes.set_xlabel("confidence")
    axes.set_ylabel("share of words within 50 ms")
    axes.legend(fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Parse the command line, run, print tables and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--method", default="calibrated", help="a calibrated method (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the replaced words")
    parser.add_argument("--figure", type=Path, help="draw the reliability of each group there (PNG, PDF or SVG)")
    args = parser.parse_args()
    recordings = gathered(args, parser)
    bundle = load(args.model, precision=args.precision)
    print(f"Model {bundle.name}, {args.method}; calibrated on: {bundle.calibrated_on or 'nothing'}.\n")
    groups = measured(recordings, bundle, cast(Method, args.method), args.seed)
    heads = [f"{low:g}-{high:g}" for low, high in itertools.pairwise(BINS)]
    print("Of the words given a confidence in each range, the share that is within 50 ms, in % (and their number):\n")
    print("| recordings | " + " | ".join(heads) + " | mean confidence | right | AUC of replaced words |")
    print("|---" * (len(heads) + 4) + "|")
    out = {}
    for group, parts in groups.items():
        sure, right, said, replaced = (np.concatenate(parts[k]) for k in ("sure", "right", "said", "replaced"))
        cells = []
        for low, high in itertools.pairwise(BINS):
            inside = (sure >= low) & ((sure < high) | (high == 1.0))
            cells.append(f"{100 * right[inside].mean():.0f} ({inside.sum()})" if inside.any() else "-")
        out[group] = {"bins": dict(zip(heads, cells, strict=True)), "mean": float(sure.mean())}
        out[group] |= {"right": float(right.mean()), "auc": auc(replaced, said)}
        mean, share = 100 * sure.mean(), 100 * right.mean()
        print(f"| {group} | " + " | ".join(cells) + f" | {mean:.0f} | {share:.0f} | {out[group]['auc']:.3f} |")
    if args.json:
        args.json.write_text(json.dumps(about(bundle) | {"method": args.method, "groups": out}, indent=1))
    if args.figure:
        draw(groups, args.figure)


if __name__ == "__main__":
    main()
