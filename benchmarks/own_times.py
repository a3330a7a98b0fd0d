"""Times of recordings by a model's own alignment, to train the next one's gradients or learn a calibration on.

    python benchmarks/own_times.py recordings/train.jsonl --sets librispeech ljspeech -o timed.jsonl

Recordings are aligned by all of the model's evidence and cut at pauses into parts of at most `--longest` seconds, by
default what `loss.saliency_max_frames` allows. Parts with a word that the model is not sure of are left out.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gradalign import output
from gradalign.aligner import align
from gradalign.alignment import Alignment, Interval
from gradalign.bundle import load
from gradalign.cache import prepare_jax
from gradalign.errors import GradalignError
from gradalign.manifest import Utterance, read, write

PAUSE_S = 0.08
"""Shorter silence is no place to cut: part of a stop or of a fading vowel may lie in it."""

AROUND_S = 0.4
"""Silence that is kept before and after a part, at most."""


def parts(alignment: Alignment, longest: float, surest: float) -> Iterator[tuple[float, float, Sequence[Interval]]]:
    """Start and end of each part in seconds, and its words, of which the model is sure.

    Args:
        alignment: By a calibrated method, which gives its words confidence.
        longest: Seconds that a part may have.
        surest: Confidence that each of its words has at least.
    """
    words, first = tuple(alignment.tier("words")), 0
    while first < len(words):
        begin = 0.0 if first == 0 else (words[first - 1].end + words[first].start) / 2
        begin = max(begin, words[first].start - AROUND_S)
        best = None
        for last in range(first, len(words)):
            following = words[last + 1].start if last + 1 < len(words) else alignment.duration
            end = min(
                (words[last].end + following) / 2 if last + 1 < len(words) else following, words[last].end + AROUND_S
            )
            if end - begin > longest or not (words[last].confidence or 0.0) >= surest:
                break
            if following - words[last].end >= PAUSE_S or last + 1 == len(words):
                best = begin, end, words[first : last + 1]
        if best is not None:
            yield best
            first += len(best[2])
            continue
        # The next word after a pause.
        first += 1
        while first < len(words) and words[first].start - words[first - 1].end < PAUSE_S:
            first += 1


def cut(utterance: Utterance, alignment: Alignment, longest: float, surest: float) -> list[Utterance]:
    """The parts of an utterance with their times."""
    found = []
    for number, (begin, end, words) in enumerate(parts(alignment, longest, surest)):
        phones = [p for p in alignment.tier("phones") if words[0].start <= (p.start + p.end) / 2 < words[-1].end]
        begin, end = round(begin, 3), round(end, 3)

        def late(units: Sequence[Interval], begin: float = begin) -> tuple[Interval, ...]:
            return tuple(Interval(round(u.start - begin, 4), round(u.end - begin, 4), u.label) for u in units)

        found.append(
            replace(
                utterance,
                text=" ".join(word.label for word in words),
                id=f"{utterance.id}-{number}",
                set="timed",
                start=round(utterance.start + begin, 3),
                duration=round(end - begin, 3),
                phones=late(phones),
                words=late(words),
            )
        )
    return found


def main() -> int:
    """Write the manifest; 1 if nothing came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="recordings with their texts, each a file of its own")
    parser.add_argument("--sets", nargs="+", help="only these sets of it")
    parser.add_argument("--every", type=int, default=1, help="only one of so many utterances (default: %(default)s)")
    parser.add_argument("--model", default="en-us", help="name or folder of the model (default: %(default)s)")
    parser.add_argument("--longest", type=float, default=3.1, help="seconds of a part (default: %(default)s)")
    parser.add_argument("--surest", type=float, default=0.95, help="least confidence of a word (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the manifest, JSON lines")
    parser.add_argument("--overwrite", action="store_true", help="replace the manifest")
    args = parser.parse_args()
    try:
        target = output.target(str(args.output), Path("timed"), ".jsonl", overwrite=args.overwrite)
        prepare_jax()
        bundle = load(args.model)
        chosen = [u for u in read(args.corpus) if not args.sets or u.set in args.sets][:: args.every]
        found: list[Utterance] = []
        chosen.sort(key=lambda u: u.duration or 0.0)  # programs are compiled for few lengths at a time
        for number, utterance in enumerate(chosen, 1):
            try:
                alignment = align(utterance.audio, utterance.text, model=bundle, keep_evidence=False)
                found += cut(utterance, alignment, args.longest, args.surest)
            except GradalignError as error:
                print(f"{utterance.id} left out: {error}", file=sys.stderr)
            if number % 100 == 0 or number == len(chosen):
                spoken = sum(u.duration or 0.0 for u in found) / 60
                print(f"{number}/{len(chosen)} utterances, {len(found)} parts, {spoken:.1f} min", file=sys.stderr)
        if not found:
            raise GradalignError(f"{args.corpus}: of no part all words were sure; try a smaller --surest")
        write(found, target, overwrite=args.overwrite)
    except GradalignError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
