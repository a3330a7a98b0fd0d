"""How far each method's boundaries lie from the truth: calibrated and plain evidence, equal split, other aligners.

    python benchmarks/accuracy.py                                            # synthetic speech, made here
    python benchmarks/accuracy.py --manifest ../shared/data/dev.jsonl        # and recordings with references

A manifest is JSON lines with ``audio_filepath`` (relative to it), ``text``, ``set`` and ``id``. Its references stand
beside it in ``<name>_refs.jsonl`` (or ``--refs``): ``set``, ``id``, ``kind`` and ``words``, perhaps ``phones``, as
``[start_s, end_s, label]``. Every method sees the same audio and transcript; nothing is tuned here, and the output
says on what the calibrations were learnt. "gradient" is the chain of the paper on our network, which knows nothing of
the CTC head; "windowed-gradient" is what ``gradalign align --method gradient`` gives, with that head saying where to
look. "encoder-gradient", which is run if it is named, is the chain at the output of the encoder, where gradients need
no pass back through it. At the end stand the project's bars for whatever was measured; the exit status is 1 if one of
them is missed.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import peers
from sources import Recording, about, add_sources, gathered

from gradalign import io
from gradalign._types import Method
from gradalign.aligner import align, follows_gradients, prepared, pronounced
from gradalign.alignment import Alignment, Tier
from gradalign.bundle import Bundle, load
from gradalign.calibration import classifier_of
from gradalign.errors import GradalignError
from gradalign.features import log_mel_padded
from gradalign.metrics import Comparison, compare
from gradalign.placement import place_calibrated
from gradalign.readout import AllSignals, names_of, picked, read_all, read_signals
from gradalign.transcript import Transcript

WINDOWED = "windowed-gradient"
AT_ENCODER = "encoder-gradient"
GRADIENTS: dict[str, dict[str, Any]] = {WINDOWED: {"exact": False}, AT_ENCODER: {"leaf": "encoder"}}
"""Plain gradients as `align` takes them by other options than for "gradient" itself."""

COLUMNS = (
    ("word TSE", lambda c: c.tse_s * 1e3),
    ("95 % interval", None),
    ("median", lambda c: c.tse_median_s * 1e3),
    ("centre", lambda c: c.centre_error_s * 1e3),
    ("start bias", lambda c: c.start_bias_s * 1e3),
    ("end bias", lambda c: c.end_bias_s * 1e3),
    ("edge", lambda c: c.tse_edge_s * 1e3),
    ("inner", lambda c: c.tse_interior_s * 1e3),
    ("<20", lambda c: c.boundaries_within(0.02) * 100),
    ("<50", lambda c: c.boundaries_within(0.05) * 100),
    ("<100", lambda c: c.boundaries_within(0.1) * 100),
    ("w<300", lambda c: c.units_within(0.3) * 100),
    ("R@20", lambda c: c.boundary_score(0.02).r_value * 100),
)
PHONE_COLUMNS = (
    ("phone mean", lambda c: c.tse_s * 1e3),
    ("median", lambda c: c.tse_median_s * 1e3),
    ("<20", lambda c: c.boundaries_within(0.02) * 100),
    ("<50", lambda c: c.boundaries_within(0.05) * 100),
)


def run(recordings: list[Recording], methods: list[str], bundle: Bundle, out: Path | None) -> dict[str, Any]:
    """Align everything by every method and compare with the references."""
    results: dict[str, dict[str, dict[str, list[Comparison]]]] = {}
    failures: dict[str, list[str]] = {}
    started = time.time()
    for number, recording in enumerate(recordings, 1):
        seen = seen_of(recording, bundle) if any(m in bundle.calibrations for m in methods) else None
        for method in methods:
            try:
                if method in peers.ALIGNERS:
                    found = peers.ALIGNERS[method](recording)
                elif seen is not None and method in bundle.calibrations:
                    found = calibrated(recording, bundle, method, seen)
                else:
                    # Exact: windows come from the CTC head, of which the gradient of the paper is to know nothing.
                    plain = cast(Method, "gradient" if method in GRADIENTS else method)
                    options: dict[str, Any] = {"model": bundle, "keep_evidence": False}
                    options |= {"exact": follows_gradients(plain, bundle)} | GRADIENTS.get(method, {})
                    found = align(recording.audio, recording.text, method=plain, **options)
            except GradalignError as error:
                # A method that gives up is charged: all units of the recording are missing.
                failures.setdefault(f"{recording.group}: {method}", []).append(f"{recording.name}: {error}")
                found = None
            if out is not None and found is not None:
                folder = out / method / recording.group.split()[0]
                folder.mkdir(parents=True, exist_ok=True)
                io.write(found, folder / f"{recording.name}.json", overwrite=True)
            here = results.setdefault(recording.group, {}).setdefault(method, {})
            for tier in recording.reference:
                if tier.name == "words" or method not in peers.ALIGNERS:
                    units = Tier(tier.name, ()) if found is None else found
                    here.setdefault(tier.name, []).append(compare(tier, units, tier=tier.name))
        if sys.stderr.isatty() or number % 50 == 0:
            end = "\r" if sys.stderr.isatty() else "\n"
            print(f"{number}/{len(recordings)} recordings, {time.time() - started:.0f} s", file=sys.stderr, end=end)
    pooled = {
        group: {m: {tier: Comparison.pooled(cs) for tier, cs in tiers.items()} for m, tiers in by_method.items()}
        for group, by_method in results.items()
    }
    return {"pooled": pooled, "failures": failures}


def seen_of(recording: Recording, bundle: Bundle, *, apart: bool = True) -> tuple[Transcript, AllSignals, float] | None:
    """All signals of a recording, computed once for all calibrated methods; None if `align` must say what is wrong.

    What methods without the CTC head see apart takes long, and is left out on request.
    """
    try:
        transcript = Transcript.from_text(recording.text)
        waveform = prepared(recording.audio, bundle)
        features = log_mel_padded(waveform, bundle.features)
        if len(features) < len(transcript.labels):
            return None
        transcript = pronounced(bundle, transcript, features)
        classifier = classifier_of(bundle.calibrations)
        if apart:
            seen = read_all(bundle, features, transcript.labels, classifier)
        else:
            together = read_signals(bundle, features, transcript.labels, classifier=classifier)
            seen = AllSignals(together, together)
        return transcript, seen, len(waveform) / bundle.features.sample_rate
    except GradalignError:
        return None


def calibrated(
    recording: Recording, bundle: Bundle, method: str, seen: tuple[Transcript, AllSignals, float]
) -> Alignment:
    """What `align` gives by a calibrated method."""
    transcript, signals, duration = seen
    calibration = bundle.calibrations[method]
    part = picked(signals, calibration.signals, names_of(bundle.network.config, classifier_of(bundle.calibrations)))
    options: dict[str, Any] = {"grid": bundle.grid, "duration": duration, "method": method, "model": bundle.name}
    return place_calibrated(transcript, part, calibration, **options)[0]


class Bar(NamedTuple):
    """One of the project's bars for what was measured.

    Attributes:
        what: Is measured.
        value: The figure.
        limit: At most, or at least.
        holds: Whether it is kept.
        difference: 95 % interval of value less limit, where the limit is another method's figure on the same
            recordings: which of two holds is chance where this has both signs.
    """

    what: str
    value: float
    limit: float
    holds: bool
    difference: tuple[float, float] | None = None


def bars(pooled: dict[str, dict[str, dict[str, Comparison]]]) -> list[Bar]:
    """The project's bars for what was measured."""
    found: list[Bar] = []

    def most(what: str, value: float, limit: float) -> None:
        found.append(Bar(what, value, limit, value <= limit))

    def tse(group: str, method: str, tier: str = "words") -> float:
        return 1e3 * pooled[group][method][tier].tse_s

    def against(what: str, group: str, ours: str, theirs: str, measure: Callable[[Comparison], float]) -> None:
        one, other = (pooled[group][method]["words"] for method in (ours, theirs))
        most(f"{group}: {what} of {ours} against {theirs}, ms", 1e3 * measure(one), 1e3 * measure(other))
        with suppress(ValueError):  # there is none of one recording, or where most of them failed
            low, high = one.bootstrap_difference(other, measure, n=300)
            found[-1] = found[-1]._replace(difference=(1e3 * low, 1e3 * high))

    for group, by_method in pooled.items():
        kind = group.partition("(")[2].rstrip(")")
        for method, tiers in by_method.items():
            if kind == "synthetic" and method == "calibrated":
                most(f"{group}, {method}: phone mean, ms", tse(group, method, "phones"), 10)
                near = 100 * tiers["phones"].boundaries_within(0.02)
                found.append(Bar(f"{group}, {method}: phones within 20 ms, % (at least)", near, 85, near >= 85))
            plain = method in ("gradient", WINDOWED)
            if kind == "synthetic" and plain:
                most(f"{group}, {method}: phone mean, ms", tse(group, method, "phones"), 15)
            if group.startswith("librispeech"):
                limits = {"calibrated": 25, "calibrated-gradient": 28, "gradient": 45, WINDOWED: 45, "ctc": 36}
                limit = limits.get(method)
                if limit is not None:
                    most(f"{group}, {method}: word TSE, ms", tse(group, method), limit)
                if method == "calibrated":
                    most(f"{group}, {method}: median, ms", 1e3 * tiers["words"].tse_median_s, 12)
            if kind == "hand" and (plain or method == "calibrated"):
                most(f"{group}, {method}: word TSE, ms", tse(group, method), 30 if method == "calibrated" else 60)
                if method == "calibrated" and "phones" in tiers:
                    most(f"{group}, {method}: phone mean, ms", tse(group, method, "phones"), 22)
            if kind == "exact" and (plain or method == "calibrated"):
                most(f"{group}, {method}: word TSE, ms", tse(group, method), 35 if method == "calibrated" else 60)
        for ours, theirs in (
            ("calibrated", "calibrated-ctc"),
            ("gradient", "ctc"),
            (WINDOWED, "ctc"),
            ("calibrated-gradient", "calibrated-ctc"),
        ):
            if ours in by_method and theirs in by_method:
                against("word TSE", group, ours, theirs, lambda c: c.tse_s)
                if theirs == "ctc":
                    against("centre error", group, ours, theirs, lambda c: c.centre_error_s)
    return found


def show_bars(found: list[Bar]) -> None:
    """One line a bar."""
    print("\n### Bars\n\n| bar | measured | limit | difference, 95 % | |\n|---|---|---|---|---|")
    for bar in found:
        between = "" if bar.difference is None else f"{bar.difference[0]:+.1f} to {bar.difference[1]:+.1f}"
        print(f"| {bar.what} | {bar.value:.1f} | {bar.limit:.1f} | {between} | {'pass' if bar.holds else 'FAIL'} |")


def show(pooled: dict[str, dict[str, dict[str, Comparison]]], failures: dict[str, list[str]]) -> None:
    """One table a group of recordings; times in ms, shares in percent."""
    for group, by_method in pooled.items():
        for tier, columns in (("words", COLUMNS), ("phones", PHONE_COLUMNS)):
            rows = {method: tiers[tier] for method, tiers in by_method.items() if tier in tiers}
            if not rows:
                continue
            some = next(iter(rows.values()))
            print(f"\n### {group}, {tier}: {len(some.utterances)} recordings, {some.n_reference} {tier}\n")
            print("| method | " + " | ".join(name for name, _ in columns) + " | missing |")
            print("|---" * (len(columns) + 2) + "|")
            for method, comparison in rows.items():
                print(
                    f"| {method} | "
                    + " | ".join(_cell(comparison, f) for _, f in columns)
                    + f" | {comparison.n_missing} |"
                )
    for where, problems in failures.items():
        print(f"\n{where}: {len(problems)} failed, for example {problems[0]}")


def draw(pooled: dict[str, dict[str, dict[str, Comparison]]], folder: Path) -> None:
    """Two figures: cumulative boundary errors by method, one panel a group; and histograms of signed errors."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    groups = list(pooled)
    columns = min(3, len(groups))
    size = (4.2 * columns, 3.2 * -(-len(groups) // columns))
    cumulative = Figure(figsize=size, layout="constrained")
    histogram = Figure(figsize=size, layout="constrained")
    methods = list(dict.fromkeys(m for by_method in pooled.values() for m in by_method if m != "equal"))
    colours = {method: f"C{n}" for n, method in enumerate(methods)}
    for figure, name in ((cumulative, "cumulative"), (histogram, "histogram")):
        for axes, group in zip(np.ravel(figure.subplots(-(-len(groups) // columns), columns)), groups, strict=False):
            for method in methods:
                if "words" not in pooled[group].get(method, {}):
                    continue
                signed = 1e3 * pooled[group][method]["words"].boundary_errors_s.ravel()
                if name == "cumulative":
                    errors = np.sort(np.abs(signed))
                    shares = 100 * np.arange(1, len(errors) + 1) / max(1, len(errors))
                    axes.plot(errors, shares, color=colours[method], label=method, lw=1.2)
                elif not method.endswith(("attention", "sphinx")):
                    axes.hist(signed, np.arange(-105, 106, 10), histtype="step", color=colours[method], label=method)
            axes.set_title(group, fontsize=9)
            axes.set_xlim(*((0, 100) if name == "cumulative" else (-105, 105)))
            axes.set_xlabel("boundary error (ms)" if name == "cumulative" else "boundary error (ms), late is positive")
            axes.set_ylabel("boundaries within (%)" if name == "cumulative" else "boundaries")
            axes.grid(alpha=0.3)
        figure.axes[0].legend(fontsize=6)
        for axes in figure.axes[len(groups) :]:
            axes.remove()
        figure.savefig(folder / f"accuracy-{name}.png", dpi=110)


def draw_methods(recording: Recording, bundle: Bundle, methods: list[str], folder: Path) -> None:
    """One picture a method: what it read the alignment of a recording off."""
    for method in methods:
        if method not in ("equal", *GRADIENTS, *peers.ALIGNERS):
            found = align(recording.audio, recording.text, model=bundle, method=cast(Method, method))
            found.plot(path=folder / f"evidence-{method}.png")


def _cell(comparison: Comparison, measure) -> str:
    try:
        if measure is None:
            low, high = comparison.bootstrap(lambda c: c.tse_s, n=300)
            return f"{low * 1e3:.1f}-{high * 1e3:.1f}"
        return f"{measure(comparison):.1f}"
    except ValueError:
        return "-"


def main() -> int:
    """Parse the command line, run, print tables and write JSON; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument(
        "--methods",
        nargs="+",
        default=None,
        help=f"those of gradalign align, {WINDOWED}, {AT_ENCODER}, pocketsphinx and aeneas (default: all that are at "
        f"hand, but {AT_ENCODER})",
    )
    parser.add_argument("--figures", type=Path, help="draw errors, and what each method sees, into this folder")
    parser.add_argument("--alignments", type=Path, help="keep every alignment as JSON in this folder")
    args = parser.parse_args()
    recordings = gathered(args, parser)
    bundle = load(args.model, precision=args.precision)
    print(f"Model {bundle.name}; calibrated on: {bundle.calibrated_on or 'nothing'}.")
    found = run(recordings, args.methods or _available(bundle), bundle, args.alignments)
    show(found["pooled"], found["failures"])
    checked = bars(found["pooled"])
    show_bars(checked)
    if args.figures:
        draw(found["pooled"], args.figures)
        draw_methods(recordings[0], bundle, args.methods or _available(bundle), args.figures)
    if args.json:
        measures = {
            group: {m: {tier: c.to_dict() for tier, c in tiers.items()} for m, tiers in by_method.items()}
            for group, by_method in found["pooled"].items()
        }
        content = about(bundle) | {
            "bars": [bar._asdict() for bar in checked],
            "groups": measures,
            "failures": found["failures"],
        }
        args.json.write_text(json.dumps(content, indent=1))
    return int(not all(bar.holds for bar in checked))


def _available(bundle: Bundle) -> list[str]:
    return [*bundle.calibrations, "gradient", WINDOWED, "ctc", "attention", "equal", *peers.installed()]


if __name__ == "__main__":
    sys.exit(main())
