"""What a few recordings of one's own gain, of which only words have times: learnt from some, tried on the others.

    python benchmarks/few_recordings.py --manifest ../shared/data/dev.jsonl --sets ljspeech grid_s1

Of each group so many recordings teach, drawn by the seed, and the others are scored by a calibrated method: as the
model is, with a calibration begun with its own (`gradalign calibrate MODEL --data ...`), and with one begun afresh
(`--afresh`). Who places boundaries has a manner of their own; a calibration may learn it. These figures say nothing
about the model as it is: what is scored is of the same kind, and by the same hand, as what was learnt from.
"""

import argparse
import json
import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from accuracy import calibrated, seen_of
from sources import Recording, about, add_sources, gathered

from gradalign.aligner import prepared
from gradalign.alignment import Tier
from gradalign.bundle import Bundle, load
from gradalign.cache import prepare_jax
from gradalign.calibrate import METHODS, calibrate
from gradalign.calibration import Calibration
from gradalign.confidence import REACH_S
from gradalign.errors import GradalignError
from gradalign.metrics import Comparison, compare
from gradalign.timed_speech import TimedUtterance

AS_IT_IS, BEGUN, AFRESH = "as it is", "begun with it", "afresh"
LEAST = 8
"""Recordings to score, at least."""


class Tried(NamedTuple):
    """How well words are placed, how sure of them the calibration is on average, and how many are right."""

    words: Comparison
    sure: float
    right: float


def words_of(recording: Recording) -> Tier:
    """Reference times of its words."""
    return next((tier for tier in recording.reference if tier.name == "words"), Tier("words", ()))


def taught(bundle: Bundle, recordings: list[Recording], method: str, *, afresh: bool) -> Calibration:
    """The calibration that these recordings teach."""
    speech = [
        TimedUtterance(prepared(recording.audio, bundle), recording.text, (), tuple(words_of(recording)))
        for recording in recordings
    ]
    done = calibrate(
        bundle,
        speech,
        about=f"{len(speech)} recordings",
        onward=not afresh,
        methods={method: METHODS[method]},
        report=lambda line: print(line, file=sys.stderr),
    )
    return done.calibrations[method]


def tried(bundle: Bundle, calibrations: dict[str, Calibration], recordings: list[Recording]) -> dict[str, Tried]:
    """How well each of these calibrations places the words of the recordings."""
    bundle = replace(bundle, calibrations=calibrations)
    apart = any("ctc" not in calibration.signals for calibration in calibrations.values())
    compared: dict[str, list[Comparison]] = {name: [] for name in calibrations}
    sure: dict[str, list[float]] = {name: [] for name in calibrations}
    right: dict[str, list[bool]] = {name: [] for name in calibrations}
    for recording in recordings:
        evidence = seen_of(recording, bundle, apart=apart)
        reference = words_of(recording)
        for name in calibrations:
            try:
                found = (
                    Tier("words", ())
                    if evidence is None
                    else calibrated(recording, bundle, name, evidence).tier("words")
                )
            except GradalignError as error:
                print(f"{recording.name}: {error}", file=sys.stderr)
                found = Tier("words", ())
            compared[name].append(compare(reference, found, tier="words"))
            if len(found) == len(reference):
                sure[name] += [word.confidence or 0.0 for word in found]
                far = [max(abs(a.start - b.start), abs(a.end - b.end)) for a, b in zip(found, reference, strict=True)]
                right[name] += [one <= REACH_S for one in far]
    return {
        name: Tried(
            Comparison.pooled(compared[name]), float(np.mean(sure[name] or 0)), float(np.mean(right[name] or 0))
        )
        for name in calibrations
    }


def main() -> int:
    """Parse the command line, learn, run, print the table and write JSON; 1 if nothing can be learnt."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--learn", type=int, default=12, help="recordings of a group to learn from (default: 12)")
    parser.add_argument("--method", choices=tuple(METHODS), default="calibrated", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    args = parser.parse_args()
    prepare_jax()
    groups: dict[str, list[Recording]] = {}
    for recording in gathered(args, parser):
        if len(words_of(recording)):
            groups.setdefault(recording.group, []).append(recording)
    if args.learn < 2:
        parser.error(f"--learn is {args.learn}, expected 2 at least")
    measures = {}
    try:
        bundle = load(args.model, precision=args.precision or "float32")  # as `gradalign calibrate` learns
        if args.method not in bundle.calibrations:
            raise GradalignError(
                f"{bundle.name} has not learnt {args.method}; make a calibration by gradalign calibrate"
            )
        print(f"Model {bundle.name}, {args.method}. Word TSE in ms, the difference to the model as it is (95 %), mean")
        print("confidence / share of words within 50 ms, both in %.\n")
        print("| recordings | learnt from | scored | calibration | word TSE | difference | confidence / right |")
        print("|---" * 7 + "|")
        for group, members in groups.items():
            order = np.random.default_rng(args.seed).permutation(len(members))
            learnt, scored = ([members[i] for i in part] for part in np.split(order, [args.learn]))
            if len(scored) < LEAST:
                print(f"{group} left out: {len(members)} recordings, expected {args.learn + LEAST}", file=sys.stderr)
                continue
            calibrations = {AS_IT_IS: bundle.calibrations[args.method]}
            calibrations |= {
                name: taught(bundle, learnt, args.method, afresh=name == AFRESH) for name in (BEGUN, AFRESH)
            }
            found = tried(bundle, calibrations, scored)
            for name, one in found.items():
                between = ""
                if name != AS_IT_IS:
                    low, high = one.words.bootstrap_difference(found[AS_IT_IS].words, lambda c: c.tse_s, n=300)
                    between = f"{1e3 * low:+.1f} to {1e3 * high:+.1f}"
                print(
                    f"| {group} | {len(learnt)} | {len(scored)} | {name} | {1e3 * one.words.tse_s:.1f} | {between} "
                    f"| {100 * one.sure:.0f} / {100 * one.right:.0f} |",
                    flush=True,
                )
            measures[group] = {name: 1e3 * one.words.tse_s for name, one in found.items()}
    except GradalignError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.json:
        args.json.write_text(
            json.dumps(
                about(bundle)
                | {"method": args.method, "learn": args.learn, "seed": args.seed, "word_tse_ms": measures},
                indent=1,
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
